//! The request budget as something to wait for: the machine is [`switchyard_core::budget`], here are the clock, the lock and
//! the wake-ups. All clones share one account's buckets. Knows nothing of AWS's API.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use switchyard_core::budget::{Bucket, BucketView, Class, Limiter, RESERVE_PERCENT, Rates, Ticket, Turn};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The buckets of one (account, region).
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    /// The machine counts time from here.
    origin: Instant,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    limiter: Limiter,
    /// One bell a waiter: only the one whose turn it may be is woken, however long the queue is.
    bells: HashMap<Ticket, Arc<Notify>>,
}

impl Shared {
    // The machine's steps are total, so that a panic while the lock is held leaves nothing half-done.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Waiting {
    fn wake_first(&self, bucket: Bucket) {
        if let Some(bell) = self.limiter.head(bucket).and_then(|head| self.bells.get(&head)) {
            bell.notify_one();
        }
    }
}

impl Budget {
    /// Full buckets; a quarter of each burst is kept for the most urgent class.
    pub fn new(rates: Rates) -> Self {
        Self {
            shared: Arc::new(Shared {
                origin: Instant::now(),
                waiting: Mutex::new(Waiting { limiter: Limiter::new(rates, RESERVE_PERCENT), bells: HashMap::new() }),
            }),
        }
    }

    /// Waits for a token; the most urgent waiter is served first. Dropping the future frees its place.
    pub async fn acquire(&self, bucket: Bucket, class: Class) {
        let place = Place::take(&self.shared, bucket, class);
        loop {
            let turn = place.poll();
            match turn {
                Turn::Ready => return,
                Turn::Behind => place.bell.notified().await,
                Turn::WaitUntil(at) => {
                    tokio::select! {
                        () = sleep_until(self.shared.origin + at) => {}
                        () = place.bell.notified() => {}
                    }
                }
            }
        }
    }

    /// Takes a token if there is one now and nobody as urgent waits for it.
    pub fn try_acquire(&self, bucket: Bucket, class: Class) -> bool {
        let now = self.shared.now();
        self.shared.lock().limiter.try_acquire(bucket, class, now)
    }

    /// AWS throttled a call of this bucket.
    pub fn throttled(&self, bucket: Bucket) {
        let now = self.shared.now();
        self.shared.lock().limiter.throttled(bucket, now);
    }

    /// Figures of all buckets, for metrics.
    pub fn snapshot(&self) -> [BucketView; Bucket::ALL.len()] {
        let now = self.shared.now();
        self.shared.lock().limiter.views(now)
    }
}

/// A waiter's place in the queue, given up when dropped.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    bell: Arc<Notify>,
}

impl<'a> Place<'a> {
    fn take(shared: &'a Shared, bucket: Bucket, class: Class) -> Self {
        let bell = Arc::new(Notify::new());
        let mut waiting = shared.lock();
        let ticket = waiting.limiter.join(bucket, class);
        waiting.bells.insert(ticket, Arc::clone(&bell));
        Self { shared, ticket, bell }
    }

    fn poll(&self) -> Turn {
        let now = self.shared.now();
        self.shared.lock().limiter.poll(self.ticket, now)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.limiter.leave(self.ticket);
        waiting.bells.remove(&self.ticket);
        // Served or gone: in both cases somebody else is first now.
        waiting.wake_first(self.ticket.bucket());
    }
}
