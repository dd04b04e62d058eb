//! Agents' sessions. A cluster has one session at a time, the newest; whatever an older one still wants to write is refused in
//! the same transaction that locks the cluster's row (the fence). Of two agent processes that come in turns core decides which gets the
//! cluster ([`switchyard_core::access::turns`]), by what this row remembers, so that every replica decides alike. What is written is in
//! `inventory_write`.

use switchyard_core::{
    ids::{ClusterName, Epoch, VpcId},
    inventory::{EndpointKey, ServiceKey, SourceProblem},
};
use uuid::Uuid;

use super::{
    Store,
    error::{Query, StoreError},
    features::AgentFeature,
    inventory_changes::phases,
    inventory_write::Mark,
    notice::Notice,
    session_turns::{Before, NOBODY, before_select, seated},
    values::{Conn, signed, text, to_json},
};

pub use super::{
    inventory_changes::{EndpointChange, NewEndpoint, NewServiceState},
    session_turns::{Hears, Relieved},
};

/// What an agent says of itself when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentHello {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The cluster's region, at most 64 characters.
    pub region: String,
    /// The VPC that its pods have their addresses in.
    pub vpc_id: VpcId,
    /// New for each agent process.
    pub agent_instance_id: Uuid,
    /// For people, at most 128 characters.
    pub agent_version: String,
    /// What the agent can do beside the first version of the protocol, in its own words; see [`super::AgentFeature`].
    pub features: Vec<String>,
    /// The last sequence number that the agent knows to be stored; 0 when none.
    pub last_acked_seq: u64,
    /// The version of the watch set that its acknowledged state was made from; 0 when none, then it cannot resume. Whether it
    /// is the present one is for the caller to compare.
    pub watch_set_version: u64,
}

/// An opened session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Set when the store holds exactly what this agent process had acknowledged: deltas after this number suffice.
    pub resume_after_seq: Option<u64>,
    /// The agent process that lived and lost the cluster by this.
    pub relieves: Option<Uuid>,
}

/// Why a session may not write.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Another session of the same cluster was opened since, or this one was closed.
    #[error("session {session_id} no longer holds cluster {cluster}: a newer one took over, or it was closed")]
    TakenOver {
        /// The cluster.
        cluster: ClusterName,
        /// The session that lost.
        session_id: Uuid,
    },
    /// An operator removed the cluster.
    #[error(
        "an operator removed cluster {cluster}; stop its agent, or take the cluster back with `yardctl uncordon {cluster}`"
    )]
    ClusterRemoved {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Another process of the same cluster has taken over and lives.
    #[error(transparent)]
    Relieved(Relieved),
    /// More than the store keeps of one cluster.
    #[error("cluster {cluster} has more than {most} {what}; route fewer Services of it")]
    TooMany {
        /// The cluster.
        cluster: ClusterName,
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// A change names a cluster that is not the session's.
    #[error(
        "the session of cluster {cluster} names an endpoint of cluster {named}; an agent reports its own cluster only"
    )]
    WrongCluster {
        /// The session's.
        cluster: ClusterName,
        /// The one in the change.
        named: ClusterName,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All that an agent sees of its watch set.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What it was asked to watch when it made the snapshot.
    pub watch_set: &'a [ServiceKey],
    /// How each Service stands.
    pub services: &'a [(ServiceKey, NewServiceState)],
    /// Every endpoint there is.
    pub endpoints: &'a [(EndpointKey, NewEndpoint)],
    /// The hub's epoch, in which what is stored is complete from now on.
    pub epoch: Epoch,
}

impl AgentHello {
    /// True when the agent named the feature.
    pub fn can(&self, feature: AgentFeature) -> bool {
        self.features.iter().any(|named| named == feature.word())
    }
}

impl Store {
    /// Opens a session, taking the cluster over from an older one. Until the agent is live again ([`Store::session_snapshot`],
    /// [`Store::session_live`]) the cluster is syncing. `hears`: whether a process that was not heard of is
    /// silent.
    ///
    /// # Errors
    /// [`SessionError::ClusterRemoved`], [`SessionError::Relieved`], or the store's.
    pub async fn session_open(
        &self,
        hello: &AgentHello,
        session_id: Uuid,
        hub_instance: Uuid,
        hears: impl Hears,
    ) -> Result<SessionOpened, SessionError> {
        let mut txn = self.begin().await?;
        if self.cluster_is_removed(&mut txn, &hello.cluster).await? {
            return Err(SessionError::ClusterRemoved { cluster: hello.cluster.clone() });
        }
        let read = sqlx::query_as::<_, Before>(concat!(before_select!(), " for update of c"));
        let read = read.bind(hello.cluster.as_str()).bind(hears.stale_after().as_secs_f64());
        let before = self.run(Query::SessionOpen, read.fetch_optional(&mut *txn)).await?;
        let seats = before.as_ref().map(|before| before.seats(&hears)).transpose()?.unwrap_or(NOBODY);
        let (relieved, relieves) = seated(&seats, &hello.cluster, hello.agent_instance_id)?;
        let resume = before.is_some_and(|before| before.resumes(hello));
        let upsert = "insert into clusters as c (name, region, vpc_id, agent_instance, agent_version, session_id, hub_instance, \
                      opened_at, features, relieved) values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), $9, $10) \
                      on conflict (name) do update set \
                      region = excluded.region, vpc_id = excluded.vpc_id, agent_instance = excluded.agent_instance, \
                      agent_version = excluded.agent_version, session_id = excluded.session_id, \
                      hub_instance = excluded.hub_instance, opened_at = excluded.opened_at, complete_in_epoch = null, \
                      features = excluded.features, relieved = excluded.relieved, \
                      problems = case when $8 then c.problems else '[]' end, \
                      applied_seq = case when $8 then c.applied_seq end, snapshot_complete = $8";
        let upsert = sqlx::query(upsert)
            .bind(hello.cluster.as_str())
            .bind(text(&hello.region, 64))
            .bind(hello.vpc_id.as_str())
            .bind(hello.agent_instance_id)
            .bind(text(&hello.agent_version, 128))
            .bind(session_id)
            .bind(hub_instance)
            .bind(resume)
            .bind(to_json("features", &hello.features)?)
            .bind(to_json("relieved agent processes", &relieved)?);
        self.run(Query::SessionOpen, upsert.execute(&mut *txn)).await?;
        let heartbeat = "insert into heartbeats (cluster, session_id, at) values ($1, $2, clock_timestamp()) \
                         on conflict (cluster) do update set session_id = excluded.session_id, at = excluded.at";
        let heartbeat = sqlx::query(heartbeat).bind(hello.cluster.as_str()).bind(session_id);
        self.run(Query::SessionHeartbeat, heartbeat.execute(&mut *txn)).await?;
        self.notify(&mut txn, &Notice::Cluster(hello.cluster.clone())).await?;
        self.commit(txn).await?;
        Ok(SessionOpened { resume_after_seq: resume.then_some(hello.last_acked_seq), relieves })
    }

    /// Stores what one or several messages of the agent changed, up to `seq`. May be repeated with the same content.
    ///
    /// # Errors
    /// [`SessionError`]; nothing is stored then.
    pub async fn session_apply(
        &self,
        session_id: Uuid,
        cluster: &ClusterName,
        seq: u64,
        changes: &[EndpointChange],
    ) -> Result<(), SessionError> {
        own_only(cluster, changes.iter().filter_map(EndpointChange::endpoint))?;
        let mut txn = self.begin().await?;
        let mark = self.fence(&mut txn, session_id, cluster, seq).await?;
        for phase in phases(changes) {
            self.phase_write(&mut txn, &mark, &phase).await?;
        }
        self.notify(&mut txn, &Notice::Cluster(cluster.clone())).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// Stores a whole snapshot, in one transaction: what it holds is present; what is stored as present for a watched Service
    /// and is not in it is gone, on the weakest evidence; what belongs to Services that are not watched is forgotten.
    ///
    /// Endpoints of Services outside the watch set are not stored.
    ///
    /// # Errors
    /// [`SessionError`]; nothing is stored then.
    pub async fn session_snapshot(
        &self,
        session_id: Uuid,
        cluster: &ClusterName,
        seq: u64,
        snapshot: Snapshot<'_>,
    ) -> Result<(), SessionError> {
        own_only(cluster, snapshot.endpoints.iter().map(|(key, _)| key))?;
        let mut txn = self.begin().await?;
        let mark = self.fence(&mut txn, session_id, cluster, seq).await?;
        self.snapshot_write(&mut txn, &mark, &snapshot).await?;
        let complete = "update clusters set snapshot_complete = true, complete_in_epoch = $2 where name = $1";
        let complete = sqlx::query(complete).bind(cluster.as_str()).bind(signed(snapshot.epoch.0));
        self.run(Query::SessionLive, complete.execute(&mut *txn)).await?;
        self.notify(&mut txn, &Notice::Cluster(cluster.clone())).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// Notes that what is stored of the cluster is complete in this epoch: the agent resumed and caught up, or the epoch changed
    /// under a live session. Without a stored snapshot it stays syncing.
    ///
    /// # Errors
    /// [`SessionError::TakenOver`], or the store's.
    pub async fn session_live(
        &self,
        session_id: Uuid,
        cluster: &ClusterName,
        epoch: Epoch,
    ) -> Result<(), SessionError> {
        let mut txn = self.begin().await?;
        let update = "update clusters set complete_in_epoch = case when snapshot_complete then $3::bigint end \
                      where name = $1 and session_id = $2";
        let update = sqlx::query(update).bind(cluster.as_str()).bind(session_id).bind(signed(epoch.0));
        let updated = self.run(Query::SessionLive, update.execute(&mut *txn)).await?;
        held(updated.rows_affected(), session_id, cluster)?;
        self.notify(&mut txn, &Notice::Cluster(cluster.clone())).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// Replaces the list of sources that the agent cannot read; at most 100 are kept.
    ///
    /// # Errors
    /// [`SessionError::TakenOver`], or the store's.
    pub async fn session_sources(
        &self,
        session_id: Uuid,
        cluster: &ClusterName,
        problems: &[SourceProblem],
    ) -> Result<(), SessionError> {
        let cut = |problem: &SourceProblem| SourceProblem {
            namespace: text(&problem.namespace, 63),
            kind: text(&problem.kind, 64),
            message: text(&problem.message, 1024),
        };
        let problems: Vec<SourceProblem> = problems.iter().take(100).map(cut).collect();
        let mut txn = self.begin().await?;
        let update = "update clusters set problems = $3 where name = $1 and session_id = $2";
        let update = sqlx::query(update).bind(cluster.as_str()).bind(session_id).bind(to_json("problems", &problems)?);
        let updated = self.run(Query::SessionSources, update.execute(&mut *txn)).await?;
        held(updated.rows_affected(), session_id, cluster)?;
        self.notify(&mut txn, &Notice::Cluster(cluster.clone())).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// Notes that these sessions were heard of just now, in one statement. Answers with those that lost their cluster to a
    /// newer session or were closed: their streams should end.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn session_heartbeat(&self, sessions: &[(Uuid, ClusterName)]) -> Result<Vec<Uuid>, StoreError> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, names): (Vec<Uuid>, Vec<String>) = sessions.iter().map(|(id, name)| (*id, name.to_string())).unzip();
        let update = "update heartbeats h set at = clock_timestamp() from unnest($1::uuid[], $2::text[]) as s (id, cluster) \
                      where h.cluster = s.cluster and h.session_id = s.id returning h.session_id";
        let update = sqlx::query_scalar::<_, Uuid>(update).bind(&ids).bind(names);
        let held = self.run(Query::SessionHeartbeat, update.fetch_all(&self.vital)).await?;
        Ok(ids.into_iter().filter(|id| !held.contains(id)).collect())
    }

    /// Ends a session that is still the cluster's; nothing happens to a newer one.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn session_close(&self, session_id: Uuid, cluster: &ClusterName) -> Result<(), StoreError> {
        let mut txn = self.begin().await?;
        let update = "update clusters set session_id = null, hub_instance = null where name = $1 and session_id = $2";
        let update = sqlx::query(update).bind(cluster.as_str()).bind(session_id);
        let updated = self.run(Query::SessionClose, update.execute(&mut *txn)).await?;
        if updated.rows_affected() == 0 {
            return Ok(());
        }
        // The row stays, as the time when the cluster was last heard of, but for no session.
        let heartbeat = "update heartbeats set session_id = '00000000-0000-0000-0000-000000000000' where cluster = $1";
        let heartbeat = sqlx::query(heartbeat).bind(cluster.as_str());
        self.run(Query::SessionClose, heartbeat.execute(&mut *txn)).await?;
        self.notify(&mut txn, &Notice::Cluster(cluster.clone())).await?;
        self.commit(txn).await
    }

    /// Locks the cluster's row, so that its writers come one after the other, and refuses a session that no longer holds it.
    async fn fence<'a>(
        &self,
        conn: &mut Conn,
        session_id: Uuid,
        cluster: &'a ClusterName,
        seq: u64,
    ) -> Result<Mark<'a>, SessionError> {
        let update = "update clusters set rev = rev + 1, applied_seq = greatest(applied_seq, $3) \
                      where name = $1 and session_id = $2 returning rev, clock_timestamp(), \
                      exists (select from cluster_states s where s.cluster = name and s.removed)";
        let update = sqlx::query_as::<_, (i64, jiff_sqlx::Timestamp, bool)>(update)
            .bind(cluster.as_str())
            .bind(session_id)
            .bind(signed(seq));
        let locked = self.run(Query::SessionFence, update.fetch_optional(conn)).await?;
        let taken_over = || SessionError::TakenOver { cluster: cluster.clone(), session_id };
        let (rev, at, removed) = locked.ok_or_else(taken_over)?;
        if removed {
            return Err(SessionError::ClusterRemoved { cluster: cluster.clone() });
        }
        Ok(Mark { cluster, rev, at })
    }
}

fn held(rows: u64, session_id: Uuid, cluster: &ClusterName) -> Result<(), SessionError> {
    if rows > 0 {
        return Ok(());
    }
    Err(SessionError::TakenOver { cluster: cluster.clone(), session_id })
}

fn own_only<'a>(cluster: &ClusterName, mut keys: impl Iterator<Item = &'a EndpointKey>) -> Result<(), SessionError> {
    match keys.find(|key| key.cluster != *cluster) {
        None => Ok(()),
        Some(key) => Err(SessionError::WrongCluster { cluster: cluster.clone(), named: key.cluster.clone() }),
    }
}
