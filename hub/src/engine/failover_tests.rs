//! What is counted of the decisions of failover.

use switchyard_core::{
    failover::ClusterExplanation,
    fleet,
    plan::PolicyPlan,
    policy::{ClusterTrafficPolicy, PolicyMemory, validate},
    status::{PolicyStatus, Reason},
};

use super::*;

fn key() -> PolicyKey {
    PolicyKey::new("shop", "checkout").unwrap()
}

fn records() -> BTreeMap<PolicyKey, PolicyRecord> {
    let manifest: ClusterTrafficPolicy = serde_norway::from_str(
        "{apiVersion: switchyard.dev/v1alpha1, kind: ClusterTrafficPolicy, metadata: {name: checkout, namespace: shop}, \
         spec: {listener: {loadBalancer: shared, port: 443}, match: {paths: [{value: /}]}, \
         backend: {service: {name: checkout, port: http}}, clusters: [{name: blue, weight: 50}, {name: green, weight: 50}]}}",
    )
    .unwrap();
    let record = PolicyRecord {
        uid: "uid".parse().unwrap(),
        version: 1,
        generation: 1,
        policy: validate(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    };
    BTreeMap::from([(key(), record)])
}

/// Blue gets these weights, out of 100, and asked for is half of it.
fn plan(standing: Standing, requested: u32, decided: u32) -> RegionPlan {
    let weight = |weight| Weight::new(weight).unwrap();
    let cluster = |name: &str, requested: u32, decided: u32| ClusterExplanation {
        cluster: name.parse().unwrap(),
        priority: 0,
        requested: weight(requested),
        standby: Weight::ZERO,
        decided: weight(decided),
        programmed: None,
        link: None,
        mode: fleet::Mode::Active,
        ceiling: 1000,
        expected: 2,
        healthy: 2,
        unjudged: 0,
        unhealthy: 0,
        known: true,
        score: 1000,
        used: 1000,
        share: decided * 10,
        requested_share: requested * 10,
        capacity: None,
        pending: None,
        out_since: None,
        outs: 0,
        held_until: None,
        reason: Reason::AsRequested,
        message: String::new(),
    };
    let clusters = vec![cluster("blue", requested, decided), cluster("green", 100 - requested, 100 - decided)];
    let status = PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: Vec::new(),
        rule: None,
        notes: Vec::new(),
        failover: Explanation { standing, clusters, ..Explanation::default() },
    };
    let planned =
        PolicyPlan { steps: Vec::new(), status, memory: PolicyMemory::default(), gone: false, again_at: None };
    RegionPlan { policies: BTreeMap::from([(key(), planned)]) }
}

#[test]
fn moves_are_counted_by_where_they_go_and_a_new_request_is_none() {
    let (mut term, metrics, records) = (FailoverTerm::default(), Metrics::new(), records());
    let moves = |metrics: &Metrics| {
        let of = |direction| metrics.failover_moves.get_or_create(&Direction { direction }).get();
        (of("out"), of("back"))
    };
    let mut tell = |standing, requested, decided| {
        term.tell(&records, &plan(standing, requested, decided), &metrics);
        moves(&metrics)
    };
    assert_eq!(tell(Standing::FailedOver, 50, 20), (0, 0), "what the first look finds is no move");
    assert_eq!(tell(Standing::FailedOver, 50, 0), (1, 0));
    assert_eq!(tell(Standing::FailedOver, 50, 0), (1, 0));
    assert_eq!(tell(Standing::FailedOver, 50, 20), (1, 1));
    assert_eq!(tell(Standing::AsRequested, 20, 20), (1, 1), "somebody asked for it");
    assert_eq!(tell(Standing::Panic, 20, 20), (1, 1));
    let text = metrics.encoded().unwrap();
    assert!(text.contains(r#"switchyard_hub_failover_policies{standing="panic"} 1"#), "{text}");
    assert!(text.contains(r#"switchyard_hub_failover_policies{standing="as_requested"} 0"#), "{text}");
    assert!(text.contains(r#"switchyard_hub_failover_moves_total{direction="back"} 1"#), "{text}");
}
