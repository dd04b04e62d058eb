//! One watched Service reference: what is so, what the hub was last told, and the difference as upserts and tombstones.
//!
//! A change is kept as a key, never as an event: an endpoint that changes ten times while the hub is slow is sent once, in its last
//! state, and what waits can never exceed the number of endpoints.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    nodes,
    objects::{
        Batch, EndpointKey, EndpointView, NodeObject, PodObject, ServiceCondition, ServiceRef, ServiceStatus,
        TargetKind, TombstoneReason, TombstoneView,
    },
    resolve::Resolution,
    store::Store,
};

/// What may have owned an endpoint, as it is known now.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    /// Pods of the Service's namespace; none when it is not watched.
    pub pods: Option<&'a Store<Arc<PodObject>>>,
    /// Nodes of the cluster.
    pub nodes: &'a Store<NodeObject>,
}

/// A watched Service reference.
#[derive(Debug)]
pub struct Watched {
    reference: Arc<ServiceRef>,
    resolution: Resolution,
    /// The resolution is older than what is known.
    dirty: bool,
    /// The reference cannot name a Service, so the answer never changes.
    fixed: bool,
    /// Keys whose endpoint differs from what was sent.
    pending: BTreeSet<EndpointKey>,
    sent_status: Option<ServiceStatus>,
    sent: BTreeMap<EndpointKey, Arc<EndpointView>>,
    /// Keys of which it is not sure whether the hub holds what was sent; they are told again in any case.
    unsure: BTreeSet<EndpointKey>,
    /// How many sent endpoints each pod owns; bounds what evidence is kept.
    sent_pods: HashMap<String, usize>,
    evidence: Evidence,
}

/// What was seen, and cannot be read off the present state. Kept only for what was sent and not yet taken back.
#[derive(Debug, Default)]
struct Evidence {
    /// UIDs of pods that were seen to be deleted or to end.
    gone_pods: HashSet<String>,
    /// The Service was seen to be deleted.
    service_deleted: bool,
    /// EndpointSlices of this Service were missing from a list, and nobody saw them deleted.
    slices_absent: bool,
}

impl Watched {
    pub fn new(reference: Arc<ServiceRef>) -> Self {
        let resolution = Resolution::nothing(ServiceCondition::NotFound, String::new());
        Self {
            reference,
            resolution,
            dirty: true,
            fixed: false,
            pending: BTreeSet::new(),
            sent_status: None,
            sent: BTreeMap::new(),
            unsure: BTreeSet::new(),
            sent_pods: HashMap::new(),
            evidence: Evidence::default(),
        }
    }

    /// A reference that left the watch set and came back before the hub was told that it has left. The hub may still hold what was
    /// sent then, or may never have got it: all of it is told again, as it is now.
    pub fn rejoined(reference: Arc<ServiceRef>, sent: BTreeMap<EndpointKey, Arc<EndpointView>>) -> Self {
        let mut watched = Self::new(reference);
        watched.unsure = sent.keys().copied().collect();
        for (key, view) in &sent {
            watched.set_sent(*key, view);
        }
        watched
    }

    /// What the hub may hold of it.
    pub fn into_sent(self) -> BTreeMap<EndpointKey, Arc<EndpointView>> {
        self.sent
    }

    /// A reference that cannot name a Service. It is answered, so that the hub does not wait for it, and nothing is looked up.
    pub fn invalid(reference: Arc<ServiceRef>, message: String) -> Self {
        let mut watched = Self::new(reference);
        watched.refresh(Resolution::nothing(ServiceCondition::NotFound, message));
        watched.fixed = true;
        watched
    }

    pub fn reference(&self) -> &Arc<ServiceRef> {
        &self.reference
    }

    /// True when nodes are reported for it.
    pub fn targets_nodes(&self) -> bool {
        self.reference.targets == TargetKind::Nodes
    }

    /// The same, of a reference that can name a Service at all.
    pub fn looks_up_nodes(&self) -> bool {
        self.targets_nodes() && !self.fixed
    }

    pub fn endpoints(&self) -> &BTreeMap<EndpointKey, Arc<EndpointView>> {
        &self.resolution.endpoints
    }

    pub fn status(&self) -> &ServiceStatus {
        &self.resolution.status
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub fn mark_dirty(&mut self) {
        self.dirty = !self.fixed;
    }

    /// True when a change of that pod may change the resolution.
    pub fn mentions_pod(&self, name: &str) -> bool {
        self.resolution.pods.contains(name)
    }

    pub fn pod_ended(&mut self, uid: &str) {
        if self.sent_pods.contains_key(uid) {
            self.evidence.gone_pods.insert(uid.to_owned());
        }
    }

    /// The API server shows the pod alive after all, as one restored from a backup does.
    pub fn pod_lives(&mut self, uid: &str) {
        self.evidence.gone_pods.remove(uid);
    }

    pub fn service_deletion_seen(&mut self, seen: bool) {
        self.evidence.service_deleted = seen;
    }

    pub fn slices_absent(&mut self) {
        self.evidence.slices_absent = true;
    }

    pub fn refresh(&mut self, resolution: Resolution) {
        self.resolution = resolution;
        self.dirty = false;
        let now = &self.resolution.endpoints;
        let differs = |key: &EndpointKey, view| self.unsure.contains(key) || self.sent.get(key) != Some(view);
        let changed = now.iter().filter(|(key, view)| differs(key, view)).map(|(key, _)| *key);
        let gone = self.sent.keys().filter(|key| !now.contains_key(key)).copied();
        self.pending = changed.chain(gone).collect();
        self.forget_spent_evidence();
    }

    pub fn has_changes(&self) -> bool {
        !self.pending.is_empty() || self.sent_status.as_ref() != Some(&self.resolution.status)
    }

    /// Everything that is so counts as sent, for it goes into a snapshot.
    pub fn mark_all_sent(&mut self) {
        self.sent = self.resolution.endpoints.clone();
        self.sent_status = Some(self.resolution.status.clone());
        self.pending.clear();
        self.unsure.clear();
        self.sent_pods.clear();
        for view in self.sent.values() {
            *self.sent_pods.entry(view.pod_uid().to_owned()).or_default() += 1;
        }
        self.evidence.gone_pods.clear();
        self.forget_spent_evidence();
        // A pod that is already ending must not lose the evidence of it with the snapshot.
        for view in self.resolution.endpoints.values() {
            if view.pod.as_ref().is_some_and(|pod| pod.is_evidence_of_end()) {
                self.evidence.gone_pods.insert(view.pod_uid().to_owned());
            }
        }
    }

    /// Nothing counts as sent any more.
    pub fn forget_sent(&mut self) {
        self.sent.clear();
        self.unsure.clear();
        self.sent_status = None;
        self.sent_pods.clear();
        self.evidence.gone_pods.clear();
        self.pending = self.resolution.endpoints.keys().copied().collect();
    }

    /// Moves changes into the batch until it holds `max` items, and counts them as sent.
    pub fn fill(&mut self, batch: &mut Batch, max: usize, known: Owners<'_>) {
        if batch.len() < max && self.sent_status.as_ref() != Some(&self.resolution.status) {
            self.sent_status = Some(self.resolution.status.clone());
            batch.services.push((Arc::clone(&self.reference), self.resolution.status.clone()));
        }
        // A change of owner takes two items, and they must not be torn apart.
        while batch.len() + 2 <= max {
            let Some(key) = self.pending.pop_first() else { break };
            self.unsure.remove(&key);
            let now = self.resolution.endpoints.get(&key).map(Arc::clone);
            if let Some(before) = self.sent.get(&key).map(Arc::clone)
                && now.as_ref().is_none_or(|now| now.pod_uid() != before.pod_uid())
            {
                batch.tombstones.push(self.tombstone(&before, known));
                self.unset_sent(&key);
            }
            if let Some(now) = now {
                self.set_sent(key, &now);
                batch.upserts.push(now);
            }
        }
        self.forget_spent_evidence();
    }

    fn set_sent(&mut self, key: EndpointKey, view: &Arc<EndpointView>) {
        if self.sent.insert(key, Arc::clone(view)).is_none() {
            *self.sent_pods.entry(view.pod_uid().to_owned()).or_default() += 1;
        }
        if view.pod.as_ref().is_some_and(|pod| pod.is_evidence_of_end()) {
            self.evidence.gone_pods.insert(view.pod_uid().to_owned());
        }
    }

    fn unset_sent(&mut self, key: &EndpointKey) {
        let Some(before) = self.sent.remove(key) else { return };
        let uid = before.pod_uid();
        if let Some(count) = self.sent_pods.get_mut(uid) {
            *count -= 1;
            if *count == 0 {
                self.sent_pods.remove(uid);
                self.evidence.gone_pods.remove(uid);
            }
        }
    }

    fn forget_spent_evidence(&mut self) {
        if self.pending.is_empty() && !self.dirty {
            self.evidence.slices_absent = false;
        }
    }

    fn tombstone(&self, gone: &EndpointView, known: Owners<'_>) -> TombstoneView {
        TombstoneView {
            service: Arc::clone(&self.reference),
            address: gone.address,
            port: gone.port,
            pod_uid: gone.pod_uid().to_owned(),
            reason: self.reason(gone, known),
        }
    }

    /// The strongest reason there is evidence for; where there is none, absence is all that can be said.
    fn reason(&self, gone: &EndpointView, Owners { pods, nodes }: Owners<'_>) -> TombstoneReason {
        if let Some(pod) = &gone.pod
            && (gone.terminating || pod.is_evidence_of_end() || self.evidence.gone_pods.contains(&pod.uid))
        {
            return TombstoneReason::PodDeleted;
        }
        match self.resolution.status.condition {
            ServiceCondition::NotFound if self.evidence.service_deleted => return TombstoneReason::ServiceDeleted,
            ServiceCondition::NotFound => return TombstoneReason::AbsentFromList,
            ServiceCondition::PortNotFound | ServiceCondition::NoNodePort => return TombstoneReason::PortChanged,
            ServiceCondition::Resolved | ServiceCondition::NoSelectedPods => {}
        }
        if self.targets_nodes() {
            return nodes::reason(gone, &self.resolution, nodes);
        }
        // Of pods that cannot be watched nothing is known; then the slices alone say what became of the endpoint.
        let lives = |pod: &PodObject| {
            pods.is_some_and(|pods| pods.is_failing() || pods.get(&pod.name).is_some_and(|known| known.uid == pod.uid))
        };
        if gone.pod.as_deref().is_some_and(|pod| !lives(pod)) {
            return TombstoneReason::AbsentFromList;
        }
        let mut at_address = self.resolution.endpoints.range((gone.address, 0)..=(gone.address, u16::MAX)).peekable();
        let resolves_to_nothing = at_address.peek().is_none() && self.resolution.addresses.contains(&gone.address);
        if resolves_to_nothing || at_address.any(|(_, view)| view.pod_uid() == gone.pod_uid()) {
            return TombstoneReason::PortChanged;
        }
        if self.evidence.slices_absent { TombstoneReason::AbsentFromList } else { TombstoneReason::NotSelected }
    }
}
