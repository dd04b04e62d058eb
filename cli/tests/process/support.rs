//! A hub that answers from a script, on a free port, and the real `yardctl` process against it.
//!
//! Each call takes the next answer of its own queue. A call for which the script has nothing left is answered with
//! INTERNAL, so that a test cannot pass by an answer nobody wrote. All requests are kept for the test to look at.

use std::{
    collections::VecDeque,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::access_support::{AccessScript, AccessSeen};
use switchyard_proto::api::v1::{
    self as pb,
    access_service_server::AccessServiceServer,
    audit_service_server::{AuditService, AuditServiceServer},
    cluster_service_server::{ClusterService, ClusterServiceServer},
    policy_service_server::{PolicyService, PolicyServiceServer},
    safety_service_server::{SafetyService, SafetyServiceServer},
    shift_service_server::{ShiftService, ShiftServiceServer},
};
use tokio::{io::AsyncWriteExt, net::TcpListener, process::Command};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

/// No command of these tests needs this long; one that does hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// One answer of a call.
pub enum Answer<T> {
    Ok(T),
    Refuse(Status),
    /// The caller's patience decides.
    Never,
    /// Refused after this was done: what happens on the caller's machine while the hub thinks.
    RefuseAfter(Box<dyn FnOnce() + Send>, Status),
}

/// One thing that a watch stream does. A stream ends when its script does.
pub enum Beat {
    Event(pb::WatchEvent, Box<pb::Policy>),
    Synced,
    Break(Status),
    /// Nothing more, but the stream stays open.
    Hold,
}

/// One thing that a watch of a shift does. A stream ends when its script does.
pub enum ShiftBeat {
    Shift(Box<pb::Shift>),
    Break(Status),
    /// Nothing more, but the stream stays open.
    Hold,
}

/// One thing that a watch of a cluster does. A stream ends when its script does.
pub enum ClusterBeat {
    Cluster(Box<pb::Cluster>),
    Break(Status),
    /// Nothing more, but the stream stays open.
    Hold,
}

pub type Queue<T> = Mutex<VecDeque<Answer<T>>>;

/// What the hub will answer, call by call.
#[derive(Default)]
pub struct Script {
    pub apply: Queue<pb::ApplyPolicyResponse>,
    pub get: Queue<pb::GetPolicyResponse>,
    pub list: Queue<pb::ListPoliciesResponse>,
    pub watch: Mutex<VecDeque<Answer<Vec<Beat>>>>,
    pub delete: Queue<pb::DeletePolicyResponse>,
    pub weights: Queue<pb::SetWeightsResponse>,
    pub plan: Queue<pb::GetPlanResponse>,
    pub clusters: Queue<pb::ListClustersResponse>,
    pub endpoints: Queue<pb::ListEndpointsResponse>,
    pub watch_cluster: Mutex<VecDeque<Answer<Vec<ClusterBeat>>>>,
    /// Cordon, uncordon and remove take their answers here.
    pub of_cluster: Queue<pb::Cluster>,
    pub drain: Queue<pb::DrainClusterResponse>,
    pub drill: Queue<pb::DrillClusterLossResponse>,
    pub explain: Queue<pb::ExplainPolicyResponse>,
    pub failback: Queue<pb::FailbackPolicyResponse>,
    pub create: Queue<pb::CreateShiftResponse>,
    pub get_shift: Queue<pb::GetShiftResponse>,
    pub shifts: Queue<pb::ListShiftsResponse>,
    pub watch_shift: Mutex<VecDeque<Answer<Vec<ShiftBeat>>>>,
    /// Pause, resume, approve, promote and abort take their answers here.
    pub act: Queue<pb::Shift>,
    pub rollback: Queue<pb::RollbackShiftResponse>,
    pub audit: Queue<pb::ListAuditEntriesResponse>,
    pub audit_head: Queue<pb::GetAuditHeadResponse>,
    pub access: AccessScript,
    pub switches: Queue<pb::ListGatingSwitchesResponse>,
    pub set_switch: Queue<pb::SetGatingSwitchResponse>,
    pub delete_switch: Queue<pb::DeleteGatingSwitchResponse>,
}

pub fn queue<T>(answers: impl IntoIterator<Item = Answer<T>>) -> Mutex<VecDeque<Answer<T>>> {
    Mutex::new(answers.into_iter().collect())
}

/// What the hub was asked.
#[derive(Default)]
pub struct Seen {
    pub apply: Mutex<Vec<pb::ApplyPolicyRequest>>,
    pub list: Mutex<Vec<pb::ListPoliciesRequest>>,
    pub watch: Mutex<Vec<pb::WatchPoliciesRequest>>,
    pub delete: Mutex<Vec<pb::DeletePolicyRequest>>,
    pub weights: Mutex<Vec<pb::SetWeightsRequest>>,
    pub endpoints: Mutex<Vec<pb::ListEndpointsRequest>>,
    pub watch_cluster: Mutex<Vec<pb::WatchClustersRequest>>,
    /// What was done, and the request in the form of a cordon: all three have the same fields.
    pub of_cluster: Mutex<Vec<(&'static str, pb::CordonClusterRequest)>>,
    pub drain: Mutex<Vec<pb::DrainClusterRequest>>,
    pub drill: Mutex<Vec<pb::DrillClusterLossRequest>>,
    pub failback: Mutex<Vec<pb::FailbackPolicyRequest>>,
    pub create: Mutex<Vec<pb::CreateShiftRequest>>,
    pub shifts: Mutex<Vec<pb::ListShiftsRequest>>,
    pub watch_shift: Mutex<Vec<pb::WatchShiftRequest>>,
    /// What was done, and the request in the form of an approval, which has every field.
    pub act: Mutex<Vec<(&'static str, pb::ApproveShiftRequest)>>,
    pub rollback: Mutex<Vec<pb::RollbackShiftRequest>>,
    pub audit: Mutex<Vec<pb::ListAuditEntriesRequest>>,
    pub access: AccessSeen,
    /// The authorization headers of each call, in the order of the calls.
    pub proofs: Mutex<Vec<Vec<String>>>,
    pub set_switch: Mutex<Vec<pb::SetGatingSwitchRequest>>,
    pub delete_switch: Mutex<Vec<pb::DeleteGatingSwitchRequest>>,
}

pub async fn next<T>(call: &str, queue: &Mutex<VecDeque<Answer<T>>>) -> Result<T, Status> {
    let answer = queue.lock().unwrap().pop_front();
    match answer {
        Some(Answer::Ok(answer)) => Ok(answer),
        Some(Answer::Refuse(status)) => Err(status),
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::RefuseAfter(done, status)) => {
            done();
            Err(status)
        }
        None => Err(Status::internal(format!("the script has no answer left for {call}"))),
    }
}

#[derive(Clone)]
pub struct Service {
    pub script: Arc<Script>,
    pub seen: Arc<Seen>,
}

#[tonic::async_trait]
impl PolicyService for Service {
    type WatchPoliciesStream = Pin<Box<dyn Stream<Item = Result<pb::WatchPoliciesResponse, Status>> + Send>>;

    async fn apply_policy(
        &self,
        request: Request<pb::ApplyPolicyRequest>,
    ) -> Result<Response<pb::ApplyPolicyResponse>, Status> {
        self.seen.apply.lock().unwrap().push(request.into_inner());
        next("ApplyPolicy", &self.script.apply).await.map(Response::new)
    }

    async fn get_policy(&self, _: Request<pb::GetPolicyRequest>) -> Result<Response<pb::GetPolicyResponse>, Status> {
        next("GetPolicy", &self.script.get).await.map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<pb::ListPoliciesRequest>,
    ) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        self.seen.list.lock().unwrap().push(request.into_inner());
        next("ListPolicies", &self.script.list).await.map(Response::new)
    }

    async fn watch_policies(
        &self,
        request: Request<pb::WatchPoliciesRequest>,
    ) -> Result<Response<Self::WatchPoliciesStream>, Status> {
        self.seen.watch.lock().unwrap().push(request.into_inner());
        let beats = next("WatchPolicies", &self.script.watch).await?;
        let stream = tokio_stream::iter(beats).then(|beat| async move {
            match beat {
                Beat::Event(event, policy) => {
                    Ok(pb::WatchPoliciesResponse { event: event as i32, policy: Some(*policy) })
                }
                Beat::Synced => Ok(pb::WatchPoliciesResponse { event: pb::WatchEvent::Synced as i32, policy: None }),
                Beat::Break(status) => Err(status),
                Beat::Hold => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delete_policy(
        &self,
        request: Request<pb::DeletePolicyRequest>,
    ) -> Result<Response<pb::DeletePolicyResponse>, Status> {
        self.seen.delete.lock().unwrap().push(request.into_inner());
        next("DeletePolicy", &self.script.delete).await.map(Response::new)
    }

    async fn set_weights(
        &self,
        request: Request<pb::SetWeightsRequest>,
    ) -> Result<Response<pb::SetWeightsResponse>, Status> {
        self.seen.weights.lock().unwrap().push(request.into_inner());
        next("SetWeights", &self.script.weights).await.map(Response::new)
    }

    async fn get_plan(&self, _: Request<pb::GetPlanRequest>) -> Result<Response<pb::GetPlanResponse>, Status> {
        next("GetPlan", &self.script.plan).await.map(Response::new)
    }

    async fn explain_policy(
        &self,
        _: Request<pb::ExplainPolicyRequest>,
    ) -> Result<Response<pb::ExplainPolicyResponse>, Status> {
        next("ExplainPolicy", &self.script.explain).await.map(Response::new)
    }

    async fn failback_policy(
        &self,
        request: Request<pb::FailbackPolicyRequest>,
    ) -> Result<Response<pb::FailbackPolicyResponse>, Status> {
        self.seen.failback.lock().unwrap().push(request.into_inner());
        next("FailbackPolicy", &self.script.failback).await.map(Response::new)
    }
}

impl Service {
    async fn of_cluster(
        &self,
        what: &'static str,
        request: pb::CordonClusterRequest,
    ) -> Result<Option<pb::Cluster>, Status> {
        self.seen.of_cluster.lock().unwrap().push((what, request));
        next(what, &self.script.of_cluster).await.map(Some)
    }
}

#[tonic::async_trait]
impl ClusterService for Service {
    type WatchClustersStream = Pin<Box<dyn Stream<Item = Result<pb::WatchClustersResponse, Status>> + Send>>;

    async fn watch_clusters(
        &self,
        request: Request<pb::WatchClustersRequest>,
    ) -> Result<Response<Self::WatchClustersStream>, Status> {
        self.seen.watch_cluster.lock().unwrap().push(request.into_inner());
        let beats = next("WatchClusters", &self.script.watch_cluster).await?;
        let stream = tokio_stream::iter(beats).then(|beat| async move {
            match beat {
                ClusterBeat::Cluster(cluster) => Ok(pb::WatchClustersResponse { cluster: Some(*cluster) }),
                ClusterBeat::Break(status) => Err(status),
                ClusterBeat::Hold => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cordon_cluster(
        &self,
        request: Request<pb::CordonClusterRequest>,
    ) -> Result<Response<pb::CordonClusterResponse>, Status> {
        let cluster = self.of_cluster("cordon", request.into_inner()).await?;
        Ok(Response::new(pb::CordonClusterResponse { cluster }))
    }

    async fn uncordon_cluster(
        &self,
        request: Request<pb::UncordonClusterRequest>,
    ) -> Result<Response<pb::UncordonClusterResponse>, Status> {
        let pb::UncordonClusterRequest { request_id, cluster, reason, expected_version } = request.into_inner();
        let request = pb::CordonClusterRequest { request_id, cluster, reason, expected_version };
        let cluster = self.of_cluster("uncordon", request).await?;
        Ok(Response::new(pb::UncordonClusterResponse { cluster }))
    }

    async fn remove_cluster(
        &self,
        request: Request<pb::RemoveClusterRequest>,
    ) -> Result<Response<pb::RemoveClusterResponse>, Status> {
        let pb::RemoveClusterRequest { request_id, cluster, reason, expected_version } = request.into_inner();
        let request = pb::CordonClusterRequest { request_id, cluster, reason, expected_version };
        let cluster = self.of_cluster("remove", request).await?;
        Ok(Response::new(pb::RemoveClusterResponse { cluster }))
    }

    async fn drain_cluster(
        &self,
        request: Request<pb::DrainClusterRequest>,
    ) -> Result<Response<pb::DrainClusterResponse>, Status> {
        self.seen.drain.lock().unwrap().push(request.into_inner());
        next("DrainCluster", &self.script.drain).await.map(Response::new)
    }

    async fn drill_cluster_loss(
        &self,
        request: Request<pb::DrillClusterLossRequest>,
    ) -> Result<Response<pb::DrillClusterLossResponse>, Status> {
        self.seen.drill.lock().unwrap().push(request.into_inner());
        next("DrillClusterLoss", &self.script.drill).await.map(Response::new)
    }

    async fn list_clusters(
        &self,
        _: Request<pb::ListClustersRequest>,
    ) -> Result<Response<pb::ListClustersResponse>, Status> {
        next("ListClusters", &self.script.clusters).await.map(Response::new)
    }

    async fn list_endpoints(
        &self,
        request: Request<pb::ListEndpointsRequest>,
    ) -> Result<Response<pb::ListEndpointsResponse>, Status> {
        self.seen.endpoints.lock().unwrap().push(request.into_inner());
        next("ListEndpoints", &self.script.endpoints).await.map(Response::new)
    }
}

impl Service {
    async fn act(&self, what: &'static str, request: pb::ApproveShiftRequest) -> Result<Option<pb::Shift>, Status> {
        self.seen.act.lock().unwrap().push((what, request));
        next(what, &self.script.act).await.map(Some)
    }
}

#[tonic::async_trait]
impl ShiftService for Service {
    type WatchShiftStream = Pin<Box<dyn Stream<Item = Result<pb::WatchShiftResponse, Status>> + Send>>;

    async fn create_shift(
        &self,
        request: Request<pb::CreateShiftRequest>,
    ) -> Result<Response<pb::CreateShiftResponse>, Status> {
        self.seen.create.lock().unwrap().push(request.into_inner());
        next("CreateShift", &self.script.create).await.map(Response::new)
    }

    async fn get_shift(&self, _: Request<pb::GetShiftRequest>) -> Result<Response<pb::GetShiftResponse>, Status> {
        next("GetShift", &self.script.get_shift).await.map(Response::new)
    }

    async fn list_shifts(
        &self,
        request: Request<pb::ListShiftsRequest>,
    ) -> Result<Response<pb::ListShiftsResponse>, Status> {
        self.seen.shifts.lock().unwrap().push(request.into_inner());
        next("ListShifts", &self.script.shifts).await.map(Response::new)
    }

    async fn watch_shift(
        &self,
        request: Request<pb::WatchShiftRequest>,
    ) -> Result<Response<Self::WatchShiftStream>, Status> {
        self.seen.watch_shift.lock().unwrap().push(request.into_inner());
        let beats = next("WatchShift", &self.script.watch_shift).await?;
        let stream = tokio_stream::iter(beats).then(|beat| async move {
            match beat {
                ShiftBeat::Shift(shift) => Ok(pb::WatchShiftResponse { shift: Some(*shift) }),
                ShiftBeat::Break(status) => Err(status),
                ShiftBeat::Hold => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn pause_shift(
        &self,
        request: Request<pb::PauseShiftRequest>,
    ) -> Result<Response<pb::PauseShiftResponse>, Status> {
        let pb::PauseShiftRequest { request_id, id, reason } = request.into_inner();
        let shift = self.act("pause", pb::ApproveShiftRequest { request_id, id, step: 0, reason }).await?;
        Ok(Response::new(pb::PauseShiftResponse { shift }))
    }

    async fn resume_shift(
        &self,
        request: Request<pb::ResumeShiftRequest>,
    ) -> Result<Response<pb::ResumeShiftResponse>, Status> {
        let pb::ResumeShiftRequest { request_id, id, reason } = request.into_inner();
        let shift = self.act("resume", pb::ApproveShiftRequest { request_id, id, step: 0, reason }).await?;
        Ok(Response::new(pb::ResumeShiftResponse { shift }))
    }

    async fn approve_shift(
        &self,
        request: Request<pb::ApproveShiftRequest>,
    ) -> Result<Response<pb::ApproveShiftResponse>, Status> {
        let shift = self.act("approve", request.into_inner()).await?;
        Ok(Response::new(pb::ApproveShiftResponse { shift }))
    }

    async fn promote_shift(
        &self,
        request: Request<pb::PromoteShiftRequest>,
    ) -> Result<Response<pb::PromoteShiftResponse>, Status> {
        let pb::PromoteShiftRequest { request_id, id, reason } = request.into_inner();
        let shift = self.act("promote", pb::ApproveShiftRequest { request_id, id, step: 0, reason }).await?;
        Ok(Response::new(pb::PromoteShiftResponse { shift }))
    }

    async fn abort_shift(
        &self,
        request: Request<pb::AbortShiftRequest>,
    ) -> Result<Response<pb::AbortShiftResponse>, Status> {
        let pb::AbortShiftRequest { request_id, id, reason } = request.into_inner();
        let shift = self.act("abort", pb::ApproveShiftRequest { request_id, id, step: 0, reason }).await?;
        Ok(Response::new(pb::AbortShiftResponse { shift }))
    }

    async fn rollback_shift(
        &self,
        request: Request<pb::RollbackShiftRequest>,
    ) -> Result<Response<pb::RollbackShiftResponse>, Status> {
        self.seen.rollback.lock().unwrap().push(request.into_inner());
        next("RollbackShift", &self.script.rollback).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl AuditService for Service {
    async fn list_audit_entries(
        &self,
        request: Request<pb::ListAuditEntriesRequest>,
    ) -> Result<Response<pb::ListAuditEntriesResponse>, Status> {
        self.seen.audit.lock().unwrap().push(request.into_inner());
        next("ListAuditEntries", &self.script.audit).await.map(Response::new)
    }

    async fn get_audit_head(
        &self,
        _: Request<pb::GetAuditHeadRequest>,
    ) -> Result<Response<pb::GetAuditHeadResponse>, Status> {
        next("GetAuditHead", &self.script.audit_head).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl SafetyService for Service {
    async fn list_gating_switches(
        &self,
        _: Request<pb::ListGatingSwitchesRequest>,
    ) -> Result<Response<pb::ListGatingSwitchesResponse>, Status> {
        next("ListGatingSwitches", &self.script.switches).await.map(Response::new)
    }

    async fn set_gating_switch(
        &self,
        request: Request<pb::SetGatingSwitchRequest>,
    ) -> Result<Response<pb::SetGatingSwitchResponse>, Status> {
        self.seen.set_switch.lock().unwrap().push(request.into_inner());
        next("SetGatingSwitch", &self.script.set_switch).await.map(Response::new)
    }

    async fn delete_gating_switch(
        &self,
        request: Request<pb::DeleteGatingSwitchRequest>,
    ) -> Result<Response<pb::DeleteGatingSwitchResponse>, Status> {
        self.seen.delete_switch.lock().unwrap().push(request.into_inner());
        next("DeleteGatingSwitch", &self.script.delete_switch).await.map(Response::new)
    }
}

/// The scripted hub; it goes away with the test's runtime.
pub struct Hub {
    pub url: String,
    pub seen: Arc<Seen>,
}

impl Hub {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(script, listener, Server::builder(), "http")
    }

    /// Serves on a listener that the test has made, with a server that it has set up.
    pub fn serve(script: Script, listener: TcpListener, server: Server, scheme: &str) -> Self {
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let service = Service { script: Arc::new(script), seen: seen.clone() };
        let noted = seen.clone();
        let note = move |request: Request<()>| {
            let proofs = request.metadata().get_all("authorization").iter();
            let proofs = proofs.map(|proof| proof.to_str().unwrap_or("?").to_owned()).collect();
            noted.proofs.lock().unwrap().push(proofs);
            Ok(request)
        };
        let server = server
            .layer(tonic::service::InterceptorLayer::new(note))
            .add_service(AccessServiceServer::new(service.clone()))
            .add_service(PolicyServiceServer::new(service.clone()))
            .add_service(ClusterServiceServer::new(service.clone()))
            .add_service(ShiftServiceServer::new(service.clone()))
            .add_service(AuditServiceServer::new(service.clone()))
            .add_service(SafetyServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { url, seen }
    }

    /// Runs yardctl against this hub; words are split at blanks.
    pub async fn yardctl(&self, line: &str) -> Ran {
        yardctl_with(&format!("--hub {} {line}", self.url), "").await
    }

    /// The same with arguments that hold blanks.
    pub async fn yardctl_words(&self, words: &[&str]) -> Ran {
        let mut command = command(&format!("--hub {}", self.url));
        command.args(words);
        finish(command, &words.join(" "), "").await
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// stdout as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Runs yardctl with nothing of this machine's environment that it looks at.
pub async fn yardctl_with(line: &str, stdin: &str) -> Ran {
    finish(command(line), line, stdin).await
}

async fn finish(mut command: Command, line: &str, stdin: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A process that ends without reading its stdin is no error of the test.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("`yardctl {line}` did not end within {DEADLINE:?}"))
        .unwrap();
    Ran {
        code: output.status.code().expect("yardctl ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yardctl"));
    command.args(line.split_whitespace()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    for name in ["HUB", "TLS_CA", "TLS_CERT", "TLS_KEY", "NAMESPACE", "TOKEN", "TOKEN_FILE"] {
        command.env_remove(format!("SWITCHYARD_{name}"));
    }
    command
}

/// shop/checkout at `version`, whose three conditions are true up to `reached` (0: none, 3: all).
pub fn policy(version: u64, reached: usize) -> pb::Policy {
    let conditions = ["Accepted", "Programmed", "Converged"]
        .iter()
        .enumerate()
        .map(|(index, kind)| pb::Condition {
            r#type: (*kind).into(),
            status: if index < reached { pb::ConditionStatus::True } else { pb::ConditionStatus::Unknown } as i32,
            reason: if index < reached { "AsRequested" } else { "NotObservedYet" }.into(),
            message: if index < reached { "" } else { "the engine has not planned this policy yet" }.into(),
            observed_version: version,
            last_transition_time: Some(prost_types::Timestamp { seconds: 1_767_322_800, nanos: 0 }),
        })
        .collect();
    let cluster = |name: &str, weight: u32| pb::ClusterStatus {
        cluster: name.into(),
        requested_weight: weight,
        effective_weight: weight,
        programmed_weight: Some(weight),
        targets: Some(pb::TargetCounts { desired: 2, registered: 2, healthy: 2, ..Default::default() }),
        link: pb::ClusterLink::Connected as i32,
        ..Default::default()
    };
    pb::Policy {
        r#ref: Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() }),
        uid: "u-1".into(),
        version,
        generation: 1,
        spec_json: "{\"order\":100}".into(),
        created_at: Some(prost_types::Timestamp { seconds: 1_767_322_800, nanos: 0 }),
        status: Some(pb::PolicyStatus {
            observed_version: version,
            conditions,
            clusters: vec![cluster("blue", 90), cluster("green", 10)],
            notes: vec![pb::PlanNote {
                cluster: "green".into(),
                reason: "RemovalsHeld".into(),
                message:
                    "1 of 2 targets of green are held: 1 because the pod is not ready. The group carries weight and \
                          keeps at least 2 targets (deregistrationBudgetPercent 50 of 3). If they are meant to go, set \
                          the weight of green to 0 first, or raise spec.safety.deregistrationBudgetPercent"
                        .into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn changed(policy: pb::Policy) -> Beat {
    Beat::Event(pb::WatchEvent::Changed, Box::new(policy))
}

pub fn present(policy: pb::Policy) -> Beat {
    Beat::Event(pb::WatchEvent::Present, Box::new(policy))
}

pub fn weights_answer(policy: pb::Policy) -> Answer<pb::SetWeightsResponse> {
    Answer::Ok(pb::SetWeightsResponse { policy: Some(policy), plan: None })
}

pub fn plan() -> pb::Plan {
    let policy = Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() });
    pb::Plan {
        steps: vec![pb::PlanStep {
            policy,
            operation: "ModifyRule".into(),
            summary: "change rule: weights sy-checkout-blue-4758d4ca=90 sy-checkout-green-618be120=10".into(),
            reason: "weights differ from what is wanted".into(),
        }],
        notes: vec![],
        made_at: None,
    }
}

/// The id of every shift of these tests.
pub const SHIFT: &str = "019b0c3e-7c00-7000-8000-000000000001";

/// shop/checkout on its way from blue to green in steps of 25 and 100 percent: version, state, step, reason. Its history has an
/// event for each version, as a hub that changes it step by step would have written.
pub fn shift(version: u64, state: pb::ShiftState, step: u32, reason: &str) -> pb::Shift {
    let weights = |blue, green| [("blue".to_owned(), blue), ("green".to_owned(), green)].into();
    let percent = [0, 25, 100][step as usize];
    let policy = || Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() });
    let message = format!("message of version {version}");
    let event = |number: u64, state: pb::ShiftState, reason: &str| pb::ShiftEvent {
        at: Some(prost_types::Timestamp { seconds: 1_767_322_800 + i64::try_from(number).unwrap(), nanos: 0 }),
        state: state as i32,
        step,
        reason: reason.into(),
        message: format!("message of version {number}"),
        actor: String::new(),
    };
    let mut history: Vec<pb::ShiftEvent> =
        (1..version).map(|number| event(number, pb::ShiftState::Pending, "Created")).collect();
    history.push(event(version, state, reason));
    pb::Shift {
        id: SHIFT.into(),
        version,
        spec: Some(pb::ShiftSpec {
            policies: vec![pb::ShiftPolicy { policy: policy(), to_cluster: "green".into(), ..Default::default() }],
            strategy: Some(pb::ShiftStrategy {
                steps: vec![
                    pb::ShiftStep { percent: 25, bake_seconds: 120, ..Default::default() },
                    pb::ShiftStep { percent: 100, ..Default::default() },
                ],
                ..Default::default()
            }),
            ..Default::default()
        }),
        status: Some(pb::ShiftStatus {
            state: state as i32,
            step,
            steps: 2,
            reason: reason.into(),
            message,
            programmed: matches!(
                state,
                pb::ShiftState::Baking
                    | pb::ShiftState::Converging
                    | pb::ShiftState::Succeeded
                    | pb::ShiftState::Failed
            ),
            moves: vec![pb::ShiftMove {
                policy: policy(),
                from: weights(100, 0),
                to: weights(0, 100),
                present: weights(100 - percent, percent),
                programmed: weights(100 - percent, percent),
            }],
            history,
            ..Default::default()
        }),
        actor: "deployer".into(),
        created_at: Some(prost_types::Timestamp { seconds: 1_767_322_800, nanos: 0 }),
        ..Default::default()
    }
}

pub fn beat(shift: pb::Shift) -> ShiftBeat {
    ShiftBeat::Shift(Box::new(shift))
}

pub fn created(shift: pb::Shift) -> Answer<pb::CreateShiftResponse> {
    Answer::Ok(pb::CreateShiftResponse { shift: Some(shift), ..Default::default() })
}
