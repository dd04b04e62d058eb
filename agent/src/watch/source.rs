//! One watcher: follows one kind in one namespace for as long as it is wanted, and tells the index what it sees.
//!
//! Retries are ours and not kube's default backoff (0.8 to 30 s): while a watcher waits, dead pods keep their traffic.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource,
    core::Status,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{SourceUpdate, Tap, client::observed, strip::Strip};
use crate::{
    backoff::Backoff,
    index::objects::{SourceEvent, SourceRun},
    metrics::{Metrics, WatchErrorReason},
    text::truncated,
};

/// Objects a list page. The API server's own clients use 500; a page of full pods is then about 5 MB for a moment.
const PAGE_SIZE: u32 = 500;
/// Seconds the API server keeps one watch open. A connection that died in silence is noticed 5 s after that, so this bounds
/// how long dead pods can go unseen; a new watch a minute and source costs the server next to nothing.
const WATCH_SECONDS: u32 = 60;
/// A failure this long after the one before begins with short waits again. Longer than the longest wait with the connection attempt
/// after it (10 s and 5 s). Success alone is no measure: a server that accepts a watch and then fails it must not be asked without pause.
pub(super) const CALM: Duration = Duration::from_secs(20);
/// The contract's bound on messages for people, in characters.
pub(super) const MAX_MESSAGE: usize = 1024;

/// Follows one source until the receiver of updates is gone. `api` says where the objects are. Cancel by dropping the future.
pub async fn follow<K>(
    client: Client,
    api: impl FnOnce(Client) -> Api<K>,
    from: SourceRun,
    updates: Listeners,
    metrics: Metrics,
) where
    K: Strip + Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let reporter = Reporter { from, updates, failing: Arc::default() };
    let on_watch = {
        let reporter = reporter.clone();
        move || {
            let reporter = reporter.clone();
            async move {
                reporter.recovered();
                // When nobody listens any more, the next event of the watcher finds that out and ends it.
                let _ = reporter.tell(SourceEvent::Following).await;
            }
        }
    };
    let api = api(observed(client, on_watch));
    let mut follower = Follower { reporter, metrics, backoff: Backoff::default(), last_failure: None };
    loop {
        let stream = kube::runtime::watcher(api.clone(), config());
        match follower.run(stream).await {
            // An event that cannot be read is an event lost: only a new list tells what it said.
            Outcome::Relist => {}
            Outcome::Unwanted => return,
        }
    }
}

pub(super) fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE).timeout(WATCH_SECONDS)
}

enum Outcome {
    Relist,
    Unwanted,
}

struct Follower {
    reporter: Reporter,
    metrics: Metrics,
    backoff: Backoff,
    last_failure: Option<Instant>,
}

impl Follower {
    async fn run<K: Strip>(&mut self, stream: impl Stream<Item = watcher::Result<Event<K>>>) -> Outcome {
        let mut stream = std::pin::pin!(stream);
        while let Some(next) = stream.next().await {
            let wanted = match next {
                Ok(event) => self.pass_on(event).await,
                Err(error) => {
                    let wanted = self.fail(&error).await;
                    if wanted && lost_an_event(&error) {
                        return Outcome::Relist;
                    }
                    wanted
                }
            };
            if !wanted {
                return Outcome::Unwanted;
            }
        }
        Outcome::Relist
    }

    async fn pass_on<K: Strip>(&mut self, event: Event<K>) -> bool {
        let event = match event {
            Event::Init => Some(SourceEvent::ListStarted),
            Event::InitApply(object) => object.strip().map(SourceEvent::Listed),
            Event::InitDone => Some(SourceEvent::ListDone),
            Event::Apply(object) => object.strip().map(SourceEvent::Applied),
            Event::Delete(object) => object.strip().map(SourceEvent::Deleted),
        };
        let Some(event) = event else { return true };
        // kube announces each attempt to list before it is made, so the start of a list is no sign of life.
        if !matches!(event, SourceEvent::ListStarted) {
            self.reporter.recovered();
        }
        self.reporter.tell(event).await
    }

    async fn fail(&mut self, error: &watcher::Error) -> bool {
        let failure = describe(error);
        if self.last_failure.is_none_or(|last| last.elapsed() > CALM) {
            self.backoff.reset();
        }
        self.last_failure = Some(Instant::now());
        self.metrics.watch_error(self.reporter.from.source.kind, failure.reason);
        self.reporter.fails(&failure.message);
        let wanted = self.reporter.tell(SourceEvent::Failing(failure.message)).await;
        if wanted {
            tokio::time::sleep(self.backoff.next(rand::random())).await;
        }
        wanted
    }
}

/// Tells the index what happens, and the log when it changes.
#[derive(Clone)]
struct Reporter {
    from: SourceRun,
    updates: Listeners,
    /// What was last logged as wrong. Shared with the client's observer; held for a comparison only, never across an await.
    failing: Arc<Mutex<Option<String>>>,
}

impl Reporter {
    fn fails(&self, message: &str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.as_deref() != Some(message) {
            warn!(
                kind = self.from.source.kind.as_str(),
                namespace = self.from.source.namespace,
                error = message,
                "A watch fails; what it showed last stays in force while it is tried again"
            );
            *failing = Some(message.to_owned());
        }
    }

    fn recovered(&self) {
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!(kind = self.from.source.kind.as_str(), namespace = self.from.source.namespace, "A watch works again");
        }
    }

    /// False when nobody listens any more.
    async fn tell(&self, event: SourceEvent) -> bool {
        self.updates.tell(&self.from, event).await
    }
}

/// Who hears what a watcher says.
#[derive(Clone)]
pub struct Listeners {
    /// The index.
    pub updates: mpsc::Sender<SourceUpdate>,
    /// A second one.
    pub tap: Option<Tap>,
}

impl Listeners {
    /// The index first, for it is what traffic depends on. False when it does not listen any more.
    async fn tell(&self, from: &SourceRun, event: SourceEvent) -> bool {
        let also = self.tap.as_ref().filter(|tap| (tap.concerns)(&event)).map(|tap| (tap, event.clone()));
        if self.updates.send(SourceUpdate { from: from.clone(), event }).await.is_err() {
            return false;
        }
        if let Some((tap, event)) = also {
            // It ends only together with the agent.
            let _ = tap.updates.send(SourceUpdate { from: from.clone(), event }).await;
        }
        true
    }
}

/// True when the error stands for a watch event that could not be decoded. kube also reads one whose object makes no sense as a
/// status of the server, one without a code.
pub(super) fn lost_an_event(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) => true,
        watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 0,
        _ => false,
    }
}

/// Why something failed: for metrics, and for people.
pub(super) struct Failure {
    pub(super) reason: WatchErrorReason,
    pub(super) message: String,
}

impl Failure {
    /// Something that must be there is not.
    pub(super) fn not_found(message: String) -> Self {
        Self { reason: WatchErrorReason::NotFound, message }
    }
}

pub(super) fn describe(error: &watcher::Error) -> Failure {
    let cause = match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => cause,
        watcher::Error::WatchError(status) => return describe_status(status),
        watcher::Error::NoResourceVersion => {
            return Failure { reason: WatchErrorReason::Unreadable, message: error.to_string() };
        }
    };
    describe_call(cause)
}

pub(super) fn describe_call(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => describe_status(status),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            Failure { reason: WatchErrorReason::Unreadable, message: chain(error) }
        }
        other => Failure { reason: WatchErrorReason::Connection, message: chain(other) },
    }
}

fn describe_status(status: &Status) -> Failure {
    let reason = match status.code {
        0 => {
            return Failure {
                reason: WatchErrorReason::Unreadable,
                message: "the API server sent an event that cannot be read".to_owned(),
            };
        }
        401 => WatchErrorReason::Unauthorized,
        403 => WatchErrorReason::Forbidden,
        404 => WatchErrorReason::NotFound,
        410 => WatchErrorReason::Expired,
        429 => WatchErrorReason::TooManyRequests,
        500.. => WatchErrorReason::Server,
        _ => WatchErrorReason::Other,
    };
    let text = if status.message.is_empty() { &status.reason } else { &status.message };
    Failure { reason, message: truncated(&format!("{text} (HTTP {})", status.code), MAX_MESSAGE) }
}

/// The error and its causes; a cause that an outer message already contains is not repeated.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = inner.source();
    }
    truncated(&message, MAX_MESSAGE)
}
