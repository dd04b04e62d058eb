//! What operators want of clusters, as rows: the document with what must be refused beside it. No decisions in here but one: a row
//! that a newer version wrote counts as cordoned, never as active.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    fleet::{ClusterState, Kind, Mode, Operation, Why},
    ids::ClusterName,
};

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, from_json, signed, to_json, unreadable, unsigned},
};

/// All states, of one moment.
#[derive(Debug)]
pub(super) struct FleetPart {
    pub head: i64,
    pub states: Vec<ClusterState>,
}

#[derive(sqlx::FromRow)]
struct StateRow {
    cluster: String,
    version: i64,
    state: Json<Value>,
    updated_at: jiff_sqlx::Timestamp,
}

/// The columns of [`StateRow`]; to be followed by `where`.
macro_rules! state_select {
    ($rest:literal) => {
        concat!("select cluster, version, state, updated_at from cluster_states ", $rest)
    };
}

impl StateRow {
    fn read(self) -> Result<ClusterState, StoreError> {
        from_json(&format!("what is wanted of cluster {}", self.cluster), self.state)
    }

    /// What a reader plans with: one that cannot be read gets no new weight, and keeps what it has.
    fn read_or_cordon(self) -> Result<ClusterState, StoreError> {
        let what = format!("what is wanted of cluster {}", self.cluster);
        let cluster: ClusterName = self.cluster.parse().map_err(|error| unreadable(&what, error))?;
        let version = unsigned(&what, self.version)?;
        let since = at(self.updated_at);
        Ok(from_json(&what, self.state).unwrap_or_else(|error| {
            tracing::error!(%cluster, %error, "what is wanted of a cluster cannot be read; it counts as cordoned");
            cordoned(cluster, version, since)
        }))
    }
}

fn cordoned(cluster: ClusterName, version: u64, since: Timestamp) -> ClusterState {
    ClusterState {
        cluster,
        version,
        mode: Mode::Cordoned,
        percent: 100,
        deregister: false,
        operation: Operation {
            id: String::new(),
            kind: Kind::Cordon,
            actor: "switchyard-hub".to_owned(),
            reason: "this version of the hub cannot read what is wanted of the cluster".to_owned(),
            started_at: since,
            until: None,
            ended_at: Some(since),
            step_percent: 100,
            step_seconds: 0,
            stepped_at: None,
            force: false,
            why: Why::Done,
            message: "run the version of the hub that wrote it, or a newer one".to_owned(),
            progress: Vec::new(),
        },
    }
}

impl Store {
    /// The next change number of a transaction that writes what is wanted of clusters, with the database's time; locks out every other
    /// writer of policies until the end of the transaction.
    pub(super) async fn fleet_change(&self, conn: &mut Conn) -> Result<(i64, Timestamp), StoreError> {
        let next = "update policy_changes set last = last + 1, fleet = last + 1 returning last, clock_timestamp()";
        let next = sqlx::query_as::<_, (i64, jiff_sqlx::Timestamp)>(next);
        let (change, now) = self.run(Query::PolicyChange, next.fetch_one(conn)).await?;
        Ok((change, at(now)))
    }

    /// What is wanted of one cluster; the caller holds the lock.
    pub(super) async fn cluster_state_in_txn(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
    ) -> Result<Option<ClusterState>, StoreError> {
        let read = sqlx::query_as::<_, StateRow>(state_select!("where cluster = $1")).bind(cluster.as_str());
        self.run(Query::FleetGet, read.fetch_optional(conn)).await?.map(StateRow::read).transpose()
    }

    pub(super) async fn cluster_state_write(
        &self,
        conn: &mut Conn,
        state: &ClusterState,
        change: i64,
    ) -> Result<(), StoreError> {
        let write = "insert into cluster_states as s (cluster, version, removed, state, updated_at, change) \
                     values ($1, $2, $3, $4, clock_timestamp(), $5) on conflict (cluster) do update set \
                     version = excluded.version, removed = excluded.removed, state = excluded.state, \
                     updated_at = excluded.updated_at, change = excluded.change";
        let write = sqlx::query(write)
            .bind(state.cluster.as_str())
            .bind(signed(state.version))
            .bind(state.mode == Mode::Removed)
            .bind(to_json("what is wanted of a cluster", state)?)
            .bind(change);
        self.run(Query::FleetWrite, write.execute(conn)).await.map(|_| ())
    }

    /// For the mirror: all of them when any changed. They are few, and a head that fell back is another database.
    pub(super) async fn fleet_part(
        &self,
        conn: &mut Conn,
        head: i64,
        seen: Option<i64>,
    ) -> Result<Option<FleetPart>, StoreError> {
        if seen == Some(head) {
            return Ok(None);
        }
        let read = sqlx::query_as::<_, StateRow>(state_select!("order by cluster collate \"C\""));
        let rows = self.run(Query::MirrorFleet, read.fetch_all(conn)).await?;
        let states = rows.into_iter().map(StateRow::read_or_cordon).collect::<Result<_, _>>()?;
        Ok(Some(FleetPart { head, states }))
    }

    /// True when the cluster was removed; keeps that from changing until the end of the transaction, where there is a row.
    pub(super) async fn cluster_is_removed(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<bool, StoreError> {
        let read = "select removed from cluster_states where cluster = $1 for share";
        let read = sqlx::query_scalar::<_, bool>(read).bind(cluster.as_str());
        Ok(self.run(Query::FleetGet, read.fetch_optional(conn)).await?.unwrap_or(false))
    }
}
