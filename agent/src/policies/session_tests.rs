//! The stream of policies, step by step.

use std::{sync::Arc, time::Duration};

use super::{
    messages::{Body, Incoming, Outgoing},
    objects::{Key, Resource, SourceEvent, Spec},
    session::{At, Input, Note, Output, Session},
    status::ResourceStatus,
};

const SECOND: Duration = Duration::from_secs(1);

/// A session with a clock, and all that it wanted.
struct Played {
    session: Option<Session>,
    now: Duration,
    room: usize,
    highest_epoch: u64,
}

fn key(name: &str) -> Key {
    Key { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn policy(name: &str, uid: &str, generation: u64) -> Resource {
    Resource {
        key: key(name),
        uid: uid.to_owned(),
        generation,
        resource_version: "1".to_owned(),
        spec: Spec::Text(Arc::from(format!("{{\"order\":{generation}}}"))),
        status: ResourceStatus::default(),
    }
}

fn applied(name: &str, uid: &str, generation: u64) -> Input {
    Input::Source(SourceEvent::Applied(Box::new(policy(name, uid, generation))))
}

fn deleted(name: &str, uid: &str) -> Input {
    Input::Source(SourceEvent::Deleted { key: key(name), uid: uid.to_owned() })
}

fn failing(message: &str) -> Input {
    Input::Source(SourceEvent::Failing(message.to_owned()))
}

fn welcome(epoch: u64, is_source: bool) -> Input {
    Input::Received(Incoming::Welcome { epoch, is_source, message: "use --policy-source".to_owned() })
}

fn ack(seq: u64) -> Input {
    Input::Received(Incoming::Ack { seq })
}

fn closed() -> Input {
    Input::Closed { reason: "gone".to_owned(), refused: false }
}

/// What a message says, in a line.
fn line(message: &Outgoing) -> String {
    let seq = message.seq;
    match &message.body {
        Body::Hello { highest_epoch } => format!("{seq} hello {highest_epoch}"),
        Body::ListBegin { list_id } => format!("{seq} begin {list_id}"),
        Body::ListEnd { list_id, count } => format!("{seq} end {list_id} {count}"),
        Body::Failing { message } => format!("{seq} failing {message}"),
        Body::Changes { upserts, deleted } => {
            let upserts =
                upserts.iter().map(|upsert| format!(" +{}/{}/{}", upsert.key.name, upsert.uid, upsert.generation));
            let deleted = deleted.iter().map(|(key, uid)| format!(" -{}/{uid}", key.name));
            format!("{seq} changes{}", upserts.chain(deleted).collect::<String>())
        }
    }
}

impl Played {
    fn new() -> Self {
        Self { session: Some(Session::new()), now: Duration::ZERO, room: 8, highest_epoch: 0 }
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let at = At { now: self.now, room: self.room, jitter: 1.0, highest_epoch: self.highest_epoch };
        let (outputs, session) = self.session.take().expect("a session").step(input, at);
        self.session = Some(session);
        outputs
    }

    fn said(&mut self, input: Input) -> Vec<String> {
        let outputs = self.step(input);
        let sent = outputs.iter().filter_map(|output| match output {
            Output::Send(message) => Some(line(message)),
            _ => None,
        });
        sent.collect()
    }

    /// Up to the answer to Hello.
    fn dial(&mut self) {
        if let Some(at) = self.session().wake_at() {
            self.now = self.now.max(at);
        }
        assert!(self.step(Input::Tick).contains(&Output::Dial));
        assert_eq!(self.said(Input::Opened).len(), 1);
    }

    /// A source whose watcher has listed these.
    fn listed(policies: &[Resource]) -> (Self, Vec<String>) {
        let mut played = Self::new();
        played.dial();
        assert!(played.step(welcome(1, true)).contains(&Output::Watch(true)));
        played.list(policies);
        let said = played.said(Input::Tick);
        (played, said)
    }

    fn list(&mut self, policies: &[Resource]) -> Vec<String> {
        let mut said = self.said(Input::Source(SourceEvent::ListStarted));
        for policy in policies {
            said.extend(self.said(Input::Source(SourceEvent::Listed(Box::new(policy.clone())))));
        }
        said.extend(self.said(Input::Source(SourceEvent::ListDone)));
        said
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("a session")
    }

    fn stage(&self) -> &'static str {
        self.session().stage()
    }
}

#[test]
fn nothing_is_told_before_the_watcher_has_listed_and_then_all_of_it() {
    let mut played = Played::new();
    assert_eq!(played.step(Input::Tick), [Output::Dial]);
    assert_eq!(played.said(Input::Opened), ["0 hello 0"]);
    assert_eq!(played.step(welcome(4, true)), [Output::Watch(true), Output::Note(Note::Source { epoch: 4 })]);
    assert_eq!(played.said(Input::Source(SourceEvent::ListStarted)), [""; 0]);
    let a = Box::new(policy("a", "u1", 1));
    assert_eq!(played.said(Input::Source(SourceEvent::Listed(a))), [""; 0]);
    assert_eq!(played.said(Input::Source(SourceEvent::ListDone)), ["1 begin 1", "2 changes +a/u1/1", "3 end 1 1"]);
    assert_eq!(played.stage(), "live");
    assert_eq!(played.said(applied("b", "u2", 1)), ["4 changes +b/u2/1"]);
    assert_eq!(played.said(applied("b", "u2", 1)), [""; 0], "a status that changed is nothing to tell");
    assert_eq!(played.said(deleted("a", "u1")), ["5 changes -a/u1"]);
}

#[test]
fn a_cluster_that_is_no_source_watches_nothing_and_keeps_the_stream() {
    let mut played = Played::new();
    played.dial();
    let outputs = played.step(welcome(1, false));
    let message = "use --policy-source".to_owned();
    assert_eq!(outputs, [Output::Watch(false), Output::Note(Note::NotSource { message })]);
    assert_eq!((played.stage(), played.session().wake_at()), ("not_source", None));
    assert!(played.step(closed()).contains(&Output::Lost));
    played.dial();
    assert!(played.step(welcome(1, true)).contains(&Output::Watch(true)));
}

#[test]
fn an_older_hub_is_not_followed_whichever_stream_saw_the_newer_one() {
    let mut played = Played::new();
    played.highest_epoch = 7;
    assert_eq!(played.step(Input::Tick), [Output::Dial]);
    assert_eq!(played.said(Input::Opened), ["0 hello 7"]);
    let outputs = played.step(welcome(6, true));
    assert!(outputs.contains(&Output::Drop) && !outputs.contains(&Output::Watch(true)), "{outputs:?}");
    assert_eq!(played.stage(), "offline");
    assert_eq!(played.session().wake_at(), Some(Duration::from_secs(10)), "asking again soon is of no use");
}

#[test]
fn after_a_reconnect_everything_is_told_anew() {
    let (mut played, said) = Played::listed(&[policy("a", "u1", 1)]);
    assert_eq!(said, [""; 0], "the list went out when it was done");
    assert_eq!(played.said(ack(3)), [""; 0]);
    played.step(closed());
    assert_eq!(played.said(applied("b", "u2", 1)), [""; 0]);
    played.dial();
    let expected = ["1 begin 2", "2 changes +a/u1/1 +b/u2/1", "3 end 2 2"];
    assert_eq!(played.said(welcome(1, true)), expected);
}

#[test]
fn a_deletion_is_told_over_streams_until_the_hub_has_stored_it() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    played.step(ack(3));
    assert_eq!(played.said(deleted("a", "u1")), ["4 changes -a/u1"]);
    played.step(closed());
    played.dial();
    assert_eq!(played.said(welcome(1, true)), ["1 begin 2", "2 end 2 0", "3 changes -a/u1"]);
    let released = Output::Released { key: key("a"), uid: "u1".to_owned() };
    assert!(!played.step(ack(2)).contains(&released));
    assert!(played.step(ack(3)).contains(&released));
    played.step(closed());
    played.dial();
    assert_eq!(played.said(welcome(1, true)), ["1 begin 3", "2 end 3 0"]);
}

#[test]
fn a_resource_that_came_back_is_not_told_to_be_gone() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    played.room = 0;
    assert_eq!(played.said(deleted("a", "u1")), [""; 0]);
    assert_eq!(played.said(applied("a", "u2", 1)), [""; 0]);
    assert!(played.session().wants_room());
    played.room = 8;
    assert_eq!(played.said(Input::Tick), ["4 changes +a/u2/1"]);
    assert_eq!(played.said(deleted("a", "u1")), [""; 0], "a late word about the resource before it");
}

#[test]
fn what_is_missing_from_a_new_list_is_told_by_a_list() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1), policy("b", "u2", 1)]);
    let said = played.list(&[policy("b", "u2", 2)]);
    assert_eq!(said, ["4 begin 2", "5 changes +b/u2/2", "6 end 2 1"]);
    assert_eq!(played.list(&[policy("b", "u2", 3)]), ["7 changes +b/u2/3"], "nothing is missing: a change is enough");
}

#[test]
fn a_list_that_does_not_end_changes_nothing() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    assert_eq!(played.said(Input::Source(SourceEvent::ListStarted)), [""; 0]);
    assert_eq!(played.list(&[policy("a", "u1", 1)]), [""; 0]);
    assert_eq!(played.session().policies(), 1);
}

#[test]
fn a_watch_that_fails_for_long_is_told_and_taken_back_with_a_new_list() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    played.step(ack(3));
    assert_eq!(played.said(failing("no leave")), [""; 0]);
    assert_eq!(played.session().wake_at(), Some(played.now + 3 * SECOND));
    played.now += 3 * SECOND;
    assert_eq!(played.said(Input::Tick), ["4 failing no leave"]);
    assert_eq!(played.said(failing("no leave")), [""; 0]);
    assert_eq!(played.said(failing("no such thing")), ["5 failing no such thing"]);
    assert_eq!(played.said(Input::Source(SourceEvent::ListStarted)), [""; 0], "an attempt is no success");
    let said = played.said(Input::Source(SourceEvent::Following));
    assert_eq!(said, ["6 failing ", "7 begin 2", "8 changes +a/u1/1", "9 end 2 1"]);
    assert_eq!(played.session().failing(), None);
}

#[test]
fn a_short_failure_of_the_watch_is_no_news() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    played.step(ack(3));
    assert_eq!(played.said(failing("connection reset")), [""; 0]);
    played.now += 2 * SECOND;
    assert_eq!(played.said(Input::Source(SourceEvent::Following)), [""; 0]);
    assert_eq!(played.session().wake_at(), None);
}

#[test]
fn a_source_that_never_could_list_says_so_and_sends_no_list() {
    let mut played = Played::new();
    played.dial();
    played.step(welcome(1, true));
    assert_eq!(played.said(failing("forbidden")), [""; 0]);
    played.now += 3 * SECOND;
    assert_eq!(played.said(Input::Tick), ["1 failing forbidden"]);
    assert_eq!(played.stage(), "listing");
    let said = played.list(&[policy("a", "u1", 1)]);
    assert_eq!(said, ["2 failing ", "3 begin 1", "4 changes +a/u1/1", "5 end 1 1"]);
}

#[test]
fn many_policies_go_in_parts_within_room_and_window() {
    let policies: Vec<_> = (0..500).map(|number| policy(&format!("p{number:03}"), "u", 1)).collect();
    let (mut played, _) = Played::listed(&policies);
    // Eight messages fill the window; each acknowledgement lets one more go.
    let mut seq = 8;
    let mut items = 7 * 50;
    loop {
        let said = played.said(ack(seq - 7));
        assert_eq!(said.len(), 1, "{said:?}");
        seq += 1;
        if said[0].contains("end 1") {
            assert_eq!(said, [format!("{seq} end 1 500")]);
            break;
        }
        items += said[0].matches('+').count();
    }
    assert_eq!(items, 500);
}

#[test]
fn large_specs_go_in_messages_of_a_megabyte() {
    let large = |name: &str| Resource { spec: Spec::Text(Arc::from("x".repeat(64 * 1024))), ..policy(name, "u", 1) };
    let policies: Vec<_> = (0..40).map(|number| large(&format!("p{number:02}"))).collect();
    let mut played = Played::new();
    played.dial();
    played.step(welcome(1, true));
    let counts: Vec<_> = played.list(&policies).iter().map(|line| line.matches('+').count()).collect();
    assert_eq!(counts, [0, 16, 16, 8, 0]);
}

#[test]
fn a_policy_that_goes_while_the_list_is_sent_is_not_counted_in_it() {
    let policies: Vec<_> = (0..400).map(|number| policy(&format!("p{number:03}"), "u", 1)).collect();
    let (mut played, _) = Played::listed(&policies);
    assert_eq!(played.said(deleted("p399", "u")), [""; 0]);
    assert_eq!(played.said(ack(1)), ["9 changes ".to_owned() + &plus(350..399)]);
    assert_eq!(played.said(ack(3)), ["10 end 1 399", "11 changes -p399/u"]);
}

fn plus(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("+p{number:03}/u/1")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_spec_that_is_too_large_is_told_as_one_that_is_not_valid() {
    let large = Resource { spec: Spec::TooLarge { bytes: 70_000 }, ..policy("a", "u1", 2) };
    let mut played = Played::new();
    played.dial();
    played.step(welcome(1, true));
    played.step(Input::Source(SourceEvent::ListStarted));
    played.step(Input::Source(SourceEvent::Listed(Box::new(large))));
    let outputs = played.step(Input::Source(SourceEvent::ListDone));
    let specs: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(Outgoing { body: Body::Changes { upserts, .. }, .. }) => Some(upserts[0].spec.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(specs, ["null"], "leaving it out would read as its removal");
}

#[test]
fn a_hub_that_does_not_answer_or_store_is_left() {
    let mut played = Played::new();
    played.dial();
    played.now += 10 * SECOND;
    assert!(played.step(Input::Tick).contains(&Output::Drop));
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    assert_eq!(played.session().wake_at(), Some(played.now + 60 * SECOND));
    played.now += 60 * SECOND;
    let outputs = played.step(Input::Tick);
    assert!(outputs.contains(&Output::Drop) && outputs.contains(&Output::Lost), "{outputs:?}");
}

#[test]
fn a_hub_that_breaks_the_contract_is_left() {
    let answers = [ack(99), welcome(1, true)];
    for answer in answers {
        let (mut played, _) = Played::listed(&[]);
        assert!(played.step(answer).contains(&Output::Drop));
    }
    let mut played = Played::new();
    played.dial();
    assert!(played.step(ack(1)).contains(&Output::Drop));
}

#[test]
fn a_status_is_passed_on_and_late_words_of_a_dropped_stream_are_not() {
    let (mut played, _) = Played::listed(&[policy("a", "u1", 1)]);
    let status = || Input::Received(Incoming::Status { key: key("a"), uid: "u1".to_owned(), status: Box::default() });
    assert!(matches!(played.step(status()).as_slice(), [Output::Show { .. }]));
    played.step(closed());
    assert_eq!(played.step(status()), []);
}
