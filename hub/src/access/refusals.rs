//! What was refused, on its way into the audit log. Equal refusals within ten seconds become one entry with a count, the number of
//! different ones is bounded, and nobody who calls ever waits for the store: a flood costs a fixed piece of memory and a hundred rows
//! a second at the most. It refuses nothing itself.

use std::{
    collections::BTreeMap,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::access::Identity;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{code_word, escaped};
use crate::store::{AuditResult, RefusedEntry, Store};

/// How long equal refusals are put together.
pub const TOGETHER: Duration = Duration::from_secs(10);
/// Different refusals at a time: beyond it they are counted in one entry.
const MOST_KINDS: usize = 1000;
/// Of them, those of nobody: whoever can reach the port can make as many as he has addresses, and must not crowd out what is noted of
/// callers who are known.
const MOST_OF_NOBODY: usize = 50;
/// At the end: the store may be away, and the hub has some seconds to stop.
const FAREWELL: Duration = Duration::from_secs(2);

/// A call that was not done.
#[derive(Clone, Debug)]
pub struct Refused<'a> {
    /// Who called, as far as he proved it.
    pub identity: &'a Identity,
    /// From where.
    pub source: Option<IpAddr>,
    /// `package.Service/Method` of the table, or `unknown` for a path that is not in it.
    pub rpc: &'static str,
    /// What the caller got.
    pub code: Code,
    /// What he was told.
    pub message: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// Nothing was proved.
    nobody: bool,
    actor: String,
    source: Option<IpAddr>,
    rpc: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug)]
struct Noted {
    result: AuditResult,
    message: String,
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
}

/// Writings in a row after which those of nobody are written only each so many: a flood that goes on is an entry every ten minutes,
/// and the log, which nobody may shorten, does not grow by it without end.
const LASTING: u32 = 6;
const EACH_OF_LASTING: u32 = 60;

#[derive(Debug, Default)]
struct Heap {
    /// Writings in a row that had something of nobody.
    lasting: u32,
    kinds: BTreeMap<Kind, Noted>,
    /// Kinds of nobody among them.
    of_nobody: usize,
    /// Those that found no room.
    rest: Option<Noted>,
}

/// Takes what was refused. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<Heap>>);

impl Refusals {
    /// Notes a call that was not done. Never waits for the store.
    pub fn note(&self, refused: &Refused<'_>, now: Timestamp) {
        let kind = Kind {
            nobody: *refused.identity == Identity::Anonymous,
            actor: refused.identity.to_string(),
            source: refused.source,
            rpc: refused.rpc,
            code: code_word(refused.code),
        };
        let noted = Noted {
            result: result(refused.code),
            message: escaped(refused.message),
            count: 1,
            first_at: now,
            last_at: now,
        };
        self.heap().add(kind, noted);
    }

    /// Writes what was noted each time, and once more when the token ends.
    pub async fn run(self, store: Store, every: Duration, shutdown: CancellationToken) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut away = false;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            // Broken off when the hub stops: what is not written by then is given back and written below.
            away = shutdown.run_until_cancelled(self.write(&store, away)).await.unwrap_or(away);
        }
        // The last time: nothing waits for later.
        self.heap().lasting = 0;
        if timeout(FAREWELL, self.write(&store, away)).await.is_err() {
            tracing::warn!("the last refusals are not in the audit log, the database gave no answer in time");
        }
    }

    /// Whether the store is away.
    async fn write(&self, store: &Store, was_away: bool) -> bool {
        let mut taken = Taken { heap: self.heap().take(), home: self, written: false };
        let entries = taken.heap.entries();
        if entries.is_empty() {
            return was_away;
        }
        match store.audit_refused(&entries).await {
            Ok(()) => {
                taken.written = true;
                if was_away {
                    tracing::info!(entries = entries.len(), "refused calls are written to the audit log again");
                }
                false
            }
            Err(error) => {
                if !was_away {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        "refused calls cannot be written to the audit log; they are kept and counted until they can"
                    );
                }
                true
            }
        }
    }

    /// Kinds that are kept.
    pub fn len(&self) -> usize {
        self.heap().kinds.len()
    }

    /// True when nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        let heap = self.heap();
        heap.kinds.is_empty() && heap.rest.is_none()
    }

    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is being written. Given back when it was not, also when the writing is broken off, so that nothing is lost on the way. What
/// the store had written of it before an error is written again: too much is said rather than too little.
struct Taken<'a> {
    heap: Heap,
    home: &'a Refusals,
    written: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        let Heap { kinds, rest, .. } = mem::take(&mut self.heap);
        let mut home = self.home.heap();
        for (kind, noted) in kinds {
            home.add(kind, noted);
        }
        if let Some(rest) = rest {
            home.add_to_rest(rest);
        }
    }
}

impl Heap {
    /// What is written now. In a flood that lasts, what is noted of nobody stays and is counted on.
    fn take(&mut self) -> Self {
        let of_nobody = self.of_nobody > 0 || self.rest.is_some();
        self.lasting = if of_nobody { self.lasting.saturating_add(1) } else { 0 };
        let waits = self.lasting > LASTING && !self.lasting.is_multiple_of(EACH_OF_LASTING);
        let mut taken = mem::take(self);
        self.lasting = taken.lasting;
        if waits {
            let (kept, rest) = mem::take(&mut taken.kinds).into_iter().partition(|(kind, _)| kind.nobody);
            self.kinds = kept;
            taken.kinds = rest;
            (self.of_nobody, self.rest) = (mem::take(&mut taken.of_nobody), taken.rest.take());
        }
        taken
    }

    fn add(&mut self, kind: Kind, noted: Noted) {
        if let Some(known) = self.kinds.get_mut(&kind) {
            known.join(noted);
        } else if self.kinds.len() < MOST_KINDS && (!kind.nobody || self.of_nobody < MOST_OF_NOBODY) {
            self.of_nobody += usize::from(kind.nobody);
            self.kinds.insert(kind, noted);
        } else {
            self.add_to_rest(noted);
        }
    }

    fn add_to_rest(&mut self, noted: Noted) {
        match &mut self.rest {
            Some(rest) => rest.join(noted),
            None => {
                let message = format!(
                    "more than {MOST_KINDS} different refusals at once, or {MOST_OF_NOBODY} of callers who proved nothing; these are only counted"
                );
                self.rest = Some(Noted { message, result: AuditResult::Refused, ..noted });
            }
        }
    }

    fn entries(&self) -> Vec<RefusedEntry> {
        let kinds = self.kinds.iter().map(|(kind, noted)| {
            let source = kind.source.map(|source| source.to_string()).unwrap_or_default();
            noted.entry(kind.actor.clone(), source, kind.rpc, kind.code)
        });
        let rest = self.rest.iter().map(|noted| noted.entry("others".to_owned(), String::new(), "others", "others"));
        kinds.chain(rest).collect()
    }
}

impl Noted {
    fn join(&mut self, later: Noted) {
        self.count = self.count.saturating_add(later.count);
        self.first_at = self.first_at.min(later.first_at);
        self.last_at = self.last_at.max(later.last_at);
    }

    fn entry(&self, actor: String, source: String, rpc: &str, code: &str) -> RefusedEntry {
        RefusedEntry {
            actor,
            source,
            rpc: rpc.to_owned(),
            code: code.to_owned(),
            message: self.message.clone(),
            request_id: String::new(),
            result: self.result,
            count: self.count,
            first_at: self.first_at,
            last_at: self.last_at,
        }
    }
}

/// Not allowed, or not possible.
fn result(code: Code) -> AuditResult {
    match code {
        Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted => AuditResult::Refused,
        _ => AuditResult::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(refusals: &Refusals, name: impl ToString, code: Code, second: i64) {
        let identity = Identity::ServiceToken { name: name.to_string() };
        let refused = Refused { identity: &identity, source: None, rpc: "a.B/C", code, message: "no\nno" };
        refusals.note(&refused, Timestamp::from_second(second).unwrap());
    }

    #[test]
    fn equal_refusals_become_one_entry_with_a_count() {
        let refusals = Refusals::default();
        // What was told differs each time, as it does when somebody tries one name after the other.
        let identity = Identity::ServiceToken { name: "ci".to_owned() };
        for second in 1..=5 {
            let message = format!("no\npolicy shop/{second}");
            let code = Code::PermissionDenied;
            let refused = Refused { identity: &identity, source: None, rpc: "a.B/C", code, message: &message };
            refusals.note(&refused, Timestamp::from_second(second).unwrap());
        }
        note(&refusals, "ci", Code::Aborted, 6);
        note(&refusals, "other", Code::PermissionDenied, 7);
        let entries = refusals.heap().entries();
        let shown: Vec<_> = entries.iter().map(|entry| (&*entry.actor, &*entry.code, entry.count)).collect();
        let expected =
            [("token:ci", "aborted", 1), ("token:ci", "permission_denied", 5), ("token:other", "permission_denied", 1)];
        assert_eq!(shown, expected);
        assert_eq!((entries[1].first_at.as_second(), entries[1].last_at.as_second()), (1, 5));
        assert_eq!((entries[0].result, entries[1].result), (AuditResult::Failed, AuditResult::Refused));
        assert_eq!(entries[1].message, "no\\npolicy shop/1", "the first one stands for all");
    }

    #[test]
    fn a_hundred_thousand_different_refusals_are_a_thousand_entries_and_a_number() {
        let refusals = Refusals::default();
        for n in 0..100_000 {
            note(&refusals, n, Code::PermissionDenied, n);
        }
        let entries = refusals.heap().entries();
        assert_eq!(entries.len(), MOST_KINDS + 1);
        let rest = entries.last().unwrap();
        assert_eq!((&*rest.actor, rest.count), ("others", 100_000 - MOST_KINDS as u64));
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<u64>(), 100_000);
    }

    #[test]
    fn a_flood_of_nobody_does_not_crowd_out_what_is_noted_of_a_known_caller() {
        let refusals = Refusals::default();
        for n in 0..100_000_u32 {
            let source = Some(IpAddr::V4(n.into()));
            let code = Code::Unauthenticated;
            let refused = Refused { identity: &Identity::Anonymous, source, rpc: "a.B/C", code, message: "no" };
            refusals.note(&refused, Timestamp::UNIX_EPOCH);
        }
        note(&refusals, "ci", Code::PermissionDenied, 1);
        let entries = refusals.heap().entries();
        assert_eq!(entries.len(), MOST_OF_NOBODY + 2);
        assert!(entries.iter().any(|entry| entry.actor == "token:ci"));
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<u64>(), 100_001);
    }

    #[test]
    fn a_flood_of_nobody_that_lasts_is_written_now_and_then_and_known_callers_each_time() {
        let refusals = Refusals::default();
        let (mut of_nobody, mut of_ci, mut count) = (0, 0, 0);
        for round in 0..300 {
            let refused = Refused {
                identity: &Identity::Anonymous,
                source: None,
                rpc: "a.B/C",
                code: Code::Unauthenticated,
                message: "no",
            };
            refusals.note(&refused, Timestamp::UNIX_EPOCH);
            note(&refusals, "ci", Code::PermissionDenied, round);
            let entries = refusals.heap().take().entries();
            of_ci += entries.iter().filter(|entry| entry.actor == "token:ci").count();
            let nobody: Vec<_> = entries.iter().filter(|entry| entry.actor == "anonymous").collect();
            of_nobody += nobody.len();
            count += nobody.iter().map(|entry| entry.count).sum::<u64>();
        }
        assert_eq!((of_ci, of_nobody, count), (300, 11, 300), "six at first, then each sixtieth; none is lost");
        // A time without any begins anew.
        refusals.heap().take();
        assert_eq!(refusals.heap().lasting, 0);
    }

    #[test]
    fn what_could_not_be_written_is_kept_and_counted_on() {
        let refusals = Refusals::default();
        note(&refusals, "ci", Code::PermissionDenied, 1);
        let taken = Taken { heap: mem::take(&mut *refusals.heap()), home: &refusals, written: false };
        note(&refusals, "ci", Code::PermissionDenied, 2);
        drop(taken);
        let entries = refusals.heap().entries();
        assert_eq!((entries.len(), entries[0].count), (1, 2));
        let taken = Taken { heap: mem::take(&mut *refusals.heap()), home: &refusals, written: true };
        drop(taken);
        assert!(refusals.is_empty());
    }
}
