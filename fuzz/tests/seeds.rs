//! The seeds of the agent's stream are binary, so they are made here, from messages that can be read. `SWITCHYARD_ACCEPT=1` writes them
//! anew.

use std::{fs, path::Path};

use prost::Message as _;
use switchyard_fuzz::agent_stream::{run, watch_set};
use switchyard_proto::agent::v1::{self as proto, agent_message::Message};

const ACCEPT: &str = "SWITCHYARD_ACCEPT";

fn stream(messages: &[(u64, Message)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (seq, message) in messages {
        let message = proto::AgentMessage { seq: *seq, message: Some(message.clone()) };
        bytes.extend(message.encode_length_delimited_to_vec());
    }
    bytes
}

fn hello(last_acked_seq: u64) -> Message {
    Message::Hello(proto::Hello {
        cluster: "blue".into(),
        region: "eu-central-1".into(),
        vpc_id: "vpc-0123456789abcdef0".into(),
        agent_instance_id: "0190a3b2-0000-7000-8000-000000000001".into(),
        agent_version: "0.1.0".into(),
        highest_epoch_seen: 7,
        last_acked_seq,
        watch_set_version: watch_set().version,
        features: vec!["nodes".into()],
    })
}

fn service(port: &str, target_type: proto::TargetType) -> Option<proto::ServiceRef> {
    let (namespace, name, port) = ("shop".into(), "checkout".into(), port.into());
    Some(proto::ServiceRef { namespace, name, port, target_type: target_type.into() })
}

fn state() -> proto::ServiceState {
    proto::ServiceState {
        service: service("http", proto::TargetType::Unspecified),
        condition: proto::ServiceCondition::Resolved.into(),
        message: String::new(),
        node_port: 30080,
        health_check_node_port: 0,
    }
}

fn pod() -> proto::Endpoint {
    proto::Endpoint {
        service: service("http", proto::TargetType::Unspecified),
        address: "10.0.0.1".into(),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        pod: Some(proto::PodInfo {
            namespace: "shop".into(),
            name: "checkout-0".into(),
            uid: "u1".into(),
            ips: vec!["10.0.0.1".into(), "fd00::1".into()],
            enis: vec![proto::EniInfo { eni_id: "eni-1".into(), vlan_id: 3, ..Default::default() }],
            container_ports: vec![proto::ContainerPort { name: "http".into(), port: 8080, protocol: "TCP".into() }],
            readiness_gates: vec!["target-health.switchyard.dev/checkout".into()],
            conditions: vec![proto::PodCondition { r#type: "Ready".into(), status: "True".into() }],
            node: "node-1".into(),
            zone: "eu-central-1a".into(),
            deletion_timestamp: None,
        }),
    }
}

fn node() -> proto::Endpoint {
    let service = service("8080", proto::TargetType::Instance);
    proto::Endpoint { service, address: "i-0123456789abcdef0".into(), port: 30080, pod: None, ..pod() }
}

fn gone() -> proto::Tombstone {
    proto::Tombstone {
        service: service("http", proto::TargetType::Unspecified),
        address: "10.0.0.1".into(),
        port: 8080,
        pod_uid: "u1".into(),
        reason: proto::TombstoneReason::PodDeleted.into(),
    }
}

fn changes(upserts: Vec<proto::Endpoint>, tombstones: Vec<proto::Tombstone>) -> Message {
    Message::Changes(proto::Changes { services: vec![state()], upserts, tombstones })
}

fn snapshot(seq: u64, services: u32, endpoints: u32) -> [(u64, Message); 3] {
    let (id, version) = ("s1".to_owned(), watch_set().version);
    let begin = proto::SnapshotBegin { snapshot_id: id.clone(), watch_set_version: version };
    let end = proto::SnapshotEnd { snapshot_id: id, service_count: services, endpoint_count: endpoints };
    [
        (seq, Message::SnapshotBegin(begin)),
        (seq + 1, changes(vec![pod(), node()], Vec::new())),
        (seq + 2, Message::SnapshotEnd(end)),
    ]
}

fn failing() -> Message {
    let source = proto::SourceState {
        namespace: "shop".into(),
        kind: "Pod".into(),
        health: proto::SourceHealth::Failing.into(),
        message: "pods is forbidden".into(),
    };
    Message::SourceStates(proto::SourceStates { sources: vec![source] })
}

/// Name and bytes of each seed.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let live = Message::Live(proto::Live { watch_set_version: watch_set().version });
    let mut whole = vec![(0, hello(0))];
    whole.extend(snapshot(1, 1, 2));
    whole.extend([(4, live.clone()), (0, Message::Heartbeat(proto::Heartbeat::default()))]);
    whole.extend([(5, changes(vec![pod()], vec![gone()])), (6, failing())]);
    let mut uneven = vec![(0, hello(0))];
    uneven.extend(snapshot(1, 3, 1));
    let foreign = Message::Hello(proto::Hello { highest_epoch_seen: 8, cluster: "green".into(), ..Default::default() });
    vec![
        ("good-a-snapshot-then-news", stream(&whole)),
        ("good-resumed", stream(&[(0, hello(5)), (6, changes(Vec::new(), vec![gone()])), (7, live)])),
        ("good-sources-fail", stream(&[(0, hello(5)), (9, failing())])),
        ("bad-counts-that-differ", stream(&uneven)),
        ("bad-changes-before-hello", stream(&[(1, changes(vec![node()], Vec::new()))])),
        ("bad-a-hello-without-fields", stream(&[(0, foreign)])),
        ("good-until-its-numbers-go-back", stream(&[(0, hello(5)), (9, failing()), (8, failing())])),
    ]
}

#[test]
fn the_seeds_of_the_agents_stream_are_what_is_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/agent_stream");
    for (name, bytes) in seeds() {
        let file = folder.join(name);
        if std::env::var_os(ACCEPT).is_some() {
            fs::create_dir_all(&folder).expect("the folder is made");
            fs::write(&file, &bytes).expect("the file is written");
        }
        let committed = fs::read(&file).unwrap_or_default();
        assert!(committed == bytes, "{} is another; when that is meant, run with {ACCEPT}=1", file.display());
        assert!(run(&bytes) == name.starts_with("good-"), "{name}");
    }
}
