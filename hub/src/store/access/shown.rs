//! Certificates that agents show and that were not issued here: by the tool that owns the key of `--ca-cert`, or before the database
//! was restored from a backup. They are noted when they are first seen, so that they can be listed and revoked, and so that their
//! authority is trusted until they have ended. One whose authority was replaced is never noted: whoever stole the key of that
//! authority must not prolong it. A serial number alone says nothing: it stands in lists and logs, and whoever has a key writes
//! whichever he likes. Tests: `hub/tests/store_access.rs`.

use jiff::Timestamp;
use serde_json::json;
use switchyard_core::ids::ClusterName;

use super::{
    super::{
        Store,
        error::{Query, StoreError},
        policy_change::Caller,
        values::{Conn, at, text},
    },
    AccessError,
    certificates::{Asking, IssueError, LIST, WHAT, entry},
};

/// Certificates that are revoked without having been seen; every replica keeps their serial numbers in memory.
const MOST_UNSEEN: u32 = 1000;
/// The fingerprint of the certificate of a serial number; null: it was revoked before anybody showed it.
const NOTED: &str = "select fingerprint from agent_certificates where serial = $1";

/// A certificate that an agent showed, as the handshake verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its serial number, as [`super::certificates::NewCertificate`] writes it.
    pub serial: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub fingerprint: String,
    /// The id of the authority that it was verified against.
    pub authority: String,
    /// Its end.
    pub not_after: Timestamp,
}

/// What the store says about a certificate that an agent shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was issued here, or seen before.
    Known,
    /// It was seen for the first time, and is known from now on.
    Noted,
    /// Another one has this serial number.
    Another,
    /// It is not noted, since its authority was replaced or is not known.
    Replaced,
    /// It is not noted, since the cluster had too many lately.
    TooMany,
}

impl Store {
    /// Notes a certificate that an agent showed, when it is seen for the first time and its authority was not replaced.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn certificate_seen(
        &self,
        asking: &Asking<'_>,
        of: &ClusterName,
        instance: &str,
        shown: &Shown,
    ) -> Result<Seen, StoreError> {
        // Nearly always it is there: without a transaction then.
        let read = sqlx::query_scalar::<_, Option<String>>(NOTED).bind(&shown.serial);
        match self.run(Query::CertificatesGet, read.fetch_optional(&self.pool)).await? {
            Some(noted) if noted.as_ref() == Some(&shown.fingerprint) => return Ok(Seen::Known),
            Some(_) => return Ok(Seen::Another),
            None => {}
        }
        let mut txn = self.begin().await?;
        // As when one is issued: a revocation of all waits and sees this one.
        self.access_lock(&mut txn, of, false).await?;
        match self.check_pace(&mut txn, of).await {
            Ok(()) => {}
            Err(IssueError::Store(error)) => return Err(error),
            Err(_) => return Ok(Seen::TooMany),
        }
        if !self.note_seen(&mut txn, asking, of, instance, shown).await? {
            return Ok(Seen::Replaced);
        }
        self.commit(txn).await?;
        Ok(Seen::Noted)
    }

    /// Notes it, when its authority was not replaced; whether it is noted now.
    pub(super) async fn note_seen(
        &self,
        conn: &mut Conn,
        asking: &Asking<'_>,
        of: &ClusterName,
        instance: &str,
        shown: &Shown,
    ) -> Result<bool, StoreError> {
        let insert = "insert into agent_certificates \
                      (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) \
                      select $1, $2, $3, a.id, $5, 'seen', '', now(), $6 from authorities a where a.id = $4 and $6 > now() \
                      and not exists (select 1 from authorities y where y.issues_from > a.issues_from and y.issues_from <= now()) \
                      on conflict do nothing";
        let insert = sqlx::query(insert)
            .bind(&shown.serial)
            .bind(of.as_str())
            .bind(&shown.fingerprint)
            .bind(&shown.authority)
            .bind(text(instance, 128))
            .bind(jiff_sqlx::Timestamp::from(shown.not_after));
        if self.run(Query::CertificateWrite, insert.execute(&mut *conn)).await?.rows_affected() == 0 {
            // Nothing of this authority is noted, or another call with the same certificate came first.
            let read = sqlx::query_scalar::<_, Option<String>>(NOTED).bind(&shown.serial);
            let noted = self.run(Query::CertificatesGet, read.fetch_optional(conn)).await?;
            return Ok(noted.flatten().as_ref() == Some(&shown.fingerprint));
        }
        let detail = json!({
            "cluster": of,
            "serial": shown.serial,
            "fingerprint": shown.fingerprint,
            "authority": shown.authority,
            "instance": instance,
            "notAfter": shown.not_after,
        });
        self.audit(conn, entry(asking, "certificate.seen", detail)).await?;
        Ok(true)
    }

    /// Makes sure that the certificate of this serial number can be revoked: one that nobody knows is noted as the cluster's, so that it
    /// is refused when somebody shows it.
    pub(super) async fn certificate_to_revoke(
        &self,
        conn: &mut Conn,
        of: &ClusterName,
        serial: &str,
        caller: &Caller,
    ) -> Result<(), AccessError> {
        let read = sqlx::query_scalar::<_, String>("select cluster from agent_certificates where serial = $1");
        match self.run(Query::CertificatesGet, read.bind(serial).fetch_optional(&mut *conn)).await? {
            Some(name) if name == of.as_str() => return Ok(()),
            Some(_) => {
                return Err(AccessError::NotFound {
                    what: WHAT,
                    name: format!("{serial} of cluster {of}"),
                    list: LIST,
                });
            }
            None => {}
        }
        let count = "select count(*) from agent_certificates where proof = 'none' and not_after > now()";
        let count: i64 = self.run(Query::CertificatesGet, sqlx::query_scalar(count).fetch_one(&mut *conn)).await?;
        if count >= i64::from(MOST_UNSEEN) {
            return Err(AccessError::TooMany {
                what: "revoked certificates that no agent ever showed",
                most: MOST_UNSEEN,
            });
        }
        // Its end is not known; no certificate is good for longer than the authority that it comes from.
        let insert = "insert into agent_certificates (serial, cluster, instance, proof, proof_id, issued_at, not_after) \
                      select $1, $2, '', 'none', $3, now(), \
                      greatest(now() + interval '1 year', (select max(not_after) from authorities)) on conflict do nothing";
        let insert = sqlx::query(insert).bind(serial).bind(of.as_str()).bind(text(&caller.actor, 256));
        self.run(Query::CertificateWrite, insert.execute(conn)).await?;
        Ok(())
    }

    /// Of each cluster that is not removed the last certificate that is not revoked; of these the first end. None: there are none.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn certificates_end_first(&self) -> Result<Option<Timestamp>, StoreError> {
        let read = "select min(ends) from (select max(c.not_after) as ends from agent_certificates c \
                    where c.revoked_at is null and not exists \
                    (select 1 from cluster_states s where s.cluster = c.cluster and s.removed) group by c.cluster) as newest";
        let read = sqlx::query_scalar::<_, Option<jiff_sqlx::Timestamp>>(read);
        let first = self.run(Query::CertificatesGet, read.fetch_one(&self.pool)).await?;
        Ok(first.map(at))
    }
}
