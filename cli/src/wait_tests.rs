//! A wait is fed with scripts of observations; each test says how it must end.

use super::*;
use crate::model::fixtures;

/// A policy at `version` whose condition `kind` is `status` for `observed`; the others are unknown.
fn look(version: u64, kind: &str, status: Truth, observed: u64) -> Policy {
    let mut policy = fixtures::policy(version);
    for condition in &mut policy.status.conditions {
        condition.status = Truth::Unknown;
        if condition.r#type == kind {
            condition.status = status;
            condition.observed_version = observed;
        }
    }
    policy
}

fn seen(policy: Policy) -> Observation {
    Observation::Seen(Box::new(policy))
}

/// What the call answered: accepted, nothing judged yet.
fn created(version: u64) -> Policy {
    let mut policy = look(version, "", Truth::Unknown, 0);
    policy.created_at = Some("2026-01-02T03:00:00Z".parse().unwrap());
    policy
}

/// Runs a script; gives the ending, how many observations it took, and what was told.
fn run(until: Until, version: u64, script: Vec<Observation>) -> (Option<Ending>, usize, Vec<String>) {
    let (mut wait, mut told, ending) = Wait::start(until, &created(version));
    assert_eq!(ending, None, "the answer alone ends nothing in these scripts");
    for (index, observation) in script.into_iter().enumerate() {
        let (next, lines, ending) = wait.step(observation);
        told.extend(lines);
        if ending.is_some() {
            return (ending, index + 1, told);
        }
        wait = next;
    }
    (None, 0, told)
}

const CONVERGED: Until = Until::True(Goal::Converged);

#[test]
fn it_ends_when_the_condition_is_true_of_the_version_that_was_created() {
    for goal in [Goal::Accepted, Goal::Programmed, Goal::Converged] {
        let script = vec![
            Observation::Connected,
            seen(look(7, goal.condition(), Truth::False, 7)).without_accepted_false(goal),
            Observation::Synced,
            seen(look(7, goal.condition(), Truth::True, 7)),
        ];
        let (ending, steps, _) = run(Until::True(goal), 7, script);
        assert_eq!((ending, steps), (Some(Ending::Reached), 4), "{goal:?}");
    }
}

trait Soften {
    fn without_accepted_false(self, goal: Goal) -> Observation;
}

impl Soften for Observation {
    /// Accepted=False is final, so the wait for Accepted begins with Unknown instead.
    fn without_accepted_false(self, goal: Goal) -> Observation {
        if goal == Goal::Accepted { seen(look(7, "Accepted", Truth::Unknown, 7)) } else { self }
    }
}

#[test]
fn a_condition_that_was_true_of_an_older_version_does_not_end_it() {
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(look(7, "Converged", Truth::True, 6))]);
    assert_eq!(ending, None);
}

#[test]
fn an_older_picture_of_the_policy_gives_no_verdict() {
    let script = vec![seen(look(6, "Converged", Truth::True, 6)), seen(look(7, "Converged", Truth::True, 7))];
    let (ending, steps, _) = run(CONVERGED, 7, script);
    assert_eq!((ending, steps), (Some(Ending::Reached), 2));
}

#[test]
fn a_later_version_by_somebody_else_supersedes_it() {
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(look(8, "Converged", Truth::False, 7))]);
    assert_eq!(ending, Some(Ending::Superseded("version 8 was accepted after version 7".into())));
}

#[test]
fn a_later_version_that_converged_is_not_taken_for_ours() {
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(look(8, "Converged", Truth::True, 8))]);
    assert!(matches!(ending, Some(Ending::Superseded(_))), "{ending:?}");
}

#[test]
fn ours_counts_as_reached_when_the_later_version_came_after_it() {
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(look(8, "Converged", Truth::True, 7))]);
    assert_eq!(ending, Some(Ending::Reached));
}

#[test]
fn a_refused_version_fails_it_with_the_hubs_words() {
    let mut policy = look(7, "Accepted", Truth::False, 7);
    policy.status.conditions[0].reason = "ListenerUnsuitable".into();
    policy.status.conditions[0].message = "the listener cannot forward".into();
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(policy)]);
    let why = "Accepted is False (ListenerUnsuitable) for version 7: the listener cannot forward";
    assert_eq!(ending, Some(Ending::Failed(why.into())));
}

#[test]
fn an_unresolved_reference_goes_on_waiting() {
    let (ending, _, _) = run(CONVERGED, 7, vec![seen(look(7, "ResolvedRefs", Truth::False, 7))]);
    assert_eq!(ending, None);
}

#[test]
fn deletion_ends_it_however_it_is_seen() {
    let mut deleting = created(7);
    deleting.deleting_since = deleting.updated_at;
    for script in [
        vec![Observation::Deleted(Box::new(created(7)))],
        vec![Observation::Connected, seen(created(7)), Observation::Connected, Observation::Synced],
        vec![Observation::Connected, seen(created(7)), Observation::Unknown],
        vec![seen(deleting)],
        vec![seen(anew("2026-01-02T04:00:00Z"))],
    ] {
        let shown = format!("{script:?}");
        let (ending, _, _) = run(CONVERGED, 7, script);
        assert!(matches!(ending, Some(Ending::Deleted(_))), "{ending:?} after {shown}");
    }
}

/// Another policy of the same name.
fn anew(at: &str) -> Policy {
    let mut anew = fixtures::policy(1);
    anew.uid = "u-2".into();
    anew.created_at = Some(at.parse().unwrap());
    anew
}

#[test]
fn a_watch_that_lags_behind_the_answer_is_given_time() {
    let older = anew("2026-01-01T00:00:00Z");
    let script = vec![
        Observation::Unknown,
        Observation::Connected,
        seen(older.clone()),
        Observation::Synced,
        Observation::Deleted(Box::new(older)),
        seen(look(7, "Converged", Truth::True, 7)),
    ];
    let (ending, steps, _) = run(CONVERGED, 7, script);
    assert_eq!((ending, steps), (Some(Ending::Reached), 6));
    let script = vec![Observation::Connected, Observation::Synced, seen(look(7, "Converged", Truth::True, 7))];
    let (ending, steps, _) = run(CONVERGED, 7, script);
    assert_eq!((ending, steps), (Some(Ending::Reached), 3), "a policy that is not in the first picture yet");
}

#[test]
fn what_the_answer_shows_as_true_ends_it_at_once() {
    let (_, _, ending) = Wait::start(Until::True(Goal::Accepted), &look(7, "Accepted", Truth::True, 7));
    assert_eq!(ending, Some(Ending::Reached));
}

#[test]
fn a_broken_watch_is_told_once_and_does_not_end_it() {
    let script = vec![
        Observation::Connected,
        seen(fixtures::policy(7)),
        Observation::Lost("connection refused".into()),
        Observation::Lost("connection refused".into()),
        Observation::Connected,
        seen(look(7, "Converged", Truth::True, 7)),
    ];
    let (ending, steps, told) = run(CONVERGED, 7, script);
    assert_eq!((ending, steps), (Some(Ending::Reached), 6));
    assert_eq!(told.iter().filter(|line| line.starts_with("lost the hub")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|line| *line == "the hub answers again").count(), 1, "{told:?}");
}

#[test]
fn a_policy_missing_from_the_picture_after_a_reconnect_is_deleted() {
    let script = vec![
        Observation::Connected,
        seen(fixtures::policy(7)),
        Observation::Synced,
        Observation::Lost("reset".into()),
        Observation::Connected,
        Observation::Synced,
    ];
    let (ending, steps, _) = run(CONVERGED, 7, script);
    assert_eq!((ending, steps), (Some(Ending::Deleted("the policy was deleted".into())), 6));
}

#[test]
fn waiting_for_a_deletion_ends_when_the_policy_is_gone() {
    let mut deleting = created(8);
    deleting.deleting_since = deleting.updated_at;
    for (script, steps) in [
        (vec![seen(deleting.clone()), Observation::Synced, Observation::Deleted(Box::new(deleting.clone()))], 3),
        (vec![Observation::Connected, Observation::Synced], 2),
        (vec![Observation::Unknown], 1),
        (vec![seen(deleting), seen(anew("2026-01-02T04:00:00Z"))], 2),
    ] {
        let (ending, took, _) = run(Until::Gone, 8, script);
        assert_eq!((ending, took), (Some(Ending::Reached), steps));
    }
}

#[test]
fn a_policy_that_was_applied_again_supersedes_its_deletion() {
    let (ending, _, _) = run(Until::Gone, 8, vec![seen(fixtures::policy(9))]);
    assert_eq!(ending, Some(Ending::Superseded("version 9 keeps the policy".into())));
}

#[test]
fn what_is_pending_names_the_condition_and_every_note() {
    let (wait, _, _) = Wait::start(CONVERGED, &created(7));
    assert!(wait.pending().starts_with("Converged is Unknown"), "{}", wait.pending());
    let (wait, _, _) = wait.step(seen(fixtures::policy(7)));
    let expected = format!(
        "Converged is False (WeightsHeld) for version 7: the change of weights waits as a whole for green; \
         note for blue: RemovalsHeld: {}; note for green: ClusterStale: {}",
        fixtures::REMOVALS_HELD,
        fixtures::CLUSTER_STALE
    );
    assert_eq!(wait.pending(), expected);
    let (wait, _, _) = wait.step(seen(look(7, "Converged", Truth::True, 6)));
    assert!(wait.pending().starts_with("the hub has judged Converged of version 6 so far, not yet of version 7"));
}
