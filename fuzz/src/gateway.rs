//! A request of the JSON gateway, up to the call that it becomes: the table of routes, the decoding of the path, the transcoder.
//!
//! The input is text: a line `METHOD TARGET`, a line with the header `Idempotency-Key` (empty: none), and the body.

use std::sync::OnceLock;

use prost_reflect::{DynamicMessage, ReflectMessage};
use switchyard_core::access::{Who, need};
use switchyard_hub::fuzz::gateway::{Found, Refusal, Route, Sent, Table, answer, request};

use crate::text::is_one_sound_line;

/// Longer than any path and query that the gateway reads.
const MOST_URI: usize = 8 * 1024;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::new().expect("the table fits the descriptors"))
}

/// Tries one request; it is taken when it becomes a call.
pub fn run(data: &[u8]) -> bool {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (Some(line), Some(key), Some(body)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let (Ok(line), Ok(key)) = (std::str::from_utf8(line), std::str::from_utf8(key)) else { return false };
    let Some((method, target)) = line.split_once(' ') else { return false };
    // What hyper does not take for a target does not come here.
    let Ok(uri) = target.parse::<http::Uri>() else { return false };
    if target.len() > MOST_URI {
        return false;
    }
    let table = table();
    match table.find(method, uri.path()) {
        Found::Nothing => false,
        Found::OtherMethod(methods) => {
            assert!(!methods.is_empty() && !methods.contains(&method), "{methods:?}");
            false
        }
        Found::Route(route, values) => {
            leads_where_it_may(route, method, uri.path());
            let idempotency_key = Some(key).filter(|key| !key.is_empty());
            let body = if route.has_body() { body } else { b"" };
            let sent = Sent { path: &values, query: uri.query().unwrap_or(""), body, idempotency_key };
            let made = request(route, sent);
            match &made {
                Ok(message) => is_the_message(route, message),
                Err(refusal) => is_told(refusal),
            }
            made.is_ok()
        }
    }
}

/// No request reaches a call of agents, one that the table of rights does not know, or one by way of dots in the path.
fn leads_where_it_may(route: &Route, method: &str, path: &str) {
    assert_eq!(route.binding.http, method);
    let need =
        need(&route.grpc_path).unwrap_or_else(|| panic!("{} has no row in the table of rights", route.grpc_path));
    assert!(need.rpc.starts_with("switchyard.api.v1.") && need.who != Who::Agent, "{path} leads to {}", need.rpc);
    assert!(!path.contains("//") && path.starts_with("/v1/"), "{path} leads to {}", need.rpc);
}

/// What goes on to the service is a message of its call; shown as JSON and sent again it is the same.
fn is_the_message(route: &Route, message: &[u8]) {
    let input = route.method.input();
    let read = DynamicMessage::decode(input.clone(), message).expect("the request of the call");
    assert_eq!(read.descriptor(), input);
    assert!(read.unknown_fields().next().is_none(), "an unknown field went through");
    let shown = answer(input.clone(), message.to_vec().into()).expect("it can be shown");
    let mut reader = serde_json::Deserializer::from_slice(&shown);
    let again = DynamicMessage::deserialize(input, &mut reader).expect("what was shown can be read");
    assert_eq!(again, read, "shown as {}", String::from_utf8_lossy(&shown));
}

/// A refusal is a sentence, and an answer of its own status with the same sentence in it.
fn is_told(refusal: &Refusal) {
    is_one_sound_line("a refused request", &refusal.to_string());
    let (sentence, status) = (refusal.to_string(), refusal.http());
    assert!(status.is_client_error(), "{status}: {sentence}");
    let body = refusal.body(&table().pool);
    assert_eq!(body["message"], sentence.as_str());
}
