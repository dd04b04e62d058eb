//! A cluster's stream of policies as the hub reads it: messages with their lengths before them, each decoded within bounds and checked. The
//! agent is hostile, and whoever may write a resource in its cluster is, too.

use prost::{Message, bytes::Bytes};
use switchyard_hub::fuzz::policies::{Body, Changes, MOST_ITEMS, body, changes, hello};
use switchyard_proto::{agent::v1::SyncPoliciesRequest, codec};

use crate::text::is_one_sound_line;

/// Messages of one input.
const MOST_MESSAGES: usize = 64;
/// Characters of a message for people; the contract of the .proto file.
const MOST_TEXT: usize = 1024;

/// Tries one stream; it is taken when something of it would be stored.
pub fn run(data: &[u8]) -> bool {
    let mut stream = messages::<SyncPoliciesRequest>(data).into_iter();
    let Some(first) = stream.next() else { return false };
    match hello(first) {
        Ok(hello) => is_one_sound_line("a cluster", hello.cluster.as_str()),
        Err(end) => {
            is_one_sound_line("a greeting", &end);
            return false;
        }
    }
    let mut taken = false;
    for message in stream {
        let (_, body) = match body(message) {
            Ok(read) => read,
            Err(end) => {
                is_one_sound_line("a message", &end);
                return taken;
            }
        };
        match body {
            Body::ListBegin(id) | Body::ListEnd(id, _) => assert!((1..=128).contains(&id.len())),
            Body::Failing(why) => {
                let why = why.unwrap_or_default();
                is_one_sound_line("a failure", &why);
                assert!(why.chars().count() <= MOST_TEXT, "{why}");
                taken = true;
            }
            Body::Changes(list) => match changes(list) {
                Ok(changes) => taken |= are_sound(&changes),
                Err(end) => {
                    is_one_sound_line("a change", &end);
                    return taken;
                }
            },
        }
    }
    taken
}

/// True when one of them would be a policy, or was one.
fn are_sound(changes: &Changes) -> bool {
    assert!(changes.upserts.len() + changes.deleted.len() <= MOST_ITEMS);
    for new in &changes.upserts {
        match &new.wanted {
            // The text speaks of the resource that holds it and of no other.
            Ok(wanted) => {
                assert_eq!(wanted.policy.key, new.key);
                let text = serde_json::to_string(&wanted.manifest).expect("a manifest");
                assert!(!text.contains("\\u0000"), "the store cannot hold {text}");
            }
            Err(faults) => is_one_sound_line("the fault of a resource", faults),
        }
    }
    changes.upserts.iter().any(|new| new.wanted.is_ok()) || !changes.deleted.is_empty()
}

/// The messages of a stream, up to the first that is none.
pub(crate) fn messages<M: Message + Default + switchyard_proto::walk::Shaped>(data: &[u8]) -> Vec<M> {
    let mut rest = Bytes::copy_from_slice(data);
    let mut messages = Vec::new();
    while !rest.is_empty() && messages.len() < MOST_MESSAGES {
        let Ok(length) = prost::decode_length_delimiter(&mut rest) else { break };
        if length > rest.len() {
            break;
        }
        match codec::decode(rest.split_to(length)) {
            Ok(message) => messages.push(message),
            Err(status) => {
                is_one_sound_line("what is no message", status.message());
                break;
            }
        }
    }
    messages
}
