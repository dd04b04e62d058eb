//! The mirror: following step by step leads where reading everything leads; notices; what a refresh costs.

mod store_support;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store_support::{
    EPOCH, NEVER_STALE, apply, cluster, database, endpoint_key, fence, fresh, key, manifest, open, ready, resolved,
    service,
};
use switchyard_core::{
    ids::ClusterName,
    inventory::{EndpointKey, Evidence, ServiceKey},
    policy::{PolicyMemory, spec::TargetType},
    status::PolicyStatus,
};
use switchyard_hub::store::{
    Applied, EndpointChange, Fence, Mirror, Notice, Query, QueryObserver, Retention, Snapshot, Store, StoreOptions,
};
use uuid::Uuid;

const CLUSTERS: [&str; 3] = ["blue", "green", "red"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const EVIDENCE: [Evidence; 3] = [Evidence::PodDeleted, Evidence::NotSelected, Evidence::Absent];

async fn full(store: &Store) -> Mirror {
    let mut mirror = Mirror::empty();
    mirror.refresh(store, Some(EPOCH), NEVER_STALE).await.unwrap();
    mirror
}

/// Everything that readers see, but for the times of the refresh and of the last heartbeat.
fn assert_same(followed: &Mirror, whole: &Mirror, seed: u64, round: u32) {
    let at = format!("seed {seed}, round {round}");
    assert_eq!(followed.policies, whole.policies, "{at}");
    assert_eq!(followed.shifts, whole.shifts, "{at}");
    assert_eq!(followed.switches, whole.switches, "{at}");
    assert_eq!(followed.inventory.clusters, whole.inventory.clusters, "{at}");
    assert_eq!(followed.inventory.services, whole.inventory.services, "{at}");
    let endpoints = |mirror: &Mirror| -> Vec<_> { mirror.inventory.endpoints().map(|(k, e)| (k, e.clone())).collect() };
    assert_eq!(endpoints(followed), endpoints(whole), "{at}");
    for (key, _) in whole.inventory.endpoints() {
        let vpc = &whole.inventory.clusters[&key.cluster].vpc_id;
        let owner = |mirror: &Mirror| format!("{:?}", mirror.inventory.owner(vpc, key.target));
        assert_eq!(owner(followed), owner(whole), "{at}");
    }
    let infos = |mirror: &Mirror| -> Vec<_> {
        let clear = |info: &switchyard_hub::store::ClusterInfo| {
            let mut info = info.clone();
            info.last_seen = None;
            info
        };
        mirror.clusters.iter().map(|(name, info)| (name.clone(), clear(info))).collect()
    };
    assert_eq!(infos(followed), infos(whole), "{at}");
}

/// The world of the random walk.
struct Walk {
    store: Store,
    fence: Fence<'static>,
    rng: StdRng,
    sessions: [Uuid; 3],
    seq: u64,
}

impl Walk {
    fn key(&mut self, cluster: usize) -> EndpointKey {
        let (address, pod) = (self.rng.random_range(1..6), self.rng.random_range(0..3));
        let mut key = endpoint_key(CLUSTERS[cluster], &format!("10.0.0.{address}"), &format!("u{pod}"));
        key.service = service(["checkout", "cart"][self.rng.random_range(0..2)]);
        if self.rng.random_bool(0.4) {
            key.service.target_type = TargetType::Instance;
            key.target.id = format!("i-{address:017x}").parse().unwrap();
        }
        key
    }

    fn change(&mut self, cluster: usize) -> EndpointChange {
        let key = self.key(cluster);
        match self.rng.random_range(0..4) {
            0 => EndpointChange::Gone(key, EVIDENCE[self.rng.random_range(0..3)]),
            1 => EndpointChange::Service(key.service, resolved(["x", "y"][self.rng.random_range(0..2)])),
            _ => {
                let mut new = ready("pod");
                new.ready = self.rng.random_bool(0.5);
                EndpointChange::Upsert(key, new)
            }
        }
    }

    async fn step(&mut self) {
        self.seq += 1;
        let i = self.rng.random_range(0..3);
        let (session, name) = (self.sessions[i], cluster(CLUSTERS[i]));
        match self.rng.random_range(0..12) {
            0 => self.sessions[i] = open(&self.store, CLUSTERS[i]).await,
            1 => self.snapshot(i).await,
            2 => drop(self.store.session_heartbeat(&[(session, name)]).await.unwrap()),
            3 => self.purge().await,
            4 => self.store.session_live(session, &name, EPOCH).await.unwrap(),
            5 => self.store.session_close(session, &name).await.unwrap(),
            6..=8 => self.policy().await,
            _ => {
                let changes: Vec<_> = (0..self.rng.random_range(0..6)).map(|_| self.change(i)).collect();
                self.store.session_apply(session, &name, self.seq, &changes).await.unwrap();
            }
        }
        if self.rng.random_bool(0.2) {
            // A closed session is opened anew, so that the walk goes on.
            self.sessions[i] = open(&self.store, CLUSTERS[i]).await;
        }
    }

    async fn snapshot(&mut self, i: usize) {
        let endpoints: Vec<_> = (0..4).map(|_| (self.key(i), ready("snapshot"))).collect();
        let nodes = ServiceKey { target_type: TargetType::Instance, ..service("checkout") };
        let watch_set = [service("checkout"), service("cart"), nodes];
        let first = self.rng.random_range(0..3);
        let snapshot = Snapshot {
            watch_set: &watch_set[first..self.rng.random_range(first..4)],
            services: &[(service("checkout"), resolved("snapshot"))],
            endpoints: &endpoints,
            epoch: EPOCH,
        };
        self.store.session_snapshot(self.sessions[i], &cluster(CLUSTERS[i]), self.seq, snapshot).await.unwrap();
    }

    async fn purge(&mut self) {
        let keep = Retention { gone: Duration::ZERO, forgotten: Duration::ZERO, ..Retention::default() };
        self.store.purge(&keep).await.unwrap();
    }

    async fn policy(&mut self) {
        let name = NAMES[self.rng.random_range(0..4)];
        let Some(stored) = self.store.policy_get(&key(name)).await.unwrap() else {
            assert_eq!(apply(&self.store, &manifest(name, &[("blue", 1), ("green", 1)])).await.1, Applied::Created);
            return;
        };
        let weight = self.rng.random_range(0..3);
        match (self.rng.random_range(0..4), stored.record.deleting_since) {
            (_, Some(_)) => {
                assert!(self.store.policy_forget(self.fence, &key(name), &stored.record.uid).await.unwrap())
            }
            (0, None) => {
                self.store.policy_mark_deleting(&fresh(), &key(name), 0).await.unwrap();
            }
            (1, None) => {
                let status = PolicyStatus {
                    observed_version: u64::from(weight),
                    conditions: Vec::new(),
                    clusters: Vec::new(),
                    rule: None,
                    notes: Vec::new(),
                    failover: Default::default(),
                };
                self.store
                    .policy_status_save(self.fence, &stored.record.uid, &status, &PolicyMemory::default())
                    .await
                    .unwrap();
            }
            (2, None) => {
                apply(&self.store, &manifest(name, &[("blue", 1), ("green", weight)])).await;
            }
            (_, None) => {
                let wanted = [("green".to_owned(), weight)];
                self.store.policy_set_weights(&fresh(), &key(name), &wanted, 0).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn following_step_by_step_leads_where_reading_everything_leads() {
    for seed in 0..6 {
        let db = database().await;
        let mut sessions = [Uuid::nil(); 3];
        for (session, name) in sessions.iter_mut().zip(CLUSTERS) {
            *session = open(&db.store, name).await;
        }
        let fence = fence(&db.store).await;
        let mut walk = Walk { store: db.store.clone(), fence, rng: StdRng::seed_from_u64(seed), sessions, seq: 0 };
        // One follows closely; the other is often away for so long that rows it never saw are deleted for good.
        let (mut close, mut seldom) = (Mirror::empty(), Mirror::empty());
        for round in 0..60 {
            // A closed session cannot write: the walk opens it again before it needs it.
            for (i, name) in CLUSTERS.into_iter().enumerate() {
                let row = "select session_id from clusters where name = $1";
                let held: Option<Uuid> = sqlx::query_scalar(row).bind(name).fetch_one(&db.raw).await.unwrap();
                if held.is_none() {
                    walk.sessions[i] = open(&db.store, name).await;
                }
            }
            walk.step().await;
            close.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
            assert_same(&close, &full(&db.store).await, seed, round);
            if round % 9 == 0 {
                seldom.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
                assert_same(&seldom, &close, seed, round);
            }
        }
    }
}

#[derive(Default)]
struct Counter(Mutex<Vec<Query>>);

impl QueryObserver for Counter {
    fn observed(&self, query: Query, _took: Duration, outcome: &'static str) {
        assert_eq!(outcome, "ok");
        self.0.lock().unwrap().push(query);
    }
}

#[tokio::test]
async fn a_refresh_of_an_unchanged_store_is_two_small_queries_and_no_change() {
    let db = database().await;
    let counter = Arc::new(Counter::default());
    let options = StoreOptions { observer: Some(counter.clone()), ..StoreOptions::default() };
    let store = Store::connect(&db.url, options).await.unwrap();
    let session = open(&store, "blue").await;
    let up = EndpointChange::Upsert(endpoint_key("blue", "10.0.0.1", "u"), ready("pod"));
    store.session_apply(session, &cluster("blue"), 1, &[up]).await.unwrap();
    apply(&store, &manifest("a", &[("blue", 1)])).await;
    let mut mirror = Mirror::empty();
    let first = mirror.refresh(&store, Some(EPOCH), NEVER_STALE).await.unwrap();
    assert_eq!((first.policies.len(), first.clusters.len()), (1, 1));
    counter.0.lock().unwrap().clear();
    let second = mirror.refresh(&store, Some(EPOCH), NEVER_STALE).await.unwrap();
    assert!(second.is_empty(), "{second:?}");
    assert_eq!(*counter.0.lock().unwrap(), [Query::MirrorHeads, Query::MirrorHeads]);
    store.session_heartbeat(&[(session, cluster("blue"))]).await.unwrap();
    let third = mirror.refresh(&store, Some(EPOCH), NEVER_STALE).await.unwrap();
    assert!(third.is_empty(), "a heartbeat alone is no change: {third:?}");
}

#[tokio::test]
async fn a_refresh_names_what_changed_and_shares_what_did_not() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    apply(&db.store, &manifest("b", &[("blue", 1)])).await;
    let blue = open(&db.store, "blue").await;
    open(&db.store, "green").await;
    let mut mirror = full(&db.store).await;
    let kept = Arc::clone(&mirror.policies[&key("b")]);
    apply(&db.store, &manifest("a", &[("blue", 2)])).await;
    let up = EndpointChange::Upsert(endpoint_key("blue", "10.0.0.1", "u"), ready("pod"));
    db.store.session_apply(blue, &cluster("blue"), 1, &[up]).await.unwrap();
    let changes = mirror.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
    assert_eq!(changes.policies, BTreeSet::from([key("a")]));
    assert_eq!(changes.clusters, BTreeSet::from([cluster("blue")]));
    assert!(Arc::ptr_eq(&kept, &mirror.policies[&key("b")]));
}

#[tokio::test]
async fn a_store_that_fell_back_is_read_anew() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let up = |i: u8| EndpointChange::Upsert(endpoint_key("blue", &format!("10.0.0.{i}"), "u"), ready("pod"));
    for i in 1..5 {
        db.store.session_apply(session, &cluster("blue"), i.into(), &[up(i)]).await.unwrap();
        apply(&db.store, &manifest(NAMES[usize::from(i) - 1], &[("blue", 1)])).await;
    }
    let mut mirror = full(&db.store).await;
    // What a restored backup looks like: the last writes never happened.
    let fallen = "delete from endpoints where rev > 2; update clusters set rev = 2; \
                  delete from policies where change > 2; update policy_changes set last = 2;";
    sqlx::raw_sql(fallen).execute(&db.raw).await.unwrap();
    mirror.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
    assert_same(&mirror, &full(&db.store).await, 0, 0);
    assert_eq!((mirror.policies.len(), mirror.inventory.endpoints().count()), (2, 2));
}

async fn next(notices: &mut (impl Stream<Item = Notice> + Unpin)) -> Notice {
    tokio::time::timeout(Duration::from_secs(20), notices.next()).await.expect("no notice").expect("the stream ended")
}

#[tokio::test]
async fn every_write_is_noticed_and_what_changes_nothing_is_not() {
    let db = database().await;
    let mut notices = db.store.listen().await.unwrap();
    let blue = || Notice::Cluster(cluster("blue"));
    let session = open(&db.store, "blue").await;
    assert_eq!(next(&mut notices).await, blue());
    let (stored, _) = apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    assert_eq!(next(&mut notices).await, Notice::Policies);
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let status = PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: Vec::new(),
        rule: None,
        notes: Vec::new(),
        failover: Default::default(),
    };
    let fence = fence(&db.store).await;
    db.store.policy_status_save(fence, &stored.record.uid, &status, &PolicyMemory::default()).await.unwrap();
    assert_eq!(next(&mut notices).await, Notice::Status, "the unchanged apply before it gave no notice");
    let name: ClusterName = cluster("blue");
    db.store.session_live(session, &name, EPOCH).await.unwrap();
    assert_eq!(next(&mut notices).await, blue());
    db.store.session_close(session, &name).await.unwrap();
    assert_eq!(next(&mut notices).await, blue());
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_says_so_and_goes_on() {
    let db = database().await;
    let mut notices = db.store.listen().await.unwrap();
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'LISTEN%'";
    let killed = sqlx::query(kill).execute(&db.raw).await.unwrap();
    assert_eq!(killed.rows_affected(), 1);
    assert_eq!(next(&mut notices).await, Notice::Reconnected);
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    assert_eq!(next(&mut notices).await, Notice::Policies);
}
