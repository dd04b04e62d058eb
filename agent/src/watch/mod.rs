//! The only user of the Kubernetes client: keeps one watcher for each wanted source, and ends those that are no longer wanted.
//!
//! It decides nothing. `source` follows one source, `strip` makes small objects, `client` notices when a watch is accepted.
//! A source that fails hurts no other: each has its own watcher, its own retries and its own state.

mod client;
pub mod gates;
pub mod policies;
pub mod secret;
mod source;
mod strip;
pub mod webhook;
pub mod write;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Config, config::KubeConfigOptions, config::Kubeconfig, core::PartialObjectMeta};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{
    index::objects::{SourceEvent, SourceKind, SourceRun},
    metrics::Metrics,
};

/// The API server is near; a connection that takes longer is as good as none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the 60 s a watch may be silent, with the 5 s margin of kube's own idle check; bounds a list that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// Updates that may wait for the index. One is at most a slice of 1000 endpoints (about 300 kB), most are a few hundred bytes.
const UPDATES: usize = 256;

/// What a watcher says, and which.
#[derive(Debug)]
pub struct SourceUpdate {
    /// The watcher.
    pub from: SourceRun,
    /// What it says.
    pub event: SourceEvent,
}

/// Why there is no Kubernetes client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The file that was named cannot be used.
    #[error("cannot read the kubeconfig {path}; name a readable file with --kubeconfig")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// There is neither a file nor a service account.
    #[error("found no cluster to watch: name a file with --kubeconfig, or run with a service account in the cluster")]
    Infer(#[source] kube::config::InferConfigError),
    /// The configuration does not make a client.
    #[error("the Kubernetes configuration does not make a client")]
    Client(#[source] kube::Error),
}

/// A client for the member cluster: from the file that is named, else as every Kubernetes client finds its cluster.
///
/// # Errors
/// When the file cannot be read, no configuration is found, or it cannot be used.
pub async fn connect(kubeconfig: Option<&str>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let in_file = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(in_file)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(in_file)?
        }
        None => Config::infer().await.map_err(ConnectError::Infer)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config).map_err(ConnectError::Client)
}

/// The watchers of one cluster. Dropping it ends them all.
pub struct Watchers {
    client: Client,
    updates: mpsc::Sender<SourceUpdate>,
    metrics: Metrics,
    running: HashMap<SourceRun, AbortHandle>,
    tasks: JoinSet<()>,
    tap: Option<Tap>,
}

/// A second listener, who gets what `concerns` says of what the watchers say, after the first.
#[derive(Clone)]
pub struct Tap {
    /// What it hears.
    pub updates: mpsc::Sender<SourceUpdate>,
    /// Which watchers are to run; told before they say anything.
    pub wanted: watch::Sender<Vec<SourceRun>>,
    /// What it wants to hear.
    pub concerns: fn(&SourceEvent) -> bool,
}

impl Watchers {
    /// No watcher yet; what they will say comes out of the receiver.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> (Self, mpsc::Receiver<SourceUpdate>) {
        let (updates, receiver) = mpsc::channel(UPDATES);
        let (running, tasks) = (HashMap::new(), JoinSet::new());
        (Self { client, updates, metrics, running, tasks, tap: None }, receiver)
    }

    /// Lets somebody else hear, too.
    #[must_use]
    pub fn tapped(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Makes the wanted watchers the ones that run.
    pub fn want(&mut self, wanted: &[SourceRun]) {
        if let Some(tap) = &self.tap {
            tap.wanted.send_replace(wanted.to_vec());
        }
        self.running.retain(|run, task| {
            let keep = wanted.contains(run);
            if !keep {
                task.abort();
            }
            keep
        });
        for run in wanted {
            if !self.running.contains_key(run) {
                let task = self.start(run.clone());
                self.running.insert(run.clone(), task);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn start(&mut self, from: SourceRun) -> AbortHandle {
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let updates = source::Listeners { updates: self.updates.clone(), tap: self.tap.clone() };
        let namespace = from.source.namespace.clone();
        match from.source.kind {
            SourceKind::Service => {
                let api = move |client| Api::<Service>::namespaced(client, &namespace);
                self.tasks.spawn(source::follow(client, api, from, updates, metrics))
            }
            SourceKind::EndpointSlice => {
                let api = move |client| Api::<EndpointSlice>::namespaced(client, &namespace);
                self.tasks.spawn(source::follow(client, api, from, updates, metrics))
            }
            SourceKind::Pod => {
                let api = move |client| Api::<Pod>::namespaced(client, &namespace);
                self.tasks.spawn(source::follow(client, api, from, updates, metrics))
            }
            SourceKind::Node => {
                let api = Api::<PartialObjectMeta<Node>>::all;
                self.tasks.spawn(source::follow(client, api, from, updates, metrics))
            }
            SourceKind::WholeNode => {
                let api = Api::<Node>::all;
                self.tasks.spawn(source::follow(client, api, from, updates, metrics))
            }
        }
    }

    /// Ends all watchers and waits for them.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}
