//! One cluster of the sandbox: API server, store, controllers, nodes, and its kubeconfig. Composes `kube` and `workload`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{Block, IpPool};
use crate::kube::kinds::{KindId, NAMESPACES, NODES};
use crate::kube::object::now;
use crate::kube::server::ApiServer;
use crate::kube::status::ApiError;
use crate::kube::store::{Store, Write};
use crate::kube::write::{self, Target, WriteOptions};
use crate::workload::Controllers;
use crate::workload::kubelet::Kubelet;

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
    #[error("kubeconfig {path:?} could not be written")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A running cluster.
pub struct Cluster {
    pub name: String,
    pub api: ApiServer,
    /// What controllers and pods work on, whatever the API server shows.
    pub store: Arc<Store>,
    pub kubelet: Arc<Kubelet>,
    pub ips: Arc<IpPool>,
}

impl Cluster {
    /// Starts a cluster; its tasks end with `shutdown` and are counted in `tasks`.
    pub fn start(
        name: &str,
        index: usize,
        region: &str,
        block: &Block,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Self>, ClusterError> {
        let cluster = || name.to_owned();
        let store = Arc::new(Store::default());
        furnish(&store, name, index, region, block)
            .map_err(|source| ClusterError::Furnish { cluster: cluster(), source })?;
        let ips = Arc::new(block.pods(index));
        let kubelet = Kubelet::new(name, store.clone(), ips.clone(), shutdown.clone());
        let (api, listening) = ApiServer::bind(block.api_server(index), store.clone())
            .map_err(|source| ClusterError::Listen { cluster: cluster(), source })?;
        tasks.spawn(listening.run(shutdown.clone()));
        let controllers = Controllers::new(store.clone(), kubelet.clone());
        let (nodes, stop) = (kubelet.clone(), shutdown.clone());
        tasks.spawn(async move {
            controllers.run(stop).await;
            nodes.join().await;
        });
        Ok(Arc::new(Self { name: name.to_owned(), api, store, kubelet, ips }))
    }

    /// Writes `<dir>/<cluster>.kubeconfig` and gives its path.
    pub fn write_kubeconfig(&self, dir: &Path) -> Result<PathBuf, ClusterError> {
        let path = dir.join(format!("{}.kubeconfig", self.name));
        let name = &self.name;
        // JSON is YAML: no writer for YAML is needed.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name, "preferences": {},
            "clusters": [{"name": name, "cluster": {"server": self.api.url()}}],
            "users": [{"name": USER, "user": {"token": USER}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": USER, "namespace": "default"}}],
        });
        crate::files::write_atomically(&path, &format!("{config:#}\n"))
            .map_err(|source| ClusterError::Kubeconfig { path: path.clone(), source })?;
        Ok(path)
    }

    /// Makes a namespace if it is not there yet.
    pub fn ensure_namespace(&self, name: &str) -> Result<(), ApiError> {
        namespace(&self.store, name)
    }
}

fn create(store: &Store, kind: KindId, name: &str, body: Value) -> Result<(), ApiError> {
    write::create(store, &Target::new(kind, "", name), body, &WriteOptions::default()).map(drop)
}

fn namespace(store: &Store, name: &str) -> Result<(), ApiError> {
    create(store, NAMESPACES, name, json!({}))
        .or_else(|error| if error.reason == "AlreadyExists" { Ok(()) } else { Err(error) })
}

fn furnish(store: &Store, cluster: &str, index: usize, region: &str, block: &Block) -> Result<(), ApiError> {
    for name in ["default", "kube-system"] {
        namespace(store, name)?;
    }
    for n in 0..NODES_PER_CLUSTER {
        let name = format!("{cluster}-node-{}", n + 1);
        // Zones are letters: a, b, c.
        let zone = format!("{region}{}", char::from(b'a' + u8::try_from(n).unwrap_or(0)));
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/region": region,
            "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": "m5.large"});
        // Instance ids are i- and 17 hexadecimal digits.
        let provider = format!("aws:///{zone}/i-{index:08x}{n:09x}");
        create(store, NODES, &name, json!({"metadata": {"labels": labels}, "spec": {"providerID": provider}}))?;
        let address = block.node(index, n).to_string();
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": {"pods": "250", "cpu": "2", "memory": "8Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now(),
                            "lastHeartbeatTime": now()}],
        });
        store.modify(NODES, &(String::new(), name), |before| {
            let mut node = before.map(|b| b.value().clone()).unwrap_or_default();
            node["status"] = status;
            Ok::<_, ApiError>(Write::Put(node))
        })?;
    }
    Ok(())
}
