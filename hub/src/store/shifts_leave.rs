//! Where shifts and policies meet within one transaction: the weights that a shift writes, and the policies that leave their shift
//! because their spec took over or they go. A shift that loses a policy takes its other policies back, in the same transaction.

use std::collections::BTreeMap;

use switchyard_core::{
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    shift::{
        Shift, WeightWrite, by_cluster,
        machine::{By, Command, command},
    },
};

use super::{
    Store,
    audit::Entry,
    error::StoreError,
    notice::Notice,
    policies::{ApplyError, Caller},
    policy_rows::StoredPolicy,
    shifts_change::detail,
    values::Conn,
};

type Weights = [(ClusterName, Weight)];

/// Which policies got which weights, in place of which.
#[derive(Debug, Default)]
pub(super) struct MovedWeights(BTreeMap<PolicyUid, [Vec<(ClusterName, Weight)>; 2]>);

impl MovedWeights {
    /// From and to; none: they stayed as they are.
    pub fn of(&self, uid: &PolicyUid) -> Option<(&Weights, &Weights)> {
        self.0.get(uid).map(|[from, to]| (from.as_slice(), to.as_slice()))
    }

    /// What the others are told.
    pub fn notice(&self) -> Notice {
        if self.0.is_empty() { Notice::Shifts } else { Notice::Policies }
    }
}

/// Why a policy leaves its shift, and who made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave<'a> {
    /// True: it is being deleted; false: its spec took over.
    pub deleted: bool,
    /// The policies' change number of the transaction.
    pub change: i64,
    /// For the audit log.
    pub actor: &'a str,
    /// For the audit log.
    pub reason: &'a str,
    /// For the audit log; may be empty.
    pub request_id: &'a str,
    /// For the audit log; may be empty.
    pub source: &'a str,
}

impl Store {
    /// Writes weights over those of the specs. A policy that is gone, on its way out, replaced by another one of that name, or that
    /// has other clusters by now, is passed over; weights that are asked for already change nothing.
    pub(super) async fn weights_write(
        &self,
        conn: &mut Conn,
        writes: &[WeightWrite],
        change: i64,
    ) -> Result<MovedWeights, StoreError> {
        let mut moved = MovedWeights::default();
        for write in writes {
            let present = match self.policy_in_txn(conn, &write.policy).await {
                // It must not keep the others of its shift from their weights.
                Err(error @ StoreError::Unreadable { .. }) => {
                    tracing::error!(policy = %write.policy, %error, "the weights of a policy stay as they are, since it cannot be read");
                    continue;
                }
                result => result?,
            };
            let Some(present) = present.filter(|present| suits(present, write)) else { continue };
            let from = present.record.requested();
            let weights = by_cluster(&write.weights);
            if by_cluster(&from) == weights {
                continue;
            }
            let of_spec = by_cluster(&present.record.policy.clusters);
            let stored_override = if weights == of_spec { BTreeMap::new() } else { weights };
            self.override_write(conn, &write.uid, &stored_override).await?;
            self.policy_update(conn, &present.record, change, None).await?;
            moved.0.insert(write.uid.clone(), [from, write.weights.clone()]);
        }
        Ok(moved)
    }

    /// Takes a policy out of the shift that moves it, if one does; the shift's other policies go back. What becomes of the policy's
    /// own override is the caller's business.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a newer version wrote the shift; nothing is written then.
    pub(super) async fn shift_leave(
        &self,
        conn: &mut Conn,
        policy: (&PolicyKey, &PolicyUid),
        leave: Leave<'_>,
    ) -> Result<(), StoreError> {
        let (key, uid) = policy;
        let Some(before) = self.shift_of_policy(conn, uid).await? else { return Ok(()) };
        let now = self.shift_changes_too(conn).await?;
        let said = if leave.deleted { Command::Deleted(uid.clone()) } else { Command::Superseded(uid.clone()) };
        let by = By { actor: leave.actor, reason: leave.reason };
        let (mut shift, writes) = match command(before.clone(), &said, by, now) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                // The schema keeps policies from shifts that have ended.
                tracing::warn!(shift = %before.id, policy = %key, %refusal, "a shift does not let a policy go");
                return Ok(());
            }
        };
        shift.version += 1;
        let moved = self.weights_write(conn, &writes, leave.change).await?;
        self.shift_update(conn, &shift, leave.change).await?;
        self.audit_leave(conn, &shift, (key, "shift-supersede"), None, leave).await?;
        for write in &writes {
            let weights = moved.of(&write.uid);
            self.audit_leave(conn, &shift, (&write.policy, "shift-back"), weights, leave).await?;
        }
        Ok(())
    }

    /// Refuses a caller who would move weights of policies that are not his by taking this one out of its shift. The engine, and
    /// resources of clusters, are nobody who could be asked.
    ///
    /// # Errors
    /// [`ApplyError::ShiftActive`], or the store's.
    pub(super) async fn shift_lets_go(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        (key, uid): (&PolicyKey, &PolicyUid),
    ) -> Result<(), ApplyError> {
        match self.shift_of_policy(conn, uid).await {
            Ok(Some(shift)) => caller.may_leave(&shift, key, uid),
            // What cannot be read is not taken back either.
            Ok(None) | Err(StoreError::Unreadable { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn audit_leave(
        &self,
        conn: &mut Conn,
        shift: &Shift,
        (policy, action): (&PolicyKey, &'static str),
        weights: Option<(&Weights, &Weights)>,
        leave: Leave<'_>,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: leave.actor,
            action,
            policy: Some(policy),
            shift: Some(&shift.id),
            detail: detail(shift, policy, weights),
            reason: leave.reason,
            request_id: leave.request_id,
            source: leave.source,
        };
        self.audit(conn, entry).await
    }
}

/// True when the weights can be written to the policy as it is now.
pub(super) fn suits(present: &StoredPolicy, write: &WeightWrite) -> bool {
    let record = &present.record;
    let clusters = |weights: &Weights| by_cluster(weights).into_keys().collect::<Vec<_>>();
    record.uid == write.uid
        && record.deleting_since.is_none()
        && clusters(&record.policy.clusters) == clusters(&write.weights)
}
