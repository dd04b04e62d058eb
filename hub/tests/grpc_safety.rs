//! SafetyService over real gRPC and a real Postgres: gating switches and what they hold.

mod grpc_support;
mod shift_support;
mod store_support;

use grpc_support::{Hub, hub, manifest, policy_ref, weights};
use prost::Message;
use shift_support::{abort, create, drive, flip, map, request_id, requested, status, steps};
use switchyard_proto::api::v1::{self as api, ShiftState};
use tonic::{Code, Status};

fn set(name: &str, policies: &[&str], on: bool) -> api::SetGatingSwitchRequest {
    api::SetGatingSwitchRequest {
        request_id: request_id(),
        name: name.to_owned(),
        policies: policies.iter().map(|pattern| (*pattern).to_owned()).collect(),
        on,
        reason: "an exercise".to_owned(),
        expected_version: 0,
    }
}

async fn switch(hub: &Hub, request: api::SetGatingSwitchRequest) -> Result<api::GatingSwitch, Status> {
    Ok(hub.safety().set_gating_switch(request).await?.into_inner().switch.unwrap())
}

async fn list(hub: &Hub) -> Vec<(String, bool, u64)> {
    let all = hub.safety().list_gating_switches(api::ListGatingSwitchesRequest {}).await.unwrap().into_inner();
    all.switches.into_iter().map(|switch| (switch.name, switch.on, switch.version)).collect()
}

fn violations(status: &Status) -> Vec<api::Violation> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    api::Violations::decode(status.details()).unwrap().violations
}

#[tokio::test]
async fn switches_are_made_set_listed_by_name_and_deleted() {
    let hub = hub().await;
    let made = switch(&hub, set("shop", &["shop/*"], true)).await.unwrap();
    assert_eq!((made.version, made.on), (1, true));
    assert_eq!((made.actor.as_str(), made.reason.as_str()), ("development", "an exercise"));
    assert!(made.changed_at.is_some());
    switch(&hub, set("all", &["*/*"], true)).await.unwrap();
    // Patterns that are left out stay.
    let off = switch(&hub, set("shop", &[], false)).await.unwrap();
    assert_eq!((off.version, off.policies.as_slice()), (2, ["shop/*".to_owned()].as_slice()));
    assert_eq!(list(&hub).await, [("all".to_owned(), true, 1), ("shop".to_owned(), false, 2)]);

    let stale = api::SetGatingSwitchRequest { expected_version: 1, ..set("shop", &[], true) };
    let refused = switch(&hub, stale).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let conflict = api::VersionConflict::decode(refused.details()).unwrap();
    assert_eq!((conflict.expected_version, conflict.present_version), (1, 2));

    let delete = |name: &str| api::DeleteGatingSwitchRequest {
        request_id: request_id(),
        name: name.to_owned(),
        ..Default::default()
    };
    hub.safety().delete_gating_switch(delete("shop")).await.unwrap();
    assert_eq!(list(&hub).await, [("all".to_owned(), true, 1)]);
    let gone = hub.safety().delete_gating_switch(delete("shop")).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "there is no gating switch shop"));
    hub.stop().await;
}

#[tokio::test]
async fn bad_switches_are_refused_and_the_same_request_gives_the_first_answer() {
    let hub = hub().await;
    let nameless = switch(&hub, set("", &["*/*"], true)).await.unwrap_err();
    assert_eq!(violations(&nameless)[0].field, "name");
    let without = switch(&hub, set("shop", &[], true)).await.unwrap_err();
    assert!(violations(&without)[0].field.contains("policies"), "{without:?}");
    let odd = switch(&hub, set("shop", &["shop", "*/web", "a*b/x"], true)).await.unwrap_err();
    assert_eq!(violations(&odd).len(), 2, "{odd:?}");
    let id = api::SetGatingSwitchRequest { request_id: String::new(), ..set("shop", &["*/*"], true) };
    assert_eq!(violations(&switch(&hub, id).await.unwrap_err())[0].field, "request_id");
    let request = set("shop", &["shop/*"], true);
    let first = switch(&hub, request.clone()).await.unwrap();
    switch(&hub, set("shop", &[], false)).await.unwrap();
    assert_eq!(switch(&hub, request.clone()).await.unwrap(), first);
    let other = api::SetGatingSwitchRequest { on: false, ..request };
    assert_eq!(switch(&hub, other).await.unwrap_err().code(), Code::AlreadyExists);
    hub.stop().await;
}

#[tokio::test]
async fn while_a_switch_is_off_its_policies_do_not_move_but_ways_back_stay_open() {
    let hub = hub().await;
    for name in ["web", "api"] {
        hub.apply(&manifest(name, &[("blue", 100), ("green", 0)])).await.unwrap();
    }
    let running = create(&hub, steps("web", "green", &[(75, true), (100, false)])).await.unwrap().id;
    drive(&hub, &running).await;
    switch(&hub, set("freeze-shop", &["shop/*"], false)).await.unwrap();

    let refused = create(&hub, flip("api", "green")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let found = api::Findings::decode(refused.details()).unwrap().findings;
    assert_eq!((found[0].guard.as_str(), found[0].overridable), ("GatingSwitch", true));
    assert!(refused.message().contains("freeze-shop"), "{refused:?}");
    let weights = api::SetWeightsRequest {
        request_id: request_id(),
        policy: Some(policy_ref("api")),
        weights: weights(&[("green", 50)]),
        ..Default::default()
    };
    assert_eq!(hub.policies().set_weights(weights).await.unwrap_err().code(), Code::FailedPrecondition);

    // The running one is held at its next step, and says by what.
    let approve = api::ApproveShiftRequest { request_id: request_id(), id: running.clone(), ..Default::default() };
    hub.shifts().approve_shift(approve).await.unwrap();
    let held = drive(&hub, &running).await;
    assert_eq!(status(&held).reason, "Held");
    assert_eq!(status(&held).findings[0].guard, "GatingSwitch");
    abort(&hub, &running).await.unwrap();
    assert_eq!(requested(&hub, "web").await, map(&[("blue", 100), ("green", 0)]));
    assert_eq!(status(&drive(&hub, &running).await).state(), ShiftState::Aborted);

    switch(&hub, set("freeze-shop", &[], true)).await.unwrap();
    create(&hub, flip("api", "green")).await.unwrap();
    hub.stop().await;
}
