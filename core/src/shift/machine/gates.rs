//! The gates of the step under way: which are due, what their measurements say, and which of them the shift waits for.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    super::{
        GatePhase, GateRun, Shift, ShiftReason,
        analysis::{self, GateQuery},
        view::PolicyView,
        weights,
    },
    look::Look,
};
use crate::ids::ClusterName;

/// A step is left only on measurements that are not older than the end of its bake time, however long the interval is.
fn last_look(due_at: Timestamp, run: &GateRun, bake_end: Timestamp) -> Timestamp {
    if is_older(run, bake_end) { due_at.min(bake_end) } else { due_at }
}

fn is_older(run: &GateRun, than: Timestamp) -> bool {
    run.measured_at.is_none_or(|at| at < than)
}

impl Look<'_> {
    /// Takes readings in, and says which gates are due.
    pub(super) fn measure(&mut self, index: usize) {
        let step = self.shift.steps[index].clone();
        let (since, now) = (self.shift.since, self.now());
        let bake_end = self.bake_end(index);
        for (i, gate) in step.gates.iter().enumerate() {
            let readings = self.view.measured.iter().filter(|one| one.step == index && one.gate == i);
            for one in readings {
                self.shift.gates[i].take(gate, &one.reading, one.at);
            }
            let due_at = last_look(self.shift.gates[i].due_at(gate, since), &self.shift.gates[i], bake_end);
            if let GateQuery::TargetHealth { min_healthy_percent } = gate.query {
                if due_at <= now {
                    let reading = analysis::target_health(min_healthy_percent, &self.gaining_views());
                    self.shift.gates[i].take(gate, &reading, now);
                }
            } else if due_at <= now && self.shift.gates[i].phase != GatePhase::Failed {
                self.due.push(i);
            }
            let next = last_look(self.shift.gates[i].due_at(gate, since), &self.shift.gates[i], bake_end);
            self.at(next);
        }
    }

    /// When the bake time of the step under way is over.
    pub(super) fn bake_end(&self, index: usize) -> Timestamp {
        let bake = Duration::from_secs(u64::from(self.shift.steps[index].bake_seconds));
        self.after(self.shift.since, bake)
    }

    pub(super) fn gaining_views(&self) -> Vec<(&PolicyView, Vec<ClusterName>)> {
        let moves = self.shift.present_moves();
        moves
            .filter_map(|one| {
                let asked = self.shift.asked(one);
                let gaining = Shift::gaining(one).into_iter();
                let carrying = gaining.filter(|name| weights::weight_of(&asked, name).carries()).collect();
                Some((self.policy(one)?, carrying))
            })
            .collect()
    }

    /// A gate that has not passed, and what the shift waits for.
    pub(super) fn open_gate(&self, index: usize) -> Option<(ShiftReason, String)> {
        let gates = &self.shift.steps[index].gates;
        let bake_end = self.bake_end(index);
        let stale = |run: &GateRun| bake_end <= self.now() && is_older(run, bake_end);
        let is_open = |run: &GateRun| run.phase != GatePhase::Passed || stale(run);
        let open = self.shift.gates.iter().zip(gates).filter(|(run, _)| is_open(run));
        // One without data is what people must hear of first.
        let (run, gate) = open.max_by_key(|(run, _)| run.phase == GatePhase::NoData)?;
        let (name, done, count) = (&gate.name, run.succeeded, gate.count);
        Some(if run.phase == GatePhase::NoData {
            (ShiftReason::NoData, format!("gate {name} has nothing to judge by, so the shift waits: {}", run.message))
        } else {
            let last = if run.message.is_empty() { String::new() } else { format!("; the last said: {}", run.message) };
            (ShiftReason::GatesRunning, format!("gate {name}: {done} of {count} measurements succeeded{last}"))
        })
    }

    /// On what evidence the step under way is left, for the history; empty without gates.
    pub(super) fn evidence(&self) -> String {
        /// Gates that are spelt out.
        const MOST: usize = 5;
        let Some(step) = self.shift.step.filter(|_| !self.shift.promoted) else { return String::new() };
        let gates = self.shift.steps[step].gates.iter().zip(&self.shift.gates);
        let said = gates.take(MOST).map(|(gate, run)| {
            let value = run.value.map(|value| format!(", last {value}")).unwrap_or_default();
            format!("{} ({} succeeded, {} failed{value})", gate.name, run.succeeded, run.failed)
        });
        let said: Vec<String> = said.collect();
        if said.is_empty() { String::new() } else { format!("; gates of step {}: {}", step + 1, said.join(", ")) }
    }
}
