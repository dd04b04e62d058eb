//! What agents report: sessions and their take-over, changes, snapshots, evidence.

mod store_support;

use std::time::Duration;

use store_support::{
    Db, EPOCH, NEVER_STALE, cluster, database, endpoint_key, eventually, hello, open, ready, resolved, service,
};
use switchyard_core::{
    ids::ClusterName,
    inventory::{Endpoint, EndpointKey, EndpointState, Evidence, Inventory, Link, SourceProblem},
};
use switchyard_hub::store::{
    AgentHello, EndpointChange, Hears, Mirror, NewEndpoint, Retention, SessionError, SessionOpened, Snapshot, Store,
    StoreOptions,
};
use uuid::Uuid;

async fn inventory(db: &Db) -> Inventory {
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, Some(EPOCH), NEVER_STALE).await.unwrap();
    mirror.inventory
}

async fn endpoint(db: &Db, key: &EndpointKey) -> Option<Endpoint> {
    let inventory = inventory(db).await;
    let found = inventory.endpoints().find(|(known, _)| known == key);
    found.map(|(_, endpoint)| endpoint.clone())
}

async fn state(db: &Db, key: &EndpointKey) -> Option<EndpointState> {
    endpoint(db, key).await.map(|endpoint| endpoint.state)
}

async fn link(db: &Db, name: &str) -> Link {
    inventory(db).await.clusters[&cluster(name)].link
}

const PRESENT: EndpointState = EndpointState::Present { ready: true, serving: true, terminating: false };

fn up(key: &EndpointKey) -> EndpointChange {
    EndpointChange::Upsert(key.clone(), ready("pod"))
}

fn gone(key: &EndpointKey, evidence: Evidence) -> EndpointChange {
    EndpointChange::Gone(key.clone(), evidence)
}

async fn change(db: &Db, session: Uuid, seq: u64, changes: &[EndpointChange]) {
    db.store.session_apply(session, &cluster("blue"), seq, changes).await.unwrap();
}

async fn snapshot(db: &Db, session: Uuid, seq: u64, endpoints: &[(EndpointKey, NewEndpoint)]) {
    let services = [(service("checkout"), resolved(""))];
    let snapshot = Snapshot { watch_set: &[service("checkout")], services: &services, endpoints, epoch: EPOCH };
    db.store.session_snapshot(session, &cluster("blue"), seq, snapshot).await.unwrap();
}

#[tokio::test]
async fn changes_are_stored_and_read_back() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let (v4, v6) = (endpoint_key("blue", "10.0.0.1", "u1"), endpoint_key("blue", "2001:db8::1", "u2"));
    let mut terminating = ready("p2");
    // Pods' details are refused it where they are read; a name is not.
    terminating.pod_name.push('\0');
    (terminating.ready, terminating.terminating) = (false, true);
    let changes = [
        EndpointChange::Service(service("checkout"), resolved("fine")),
        up(&v4),
        EndpointChange::Upsert(v6.clone(), terminating),
    ];
    change(&db, session, 1, &changes).await;
    let inventory = inventory(&db).await;
    let place = (cluster("blue"), service("checkout"));
    assert_eq!(inventory.services[&place], resolved("fine").state);
    let endpoints: Vec<_> = inventory.endpoints_of(&place.0, &place.1).collect();
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints[0].2.state, PRESENT);
    assert_eq!(endpoints[0].2.eni_ids, ["eni-1"]);
    assert_eq!(endpoints[0].2.node, "node-1");
    assert_eq!(endpoints[1].2.pod_name, "p2\u{fffd}");
    let expected = EndpointState::Present { ready: false, serving: true, terminating: true };
    assert_eq!(endpoints[1].2.state, expected);
    let pod = sqlx::query_scalar::<_, serde_json::Value>("select pod from endpoints where pod_uid = 'u1'");
    assert_eq!(pod.fetch_one(&db.raw).await.unwrap(), serde_json::json!({"name": "pod"}));
}

#[tokio::test]
async fn the_order_of_changes_within_a_batch_is_kept() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    change(&db, session, 1, &[up(&key), gone(&key, Evidence::Absent), gone(&key, Evidence::PodDeleted)]).await;
    assert_eq!(state(&db, &key).await, Some(EndpointState::Gone(Evidence::PodDeleted)));
    change(&db, session, 2, &[gone(&key, Evidence::NotSelected), up(&key)]).await;
    assert_eq!(state(&db, &key).await, Some(PRESENT));
}

#[tokio::test]
async fn absence_never_replaces_stronger_evidence_and_a_gone_for_an_unknown_key_is_fine() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    change(&db, session, 1, &[gone(&key, Evidence::PodDeleted)]).await;
    assert_eq!(state(&db, &key).await, None);
    change(&db, session, 2, &[up(&key), gone(&key, Evidence::ServiceDeleted)]).await;
    change(&db, session, 3, &[gone(&key, Evidence::Absent)]).await;
    snapshot(&db, session, 4, &[]).await;
    assert_eq!(state(&db, &key).await, Some(EndpointState::Gone(Evidence::ServiceDeleted)));
}

#[tokio::test]
async fn a_late_delete_for_an_old_pod_leaves_the_addresss_new_owner() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let (old, new) = (endpoint_key("blue", "10.0.0.1", "old"), endpoint_key("blue", "10.0.0.1", "new"));
    change(&db, session, 1, &[up(&old)]).await;
    change(&db, session, 2, &[up(&new)]).await;
    change(&db, session, 3, &[gone(&old, Evidence::PodDeleted)]).await;
    assert_eq!(state(&db, &new).await, Some(PRESENT));
    assert_eq!(state(&db, &old).await, Some(EndpointState::Gone(Evidence::PodDeleted)));
}

#[tokio::test]
async fn first_seen_is_the_first_sight_and_counts_anew_after_a_gone() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    change(&db, session, 1, &[up(&key)]).await;
    let first = endpoint(&db, &key).await.unwrap();
    let mut unready = ready("pod");
    unready.ready = false;
    change(&db, session, 2, &[EndpointChange::Upsert(key.clone(), unready)]).await;
    let second = endpoint(&db, &key).await.unwrap();
    assert_eq!(second.first_seen, first.first_seen);
    assert!(second.updated_at > first.updated_at);
    change(&db, session, 3, &[gone(&key, Evidence::Absent)]).await;
    change(&db, session, 4, &[up(&key)]).await;
    assert!(endpoint(&db, &key).await.unwrap().first_seen > second.updated_at);
}

#[tokio::test]
async fn a_change_that_changes_nothing_writes_no_row() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    let report = EndpointChange::Service(service("checkout"), resolved("fine"));
    change(&db, session, 1, &[up(&key), report.clone()]).await;
    let revs = "select array(select rev from endpoints union all select rev from services)";
    let before: Vec<i64> = sqlx::query_scalar(revs).fetch_one(&db.raw).await.unwrap();
    change(&db, session, 2, &[up(&key), report]).await;
    let after: Vec<i64> = sqlx::query_scalar(revs).fetch_one(&db.raw).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_snapshot_marks_and_sweeps_what_is_watched_and_forgets_the_rest() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let (stays, leaves) = (endpoint_key("blue", "10.0.0.1", "u1"), endpoint_key("blue", "10.0.0.2", "u2"));
    let mut other = endpoint_key("blue", "10.0.0.3", "u3");
    other.service = service("other");
    let services = [service("checkout"), service("other")].map(|key| EndpointChange::Service(key, resolved("")));
    change(&db, session, 1, &services).await;
    change(&db, session, 2, &[up(&stays), up(&leaves), up(&other)]).await;
    let added = endpoint_key("blue", "10.0.0.4", "u4");
    let unasked = other.clone();
    let reported = [&stays, &added, &unasked, &added].map(|key| (key.clone(), ready("pod")));
    snapshot(&db, session, 3, &reported).await;
    assert_eq!(state(&db, &stays).await, Some(PRESENT));
    assert_eq!(state(&db, &added).await, Some(PRESENT));
    assert_eq!(state(&db, &leaves).await, Some(EndpointState::Gone(Evidence::Absent)));
    assert_eq!(state(&db, &other).await, None, "it is not watched any more");
    let services: Vec<_> = inventory(&db).await.services.into_keys().collect();
    assert_eq!(services, [(cluster("blue"), service("checkout"))]);
    assert_eq!(link(&db, "blue").await, Link::Connected);
}

#[tokio::test]
async fn a_snapshot_touches_no_other_cluster_and_takes_none_of_its_endpoints() {
    let db = database().await;
    let (blue, green) = (open(&db.store, "blue").await, open(&db.store, "green").await);
    let key = endpoint_key("green", "10.1.0.1", "u1");
    db.store.session_apply(green, &cluster("green"), 1, &[up(&key)]).await.unwrap();
    snapshot(&db, blue, 1, &[]).await;
    assert_eq!(state(&db, &key).await, Some(PRESENT));
    let error =
        db.store.session_apply(blue, &cluster("blue"), 2, &[gone(&key, Evidence::PodDeleted)]).await.unwrap_err();
    assert!(matches!(error, SessionError::WrongCluster { .. }), "{error:?}");
    let error =
        db.store.session_apply(blue, &cluster("green"), 2, &[gone(&key, Evidence::PodDeleted)]).await.unwrap_err();
    assert!(matches!(error, SessionError::TakenOver { .. }), "{error:?}");
    assert_eq!(state(&db, &key).await, Some(PRESENT));
}

#[tokio::test]
async fn a_snapshot_larger_than_one_statement_is_stored_whole() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let key = |i: u32| endpoint_key("blue", &std::net::Ipv4Addr::from(0x0a00_0000 + i).to_string(), &format!("u{i}"));
    let all: Vec<_> = (0..11_000).map(|i| (key(i), ready("pod"))).collect();
    snapshot(&db, session, 1, &all).await;
    assert_eq!(inventory(&db).await.endpoints().count(), 11_000);
    snapshot(&db, session, 2, &all[..100]).await;
    let present = inventory(&db).await.endpoints().filter(|(_, endpoint)| endpoint.state == PRESENT).count();
    assert_eq!(present, 100);
}

#[tokio::test]
async fn a_newer_session_takes_over_and_the_older_one_can_write_nothing() {
    let db = database().await;
    let name = cluster("blue");
    let old = open(&db.store, "blue").await;
    let key = endpoint_key("blue", "10.0.0.1", "u1");
    change(&db, old, 1, &[up(&key)]).await;
    let new = open(&db.store, "blue").await;
    let empty = Snapshot { watch_set: &[service("checkout")], services: &[], endpoints: &[], epoch: EPOCH };
    let refused = [
        db.store.session_apply(old, &name, 2, &[gone(&key, Evidence::PodDeleted)]).await,
        db.store.session_snapshot(old, &name, 2, empty).await,
        db.store.session_live(old, &name, EPOCH).await,
        db.store.session_sources(old, &name, &[]).await,
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert!(matches!(&error, SessionError::TakenOver { session_id, .. } if *session_id == old), "{error:?}");
    }
    let both = [(old, name.clone()), (new, name.clone())];
    assert_eq!(db.store.session_heartbeat(&both).await.unwrap(), vec![old]);
    db.store.session_close(old, &name).await.unwrap();
    assert_eq!(state(&db, &key).await, Some(PRESENT));
    change(&db, new, 1, &[gone(&key, Evidence::PodDeleted)]).await;
}

#[tokio::test]
async fn an_agent_resumes_only_where_the_store_holds_what_it_had_acknowledged() {
    let db = database().await;
    let resume = async |hello| {
        let SessionOpened { resume_after_seq, .. } =
            db.store.session_open(&hello, Uuid::new_v4(), Uuid::new_v4(), Duration::ZERO).await.unwrap();
        resume_after_seq
    };
    let mut known = hello("blue");
    known.last_acked_seq = 5;
    /// Brings the cluster to where the agent could resume.
    async fn ready_to_resume(db: &Db) {
        let session = open(&db.store, "blue").await;
        snapshot(db, session, 4, &[]).await;
        change(db, session, 5, &[]).await;
    }
    assert_eq!(resume(known.clone()).await, None, "the store knows nothing yet");
    let session = open(&db.store, "blue").await;
    change(&db, session, 5, &[]).await;
    assert_eq!(resume(known.clone()).await, None, "there never was a snapshot");
    ready_to_resume(&db).await;
    assert_eq!(resume(known.clone()).await, Some(5));
    assert_eq!(resume(known.clone()).await, Some(5), "a session that was opened and lost changes nothing");

    type Change = fn(&mut switchyard_hub::store::AgentHello);
    let others: [(&str, Change); 6] = [
        ("an agent that was restarted", |hello| hello.agent_instance_id = Uuid::from_u128(2)),
        ("an ack that was lost", |hello| hello.last_acked_seq = 4),
        ("an ack that was never given", |hello| hello.last_acked_seq = 6),
        ("no watch set", |hello| hello.watch_set_version = 0),
        ("another VPC", |hello| hello.vpc_id = "vpc-2".parse().unwrap()),
        ("another region", |hello| hello.region = "us-east-1".to_owned()),
    ];
    for (what, change) in others {
        ready_to_resume(&db).await;
        let mut hello = known.clone();
        change(&mut hello);
        assert_eq!(resume(hello).await, None, "{what}");
        assert_eq!(resume(known.clone()).await, None, "{what}: what the store held is no longer this agent's");
    }
}

#[tokio::test]
async fn a_relieved_agent_process_does_not_come_back_while_its_successor_lives_at_whichever_replica() {
    let db = database().await;
    let other = Store::connect(&db.url, StoreOptions::default()).await.unwrap();
    let (name, process) = (cluster("blue"), Uuid::from_u128);
    let come = async |store: &Store, id: u128, stale_after| {
        let hello = AgentHello { agent_instance_id: process(id), ..hello("blue") };
        store.session_open(&hello, Uuid::new_v4(), process(9), stale_after).await
    };
    assert_eq!(come(&db.store, 1, NEVER_STALE).await.unwrap().relieves, None);
    assert_eq!(
        come(&other, 2, NEVER_STALE).await.unwrap().relieves,
        Some(process(1)),
        "one that was never seen takes over"
    );
    for store in [&db.store, &other] {
        match come(store, 1, NEVER_STALE).await {
            Err(SessionError::Relieved(relieved)) => {
                assert_eq!((relieved.instance, relieved.by), (process(1), process(2)))
            }
            answer => panic!("{answer:?}"),
        }
        let turn = store.session_turn(&name, process(1), NEVER_STALE).await;
        assert!(matches!(turn, Err(SessionError::Relieved(_))), "{turn:?}");
        store.session_turn(&name, process(2), NEVER_STALE).await.unwrap();
        store.session_turn(&name, process(3), NEVER_STALE).await.unwrap();
    }
    let session = Uuid::new_v4();
    let hello = AgentHello { agent_instance_id: process(2), ..hello("blue") };
    db.store.session_open(&hello, session, process(9), NEVER_STALE).await.unwrap();
    db.store.session_close(session, &name).await.unwrap();
    assert!(come(&db.store, 1, NEVER_STALE).await.is_err(), "a connection that is made anew lets nobody in between");
    assert!(come(&db.store, 1, Duration::ZERO).await.is_ok(), "its successor is silent");
    assert!(come(&db.store, 2, NEVER_STALE).await.is_err());
    for id in 100..130 {
        come(&db.store, id, NEVER_STALE).await.unwrap();
    }
    let remembered = sqlx::query_scalar::<_, i32>("select jsonb_array_length(relieved) from clusters");
    assert_eq!(remembered.fetch_one(&db.raw).await.unwrap(), 16);
}

/// A replica that was down, or had no store, knows nothing of who was silent.
struct Deaf;

impl Hears for Deaf {
    fn stale_after(&self) -> Duration {
        Duration::ZERO
    }

    fn hears(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_relieved_agent_process_does_not_come_back_by_a_silence_that_was_the_hubs_own() {
    let db = database().await;
    let (name, process) = (cluster("blue"), Uuid::from_u128);
    let opened = async |id: u128| {
        let hello = AgentHello { agent_instance_id: process(id), ..hello("blue") };
        db.store.session_open(&hello, Uuid::new_v4(), process(9), Deaf).await.map(|opened| opened.relieves)
    };
    assert_eq!(opened(1).await.unwrap(), None);
    opened(2).await.unwrap();
    sqlx::query("update heartbeats set at = now() - interval '1 hour'").execute(&db.raw).await.unwrap();
    assert!(matches!(opened(1).await, Err(SessionError::Relieved(_))));
    assert!(matches!(db.store.session_turn(&name, process(1), Deaf).await, Err(SessionError::Relieved(_))));
    db.store.session_turn(&name, process(2), Deaf).await.unwrap();
    assert_eq!(opened(2).await.unwrap(), None, "the rightful one is let in at once");
    assert_eq!(opened(3).await.unwrap(), Some(process(2)), "and so is one that is new: both were restarted");
    // Where its silence could have been heard, it is gone.
    sqlx::query("update heartbeats set at = now() - interval '1 hour'").execute(&db.raw).await.unwrap();
    let hello = AgentHello { agent_instance_id: process(1), ..hello("blue") };
    db.store.session_open(&hello, Uuid::new_v4(), process(9), Duration::from_secs(15)).await.unwrap();
}

#[tokio::test]
async fn a_link_is_connected_only_with_a_fresh_heartbeat_and_a_snapshot_of_this_epoch() {
    let db = database().await;
    let name = cluster("blue");
    let session = open(&db.store, "blue").await;
    assert_eq!(link(&db, "blue").await, Link::Syncing);
    db.store.session_live(session, &name, EPOCH).await.unwrap();
    assert_eq!(link(&db, "blue").await, Link::Syncing, "live without a snapshot is not complete");
    snapshot(&db, session, 1, &[]).await;
    assert_eq!(link(&db, "blue").await, Link::Connected);

    let mut mirror = Mirror::empty();
    let mut link_in = async |epoch, stale_after| {
        mirror.refresh(&db.store, epoch, stale_after).await.unwrap();
        mirror.inventory.clusters[&name].link
    };
    let next = switchyard_core::ids::Epoch(EPOCH.0 + 1);
    assert_eq!(link_in(Some(next), NEVER_STALE).await, Link::Syncing, "complete in an older epoch");
    assert_eq!(link_in(None, NEVER_STALE).await, Link::Syncing, "no epoch");
    assert_eq!(link_in(Some(EPOCH), Duration::ZERO).await, Link::Stale);
    db.store.session_live(session, &name, next).await.unwrap();
    assert_eq!(link_in(Some(next), NEVER_STALE).await, Link::Connected);
    sqlx::query("update heartbeats set at = now() - interval '20 seconds'").execute(&db.raw).await.unwrap();
    assert_eq!(link_in(Some(next), Duration::from_secs(15)).await, Link::Stale);
    assert!(db.store.session_heartbeat(&[(session, name.clone())]).await.unwrap().is_empty());
    assert_eq!(link_in(Some(next), Duration::from_secs(15)).await, Link::Connected);
    db.store.session_close(session, &name).await.unwrap();
    assert_eq!(link_in(Some(next), NEVER_STALE).await, Link::Stale);
    assert_eq!(db.store.session_heartbeat(&[(session, name.clone())]).await.unwrap(), [session], "it is closed");
    assert_eq!(link_in(Some(next), NEVER_STALE).await, Link::Stale);
    open(&db.store, "blue").await;
    assert_eq!(link_in(Some(next), NEVER_STALE).await, Link::Syncing);
}

#[tokio::test]
async fn failing_sources_are_replaced_as_a_whole_and_end_with_a_new_agent() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let problem = |message: &str| SourceProblem {
        namespace: "shop".to_owned(),
        kind: "Pod".to_owned(),
        message: message.to_owned(),
    };
    let problems = async || inventory(&db).await.clusters[&cluster("blue")].problems.clone();
    db.store.session_sources(session, &cluster("blue"), &[problem("forbidden\0")]).await.unwrap();
    assert_eq!(problems().await, [problem("forbidden\u{fffd}")]);
    db.store.session_sources(session, &cluster("blue"), &vec![problem("x"); 200]).await.unwrap();
    assert_eq!(problems().await.len(), 100);
    open(&db.store, "blue").await;
    assert_eq!(problems().await, []);
}

#[tokio::test]
async fn what_was_forgotten_can_come_back_and_is_then_seen_for_the_first_time() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let mut other = endpoint_key("blue", "10.0.0.2", "u2");
    other.service = service("other");
    change(&db, session, 1, &[up(&other), EndpointChange::Service(service("other"), resolved(""))]).await;
    let before = endpoint(&db, &other).await.unwrap();
    snapshot(&db, session, 2, &[]).await;
    assert_eq!(endpoint(&db, &other).await, None);
    change(&db, session, 3, &[up(&other), EndpointChange::Service(service("other"), resolved(""))]).await;
    assert!(endpoint(&db, &other).await.unwrap().first_seen > before.updated_at);
    assert_eq!(inventory(&db).await.services.len(), 2);
}

#[tokio::test]
async fn gone_endpoints_are_kept_for_their_time_then_forgotten_then_deleted() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let (here, left) = (endpoint_key("blue", "10.0.0.1", "u1"), endpoint_key("blue", "10.0.0.2", "u2"));
    change(&db, session, 1, &[up(&here), up(&left), gone(&left, Evidence::PodDeleted)]).await;
    let rows =
        async || sqlx::query_scalar::<_, i64>("select count(*) from endpoints").fetch_one(&db.raw).await.unwrap();
    assert_eq!(db.store.purge(&Retention::default()).await.unwrap(), Default::default());
    assert_eq!(state(&db, &left).await, Some(EndpointState::Gone(Evidence::PodDeleted)));
    let short = Retention { gone: Duration::ZERO, forgotten: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&short).await.unwrap().gone, 1);
    assert_eq!((state(&db, &left).await, rows().await), (None, 2), "readers have to notice first");
    assert_eq!(db.store.purge(&short).await.unwrap().forgotten, 1);
    assert_eq!((state(&db, &here).await, rows().await), (Some(PRESENT), 1));
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_for_a_snapshot_that_is_being_written() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let mut writing = db.raw.begin().await.unwrap();
    sqlx::query("update clusters set rev = rev + 1").execute(&mut *writing).await.unwrap();
    let names: [(Uuid, ClusterName); 1] = [(session, cluster("blue"))];
    let lost = tokio::time::timeout(Duration::from_secs(20), db.store.session_heartbeat(&names)).await;
    assert_eq!(lost.expect("the heartbeat waits").unwrap(), Vec::<Uuid>::new());
    let store = db.store.clone();
    let apply = tokio::spawn(async move { store.session_apply(session, &cluster("blue"), 1, &[]).await });
    eventually("the second writer's wait", async || {
        let waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        sqlx::query(waiting).fetch_optional(&db.raw).await.unwrap()
    })
    .await;
    writing.commit().await.unwrap();
    apply.await.unwrap().unwrap();
}
