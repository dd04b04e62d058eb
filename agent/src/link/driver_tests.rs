//! The whole agent but for its process: fake API server, real index, session and tonic stream, and a hub that the test plays.

use std::{net::SocketAddr, time::Duration};

use jiff::ToSpan;
use switchyard_proto::agent::v1::{
    self as proto, AgentMessage, HubMessage, TombstoneReason,
    agent_message::Message as Said,
    agent_service_server::{AgentService, AgentServiceServer},
    hub_message::Message as Answer,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    driver::{Driver, Standing},
    epoch::HighestEpoch,
    messages::Identity,
    session::Settings,
    transport::{Dialer, Link, Target},
};
use crate::{
    identity::{
        material::tests::Authority,
        present::{Credentials, Presented},
    },
    metrics::Metrics,
    watch::{
        Watchers,
        fake::{self, FakeKube, Fault},
    },
};

/// Generous, for two busy cores; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_secs(20);

/// A hub that hands each stream to the test.
struct Hub {
    address: SocketAddr,
    streams: mpsc::Receiver<Conversation>,
    server: JoinHandle<()>,
}

struct Doorman(mpsc::Sender<Conversation>);

/// One stream, from the hub's side.
struct Conversation {
    heard: Streaming<AgentMessage>,
    say: mpsc::Sender<Result<HubMessage, Status>>,
    last_seq: u64,
}

#[tonic::async_trait]
impl AgentService for Doorman {
    type SessionStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (say, stream) = mpsc::channel(64);
        let conversation = Conversation { heard: request.into_inner(), say, last_seq: 0 };
        self.0.send(conversation).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Hub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::serve(listener, Server::builder())
    }

    fn serve(listener: TcpListener, mut server: Server) -> Self {
        let address = listener.local_addr().expect("an address");
        let (sender, streams) = mpsc::channel(4);
        let router = server.add_service(AgentServiceServer::new(Doorman(sender)));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("the server runs");
        });
        Self { address, streams, server }
    }

    async fn next(&mut self) -> Conversation {
        timeout(DEADLINE, self.streams.recv()).await.expect("an agent calls").expect("the hub runs")
    }

    /// A stream up to the point where the agent is live with a snapshot; gives what the snapshot held.
    async fn live(&mut self) -> (Conversation, proto::Changes) {
        let mut conversation = self.next().await;
        conversation.hello().await;
        conversation.welcome(None).await;
        conversation.watch(1, &["checkout"]).await;
        let snapshot = conversation.snapshot().await;
        conversation.until_live(1).await;
        (conversation, snapshot)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Conversation {
    /// The next message, whatever it is; None when the agent closed its side.
    async fn any(&mut self) -> Option<AgentMessage> {
        let next = timeout(DEADLINE, self.heard.message()).await.expect("the agent says something");
        let message = next.expect("the stream is whole")?;
        assert!(message.seq == 0 || message.seq > self.last_seq, "{} after {}", message.seq, self.last_seq);
        self.last_seq = self.last_seq.max(message.seq);
        Some(message)
    }

    /// The next message that is neither a heartbeat nor a report of the sources.
    async fn next(&mut self) -> Said {
        loop {
            match self.any().await.expect("the stream goes on").message.expect("a body") {
                Said::Heartbeat(_) | Said::SourceStates(_) => {}
                other => return other,
            }
        }
    }

    async fn say(&self, answer: Answer) {
        self.say.send(Ok(HubMessage { message: Some(answer) })).await.expect("the agent listens");
    }

    async fn hello(&mut self) -> proto::Hello {
        match self.next().await {
            Said::Hello(hello) => hello,
            other => panic!("not a hello: {other:?}"),
        }
    }

    async fn welcome(&self, resume_after: Option<u64>) {
        let welcome = proto::Welcome {
            epoch: 1,
            session_id: "s".to_owned(),
            heartbeat_interval_ms: 60_000,
            resume: resume_after.is_some(),
            resume_after_seq: resume_after.unwrap_or(0),
        };
        self.say(Answer::Welcome(welcome)).await;
    }

    async fn watch(&self, version: u64, names: &[&str]) {
        let service = |name: &&str| proto::ServiceRef {
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
            port: "http".to_owned(),
            ..proto::ServiceRef::default()
        };
        let services = names.iter().map(service).collect();
        self.say(Answer::WatchSet(proto::WatchSet { version, services })).await;
    }

    async fn ack(&self) {
        self.say(Answer::Ack(proto::Ack { seq: self.last_seq })).await;
    }

    async fn snapshot(&mut self) -> proto::Changes {
        let mut all = proto::Changes::default();
        let Said::SnapshotBegin(begin) = self.next().await else { panic!("not the begin of a snapshot") };
        loop {
            match self.next().await {
                Said::Changes(changes) => {
                    all.services.extend(changes.services);
                    all.upserts.extend(changes.upserts);
                    assert!(changes.tombstones.is_empty());
                }
                Said::SnapshotEnd(end) => {
                    assert_eq!(end.snapshot_id, begin.snapshot_id);
                    assert_eq!(end.service_count as usize, all.services.len());
                    assert_eq!(end.endpoint_count as usize, all.upserts.len());
                    return all;
                }
                other => panic!("not part of a snapshot: {other:?}"),
            }
        }
    }

    /// Acknowledges what came before, too.
    async fn until_live(&mut self, version: u64) {
        loop {
            if let Said::Live(live) = self.next().await {
                self.ack().await;
                assert_eq!(live.watch_set_version, version);
                return;
            }
        }
    }

    async fn changes(&mut self) -> proto::Changes {
        match self.next().await {
            Said::Changes(changes) => changes,
            other => panic!("not changes: {other:?}"),
        }
    }
}

/// A running agent.
struct Agent {
    kube: FakeKube,
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
    standing: tokio::sync::watch::Receiver<Standing>,
}

impl Agent {
    fn start(hub: SocketAddr) -> Self {
        let target = Target { url: format!("http://{hub}"), tls: None };
        Self::start_with(&target, Settings::default())
    }

    fn start_with(target: &Target, settings: Settings) -> Self {
        let kube = FakeKube::new();
        fake::put_one_pod(&kube, "shop", "checkout", "10.0.0.1");
        let metrics = Metrics::new();
        let (watchers, updates) = Watchers::new(kube.client(), metrics.clone());
        let standing = Driver::first_standing();
        let shown = standing.subscribe();
        let identity = Identity {
            cluster: "blue".to_owned(),
            region: "eu-central-1".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            instance_id: "4c8e0a52-8d0a-4c7e-9c8e-111111111111".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let link = Link::new(Dialer::new(target).expect("a target"));
        let epoch = HighestEpoch::default();
        let driver = Driver { identity, settings, link, watchers, updates, epoch, metrics: metrics.clone(), standing };
        let stop = CancellationToken::new();
        let task = tokio::spawn(driver.run(stop.clone()));
        Self { kube, stop, task, metrics, standing: shown }
    }

    /// The slice's endpoints are these pods now.
    fn slice(&self, pods: &[(&str, &str)]) {
        for (name, address) in pods {
            self.kube.put(&fake::pods("shop"), fake::pod(name, address));
        }
        self.kube.put(&fake::slices("shop"), fake::slice("checkout", "shop", pods));
    }

    async fn stands(&mut self, stage: &str) {
        let at_stage = self.standing.wait_for(|standing| standing.stage == stage);
        timeout(DEADLINE, at_stage).await.expect("the stage is reached").expect("the agent runs");
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.expect("the agent stops").expect("without a panic");
    }
}

fn addresses(changes: &proto::Changes) -> Vec<&str> {
    changes.upserts.iter().map(|endpoint| endpoint.address.as_str()).collect()
}

#[tokio::test]
async fn an_agent_brings_its_clusters_pods_to_the_hub_and_keeps_them_up_to_date() {
    let mut hub = Hub::start().await;
    let mut agent = Agent::start(hub.address);
    let mut conversation = hub.next().await;
    let hello = conversation.hello().await;
    assert_eq!((hello.cluster.as_str(), hello.vpc_id.as_str(), hello.last_acked_seq), ("blue", "vpc-1", 0));
    conversation.welcome(None).await;
    conversation.watch(1, &["checkout"]).await;
    let snapshot = conversation.snapshot().await;
    assert_eq!(addresses(&snapshot), ["10.0.0.1"]);
    assert_eq!((snapshot.upserts[0].port, snapshot.upserts[0].ready), (8080, true));
    conversation.until_live(1).await;
    agent.stands("live").await;
    assert!(agent.standing.borrow().is_ready());

    agent.kube.put(&fake::pods("shop"), fake::deleting(fake::pod("checkout-0", "10.0.0.1")));
    assert!(conversation.changes().await.upserts[0].terminating);
    agent.kube.delete(&fake::pods("shop"), "checkout-0");
    let gone = conversation.changes().await;
    let tombstone = &gone.tombstones[0];
    assert_eq!((tombstone.pod_uid.as_str(), tombstone.reason()), ("uid-of-checkout-0", TombstoneReason::PodDeleted));
    agent.slice(&[("checkout-1", "10.0.0.2")]);
    assert_eq!(addresses(&conversation.changes().await), ["10.0.0.2"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_watch_set_that_grows_is_answered_and_confirmed() {
    let mut hub = Hub::start().await;
    let agent = Agent::start(hub.address);
    let (mut conversation, _) = hub.live().await;
    fake::put_one_pod(&agent.kube, "shop", "cart", "10.0.0.5");
    conversation.watch(2, &["cart", "checkout"]).await;
    assert_eq!(addresses(&conversation.changes().await), ["10.0.0.5"]);
    conversation.until_live(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_broken_stream_is_resumed_with_what_was_not_acknowledged() {
    let mut hub = Hub::start().await;
    let agent = Agent::start(hub.address);
    let (mut conversation, _) = hub.live().await;
    let acknowledged = conversation.last_seq;
    // A report that follows this change arrives, so the acknowledgement before it was read.
    agent.slice(&[("checkout-0", "10.0.0.1"), ("checkout-1", "10.0.0.2")]);
    assert_eq!(addresses(&conversation.changes().await), ["10.0.0.2"]);
    drop(conversation);
    agent.slice(&[("checkout-0", "10.0.0.1"), ("checkout-1", "10.0.0.2"), ("checkout-2", "10.0.0.3")]);

    let mut conversation = hub.next().await;
    let hello = conversation.hello().await;
    assert_eq!((hello.last_acked_seq, hello.watch_set_version), (acknowledged, 1));
    conversation.welcome(Some(acknowledged)).await;
    conversation.watch(1, &["checkout"]).await;
    let mut told = Vec::new();
    while !told.contains(&"10.0.0.3".to_owned()) {
        told.extend(conversation.changes().await.upserts.into_iter().map(|endpoint| endpoint.address));
    }
    assert!(told.contains(&"10.0.0.2".to_owned()), "what was not acknowledged is told again: {told:?}");
    conversation.until_live(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_hub_that_does_not_resume_gets_a_snapshot_and_so_does_one_that_asks() {
    let mut hub = Hub::start().await;
    let agent = Agent::start(hub.address);
    let (conversation, _) = hub.live().await;
    drop(conversation);
    agent.slice(&[("checkout-1", "10.0.0.2")]);
    let mut conversation = hub.next().await;
    conversation.hello().await;
    conversation.welcome(None).await;
    conversation.watch(1, &["checkout"]).await;
    let mut held = conversation.snapshot().await;
    conversation.until_live(1).await;
    conversation.say(Answer::Resync(proto::Resync { reason: "counts differ".to_owned() })).await;
    while addresses(&held) != ["10.0.0.2"] {
        // The first snapshot may still have been made before the slice arrived; what follows it may then come first.
        match conversation.next().await {
            Said::SnapshotBegin(_) => {
                held = conversation.changes().await;
            }
            Said::Changes(_) | Said::SnapshotEnd(_) | Said::Live(_) => {}
            other => panic!("not expected: {other:?}"),
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_hub_that_comes_late_or_goes_away_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let mut agent = Agent::start(address);
    let attempts = || agent.metrics.encode().lines().any(|line| line == "switchyard_agent_connection_attempts_total 2");
    timeout(DEADLINE, async {
        while !attempts() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the hub is tried again");
    assert!(agent.standing.borrow().is_ready(), "without a hub the agent does all that it can do");

    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let mut hub = Hub::serve(listener, Server::builder());
    let (conversation, _) = hub.live().await;
    agent.stands("live").await;
    drop(conversation);
    agent.stands("offline").await;
    let (_conversation, snapshot) = hub.live().await;
    assert_eq!(addresses(&snapshot), ["10.0.0.1"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_hub_that_acknowledges_nothing_gets_the_last_state_once_it_does() {
    let mut hub = Hub::start().await;
    let target = Target { url: format!("http://{}", hub.address), tls: None };
    let mut agent = Agent::start_with(&target, Settings { window: 2, ..Settings::default() });
    let (mut conversation, _) = hub.live().await;
    let full =
        |metrics: &Metrics| metrics.encode().lines().any(|line| line == "switchyard_agent_unacknowledged_messages 2");
    let mut round = 0;
    while !full(&agent.metrics) {
        round += 1;
        agent.slice(&[("checkout-0", &format!("10.0.1.{}", round % 250))]);
        let published = agent.standing.wait_for(|_| true);
        published.await.expect("the agent runs");
        tokio::task::yield_now().await;
    }
    for last in 1..=100 {
        agent.slice(&[("checkout-0", &format!("10.0.2.{last}"))]);
    }
    // Both messages of the window, and then what gathered behind it: one message, with the end of it all.
    conversation.changes().await;
    conversation.changes().await;
    conversation.ack().await;
    let mut held = conversation.changes().await;
    let mut messages = 1;
    while addresses(&held) != ["10.0.2.100"] {
        conversation.ack().await;
        held = conversation.changes().await;
        messages += 1;
    }
    assert!(messages < 10, "a hundred changes came as {messages} messages");
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_source_is_reported_and_takes_nothing_back() {
    let mut hub = Hub::start().await;
    let agent = Agent::start(hub.address);
    let (mut conversation, _) = hub.live().await;
    agent.kube.fail(&fake::slices("shop"), Fault::Status(403, "endpointslices is forbidden"));
    let failing = loop {
        match conversation.any().await.expect("the stream goes on").message {
            Some(Said::SourceStates(states)) => {
                let failing = states.sources.into_iter().find(|source| source.health() == proto::SourceHealth::Failing);
                if let Some(source) = failing {
                    break source;
                }
            }
            Some(Said::Changes(changes)) => panic!("nothing changed: {changes:?}"),
            _ => {}
        }
    };
    assert_eq!((failing.kind.as_str(), failing.namespace.as_str()), ("EndpointSlice", "shop"));
    assert_eq!(failing.message, "endpointslices is forbidden (HTTP 403)");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_closes_its_side_of_the_stream_first() {
    let mut hub = Hub::start().await;
    let agent = Agent::start(hub.address);
    let (mut conversation, _) = hub.live().await;
    agent.stop.cancel();
    while conversation.any().await.is_some() {}
    drop(conversation);
    timeout(DEADLINE, agent.task).await.expect("the agent stops").expect("without a panic");
}

#[tokio::test]
async fn agent_and_hub_know_each_other_by_their_certificates() {
    let authority = Authority::new();
    let now = jiff::Timestamp::now();
    let (chain, key) = authority.server();
    let tls = tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(chain, key))
        .client_ca_root(tonic::transport::Certificate::from_pem(&authority.pem));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut hub = Hub::serve(listener, Server::builder().tls_config(tls).expect("a TLS configuration"));
    let url = format!("https://localhost:{}", hub.address.port());
    let credentials = |presented| Credentials::fixed(authority.pem.as_bytes(), presented);
    let stranger = Target { url: url.clone(), tls: Some(credentials(Presented::Nobody)) };
    let stranger = Agent::start_with(&stranger, Settings::default());
    let identity = authority.identity("blue", now - 1.hour(), now + 1.hour());
    let known = Target { url, tls: Some(credentials(Presented::With(identity.into()))) };
    let agent = Agent::start_with(&known, Settings::default());
    let (_conversation, snapshot) = hub.live().await;
    assert_eq!(addresses(&snapshot), ["10.0.0.1"]);
    assert!(hub.streams.is_empty(), "a stranger gets no stream");
    assert_ne!(stranger.standing.borrow().stage, "live");
    stranger.stop().await;
    agent.stop().await;
}
