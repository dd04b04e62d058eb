//! Keeps a picture of the store in memory: one task per replica refreshes the mirror when the store notifies, when somebody
//! here asks, and every two seconds in any case, and publishes it. When the store is away the last picture stays, with its age.
//!
//! A picture is cheap to publish and to hold: its parts are shared. Every refresh replaces the picture, so that ages are right;
//! only one that changed something wakes those who wait for changes. A changed inventory is cloned once per refresh, however
//! many readers there are, and the next refresh waits as long as the last one took, so that this never takes more than half of
//! a core. Must not import `grpc`, `engine` or `elb`. Tests: `hub/tests/grpc_agents.rs`, `hub/tests/grpc_policies.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use switchyard_core::{
    fleet::{Ceiling, ClusterState, Mode},
    ids::{ClusterName, Epoch, PolicyKey, ShiftId},
    inventory::{EndpointState, Inventory},
    shift::Shift,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Changes, Claims, ClusterInfo, Mirror, Notice, Store, StoredPolicy, StoredSwitch},
};

/// A refresh happens at least this often: links go stale by time alone, and notices may be lost.
const EVERY: Duration = Duration::from_secs(2);
/// The least pause between two refreshes: a burst of notices becomes one.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause, however slow a refresh was.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pause before listening is tried again when the store was away at the start.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// Callers that wait for a refresh at once; more are answered without it.
const MOST_WAITING: usize = 1024;
/// How long a caller waits for a refresh after its write.
const WAIT: Duration = Duration::from_secs(2);

/// Policies by namespace and name.
pub type Policies = BTreeMap<PolicyKey, Arc<StoredPolicy>>;

/// Shifts by id.
pub type Shifts = BTreeMap<ShiftId, Arc<Shift>>;

/// What operators want of clusters; clusters without an entry are active.
pub type Fleet = BTreeMap<ClusterName, Arc<ClusterState>>;

/// The store at one moment.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Policies; the same `Arc` as in the picture before when no policy changed.
    pub policies: Arc<Policies>,
    /// Shifts that are active and the 200 that ended last, of the same moment as the policies; the same `Arc` as in the picture
    /// before when none changed.
    pub shifts: Arc<Shifts>,
    /// Gating switches by name, of the same moment; the same `Arc` as in the picture before when none changed.
    pub switches: Arc<Vec<StoredSwitch>>,
    /// What operators want of clusters, of the same moment; the same `Arc` as in the picture before when nothing changed.
    pub fleet: Arc<Fleet>,
    /// Resources that ask for policies, by cluster; the same `Arc` as in the picture before when none changed.
    pub claims: Arc<Claims>,
    /// What the agents reported; the same `Arc` as in the picture before when nothing changed.
    pub inventory: Arc<Inventory>,
    /// More about the clusters.
    pub clusters: Arc<BTreeMap<ClusterName, ClusterInfo>>,
    /// When the store was last read, by this machine's clock.
    pub refreshed_at: Timestamp,
    /// False while the store does not answer: the rest is from memory.
    pub store_ok: bool,
    /// False until the store was read once: the rest is empty and says nothing.
    pub loaded: bool,
}

impl Picture {
    /// Nothing known.
    pub fn empty() -> Self {
        Self {
            policies: Arc::default(),
            shifts: Arc::default(),
            switches: Arc::default(),
            fleet: Arc::default(),
            claims: Arc::default(),
            inventory: Arc::default(),
            clusters: Arc::default(),
            refreshed_at: Timestamp::UNIX_EPOCH,
            store_ok: false,
            loaded: false,
        }
    }

    /// What the planner is told of clusters.
    pub fn ceilings(&self) -> BTreeMap<ClusterName, Ceiling> {
        self.fleet.iter().map(|(name, state)| (name.clone(), state.ceiling())).collect()
    }

    /// True when an operator removed the cluster.
    pub fn is_removed(&self, cluster: &ClusterName) -> bool {
        self.fleet.get(cluster).is_some_and(|state| state.mode == Mode::Removed)
    }

    /// How long ago the store was read; zero when the clock went back.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.refreshed_at)).unwrap_or_default()
    }
}

/// A handle to the picture.
#[derive(Clone)]
pub struct Feed {
    pictures: watch::Sender<Arc<Picture>>,
    nudge: Arc<Notify>,
    waiting: mpsc::Sender<oneshot::Sender<()>>,
}

/// What the task of the feed needs; made by [`Feed::new`].
pub struct FeedTask {
    pictures: watch::Sender<Arc<Picture>>,
    nudge: Arc<Notify>,
    waiting: mpsc::Receiver<oneshot::Sender<()>>,
}

/// What the feed reads from.
pub struct FeedParts {
    /// The store.
    pub store: Store,
    /// In which epoch an agent must have reported to count as connected.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// Without a heartbeat for this long a cluster is stale.
    pub stale_after: Duration,
    /// Counts.
    pub metrics: Metrics,
    /// Ends the task.
    pub shutdown: CancellationToken,
}

impl Feed {
    /// An empty picture, and the task that will fill it.
    pub fn new() -> (Self, FeedTask) {
        let (pictures, _) = watch::channel(Arc::new(Picture::empty()));
        let nudge = Arc::new(Notify::new());
        let (waiting, waiters) = mpsc::channel(MOST_WAITING);
        let feed = Self { pictures: pictures.clone(), nudge: Arc::clone(&nudge), waiting };
        let task = FeedTask { pictures, nudge, waiting: waiters };
        (feed, task)
    }

    /// The present picture.
    pub fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.pictures.borrow())
    }

    /// The picture, and to be woken when something in it changed.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Picture>> {
        self.pictures.subscribe()
    }

    /// Asks for a refresh soon.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits for a refresh that began after this call; two seconds at most, and not at all when the store is away.
    pub async fn refreshed(&self) {
        let (done, told) = oneshot::channel();
        if self.waiting.try_send(done).is_ok() {
            // Too late or never: the caller's answer is right all the same, a later read may just be behind it.
            drop(timeout(WAIT, told).await);
        }
    }
}

impl FeedTask {
    /// Refreshes until the token.
    pub async fn run(mut self, mut parts: FeedParts) {
        let listening = listen(parts.store.clone(), Arc::clone(&self.nudge));
        tokio::pin!(listening);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mirror = Mirror::empty();
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                () = parts.shutdown.cancelled() => return,
                () = &mut listening => {}
                _ = ticks.tick() => {}
                () = self.nudge.notified() => {}
                Ok(()) = parts.epoch.changed() => {}
                Some(waiter) = self.waiting.recv() => waiting.push(waiter),
            }
            while let Ok(waiter) = self.waiting.try_recv() {
                waiting.push(waiter);
            }
            let started = Instant::now();
            tokio::select! {
                () = parts.shutdown.cancelled() => return,
                () = refresh(&mut mirror, &parts, &self.pictures) => {}
            }
            for waiter in waiting {
                // Whoever does not wait any more has been answered.
                let _ = waiter.send(());
            }
            let pause = started.elapsed().clamp(LEAST_PAUSE, LONGEST_PAUSE);
            tokio::select! {
                () = parts.shutdown.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }
}

/// Turns notices into nudges; never ends.
async fn listen(store: Store, nudge: Arc<Notify>) {
    loop {
        match store.listen().await {
            Ok(notices) => {
                tokio::pin!(notices);
                // Something may have moved between the last refresh and the subscription.
                nudge.notify_one();
                while let Some(notice) = notices.next().await {
                    if notice == Notice::Reconnected {
                        tracing::debug!("notices of the store may have been missed; everything is read anew");
                    }
                    nudge.notify_one();
                }
            }
            Err(error) => tracing::debug!(%error, "cannot listen to the store yet"),
        }
        sleep(LISTEN_PAUSE).await;
    }
}

async fn refresh(mirror: &mut Mirror, parts: &FeedParts, pictures: &watch::Sender<Arc<Picture>>) {
    let epoch = *parts.epoch.borrow();
    let before = Arc::clone(&pictures.borrow());
    match mirror.fetch(&parts.store, epoch, parts.stale_after).await {
        Ok(fetched) => {
            let changes = mirror.apply(fetched);
            Metrics::count(&parts.metrics.picture_refreshes, "refresh", "ok");
            if !before.store_ok {
                let (policies, clusters) = (mirror.policies.len(), mirror.clusters.len());
                tracing::info!(policies, clusters, "the store is read");
            }
            publish(mirror, &before, &changes, parts, pictures);
        }
        Err(error) => {
            Metrics::count(&parts.metrics.picture_refreshes, "refresh", error.label());
            if before.store_ok || !before.loaded {
                let age = before.loaded.then(|| before.age(Timestamp::now()));
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, ?age, "the store cannot be read; the last picture of it stays in use");
            }
            pictures.send_if_modified(|picture| {
                let changed = picture.store_ok;
                if changed {
                    *picture = Arc::new(Picture { store_ok: false, ..Picture::clone(picture) });
                }
                changed
            });
        }
    }
}

fn publish(
    mirror: &Mirror,
    before: &Picture,
    changes: &Changes,
    parts: &FeedParts,
    pictures: &watch::Sender<Arc<Picture>>,
) {
    let first = !before.loaded;
    let policies = if first || !changes.policies.is_empty() {
        Arc::new(mirror.policies.clone())
    } else {
        Arc::clone(&before.policies)
    };
    let shifts = if first || changes.shifts { Arc::new(mirror.shifts.clone()) } else { Arc::clone(&before.shifts) };
    let switches =
        if first || changes.switches { Arc::new(mirror.switches.clone()) } else { Arc::clone(&before.switches) };
    let fleet = if first || changes.fleet { Arc::new(mirror.fleet.clone()) } else { Arc::clone(&before.fleet) };
    let claims = if first || changes.claims { Arc::new(mirror.claims.clone()) } else { Arc::clone(&before.claims) };
    let inventory = if first || !changes.clusters.is_empty() {
        count(&mirror.inventory, &parts.metrics);
        Arc::new(mirror.inventory.clone())
    } else {
        Arc::clone(&before.inventory)
    };
    parts.metrics.policies.set(i64::try_from(policies.len()).unwrap_or(i64::MAX));
    let clusters = if *before.clusters == mirror.clusters {
        Arc::clone(&before.clusters)
    } else {
        Arc::new(mirror.clusters.clone())
    };
    let picture = Picture {
        policies,
        shifts,
        switches,
        fleet,
        claims,
        inventory,
        clusters,
        refreshed_at: Timestamp::now(),
        store_ok: true,
        loaded: true,
    };
    let changed = first || !changes.is_empty() || !before.store_ok;
    pictures.send_if_modified(|present| {
        *present = Arc::new(picture);
        changed
    });
}

fn count(inventory: &Inventory, metrics: &Metrics) {
    let present = inventory.endpoints().filter(|(_, e)| matches!(e.state, EndpointState::Present { .. })).count();
    metrics.endpoints.set(i64::try_from(present).unwrap_or(i64::MAX));
}
