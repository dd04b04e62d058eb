//! Plans for callers: what the hub would do, by the planner over the present picture with changes put in. Writes nothing. Used by
//! PolicyService and ShiftService. How many such plans are made at once, and for whom, is `queue`'s. Tests:
//! `hub/tests/grpc_policies.rs`, `hub/tests/grpc_shifts_follow.rs`.

mod queue;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use switchyard_core::{
    arn::TargetGroupArn,
    fleet::{Ceiling, forecast::Forecast},
    ids::{ClusterName, Epoch, PolicyKey, Weight},
    inventory::Inventory,
    observed::Observed,
    plan::{self, RegionPlan, World},
    policy::{PolicyMemory, PolicyRecord},
};
use tokio::sync::watch::Receiver;

pub use queue::{Busy, Lane};

use super::errors::ApiError;
use crate::{feed::Picture, store::StoredPolicy};
use queue::Queue;

/// What plans are made from, beside the picture.
#[derive(Clone)]
pub struct Planning {
    observed: Receiver<Arc<Observed>>,
    epoch: Receiver<Option<Epoch>>,
    settings: plan::Settings,
    queue: Queue,
}

impl Planning {
    /// `settings`: the epoch in it is not used.
    pub fn new(observed: Receiver<Arc<Observed>>, epoch: Receiver<Option<Epoch>>, settings: plan::Settings) -> Self {
        Self { observed, epoch, settings, queue: Queue::default() }
    }

    /// What was last read from AWS.
    ///
    /// # Errors
    /// [`ApiError::NotObserved`] before it was read through once.
    pub fn observed(&self) -> Result<Arc<Observed>, ApiError> {
        let observed = Arc::clone(&self.observed.borrow());
        if observed.audited_at.is_none() { Err(ApiError::NotObserved) } else { Ok(observed) }
    }

    /// The policies of the picture as the planner takes them.
    pub fn sheet(&self, picture: &Picture) -> Sheet {
        let settings = plan::Settings { epoch: self.epoch.borrow().unwrap_or_default(), ..self.settings.clone() };
        let mut sheet = Sheet {
            settings,
            policies: BTreeMap::new(),
            memories: BTreeMap::new(),
            health_read: BTreeMap::new(),
            fleet: picture.ceilings(),
        };
        picture.policies.values().for_each(|stored| sheet.put(stored));
        sheet
    }

    /// Does this for a caller, named as in the audit log, off the threads that serve, and no more than a few such at once.
    ///
    /// # Errors
    /// [`ApiError::Busy`] when enough wait already, [`ApiError::Internal`] when it died, [`ApiError::Shutdown`] when nothing is
    /// started any more.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        lane: Lane,
        who: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.queue.turn(lane, who).await?;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        work.await.map_err(|error| {
            tracing::error!(%error, "a plan that a caller asked for could not be made");
            ApiError::Internal
        })
    }
}

/// The policies of one plan, to be changed before it is made.
pub struct Sheet {
    settings: plan::Settings,
    policies: BTreeMap<PolicyKey, PolicyRecord>,
    memories: BTreeMap<PolicyKey, PolicyMemory>,
    health_read: BTreeMap<TargetGroupArn, Timestamp>,
    fleet: BTreeMap<ClusterName, Ceiling>,
}

impl Sheet {
    /// Puts a policy in, in place of the one of its name.
    pub fn put(&mut self, stored: &StoredPolicy) {
        let key = &stored.record.policy.key;
        self.policies.insert(key.clone(), stored.record.clone());
        self.memories.insert(key.clone(), stored.memory.clone());
    }

    /// Lets a policy ask for these weights.
    pub fn ask(&mut self, key: &PolicyKey, weights: &[(ClusterName, Weight)]) {
        if let Some(record) = self.policies.get_mut(key) {
            let of_spec = record.policy.clusters == weights;
            record.weight_override = (!of_spec).then(|| weights.iter().cloned().collect());
            record.version += 1;
        }
    }

    /// The plan.
    pub fn plan(&self, inventory: &Inventory, observed: &Observed, now: Timestamp) -> RegionPlan {
        plan::plan(&self.world(inventory, observed), now)
    }

    /// What the loss of a cluster would do to each policy that names it.
    pub fn forecast(
        &self,
        inventory: &Inventory,
        observed: &Observed,
        lost: &ClusterName,
        force: bool,
        now: Timestamp,
    ) -> BTreeMap<PolicyKey, Forecast> {
        plan::forecast(&self.world(inventory, observed), lost, force, now)
    }

    fn world<'a>(&'a self, inventory: &'a Inventory, observed: &'a Observed) -> World<'a> {
        World {
            settings: &self.settings,
            policies: &self.policies,
            memories: &self.memories,
            inventory,
            observed,
            // What this replica holds was read before the call: nothing is concluded from how long that is ago.
            health_read: &self.health_read,
            fleet: &self.fleet,
        }
    }
}
