//! From what is wanted and what was observed to the steps that lead there.

mod draft;
mod effective;
pub mod failures;
mod health_check;
mod ledger;
pub mod priorities;
pub mod region;
mod report;
pub mod resolve;
mod service_notes;
mod sight;
pub mod step;
mod steps;
pub mod targets;
mod words;

use std::collections::BTreeMap;

use crate::{
    arn::TargetGroupArn,
    fleet::Ceiling,
    ids::{ClusterName, Epoch, HubId, PolicyKey},
    inventory::Inventory,
    observed::Observed,
    policy::{PolicyMemory, PolicyRecord},
    status::PolicyStatus,
};

pub use region::{all_steps, forecast, orphans, plan};
pub use step::{Action, GroupRef, NewTarget, NewTargetGroup, Step};

/// What the planner may know beside the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This installation.
    pub hub_id: HubId,
    /// The account that every ARN must name.
    pub account_id: String,
    /// The region that every ARN must name.
    pub region: String,
    /// The time after a read-back of new weights until they count as served everywhere.
    pub settle: std::time::Duration,
    /// The epoch under which writes are made.
    pub epoch: Epoch,
}

/// Everything that one plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Settings.
    pub settings: &'a Settings,
    /// All policies of this account and region.
    pub policies: &'a BTreeMap<PolicyKey, PolicyRecord>,
    /// The planner's memory of each.
    pub memories: &'a BTreeMap<PolicyKey, PolicyMemory>,
    /// What the agents reported.
    pub inventory: &'a Inventory,
    /// What was read back from AWS.
    pub observed: &'a Observed,
    /// When the targets of each group were read, by the clock of `now`; a group that is missing was read just now.
    pub health_read: &'a BTreeMap<TargetGroupArn, jiff::Timestamp>,
    /// What operators want of clusters; one that is missing is active.
    pub fleet: &'a BTreeMap<ClusterName, Ceiling>,
}

impl World<'_> {
    /// What operators want of a cluster.
    pub fn ceiling(&self, cluster: &ClusterName) -> Ceiling {
        self.fleet.get(cluster).copied().unwrap_or_default()
    }
}

/// The plan of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPlan {
    /// In the order in which they must be made.
    pub steps: Vec<Step>,
    /// What users are told.
    pub status: PolicyStatus,
    /// To be stored for the next plan.
    pub memory: PolicyMemory,
    /// True when a policy that is being deleted has nothing left at AWS.
    pub gone: bool,
    /// When to look again although nothing changed, such as the end of a settle time.
    pub again_at: Option<jiff::Timestamp>,
}

/// The plans of all policies. One that cannot be satisfied never delays another (I9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionPlan {
    /// By policy.
    pub policies: BTreeMap<PolicyKey, PolicyPlan>,
}
