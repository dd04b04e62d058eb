//! The controllers of one cluster in one task: follows the store's log, hands pods to the kubelet, keeps Deployments and
//! EndpointSlices in line, collects what lost its owner, empties namespaces that are being deleted.
//! Level-triggered: the log only says where to look, what to do is read from the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::kubelet::Kubelet;
use super::{deployment, endpointslices};
use crate::kube::kinds::{DEPLOYMENTS, ENDPOINT_SLICES, EVENTS, KindId, NAMESPACES, NODES, PODS, SERVICES};
use crate::kube::object::Object;
use crate::kube::selector::labels_include;
use crate::kube::status::ApiError;
use crate::kube::store::{Change, Key, Store, Write};
use crate::kube::write::{self, DeleteOptions, Target};
use crate::objects::Objects;

/// Changes taken from the log in one go.
const BATCH: usize = 1_024;
/// Between two rounds of a busy cluster: a thousand pods that become ready make a few dozen rounds, not a thousand.
const PACE: Duration = Duration::from_millis(5);
/// How soon to try again what failed.
const RETRY: Duration = Duration::from_millis(200);

pub struct Controllers {
    store: Arc<Store>,
    kubelet: Arc<Kubelet>,
    /// Whether Deployments, EndpointSlices and the rest are ours to keep. A real API server has controllers of its own for them;
    /// there only pods are run.
    reconciling: bool,
    deployments: BTreeSet<Key>,
    services: BTreeSet<Key>,
    namespaces: BTreeSet<String>,
    /// Deployments that wait for a time, with the earliest.
    later: Option<(Instant, BTreeSet<Key>)>,
}

impl Controllers {
    /// Controllers for what is in these objects, which the kubelet's pods are among.
    pub fn new(objects: &Objects, kubelet: Arc<Kubelet>) -> Self {
        let (deployments, services, namespaces) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let reconciling = matches!(objects, Objects::Own(_));
        Self { store: objects.store().clone(), kubelet, reconciling, deployments, services, namespaces, later: None }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changed = self.store.subscribe();
        let mut version = self.resync();
        loop {
            changed.mark_unchanged();
            match self.store.changes(version, BATCH) {
                Ok((reached, changes)) => {
                    version = version.max(reached);
                    changes.iter().for_each(|change| self.note(change));
                }
                // Somebody compacted the log under us.
                Err(_) => version = self.resync(),
            }
            self.reconcile();
            let again = self.later.as_ref().map_or_else(|| Instant::now() + Duration::from_secs(60), |(at, _)| *at);
            tokio::select! {
                () = shutdown.cancelled() => return,
                news = changed.changed() => {
                    if news.is_err() {
                        return;
                    }
                    tokio::time::sleep(PACE).await;
                }
                () = tokio::time::sleep_until(again.into()) => {}
            }
            self.wake_later();
        }
    }

    fn wake_later(&mut self) {
        if self.later.as_ref().is_some_and(|(at, _)| *at <= Instant::now())
            && let Some((_, keys)) = self.later.take()
        {
            self.deployments.extend(keys);
        }
    }

    fn wait(&mut self, at: Instant, key: Key) {
        let (first, keys) = self.later.get_or_insert_with(|| (at, BTreeSet::new()));
        *first = (*first).min(at);
        keys.insert(key);
    }

    /// Looks at everything anew; gives the version from which the log goes on.
    fn resync(&mut self) -> u64 {
        let version = self.store.version();
        let pods = self.store.list(PODS, None).1;
        let keys: Vec<Key> = pods.iter().map(|p| key_of(p)).collect();
        self.kubelet.keep_only(&keys);
        for pod in &pods {
            self.kubelet.observe(&key_of(pod), Some(pod));
        }
        self.deployments.extend(self.store.list(DEPLOYMENTS, None).1.iter().map(|o| key_of(o)));
        self.services.extend(self.store.list(SERVICES, None).1.iter().map(|o| key_of(o)));
        let namespaces = self.store.list(NAMESPACES, None).1;
        self.namespaces.extend(namespaces.iter().filter(|n| n.terminating()).map(|n| n.name().to_owned()));
        version
    }

    fn note(&mut self, change: &Change) {
        if change.kind == PODS {
            self.note_pod(change);
        } else if change.kind == DEPLOYMENTS {
            self.deployments.insert(change.key.clone());
        } else if change.kind == SERVICES {
            self.services.insert(change.key.clone());
        } else if change.kind == ENDPOINT_SLICES {
            if let Some(name) = change.last.label("kubernetes.io/service-name") {
                self.services.insert((change.key.0.clone(), name.to_owned()));
            }
        } else if change.kind == NODES {
            self.kubelet.schedule_pending();
        } else if change.kind == NAMESPACES && change.last.terminating() {
            self.namespaces.insert(change.key.1.clone());
        }
        if change.after.is_none() && self.reconciling {
            let closing = self.store.get(NAMESPACES, "", &change.key.0).is_some_and(|n| n.terminating());
            if closing {
                self.namespaces.insert(change.key.0.clone());
            }
            if ![PODS, ENDPOINT_SLICES, EVENTS].contains(&change.kind) {
                self.collect_orphans(&change.key.0, change.last.uid());
            }
        }
    }

    fn note_pod(&mut self, change: &Change) {
        self.kubelet.observe(&change.key, change.after.as_ref());
        let states = [change.before.as_ref(), change.after.as_ref()];
        for pod in states.into_iter().flatten() {
            let owners = pod.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
            for owner in owners.into_iter().flatten().filter(|o| o["kind"] == "Deployment") {
                let name = owner["name"].as_str().unwrap_or_default();
                self.deployments.insert((change.key.0.clone(), name.to_owned()));
            }
            for service in self.store.list(SERVICES, Some(&change.key.0)).1 {
                if service.value().pointer("/spec/selector").is_some_and(|s| labels_include(pod, s)) {
                    self.services.insert(key_of(&service));
                }
            }
        }
    }

    fn reconcile(&mut self) {
        if !self.reconciling {
            self.deployments.clear();
            self.services.clear();
            self.namespaces.clear();
            return;
        }
        for key in std::mem::take(&mut self.deployments) {
            match deployment::reconcile(&self.store, &self.kubelet, &key) {
                Ok(Some(at)) => self.wait(at, key),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(namespace = %key.0, deployment = %key.1, %error, "a deployment could not be reconciled");
                    self.wait(Instant::now() + RETRY, key);
                }
            }
        }
        for key in std::mem::take(&mut self.services) {
            if let Err(error) = endpointslices::reconcile(&self.store, &key) {
                tracing::warn!(namespace = %key.0, service = %key.1, %error, "endpoint slices could not be reconciled");
            }
        }
        for name in std::mem::take(&mut self.namespaces) {
            self.empty_namespace(&name);
        }
    }

    /// Deletes what an object that is gone owned, as the garbage collector does in the background.
    fn collect_orphans(&self, namespace: &str, owner: &str) {
        for kind in KindId::all().filter(|kind| kind.row().namespaced) {
            for object in self.store.list(kind, Some(namespace)).1 {
                let owners = object.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
                if owners.into_iter().flatten().any(|o| o["uid"] == owner) {
                    self.delete(kind, &object);
                }
            }
        }
    }

    fn delete(&self, kind: KindId, object: &Object) {
        let target = Target::new(kind, object.namespace(), object.name());
        let only = DeleteOptions { uid: Some(object.uid().to_owned()), ..DeleteOptions::default() };
        match write::delete(&self.store, &target, &only) {
            Ok(_) => {}
            Err(gone) if matches!(gone.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(name = %object.name(), %error, "an object without its owner could not be deleted")
            }
        }
    }

    fn empty_namespace(&self, name: &str) {
        let mut left = 0;
        for kind in KindId::all().filter(|kind| kind.row().namespaced) {
            for object in self.store.list(kind, Some(name)).1 {
                left += 1;
                if !object.terminating() {
                    self.delete(kind, &object);
                }
            }
        }
        if left > 0 {
            return; // Each removal brings us back here.
        }
        let key = (String::new(), name.to_owned());
        let removed = self.store.modify(NAMESPACES, &key, |before| {
            Ok::<_, ApiError>(if before.is_some_and(|n| n.terminating()) { Write::Remove } else { Write::Nothing })
        });
        if let Err(error) = removed {
            tracing::error!(namespace = name, %error, "an emptied namespace could not be removed");
        }
    }
}

fn key_of(object: &Object) -> Key {
    (object.namespace().to_owned(), object.name().to_owned())
}
