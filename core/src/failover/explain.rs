//! What a decision was made from and what came of it, for people and for the drills. Shares and scores are in thousandths.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fleet::Mode,
    ids::{ClusterName, Weight},
    inventory::Link,
    status::Reason,
};

/// How a policy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// `spec.failover` is not set, and weights are as asked for.
    #[default]
    Off,
    /// Weights are as asked for.
    AsRequested,
    /// They differ, by health or by what operators want of a cluster.
    FailedOver,
    /// No cluster looks healthy: nothing is changed.
    Panic,
}

/// One decision with its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// How the policy stands.
    pub standing: Standing,
    /// One sentence for people.
    pub message: String,
    /// In the order of the spec.
    pub clusters: Vec<ClusterExplanation>,
    /// By priority.
    pub levels: Vec<LevelExplanation>,
    /// Moves within the last hour.
    pub moves_last_hour: u32,
    /// 1..=60; 0: `spec.failover` is not set.
    pub max_moves_per_hour: u32,
    /// When the present weights were decided.
    pub decided_at: Option<Timestamp>,
    /// Zones without a healthy target in any cluster, left out of the scores.
    pub lost_zones: Vec<String>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterExplanation {
    /// Its name.
    pub cluster: ClusterName,
    /// Its level: 0 carries, above are standbys.
    pub priority: u32,
    /// What is asked for.
    pub requested: Weight,
    /// Its weight in its level while it is a standby.
    pub standby: Weight,
    /// What is decided.
    pub decided: Weight,
    /// As read back.
    pub programmed: Option<Weight>,
    /// How the hub stands with its agent.
    pub link: Option<Link>,
    /// What operators want of it.
    pub mode: Mode,
    /// The most of its share that operators leave it.
    pub ceiling: u32,
    /// Targets that it should have.
    pub expected: u32,
    /// Healthy by the load balancer.
    pub healthy: u32,
    /// Not judged yet, ready by the agent's word.
    pub unjudged: u32,
    /// Unhealthy by the load balancer.
    pub unhealthy: u32,
    /// False: its targets cannot be read now.
    pub known: bool,
    /// As seen now.
    pub score: u32,
    /// As used.
    pub used: u32,
    /// Of all requests, as decided.
    pub share: u32,
    /// Of all requests, as asked for.
    pub requested_share: u32,
    /// What its healthy targets can carry of the peak.
    pub capacity: Option<u32>,
    /// A change that has not lasted long enough.
    pub pending: Option<Pending>,
    /// Since when it carries less than its share for its health.
    pub out_since: Option<Timestamp>,
    /// How often it went out within the last hour.
    pub outs: u32,
    /// It does not return before.
    pub held_until: Option<Timestamp>,
    /// Why decided differs from requested; [`Reason::AsRequested`] when it does not.
    pub reason: Reason,
    /// The sentence for it.
    pub message: String,
}

/// A change that has not lasted long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// For the better.
    pub back: bool,
    /// Since when.
    pub since: Timestamp,
    /// When it counts if it lasts; none: when somebody lets it return.
    pub at: Option<Timestamp>,
}

/// One level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelExplanation {
    /// Its priority.
    pub priority: u32,
    /// What it can carry.
    pub health: u32,
    /// What it gets.
    pub load: u32,
}
