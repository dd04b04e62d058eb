//! What failover remembers of one policy between two plans. All of it can be lost: then what is seen next is taken as it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::score::Expected;
use crate::ids::{ClusterName, Weight};

/// Of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Of each cluster.
    pub clusters: BTreeMap<ClusterName, ClusterMemory>,
    /// When shares were moved for health within the last hour, oldest first.
    pub moves: Vec<Timestamp>,
    /// What was decided last.
    pub decided: Option<LastDecision>,
    /// Since when no cluster looks healthy.
    pub panic_since: Option<Timestamp>,
}

/// Of one cluster of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMemory {
    /// How many targets it should have, by zone.
    pub expected: BTreeMap<String, Expected>,
    /// The score that is used, 0..=1000; none: it was never seen.
    pub used: Option<u32>,
    /// While it returns: the most of its share that it gets, in thousandths.
    pub limit: Option<u32>,
    /// When that was last raised.
    pub stepped_at: Option<Timestamp>,
    /// Since when it looks other than what is used, and in which direction.
    pub pending: Option<PendingSince>,
    /// Since when it carries less than its share.
    pub out_since: Option<Timestamp>,
    /// It returned in part since it went out: what comes next is another incident.
    pub returned: bool,
    /// When it went out within the last hour, oldest first.
    pub outs: Vec<Timestamp>,
}

/// A change that has not lasted long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSince {
    /// For the better.
    pub back: bool,
    /// By the reading that showed it first.
    pub since: Timestamp,
}

/// By cluster: requested weight, weight as a standby, and the ceiling in thousandths, one more than a whole without one.
pub type Asked = BTreeMap<ClusterName, (Weight, Weight, u32)>;

/// The last decision, kept where a new one would be too small a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDecision {
    /// What was asked for, and what operators wanted: one (requested, standby weight, ceiling) a cluster.
    pub asked: Asked,
    /// In thousandths of a thousandth.
    pub shares: BTreeMap<ClusterName, u32>,
    /// What came of it.
    pub weights: BTreeMap<ClusterName, Weight>,
    /// When.
    pub at: Timestamp,
}
