//! Too much of everything: messages, streams, connections. What is too much is refused, the hub's memory stays bounded, and who was there
//! goes on being served.

use std::{net::Ipv4Addr, time::Duration};

use switchyard_proto::api::v1::{
    ApplyPolicyRequest, ListPoliciesRequest, WatchPoliciesRequest, policy_service_client::PolicyServiceClient,
};
use switchyard_tests::wait;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::{Code, transport::Channel};

use crate::scene::{Scene, call};

/// Kilobytes that the hub may grow by under any of this; it has some 60 MB by itself.
const MOST_GROWTH: u64 = 400 * 1024;

async fn is_served(channel: &Channel) {
    let mut policies = PolicyServiceClient::new(channel.clone());
    let answer = timeout(Duration::from_secs(10), policies.list_policies(ListPoliciesRequest::default())).await;
    answer.expect("an answer in time").expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_large_are_refused_without_being_kept() {
    let scene = Scene::start().await;
    let before = scene.memory();
    for megabytes in [1, 5, 64] {
        let manifest = "x".repeat(megabytes * 1024 * 1024);
        let request = ApplyPolicyRequest { request_id: "big".into(), manifest, ..Default::default() };
        let mut policies = PolicyServiceClient::new(scene.administrator.clone()).max_encoding_message_size(usize::MAX);
        let refused = policies.apply_policy(request).await.unwrap_err();
        let fine = matches!(refused.code(), Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted);
        assert!(
            fine,
            "{megabytes} MiB: {:?} {}",
            refused.code(),
            refused.message().chars().take(200).collect::<String>()
        );
        is_served(&scene.administrator).await;
    }
    assert!(scene.memory() < before + MOST_GROWTH, "{} kB, then {} kB", before, scene.memory());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_caller_are_refused_past_his_number_and_cost_others_nothing() {
    let scene = Scene::start().await;
    let token = scene.token("eve", &["shop-viewers"]);
    let before = scene.memory();
    // The first token of an issuer waits for its keys; past some waiting calls the hub says "try again".
    let mut policies = PolicyServiceClient::new(scene.nobody().await);
    let known =
        call(ListPoliciesRequest::default(), Some(&token), async |request| policies.list_policies(request).await);
    known.await.expect("a caller who is known");
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
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(asked, 10_000);
    assert!(open.len() <= 256, "{} streams are open", open.len());
    assert_eq!(open.len() + refused, asked);
    is_served(&scene.administrator).await;
    assert!(scene.memory() < before + MOST_GROWTH, "{} kB, then {} kB", before, scene.memory());
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
    let scene = Scene::start().await;
    let (before, address) = (scene.memory(), scene.hub.grpc_url().replace("https://", ""));
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    let mut streams = Vec::new();
    for _ in 0..3000 {
        streams.extend(silent(attacker, &address).await);
    }
    assert!(streams.len() > 2000, "{} were accepted by the machine", streams.len());
    // Those beyond the number of one address are closed at once.
    wait::until("the surplus to be closed", async || {
        let mut open = 0;
        for stream in &mut streams {
            open += usize::from(is_open(stream).await);
        }
        wait::check(open <= 1024, || format!("{open} are open"))
    })
    .await;
    is_served(&scene.fresh().await).await;
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
    assert!(scene.memory() < before + MOST_GROWTH, "{} kB, then {} kB", before, scene.memory());
    let lines = scene.log().lines().filter(|line| line.contains("127.0.0.66")).count();
    assert!((1..50).contains(&lines), "{lines} lines of the log for 3000 connections");
    scene.stop().await;
}
