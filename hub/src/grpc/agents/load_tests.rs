//! What is held: by one session, by all, and how much room the largest fleet needs.

use prost::Message as _;
use switchyard_proto::agent::v1 as proto;

use super::{
    super::parse::{self, MOST_ITEMS, Parsed},
    *,
};

const MIB: usize = 1024 * 1024;

fn load() -> Load {
    Load::new(Shelf::default())
}

fn begin() -> Inbound {
    Inbound::SnapshotBegin { id: "s".to_owned(), version: 1 }
}

fn end() -> Inbound {
    Inbound::SnapshotEnd { id: "s".to_owned(), services: 0, endpoints: 0 }
}

/// A message of one endpoint that weighs a little more than so many bytes.
fn report(bytes: usize) -> Inbound {
    let mut report = message(&[ordinary(1)]);
    let Inbound::Changes(changes) = &mut report else { unreachable!("it was made so") };
    let Some(crate::store::EndpointChange::Upsert(_, new)) = changes.first_mut() else {
        unreachable!("it was made so")
    };
    new.pod = "x".repeat(bytes).into();
    report
}

fn message(upserts: &[proto::Endpoint]) -> Inbound {
    let changes = proto::Changes { upserts: upserts.to_vec(), ..proto::Changes::default() };
    let message = proto::AgentMessage { seq: 1, message: Some(proto::agent_message::Message::Changes(changes)) };
    match parse::message(message, Some(&"member-cluster-1".parse().unwrap())) {
        Ok(Parsed::Message(_, inbound)) => inbound,
        other => panic!("{other:?}"),
    }
}

/// As an agent on EKS reports it: two containers with a port each, an interface of its own, the conditions that every pod has, and the
/// gate of one policy.
fn ordinary(i: usize) -> proto::Endpoint {
    proto::Endpoint {
        service: Some(proto::ServiceRef {
            namespace: "checkout-production".to_owned(),
            name: "checkout-api".to_owned(),
            port: "http".to_owned(),
            target_type: 0,
        }),
        address: format!("10.{}.{}.{}", i / 60_000, i / 250 % 240, i % 250 + 1),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        pod: Some(proto::PodInfo {
            namespace: "checkout-production".to_owned(),
            name: format!("checkout-api-7d9f8b6c5d-{i:05}"),
            uid: "0190a3b2-0000-7000-8000-000000000001".to_owned(),
            ips: vec!["10.0.0.1".to_owned()],
            enis: vec![proto::EniInfo {
                eni_id: "eni-0123456789abcdef0".to_owned(),
                private_ip: "10.0.0.1".to_owned(),
                if_address: "02:00:00:00:00:01".to_owned(),
                vlan_id: 3,
                subnet_cidr: "10.0.0.0/18".to_owned(),
            }],
            container_ports: ["http", "metrics"]
                .map(|name| proto::ContainerPort { name: name.to_owned(), port: 8080, protocol: "TCP".to_owned() })
                .into(),
            readiness_gates: vec!["target-health.switchyard.dev/checkout-production".to_owned()],
            conditions: ["ContainersReady", "Initialized", "PodReadyToStartContainers", "PodScheduled", "Ready"]
                .map(|name| proto::PodCondition { r#type: name.to_owned(), status: "True".to_owned() })
                .into(),
            node: "ip-10-0-0-1.eu-central-1.compute.internal".to_owned(),
            zone: "eu-central-1a".to_owned(),
            deletion_timestamp: None,
        }),
    }
}

#[test]
fn a_hundred_thousand_ordinary_endpoints_of_a_fleet_have_room() {
    let report = message(&(0..MOST_ITEMS).map(ordinary).collect::<Vec<_>>());
    let each = report.weight() / MOST_ITEMS;
    assert!((800..2_000).contains(&each), "{each} bytes an endpoint");
    // In one cluster, and in twenty that come at the same moment.
    for clusters in [1, 20] {
        let shelf = Shelf::default();
        let mut loads: Vec<Load> = (0..clusters).map(|_| Load::new(shelf.clone())).collect();
        loads.iter_mut().for_each(|load| load.came(1, &begin()).unwrap());
        for seq in 2..2 + 100_000 / MOST_ITEMS / clusters {
            loads.iter_mut().for_each(|load| load.came(seq as u64, &report).unwrap());
        }
    }
}

#[test]
fn what_is_small_on_the_wire_is_counted_as_what_it_becomes() {
    let empty = proto::PodInfo {
        enis: vec![proto::EniInfo { vlan_id: 1, ..Default::default() }; 64],
        container_ports: vec![proto::ContainerPort { port: 1, ..Default::default() }; 64],
        conditions: vec![proto::PodCondition { status: "T".to_owned(), ..Default::default() }; 64],
        ..ordinary(1).pod.unwrap()
    };
    let endpoint = proto::Endpoint { pod: Some(empty), ..ordinary(1) };
    let (wire, weight) = (endpoint.encoded_len(), message(&[endpoint]).weight());
    assert!(wire < 1_200 && (4_000..10_000).contains(&weight), "{wire} bytes became {weight}");
}

#[test]
fn large_messages_fill_it_sooner_than_small_ones_and_what_is_stored_makes_room() {
    let mut load = load();
    for seq in 1..=4 {
        assert!(load.has_room());
        load.came(seq, &report(4 * MIB)).unwrap();
    }
    assert!(!load.has_room());
    load.stored(0);
    assert!(!load.has_room());
    load.stored(1);
    assert!(load.has_room());
    load.stored(4);
    for seq in 5..133 {
        assert!(load.has_room(), "{seq}");
        load.came(seq, &Inbound::Live { version: 1 }).unwrap();
    }
    assert!(!load.has_room());
    load.stored(132);
    assert_eq!((load.bytes, load.waiting.len()), (0, 0));
}

#[test]
fn a_snapshot_waits_as_a_whole_and_a_second_one_is_not_read_before_it_is_stored() {
    let mut load = load();
    load.came(1, &begin()).unwrap();
    for seq in 2..12 {
        load.came(seq, &report(4 * MIB)).unwrap();
        load.stored(seq);
    }
    assert!(load.has_room());
    load.came(12, &end()).unwrap();
    assert!(!load.has_room(), "40 MiB wait");
    load.stored(12);
    assert!(load.has_room());
}

fn stage(load: &mut Load, most: usize) -> Result<(), Refusal> {
    load.came(1, &begin()).unwrap();
    for seq in 2..2 + (most / (4 * MIB)) as u64 {
        load.stored(seq - 1);
        load.came(seq, &report(4 * MIB))?;
    }
    Ok(())
}

#[test]
fn a_snapshot_without_end_is_refused() {
    let refused = stage(&mut load(), 10 * MOST_IN_ALL).unwrap_err();
    assert_eq!(refused, Refusal::TooLarge { what: "bytes", most: MOST_IN_ALL });
}

#[test]
fn hostile_snapshots_take_less_than_twice_the_bound_and_keep_nobody_out() {
    let shelf = Shelf::default();
    let mut held: Vec<Load> = Vec::new();
    for round in 0..20 {
        let mut load = Load::new(shelf.clone());
        match stage(&mut load, MOST_IN_ALL - 8 * MIB) {
            // The first one had it all for himself.
            Ok(()) => assert_eq!(round, 0),
            Err(refused) => assert_eq!(refused, Refusal::NoShare { most: MOST_IN_ALL }),
        }
        // They stay where they are when they were refused, which a stream that is ended cannot.
        held.push(load);
        // A message at the end of each may pass the mark.
        assert!(shelf.0.load(Relaxed) < 2 * MOST_IN_ALL + 5 * MIB * held.len(), "{round}");
        if round < 8 {
            // A cluster of a few thousand endpoints comes in all the same.
            stage(&mut Load::new(shelf.clone()), 4 * MIB).unwrap();
        }
    }
    drop(held);
    assert_eq!(shelf.0.load(Relaxed), 0);
}

#[test]
fn news_wait_while_others_hold_all_there_is() {
    let shelf = Shelf::default();
    let mut others: Vec<Load> = (0..32).map(|_| Load::new(shelf.clone())).collect();
    for load in &mut others {
        stage(load, MOST_IN_ALL / 32 + 4 * MIB).unwrap_or(());
    }
    let mut load = Load::new(shelf.clone());
    assert!(load.has_room(), "a message may always come");
    load.came(1, &report(15 * MIB)).unwrap();
    assert!(!load.has_room());
    load.stored(1);
    assert!(load.has_room());
}
