//! Who may call what: every call of the table by everybody who may not, and by somebody who just may; then the finer scope of
//! namespaces and clusters, and the agents.

mod grpc_support;
mod rights_support;
mod shift_support;
mod store_support;

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    time::Duration,
};

use grpc_support::{Agent, Hub, Setup, eventually, hub_set_up, manifest, policy_ref};
use prost_reflect::MethodDescriptor;
use rights_support::{Port, call, methods, name};
use serde_json::{Value, json};
use shift_support::{flip, turn};
use sqlx::{AssertSqlSafe, PgPool, Row};
use store_support::database_url;
use switchyard_core::{
    access::{Kind, Need, Role, Who, need, table::TABLE},
    fleet::{ClusterState, Progress},
    ids::PolicyKey,
    status::Reason,
};
use switchyard_hub::{access::AccessSettings, store::ClusterUpdate};
use switchyard_proto::{
    agent::v1::{
        self as agent, agent_message, agent_service_client::AgentServiceClient,
        policy_source_service_client::PolicySourceServiceClient, shift_source_service_client::ShiftSourceServiceClient,
        target_health_service_client::TargetHealthServiceClient,
    },
    api::v1::{
        self as api, audit_service_client::AuditServiceClient, cluster_service_client::ClusterServiceClient,
        policy_service_client::PolicyServiceClient, safety_service_client::SafetyServiceClient,
        shift_service_client::ShiftServiceClient,
    },
};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};
use uuid::Uuid;

/// Callers by the common names of their certificates. `hidden` is the namespace that those of `shop` must not learn anything of.
const ACCESS: &str = r#"
bindings:
  - {role: viewer, namespaces: ["*"], clusters: ["*"], subjects: [{certificate: {commonName: viewer}}]}
  - {role: operator, namespaces: ["*"], clusters: ["*"], overrides: true, subjects: [{certificate: {commonName: operator}}]}
  - {role: admin, namespaces: ["*"], clusters: ["*"], overrides: true, subjects: [{certificate: {commonName: admin}}]}
  - {role: admin, namespaces: [shop], clusters: ["*"], overrides: true, subjects: [{certificate: {commonName: shop-admin}}]}
  - {role: viewer, namespaces: [shop], clusters: ["*"], subjects: [{certificate: {commonName: shop-viewer}}]}
  - {role: viewer, namespaces: [hidden], clusters: ["*"], subjects: [{certificate: {commonName: hidden-viewer}}]}
  - {role: operator, namespaces: [hidden], clusters: [blue, green], subjects: [{certificate: {commonName: hidden-operator}}]}
  - {role: admin, namespaces: [hidden], clusters: [blue, green], subjects: [{certificate: {commonName: hidden-admin}}]}
  - {role: operator, namespaces: ["*"], clusters: [red], subjects: [{certificate: {commonName: red-operator}}]}
  - {role: admin, namespaces: ["*"], clusters: [red], subjects: [{certificate: {commonName: red-admin}}]}
  - {role: operator, namespaces: [shop], clusters: [blue], subjects: [{certificate: {commonName: shop-blue}}]}
  - {role: admin, namespaces: [shop], clusters: [blue], subjects: [{certificate: {commonName: shop-blue-admin}}]}
  - {role: operator, namespaces: [shop], clusters: [blue, green], subjects: [{certificate: {commonName: shop-operator}}]}
  - {role: viewer, namespaces: ["*"], clusters: [blue], subjects: [{certificate: {commonName: blue-viewer}}]}
"#;

/// A hub as with an access file, and without `--dev`.
struct World {
    hub: Hub,
    raw: PgPool,
    /// A shift of `hidden/hidden-moving`, under way.
    shift: String,
    _file: NamedTempFile,
}

async fn world() -> World {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(ACCESS.as_bytes()).unwrap();
    let access = AccessSettings {
        access_file: Some(file.path().to_owned()),
        refusals_every: Duration::from_millis(50),
        ..AccessSettings::default()
    };
    let url = database_url().await;
    let hub = hub_set_up(&url, Setup { access, ..Setup::default() }).await;
    let raw = PgPool::connect(&url).await.unwrap();
    World { hub, raw, shift: String::new(), _file: file }
}

/// With policies in two namespaces, a switch, and a shift in the hidden one.
async fn furnished() -> World {
    let mut world = world().await;
    for (namespace, policy, clusters) in [
        ("shop", "web", &[("blue", 100), ("green", 0)][..]),
        ("hidden", "hidden-web", &[("blue", 100), ("green", 0)]),
        ("hidden", "hidden-moving", &[("blue", 100), ("green", 0)]),
        ("hidden", "hidden-red", &[("red", 0), ("blue", 1)]),
    ] {
        world.apply("admin", namespace, policy, clusters).await.unwrap();
    }
    let spec = api::ShiftSpec {
        policies: vec![api::ShiftPolicy { policy: Some(policy_of("hidden", "hidden-moving")), ..to_green() }],
        strategy: Some(api::ShiftStrategy {
            steps: vec![
                api::ShiftStep { percent: 10, approval: true, ..Default::default() },
                api::ShiftStep { percent: 100, ..Default::default() },
            ],
            ..Default::default()
        }),
        ..Default::default()
    };
    world.shift = world.shift("admin", spec).await.unwrap().id;
    world.hub.aws_was_read();
    world.hub.feed.refreshed().await;
    world
}

/// In every read something of the hidden namespace: beside what [`furnished`] has a gating switch, an endpoint, an operation on cluster
/// red that waits for a policy, and a shift that moves policies of both namespaces.
async fn furnished_everywhere() -> (World, Agent, String) {
    let world = furnished().await;
    for (namespace, policy) in [("shop", "joint"), ("hidden", "hidden-joint")] {
        world.apply("admin", namespace, policy, &[("blue", 100), ("green", 0)]).await.unwrap();
    }
    let joint = world.joint_shift().await;
    let switch = api::SetGatingSwitchRequest {
        request_id: id(),
        name: "stop".to_owned(),
        policies: vec!["hidden/*".to_owned()],
        on: true,
        reason: "a test".to_owned(),
        ..Default::default()
    };
    SafetyServiceClient::new(world.caller("admin")).set_gating_switch(switch).await.unwrap();

    let (outbox, receiver) = mpsc::channel(64);
    let mut agents = AgentServiceClient::new(world.agent("blue"));
    let inbox = agents.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut blue = Agent::over(outbox, inbox, grpc_support::hello("blue")).await;
    blue.welcome().await;
    let set = blue.watch_set().await;
    let mut changes = grpc_support::changes("hidden-web", &["10.0.0.1"]);
    let mut service = changes.services[0].service.clone().unwrap();
    service.namespace = "hidden".to_owned();
    changes.services[0].service = Some(service.clone());
    changes.upserts[0].service = Some(service);
    let begin = agent::SnapshotBegin { snapshot_id: "s".to_owned(), watch_set_version: set.version };
    blue.send(agent_message::Message::SnapshotBegin(begin)).await;
    blue.changes(changes).await;
    let end = agent::SnapshotEnd { snapshot_id: "s".to_owned(), service_count: 1, endpoint_count: 1 };
    let seq = blue.send(agent_message::Message::SnapshotEnd(end)).await;
    blue.acked(seq).await;

    let drain = api::DrainClusterRequest { request_id: id(), cluster: "red".to_owned(), ..Default::default() };
    ClusterServiceClient::new(world.caller("admin")).drain_cluster(drain).await.unwrap();
    let mut state = ClusterState::clone(&world.hub.feed.picture().fleet[&"red".parse().unwrap()]);
    state.operation.progress.push(Progress {
        policy: PolicyKey::new("hidden", "hidden-red").unwrap(),
        done: false,
        programmed: None,
        targets: 0,
        reason: Reason::Draining,
        message: "it waits".to_owned(),
    });
    let update = ClusterUpdate { before_version: state.version, state: &state };
    let fence = store_support::fence(&world.hub.store).await;
    assert_eq!(world.hub.store.clusters_save(fence, &[update]).await.unwrap().len(), 1);
    world.hub.feed.refreshed().await;
    (world, blue, joint)
}

fn to_green() -> api::ShiftPolicy {
    flip("web", "green").policies.remove(0)
}

fn policy_of(namespace: &str, name: &str) -> api::PolicyRef {
    api::PolicyRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn manifest_of(namespace: &str, policy: &str, clusters: &[(&str, u32)]) -> String {
    manifest(policy, clusters).replace("namespace: shop", &format!("namespace: {namespace}"))
}

impl World {
    fn caller(&self, name: &str) -> Port {
        Port::caller(self.hub.routes.clone(), name)
    }

    fn agent(&self, cluster: &str) -> Port {
        Port::agent(self.hub.routes.clone(), cluster)
    }

    fn nobody(&self) -> Port {
        Port::nobody(self.hub.routes.clone())
    }

    fn policies(&self, who: &str) -> PolicyServiceClient<Port> {
        PolicyServiceClient::new(self.caller(who))
    }

    async fn apply(&self, who: &str, namespace: &str, policy: &str, clusters: &[(&str, u32)]) -> Result<(), Status> {
        let manifest = manifest_of(namespace, policy, clusters);
        let request = api::ApplyPolicyRequest { request_id: id(), manifest, ..Default::default() };
        self.policies(who).apply_policy(request).await.map(|_| ())
    }

    async fn set(&self, who: &str, weights: &[(&str, u32)], dry_run: bool) -> Result<(), Status> {
        let request = api::SetWeightsRequest {
            request_id: id(),
            policy: Some(policy_ref("web")),
            weights: grpc_support::weights(weights),
            dry_run,
            ..Default::default()
        };
        self.policies(who).set_weights(request).await.map(|_| ())
    }

    async fn shift(&self, who: &str, spec: api::ShiftSpec) -> Result<api::Shift, Status> {
        let request = api::CreateShiftRequest { request_id: id(), spec: Some(spec), dry_run: false };
        let made = ShiftServiceClient::new(self.caller(who)).create_shift(request).await?;
        Ok(made.into_inner().shift.unwrap())
    }

    /// Half of two policies of two namespaces, and the rest after an approval; at its first step.
    async fn joint_shift(&self) -> String {
        let moved = |namespace, name| api::ShiftPolicy { policy: Some(policy_of(namespace, name)), ..to_green() };
        let steps = [(50, true), (100, false)];
        let steps = steps.map(|(percent, approval)| api::ShiftStep { percent, approval, ..Default::default() });
        let spec = api::ShiftSpec {
            policies: vec![moved("shop", "joint"), moved("hidden", "hidden-joint")],
            strategy: Some(api::ShiftStrategy { steps: steps.to_vec(), ..Default::default() }),
            ..Default::default()
        };
        let shift = self.shift("admin", spec).await.unwrap().id;
        while turn(&self.hub, &shift).await.1 {}
        assert_eq!(self.asked("hidden", "hidden-joint").await, grpc_support::weights(&[("blue", 50), ("green", 50)]));
        shift
    }

    /// The weights that a policy asks for, as stored.
    async fn asked(&self, namespace: &str, name: &str) -> HashMap<String, u32> {
        let key = PolicyKey::new(namespace, name).unwrap();
        let stored = self.hub.store.policy_get(&key).await.unwrap().unwrap();
        stored.record.requested().into_iter().map(|(cluster, weight)| (cluster.to_string(), weight.get())).collect()
    }

    /// Applies a manifest as it stands.
    async fn apply_text(&self, who: &str, manifest: String, dry_run: bool) -> Result<(), Status> {
        let request = api::ApplyPolicyRequest { request_id: id(), manifest, dry_run, ..Default::default() };
        self.policies(who).apply_policy(request).await.map(|_| ())
    }

    async fn delete(&self, who: &str, policy: api::PolicyRef, dry_run: bool) -> Result<(), Status> {
        let request =
            api::DeletePolicyRequest { request_id: id(), policy: Some(policy), dry_run, ..Default::default() };
        self.policies(who).delete_policy(request).await.map(|_| ())
    }

    /// Rows of every table but the log of what was refused.
    async fn rows(&self) -> BTreeMap<String, i64> {
        let tables = "select table_name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'";
        let mut rows = BTreeMap::new();
        for table in sqlx::query(tables).fetch_all(&self.raw).await.unwrap() {
            let table: String = table.get(0);
            let kept = if table == "audit" { " where result = 'done'" } else { "" };
            let count = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}{kept}")));
            rows.insert(table, count.fetch_one(&self.raw).await.unwrap());
        }
        // Written at its own time.
        rows.remove("heartbeats");
        rows
    }

    /// A request that everybody with the right gets an answer to. What it names stands in the hidden namespace, or is the cluster red.
    fn request(&self, method: &MethodDescriptor) -> Value {
        let (request_id, cluster, shift) = (id(), "red", &self.shift);
        let policy = json!({"namespace": "hidden", "name": "hidden-web"});
        let manifest = manifest_of("hidden", "hidden-new", &[("blue", 1), ("green", 1)]);
        let of_shift = json!({"requestId": request_id, "id": shift, "reason": "a test"});
        let of_cluster = json!({"requestId": request_id, "cluster": cluster, "reason": "a test"});
        let grants = json!([{"role": "ROLE_VIEWER", "namespaces": ["hidden"], "clusters": ["*"]}]);
        match name(method).rsplit('.').next().unwrap() {
            "PolicyService/ApplyPolicy" => json!({"requestId": request_id, "manifest": manifest}),
            "PolicyService/DeletePolicy" => json!({"requestId": request_id, "policy": policy, "dryRun": true}),
            "PolicyService/SetWeights" => json!({"requestId": request_id, "policy": policy, "weights": {"green": 1}}),
            // Nothing is out, which only those are told who may know.
            "PolicyService/FailbackPolicy" => json!({"requestId": request_id, "policy": policy}),
            "PolicyService/GetPolicy" | "PolicyService/ExplainPolicy" => json!({"policy": policy}),
            "PolicyService/ListPolicies" | "PolicyService/GetPlan" | "PolicyService/WatchPolicies" => json!({}),
            "ShiftService/CreateShift" => json!({
                "requestId": request_id, "spec": {"policies": [{"policy": policy, "toCluster": "green"}]}, "dryRun": true,
            }),
            "ShiftService/PauseShift"
            | "ShiftService/ResumeShift"
            | "ShiftService/ApproveShift"
            | "ShiftService/PromoteShift" => of_shift,
            "ShiftService/AbortShift" => of_shift,
            "ShiftService/RollbackShift" => json!({"requestId": request_id, "id": shift, "dryRun": true}),
            "ShiftService/GetShift" | "ShiftService/WatchShift" => json!({"id": shift}),
            "ShiftService/ListShifts" => json!({}),
            "SafetyService/ListGatingSwitches" => json!({}),
            "SafetyService/SetGatingSwitch" => {
                json!({"requestId": request_id, "name": "stop", "policies": ["hidden/*"], "on": true, "reason": "a test"})
            }
            "SafetyService/DeleteGatingSwitch" => json!({"requestId": request_id, "name": "stop"}),
            "AuditService/ListAuditEntries" | "AuditService/GetAuditHead" => json!({}),
            "ClusterService/ListClusters" | "ClusterService/ListEndpoints" => json!({}),
            "ClusterService/WatchClusters" => json!({"cluster": cluster}),
            "ClusterService/CordonCluster" | "ClusterService/UncordonCluster" | "ClusterService/RemoveCluster" => {
                of_cluster
            }
            "ClusterService/DrainCluster" | "ClusterService/DrillClusterLoss" => {
                json!({"requestId": request_id, "cluster": cluster, "reason": "a test", "dryRun": true})
            }
            "AccessService/WhoAmI"
            | "AccessService/ListJoinTokens"
            | "AccessService/ListAgentCertificates"
            | "AccessService/ListServiceTokens"
            | "AccessService/ListAuthorities" => json!({}),
            "AccessService/CreateJoinToken" => json!({"requestId": request_id, "cluster": cluster}),
            "AccessService/RevokeJoinToken" => json!({"requestId": request_id, "id": "aaaaaaaaaaaa"}),
            "AccessService/RevokeAgentCertificates" => json!({"requestId": request_id, "cluster": cluster}),
            "AccessService/CreateServiceToken" => json!({"requestId": request_id, "name": "ci", "grants": grants}),
            "AccessService/RevokeServiceToken" => json!({"requestId": request_id, "name": "ci"}),
            "AccessService/RotateAuthority" => json!({"requestId": request_id}),
            "AgentService/Session" => json!({"hello": {
                "cluster": "blue", "region": "eu-central-1", "vpcId": "vpc-1", "agentInstanceId": id(), "agentVersion": "1",
            }}),
            "PolicySourceService/SyncPolicies" | "ShiftSourceService/SyncShifts" => {
                json!({"hello": {"cluster": "blue", "agentInstanceId": id()}})
            }
            "TargetHealthService/WatchTargetHealth" => json!({"cluster": "blue", "agentInstanceId": id()}),
            "EnrollmentService/Enroll" | "EnrollmentService/RenewCertificate" => json!({}),
            other => panic!("{other} has no request here: add one, and its row to core/src/access/table.rs"),
        }
    }
}

/// Callers who have not what the row asks for, each with the code that he gets.
fn those_who_may_not(world: &World, need: &Need) -> Vec<(&'static str, Port, Code)> {
    let denied = |name| (name, world.caller(name), Code::PermissionDenied);
    let nobody = ("nobody", world.nobody(), Code::Unauthenticated);
    let agent = ("an agent", world.agent("blue"), Code::PermissionDenied);
    let (stranger, viewer, operator) = (denied("stranger"), denied("viewer"), denied("operator"));
    match need.who {
        Who::Anyone => vec![],
        Who::Authenticated => vec![nobody, agent],
        Who::Agent => vec![nobody, stranger, denied("admin")],
        Who::Role(Role::Viewer) | Who::HubRole(Role::Viewer) => vec![nobody, agent, stranger],
        Who::Role(Role::Operator) | Who::HubRole(Role::Operator) => vec![nobody, agent, stranger, viewer],
        Who::Role(Role::Admin) | Who::HubRole(Role::Admin) => vec![nobody, agent, stranger, viewer, operator],
    }
}

/// Somebody who has no more than what the row asks for, over no more than what the request names.
fn who_just_may(need: &Need) -> &'static str {
    let of_cluster = need.rpc.contains("ClusterService/") && need.kind == Kind::Change;
    match need.who {
        Who::Role(Role::Viewer) if need.rpc.contains("WatchClusters") || need.rpc.contains("GetAuditHead") => "viewer",
        Who::Role(Role::Viewer) => "hidden-viewer",
        Who::Role(Role::Operator) if of_cluster => "red-operator",
        Who::Role(Role::Operator) => "hidden-operator",
        Who::Role(Role::Admin) if of_cluster => "red-admin",
        Who::Role(Role::Admin) => "hidden-admin",
        Who::HubRole(Role::Viewer) => "viewer",
        Who::HubRole(Role::Operator) => "operator",
        Who::HubRole(Role::Admin) => "admin",
        Who::Authenticated => "stranger",
        Who::Anyone | Who::Agent => "",
    }
}

#[test]
fn every_call_of_the_proto_files_has_a_row_and_every_row_of_ours_a_call() {
    let called: Vec<String> = methods().iter().map(name).collect();
    for call in &called {
        assert!(need(&format!("/{call}")).is_some(), "{call} has no row in core/src/access/table.rs");
    }
    for row in TABLE.iter().filter(|row| row.rpc.starts_with("switchyard.")) {
        assert!(called.iter().any(|call| call == row.rpc), "{} is no call", row.rpc);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_refused_to_all_who_may_not_make_it_and_nothing_is_stored() {
    let world = furnished().await;
    let before = world.rows().await;
    for method in methods() {
        let row = need(&format!("/{}", name(&method))).unwrap();
        for (who, port, code) in those_who_may_not(&world, row) {
            let refused =
                call(&port, &method, world.request(&method)).await.expect_err(&format!("{} by {who}", row.rpc));
            assert_eq!(refused.code(), code, "{} by {who}: {refused:?}", row.rpc);
            assert!(!refused.message().contains("hidden"), "{} by {who}: {refused:?}", row.rpc);
        }
    }
    assert_eq!(world.rows().await, before);
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_one_namespace_touches_nothing_of_another_and_learns_nothing_of_it() {
    let (world, _blue, _) = furnished_everywhere().await;
    let before = world.rows().await;
    let (shop, whole) = (world.caller("shop-admin"), world.caller("viewer"));
    for method in methods() {
        let row = need(&format!("/{}", name(&method))).unwrap();
        let request = world.request(&method);
        let names_something = request.as_object().is_some_and(|fields| !fields.is_empty());
        let answer = call(&shop, &method, request.clone()).await;
        let watches_clusters = row.rpc.ends_with("/WatchClusters");
        if row.who == Who::Role(Role::Viewer) && (!names_something || watches_clusters) {
            let shown = call(&whole, &method, request).await.unwrap_or_else(|status| panic!("{}: {status:?}", row.rpc));
            // The head of the chain is a number and a hash.
            let tells = shown.to_string().contains("hidden") || row.rpc.ends_with("/GetAuditHead");
            assert!(tells, "{} has nothing that could be hidden: {shown}", row.rpc);
        }
        match row.who {
            // It says how much happens in all namespaces.
            Who::Role(Role::Viewer) if row.rpc.ends_with("/GetAuditHead") => {
                assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
            }
            // They hold up everybody, so everybody is shown them.
            Who::Role(Role::Viewer) if row.rpc.ends_with("/ListGatingSwitches") => drop(answer.unwrap()),
            Who::Role(Role::Viewer) if !names_something => {
                let shown = answer.unwrap_or_else(|status| panic!("{}: {status:?}", row.rpc)).to_string();
                assert!(!shown.contains("hidden"), "{}: {shown}", row.rpc);
            }
            // One cluster serves many namespaces; it may be read by all who may read something of it.
            Who::Role(Role::Viewer) if watches_clusters => {
                let shown = answer.unwrap().to_string();
                assert!(shown.contains("red") && !shown.contains("hidden"), "{shown}");
            }
            Who::Role(_) | Who::HubRole(_) => {
                let refused = answer.expect_err(row.rpc);
                assert_eq!(refused.code(), Code::PermissionDenied, "{}: {refused:?}", row.rpc);
                for part in ["is needed", "yardctl whoami"] {
                    assert!(refused.message().contains(part), "{}: {refused:?}", row.rpc);
                }
            }
            Who::Authenticated => drop(answer.unwrap_or_default()),
            Who::Anyone | Who::Agent => {}
        }
    }
    assert_eq!(world.rows().await, before);
    // What does not exist gets the same answer as what does.
    let mut policies = world.policies("shop-viewer");
    for policy in ["hidden-web", "never-was"] {
        let refused = policies.get_policy(api::GetPolicyRequest { policy: Some(policy_of("hidden", policy)) }).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    world.hub.stop().await;
}

/// A shift takes its policies back when one of them leaves it: so a new spec of one namespace's policy would move another namespace's.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_one_namespace_moves_no_weights_of_another_through_a_shift_of_both() {
    let (world, _blue, joint) = furnished_everywhere().await;
    let half = grpc_support::weights(&[("blue", 50), ("green", 50)]);
    let other = || manifest_of("shop", "joint", &[("blue", 1), ("green", 0)]);
    for dry_run in [true, false] {
        let refused = [
            world.apply_text("shop-admin", other(), dry_run).await.unwrap_err(),
            world.delete("shop-admin", policy_ref("joint"), dry_run).await.unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            assert!(refused.message().contains(&joint) && !refused.message().contains("hidden"), "{refused:?}");
        }
        assert_eq!(world.asked("hidden", "hidden-joint").await, half);
    }
    // What does not take the policy out of its shift is his all the same.
    let same = manifest_of("shop", "joint", &[("blue", 100), ("green", 0)]).replace("joint.example", "other.example");
    world.apply_text("shop-admin", same, false).await.unwrap();

    // What is said of the shift to those of one namespace is about that namespace.
    let entries = api::ListAuditEntriesRequest { page_size: 1000, ..Default::default() };
    let shown = async |who: &str| {
        let client = AuditServiceClient::new(world.caller(who)).list_audit_entries(entries.clone()).await;
        let entries = client.unwrap().into_inner().entries;
        entries
            .into_iter()
            .filter(|entry| entry.shift_id == joint)
            .map(|entry| format!("{entry:?}"))
            .collect::<Vec<_>>()
    };
    let own = shown("shop-admin").await;
    assert!(own.iter().any(|entry| entry.contains("shop/joint from blue=100,green=0 to blue=0,green=100")), "{own:#?}");
    assert!(own.iter().all(|entry| !entry.contains("hidden")), "{own:#?}");

    for dry_run in [true, false] {
        world.apply_text("admin", other(), dry_run).await.unwrap();
    }
    let back = grpc_support::weights(&[("blue", 100), ("green", 0)]);
    assert_eq!(world.asked("hidden", "hidden-joint").await, back, "somebody who has both takes both back");
    let own = shown("shop-admin").await;
    assert!(own.iter().all(|entry| !entry.contains("hidden")), "{own:#?}");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_about_single_clusters_is_about_all_of_a_policy() {
    let world = furnished().await;
    let text = |blue: u32| manifest_of("shop", "web", &[("blue", blue), ("green", 0)]);
    let failover = |green: u32| {
        let clusters =
            format!("clusters: [{{name: blue, weight: 100}}, {{name: green, weight: {green}, priority: 1}}]");
        let (head, _) =
            text(100).split_once("clusters:").map(|(head, tail)| (head.to_owned(), tail.to_owned())).unwrap();
        format!("{head}{clusters}\n  failover: {{failback: Auto}}\n")
    };
    let denied = async |manifest: String, what: &str| {
        for dry_run in [true, false] {
            let refused = world.apply_text("shop-blue-admin", manifest.clone(), dry_run).await.expect_err(what);
            assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
        }
    };
    denied(text(100).replace("web.example.com", "other.example.com"), "another host name").await;
    world.apply_text("admin", failover(50), false).await.unwrap();
    denied(failover(51), "another standby").await;
    world.apply_text("shop-blue-admin", failover(50), false).await.unwrap();
    world.apply_text("admin", text(100), false).await.unwrap();

    // A new spec ends what was set over the old one, which is green's too.
    world.set("admin", &[("blue", 50), ("green", 50)], false).await.unwrap();
    denied(text(90), "the end of an override of green").await;
    world.apply_text("shop-blue-admin", text(100), false).await.unwrap();
    assert_eq!(world.asked("shop", "web").await, grpc_support::weights(&[("blue", 50), ("green", 50)]));
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_let_through_for_those_who_have_just_what_it_needs() {
    let world = furnished().await;
    for method in methods() {
        let row = need(&format!("/{}", name(&method))).unwrap();
        let who = who_just_may(row);
        if who.is_empty() {
            continue;
        }
        if let Err(status) = call(&world.caller(who), &method, world.request(&method)).await {
            let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
            assert!(!refused, "{} by {who}: {status:?}", row.rpc);
        }
    }
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_a_cluster_are_moved_by_those_only_who_have_that_cluster() {
    let world = furnished().await;
    for dry_run in [true, false] {
        let refused = world.set("shop-blue", &[("green", 1)], dry_run).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        for part in [
            "certificate:CN=shop-blue",
            "may not set weights of policy shop/web",
            "operator",
            "clusters green",
            "clusters blue",
        ] {
            assert!(refused.message().contains(part), "{part}: {refused:?}");
        }
        // Named with the weight that it has: nothing of it changes.
        world.set("shop-blue", &[("green", 0), ("blue", 90)], true).await.unwrap();
    }
    let refused = world.shift("shop-blue", flip("web", "green")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let refused = world.apply("shop-blue-admin", "shop", "web", &[("blue", 100), ("green", 1)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let refused = world.apply("shop-blue-admin", "shop", "web", &[("blue", 100)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "a cluster that leaves: {refused:?}");
    let refused = world.apply("shop-blue-admin", "shop", "new", &[("blue", 100), ("green", 0)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let delete = api::DeletePolicyRequest { request_id: id(), policy: Some(policy_ref("web")), ..Default::default() };
    let refused = world.policies("shop-blue-admin").delete_policy(delete).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    world.apply("shop-blue-admin", "shop", "web", &[("blue", 90), ("green", 0)]).await.unwrap();
    world.apply("shop-blue-admin", "shop", "only-blue", &[("blue", 100)]).await.unwrap();

    // A shift over several policies needs every one of them.
    let both = api::ShiftSpec {
        policies: vec![to_green(), api::ShiftPolicy { policy: Some(policy_of("hidden", "hidden-web")), ..to_green() }],
        ..Default::default()
    };
    let refused = world.shift("shop-operator", both).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // Overrides are a right of their own.
    let crossing = api::ShiftSpec {
        overrides: vec!["MaxStepPercent".to_owned()],
        reason: "it burns".to_owned(),
        ..flip("web", "green")
    };
    let refused = world.shift("shop-operator", crossing.clone()).await.unwrap_err();
    assert!(refused.message().contains("may not override MaxStepPercent"), "{refused:?}");
    let made = world.shift("shop-operator", flip("web", "green")).await.unwrap();
    let command = api::AbortShiftRequest { request_id: id(), id: made.id.clone(), ..Default::default() };
    let refused = ShiftServiceClient::new(world.caller("shop-blue")).abort_shift(command.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let aborted = ShiftServiceClient::new(world.caller("shop-operator")).abort_shift(command.clone()).await.unwrap();
    assert_eq!(aborted.into_inner().shift.unwrap().actor, made.actor);
    // The first answer to a request id is for those only who might have asked.
    let replayed = ShiftServiceClient::new(world.caller("shop-blue")).abort_shift(command).await.unwrap_err();
    assert_eq!(replayed.code(), Code::PermissionDenied, "{replayed:?}");
    assert!(world.shift("shop-admin", crossing).await.is_ok());
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_of_a_cluster_is_for_those_who_have_it_in_every_namespace() {
    let world = furnished().await;
    let mut clusters = ClusterServiceClient::new(world.caller("shop-admin"));
    let cordon = |cluster: &str| api::CordonClusterRequest {
        request_id: id(),
        cluster: cluster.to_owned(),
        ..Default::default()
    };
    for cluster in ["blue", "never-was"] {
        let refused = clusters.cordon_cluster(cordon(cluster)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains(&format!("cluster {cluster} in all namespaces")), "{refused:?}");
    }
    let mut red = ClusterServiceClient::new(world.caller("red-operator"));
    let refused = red.cordon_cluster(cordon("blue")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let remove = api::RemoveClusterRequest { request_id: id(), cluster: "red".to_owned(), ..Default::default() };
    assert_eq!(red.remove_cluster(remove).await.unwrap_err().code(), Code::PermissionDenied);
    let force = api::DrainClusterRequest {
        request_id: id(),
        cluster: "red".to_owned(),
        force: true,
        reason: "it burns".to_owned(),
        ..Default::default()
    };
    let refused = red.drain_cluster(force).await.unwrap_err();
    assert!(refused.message().contains("may not override Capacity"), "{refused:?}");
    red.cordon_cluster(cordon("red")).await.unwrap();

    // To take back what an admin did is an admin's.
    let mut admin = ClusterServiceClient::new(world.caller("red-admin"));
    let remove = || api::RemoveClusterRequest { request_id: id(), cluster: "red".to_owned(), ..Default::default() };
    let uncordon = || api::UncordonClusterRequest { request_id: id(), cluster: "red".to_owned(), ..Default::default() };
    admin.remove_cluster(remove()).await.unwrap();
    let refused = red.uncordon_cluster(uncordon()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("may not uncordon cluster red"), "{refused:?}");
    admin.uncordon_cluster(uncordon()).await.unwrap();
    red.uncordon_cluster(uncordon()).await.unwrap();

    // The operation concerns policies of a namespace that this viewer does not see.
    let shown = ClusterServiceClient::new(world.caller("shop-viewer")).list_clusters(api::ListClustersRequest {}).await;
    let shown = format!("{:?}", shown.unwrap().into_inner());
    assert!(shown.contains("red") && !shown.contains("hidden"), "{shown}");
    let blue = ClusterServiceClient::new(world.caller("blue-viewer")).list_clusters(api::ListClustersRequest {}).await;
    assert_eq!(blue.unwrap().into_inner().clusters.len(), 0, "red is not blue's viewer's");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_what_its_caller_sees_also_when_policies_come_and_go() {
    let world = furnished().await;
    let watched = world.policies("shop-viewer").watch_policies(api::WatchPoliciesRequest::default()).await;
    let mut watched = watched.unwrap().into_inner();
    let mut next = async || watched.next().await.unwrap().unwrap();
    let first = next().await;
    assert_eq!(first.policy.unwrap().r#ref.unwrap(), policy_ref("web"));
    assert_eq!(next().await.event(), api::WatchEvent::Synced);
    world.apply("admin", "hidden", "hidden-later", &[("blue", 1)]).await.unwrap();
    let delete = api::DeletePolicyRequest {
        request_id: id(),
        policy: Some(policy_of("hidden", "hidden-later")),
        ..Default::default()
    };
    world.policies("admin").delete_policy(delete).await.unwrap();
    world.apply("admin", "shop", "later", &[("blue", 1)]).await.unwrap();
    let told = next().await;
    assert_eq!(told.policy.unwrap().r#ref.unwrap(), policy_ref("later"), "and of nothing before");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_clusters_tells_nothing_of_one_that_its_caller_may_not_read() {
    let (world, _blue, _) = furnished_everywhere().await;
    let mut clusters = ClusterServiceClient::new(world.caller("blue-viewer"));
    let of_red = api::WatchClustersRequest { cluster: "red".to_owned() };
    assert_eq!(clusters.watch_clusters(of_red).await.unwrap_err().code(), Code::PermissionDenied);
    let mut watched = clusters.watch_clusters(api::WatchClustersRequest::default()).await.unwrap().into_inner();
    let mut next = async || watched.next().await.unwrap().unwrap().cluster.unwrap();
    assert_eq!(next().await.name, "blue");
    let mut admin = ClusterServiceClient::new(world.caller("admin"));
    let red = api::UncordonClusterRequest { request_id: id(), cluster: "red".to_owned(), ..Default::default() };
    admin.uncordon_cluster(red).await.unwrap();
    let blue = api::CordonClusterRequest { request_id: id(), cluster: "blue".to_owned(), ..Default::default() };
    admin.cordon_cluster(blue).await.unwrap();
    let mut told = next().await;
    while told.operation.is_none() {
        assert_eq!(told.name, "blue", "{told:?}");
        told = next().await;
    }
    assert_eq!((told.name.as_str(), told.mode()), ("blue", api::ClusterMode::Cordoned));
    world.hub.stop().await;
}

/// One message of every stream of an agent, and then silence.
async fn speak(port: Port, cluster: &str) -> Vec<(&'static str, Status)> {
    let (cluster, instance) = (cluster.to_owned(), id());
    let mut ended = Vec::new();
    let hello = agent::Hello { agent_instance_id: instance.clone(), ..grpc_support::hello(&cluster) };
    let first = agent::AgentMessage { seq: 0, message: Some(agent_message::Message::Hello(hello)) };
    let stream = tokio_stream::iter([first]).chain(tokio_stream::pending());
    let answer = AgentServiceClient::new(port.clone()).session(stream).await;
    ended.push(("AgentService/Session", end(answer).await));
    let hello =
        agent::SourceHello { cluster: cluster.clone(), agent_instance_id: instance.clone(), ..Default::default() };
    let message = Some(agent::sync_policies_request::Message::Hello(hello));
    let stream = tokio_stream::iter([agent::SyncPoliciesRequest { seq: 0, message }]).chain(tokio_stream::pending());
    let answer = PolicySourceServiceClient::new(port.clone()).sync_policies(stream).await;
    ended.push(("PolicySourceService/SyncPolicies", end(answer).await));
    let hello =
        agent::ShiftSourceHello { cluster: cluster.clone(), agent_instance_id: instance.clone(), ..Default::default() };
    let message = Some(agent::sync_shifts_request::Message::Hello(hello));
    let stream = tokio_stream::iter([agent::SyncShiftsRequest { message }]).chain(tokio_stream::pending());
    let answer = ShiftSourceServiceClient::new(port.clone()).sync_shifts(stream).await;
    ended.push(("ShiftSourceService/SyncShifts", end(answer).await));
    let request = agent::WatchTargetHealthRequest { cluster, agent_instance_id: instance, ..Default::default() };
    let answer = TargetHealthServiceClient::new(port).watch_target_health(request).await;
    ended.push(("TargetHealthService/WatchTargetHealth", end(answer).await));
    ended
}

/// The status of a stream that is to end before it says anything.
async fn end<T: std::fmt::Debug>(answer: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Status {
    match answer {
        Err(status) => status,
        Ok(answer) => answer.into_inner().message().await.expect_err("it is let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_speaks_for_the_cluster_of_its_certificate_and_for_no_other() {
    let world = world().await;
    let before = world.rows().await;
    for round in 0..3 {
        for (stream, status) in speak(world.agent("green"), "blue").await {
            assert_eq!(status.code(), Code::PermissionDenied, "{stream}: {status:?}");
            for part in ["agent:green", "cluster blue", "yardctl cluster join blue"] {
                assert!(status.message().contains(part), "{stream}: {part}: {status:?}");
            }
        }
        let counted = world.hub.metrics.encoded().unwrap();
        let expected = format!(" {}", round + 1);
        assert!(counted.lines().any(|line| line.contains("not_yours") && line.ends_with(&expected)), "{counted}");
    }
    assert_eq!(world.rows().await, before, "nothing of it is stored");
    // In the audit log, put together.
    let refused = "select detail ->> 'rpc', (detail ->> 'count')::bigint from audit where result = 'refused' and actor = 'agent:green'";
    eventually("twelve refusals in the audit log", async || {
        let rows = sqlx::query_as::<_, (String, i64)>(refused).fetch_all(&world.raw).await.unwrap();
        (rows.iter().map(|(_, count)| count).sum::<i64>() == 12).then_some(())
    })
    .await;
    let mut own = AgentServiceClient::new(world.agent("blue"));
    let first =
        agent::AgentMessage { seq: 0, message: Some(agent_message::Message::Hello(grpc_support::hello("blue"))) };
    let answer = own.session(tokio_stream::iter([first]).chain(tokio_stream::pending())).await.unwrap();
    let welcome = answer.into_inner().message().await.unwrap().unwrap();
    assert!(matches!(welcome.message, Some(agent::hub_message::Message::Welcome(_))), "{welcome:?}");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_anything_without_a_proof_and_reflection_is_no_exception() {
    let world = world().await;
    let port = world.nobody();
    for path in [
        "/switchyard.api.v1.PolicyService/Nothing",
        "/x/y",
        "/",
        "//switchyard.api.v1.PolicyService/GetPolicy",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let request =
            http::Request::post(path).header("content-type", "application/grpc").body(tonic::body::Body::empty());
        let answer = tower::ServiceExt::oneshot(port.clone(), request.unwrap()).await.unwrap();
        let status = Status::from_header_map(answer.headers()).expect(path);
        assert!(matches!(status.code(), Code::Unimplemented | Code::Unauthenticated), "{path}: {status:?}");
    }
    world.hub.stop().await;
}
