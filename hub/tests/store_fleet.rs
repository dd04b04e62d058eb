//! What operators want of whole clusters, in the store, and letting clusters return.

mod store_support;

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::SignedDuration;
use serde_json::json;
use store_support::{
    Db, NEVER_STALE, apply, audit_of, caller, cluster, database, endpoint_key, fence, fresh, hello, key, manifest,
    open, ready, resolved, service,
    shifts::{create, flip, halves},
    valid,
};
use switchyard_core::{
    access::{Grant, Grants, Role, Span},
    audit::Verifier,
    failover::{ClusterExplanation, Explanation},
    fleet::{ClusterState, Kind, Mode, Why, machine::Refusal},
    ids::{Epoch, Weight},
    policy::{ClusterTrafficPolicy, PolicyMemory},
    source::Owner,
    status::{PolicyStatus, Reason},
};
use switchyard_hub::store::{
    ApplyError, AuditFilter, AuditRow, Caller, ClusterUpdate, ClusterWish, Fence, FencedError, FleetError, Mirror,
    NewClaim, SessionError, Snapshot, SourceError, SourceSession, StatusUpdate, Store, Wanted,
};
use uuid::Uuid;

fn wish(kind: Kind) -> ClusterWish {
    ClusterWish { kind, step_percent: 25, step_seconds: 30, force: false, duration_seconds: 0 }
}

async fn command(store: &Store, name: &str, kind: Kind) -> Result<ClusterState, FleetError> {
    store.cluster_command(&fresh(), &cluster(name), &wish(kind), 0).await
}

async fn audit(store: &Store) -> Vec<AuditRow> {
    let rows = store.audit_page(&AuditFilter::default(), true, None, 1000).await.unwrap();
    rows.into_iter().filter(|row| row.action.starts_with("cluster.")).collect()
}

async fn mirrored(db: &Db) -> Mirror {
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    mirror
}

/// What the engine would make of it: removed for good.
async fn end(store: &Store, fence: Fence<'_>, state: &ClusterState) -> ClusterState {
    let mut after = state.clone();
    after.operation.ended_at = Some(state.operation.started_at);
    after.operation.why = Why::Done;
    let won = store.clusters_save(fence, &[ClusterUpdate { before_version: state.version, state: &after }]).await;
    assert_eq!(won.unwrap(), std::slice::from_ref(&state.cluster));
    ClusterState { version: state.version + 1, ..after }
}

#[tokio::test]
async fn a_cluster_is_cordoned_drained_and_brought_back_and_the_audit_log_says_by_whom() {
    let db = database().await;
    let cordoned = command(&db.store, "blue", Kind::Cordon).await.unwrap();
    assert_eq!((cordoned.mode, cordoned.version, cordoned.percent), (Mode::Cordoned, 1, 100));
    assert_eq!(cordoned.operation.actor, "someone@example.com");
    assert!(cordoned.operation.ended_at.is_some());
    assert_eq!(command(&db.store, "blue", Kind::Cordon).await.unwrap(), cordoned, "it is so already");
    let draining = command(&db.store, "blue", Kind::Drain).await.unwrap();
    assert_eq!((draining.mode, draining.version, draining.operation.step_percent), (Mode::Draining, 2, 25));
    assert_ne!(draining.operation.id, cordoned.operation.id);
    let refused = command(&db.store, "blue", Kind::Cordon).await.unwrap_err();
    assert!(matches!(refused, FleetError::Refused(Refusal::WrongMode { mode: Mode::Draining, .. })), "{refused}");
    let back = command(&db.store, "blue", Kind::Uncordon).await.unwrap();
    assert_eq!((back.mode, back.version, back.operation.step_seconds), (Mode::Returning, 3, 30));

    let rows = audit(&db.store).await;
    let words: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(words, ["cluster.cordon", "cluster.drain", "cluster.uncordon"], "what changes nothing leaves no entry");
    assert_eq!(
        (rows[1].detail["fromMode"].as_str(), rows[1].detail["toMode"].as_str()),
        (Some("Cordoned"), Some("Draining"))
    );
    assert_eq!((rows[1].actor.as_str(), rows[1].reason.as_str()), ("someone@example.com", "a test"));
    assert_eq!(mirrored(&db).await.fleet.values().map(|state| (**state).clone()).collect::<Vec<_>>(), [back]);
}

#[tokio::test]
async fn a_game_day_ends_by_the_clock_of_the_database() {
    let db = database().await;
    let wish = ClusterWish { duration_seconds: 600, ..wish(Kind::Drill) };
    let drill = db.store.cluster_command(&fresh(), &cluster("blue"), &wish, 0).await.unwrap();
    assert_eq!((drill.mode, drill.percent, drill.deregister), (Mode::Drained, 0, false));
    let lasts = drill.operation.until.unwrap().duration_since(drill.operation.started_at);
    assert_eq!(lasts, SignedDuration::from_secs(600));
    let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(&db.raw).await.unwrap();
    let age = now.to_jiff().duration_since(drill.operation.started_at);
    assert!(age >= SignedDuration::ZERO && age < SignedDuration::from_secs(30), "{age:?}");
}

#[tokio::test]
async fn a_command_is_answered_once_and_refused_when_it_is_stale_reused_or_wrong() {
    let db = database().await;
    let one = caller("one");
    let (blue, drain) = (cluster("blue"), wish(Kind::Drain));
    let answers = join_all((0..5).map(|_| db.store.cluster_command(&one, &blue, &drain, 0))).await;
    let answers: Vec<ClusterState> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    let other = db.store.cluster_command(&one, &blue, &wish(Kind::Cordon), 0).await.unwrap_err();
    assert!(matches!(other, FleetError::RequestReused { .. }), "{other}");
    let stale = db.store.cluster_command(&fresh(), &blue, &wish(Kind::Uncordon), 7).await.unwrap_err();
    assert!(matches!(stale, FleetError::VersionConflict { expected: 7, present: 1, .. }), "{stale}");
    let nameless = db.store.cluster_command(&caller("a b"), &blue, &drain, 0).await.unwrap_err();
    assert!(matches!(nameless, FleetError::Invalid { .. }), "{nameless}");
    assert_eq!(audit(&db.store).await.len(), 1);
}

#[tokio::test]
async fn a_cluster_is_removed_only_when_nothing_gives_it_requests() {
    let db = database().await;
    let refused = async |name: &str| match command(&db.store, name, Kind::Remove).await {
        Err(FleetError::Refused(Refusal::StillCarries { policies, .. })) => {
            policies.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    apply(&db.store, &manifest("spec", &[("blue", 1), ("green", 99)])).await;
    let (idle, _) = apply(&db.store, &manifest("idle", &[("blue", 0), ("green", 100)])).await;
    assert_eq!(refused("blue").await, ["spec"], "by its spec");
    db.store.policy_set_weights(&fresh(), &key("spec"), &[("blue".to_owned(), 0)], 0).await.unwrap();
    assert_eq!(refused("blue").await, ["spec"], "the spec comes back when the override ends");
    let shift = create(&db.store, &flip(&["idle"], "blue")).await.unwrap();
    assert_eq!(refused("blue").await, ["idle", "spec"], "by a shift");
    let abort = switchyard_core::shift::machine::Command::Abort;
    db.store.shift_command(&fresh(), &shift.id, &abort).await.unwrap();
    db.store.policy_mark_deleting(&fresh(), &key("spec"), 0).await.unwrap();
    let fence = fence(&db.store).await;
    programmed(&db.store, fence, &idle.record.uid, 5).await;
    assert_eq!(refused("blue").await, ["idle"], "by what was read back");
    programmed(&db.store, fence, &idle.record.uid, 0).await;
    sqlx::query("delete from shifts").execute(&db.raw).await.unwrap();
    let removed = command(&db.store, "blue", Kind::Remove).await.unwrap();
    assert_eq!((removed.mode, removed.percent, removed.deregister), (Mode::Removed, 0, true));
}

/// The engine read back that blue has this weight in the policy.
async fn programmed(store: &Store, fence: Fence<'_>, uid: &switchyard_core::ids::PolicyUid, weight: u32) {
    let blue = json!({"cluster": "blue", "requested": 0, "effective": 0, "programmed": weight, "reason": "AsRequested",
        "message": "", "targets": {}, "targetGroup": null});
    let status = PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: vec![cluster_status(&blue)],
        rule: None,
        notes: Vec::new(),
        failover: Explanation::default(),
    };
    let memory = PolicyMemory::default();
    store.policy_statuses_save(fence, &[StatusUpdate { uid, status: &status, memory: &memory }]).await.unwrap();
}

fn cluster_status(value: &serde_json::Value) -> switchyard_core::status::ClusterStatus {
    switchyard_core::status::ClusterStatus {
        cluster: cluster("blue"),
        requested: Weight::ZERO,
        effective: Weight::ZERO,
        programmed: value["programmed"].as_u64().map(|weight| Weight::new(u32::try_from(weight).unwrap()).unwrap()),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: switchyard_core::status::TargetCounts::default(),
        target_group: None,
    }
}

#[tokio::test]
async fn the_engine_saves_only_from_what_is_there_and_only_while_it_holds_the_lease() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let draining = command(&db.store, "blue", Kind::Drain).await.unwrap();
    let mut after = draining.clone();
    after.percent = 75;
    let update = ClusterUpdate { before_version: 1, state: &after };
    assert_eq!(db.store.clusters_save(fence, &[update]).await.unwrap(), [cluster("blue")]);
    assert_eq!(db.store.clusters_save(fence, &[update]).await.unwrap(), [], "somebody was first");
    let stored = mirrored(&db).await.fleet[&cluster("blue")].clone();
    assert_eq!((stored.percent, stored.version), (75, 2));
    assert_eq!(audit(&db.store).await.len(), 1, "a step is no entry");

    let mut drained = (*stored).clone();
    (drained.mode, drained.percent) = (Mode::Drained, 0);
    drained.operation.ended_at = Some(drained.operation.started_at);
    let late = Fence { epoch: Epoch(fence.epoch.0 + 1), ..fence };
    let update = ClusterUpdate { before_version: 2, state: &drained };
    let error = db.store.clusters_save(late, &[update]).await.unwrap_err();
    assert!(matches!(error, FencedError::EpochPassed { .. }), "{error}");
    assert_eq!(mirrored(&db).await.fleet[&cluster("blue")].percent, 75);
    assert_eq!(db.store.clusters_save(fence, &[update]).await.unwrap(), [cluster("blue")]);
    let rows = audit(&db.store).await;
    assert_eq!((rows[1].actor.as_str(), rows[1].action.as_str()), ("switchyard-hub", "cluster.end"));
}

#[tokio::test]
async fn readers_see_each_change_of_a_cluster_once() {
    let db = database().await;
    let mut mirror = mirrored(&db).await;
    command(&db.store, "blue", Kind::Cordon).await.unwrap();
    let changes = mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    assert!(changes.fleet && changes.policies.is_empty() && !changes.shifts, "{changes:?}");
    assert!(mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap().is_empty());
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    assert!(!mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap().fleet);
    // A restored database: its counters are behind, and what it holds is the truth.
    let restored = "delete from cluster_states; update policy_changes set last = 1, fleet = 0";
    sqlx::raw_sql(restored).execute(&db.raw).await.unwrap();
    assert!(mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap().fleet);
    assert_eq!(mirror.fleet, BTreeMap::new());
}

#[tokio::test]
async fn what_a_newer_version_wrote_counts_as_cordoned_and_is_left_alone() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let state = command(&db.store, "blue", Kind::Drain).await.unwrap();
    let later = "update cluster_states set version = 2, state = jsonb_set(jsonb_set(state, '{version}', '2'), '{mode}', '\"Parked\"'); \
                 update policy_changes set last = last + 1, fleet = last + 1";
    sqlx::raw_sql(later).execute(&db.raw).await.unwrap();
    let read = mirrored(&db).await.fleet[&cluster("blue")].clone();
    assert_eq!((read.mode, read.version, read.percent), (Mode::Cordoned, 2, 100));
    let update = ClusterUpdate { before_version: 2, state: &state };
    assert_eq!(db.store.clusters_save(fence, &[update]).await.unwrap(), []);
    let error = command(&db.store, "blue", Kind::Uncordon).await.unwrap_err().to_string();
    assert!(error.contains("cluster blue") && error.contains("newer"), "{error}");
}

#[tokio::test]
async fn the_agent_of_a_removed_cluster_is_refused_until_the_cluster_is_taken_back() {
    let db = database().await;
    let session = open(&db.store, "blue").await;
    let source = SourceSession { cluster: cluster("blue"), id: Uuid::new_v4(), source: "192.0.2.7".to_owned() };
    db.store.source_open(&source).await.unwrap();
    command(&db.store, "blue", Kind::Remove).await.unwrap();
    let lost = db.store.session_heartbeat(&[(session, cluster("blue"))]).await.unwrap();
    assert_eq!(lost, [session], "its stream ends with the next heartbeat");
    let write = db.store.session_apply(session, &cluster("blue"), 1, &[]).await.unwrap_err();
    assert!(matches!(write, SessionError::ClusterRemoved { .. }), "{write}");
    let again = db.store.session_open(&hello("blue"), Uuid::new_v4(), Uuid::new_v4(), NEVER_STALE).await.unwrap_err();
    assert!(again.to_string().contains("yardctl uncordon blue"), "{again}");
    let claims = db.store.source_open(&source).await.unwrap_err();
    assert!(matches!(claims, SourceError::ClusterRemoved { .. }), "{claims}");
    open(&db.store, "green").await;
    command(&db.store, "blue", Kind::Uncordon).await.unwrap();
    open(&db.store, "blue").await;
    db.store.source_open(&source).await.unwrap();
}

fn claim(manifest: &ClusterTrafficPolicy) -> NewClaim {
    let policy = valid(manifest);
    let wanted = Ok(Box::new(Wanted { manifest: manifest.clone(), policy: policy.clone() }));
    NewClaim { key: policy.key, uid: "uid".parse().unwrap(), generation: 1, wanted }
}

#[tokio::test]
async fn what_a_removed_cluster_reported_goes_at_the_end_and_its_policies_stay() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let session = open(&db.store, "blue").await;
    let (watched, endpoint) = ([service("web")], (endpoint_key("blue", "10.0.0.1", "pod"), ready("web-1")));
    let snapshot = Snapshot {
        watch_set: &watched,
        services: &[(service("web"), resolved(""))],
        endpoints: std::slice::from_ref(&endpoint),
        epoch: Epoch(1),
    };
    db.store.session_snapshot(session, &cluster("blue"), 1, snapshot).await.unwrap();
    let source = SourceSession { cluster: cluster("blue"), id: Uuid::new_v4(), source: "192.0.2.7".to_owned() };
    db.store.source_open(&source).await.unwrap();
    apply(&db.store, &manifest("theirs", &[("green", 100)])).await;
    let claims = [claim(&manifest("ours", &[("green", 100)])), claim(&manifest("theirs", &[("green", 50)]))];
    db.store.source_changes(&source, &claims, &[]).await.unwrap();

    let removed = command(&db.store, "blue", Kind::Remove).await.unwrap();
    assert_eq!(db.store.clusters_purge().await.unwrap(), [], "its targets are not gone yet");
    let ended = end(&db.store, fence, &removed).await;
    assert_eq!(db.store.clusters_purge().await.unwrap(), [cluster("blue")]);
    assert_eq!(db.store.clusters_purge().await.unwrap(), []);
    let said: Vec<_> = audit(&db.store).await.into_iter().filter(|row| row.action == "cluster.purge").collect();
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].actor.as_str(), &said[0].detail["cluster"]), ("switchyard-hub", &json!("blue")));
    let mirror = mirrored(&db).await;
    assert_eq!((mirror.clusters.len(), mirror.inventory.endpoints().count()), (0, 0));
    assert_eq!(*mirror.fleet[&cluster("blue")], ended, "that it was removed is remembered");
    let kept: Vec<String> = mirror.claims.values().flat_map(BTreeMap::keys).map(|key| key.name.to_string()).collect();
    assert_eq!(kept, ["ours"], "the claim that owned nothing is gone");
    let ours = db.store.policy_get(&key("ours")).await.unwrap().unwrap();
    assert!(ours.record.deleting_since.is_none() && matches!(ours.ownership.owner, Owner::Resource(_)));
    assert!(ours.ownership.resource.unwrap().absent_since.is_some(), "callers may take it over");
    apply(&db.store, &manifest("ours", &[("green", 10)])).await;
}

/// Green is out, or everything is as asked for.
fn explanation(out: bool) -> PolicyStatus {
    let mut green: ClusterExplanation = serde_json::from_value(json!({
        "cluster": "green", "priority": 0, "requested": 50, "standby": 0, "decided": 50, "programmed": 50, "link": null,
        "mode": "Active", "ceiling": 1000, "expected": 2, "healthy": 2, "unjudged": 0, "unhealthy": 0, "known": true,
        "score": 1000, "used": 1000, "share": 500, "requested_share": 500, "capacity": null, "pending": null,
        "out_since": null, "outs": 0, "held_until": null, "reason": "AsRequested", "message": "",
    }))
    .unwrap();
    let mut message = String::new();
    if out {
        green.out_since = Some(jiff::Timestamp::UNIX_EPOCH);
        green.decided = Weight::ZERO;
        "green has no healthy target".clone_into(&mut message);
    }
    let failover = Explanation { clusters: vec![green], message, ..Explanation::default() };
    PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: Vec::new(),
        rule: None,
        notes: Vec::new(),
        failover,
    }
}

/// The engine explained the policy in this way.
async fn explained(store: &Store, fence: Fence<'_>, uid: &switchyard_core::ids::PolicyUid, out: bool) {
    let (status, memory) = (explanation(out), PolicyMemory::default());
    store.policy_statuses_save(fence, &[StatusUpdate { uid, status: &status, memory: &memory }]).await.unwrap();
}

fn with_failover(name: &str) -> ClusterTrafficPolicy {
    let mut manifest = serde_json::to_value(manifest(name, &[("blue", 80), ("green", 20)])).unwrap();
    manifest["spec"]["failover"] = json!({"failback": "Manual"});
    serde_json::from_value(manifest).unwrap()
}

#[tokio::test]
async fn clusters_that_are_out_are_let_return_once_a_request_and_nothing_else_of_the_policy_changes() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let (made, _) = apply(&db.store, &with_failover("a")).await;
    let nothing = db.store.policy_failback(&fresh(), &key("a"), 0).await.unwrap_err();
    assert!(matches!(nothing, ApplyError::NothingOut(_)), "{nothing}");
    explained(&db.store, fence, &made.record.uid, false).await;
    let nothing = db.store.policy_failback(&fresh(), &key("a"), 0).await.unwrap_err();
    assert!(matches!(nothing, ApplyError::NothingOut(_)), "{nothing}");

    explained(&db.store, fence, &made.record.uid, true).await;
    let stale = db.store.policy_failback(&fresh(), &key("a"), 9).await.unwrap_err();
    assert!(matches!(stale, ApplyError::VersionConflict { expected: 9, present: 1 }), "{stale}");
    let one = caller("one");
    let first = db.store.policy_failback(&one, &key("a"), 1).await.unwrap();
    let at = first.record.failback_at.unwrap();
    assert!(at >= made.created_at);
    assert_eq!((first.record.version, first.record.generation), (2, 1));
    assert_eq!(db.store.policy_failback(&one, &key("a"), 1).await.unwrap().record, first.record, "the first answer");
    assert_eq!(db.store.policy_get(&key("a")).await.unwrap().unwrap().record.failback_at, Some(at));
    let entry = &audit_of(&db.store, "a").await[0];
    assert_eq!((entry.action.as_str(), &entry.detail["clusters"]), ("failback", &json!(["green"])));
    let second = db.store.policy_failback(&fresh(), &key("a"), 0).await.unwrap();
    assert!(second.record.failback_at > Some(at) && second.record.version == 3);
    db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.unwrap();
    let late = db.store.policy_failback(&fresh(), &key("a"), 0).await.unwrap_err();
    assert!(matches!(late, ApplyError::Deleting(_)), "{late}");
}

/// Somebody with this role over these clusters in namespace shop.
fn of_shop(role: Role, clusters: &[&str]) -> Caller {
    let grant = Grant {
        role,
        namespaces: Span::Only(["shop".parse().unwrap()].into()),
        clusters: Span::Only(clusters.iter().map(|name| cluster(name)).collect()),
        overrides: false,
    };
    Caller { grants: Grants(vec![grant]), ..fresh() }
}

#[tokio::test]
async fn clusters_that_are_out_are_let_return_by_those_who_have_them() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let (made, _) = apply(&db.store, &with_failover("a")).await;
    explained(&db.store, fence, &made.record.uid, true).await;
    let refused = db.store.policy_failback(&of_shop(Role::Operator, &["blue"]), &key("a"), 0).await.unwrap_err();
    assert!(matches!(refused, ApplyError::MayNot(_)), "{refused}");
    db.store.policy_failback(&of_shop(Role::Operator, &["green"]), &key("a"), 0).await.unwrap();
}

#[tokio::test]
async fn a_removed_cluster_is_taken_back_by_an_admin_also_where_the_caller_was_let_in_as_an_operator() {
    let db = database().await;
    let grants = |role| {
        let (namespaces, clusters) = (Span::All, Span::Only([cluster("blue")].into()));
        Grants(vec![Grant { role, namespaces, clusters, overrides: false }])
    };
    let by = |role| Caller { grants: grants(role), ..fresh() };
    let blue = cluster("blue");
    let of = async |role, kind| db.store.cluster_command(&by(role), &blue, &wish(kind), 0).await;
    assert!(matches!(of(Role::Operator, Kind::Remove).await, Err(FleetError::MayNot(_))));
    of(Role::Operator, Kind::Cordon).await.unwrap();
    of(Role::Operator, Kind::Uncordon).await.unwrap();
    assert_eq!(of(Role::Admin, Kind::Remove).await.unwrap().mode, Mode::Removed);
    assert!(matches!(of(Role::Operator, Kind::Uncordon).await, Err(FleetError::MayNot(_))));
    assert_eq!(of(Role::Admin, Kind::Uncordon).await.unwrap().mode, Mode::Returning);
}

#[tokio::test]
async fn what_failover_did_is_in_the_audit_log_once_and_only_if_it_was_done() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let (made, _) = apply(&db.store, &with_failover("a")).await;
    let uid = &made.record.uid;
    let moves = async || {
        let rows = audit_of(&db.store, "a").await;
        rows.into_iter().filter(|row| row.action.starts_with("failover.")).collect::<Vec<_>>()
    };
    explained(&db.store, fence, uid, false).await;
    assert_eq!(moves().await.len(), 0);
    let stale = Fence { epoch: Epoch(fence.epoch.0 + 1), ..fence };
    let (out, memory) = (explanation(true), PolicyMemory::default());
    let lost = db.store.policy_status_save(stale, uid, &out, &memory).await;
    assert!(lost.is_err() && moves().await.is_empty(), "without the lease nothing is done");

    for _ in 0..3 {
        explained(&db.store, fence, uid, true).await;
    }
    let [entry] = &moves().await[..] else { panic!("one entry") };
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("failover.out", "switchyard-hub"));
    assert_eq!((&entry.detail["wentOut"], &entry.detail["out"]), (&json!(["green"]), &json!(["green"])));
    assert_eq!(
        (&entry.detail["decidedFrom"], &entry.detail["decidedTo"]),
        (&json!({"green": 50}), &json!({"green": 0}))
    );
    assert_eq!(entry.reason, "green has no healthy target");
    explained(&db.store, fence, uid, false).await;
    let entry = &moves().await[0];
    assert_eq!((entry.action.as_str(), &entry.detail["returned"]), ("failover.back", &json!(["green"])));
    assert_eq!((moves().await.len(), &entry.detail["out"]), (2, &json!([])));
}

#[tokio::test]
async fn when_many_policies_fail_over_at_once_the_chain_of_the_audit_log_holds_an_entry_for_each() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let mut uids = Vec::new();
    for i in 0..30 {
        uids.push(apply(&db.store, &with_failover(&format!("p{i:02}"))).await.0.record.uid);
    }
    let (status, memory) = (explanation(true), PolicyMemory::default());
    let updates: Vec<_> = uids.iter().map(|uid| StatusUpdate { uid, status: &status, memory: &memory }).collect();
    db.store.policy_statuses_save(fence, &updates).await.unwrap();
    let rows = db.store.audit_page(&AuditFilter::default(), true, None, 1000).await.unwrap();
    let named: Vec<&str> =
        rows.iter().filter(|row| row.action == "failover.out").map(|row| row.policy.as_str()).collect();
    let expected: Vec<String> = (0..30).map(|i| format!("shop/p{i:02}")).collect();
    assert_eq!(named, expected, "in the order of their names");
    let mut verifier = Verifier::from_the_first();
    for row in &rows {
        verifier.take(&row.link(), &row.previous_hash, &row.hash).unwrap();
    }
}

#[tokio::test]
async fn a_failback_leaves_a_shift_and_its_weights_as_they_are() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let (made, _) = apply(&db.store, &with_failover("a")).await;
    let shift = create(&db.store, &halves(&["a"], "green")).await.unwrap();
    store_support::shifts::drive(&db.store, fence, &shift.id).await;
    explained(&db.store, fence, &made.record.uid, true).await;
    let before = store_support::shifts::asked(&db.store, "a").await;
    db.store.policy_failback(&fresh(), &key("a"), 0).await.unwrap();
    assert_eq!(store_support::shifts::asked(&db.store, "a").await, before);
    let after = store_support::shifts::stored(&db.store, &shift.id).await;
    assert!(after.is_active() && after.present_moves().count() == 1, "{after:?}");
    // And it goes on: the policy is still the one that it moves.
    while store_support::shifts::drive(&db.store, fence, &shift.id).await {}
    let state = store_support::shifts::stored(&db.store, &shift.id).await;
    assert!(state.is_active() && state.step == Some(0), "{state:?}");
}
