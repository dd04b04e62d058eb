//! Resources that ask for policies, in the store: each report decides at once what becomes of the names in it, in one transaction.

mod store_support;

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::AssertSqlSafe;
use store_support::{
    Db, NEVER_STALE, apply, audit_of, caller, cluster, database, fence, fresh, key, manifest,
    shifts::{asked, create, drive, halves, pairs, stored},
    valid,
};
use switchyard_core::{
    ids::{PolicyKey, ResourceUid},
    policy::ClusterTrafficPolicy,
    shift::{ShiftReason, State},
    source::{MOST_CLAIMS, Owner},
};
use switchyard_hub::store::{
    Applied, ApplyError, AuditFilter, Listed, Mirror, NewClaim, SourceError, SourceSession, Store, StoredPolicy, Wanted,
};
use uuid::Uuid;

async fn session(store: &Store, name: &str) -> SourceSession {
    let session = SourceSession { cluster: cluster(name), id: Uuid::new_v4(), source: "192.0.2.7".to_owned() };
    store.source_open(&session).await.unwrap();
    session
}

/// A resource of this generation that asks for the manifest; its UID is `uid`.
fn asks(uid: &str, generation: u64, manifest: &ClusterTrafficPolicy) -> NewClaim {
    let policy = valid(manifest);
    NewClaim {
        key: policy.key.clone(),
        uid: uid.parse().unwrap(),
        generation,
        wanted: Ok(Box::new(Wanted { manifest: manifest.clone(), policy })),
    }
}

fn invalid(uid: &str, generation: u64, name: &str) -> NewClaim {
    NewClaim { key: key(name), uid: uid.parse().unwrap(), generation, wanted: Err("spec.order: wrong".to_owned()) }
}

fn on_another_listener(name: &str) -> ClusterTrafficPolicy {
    let mut manifest = manifest(name, &[("blue", 100)]);
    manifest.spec.listener.port = Some(8443);
    manifest
}

async fn report(store: &Store, session: &SourceSession, upserts: &[NewClaim]) {
    assert_eq!(store.source_changes(session, upserts, &[]).await.unwrap().no_room, BTreeSet::new());
}

async fn gone(store: &Store, session: &SourceSession, name: &str, uid: &str) {
    let deleted = [(key(name), uid.parse::<ResourceUid>().unwrap())];
    store.source_changes(session, &[], &deleted).await.unwrap();
}

async fn get(store: &Store, name: &str) -> Option<StoredPolicy> {
    store.policy_get(&key(name)).await.unwrap()
}

fn owner(policy: &StoredPolicy) -> (String, u64) {
    match &policy.ownership.owner {
        Owner::Api => ("api".to_owned(), 0),
        Owner::Resource(holder) => (holder.cluster.to_string(), holder.generation),
    }
}

async fn actions(db: &Db, name: &str) -> Vec<(String, String)> {
    let rows = audit_of(&db.store, name).await;
    rows.into_iter().rev().map(|row| (row.actor, row.action)).collect()
}

fn entries(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(actor, action)| ((*actor).to_owned(), (*action).to_owned())).collect()
}

async fn numbers(db: &Db) -> (i64, i64) {
    sqlx::query_as("select last, claims from policy_changes").fetch_one(&db.raw).await.unwrap()
}

#[tokio::test]
async fn a_generation_with_other_weights_or_the_end_of_a_resource_takes_its_policy_out_of_a_shift() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let spec = |name| manifest(name, &[("blue", 100), ("green", 0)]);
    report(
        &db.store,
        &blue,
        &[asks("uid-a", 1, &spec("a")), asks("uid-b", 1, &spec("b")), asks("uid-c", 1, &spec("c"))],
    )
    .await;
    let (of_two, of_one) = (halves(&["a", "b"], "green"), halves(&["c"], "green"));
    let (two, one) = (create(&db.store, &of_two).await.unwrap(), create(&db.store, &of_one).await.unwrap());
    let held = fence(&db.store).await;
    for id in [&two.id, &one.id] {
        assert!(drive(&db.store, held, id).await);
    }
    let mut other_order = spec("a");
    other_order.spec.order = 7;
    report(&db.store, &blue, &[asks("uid-a", 2, &other_order)]).await;
    assert_eq!(stored(&db.store, &two.id).await.state, State::Stepping, "its weights are the same");

    report(&db.store, &blue, &[asks("uid-a", 3, &manifest("a", &[("blue", 20), ("green", 80)]))]).await;
    let now = stored(&db.store, &two.id).await;
    assert_eq!((now.state, now.why), (State::Aborting, ShiftReason::PolicyChanged));
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 20), ("green", 80)]));
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]));
    let left = actions(&db, "a").await;
    let expected = entries(&[("cluster:blue", "shift-supersede"), ("cluster:blue", "apply")]);
    assert_eq!(left[left.len() - 2..], expected);

    gone(&db.store, &blue, "c", "uid-c").await;
    let now = stored(&db.store, &one.id).await;
    assert_eq!((now.state, now.why), (State::Superseded, ShiftReason::PolicyDeleted));
    let left = actions(&db, "c").await;
    let expected = entries(&[("cluster:blue", "shift-supersede"), ("cluster:blue", "delete")]);
    assert_eq!(left[left.len() - 2..], expected);
}

#[tokio::test]
async fn a_resource_makes_a_policy_changes_it_and_takes_it_away() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let first = manifest("a", &[("blue", 100), ("green", 0)]);
    report(&db.store, &blue, &[asks("uid-1", 1, &first)]).await;
    let made = get(&db.store, "a").await.unwrap();
    assert_eq!((made.record.version, made.record.generation, owner(&made)), (1, 1, ("blue".to_owned(), 1)));
    assert_eq!(made.record.policy, valid(&first));

    db.store.policy_set_weights(&fresh(), &key("a"), &[("green".to_owned(), 5)], 0).await.unwrap();
    let mut second = first.clone();
    second.spec.order = 7;
    report(&db.store, &blue, &[asks("uid-1", 2, &second)]).await;
    let changed = get(&db.store, "a").await.unwrap();
    assert_eq!((changed.record.version, changed.record.generation, owner(&changed)), (3, 2, ("blue".to_owned(), 2)));
    assert!(changed.record.weight_override.is_some(), "weights set by call outlive a spec with the same weights");
    let third = manifest("a", &[("blue", 60), ("green", 40)]);
    report(&db.store, &blue, &[asks("uid-1", 3, &third)]).await;
    assert_eq!(get(&db.store, "a").await.unwrap().record.weight_override, None);

    gone(&db.store, &blue, "a", "uid-0").await;
    assert_eq!(get(&db.store, "a").await.unwrap().record.deleting_since, None, "another resource of that name");
    gone(&db.store, &blue, "a", "uid-1").await;
    assert!(get(&db.store, "a").await.unwrap().record.deleting_since.is_some());
    let uid = made.record.uid;
    assert!(db.store.policy_forget(fence(&db.store).await, &key("a"), &uid).await.unwrap());
    assert_eq!(get(&db.store, "a").await, None);
    let expected = entries(&[
        ("cluster:blue", "apply"),
        ("someone@example.com", "set-weights"),
        ("cluster:blue", "apply"),
        ("cluster:blue", "apply"),
        ("cluster:blue", "delete"),
        ("switchyard-hub", "forget"),
    ]);
    assert_eq!(actions(&db, "a").await, expected);
}

#[tokio::test]
async fn what_is_told_again_writes_nothing() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let both = [asks("uid-1", 1, &manifest("a", &[("blue", 1)])), invalid("uid-2", 4, "b")];
    report(&db.store, &blue, &both).await;
    let before = numbers(&db).await;
    report(&db.store, &blue, &both).await;
    assert_eq!(numbers(&db).await, before);
}

#[tokio::test]
async fn an_invalid_generation_leaves_the_last_good_one_in_force() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let good = manifest("a", &[("blue", 1)]);
    report(&db.store, &blue, &[asks("uid-1", 1, &good), invalid("uid-2", 1, "never")]).await;
    for bad in [invalid("uid-1", 2, "a"), asks("uid-1", 3, &on_another_listener("a"))] {
        report(&db.store, &blue, std::slice::from_ref(&bad)).await;
        let policy = get(&db.store, "a").await.unwrap();
        assert_eq!((policy.manifest.clone(), owner(&policy)), (good.clone(), ("blue".to_owned(), 1)));
        assert_eq!(policy.record.version, 1);
        assert_eq!(policy.ownership.resource.unwrap().generation, bad.generation);
    }
    assert_eq!(get(&db.store, "never").await, None);
    report(&db.store, &blue, &[asks("uid-1", 4, &manifest("a", &[("blue", 2)]))]).await;
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("blue".to_owned(), 4));
}

#[tokio::test]
async fn ownership_passes_to_the_oldest_claim_and_nothing_of_the_policy_changes() {
    let db = database().await;
    let (blue, green, dr) =
        (session(&db.store, "blue").await, session(&db.store, "green").await, session(&db.store, "dr").await);
    let same = manifest("a", &[("blue", 100)]);
    report(&db.store, &blue, &[asks("b-1", 1, &same)]).await;
    report(&db.store, &green, &[asks("g-1", 8, &same)]).await;
    report(&db.store, &dr, &[asks("d-1", 1, &manifest("a", &[("blue", 7)]))]).await;
    let before = get(&db.store, "a").await.unwrap();
    assert_eq!(owner(&before), ("blue".to_owned(), 1));
    gone(&db.store, &blue, "a", "b-1").await;
    let after = get(&db.store, "a").await.unwrap();
    assert_eq!(owner(&after), ("green".to_owned(), 8));
    assert_eq!(after.record, before.record);
    gone(&db.store, &green, "a", "g-1").await;
    let last = get(&db.store, "a").await.unwrap();
    assert_eq!((owner(&last), last.record.version, &last.record.uid), (("dr".to_owned(), 1), 2, &before.record.uid));
    let expected = entries(&[("cluster:blue", "apply"), ("cluster:green", "handover"), ("cluster:dr", "handover")]);
    assert_eq!(actions(&db, "a").await, expected);
}

#[tokio::test]
async fn a_resource_made_anew_while_its_policy_leaves_keeps_it() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let same = manifest("a", &[("blue", 100)]);
    report(&db.store, &blue, &[asks("uid-1", 3, &same)]).await;
    let before = get(&db.store, "a").await.unwrap();
    gone(&db.store, &blue, "a", "uid-1").await;
    report(&db.store, &blue, &[asks("uid-2", 1, &same)]).await;
    let after = get(&db.store, "a").await.unwrap();
    assert_eq!((after.record.deleting_since, &after.record.uid), (None, &before.record.uid));
    assert_eq!((owner(&after), after.record.version, after.record.generation), (("blue".to_owned(), 1), 3, 1));
    // The engine may be about to forget it, from a picture in which it was leaving.
    assert!(!db.store.policy_forget(fence(&db.store).await, &key("a"), &before.record.uid).await.unwrap());
    assert!(get(&db.store, "a").await.is_some());
}

#[tokio::test]
async fn a_claim_that_cannot_carry_a_policy_on_makes_a_new_one_in_the_moment_in_which_the_old_one_is_gone() {
    let db = database().await;
    let (blue, green) = (session(&db.store, "blue").await, session(&db.store, "green").await);
    report(&db.store, &blue, &[asks("b-1", 1, &manifest("a", &[("blue", 1)]))]).await;
    report(&db.store, &green, &[asks("g-1", 1, &on_another_listener("a"))]).await;
    gone(&db.store, &blue, "a", "b-1").await;
    let leaving = get(&db.store, "a").await.unwrap();
    assert!(leaving.record.deleting_since.is_some());
    assert!(db.store.policy_forget(fence(&db.store).await, &key("a"), &leaving.record.uid).await.unwrap());
    let made = get(&db.store, "a").await.unwrap();
    assert_eq!((owner(&made), made.record.version), (("green".to_owned(), 1), 1));
    assert_ne!(made.record.uid, leaving.record.uid);
}

#[tokio::test]
async fn a_policy_of_a_cluster_is_not_changed_or_deleted_by_call_but_its_weights_are_set() {
    let db = database().await;
    let blue = session(&db.store, "blue").await;
    let wanted = manifest("a", &[("blue", 100), ("green", 0)]);
    report(&db.store, &blue, &[asks("uid-1", 1, &wanted)]).await;
    let refused = db.store.policy_apply(&fresh(), &wanted, &valid(&wanted), 0).await.unwrap_err();
    assert!(
        matches!(&refused, ApplyError::OwnedElsewhere { cluster, .. } if cluster.as_str() == "blue"),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("kubectl"), "{refused}");
    let refused = db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.unwrap_err();
    assert!(matches!(refused, ApplyError::OwnedElsewhere { .. }), "{refused:?}");
    let set = db.store.policy_set_weights(&fresh(), &key("a"), &[("green".to_owned(), 50)], 0).await.unwrap();
    assert_eq!(set.manifest, wanted);
    assert_eq!(owner(&set), ("blue".to_owned(), 1));
}

#[tokio::test]
async fn a_policy_of_the_api_that_is_deleted_passes_to_the_claim_that_waits_and_a_repetition_says_the_same() {
    let db = database().await;
    let (before, _) = apply(&db.store, &manifest("a", &[("blue", 100)])).await;
    let blue = session(&db.store, "blue").await;
    report(&db.store, &blue, &[asks("uid-1", 1, &manifest("a", &[("blue", 100)]))]).await;
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("api".to_owned(), 0));
    let deleted = db.store.policy_mark_deleting(&caller("one"), &key("a"), 0).await.unwrap();
    assert_eq!((deleted.record.clone(), owner(&deleted)), (before.record, ("blue".to_owned(), 1)));
    let again = db.store.policy_mark_deleting(&caller("one"), &key("a"), 0).await.unwrap();
    assert_eq!((again.record, owner(&deleted)), (deleted.record, ("blue".to_owned(), 1)));
    let expected = entries(&[("someone@example.com", "apply"), ("cluster:blue", "handover")]);
    assert_eq!(actions(&db, "a").await, expected);
    let row = &audit_of(&db.store, "a").await[0];
    assert_eq!((row.request_id.as_str(), row.reason.as_str()), ("one", "a test"));
}

fn listed(names: &[&str]) -> BTreeSet<PolicyKey> {
    names.iter().map(|name| key(name)).collect()
}

async fn source_of(db: &Db, names: &[&str]) -> SourceSession {
    let blue = session(&db.store, "blue").await;
    let claims: Vec<NewClaim> =
        names.iter().map(|name| asks(&format!("uid-{name}"), 1, &manifest(name, &[("blue", 1)]))).collect();
    report(&db.store, &blue, &claims).await;
    blue
}

#[tokio::test]
async fn a_list_takes_away_what_is_missing_but_never_most_of_it() {
    let db = database().await;
    let blue = source_of(&db, &["a", "b", "c", "d"]).await;
    let led = db.store.source_listed(&blue, &listed(&["a"])).await.unwrap();
    assert_eq!(led, Listed { gone: 0, held: 3 });
    for name in ["b", "c", "d"] {
        let held = get(&db.store, name).await.unwrap();
        assert_eq!(held.record.deleting_since, None);
        assert!(held.ownership.resource.unwrap().absent_since.is_some());
    }
    // Seen again, they are as before, and then half of them may go.
    let claims: Vec<NewClaim> =
        ["b", "c", "d"].iter().map(|name| asks(&format!("uid-{name}"), 1, &manifest(name, &[("blue", 1)]))).collect();
    report(&db.store, &blue, &claims).await;
    assert_eq!(get(&db.store, "b").await.unwrap().ownership.resource.unwrap().absent_since, None);
    let led = db.store.source_listed(&blue, &listed(&["a", "b"])).await.unwrap();
    assert_eq!(led, Listed { gone: 2, held: 0 });
    assert!(get(&db.store, "c").await.unwrap().record.deleting_since.is_some());
    assert_eq!(get(&db.store, "b").await.unwrap().record.deleting_since, None);
    let led = db.store.source_listed(&blue, &listed(&["a", "b"])).await.unwrap();
    assert_eq!(led, Listed::default());
}

#[tokio::test]
async fn a_definition_made_anew_takes_nothing_away_while_its_resources_come_back() {
    let db = database().await;
    let blue = source_of(&db, &["a", "b", "c", "d"]).await;
    assert_eq!(db.store.source_listed(&blue, &listed(&["a", "b", "c", "d"])).await.unwrap(), Listed::default());
    // More than half is back, under new UIDs, and the agent has to begin its list again half-way.
    let back = |name: &str| asks(&format!("new-{name}"), 1, &manifest(name, &[("blue", 1)]));
    report(&db.store, &blue, &[back("a"), back("b"), back("c")]).await;
    let blue = session(&db.store, "blue").await;
    report(&db.store, &blue, &[back("a"), back("b"), back("c")]).await;
    let led = db.store.source_listed(&blue, &listed(&["a", "b", "c"])).await.unwrap();
    assert_eq!(led, Listed { gone: 0, held: 1 });
    assert_eq!(get(&db.store, "d").await.unwrap().record.deleting_since, None);
    // The next list shows nothing new: what is held stays, and what goes now is believed.
    let led = db.store.source_listed(&blue, &listed(&["a", "b"])).await.unwrap();
    assert_eq!(led, Listed { gone: 1, held: 0 });
    assert!(get(&db.store, "c").await.unwrap().record.deleting_since.is_some());
    assert_eq!(get(&db.store, "d").await.unwrap().record.deleting_since, None);
}

#[tokio::test]
async fn an_operator_decides_about_what_is_held() {
    let db = database().await;
    let blue = source_of(&db, &["a", "b"]).await;
    assert_eq!(db.store.source_listed(&blue, &listed(&[])).await.unwrap(), Listed { gone: 0, held: 2 });
    let leaving = db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.unwrap();
    assert!(leaving.record.deleting_since.is_some());
    let wanted = manifest("b", &[("blue", 1)]);
    let (taken, applied) = db.store.policy_apply(&fresh(), &wanted, &valid(&wanted), 0).await.unwrap();
    assert_eq!((owner(&taken), applied), (("api".to_owned(), 0), Applied::Configured));
    // Back in its cluster, the resource waits behind the one who took its policy.
    report(&db.store, &blue, &[asks("uid-b", 1, &wanted)]).await;
    assert_eq!(owner(&get(&db.store, "b").await.unwrap()), ("api".to_owned(), 0));
}

#[tokio::test]
async fn the_policies_of_a_cluster_that_is_a_source_no_longer_stay_and_can_be_taken_over() {
    let db = database().await;
    source_of(&db, &["a"]).await;
    assert_eq!(db.store.sources_keep(&[cluster("blue")].into()).await.unwrap(), BTreeSet::new());
    let before = numbers(&db).await;
    assert_eq!(db.store.sources_keep(&[cluster("blue")].into()).await.unwrap(), BTreeSet::new());
    assert_eq!(numbers(&db).await, before, "nothing is to be read anew");
    assert_eq!(db.store.sources_keep(&[cluster("green")].into()).await.unwrap(), [cluster("blue")].into());
    let said = db.store.audit_page(&AuditFilter::default(), false, None, 1).await.unwrap().remove(0);
    assert_eq!((said.actor.as_str(), said.action.as_str()), ("switchyard-hub", "source.keep"));
    assert_eq!(said.detail, serde_json::json!({"clusters": ["blue"], "resources": 1}));
    let kept = get(&db.store, "a").await.unwrap();
    assert_eq!(kept.record.deleting_since, None);
    assert!(kept.ownership.resource.unwrap().absent_since.is_some());
    let wanted = manifest("a", &[("blue", 9)]);
    db.store.policy_apply(&fresh(), &wanted, &valid(&wanted), 0).await.unwrap();
}

#[tokio::test]
async fn a_newer_stream_of_the_cluster_ends_the_right_of_the_older_to_write() {
    let db = database().await;
    let older = source_of(&db, &["a"]).await;
    let newer = session(&db.store, "blue").await;
    let late = [asks("uid-a", 2, &manifest("a", &[("blue", 9)]))];
    let refused = [
        db.store.source_changes(&older, &late, &[]).await.unwrap_err(),
        db.store.source_listed(&older, &listed(&[])).await.unwrap_err(),
        db.store.source_failing(&older, Some("forbidden")).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|error| matches!(error, SourceError::TakenOver { .. })), "{refused:?}");
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("blue".to_owned(), 1));
    report(&db.store, &newer, &late).await;
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("blue".to_owned(), 2));
}

#[tokio::test]
async fn the_claim_past_the_last_place_is_named_and_the_others_are_taken() {
    let db = database().await;
    let blue = source_of(&db, &["a"]).await;
    let fill = format!(
        "insert into policy_claims (cluster, namespace, name, uid, generation, refusal, first_seen, changed_at, change) \
         select 'blue', 'shop', 'filler-' || n, 'u', 1, 'x', now(), now(), 1 from generate_series(1, {}) n",
        MOST_CLAIMS - 2
    );
    sqlx::query(AssertSqlSafe(fill)).execute(&db.raw).await.unwrap();
    let more = [
        asks("uid-a", 2, &manifest("a", &[("blue", 2)])),
        asks("uid-b", 1, &manifest("b", &[("blue", 1)])),
        asks("uid-c", 1, &manifest("c", &[("blue", 1)])),
    ];
    assert_eq!(db.store.source_changes(&blue, &more, &[]).await.unwrap().no_room, listed(&["c"]));
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("blue".to_owned(), 2));
    assert!(get(&db.store, "b").await.is_some());
    assert_eq!(get(&db.store, "c").await, None);
}

#[tokio::test]
async fn a_failure_of_the_source_is_kept_with_its_policies() {
    let db = database().await;
    let blue = source_of(&db, &["a"]).await;
    db.store.source_failing(&blue, Some("forbidden")).await.unwrap();
    let resource = get(&db.store, "a").await.unwrap().ownership.resource.unwrap();
    assert_eq!(resource.failing.as_deref(), Some("forbidden"));
    db.store.source_failing(&blue, None).await.unwrap();
    assert_eq!(get(&db.store, "a").await.unwrap().ownership.resource.unwrap().failing, None);
}

#[tokio::test]
async fn a_mirror_that_follows_the_claims_sees_what_one_that_reads_all_sees() {
    let db = database().await;
    let mut followed = Mirror::empty();
    let see = async |mirror: &mut Mirror| mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    see(&mut followed).await;
    let (blue, green) = (session(&db.store, "blue").await, session(&db.store, "green").await);
    let wanted = manifest("a", &[("blue", 1)]);
    let steps: [&[NewClaim]; 3] = [
        &[asks("uid-1", 1, &wanted), invalid("uid-2", 1, "b")],
        &[asks("uid-2", 2, &manifest("b", &[("blue", 1)]))],
        &[invalid("uid-1", 2, "a")],
    ];
    for step in steps {
        report(&db.store, &blue, step).await;
        assert!(see(&mut followed).await.claims);
    }
    report(&db.store, &green, &[asks("g-1", 1, &wanted)]).await;
    gone(&db.store, &blue, "a", "uid-1").await;
    let changes = see(&mut followed).await;
    assert!(changes.claims && changes.policies.contains(&key("a")), "{changes:?}");
    let mut whole = Mirror::empty();
    see(&mut whole).await;
    assert_eq!((&followed.claims, &followed.policies), (&whole.claims, &whole.policies));
    assert_eq!(followed.claims[&cluster("blue")].keys().collect::<Vec<_>>(), [&key("b")]);
    assert_eq!(owner(&followed.policies[&key("a")]), ("green".to_owned(), 1));
    assert!(see(&mut followed).await.is_empty());
}

#[tokio::test]
async fn a_claim_that_this_version_cannot_read_takes_nothing_away() {
    let db = database().await;
    let (blue, green) = (source_of(&db, &["a"]).await, session(&db.store, "green").await);
    let strange = json!({"apiVersion": "switchyard.dev/v9"});
    let later = "update policy_claims set manifest = $1 where cluster = 'blue'";
    sqlx::query(later).bind(strange).execute(&db.raw).await.unwrap();
    report(&db.store, &green, &[asks("g-1", 1, &manifest("a", &[("blue", 9)]))]).await;
    let kept = get(&db.store, "a").await.unwrap();
    assert_eq!((owner(&kept), kept.record.deleting_since), (("blue".to_owned(), 1), None));
    // Told again, it is readable again.
    report(&db.store, &blue, &[asks("uid-a", 2, &manifest("a", &[("blue", 2)]))]).await;
    assert_eq!(owner(&get(&db.store, "a").await.unwrap()), ("blue".to_owned(), 2));
}

#[tokio::test]
async fn the_schema_refuses_half_an_owner_and_a_claim_that_is_both_or_neither() {
    let db = database().await;
    source_of(&db, &["a"]).await;
    let refused = [
        ("an owner without generation", "update policies set owner_generation = null"),
        ("an owner without cluster", "update policies set owner_cluster = null"),
        ("generation 0", "update policies set owner_generation = 0"),
        ("valid and refused", "update policy_claims set refusal = 'x'"),
        ("neither", "update policy_claims set manifest = null"),
        ("a claim of no source", "update policy_claims set cluster = 'green'"),
    ];
    for (what, statement) in refused {
        let error = sqlx::query(statement).execute(&db.raw).await.expect_err(what).into_database_error().unwrap();
        assert!(error.code().unwrap().starts_with("23"), "{what}: {error}");
    }
}
