//! Which process of a cluster's agent gets the cluster, by what its row remembers: every replica decides alike. The rule is core's
//! ([`switchyard_core::access::turns`]). Tests: `hub/tests/store_sessions.rs`.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    access::turns::{Seats, Turn, turn},
    ids::ClusterName,
};
use uuid::Uuid;

use super::{
    Store,
    error::{Query, StoreError},
    sessions::{AgentHello, SessionError},
    values::{from_json, signed, text},
};

/// An agent process that was relieved by one that lives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "agent process {instance} of cluster {cluster} was relieved by {by}, which lives or was away for too short a time to be given up; one agent runs in a cluster: stop one of the \
     two, or give the other cluster a name of its own"
)]
pub struct Relieved {
    /// The cluster.
    pub cluster: ClusterName,
    /// The process that came back.
    pub instance: Uuid,
    /// The one that holds the cluster.
    pub by: Uuid,
}

#[derive(sqlx::FromRow)]
pub(super) struct Before {
    region: String,
    vpc_id: String,
    agent_instance: Uuid,
    applied_seq: Option<i64>,
    snapshot_complete: bool,
    relieved: Json<Value>,
    lives: bool,
}

/// Whether the process that holds the cluster lives is told by its heartbeat alone, where that could be heard ([`Hears`]), not by whether a session is open: a connection that
/// is made anew must not let the relieved process in.
macro_rules! before_select {
    () => {
        "select c.region, c.vpc_id, c.agent_instance, c.applied_seq, c.snapshot_complete, c.relieved, \
         coalesce(h.at > clock_timestamp() - make_interval(secs => $2), false) as lives \
         from clusters c left join heartbeats h on h.cluster = c.name where c.name = $1"
    };
}

/// What the silence of an agent is worth at this replica.
pub trait Hears {
    /// An agent that was not heard of for as long is silent.
    fn stale_after(&self) -> Duration;

    /// False: this replica could not have heard of it (it was down, or could not reach the store), so its silence says nothing.
    fn hears(&self) -> bool;
}

/// One that hears at all times.
impl Hears for Duration {
    fn stale_after(&self) -> Duration {
        *self
    }

    fn hears(&self) -> bool {
        true
    }
}

/// A cluster that was never seen.
pub(super) const NOBODY: Seats<Uuid> = Seats { present: None, present_lives: false, relieved: Vec::new() };

impl Before {
    /// To be asked after the row was read: a store that was away in between has made the replica deaf by then, whereas an answer from
    /// before says nothing of the heartbeats that were missed while the statement hung.
    pub fn seats(&self, hears: &impl Hears) -> Result<Seats<Uuid>, StoreError> {
        let relieved = from_json("relieved agent processes", self.relieved.clone())?;
        let present_lives = self.lives || !hears.hears();
        Ok(Seats { present: Some(self.agent_instance), present_lives, relieved })
    }

    pub fn resumes(&self, hello: &AgentHello) -> bool {
        self.agent_instance == hello.agent_instance_id
            && self.applied_seq == Some(signed(hello.last_acked_seq))
            && hello.watch_set_version != 0
            && self.snapshot_complete
            && self.region == text(&hello.region, 64)
            && self.vpc_id == hello.vpc_id.as_str()
    }
}

impl Store {
    /// Refuses a process that was relieved by one that lives, for its streams beside the session. Changes nothing.
    ///
    /// # Errors
    /// [`SessionError::Relieved`], or the store's.
    pub async fn session_turn(
        &self,
        cluster: &ClusterName,
        instance: Uuid,
        hears: impl Hears,
    ) -> Result<(), SessionError> {
        let read = sqlx::query_as::<_, Before>(before_select!());
        let read = read.bind(cluster.as_str()).bind(hears.stale_after().as_secs_f64());
        let before = self.run(Query::SessionTurn, read.fetch_optional(&self.pool)).await?;
        let seats = before.as_ref().map(|before| before.seats(&hears)).transpose()?.unwrap_or(NOBODY);
        seated(&seats, cluster, instance).map(|_| ())
    }

    /// How many endpoints of a cluster are stored: those that are present, and all, with those that are gone and kept for a while.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn session_endpoints(&self, cluster: &ClusterName) -> Result<(usize, usize), StoreError> {
        let count = "select count(*) filter (where state = 'present'), count(*) from \
                     (select state from endpoints where cluster = $1 union all \
                     select state from node_endpoints where cluster = $1) e";
        let count = sqlx::query_as::<_, (i64, i64)>(count).bind(cluster.as_str());
        let (present, all) = self.run(Query::SessionEndpoints, count.fetch_one(&self.pool)).await?;
        let size = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok((size(present), size(all)))
    }
}

/// The relieved processes from now on, and the living one that is relieved.
pub(super) fn seated(
    seats: &Seats<Uuid>,
    cluster: &ClusterName,
    instance: Uuid,
) -> Result<(Vec<Uuid>, Option<Uuid>), SessionError> {
    match turn(seats, &instance) {
        Turn::Seated { relieved, relieves } => Ok((relieved, relieves)),
        Turn::Refused { by } => Err(SessionError::Relieved(Relieved { cluster: cluster.clone(), instance, by })),
    }
}

pub(super) use before_select;
