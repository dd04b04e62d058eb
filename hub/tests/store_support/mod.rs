//! One private Postgres per test binary, a fresh database per test from a migrated template, and builders for what is stored.
//! The server stops, and its folder goes, when the test process ends in whatever way: a shell that waits on a pipe sees to it.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod shifts;

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use switchyard_core::{
    access::Grants,
    ids::{ClusterName, Epoch, PolicyKey},
    inventory::{EndpointKey, ServiceCondition, ServiceKey, ServiceState},
    observed::Target,
    policy::{ClusterTrafficPolicy, ValidatedPolicy, spec::TargetType, validate},
};
use switchyard_hub::store::{
    AgentHello, Applied, AuditFilter, AuditRow, Caller, EmbeddedOptions, EmbeddedPostgres, Fence, LeaseAnswer,
    NewEndpoint, NewServiceState, Store, StoreOptions, StoredPolicy,
};
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

const TEMPLATE: &str = "template_switchyard";

struct Server {
    postgres: EmbeddedPostgres,
    /// `create database` wants its template for itself.
    copying: Mutex<()>,
    /// Its standard input is the pipe that closes with this process.
    _undertaker: Child,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database of one test.
pub struct Db {
    pub store: Store,
    pub url: String,
    /// For looking past the store.
    pub raw: PgPool,
}

/// A fresh, migrated database.
pub async fn database() -> Db {
    let url = database_url().await;
    let store = Store::connect(&url, StoreOptions::default()).await.unwrap();
    let raw = PgPool::connect(&url).await.unwrap();
    Db { store, url, raw }
}

/// The URL of a fresh, migrated database.
pub async fn database_url() -> String {
    let server = SERVER.get_or_init(start).await;
    let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let _alone = server.copying.lock().await;
    create(server, &format!("create database {name} template {TEMPLATE}")).await;
    server.postgres.database_url(&name)
}

/// The URL of a database without tables.
pub async fn empty_database_url() -> String {
    let server = SERVER.get_or_init(start).await;
    let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    create(server, &format!("create database {name}")).await;
    server.postgres.database_url(&name)
}

async fn create(server: &Server, statement: &str) {
    let mut admin = PgConnection::connect(&server.postgres.url()).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
}

async fn start() -> Server {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap().keep();
    let postgres = EmbeddedPostgres::start(&folder, EmbeddedOptions { fsync: false }).await.unwrap();
    let undertaker = undertaker(postgres.pid(), &folder);
    let server = Server { postgres, copying: Mutex::new(()), _undertaker: undertaker };
    create(&server, &format!("create database {TEMPLATE}")).await;
    let url = server.postgres.database_url(TEMPLATE);
    Store::connect(&url, StoreOptions::default()).await.unwrap().close().await;
    server
}

fn undertaker(pid: i32, folder: &Path) -> Child {
    let script = "read line; kill -INT \"$1\"; i=0; \
                  while kill -0 \"$1\" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; rm -rf \"$2\"";
    Command::new("sh")
        .args(["-c", script, "sh", &pid.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Looks again and again until `look` gives something; fails with `what` after half a minute.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn caller(request_id: &str) -> Caller {
    let (actor, reason, source) = ("someone@example.com".to_owned(), "a test".to_owned(), "192.0.2.7".to_owned());
    Caller { request_id: request_id.to_owned(), actor, reason, source, grants: Grants::everything() }
}

/// A request id that is used once.
pub fn fresh() -> Caller {
    caller(&Uuid::new_v4().to_string())
}

pub fn manifest(name: &str, weights: &[(&str, u32)]) -> ClusterTrafficPolicy {
    let clusters: Vec<_> = weights.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect();
    serde_json::from_value(json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "ClusterTrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "listener": {"loadBalancer": "shared-public", "port": 80},
            "match": {"paths": [{"value": format!("/{name}")}]},
            "backend": {"service": {"name": name, "port": "http"}},
            "clusters": clusters,
        },
    }))
    .unwrap()
}

pub fn valid(manifest: &ClusterTrafficPolicy) -> ValidatedPolicy {
    validate(manifest).unwrap()
}

pub fn key(name: &str) -> PolicyKey {
    PolicyKey::new("shop", name).unwrap()
}

/// Applies whatever is there now.
pub async fn apply(store: &Store, manifest: &ClusterTrafficPolicy) -> (StoredPolicy, Applied) {
    store.policy_apply(&fresh(), manifest, &valid(manifest), 0).await.unwrap()
}

/// The audit log about one policy, newest first.
pub async fn audit_of(store: &Store, name: &str) -> Vec<AuditRow> {
    let filter = AuditFilter { policy: Some(key(name)), ..AuditFilter::default() };
    store.audit_page(&filter, false, None, 1000).await.unwrap()
}

pub fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

pub fn service(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        port: "http".parse().unwrap(),
        target_type: TargetType::Ip,
    }
}

/// The endpoint of a pod of Service `checkout`.
pub fn endpoint_key(cluster_name: &str, address: &str, pod_uid: &str) -> EndpointKey {
    EndpointKey {
        cluster: cluster(cluster_name),
        service: service("checkout"),
        target: Target { id: address.parse().unwrap(), port: 8080 },
        pod_uid: pod_uid.parse().unwrap(),
    }
}

pub fn ready(pod_name: &str) -> NewEndpoint {
    NewEndpoint {
        ready: true,
        serving: true,
        terminating: false,
        pod_name: pod_name.to_owned(),
        node: "node-1".to_owned(),
        zone: "eu-central-1a".to_owned(),
        eni_ids: vec!["eni-1".to_owned()],
        gates: Vec::new(),
        pod: json!({"name": pod_name}).to_string().into(),
    }
}

pub fn resolved(message: &str) -> NewServiceState {
    NewServiceState {
        state: ServiceState {
            condition: ServiceCondition::Resolved,
            message: message.to_owned(),
            health_check_node_port: None,
        },
        node_port: 30080,
    }
}

pub fn hello(cluster_name: &str) -> AgentHello {
    AgentHello {
        cluster: cluster(cluster_name),
        region: "eu-central-1".to_owned(),
        vpc_id: "vpc-1".parse().unwrap(),
        agent_instance_id: Uuid::from_u128(1),
        agent_version: "0.1.0".to_owned(),
        features: Vec::new(),
        last_acked_seq: 0,
        watch_set_version: 7,
    }
}

/// Opens a session for the cluster, whichever process held it.
pub async fn open(store: &Store, cluster_name: &str) -> Uuid {
    let session = Uuid::new_v4();
    store.session_open(&hello(cluster_name), session, Uuid::from_u128(9), Duration::ZERO).await.unwrap();
    session
}

/// Takes the lease [`SCOPE`] for this holder, whoever held it before: what only the engine may write is written under the answer.
pub async fn fence_of(db: &PgPool, store: &Store, holder: Uuid) -> Fence<'static> {
    expire_leases(db).await;
    take(store, holder).await
}

/// The lease [`SCOPE`], taken or renewed by the one holder of a test that needs no other.
pub async fn fence(store: &Store) -> Fence<'static> {
    take(store, Uuid::from_u128(9)).await
}

async fn take(store: &Store, holder: Uuid) -> Fence<'static> {
    match store.lease_acquire(SCOPE, holder, NEVER_STALE).await.unwrap() {
        LeaseAnswer::Held { epoch, .. } => Fence { scope: SCOPE, epoch },
        answer @ LeaseAnswer::HeldByOther { .. } => panic!("{answer:?}"),
    }
}

/// As if so much time had passed.
pub async fn expire_leases(db: &PgPool) {
    sqlx::query("update leases set expires_at = now()").execute(db).await.unwrap();
}

pub const SCOPE: &str = "aws:111111111111:eu-central-1";
pub const EPOCH: Epoch = Epoch(3);
/// Longer than any test.
pub const NEVER_STALE: Duration = Duration::from_secs(3600);
