//! A hub without engine and AWS, served on port 0 over a real Postgres, and an agent played by hand.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use switchyard_core::{access::Identity, ids::Epoch, observed::Observed, plan};
use switchyard_hub::{
    access::{AccessSettings, Gatekeeper},
    authority::{Authority, AuthorityOptions, Keys},
    door::Guard,
    feed::{Feed, FeedParts},
    gateway::{self, GatewayParts, Limits},
    grpc::{self, GateSources, GrpcParts},
    http::{self, HttpParts},
    metrics::Metrics,
    store::{Store, StoreOptions},
};
use switchyard_proto::{
    agent::v1::{
        self as agent, AgentMessage, HubMessage, agent_message, agent_service_client::AgentServiceClient, hub_message,
    },
    api::v1::{
        self as api, audit_service_client::AuditServiceClient, cluster_service_client::ClusterServiceClient,
        policy_service_client::PolicyServiceClient, safety_service_client::SafetyServiceClient,
        shift_service_client::ShiftServiceClient,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, service::Routes, transport::Channel};
use uuid::Uuid;

use crate::store_support::database_url;

/// Short, so that the tests of silence are short; not too short for a busy machine.
pub const HEARTBEAT: Duration = Duration::from_millis(400);
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The clusters whose policies are taken.
pub const SOURCES: [&str; 2] = ["blue", "green"];
pub const EPOCH: Epoch = Epoch(3);
/// No agent falls silent for so long by accident.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// One replica.
pub struct Hub {
    pub store: Store,
    pub url: String,
    pub http: SocketAddr,
    pub gateway: SocketAddr,
    pub feed: Feed,
    pub epoch: watch::Sender<Option<Epoch>>,
    pub observed: watch::Sender<Arc<Observed>>,
    pub metrics: Metrics,
    /// The services, behind the gate.
    pub routes: Routes,
    pub authority: Authority,
    pub gate: Gatekeeper,
    pub channel: Channel,
    pub shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

/// A replica with a database of its own.
pub async fn hub() -> Hub {
    hub_on(&database_url().await).await
}

/// A replica over this database.
pub async fn hub_on(url: &str) -> Hub {
    hub_with(url, Limits::default()).await
}

/// A replica over this database whose gateway has these limits.
pub async fn hub_with(url: &str, limits: Limits) -> Hub {
    hub_set_up(url, Setup { limits, ..Setup::default() }).await
}

/// What a replica was started with.
pub struct Setup {
    pub limits: Limits,
    /// Who may call.
    pub access: AccessSettings,
    pub gate_sources: GateSources,
    /// What agents' certificates come from.
    pub authority: AuthorityOptions,
}

impl Default for Setup {
    /// As with `--dev`, with one Prometheus server, one webhook and CloudWatch.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            access: AccessSettings { development: true, ..AccessSettings::default() },
            gate_sources: GateSources {
                prometheus: ["main".parse().unwrap()].into(),
                webhooks: ["ci".parse().unwrap()].into(),
                cloudwatch: true,
            },
            authority: AuthorityOptions {
                keys: Keys::None,
                trust_domain: "switchyard".to_owned(),
                ttl: Duration::from_secs(86_400),
            },
        }
    }
}

/// A replica over this database that was started in this way.
pub async fn hub_set_up(url: &str, setup: Setup) -> Hub {
    let Setup { limits, access, gate_sources, authority: made_with } = setup;
    let options = StoreOptions { acquire_timeout: Duration::from_secs(1), ..StoreOptions::default() };
    let store = Store::connect(url, options).await.unwrap();
    let metrics = Metrics::new();
    let shutdown = CancellationToken::new();
    let (epoch, epochs) = watch::channel(Some(EPOCH));
    let (observed, observations) = watch::channel(Arc::new(Observed::default()));
    let (feed, task) = Feed::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(FeedParts {
        store: store.clone(),
        epoch: epochs.clone(),
        stale_after: STALE_AFTER,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    }));
    let (access, gate) = Gatekeeper::start(access, store.clone(), metrics.clone()).await.unwrap();
    tasks.spawn(gate.run(shutdown.clone()));
    let keeps = made_with.keys != Keys::None;
    let authority = Authority::open(store.clone(), made_with, metrics.clone()).await.unwrap();
    if keeps {
        tasks.spawn(authority.clone().run(shutdown.clone()));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let parts = GrpcParts {
        store: store.clone(),
        feed: feed.clone(),
        observed: observations,
        epoch: epochs,
        settings: plan::Settings {
            hub_id: "test".parse().unwrap(),
            account_id: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            settle: Duration::from_secs(60),
            epoch: Epoch(0),
        },
        policy_sources: Arc::new(SOURCES.iter().map(|name| name.parse().unwrap()).collect()),
        gate_sources: Arc::new(gate_sources),
        grants_of_resources: {
            let access = access.clone();
            Arc::new(move |cluster| access.grants_of(&Identity::Cluster(cluster.clone())))
        },
        access: access.clone(),
        authority: authority.clone(),
        heartbeat_interval: HEARTBEAT,
        stale_after: STALE_AFTER,
        hub_instance: Uuid::now_v7(),
        metrics: metrics.clone(),
    };
    let pages = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = pages.local_addr().unwrap();
    let (http_parts, token) = (HttpParts { feed: feed.clone(), metrics: metrics.clone() }, shutdown.clone());
    tasks.spawn(async move { http::serve(pages, http_parts, token).await });
    let token = shutdown.clone();
    let services = grpc::services(parts, &token).await.unwrap();
    let doors = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = doors.local_addr().unwrap();
    let routes = services.routes();
    let gateway_parts = GatewayParts { routes: routes.clone(), metrics: metrics.clone(), limits };
    let end = shutdown.clone();
    tasks.spawn(async move { gateway::serve(doors, Guard::default(), gateway_parts, end).await.unwrap() });
    tasks.spawn(async move { grpc::serve(listener, Guard::default(), services, token).await });
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    feed.subscribe().wait_for(|picture| picture.loaded).await.unwrap();
    let url = url.to_owned();
    let gate = access;
    Hub { store, url, http, gateway, feed, epoch, observed, metrics, routes, authority, gate, channel, shutdown, tasks }
}

impl Hub {
    pub fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    pub fn shifts(&self) -> ShiftServiceClient<Channel> {
        ShiftServiceClient::new(self.channel.clone())
    }

    pub fn safety(&self) -> SafetyServiceClient<Channel> {
        SafetyServiceClient::new(self.channel.clone())
    }

    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    pub fn clusters(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    /// Applies a manifest; the answer, or the status.
    pub async fn apply(&self, manifest: &str) -> Result<api::ApplyPolicyResponse, Status> {
        let request = api::ApplyPolicyRequest {
            request_id: Uuid::new_v4().to_string(),
            manifest: manifest.to_owned(),
            ..api::ApplyPolicyRequest::default()
        };
        Ok(self.policies().apply_policy(request).await?.into_inner())
    }

    pub async fn delete(&self, name: &str) -> Result<api::Policy, Status> {
        let request = api::DeletePolicyRequest {
            request_id: Uuid::new_v4().to_string(),
            policy: Some(policy_ref(name)),
            ..api::DeletePolicyRequest::default()
        };
        Ok(self.policies().delete_policy(request).await?.into_inner().policy.unwrap())
    }

    pub async fn link(&self, cluster: &str) -> api::ClusterLink {
        let clusters = self.clusters().list_clusters(api::ListClustersRequest {}).await.unwrap().into_inner().clusters;
        let found = clusters.iter().find(|found| found.name == cluster);
        found.map_or(api::ClusterLink::Unknown, api::Cluster::link)
    }

    /// (address, ready) of the endpoints that are present.
    pub async fn endpoints(&self, cluster: &str) -> Vec<(String, bool)> {
        let request = api::ListEndpointsRequest { cluster: cluster.to_owned(), page_size: 1000, ..Default::default() };
        let answer = self.clusters().list_endpoints(request).await.unwrap().into_inner();
        answer.endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.ready)).collect()
    }

    /// As if the engine had read AWS through and found nothing there.
    pub fn aws_was_read(&self) {
        let audited_at = Some(jiff::Timestamp::now());
        self.observed.send_replace(Arc::new(Observed { audited_at, ..Observed::default() }));
    }

    /// The answer to a GET of a page, headers included.
    pub async fn page(&self, path: &str) -> String {
        get(self.http, path).await
    }

    /// Ends every task; fails when one panicked or does not end.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        drop(self.channel);
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        timeout(Duration::from_secs(10), all).await.expect("the hub did not stop within 10 s");
    }
}

/// The answer to a GET, headers included.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Looks again and again until `look` gives something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes of a large message that is allowed, and as many of them as take five seconds at the pace of a stream.
pub const LARGE: usize = 4 * 1024 * 1024 - 4096;
pub const FLOOD: usize = 38;

/// Judges so many bytes that a stream took since then: 128 MiB at once, 4 MiB a second after that, and a message above it.
pub fn is_paced(bytes: usize, begun: Instant) {
    const MIB: f64 = 1024.0 * 1024.0;
    let most = 128.0 * MIB + LARGE as f64 + begun.elapsed().as_secs_f64() * 4.0 * MIB;
    assert!(bytes as f64 <= most, "{bytes} bytes were taken within {:?}", begun.elapsed());
}

pub fn policy_ref(name: &str) -> api::PolicyRef {
    api::PolicyRef { namespace: "shop".to_owned(), name: name.to_owned() }
}

/// A policy named after its Service, port `http`.
pub fn manifest(name: &str, clusters: &[(&str, u32)]) -> String {
    let clusters: Vec<String> =
        clusters.iter().map(|(name, weight)| format!("{{name: {name}, weight: {weight}}}")).collect();
    format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: 80}}\n  match: {{hostnames: [{name}.example.com]}}\n  \
         backend: {{service: {{name: {name}, port: http}}}}\n  clusters: [{}]\n",
        clusters.join(", ")
    )
}

pub fn weights(pairs: &[(&str, u32)]) -> HashMap<String, u32> {
    pairs.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

/// A Hello that any hub takes.
pub fn hello(cluster: &str) -> agent::Hello {
    agent::Hello {
        cluster: cluster.to_owned(),
        region: "eu-central-1".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        features: vec!["instance-targets".to_owned()],
        ..agent::Hello::default()
    }
}

/// An agent's stream.
pub struct Agent {
    outbox: mpsc::Sender<AgentMessage>,
    inbox: Streaming<HubMessage>,
    pub seq: u64,
    beats: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.beats.cancel();
    }
}

impl Agent {
    /// Opens a stream and says nothing, not even heartbeats.
    pub async fn silent(hub: &Hub) -> Self {
        let (outbox, receiver) = mpsc::channel(1024);
        let mut client = AgentServiceClient::new(hub.channel.clone());
        let inbox = client.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { outbox, inbox, seq: 0, beats: CancellationToken::new() }
    }

    /// Opens a stream, says Hello and keeps heartbeats going.
    pub async fn connect(hub: &Hub, hello: agent::Hello) -> Self {
        Self::silent(hub).await.greet(hello).await
    }

    /// The same over a stream that is open.
    pub async fn over(outbox: mpsc::Sender<AgentMessage>, inbox: Streaming<HubMessage>, hello: agent::Hello) -> Self {
        Self { outbox, inbox, seq: 0, beats: CancellationToken::new() }.greet(hello).await
    }

    async fn greet(self, hello: agent::Hello) -> Self {
        let agent = self;
        agent.say(0, agent_message::Message::Hello(hello)).await;
        let (outbox, beats) = (agent.outbox.clone(), agent.beats.clone());
        tokio::spawn(async move {
            let mut ticks = interval(HEARTBEAT / 2);
            loop {
                tokio::select! {
                    () = beats.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let beat = agent_message::Message::Heartbeat(agent::Heartbeat { sent_at: None });
                if outbox.send(AgentMessage { seq: 0, message: Some(beat) }).await.is_err() {
                    return;
                }
            }
        });
        agent
    }

    /// No more heartbeats.
    pub fn fall_silent(&self) {
        self.beats.cancel();
    }

    pub async fn say(&self, seq: u64, message: agent_message::Message) {
        // A stream that the hub ended already takes nothing; the test sees its status.
        let _ = self.outbox.send(AgentMessage { seq, message: Some(message) }).await;
    }

    /// Sends the next numbered message.
    pub async fn send(&mut self, message: agent_message::Message) -> u64 {
        self.seq += 1;
        self.say(self.seq, message).await;
        self.seq
    }

    pub async fn changes(&mut self, changes: agent::Changes) -> u64 {
        self.send(agent_message::Message::Changes(changes)).await
    }

    /// The next message that is not a heartbeat.
    pub async fn next(&mut self) -> Result<hub_message::Message, Status> {
        loop {
            let next = timeout(PATIENCE, self.inbox.message()).await.expect("the hub says nothing");
            match next?.and_then(|message| message.message) {
                Some(hub_message::Message::Heartbeat(_)) => {}
                Some(message) => return Ok(message),
                None => return Err(Status::ok("the stream ended")),
            }
        }
    }

    /// The status with which the hub ends the stream.
    pub async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    pub async fn welcome(&mut self) -> agent::Welcome {
        match self.next().await.unwrap() {
            hub_message::Message::Welcome(welcome) => welcome,
            other => panic!("not a Welcome: {other:?}"),
        }
    }

    pub async fn watch_set(&mut self) -> agent::WatchSet {
        match self.next().await.unwrap() {
            hub_message::Message::WatchSet(set) => set,
            other => panic!("not a WatchSet: {other:?}"),
        }
    }

    pub async fn resync(&mut self) -> String {
        loop {
            if let hub_message::Message::Resync(resync) = self.next().await.unwrap() {
                return resync.reason;
            }
        }
    }

    /// Waits until everything up to this number is acknowledged.
    pub async fn acked(&mut self, seq: u64) {
        loop {
            if let hub_message::Message::Ack(ack) = self.next().await.unwrap()
                && ack.seq >= seq
            {
                assert!(ack.seq <= self.seq, "acknowledged {} and only {} was sent", ack.seq, self.seq);
                return;
            }
        }
    }

    /// Sends a snapshot of one Service and says Live; waits until both are stored.
    pub async fn sync(&mut self, set: &agent::WatchSet, service: &str, addresses: &[&str]) {
        self.snapshot(set, service, addresses).await;
        let live = agent::Live { watch_set_version: set.version };
        let seq = self.send(agent_message::Message::Live(live)).await;
        self.acked(seq).await;
    }

    pub async fn snapshot(&mut self, set: &agent::WatchSet, service: &str, addresses: &[&str]) -> u64 {
        let begin = agent::SnapshotBegin { snapshot_id: "s".to_owned(), watch_set_version: set.version };
        self.send(agent_message::Message::SnapshotBegin(begin)).await;
        self.changes(changes(service, addresses)).await;
        let end = agent::SnapshotEnd {
            snapshot_id: "s".to_owned(),
            service_count: 1,
            endpoint_count: u32::try_from(addresses.len()).unwrap(),
        };
        self.send(agent_message::Message::SnapshotEnd(end)).await
    }
}

pub fn service_ref(name: &str) -> Option<agent::ServiceRef> {
    Some(agent::ServiceRef {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        port: "http".to_owned(),
        target_type: 0,
    })
}

/// An endpoint whose pod is named after its address.
pub fn endpoint(service: &str, address: &str) -> agent::Endpoint {
    agent::Endpoint {
        service: service_ref(service),
        address: address.to_owned(),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        pod: Some(agent::PodInfo {
            namespace: "shop".to_owned(),
            name: format!("pod-{address}"),
            uid: format!("uid-{address}"),
            ..agent::PodInfo::default()
        }),
    }
}

/// The Service's state and its endpoints.
pub fn changes(service: &str, addresses: &[&str]) -> agent::Changes {
    let state = agent::ServiceState {
        service: service_ref(service),
        condition: agent::ServiceCondition::Resolved.into(),
        ..agent::ServiceState::default()
    };
    agent::Changes {
        services: vec![state],
        upserts: addresses.iter().map(|address| endpoint(service, address)).collect(),
        tombstones: Vec::new(),
    }
}

pub fn tombstone(service: &str, address: &str) -> agent::Tombstone {
    agent::Tombstone {
        service: service_ref(service),
        address: address.to_owned(),
        port: 8080,
        pod_uid: format!("uid-{address}"),
        reason: agent::TombstoneReason::PodDeleted.into(),
    }
}
