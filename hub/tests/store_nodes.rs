//! Nodes as endpoints in the store, beside pods of the same Service; what agents can do; the gates that pods wait for.

mod store_support;

use std::time::Duration;

use store_support::{Db, EPOCH, NEVER_STALE, cluster, database, endpoint_key, hello, open, ready, resolved, service};
use switchyard_core::{
    inventory::{EndpointKey, EndpointState, Evidence, Inventory, ServiceCondition, ServiceKey, ServiceState},
    observed::Target,
    policy::spec::TargetType,
};
use switchyard_hub::store::{
    AgentFeature, AgentHello, EndpointChange, Mirror, NewEndpoint, NewServiceState, Retention, Snapshot,
};
use uuid::Uuid;

const PRESENT: EndpointState = EndpointState::Present { ready: true, serving: true, terminating: false };

fn nodes(name: &str) -> ServiceKey {
    ServiceKey { target_type: TargetType::Instance, ..service(name) }
}

fn node_key(last: u8, uid: &str) -> EndpointKey {
    EndpointKey {
        cluster: cluster("blue"),
        service: nodes("checkout"),
        target: Target { id: format!("i-{last:017x}").parse().unwrap(), port: 30_080 },
        pod_uid: uid.parse().unwrap(),
    }
}

fn node(name: &str) -> NewEndpoint {
    NewEndpoint { eni_ids: Vec::new(), ..ready(name) }
}

fn local(port: u16) -> NewServiceState {
    let state = ServiceState { health_check_node_port: Some(port), ..resolved("").state };
    NewServiceState { state, ..resolved("") }
}

async fn inventory(db: &Db) -> Inventory {
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
    mirror.inventory
}

async fn states(db: &Db) -> Vec<(String, EndpointState)> {
    let all = inventory(db).await;
    all.endpoints().map(|(key, endpoint)| (key.target.to_string(), endpoint.state)).collect()
}

#[tokio::test]
async fn nodes_and_pods_of_one_service_are_kept_apart() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let pod = endpoint_key("blue", "10.0.0.1", "u1");
    let changes = [
        EndpointChange::Service(service("checkout"), resolved("")),
        EndpointChange::Service(nodes("checkout"), local(32_000)),
        EndpointChange::Upsert(pod.clone(), ready("pod")),
        EndpointChange::Upsert(node_key(1, "n1"), node("node-1")),
        EndpointChange::Upsert(node_key(2, "n2"), node("node-2")),
        EndpointChange::Gone(node_key(2, "n2"), Evidence::Absent),
        EndpointChange::Gone(node_key(2, "n2"), Evidence::PodDeleted),
    ];
    db.store.session_apply(session, &cluster("blue"), 1, &changes).await.unwrap();
    let found = inventory(&db).await;
    let of = |key: &ServiceKey| found.services[&(cluster("blue"), key.clone())].clone();
    assert_eq!(of(&service("checkout")).health_check_node_port, None);
    assert_eq!(of(&nodes("checkout")), local(32_000).state);
    assert_eq!(found.endpoints_of(&cluster("blue"), &service("checkout")).count(), 1);
    let gone = EndpointState::Gone(Evidence::PodDeleted);
    let expected = [
        ("10.0.0.1:8080".to_owned(), PRESENT),
        ("i-00000000000000001:30080".to_owned(), PRESENT),
        ("i-00000000000000002:30080".to_owned(), gone),
    ];
    assert_eq!(states(&db).await, expected);
}

#[tokio::test]
async fn a_snapshot_sweeps_nodes_as_it_sweeps_pods_and_forgets_what_is_no_longer_watched() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let pod = endpoint_key("blue", "10.0.0.1", "u1");
    let both = [
        EndpointChange::Upsert(pod.clone(), ready("pod")),
        EndpointChange::Upsert(node_key(1, "n1"), node("node-1")),
        EndpointChange::Upsert(node_key(2, "n2"), node("node-2")),
    ];
    db.store.session_apply(session, &cluster("blue"), 1, &both).await.unwrap();
    let snapshot = async |seq, watch_set: &[ServiceKey], endpoints: &[(EndpointKey, NewEndpoint)]| {
        let services: Vec<_> = watch_set.iter().map(|key| (key.clone(), resolved(""))).collect();
        let snapshot = Snapshot { watch_set, services: &services, endpoints, epoch: EPOCH };
        db.store.session_snapshot(session, &cluster("blue"), seq, snapshot).await.unwrap();
    };
    let here = [(pod.clone(), ready("pod")), (node_key(1, "n1"), node("node-1"))];
    snapshot(2, &[service("checkout"), nodes("checkout")], &here).await;
    let absent = EndpointState::Gone(Evidence::Absent);
    assert_eq!(states(&db).await.last().unwrap(), &("i-00000000000000002:30080".to_owned(), absent));
    snapshot(3, &[service("checkout")], &here).await;
    assert_eq!(states(&db).await, [("10.0.0.1:8080".to_owned(), PRESENT)]);
    assert_eq!(inventory(&db).await.services.len(), 1, "the same Service for nodes is not watched any more");
    let now = Retention { gone: Duration::ZERO, forgotten: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&now).await.unwrap().forgotten, 3, "two nodes and their Service");
    let rows = sqlx::query_scalar::<_, i64>("select count(*) from node_endpoints").fetch_one(&db.raw).await.unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_service_without_a_node_port_is_stored_for_nodes_and_refused_for_pods() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let report = |key: ServiceKey| {
        let state = ServiceState { condition: ServiceCondition::NoNodePort, ..resolved("none").state };
        [EndpointChange::Service(key, NewServiceState { state, node_port: 0 })]
    };
    db.store.session_apply(session, &cluster("blue"), 1, &report(nodes("checkout"))).await.unwrap();
    let found = inventory(&db).await.services[&(cluster("blue"), nodes("checkout"))].condition;
    assert_eq!(found, ServiceCondition::NoNodePort);
    db.store.session_apply(session, &cluster("blue"), 2, &report(service("checkout"))).await.unwrap_err();
}

#[tokio::test]
async fn what_an_agent_can_do_is_known_from_its_last_hello() {
    let db = database().await;
    let able = AgentHello { features: vec!["moon-phases".into(), "instance-targets".into()], ..hello("blue") };
    assert!(able.can(AgentFeature::InstanceTargets) && !hello("blue").can(AgentFeature::InstanceTargets));
    for (hello, expected) in [(hello("blue"), false), (able, true), (hello("blue"), false)] {
        db.store.session_open(&hello, Uuid::new_v4(), Uuid::from_u128(9), NEVER_STALE).await.unwrap();
        assert_eq!(inventory(&db).await.clusters[&cluster("blue")].reports_nodes, expected);
    }
}

#[tokio::test]
async fn the_policies_whose_gates_a_pod_waits_for_are_kept_and_follow_the_pod() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    for (seq, gates) in [(1, vec!["checkout", "web.v2"]), (2, vec!["web.v2"]), (3, vec![])] {
        let gates: Vec<_> = gates.into_iter().map(|name| name.parse().unwrap()).collect();
        let up = EndpointChange::Upsert(key.clone(), NewEndpoint { gates: gates.clone(), ..ready("pod") });
        db.store.session_apply(session, &cluster("blue"), seq, &[up]).await.unwrap();
        let found = inventory(&db).await;
        let (_, _, endpoint) = found.endpoints_of(&key.cluster, &key.service).next().unwrap();
        assert_eq!(endpoint.gates, gates);
    }
}
