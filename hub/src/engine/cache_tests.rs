//! Who is woken by what is read. What of it holds is tested in core (`core/tests/engine_cache.rs`).

use switchyard_core::observed::Limits;

use super::*;

fn limits(cache: &Cache) -> bool {
    let limits = Limits { rules_per_load_balancer: 7, ..Limits::default() };
    cache.store(&cache.ticket(Object::Limits), Reading::Limits(limits), Timestamp::UNIX_EPOCH)
}

#[test]
fn a_reading_wakes_those_who_wait_and_every_clone_sees_it() {
    let cache = Cache::new();
    let changes = cache.changes();
    assert!(limits(&cache.clone()));
    assert!(changes.has_changed().unwrap());
    assert_eq!(cache.observed().limits.rules_per_load_balancer, 7);
}

#[test]
fn a_reading_that_began_before_a_reset_counts_for_nothing_and_wakes_nobody() {
    let cache = Cache::new();
    let ticket = cache.ticket(Object::LoadBalancers);
    cache.reset();
    let mut changes = cache.changes();
    changes.mark_unchanged();
    assert!(!cache.store(&ticket, Reading::LoadBalancers(BTreeMap::new()), Timestamp::UNIX_EPOCH));
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn the_same_trouble_wakes_nobody_twice() {
    let cache = Cache::new();
    let mut changes = cache.changes();
    cache.set_trouble(Some("throttled".to_owned()));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    cache.set_trouble(Some("throttled".to_owned()));
    assert!(!changes.has_changed().unwrap());
}
