//! The highest epoch of a hub that any stream of this agent has followed, so that none of them follows a smaller one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Clones share the number. It only grows, and nothing else is ordered by it.
#[derive(Debug, Clone, Default)]
pub struct HighestEpoch(Arc<AtomicU64>);

impl HighestEpoch {
    /// A stream has followed this epoch.
    pub fn raise(&self, epoch: u64) {
        self.0.fetch_max(epoch, Ordering::Relaxed);
    }

    /// The highest so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_falls() {
        let epoch = HighestEpoch::default();
        let shared = epoch.clone();
        shared.raise(4);
        shared.raise(2);
        assert_eq!(epoch.get(), 4);
    }
}
