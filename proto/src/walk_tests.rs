//! The walk beside prost: what prost makes of bytes is never more than the walk says, and nothing that is sent legally is refused.

use prost::{Message, bytes::Bytes};
use tonic::Code;

use super::*;
use crate::{
    agent::v1::{self as agent, agent_message, sync_policies_request, sync_shifts_request},
    api::v1 as api,
    codec::decode,
};

/// The largest that the agent keeps of a pod.
fn largest_pod(i: usize) -> agent::Endpoint {
    let text = |part: &str, long: usize| format!("{part}-{i}-{}", "x".repeat(long));
    agent::Endpoint {
        service: Some(agent::ServiceRef {
            namespace: text("namespace", 40),
            name: text("service", 40),
            port: "http".to_owned(),
            target_type: 0,
        }),
        address: format!("10.0.{}.{}", i / 250, i % 250 + 1),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        pod: Some(agent::PodInfo {
            namespace: text("namespace", 40),
            name: text("pod", 200),
            uid: "0190a3b2-0000-7000-8000-000000000001".to_owned(),
            ips: (0..8).map(|j| format!("2001:db8:0:0:0:0:{i:x}:{j:x}")).collect(),
            enis: (0..16)
                .map(|j| agent::EniInfo {
                    eni_id: format!("eni-{i:08x}{j:09x}"),
                    private_ip: format!("10.0.0.{j}"),
                    if_address: "02:00:00:00:00:01".to_owned(),
                    vlan_id: j,
                    subnet_cidr: "10.0.0.0/16".to_owned(),
                })
                .collect(),
            container_ports: (0..64)
                .map(|j| agent::ContainerPort { name: format!("port-{j}"), port: 8000 + j, protocol: "TCP".to_owned() })
                .collect(),
            readiness_gates: (0..32).map(|j| format!("target-health.switchyard.dev/policy-{j}")).collect(),
            conditions: (0..64)
                .map(|j| agent::PodCondition {
                    r#type: format!("example.com/condition-{j}"),
                    status: "True".to_owned(),
                })
                .collect(),
            node: text("node", 40),
            zone: "eu-central-1a".to_owned(),
            deletion_timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }),
        }),
    }
}

fn report(upserts: Vec<agent::Endpoint>) -> agent::AgentMessage {
    let changes = agent::Changes { upserts, ..agent::Changes::default() };
    agent::AgentMessage { seq: 1, message: Some(agent_message::Message::Changes(changes)) }
}

fn key(number: u32) -> u8 {
    u8::try_from(number << 3 | 2).expect("a small field number")
}

/// A field with these bytes.
fn within(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key(number)];
    prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend_from_slice(inner);
    bytes
}

fn taken<M: Message + Default + Shaped + PartialEq>(message: &M) {
    let bytes = message.encode_to_vec();
    weigh::<M>(&bytes).unwrap_or_else(|too_much| panic!("{} bytes: {too_much:?}", bytes.len()));
    assert!(decode::<M>(bytes.into()).unwrap() == *message);
}

#[test]
fn the_largest_messages_that_agents_send_are_taken() {
    taken(&report((0..500).map(largest_pod).collect()));
    let failing = |i: usize| agent::SourceState {
        namespace: format!("namespace-{i}"),
        kind: "EndpointSlice".to_owned(),
        health: 3,
        message: "forbidden ".repeat(60),
    };
    let sources = agent::SourceStates { sources: (0..4000).map(failing).collect() };
    taken(&agent::AgentMessage { seq: 1, message: Some(agent_message::Message::SourceStates(sources)) });
    let policy = |i: usize| agent::SourcePolicy {
        namespace: "shop".to_owned(),
        name: format!("policy-{i}"),
        uid: i.to_string(),
        generation: 1,
        // Bytes that look like fields: a text is not looked into.
        spec_json: "\n\u{1}z".repeat(64 * 1024 / 3),
    };
    let changes = agent::PolicyChanges { upserts: (0..50).map(policy).collect(), deleted: Vec::new() };
    taken(&agent::SyncPoliciesRequest { seq: 1, message: Some(sync_policies_request::Message::Changes(changes)) });
    let weights = (0..100).map(|i| (format!("cluster-{i}"), i)).collect();
    taken(&api::SetWeightsRequest { weights, ..api::SetWeightsRequest::default() });
}

#[test]
fn four_mebibytes_of_empty_messages_are_refused_wherever_they_stand() {
    let flood = |number: u32| [key(number), 0].repeat(2 * 1024 * 1024 - 64);
    let refused = |result: Result<usize, TooMuch>| assert_eq!(result, Err(TooMuch { most: MOST }));
    for list in 1..=3 {
        refused(weigh::<agent::AgentMessage>(&within(4, &flood(list))));
    }
    refused(weigh::<agent::AgentMessage>(&within(8, &flood(1))));
    // In a pod: interfaces, addresses, gates.
    for list in [4, 5, 6, 7, 8] {
        refused(weigh::<agent::AgentMessage>(&within(4, &within(2, &within(7, &flood(list))))));
    }
    for list in 1..=2 {
        refused(weigh::<agent::SyncPoliciesRequest>(&within(4, &flood(list))));
    }
    // The same field again and again, each time with a little.
    refused(weigh::<agent::AgentMessage>(&within(4, &within(2, &[])).repeat(1024 * 1024)));
    refused(weigh::<api::SetWeightsRequest>(&flood(3)));
    let status = decode::<agent::AgentMessage>(within(4, &flood(2)).into()).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("smaller messages"), "{status:?}");
}

#[test]
fn bytes_that_are_no_message_get_the_words_of_prost() {
    let whole = report((0..3).map(largest_pod).collect()).encode_to_vec();
    let mut refused = 0;
    for end in 0..whole.len() {
        let cut = Bytes::copy_from_slice(&whole[..end]);
        match (decode::<agent::AgentMessage>(cut.clone()), agent::AgentMessage::decode(cut)) {
            (Ok(ours), Ok(theirs)) => assert!(ours == theirs),
            (Err(status), Err(error)) => {
                assert_eq!((status.code(), status.message()), (Code::Internal, error.to_string().as_str()));
                refused += 1;
            }
            (ours, theirs) => panic!("{end}: {ours:?} and {theirs:?}"),
        }
    }
    assert!(refused > whole.len() / 2);
    // Deeper than prost goes, and a group without an end.
    let deep = (0..1000).fold(Vec::new(), |inner, _| within(4, &inner[..inner.len().min(10_000)]));
    for bytes in [deep, vec![0x0b; 10_000], vec![0xff; 64], vec![7]] {
        let error = agent::AgentMessage::decode(bytes.as_slice()).err().map(|error| error.to_string());
        let status = decode::<agent::AgentMessage>(bytes.into()).err().map(|status| status.message().to_owned());
        assert_eq!(status, error);
    }
}

/// The same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % most.max(1)
    }
}

/// What prost holds of a message, without the room that lists keep for more.
fn held(message: &agent::AgentMessage) -> usize {
    let text = |text: &String| text.len();
    let service = |service: &Option<agent::ServiceRef>| {
        service.as_ref().map_or(0, |service| service.namespace.len() + service.name.len() + service.port.len())
    };
    let Some(agent_message::Message::Changes(changes)) = &message.message else { return 0 };
    let pod = |pod: &agent::PodInfo| {
        size_of::<agent::EniInfo>() * pod.enis.len()
            + size_of::<agent::ContainerPort>() * pod.container_ports.len()
            + size_of::<agent::PodCondition>() * pod.conditions.len()
            + pod.ips.iter().chain(&pod.readiness_gates).map(|text| size_of::<String>() + text.len()).sum::<usize>()
            + pod.conditions.iter().map(|one| text(&one.r#type) + text(&one.status)).sum::<usize>()
            + text(&pod.name)
    };
    let endpoint = |one: &agent::Endpoint| {
        size_of::<agent::Endpoint>() + service(&one.service) + text(&one.address) + one.pod.as_ref().map_or(0, pod)
    };
    changes.upserts.iter().map(endpoint).sum::<usize>()
        + changes.tombstones.iter().map(|one| size_of::<agent::Tombstone>() + service(&one.service)).sum::<usize>()
        + changes.services.iter().map(|one| size_of::<agent::ServiceState>() + text(&one.message)).sum::<usize>()
}

#[test]
fn whatever_prost_makes_of_bytes_the_walk_has_weighed() {
    let mut dice = Dice(7);
    let mut decoded = 0;
    for round in 0..3000 {
        let tombstone = agent::Tombstone { service: largest_pod(1).service, ..agent::Tombstone::default() };
        let changes = agent::Changes {
            services: vec![agent::ServiceState { message: "why".to_owned(), ..Default::default() }; dice.below(4)],
            upserts: (0..dice.below(3)).map(largest_pod).collect(),
            tombstones: vec![tombstone; dice.below(4)],
        };
        let message = agent::AgentMessage { seq: round, message: Some(agent_message::Message::Changes(changes)) };
        let mut bytes = message.encode_to_vec();
        for _ in 0..dice.below(6) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
                1 => bytes.truncate(at),
                // A key and a length, or what will be taken for them.
                2 => drop(bytes.splice(at..at, [key(u32::try_from(dice.below(9)).expect("small")), 0])),
                _ => bytes.extend([key(4), 4, key(2), 2, key(7), 0]),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let weight = weigh::<agent::AgentMessage>(&bytes).expect("none is large");
        if let Ok(message) = agent::AgentMessage::decode(bytes.as_slice()) {
            decoded += 1;
            assert!(held(&message) <= weight, "round {round}: {} are held and {weight} were weighed", held(&message));
        }
    }
    assert!(decoded > 500, "{decoded}");
}

#[test]
fn a_message_of_a_shift_is_weighed_too() {
    let resource = agent::TrafficShiftResource { spec_json: "x".repeat(1024 * 1024), ..Default::default() };
    taken(&agent::SyncShiftsRequest { message: Some(sync_shifts_request::Message::Resource(resource)) });
}
