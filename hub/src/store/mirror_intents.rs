//! Reading what users want, for the mirror: policies, shifts, gating switches and what operators want of clusters, in one snapshot. The weights that a shift wrote
//! are never seen without the shift that wrote them, nor the shift without them.

use std::collections::BTreeSet;

use switchyard_core::{
    ids::{PolicyUid, ShiftId},
    shift::Shift,
};

use super::{
    Store, begun,
    error::{Query, StoreError},
    fleet_rows::FleetPart,
    mirror_fetch::Seen,
    policy_rows::{PolicyRow, StoredPolicy, policy_select, read_all},
    shifts_rows::{ShiftRow, shift_select},
    switches::StoredSwitch,
    values::{Conn, unreadable},
};

/// Shifts that ended last and are kept in memory; older ones are read from the store when somebody asks.
const ENDED_SHIFTS: i64 = 200;

#[derive(Debug)]
pub(super) struct PolicyPart {
    pub head: i64,
    /// Everything was read: what is not in `changed` is to go.
    pub changed: Vec<StoredPolicy>,
    pub unreadable: usize,
    /// Who there is.
    pub present: Vec<PolicyUid>,
}

#[derive(Debug)]
pub(super) struct ShiftPart {
    pub head: i64,
    pub changed: Vec<Shift>,
    /// Those that are active, and those that ended last; without those that changed into what this version cannot read.
    pub present: BTreeSet<ShiftId>,
    /// All of them.
    pub switches: Vec<StoredSwitch>,
}

/// What users want, as far as the reader does not know it.
#[derive(Debug, Default)]
pub(super) struct Intents {
    pub policies: Option<PolicyPart>,
    pub shifts: Option<ShiftPart>,
    pub fleet: Option<FleetPart>,
}

/// From which change number on to read. A head that fell back is another database, such as a restored one: everything is read anew.
fn since(head: i64, seen: Option<i64>) -> i64 {
    seen.filter(|seen| *seen < head).unwrap_or(0)
}

impl Store {
    /// Policies, shifts, switches and clusters as they were at one moment.
    pub(super) async fn intent_parts(&self, head: i64, seen: &Seen) -> Result<Intents, StoreError> {
        if seen.policies == Some(head) {
            return Ok(Intents::default());
        }
        let pool = self.pool.clone();
        let snapshot = begun(async move { pool.begin_with("begin isolation level repeatable read, read only").await });
        let mut snapshot = self.run(Query::MirrorSnapshot, snapshot).await?;
        // Read again: the head from before may be older than what this view shows.
        let heads = sqlx::query_as::<_, (i64, i64, i64)>("select last, shifts, fleet from policy_changes");
        let (head, shifts, fleet) = self.run(Query::MirrorHeads, heads.fetch_one(&mut *snapshot)).await?;
        let policies = self.policy_part(&mut snapshot, head, seen.policies).await?;
        let shifts = self.shift_part(&mut snapshot, shifts, seen.shifts).await?;
        let fleet = self.fleet_part(&mut snapshot, fleet, seen.fleet).await?;
        self.run(Query::MirrorSnapshot, snapshot.rollback()).await?;
        Ok(Intents { policies: Some(policies), shifts, fleet })
    }

    async fn policy_part(&self, conn: &mut Conn, head: i64, seen: Option<i64>) -> Result<PolicyPart, StoreError> {
        let since = since(head, seen);
        let changed = sqlx::query_as::<_, PolicyRow>(policy_select!("where p.change > $1")).bind(since);
        let changed = self.run(Query::MirrorPolicies, changed.fetch_all(&mut *conn)).await?;
        let present = sqlx::query_scalar::<_, String>("select uid from policies");
        let present = self.run(Query::MirrorPolicies, present.fetch_all(conn)).await?;
        let (changed, unreadable_count) = read_all(changed);
        let present: Result<Vec<PolicyUid>, _> = present.into_iter().map(PolicyUid::new).collect();
        Ok(PolicyPart {
            head,
            changed,
            unreadable: unreadable_count,
            present: present.map_err(|error| unreadable("a policy's UID", error))?,
        })
    }

    async fn shift_part(&self, conn: &mut Conn, head: i64, seen: Option<i64>) -> Result<Option<ShiftPart>, StoreError> {
        if seen == Some(head) {
            return Ok(None);
        }
        let present = "select id from shifts where active union all \
                       (select id from shifts where not active order by change desc limit $1)";
        let present = sqlx::query_scalar::<_, String>(present).bind(ENDED_SHIFTS);
        let present = self.run(Query::MirrorShifts, present.fetch_all(&mut *conn)).await?;
        let changed = sqlx::query_as::<_, ShiftRow>(shift_select!("where s.change > $1 and s.id = any($2)"));
        let changed = changed.bind(since(head, seen)).bind(&present);
        let changed = self.run(Query::MirrorShifts, changed.fetch_all(&mut *conn)).await?;
        let present: Result<BTreeSet<ShiftId>, _> = present.into_iter().map(ShiftId::new).collect();
        let mut present = present.map_err(|error| unreadable("a shift's id", error))?;
        let mut shifts = Vec::with_capacity(changed.len());
        for row in changed {
            let id = row.id()?;
            match row.read() {
                Ok(shift) => shifts.push(shift),
                Err(error) => {
                    tracing::error!(shift = %id, %error, "a stored shift is passed over, its weights stay as they are");
                    // What was known of it before is no longer so.
                    present.remove(&id);
                }
            }
        }
        Ok(Some(ShiftPart { head, changed: shifts, present, switches: self.switches_read(conn).await? }))
    }
}
