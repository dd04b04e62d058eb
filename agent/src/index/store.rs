//! What is known of the objects of one source, and the swap that a complete list makes.
//!
//! A list replaces the store only when it is complete: a list that broke off half-way changes nothing.

use std::collections::BTreeMap;

use super::objects::Health;

/// The objects of one source by name.
#[derive(Debug)]
pub struct Store<T> {
    objects: BTreeMap<String, T>,
    /// The list under way, if there is one.
    pending: Option<BTreeMap<String, T>>,
    health: Health,
    ever_synced: bool,
}

/// What a complete list changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Swapped<T> {
    /// Objects that are new, or differ from what was known; with what was known.
    pub changed: Vec<(String, Option<T>)>,
    /// Objects that were known and are absent from the list.
    pub absent: Vec<(String, T)>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), pending: None, health: Health::Syncing, ever_synced: false }
    }
}

impl<T: PartialEq> Store<T> {
    /// The object of that name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(name)
    }

    /// All objects, by name.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// How the source stands.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// True when the source fails now, so that what is known may be old.
    pub fn is_failing(&self) -> bool {
        matches!(self.health, Health::Failing(_))
    }

    /// True once a list was complete; errors afterwards do not change it.
    pub fn ever_synced(&self) -> bool {
        self.ever_synced
    }

    /// A list begins; one that was under way is forgotten.
    pub fn list_started(&mut self) {
        self.pending = Some(BTreeMap::new());
    }

    /// An object of the list; ignored when no list is under way.
    pub fn listed(&mut self, name: String, object: T) {
        if let Some(pending) = &mut self.pending {
            pending.insert(name, object);
        }
    }

    /// The list is complete. None when no list was under way.
    pub fn list_done(&mut self) -> Option<Swapped<T>> {
        let pending = self.pending.take()?;
        let mut old = std::mem::take(&mut self.objects);
        let mut changed = Vec::new();
        for (name, object) in &pending {
            let before = old.remove(name);
            if before.as_ref() != Some(object) {
                changed.push((name.clone(), before));
            }
        }
        self.objects = pending;
        self.health = Health::Synced;
        self.ever_synced = true;
        Some(Swapped { changed, absent: old.into_iter().collect() })
    }

    /// Takes an object in; tells whether that changed anything, and what it replaced.
    pub fn applied(&mut self, name: String, object: T) -> Applied<T> {
        self.following();
        if self.objects.get(&name) == Some(&object) {
            return Applied::Unchanged;
        }
        Applied::Changed(self.objects.insert(name, object))
    }

    /// Takes an object out and gives it back.
    pub fn deleted(&mut self, name: &str) -> Option<T> {
        self.following();
        self.objects.remove(name)
    }

    /// The API server answers again. Without a complete list the source is still syncing.
    pub fn following(&mut self) {
        self.health = if self.ever_synced { Health::Synced } else { Health::Syncing };
    }

    /// The source fails; objects stay as they are, and a half list is dropped.
    pub fn failing(&mut self, message: String) {
        self.pending = None;
        self.health = Health::Failing(message);
    }
}

/// What taking an object in did.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied<T> {
    /// The same object was known already.
    Unchanged,
    /// It is new, or replaced what is given here.
    Changed(Option<T>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(store: &mut Store<u32>, objects: &[(&str, u32)]) -> Swapped<u32> {
        store.list_started();
        for (name, value) in objects {
            store.listed((*name).to_owned(), *value);
        }
        store.list_done().expect("a list is under way")
    }

    #[test]
    fn a_list_replaces_the_store_only_when_it_is_complete() {
        let mut store = Store::default();
        listed(&mut store, &[("a", 1), ("b", 2)]);
        store.list_started();
        store.listed("c".to_owned(), 3);
        assert_eq!(store.get("a"), Some(&1));
        assert_eq!(store.get("c"), None);
        let swapped = store.list_done().expect("a list is under way");
        assert_eq!(swapped.absent, vec![("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(swapped.changed, vec![("c".to_owned(), None)]);
        assert_eq!(store.values().count(), 1);
    }

    #[test]
    fn a_list_that_fails_half_way_changes_nothing() {
        let mut store = Store::default();
        listed(&mut store, &[("a", 1)]);
        store.list_started();
        store.failing("connection refused".to_owned());
        assert_eq!(store.list_done(), None);
        assert_eq!(store.get("a"), Some(&1));
        assert_eq!(store.health(), &Health::Failing("connection refused".to_owned()));
        assert!(store.ever_synced());
    }

    #[test]
    fn an_error_is_over_when_the_server_answers_but_only_a_list_makes_a_source_synced() {
        let mut store = Store::<u32>::default();
        store.failing("forbidden".to_owned());
        store.following();
        assert_eq!(store.health(), &Health::Syncing);
        listed(&mut store, &[]);
        store.failing("gone".to_owned());
        store.following();
        assert_eq!(store.health(), &Health::Synced);
    }

    #[test]
    fn an_object_that_did_not_change_is_no_change() {
        let mut store = Store::default();
        assert_eq!(store.applied("a".to_owned(), 1), Applied::Changed(None));
        assert_eq!(store.applied("a".to_owned(), 1), Applied::Unchanged);
        assert_eq!(store.applied("a".to_owned(), 2), Applied::Changed(Some(1)));
        assert_eq!(store.deleted("a"), Some(2));
        assert_eq!(store.deleted("a"), None);
    }
}
