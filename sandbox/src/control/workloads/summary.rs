//! What the control API tells of a workload: its pods, and whether all of them are as they should be. Pure reading.

use serde_json::{Value, json};

use crate::kube::kinds::PODS;
use crate::kube::object::Object;
use crate::objects::Objects;
use crate::workload::{behaviour, deployment};

/// What the pods of a workload are doing, terminating ones included.
pub fn summary(objects: &Objects, workload: &Object) -> Value {
    let wanted = deployment::wanted(workload).replicas;
    let pods = match objects {
        Objects::Own(store) => deployment::pods_of(store, workload),
        Objects::External(_) => labelled(objects, workload),
    };
    let (mut ready, mut active, mut of_template) = (0, 0, 0);
    let mut shown = Vec::with_capacity(pods.len());
    let hash = deployment::template_hash(workload);
    for pod in &pods {
        let is_ready = pod.condition("Ready");
        if !pod.terminating() {
            active += 1;
            ready += usize::from(is_ready);
            of_template += usize::from(pod.label("pod-template-hash") == Some(&hash));
        }
        shown.push(json!({"name": pod.name(), "uid": pod.uid(), "ip": pod.text("/status/podIP"),
            "node": pod.text("/spec/nodeName"), "phase": pod.text("/status/phase"), "ready": is_ready,
            "terminating": pod.terminating(), "version": pod.annotation(behaviour::VERSION)}));
    }
    let updated = match objects {
        Objects::Own(_) => of_template,
        Objects::External(_) => updated(workload),
    };
    let done = updated == wanted && active == wanted && ready == wanted;
    json!({"replicas": wanted, "ready": ready, "updated": updated, "rolling": !done, "pods": shown})
}

/// Pods made through ReplicaSets: known by their label.
fn labelled(objects: &Objects, workload: &Object) -> Vec<std::sync::Arc<Object>> {
    let (_, mut pods) = objects.store().list(PODS, Some(workload.namespace()));
    pods.retain(|pod| pod.label(behaviour::WORKLOAD) == Some(workload.name()));
    pods
}

/// Pods of the newest template, as the real controller counts them; none while it has not yet looked at that template.
fn updated(workload: &Object) -> usize {
    let number = |pointer: &str| workload.value().pointer(pointer).and_then(Value::as_u64);
    let looked_at = number("/status/observedGeneration") == number("/metadata/generation");
    let counted = number("/status/updatedReplicas").filter(|_| looked_at).unwrap_or_default();
    usize::try_from(counted).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_the_controller_has_not_looked_at_has_no_updated_pods() {
        let workload = |observed: u64| {
            Object::new(
                json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "updatedReplicas": 3}}),
            )
        };
        assert_eq!(updated(&workload(1)), 0);
        assert_eq!(updated(&workload(2)), 3);
    }
}
