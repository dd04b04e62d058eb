//! The session's behaviour, one sentence a test, with a hub that the test plays by hand.

use super::*;
use crate::{
    index::{
        fixtures::*,
        objects::{ServiceCondition, SliceEndpoint, SourceEvent, SourceKind},
    },
    link::messages::Body,
};

const HEARTBEAT: Duration = Duration::from_secs(2);

/// A session, an index and a clock; the test plays the hub and the network.
pub struct Play {
    pub feed: Feed,
    session: Option<Session>,
    pub now: Moment,
    pub room: usize,
    notes: Vec<Note>,
    sent: Vec<Outgoing>,
    dials: usize,
    drops: usize,
}

impl Play {
    fn new(feed: Feed) -> Self {
        let session = Some(Session::new(Settings::default()));
        Self { feed, session, now: Duration::ZERO, room: 1000, notes: Vec::new(), sent: Vec::new(), dials: 0, drops: 0 }
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("no step is under way")
    }

    fn step(&mut self, input: Input) {
        let at = At { now: self.now, room: self.room, jitter: 1.0 };
        let session = self.session.take().expect("steps do not nest");
        let (outputs, session) = session.step(input, at, &mut self.feed.index);
        self.session = Some(session);
        for output in outputs {
            match output {
                Output::Dial => self.dials += 1,
                Output::Send(message) => self.sent.push(message),
                Output::Drop => self.drops += 1,
                Output::WatchSetChanged => {}
                Output::Note(note) => self.notes.push(note),
            }
        }
    }

    fn hears(&mut self, message: Incoming) {
        self.step(Input::Received(message));
    }

    fn after(&mut self, pause: Duration) {
        self.now += pause;
        self.step(Input::Tick);
    }

    fn connect(&mut self) {
        self.after(Duration::from_secs(20));
        self.step(Input::Opened);
    }

    fn welcome(&mut self, resume_after: Option<u64>) {
        self.hears(Incoming::Welcome { epoch: 1, session_id: "s".to_owned(), heartbeat: HEARTBEAT, resume_after });
    }

    fn watch_set(&mut self, version: u64, services: &[ServiceRefs]) {
        let services = services.iter().map(|(name, port)| reference(name, port)).collect();
        self.hears(Incoming::WatchSet { version, services });
    }

    /// What was sent since the last call.
    fn sent(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.sent)
    }

    fn labels(&mut self) -> Vec<&'static str> {
        self.sent().iter().map(|message| message.body.label()).collect()
    }

    fn ack_all(&mut self) {
        let seq = self.session().memory.next_seq - 1;
        self.hears(Incoming::Ack { seq });
    }

    fn closed(&mut self) {
        self.step(Input::Closed { reason: "gone".to_owned(), refused: false });
    }

    /// A pod's endpoint changes in a way that has to be told.
    fn change(&mut self, zone: &str) {
        let endpoint = SliceEndpoint { zone: zone.to_owned(), ..ready("10.0.0.1", "web-0", "web-0/1") };
        self.feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![endpoint]));
        self.step(Input::IndexChanged);
    }

    fn offline_reason(&self) -> String {
        let reasons = self.notes.iter().rev().find_map(|note| match note {
            Note::Offline { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        reasons.expect("the session went offline")
    }
}

type ServiceRefs = (&'static str, &'static str);
const CHECKOUT: [ServiceRefs; 1] = [("checkout", "http")];

/// Live with one pod reported and everything acknowledged.
fn live() -> Play {
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.welcome(None);
    stage.watch_set(1, &CHECKOUT);
    stage.ack_all();
    assert_eq!(stage.session().stage(), "live");
    stage.sent();
    stage
}

#[test]
fn a_session_is_hello_snapshot_and_live() {
    let mut stage = Play::new(one_pod_reported());
    stage.step(Input::Tick);
    assert_eq!((stage.dials, stage.session().stage()), (1, "offline"));
    stage.step(Input::Opened);
    assert_eq!((stage.labels(), stage.session().stage()), (vec!["hello"], "hello"));
    stage.welcome(None);
    assert_eq!(stage.labels(), Vec::<&str>::new(), "nothing is said before the watch set is known");
    stage.watch_set(1, &CHECKOUT);
    let sent = stage.sent();
    let labels: Vec<_> = sent.iter().map(|message| message.body.label()).collect();
    assert_eq!(labels, ["source_states", "snapshot_begin", "changes", "snapshot_end", "live"]);
    assert_eq!(sent.iter().map(|message| message.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let Body::SnapshotEnd { services, endpoints, .. } = &sent[3].body else { panic!("not the end") };
    assert_eq!((*services, *endpoints), (1, 1));
    assert_eq!(stage.session().stage(), "live");
}

#[test]
fn a_snapshot_waits_until_every_source_was_listed() {
    let mut stage = Play::new(Feed::unsynced(&[reference("checkout", "http")]));
    stage.connect();
    stage.welcome(None);
    stage.watch_set(1, &CHECKOUT);
    assert_eq!(stage.labels(), ["hello", "source_states"]);
    stage.feed.list_all_empty();
    stage.now += Duration::from_secs(1);
    stage.step(Input::IndexChanged);
    let sent = stage.sent();
    let labels: Vec<_> = sent.iter().map(|message| message.body.label()).collect();
    assert_eq!(labels, ["source_states", "snapshot_begin", "changes", "snapshot_end", "live"]);
    let Body::Changes(batch) = &sent[2].body else { panic!("not changes") };
    assert_eq!(batch.services[0].1.condition, ServiceCondition::NotFound);
}

#[test]
fn one_namespace_that_cannot_be_listed_holds_the_snapshot_but_not_the_news_of_others() {
    let mut feed = Feed::unsynced(&[reference("checkout", "http"), reference_in("locked", "api", "http")]);
    for kind in SourceKind::NAMESPACED {
        feed.list(kind, vec![]);
        let from = feed.run_of("locked", kind);
        feed.index.handle(&from, SourceEvent::Failing("forbidden".to_owned()));
    }
    feed.apply(service("checkout", &[("http", 80)]));
    let mut stage = Play::new(feed);
    stage.connect();
    stage.welcome(None);
    let services = vec![reference("checkout", "http"), reference_in("locked", "api", "http")];
    stage.hears(Incoming::WatchSet { version: 1, services });
    assert_eq!(stage.labels(), ["hello", "source_states"]);
    stage.after(Settings::default().hold);
    let sent = stage.sent();
    assert_eq!(sent.iter().map(|message| message.body.label()).collect::<Vec<_>>(), ["heartbeat", "changes"]);
    let Body::Changes(batch) = &sent[1].body else { panic!("not changes") };
    assert_eq!((batch.services.len(), batch.services[0].0.name.as_str()), (1, "checkout"));
    assert!(stage.notes.contains(&Note::SnapshotHeld));
    assert_eq!(stage.session().stage(), "syncing");
    stage.feed.list_all_empty();
    stage.hears(Incoming::Heartbeat);
    stage.step(Input::IndexChanged);
    assert_eq!(stage.session().stage(), "live");
    assert!(stage.labels().contains(&"snapshot_end"));
}

#[test]
fn changes_gather_for_fifty_milliseconds_and_go_out_as_one_message() {
    let mut stage = live();
    stage.change("z1");
    stage.now += Duration::from_millis(30);
    stage.change("z2");
    assert_eq!(stage.labels(), Vec::<&str>::new());
    assert_eq!(stage.session().wake_at(), Some(stage.now + Duration::from_millis(20)));
    stage.after(Duration::from_millis(20));
    let sent = stage.sent();
    assert_eq!(sent.len(), 1);
    let Body::Changes(batch) = &sent[0].body else { panic!("not changes") };
    assert_eq!((batch.len(), batch.upserts[0].zone.as_str()), (1, "z2"));
}

#[test]
fn a_slow_hub_gets_fewer_messages_with_the_last_state() {
    let mut stage = live();
    let window = Settings::default().window;
    for n in 0..window + 50 {
        stage.hears(Incoming::Heartbeat);
        stage.change(&format!("z{n}"));
        stage.after(Duration::from_millis(50));
    }
    let changes = stage.labels().into_iter().filter(|label| *label == "changes").count();
    assert_eq!(changes, window);
    assert_eq!(stage.session().unacknowledged(), window);
    stage.ack_all();
    let sent = stage.sent();
    let Body::Changes(batch) = &sent[0].body else { panic!("not changes") };
    assert_eq!((sent.len(), batch.len(), batch.upserts[0].zone.clone()), (1, 1, format!("z{}", window + 49)));
}

#[test]
fn without_room_nothing_is_sent_and_nothing_is_lost() {
    let mut stage = live();
    stage.room = 0;
    stage.change("z1");
    stage.after(Duration::from_millis(50));
    assert_eq!(stage.labels(), Vec::<&str>::new());
    assert!(stage.session().wants_room());
    assert!(stage.session().wake_at() > Some(stage.now), "it waits for room, not for time");
    stage.room = 2;
    stage.step(Input::Tick);
    assert_eq!(stage.labels(), ["changes"]);
    assert!(!stage.session().wants_room());
}

#[test]
fn a_resumed_session_sends_again_only_what_was_not_stored() {
    let mut stage = live();
    for zone in ["z1", "z2"] {
        stage.change(zone);
        stage.after(Duration::from_millis(50));
    }
    let lost: Vec<_> = stage.sent();
    stage.closed();
    stage.change("z3");
    stage.connect();
    let Body::Hello { last_acked_seq, watch_set_version, .. } = stage.sent()[0].body else { panic!("not a hello") };
    assert_eq!((last_acked_seq, watch_set_version), (lost[0].seq - 1, 1));
    stage.welcome(Some(lost[0].seq));
    stage.watch_set(1, &CHECKOUT);
    let sent = stage.sent();
    let labels: Vec<_> = sent.iter().map(|message| message.body.label()).collect();
    assert_eq!(labels, ["changes", "source_states", "changes", "live"]);
    assert_eq!(sent[0], lost[1], "the second message is sent again under its number");
    let Body::Changes(batch) = &sent[2].body else { panic!("not changes") };
    assert_eq!(batch.upserts[0].zone, "z3");
}

#[test]
fn the_watch_set_that_is_named_for_resuming_is_the_last_one_confirmed_whatever_its_number() {
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.welcome(None);
    stage.watch_set(9, &CHECKOUT);
    stage.watch_set(4, &[("checkout", "http"), ("cart", "http")]);
    stage.ack_all();
    stage.closed();
    stage.sent();
    stage.connect();
    let Body::Hello { watch_set_version, .. } = stage.sent()[0].body else { panic!("not a hello") };
    assert_eq!(watch_set_version, 4);
}

#[test]
fn resuming_is_not_offered_before_a_snapshot_was_stored_whole() {
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.welcome(None);
    stage.watch_set(1, &CHECKOUT);
    stage.hears(Incoming::Ack { seq: 3 });
    stage.closed();
    stage.sent();
    stage.connect();
    let Body::Hello { last_acked_seq, watch_set_version, .. } = stage.sent()[0].body else { panic!("not a hello") };
    assert_eq!((last_acked_seq, watch_set_version), (0, 0));
    stage.welcome(Some(3));
    stage.watch_set(1, &CHECKOUT);
    assert!(stage.labels().contains(&"snapshot_begin"), "a hub that resumes unasked gets a snapshot");
}

#[test]
fn a_hub_that_lost_what_it_had_acknowledged_gets_a_snapshot() {
    let mut stage = live();
    let acked = stage.session().memory.acked_seq;
    stage.closed();
    stage.connect();
    stage.welcome(Some(acked - 1));
    stage.watch_set(1, &CHECKOUT);
    assert!(stage.labels().contains(&"snapshot_begin"));
}

#[test]
fn a_resync_gives_a_new_snapshot() {
    let mut stage = live();
    stage.hears(Incoming::Resync { reason: "counts differ".to_owned() });
    assert_eq!(stage.labels(), ["snapshot_begin", "changes", "snapshot_end", "live"]);
}

#[test]
fn a_larger_watch_set_is_answered_without_a_new_snapshot() {
    let mut stage = live();
    stage.watch_set(2, &[("checkout", "http"), ("cart", "http")]);
    let sent = stage.sent();
    let Body::Changes(batch) = &sent[0].body else { panic!("not changes: {sent:?}") };
    assert_eq!((batch.services.len(), batch.services[0].0.name.as_str()), (1, "cart"));
    assert_eq!(sent[1].body, Body::Live { watch_set_version: 2 });
}

#[test]
fn a_watch_set_that_comes_in_the_middle_of_a_snapshot_lets_it_end() {
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.welcome(None);
    stage.room = 2;
    stage.watch_set(1, &CHECKOUT);
    stage.room = 1000;
    stage.watch_set(2, &[("cart", "http")]);
    let sent = stage.sent();
    let labels: Vec<_> = sent.iter().map(|message| message.body.label()).collect();
    assert_eq!(labels[1..], ["source_states", "snapshot_begin", "changes", "snapshot_end", "changes", "live"]);
    let Body::SnapshotBegin { watch_set_version, .. } = sent[2].body else { panic!("not the begin") };
    assert_eq!(watch_set_version, 1);
    assert_eq!(sent[6].body, Body::Live { watch_set_version: 2 });
}

#[test]
fn what_left_and_came_back_is_taken_back_as_long_as_the_hub_did_not_say_that_it_knew() {
    let mut play = live();
    play.watch_set(2, &[("other", "http")]);
    assert!(play.labels().contains(&"live"), "the set is answered, and the answer gets lost");
    play.closed();
    play.connect();
    play.welcome(None);
    play.room = 0;
    play.watch_set(2, &[("other", "http")]);
    play.feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], Vec::new()));
    play.step(Input::IndexChanged);
    play.watch_set(3, &CHECKOUT);
    play.room = 1000;
    play.after(Duration::from_secs(1));
    let tombstones = |message: &Outgoing| match &message.body {
        Body::Changes(batch) => batch.tombstones.len(),
        _ => 0,
    };
    assert_eq!(play.sent().iter().map(tombstones).sum::<usize>(), 1, "the hub may still hold the endpoint of before");
}

#[test]
fn an_agent_follows_no_hub_of_an_older_epoch() {
    let mut stage = live();
    let welcome =
        |epoch| Incoming::Welcome { epoch, session_id: "s".to_owned(), heartbeat: HEARTBEAT, resume_after: None };
    stage.closed();
    stage.connect();
    stage.hears(welcome(5));
    stage.closed();
    stage.connect();
    stage.hears(welcome(4));
    assert_eq!((stage.session().stage(), stage.drops), ("offline", 1));
    assert_eq!(stage.offline_reason(), "the hub is at epoch 4, and epoch 5 was seen before");
    stage.sent();
    stage.connect();
    let Body::Hello { highest_epoch, .. } = stage.sent()[0].body else { panic!("not a hello") };
    assert_eq!(highest_epoch, 5);
}

#[test]
fn a_stream_is_dead_after_three_heartbeats_that_did_not_come() {
    let mut stage = live();
    for _ in 0..3 {
        stage.after(HEARTBEAT);
    }
    assert_eq!(stage.session().stage(), "live");
    assert_eq!(stage.labels(), ["heartbeat"; 3]);
    stage.after(HEARTBEAT / 2);
    assert_eq!((stage.session().stage(), stage.drops), ("offline", 1));
    assert!(stage.offline_reason().starts_with("the hub was silent for 7.0 s"), "{}", stage.offline_reason());
}

#[test]
fn any_word_of_the_hub_keeps_the_stream_alive() {
    let mut stage = live();
    for _ in 0..20 {
        stage.after(HEARTBEAT);
        stage.hears(Incoming::Heartbeat);
    }
    assert_eq!((stage.session().stage(), stage.drops), ("live", 0));
}

#[test]
fn a_hub_that_does_not_answer_hello_is_given_up() {
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.after(HELLO_TIMEOUT);
    assert_eq!((stage.session().stage(), stage.drops), ("offline", 1));
}

#[test]
fn a_hub_that_refuses_is_asked_again_only_slowly() {
    let mut stage = live();
    stage.step(Input::Closed { reason: "another agent took over".to_owned(), refused: true });
    assert_eq!(stage.session().wake_at(), Some(stage.now + Duration::from_secs(10)));
    let mut stage = live();
    stage.closed();
    assert_eq!(stage.session().wake_at(), Some(stage.now + Duration::from_millis(200)));
}

#[test]
fn words_that_break_the_order_end_the_stream() {
    let breaking = [
        (Incoming::Ack { seq: 1_000_000 }, "the hub acknowledged message 1000000, which was never sent"),
        (
            Incoming::Welcome { epoch: 9, session_id: String::new(), heartbeat: HEARTBEAT, resume_after: None },
            "the hub sent a second Welcome",
        ),
        (
            Incoming::WatchSet { version: 2, services: vec![reference("checkout", "http"); MAX_WATCH_SET + 1] },
            "the watch set has 10001 references, more than 10000",
        ),
    ];
    for (message, reason) in breaking {
        let mut stage = live();
        stage.hears(message);
        assert_eq!((stage.offline_reason().as_str(), stage.drops), (reason, 1));
    }
    let mut stage = Play::new(one_pod_reported());
    stage.connect();
    stage.watch_set(1, &CHECKOUT);
    assert_eq!(stage.offline_reason(), "the hub answered Hello with watch_set");
}

#[test]
fn late_words_of_a_dropped_stream_change_nothing() {
    let mut stage = live();
    stage.closed();
    stage.sent();
    let wake = stage.session().wake_at();
    stage.welcome(Some(1));
    stage.watch_set(7, &CHECKOUT);
    stage.hears(Incoming::Ack { seq: 1_000_000 });
    assert_eq!((stage.session().stage(), stage.session().wake_at()), ("offline", wake));
    assert_eq!(stage.labels(), Vec::<&str>::new());
}

#[test]
fn how_the_sources_stand_is_told_when_it_changes_and_not_oftener() {
    let mut stage = live();
    stage.now += Duration::from_secs(1);
    stage.feed.tell(SourceKind::Pod, SourceEvent::Failing("pods is forbidden".to_owned()));
    stage.step(Input::IndexChanged);
    stage.step(Input::IndexChanged);
    assert_eq!(stage.labels(), ["source_states"]);
    stage.feed.tell(SourceKind::Pod, SourceEvent::Following);
    stage.step(Input::IndexChanged);
    assert_eq!(stage.labels(), Vec::<&str>::new(), "reports keep a pause between them");
    stage.after(Settings::default().source_pause);
    assert_eq!(stage.labels(), ["source_states"]);
}
