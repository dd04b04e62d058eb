//! Who calls, may he, how often: one layer around all services, so that the gRPC port and the gateway go through the same gate. It
//! makes an [`Access`] of what the door saw of the connection and of the `authorization` metadata, refuses what the table in
//! `switchyard_core::access` does not allow, and hands the rest on; the services check the finer scope themselves, after they have
//! read the message. A call without an [`Access`] may do nothing.
//!
//! It decides nothing about policies or traffic: it must not import `engine`, `elb` or `feed`. Tests: `hub/tests/access_*.rs`.

pub(crate) mod authenticate;
pub mod book;
mod calls;
mod fetch;
pub mod file;
pub mod jwt;
pub mod keys;
mod layer;
pub mod rates;
pub mod refusals;
pub mod streams;
mod waiting;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use switchyard_core::{
    access::{AccessConfig, Grants, Identity},
    ids::ClusterName,
};
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    metrics::{EndReason, Metrics},
    store::{Store, StoreError},
};
use authenticate::{Judge, taken_back};
use book::{Books, Held};
use calls::Calls;
use file::{AccessFile, AccessFileError, LOOK_EVERY};
use keys::KeySources;
use rates::{AccessRates, Rates};
use refusals::Refusals;
use streams::{Streams, over};

pub use authenticate::{Account, AccountRefused};

/// How often open streams are looked through; 8192 of them take less than a millisecond.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// How often buckets that are full again are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Characters of a text from outside in a log or an audit entry.
const MOST_ESCAPED: usize = 512;

/// How the gate is set up.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// `--dev`: who shows nothing may do everything, tokens may come over plain text, and the paces are a hundred times as high.
    pub development: bool,
    /// Of agents' certificates: `spiffe://<trust domain>/cluster/<name>`.
    pub trust_domain: String,
    /// Who may do what; without it only service tokens give rights.
    pub access_file: Option<PathBuf>,
    /// Paces and numbers of streams; multiplied here when this is a development hub.
    pub rates: AccessRates,
    /// How long equal refusals are put together; [`refusals::TOGETHER`] but in tests.
    pub refusals_every: Duration,
}

impl Default for AccessSettings {
    /// As without any flag.
    fn default() -> Self {
        Self {
            development: false,
            trust_domain: "switchyard".to_owned(),
            access_file: None,
            rates: AccessRates::default(),
            refusals_every: refusals::TOGETHER,
        }
    }
}

/// Why the gate cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The access file.
    #[error(transparent)]
    File(#[from] AccessFileError),
    /// The store.
    #[error("tokens and revocations cannot be read from the store")]
    Store(#[from] StoreError),
}

/// The gate, with all that it knows. Clones are one.
#[derive(Clone)]
pub struct Gatekeeper {
    inner: Arc<Inner>,
}

struct Inner {
    settings: AccessSettings,
    config: ArcSwap<InForce>,
    books: Books,
    keys: KeySources,
    rates: Rates,
    streams: Streams,
    calls: Calls,
    refusals: Refusals,
    metrics: Metrics,
    store: Store,
}

/// The access file that is in force.
struct InForce {
    /// 1 for the first one; each that is taken has the next.
    number: u64,
    config: Arc<AccessConfig>,
}

impl Gatekeeper {
    /// Reads the access file and the store; the issuers that the file names are asked for their keys from now on.
    ///
    /// # Errors
    /// [`StartError`] when the file has a fault, or the store does not answer.
    pub async fn start(
        settings: AccessSettings,
        store: Store,
        metrics: Metrics,
    ) -> Result<(Self, AccessTask), StartError> {
        let mut file = settings.access_file.as_ref().map(AccessFile::new);
        let config = match &mut file {
            // The first look always gives something.
            Some(file) => file.look().await.transpose()?.unwrap_or_default(),
            None => Arc::default(),
        };
        if file.is_none() && !settings.development {
            tracing::warn!(
                "there is no --access-file: nobody has a right but by a service token that this hub made before"
            );
        }
        metrics.access_file_ok.set(1);
        let rates = if settings.development { settings.rates.development() } else { settings.rates };
        let guard = Self {
            inner: Arc::new(Inner {
                config: ArcSwap::from_pointee(InForce { number: 1, config: Arc::clone(&config) }),
                books: Books::read(&store).await?,
                keys: KeySources::new(metrics.clone()),
                rates: Rates::new(&rates),
                streams: Streams::new(rates.streams, rates.all_streams),
                calls: Calls::new(settings.development),
                refusals: Refusals::default(),
                metrics,
                store,
                settings,
            }),
        };
        guard.keep_keys(&config);
        Ok((guard.clone(), AccessTask { guard, file }))
    }

    /// What the access file gives somebody; for resources of a cluster, whose callers nobody sees.
    pub fn grants_of(&self, identity: &Identity) -> Grants {
        self.inner.config.load().config.grants_of(identity)
    }

    /// The cluster whose agent shows a projected ServiceAccount token, by the `agents` of the access file. `said`: what the agent
    /// takes itself for; `source`: where it calls from.
    ///
    /// # Errors
    /// [`AccountRefused`] for the log; the agent is told only that its token is not accepted.
    pub async fn verify_service_account(
        &self,
        token: &str,
        said: Option<&ClusterName>,
        source: Option<IpAddr>,
    ) -> Result<Account, AccountRefused> {
        self.judge(&self.in_force()).account(token, said, source).await
    }

    /// How often the resources of one cluster may change policies.
    pub fn source_changes(&self) -> rates::Pace {
        let settings = &self.inner.settings;
        let rates = if settings.development { settings.rates.development() } else { settings.rates };
        rates.source_changes
    }

    /// Sees each new book of tokens, revocations and authorities that is read from the store.
    pub fn books(&self) -> watch::Receiver<Held> {
        self.inner.books.subscribe()
    }

    /// Callers and addresses whose rates are remembered.
    pub fn remembered(&self) -> usize {
        self.inner.rates.len()
    }

    /// Different refusals that wait to be written to the audit log.
    pub fn refusals_waiting(&self) -> usize {
        self.inner.refusals.len()
    }

    fn in_force(&self) -> Arc<AccessConfig> {
        Arc::clone(&self.inner.config.load().config)
    }

    fn judge<'a>(&'a self, config: &'a AccessConfig) -> Judge<'a> {
        Judge {
            development: self.inner.settings.development,
            trust_domain: &self.inner.settings.trust_domain,
            config,
            books: &self.inner.books,
            keys: &self.inner.keys,
            rates: &self.inner.rates,
            now: Timestamp::now(),
        }
    }

    fn keep_keys(&self, config: &AccessConfig) {
        let issuers = config.issuers().iter().map(|issuer| (&*issuer.issuer, &issuer.keys));
        let agents = config.agents().iter().map(|agent| (&*agent.issuer, &agent.keys));
        self.inner.keys.keep(issuers.chain(agents));
    }

    /// Ends streams whose proof does not hold any more.
    fn judge_streams(&self) {
        let (book, now, file) = (self.inner.books.current(), Timestamp::now(), self.inner.config.load_full());
        let ended = self.inner.streams.judge(file.number, |proof, compare| {
            over(proof, now).or_else(|| taken_back(proof, &book, now)).or_else(|| {
                let bound = matches!(proof.identity, Identity::Jwt { .. } | Identity::Certificate { .. });
                let changed = compare && bound && file.config.grants_of(&proof.identity) != proof.grants;
                changed.then_some(streams::Ended::Rights)
            })
        });
        for why in &ended {
            self.inner.metrics.access_streams_ended.get_or_create(&EndReason { reason: why.label() }).inc();
        }
        if !ended.is_empty() {
            tracing::info!(
                streams = ended.len(),
                "streams were ended since what they were opened with does not hold any more"
            );
        }
        self.inner.metrics.access_streams.set(i64::try_from(self.inner.streams.len()).unwrap_or(i64::MAX));
    }
}

/// What the gate does in the background.
pub struct AccessTask {
    guard: Gatekeeper,
    file: Option<AccessFile>,
}

impl AccessTask {
    /// Keeps the book, the access file and the audit log of refusals up to date until the token.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { guard, file } = self;
        let inner = &guard.inner;
        let looked = || guard.judge_streams();
        tokio::join!(
            inner.books.clone().run(inner.store.clone(), looked, shutdown.clone()),
            inner.refusals.clone().run(inner.store.clone(), inner.settings.refusals_every, shutdown.clone()),
            watch_file(&guard, file, &shutdown),
            watch_clock(&guard, &shutdown),
            tidy(&inner.rates, &shutdown),
        );
    }
}

async fn watch_file(guard: &Gatekeeper, file: Option<AccessFile>, shutdown: &CancellationToken) {
    let Some(mut file) = file else { return };
    let mut ticks = interval(LOOK_EVERY);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match file.look().await {
            None => {}
            Some(Ok(config)) => {
                guard.keep_keys(&config);
                let number = guard.inner.config.load().number + 1;
                guard.inner.config.store(Arc::new(InForce { number, config }));
                guard.inner.metrics.access_file_ok.set(1);
                tracing::info!(file = %file.path().display(), "the access file has changed and is in force");
                guard.judge_streams();
            }
            Some(Err(error)) => {
                guard.inner.metrics.access_file_ok.set(0);
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "the access file has changed and is refused; the one from before stays in force"
                );
            }
        }
    }
}

/// What ends by itself ends in time also while the store gives no answer.
async fn watch_clock(guard: &Gatekeeper, shutdown: &CancellationToken) {
    let mut ticks = interval(JUDGE_EVERY);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        guard.judge_streams();
        guard.inner.metrics.access_book_age_seconds.set(guard.inner.books.age().as_secs_f64());
    }
}

async fn tidy(rates: &Rates, shutdown: &CancellationToken) {
    let mut ticks = interval(TIDY_EVERY);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        rates.tidy();
    }
}

/// A text from outside in one line that forges nothing in a log, and not longer than 512 characters.
fn escaped(text: &str) -> String {
    let mut written = String::new();
    for c in text.chars() {
        let unseen =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if written.len() >= MOST_ESCAPED {
            written.push_str("...");
            break;
        }
        if c.is_control() || unseen {
            written.extend(c.escape_default());
        } else {
            written.push(c);
        }
    }
    written
}

/// The name of a code for logs and the audit log.
fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Who calls, what he may do, and where the call comes from. Found out once, before the call reaches its service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access(Arc<Found>);

#[derive(Debug)]
struct Found {
    identity: Identity,
    grants: Grants,
    source: Option<IpAddr>,
    expires_at: Option<Timestamp>,
}

impl Access {
    /// A caller with what he may do.
    pub fn new(identity: Identity, grants: Grants, source: Option<IpAddr>, expires_at: Option<Timestamp>) -> Self {
        Self(Arc::new(Found { identity, grants, source, expires_at }))
    }

    /// Anybody on this machine, with every right: what `--dev` makes of every call.
    pub fn development(source: Option<IpAddr>) -> Self {
        Self::new(Identity::Development, Grants::everything(), source, None)
    }

    /// Nobody, who may do nothing but what everybody may.
    pub fn anonymous(source: Option<IpAddr>) -> Self {
        Self::new(Identity::Anonymous, Grants::none(), source, None)
    }

    /// Of a request that came through the layer. One that did not is nobody's, so that a service that is served without the layer by
    /// mistake refuses everything.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(|| Self::anonymous(None))
    }

    /// Who calls.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What he may do.
    pub fn grants(&self) -> &Grants {
        &self.0.grants
    }

    /// The address that the call comes from, without its port, which says nothing after the call; empty when it is not known.
    pub fn source(&self) -> String {
        self.0.source.map(|source| source.to_string()).unwrap_or_default()
    }

    /// The same as an address; none when it is not known.
    pub fn source_address(&self) -> Option<IpAddr> {
        self.0.source
    }

    /// When what the caller proved himself with ends; none: never.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0.expires_at
    }

    /// May this caller speak as the agent of this cluster? Its own agent may, and with `--dev` everybody.
    pub fn speaks_for(&self, cluster: &ClusterName) -> bool {
        match &self.0.identity {
            Identity::Development => true,
            Identity::Agent { cluster: own, .. } => own == cluster,
            _ => false,
        }
    }

    /// The cluster whose agent calls; none for a caller, and with `--dev`, where the agent is believed what it says.
    pub fn agent(&self) -> Option<&ClusterName> {
        match &self.0.identity {
            Identity::Agent { cluster, .. } => Some(cluster),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_did_not_come_through_the_layer_may_do_nothing() {
        let access = Access::of(&tonic::Request::new(()));
        assert_eq!((access.identity(), access.grants()), (&Identity::Anonymous, &Grants::none()));
        assert!(!access.speaks_for(&"blue".parse().unwrap()));
    }

    #[test]
    fn a_text_from_outside_is_one_short_line() {
        assert_eq!(escaped("a\nb\u{1b}[31m\u{202e}c"), "a\\nb\\u{1b}[31m\\u{202e}c");
        assert_eq!(escaped(&"x".repeat(9000)).len(), MOST_ESCAPED + 3);
        assert!(escaped(&"\0".repeat(9000)).len() < MOST_ESCAPED + 20);
    }

    #[test]
    fn an_agent_speaks_for_its_own_cluster_only() {
        let (blue, green): (ClusterName, ClusterName) = ("blue".parse().unwrap(), "green".parse().unwrap());
        let identity = Identity::Agent { cluster: blue.clone(), serial: "01".to_owned() };
        let access = Access::new(identity, Grants::none(), None, None);
        assert!(access.speaks_for(&blue) && !access.speaks_for(&green));
        assert!(Access::development(None).speaks_for(&green));
        assert_eq!(access.agent(), Some(&blue));
    }
}
