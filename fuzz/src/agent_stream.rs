//! The stream of an agent as the hub reads it: messages with their lengths before them, each decoded, checked by `parse::message` and
//! handed to the session's machine. The agent is one of cluster blue and hostile.

use std::sync::Arc;

use prost::Message;
use switchyard_core::{
    ids::{ClusterName, Epoch},
    inventory::{EndpointKey, ServiceKey},
    policy::spec::TargetType,
};
use switchyard_hub::{
    fuzz::agents::{Effect, Inbound, Input, MOST_ITEMS, Parsed, State, WatchSet, Work, message},
    store::{EndpointChange, NewEndpoint, NewServiceState},
};
use switchyard_proto::agent::v1::AgentMessage;

use crate::text::is_one_sound_line;

/// Messages of one input.
const MOST_MESSAGES: usize = 64;
/// Characters of a message for people; the contract of the .proto file.
const MOST_TEXT: usize = 1024;
/// Bytes of what is kept of one pod for people, as JSON: 64 network interfaces with four texts of 253 characters, ports and
/// conditions with two, addresses and gates with one, a character escaped with six bytes.
const MOST_DETAILS: usize = 64 * 10 * 253 * 6 + 64 * 1024;
/// The hub's own epoch.
const EPOCH: Epoch = Epoch(7);

/// The Services that the hub asks for; the seeds name them, too.
pub fn watch_set() -> Arc<WatchSet> {
    let key = |port: &str, target_type| ServiceKey {
        namespace: "shop".parse().expect("a label"),
        name: "checkout".parse().expect("a label"),
        port: port.parse().expect("a port"),
        target_type,
    };
    Arc::new(WatchSet::new(vec![key("http", TargetType::Ip), key("8080", TargetType::Instance)]))
}

/// Tries one stream; it is taken when something of it was stored.
pub fn run(data: &[u8]) -> bool {
    let mut rest = data;
    let mut session = Session::new();
    for _ in 0..MOST_MESSAGES {
        let Ok(message) = AgentMessage::decode_length_delimited(&mut rest) else { break };
        if !session.take(message) || rest.is_empty() {
            break;
        }
    }
    session.kept
}

/// What the shell does around the machine, without its store.
struct Session {
    cluster: ClusterName,
    state: State,
    resume_after: Option<u64>,
    stored: Option<u64>,
    kept: bool,
}

impl Session {
    fn new() -> Self {
        let cluster = "blue".parse().expect("a label");
        Self { cluster, state: State::AwaitHello, resume_after: None, stored: None, kept: false }
    }

    /// False: the session is over.
    fn take(&mut self, given: AgentMessage) -> bool {
        let size = given.encoded_len();
        let input = match message(given, Some(&self.cluster)) {
            Err(malformed) => {
                is_one_sound_line("a malformed message", &malformed.to_string());
                return false;
            }
            Ok(Parsed::Heartbeat) => return true,
            Ok(Parsed::Hello(hello)) => {
                let agent = &hello.agent;
                assert!(agent.features.len() <= 32 && agent.agent_version.chars().count() <= 64, "{agent:?}");
                // An odd number stands for a store that knows the session.
                self.resume_after = Some(agent.last_acked_seq).filter(|seq| seq % 2 == 1);
                Input::Hello(hello, EPOCH)
            }
            Ok(Parsed::Message(seq, inbound)) => {
                self.is_bounded(&inbound, size);
                Input::Message(seq, inbound)
            }
        };
        self.step(input)
    }

    fn step(&mut self, input: Input) -> bool {
        let (effects, state) = std::mem::replace(&mut self.state, State::Ended).step(input);
        self.state = state;
        let mut ended = false;
        for effect in effects {
            assert!(!ended, "an effect after the end: {effect:?}");
            match effect {
                Effect::Open => return self.step(Input::Opened { resume_after: self.resume_after, set: watch_set() }),
                Effect::Store(write) => {
                    assert!(self.stored < Some(write.seq), "{:?} is stored after {:?}", write.seq, self.stored);
                    self.stored = Some(write.seq);
                    self.may_be_stored(write.work);
                }
                Effect::Resync(reason) => is_one_sound_line("a resync", &reason),
                Effect::End(refusal) => {
                    is_one_sound_line("the end of a session", &refusal.to_string());
                    ended = true;
                }
                Effect::Welcome { .. } | Effect::SendWatchSet(_) => {}
            }
        }
        assert_eq!(ended, matches!(self.state, State::Ended), "the state is {}", self.state.name());
        !ended
    }

    /// Whatever was sent, what is kept of it is bounded, and speaks of this cluster only.
    fn is_bounded(&self, inbound: &Inbound, size: usize) {
        match inbound {
            Inbound::Changes(changes) => {
                assert!(changes.len() <= MOST_ITEMS, "{} changes", changes.len());
                changes.iter().for_each(|change| self.is_ours(change));
            }
            Inbound::Sources(problems) => {
                // Each has at least its two tags and lengths on the wire.
                assert!(problems.len() <= size, "{} problems in {size} bytes", problems.len());
                assert!(problems.iter().all(|problem| problem.message.chars().count() <= MOST_TEXT));
            }
            Inbound::SnapshotBegin { id, .. } | Inbound::SnapshotEnd { id, .. } => {
                assert!((1..=128).contains(&id.len()))
            }
            Inbound::Live { .. } => {}
        }
    }

    fn is_ours(&self, change: &EndpointChange) {
        match change {
            EndpointChange::Service(_, state) => is_sound_state(state),
            EndpointChange::Upsert(key, new) => {
                self.is_our_key(key);
                is_sound_endpoint(new);
            }
            EndpointChange::Gone(key, _) => self.is_our_key(key),
        }
    }

    fn is_our_key(&self, key: &EndpointKey) {
        assert_eq!(key.cluster, self.cluster, "an agent speaks for another cluster");
        assert!(key.target.port > 0);
        let of_node = matches!(key.target.id, switchyard_core::observed::TargetId::Instance(_));
        assert_eq!(
            of_node,
            key.service.targets_nodes(),
            "an address where a node is watched for, or the other way round"
        );
    }

    fn may_be_stored(&mut self, work: Work) {
        self.kept |= !matches!(work, Work::Staged);
        match work {
            Work::Changes(changes) => {
                let set = watch_set();
                for change in &changes {
                    self.is_ours(change);
                    let (EndpointChange::Service(service, _)
                    | EndpointChange::Upsert(EndpointKey { service, .. }, _)
                    | EndpointChange::Gone(EndpointKey { service, .. }, _)) = change;
                    assert!(set.contains(service), "stored what nobody asked for: {service:?}");
                }
            }
            Work::Snapshot(snapshot) => {
                snapshot.endpoints.iter().for_each(|(key, _)| self.is_our_key(key));
                assert!(snapshot.endpoints.len() <= MOST_MESSAGES * MOST_ITEMS);
            }
            Work::Sources(_) | Work::Staged | Work::Live => {}
        }
    }
}

fn is_sound_state(state: &NewServiceState) {
    assert!(state.state.message.chars().count() <= MOST_TEXT);
    assert_ne!(state.state.health_check_node_port, Some(0), "port 0 stands for none");
}

fn is_sound_endpoint(new: &NewEndpoint) {
    let bounded = |text: &str, most| assert!(text.chars().count() <= most, "{most} characters are kept of {text:?}");
    bounded(&new.pod_name, 253);
    bounded(&new.node, 253);
    bounded(&new.zone, 64);
    assert!(new.eni_ids.len() <= 64 && new.gates.len() <= 64, "{} ENIs, {} gates", new.eni_ids.len(), new.gates.len());
    let details = new.pod.to_string();
    assert!(details.len() <= MOST_DETAILS, "{} bytes are kept of one pod", details.len());
}
