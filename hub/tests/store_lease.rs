//! Leases and the intents under them.

mod store_support;

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use store_support::{Db, SCOPE, database, eventually, expire_leases, key};
use switchyard_core::{
    ids::Epoch,
    plan::step::{Action, GroupRef, Step},
};
use switchyard_hub::store::{FencedError, LeaseAnswer, Retention, Store, StoreOptions};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(600);
const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);

fn step() -> Step {
    Step {
        policy: key("a"),
        action: Action::DeleteTargetGroup { group: GroupRef { name: "sy-1".to_owned(), arn: None } },
        why: "a test".to_owned(),
    }
}

async fn acquire(db: &Db, holder: Uuid, ttl: Duration) -> LeaseAnswer {
    db.store.lease_acquire(SCOPE, holder, ttl).await.unwrap()
}

fn epoch_of(answer: LeaseAnswer) -> Epoch {
    match answer {
        LeaseAnswer::Held { epoch, .. } => epoch,
        LeaseAnswer::HeldByOther { .. } => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_and_renewing_keeps_the_epoch() {
    let db = database().await;
    assert_eq!(db.store.lease_current(SCOPE).await.unwrap(), None);
    let LeaseAnswer::Held { epoch, remaining, .. } = acquire(&db, A, LONG).await else {
        panic!("not held");
    };
    assert_eq!(epoch, Epoch(1));
    assert!(remaining > LONG / 2 && remaining <= LONG, "{remaining:?}");
    let LeaseAnswer::HeldByOther { holder, epoch, remaining } = acquire(&db, B, LONG).await else {
        panic!("two holders");
    };
    assert_eq!((holder, epoch), (A, Epoch(1)));
    assert!(remaining > LONG / 2, "{remaining:?}");
    assert_eq!(epoch_of(acquire(&db, A, LONG).await), Epoch(1));
    assert_eq!(db.store.lease_current(SCOPE).await.unwrap(), Some(Epoch(1)));
    let other = db.store.lease_acquire("aws:2:eu", B, LONG).await.unwrap();
    assert_eq!(epoch_of(other), Epoch(1), "scopes do not touch each other");
}

#[tokio::test]
async fn an_expired_lease_goes_to_the_next_under_the_next_epoch_and_never_back_to_the_old_one() {
    let db = database().await;
    assert_eq!(epoch_of(acquire(&db, A, LONG).await), Epoch(1));
    expire_leases(&db.raw).await;
    assert_eq!(db.store.lease_current(SCOPE).await.unwrap(), None);
    assert_eq!(epoch_of(acquire(&db, B, LONG).await), Epoch(2));
    assert!(matches!(acquire(&db, A, LONG).await, LeaseAnswer::HeldByOther { holder: B, epoch: Epoch(2), .. }));
    expire_leases(&db.raw).await;
    assert_eq!(epoch_of(acquire(&db, A, LONG).await), Epoch(3));
    expire_leases(&db.raw).await;
    assert_eq!(epoch_of(acquire(&db, A, LONG).await), Epoch(3), "nobody was in between");
}

#[tokio::test]
async fn a_lease_runs_out_by_itself() {
    let db = database().await;
    acquire(&db, A, Duration::from_millis(50)).await;
    let taken = eventually("the lease's end", async || match acquire(&db, B, LONG).await {
        LeaseAnswer::Held { epoch, .. } => Some(epoch),
        LeaseAnswer::HeldByOther { .. } => None,
    });
    assert_eq!(taken.await, Epoch(2));
}

/// Puts the database's clock ahead for every connection that is opened from now on.
async fn clock_ahead(db: &Db, by: &str) {
    let statements = format!(
        "create or replace function public.clock_timestamp() returns timestamptz volatile language sql \
         as $$ select pg_catalog.clock_timestamp() + interval '{by}' $$; \
         do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&db.raw).await.unwrap();
}

#[tokio::test]
async fn a_held_lease_tells_the_time_of_the_databases_clock_and_not_of_the_hubs() {
    async fn at(store: &Store) -> Timestamp {
        match store.lease_acquire(SCOPE, A, LONG).await.unwrap() {
            LeaseAnswer::Held { at, .. } => at,
            answer @ LeaseAnswer::HeldByOther { .. } => panic!("{answer:?}"),
        }
    }
    let db = database().await;
    let first = at(&db.store).await;
    let second = at(&db.store).await;
    assert!(second > first && second < first + SignedDuration::from_mins(30), "{first} {second}");
    clock_ahead(&db, "1 hour").await;
    let moved = Store::connect(&db.url, StoreOptions::default()).await.unwrap();
    let ahead = at(&moved).await;
    assert!(ahead >= second + SignedDuration::from_hours(1), "{second} {ahead}");
    clock_ahead(&db, "0 hours").await;
    let back = at(&moved).await;
    assert!(back > second && back < ahead, "a clock that is set back is told as it is: {second} {back} {ahead}");
}

#[tokio::test]
async fn of_many_who_want_a_lease_at_once_one_gets_it() {
    let db = database().await;
    for round in 1..=5 {
        let answers = join_all((0..20).map(|i| db.store.lease_acquire(SCOPE, Uuid::from_u128(100 + i), LONG))).await;
        let held = answers.into_iter().filter_map(|answer| match answer.unwrap() {
            LeaseAnswer::Held { epoch, .. } => Some(epoch),
            LeaseAnswer::HeldByOther { .. } => None,
        });
        let held: Vec<Epoch> = held.collect();
        assert_eq!(held.len(), 1, "{held:?}");
        assert!(held[0] <= Epoch(round));
        expire_leases(&db.raw).await;
    }
}

#[tokio::test]
async fn only_the_holder_releases_and_the_epoch_outlives_the_release() {
    let db = database().await;
    acquire(&db, A, LONG).await;
    assert!(!db.store.lease_release(SCOPE, B).await.unwrap());
    assert_eq!(db.store.lease_current(SCOPE).await.unwrap(), Some(Epoch(1)));
    assert!(db.store.lease_release(SCOPE, A).await.unwrap());
    assert!(!db.store.lease_release(SCOPE, A).await.unwrap());
    assert_eq!(epoch_of(acquire(&db, B, LONG).await), Epoch(2));
}

#[tokio::test]
async fn an_epoch_is_lifted_by_its_holder_and_never_lowered() {
    let db = database().await;
    acquire(&db, A, LONG).await;
    assert_eq!(db.store.lease_raise_epoch(SCOPE, B, Epoch(9)).await.unwrap(), None);
    assert_eq!(db.store.lease_raise_epoch(SCOPE, A, Epoch(9)).await.unwrap(), Some(Epoch(9)));
    assert_eq!(db.store.lease_raise_epoch(SCOPE, A, Epoch(4)).await.unwrap(), Some(Epoch(9)));
    assert_eq!(epoch_of(acquire(&db, A, LONG).await), Epoch(9));
    expire_leases(&db.raw).await;
    assert_eq!(db.store.lease_raise_epoch(SCOPE, A, Epoch(10)).await.unwrap(), None);
    assert_eq!(epoch_of(acquire(&db, B, LONG).await), Epoch(10));
}

#[tokio::test]
async fn an_intent_is_recorded_under_the_present_epoch_only() {
    let db = database().await;
    let nobody = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap_err();
    assert!(matches!(nobody, FencedError::EpochPassed { present: None, .. }), "{nobody:?}");
    acquire(&db, A, LONG).await;
    let first = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap();
    expire_leases(&db.raw).await;
    let expired = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap_err();
    assert!(matches!(expired, FencedError::Expired { .. }), "{expired:?}");
    acquire(&db, B, LONG).await;
    let passed = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap_err();
    assert!(matches!(passed, FencedError::EpochPassed { present: Some(Epoch(2)), .. }), "{passed:?}");
    let second = db.store.intent_open(SCOPE, Epoch(2), &step()).await.unwrap();
    assert!(second > first);
}

#[tokio::test]
async fn the_next_holder_finds_what_has_no_outcome() {
    let db = database().await;
    acquire(&db, A, LONG).await;
    let done = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap();
    let lost = db.store.intent_open(SCOPE, Epoch(1), &step()).await.unwrap();
    assert!(db.store.intent_close(done, "done", "").await.unwrap());
    assert!(!db.store.intent_close(done, "refused", "late").await.unwrap(), "the first outcome stays");
    let open = db.store.intents_open(SCOPE, Epoch(2)).await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].id, open[0].epoch, open[0].step.clone()), (lost, Epoch(1), Some(step())));
    assert_eq!(open[0].operation, "DeleteTargetGroup");
    assert!(db.store.intents_open(SCOPE, Epoch(0)).await.unwrap().is_empty());
    assert!(db.store.intents_open("aws:2:eu", Epoch(2)).await.unwrap().is_empty());

    let keep = Retention { intents: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&keep).await.unwrap().intents, 1, "open ones stay");
    assert_eq!(db.store.intents_open(SCOPE, Epoch(2)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_intent_waits_for_a_take_over_that_is_under_way_and_then_is_refused() {
    let db = database().await;
    acquire(&db, A, LONG).await;
    let mut other = db.raw.begin().await.unwrap();
    sqlx::query("update leases set holder = $1, epoch = epoch + 1").bind(B).execute(&mut *other).await.unwrap();
    let store = db.store.clone();
    let intent = tokio::spawn(async move { store.intent_open(SCOPE, Epoch(1), &step()).await });
    eventually("the intent's wait for the lock", async || {
        let waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%into intents%' \
                       and datname = current_database()";
        sqlx::query(waiting).fetch_optional(&db.raw).await.unwrap()
    })
    .await;
    other.commit().await.unwrap();
    let error = intent.await.unwrap().unwrap_err();
    assert!(matches!(error, FencedError::EpochPassed { present: Some(Epoch(2)), .. }), "{error:?}");
}
