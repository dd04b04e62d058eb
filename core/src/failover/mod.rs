//! Failover: what the health of clusters and the wishes of operators make of the requested weights of one policy.
//!
//! Clusters stand in levels, as Envoy's priority levels: those with a requested weight are level 0, standbys follow by their
//! priority. [`score`] says how healthy a cluster is, `timing` when that counts (fast out, slow back), `share` who gets how much,
//! `room` who may get more, and [`decide`] puts it together with what operators want of whole clusters ([`crate::fleet`]). Every decision carries the numbers
//! that it was made from ([`Explanation`]).
//!
//! What is decided here is what should be programmed; that no share grows where nothing is healthy stays the last word of
//! [`crate::weights`]. Tests: `core/tests/failover_*.rs`.

mod decide;
pub mod explain;
mod memory;
mod room;
pub mod score;
mod share;
mod tell;
mod timing;
mod words;

use jiff::Timestamp;

pub use decide::{Decided, decide};
pub use explain::{ClusterExplanation, Explanation, LevelExplanation, Pending, Standing};
pub use memory::{ClusterMemory, Memory};
pub use score::Sight;

use crate::{
    fleet::Ceiling,
    ids::{ClusterName, Weight},
    inventory::Link,
    policy::{Capacity, spec::Failback},
};

/// A whole, in the unit of scores, factors and shares: thousandths.
pub const WHOLE: u32 = 1000;

/// `spec.failover`, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// 100..=1000 percent.
    pub overprovisioning_percent: u32,
    /// 1..=100 percent.
    pub panic_threshold_percent: u32,
    /// 0..=3600 seconds.
    pub unhealthy_after_seconds: u32,
    /// 0..=86400 seconds.
    pub healthy_after_seconds: u32,
    /// With or without somebody's word.
    pub failback: Failback,
    /// 1..=100 percent of a cluster's share.
    pub failback_step_percent: u32,
    /// 0..=86400 seconds.
    pub failback_step_seconds: u32,
    /// 0..=50 percentage points.
    pub dead_band_percent: u32,
    /// 0..=86400 seconds.
    pub hold_down_max_seconds: u32,
    /// 1..=60.
    pub max_moves_per_hour: u32,
}

/// What the weights of one policy are decided from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `spec.failover`; none: health moves nothing.
    pub rules: Option<&'a Rules>,
    /// `spec.capacity`.
    pub capacity: Option<&'a Capacity>,
    /// In the order of the spec; clusters on their way out are not among them.
    pub clusters: &'a [ClusterInput],
    /// True when the policy has a rule: only then may weights that are in force be kept instead.
    pub has_rule: bool,
    /// When somebody last let clusters return.
    pub failback_at: Option<Timestamp>,
    /// The present time.
    pub now: Timestamp,
}

/// One cluster of a policy.
#[derive(Clone, Debug)]
pub struct ClusterInput {
    /// Its name.
    pub cluster: ClusterName,
    /// What is asked for.
    pub requested: Weight,
    /// For a standby: its priority, above 0, and its weight among its equals. It counts only while nothing is requested.
    pub standby: Option<(u32, Weight)>,
    /// Its weight in the rule as read back; none: not in the rule.
    pub programmed: Option<Weight>,
    /// Its targets; none: they are not known at this moment, and nothing is concluded.
    pub sight: Option<Sight>,
    /// Targets registered in its group.
    pub registered: u32,
    /// How the hub stands with its agent; for the explanation only. That an agent is away is no evidence of anything (I3).
    pub link: Option<Link>,
    /// What operators want of it.
    pub ceiling: Ceiling,
}

impl ClusterInput {
    /// The level that it stands in, and its weight there; none: it gets nothing in any case.
    fn place(&self) -> Option<(u32, Weight)> {
        if self.requested.carries() { Some((0, self.requested)) } else { self.standby }
    }

    /// True when requests reach it, or would by what is asked for.
    fn matters(&self) -> bool {
        self.requested.carries() || self.programmed.is_some_and(Weight::carries)
    }
}
