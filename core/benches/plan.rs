//! How long the planner takes in a large installation: 100 policies, 5 clusters each, 200 pods in each of those groups, which
//! makes 100,000 endpoints. `cargo bench -p switchyard-core` runs it; nothing here is a test.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use support::{Model, READY, cluster_name, manifest};
use switchyard_core::{
    inventory::{Endpoint, EndpointKey, EndpointState, Evidence, Inventory, Link, Ownership},
    observed::Known,
    policy::validate,
};

const POLICIES: u32 = 100;
const CLUSTERS: [&str; 5] = ["blue", "green", "red", "amber", "dr"];
const PODS: u32 = 200;

fn policy_name(policy: u32) -> String {
    format!("p{policy:02}")
}

/// Addresses are told apart by cluster, policy and pod; the pods that come later are numbered on.
fn start_pod(model: &mut Model, cluster: usize, policy: u32, pod: u32, state: EndpointState) {
    let number = policy * 256 + pod;
    let address = format!("10.{}.{}.{}", cluster * 8 + number as usize / 65_536, number / 256 % 256, number % 256);
    let uid = format!("{cluster}-{policy}-{pod}");
    model.pod(CLUSTERS[cluster], &policy_name(policy), &uid, &address, state);
}

/// A world in which everything is as wanted: planning it gives no step.
fn settled_world() -> Model {
    let mut model = Model::new();
    let limits = &mut model.aws.limits;
    limits.target_groups_per_load_balancer = 10_000;
    limits.targets_per_load_balancer = 1_000_000;
    for (cluster, name) in CLUSTERS.iter().enumerate() {
        model.cluster(name, Link::Connected);
        for policy in 0..POLICIES {
            for pod in 0..PODS {
                start_pod(&mut model, cluster, policy, pod, READY);
            }
        }
    }
    let weights: Vec<(&str, u32)> = CLUSTERS.iter().map(|name| (*name, 20)).collect();
    for policy in 0..POLICIES {
        model.policy(&manifest(&policy_name(policy), &weights, ""));
    }
    model.reconcile();
    model.judge_health();
    model.advance(61);
    model.reconcile();
    assert_eq!(steps(&model), 0, "the world is settled");
    model
}

fn steps(model: &Model) -> usize {
    model.plan().policies.values().map(|policy| policy.steps.len()).sum()
}

fn plan_unchanged(c: &mut Criterion) {
    let model = settled_world();
    c.bench_function("plan 100,000 endpoints, nothing changed", |b| b.iter(|| black_box(model.plan())));
}

/// Every policy with failover: each endpoint is looked at once more, for the health of its cluster.
fn plan_with_failover(c: &mut Criterion) {
    let mut model = settled_world();
    for record in model.policies.values_mut() {
        let manifest = manifest(record.policy.key.name.as_str(), &CLUSTERS.map(|name| (name, 20)), "  failover: {}\n");
        record.policy = validate(&manifest).expect("a valid policy");
    }
    let plan = model.plan();
    model.remember(&plan);
    assert_eq!(steps(&model), 0, "the world is settled");
    c.bench_function("plan 100,000 endpoints, nothing changed, with failover", |b| b.iter(|| black_box(model.plan())));
}

/// Two pods of each group are replaced, one in a hundred of all.
fn plan_one_percent(c: &mut Criterion) {
    let mut model = settled_world();
    for cluster in 0..CLUSTERS.len() {
        for policy in 0..POLICIES {
            for pod in 0..PODS / 100 {
                start_pod(&mut model, cluster, policy, pod, EndpointState::Gone(Evidence::PodDeleted));
                start_pod(&mut model, cluster, policy, PODS + pod, READY);
            }
        }
    }
    assert_eq!(steps(&model), 2 * 500, "one register and one deregister call for each group");
    c.bench_function("plan 100,000 endpoints, 1 % of the pods replaced", |b| b.iter(|| black_box(model.plan())));
}

/// All groups, rules and targets are still to be made.
fn plan_from_nothing(c: &mut Criterion) {
    let mut model = settled_world();
    model.aws.target_groups.clear();
    for listener in model.aws.listeners.values_mut() {
        listener.rules = Known::Known(Default::default());
    }
    model.memories.clear();
    c.bench_function("plan 100,000 endpoints, nothing made yet", |b| b.iter(|| black_box(model.plan())));
}

/// What a replica does when it starts: every endpoint of the store goes into the mirror.
fn fill_inventory(c: &mut Criterion) {
    let model = settled_world();
    let rows: Vec<(EndpointKey, Endpoint)> =
        model.inventory.endpoints().map(|(key, endpoint)| (key, endpoint.clone())).collect();
    assert_eq!(rows.len(), 100_000);
    let fill = |rows: Vec<(EndpointKey, Endpoint)>| {
        let mut inventory = Inventory::default();
        inventory.clusters.clone_from(&model.inventory.clusters);
        for (key, endpoint) in rows {
            inventory.upsert(key, endpoint);
        }
        inventory
    };
    c.bench_function("fill an inventory with 100,000 endpoints", |b| {
        b.iter_batched(|| rows.clone(), |rows| black_box(fill(rows)), BatchSize::LargeInput);
    });
}

/// The look-up that planning does once for each endpoint, alone.
fn owner_of_every_address(c: &mut Criterion) {
    let model = settled_world();
    let targets: Vec<_> = model.inventory.endpoints().map(|(key, _)| key.target).collect();
    let vpc = model.inventory.clusters[&cluster_name("blue")].vpc_id.clone();
    let owned = |target| matches!(model.inventory.owner(&vpc, target), Ownership::Owner(_));
    c.bench_function("look up the owner of 100,000 addresses", |b| {
        b.iter(|| assert!(targets.iter().all(|target| owned(*target))));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = plan_unchanged, plan_with_failover, plan_one_percent, plan_from_nothing, fill_inventory, owner_of_every_address
}
criterion_main!(benches);
