//! What an agent is told of target health when the picture changes, and what it is not told again.

use jiff::Timestamp;
use switchyard_core::{
    gate::{GateBook, GatedTarget},
    ids::Weight,
    observed::Target,
    policy::{ClusterTrafficPolicy, PolicyMemory, PolicyRecord, validate},
    status::{ClusterStatus, PolicyStatus, Reason, TargetCounts},
};

use super::*;
use crate::store::Ownership;

fn stored(name: &str, programmed: Option<u32>, pods: &[(&str, Verdict)]) -> Arc<StoredPolicy> {
    let manifest = serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "listener": {"loadBalancer": "shared", "port": 80},
            "match": {"hostnames": ["a.example.com"]},
            "backend": {"service": {"name": "web", "port": "http"}},
            "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}],
        },
    });
    let manifest: ClusterTrafficPolicy = serde_json::from_value(manifest).unwrap();
    let blue: ClusterName = "blue".parse().unwrap();
    let status = ClusterStatus {
        cluster: blue.clone(),
        requested: Weight::new(100).unwrap(),
        effective: Weight::new(100).unwrap(),
        programmed: programmed.map(|weight| Weight::new(weight).unwrap()),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts::default(),
        target_group: None,
    };
    let targets = pods
        .iter()
        .enumerate()
        .map(|(i, (uid, verdict))| GatedTarget {
            pod_uid: uid.parse().unwrap(),
            target: Target::ip(std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(i).unwrap()), 8080),
            verdict: *verdict,
            reason: String::new(),
        })
        .collect();
    let record = PolicyRecord {
        uid: format!("uid-{name}").parse().unwrap(),
        version: 1,
        generation: 1,
        policy: validate(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    };
    Arc::new(StoredPolicy {
        record,
        manifest,
        ownership: Ownership::default(),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        status: Some(PolicyStatus {
            observed_version: 1,
            conditions: Vec::new(),
            clusters: vec![status],
            rule: None,
            notes: Vec::new(),
            failover: switchyard_core::failover::Explanation::default(),
        }),
        status_at: None,
        memory: PolicyMemory::default(),
        gates: Arc::new([(blue, GateBook { stale: false, targets })].into()),
    })
}

fn picture(policies: &[Arc<StoredPolicy>]) -> Picture {
    let by_key = policies.iter().map(|stored| (stored.record.policy.key.clone(), Arc::clone(stored))).collect();
    Picture { policies: Arc::new(by_key), loaded: true, store_ok: true, ..Picture::empty() }
}

/// Policy, gone, mode, targets, more; none: the end of the first round.
type Short = Option<(String, bool, proto::GateMode, usize, bool)>;

fn short(messages: Vec<Message>) -> Vec<Short> {
    let short = |message| match message {
        Message::Policy(health) => {
            let mode = health.mode();
            Some((health.policy.unwrap().name, health.gone, mode, health.targets.len(), health.more))
        }
        _ => None,
    };
    messages.into_iter().map(short).collect()
}

fn blue() -> ClusterName {
    "blue".parse().unwrap()
}

#[test]
fn the_first_round_tells_every_policy_of_the_cluster_and_ends_with_synced() {
    let all = picture(&[stored("a", Some(100), &[("pod-1", Verdict::Initial)]), stored("b", Some(0), &[])]);
    let expected = [
        Some(("a".to_owned(), false, proto::GateMode::Judged, 1, false)),
        Some(("b".to_owned(), false, proto::GateMode::Judged, 0, false)),
        None,
    ];
    assert_eq!(short(Told::default().difference(&all, &blue(), true)), expected);
    let red = "red".parse().unwrap();
    assert_eq!(short(Told::default().difference(&all, &red, true)), [None], "no policy names red");
}

#[test]
fn only_what_differs_is_told_again_and_a_policy_that_left_says_farewell() {
    let mut told = Told::default();
    let a = stored("a", Some(100), &[("pod-1", Verdict::Initial)]);
    let b = stored("b", Some(0), &[]);
    told.difference(&picture(&[a.clone(), b.clone()]), &blue(), true);
    assert_eq!(short(told.difference(&picture(&[a, b.clone()]), &blue(), true)), []);
    let healthy = stored("a", Some(100), &[("pod-1", Verdict::Healthy)]);
    let next = told.difference(&picture(&[healthy, b]), &blue(), true);
    assert!(
        matches!(&next[..], [Message::Policy(health)] if health.targets[0].health() == proto::TargetHealth::Healthy)
    );
    let last = short(told.difference(&picture(&[]), &blue(), true));
    let unspecified = proto::GateMode::Unspecified;
    assert_eq!(
        last,
        [Some(("a".to_owned(), true, unspecified, 0, false)), Some(("b".to_owned(), true, unspecified, 0, false))]
    );
}

#[test]
fn a_hub_that_works_from_memory_suspends_every_gate_and_takes_it_back() {
    let mut told = Told::default();
    let all = picture(&[stored("a", Some(100), &[])]);
    told.difference(&all, &blue(), true);
    let suspended = short(told.difference(&all, &blue(), false));
    assert_eq!(suspended, [Some(("a".to_owned(), false, proto::GateMode::Suspended, 0, false))]);
    let judged = short(told.difference(&all, &blue(), true));
    assert_eq!(judged, [Some(("a".to_owned(), false, proto::GateMode::Judged, 0, false))]);
}

#[test]
fn more_than_500_targets_come_in_parts_and_only_the_last_says_that_it_is_the_last() {
    let names: Vec<String> = (0..1001).map(|i| format!("pod-{i}")).collect();
    let pods: Vec<(&str, Verdict)> = names.iter().map(|name| (name.as_str(), Verdict::Healthy)).collect();
    let messages = short(Told::default().difference(&picture(&[stored("a", Some(1), &pods)]), &blue(), true));
    let parts: Vec<(usize, bool)> = messages.into_iter().flatten().map(|part| (part.3, part.4)).collect();
    assert_eq!(parts, [(500, true), (500, true), (1, false)]);
}
