//! How a shift ends: the last weights settle, or the recorded ones are read back.

use super::{
    super::{Cause, Event, Move, ShiftReason, State, view::Evidence},
    look::Look,
};

impl Look<'_> {
    pub(super) fn converging(&mut self) -> bool {
        if self.react_to_lost_targets() {
            return false;
        }
        self.shift.programmed = self.in_force();
        let settled = |one: &Move| self.policy(one).is_some_and(|view| view.converged);
        if !self.shift.programmed || !self.shift.present_moves().all(settled) {
            let message = self.trouble().unwrap_or_else(|| "the settle time runs".to_owned());
            return self.wait(ShiftReason::Settling, message);
        }
        let pending = self.shift.present_moves().find_map(|one| match &self.policy(one)?.evidence {
            Evidence::Pending(why) => Some(format!("{}: {why}", one.policy)),
            Evidence::NotConfigured | Evidence::Quiet => None,
        });
        if let Some(pending) = pending.filter(|_| !self.shift.promoted) {
            return self.wait(ShiftReason::EvidencePending, pending);
        }
        self.shift.converged = true;
        self.end(State::Succeeded, ShiftReason::Converged, "the weights are in force".to_owned())
    }

    pub(super) fn aborting(&mut self) -> bool {
        let cause = self.shift.cause.unwrap_or(Cause::Failed);
        if self.in_force() {
            self.shift.programmed = true;
            let what = match self.shift.present_moves().next() {
                Some(_) => "the recorded weights were read back",
                None => "no policy is left to be taken back",
            };
            let message = format!("{what}; {}", self.first_cause());
            return self.end(cause.ends_in(), ShiftReason::Restored, message);
        }
        let deadline = self.deadline(self.shift.since);
        let trouble = self.trouble();
        if deadline <= self.now() {
            let seconds = self.shift.progress_deadline_seconds;
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let message = format!(
                "the recorded weights are asked for and were not read back within {seconds} s{why}; {}",
                self.first_cause()
            );
            return self.end(cause.ends_in(), ShiftReason::RestorePending, message);
        }
        self.at(deadline);
        let message = trouble.unwrap_or_else(|| self.first_cause());
        self.wait(self.shift.why, message)
    }

    /// Why it went back, as it was said when it did.
    pub(super) fn first_cause(&self) -> String {
        let turned = |event: &&Event| event.state == State::Aborting;
        self.shift.history.iter().find(turned).map(|event| event.message.clone()).unwrap_or_default()
    }
}
