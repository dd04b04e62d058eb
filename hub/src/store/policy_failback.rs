//! Letting clusters return that failover took out. The time is kept with the policy; what it means is decided by core
//! ([`switchyard_core::failover`]). Weights, their override and a shift that is under way stay as they are.
//! Tests: `hub/tests/store_fleet.rs`.

use std::collections::BTreeSet;

use serde_json::json;
use switchyard_core::{
    failover::Explanation,
    ids::{ClusterName, PolicyKey},
};

use super::{
    Store,
    error::Query,
    idempotency::Request,
    notice::Notice,
    policies::Answer,
    policy_change::{Applied, ApplyError, Caller, check_caller, check_version},
    policy_rows::StoredPolicy,
};

impl Store {
    /// Lets the clusters of a policy return that are out at this moment, without their waiting times, and where somebody has to
    /// say so. Refused when none is out.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is stored then.
    pub async fn policy_failback(
        &self,
        caller: &Caller,
        key: &PolicyKey,
        expected_version: u64,
    ) -> Result<StoredPolicy, ApplyError> {
        check_caller(caller)?;
        let request = Request::new(caller, "FailbackPolicy", &(key, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok(answer.policy.read()?);
        }
        let present = self.policy_in_txn(&mut txn, key).await?.ok_or_else(|| ApplyError::NotFound(key.clone()))?;
        let record = &present.record;
        if record.deleting_since.is_some() {
            return Err(ApplyError::Deleting(key.clone()));
        }
        check_version(expected_version, record.version)?;
        let out: BTreeSet<ClusterName> =
            present.status.as_ref().map(|status| out(&status.failover)).unwrap_or_default();
        if record.policy.failover.is_none() || out.is_empty() {
            return Err(ApplyError::NothingOut(key.clone()));
        }
        caller.may_let_return(key, &out)?;
        let mark = sqlx::query("update policies set failback_at = clock_timestamp() where uid = $1");
        self.run(Query::PolicyUpdate, mark.bind(record.uid.as_str()).execute(&mut *txn)).await?;
        self.policy_update(&mut txn, record, change, None).await?;
        let stored = self.policy_expected(&mut txn, key).await?;
        let detail = json!({"clusters": out, "at": stored.record.failback_at, "version": stored.record.version});
        self.audit_caller(&mut txn, caller, "failback", key, detail).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, Applied::Configured)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(stored)
    }
}

/// The clusters that carry less than their share for their health, or are on their way back from that.
pub(super) fn out(explanation: &Explanation) -> BTreeSet<ClusterName> {
    let is_out = |cluster: &&switchyard_core::failover::ClusterExplanation| {
        let waits = cluster.pending.is_some_and(|pending| pending.back);
        cluster.out_since.is_some() || waits
    };
    explanation.clusters.iter().filter(is_out).map(|cluster| cluster.cluster.clone()).collect()
}
