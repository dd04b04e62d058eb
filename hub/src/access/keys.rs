//! The keys of the issuers that the access file names: fetched by one task for each, every ten minutes, and sooner when a token names a
//! key that is not known, but not more often than every ten seconds, whatever is sent from outside. While an issuer is away its last
//! keys stay good for a day; one that answers is obeyed, also when it has no key any more. A token that names an unknown key waits for
//! a fetch that begins after it came: a new key must not cost a request.
//!
//! What is fetched decides who is believed: it comes from the place in the access file, over TLS that is verified, without redirects.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http::Uri;
use jiff::Timestamp;
use rand::Rng;
use serde::Deserialize;
use switchyard_core::access::config::Keys;
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    fetch::{ClientError, FetchError, Fetcher, MOST_BYTES, TIME_LIMIT, chain},
    jwt::{Asked, JwtError, Key, Unverified, Verified, key_set},
    waiting::Waiting,
};
use crate::metrics::{Fetch, Metrics};

/// Keys are announced days before they are used; ten minutes are soon enough for those and for keys that were taken back.
const REFRESH: Duration = Duration::from_secs(600);
/// A file is read again that often, as other files of secrets are.
const REFRESH_FILE: Duration = Duration::from_secs(2);
/// After a fetch that failed.
const RETRY: Duration = Duration::from_secs(30);
/// Tokens with keys that nobody knows make the hub ask the issuer no more often than this.
const UNKNOWN_EVERY: Duration = Duration::from_secs(10);
/// A file costs nobody anything.
const UNKNOWN_EVERY_FILE: Duration = Duration::from_secs(1);
/// Without a word from the issuer its keys are believed that long: an issuer that is away for a night must not stop a deployment, a
/// key that was taken back must not live for ever.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Calls that wait for one issuer's keys at a time; each of them holds little more than its headers, 16 KiB at the most.
const MOST_WAITING: usize = 1024;
/// Of those, the calls from one address: names of keys that there are not cost nothing, and must not keep others from waiting.
const MOST_WAITING_OF_SOURCE: usize = 32;
/// The longest that a call waits: a fetch of two documents that is under way, the pause between two fetches, and a fetch of its own.
const WAIT: Duration = Duration::from_secs(30);

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The token.
    #[error(transparent)]
    Token(#[from] JwtError),
    /// The issuer.
    #[error("the keys of the issuer {0} could not be read")]
    Away(String),
}

/// Why keys could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0} {1}")]
    Fetch(String, #[source] FetchError),
    #[error("{0} cannot be asked")]
    Client(String, #[source] ClientError),
    #[error("the file {0} cannot be read")]
    File(String, #[source] std::io::Error),
    #[error("what {0} gave is not usable: {1}")]
    Content(String, &'static str),
}

#[derive(Clone, Default)]
struct State {
    /// Reads that have begun.
    begun: u64,
    /// Reads that have ended; one is under way while there are more that have begun.
    ended: u64,
    loaded: Option<Arc<Loaded>>,
    /// The last read failed.
    away: bool,
}

struct Loaded {
    keys: Vec<Key>,
    at: Instant,
}

/// The keys of one issuer.
pub struct KeySource {
    issuer: String,
    place: Keys,
    state: watch::Sender<State>,
    wanted: Notify,
    waiting: Waiting,
    /// [`KEPT`] but in tests.
    kept: Duration,
    metrics: Metrics,
}

impl KeySource {
    fn new(issuer: &str, place: &Keys, kept: Duration, metrics: &Metrics) -> Self {
        Self {
            issuer: issuer.to_owned(),
            place: place.clone(),
            state: watch::Sender::default(),
            wanted: Notify::new(),
            waiting: Waiting::new(MOST_WAITING, MOST_WAITING_OF_SOURCE),
            kept,
            metrics: metrics.clone(),
        }
    }

    /// Believes a token of this issuer, or not; waits for the issuer's keys when they are not known, or not this one. `source`: where
    /// the token comes from.
    pub(super) async fn verify(
        &self,
        token: Unverified<'_>,
        asked: Asked<'_>,
        source: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Verified, KeyError> {
        let mut state = self.state.borrow().clone();
        if self.lacks(&state, &token) {
            state = self.newer(&state, &token, source).await?;
        }
        let Some(loaded) = self.good(&state) else {
            return Err(self.is_away());
        };
        match token.key(&loaded.keys) {
            Ok(key) => Ok(token.verify(key, asked, now)?),
            // It may be a new key that the issuer could not be asked for.
            Err(JwtError::UnknownKey(_)) if state.away => Err(self.is_away()),
            Err(other) => Err(other.into()),
        }
    }

    fn is_away(&self) -> KeyError {
        KeyError::Away(self.issuer.clone())
    }

    /// The keys, while they are not too old.
    fn good<'s>(&self, state: &'s State) -> Option<&'s Loaded> {
        state.loaded.as_deref().filter(|loaded| loaded.at.elapsed() < self.kept)
    }

    /// True when another read could bring the token's key.
    fn lacks(&self, state: &State, token: &Unverified<'_>) -> bool {
        self.good(state).is_none_or(|loaded| matches!(token.key(&loaded.keys), Err(JwtError::UnknownKey(_))))
    }

    /// What is known when the key is there, or else after a read that began after `known` was seen: one that was under way then may have
    /// begun before the issuer published the key. A read that failed is an answer too: the next one may be far away.
    async fn newer(&self, known: &State, token: &Unverified<'_>, source: Option<IpAddr>) -> Result<State, KeyError> {
        let _place = self.waiting.enter(source).ok_or_else(|| self.is_away())?;
        let mut states = self.state.subscribe();
        let look = async {
            loop {
                let state = states.borrow_and_update().clone();
                let failed = state.ended > known.ended && state.away;
                if state.ended > known.begun || failed || !self.lacks(&state, token) {
                    return Some(state);
                }
                if state.begun == state.ended {
                    self.wanted.notify_one();
                }
                states.changed().await.ok()?;
            }
        };
        timeout(WAIT, look).await.ok().flatten().ok_or_else(|| self.is_away())
    }

    /// Never ends; its handle ends it.
    async fn run(self: Arc<Self>) {
        let (refresh, unknown_every) = match &self.place {
            Keys::File(_) => (REFRESH_FILE, UNKNOWN_EVERY_FILE),
            _ => (REFRESH, UNKNOWN_EVERY),
        };
        let mut text = Bytes::new();
        let mut allowed_at = Instant::now();
        loop {
            self.state.send_modify(|state| state.begun += 1);
            // Whoever asked until now waits for the read that begins here.
            let _asked = self.wanted.notified().now_or_never();
            let read = self.read().await;
            let failed = read.is_err();
            self.take(read, &mut text);
            // Replicas that were started together do not ask together for ever.
            let pause = if failed { RETRY.min(refresh) } else { refresh };
            let due = Instant::now() + pause.mul_f64(rand::rng().random_range(0.9..1.0));
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.wanted.notified() => {
                    // One that was asked for early pays for it with a pause; those that come by the clock do not count.
                    sleep_until(allowed_at).await;
                    allowed_at = Instant::now() + unknown_every;
                }
            }
        }
    }

    fn take(&self, read: Result<(Bytes, Vec<Key>), ReadError>, text: &mut Bytes) {
        let issuer = &*self.issuer;
        let outcome = match &read {
            Ok((_, keys)) if keys.is_empty() => "empty",
            Ok(_) => "done",
            Err(_) => "failed",
        };
        self.metrics.access_key_fetches.get_or_create(&Fetch { outcome }).inc();
        let was_away = self.state.borrow().away;
        match read {
            Ok((new, keys)) => {
                let changed = was_away || *text != new;
                if changed && keys.is_empty() {
                    tracing::error!(
                        issuer,
                        "an issuer of tokens publishes no key that a signature of RS, PS, ES or EdDSA is verified with; none of its \
                         tokens is accepted until it does"
                    );
                } else if changed {
                    tracing::info!(issuer, keys = keys.len(), "the keys of an issuer of tokens were read");
                }
                *text = new;
                let loaded = Some(Arc::new(Loaded { keys, at: Instant::now() }));
                self.state.send_modify(|state| {
                    (state.ended, state.loaded, state.away) = (state.ended + 1, loaded, false);
                });
            }
            Err(error) => {
                if !was_away {
                    let error = chain(&error);
                    tracing::warn!(
                        issuer,
                        error,
                        "the keys of an issuer of tokens cannot be read; those from before stay good for a day"
                    );
                }
                self.state.send_modify(|state| {
                    state.ended += 1;
                    state.away = true;
                });
            }
        }
    }

    async fn read(&self) -> Result<(Bytes, Vec<Key>), ReadError> {
        let (name, text) = match &self.place {
            Keys::File(file) => (file.clone(), read_file(file).await?),
            Keys::Url { url, ca_file } => (url.clone(), self.get(url, ca_file.as_deref()).await?),
            Keys::Discovery { ca_file } => {
                let url = self.discover(ca_file.as_deref()).await?;
                let text = self.get(&url, ca_file.as_deref()).await?;
                (url, text)
            }
        };
        let keys = key_set(&text).map_err(|problem| ReadError::Content(name, problem))?;
        Ok((text, keys))
    }

    async fn get(&self, url: &str, ca_file: Option<&str>) -> Result<Bytes, ReadError> {
        // Plain text is for issuers on this machine, as the access file has it; what such a one names may be on it, too.
        let plain = self.issuer.starts_with("http://")
            || matches!(&self.place, Keys::Url { url, .. } if url.starts_with("http://"));
        // Made anew for each: the authorities in the file may have changed, and ten minutes are a long time.
        let ca = ca_file.map(Path::new);
        let fetcher = Fetcher::new(ca, plain).map_err(|error| ReadError::Client(url.to_owned(), error))?;
        let uri: Uri = url.parse().map_err(|_| ReadError::Content(url.to_owned(), "it is not a URL"))?;
        fetcher.get(&uri).await.map_err(|error| ReadError::Fetch(url.to_owned(), error))
    }

    /// OpenID Connect Discovery 1.0, section 4.
    async fn discover(&self, ca_file: Option<&str>) -> Result<String, ReadError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let text = self.get(&url, ca_file).await?;
        let bad = |problem| ReadError::Content(url.clone(), problem);
        let found: Document = serde_json::from_slice(&text).map_err(|_| bad("it has not issuer and jwks_uri"))?;
        // Section 4.3: else one issuer could speak for another.
        if found.issuer != self.issuer {
            return Err(bad("its issuer is not the one that was asked"));
        }
        Ok(found.jwks_uri)
    }
}

async fn read_file(file: &str) -> Result<Bytes, ReadError> {
    let read = async {
        let mut text = Vec::new();
        tokio::fs::File::open(file).await?.take(MOST_BYTES as u64 + 1).read_to_end(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let stuck = || std::io::Error::new(std::io::ErrorKind::TimedOut, "it gave nothing in time");
    let text = timeout(TIME_LIMIT, read).await.unwrap_or_else(|_| Err(stuck()));
    let text = text.map_err(|error| ReadError::File(file.to_owned(), error))?;
    if text.len() > MOST_BYTES {
        return Err(ReadError::Content(file.to_owned(), "it is longer than a mebibyte"));
    }
    Ok(text.into())
}

struct Running {
    source: Arc<KeySource>,
    _task: AbortOnDropHandle<()>,
}

/// The keys of all issuers. Clones are one.
#[derive(Clone)]
pub struct KeySources {
    running: Arc<Mutex<BTreeMap<(String, Keys), Running>>>,
    metrics: Metrics,
}

impl KeySources {
    /// None yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { running: Arc::default(), metrics }
    }

    /// Keeps these issuers: new ones are asked at once, those that are not among them are forgotten. Needs a runtime.
    pub(super) fn keep<'a>(&self, issuers: impl Iterator<Item = (&'a str, &'a Keys)>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = BTreeMap::new();
        for (issuer, place) in issuers {
            let name = (issuer.to_owned(), place.clone());
            if kept.contains_key(&name) {
                continue;
            }
            let known = running.remove(&name).unwrap_or_else(|| self.start(issuer, place));
            kept.insert(name, known);
        }
        *running = kept;
    }

    fn start(&self, issuer: &str, place: &Keys) -> Running {
        let source = Arc::new(KeySource::new(issuer, place, KEPT, &self.metrics));
        Running { source: Arc::clone(&source), _task: AbortOnDropHandle::new(tokio::spawn(source.run())) }
    }

    /// The keys of an issuer, from this place.
    pub(super) fn of(&self, issuer: &str, place: &Keys) -> Option<Arc<KeySource>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(&(issuer.to_owned(), place.clone())).map(|running| Arc::clone(&running.source))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
