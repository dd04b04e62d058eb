//! A database that goes away and comes back, and the private Postgres's own life.

mod store_support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use store_support::{NEVER_STALE, apply, caller, eventually, key, manifest, valid};
use switchyard_hub::store::{
    ApplyError, EmbeddedError, EmbeddedOptions, EmbeddedPostgres, Mirror, Notice, Store, StoreError, StoreOptions,
};

const UNSAFE: EmbeddedOptions = EmbeddedOptions { fsync: false };

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sy").tempdir().unwrap()
}

/// Durable: what a killed server had committed has to be there afterwards.
async fn start(folder: &Path) -> EmbeddedPostgres {
    EmbeddedPostgres::start(folder, EmbeddedOptions::default()).await.unwrap()
}

fn hasty() -> StoreOptions {
    StoreOptions { acquire_timeout: Duration::from_millis(300), ..StoreOptions::default() }
}

#[tokio::test]
async fn a_killed_database_is_unavailable_and_after_its_return_everything_goes_on_with_nothing_lost() {
    let folder = folder();
    let postgres = start(folder.path()).await;
    let store = Store::connect(&postgres.url(), hasty()).await.unwrap();
    let mut notices = store.listen().await.unwrap();
    let (before, _) = apply(&store, &manifest("a", &[("blue", 100), ("green", 0)])).await;
    let mut mirror = Mirror::empty();
    mirror.refresh(&store, None, NEVER_STALE).await.unwrap();
    let pictured = mirror.clone();

    kill(Pid::from_raw(postgres.pid()), Signal::SIGKILL).unwrap();
    let error = eventually("the outage", async || store.ping().await.err()).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let spec = manifest("b", &[("blue", 1)]);
    let error = store.policy_apply(&caller("during"), &spec, &valid(&spec), 0).await.unwrap_err();
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error:?}");
    assert!(mirror.refresh(&store, None, NEVER_STALE).await.unwrap_err().is_unavailable());
    assert_eq!(mirror, pictured, "a refresh that failed changes nothing");
    let error = Store::connect(&postgres.url(), hasty()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");

    drop(postgres);
    let postgres = start(folder.path()).await;
    eventually("the recovery", async || store.ping().await.ok()).await;
    assert_eq!(store.policy_get(&key("a")).await.unwrap(), Some(before));
    let (stored, _) = store.policy_apply(&caller("during"), &spec, &valid(&spec), 0).await.unwrap();
    assert_eq!(stored.record.version, 1);
    let seen = async { while notices.next().await != Some(Notice::Reconnected) {} };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the listener never said that it is back");
    mirror.refresh(&store, None, NEVER_STALE).await.unwrap();
    assert_eq!(mirror.policies.len(), 2);
    store.close().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_unavailable_and_not_a_defect() {
    let folder = folder();
    let postgres = EmbeddedPostgres::start(folder.path(), UNSAFE).await.unwrap();
    let options = StoreOptions { statement_timeout: Duration::from_millis(100), ..StoreOptions::default() };
    let store = Store::connect(&postgres.url(), options).await.unwrap();
    apply(&store, &manifest("a", &[("blue", 1)])).await;
    let raw = sqlx::PgPool::connect(&postgres.url()).await.unwrap();
    let mut locked = raw.begin().await.unwrap();
    sqlx::query("select * from policy_changes for update").execute(&mut *locked).await.unwrap();
    let spec = manifest("b", &[("blue", 1)]);
    let error = store.policy_apply(&caller("late"), &spec, &valid(&spec), 0).await.unwrap_err();
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error:?}");
    locked.rollback().await.unwrap();
    store.policy_apply(&caller("late"), &spec, &valid(&spec), 0).await.unwrap();
}

#[tokio::test]
async fn a_private_postgres_keeps_its_data_is_private_and_leaves_nothing_running() {
    let folder = folder();
    let postgres = start(folder.path()).await;
    let pid = postgres.pid();
    let store = Store::connect(&postgres.url(), StoreOptions::default()).await.unwrap();
    let (before, _) = apply(&store, &manifest("a", &[("blue", 1)])).await;
    let listens: String = sqlx::query_scalar("show listen_addresses")
        .fetch_one(&sqlx::PgPool::connect(&postgres.url()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(listens, "", "no TCP");
    for private in [folder.path().to_owned(), folder.path().join("pgdata"), folder.path().join("s")] {
        let mode = fs::metadata(&private).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{private:?}");
    }
    store.close().await;
    postgres.stop().await.unwrap();
    assert!(kill(Pid::from_raw(pid), None).is_err(), "process {pid} is still there");

    let again = start(folder.path()).await;
    let store = Store::connect(&again.url(), StoreOptions::default()).await.unwrap();
    assert_eq!(store.policy_get(&key("a")).await.unwrap(), Some(before));
    let pid = again.pid();
    drop(again);
    assert!(kill(Pid::from_raw(pid), None).is_err(), "process {pid} outlived its handle");
}

#[tokio::test]
async fn two_hubs_do_not_share_a_data_folder() {
    let folder = folder();
    let first = EmbeddedPostgres::start(folder.path(), UNSAFE).await.unwrap();
    let error = EmbeddedPostgres::start(folder.path(), UNSAFE).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error:?}");
    let store = Store::connect(&first.url(), StoreOptions::default()).await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_folder_with_a_long_path_gets_a_socket_elsewhere() {
    let folder = folder();
    let long = folder.path().join("d".repeat(120));
    let owner = fs::metadata(folder.path()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let postgres = EmbeddedPostgres::start(&long, UNSAFE).await.unwrap();
    Store::connect(&postgres.url(), StoreOptions::default()).await.unwrap().ping().await.unwrap();
    assert!(owner.is_dir() && !long.join("s").exists());
    postgres.stop().await.unwrap();
}

/// Names the folder in which the child process of the next test starts a server and dies without a word.
const ABANDON_IN: &str = "SWITCHYARD_TEST_ABANDON_IN";

#[tokio::test]
async fn a_server_left_by_a_killed_hub_is_taken_over_by_the_next() {
    if let Ok(folder) = std::env::var(ABANDON_IN) {
        // The part of the hub that is killed: no destructor runs, the server stays.
        let postgres = start(Path::new(&folder)).await;
        fs::write(Path::new(&folder).join("abandoned"), postgres.pid().to_string()).unwrap();
        std::process::abort();
    }
    let folder = folder();
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_left_by_a_killed_hub_is_taken_over_by_the_next"])
        .env(ABANDON_IN, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!killed.success());
    let left: i32 = fs::read_to_string(folder.path().join("abandoned")).unwrap().parse().unwrap();
    let postgres = start(folder.path()).await;
    assert_eq!(postgres.pid(), left);
    Store::connect(&postgres.url(), StoreOptions::default()).await.unwrap().ping().await.unwrap();
    postgres.stop().await.unwrap();
    eventually("the end of the server", async || kill(Pid::from_raw(left), None).err()).await;
}

#[tokio::test]
async fn a_stale_pid_file_and_a_half_made_database_do_not_matter() {
    let folder = folder();
    fs::create_dir(folder.path().join("pgdata.new")).unwrap();
    fs::write(folder.path().join("pgdata.new/half"), "x").unwrap();
    let postgres = EmbeddedPostgres::start(folder.path(), UNSAFE).await.unwrap();
    postgres.stop().await.unwrap();
    // The number of a process that lives and is no server: this one.
    let stale = format!("{}\n{}\n1\n5432\n/nowhere\n\n", std::process::id(), folder.path().join("pgdata").display());
    fs::write(folder.path().join("pgdata/postmaster.pid"), stale).unwrap();
    let pid_file = folder.path().join("pgdata/postmaster.pid");
    let owner = fs::metadata(folder.path().join("pgdata/PG_VERSION")).unwrap();
    std::os::unix::fs::chown(
        &pid_file,
        Some(std::os::unix::fs::MetadataExt::uid(&owner)),
        Some(std::os::unix::fs::MetadataExt::gid(&owner)),
    )
    .unwrap();
    let postgres = EmbeddedPostgres::start(folder.path(), UNSAFE).await.unwrap();
    Store::connect(&postgres.url(), StoreOptions::default()).await.unwrap().ping().await.unwrap();
}
