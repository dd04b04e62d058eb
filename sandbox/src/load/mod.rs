//! The load generator: requests at a constant rate, whatever the answers do (open loop), through a fixed number of
//! connections. Latency counts from the moment a request was due, so that a stall shows in every request it delayed.
//! `client` speaks HTTP, `report` counts; this file paces and owns the tasks.

mod client;
mod histogram;
pub mod report;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use client::Client;
pub use client::Endpoint;
use report::{Counters, LastSecond, Outcome, Recorder, WindowReport};

/// Requests that wait for a connection: 4,096 are 20 s of stall at 200 requests a second.
const WAITING_LIMIT: usize = 4_096;
/// Runs kept. Finished ones count until their room is needed.
const RUN_LIMIT: usize = 64;

/// What to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSpec {
    /// `http://address:port/path`.
    pub target: String,
    /// Host header; the target's authority if left out.
    #[serde(default)]
    pub host: Option<String>,
    /// Further request headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Requests a second, 1 to 20000.
    pub rps: u32,
    /// Connections, 1 to 1024.
    #[serde(default = "sixteen")]
    pub connections: u32,
    /// Ends by itself after this time; runs until it is deleted if left out.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// False opens a connection for each request.
    #[serde(default = "yes")]
    pub keep_alive: bool,
    /// A request without an answer counts as failed after this time.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
}

fn sixteen() -> u32 {
    16
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> u64 {
    10_000
}

/// A load that cannot be run, with field, value and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{field}: {value} is out of range; use {remedy}")]
    OutOfRange { field: &'static str, value: u64, remedy: &'static str },
    #[error("{field}: {value:?} cannot be used; {remedy}")]
    Unusable { field: &'static str, value: String, remedy: &'static str },
    #[error("{RUN_LIMIT} loads are running already; delete one first")]
    TooMany,
}

/// Everything a run has counted.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    pub id: u64,
    /// Whether requests are still being sent or waited for.
    pub running: bool,
    pub target: String,
    pub rps: u32,
    /// Since the first request was due.
    pub elapsed_ms: u64,
    #[serde(flatten)]
    pub counters: Counters,
    /// The last whole second.
    pub window: LastSecond,
    /// Stretches begun by marks.
    pub windows: Vec<WindowReport>,
}

/// One run.
pub struct Load {
    id: u64,
    spec: LoadSpec,
    started: Instant,
    recorder: Mutex<Recorder>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, due: Instant, result: Result<report::Answer, String>) {
        let now = Instant::now();
        let outcome = Outcome { latency: now.saturating_duration_since(due), result };
        self.recorder().record(now.saturating_duration_since(self.started), &outcome);
    }

    pub fn report(&self) -> LoadReport {
        let recorder = self.recorder();
        LoadReport {
            id: self.id,
            running: !self.tasks.is_empty(),
            target: self.spec.target.clone(),
            rps: self.spec.rps,
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            counters: recorder.counters(),
            window: recorder.last_second(self.started.elapsed()),
            windows: recorder.windows(),
        }
    }

    /// Begins a window of its own; `None` when there are too many.
    pub fn mark(&self, name: Option<String>) -> Option<String> {
        self.recorder().mark(name)
    }

    /// Sends nothing more and waits for what is under way.
    pub async fn finish(&self) -> LoadReport {
        self.stop.cancel();
        self.tasks.wait().await;
        self.report()
    }
}

/// All runs of a sandbox.
pub struct Loads {
    runs: Mutex<(u64, BTreeMap<u64, Arc<Load>>)>,
    shutdown: CancellationToken,
}

impl Loads {
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { runs: Mutex::new((0, BTreeMap::new())), shutdown }
    }

    fn runs(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Load>>)> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a run.
    pub fn start(&self, spec: LoadSpec) -> Result<Arc<Load>, LoadError> {
        let endpoint = check(&spec)?;
        let mut runs = self.runs();
        if runs.1.len() >= RUN_LIMIT {
            // A finished run that nobody fetched makes room; a running one never does.
            let oldest = runs.1.iter().find(|(_, load)| load.tasks.is_empty()).map(|(id, _)| *id);
            runs.1.remove(&oldest.ok_or(LoadError::TooMany)?);
        }
        runs.0 += 1;
        let load = Arc::new(Load {
            id: runs.0,
            spec,
            started: Instant::now(),
            recorder: Mutex::new(Recorder::default()),
            stop: self.shutdown.child_token(),
            tasks: TaskTracker::new(),
        });
        runs.1.insert(load.id, load.clone());
        drop(runs);
        let (due, queue) = mpsc::channel(WAITING_LIMIT);
        let queue = Arc::new(AsyncMutex::new(queue));
        let endpoint = Arc::new(endpoint);
        for _ in 0..load.spec.connections {
            let client = Client::new(endpoint.clone(), load.spec.keep_alive, load.tasks.clone());
            load.tasks.spawn(work(load.clone(), client, queue.clone()));
        }
        load.tasks.spawn(pace(load.clone(), due));
        load.tasks.close();
        Ok(load)
    }

    pub fn get(&self, id: u64) -> Option<Arc<Load>> {
        self.runs().1.get(&id).cloned()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.runs().1.keys().copied().collect()
    }

    pub fn remove(&self, id: u64) -> Option<Arc<Load>> {
        self.runs().1.remove(&id)
    }
}

fn check(spec: &LoadSpec) -> Result<Endpoint, LoadError> {
    let ranges = [
        ("rps", u64::from(spec.rps), 1..=20_000, "1 to 20000"),
        ("connections", u64::from(spec.connections), 1..=1_024, "1 to 1024"),
        ("timeout_ms", spec.timeout_ms, 1..=120_000, "1 to 120000"),
    ];
    for (field, value, range, remedy) in ranges {
        if !range.contains(&value) {
            return Err(LoadError::OutOfRange { field, value, remedy });
        }
    }
    Endpoint::parse(&spec.target, spec.host.as_deref(), &spec.headers)
}

/// Says when each request is due. Never waits for answers; what nobody takes in time counts as failed.
async fn pace(load: Arc<Load>, due: mpsc::Sender<Instant>) {
    let end = load.spec.duration_ms.map(|ms| load.started + Duration::from_millis(ms));
    for number in 0_u64.. {
        // From the number, not from the last one: an interval that is no whole nanosecond does not drift.
        let at = load.started + Duration::from_secs_f64(number as f64 / f64::from(load.spec.rps));
        if end.is_some_and(|end| at >= end) {
            return;
        }
        tokio::select! {
            biased;
            () = load.stop.cancelled() => return,
            () = tokio::time::sleep_until(at) => {}
        }
        match due.try_send(at) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                load.record(at, Err(format!("not sent: {WAITING_LIMIT} requests already wait for a connection")));
            }
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

async fn work(load: Arc<Load>, mut client: Client, queue: Arc<AsyncMutex<mpsc::Receiver<Instant>>>) {
    let timeout = Duration::from_millis(load.spec.timeout_ms);
    loop {
        // Ends when the pacer is gone and the queue is empty: what was due is still sent.
        let Some(due) = queue.lock().await.recv().await else {
            return;
        };
        let answer = match tokio::time::timeout(timeout, client.send()).await {
            Ok(answer) => answer,
            Err(_) => {
                client.forget();
                Err(format!("no answer within {} ms", timeout.as_millis()))
            }
        };
        load.record(due, answer);
    }
}
