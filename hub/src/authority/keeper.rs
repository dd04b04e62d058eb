//! Keeps the authorities up to date: what the store holds, what the files hold, which of them are trusted; and signs with the one that
//! issues. One small read of the store each second.

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
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    AuthorityOptions, CannotIssue, Keys, Leaf, OpenError, RotateError, SealError, SealedUnder, SealingKey, csr, files,
    issue::{self, Signer},
};
use crate::{
    door::{AgentRoot, AgentRoots},
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
/// An own authority that ends within half a year is replaced: longer than any certificate of an agent lives.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(180 * 24);

/// The authority; clones are the same one.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    options: AuthorityOptions,
    state: Mutex<State>,
    roots: watch::Sender<Arc<AgentRoots>>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    stored: Vec<StoredAuthority>,
    /// By id.
    signers: BTreeMap<String, Arc<Signer>>,
    sealing: Option<SealingKey>,
    /// What the files held when they were last looked at, good or not.
    seen: Option<Zeroizing<String>>,
    /// Why the authority that issues has no key here.
    trouble: Option<String>,
    /// What was wrong with the files at the last look.
    file_trouble: Option<String>,
}

impl State {
    fn judged(&self) -> Vec<Judged> {
        self.stored.iter().map(StoredAuthority::judged).collect()
    }
}

impl Authority {
    /// Reads files and store, and makes the hub's first authority when it has none. Afterwards [`Authority::run`] keeps it up to date.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be used as it was configured. An own key that cannot be opened is no error: this replica issues
    /// nothing, and says so.
    pub async fn open(store: Store, options: AuthorityOptions) -> Result<Self, OpenError> {
        let (roots, _) = watch::channel(Arc::new(AgentRoots::default()));
        let authority = Self(Arc::new(Inner { store, options, state: Mutex::default(), roots }));
        authority.look_at_files().await?;
        authority.read().await?;
        authority.make_own().await?;
        authority.publish();
        Ok(authority)
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
        let new = self.new_own().map_err(|error| match error {
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
            match self.look_at_files().await {
                Err(OpenError::Store(error)) => return Err(error.into()),
                result => self.say(result.err()),
            }
        }
        let version = self.0.store.access_version().await?;
        if version != self.state().version || looks.is_multiple_of(LOOKS_UNTIL_READ) {
            self.read().await?;
            self.make_own().await?;
        }
        Ok(())
    }

    /// Says once what is wrong with the files. What was taken before stays in force.
    fn say(&self, error: Option<OpenError>) {
        let Some(error) = error else { return };
        let words = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let mut state = self.state();
        if state.file_trouble.as_ref() != Some(&words) {
            let error = words.as_str();
            tracing::error!(error, "the files of the authority cannot be used; what they held before stays in force");
            state.file_trouble = Some(words);
        }
    }

    /// Takes what the files hold, when that changed since the last look.
    async fn look_at_files(&self) -> Result<(), OpenError> {
        match &self.0.options.keys {
            Keys::Own(under) => {
                let text = match under {
                    SealedUnder::File(path) => files::text(path).await?,
                    SealedUnder::Key(key) => Zeroizing::new(key.expose().to_owned()),
                };
                if !self.is_news(&text) {
                    return Ok(());
                }
                let key = SealingKey::parse(&text)?;
                // Keys that were opened with the one before stay in use: an authority that is sealed under the new one comes by a
                // rotation, and until then agents must not go without.
                let stored = {
                    let mut state = self.state();
                    state.sealing = Some(key);
                    state.stored.clone()
                };
                self.take(stored, None);
            }
            Keys::Files { certificate, key } => {
                let (certificate, key) = (files::text(certificate).await?, files::text(key).await?);
                let both = Zeroizing::new(format!("{}\n{}", certificate.as_str(), key.as_str()));
                if !self.is_news(&both) {
                    return Ok(());
                }
                let found = files::external(&certificate, &key, Timestamp::now())?;
                let (id, not_after) = (found.signer.id.clone(), found.signer.not_after);
                let new = NewAuthority { id: id.clone(), certificate_pem: found.pem, sealed_key: None, not_after };
                let stored = match self.0.store.authority_adopt(&new).await {
                    Ok(stored) => stored,
                    Err(error) => {
                        // Looked at again: the files are good, the store was away.
                        self.state().seen = None;
                        return Err(error.into());
                    }
                };
                self.state().signers.insert(id.clone(), Arc::new(found.signer));
                self.take(stored, None);
                tracing::info!(authority = id, "the authority of agents' certificates comes from files");
            }
            Keys::None => {}
        }
        Ok(())
    }

    fn is_news(&self, text: &Zeroizing<String>) -> bool {
        let mut state = self.state();
        let news = state.seen.as_ref() != Some(text);
        state.seen = Some(text.clone());
        news
    }

    async fn read(&self) -> Result<(), StoreError> {
        // The version first: what comes in between is read again at the next look.
        let version = self.0.store.access_version().await?;
        let stored = self.0.store.authorities().await?;
        self.take(stored, Some(version));
        Ok(())
    }

    /// Takes what is stored, and opens the keys of those that it has none of.
    fn take(&self, stored: Vec<StoredAuthority>, version: Option<u64>) {
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
    async fn make_own(&self) -> Result<(), OpenError> {
        let now = Timestamp::now();
        if !matches!(self.0.options.keys, Keys::Own(_)) || !needs_own(&self.state().stored, now) {
            return Ok(());
        }
        let new = self.new_own()?;
        let (stored, made) = self.0.store.authority_found(&new, |stored| needs_own(stored, now)).await?;
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
    fn signer(&self, now: Timestamp) -> Result<Arc<Signer>, CannotIssue> {
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

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What is under the lock is replaced in single steps that do not panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when the hub has no own authority that issues, or one that ends soon. One whose key cannot be opened is one: a wrong sealing key
/// must not make a new authority.
fn needs_own(stored: &[StoredAuthority], now: Timestamp) -> bool {
    let Some(youngest) = stored.last() else { return true };
    youngest.authority.sealed_key.is_none() || youngest.authority.not_after.duration_since(now) < ENDS_SOON
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
