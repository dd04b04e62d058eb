//! How a shift ends: the last weights settle, or the recorded ones are read back.

use std::time::Duration;

use super::{
    super::{Cause, Event, Move, ShiftReason, State, view::Evidence},
    look::Look,
};

/// How long evidence is waited for where there is no data: CloudWatch shows a minute some minutes later.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(300);

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
        let missing = match self.evidence_of_quiet() {
            Ok(missing) => missing,
            Err(pending) => {
                self.shift.held_since = None;
                return self.wait(ShiftReason::EvidencePending, pending);
            }
        };
        let Some(missing) = missing else {
            self.shift.converged = true;
            return self.end(State::Succeeded, ShiftReason::Converged, "the weights are in force".to_owned());
        };
        // A policy without requests never has any to count: what cannot be known is not waited for without end.
        let since = self.shift.held_since.unwrap_or(self.now());
        self.shift.held_since = Some(since);
        let deadline = self.after(since, EVIDENCE_PATIENCE);
        if deadline > self.now() {
            self.at(deadline);
            return self.wait(ShiftReason::EvidencePending, missing);
        }
        self.shift.converged = true;
        let message = format!("the weights are in force; whether the old clusters are quiet is not known: {missing}");
        self.end(State::Succeeded, ShiftReason::Converged, message)
    }

    /// Whether the clusters that lost their share are quiet. What is missing for want of data is given back beside it.
    ///
    /// # Errors
    /// Why it is not so yet.
    fn evidence_of_quiet(&self) -> Result<Option<String>, String> {
        let mut missing = None;
        for one in self.shift.present_moves().filter(|_| !self.shift.promoted) {
            match self.policy(one).map(|view| &view.evidence) {
                Some(Evidence::Pending(why)) => return Err(format!("{}: {why}", one.policy)),
                Some(Evidence::NoData(why)) => missing = Some(format!("{}: {why}", one.policy)),
                Some(Evidence::NotConfigured | Evidence::Quiet) | None => {}
            }
        }
        Ok(missing)
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
