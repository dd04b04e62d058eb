//! Which pods with gates there are, as the watchers tell it. Pure.
//!
//! In a namespace one watch is listened to at a time: the agent's own one of routed pods, or, where nothing is routed (any more) and
//! pods with gates were found all the same, one that is kept for them. A list replaces what was known when it is complete.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    machine::Input,
    objects::{GatedPod, PREFIX},
};
use crate::index::objects::{Object, PodObject, Source, SourceEvent, SourceKind, SourceRun};

/// Which of the two kinds of watches speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The one for routed Services.
    Routed,
    /// The one that is kept for gates alone.
    Kept,
}

/// The pods that carry gates, by namespace.
#[derive(Debug, Default)]
pub struct Pods {
    namespaces: BTreeMap<String, Namespace>,
    /// The namespaces that are watched for routed Services.
    routed: BTreeMap<String, u64>,
    /// The namespaces that a watch is kept for, and its number.
    kept: BTreeMap<String, u64>,
    last_run: u64,
}

#[derive(Debug, Default)]
struct Namespace {
    /// UIDs by name.
    known: BTreeMap<String, String>,
    /// The list under way.
    pending: Option<BTreeMap<String, String>>,
}

/// True when the gates have to hear of it: cheap, for it is asked of every event of every watch.
#[must_use]
pub fn concerns(event: &SourceEvent) -> bool {
    match event {
        SourceEvent::ListStarted | SourceEvent::ListDone => true,
        SourceEvent::Listed(Object::Pod(pod)) | SourceEvent::Applied(Object::Pod(pod)) => {
            pod.finished || pod.readiness_gates.iter().any(|gate| gate.starts_with(PREFIX))
        }
        SourceEvent::Deleted(Object::Pod(_)) => true,
        // The webhook matches pods with the selectors of Services.
        SourceEvent::Listed(Object::Service(_)) | SourceEvent::Applied(Object::Service(_)) => true,
        SourceEvent::Deleted(Object::Service(_)) => true,
        SourceEvent::Listed(_) | SourceEvent::Applied(_) | SourceEvent::Deleted(_) => false,
        SourceEvent::Following | SourceEvent::Failing(_) => false,
    }
}

impl Pods {
    /// The watches for routed Services are these from now on. Where one ended, a watch is kept: Deployments go on making pods with
    /// gates after the last policy of their namespace is gone.
    pub fn route(&mut self, wanted: &[SourceRun]) {
        let of_pods = wanted.iter().filter(|run| run.source.kind == SourceKind::Pod);
        let routed: BTreeMap<String, u64> = of_pods.map(|run| (run.source.namespace.clone(), run.run)).collect();
        for namespace in std::mem::replace(&mut self.routed, routed).into_keys() {
            if !self.routed.contains_key(&namespace) {
                self.keep(namespace);
            }
        }
        for namespace in self.routed.keys() {
            self.kept.remove(namespace);
        }
    }

    /// A look at the whole cluster found unopened gates in these namespaces. Watches that are kept where there is no gate end.
    pub fn found(&mut self, namespaces: BTreeSet<String>) {
        let known = &self.namespaces;
        let has_gates = |namespace: &String| known.get(namespace).is_some_and(|known| !known.known.is_empty());
        self.kept.retain(|namespace, _| has_gates(namespace) || namespaces.contains(namespace));
        let (kept, routed) = (&self.kept, &self.routed);
        self.namespaces.retain(|namespace, _| kept.contains_key(namespace) || routed.contains_key(namespace));
        for namespace in namespaces {
            if !self.routed.contains_key(&namespace) {
                self.keep(namespace);
            }
        }
    }

    fn keep(&mut self, namespace: String) {
        if !self.kept.contains_key(&namespace) {
            self.last_run += 1;
            self.kept.insert(namespace, self.last_run);
        }
    }

    /// The watches to keep.
    #[must_use]
    pub fn kept(&self) -> Vec<SourceRun> {
        let run = |(namespace, &run): (&String, &u64)| SourceRun {
            source: Source { namespace: namespace.clone(), kind: SourceKind::Pod },
            run,
        };
        self.kept.iter().map(run).collect()
    }

    /// Takes in what a watch says; gives what the machine has to hear of it.
    pub fn handle(&mut self, watch: Watch, from: &SourceRun, event: SourceEvent) -> Vec<Input> {
        let source = &from.source;
        let current = match watch {
            Watch::Routed => self.routed.get(&source.namespace),
            Watch::Kept => self.kept.get(&source.namespace),
        };
        if source.kind != SourceKind::Pod || current != Some(&from.run) {
            return Vec::new();
        }
        let namespace = self.namespaces.entry(source.namespace.clone()).or_default();
        match event {
            SourceEvent::ListStarted => namespace.pending = Some(BTreeMap::new()),
            SourceEvent::ListDone => return namespace.list_done(),
            SourceEvent::Failing(_) => namespace.pending = None,
            SourceEvent::Following => {}
            SourceEvent::Listed(Object::Pod(pod)) => {
                if let Some(gated) = GatedPod::of(&source.namespace, &pod) {
                    if let Some(pending) = &mut namespace.pending {
                        pending.insert(pod.name.clone(), pod.uid.clone());
                    }
                    let mut inputs = namespace.replaced(&pod);
                    inputs.push(Input::Pod(gated));
                    return inputs;
                }
            }
            SourceEvent::Applied(Object::Pod(pod)) => {
                let mut inputs = namespace.replaced(&pod);
                match GatedPod::of(&source.namespace, &pod) {
                    Some(gated) => inputs.push(Input::Pod(gated)),
                    None => inputs.extend(namespace.gone(&pod.name)),
                }
                return inputs;
            }
            SourceEvent::Deleted(Object::Pod(pod)) => return namespace.gone(&pod.name),
            SourceEvent::Listed(_) | SourceEvent::Applied(_) | SourceEvent::Deleted(_) => {}
        }
        Vec::new()
    }
}

impl Namespace {
    /// Keeps the pod's name in mind; an earlier pod of that name is gone.
    fn replaced(&mut self, pod: &PodObject) -> Vec<Input> {
        let before = self.known.insert(pod.name.clone(), pod.uid.clone());
        before.filter(|uid| *uid != pod.uid).map(|uid| Input::PodGone { uid }).into_iter().collect()
    }

    fn gone(&mut self, name: &str) -> Vec<Input> {
        self.known.remove(name).map(|uid| Input::PodGone { uid }).into_iter().collect()
    }

    fn list_done(&mut self) -> Vec<Input> {
        let Some(listed) = self.pending.take() else { return Vec::new() };
        let before = std::mem::replace(&mut self.known, listed);
        let living: BTreeSet<&String> = self.known.values().collect();
        before.into_values().filter(|uid| !living.contains(uid)).map(|uid| Input::PodGone { uid }).collect()
    }
}
