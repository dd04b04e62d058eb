//! What the agent cannot do at the moment, for the probe's text: a missing permission that stops no endpoint and so must not make
//! the agent unready. One sentence each, under a fixed name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::text::truncated;

/// Characters of one complaint; an API server's refusal has about 250.
const MAX_MESSAGE: usize = 1024;

/// What is complained of now; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Complaints {
    /// Complains under a name. True when that is news, and worth a line in the log.
    pub fn raise(&self, name: &'static str, message: &str) -> bool {
        let message = truncated(message, MAX_MESSAGE);
        let mut held = self.lock();
        if held.get(name) == Some(&message) {
            return false;
        }
        held.insert(name, message);
        true
    }

    /// Takes a complaint back. True when there was one.
    pub fn clear(&self, name: &'static str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// One line each: the name and the sentence.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().iter().map(|(name, message)| format!("{name}: {message}")).collect()
    }

    /// Held for a look only, never across an await.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_news_once_and_stands_until_it_is_taken_back() {
        let complaints = Complaints::default();
        assert!(complaints.raise("status", "no leave to patch"));
        assert!(!complaints.raise("status", "no leave to patch"));
        assert!(complaints.raise("status", "no leave to get"));
        assert_eq!(complaints.lines(), ["status: no leave to get"]);
        assert!(complaints.clear("status") && !complaints.clear("status"));
        assert_eq!(complaints.lines(), Vec::<String>::new());
    }
}
