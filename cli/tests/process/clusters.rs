//! Whole clusters as a process: cordon, drain, uncordon, remove, drills, explain and failback.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use switchyard_proto::api::v1 as pb;
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::Status;

use crate::support::{Answer, Beat, ClusterBeat, Hub, Script, command, policy, present, queue};

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_767_322_800 + seconds, nanos: 0 })
}

fn reference(name: &str) -> Option<pb::PolicyRef> {
    Some(pb::PolicyRef { namespace: "shop".into(), name: name.into() })
}

/// blue with an operation of this kind, at `percent` of its share.
fn blue(mode: pb::ClusterMode, kind: pb::ClusterOperationKind, percent: u32, ended: bool) -> pb::Cluster {
    pb::Cluster {
        name: "blue".into(),
        link: pb::ClusterLink::Connected as i32,
        mode: mode as i32,
        operation: Some(pb::ClusterOperation {
            id: "op-1".into(),
            kind: kind as i32,
            actor: "alice".into(),
            reason: "upgrade".into(),
            started_at: at(0),
            ended_at: if ended { at(60) } else { None },
            percent,
            step_percent: 25,
            why: if ended { "Done" } else { "InProgress" }.into(),
            message: format!("at {percent} %"),
            progress: vec![pb::PolicyProgress {
                policy: reference("checkout"),
                done: ended,
                programmed_weight: Some(percent),
                targets: 2,
                reason: if ended { "AsRequested" } else { "Settling" }.into(),
                message: if ended { "" } else { "the weights settle" }.into(),
            }],
            version: 3,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn draining(percent: u32, ended: bool) -> pb::Cluster {
    let mode = if ended { pb::ClusterMode::Drained } else { pb::ClusterMode::Draining };
    blue(mode, pb::ClusterOperationKind::Drain, percent, ended)
}

fn beat(cluster: pb::Cluster) -> ClusterBeat {
    ClusterBeat::Cluster(Box::new(cluster))
}

fn forecast(name: &str, verdict: pb::ForecastVerdict, message: &str) -> pb::PolicyForecast {
    pb::PolicyForecast {
        policy: reference(name),
        verdict: verdict as i32,
        reason: "FailedOver".into(),
        message: message.into(),
        clusters: vec![pb::ClusterForecast {
            cluster: "blue".into(),
            share_before_permille: 500,
            ..Default::default()
        }],
    }
}

fn drained(cluster: pb::Cluster) -> Answer<pb::DrainClusterResponse> {
    let carried = forecast("checkout", pb::ForecastVerdict::Carried, "green 50.0 % -> 100.0 % with 4 healthy targets");
    Answer::Ok(pb::DrainClusterResponse { cluster: Some(cluster), forecast: vec![carried] })
}

#[tokio::test]
async fn a_drain_is_asked_for_as_typed_and_shows_what_it_does_to_each_policy() {
    let hub = Hub::start(Script { drain: queue([drained(draining(100, false))]), ..Script::default() }).await;
    let line = "drain blue --step 20% --interval 90s --force --reason upgrade --expected-version 2 --request-id r-1";
    let ran = hub.yardctl(line).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("shop/checkout  carried"), "{ran:?}");
    assert!(ran.out.contains("1 policy names blue: 1 carried\n"), "{ran:?}");
    let last = "blue draining, at most 100% of its share: at 100 % (InProgress) (version 3, request r-1)\n";
    assert!(ran.out.ends_with(last), "{ran:?}");
    let seen = hub.seen.drain.lock().unwrap();
    let expected = pb::DrainClusterRequest {
        request_id: "r-1".into(),
        cluster: "blue".into(),
        reason: "upgrade".into(),
        expected_version: 2,
        step_percent: 20,
        step_seconds: 90,
        force: true,
        dry_run: false,
    };
    assert_eq!(*seen, [expected]);
}

#[tokio::test]
async fn a_drain_that_is_waited_for_ends_with_the_operation_also_over_a_hub_that_restarts() {
    let script = Script {
        drain: queue([drained(draining(75, false))]),
        watch_cluster: queue([
            Answer::Ok(vec![beat(draining(75, false)), ClusterBeat::Break(Status::unavailable("restarting"))]),
            Answer::Ok(vec![beat(draining(25, false)), beat(draining(0, true)), ClusterBeat::Hold]),
        ]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("drain blue --wait --timeout 20s").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("; ended reached\n"), "{ran:?}");
    for line in [
        "waiting for the end of the drain of blue, at most 20s",
        "blue draining, at most 75% of its share: at 75 % (InProgress)",
        "shop/checkout: blue has weight 75 and 2 targets: Settling: the weights settle",
        "lost the hub, trying again: restarting",
        "the hub answers again",
        "shop/checkout: blue has weight 0 and 2 targets: done",
        "done: the end of the drain of blue, after",
    ] {
        assert!(ran.err.contains(line), "{line}: {ran:?}");
    }
    assert_eq!(hub.seen.watch_cluster.lock().unwrap()[0].cluster, "blue");
}

#[tokio::test]
async fn another_operation_in_the_place_of_a_drain_is_exit_code_8() {
    let mut other = blue(pb::ClusterMode::Active, pb::ClusterOperationKind::Uncordon, 100, true);
    other.operation.as_mut().unwrap().id = "op-2".into();
    let script = Script {
        drain: queue([drained(draining(75, false))]),
        watch_cluster: queue([Answer::Ok(vec![beat(other), ClusterBeat::Hold])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("drain blue --wait -o json").await;
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.err.contains("alice asked for another operation on blue: uncordon (upgrade)"), "{ran:?}");
    let json = ran.json();
    assert_eq!(json["wait"]["outcome"], "superseded");
    assert_eq!(json["cluster"]["mode"], "active");
    assert_eq!(json["forecast"][0]["verdict"], "carried");
}

#[tokio::test]
async fn a_wait_that_is_cut_off_leaves_the_drain_alone_and_says_how_to_undo_it() {
    let script = Script {
        drain: queue([drained(draining(75, false))]),
        watch_cluster: queue([Answer::Ok(vec![beat(draining(50, false)), ClusterBeat::Hold])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let mut child = command(&format!("--hub {} drain blue --wait --request-id r-1", hub.url)).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut text = String::new();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&line);
            text.push('\n');
            if line.contains("at most 50%") {
                kill(Pid::from_raw(child.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the process ends after ctrl-c");
    assert_eq!(child.wait().await.unwrap().code(), Some(7), "{text}");
    assert!(text.contains("the hub goes on by itself: look with `yardctl get clusters blue`"), "{text}");
    assert!(text.contains("--request-id r-1; undo it with `yardctl uncordon blue`"), "{text}");
    assert_eq!(hub.seen.of_cluster.lock().unwrap().len(), 0, "nothing is undone by itself");
}

#[tokio::test]
async fn a_dry_run_of_a_loss_that_is_not_carried_names_the_policies_and_is_exit_code_5() {
    let answer = |forecast| Answer::Ok(pb::DrillClusterLossResponse { forecast, cluster: None });
    let bad = vec![
        forecast("cart", pb::ForecastVerdict::Unproven, "green 50.0 % -> 100.0 % with 4 healthy targets"),
        forecast("login", pb::ForecastVerdict::NotCarried, "nobody takes the 50.0 % of blue"),
        forecast("search", pb::ForecastVerdict::Overloaded, "20.0 % stays on blue: the others carry no more"),
    ];
    let good = vec![forecast("cart", pb::ForecastVerdict::Carried, "green takes it")];
    let script = Script { drill: queue([answer(bad), answer(good)]), ..Script::default() };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("drill cluster-loss blue --dry-run").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.out.starts_with("Dry run: nothing was changed.\n"), "{ran:?}");
    assert!(ran.out.contains("3 policies name blue: 1 NOT CARRIED, 1 OVERLOADED, 1 unproven\n"), "{ran:?}");
    assert!(ran.err.contains("shop/login NOT CARRIED, shop/search OVERLOADED"), "{ran:?}");
    let ran = hub.yardctl("drill cluster-loss blue --dry-run -o json").await;
    assert_eq!((ran.code, ran.json()["dry_run"].as_bool()), (0, Some(true)), "{ran:?}");
    let seen = hub.seen.drill.lock().unwrap();
    assert!(seen.iter().all(|request| request.dry_run && request.duration_seconds == 0), "{seen:?}");
}

#[tokio::test]
async fn a_game_day_that_others_would_pay_for_is_refused_with_what_helps() {
    let finding = pb::GuardFinding {
        guard: "Overloaded".into(),
        policy: reference("search"),
        message: "20.0 % stays on blue".into(),
        ..Default::default()
    };
    let details = pb::Findings { findings: vec![finding] }.encode_to_vec();
    let message = "1 of 3 policies would pay for it: shop/search: 20.0 % stays on blue";
    let refusal = Status::with_details(tonic::Code::FailedPrecondition, message, details.into());
    let hub = Hub::start(Script { drill: queue([Answer::Refuse(refusal)]), ..Script::default() }).await;
    let ran = hub.yardctl("drill cluster-loss blue --for 10m --reason rehearsal").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("  Overloaded of shop/search\n    problem: 20.0 % stays on blue\n"), "{ran:?}");
    assert!(ran.err.contains("or add --force --reason TEXT to begin all the same"), "{ran:?}");
}

#[tokio::test]
async fn a_dry_run_of_a_drain_changes_nothing_and_is_judged_the_same() {
    let over = forecast("search", pb::ForecastVerdict::Overloaded, "20.0 % stays on blue");
    let answer = || Answer::Ok(pb::DrainClusterResponse { cluster: None, forecast: vec![over.clone()] });
    let hub = Hub::start(Script { drain: queue([answer(), answer()]), ..Script::default() }).await;
    let ran = hub.yardctl("drain blue --dry-run").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("the loss of blue is not carried (dry run): shop/search OVERLOADED"), "{ran:?}");
    let ran = hub.yardctl("drain blue --dry-run --force").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(hub.seen.drain.lock().unwrap().iter().all(|request| request.dry_run));
}

#[tokio::test]
async fn a_game_day_needs_a_time_and_a_reason_and_is_followed_until_the_weights_are_back() {
    let drill = |mode, percent, ended| blue(mode, pb::ClusterOperationKind::Drill, percent, ended);
    let answer = pb::DrillClusterLossResponse {
        forecast: vec![forecast("cart", pb::ForecastVerdict::Carried, "green takes it")],
        cluster: Some(drill(pb::ClusterMode::Drained, 0, false)),
    };
    let script = Script {
        drill: queue([Answer::Ok(answer)]),
        watch_cluster: queue([Answer::Ok(vec![
            beat(drill(pb::ClusterMode::Drained, 0, false)),
            beat(drill(pb::ClusterMode::Returning, 100, false)),
            beat(drill(pb::ClusterMode::Active, 100, true)),
            ClusterBeat::Hold,
        ])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    for line in
        ["drill cluster-loss blue", "drill cluster-loss blue --for 10m", "drill cluster-loss blue --for 0s --reason x"]
    {
        let ran = hub.yardctl(line).await;
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
    }
    let ran = hub.yardctl("drill cluster-loss blue --for 10m --reason rehearsal --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("done: the end of the game day of blue"), "{ran:?}");
    assert!(ran.out.contains("blue active: at 100 % (Done)"), "{ran:?}");
    let seen = hub.seen.drill.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].dry_run && seen[0].duration_seconds == 600 && seen[0].reason == "rehearsal", "{seen:?}");
}

#[tokio::test]
async fn cordon_uncordon_and_remove_send_what_was_typed() {
    let done = |mode, kind| Answer::Ok(blue(mode, kind, 100, true));
    let script = Script {
        of_cluster: queue([
            done(pb::ClusterMode::Cordoned, pb::ClusterOperationKind::Cordon),
            done(pb::ClusterMode::Active, pb::ClusterOperationKind::Uncordon),
            done(pb::ClusterMode::Removed, pb::ClusterOperationKind::Remove),
        ]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let of = "blue --reason upgrade --request-id r-1 --expected-version 2";
    for (line, said) in [
        (format!("cordon {of}"), "blue cordoned: at 100 % (Done) (version 3, request r-1)\n"),
        (format!("uncordon {of} --wait"), "blue active: at 100 % (Done) (version 3, request r-1); ended reached\n"),
        (format!("remove {of}"), "blue removed: at 100 % (Done) (version 3, request r-1)\n"),
    ] {
        let ran = hub.yardctl(&line).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, said), "{ran:?}");
    }
    let request = pb::CordonClusterRequest {
        request_id: "r-1".into(),
        cluster: "blue".into(),
        reason: "upgrade".into(),
        expected_version: 2,
    };
    let seen = hub.seen.of_cluster.lock().unwrap();
    assert_eq!(*seen, [("cordon", request.clone()), ("uncordon", request.clone()), ("remove", request)]);
}

#[tokio::test]
async fn a_refusal_says_what_helps_with_clusters() {
    let held = "blue cannot be removed: shop/checkout still gives it requests; drain it first (yardctl drain blue)";
    let script = Script {
        of_cluster: queue([
            Answer::Refuse(Status::failed_precondition(held)),
            Answer::Refuse(Status::not_found("no such cluster")),
        ]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("remove blue").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains(held) && ran.err.contains("remedy: look with `yardctl get clusters blue`"), "{ran:?}");
    let ran = hub.yardctl("remove bleu").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("look for the right name with `yardctl get clusters`"), "{ran:?}");
}

#[tokio::test]
async fn explain_shows_the_numbers_and_gives_them_to_programs() {
    let cluster = pb::ClusterExplanation {
        cluster: "blue".into(),
        requested_weight: 50,
        programmed_weight: Some(0),
        expected_targets: 10,
        healthy_targets: 2,
        known: true,
        score_permille: 200,
        used_permille: 200,
        reason: "FailedOver".into(),
        ..Default::default()
    };
    let answer = || {
        Answer::Ok(pb::ExplainPolicyResponse {
            policy: Some(policy(7, 2)),
            explanation: Some(pb::Explanation {
                state: pb::FailoverState::FailedOver as i32,
                message: "blue gets 0 % instead of 50 %".into(),
                clusters: vec![cluster.clone()],
                max_moves_per_hour: 6,
                ..Default::default()
            }),
        })
    };
    let hub = Hub::start(Script { explain: queue([answer(), answer()]), ..Script::default() }).await;
    let ran = hub.yardctl("explain shop/checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout  FAILED OVER: blue gets 0 % instead of 50 %\n"), "{ran:?}");
    assert!(ran.out.contains("2 of 10  20.0%  20.0%"), "{ran:?}");
    let json = hub.yardctl("explain shop/checkout -o json").await.json();
    assert_eq!(json["version"], 7);
    assert_eq!(json["explanation"]["state"], "failed_over");
    assert_eq!(json["explanation"]["clusters"][0]["score_permille"], 200);
}

#[tokio::test]
async fn failback_is_waited_for_until_the_requested_weights_are_served() {
    let script = Script {
        failback: queue([Answer::Ok(pb::FailbackPolicyResponse { policy: Some(policy(7, 1)) })]),
        watch: queue([Answer::Ok(vec![
            present(policy(7, 2)),
            Beat::Event(pb::WatchEvent::Changed, Box::new(policy(7, 3))),
            Beat::Hold,
        ])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("failback shop/checkout --reason fixed --expected-version 7 --request-id r-1 --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = "shop/checkout: clusters that failover took out may return once they are healthy (version 7, request r-1); converged reached\n";
    assert_eq!(ran.out, said, "{ran:?}");
    let seen = hub.seen.failback.lock().unwrap();
    assert_eq!((seen[0].reason.as_str(), seen[0].expected_version), ("fixed", 7));
}
