//! Shifts under traffic, 200 requests a second: not one fails, the weights at the end are exactly those that were asked for or
//! recorded, each step is written once, and the history tells all of it.

use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    load::{Load, Report},
    shifts::{
        Shifts, Weights, all_the_way, approved_step, beginning, in_force, step, stepped, to_cluster, told, weights,
        written,
    },
    watcher::Witness,
    world::{Builder, World},
};

pub const POLICY: &str = "shop/checkout";

pub fn all_blue() -> Weights {
    weights(&[("blue", 100), ("green", 0)])
}

pub fn all_green() -> Weights {
    weights(&[("blue", 0), ("green", 100)])
}

pub fn status(shift: &api::Shift) -> &api::ShiftStatus {
    shift.status.as_ref().expect("a status")
}

/// Blue has everything and is under load.
pub struct Stage {
    pub world: World,
    pub load: Load,
    pub shifts: Shifts,
    /// No group that carries weight is emptied, and no rule goes away; none, where one is meant to go.
    pub witness: Option<Witness>,
    /// A place in the call log: what was written since is looked at.
    since: u64,
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_in(Builder::default()).await
    }

    pub async fn set_in(builder: Builder) -> Self {
        let world = builder.with_policy(&[("blue", 100), ("green", 0)]).await;
        let load = world.load("checkout", 200).await;
        load.more(100).await;
        let shifts = Shifts::of(&world.hub);
        let since = world.elb().position().await.expect("the call log");
        let witness = Some(Witness::start(world.elb()));
        Self { world, load, shifts, witness, since }
    }

    /// The weights that were written since this was asked last, in order.
    pub async fn written(&mut self) -> Vec<Weights> {
        let written = written(&self.world.elb(), self.since, POLICY).await;
        self.since = self.world.elb().position().await.expect("the call log");
        written
    }

    pub async fn in_force(&self) -> Weights {
        in_force(&self.world.elb(), POLICY).await
    }

    /// What becomes of the next requests.
    pub async fn next(&self, requests: u64) -> Report {
        self.load.mark("next").await.expect("a mark is set");
        self.load.more(requests).await;
        let report = self.load.report().await.expect("the load generator answers");
        report.windows.into_iter().last().expect("the window that was begun").report
    }

    pub async fn restart_hub(&mut self) {
        self.world.hub.start_again().await.expect("the hub starts again");
    }

    pub async fn ends_well(self) {
        self.load.finish_without_failures().await;
        if let Some(witness) = self.witness {
            witness.finish().await;
        }
        self.world.stop().await;
    }
}

fn clusters(report: &Report) -> Vec<&str> {
    report.by_cluster.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_and_its_rollback_are_true_of_the_very_next_request_and_fail_none() {
    let mut stage = Stage::set().await;
    let yardctl = stage.world.yardctl.clone();
    let wait = ["--wait", "--timeout", "60s"];
    yardctl.expect(&[&["flip", POLICY, "--to", "green", "--reason", "release 42"][..], &wait].concat(), "").await;
    assert_eq!(clusters(&stage.next(300).await), ["green"], "not one answer of blue after yardctl said that it is so");
    assert_eq!(stage.written().await, [all_green()], "one write");
    yardctl.expect(&[&["rollback", POLICY][..], &wait].concat(), "").await;
    assert_eq!(clusters(&stage.next(300).await), ["blue"]);
    assert_eq!(stage.written().await, [all_blue()], "one write");
    assert_eq!(stage.in_force().await, all_blue());
    let list =
        api::ListShiftsRequest { policy: Some(switchyard_tests::shifts::policy_ref(POLICY)), ..Default::default() };
    let listed = stage.shifts.client().list_shifts(list).await.expect("a list").into_inner().shifts;
    let [back, there] = listed.as_slice() else { panic!("two shifts, newest first: {listed:#?}") };
    assert_eq!(back.rollback_of, there.id);
    for shift in [there, back] {
        let shift = stage.shifts.ends(&shift.id, ShiftState::Succeeded).await;
        assert_eq!(told(&shift), all_the_way(1));
        assert!(status(&shift).programmed && status(&shift).converged, "{shift:#?}");
    }
    let audit =
        yardctl.expect(&["audit", POLICY, "-o", "jsonl", "--shift", &there.id, "--oldest-first"], "").await.stdout;
    let entries: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).expect("an entry a line")).collect();
    let created = entries.first().expect("the shift is in the audit log");
    assert_eq!((&created["action"], &created["reason"]), (&"shift-create".into(), &"release 42".into()), "{audit}");
    let moved = entries.iter().find(|entry| !entry["to_weights"].as_object().is_none_or(serde_json::Map::is_empty));
    assert_eq!(moved.expect("an entry with weights")["to_weights"]["green"], 100, "{audit}");
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_of_five_steps_writes_each_step_once_and_in_order() {
    let mut stage = Stage::set().await;
    let arguments = [
        "shift",
        POLICY,
        "--to",
        "green",
        "--steps",
        "5,25,50,75,100",
        "--bake",
        "1s",
        "--gate",
        "health",
        "--wait",
        "--timeout",
        "90s",
        "-o",
        "json",
    ];
    let finished = stage.world.yardctl.expect(&arguments, "").await;
    assert_eq!(clusters(&stage.next(300).await), ["green"]);
    let share = |green: u32| weights(&[("blue", 100 - green), ("green", green)]);
    assert_eq!(stage.written().await, [5, 25, 50, 75, 100].map(share), "{finished}");
    let listed = stage.shifts.client().list_shifts(api::ListShiftsRequest::default()).await;
    let id = listed.expect("a list").into_inner().shifts.remove(0).id;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(5));
    let at = |reason: &str, step: u32| {
        let event = status(&shift).history.iter().find(|event| (event.reason.as_str(), event.step) == (reason, step));
        event
            .and_then(|event| event.at)
            .map(|at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000)
            .expect("an event")
    };
    for step in 1..5 {
        let baked = at("StepRequested", step + 1) - at("StepProgrammed", step);
        assert!(baked >= 1_000, "step {step} baked for {baked} ms");
    }
    let last = finished.stdout.lines().last().unwrap_or_default();
    let document: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {finished}"));
    assert!(last.contains(&id) && document.is_object(), "{finished}");
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_at_each_step_goes_back_to_the_recorded_weights_in_one_write() {
    let mut stage = Stage::set().await;
    let percents = [5, 25, 50, 75, 100];
    for at in 1..=5_u32 {
        let spec = to_cluster(&[POLICY], "green", percents.map(approved_step).into());
        let id = stage.shifts.begin(&spec).await;
        for step in 1..at {
            stage.shifts.reaches(&id, ShiftState::AwaitingApproval, step).await;
            stage.shifts.approve(&id, step).await.expect("the step waits for approval");
        }
        stage.shifts.reaches(&id, ShiftState::AwaitingApproval, at).await;
        stage.world.yardctl.expect(&["abort", &id, "--wait", "--reason", "not good", "--timeout", "60s"], "").await;
        let shift = stage.shifts.ends(&id, ShiftState::Aborted).await;
        let reached = usize::try_from(at).expect("a small number");
        let steps = percents[..reached].iter().map(|green| weights(&[("blue", 100 - green), ("green", *green)]));
        assert_eq!(stage.written().await, steps.chain([all_blue()]).collect::<Vec<_>>(), "aborted at step {at}");
        let approvals = |step: usize| {
            let approved = (step < reached).then(|| format!("Approved {step}"));
            [stepped(step), vec![format!("ApprovalNeeded {step}")], approved.into_iter().collect()].concat()
        };
        let end = vec![format!("AbortRequested {at}"), format!("Restored {at}")];
        assert_eq!(told(&shift), [beginning(), (1..=reached).flat_map(approvals).collect(), end].concat());
        assert!(status(&shift).message.contains("not good"), "{shift:#?}");
        assert_eq!(stage.in_force().await, all_blue());
    }
    // An abort is over when it was read back; a little later it is served everywhere.
    stage.world.yardctl.converged(POLICY).await;
    assert_eq!(clusters(&stage.next(300).await), ["blue"]);
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_while_all_pods_are_replaced_fails_no_request() {
    let mut stage = Stage::set().await;
    stage.world.begin_rolling_update("v2").await;
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(10, 2), step(50, 2), step(100, 0)])).await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(3));
    stage.world.rolled().await;
    stage.world.all_healthy(POLICY).await;
    assert_eq!(clusters(&stage.next(300).await), ["green"]);
    let share = |green: u32| weights(&[("blue", 100 - green), ("green", green)]);
    assert_eq!(stage.written().await, [10, 50, 100].map(share));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_shift_moves_nothing_a_resumed_one_goes_on_and_a_promoted_one_skips_its_steps() {
    let mut stage = Stage::set().await;
    let id =
        stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(10, 1), step(50, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.shifts.pause(&id).await.expect("it is held");
    // For twice the bake time.
    stage.load.more(400).await;
    let paused = stage.shifts.get(&id).await.expect("the shift");
    assert_eq!((status(&paused).state(), status(&paused).step), (ShiftState::Baking, 1), "{paused:#?}");
    assert!(status(&paused).paused.is_some(), "{paused:#?}");
    stage.shifts.resume(&id).await.expect("it goes on");
    stage.shifts.reaches(&id, ShiftState::Baking, 2).await;
    stage.shifts.promote(&id).await.expect("the rest is skipped");
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    let share = |green: u32| weights(&[("blue", 100 - green), ("green", green)]);
    assert_eq!(stage.written().await, [10, 50, 100].map(share));
    let middle = ["Paused 1", "Resumed 1"].map(str::to_owned).into();
    let end = ["Settling 3", "Converged 3"].map(str::to_owned).into();
    let promoted = vec!["Promoted 2".to_owned()];
    let expected = [beginning(), stepped(1), middle, stepped(2), promoted, stepped(3), end].concat();
    assert_eq!(told(&shift), expected);
    assert_eq!(clusters(&stage.next(300).await), ["green"]);
    stage.ends_well().await;
}
