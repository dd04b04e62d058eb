//! The gates' decisions, sentence by sentence.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{
    machine::{At, Gates, Input, Settings},
    objects::{GateId, GatedPod, Health, Mode, Outcome, PREFIX, Patch, PolicyHealth, PolicyKey, Seen, Target},
    pods::{Pods, Watch},
    stream::{Event, Message, Output, Stream},
};
use crate::index::{
    fixtures::pod as index_pod,
    objects::{Object, PodObject, Source, SourceEvent, SourceKind, SourceRun},
};

const RELEASE: Duration = Duration::from_secs(300);

pub fn pod(uid: &str, ready: bool, seen: Seen) -> GatedPod {
    GatedPod {
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        uid: uid.to_owned(),
        containers_ready: ready,
        gates: vec![("checkout".to_owned(), seen)],
    }
}

pub fn health(mode: Mode, targets: &[(&str, Health)]) -> PolicyHealth {
    let target = |&(uid, health): &(&str, Health)| (uid.to_owned(), Target { health, code: String::new() });
    PolicyHealth {
        policy: PolicyKey { namespace: "shop".to_owned(), name: "checkout".to_owned() },
        service: "checkout".to_owned(),
        mode,
        reason: String::new(),
        message: String::new(),
        targets: targets.iter().map(target).collect::<HashMap<_, _>>(),
    }
}

/// Gates whose writes succeed when the test says so.
struct Desk {
    gates: Gates,
    now: Duration,
}

impl Desk {
    fn new() -> Self {
        Self {
            gates: Gates::new(Settings { release_after: RELEASE, parallel: 2 }, Duration::ZERO),
            now: Duration::ZERO,
        }
    }

    /// With a hub that has said everything, this policy included.
    fn judged(targets: &[(&str, Health)]) -> Self {
        let mut desk = Self::new();
        desk.sync(&[health(Mode::Judged, targets)]);
        desk
    }

    fn sync(&mut self, policies: &[PolicyHealth]) -> Vec<Patch> {
        self.give(Input::Welcomed);
        for policy in policies {
            assert_eq!(self.give(Input::Policy(policy.clone())), [], "nothing is decided before the hub has said all");
        }
        self.give(Input::Synced)
    }

    fn give(&mut self, input: Input) -> Vec<Patch> {
        self.gates.handle(input, At { now: self.now, jitter: 1.0 })
    }

    fn written(&mut self, uid: &str) -> Vec<Patch> {
        self.outcome(uid, Outcome::Written)
    }

    /// Writes these and what follows them; gives them all.
    fn all_written(&mut self, mut patches: Vec<Patch>) -> Vec<Patch> {
        let mut next = 0;
        while let Some(patch) = patches.get(next) {
            let gate = patch.gate.clone();
            patches.extend(self.give(Input::Patched(gate, Outcome::Written)));
            next += 1;
        }
        patches
    }

    fn outcome(&mut self, uid: &str, outcome: Outcome) -> Vec<Patch> {
        let gate = GateId { uid: uid.to_owned(), policy: "checkout".to_owned() };
        self.give(Input::Patched(gate, outcome))
    }

    /// Lets the time pass, with every tick on the way.
    fn pass(&mut self, time: Duration) -> Vec<Patch> {
        let end = self.now + time;
        let mut patches = Vec::new();
        while let Some(at) = self.gates.wake_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            patches.extend(self.give(Input::Tick));
        }
        self.now = end;
        patches
    }
}

fn shown(patches: &[Patch]) -> Vec<(&str, bool, &str)> {
    patches
        .iter()
        .map(|patch| (patch.gate.uid.as_str(), patch.condition.open, patch.condition.reason.as_str()))
        .collect()
}

#[test]
fn a_gate_tells_why_it_waits_and_opens_when_the_target_is_healthy() {
    let mut desk = Desk::judged(&[]);
    let patches = desk.give(Input::Pod(pod("a", false, Seen::Absent)));
    assert_eq!(shown(&patches), [("a", false, "NotRegistered")]);
    assert!(patches[0].transition, "the condition is new");
    assert_eq!(desk.written("a"), []);
    assert_eq!(desk.give(Input::Pod(pod("a", true, Seen::Closed))), [], "what stands is not written again");

    let patches = desk.give(Input::Policy(health(Mode::Judged, &[("a", Health::Initial)])));
    assert_eq!(shown(&patches), [("a", false, "TargetInitial")]);
    assert!(!patches[0].transition, "it was False before");
    assert_eq!(desk.written("a"), []);
    let patches = desk.give(Input::Policy(health(Mode::Judged, &[("a", Health::Healthy)])));
    assert_eq!(shown(&patches), [("a", true, "TargetHealthy")]);
    assert_eq!(desk.written("a"), []);
    desk.give(Input::Pod(pod("a", true, Seen::Open)));
    assert_eq!(desk.gates.waiting(), 0, "an open gate costs nothing");
}

#[test]
fn a_gate_that_opened_stays_open_whatever_the_load_balancer_says_then() {
    let mut desk = Desk::judged(&[("a", Health::Healthy)]);
    assert_eq!(shown(&desk.give(Input::Pod(pod("a", true, Seen::Absent)))), [("a", true, "TargetHealthy")]);
    let sick = health(Mode::Judged, &[("a", Health::Unhealthy)]);
    assert_eq!(desk.give(Input::Policy(sick.clone())), [], "also while the write is under way");
    assert_eq!(desk.outcome("a", Outcome::Failed("no answer".to_owned())), []);
    let again = desk.pass(Duration::from_secs(1));
    assert_eq!(shown(&again), [("a", true, "TargetHealthy")], "the write may have arrived, so it must not be undone");
    assert_eq!(desk.written("a"), []);
    assert_eq!(desk.give(Input::Policy(sick)), []);
    desk.give(Input::Pod(pod("a", true, Seen::Open)));
    assert_eq!(desk.give(Input::Pod(pod("a", false, Seen::Open))), []);
}

#[test]
fn an_opened_gate_that_is_not_seen_open_is_written_again() {
    let mut desk = Desk::judged(&[("a", Health::Healthy)]);
    desk.give(Input::Pod(pod("a", true, Seen::Absent)));
    assert_eq!(desk.written("a"), []);
    assert_eq!(desk.give(Input::Pod(pod("a", true, Seen::Closed))), [], "an old event of the watch is no news");
    assert_eq!(shown(&desk.pass(Duration::from_secs(20))), [("a", true, "TargetHealthy")]);
}

#[test]
fn gates_of_a_policy_that_the_hub_does_not_have_open_only_once_it_has_said_everything() {
    let mut desk = Desk::new();
    let patches = desk.give(Input::Pod(pod("a", false, Seen::Absent)));
    assert_eq!(shown(&patches), [("a", false, "HubAway")]);
    desk.written("a");
    desk.give(Input::Welcomed);
    assert_eq!(desk.pass(Duration::from_secs(60)), []);
    assert_eq!(shown(&desk.give(Input::Synced)), [("a", true, "PolicyGone")]);
}

#[test]
fn gates_open_at_once_when_their_policy_goes_or_is_never_judged() {
    for (mode, reason) in [(Mode::Gone, "PolicyGone"), (Mode::Released, "NotJudged")] {
        let mut desk = Desk::judged(&[("a", Health::Initial)]);
        desk.give(Input::Pod(pod("a", true, Seen::Absent)));
        desk.written("a");
        assert_eq!(shown(&desk.give(Input::Policy(health(mode, &[])))), [("a", true, reason)], "{mode:?}");
    }
}

#[test]
fn without_a_hub_gates_open_after_the_set_time_and_new_ones_at_once() {
    let mut desk = Desk::judged(&[("a", Health::Initial)]);
    desk.give(Input::Pod(pod("a", true, Seen::Closed)));
    desk.written("a");
    desk.now = Duration::from_secs(50);
    assert_eq!(desk.give(Input::Lost), [], "it may be back at once");
    assert_eq!(shown(&desk.pass(Duration::from_secs(10))), [("a", false, "HubAway")]);
    desk.written("a");
    assert_eq!(desk.pass(RELEASE - Duration::from_secs(11)), []);
    assert_eq!(shown(&desk.pass(Duration::from_secs(1))), [("a", true, "ReleasedHubAway")]);
    desk.written("a");
    assert_eq!(shown(&desk.give(Input::Pod(pod("b", true, Seen::Absent)))), [("b", true, "ReleasedHubAway")]);
}

#[test]
fn a_pod_whose_containers_are_not_ready_is_not_released_before_they_are() {
    let mut desk = Desk::new();
    desk.give(Input::Pod(pod("a", false, Seen::Closed)));
    desk.written("a");
    assert_eq!(desk.pass(RELEASE * 2), []);
    assert_eq!(shown(&desk.give(Input::Pod(pod("a", true, Seen::Closed)))), [("a", true, "ReleasedHubAway")]);
}

#[test]
fn a_hub_that_comes_and_goes_without_a_verdict_does_not_start_the_clock_anew() {
    let mut desk = Desk::new();
    desk.give(Input::Pod(pod("a", true, Seen::Closed)));
    desk.written("a");
    let suspended = health(Mode::Suspended, &[]);
    let mut opened = Vec::new();
    for _ in 0..4 {
        let patches = desk.pass(RELEASE / 4);
        opened.extend(desk.all_written(patches));
        let patches = desk.sync(std::slice::from_ref(&suspended));
        opened.extend(desk.all_written(patches));
        let patches = desk.pass(Duration::from_secs(1));
        opened.extend(desk.all_written(patches));
        let patches = desk.give(Input::Lost);
        opened.extend(desk.all_written(patches));
    }
    assert!(shown(&opened).iter().any(|(_, open, reason)| *open && reason.starts_with("Released")), "{opened:?}");
}

#[test]
fn a_short_absence_of_the_hub_is_not_worth_a_write() {
    let mut desk = Desk::judged(&[("a", Health::Initial)]);
    desk.give(Input::Pod(pod("a", true, Seen::Closed)));
    desk.written("a");
    desk.give(Input::Lost);
    assert_eq!(desk.pass(Duration::from_secs(9)), []);
    assert_eq!(desk.sync(&[health(Mode::Judged, &[("a", Health::Initial)])]), []);
    assert_eq!(desk.pass(RELEASE), []);
}

#[test]
fn a_suspended_policy_shows_the_hubs_reason_and_opens_after_the_set_time() {
    let mut desk = Desk::judged(&[]);
    desk.give(Input::Pod(pod("a", true, Seen::Closed)));
    desk.written("a");
    let frozen = PolicyHealth {
        reason: "Frozen".to_owned(),
        message: "it is frozen".to_owned(),
        ..health(Mode::Suspended, &[])
    };
    assert_eq!(desk.give(Input::Policy(frozen)), [], "it may be over at once");
    let patches = desk.pass(Duration::from_secs(10));
    assert_eq!(shown(&patches), [("a", false, "Frozen")]);
    assert_eq!(patches[0].condition.message, "it is frozen");
    desk.written("a");
    assert_eq!(shown(&desk.pass(RELEASE - Duration::from_secs(10))), [("a", true, "ReleasedSuspended")]);
    let odd = PolicyHealth { reason: "not a word!".to_owned(), ..health(Mode::Suspended, &[]) };
    let mut desk = Desk::new();
    desk.sync(&[odd]);
    assert_eq!(shown(&desk.give(Input::Pod(pod("b", true, Seen::Absent)))), [("b", false, "Suspended")]);
}

#[test]
fn a_pod_that_no_target_stands_for_opens_after_a_while_and_one_that_is_judged_does_not() {
    let mut desk = Desk::judged(&[("judged", Health::Unregistered)]);
    for uid in ["stray", "judged"] {
        assert_eq!(shown(&desk.give(Input::Pod(pod(uid, true, Seen::Absent)))), [(uid, false, "NotRegistered")]);
        desk.written(uid);
    }
    assert_eq!(shown(&desk.pass(RELEASE * 10)), [("stray", true, "ReleasedNoTarget")]);
}

#[test]
fn writes_are_bounded_and_those_that_open_go_first() {
    let mut desk = Desk::judged(&[("d", Health::Healthy)]);
    for uid in ["a", "b"] {
        assert_eq!(desk.give(Input::Pod(pod(uid, true, Seen::Absent))).len(), 1);
    }
    for uid in ["c", "d"] {
        assert_eq!(desk.give(Input::Pod(pod(uid, true, Seen::Absent))), [], "two writes are under way");
    }
    assert_eq!(shown(&desk.written("a")), [("d", true, "TargetHealthy")]);
    assert_eq!(shown(&desk.written("b")), [("c", false, "NotRegistered")]);
    assert_eq!(desk.written("c"), []);
}

#[test]
fn what_is_written_is_what_is_so_when_its_turn_comes() {
    let mut desk = Desk::judged(&[]);
    for uid in ["a", "b", "c"] {
        desk.give(Input::Pod(pod(uid, true, Seen::Absent)));
    }
    desk.give(Input::Policy(health(Mode::Judged, &[("c", Health::Unhealthy)])));
    assert_eq!(shown(&desk.written("a")), [("c", false, "TargetUnhealthy")]);
}

#[test]
fn a_namespace_without_leave_to_write_rests_and_holds_up_no_other() {
    let mut desk = Desk::judged(&[]);
    let elsewhere = |uid: &str| GatedPod { namespace: "pay".to_owned(), ..pod(uid, true, Seen::Absent) };
    desk.give(Input::Pod(pod("a", true, Seen::Absent)));
    assert_eq!(desk.outcome("a", Outcome::Forbidden("no".to_owned())), []);
    assert_eq!(desk.give(Input::Pod(pod("b", true, Seen::Absent))), []);
    assert_eq!(shown(&desk.give(Input::Pod(elsewhere("c")))), [("c", true, "PolicyGone")]);
    desk.written("c");
    assert_eq!(
        shown(&desk.pass(Duration::from_secs(10))),
        [("a", false, "NotRegistered"), ("b", false, "NotRegistered")]
    );
}

#[test]
fn a_pod_that_is_gone_is_forgotten_and_its_successor_is_its_own_pod() {
    let mut desk = Desk::judged(&[]);
    desk.give(Input::Pod(pod("a", true, Seen::Absent)));
    assert_eq!(desk.outcome("a", Outcome::PodGone), []);
    assert_eq!(desk.gates.waiting(), 0);
    desk.give(Input::Pod(pod("b", true, Seen::Absent)));
    desk.give(Input::PodGone { uid: "b".to_owned() });
    assert_eq!((desk.gates.waiting(), desk.gates.wake_at()), (0, None));
    assert_eq!(desk.written("b"), [], "what was under way for it ends without harm");
}

#[test]
fn new_pods_get_gates_only_of_policies_that_can_be_judged_and_while_the_hub_is_heard() {
    let mut desk = Desk::new();
    desk.sync(&[health(Mode::Suspended, &[])]);
    assert_eq!(desk.gates.injected(desk.now).count(), 1);
    desk.give(Input::Policy(health(Mode::Released, &[])));
    assert_eq!(desk.gates.injected(desk.now).count(), 0);
    desk.give(Input::Policy(health(Mode::Judged, &[])));
    desk.give(Input::Lost);
    assert_eq!(desk.gates.injected(RELEASE - Duration::from_secs(1)).count(), 1);
    assert_eq!(desk.gates.injected(RELEASE).count(), 0, "gates that open at once need not be there");
}

#[test]
fn what_is_said_of_targets_is_no_reason_to_look_anew_at_who_gets_gates() {
    let mut desk = Desk::new();
    let asked = |desk: &mut Desk, health: PolicyHealth| {
        let input = Input::Policy(health);
        let changes = desk.gates.changes_injection(&input);
        desk.give(input);
        changes
    };
    desk.give(Input::Welcomed);
    assert!(!asked(&mut desk, health(Mode::Judged, &[])), "nothing counts before the hub has said everything");
    assert!(desk.gates.changes_injection(&Input::Synced));
    desk.give(Input::Synced);
    assert!(!asked(&mut desk, health(Mode::Judged, &[("a", Health::Healthy)])));
    assert!(!asked(&mut desk, health(Mode::Suspended, &[])));
    assert!(asked(&mut desk, health(Mode::Gone, &[])));
    assert!(!asked(&mut desk, health(Mode::Released, &[])));
    assert!(asked(&mut desk, health(Mode::Judged, &[])));
    assert!(asked(&mut desk, PolicyHealth { service: "other".to_owned(), ..health(Mode::Judged, &[]) }));
    desk.give(Input::Lost);
    assert!(!asked(&mut desk, health(Mode::Released, &[])));
}

#[test]
fn new_pods_get_no_gates_where_a_pod_waits_for_one_that_may_not_be_opened() {
    let mut desk = Desk::judged(&[]);
    let injected = |desk: &Desk| desk.gates.injected(desk.now).count();
    desk.give(Input::Pod(pod("a", true, Seen::Absent)));
    assert_eq!(injected(&desk), 1);
    desk.outcome("a", Outcome::Forbidden("no".to_owned()));
    assert_eq!(injected(&desk), 0);
    desk.pass(Duration::from_secs(10));
    assert_eq!(injected(&desk), 0, "another attempt is no leave");
    desk.written("a");
    assert_eq!(injected(&desk), 1);
    desk.give(Input::Pod(pod("b", true, Seen::Absent)));
    desk.outcome("b", Outcome::Forbidden("no".to_owned()));
    desk.give(Input::PodGone { uid: "b".to_owned() });
    desk.give(Input::PodGone { uid: "a".to_owned() });
    assert_eq!(injected(&desk), 1, "no pod is left to learn from");
}

// --- pods

fn run(namespace: &str, run: u64) -> SourceRun {
    SourceRun { source: Source { namespace: namespace.to_owned(), kind: SourceKind::Pod }, run }
}

fn gated(name: &str, uid: &str) -> Object {
    let gates = vec![format!("{PREFIX}checkout")];
    Object::Pod(Box::new(PodObject { readiness_gates: gates, ..index_pod(name, uid, "10.0.0.1") }))
}

fn told(inputs: &[Input]) -> Vec<String> {
    let name = |input: &Input| match input {
        Input::Pod(pod) => format!("+{}", pod.uid),
        Input::PodGone { uid } => format!("-{uid}"),
        other => panic!("not about a pod: {other:?}"),
    };
    inputs.iter().map(name).collect()
}

#[test]
fn a_complete_list_ends_the_pods_that_are_absent_and_a_broken_one_ends_none() {
    let mut pods = Pods::default();
    let from = run("shop", 1);
    pods.route(std::slice::from_ref(&from));
    let mut say = |event| told(&pods.handle(Watch::Routed, &from, event));
    assert_eq!(say(SourceEvent::Applied(gated("a", "1"))), ["+1"]);
    assert_eq!(say(SourceEvent::Applied(gated("b", "2"))), ["+2"]);
    say(SourceEvent::ListStarted);
    say(SourceEvent::Failing("broken off".to_owned()));
    assert_eq!(say(SourceEvent::ListDone), Vec::<String>::new());
    say(SourceEvent::ListStarted);
    assert_eq!(say(SourceEvent::Listed(gated("b", "3"))), ["-2", "+3"], "the name has another pod now");
    assert_eq!(say(SourceEvent::ListDone), ["-1"]);
    let finished = PodObject { finished: true, readiness_gates: Vec::new(), ..index_pod("b", "3", "10.0.0.1") };
    assert_eq!(say(SourceEvent::Applied(Object::Pod(Box::new(finished)))), ["-3"]);
}

#[test]
fn where_nothing_is_routed_any_more_a_watch_is_kept_as_long_as_there_are_gates() {
    let mut pods = Pods::default();
    pods.route(&[run("shop", 1)]);
    pods.handle(Watch::Routed, &run("shop", 1), SourceEvent::Applied(gated("a", "1")));
    assert_eq!(pods.kept(), []);
    pods.route(&[]);
    let kept = pods.kept();
    assert_eq!(kept.len(), 1);
    assert!(pods.handle(Watch::Routed, &run("shop", 1), SourceEvent::Deleted(gated("a", "1"))).is_empty(), "too late");
    assert_eq!(told(&pods.handle(Watch::Kept, &kept[0], SourceEvent::Applied(gated("b", "2")))), ["+2"]);
    pods.found(BTreeSet::new());
    assert_eq!(pods.kept(), kept, "there are gates");
    for (name, uid) in [("a", "1"), ("b", "2")] {
        assert_eq!(
            told(&pods.handle(Watch::Kept, &kept[0], SourceEvent::Deleted(gated(name, uid)))),
            [format!("-{uid}")]
        );
    }
    pods.found(BTreeSet::new());
    assert_eq!(pods.kept(), []);
}

#[test]
fn a_look_that_finds_gates_begins_a_watch_unless_there_is_one() {
    let mut pods = Pods::default();
    pods.route(&[run("shop", 7)]);
    pods.found(["shop".to_owned(), "old".to_owned()].into());
    let kept = pods.kept();
    assert_eq!(kept.iter().map(|run| run.source.namespace.as_str()).collect::<Vec<_>>(), ["old"]);
    pods.route(&[run("shop", 7), run("old", 8)]);
    assert_eq!(pods.kept(), []);
    assert_eq!(told(&pods.handle(Watch::Routed, &run("old", 8), SourceEvent::Applied(gated("a", "1")))), ["+1"]);
}

// --- stream

fn at(seconds: u64) -> At {
    At { now: Duration::from_secs(seconds), jitter: 1.0 }
}

fn welcome(epoch: u64) -> Event {
    Event::Received(Message::Welcome { epoch, heartbeat: Duration::from_secs(5) })
}

fn names(outputs: &[Output]) -> Vec<String> {
    let name = |output: &Output| match output {
        Output::Dial { highest_epoch } => format!("dial {highest_epoch}"),
        Output::Drop => "drop".to_owned(),
        Output::Tell(Input::Policy(health)) => format!("policy with {}", health.targets.len()),
        Output::Tell(input) => format!("{input:?}"),
        Output::Offline { reason, .. } => reason.clone(),
        Output::Synced { epoch } => format!("synced {epoch}"),
    };
    outputs.iter().map(name).collect()
}

fn followed(epoch: u64) -> Stream {
    let mut stream = Stream::new(Duration::ZERO);
    assert_eq!(names(&stream.handle(Event::Tick, at(0))), ["dial 0"]);
    assert_eq!(names(&stream.handle(welcome(epoch), at(0))), ["Welcomed"]);
    stream
}

#[test]
fn a_stream_is_dialled_welcomed_and_synced_and_dialled_again_when_it_ends() {
    let mut stream = followed(3);
    assert_eq!(names(&stream.handle(Event::Received(Message::Synced), at(1))), ["Synced", "synced 3"]);
    assert!(stream.is_synced());
    let closed = Event::Closed { reason: "gone".to_owned(), refused: false };
    assert_eq!(names(&stream.handle(closed, at(2))), ["Lost", "gone"]);
    assert!(stream.wake_at() <= Duration::from_secs(3));
    assert_eq!(names(&stream.handle(Event::Tick, at(3))), ["dial 3"]);
}

#[test]
fn a_silent_hub_is_dropped_after_three_heartbeats_and_any_message_is_a_sign_of_life() {
    let mut stream = followed(1);
    stream.handle(Event::Received(Message::Heartbeat), at(10));
    assert_eq!(stream.wake_at(), Duration::from_secs(25));
    assert_eq!(names(&stream.handle(Event::Tick, at(24))), Vec::<String>::new());
    let dropped = stream.handle(Event::Tick, at(25));
    assert_eq!(names(&dropped), ["drop", "Lost", "the hub was silent for three heartbeats"]);
    let mut mute = Stream::new(Duration::ZERO);
    mute.handle(Event::Tick, at(0));
    assert_eq!(names(&mute.handle(Event::Tick, at(15)))[2], "the hub did not answer in time");
}

#[test]
fn a_hub_of_an_older_epoch_is_not_followed() {
    let mut stream = followed(5);
    stream.handle(Event::Closed { reason: "gone".to_owned(), refused: false }, at(1));
    stream.handle(Event::Tick, at(2));
    let outputs = names(&stream.handle(welcome(4), at(2)));
    assert_eq!(outputs, ["drop", "Lost", "the hub has epoch 4, and epoch 5 was seen already"]);
    assert_eq!(stream.wake_at(), Duration::from_secs(12), "asking again soon is of no use");
}

#[test]
fn the_parts_of_a_policy_are_told_together_and_a_policy_left_half_said_ends_the_stream() {
    let part = |targets: &[(&str, Health)], more| {
        Event::Received(Message::Policy { health: health(Mode::Judged, targets), more })
    };
    let mut stream = followed(1);
    assert_eq!(names(&stream.handle(part(&[("a", Health::Healthy)], true), at(1))), Vec::<String>::new());
    assert_eq!(names(&stream.handle(part(&[("b", Health::Healthy)], false), at(1))), ["policy with 2"]);
    stream.handle(part(&[("a", Health::Healthy)], true), at(1));
    let broken = names(&stream.handle(Event::Received(Message::Synced), at(1)));
    assert_eq!(broken, ["drop", "Lost", "the hub left a policy's targets incomplete"]);
}

#[test]
fn a_pod_that_is_not_registered_is_told_what_the_hub_says_of_that() {
    let mut desk = Desk::new();
    let mut told = health(Mode::Judged, &[("a", Health::Unregistered)]);
    told.message = "3 of 1003 targets of blue do not fit".to_owned();
    desk.sync(&[told]);
    let patches = desk.give(Input::Pod(pod("a", true, Seen::Absent)));
    let message = &patches[0].condition.message;
    assert!(message.ends_with("yet: 3 of 1003 targets of blue do not fit"), "{message}");
}
