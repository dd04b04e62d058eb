//! The audit log in a real Postgres: the chain under many writers, what tampering leaves behind, refusals, what a reader may see; and
//! that neither readers of it nor logins that may only read keep anybody else waiting.

mod store_support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::future::join_all;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgPool, Row};
use store_support::{
    Db, apply, caller, cluster, database, database_url, empty_database_url, eventually, fresh, key, manifest,
};
use switchyard_core::{
    audit::{BEFORE_THE_FIRST, Broken, Verifier},
    ids::PolicyKey,
};
use switchyard_hub::store::{
    AuditFilter, AuditResult, AuditRow, LeaseAnswer, RefusedEntry, Store, StoreError, StoreOptions,
};
use uuid::Uuid;

/// Every entry, the oldest first.
async fn all(store: &Store) -> Vec<AuditRow> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.audit_page(&AuditFilter::default(), true, after, 1000).await.unwrap();
        let Some(last) = page.last() else { return seen };
        after = Some(last.id);
        seen.extend(page);
    }
}

fn verified(rows: &[AuditRow]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::from_the_first();
    for row in rows {
        verifier.take(&row.link(), &row.previous_hash, &row.hash)?;
    }
    Ok(verifier)
}

fn refused(actor: &str, message: &str) -> RefusedEntry {
    let now = Timestamp::now();
    RefusedEntry {
        actor: actor.to_owned(),
        source: "192.0.2.9".to_owned(),
        rpc: "switchyard.api.v1.PolicyService/ApplyPolicy".to_owned(),
        code: "permission_denied".to_owned(),
        message: message.to_owned(),
        request_id: String::new(),
        result: AuditResult::Refused,
        count: 3,
        first_at: now,
        last_at: now,
    }
}

/// As somebody would who has the database: the triggers are in his way, and he takes them out of it.
async fn tamper(raw: &PgPool, statement: &str) {
    let all = format!("alter table audit disable trigger user; {statement}; alter table audit enable trigger user;");
    sqlx::raw_sql(AssertSqlSafe(all)).execute(raw).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_at_once_make_one_chain_in_the_order_of_their_commits() {
    let db = database().await;
    for name in ["a", "b", "c", "d"] {
        apply(&db.store, &manifest(name, &[("blue", 1), ("green", 1)])).await;
    }
    // Policies are behind a lock of their own, refusals are not; and some writers give up between their entry and their commit.
    let writers = (0..20u32).map(|i| {
        let (store, raw) = (db.store.clone(), db.raw.clone());
        tokio::spawn(async move {
            for round in 0..10u32 {
                match i % 3 {
                    0 => {
                        let name = ["a", "b", "c", "d"][(i % 4) as usize];
                        let weights = [("green".to_owned(), 2 + i * 10 + round)];
                        store.policy_set_weights(&fresh(), &key(name), &weights, 0).await.unwrap();
                    }
                    1 => store.audit_refused(&[refused("corp:eve", "no"), refused("corp:eve", "no")]).await.unwrap(),
                    _ => {
                        let mut txn = raw.begin().await.unwrap();
                        let insert = "insert into audit (actor, action, policy, detail, reason, request_id) \
                                      values ('old', 'apply', '', '{}', '', '')";
                        sqlx::query(insert).execute(&mut *txn).await.unwrap();
                        if round % 2 == 0 { txn.rollback().await.unwrap() } else { txn.commit().await.unwrap() }
                    }
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let rows = all(&db.store).await;
    // 4 policies; 7 writers of 10 weights, of which each writes what differs; 7 of 20 refusals; 6 of 5 that commit.
    let count = |action: &str| rows.iter().filter(|row| row.action == action).count();
    assert_eq!((count("set-weights"), count("PolicyService/ApplyPolicy"), count("apply")), (70, 140, 34));
    let verifier = verified(&rows).unwrap();
    assert_eq!(verifier.count(), rows.len() as u64);
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, (1..=rows.len() as i64).collect::<Vec<_>>(), "what was rolled back leaves no gap");
    assert!(rows.is_sorted_by_key(|row| row.at));
    let head = db.store.audit_head().await.unwrap().unwrap();
    let last = rows.last().unwrap();
    assert_eq!((head.id, head.hash, head.at), (last.id, last.hash, last.at));
    assert_eq!(verifier.head(), Some((last.id as u64, last.hash)));
}

#[tokio::test]
async fn any_text_in_any_field_is_stored_as_text_and_hashed_alike_by_the_database_and_by_core() {
    let db = database().await;
    let nasty = "'); drop table audit; --\n\u{1b}[31m\t\"\\ 5:admin \u{202e}ä\u{1F680}";
    let mut who = fresh();
    who.actor = nasty.to_owned();
    who.reason = nasty.repeat(10);
    who.source = format!("{nasty}\0");
    let spec = manifest("a", &[("blue", 1)]);
    db.store.policy_apply(&who, &spec, &store_support::valid(&spec), 0).await.unwrap();
    let mut entry = refused(nasty, &nasty.repeat(1000));
    entry.rpc = format!("/{nasty}/{}", nasty.repeat(100));
    entry.request_id = nasty.to_owned();
    entry.code = nasty.to_owned();
    db.store.audit_refused(&[entry, refused("", "")]).await.unwrap();
    let rows = all(&db.store).await;
    verified(&rows).unwrap();
    assert_eq!((rows[0].actor.as_str(), rows[0].reason.as_str()), (nasty, nasty.repeat(10).as_str()));
    assert_eq!(rows[0].source, format!("{nasty}\u{fffd}"));
    assert_eq!(rows[1].actor, nasty);
    assert!(rows[1].action.chars().all(|c| c.is_ascii_alphanumeric() || "./_-?".contains(c)), "{}", rows[1].action);
    assert_eq!(rows[1].detail["message"].as_str().unwrap().chars().count(), 1024);
    assert_eq!(rows[2].actor, "unknown");
}

#[tokio::test]
async fn what_was_changed_taken_out_put_in_or_moved_is_found() {
    let db = database().await;
    for _ in 0..3 {
        db.store.audit_refused(&[refused("corp:eve", "no"), refused("corp:bob", "no")]).await.unwrap();
    }
    let whole = all(&db.store).await;
    verified(&whole).unwrap();
    let cases = [
        ("update audit set actor = 'corp:ann' where id = 3", Broken::Changed { id: 3 }),
        ("update audit set at = at + interval '1 microsecond' where id = 4", Broken::Changed { id: 4 }),
        ("update audit set detail = jsonb_set(detail, '{count}', '4') where id = 2", Broken::Changed { id: 2 }),
        ("update audit set result = 'done' where id = 6", Broken::Changed { id: 6 }),
        ("update audit set source = '' where id = 1", Broken::Changed { id: 1 }),
        ("delete from audit where id = 3", Broken::NotNext { id: 4, after: 2 }),
        ("delete from audit where id = 1", Broken::NotNext { id: 2, after: 0 }),
        (
            "alter table audit alter column id set generated by default; update audit set id = 100 where id = 2; \
             update audit set id = 2 where id = 3; update audit set id = 3 where id = 100",
            Broken::NotNext { id: 2, after: 1 },
        ),
        // Whoever makes the hash of a changed entry anew breaks the next link.
        (
            "update audit a set actor = 'corp:ann' where id = 3; update audit a set hash = audit_hash(a) where id = 3",
            Broken::NotNext { id: 4, after: 3 },
        ),
    ];
    for (statement, expected) in cases {
        let copy = database().await;
        sqlx::query("alter table audit disable trigger user").execute(&copy.raw).await.unwrap();
        for row in &whole {
            let insert =
                "insert into audit overriding system value select * from jsonb_populate_record(null::audit, $1)";
            sqlx::query(insert).bind(sqlx::types::Json(raw_row(&db, row.id).await)).execute(&copy.raw).await.unwrap();
        }
        verified(&all(&copy.store).await).unwrap();
        tamper(&copy.raw, statement).await;
        assert_eq!(verified(&all(&copy.store).await).unwrap_err(), expected, "{statement}");
    }
    // Cutting off the newest end leaves a chain: that is what the head is kept elsewhere for.
    let head = db.store.audit_head().await.unwrap().unwrap();
    tamper(&db.raw, "delete from audit where id = 6").await;
    let verifier = verified(&all(&db.store).await).unwrap();
    assert_ne!(verifier.head(), Some((head.id as u64, head.hash)));
}

async fn raw_row(db: &Db, id: i64) -> serde_json::Value {
    let read = "select to_jsonb(a) from audit a where id = $1";
    sqlx::query_scalar(read).bind(id).fetch_one(&db.raw).await.unwrap()
}

#[tokio::test]
async fn a_writer_cannot_choose_its_id_its_time_or_its_place() {
    let db = database().await;
    let insert = "insert into audit (id, at, actor, action, policy, detail, reason, request_id, previous_hash, hash) \
                  overriding system value values (77, '2000-01-01', 'a', 'apply', '', '{}', '', '', $1, $1)";
    for _ in 0..2 {
        sqlx::query(insert).bind(vec![7u8; 32]).execute(&db.raw).await.unwrap();
    }
    let rows = all(&db.store).await;
    assert_eq!(verified(&rows).unwrap().count(), 2);
    assert_eq!((rows[0].id, rows[1].id, rows[0].previous_hash), (1, 2, BEFORE_THE_FIRST));
    assert!(rows[0].at > "2026-01-01T00:00:00Z".parse().unwrap());
    // Even with the triggers out of the way there is one successor for each entry.
    let fork = "alter table audit disable trigger audit_chain; \
                insert into audit (id, at, actor, action, policy, detail, reason, request_id, previous_hash, hash) \
                overriding system value select 99, at, actor, action, policy, detail, reason, request_id, previous_hash, hash from audit where id = 2";
    let error = sqlx::raw_sql(fork).execute(&db.raw).await.unwrap_err();
    assert!(error.to_string().contains("audit_has_no_fork"), "{error}");
}

#[tokio::test]
async fn entries_from_before_are_chained_by_the_migration_and_an_older_replica_goes_on_writing() {
    let url = empty_database_url().await;
    let raw = PgPool::connect(&url).await.unwrap();
    // As the version before left it: its migrations, and entries with gaps between their ids.
    let mut before = sqlx::migrate!("../migrations");
    before.migrations.to_mut().retain(|migration| migration.version < 7);
    before.run(&raw).await.unwrap();
    let insert = "insert into audit (at, actor, action, policy, shift_id, detail, reason, request_id) \
                  values (clock_timestamp(), $1, 'apply', 'shop/a', $2, '{\"b\": 1, \"a\": [1.50, \"ä\"]}', '', 'r')";
    for i in 0..50 {
        let shift = (i % 2 == 0).then_some("s");
        let mut txn = raw.begin().await.unwrap();
        sqlx::query(insert).bind(format!("actor {i}")).bind(shift).execute(&mut *txn).await.unwrap();
        if i % 7 == 3 { txn.rollback().await.unwrap() } else { txn.commit().await.unwrap() }
    }
    let store = Store::connect(&url, StoreOptions::default()).await.unwrap();
    let rows = all(&store).await;
    assert_eq!(rows.len(), 43);
    assert_eq!(verified(&rows).unwrap().count(), 43);
    assert!(rows.iter().all(|row| row.result == AuditResult::Done && row.source.is_empty()));
    assert_eq!(rows[0].detail_text, "{\"a\": [1.50, \"ä\"], \"b\": 1}");
    // The statement of the version before.
    sqlx::query(insert).bind("an older replica").bind("s").execute(&raw).await.unwrap();
    let rows = all(&store).await;
    assert_eq!(verified(&rows).unwrap().count(), 44);
    assert_eq!(rows[43].id, rows[42].id + 1);
    let error = sqlx::query("update audit set actor = 'x'").execute(&raw).await.unwrap_err().to_string();
    assert!(error.contains("only grows"), "{error}");
}

#[tokio::test]
async fn a_reader_sees_the_entries_of_his_namespaces_and_filters_by_result() {
    let db = database().await;
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    let mut other = manifest("b", &[("blue", 1)]);
    other.metadata.namespace = "other".parse().unwrap();
    apply(&db.store, &other).await;
    let mut failed = refused("corp:eve", "taken");
    failed.result = AuditResult::Failed;
    db.store.audit_refused(&[refused("corp:eve", "no"), failed]).await.unwrap();
    let of = |filter: AuditFilter| {
        let store = db.store.clone();
        async move {
            let page = store.audit_page(&filter, true, None, 1000).await.unwrap();
            page.into_iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    let visible = |names: &[&str]| {
        let visible: BTreeSet<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        AuditFilter { visible: Some(visible), ..AuditFilter::default() }
    };
    assert_eq!(of(AuditFilter::default()).await, [1, 2, 3, 4]);
    assert_eq!(of(visible(&["shop"])).await, [1]);
    assert_eq!(of(visible(&["shop", "other", "third"])).await, [1, 2]);
    assert_eq!(of(visible(&[])).await, [0i64; 0]);
    let both = AuditFilter { namespace: Some("other".parse().unwrap()), ..visible(&["shop"]) };
    assert_eq!(of(both).await, [0i64; 0]);
    let policy = Some(PolicyKey::new("other", "b").unwrap());
    assert_eq!(of(AuditFilter { policy: policy.clone(), ..visible(&["shop"]) }).await, [0i64; 0]);
    assert_eq!(of(AuditFilter { policy, ..visible(&["other"]) }).await, [2]);
    assert_eq!(of(AuditFilter { above: Some(1), ..visible(&["shop", "other"]) }).await, [2]);
    assert_eq!(of(AuditFilter { above: Some(2), ..AuditFilter::default() }).await, [3, 4]);
    let result = |result| AuditFilter { result: Some(result), ..AuditFilter::default() };
    assert_eq!(of(result(AuditResult::Done)).await, [1, 2]);
    assert_eq!(of(result(AuditResult::Refused)).await, [3]);
    assert_eq!(of(result(AuditResult::Failed)).await, [4]);
    let row = &db.store.audit_page(&result(AuditResult::Refused), true, None, 1).await.unwrap()[0];
    assert_eq!((row.actor.as_str(), row.source.as_str()), ("corp:eve", "192.0.2.9"));
    assert_eq!((row.detail["count"].as_u64(), row.detail["code"].as_str()), (Some(3), Some("permission_denied")));
}

#[tokio::test]
async fn changes_are_logged_with_where_they_came_from() {
    let db = database().await;
    assert_eq!(db.store.audit_head().await.unwrap(), None);
    let spec = manifest("a", &[("blue", 1), ("green", 0)]);
    apply(&db.store, &spec).await;
    db.store.policy_set_weights(&fresh(), &key("a"), &[("green".to_owned(), 5)], 0).await.unwrap();
    db.store.policy_mark_deleting(&caller("delete-1"), &key("a"), 0).await.unwrap();
    let rows = all(&db.store).await;
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.source == "192.0.2.7" && row.result == AuditResult::Done), "{rows:?}");
}

/// The cost of the chain for one insert, in the database alone; `cargo test -- --nocapture` shows it.
#[tokio::test]
async fn the_chain_costs_well_below_a_millisecond_an_entry() {
    let db = database().await;
    let many = "insert into audit (actor, action, policy, detail, reason, request_id) \
                select 'a', 'set-weights', 'shop/a', jsonb_build_object('from', i, 'to', repeat('x', 500)), 'r', 'r' \
                from generate_series(1, 2000) i";
    let mut took = Vec::new();
    for _ in 0..3 {
        let explained = format!("explain (analyze, format json) {many}");
        let plan: sqlx::types::Json<serde_json::Value> =
            sqlx::query(AssertSqlSafe(explained)).fetch_one(&db.raw).await.unwrap().get(0);
        let triggers = plan.0[0]["Triggers"].as_array().unwrap();
        let chain = triggers.iter().find(|trigger| trigger["Trigger Name"] == "audit_chain").unwrap();
        took.push(chain["Time"].as_f64().unwrap() / 2000.0);
    }
    let best = took.iter().copied().fold(f64::INFINITY, f64::min);
    println!("the chain costs {best:.4} ms for an entry");
    assert!(best < 1.0, "{took:?} ms");
    verified(&all(&db.store).await).unwrap();
}

/// How many statements of this database wait for a lock.
async fn waiting(raw: &PgPool) -> i64 {
    let read = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    sqlx::query_scalar(read).fetch_one(raw).await.unwrap()
}

#[tokio::test]
async fn readers_of_the_log_keep_neither_the_lease_nor_heartbeats_nor_the_book_of_access_waiting() {
    let url = database_url().await;
    let raw = PgPool::connect(&url).await.unwrap();
    let options = StoreOptions {
        list_timeout: Duration::from_millis(500),
        acquire_timeout: Duration::from_secs(2),
        ..StoreOptions::default()
    };
    let store = Store::connect(&url, options).await.unwrap();
    // Whoever reads the log waits for this, as for a million entries that are none of his.
    let mut lock = raw.begin().await.unwrap();
    sqlx::query("lock table audit in access exclusive mode").execute(&mut *lock).await.unwrap();
    let readers: Vec<_> = (0..40)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.audit_page(&AuditFilter::default(), false, None, 10).await })
        })
        .collect();
    eventually("two readers", async || (waiting(&raw).await == 2).then_some(())).await;
    // Calls that are given up leave their statements behind.
    readers.iter().take(20).for_each(|reader| reader.abort());
    let (holder, started) = (Uuid::new_v4(), Instant::now());
    for _ in 0..5 {
        let answer = store.lease_acquire("aws:1:eu", holder, Duration::from_secs(15)).await.unwrap();
        assert!(matches!(answer, LeaseAnswer::Held { .. }), "{answer:?}");
        store.session_heartbeat(&[(Uuid::new_v4(), cluster("blue"))]).await.unwrap();
        store.access_book().await.unwrap();
        store.ping().await.unwrap();
        assert!(waiting(&raw).await <= 2, "no more than two at a time");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let (mut too_long, mut busy) = (0, 0);
    for reader in readers.into_iter().skip(20) {
        match reader.await.unwrap() {
            Err(StoreError::ListTooLong { limit, .. }) if limit == Duration::from_millis(500) => too_long += 1,
            Err(StoreError::ListsBusy { .. }) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(too_long > 0 && busy > 0, "{too_long} {busy}");
    lock.rollback().await.unwrap();
    assert_eq!(store.audit_page(&AuditFilter::default(), false, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_reader_of_one_namespace_who_finds_nothing_does_not_make_the_database_read_the_log() {
    let db = database().await;
    let many = "insert into audit (actor, action, policy, detail, reason, request_id, result) \
                select 'corp:' || i % 5, 'set-weights', case when i % 2 = 0 then 'shop/a' else '' end, '{}', '', '', \
                case when i % 2 = 0 then 'done' else 'refused' end from generate_series(1, 8000) i";
    sqlx::query(many).execute(&db.raw).await.unwrap();
    sqlx::query("analyze audit").execute(&db.raw).await.unwrap();
    let visible = || Some(BTreeSet::from(["shop".parse().unwrap(), "rare".parse().unwrap()]));
    let refused = AuditFilter { result: Some(AuditResult::Refused), visible: visible(), ..AuditFilter::default() };
    let nobody = AuditFilter { actor: Some("corp:nobody".to_owned()), visible: visible(), ..AuditFilter::default() };
    let past = AuditFilter {
        before: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        visible: visible(),
        ..AuditFilter::default()
    };
    for filter in [refused, nobody, past] {
        let before = read_of_the_log(&db.raw).await;
        let reader = Store::connect(&db.url, StoreOptions::default()).await.unwrap();
        for oldest_first in [true, false] {
            assert_eq!(reader.audit_page(&filter, oldest_first, None, 50).await.unwrap(), []);
        }
        // Postgres counts what a connection read when it ends.
        reader.close().await;
        let after = eventually("the count", async || {
            let after = read_of_the_log(&db.raw).await;
            (after.0 > before.0).then_some(after)
        });
        let read = after.await.1 - before.1;
        assert!(read < 100, "{read} entries were read for {filter:?}");
    }
}

/// How often the log was looked into, and how many entries were read for it.
async fn read_of_the_log(raw: &PgPool) -> (i64, i64) {
    let read = "select seq_scan + coalesce(idx_scan, 0), seq_tup_read + coalesce(idx_tup_fetch, 0) \
                from pg_stat_user_tables where relname = 'audit'";
    sqlx::query_as(read).fetch_one(raw).await.unwrap()
}

/// As the driver of the migrations numbers its lock: CRC-32 of the database's name, times a number of its own.
async fn lock_of_migrations(raw: &PgPool) -> i64 {
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(raw).await.unwrap();
    let crc = name.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    0x3d32_ad9e * i64::from(!crc)
}

#[tokio::test]
async fn a_login_that_may_only_read_stops_neither_changes_nor_certificates_nor_the_start_of_a_hub() {
    let db = database().await;
    let role = format!("reader_{}", Uuid::new_v4().simple());
    let made = format!("create role {role}; grant pg_read_all_data to {role};");
    sqlx::raw_sql(AssertSqlSafe(made)).execute(&db.raw).await.unwrap();
    let mut reader = db.raw.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("set role {role}"))).execute(&mut *reader).await.unwrap();
    // Every advisory lock that changes ever waited for: that of the log, those of clusters, and that of the migrations.
    let locks =
        "select pg_advisory_lock(418581342580), pg_advisory_lock(1633903461, hashtext('blue')), pg_advisory_lock($1)";
    sqlx::query(locks).bind(lock_of_migrations(&db.raw).await).execute(&mut *reader).await.unwrap();
    // What they wait for now cannot be had with the right to read.
    for table in ["audit_turn", "cluster_turns", "access_version"] {
        for statement in [
            format!("select from {table} for update"),
            format!("select from {table} for key share"),
            format!("lock table {table} in row exclusive mode"),
        ] {
            let tried = sqlx::raw_sql(AssertSqlSafe(format!("begin; {statement}"))).execute(&mut *reader).await;
            assert_eq!(tried.unwrap_err().as_database_error().unwrap().code().as_deref(), Some("42501"), "{statement}");
            sqlx::raw_sql("rollback").execute(&mut *reader).await.unwrap();
        }
    }
    sqlx::raw_sql("begin; select from audit_turn; select from audit; select from cluster_turns")
        .execute(&mut *reader)
        .await
        .unwrap();
    let started = Instant::now();
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    db.store.audit_refused(&[refused("corp:eve", "no")]).await.unwrap();
    db.store.certificates_revoke(&fresh(), &cluster("blue"), None).await.unwrap();
    let again = Store::connect(&db.url, StoreOptions::default()).await.unwrap();
    assert_eq!(verified(&all(&again).await).unwrap().count(), 3);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(reader.detach());
    let gone = format!("revoke pg_read_all_data from {role}; drop role {role};");
    sqlx::raw_sql(AssertSqlSafe(gone)).execute(&db.raw).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_says_nothing_more_after_its_entry_is_ended_and_the_others_go_on() {
    let db = database().await;
    let mut dead = db.raw.begin().await.unwrap();
    let insert = "insert into audit (actor, action, policy, detail, reason, request_id) values ('dead', 'apply', '', '{}', '', '')";
    sqlx::query(insert).execute(&mut *dead).await.unwrap();
    let started = Instant::now();
    apply(&db.store, &manifest("a", &[("blue", 1)])).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(dead.commit().await.is_err(), "what was ended is not committed");
    let rows = all(&db.store).await;
    assert_eq!(rows.iter().map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["someone@example.com"]);
    verified(&rows).unwrap();
}

#[tokio::test]
async fn a_writer_under_the_lock_of_before_and_the_migration_wait_for_each_other() {
    let url = empty_database_url().await;
    let raw = PgPool::connect(&url).await.unwrap();
    let mut before = sqlx::migrate!("../migrations");
    before.migrations.to_mut().retain(|migration| migration.version < 8);
    before.run(&raw).await.unwrap();
    let insert =
        "insert into audit (actor, action, policy, detail, reason, request_id) values ($1, 'apply', '', '{}', '', '')";
    sqlx::query(insert).bind("first").execute(&raw).await.unwrap();
    let mut old = raw.begin().await.unwrap();
    sqlx::query(insert).bind("old").execute(&mut *old).await.unwrap();
    let meanwhile = async {
        eventually("the migration waits", async || (waiting(&raw).await == 1).then_some(())).await;
        let writes = raw.clone();
        let new = tokio::spawn(async move { sqlx::query(insert).bind("new").execute(&writes).await });
        eventually("a writer waits behind it", async || (waiting(&raw).await == 2).then_some(())).await;
        old.commit().await.unwrap();
        new.await.unwrap().unwrap();
    };
    let (store, ()) = tokio::join!(Store::connect(&url, StoreOptions::default()), meanwhile);
    let store = store.unwrap();
    let rows = all(&store).await;
    verified(&rows).unwrap();
    assert_eq!(rows.iter().map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["first", "old", "new"]);
}
