//! A hub with agents whose AWS is moto, in an account and a region of its own: the clusters are the sandbox's.

use std::{collections::BTreeMap, process::Command};

use serde_json::{Value, json};
use switchyard_tests::{
    hub::{Database, Extra, Hub, Times},
    member::Agent,
    moto::{Moto, account::Account},
    policy::Policy,
    postgres, programs,
    sandbox::{Info, Sandbox, Settings, WorkloadSpec},
    wait,
    world::{self, LOAD_BALANCER},
    yardctl::Yardctl,
};
use tempfile::TempDir;

/// The hub's own name, which the policy holds it to.
const HUB_ID: &str = "production";
/// The clusters.
const CLUSTERS: [&str; 2] = ["blue", "green"];

/// What lives.
pub struct Life {
    /// The account.
    pub account: Account,
    /// The command line.
    pub yardctl: Yardctl,
    /// The clusters.
    pub sandbox: Sandbox,
    hub: Hub,
    agents: BTreeMap<&'static str, Agent>,
    folder: TempDir,
}

/// The policy that `deploy/iam/render.sh` prints for an account.
pub fn rendered(account: &str, region: &str) -> Value {
    rendered_with(account, region, &[])
}

/// As [`rendered`], with more arguments.
pub fn rendered_with(account: &str, region: &str, more: &[&str]) -> Value {
    let mut command = Command::new(programs::workspace().join("deploy/iam/render.sh"));
    command.args(["--region", region, "--account", account]).args(more);
    let output = command.args(["--load-balancer", LOAD_BALANCER, "--hub-id", HUB_ID]).output().expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the policy is JSON")
}

/// A policy without one of its statements.
pub fn without(policy: &Value, sid: &str) -> Value {
    let statements = policy["Statement"].as_array().expect("statements");
    let kept: Vec<&Value> = statements.iter().filter(|statement| statement["Sid"] != sid).collect();
    assert_eq!(kept.len() + 1, statements.len(), "there is one statement {sid}");
    json!({"Version": policy["Version"], "Statement": kept})
}

/// The same requests as those of every scenario, on a path of its own, with the Service that all share here.
pub fn policy(name: &str, order: u32, weights: &[(&str, u32)]) -> Policy {
    Policy::new(name, weights).with("/spec/backend/service/name", json!("checkout")).with("/spec/order", json!(order))
}

fn workload() -> WorkloadSpec {
    WorkloadSpec {
        replicas: 2,
        app: "checkout".to_owned(),
        ports: vec![("http".to_owned(), 8080)],
        version: "v1".to_owned(),
        ready_after: std::time::Duration::from_millis(100),
        termination_grace: std::time::Duration::from_millis(200),
        latency: std::time::Duration::ZERO,
    }
}

impl Life {
    /// Starts everything with a role that has this policy, and waits until the hub has seen both agents.
    pub async fn start(account: &str, region: &str, policy: &Value) -> Self {
        let moto = Moto::shared().await;
        let account = Account::new(moto, account, region);
        let furniture = account.furnish(LOAD_BALANCER, 80).await.expect("a load balancer");
        let credentials = account.role(policy).await.expect("a role");

        let folder = world::folder().expect("a folder");
        let settings = Settings {
            clusters: CLUSTERS.map(str::to_owned).into(),
            time_scale: 10.0,
            propagation: std::time::Duration::ZERO,
            seed: 1,
        };
        let sandbox = Sandbox::start(folder.path(), &settings).await.expect("the sandbox starts");
        for name in CLUSTERS {
            let cluster = sandbox.cluster(name);
            let service = cluster.create_service("checkout", "checkout", &[("http", 80, json!("http"))]).await;
            service.expect("the Service is made");
            cluster.put_workload("checkout", &workload()).await.expect("the pods are made");
        }
        // The clusters are the sandbox's; AWS is moto.
        let place = Info {
            elb_url: moto.url().to_owned(),
            vpc_id: furniture.vpc_id.clone(),
            region: region.to_owned(),
            account_id: account.id.clone(),
            ..sandbox.info().clone()
        };
        let times = Times { settle: "200ms", audit: "2s", health: "500ms", ..Times::default() };
        let database = Database::Url(postgres::shared_database().await.expect("a database"));
        let arguments = vec![format!("--hub-id={HUB_ID}")];
        let extra = Extra { arguments, environment: credentials.environment(), ..Extra::default() };
        let hub = Hub::start_with(folder.path(), &place, database, &times, extra).await.expect("the hub starts");
        let start = |name| Agent::start(folder.path(), name, &place, &hub.grpc_url()).expect("the agent starts");
        let agents = CLUSTERS.into_iter().map(|name| (name, start(name))).collect();
        let yardctl = Yardctl::new(hub.grpc_url()).expect("yardctl is built");
        let life = Self { account, yardctl, sandbox, hub, agents, folder };
        life.connected().await;
        life
    }

    async fn connected(&self) {
        wait::until("the hub to have seen both agents", async || {
            let finished = self.yardctl.run(&["get", "clusters", "-o", "json"], "").await.map_err(|e| e.to_string())?;
            let list: Value = serde_json::from_str(&finished.stdout).map_err(|e| format!("{e}: {finished}"))?;
            let clusters = list["clusters"].as_array().cloned().unwrap_or_default();
            let connected = clusters.iter().filter(|cluster| cluster["link"] == "connected").count();
            wait::check(connected == self.agents.len(), || list.to_string())
        })
        .await;
    }

    /// All that the hub has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("hub.log")).unwrap_or_default()
    }

    /// Waits until the hub has logged all of these words in one line.
    pub async fn logs(&self, words: &[&str]) {
        wait::until(&format!("the hub to log {words:?}"), async || {
            let log = self.log();
            let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            wait::check(found, || self.hub.log())
        })
        .await;
    }

    /// How often a call ended well, from the hub's own metrics.
    pub async fn done(&self, operation: &str) -> u64 {
        let pages = switchyard_tests::client::Client::new(self.hub.http_url());
        let (_, text) = pages.send(http::Method::GET, "/metrics", Vec::new()).await.expect("the metrics");
        let text = String::from_utf8_lossy(&text).into_owned();
        let labels =
            [format!("operation=\"{operation}\""), "outcome=\"done\"".to_owned(), "aws_calls_total".to_owned()];
        let line = text.lines().find(|line| labels.iter().all(|label| line.contains(label)));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().expect("a number"))
    }

    /// Waits until nothing of a policy is left.
    pub async fn gone(&self, policy: &str) {
        wait::until(&format!("{policy} to be gone"), async || {
            let finished = self.yardctl.run(&["status", policy], "").await.map_err(|e| e.to_string())?;
            wait::check(finished.code != 0 && finished.stderr.contains("not"), || finished.to_string())
        })
        .await;
    }

    /// Ends everything in order.
    pub async fn end(mut self) {
        for agent in self.agents.values_mut() {
            agent.stop().await.expect("the agent ends well");
        }
        self.hub.stop().await.expect("the hub ends well");
        self.sandbox.stop().await.expect("the sandbox ends well");
    }
}
