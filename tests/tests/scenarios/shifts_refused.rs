//! What a shift is refused for, and what it is refused with: another shift, an old version, the rules that a policy's author wrote,
//! switches. Nothing moves, and not one request fails.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::{Value, json};
use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    policy::Policy,
    process::Finished,
    shifts::{approved_step, policy_ref, step, to_cluster, weights},
    wait,
};
use tonic::Code;

use crate::shifts::{POLICY, Stage, all_blue, all_green, status};

impl Stage {
    async fn yardctl(&self, arguments: &[&str]) -> Finished {
        self.world.yardctl.run(arguments, "").await.expect("yardctl runs")
    }

    /// The policy of all scenarios with this under `spec.safety`.
    async fn safety(&self, safety: Value) {
        let policy = Policy::new("checkout", &[("blue", 100), ("green", 0)]).with("/spec/safety", safety);
        self.world.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
    }

    async fn nothing_moved(&mut self) {
        assert_eq!(self.written().await, []);
        assert_eq!(self.in_force().await, all_blue());
    }
}

fn says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, code, "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shift_at_a_time_moves_a_policy_and_everybody_else_is_told_of_it() {
    let mut stage = Stage::set().await;
    let version = stage.world.yardctl.status(POLICY).await.expect("the status")["version"].as_u64().expect("a version");

    // Fifty callers at once with one request id: one shift.
    let spec = to_cluster(&[POLICY], "green", vec![step(20, 3_600), step(100, 0)]);
    let calls = (0..50).map(|_| stage.shifts.create("release-42", &spec));
    let ids: Vec<String> = join_all(calls).await.into_iter().map(|made| made.expect("the first answer").id).collect();
    let different: BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (50, 1), "{different:?}");
    let list = api::ListShiftsRequest { policy: Some(policy_ref(POLICY)), ..Default::default() };
    let listed = stage.shifts.client().list_shifts(list).await.expect("a list").into_inner().shifts;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    let id = ids[0].as_str();
    stage.shifts.reaches(id, ShiftState::Baking, 1).await;

    // The same id for something else is no repetition.
    let other = stage.shifts.create("release-42", &to_cluster(&[POLICY], "green", Vec::new())).await;
    assert_eq!(other.expect_err("an id is for one change").code(), Code::AlreadyExists);

    // A second shift and a change of weights are refused with who moves the policy and how to get on.
    let abort = format!("yardctl abort {id}");
    let second = stage.yardctl(&["flip", POLICY, "--to", "green"]).await;
    says(&second, 5, &[POLICY, id, "Baking, step 1 of 2", &abort]);
    let set = stage.yardctl(&["weights", POLICY, "blue=50", "green=50"]).await;
    says(&set, 5, &[POLICY, id, &abort]);
    let share = || weights(&[("blue", 80), ("green", 20)]);
    assert_eq!((stage.in_force().await, stage.written().await), (share(), vec![share()]));
    stage.world.yardctl.expect(&["abort", POLICY, "--wait", "--timeout", "60s"], "").await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![all_blue()]));
    let late = stage.shifts.abort(id).await.expect_err("it has ended");
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(late.message().contains("has ended (Aborted)"), "{late}");

    // A version that somebody changed meanwhile; then the present one.
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=90", "green=10"]).await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=100", "green=0"]).await;
    let _two = stage.written().await;
    let present = stage.world.yardctl.status(POLICY).await.expect("the status")["version"].as_u64().expect("a version");
    assert!(present > version);
    let flip = |version: String| {
        ["flip", POLICY, "--to", "green", "--expected-version"].map(str::to_owned).into_iter().chain([version])
    };
    let stale: Vec<String> = flip(version.to_string()).collect();
    let stale = stage.yardctl(&stale.iter().map(String::as_str).collect::<Vec<_>>()).await;
    says(&stale, 5, &[&format!("version {version} was expected, version {present} is there")]);
    stage.nothing_moved().await;
    let right: Vec<String> = flip(present.to_string()).chain(["--wait".to_owned()]).collect();
    says(&stage.yardctl(&right.iter().map(String::as_str).collect::<Vec<_>>()).await, 0, &[]);
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![all_green()]));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safety_rules_and_switches_hold_shifts_unless_they_are_crossed_with_a_reason() {
    let mut stage = Stage::set().await;
    let flip = ["flip", POLICY, "--to", "green", "--wait", "--timeout", "60s"];

    stage.safety(json!({"freeze": true})).await;
    says(&stage.yardctl(&flip).await, 5, &["Freeze", "spec.safety.freeze"]);
    stage.safety(json!({"maxStepPercent": 40})).await;
    says(&stage.yardctl(&flip).await, 5, &["MaxStepPercent", "100 percentage points", "allows 40"]);
    let tomorrow = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).tomorrow().expect("there is a tomorrow");
    let day = tomorrow.strftime("%a").to_string();
    stage.safety(json!({"maintenanceWindows": [{"days": [day], "from": "01:00", "to": "23:00"}]})).await;
    says(&stage.yardctl(&flip).await, 5, &["MaintenanceWindow", "the next one starts at"]);
    stage.nothing_moved().await;

    // A switch, for shifts and for weights, and for the next step of a shift that has begun.
    stage.safety(json!({})).await;
    let off = ["switch", "off", "shop-frozen", "--policies", "shop/*", "--reason", "incident 4711"];
    stage.world.yardctl.expect(&off, "").await;
    says(&stage.yardctl(&flip).await, 5, &["GatingSwitch", "shop-frozen", "incident 4711"]);
    says(&stage.yardctl(&["weights", POLICY, "blue=50", "green=50"]).await, 5, &["shop-frozen", "incident 4711"]);
    stage.nothing_moved().await;
    stage.world.yardctl.expect(&["switch", "on", "shop-frozen"], "").await;
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![approved_step(50), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::AwaitingApproval, 1).await;
    stage.world.yardctl.expect(&off, "").await;
    stage.shifts.approve(&id, 1).await.expect("the step waits for approval");
    let held = stage.shifts.until(&id, "the shift to be held", |status| status.reason == "Held").await;
    assert_eq!(status(&held).step, 1, "{held:#?}");
    assert_eq!(status(&held).findings[0].guard, "GatingSwitch");
    stage.load.more(200).await;
    assert_eq!(stage.written().await, [weights(&[("blue", 50), ("green", 50)])]);
    // The way back is open.
    stage.world.yardctl.expect(&["abort", &id, "--wait", "--timeout", "60s"], "").await;
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![all_blue()]));
    stage.world.yardctl.expect(&["switch", "on", "shop-frozen"], "").await;

    // With a reason a rule is crossed, and that is on record.
    stage.safety(json!({"maxStepPercent": 40, "minStepIntervalSeconds": 3_600})).await;
    says(&stage.yardctl(&flip).await, 5, &["MaxStepPercent", "MinStepInterval", "less than 3600 s ago"]);
    let one = [&flip[..], &["--override", "MaxStepPercent", "--reason", "blue burns"]].concat();
    says(&stage.yardctl(&one).await, 5, &["MinStepInterval"]);
    let without = [&flip[..], &["--override", "MaxStepPercent", "--override", "MinStepInterval"]].concat();
    says(&stage.yardctl(&without).await, 3, &["reason"]);
    stage.nothing_moved().await;
    let with = [&without[..], &["--reason", "blue burns"]].concat();
    says(&stage.yardctl(&with).await, 0, &[]);
    assert_eq!((stage.in_force().await, stage.written().await), (all_green(), vec![all_green()]));
    let audit = stage.yardctl(&["audit", POLICY, "-o", "jsonl"]).await.stdout;
    let entries: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("an entry a line")).collect();
    let crossing = entries.iter().find(|entry| entry["action"] == "shift-create").expect("the newest shift");
    assert_eq!(
        (&crossing["overrides"], &crossing["reason"]),
        (&json!(["MaxStepPercent", "MinStepInterval"]), &json!("blue burns"))
    );
    assert!(!crossing["actor"].as_str().unwrap_or_default().is_empty(), "{crossing}");

    // A rollback within its window crosses these rules by itself.
    says(&stage.yardctl(&["rollback", POLICY, "--wait", "--timeout", "60s"]).await, 0, &[]);
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![all_blue()]));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_to_a_cluster_without_a_healthy_target_fails_in_its_preflight_and_moves_nothing() {
    let mut stage = Stage::set().await;
    let green = stage.world.cluster("green");
    green.set_mode("failing").await.expect("green's pods fail");
    let unhealthy = |state: &switchyard_tests::elb::State| {
        state.group(POLICY, "green").is_some_and(|group| group.targets.iter().all(|target| target.state == "unhealthy"))
    };
    stage.world.elb_shows("green to have no healthy target", unhealthy).await;
    wait::until("the hub to know that", async || {
        let dry = stage.yardctl(&["flip", POLICY, "--to", "green", "--dry-run"]).await;
        wait::check(dry.to_string().contains("HealthyTargets"), || dry.to_string())
    })
    .await;
    let flip = stage.yardctl(&["flip", POLICY, "--to", "green", "--wait", "--timeout", "90s"]).await;
    says(&flip, 8, &["green has no target of shop/checkout that passes"]);
    stage.nothing_moved().await;
    green.set_mode("normal").await.expect("green's pods recover");
    stage.world.all_healthy(POLICY).await;
    stage.world.hub_knows(POLICY).await;
    says(&stage.yardctl(&["flip", POLICY, "--to", "green", "--wait", "--timeout", "60s"]).await, 0, &[]);
    assert_eq!(stage.written().await, [all_green()]);
    stage.ends_well().await;
}
