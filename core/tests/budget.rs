//! The request budget: order, reserve, rate, and what happens after AWS throttled.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use switchyard_core::budget::{Bucket, Class, Limiter, RESERVE_PERCENT, Rate, Rates, Ticket, Turn};

fn rates(per_second: f64, burst: u32) -> Rates {
    let rate = Rate::new(per_second, burst).unwrap();
    Rates { describe: rate, modify: rate, register: rate }
}

fn limiter(per_second: f64, burst: u32) -> Limiter {
    Limiter::new(rates(per_second, burst), RESERVE_PERCENT)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn drain(limiter: &mut Limiter, bucket: Bucket, class: Class, now: Duration) -> usize {
    (0..100_000).take_while(|_| limiter.try_acquire(bucket, class, now)).count()
}

/// Waits for a ticket as the shell does, and gives the time at which it was served.
fn wait(limiter: &mut Limiter, ticket: Ticket, mut now: Duration) -> Duration {
    for _ in 0..100 {
        match limiter.poll(ticket, now) {
            Turn::Ready => return now,
            Turn::WaitUntil(at) => {
                assert!(at > now, "a waiter must not spin");
                now = at;
            }
            Turn::Behind => panic!("{ticket:?} is alone but not first"),
        }
    }
    panic!("{ticket:?} was not served");
}

#[test]
fn rates_out_of_bounds_are_refused_with_the_remedy() {
    for (per_second, burst) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (1000.1, 1), (1.0, 0), (1.0, 10_001)] {
        let error = Rate::new(per_second, burst).unwrap_err().to_string();
        assert!(error.contains("use a rate above 0"), "{error}");
    }
}

#[test]
fn a_flip_never_waits_behind_registrations_and_creations() {
    let mut limiter = limiter(3.0, 20);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::Create, Duration::ZERO), 15);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, Duration::ZERO), 5);
    assert_eq!(drain(&mut limiter, Bucket::Register, Class::Register, Duration::ZERO), 15);
    assert_eq!(drain(&mut limiter, Bucket::Register, Class::DeregisterDead, Duration::ZERO), 5);
    assert_eq!(drain(&mut limiter, Bucket::Describe, Class::Audit, Duration::ZERO), 15);
    assert_eq!(drain(&mut limiter, Bucket::Describe, Class::Read, Duration::ZERO), 5);
}

#[test]
fn a_newcomer_that_is_more_urgent_goes_first() {
    let mut limiter = limiter(1.0, 1);
    assert!(limiter.try_acquire(Bucket::Modify, Class::Create, Duration::ZERO));
    let create = limiter.join(Bucket::Modify, Class::Create);
    assert!(matches!(limiter.poll(create, ms(1)), Turn::WaitUntil(_)));
    let flip = limiter.join(Bucket::Modify, Class::WeightShift);
    assert_eq!(limiter.poll(create, ms(1001)), Turn::Behind);
    assert_eq!(limiter.poll(flip, ms(1001)), Turn::Ready);
    assert_eq!(limiter.head(Bucket::Modify), Some(create));
    assert_eq!(limiter.poll(create, ms(1500)), Turn::WaitUntil(ms(2001) + Duration::from_nanos(1)));
}

#[test]
fn nobody_overtakes_an_equal_that_waits() {
    let mut limiter = limiter(1.0, 1);
    assert!(limiter.try_acquire(Bucket::Modify, Class::Create, Duration::ZERO));
    let first = limiter.join(Bucket::Modify, Class::Create);
    assert!(!limiter.try_acquire(Bucket::Modify, Class::Create, ms(5000)));
    assert!(limiter.try_acquire(Bucket::Modify, Class::WeightShift, ms(5000)));
    assert!(matches!(limiter.poll(first, ms(5000)), Turn::WaitUntil(_)));
}

#[test]
fn a_place_that_is_given_up_frees_the_next() {
    let mut limiter = limiter(1.0, 2);
    let first = limiter.join(Bucket::Describe, Class::Read);
    let second = limiter.join(Bucket::Describe, Class::Read);
    assert_eq!(limiter.poll(second, ms(1)), Turn::Behind);
    limiter.leave(first);
    assert_eq!(limiter.head(Bucket::Describe), Some(second));
    assert_eq!(limiter.poll(second, ms(1)), Turn::Ready);
    assert_eq!(limiter.head(Bucket::Describe), None);
}

#[test]
fn one_throttling_event_halves_the_pace_once_and_empties_the_bucket() {
    let mut limiter = limiter(8.0, 40);
    for at in [100, 300, 900] {
        limiter.throttled(Bucket::Describe, ms(at));
    }
    let view = limiter.views(ms(900))[0];
    assert_eq!((view.per_second, view.throttled), (4.0, 3));
    assert!((view.tokens - 3.2).abs() < 1e-6, "filled at half the pace since: {}", view.tokens);
    assert_eq!(limiter.views(ms(900))[1].per_second, 8.0, "the other buckets keep their pace");
    limiter.throttled(Bucket::Describe, ms(1100));
    assert_eq!(limiter.views(ms(1100))[0].per_second, 2.0);
}

#[test]
fn the_pace_grows_back_to_full_and_never_falls_to_nothing() {
    let mut limiter = limiter(16.0, 40);
    for second in 0..20 {
        limiter.throttled(Bucket::Modify, Duration::from_secs(second * 2));
    }
    assert_eq!(limiter.views(Duration::from_secs(38))[1].per_second, 1.0);
    assert_eq!(limiter.views(Duration::from_secs(43))[1].per_second, 3.0);
    assert_eq!(limiter.views(Duration::from_secs(48))[1].per_second, 5.0);
    assert_eq!(limiter.views(Duration::from_secs(78))[1].per_second, 16.0);
}

#[test]
fn waiting_across_a_change_of_pace_ends_at_the_promised_time() {
    let mut limiter = limiter(0.1, 1);
    limiter.throttled(Bucket::Modify, Duration::ZERO);
    let ticket = limiter.join(Bucket::Modify, Class::WeightShift);
    // 0.05/s for 5 s, 0.0625/s for 5 s, 0.075/s for 5 s, then 0.0625 tokens are missing at 0.0875/s.
    let Turn::WaitUntil(at) = limiter.poll(ticket, Duration::ZERO) else { panic!("the bucket is empty") };
    assert!((at.as_secs_f64() - (15.0 + 0.0625 / 0.0875)).abs() < 1e-6, "{at:?}");
    assert!(matches!(limiter.poll(ticket, at - ms(1)), Turn::WaitUntil(_)));
    assert_eq!(limiter.poll(ticket, at), Turn::Ready);
}

#[test]
fn a_clock_that_steps_back_makes_no_tokens() {
    let mut limiter = limiter(1.0, 2);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, ms(10_000)), 2);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, ms(1_000)), 0);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, ms(10_500)), 0);
    assert_eq!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, ms(11_000)), 1);
}

#[derive(Clone, Debug)]
enum Event {
    Join(Bucket, Class),
    Leave(prop::sample::Index),
    Try(Bucket, Class),
    Throttled(Bucket),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let bucket = prop::sample::select(Bucket::ALL.to_vec());
    let class = prop::sample::select(Class::ALL.to_vec());
    prop_oneof![
        6 => (bucket.clone(), class.clone()).prop_map(|(b, c)| Event::Join(b, c)),
        1 => any::<prop::sample::Index>().prop_map(Event::Leave),
        3 => (bucket.clone(), class).prop_map(|(b, c)| Event::Try(b, c)),
        1 => bucket.prop_map(Event::Throttled),
        4 => (0..3_000_u64).prop_map(Event::Pass),
    ]
}

/// Serves whoever is first as long as there are tokens, as the shell does when it wakes.
fn serve(limiter: &mut Limiter, now: Duration, waiting: &mut Vec<(Ticket, Class)>) -> Vec<Bucket> {
    let mut served = Vec::new();
    for bucket in Bucket::ALL {
        while let Some(head) = limiter.head(bucket) {
            let urgent = waiting.iter().filter(|(ticket, _)| ticket.bucket() == bucket).map(|(_, class)| *class).min();
            let place = waiting.iter().position(|(ticket, _)| *ticket == head);
            let (_, class) = waiting[place.expect("the head waits")];
            assert_eq!(Some(class), urgent, "the most urgent is first");
            if limiter.poll(head, now) != Turn::Ready {
                break;
            }
            waiting.retain(|(ticket, _)| *ticket != head);
            served.push(bucket);
        }
    }
    served
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The judge counts calls, knowing nothing of tokens: in every window at most burst + rate x length of it.
    #[test]
    fn no_window_holds_more_calls_than_the_rate_allows(
        per_second in 0.2..20.0_f64,
        burst in 1..30_u32,
        events in prop::collection::vec(event(), 1..150),
    ) {
        let mut limiter = limiter(per_second, burst);
        let (mut now, mut waiting) = (Duration::ZERO, Vec::new());
        let mut calls: BTreeMap<Bucket, Vec<f64>> = BTreeMap::new();
        for event in events {
            match event {
                Event::Join(bucket, class) => waiting.push((limiter.join(bucket, class), class)),
                Event::Leave(index) => {
                    if !waiting.is_empty() {
                        let (ticket, _) = waiting.swap_remove(index.index(waiting.len()));
                        limiter.leave(ticket);
                    }
                }
                Event::Try(bucket, class) => {
                    if limiter.try_acquire(bucket, class, now) {
                        calls.entry(bucket).or_default().push(now.as_secs_f64());
                    }
                }
                Event::Throttled(bucket) => limiter.throttled(bucket, now),
                Event::Pass(passed) => now += ms(passed),
            }
            for bucket in serve(&mut limiter, now, &mut waiting) {
                calls.entry(bucket).or_default().push(now.as_secs_f64());
            }
        }
        for times in calls.values() {
            for (i, from) in times.iter().enumerate() {
                for (j, to) in times.iter().enumerate().skip(i) {
                    let allowed = f64::from(burst) + per_second * (to - from) + 1e-3;
                    prop_assert!((j - i + 1) as f64 <= allowed, "{} calls in {} s", j - i + 1, to - from);
                }
            }
        }
    }

    /// Whatever happened before, everybody who stays in line is served, and the most urgent class within one token's time
    /// at the slowest pace.
    #[test]
    fn everybody_who_waits_is_served(
        per_second in 0.2..20.0_f64,
        burst in 1..30_u32,
        throttles in prop::collection::vec(0..4_000_u64, 0..10),
        class in prop::sample::select(Class::ALL.to_vec()),
        bucket in prop::sample::select(Bucket::ALL.to_vec()),
    ) {
        let mut limiter = limiter(per_second, burst);
        let mut now = Duration::ZERO;
        for passed in throttles {
            now += ms(passed);
            limiter.throttled(bucket, now);
        }
        drain(&mut limiter, bucket, Class::WeightShift, now);
        let flip = limiter.join(bucket, Class::WeightShift);
        let served = wait(&mut limiter, flip, now);
        prop_assert!((served - now).as_secs_f64() <= 16.0 / per_second + 1e-3);
        let other = limiter.join(bucket, class);
        wait(&mut limiter, other, served);
    }

    /// Other classes never touch the reserve: after any traffic of theirs without throttling, it is there.
    #[test]
    fn the_reserve_is_kept_whole(
        per_second in 0.2..20.0_f64,
        burst in 2..40_u32,
        passes in prop::collection::vec(0..2_000_u64, 1..60),
    ) {
        let mut limiter = limiter(per_second, burst);
        let mut now = Duration::ZERO;
        for passed in passes {
            now += ms(passed);
            drain(&mut limiter, Bucket::Modify, Class::Create, now);
        }
        let reserve = (f64::from(burst) * 0.25).ceil() as usize;
        prop_assert!(drain(&mut limiter, Bucket::Modify, Class::WeightShift, now) >= reserve.min(burst as usize - 1));
    }
}
