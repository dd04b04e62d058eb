//! Agents' streams over real gRPC and a real Postgres.

mod grpc_support;
mod store_support;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Instant};

use grpc_support::{
    Agent, EPOCH, FLOOD, HEARTBEAT, Hub, LARGE, changes, endpoint, eventually, hello, hub, hub_on, is_paced, manifest,
    service_ref, tombstone,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use switchyard_core::ids::Epoch;
use switchyard_hub::store::{EmbeddedOptions, EmbeddedPostgres};
use switchyard_proto::{
    agent::v1::{
        self as agent, agent_message::Message, hub_message, policy_source_service_client::PolicySourceServiceClient,
        shift_source_service_client::ShiftSourceServiceClient,
    },
    api::v1::ClusterLink,
};
use tonic::Code;

async fn live_agent(hub: &Hub, cluster: &str, addresses: &[&str]) -> Agent {
    let mut agent = Agent::connect(hub, hello(cluster)).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    agent.sync(&set, "web", addresses).await;
    agent
}

async fn link_is(hub: &Hub, cluster: &str, link: ClusterLink) {
    let what = format!("{cluster} being {link:?}");
    eventually(&what, async || (hub.link(cluster).await == link).then_some(())).await;
}

async fn endpoints_are(hub: &Hub, cluster: &str, addresses: &[&str]) {
    let expected: Vec<(String, bool)> = addresses.iter().map(|address| ((*address).to_owned(), true)).collect();
    let what = format!("endpoints {addresses:?} of {cluster}");
    eventually(&what, async || (hub.endpoints(cluster).await == expected).then_some(())).await;
}

#[tokio::test]
async fn an_agent_is_told_what_to_watch_and_what_it_reports_is_shown() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 100), ("green", 0)])).await.unwrap();
    hub.apply(&manifest("api", &[("green", 1)])).await.unwrap();
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    let welcome = agent.welcome().await;
    assert_eq!((welcome.epoch, welcome.resume), (EPOCH.0, false));
    assert_eq!(u128::from(welcome.heartbeat_interval_ms), HEARTBEAT.as_millis());
    let set = agent.watch_set().await;
    assert_eq!(set.services, [service_ref("web").unwrap()]);
    assert_ne!(set.version, 0);
    link_is(&hub, "blue", ClusterLink::Syncing).await;
    agent.sync(&set, "web", &["10.0.0.1", "10.0.0.2"]).await;
    endpoints_are(&hub, "blue", &["10.0.0.1", "10.0.0.2"]).await;
    link_is(&hub, "blue", ClusterLink::Connected).await;
    let news = agent::Changes {
        upserts: vec![endpoint("web", "10.0.0.3")],
        tombstones: vec![tombstone("web", "10.0.0.1")],
        ..agent::Changes::default()
    };
    let seq = agent.changes(news).await;
    agent.acked(seq).await;
    endpoints_are(&hub, "blue", &["10.0.0.2", "10.0.0.3"]).await;
    drop(agent);
    link_is(&hub, "blue", ClusterLink::Stale).await;
    endpoints_are(&hub, "blue", &["10.0.0.2", "10.0.0.3"]).await;
    hub.stop().await;
}

#[tokio::test]
async fn the_watch_set_follows_the_policies_and_a_service_that_left_is_forgotten() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 100)])).await.unwrap();
    let mut agent = live_agent(&hub, "blue", &["10.0.0.1"]).await;
    hub.apply(&manifest("api", &[("blue", 100)])).await.unwrap();
    let set = agent.watch_set().await;
    assert_eq!(set.services, [service_ref("api").unwrap(), service_ref("web").unwrap()]);
    agent.changes(changes("api", &["10.0.0.9"])).await;
    let seq = agent.send(Message::Live(agent::Live { watch_set_version: set.version })).await;
    agent.acked(seq).await;
    endpoints_are(&hub, "blue", &["10.0.0.9", "10.0.0.1"]).await;
    // A policy that is being deleted still needs its endpoints: its rule is still there.
    let deleted = hub.delete("api").await.unwrap();
    let key = store_support::key("api");
    let fence = store_support::fence(&hub.store).await;
    assert!(hub.store.policy_forget(fence, &key, &deleted.uid.parse().unwrap()).await.unwrap());
    let set = agent.watch_set().await;
    assert_eq!(set.services, [service_ref("web").unwrap()]);
    agent.send(Message::Live(agent::Live { watch_set_version: set.version })).await;
    let reason = agent.resync().await;
    assert!(reason.contains("left the watch set"), "{reason}");
    agent.sync(&set, "web", &["10.0.0.1"]).await;
    endpoints_are(&hub, "blue", &["10.0.0.1"]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_newer_agent_takes_over_and_the_older_one_is_told() {
    let hub = hub().await;
    let older = live_agent(&hub, "blue", &[]).await;
    let newer = live_agent(&hub, "blue", &[]).await;
    let status = older.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("took over"), "{status:?}");
    link_is(&hub, "blue", ClusterLink::Connected).await;
    drop(newer);
    hub.stop().await;
}

fn ended_as(hub: &Hub, reason: &str) -> u64 {
    let counted = hub.metrics.encoded().unwrap();
    let reason = format!("reason=\"{reason}\"");
    let line = counted.lines().find(|line| line.contains("session") && line.contains(&reason));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Two processes with one identity: a copied Secret, or a cluster that was cloned. Each tries for as long as it runs.
#[tokio::test]
async fn two_agents_of_one_cluster_do_not_take_turns_at_whichever_replica_they_come() {
    let first = hub().await;
    let second = hub_on(&first.url).await;
    first.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let (old, new) = (hello("blue"), hello("blue"));
    let process = |hello: &agent::Hello| hello.agent_instance_id.clone();
    let mut older = Agent::connect(&first, old.clone()).await;
    older.welcome().await;
    let mut newer = Agent::connect(&first, new.clone()).await;
    newer.welcome().await;
    let set = newer.watch_set().await;
    newer.sync(&set, "web", &["10.0.0.1"]).await;
    assert_eq!(older.end().await.code(), Code::FailedPrecondition);
    for hub in [&first, &second, &first, &second] {
        let status = Agent::connect(hub, old.clone()).await.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        for part in [&process(&old), &process(&new), "cluster blue", "stop one of the two"] {
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
        let sources = agent::SourceHello {
            cluster: "blue".to_owned(),
            agent_instance_id: process(&old),
            ..agent::SourceHello::default()
        };
        let message = Some(agent::sync_policies_request::Message::Hello(sources));
        let said = tokio_stream::iter([agent::SyncPoliciesRequest { seq: 0, message }]);
        let policies = PolicySourceServiceClient::new(hub.channel.clone()).sync_policies(said).await.unwrap();
        let status = policies.into_inner().message().await.unwrap_err();
        assert!(status.message().contains("was relieved"), "{status:?}");
        let shifts = agent::ShiftSourceHello {
            cluster: "blue".to_owned(),
            agent_instance_id: process(&old),
            ..agent::ShiftSourceHello::default()
        };
        let message = Some(agent::sync_shifts_request::Message::Hello(shifts));
        let said = tokio_stream::iter([agent::SyncShiftsRequest { message }]);
        let shifts = ShiftSourceServiceClient::new(hub.channel.clone()).sync_shifts(said).await.unwrap();
        let status = shifts.into_inner().message().await.unwrap_err();
        assert!(status.message().contains("was relieved"), "{status:?}");
    }
    assert_eq!((ended_as(&first, "relieved"), ended_as(&first, "taken_over")), (2, 1));
    // The one that holds the cluster was never disturbed.
    let seq = newer.changes(changes("web", &["10.0.0.2"])).await;
    newer.acked(seq).await;
    endpoints_are(&first, "blue", &["10.0.0.1", "10.0.0.2"]).await;
    // Its connection breaks, and is made anew: the other one does not get in between.
    drop(newer);
    link_is(&first, "blue", ClusterLink::Stale).await;
    assert_eq!(Agent::connect(&second, old.clone()).await.end().await.code(), Code::FailedPrecondition);
    Agent::connect(&second, new).await.welcome().await;
    // An update brings a process that was never seen: it takes over at once.
    Agent::connect(&first, hello("blue")).await.welcome().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_stream_of_nothing_but_heartbeats_is_ended_and_so_is_one_of_snapshots_without_end() {
    let hub = hub().await;
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    let flood = async {
        // Until nobody takes them any more.
        for _ in 0..100_000 {
            agent.say(0, Message::Heartbeat(agent::Heartbeat::default())).await;
        }
    };
    flood.await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("heartbeats without end"), "{status:?}");

    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let version = agent.watch_set().await.version;
    assert_eq!(version, set.version);
    for i in 0..200 {
        let begin = agent::SnapshotBegin { snapshot_id: i.to_string(), watch_set_version: version };
        agent.send(Message::SnapshotBegin(begin)).await;
    }
    let status = agent.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("none was ended"), "{status:?}");
    // Others feel nothing of it.
    live_agent(&hub, "green", &[]).await;
    hub.stop().await;
}

/// As many as a snapshot may bring, and a tenth; what is reported message by message is counted too.
#[tokio::test]
async fn a_cluster_has_no_more_endpoints_than_the_hub_is_built_for_however_they_are_reported() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let mut agent = live_agent(&hub, "blue", &["10.0.0.1"]).await;
    let raw = sqlx::PgPool::connect(&hub.url).await.unwrap();
    let stored = "insert into endpoints (cluster, namespace, service, service_port, address, target_port, pod_uid, state, \
                  ready, serving, terminating, pod, pod_name, node, zone, eni_ids, first_seen, updated_at, rev) \
                  select 'blue', 'shop', 'web', 'http', '10.128.0.0'::inet + i, 8080, 'u' || i, 'present', \
                  true, true, false, '{}', 'p', 'n', 'z', '[]', now(), now(), 1 from generate_series(1, 110000) as i";
    sqlx::query(stored).execute(&raw).await.unwrap();
    agent.changes(changes("web", &["10.0.0.2"])).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("cluster blue has more than 110000 endpoints"), "{status:?}");
    let mut other = live_agent(&hub, "green", &[]).await;
    let seq = other.changes(agent::Changes::default()).await;
    other.acked(seq).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_moves_to_another_replica_ends_its_session_at_the_first() {
    let first = hub().await;
    let second = hub_on(&first.url).await;
    let older = live_agent(&first, "blue", &[]).await;
    let newer = live_agent(&second, "blue", &[]).await;
    assert_eq!(older.end().await.code(), Code::FailedPrecondition);
    link_is(&first, "blue", ClusterLink::Connected).await;
    drop(newer);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_session_is_resumed_behind_what_was_acknowledged_also_at_another_replica() {
    let first = hub().await;
    first.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let hello = hello("blue");
    let mut agent = Agent::connect(&first, hello.clone()).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    agent.sync(&set, "web", &["10.0.0.1"]).await;
    let (acked, url) = (agent.seq, first.url.clone());
    first.stop().await;
    assert_eq!(agent.end().await.code(), Code::Unavailable);

    let second = hub_on(&url).await;
    let again = agent::Hello { last_acked_seq: acked, watch_set_version: set.version, ..hello.clone() };
    let mut agent = Agent::connect(&second, again.clone()).await;
    let welcome = agent.welcome().await;
    assert_eq!((welcome.resume, welcome.resume_after_seq), (true, acked));
    agent.seq = acked;
    agent.changes(changes("web", &["10.0.0.2"])).await;
    let seq = agent.send(Message::Live(agent::Live { watch_set_version: set.version })).await;
    agent.acked(seq).await;
    link_is(&second, "blue", ClusterLink::Connected).await;
    endpoints_are(&second, "blue", &["10.0.0.1", "10.0.0.2"]).await;
    drop(agent);

    // Something was acknowledged since: the store is ahead of what this Hello says.
    let mut agent = Agent::connect(&second, again).await;
    assert!(!agent.welcome().await.resume);
    drop(agent);
    // Another process of the same agent.
    let other = agent::Hello { last_acked_seq: seq, watch_set_version: set.version, ..grpc_support::hello("blue") };
    let mut agent = Agent::connect(&second, other).await;
    assert!(!agent.welcome().await.resume);
    second.stop().await;
}

#[tokio::test]
async fn a_session_is_not_resumed_when_the_watch_set_changed_meanwhile() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let hello = hello("blue");
    let mut agent = Agent::connect(&hub, hello.clone()).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    agent.sync(&set, "web", &["10.0.0.1"]).await;
    let acked = agent.seq;
    drop(agent);
    hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap();
    let again = agent::Hello { last_acked_seq: acked, watch_set_version: set.version, ..hello };
    let mut agent = Agent::connect(&hub, again).await;
    assert!(!agent.welcome().await.resume);
    hub.stop().await;
}

#[tokio::test]
async fn a_snapshot_cut_short_removes_nothing_and_a_whole_one_sweeps() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    agent.sync(&set, "web", &["10.0.0.1", "10.0.0.2"]).await;
    let begin = || agent::SnapshotBegin { snapshot_id: "x".to_owned(), watch_set_version: set.version };
    agent.send(Message::SnapshotBegin(begin())).await;
    agent.changes(changes("web", &["10.0.0.1"])).await;
    let end = agent::SnapshotEnd { snapshot_id: "x".to_owned(), service_count: 1, endpoint_count: 2 };
    agent.send(Message::SnapshotEnd(end)).await;
    assert!(agent.resync().await.contains("brought 1 and 1"));
    endpoints_are(&hub, "blue", &["10.0.0.1", "10.0.0.2"]).await;
    agent.sync(&set, "web", &["10.0.0.1"]).await;
    endpoints_are(&hub, "blue", &["10.0.0.1"]).await;
    hub.stop().await;
}

#[tokio::test]
async fn failing_sources_are_shown_and_disappear() {
    let hub = hub().await;
    let mut agent = live_agent(&hub, "blue", &[]).await;
    let source = |health: agent::SourceHealth| agent::SourceState {
        namespace: "shop".to_owned(),
        kind: "Pod".to_owned(),
        health: health.into(),
        message: "pods is forbidden".to_owned(),
    };
    for (health, count) in [(agent::SourceHealth::Failing, 1), (agent::SourceHealth::Synced, 0)] {
        let sources = vec![source(health), source(agent::SourceHealth::Synced)];
        agent.send(Message::SourceStates(agent::SourceStates { sources })).await;
        eventually("the report of sources", async || {
            let clusters = hub.clusters().list_clusters(switchyard_proto::api::v1::ListClustersRequest {}).await;
            let clusters = clusters.unwrap().into_inner().clusters;
            (clusters.first()?.problems.len() == count).then_some(())
        })
        .await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_silent_agent_is_given_up_after_three_heartbeats() {
    let hub = hub().await;
    let agent = live_agent(&hub, "blue", &[]).await;
    agent.fall_silent();
    let status = agent.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("three heartbeats"), "{status:?}");
    link_is(&hub, "blue", ClusterLink::Stale).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_saw_a_newer_hub_is_refused_and_a_new_epoch_keeps_live_agents_connected() {
    let hub = hub().await;
    let refused = Agent::connect(&hub, agent::Hello { highest_epoch_seen: EPOCH.0 + 1, ..hello("blue") }).await;
    let status = refused.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("older than epoch 4"), "{status:?}");
    let agent = live_agent(&hub, "green", &[]).await;
    link_is(&hub, "green", ClusterLink::Connected).await;
    hub.epoch.send_replace(Some(Epoch(EPOCH.0 + 1)));
    eventually("the new epoch to be stored", async || {
        let picture = hub.feed.picture();
        let info = picture.clusters.values().next()?;
        (info.complete_in_epoch == Some(Epoch(EPOCH.0 + 1))).then_some(())
    })
    .await;
    link_is(&hub, "green", ClusterLink::Connected).await;
    drop(agent);
    hub.stop().await;
}

#[tokio::test]
async fn a_hub_without_an_epoch_asks_agents_to_come_back() {
    let hub = hub().await;
    hub.epoch.send_replace(None);
    let status = Agent::connect(&hub, hello("blue")).await.end().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("epoch"), "{status:?}");
    hub.stop().await;
}

fn one_upsert(change: impl FnOnce(&mut agent::Endpoint)) -> Message {
    let mut endpoint = endpoint("web", "10.0.0.1");
    change(&mut endpoint);
    Message::Changes(agent::Changes { upserts: vec![endpoint], ..agent::Changes::default() })
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_and_names_the_field() {
    let hub = hub().await;
    let bad_service = agent::ServiceRef { namespace: "Shop".to_owned(), ..service_ref("web").unwrap() };
    let unknown_reason = agent::Tombstone { reason: 99, ..tombstone("web", "10.0.0.1") };
    let no_condition = agent::ServiceState { service: service_ref("web"), ..agent::ServiceState::default() };
    let many: Vec<String> = (0..501_u32).map(|i| Ipv4Addr::from(i).to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let source = agent::SourceState { health: 7, ..agent::SourceState::default() };
    let cases = [
        (one_upsert(|e| e.port = 0), "changes.upserts[0].port"),
        (one_upsert(|e| e.port = 70_000), "changes.upserts[0].port"),
        (one_upsert(|e| e.address = "fe80::1%eth0".to_owned()), "changes.upserts[0].address"),
        (one_upsert(|e| e.service = None), "changes.upserts[0].service"),
        (one_upsert(|e| e.service = Some(bad_service)), "changes.upserts[0].service.namespace"),
        (one_upsert(|e| e.pod.as_mut().unwrap().uid = "x y".to_owned()), "changes.upserts[0].pod.uid"),
        (Message::Changes(changes("web", &many)), "502"),
        (
            Message::Changes(agent::Changes { tombstones: vec![unknown_reason], ..Default::default() }),
            "changes.tombstones[0].reason",
        ),
        (
            Message::Changes(agent::Changes { services: vec![no_condition], ..Default::default() }),
            "changes.services[0].condition",
        ),
        (Message::SourceStates(agent::SourceStates { sources: vec![source] }), "source_states.sources[0].health"),
        (Message::SnapshotBegin(agent::SnapshotBegin::default()), "snapshot_begin.snapshot_id"),
        (Message::Hello(hello("blue")), "hello is not allowed twice"),
    ];
    for (message, named) in cases {
        let mut agent = Agent::connect(&hub, hello("blue")).await;
        agent.welcome().await;
        agent.send(message).await;
        let status = agent.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{named}: {status:?}");
        assert!(status.message().contains(named), "{named}: {status:?}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_bad_hello_is_refused_and_names_the_field() {
    let hub = hub().await;
    let good = hello("blue");
    let cases = [
        (agent::Hello { cluster: "Blue".to_owned(), ..good.clone() }, "hello.cluster"),
        (agent::Hello { cluster: "b".repeat(100_000), ..good.clone() }, "hello.cluster"),
        (agent::Hello { region: String::new(), ..good.clone() }, "hello.region"),
        (agent::Hello { vpc_id: String::new(), ..good.clone() }, "hello.vpc_id"),
        (agent::Hello { agent_instance_id: "1".to_owned(), ..good.clone() }, "hello.agent_instance_id"),
    ];
    for (hello, named) in cases {
        let status = Agent::connect(&hub, hello).await.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{named}: {status:?}");
        assert!(status.message().contains(named), "{named}: {status:?}");
    }
    let first = Agent::silent(&hub).await;
    first.say(1, Message::Live(agent::Live::default())).await;
    let status = first.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("before Hello"), "{status:?}");
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_names_another_vpc_or_region_does_not_take_over_a_cluster_that_a_policy_names() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let agent = live_agent(&hub, "blue", &["10.0.0.1"]).await;
    link_is(&hub, "blue", ClusterLink::Connected).await;
    let cases = [
        (agent::Hello { vpc_id: "vpc-2".to_owned(), ..hello("blue") }, "hello.vpc_id: \"vpc-2\"", "\"vpc-1\""),
        (
            agent::Hello { region: "eu-west-1".to_owned(), ..hello("blue") },
            "hello.region: \"eu-west-1\"",
            "\"eu-central-1\"",
        ),
    ];
    for (hello, value, known) in cases {
        let status = Agent::connect(&hub, hello).await.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for part in [value, known, "cluster blue", "policy shop/web", "take it out of every policy first"] {
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
    }
    let counted = hub.metrics.encoded().unwrap();
    assert!(counted.lines().any(|line| line.contains("reason=\"moved\"") && line.ends_with(" 2")), "{counted}");
    // The one that was there goes on.
    link_is(&hub, "blue", ClusterLink::Connected).await;
    endpoints_are(&hub, "blue", &["10.0.0.1"]).await;
    assert_eq!(hub.feed.picture().inventory.clusters.values().next().unwrap().vpc_id.as_str(), "vpc-1");
    drop(agent);
    hub.stop().await;
}

#[tokio::test]
async fn a_cluster_that_no_policy_names_may_come_back_in_another_vpc() {
    let hub = hub().await;
    let agent = live_agent(&hub, "blue", &[]).await;
    link_is(&hub, "blue", ClusterLink::Connected).await;
    drop(agent);
    let mut agent = Agent::connect(&hub, agent::Hello { vpc_id: "vpc-2".to_owned(), ..hello("blue") }).await;
    agent.welcome().await;
    eventually("the new VPC to be known", async || {
        let picture = hub.feed.picture();
        (picture.inventory.clusters.values().next()?.vpc_id.as_str() == "vpc-2").then_some(())
    })
    .await;
    drop(agent);
    hub.stop().await;
}

#[tokio::test]
async fn a_message_past_the_size_limit_ends_the_stream_and_not_the_hub() {
    let hub = hub().await;
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    agent.send(one_upsert(|e| e.pod.as_mut().unwrap().node = "x".repeat(5 * 1024 * 1024))).await;
    let mut other = live_agent(&hub, "green", &[]).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("a message is too large"), "{status:?}");
    assert_eq!(ended_as(&hub, "too_large"), 1);
    let seq = other.changes(agent::Changes::default()).await;
    other.acked(seq).await;
    hub.stop().await;
}

/// The pace of `pace.rs` decides; this sees that the session asks it.
#[tokio::test]
async fn a_flood_of_large_reports_is_read_no_faster_than_the_pace() {
    let hub = hub().await;
    let begun = Instant::now();
    let mut agent = live_agent(&hub, "blue", &[]).await;
    let large = one_upsert(|endpoint| endpoint.pod.as_mut().unwrap().zone = "x".repeat(LARGE));
    let mut last = 0;
    for i in 1..=FLOOD {
        last = agent.send(large.clone()).await;
        // Some are always on their way, so that it is the hub that sets the pace.
        if i > 4 {
            agent.acked(last - 4).await;
            is_paced((i - 4) * LARGE, begun);
        }
    }
    agent.acked(last).await;
    is_paced(FLOOD * LARGE, begun);
    hub.stop().await;
}

#[tokio::test]
async fn ten_agents_at_once_are_all_live() {
    let hub = hub().await;
    let names: Vec<String> = (0..10).map(|i| format!("c{i}")).collect();
    let pairs: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    hub.apply(&manifest("web", &pairs[..5])).await.unwrap();
    let join = names.iter().enumerate().map(|(i, name)| {
        let (hub, address) = (&hub, format!("10.0.{i}.1"));
        async move { live_agent(hub, name, &[&address]).await }
    });
    let agents = futures::future::join_all(join).await;
    for (i, name) in names.iter().enumerate() {
        link_is(&hub, name, ClusterLink::Connected).await;
        // The policy names five of them; what the others report of a Service nobody asked for is not kept.
        let address = format!("10.0.{i}.1");
        let expected: &[&str] = if i < 5 { &[&address] } else { &[] };
        endpoints_are(&hub, name, expected).await;
    }
    // Counted with the next heartbeat statement.
    eventually("ten sessions in the metrics", async || (hub.metrics.sessions.get() == 10).then_some(())).await;
    drop(agents);
    hub.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_every_stream_cleanly() {
    let hub = hub().await;
    let agent = live_agent(&hub, "blue", &[]).await;
    hub.stop().await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("shutting down"), "{status:?}");
}

/// The store is killed under a stream of changes and comes back: every message is acknowledged in the end, and everything that
/// was acknowledged is there.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_store_is_killed_and_comes_back() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    let hub = hub_on(&postgres.url()).await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let mut agent = live_agent(&hub, "blue", &["10.1.0.0"]).await;
    endpoints_are(&hub, "blue", &["10.1.0.0"]).await;
    let mut sent = BTreeSet::from(["10.1.0.0".to_owned()]);
    let mut last = 0;
    for i in 1..=200_u8 {
        let address = format!("10.1.0.{i}");
        last = agent.changes(changes("web", &[&address])).await;
        sent.insert(address);
        if i == 60 {
            agent.acked(1).await;
            kill(Pid::from_raw(postgres.pid()), Signal::SIGKILL).unwrap();
        }
    }
    // The hub notices, and keeps the stream and its memory.
    eventually("the outage to be seen", async || (!hub.feed.picture().store_ok).then_some(())).await;
    let shown = hub.endpoints("blue").await;
    assert!(!shown.is_empty(), "reads are answered from memory");
    let ready = hub.page("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("serving from memory"), "{ready}");
    let refused = hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("retry with the same request id"), "{refused:?}");
    drop(postgres);
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    agent.acked(last).await;
    let expected = sent.len();
    eventually("every endpoint", async || {
        let shown: BTreeSet<String> = hub.endpoints("blue").await.into_iter().map(|(address, _)| address).collect();
        (shown.len() == expected && shown == sent).then_some(())
    })
    .await;
    link_is(&hub, "blue", ClusterLink::Connected).await;
    drop(agent);
    hub.store.close().await;
    hub.stop().await;
    postgres.stop().await.unwrap();
}

/// More than the window of messages: the hub stops reading instead of growing, and catches up.
#[tokio::test]
async fn a_flood_of_messages_is_stored_in_few_transactions_and_acknowledged() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let mut agent = live_agent(&hub, "blue", &[]).await;
    let mut last = 0;
    for i in 0..1000_u32 {
        let address = Ipv4Addr::from(0x0a02_0000 + i % 50).to_string();
        last = agent.changes(changes("web", &[&address])).await;
    }
    let mut acks = 0;
    loop {
        if let hub_message::Message::Ack(ack) = agent.next().await.unwrap() {
            acks += 1;
            if ack.seq == last {
                break;
            }
        }
    }
    assert!(acks < 500, "{acks} transactions for 1000 messages");
    eventually("fifty endpoints", async || (hub.endpoints("blue").await.len() == 50).then_some(())).await;
    hub.stop().await;
}
