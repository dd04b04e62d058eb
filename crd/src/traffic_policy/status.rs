//! The status of a ClusterTrafficPolicy, for its schema: what the agent writes (`agent/src/policies/status.rs`, which knows
//! nothing of this crate; `crd/tests/status.rs` holds the two together). Bounds are few on purpose: a status that the server
//! refuses would be one that nobody sees.

#![expect(dead_code, reason = "only the schema of the types is of use")]

use schemars::JsonSchema;

use crate::condition::Condition;

/// What is in force, written by the agent of this cluster.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The generation of this resource that the condition Accepted speaks of.
    observed_generation: Option<i64>,
    /// Whether this resource is the policy of its namespace and name.
    claim: Option<Claim>,
    /// The generation of this resource that is in force. It is older than the present one while that is not valid.
    generation_in_force: Option<i64>,
    /// Weights that are asked for, such as `blue=90,green=10`: those of the spec, or those that were set with yardctl.
    weights: Option<String>,
    /// Weights as read back from the load balancer, in the same form.
    programmed: Option<String>,
    /// Why it is not served as asked: the reason of the first condition that is not True, else that of Converged.
    reason: Option<String>,
    /// Accepted (valid and in force), ResolvedRefs (all that is named was found), Programmed (read back from the load balancer),
    /// Converged (served: programmed for the settle time), FailedOver (other weights than asked for, for the health of clusters).
    conditions: Option<Vec<Condition>>,
    /// Each cluster of the policy.
    clusters: Option<Vec<Cluster>>,
    /// The listener rule.
    rule: Option<Rule>,
    /// What is held, waits, or differs from what was asked, and why.
    notes: Option<Vec<Note>>,
}

/// Whether a resource is the policy of its name.
#[derive(JsonSchema)]
enum Claim {
    /// It is.
    Owner,
    /// Its spec is not valid, and nothing of it is in force.
    Refused,
    /// Somebody else owns the policy of this name; the condition Accepted names the owner.
    Waiting,
}

/// One cluster of the policy.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Cluster {
    /// Its name.
    name: String,
    /// The weight that is asked for, 0 to 999.
    requested_weight: Option<u32>,
    /// The weight that the hub wants programmed.
    effective_weight: Option<u32>,
    /// The weight as read back; left out when nothing is programmed or it is not known.
    programmed_weight: Option<u32>,
    /// Why the effective weight differs from the requested one, in one word for programs.
    reason: Option<String>,
    /// The same for people.
    message: Option<String>,
    /// Its target group.
    target_group_arn: Option<String>,
    /// How its agent stands: Connected, Syncing or Stale.
    link: Option<String>,
    /// Its targets by what the load balancer says of them.
    targets: Option<Targets>,
}

/// Counts of targets.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Targets {
    /// Should be registered.
    desired: Option<u32>,
    /// Are registered.
    registered: Option<u32>,
    /// Pass the load balancer's health check.
    healthy: Option<u32>,
    /// Fail it.
    unhealthy: Option<u32>,
    /// Are not judged yet.
    initial: Option<u32>,
    /// Are on their way out.
    draining: Option<u32>,
    /// Are not judged, since no rule uses the group.
    unused: Option<u32>,
    /// Are kept by a safety rule though nobody wants them.
    held: Option<u32>,
}

/// The listener rule.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Rule {
    /// The listener.
    listener_arn: Option<String>,
    /// The rule.
    rule_arn: Option<String>,
    /// Its priority.
    priority: Option<u32>,
    /// When the present weights were first read back.
    #[schemars(extend("format" = "date-time"))]
    programmed_at: Option<String>,
}

/// Why something is held, waits, or differs.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Note {
    /// The cluster; left out when it is about the whole policy.
    cluster: Option<String>,
    /// In one word for programs.
    reason: Option<String>,
    /// For people.
    message: Option<String>,
}
