//! The real loop, watchers and tonic stream, with a fake API server, and a hub that the test plays.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use switchyard_proto::{
    agent::v1::{
        self as proto, WatchTargetHealthRequest, WatchTargetHealthResponse,
        target_health_service_server::{TargetHealthService, TargetHealthServiceServer},
        watch_target_health_response::Message as Said,
    },
    api::v1::PolicyRef,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Server};

use super::{
    driver::{Driver, tap},
    inject::Injection,
    objects::PREFIX,
};
use crate::{
    complaints::Complaints,
    index::{Index, objects::ServiceRef},
    link::{
        epoch::HighestEpoch,
        transport::{Dialer, Link, Target},
    },
    metrics::Metrics,
    watch::{
        SourceUpdate, Watchers,
        fake::{self, FakeKube},
        gates::GateKeeper,
    },
};

/// Generous, for two busy cores; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_secs(20);
/// Never, as far as a test is concerned.
const NEVER: Duration = Duration::from_secs(3600);

/// A fake API server on which conditions can be patched.
#[derive(Clone)]
struct Cluster {
    kube: FakeKube,
    pods: Arc<Mutex<BTreeMap<String, Value>>>,
    forbidden: Arc<Mutex<bool>>,
    changed: Arc<tokio::sync::Notify>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            kube: FakeKube::new(),
            pods: Arc::default(),
            forbidden: Arc::default(),
            changed: Arc::new(tokio::sync::Notify::new()),
        }
    }

    fn client(&self) -> Client {
        let (cluster, inner) = (self.clone(), self.kube.client());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (cluster, inner) = (cluster.clone(), inner.clone());
            async move {
                if request.method() == Method::PATCH {
                    let (parts, body) = request.into_parts();
                    let bytes = body.collect().await?.to_bytes();
                    let body = serde_json::from_slice(&bytes).expect("a patch in JSON");
                    let (code, answer) = cluster.patch(parts.uri.path(), &body);
                    let body = Body::from(answer.to_string().into_bytes());
                    return Ok(Response::builder().status(code).body(body).expect("a response"));
                }
                inner.send(request).await
            }
        });
        Client::new(service, "default")
    }

    fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        let name = path.trim_end_matches("/status").rsplit('/').next().expect("a name").to_owned();
        let failure = |code: u16, message: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "X",
                "message": message, "metadata": {}});
            (code, status)
        };
        if *self.forbidden.lock().expect("no panic") {
            return failure(403, "User \"agent\" cannot patch resource \"pods/status\"");
        }
        let Some(mut pod) = self.pods.lock().expect("no panic").get(&name).cloned() else {
            return failure(404, "not found");
        };
        assert_eq!(body["metadata"]["uid"], pod["metadata"]["uid"]);
        let condition = body["status"]["conditions"][0].clone();
        let conditions = pod["status"]["conditions"].as_array_mut().expect("conditions");
        conditions.retain(|known| known["type"] != condition["type"]);
        conditions.push(condition);
        self.put(&pod);
        (200, pod)
    }

    fn put(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
        self.pods.lock().expect("no panic").insert(name, pod.clone());
        self.kube.put(&fake::pods(namespace), pod.clone());
        self.kube.put("/api/v1/pods", pod.clone());
        self.changed.notify_one();
    }

    /// A pod whose containers are ready and that waits for the gate of the policy checkout.
    fn run(&self, namespace: &str, name: &str) {
        let mut pod = fake::pod(name, "10.0.0.1");
        pod["metadata"]["namespace"] = json!(namespace);
        pod["spec"]["readinessGates"] = json!([{"conditionType": format!("{PREFIX}checkout")}]);
        pod["status"]["conditions"] = json!([{"type": "ContainersReady", "status": "True"}]);
        self.put(&pod);
    }

    fn condition(&self, name: &str) -> String {
        let pods = self.pods.lock().expect("no panic");
        let conditions = pods[name]["status"]["conditions"].as_array().expect("conditions").clone();
        let found = conditions.into_iter().find(|known| known["type"] == format!("{PREFIX}checkout"));
        found.map_or_else(String::new, |found| format!("{} {}", found["status"], found["reason"]).replace('"', ""))
    }

    async fn shows(&self, name: &str, wanted: &str) {
        let wait = async {
            while self.condition(name) != wanted {
                self.changed.notified().await;
            }
        };
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("waited in vain for {name} to show {wanted:?}; it shows {:?}", self.condition(name));
        }
    }
}

struct Doorman(mpsc::Sender<Conversation>);

/// One stream, from the hub's side.
struct Conversation {
    request: WatchTargetHealthRequest,
    say: mpsc::Sender<Result<WatchTargetHealthResponse, Status>>,
}

#[tonic::async_trait]
impl TargetHealthService for Doorman {
    type WatchTargetHealthStream = ReceiverStream<Result<WatchTargetHealthResponse, Status>>;

    async fn watch_target_health(
        &self,
        request: tonic::Request<WatchTargetHealthRequest>,
    ) -> Result<tonic::Response<Self::WatchTargetHealthStream>, Status> {
        let (say, stream) = mpsc::channel(64);
        let conversation = Conversation { request: request.into_inner(), say };
        self.0.send(conversation).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }
}

impl Conversation {
    async fn say(&self, message: Said) {
        self.say.send(Ok(WatchTargetHealthResponse { message: Some(message) })).await.expect("the agent listens");
    }

    async fn welcome(&self) {
        self.say(Said::Welcome(proto::HealthWelcome { epoch: 4, heartbeat_interval_ms: 60_000 })).await;
    }

    async fn policy(&self, mode: proto::GateMode, targets: &[(&str, proto::TargetHealth)]) {
        let target = |&(pod, health): &(&str, proto::TargetHealth)| proto::GatedTarget {
            pod_uid: format!("uid-of-{pod}"),
            health: health.into(),
            ..proto::GatedTarget::default()
        };
        self.say(Said::Policy(proto::PolicyHealth {
            policy: Some(PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() }),
            service: Some(proto::ServiceRef { name: "checkout".to_owned(), ..proto::ServiceRef::default() }),
            mode: mode.into(),
            targets: targets.iter().map(target).collect(),
            ..proto::PolicyHealth::default()
        }))
        .await;
    }

    async fn synced(&self) {
        self.say(Said::Synced(proto::HealthSynced {})).await;
    }
}

/// The gates' loop, and all that is around it.
struct Agent {
    callers: mpsc::Receiver<Conversation>,
    hub: JoinHandle<()>,
    watchers: Watchers,
    index: Index,
    /// Nobody reads them here, but they have to go somewhere.
    drain: JoinHandle<()>,
    complaints: Complaints,
    metrics: Metrics,
    injection: tokio::sync::watch::Receiver<Arc<Injection>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    async fn start(cluster: Cluster, release_after: Duration, first_look: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (doorman, callers) = mpsc::channel(4);
        let server = Server::builder().add_service(TargetHealthServiceServer::new(Doorman(doorman)));
        let hub = tokio::spawn(async move {
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        let metrics = Metrics::new();
        let (watchers, updates) = Watchers::new(cluster.client(), metrics.clone());
        let (tap, tapped) = tap();
        let watchers = watchers.tapped(tap);
        let drain = tokio::spawn(swallow(updates));
        let (complaints, stop) = (Complaints::default(), CancellationToken::new());
        let (injection_sender, injection) = tokio::sync::watch::channel(Arc::default());
        let driver = Driver {
            cluster: "blue".to_owned(),
            instance_id: "i".to_owned(),
            release_after,
            namespaces: Vec::new(),
            first_look,
            link: Link::new(Dialer::new(&Target { url, tls: None }).expect("a target")),
            epoch: HighestEpoch::default(),
            keeper: GateKeeper::new(cluster.client()),
            tapped,
            kept: Watchers::new(cluster.client(), metrics.clone()),
            metrics: metrics.clone(),
            complaints: complaints.clone(),
            injection: injection_sender,
        };
        let task = tokio::spawn(driver.run(stop.clone()));
        let index = Index::new();
        Self { callers, hub, watchers, index, drain, complaints, metrics, injection, stop, task }
    }

    /// As when the hub names the Service checkout of shop.
    fn route(&mut self, version: u64, services: &[&str]) {
        let reference = |name: &&str| crate::index::fixtures::reference_in("shop", name, "http");
        let references: Vec<ServiceRef> = services.iter().map(reference).collect();
        self.index.set_watch_set(version, references);
        self.watchers.want(&self.index.wanted_sources());
    }

    async fn called(&mut self) -> Conversation {
        timeout(DEADLINE, self.callers.recv()).await.expect("the agent calls").expect("the hub is there")
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.expect("it ends").expect("without a panic");
        self.hub.abort();
        self.drain.abort();
    }
}

async fn swallow(mut updates: mpsc::Receiver<SourceUpdate>) {
    while updates.recv().await.is_some() {}
}

#[tokio::test]
async fn a_gate_follows_the_hub_from_its_first_word_to_healthy() {
    let cluster = Cluster::new();
    let mut agent = Agent::start(cluster.clone(), NEVER, NEVER).await;
    agent.route(1, &["checkout"]);
    cluster.run("shop", "web-0");
    cluster.shows("web-0", "False HubAway").await;
    let hub = agent.called().await;
    assert_eq!((hub.request.cluster.as_str(), hub.request.agent_instance_id.as_str()), ("blue", "i"));
    hub.welcome().await;
    hub.policy(proto::GateMode::Judged, &[]).await;
    hub.synced().await;
    cluster.shows("web-0", "False NotRegistered").await;
    hub.policy(proto::GateMode::Judged, &[("web-0", proto::TargetHealth::Initial)]).await;
    cluster.shows("web-0", "False TargetInitial").await;
    hub.policy(proto::GateMode::Judged, &[("web-0", proto::TargetHealth::Healthy)]).await;
    cluster.shows("web-0", "True TargetHealthy").await;
    hub.policy(proto::GateMode::Judged, &[("web-0", proto::TargetHealth::Unhealthy)]).await;
    cluster.run("shop", "web-1");
    cluster.shows("web-1", "False NotRegistered").await;
    assert_eq!(cluster.condition("web-0"), "True TargetHealthy", "an open gate stays open");
    let page = agent.metrics.encode();
    assert!(page.contains("switchyard_agent_gates_opened_total{reason=\"TargetHealthy\"} 1"), "{page}");
    agent.end().await;
}

#[tokio::test]
async fn a_hub_that_leaves_lets_the_gates_open_after_the_set_time() {
    let cluster = Cluster::new();
    let mut agent = Agent::start(cluster.clone(), Duration::from_secs(1), NEVER).await;
    agent.route(1, &["checkout"]);
    let hub = agent.called().await;
    hub.welcome().await;
    hub.policy(proto::GateMode::Judged, &[("web-0", proto::TargetHealth::Initial)]).await;
    hub.synced().await;
    cluster.run("shop", "web-0");
    cluster.shows("web-0", "False TargetInitial").await;
    agent.hub.abort();
    drop(hub);
    drop(std::mem::replace(&mut agent.callers, mpsc::channel(1).1));
    cluster.shows("web-0", "True ReleasedHubAway").await;
    agent.end().await;
}

#[tokio::test]
async fn forgotten_gates_are_found_and_opened_and_those_that_follow_them_too() {
    let cluster = Cluster::new();
    cluster.run("old", "web-0");
    let mut agent = Agent::start(cluster.clone(), NEVER, Duration::ZERO).await;
    let hub = agent.called().await;
    hub.welcome().await;
    hub.synced().await;
    cluster.shows("web-0", "True PolicyGone").await;
    cluster.run("old", "web-1");
    cluster.shows("web-1", "True PolicyGone").await;
    agent.end().await;
}

#[tokio::test]
async fn gates_of_a_namespace_that_is_routed_no_longer_are_still_opened() {
    let cluster = Cluster::new();
    let mut agent = Agent::start(cluster.clone(), NEVER, NEVER).await;
    agent.route(1, &["checkout"]);
    let hub = agent.called().await;
    hub.welcome().await;
    hub.policy(proto::GateMode::Judged, &[]).await;
    hub.synced().await;
    cluster.run("shop", "web-0");
    cluster.shows("web-0", "False NotRegistered").await;
    agent.route(2, &[]);
    let gone = proto::PolicyHealth {
        policy: Some(PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() }),
        gone: true,
        ..proto::PolicyHealth::default()
    };
    hub.say(Said::Policy(gone)).await;
    cluster.shows("web-0", "True PolicyGone").await;
    cluster.run("shop", "web-1");
    cluster.shows("web-1", "True PolicyGone").await;
    agent.end().await;
}

#[tokio::test]
async fn a_missing_permission_is_complained_of_until_it_is_granted() {
    let cluster = Cluster::new();
    *cluster.forbidden.lock().expect("no panic") = true;
    let mut agent = Agent::start(cluster.clone(), NEVER, NEVER).await;
    agent.route(1, &["checkout"]);
    let hub = agent.called().await;
    hub.welcome().await;
    hub.policy(proto::GateMode::Released, &[]).await;
    hub.synced().await;
    cluster.run("shop", "web-0");
    let complaint = "readiness gates: no leave to patch pods/status in shop, so pods with readiness gates stay unready; grant the verb";
    let complaints = agent.complaints.clone();
    let heard = async |wanted: &[&str]| {
        let wait = async {
            while complaints.lines() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{wanted:?}, but {:?}", complaints.lines()));
    };
    heard(&[complaint]).await;
    *cluster.forbidden.lock().expect("no panic") = false;
    cluster.shows("web-0", "True NotJudged").await;
    heard(&[]).await;
    agent.end().await;
}

#[tokio::test]
async fn the_webhook_is_told_of_policies_and_of_the_selectors_of_their_services() {
    let cluster = Cluster::new();
    let mut agent = Agent::start(cluster.clone(), NEVER, NEVER).await;
    agent.route(1, &["checkout"]);
    let hub = agent.called().await;
    hub.welcome().await;
    hub.policy(proto::GateMode::Judged, &[]).await;
    hub.synced().await;
    cluster.kube.put(&fake::services("shop"), fake::service("checkout"));
    let labels: BTreeMap<String, String> = [("app".to_owned(), "checkout".to_owned())].into();
    let mut injection = agent.injection.clone();
    let injects = |injection: &Arc<Injection>| !injection.of_pod("shop", &labels, &[]).gates.is_empty();
    timeout(DEADLINE, injection.wait_for(injects)).await.expect("in time").expect("the loop runs");
    hub.policy(proto::GateMode::Released, &[]).await;
    timeout(DEADLINE, injection.wait_for(|injection| !injects(injection)))
        .await
        .expect("in time")
        .expect("the loop runs");
    agent.end().await;
}
