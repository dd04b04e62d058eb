//! The objects of a cluster, wherever its API server is: in this process, or a real one. Reads come from the store, which is the
//! truth for the sandbox's own clusters and a mirror for others; writes go to whoever has the say. Decides nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::external::External;
use crate::kube::kinds::PODS;
use crate::kube::object::Object;
use crate::kube::status::ApiError;
use crate::kube::store::{Key, Store};
use crate::kube::strategy;
use crate::kube::write::{self, DeleteOptions, PatchKind, Target, WriteOptions};
use crate::workload::pod_status;

/// The objects of one cluster.
#[derive(Clone)]
pub enum Objects {
    /// The sandbox's own.
    Own(Arc<Store>),
    /// Those of a real API server.
    External(External),
}

impl Objects {
    /// What can be read.
    pub fn store(&self) -> &Arc<Store> {
        match self {
            Objects::Own(store) => store,
            Objects::External(external) => external.mirror(),
        }
    }

    /// Creates an object.
    pub async fn create(&self, target: &Target, body: Value) -> Result<Value, ApiError> {
        match self {
            Objects::Own(store) => {
                write::create(store, target, body, &WriteOptions::default()).map(|object| object.value().clone())
            }
            Objects::External(external) => external.create(target, body).await,
        }
    }

    /// Makes an object of this content, whether it is there or not.
    pub async fn put(&self, target: &Target, body: Value) -> Result<Value, ApiError> {
        let updated = match self {
            Objects::Own(store) => write::update(store, target, body.clone(), &WriteOptions::default())
                .map(|object| object.value().clone()),
            Objects::External(external) => external.update(target, body.clone()).await,
        };
        match updated {
            Err(error) if error.code == 404 => self.create(target, body).await,
            other => other,
        }
    }

    /// Changes an object.
    pub async fn patch(&self, target: &Target, format: PatchKind, body: &Value) -> Result<Value, ApiError> {
        match self {
            Objects::Own(store) => write::patch(store, target, format, body, &WriteOptions::default())
                .map(|(object, _)| object.value().clone()),
            Objects::External(external) => external.patch(target, format, body).await,
        }
    }

    /// Deletes an object as a user does: pods end gracefully.
    pub async fn delete(&self, target: &Target) -> Result<Value, ApiError> {
        match self {
            Objects::Own(store) => write::delete(store, target, &DeleteOptions::default()),
            Objects::External(external) => external.delete(target, &json!({})).await,
        }
    }

    /// As a kubelet: brings a pod's status, and its annotations, in line. The change is made to the last state that is
    /// known. Gives the pod as it then is; `None` when it is gone.
    pub async fn change_pod(
        &self,
        key: &Key,
        uid: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let external = match self {
            Objects::Own(store) => return Ok(pod_status::write(store, key, uid, change)),
            Objects::External(external) => external,
        };
        let known = external.mirror().get(PODS, &key.0, &key.1).filter(|pod| pod.uid() == uid);
        let Some(before) = known else { return Ok(None) };
        let mut after = before.value().clone();
        change(&mut after);
        if strategy::unchanged(before.value(), &after) {
            return Ok(Some(before));
        }
        let target = Target { status: true, ..Target::new(PODS, &key.0, &key.1) };
        match external.patch(&target, PatchKind::Strategic, &pod_status::patch(&after)).await {
            Ok(pod) => Ok(Some(Arc::new(Object::new(pod)))),
            // Gone, or another pod of the same name.
            Err(gone) if matches!(gone.code, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As a kubelet: removes the pod of this uid, whose containers have ended.
    pub async fn remove_pod(&self, key: &Key, uid: &str) -> Result<(), ApiError> {
        let external = match self {
            Objects::Own(store) => {
                pod_status::remove(store, key, uid);
                return Ok(());
            }
            Objects::External(external) => external,
        };
        let target = Target::new(PODS, &key.0, &key.1);
        match external.delete(&target, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await {
            Err(error) if !matches!(error.code, 404 | 409) => Err(error),
            _ => Ok(()),
        }
    }
}
