//! Shifts while AWS is at its worst, several policies that move together, and a replica that takes over. A step is made once,
//! whatever answer was lost; all policies of a shift move, or none does.

use serde_json::json;
use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    hub::{Database, Hub, Times},
    policy::Policy,
    postgres,
    shifts::{Shifts, Weights, all_the_way, beginning, in_force, step, stepped, to_cluster, told, weights, written},
    wait,
    world::Builder,
};

use crate::{
    replicas::holds_the_lease,
    shifts::{POLICY, Stage, all_blue, all_green, status},
};

const CART: &str = "shop/cart";

fn share(green: u32) -> Weights {
    weights(&[("blue", 100 - green), ("green", green)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_step_is_found_by_reading_back_and_the_step_is_made_once() {
    let mut stage = Stage::set().await;
    let elb = stage.world.elb();
    // Every answer to a write is lost on the way there, and on the way back.
    elb.fault(json!({"operation": "ModifyRule", "every": true, "kind": "lost_answer"})).await.expect("a fault");
    let spec = to_cluster(&[POLICY], "green", vec![step(10, 0), step(50, 0), step(100, 0)]);
    let id = stage.shifts.begin(&spec).await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(3), vec![share(10), share(50), all_green()]));
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "blue", vec![step(30, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.shifts.abort(&id).await.expect("it goes back");
    stage.shifts.ends(&id, ShiftState::Aborted).await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![share(70), all_green()]));
    elb.clear_faults().await.expect("the faults are gone");
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_while_aws_is_away_waits_and_goes_on_and_an_abort_meanwhile_is_kept() {
    let mut stage = Stage::set().await;
    let elb = stage.world.elb();
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(10, 2), step(60, 0), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    elb.partition(true).await.expect("AWS is cut off");
    // The second step is asked for by what was known, or waits for what is not; neither moves on without AWS.
    stage.load.more(1_000).await;
    let waiting = stage.shifts.get(&id).await.expect("the shift");
    assert!(status(&waiting).step <= 2 && status(&waiting).ended_at.is_none(), "{waiting:#?}");
    assert_eq!(stage.in_force().await, share(10), "the weights stay what they are");
    elb.partition(false).await.expect("AWS is back");
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(3), vec![share(10), share(60), all_green()]));

    let id = stage.shifts.begin(&to_cluster(&[POLICY], "blue", vec![step(40, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    elb.partition(true).await.expect("AWS is cut off");
    stage.shifts.abort(&id).await.expect("an abort needs no AWS");
    let aborting = stage.shifts.reaches(&id, ShiftState::Aborting, 1).await;
    assert_eq!(status(&aborting).moves[0].present, [("blue".to_owned(), 0), ("green".to_owned(), 100)].into());
    stage.load.more(400).await;
    elb.partition(false).await.expect("AWS is back");
    stage.shifts.ends(&id, ShiftState::Aborted).await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![share(60), all_green()]));
    stage.ends_well().await;
}

impl Stage {
    async fn with_cart() -> Self {
        let stage = Self::set().await;
        stage.world.add_service("cart").await;
        let cart = Policy::new("cart", &[("blue", 100), ("green", 0)]).with("/spec/order", json!(200));
        stage.world.yardctl.apply_until_converged(&cart).await;
        stage.world.all_healthy(CART).await;
        stage.world.hub_knows(CART).await;
        stage
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_policies_move_together_or_not_at_all() {
    let mut stage = Stage::with_cart().await;
    let elb = stage.world.elb();
    let cart_load = stage.world.load("cart", 50).await;
    let both = [POLICY, CART];
    let begun = elb.position().await.expect("the call log");

    // One of them cannot: its Service has no pod in green.
    let green = stage.world.cluster("green");
    green.select("cart", "nobody").await.expect("the selector is changed");
    wait::until("green's targets of the cart to be gone", async || {
        let state = elb.state().await.map_err(|e| e.to_string())?;
        let registered = state.group(CART, "green").map_or(0, |group| group.registered().count());
        wait::check(registered == 0, || format!("{registered} targets"))
    })
    .await;
    let id = stage.shifts.begin(&to_cluster(&both, "green", Vec::new())).await;
    let shift = stage.shifts.ends(&id, ShiftState::Failed).await;
    assert_eq!(told(&shift), ["Created 0", "PreflightStarted 0", "PreflightFailed 0"]);
    let findings = &status(&shift).findings;
    assert_eq!((findings[0].guard.as_str(), findings.len()), ("HealthyTargets", 1), "{findings:#?}");
    assert_eq!((stage.written().await, written(&elb, begun, CART).await), (Vec::new(), Vec::new()), "nothing moves");
    green.select("cart", "cart").await.expect("the selector is corrected");
    stage.world.all_healthy(CART).await;
    stage.world.hub_knows(CART).await;

    // One of them fails later: all go back.
    let id = stage.shifts.begin(&to_cluster(&both, "green", vec![step(10, 0), step(50, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 2).await;
    for pod in green.workload("cart").await.expect("the cart").pods {
        // Not ready and not healthy, and requests are still answered: not one has to fail.
        green.set_mode_of(&pod.name, "unready").await.expect("the cart's pods are not ready any more");
    }
    let shift = stage.shifts.ends(&id, ShiftState::Failed).await;
    let end = ["TargetsLost 2", "Restored 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), stepped(2), end].concat());
    assert!(status(&shift).message.contains("shop/cart"), "{shift:#?}");
    assert_eq!(stage.written().await, [share(10), share(50), all_blue()]);
    assert_eq!((stage.in_force().await, in_force(&elb, CART).await), (all_blue(), all_blue()));
    green.set_mode("normal").await.expect("the cart recovers");
    stage.world.all_healthy(CART).await;
    stage.world.hub_knows(CART).await;

    // And all of the way, together.
    let begun = elb.position().await.expect("the call log");
    let id = stage.shifts.begin(&to_cluster(&both, "green", vec![step(50, 0), step(100, 0)])).await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(2));
    let steps = vec![share(50), all_green()];
    assert_eq!((stage.written().await, written(&elb, begun, CART).await), (steps.clone(), steps));
    cart_load.finish_without_failures().await;
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_goes_on_with_a_shift_and_takes_commands_before() {
    let url = postgres::shared_database().await.expect("a database");
    let builder = Builder { database: Some(Database::Url(url.clone())), ..Builder::default() };
    let mut stage = Stage::set_in(builder).await;
    let folder = stage.world.folder().join("second");
    std::fs::create_dir_all(&folder).expect("a folder");
    let second = Hub::start(&folder, stage.world.sandbox.info(), Database::Url(url), &Times::default()).await;
    let mut second = second.expect("the second replica starts");
    holds_the_lease(&stage.world.hub, true).await;
    holds_the_lease(&second, false).await;
    let standby = Shifts::of(&second);

    // Asked for at the standby, carried out by the holder, which dies in the bake time.
    let id = standby.begin(&to_cluster(&[POLICY], "green", vec![step(20, 4), step(100, 0)])).await;
    let before = standby.reaches(&id, ShiftState::Baking, 1).await;
    stage.world.hub.kill_9();
    let shift = standby.ends(&id, ShiftState::Succeeded).await;
    holds_the_lease(&second, true).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(2), vec![share(20), all_green()]));
    assert_eq!(status(&shift).history[4], status(&before).history[4], "the first step was read back once");
    stage.restart_hub().await;
    stage.world.connected().await;
    holds_the_lease(&stage.world.hub, false).await;

    // An abort that the standby answers while nobody holds the lease is in force with the next holder.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "blue", vec![step(30, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    second.kill_9();
    stage.shifts.abort(&id).await.expect("any replica takes it");
    let aborting: api::Shift = stage.shifts.get(&id).await.expect("the shift");
    assert_eq!(status(&aborting).moves[0].present, [("blue".to_owned(), 0), ("green".to_owned(), 100)].into());
    stage.shifts.ends(&id, ShiftState::Aborted).await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![share(70), all_green()]));
    stage.ends_well().await;
}
