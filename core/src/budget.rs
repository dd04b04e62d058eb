//! The request budget towards AWS as a machine: one token bucket for each of the API's own buckets of an (account, region),
//! waiters served by class and then by arrival, a reserve that only the most urgent class may use, and a slower pace for a while
//! after AWS said "slower". Time comes in as the duration since any fixed moment of a monotonic clock; nothing here waits.
//! Tests are in `core/tests/budget.rs`.

use std::{collections::BTreeSet, time::Duration};

/// Buckets in which AWS counts calls (page "Request throttling for the Elastic Load Balancing API"; AWS.md C4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Describe*.
    Describe,
    /// Create*, Modify*, Delete*, SetRulePriorities, AddTags.
    Modify,
    /// RegisterTargets and DeregisterTargets.
    Register,
}

impl Bucket {
    /// All buckets.
    pub const ALL: [Bucket; 3] = [Bucket::Describe, Bucket::Modify, Bucket::Register];

    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Describe => "describe",
            Bucket::Modify => "modify",
            Bucket::Register => "register",
        }
    }

    /// The most urgent class that has calls in this bucket: the reserve is kept for it and for anything more urgent.
    fn first_class(self) -> Class {
        match self {
            Bucket::Describe => Class::Read,
            Bucket::Modify => Class::WeightShift,
            Bucket::Register => Class::DeregisterDead,
        }
    }

    fn index(self) -> usize {
        match self {
            Bucket::Describe => 0,
            Bucket::Modify => 1,
            Bucket::Register => 2,
        }
    }
}

/// How urgent a call is; the first is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A change of weights: flips and failover.
    WeightShift,
    /// Taking dead targets out.
    DeregisterDead,
    /// Putting targets in.
    Register,
    /// Everything that makes or removes groups and rules.
    Create,
    /// A read that somebody waits for, such as the read-back after a write.
    Read,
    /// A read that nobody waits for.
    Audit,
}

impl Class {
    /// All classes, the most urgent first.
    pub const ALL: [Class; 6] =
        [Class::WeightShift, Class::DeregisterDead, Class::Register, Class::Create, Class::Read, Class::Audit];
}

/// A rate that is not usable.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a budget of {per_second} calls a second with a burst of {burst} is not usable; use a rate above 0 up to 1000 and a burst of 1 to 10000"
)]
pub struct RateError {
    /// As given.
    pub per_second: f64,
    /// As given.
    pub burst: u32,
}

/// Calls per second, and how many may be made at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: u32,
}

impl Rate {
    /// Checks and takes both numbers.
    ///
    /// # Errors
    /// [`RateError`] when the rate is not above 0 and at most 1000, or the burst not 1..=10000.
    pub fn new(per_second: f64, burst: u32) -> Result<Self, RateError> {
        // A NaN fails the first comparison.
        if per_second > 0.0 && per_second <= 1000.0 && (1..=10_000).contains(&burst) {
            Ok(Self { per_second, burst })
        } else {
            Err(RateError { per_second, burst })
        }
    }

    /// Calls per second, above 0, at most 1000.
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// 1..=10000.
    pub fn burst(self) -> u32 {
        self.burst
    }
}

/// The rates of all buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// For [`Bucket::Describe`].
    pub describe: Rate,
    /// For [`Bucket::Modify`].
    pub modify: Rate,
    /// For [`Bucket::Register`].
    pub register: Rate,
}

impl Default for Rates {
    /// What the AWS Load Balancer Controller uses since 2026-03 for the writing buckets; for the reading one the older and
    /// smaller figure of AWS's own page, which may still hold in some partitions (AWS.md C4).
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self { describe: rate(10.0, 40), modify: rate(3.0, 20), register: rate(4.0, 20) }
    }
}

/// The share of each burst that is kept for the most urgent class, in percent (DESIGN section 8).
pub const RESERVE_PERCENT: u32 = 25;
/// Throttled answers within this time count as one: they belong to calls that were under way together.
const SAME_EVENT: Duration = Duration::from_secs(1);
/// The pace never falls below this part of the rate: at 3 calls a second a flip still leaves within 6 seconds.
const SLOWEST: f64 = 1.0 / 16.0;
/// After each such time without a throttled answer the pace grows by [`RAISE`]: from a half back to full in 20 seconds.
const RAISE_EVERY: Duration = Duration::from_secs(5);
/// A part of the configured rate, so that the growth is additive while the fall is multiplicative.
const RAISE: f64 = 1.0 / 8.0;
/// Sums of fractions of tokens are compared with this tolerance; it is far below what one call costs.
const TOLERANCE: f64 = 1e-6;

/// A place in the queue of a bucket. The order is the order of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    class: Class,
    number: u64,
    bucket: Bucket,
}

impl Ticket {
    /// The bucket it waits for.
    pub fn bucket(self) -> Bucket {
        self.bucket
    }
}

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Go: the token is taken and the place given up.
    Ready,
    /// First in line; the token is there at this time, unless AWS throttles meanwhile.
    WaitUntil(Duration),
    /// Somebody else is first; ask again when [`Limiter::head`] names this ticket.
    Behind,
}

/// Figures of one bucket, for metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketView {
    /// Which.
    pub bucket: Bucket,
    /// Tokens at hand.
    pub tokens: f64,
    /// The present pace in calls per second; the configured rate unless AWS throttled lately.
    pub per_second: f64,
    /// Waiters.
    pub waiting: usize,
    /// Calls admitted so far, by class in the order of [`Class::ALL`].
    pub admitted: [u64; Class::ALL.len()],
    /// Throttled answers so far.
    pub throttled: u64,
}

#[derive(Clone, Copy, Debug)]
struct Tokens {
    rate: Rate,
    reserve: f64,
    tokens: f64,
    at: Duration,
    /// The present part of the rate, [`SLOWEST`]..=1.
    pace: f64,
    /// When the pace grows next; means nothing at full pace.
    raise_at: Duration,
}

impl Tokens {
    fn new(rate: Rate, reserve_percent: u32) -> Self {
        let share = (f64::from(rate.burst) * f64::from(reserve_percent.min(100)) / 100.0).ceil();
        // At least one token, but one must remain for everybody else: with a burst of 1 there is nothing to reserve.
        let reserve = share.max(1.0).min(f64::from(rate.burst - 1));
        Self { rate, reserve, tokens: f64::from(rate.burst), at: Duration::ZERO, pace: 1.0, raise_at: Duration::ZERO }
    }

    fn per_second(&self) -> f64 {
        self.rate.per_second * self.pace
    }

    fn fill(&mut self, to: Duration) {
        let passed = to.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + self.per_second() * passed).min(f64::from(self.rate.burst));
        self.at = self.at.max(to);
    }

    /// The pace changes in steps, and each stretch fills at its own pace.
    fn advance(&mut self, now: Duration) {
        while self.pace < 1.0 && self.raise_at <= now {
            self.fill(self.raise_at);
            self.pace = (self.pace + RAISE).min(1.0);
            self.raise_at += RAISE_EVERY;
        }
        self.fill(now);
    }

    /// When this many tokens will be there; at most the burst, so that the time always comes.
    fn time_of(mut self, level: f64) -> Duration {
        loop {
            let missing = (level - self.tokens).max(0.0);
            // Rounded up: a waiter that wakes a nanosecond early would wait once more.
            let reached = self.at + Duration::from_secs_f64(missing / self.per_second()) + Duration::from_nanos(1);
            if self.pace >= 1.0 || reached <= self.raise_at {
                return reached;
            }
            self.advance(self.raise_at);
        }
    }
}

#[derive(Clone, Debug)]
struct State {
    bucket: Bucket,
    tokens: Tokens,
    queue: BTreeSet<Ticket>,
    slowed_at: Option<Duration>,
    admitted: [u64; Class::ALL.len()],
    throttled: u64,
}

impl State {
    fn level(&self, class: Class) -> f64 {
        if class <= self.bucket.first_class() { 1.0 } else { 1.0 + self.tokens.reserve }
    }

    fn take(&mut self, class: Class) -> bool {
        let enough = self.tokens.tokens + TOLERANCE >= self.level(class);
        if enough {
            self.tokens.tokens = (self.tokens.tokens - 1.0).max(0.0);
            if let Some(count) = self.admitted.get_mut(class as usize) {
                *count += 1;
            }
        }
        enough
    }
}

/// The buckets of one (account, region).
#[derive(Clone, Debug)]
pub struct Limiter {
    states: [State; Bucket::ALL.len()],
    next: u64,
}

impl Limiter {
    /// Full buckets, of which `reserve_percent` of each burst is kept for the most urgent class.
    pub fn new(rates: Rates, reserve_percent: u32) -> Self {
        let state = |bucket: Bucket| State {
            bucket,
            tokens: Tokens::new(
                match bucket {
                    Bucket::Describe => rates.describe,
                    Bucket::Modify => rates.modify,
                    Bucket::Register => rates.register,
                },
                reserve_percent,
            ),
            queue: BTreeSet::new(),
            slowed_at: None,
            admitted: [0; Class::ALL.len()],
            throttled: 0,
        };
        Self { states: Bucket::ALL.map(state), next: 0 }
    }

    fn state(&mut self, bucket: Bucket) -> &mut State {
        &mut self.states[bucket.index()]
    }

    /// Takes a place in the queue.
    pub fn join(&mut self, bucket: Bucket, class: Class) -> Ticket {
        let number = self.next;
        self.next += 1;
        let ticket = Ticket { class, number, bucket };
        self.state(bucket).queue.insert(ticket);
        ticket
    }

    /// Asks whether it is this waiter's turn. A ticket that was served or given up joins again.
    pub fn poll(&mut self, ticket: Ticket, now: Duration) -> Turn {
        let state = self.state(ticket.bucket);
        state.queue.insert(ticket);
        if state.queue.first() != Some(&ticket) {
            return Turn::Behind;
        }
        state.tokens.advance(now);
        if state.take(ticket.class) {
            state.queue.remove(&ticket);
            return Turn::Ready;
        }
        Turn::WaitUntil(state.tokens.time_of(state.level(ticket.class)))
    }

    /// Gives the place up.
    pub fn leave(&mut self, ticket: Ticket) {
        self.state(ticket.bucket).queue.remove(&ticket);
    }

    /// Who is first in line.
    pub fn head(&self, bucket: Bucket) -> Option<Ticket> {
        self.states[bucket.index()].queue.first().copied()
    }

    /// Takes a token if it is there now and nobody as urgent waits for it.
    pub fn try_acquire(&mut self, bucket: Bucket, class: Class, now: Duration) -> bool {
        let state = self.state(bucket);
        state.tokens.advance(now);
        let somebody_waits = state.queue.first().is_some_and(|head| head.class <= class);
        !somebody_waits && state.take(class)
    }

    /// AWS throttled a call: its bucket is empty, whoever emptied it, and calls leave at half the pace for a while.
    pub fn throttled(&mut self, bucket: Bucket, now: Duration) {
        let state = self.state(bucket);
        state.tokens.advance(now);
        state.throttled += 1;
        let same_event = state.slowed_at.is_some_and(|before| now.saturating_sub(before) < SAME_EVENT);
        if same_event {
            return;
        }
        state.slowed_at = Some(now);
        state.tokens.tokens = 0.0;
        state.tokens.pace = (state.tokens.pace / 2.0).max(SLOWEST);
        state.tokens.raise_at = state.tokens.at + RAISE_EVERY;
    }

    /// Figures of all buckets.
    pub fn views(&mut self, now: Duration) -> [BucketView; Bucket::ALL.len()] {
        Bucket::ALL.map(|bucket| {
            let state = self.state(bucket);
            state.tokens.advance(now);
            BucketView {
                bucket,
                tokens: state.tokens.tokens,
                per_second: state.tokens.per_second(),
                waiting: state.queue.len(),
                admitted: state.admitted,
                throttled: state.throttled,
            }
        })
    }
}
