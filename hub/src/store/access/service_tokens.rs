//! Service tokens: identities of programs, with grants of their own. Their names are given once, for the audit log's sake.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::types::Json;
use switchyard_core::access::{Grants, tokens::Token};

use super::{
    super::{
        Store,
        error::{Query, StoreError},
        idempotency::Request,
        policy_change::Caller,
        values::{Conn, at, from_json, text, to_json},
    },
    AccessError, BookedToken, MOST_LISTED, MOST_TOKENS, check_caller, hash, made, secret_shown,
};

const WHAT: &str = "service token";
const LIST: &str = "ListServiceTokens (yardctl token list)";

/// A service token as stored, without what its secret is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredServiceToken {
    /// Its name: an RFC 1123 label.
    pub name: String,
    /// What it is found by.
    pub id: String,
    /// What it may do; none: this version cannot read it.
    pub grants: Grants,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// It is good until then.
    pub expires_at: Timestamp,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    id: String,
    grants: Json<Value>,
    created_by: String,
    created_at: jiff_sqlx::Timestamp,
    expires_at: jiff_sqlx::Timestamp,
    last_used_at: Option<jiff_sqlx::Timestamp>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
}

impl Row {
    fn read(self) -> StoredServiceToken {
        StoredServiceToken {
            grants: grants(&self.name, self.grants),
            name: self.name,
            id: self.id,
            created_by: self.created_by,
            created_at: at(self.created_at),
            expires_at: at(self.expires_at),
            last_used_at: self.last_used_at.map(at),
            revoked_at: self.revoked_at.map(at),
        }
    }
}

/// Grants that a newer version wrote in another form give nothing here, and others must be read all the same.
fn grants(name: &str, grants: Json<Value>) -> Grants {
    from_json("the grants of a service token", grants).unwrap_or_else(|error: StoreError| {
        tracing::error!(token = name, %error, "the grants of a service token cannot be read, so it may do nothing here");
        Grants::none()
    })
}

impl Store {
    /// Keeps a new token. Name, grants and life are for whoever takes the call to check. The caller shows the secret once.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn service_token_create(
        &self,
        caller: &Caller,
        name: &str,
        grants: &Grants,
        ttl: SignedDuration,
        token: &Token,
    ) -> Result<StoredServiceToken, AccessError> {
        check_caller(caller)?;
        let content = (name, grants, ttl.as_secs(), &caller.reason);
        let request = Request::new(caller, "CreateServiceToken", &content)?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Value>(&mut txn, &request).await? {
            return Err(secret_shown(&request, WHAT, &answer));
        }
        let good = "select count(*) from service_tokens where revoked_at is null and expires_at > clock_timestamp()";
        let good = self.run(Query::ServiceTokensGet, sqlx::query_scalar::<_, i64>(good).fetch_one(&mut *txn)).await?;
        if good >= i64::from(MOST_TOKENS) {
            return Err(AccessError::TooMany { what: "service tokens that are good", most: MOST_TOKENS });
        }
        let take =
            "insert into service_token_names (name, taken_at) values ($1, clock_timestamp()) on conflict do nothing";
        let take = self.run(Query::ServiceTokenWrite, sqlx::query(take).bind(name).execute(&mut *txn)).await?;
        if take.rows_affected() == 0 {
            return Err(AccessError::NameTaken(name.to_owned()));
        }
        let insert = "insert into service_tokens (name, id, hash, grants, created_by, created_at, expires_at) \
                      select $1, $2, $3, $4, $5, now, now + make_interval(secs => $6) from clock_timestamp() now \
                      returning name, id, grants, created_by, created_at, expires_at, last_used_at, revoked_at";
        let insert = sqlx::query_as::<_, Row>(insert)
            .bind(name)
            .bind(&token.id)
            .bind(token.hash().to_vec())
            .bind(to_json("grants", grants)?)
            .bind(text(&caller.actor, 256))
            .bind(ttl.as_secs_f64());
        let stored = self.run(Query::ServiceTokenWrite, insert.fetch_one(&mut *txn)).await?.read();
        let detail = json!({"name": name, "id": stored.id, "grants": grants, "expiresAt": stored.expires_at});
        self.audit_access(&mut txn, caller, "service-token.create", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(name)).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Tokens, also those that have ended as long as they are kept; the newest first, at most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn service_tokens(&self) -> Result<Vec<StoredServiceToken>, StoreError> {
        let read = "select name, id, grants, created_by, created_at, expires_at, last_used_at, revoked_at \
                    from service_tokens order by created_at desc, name limit $1";
        let read = sqlx::query_as::<_, Row>(read).bind(MOST_LISTED);
        let rows = self.run(Query::ServiceTokensGet, read.fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(Row::read).collect())
    }

    /// Takes a token back; one that was taken back stays as it is.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn service_token_revoke(&self, caller: &Caller, name: &str) -> Result<StoredServiceToken, AccessError> {
        check_caller(caller)?;
        let request = Request::new(caller, "RevokeServiceToken", &(name, &caller.reason))?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        let before = self.service_token_in_txn(&mut txn, name).await?;
        let not_found = || AccessError::NotFound { what: WHAT, name: name.to_owned(), list: LIST };
        let before = before.ok_or_else(not_found)?;
        if self.first_answer::<Value>(&mut txn, &request).await?.is_some() {
            return Ok(before);
        }
        if before.revoked_at.is_some() {
            self.keep_access_answer(&mut txn, &request, &made(name)).await?;
            self.commit(txn).await?;
            return Ok(before);
        }
        let update = "update service_tokens set revoked_at = clock_timestamp(), revoked_by = $2 where name = $1 \
                      returning name, id, grants, created_by, created_at, expires_at, last_used_at, revoked_at";
        let update = sqlx::query_as::<_, Row>(update).bind(name).bind(text(&caller.actor, 256));
        let after = self.run(Query::ServiceTokenWrite, update.fetch_one(&mut *txn)).await?.read();
        let detail = json!({"name": after.name, "id": after.id, "lastUsedAt": after.last_used_at});
        self.audit_access(&mut txn, caller, "service-token.revoke", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(name)).await?;
        self.commit(txn).await?;
        Ok(after)
    }

    async fn service_token_in_txn(
        &self,
        conn: &mut Conn,
        name: &str,
    ) -> Result<Option<StoredServiceToken>, StoreError> {
        let read = "select name, id, grants, created_by, created_at, expires_at, last_used_at, revoked_at \
                    from service_tokens where name = $1 for update";
        let read = sqlx::query_as::<_, Row>(read).bind(text(name, 64));
        let row = self.run(Query::ServiceTokensGet, read.fetch_optional(conn)).await?;
        Ok(row.map(Row::read))
    }

    /// Notes that tokens were used; the minute counts, so that this writes little. Raises no version.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn token_used(&self, ids: &[String], at: Timestamp) -> Result<(), StoreError> {
        let update = "update service_tokens set last_used_at = date_trunc('minute', $2::timestamptz) \
                      where id = any($1) and (last_used_at is null or last_used_at < date_trunc('minute', $2::timestamptz))";
        let update = sqlx::query(update).bind(ids).bind(jiff_sqlx::Timestamp::from(at));
        self.run(Query::ServiceTokenUsed, update.execute(&self.pool)).await.map(|_| ())
    }

    pub(super) async fn service_tokens_good(&self) -> Result<Vec<BookedToken>, StoreError> {
        let read = "select id, hash, name, grants, expires_at from service_tokens \
                    where revoked_at is null and expires_at > now()";
        type Found = (String, Vec<u8>, String, Json<Value>, jiff_sqlx::Timestamp);
        let read = sqlx::query_as::<_, Found>(read);
        let rows = self.run(Query::AccessBook, read.fetch_all(&self.vital)).await?;
        let read = |(id, secret, name, granted, end): Found| {
            let hash = hash(&format!("service token {name}"), &secret)?;
            Ok(BookedToken { id, hash, grants: grants(&name, granted), name, expires_at: at(end) })
        };
        rows.into_iter().map(read).collect()
    }
}
