//! Readiness gates: which verdicts there are, and when waiting for one makes sense.

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    gate::{GateBook, Mode, Standing, Verdict, standing, targets},
    ids::{ClusterName, PolicyName, VpcId, Weight},
    inventory::{Cluster, Endpoint, EndpointKey, EndpointState, Evidence, Inventory, Link, ServiceKey},
    observed::{Health, Target, TargetState},
    policy::{ClusterTrafficPolicy, PolicyRecord, validate},
    status::{ClusterStatus, ConditionType, Note, PolicyStatus, Reason, StatusCondition, TargetCounts},
};

fn record(spec: serde_json::Value) -> PolicyRecord {
    let mut manifest = serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {
            "listener": {"loadBalancer": "shared", "port": 80},
            "match": {"hostnames": ["a.example.com"]},
            "backend": {"service": {"name": "web", "port": "http"}},
            "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}],
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        manifest["spec"][key] = value.clone();
    }
    let manifest: ClusterTrafficPolicy = serde_json::from_value(manifest).unwrap();
    PolicyRecord {
        uid: "uid".parse().unwrap(),
        version: 1,
        generation: 1,
        policy: validate(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    }
}

fn green() -> ClusterName {
    "green".parse().unwrap()
}

fn status(programmed: Option<u32>) -> PolicyStatus {
    let cluster = ClusterStatus {
        cluster: green(),
        requested: Weight::new(0).unwrap(),
        effective: Weight::new(0).unwrap(),
        programmed: programmed.map(|weight| Weight::new(weight).unwrap()),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts::default(),
        target_group: None,
    };
    let programmed = StatusCondition {
        kind: ConditionType::Programmed,
        status: Some(false),
        reason: Reason::QuotaExceeded,
        message: "no rule is free".to_owned(),
        last_transition: Timestamp::UNIX_EPOCH,
    };
    PolicyStatus {
        observed_version: 1,
        conditions: vec![programmed],
        clusters: vec![cluster],
        rule: None,
        notes: Vec::new(),
        failover: switchyard_core::failover::Explanation::default(),
    }
}

fn of(record: &PolicyRecord, status: Option<&PolicyStatus>) -> Standing {
    standing(record, status, &green(), None, true)
}

fn none() -> serde_json::Value {
    serde_json::json!({})
}

#[test]
fn an_idle_cluster_with_weight_0_is_judged_since_its_group_stands_in_the_rule() {
    assert_eq!(of(&record(none()), Some(&status(Some(0)))).mode, Mode::Judged);
}

#[test]
fn what_the_hub_says_of_a_cluster_travels_with_the_verdicts() {
    let mut status = status(Some(0));
    let note = |cluster: Option<ClusterName>, message: &str| Note {
        cluster,
        reason: Reason::QuotaExceeded,
        message: message.to_owned(),
    };
    status.notes = vec![
        note(None, "of the policy"),
        note(Some("blue".parse().unwrap()), "of blue"),
        note(Some(green()), "of green"),
    ];
    assert_eq!(of(&record(none()), Some(&status)).message, "of green");
}

#[test]
fn without_a_rule_waiting_is_bounded_and_the_reason_is_that_of_the_policy() {
    let standing = of(&record(none()), Some(&status(None)));
    assert_eq!((standing.mode, standing.reason.as_str()), (Mode::Suspended, "QuotaExceeded"));
    assert!(standing.message.ends_with("in the policy's rule yet: no rule is free"), "{}", standing.message);
    assert_eq!(of(&record(none()), None).reason, "NotObservedYet");
}

#[test]
fn a_frozen_policy_an_observing_hub_and_unread_health_suspend() {
    let frozen = record(serde_json::json!({"safety": {"freeze": true}}));
    assert_eq!(of(&frozen, Some(&status(Some(0)))).reason, "Frozen");
    let mut observing = status(Some(0));
    observing.notes = vec![Note { cluster: None, reason: Reason::ObserveOnly, message: "observing".to_owned() }];
    let standing_now = of(&record(none()), Some(&observing));
    assert_eq!((standing_now.mode, standing_now.reason.as_str()), (Mode::Suspended, "ObserveOnly"));
    let stale = GateBook { stale: true, targets: Vec::new() };
    let unread = standing(&record(none()), Some(&status(Some(0))), &green(), Some(&stale), true);
    assert_eq!((unread.mode, unread.reason.as_str()), (Mode::Suspended, "HealthNotRead"));
    let memory = standing(&record(none()), Some(&status(Some(0))), &green(), None, false);
    assert_eq!((memory.mode, memory.reason.as_str()), (Mode::Suspended, "HubWorksFromMemory"));
}

#[test]
fn pods_of_a_cluster_without_a_share_by_an_operators_wish_need_not_wait() {
    let with = |mode: &str, ceiling: u32| {
        let mut status = status(Some(0));
        let green = serde_json::json!({
            "cluster": "green", "priority": 0, "requested": 0, "standby": 0, "decided": 0, "programmed": 0, "link": null,
            "mode": mode, "ceiling": ceiling, "expected": 0, "healthy": 0, "unjudged": 0, "unhealthy": 0, "known": true,
            "score": 0, "used": 0, "share": 0, "requested_share": 0, "capacity": null, "pending": null, "out_since": null,
            "outs": 0, "held_until": null, "reason": "AsRequested", "message": "",
        });
        status.failover.clusters = vec![serde_json::from_value(green).unwrap()];
        let standing = of(&record(none()), Some(&status));
        (standing.mode, standing.reason)
    };
    for (mode, ceiling) in [("Drained", 0), ("Removed", 0), ("Draining", 0)] {
        assert_eq!(with(mode, ceiling), (Mode::Released, "ClusterDrained".to_owned()), "{mode} {ceiling}");
    }
    for (mode, ceiling) in [("Active", 1000), ("Cordoned", 1000), ("Draining", 250), ("Returning", 0)] {
        assert_eq!(with(mode, ceiling).0, Mode::Judged, "{mode} {ceiling}");
    }
}

#[test]
fn a_policy_on_its_way_out_releases_whatever_else_is_the_matter() {
    let mut deleting = record(serde_json::json!({"safety": {"freeze": true}}));
    deleting.deleting_since = Some(Timestamp::UNIX_EPOCH);
    let released = standing(&deleting, None, &green(), None, false);
    assert_eq!((released.mode, released.reason.as_str()), (Mode::Released, "Deleting"));
}

#[test]
fn a_policy_with_instance_targets_never_judges_pods() {
    let nodes = record(serde_json::json!({
        "backend": {"service": {"name": "web", "port": "http"}, "targetType": "instance"},
    }));
    assert_eq!(of(&nodes, Some(&status(Some(0)))).reason, "InstanceTargets");
}

fn endpoint(state: EndpointState, gates: &[&str]) -> Endpoint {
    Endpoint {
        state,
        pod_name: String::new(),
        node: String::new(),
        zone: String::new(),
        eni_ids: Vec::new(),
        gates: gates.iter().map(|name| name.parse().unwrap()).collect(),
        first_seen: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

fn target(last: u8) -> Target {
    Target::ip(std::net::Ipv4Addr::new(10, 0, 0, last), 8080)
}

fn inventory(endpoints: Vec<(u8, Endpoint)>, service: &ServiceKey) -> Inventory {
    let mut inventory = Inventory::default();
    let vpc_id: VpcId = "vpc-1".parse().unwrap();
    let cluster = Cluster {
        name: green(),
        region: "eu-central-1".to_owned(),
        vpc_id,
        link: Link::Connected,
        session_since: None,
        problems: Vec::new(),
        reports_nodes: true,
    };
    inventory.clusters.insert(green(), cluster);
    for (last, endpoint) in endpoints {
        let pod_uid = format!("pod-{last}").parse().unwrap();
        inventory.upsert(
            EndpointKey { cluster: green(), service: service.clone(), target: target(last), pod_uid },
            endpoint,
        );
    }
    inventory
}

#[test]
fn verdicts_are_given_to_living_pods_that_carry_this_policy_s_gate_and_to_no_other() {
    let service = record(none()).policy.service;
    let name: PolicyName = "checkout".parse().unwrap();
    let waiting = EndpointState::Present { ready: true, serving: true, terminating: false };
    let going = EndpointState::Present { ready: false, serving: true, terminating: true };
    let inventory = inventory(
        vec![
            (1, endpoint(waiting, &["checkout"])),
            (2, endpoint(waiting, &["other", "checkout"])),
            (3, endpoint(waiting, &["other"])),
            (4, endpoint(going, &["checkout"])),
            (5, endpoint(EndpointState::Gone(Evidence::PodDeleted), &["checkout"])),
            (6, endpoint(waiting, &[])),
        ],
        &service,
    );
    let unhealthy = TargetState { health: Health::Unhealthy, reason: "Target.Timeout".to_owned() };
    let registered: BTreeMap<Target, TargetState> = [(target(1), unhealthy)].into();
    let shown = |registered: Option<&BTreeMap<Target, TargetState>>| -> Vec<(String, Verdict, String)> {
        let found = targets(&name, &green(), &service, &inventory, registered);
        found.into_iter().map(|gated| (gated.pod_uid.to_string(), gated.verdict, gated.reason)).collect()
    };
    assert_eq!(
        shown(Some(&registered)),
        [
            ("pod-1".to_owned(), Verdict::Unhealthy, "Target.Timeout".to_owned()),
            ("pod-2".to_owned(), Verdict::Unregistered, String::new()),
        ]
    );
    assert!(shown(None).iter().all(|(_, verdict, _)| *verdict == Verdict::Unknown));
}
