//! A stand-in for CloudWatch: GetMetricData for the metrics of target groups, in the protocol that the AWS SDK speaks (Smithy RPC
//! v2 with CBOR), fed by what the load balancers of this sandbox really served.
//!
//! As at AWS a period's numbers come some time after its end (`delay`), and a metric without a value is not reported: AWS says
//! of Application Load Balancers that nothing is reported while no requests flow. Whether zeros are, AWS's pages say in two
//! ways, so [`Mode::zeros`] can be both. Not modelled: other namespaces, metric math, alarms, paging (an answer holds all that
//! was asked for), signatures; these are refused or, for signatures, not looked at.
//!
//! Must not know the ELBv2 API; it reads [`Elb::with_series`].

pub(crate) mod cbor;
mod metrics;
mod request;
mod server;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::elb::Elb;

/// How it answers; set by the control API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mode {
    /// No metric has data.
    pub silent: bool,
    /// Groups that have targets report 0 instead of nothing, as long as requests flow through their load balancer.
    pub zeros: bool,
    /// Answers are held back for so many milliseconds.
    pub delay_ms: u64,
    /// Every call is refused with this code.
    pub refuse: Option<String>,
}

/// CloudWatch of one sandbox. Clones are handles to the same one.
#[derive(Clone)]
pub struct CloudWatch {
    inner: Arc<Inner>,
}

struct Inner {
    elb: Elb,
    /// From the end of a period until its numbers can be read.
    delay: Duration,
    mode: Mutex<Mode>,
}

impl Inner {
    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CloudWatch {
    /// For these load balancers.
    pub fn new(elb: Elb, delay: Duration) -> Self {
        Self { inner: Arc::new(Inner { elb, delay, mode: Mutex::default() }) }
    }

    /// Serves the API, and counts hosts four times a period, until the shutdown.
    ///
    /// # Errors
    /// When the socket cannot be served any more.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        let stop = shutdown.child_token();
        let _guard = stop.clone().drop_guard();
        let served = axum::serve(listener, server::router(self.inner.clone()))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let (result, ()) = tokio::join!(async { served.await }, sample(&self.inner.elb, stop));
        result
    }

    /// The control API (JSON): `GET` and `POST /mode`.
    pub fn control_router(&self) -> Router {
        let show = async |State(inner): State<Arc<Inner>>| Json(inner.mode().clone());
        let set = async |State(inner): State<Arc<Inner>>, Json(mode): Json<Mode>| {
            *inner.mode() = mode.clone();
            Json(mode)
        };
        Router::new().route("/mode", get(show).post(set)).with_state(self.inner.clone())
    }
}

async fn sample(elb: &Elb, stop: CancellationToken) {
    let period = u64::try_from(elb.with_series(|series| series.period_ms())).unwrap_or(1);
    let mut ticks = tokio::time::interval(Duration::from_millis((period / 4).max(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => elb.sample_hosts(jiff::Timestamp::now().as_millisecond()),
        }
    }
}
