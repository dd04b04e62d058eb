//! The weights of a step: exact where whole numbers allow it, never nothing for a cluster that is to get something (I12).

mod shift_support;

use proptest::prelude::*;
use shift_support::{Weights, cluster, weight, weights, words};
use switchyard_core::shift::weights::{at, emptied, gaining, largest_change_percent};

fn step(from: &[(&str, u32)], to: &[(&str, u32)], percent: u32) -> String {
    words(&at(&weights(from), &weights(to), percent))
}

#[test]
fn the_ends_of_the_way_are_exactly_what_was_recorded_and_what_was_asked_for() {
    let (from, to) = (weights(&[("blue", 7), ("green", 0)]), weights(&[("blue", 1), ("green", 998)]));
    assert_eq!(at(&from, &to, 0), from);
    assert_eq!(at(&from, &to, 100), to);
}

#[test]
fn five_percent_of_a_flip_is_95_to_5() {
    assert_eq!(step(&[("blue", 100), ("green", 0)], &[("blue", 0), ("green", 100)], 5), "blue=95,green=5");
    // Whatever the recorded weights add up to.
    assert_eq!(step(&[("blue", 3), ("green", 0)], &[("blue", 0), ("green", 100)], 5), "blue=95,green=5");
    assert_eq!(step(&[("blue", 1), ("green", 0)], &[("blue", 0), ("green", 1)], 50), "blue=50,green=50");
}

#[test]
fn shares_move_in_a_straight_line_between_weights_of_other_sums() {
    assert_eq!(step(&[("blue", 1), ("green", 1)], &[("blue", 10), ("green", 30)], 50), "blue=15,green=25");
    let thirds = [("blue", 1), ("green", 1), ("dr", 1)];
    assert_eq!(step(&thirds, &[("blue", 1), ("green", 0), ("dr", 0)], 50), "blue=666,green=167,dr=166");
}

#[test]
fn a_cluster_that_is_to_get_anything_never_gets_nothing() {
    assert_eq!(step(&[("blue", 999), ("green", 0)], &[("blue", 999), ("green", 1)], 1), "blue=998,green=1");
}

#[test]
fn a_side_that_asks_for_nothing_at_all_has_no_shares_to_move_from() {
    assert_eq!(step(&[("blue", 0), ("green", 0)], &[("blue", 10), ("green", 30)], 50), "blue=10,green=30");
}

#[test]
fn who_gains_and_who_is_emptied_is_a_matter_of_shares_not_of_numbers() {
    let from = weights(&[("blue", 10), ("green", 10), ("dr", 0)]);
    let to = weights(&[("blue", 30), ("green", 0), ("dr", 30)]);
    assert_eq!(gaining(&from, &to).into_iter().map(|name| name.to_string()).collect::<Vec<_>>(), ["dr"]);
    assert_eq!(emptied(&from, &to).into_iter().map(|name| name.to_string()).collect::<Vec<_>>(), ["green"]);
    assert!(gaining(&from, &weights(&[("blue", 500), ("green", 500), ("dr", 0)])).is_empty());
}

#[test]
fn the_largest_change_is_in_percentage_points_and_rounded_up() {
    let change = |from, to| largest_change_percent(&weights(from), &weights(to));
    assert_eq!(change(&[("blue", 100), ("green", 0)], &[("blue", 0), ("green", 100)]), 100);
    assert_eq!(change(&[("blue", 95), ("green", 5)], &[("blue", 75), ("green", 25)]), 20);
    assert_eq!(change(&[("blue", 1), ("green", 0)], &[("blue", 2), ("green", 1)]), 34);
    assert_eq!(change(&[("blue", 1), ("green", 1)], &[("blue", 700), ("green", 700)]), 0);
}

fn any_weights(count: usize) -> impl Strategy<Value = Vec<u32>> {
    let one = prop_oneof![Just(0), Just(1), Just(999), 0..=999_u32];
    prop::collection::vec(one, count).prop_filter("something carries", |all| all.iter().any(|w| *w > 0))
}

fn both() -> impl Strategy<Value = (Weights, Weights)> {
    let names = ["a", "b", "c", "d", "e"];
    let named = move |all: Vec<u32>| names.iter().zip(all).map(|(name, w)| (cluster(name), weight(w))).collect();
    (1..=5_usize)
        .prop_flat_map(|count| (any_weights(count), any_weights(count)))
        .prop_map(move |(from, to)| (named(from), named(to)))
}

fn shares(weights: &Weights) -> Vec<f64> {
    let sum: u32 = weights.iter().map(|(_, weight)| weight.get()).sum();
    weights.iter().map(|(_, weight)| f64::from(weight.get()) / f64::from(sum)).collect()
}

proptest! {
    #[test]
    fn every_step_is_as_exact_as_whole_numbers_up_to_999_can_be((from, to) in both(), percent in 1..100_u32) {
        let step = at(&from, &to, percent);
        let way = f64::from(percent) / 100.0;
        let (old, new, now) = (shares(&from), shares(&to), shares(&step));
        for i in 0..step.len() {
            let exact = old[i] * (1.0 - way) + new[i] * way;
            prop_assert_eq!(&step[i].0, &from[i].0);
            prop_assert_eq!(step[i].1.carries(), exact > 0.0);
            // Half a unit of 999 by rounding, and one for each other cluster that was lifted to a unit.
            prop_assert!((now[i] - exact).abs() <= 4.51 / 999.0, "{exact} became {}", now[i]);
        }
    }

    #[test]
    fn no_share_ever_goes_against_its_direction_by_more_than_rounding((from, to) in both(), percent in 1..100_u32) {
        let (old, new) = (shares(&from), shares(&to));
        let (before, after) = (shares(&at(&from, &to, percent)), shares(&at(&from, &to, percent + 1)));
        for i in 0..old.len() {
            let back = if new[i] >= old[i] { before[i] - after[i] } else { after[i] - before[i] };
            prop_assert!(back <= 4.51 / 999.0, "{} to {}", before[i], after[i]);
        }
    }
}
