//! Which status is written when.

use std::{sync::Arc, time::Duration};

use super::{
    objects::{Key, Resource, Spec},
    status::{Claim, Condition, ResourceStatus},
    writer::{Action, Outcome, Writer},
};

fn key(name: &str) -> Key {
    Key { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn shown(uid: &str, version: u64, status: &ResourceStatus) -> Resource {
    Resource {
        key: key("a"),
        uid: uid.to_owned(),
        generation: 1,
        resource_version: version.to_string(),
        spec: Spec::Text(Arc::from("{}")),
        status: status.clone(),
    }
}

fn accepted(generation: u64) -> ResourceStatus {
    let condition = Condition {
        kind: "Accepted".to_owned(),
        status: "True".to_owned(),
        reason: "AsRequested".to_owned(),
        ..Condition::default()
    };
    ResourceStatus {
        observed_generation: Some(generation),
        generation_in_force: Some(generation),
        claim: Some(Claim::Owner),
        conditions: vec![condition],
        ..ResourceStatus::default()
    }
}

fn nothing() -> ResourceStatus {
    ResourceStatus::default()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The writes among what is due, as (version, observed generation).
fn writes(writer: &mut Writer, now: Duration) -> Vec<(String, Option<u64>)> {
    let actions = writer.due(now).into_iter();
    let writes = actions.filter_map(|action| match action {
        Action::Write { version, status, .. } => Some((version, status.observed_generation)),
        Action::Tell { .. } => None,
    });
    writes.collect()
}

fn one(version: &str, generation: u64) -> Vec<(String, Option<u64>)> {
    vec![(version.to_owned(), Some(generation))]
}

fn reasons(writer: &mut Writer, now: Duration) -> Vec<String> {
    let actions = writer.due(now).into_iter();
    let told = actions.filter_map(|action| match action {
        Action::Tell { draft, .. } => Some(draft.reason),
        Action::Write { .. } => None,
    });
    told.collect()
}

fn done(writer: &mut Writer, version: u64, status: &ResourceStatus, now: Duration) {
    let resource = Box::new(shown("u1", version, status));
    writer.written(&key("a"), "u1", Outcome::Written(resource), now, 0.5);
}

/// A resource without a status that should show generation 1, the write under way.
fn writing() -> Writer {
    let mut writer = Writer::default();
    writer.saw(&shown("u1", 1, &nothing()));
    writer.show(&key("a"), "u1", accepted(1));
    assert_eq!(writes(&mut writer, at(0)), one("1", 1));
    writer
}

#[test]
fn a_status_is_written_once_and_told_once() {
    let mut writer = writing();
    assert_eq!(writes(&mut writer, at(5)), [], "the write is under way");
    done(&mut writer, 2, &accepted(1), at(5));
    assert_eq!(reasons(&mut writer, at(5)), ["Accepted"]);
    writer.saw(&shown("u1", 2, &accepted(1)));
    assert_eq!((writer.due(at(60)), writer.wake_at()), (vec![], None));
}

#[test]
fn a_change_is_told_also_when_the_watch_is_faster_than_the_answer() {
    let mut writer = writing();
    writer.saw(&shown("u1", 2, &accepted(1)));
    done(&mut writer, 2, &accepted(1), at(1));
    assert_eq!(reasons(&mut writer, at(1)), ["Accepted"]);
}

#[test]
fn a_resource_that_shows_it_already_is_not_written() {
    let mut writer = Writer::default();
    writer.saw(&shown("u1", 1, &accepted(1)));
    writer.show(&key("a"), "u1", accepted(1));
    assert_eq!((writer.due(at(0)), writer.wake_at()), (vec![], None));
}

#[test]
fn within_a_second_only_the_newest_is_kept() {
    let mut writer = writing();
    done(&mut writer, 2, &accepted(1), at(0));
    writer.show(&key("a"), "u1", accepted(2));
    writer.show(&key("a"), "u1", accepted(3));
    assert_eq!(reasons(&mut writer, at(0)), ["Accepted"]);
    assert_eq!(writer.wake_at(), Some(at(1)));
    assert_eq!(writes(&mut writer, at(1)), one("2", 3));
}

#[test]
fn another_resource_of_the_same_name_is_not_touched() {
    let mut writer = writing();
    writer.saw(&shown("u2", 5, &nothing()));
    assert_eq!(writes(&mut writer, at(10)), [], "the hub said nothing of it yet");
    writer.show(&key("a"), "u1", accepted(1));
    assert_eq!(writes(&mut writer, at(10)), []);
    writer.written(&key("a"), "u1", Outcome::Conflict, at(10), 0.5);
    writer.show(&key("a"), "u2", accepted(1));
    assert_eq!(writes(&mut writer, at(10)), one("5", 1));
    writer.gone(&key("a"), "u1");
    writer.written(&key("a"), "u2", Outcome::Conflict, at(10), 0.5);
    writer.gone(&key("a"), "u2");
    assert_eq!(writer.wake_at(), None);
}

#[test]
fn after_a_conflict_it_looks_again_and_mostly_finds_nothing_to_do() {
    let mut writer = writing();
    writer.written(&key("a"), "u1", Outcome::Conflict, at(1), 0.5);
    assert_eq!(writes(&mut writer, at(2)), [], "the same version would lose again");
    writer.saw(&shown("u1", 2, &accepted(1)));
    assert_eq!(writer.due(at(3)), [], "the other agent wrote it");
    writer.show(&key("a"), "u1", accepted(2));
    assert_eq!(writes(&mut writer, at(3)), one("2", 2));
}

#[test]
fn after_a_conflict_without_news_it_tries_again_in_time() {
    let mut writer = writing();
    writer.written(&key("a"), "u1", Outcome::Conflict, at(1), 0.5);
    assert_eq!(writer.wake_at(), Some(at(11)));
    assert_eq!(writes(&mut writer, at(11)), one("1", 1));
}

#[test]
fn nothing_is_written_when_the_stream_is_lost() {
    let mut writer = Writer::default();
    writer.saw(&shown("u1", 1, &nothing()));
    writer.show(&key("a"), "u1", accepted(1));
    writer.lost();
    assert_eq!((writer.due(at(10)), writer.wake_at()), (vec![], None));
}

#[test]
fn a_refused_write_is_tried_again_ever_more_slowly() {
    let mut writer = writing();
    let mut now = at(0);
    for _ in 0..20 {
        writer.written(&key("a"), "u1", Outcome::Forbidden("no leave".to_owned()), now, 1.0);
        let wake = writer.wake_at().expect("it is tried again");
        assert!(wake >= now + at(1) && wake <= now + at(10), "{wake:?} after {now:?}");
        now = wake;
        assert_eq!(writes(&mut writer, now), one("1", 1));
    }
    assert_eq!(reasons(&mut writer, now), [""; 0], "what was not written is not told");
}

#[test]
fn a_server_that_keeps_less_than_was_written_is_not_written_to_again_and_again() {
    let mut writer = writing();
    let curtailed = ResourceStatus { claim: None, ..accepted(1) };
    done(&mut writer, 2, &curtailed, at(1));
    reasons(&mut writer, at(1));
    assert_eq!((writer.due(at(100)), writer.wake_at()), (vec![], None));
    writer.show(&key("a"), "u1", accepted(2));
    assert_eq!(writes(&mut writer, at(100)), one("2", 2));
}

#[test]
fn an_older_version_that_comes_late_is_no_news() {
    let mut writer = writing();
    done(&mut writer, 9, &accepted(1), at(1));
    reasons(&mut writer, at(1));
    writer.saw(&shown("u1", 8, &nothing()));
    assert_eq!(writer.due(at(10)), []);
}

#[test]
fn a_status_that_somebody_else_overwrites_is_put_right() {
    let mut writer = writing();
    done(&mut writer, 2, &accepted(1), at(1));
    reasons(&mut writer, at(1));
    writer.saw(&shown("u1", 3, &accepted(7)));
    assert_eq!(writes(&mut writer, at(2)), one("3", 1));
}

#[test]
fn few_writes_are_under_way_at_a_time() {
    let mut writer = Writer::default();
    for number in 0..10 {
        let name = format!("p{number}");
        writer.saw(&Resource { key: key(&name), ..shown("u1", 1, &nothing()) });
        writer.show(&key(&name), "u1", accepted(1));
    }
    assert_eq!(writes(&mut writer, at(0)).len(), 4);
    assert_eq!((writes(&mut writer, at(9)).len(), writer.wake_at()), (0, None));
    writer.written(&key("p0"), "u1", Outcome::Gone, at(9), 0.5);
    assert_eq!(writes(&mut writer, at(9)).len(), 1);
    writer.retain(|_| false);
    assert_eq!(writer.wake_at(), None);
    writer.saw(&shown("u1", 1, &nothing()));
    writer.show(&key("a"), "u1", accepted(1));
    assert_eq!(writes(&mut writer, at(9)).len(), 1, "those that are gone hold no place");
}

#[test]
fn thousands_of_resources_at_rest_cost_nothing() {
    let mut writer = Writer::default();
    let resource = |number: u32| Resource { key: key(&format!("p{number}")), ..shown("u1", 1, &accepted(1)) };
    let resources: Vec<_> = (0..2000).map(resource).collect();
    resources.iter().for_each(|resource| writer.saw(resource));
    let begun = std::time::Instant::now();
    for resource in &resources {
        writer.show(&resource.key, "u1", accepted(1));
        assert_eq!((writer.due(at(0)), writer.wake_at()), (vec![], None));
    }
    // Some milliseconds; looking at every resource each time takes seconds.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_spec_that_was_too_large_to_be_sent_is_refused_in_words_that_help() {
    let mut writer = Writer::default();
    writer.saw(&Resource { spec: Spec::TooLarge { bytes: 70_000 }, ..shown("u1", 1, &nothing()) });
    let mut refused = accepted(1);
    refused.conditions[0].status = "False".to_owned();
    refused.conditions[0].message = "spec is null".to_owned();
    writer.show(&key("a"), "u1", refused);
    let Some(Action::Write { status, .. }) = writer.due(at(0)).pop() else { panic!("a write") };
    let message = &status.conditions[0].message;
    assert!(message.starts_with("spec has 70000 bytes as JSON and at most 65536 are taken; use fewer"), "{message}");
}
