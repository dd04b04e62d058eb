//! When a cluster that is on its way is looked at, and when what came of it is stored.

use jiff::Timestamp;
use switchyard_core::fleet::{Kind, Operation, Why};

use super::*;

fn draining(version: u64) -> ClusterState {
    ClusterState {
        cluster: "blue".parse().unwrap(),
        version,
        mode: Mode::Draining,
        percent: 75,
        deregister: true,
        operation: Operation {
            id: "one".into(),
            kind: Kind::Drain,
            actor: "me".into(),
            reason: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            until: None,
            ended_at: None,
            step_percent: 25,
            step_seconds: 0,
            stepped_at: Some(Timestamp::UNIX_EPOCH),
            force: false,
            why: Why::InProgress,
            message: "at 75 %".into(),
            progress: Vec::new(),
        },
    }
}

fn update(change: impl FnOnce(&mut ClusterState)) -> Update {
    let before = draining(3);
    let mut after = before.clone();
    change(&mut after);
    Update { before, after }
}

#[test]
fn a_step_is_stored_at_once_and_mere_words_after_a_moment() {
    let (mut term, now) = (FleetTerm::default(), Instant::now());
    assert_eq!(term.storing(&update(|_| {}), now), None);
    assert_eq!(term.storing(&update(|state| state.percent = 50), now), Some(now));
    let words = update(|state| state.operation.message = "two policies wait".into());
    assert_eq!(term.storing(&words, now), Some(now + WORDS_PAUSE));
    let other = update(|state| state.operation.message = "one policy waits".into());
    assert_eq!(term.storing(&other, now + WORDS_PAUSE), Some(now + WORDS_PAUSE), "other words do not begin anew");
    assert_eq!(term.storing(&update(|_| {}), now), None);
    assert_eq!(term.storing(&words, now + WORDS_PAUSE), Some(now + WORDS_PAUSE * 2), "they were as stored in between");
}

#[test]
fn what_was_stored_is_not_looked_at_again_before_the_picture_shows_it_or_is_known_to_have_lost_it() {
    let (mut term, now) = (FleetTerm::default(), Instant::now());
    assert_eq!(term.not_before(&draining(3), now), None);
    term.stored(&draining(3), now);
    assert_eq!(term.not_before(&draining(3), now), Some(now + LOST_AFTER));
    assert_eq!(term.not_before(&draining(4), now), None, "the picture shows it");
    assert_eq!(term.not_before(&draining(3), now + LOST_AFTER), None, "the store lost it");
    term.follow(&Fleet::new());
    assert_eq!(term.not_before(&draining(3), now), None, "the cluster is not known any more");
}

#[test]
fn clusters_are_counted_by_what_operators_want_of_them() {
    let metrics = Metrics::new();
    let mut picture = Picture::empty();
    picture.fleet = std::sync::Arc::new(Fleet::from([("blue".parse().unwrap(), std::sync::Arc::new(draining(1)))]));
    count(&picture, &metrics);
    let text = metrics.encoded().unwrap();
    assert!(text.contains(r#"switchyard_hub_clusters{mode="draining"} 1"#), "{text}");
    assert!(text.contains(r#"switchyard_hub_clusters{mode="active"} 0"#), "{text}");
}
