//! The composition root: the only place that sees every module. It opens the store, starts one task per job, and takes them
//! down in order: no new calls, streams drained, the call at AWS in flight finished, the lease given back, the store closed.

mod database;
mod descriptors;
mod doors;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use switchyard_core::{ids::Epoch, observed::Observed, plan};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    analysis::{Analysis, AnalysisConfig, AnalysisNames},
    config::Config,
    elb::{Elb, ElbConfig},
    engine::{self, EngineOptions, EngineParts},
    feed::{Feed, FeedParts},
    grpc::{self, GateSources, GrpcParts},
    http::{self, HttpParts},
    metrics::Metrics,
    store::{Retention, Store},
};
use doors::{Doors, bind, entrance};

/// The longest a call at AWS may take; the lease's remaining time shortens it further. Well below the default lease of 15 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// All tasks have this long to end: a call at AWS in flight (5 s), then the lease. Kubernetes kills after 30 s by default.
const DRAIN_WITHIN: Duration = Duration::from_secs(8);
/// How often what is past its time is removed from the store.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// Runs the hub until a signal.
///
/// # Errors
/// When it cannot start, or one of its tasks failed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let signals = listen_for_signals(shutdown.clone())?;
    let result = run_until(config, shutdown.clone()).await;
    shutdown.cancel();
    signals.abort();
    result
}

/// Runs the hub until the token.
///
/// # Errors
/// When it cannot start, or one of its tasks failed.
pub async fn run_until(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(?config, version = env!("CARGO_PKG_VERSION"), "the hub starts");
    if config.dev {
        tracing::warn!(
            address = %config.grpc_listen,
            "DEVELOPMENT MODE: every caller on this machine may do everything, over plain text unless certificates are given; never use --dev in production"
        );
    }
    let doors = Doors::bind(&config).await?;
    let http_listener = bind("--http-listen", config.http_listen).await?;
    let metrics = Metrics::new();
    let (feed, feed_task) = Feed::new();
    let mut tasks = Tasks::default();
    let pages = HttpParts { feed: feed.clone(), metrics: metrics.clone() };
    let (address, token) = (http_listener.local_addr()?, shutdown.clone());
    tasks.spawn("http", async move {
        http::serve(http_listener, pages, token).await;
        Ok(())
    });
    tracing::info!(%address, "health and metrics are served over HTTP");
    let (private, url) = database::open(&config.database, config.dev).await?;
    let result = async {
        let Some(store) = database::connect(&url, &metrics, &shutdown).await? else { return Ok(()) };
        let keeping = database::keep(config.database.clone(), config.dev, store.clone(), shutdown.clone());
        tasks.spawn("database URL", async move {
            keeping.await;
            Ok(())
        });
        let hub = Hub { config, store: store.clone(), feed, metrics, shutdown: shutdown.clone() };
        let started = hub.start(feed_task, doors, &mut tasks).await;
        if started.is_ok() {
            tasks.first_end(&shutdown).await;
        }
        shutdown.cancel();
        let ended = tasks.drain().await;
        // Connections that are still in use after the drain are not waited for.
        let _ = timeout(Duration::from_secs(1), store.close()).await;
        started.and(ended)
    }
    .await;
    if let Some(private) = private {
        private.stop().await.context("the private Postgres did not stop")?;
    }
    tracing::info!("the hub has stopped");
    result
}

fn listen_for_signals(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    Ok(tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "the hub shuts down");
        shutdown.cancel();
    }))
}

/// Tasks with their names.
#[derive(Default)]
struct Tasks {
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
    failed: Option<anyhow::Error>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.running.spawn(async move { (name, task.await) });
    }

    /// Waits until the token, or until a task ends that should not have.
    async fn first_end(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            Some(ended) = self.running.join_next() => {
                self.note(ended);
                if self.failed.is_none() && !shutdown.is_cancelled() {
                    self.failed = Some(anyhow::anyhow!("a task of the hub ended by itself"));
                }
            }
        }
    }

    fn note(&mut self, ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) {
        let failure = match ended {
            Ok((_, Ok(()))) => return,
            Ok((name, Err(error))) => error.context(format!("the task {name} failed")),
            Err(error) if error.is_cancelled() => return,
            Err(error) => anyhow::Error::new(error).context("a task of the hub panicked; please report this defect"),
        };
        tracing::error!(error = format!("{failure:#}"), "a task of the hub failed; the hub stops");
        self.failed.get_or_insert(failure);
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_WITHIN;
        loop {
            match timeout_at(deadline, self.running.join_next()).await {
                Ok(Some(ended)) => self.note(ended),
                Ok(None) => break,
                Err(_) => {
                    let left = self.running.len();
                    tracing::warn!(tasks = left, "tasks did not end in time and are cut off");
                    self.running.shutdown().await;
                    break;
                }
            }
        }
        self.failed.take().map_or(Ok(()), Err)
    }
}

fn elb_config(config: &Config, metrics: &Metrics) -> ElbConfig {
    ElbConfig {
        region: config.aws_region.clone(),
        endpoint_url: config.aws_endpoint_url.clone(),
        call_timeout: CALL_TIMEOUT,
        rates: config.rates,
        metrics: metrics.clone(),
    }
}

/// What a shift may name.
fn gate_sources(analysis: &AnalysisConfig) -> GateSources {
    let AnalysisNames { prometheus, webhooks, cloudwatch } = analysis.names();
    GateSources { prometheus, webhooks, cloudwatch }
}

/// What every task gets its parts from.
struct Hub {
    config: Config,
    store: Store,
    feed: Feed,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Hub {
    async fn start(self, feed_task: crate::feed::FeedTask, doors: Doors, tasks: &mut Tasks) -> anyhow::Result<()> {
        let config = &self.config;
        let hub_id = self.store.hub_id(config.hub_id.clone()).await.context("the hub's id is not usable")?;
        let holder = Uuid::now_v7();
        tracing::info!(%hub_id, replica = %holder, "the store is open");
        let left =
            self.store.sources_keep(&config.policy_sources).await.context("the policy sources are not usable")?;
        for cluster in left {
            tracing::warn!(%cluster, "--policy-source does not name a cluster any more; its policies stay in force and may be taken over");
        }
        let (epoch_sender, epoch) = watch::channel::<Option<Epoch>>(None);
        let (observed_sender, observed) = watch::channel(Arc::new(Observed::default()));
        let options = EngineOptions {
            holder,
            hub_id: hub_id.clone(),
            account_id: config.aws_account_id.clone(),
            region: config.aws_region.clone(),
            settle: config.settle,
            audit_interval: config.audit_interval,
            health_interval: config.health_interval,
            lease_ttl: config.lease_ttl,
            call_timeout: CALL_TIMEOUT,
            observe_only: config.observe_only,
            accept_restored_store: config.accept_restored_store,
            // Twice in the time in which new numbers come.
            evidence_interval: config.analysis.cloudwatch.as_ref().map(|cloudwatch| cloudwatch.resolution / 2),
        };
        let settings: plan::Settings = options.settings(Epoch::default());
        let elb = Elb::connect(elb_config(config, &self.metrics)).await.context("the AWS adaptor cannot be set up")?;
        let analysis = Analysis::connect(config.analysis.clone()).await.context("measuring cannot be set up")?;
        let feed_parts = FeedParts {
            store: self.store.clone(),
            epoch: epoch.clone(),
            stale_after: config.stale_after,
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
        };
        tasks.spawn("feed", async move {
            feed_task.run(feed_parts).await;
            Ok(())
        });
        let engine_parts = EngineParts {
            store: self.store.clone(),
            picture: self.feed.subscribe(),
            observed: observed_sender,
            epoch: epoch_sender,
            elb,
            analysis,
            options,
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
        };
        tasks.spawn("engine", async move {
            engine::run(engine_parts).await;
            Ok(())
        });
        tasks.spawn("purge", purge(self.store.clone(), self.shutdown.clone()));
        let entrance = entrance(config, &self.store, doors.connections(), &self.metrics, &self.shutdown, tasks).await?;
        let Some(entrance) = entrance else { return Ok(()) };
        let grpc_parts = GrpcParts {
            store: self.store,
            feed: self.feed,
            observed,
            epoch,
            settings,
            policy_sources: Arc::new(config.policy_sources.clone()),
            gate_sources: Arc::new(gate_sources(&config.analysis)),
            access: entrance.access,
            authority: entrance.authority,
            grants_of_resources: entrance.grants_of_resources,
            heartbeat_interval: config.heartbeat_interval,
            stale_after: config.stale_after,
            hub_instance: holder,
            metrics: self.metrics.clone(),
        };
        let services = grpc::services(grpc_parts, &self.shutdown).await?;
        doors.open(entrance.guard, services, self.metrics, &self.shutdown, tasks)?;
        if config.observe_only {
            tracing::warn!("--observe-only: plans are made and shown, and nothing is written at AWS");
        }
        Ok(())
    }
}

async fn purge(store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let retention = Retention::default();
    let mut ticks = interval(PURGE_EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let purged = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            purged = store.purge(&retention) => purged,
        };
        match purged {
            Ok(purged) => tracing::debug!(?purged, "what was past its time is removed from the store"),
            Err(error) if error.is_unavailable() => {
                tracing::debug!(%error, "what is past its time is removed later, the store is away");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "what is past its time cannot be removed from the store");
            }
        }
    }
}
