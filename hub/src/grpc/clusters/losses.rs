//! What the loss of a cluster would do, policy by policy, and which of these losses are not taken without force. Pure.
//! Tests: `hub/tests/grpc_fleet.rs`.

use std::{cmp::Reverse, collections::BTreeMap};

use switchyard_core::{
    fleet::{
        MOST_PROGRESS,
        forecast::{Forecast, Verdict},
    },
    ids::{ClusterName, PolicyKey},
};
use switchyard_proto::api::v1 as proto;

use crate::{
    feed::Policies,
    grpc::{convert::to_proto_ref, convert_fleet::to_proto_forecast, errors::ApiError},
};

/// By policy.
pub type Losses = BTreeMap<PolicyKey, Forecast>;

/// One policy that others cannot carry.
#[derive(Clone, Debug)]
pub struct Uncarried {
    /// Which.
    pub policy: PolicyKey,
    /// [`Verdict::Overloaded`] or [`Verdict::NotCarried`].
    pub verdict: Verdict,
    /// With its numbers.
    pub message: String,
}

impl Uncarried {
    /// The verdict as a word for programs.
    pub fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Untouched => "Untouched",
            Verdict::Carried => "Carried",
            Verdict::Unproven => "Unproven",
            Verdict::Overloaded => "Overloaded",
            Verdict::NotCarried => "NotCarried",
        }
    }
}

/// In the order of the policies; past [`MOST_PROGRESS`] of them those that fare best are left out.
pub fn shown(losses: &Losses) -> Vec<proto::PolicyForecast> {
    let mut worst: Vec<(&PolicyKey, &Forecast)> = losses.iter().collect();
    worst.sort_by_key(|(policy, forecast)| (Reverse(forecast.verdict), *policy));
    worst.truncate(MOST_PROGRESS);
    worst.sort_by_key(|(policy, _)| *policy);
    worst.into_iter().map(|(policy, forecast)| to_proto_forecast(policy, forecast)).collect()
}

/// In place of a forecast that could not be made: each policy that names the cluster, without a verdict, and why.
pub fn missing(cluster: &ClusterName, policies: &Policies, why: &str) -> Vec<proto::PolicyForecast> {
    let named = policies.iter().filter(|(_, stored)| {
        let record = &stored.record;
        record.deleting_since.is_none() && record.policy.clusters.iter().any(|(name, _)| name == cluster)
    });
    let unknown = |policy: &PolicyKey| proto::PolicyForecast {
        policy: Some(to_proto_ref(policy)),
        verdict: proto::ForecastVerdict::Unspecified.into(),
        reason: "NotPlanned".to_owned(),
        message: why.to_owned(),
        clusters: Vec::new(),
    };
    named.take(MOST_PROGRESS).map(|(policy, _)| unknown(policy)).collect()
}

/// A game day is an exercise: where it would cost requests, it is not begun.
///
/// # Errors
/// [`ApiError::LossNotCarried`] with every policy that others cannot carry.
pub fn must_be_carried(cluster: &ClusterName, losses: &Losses) -> Result<(), ApiError> {
    let costs = losses.iter().filter(|(_, forecast)| match forecast.verdict {
        Verdict::Overloaded | Verdict::NotCarried => true,
        Verdict::Untouched | Verdict::Carried | Verdict::Unproven => false,
    });
    let uncarried: Vec<Uncarried> = costs
        .map(|(policy, forecast)| Uncarried {
            policy: policy.clone(),
            verdict: forecast.verdict,
            message: forecast.message.clone(),
        })
        .collect();
    if uncarried.is_empty() {
        return Ok(());
    }
    Err(ApiError::LossNotCarried { cluster: cluster.clone(), all: losses.len(), uncarried })
}

#[cfg(test)]
mod tests {
    use switchyard_core::status::Reason;

    use super::*;

    fn losses(verdicts: &[(&str, Verdict)]) -> Losses {
        let one = |(name, verdict): &(&str, Verdict)| {
            let forecast = Forecast {
                verdict: *verdict,
                reason: Reason::FailedOver,
                message: format!("{name} says why"),
                clusters: Vec::new(),
            };
            (PolicyKey::new("shop", *name).unwrap(), forecast)
        };
        verdicts.iter().map(one).collect()
    }

    #[test]
    fn an_exercise_is_refused_where_it_would_cost_requests_and_names_what_would_pay() {
        let blue: ClusterName = "blue".parse().unwrap();
        let fine = [("a", Verdict::Untouched), ("b", Verdict::Carried), ("c", Verdict::Unproven)];
        assert!(must_be_carried(&blue, &losses(&fine)).is_ok());
        let mut some = fine.to_vec();
        some.extend([("d", Verdict::Overloaded), ("e", Verdict::NotCarried)]);
        match must_be_carried(&blue, &losses(&some)) {
            Err(ApiError::LossNotCarried { cluster, all, uncarried }) => {
                assert_eq!((cluster.as_str(), all), ("blue", 5));
                let named: Vec<_> = uncarried.iter().map(|one| (one.policy.to_string(), one.verdict)).collect();
                assert_eq!(
                    named,
                    [("shop/d".to_owned(), Verdict::Overloaded), ("shop/e".to_owned(), Verdict::NotCarried)]
                );
                assert_eq!(uncarried[0].message, "d says why");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_very_many_policies_the_worst_are_shown_in_their_order() {
        let names: Vec<String> = (0..MOST_PROGRESS + 10).map(|i| format!("p{i:05}")).collect();
        let mut verdicts: Vec<(&str, Verdict)> = names.iter().map(|name| (name.as_str(), Verdict::Unproven)).collect();
        for at in [3, 500, MOST_PROGRESS + 9] {
            verdicts[at].1 = Verdict::NotCarried;
        }
        let shown = shown(&losses(&verdicts));
        assert_eq!(shown.len(), MOST_PROGRESS);
        let named: Vec<&str> = shown.iter().map(|one| one.policy.as_ref().unwrap().name.as_str()).collect();
        assert!(named.is_sorted());
        let worst = shown.iter().filter(|one| one.verdict() == proto::ForecastVerdict::NotCarried).count();
        assert_eq!(worst, 3, "none of them is left out");
    }
}
