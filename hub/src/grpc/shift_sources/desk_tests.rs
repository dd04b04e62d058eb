use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use switchyard_core::{
    ids::{PolicyKey, ShiftId},
    shift::{Finding, Guard, Origin, Shift, ShiftSpec, State, machine::Command, validate},
};
use switchyard_proto::agent::v1::TrafficShiftStatus;

use super::{
    desk::{Desk, Done, Job, MOST_RESOURCES},
    parse::Resource,
};
use crate::store::ShiftError;

fn web() -> PolicyKey {
    PolicyKey { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() }
}

const AT: Timestamp = Timestamp::UNIX_EPOCH;
const SECOND: Duration = Duration::from_secs(1);

fn spec() -> ShiftSpec {
    serde_json::from_value(serde_json::json!({"policies": [{"name": "web", "to": "green"}]})).unwrap()
}

fn resource(uid: &str, generation: u64) -> Resource {
    let namespace = "shop".parse().unwrap();
    let spec = spec();
    let plan = validate(&spec, &namespace, true).unwrap();
    let (name, reason, said) = ("web-to-green".to_owned(), String::new(), spec.controls());
    let uid = uid.parse().unwrap();
    Resource { namespace, name, uid, generation, said, reason, asked: Ok(plan), lacks_a_right: false }
}

fn shift(state: State) -> Arc<Shift> {
    let plan = validate(&spec(), &"shop".parse().unwrap(), true).unwrap();
    let mut shift = empty(&plan);
    shift.state = state;
    Arc::new(shift)
}

/// A shift whose policies do not matter.
fn empty(plan: &validate::ShiftPlan) -> Shift {
    let mut without = plan.clone();
    without.targets.clear();
    let id: ShiftId = "s-1".parse().unwrap();
    without.start(id, Origin::Call, "somebody", &BTreeMap::new(), Timestamp::UNIX_EPOCH).unwrap()
}

/// Takes the job that is due, and says what came of it.
fn work(desk: &mut Desk, now: Duration, done: Done) -> &'static str {
    let (uid, job) = desk.next_job(now).expect("a job");
    let (kind, generation) = match job {
        Job::Make { resource, .. } => ("make", resource.generation),
        Job::Say { resource } => ("say", resource.generation),
        Job::Refuse { resource, .. } => ("refuse", resource.generation),
        Job::Read(_) => ("read", 0),
    };
    desk.done(&uid, generation, done, now, AT);
    kind
}

fn told(desk: &mut Desk) -> Vec<TrafficShiftStatus> {
    std::iter::from_fn(|| desk.next_status()).collect()
}

fn busy() -> Done {
    Done::Not(ShiftError::Busy { policy: web(), shift: Box::new((*shift(State::Baking)).clone()) })
}

#[test]
fn a_resource_makes_its_shift_and_is_told_how_it_fares() {
    let mut desk = Desk::default();
    assert!(desk.report(resource("u", 1), Duration::ZERO, AT).is_none());
    assert!(told(&mut desk).is_empty(), "nothing is known yet");
    assert_eq!(work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Pending))), "make");
    let statuses = told(&mut desk);
    assert_eq!(
        (statuses[0].state.as_str(), statuses[0].shift_id.as_str(), statuses[0].ended),
        ("Pending", "s-1", false)
    );
    assert!(told(&mut desk).is_empty(), "once");
    assert_eq!(work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Pending))), "say");
    assert!(desk.next_job(SECOND * 3600).is_none(), "it is asked for once");
}

#[test]
fn a_shift_that_moved_is_told_and_an_older_picture_is_not() {
    let mut desk = Desk::default();
    desk.report(resource("u", 1), Duration::ZERO, AT);
    let mut newer = (*shift(State::Succeeded)).clone();
    newer.version = 9;
    work(&mut desk, Duration::ZERO, Done::Shift(Arc::new(newer.clone())));
    told(&mut desk);
    let older = shift(State::Pending);
    assert!(desk.look(&BTreeMap::from([(older.id.clone(), older)])).is_none());
    assert!(told(&mut desk).is_empty());
    newer.version = 10;
    newer.message = "news".to_owned();
    desk.look(&BTreeMap::from([(newer.id.clone(), Arc::new(newer))]));
    assert_eq!(told(&mut desk)[0].message, "news");
}

#[test]
fn an_active_shift_that_is_missing_from_the_picture_is_read_and_an_ended_one_is_not() {
    for (state, read) in [(State::Baking, true), (State::Failed, false)] {
        let mut desk = Desk::default();
        desk.report(resource("u", 1), Duration::ZERO, AT);
        work(&mut desk, Duration::ZERO, Done::Shift(shift(state)));
        assert_eq!(desk.look(&BTreeMap::new()).is_some(), read, "{state}");
    }
}

#[test]
fn while_another_shift_moves_the_policy_it_waits_and_is_tried_again() {
    let mut desk = Desk::default();
    desk.report(resource("u", 1), Duration::ZERO, AT);
    work(&mut desk, Duration::ZERO, busy());
    let status = &told(&mut desk)[0];
    assert_eq!((status.state.as_str(), status.reason.as_str(), status.ended), ("Waiting", "Busy", false));
    assert!(desk.next_job(SECOND * 9).is_none(), "not without a reason");
    assert!(desk.next_job(SECOND * 10).is_some(), "but now and then");
    desk.picture_changed(SECOND);
    assert!(desk.next_job(SECOND).is_none(), "and not at once for each change");
    assert_eq!(work(&mut desk, SECOND * 2, Done::Shift(shift(State::Pending))), "make");
}

#[test]
fn a_rule_that_will_end_makes_it_wait_and_one_that_will_not_refuses_it() {
    let held = |guard| {
        let policy = web();
        let message = "so it is".to_owned();
        Done::Not(ShiftError::Held {
            findings: vec![Finding { guard, policy, step: 0, message, overridden: false, until: None }],
        })
    };
    let ends = [(Guard::GatingSwitch, "Waiting"), (Guard::Freeze, "Waiting"), (Guard::MaxStepPercent, "Refused")];
    for (guard, state) in ends {
        let mut desk = Desk::default();
        desk.report(resource("u", 1), Duration::ZERO, AT);
        work(&mut desk, Duration::ZERO, held(guard));
        let status = &told(&mut desk)[0];
        assert_eq!((status.state.as_str(), status.ended), (state, state == "Refused"), "{guard}");
    }
}

#[test]
fn a_resource_at_fault_is_remembered_as_refused() {
    let mut desk = Desk::default();
    let faulty = Resource { asked: Err("spec.policies is empty".to_owned()), ..resource("u", 1) };
    desk.report(faulty, Duration::ZERO, AT);
    assert_eq!(work(&mut desk, Duration::ZERO, Done::Refused("spec.policies is empty".to_owned())), "refuse");
    let status = &told(&mut desk)[0];
    assert_eq!(
        (status.state.as_str(), status.message.as_str(), status.ended),
        ("Refused", "spec.policies is empty", true)
    );
}

#[test]
fn a_resource_that_came_to_be_at_fault_still_speaks_to_its_shift_and_is_looked_up_once() {
    // Its gate names a source that the hub was started without this time, say.
    let faulty = |generation| Resource { asked: Err("no such source".to_owned()), ..resource("u", generation) };
    let mut desk = Desk::default();
    desk.report(faulty(1), Duration::ZERO, AT);
    assert_eq!(work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Baking))), "refuse");
    assert_eq!(work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Baking))), "say");
    assert!(desk.next_job(SECOND * 3600).is_none(), "its shift goes on");
    assert_eq!(told(&mut desk)[0].state, "Baking");
    desk.report(faulty(2), SECOND, AT);
    assert_eq!(work(&mut desk, SECOND, Done::Shift(shift(State::Aborting))), "say");
    assert!(desk.next_job(SECOND * 3600).is_none());
    // What cannot be read at all says nothing.
    desk.report(Resource { said: Vec::new(), ..faulty(3) }, SECOND, AT);
    assert_eq!(work(&mut desk, SECOND, Done::Shift(shift(State::Aborting))), "refuse");
    assert!(desk.next_job(SECOND * 3600).is_none());
}

#[test]
fn each_new_generation_is_said_once_also_when_it_comes_while_the_last_one_is_worked_on() {
    let mut desk = Desk::default();
    desk.report(resource("u", 1), Duration::ZERO, AT);
    work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Baking)));
    work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Baking)));
    let mut paused = resource("u", 2);
    paused.said = vec![Command::Pause];
    desk.report(paused, SECOND, AT);
    let (uid, _) = desk.next_job(SECOND).expect("a job");
    desk.report(resource("u", 3), SECOND, AT);
    desk.done(&uid, 2, Done::Shift(shift(State::Baking)), SECOND, AT);
    assert_eq!(work(&mut desk, SECOND, Done::Shift(shift(State::Baking))), "say");
    assert!(desk.next_job(SECOND * 3600).is_none());
    desk.report(resource("u", 2), SECOND, AT);
    assert!(desk.next_job(SECOND * 3600).is_none(), "an older generation says nothing");
}

#[test]
fn a_cluster_with_too_many_is_asked_to_wait_and_told_when_there_is_room() {
    let mut desk = Desk::default();
    for i in 0..MOST_RESOURCES {
        assert!(desk.report(resource(&format!("u{i}"), 1), Duration::ZERO, AT).is_none());
    }
    let status = desk.report(resource("late", 1), Duration::ZERO, AT).expect("no room");
    assert_eq!((status.state.as_str(), status.reason.as_str()), ("Waiting", "TooMany"));
    assert!(!desk.has_room_again());
    for _ in 0..=MOST_RESOURCES / 2 {
        work(&mut desk, Duration::ZERO, Done::Shift(shift(State::Succeeded)));
    }
    assert!(desk.has_room_again());
}
