//! What replicas have to agree on about access: join tokens, agents' certificates and their revocation, service tokens, authorities.
//! Of secrets there are only hashes, of keys only what is sealed. What a token or an authority means is decided by core
//! ([`switchyard_core::access`]).
//!
//! Locks, in this order: the row of `access_version` (changes by callers), the lock of a cluster (issue shared, revocation alone, so
//! that no certificate slips through while all are revoked), rows, the audit log. Issuing takes no part in the first, so that agents
//! do not wait for each other. Tests: `hub/tests/store_access.rs`.

pub mod authorities;
pub mod certificates;
pub mod join_tokens;
pub mod service_tokens;
mod shown;

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::{access::Grants, ids::ClusterName, policy::Violation};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::{AnswerError, Request},
    policy_change::{Caller, caller_faults},
    values::{Conn, at, to_json, unreadable},
};
use authorities::StoredAuthority;

/// Tokens of a kind that are good at a time: replicas keep service tokens in memory, and a list has one page.
pub const MOST_TOKENS: u32 = 1000;
/// Rows of a list.
const MOST_LISTED: i64 = 1000;

/// Why nothing about access was changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The request is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// There is none of this name or id.
    #[error("there is no {what} {name}; see which there are with {list}")]
    NotFound {
        /// A join token, a service token, a certificate.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// What shows those that there are.
        list: &'static str,
    },
    /// Names of service tokens are given once.
    #[error(
        "the name {0} was given to a service token before, and names are never given again, so that the audit log stays clear; use another \
         one, such as {0}-2"
    )]
    NameTaken(String),
    /// The secret was shown in an answer that is gone.
    #[error(
        "request id {request_id:?} made {what} {name} before, and its secret is shown only once; if that answer was lost, revoke {name} and \
         ask anew with a new request id"
    )]
    SecretShown {
        /// The id.
        request_id: String,
        /// A join token or a service token.
        what: &'static str,
        /// Its id or name.
        name: String,
    },
    /// There are too many.
    #[error(
        "there are {most} {what} already, the most that there can be; revoke some that nobody needs, or wait until some have ended"
    )]
    TooMany {
        /// Of which kind.
        what: &'static str,
        /// The bound.
        most: u32,
    },
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

impl From<AnswerError> for AccessError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Reused { request_id, method } => AccessError::RequestReused { request_id, method },
            AnswerError::Store(error) => AccessError::Store(error),
        }
    }
}

/// A service token that is good, as replicas keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookedToken {
    /// What a token is found by.
    pub id: String,
    /// The SHA-256 of its secret.
    pub hash: [u8; 32],
    /// The name of the caller that it makes.
    pub name: String,
    /// What it may do.
    pub grants: Grants,
    /// It is good until then.
    pub expires_at: Timestamp,
}

/// What every replica keeps in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessBook {
    /// What [`Store::access_version`] said when it was read, or a little before.
    pub version: u64,
    /// Service tokens that have neither ended nor been revoked, by id.
    pub tokens: HashMap<String, BookedToken>,
    /// Revoked certificates of agents that have not ended, by serial, with their end.
    pub revoked: HashMap<String, Timestamp>,
    /// All authorities, the youngest last.
    pub authorities: Vec<StoredAuthority>,
}

impl Store {
    /// Counts up with every change of what an [`AccessBook`] holds, but for what ends by itself. One small read.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn access_version(&self) -> Result<u64, StoreError> {
        let read = sqlx::query_scalar::<_, i64>("select version from access_version");
        let version = self.run(Query::AccessVersion, read.fetch_one(&self.vital)).await?;
        super::values::unsigned("the version of access", version)
    }

    /// All that a replica keeps in memory. Read it again when the version rises.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer. A token whose grants this version cannot read gives nobody anything.
    pub async fn access_book(&self) -> Result<AccessBook, StoreError> {
        // First: what changes while the rest is read shows as a higher version at the next look.
        let version = self.access_version().await?;
        let tokens = self.service_tokens_good().await?.into_iter().map(|token| (token.id.clone(), token)).collect();
        Ok(AccessBook {
            version,
            tokens,
            revoked: self.certificates_revoked().await?,
            authorities: self.authorities().await?,
        })
    }

    /// Counts the transaction, and keeps others out that change something of access, to its end. The database's time.
    async fn access_change(&self, conn: &mut Conn) -> Result<Timestamp, StoreError> {
        let next = "update access_version set version = version + 1 returning clock_timestamp()";
        let next = sqlx::query_scalar::<_, jiff_sqlx::Timestamp>(next);
        self.run(Query::AccessVersion, next.fetch_one(conn)).await.map(at)
    }

    /// Shared: certificates are issued. Alone: all of them are revoked. The lock is that of a row: an advisory lock could be taken by
    /// whoever may only read the database, and kept.
    async fn access_lock(&self, conn: &mut Conn, cluster: &ClusterName, alone: bool) -> Result<(), StoreError> {
        let row = sqlx::query("insert into cluster_turns (cluster) values ($1) on conflict do nothing");
        self.run(Query::AccessLock, row.bind(cluster.as_str()).execute(&mut *conn)).await?;
        let lock = if alone {
            "select from cluster_turns where cluster = $1 for update"
        } else {
            "select from cluster_turns where cluster = $1 for share"
        };
        self.run(Query::AccessLock, sqlx::query(lock).bind(cluster.as_str()).execute(conn)).await.map(|_| ())
    }

    async fn audit_access(
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

    /// As [`Store::keep_answer`], for requests that are not behind the policies' lock: under the same id one of them may have got here
    /// first.
    async fn keep_access_answer(
        &self,
        conn: &mut Conn,
        request: &Request<'_>,
        answer: &Value,
    ) -> Result<(), AccessError> {
        let insert = "insert into idempotency (request_id, method, fingerprint, response) values ($1, $2, $3, $4) \
                      on conflict do nothing";
        let insert = sqlx::query(insert)
            .bind(&request.key)
            .bind(request.method)
            .bind(request.fingerprint().as_slice())
            .bind(to_json("an answer", answer)?);
        if self.run(Query::IdempotencyPut, insert.execute(conn)).await?.rows_affected() == 1 {
            return Ok(());
        }
        Err(AccessError::RequestReused { request_id: request.id.to_owned(), method: "concurrent".to_owned() })
    }
}

fn check_caller(caller: &Caller) -> Result<(), AccessError> {
    let violations = caller_faults(caller);
    if violations.is_empty() { Ok(()) } else { Err(AccessError::Invalid { violations }) }
}

/// The answer that is kept of a request whose real answer held a secret.
fn made(name: &str) -> Value {
    json!({ "made": name })
}

fn secret_shown(request: &Request<'_>, what: &'static str, answer: &Value) -> AccessError {
    let name = answer.get("made").and_then(Value::as_str).unwrap_or_default().to_owned();
    AccessError::SecretShown { request_id: request.id.to_owned(), what, name }
}

fn hash(what: &str, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|error| unreadable(what, error))
}

fn cluster(what: &str, name: String) -> Result<ClusterName, StoreError> {
    ClusterName::new(name).map_err(|error| unreadable(what, error))
}
