//! The connections of a store, in three pools, so that what readers ask for never keeps waiting what the hub lives by: the lease, the
//! heartbeats of agents and the book of access have connections of their own, and lists that may read far have a few and a short time.
//! A call that is given up keeps its connection until the database is done with the statement; each pool is therefore bounded by
//! itself. Nothing but opening connections is in here. Tests: `hub/tests/store_audit.rs`.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgPool,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, Postgres},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Store, StoreOptions,
    error::{Query, StoreError},
};

/// For the lease, heartbeats and the book of access: one each, so that none waits for another. docs/install.md counts all of them.
const MOST_VITAL: u32 = 3;
/// For lists that may read far. Two of them keep a core of the database busy, and nothing of the hub waits for a third.
const MOST_LISTS: u32 = 2;

/// The pools. Clones are one.
#[derive(Clone)]
pub(super) struct Pools {
    /// For everything else.
    pub all: PgPool,
    /// For what has to go on whatever callers ask for.
    pub vital: PgPool,
    lists: PgPool,
    /// Who finds no room here is told so; a pool that is empty because the database is away says something else.
    room: Arc<Semaphore>,
}

impl Pools {
    /// Opens nothing yet.
    pub fn new(connect: &PgConnectOptions, options: &StoreOptions) -> Self {
        Self {
            all: pool(connect, options, options.max_connections, options.statement_timeout),
            vital: pool(connect, options, MOST_VITAL, options.statement_timeout),
            lists: pool(connect, options, MOST_LISTS, options.list_timeout),
            room: Arc::new(Semaphore::new(MOST_LISTS as usize)),
        }
    }

    /// New connections are made like this from now on.
    pub fn set_connect_options(&self, connect: &PgConnectOptions) {
        for pool in [&self.all, &self.vital, &self.lists] {
            pool.set_connect_options(connect.clone());
        }
    }

    /// Closes all of them.
    pub async fn close(&self) {
        for pool in [&self.all, &self.vital, &self.lists] {
            pool.close().await;
        }
    }
}

impl Store {
    /// Runs a statement that may read far: at most two of them at a time, each for [`StoreOptions::list_timeout`].
    pub(super) async fn list<T>(
        &self,
        query: Query,
        statement: impl AsyncFnOnce(&mut PoolConnection<Postgres>) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let room = timeout(self.options.acquire_timeout, self.pools.room.acquire()).await;
        let _room = room.map_err(|_| StoreError::ListsBusy { query })?;
        let result = self.run(query, async {
            let mut connection = self.pools.lists.acquire().await?;
            statement(&mut connection).await
        });
        result.await.map_err(|error| match error {
            StoreError::Unavailable { query, source } if is_out_of_time(&source) => {
                StoreError::ListTooLong { query, limit: self.options.list_timeout }
            }
            other => other,
        })
    }
}

/// 57014, query_canceled: the statement timeout, or an operator who ended it.
fn is_out_of_time(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57014")
}

fn pool(connect: &PgConnectOptions, options: &StoreOptions, most: u32, statement_timeout: Duration) -> PgPool {
    let timeout_ms = statement_timeout.as_millis().to_string();
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(options.acquire_timeout)
        .after_connect(move |connection, _| {
            let timeout_ms = timeout_ms.clone();
            // As a statement, not as a startup option: connection poolers refuse options they do not know.
            Box::pin(async move {
                sqlx::query(
                    "select set_config('statement_timeout', $1, false), \
                     set_config('idle_in_transaction_session_timeout', $1, false)",
                )
                .bind(timeout_ms)
                .execute(connection)
                .await
                .map(|_| ())
            })
        })
        .connect_lazy_with(connect.clone())
}
