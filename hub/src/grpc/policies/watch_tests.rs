//! What a watcher of policies is told when the picture changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    access::{Grant, Role, Span},
    inventory::{Cluster, Inventory, Link},
    policy::{PolicyMemory, PolicyRecord, validate},
};

use super::*;
use crate::grpc::policies::manifest;
use crate::store::Ownership;

fn stored(name: &str, uid: &str, version: u64) -> StoredPolicy {
    let text = format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: 80}}\n  match: {{hostnames: [a.example.com]}}\n  \
         backend: {{service: {{name: web, port: http}}}}\n  clusters: [{{name: blue, weight: 100}}]\n"
    );
    let manifest = manifest::parse(&text).unwrap();
    StoredPolicy {
        record: PolicyRecord {
            uid: uid.parse().unwrap(),
            version,
            generation: 1,
            policy: validate(&manifest).unwrap(),
            weight_override: None,
            deleting_since: None,
            failback_at: None,
        },
        manifest,
        ownership: Ownership::default(),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        status: None,
        status_at: None,
        memory: PolicyMemory::default(),
        gates: std::sync::Arc::default(),
    }
}

fn picture(policies: &[StoredPolicy], link: Option<Link>) -> Picture {
    let mut inventory = Inventory::default();
    if let Some(link) = link {
        let name: switchyard_core::ids::ClusterName = "blue".parse().unwrap();
        let cluster = Cluster {
            name: name.clone(),
            region: "eu-central-1".to_owned(),
            vpc_id: "vpc-1".parse().unwrap(),
            link,
            session_since: None,
            problems: Vec::new(),
            reports_nodes: true,
        };
        inventory.clusters.insert(name, cluster);
    }
    let policies: BTreeMap<_, _> =
        policies.iter().map(|stored| (stored.record.policy.key.clone(), Arc::new(stored.clone()))).collect();
    Picture { policies: Arc::new(policies), inventory: Arc::new(inventory), loaded: true, ..Picture::empty() }
}

fn everything() -> Filter {
    Filter { namespace: None, policy: None, seen: Grants::everything() }
}

fn told(events: &[Event]) -> Vec<(proto::WatchEvent, String, u64)> {
    let line = |event: &Event| {
        let policy = event.policy.clone().unwrap_or_default();
        (event.event(), policy.r#ref.unwrap_or_default().name, policy.version)
    };
    events.iter().map(line).collect()
}

use proto::WatchEvent::{Changed, Deleted, Present, Synced};

#[test]
fn the_first_picture_is_told_whole_and_then_only_what_differs() {
    let mut watcher = Told::default();
    let filter = everything();
    let one = picture(&[stored("a", "1", 1), stored("b", "2", 1)], None);
    let first = told(&watcher.difference(&one, &filter));
    assert_eq!(first, [(Present, "a".into(), 1), (Present, "b".into(), 1), (Synced, String::new(), 0)]);
    assert_eq!(told(&watcher.difference(&one, &filter)), []);
    // Read anew, other objects of the same content.
    let same = picture(&[stored("a", "1", 1), stored("b", "2", 1)], None);
    assert_eq!(told(&watcher.difference(&same, &filter)), []);
    let next = picture(&[stored("a", "1", 5), stored("c", "3", 1)], None);
    let second = told(&watcher.difference(&next, &filter));
    assert_eq!(second, [(Deleted, "b".into(), 1), (Changed, "a".into(), 5), (Changed, "c".into(), 1)]);
}

#[test]
fn a_policy_that_was_deleted_and_made_again_is_told_as_both() {
    let mut watcher = Told::default();
    let filter = everything();
    watcher.difference(&picture(&[stored("a", "1", 7)], None), &filter);
    let events = told(&watcher.difference(&picture(&[stored("a", "2", 1)], None), &filter));
    assert_eq!(events, [(Deleted, "a".into(), 7), (Changed, "a".into(), 1)]);
}

#[test]
fn a_cluster_that_goes_stale_changes_its_policies() {
    let mut watcher = Told::default();
    let filter = everything();
    watcher.difference(&picture(&[stored("a", "1", 1)], Some(Link::Connected)), &filter);
    let events = watcher.difference(&picture(&[stored("a", "1", 1)], Some(Link::Stale)), &filter);
    assert_eq!(told(&events), [(Changed, "a".into(), 1)]);
    let status = events[0].policy.clone().unwrap().status.unwrap();
    assert_eq!(status.clusters[0].link(), proto::ClusterLink::Stale);
}

#[test]
fn a_watcher_of_one_policy_hears_of_no_other() {
    let mut watcher = Told::default();
    let filter = Filter { policy: Some(PolicyKey::new("shop", "b").unwrap()), ..everything() };
    let one = picture(&[stored("a", "1", 1), stored("b", "2", 1)], None);
    let first = told(&watcher.difference(&one, &filter));
    assert_eq!(first, [(Present, "b".into(), 1), (Synced, String::new(), 0)]);
    let elsewhere = Filter { namespace: Some("other".parse().unwrap()), ..everything() };
    assert_eq!(told(&Told::default().difference(&one, &elsewhere)), [(Synced, String::new(), 0)]);
}

#[tokio::test]
async fn a_slow_watcher_skips_to_the_latest() {
    let (sender, receiver) = watch::channel(Arc::new(picture(&[stored("a", "1", 1)], None)));
    let (outbox, mut events) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(receiver, everything(), outbox, shutdown.clone()));
    assert_eq!(events.recv().await.unwrap().unwrap().event(), Present);
    assert_eq!(events.recv().await.unwrap().unwrap().event(), Synced);
    // Not read while a hundred versions pass: the outbox holds one event, the task waits with another at most.
    for version in 2..=100 {
        sender.send_replace(Arc::new(picture(&[stored("a", "1", version)], None)));
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&100) {
        seen.push(events.recv().await.unwrap().unwrap().policy.unwrap().version);
    }
    assert!(seen.len() <= 4, "{seen:?}");
    shutdown.cancel();
    assert_eq!(events.recv().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    task.await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_does_not_read_keeps_no_old_picture_alive() {
    let first = Arc::new(picture(&[stored("a", "1", 1), stored("b", "2", 1)], None));
    let old = Arc::downgrade(&first);
    let (sender, receiver) = watch::channel(first);
    let (outbox, mut events) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(receiver, everything(), outbox, shutdown.clone()));
    // Of three events one is read and one fits into the outbox, so that the task waits with the third.
    assert_eq!(events.recv().await.unwrap().unwrap().event(), Present);
    drop(sender.send_replace(Arc::new(picture(&[], None))));
    assert!(old.upgrade().is_none());
    shutdown.cancel();
    task.await.unwrap();
}

#[test]
fn a_watcher_hears_of_the_namespaces_that_it_may_read_and_of_no_other_also_when_policies_go() {
    let grant = |namespace: &str| {
        let namespaces = Span::Only([namespace.parse().unwrap()].into());
        Grants(vec![Grant { role: Role::Viewer, namespaces, clusters: Span::All, overrides: false }])
    };
    let (mut blind, mut seeing) = (Told::default(), Told::default());
    let one = picture(&[stored("a", "1", 1)], None);
    let (none, all) = (picture(&[], None), Filter { seen: grant("shop"), ..everything() });
    let other = Filter { seen: grant("other"), ..everything() };
    assert_eq!(told(&blind.difference(&one, &other)), [(Synced, String::new(), 0)]);
    assert_eq!(told(&blind.difference(&none, &other)), []);
    assert_eq!(told(&seeing.difference(&one, &all)), [(Present, "a".into(), 1), (Synced, String::new(), 0)]);
    assert_eq!(told(&seeing.difference(&none, &all)), [(Deleted, "a".into(), 1)]);
}
