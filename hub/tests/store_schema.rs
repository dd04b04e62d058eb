//! What the schema itself refuses, and that migrations may be run again.

mod store_support;

use sqlx::{AssertSqlSafe, PgPool, Row};
use store_support::{database, empty_database_url};
use switchyard_core::ids::HubId;
use switchyard_hub::store::{Store, StoreError, StoreOptions};

/// Tables, columns, constraints, indexes, triggers, as one text.
async fn schema(pool: &PgPool) -> Vec<String> {
    let statement = "select 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || \
                     coalesce(column_default, '') as line from information_schema.columns where table_schema = 'public' \
                     union all select 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) \
                     from pg_constraint where connamespace = 'public'::regnamespace \
                     union all select 'index ' || indexdef from pg_indexes where schemaname = 'public' \
                     union all select 'trigger ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal \
                     order by 1";
    let rows = sqlx::query(statement).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("line")).collect()
}

#[tokio::test]
async fn migrations_run_once_twice_and_at_once_give_the_same_schema() {
    let url = empty_database_url().await;
    let raw = PgPool::connect(&url).await.unwrap();
    assert_eq!(schema(&raw).await, Vec::<String>::new());
    let replicas = (0..4).map(|_| Store::connect(&url, StoreOptions::default()));
    for replica in futures::future::join_all(replicas).await {
        replica.unwrap().ping().await.unwrap();
    }
    let once = schema(&raw).await;
    Store::connect(&url, StoreOptions::default()).await.unwrap();
    assert_eq!(schema(&raw).await, once);
    assert_eq!(schema(&database().await.raw).await, once);
    assert!(once.len() > 100, "{once:?}");
}

#[tokio::test]
async fn migrations_of_a_newer_replica_are_no_error_and_an_edited_one_is() {
    let db = database().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'later', true, '\\x00', 0)";
    sqlx::query(newer).execute(&db.raw).await.unwrap();
    Store::connect(&db.url, StoreOptions::default()).await.unwrap().ping().await.unwrap();
    sqlx::query("update _sqlx_migrations set checksum = '\\x00' where version = 1").execute(&db.raw).await.unwrap();
    let error = Store::connect(&db.url, StoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Migration { .. }), "{error:?}");
}

/// Rows that the refused statements below stand on.
const GROUND: &str = "insert into hub (hub_id) values ('a');
    insert into leases values ('aws:1:eu', gen_random_uuid(), 5, now());
    insert into clusters (name, region, vpc_id, agent_instance, agent_version)
        values ('blue', 'eu', 'vpc-1', gen_random_uuid(), '1');
    insert into policies (uid, namespace, name, version, generation, manifest, change) values ('u', 'shop', 'a', 2, 1, '{}', 1);
    insert into policy_overrides values ('u', 'blue', 999);
    insert into intents (scope, epoch, policy, operation, step) values ('s', 1, 'shop/a', 'X', '{}');
    insert into shifts (id, version, state, doc, created_at, updated_at, change)
        values ('s', 1, 'Baking', '{\"id\": \"s\", \"version\": 1, \"state\": \"Baking\", \"endedAt\": null}', now(), now(), 1);
    insert into shift_policies values ('s', 'u', 'shop', 'a', true);
    insert into shifts (id, version, state, doc, created_at, updated_at, change)
        values ('e', 1, 'Failed', '{\"id\": \"e\", \"version\": 1, \"state\": \"Failed\", \"endedAt\": \"then\"}', now(), now(), 1);
    insert into cluster_states values ('blue', 1, false,
        '{\"cluster\": \"blue\", \"version\": 1, \"mode\": \"Draining\", \"percent\": 50}', now(), 1);
    insert into shift_resources values ('blue', 'r', 's', null, 0, now());
    insert into audit (actor, action, policy, detail, reason, request_id) values ('me', 'apply', 'shop/a', '{}', '', '');
    insert into join_tokens (id, hash, cluster, created_by, created_at, expires_at, used_at, used_by_key)
        values ('abcdefgh2345', sha256('a'), 'blue', 'me', now(), now() + interval '1 hour', now(), sha256('k'));
    insert into join_tokens (id, hash, cluster, created_by, created_at, expires_at, revoked_at, revoked_by)
        values ('abcdefgh2346', sha256('b'), 'blue', 'me', now(), now() + interval '1 hour', now(), 'me');
    insert into authorities (id, certificate_pem, sealed_key, created_at, issues_from, not_after)
        values ('0123456789abcdef', 'pem', decode(repeat('00', 64), 'hex'), now(), now(), now() + interval '1 day');
    insert into agent_certificates values ('0a', 'blue', 'sha256:' || repeat('0', 64), '0123456789abcdef', '', 'join-token', 'x',
        now(), now() + interval '1 hour', now(), 'me');
    insert into service_token_names values ('ci', now());
    insert into service_tokens (name, id, hash, grants, created_by, created_at, expires_at, revoked_at, revoked_by)
        values ('ci', 'abcdefgh2345', sha256('c'), '[{}]', 'me', now(), now() + interval '1 hour', now(), 'me');";

#[tokio::test]
async fn the_schema_refuses_what_must_never_be() {
    let endpoint = |address: &str, port: i32, state: &str, ready: bool, evidence: &str| {
        format!(
            "insert into endpoints values ('blue', 'shop', 'a', 'http', '{address}', {port}, 'uid', '{state}', {ready}, false, \
             false, {evidence}, '{{}}', '', '', '', '[]', now(), now(), 1)"
        )
    };
    let db = database().await;
    sqlx::raw_sql(GROUND).execute(&db.raw).await.unwrap();
    sqlx::query(AssertSqlSafe(endpoint("10.0.0.1", 80, "present", true, "null"))).execute(&db.raw).await.unwrap();
    let refused: Vec<(&str, String)> = vec![
        ("a second hub id", "insert into hub (hub_id) values ('b')".into()),
        ("a second row for one hub", "insert into hub (only_row, hub_id) values (false, 'b')".into()),
        ("a second holder of a lease", "insert into leases values ('aws:1:eu', gen_random_uuid(), 6, now())".into()),
        ("an epoch that falls", "update leases set epoch = 4".into()),
        ("a new holder in the same epoch", "update leases set holder = gen_random_uuid()".into()),
        ("epoch 0", "insert into leases values ('x', gen_random_uuid(), 0, now())".into()),
        ("weight 1000", "update policy_overrides set weight = 1000".into()),
        ("weight -1", "update policy_overrides set weight = -1".into()),
        ("version 0", "update policies set version = 0".into()),
        ("generation 0", "update policies set generation = 0".into()),
        ("a generation above the version", "update policies set generation = 3".into()),
        (
            "two policies of one name",
            "insert into policies (uid, namespace, name, version, generation, manifest, change) \
             values ('v', 'shop', 'a', 1, 1, '{}', 1)"
                .into(),
        ),
        ("a change of the audit log", "update audit set actor = 'you'".into()),
        ("a deletion in the audit log", "delete from audit".into()),
        ("an emptied audit log", "truncate audit".into()),
        ("a second turn to write an entry", "insert into audit_turn values (false)".into()),
        ("a log that nobody may write to", "delete from audit_turn".into()),
        ("a log that nobody may write to any more", "truncate audit_turn".into()),
        ("an unknown result", "insert into audit (actor, action, policy, detail, reason, request_id, result) values ('a', 'a', '', '{}', '', '', 'ok')".into()),
        ("a second count of access", "insert into access_version values (false, 0)".into()),
        ("a join token of another key", "update join_tokens set used_by_key = sha256('l') where id = 'abcdefgh2345'".into()),
        ("a join token that is unused again", "update join_tokens set used_at = null, used_by_key = null".into()),
        ("a join token that is used after it was revoked", "update join_tokens set used_at = now(), used_by_key = sha256('k') where id = 'abcdefgh2346'".into()),
        ("a join token that lives longer", "update join_tokens set expires_at = expires_at + interval '1 minute'".into()),
        ("a join token of another cluster", "update join_tokens set cluster = 'green'".into()),
        (
            "a join token of a week",
            "insert into join_tokens (id, hash, cluster, created_by, created_at, expires_at) \
             values ('abcdefgh2347', sha256('d'), 'blue', 'me', now(), now() + interval '7 days')"
                .into(),
        ),
        (
            "a secret in the place of its hash",
            "insert into join_tokens (id, hash, cluster, created_by, created_at, expires_at) \
             values ('abcdefgh2347', 'secret', 'blue', 'me', now(), now() + interval '1 hour')"
                .into(),
        ),
        ("another certificate for an authority", "update authorities set certificate_pem = 'other'".into()),
        ("another key for an authority", "update authorities set sealed_key = null".into()),
        ("an authority that is needed and goes", "delete from authorities".into()),
        ("a certificate that is not revoked any more", "update agent_certificates set revoked_at = null, revoked_by = null".into()),
        (
            "a certificate that was issued without a fingerprint",
            "insert into agent_certificates (serial, cluster, instance, proof, proof_id, issued_at, not_after) \
             values ('0b', 'blue', '', 'join-token', '', now(), now() + interval '1 hour')"
                .into(),
        ),
        ("a certificate of another cluster", "update agent_certificates set cluster = 'green'".into()),
        ("a service token that is not revoked any more", "update service_tokens set revoked_at = null, revoked_by = null".into()),
        ("more grants for a service token", "update service_tokens set grants = '[{}, {}]'".into()),
        ("a name that is given twice", "insert into service_token_names values ('ci', now())".into()),
        ("a name that is taken back", "delete from service_token_names".into()),
        ("an intent with half an outcome", "update intents set outcome = 'done'".into()),
        ("a purge past the rev", "update clusters set purged_rev = rev + 1".into()),
        ("a cluster name with a capital", "update clusters set name = 'Blue'".into()),
        ("an endpoint of an unknown cluster", "update endpoints set cluster = 'green'".into()),
        ("a network as an address", endpoint("10.0.0.0/24", 80, "present", true, "null")),
        ("port 0", endpoint("10.0.0.2", 0, "present", true, "null")),
        ("port 65536", endpoint("10.0.0.2", 65536, "present", true, "null")),
        ("gone without evidence", endpoint("10.0.0.2", 80, "gone", false, "null")),
        ("gone and ready", endpoint("10.0.0.2", 80, "gone", true, "'Absent'")),
        ("evidence against what is present", endpoint("10.0.0.2", 80, "present", true, "'Absent'")),
        ("unknown evidence", endpoint("10.0.0.2", 80, "gone", false, "'Hearsay'")),
        (
            "a second shift that moves one policy",
            "insert into shift_policies values ('e', 'u', 'shop', 'a', true)".into(),
        ),
        (
            "an ended shift that moves a policy",
            "insert into shift_policies values ('e', 'v', 'shop', 'b', true)".into(),
        ),
        (
            "a shift that ends and holds its policy",
            "update shifts set version = 2, state = 'Failed', \
             doc = '{\"id\": \"s\", \"version\": 2, \"state\": \"Failed\", \"endedAt\": \"now\"}' where id = 's'"
                .into(),
        ),
        ("a shift in an unknown state", "update shifts set version = 2, state = 'Lost' where id = 's'".into()),
        ("a shift beside its document", "update shifts set version = 2, state = 'Stepping' where id = 's'".into()),
        ("a version beside the document", "update shifts set version = 2 where id = 's'".into()),
        (
            "a version that does not rise",
            "update shifts set state = 'Stepping', doc = jsonb_set(doc, '{state}', '\"Stepping\"') where id = 's'"
                .into(),
        ),
        (
            "an end without its time",
            "update shifts set version = 2, doc = jsonb_set(doc, '{endedAt}', '1') where id = 's'".into(),
        ),
        (
            "an ended shift that begins again",
            "update shifts set version = 2, state = 'Baking', \
             doc = '{\"id\": \"e\", \"version\": 2, \"state\": \"Baking\", \"endedAt\": null}' where id = 'e'"
                .into(),
        ),
        ("a policy that is moved and not", "update shift_policies set active = false".into()),
        ("a resource of two fates", "update shift_resources set refused = 'x'".into()),
        ("a resource without a fate", "update shift_resources set shift_id = null".into()),
        (
            "a switch beside its document",
            "insert into gating_switches values ('a', 1, '{\"name\": \"b\"}', 'me', now(), 1)".into(),
        ),
        (
            "a cluster whose version does not rise",
            "update cluster_states set state = jsonb_set(state, '{percent}', '40')".into(),
        ),
        ("a version of a cluster beside its document", "update cluster_states set version = 2".into()),
        (
            "more than all of a share",
            "update cluster_states set version = 2, \
             state = '{\"cluster\": \"blue\", \"version\": 2, \"mode\": \"Draining\", \"percent\": 101}'"
                .into(),
        ),
        (
            "a removed cluster whose column says otherwise",
            "update cluster_states set version = 2, \
             state = '{\"cluster\": \"blue\", \"version\": 2, \"mode\": \"Removed\", \"percent\": 0}'"
                .into(),
        ),
        ("one endpoint twice", endpoint("10.0.0.1", 80, "present", true, "null")),
    ];
    for (what, statement) in refused {
        let result = sqlx::query(AssertSqlSafe(statement)).execute(&db.raw).await;
        let error = result.expect_err(what).into_database_error().unwrap();
        let code = error.code().unwrap().into_owned();
        // Class 23: an integrity constraint. A slip in the statement itself would be 42.
        assert!(code.starts_with("23"), "{what}: {code} {error}");
    }
}

#[tokio::test]
async fn the_hub_id_is_made_once_kept_and_compared_with_the_configured_one() {
    let db = database().await;
    let made = db.store.hub_id(None).await.unwrap();
    assert_eq!(db.store.hub_id(None).await.unwrap(), made);
    assert_eq!(db.store.hub_id(Some(made.clone())).await.unwrap(), made);
    let error = db.store.hub_id(Some(HubId::new("other").unwrap())).await.unwrap_err().to_string();
    assert!(error.contains("other") && error.contains(made.as_str()), "{error}");

    let db = database().await;
    let configured = HubId::new("prod").unwrap();
    assert_eq!(db.store.hub_id(Some(configured.clone())).await.unwrap(), configured);
    assert_eq!(db.store.hub_id(None).await.unwrap(), configured);
}

#[tokio::test]
async fn a_url_that_does_not_parse_is_refused_without_its_password() {
    let error = Store::connect("postgres://user:secret@host:port/x", StoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Url { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
}
