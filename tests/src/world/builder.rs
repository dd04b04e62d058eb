//! How a world is made: which API servers, times, database and pods it has, whether proxies stand in its connections, and the
//! order in which its programs start.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::json;

use super::{LOAD_BALANCER, World, folder};
use crate::{
    guard::{self, Guard},
    hub::{Database, Hub, Times},
    member::Agent,
    network::Network,
    policy::Policy,
    postgres,
    process::tail,
    realkube::{self, RealKube},
    sandbox::{Sandbox, Settings, WorkloadSpec},
    yardctl::Yardctl,
};

/// Whose API servers the member clusters have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kubernetes {
    /// The sandbox's small ones.
    #[default]
    Sandbox,
    /// Real ones, with real controllers; the agents run as a service account. The sandbox is only scheduler and kubelets.
    Real,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Builder {
    /// Of all clusters.
    pub kubernetes: Kubernetes,
    /// Of the sandbox.
    pub sandbox: Settings,
    /// Of the hub.
    pub times: Times,
    /// Where the hub keeps its state; a fresh database of the shared Postgres when left out.
    pub database: Option<Database>,
    /// What runs in each cluster as Service and workload `checkout`.
    pub workload: WorkloadSpec,
    /// Every connection of the control plane goes through a proxy: [`World::network`]. Only with the sandbox's API servers and a
    /// private Postgres.
    pub behind_proxies: bool,
    /// As in production: TLS, callers who prove who they are, agents that join with a token. None: `--dev`.
    pub guarded: Option<guard::Settings>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            kubernetes: Kubernetes::default(),
            sandbox: Settings {
                clusters: vec!["blue".to_owned(), "green".to_owned()],
                // A health check every 0.5 s, draining for 2 s, 0.2 s until a new rule is served.
                time_scale: 10.0,
                propagation: Duration::from_secs(2),
                seed: 1,
            },
            times: Times::default(),
            database: None,
            workload: WorkloadSpec {
                replicas: 3,
                app: "checkout".to_owned(),
                ports: vec![("http".to_owned(), 8080)],
                version: "v1".to_owned(),
                ready_after: Duration::from_millis(200),
                termination_grace: Duration::from_secs(5),
                latency: Duration::from_millis(5),
            },
            behind_proxies: false,
            guarded: None,
        }
    }
}

impl Builder {
    /// Starts everything and waits until the pods of all clusters are ready and the hub has seen all agents.
    ///
    /// # Errors
    /// When a part does not come up.
    pub async fn start(self) -> anyhow::Result<World> {
        let folder = folder()?;
        let real = match self.kubernetes {
            Kubernetes::Sandbox => BTreeMap::new(),
            Kubernetes::Real => realkube::start_all(&self.sandbox.clusters).await?,
        };
        let sandbox = Sandbox::start_beside(folder.path(), &self.sandbox, &real).await?;
        let load_balancer = sandbox.elb().create(LOAD_BALANCER, 80, &[("team", "platform")]).await?;
        for name in &self.sandbox.clusters {
            let cluster = sandbox.cluster(name);
            cluster.create_service("checkout", "checkout", &[("http", 80, json!("http"))]).await?;
            cluster.put_workload("checkout", &self.workload).await?;
        }
        let database = match self.database {
            Some(database) => database,
            None => Database::Url(postgres::shared_database().await?),
        };
        let guard = match self.guarded {
            Some(settings) => Some(Guard::make(folder.path(), settings).await?),
            None => None,
        };
        let (hub, mut network) =
            start_hub(self.behind_proxies, folder.path(), &sandbox, database, &self.times, guard.as_ref()).await?;
        let yardctl = match &guard {
            Some(guard) => guard.by_administrator(&hub.grpc_url())?,
            None => Yardctl::new(hub.grpc_url())?,
        };
        let mut agents = BTreeMap::new();
        for name in &self.sandbox.clusters {
            let real = real.get(name);
            let agent = match &guard {
                Some(guard) => join(guard, folder.path(), name, &sandbox, real, &hub, &yardctl).await?,
                None => start_agent(folder.path(), name, &sandbox, real, &hub, network.as_mut()).await?,
            };
            agents.insert(name.clone(), agent);
        }
        let workload = self.workload;
        let world = World { sandbox, hub, agents, yardctl, load_balancer, workload, guard, network, folder };
        world.all_connected().await?;
        Ok(world)
    }

    /// As [`Builder::start`], with `shop/checkout` applied and served with these weights.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn with_policy(self, weights: &[(&str, u32)]) -> World {
        let world = self.start().await.expect("the world starts");
        world.yardctl.apply_until_converged(&Policy::new("checkout", weights)).await;
        world.all_healthy("shop/checkout").await;
        world.hub_knows("shop/checkout").await;
        world
    }
}

/// The hub, and the proxies around it where there are any.
async fn start_hub(
    behind_proxies: bool,
    folder: &Path,
    sandbox: &Sandbox,
    database: Database,
    times: &Times,
    guard: Option<&Guard>,
) -> anyhow::Result<(Hub, Option<Network>)> {
    let log = || tail(&folder.join("hub.log"), 40);
    if let Some(guard) = guard {
        anyhow::ensure!(!behind_proxies, "a guarded world has no proxies");
        return Ok((guard.hub(folder, sandbox.info(), database, times).await.with_context(log)?, None));
    }
    if !behind_proxies {
        return Ok((Hub::start(folder, sandbox.info(), database, times).await.with_context(log)?, None));
    }
    let Database::Url(url) = database else { anyhow::bail!("a proxy needs the URL of a database") };
    let proxies = Network::start(sandbox.info(), &url).await?;
    let database = Database::Url(proxies.database_url.clone());
    let hub = Hub::start(folder, &proxies.sandbox, database, times).await.with_context(log)?;
    let network = proxies.before(&hub.grpc_url()).await?;
    Ok((hub, Some(network)))
}

async fn start_agent(
    folder: &Path,
    cluster: &str,
    sandbox: &Sandbox,
    real: Option<&Arc<RealKube>>,
    hub: &Hub,
    network: Option<&mut Network>,
) -> anyhow::Result<Agent> {
    let place = sandbox.info();
    match (real, network) {
        (Some(_), Some(_)) => anyhow::bail!("real API servers speak TLS and have no proxy"),
        (Some(kube), None) => {
            let kubeconfig = kube.kubeconfig_for_agent().await?;
            Agent::start_as(folder, cluster, &kubeconfig, place, &hub.grpc_url())
        }
        (None, Some(network)) => {
            let kubeconfig = network.kubeconfig(folder, place, cluster).await?;
            Agent::start_as(folder, cluster, &kubeconfig, place, &network.hub_url())
        }
        (None, None) => Agent::start(folder, cluster, place, &hub.grpc_url()),
    }
}

/// The agent of a cluster in a guarded world, with a join token of its own.
async fn join(
    guard: &Guard,
    folder: &Path,
    cluster: &str,
    sandbox: &Sandbox,
    real: Option<&Arc<RealKube>>,
    hub: &Hub,
    administrator: &Yardctl,
) -> anyhow::Result<Agent> {
    guard.join(administrator, cluster).await?;
    let kubeconfig = match real {
        Some(kube) => kube.kubeconfig_for_agent().await?,
        None => {
            let place = sandbox.info().clusters.get(cluster);
            place.with_context(|| format!("the sandbox has no cluster {cluster}"))?.kubeconfig.clone().into()
        }
    };
    guard.agent(folder, cluster, &kubeconfig, sandbox.info(), &hub.grpc_url())
}
