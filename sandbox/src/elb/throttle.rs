//! Token buckets per class of call. The time comes in as an argument; must not import the state or HTTP.

use std::time::Instant;

use super::{
    calls::Class,
    config::{BucketLimit, RateLimits},
};

#[derive(Debug)]
struct Bucket {
    limit: BucketLimit,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(limit: BucketLimit, now: Instant) -> Self {
        Self { limit, tokens: limit.burst, at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.limit.rate).min(self.limit.burst);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// The three buckets of one account and region, shared by all callers.
#[derive(Debug)]
pub struct Throttle {
    describe: Bucket,
    mutate: Bucket,
    register: Bucket,
}

impl Throttle {
    pub fn new(limits: RateLimits, now: Instant) -> Self {
        Self {
            describe: Bucket::new(limits.describe, now),
            mutate: Bucket::new(limits.mutate, now),
            register: Bucket::new(limits.register, now),
        }
    }

    /// Takes a token for one call; false means that the call is throttled.
    pub fn take(&mut self, class: Class, now: Instant) -> bool {
        self.bucket(class).take(now)
    }

    /// Replaces one bucket by a full one with the new limit.
    pub fn set(&mut self, class: Class, limit: BucketLimit, now: Instant) {
        *self.bucket(class) = Bucket::new(limit, now);
    }

    pub fn limits(&self) -> RateLimits {
        RateLimits { describe: self.describe.limit, mutate: self.mutate.limit, register: self.register.limit }
    }

    fn bucket(&mut self, class: Class) -> &mut Bucket {
        match class {
            Class::Describe => &mut self.describe,
            Class::Mutate => &mut self.mutate,
            Class::Register | Class::Deregister => &mut self.register,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_granted_then_calls_pass_at_the_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(RateLimits::default(), start);
        let granted = (0..100).filter(|_| throttle.take(Class::Mutate, start)).count();
        assert_eq!(granted, 20);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| throttle.take(Class::Mutate, later)).count(), 3);
    }

    #[test]
    fn register_and_deregister_share_a_bucket_that_others_do_not_drain() {
        let start = Instant::now();
        let mut throttle = Throttle::new(RateLimits::default(), start);
        let first = (0..15).filter(|_| throttle.take(Class::Register, start)).count();
        let second = (0..15).filter(|_| throttle.take(Class::Deregister, start)).count();
        assert_eq!((first, second), (15, 5));
        assert!(throttle.take(Class::Mutate, start) && throttle.take(Class::Describe, start));
    }

    #[test]
    fn a_clock_that_goes_back_grants_nothing_extra() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut throttle = Throttle::new(RateLimits::default(), start);
        while throttle.take(Class::Mutate, start) {}
        assert!(!throttle.take(Class::Mutate, start - Duration::from_secs(5)));
        assert!(!throttle.take(Class::Mutate, start));
    }
}
