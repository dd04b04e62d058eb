//! What the hub must not forget, in Postgres: policies and their status, shifts, what operators want of clusters,
//! what the agents reported, leases, intents, the first answers to request ids, tokens and certificates, the audit log. Nothing in here decides about traffic, and nothing in here reaches AWS or an agent.
//!
//! What it costs: a write is one transaction of two to six statements, and some three more for each policy of a shift; an unchanged
//! [`Mirror::refresh`] is two small queries; a snapshot of 100,000 endpoints is some 20 statements of 5,000 rows. Time is the database's clock, so replicas need not agree
//! on theirs. Nothing but statements is awaited within a transaction. Every write may be repeated after [`StoreError::Unavailable`].
//!
//! Schema: `migrations/`. Tests: `hub/tests/store_*.rs`, against a real Postgres.

pub mod access;
mod audit;
mod audit_refused;
pub mod embedded;
mod error;
mod features;
pub mod fleet;
mod fleet_rows;
mod fleet_save;
pub mod gates;
mod idempotency;
pub mod intents;
mod inventory_changes;
mod inventory_statements;
mod inventory_write;
pub mod lease;
pub mod mirror;
mod mirror_fetch;
mod mirror_intents;
mod notice;
pub mod policies;
mod policy_change;
mod policy_failback;
mod policy_rows;
pub mod policy_status;
mod pools;
mod purge;
pub mod rights;
mod session_turns;
pub mod sessions;
mod settle;
mod shifts;
mod shifts_change;
mod shifts_leave;
mod shifts_resources;
mod shifts_rows;
mod shifts_save;
mod source_rows;
pub mod sources;
mod switches;
mod values;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use switchyard_core::ids::HubId;
use tokio::time::Instant;

use pools::Pools;

pub use audit::{AuditFilter, AuditHead, AuditResult, AuditRow};
pub use audit_refused::RefusedEntry;
pub use embedded::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres};
pub use error::{Query, QueryObserver, StoreError};
pub use features::AgentFeature;
pub use fleet::{ClusterWish, FleetError, carried_by};
pub use fleet_save::ClusterUpdate;
pub use gates::GateBooks;
pub use intents::OpenIntent;
pub use lease::{Fence, FencedError, LeaseAnswer};
pub use mirror::{Changes, ClusterInfo, Mirror};
pub use mirror_fetch::Fetched;
pub use notice::Notice;
pub use policies::{Applied, ApplyError, Caller};
pub(crate) use policy_change::{check_caller, check_owner, supersedes};
pub use policy_rows::{Ownership, Resource, StoredPolicy};
pub use policy_status::StatusUpdate;
pub use purge::{Purged, Retention};
pub use rights::{Allowed, MayNot};
pub use sessions::{
    AgentHello, EndpointChange, Hears, NewEndpoint, NewServiceState, Relieved, SessionError, SessionOpened, Snapshot,
};
pub use shifts::{ShiftError, ShiftFilter, ShiftPage};
pub use shifts_resources::ResourceMemory;
pub use shifts_save::ShiftUpdate;
pub use source_rows::{Claims, NewClaim, StoredClaim, Wanted};
pub use sources::{Listed, SourceError, SourceSession, Taken};
pub use switches::{MOST_PATTERNS, MOST_SWITCHES, StoredSwitch, SwitchError};

/// The numbered files of `migrations/`. Unknown later ones are no error: a newer replica ran them, and migrations only expand.
static MIGRATIONS: Migrator = {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.ignore_missing = true;
    migrations
};

/// How to use the database.
#[derive(Clone)]
pub struct StoreOptions {
    /// Connections of this replica besides the one that listens, three for what has to go on whatever callers ask for, and two for
    /// lists; default 10.
    pub max_connections: u32,
    /// How long a call waits for a connection before it fails as unavailable; default 5 s.
    pub acquire_timeout: Duration,
    /// How long the database may work on one statement; default 30 s. A snapshot is written in chunks, so that none comes near.
    pub statement_timeout: Duration,
    /// The same for a list that may read far, of which two run at a time; default 3 s.
    pub list_timeout: Duration,
    /// Told of every statement.
    pub observer: Option<Arc<dyn QueryObserver>>,
}

/// How much longer than [`StoreOptions::statement_timeout`] an answer is waited for: a connection is handed out within it, and the
/// database's own refusal, which says more, comes first.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            list_timeout: Duration::from_secs(3),
            observer: None,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("list_timeout", &self.list_timeout)
            .finish_non_exhaustive()
    }
}

/// The store; clones share one set of connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// For the lease, heartbeats and the book of access, which must not wait for what callers ask for.
    vital: PgPool,
    pools: Pools,
    /// For connections outside the pool; changes when the URL does.
    connect: Arc<RwLock<PgConnectOptions>>,
    options: StoreOptions,
}

impl fmt::Debug for Store {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects, and brings the schema up to date under an advisory lock.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer; the caller decides whether to try again.
    /// [`StoreError::Url`] and [`StoreError::Migration`] do not go away by waiting.
    pub async fn connect(url: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let connect = connect_options(url)?;
        migrate(&connect, options.acquire_timeout).await?;
        let pools = Pools::new(&connect, &options);
        let (pool, vital) = (pools.all.clone(), pools.vital.clone());
        Ok(Self { pool, vital, pools, connect: Arc::new(RwLock::new(connect)), options })
    }

    /// From now on new connections are made with this URL: a password that was rotated. Those that are open stay, as Postgres leaves
    /// them open.
    ///
    /// # Errors
    /// [`StoreError::Url`] when it does not parse; the one before stays then.
    pub fn set_url(&self, url: &str) -> Result<(), StoreError> {
        let connect = connect_options(url)?;
        self.pools.set_connect_options(&connect);
        *self.connect.write().unwrap_or_else(PoisonError::into_inner) = connect;
        Ok(())
    }

    fn connect_options(&self) -> PgConnectOptions {
        self.connect.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does the database answer?
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.run(Query::Ping, sqlx::query("select 1").execute(&self.pool)).await.map(|_| ())
    }

    /// Closes the connections; calls that come later fail as unavailable.
    pub async fn close(&self) {
        self.pools.close().await;
    }

    /// The id of this installation: stored at the first start (the configured one, or a new UUID), then always the same.
    ///
    /// # Errors
    /// [`StoreError::HubIdDiffers`] when another one is configured than stored.
    pub async fn hub_id(&self, configured: Option<HubId>) -> Result<HubId, StoreError> {
        let insert = "insert into hub (hub_id) values (coalesce($1, gen_random_uuid()::text)) on conflict do nothing";
        let wanted = configured.as_ref().map(HubId::as_str);
        self.run(Query::HubId, sqlx::query(insert).bind(wanted).execute(&self.pool)).await?;
        let read = sqlx::query_scalar::<_, String>("select hub_id from hub");
        let stored = self.run(Query::HubId, read.fetch_one(&self.pool)).await?;
        let stored = HubId::new(stored).map_err(|error| values::unreadable("the hub's id", error))?;
        match configured {
            Some(configured) if configured != stored => Err(StoreError::HubIdDiffers { configured, stored }),
            _ => Ok(stored),
        }
    }

    /// Runs one statement under its name: measured, its error sorted. The database ends what takes too long; where the network lost
    /// the connection without a word nobody does, so it is given up here a little later.
    async fn run<T>(
        &self,
        query: Query,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let limit = self.options.statement_timeout.saturating_add(ANSWER_MARGIN);
        let result = tokio::time::timeout(limit, statement).await.unwrap_or_else(|_| {
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time")))
        });
        let result = result.map_err(|error| StoreError::new(query, error));
        if let Some(observer) = &self.options.observer {
            let outcome = result.as_ref().map_or_else(StoreError::label, |_| "ok");
            observer.observed(query, started.elapsed(), outcome);
        }
        result
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let pool = self.pool.clone();
        self.run(Query::Begin, begun(async move { pool.begin().await })).await
    }

    async fn commit(&self, txn: Transaction<'static, Postgres>) -> Result<(), StoreError> {
        self.run(Query::Commit, txn.commit()).await
    }
}

/// A transaction that is begun to the end. Whoever waits for it may go away at any moment, with a call that is broken off or a stream that
/// ends; the driver forgets a BEGIN that was sent and not answered by then, and gives the connection to the next one with the transaction
/// open: what is written on it by itself would hold its locks, and be taken back later. So a task of its own waits for the answer, and
/// rolls back what nobody takes. It ends by itself: getting a connection and every statement have their limits.
async fn begun(
    beginning: impl Future<Output = Result<Transaction<'static, Postgres>, sqlx::Error>> + Send + 'static,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    tokio::spawn(beginning).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        // The driver's own text may quote the URL with its password.
        let problem = match error {
            sqlx::Error::Configuration(_) => "it does not parse".to_owned(),
            other => other.to_string(),
        };
        StoreError::Url { problem }
    })?;
    Ok(options.application_name("switchyard-hub").disable_statement_logging())
}

/// On a connection of its own: the pool's statement timeout is not meant for migrations.
async fn migrate(connect: &PgConnectOptions, timeout: Duration) -> Result<(), StoreError> {
    let opened = tokio::time::timeout(timeout, PgConnection::connect_with(connect)).await;
    let opened = opened.unwrap_or(Err(sqlx::Error::PoolTimedOut));
    let mut connection = opened.map_err(|error| StoreError::new(Query::Connect, error))?;
    // The lock of the migrations is one that any login may take and keep. Whoever has nothing to migrate does not ask for it, so that
    // a hub starts again whatever readers of the database do.
    if is_migrated(&mut connection).await {
        drop(connection.close().await);
        return Ok(());
    }
    match MIGRATIONS.run(&mut connection).await {
        Ok(()) => {
            // Nothing is lost when the goodbye fails.
            drop(connection.close().await);
            Ok(())
        }
        Err(MigrateError::Execute(error)) => {
            let error = StoreError::new(Query::Migrate, error);
            if error.is_unavailable() { Err(error) } else { Err(migration_error(error)) }
        }
        Err(error) => Err(StoreError::Migration { source: Box::new(error) }),
    }
}

/// True when all that this program knows have run, as they are here. Whatever else there is to say the driver says.
async fn is_migrated(connection: &mut PgConnection) -> bool {
    let read = sqlx::query_as::<_, (i64, Vec<u8>)>("select version, checksum from _sqlx_migrations where success");
    let Ok(ran) = read.fetch_all(connection).await else { return false };
    let ran: BTreeMap<i64, Vec<u8>> = ran.into_iter().collect();
    MIGRATIONS.iter().all(|known| ran.get(&known.version).is_some_and(|checksum| *checksum == *known.checksum))
}

fn migration_error(error: StoreError) -> StoreError {
    match error {
        StoreError::Broken { source, .. } => StoreError::Migration { source: Box::new(MigrateError::Execute(source)) },
        other => other,
    }
}
