//! Before the first step: what must be known, and what stands in the way. All of it passes, or nothing moves.

use std::time::Duration;

use super::{
    super::{
        Move, Shift, ShiftReason, State,
        guard::{self, Finding, Guard, Rules},
        weights,
    },
    look::Look,
};
use crate::status::TargetCounts;

/// How long a preflight waits for what is not known yet (a take-over, a read-back, targets that are being judged) before it fails.
pub const PREFLIGHT_PATIENCE: Duration = Duration::from_secs(60);

impl Look<'_> {
    pub(super) fn preflight(&mut self) -> bool {
        let patience = self.after(self.shift.since, PREFLIGHT_PATIENCE);
        if let Some(unknown) = self.unknown() {
            if patience > self.now() {
                self.at(patience);
                return self.wait(ShiftReason::NotObservedYet, unknown);
            }
            return self.end(State::Failed, ShiftReason::PreflightFailed, unknown);
        }
        let findings = self.findings(0);
        let blocking: Vec<Finding> = findings.iter().filter(|finding| !finding.overridden).cloned().collect();
        self.shift.findings.clone_from(&findings);
        if blocking.is_empty() {
            let message = match findings.len() {
                0 => "nothing stands in the way".to_owned(),
                n => format!("{n} safety rules are crossed on purpose: {}", sentence(&findings)),
            };
            self.shift.record(self.view.now, ShiftReason::PreflightPassed, message, "");
            return self.enter_step(0);
        }
        // Targets that the load balancer has not judged yet may be healthy in a moment.
        if blocking.iter().all(|finding| self.may_pass_soon(finding)) && patience > self.now() {
            self.at(patience);
            return self.wait(ShiftReason::NotObservedYet, sentence(&blocking));
        }
        self.end(State::Failed, ShiftReason::PreflightFailed, sentence(&blocking));
        self.shift.findings = findings;
        false
    }

    /// A policy of which nobody knows at this moment what AWS has, in words.
    pub(super) fn unknown_rule(&self) -> Option<String> {
        let unknown = |one: &&Move| self.policy(one).is_some_and(|view| view.programmed.is_none());
        let one = self.shift.present_moves().find(unknown)?;
        Some(format!("what AWS has of {} is not known yet", one.policy))
    }

    /// What a step is judged by and is not known, in words.
    pub(super) fn unknown(&self) -> Option<String> {
        if let Some(unknown) = self.unknown_rule() {
            return Some(unknown);
        }
        for one in self.shift.present_moves() {
            let Some(view) = self.policy(one) else { continue };
            let gaining = Shift::gaining(one);
            if let Some(name) = gaining.iter().find(|name| view.cluster(name).is_none_or(|cluster| !cluster.known)) {
                return Some(format!("the targets of {name} of {} are not known yet", one.policy));
            }
        }
        None
    }

    pub(super) fn may_pass_soon(&self, finding: &Finding) -> bool {
        if !matches!(finding.guard, Guard::HealthyTargets | Guard::Capacity) {
            return false;
        }
        let view = self.view.policies.get(&finding.policy);
        // Without a verdict: registered a moment ago, or read before the rule used the group (ELBv2's `unused`).
        let judging = |counts: &TargetCounts| {
            counts.healthy + counts.unhealthy < counts.registered || counts.desired > counts.registered
        };
        view.is_some_and(|view| view.clusters.iter().any(|cluster| judging(&cluster.targets)))
    }

    /// What stands in the way of a step; before the first one, also what is wrong with the shape of the later ones.
    pub(super) fn findings(&self, step: usize) -> Vec<Finding> {
        let mut found = Vec::new();
        for one in self.shift.present_moves() {
            let Some(view) = self.policy(one) else { continue };
            let rules = Rules {
                policy: &one.policy,
                safety: &view.safety,
                frozen: view.frozen,
                moved_at: view.moved_at,
                switches: self.view.switches,
                overrides: &self.shift.overrides,
                now: self.view.now,
            };
            let present = self.shift.asked(one);
            let to = weights::at(&one.from, &one.to, self.shift.steps[step].percent);
            if present == to {
                continue;
            }
            found.extend(rules.moment(step));
            found.extend(rules.shape(step, &present, &to));
            found.extend(guard::facts(&rules, view, step, &one.from, &present, &to));
            if self.shift.step.is_none() {
                found.extend(later_shapes(&self.shift, one, &rules));
            }
        }
        found
    }
}

/// What is wrong with the shape of the steps after the first, whenever they are made.
fn later_shapes(shift: &Shift, one: &Move, rules: &Rules<'_>) -> Vec<Finding> {
    let at = |step: usize| weights::at(&one.from, &one.to, shift.steps[step].percent);
    (1..shift.steps.len()).flat_map(|step| rules.shape(step, &at(step - 1), &at(step))).collect()
}

pub(super) fn sentence(findings: &[Finding]) -> String {
    /// Findings that are spelt out; the list beside the sentence holds all.
    const MOST: usize = 2;
    let shown: Vec<&str> = findings.iter().take(MOST).map(|finding| finding.message.as_str()).collect();
    let more = findings.len().saturating_sub(MOST);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", shown.join("; "))
}
