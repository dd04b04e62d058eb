//! Keeps the authorities up to date: what the store holds, what the files hold, which of them are trusted; and signs with the one that
//! issues. One small read of the store each second. What the files say is taken in `sources.rs`, what operators are told in
//! `report.rs`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use switchyard_core::{
    access::authority::{Authority as Judged, issuing, life, trusted},
    ids::ClusterName,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, sleep},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    AuthorityOptions, CannotIssue, Keys, Leaf, OpenError, RotateError, SealError, SealingKey, csr,
    issue::{self, Signer},
    report::Told,
};
use crate::{
    door::{AgentRoot, AgentRoots},
    metrics::Metrics,
    store::{
        Caller, Store, StoreError,
        access::authorities::{NewAuthority, StoredAuthority},
    },
};

/// Between two looks at the store's version of access: what one replica makes, all trust well within
/// [`switchyard_core::access::authority::ISSUES_AFTER`].
const LOOK: Duration = Duration::from_secs(1);
/// The authorities are read anew after so many looks even when nothing was counted: the end of what each has issued moves.
const LOOKS_UNTIL_READ: u32 = 5;
/// Files are looked at every second time.
const LOOKS_UNTIL_FILES: u32 = 2;
/// Between two tries to read the store at the start.
const PAUSE: Duration = Duration::from_millis(500);
/// An own authority that ends within half a year is replaced: longer than any certificate of an agent lives.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(180 * 24);

/// The authority; clones are the same one.
#[derive(Clone, Debug)]
pub struct Authority(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) options: AuthorityOptions,
    pub(super) metrics: Metrics,
    state: Mutex<State>,
    roots: watch::Sender<Arc<AgentRoots>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    version: u64,
    pub(super) stored: Vec<StoredAuthority>,
    /// By id.
    pub(super) signers: BTreeMap<String, Arc<Signer>>,
    pub(super) sealing: Option<SealingKey>,
    /// What the files held when they were last looked at, good or not.
    pub(super) seen: Option<Zeroizing<String>>,
    /// Why the authority that issues has no key here.
    pub(super) trouble: Option<String>,
    /// What was wrong with the files at the last look.
    pub(super) file_trouble: Option<String>,
    /// What operators were told.
    pub(super) told: Told,
}

impl State {
    pub(super) fn judged(&self) -> Vec<Judged> {
        self.stored.iter().map(StoredAuthority::judged).collect()
    }
}

impl Authority {
    /// Reads files and store, and makes the hub's first authority when it has none. Afterwards [`Authority::run`] keeps it up to date.
    /// Waits for a store that does not answer.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be used as it was configured. An own key that cannot be opened is no error: this replica issues
    /// nothing, and says so.
    pub async fn open(store: Store, options: AuthorityOptions, metrics: Metrics) -> Result<Self, OpenError> {
        let (roots, _) = watch::channel(Arc::new(AgentRoots::default()));
        let authority = Self(Arc::new(Inner { store, options, metrics, state: Mutex::default(), roots }));
        let mut told = false;
        loop {
            match authority.load().await {
                Ok(()) => break,
                // It may go at any moment, also right after it was reached.
                Err(OpenError::Store(error)) if error.is_unavailable() => {
                    if !told {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(
                            error,
                            "the authorities of agents cannot be read yet; trying again until the store answers"
                        );
                    }
                    told = true;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        authority.publish();
        authority.report();
        Ok(authority)
    }

    async fn load(&self) -> Result<(), OpenError> {
        self.look_at_files().await?;
        self.read().await?;
        self.make_own(Moment::Start).await
    }

    /// The authorities that are trusted for agents, for the door.
    pub fn roots(&self) -> watch::Receiver<Arc<AgentRoots>> {
        self.0.roots.subscribe()
    }

    /// Of the SPIFFE IDs in certificates.
    pub fn trust_domain(&self) -> &str {
        &self.0.options.trust_domain
    }

    /// Keeps up with the store and the files until the token.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks: u32 = 0;
        let mut failing = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            looks = looks.wrapping_add(1);
            let result = self.look(looks).await;
            // Said once, not each second; what is trusted stays as it is meanwhile.
            match (&result, failing) {
                (Err(error), false) => {
                    let error: &dyn std::error::Error = error;
                    tracing::warn!(
                        error,
                        "the authorities of agents are not up to date; the last known ones stay in force"
                    );
                }
                (Ok(()), true) => tracing::info!("the authorities of agents are up to date again"),
                _ => {}
            }
            failing = result.is_err();
            self.publish();
            self.report();
            self.measure(looks).await;
        }
    }

    /// The leaf for an agent with this key. It counts only after the store has noted it.
    ///
    /// # Errors
    /// [`CannotIssue`].
    pub fn issue(&self, cluster: &ClusterName, key: &csr::PublicKey, now: Timestamp) -> Result<Leaf, CannotIssue> {
        let signer = self.signer(now)?;
        let ttl = SignedDuration::try_from(self.0.options.ttl).unwrap_or(SignedDuration::MAX);
        let ended = || CannotIssue::NoKey("its authority has ended".to_owned());
        let life = life(now, ttl, signer.not_after).ok_or_else(ended)?;
        Ok(signer.leaf(cluster, self.trust_domain(), key, life)?)
    }

    /// A new authority of the hub's own; all of them afterwards, as stored.
    ///
    /// # Errors
    /// [`RotateError`]; nothing is changed then.
    pub async fn rotate(&self, caller: &Caller) -> Result<Vec<StoredAuthority>, RotateError> {
        match &self.0.options.keys {
            Keys::Files { .. } => return Err(RotateError::External),
            Keys::None => return Err(CannotIssue::NoAuthority.into()),
            Keys::Own(_) => {}
        }
        // The file may have changed since the last look, and what is new must not be sealed under a key that was stolen.
        let new = self.sealing_read_now().await.and_then(|()| self.new_own()).map_err(|error| match error {
            OpenError::Sealing(error) => RotateError::Seal(error),
            OpenError::Make(error) => RotateError::Cannot(error.into()),
            error @ (OpenError::File(_) | OpenError::Store(_)) => CannotIssue::NoKey(error.to_string()).into(),
        })?;
        let stored = self.0.store.authority_rotate(caller, &new).await?;
        self.take(stored.clone(), None);
        self.publish();
        Ok(stored)
    }

    async fn look(&self, looks: u32) -> Result<(), OpenError> {
        if looks.is_multiple_of(LOOKS_UNTIL_FILES) {
            self.may_adopt_again();
            match self.look_at_files().await {
                Err(OpenError::Store(error)) => return Err(error.into()),
                result => self.say(result.err()),
            }
        }
        let version = self.0.store.access_version().await?;
        if version != self.state().version || looks.is_multiple_of(LOOKS_UNTIL_READ) {
            self.read().await?;
            self.make_own(Moment::Running).await?;
        }
        Ok(())
    }

    async fn read(&self) -> Result<(), StoreError> {
        // The version first: what comes in between is read again at the next look.
        let version = self.0.store.access_version().await?;
        let stored = self.0.store.authorities().await?;
        self.take(stored, Some(version));
        Ok(())
    }

    /// Takes what is stored, and opens the keys of those that it has none of.
    pub(super) fn take(&self, stored: Vec<StoredAuthority>, version: Option<u64>) {
        let mut state = self.state();
        state.stored = stored;
        state.version = version.unwrap_or(state.version);
        let known: Vec<String> = state.stored.iter().map(|one| one.authority.id.clone()).collect();
        state.signers.retain(|id, _| known.contains(id));
        let mut trouble = None;
        if let Some(sealing) = state.sealing.clone() {
            for one in state.stored.clone() {
                let id = one.authority.id.clone();
                if one.authority.sealed_key.is_none() || state.signers.contains_key(&id) {
                    continue;
                }
                match opened(&sealing, &one.authority) {
                    Ok(signer) => {
                        state.signers.insert(id, Arc::new(signer));
                    }
                    Err(error) => trouble = Some(format!("the key of authority {id} cannot be opened: {error}")),
                }
            }
        }
        if trouble.is_some() && trouble != state.trouble {
            let trouble = trouble.as_deref();
            tracing::error!(
                trouble,
                "an authority's key cannot be used here; give this replica the sealing key that it was made with, or rotate the authority"
            );
        }
        state.trouble = trouble;
    }

    /// Makes an own authority where there is none that could issue for long.
    async fn make_own(&self, moment: Moment) -> Result<(), OpenError> {
        let now = Timestamp::now();
        if !matches!(self.0.options.keys, Keys::Own(_)) || !needs_own(&self.state().stored, moment, now) {
            return Ok(());
        }
        let new = self.new_own()?;
        let (stored, made) = self.0.store.authority_found(&new, |stored| needs_own(stored, moment, now)).await?;
        if made {
            tracing::info!(authority = new.id, "the hub made an authority for agents' certificates");
        }
        self.take(stored, None);
        Ok(())
    }

    fn new_own(&self) -> Result<NewAuthority, OpenError> {
        let sealing = self.state().sealing.clone().ok_or(SealError::NotAKey)?;
        let root = issue::root(Timestamp::now())?;
        let sealed_key = Some(sealing.seal(&root.id, &root.key)?);
        Ok(NewAuthority { id: root.id, certificate_pem: root.pem, sealed_key, not_after: root.not_after })
    }

    /// The one that issues, or else the youngest whose key is here and that everybody trusts: replicas whose files differ for a while
    /// issue all the same.
    pub(super) fn signer(&self, now: Timestamp) -> Result<Arc<Signer>, CannotIssue> {
        if self.0.options.keys == Keys::None {
            return Err(CannotIssue::NoAuthority);
        }
        let state = self.state();
        let judged = state.judged();
        let first = issuing(&judged, now).and_then(|one| state.signers.get(&one.id));
        let mut others = trusted(&judged, now).into_iter().rev().filter_map(|one| state.signers.get(&one.id));
        first.or_else(|| others.next()).cloned().ok_or_else(|| {
            let none = || "no authority's key is here".to_owned();
            CannotIssue::NoKey(state.trouble.clone().unwrap_or_else(none))
        })
    }

    fn publish(&self) {
        let roots = {
            let state = self.state();
            let judged = state.judged();
            let trusted = trusted(&judged, Timestamp::now());
            let of = |id: &str| state.stored.iter().find(|one| one.authority.id == id);
            let certificates = trusted.into_iter().filter_map(|one| root_of(&of(&one.id)?.authority));
            AgentRoots(certificates.collect())
        };
        self.0.roots.send_if_modified(|present| {
            if **present == roots {
                return false;
            }
            let authorities: Vec<&str> = roots.0.iter().map(|root| root.id.as_str()).collect();
            tracing::info!(?authorities, "the authorities that agents' certificates are trusted of changed");
            *present = Arc::new(roots);
            true
        });
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What is under the lock is replaced in single steps that do not panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When it is asked whether an own authority is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The hub starts, with a sealing key: whoever started it wants an own one.
    Start,
    /// It has run for a while. When the youngest comes from files now, other replicas were started with files: this one is of before and
    /// must not put its own authority over theirs.
    Running,
}

/// True when the hub has no own authority that issues, or one that ends soon. One whose key cannot be opened is one: a wrong sealing key
/// must not make a new authority.
fn needs_own(stored: &[StoredAuthority], moment: Moment, now: Timestamp) -> bool {
    let Some(youngest) = stored.last() else { return true };
    if youngest.authority.sealed_key.is_none() {
        return moment == Moment::Start;
    }
    youngest.authority.not_after.duration_since(now) < ENDS_SOON
}

fn root_of(authority: &NewAuthority) -> Option<AgentRoot> {
    match CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes()) {
        Ok(der) => Some(AgentRoot { id: authority.id.clone(), der: der.to_vec() }),
        Err(error) => {
            tracing::error!(authority = authority.id, %error, "a stored authority cannot be read and is not trusted");
            None
        }
    }
}

fn opened(sealing: &SealingKey, authority: &NewAuthority) -> Result<Signer, String> {
    let sealed = authority.sealed_key.as_deref().unwrap_or_default();
    let key = sealing.open(&authority.id, sealed).map_err(|error| error.to_string())?;
    let key = KeyPair::try_from(key.as_slice()).map_err(|_| "it is no private key".to_owned())?;
    let der = CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes());
    let der = der.map_err(|_| "its certificate cannot be read".to_owned())?;
    Signer::new(&der, String::new(), key, authority.not_after).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(sealed: bool, days: i64) -> StoredAuthority {
        let now = Timestamp::UNIX_EPOCH;
        let authority = NewAuthority {
            id: "0123456789abcdef".to_owned(),
            certificate_pem: String::new(),
            sealed_key: sealed.then(|| vec![0; 32]),
            not_after: now + SignedDuration::from_hours(24 * days),
        };
        StoredAuthority { authority, created_at: now, issues_from: now, last_issued_ends: None }
    }

    #[test]
    fn a_hub_that_runs_puts_no_own_authority_over_one_of_files_and_one_that_starts_does() {
        let needs = |stored: &[StoredAuthority], moment| needs_own(stored, moment, Timestamp::UNIX_EPOCH);
        let (own, old, files) = (stored(true, 3650), stored(true, 179), stored(false, 3650));
        for moment in [Moment::Start, Moment::Running] {
            assert!(needs(&[], moment));
            assert!(!needs(&[files.clone(), own.clone()], moment));
            assert!(needs(&[own.clone(), old.clone()], moment), "it ends soon");
        }
        assert!(needs(&[own.clone(), files.clone()], Moment::Start));
        assert!(!needs(&[own, files], Moment::Running));
        assert!(!needs(&[stored(false, 1)], Moment::Running), "files are renewed by whoever wrote them");
    }
}
