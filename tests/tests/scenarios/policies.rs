//! Policies that cannot be: refused, or shown as not satisfied, with field, value and remedy. Another policy goes on.

use serde_json::{Value, json};
use switchyard_tests::{load::Load, policy::Policy, wait, world::World};

const GOOD: &str = "shop/checkout";

/// A policy for another Service, right but for what a test changes.
fn cart() -> Policy {
    Policy::new("cart", &[("blue", 50), ("green", 50)]).with("/spec/order", json!(200))
}

async fn world() -> (World, Load) {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    world.add_service("cart").await;
    let load = world.load("checkout", 100).await;
    (world, load)
}

/// The good policy is served and can be changed, whatever else there is.
async fn the_good_policy_goes_on(world: &World, weights: [&str; 2]) {
    world.yardctl.weights_until_converged(GOOD, &weights).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_itself_is_refused_with_field_value_and_remedy() {
    let (world, load) = world().await;
    let six: Vec<Value> = (1..=6).map(|n| json!({"name": format!("c{n}"), "weight": 1})).collect();
    let table: Vec<(&str, Value, [&str; 3])> = vec![
        ("/spec/clusters/1/weight", json!(1_000), ["spec.clusters[1].weight", "1000", "999"]),
        ("/spec/clusters", json!(six), ["spec.clusters", "c1, c2, c3, c4, c5, c6", "remove clusters"]),
        (
            "/spec/backend/healthCheck/path",
            json!("healthz"),
            ["spec.backend.healthCheck.path", "healthz", "use an absolute path"],
        ),
        ("/spec/match/paths/0/value", json!("no slash"), ["spec.match.paths[0]", "no slash", "remedy"]),
        ("/spec/backend/service/port", json!(70_000), ["spec.backend.service.port", "70000", "65535"]),
        ("/spec/listener/loadBalancer", json!("not a name!"), ["spec.listener.loadBalancer", "not a name!", "use"]),
        ("/spec/order", json!(0), ["spec.order", "0", "from 1 to 49000"]),
        ("/spec/mode", json!("Pooled"), ["spec.mode", "Pooled", "use Weighted"]),
        ("/spec/clusters/1/name", json!("blue"), ["spec.clusters[1].name", "blue", "name each cluster once"]),
        ("/spec/replicas", json!(3), ["replicas", "unknown field", "remedy"]),
        ("/metadata/name", json!("Not A Name"), ["metadata.name", "Not A Name", "remedy"]),
    ];
    for (path, value, words) in table {
        let policy = cart().with(path, value.clone());
        let refused = world.yardctl.run(&["apply", "-f", "-"], &policy.yaml()).await.expect("yardctl runs");
        assert_eq!(refused.code, 3, "{path} = {value}: {refused}");
        for word in words {
            assert!(refused.stderr.contains(word), "{path} = {value}: {word:?} is missing in {refused}");
        }
    }
    let zero = ["weights", GOOD, "blue=0", "green=0"];
    let refused = world.yardctl.run(&zero, "").await.expect("yardctl runs");
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.stderr.contains("503"), "the consequence is named: {refused}");
    let unknown = ["weights", GOOD, "red=10"];
    let refused = world.yardctl.run(&unknown, "").await.expect("yardctl runs");
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.stderr.contains("name one of blue, green"), "{refused}");
    let listed = world.yardctl.expect(&["get", "policies", "-o", "json"], "").await.stdout;
    let listed: Value = serde_json::from_str(&listed).expect("a list");
    assert_eq!(listed["policies"].as_array().map(Vec::len), Some(1), "nothing refused is stored: {listed}");
    the_good_policy_goes_on(&world, ["blue=90", "green=10"]).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_world_does_not_have_is_shown_with_field_value_and_remedy_and_heals_when_it_comes() {
    let (world, load) = world().await;
    let elb = world.elb();
    elb.create("others", 80, &[("elbv2.k8s.aws/cluster", "prod")]).await.expect("another controller's load balancer");
    let table: Vec<(&str, Value, Vec<&str>)> = vec![
        ("/spec/clusters/1/name", json!("red"), vec!["ClusterNotFound", "no agent of red", "install the agent"]),
        ("/spec/backend/service/port", json!("grpc"), vec!["PortNotFound", "no port grpc", "use one of its ports"]),
        ("/spec/backend/service/name", json!("crat"), vec!["ServiceNotFound", "no Service shop/crat", "create it"]),
        ("/spec/listener/port", json!(8_443), vec!["ListenerNotFound", "no listener on 8443", "correct the port"]),
        ("/spec/listener/loadBalancer", json!("nowhere"), vec!["ListenerNotFound", "nowhere", "correct the name"]),
        (
            "/spec/listener/loadBalancer",
            json!("others"),
            vec!["ForeignOwner", "elbv2.k8s.aws/cluster=prod", "use a load balancer that no controller manages"],
        ),
    ];
    for (i, (path, value, words)) in table.into_iter().enumerate() {
        let name = format!("bad-{i}");
        let policy = cart().with(path, value).with("/metadata/name", json!(name));
        world.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
        let reference = format!("shop/{name}");
        let page = world.yardctl.status_says(&reference, &words).await;
        assert!(page.contains("NOT CONVERGED"), "{page}");
        the_good_policy_goes_on(&world, if i % 2 == 0 { ["blue=90", "green=10"] } else { ["blue=10", "green=90"] })
            .await;
        world.yardctl.expect(&["delete", "policy", &reference, "--wait", "--timeout", "60s"], "").await;
    }
    // A policy that waits for its Service comes to life when the Service does.
    let policy = Policy::new("later", &[("blue", 50), ("green", 50)]).with("/spec/order", json!(300));
    world.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
    world.yardctl.status_says("shop/later", &["ServiceNotFound"]).await;
    world.add_service("later").await;
    world.yardctl.converged("shop/later").await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hundred_and_first_rule_waits_with_the_quota_and_goes_in_when_there_is_room() {
    let (world, load) = world().await;
    let (elb, others) = (world.elb(), world.somebody_else());
    // Setting the scene is not what is measured.
    elb.limit(json!({"rates": {"mutate": {"rate": 1000.0, "burst": 1000.0}}})).await.expect("the rate is raised");
    let listener = &world.load_balancer.listeners[0].arn;
    for n in 1..=99 {
        let made = others.create_fixed_rule(listener, 1_000 + n, &format!("/other-{n}")).await;
        made.unwrap_or_else(|e| panic!("rule {n}: {e:#}"));
    }
    world.yardctl.expect(&["apply", "-f", "-"], &cart().yaml()).await;
    let words =
        ["QuotaExceeded", "100 of 100 rules", "ask AWS to raise it, remove rules, or use another load balancer"];
    world.yardctl.status_says("shop/cart", &words).await;
    the_good_policy_goes_on(&world, ["blue=90", "green=10"]).await;
    elb.limit(json!({"quotas": {"rules-per-application-load-balancer": 101}})).await.expect("the quota is raised");
    world.yardctl.converged("shop/cart").await;
    let cart = world.load("cart", 50).await;
    cart.more(100).await;
    cart.finish_without_failures().await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_waits_for_a_cluster_converges_when_its_agent_joins() {
    let mut world = World::start().await;
    world.agent("green").kill_9();
    // A hub that has never heard of green: its own database, started after green's agent was gone.
    let policy = Policy::new("checkout", &[("blue", 50), ("green", 50)]);
    world.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
    wait::until("green to be known as stale", async || {
        let page = world.yardctl.status_page(GOOD).await.map_err(|e| e.to_string())?;
        wait::check(page.contains("ClusterStale"), || page.clone())
    })
    .await;
    let load = world.load("checkout", 50).await;
    world.agent("green").start_again().expect("green's agent starts");
    world.yardctl.converged(GOOD).await;
    load.mark("both").await.expect("a mark is set");
    load.more(200).await;
    let report = load.report().await.expect("the load generator answers");
    let both = report.windows.last().expect("the window that was begun");
    assert_eq!(both.report.failed, 0, "{}", both.report.failures_shown());
    assert_eq!(both.report.by_cluster.len(), 2, "{both:?}");
    world.stop().await;
}
