//! A wait for a shift is fed with scripts of news; each test says how it must end.

use super::*;
use crate::model::fixtures::{self, later};

const CONVERGED: Aim = Aim::Goal(Goal::Converged);
const PROGRAMMED: Aim = Aim::Goal(Goal::Programmed);

fn seen(shift: &Shift) -> ShiftNews {
    ShiftNews::Shift(Box::new(shift.clone()))
}

fn answered() -> Shift {
    fixtures::shift(State::Pending, 0)
}

/// Runs a script; gives the ending, how many news it took, and what was told.
fn run(aim: Aim, script: Vec<ShiftNews>) -> (Option<Ending>, usize, Vec<String>) {
    let started = ShiftWait::start(aim, &answered());
    assert_eq!(started.ending, None, "the answer alone ends nothing in these scripts");
    let (mut wait, mut told) = (started.wait, vec![]);
    for (index, news) in script.into_iter().enumerate() {
        let stepped = wait.step(news);
        told.extend(stepped.lines.into_iter().map(|line| line.text));
        if stepped.ending.is_some() {
            return (stepped.ending, index + 1, told);
        }
        wait = stepped.wait;
    }
    (None, 0, told)
}

/// The states of a shift that succeeds, in order.
fn way() -> Vec<Shift> {
    let mut shifts = vec![answered()];
    for (state, step) in [
        (State::Preflight, 0),
        (State::Stepping, 1),
        (State::Baking, 1),
        (State::AwaitingApproval, 1),
        (State::Stepping, 2),
        (State::Baking, 2),
        (State::Stepping, 3),
        (State::Baking, 3),
        (State::Converging, 3),
        (State::Succeeded, 3),
    ] {
        let next = later(shifts.last().unwrap(), state, step, "Reason", &format!("{state} {step}"));
        shifts.push(next);
    }
    shifts
}

#[test]
fn converged_means_that_the_shift_succeeded() {
    let script: Vec<ShiftNews> = way().iter().map(seen).collect();
    let steps = script.len();
    assert_eq!((run(CONVERGED, script).0, steps), (Some(Ending::Reached), 11));
    let unfinished: Vec<ShiftNews> = way().iter().take(10).map(seen).collect();
    assert_eq!(run(CONVERGED, unfinished).0, None);
}

#[test]
fn programmed_means_that_the_last_weights_were_read_back_and_not_those_of_a_step() {
    let way = way();
    let script: Vec<ShiftNews> = way.iter().map(seen).collect();
    let (ending, steps, _) = run(PROGRAMMED, script);
    assert_eq!(ending, Some(Ending::Reached));
    let ended_at = &way[steps - 1].status;
    assert_eq!((ended_at.state, ended_at.step), (State::Baking, 3));
}

#[test]
fn accepted_is_true_of_every_answer() {
    assert_eq!(ShiftWait::start(Aim::Goal(Goal::Accepted), &answered()).ending, Some(Ending::Reached));
}

#[test]
fn every_other_final_state_ends_a_wait_for_the_new_weights() {
    for state in [State::Aborted, State::Superseded, State::Failed] {
        for aim in [CONVERGED, PROGRAMMED] {
            // Programmed is true here, of the weights from before.
            let mut shift = later(&answered(), state, 3, "Restored", "the recorded weights were read back");
            shift.status.programmed = true;
            assert_eq!(run(aim, vec![seen(&shift)]).0, Some(Ending::Ended), "{state} for {aim:?}");
        }
    }
}

#[test]
fn the_way_back_is_not_taken_for_programmed() {
    let mut shift = later(&answered(), State::Aborting, 3, "AbortRequested", "taken back");
    shift.status.programmed = true;
    assert_eq!(run(PROGRAMMED, vec![seen(&shift)]).0, None);
}

#[test]
fn a_wait_for_the_weights_from_before_ends_when_they_were_read_back() {
    let of = |state, reason| run(Aim::Back, vec![seen(&later(&answered(), state, 2, reason, "x"))]).0;
    assert_eq!(of(State::Aborting, "AbortRequested"), None);
    assert_eq!(of(State::Aborted, "Restored"), Some(Ending::Reached));
    assert_eq!(of(State::Aborted, "AbortRequested"), Some(Ending::Reached), "nothing had been moved");
    assert_eq!(of(State::Failed, "Restored"), Some(Ending::Reached), "it was on its way back already");
    assert_eq!(of(State::Aborted, "RestorePending"), Some(Ending::Ended));
    assert_eq!(of(State::Superseded, "PolicyChanged"), Some(Ending::Ended));
    assert_eq!(of(State::Succeeded, "Converged"), Some(Ending::Ended));
}

#[test]
fn a_shift_that_is_over_when_the_call_answers_needs_no_watch() {
    // A request id that was used before gives the first answer, also of a shift that ended long ago.
    let done = later(&answered(), State::Succeeded, 3, "Converged", "the weights are in force");
    assert_eq!(ShiftWait::start(CONVERGED, &done).ending, Some(Ending::Reached));
}

#[test]
fn of_a_shift_that_was_there_before_the_call_only_the_call_is_told() {
    let way = way();
    let going_on = ShiftWait::go_on(CONVERGED, &way[4]);
    let told: Vec<String> = going_on.lines.into_iter().map(|line| line.text).collect();
    assert!(told.len() == 1 && told[0].contains("AwaitingApproval 1"), "{told:?}");
    assert!(going_on.changed && going_on.ending.is_none());
    let next = going_on.wait.step(seen(&way[5]));
    assert_eq!(next.lines.len(), 1, "{:?}", next.lines);
}

#[test]
fn an_older_picture_from_another_replica_is_not_looked_at() {
    let way = way();
    let script = vec![seen(&way[5]), seen(&way[3]), seen(&way[10])];
    let (ending, steps, told) = run(CONVERGED, script);
    assert_eq!((ending, steps), (Some(Ending::Reached), 3));
    assert_eq!(told.iter().filter(|line| line.contains("Baking 1")).count(), 1, "{told:?}");
}

#[test]
fn only_another_shift_is_a_change() {
    let shift = answered();
    let started = ShiftWait::start(CONVERGED, &shift);
    assert!(started.changed);
    let again = started.wait.step(seen(&shift));
    assert!(!again.changed);
    let connected = again.wait.step(ShiftNews::Opened);
    assert!(!connected.changed);
    assert!(connected.wait.step(seen(&way()[1])).changed);
}

#[test]
fn a_broken_watch_is_told_once_and_does_not_end_it() {
    let lost = || ShiftNews::Lost("connection refused".into());
    let way = way();
    let script = vec![ShiftNews::Opened, lost(), lost(), ShiftNews::Opened, seen(&way[10])];
    let (ending, _, told) = run(CONVERGED, script);
    assert_eq!(ending, Some(Ending::Reached));
    assert_eq!(told.iter().filter(|line| line.starts_with("lost the hub")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|line| *line == "the hub answers again").count(), 1, "{told:?}");
}

#[test]
fn a_replica_that_lags_behind_is_given_time_to_learn_of_the_shift() {
    let few = usize::try_from(UNKNOWN_TO_BELIEVE).unwrap() - 1;
    let mut script = vec![ShiftNews::NotFound; few];
    script.push(seen(&way()[1]));
    script.extend(vec![ShiftNews::NotFound; few]);
    script.push(seen(&way()[10]));
    assert_eq!(run(CONVERGED, script).0, Some(Ending::Reached));
    let (ending, steps, _) = run(CONVERGED, vec![ShiftNews::NotFound; 20]);
    assert_eq!((ending, steps), (Some(Ending::Unknown), few + 1));
}

#[test]
fn a_shift_that_was_never_seen_and_is_not_known_ends_it_at_once() {
    assert_eq!(ShiftWait::new(CONVERGED).step(ShiftNews::NotFound).ending, Some(Ending::Unknown));
}

#[test]
fn what_is_pending_says_where_the_shift_is_until_when_and_why() {
    let wait = ShiftWait::new(CONVERGED);
    assert_eq!(wait.pending(), "the hub has not told the state of the shift yet");
    let mut shift = way()[3].clone();
    shift.status.until = Some("2026-01-02T03:02:00Z".parse().unwrap());
    shift.status.message = "bakes".into();
    let pending = wait.step(seen(&shift)).wait.pending();
    let expected = format!(
        "shift {} Baking 1/3 (25%), shop/checkout blue=75,green=25, until 2026-01-02T03:02:00Z: bakes",
        fixtures::SHIFT
    );
    assert_eq!(pending, expected);
}
