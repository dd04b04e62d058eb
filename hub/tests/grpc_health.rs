//! TargetHealthService over real gRPC and a real Postgres: what the engine stored of gated pods reaches the agent of their cluster.

mod grpc_support;
mod store_support;

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use grpc_support::{EPOCH, HEARTBEAT, Hub, PATIENCE, hub, manifest};
use store_support::{cluster, fence, fence_of, key};
use switchyard_core::{
    gate::{GateBook, GatedTarget, Verdict},
    ids::{Epoch, Weight},
    observed::Target,
    policy::PolicyMemory,
    status::{ClusterStatus, PolicyStatus, Reason, TargetCounts},
};
use switchyard_hub::store::{GateBooks, StoredPolicy};
use switchyard_proto::agent::v1::{
    GateMode, PolicyHealth, TargetHealth, WatchTargetHealthRequest, WatchTargetHealthResponse,
    target_health_service_client::TargetHealthServiceClient, watch_target_health_response::Message,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

fn request(cluster: &str) -> WatchTargetHealthRequest {
    WatchTargetHealthRequest {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        highest_epoch_seen: EPOCH.0,
    }
}

async fn watch(hub: &Hub, request: WatchTargetHealthRequest) -> Result<Streaming<WatchTargetHealthResponse>, Status> {
    let mut client = TargetHealthServiceClient::new(hub.channel.clone());
    Ok(client.watch_target_health(request).await?.into_inner())
}

/// The next message that is no heartbeat.
async fn next(stream: &mut Streaming<WatchTargetHealthResponse>) -> Result<Message, Status> {
    loop {
        let message = timeout(PATIENCE, stream.message()).await.expect("nothing came")?.expect("the stream ended");
        match message.message.unwrap() {
            Message::Heartbeat(_) => {}
            message => return Ok(message),
        }
    }
}

async fn next_policy(stream: &mut Streaming<WatchTargetHealthResponse>) -> PolicyHealth {
    match next(stream).await.unwrap() {
        Message::Policy(health) => health,
        other => panic!("{other:?}"),
    }
}

fn book(verdict: Verdict) -> GateBooks {
    let target = Target::ip(Ipv4Addr::new(10, 0, 0, 1), 8080);
    let reason = if verdict == Verdict::Unhealthy { "Target.Timeout" } else { "" };
    let gated = GatedTarget { pod_uid: "pod-1".parse().unwrap(), target, verdict, reason: reason.to_owned() };
    [(cluster("blue"), GateBook { stale: false, targets: vec![gated] })].into()
}

/// A status that says that blue's group stands in the rule.
fn in_the_rule() -> PolicyStatus {
    let weight = Weight::new(100).unwrap();
    let cluster = ClusterStatus {
        cluster: cluster("blue"),
        requested: weight,
        effective: weight,
        programmed: Some(weight),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts::default(),
        target_group: None,
    };
    PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: vec![cluster],
        rule: None,
        notes: Vec::new(),
        failover: Default::default(),
    }
}

async fn policy(hub: &Hub, name: &str) -> StoredPolicy {
    hub.apply(&manifest(name, &[("blue", 100)])).await.unwrap();
    hub.store.policy_get(&key(name)).await.unwrap().unwrap()
}

async fn save(hub: &Hub, policy: &StoredPolicy, books: GateBooks) {
    let updates = BTreeMap::from([(policy.record.uid.clone(), books)]);
    hub.store.policy_gates_save(fence(&hub.store).await, &updates).await.unwrap();
}

#[tokio::test]
async fn an_agent_hears_of_its_policies_then_of_each_change_of_health_and_of_the_end() {
    let hub = hub().await;
    let checkout = policy(&hub, "checkout").await;
    let mut stream = watch(&hub, request("blue")).await.unwrap();
    match next(&mut stream).await.unwrap() {
        Message::Welcome(welcome) => {
            assert_eq!(welcome.epoch, EPOCH.0);
            assert_eq!(u128::from(welcome.heartbeat_interval_ms), HEARTBEAT.as_millis());
        }
        other => panic!("{other:?}"),
    }
    let first = next_policy(&mut stream).await;
    assert_eq!((first.mode(), first.reason.as_str()), (GateMode::Suspended, "NotObservedYet"));
    assert!(matches!(next(&mut stream).await.unwrap(), Message::Synced(_)));

    let status = in_the_rule();
    let fence_now = fence(&hub.store).await;
    let saved = hub.store.policy_status_save(fence_now, &checkout.record.uid, &status, &PolicyMemory::default()).await;
    assert!(saved.unwrap());
    assert_eq!(next_policy(&mut stream).await.mode(), GateMode::Judged);
    for (verdict, health) in [
        (Verdict::Initial, TargetHealth::Initial),
        (Verdict::Unhealthy, TargetHealth::Unhealthy),
        (Verdict::Healthy, TargetHealth::Healthy),
    ] {
        save(&hub, &checkout, book(verdict)).await;
        let told = next_policy(&mut stream).await;
        assert_eq!(told.targets.len(), 1, "{told:?}");
        let target = &told.targets[0];
        assert_eq!((target.pod_uid.as_str(), target.address.as_str(), target.port), ("pod-1", "10.0.0.1", 8080));
        assert_eq!(target.health(), health);
        assert_eq!(target.reason, if verdict == Verdict::Unhealthy { "Target.Timeout" } else { "" });
    }
    hub.delete("checkout").await.unwrap();
    let released = next_policy(&mut stream).await;
    assert_eq!((released.mode(), released.reason.as_str()), (GateMode::Released, "Deleting"));
    assert!(hub.store.policy_forget(fence(&hub.store).await, &key("checkout"), &checkout.record.uid).await.unwrap());
    assert!(next_policy(&mut stream).await.gone);
    hub.stop().await;
}

#[tokio::test]
async fn another_cluster_hears_nothing_of_it_but_heartbeats() {
    let hub = hub().await;
    policy(&hub, "checkout").await;
    let mut stream = watch(&hub, request("green")).await.unwrap();
    assert!(matches!(next(&mut stream).await.unwrap(), Message::Welcome(_)));
    assert!(matches!(next(&mut stream).await.unwrap(), Message::Synced(_)));
    let beat = timeout(PATIENCE, stream.message()).await.expect("no heartbeat came").unwrap().unwrap();
    assert!(matches!(beat.message, Some(Message::Heartbeat(_))), "{beat:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_hub_older_than_what_the_agent_saw_is_refused_and_a_new_epoch_ends_the_stream() {
    let hub = hub().await;
    let newer = WatchTargetHealthRequest { highest_epoch_seen: EPOCH.0 + 1, ..request("blue") };
    let refused = watch(&hub, newer).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let mut stream = watch(&hub, request("blue")).await.unwrap();
    assert!(matches!(next(&mut stream).await.unwrap(), Message::Welcome(_)));
    assert!(matches!(next(&mut stream).await.unwrap(), Message::Synced(_)));
    hub.epoch.send_replace(Some(Epoch(EPOCH.0 + 1)));
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    hub.stop().await;
}

#[tokio::test]
async fn fields_out_of_bounds_are_named() {
    let hub = hub().await;
    let refused = watch(&hub, WatchTargetHealthRequest { cluster: "Blue!".to_owned(), ..request("blue") }).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("cluster") && refused.message().contains("Blue!"), "{refused:?}");
    let nameless = WatchTargetHealthRequest { agent_instance_id: "me".to_owned(), ..request("blue") };
    let refused = watch(&hub, nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("agent_instance_id"), "{refused:?}");
    hub.stop().await;
}

#[tokio::test]
async fn books_come_back_with_their_policy_and_a_holder_that_lost_its_lease_stores_none() {
    let db = store_support::database().await;
    let (stored, _) = store_support::apply(&db.store, &store_support::manifest("checkout", &[("blue", 100)])).await;
    assert_eq!(*stored.gates, GateBooks::new());
    let lost = fence(&db.store).await;
    let updates = BTreeMap::from([(stored.record.uid.clone(), book(Verdict::Healthy))]);
    db.store.policy_gates_save(lost, &updates).await.unwrap();
    let read = db.store.policy_get(&key("checkout")).await.unwrap().unwrap();
    assert_eq!(read.gates, Arc::new(book(Verdict::Healthy)));
    fence_of(&db.raw, &db.store, Uuid::from_u128(77)).await;
    let updates = BTreeMap::from([(stored.record.uid.clone(), book(Verdict::Initial))]);
    assert!(db.store.policy_gates_save(lost, &updates).await.is_err());
    let read = db.store.policy_get(&key("checkout")).await.unwrap().unwrap();
    assert_eq!(read.gates, Arc::new(book(Verdict::Healthy)));
}
