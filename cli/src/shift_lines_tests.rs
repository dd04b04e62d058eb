//! The progress of a shift: nothing is told twice, nothing is left out, and each line can be read alone.

use super::*;
use crate::model::{
    Note, PolicyRef,
    fixtures::{self, SHIFT, event, later},
};

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

fn gate(phase: Phase, succeeded: u32, failed: u32, message: &str) -> GateStatus {
    GateStatus { name: "errors".into(), phase, succeeded, failed, message: message.into(), ..GateStatus::default() }
}

fn baking() -> Shift {
    let first = fixtures::shift(State::Pending, 0);
    later(&first, State::Baking, 1, "StepProgrammed", "the weights of step 1 were read back")
}

#[test]
fn each_line_names_shift_state_step_weights_and_why() {
    let now = baking();
    let lines = lines(None, &now);
    assert_eq!(
        texts(&lines),
        [
            format!("shift {SHIFT} Pending: asked for (Created), by deployer"),
            format!(
                "shift {SHIFT} Baking 1/3 (25%), shop/checkout blue=75,green=25: the weights of step 1 were read back \
                 (StepProgrammed)"
            ),
        ]
    );
    assert_eq!(lines[1].at, now.status.history[1].at, "an event is told with the time at which it happened");
}

#[test]
fn an_unchanged_shift_gives_no_line() {
    let now = baking();
    assert_eq!(lines(Some(&now), &now), []);
    let mut touched = now.clone();
    touched.version += 1;
    touched.status.since = None;
    touched.status.until = now.created_at;
    assert_eq!(lines(Some(&now), &touched), []);
}

#[test]
fn what_happened_while_nobody_watched_is_told_in_order() {
    let before = fixtures::shift(State::Pending, 0);
    let one =
        later(&before, State::Stepping, 1, "StepRequested", "step 1 of 3 asks for shop/checkout blue=75,green=25");
    let two = later(&one, State::Baking, 1, "StepProgrammed", "the weights of step 1 were read back");
    let lines = lines(Some(&before), &two);
    let expected = format!(
        "shift {SHIFT} Stepping 1/3 (25%), shop/checkout blue=75,green=25: step 1 of 3 asks for shop/checkout \
         blue=75,green=25 (StepRequested)"
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0].text, expected);
    assert!(lines[1].text.contains("Baking 1/3 (25%)"), "{lines:?}");
}

#[test]
fn weights_are_told_only_with_events_at_which_they_were_asked_for() {
    let first = fixtures::shift(State::Pending, 0);
    let one = later(&first, State::Baking, 1, "StepProgrammed", "read back");
    let two = later(&one, State::Aborting, 1, "GateFailed", "gate errors failed");
    let mut back = later(&two, State::Failed, 1, "Restored", "the recorded weights were read back");
    for one in &mut back.status.moves {
        one.present = one.from.clone();
    }
    let told = lines(Some(&first), &back);
    assert!(told[0].text.contains(" Baking 1/3 (25%): read back"), "{told:?}");
    assert!(told[1].text.contains(" Aborting 1/3 (25%), shop/checkout blue=100,green=0: gate"), "{told:?}");
    assert!(told[2].text.contains(" Failed 1/3 (25%), shop/checkout blue=100,green=0: the"), "{told:?}");
}

#[test]
fn an_event_is_not_told_again_when_the_hub_dropped_older_ones() {
    let before = baking();
    let mut now = later(&before, State::Stepping, 2, "StepRequested", "step 2 of 3 asks");
    now.status.history.remove(1);
    now.status.history.push(event(9, State::Baking, 2, "StepProgrammed", "read back"));
    let told = lines(Some(&before), &now);
    assert!(told.iter().all(|line| !line.text.contains("(Created)")), "{told:?}");
    assert!(told.iter().any(|line| line.text.contains("step 2 of 3 asks")), "{told:?}");
    assert!(told.iter().any(|line| line.text.contains("read back")), "{told:?}");
}

#[test]
fn what_is_waited_for_is_told_when_it_changes_although_nothing_happened() {
    let before = baking();
    let mut now = before.clone();
    now.status.reason = "Held".into();
    now.status.message = "shop/checkout is frozen".into();
    let expected =
        format!("shift {SHIFT} Baking 1/3 (25%), shop/checkout blue=75,green=25: shop/checkout is frozen (Held)");
    assert_eq!(texts(&lines(Some(&before), &now)), [expected]);
    assert_eq!(lines(Some(&now), &now), []);
}

#[test]
fn what_an_event_said_already_is_not_said_again() {
    let before = baking();
    let message = "the last weights are in force at AWS; the settle time runs";
    let mut now = later(&before, State::Converging, 3, "Settling", message);
    now.status.message = "the settle time runs".into();
    assert_eq!(lines(Some(&before), &now).len(), 1);
    let mut held = now.clone();
    held.status.message = "listener/1 is throttled".into();
    assert_eq!(lines(Some(&now), &held).len(), 1);
}

#[test]
fn a_step_that_waits_for_approval_is_told_once_with_the_command_that_gives_it() {
    let before = baking();
    let waiting = later(&before, State::AwaitingApproval, 1, "ApprovalNeeded", "step 1 waits for approval");
    let told = lines(Some(&before), &waiting);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].text.ends_with(&format!("`yardctl approve {SHIFT} --step 1`")), "{told:?}");
    let mut touched = waiting.clone();
    touched.status.gates = vec![gate(Phase::Running, 1, 0, "fine")];
    assert_eq!(lines(Some(&waiting), &touched), []);
    let approved = later(&waiting, State::AwaitingApproval, 1, "Approved", "step 1 was approved");
    assert_eq!(lines(Some(&waiting), &approved).len(), 1);
}

#[test]
fn a_gate_is_told_when_its_verdict_changes_or_a_measurement_failed() {
    let mut before = baking();
    before.status.gates = vec![gate(Phase::Running, 0, 0, "")];
    let tell = |gates: Vec<GateStatus>, before: &Shift| {
        let mut now = before.clone();
        now.status.gates = gates;
        (lines(Some(before), &now).len(), now)
    };
    let (told, now) = tell(vec![gate(Phase::Running, 1, 0, "0.002 is a success")], &before);
    assert_eq!(told, 0, "a good measurement is no news");
    let (told, now) = tell(vec![gate(Phase::NoData, 1, 0, "no series")], &now);
    assert_eq!(told, 1);
    let (told, now) = tell(vec![gate(Phase::NoData, 1, 0, "no series")], &now);
    assert_eq!(told, 0, "told once");
    let (told, now) = tell(vec![gate(Phase::Running, 2, 0, "0.002 is a success")], &now);
    assert_eq!(told, 1, "it has data again");
    let (told, now) = tell(vec![gate(Phase::Running, 2, 1, "0.2 is a failure")], &now);
    assert_eq!(told, 1);
    let (told, now) = tell(vec![gate(Phase::Passed, 4, 1, "0.002 is a success")], &now);
    assert_eq!(told, 1);
    let expected = "gate errors Passed: 4 succeeded, 1 failed, 0 without data: 0.002 is a success";
    assert_eq!(gate_line(&now.status.gates[0]), expected);
}

#[test]
fn the_gates_of_the_next_step_begin_anew() {
    let mut before = baking();
    before.status.gates = vec![gate(Phase::Passed, 4, 1, "")];
    let mut now = later(&before, State::Baking, 2, "StepProgrammed", "the weights of step 2 were read back");
    now.status.gates = vec![gate(Phase::Running, 0, 0, "")];
    let told = lines(Some(&before), &now);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn what_outlives_the_shift_is_told_once() {
    let mut now = baking();
    now.status.notes = vec![Note {
        policy: PolicyRef { namespace: "shop".into(), name: "checkout".into() },
        cluster: String::new(),
        reason: "OpenStreams".into(),
        message: "WebSockets stay with blue".into(),
    }];
    let told = lines(None, &now);
    let expected = format!("shift {SHIFT}: note for shop/checkout: OpenStreams: WebSockets stay with blue");
    assert_eq!(told.last().map(|line| line.text.as_str()), Some(expected.as_str()));
    assert_eq!(lines(Some(&now), &now), []);
}

#[test]
fn a_policy_that_left_the_shift_is_shown_without_weights() {
    let mut now = baking();
    let mut left = now.status.moves[0].clone();
    left.policy.name = "cart".into();
    left.present.clear();
    now.status.moves.push(left);
    assert_eq!(weights_now(&now), "shop/checkout blue=75,green=25");
}

#[test]
fn of_many_policies_the_first_is_named_and_the_others_are_counted() {
    let mut now = baking();
    let one = now.status.moves[0].clone();
    now.status.moves = vec![one.clone(); 2];
    assert_eq!(weights_now(&now).matches("blue=75,green=25").count(), 2, "a few are listed");
    now.status.moves = vec![one; 20];
    assert_eq!(weights_now(&now), "shop/checkout blue=75,green=25; and 19 more policies");
    let policy = now.spec.policies[0].clone();
    now.spec.policies = vec![policy; 20];
    assert_eq!(now.spec.policies_in_short(), "shop/checkout and 19 more");
    now.spec.policies.truncate(2);
    assert_eq!(now.spec.policies_in_short(), "shop/checkout, shop/checkout");
}

#[test]
fn a_pause_stands_beside_the_state() {
    let mut now = baking();
    now.status.paused = Some(crate::model::shift::Pause::default());
    assert_eq!(place(&now), "Baking 1/3 (25%) PAUSED");
}

#[test]
fn the_live_line_shows_the_time_that_is_left_and_fits_the_terminal() {
    let mut shift = baking();
    let now: Timestamp = "2026-01-02T03:00:48Z".parse().unwrap();
    shift.status.until = Some("2026-01-02T03:02:00Z".parse().unwrap());
    shift.status.message = "bakes until 2026-01-02T03:02:00Z".into();
    let expected = "Baking 1/3 (25%)  shop/checkout blue=75,green=25  1m12s left  bakes until 2026-01-02T03:02:00Z";
    assert_eq!(live(&shift, now, 200), expected);
    assert_eq!(live(&shift, now, 20), expected[..20]);
    shift.status.until = None;
    assert!(live(&shift, now, 200).contains("green=25  for 48s  bakes"), "{}", live(&shift, now, 200));
    shift.status.message = "a\u{e9}\u{20ac}b".repeat(40);
    assert_eq!(live(&shift, now, 75).chars().count(), 75, "characters are not cut in the middle");
}
