//! Policies that stand in clusters as resources: taken, programmed, handed over, refused, held and taken down by the real hub, under
//! load. The streams are played by hand, from two clusters that hold policies and no pods.

use serde_json::json;
use switchyard_proto::agent::v1::PolicyClaim;
use switchyard_tests::{
    hub::Times,
    load::Load,
    policy::Policy,
    source::Source,
    wait,
    world::{Builder, World},
};

const POLICY: &str = "shop/checkout";

fn checkout(blue: u32, green: u32) -> Policy {
    Policy::new("checkout", &[("blue", blue), ("green", green)])
}

/// A world whose hub takes policies from `config-a` and `config-b`.
async fn world() -> World {
    named(World::start().await).await
}

async fn named(mut world: World) -> World {
    world.hub.stop().await.expect("the hub ends well");
    world.hub.add_argument("--policy-source=config-a,config-b");
    world.hub.start_again().await.expect("the hub starts again");
    world.connected().await;
    world
}

async fn source(world: &World, cluster: &str) -> Source {
    Source::connect(&world.hub.grpc_url(), cluster).await.expect("the hub takes policies")
}

/// As [`world`], with `shop/checkout` from `config-a`, served.
async fn with_policy() -> (World, Source, Load) {
    let world = world().await;
    let mut a = source(&world, "config-a").await;
    a.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    a.owns("checkout", "Converged", 1).await;
    world.all_healthy(POLICY).await;
    world.hub_knows(POLICY).await;
    let load = world.load("checkout", 100).await;
    (world, a, load)
}

async fn writes_since(world: &World, begin: u64) -> Vec<String> {
    let calls = world.elb().writes_since(begin).await.expect("the call log").calls;
    calls.into_iter().map(|call| call.operation).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_programmed_and_its_new_weights_too_and_an_invalid_generation_changes_nothing() {
    let (world, mut a, load) = with_policy().await;
    let shown = a.owns("checkout", "Programmed", 1).await.status.expect("a status");
    let programmed: Vec<_> = shown.clusters.iter().map(|cluster| cluster.programmed_weight).collect();
    assert_eq!(programmed, [Some(50), Some(50)]);
    a.change(&[(&checkout(90, 10), 2)]).await.expect("the change is stored");
    a.owns("checkout", "Converged", 2).await;
    let state = world.elb().state().await.expect("the state");
    let weights = state.weights(POLICY).expect("the rule");
    assert_eq!((weights["blue"], weights["green"]), (90, 10));

    let begin = world.elb().position().await.expect("the call log");
    a.change(&[(&checkout(90, 1000), 3)]).await.expect("the change is stored");
    let refused = a.told("checkout", "that its spec is not valid", |status| status.observed_generation == 3).await;
    assert_eq!((refused.claim(), refused.generation_in_force), (PolicyClaim::Owner, 2));
    let refused = format!("{refused:?}");
    assert!(refused.contains("InvalidSpec") && refused.contains("spec.clusters[1].weight"), "{refused}");
    world.yardctl.status_says(POLICY, &["cluster config-a", "generation 2 in force, 3 refused", "InvalidSpec"]).await;
    assert_eq!(writes_since(&world, begin).await, Vec::<String>::new());

    let refused = world.yardctl.run(&["apply", "-f", "-"], &checkout(1, 1).yaml()).await.expect("yardctl runs");
    assert!(refused.code == 5 && refused.stderr.contains("cluster config-a"), "{refused}");
    let refused = world.yardctl.run(&["delete", "policy", POLICY], "").await.expect("yardctl runs");
    assert!(refused.code == 5 && refused.stderr.contains("kubectl"), "{refused}");
    world.yardctl.weights_until_converged(POLICY, &["blue=40", "green=60"]).await;
    a.told("checkout", "the weights that were set by call", |status| {
        let clusters = status.status.iter().flat_map(|status| &status.clusters);
        clusters.into_iter().any(|cluster| cluster.programmed_weight == Some(60))
    })
    .await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_handed_over_between_clusters_and_from_the_api_without_a_writing_call() {
    let world = world().await;
    world.yardctl.apply_until_converged(&checkout(50, 50)).await;
    world.all_healthy(POLICY).await;
    world.hub_knows(POLICY).await;
    world.yardctl.converged(POLICY).await;
    let load = world.load("checkout", 100).await;
    let (mut a, mut b) = (source(&world, "config-a").await, source(&world, "config-b").await);
    a.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    a.told("checkout", "that it waits", |status| status.claim() == PolicyClaim::Waiting).await;
    b.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    b.told("checkout", "that it waits", |status| status.claim() == PolicyClaim::Waiting).await;

    let begin = world.elb().position().await.expect("the call log");
    let passed = world.yardctl.expect(&["delete", "policy", POLICY, "--wait"], "").await;
    assert!(passed.stdout.contains("handed over to the resource in cluster config-a"), "{passed}");
    a.owns("checkout", "Converged", 1).await;
    a.delete("checkout").await.expect("the deletion is stored");
    b.owns("checkout", "Converged", 1).await;
    // What an engine does with a policy it does at once; the next reading of AWS would bring it to light as well.
    wait::until("the hub to read AWS once more", async || {
        let calls = world.elb().calls_since(begin).await.map_err(|e| e.to_string())?.calls;
        let audits = calls.iter().filter(|call| call.operation == "DescribeLoadBalancers").count();
        wait::check(audits >= 2, || format!("{audits} audits"))
    })
    .await;
    assert_eq!(writes_since(&world, begin).await, Vec::<String>::new());
    load.finish_without_failures().await;

    b.delete("checkout").await.expect("the deletion is stored");
    world
        .elb_shows("everything of the policy to be gone", |state| {
            state.rules_of(POLICY).is_empty() && state.groups_of(POLICY).is_empty()
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_shows_nothing_any_more_takes_nothing_down_and_an_operator_decides() {
    let (world, mut a, load) = with_policy().await;
    let begin = world.elb().position().await.expect("the call log");
    a.list(&[]).await.expect("the list is stored");
    world.yardctl.status_says(POLICY, &["SourceAbsent", "MISSING"]).await;
    assert_eq!(writes_since(&world, begin).await, Vec::<String>::new());
    a.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    world.yardctl.converged(POLICY).await;
    a.list(&[]).await.expect("the list is stored");
    world.yardctl.status_says(POLICY, &["SourceAbsent"]).await;
    load.finish_without_failures().await;
    world.yardctl.expect(&["delete", "policy", POLICY, "--wait", "--timeout", "60s"], "").await;
    assert_eq!(world.elb().state().await.expect("the state").groups_of(POLICY).len(), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_is_made_anew_while_its_policy_goes_has_it_back() {
    // Long enough for the resource to come back before the groups go.
    let times = Times { settle: "8", ..Times::default() };
    let world = Builder { times, ..Builder::default() }.start().await.expect("the world starts");
    let world = named(world).await;
    let mut a = source(&world, "config-a").await;
    a.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    a.owns("checkout", "Programmed", 1).await;
    let before = world.yardctl.status(POLICY).await.expect("a status");
    a.delete("checkout").await.expect("the deletion is stored");
    world.elb_shows("the rule to be gone", |state| state.rules_of(POLICY).is_empty()).await;
    a.change(&[(&checkout(70, 30), 1)]).await.expect("the change is stored");
    a.owns("checkout", "Converged", 1).await;
    let after = world.yardctl.status(POLICY).await.expect("a status");
    assert_eq!(after["uid"], before["uid"], "it is the same policy");
    let state = world.all_healthy(POLICY).await;
    let weights = state.weights(POLICY).expect("the rule");
    assert_eq!((weights["blue"], weights["green"]), (70, 30));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_cannot_carry_the_policy_on_waits_for_its_end_and_makes_a_new_one() {
    let world = world().await;
    let mut a = source(&world, "config-a").await;
    a.list(&[(&checkout(50, 50), 1)]).await.expect("the list is stored");
    a.owns("checkout", "Converged", 1).await;
    let other = world.elb().create("other", 81, &[]).await.expect("another load balancer");
    assert_eq!(other.listeners.len(), 1);
    let moved =
        checkout(50, 50).with("/spec/listener/loadBalancer", json!("other")).with("/spec/listener/port", json!(81));
    let mut b = source(&world, "config-b").await;
    b.list(&[(&moved, 1)]).await.expect("the list is stored");
    b.told("checkout", "that it waits", |status| status.claim() == PolicyClaim::Waiting).await;
    a.delete("checkout").await.expect("the deletion is stored");
    b.owns("checkout", "Converged", 1).await;
    let state = world.elb().state().await.expect("the state");
    let listener = |name: &str| {
        let found = state.load_balancers.iter().find(|found| found.name == name).expect("a load balancer");
        found.listeners[0].rules.iter().filter(|rule| rule.priority != "default").count()
    };
    assert_eq!((listener("shared-public"), listener("other")), (0, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_knows_what_it_acknowledged() {
    let (mut world, mut a, load) = with_policy().await;
    a.change(&[(&checkout(80, 20), 2)]).await.expect("the change is stored");
    world.hub.kill_9();
    world.hub.start_again().await.expect("the hub starts again");
    world.connected().await;
    world.yardctl.converged(POLICY).await;
    let weights = world.elb().state().await.expect("the state").weights(POLICY).expect("the rule");
    assert_eq!((weights["blue"], weights["green"]), (80, 20));
    let mut again = source(&world, "config-a").await;
    again.owns("checkout", "Converged", 2).await;
    again.list(&[(&checkout(80, 20), 2)]).await.expect("the list is stored");
    load.finish_without_failures().await;
    world.stop().await;
}
