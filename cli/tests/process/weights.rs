//! `yardctl weights` as a process: what it sends, how it ends, what it says while it waits.

use crate::support::{Answer, Beat, Hub, Script, changed, plan, policy, present, queue, weights_answer, yardctl_with};
use prost::Message;
use switchyard_proto::api::v1 as pb;
use tonic::{Code, Status};

fn weights(answers: impl IntoIterator<Item = Answer<pb::SetWeightsResponse>>) -> Script {
    Script { weights: queue(answers), ..Script::default() }
}

fn waiting(watch: Vec<Vec<Beat>>) -> Script {
    Script {
        weights: queue([weights_answer(policy(7, 1))]),
        watch: queue(watch.into_iter().map(Answer::Ok)),
        ..Script::default()
    }
}

#[tokio::test]
async fn the_call_carries_everything_that_was_typed() {
    let hub = Hub::start(weights([weights_answer(policy(7, 0))])).await;
    let ran = hub
        .yardctl("weights shop/checkout blue=90 green=10 --reason release-42 --expected-version 6 --request-id r-1")
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "shop/checkout accepted (version 7, request r-1)\n");
    let seen = hub.seen.weights.lock().unwrap();
    let expected = pb::SetWeightsRequest {
        request_id: "r-1".into(),
        policy: Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() }),
        weights: [("blue".into(), 90), ("green".into(), 10)].into(),
        expected_version: 6,
        dry_run: false,
        reason: "release-42".into(),
    };
    assert_eq!(*seen, [expected]);
}

#[tokio::test]
async fn retries_of_one_call_carry_the_same_new_request_id() {
    let down = || Answer::Refuse(Status::unavailable("no leader yet"));
    let hub = Hub::start(weights([down(), down(), weights_answer(policy(7, 0))])).await;
    let ran = hub.yardctl("weights shop/checkout blue=1").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("is not available, trying for up to 10s: no leader yet"), "{ran:?}");
    let seen = hub.seen.weights.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.request_id == seen[0].request_id));
    assert_eq!(seen[0].request_id.len(), 36, "a UUID");
    assert_eq!(&seen[0].request_id[14..15], "7", "of version 7");
}

#[tokio::test]
async fn only_unavailable_is_tried_again() {
    for code in [Code::Internal, Code::Aborted, Code::ResourceExhausted, Code::InvalidArgument, Code::Unknown] {
        let hub = Hub::start(weights([Answer::Refuse(Status::new(code, "x")), weights_answer(policy(7, 0))])).await;
        let ran = hub.yardctl("weights shop/checkout blue=1").await;
        assert_ne!(ran.code, 0, "{code:?}: {ran:?}");
        assert_eq!(hub.seen.weights.lock().unwrap().len(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn each_refusal_has_its_exit_code_and_a_remedy() {
    for (code, exit) in [
        (Code::Internal, 1),
        (Code::InvalidArgument, 3),
        (Code::FailedPrecondition, 5),
        (Code::AlreadyExists, 5),
        (Code::NotFound, 4),
        (Code::Aborted, 5),
        (Code::ResourceExhausted, 6),
        (Code::PermissionDenied, 9),
        (Code::Unauthenticated, 9),
    ] {
        let hub = Hub::start(weights([Answer::Refuse(Status::new(code, "as the hub says"))])).await;
        let ran = hub.yardctl("weights shop/checkout blue=1").await;
        assert_eq!(ran.code, exit, "{code:?}: {ran:?}");
        assert!(
            ran.err.starts_with("error: cannot set the weights of shop/checkout: as the hub says\nremedy: "),
            "{code:?}: {ran:?}"
        );
        assert_eq!(ran.out, "", "{code:?}");
    }
}

#[tokio::test]
async fn violations_are_shown_with_field_value_problem_and_remedy() {
    let details = pb::Violations {
        violations: vec![pb::Violation {
            field: "weights[purple]".into(),
            value: "5".into(),
            problem: "the policy has no cluster purple".into(),
            remedy: "use blue or green".into(),
        }],
    };
    let status = Status::with_details(Code::InvalidArgument, "refused", details.encode_to_vec().into());
    let hub = Hub::start(weights([Answer::Refuse(status)])).await;
    let ran = hub.yardctl("weights shop/checkout purple=5").await;
    assert_eq!(ran.code, 3, "{ran:?}");
    for part in ["weights[purple] = 5", "problem: the policy has no cluster purple", "remedy:  use blue or green"] {
        assert!(ran.err.contains(part), "{ran:?} lacks {part}");
    }
}

#[tokio::test]
async fn a_safety_rule_is_crossed_by_a_flip_and_the_refusal_says_so_once() {
    let details = pb::Findings {
        findings: vec![pb::GuardFinding {
            guard: "MaintenanceWindow".into(),
            policy: Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() }),
            step: 1,
            message: "outside of every window".into(),
            overridable: true,
            ..Default::default()
        }],
    };
    let message =
        "safety rules stand in the way: outside of every window; a shift may override MaintenanceWindow with a reason";
    let status = Status::with_details(Code::FailedPrecondition, message, details.encode_to_vec().into());
    let hub = Hub::start(weights([Answer::Refuse(status)])).await;
    let ran = hub.yardctl("weights shop/checkout blue=1").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    let expected = "\
error: cannot set the weights of shop/checkout: safety rules stand in the way
  MaintenanceWindow of shop/checkout, step 1
    problem: outside of every window
    remedy:  yardctl weights crosses no rule: use `yardctl flip shop/checkout --weights CLUSTER=WEIGHT,.. --override \
MaintenanceWindow --reason TEXT`, if you have the right to
remedy: nothing was changed
";
    assert_eq!(ran.err, expected, "{ran:?}");
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_names_the_present_one() {
    let details = pb::VersionConflict { expected_version: 3, present_version: 9 };
    let status = Status::with_details(Code::Aborted, "stale", details.encode_to_vec().into());
    let hub = Hub::start(weights([Answer::Refuse(status)])).await;
    let ran = hub.yardctl("weights shop/checkout blue=1 --expected-version 3").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("version 3 was expected, version 9 is there"), "{ran:?}");
}

#[tokio::test]
async fn a_call_that_ran_out_of_time_names_what_the_hub_said_before() {
    let away = Answer::Refuse(Status::unavailable("the hub's store does not answer"));
    let hub = Hub::start(weights([away, Answer::Never])).await;
    let ran = hub.yardctl("weights shop/checkout blue=1 --timeout 600ms --request-id r-9").await;
    assert_eq!(ran.code, 7, "{ran:?}");
    let error = ran.err.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.ends_with("; before that: the hub's store does not answer"), "{ran:?}");
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_as_unknown_and_names_the_request_id() {
    let hub = Hub::start(weights([Answer::Never])).await;
    let ran = hub.yardctl("weights shop/checkout blue=1 --timeout 300ms --request-id r-9").await;
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.err.contains("--request-id r-9 is safe to repeat"), "{ran:?}");
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_says_that_nothing_changed() {
    let answer = pb::SetWeightsResponse { policy: Some(policy(7, 0)), plan: Some(plan()) };
    let hub = Hub::start(weights([Answer::Ok(answer)])).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 --dry-run").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout would be accepted (dry run: nothing was changed)\n"), "{ran:?}");
    assert!(ran.out.contains("ModifyRule") && ran.out.contains("weights differ from what is wanted"), "{ran:?}");
    assert!(hub.seen.weights.lock().unwrap()[0].dry_run);
}

#[tokio::test]
async fn a_wait_follows_the_policy_until_it_converged() {
    let script = waiting(vec![vec![
        present(policy(7, 1)),
        Beat::Synced,
        changed(policy(7, 2)),
        changed(policy(7, 3)),
        Beat::Hold,
    ]]);
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 green=10 --wait converged").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with(", converged reached\n"), "{ran:?}");
    for part in [
        "waiting for Converged of shop/checkout version 7, at most 5m00s",
        "Programmed is True (AsRequested) for version 7",
        "note for green: RemovalsHeld: 1 of 2 targets of green are held: 1 because the pod is not ready.",
        "done: Converged of shop/checkout version 7",
    ] {
        assert!(ran.err.contains(part), "{ran:?} lacks {part}");
    }
    assert!(ran.err.lines().all(|line| line.get(19..21) == Some("Z ")), "each line has a time: {ran:?}");
    let watch = hub.seen.watch.lock().unwrap();
    assert_eq!(watch[0].policy.as_ref().map(|policy| policy.name.as_str()), Some("checkout"));
}

#[tokio::test]
async fn a_wait_for_what_is_true_already_needs_no_watch() {
    let hub = Hub::start(waiting(vec![])).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 --wait accepted").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(hub.seen.watch.lock().unwrap().len() <= 1);
}

#[tokio::test]
async fn a_wait_survives_a_broken_watch() {
    let script = waiting(vec![
        vec![present(policy(7, 1)), Beat::Synced, Beat::Break(Status::unavailable("going away"))],
        vec![present(policy(7, 2)), Beat::Synced],
        vec![present(policy(7, 3)), Beat::Hold],
    ]);
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 --wait converged").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("lost the hub, trying again: going away"), "{ran:?}");
    assert!(ran.err.contains("the hub answers again"), "{ran:?}");
    assert_eq!(hub.seen.weights.lock().unwrap().len(), 1, "the change is not made again");
}

#[tokio::test]
async fn a_wait_that_is_superseded_or_sees_a_deletion_ends_with_its_own_exit_code() {
    let mut refused = policy(7, 0);
    let status = refused.status.as_mut().unwrap();
    status.conditions[0].status = pb::ConditionStatus::False as i32;
    status.conditions[0].message = "no such listener".into();
    let deleted = Beat::Event(pb::WatchEvent::Deleted, Box::new(policy(8, 0)));
    for (beat, outcome, why) in [
        (changed(policy(8, 1)), "superseded", "version 8 was accepted after version 7"),
        (deleted, "deleted", "the policy was deleted"),
        (changed(refused), "failed", "no such listener"),
    ] {
        let hub = Hub::start(waiting(vec![vec![present(policy(7, 1)), Beat::Synced, beat, Beat::Hold]])).await;
        let ran = hub.yardctl("weights shop/checkout blue=90 --wait converged -o json").await;
        assert_eq!(ran.code, 8, "{outcome}: {ran:?}");
        assert_eq!(ran.json()["wait"]["outcome"], outcome, "{ran:?}");
        assert!(ran.err.contains(why), "{outcome}: {ran:?}");
        assert!(ran.err.contains("look with `yardctl status shop/checkout`"), "{outcome}: {ran:?}");
    }
}

#[tokio::test]
async fn a_wait_that_runs_out_of_time_says_what_it_waited_for_and_how_to_look() {
    let hub = Hub::start(waiting(vec![vec![present(policy(7, 2)), Beat::Synced, Beat::Hold]])).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 --wait converged --timeout 700ms").await;
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.err.contains("Converged is Unknown (NotObservedYet) for version 7"), "{ran:?}");
    assert!(ran.err.contains("note for green: RemovalsHeld"), "{ran:?}");
    assert!(ran.err.contains("look with `yardctl status shop/checkout --watch`"), "{ran:?}");
    assert!(ran.out.contains("converged timeout"), "{ran:?}");
}

#[tokio::test]
async fn the_json_of_a_change_has_stable_names() {
    let hub = Hub::start(waiting(vec![vec![present(policy(7, 3)), Beat::Hold]])).await;
    let ran = hub.yardctl("weights shop/checkout blue=90 --wait converged -o json --request-id r-1").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json["request_id"], "r-1");
    assert_eq!(json["dry_run"], false);
    assert_eq!(json["wait"]["condition"], "converged");
    assert_eq!(json["wait"]["outcome"], "reached");
    assert_eq!(json["policy"]["ref"]["name"], "checkout");
    assert_eq!(json["policy"]["version"], 7);
    assert_eq!(json["policy"]["created_at"], "2026-01-02T03:00:00Z");
    assert_eq!(json["policy"]["spec"]["order"], 100);
    let status = &json["policy"]["status"];
    assert_eq!(status["conditions"][2]["status"], "true");
    assert_eq!(status["clusters"][0]["link"], "connected");
    assert_eq!(status["clusters"][0]["programmed_weight"], 90);
    assert_eq!(status["clusters"][0]["targets"]["healthy"], 2);
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error_that_names_argument_and_remedy() {
    for (line, part) in [
        ("weights shop/checkout", "CLUSTER=WEIGHT"),
        ("weights shop/checkout blue", "'blue' is not CLUSTER=WEIGHT; write for example blue=90"),
        ("weights shop/checkout blue=1000", "use 0 to 999"),
        ("weights a/b/c blue=1", "write NAME or NAMESPACE/NAME"),
        ("weights shop/checkout blue=1 blue=2", "'blue' is given twice"),
        ("weights shop/checkout blue=1 --wait tomorrow", "accepted, programmed, converged"),
        ("weights shop/checkout blue=1 --timeout 5", "write for example 30s, 5m or 1h30m"),
        ("weights shop/checkout blue=1 --wait converged --dry-run", "cannot be used with"),
        ("weights -n bar shop/checkout blue=1", "leave out one of the two"),
    ] {
        let ran = yardctl_with(line, "").await;
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert!(ran.err.contains(part), "{line}: {ran:?} lacks {part}");
    }
}

#[tokio::test]
async fn plain_text_to_another_machine_is_refused_before_anything_is_sent() {
    let ran = yardctl_with("--hub http://192.0.2.1:7400 weights shop/checkout blue=1", "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("anyone could read and change") && ran.err.contains("port-forward"), "{ran:?}");
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_told_with_the_cause() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let line = format!("--hub http://{address} --timeout 500ms weights shop/checkout blue=1 --request-id r-3");
    let ran = yardctl_with(&line, "").await;
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("Connection refused"), "{ran:?}");
    assert!(ran.err.contains("--request-id r-3"), "{ran:?}");
}
