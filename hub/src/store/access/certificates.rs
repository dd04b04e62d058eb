//! Agents' certificates: noted when they are issued, with the proof that they were issued for; revoked here. Whether a proof is good is
//! judged in the transaction that notes the certificate, by the rows of that transaction.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::{
    access::tokens::{JoinRefused, Token},
    ids::ClusterName,
};

pub use super::shown::{Seen, Shown};
use super::{
    super::{
        Store,
        audit::{AuditResult, Entry},
        error::{Query, StoreError},
        idempotency::Request,
        policy_change::Caller,
        values::{Conn, at, text},
    },
    AccessError, MOST_LISTED, check_caller, cluster, made,
};

pub(super) const WHAT: &str = "certificate";
pub(super) const LIST: &str = "ListAgentCertificates (yardctl cluster certificates)";
/// Serial numbers that an entry of the audit log names.
const MOST_NAMED: usize = 100;
/// Certificates that a cluster gets within an hour: three agents with lives of a minute get 270.
const MOST_AN_HOUR: i64 = 1000;

/// What an agent shows for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A join token, and the SHA-256 of the public key that it is shown with.
    JoinToken {
        /// The token.
        token: Token,
        /// Of the SubjectPublicKeyInfo, DER.
        key: [u8; 32],
    },
    /// A ServiceAccount token that was verified; its issuer and subject.
    ServiceAccount {
        /// For the audit log.
        subject: String,
    },
    /// The present certificate.
    Certificate(Shown),
}

impl Proof {
    /// The word for its kind.
    pub fn word(&self) -> &'static str {
        match self {
            Proof::JoinToken { .. } => "join-token",
            Proof::ServiceAccount { .. } => "service-account",
            Proof::Certificate(_) => "certificate",
        }
    }

    fn id(&self) -> &str {
        match self {
            Proof::JoinToken { token, .. } => &token.id,
            Proof::ServiceAccount { subject } => subject,
            Proof::Certificate(shown) => &shown.serial,
        }
    }
}

/// A certificate that was signed and is not given away before it is noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCertificate {
    /// Whose agent it makes.
    pub cluster: ClusterName,
    /// Two lower-case hexadecimal digits for each octet, without leading zero octets.
    pub serial: String,
    /// `sha256:` and 64 hexadecimal digits; empty: it was revoked before anybody saw it.
    pub fingerprint: String,
    /// The id of the authority; empty: as above.
    pub authority: String,
    /// The agent process, as it names itself; at most 128 characters.
    pub instance: String,
    /// By the clock of the replica that signed it.
    pub issued_at: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

/// A certificate as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCertificate {
    /// What it says, and who asked.
    pub certificate: NewCertificate,
    /// What it was issued for: `join-token`, `service-account`, `certificate`. `seen`: it was not issued here, and an agent showed it.
    /// `none`: it was revoked before anybody saw it.
    pub proof: String,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it; empty: nobody did.
    pub revoked_by: String,
}

/// Why there is no certificate. Nothing is stored then, but for the audit log where somebody held a real secret.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// There is no such token, or its secret is another one.
    #[error("there is no such join token")]
    UnknownToken,
    /// The token is not good for this.
    #[error(transparent)]
    Join(#[from] JoinRefused),
    /// The certificate that was shown is revoked.
    #[error("certificate {0} was revoked")]
    Revoked(String),
    /// Another certificate than the one that was shown is noted under its serial number.
    #[error("a certificate was shown with the serial number of certificate {0}, which is another one")]
    Forged(String),
    /// The certificate that was shown is another cluster's.
    #[error("certificate {0} is another cluster's")]
    OtherCluster(String),
    /// Nobody noted the certificate that was shown, and its authority issues no more.
    #[error("certificate {0} is not known, and its authority was replaced")]
    NotNoted(String),
    /// The cluster got too many lately.
    #[error("cluster {0} got {MOST_AN_HOUR} certificates within an hour")]
    TooMany(ClusterName),
    /// Operators removed the cluster.
    #[error("cluster {0} was removed")]
    Removed(ClusterName),
    /// The authority is not in the store any more.
    #[error("authority {0} is not known any more")]
    UnknownAuthority(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IssueError {
    /// What the audit log calls it when the one who asked held something real; none: it says nothing of it.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            IssueError::Join(JoinRefused::Replayed) => Some("join-token.replayed"),
            IssueError::Join(JoinRefused::Expired | JoinRefused::Revoked | JoinRefused::OtherCluster) => {
                Some("join-token.refused")
            }
            IssueError::Revoked(_)
            | IssueError::Forged(_)
            | IssueError::OtherCluster(_)
            | IssueError::NotNoted(_)
            | IssueError::TooMany(_)
            | IssueError::Removed(_) => Some("certificate.refused"),
            IssueError::UnknownToken | IssueError::UnknownAuthority(_) | IssueError::Store(_) => None,
        }
    }
}

/// Who asked for a certificate, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking<'a> {
    /// As the log names callers.
    pub actor: &'a str,
    /// Where the call came from.
    pub source: &'a str,
}

#[derive(sqlx::FromRow)]
struct Row {
    serial: String,
    cluster: String,
    fingerprint: Option<String>,
    authority: Option<String>,
    instance: String,
    proof: String,
    issued_at: jiff_sqlx::Timestamp,
    not_after: jiff_sqlx::Timestamp,
    revoked_at: Option<jiff_sqlx::Timestamp>,
    revoked_by: Option<String>,
}

impl Row {
    fn read(self) -> Result<StoredCertificate, StoreError> {
        Ok(StoredCertificate {
            certificate: NewCertificate {
                cluster: cluster(&format!("certificate {}", self.serial), self.cluster)?,
                serial: self.serial,
                fingerprint: self.fingerprint.unwrap_or_default(),
                authority: self.authority.unwrap_or_default(),
                instance: self.instance,
                issued_at: at(self.issued_at),
                not_after: at(self.not_after),
            },
            proof: self.proof,
            revoked_at: self.revoked_at.map(at),
            revoked_by: self.revoked_by.unwrap_or_default(),
        })
    }
}

impl Store {
    /// Notes a certificate, if the proof is good for it. Only then may it be given away.
    ///
    /// # Errors
    /// [`IssueError`]; the certificate must be thrown away then.
    pub async fn certificate_issue(
        &self,
        asking: &Asking<'_>,
        new: &NewCertificate,
        proof: &Proof,
    ) -> Result<(), IssueError> {
        let mut txn = self.begin().await?;
        // Before anything is looked at: a revocation of all is either seen here, or waits and sees this one.
        self.access_lock(&mut txn, &new.cluster, false).await?;
        self.proof_judged(&mut txn, asking, new, proof).await?;
        self.check_not_removed(&mut txn, &new.cluster).await?;
        self.check_pace(&mut txn, &new.cluster).await?;
        // A replica that has no key of the youngest authority goes on with the one before, but not with one of which nothing good is
        // left: after a theft of its key that is what drops it, and one new certificate of it would have it trusted for its life.
        let insert = "insert into agent_certificates \
                      (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) \
                      select $1, $2, $3, a.id, $5, $6, $7, $8, $9 from authorities a where a.id = $4 and not (\
                      exists (select 1 from authorities y where y.issues_from > a.issues_from and y.issues_from <= now()) \
                      and not exists (select 1 from agent_certificates c \
                      where c.authority = a.id and c.revoked_at is null and c.not_after > now()))";
        let insert = sqlx::query(insert)
            .bind(&new.serial)
            .bind(new.cluster.as_str())
            .bind(&new.fingerprint)
            .bind(&new.authority)
            .bind(text(&new.instance, 128))
            .bind(proof.word())
            .bind(text(proof.id(), 256))
            .bind(jiff_sqlx::Timestamp::from(new.issued_at))
            .bind(jiff_sqlx::Timestamp::from(new.not_after));
        if self.run(Query::CertificateWrite, insert.execute(&mut *txn)).await?.rows_affected() == 0 {
            return Err(IssueError::UnknownAuthority(new.authority.clone()));
        }
        let detail = json!({
            "cluster": new.cluster,
            "serial": new.serial,
            "fingerprint": new.fingerprint,
            "authority": new.authority,
            "instance": new.instance,
            "notAfter": new.not_after,
            "proof": proof.word(),
            "proofId": proof.id(),
        });
        self.audit(&mut txn, entry(asking, "certificate.issue", detail)).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// Notes in the audit log that somebody who held a real secret got no certificate.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn certificate_refused(
        &self,
        asking: &Asking<'_>,
        cluster: &ClusterName,
        proof: &Proof,
        why: &IssueError,
    ) -> Result<(), StoreError> {
        let Some(action) = why.action() else { return Ok(()) };
        let detail = json!({
            "cluster": cluster,
            "proof": proof.word(),
            "proofId": proof.id(),
            "message": why.to_string(),
        });
        let mut conn = self.run(Query::AuditInsert, self.pool.acquire()).await?;
        self.audit_as(&mut conn, entry(asking, action, detail), AuditResult::Refused).await
    }

    async fn proof_judged(
        &self,
        conn: &mut Conn,
        asking: &Asking<'_>,
        new: &NewCertificate,
        proof: &Proof,
    ) -> Result<(), IssueError> {
        let of = &new.cluster;
        match proof {
            Proof::JoinToken { token, key } => {
                let judged = self.join_token_judged(conn, &token.id).await?.ok_or(IssueError::UnknownToken)?;
                // Before anything is said about the token: of a wrong secret nobody learns whether the id exists.
                if verify_slices_are_equal(&judged.hash, &token.hash()).is_err() {
                    return Err(IssueError::UnknownToken);
                }
                judged.token.used(of, *key, judged.now)?;
                Ok(self.join_token_use(conn, &token.id, *key).await?)
            }
            Proof::ServiceAccount { .. } => Ok(()),
            Proof::Certificate(shown) => {
                let serial = || shown.serial.clone();
                let read =
                    "select cluster, fingerprint, revoked_at is not null from agent_certificates where serial = $1";
                let read = sqlx::query_as::<_, (String, Option<String>, bool)>(read).bind(&shown.serial);
                match self.run(Query::CertificatesGet, read.fetch_optional(&mut *conn)).await? {
                    Some((_, _, true)) => Err(IssueError::Revoked(serial())),
                    // Whoever stole the key of an authority writes a serial number that he has seen somewhere. The authority needs no
                    // look of its own: the fingerprint is that of the whole certificate.
                    Some((_, noted, false)) if noted.as_ref() != Some(&shown.fingerprint) => {
                        Err(IssueError::Forged(serial()))
                    }
                    Some((name, ..)) if name != of.as_str() => Err(IssueError::OtherCluster(serial())),
                    Some(_) => Ok(()),
                    // One that is not noted came from a trusted authority all the same: from before the database was restored from
                    // a backup, or straight from the tool that owns the key. But whoever stole the key of an authority must not get
                    // over its rotation with a certificate that he made himself.
                    None if self.note_seen(conn, asking, of, &new.instance, shown).await? => Ok(()),
                    None => Err(IssueError::NotNoted(serial())),
                }
            }
        }
    }

    /// A cluster has one agent, and renews a few times a day: who asks all the time fills the store and the audit log. What is revoked
    /// does not count: after a revocation the rightful agent must get one however many the thief got.
    pub(super) async fn check_pace(&self, conn: &mut Conn, of: &ClusterName) -> Result<(), IssueError> {
        let read = "select count(*) from (select 1 from agent_certificates where cluster = $1 \
                    and issued_at > now() - interval '1 hour' and revoked_at is null limit $2) as lately";
        let read = sqlx::query_scalar::<_, i64>(read).bind(of.as_str()).bind(MOST_AN_HOUR);
        let lately = self.run(Query::CertificatesGet, read.fetch_one(conn)).await?;
        if lately >= MOST_AN_HOUR { Err(IssueError::TooMany(of.clone())) } else { Ok(()) }
    }

    async fn check_not_removed(&self, conn: &mut Conn, of: &ClusterName) -> Result<(), IssueError> {
        let read = sqlx::query_scalar::<_, bool>("select removed from cluster_states where cluster = $1");
        let removed = self.run(Query::FleetGet, read.bind(of.as_str()).fetch_optional(conn)).await?;
        if removed == Some(true) { Err(IssueError::Removed(of.clone())) } else { Ok(()) }
    }

    /// Certificates that have not ended, and revoked ones as long as they are kept: the good ones before the revoked ones, so that listing
    /// and revoking comes to an end however many there are; of each the newest first, at most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn certificates(&self, of: Option<&ClusterName>) -> Result<Vec<StoredCertificate>, StoreError> {
        let read = "select serial, cluster, fingerprint, authority, instance, proof, issued_at, not_after, revoked_at, revoked_by \
                    from agent_certificates where ($1::text is null or cluster = $1) \
                    and (not_after > now() or revoked_at is not null) order by revoked_at is not null, issued_at desc, serial limit $2";
        let read = sqlx::query_as::<_, Row>(read).bind(of.map(ClusterName::as_str)).bind(MOST_LISTED);
        let rows = self.run(Query::CertificatesGet, read.fetch_all(&self.pool)).await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Revokes one certificate of a cluster, known or not, or all of it that have not ended, and ends the join tokens of the cluster that were used:
    /// with such a one the holder of its key would get a certificate again. Those that were revoked by this call. The same
    /// request again gives none.
    ///
    /// # Errors
    /// [`AccessError`]; nothing is stored then.
    pub async fn certificates_revoke(
        &self,
        caller: &Caller,
        of: &ClusterName,
        serial: Option<&str>,
    ) -> Result<Vec<StoredCertificate>, AccessError> {
        check_caller(caller)?;
        let serial = serial.map(|serial| text(serial, 64));
        let content = (of, &serial, &caller.reason);
        let request = Request::new(caller, "RevokeAgentCertificates", &content)?;
        let mut txn = self.begin().await?;
        self.access_change(&mut txn).await?;
        if self.first_answer::<Value>(&mut txn, &request).await?.is_some() {
            return Ok(Vec::new());
        }
        self.access_lock(&mut txn, of, true).await?;
        if let Some(serial) = &serial {
            self.certificate_to_revoke(&mut txn, of, serial, caller).await?;
        }
        let update = "update agent_certificates set revoked_at = clock_timestamp(), revoked_by = $3 \
                      where cluster = $1 and ($2::text is null or serial = $2) and revoked_at is null and not_after > now() \
                      returning serial, cluster, fingerprint, authority, instance, proof, issued_at, not_after, revoked_at, revoked_by";
        let update = sqlx::query_as::<_, Row>(update).bind(of.as_str()).bind(&serial).bind(text(&caller.actor, 256));
        let rows = self.run(Query::CertificateWrite, update.fetch_all(&mut *txn)).await?;
        let mut revoked: Vec<StoredCertificate> = rows.into_iter().map(Row::read).collect::<Result<_, _>>()?;
        self.join_tokens_end_used(&mut txn, of, &caller.actor).await?;
        let serials: Vec<&str> = revoked.iter().map(|one| one.certificate.serial.as_str()).take(MOST_NAMED).collect();
        let detail = json!({"cluster": of, "serial": serial, "count": revoked.len(), "serials": serials});
        self.audit_access(&mut txn, caller, "certificate.revoke", detail).await?;
        self.keep_access_answer(&mut txn, &request, &made(of.as_str())).await?;
        self.commit(txn).await?;
        // All of them are revoked; what is shown has to fit into an answer.
        revoked.truncate(usize::try_from(MOST_LISTED).unwrap_or(usize::MAX));
        Ok(revoked)
    }

    /// Revoked ones that have not ended, with their end.
    pub(super) async fn certificates_revoked(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        let read =
            "select serial, not_after from agent_certificates where revoked_at is not null and not_after > now()";
        let read = sqlx::query_as::<_, (String, jiff_sqlx::Timestamp)>(read);
        let rows = self.run(Query::AccessBook, read.fetch_all(&self.vital)).await?;
        Ok(rows.into_iter().map(|(serial, end)| (serial, at(end))).collect())
    }
}

pub(super) fn entry<'a>(asking: &Asking<'a>, action: &'static str, detail: Value) -> Entry<'a> {
    Entry {
        actor: asking.actor,
        action,
        policy: None,
        shift: None,
        detail,
        reason: "",
        request_id: "",
        source: asking.source,
    }
}
