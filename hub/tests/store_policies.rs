//! Policies: versions, request ids, overrides, deletion, status.

mod store_support;

use std::collections::BTreeMap;

use store_support::{
    Db, apply, audit_of, caller, database, eventually, expire_leases, fence, fence_of, fresh, key, manifest, valid,
};
use switchyard_core::{
    ids::{ClusterName, Epoch, Weight},
    policy::{PolicyMemory, Programmed},
    status::{Note, PolicyStatus, Reason},
};
use switchyard_hub::store::{Applied, ApplyError, Caller, FencedError, Mirror, StatusUpdate, StoreError};
use uuid::Uuid;

fn weights(pairs: &[(&str, u32)]) -> BTreeMap<ClusterName, Weight> {
    pairs.iter().map(|(name, weight)| (name.parse().unwrap(), Weight::new(*weight).unwrap())).collect()
}

fn wanted(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
    pairs.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

fn status(message: &str) -> PolicyStatus {
    PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: Vec::new(),
        rule: None,
        notes: vec![Note { cluster: None, reason: Reason::InProgress, message: message.to_owned() }],
        failover: Default::default(),
    }
}

async fn count(db: &Db, table: &'static str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(statement).fetch_one(&db.raw).await.unwrap()
}

#[tokio::test]
async fn a_policy_is_created_then_unchanged_then_configured() {
    let db = database().await;
    let first = manifest("a", &[("blue", 100), ("green", 0)]);
    let (created, applied) = apply(&db.store, &first).await;
    assert_eq!(applied, Applied::Created);
    assert_eq!((created.record.version, created.record.generation), (1, 1));
    assert_eq!(created.record.policy, valid(&first));
    let (same, applied) = apply(&db.store, &first).await;
    assert_eq!((same, applied), (created.clone(), Applied::Unchanged));

    let mut second = first.clone();
    second.spec.order = 7;
    let (changed, applied) = apply(&db.store, &second).await;
    assert_eq!(applied, Applied::Configured);
    assert_eq!((changed.record.version, changed.record.generation), (2, 2));
    assert_eq!((&changed.record.uid, changed.created_at), (&created.record.uid, created.created_at));
    assert!(changed.updated_at > created.updated_at);
    assert_eq!(db.store.policy_get(&key("a")).await.unwrap(), Some(changed.clone()));
    assert_eq!(db.store.policies_all().await.unwrap(), vec![changed]);
    let audit = audit_of(&db.store, "a").await;
    assert_eq!(audit.len(), 2, "the unchanged apply leaves no entry: {audit:?}");
    assert_eq!((audit[0].actor.as_str(), audit[0].reason.as_str()), ("someone@example.com", "a test"));
    assert_eq!(audit[0].detail["old"]["order"], 100);
    assert_eq!(audit[0].detail["new"]["order"], 7);
}

#[tokio::test]
async fn a_version_that_is_not_the_present_one_is_refused_with_both_and_changes_nothing() {
    let db = database().await;
    let first = manifest("a", &[("blue", 1)]);
    let conflict = db.store.policy_apply(&fresh(), &first, &valid(&first), 1).await.unwrap_err();
    assert!(matches!(conflict, ApplyError::VersionConflict { expected: 1, present: 0 }), "{conflict:?}");
    let (before, _) = apply(&db.store, &first).await;
    let second = manifest("a", &[("blue", 2)]);
    let conflict = db.store.policy_apply(&fresh(), &second, &valid(&second), 5).await.unwrap_err();
    assert!(matches!(conflict, ApplyError::VersionConflict { expected: 5, present: 1 }), "{conflict:?}");
    let conflict = db.store.policy_set_weights(&fresh(), &key("a"), &wanted(&[("blue", 3)]), 5).await.unwrap_err();
    assert!(matches!(conflict, ApplyError::VersionConflict { expected: 5, present: 1 }), "{conflict:?}");
    let conflict = db.store.policy_mark_deleting(&fresh(), &key("a"), 5).await.unwrap_err();
    assert!(matches!(conflict, ApplyError::VersionConflict { expected: 5, present: 1 }), "{conflict:?}");
    assert_eq!(db.store.policy_get(&key("a")).await.unwrap(), Some(before));
    assert_eq!(count(&db, "audit").await, 1);
    let (after, _) = db.store.policy_apply(&fresh(), &second, &valid(&second), 1).await.unwrap();
    assert_eq!(after.record.version, 2);
}

#[tokio::test]
async fn of_writers_that_saw_the_same_version_one_wins() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let writers = (0..20).map(|i| {
        let store = db.store.clone();
        async move { store.policy_set_weights(&fresh(), &key("a"), &wanted(&[("blue", 100 + i)]), 1).await }
    });
    let results = futures::future::join_all(writers).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let present = db.store.policy_get(&key("a")).await.unwrap().unwrap();
    assert_eq!(present.record.version, 2);
}

#[tokio::test]
async fn fifty_equal_requests_at_once_make_one_change_and_get_one_answer() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 100), ("green", 0)])).await;
    let requests = (0..50).map(|_| {
        let store = db.store.clone();
        async move {
            let pairs = wanted(&[("blue", 50), ("green", 50)]);
            store.policy_set_weights(&caller("one-request"), &key("a"), &pairs, 1).await.unwrap()
        }
    });
    let answers = futures::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(answers[0].record.version, 2);
    assert_eq!(count(&db, "audit").await, 2);
}

#[tokio::test]
async fn a_repeated_request_gets_its_first_answer_whatever_happened_since() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let first = manifest("a", &[("blue", 1)]);
    let answer = db.store.policy_apply(&caller("r1"), &first, &valid(&first), 0).await.unwrap();
    apply(&db.store, &manifest("a", &[("blue", 2)])).await;
    let again = db.store.policy_apply(&caller("r1"), &first, &valid(&first), 0).await.unwrap();
    assert_eq!(again, answer);
    let deleting = db.store.policy_mark_deleting(&caller("r2"), &key("a"), 0).await.unwrap();
    assert!(db.store.policy_forget(fence, &key("a"), &deleting.record.uid).await.unwrap());
    assert_eq!(db.store.policy_mark_deleting(&caller("r2"), &key("a"), 0).await.unwrap(), deleting);
    assert_eq!(count(&db, "policies").await, 0);
}

#[tokio::test]
async fn a_request_id_that_is_used_for_something_else_is_refused() {
    let db = database().await;
    let first = manifest("a", &[("blue", 1)]);
    db.store.policy_apply(&caller("r1"), &first, &valid(&first), 0).await.unwrap();
    let other = manifest("a", &[("blue", 2)]);
    let errors = [
        db.store.policy_apply(&caller("r1"), &other, &valid(&other), 0).await.unwrap_err(),
        db.store.policy_apply(&caller("r1"), &first, &valid(&first), 1).await.unwrap_err(),
        db.store.policy_set_weights(&caller("r1"), &key("a"), &wanted(&[("blue", 2)]), 0).await.unwrap_err(),
    ];
    for error in errors {
        let ApplyError::RequestReused { request_id, method } = &error else {
            panic!("{error:?}");
        };
        assert_eq!((request_id.as_str(), method.as_str()), ("r1", "ApplyPolicy"));
    }
}

#[tokio::test]
async fn the_order_of_the_weights_does_not_make_another_request() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 100), ("green", 0)])).await;
    let one =
        db.store.policy_set_weights(&caller("r"), &key("a"), &wanted(&[("blue", 1), ("green", 2)]), 0).await.unwrap();
    let two =
        db.store.policy_set_weights(&caller("r"), &key("a"), &wanted(&[("green", 2), ("blue", 1)]), 0).await.unwrap();
    assert_eq!(one, two);
}

#[tokio::test]
async fn weights_are_set_over_those_of_the_spec_and_counted_only_when_they_differ() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 100), ("green", 0)])).await;
    let set = async |pairs: &[(&str, u32)]| db.store.policy_set_weights(&fresh(), &key("a"), &wanted(pairs), 0).await;
    let stored = set(&[("green", 25)]).await.unwrap();
    assert_eq!(stored.record.weight_override, Some(weights(&[("blue", 100), ("green", 25)])));
    assert_eq!((stored.record.version, stored.record.generation), (2, 1));
    assert_eq!(set(&[("green", 25)]).await.unwrap(), stored);
    let back = set(&[("green", 0)]).await.unwrap();
    assert_eq!((back.record.weight_override, back.record.version), (None, 3));

    for pairs in [&[("red", 1)][..], &[("blue", 1000)], &[("blue", 0)], &[]] {
        let error = set(pairs).await.unwrap_err();
        assert!(matches!(&error, ApplyError::Invalid { violations } if !violations.is_empty()), "{pairs:?}: {error:?}");
    }
    let missing = db.store.policy_set_weights(&fresh(), &key("b"), &wanted(&[("blue", 1)]), 0).await.unwrap_err();
    assert!(matches!(missing, ApplyError::NotFound(_)), "{missing:?}");
    let audit = audit_of(&db.store, "a").await;
    assert_eq!(audit.len(), 3);
    assert_eq!(audit[1].detail["old"], serde_json::json!({"blue": 100, "green": 0}));
    assert_eq!(audit[1].detail["new"], serde_json::json!({"blue": 100, "green": 25}));
}

#[tokio::test]
async fn a_spec_with_other_weights_supersedes_an_override_and_any_other_change_keeps_it() {
    let db = database().await;
    let mut spec = manifest("a", &[("blue", 100), ("green", 0)]);
    apply(&db.store, &spec).await;
    db.store.policy_set_weights(&fresh(), &key("a"), &wanted(&[("green", 50)]), 0).await.unwrap();
    let overridden = Some(weights(&[("blue", 100), ("green", 50)]));
    assert_eq!(apply(&db.store, &spec).await.0.record.weight_override, overridden);
    spec.spec.order = 9;
    assert_eq!(apply(&db.store, &spec).await.0.record.weight_override, overridden);
    spec.spec.clusters.reverse();
    assert_eq!(
        apply(&db.store, &spec).await.0.record.weight_override,
        overridden,
        "the order of clusters is no weight"
    );

    spec.spec.clusters[0].weight = 10;
    let (stored, _) = apply(&db.store, &spec).await;
    assert_eq!(stored.record.weight_override, None);
    assert_eq!((stored.record.version, stored.record.generation), (5, 4));
    let audit = audit_of(&db.store, "a").await;
    assert_eq!(audit[0].detail["supersededOverride"], serde_json::json!({"blue": 100, "green": 50}));
}

#[tokio::test]
async fn what_cannot_change_is_refused_with_its_field() {
    let db = database().await;
    let mut spec = manifest("a", &[("blue", 1)]);
    apply(&db.store, &spec).await;
    spec.spec.listener.port = Some(8443);
    let error = db.store.policy_apply(&fresh(), &spec, &valid(&spec), 0).await.unwrap_err();
    let ApplyError::Invalid { violations } = error else {
        panic!("{error:?}");
    };
    assert_eq!(violations[0].field, "spec.listener");
}

#[tokio::test]
async fn a_policy_on_its_way_out_takes_no_change_and_is_forgotten_only_by_its_own_uid() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let first = manifest("a", &[("blue", 1)]);
    let (created, _) = apply(&db.store, &first).await;
    let uid = created.record.uid.clone();
    assert!(!db.store.policy_forget(fence, &key("a"), &uid).await.unwrap(), "it is not marked");
    let deleting = db.store.policy_mark_deleting(&fresh(), &key("a"), 1).await.unwrap();
    assert!(deleting.record.deleting_since.is_some());
    assert_eq!(deleting.record.version, 2);
    assert_eq!(db.store.policy_mark_deleting(&fresh(), &key("a"), 1).await.unwrap(), deleting, "marking again is fine");
    let changed = manifest("a", &[("blue", 2)]);
    let refused = db.store.policy_apply(&fresh(), &changed, &valid(&changed), 0).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Deleting(_)), "{refused:?}");
    let refused = db.store.policy_set_weights(&fresh(), &key("a"), &wanted(&[("blue", 2)]), 0).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Deleting(_)), "{refused:?}");

    assert!(!db.store.policy_forget(fence, &key("a"), &"another".parse().unwrap()).await.unwrap());
    assert!(db.store.policy_forget(fence, &key("a"), &uid).await.unwrap());
    assert!(!db.store.policy_forget(fence, &key("a"), &uid).await.unwrap());
    let (anew, applied) = apply(&db.store, &first).await;
    assert_eq!(applied, Applied::Created);
    assert_ne!(anew.record.uid, uid);
}

#[tokio::test]
async fn status_and_memory_are_written_only_when_they_differ() {
    let db = database().await;
    let fence = fence(&db.store).await;
    let (a, _) = apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let (b, _) = apply(&db.store, &manifest("b", &[("blue", 1)])).await;
    let memory = PolicyMemory {
        programmed: Some(Programmed { weights: weights(&[("blue", 1)]), since: a.created_at }),
        ..PolicyMemory::default()
    };
    assert!(db.store.policy_status_save(fence, &a.record.uid, &status("x"), &memory).await.unwrap());
    assert!(!db.store.policy_status_save(fence, &a.record.uid, &status("x"), &memory).await.unwrap());
    let stored = db.store.policy_get(&key("a")).await.unwrap().unwrap();
    assert_eq!((stored.status.as_ref(), &stored.memory), (Some(&status("x")), &memory));
    assert!(stored.status_at.is_some());
    assert_eq!((stored.record.version, stored.updated_at), (1, a.updated_at), "a status is no change of the policy");

    let (x, y) = (status("x"), status("y\0"));
    let gone = "gone".parse().unwrap();
    let updates = [(&a.record.uid, &x), (&b.record.uid, &y), (&gone, &y)];
    let updates = updates.map(|(uid, status)| StatusUpdate { uid, status, memory: &memory });
    assert_eq!(db.store.policy_statuses_save(fence, &updates).await.unwrap(), vec![b.record.uid.clone()]);
    assert_eq!(db.store.policy_statuses_save(fence, &updates).await.unwrap(), Vec::new());
    let only_memory = PolicyMemory::default();
    assert!(db.store.policy_status_save(fence, &a.record.uid, &x, &only_memory).await.unwrap());
}

const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);

/// What must not move when a write is refused: policies with status and memory, and what tells readers and auditors of a change.
async fn all(db: &Db) -> (Vec<switchyard_hub::store::StoredPolicy>, i64, i64) {
    let last = sqlx::query_scalar("select last from policy_changes").fetch_one(&db.raw).await.unwrap();
    (db.store.policies_all().await.unwrap(), last, count(db, "audit").await)
}

#[tokio::test]
async fn a_status_from_an_epoch_that_has_passed_or_expired_is_refused_and_changes_nothing() {
    let db = database().await;
    let (a, _) = apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let (uid, memory) = (&a.record.uid, PolicyMemory::default());
    let old = fence_of(&db.raw, &db.store, A).await;
    assert!(db.store.policy_status_save(old, uid, &status("of the first"), &memory).await.unwrap());
    expire_leases(&db.raw).await;
    let before = all(&db).await;
    let expired = db.store.policy_status_save(old, uid, &status("late"), &memory).await.unwrap_err();
    assert!(matches!(expired, FencedError::Expired { epoch: Epoch(1), .. }), "{expired:?}");
    assert_eq!(all(&db).await, before);

    let new = fence_of(&db.raw, &db.store, B).await;
    assert!(db.store.policy_status_save(new, uid, &status("of the second"), &memory).await.unwrap());
    let before = all(&db).await;
    let remembered = PolicyMemory {
        programmed: Some(Programmed { weights: weights(&[("blue", 1)]), since: a.created_at }),
        ..PolicyMemory::default()
    };
    for (status, memory) in [(status("late"), &memory), (status("of the second"), &remembered)] {
        let passed = db.store.policy_status_save(old, uid, &status, memory).await.unwrap_err();
        assert!(matches!(passed, FencedError::EpochPassed { present: Some(Epoch(2)), .. }), "{passed:?}");
        assert_eq!(all(&db).await, before);
    }
    let elsewhere = switchyard_hub::store::Fence { scope: "aws:2:eu", ..new };
    let refused = db.store.policy_status_save(elsewhere, uid, &status("late"), &memory).await.unwrap_err();
    assert!(matches!(refused, FencedError::EpochPassed { present: None, .. }), "{refused:?}");
    assert_eq!(all(&db).await, before);
    assert!(db.store.policy_status_save(new, uid, &status("late"), &memory).await.unwrap());
}

#[tokio::test]
async fn a_policy_is_not_forgotten_by_an_epoch_that_has_passed_or_expired() {
    let db = database().await;
    let old = fence_of(&db.raw, &db.store, A).await;
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let uid = db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.unwrap().record.uid;
    let before = all(&db).await;
    expire_leases(&db.raw).await;
    let expired = db.store.policy_forget(old, &key("a"), &uid).await.unwrap_err();
    assert!(matches!(expired, FencedError::Expired { .. }), "{expired:?}");
    let new = fence_of(&db.raw, &db.store, B).await;
    let passed = db.store.policy_forget(old, &key("a"), &uid).await.unwrap_err();
    assert!(matches!(passed, FencedError::EpochPassed { present: Some(Epoch(2)), .. }), "{passed:?}");
    assert_eq!(all(&db).await, before);
    assert!(db.store.policy_forget(new, &key("a"), &uid).await.unwrap());
}

#[tokio::test]
async fn a_status_waits_for_a_take_over_that_is_under_way_and_then_is_refused() {
    let db = database().await;
    let (a, _) = apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let old = fence_of(&db.raw, &db.store, A).await;
    let before = all(&db).await;
    let mut other = db.raw.begin().await.unwrap();
    sqlx::query("update leases set holder = $1, epoch = epoch + 1").bind(B).execute(&mut *other).await.unwrap();
    let (store, uid) = (db.store.clone(), a.record.uid.clone());
    let save =
        tokio::spawn(
            async move { store.policy_status_save(old, &uid, &status("late"), &PolicyMemory::default()).await },
        );
    eventually("the status' wait for the lock", async || {
        let waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%for share%' \
                       and datname = current_database()";
        sqlx::query(waiting).fetch_optional(&db.raw).await.unwrap()
    })
    .await;
    other.commit().await.unwrap();
    let error = save.await.unwrap().unwrap_err();
    assert!(matches!(error, FencedError::EpochPassed { present: Some(Epoch(2)), .. }), "{error:?}");
    assert_eq!(all(&db).await, before);
}

#[tokio::test]
async fn a_policy_of_a_newer_version_hides_nobody_else_and_is_not_overwritten() {
    let db = database().await;
    let spec = manifest("a", &[("blue", 1)]);
    apply(&db.store, &spec).await;
    apply(&db.store, &manifest("b", &[("blue", 1)])).await;
    let newer = "update policies set manifest = jsonb_set(manifest, '{spec,mode}', '\"Quantum\"') where name = 'a'";
    sqlx::query(newer).execute(&db.raw).await.unwrap();
    let names = |policies: Vec<switchyard_hub::store::StoredPolicy>| -> Vec<String> {
        policies.iter().map(|policy| policy.record.policy.key.to_string()).collect()
    };
    assert_eq!(names(db.store.policies_all().await.unwrap()), ["shop/b"]);
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, None, store_support::NEVER_STALE).await.unwrap();
    assert_eq!((mirror.policies.len(), mirror.unreadable_policies), (1, 1));
    let error = db.store.policy_apply(&fresh(), &spec, &valid(&spec), 0).await.unwrap_err();
    let ApplyError::Store(StoreError::Unreadable { what, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(what, "policy shop/a");
}

#[tokio::test]
async fn bad_callers_and_texts_that_cannot_be_stored_are_refused_by_field() {
    let db = database().await;
    let spec = manifest("a", &[("blue", 1)]);
    let bad = |request_id: &str, actor: &str, reason: String| Caller {
        request_id: request_id.to_owned(),
        actor: actor.to_owned(),
        reason,
        ..Caller::default()
    };
    let table = [
        (bad("", "me", String::new()), "request_id"),
        (bad("a b", "me", String::new()), "request_id"),
        (bad(&"x".repeat(129), "me", String::new()), "request_id"),
        (bad("x", "", String::new()), "actor"),
        (bad("x", "me", "x".repeat(1025)), "reason"),
    ];
    for (caller, field) in table {
        let error = db.store.policy_apply(&caller, &spec, &valid(&spec), 0).await.unwrap_err();
        assert!(matches!(&error, ApplyError::Invalid { violations } if violations[0].field == field), "{error:?}");
    }
    let mut nul = spec.clone();
    nul.spec.listener.load_balancer = Some("a\0b".to_owned());
    let error = db.store.policy_apply(&fresh(), &nul, &valid(&spec), 0).await.unwrap_err();
    assert!(matches!(error, ApplyError::Invalid { .. }), "{error:?}");
    assert_eq!(count(&db, "policies").await, 0);
    assert_eq!(count(&db, "idempotency").await, 0);
}
