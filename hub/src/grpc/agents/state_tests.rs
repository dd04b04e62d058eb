//! The state machine of an agent's session: step by step, then random conversations.

use std::collections::BTreeSet;

use proptest::prelude::*;
use switchyard_core::{
    inventory::{Evidence, ServiceCondition, ServiceState},
    observed::Target,
    policy::spec::TargetType,
};
use uuid::Uuid;

use super::*;

fn service(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        port: "http".parse().unwrap(),
        target_type: TargetType::Ip,
    }
}

fn set(names: &[&str]) -> Arc<WatchSet> {
    Arc::new(WatchSet::new(names.iter().map(|name| service(name)).collect()))
}

fn endpoint(of: &str, last: u8) -> EndpointKey {
    EndpointKey {
        cluster: "blue".parse().unwrap(),
        service: service(of),
        target: Target::ip([10, 0, 0, last], 8080),
        pod_uid: format!("pod-{last}").parse().unwrap(),
    }
}

fn upsert(of: &str, last: u8) -> EndpointChange {
    let new = NewEndpoint {
        ready: true,
        serving: true,
        terminating: false,
        pod_name: String::new(),
        node: String::new(),
        zone: String::new(),
        eni_ids: Vec::new(),
        gates: Vec::new(),
        pod: "null".into(),
    };
    EndpointChange::Upsert(endpoint(of, last), new)
}

fn state_of(of: &str) -> EndpointChange {
    let state =
        ServiceState { condition: ServiceCondition::Resolved, message: String::new(), health_check_node_port: None };
    EndpointChange::Service(service(of), NewServiceState { state, node_port: 0 })
}

fn hello(highest_epoch: u64) -> Box<Hello> {
    Box::new(Hello {
        highest_epoch: Epoch(highest_epoch),
        agent: AgentHello {
            cluster: "blue".parse().unwrap(),
            region: "eu-central-1".to_owned(),
            vpc_id: "vpc-1".parse().unwrap(),
            agent_instance_id: Uuid::from_u128(1),
            agent_version: "1".to_owned(),
            features: Vec::new(),
            last_acked_seq: 0,
            watch_set_version: 0,
        },
    })
}

/// A session that was welcomed with this set.
fn opened(set: &Arc<WatchSet>, resume_after: Option<u64>) -> State {
    let (effects, state) = State::AwaitHello.step(Input::Hello(hello(3), Epoch(3)));
    assert!(matches!(effects[..], [Effect::Open]));
    let (effects, state) = state.step(Input::Opened { resume_after, set: Arc::clone(set) });
    assert!(matches!(effects[..], [Effect::Welcome { .. }, Effect::SendWatchSet(_)]));
    state
}

fn begin(set: &WatchSet) -> Inbound {
    Inbound::SnapshotBegin { id: "1".to_owned(), version: set.version }
}

fn finish(services: u32, endpoints: u32) -> Inbound {
    Inbound::SnapshotEnd { id: "1".to_owned(), services, endpoints }
}

/// Feeds messages numbered from `first`; gives all effects and the last state.
fn feed(mut state: State, first: u64, messages: Vec<Inbound>) -> (Vec<Effect>, State) {
    let mut all = Vec::new();
    for (seq, message) in (first..).zip(messages) {
        let (effects, next) = state.step(Input::Message(seq, message));
        all.extend(effects);
        state = next;
    }
    (all, state)
}

fn snapshots(effects: &[Effect]) -> Vec<&Snapshot> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Store(Write { work: Work::Snapshot(snapshot), .. }) = effect {
            found.push(&**snapshot);
        }
    }
    found
}

fn resyncs(effects: &[Effect]) -> Vec<&str> {
    let mut reasons = Vec::new();
    for effect in effects {
        if let Effect::Resync(reason) = effect {
            reasons.push(reason.as_str());
        }
    }
    reasons
}

fn refusal(effects: &[Effect]) -> Option<&Refusal> {
    effects.iter().find_map(|effect| match effect {
        Effect::End(refusal) => Some(refusal),
        _ => None,
    })
}

#[test]
fn a_whole_snapshot_is_stored_once_and_leads_to_live() {
    let set = set(&["web"]);
    let messages = vec![
        begin(&set),
        Inbound::Changes(vec![state_of("web"), upsert("web", 1)]),
        Inbound::Changes(vec![upsert("web", 2)]),
        finish(1, 2),
        Inbound::Live { version: set.version },
    ];
    let (effects, state) = feed(opened(&set, None), 1, messages);
    let stored = snapshots(&effects);
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].services.len(), stored[0].endpoints.len()), (1, 2));
    assert_eq!(resyncs(&effects), [""; 0]);
    assert_eq!(state.name(), "live");
}

#[test]
fn counts_that_do_not_match_ask_for_another_snapshot_and_store_nothing() {
    let set = set(&["web"]);
    for end in [finish(1, 1), finish(0, 2), Inbound::SnapshotEnd { id: "2".to_owned(), services: 1, endpoints: 2 }] {
        let messages =
            vec![begin(&set), Inbound::Changes(vec![state_of("web"), upsert("web", 1), upsert("web", 2)]), end];
        let (effects, state) = feed(opened(&set, None), 1, messages);
        assert!(snapshots(&effects).is_empty());
        assert!(resyncs(&effects)[0].contains("brought 1 and 2"), "{effects:?}");
        assert_eq!(state.name(), "syncing");
    }
}

#[test]
fn a_snapshot_of_an_unknown_watch_set_is_not_taken() {
    let (known, other) = (set(&["web"]), set(&["api"]));
    let messages = vec![begin(&other), Inbound::Changes(vec![upsert("web", 1)]), finish(0, 1)];
    let (effects, _) = feed(opened(&known, None), 1, messages);
    assert!(snapshots(&effects).is_empty());
    assert!(resyncs(&effects)[0].contains("not in force"), "{effects:?}");
}

#[test]
fn a_snapshot_covers_the_set_it_was_made_from_also_when_a_newer_one_is_on_its_way() {
    let (older, newer) = (set(&["web"]), set(&["api", "web"]));
    let (_, state) = opened(&older, None).step(Input::NewWatchSet(Arc::clone(&newer)));
    let messages = vec![begin(&older), Inbound::Changes(vec![upsert("web", 1)]), finish(0, 1)];
    let (effects, state) = feed(state, 1, messages);
    assert_eq!(snapshots(&effects)[0].set, older);
    let (effects, state) = feed(state, 4, vec![Inbound::Live { version: newer.version }]);
    assert_eq!(resyncs(&effects), [""; 0]);
    assert_eq!(state.name(), "live");
}

#[test]
fn services_that_left_are_swept_only_after_the_agent_confirmed_the_smaller_set() {
    let (wide, narrow) = (set(&["api", "web"]), set(&["web"]));
    let (_, state) = feed(opened(&wide, Some(7)), 8, vec![Inbound::Live { version: wide.version }]);
    let (effects, state) = state.step(Input::NewWatchSet(Arc::clone(&narrow)));
    assert!(matches!(effects[..], [Effect::SendWatchSet(_)]), "{effects:?}");
    // What was sent before the set arrived is still of the wider set.
    let (effects, state) = feed(state, 9, vec![Inbound::Changes(vec![upsert("api", 1)])]);
    assert!(matches!(&effects[..], [Effect::Store(Write { work: Work::Changes(kept), .. })] if kept.len() == 1));
    let (effects, state) = feed(state, 10, vec![Inbound::Live { version: narrow.version }]);
    assert!(resyncs(&effects)[0].contains("left the watch set"), "{effects:?}");
    // Confirmed again after the snapshot: nothing more to sweep.
    let messages = vec![begin(&narrow), finish(0, 0), Inbound::Live { version: narrow.version }];
    let (effects, state) = feed(state, 11, messages);
    assert_eq!((snapshots(&effects).len(), resyncs(&effects).len()), (1, 0));
    let (effects, _) = feed(state, 14, vec![Inbound::Changes(vec![upsert("api", 1)])]);
    assert!(matches!(&effects[..], [Effect::Store(Write { work: Work::Changes(kept), .. })] if kept.is_empty()));
}

#[test]
fn a_service_that_leaves_and_returns_before_the_agent_looked_is_kept() {
    let (wide, narrow) = (set(&["api", "web"]), set(&["web"]));
    let (_, state) = feed(opened(&wide, Some(1)), 2, vec![Inbound::Live { version: wide.version }]);
    let (_, state) = state.step(Input::NewWatchSet(Arc::clone(&narrow)));
    let (_, state) = state.step(Input::NewWatchSet(Arc::clone(&wide)));
    let (effects, _) = feed(state, 3, vec![Inbound::Live { version: wide.version }]);
    assert_eq!(resyncs(&effects), [""; 0]);
}

#[test]
fn a_resumed_session_goes_live_without_a_snapshot_and_a_fresh_one_does_not() {
    let set = set(&["web"]);
    let live = || Inbound::Live { version: set.version };
    let gone = EndpointChange::Gone(endpoint("web", 1), Evidence::PodDeleted);
    let (effects, state) = feed(opened(&set, Some(10)), 11, vec![Inbound::Changes(vec![gone]), live()]);
    assert_eq!((resyncs(&effects).len(), state.name()), (0, "live"));
    let (effects, state) = feed(opened(&set, None), 1, vec![live()]);
    assert_eq!((resyncs(&effects), state.name()), (vec!["live without a snapshot"], "syncing"));
}

#[test]
fn numbers_must_grow_and_resume_behind_the_acknowledged_one() {
    let set = set(&[]);
    let changes = || Inbound::Changes(Vec::new());
    let (effects, state) = feed(opened(&set, Some(10)), 10, vec![changes()]);
    assert_eq!(refusal(&effects), Some(&Refusal::Sequence { seq: 10, last: 10 }));
    assert_eq!(state.name(), "ended");
    let (_, state) = feed(opened(&set, None), 5, vec![changes()]);
    let (effects, _) = state.step(Input::Message(5, changes()));
    assert_eq!(refusal(&effects), Some(&Refusal::Sequence { seq: 5, last: 5 }));
}

#[test]
fn an_agent_that_saw_a_newer_hub_is_refused() {
    let (effects, state) = State::AwaitHello.step(Input::Hello(hello(4), Epoch(3)));
    let expected = Refusal::OlderHub { ours: Epoch(3), seen: Epoch(4) };
    assert_eq!(refusal(&effects), Some(&expected));
    assert_eq!(state.name(), "ended");
}

#[test]
fn what_comes_out_of_order_ends_the_session() {
    let set = set(&["web"]);
    let gone = EndpointChange::Gone(endpoint("web", 1), Evidence::Absent);
    let cases = [
        State::AwaitHello.step(Input::Message(1, begin(&set))),
        feed(opened(&set, None), 1, vec![begin(&set), Inbound::Changes(vec![gone])]),
        feed(opened(&set, None), 1, vec![begin(&set), Inbound::Live { version: set.version }]),
        opened(&set, None).step(Input::Hello(hello(1), Epoch(3))),
    ];
    for (effects, state) in cases {
        assert!(matches!(refusal(&effects), Some(Refusal::OutOfOrder { .. })), "{effects:?}");
        assert_eq!(state.name(), "ended");
    }
}

#[test]
fn a_snapshot_is_bounded() {
    let set = set(&["web"]);
    let many = |from: usize, count: usize| {
        let change = |i: usize| {
            let EndpointChange::Upsert(mut key, new) = upsert("web", 1) else { unreachable!("made as an upsert") };
            key.target = Target::ip(std::net::Ipv4Addr::from(u32::try_from(i).unwrap()), 8080);
            EndpointChange::Upsert(key, new)
        };
        Inbound::Changes((from..from + count).map(change).collect())
    };
    let (effects, state) = feed(opened(&set, None), 1, vec![begin(&set), many(0, MOST_ENDPOINTS)]);
    assert_eq!(refusal(&effects), None);
    let (effects, _) = feed(state, 3, vec![many(MOST_ENDPOINTS, 1)]);
    assert_eq!(refusal(&effects), Some(&Refusal::TooLarge { what: "endpoints", most: MOST_ENDPOINTS }));
}

#[test]
fn an_agent_that_confirms_nothing_gets_a_fresh_start_instead_of_a_growing_list() {
    let mut state = opened(&set(&["s0"]), Some(1));
    let mut asked = 0;
    for i in 0..200 {
        let (effects, next) = state.step(Input::NewWatchSet(set(&[&format!("s{}", i + 1)])));
        asked += resyncs(&effects).len();
        state = next;
    }
    assert_eq!(asked, 3);
}

#[derive(Clone, Debug)]
enum Act {
    Begin(usize),
    Changes(Vec<(usize, u8)>),
    Gone(usize, u8),
    End { off_by: i64 },
    Live(usize),
    Sources,
    NewSet(usize),
    SkipSeq,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0..4_usize).prop_map(Act::Begin),
        4 => prop::collection::vec((0..3_usize, 0..20_u8), 0..5).prop_map(Act::Changes),
        1 => (0..3_usize, 0..20_u8).prop_map(|(of, last)| Act::Gone(of, last)),
        3 => prop_oneof![4 => Just(0), 1 => Just(1)].prop_map(|off_by| Act::End { off_by }),
        2 => (0..4_usize).prop_map(Act::Live),
        1 => Just(Act::Sources),
        1 => (0..4_usize).prop_map(Act::NewSet),
        1 => Just(Act::SkipSeq),
    ]
}

const NAMES: [&str; 3] = ["api", "web", "db"];

proptest! {
    /// Judged by a stupid second bookkeeping: what was staged since the last begin.
    #[test]
    fn whatever_an_agent_sends_only_whole_snapshots_are_stored_and_every_message_is_acknowledged_once(
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let sets = [set(&[]), set(&["api"]), set(&["api", "web"]), set(&["api", "web", "db"])];
        let mut state = opened(&sets[3], None);
        let mut staged: Option<BTreeSet<EndpointKey>> = None;
        let mut seq = 0;
        for act in acts {
            let mut announced = 0;
            let message = match act {
                Act::NewSet(i) => {
                    let (effects, next) = state.step(Input::NewWatchSet(Arc::clone(&sets[i])));
                    prop_assert!(effects.iter().all(|e| !matches!(e, Effect::Store(_))));
                    state = next;
                    continue;
                }
                Act::SkipSeq => {
                    seq += 5;
                    continue;
                }
                Act::Begin(i) => begin(&sets[i]),
                Act::Changes(list) => Inbound::Changes(list.iter().map(|(of, last)| upsert(NAMES[*of], *last)).collect()),
                Act::Gone(of, last) => {
                    Inbound::Changes(vec![EndpointChange::Gone(endpoint(NAMES[of], last), Evidence::PodDeleted)])
                }
                Act::End { off_by } => {
                    announced = staged.as_ref().map_or(0, |s| i64::try_from(s.len()).unwrap()) + off_by;
                    finish(0, u32::try_from(announced).unwrap())
                }
                Act::Live(i) => Inbound::Live { version: sets[i].version },
                Act::Sources => Inbound::Sources(Vec::new()),
            };
            seq += 1;
            let was_ended = state.name() == "ended";
            let (effects, next) = state.step(Input::Message(seq, message.clone()));
            let writes: Vec<&Write> =
                effects.iter().filter_map(|e| if let Effect::Store(write) = e { Some(write) } else { None }).collect();
            if was_ended {
                prop_assert!(effects.is_empty());
            } else if refusal(&effects).is_some() {
                prop_assert_eq!(next.name(), "ended");
            } else {
                prop_assert_eq!(writes.len(), 1);
                prop_assert_eq!(writes[0].seq, seq);
            }
            for snapshot in snapshots(&effects) {
                let kept = staged.as_ref().expect("a snapshot is stored only after its begin");
                prop_assert_eq!(usize::try_from(announced).unwrap(), kept.len());
                let expected: BTreeSet<_> = kept.iter().filter(|key| snapshot.set.contains(&key.service)).cloned().collect();
                let stored: BTreeSet<_> = snapshot.endpoints.iter().map(|(key, _)| key.clone()).collect();
                prop_assert_eq!(stored, expected);
            }
            match message {
                Inbound::SnapshotBegin { .. } => staged = resyncs(&effects).is_empty().then(BTreeSet::new),
                Inbound::Changes(changes) => {
                    if let Some(staged) = &mut staged {
                        staged.extend(changes.iter().filter_map(|change| match change {
                            EndpointChange::Upsert(key, _) => Some(key.clone()),
                            _ => None,
                        }));
                    }
                }
                Inbound::SnapshotEnd { .. } => staged = None,
                Inbound::Live { .. } | Inbound::Sources(_) => {}
            }
            state = next;
        }
    }
}

#[test]
fn a_set_that_came_back_before_the_one_between_was_confirmed_is_swept_of_it() {
    let (first, between) = (set(&["web"]), set(&["api", "web"]));
    let snapshot = vec![begin(&first), finish(0, 0), Inbound::Live { version: first.version }];
    let (_, state) = feed(opened(&first, None), 1, snapshot);
    let (_, state) = state.step(Input::NewWatchSet(Arc::clone(&between)));
    let (_, state) = feed(state, 4, vec![Inbound::Changes(vec![upsert("api", 1)])]);
    let (_, state) = state.step(Input::NewWatchSet(Arc::clone(&first)));
    let (effects, state) = feed(state, 5, vec![Inbound::Live { version: first.version }]);
    assert_eq!(resyncs(&effects).len(), 1, "the rows of api are still stored");
    let again = vec![begin(&first), finish(0, 0), Inbound::Live { version: first.version }];
    let (effects, _) = feed(state, 6, again);
    assert!(resyncs(&effects).is_empty(), "{effects:?}");
}
