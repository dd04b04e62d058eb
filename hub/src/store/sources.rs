//! Resources of member clusters that ask for policies: each report of an agent is one transaction that takes the policies' lock,
//! checks that the session still is the cluster's, writes the claims, and lets core decide what becomes of each name. What is
//! unchanged costs one read. Tests: `hub/tests/store_sources.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ResourceUid},
    source::{MOST_CLAIMS, absence},
};
use uuid::Uuid;

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    notice::Notice,
    settle::Cause,
    source_rows::{ClaimPart, ClaimRow, NewClaim, StoredClaim, claim_select, read_claims, read_key},
    values::{Conn, signed, text, to_json, unreadable},
};

/// Characters of a refusal and of a failure; the columns' bounds.
const MOST_REFUSAL: usize = 8192;
const MOST_FAILURE: usize = 1024;

/// The stream of a cluster's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSession {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Which stream; a newer one of the same cluster ends the right of the older to write.
    pub id: Uuid,
    /// The address that it comes from, for the audit log; empty when it is not known.
    pub source: String,
}

/// Why a report was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A newer stream of the same cluster, at whichever replica.
    #[error("another agent of cluster {cluster} took over")]
    TakenOver {
        /// Which.
        cluster: ClusterName,
    },
    /// An operator removed the cluster.
    #[error(
        "an operator removed cluster {cluster}; stop its agent, or take the cluster back with `yardctl uncordon {cluster}`"
    )]
    ClusterRemoved {
        /// Which.
        cluster: ClusterName,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a report led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Resources that there was no room for.
    pub no_room: BTreeSet<PolicyKey>,
    /// Resources that came, said something else, or went.
    pub changed: usize,
}

/// What a complete list led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Resources that are gone.
    pub gone: usize,
    /// Resources that are newly missing and held.
    pub held: usize,
}

impl Store {
    /// Makes this stream the one of its cluster.
    ///
    /// # Errors
    /// [`SourceError::ClusterRemoved`], or the store's.
    pub async fn source_open(&self, session: &SourceSession) -> Result<(), SourceError> {
        let mut txn = self.begin().await?;
        if self.cluster_is_removed(&mut txn, &session.cluster).await? {
            return Err(SourceError::ClusterRemoved { cluster: session.cluster.clone() });
        }
        let open = "insert into policy_sources (cluster, session_id, opened_at) values ($1, $2, clock_timestamp()) \
                    on conflict (cluster) do update set session_id = excluded.session_id, opened_at = excluded.opened_at";
        let open = sqlx::query(open).bind(session.cluster.as_str()).bind(session.id);
        self.run(Query::SourceOpen, open.execute(&mut *txn)).await?;
        Ok(self.commit(txn).await?)
    }

    /// Takes resources that are new or changed, then those that were seen to be deleted.
    ///
    /// # Errors
    /// [`SourceError`]; nothing is stored then.
    pub async fn source_changes(
        &self,
        session: &SourceSession,
        upserts: &[NewClaim],
        deleted: &[(PolicyKey, ResourceUid)],
    ) -> Result<Taken, SourceError> {
        let cluster = &session.cluster;
        let keys: Vec<&PolicyKey> =
            upserts.iter().map(|new| &new.key).chain(deleted.iter().map(|(key, _)| key)).collect();
        let known = self.claims_known(cluster, &keys).await?;
        let news: Vec<&NewClaim> =
            upserts.iter().filter(|new| known.get(&new.key).is_none_or(|stored| !stored.says(new))).collect();
        if news.is_empty() && deleted.is_empty() {
            return Ok(Taken::default());
        }
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        self.source_fence(&mut txn, session).await?;
        let claim_change = self.claim_change(&mut txn).await?;
        let mut room = self.claims_room(&mut txn, cluster).await?;
        let mut no_room = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for new in news {
            if !known.contains_key(&new.key) && !changed.contains(&new.key) {
                if room == 0 {
                    no_room.insert(new.key.clone());
                    continue;
                }
                room -= 1;
            }
            self.claim_write(&mut txn, cluster, new, claim_change).await?;
            changed.insert(new.key.clone());
        }
        for (key, uid) in deleted {
            if self.claim_remove(&mut txn, cluster, key, Some(uid)).await? {
                changed.insert(key.clone());
            }
        }
        let cause = Cause { source: &session.source, ..Cause::resources(change) };
        for key in &changed {
            self.policy_settle(&mut txn, key, &cause).await?;
        }
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(Taken { no_room, changed: changed.len() })
    }

    /// Takes a complete list: what is missing from it is gone, or held when that is not believed.
    ///
    /// # Errors
    /// [`SourceError`]; nothing is stored then.
    pub async fn source_listed(
        &self,
        session: &SourceSession,
        listed: &BTreeSet<PolicyKey>,
    ) -> Result<Listed, SourceError> {
        let cluster = &session.cluster;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        self.source_fence(&mut txn, session).await?;
        let known = self.claims_held(&mut txn, cluster).await?;
        let renewed = self.claims_renewed(&mut txn, cluster).await?;
        let missing = absence(&known, listed, renewed);
        let reason = "it is missing from the complete list of its cluster";
        let cause = Cause { reason, source: &session.source, ..Cause::resources(change) };
        if !(missing.gone.is_empty() && missing.held.is_empty()) {
            let claim_change = self.claim_change(&mut txn).await?;
            for key in &missing.held {
                self.claim_hold(&mut txn, cluster, key, claim_change).await?;
                self.policy_settle(&mut txn, key, &cause).await?;
            }
            for key in &missing.gone {
                self.claim_remove(&mut txn, cluster, key, None).await?;
                self.policy_settle(&mut txn, key, &cause).await?;
            }
            self.notify(&mut txn, &Notice::Policies).await?;
        }
        let note = "update policy_sources set listed_at = clock_timestamp() where cluster = $1";
        let note = sqlx::query(note).bind(cluster.as_str());
        self.run(Query::SourceNote, note.execute(&mut *txn)).await?;
        self.commit(txn).await?;
        Ok(Listed { gone: missing.gone.len(), held: missing.held.len() })
    }

    /// Notes that the agent cannot see the resources now, and why; none: it can.
    ///
    /// # Errors
    /// [`SourceError`]; nothing is stored then.
    pub async fn source_failing(&self, session: &SourceSession, why: Option<&str>) -> Result<(), SourceError> {
        let why = why.map(|why| text(why, MOST_FAILURE)).filter(|why| !why.is_empty());
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        self.source_fence(&mut txn, session).await?;
        let note = "update policy_sources set failing = $2 where cluster = $1 and failing is distinct from $2";
        let note = sqlx::query(note).bind(session.cluster.as_str()).bind(why);
        if self.run(Query::SourceNote, note.execute(&mut *txn)).await?.rows_affected() > 0 {
            // Shown with the policies.
            let touch = sqlx::query("update policies set change = $2 where owner_cluster = $1");
            let touch = touch.bind(session.cluster.as_str()).bind(change);
            self.run(Query::SourceNote, touch.execute(&mut *txn)).await?;
            self.notify(&mut txn, &Notice::Policies).await?;
        }
        Ok(self.commit(txn).await?)
    }

    /// Holds the resources of clusters that are sources no longer: their policies stay in force, and callers of the API may take
    /// them over or delete them. The answer names those clusters.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is stored then.
    pub async fn sources_keep(&self, sources: &BTreeSet<ClusterName>) -> Result<BTreeSet<ClusterName>, StoreError> {
        let names: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        let claim_change = self.claim_change(&mut txn).await?;
        let hold = "update policy_claims set absent_since = clock_timestamp(), change = $2 \
                    where absent_since is null and cluster <> all ($1) returning cluster";
        let hold = sqlx::query_scalar::<_, String>(hold).bind(&names).bind(claim_change);
        let held = self.run(Query::ClaimsWrite, hold.fetch_all(&mut *txn)).await?;
        if held.is_empty() {
            // The counters are as they were: nothing is to be read anew.
            self.run(Query::Rollback, txn.rollback()).await?;
            return Ok(BTreeSet::new());
        }
        let touch = sqlx::query("update policies set change = $2 where owner_cluster <> all ($1)");
        let touch = touch.bind(&names).bind(change);
        self.run(Query::SourceNote, touch.execute(&mut *txn)).await?;
        let resources = held.len();
        let held = held.into_iter().map(ClusterName::new).collect::<Result<BTreeSet<_>, _>>();
        let held = held.map_err(|error| unreadable("a source", error))?;
        let entry = Entry {
            actor: "switchyard-hub",
            action: "source.keep",
            policy: None,
            shift: None,
            detail: json!({"clusters": held, "resources": resources}),
            reason: "--policy-source names these clusters no longer: their policies stay, and may be taken over by the API",
            request_id: "",
            source: "",
        };
        self.audit(&mut txn, entry).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(held)
    }

    /// The next change number of the claims; the caller holds the policies' lock.
    pub(super) async fn claim_change(&self, conn: &mut Conn) -> Result<i64, StoreError> {
        let next = sqlx::query_scalar("update policy_changes set claims = claims + 1 returning claims");
        self.run(Query::PolicyChange, next.fetch_one(conn)).await
    }

    /// All claims to one name.
    pub(super) async fn claims_of(&self, conn: &mut Conn, key: &PolicyKey) -> Result<Vec<StoredClaim>, StoreError> {
        let read = sqlx::query_as::<_, ClaimRow>(claim_select!("where namespace = $1 and name = $2"));
        let read = read.bind(key.namespace.as_str()).bind(key.name.as_str());
        // One that cannot be read is no proof that its resource is gone.
        self.run(Query::ClaimsGet, read.fetch_all(conn)).await?.into_iter().map(ClaimRow::read).collect()
    }

    /// Removes a claim; false when there is none such. With a UID only that resource's.
    pub(super) async fn claim_remove(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        key: &PolicyKey,
        uid: Option<&ResourceUid>,
    ) -> Result<bool, StoreError> {
        let delete = "delete from policy_claims where cluster = $1 and namespace = $2 and name = $3 \
                      and ($4::text is null or uid = $4)";
        let delete = sqlx::query(delete)
            .bind(cluster.as_str())
            .bind(key.namespace.as_str())
            .bind(key.name.as_str())
            .bind(uid.map(ResourceUid::as_str));
        let deleted = self.run(Query::ClaimsDelete, delete.execute(conn)).await?;
        Ok(deleted.rows_affected() > 0)
    }

    /// What a reader of claims that has come as far as `seen` does not know.
    pub(super) async fn claim_part(&self, head: i64, seen: Option<i64>) -> Result<Option<ClaimPart>, StoreError> {
        if seen == Some(head) {
            return Ok(None);
        }
        // A head that fell back is another database: everything is read anew.
        let since = seen.filter(|seen| *seen < head).unwrap_or(0);
        let changed = sqlx::query_as::<_, ClaimRow>(claim_select!("where change > $1")).bind(since);
        let changed = self.run(Query::MirrorClaims, changed.fetch_all(&self.pool)).await?;
        let present =
            sqlx::query_as::<_, (String, String, String)>("select cluster, namespace, name from policy_claims");
        let mut keys = BTreeSet::new();
        for (cluster, namespace, name) in self.run(Query::MirrorClaims, present.fetch_all(&self.pool)).await? {
            let what = "the key of a resource";
            let cluster = ClusterName::new(cluster).map_err(|error| unreadable(what, error))?;
            keys.insert((cluster, read_key(what, namespace, name)?));
        }
        Ok(Some(ClaimPart { head, changed: read_claims(changed), present: keys }))
    }

    async fn source_fence(&self, conn: &mut Conn, session: &SourceSession) -> Result<(), SourceError> {
        let fence = "select true from policy_sources where cluster = $1 and session_id = $2 for update";
        let fence = sqlx::query_scalar::<_, bool>(fence).bind(session.cluster.as_str()).bind(session.id);
        match self.run(Query::SourceFence, fence.fetch_optional(conn)).await? {
            Some(_) => Ok(()),
            None => Err(SourceError::TakenOver { cluster: session.cluster.clone() }),
        }
    }

    async fn claims_known(
        &self,
        cluster: &ClusterName,
        keys: &[&PolicyKey],
    ) -> Result<BTreeMap<PolicyKey, StoredClaim>, StoreError> {
        let (namespaces, names): (Vec<&str>, Vec<&str>) =
            keys.iter().map(|key| (key.namespace.as_str(), key.name.as_str())).unzip();
        let read =
            claim_select!("where cluster = $1 and (namespace, name) in (select * from unnest($2::text[], $3::text[]))");
        let read = sqlx::query_as::<_, ClaimRow>(read).bind(cluster.as_str()).bind(namespaces).bind(names);
        let rows = self.run(Query::ClaimsGet, read.fetch_all(&self.pool)).await?;
        Ok(read_claims(rows).into_iter().map(|stored| (stored.key.clone(), stored)).collect())
    }

    async fn claims_room(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<usize, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from policy_claims where cluster = $1");
        let count = self.run(Query::ClaimsGet, count.bind(cluster.as_str()).fetch_one(conn)).await?;
        Ok(MOST_CLAIMS.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX)))
    }

    async fn claims_held(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
    ) -> Result<BTreeMap<PolicyKey, bool>, StoreError> {
        let read = "select namespace, name, absent_since is not null from policy_claims where cluster = $1";
        let read = sqlx::query_as::<_, (String, String, bool)>(read).bind(cluster.as_str());
        let rows = self.run(Query::ClaimsGet, read.fetch_all(conn)).await?;
        let read = |(namespace, name, held)| Ok((read_key("the key of a resource", namespace, name)?, held));
        rows.into_iter().map(read).collect()
    }

    /// True when resources were replaced by others of their names since the last complete list.
    async fn claims_renewed(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<bool, StoreError> {
        let read = "select exists (select from policy_claims c join policy_sources s on s.cluster = c.cluster \
                    where c.cluster = $1 and c.renewed_at > coalesce(s.listed_at, '-infinity'))";
        let read = sqlx::query_scalar::<_, bool>(read).bind(cluster.as_str());
        self.run(Query::ClaimsGet, read.fetch_one(conn)).await
    }

    async fn claim_write(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        new: &NewClaim,
        claim_change: i64,
    ) -> Result<(), StoreError> {
        let (manifest, refusal) = match &new.wanted {
            Ok(wanted) => (Some(to_json("a manifest", &wanted.manifest)?), None),
            Err(faults) => (None, Some(text(faults, MOST_REFUSAL))),
        };
        // The age of a claim is that of its resource; what is said of it is as old as its generation.
        let write = "insert into policy_claims as c (cluster, namespace, name, uid, generation, manifest, refusal, first_seen, \
                     changed_at, change) \
                     select $1, $2, $3, $4, $5, $6, $7, t.now, t.now, $8 from (select clock_timestamp() as now) t \
                     on conflict (cluster, namespace, name) do update set uid = excluded.uid, generation = excluded.generation, \
                     manifest = excluded.manifest, refusal = excluded.refusal, absent_since = null, change = excluded.change, \
                     first_seen = case when c.uid = excluded.uid then c.first_seen else excluded.first_seen end, \
                     renewed_at = case when c.uid = excluded.uid then c.renewed_at else excluded.first_seen end, \
                     changed_at = case when c.uid = excluded.uid and c.generation = excluded.generation \
                     then c.changed_at else excluded.changed_at end";
        let write = sqlx::query(write)
            .bind(cluster.as_str())
            .bind(new.key.namespace.as_str())
            .bind(new.key.name.as_str())
            .bind(new.uid.as_str())
            .bind(signed(new.generation))
            .bind(manifest)
            .bind(refusal)
            .bind(claim_change);
        self.run(Query::ClaimsWrite, write.execute(conn)).await.map(|_| ())
    }

    async fn claim_hold(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        key: &PolicyKey,
        claim_change: i64,
    ) -> Result<(), StoreError> {
        let hold = "update policy_claims set absent_since = clock_timestamp(), change = $4 \
                    where cluster = $1 and namespace = $2 and name = $3";
        let hold = sqlx::query(hold)
            .bind(cluster.as_str())
            .bind(key.namespace.as_str())
            .bind(key.name.as_str())
            .bind(claim_change);
        self.run(Query::ClaimsWrite, hold.execute(conn)).await.map(|_| ())
    }
}
