//! A shift as rows: the document with what is searched for beside it, and the policies that it moves. A row that a newer version
//! wrote is an error of that row alone. No decisions in here.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    ids::{PolicyUid, ShiftId},
    shift::Shift,
};

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, from_json, signed, to_json, unreadable, unsigned},
};

/// A row of [`shift_select`] as Postgres gives it.
#[derive(sqlx::FromRow)]
pub(super) struct ShiftRow {
    id: String,
    doc: Json<Value>,
}

/// The columns of [`ShiftRow`], from `shifts s`; to be followed by joins and `where`.
macro_rules! shift_select {
    ($rest:literal) => {
        concat!("select s.id, s.doc from shifts s ", $rest)
    };
}
pub(super) use shift_select;

impl ShiftRow {
    /// Into core's type.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] naming the shift.
    pub fn read(self) -> Result<Shift, StoreError> {
        from_json(&format!("shift {}", self.id), self.doc)
    }

    /// Its id, whether or not the rest can be read.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when it is none.
    pub fn id(&self) -> Result<ShiftId, StoreError> {
        self.id.parse().map_err(|error| unreadable("a shift's id", error))
    }
}

/// Reads rows, passing over those that this version cannot read.
pub(super) fn read_shifts(rows: impl IntoIterator<Item = ShiftRow>) -> Vec<Shift> {
    let mut shifts = Vec::new();
    for row in rows {
        match row.read() {
            Ok(shift) => shifts.push(shift),
            Err(error) => {
                tracing::error!(error = %error, "a stored shift is passed over, its weights stay as they are")
            }
        }
    }
    shifts
}

impl Store {
    /// The next change number of a transaction that writes shifts or switches, with the database's time; locks out every other
    /// writer of policies and shifts until the end of the transaction. The time is read behind the lock: it never goes back from
    /// one writer to the next, unless the clock itself is set back.
    pub(super) async fn shift_change(&self, conn: &mut Conn) -> Result<(i64, Timestamp), StoreError> {
        let next = "update policy_changes set last = last + 1, shifts = last + 1 returning last, clock_timestamp()";
        let next = sqlx::query_as::<_, (i64, jiff_sqlx::Timestamp)>(next);
        let (change, now) = self.run(Query::PolicyChange, next.fetch_one(conn)).await?;
        Ok((change, at(now)))
    }

    /// For a transaction that has its change number, and finds that a shift is concerned: the database's time.
    pub(super) async fn shift_changes_too(&self, conn: &mut Conn) -> Result<Timestamp, StoreError> {
        let mark = "update policy_changes set shifts = last returning clock_timestamp()";
        let mark = sqlx::query_scalar::<_, jiff_sqlx::Timestamp>(mark);
        Ok(at(self.run(Query::PolicyChange, mark.fetch_one(conn)).await?))
    }

    /// One shift; the caller holds the lock.
    pub(super) async fn shift_in_txn(&self, conn: &mut Conn, id: &ShiftId) -> Result<Option<Shift>, StoreError> {
        let read = sqlx::query_as::<_, ShiftRow>(shift_select!("where s.id = $1")).bind(id.as_str());
        self.run(Query::ShiftGet, read.fetch_optional(conn)).await?.map(ShiftRow::read).transpose()
    }

    /// The version of a shift, whether or not the rest can be read.
    pub(super) async fn shift_version(&self, conn: &mut Conn, id: &ShiftId) -> Result<Option<u64>, StoreError> {
        let read = sqlx::query_scalar::<_, i64>("select version from shifts where id = $1").bind(id.as_str());
        let version = self.run(Query::ShiftGet, read.fetch_optional(conn)).await?;
        version.map(|version| unsigned("a shift's version", version)).transpose()
    }

    /// The shift that moves a policy now.
    pub(super) async fn shift_of_policy(&self, conn: &mut Conn, uid: &PolicyUid) -> Result<Option<Shift>, StoreError> {
        let read = shift_select!("join shift_policies p on p.shift_id = s.id where p.policy_uid = $1 and p.active");
        let read = sqlx::query_as::<_, ShiftRow>(read).bind(uid.as_str());
        self.run(Query::ShiftGet, read.fetch_optional(conn)).await?.map(ShiftRow::read).transpose()
    }

    /// A new shift with its policies.
    pub(super) async fn shift_insert(&self, conn: &mut Conn, shift: &Shift, change: i64) -> Result<(), StoreError> {
        let insert = "insert into shifts (id, version, state, doc, created_at, updated_at, change) \
                      values ($1, $2, $3, $4, $5, $5, $6)";
        let insert = sqlx::query(insert)
            .bind(shift.id.as_str())
            .bind(signed(shift.version))
            .bind(shift.state.to_string())
            .bind(to_json("a shift", shift)?)
            .bind(jiff_sqlx::Timestamp::from(shift.created_at))
            .bind(change);
        self.run(Query::ShiftInsert, insert.execute(&mut *conn)).await?;
        let columns = |read: fn(&switchyard_core::shift::Move) -> String| shift.moves.iter().map(read).collect();
        let uids: Vec<String> = columns(|one| one.uid.to_string());
        let namespaces: Vec<String> = columns(|one| one.policy.namespace.to_string());
        let names: Vec<String> = columns(|one| one.policy.name.to_string());
        let policies = "insert into shift_policies (shift_id, policy_uid, namespace, name, active) \
                        select $1, w.uid, w.namespace, w.name, case when w.uid = any($5) then true end \
                        from unnest($2::text[], $3::text[], $4::text[]) as w (uid, namespace, name)";
        let policies =
            sqlx::query(policies).bind(shift.id.as_str()).bind(uids).bind(namespaces).bind(names).bind(moved(shift));
        self.run(Query::ShiftInsert, policies.execute(conn)).await.map(|_| ())
    }

    /// The next version of a shift, and which policies it still moves.
    pub(super) async fn shift_update(&self, conn: &mut Conn, shift: &Shift, change: i64) -> Result<(), StoreError> {
        // First, so that a policy that is let go is free for the schema before anything else.
        let policies = "update shift_policies set active = case when policy_uid = any($2) then true end \
                        where shift_id = $1 and active is distinct from case when policy_uid = any($2) then true end";
        let policies = sqlx::query(policies).bind(shift.id.as_str()).bind(moved(shift));
        self.run(Query::ShiftUpdate, policies.execute(&mut *conn)).await?;
        let update = "update shifts set version = $2, state = $3, doc = $4, updated_at = clock_timestamp(), change = $5 \
                      where id = $1";
        let update = sqlx::query(update)
            .bind(shift.id.as_str())
            .bind(signed(shift.version))
            .bind(shift.state.to_string())
            .bind(to_json("a shift", shift)?)
            .bind(change);
        self.run(Query::ShiftUpdate, update.execute(conn)).await.map(|_| ())
    }
}

/// The policies that it moves now.
fn moved(shift: &Shift) -> Vec<String> {
    if !shift.is_active() {
        return Vec::new();
    }
    shift.present_moves().map(|one| one.uid.to_string()).collect()
}
