//! Lists and watches of the sandbox's API server, through the unmodified kube client.

mod kube_support;

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use kube_support::{World, eventually, next};
use serde_json::{Value, json};

fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080}]}]}}))
    .unwrap()
}

fn lease(name: &str) -> k8s_openapi::api::coordination::v1::Lease {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    k8s_openapi::api::coordination::v1::Lease { metadata, spec: None }
}

type LeaseApi = Api<k8s_openapi::api::coordination::v1::Lease>;
type LeaseEvent = Event<k8s_openapi::api::coordination::v1::Lease>;

/// Follows a watcher until the wanted event; errors on the way are what a watcher meets and gets over.
async fn until<S>(stream: &mut S, what: &str, mut wanted: impl FnMut(&LeaseEvent) -> bool) -> Vec<watcher::Error>
where
    S: Stream<Item = Result<LeaseEvent, watcher::Error>> + Unpin,
{
    let mut errors = Vec::new();
    for _ in 0..10_000 {
        match next(stream).await {
            Ok(event) if wanted(&event) => return errors,
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    panic!("{what} never came");
}

fn is_apply(event: &LeaseEvent, name: &str) -> bool {
    matches!(event, Event::Apply(object) if object.name_any() == name)
}

fn listed(event: &LeaseEvent, name: &str) -> bool {
    matches!(event, Event::InitApply(object) if object.name_any() == name)
}

async fn sees_everything(client: Client, config: watcher::Config) {
    let api: LeaseApi = Api::namespaced(client, "default");
    api.create(&PostParams::default(), &lease("before")).await.unwrap();
    let mut stream = watcher(api.clone(), config).boxed();
    until(&mut stream, "the existing object", |e| listed(e, "before")).await;
    until(&mut stream, "the end of the list", |e| matches!(e, Event::InitDone)).await;
    api.create(&PostParams::default(), &lease("after")).await.unwrap();
    until(&mut stream, "the new object", |e| is_apply(e, "after")).await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    api.patch("after", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    until(&mut stream, "the change", |e| matches!(e, Event::Apply(o) if o.labels().contains_key("a"))).await;
    api.delete("before", &Default::default()).await.unwrap();
    until(&mut stream, "the deletion", |e| matches!(e, Event::Delete(o) if o.name_any() == "before")).await;
}

#[tokio::test]
async fn a_watcher_sees_objects_come_change_and_go() {
    let world = World::start().await;
    sees_everything(world.client("blue").await, watcher::Config::default()).await;
}

#[tokio::test]
async fn a_watcher_with_streaming_lists_sees_the_same() {
    let world = World::start().await;
    sees_everything(world.client("blue").await, watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_watcher_lists_again_when_its_version_is_compacted_while_the_server_is_away() {
    let world = World::start().await;
    let api: LeaseApi = Api::namespaced(world.client("blue").await, "default");
    let mut stream = watcher(api.clone(), watcher::Config::default()).boxed();
    until(&mut stream, "the first list", |e| matches!(e, Event::InitDone)).await;
    world.control(Method::POST, "/clusters/blue/api/stop", Value::Null).await;
    assert!(api.list(&ListParams::default()).await.is_err(), "a stopped server refuses connections");
    // A change nobody could watch, then a start that forgets history.
    world.web("blue", json!({"replicas": 1})).await;
    world.control(Method::POST, "/clusters/blue/api/start", Value::Null).await;
    let errors = until(&mut stream, "the second list", |e| matches!(e, Event::InitDone)).await;
    let expired = errors.iter().any(|e| matches!(e, watcher::Error::WatchError(status) if status.code == 410));
    assert!(expired, "the old version is answered with 410: {errors:?}");
    api.create(&PostParams::default(), &lease("later")).await.unwrap();
    until(&mut stream, "what comes later", |e| is_apply(e, "later")).await;
}

#[tokio::test]
async fn a_watch_goes_on_over_a_compaction_that_it_has_caught_up_with() {
    let world = World::start().await;
    let api: LeaseApi = Api::namespaced(world.client("blue").await, "default");
    let mut stream = watcher(api.clone(), watcher::Config::default()).boxed();
    until(&mut stream, "the first list", |e| matches!(e, Event::InitDone)).await;
    api.create(&PostParams::default(), &lease("one")).await.unwrap();
    until(&mut stream, "the object", |e| is_apply(e, "one")).await;
    world.control(Method::POST, "/clusters/blue/api/compact", Value::Null).await;
    let old = api.watch(&WatchParams::default(), "2").await.unwrap();
    let first = next(&mut old.boxed()).await.unwrap();
    let WatchEvent::Error(status) = first else { panic!("an old version is an error event, not {first:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    api.create(&PostParams::default(), &lease("two")).await.unwrap();
    let errors = until(&mut stream, "the object after", |e| is_apply(e, "two")).await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
async fn a_quiet_watch_ends_with_a_bookmark_at_the_newest_version() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: LeaseApi = Api::namespaced(client.clone(), "default");
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    // Something else moves the version on.
    let events: Api<CoreEvent> = Api::namespaced(client, "default");
    let event = json!({"metadata": {"name": "x"}, "involvedObject": {}, "reason": "Test"});
    let made = events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
    let mut stream = api.watch(&WatchParams::default().timeout(1), &version).await.unwrap().boxed();
    let WatchEvent::Bookmark(bookmark) = next(&mut stream).await.unwrap() else { panic!("only a bookmark is due") };
    let newest: u64 = made.resource_version().unwrap().parse().unwrap();
    assert!(bookmark.metadata.resource_version.parse::<u64>().unwrap() >= newest);
    assert!(stream.next().await.is_none(), "the watch ends at its timeout");
}

#[tokio::test]
async fn two_thousand_five_hundred_objects_come_in_pages_of_one_state() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: LeaseApi = Api::namespaced(client, "default");
    let names: BTreeSet<String> = (0..2_500).map(|n| format!("lease-{n:04}")).collect();
    futures::stream::iter(&names)
        .for_each_concurrent(16, |name| {
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &lease(name)).await.unwrap();
            }
        })
        .await;
    let first = api.list(&ListParams::default().limit(500)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(2_000));
    // Not in the later pages' state: the list is of the moment of its first page.
    api.delete("lease-2499", &Default::default()).await.unwrap();
    let (mut seen, mut pages, mut token) = (BTreeSet::new(), 1, first.metadata.continue_.clone());
    seen.extend(first.items.iter().map(ResourceExt::name_any));
    while let Some(next) = token.filter(|t| !t.is_empty()) {
        let page = api.list(&ListParams::default().limit(500).continue_token(&next)).await.unwrap();
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        seen.extend(page.items.iter().map(ResourceExt::name_any));
        pages += 1;
        token = page.metadata.continue_;
    }
    assert_eq!((pages, seen), (5, names));
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    let mut listed = 0;
    until(&mut stream, "the end of the list", |e| {
        listed += usize::from(matches!(e, Event::InitApply(_)));
        matches!(e, Event::InitDone)
    })
    .await;
    assert_eq!(listed, 2_499);
}

#[tokio::test]
async fn leaving_a_selection_is_a_deletion_for_its_watchers() {
    let world = World::start().await;
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "default");
    api.create(&PostParams::default(), &pod("web", &[("app", "web")])).await.unwrap();
    api.create(&PostParams::default(), &pod("db", &[("app", "db")])).await.unwrap();
    let config = watcher::Config::default().labels("app=web");
    let mut stream = watcher(api.clone(), config).boxed();
    loop {
        match next(&mut stream).await.unwrap() {
            Event::InitApply(pod) => assert_eq!(pod.name_any(), "web"),
            Event::InitDone => break,
            _ => {}
        }
    }
    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(&relabel)).await.unwrap();
    loop {
        // The kubelet may write its status in between.
        match next(&mut stream).await.unwrap() {
            Event::Delete(pod) => break assert_eq!(pod.labels()["app"], "web", "the last state that matched"),
            Event::Apply(pod) => assert_eq!(pod.name_any(), "web"),
            other => panic!("{other:?}"),
        }
    }
    let node = eventually("the pod is scheduled", || async {
        let pod = api.get("db").await.map_err(|e| e.to_string())?;
        pod.spec.and_then(|s| s.node_name).ok_or_else(|| "no node".to_owned())
    })
    .await;
    let found =
        api.list(&ListParams::default().fields(&format!("spec.nodeName={node},metadata.name=db"))).await.unwrap();
    assert_eq!(found.items.len(), 1);
}

#[tokio::test]
async fn a_kind_nobody_serves_is_not_found() {
    let world = World::start().await;
    let api: Api<ConfigMap> = Api::namespaced(world.client("blue").await, "default");
    let Err(kube::Error::Api(status)) = api.list(&ListParams::default()).await else {
        panic!("config maps are served")
    };
    assert_eq!(status.code, 404);
}
