//! Gating switches, and the audit log page by page.

mod store_support;

use std::collections::BTreeSet;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use store_support::{
    NEVER_STALE, apply, caller, database, fresh, key, manifest,
    shifts::{create, flip},
    valid,
};
use switchyard_core::{ids::SwitchName, shift::machine::Command};
use switchyard_hub::store::{
    AuditFilter, AuditRow, Caller, MOST_SWITCHES, Mirror, ShiftError, Store, StoredSwitch, SwitchError,
};

fn name(text: &str) -> SwitchName {
    text.parse().unwrap()
}

fn patterns(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn set(store: &Store, text: &str, covers: &[&str], on: bool, version: u64) -> Result<StoredSwitch, SwitchError> {
    store.switch_set(&fresh(), &name(text), Some(&patterns(covers)), on, version).await
}

async fn page(store: &Store, filter: &AuditFilter) -> Vec<AuditRow> {
    store.audit_page(filter, true, None, 1000).await.unwrap()
}

#[tokio::test]
async fn a_switch_is_made_changed_kept_and_removed() {
    let db = database().await;
    let made = set(&db.store, "night", &["shop/*", "*/checkout"], false, 0).await.unwrap();
    assert_eq!((made.version, made.switch.on, made.actor.as_str()), (1, false, "someone@example.com"));
    assert_eq!((made.switch.reason.as_str(), made.switch.policies.len()), ("a test", 2));
    let same = set(&db.store, "night", &["shop/*", "*/checkout"], false, 1).await.unwrap();
    assert_eq!(same, made, "what is so already changes nothing");
    let on = db.store.switch_set(&fresh(), &name("night"), None, true, 1).await.unwrap();
    assert_eq!((on.version, on.switch.on, &on.switch.policies), (2, true, &made.switch.policies));
    assert!(on.changed_at >= made.changed_at);
    let other = set(&db.store, "all", &["*/*"], true, 0).await.unwrap();
    assert_eq!(db.store.switches_all().await.unwrap(), [other.clone(), on]);

    db.store.switch_delete(&fresh(), &name("night"), 2).await.unwrap();
    assert_eq!(db.store.switches_all().await.unwrap(), [other]);
    let rows = page(&db.store, &AuditFilter::default()).await;
    let words: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(words, ["set-switch", "set-switch", "set-switch", "delete-switch"]);
    assert!(rows.iter().all(|row| row.policy.is_empty() && row.shift.is_none()), "{rows:?}");
    assert_eq!(rows[1].detail["old"]["on"], false);
    assert_eq!(rows[1].detail["new"]["on"], true);
}

#[tokio::test]
async fn a_switch_answers_the_same_request_once_and_refuses_what_is_stale_missing_or_wrong() {
    let db = database().await;
    let who = caller("once");
    let calls = (0..20).map(|_| {
        let (store, who) = (db.store.clone(), who.clone());
        tokio::spawn(
            async move { store.switch_set(&who, &name("a"), Some(&patterns(&["x/*"])), false, 0).await.unwrap() },
        )
    });
    let answers: Vec<StoredSwitch> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(db.store.switches_all().await.unwrap()[0].version, 1);
    let error = db.store.switch_set(&who, &name("a"), None, true, 0).await.unwrap_err();
    assert!(matches!(error, SwitchError::RequestReused { .. }), "{error:?}");

    let error = set(&db.store, "a", &["x/*"], true, 9).await.unwrap_err();
    assert!(matches!(error, SwitchError::VersionConflict { expected: 9, present: 1, .. }), "{error:?}");
    let error = set(&db.store, "b", &["x/*"], true, 9).await.unwrap_err();
    assert!(matches!(error, SwitchError::VersionConflict { expected: 9, present: 0, .. }), "{error:?}");
    let error = db.store.switch_set(&fresh(), &name("b"), None, true, 0).await.unwrap_err();
    assert!(matches!(&error, SwitchError::Invalid { violations } if violations[0].field == "policies"), "{error:?}");
    for wrong in [&["x"][..], &[], &["x/y", "x/y"], &["X/*"]] {
        let error = set(&db.store, "b", wrong, true, 0).await.unwrap_err();
        assert!(matches!(error, SwitchError::Invalid { .. }), "{wrong:?}: {error:?}");
    }
    let error = db.store.switch_delete(&fresh(), &name("b"), 0).await.unwrap_err();
    assert!(matches!(&error, SwitchError::NotFound(missing) if *missing == name("b")), "{error:?}");
    let who = caller("away");
    db.store.switch_delete(&who, &name("a"), 1).await.unwrap();
    db.store.switch_delete(&who, &name("a"), 1).await.expect("the first answer again");
}

#[tokio::test]
async fn there_are_only_so_many_switches() {
    let db = database().await;
    let many = "insert into gating_switches (name, version, doc, actor, changed_at, change) \
                select 's' || n, 1, jsonb_build_object('name', 's' || n, 'policies', '[\"*/*\"]'::jsonb, 'on', true, 'reason', ''), \
                'me', now(), 1 from generate_series(1, $1) as n";
    sqlx::query(many).bind(i32::try_from(MOST_SWITCHES).unwrap()).execute(&db.raw).await.unwrap();
    let error = set(&db.store, "one-more", &["x/*"], true, 0).await.unwrap_err();
    assert!(matches!(&error, SwitchError::Invalid { violations } if violations[0].field == "name"), "{error:?}");
    set(&db.store, "s1", &["x/*"], false, 0).await.expect("a present one can be changed");
}

#[tokio::test]
async fn a_switch_that_a_newer_version_wrote_counts_as_off_for_every_policy() {
    let db = database().await;
    let weights = [("blue", 100), ("green", 0)];
    apply(&db.store, &manifest("a", &weights)).await;
    set(&db.store, "night", &["billing/*"], true, 0).await.unwrap();
    create(&db.store, &flip(&["a"], "green")).await.map(|_| ()).unwrap();
    let later = "update gating_switches set doc = '{\"name\": \"night\", \"rule\": 7}'; update policy_changes set shifts = shifts + 1";
    sqlx::raw_sql(later).execute(&db.raw).await.unwrap();
    let read = db.store.switches_all().await.unwrap();
    assert_eq!((read[0].switch.on, read[0].switch.covers(&key("a"))), (false, true));
    apply(&db.store, &manifest("b", &weights)).await;
    let error = create(&db.store, &flip(&["b"], "green")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::Held { .. }), "{error:?}");
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    assert_eq!(mirror.switches, read);
}

fn ids(rows: &[AuditRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn the_audit_log_is_read_page_by_page_in_both_directions_with_every_filter() {
    let db = database().await;
    let weights = [("blue", 100), ("green", 0)];
    apply(&db.store, &manifest("a", &weights)).await;
    let mut billing = manifest("a", &weights);
    billing.metadata.namespace = "billing".to_owned();
    let other = Caller { actor: "other@example.com".to_owned(), ..fresh() };
    db.store.policy_apply(&other, &billing, &valid(&billing), 0).await.unwrap();
    let shift = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    db.store.shift_command(&fresh(), &shift.id, &Command::Abort).await.unwrap();
    db.store.policy_set_weights(&fresh(), &key("a"), &[("green".to_owned(), 7)], 0).await.unwrap();
    set(&db.store, "night", &["shop/*"], true, 0).await.unwrap();

    let all = page(&db.store, &AuditFilter::default()).await;
    assert_eq!(all.len(), 6);
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].at <= pair[1].at));
    let of = |wanted: &[usize]| wanted.iter().map(|i| all[*i].id).collect::<Vec<_>>();
    let filters = [
        (AuditFilter { namespace: Some("shop".parse().unwrap()), ..AuditFilter::default() }, of(&[0, 2, 3, 4])),
        (AuditFilter { policy: Some(key("a")), ..AuditFilter::default() }, of(&[0, 2, 3, 4])),
        (AuditFilter { shift: Some(shift.id.clone()), ..AuditFilter::default() }, of(&[2, 3])),
        (AuditFilter { actor: Some("other@example.com".to_owned()), ..AuditFilter::default() }, of(&[1])),
        (AuditFilter { since: Some(all[3].at), ..AuditFilter::default() }, of(&[3, 4, 5])),
        (AuditFilter { before: Some(all[3].at), ..AuditFilter::default() }, of(&[0, 1, 2])),
        (
            AuditFilter { before: Some(Timestamp::now() - SignedDuration::from_hours(1)), ..AuditFilter::default() },
            vec![],
        ),
        (
            AuditFilter {
                since: Some(all[1].at),
                before: Some(all[5].at),
                policy: Some(key("a")),
                ..AuditFilter::default()
            },
            of(&[2, 3, 4]),
        ),
    ];
    for (filter, expected) in filters {
        assert_eq!(ids(&page(&db.store, &filter).await), expected, "{filter:?}");
        let mut newest_first = db.store.audit_page(&filter, false, None, 1000).await.unwrap();
        newest_first.reverse();
        assert_eq!(ids(&newest_first), expected, "{filter:?}");
    }
    for oldest_first in [true, false] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let rows = db.store.audit_page(&AuditFilter::default(), oldest_first, after, 4).await.unwrap();
            let Some(last) = rows.last() else { break };
            after = Some(last.id);
            seen.extend(ids(&rows));
        }
        let unique: BTreeSet<i64> = seen.iter().copied().collect();
        assert_eq!((seen.len(), unique), (6, ids(&all).into_iter().collect()));
        assert_eq!(seen.is_sorted(), oldest_first);
    }
    let set_weights = &all[4];
    assert_eq!(set_weights.from_weights()["green"], 0);
    assert_eq!(set_weights.to_weights()["green"], 7);
    assert_eq!(
        (all[0].from_weights().len(), all[0].to_weights()["blue"]),
        (0, 100),
        "a new policy has no weights before"
    );
}
