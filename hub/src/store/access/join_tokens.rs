//! Join tokens: made and revoked here, used where certificates are issued ([`super::certificates`]).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use switchyard_core::{
    access::tokens::{JoinToken, Token},
    ids::ClusterName,
};

use super::{
    super::{
        Store,
        error::{Query, StoreError},
        idempotency::Request,
        policy_change::Caller,
        values::{Conn, at, text},
    },
    AccessError, MOST_LISTED, MOST_TOKENS, check_caller, cluster, hash, made, secret_shown,
};

const WHAT: &str = "join token";
const LIST: &str = "ListJoinTokens (yardctl cluster tokens)";

/// A join token as stored, without what its secret is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJoinToken {
    /// Its id.
    pub id: String,
    /// The cluster that it is bound to.
    pub cluster: ClusterName,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// It is good until then.
    pub expires_at: Timestamp,
    /// When it was used first.
    pub used_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    cluster: String,
    created_by: String,
    created_at: jiff_sqlx::Timestamp,
    expires_at: jiff_sqlx::Timestamp,
    used_at: Option<jiff_sqlx::Timestamp>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
}

impl Row {
    fn read(self) -> Result<StoredJoinToken, StoreError> {
        Ok(StoredJoinToken {
            cluster: cluster(&format!("join token {}", self.id), self.cluster)?,
            id: self.id,
            created_by: self.created_by,
            created_at: at(self.created_at),
            expires_at: at(self.expires_at),
            used_at: self.used_at.map(at),
            revoked_at: self.revoked_at.map(at),
        })
    }
}

/// A row as its use is judged by.
pub(super) struct Judged {
    pub token: JoinToken,
    pub hash: [u8; 32],
    pub now: Timestamp,
}

impl Store {
    /// Keeps a new token, good for so long; 60 s to a day are for whoever takes the call to check. The caller shows the secret once.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn join_token_create(
        &self,
        caller: &Caller,
        cluster: &ClusterName,
        ttl: SignedDuration,
        token: &Token,
    ) -> Result<StoredJoinToken, AccessError> {
        check_caller(caller)?;
        let content = (cluster, ttl.as_secs(), &caller.reason);
        let request = Request::new(caller, "CreateJoinToken", &content)?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Value>(&mut txn, &request).await? {
            return Err(secret_shown(&request, WHAT, &answer));
        }
        let open = "select count(*) from join_tokens \
                    where used_at is null and revoked_at is null and expires_at > clock_timestamp()";
        let open = self.run(Query::JoinTokensGet, sqlx::query_scalar::<_, i64>(open).fetch_one(&mut *txn)).await?;
        if open >= i64::from(MOST_TOKENS) {
            return Err(AccessError::TooMany { what: "join tokens that nobody has used", most: MOST_TOKENS });
        }
        let insert = "insert into join_tokens (id, hash, cluster, created_by, created_at, expires_at) \
                      select $1, $2, $3, $4, now, now + make_interval(secs => $5) from clock_timestamp() now \
                      returning id, cluster, created_by, created_at, expires_at, used_at, revoked_at";
        let insert = sqlx::query_as::<_, Row>(insert)
            .bind(&token.id)
            .bind(token.hash().to_vec())
            .bind(cluster.as_str())
            .bind(text(&caller.actor, 256))
            .bind(ttl.as_secs_f64());
        let stored = self.run(Query::JoinTokenWrite, insert.fetch_one(&mut *txn)).await?.read()?;
        let detail = json!({"id": stored.id, "cluster": stored.cluster, "expiresAt": stored.expires_at});
        self.audit_access(&mut txn, caller, "join-token.create", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(&stored.id)).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Tokens, the newest first, at most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn join_tokens(&self, of: Option<&ClusterName>) -> Result<Vec<StoredJoinToken>, StoreError> {
        let read = "select id, cluster, created_by, created_at, expires_at, used_at, revoked_at from join_tokens \
                    where $1::text is null or cluster = $1 order by created_at desc, id limit $2";
        let read = sqlx::query_as::<_, Row>(read).bind(of.map(ClusterName::as_str)).bind(MOST_LISTED);
        let rows = self.run(Query::JoinTokensGet, read.fetch_all(&self.pool)).await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Takes a token back; one that was taken back stays as it is. A certificate that was issued for it is left alone.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn join_token_revoke(&self, caller: &Caller, id: &str) -> Result<StoredJoinToken, AccessError> {
        check_caller(caller)?;
        let request = Request::new(caller, "RevokeJoinToken", &(id, &caller.reason))?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        let before = self.join_token_in_txn(&mut txn, id).await?;
        let not_found = || AccessError::NotFound { what: WHAT, name: id.to_owned(), list: LIST };
        let before = before.ok_or_else(not_found)?;
        if self.first_answer::<Value>(&mut txn, &request).await?.is_some() {
            return Ok(before);
        }
        if before.revoked_at.is_some() {
            self.keep_access_answer(&mut txn, &request, &made(id)).await?;
            self.commit(txn).await?;
            return Ok(before);
        }
        let update = "update join_tokens set revoked_at = clock_timestamp(), revoked_by = $2 where id = $1 \
                      returning id, cluster, created_by, created_at, expires_at, used_at, revoked_at";
        let update = sqlx::query_as::<_, Row>(update).bind(id).bind(text(&caller.actor, 256));
        let after = self.run(Query::JoinTokenWrite, update.fetch_one(&mut *txn)).await?.read()?;
        let detail = json!({"id": after.id, "cluster": after.cluster, "usedAt": after.used_at});
        self.audit_access(&mut txn, caller, "join-token.revoke", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(id)).await?;
        self.commit(txn).await?;
        Ok(after)
    }

    async fn join_token_in_txn(&self, conn: &mut Conn, id: &str) -> Result<Option<StoredJoinToken>, StoreError> {
        // An id from outside may hold what the database cannot.
        let id = text(id, 64);
        let read = "select id, cluster, created_by, created_at, expires_at, used_at, revoked_at from join_tokens \
                    where id = $1 for update";
        let read = sqlx::query_as::<_, Row>(read).bind(id);
        self.run(Query::JoinTokensGet, read.fetch_optional(conn)).await?.map(Row::read).transpose()
    }

    /// Locks the row; none: there is no such token.
    pub(super) async fn join_token_judged(&self, conn: &mut Conn, id: &str) -> Result<Option<Judged>, StoreError> {
        let read = "select cluster, expires_at, revoked_at, used_by_key, hash, clock_timestamp() from join_tokens \
                    where id = $1 for update";
        type Found = (
            String,
            jiff_sqlx::Timestamp,
            Option<jiff_sqlx::Timestamp>,
            Option<Vec<u8>>,
            Vec<u8>,
            jiff_sqlx::Timestamp,
        );
        let read = sqlx::query_as::<_, Found>(read).bind(text(id, 64));
        let Some(found) = self.run(Query::JoinTokensGet, read.fetch_optional(conn)).await? else { return Ok(None) };
        let (name, expires_at, revoked_at, key, secret, now) = found;
        let what = format!("join token {id}");
        let token = JoinToken {
            cluster: cluster(&what, name)?,
            expires_at: at(expires_at),
            revoked_at: revoked_at.map(at),
            used_for: key.map(|key| hash(&what, &key)).transpose()?,
        };
        Ok(Some(Judged { token, hash: hash(&what, &secret)?, now: at(now) }))
    }

    /// Notes that it was used for this key; again for the same one changes nothing.
    pub(super) async fn join_token_use(&self, conn: &mut Conn, id: &str, key: [u8; 32]) -> Result<(), StoreError> {
        let update = "update join_tokens set used_at = clock_timestamp(), used_by_key = $2 \
                      where id = $1 and used_by_key is null";
        let update = sqlx::query(update).bind(id).bind(key.as_slice());
        self.run(Query::JoinTokenWrite, update.execute(conn)).await.map(|_| ())
    }

    /// Ends the tokens of a cluster that were used: with them whoever has the key would get another certificate.
    pub(super) async fn join_tokens_end_used(
        &self,
        conn: &mut Conn,
        of: &ClusterName,
        by: &str,
    ) -> Result<(), StoreError> {
        let update = "update join_tokens set revoked_at = clock_timestamp(), revoked_by = $2 \
                      where cluster = $1 and used_at is not null and revoked_at is null \
                      and expires_at > clock_timestamp()";
        let update = sqlx::query(update).bind(of.as_str()).bind(text(by, 256));
        self.run(Query::JoinTokenWrite, update.execute(conn)).await.map(|_| ())
    }
}
