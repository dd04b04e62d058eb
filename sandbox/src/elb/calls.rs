//! The call log: what was asked, when, and what came of it. Bounded; must not import the state.

use std::collections::{BTreeMap, VecDeque};

/// Most entries kept; the oldest go first, and the count of those is shown.
const MAX_CALLS: usize = 50_000;

/// What kind of call it was. Decides the rate bucket and lets tests tell writes from reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Describe,
    Mutate,
    Register,
    Deregister,
}

impl Class {
    pub fn is_mutating(self) -> bool {
        !matches!(self, Self::Describe)
    }
}

/// One call as it was handled.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CallRecord {
    /// Counts up from 1, without gaps.
    pub seq: u64,
    pub operation: String,
    pub class: Class,
    pub mutating: bool,
    pub parameters: BTreeMap<String, String>,
    /// `ok`, or the wire code of the refusal, or `connection-cut` when it was cut before it was looked at.
    pub outcome: String,
    /// Whether the change or read took place.
    pub applied: bool,
    /// Whether the caller was sent an answer.
    pub answered: bool,
    /// When it arrived.
    pub received: jiff::Timestamp,
    /// When it was carried out, or refused.
    pub time: jiff::Timestamp,
}

/// One page of the log.
#[derive(Debug, serde::Serialize)]
pub struct CallPage {
    /// Pass as `since` to get what comes after this page.
    pub next: u64,
    /// Entries that were forgotten because the log is bounded.
    pub dropped: u64,
    pub calls: Vec<CallRecord>,
}

#[derive(Debug, Default)]
pub struct CallLog {
    entries: VecDeque<CallRecord>,
    last: u64,
    dropped: u64,
}

impl CallLog {
    pub fn push(&mut self, mut record: CallRecord) {
        self.last += 1;
        record.seq = self.last;
        record.mutating = record.class.is_mutating();
        if self.entries.len() >= MAX_CALLS {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(record);
    }

    /// All entries after `since`, optionally only those that are (or are not) mutating.
    pub fn since(&self, since: u64, mutating: Option<bool>) -> CallPage {
        let wanted = |r: &&CallRecord| r.seq > since && mutating.is_none_or(|m| r.mutating == m);
        CallPage {
            next: self.last,
            dropped: self.dropped,
            calls: self.entries.iter().filter(wanted).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(operation: &str, class: Class) -> CallRecord {
        CallRecord {
            seq: 0,
            operation: operation.to_owned(),
            class,
            mutating: false,
            parameters: BTreeMap::new(),
            outcome: "ok".to_owned(),
            applied: true,
            answered: true,
            received: jiff::Timestamp::UNIX_EPOCH,
            time: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn writes_are_told_from_reads_and_paging_by_sequence_misses_nothing() {
        let mut log = CallLog::default();
        log.push(record("DescribeRules", Class::Describe));
        log.push(record("ModifyRule", Class::Mutate));
        log.push(record("RegisterTargets", Class::Register));
        let writes = log.since(0, Some(true));
        assert_eq!(writes.calls.iter().map(|c| c.seq).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(writes.next, 3);
        log.push(record("DeregisterTargets", Class::Deregister));
        assert_eq!(log.since(writes.next, None).calls.len(), 1);
    }

    #[test]
    fn the_log_is_bounded_and_says_what_it_forgot() {
        let mut log = CallLog::default();
        for _ in 0..MAX_CALLS + 3 {
            log.push(record("DescribeRules", Class::Describe));
        }
        let page = log.since(0, None);
        assert_eq!((page.calls.len(), page.dropped), (MAX_CALLS, 3));
        assert_eq!(page.calls[0].seq, 4);
    }
}
