//! A stand-in for Elastic Load Balancing v2: the API that the unmodified AWS SDK talks to, and a data plane that really
//! forwards HTTP. It behaves as application load balancers do where it hurts: weights per request, health checks,
//! fail-open, draining, propagation delay, throttling, quotas, and scripted faults.
//!
//! Not modelled: network and gateway load balancers, TLS (HTTPS listeners speak plain HTTP), HTTP/2 and gRPC to
//! targets, authentication actions, regular expressions and transforms in rules, WebSockets, signature checks. What is
//! not modelled is refused and never dropped in silence. Registration and deregistration reach the data plane at once;
//! only rules and listeners take the propagation delay.
//!
//! This file is the composition: shared state, the way a call is carried out, and the tasks. Locks are taken in the
//! order world, faults, history, rng, and none is held across an await.

pub(crate) mod actions;
mod api;
mod calls;
pub(crate) mod conditions;
mod config;
mod control;
pub mod counters;
mod dataplane;
mod errors;
mod exposition;
mod faults;
mod health;
mod health_log;
pub(crate) mod limits;
mod model;
pub(crate) mod query;
pub mod series;
mod server;
mod state_view;
mod tags;
mod throttle;
mod wildcard;
pub(crate) mod xml;

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use self::{
    api::{Call, Effects, Handler},
    calls::{CallLog, Class},
    dataplane::DataPlane,
    faults::{FaultSpec, Faults},
    health_log::HealthLog,
    model::{HealthState, World},
    query::Params,
    series::Series,
    throttle::Throttle,
    xml::Xml,
};
pub use self::{
    config::{BucketLimit, ElbConfig, RateLimits},
    errors::{ApiError, ElbError},
};

/// Old states kept for stale reads while such a fault is armed.
const MAX_HISTORY: usize = 256;

/// One account and region of load balancers. Clones are handles to the same one.
#[derive(Clone)]
pub struct Elb {
    inner: Arc<Inner>,
}

impl Elb {
    pub fn new(config: ElbConfig) -> Self {
        let now = Instant::now();
        let (plane, partition) = (DataPlane::new(config.seed, config.metrics_period), watch::Sender::new(false));
        Self {
            inner: Arc::new(Inner {
                world: Mutex::new(World::default()),
                history: Mutex::new(VecDeque::new()),
                rng: Mutex::new(StdRng::seed_from_u64(config.seed)),
                throttle: Mutex::new(Throttle::new(config.rate_limits, now)),
                calls: Mutex::new(CallLog::default()),
                health_log: Mutex::new(HealthLog::default()),
                faults: Mutex::new(Faults::default()),
                wake_health: Notify::new(),
                partition,
                plane,
                config,
            }),
        }
    }

    /// Serves the API on `api`, the data plane on its own addresses, and checks health, until `shutdown`. Returns when
    /// every task has ended: requests in flight get a few seconds. May be called once.
    pub async fn serve(&self, api: TcpListener, shutdown: CancellationToken) -> Result<(), ElbError> {
        let commands = self.inner.plane.take_commands().ok_or(ElbError::AlreadyServing)?;
        // When this future is dropped half-way, everything it started must end too.
        let stop = shutdown.child_token();
        let _guard = stop.clone().drop_guard();
        let inner = &self.inner;
        tokio::join!(
            server::run(Arc::clone(inner), api, stop.clone()),
            dataplane::run(Arc::clone(inner), commands, stop.clone()),
            health::run(Arc::clone(inner), stop.clone()),
        );
        Ok(())
    }

    /// An instance exists with this address, or, without one, no longer does. Targets that are registered stay so.
    pub fn set_instance(&self, id: &str, ip: Option<Ipv4Addr>) {
        let mut world = self.inner.world();
        match ip {
            Some(ip) => _ = world.instances.insert(id.to_owned(), ip),
            None => _ = world.instances.remove(id),
        }
    }

    /// Looks at what was served over time.
    pub fn with_series<T>(&self, look: impl FnOnce(&Series) -> T) -> T {
        look(&lock(&self.inner.plane.series))
    }

    /// Counts the targets of every group that a rule refers to, as AWS does for HealthyHostCount. Groups without targets and
    /// those whose targets were never judged have none.
    pub fn sample_hosts(&self, now_ms: i64) {
        let counted: Vec<_> = {
            let mut world = self.inner.world();
            world.advance(Instant::now(), &self.inner.config);
            let groups = world.groups.values().filter_map(|group| {
                let owner = world.owner_of_group(&group.arn, None)?;
                let state = |wanted| group.targets.values().filter(|t| t.judged() == Some(wanted)).count();
                let counts = (state(HealthState::Healthy), state(HealthState::Unhealthy));
                (counts != (0, 0)).then(|| (owner.to_owned(), group.arn.clone(), counts))
            });
            groups.collect()
        };
        let mut series = lock(&self.inner.plane.series);
        for (owner, group, counts) in counted {
            series.sample(now_ms, &owner, &group, counts);
        }
    }

    /// The control API (JSON), to be mounted by the owner of the control port.
    pub fn control_router(&self) -> axum::Router {
        control::router(Arc::clone(&self.inner))
    }
}

/// What all tasks share.
struct Inner {
    config: ElbConfig,
    world: Mutex<World>,
    history: Mutex<VecDeque<(Instant, World)>>,
    rng: Mutex<StdRng>,
    throttle: Mutex<Throttle>,
    calls: Mutex<CallLog>,
    health_log: Mutex<HealthLog>,
    faults: Mutex<Faults>,
    wake_health: Notify,
    /// True while connections to the API are cut.
    partition: watch::Sender<bool>,
    plane: DataPlane,
}

/// A lock whose holder panicked is taken over: the state is a test stand-in's, and every change is small.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Carries out one call of the API on the present state.
    fn execute(&self, class: Class, handler: Handler, params: &Params) -> Result<Xml, ApiError> {
        if class.is_mutating() {
            return self.change(params, handler);
        }
        let now = Instant::now();
        let mut world = self.world();
        world.advance(now, &self.config);
        self.read(&mut world, handler, params, now)
    }

    /// Carries out a read on the state of some time ago, as far back as history goes.
    fn execute_stale(&self, handler: Handler, params: &Params, age: Duration) -> Result<Xml, ApiError> {
        let now = Instant::now();
        let old = {
            let history = lock(&self.history);
            let seen = |(at, _): &&(Instant, World)| now.saturating_duration_since(*at) >= age;
            let entry = history.iter().rev().find(seen).or(history.front());
            entry.map(|(_, world)| world.clone())
        };
        match old {
            Some(mut world) => self.read(&mut world, handler, params, now),
            None => self.execute(Class::Describe, handler, params),
        }
    }

    /// Runs a handler that changes nothing, so that nobody has to be told.
    fn read(&self, world: &mut World, handler: Handler, params: &Params, now: Instant) -> Result<Xml, ApiError> {
        handler(&mut Call {
            world,
            args: params.root(),
            config: &self.config,
            rng: &mut lock(&self.rng),
            now,
            effects: &mut Effects::default(),
        })
    }

    /// Runs one change on the state and hands what it touched to the data plane and the health checker.
    fn change<T>(
        &self,
        params: &Params,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let now = Instant::now();
        let mut world = self.world();
        world.advance(now, &self.config);
        let mut effects = Effects::default();
        let outcome = work(&mut Call {
            world: &mut world,
            args: params.root(),
            config: &self.config,
            rng: &mut lock(&self.rng),
            now,
            effects: &mut effects,
        })?;
        // Once more, because the change may have put groups into use or out of it.
        world.advance(now, &self.config);
        self.plane.publish(&world, effects, now, &self.config);
        if lock(&self.faults).wants_history() {
            self.remember(&world, now);
        }
        self.wake_health.notify_one();
        Ok(outcome)
    }

    /// Arms a fault. The history of stale reads begins with the first fault that needs it.
    fn arm(&self, spec: FaultSpec) -> Result<u64, String> {
        let world = self.world();
        let mut faults = lock(&self.faults);
        let kept_already = faults.wants_history();
        let id = faults.add(spec)?;
        if faults.wants_history() && !kept_already {
            lock(&self.history).clear();
            self.remember(&world, Instant::now());
        }
        Ok(id)
    }

    fn remember(&self, world: &World, now: Instant) {
        let mut history = lock(&self.history);
        if history.len() >= MAX_HISTORY {
            history.pop_front();
        }
        history.push_back((now, world.clone()));
    }
}
