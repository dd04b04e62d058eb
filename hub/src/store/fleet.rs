//! What operators want of whole clusters: commands of callers, each one transaction under the policies' lock. What a command means is
//! decided by core ([`switchyard_core::fleet::machine`]); rows and the engine's saves are in `fleet_rows` and
//! `fleet_save`. Tests: `hub/tests/store_fleet.rs`.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::json;
use switchyard_core::{
    fleet::{ClusterState, Kind, Mode, machine},
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    policy::Violation,
    shift::Shift,
};
use uuid::Uuid;

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::{AnswerError, Request},
    notice::Notice,
    policy_change::{Caller, caller_faults},
    policy_rows::{PolicyRow, StoredPolicy, policy_select, read_all},
    rights::MayNot,
    shifts_rows::{ShiftRow, shift_select},
    values::{Conn, unreadable},
};

/// What a caller wants of a cluster. Ranges are checked by whoever takes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterWish {
    /// What.
    pub kind: Kind,
    /// For a drain: percent of the way in one step, 1..=100.
    pub step_percent: u32,
    /// For a drain: the least time between two steps, 0..=86400 seconds.
    pub step_seconds: u32,
    /// For a drain and a game day: whatever the others can carry.
    pub force: bool,
    /// For a game day: how long it lasts, 10..=86400 seconds.
    pub duration_seconds: u32,
}

/// Why a command was not taken. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The caller is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// Somebody wanted something else since the caller looked.
    #[error(
        "what is wanted of cluster {cluster} is at version {present}, not at {expected}; read it again and decide anew"
    )]
    VersionConflict {
        /// Which.
        cluster: ClusterName,
        /// The version that the caller has seen.
        expected: u64,
        /// The version now; 0 when nobody ever wanted anything.
        present: u64,
    },
    /// It does not fit where the cluster is.
    #[error(transparent)]
    Refused(#[from] machine::Refusal),
    /// The caller may not do this.
    #[error(transparent)]
    MayNot(#[from] Box<MayNot>),
    /// The request id was used for something else.
    #[error("request id {request_id:?} was used for another {method} request; use a new id for a new request")]
    RequestReused {
        /// The id.
        request_id: String,
        /// What it was used for.
        method: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AnswerError> for FleetError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Reused { request_id, method } => FleetError::RequestReused { request_id, method },
            AnswerError::Store(error) => FleetError::Store(error),
        }
    }
}

fn method(kind: Kind) -> &'static str {
    match kind {
        Kind::Cordon => "CordonCluster",
        Kind::Drain => "DrainCluster",
        Kind::Uncordon => "UncordonCluster",
        Kind::Remove => "RemoveCluster",
        Kind::Drill => "DrillClusterLoss",
    }
}

fn action(kind: Kind) -> &'static str {
    match kind {
        Kind::Cordon => "cluster.cordon",
        Kind::Drain => "cluster.drain",
        Kind::Uncordon => "cluster.uncordon",
        Kind::Remove => "cluster.remove",
        Kind::Drill => "cluster.drill",
    }
}

/// The policies that still give a cluster requests, by name: with a weight of their spec (also as a standby) or of an override, by what
/// an active shift comes from or leads to, or by what was read back last, on their way out too.
pub fn carried_by<'a>(
    cluster: &ClusterName,
    policies: impl Iterator<Item = &'a StoredPolicy>,
    shifts: impl Iterator<Item = &'a Shift>,
) -> Vec<PolicyKey> {
    let carries = |weights: &[(ClusterName, Weight)]| weights.iter().any(|(name, w)| name == cluster && w.carries());
    let shifted: BTreeSet<&PolicyUid> = shifts
        .filter(|shift| shift.is_active())
        .flat_map(Shift::present_moves)
        .filter(|one| carries(&one.from) || carries(&one.to))
        .map(|one| &one.uid)
        .collect();
    let gives = |stored: &&StoredPolicy| {
        let record = &stored.record;
        let standby = record.policy.standbys.iter().any(|of| of.cluster == *cluster && of.weight.carries());
        let wanted = standby || carries(&record.policy.clusters) || carries(&record.requested());
        let of_cluster = stored.status.iter().flat_map(|status| &status.clusters).find(|of| of.cluster == *cluster);
        let programmed = of_cluster.and_then(|of| of.programmed).is_some_and(Weight::carries);
        let stays = record.deleting_since.is_none();
        programmed || (stays && (wanted || shifted.contains(&record.uid)))
    };
    let keys: BTreeSet<&PolicyKey> = policies.filter(gives).map(|stored| &stored.record.policy.key).collect();
    keys.into_iter().cloned().collect()
}

impl Store {
    /// Takes what a caller wants of a cluster. `expected_version` 0: whatever is there. What is wanted already changes nothing.
    ///
    /// # Errors
    /// [`FleetError`]; nothing is stored then.
    pub async fn cluster_command(
        &self,
        caller: &Caller,
        cluster: &ClusterName,
        wish: &ClusterWish,
        expected_version: u64,
    ) -> Result<ClusterState, FleetError> {
        let violations = caller_faults(caller);
        if !violations.is_empty() {
            return Err(FleetError::Invalid { violations });
        }
        let request = Request::new(caller, method(wish.kind), &(cluster, wish, expected_version))?;
        let mut txn = self.begin().await?;
        let (change, now) = self.fleet_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<ClusterState>(&mut txn, &request).await? {
            return Ok(answer);
        }
        let before = self.cluster_state_in_txn(&mut txn, cluster).await?;
        let present = before.as_ref().map_or(0, |state| state.version);
        if expected_version != 0 && expected_version != present {
            return Err(FleetError::VersionConflict { cluster: cluster.clone(), expected: expected_version, present });
        }
        caller.may_wish(wish.kind, before.as_ref(), cluster)?;
        let carried_by = match wish.kind {
            Kind::Remove => self.policies_that_carry(&mut txn, cluster).await?,
            Kind::Cordon | Kind::Drain | Kind::Uncordon | Kind::Drill => Vec::new(),
        };
        let command = command(caller, wish);
        let after = machine::command(cluster, before.clone(), &command, &carried_by, now)?;
        if before.as_ref() == Some(&after) {
            self.keep_answer(&mut txn, &request, &after).await?;
            self.commit(txn).await?;
            return Ok(after);
        }
        let after = ClusterState { version: present.saturating_add(1), ..after };
        self.cluster_state_write(&mut txn, &after, change).await?;
        if after.mode == Mode::Removed {
            self.cluster_sessions_end(&mut txn, cluster).await?;
        }
        let entry = Entry {
            actor: &caller.actor,
            action: action(wish.kind),
            policy: None,
            shift: None,
            detail: detail(before.as_ref(), &after),
            reason: &caller.reason,
            request_id: &caller.request_id,
            source: &caller.source,
        };
        self.audit(&mut txn, entry).await?;
        self.keep_answer(&mut txn, &request, &after).await?;
        self.notify(&mut txn, &Notice::Fleet).await?;
        self.commit(txn).await?;
        Ok(after)
    }

    /// As the rows of this transaction say. A policy or shift that cannot be read is no proof that it gives nothing.
    async fn policies_that_carry(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<Vec<PolicyKey>, StoreError> {
        let read = sqlx::query_as::<_, PolicyRow>(policy_select!("order by p.uid"));
        let (policies, unread) = read_all(self.run(Query::PoliciesAll, read.fetch_all(&mut *conn)).await?);
        if unread > 0 {
            return Err(unreadable(format!("{unread} policies"), "they may give the cluster requests"));
        }
        let read = sqlx::query_as::<_, ShiftRow>(shift_select!("where s.active"));
        let rows = self.run(Query::ShiftsList, read.fetch_all(conn)).await?;
        let shifts = rows.into_iter().map(ShiftRow::read).collect::<Result<Vec<Shift>, _>>()?;
        Ok(carried_by(cluster, policies.iter(), shifts.iter()))
    }

    /// Nothing that the agent of a removed cluster says is taken any more; its streams end with their next write or heartbeat, and
    /// sooner where the picture shows it. The cluster's own row is left alone: a snapshot that is being written holds it, for
    /// seconds.
    async fn cluster_sessions_end(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<(), StoreError> {
        let heartbeat = "update heartbeats set session_id = '00000000-0000-0000-0000-000000000000' where cluster = $1";
        let heartbeat = sqlx::query(heartbeat).bind(cluster.as_str());
        self.run(Query::SessionClose, heartbeat.execute(&mut *conn)).await?;
        let source = sqlx::query("update policy_sources set session_id = null where cluster = $1");
        self.run(Query::SourceNote, source.bind(cluster.as_str()).execute(conn)).await.map(|_| ())
    }
}

fn command(caller: &Caller, wish: &ClusterWish) -> machine::Command {
    machine::Command {
        kind: wish.kind,
        id: Uuid::now_v7().to_string(),
        actor: caller.actor.clone(),
        reason: caller.reason.clone(),
        step_percent: wish.step_percent,
        step_seconds: wish.step_seconds,
        force: wish.force,
        duration_seconds: wish.duration_seconds,
    }
}

/// For the audit log.
pub(super) fn detail(before: Option<&ClusterState>, after: &ClusterState) -> serde_json::Value {
    let operation = &after.operation;
    json!({
        "cluster": after.cluster,
        "fromMode": before.map_or(Mode::Active, |before| before.mode),
        "toMode": after.mode,
        "percent": after.percent,
        "operation": operation.id,
        "kind": operation.kind,
        "stepPercent": operation.step_percent,
        "stepSeconds": operation.step_seconds,
        "until": operation.until,
        "force": operation.force,
        "version": after.version,
    })
}
