//! What the health checker decided, and when: each change of a target's verdict. Bounded; must not import the state.

use std::collections::VecDeque;

/// Most entries kept; the oldest go first.
const MAX_ENTRIES: usize = 20_000;

/// One target's state changed by its own probes.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    /// Counts up from 1, without gaps.
    pub seq: u64,
    pub time: jiff::Timestamp,
    pub target_group_arn: String,
    pub id: String,
    pub port: u16,
    pub from: &'static str,
    pub to: &'static str,
}

#[derive(Debug, Default)]
pub struct HealthLog {
    entries: VecDeque<Change>,
    last: u64,
}

impl HealthLog {
    pub fn push(&mut self, mut change: Change) {
        self.last += 1;
        change.seq = self.last;
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(change);
    }

    /// What came after `since`, and the number to ask with the next time.
    pub fn since(&self, since: u64) -> (u64, Vec<Change>) {
        (self.last, self.entries.iter().filter(|change| change.seq > since).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_read_on_from_a_number() {
        let mut log = HealthLog::default();
        for _ in 0..MAX_ENTRIES + 2 {
            let (id, arn) = ("127.0.0.1".to_owned(), "arn".to_owned());
            let time = jiff::Timestamp::UNIX_EPOCH;
            log.push(Change { seq: 0, time, target_group_arn: arn, id, port: 80, from: "initial", to: "healthy" });
        }
        assert_eq!(log.since(0).1.len(), MAX_ENTRIES);
        assert_eq!(log.since(0).1[0].seq, 3);
        let (next, after) = log.since(MAX_ENTRIES as u64);
        assert_eq!((next, after.len()), (MAX_ENTRIES as u64 + 2, 2));
    }
}
