//! One plan: everything that it is made from, owned, so that it can be made beside the other tasks.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use switchyard_core::{
    arn::TargetGroupArn,
    ids::PolicyKey,
    observed::Observed,
    plan::{self, RegionPlan, Settings, World},
    policy::{PolicyMemory, PolicyRecord},
};

use super::gates::{self, Sightings};
use crate::feed::Picture;

/// Everything that one plan is made from, owned, so that it can be made beside the other tasks.
pub(super) struct Look {
    pub(super) settings: Settings,
    pub(super) records: BTreeMap<PolicyKey, PolicyRecord>,
    pub(super) memories: BTreeMap<PolicyKey, PolicyMemory>,
    pub(super) picture: Arc<Picture>,
    pub(super) observed: Arc<Observed>,
    /// When the targets of each group were read, by the clock of the plan.
    pub(super) health_read: BTreeMap<TargetGroupArn, Timestamp>,
}

/// What came of it.
pub(super) struct Planned {
    pub(super) look: Look,
    pub(super) plan: RegionPlan,
    pub(super) orphans: Vec<String>,
    pub(super) sightings: Sightings,
}

impl Look {
    /// Makes the plan on a thread for work that takes its time: with 100,000 endpoints some 100 ms.
    pub(super) async fn plan(self, now: Timestamp) -> Planned {
        let work = move || {
            let fleet = self.picture.ceilings();
            let world = World {
                settings: &self.settings,
                policies: &self.records,
                memories: &self.memories,
                inventory: &self.picture.inventory,
                observed: &self.observed,
                health_read: &self.health_read,
                fleet: &fleet,
            };
            let (plan, orphans) = (plan::plan(&world, now), plan::orphans(&world));
            let sightings = gates::sightings(&world, &plan);
            Planned { look: self, plan, orphans, sightings }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(made) => made,
            // A planner that panics ends the engine, as it would without a thread of its own.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
