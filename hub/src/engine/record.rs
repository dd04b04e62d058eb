//! What came of a plan is stored: status and memory of each policy when they changed, and the end of policies that are gone.

use std::collections::BTreeMap;

pub(super) use switchyard_core::engine::UNKNOWN_IS_NO_NEWS;
use switchyard_core::{
    engine::{self, Unread, Update},
    ids::{Epoch, PolicyKey},
    plan::RegionPlan,
    policy::PolicyRecord,
};
use tracing::{info, warn};

use super::cycle::{Engine, stored};
use crate::{
    feed::Picture,
    store::{Fence, policy_status::StatusUpdate},
};

impl Engine {
    pub(super) async fn save(&mut self, epoch: Epoch, picture: &Picture, plan: &RegionPlan) {
        let updates = self.term.engine.updates(stored(picture), plan, self.cache.elapsed());
        if updates.is_empty() {
            return;
        }
        let rows: Vec<StatusUpdate<'_>> =
            updates.iter().map(|Update { uid, status, memory }| StatusUpdate { uid, status, memory }).collect();
        let scope = self.options.scope();
        match self.store.policy_statuses_save(Fence { scope: &scope, epoch }, &rows).await {
            Ok(_) => self.term.engine.stored(updates),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    policies = updates.len(),
                    "the status of policies was not stored; it is tried again"
                )
            }
        }
    }

    pub(super) async fn forget(
        &mut self,
        epoch: Epoch,
        records: &BTreeMap<PolicyKey, PolicyRecord>,
        plan: &RegionPlan,
        unread: &BTreeMap<PolicyKey, Unread>,
    ) {
        let scope = self.options.scope();
        for key in engine::finished(plan, unread) {
            let Some(record) = records.get(key) else { continue };
            match self.store.policy_forget(Fence { scope: &scope, epoch }, key, &record.uid).await {
                Ok(_) => {
                    info!(policy = %key, "the policy is deleted: nothing of it is left at AWS");
                    self.term.engine.forget(key, &record.uid);
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, policy = %key, "the deleted policy could not be removed from the store")
                }
            }
        }
    }
}
