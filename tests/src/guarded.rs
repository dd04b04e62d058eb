//! A stage on which everybody has to prove who he is, and what its scenarios share: the audit log is whole at the end, streams of
//! callers that stay open or end, agents' sessions by number.

use std::time::{Duration, Instant};

use anyhow::Context;
use http::Method;
use serde_json::Value;
use switchyard_proto::api::v1::{WatchPoliciesRequest, policy_service_client::PolicyServiceClient};
use tokio::task::JoinHandle;
use tonic::{Status, transport::Channel};

use crate::{
    audit,
    chaos::{Stage, patient},
    client::Client,
    guard::{Guard, Settings, bearing},
    hub::{Database, Hub},
    postgres::{self, Postgres},
    wait,
    world::Builder,
};

/// A proof that was taken away is good for so long at the most.
pub const TAKEN_AWAY_WITHIN: Duration = Duration::from_secs(5);

/// From the end of an agent's session to its next one on a machine that is busy; a cluster is away after 6 s without a word.
const HANDOVER_WITHIN: Duration = Duration::from_secs(2);

/// The stage, and its database.
pub struct Guarded {
    /// Under traffic.
    pub stage: Stage,
    /// The database of the hub.
    pub database: String,
    /// Of its own, when it is to be stopped.
    pub postgres: Option<Postgres>,
}

impl Guarded {
    /// Half of the traffic to blue, half to green.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn set(settings: Settings) -> Self {
        let database = postgres::shared_database().await.expect("a database");
        Self::on(settings, database, None).await
    }

    /// The same with a Postgres that may be stopped.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn with_postgres(settings: Settings) -> Self {
        let postgres = Postgres::start().await.expect("Postgres starts");
        let database = postgres.database().await.expect("a database");
        Self::on(settings, database, Some(postgres)).await
    }

    async fn on(settings: Settings, url: String, postgres: Option<Postgres>) -> Self {
        let database = Some(Database::Url(url.clone()));
        let builder = patient(Builder { database, guarded: Some(settings), ..Builder::default() });
        let stage = Stage::halves(builder).await;
        Self { stage, database: url, postgres }
    }

    /// What guards it.
    pub fn guard(&self) -> &Guard {
        self.stage.world.guard()
    }

    /// The hub's address.
    pub fn url(&self) -> String {
        self.stage.world.hub.grpc_url()
    }

    /// A second replica.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn second_replica(&self) -> Hub {
        let folder = self.stage.world.folder().join("second");
        let database = Database::Url(self.database.clone());
        let sandbox = self.stage.world.sandbox.info();
        let started = self.guard().hub(&folder, sandbox, database, &crate::hub::Times::default()).await;
        started.expect("the second replica starts")
    }

    /// What yardctl shows as a document to the administrator.
    ///
    /// # Panics
    /// When it does not.
    pub async fn shown(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let finished = self.stage.world.yardctl.expect(&arguments, "").await;
        serde_json::from_str(&finished.stdout).expect("JSON")
    }

    /// How the hub sees the links of its clusters, in the order of their names.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn links(&self) -> Vec<String> {
        let list = self.shown(&["get", "clusters"]).await;
        let clusters = list["clusters"].as_array().cloned().unwrap_or_default();
        clusters.iter().map(|cluster| cluster["link"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// No cluster counts as lost: each is connected, or reports everything anew. After a renewal the session on the old certificate
    /// ends before the one on the new certificate is open, some 50 ms later; a look may fall into that moment, a second one may not.
    ///
    /// # Panics
    /// When one does.
    pub async fn none_is_stale(&self) {
        let seen = wait::until_within("no cluster to be stale", HANDOVER_WITHIN, async || {
            let links = self.links().await;
            let there = links.len() == 2 && links.iter().all(|link| ["connected", "syncing"].contains(&link.as_str()));
            wait::check(there, || format!("{links:?}"))
        });
        seen.await.expect("an agent that renews its certificate is not away");
    }

    /// All sessions of agents that were ever opened at this hub since it started.
    ///
    /// # Panics
    /// When the hub does not say.
    pub async fn sessions(&self) -> u64 {
        let ended = sum(&self.stage.world.hub, "switchyard_hub_sessions_ended_total").await;
        ended + self.open_sessions().await
    }

    /// Sessions of agents that are open.
    ///
    /// # Panics
    /// When the hub does not say.
    pub async fn open_sessions(&self) -> u64 {
        sum(&self.stage.world.hub, "switchyard_hub_sessions").await
    }

    /// How many certificates a cluster has got, by the audit log.
    ///
    /// # Panics
    /// When the log is not shown.
    pub async fn issued(&self, cluster: &str) -> usize {
        let all = audit::entries(&self.stage.world.yardctl).await.expect("the audit log");
        all.iter().filter(|entry| entry.action == "certificate.issue" && entry.cluster() == cluster).count()
    }

    /// No request failed, everything works, and the audit log is whole; an entry that is changed by force is found.
    ///
    /// # Panics
    /// When something is not so.
    pub async fn all_is_well(self) {
        let yardctl = self.stage.world.yardctl.clone();
        audit::verified(&yardctl).await;
        audit::a_changed_entry_is_named(&yardctl, &self.database).await;
        self.stage.all_is_well().await;
    }
}

/// The sum over all labels of a number on the metrics page of a hub.
///
/// # Panics
/// When the hub does not show the page.
pub async fn sum(hub: &Hub, name: &str) -> u64 {
    let pages = Client::new(hub.http_url());
    let (_, page) = pages.send(Method::GET, "/metrics", Vec::new()).await.expect("the metrics page");
    let page = String::from_utf8_lossy(&page).into_owned();
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Another metric may begin with the same words.
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    // Counters and gauges of whole numbers.
    values.map(|value| value as u64).sum()
}

/// A stream of a caller: all policies, as they change.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<Status>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Opens it, with a token or by the certificate of the connection, and waits for the first answer.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn open(channel: Channel, token: Option<&str>) -> anyhow::Result<Self> {
        let mut client = PolicyServiceClient::new(channel);
        let message = WatchPoliciesRequest::default();
        let request = match token {
            Some(token) => bearing(message, token),
            None => tonic::Request::new(message),
        };
        let mut stream = client.watch_policies(request).await?.into_inner();
        stream.message().await?.context("the stream ended at once")?;
        let task = tokio::spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("the end"),
                    Err(status) => return status,
                }
            }
        });
        Ok(Self { task })
    }

    /// It has not ended.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until the hub ends it, and gives how, and how long that took.
    ///
    /// # Panics
    /// When it does not within the time in which a proof has to be taken away.
    pub async fn ended(mut self) -> (Status, Duration) {
        let begun = Instant::now();
        let status = tokio::time::timeout(TAKEN_AWAY_WITHIN, &mut self.task).await;
        let status = status.unwrap_or_else(|_| panic!("the stream is open after {TAKEN_AWAY_WITHIN:?}"));
        (status.expect("the reader of a stream does not panic"), begun.elapsed())
    }
}

/// Waits until something is so, for as long as a proof may be good that was taken away.
///
/// # Panics
/// After that.
pub async fn soon<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    match wait::until_within(what, TAKEN_AWAY_WITHIN, look).await {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
