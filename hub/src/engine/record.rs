//! What came of a plan is stored: status and memory of each policy when they changed, and the end of policies that are gone.

use std::{collections::BTreeMap, time::Duration};

use switchyard_core::{
    ids::{Epoch, PolicyKey, PolicyUid},
    plan::RegionPlan,
    policy::{PolicyMemory, PolicyRecord},
    status::{ConditionType, PolicyStatus},
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::cycle::{Engine, Term, Unread};
use crate::{
    feed::Picture,
    store::{Fence, policy_status::StatusUpdate},
};

/// For this long a status that knows nothing (right after a take-over, or while a write is read back) does not replace one
/// that was known: callers would see a policy fall back that never moved. After it, not knowing is the news.
pub(super) const UNKNOWN_IS_NO_NEWS: Duration = Duration::from_secs(15);

impl Engine {
    pub(super) async fn save(&mut self, epoch: Epoch, picture: &Picture, plan: &RegionPlan) {
        let mut updates: Vec<(PolicyUid, PolicyStatus, PolicyMemory)> = Vec::new();
        for (key, policy) in &plan.policies {
            let Some(stored) = picture.policies.get(key) else { continue };
            let uid = &stored.record.uid;
            let Term { saved, unknown_since, .. } = &mut self.term;
            let saved = saved.get(uid);
            let same = saved.is_some_and(|(status, memory)| *status == policy.status && *memory == policy.memory);
            let known = saved.map(|(status, _)| status).or(stored.status.as_ref());
            if !same && !is_no_news(unknown_since, uid, &policy.status, known) {
                updates.push((uid.clone(), policy.status.clone(), policy.memory.clone()));
            }
        }
        if updates.is_empty() {
            return;
        }
        let rows: Vec<StatusUpdate<'_>> =
            updates.iter().map(|(uid, status, memory)| StatusUpdate { uid, status, memory }).collect();
        let scope = self.options.scope();
        match self.store.policy_statuses_save(Fence { scope: &scope, epoch }, &rows).await {
            Ok(_) => self.term.saved.extend(updates.into_iter().map(|(uid, status, memory)| (uid, (status, memory)))),
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
        for (key, _) in plan.policies.iter().filter(|(_, policy)| policy.gone) {
            let Some(record) = records.get(key) else { continue };
            if unread.contains_key(key) {
                continue;
            }
            match self.store.policy_forget(Fence { scope: &scope, epoch }, key, &record.uid).await {
                Ok(_) => {
                    info!(policy = %key, "the policy is deleted: nothing of it is left at AWS");
                    self.term.saved.remove(&record.uid);
                    self.term.memories.remove(key);
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, policy = %key, "the deleted policy could not be removed from the store")
                }
            }
        }
    }
}

/// True for a status that only says that the rule is not known at this moment, while a better one is at hand.
fn is_no_news(
    unknown_since: &mut BTreeMap<PolicyUid, Instant>,
    uid: &PolicyUid,
    status: &PolicyStatus,
    known: Option<&PolicyStatus>,
) -> bool {
    let unknown = |status: &PolicyStatus| {
        status.condition(ConditionType::Programmed).is_none_or(|condition| condition.status.is_none())
    };
    if !unknown(status) {
        unknown_since.remove(uid);
        return false;
    }
    let since = *unknown_since.entry(uid.clone()).or_insert_with(Instant::now);
    let better = known.is_some_and(|known| known.observed_version == status.observed_version && !unknown(known));
    better && since.elapsed() < UNKNOWN_IS_NO_NEWS
}
