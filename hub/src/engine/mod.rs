//! The engine of one (account, region): woken by a timer, a nudge or a take-over, which are all the same, it looks at what is
//! wanted and what was observed, asks core for a plan and how shifts move, carries it out within the request budget, and records
//! what came of it.
//! Only the replica that holds the lease writes. Decides nothing itself. Tests: the scenarios in `tests/`.

pub mod cache;
pub mod carry;
mod cycle;
mod failover;
mod fleet;
mod gates;
pub mod lease;
mod look;
mod measuring;
pub mod observer;
mod record;
mod shifts;

use std::{sync::Arc, time::Duration};

use switchyard_core::{
    ids::{Epoch, HubId},
    observed::Observed,
    plan::Settings,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use self::{
    cache::Cache,
    carry::Carrier,
    cycle::{Engine, Term},
    lease::Keeper,
    observer::{Observer, Wanted},
};
use crate::{analysis::Analysis, elb::Elb, feed::Picture, metrics::Metrics, store::Store};

/// What the engine is configured with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// This process, for the lease.
    pub holder: Uuid,
    /// This installation.
    pub hub_id: HubId,
    /// 12 digits.
    pub account_id: String,
    /// Such as `eu-central-1`.
    pub region: String,
    /// The time until weights that were read back count as served everywhere.
    pub settle: Duration,
    /// The time between two full readings of AWS.
    pub audit_interval: Duration,
    /// The time between two looks at the health of a group.
    pub health_interval: Duration,
    /// How long the lease lasts without renewal.
    pub lease_ttl: Duration,
    /// The longest time of one call at AWS.
    pub call_timeout: Duration,
    /// True: nothing is written at AWS.
    pub observe_only: bool,
    /// True: a load balancer that was written under a later epoch is taken over (I7).
    pub accept_restored_store: bool,
    /// The time between two questions how many requests the clusters still get that a shift has left; none: nobody counts them.
    pub evidence_interval: Option<Duration>,
}

impl EngineOptions {
    /// The key of the lease.
    pub fn scope(&self) -> String {
        format!("{}/{}", self.account_id, self.region)
    }

    /// The planner's settings under an epoch.
    pub fn settings(&self, epoch: Epoch) -> Settings {
        Settings {
            hub_id: self.hub_id.clone(),
            account_id: self.account_id.clone(),
            region: self.region.clone(),
            settle: self.settle,
            epoch,
        }
    }
}

/// Everything that the engine works with.
pub struct EngineParts {
    /// The store.
    pub store: Store,
    /// What is wanted, and what the agents reported.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Where what was observed is published, for dry runs.
    pub observed: watch::Sender<Arc<Observed>>,
    /// Where the epoch is published, for the agents' streams.
    pub epoch: watch::Sender<Option<Epoch>>,
    /// The AWS adaptor.
    pub elb: Elb,
    /// What gates of shifts are measured with.
    pub analysis: Analysis,
    /// Options.
    pub options: EngineOptions,
    /// Metrics.
    pub metrics: Metrics,
    /// Ends the engine: the calls in flight are finished, the lease is given back.
    pub shutdown: CancellationToken,
}

/// Runs the engine until shutdown.
pub async fn run(parts: EngineParts) {
    let (lease_sender, lease) = watch::channel(None);
    let cache = Cache::new();
    let wanted = Wanted::new();
    let keeper = Keeper {
        store: parts.store.clone(),
        scope: parts.options.scope(),
        holder: parts.options.holder,
        ttl: parts.options.lease_ttl,
        metrics: parts.metrics.clone(),
        lease: lease_sender,
        epoch: parts.epoch,
    };
    let observer = Observer {
        elb: parts.elb.clone(),
        cache: cache.clone(),
        wanted: wanted.clone(),
        audit_interval: parts.options.audit_interval,
        health_interval: parts.options.health_interval,
    };
    let carrier = Carrier {
        elb: parts.elb,
        store: parts.store.clone(),
        scope: parts.options.scope(),
        cache: cache.clone(),
        wanted: wanted.clone(),
        lease: lease.clone(),
        call_timeout: parts.options.call_timeout,
        metrics: parts.metrics.clone(),
    };
    let engine = Engine {
        store: parts.store,
        picture: parts.picture,
        published: parts.observed,
        published_at: None,
        options: parts.options,
        metrics: parts.metrics,
        cache,
        wanted,
        carrier,
        analysis: parts.analysis,
        lease,
        term: Term::default(),
    };
    // The lease outlives the engine's last call: it is given back only after the engine has stopped.
    let keeper_stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(keeper_stop.clone()));
    tasks.spawn(observer.run(parts.shutdown.clone()));
    engine.run(parts.shutdown).await;
    keeper_stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(
                error = &error as &dyn std::error::Error,
                "a task of the engine panicked, please report this defect"
            );
        }
    }
}
