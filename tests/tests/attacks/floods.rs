//! Too much of everything: messages, streams, connections. What is too much is refused, the hub's memory stays bounded, and who was there
//! goes on being served.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use switchyard_proto::api::v1::{
    ApplyPolicyRequest, ListPoliciesRequest, WatchPoliciesRequest, policy_service_client::PolicyServiceClient,
};
use switchyard_tests::{guarded::sum, wait};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::{Code, transport::Channel};

use crate::{
    scene::{Scene, call},
    wire::{ask, ballast, methods, path},
};

/// Kilobytes that the hub may grow by for what is refused by its announced length: windows of a few connections, and what else happens.
const MOST_FOR_REFUSED: u64 = 32 * 1024;
/// For ten thousand streams on forty connections, or five thousand connections of which a fifth is let in.
const MOST_FOR_CONNECTIONS: u64 = 256 * 1024;
/// Connections of one address, by default.
const OF_ADDRESS: usize = 1024;

pub async fn is_served(channel: &Channel) {
    let mut policies = PolicyServiceClient::new(channel.clone());
    let answer = timeout(Duration::from_secs(10), policies.list_policies(ListPoliciesRequest::default())).await;
    answer.expect("an answer in time").expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_large_are_refused_without_being_kept() {
    let scene = Scene::start().await;
    is_served(&scene.administrator).await;
    let memory = scene.measure();
    // A manifest that is longer than one may be is answered with what is wrong with it; what no manifest can be is not even read.
    for (kilobytes, code) in [(100, Code::InvalidArgument), (5 * 1024, Code::OutOfRange), (64 * 1024, Code::OutOfRange)]
    {
        let manifest = "x".repeat(kilobytes * 1024);
        let request = ApplyPolicyRequest { request_id: "big".into(), manifest, ..Default::default() };
        let mut policies = PolicyServiceClient::new(scene.administrator.clone()).max_encoding_message_size(usize::MAX);
        let refused = policies.apply_policy(request).await.unwrap_err();
        let told: String = refused.message().chars().take(200).collect();
        assert_eq!(refused.code(), code, "{kilobytes} KiB: {told}");
        is_served(&scene.administrator).await;
    }
    let growth = scene.growth(&memory);
    assert!(growth < MOST_FOR_REFUSED, "the hub grew by {growth} kB");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_of_any_service_takes_a_message_of_five_megabytes() {
    let scene = Scene::start().await;
    let agent = scene.with_certificate(&scene.stolen_agent("green").await).await;
    is_served(&scene.administrator).await;
    let memory = scene.measure();
    let mut services = BTreeSet::new();
    for method in methods("switchyard.") {
        let of_agents = method.parent_service().package_name() == "switchyard.agent.v1";
        let channel = if of_agents { &agent } else { &scene.administrator };
        let refused = ask(channel, &method, vec![ballast(5 * 1024 * 1024)]).await.unwrap_err();
        // A stream of an agent says it with another code; with a lost limit it would be another sentence.
        let fine = matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted);
        assert!(fine && refused.message().contains("length too large"), "{}: {refused}", path(&method));
        services.insert(method.parent_service().full_name().to_owned());
    }
    assert!(services.len() >= 11, "{services:?}");
    let growth = scene.growth(&memory);
    assert!(growth < MOST_FOR_REFUSED, "the hub grew by {growth} kB");
    is_served(&scene.administrator).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_caller_are_refused_past_his_number_and_cost_others_nothing() {
    // How often he may ask is not what this is about: with the pace of every day most of it would be refused for that.
    let scene = Scene::with(&["--caller-read-rate=10000:100000"]).await;
    let token = scene.token("eve", &["shop-viewers"]);
    // The first token of an issuer waits for its keys; past some waiting calls the hub says "try again".
    let mut policies = PolicyServiceClient::new(scene.nobody().await);
    let known =
        call(ListPoliciesRequest::default(), Some(&token), async |request| policies.list_policies(request).await);
    known.await.expect("a caller who is known");
    let memory = scene.measure();
    let mut open = Vec::new();
    let (mut refused, mut asked) = (0, 0);
    // 256 streams fit on a connection.
    for _ in 0..40 {
        let channel = scene.nobody().await;
        let calls = (0..250).map(|_| {
            let (mut policies, token) = (PolicyServiceClient::new(channel.clone()), token.clone());
            async move {
                let watch = WatchPoliciesRequest { namespace: "shop".into(), policy: None };
                call(watch, Some(&token), async |request| policies.watch_policies(request).await).await
            }
        });
        for answer in futures::future::join_all(calls).await {
            asked += 1;
            match answer {
                Ok(stream) => open.push(stream),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert!(status.message().contains("256 streams"), "{status}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(asked, 10_000);
    assert_eq!((open.len(), refused), (256, 10_000 - 256));
    is_served(&scene.administrator).await;
    let growth = scene.growth(&memory);
    assert!(growth < MOST_FOR_CONNECTIONS, "the hub grew by {growth} kB");
    // What was refused is a few entries, not thousands.
    scene.audited("refused", &["corp:eve", "WatchPolicies"]).await;
    assert!(scene.audit("refused").await.len() < 20);
    drop(open);
    scene.audit_holds().await;
    scene.stop().await;
}

/// A connection that says nothing, from this address of the machine.
async fn silent(from: Ipv4Addr, to: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((from, 0).into()).ok()?;
    timeout(Duration::from_secs(5), socket.connect(to.parse().ok()?)).await.ok()?.ok()
}

/// True when the other end has not closed it.
async fn is_open(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    !matches!(timeout(Duration::from_millis(1), stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_and_one_address_cannot_take_the_places_of_others() {
    const TRIED: usize = 5000;
    const TURNED_AWAY: &str = "switchyard_hub_door_refused_total{port=\"grpc\",reason=\"source\"}";
    let scene = Scene::start().await;
    let (memory, address) = (scene.measure(), scene.hub.grpc_url().replace("https://", ""));
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    let mut streams = Vec::new();
    for _ in 0..TRIED {
        streams.extend(silent(attacker, &address).await);
    }
    // More than there is room for in all, so that somebody else is let in only if most of them were turned away for their address.
    assert_eq!(streams.len(), TRIED, "the machine accepts them, 20000 open files are enough");
    wait::until("the surplus of the address to be turned away", async || {
        let turned_away = sum(&scene.hub, TURNED_AWAY).await;
        wait::check(turned_away >= (TRIED - OF_ADDRESS) as u64, || format!("{turned_away} were"))
    })
    .await;
    is_served(&scene.fresh().await).await;
    let mut open = 0;
    for stream in &mut streams {
        open += usize::from(is_open(stream).await);
    }
    assert!(open <= OF_ADDRESS, "{open} are open");
    // Those that shook no hands are closed when their time is over.
    wait::until("all of them to be closed", async || {
        let mut open = 0;
        for stream in &mut streams {
            open += usize::from(is_open(stream).await);
        }
        wait::check(open == 0, || format!("{open} are open"))
    })
    .await;
    is_served(&scene.administrator).await;
    let growth = scene.growth(&memory);
    assert!(growth < MOST_FOR_CONNECTIONS, "the hub grew by {growth} kB");
    let lines = scene.log().lines().filter(|line| line.contains("127.0.0.66")).count();
    assert!((1..50).contains(&lines), "{lines} lines of the log for {TRIED} connections");
    scene.stop().await;
}
