//! The status of a ClusterTrafficPolicy resource as the agent writes it, and how it is compared with what the resource shows.
//!
//! Reading is lenient: a status that makes no sense reads as an empty one, and is then written anew.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    events::{self, Draft},
    objects::{MAX_SPEC_BYTES, Shown},
};

/// The condition types that the agent writes. Those of others on the same resource are neither compared nor touched.
pub const CONDITION_TYPES: [&str; 5] = ["Accepted", "ResolvedRefs", "Programmed", "Converged", "FailedOver"];

/// The status, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceStatus {
    /// The generation that Accepted speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// Whether this resource is the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The generation in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_in_force: Option<u64>,
    /// Requested weights for one column, such as `blue=90,green=10`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Weights as read back from the load balancer, in the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed: Option<String>,
    /// For one column: the reason of the first condition that is not True, else that of Converged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// As in Kubernetes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Per cluster of the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Cluster>,
    /// The listener rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// What is held, waits, or differs from what was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// Whether a resource is the policy of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// It is.
    Owner,
    /// Its spec is not valid, and nothing of it is in force.
    Refused,
    /// Somebody else owns the policy of this name.
    Waiting,
}

/// A condition as in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation it speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// When `status` last changed, RFC 3339 in UTC, whole seconds.
    pub last_transition_time: String,
}

/// One cluster of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// As asked for, 0 to 999.
    pub requested_weight: u32,
    /// As the hub wants it programmed.
    pub effective_weight: u32,
    /// As read back; None when nothing is programmed or it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed_weight: Option<u32>,
    /// Why effective differs from requested.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its target group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_group_arn: String,
    /// How its agent stands.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// Its targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

/// Counts of targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    /// Should be registered.
    pub desired: u32,
    /// Are registered.
    pub registered: u32,
    /// Of the registered.
    pub healthy: u32,
    /// Of the registered.
    pub unhealthy: u32,
    /// Not judged yet.
    pub initial: u32,
    /// On their way out.
    pub draining: u32,
    /// Not judged, since no rule uses the group.
    pub unused: u32,
    /// Kept by a safety rule.
    pub held: u32,
}

/// The listener rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The listener.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener_arn: String,
    /// The rule.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule_arn: String,
    /// Its priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// When the present weights were first read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed_at: Option<String>,
}

/// Why something is held, waits, or differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Empty: the whole policy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Shown for ResourceStatus {
    const KIND: &'static str = "ClusterTrafficPolicy";
    const PLURAL: &'static str = "clustertrafficpolicies";
    const DEFINITION: &'static str = "clustertrafficpolicies.switchyard.dev";
    const NOUN: &'static str = "Policies";

    fn parse(shown: Value) -> Self {
        let mut status: Self = serde_json::from_value(shown).unwrap_or_default();
        status.conditions.retain(|condition| CONDITION_TYPES.contains(&condition.kind.as_str()));
        status
    }

    /// The API server may keep items of a list in another order.
    fn shows(&self, wanted: &Self) -> bool {
        self == wanted || self.in_order() == wanted.in_order()
    }

    fn events(before: &Self, now: &Self) -> Vec<Draft> {
        events::decide(before, now)
    }

    /// The hub cannot say what is wrong with a spec that it never saw.
    fn of_too_large(mut self, bytes: usize) -> Self {
        let refused = |condition: &&mut Condition| condition.kind == "Accepted" && condition.status == "False";
        for condition in self.conditions.iter_mut().filter(refused) {
            condition.message = format!(
                "spec has {bytes} bytes as JSON and at most {MAX_SPEC_BYTES} are taken; use fewer or shorter values, or several policies"
            );
        }
        self
    }
}

impl ResourceStatus {
    fn in_order(&self) -> Self {
        let mut ordered = self.clone();
        ordered.conditions.sort_by(|left, right| left.kind.cmp(&right.kind));
        ordered.clusters.sort_by(|left, right| left.name.cmp(&right.name));
        ordered.notes.sort();
        ordered
    }

    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// True when the condition of this type is True.
    #[must_use]
    pub fn is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == "True")
    }

    /// Fills the columns from clusters and conditions.
    #[must_use]
    pub fn with_columns(mut self) -> Self {
        self.weights = column(&self.clusters, |cluster| Some(cluster.requested_weight));
        self.programmed = column(&self.clusters, |cluster| cluster.programmed_weight);
        // Each builds on the one before it: what is not accepted is not programmed either, and the first says why.
        let ladder = ["Accepted", "ResolvedRefs", "Programmed", "Converged"];
        let known = || ladder.iter().filter_map(|kind| self.condition(kind));
        let told = known().find(|condition| condition.status != "True").or_else(|| known().next_back());
        self.reason = told.map(|condition| condition.reason.clone()).filter(|reason| !reason.is_empty());
        self
    }
}

/// `blue=90,green=10`; None when there is nothing to show.
fn column(clusters: &[Cluster], weight: impl Fn(&Cluster) -> Option<u32>) -> Option<String> {
    let mut text = String::new();
    for cluster in clusters {
        let Some(weight) = weight(cluster) else { continue };
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = write!(text, "{comma}{}={weight}", cluster.name);
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(name: &str, requested: u32, programmed: Option<u32>) -> Cluster {
        Cluster {
            name: name.to_owned(),
            requested_weight: requested,
            effective_weight: requested,
            programmed_weight: programmed,
            ..Cluster::default()
        }
    }

    #[test]
    fn the_columns_show_what_was_asked_and_what_was_read_back() {
        let clusters = vec![cluster("blue", 90, Some(100)), cluster("green", 10, None)];
        let status = ResourceStatus { clusters, ..ResourceStatus::default() }.with_columns();
        assert_eq!(status.weights.as_deref(), Some("blue=90,green=10"));
        assert_eq!(status.programmed.as_deref(), Some("blue=100"));
        assert_eq!(ResourceStatus::default().with_columns().programmed, None);
    }

    #[test]
    fn the_column_of_reasons_tells_of_the_first_condition_that_does_not_hold() {
        let condition = |kind: &str, status: &str, reason: &str| Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            ..Condition::default()
        };
        let reason = |conditions: Vec<Condition>| {
            ResourceStatus { conditions, ..ResourceStatus::default() }.with_columns().reason
        };
        let converged = condition("Converged", "False", "Settling");
        let refused = condition("Accepted", "False", "InvalidSpec");
        let accepted = condition("Accepted", "True", "AsRequested");
        assert_eq!(reason(vec![converged.clone(), refused]).as_deref(), Some("InvalidSpec"));
        assert_eq!(reason(vec![converged, accepted.clone()]).as_deref(), Some("Settling"));
        assert_eq!(reason(vec![condition("Converged", "True", "Served"), accepted]).as_deref(), Some("Served"));
        assert_eq!(reason(vec![condition("FailedOver", "False", "NotFailedOver")]), None);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let condition = Condition {
            kind: "Accepted".to_owned(),
            status: "True".to_owned(),
            reason: "AsRequested".to_owned(),
            message: "stored".to_owned(),
            observed_generation: Some(3),
            last_transition_time: "2026-01-02T03:04:05Z".to_owned(),
        };
        let status = ResourceStatus {
            observed_generation: Some(3),
            claim: Some(Claim::Owner),
            generation_in_force: Some(3),
            conditions: vec![condition],
            clusters: vec![Cluster { targets: Some(Targets::default()), ..cluster("blue", 1, Some(1)) }],
            rule: Some(Rule { rule_arn: "arn:rule".to_owned(), ..Rule::default() }),
            notes: vec![Note { cluster: String::new(), reason: "Settling".to_owned(), message: "wait".to_owned() }],
            ..ResourceStatus::default()
        }
        .with_columns();
        let written = serde_json::to_value(&status).expect("JSON");
        assert_eq!(written["conditions"][0]["type"], "Accepted");
        assert_eq!(written["clusters"][0]["requestedWeight"], 1);
        assert_eq!(written["claim"], "Owner");
        assert_eq!(ResourceStatus::parse(written), status);
    }

    #[test]
    fn conditions_of_others_and_the_order_of_lists_are_no_difference() {
        let wanted = ResourceStatus {
            conditions: vec![
                Condition { kind: "Accepted".to_owned(), ..Condition::default() },
                Condition { kind: "Programmed".to_owned(), ..Condition::default() },
            ],
            ..ResourceStatus::default()
        };
        let mut shown = serde_json::to_value(&wanted).expect("JSON");
        let conditions = shown["conditions"].as_array_mut().expect("a list");
        conditions.reverse();
        conditions.push(json!({"type": "example.com/Reviewed", "status": "True"}));
        assert!(ResourceStatus::parse(shown).shows(&wanted));
        assert!(!ResourceStatus::default().shows(&wanted));
    }

    #[test]
    fn a_status_that_makes_no_sense_reads_as_an_empty_one() {
        for nonsense in [json!(null), json!("text"), json!({"conditions": 7}), json!({"claim": "Perhaps"})] {
            assert_eq!(ResourceStatus::parse(nonsense), ResourceStatus::default());
        }
    }
}
