//! Places to wait for something that a stranger can make a call wait for: so many in all, and few of them for one address, so that
//! nobody takes them all. Knows nothing of keys and calls. No IO.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::door::source_of;

/// The places.
#[derive(Debug)]
pub(super) struct Waiting {
    most: usize,
    most_of_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// An address without any is not in it, so it is bounded by the places. None: from nowhere that is known.
    by_source: HashMap<Option<IpAddr>, usize>,
}

/// One of the places; given back when it is dropped.
#[derive(Debug)]
pub(super) struct WaitingPlace<'a> {
    waiting: &'a Waiting,
    source: Option<IpAddr>,
}

impl Waiting {
    pub(super) fn new(most: usize, most_of_source: usize) -> Self {
        Self { most, most_of_source, taken: Mutex::default() }
    }

    /// A place for a call from this address; none when there is no room for it.
    pub(super) fn enter(&self, source: Option<IpAddr>) -> Option<WaitingPlace<'_>> {
        let source = source.map(source_of);
        let mut taken = self.taken();
        let of_source = taken.by_source.get(&source).copied().unwrap_or_default();
        if taken.all >= self.most || of_source >= self.most_of_source {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, of_source + 1);
        Some(WaitingPlace { waiting: self, source })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        let mut taken = self.waiting.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_source) = taken.by_source.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(1);
            if *of_source == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_its_own_places_only_and_they_come_back() {
        let waiting = Waiting::new(3, 2);
        let from = |address: &str| Some(address.parse::<IpAddr>().unwrap());
        let (first, second) =
            (waiting.enter(from("10.0.0.7")).unwrap(), waiting.enter(from("::ffff:10.0.0.7")).unwrap());
        assert!(waiting.enter(from("10.0.0.7")).is_none());
        let third = waiting.enter(from("2001:db8:1:2::1")).unwrap();
        assert!(waiting.enter(None).is_none(), "no more than three in all");
        drop(first);
        let again = waiting.enter(from("10.0.0.7")).unwrap();
        drop((second, third, again));
        let taken = waiting.taken();
        assert_eq!((taken.all, taken.by_source.len()), (0, 0));
    }
}
