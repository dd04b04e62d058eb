//! Every text of every message, one after the other, as a statement of SQL, a line of a log, escapes of a terminal, or very long: the
//! descriptor says which texts there are, so that a new one is tried, too. None of them is ever more than a text.

use std::{collections::BTreeMap, time::Duration};

use prost_reflect::{FieldDescriptor, Kind, MethodDescriptor, Value, prost::Message};
use serde_json::json;
use switchyard_proto::{
    agent::v1::{
        AgentMessage, Hello, Live, SnapshotBegin, SnapshotEnd, agent_message, agent_service_client::AgentServiceClient,
        hub_message,
    },
    api::v1::{
        ApplyPolicyRequest, PolicyRef, SetWeightsRequest, WhoAmIRequest, access_service_client::AccessServiceClient,
        policy_service_client::PolicyServiceClient,
    },
};
use switchyard_tests::wait;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    names::evil,
    scene::{Scene, call, manifest, signing_request},
    wire::{Others, Place, ask, bytes, filled, methods, path, places},
};

/// What a forged line of the log would begin with; see [`evil`].
const FORGED: &str = "2026-01-01T00:00:00Z";

/// Something that fits a field as far as its name tells.
fn plain(cluster: &str, field: &FieldDescriptor) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    // A Service and its port as the policies of `manifest` name them.
    match (field.parent_message().name(), field.name()) {
        ("ServiceRef", "name") => return text("checkout"),
        ("ServiceRef", "port") => return text("http"),
        ("ServiceRef", "target_type") => return None,
        _ => {}
    }
    if !matches!(field.kind(), Kind::String) {
        let number = match field.name() {
            "port" => 8080,
            "value" => 50,
            "ttl_seconds" => 600,
            "generation" => 1,
            // The first word that says something.
            _ if matches!(field.kind(), Kind::Enum(_)) => return Some(Value::EnumNumber(1)),
            _ => return None,
        };
        return match field.kind() {
            Kind::Uint32 => Some(Value::U32(number)),
            Kind::Uint64 => Some(Value::U64(number.into())),
            _ => None,
        };
    }
    match field.name() {
        "request_id" | "agent_instance_id" => text(&Uuid::new_v4().to_string()),
        "id" | "uid" | "pod_uid" => text("0190a3b2-0000-7000-8000-000000000001"),
        "namespace" | "namespaces" => text("shop"),
        "cluster" | "clusters" | "key" => text(cluster),
        "manifest" => text(&manifest("shop", "web")),
        "spec_json" => {
            text(&serde_json::from_str::<serde_json::Value>(&manifest("shop", "web")).ok()?["spec"].to_string())
        }
        "policies" => text("shop/*"),
        "address" | "ips" | "private_ip" => text("10.0.0.7"),
        "subnet_cidr" => text("10.0.0.0/24"),
        "if_address" => text("02:00:00:00:00:01"),
        "csr_pem" => text(&signing_request(&[]).0),
        "region" => text("eu-central-1"),
        "vpc_id" => text("vpc-0123456789abcdef0"),
        "agent_version" => text("0.1.0"),
        "kind" => text("Service"),
        "features" => text("nodes"),
        // Filters of lists: left out, so that the one which is tried is looked at.
        "page_token" | "actor" | "result" | "shift_id" | "serial" => None,
        // A shift has weights, or goes to one cluster as a whole; and rules that it crosses only when it says so.
        "to_cluster" | "overrides" => None,
        // Ports of Services have names, too.
        _ => text("web"),
    }
}

/// The fields that are not tried, for a caller or an agent who speaks of this cluster. A shift without them is at once; an agent that
/// reports an endpoint does not take one away.
fn of(cluster: &'static str) -> Others<'static> {
    const LEFT_OUT: &[&str] = &["strategy", "gates", "tombstones"];
    let plain: &dyn Fn(&FieldDescriptor) -> Option<Value> = match cluster {
        "blue" => &|field| plain("blue", field),
        _ => &|field| plain("green", field),
    };
    Others { plain, left_out: LEFT_OUT }
}

/// Taken, or refused as not valid or as something that there is not; never an error of the hub's own, and never told as it was sent.
fn judge(scene: &Scene, method: &MethodDescriptor, place: &Place, text: &str, answer: Result<(), Status>) {
    let Err(status) = answer else { return };
    let fine = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::Aborted
            | Code::Unauthenticated
    );
    // Small messages have small limits.
    let fine = fine || text.len() > 4000 && status.code() == Code::OutOfRange;
    let short: String = text.chars().take(100).collect();
    assert!(fine, "{} {place:?} with {short:?}: {status}\n{}", path(method), scene.hub.log());
    let told = status.message();
    assert!(!told.contains(is_dangerous), "{} {place:?} with {short:?}: {told:?}", path(method));
}

/// Asks again when it was too often: wrong join tokens from one address have a pace that no flag changes.
async fn ask_patiently(channel: &Channel, method: &MethodDescriptor, messages: &[Vec<u8>]) -> Result<(), Status> {
    wait::until(&format!("an answer of {}", path(method)), async || {
        match ask(channel, method, messages.to_vec()).await {
            Err(status) if status.code() == Code::ResourceExhausted => Err(status),
            answer => Ok(answer),
        }
    })
    .await
}

/// Moves a cursor, turns a line around, or begins another one.
fn is_dangerous(c: char) -> bool {
    c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// Neither the log nor what people read of the audit log has anything that somebody else made, and the chain holds.
async fn nothing_was_forged(scene: &Scene, entries: usize) {
    for line in scene.log().lines() {
        assert!(!line.starts_with(FORGED), "a forged line: {line:?}");
        assert!(line.is_empty() || line.starts_with(|c: char| c.is_ascii_digit()), "not a line of the hub: {line:?}");
        assert!(!line.contains(|c| is_dangerous(c) && c != '\t'), "{line:?}");
    }
    let yardctl = scene.guard.by_administrator(&scene.hub.grpc_url()).unwrap();
    let shown = yardctl.expect(&["audit", "--limit", "0", "-o", "table"], "").await.stdout;
    assert!(shown.lines().count() > entries, "{entries} entries at the least: {shown}");
    for line in shown.lines() {
        assert!(!line.starts_with(FORGED) && !line.contains(is_dangerous), "{line:?}");
    }
    scene.audit_holds().await;
}

/// Puts the policy there that all speak of; one that is being deleted has to be gone first.
async fn apply(scene: &Scene) {
    let mut policies = PolicyServiceClient::new(scene.administrator.clone());
    wait::until("the policy to be applied", async || {
        let request = ApplyPolicyRequest {
            request_id: Uuid::new_v4().to_string(),
            manifest: manifest("shop", "web"),
            ..ApplyPolicyRequest::default()
        };
        policies.apply_policy(request).await
    })
    .await;
}

/// Fast enough for some thousand calls of one caller: how often he may call is not what this is about.
const FAST: [&str; 2] = ["--caller-change-rate=10000:100000", "--caller-read-rate=10000:100000"];

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_any_call_is_more_than_a_text() {
    let scene = Scene::with(&FAST).await;
    let (mut tried, mut texts) = (0, 0);
    let mut took = BTreeMap::new();
    for method in methods("switchyard.api.") {
        for place in places(&method.input()) {
            // It may be gone by what was called before.
            apply(&scene).await;
            texts += 1;
            for text in evil() {
                let message = filled(&method.input(), &place, &text, of("blue"));
                let answer = ask_patiently(&scene.administrator, &method, &[bytes(&message)]).await;
                *took.entry(path(&method)).or_insert(0) += usize::from(answer.is_ok());
                judge(&scene, &method, &place, &text, answer);
                tried += 1;
            }
        }
    }
    // Where a reason may be said, what was tried came as far as the store. A second shift waits for the first one to end.
    for (name, least) in [
        ("AccessService/CreateJoinToken", 10),
        ("AccessService/RevokeAgentCertificates", 10),
        ("AccessService/RotateAuthority", 10),
        ("ClusterService/CordonCluster", 10),
        ("ClusterService/DrainCluster", 10),
        ("PolicyService/ApplyPolicy", 10),
        ("PolicyService/SetWeights", 10),
        ("SafetyService/SetGatingSwitch", 10),
        ("ShiftService/CreateShift", 1),
    ] {
        let taken = took[&format!("/switchyard.api.v1.{name}")];
        assert!(taken >= least, "{name} took {taken}: {took:#?}");
    }
    assert!(texts > 90 && tried > 1800, "{texts} texts, {tried} calls: the descriptor is not read any more");
    // Each change that was taken is an entry; how many entries the refusals are depends on how fast they came.
    nothing_was_forged(&scene, 80).await;
    scene.stop().await;
}

/// What an agent of green says of itself at the beginning of a stream, when this is not what is tried.
fn hello(method: &MethodDescriptor, place: &Place) -> Option<Vec<u8>> {
    let hello = method.input().fields().find(|field| field.name() == "hello")?;
    if place.first() == Some(&hello.number()) {
        return None;
    }
    // The first of the choice is the hello: see `filled`.
    let mut message = filled(&method.input(), &[], "", of("green"));
    assert!(message.has_field(&hello), "{message:?}");
    message.clear_field_by_name("seq");
    Some(bytes(&message))
}

/// A whole session in which this is the one message with endpoints: what it says is stored, if anything of it is.
async fn reported(agent: &Channel, changes: Vec<u8>) -> Result<(), Status> {
    let numbered = |seq, message| AgentMessage { seq, message: Some(message) };
    let mut changes = AgentMessage::decode(changes.as_slice()).unwrap();
    changes.seq = 2;
    let Some(agent_message::Message::Changes(parts)) = &changes.message else { panic!("{changes:?}") };
    let (service_count, endpoint_count) = (parts.services.len() as u32, parts.upserts.len() as u32);
    let (outbox, receiver) = mpsc::channel(8);
    let hello = Hello {
        cluster: "green".into(),
        region: "eu-central-1".into(),
        vpc_id: "vpc-0123456789abcdef0".into(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".into(),
        ..Hello::default()
    };
    outbox.send(numbered(0, agent_message::Message::Hello(hello))).await.unwrap();
    let session = async {
        let mut inbox =
            AgentServiceClient::new(agent.clone()).session(ReceiverStream::new(receiver)).await?.into_inner();
        let version = loop {
            if let Some(hub_message::Message::WatchSet(set)) = inbox.message().await?.expect("a watch set").message {
                break set.version;
            }
        };
        let snapshot_id = "one".to_owned();
        let begin = SnapshotBegin { snapshot_id: snapshot_id.clone(), watch_set_version: version };
        let end = SnapshotEnd { snapshot_id, service_count, endpoint_count };
        // It may have ended by then.
        let _ended = outbox.send(numbered(1, agent_message::Message::SnapshotBegin(begin))).await;
        let _ended = outbox.send(changes).await;
        let _ended = outbox.send(numbered(3, agent_message::Message::SnapshotEnd(end))).await;
        let live = agent_message::Message::Live(Live { watch_set_version: version });
        let _ended = outbox.send(numbered(4, live)).await;
        loop {
            match inbox.message().await?.and_then(|message| message.message) {
                Some(hub_message::Message::Ack(ack)) if ack.seq >= 3 => return Ok(()),
                Some(hub_message::Message::Resync(resync)) => return Err(Status::failed_precondition(resync.reason)),
                Some(_) => {}
                None => return Err(Status::unknown("the session ended without a reason")),
            }
        }
    };
    timeout(Duration::from_secs(20), session).await.expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_that_an_agent_sends_is_more_than_a_text() {
    let scene = Scene::with(&[FAST[0], FAST[1], "--policy-source=green"]).await;
    let agent: Channel = scene.with_certificate(&scene.stolen_agent("green").await).await;
    let (mut tried, mut texts, mut stored, mut routed) = (0, 0, 0, false);
    for method in methods("switchyard.agent.") {
        for place in places(&method.input()) {
            texts += 1;
            for text in evil() {
                let mut message = filled(&method.input(), &place, &text, of("green"));
                let of_endpoints = method.name() == "Session" && message.has_field_by_name("changes");
                let answer = if of_endpoints {
                    if !routed {
                        // From here on green has to report the endpoints of its Service, and stays where it is.
                        let usual = filled(&method.input(), &[], "", of("green"));
                        ask_patiently(&agent, &method, &[bytes(&usual)]).await.expect("an agent as it is meant");
                        apply(&scene).await;
                        routed = true;
                    }
                    let answer = reported(&agent, bytes(&message)).await;
                    stored += usize::from(answer.is_ok());
                    answer
                } else {
                    let before: Vec<Vec<u8>> = hello(&method, &place).into_iter().collect();
                    if let Some(seq) = method.input().get_field_by_name("seq").filter(|_| !before.is_empty()) {
                        message.set_field(&seq, Value::U64(1));
                    }
                    let messages: Vec<Vec<u8>> = before.into_iter().chain([bytes(&message)]).collect();
                    ask_patiently(&agent, &method, &messages).await
                };
                judge(&scene, &method, &place, &text, answer);
                tried += 1;
            }
        }
    }
    assert!(texts > 50 && tried > 1000, "{texts} texts, {tried} streams: the descriptor is not read any more");
    assert!(stored > 50, "{stored} sessions with such texts came as far as the store");
    nothing_was_forged(&scene, 1).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_and_no_group_in_a_token_is_more_than_a_name() {
    let scene = Scene::with(&FAST).await;
    apply(&scene).await;
    let mut known = 0;
    for (i, text) in evil().iter().enumerate() {
        let token = scene.token(text, &[text, "shop-operators"]);
        let mut access = AccessServiceClient::new(scene.nobody().await);
        let who = call(WhoAmIRequest {}, Some(&token), async |request| access.who_am_i(request).await).await;
        match who {
            Ok(who) => {
                known += 1;
                assert!(!who.identity.contains(is_dangerous), "{:?}", who.identity);
                let weights = SetWeightsRequest {
                    request_id: format!("w{i}"),
                    policy: Some(PolicyRef { namespace: "shop".into(), name: "web".into() }),
                    weights: [("green".to_owned(), u32::try_from(i + 1).unwrap())].into(),
                    ..SetWeightsRequest::default()
                };
                let mut policies = PolicyServiceClient::new(scene.nobody().await);
                let set = call(weights, Some(&token), async |request| policies.set_weights(request).await).await;
                set.unwrap_or_else(|status| panic!("{text:?}: {status}"));
            }
            Err(status) => {
                assert!(!status.message().contains(is_dangerous), "{text:?}: {status}");
                assert_eq!(status.code(), Code::Unauthenticated, "{text:?}: {status}");
            }
        }
    }
    assert!(known > 5, "{known} of them are names");
    // The same in claims that are no texts at all.
    for claims in [json!({"sub": ["a\nb"]}), json!({"groups": {"a\nb": 1}}), json!({"sub": {"$ne": null}})] {
        let mut all = scene.guard.issuer.claims("ann", &["shop-operators"]);
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let token = scene.guard.key.sign(&all);
        let mut access = AccessServiceClient::new(scene.nobody().await);
        let who = call(WhoAmIRequest {}, Some(&token), async |request| access.who_am_i(request).await).await;
        assert_eq!(who.expect_err("a refusal").code(), Code::Unauthenticated, "{claims}");
    }
    nothing_was_forged(&scene, known).await;
    scene.stop().await;
}
