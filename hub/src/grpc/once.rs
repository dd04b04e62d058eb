//! What is said once and not each time: agents that are refused come back every few seconds, for as long as nobody mends them. Tests
//! are at the end of the file.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// After so long the same is news again.
const FOR: Duration = Duration::from_secs(10 * 60);
/// Different things that are remembered; beyond it the one that was said longest ago is forgotten, so that memory is bounded, and
/// whoever makes up new ones does not have all the others said again.
const MOST: usize = 1000;

/// Remembers what was said. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Once(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Once {
    /// True when this was not said within ten minutes; it counts as said from now on.
    pub fn is_news(&self, what: String) -> bool {
        self.is_news_at(what, Instant::now())
    }

    fn is_news_at(&self, what: String, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&what).is_some_and(|at| now.duration_since(*at) < FOR) {
            return false;
        }
        if said.len() >= MOST
            && let Some(oldest) = said.iter().min_by_key(|(_, at)| **at).map(|(what, _)| what.clone())
        {
            said.remove(&oldest);
        }
        said.insert(what, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_ten_minutes_and_memory_is_bounded() {
        let (once, start) = (Once::default(), Instant::now());
        assert!(once.is_news_at("a".to_owned(), start));
        assert!(!once.clone().is_news_at("a".to_owned(), start + FOR / 2));
        assert!(once.is_news_at("b".to_owned(), start + FOR / 2));
        assert!(once.is_news_at("a".to_owned(), start + FOR));
        (0..10 * MOST).for_each(|i| assert!(once.is_news_at(format!("c{i}"), start)));
        assert!(once.0.lock().unwrap().len() <= MOST);
    }

    #[test]
    fn new_things_drive_out_what_was_said_longest_ago_and_nothing_else() {
        let (once, start) = (Once::default(), Instant::now());
        let at = |n: usize| start + Duration::from_millis(n as u64);
        (0..MOST).for_each(|n| assert!(once.is_news_at(format!("{n}"), at(n))));
        assert!(once.is_news_at("one more".to_owned(), at(MOST)));
        assert!(!once.is_news_at(format!("{}", MOST - 1), at(MOST)));
        assert!(!once.is_news_at("1".to_owned(), at(MOST)));
        assert!(once.is_news_at("0".to_owned(), at(MOST)));
    }
}
