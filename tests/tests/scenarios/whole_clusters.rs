//! Whole clusters, as operators meet them: `examples/failover.yaml` applied as it is, drained and brought back in steps under traffic,
//! rehearsed as a game day that ends by itself, and removed.

use serde_json::Value;
use switchyard_tests::{
    elb::State,
    policy::Policy,
    process::Finished,
    programs,
    sandbox::Settings,
    wait,
    world::{Builder, World},
};

const POLICY: &str = "shop/checkout";

async fn run(world: &World, arguments: &[&str]) -> Finished {
    world.yardctl.run(arguments, "").await.expect("yardctl runs")
}

async fn document(world: &World, arguments: &[&str]) -> Value {
    let finished = world.yardctl.expect(arguments, "").await;
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {finished}"))
}

/// A weight in the rule; one that is not in it gets nothing.
fn weight(state: &State, cluster: &str) -> u32 {
    state.weights(POLICY).and_then(|weights| weights.get(cluster).copied()).unwrap_or(0)
}

fn targets(state: &State, cluster: &str) -> usize {
    state
        .group(POLICY, cluster)
        .map_or(0, |group| group.targets.iter().filter(|target| target.state != "draining").count())
}

async fn mode(world: &World, cluster: &str) -> String {
    let document = document(world, &["get", "clusters", cluster, "-o", "json"]).await;
    document["mode"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the loss of blue is judged like that: the replica that is asked has to have read the targets.
async fn forecast(world: &World, sum: &str) {
    wait::until(&format!("the forecast to say: {sum}"), async || {
        let drill = run(world, &["drill", "cluster-loss", "blue", "--dry-run"]).await;
        wait::check(drill.stdout.contains(sum), || drill.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_drained_for_an_upgrade_and_brought_back_without_a_failed_request() {
    let three = ["blue", "green", "dr"].map(str::to_owned).to_vec();
    let builder = Builder::default();
    let sandbox = Settings { clusters: three, ..builder.sandbox.clone() };
    // A policy that serves already gets failover, a standby and declared capacity.
    let world = Builder { sandbox, ..builder }.with_policy(&[("blue", 50), ("green", 50), ("dr", 0)]).await;
    let example = programs::workspace().join("examples/failover.yaml");
    let file = example.to_str().expect("a path in plain letters");
    world.yardctl.expect(&["apply", "-f", file, "--wait", "converged"], "").await;
    world.all_healthy(POLICY).await;
    wait::until("the explanation of a policy as requested", async || {
        let page = world.yardctl.expect(&["explain", POLICY], "").await.stdout;
        let whole = page.starts_with("shop/checkout  AS REQUESTED") && page.matches("3 of 3").count() == 3;
        wait::check(whole, || page.clone())
    })
    .await;
    forecast(&world, "1 policy names blue: 1 carried").await;
    let load = world.load("checkout", 100).await;
    let drain = ["drain", "blue", "--step", "50%", "--reason", "upgrade", "--wait", "--timeout", "150s"];
    let drained = world.yardctl.expect(&drain, "").await;
    assert!(drained.stdout.contains("blue drained: "), "{drained}");
    assert!(drained.stderr.contains("blue draining, at most 50% of its share"), "it goes in steps: {drained}");
    let state = world.elb().state().await.expect("the state");
    assert_eq!((weight(&state, "blue"), targets(&state, "blue")), (0, 0), "{:?}", state.weights(POLICY));
    assert!(weight(&state, "green") > 0 && weight(&state, "dr") > 0, "{:?}", state.weights(POLICY));
    let page = world.yardctl.expect(&["explain", POLICY], "").await.stdout;
    assert!(page.starts_with("shop/checkout  FAILED OVER: ") && page.contains("drained 0%"), "{page}");
    let status = world.yardctl.status_page(POLICY).await.expect("the status");
    assert!(status.starts_with("shop/checkout  FAILED OVER (Draining): "), "{status}");
    let back = ["uncordon", "blue", "--reason", "upgraded", "--wait", "--timeout", "150s"];
    let returned = world.yardctl.expect(&back, "").await;
    assert!(returned.stderr.contains("blue returning, at most 50% of its share"), "it comes back in steps: {returned}");
    let state = world.elb().state().await.expect("the state");
    let weights = ["blue", "green", "dr"].map(|cluster| weight(&state, cluster));
    assert_eq!(weights, [50, 50, 0], "{:?}", state.weights(POLICY));
    assert_eq!((mode(&world, "blue").await.as_str(), targets(&state, "blue")), ("active", 3));
    load.finish_without_failures().await;
    let audit = world.yardctl.expect(&["audit"], "").await.stdout;
    assert!(audit.contains("upgrade") && audit.contains("upgraded"), "{audit}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_game_day_takes_the_share_at_once_and_gives_it_back_by_itself() {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    let load = world.load("checkout", 100).await;
    let drill =
        ["drill", "cluster-loss", "blue", "--for", "10s", "--reason", "game day", "--wait", "--timeout", "120s"];
    forecast(&world, "1 policy names blue: 1 unproven").await;
    let (finished, ()) = tokio::join!(run(&world, &drill), async {
        let state = world.elb_shows("the share of blue to go", |state| weight(state, "blue") == 0).await;
        assert!(weight(&state, "green") > 0, "{:?}", state.weights(POLICY));
        assert_eq!(targets(&state, "blue"), 3, "its targets stay");
    });
    assert_eq!(finished.code, 0, "{finished}");
    assert!(finished.stdout.contains("blue active: "), "{finished}");
    let state = world.elb().state().await.expect("the state");
    assert_eq!((weight(&state, "blue"), weight(&state, "green")), (50, 50), "{:?}", state.weights(POLICY));
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_nobody_can_replace_keeps_its_requests_and_is_not_removed() {
    let world = World::start().await;
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100)])).await;
    let served = |state: &State| state.group(POLICY, "blue").is_some_and(|group| group.healthy() == 3);
    world.elb_shows("three healthy targets", served).await;
    world.hub_knows(POLICY).await;
    let load = world.load("checkout", 50).await;
    forecast(&world, "1 policy names blue: 1 NOT CARRIED").await;
    let drill = run(&world, &["drill", "cluster-loss", "blue", "--dry-run"]).await;
    assert_eq!(drill.code, 5, "{drill}");
    assert!(drill.stderr.contains("shop/checkout NOT CARRIED"), "{drill}");
    let game = run(&world, &["drill", "cluster-loss", "blue", "--for", "10s", "--reason", "game day"]).await;
    assert_eq!(game.code, 5, "a game day that would cost requests does not begin: {game}");
    assert!(game.stderr.contains("NotCarried of shop/checkout"), "{game}");
    let removed = run(&world, &["remove", "blue"]).await;
    assert_eq!(removed.code, 5, "{removed}");
    assert!(removed.stderr.contains("StillCarries of shop/checkout"), "{removed}");
    world.yardctl.expect(&["drain", "blue", "--step", "100%"], "").await;
    wait::until("the drain to say what it waits for", async || {
        let page = world.yardctl.expect(&["get", "clusters", "blue"], "").await.stdout;
        wait::check(page.contains("(Blocked)") && page.contains("shop/checkout: blue has weight 100"), || page.clone())
    })
    .await;
    let held = world.elb().state().await.expect("the state");
    assert_eq!((weight(&held, "blue"), targets(&held, "blue")), (100, 3), "an error for certain helps nobody");
    world.yardctl.expect(&["uncordon", "blue", "--wait", "--timeout", "60s"], "").await;
    world.yardctl.converged(POLICY).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_carries_nothing_is_removed_and_taken_back() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let removed =
        world.yardctl.expect(&["remove", "green", "--reason", "retired", "--wait", "--timeout", "60s"], "").await;
    assert!(removed.stdout.contains("green removed: "), "{removed}");
    world.elb_shows("no target of green", |state| targets(state, "green") == 0).await;
    assert_eq!(mode(&world, "green").await, "removed");
    world.yardctl.expect(&["uncordon", "green"], "").await;
    wait::until("green to be back with its pods", async || {
        let state = world.elb().state().await.map_err(|e| e.to_string())?;
        let mode = mode(&world, "green").await;
        wait::check(targets(&state, "green") == 3 && mode == "active", || {
            format!("{mode}: {:?}", state.group(POLICY, "green"))
        })
    })
    .await;
    world.stop().await;
}
