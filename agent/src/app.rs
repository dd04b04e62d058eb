//! The composition root: makes the parts from the arguments, starts them, and stops them in order.

mod gates;
mod identity;

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use self::gates::GateParts;
use crate::{
    args::{Args, LogFormat},
    complaints::Complaints,
    http::{self, Shown},
    link::{
        driver::Driver,
        epoch::HighestEpoch,
        messages::Identity,
        session::Settings,
        transport::{Dialer, Link},
    },
    metrics::Metrics,
    policies, shifts,
    watch::{self, policies::PolicyWatch, write::PolicyWrites},
};

/// All tasks together; Kubernetes kills after 30 s, and a rolling update should not wait that long.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When an argument cannot be used, the cluster's configuration is missing, or the HTTP address is taken.
pub async fn run(args: Args) -> anyhow::Result<()> {
    start_log(&args)?;
    let start = identity::start(&args)?;
    let identity = Identity {
        cluster: args.cluster.clone(),
        region: args.region.clone(),
        vpc_id: args.vpc_id.clone(),
        instance_id: uuid::Uuid::new_v4().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let metrics = Metrics::new();
    let complaints = Complaints::default();
    let dialer = Dialer::new(&start.target)?.reporting(complaints.clone(), metrics.clone());
    let link = Link::new(dialer.clone());
    let gate_settings = args.gates.settings()?;
    let client = watch::connect(args.kubeconfig.as_deref()).await?;
    let listener = TcpListener::bind(args.http_listen)
        .await
        .with_context(|| format!("--http-listen {} cannot be served; choose a free address", args.http_listen))?;
    let http_address = listener.local_addr().context("the HTTP listener has no address")?;
    info!(cluster = identity.cluster, instance_id = identity.instance_id, hub = args.hub, %http_address, "The agent starts");

    let (mut watchers, updates) = watch::Watchers::new(client.clone(), metrics.clone());
    let standing = Driver::first_standing();
    let epoch = HighestEpoch::default();
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    if let Some((settings, source)) = start.kept {
        let parts = identity::Parts {
            identity: &identity,
            client: &client,
            dialer: &dialer,
            metrics: &metrics,
            complaints: &complaints,
        };
        let keeper = identity::driver(settings, source, &parts)?;
        let token = stopping.clone();
        tasks.spawn(async move {
            keeper.run(token).await;
            Ok(())
        });
    }
    let policies = policies::driver::Driver {
        identity: identity.clone(),
        link: Link::new(dialer.clone()),
        watch: PolicyWatch::new(client.clone(), metrics.clone()),
        writes: PolicyWrites::new(client.clone(), identity.instance_id.clone()),
        epoch: epoch.clone(),
        metrics: metrics.clone(),
        complaints: complaints.clone(),
    };
    let shifts = shifts::driver::Driver {
        identity: identity.clone(),
        link: Link::new(dialer.clone()),
        watch: PolicyWatch::new(client.clone(), metrics.clone()),
        writes: PolicyWrites::new(client.clone(), identity.instance_id.clone()),
        epoch: epoch.clone(),
        metrics: metrics.clone(),
        complaints: complaints.clone(),
    };
    if let Some(settings) = gate_settings {
        let (tap, tapped) = crate::gates::driver::tap();
        watchers = watchers.tapped(tap);
        let parts = GateParts {
            identity: &identity,
            client: client.clone(),
            dialer: dialer.clone(),
            metrics: &metrics,
            complaints: &complaints,
            epoch: epoch.clone(),
            tapped,
        };
        gates::start(settings, parts, &mut tasks, &stopping).await?;
    }
    let shown = Shown { metrics: metrics.clone(), standing: standing.subscribe(), complaints: complaints.clone() };
    let settings = Settings::default();
    let driver = Driver { identity, settings, link, watchers, updates, epoch, metrics, standing };

    let token = stopping.clone();
    tasks.spawn(async move {
        driver.run(token).await;
        Ok(())
    });
    let token = stopping.clone();
    tasks.spawn(async move {
        policies.run(token).await;
        Ok(())
    });
    let token = stopping.clone();
    tasks.spawn(async move {
        shifts.run(token).await;
        Ok(())
    });
    let token = stopping.clone();
    tasks.spawn(async move { http::serve(listener, shown, token).await.context("the HTTP server failed") });

    let ended = tokio::select! {
        ended = tasks.join_next() => Some(ended),
        signal = wait_for_signal() => {
            info!(signal = signal?, "The agent stops");
            None
        }
    };
    stopping.cancel();
    if tokio::time::timeout(SHUTDOWN, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        error!(seconds = SHUTDOWN.as_secs(), "Some tasks did not end in time and are dropped");
        tasks.shutdown().await;
    }
    match ended {
        // Neither task ends by itself unless something is wrong.
        Some(Some(outcome)) => outcome.context("a task of the agent panicked")?.context("a task of the agent failed"),
        Some(None) | None => Ok(()),
    }
}

async fn wait_for_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    // kube logs every attempt that fails; the agent itself logs each such state once, when it begins and when it ends.
    let directives = format!("kube_runtime=off,kube_client=off,{}", args.log_level);
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("--log-level {:?} is not a filter; use one such as info", args.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match args.log_format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|cause| anyhow::anyhow!("the log cannot be started: {cause}"))
}
