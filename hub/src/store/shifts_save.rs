//! What the engine that holds the lease made of shifts (I7): saved only if nobody moved the shift meanwhile, together with the
//! weights, in one transaction. A lost update is no error: the engine looks at the shift again.

use jiff::Timestamp;
use sqlx::Connection;
use switchyard_core::{
    ids::{PolicyKey, ShiftId},
    shift::{Guard, Move, Shift, WeightWrite, validate::rules},
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    lease::{Fence, FencedError},
    notice::Notice,
    shifts_change::{detail, sentence_for, step_action},
    shifts_leave::{MovedWeights, suits},
    values::Conn,
};

/// What the engine made of one shift.
#[derive(Clone, Copy, Debug)]
pub struct ShiftUpdate<'a> {
    /// The version that it was made from.
    pub before_version: u64,
    /// The shift; it is stored with the version after that, whatever it says itself.
    pub shift: &'a Shift,
    /// The weights that its policies are to ask for from now on.
    pub writes: &'a [WeightWrite],
}

impl Store {
    /// Saves what the engine made of shifts; the answer names those that were saved. One whose stored version is another, one of
    /// whose policies cannot take its weights any more, or one that was made from a picture that is past in another way that
    /// matters (a switch went off, a policy is there after all) is passed over, and none stands in the way of the others.
    ///
    /// # Errors
    /// [`FencedError`]; nothing is stored then.
    pub async fn shifts_save(
        &self,
        fence: Fence<'_>,
        updates: &[ShiftUpdate<'_>],
    ) -> Result<Vec<ShiftId>, FencedError> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let mut txn = self.begin().await?;
        let moment = self.shift_change(&mut txn).await?;
        let mut won = Vec::new();
        let mut weights_moved = false;
        for update in updates {
            let mut point = self.run(Query::Savepoint, Connection::begin(&mut *txn)).await?;
            match self.shift_save(&mut point, update, moment).await {
                Ok(Some(moved)) => {
                    self.run(Query::Savepoint, point.commit()).await?;
                    weights_moved |= moved.notice() == Notice::Policies;
                    won.push(update.shift.id.clone());
                }
                Ok(None) => self.run(Query::Savepoint, point.rollback()).await?,
                Err(error) if error.is_unavailable() => return Err(error.into()),
                Err(error) => {
                    let shift = &update.shift.id;
                    tracing::error!(%shift, %error, "a shift cannot be saved; it stays where it is until somebody acts");
                    self.run(Query::Savepoint, point.rollback()).await?;
                }
            }
        }
        if won.is_empty() {
            return Ok(won);
        }
        let notice = if weights_moved { Notice::Policies } else { Notice::Shifts };
        self.notify(&mut txn, &notice).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        self.commit(txn).await?;
        Ok(won)
    }

    /// None: lost.
    async fn shift_save(
        &self,
        conn: &mut Conn,
        update: &ShiftUpdate<'_>,
        (change, now): (i64, Timestamp),
    ) -> Result<Option<MovedWeights>, StoreError> {
        if self.shift_version(conn, &update.shift.id).await? != Some(update.before_version) {
            return Ok(None);
        }
        let Some(before) = self.shift_in_txn(conn, &update.shift.id).await? else { return Ok(None) };
        for write in update.writes {
            let present = self.policy_in_txn(conn, &write.policy).await?;
            if !present.is_some_and(|present| suits(&present, write)) {
                return Ok(None);
            }
        }
        if !self.leavers_are_lost(conn, &before, update.shift).await? || self.held_by_now(conn, update, now).await? {
            return Ok(None);
        }
        let after = Shift { version: update.before_version + 1, ..update.shift.clone() };
        let moved = self.weights_write(conn, update.writes, change).await?;
        self.shift_update(conn, &after, change).await?;
        let action = step_action(&before, &after);
        for (was, one) in before.moves.iter().zip(&after.moves).filter(|(was, _)| !was.left) {
            // The engine saw that the policy is gone, or has other clusters, before any writer of the policy said so.
            let action = if one.left { Some("shift-supersede") } else { action };
            if let Some(action) = action {
                self.audit_hub(conn, action, &after, &was.policy, detail(&after, &was.policy, moved.of(&was.uid)))
                    .await?;
            }
        }
        Ok(Some(moved))
    }

    /// True when every policy that leaves the shift is gone, on its way out, another one, or has other clusters. A policy that this
    /// version cannot read is missing in the engine's picture too: that is no evidence (I4), and an error here.
    async fn leavers_are_lost(&self, conn: &mut Conn, before: &Shift, after: &Shift) -> Result<bool, StoreError> {
        let leaves = |(was, one): &(&Move, &Move)| !was.left && one.left;
        for (was, _) in before.moves.iter().zip(&after.moves).filter(leaves) {
            let as_it_was = WeightWrite { policy: was.policy.clone(), uid: was.uid.clone(), weights: was.from.clone() };
            let present = self.policy_in_txn(conn, &was.policy).await?;
            if present.is_some_and(|present| suits(&present, &as_it_was)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True when a way forward is held by a switch or a freeze that the engine's picture did not show yet: whoever was answered
    /// that a switch is off sees no step after it. What holds by time alone is judged by one clock only, the engine's.
    async fn held_by_now(&self, conn: &mut Conn, update: &ShiftUpdate<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let shift = update.shift;
        if update.writes.is_empty() || shift.goes_back() {
            return Ok(false);
        }
        let switches = self.switches_in_txn(conn).await?;
        for write in update.writes {
            let Some(present) = self.policy_in_txn(conn, &write.policy).await? else { continue };
            let rules = rules(&present.record, &present.memory, &switches, &shift.overrides, now);
            let holds = |guard| matches!(guard, Guard::GatingSwitch | Guard::Freeze);
            if rules.moment(0).iter().any(|finding| !finding.overridden && holds(finding.guard)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn audit_hub(
        &self,
        conn: &mut Conn,
        action: &'static str,
        shift: &Shift,
        policy: &PolicyKey,
        detail: serde_json::Value,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: "switchyard-hub",
            action,
            policy: Some(policy),
            shift: Some(&shift.id),
            detail,
            reason: &sentence_for(shift, policy),
            request_id: "",
            source: "",
        };
        self.audit(conn, entry).await
    }
}
