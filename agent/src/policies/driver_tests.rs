//! The policies of a fake API server, the real loop and tonic stream, and a hub that the test plays.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use switchyard_proto::{
    agent::v1::{
        self as proto, PolicyClaim, SyncPoliciesRequest, SyncPoliciesResponse,
        policy_source_service_server::{PolicySourceService, PolicySourceServiceServer},
        sync_policies_request::Message as Said,
        sync_policies_response::Message as Answer,
    },
    api::v1::{self as api, ConditionStatus},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::driver::Driver;
use crate::{
    complaints::Complaints,
    link::{
        epoch::HighestEpoch,
        messages::Identity,
        transport::{Dialer, Link, Target},
    },
    metrics::Metrics,
    watch::{
        fake::{
            FakeKube, Fault,
            writes::{DEFINITION, EVENTS, POLICIES, STATUS, policy},
        },
        policies::PolicyWatch,
        write::PolicyWrites,
    },
};

/// Generous, for two busy cores; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_secs(20);

struct Doorman(mpsc::Sender<Conversation>);

/// One stream, from the hub's side.
struct Conversation {
    heard: Streaming<SyncPoliciesRequest>,
    say: mpsc::Sender<Result<SyncPoliciesResponse, Status>>,
    last_seq: u64,
}

#[tonic::async_trait]
impl PolicySourceService for Doorman {
    type SyncPoliciesStream = ReceiverStream<Result<SyncPoliciesResponse, Status>>;

    async fn sync_policies(
        &self,
        request: Request<Streaming<SyncPoliciesRequest>>,
    ) -> Result<Response<Self::SyncPoliciesStream>, Status> {
        let (say, stream) = mpsc::channel(64);
        let conversation = Conversation { heard: request.into_inner(), say, last_seq: 0 };
        self.0.send(conversation).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Conversation {
    async fn next(&mut self) -> Said {
        let next = timeout(DEADLINE, self.heard.message()).await.expect("the agent says something");
        let message = next.expect("the stream is whole").expect("the stream goes on");
        self.last_seq = message.seq;
        message.message.expect("a body")
    }

    async fn say(&self, answer: Answer) {
        self.say.send(Ok(SyncPoliciesResponse { message: Some(answer) })).await.expect("the agent listens");
    }

    async fn welcome(&mut self, is_source: bool) {
        let Said::Hello(hello) = self.next().await else { panic!("not a hello") };
        assert_eq!(hello.cluster, "blue");
        let message = "start the hub with --policy-source blue".to_owned();
        self.say(Answer::Welcome(proto::SourceWelcome { epoch: 1, is_source, message })).await;
    }

    async fn ack(&self) {
        self.say(Answer::Ack(proto::PolicyAck { seq: self.last_seq })).await;
    }

    /// The list, as name and UID.
    async fn list(&mut self) -> Vec<(String, String)> {
        let Said::ListBegin(begin) = self.next().await else { panic!("not the begin of a list") };
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Said::Changes(changes) => {
                    all.extend(changes.upserts.into_iter().map(|policy| (policy.name, policy.uid)));
                }
                Said::ListEnd(end) => {
                    assert_eq!((end.list_id, end.count as usize), (begin.list_id, all.len()));
                    self.ack().await;
                    return all;
                }
                other => panic!("not part of a list: {other:?}"),
            }
        }
    }

    async fn changes(&mut self) -> proto::PolicyChanges {
        let Said::Changes(changes) = self.next().await else { panic!("not changes") };
        self.ack().await;
        changes
    }

    async fn failing(&mut self) -> String {
        let Said::Failing(failing) = self.next().await else { panic!("not a failure") };
        failing.message
    }

    /// Says that the resource is the policy and its generation is in force, with this message.
    async fn accept(&self, uid: &str, generation: u64, message: &str) {
        let condition = api::Condition {
            r#type: "Accepted".to_owned(),
            status: ConditionStatus::True.into(),
            reason: "AsRequested".to_owned(),
            message: message.to_owned(),
            ..api::Condition::default()
        };
        let status = proto::SourcePolicyStatus {
            policy: Some(api::PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() }),
            uid: uid.to_owned(),
            observed_generation: generation,
            claim: PolicyClaim::Owner.into(),
            status: Some(api::PolicyStatus { conditions: vec![condition], ..api::PolicyStatus::default() }),
            generation_in_force: generation,
        };
        self.say(Answer::Status(status)).await;
    }
}

/// A running agent and the hub that it calls.
struct World {
    kube: FakeKube,
    streams: mpsc::Receiver<Conversation>,
    server: JoinHandle<()>,
    stop: CancellationToken,
    agent: JoinHandle<()>,
    complaints: Complaints,
    metrics: Metrics,
}

impl World {
    /// With the definition and one policy, checkout.
    async fn start() -> Self {
        let kube = FakeKube::new();
        kube.define("crd-1");
        kube.put(POLICIES, policy("checkout", "u-1", 1));
        Self::start_with(kube).await
    }

    async fn start_with(kube: FakeKube) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, streams) = mpsc::channel(4);
        let router = Server::builder().add_service(PolicySourceServiceServer::new(Doorman(sender)));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("the server runs");
        });
        let complaints = Complaints::default();
        let metrics = Metrics::new();
        let driver = driver(&kube, address, &complaints, &metrics);
        let stop = CancellationToken::new();
        let agent = tokio::spawn(driver.run(stop.clone()));
        Self { kube, streams, server, stop, agent, complaints, metrics }
    }

    async fn stream(&mut self) -> Conversation {
        timeout(DEADLINE, self.streams.recv()).await.expect("an agent calls").expect("the hub runs")
    }

    /// A stream with its list sent.
    async fn live(&mut self) -> Conversation {
        let mut conversation = self.stream().await;
        conversation.welcome(true).await;
        conversation.list().await;
        conversation
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let failed = timeout(DEADLINE, wait).await.is_err();
        assert!(!failed, "waited in vain for {what}; requests: {:?}", self.kube.requests());
    }

    async fn until_shown(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        self.until(what, || holds(&self.kube.policy("checkout")["status"])).await;
    }

    /// Ends the agent, and then the streams that the test holds: the agent waits a while for the hub's side to end.
    async fn stop<Streams>(self, streams: Streams) {
        self.stop.cancel();
        drop((streams, self.streams));
        self.server.abort();
        timeout(DEADLINE, self.agent).await.expect("the agent stops").expect("without a panic");
    }
}

fn driver(kube: &FakeKube, hub: SocketAddr, complaints: &Complaints, metrics: &Metrics) -> Driver {
    let identity = Identity {
        cluster: "blue".to_owned(),
        region: "eu-central-1".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        instance_id: "4c8e0a52-8d0a-4c7e-9c8e-111111111111".to_owned(),
        version: "0.1.0".to_owned(),
    };
    let target = Target { url: format!("http://{hub}"), tls: None };
    let client = kube.client();
    Driver {
        link: Link::new(Dialer::new(&target).expect("a target")),
        watch: PolicyWatch::new(client.clone(), metrics.clone()),
        writes: PolicyWrites::new(client, identity.instance_id.clone()),
        identity,
        epoch: HighestEpoch::default(),
        metrics: metrics.clone(),
        complaints: complaints.clone(),
    }
}

fn reasons(kube: &FakeKube) -> Vec<String> {
    kube.events().iter().map(|event| event["reason"].as_str().expect("a reason").to_owned()).collect()
}

#[tokio::test]
async fn policies_go_to_the_hub_and_their_status_comes_back() {
    let mut world = World::start().await;
    let mut conversation = world.stream().await;
    conversation.welcome(true).await;
    assert_eq!(conversation.list().await, [("checkout".to_owned(), "u-1".to_owned())]);
    conversation.accept("u-1", 1, "stored").await;
    world.until_shown("the status", |status| status["conditions"][0]["message"] == "stored").await;
    let shown = world.kube.policy("checkout");
    assert_eq!((&shown["status"]["claim"], &shown["spec"]), (&json!("Owner"), &json!({"order": 1})));
    world.until("an event", || reasons(&world.kube) == ["Accepted"]).await;
    let event = world.kube.events().remove(0);
    assert_eq!(
        (&event["regarding"]["uid"], &event["regarding"]["kind"]),
        (&json!("u-1"), &json!("ClusterTrafficPolicy"))
    );
    assert_eq!((&event["reportingController"], &event["type"]), (&json!("switchyard.dev/agent"), &json!("Normal")));

    world.kube.put(POLICIES, policy("cart", "u-2", 1));
    assert_eq!(conversation.changes().await.upserts[0].name, "cart");
    world.kube.delete(POLICIES, "cart");
    assert_eq!(conversation.changes().await.deleted[0].uid, "u-2");
    world.until("an event", || reasons(&world.kube).contains(&"Released".to_owned())).await;
    world.stop(conversation).await;
}

#[tokio::test]
async fn a_cluster_that_is_no_source_is_not_watched() {
    let mut world = World::start().await;
    let mut conversation = world.stream().await;
    conversation.welcome(false).await;
    let page = || world.metrics.encode();
    world.until("the stage", || page().contains("switchyard_agent_policy_stage{stage=\"not_source\"} 1")).await;
    assert_eq!(world.kube.requests(), [""; 0]);
    world.stop(conversation).await;
}

#[tokio::test]
async fn resources_that_go_with_their_definition_are_not_told_to_be_gone() {
    let mut world = World::start().await;
    let mut conversation = world.live().await;
    world.kube.undefine("crd-1");
    world.kube.delete(POLICIES, "checkout");
    let message = conversation.failing().await;
    assert!(message.contains("clustertrafficpolicies.switchyard.dev is being deleted"), "{message}");
    world.until("the complaint", || world.complaints.lines().concat().starts_with("policies: the Custom")).await;
    // Installed anew, and empty: the hub is told of absence, which it may doubt.
    world.kube.define("crd-2");
    assert_eq!(conversation.failing().await, "");
    assert_eq!(conversation.list().await, []);
    world.until("no complaint", || world.complaints.lines().is_empty()).await;
    world.stop(conversation).await;
}

#[tokio::test]
async fn resources_that_went_with_an_earlier_definition_are_not_told_to_be_gone() {
    let mut world = World::start().await;
    let mut conversation = world.live().await;
    world.kube.define("crd-2");
    world.kube.delete(POLICIES, "checkout");
    // A list, not a deletion.
    assert_eq!(conversation.list().await, []);
    world.stop(conversation).await;
}

#[tokio::test]
async fn without_leave_to_look_at_the_definition_nothing_is_said_to_be_gone() {
    let mut world = World::start().await;
    let mut conversation = world.live().await;
    world.kube.fail(DEFINITION, Fault::Status(403, "cannot get resource customresourcedefinitions"));
    world.kube.delete(POLICIES, "checkout");
    let message = conversation.failing().await;
    assert!(message.contains("must be able to get the CustomResourceDefinition"), "{message}");
    assert!(message.contains("cannot get resource customresourcedefinitions"), "{message}");
    // The evidence is not lost: once the definition can be looked at, the deletion is told.
    world.kube.heal(DEFINITION);
    assert_eq!(conversation.failing().await, "");
    assert_eq!(conversation.list().await, []);
    assert_eq!(conversation.changes().await.deleted[0].uid, "u-1");
    world.stop(conversation).await;
}

#[tokio::test]
async fn a_missing_definition_is_said_to_be_missing() {
    let kube = FakeKube::new();
    let mut world = World::start_with(kube).await;
    let mut conversation = world.stream().await;
    conversation.welcome(true).await;
    let message = conversation.failing().await;
    assert!(message.contains("does not exist") && message.contains("chart switchyard-crds"), "{message}");
    world.kube.define("crd-1");
    world.kube.put(POLICIES, policy("checkout", "u-1", 1));
    assert_eq!(conversation.failing().await, "");
    assert_eq!(conversation.list().await.len(), 1);
    world.stop(conversation).await;
}

#[tokio::test]
async fn a_watch_that_finds_no_such_path_is_said_to_lack_the_definition() {
    let mut world = World::start().await;
    let mut conversation = world.live().await;
    world.kube.undefine("crd-1");
    world.kube.fail(POLICIES, Fault::Status(404, "page not found"));
    let message = loop {
        let message = conversation.failing().await;
        if !message.contains("page not found") {
            break message;
        }
    };
    assert!(message.contains("clustertrafficpolicies.switchyard.dev is being deleted"), "{message}");
    world.stop(conversation).await;
}

#[tokio::test]
async fn after_a_gap_in_the_watch_what_is_missing_is_told_by_a_list() {
    let mut world = World::start().await;
    let mut conversation = world.live().await;
    world.kube.put(POLICIES, policy("cart", "u-2", 1));
    conversation.changes().await;
    world.kube.restore_empty();
    world.kube.define("crd-1");
    world.kube.put(POLICIES, policy("cart", "u-2", 1));
    // The watcher may list before or after cart is back.
    while conversation.list().await != [("cart".to_owned(), "u-2".to_owned())] {}
    world.stop(conversation).await;
}

#[tokio::test]
async fn a_status_that_may_not_be_written_is_complained_of_until_it_may() {
    let mut world = World::start().await;
    world.kube.fail(STATUS, Fault::Status(403, "cannot patch resource clustertrafficpolicies/status"));
    world.kube.fail(EVENTS, Fault::Status(403, "cannot create resource events"));
    let conversation = world.live().await;
    conversation.accept("u-1", 1, "stored").await;
    let complaint = "policy status: cannot patch resource clustertrafficpolicies/status (HTTP 403); give the agent's role this verb";
    world.until("the complaint", || world.complaints.lines() == [complaint]).await;
    world.kube.heal(STATUS);
    world.until_shown("the status", |status| status["claim"] == "Owner").await;
    world
        .until("the other complaint", || world.complaints.lines().concat().starts_with("policy events: cannot create"))
        .await;
    let page = world.metrics.encode();
    assert!(page.contains("switchyard_agent_policy_status_writes_total{outcome=\"forbidden\"}"), "{page}");
    world.stop(conversation).await;
}

#[tokio::test]
async fn the_end_of_a_namespace_is_no_missing_permission() {
    let mut world = World::start().await;
    let words = "unable to create new content in namespace shop because it is being terminated";
    world.kube.fail(EVENTS, Fault::Status(403, words));
    let mut conversation = world.live().await;
    world.kube.delete(POLICIES, "checkout");
    conversation.changes().await;
    let dropped = || world.metrics.encode().contains("switchyard_agent_policy_events_total{outcome=\"dropped\"} 1");
    world.until("the event to be dropped", dropped).await;
    assert_eq!(world.complaints.lines(), [""; 0]);
    world.stop(conversation).await;
}

#[tokio::test]
async fn two_agents_of_one_cluster_write_a_change_once_and_tell_it_once() {
    let mut world = World::start().await;
    let first = world.live().await;
    let other = World::start_with(world.kube.clone()).await;
    let mut other = other;
    let second = other.live().await;
    for generation in 1..=3 {
        let message = format!("word {generation}");
        first.accept("u-1", generation, &message).await;
        second.accept("u-1", generation, &message).await;
        world.until_shown(&message, |status| status["conditions"][0]["message"] == message.as_str()).await;
    }
    // Both agents have seen the last state when each has asked for nothing since: the version stands still.
    let version = || world.kube.policy("checkout")["metadata"]["resourceVersion"].clone();
    let told = || reasons(&world.kube).len();
    let (version, told) = (version(), told());
    first.accept("u-1", 3, "word 3").await;
    second.accept("u-1", 3, "word 3").await;
    world.kube.put(POLICIES, policy("cart", "u-2", 1));
    let mut conversations = [first, second];
    for conversation in &mut conversations {
        assert_eq!(conversation.changes().await.upserts[0].name, "cart");
    }
    assert_eq!(world.kube.policy("checkout")["metadata"]["resourceVersion"], version);
    assert!(told <= 3, "three changes were told {told} times");
    other.stop(()).await;
    world.stop(conversations).await;
}
