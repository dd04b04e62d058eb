//! The audit log as callers see it, and what its reader says when somebody changed it behind the hub's back.

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{wait, yardctl::Yardctl};

/// Exit code of a log that does not fit together.
const BROKEN: i32 = 1;

/// An entry.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// About which policy; empty: none.
    pub policy: String,
    /// Why.
    pub reason: String,
    /// From where.
    pub source: String,
    /// `done`, `refused` or `failed`.
    pub result: String,
    /// The rest.
    pub detail: Value,
}

impl Entry {
    /// The cluster that it is about, for entries about certificates and join tokens.
    pub fn cluster(&self) -> &str {
        self.detail["cluster"].as_str().unwrap_or_default()
    }
}

/// All entries, oldest first.
///
/// # Errors
/// When yardctl does not give them.
pub async fn entries(yardctl: &Yardctl) -> anyhow::Result<Vec<Entry>> {
    let finished = yardctl.run(&["audit", "--oldest-first", "--limit", "0", "-o", "jsonl"], "").await?;
    anyhow::ensure!(finished.code == 0, "{finished}");
    let lines = finished.stdout.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    lines.collect()
}

/// Waits until the log has such an entry, and gives it: refusals are written some seconds later, equal ones together.
///
/// # Panics
/// After the deadline.
pub async fn says(yardctl: &Yardctl, what: &str, holds: impl Fn(&Entry) -> bool) -> Entry {
    wait::until(&format!("the audit log to say {what}"), async || {
        let all = entries(yardctl).await.map_err(|error| format!("{error:#}"))?;
        let found = all.iter().find(|entry| holds(entry)).cloned();
        found.ok_or_else(|| format!("{:#?}", &all[all.len().saturating_sub(30)..]))
    })
    .await
}

/// The log fits together; gives its head.
///
/// # Panics
/// When it does not.
pub async fn verified(yardctl: &Yardctl) -> String {
    let finished = yardctl.expect(&["audit", "verify", "-o", "json"], "").await;
    let verdict: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(verdict["verified"], true, "{verdict}");
    verdict["head"].as_str().expect("a head").to_owned()
}

/// Somebody with all rights at the database changes one entry, and the reader names it.
///
/// # Panics
/// When it does not.
pub async fn a_changed_entry_is_named(yardctl: &Yardctl, database: &str) {
    let all = entries(yardctl).await.expect("the audit log");
    let victim = all[all.len() / 2].id;
    let mut connection = PgConnection::connect(database).await.expect("the database");
    let id = i64::try_from(victim).expect("an id");
    let refused =
        sqlx::query("update audit set actor = 'nobody' where id = $1").bind(id).execute(&mut connection).await;
    assert!(refused.is_err(), "the log only grows, for everybody who leaves its triggers alone");
    for statement in ["alter table audit disable trigger user", "update audit set actor = 'nobody' where id = $1"] {
        let query = sqlx::query(statement);
        let query = if statement.contains("$1") { query.bind(id) } else { query };
        query.execute(&mut connection).await.expect("a superuser may");
    }
    sqlx::query("alter table audit enable trigger user").execute(&mut connection).await.expect("a superuser may");
    connection.close().await.expect("the connection ends");
    let finished = yardctl.run(&["audit", "verify"], "").await.expect("yardctl runs");
    let named = format!("entry {victim} was changed");
    assert!(finished.code == BROKEN && finished.stderr.contains(&named), "{finished}");
}
