//! One cluster of the sandbox: nodes, pods, and either an API server with store and controllers of its own or somebody else's
//! real one. Composes `kube`, `external` and `workload`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{Block, IpPool};
use crate::external::{External, ExternalError};
use crate::kube::kinds::{NAMESPACES, NODES};
use crate::kube::object::{Object, now};
use crate::kube::server::ApiServer;
use crate::kube::status::ApiError;
use crate::kube::store::Store;
use crate::kube::write::{PatchKind, Target};
use crate::objects::Objects;
use crate::workload::Controllers;
use crate::workload::kubelet::Kubelet;
use crate::workload::node_ports::{Machines, NodePorts};
use crate::workload::reach::Reaches;

/// Nodes of a cluster, one in each of as many zones.
const NODES_PER_CLUSTER: usize = 3;
/// User that the kubeconfig presents; refusals name it.
const USER: &str = "sandbox-user";

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("the API server of cluster {cluster:?} cannot listen on its address")]
    Listen {
        cluster: String,
        #[source]
        source: io::Error,
    },
    #[error("cluster {cluster:?} could not be furnished with its first objects")]
    Furnish {
        cluster: String,
        #[source]
        source: ApiError,
    },
    #[error("cluster {cluster:?} cannot be attached to")]
    External {
        cluster: String,
        #[source]
        source: ExternalError,
    },
    #[error("kubeconfig {path:?} could not be written")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Who answers for the objects of a cluster.
pub enum Server {
    /// The sandbox itself.
    Own(ApiServer),
    /// A real one, with the kubeconfig it was attached by.
    External { url: String, kubeconfig: PathBuf },
}

/// A running cluster.
pub struct Cluster {
    pub name: String,
    pub server: Server,
    /// What controllers and pods work on, whatever the sandbox's API server shows.
    pub objects: Objects,
    pub kubelet: Arc<Kubelet>,
    pub ips: Arc<IpPool>,
    pub node_ports: NodePorts,
    /// What of it the network reaches.
    pub reaches: Reaches,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What clusters share, and who they are.
pub struct Place<'a> {
    pub name: &'a str,
    /// Among the clusters of this sandbox, from 0.
    pub index: usize,
    pub region: &'a str,
    pub block: &'a Block,
    /// Counts the tasks of the cluster, which end with `shutdown`.
    pub tasks: &'a TaskTracker,
    pub shutdown: &'a CancellationToken,
    /// Told of the machines that nodes are.
    pub machines: &'a Machines,
}

impl Cluster {
    /// Starts a cluster with an API server of its own.
    pub async fn start(place: &Place<'_>) -> Result<Arc<Self>, ClusterError> {
        let store = Arc::new(Store::default());
        let (api, listening) = ApiServer::bind(place.block.api_server(place.index), store.clone())
            .map_err(|source| ClusterError::Listen { cluster: place.name.to_owned(), source })?;
        let cluster = Self::furnished(place, Server::Own(api), Objects::Own(store)).await?;
        place.tasks.spawn(listening.run(place.shutdown.clone()));
        Ok(cluster)
    }

    /// Becomes the nodes of a cluster whose API server is a real one.
    pub async fn attach(place: &Place<'_>, kubeconfig: &Path) -> Result<Arc<Self>, ClusterError> {
        let external = External::attach(kubeconfig, place.tasks, place.shutdown).await;
        let external = external.map_err(|source| ClusterError::External { cluster: place.name.to_owned(), source })?;
        let server = Server::External { url: external.url().to_owned(), kubeconfig: kubeconfig.to_owned() };
        Self::furnished(place, server, Objects::External(external)).await
    }

    async fn furnished(place: &Place<'_>, server: Server, objects: Objects) -> Result<Arc<Self>, ClusterError> {
        let furnished = furnish(&objects, place).await;
        furnished.map_err(|source| ClusterError::Furnish { cluster: place.name.to_owned(), source })?;
        let reaches = Reaches::new(place.tasks.clone(), place.shutdown.clone());
        let ips = Arc::new(place.block.pods(place.index));
        let kubelet = Kubelet::new(place.name, objects.clone(), ips.clone(), reaches.clone(), place.shutdown.clone());
        let controllers = Controllers::new(&objects, kubelet.clone());
        let (nodes, stop) = (kubelet.clone(), place.shutdown.clone());
        place.tasks.spawn(async move {
            controllers.run(stop).await;
            nodes.join().await;
        });
        let node_ports = NodePorts::new(objects.store().clone(), place.machines.clone(), reaches.clone());
        place.tasks.spawn(node_ports.clone().run(place.shutdown.clone()));
        let (name, tasks, shutdown) = (place.name.to_owned(), place.tasks.clone(), place.shutdown.clone());
        Ok(Arc::new(Self { name, server, objects, kubelet, ips, node_ports, reaches, tasks, shutdown }))
    }

    /// Where its API server is.
    pub fn url(&self) -> String {
        match &self.server {
            Server::Own(api) => api.url(),
            Server::External { url, .. } => url.clone(),
        }
    }

    /// The path of its kubeconfig: `<dir>/<cluster>.kubeconfig`, written here, or that of the real server.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf, ClusterError> {
        match &self.server {
            Server::Own(api) => self.write_kubeconfig(&api.url(), dir),
            Server::External { kubeconfig, .. } => Ok(kubeconfig.clone()),
        }
    }

    fn write_kubeconfig(&self, url: &str, dir: &Path) -> Result<PathBuf, ClusterError> {
        let path = dir.join(format!("{}.kubeconfig", self.name));
        let name = &self.name;
        // JSON is YAML: no writer for YAML is needed.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name, "preferences": {},
            "clusters": [{"name": name, "cluster": {"server": url}}],
            "users": [{"name": USER, "user": {"token": USER}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": USER, "namespace": "default"}}],
        });
        crate::files::write_atomically(&path, &format!("{config:#}\n"))
            .map_err(|source| ClusterError::Kubeconfig { path: path.clone(), source })?;
        Ok(path)
    }

    /// The names of its nodes, and the zone of each.
    pub fn zones(&self) -> BTreeMap<String, String> {
        let nodes = self.objects.store().list(NODES, None).1;
        let zone = |node: &Object| node.label("topology.kubernetes.io/zone").unwrap_or_default().to_owned();
        nodes.iter().map(|node| (node.name().to_owned(), zone(node))).collect()
    }

    /// The machine of a node dies without a word: what runs there answers nothing any more. After `noticed_after` the cluster's
    /// control plane gives it up: the Node's readiness is unknown and its pods are not ready.
    pub fn lose_node(self: &Arc<Self>, node: &str, noticed_after: Duration) {
        self.reaches.set_machine(node, false);
        let (cluster, node) = (self.clone(), node.to_owned());
        let noticing = self.shutdown.clone().run_until_cancelled_owned(async move {
            tokio::time::sleep(noticed_after).await;
            if cluster.reaches.give_up(&node) {
                cluster.tell_node(&node, "Unknown", "NodeStatusUnknown").await;
            }
        });
        self.tasks.spawn(noticing);
    }

    /// It is back, with the same pods: their containers were restarted by nobody.
    pub async fn return_node(&self, node: &str) {
        self.reaches.set_machine(node, true);
        self.tell_node(node, "True", "KubeletReady").await;
        self.kubelet.schedule_pending();
    }

    async fn tell_node(&self, node: &str, ready: &str, reason: &str) {
        let condition = json!({"type": "Ready", "status": ready, "reason": reason, "lastTransitionTime": now()});
        let target = Target { status: true, ..Target::new(NODES, "", node) };
        let change = json!({"status": {"conditions": [condition]}});
        if let Err(error) = self.objects.patch(&target, PatchKind::Strategic, &change).await {
            tracing::warn!(%node, %error, "the condition of a node could not be written");
        }
    }

    /// Makes a namespace if it is not there yet.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), ApiError> {
        create(&self.objects, &Target::new(NAMESPACES, "", name), json!({})).await
    }
}

/// Creates what is not there yet.
async fn create(objects: &Objects, target: &Target, body: Value) -> Result<(), ApiError> {
    match objects.create(target, body).await {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

async fn furnish(objects: &Objects, place: &Place<'_>) -> Result<(), ApiError> {
    for name in ["default", "kube-system"] {
        create(objects, &Target::new(NAMESPACES, "", name), json!({})).await?;
    }
    let (cluster, region, index) = (place.name, place.region, place.index);
    for n in 0..NODES_PER_CLUSTER {
        let name = format!("{cluster}-node-{}", n + 1);
        // Zones are letters: a, b, c.
        let zone = format!("{region}{}", char::from(b'a' + u8::try_from(n).unwrap_or(0)));
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/region": region,
            "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": "m5.large"});
        // Instance ids are i- and 17 hexadecimal digits.
        let provider = format!("aws:///{zone}/i-{index:08x}{n:09x}");
        let node = Target::new(NODES, "", &name);
        create(objects, &node, json!({"metadata": {"labels": labels}, "spec": {"providerID": provider}})).await?;
        // A real server marks new nodes as not ready; taking that away is for a controller that does not run.
        objects.patch(&node, PatchKind::Merge, &json!({"spec": {"taints": null}})).await?;
        let address = place.block.node(index, n).to_string();
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": {"pods": "250", "cpu": "2", "memory": "8Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now(),
                            "lastHeartbeatTime": now()}],
        });
        let node = Target { status: true, ..node };
        objects.patch(&node, PatchKind::Merge, &json!({"status": status})).await?;
    }
    Ok(())
}
