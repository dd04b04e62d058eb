//! The watchers against the fake API server.

use std::time::Duration;

use super::{
    SourceUpdate, Watchers,
    fake::{self, FakeKube, Fault, NODES},
};
use crate::{
    index::{
        Index,
        fixtures::{for_nodes, reference_in},
        objects::{Health, ServiceRef, SourceKind, TombstoneReason},
    },
    metrics::Metrics,
};
use tokio::sync::mpsc;

/// Generous, for two busy cores; retries begin at a fifth of a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// Watchers that feed an index.
struct Watched {
    server: FakeKube,
    index: Index,
    watchers: Watchers,
    updates: mpsc::Receiver<SourceUpdate>,
    metrics: Metrics,
}

impl Watched {
    fn start(server: FakeKube, references: &[ServiceRef]) -> Self {
        let metrics = Metrics::new();
        let (watchers, updates) = Watchers::new(server.client(), metrics.clone());
        let mut watched = Self { server, index: Index::new(), watchers, updates, metrics };
        watched.want(1, references);
        watched
    }

    fn want(&mut self, version: u64, references: &[ServiceRef]) {
        self.index.set_watch_set(version, references.to_vec());
        self.watchers.want(&self.index.wanted_sources());
    }

    /// Takes updates in until the condition holds.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Index) -> bool) {
        let wait = async {
            while !holds(&mut self.index) {
                let SourceUpdate { from, event } = self.updates.recv().await.expect("watchers go on");
                self.index.handle(&from, event);
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!(
                "waited in vain for {what}; sources: {:?}, requests: {:?}",
                self.index.source_statuses(),
                self.server.requests()
            );
        }
    }

    async fn synced(&mut self) {
        self.until("all sources", |index| index.all_synced()).await;
    }

    async fn addresses(&mut self, wanted: &[&str]) {
        self.until(&format!("{wanted:?}"), |index| addresses(index) == wanted).await;
    }

    async fn health(&mut self, namespace: &str, kind: SourceKind, wanted: Health) {
        self.until(&format!("{kind:?} of {namespace} {wanted:?}"), |index| health(index, namespace, kind) == wanted)
            .await;
    }
}

fn addresses(index: &mut Index) -> Vec<String> {
    index.view().endpoints.iter().map(|view| format!("{}:{}", view.address, view.port)).collect()
}

fn health(index: &Index, namespace: &str, kind: SourceKind) -> Health {
    let statuses = index.source_statuses();
    let of = statuses.into_iter().find(|status| status.source.kind == kind && status.source.namespace == namespace);
    of.expect("the source is wanted").health
}

fn checkout() -> ServiceRef {
    reference_in("shop", "checkout", "http")
}

fn one_pod() -> FakeKube {
    let server = FakeKube::new();
    fake::put_one_pod(&server, "shop", "checkout", "10.0.0.1");
    server
}

#[tokio::test]
async fn objects_are_listed_and_then_followed() {
    let mut watched = Watched::start(one_pod(), &[checkout()]);
    watched.synced().await;
    assert_eq!(addresses(&mut watched.index), ["10.0.0.1:8080"]);
    watched.server.put(&fake::pods("shop"), fake::pod("checkout-1", "10.0.0.2"));
    let both = [("checkout-0", "10.0.0.1"), ("checkout-1", "10.0.0.2")];
    watched.server.put(&fake::slices("shop"), fake::slice("checkout", "shop", &both));
    watched.addresses(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    watched.server.put(&fake::pods("shop"), fake::deleting(fake::pod("checkout-0", "10.0.0.1")));
    watched.until("a terminating pod", |index| index.view().endpoints[0].terminating).await;
    watched.server.delete(&fake::pods("shop"), "checkout-0");
    watched.addresses(&["10.0.0.2:8080"]).await;
}

#[tokio::test]
async fn a_list_counts_only_when_its_last_page_is_there() {
    let server = one_pod();
    server.put(&fake::pods("shop"), fake::pod("other-0", "10.0.0.9"));
    server.page(1);
    let mut watched = Watched::start(server, &[checkout()]);
    watched.synced().await;
    assert_eq!(addresses(&mut watched.index), ["10.0.0.1:8080"]);
    let requests = watched.server.requests();
    assert!(
        requests.iter().any(|request| request.contains("/pods?") && request.contains("continue=1")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_namespace_without_permission_says_so_in_the_servers_words_and_hurts_no_other() {
    let server = one_pod();
    fake::put_one_pod(&server, "locked", "api", "10.0.1.1");
    let message = "pods is forbidden: User \"agent\" cannot list resource \"pods\" in the namespace \"locked\"";
    server.fail(&fake::pods("locked"), Fault::Status(403, message));
    let mut watched = Watched::start(server, &[checkout(), reference_in("locked", "api", "http")]);
    watched.health("locked", SourceKind::Pod, Health::Failing(format!("{message} (HTTP 403)"))).await;
    watched.addresses(&["10.0.0.1:8080"]).await;
    assert!(!watched.index.all_synced());
    let forbidden = "switchyard_agent_watch_errors_total{kind=\"Pod\",reason=\"forbidden\"}";
    assert!(watched.metrics.encode().contains(forbidden));
    watched.server.heal(&fake::pods("locked"));
    watched.synced().await;
    assert_eq!(addresses(&mut watched.index), ["10.0.1.1:8080", "10.0.0.1:8080"]);
}

#[tokio::test]
async fn a_server_that_is_away_keeps_the_last_state_and_a_quiet_namespace_recovers_by_itself() {
    let mut watched = Watched::start(one_pod(), &[checkout()]);
    watched.synced().await;
    let lists = |requests: Vec<String>| requests.iter().filter(|request| !request.contains("watch=true")).count();
    let lists_before = lists(watched.server.requests());
    let collections = [fake::services("shop"), fake::slices("shop"), fake::pods("shop"), NODES.to_owned()];
    for collection in &collections {
        watched.server.fail(collection, Fault::Refused);
    }
    let failing =
        |index: &Index| index.source_statuses().iter().all(|status| matches!(status.health, Health::Failing(_)));
    watched.until("every source to fail", |index| failing(index)).await;
    let Health::Failing(message) = health(&watched.index, "shop", SourceKind::Pod) else { unreachable!("it fails") };
    assert!(message.contains("connection refused"), "{message}");
    assert_eq!(addresses(&mut watched.index), ["10.0.0.1:8080"]);
    for collection in &collections {
        watched.server.heal(collection);
    }
    // Nothing changes in the cluster: only the answer to the watch tells that the server is back.
    for kind in SourceKind::NAMESPACED {
        watched.health("shop", kind, Health::Synced).await;
    }
    assert_eq!(lists(watched.server.requests()), lists_before, "a watch that can go on needs no new list");
}

#[tokio::test]
async fn what_happens_while_a_watch_is_broken_is_not_lost() {
    let mut watched = Watched::start(one_pod(), &[checkout()]);
    watched.synced().await;
    watched.server.break_watches();
    watched.server.put(&fake::slices("shop"), fake::slice("checkout", "shop", &[]));
    watched.addresses(&[]).await;
}

#[tokio::test]
async fn a_history_that_expired_is_replaced_by_a_list_and_absence_is_weak_evidence() {
    let mut watched = Watched::start(one_pod(), &[checkout()]);
    watched.synced().await;
    watched.index.take_snapshot();
    watched.server.restore_empty();
    watched.addresses(&[]).await;
    let batch = watched.index.take_changes(500).expect("the endpoint is gone");
    assert_eq!(batch.tombstones[0].reason, TombstoneReason::AbsentFromList);
    let expired = "switchyard_agent_watch_errors_total{kind=\"EndpointSlice\",reason=\"expired\"} 1";
    assert!(watched.metrics.encode().contains(expired), "{}", watched.metrics.encode());
}

#[tokio::test]
async fn an_event_that_cannot_be_read_leads_to_a_new_list() {
    let mut watched = Watched::start(one_pod(), &[checkout()]);
    watched.synced().await;
    let unreadable = |index: &Index| matches!(health(index, "shop", SourceKind::Pod), Health::Failing(_));
    watched.server.send_garbage(&fake::pods("shop"));
    watched.until("the failure", |index| unreadable(index)).await;
    watched.health("shop", SourceKind::Pod, Health::Synced).await;
    let lists = watched.server.requests();
    let lists = lists.iter().filter(|request| request.contains("/pods?") && !request.contains("watch=true"));
    assert_eq!(lists.count(), 2);
    assert_eq!(addresses(&mut watched.index), ["10.0.0.1:8080"]);
}

#[tokio::test]
async fn nodes_bring_zones_and_are_asked_for_without_their_status() {
    let server = one_pod();
    let label = serde_json::json!({"topology.kubernetes.io/zone": "eu-central-1a"});
    server.put(NODES, serde_json::json!({"metadata": {"name": "n1", "labels": label}}));
    let mut watched = Watched::start(server, &[checkout()]);
    watched.synced().await;
    let zone = |index: &mut Index| index.view().endpoints.first().map(|view| view.zone.clone());
    watched.until("the zone", |index| zone(index).as_deref() == Some("eu-central-1a")).await;
}

#[tokio::test]
async fn nodes_are_watched_whole_for_as_long_as_they_are_wanted_as_targets() {
    let server = one_pod();
    server.put(
        NODES,
        serde_json::json!({
            "metadata": {"name": "n1", "uid": "uid-of-n1"},
            "spec": {"providerID": "aws:///eu-central-1a/i-0123456789abcdef0"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}
        }),
    );
    let mut service = fake::service("checkout");
    service["spec"]["ports"][0]["nodePort"] = serde_json::json!(30_080);
    server.put(&fake::services("shop"), service);
    let nodes = for_nodes(checkout());
    let mut watched = Watched::start(server, &[checkout(), nodes]);
    watched.synced().await;
    let both = ["10.0.0.1:8080", "i-0123456789abcdef0:30080"];
    watched.until("the pod and the node", |index| addresses(index) == both).await;
    // Listed anew, without their status, once only pods are wanted; the pods stay as they were.
    watched.want(2, &[checkout()]);
    let lists = |requests: &[String]| requests.iter().filter(|request| request.contains(NODES)).count();
    let (before, server) = (lists(&watched.server.requests()), watched.server.clone());
    watched.until("another list of nodes", |_| lists(&server.requests()) > before).await;
    watched.synced().await;
    assert_eq!(addresses(&mut watched.index), ["10.0.0.1:8080"]);
}

#[tokio::test]
async fn a_namespace_that_is_no_longer_wanted_is_no_longer_asked_for() {
    let mut watched = Watched::start(one_pod(), &[checkout(), reference_in("other", "api", "http")]);
    watched.synced().await;
    watched.want(2, &[checkout()]);
    watched.server.break_watches();
    let before = watched.server.requests().len();
    // Every watcher that still runs has to ask again now.
    let asks_again =
        |requests: &[String]| requests[before..].iter().filter(|request| request.contains("/shop/")).count();
    let server = watched.server.clone();
    watched.until("the others to go on", |_| asks_again(&server.requests()) >= 3).await;
    let requests = watched.server.requests();
    assert!(!requests[before..].iter().any(|request| request.contains("/other/")), "{:?}", &requests[before..]);
}
