//! The composition of the readiness gates and their webhook.

use std::sync::Arc;

use anyhow::Context;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    args::gates::{GateSettings, WebhookSettings},
    complaints::Complaints,
    gates::{
        driver::{Driver, FIRST_LOOK, Tapped},
        inject::Injection,
    },
    link::{
        epoch::HighestEpoch,
        messages::Identity,
        transport::{Dialer, Link},
    },
    metrics::Metrics,
    watch::{Watchers, gates::GateKeeper, webhook::Objects},
    webhook::{
        keeper::Keeper,
        server::{self, Answering, Served},
    },
};

/// What the gates share with the rest of the agent.
pub struct GateParts<'a> {
    pub identity: &'a Identity,
    pub client: kube::Client,
    pub dialer: Dialer,
    pub metrics: &'a Metrics,
    pub complaints: &'a Complaints,
    pub epoch: HighestEpoch,
    /// What the agent's own watches say.
    pub tapped: Tapped,
}

/// Starts what the settings ask for.
pub async fn start(
    settings: GateSettings,
    parts: GateParts<'_>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stopping: &CancellationToken,
) -> anyhow::Result<()> {
    let injection = watch::Sender::default();
    if let Some(webhook) = settings.webhook {
        start_webhook(webhook, &parts, injection.subscribe(), tasks, stopping).await?;
    }
    let driver = Driver {
        cluster: parts.identity.cluster.clone(),
        instance_id: parts.identity.instance_id.clone(),
        release_after: settings.release_after,
        namespaces: settings.namespaces,
        first_look: FIRST_LOOK,
        link: Link::new(parts.dialer),
        epoch: parts.epoch,
        keeper: GateKeeper::new(parts.client.clone()),
        tapped: parts.tapped,
        kept: Watchers::new(parts.client, parts.metrics.clone()),
        metrics: parts.metrics.clone(),
        complaints: parts.complaints.clone(),
        injection,
    };
    let token = stopping.clone();
    tasks.spawn(async move {
        driver.run(token).await;
        Ok(())
    });
    Ok(())
}

async fn start_webhook(
    settings: WebhookSettings,
    parts: &GateParts<'_>,
    injection: watch::Receiver<Arc<Injection>>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stopping: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("--webhook-listen {} cannot be served; choose a free address", settings.listen))?;
    let webhook_address = listener.local_addr().context("the webhook's listener has no address")?;
    info!(%webhook_address, "The webhook for readiness gates is served");
    let served = Arc::new(Served::default());
    let keeper = Keeper {
        source: settings.certificate,
        objects: Objects::new(parts.client.clone()),
        served: Arc::clone(&served),
        complaints: parts.complaints.clone(),
    };
    let answering = Answering::new(injection, parts.metrics.clone());
    let token = stopping.clone();
    tasks.spawn(async move {
        keeper.run(token).await;
        Ok(())
    });
    let token = stopping.clone();
    tasks.spawn(async move {
        server::serve(listener, served, answering, token).await;
        Ok(())
    });
    Ok(())
}
