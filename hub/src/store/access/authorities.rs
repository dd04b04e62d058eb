//! The authorities of agents' certificates. The hub's own keys are here as well, sealed by whoever calls; nothing here can open them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use switchyard_core::access::authority::{Authority, ISSUES_AFTER};

use super::{
    super::{
        Store,
        audit::Entry,
        error::{Query, StoreError},
        idempotency::Request,
        policy_change::Caller,
        values::{Conn, at},
    },
    AccessError, check_caller, made,
};

/// Who writes what the hub does by itself.
const HUB: &str = "switchyard-hub";
/// Authorities at a time: every handshake looks at all that are trusted. Those that nobody trusts any more leave after a week.
pub const MOST_AUTHORITIES: u32 = 20;

/// An authority to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct NewAuthority {
    /// The first 16 hexadecimal digits of the SHA-256 of its certificate.
    pub id: String,
    /// Its certificate, and what that was issued by, if anything.
    pub certificate_pem: String,
    /// Its key, sealed; none: the key is in a file.
    pub sealed_key: Option<Vec<u8>>,
    /// Of its certificate.
    pub not_after: Timestamp,
}

impl std::fmt::Debug for NewAuthority {
    /// Without the key, sealed as it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewAuthority").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// An authority as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAuthority {
    /// What was stored.
    pub authority: NewAuthority,
    /// When it came.
    pub created_at: Timestamp,
    /// From then on it issues.
    pub issues_from: Timestamp,
    /// The end of the last certificate that came from it and is not revoked; none: there is none, or all have ended long since.
    pub last_issued_ends: Option<Timestamp>,
}

impl StoredAuthority {
    /// What core decides by.
    pub fn judged(&self) -> Authority {
        Authority {
            id: self.authority.id.clone(),
            issues_from: self.issues_from,
            not_after: self.authority.not_after,
            last_issued_ends: self.last_issued_ends,
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    certificate_pem: String,
    sealed_key: Option<Vec<u8>>,
    created_at: jiff_sqlx::Timestamp,
    issues_from: jiff_sqlx::Timestamp,
    not_after: jiff_sqlx::Timestamp,
    last_issued_ends: Option<jiff_sqlx::Timestamp>,
}

impl Row {
    fn read(self) -> StoredAuthority {
        StoredAuthority {
            authority: NewAuthority {
                id: self.id,
                certificate_pem: self.certificate_pem,
                sealed_key: self.sealed_key,
                not_after: at(self.not_after),
            },
            created_at: at(self.created_at),
            issues_from: at(self.issues_from),
            last_issued_ends: self.last_issued_ends.map(at),
        }
    }
}

impl Store {
    /// All authorities, the youngest last.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn authorities(&self) -> Result<Vec<StoredAuthority>, StoreError> {
        let mut conn = self.run(Query::AuthoritiesGet, self.vital.acquire()).await?;
        self.authorities_in_txn(&mut conn).await
    }

    async fn authorities_in_txn(&self, conn: &mut Conn) -> Result<Vec<StoredAuthority>, StoreError> {
        // What is revoked needs no trust. So after a theft of the key its authority goes as soon as all that it issued is revoked.
        let read = "select id, certificate_pem, sealed_key, created_at, issues_from, not_after, \
                    (select max(c.not_after) from agent_certificates c where c.authority = a.id and c.revoked_at is null) \
                    as last_issued_ends \
                    from authorities a order by issues_from, id";
        let rows = self.run(Query::AuthoritiesGet, sqlx::query_as::<_, Row>(read).fetch_all(conn)).await?;
        Ok(rows.into_iter().map(Row::read).collect())
    }

    /// Stores the hub's first own authority, unless `needed` says, by what is stored, that there is one: of replicas that start at once
    /// one wins, and the others use its authority. It issues at once when there was none at all. All authorities, and
    /// whether this one came in.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn authority_found(
        &self,
        new: &NewAuthority,
        needed: impl FnOnce(&[StoredAuthority]) -> bool + Send,
    ) -> Result<(Vec<StoredAuthority>, bool), StoreError> {
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        let before = self.authorities_in_txn(&mut txn).await?;
        if !needed(&before) {
            return Ok((before, false));
        }
        let wait = if before.is_empty() { SignedDuration::ZERO } else { ISSUES_AFTER };
        self.authority_write(&mut txn, new, wait).await?;
        let reason = "the hub makes its first authority, or the one before has no key here";
        self.audit_authority(&mut txn, "authority.create", new, reason).await?;
        let after = self.authorities_in_txn(&mut txn).await?;
        self.commit(txn).await?;
        Ok((after, true))
    }

    /// Stores an authority whose key is in a file, or makes it the youngest again; once for each change of the files. All
    /// authorities.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn authority_adopt(&self, new: &NewAuthority) -> Result<Vec<StoredAuthority>, StoreError> {
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        let before = self.authorities_in_txn(&mut txn).await?;
        if before.last().is_some_and(|youngest| youngest.authority.id == new.id) {
            return Ok(before);
        }
        let wait = if before.is_empty() { SignedDuration::ZERO } else { ISSUES_AFTER };
        self.authority_write(&mut txn, new, wait).await?;
        self.audit_authority(&mut txn, "authority.adopt", new, "it is in the files of --ca-cert and --ca-key").await?;
        let after = self.authorities_in_txn(&mut txn).await?;
        self.commit(txn).await?;
        Ok(after)
    }

    /// Stores a new authority of the hub's own, which issues as soon as every replica trusts it. All authorities; the same request
    /// again stores nothing.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn authority_rotate(
        &self,
        caller: &Caller,
        new: &NewAuthority,
    ) -> Result<Vec<StoredAuthority>, AccessError> {
        check_caller(caller)?;
        let request = Request::new(caller, "RotateAuthority", &caller.reason)?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        if self.first_answer::<Value>(&mut txn, &request).await?.is_some() {
            return Ok(self.authorities_in_txn(&mut txn).await?);
        }
        self.authority_write(&mut txn, new, ISSUES_AFTER).await?;
        let after = self.authorities_in_txn(&mut txn).await?;
        if after.len() > MOST_AUTHORITIES as usize {
            return Err(AccessError::TooMany { what: "authorities", most: MOST_AUTHORITIES });
        }
        let detail = json!({"id": new.id, "notAfter": new.not_after, "authorities": after.len()});
        self.audit_access(&mut txn, caller, "authority.rotate", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(&new.id)).await?;
        self.commit(txn).await?;
        Ok(after)
    }

    async fn authority_write(
        &self,
        conn: &mut Conn,
        new: &NewAuthority,
        wait: SignedDuration,
    ) -> Result<(), StoreError> {
        // Younger than all others whatever their clocks said: ids decide between equal times, and must not.
        let insert = "insert into authorities as a (id, certificate_pem, sealed_key, created_at, issues_from, not_after) \
                      select $1, $2, $3, now, greatest(now + make_interval(secs => $4), \
                      (select max(issues_from) + interval '1 millisecond' from authorities)), $5 from clock_timestamp() now \
                      on conflict (id) do update set issues_from = excluded.issues_from";
        let insert = sqlx::query(insert)
            .bind(&new.id)
            .bind(&new.certificate_pem)
            .bind(&new.sealed_key)
            .bind(wait.as_secs_f64())
            .bind(jiff_sqlx::Timestamp::from(new.not_after));
        self.run(Query::AuthorityWrite, insert.execute(conn)).await.map(|_| ())
    }

    async fn audit_authority(
        &self,
        conn: &mut Conn,
        action: &'static str,
        new: &NewAuthority,
        reason: &str,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: HUB,
            action,
            policy: None,
            shift: None,
            detail: json!({"id": new.id, "notAfter": new.not_after, "external": new.sealed_key.is_none()}),
            reason,
            request_id: "",
            source: "",
        };
        self.audit(conn, entry).await
    }
}
