//! What outlives a shift: flows that stay with the old targets although the weights are new. Named before the shift starts, each
//! with what helps. Nothing here holds a shift up.
//!
//! An Application Load Balancer chooses the target group anew for each request, also on a connection that is kept open; what it
//! has chosen stays chosen until that request or stream is over (AWS, "Listener rules" and "Sticky sessions for your Application
//! Load Balancer"). Tests: `core/tests/shift_notes.rs`.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{Move, weights};
use crate::{
    ids::{ClusterName, PolicyKey},
    observed::{Action, Observed},
    policy::PolicyRecord,
    status::PolicyStatus,
};

/// What kind of flow it is; stable words for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FlowReason {
    /// Requests, streams and WebSockets that are open when the weights change.
    OpenStreams,
    /// The rule sends clients with a cookie back to the group they had.
    GroupStickiness,
    /// A target group sends clients with a cookie back to the target they had.
    TargetStickiness,
    /// The load balancer routes connections, not requests.
    OpenConnections,
}

impl fmt::Display for FlowReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Something that outlives a shift.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowNote {
    /// The policy.
    pub policy: PolicyKey,
    /// The cluster it is about; none: all that lose traffic.
    pub cluster: Option<ClusterName>,
    /// For programs.
    pub reason: FlowReason,
    /// For people: what stays where, for how long, and what helps.
    pub message: String,
}

/// What stays with the clusters that lose traffic by this move. With the status and what was observed, stickiness that somebody
/// turned on is found too; without them only what is always so is said.
pub fn long_flows(
    record: &PolicyRecord,
    one: &Move,
    status: Option<&PolicyStatus>,
    observed: Option<&Observed>,
) -> Vec<FlowNote> {
    let losing = weights::gaining(&one.to, &one.from);
    if losing.is_empty() {
        return Vec::new();
    }
    let note = |cluster, reason, message| FlowNote { policy: record.policy.key.clone(), cluster, reason, message };
    let mut notes = vec![note(None, FlowReason::OpenStreams, open_streams(record, &losing))];
    let (Some(status), Some(observed)) = (status, observed) else { return notes };
    if is_network(status, observed) {
        let message = "the load balancer is a Network Load Balancer: connections that are open stay with their targets until they \
                       are closed, whatever the weights; let clients connect again, or close connections at the targets"
            .to_owned();
        notes.push(note(None, FlowReason::OpenConnections, message));
    }
    if let Some(seconds) = group_stickiness(status, observed) {
        let message = format!(
            "the rule has group stickiness of {seconds} s, which this hub never sets: clients that hold its cookie stay with \
             their cluster for up to {seconds} s whatever the weights, until the hub's next write of the rule turns it off; \
             find out who turned it on"
        );
        notes.push(note(None, FlowReason::GroupStickiness, message));
    }
    for (cluster, group, seconds) in sticky_groups(status, observed) {
        let message = format!(
            "target group {group} of {cluster} has sticky sessions of {seconds} s, which this hub never sets: AWS wants group \
             stickiness in a rule with such a group and several groups, so it may refuse new weights; set the group's \
             attribute stickiness.enabled to false first"
        );
        notes.push(note(Some(cluster), FlowReason::TargetStickiness, message));
    }
    notes
}

fn open_streams(record: &PolicyRecord, losing: &BTreeSet<ClusterName>) -> String {
    let clusters = losing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let streams = match record.policy.protocol_version.as_str() {
        "GRPC" => "gRPC streams",
        _ => "WebSockets and other streams",
    };
    let seconds = record.policy.deregistration_delay_seconds;
    format!(
        "new weights are for new requests, also on connections that are kept open; requests under way and {streams} that are \
         open with {clusters} stay there until they end. Before the pods there go, close streams at the server so that \
         clients connect again; once a pod is deregistered the load balancer waits up to {seconds} s for it \
         (spec.backend.deregistrationDelaySeconds)"
    )
}

fn is_network(status: &PolicyStatus, observed: &Observed) -> bool {
    let listener = status.rule.as_ref().and_then(|rule| observed.listeners.get(&rule.listener));
    let load_balancer = listener.and_then(|listener| observed.load_balancers.get(&listener.load_balancer));
    load_balancer.is_some_and(|load_balancer| load_balancer.kind == "network")
}

fn group_stickiness(status: &PolicyStatus, observed: &Observed) -> Option<u32> {
    let place = status.rule.as_ref()?;
    let rule = observed.listeners.get(&place.listener)?.rules.get()?.get(place.rule.as_ref()?)?;
    match &rule.action {
        Action::Forward { stickiness_seconds, .. } => *stickiness_seconds,
        Action::Other => None,
    }
}

/// Of all clusters: one group with it is enough for a refusal.
fn sticky_groups<'a>(
    status: &'a PolicyStatus,
    observed: &'a Observed,
) -> impl Iterator<Item = (ClusterName, &'a str, u32)> {
    status.clusters.iter().filter_map(|cluster| {
        let group = observed.target_groups.get(cluster.target_group.as_ref()?)?;
        let seconds = group.stickiness_seconds.get().copied().flatten()?;
        Some((cluster.cluster.clone(), group.name.as_str(), seconds))
    })
}
