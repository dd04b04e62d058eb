//! The sandbox as a process, and its control API in the words of the scenarios.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, time::Duration};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Client,
    elb::Elb,
    process::Process,
    programs,
    realkube::RealKube,
    wait::{self, PATIENCE},
};

/// The namespace of every scenario.
pub const NAMESPACE: &str = "shop";
/// Longest time of a rollout. After an API server came back, Kubernetes' own watchers look for it again only after up to 30 s of
/// growing pauses, controllers and kubelets each; then two waves of pods with 15 s to end, on a machine that is busy.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// How a sandbox is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the clusters.
    pub clusters: Vec<String>,
    /// How many times faster the load balancer's clocks run.
    pub time_scale: f64,
    /// How long a changed rule may be served in its old state, before the time scale.
    pub propagation: Duration,
    /// Seed of the load balancer's choices.
    pub seed: u64,
}

/// `sandbox.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Info {
    /// The control API.
    pub control_url: String,
    /// The ELBv2 API.
    pub elb_url: String,
    /// The CloudWatch API.
    pub cloudwatch_url: String,
    /// The clusters by name.
    pub clusters: BTreeMap<String, ClusterInfo>,
    /// The VPC of everything.
    pub vpc_id: String,
    /// Its addresses, pods' and nodes'.
    pub vpc_cidr: String,
    /// The region of everything.
    pub region: String,
    /// The account of everything.
    pub account_id: String,
}

/// One cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterInfo {
    /// Its kubeconfig file.
    pub kubeconfig: String,
}

/// A workload as `GET .../workloads/{name}` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Workload {
    /// Wanted.
    pub replicas: usize,
    /// Ready and not terminating.
    pub ready: usize,
    /// True until every pod is of the newest version and ready.
    pub rolling: bool,
    /// Terminating ones included.
    pub pods: Vec<Pod>,
}

/// One pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: Option<String>,
    /// As its condition says.
    pub ready: bool,
    /// It has a deletion timestamp.
    pub terminating: bool,
}

/// What a workload is made of; the rest is the sandbox's default.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// Wanted pods.
    pub replicas: u32,
    /// Labels; the Service of the scenarios selects `app`.
    pub app: String,
    /// Named ports.
    pub ports: Vec<(String, u16)>,
    /// What the pods answer as their version.
    pub version: String,
    /// From the start of a pod until it is ready.
    pub ready_after: Duration,
    /// How long a pod serves on after it was asked to end, as with a preStop sleep.
    pub termination_grace: Duration,
    /// How long each answer takes.
    pub latency: Duration,
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    process: Process,
    info: Info,
    control: Client,
    real: BTreeMap<String, Arc<RealKube>>,
}

impl Sandbox {
    /// Starts one and waits until everything in it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(folder: &Path, settings: &Settings) -> anyhow::Result<Self> {
        Self::start_beside(folder, settings, &BTreeMap::new()).await
    }

    /// As [`Sandbox::start`], where it is only scheduler and kubelets of some clusters, whose API servers are real ones.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_beside(
        folder: &Path,
        settings: &Settings,
        real: &BTreeMap<String, Arc<RealKube>>,
    ) -> anyhow::Result<Self> {
        let dir = folder.join("sandbox");
        let mut command = Command::new(programs::find("switchyard-sandbox")?);
        command.arg("--dir").arg(&dir).arg("--clusters").arg(settings.clusters.join(","));
        command.arg("--time-scale").arg(settings.time_scale.to_string());
        command.arg("--propagation-ms").arg(settings.propagation.as_millis().to_string());
        command.arg("--seed").arg(settings.seed.to_string());
        // A second for CloudWatch's minute: `--cloudwatch-resolution-seconds 1` is the hub's side of it.
        command.arg("--cloudwatch-period-ms").arg("1000").arg("--cloudwatch-delay-ms").arg("300");
        for (name, kube) in real {
            command.arg(format!("--external={name}={}", kube.kubeconfig_admin().display()));
        }
        let mut process = Process::start("sandbox", folder, &mut command)?;
        let file = dir.join("sandbox.json");
        let text = wait::until_within("sandbox.json to appear", PATIENCE, async || {
            match process.ensure_running() {
                // It will not appear any more, and the reason is in the log.
                Err(error) => Ok(Err(error)),
                Ok(()) => std::fs::read_to_string(&file).map(Ok),
            }
        })
        .await??;
        let info: Info = serde_json::from_str(&text)?;
        let control = Client::new(info.control_url.clone());
        Ok(Self { process, info, control, real: real.clone() })
    }

    /// How to reach it.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Its control API.
    pub fn control(&self) -> &Client {
        &self.control
    }

    /// Its load balancers.
    pub fn elb(&self) -> Elb {
        Elb::new(self.control.clone())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// One cluster.
    pub fn cluster(&self, name: &str) -> Cluster {
        Cluster { control: self.control.clone(), name: name.to_owned(), real: self.real.get(name).cloned() }
    }
}

/// One cluster of a sandbox.
#[derive(Clone, Debug)]
pub struct Cluster {
    control: Client,
    /// Its name.
    pub name: String,
    /// Its API server, where that is a real one.
    pub real: Option<Arc<RealKube>>,
}

impl Cluster {
    fn at(&self, rest: &str) -> String {
        format!("/clusters/{}{rest}", self.name)
    }

    fn in_namespace(&self, rest: &str) -> String {
        self.at(&format!("/namespaces/{NAMESPACE}{rest}"))
    }

    /// Makes a Service that selects the pods of `app`: ports as name, number and target port.
    ///
    /// # Errors
    /// When the sandbox refuses it, as with every method here.
    pub async fn create_service(&self, name: &str, app: &str, ports: &[(&str, u16, Value)]) -> anyhow::Result<()> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, port, target)| json!({"name": name, "port": port, "target_port": target}))
            .collect();
        let body = json!({"name": name, "selector": {"app": app}, "ports": ports});
        self.control.post::<Value>(&self.in_namespace("/services"), &body).await?;
        Ok(())
    }

    /// Deletes a Service.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn delete_service(&self, name: &str) -> anyhow::Result<()> {
        let path = self.in_namespace(&format!("/services/{name}"));
        self.control.call::<Value>(Method::DELETE, &path, None::<&()>).await?;
        Ok(())
    }

    /// Changes what a Service selects.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn select(&self, service: &str, app: &str) -> anyhow::Result<()> {
        let path = self.in_namespace(&format!("/services/{service}"));
        let body = json!({"selector": {"app": app}});
        self.control.call::<Value>(Method::PATCH, &path, Some(&body)).await?;
        Ok(())
    }

    /// Makes or changes a workload.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn put_workload(&self, name: &str, spec: &WorkloadSpec) -> anyhow::Result<()> {
        let ports: Vec<Value> = spec.ports.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
        let body = json!({
            "replicas": spec.replicas, "labels": {"app": spec.app}, "ports": ports, "version": spec.version,
            "ready_after_ms": u64::try_from(spec.ready_after.as_millis())?,
            "termination_grace_ms": u64::try_from(spec.termination_grace.as_millis())?,
            "latency_ms": u64::try_from(spec.latency.as_millis())?,
        });
        let path = self.in_namespace(&format!("/workloads/{name}"));
        self.control.call::<Value>(Method::PUT, &path, Some(&body)).await?;
        Ok(())
    }

    /// A workload and its pods.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn workload(&self, name: &str) -> anyhow::Result<Workload> {
        self.control.get(&self.in_namespace(&format!("/workloads/{name}"))).await
    }

    /// Begins a rolling update.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn roll_out(&self, workload: &str, version: &str) -> anyhow::Result<()> {
        let path = self.in_namespace(&format!("/workloads/{workload}/rollout"));
        self.control.post::<Value>(&path, &json!({"version": version})).await?;
        Ok(())
    }

    /// Waits until a workload is as it should be, with no pod on its way out.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn settled(&self, workload: &str) {
        let what = format!("{workload} of {} to have all its pods ready and no other", self.name);
        let settled = wait::until_within(&what, SETTLED_WITHIN, async || {
            let seen = self.workload(workload).await.map_err(|e| e.to_string())?;
            let done = !seen.rolling && seen.pods.len() == seen.replicas && seen.ready == seen.replicas;
            wait::check(done, || format!("{seen:?}"))
        });
        if let Err(error) = settled.await {
            panic!("{error:#}");
        }
    }

    /// Puts every pod into a mode: `normal`, `unready`, `failing`, `hung`, `crashed`, ...
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn set_mode(&self, mode: &str) -> anyhow::Result<()> {
        self.control.post::<Value>(&self.at("/pods/mode"), &json!({"mode": mode})).await?;
        Ok(())
    }

    /// Puts one pod into a mode.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn set_mode_of(&self, pod: &str, mode: &str) -> anyhow::Result<()> {
        let path = self.at(&format!("/pods/{NAMESPACE}/{pod}/mode"));
        self.control.post::<Value>(&path, &json!({"mode": mode})).await?;
        Ok(())
    }

    /// Something happens to the API server: `stop`, `start`, `restart`, `hang`, `compact`, `wipe`, `restore`.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn api_server(&self, action: &str) -> anyhow::Result<()> {
        if let Some(kube) = &self.real {
            return kube.act(action).await;
        }
        self.control.post::<Value>(&self.at(&format!("/api/{action}")), &json!({})).await?;
        Ok(())
    }

    /// Takes permissions away from the agent.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn deny(&self, verb: &str, resource: &str) -> anyhow::Result<()> {
        if let Some(kube) = &self.real {
            kube.set_agent_permissions(&[(verb, resource)]).await?;
            // The sandbox ends running watches; a real server does so only when it ends itself.
            return kube.restart_apiserver().await;
        }
        let body = json!({"deny": [{"verb": verb, "resource": resource}]});
        self.control.post::<Value>(&self.at("/rbac"), &body).await?;
        Ok(())
    }

    /// Gives all permissions back.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn allow_everything(&self) -> anyhow::Result<()> {
        if let Some(kube) = &self.real {
            return kube.set_agent_permissions(&[]).await;
        }
        self.control.call::<Value>(Method::DELETE, &self.at("/rbac"), None::<&()>).await?;
        Ok(())
    }
}
