//! Gating switches: one word that holds the weights of a group of policies. Written under the policies' lock, so that a shift is
//! made either before a switch goes off or after it, never beside it. What a switch means is decided by core.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use switchyard_core::{
    ids::{Namespace, PolicyName, SwitchName, cut},
    policy::Violation,
    shift::view::GatingSwitch,
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::{AnswerError, Request},
    notice::Notice,
    policy_change::{Caller, caller_faults},
    values::{Conn, at, from_json, signed, text, to_json, unreadable, unsigned},
};

/// Switches at most: each is judged for each step of each shift.
pub const MOST_SWITCHES: usize = 500;
/// Patterns of one switch.
pub const MOST_PATTERNS: usize = 100;

/// A gating switch as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSwitch {
    /// What is judged by.
    pub switch: GatingSwitch,
    /// Counts up with every change.
    pub version: u64,
    /// Who changed it last.
    pub actor: String,
    /// When that was, by the database's clock.
    pub changed_at: Timestamp,
}

/// Why a switch was not changed. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The content is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// Somebody changed it since the caller looked.
    #[error("gating switch {name} is at version {present}, not at {expected}; read it again and decide anew")]
    VersionConflict {
        /// Which.
        name: SwitchName,
        /// The version that the caller has seen.
        expected: u64,
        /// The version now; 0 when there is no such switch.
        present: u64,
    },
    /// There is no such switch.
    #[error("there is no gating switch {0}")]
    NotFound(SwitchName),
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

impl From<AnswerError> for SwitchError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Reused { request_id, method } => SwitchError::RequestReused { request_id, method },
            AnswerError::Store(error) => SwitchError::Store(error),
        }
    }
}

#[derive(sqlx::FromRow)]
struct SwitchRow {
    name: String,
    version: i64,
    doc: Json<Value>,
    actor: String,
    changed_at: jiff_sqlx::Timestamp,
}

impl SwitchRow {
    /// A switch that this version cannot read counts as off for every policy: it must not count as on, and the others must be read.
    fn read(self) -> Result<StoredSwitch, StoreError> {
        let what = format!("gating switch {}", self.name);
        let name: SwitchName = self.name.parse().map_err(|error| unreadable(&what, error))?;
        let switch = from_json(&what, self.doc).unwrap_or_else(|error| {
            tracing::error!(switch = %name, %error, "a gating switch cannot be read and counts as off for every policy");
            let (policies, reason) = (vec!["*/*".to_owned()], "this version of the hub cannot read it".to_owned());
            GatingSwitch { name, policies, on: false, reason }
        });
        Ok(StoredSwitch {
            switch,
            version: unsigned(&what, self.version)?,
            actor: self.actor,
            changed_at: at(self.changed_at),
        })
    }
}

impl Store {
    /// Creates or replaces a switch; its reason is the caller's. No patterns given: those of the present one. `expected_version` 0:
    /// whatever is there. What is so already changes nothing.
    ///
    /// # Errors
    /// [`SwitchError`]; nothing is stored then.
    pub async fn switch_set(
        &self,
        caller: &Caller,
        name: &SwitchName,
        policies: Option<&[String]>,
        on: bool,
        expected_version: u64,
    ) -> Result<StoredSwitch, SwitchError> {
        let mut violations = caller_faults(caller);
        violations.extend(policies.map(pattern_faults).unwrap_or_default());
        check(violations)?;
        let content = (name, policies, on, &caller.reason, expected_version);
        let request = Request::new(caller, "SetGatingSwitch", &content)?;
        let mut txn = self.begin().await?;
        let (change, _) = self.shift_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<StoredSwitch>(&mut txn, &request).await? {
            return Ok(answer);
        }
        let present = self.switch_in_txn(&mut txn, name).await?;
        check_version(name, present.as_ref(), expected_version)?;
        let given = policies.map(<[String]>::to_vec);
        let patterns = given.or_else(|| present.as_ref().map(|present| present.switch.policies.clone()));
        let Some(patterns) = patterns else {
            return Err(SwitchError::Invalid { violations: vec![missing_patterns()] });
        };
        if present.is_none() {
            self.check_room(&mut txn).await?;
        }
        let reason = text(&caller.reason, 1024);
        let switch = GatingSwitch { name: name.clone(), policies: patterns, on, reason };
        if let Some(present) = present.as_ref().filter(|present| present.switch == switch) {
            self.keep_answer(&mut txn, &request, present).await?;
            self.commit(txn).await?;
            return Ok(present.clone());
        }
        let stored = self.switch_write(&mut txn, &switch, &caller.actor, change).await?;
        let old = present.map(|present| present.switch);
        let detail = json!({"name": name, "old": old, "new": switch, "version": stored.version});
        self.audit_switch(&mut txn, caller, "set-switch", detail).await?;
        self.keep_answer(&mut txn, &request, &stored).await?;
        self.notify(&mut txn, &Notice::Shifts).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Removes a switch, whether on or off; the weights that it held may move again.
    ///
    /// # Errors
    /// [`SwitchError`]; nothing is stored then.
    pub async fn switch_delete(
        &self,
        caller: &Caller,
        name: &SwitchName,
        expected_version: u64,
    ) -> Result<(), SwitchError> {
        check(caller_faults(caller))?;
        let request = Request::new(caller, "DeleteGatingSwitch", &(name, expected_version))?;
        let mut txn = self.begin().await?;
        self.shift_change(&mut txn).await?;
        if self.first_answer::<Value>(&mut txn, &request).await?.is_some() {
            return Ok(());
        }
        let present = self.switch_in_txn(&mut txn, name).await?;
        check_version(name, present.as_ref(), expected_version)?;
        let present = present.ok_or_else(|| SwitchError::NotFound(name.clone()))?;
        let delete = sqlx::query("delete from gating_switches where name = $1").bind(name.as_str());
        self.run(Query::SwitchWrite, delete.execute(&mut *txn)).await?;
        let detail = json!({"name": name, "old": present.switch, "version": present.version});
        self.audit_switch(&mut txn, caller, "delete-switch", detail).await?;
        self.keep_answer(&mut txn, &request, &json!({"deleted": name})).await?;
        self.notify(&mut txn, &Notice::Shifts).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// All switches by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn switches_all(&self) -> Result<Vec<StoredSwitch>, StoreError> {
        let mut conn = self.run(Query::SwitchesAll, self.pool.acquire()).await?;
        self.switches_read(&mut conn).await
    }

    pub(super) async fn switches_read(&self, conn: &mut Conn) -> Result<Vec<StoredSwitch>, StoreError> {
        let read = "select name, version, doc, actor, changed_at from gating_switches order by name collate \"C\"";
        let rows = self.run(Query::SwitchesAll, sqlx::query_as::<_, SwitchRow>(read).fetch_all(conn)).await?;
        rows.into_iter().map(SwitchRow::read).collect()
    }

    async fn switch_in_txn(&self, conn: &mut Conn, name: &SwitchName) -> Result<Option<StoredSwitch>, StoreError> {
        let read = "select name, version, doc, actor, changed_at from gating_switches where name = $1";
        let read = sqlx::query_as::<_, SwitchRow>(read).bind(name.as_str());
        self.run(Query::SwitchesAll, read.fetch_optional(conn)).await?.map(SwitchRow::read).transpose()
    }

    async fn switch_write(
        &self,
        conn: &mut Conn,
        switch: &GatingSwitch,
        actor: &str,
        change: i64,
    ) -> Result<StoredSwitch, StoreError> {
        let write = "insert into gating_switches as g (name, version, doc, actor, changed_at, change) \
                     values ($1, 1, $2, $3, clock_timestamp(), $4) \
                     on conflict (name) do update set version = g.version + 1, doc = excluded.doc, actor = excluded.actor, \
                     changed_at = excluded.changed_at, change = excluded.change \
                     returning name, version, doc, actor, changed_at";
        let write = sqlx::query_as::<_, SwitchRow>(write)
            .bind(switch.name.as_str())
            .bind(to_json("a gating switch", switch)?)
            .bind(text(actor, 256))
            .bind(change);
        self.run(Query::SwitchWrite, write.fetch_one(conn)).await?.read()
    }

    async fn check_room(&self, conn: &mut Conn) -> Result<(), SwitchError> {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from gating_switches");
        let count = self.run(Query::SwitchesAll, count.fetch_one(conn)).await?;
        if count < signed(MOST_SWITCHES as u64) {
            return Ok(());
        }
        let violation = Violation {
            field: "name".to_owned(),
            value: count.to_string(),
            problem: format!("would be one more than the {MOST_SWITCHES} gating switches that there can be"),
            remedy: "delete one, or let one switch cover more policies".to_owned(),
        };
        Err(SwitchError::Invalid { violations: vec![violation] })
    }

    async fn audit_switch(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        action: &'static str,
        detail: Value,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: &caller.actor,
            action,
            policy: None,
            shift: None,
            detail,
            reason: &caller.reason,
            request_id: &caller.request_id,
            source: &caller.source,
        };
        self.audit(conn, entry).await
    }
}

fn check(violations: Vec<Violation>) -> Result<(), SwitchError> {
    if violations.is_empty() { Ok(()) } else { Err(SwitchError::Invalid { violations }) }
}

fn check_version(name: &SwitchName, present: Option<&StoredSwitch>, expected: u64) -> Result<(), SwitchError> {
    let present = present.map_or(0, |present| present.version);
    if expected == 0 || expected == present {
        return Ok(());
    }
    Err(SwitchError::VersionConflict { name: name.clone(), expected, present })
}

fn missing_patterns() -> Violation {
    Violation {
        field: "policies".to_owned(),
        value: String::new(),
        problem: "is empty, and there is no such switch yet".to_owned(),
        remedy: format!("name 1 to {MOST_PATTERNS} patterns such as shop/* or */checkout"),
    }
}

/// What is wrong with patterns: each is `namespace/name`, where each side is a name, the beginning of one followed by `*`, or `*`.
pub(super) fn pattern_faults(patterns: &[String]) -> Vec<Violation> {
    let mut faults = Vec::new();
    if patterns.is_empty() || patterns.len() > MOST_PATTERNS {
        faults.push(Violation {
            field: "policies".to_owned(),
            value: patterns.len().to_string(),
            problem: "is the number of patterns".to_owned(),
            remedy: format!("name 1 to {MOST_PATTERNS}"),
        });
    }
    let mut seen = BTreeSet::new();
    for (i, pattern) in patterns.iter().enumerate().take(MOST_PATTERNS) {
        let problem = if !is_pattern(pattern) {
            "is no pattern for policies"
        } else if !seen.insert(pattern) {
            "is named twice"
        } else {
            continue;
        };
        faults.push(Violation {
            field: format!("policies[{i}]"),
            value: cut(pattern),
            problem: problem.to_owned(),
            remedy: "write namespace/name, where each side may be or end with a *, and name each once".to_owned(),
        });
    }
    faults
}

fn is_pattern(pattern: &str) -> bool {
    let Some((namespace, name)) = pattern.split_once('/') else { return false };
    // The beginning of a name may end where a whole name may not, as in `shop-*`.
    let begins = |side: &str, is_name: fn(&str) -> bool| match side.strip_suffix('*') {
        Some("") => true,
        Some(start) => is_name(start) || is_name(&format!("{start}x")),
        None => is_name(side),
    };
    begins(namespace, |text| text.parse::<Namespace>().is_ok())
        && begins(name, |text| text.parse::<PolicyName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        pattern_faults(&patterns).into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn patterns_are_names_beginnings_and_stars_on_both_sides_of_a_slash() {
        assert_eq!(faults(&["shop/checkout", "shop/*", "*/checkout", "*/*", "shop-*/a.b-*"]), Vec::<String>::new());
        for wrong in ["", "shop", "shop/", "/checkout", "shop/a/b", "*op/x", "Shop/x", "shop/a*b", "shop/\0", "shop/**"]
        {
            assert_eq!(faults(&[wrong]), ["policies[0]"], "{wrong:?}");
        }
    }

    #[test]
    fn patterns_are_counted_and_named_once() {
        assert_eq!(faults(&[]), ["policies"]);
        assert_eq!(faults(&["shop/a", "shop/a"]), ["policies[1]"]);
        let many: Vec<String> = (0..=MOST_PATTERNS).map(|i| format!("shop/p{i}")).collect();
        let faults = pattern_faults(&many);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("101"), "{faults:?}");
    }
}
