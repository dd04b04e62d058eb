//! How often somebody may call. One bucket for each caller and kind of call, one for each source address and kind of nuisance, in
//! tables that never grow past a bound: when one is full, the half that was idle the longest is forgotten, which gives an idle caller
//! his full burst back and takes nothing from a busy one. Keys are hashes, so that a name's length costs nothing. No IO.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use switchyard_core::access::Identity;

use crate::door::source_of;

/// Callers or addresses that one table remembers: 50,000 entries of 16 bytes and their slots are below 2 MB.
pub const MOST_KEYS: usize = 50_000;
/// What a development hub multiplies rates with: no test and no load driver on the same machine is held up, a loop gone wild is.
const DEVELOPMENT_FACTOR: u32 = 100;
/// Tokens of issuers that one address may have refused before none from there is looked at, in paces of refused proofs: by default 200 a
/// second, whose signatures cost some 2 % of a processor (0.1 ms each). Far above what programs do that go on with a token that is
/// over: whoever shares their address must not be held up by them.
const SIGNATURES_FACTOR: u32 = 40;

/// So many in a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// In a second, lasting.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Pace {
    /// A pace; 0 counts as 1.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    fn times(self, factor: u32) -> Self {
        Self::new(self.per_second.get().saturating_mul(factor), self.burst.get().saturating_mul(factor))
    }

    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// All paces and numbers of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRates {
    /// Reads of one caller, opening of streams included; default 50:200.
    pub reads: Pace,
    /// Changes of one caller; default 10:40.
    pub changes: Pace,
    /// Proofs from one address that were not accepted; default 5:50.
    pub failures: Pace,
    /// Enrolments from one address; default 10:100, since many agents may stand behind one.
    pub enrolments: Pace,
    /// Questions for health from one address, which need no proof; default 50:200.
    pub health: Pace,
    /// Changes of policies by the resources of one cluster; default 10:4000: at once everything that it may have,
    /// twice. Not below 7 a second: an agent sends 8 messages of 50 ahead, and gives a hub up that has not stored them within a minute.
    pub source_changes: Pace,
    /// Streams of one caller at a time; default 256.
    pub streams: usize,
    /// Streams of all callers at a time; default 8192.
    pub all_streams: usize,
}

impl Default for AccessRates {
    fn default() -> Self {
        Self {
            reads: Pace::new(50, 200),
            changes: Pace::new(10, 40),
            failures: Pace::new(5, 50),
            enrolments: Pace::new(10, 100),
            health: Pace::new(50, 200),
            source_changes: Pace::new(10, 4000),
            streams: 256,
            all_streams: 8192,
        }
    }
}

impl AccessRates {
    /// For `--dev`: a hundred times as much, and as many streams of one caller as of all.
    pub fn development(self) -> Self {
        let factor = DEVELOPMENT_FACTOR;
        Self {
            reads: self.reads.times(factor),
            changes: self.changes.times(factor),
            failures: self.failures.times(factor),
            enrolments: self.enrolments.times(factor),
            health: self.health.times(factor),
            source_changes: self.source_changes.times(factor),
            streams: self.all_streams,
            all_streams: self.all_streams,
        }
    }
}

/// What is counted for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Reads and the opening of streams, by caller.
    Reads,
    /// Changes, by caller.
    Changes,
    /// Refused proofs, by address.
    Failures,
    /// Refused tokens of issuers, by address, when they are so many that no more of them is looked at.
    Signatures,
    /// Enrolments, by address.
    Enrolments,
    /// Questions for health, by address.
    Health,
}

impl Bucket {
    /// A word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Bucket::Reads => "reads",
            Bucket::Changes => "changes",
            Bucket::Failures => "failures",
            Bucket::Signatures => "signatures",
            Bucket::Enrolments => "enrolments",
            Bucket::Health => "health",
        }
    }
}

/// Too many, with the time until the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Which bucket is empty.
    pub bucket: Bucket,
    /// What it allows.
    pub pace: Pace,
    /// Until there is room for one.
    pub wait: Duration,
}

impl TooMany {
    /// Whole seconds to wait, at least one.
    pub fn seconds(&self) -> u64 {
        let up = u64::from(self.wait.subsec_nanos() > 0);
        (self.wait.as_secs() + up).max(1)
    }
}

/// Times of buckets by the hash of their key, bounded.
#[derive(Debug)]
struct Table {
    most: usize,
    times: Mutex<HashMap<u64, Nanos>>,
}

impl Table {
    fn new(most: usize) -> Self {
        Self { most, times: Mutex::default() }
    }

    fn times(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Nanos>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room: the half whose buckets would be full first is what was idle longest. Costs a millisecond once in 25,000 new keys.
fn forget_half(times: &mut HashMap<u64, Nanos>) {
    let mut order: Vec<u64> = times.values().map(|time| time.as_u64()).collect();
    let middle = order.len() / 2;
    let (_, median, _) = order.select_nth_unstable(middle);
    let median = *median;
    let most = times.len().saturating_sub(middle);
    times.retain(|_, time| time.as_u64() > median);
    // All of the same time, and that time is the median: none of them is better than another.
    if times.len() > most {
        times.clear();
    }
}

/// A bucket, and whether something is taken out of it or only asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    key: u64,
    take: bool,
}

impl StateStore for Table {
    type Key = Asked;

    fn measure_and_replace<T, F, E>(&self, &Asked { key, take }: &Asked, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut times = self.times();
        let known = times.get(&key).copied();
        let (answer, time) = decide(known)?;
        if !take {
            return Ok(answer);
        }
        if known.is_none() && times.len() >= self.most {
            forget_half(&mut times);
        }
        times.insert(key, time);
        Ok(answer)
    }
}

impl ShrinkableKeyedStateStore<Asked> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        self.times().retain(|_, time| *time > drop_below);
    }

    fn shrink_to_fit(&self) {
        self.times().shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.times().len()
    }

    fn is_empty(&self) -> bool {
        self.times().is_empty()
    }
}

struct Limiter<C: Clock> {
    bucket: Bucket,
    pace: Pace,
    inner: RateLimiter<Asked, Table, C, NoOpMiddleware<C::Instant>>,
}

impl<C: Clock> Limiter<C> {
    fn new(bucket: Bucket, pace: Pace, most: usize, clock: C) -> Self {
        Self { bucket, pace, inner: RateLimiter::new(pace.quota(), Table::new(most), clock) }
    }

    fn take(&self, key: u64) -> Result<(), TooMany> {
        self.ask(Asked { key, take: true })
    }

    fn ask(&self, asked: Asked) -> Result<(), TooMany> {
        self.inner.check_key(&asked).map_err(|until| {
            let wait = until.wait_time_from(self.inner.clock().now());
            TooMany { bucket: self.bucket, pace: self.pace, wait }
        })
    }
}

/// The buckets of all callers and addresses.
pub struct Rates<C: Clock = DefaultClock> {
    hasher: RandomState,
    reads: Limiter<C>,
    changes: Limiter<C>,
    failures: Limiter<C>,
    signatures: Limiter<C>,
    enrolments: Limiter<C>,
    health: Limiter<C>,
}

impl Rates {
    /// Full buckets.
    pub fn new(rates: &AccessRates) -> Self {
        Self::with(rates, MOST_KEYS, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with(rates: &AccessRates, most: usize, clock: C) -> Self {
        Self {
            // Random for each process: nobody can choose names that share a bucket.
            hasher: RandomState::new(),
            reads: Limiter::new(Bucket::Reads, rates.reads, most, clock.clone()),
            changes: Limiter::new(Bucket::Changes, rates.changes, most, clock.clone()),
            failures: Limiter::new(Bucket::Failures, rates.failures, most, clock.clone()),
            signatures: Limiter::new(Bucket::Signatures, rates.failures.times(SIGNATURES_FACTOR), most, clock.clone()),
            enrolments: Limiter::new(Bucket::Enrolments, rates.enrolments, most, clock.clone()),
            health: Limiter::new(Bucket::Health, rates.health, most, clock),
        }
    }
}

impl<C: Clock> Rates<C> {
    /// One call more of this caller.
    ///
    /// # Errors
    /// [`TooMany`] when there was no room for it.
    pub fn caller(&self, identity: &Identity, change: bool) -> Result<(), TooMany> {
        let key = caller_key(&self.hasher, identity);
        if change { self.changes.take(key) } else { self.reads.take(key) }
    }

    /// One refused proof more from this address.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
    pub fn failure(&self, source: Option<IpAddr>) -> Result<(), TooMany> {
        self.failures.take(self.hasher.hash_one(source.map(source_of)))
    }

    /// Is there room for a refused token of an issuer from this address? Takes none.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
    pub fn signatures_left(&self, source: Option<IpAddr>) -> Result<(), TooMany> {
        self.signatures.ask(Asked { key: self.hasher.hash_one(source.map(source_of)), take: false })
    }

    /// One refused token of an issuer more from this address.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
    pub fn signature(&self, source: Option<IpAddr>) -> Result<(), TooMany> {
        self.signatures.take(self.hasher.hash_one(source.map(source_of)))
    }

    /// One enrolment more from this address.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
    pub fn enrolment(&self, source: Option<IpAddr>) -> Result<(), TooMany> {
        self.enrolments.take(self.hasher.hash_one(source.map(source_of)))
    }

    /// One question for health more from this address.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
    pub fn health(&self, source: Option<IpAddr>) -> Result<(), TooMany> {
        self.health.take(self.hasher.hash_one(source.map(source_of)))
    }

    fn all(&self) -> [&Limiter<C>; 6] {
        [&self.reads, &self.changes, &self.failures, &self.signatures, &self.enrolments, &self.health]
    }

    /// Forgets everybody whose buckets are full again.
    pub fn tidy(&self) {
        for limiter in self.all() {
            limiter.inner.retain_recent();
            if limiter.inner.is_empty() {
                limiter.inner.shrink_to_fit();
            }
        }
    }

    /// Buckets that are remembered.
    pub fn len(&self) -> usize {
        self.all().iter().map(|limiter| limiter.inner.len()).sum()
    }

    /// True when no bucket is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who is one caller: an agent stays the same when its certificate is renewed, and a user when his groups change.
pub(super) fn caller_key(hasher: &RandomState, identity: &Identity) -> u64 {
    match identity {
        Identity::Agent { cluster, .. } => hasher.hash_one(("agent", cluster)),
        Identity::Jwt { issuer, user, .. } => hasher.hash_one(("jwt", issuer, user)),
        other => hasher.hash_one(other),
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn token(name: impl ToString) -> Identity {
        Identity::ServiceToken { name: name.to_string() }
    }

    fn paces() -> AccessRates {
        AccessRates { reads: Pace::new(50, 200), changes: Pace::new(10, 40), ..AccessRates::default() }
    }

    #[test]
    fn a_caller_who_has_spent_his_burst_waits_for_as_long_as_he_is_told() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::with(&paces(), 100, clock.clone());
        for _ in 0..40 {
            rates.caller(&token("ci"), true).unwrap();
        }
        let refused = rates.caller(&token("ci"), true).unwrap_err();
        assert_eq!((refused.bucket, refused.wait), (Bucket::Changes, Duration::from_millis(100)));
        assert_eq!(refused.seconds(), 1);
        clock.advance(refused.wait);
        rates.caller(&token("ci"), true).unwrap();
        rates.caller(&token("ci"), true).unwrap_err();
    }

    #[test]
    fn neither_another_caller_nor_another_kind_of_call_pays_for_it() {
        let rates = Rates::with(&paces(), 100, FakeRelativeClock::default());
        while rates.caller(&token("loop"), true).is_ok() {}
        rates.caller(&token("ci"), true).unwrap();
        rates.caller(&token("loop"), false).unwrap();
        let source = Some("10.0.0.7".parse().unwrap());
        while rates.failure(source).is_ok() {}
        rates.enrolment(source).unwrap();
        assert_eq!((0..1000).take_while(|_| rates.health(source).is_ok()).count(), 200);
        rates.failure(Some("10.0.0.8".parse().unwrap())).unwrap();
        // A network of IPv6 is one source.
        while rates.failure(Some("2001:db8:1:2::1".parse().unwrap())).is_ok() {}
        rates.failure(Some("2001:db8:1:2::2".parse().unwrap())).unwrap_err();
    }

    #[test]
    fn asking_for_room_takes_none_and_many_more_signatures_than_proofs_may_be_refused() {
        let (clock, source) = (FakeRelativeClock::default(), Some("10.0.0.7".parse().unwrap()));
        let rates = Rates::with(&AccessRates { failures: Pace::new(1, 2), ..paces() }, 100, clock.clone());
        for _ in 0..1000 {
            rates.signatures_left(source).unwrap();
        }
        assert!(rates.is_empty(), "who only asks is not remembered");
        let refused = (0..1000).take_while(|_| rates.signature(source).is_ok()).count();
        assert_eq!(refused, 2 * SIGNATURES_FACTOR as usize);
        let full = rates.signatures_left(source).unwrap_err();
        assert_eq!((full.bucket, full.wait), (Bucket::Signatures, Duration::from_millis(25)));
        rates.signatures_left(Some("10.0.0.8".parse().unwrap())).unwrap();
        clock.advance(full.wait);
        rates.signatures_left(source).unwrap();
    }

    #[test]
    fn a_new_certificate_and_new_groups_bring_no_new_bucket() {
        let rates = Rates::with(&paces(), 100, FakeRelativeClock::default());
        let agent = |serial: u32| Identity::Agent { cluster: "blue".parse().unwrap(), serial: serial.to_string() };
        let calls = (0..1000).take_while(|serial| rates.caller(&agent(*serial), true).is_ok()).count();
        assert_eq!(calls, 40);
        let user = |group: u32| Identity::Jwt {
            issuer: "corp".into(),
            user: "ann".into(),
            groups: [group.to_string()].into(),
        };
        let calls = (0..1000).take_while(|group| rates.caller(&user(*group), true).is_ok()).count();
        assert_eq!(calls, 40);
    }

    #[test]
    fn a_hundred_thousand_names_stay_within_the_bound_and_do_not_reset_the_busy() {
        let (most, clock) = (1000, FakeRelativeClock::default());
        let rates = Rates::with(&paces(), most, clock.clone());
        let mut busy = 0;
        for n in 0..100_000 {
            rates.caller(&token(n), true).unwrap();
            // Six times as often as its rate allows.
            if n % 16 == 0 {
                clock.advance(Duration::from_millis(16));
                busy += u32::from(rates.caller(&token("busy"), true).is_ok());
            }
            assert!(rates.len() <= most);
        }
        // 100 s at 10 a second, and its burst once.
        assert!((900..=1100).contains(&busy), "{busy}");
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::with(&paces(), 100, clock.clone());
        rates.caller(&token("ci"), true).unwrap();
        rates.failure(None).unwrap();
        rates.tidy();
        assert_eq!(rates.len(), 2);
        clock.advance(Duration::from_secs(60));
        rates.tidy();
        assert!(rates.is_empty());
    }

    #[test]
    fn a_table_whose_keys_are_all_of_one_time_makes_room_too() {
        let mut times: HashMap<u64, Nanos> = (0..10).map(|key| (key, Nanos::new(7))).collect();
        forget_half(&mut times);
        assert!(times.is_empty());
        let mut times: HashMap<u64, Nanos> = (0..10).map(|key| (key, Nanos::new(key))).collect();
        forget_half(&mut times);
        let mut kept: Vec<u64> = times.into_keys().collect();
        kept.sort_unstable();
        assert_eq!(kept, [6, 7, 8, 9]);
    }
}
