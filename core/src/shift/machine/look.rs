//! One look at a shift: the present state says which part judges, and what it says is put down here.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    super::{
        Cause, Move, Shift, ShiftReason, State, WeightWrite,
        view::{PolicyView, View},
    },
    commands::{self, By},
};
use crate::ids::{ClusterName, PolicyUid, Weight};

/// One look at a shift.
pub(super) struct Look<'a> {
    pub(super) shift: Shift,
    pub(super) view: &'a View<'a>,
    pub(super) writes: Vec<WeightWrite>,
    pub(super) due: Vec<usize>,
    pub(super) again_at: Option<Timestamp>,
}

impl Look<'_> {
    /// True when the state was left, so that the next one can be looked at.
    pub(super) fn advance(&mut self) -> bool {
        if self.shift.pause.is_some() || !self.writes.is_empty() {
            return false;
        }
        match self.shift.state {
            State::Pending => {
                let message = "what stands in the way is being judged".to_owned();
                self.enter(State::Preflight, ShiftReason::PreflightStarted, message)
            }
            State::Preflight => self.preflight(),
            State::Stepping => self.stepping(),
            State::Baking => self.baking(),
            State::AwaitingApproval => self.awaiting_approval(),
            State::Converging => self.converging(),
            State::Aborting => self.aborting(),
            State::Succeeded | State::Aborted | State::Superseded | State::Failed => false,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.view.now
    }

    pub(super) fn after(&self, since: Timestamp, wait: Duration) -> Timestamp {
        since.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn deadline(&self, since: Timestamp) -> Timestamp {
        self.after(since, Duration::from_secs(u64::from(self.shift.progress_deadline_seconds)))
    }

    /// Looks again at this time, if it is still to come.
    pub(super) fn at(&mut self, time: Timestamp) {
        if time > self.view.now {
            self.again_at = Some(self.again_at.map_or(time, |at| at.min(time)));
        }
    }

    pub(super) fn policy(&self, one: &Move) -> Option<&PolicyView> {
        self.view.policies.get(&one.policy)
    }

    /// Stays where it is, and says why; that is no event.
    pub(super) fn wait(&mut self, why: ShiftReason, message: String) -> bool {
        self.shift.why = why;
        self.shift.message = message;
        false
    }

    pub(super) fn enter(&mut self, state: State, why: ShiftReason, message: String) -> bool {
        self.shift.state = state;
        self.shift.since = self.view.now;
        self.shift.held_since = None;
        self.shift.findings.clear();
        self.shift.record(self.view.now, why, message, "");
        true
    }

    pub(super) fn end(&mut self, state: State, why: ShiftReason, message: String) -> bool {
        self.enter(state, why, message);
        self.shift.ended_at = Some(self.view.now);
        false
    }

    pub(super) fn go_back(&mut self, cause: Cause, why: ShiftReason, message: &str) -> bool {
        let writes = commands::go_back(&mut self.shift, cause, why, message, "", self.view.now);
        self.writes.extend(writes);
        false
    }

    /// A policy that is gone, on its way out, or another one of that name is not touched any more.
    pub(super) fn leave_lost_policies(&mut self) {
        let view = self.view;
        let lost = |one: &&Move| {
            let present = view.policies.get(&one.policy);
            present.is_none_or(|present| present.uid != one.uid || present.deleting)
        };
        let same_clusters = |one: &Move, present: &PolicyView| {
            let names = |weights: &[(ClusterName, Weight)]| -> BTreeSet<ClusterName> {
                weights.iter().map(|(name, _)| name.clone()).collect()
            };
            names(&one.from) == names(&present.requested)
        };
        let gone: Vec<PolicyUid> = self.shift.present_moves().filter(lost).map(|one| one.uid.clone()).collect();
        let changed: Vec<PolicyUid> = self
            .shift
            .present_moves()
            .filter(|one| !lost(one))
            .filter(|one| view.policies.get(&one.policy).is_some_and(|present| !same_clusters(one, present)))
            .map(|one| one.uid.clone())
            .collect();
        let by = By { actor: "", reason: "" };
        let reasons = [(gone, ShiftReason::PolicyDeleted), (changed, ShiftReason::PolicyChanged)];
        for (uids, why) in reasons {
            for uid in uids {
                // The last word counts: a policy that leaves later is not written any more.
                self.writes.retain(|write| write.uid != uid);
                let writes = commands::leave(&mut self.shift, &uid, why, by, view.now);
                self.writes.extend(writes);
            }
        }
    }

    /// True when every policy has the weights that are asked for.
    pub(super) fn in_force(&self) -> bool {
        let has = |one: &Move| self.policy(one).is_some_and(|view| view.has(&self.shift.asked(one)));
        self.shift.present_moves().all(has)
    }

    /// The first thing that keeps a policy from its weights.
    pub(super) fn trouble(&self) -> Option<String> {
        let troubles = self.shift.present_moves().filter_map(|one| {
            let view = self.policy(one).filter(|view| !view.has(&self.shift.asked(one)))?;
            view.trouble.as_ref().map(|note| format!("{}: {}", one.policy, note.message))
        });
        troubles.into_iter().next()
    }
}
