//! A hub that has nothing to do does nothing: no writing call when idle, and none after a restart.

use switchyard_tests::{wait, world::World};

const POLICY: &str = "shop/checkout";

/// Waits until the hub has read everything at AWS so many more times, and gives the writing calls of that time.
async fn writes_during_audits(world: &World, audits: usize) -> Vec<String> {
    let begin = world.elb().position().await.expect("the call log");
    wait::until("the hub to audit", async || {
        let calls = world.elb().calls_since(begin).await.map_err(|e| e.to_string())?.calls;
        let seen = calls.iter().filter(|call| call.operation == "DescribeLoadBalancers").count();
        wait::check(seen >= audits, || format!("{seen} audits"))
    })
    .await;
    let writes = world.elb().writes_since(begin).await.expect("the call log").calls;
    writes.iter().map(|call| format!("{} {:?}", call.operation, call.parameters)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_hub_and_a_restarted_hub_make_no_writing_call() {
    let mut world = World::with_policy(&[("blue", 90), ("green", 10)]).await;
    world.yardctl.converged(POLICY).await;
    let none: Vec<String> = Vec::new();
    assert_eq!(writes_during_audits(&world, 3).await, none, "an idle hub");
    world.hub.stop().await.expect("the hub ends well");
    world.hub.start_again().await.expect("the hub starts again");
    assert_eq!(writes_during_audits(&world, 2).await, none, "a hub that was stopped and started");
    world.hub.kill_9();
    world.hub.start_again().await.expect("the hub starts again");
    assert_eq!(writes_during_audits(&world, 2).await, none, "a hub that was killed and started");
    world.connected().await;
    world.yardctl.converged(POLICY).await;
    world.stop().await;
}
