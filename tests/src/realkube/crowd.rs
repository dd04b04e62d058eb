//! Many pods without a kubelet: made, made ready and deleted by the test itself, as fast as the server takes them; and what a list
//! at rest shows of them, computed from EndpointSlices by other code than the agent's.

use std::{collections::BTreeSet, fmt::Debug, future::Future};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::RealKube;
use crate::recorder::Target;

/// Requests on their way at once: more only queue up in the server.
const AT_ONCE: usize = 16;
/// Where all pods are said to run.
const NODE: &str = "crowd-node";
const PORT: u32 = 8_080;
/// As the EndpointSlice controller does it.
const ENDPOINTS_PER_SLICE: usize = 100;

/// The pods of one namespace.
#[derive(Clone)]
pub struct Crowd {
    client: Client,
    /// Their namespace.
    pub namespace: String,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its address.
    pub address: String,
}

fn object<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value.clone()).with_context(|| value.to_string())
}

/// What a kubelet says of a pod that is ready.
fn ready_conditions() -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!([condition("ContainersReady"), condition("Ready")])
}

/// Runs all of them, a few at a time; gives what they give, in order.
async fn all<T, F: Future<Output = anyhow::Result<T>>>(each: impl Iterator<Item = F>) -> anyhow::Result<Vec<T>> {
    stream::iter(each).buffered(AT_ONCE).try_collect().await
}

impl Crowd {
    /// A namespace of its own, and the node.
    ///
    /// # Errors
    /// When the server refuses something, as with every method here.
    pub async fn new(kube: &RealKube) -> anyhow::Result<Self> {
        let namespace = kube.namespace("crowd").await?;
        let client = kube.client().await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let zone = json!({"topology.kubernetes.io/zone": "eu-central-1a"});
        let node = json!({"metadata": {"name": NODE, "labels": zone}, "spec": {"providerID": "aws:///eu-central-1a/i-00000000000000001"}});
        nodes.create(&PostParams::default(), &object(node)?).await?;
        Ok(Self { client, namespace })
    }

    fn api<T>(&self) -> Api<T>
    where
        T: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Service that selects the pods of its name, with a port `http`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn service(&self, name: &str) -> anyhow::Result<()> {
        let service = json!({"metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]}});
        self.api::<Service>().create(&PostParams::default(), &object(service)?).await?;
        Ok(())
    }

    /// Ready pods of a Service, one for each number. The number makes the address, so it has to be another for each pod.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn pods(&self, service: &str, numbers: std::ops::Range<u32>) -> anyhow::Result<Vec<Member>> {
        all(numbers.map(|number| self.pod(service, number))).await
    }

    async fn pod(&self, service: &str, number: u32) -> anyhow::Result<Member> {
        let [_, b, c, d] = number.to_be_bytes();
        // Never 10.0.0.0: numbers begin at any place, addresses at 10.0.1.0.
        let address = format!("10.{b}.{}.{d}", c.wrapping_add(1));
        let name = format!("{service}-{number}");
        let ports = json!([{"name": "http", "containerPort": PORT}]);
        let pod = json!({"metadata": {"name": name, "labels": {"app": service}},
            "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "example.com/app", "ports": ports}]}});
        let pods = self.api::<Pod>();
        let made = pods.create(&PostParams::default(), &object(pod)?).await?;
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": ready_conditions()}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(Member { uid: made.metadata.uid.context("a pod without a uid")?, name, address })
    }

    /// Deletes pods at once, as their kubelet does in the end.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn delete(&self, members: &[Member]) -> anyhow::Result<()> {
        let pods = self.api::<Pod>();
        let now = DeleteParams::default().grace_period(0);
        let delete = async |member: &Member| anyhow::Ok(pods.delete(&member.name, &now).await.map(drop)?);
        all(members.iter().map(delete)).await.map(drop)
    }

    /// The EndpointSlices of a Service whose pods these are, all of them ready: for servers without controllers.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn slices(&self, service: &str, members: &[Member]) -> anyhow::Result<()> {
        let slices = self.api::<EndpointSlice>();
        let put = async |(number, members): (usize, &[Member])| {
            let name = format!("{service}-{number}");
            let patch = self.slice(service, &name, members);
            let applied = slices.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&patch)).await;
            applied.map(drop).with_context(|| name)
        };
        all(members.chunks(ENDPOINTS_PER_SLICE).enumerate().map(put)).await.map(drop)
    }

    fn slice(&self, service: &str, name: &str, members: &[Member]) -> Value {
        let endpoint = |member: &Member| {
            let pod = json!({"kind": "Pod", "namespace": self.namespace, "name": member.name, "uid": member.uid});
            json!({"addresses": [member.address], "nodeName": NODE, "targetRef": pod,
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
            "endpoints": members.iter().map(endpoint).collect::<Vec<_>>()})
    }

    /// What the server shows now, and an agent has to show when nothing changes any more.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn at_rest(&self) -> anyhow::Result<BTreeSet<Target>> {
        let mut targets = BTreeSet::new();
        for slice in self.api::<EndpointSlice>().list(&ListParams::default()).await?.items {
            let service = slice.metadata.labels.unwrap_or_default().remove("kubernetes.io/service-name");
            let port = slice.ports.unwrap_or_default().into_iter().find(|port| port.name.as_deref() == Some("http"));
            let (Some(service), Some(port)) = (service, port.and_then(|port| port.port)) else { continue };
            let port = u32::try_from(port)?;
            for endpoint in slice.endpoints {
                let ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
                let pod_uid = endpoint.target_ref.and_then(|pod| pod.uid).unwrap_or_default();
                for address in endpoint.addresses {
                    let (service, pod_uid) = (service.clone(), pod_uid.clone());
                    targets.insert(Target { service, address, port, pod_uid, ready });
                }
            }
        }
        Ok(targets)
    }
}
