//! The index: what the watchers told, joined into the endpoints of the watched Services.
//!
//! Pure: no client, no tokio, no clock. Watchers push events in; the session takes snapshots and changes out. A list replaces
//! what was known only when it is complete, and a source in error keeps its last state and takes nothing back.
//! Tests: `tests.rs` (behaviour, sentence by sentence) and `properties.rs` (against a stupid model).

mod address;
pub mod eni;
mod events;
mod nodes;
pub mod objects;
mod resolve;
mod steps;
pub(crate) mod store;
mod watched;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod nodes_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
};

use objects::{
    Batch, EndpointKey, EndpointView, Health, NodeObject, PodObject, ServiceObject, ServiceRef, ServiceStatus,
    SliceObject, Source, SourceEvent, SourceKind, SourceRun, SourceStatus,
};
use resolve::{Known, resolve};
use steps::invalid;
use store::Store;
use watched::{Owners, Watched};

/// References that left and of which the hub was not told yet. Policies are not deleted a thousand at a time; should they be, the
/// next snapshot puts right what is dropped here.
const MAX_RETIRED: usize = 1000;

/// Everything the agent knows, and what it told the hub of it.
#[derive(Debug)]
pub struct Index {
    watch_set_version: u64,
    watched: BTreeMap<ServiceRef, Watched>,
    /// What was sent of references that left the watch set, until the hub is told that they have: one that comes back before
    /// that finds rows at the hub that only a tombstone can take away.
    retired: BTreeMap<ServiceRef, BTreeMap<EndpointKey, Arc<EndpointView>>>,
    namespaces: BTreeMap<String, Namespace>,
    nodes: Store<NodeObject>,
    /// True when the nodes were listed with their spec and status, and are watched so.
    nodes_are_whole: bool,
    runs: BTreeMap<Source, u64>,
    last_run: u64,
    /// The last reference that was served, so that one busy Service cannot starve those behind it.
    cursor: Option<ServiceRef>,
    /// Something may have changed since the last time all changes were taken.
    touched: bool,
}

/// A consistent picture of all watched Services, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The watch set it answers.
    pub watch_set_version: u64,
    /// One status for each watched reference.
    pub services: Vec<(Arc<ServiceRef>, ServiceStatus)>,
    /// All endpoints.
    pub endpoints: Vec<Arc<EndpointView>>,
}

#[derive(Debug, Default)]
struct Namespace {
    services: Store<ServiceObject>,
    slices: Store<SliceObject>,
    pods: Store<Arc<PodObject>>,
    /// See [`Known::assumed`]. A complete list of pods ends all assumptions.
    assumed: HashSet<String>,
    /// UIDs of pods that are known to be gone while a slice still names them. These are never assumed.
    ended: HashSet<String>,
}

impl Namespace {
    /// Keeps in mind which pods are gone, and which need no longer be assumed.
    fn pod_changed(&mut self, before: Option<&PodObject>, name: &str) {
        let now = self.pods.get(name);
        if let Some(before) = before {
            self.assumed.remove(&before.uid);
            if now.is_none_or(|now| now.uid != before.uid) {
                self.ended.insert(before.uid.clone());
            }
        }
        if let Some(now) = now {
            self.assumed.remove(&now.uid);
            self.ended.remove(&now.uid);
        }
    }

    /// Forgets the end of pods that no slice names any more.
    fn prune_ended(&mut self) {
        if !self.ended.is_empty() {
            let endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
            let named: HashSet<&str> =
                endpoints.filter_map(|endpoint| Some(endpoint.pod.as_ref()?.uid.as_str())).collect();
            self.ended.retain(|uid| named.contains(uid.as_str()));
        }
    }

    fn is_synced(&self) -> bool {
        self.services.ever_synced() && self.slices.ever_synced() && self.pods.ever_synced()
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An index that watches no Service yet. Nodes are wanted from the start.
    #[must_use]
    pub fn new() -> Self {
        Self {
            watch_set_version: 0,
            watched: BTreeMap::new(),
            retired: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: Store::default(),
            nodes_are_whole: false,
            runs: BTreeMap::from([(Source::nodes(), 1)]),
            last_run: 1,
            cursor: None,
            touched: false,
        }
    }

    /// Replaces the set of watched Services. References that stay keep what was sent; those that left are
    /// forgotten on both sides once [`Index::set_confirmed`].
    pub fn set_watch_set(&mut self, version: u64, services: Vec<ServiceRef>) {
        self.watch_set_version = version;
        self.touched = true;
        let wanted: BTreeSet<ServiceRef> = services.into_iter().collect();
        let (staying, leaving) =
            std::mem::take(&mut self.watched).into_iter().partition(|(reference, _)| wanted.contains(reference));
        self.watched = staying;
        self.retire(leaving);
        let mut namespaces = BTreeSet::new();
        for reference in wanted {
            let problem = invalid(&reference);
            if problem.is_none() {
                namespaces.insert(reference.namespace.clone());
            }
            let sent = self.retired.remove(&reference);
            self.watched.entry(reference.clone()).or_insert_with(|| match (problem, sent) {
                (Some(problem), _) => Watched::invalid(Arc::new(reference), problem),
                (None, Some(sent)) => Watched::rejoined(Arc::new(reference), sent),
                (None, None) => Watched::new(Arc::new(reference)),
            });
        }
        self.want_namespaces(&namespaces);
        self.want_nodes();
    }

    fn retire(&mut self, leaving: BTreeMap<ServiceRef, Watched>) {
        for (reference, watched) in leaving {
            let sent = watched.into_sent();
            if !sent.is_empty() && self.retired.len() < MAX_RETIRED {
                self.retired.insert(reference, sent);
            }
        }
    }

    /// The hub knows that the watch set is answered in full: it has forgotten what is not in it, and so does the index.
    pub fn set_confirmed(&mut self) {
        self.retired.clear();
    }

    fn want_namespaces(&mut self, wanted: &BTreeSet<String>) {
        self.namespaces.retain(|namespace, _| wanted.contains(namespace));
        self.runs.retain(|source, _| source.namespace.is_empty() || wanted.contains(&source.namespace));
        for namespace in wanted {
            if !self.namespaces.contains_key(namespace) {
                self.namespaces.insert(namespace.clone(), Namespace::default());
                for kind in SourceKind::NAMESPACED {
                    self.last_run += 1;
                    self.runs.insert(Source { namespace: namespace.clone(), kind }, self.last_run);
                }
            }
        }
    }

    /// Nodes are watched once, and whole only while they are wanted as targets. What is known of their zones stays meanwhile.
    fn want_nodes(&mut self) {
        let (source, other) = match self.wants_whole_nodes() {
            true => (Source::whole_nodes(), Source::nodes()),
            false => (Source::nodes(), Source::whole_nodes()),
        };
        if self.runs.remove(&other).is_some() {
            self.nodes_are_whole = false;
            self.last_run += 1;
            self.runs.insert(source, self.last_run);
        }
    }

    fn wants_whole_nodes(&self) -> bool {
        self.watched.values().any(Watched::looks_up_nodes)
    }

    /// The version of the watch set in force; 0 before the first.
    #[must_use]
    pub fn watch_set_version(&self) -> u64 {
        self.watch_set_version
    }

    /// The sources that must be watched now. A source that left and came back has a new run.
    #[must_use]
    pub fn wanted_sources(&self) -> Vec<SourceRun> {
        self.runs.iter().map(|(source, &run)| SourceRun { source: source.clone(), run }).collect()
    }

    /// Takes in what a watcher says. Events of a watcher that is no longer wanted are ignored.
    pub fn handle(&mut self, from: &SourceRun, event: SourceEvent) {
        if self.runs.get(&from.source) != Some(&from.run) {
            return;
        }
        // A namespace that turns out to be empty changes no object, yet from now on there is something to say about it.
        self.touched |= event == SourceEvent::ListDone;
        let namespace = from.source.namespace.as_str();
        match from.source.kind {
            SourceKind::Node | SourceKind::WholeNode => self.handle_node(from.source.kind, event),
            SourceKind::Service => self.handle_service(namespace, event),
            SourceKind::EndpointSlice => self.handle_slice(namespace, event),
            SourceKind::Pod => self.handle_pod(namespace, event),
        }
    }

    /// How every wanted source stands.
    #[must_use]
    pub fn source_statuses(&self) -> Vec<SourceStatus> {
        let status = |source: &Source| SourceStatus { source: source.clone(), health: self.health(source).clone() };
        self.runs.keys().map(status).collect()
    }

    fn health(&self, source: &Source) -> &Health {
        let namespace = self.namespaces.get(&source.namespace);
        match (source.kind, namespace) {
            (SourceKind::Service, Some(known)) => known.services.health(),
            (SourceKind::EndpointSlice, Some(known)) => known.slices.health(),
            (SourceKind::Pod, Some(known)) => known.pods.health(),
            (SourceKind::Node | SourceKind::WholeNode, _) => self.nodes.health(),
            (_, None) => &Health::Syncing,
        }
    }

    /// True when every namespace of the watch set was listed completely at least once since start. Nodes count while they are
    /// wanted as targets. Else they only add zones, which EndpointSlices carry too, and a cluster without leave to list nodes must
    /// not stop for it.
    #[must_use]
    pub fn all_synced(&self) -> bool {
        self.namespaces.values().all(Namespace::is_synced) && (self.nodes_are_whole || !self.wants_whole_nodes())
    }

    /// True when something may have changed since all changes were last taken. Cheap; may be true without need.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// (watched references, endpoints) as they are now known, for metrics.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.watched.len(), self.watched.values().map(|watched| watched.endpoints().len()).sum())
    }

    /// Everything that is so, whether or not it was sent.
    pub fn view(&mut self) -> Snapshot {
        self.refresh();
        Snapshot {
            watch_set_version: self.watch_set_version,
            services: self
                .watched
                .values()
                .map(|watched| (Arc::clone(watched.reference()), watched.status().clone()))
                .collect(),
            endpoints: self.watched.values().flat_map(|watched| watched.endpoints().values().map(Arc::clone)).collect(),
        }
    }

    /// Everything that is so, which counts as sent from now on. Call it only when [`Index::all_synced`]: the hub takes what is
    /// missing from a snapshot as gone.
    pub fn take_snapshot(&mut self) -> Snapshot {
        let snapshot = self.view();
        self.watched.values_mut().for_each(Watched::mark_all_sent);
        self.touched = false;
        snapshot
    }

    /// Nothing counts as sent any more: the next changes say everything again. For a hub that may have missed what was sent and
    /// cannot be given a snapshot yet.
    pub fn forget_sent(&mut self) {
        self.watched.values_mut().for_each(Watched::forget_sent);
        self.touched = true;
    }

    /// At most `max` changes since what was last sent; they count as sent from now on. Services of namespaces that were never
    /// listed completely are left out: nothing is known of them. None when there is nothing to say.
    pub fn take_changes(&mut self, max: usize) -> Option<Batch> {
        // A change of owner takes two items, so a smaller batch could never carry it.
        let max = max.max(2);
        self.refresh();
        let mut batch = Batch::default();
        let order = self.order_from_cursor();
        for reference in order {
            if batch.len() >= max {
                break;
            }
            let pods = self.namespaces.get(&reference.namespace).map(|known| &known.pods);
            if let Some(watched) = self.watched.get_mut(&reference) {
                watched.fill(&mut batch, max, Owners { pods, nodes: &self.nodes });
            }
            self.cursor = Some(reference);
        }
        if batch.is_empty() {
            self.touched = false;
            return None;
        }
        Some(batch)
    }

    /// References with something to send, beginning behind the one that was served last.
    fn order_from_cursor(&self) -> Vec<ServiceRef> {
        let ready = |(reference, watched): &(&ServiceRef, &Watched)| {
            let listed = self.namespaces.get(&reference.namespace).is_none_or(Namespace::is_synced);
            watched.has_changes() && listed && (self.nodes_are_whole || !watched.looks_up_nodes())
        };
        let after = match &self.cursor {
            Some(cursor) => (Bound::Excluded(cursor), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let up_to = self.cursor.as_ref().map(|cursor| (Bound::Unbounded, Bound::Included(cursor)));
        let later = self.watched.range::<ServiceRef, _>(after);
        let earlier = up_to.into_iter().flat_map(|range| self.watched.range::<ServiceRef, _>(range));
        later.chain(earlier).filter(ready).map(|(reference, _)| reference.clone()).collect()
    }

    fn refresh(&mut self) {
        for watched in self.watched.values_mut().filter(|watched| watched.is_dirty()) {
            if let Some(namespace) = self.namespaces.get_mut(&watched.reference().namespace) {
                let Namespace { services, slices, pods, assumed, ended } = &*namespace;
                let known = Known { services, slices, pods, assumed, ended, nodes: &self.nodes };
                let resolution = resolve(watched.reference(), known);
                namespace.assumed.extend(resolution.assumed.iter().cloned());
                watched.refresh(resolution);
            }
        }
    }

    fn mark_dirty(&mut self, which: impl Fn(&Watched) -> bool) {
        for watched in self.watched.values_mut().filter(|watched| which(watched)) {
            watched.mark_dirty();
            self.touched = true;
        }
    }
}
