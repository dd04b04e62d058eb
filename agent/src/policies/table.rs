//! What the cluster shows of its policies, and what of that the hub was not told yet. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    messages::Upsert,
    objects::{Key, Resource, SourceEvent, Spec},
};

/// Deletions that wait for the hub; more than a source may have policies. Past it the next list says the rest, as absence.
const MAX_TOMBSTONES: usize = 4096;
/// Earlier resources of one name whose deletion is kept in mind while the present one was not told.
const MAX_REPLACED: usize = 8;
/// What the hub is told of a spec that is too large to be sent: it is no valid spec, so the last valid one stays in force. Leaving the
/// resource out of a list would read as its removal. The message for people is made here, by `writer`.
const NO_SPEC: &str = "null";

/// The resources, by namespace and name.
#[derive(Debug, Default)]
pub struct Table {
    held: BTreeMap<Key, Held>,
    /// The list that is being read; it replaces `held` whole.
    staged: Option<BTreeMap<Key, Held>>,
    listed: bool,
    changed: BTreeSet<Key>,
    /// Seen to be deleted and not known to be stored by the hub, with the UID. They outlive a stream: a list alone would tell of them
    /// only as absence, which is weaker.
    deleted: BTreeMap<(Key, String), Tombstone>,
    /// Seen to be deleted and followed by another resource of the name that the hub was not told of: when that one goes as well,
    /// both deletions have to be told, since the hub may hold the first.
    replaced: BTreeMap<Key, Vec<String>>,
    /// Something is missing from the last list that no deletion was seen of: only a list can say so.
    absent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    uid: String,
    generation: u64,
    spec: Arc<str>,
}

#[derive(Debug)]
struct Tombstone {
    sent: bool,
}

impl Table {
    /// Takes in what the watcher saw.
    pub fn handle(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::ListStarted => self.staged = Some(BTreeMap::new()),
            SourceEvent::Listed(resource) => {
                let (key, held) = keep(*resource);
                self.staged.get_or_insert_default().insert(key, held);
            }
            SourceEvent::ListDone => {
                if let Some(staged) = self.staged.take() {
                    self.swap(staged);
                }
            }
            SourceEvent::Applied(resource) => {
                let (key, held) = keep(*resource);
                self.put(key, held);
            }
            SourceEvent::Deleted { key, uid } => self.delete(key, uid),
            SourceEvent::Failing(_) | SourceEvent::Following => {}
        }
    }

    fn swap(&mut self, mut staged: BTreeMap<Key, Held>) {
        self.absent |= self.held.keys().any(|key| !staged.contains_key(key));
        self.held.retain(|key, _| staged.contains_key(key));
        while let Some((key, held)) = staged.pop_first() {
            self.put(key, held);
        }
        self.listed = true;
    }

    fn put(&mut self, key: Key, held: Held) {
        let gone: Vec<String> = self
            .deleted
            .range((key.clone(), String::new())..)
            .map_while(|((name, uid), _)| (*name == key).then(|| uid.clone()))
            .collect();
        for uid in gone {
            self.deleted.remove(&(key.clone(), uid.clone()));
            // The first ones are those that the hub may have been told of.
            let replaced = self.replaced.entry(key.clone()).or_default();
            if replaced.len() < MAX_REPLACED {
                replaced.push(uid);
            }
        }
        if self.held.get(&key) != Some(&held) {
            self.changed.insert(key.clone());
            self.held.insert(key, held);
        }
    }

    fn delete(&mut self, key: Key, uid: String) {
        // A late word about an earlier resource of this name says nothing about the present one.
        if self.held.get(&key).is_some_and(|held| held.uid != uid) {
            return;
        }
        self.held.remove(&key);
        // The hub may hold an earlier resource of this name that nobody saw go.
        self.absent |= self.changed.remove(&key);
        let mut gone = self.replaced.remove(&key).unwrap_or_default();
        gone.push(uid);
        for uid in gone {
            if self.deleted.len() < MAX_TOMBSTONES {
                self.deleted.insert((key.clone(), uid), Tombstone { sent: false });
            } else {
                self.absent = true;
            }
        }
    }

    /// A complete list was seen.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Something is missing that only a list can say.
    pub fn needs_list(&self) -> bool {
        self.absent
    }

    /// Something changed that was not told yet.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty() || self.deleted.values().any(|tombstone| !tombstone.sent)
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True when the cluster shows this resource.
    pub fn holds(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    /// Begins to tell everything: which resources there are. Deletions are told after it once more.
    pub fn begin_list(&mut self) -> Vec<Key> {
        self.absent = false;
        self.changed.clear();
        self.forget_sent();
        self.held.keys().cloned().collect()
    }

    /// A stream ended: what it carried may be lost.
    pub fn forget_sent(&mut self) {
        for tombstone in self.deleted.values_mut() {
            tombstone.sent = false;
        }
    }

    /// One resource as it stands now; it counts as told. None when it is gone.
    pub fn tell(&mut self, key: &Key) -> Option<Upsert> {
        let held = self.held.get(key)?;
        self.changed.remove(key);
        self.replaced.remove(key);
        Some(Upsert { key: key.clone(), uid: held.uid.clone(), generation: held.generation, spec: held.spec.clone() })
    }

    /// The first resource that changed.
    pub fn next_change(&self) -> Option<Key> {
        self.changed.first().cloned()
    }

    /// At most `max` deletions that were not told; they count as told.
    pub fn tell_deleted(&mut self, max: usize) -> Vec<(Key, String)> {
        let untold = self.deleted.iter_mut().filter(|(_, tombstone)| !tombstone.sent).take(max);
        untold
            .map(|(gone, tombstone)| {
                tombstone.sent = true;
                gone.clone()
            })
            .collect()
    }

    /// The hub has stored this deletion. False when it is not one that waits.
    pub fn deletion_stored(&mut self, key: &Key, uid: &str) -> bool {
        let gone = (key.clone(), uid.to_owned());
        let known = self.deleted.get(&gone).is_some_and(|tombstone| tombstone.sent);
        known && self.deleted.remove(&gone).is_some()
    }
}

fn keep(resource: Resource) -> (Key, Held) {
    let spec = match resource.spec {
        Spec::Text(text) => text,
        Spec::TooLarge { .. } => Arc::from(NO_SPEC),
    };
    (resource.key, Held { uid: resource.uid, generation: resource.generation, spec })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::status::ResourceStatus;

    fn resource(uid: &str) -> SourceEvent {
        SourceEvent::Applied(Box::new(Resource {
            key: key(),
            uid: uid.to_owned(),
            generation: 1,
            resource_version: "1".to_owned(),
            spec: Spec::Text(Arc::from("{}")),
            status: ResourceStatus::default(),
        }))
    }

    fn key() -> Key {
        Key { namespace: "shop".to_owned(), name: "checkout".to_owned() }
    }

    fn deleted(uid: &str) -> SourceEvent {
        SourceEvent::Deleted { key: key(), uid: uid.to_owned() }
    }

    #[test]
    fn a_resource_that_came_and_went_untold_takes_the_word_of_its_predecessors_deletion_along() {
        let mut table = Table::default();
        table.handle(resource("first"));
        assert!(table.tell(&key()).is_some());
        for event in [deleted("first"), resource("second"), deleted("second")] {
            table.handle(event);
        }
        let told: Vec<String> = table.tell_deleted(9).into_iter().map(|(_, uid)| uid).collect();
        assert_eq!(told, ["first", "second"]);
    }

    #[test]
    fn a_resource_that_was_told_replaces_its_predecessor_at_the_hub() {
        let mut table = Table::default();
        table.handle(resource("first"));
        for event in [deleted("first"), resource("second")] {
            table.handle(event);
        }
        assert!(table.tell_deleted(9).is_empty() && table.tell(&key()).is_some());
        table.handle(deleted("second"));
        assert_eq!(table.tell_deleted(9), [(key(), "second".to_owned())]);
    }
}
