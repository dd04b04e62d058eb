//! The hub is killed with `kill -9` in each state of a shift, and the shift goes on exactly where it was: no step is made twice, none
//! is left out, and none begins anew. The state is held by what AWS does meanwhile, not by luck.

use serde_json::json;
use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    hub::Times,
    shifts::{all_the_way, approved_step, beginning, step, stepped, to_cluster, told, weights},
    wait,
    world::Builder,
};

use crate::shifts::{POLICY, Stage, all_blue, all_green, status};

/// Makes the hub neither move shifts nor write at AWS.
const OBSERVE_ONLY: &str = "SWITCHYARD_HUB_OBSERVE_ONLY";

impl Stage {
    async fn fault(&self, fault: serde_json::Value) {
        self.world.elb().fault(fault).await.expect("the fault is armed");
    }

    async fn clear(&self) {
        self.world.elb().clear_faults().await.expect("the faults are gone");
    }

    /// The hub dies, AWS recovers, the hub comes back.
    async fn kill_and_recover(&mut self) {
        self.world.hub.kill_9();
        self.clear().await;
        self.restart_hub().await;
    }

    /// Goes to a cluster at once, and is there.
    async fn flip(&self, cluster: &str) -> String {
        self.shifts.begin(&to_cluster(&[POLICY], cluster, Vec::new())).await
    }
}

fn since(shift: &api::Shift) -> (i64, i32) {
    status(shift).since.map(|at| (at.seconds, at.nanos)).expect("a state has its time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_before_the_first_read_back_goes_on_where_it_was() {
    let mut stage = Stage::set().await;

    // Pending: stored, and nobody looks at it.
    stage.world.hub.stop().await.expect("the hub ends");
    stage.world.hub.set_variable(OBSERVE_ONLY, Some("true"));
    stage.restart_hub().await;
    let id = stage.flip("green").await;
    stage.load.more(200).await;
    stage.shifts.reaches(&id, ShiftState::Pending, 0).await;
    stage.world.hub.set_variable(OBSERVE_ONLY, None);
    stage.kill_and_recover().await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(1), vec![all_green()]), "killed in Pending");

    // Preflight: a hub that has never seen AWS knows nothing to judge by.
    stage.world.hub.kill_9();
    stage.world.elb().partition(true).await.expect("AWS is cut off");
    stage.restart_hub().await;
    let id = stage.flip("blue").await;
    let waiting = stage.shifts.until(&id, "a preflight that waits", |status| status.reason == "NotObservedYet").await;
    assert_eq!(status(&waiting).state(), ShiftState::Preflight);
    stage.world.hub.kill_9();
    stage.world.elb().partition(false).await.expect("AWS is back");
    stage.restart_hub().await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(1), vec![all_blue()]), "killed in Preflight");

    // Stepping, before anything was applied.
    stage.fault(json!({"operation": "ModifyRule", "every": true, "kind": "refused"})).await;
    let id = stage.flip("green").await;
    stage.shifts.reaches(&id, ShiftState::Stepping, 1).await;
    stage.load.more(200).await;
    stage.shifts.reaches(&id, ShiftState::Stepping, 1).await;
    stage.kill_and_recover().await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(1), vec![all_green()]), "killed in Stepping");

    // Stepping, after it was applied: the answer is lost, and nothing can be read back before the hub dies.
    stage.fault(json!({"operation": "DescribeRules", "every": true, "kind": "refused"})).await;
    stage.fault(json!({"operation": "ModifyRule", "every": true, "kind": "lost_answer"})).await;
    let id = stage.flip("blue").await;
    wait::until("the rule to be written", async || {
        let weights = stage.world.elb().state().await.map_err(|e| e.to_string())?.weights(POLICY);
        wait::check(weights == Some(all_blue()), || format!("{weights:?}"))
    })
    .await;
    stage.shifts.reaches(&id, ShiftState::Stepping, 1).await;
    stage.kill_and_recover().await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(1));
    assert_eq!(stage.written().await, [all_blue()], "found by read-back, and written once");
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_after_a_read_back_goes_on_where_it_was() {
    // A settle time that is long enough to be seen.
    let times = Times { settle: "4", ..Times::default() };
    let mut stage = Stage::set_in(Builder { times, ..Builder::default() }).await;
    let half = || weights(&[("blue", 50), ("green", 50)]);

    // Baking: the bake time goes on, it does not begin anew.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(50, 3_600), step(100, 0)])).await;
    let before = stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.kill_and_recover().await;
    // The engine has its lease again, and has looked at everything.
    stage.world.yardctl.converged(POLICY).await;
    let after = stage.shifts.get(&id).await.expect("the shift is there");
    assert_eq!((status(&after).state(), since(&after)), (ShiftState::Baking, since(&before)), "killed in Baking");
    // Then Converging.
    stage.shifts.promote(&id).await.expect("the rest is skipped");
    stage.shifts.reaches(&id, ShiftState::Converging, 2).await;
    stage.kill_and_recover().await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    let end = ["Settling 2", "Converged 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), vec!["Promoted 1".to_owned()], stepped(2), end].concat());
    assert_eq!(stage.written().await, [half(), all_green()], "killed in Baking and in Converging");

    // AwaitingApproval: it still waits, and for the same step; a pause outlives the hub, too.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "blue", vec![approved_step(50), step(100, 0)])).await;
    let before = stage.shifts.reaches(&id, ShiftState::AwaitingApproval, 1).await;
    stage.kill_and_recover().await;
    stage.world.yardctl.converged(POLICY).await;
    let after = stage.shifts.get(&id).await.expect("the shift is there");
    assert_eq!((status(&after).state(), since(&after)), (ShiftState::AwaitingApproval, since(&before)));
    stage.shifts.pause(&id).await.expect("it is held");
    stage.kill_and_recover().await;
    stage.shifts.approve(&id, 1).await.expect("the step waits for approval");
    stage.world.yardctl.converged(POLICY).await;
    let held = stage.shifts.get(&id).await.expect("the shift is there");
    assert!(status(&held).paused.is_some() && status(&held).step == 1, "{held:#?}");
    stage.shifts.resume(&id).await.expect("it goes on");
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    let middle = ["ApprovalNeeded 1", "Paused 1", "Approved 1", "Resumed 1"].map(str::to_owned).into();
    let end = ["Settling 2", "Converged 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), middle, stepped(2), end].concat());
    assert_eq!(stage.written().await, [half(), all_blue()], "killed in AwaitingApproval");

    // Aborting: what is asked for outlives the hub.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(50, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.fault(json!({"operation": "ModifyRule", "every": true, "kind": "refused"})).await;
    stage.shifts.abort(&id).await.expect("it goes back");
    stage.shifts.reaches(&id, ShiftState::Aborting, 1).await;
    stage.load.more(200).await;
    stage.shifts.reaches(&id, ShiftState::Aborting, 1).await;
    stage.kill_and_recover().await;
    let shift = stage.shifts.ends(&id, ShiftState::Aborted).await;
    let end = ["AbortRequested 1", "Restored 1"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), end].concat());
    assert_eq!(stage.written().await, [half(), all_blue()], "killed in Aborting");
    stage.ends_well().await;
}
