//! Deployments: how many pods to create and which to delete so that a rolling update never has too few ready ones, and the
//! status that tells of it. `decide` is pure; `reconcile` reads the store, asks it, and writes. Tests are at the end.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::kubelet::Kubelet;
use crate::kube::kinds::{DEPLOYMENTS, PODS};
use crate::kube::object::{Object, child, now, text};
use crate::kube::status::ApiError;
use crate::kube::store::{Key, Store, Write};
use crate::kube::strategy;
use crate::kube::write::{self, DeleteOptions, Target, WriteOptions};

/// How soon to look again for a time that is about to be noted.
const NOTE_DELAY: Duration = Duration::from_millis(10);

/// What the Deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub replicas: usize,
    pub max_surge: usize,
    pub max_unavailable: usize,
    /// `Recreate` instead of a rolling update.
    pub recreate: bool,
}

/// One pod that is not terminating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    pub name: String,
    /// Made from the present template.
    pub new: bool,
    pub ready: bool,
    /// Ready for long enough.
    pub available: bool,
}

/// What to do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub create: usize,
    pub delete: Vec<String>,
}

/// The next step of a rolling update, by the rules of the Deployment controller: no more than `replicas + max_surge` pods,
/// no fewer than `replicas - max_unavailable` available ones; pods that are not available go first.
pub fn decide(wanted: Wanted, pods: &[PodView]) -> Step {
    let (new, old): (Vec<&PodView>, Vec<&PodView>) = pods.iter().partition(|p| p.new);
    let mut step = Step::default();
    if wanted.recreate && !old.is_empty() {
        step.delete = old.iter().map(|p| p.name.clone()).collect();
        return step;
    }
    let missing = wanted.replicas.saturating_sub(new.len());
    let room = (wanted.replicas + wanted.max_surge).saturating_sub(pods.len());
    step.create = missing.min(room);

    let mut extra: Vec<&&PodView> = new.iter().collect();
    extra.sort_by_key(|p| (p.available, p.ready));
    step.delete.extend(extra.iter().take(new.len().saturating_sub(wanted.replicas)).map(|p| p.name.clone()));

    let at_least = wanted.replicas.saturating_sub(wanted.max_unavailable);
    let new_waiting = new.iter().filter(|p| !p.available).count();
    // Old pods that serve nobody can go, as long as the pods that are left could still be enough.
    let spare = pods.len().saturating_sub(at_least + new_waiting);
    let broken: Vec<&&PodView> = old.iter().filter(|p| !p.available).take(spare).collect();
    step.delete.extend(broken.iter().map(|p| p.name.clone()));
    let available = pods.iter().filter(|p| p.available).count();
    let working = old.iter().filter(|p| p.available).take(available.saturating_sub(at_least));
    step.delete.extend(working.map(|p| p.name.clone()));
    step
}

/// A number or a percentage of the replicas, rounded up or down.
fn scaled(value: Option<&Value>, replicas: usize, up: bool, default: usize) -> usize {
    match value {
        Some(Value::Number(n)) => n.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(default),
        Some(Value::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<usize>().ok()) else {
                return default;
            };
            let product = percent.saturating_mul(replicas);
            if up { product.div_ceil(100) } else { product / 100 }
        }
        _ => default,
    }
}

/// Reads the wanted numbers of a Deployment.
pub fn wanted(deployment: &Object) -> Wanted {
    let spec = &deployment.value()["spec"];
    let replicas = spec["replicas"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let rolling = spec.pointer("/strategy/rollingUpdate");
    let field = |name: &str| rolling.and_then(|r| r.get(name));
    let max_surge = scaled(field("maxSurge"), replicas, true, 1);
    let mut max_unavailable = scaled(field("maxUnavailable"), replicas, false, 0);
    if max_surge == 0 && max_unavailable == 0 {
        // Kubernetes resolves two zeros the same way: otherwise nothing could ever move.
        max_unavailable = 1;
    }
    Wanted {
        replicas,
        max_surge,
        max_unavailable,
        recreate: spec.pointer("/strategy/type") == Some(&json!("Recreate")),
    }
}

/// Identifies a pod template: pods with another hash are old.
pub fn template_hash(deployment: &Object) -> String {
    let mut hasher = DefaultHasher::new();
    deployment.value().pointer("/spec/template").map(Value::to_string).hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}

/// Pods the Deployment controls, terminating ones included.
pub fn pods_of(store: &Store, deployment: &Object) -> Vec<Arc<Object>> {
    let (_, pods) = store.list(PODS, Some(deployment.namespace()));
    pods.into_iter().filter(|pod| pod.controller_uid() == Some(deployment.uid())).collect()
}

/// Brings one Deployment a step further. Gives the moment at which to look again without a change, if there is one.
pub fn reconcile(store: &Store, kubelet: &Kubelet, key: &Key) -> Result<Option<Instant>, ApiError> {
    let Some(deployment) = store.get(DEPLOYMENTS, &key.0, &key.1) else {
        return Ok(None);
    };
    if deployment.terminating() {
        return Ok(None);
    }
    let hash = template_hash(&deployment);
    let min_ready = Behaviour::min_ready(&deployment);
    let now = Instant::now();
    let mut again: Option<Instant> = None;
    let mut views = Vec::new();
    for pod in pods_of(store, &deployment).iter().filter(|p| !p.terminating()) {
        let ready = pod.condition("Ready");
        let pod_key = (pod.namespace().to_owned(), pod.name().to_owned());
        let since = kubelet.ready_since(&pod_key, pod.uid()).filter(|_| ready);
        // Ready in the store a moment before the kubelet notes the time: look again soon.
        let available_at = ready.then(|| since.map_or(now + NOTE_DELAY, |since| since + min_ready));
        let available = ready && (min_ready == Duration::ZERO || available_at.is_some_and(|at| at <= now));
        if let Some(at) = available_at.filter(|at| *at > now && min_ready > Duration::ZERO) {
            again = Some(again.map_or(at, |old| old.min(at)));
        }
        let new = pod.label("pod-template-hash") == Some(&hash);
        views.push(PodView { name: pod.name().to_owned(), new, ready, available });
    }
    let wanted = wanted(&deployment);
    let step = decide(wanted, &views);
    for name in &step.delete {
        let target = Target::new(PODS, &key.0, name);
        match write::delete(store, &target, &DeleteOptions::default()) {
            Ok(_) => {}
            Err(gone) if gone.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    for _ in 0..step.create {
        write::create(store, &Target::new(PODS, &key.0, ""), new_pod(&deployment, &hash), &WriteOptions::default())?;
    }
    write_status(store, key, &deployment, wanted, &views);
    Ok(again)
}

fn new_pod(deployment: &Object, hash: &str) -> Value {
    let mut pod = deployment.value().pointer("/spec/template").cloned().unwrap_or_default();
    child(&mut pod["metadata"], "labels").insert("pod-template-hash".into(), json!(hash));
    let meta = child(&mut pod, "metadata");
    meta.remove("name");
    meta.insert("generateName".into(), json!(format!("{}-{hash}-", deployment.name())));
    meta.insert(
        "ownerReferences".into(),
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name(), "uid": deployment.uid(),
                "controller": true, "blockOwnerDeletion": true}]),
    );
    pod
}

fn write_status(store: &Store, key: &Key, deployment: &Object, wanted: Wanted, pods: &[PodView]) {
    let count = |keep: &dyn Fn(&PodView) -> bool| pods.iter().filter(|p| keep(p)).count();
    let available = count(&|p| p.available);
    let updated = count(&|p| p.new);
    let enough = available + wanted.max_unavailable >= wanted.replicas;
    let done = updated == wanted.replicas && available >= wanted.replicas && pods.len() == updated;
    let status = json!({
        "observedGeneration": deployment.value().pointer("/metadata/generation"),
        "replicas": pods.len(), "updatedReplicas": updated, "readyReplicas": count(&|p| p.ready),
        "availableReplicas": available, "unavailableReplicas": wanted.replicas.saturating_sub(available),
    });
    let written = store.modify(DEPLOYMENTS, key, |before| {
        let Some(before) = before.filter(|d| d.uid() == deployment.uid()) else {
            return Ok::<_, ApiError>(Write::Nothing);
        };
        let mut value = before.value().clone();
        let conditions = value.pointer("/status/conditions").cloned().unwrap_or_else(|| json!([]));
        value["status"] = status;
        value["status"]["conditions"] = json!([
            condition(&conditions, "Available", enough, "MinimumReplicasAvailable", "MinimumReplicasUnavailable"),
            condition(
                &conditions,
                "Progressing",
                true,
                if done { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" },
                ""
            ),
        ]);
        Ok(if strategy::unchanged(before.value(), &value) { Write::Nothing } else { Write::Put(value) })
    });
    if let Err(error) = written {
        tracing::error!(deployment = %key.1, %error, "the status of a deployment could not be written");
    }
}

fn condition(old: &Value, kind: &str, on: bool, yes: &str, no: &str) -> Value {
    let status = if on { "True" } else { "False" };
    let reason = if on { yes } else { no };
    let before = old.as_array().into_iter().flatten().find(|c| c["type"] == kind);
    let kept = |field: &str, same: bool| match before.filter(|_| same) {
        Some(before) => text(before, &format!("/{field}")).to_owned(),
        None => now(),
    };
    let same_status = before.is_some_and(|b| b["status"] == status);
    let same = same_status && before.is_some_and(|b| b["reason"] == reason);
    json!({"type": kind, "status": status, "reason": reason,
        "lastTransitionTime": kept("lastTransitionTime", same_status), "lastUpdateTime": kept("lastUpdateTime", same)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(replicas: usize, max_surge: usize, max_unavailable: usize) -> Wanted {
        Wanted { replicas, max_surge, max_unavailable, recreate: false }
    }

    #[test]
    fn an_old_pod_goes_only_when_a_new_one_is_available() {
        let pod = |name: &str, new, available| PodView { name: name.into(), new, ready: available, available };
        let start = [pod("o1", false, true), pod("o2", false, true)];
        assert_eq!(decide(wants(2, 1, 0), &start), Step { create: 1, delete: vec![] });
        let surged = [pod("o1", false, true), pod("o2", false, true), pod("n1", true, false)];
        assert_eq!(decide(wants(2, 1, 0), &surged), Step::default());
        let ready = [pod("o1", false, true), pod("o2", false, true), pod("n1", true, true)];
        assert_eq!(decide(wants(2, 1, 0), &ready), Step { create: 0, delete: vec!["o1".into()] });
    }

    #[test]
    fn a_broken_old_pod_goes_before_a_working_one() {
        let pod = |name: &str, new, available| PodView { name: name.into(), new, ready: available, available };
        let pods = [pod("ok", false, true), pod("bad", false, false), pod("n1", true, true)];
        assert_eq!(decide(wants(2, 1, 0), &pods).delete, ["bad"]);
    }

    /// A second, stupid judge: plays every order of "a pod gets ready" with a small generator and looks at the promises.
    #[test]
    fn no_rollout_ever_breaks_its_promises() {
        for seed in 0..500_u64 {
            let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut draw = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap_or(0) % n
            };
            let replicas = 1 + draw(6);
            let (surge, unavailable) = (draw(3), draw(replicas + 1));
            let wanted = wants(replicas, surge, if surge + unavailable == 0 { 1 } else { unavailable });
            let old = |n| PodView { name: format!("o{n}"), new: false, ready: true, available: true };
            let mut pods: Vec<PodView> = (0..replicas).map(old).collect();
            let mut made = 0;
            for round in 0.. {
                let step = decide(wanted, &pods);
                pods.retain(|p| !step.delete.contains(&p.name));
                for _ in 0..step.create {
                    made += 1;
                    pods.push(PodView { name: format!("n{made}"), new: true, ready: false, available: false });
                }
                let available = pods.iter().filter(|p| p.available).count();
                assert!(available + wanted.max_unavailable >= replicas, "seed {seed}: only {available} of {replicas}");
                assert!(pods.len() <= replicas + wanted.max_surge, "seed {seed}: {} pods", pods.len());
                if pods.iter().all(|p| p.new && p.available) && pods.len() == replicas {
                    break;
                }
                let waiting: Vec<usize> = (0..pods.len()).filter(|i| !pods[*i].available).collect();
                if !waiting.is_empty() {
                    let chosen = waiting[draw(waiting.len())];
                    (pods[chosen].ready, pods[chosen].available) = (true, true);
                }
                assert!(round < 200, "seed {seed}: the rollout never ends");
            }
        }
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let spec = json!({"spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}});
        assert_eq!(wanted(&Object::new(spec)), wants(3, 1, 0));
        let zeros =
            json!({"spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}});
        assert_eq!(wanted(&Object::new(zeros)), wants(3, 0, 1));
    }
}
