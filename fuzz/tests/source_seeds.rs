//! The seeds of the streams of policies and shifts are binary, so they are made here, from messages that can be read.
//! `SWITCHYARD_ACCEPT=1` writes them anew.

use std::{fs, path::Path};

use prost::Message;
use switchyard_fuzz::{policy_stream, shift_stream};
use switchyard_proto::agent::v1::{self as proto, sync_policies_request, sync_shifts_request};

const ACCEPT: &str = "SWITCHYARD_ACCEPT";
const INSTANCE: &str = "0190a3b2-0000-7000-8000-000000000001";

fn stream<M: Message>(messages: &[M]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

const POLICY: &str = r#"{"listener":{"loadBalancer":"shared","port":80},"match":{"hostnames":["a.example.com"]},"backend":{"service":{"name":"web","port":"http"}},"clusters":[{"name":"blue","weight":100}]}"#;

fn policies(messages: Vec<sync_policies_request::Message>) -> Vec<u8> {
    let cluster = "blue".to_owned();
    let hello = proto::SourceHello {
        cluster,
        agent_instance_id: INSTANCE.into(),
        agent_version: "0.1.0".into(),
        highest_epoch_seen: 7,
    };
    let mut all = vec![sync_policies_request::Message::Hello(hello)];
    all.extend(messages);
    let numbered = all.into_iter().zip(0..);
    stream(
        &numbered.map(|(message, seq)| proto::SyncPoliciesRequest { seq, message: Some(message) }).collect::<Vec<_>>(),
    )
}

fn changes(specs: &[&str]) -> sync_policies_request::Message {
    let upsert = |(i, spec): (usize, &&str)| proto::SourcePolicy {
        namespace: "shop".into(),
        name: format!("web-{i}"),
        uid: format!("u{i}"),
        generation: 1,
        spec_json: (*spec).to_owned(),
    };
    let gone = proto::DeletedPolicy { namespace: "shop".into(), name: "gone".into(), uid: "u9".into() };
    let deleted = if specs.len() > 1 { vec![gone] } else { Vec::new() };
    let upserts = specs.iter().enumerate().map(upsert).collect();
    sync_policies_request::Message::Changes(proto::PolicyChanges { upserts, deleted })
}

fn policy_seeds() -> Vec<(&'static str, Vec<u8>)> {
    use sync_policies_request::Message as Say;
    let list_id = || "1".to_owned();
    let list = vec![
        Say::ListBegin(proto::PolicyListBegin { list_id: list_id() }),
        changes(&[POLICY, "{}"]),
        Say::ListEnd(proto::PolicyListEnd { list_id: list_id(), count: 2 }),
    ];
    let nameless = proto::SourcePolicy { spec_json: POLICY.into(), generation: 1, ..Default::default() };
    let nameless = proto::PolicyChanges { upserts: vec![nameless], deleted: Vec::new() };
    vec![
        ("good-a-list", policies(list)),
        ("good-one-policy", policies(vec![changes(&[POLICY])])),
        ("good-failing", policies(vec![Say::Failing(proto::PolicySourceFailing { message: "forbidden\r\n".into() })])),
        ("bad-a-spec-that-writes-logs", policies(vec![changes(&[r#"{"\u001b[2J\r\n\u202e": "\u0007"}"#])])),
        ("bad-a-key-that-is-none", policies(vec![Say::Changes(nameless)])),
        (
            "bad-changes-before-hello",
            stream(&[proto::SyncPoliciesRequest { seq: 1, message: Some(changes(&[POLICY])) }]),
        ),
    ]
}

const SHIFT: &str = r#"{"policies":[{"name":"web","to":"green"}],"reason":"release","gates":[{"name":"a","prometheus":{"source":"main","query":"up"},"success":"> 0"}],"strategy":{"steps":[{"percent":10},{"percent":100}]}}"#;
const CROSSING: &str =
    r#"{"policies":[{"name":"web","to":"green"}],"reason":"incident","overrides":["MaxStepPercent"]}"#;

fn shifts(specs: &[&str]) -> Vec<u8> {
    use sync_shifts_request::Message as Say;
    let cluster = "blue".to_owned();
    let hello = proto::ShiftSourceHello {
        cluster,
        agent_instance_id: INSTANCE.into(),
        agent_version: "0.1.0".into(),
        highest_epoch_seen: 7,
    };
    let resource = |(i, spec): (usize, &&str)| {
        Say::Resource(proto::TrafficShiftResource {
            namespace: "shop".into(),
            name: format!("web-{i}"),
            uid: format!("u{i}"),
            generation: 1,
            spec_json: (*spec).to_owned(),
        })
    };
    let all = [Say::Hello(hello)].into_iter().chain(specs.iter().enumerate().map(resource));
    stream(&all.map(|message| proto::SyncShiftsRequest { message: Some(message) }).collect::<Vec<_>>())
}

/// What serde says of a name that is not known repeats it.
fn long_name() -> String {
    format!("{{\"{}\": 1}}", "x".repeat(60_000))
}

fn shift_seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("good-one", shifts(&[SHIFT])),
        ("good-one-that-crosses-rules", shifts(&[CROSSING, "{}"])),
        ("bad-a-spec-that-writes-logs", shifts(&[r#"{"\u001b[2J\r\n\u202e": "\u0007"}"#])),
        ("bad-no-spec", shifts(&["", "null", "[]", "{"])),
        ("bad-a-resource-before-hello", shifts(&[SHIFT]).split_off(50)),
    ]
}

fn is_committed(folder: &str, name: &str, bytes: &[u8], run: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let file = folder.join(name);
    if std::env::var_os(ACCEPT).is_some() {
        fs::create_dir_all(&folder).expect("the folder is made");
        fs::write(&file, bytes).expect("the file is written");
    }
    let committed = fs::read(&file).unwrap_or_default();
    assert!(committed == bytes, "{} is another; when that is meant, run with {ACCEPT}=1", file.display());
    assert!(run(bytes) == name.starts_with("good-"), "{name}");
}

#[test]
fn the_seeds_of_the_stream_of_policies_are_what_is_committed() {
    for (name, bytes) in policy_seeds() {
        is_committed("corpus/policy_stream", name, &bytes, policy_stream::run);
    }
}

#[test]
fn the_seeds_of_the_stream_of_shifts_and_what_was_found_are_what_is_committed() {
    for (name, bytes) in shift_seeds() {
        is_committed("corpus/shift_stream", name, &bytes, shift_stream::run);
    }
    let found = [
        ("control-characters-in-the-name-of-a-field", shifts(&[r#"{"\u001b[31m\n": 1}"#])),
        ("a-fault-as-long-as-the-name-of-a-field", shifts(&[&long_name()])),
    ];
    for (name, bytes) in found {
        is_committed("regressions/shift_stream", name, &bytes, shift_stream::run);
    }
}
