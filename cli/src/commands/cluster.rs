//! `cordon`, `drain`, `uncordon`, `remove` and `drill cluster-loss`: one call about a whole cluster, and the wait for its end.

use std::time::Duration;

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;

use super::{
    Context,
    cluster_follow::{self, budget},
    follow::Waited,
    request_id,
    shift::tell,
};
use crate::{
    args::{Bring, ClusterLoss, Cordon, Drain, OfCluster},
    cluster_wait::state_line,
    error::{Exit, Failure, Kind},
    finding::Crossing,
    hub::Hub,
    model::{Cluster, Forecast, Verdict},
    output::{progress, write},
    render,
    text::plain,
};

/// What `-o json|yaml` shows of one call.
#[derive(Serialize)]
struct Operated {
    request_id: String,
    dry_run: bool,
    /// Nothing for a dry run.
    cluster: Option<Cluster>,
    /// What it does to each policy, for a drain and a drill.
    forecast: Vec<Forecast>,
    wait: Option<Waited>,
}

/// One call under way.
struct Call<'a> {
    context: &'a Context,
    started: Instant,
    /// `drain`, and how the call is named.
    word: &'static str,
    noun: &'static str,
    of: OfCluster,
    request_id: String,
}

impl<'a> Call<'a> {
    fn new(context: &'a Context, [word, noun]: [&'static str; 2], of: OfCluster) -> Self {
        let request_id = request_id(of.request_id.clone());
        Self { context, started: Instant::now(), word, noun, of, request_id }
    }

    fn what(&self) -> String {
        format!("cannot {} {}", self.word, self.of.cluster)
    }

    fn kind(&self, dry_run: bool) -> Kind<'_> {
        if dry_run { Kind::Read } else { Kind::Write { request_id: &self.request_id } }
    }

    /// A wait may be cut off by the CD system: then the log must hold the id that makes repeating safe.
    fn hub(&self, wait: bool) -> Result<Hub, Failure> {
        if wait {
            progress(&format!("asking for {} of {}, request {}", self.noun, self.of.cluster, self.request_id));
        }
        self.context.hub(wait)
    }

    /// The remedies of policies do not help with clusters.
    fn about_cluster(&self, failure: Failure) -> Failure {
        let cluster = &self.of.cluster;
        let remedy = match failure.exit {
            Exit::Conflict if !failure.findings.is_empty() => {
                let remedy = format!("nothing was changed; look with `yardctl get clusters {cluster}`");
                return Failure { crossing: Crossing::Cluster, remedy, ..failure };
            }
            Exit::NotFound => "look for the right name with `yardctl get clusters`".to_owned(),
            Exit::Conflict => format!("look with `yardctl get clusters {cluster}`, then decide again"),
            _ => return failure,
        };
        Failure { remedy, ..failure }
    }

    fn answered(&self, cluster: Option<pb::Cluster>) -> Result<Cluster, Failure> {
        cluster.map(Cluster::from).ok_or_else(|| {
            Failure::new(Exit::Internal, self.what(), "the hub answered without a cluster", "look into the hub's log")
        })
    }

    /// Shows what was answered, waits if asked to, then tells how the wait failed.
    async fn finish(
        self,
        hub: &Hub,
        cluster: Cluster,
        forecast: Vec<Forecast>,
        wait: Option<Duration>,
    ) -> Result<Option<Exit>, Failure> {
        let lost = self.of.cluster.clone();
        let table = self.context.output.is_table();
        if table && !forecast.is_empty() {
            // Before the wait: people want to know what they have asked for.
            write(&render::forecast(&lost, &forecast, self.context.output.paint))?;
        }
        let mut operated =
            Operated { request_id: self.request_id, dry_run: false, cluster: Some(cluster), forecast, wait: None };
        let mut failure = None;
        if let (Some(budget), Some(cluster)) = (wait, &operated.cluster) {
            let budget = self.context.global.timeout.unwrap_or(budget);
            let end = cluster_follow::wait_for(hub, cluster, self.started + budget, &operated.request_id).await;
            operated.cluster = Some(end.last);
            operated.wait = Some(end.waited);
            failure = end.failure;
        }
        self.context.output.show(&operated, |_, _| summary(&operated))?;
        Ok(tell(failure))
    }

    /// A dry run ends as somebody who depends on the cluster would want it to.
    fn show_forecast(self, forecast: Vec<Forecast>, force: bool) -> Result<Option<Exit>, Failure> {
        let lost = self.of.cluster.clone();
        let what = format!("the loss of {lost} is not carried (dry run)");
        let operated = Operated { request_id: self.request_id, dry_run: true, cluster: None, forecast, wait: None };
        self.context.output.show(&operated, |paint, _| {
            format!("Dry run: nothing was changed.\n\n{}", render::forecast(&lost, &operated.forecast, paint))
        })?;
        Ok(tell(uncarried(&what, &operated.forecast, force)))
    }
}

/// The policies that stand in the way of doing without the cluster.
fn uncarried(what: &str, forecast: &[Forecast], force: bool) -> Option<Failure> {
    let bad = |forecast: &&Forecast| match forecast.verdict {
        Verdict::NotCarried | Verdict::Unspecified => true,
        Verdict::Overloaded => !force,
        Verdict::Untouched | Verdict::Carried | Verdict::Unproven => false,
    };
    let named: Vec<String> =
        forecast.iter().filter(bad).map(|forecast| format!("{} {}", forecast.policy, forecast.verdict)).collect();
    if named.is_empty() {
        return None;
    }
    let remedy =
        "give these policies another cluster, or more targets there, before this one goes; nothing was changed";
    Some(Failure::new(Exit::Conflict, what, named.join(", "), remedy))
}

fn summary(operated: &Operated) -> String {
    let Some(cluster) = &operated.cluster else { return String::new() };
    let wait = operated.wait.as_ref().map(|wait| format!("; {} {}", wait.condition, wait.outcome));
    let version = cluster.operation.as_ref().map(|operation| format!("version {}, ", operation.version));
    format!(
        "{} ({}request {}){}\n",
        plain(&state_line(cluster)),
        version.unwrap_or_default(),
        operated.request_id,
        wait.unwrap_or_default()
    )
}

pub async fn cordon(context: &Context, args: Cordon) -> Result<Option<Exit>, Failure> {
    let call = Call::new(context, ["cordon", "a cordon"], args.of);
    let hub = call.hub(false)?;
    let message = pb::CordonClusterRequest {
        request_id: call.request_id.clone(),
        cluster: call.of.cluster.clone(),
        reason: call.of.reason.clone(),
        expected_version: call.of.expected_version,
    };
    let send = async |channel, request| Hub::clusters(channel).cordon_cluster(request).await;
    let answer = hub.call(&call.what(), call.kind(false), message, send).await;
    let cluster = call.answered(answer.map_err(|failure| call.about_cluster(failure))?.cluster)?;
    call.finish(&hub, cluster, vec![], None).await
}

pub async fn drain(context: &Context, args: Drain) -> Result<Option<Exit>, Failure> {
    let call = Call::new(context, ["drain", "a drain"], args.of);
    let hub = call.hub(args.wait)?;
    let message = pb::DrainClusterRequest {
        request_id: call.request_id.clone(),
        cluster: call.of.cluster.clone(),
        reason: call.of.reason.clone(),
        expected_version: call.of.expected_version,
        step_percent: args.step.unwrap_or(0),
        step_seconds: args.interval,
        force: args.force,
        dry_run: args.dry_run,
    };
    let send = async |channel, request| Hub::clusters(channel).drain_cluster(request).await;
    let answer = hub.call(&call.what(), call.kind(args.dry_run), message, send).await;
    let answer = answer.map_err(|failure| call.about_cluster(failure))?;
    let forecast: Vec<Forecast> = answer.forecast.into_iter().map(Forecast::from).collect();
    if args.dry_run {
        return call.show_forecast(forecast, args.force);
    }
    let cluster = call.answered(answer.cluster)?;
    let wait = args.wait.then(|| budget(&cluster, Duration::ZERO));
    call.finish(&hub, cluster, forecast, wait).await
}

pub async fn uncordon(context: &Context, args: Bring) -> Result<Option<Exit>, Failure> {
    let call = Call::new(context, ["uncordon", "the return"], args.of);
    let hub = call.hub(args.wait)?;
    let message = pb::UncordonClusterRequest {
        request_id: call.request_id.clone(),
        cluster: call.of.cluster.clone(),
        reason: call.of.reason.clone(),
        expected_version: call.of.expected_version,
    };
    let send = async |channel, request| Hub::clusters(channel).uncordon_cluster(request).await;
    let answer = hub.call(&call.what(), call.kind(false), message, send).await;
    let cluster = call.answered(answer.map_err(|failure| call.about_cluster(failure))?.cluster)?;
    let wait = args.wait.then(|| budget(&cluster, Duration::ZERO));
    call.finish(&hub, cluster, vec![], wait).await
}

pub async fn remove(context: &Context, args: Bring) -> Result<Option<Exit>, Failure> {
    let call = Call::new(context, ["remove", "the removal"], args.of);
    let hub = call.hub(args.wait)?;
    let message = pb::RemoveClusterRequest {
        request_id: call.request_id.clone(),
        cluster: call.of.cluster.clone(),
        reason: call.of.reason.clone(),
        expected_version: call.of.expected_version,
    };
    let send = async |channel, request| Hub::clusters(channel).remove_cluster(request).await;
    let answer = hub.call(&call.what(), call.kind(false), message, send).await;
    let cluster = call.answered(answer.map_err(|failure| call.about_cluster(failure))?.cluster)?;
    let wait = args.wait.then(|| budget(&cluster, Duration::ZERO));
    call.finish(&hub, cluster, vec![], wait).await
}

pub async fn cluster_loss(context: &Context, args: ClusterLoss) -> Result<Option<Exit>, Failure> {
    let call = Call::new(context, ["drill the loss of", "a game day"], args.of);
    let hub = call.hub(args.wait)?;
    let seconds = args.duration.unwrap_or(0);
    let message = pb::DrillClusterLossRequest {
        request_id: call.request_id.clone(),
        cluster: call.of.cluster.clone(),
        reason: call.of.reason.clone(),
        expected_version: call.of.expected_version,
        dry_run: args.dry_run,
        duration_seconds: seconds,
        force: args.force,
    };
    let send = async |channel, request| Hub::clusters(channel).drill_cluster_loss(request).await;
    let answer = hub.call(&call.what(), call.kind(args.dry_run), message, send).await;
    let answer = answer.map_err(|failure| call.about_cluster(failure))?;
    let forecast: Vec<Forecast> = answer.forecast.into_iter().map(Forecast::from).collect();
    if args.dry_run {
        return call.show_forecast(forecast, args.force);
    }
    let cluster = call.answered(answer.cluster)?;
    let wait = args.wait.then(|| budget(&cluster, Duration::from_secs(seconds.into())));
    call.finish(&hub, cluster, forecast, wait).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(name: &str, verdict: Verdict) -> Forecast {
        let policy = crate::model::PolicyRef { namespace: "shop".into(), name: name.into() };
        Forecast { policy, verdict, ..Forecast::default() }
    }

    #[test]
    fn a_forecast_fails_where_a_share_is_not_carried_and_names_the_policies() {
        let good =
            [forecast("a", Verdict::Untouched), forecast("b", Verdict::Carried), forecast("c", Verdict::Unproven)];
        assert!(uncarried("x", &good, false).is_none());
        let over = [forecast("b", Verdict::Carried), forecast("d", Verdict::Overloaded)];
        let failure = uncarried("x", &over, false).unwrap();
        assert_eq!((failure.exit, failure.why.as_str()), (Exit::Conflict, "shop/d OVERLOADED"));
        assert!(uncarried("x", &over, true).is_none(), "with --force capacity is not asked");
        let lost = [forecast("e", Verdict::NotCarried), forecast("f", Verdict::Unspecified)];
        assert_eq!(uncarried("x", &lost, true).unwrap().why, "shop/e NOT CARRIED, shop/f unknown");
    }
}
