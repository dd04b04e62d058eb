//! The books on measurements: none twice, none lost, none under way longer than its shift.

use std::{future::pending, sync::Arc};

use tokio::sync::Notify;

use super::*;

fn id(name: &str) -> ShiftId {
    name.parse().unwrap()
}

fn uid() -> PolicyUid {
    "uid".parse().unwrap()
}

fn key(shift: &str, gate: usize) -> GateKey {
    GateKey { shift: id(shift), step: 0, gate }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A shift that bakes its first step with so many gates; those with a time were measured then.
fn shift(name: &str, measured_at: &[Option<i64>]) -> Shift {
    let gates: Vec<serde_json::Value> = (0..measured_at.len())
        .map(|n| {
            serde_json::json!({"name": format!("g{n}"), "query": {"webhook": {"endpoint": "ci"}}, "success": null,
                "failure": null, "intervalSeconds": 10, "count": 1, "failureLimit": 0})
        })
        .collect();
    let runs: Vec<serde_json::Value> = measured_at
        .iter()
        .map(|measured_at| {
            serde_json::json!({"phase": "Running", "succeeded": 0, "failed": 0, "withoutData": 0, "message": "",
                "measuredAt": measured_at.map(at), "value": null})
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "id": name, "version": 1, "origin": "call", "actor": "", "reason": "", "createdAt": at(0),
        "spec": {"policies": [{"name": "checkout", "to": "green"}]}, "moves": [],
        "steps": [{"percent": 100, "bakeSeconds": 60, "approval": false, "gates": gates}],
        "overrides": [], "progressDeadlineSeconds": 600, "state": "Baking", "step": 0, "since": at(0), "endedAt": null,
        "pause": null, "promoted": false, "approved": null, "gates": runs, "cause": null, "why": "Baking",
        "message": "", "findings": [], "programmed": true, "converged": false, "history": [],
    }))
    .unwrap()
}

async fn value(number: f64) -> Reading {
    Reading::Value(number)
}

#[tokio::test]
async fn a_gate_is_measured_once_at_a_time_and_not_again_before_its_reading_is_stored() {
    let mut books = Measuring::default();
    let gate = Arc::new(Notify::new());
    let wait = Arc::clone(&gate);
    let held = async move {
        wait.notified().await;
        Reading::Value(1.0)
    };
    books.measure(key("a", 0), "webhook", at(1), held);
    books.measure(key("a", 0), "webhook", at(2), value(2.0));
    books.measure(key("a", 1), "webhook", at(2), value(3.0));
    assert_eq!(books.running.len(), 2, "the second of the same gate was not started");
    assert_eq!(books.next().await, Ended { kind: "webhook", outcome: "value" });
    gate.notify_one();
    books.next().await;
    assert!(books.running.is_empty());
    let shift = shift("a", &[None, None]);
    let readings = books.readings(&shift);
    let found: Vec<(usize, Timestamp)> = readings.iter().map(|one| (one.gate, one.at)).collect();
    assert_eq!(found, [(1, at(2)), (0, at(1))]);
    books.measure(key("a", 0), "webhook", at(3), value(4.0));
    assert!(books.running.is_empty(), "what came in is not stored yet");
    assert_eq!(books.readings(&shift), readings, "looking takes nothing away: the save may be lost");
    books.stored(&shift.id, &readings);
    assert_eq!(books.readings(&shift), []);
    books.measure(key("a", 0), "webhook", at(3), value(4.0));
    assert_eq!(books.running.len(), 1);
}

#[tokio::test]
async fn a_reading_that_the_shift_has_already_is_not_given_twice() {
    let mut books = Measuring::default();
    books.measure(key("a", 0), "webhook", at(5), value(1.0));
    books.measure(key("a", 1), "webhook", at(5), value(1.0));
    books.next().await;
    books.next().await;
    // The answer to the save was lost, and the save was not.
    let given: Vec<usize> = books.readings(&shift("a", &[Some(5), Some(4)])).iter().map(|one| one.gate).collect();
    assert_eq!(given, [1]);
}

#[tokio::test]
async fn a_reading_of_a_step_that_is_over_is_dropped() {
    let mut books = Measuring::default();
    books.measure(GateKey { step: 1, ..key("a", 0) }, "webhook", at(5), value(1.0));
    books.next().await;
    assert_eq!(books.readings(&shift("a", &[None])), []);
    assert_eq!(books.readings(&Shift { step: Some(1), ..shift("a", &[None]) }), [], "for good");
}

#[tokio::test]
async fn no_more_questions_than_fit_are_under_way_and_the_rest_stays_due() {
    let mut books = Measuring::default();
    for gate in 0..MOST_AT_ONCE + 5 {
        books.measure(key("a", gate), "webhook", at(1), pending());
    }
    books.prove(&id("b"), &uid(), Duration::ZERO, pending());
    assert_eq!(books.running.len(), MOST_AT_ONCE);
    assert_eq!(books.prove_again(), None, "not asked, so that it is asked with the next look");
}

#[tokio::test]
async fn a_measurement_that_panics_is_no_data_and_can_be_made_again() {
    let mut books = Measuring::default();
    books.measure(key("a", 0), "webhook", at(1), async { panic!("a defect") });
    assert_eq!(books.next().await, Ended { kind: "webhook", outcome: "no_data" });
    let readings = books.readings(&shift("a", &[None]));
    assert!(matches!(&readings[..], [Measured { reading: Reading::NoData(_), .. }]), "{readings:?}");
    books.stored(&id("a"), &readings);
    books.measure(key("a", 0), "webhook", at(2), value(1.0));
    assert_eq!(books.next().await, Ended { kind: "webhook", outcome: "value" });
}

#[tokio::test]
async fn evidence_is_asked_for_until_the_clusters_are_quiet() {
    let mut books = Measuring::default();
    let (shift, hour) = (id("a"), Duration::from_secs(3600));
    assert!(matches!(books.evidence(&shift, &uid()), Evidence::Pending(_)), "not asked yet");
    books.prove(&shift, &uid(), Duration::ZERO, async { Some(Ok(40.0)) });
    assert_eq!(books.next().await, Ended { kind: "evidence", outcome: "wait" });
    let Evidence::Pending(why) = books.evidence(&shift, &uid()) else { panic!("40 requests are not quiet") };
    assert!(why.contains("40 requests"), "{why}");
    assert!(books.prove_again().is_some());
    books.prove(&shift, &uid(), Duration::ZERO, async { Some(Err("nothing is published yet".into())) });
    assert_eq!(books.next().await, Ended { kind: "evidence", outcome: "no_data" });
    assert_eq!(books.evidence(&shift, &uid()), Evidence::NoData("nothing is published yet".into()));
    books.prove(&shift, &uid(), hour, async { Some(Ok(QUIET)) });
    assert_eq!(books.next().await, Ended { kind: "evidence", outcome: "pass" });
    assert_eq!(books.evidence(&shift, &uid()), Evidence::Quiet);
    assert_eq!(books.prove_again(), None);
    books.prove(&shift, &uid(), Duration::ZERO, async { Some(Ok(40.0)) });
    assert!(books.running.is_empty(), "quiet is proven once");
}

#[tokio::test]
async fn evidence_is_not_asked_for_again_before_its_time() {
    let mut books = Measuring::default();
    books.prove(&id("a"), &uid(), Duration::from_secs(3600), async { Some(Ok(40.0)) });
    books.next().await;
    books.prove(&id("a"), &uid(), Duration::ZERO, async { Some(Ok(0.0)) });
    assert!(books.running.is_empty());
    assert!(matches!(books.evidence(&id("a"), &uid()), Evidence::Pending(_)));
}

#[tokio::test]
async fn what_nobody_counts_needs_no_proof() {
    let mut books = Measuring::default();
    books.prove(&id("a"), &uid(), Duration::ZERO, async { None });
    assert_eq!(books.next().await, Ended { kind: "evidence", outcome: "not_configured" });
    assert_eq!(books.evidence(&id("a"), &uid()), Evidence::NotConfigured);
}

#[tokio::test]
async fn shifts_that_are_over_leave_nothing_in_the_books() {
    let mut books = Measuring::default();
    books.measure(key("a", 0), "webhook", at(1), value(1.0));
    books.prove(&id("b"), &uid(), Duration::ZERO, async { Some(Ok(40.0)) });
    books.next().await;
    books.next().await;
    books.retain(|shift| (*shift == id("a")).then_some(State::Baking));
    assert!(books.proofs.is_empty());
    assert_eq!(books.readings.len(), 1);
    books.retain(|_| None);
    assert!(books.readings.is_empty());
}

#[tokio::test]
async fn everything_that_has_ended_is_taken_in_without_waiting() {
    let mut books = Measuring::default();
    for gate in 0..4 {
        books.measure(key("a", gate), "webhook", at(1), value(1.0));
    }
    books.next().await;
    let mut ended = 1;
    while !books.running.is_empty() {
        match books.try_next() {
            Some(_) => ended += 1,
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(ended, 4);
    assert_eq!(books.try_next(), None);
    assert_eq!(books.readings(&shift("a", &[None; 4])).len(), 4);
}
