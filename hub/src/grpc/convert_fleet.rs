//! From what is known and wanted of whole clusters to protobuf, as free functions. Pure.

use switchyard_core::{
    fleet::{
        ClusterState, Kind, MOST_PROGRESS, Mode, Progress,
        forecast::{ClusterForecast, Forecast, Verdict},
    },
    ids::{ClusterName, PolicyKey, Weight},
    inventory,
    policy::spec,
    status::Reason,
};
use switchyard_proto::api::v1 as proto;

use super::convert::{to_proto_link, to_proto_ref, to_proto_time};
use crate::store::ClusterInfo;

/// What is known of a cluster.
pub struct ClusterParts<'a> {
    /// Its name.
    pub name: &'a ClusterName,
    /// What its agent announced; none: no agent of it is known.
    pub announced: Option<&'a inventory::Cluster>,
    /// When it was heard of.
    pub info: Option<&'a ClusterInfo>,
    /// What operators want of it; none: nobody ever asked for anything.
    pub state: Option<&'a ClusterState>,
    /// Endpoints that are present.
    pub endpoints: u32,
}

/// A member cluster.
pub fn to_proto_cluster(parts: &ClusterParts<'_>) -> proto::Cluster {
    let ClusterParts { name, announced, info, state, endpoints } = *parts;
    let problems = announced.into_iter().flat_map(|cluster| &cluster.problems).map(|problem| proto::SourceProblem {
        namespace: problem.namespace.clone(),
        kind: problem.kind.clone(),
        message: problem.message.clone(),
    });
    let policies = info.and_then(|info| info.policies_failing.clone()).map(|message| proto::SourceProblem {
        namespace: String::new(),
        kind: spec::KIND.to_owned(),
        message,
    });
    let mode = state.map_or(Mode::Active, |state| state.mode);
    let link = match mode {
        Mode::Removed => proto::ClusterLink::Removed,
        Mode::Active | Mode::Cordoned | Mode::Draining | Mode::Drained | Mode::Returning => {
            to_proto_link(announced.map(|cluster| cluster.link))
        }
    };
    proto::Cluster {
        name: name.to_string(),
        region: announced.map(|cluster| cluster.region.clone()).unwrap_or_default(),
        vpc_id: announced.map(|cluster| cluster.vpc_id.to_string()).unwrap_or_default(),
        link: link.into(),
        last_seen: info.and_then(|info| info.last_seen).map(to_proto_time),
        agent_version: info.map(|info| info.agent_version.clone()).unwrap_or_default(),
        endpoints,
        problems: problems.chain(policies).collect(),
        mode: to_proto_mode(mode).into(),
        operation: state.map(to_proto_operation),
    }
}

/// What operators want of a cluster.
pub fn to_proto_mode(mode: Mode) -> proto::ClusterMode {
    match mode {
        Mode::Active => proto::ClusterMode::Active,
        Mode::Cordoned => proto::ClusterMode::Cordoned,
        Mode::Draining => proto::ClusterMode::Draining,
        Mode::Drained => proto::ClusterMode::Drained,
        Mode::Returning => proto::ClusterMode::Returning,
        Mode::Removed => proto::ClusterMode::Removed,
    }
}

fn to_proto_kind(kind: Kind) -> proto::ClusterOperationKind {
    match kind {
        Kind::Cordon => proto::ClusterOperationKind::Cordon,
        Kind::Drain => proto::ClusterOperationKind::Drain,
        Kind::Uncordon => proto::ClusterOperationKind::Uncordon,
        Kind::Remove => proto::ClusterOperationKind::Remove,
        Kind::Drill => proto::ClusterOperationKind::Drill,
    }
}

fn to_proto_operation(state: &ClusterState) -> proto::ClusterOperation {
    let operation = &state.operation;
    proto::ClusterOperation {
        id: operation.id.clone(),
        kind: to_proto_kind(operation.kind).into(),
        actor: operation.actor.clone(),
        reason: operation.reason.clone(),
        started_at: Some(to_proto_time(operation.started_at)),
        until: operation.until.map(to_proto_time),
        ended_at: operation.ended_at.map(to_proto_time),
        percent: state.percent,
        step_percent: operation.step_percent,
        step_seconds: operation.step_seconds,
        force: operation.force,
        why: operation.why.to_string(),
        message: operation.message.clone(),
        progress: operation.progress.iter().take(MOST_PROGRESS).map(to_proto_progress).collect(),
        version: state.version,
    }
}

fn to_proto_progress(progress: &Progress) -> proto::PolicyProgress {
    let reason = match progress.reason {
        Reason::AsRequested => String::new(),
        reason => reason.to_string(),
    };
    proto::PolicyProgress {
        policy: Some(to_proto_ref(&progress.policy)),
        done: progress.done,
        programmed_weight: progress.programmed.map(Weight::get),
        targets: progress.targets,
        reason,
        message: progress.message.clone(),
    }
}

/// What the loss of a cluster does to one policy.
pub fn to_proto_forecast(policy: &PolicyKey, forecast: &Forecast) -> proto::PolicyForecast {
    let reason = match forecast.reason {
        Reason::AsRequested => String::new(),
        reason => reason.to_string(),
    };
    proto::PolicyForecast {
        policy: Some(to_proto_ref(policy)),
        verdict: to_proto_verdict(forecast.verdict).into(),
        reason,
        message: forecast.message.clone(),
        clusters: forecast.clusters.iter().map(to_proto_cluster_forecast).collect(),
    }
}

fn to_proto_verdict(verdict: Verdict) -> proto::ForecastVerdict {
    match verdict {
        Verdict::Untouched => proto::ForecastVerdict::Untouched,
        Verdict::Carried => proto::ForecastVerdict::Carried,
        Verdict::Unproven => proto::ForecastVerdict::Unproven,
        Verdict::Overloaded => proto::ForecastVerdict::Overloaded,
        Verdict::NotCarried => proto::ForecastVerdict::NotCarried,
    }
}

fn to_proto_cluster_forecast(one: &ClusterForecast) -> proto::ClusterForecast {
    proto::ClusterForecast {
        cluster: one.cluster.to_string(),
        weight_before: one.before.get(),
        weight_after: one.after.get(),
        share_before_permille: one.share_before,
        share_after_permille: one.share_after,
        healthy_targets: one.healthy,
        capacity_permille: one.capacity,
    }
}

#[cfg(test)]
#[path = "convert_fleet_tests.rs"]
mod tests;
