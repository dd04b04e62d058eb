//! Messages that are announced and never finished, and messages of a few megabytes that would be hundreds when they are unpacked: what
//! one connection may have the hub keep is bounded, each call ends with a reason, and others are served meanwhile.

use std::time::Duration;

use futures::future::join_all;
use switchyard_proto::agent::v1::{WatchTargetHealthRequest, target_health_service_client::TargetHealthServiceClient};
use tokio::time::timeout;
use tonic::{Code, transport::Channel};
use uuid::Uuid;

use crate::{
    floods::is_served,
    scene::Scene,
    wire::{ask, methods, path, unfinished},
};

/// Streams of one connection.
const STREAMS: usize = 256;
/// Kilobytes that the hub may grow by while so many streams keep what it lets them: 256 KiB each, and what a hub at work needs.
const MOST_FOR_STREAMS: u64 = 128 * 1024;
/// Kilobytes for one message that floods: it is refused by its bytes, which are four megabytes.
const MOST_FOR_MESSAGE: u64 = 64 * 1024;
/// Every call has to end by itself within it.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The agent of a cluster gets what the hub knows of its targets.
async fn agent_is_served(agent: &Channel, cluster: &str) {
    let request = WatchTargetHealthRequest {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        highest_epoch_seen: 0,
    };
    let mut client = TargetHealthServiceClient::new(agent.clone());
    let answered = async {
        let mut stream = client.watch_target_health(request).await.expect("a stream").into_inner();
        stream.message().await.expect("a message").expect("a welcome");
    };
    timeout(Duration::from_secs(20), answered).await.expect("an answer in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_announced_and_never_finished_end_with_a_reason_and_are_not_kept() {
    let scene = Scene::start().await;
    let thief = scene.with_certificate(&scene.stolen_agent("green").await).await;
    let token = scene.token("eve", &["shop-viewers"]);
    let others = scene.stolen_agent("blue").await;
    let nobody = scene.nobody().await;
    is_served(&scene.administrator).await;
    let list = "/switchyard.api.v1.PolicyService/ListPolicies";
    let attacks: [(&str, &Channel, &str, Option<&str>); 3] = [
        ("nobody", &nobody, "/grpc.health.v1.Health/Check", None),
        ("an agent", &thief, "/switchyard.agent.v1.TargetHealthService/WatchTargetHealth", None),
        ("a viewer", &nobody, list, Some(&token)),
    ];
    for (who, channel, path, token) in attacks {
        // What no message of any method may have, and what some may.
        for length in [4 * 1024 * 1024, 200 * 1024, 4000] {
            let memory = scene.measure();
            let calls = (0..STREAMS).map(|_| unfinished(channel.clone(), path, token, length));
            let (answers, ()) = tokio::join!(timeout(ENDS_WITHIN, join_all(calls)), async {
                is_served(&scene.fresh().await).await;
                agent_is_served(&scene.with_certificate(&others).await, "blue").await;
            });
            let answers = answers.unwrap_or_else(|_| panic!("{who}, {length} bytes: the calls do not end"));
            assert!(answers.iter().all(|code| *code != Some(Code::Ok as i32)), "{who}, {length} bytes: {answers:?}");
            let told = answers.iter().flatten().count();
            assert!(told > 0, "{who}, {length} bytes: not one of {STREAMS} calls was told why it ended");
            let growth = scene.growth(&memory);
            assert!(growth < MOST_FOR_STREAMS, "{who}, {length} bytes: the hub grew by {growth} kB");
        }
    }
    is_served(&scene.administrator).await;
    scene.stop().await;
}

/// A message whose field `outer` holds two million empty ones in its field `inner`, each of two bytes.
fn two_million(outer: u8, inner: u8) -> Vec<u8> {
    let items = [inner << 3 | 2, 0].repeat(2_000_000);
    let mut message = vec![outer << 3 | 2];
    let mut length = items.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    [message, items].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_million_empty_items_in_one_message_of_an_agent_are_refused_before_they_are_unpacked() {
    let scene = Scene::with(&["--policy-source=green"]).await;
    let agent = scene.with_certificate(&scene.stolen_agent("green").await).await;
    is_served(&scene.administrator).await;
    // Field 4 of the messages of both streams is `changes`, with `upserts` as 2 and as 1.
    for (name, inner) in [("Session", 2), ("SyncPolicies", 1)] {
        let method = methods("switchyard.agent.").into_iter().find(|method| method.name() == name).unwrap();
        let memory = scene.measure();
        let refused = ask(&agent, &method, vec![two_million(4, inner)]).await.expect_err(name);
        let fine = matches!(refused.code(), Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange);
        assert!(fine && !refused.message().is_empty(), "{}: {refused}", path(&method));
        let growth = scene.growth(&memory);
        assert!(growth < MOST_FOR_MESSAGE, "{name}: the hub grew by {growth} kB");
    }
    agent_is_served(&agent, "green").await;
    is_served(&scene.administrator).await;
    scene.stop().await;
}
