//! The world of a scenario: a sandbox with clusters, a load balancer that was there before, a hub, and an agent per cluster.
//! Everything ends with it; when the test fails its logs are shown first.

mod builder;

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde_json::json;
use tempfile::TempDir;

pub use builder::{Builder, Kubernetes};

use crate::{
    aws::Aws,
    elb::{Elb, Existing, State},
    guard::Guard,
    hub::Hub,
    load::Load,
    member::Agent,
    network::Network,
    process::tail,
    sandbox::{Cluster, Sandbox, WorkloadSpec},
    undertaker, wait,
    yardctl::Yardctl,
};

/// The load balancer that the platform team made.
pub const LOAD_BALANCER: &str = "shared-public";
/// The host name of all requests.
pub const HOST: &str = "shop.example.com";
/// Set to keep the folders of scenarios.
const KEEP: &str = "SWITCHYARD_TESTS_KEEP";

/// A running world.
pub struct World {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The hub.
    pub hub: Hub,
    /// The agents by cluster.
    pub agents: BTreeMap<String, Agent>,
    /// The command line.
    pub yardctl: Yardctl,
    /// The load balancer.
    pub load_balancer: Existing,
    /// What runs in each cluster.
    pub workload: WorkloadSpec,
    guard: Option<Guard>,
    network: Option<Network>,
    folder: TempDir,
}

/// A folder for one world, open to the user that Postgres runs as.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> anyhow::Result<TempDir> {
    let mut folder = tempfile::Builder::new().prefix("sy-").permissions(open_permissions()).tempdir()?;
    if std::env::var_os(KEEP).is_some() {
        folder.disable_cleanup(true);
    } else {
        undertaker::remove(folder.path());
    }
    Ok(folder)
}

fn open_permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

impl World {
    /// Blue and green with three pods each, nothing applied yet.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn start() -> Self {
        Builder::default().start().await.expect("the world starts")
    }

    /// As [`World::start`], with these API servers.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn start_on(kubernetes: Kubernetes) -> Self {
        Builder { kubernetes, ..Builder::default() }.start().await.expect("the world starts")
    }

    /// As [`World::start`], with `shop/checkout` applied and served with these weights.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn with_policy(weights: &[(&str, u32)]) -> Self {
        Self::with_policy_on(Kubernetes::Sandbox, weights).await
    }

    /// As [`World::with_policy`], with these API servers.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn with_policy_on(kubernetes: Kubernetes, weights: &[(&str, u32)]) -> Self {
        Builder { kubernetes, ..Builder::default() }.with_policy(weights).await
    }

    /// Where its logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its proxies.
    ///
    /// # Panics
    /// When it was not started behind proxies.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a world that was started behind proxies")
    }

    /// What guards it.
    ///
    /// # Panics
    /// When it was started without.
    pub fn guard(&self) -> &Guard {
        self.guard.as_ref().expect("a world that was started guarded")
    }

    /// The same, to change it.
    ///
    /// # Panics
    /// When it was started without.
    pub fn guard_mut(&mut self) -> &mut Guard {
        self.guard.as_mut().expect("a world that was started guarded")
    }

    /// One cluster.
    pub fn cluster(&self, name: &str) -> Cluster {
        self.sandbox.cluster(name)
    }

    /// The names of its clusters.
    pub fn clusters(&self) -> Vec<Cluster> {
        self.agents.keys().map(|name| self.cluster(name)).collect()
    }

    /// Its load balancers.
    pub fn elb(&self) -> Elb {
        self.sandbox.elb()
    }

    /// Somebody else with access to the same AWS account.
    pub fn somebody_else(&self) -> Aws {
        Aws::new(&self.sandbox.info().elb_url)
    }

    /// An agent.
    ///
    /// # Panics
    /// When there is no such cluster.
    pub fn agent(&mut self, cluster: &str) -> &mut Agent {
        self.agents.get_mut(cluster).expect("a cluster of this world")
    }

    /// Requests to `/<service>` at a constant rate until they are ended.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn load(&self, service: &str, rps: u32) -> Load {
        self.try_load(service, rps).await.expect("the load starts")
    }

    /// As [`World::load`], for those who do not panic.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn try_load(&self, service: &str, rps: u32) -> anyhow::Result<Load> {
        let address = &self.load_balancer.listeners[0].address;
        Load::start(self.sandbox.control(), &format!("http://{address}/{service}"), HOST, rps).await
    }

    async fn all_connected(&self) -> anyhow::Result<()> {
        wait::until_within("the hub to have seen all agents", wait::PATIENCE, async || {
            let finished = self.yardctl.run(&["get", "clusters", "-o", "json"], "").await.map_err(|e| e.to_string())?;
            let list: serde_json::Value =
                serde_json::from_str(&finished.stdout).map_err(|e| format!("{e}: {finished}"))?;
            let clusters = list["clusters"].as_array().cloned().unwrap_or_default();
            let connected = clusters.iter().filter(|cluster| cluster["link"] == "connected").count();
            wait::check(connected == self.agents.len(), || list.to_string())
        })
        .await
    }

    /// Waits until every agent is connected.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn connected(&self) {
        if let Err(error) = self.all_connected().await {
            panic!("{error:#}");
        }
    }

    /// Makes a Service and a workload of another name in every cluster.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn add_service(&self, name: &str) {
        for cluster in self.clusters() {
            let spec = WorkloadSpec { app: name.to_owned(), replicas: 2, ..self.workload.clone() };
            cluster.create_service(name, name, &[("http", 80, json!("http"))]).await.expect("the Service is made");
            cluster.put_workload(name, &spec).await.expect("the workload is made");
        }
    }

    /// Waits for a condition on the load balancer.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn elb_shows(&self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        wait::until(what, async || {
            let state = self.elb().state().await.map_err(|e| e.to_string())?;
            if holds(&state) { Ok(state) } else { Err(shown(&state)) }
        })
        .await
    }

    /// Waits until each cluster's group holds exactly its ready pods, and all are healthy where requests are sent.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn all_healthy(&self, policy: &str) -> State {
        let workload = policy.split_once('/').map_or(policy, |(_, name)| name);
        let what = format!("the groups of {policy} to hold exactly the ready pods, healthy");
        wait::until(&what, async || {
            let state = self.elb().state().await.map_err(|e| e.to_string())?;
            for cluster in self.clusters() {
                let pods = cluster.workload(workload).await.map_err(|e| e.to_string())?;
                let live = pods.pods.iter().filter(|pod| pod.ready && !pod.terminating);
                let wanted = live.filter_map(|pod| pod.ip.clone()).collect();
                let group = state.group(policy, &cluster.name).ok_or_else(|| shown(&state))?;
                let complete = pods.ready == pods.replicas && group.addresses() == wanted;
                let healthy = group.healthy() == wanted.len();
                wait::check(complete && healthy, || format!("{}: pods {pods:?}, {}", cluster.name, shown(&state)))?;
            }
            Ok::<_, String>(state)
        })
        .await
    }

    /// Waits until the hub, too, has seen that every target is healthy; it looks once in a health interval.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn hub_knows(&self, policy: &str) {
        wait::until(&format!("the hub to know that all targets of {policy} are healthy"), async || {
            let status = self.yardctl.status(policy).await.map_err(|e| e.to_string())?;
            let clusters = status["status"]["clusters"].as_array().cloned().unwrap_or_default();
            let known = |cluster: &serde_json::Value| cluster["targets"]["healthy"] == cluster["targets"]["desired"];
            wait::check(!clusters.is_empty() && clusters.iter().all(known), || status["status"].to_string())
        })
        .await;
    }

    /// A rolling update of every pod in every cluster, begun but not waited for.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn begin_rolling_update(&self, version: &str) {
        for cluster in self.clusters() {
            cluster.roll_out("checkout", version).await.expect("the rollout begins");
        }
    }

    /// Waits until every pod of every cluster is of the newest version and the old ones are gone.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn rolled(&self) {
        for cluster in self.clusters() {
            cluster.settled("checkout").await;
        }
    }

    /// Ends everything in order.
    ///
    /// # Panics
    /// When a program does not end well.
    pub async fn stop(self) {
        self.end().await.expect("everything ends well");
    }

    /// As [`World::stop`], for those who do not panic.
    ///
    /// # Errors
    /// When a program does not end well.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for (name, agent) in &mut self.agents {
            agent.stop().await.with_context(|| format!("the agent of {name} did not end well"))?;
        }
        self.hub.stop().await.context("the hub did not end well")
    }
}

/// What matters of a state, for messages.
fn shown(state: &State) -> String {
    let groups: Vec<String> = state
        .target_groups
        .iter()
        .map(|group| {
            let targets: Vec<String> =
                group.targets.iter().map(|t| format!("{}:{} {}", t.id, t.port, t.state)).collect();
            format!("{} [{}]", group.name, targets.join(", "))
        })
        .collect();
    let rules: Vec<String> = state
        .load_balancers
        .iter()
        .flat_map(|lb| &lb.listeners)
        .flat_map(|listener| &listener.rules)
        .map(|rule| {
            let forwards = rule.actions.iter().flat_map(|action| &action.target_groups);
            let weights: Vec<String> = forwards.map(|f| format!("{}={}", f.target_group_arn, f.weight)).collect();
            format!("{} {:?}", rule.priority, weights)
        })
        .collect();
    format!("groups {groups:#?}, rules {rules:#?}")
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- hub.log\n{}", self.hub.log());
            for (name, agent) in &self.agents {
                eprintln!("--- agent-{name}.log\n{}", agent.log());
            }
            eprintln!("--- sandbox.log\n{}", tail(self.sandbox.process().log(), 20));
            for cluster in self.clusters() {
                if let Some(kube) = &cluster.real {
                    eprintln!("=== control plane of {}\n{}", cluster.name, kube.logs());
                }
            }
        }
    }
}
