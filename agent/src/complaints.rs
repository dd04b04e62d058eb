//! What the agent cannot do at the moment, for the probe's text. One sentence each, under a fixed name. Most, such as a missing
//! permission that stops no endpoint, must not make the agent unready; those that block do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::text::truncated;

/// Characters of one complaint; an API server's refusal has about 250.
const MAX_MESSAGE: usize = 1024;

/// What is complained of now; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<BTreeMap<&'static str, Complaint>>>);

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    message: String,
    blocks: bool,
}

impl Complaints {
    /// Complains under a name. True when that is news, and worth a line in the log.
    pub fn raise(&self, name: &'static str, message: &str) -> bool {
        self.put(name, message, false)
    }

    /// As [`Complaints::raise`], and makes the agent unready until it is taken back.
    pub fn block(&self, name: &'static str, message: &str) -> bool {
        self.put(name, message, true)
    }

    fn put(&self, name: &'static str, message: &str, blocks: bool) -> bool {
        let complaint = Complaint { message: truncated(message, MAX_MESSAGE), blocks };
        let mut held = self.lock();
        if held.get(name) == Some(&complaint) {
            return false;
        }
        held.insert(name, complaint);
        true
    }

    /// Takes a complaint back. True when there was one.
    pub fn clear(&self, name: &'static str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// One line each: the name and the sentence.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().iter().map(|(name, complaint)| format!("{name}: {}", complaint.message)).collect()
    }

    /// True while this is complained of.
    #[must_use]
    pub fn is_raised(&self, name: &'static str) -> bool {
        self.lock().contains_key(name)
    }

    /// True while something makes the agent unready.
    #[must_use]
    pub fn is_blocking(&self) -> bool {
        self.lock().values().any(|complaint| complaint.blocks)
    }

    /// Held for a look only, never across an await.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Complaint>> {
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

    #[test]
    fn only_what_blocks_makes_the_agent_unready_and_only_until_it_is_taken_back() {
        let complaints = Complaints::default();
        complaints.raise("status", "no leave to patch");
        assert!(!complaints.is_blocking());
        assert!(complaints.block("identity", "no certificate") && complaints.is_blocking());
        assert!(complaints.raise("identity", "no certificate"), "it is news that it blocks no more");
        assert!(!complaints.is_blocking() && complaints.is_raised("identity"));
    }
}
