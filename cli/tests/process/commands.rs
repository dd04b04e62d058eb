//! The other commands as a process: apply, get, status, delete, plan, completion, version.

use std::fs;

use crate::support::{Answer, Beat, Hub, Script, changed, command, plan, policy, present, queue, yardctl_with};
use prost::Message;
use switchyard_proto::api::v1 as pb;
use tonic::{Code, Status};

const TWO: &str = "metadata: {name: checkout, namespace: shop} # first\nspec: {order: 1}\n---\n\
                   metadata: {name: cart, namespace: shop}\nspec: {order: 2}\n";

fn applied(outcome: pb::ApplyOutcome) -> Answer<pb::ApplyPolicyResponse> {
    Answer::Ok(pb::ApplyPolicyResponse {
        policy: Some(policy(1, 1)),
        outcome: outcome as i32,
        plan: None,
        warnings: vec!["the health check is slow".into()],
    })
}

fn invalid() -> Answer<pb::ApplyPolicyResponse> {
    let details = pb::Violations {
        violations: vec![pb::Violation {
            field: "spec.clusters".into(),
            value: "6 entries".into(),
            problem: "a rule holds at most 5 target groups".into(),
            remedy: "use Pooled mode".into(),
        }],
    };
    Answer::Refuse(Status::with_details(Code::InvalidArgument, "not valid", details.encode_to_vec().into()))
}

#[tokio::test]
async fn apply_sends_each_document_as_written_and_shows_every_result() {
    let script = Script { apply: queue([invalid(), applied(pb::ApplyOutcome::Created)]), ..Script::default() };
    let hub = Hub::start(script).await;
    let ran = yardctl_with(&format!("--hub {} apply -f - --reason release-42", hub.url), TWO).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.contains("shop/checkout failed\n"), "{ran:?}");
    assert!(ran.out.contains("shop/checkout created (version 1)\n  warning: the health check is slow\n"), "{ran:?}");
    assert!(ran.err.contains("error: cannot apply shop/checkout (stdin:1): not valid"), "{ran:?}");
    assert!(ran.err.contains("spec.clusters = 6 entries") && ran.err.contains("remedy:  use Pooled mode"), "{ran:?}");
    assert!(ran.err.contains("1 of 2 documents failed"), "{ran:?}");
    let seen = hub.seen.apply.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].manifest.contains("# first"), "{:?}", seen[0].manifest);
    assert!(seen[1].manifest.contains("name: cart"));
    assert_ne!(seen[0].request_id, seen[1].request_id);
    assert!(seen.iter().all(|request| request.reason == "release-42"), "{seen:?}");
}

#[tokio::test]
async fn a_reason_that_is_too_long_is_refused_before_anything_is_sent() {
    let hub = Hub::start(Script::default()).await;
    let reason = "x".repeat(1025);
    for line in ["apply -f -", "delete policy shop/checkout", "weights shop/checkout blue=1"] {
        let ran = yardctl_with(&format!("--hub {} {line} --reason {reason}", hub.url), TWO).await;
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert!(ran.err.contains("--reason has 1025 characters, at most 1024 are kept"), "{line}: {ran:?}");
    }
    assert!(hub.seen.apply.lock().unwrap().is_empty() && hub.seen.delete.lock().unwrap().is_empty());
}

#[tokio::test]
async fn apply_shows_json_of_all_results_in_one_document() {
    let script = Script { apply: queue([applied(pb::ApplyOutcome::Unchanged), invalid()]), ..Script::default() };
    let hub = Hub::start(script).await;
    let ran = yardctl_with(&format!("--hub {} apply -f - -o json", hub.url), TWO).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    let json = ran.json();
    assert_eq!(json["results"][0]["outcome"], "unchanged");
    assert_eq!(json["results"][0]["version"], 1);
    assert_eq!(json["results"][1]["outcome"], "failed");
    assert_eq!(json["results"][1]["source"], "stdin:3");
    assert_eq!(json["results"][1]["error"]["kind"], "invalid");
    assert_eq!(json["results"][1]["error"]["violations"][0]["field"], "spec.clusters");
}

#[tokio::test]
async fn apply_stops_at_a_hub_that_is_away_and_says_what_was_not_tried() {
    let away = || Answer::Refuse(Status::permission_denied("viewers may not apply"));
    let hub = Hub::start(Script { apply: queue([away()]), ..Script::default() }).await;
    let ran = yardctl_with(&format!("--hub {} apply -f -", hub.url), TWO).await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.out.contains("shop/cart not tried"), "{ran:?}");
    assert_eq!(hub.seen.apply.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn apply_reads_a_folder_and_shows_the_plan_of_a_dry_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), "metadata: {name: checkout}\n").unwrap();
    let answer = pb::ApplyPolicyResponse {
        policy: Some(policy(1, 0)),
        outcome: pb::ApplyOutcome::Created as i32,
        plan: Some(plan()),
        warnings: vec![],
    };
    let hub = Hub::start(Script { apply: queue([Answer::Ok(answer)]), ..Script::default() }).await;
    let ran =
        hub.yardctl(&format!("-n shop apply -f {} --dry-run --expected-version 4", folder.path().display())).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout would be created (dry run: nothing was changed)\n"), "{ran:?}");
    assert!(ran.out.contains("ModifyRule"), "{ran:?}");
    let seen = hub.seen.apply.lock().unwrap();
    assert!(seen[0].dry_run && seen[0].expected_version == 4);
    assert!(seen[0].manifest.contains("namespace: shop"), "-n fills the gap: {:?}", seen[0].manifest);
}

#[tokio::test]
async fn apply_waits_for_every_policy_that_it_applied() {
    let script = Script {
        apply: queue([applied(pb::ApplyOutcome::Configured), applied(pb::ApplyOutcome::Configured)]),
        watch: queue([
            Answer::Ok(vec![present(policy(1, 3)), Beat::Hold]),
            Answer::Ok(vec![present(policy(2, 1)), Beat::Hold]),
        ]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = yardctl_with(&format!("--hub {} apply -f - --wait converged -o json", hub.url), TWO).await;
    assert_eq!(ran.code, 8, "{ran:?}");
    assert_eq!(ran.json()["results"][0]["wait"]["outcome"], "reached");
    assert_eq!(ran.json()["results"][1]["wait"]["outcome"], "superseded");
}

#[tokio::test]
async fn apply_refuses_one_request_id_for_several_documents_and_nothing_to_apply() {
    for (line, stdin) in [
        ("apply -f - --request-id r-1", TWO),
        ("apply -f - --expected-version 2", TWO),
        ("apply -f -", "---\n# nothing\n"),
        ("apply -f /nonexistent/policy.yaml", ""),
    ] {
        let ran = yardctl_with(line, stdin).await;
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert!(ran.err.contains("remedy: "), "{line}: {ran:?}");
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_refused_and_the_others_are_applied() {
    let hub = Hub::start(Script { apply: queue([applied(pb::ApplyOutcome::Created)]), ..Script::default() }).await;
    let text = "metadata: {name: [\n---\nmetadata: {name: checkout}\n";
    let ran = yardctl_with(&format!("--hub {} apply -f -", hub.url), text).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("not readable as YAML or JSON"), "{ran:?}");
    assert!(ran.out.contains("shop/checkout created"), "{ran:?}");
}

#[tokio::test]
async fn lists_follow_the_pages_to_the_end() {
    let page = |token: &str| {
        Answer::Ok(pb::ListPoliciesResponse { policies: vec![policy(3, 3)], next_page_token: token.into() })
    };
    let hub = Hub::start(Script { list: queue([page("p2"), page("p3"), page("")]), ..Script::default() }).await;
    let ran = hub.yardctl("get policies -o json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["policies"].as_array().map(Vec::len), Some(3));
    let tokens: Vec<String> = hub.seen.list.lock().unwrap().iter().map(|seen| seen.page_token.clone()).collect();
    assert_eq!(tokens, ["", "p2", "p3"]);
}

#[tokio::test]
async fn endpoints_are_filtered_by_service_cluster_namespace_and_readiness() {
    let endpoint =
        |address: &str, ready| pb::EndpointInfo { address: address.into(), port: 80, ready, ..Default::default() };
    let answer = pb::ListEndpointsResponse {
        endpoints: vec![endpoint("10.0.0.1", true), endpoint("10.0.0.2", false)],
        next_page_token: String::new(),
    };
    let hub = Hub::start(Script { endpoints: queue([Answer::Ok(answer)]), ..Script::default() }).await;
    let ran = hub.yardctl("-n shop get endpoints checkout --cluster blue --unready").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("10.0.0.2:80") && !ran.out.contains("10.0.0.1:80"), "{ran:?}");
    let seen = hub.seen.endpoints.lock().unwrap();
    assert_eq!((&*seen[0].cluster, &*seen[0].namespace, &*seen[0].service), ("blue", "shop", "checkout"));
}

#[tokio::test]
async fn a_cluster_that_is_not_known_is_not_found_and_the_known_ones_are_named() {
    let cluster = pb::Cluster { name: "blue".into(), ..Default::default() };
    let answer = || Answer::Ok(pb::ListClustersResponse { clusters: vec![cluster.clone()] });
    let hub = Hub::start(Script { clusters: queue([answer(), answer()]), ..Script::default() }).await;
    let ran = hub.yardctl("get clusters green").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("known are: blue"), "{ran:?}");
    let ran = hub.yardctl("get cluster blue -o yaml").await;
    assert!(ran.code == 0 && ran.out.contains("name: blue"), "{ran:?}");
}

#[tokio::test]
async fn status_shows_the_page_and_a_missing_policy_is_not_found() {
    let script = Script {
        get: queue([
            Answer::Ok(pb::GetPolicyResponse { policy: Some(policy(7, 3)) }),
            Answer::Refuse(Status::not_found("no policy shop/none")),
        ]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("status shop/checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout  "), "{ran:?}");
    assert!(ran.out.contains("HELD OR WAITING\n  green: RemovalsHeld: 1 of 2 targets of green are held"), "{ran:?}");
    assert!(!ran.out.contains('\u{1b}'), "no colours away from a terminal: {ran:?}");
    let ran = hub.yardctl("status shop/none").await;
    assert_eq!(ran.code, 4, "{ran:?}");
}

fn watched() -> Script {
    Script {
        watch: queue([
            Answer::Ok(vec![present(policy(7, 1)), Beat::Synced, changed(policy(7, 2))]),
            Answer::Ok(vec![
                present(policy(7, 3)),
                Beat::Synced,
                Beat::Event(pb::WatchEvent::Deleted, Box::new(policy(8, 0))),
            ]),
        ]),
        ..Script::default()
    }
}

#[tokio::test]
async fn a_watch_away_from_a_terminal_prints_one_line_with_the_time_for_each_change() {
    let hub = Hub::start(watched()).await;
    let ran = hub.yardctl("status shop/checkout --watch").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.lines().all(|line| line.get(19..21) == Some("Z ")), "{ran:?}");
    let said = |text: &str| ran.out.lines().filter(|line| line.contains(text)).count();
    assert_eq!(said("Programmed is True"), 1, "{ran:?}");
    assert_eq!(said("Converged is True"), 1, "{ran:?}");
    assert_eq!(said("Accepted is True"), 1, "told once although the watch was opened twice: {ran:?}");
    assert_eq!(said("shop/checkout was deleted"), 1, "{ran:?}");
}

#[tokio::test]
async fn a_watch_in_json_prints_one_object_a_line() {
    let hub = Hub::start(watched()).await;
    let ran = hub.yardctl("status shop/checkout --watch -o json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let events: Vec<String> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["present", "synced", "changed", "present", "synced", "deleted"]);
}

#[tokio::test]
async fn a_watch_of_what_is_not_there_ends_as_not_found() {
    for watch in [Answer::Ok(vec![Beat::Synced, Beat::Hold]), Answer::Refuse(Status::not_found("none"))] {
        let hub = Hub::start(Script { watch: queue([watch]), ..Script::default() }).await;
        let ran = hub.yardctl("status shop/none --watch").await;
        assert_eq!(ran.code, 4, "{ran:?}");
    }
}

#[tokio::test]
async fn a_delete_waits_until_the_policy_is_gone() {
    let mut deleting = policy(8, 1);
    deleting.deleting_since = deleting.created_at;
    let script = Script {
        delete: queue([Answer::Ok(pb::DeletePolicyResponse { policy: Some(deleting.clone()) })]),
        watch: queue([Answer::Ok(vec![
            present(deleting.clone()),
            Beat::Synced,
            Beat::Event(pb::WatchEvent::Deleted, Box::new(deleting)),
        ])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("delete policy shop/checkout --wait --expected-version 7 --reason closed").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout marked for deletion (version 8"), "{ran:?}");
    assert!(ran.out.ends_with(", deleted reached\n"), "{ran:?}");
    let seen = hub.seen.delete.lock().unwrap();
    assert_eq!((seen[0].expected_version, seen[0].reason.as_str()), (7, "closed"));
}

#[tokio::test]
async fn a_delete_that_hands_the_policy_over_says_to_whom_and_waits_for_nothing() {
    let owner = pb::PolicyOwner {
        kind: pb::OwnerKind::Cluster.into(),
        cluster: "blue".to_owned(),
        generation: 2,
        generation_in_force: 2,
        ..pb::PolicyOwner::default()
    };
    let passed = pb::Policy { owner: Some(owner), ..policy(7, 1) };
    let script = Script {
        delete: queue([Answer::Ok(pb::DeletePolicyResponse { policy: Some(passed.clone()) })]),
        list: queue([Answer::Ok(pb::ListPoliciesResponse { policies: vec![passed], next_page_token: String::new() })]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("delete policy shop/checkout --wait").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("shop/checkout handed over to the resource in cluster blue"), "{ran:?}");
    let ran = hub.yardctl("get policies").await;
    assert!(ran.code == 0 && ran.out.contains("shop       checkout  blue "), "{ran:?}");
}

#[tokio::test]
async fn a_plan_of_all_can_be_cut_to_one_namespace() {
    let answer = || Answer::Ok(pb::GetPlanResponse { plan: Some(plan()) });
    let hub = Hub::start(Script { plan: queue([answer(), answer()]), ..Script::default() }).await;
    let ran = hub.yardctl("plan").await;
    assert!(ran.code == 0 && ran.out.contains("ModifyRule"), "{ran:?}");
    let ran = hub.yardctl("plan -n other").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "Nothing to do at the load balancer.\n"), "{ran:?}");
}

#[tokio::test]
async fn completion_version_and_help_need_no_hub() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = yardctl_with(&format!("completion {shell}"), "").await;
        assert!(ran.code == 0 && ran.out.contains("yardctl"), "{shell}: {ran:?}");
    }
    let ran = yardctl_with("version -o json", "").await;
    assert_eq!((ran.code, ran.json()["yardctl"].as_str()), (0, Some(env!("CARGO_PKG_VERSION"))));
    let ran = yardctl_with("--help", "").await;
    assert!(ran.code == 0 && ran.out.contains("8  superseded by another change"), "{ran:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_make_it_panic() {
    let many = pb::ListPoliciesResponse {
        // More than the 64 KiB that a pipe holds, so that the writer meets the closed end.
        policies: (0..2000).map(|version| policy(version, 3)).collect(),
        next_page_token: String::new(),
    };
    let hub = Hub::start(Script { list: queue([Answer::Ok(many)]), ..Script::default() }).await;
    let mut child = command(&format!("--hub {} get policies -o json", hub.url)).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
