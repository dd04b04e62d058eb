//! Steady traffic through the data plane, and what became of it.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{client::Client, wait};

/// What a load counted.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Report {
    /// Requests that ended.
    pub sent: u64,
    /// Those without an answer, or with a status from 400.
    pub failed: u64,
    /// Answers by status.
    #[serde(default)]
    pub by_status: BTreeMap<String, u64>,
    /// Requests without an answer, by reason.
    #[serde(default)]
    pub by_error: BTreeMap<String, u64>,
    /// Answers by the cluster that gave them.
    #[serde(default)]
    pub by_cluster: BTreeMap<String, u64>,
    /// Answers by the version that gave them.
    #[serde(default)]
    pub by_version: BTreeMap<String, u64>,
    /// The first failures.
    #[serde(default)]
    pub failures: Vec<Value>,
    /// When the first request that failed was due.
    #[serde(default)]
    pub failing_from: Option<String>,
    /// When the last request that failed ended.
    #[serde(default)]
    pub failing_until: Option<String>,
    /// Percentiles in milliseconds.
    #[serde(default)]
    pub latency_ms: BTreeMap<String, f64>,
    /// The last second, in the report of the whole load.
    #[serde(default)]
    pub window: LastSecond,
    /// Stretches that were begun by marks.
    #[serde(default)]
    pub windows: Vec<Window>,
}

/// The last whole second.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct LastSecond {
    /// Requests that ended.
    pub sent: u64,
    /// Those that failed.
    pub failed: u64,
    /// Fraction of the answers by cluster.
    pub share: BTreeMap<String, f64>,
}

/// One stretch.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// What it counted.
    #[serde(flatten)]
    pub report: Report,
}

impl Report {
    /// What failed, and how, for a message.
    pub fn failures_shown(&self) -> String {
        let first: Vec<String> = self.failures.iter().take(10).map(Value::to_string).collect();
        format!(
            "{} of {} requests failed; by status {:?}, by error {:?}, the first:\n  {}",
            self.failed,
            self.sent,
            self.by_status,
            self.by_error,
            first.join("\n  ")
        )
    }
}

/// A running load.
#[derive(Clone, Debug)]
pub struct Load {
    control: Client,
    id: u64,
    rps: u32,
    gives_up_after: Duration,
}

impl Load {
    /// Begins to send.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn start(control: &Client, target: &str, host: &str, rps: u32) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Started {
            id: u64,
        }
        let body = json!({"target": target, "host": host, "rps": rps, "connections": 16, "keep_alive": true});
        let started: Started = control.post("/load", &body).await?;
        Ok(Self { control: control.clone(), id: started.id, rps, gives_up_after: Duration::ZERO })
    }

    /// As [`Load::start`], by clients that give up after a while, enough of them that those who wait keep nobody from sending.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn impatient(
        control: &Client,
        target: &str,
        host: &str,
        rps: u32,
        gives_up_after: Duration,
    ) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Started {
            id: u64,
        }
        let body = json!({"target": target, "host": host, "rps": rps, "connections": 512, "keep_alive": true,
            "timeout_ms": u64::try_from(gives_up_after.as_millis())?});
        let started: Started = control.post("/load", &body).await?;
        Ok(Self { control: control.clone(), id: started.id, rps, gives_up_after })
    }

    /// How long a request that gets no answer may still count as under way; zero where nobody hangs.
    pub fn gives_up_after(&self) -> Duration {
        self.gives_up_after
    }

    /// Its number at the sandbox.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn report(&self) -> anyhow::Result<Report> {
        self.control.get(&format!("/load/{}", self.id)).await
    }

    /// Begins a stretch of its own.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn mark(&self, name: &str) -> anyhow::Result<()> {
        self.control.post::<Value>(&format!("/load/{}/mark", self.id), &json!({"name": name})).await?;
        Ok(())
    }

    /// Ends it and waits for the requests in flight.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn finish(&self) -> anyhow::Result<Report> {
        self.control.call(Method::DELETE, &format!("/load/{}", self.id), None::<&()>).await
    }

    /// Waits until so many more requests were answered: traffic is what makes a state proven.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn more(&self, requests: u64) {
        let begun = self.report().await.expect("the load generator answers").sent;
        let patience = Duration::from_secs(requests / u64::from(self.rps)) + wait::PATIENCE;
        let what = format!("{requests} more requests to be answered");
        let done = wait::until_within(&what, patience, async || {
            let sent = self.report().await.map_err(|e| e.to_string())?.sent;
            wait::check(sent >= begun + requests, || format!("{} were", sent - begun))
        });
        done.await.expect("the load goes on");
    }

    /// Ends it; not one request may have failed.
    ///
    /// # Panics
    /// When one has.
    pub async fn finish_without_failures(&self) -> Report {
        let report = self.finish().await.expect("the load generator answers");
        assert_eq!(report.failed, 0, "{}", report.failures_shown());
        assert!(report.sent > 0, "no request was sent: {report:?}");
        report
    }
}
