//! `yardctl flip`, `shift` and `rollback` as a process: what they send, how they wait, how they end.

use std::{process::Stdio, time::Duration};

use crate::support::{Answer, Hub, Ran, SHIFT, Script, ShiftBeat, beat, command, created, queue, shift, yardctl_with};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use switchyard_proto::api::v1::{self as pb, ShiftState};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};
use tonic::{Code, Status};

fn answers(answers: impl IntoIterator<Item = Answer<pb::CreateShiftResponse>>) -> Script {
    Script { create: queue(answers), ..Script::default() }
}

/// A shift that was accepted, and what its watches bring.
fn waiting(watches: Vec<Answer<Vec<ShiftBeat>>>) -> Script {
    Script {
        create: queue([created(shift(1, ShiftState::Pending, 0, "Created"))]),
        watch_shift: queue(watches),
        ..Script::default()
    }
}

fn to_the_end() -> Vec<ShiftBeat> {
    vec![
        beat(shift(1, ShiftState::Pending, 0, "Created")),
        beat(shift(2, ShiftState::Stepping, 1, "StepRequested")),
        beat(shift(3, ShiftState::Baking, 1, "StepProgrammed")),
        beat(shift(4, ShiftState::Stepping, 2, "StepRequested")),
        beat(shift(5, ShiftState::Converging, 2, "Settling")),
        beat(shift(6, ShiftState::Succeeded, 2, "Converged")),
    ]
}

/// stdout as one JSON object a line.
fn objects(ran: &Ran) -> Vec<serde_json::Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test]
async fn the_call_carries_everything_that_was_typed() {
    let hub = Hub::start(answers([created(shift(1, ShiftState::Pending, 0, "Created"))])).await;
    let ran = hub
        .yardctl_words(&[
            "shift",
            "-n",
            "shop",
            "checkout",
            "--to",
            "green",
            "--steps",
            "25,100",
            "--bake",
            "2m",
            "--approval",
            "--gate",
            "prometheus/main: sum(errors) / sum(requests); success < 0.01; every 30s; count 4",
            "--override",
            "MaxStepPercent",
            "--reason",
            "release 42",
            "--expected-version",
            "7",
            "--request-id",
            "r-1",
        ])
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let first = ran.out.lines().next();
    assert_eq!(first, Some(SHIFT), "the first line is the id and nothing else: {ran:?}");
    assert!(ran.out.contains("of shop/checkout: Pending") && ran.out.contains("(request r-1)"), "{ran:?}");
    let seen = hub.seen.create.lock().unwrap();
    let spec = seen[0].spec.as_ref().unwrap();
    assert_eq!((seen[0].request_id.as_str(), seen[0].dry_run), ("r-1", false));
    assert_eq!(
        (spec.reason.as_str(), spec.overrides.as_slice()),
        ("release 42", ["MaxStepPercent".to_owned()].as_slice())
    );
    let policy = &spec.policies[0];
    assert_eq!((policy.to_cluster.as_str(), policy.expected_version), ("green", 7));
    assert_eq!(policy.policy.as_ref().map(|policy| policy.namespace.as_str()), Some("shop"));
    let steps = &spec.strategy.as_ref().unwrap().steps;
    assert!(steps[0].percent == 25 && steps[0].bake_seconds == 120 && steps[0].approval && !steps[1].approval);
    let gate = &spec.gates[0];
    assert_eq!((gate.name.as_str(), gate.success.as_str(), gate.count), ("prometheus-main", "< 0.01", 4));
    assert_eq!(gate.prometheus.as_ref().unwrap().query, "sum(errors) / sum(requests)");
}

#[tokio::test]
async fn a_file_asks_for_the_same_as_the_resource_would() {
    let hub = Hub::start(answers([created(shift(1, ShiftState::Pending, 0, "Created"))])).await;
    let file = "apiVersion: switchyard.dev/v1alpha1\nkind: TrafficShift\nmetadata: {name: x, namespace: shop}\n\
                spec:\n  policies: [{name: checkout, to: green}]\n  strategy: {canary: {percent: 5, approval: true}}\n";
    let ran = yardctl_with(&format!("--hub {} shift -f - --reason why", hub.url), file).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let seen = hub.seen.create.lock().unwrap();
    let spec = seen[0].spec.as_ref().unwrap();
    let canary = spec.strategy.as_ref().unwrap().canary;
    assert_eq!(canary, Some(pb::CanaryStrategy { percent: 5, bake_seconds: 0, approval: true }));
    assert_eq!(spec.policies[0].policy.as_ref().map(|policy| policy.namespace.as_str()), Some("shop"));
    assert_eq!(spec.reason, "why");
}

#[tokio::test]
async fn a_wait_follows_the_shift_to_its_end_with_lines_that_a_log_can_hold() {
    let hub = Hub::start(waiting(vec![Answer::Ok(to_the_end())])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with(&format!("{SHIFT}\n")), "{ran:?}");
    assert!(ran.out.ends_with("; converged reached\n"), "{ran:?}");
    for part in [
        "asking for a shift of shop/checkout, request ",
        // 2 minutes of bake time and 10 minutes.
        "waiting for converged of shift 019b0c3e-7c00-7000-8000-000000000001 of shop/checkout, at most 12m00s (its bake times",
        "Stepping 1/2 (25%), shop/checkout blue=75,green=25: message of version 2 (StepRequested)",
        "Baking 1/2 (25%), shop/checkout blue=75,green=25: message of version 3 (StepProgrammed)",
        "Succeeded 2/2 (100%), shop/checkout blue=0,green=100: message of version 6 (Converged)",
        "done: converged of shift",
    ] {
        assert!(ran.err.contains(part), "{ran:?} lacks {part}");
    }
    assert!(ran.err.lines().all(|line| line.get(19..21) == Some("Z ")), "each line has a time: {ran:?}");
    assert!(!ran.err.contains('\r') && !ran.err.contains('\u{1b}'), "no control characters away from a terminal");
    let told = ran.err.matches("message of version 1 (Created)").count();
    assert_eq!(told, 1, "what the answer said is not told again: {ran:?}");
}

#[tokio::test]
async fn a_wait_for_programmed_ends_before_the_settle_time() {
    let beats = vec![beat(shift(5, ShiftState::Converging, 2, "Settling")), ShiftBeat::Hold];
    let hub = Hub::start(waiting(vec![Answer::Ok(beats)])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait programmed").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("; programmed reached\n"), "{ran:?}");
}

#[tokio::test]
async fn a_wait_for_accepted_returns_at_once_with_the_id() {
    let hub = Hub::start(waiting(vec![])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait accepted").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().next(), Some(SHIFT));
    assert!(hub.seen.watch_shift.lock().unwrap().is_empty(), "there is nothing to watch for");
}

#[tokio::test]
async fn json_is_a_stream_with_an_object_for_each_change_and_the_end_last() {
    for format in ["json", "jsonl"] {
        let hub = Hub::start(waiting(vec![Answer::Ok(to_the_end())])).await;
        let line = format!("flip shop/checkout --to green --wait -o {format} --request-id r-1");
        let ran = hub.yardctl(&line).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let objects = objects(&ran);
        let (last, changes) = objects.split_last().unwrap();
        let states: Vec<_> = changes.iter().map(|one| one["shift"]["status"]["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["Pending", "Stepping", "Baking", "Stepping", "Converging", "Succeeded"]);
        assert!(changes.iter().all(|one| one["event"] == "change"), "{ran:?}");
        assert_eq!(last["event"], "end");
        assert_eq!(last["request_id"], "r-1");
        assert_eq!(last["wait"]["condition"], "converged");
        assert_eq!(last["wait"]["outcome"], "reached");
        assert_eq!(last["error"], serde_json::Value::Null);
        let shift = &last["shift"];
        assert_eq!(shift["id"], SHIFT);
        assert_eq!(shift["spec"]["strategy"]["steps"][0]["bakeSeconds"], 120);
        assert_eq!(shift["status"]["moves"][0]["programmed"]["green"], 100);
        assert_eq!(shift["created_at"], "2026-01-02T03:00:00Z");
    }
}

#[tokio::test]
async fn a_shift_that_ends_otherwise_has_its_own_exit_code_and_says_why() {
    for (state, reason, remedy) in [
        (ShiftState::Failed, "Restored", "the weights are those from before the shift"),
        (ShiftState::Failed, "PreflightFailed", "nothing was moved"),
        (ShiftState::Failed, "RestorePending", "not read back yet"),
        (ShiftState::Aborted, "Restored", "the weights are those from before the shift"),
        (ShiftState::Superseded, "PolicyChanged", "yardctl audit"),
    ] {
        let beats = vec![beat(shift(2, ShiftState::Stepping, 1, "StepRequested")), beat(shift(3, state, 1, reason))];
        let hub = Hub::start(waiting(vec![Answer::Ok(beats)])).await;
        let ran = hub.yardctl("flip shop/checkout --to green --wait -o json").await;
        assert_eq!(ran.code, 8, "{reason}: {ran:?}");
        let word = format!("{state:?}");
        assert!(ran.err.contains(&format!("it is {word} ({reason}): message of version 3")), "{ran:?}");
        assert!(ran.err.contains(remedy) && ran.err.contains(&format!("yardctl get shift {SHIFT}")), "{ran:?}");
        let last = objects(&ran).pop().unwrap();
        assert_eq!(last["wait"]["outcome"], "ended");
        assert_eq!((&last["error"]["code"], &last["error"]["kind"]), (&8.into(), &"ended".into()));
        assert_eq!(last["shift"]["status"]["state"], word.as_str());
    }
}

#[tokio::test]
async fn a_failed_preflight_names_each_finding_and_the_flag_that_crosses_it() {
    let mut failed = shift(2, ShiftState::Failed, 0, "PreflightFailed");
    failed.status.as_mut().unwrap().findings = vec![finding("Capacity", true), finding("HealthyTargets", false)];
    let hub = Hub::start(waiting(vec![Answer::Ok(vec![beat(failed)])])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait").await;
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.err.contains("--override Capacity --reason TEXT"), "{ran:?}");
    assert!(ran.err.contains("HealthyTargets of shop/checkout, step 1") && ran.err.contains("cannot be overridden"));
}

fn finding(guard: &str, overridable: bool) -> pb::GuardFinding {
    pb::GuardFinding {
        guard: guard.into(),
        policy: Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() }),
        step: 1,
        message: format!("{guard} stands in the way"),
        overridable,
        overridden: false,
        until: None,
    }
}

#[tokio::test]
async fn a_wait_survives_a_hub_that_goes_away_and_tells_what_happened_meanwhile() {
    let hub = Hub::start(waiting(vec![
        Answer::Ok(vec![
            beat(shift(2, ShiftState::Stepping, 1, "StepRequested")),
            ShiftBeat::Break(Status::unavailable("going away")),
        ]),
        Answer::Refuse(Status::unavailable("starting")),
        // A replica that has not read the store yet, and then one with an older picture.
        Answer::Refuse(Status::not_found("no such shift")),
        Answer::Ok(vec![beat(shift(1, ShiftState::Pending, 0, "Created"))]),
        Answer::Ok(vec![beat(shift(6, ShiftState::Succeeded, 2, "Converged"))]),
    ]))
    .await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("lost the hub, trying again: going away"), "{ran:?}");
    assert!(ran.err.contains("the hub answers again"), "{ran:?}");
    for version in 1..=6 {
        let told = ran.err.matches(&format!("message of version {version} ")).count();
        assert_eq!(told, 1, "version {version} is told once, also if nobody watched: {ran:?}");
    }
    assert_eq!(hub.seen.create.lock().unwrap().len(), 1, "the shift is not made again");
}

#[tokio::test]
async fn a_wait_that_runs_out_of_time_says_where_the_shift_is_and_how_to_go_on() {
    let beats = vec![beat(shift(3, ShiftState::Baking, 1, "StepProgrammed")), ShiftBeat::Hold];
    let hub = Hub::start(waiting(vec![Answer::Ok(beats)])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait --timeout 700ms").await;
    assert_eq!(ran.code, 7, "{ran:?}");
    for part in [
        "was not seen within",
        "Baking 1/2 (25%), shop/checkout blue=75,green=25: message of version 3",
        "the shift goes on by itself",
        "yardctl watch 019b0c3e",
        "yardctl abort 019b0c3e",
    ] {
        assert!(ran.err.contains(part), "{ran:?} lacks {part}");
    }
    assert!(ran.out.contains("; converged timeout\n"), "{ran:?}");
}

#[tokio::test]
async fn an_interrupted_wait_leaves_the_shift_alone_and_says_how_to_look() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let beats = vec![beat(shift(3, ShiftState::Baking, 1, "StepProgrammed")), ShiftBeat::Hold];
        let hub = Hub::start(waiting(vec![Answer::Ok(beats)])).await;
        let line = format!("--hub {} flip shop/checkout --to green --wait -o json", hub.url);
        let mut child = command(&line).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let under_way = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("Baking 1/2") {
                    return;
                }
            }
            panic!("stderr ended before the wait was under way");
        };
        timeout(Duration::from_secs(30), under_way).await.expect("the wait gets under way");
        kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), signal).unwrap();
        let mut told = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            told.push_str(&line);
        }
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(7), "{signal}");
        assert!(told.contains("(interrupted)") && told.contains("the shift goes on by itself"), "{told}");
        let out = String::from_utf8(output.stdout).unwrap();
        let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(last["wait"]["outcome"], "interrupted");
        assert!(hub.seen.act.lock().unwrap().is_empty(), "nothing is aborted");
    }
}

#[tokio::test]
async fn a_retried_flip_waits_on_the_shift_of_its_first_answer() {
    let down = || Answer::Refuse(Status::unavailable("no leader yet"));
    let script = Script {
        create: queue([down(), created(shift(1, ShiftState::Pending, 0, "Created"))]),
        watch_shift: queue([Answer::Ok(vec![beat(shift(6, ShiftState::Succeeded, 2, "Converged"))])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("flip shop/checkout --to green --request-id deploy-7 --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let seen = hub.seen.create.lock().unwrap();
    assert!(seen.len() == 2 && seen.iter().all(|request| request.request_id == "deploy-7"), "{seen:?}");
    assert_eq!(hub.seen.watch_shift.lock().unwrap()[0].id, SHIFT);
}

#[tokio::test]
async fn each_refusal_has_its_exit_code() {
    let held = pb::Findings { findings: vec![finding("MaxStepPercent", true), finding("Freeze", false)] };
    let violations = pb::Violations {
        violations: vec![pb::Violation {
            field: "spec.policies[0].to".into(),
            value: "purple".into(),
            problem: "is no cluster of shop/checkout".into(),
            remedy: "use blue or green".into(),
        }],
    };
    let conflict = pb::VersionConflict { expected_version: 3, present_version: 9 };
    let with = |code, text: &str, details: Vec<u8>| Status::with_details(code, text, details.into());
    for (status, code, parts) in [
        (
            with(Code::FailedPrecondition, "safety rules stand in the way", held.encode_to_vec()),
            5,
            vec!["MaxStepPercent of shop/checkout, step 1", "--override MaxStepPercent", "cannot be overridden"],
        ),
        (
            Status::failed_precondition(
                "shift abc (Baking) of carol moves shop/checkout; take it back with yardctl abort abc",
            ),
            5,
            vec!["shift abc (Baking) of carol", "yardctl history --active"],
        ),
        (
            with(
                Code::Aborted,
                "policy shop/checkout is at version 9, not at 3; read it again",
                conflict.encode_to_vec(),
            ),
            5,
            vec!["policy shop/checkout: version 3 was expected, version 9 is there"],
        ),
        (
            with(Code::InvalidArgument, "1 field is not valid", violations.encode_to_vec()),
            3,
            vec!["spec.policies[0].to = purple", "remedy:  use blue or green"],
        ),
        (Status::permission_denied("deployer may not override Capacity"), 9, vec!["may not override Capacity"]),
        (Status::not_found("there is no policy shop/checkout"), 4, vec!["there is no policy"]),
    ] {
        let hub = Hub::start(answers([Answer::Refuse(status)])).await;
        let ran = hub.yardctl("flip shop/checkout --to green").await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.out, "", "no id of a shift that is not there");
        for part in parts {
            assert!(ran.err.contains(part), "{ran:?} lacks {part}");
        }
    }
}

#[tokio::test]
async fn a_refusal_by_safety_rules_is_a_document_for_programs() {
    let held = pb::Findings { findings: vec![finding("MaxStepPercent", true)] };
    let status = Status::with_details(Code::FailedPrecondition, "held", held.encode_to_vec().into());
    let hub = Hub::start(answers([Answer::Refuse(status)])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --wait -o json").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    let error = &objects(&ran)[0]["error"];
    assert_eq!((&error["code"], &error["kind"]), (&5.into(), &"conflict".into()));
    assert_eq!(error["findings"][0]["guard"], "MaxStepPercent");
    assert_eq!(error["findings"][0]["overridable"], true);
}

#[tokio::test]
async fn a_dry_run_shows_plans_and_findings_and_fails_as_the_call_would() {
    let answer = |findings| {
        Answer::Ok(pb::CreateShiftResponse {
            shift: Some(pb::Shift { id: String::new(), ..shift(1, ShiftState::Pending, 0, "Created") }),
            findings,
            plans: vec![pb::StepPlan { step: 1, percent: 25, plan: Some(crate::support::plan()) }],
            notes: vec![pb::PlanNote { reason: "OpenStreams".into(), message: "stay".into(), ..Default::default() }],
        })
    };
    let hub = Hub::start(answers([answer(vec![])])).await;
    let ran = hub.yardctl("shift shop/checkout --to green --steps 25,100 --dry-run").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in ["nothing was changed", "STEP 1 (25%)", "ModifyRule", "OpenStreams: stay", "Nothing stands in the way."]
    {
        assert!(ran.out.contains(part), "{ran:?} lacks {part}");
    }
    assert!(hub.seen.create.lock().unwrap()[0].dry_run);
    let mut crossed = finding("Capacity", true);
    crossed.overridden = true;
    let hub = Hub::start(answers([answer(vec![crossed])])).await;
    assert_eq!(hub.yardctl("flip shop/checkout --to green --dry-run").await.code, 0, "crossed on purpose");
    let hub = Hub::start(answers([answer(vec![finding("MaxStepPercent", true)])])).await;
    let ran = hub.yardctl("flip shop/checkout --to green --dry-run -o json").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert_eq!(ran.json()["findings"][0]["guard"], "MaxStepPercent");
    assert_eq!(ran.json()["plans"][0]["percent"], 25);
}

#[tokio::test]
async fn a_rollback_is_followed_as_the_new_shift_that_it_is() {
    let back = |version, state, reason| pb::Shift { rollback_of: "old".into(), ..shift(version, state, 2, reason) };
    let script = Script {
        rollback: queue([Answer::Ok(pb::RollbackShiftResponse {
            shift: Some(back(1, ShiftState::Pending, "Created")),
            ..Default::default()
        })]),
        watch_shift: queue([Answer::Ok(vec![beat(back(2, ShiftState::Succeeded, "Converged"))])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("rollback shop/checkout --reason bad --override Capacity --request-id r-2 --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("; converged reached\n"), "{ran:?}");
    let policy = Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() });
    let expected = pb::RollbackShiftRequest {
        request_id: "r-2".into(),
        id: String::new(),
        policy,
        reason: "bad".into(),
        overrides: vec!["Capacity".into()],
        dry_run: false,
    };
    assert_eq!(*hub.seen.rollback.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_rollback_of_a_running_shift_waits_for_the_weights_from_before() {
    let script = Script {
        rollback: queue([Answer::Ok(pb::RollbackShiftResponse {
            shift: Some(shift(4, ShiftState::Aborting, 1, "AbortRequested")),
            ..Default::default()
        })]),
        watch_shift: queue([Answer::Ok(vec![beat(shift(5, ShiftState::Aborted, 1, "Restored"))])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl(&format!("rollback {SHIFT} --wait")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("; restored reached\n"), "{ran:?}");
    assert_eq!(hub.seen.rollback.lock().unwrap()[0].id, SHIFT);
}

fn rolled_back(shift: pb::Shift) -> Answer<pb::RollbackShiftResponse> {
    Answer::Ok(pb::RollbackShiftResponse { shift: Some(shift), ..Default::default() })
}

#[tokio::test]
async fn a_rollback_that_leads_forward_or_nowhere_is_announced() {
    let new = || pb::Shift {
        id: "019b0c3e-7c00-7000-8000-000000000002".into(),
        rollback_of: SHIFT.into(),
        ..shift(1, ShiftState::Pending, 0, "Created")
    };
    let ended = || shift(9, ShiftState::Succeeded, 2, "Converged");
    let run = async |answer: pb::Shift, of: pb::Shift, line: &str| {
        let script = Script {
            rollback: queue([rolled_back(answer)]),
            get_shift: queue([Answer::Ok(pb::GetShiftResponse { shift: Some(of) })]),
            ..Script::default()
        };
        let ran = Hub::start(script).await.yardctl(line).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.err
    };
    for line in ["rollback shop/checkout".to_owned(), format!("rollback {SHIFT}")] {
        assert_eq!(run(new(), ended(), &line).await, "", "an ordinary one");
        let again = run(new(), pb::Shift { rollback_of: "release".into(), ..ended() }, &line).await;
        let part = format!("ATTENTION: shift {SHIFT}, which is taken back now, was itself taking back shift release");
        assert!(
            again.contains(&part) && again.contains("leads forward again, to shop/checkout blue=0,green=100"),
            "{again}"
        );
    }
    let still = |shift: &pb::Shift| {
        let mut still = shift.clone();
        let moves = &mut still.status.as_mut().unwrap().moves;
        moves[0].from = moves[0].to.clone();
        still
    };
    let by_id = format!("rollback {SHIFT}");
    let nowhere = run(still(&new()), still(&ended()), &by_id).await;
    assert!(nowhere.contains("ATTENTION: nothing is taken back"), "{nowhere}");
    let twice = run(still(&new()), ended(), &by_id).await;
    assert!(twice.contains("ATTENTION: nothing is left to take back"), "{twice}");
}

#[tokio::test]
async fn a_rollback_that_the_hub_cannot_make_names_the_flips_that_do_it() {
    let gone = || Status::not_found(format!("shift {SHIFT} cannot be taken back: shop/cart of it is gone"));
    let lost =
        pb::Violations { violations: vec![pb::Violation { field: "spec.policies[0]".into(), ..Default::default() }] };
    let left = || Status::with_details(Code::InvalidArgument, "1 field is not valid", lost.encode_to_vec().into());
    for (line, refusal, code) in
        [("rollback shop/checkout".to_owned(), gone(), 4), (format!("rollback {SHIFT}"), left(), 3)]
    {
        let ended = || shift(9, ShiftState::Succeeded, 2, "Converged");
        let script = Script {
            rollback: queue([Answer::Refuse(refusal)]),
            get_shift: queue([Answer::Ok(pb::GetShiftResponse { shift: Some(ended()) })]),
            shifts: queue([Answer::Ok(pb::ListShiftsResponse {
                shifts: vec![ended()],
                next_page_token: String::new(),
            })]),
            ..Script::default()
        };
        let ran = Hub::start(script).await.yardctl(&line).await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains("`yardctl flip shop/checkout --weights blue=100`"), "{ran:?}");
    }
    let unknown = Script {
        rollback: queue([Answer::Refuse(Status::not_found("there is no such shift"))]),
        get_shift: queue([Answer::Refuse(Status::not_found("there is no such shift"))]),
        ..Script::default()
    };
    let ran = Hub::start(unknown).await.yardctl(&format!("rollback {SHIFT}")).await;
    assert!(ran.code == 4 && ran.err.contains("yardctl history"), "{ran:?}");
}

#[tokio::test]
async fn a_shift_whose_result_cannot_be_written_is_named_all_the_same() {
    let hub = Hub::start(answers([created(shift(1, ShiftState::Pending, 0, "Created"))])).await;
    let mut command = command(&format!("--hub {} flip shop/checkout --to green --request-id r-1", hub.url));
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let child = command.spawn().unwrap();
    let output = timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("it ends by itself").unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&format!("shift {SHIFT} was made (request r-1) and goes on, but cannot write the result")),
        "{told}"
    );
    assert!(told.contains(&format!("yardctl watch {SHIFT}")), "{told}");
}

#[tokio::test]
async fn a_rollback_is_made_although_what_it_takes_back_cannot_be_looked_at() {
    let new = || pb::Shift { rollback_of: "old".into(), ..shift(1, ShiftState::Pending, 0, "Created") };
    for look in [Answer::Never, Answer::Refuse(Status::internal("broken"))] {
        let script = Script { rollback: queue([rolled_back(new())]), get_shift: queue([look]), ..Script::default() };
        let ran = Hub::start(script).await.yardctl("rollback shop/checkout").await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.starts_with(&format!("{SHIFT}\n")) && ran.err.is_empty(), "{ran:?}");
    }
}

#[tokio::test]
async fn a_running_rollback_that_is_taken_back_is_waited_for_and_said_to_go_forward() {
    let running =
        |version, state, reason| pb::Shift { rollback_of: "release".into(), ..shift(version, state, 1, reason) };
    for name in ["shop/checkout", SHIFT] {
        let script = Script {
            rollback: queue([rolled_back(running(4, ShiftState::Aborting, "AbortRequested"))]),
            watch_shift: queue([Answer::Ok(vec![beat(running(5, ShiftState::Aborted, "Restored"))])]),
            ..Script::default()
        };
        let ran = Hub::start(script).await.yardctl(&format!("rollback {name} --wait")).await;
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        assert!(ran.out.ends_with("; restored reached\n"), "{name}: {ran:?}");
        assert!(ran.err.contains("which goes back now, was itself taking back shift release"), "{name}: {ran:?}");
    }
}

#[tokio::test]
async fn one_finding_of_a_dry_run_is_counted_as_one() {
    for (findings, said) in [(1, "1 finding stands in the way"), (2, "2 findings stand in the way")] {
        let answer = Answer::Ok(pb::CreateShiftResponse {
            shift: Some(shift(1, ShiftState::Pending, 0, "Created")),
            findings: vec![finding("MaxStepPercent", true); findings],
            ..Default::default()
        });
        let ran = Hub::start(answers([answer])).await.yardctl("flip shop/checkout --to green --dry-run").await;
        assert!(ran.code == 5 && ran.err.contains(said), "{ran:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error_that_names_argument_and_remedy() {
    for (words, part) in [
        (vec!["flip"], "<POLICY>"),
        (vec!["flip", "a"], "--to CLUSTER"),
        (vec!["flip", "a", "--to", "b", "--weights", "b=1"], "cannot be used with"),
        (vec!["flip", "a", "--to", "b", "--override", "Freeze"], "MaxStepPercent"),
        (vec!["flip", "a", "--to", "b", "--wait", "--dry-run"], "cannot be used with"),
        (vec!["flip", "--wait", "a", "--to", "b"], "accepted, programmed, converged"),
        (vec!["flip", "a", "--to", "b", "--gate", "prometheus/main: up"], "success < 0.01"),
        (vec!["shift", "a", "--to", "b"], "yardctl flip"),
        (vec!["shift", "a", "--to", "b", "--linear", "20", "--canary", "5"], "cannot be used with"),
        (vec!["shift", "a", "--to", "b", "--linear", "20", "--bake", "5"], "90s, 2m or 1h30m"),
        (vec!["shift", "-f", "/does/not/exist.yaml"], "give a readable YAML or JSON file"),
        (vec!["audit", "--since", "yesterday"], "2026-01-02T03:04:05Z"),
        (vec!["switch", "off", "freeze"], "--reason"),
        (vec!["approve", "a", "--step", "0"], "0 is not in 1.."),
        (vec!["flip", "a", "--to", "b", "--progress-deadline", "0s"], "leave it out for the default"),
        (vec!["flip", "a", "--to", "b", "--gate", "health; count 0"], "'count 0' is not a value that a gate can have"),
        (vec!["flip", "a", "--to", "b", "--gate", "health; every 0s"], "'every 0s' is not a value"),
        (vec!["shift", "a", "--to", "b", "--exponential", "5x0"], "write for example 5 or 5x2"),
    ] {
        let hub = Hub { url: "http://127.0.0.1:1".into(), seen: Default::default() };
        let ran = hub.yardctl_words(&words).await;
        assert_eq!(ran.code, 2, "{words:?}: {ran:?}");
        assert!(ran.err.contains(part), "{words:?}: {ran:?} lacks {part}");
    }
}
