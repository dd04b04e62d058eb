//! What one event of a watcher changes in the index, kind by kind: the store, what is looked up anew, and the evidence of what
//! went. Pure, like everything beside it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    Index,
    objects::{NodeObject, Object, SourceEvent, SourceKind},
    steps::{ChangeKind, advance, of_namespace, of_service},
    watched::Watched,
};

impl Index {
    pub(super) fn handle_node(&mut self, kind: SourceKind, event: SourceEvent) {
        if event == SourceEvent::ListDone && kind == SourceKind::WholeNode && !self.nodes_are_whole {
            self.nodes_are_whole = true;
            self.mark_dirty(Watched::targets_nodes);
        }
        let changes = advance(&mut self.nodes, event, |object| match object {
            Object::Node(node) => Some((node.name.clone(), node)),
            _ => None,
        });
        for change in changes {
            let now = self.nodes.get(&change.name);
            let target_of = |node: Option<&NodeObject>| node.and_then(|node| node.target.clone());
            let (before, after) = (target_of(change.before.as_ref()), target_of(now));
            let zone_of = |node: Option<&NodeObject>| node.map(|node| node.zone.clone()).unwrap_or_default();
            let zone_changed = zone_of(change.before.as_ref()) != zone_of(now);
            for watched in self.watched.values_mut().filter(|watched| watched.targets_nodes()) {
                if let Some(before) = &before {
                    let replaced = after.as_ref().is_some_and(|after| after.uid != before.uid);
                    if change.kind == ChangeKind::Deleted || replaced || before.leaving {
                        watched.pod_ended(&before.uid);
                    }
                }
                // An autoscaler may think better of it.
                if let Some(after) = &after
                    && !after.leaving
                {
                    watched.pod_lives(&after.uid);
                }
            }
            self.mark_dirty(|watched| zone_changed || watched.targets_nodes());
        }
    }

    pub(super) fn handle_service(&mut self, namespace: &str, event: SourceEvent) {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        let changes = advance(&mut known.services, event, |object| match object {
            Object::Service(service) => Some((service.name.clone(), service)),
            _ => None,
        });
        for change in changes {
            let now = known.services.get(&change.name);
            let was_going = change.before.as_ref().is_some_and(|service| service.deleting);
            let deleted = match change.kind {
                ChangeKind::Put => now.is_some_and(|service| service.deleting),
                ChangeKind::Deleted => true,
                ChangeKind::Absent => was_going,
            };
            for watched in of_service(&mut self.watched, namespace, &change.name) {
                watched.service_deletion_seen(deleted);
                watched.mark_dirty();
                self.touched = true;
            }
        }
    }

    pub(super) fn handle_slice(&mut self, namespace: &str, event: SourceEvent) {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        let changes = advance(&mut known.slices, event, |object| match object {
            Object::EndpointSlice(slice) => Some((slice.name.clone(), slice)),
            _ => None,
        });
        if !changes.is_empty() {
            known.prune_ended();
        }
        for change in changes {
            let now = known.slices.get(&change.name);
            let services: BTreeSet<&str> = change
                .before
                .iter()
                .chain(now)
                .map(|slice| slice.service.as_str())
                .filter(|name| !name.is_empty())
                .collect();
            for service in services {
                for watched in of_service(&mut self.watched, namespace, service) {
                    if change.kind == ChangeKind::Absent {
                        watched.slices_absent();
                    }
                    watched.mark_dirty();
                    self.touched = true;
                }
            }
        }
    }

    pub(super) fn handle_pod(&mut self, namespace: &str, event: SourceEvent) {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        let (was_failing, listed) = (known.pods.is_failing(), event == SourceEvent::ListDone);
        let changes = advance(&mut known.pods, event, |object| match object {
            Object::Pod(pod) => Some((pod.name.clone(), Arc::from(pod))),
            _ => None,
        });
        let refuted = if listed { std::mem::take(&mut known.assumed) } else { HashSet::new() };
        let assumptions_end = !refuted.is_empty();
        known.ended.extend(refuted);
        if assumptions_end || (known.pods.is_failing() && !was_failing) {
            // Pods that nobody has seen count from now on, or no longer.
            of_namespace(&mut self.watched, namespace).for_each(Watched::mark_dirty);
            self.touched = true;
        }
        for change in changes {
            known.pod_changed(change.before.as_deref(), &change.name);
            let now = known.pods.get(&change.name);
            for watched in of_namespace(&mut self.watched, namespace) {
                if let Some(before) = &change.before {
                    // Names are unique: another UID under this name proves the end of the first.
                    let replaced = now.is_some_and(|now| now.uid != before.uid);
                    if change.kind == ChangeKind::Deleted || replaced || before.is_evidence_of_end() {
                        watched.pod_ended(&before.uid);
                    }
                }
                if let Some(now) = now {
                    if now.is_evidence_of_end() { watched.pod_ended(&now.uid) } else { watched.pod_lives(&now.uid) }
                }
                if watched.mentions_pod(&change.name) {
                    watched.mark_dirty();
                    self.touched = true;
                }
            }
        }
        known.prune_ended();
    }
}
