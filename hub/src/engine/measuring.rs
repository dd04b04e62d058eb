//! Keeps the books on what shifts want to be measured: what is under way, what came in and is not stored yet, and what is known of
//! requests that still reach clusters without a share. Which measurement is due, and what a reading means, core says; what is
//! asked where, [`crate::analysis`]. All of it dies with the term of the lease: whoever takes over measures anew.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    ids::{PolicyUid, ShiftId},
    shift::{
        Shift, State,
        analysis::{Measured, Reading},
        view::Evidence,
    },
};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tracing::error;

/// Measurements under way at once. A gate is measured every few seconds and a question takes 10 s at most, so that a hundred
/// gates get their turn within a minute even while nothing answers.
pub(super) const MOST_AT_ONCE: usize = 16;
/// Requests in one period of CloudWatch (a minute at AWS) that count as none: after the settle time every node of the load balancer
/// has the new weights, and its own health checks are not counted as requests.
pub(super) const QUIET: f64 = 1.0;

/// One gate of one step of one shift.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GateKey {
    pub(super) shift: ShiftId,
    pub(super) step: usize,
    pub(super) gate: usize,
}

/// One policy of one shift.
type ProofKey = (ShiftId, PolicyUid);

/// What a question was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    Gate { key: GateKey, at: Timestamp, kind: &'static str },
    Proof(ProofKey),
}

/// What came of a question.
#[derive(Debug)]
pub(super) enum Answer {
    Gate(Reading),
    /// Requests that the clusters without a share still got; in words, why that is not known; none: nobody counts them.
    Requests(Option<Result<f64, String>>),
}

/// What is known of requests to the clusters that a policy has left.
#[derive(Debug)]
struct Proof {
    evidence: Evidence,
    ask_again: Instant,
}

/// The books.
#[derive(Default)]
pub(super) struct Measuring {
    running: JoinSet<Answer>,
    purposes: HashMap<Id, Purpose>,
    readings: BTreeMap<ShiftId, Vec<Measured>>,
    proofs: BTreeMap<ProofKey, Proof>,
}

/// A question that has ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

impl Measuring {
    fn has_room(&self) -> bool {
        self.running.len() < MOST_AT_ONCE
    }

    /// Starts a measurement, unless the gate is being measured, has a reading that is not stored yet, or there is no room: then
    /// it stays due.
    pub(super) fn measure(
        &mut self,
        key: GateKey,
        kind: &'static str,
        at: Timestamp,
        question: impl Future<Output = Reading> + Send + 'static,
    ) {
        let same = |purpose: &Purpose| matches!(purpose, Purpose::Gate { key: known, .. } if *known == key);
        let mut here = self.readings.get(&key.shift).into_iter().flatten();
        let waits = here.any(|one| (one.step, one.gate) == (key.step, key.gate));
        if waits || !self.has_room() || self.purposes.values().any(same) {
            return;
        }
        let task = self.running.spawn(async move { Answer::Gate(question.await) });
        self.purposes.insert(task.id(), Purpose::Gate { key, at, kind });
    }

    /// Asks for the requests of clusters that a policy has left, unless that was asked a moment ago.
    pub(super) fn prove(
        &mut self,
        shift: &ShiftId,
        policy: &PolicyUid,
        interval: Duration,
        question: impl Future<Output = Option<Result<f64, String>>> + Send + 'static,
    ) {
        let key = (shift.clone(), policy.clone());
        let purpose = Purpose::Proof(key.clone());
        let early = self.proofs.get(&key).is_some_and(|proof| {
            proof.ask_again > Instant::now() || matches!(proof.evidence, Evidence::Quiet | Evidence::NotConfigured)
        });
        if early || !self.has_room() || self.purposes.values().any(|known| *known == purpose) {
            return;
        }
        let evidence = self.evidence(shift, policy);
        self.proofs.insert(key, Proof { evidence, ask_again: Instant::now() + interval });
        let task = self.running.spawn(async move { Answer::Requests(question.await) });
        self.purposes.insert(task.id(), purpose);
    }

    /// What is known of a policy that has left clusters.
    pub(super) fn evidence(&self, shift: &ShiftId, policy: &PolicyUid) -> Evidence {
        let known = self.proofs.get(&(shift.clone(), policy.clone()));
        known.map_or_else(
            || Evidence::Pending("the request counts are being asked for".to_owned()),
            |proof| proof.evidence.clone(),
        )
    }

    /// When a policy's requests are to be asked for again.
    pub(super) fn prove_again(&self) -> Option<Instant> {
        let open =
            self.proofs.values().filter(|proof| matches!(proof.evidence, Evidence::Pending(_) | Evidence::NoData(_)));
        open.map(|proof| proof.ask_again).min()
    }

    /// Waits for the next question to end; for ever when none is under way.
    pub(super) async fn next(&mut self) -> Ended {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else { std::future::pending().await };
            if let Some(ended) = self.ended(ended) {
                return ended;
            }
        }
    }

    /// A question that has ended already.
    pub(super) fn try_next(&mut self) -> Option<Ended> {
        loop {
            let ended = self.running.try_join_next_with_id()?;
            if let Some(ended) = self.ended(ended) {
                return Some(ended);
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) -> Option<Ended> {
        match ended {
            Ok((id, answer)) => {
                let purpose = self.purposes.remove(&id)?;
                Some(self.take(purpose, answer))
            }
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "a measurement panicked, please report this defect");
                let why = "the measurement ended with a defect of the hub, which its log names".to_owned();
                let purpose = self.purposes.remove(&error.id())?;
                let answer = match purpose {
                    Purpose::Gate { .. } => Answer::Gate(Reading::NoData(why)),
                    Purpose::Proof(_) => Answer::Requests(Some(Err(why))),
                };
                Some(self.take(purpose, answer))
            }
        }
    }

    fn take(&mut self, purpose: Purpose, answer: Answer) -> Ended {
        match (purpose, answer) {
            (Purpose::Gate { key, at, kind }, Answer::Gate(reading)) => {
                let ended = Ended { kind, outcome: outcome(&reading) };
                let measured = Measured { step: key.step, gate: key.gate, at, reading };
                self.readings.entry(key.shift).or_default().push(measured);
                ended
            }
            (Purpose::Proof(key), Answer::Requests(found)) => {
                let (evidence, outcome) = judged(found);
                if let Some(proof) = self.proofs.get_mut(&key) {
                    proof.evidence = evidence;
                }
                Ended { kind: "evidence", outcome }
            }
            // Each purpose is spawned with a question of its own kind.
            (Purpose::Gate { kind, .. }, _) => Ended { kind, outcome: "no_data" },
            (Purpose::Proof(_), _) => Ended { kind: "evidence", outcome: "no_data" },
        }
    }

    /// What came in for this shift and was not taken in by it yet. A reading of which the shift knows already, since its save went
    /// through although no answer came, is not given a second time.
    pub(super) fn readings(&mut self, shift: &Shift) -> Vec<Measured> {
        let Some(readings) = self.readings.get_mut(&shift.id) else { return Vec::new() };
        readings.retain(|one| {
            let run = shift.gates.get(one.gate).filter(|_| shift.step == Some(one.step));
            run.is_some_and(|run| run.measured_at.is_none_or(|at| at < one.at))
        });
        readings.clone()
    }

    /// Forgets what was stored with a shift.
    pub(super) fn stored(&mut self, shift: &ShiftId, taken: &[Measured]) {
        if let Some(readings) = self.readings.get_mut(shift) {
            readings.retain(|one| !taken.contains(one));
        }
    }

    /// Forgets shifts that are over.
    pub(super) fn retain(&mut self, active: impl Fn(&ShiftId) -> Option<State>) {
        self.readings.retain(|shift, _| active(shift).is_some());
        self.proofs.retain(|(shift, _), _| active(shift) == Some(State::Converging));
    }
}

fn judged(found: Option<Result<f64, String>>) -> (Evidence, &'static str) {
    match found {
        None => (Evidence::NotConfigured, "not_configured"),
        Some(Ok(requests)) if requests <= QUIET => (Evidence::Quiet, "pass"),
        Some(Ok(requests)) => {
            let why = format!("the clusters without a share still got {requests} requests in the last period counted");
            (Evidence::Pending(why), "wait")
        }
        Some(Err(why)) => (Evidence::NoData(why), "no_data"),
    }
}

fn outcome(reading: &Reading) -> &'static str {
    match reading {
        Reading::Value(_) => "value",
        Reading::NoData(_) => "no_data",
        Reading::Verdict { pass: Some(true), .. } => "pass",
        Reading::Verdict { pass: Some(false), .. } => "fail",
        Reading::Verdict { pass: None, .. } => "wait",
    }
}

#[cfg(test)]
#[path = "measuring_tests.rs"]
mod tests;
