//! Shifts while something else goes wrong: the store is away, an agent is away, another hand writes the rule, AWS takes no write for
//! longer than the deadline; and the job of a CD system that waits for the end of a shift through all of that.

use serde_json::json;
use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    hub::Database,
    postgres::Postgres,
    process::Finished,
    shifts::{Weights, all_the_way, beginning, step, stepped, to_cluster, told, weights},
    wait,
    world::Builder,
};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::shifts::{POLICY, Stage, all_blue, all_green, status};

fn share(green: u32) -> Weights {
    weights(&[("blue", 100 - green), ("green", green)])
}

impl Stage {
    /// A job that asks for a shift to green and waits for its end.
    async fn job(&self, arguments: &[&str]) -> (String, JoinHandle<anyhow::Result<Finished>>) {
        let fixed = ["shift", POLICY, "--to", "green", "--wait", "--timeout", "170s", "--request-id", "job"];
        let arguments: Vec<String> = fixed.iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        let yardctl = self.world.yardctl.clone();
        let job = tokio::spawn(async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            yardctl.run(&arguments, "").await
        });
        let id = wait::until("the shift of the job", async || {
            let request = api::ListShiftsRequest { active: true, ..Default::default() };
            let listed = self.shifts.client().list_shifts(request).await.map_err(|error| error.to_string())?;
            let listed = listed.into_inner().shifts;
            listed.first().map(|shift| shift.id.clone()).ok_or_else(|| "there is none".to_owned())
        })
        .await;
        (id, job)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_sees_the_end_of_its_shift_although_the_hub_is_killed_in_every_step() {
    let mut stage = Stage::set().await;
    let (id, job) = stage.job(&["--steps", "10,20,40,70,100", "--bake", "1s"]).await;
    // By turns as soon as a step is asked for, and as soon as it was read back.
    for (number, reason) in [(1, "StepRequested"), (2, "StepProgrammed"), (3, "StepRequested"), (4, "StepProgrammed")] {
        let happened = |status: &api::ShiftStatus| {
            status.history.iter().any(|event| (event.step, event.reason.as_str()) == (number, reason))
        };
        stage.shifts.until(&id, &format!("{reason} of step {number}"), happened).await;
        stage.world.hub.kill_9();
        stage.restart_hub().await;
    }
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(5));
    assert_eq!(stage.written().await, [10, 20, 40, 70, 100].map(share), "each step once, in order");
    let finished = job.await.expect("the job ends").expect("yardctl runs");
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(finished.stdout.lines().next(), Some(id.as_str()), "{finished}");
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_told_that_its_shift_was_taken_back() {
    let mut stage = Stage::set().await;
    let (id, job) = stage.job(&["--steps", "10,100", "--bake", "1h"]).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.world.yardctl.expect(&["abort", POLICY, "--reason", "errors in green"], "").await;
    let finished = job.await.expect("the job ends").expect("yardctl runs");
    assert_eq!(finished.code, 8, "{finished}");
    assert!(finished.stderr.contains("Aborted") && finished.stderr.contains("errors in green"), "{finished}");
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![share(10), all_blue()]));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_nothing_moves_and_a_refused_command_can_be_repeated() {
    let mut postgres = Postgres::start().await.expect("Postgres starts");
    let url = postgres.database().await.expect("a database");
    let mut stage = Stage::set_in(Builder { database: Some(Database::Url(url)), ..Builder::default() }).await;
    let id =
        stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(20, 5), step(60, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    // This Postgres, made for tests, writes its log within a second of a commit; what is told of a store that keeps its promises is
    // looked at here.
    stage.load.more(300).await;
    postgres.stop_immediately().await.expect("Postgres ends at once");
    // For longer than the bake time and the lease.
    stage.load.more(1_400).await;
    assert_eq!(stage.in_force().await, share(20));
    let abort = || api::AbortShiftRequest { request_id: "back".to_owned(), id: id.clone(), ..Default::default() };
    let refused = stage.shifts.client().abort_shift(abort()).await.expect_err("there is no store to keep it");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    postgres.start_again().await.expect("Postgres starts again");
    stage.shifts.reaches(&id, ShiftState::Baking, 2).await;
    assert_eq!(stage.written().await, [share(20), share(60)]);
    for _ in 0..2 {
        stage.shifts.client().abort_shift(abort()).await.expect("the same request again");
    }
    let shift = stage.shifts.ends(&id, ShiftState::Aborted).await;
    let end = ["AbortRequested 2", "Restored 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), stepped(2), end].concat());
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![all_blue()]));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_goes_on_while_an_agent_is_away() {
    let mut stage = Stage::set().await;
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(20, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.world.agent("green").kill_9();
    stage.world.yardctl.status_says(POLICY, &["stale", "ClusterStale", "the agent of green is away"]).await;
    // What it reported is frozen, and the load balancer's own checks say that its targets are healthy.
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.shifts.promote(&id).await.expect("the rest is skipped");
    stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![share(20), all_green()]));
    stage.world.agent("green").start_again().expect("the agent starts again");
    stage.world.connected().await;
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_hand_writes_during_a_shift_is_put_right_and_the_shift_goes_on() {
    let mut stage = Stage::set().await;
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(20, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    let state = stage.world.elb().state().await.expect("the state");
    let [rule] = state.rules_of(POLICY)[..] else { panic!("one rule: {state:?}") };
    let arn = |cluster: &str| state.group(POLICY, cluster).expect("a group").arn.clone();
    let theirs = stage.world.somebody_else();
    theirs.set_rule_weights(&rule.arn, &[(&arn("blue"), 1), (&arn("green"), 998)]).await.expect("their change");
    let right = share(20);
    stage.world.elb_shows("the step to be put right", |state| state.weights(POLICY).as_ref() == Some(&right)).await;
    stage.shifts.promote(&id).await.expect("the rest is skipped");
    stage.shifts.ends(&id, ShiftState::Succeeded).await;
    let written = [share(20), weights(&[("blue", 1), ("green", 998)]), share(20), all_green()];
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), written.into()));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_aws_takes_no_write_for_goes_back_after_its_deadline() {
    let mut stage = Stage::set().await;
    let steps = to_cluster(&[POLICY], "green", vec![step(20, 0), step(60, 0), step(100, 0)]);
    stage
        .world
        .elb()
        .fault(json!({"operation": "ModifyRule", "nth": 2, "every": true, "kind": "throttle"}))
        .await
        .expect("a fault");
    let id = stage.shifts.begin(&api::ShiftSpec { progress_deadline_seconds: 30, ..steps }).await;
    let aborting = stage.shifts.reaches(&id, ShiftState::Aborting, 2).await;
    assert!(status(&aborting).message.contains("within 30 s"), "{aborting:#?}");
    stage.world.elb().clear_faults().await.expect("the faults are gone");
    let shift = stage.shifts.ends(&id, ShiftState::Failed).await;
    let end = ["StepRequested 2", "ProgressDeadlineExceeded 2", "Restored 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), end].concat());
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![share(20), all_blue()]));
    stage.ends_well().await;
}
