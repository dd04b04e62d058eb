use std::time::Duration;

use super::{
    session::{At, Incoming, Input, Note, Outgoing, Output, Session},
    status::ShiftStatus,
};
use crate::policies::objects::{Key, Resource, SourceEvent, Spec};

fn key(name: &str) -> Key {
    Key { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn resource(name: &str, uid: &str, generation: u64) -> Resource<ShiftStatus> {
    Resource {
        key: key(name),
        uid: uid.to_owned(),
        generation,
        resource_version: generation.to_string(),
        spec: Spec::Text("{}".into()),
        status: ShiftStatus::default(),
    }
}

fn ended(mut resource: Resource<ShiftStatus>) -> Resource<ShiftStatus> {
    resource.status.ended = Some(true);
    resource
}

/// A session, played by hand.
struct Play {
    session: Option<Session>,
    now: Duration,
    room: usize,
    highest_epoch: u64,
}

impl Play {
    fn new() -> Self {
        Self { session: Some(Session::new()), now: Duration::ZERO, room: 8, highest_epoch: 0 }
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let at = At { now: self.now, room: self.room, jitter: 1.0, highest_epoch: self.highest_epoch };
        let (outputs, session) = self.session.take().expect("a session").step(input, at);
        self.session = Some(session);
        outputs
    }

    fn source(&mut self, event: SourceEvent<ShiftStatus>) -> Vec<Output> {
        self.step(Input::Source(event))
    }

    fn applied(&mut self, resource: Resource<ShiftStatus>) -> Vec<String> {
        told(self.source(SourceEvent::Applied(Box::new(resource))))
    }

    fn listed(&mut self, resources: Vec<Resource<ShiftStatus>>) -> Vec<String> {
        let mut outputs = self.source(SourceEvent::ListStarted);
        for resource in resources {
            outputs.extend(self.source(SourceEvent::Listed(Box::new(resource))));
        }
        outputs.extend(self.source(SourceEvent::ListDone));
        told(outputs)
    }

    /// Dials and is welcomed.
    fn connect(&mut self, is_source: bool) -> Vec<Output> {
        assert_eq!(self.step(Input::Tick), [Output::Dial]);
        let hello = self.step(Input::Opened);
        assert!(matches!(hello.as_slice(), [Output::Send(Outgoing::Hello { .. })]), "{hello:?}");
        self.step(Input::Received(Incoming::Welcome { epoch: 3, is_source, message: "as you like".to_owned() }))
    }

    fn lose(&mut self) -> Vec<Output> {
        let outputs = self.step(Input::Closed { reason: "cut".to_owned(), refused: false });
        self.now += Duration::from_secs(60);
        outputs
    }
}

/// The resources that were told, as name, UID and generation.
fn told(outputs: Vec<Output>) -> Vec<String> {
    let one = |output| match output {
        Output::Send(Outgoing::Resource { key, uid, generation, .. }) => {
            Some(format!("{} {uid} {generation}", key.name))
        }
        _ => None,
    };
    outputs.into_iter().filter_map(one).collect()
}

#[test]
fn a_resource_is_told_when_it_comes_and_when_its_spec_changes() {
    let mut play = Play::new();
    assert!(play.connect(true).contains(&Output::Watch(true)));
    assert_eq!(play.listed(vec![resource("a", "1", 1)]), ["a 1 1"]);
    assert_eq!(play.applied(resource("a", "1", 1)), [""; 0], "only its status changed");
    assert_eq!(play.applied(resource("a", "1", 2)), ["a 1 2"]);
    assert_eq!(play.applied(resource("a", "2", 1)), ["a 2 1"], "another one of that name");
}

#[test]
fn a_resource_that_has_ended_is_never_told_again() {
    let mut play = Play::new();
    play.connect(true);
    let list = vec![ended(resource("done", "1", 1)), resource("new", "2", 1)];
    assert_eq!(play.listed(list), ["new 2 1"]);
    assert_eq!(play.applied(ended(resource("done", "1", 9))), [""; 0], "also with another spec");
    assert_eq!(play.session.as_ref().expect("a session").active(), 1);
}

#[test]
fn after_each_connect_everything_that_has_not_ended_is_told_anew() {
    let mut play = Play::new();
    play.connect(true);
    play.listed(vec![resource("a", "1", 1), resource("b", "2", 1), ended(resource("c", "3", 1))]);
    let lost = play.lose();
    assert!(lost.contains(&Output::Lost), "{lost:?}");
    assert_eq!(told(play.connect(true)), ["a 1 1", "b 2 1"]);
}

#[test]
fn without_room_the_rest_waits_for_it_and_the_newest_state_is_told() {
    let mut play = Play::new();
    play.connect(true);
    play.room = 0;
    assert_eq!(play.listed(vec![resource("a", "1", 1), resource("b", "2", 1)]), [""; 0]);
    assert!(play.session.as_ref().expect("a session").wants_room());
    assert_eq!(play.applied(resource("a", "1", 2)), [""; 0]);
    play.room = 1;
    assert_eq!(told(play.step(Input::Tick)), ["a 1 2"]);
    assert_eq!(told(play.step(Input::Tick)), ["b 2 1"]);
    assert!(!play.session.as_ref().expect("a session").wants_room());
}

#[test]
fn a_resource_that_goes_is_not_told_and_not_told_later() {
    let mut play = Play::new();
    play.connect(true);
    play.room = 0;
    play.listed(vec![resource("a", "1", 1), resource("b", "2", 1)]);
    let other = SourceEvent::Deleted { key: key("a"), uid: "0".to_owned() };
    play.source(other);
    play.source(SourceEvent::Deleted { key: key("b"), uid: "2".to_owned() });
    play.room = 8;
    assert_eq!(told(play.step(Input::Tick)), ["a 1 1"], "a deletion of an older one of that name is none of this one");
    play.listed(vec![]);
    assert!(!play.session.as_ref().expect("a session").holds(&key("a")));
}

#[test]
fn a_hub_that_takes_nothing_from_here_hears_nothing_and_its_end_is_the_sign_to_ask_again() {
    let mut play = Play::new();
    let welcomed = play.connect(false);
    assert!(welcomed.contains(&Output::Watch(false)), "{welcomed:?}");
    assert!(welcomed.contains(&Output::Note(Note::NotSource { message: "as you like".to_owned() })));
    assert_eq!(play.applied(resource("a", "1", 1)), [""; 0]);
    play.lose();
    assert!(play.connect(true).contains(&Output::Watch(true)));
}

#[test]
fn a_hub_of_an_older_epoch_is_not_followed() {
    let mut play = Play::new();
    play.highest_epoch = 4;
    let outputs = play.connect(true);
    assert_eq!(outputs[0], Output::Drop, "{outputs:?}");
    assert_eq!(play.session.as_ref().expect("a session").stage(), "offline");
}

#[test]
fn a_hub_that_answers_nothing_is_left_after_a_while() {
    let mut play = Play::new();
    play.step(Input::Tick);
    play.step(Input::Opened);
    play.now = play.session.as_ref().and_then(Session::wake_at).expect("a deadline");
    assert_eq!(play.step(Input::Tick)[0], Output::Drop);
}

#[test]
fn what_the_hub_says_is_shown_and_a_second_welcome_is_not_believed() {
    let mut play = Play::new();
    play.connect(true);
    let status = Box::new(ShiftStatus::default());
    let said = Incoming::Status { key: key("a"), uid: "1".to_owned(), status: status.clone() };
    let shown = Output::Show { key: key("a"), uid: "1".to_owned(), status };
    assert_eq!(play.step(Input::Received(said)), [shown]);
    let again = Incoming::Welcome { epoch: 3, is_source: true, message: String::new() };
    assert_eq!(play.step(Input::Received(again))[0], Output::Drop);
}

#[test]
fn trouble_with_watching_is_known_until_something_is_seen() {
    let mut play = Play::new();
    play.connect(true);
    play.source(SourceEvent::Failing("forbidden".to_owned()));
    play.source(SourceEvent::ListStarted);
    assert_eq!(play.session.as_ref().expect("a session").failing(), Some("forbidden"));
    play.source(SourceEvent::Following);
    assert_eq!(play.session.as_ref().expect("a session").failing(), None);
}
