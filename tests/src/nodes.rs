//! Nodes of a sandbox's clusters, and Services that answer on them, in the words of the scenarios.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::Client,
    sandbox::{NAMESPACE, WorkloadSpec},
    world::World,
};

/// How a Service answers on nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Type NodePort: any node reaches any pod.
    NodePort,
    /// Type LoadBalancer with `externalTrafficPolicy: Local`: a node reaches its own pods, and says so on another port.
    Local,
}

/// The nodes of one cluster.
#[derive(Clone, Debug)]
pub struct Nodes {
    control: Client,
    cluster: String,
}

impl Nodes {
    /// Those of a cluster of this world.
    pub fn of(world: &World, cluster: &str) -> Self {
        Self { control: world.sandbox.control().clone(), cluster: cluster.to_owned() }
    }

    /// The name of one, from 1.
    pub fn name(&self, number: usize) -> String {
        format!("{}-node-{number}", self.cluster)
    }

    fn at(&self, number: usize, rest: &str) -> String {
        format!("/clusters/{}/nodes/{}{rest}", self.cluster, self.name(number))
    }

    async fn change(&self, number: usize, change: Value) -> anyhow::Result<()> {
        self.control.call::<Value>(Method::PATCH, &self.at(number, ""), Some(&change)).await?;
        Ok(())
    }

    /// Makes a Service and a workload of this name; its port is called `http`.
    ///
    /// # Errors
    /// When the sandbox refuses it, as with every method here.
    pub async fn run(&self, name: &str, exposure: Exposure, workload: &WorkloadSpec) -> anyhow::Result<()> {
        let mut service = json!({"name": name, "selector": {"app": name}, "type": "NodePort",
            "ports": [{"name": "http", "port": 80, "target_port": "http"}]});
        if exposure == Exposure::Local {
            service["type"] = json!("LoadBalancer");
            service["external_traffic_policy"] = json!("Local");
        }
        let path = format!("/clusters/{}/namespaces/{NAMESPACE}/services", self.cluster);
        self.control.post::<Value>(&path, &service).await?;
        let ports: Vec<Value> = workload.ports.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
        let body = json!({
            "replicas": workload.replicas, "labels": {"app": name}, "ports": ports, "version": workload.version,
            "ready_after_ms": u64::try_from(workload.ready_after.as_millis())?,
            "termination_grace_ms": u64::try_from(workload.termination_grace.as_millis())?,
        });
        let path = format!("/clusters/{}/namespaces/{NAMESPACE}/workloads/{name}", self.cluster);
        self.control.call::<Value>(Method::PUT, &path, Some(&body)).await?;
        Ok(())
    }

    /// Sets the condition Ready.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn set_ready(&self, number: usize, ready: bool) -> anyhow::Result<()> {
        self.change(number, json!({"ready": ready})).await
    }

    /// Keeps it out of load balancers by the label of Kubernetes, or takes the label away.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn exclude(&self, number: usize, excluded: bool) -> anyhow::Result<()> {
        let value = if excluded { json!("") } else { Value::Null };
        self.change(number, json!({"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}})).await
    }

    /// Announces its removal, as the Cluster Autoscaler does.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn announce_removal(&self, number: usize) -> anyhow::Result<()> {
        let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"});
        self.change(number, json!({"taints": [taint]})).await
    }

    /// Cordons it and moves its pods away.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn drain(&self, number: usize) -> anyhow::Result<()> {
        self.control.post::<Value>(&self.at(number, "/drain"), &json!({})).await?;
        Ok(())
    }

    /// Deletes the Node object. The machine runs on.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn delete(&self, number: usize) -> anyhow::Result<()> {
        self.control.call::<Value>(Method::DELETE, &self.at(number, ""), None::<&()>).await?;
        Ok(())
    }

    /// Switches the machine off.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn switch_off(&self, number: usize) -> anyhow::Result<()> {
        self.control.call::<Value>(Method::DELETE, &self.at(number, "/machine"), None::<&()>).await?;
        Ok(())
    }
}
