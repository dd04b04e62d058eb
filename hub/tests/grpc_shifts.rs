//! ShiftService over real gRPC and a real Postgres: making, showing, listing and commanding shifts, and every refusal.

mod grpc_support;
mod rights_support;
mod shift_support;
mod store_support;

use std::collections::BTreeSet;

use grpc_support::{Hub, Setup, eventually, hub, hub_set_up, manifest, policy_ref, weights};
use prost::Message;
use rights_support::{Port, bindings};
use shift_support::{
    abort, create, create_request, drive, flip, get, map, request_id, requested, status, steps, target, turn,
};
use switchyard_proto::api::v1::{self as api, ShiftState, shift_service_client::ShiftServiceClient};
use tonic::{Code, Status};

fn violations(status: &Status) -> Vec<api::Violation> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    api::Violations::decode(status.details()).unwrap().violations
}

fn findings(status: &Status) -> Vec<api::GuardFinding> {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    api::Findings::decode(status.details()).unwrap().findings
}

/// Policies with all traffic on blue.
async fn hub_with(names: &[&str]) -> Hub {
    let hub = hub().await;
    for name in names {
        hub.apply(&manifest(name, &[("blue", 100), ("green", 0)])).await.unwrap();
    }
    hub
}

/// The policy with safety rules.
fn guarded(name: &str, safety: &str) -> String {
    format!("{}  safety: {safety}\n", manifest(name, &[("blue", 100), ("green", 0)]))
}

#[tokio::test]
async fn a_shift_is_made_shown_and_moved_to_its_end() {
    let hub = hub_with(&["web"]).await;
    let made = create(&hub, flip("web", "green")).await.unwrap();
    assert_eq!((status(&made).state(), made.version), (ShiftState::Pending, 1));
    assert_eq!(made.actor, "development");
    let shown = get(&hub, &made.id).await.unwrap();
    assert_eq!(shown, made);
    let one = &status(&shown).moves[0];
    assert_eq!(one.from, weights(&[("blue", 100), ("green", 0)]));
    assert_eq!(one.to, weights(&[("blue", 0), ("green", 100)]));
    assert_eq!(one.present, one.from, "nothing was moved yet");
    assert_eq!(one.programmed, weights(&[]), "nothing is known of AWS");
    let strategy = shown.spec.as_ref().unwrap().strategy.as_ref().unwrap();
    assert_eq!(strategy.steps.iter().map(|step| step.percent).collect::<Vec<_>>(), [100]);
    assert_eq!(status(&shown).notes[0].reason, "OpenStreams");

    let done = drive(&hub, &made.id).await;
    let done = (&done, status(&done));
    assert_eq!((done.1.state(), done.1.reason.as_str()), (ShiftState::Succeeded, "Converged"));
    assert!(done.1.programmed && done.1.converged && done.1.ended_at.is_some());
    assert_eq!((done.1.step, done.1.steps), (1, 1));
    assert_eq!(done.1.moves[0].programmed, weights(&[("blue", 0), ("green", 100)]));
    let mut states: Vec<ShiftState> = done.1.history.iter().map(api::ShiftEvent::state).collect();
    states.dedup();
    use ShiftState::{Baking, Converging, Pending, Preflight, Stepping, Succeeded};
    assert_eq!(states, [Pending, Preflight, Stepping, Baking, Converging, Succeeded]);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 0), ("green", 100)]));
    hub.stop().await;
}

#[tokio::test]
async fn fifty_equal_requests_at_once_make_one_shift() {
    let hub = hub_with(&["web"]).await;
    let request = create_request(flip("web", "green"));
    let calls = (0..50).map(|_| {
        let (mut client, request) = (hub.shifts(), request.clone());
        async move { client.create_shift(request).await.unwrap().into_inner().shift.unwrap() }
    });
    let ids: BTreeSet<String> = futures::future::join_all(calls).await.into_iter().map(|shift| shift.id).collect();
    assert_eq!(ids.len(), 1);
    let list = hub.shifts().list_shifts(api::ListShiftsRequest::default()).await.unwrap().into_inner().shifts;
    assert_eq!(list.len(), 1);
    let other = api::CreateShiftRequest { spec: Some(flip("web", "blue")), ..request };
    let refused = hub.shifts().create_shift(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let without = api::CreateShiftRequest { request_id: String::new(), ..create_request(flip("web", "green")) };
    let refused = hub.shifts().create_shift(without).await.unwrap_err();
    assert_eq!(violations(&refused)[0].field, "request_id");
    hub.stop().await;
}

#[tokio::test]
async fn a_stale_version_is_refused_with_the_present_one_and_the_policys_name() {
    let hub = hub_with(&["web", "api"]).await;
    let seen = |expected_version| api::ShiftPolicy { expected_version, ..target("web", "green") };
    let spec = |version| api::ShiftSpec { policies: vec![target("api", "green"), seen(version)], ..Default::default() };
    for dry_run in [false, true] {
        hub.aws_was_read();
        let request = api::CreateShiftRequest { dry_run, ..create_request(spec(7)) };
        let refused = hub.shifts().create_shift(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
        assert!(refused.message().contains("policy shop/web is at version 1, not at 7"), "{refused:?}");
        let conflict = api::VersionConflict::decode(refused.details()).unwrap();
        assert_eq!((conflict.expected_version, conflict.present_version), (7, 1));
    }
    create(&hub, spec(1)).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn a_policy_is_moved_by_one_shift_at_a_time_and_by_nobody_else() {
    let hub = hub_with(&["web", "api"]).await;
    hub.aws_was_read();
    let first = create(&hub, steps("web", "green", &[(5, true), (100, false)])).await.unwrap();
    let first = drive(&hub, &first.id).await;
    assert_eq!(status(&first).state(), ShiftState::AwaitingApproval);
    let both = api::ShiftSpec { policies: vec![target("api", "green"), target("web", "blue")], ..Default::default() };
    for dry_run in [false, true] {
        let request = api::CreateShiftRequest { dry_run, ..create_request(both.clone()) };
        let refused = hub.shifts().create_shift(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let id = &first.id;
        for part in [
            format!("policy shop/web is moved by shift {id} (AwaitingApproval, step 1 of 2)"),
            "by development".to_owned(),
            format!("yardctl watch {id}"),
            format!("yardctl abort {id}"),
        ] {
            assert!(refused.message().contains(&part), "{part} is not in {refused:?}");
        }
        let set = api::SetWeightsRequest {
            request_id: request_id(),
            policy: Some(policy_ref("web")),
            weights: weights(&[("green", 50)]),
            dry_run,
            ..Default::default()
        };
        let refused = hub.policies().set_weights(set).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(&format!("yardctl abort {id}")), "{refused:?}");
    }
    assert_eq!(requested(&hub, "api").await, map(&[("blue", 100), ("green", 0)]));
    abort(&hub, &first.id).await.unwrap();
    drive(&hub, &first.id).await;
    create(&hub, both).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_every_fault_and_a_remedy() {
    let hub = hub_with(&["web"]).await;
    let gate = api::Gate {
        name: "errors".to_owned(),
        prometheus: Some(api::PrometheusGate { source: "elsewhere".to_owned(), query: "up".to_owned() }),
        ..Default::default()
    };
    let spec = api::ShiftSpec {
        gates: vec![gate],
        overrides: vec!["MaxStepPercent".to_owned()],
        progress_deadline_seconds: 1,
        ..steps("web", "green", &[(50, false), (20, false)])
    };
    let refused = create(&hub, spec).await.unwrap_err();
    let found = violations(&refused);
    for (field, remedy) in [
        ("spec.gates[0].prometheus.source", "use one of main"),
        ("spec.gates[0].success", "say which values"),
        ("spec.strategy.steps[1].percent", "rise"),
        ("spec.reason", "say why"),
        ("spec.progressDeadlineSeconds", "30 to 86400"),
    ] {
        let named = found.iter().find(|violation| violation.field == field && violation.remedy.contains(remedy));
        assert!(named.is_some(), "{field} is not in {found:#?}");
    }
    let unknown = create(&hub, flip("web", "red")).await.unwrap_err();
    assert_eq!(
        violations(&unknown)[0].remedy,
        "name one of blue, green, or add the cluster to the policy's spec.clusters"
    );
    let missing = create(&hub, flip("none", "green")).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "there is no policy shop/none"));
    let nothing = hub.shifts().create_shift(api::CreateShiftRequest::default()).await.unwrap_err();
    assert_eq!(violations(&nothing)[0].field, "spec.policies");
    hub.delete("web").await.unwrap();
    let deleting = create(&hub, flip("web", "green")).await.unwrap_err();
    assert_eq!(deleting.code(), Code::FailedPrecondition);
    hub.stop().await;
}

#[tokio::test]
async fn safety_rules_stand_in_the_way_of_everybody_and_are_crossed_by_those_with_the_right() {
    let (access, _file) =
        bindings("{role: operator, namespaces: [shop], clusters: ['*'], subjects: [{certificate: {commonName: ann}}]}");
    let hub = hub_set_up(&store_support::database_url().await, Setup { access, ..Setup::default() }).await;
    let mut ann = ShiftServiceClient::new(Port::caller(hub.routes.clone(), "ann"));
    hub.apply(&guarded("web", "{maxStepPercent: 50}")).await.unwrap();
    let refused = ann.create_shift(create_request(flip("web", "green"))).await.unwrap_err();
    let found = findings(&refused);
    assert_eq!((found[0].guard.as_str(), found[0].step, found[0].overridable), ("MaxStepPercent", 1, true));
    assert!(refused.message().contains("spec.safety.maxStepPercent allows 50"), "{refused:?}");
    assert!(refused.message().ends_with("a shift may override MaxStepPercent with a reason and the right to do so"));

    let crossing = || api::ShiftSpec {
        overrides: vec!["MaxStepPercent".to_owned()],
        reason: "blue burns".to_owned(),
        ..flip("web", "green")
    };
    for dry_run in [false, true] {
        let request = api::CreateShiftRequest { dry_run, ..create_request(crossing()) };
        let refused = ann.create_shift(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        for part in
            ["certificate:CN=ann", "may not override MaxStepPercent", "operator with overrides", "yardctl whoami"]
        {
            assert!(refused.message().contains(part), "{part} is not in {refused:?}");
        }
    }
    let silent = api::ShiftSpec { reason: String::new(), ..crossing() };
    assert_eq!(violations(&create(&hub, silent).await.unwrap_err())[0].field, "spec.reason");
    let made = create(&hub, crossing()).await.unwrap();
    let done = drive(&hub, &made.id).await;
    assert_eq!(status(&done).state(), ShiftState::Succeeded);
    assert!(status(&done).history.iter().any(|event| event.message.contains("crossed on purpose")));

    // SetWeights crosses nothing, whoever asks; a dry run says the same.
    for dry_run in [false, true] {
        hub.aws_was_read();
        let set = api::SetWeightsRequest {
            request_id: request_id(),
            policy: Some(policy_ref("web")),
            weights: weights(&[("blue", 100), ("green", 0)]),
            dry_run,
            ..Default::default()
        };
        let refused = hub.policies().set_weights(set).await.unwrap_err();
        assert_eq!(findings(&refused)[0].guard, "MaxStepPercent");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_frozen_policy_is_not_moved_and_nobody_overrides_that() {
    let hub = hub().await;
    hub.apply(&guarded("web", "{freeze: true}")).await.unwrap();
    let refused = create(&hub, flip("web", "green")).await.unwrap_err();
    assert_eq!((findings(&refused)[0].guard.as_str(), findings(&refused)[0].overridable), ("Freeze", false));
    assert!(!refused.message().contains("may override"), "{refused:?}");
    let crossing = api::ShiftSpec { overrides: vec!["Freeze".to_owned()], reason: "x".into(), ..flip("web", "green") };
    let refused = create(&hub, crossing).await.unwrap_err();
    assert!(violations(&refused)[0].problem.contains("it is a fact"), "{refused:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_shift_is_paused_resumed_approved_promoted_and_refuses_what_does_not_fit() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(5, true), (75, true), (100, false)])).await.unwrap().id;
    let pause = || api::PauseShiftRequest { request_id: request_id(), id: id.clone(), reason: "lunch".to_owned() };
    let resume = || api::ResumeShiftRequest { request_id: request_id(), id: id.clone(), ..Default::default() };
    let approve =
        |step| api::ApproveShiftRequest { request_id: request_id(), id: id.clone(), step, ..Default::default() };
    let early = hub.shifts().approve_shift(approve(0)).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    assert!(early.message().contains("is Pending and waits for no approval"), "{early:?}");

    let paused = hub.shifts().pause_shift(pause()).await.unwrap().into_inner().shift.unwrap();
    let hold = status(&paused).paused.as_ref().unwrap();
    assert_eq!((hold.actor.as_str(), hold.reason.as_str()), ("development", "lunch"));
    assert_eq!(status(&drive(&hub, &id).await).state(), ShiftState::Pending, "nothing moves in a pause");
    let resumed = hub.shifts().resume_shift(resume()).await.unwrap().into_inner().shift.unwrap();
    assert_eq!(status(&resumed).paused, None);

    let waits = drive(&hub, &id).await;
    assert_eq!((status(&waits).state(), status(&waits).step), (ShiftState::AwaitingApproval, 1));
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 95), ("green", 5)]));
    let late = hub.shifts().approve_shift(approve(2)).await.unwrap_err();
    assert!(late.message().contains("step 2 is not the one that waits for approval, step 1 is"), "{late:?}");
    hub.shifts().approve_shift(approve(1)).await.unwrap();
    let waits = drive(&hub, &id).await;
    assert_eq!((status(&waits).state(), status(&waits).step), (ShiftState::AwaitingApproval, 2));

    let promote = api::PromoteShiftRequest { request_id: request_id(), id: id.clone(), ..Default::default() };
    hub.shifts().promote_shift(promote).await.unwrap();
    assert_eq!(status(&drive(&hub, &id).await).state(), ShiftState::Succeeded);
    let over = hub.shifts().pause_shift(pause()).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
    assert!(over.message().contains("has ended (Succeeded)"), "{over:?}");
    let nobody = api::PauseShiftRequest { id: "none".to_owned(), ..pause() };
    assert_eq!(hub.shifts().pause_shift(nobody).await.unwrap_err().code(), Code::NotFound);
    let nameless = api::PauseShiftRequest { id: String::new(), ..pause() };
    assert_eq!(violations(&hub.shifts().pause_shift(nameless).await.unwrap_err())[0].field, "id");
    for reason in ["x".repeat(1025), "a\0b".to_owned()] {
        let odd = api::PauseShiftRequest { reason, ..pause() };
        assert_eq!(violations(&hub.shifts().pause_shift(odd).await.unwrap_err())[0].field, "reason");
    }
    hub.stop().await;
}

#[tokio::test]
async fn an_abort_is_in_force_as_soon_as_it_is_answered_and_is_repeated_without_harm() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(20, true), (100, false)])).await.unwrap().id;
    drive(&hub, &id).await;
    let request = api::AbortShiftRequest { request_id: request_id(), id: id.clone(), reason: "errors".to_owned() };
    let aborting = hub.shifts().abort_shift(request.clone()).await.unwrap().into_inner().shift.unwrap();
    assert_eq!(status(&aborting).state(), ShiftState::Aborting);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    let paused = api::PauseShiftRequest { request_id: request_id(), id: id.clone(), ..Default::default() };
    let refused = hub.shifts().pause_shift(paused).await.unwrap_err();
    assert!(refused.message().contains("on its way back"), "{refused:?}");
    let done = drive(&hub, &id).await;
    assert_eq!((status(&done).state(), status(&done).reason.as_str()), (ShiftState::Aborted, "Restored"));
    let again = hub.shifts().abort_shift(request).await.unwrap().into_inner().shift.unwrap();
    assert_eq!(status(&again).state(), ShiftState::Aborting, "the first answer");
    hub.stop().await;
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_by_policy_namespace_and_activity() {
    let hub = hub_with(&["a", "b", "c", "d"]).await;
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d"] {
        made.push(create(&hub, flip(name, "green")).await.unwrap().id);
    }
    drive(&hub, &made[0]).await;
    let list = async |request: api::ListShiftsRequest| {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let request = api::ListShiftsRequest { page_size: 3, page_token: token, ..request.clone() };
            let page = hub.shifts().list_shifts(request).await.unwrap().into_inner();
            assert!(page.shifts.len() <= 3);
            seen.extend(page.shifts.into_iter().map(|shift| shift.id));
            token = page.next_page_token;
            if token.is_empty() {
                return seen;
            }
        }
    };
    let newest: Vec<String> = made.iter().rev().cloned().collect();
    assert_eq!(list(api::ListShiftsRequest::default()).await, newest);
    let active = api::ListShiftsRequest { active: true, ..Default::default() };
    assert_eq!(list(active).await, newest[..3]);
    let of_a = api::ListShiftsRequest { policy: Some(policy_ref("a")), ..Default::default() };
    assert_eq!(list(of_a).await, made[..1]);
    let elsewhere = api::ListShiftsRequest { namespace: "other".to_owned(), ..Default::default() };
    assert!(list(elsewhere).await.is_empty());
    for bad in [
        api::ListShiftsRequest { page_token: "zz".to_owned(), ..Default::default() },
        api::ListShiftsRequest { page_size: 201, ..Default::default() },
        api::ListShiftsRequest { namespace: "Shop".to_owned(), ..Default::default() },
    ] {
        violations(&hub.shifts().list_shifts(bad).await.unwrap_err());
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_page_of_large_shifts_ends_before_it_is_too_large_to_arrive() {
    let names: Vec<String> = (0..14).map(|i| format!("p{i}")).collect();
    let hub = hub_with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let gate = |i: usize| api::Gate {
        name: format!("g{i}"),
        prometheus: Some(api::PrometheusGate { source: "main".to_owned(), query: "x".repeat(4000) }),
        success: "> 0".to_owned(),
        ..Default::default()
    };
    for name in &names {
        let linear = api::LinearStrategy { step_percent: 20, bake_seconds: 0 };
        let spec = api::ShiftSpec {
            gates: (0..12).map(gate).collect(),
            strategy: Some(api::ShiftStrategy { linear: Some(linear), ..Default::default() }),
            ..flip(name, "green")
        };
        create(&hub, spec).await.unwrap();
    }
    let (mut seen, mut pages, mut token) = (BTreeSet::new(), 0, String::new());
    loop {
        let request = api::ListShiftsRequest { page_size: 200, page_token: token, ..Default::default() };
        let page = hub.shifts().list_shifts(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < 3 * 1024 * 1024);
        pages += 1;
        seen.extend(page.shifts.into_iter().map(|shift| shift.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (14, 2));
    hub.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_running_shifts_are_shown_from_memory_and_commands_are_refused() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(5, true), (100, false)])).await.unwrap().id;
    drive(&hub, &id).await;
    hub.store.close().await;
    let list = hub.shifts().list_shifts(api::ListShiftsRequest::default()).await.unwrap().into_inner().shifts;
    assert_eq!(list.iter().map(|shift| shift.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    assert_eq!(status(&get(&hub, &id).await.unwrap()).state(), ShiftState::AwaitingApproval);
    let refused = abort(&hub, &id).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("retry with the same request id"), "{refused:?}");
    let old = get(&hub, "0190a8b0-0000-7000-8000-000000000000").await.unwrap_err();
    assert_eq!(old.code(), Code::Unavailable);
    hub.stop().await;
}

#[tokio::test]
async fn a_new_spec_with_other_weights_supersedes_the_shift_and_says_so() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(5, true), (100, false)])).await.unwrap().id;
    drive(&hub, &id).await;
    hub.apply(&manifest("web", &[("blue", 60), ("green", 40)])).await.unwrap();
    let ended = eventually("the end of the shift", async || {
        turn(&hub, &id).await;
        let shift = get(&hub, &id).await.unwrap();
        (status(&shift).state() == ShiftState::Superseded).then_some(shift)
    })
    .await;
    assert_eq!(status(&ended).moves[0].present, weights(&[]), "the shift asks for nothing any more");
    assert!(status(&ended).history.iter().any(|event| event.reason == "PolicyChanged"));
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 60), ("green", 40)]));
    hub.stop().await;
}

/// Every method of the API's services is in the metrics under its own name, whatever came of the call.
#[tokio::test]
async fn every_call_is_counted_under_its_own_name() {
    let hub = hub_with(&["web"]).await;
    let mut methods = Vec::new();
    let set = prost_types::FileDescriptorSet::decode(switchyard_proto::FILE_DESCRIPTOR_SET).unwrap();
    for file in set.file.iter().filter(|file| file.package() == "switchyard.api.v1") {
        for service in &file.service {
            let names = service.method.iter().map(|method| method.name().to_owned());
            methods.extend(names.map(|name| (format!("/{}.{}/{name}", file.package(), service.name()), name)));
        }
    }
    assert!(methods.len() >= 22, "{methods:?}");
    for (path, name) in &methods {
        // An empty message: refused by most, and counted all the same.
        let mut client = tonic::client::Grpc::new(hub.channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<api::ListShiftsRequest, api::ListShiftsResponse>::default();
        let path = path.parse().unwrap();
        let request = tonic::Request::new(api::ListShiftsRequest::default());
        let answer = client.server_streaming(request, path, codec).await;
        drop(answer);
        let counted = format!(r#"grpc_calls_total{{operation="{name}","#);
        eventually(name, async || hub.metrics.encoded().unwrap().contains(&counted).then_some(())).await;
    }
    hub.stop().await;
}
