//! What was read from AWS, shared by the planner and the observer. What of it holds, core decides
//! ([`switchyard_core::engine::Cache`]); here are only the lock, the clock, and who is woken. No IO; [`super::observer`] reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
pub use switchyard_core::engine::{Object, Reading, Ticket};
use switchyard_core::{
    arn::TargetGroupArn,
    engine::{self, Taken},
    execute::Outcome,
    observed::Observed,
    plan::step::Action,
};
use tokio::{sync::watch, time::Instant};

/// The cache, shared by the planner and the observer.
#[derive(Clone, Debug)]
pub struct Cache {
    state: Arc<Mutex<engine::Cache>>,
    version: watch::Sender<u64>,
    /// From when core counts.
    started: Instant,
}

impl Cache {
    /// An empty cache: nothing is known.
    pub fn new() -> Self {
        Self { state: Arc::default(), version: watch::Sender::new(0), started: Instant::now() }
    }

    /// Counts up with each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The time since the start of the process, as core counts it.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The present picture; cheap.
    pub fn observed(&self) -> Arc<Observed> {
        self.lock().observed().clone()
    }

    // A panic while the lock is held can only come from a broken allocation; the state is replaced field by field.
    fn lock(&self) -> MutexGuard<'_, engine::Cache> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Wakes the planner: something was read, if perhaps nothing new.
    pub fn was_read(&self) {
        self.changed();
    }

    /// Starts a read.
    pub fn ticket(&self, object: Object) -> Ticket {
        self.lock().ticket(object)
    }

    /// Takes what a read brought. False: something was written meanwhile, read again.
    pub fn store(&self, ticket: &Ticket, reading: Reading, now: Timestamp) -> bool {
        let taken = self.lock().store(ticket, reading, now, self.elapsed());
        if taken == Taken::News {
            self.changed();
        }
        taken != Taken::TooOld
    }

    /// Forgets everything but the account's limits, and makes the reads under way worthless: another holder of the lease may
    /// have written since they began.
    pub fn reset(&self) {
        self.lock().reset();
        self.changed();
    }

    /// Takes why something cannot be read at this moment; none: every reading works.
    pub fn set_trouble(&self, trouble: Option<String>) {
        let news = self.lock().set_trouble(trouble);
        if news {
            self.changed();
        }
    }

    /// True unless the object is part of something that is not there any more, as far as is known.
    pub fn is_listed(&self, object: &Object) -> bool {
        self.lock().is_listed(object)
    }

    /// True when the object was written and not read since.
    pub fn is_unread(&self, object: &Object) -> bool {
        self.lock().is_unread(object)
    }

    /// How long ago the targets of a group were read; none: never.
    pub fn targets_age(&self, group: &TargetGroupArn) -> Option<Duration> {
        self.lock().targets_age(group, self.elapsed())
    }

    /// When the targets of each group were last read, by the clock that says `now` at this moment.
    pub fn health_read(&self, now: Timestamp) -> BTreeMap<TargetGroupArn, Timestamp> {
        self.lock().health_read(self.elapsed(), now)
    }

    /// True when more targets of some group fail their health checks than in an earlier picture.
    pub fn got_worse(&self, since: &Observed) -> bool {
        engine::got_worse(since, &self.observed())
    }

    /// Makes what an action touches unknown, before its call is made.
    pub fn invalidate(&self, action: &Action) {
        self.lock().invalidate(action);
        self.changed();
    }

    /// Takes what became of a call, and names what has to be read back.
    pub fn settle(&self, action: &Action, outcome: &Outcome) -> Vec<Object> {
        let objects = self.lock().settle(action, outcome);
        self.changed();
        objects
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
