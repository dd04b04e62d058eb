//! How fast health is read.

use super::*;

/// Readings a second of all of them.
fn rate(urgent: u32, watched: u32) -> f64 {
    let paces = Paces::new(urgent as usize, watched as usize);
    f64::from(urgent) / paces.urgent.as_secs_f64() + f64::from(watched) / paces.watched.as_secs_f64()
}

#[test]
fn few_groups_are_read_every_second_and_many_never_take_more_than_half_of_the_smallest_budget() {
    assert_eq!(Paces::new(2, 2), Paces { urgent: FAST_HEALTH, watched: FAST_HEALTH });
    for urgent in 0..300 {
        for watched in [0, 1, 2, 5, 50, 200, 1000] {
            let rate = rate(urgent, watched);
            assert!(rate <= 5.000_001, "{urgent} and {watched}: {rate}");
        }
    }
    assert_eq!(Paces::new(0, 200).watched, Duration::from_secs(40));
    assert_eq!(Paces::new(200, 0).urgent, Duration::from_secs(40));
}

#[test]
fn what_somebody_waits_for_is_read_no_slower_than_what_is_only_watched() {
    for (urgent, watched) in [(1, 200), (4, 200), (100, 100), (5, 40)] {
        let paces = Paces::new(urgent, watched);
        assert!(paces.urgent <= paces.watched, "{urgent} {watched} {paces:?}");
    }
}
