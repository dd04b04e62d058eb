//! The store behind one API server: objects by kind and key, and one ordered, bounded log of every change. The log is what
//! watches read, and what lists at an older resourceVersion are computed from by walking it backwards.
//! Knows nothing of HTTP, selectors or controllers. Every change is one closure under one lock, so that reading and writing
//! cannot be torn apart; closures only compute. Tests are at the end of the file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::kinds::KindId;
use super::object::{Object, metadata};

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// Changes kept for watches. About ten a pod in a rolling update: 10,000 covers a rollout of 1,000 pods that a
/// watcher slept through. Each keeps two versions of an object alive, some 10 kB.
const LOG_LIMIT: usize = 10_000;

/// One change.
#[derive(Debug)]
pub struct Change {
    /// resourceVersion of the change.
    pub version: u64,
    pub kind: KindId,
    pub key: Key,
    pub before: Option<Arc<Object>>,
    /// `None` when the object went away.
    pub after: Option<Arc<Object>>,
    /// What a DELETED event shows: the last state, at the version of the deletion.
    pub last: Arc<Object>,
}

/// The history back to the asked version is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("history before resource version {oldest} is compacted")]
pub struct Compacted {
    /// Oldest version that can be watched from.
    pub oldest: u64,
}

/// What a closure given to [`Store::modify`] wants done.
pub enum Write {
    /// Store this value; uid, name and versions are the caller's business except resourceVersion.
    Put(Value),
    Remove,
    Nothing,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<KindId, BTreeMap<Key, Arc<Object>>>,
    log: VecDeque<Arc<Change>>,
    /// Watches can start at this version or later.
    oldest: u64,
}

/// Objects and log of one cluster.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self::starting_at(1)
    }
}

impl Store {
    /// An empty store whose next change gets a version above `version`.
    pub fn starting_at(version: u64) -> Self {
        let inner = Inner { version, oldest: version, ..Inner::default() };
        Self { inner: Mutex::new(inner), version: watch::Sender::new(version) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held is a bug in a closure; the maps themselves are never left half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Tells of every change; the value is the newest version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub fn get(&self, kind: KindId, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock().objects.get(&kind)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a kind, in one namespace or in all, with the version they were read at.
    pub fn list(&self, kind: KindId, namespace: Option<&str>) -> (u64, Vec<Arc<Object>>) {
        let inner = self.lock();
        let all = inner.objects.get(&kind);
        (inner.version, all.map(|map| in_namespace(map, namespace)).unwrap_or_default())
    }

    /// As [`Store::list`], as it was at an older version.
    pub fn list_at(&self, kind: KindId, ns: Option<&str>, version: u64) -> Result<Vec<Arc<Object>>, Compacted> {
        let inner = self.lock();
        if version < inner.oldest {
            return Err(Compacted { oldest: inner.oldest });
        }
        let mut map = inner.objects.get(&kind).cloned().unwrap_or_default();
        for change in inner.log.iter().rev().take_while(|c| c.version > version).filter(|c| c.kind == kind) {
            match &change.before {
                Some(object) => map.insert(change.key.clone(), object.clone()),
                None => map.remove(&change.key),
            };
        }
        Ok(in_namespace(&map, ns))
    }

    /// The changes after `version`, at most `limit` of them, and the version they reach to.
    pub fn changes(&self, version: u64, limit: usize) -> Result<(u64, Vec<Arc<Change>>), Compacted> {
        let inner = self.lock();
        if version < inner.oldest {
            return Err(Compacted { oldest: inner.oldest });
        }
        let start = inner.log.partition_point(|c| c.version <= version);
        let found: Vec<_> = inner.log.iter().skip(start).take(limit).cloned().collect();
        let reached = if found.len() == limit { found.last().map_or(version, |c| c.version) } else { inner.version };
        Ok((reached, found))
    }

    /// Reads one object and writes what the closure makes of it, as one step. Gives the object as it stands
    /// afterwards; for a removal, its last state.
    pub fn modify<E>(
        &self,
        kind: KindId,
        key: &Key,
        decide: impl FnOnce(Option<&Arc<Object>>) -> Result<Write, E>,
    ) -> Result<Option<Arc<Object>>, E> {
        let mut inner = self.lock();
        let before = inner.objects.get(&kind).and_then(|m| m.get(key)).cloned();
        let (after, last) = match (decide(before.as_ref())?, &before) {
            (Write::Nothing, _) => return Ok(before),
            (Write::Remove, None) => return Ok(None),
            (Write::Remove, Some(old)) => (None, versioned(old.value().clone(), inner.version + 1)),
            (Write::Put(value), _) => {
                let object = versioned(value, inner.version + 1);
                (Some(object.clone()), object)
            }
        };
        inner.version += 1;
        let map = inner.objects.entry(kind).or_default();
        match &after {
            Some(object) => map.insert(key.clone(), object.clone()),
            None => map.remove(key),
        };
        let change = Change { version: inner.version, kind, key: key.clone(), before, after, last: last.clone() };
        inner.log.push_back(Arc::new(change));
        while inner.log.len() > LOG_LIMIT {
            if let Some(gone) = inner.log.pop_front() {
                inner.oldest = gone.version;
            }
        }
        self.version.send_replace(inner.version);
        Ok(Some(last))
    }

    /// Forgets the log: only watches from the present version go on.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.log.clear();
        inner.oldest = inner.version;
        self.version.send_replace(inner.version);
    }

    /// Moves the version to `version` or later and forgets the log, as a restore from a backup does.
    pub fn advance_to(&self, version: u64) {
        let mut inner = self.lock();
        inner.version = inner.version.max(version);
        inner.log.clear();
        inner.oldest = inner.version;
        self.version.send_replace(inner.version);
    }

    /// Oldest version a watch can start from.
    pub fn oldest(&self) -> u64 {
        self.lock().oldest
    }
}

fn versioned(mut value: Value, version: u64) -> Arc<Object> {
    metadata(&mut value).insert("resourceVersion".into(), json!(version.to_string()));
    Arc::new(Object::new(value))
}

fn in_namespace(map: &BTreeMap<Key, Arc<Object>>, namespace: Option<&str>) -> Vec<Arc<Object>> {
    match namespace {
        None => map.values().cloned().collect(),
        Some(ns) => map
            .range((ns.to_owned(), String::new())..)
            .take_while(|((found, _), _)| found == ns)
            .map(|(_, object)| object.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::kinds::PODS;
    use super::*;

    fn key(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    fn put(store: &Store, name: &str, n: u64) -> u64 {
        let value = json!({"metadata": {"name": name, "namespace": "shop"}, "n": n});
        store.modify(PODS, &key(name), |_| Ok::<_, Infallible>(Write::Put(value))).unwrap();
        store.version()
    }

    fn remove(store: &Store, name: &str) {
        store.modify(PODS, &key(name), |_| Ok::<_, Infallible>(Write::Remove)).unwrap();
    }

    fn names(list: &[Arc<Object>]) -> Vec<&str> {
        list.iter().map(|o| o.name()).collect()
    }

    #[test]
    fn an_older_version_lists_what_stood_then() {
        let store = Store::default();
        put(&store, "a", 1);
        let then = put(&store, "b", 1);
        put(&store, "c", 1);
        put(&store, "b", 2);
        remove(&store, "a");
        let old = store.list_at(PODS, Some("shop"), then).unwrap();
        assert_eq!(names(&old), ["a", "b"]);
        assert_eq!(old[1].value()["n"], 1);
        assert_eq!(names(&store.list(PODS, Some("shop")).1), ["b", "c"]);
        assert!(store.list(PODS, Some("other")).1.is_empty());
    }

    #[test]
    fn changes_come_in_order_and_a_deletion_carries_its_own_version() {
        let store = Store::default();
        let start = store.version();
        put(&store, "a", 1);
        remove(&store, "a");
        let (reached, changes) = store.changes(start, 10).unwrap();
        assert_eq!(reached, start + 2);
        assert!(changes[0].before.is_none() && changes[1].after.is_none());
        assert_eq!(changes[1].last.text("/metadata/resourceVersion"), (start + 2).to_string());
        let (reached, first) = store.changes(start, 1).unwrap();
        assert_eq!((reached, first.len()), (start + 1, 1));
    }

    #[test]
    fn compaction_refuses_versions_before_it_and_keeps_the_present_one() {
        let store = Store::default();
        let old = put(&store, "a", 1);
        let present = put(&store, "b", 1);
        store.compact();
        assert_eq!(store.changes(old, 10).unwrap_err(), Compacted { oldest: present });
        assert!(store.changes(present, 10).unwrap().1.is_empty());
        assert!(store.list_at(PODS, None, old).is_err());
    }

    #[test]
    fn the_log_is_bounded() {
        let store = Store::default();
        for n in 0..=LOG_LIMIT as u64 {
            put(&store, "a", n);
        }
        assert_eq!(store.oldest(), 2, "one change more than the log holds: exactly the first one is gone");
    }

    #[test]
    fn a_write_of_nothing_makes_no_version() {
        let store = Store::default();
        let version = put(&store, "a", 1);
        store.modify(PODS, &key("a"), |_| Ok::<_, Infallible>(Write::Nothing)).unwrap();
        remove(&store, "absent");
        assert_eq!(store.version(), version);
    }
}
