//! Following shifts (WatchShift), taking them back (RollbackShift) and looking ahead (dry runs), over real gRPC and a real Postgres.

mod grpc_support;
mod shift_support;
mod store_support;

use std::time::Duration;

use grpc_support::{Hub, PATIENCE, eventually, hub, hub_on, manifest, policy_ref, weights};
use jiff::Timestamp;
use prost::Message;
use shift_support::{
    abort, create, create_request, drive, drive_at, flip, get, map, request_id, requested, status, steps, target, turn,
};
use switchyard_proto::api::v1::{self as api, ShiftState};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

fn violations(status: &Status) -> Vec<api::Violation> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    api::Violations::decode(status.details()).unwrap().violations
}

/// Policies with all traffic on blue.
async fn hub_with(names: &[&str]) -> Hub {
    let hub = hub().await;
    for name in names {
        hub.apply(&manifest(name, &[("blue", 100), ("green", 0)])).await.unwrap();
    }
    hub
}

async fn watch(hub: &Hub, id: &str) -> Result<Streaming<api::WatchShiftResponse>, Status> {
    let request = api::WatchShiftRequest { id: id.to_owned() };
    Ok(hub.shifts().watch_shift(request).await?.into_inner())
}

/// The next thing that the watcher hears; none: the stream ended.
async fn next(stream: &mut Streaming<api::WatchShiftResponse>) -> Option<api::Shift> {
    timeout(PATIENCE, stream.message()).await.expect("nothing is told").unwrap().map(|told| told.shift.unwrap())
}

#[tokio::test]
async fn a_watch_gives_the_present_then_each_change_and_ends_with_the_shift() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(75, true), (100, false)])).await.unwrap().id;
    let mut stream = watch(&hub, &id).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    assert_eq!((first.version, status(&first).state()), (1, ShiftState::Pending));
    let mut seen = vec![ShiftState::Pending];
    while turn(&hub, &id).await.1 {
        let told = next(&mut stream).await.unwrap();
        seen.push(status(&told).state());
    }
    assert_eq!(seen.last(), Some(&ShiftState::AwaitingApproval));
    let approve = api::ApproveShiftRequest { request_id: request_id(), id: id.clone(), step: 1, ..Default::default() };
    hub.shifts().approve_shift(approve).await.unwrap();
    drive(&hub, &id).await;
    let mut last = None;
    while let Some(told) = next(&mut stream).await {
        let version = told.version;
        assert!(last.replace(told).is_none_or(|before: api::Shift| before.version <= version));
    }
    let last = last.unwrap();
    assert_eq!(status(&last).state(), ShiftState::Succeeded);
    assert_eq!(last, get(&hub, &id).await.unwrap());

    // Whoever comes too late hears the end at once.
    let mut late = watch(&hub, &id).await.unwrap();
    assert_eq!(next(&mut late).await.unwrap(), last);
    assert_eq!(next(&mut late).await, None);
    hub.stop().await;
}

#[tokio::test]
async fn a_slow_watcher_skips_to_the_latest() {
    let hub = hub_with(&["web"]).await;
    let percents: Vec<(u32, bool)> = (1..=50).map(|i| (i * 2, false)).collect();
    let id = create(&hub, steps("web", "green", &percents)).await.unwrap().id;
    let mut stream = watch(&hub, &id).await.unwrap();
    // Nobody reads. Flow control lets through what fits into the connection's window; the hub holds one more and no others.
    let done = drive(&hub, &id).await;
    assert!(done.version > 50, "{}", done.version);
    let mut told = Vec::new();
    while let Some(shift) = next(&mut stream).await {
        told.push(shift.version);
    }
    assert_eq!(told.last(), Some(&done.version));
    assert!(told.is_sorted(), "{told:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_watch_of_nothing_is_refused_and_a_watch_ends_with_the_hub() {
    let hub = hub_with(&["web"]).await;
    let nobody = watch(&hub, "none").await.unwrap_err();
    assert_eq!(nobody.code(), Code::NotFound);
    assert!(nobody.message().contains("there is no shift none") && nobody.message().contains("yardctl"), "{nobody:?}");
    assert_eq!(violations(&watch(&hub, "").await.unwrap_err())[0].field, "id");
    let id = create(&hub, flip("web", "green")).await.unwrap().id;
    let mut stream = watch(&hub, &id).await.unwrap();
    next(&mut stream).await.unwrap();
    hub.stop().await;
    assert_eq!(timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_one_replica_is_told_the_other_ones_watchers_hear() {
    let first = hub_with(&["web"]).await;
    let second = hub_on(&first.url).await;
    let id = create(&first, steps("web", "green", &[(5, true), (100, false)])).await.unwrap().id;
    // At once: the second replica may not have read the store since.
    let mut stream = watch(&second, &id).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().version, 1);
    abort(&first, &id).await.unwrap();
    let told = next(&mut stream).await.unwrap();
    assert_eq!(status(&told).state(), ShiftState::Aborted, "nothing was moved, so there is nothing to wait for");
    assert_eq!(next(&mut stream).await, None);
    first.stop().await;
    second.stop().await;
}

fn back(policy: &str) -> api::RollbackShiftRequest {
    api::RollbackShiftRequest { request_id: request_id(), policy: Some(policy_ref(policy)), ..Default::default() }
}

fn back_of(id: &str) -> api::RollbackShiftRequest {
    api::RollbackShiftRequest { request_id: request_id(), id: id.to_owned(), ..Default::default() }
}

async fn roll(hub: &Hub, request: api::RollbackShiftRequest) -> Result<api::Shift, Status> {
    Ok(hub.shifts().rollback_shift(request).await?.into_inner().shift.unwrap())
}

#[tokio::test]
async fn a_running_shift_is_taken_back_by_its_policys_name_and_a_repetition_does_nothing() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, steps("web", "green", &[(75, true), (100, false)])).await.unwrap().id;
    drive(&hub, &id).await;
    hub.aws_was_read();
    let dry = api::RollbackShiftRequest { dry_run: true, ..back("web") };
    let dry = hub.shifts().rollback_shift(dry).await.unwrap().into_inner();
    assert_eq!(status(&dry.shift.unwrap()).state(), ShiftState::Aborting);
    assert_eq!(dry.plans.len(), 1);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 25), ("green", 75)]), "a dry run moves nothing");

    let request = api::RollbackShiftRequest { reason: "errors".to_owned(), ..back("web") };
    let going = roll(&hub, request.clone()).await.unwrap();
    assert_eq!((going.id.as_str(), status(&going).state()), (id.as_str(), ShiftState::Aborting));
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    drive(&hub, &id).await;
    let again = roll(&hub, request.clone()).await.unwrap();
    assert_eq!((again.id, again.version), (going.id, going.version), "the first answer");
    hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap();
    let other = api::RollbackShiftRequest { policy: Some(policy_ref("api")), ..request };
    assert_eq!(roll(&hub, other).await.unwrap_err().code(), Code::AlreadyExists);
    hub.stop().await;
}

#[tokio::test]
async fn a_finished_shift_is_taken_back_by_a_new_one_and_a_repetition_does_not_take_that_back() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, flip("web", "green")).await.unwrap().id;
    drive(&hub, &id).await;
    let request = back("web");
    let made = roll(&hub, request.clone()).await.unwrap();
    assert_eq!((made.rollback_of.as_str(), status(&made).state()), (id.as_str(), ShiftState::Pending));
    // The policy's running shift is now the rollback itself.
    let again = roll(&hub, request).await.unwrap();
    assert_eq!(again.id, made.id);
    let done = drive(&hub, &made.id).await;
    assert_eq!(status(&done).state(), ShiftState::Succeeded);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    // Whoever types the same again does not bring the version up that was taken back.
    let refused = roll(&hub, back("web")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("yardctl rollback {}", made.id)), "{}", refused.message());
    // Taking the rollback back on purpose is a way forward, and waits for every rule.
    // A flip to where the traffic is already is nothing to take back, and hides nothing.
    let again = create(&hub, flip("web", "blue")).await.unwrap().id;
    drive(&hub, &again).await;
    let still = roll(&hub, back("web")).await.unwrap_err();
    assert!(still.message().contains(&made.id), "{}", still.message());
    let by_id = api::RollbackShiftRequest { policy: None, id: made.id.clone(), ..back("web") };
    let forward = roll(&hub, by_id).await.unwrap();
    assert_eq!(forward.rollback_of, "");
    assert_eq!(status(&forward).moves[0].to, weights(&[("blue", 0), ("green", 100)]));
    hub.stop().await;
}

#[tokio::test]
async fn twenty_equal_rollbacks_at_once_make_one_shift_and_none_takes_it_back() {
    let hub = hub_with(&["web"]).await;
    let id = create(&hub, flip("web", "green")).await.unwrap().id;
    drive(&hub, &id).await;
    let request = back("web");
    let calls = (0..20).map(|_| roll(&hub, request.clone()));
    let answers: Vec<api::Shift> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|shift| shift.id == answers[0].id && shift.rollback_of == id));
    assert_eq!(status(&get(&hub, &answers[0].id).await.unwrap()).state(), ShiftState::Pending);
    hub.stop().await;
}

#[tokio::test]
async fn for_a_day_a_rollback_does_not_wait_for_rules_that_slow_down_and_later_it_does() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    hub.apply(&format!("{text}  safety: {{maxStepPercent: 80}}\n")).await.unwrap();
    let id = create(&hub, steps("web", "green", &[(75, false), (100, false)])).await.unwrap().id;
    assert_eq!(status(&drive(&hub, &id).await).state(), ShiftState::Succeeded);
    let quick = roll(&hub, back_of(&id)).await.unwrap();
    assert_eq!(status(&drive(&hub, &quick.id).await).state(), ShiftState::Succeeded);

    let id = create(&hub, steps("web", "green", &[(75, false), (100, false)])).await.unwrap().id;
    let long_ago = Timestamp::now() - Duration::from_secs(24 * 60 * 60 + 60);
    assert_eq!(status(&drive_at(&hub, &id, long_ago).await).state(), ShiftState::Succeeded);
    let held = roll(&hub, back_of(&id)).await.unwrap_err();
    assert_eq!(held.code(), Code::FailedPrecondition);
    assert_eq!(api::Findings::decode(held.details()).unwrap().findings[0].guard, "MaxStepPercent");
    let silent = api::RollbackShiftRequest { overrides: vec!["MaxStepPercent".to_owned()], ..back_of(&id) };
    assert_eq!(violations(&roll(&hub, silent.clone()).await.unwrap_err())[0].field, "spec.reason");
    let crossing = api::RollbackShiftRequest { reason: "green burns".to_owned(), ..silent };
    let made = roll(&hub, crossing.clone()).await.unwrap();
    assert_eq!(roll(&hub, crossing.clone()).await.unwrap().id, made.id);
    let other = api::RollbackShiftRequest { id: quick.id.clone(), ..crossing };
    assert_eq!(roll(&hub, other).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(status(&drive(&hub, &made.id).await).state(), ShiftState::Succeeded);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    hub.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_refused_with_the_reason() {
    let hub = hub_with(&["web", "api"]).await;
    let nothing = roll(&hub, back("web")).await.unwrap_err();
    assert_eq!(nothing.code(), Code::NotFound);
    assert!(nothing.message().contains("no shift under way and none that succeeded"), "{nothing:?}");
    assert_eq!(roll(&hub, back("none")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(roll(&hub, back_of("none")).await.unwrap_err().code(), Code::NotFound);
    let neither = api::RollbackShiftRequest { request_id: request_id(), ..Default::default() };
    let both = api::RollbackShiftRequest { id: "x".to_owned(), ..back("web") };
    for bad in [neither, both] {
        assert_eq!(violations(&roll(&hub, bad).await.unwrap_err())[0].field, "id, policy");
    }
    let odd = api::RollbackShiftRequest { overrides: vec!["Everything".to_owned()], ..back("web") };
    assert_eq!(violations(&roll(&hub, odd).await.unwrap_err())[0].field, "overrides[0]");

    let aborted = create(&hub, flip("web", "green")).await.unwrap().id;
    abort(&hub, &aborted).await.unwrap();
    let refused = roll(&hub, back_of(&aborted)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("ended as Aborted: it went back"), "{refused:?}");

    let spec = api::ShiftSpec { policies: vec![target("web", "green"), target("api", "green")], ..Default::default() };
    let done = create(&hub, spec).await.unwrap().id;
    assert_eq!(status(&drive(&hub, &done).await).state(), ShiftState::Succeeded);
    let uid = hub.delete("api").await.unwrap().uid.parse().unwrap();
    let fence = store_support::fence(&hub.store).await;
    assert!(hub.store.policy_forget(fence, &store_support::key("api"), &uid).await.unwrap());
    hub.apply(&manifest("api", &[("blue", 100), ("green", 0)])).await.unwrap();
    // What is gone does not keep the others from being taken back, and another of its name is not touched.
    let taken =
        eventually("what is still there to be taken back", async || roll(&hub, back_of(&done)).await.ok()).await;
    let moves = &status(&taken).moves;
    assert_eq!((moves.len(), &moves[0].policy), (1, &Some(policy_ref("web"))));
    drive(&hub, &taken.id).await;
    let uid = hub.delete("web").await.unwrap().uid.parse().unwrap();
    let fence = store_support::fence(&hub.store).await;
    assert!(hub.store.policy_forget(fence, &store_support::key("web"), &uid).await.unwrap());
    let gone = eventually("the old policies to be gone", async || {
        roll(&hub, back_of(&done)).await.err().filter(|status| status.message().contains("cannot be taken back"))
    })
    .await;
    assert!(gone.message().contains("of it are gone, or others of the same name"), "{gone:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_what_is_in_the_way_and_each_steps_calls_and_stores_nothing() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    hub.apply(&format!("{text}  safety: {{maxStepPercent: 40}}\n")).await.unwrap();
    let raw = sqlx::PgPool::connect(&hub.url).await.unwrap();
    let written = async || -> (i64, i64) {
        let count = "select (select count(*) from audit), (select count(*) from idempotency)";
        sqlx::query_as(count).fetch_one(&raw).await.unwrap()
    };
    let before = written().await;
    let spec = steps("web", "green", &[(10, false), (60, false), (100, false)]);
    let request = api::CreateShiftRequest { dry_run: true, request_id: String::new(), spec: Some(spec.clone()) };
    let unread = hub.shifts().create_shift(request.clone()).await.unwrap_err();
    assert_eq!(unread.code(), Code::Unavailable);
    assert!(unread.message().contains("AWS was not read by this replica yet"), "{unread:?}");
    hub.aws_was_read();
    let answer = hub.shifts().create_shift(request).await.unwrap().into_inner();
    let shift = answer.shift.unwrap();
    assert_eq!(status(&shift).state(), ShiftState::Pending);
    let found: Vec<(&str, u32)> = answer.findings.iter().map(|found| (found.guard.as_str(), found.step)).collect();
    assert!(found.contains(&("MaxStepPercent", 2)), "{:#?}", answer.findings);
    assert!(found.contains(&("HealthyTargets", 1)), "{:#?}", answer.findings);
    assert!(!found.contains(&("MaxStepPercent", 1)) && found.is_sorted_by_key(|(_, step)| *step), "{found:?}");
    let percents: Vec<(u32, u32)> = answer.plans.iter().map(|plan| (plan.step, plan.percent)).collect();
    assert_eq!(percents, [(1, 10), (2, 60), (3, 100)]);
    let first = answer.plans[0].plan.as_ref().unwrap();
    assert!(!first.notes.is_empty(), "there is no load balancer at all, and the plan says so");
    let reasons: Vec<&str> = answer.notes.iter().map(|note| note.reason.as_str()).collect();
    assert_eq!(reasons, ["OpenStreams", "NotObservedYet"]);

    assert_eq!(written().await, before);
    assert_eq!(get(&hub, &shift.id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    let real = create_request(spec);
    let refused = hub.shifts().create_shift(real).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "what a dry run finds refuses the real one");
    hub.stop().await;
}
