//! The keys of the issuers that the access file names: fetched by one task for each, every ten minutes, and sooner when a token names a
//! key that is not known, but not more often than every ten seconds, whatever is sent from outside. While an issuer is away its last
//! keys stay good for a day. A token that names an unknown key waits for that fetch: a new key must not cost a request.
//!
//! What is fetched decides who is believed: it comes from the place in the access file, over TLS that is verified, without redirects.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use jiff::Timestamp;
use rand::Rng;
use serde::Deserialize;
use switchyard_core::access::config::Keys;
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    fetch::{ClientError, FetchError, Fetcher, MOST_BYTES, TIME_LIMIT, chain},
    jwt::{Asked, JwtError, Key, Unverified, Verified, key_set},
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
/// Calls that wait for one issuer's keys at a time; each of them holds little more than its headers.
const MOST_WAITING: usize = 64;
/// The longest that a call waits: the pause between two fetches, and a fetch of two documents.
const WAIT: Duration = Duration::from_secs(20);

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
    /// Attempts that have ended.
    attempts: u64,
    loaded: Option<Arc<Loaded>>,
    /// The last attempt failed.
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
    waiting: Semaphore,
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
            waiting: Semaphore::new(MOST_WAITING),
            kept,
            metrics: metrics.clone(),
        }
    }

    /// Believes a token of this issuer, or not; waits for the issuer's keys when they are not known, or not this one.
    pub(super) async fn verify(
        &self,
        token: Unverified<'_>,
        asked: Asked<'_>,
        now: Timestamp,
    ) -> Result<Verified, KeyError> {
        let known = self.state.borrow().clone();
        if let Some(loaded) = known.loaded.as_ref().filter(|loaded| loaded.at.elapsed() < self.kept) {
            match token.key(&loaded.keys) {
                Ok(key) => return Ok(token.verify(key, asked, now)?),
                Err(JwtError::UnknownKey(_)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let state = self.fetched(known.attempts).await?;
        let Some(loaded) = state.loaded.filter(|loaded| loaded.at.elapsed() < self.kept) else {
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

    /// What is known after another attempt.
    async fn fetched(&self, attempts: u64) -> Result<State, KeyError> {
        let _place = self.waiting.try_acquire().map_err(|_| self.is_away())?;
        let mut states = self.state.subscribe();
        self.wanted.notify_one();
        let next = timeout(WAIT, states.wait_for(|state| state.attempts > attempts)).await;
        match next {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) | Err(_) => Err(self.is_away()),
        }
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
        self.metrics
            .access_key_fetches
            .get_or_create(&Fetch { outcome: if read.is_ok() { "done" } else { "failed" } })
            .inc();
        let was_away = self.state.borrow().away;
        match read {
            Ok((new, keys)) => {
                if was_away || *text != new {
                    tracing::info!(issuer, keys = keys.len(), "the keys of an issuer of tokens were read");
                }
                *text = new;
                let loaded = Some(Arc::new(Loaded { keys, at: Instant::now() }));
                self.state.send_modify(|state| *state = State { attempts: state.attempts + 1, loaded, away: false });
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
                    state.attempts += 1;
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
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::access::jwt;

    #[tokio::test]
    async fn keys_of_an_issuer_that_is_away_for_too_long_are_not_believed_any_more() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap();
        let now = Timestamp::now();
        let claims = json!({"iss": "https://a", "aud": "switchyard", "exp": now.as_second() + 600});
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json!({"keys": [jwk]}).to_string()).unwrap();
        let place = Keys::File(file.path().display().to_string());
        let source = Arc::new(KeySource::new("https://a", &place, Duration::from_secs(3), &Metrics::new()));
        let _task = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&source).run()));
        let audiences = BTreeSet::from(["switchyard".to_owned()]);
        let asked = Asked { issuer: "https://a", audiences: &audiences };
        source.verify(jwt::parse(&token).unwrap(), asked, now).await.unwrap();
        file.close().unwrap();
        let mut states = source.state.subscribe();
        timeout(Duration::from_secs(60), states.wait_for(|state| state.away)).await.unwrap().unwrap();
        let began = Instant::now();
        loop {
            match source.verify(jwt::parse(&token).unwrap(), asked, now).await {
                Err(KeyError::Away(issuer)) => break assert_eq!(issuer, "https://a"),
                Err(other) => panic!("{other}"),
                Ok(_) => assert!(began.elapsed() < Duration::from_secs(30), "the keys are kept for ever"),
            }
            tokio::task::yield_now().await;
        }
    }
}
