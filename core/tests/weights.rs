//! Weights: what is asked for is what is programmed, except where that would hurt.

use proptest::prelude::*;
use switchyard_core::{
    ids::{ClusterName, Weight},
    status::Reason,
    weights::{Candidate, apportion, for_new_rule, for_present_rule},
};

fn candidate(name: &str, requested: u32, programmed: Option<u32>, registered: u32, healthy: u32) -> Candidate {
    Candidate {
        cluster: ClusterName::new(name).unwrap(),
        requested: Weight::new(requested).unwrap(),
        programmed: programmed.map(|w| Weight::new(w).unwrap()),
        registered,
        healthy,
    }
}

fn weights(effective: &[switchyard_core::weights::Effective]) -> Vec<u32> {
    effective.iter().map(|e| e.weight.get()).collect()
}

#[test]
fn a_change_between_healthy_clusters_is_programmed_exactly() {
    let effective = for_present_rule(&[candidate("blue", 90, Some(100), 3, 3), candidate("green", 10, Some(0), 3, 3)]);
    assert_eq!(weights(&effective), [90, 10]);
    assert!(effective.iter().all(|e| e.reason == Reason::AsRequested));
}

#[test]
fn a_cluster_without_a_healthy_target_gets_no_larger_share_and_the_change_waits_whole() {
    let effective = for_present_rule(&[
        candidate("blue", 0, Some(100), 3, 3),
        candidate("green", 90, Some(0), 3, 0),
        candidate("dr", 10, Some(0), 3, 3),
    ]);
    assert_eq!(weights(&effective), [100, 0, 0]);
    let reasons: Vec<Reason> = effective.iter().map(|e| e.reason).collect();
    assert_eq!(reasons, [Reason::WeightsHeld, Reason::NoHealthyTarget, Reason::WeightsHeld]);
    assert!(effective[0].message.ends_with("waits as a whole for green"));
}

#[test]
fn lowering_one_cluster_raises_the_share_of_a_dead_one_and_is_held() {
    let effective = for_present_rule(&[candidate("blue", 0, Some(50), 3, 3), candidate("green", 50, Some(50), 3, 0)]);
    assert_eq!(weights(&effective), [50, 50]);
}

#[test]
fn leaving_an_unhealthy_cluster_for_a_healthy_one_is_not_held() {
    let effective = for_present_rule(&[candidate("blue", 0, Some(100), 3, 0), candidate("green", 100, Some(0), 3, 1)]);
    assert_eq!(weights(&effective), [0, 100]);
}

#[test]
fn a_new_rule_gives_nothing_to_a_cluster_without_targets() {
    let (effective, carries) = for_new_rule(&[candidate("blue", 50, None, 2, 0), candidate("green", 50, None, 0, 0)]);
    assert_eq!((weights(&effective), carries), (vec![50, 0], true));
    assert_eq!(effective[1].reason, Reason::NoTargets);
    let (_, carries) = for_new_rule(&[candidate("blue", 50, None, 0, 0)]);
    assert!(!carries);
}

#[test]
fn a_rule_that_another_hand_set_to_all_zero_is_mended_without_waiting_for_health() {
    let effective = for_present_rule(&[candidate("blue", 100, Some(0), 3, 0), candidate("green", 0, Some(0), 0, 0)]);
    assert_eq!(weights(&effective), [100, 0]);
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0u32..=999, proptest::option::of(0u32..=999), 0u32..4, 0u32..4);
    proptest::collection::vec(one, 1..=5).prop_map(|rows| {
        let named = rows.into_iter().enumerate();
        named.map(|(i, (r, p, n, h))| candidate(&format!("c{i}"), r, p, n, h.min(n))).collect()
    })
}

proptest! {
    #[test]
    fn a_present_rule_that_carries_never_comes_to_carry_nothing(candidates in any_candidates()) {
        let before: u32 = candidates.iter().filter_map(|c| c.programmed).map(Weight::get).sum();
        let after: u32 = weights(&for_present_rule(&candidates)).iter().sum();
        prop_assert!(before == 0 || after > 0);
    }

    #[test]
    fn weights_are_either_all_as_requested_or_all_as_they_were(candidates in any_candidates()) {
        let effective = weights(&for_present_rule(&candidates));
        let requested: Vec<u32> = candidates.iter().map(|c| c.requested.get()).collect();
        let programmed: Vec<u32> = candidates.iter().map(|c| c.programmed.unwrap_or(Weight::ZERO).get()).collect();
        prop_assert!(effective == requested || effective == programmed);
    }

    #[test]
    fn no_share_grows_where_nothing_is_healthy(candidates in any_candidates()) {
        let effective = for_present_rule(&candidates);
        let sum = |w: Vec<u32>| f64::from(w.iter().sum::<u32>());
        let before = sum(candidates.iter().map(|c| c.programmed.unwrap_or(Weight::ZERO).get()).collect());
        let after = sum(weights(&effective));
        for (c, e) in candidates.iter().zip(&effective) {
            let old = f64::from(c.programmed.unwrap_or(Weight::ZERO).get()) / before.max(1.0);
            let new = f64::from(e.weight.get()) / after.max(1.0);
            prop_assert!(before == 0.0 || c.healthy > 0 || new <= old + 1e-9, "{c:?} {e:?}");
        }
    }

    #[test]
    fn every_weight_that_differs_from_the_request_has_a_reason(candidates in any_candidates()) {
        for (c, e) in candidates.iter().zip(for_present_rule(&candidates).iter().chain(&for_new_rule(&candidates).0)) {
            prop_assert_eq!(e.weight == c.requested, e.reason == Reason::AsRequested);
            prop_assert_eq!(e.message.is_empty(), e.reason == Reason::AsRequested);
        }
    }

    #[test]
    fn apportioned_parts_add_up_and_keep_every_share(shares in proptest::collection::vec(0u64..1_000_000, 1..20), total in 20u32..=999) {
        let parts = apportion(&shares, total);
        let any = shares.iter().any(|s| *s > 0);
        prop_assert_eq!(parts.iter().sum::<u32>(), if any { total } else { 0 });
        let sum: f64 = shares.iter().map(|s| *s as f64).sum();
        for (share, part) in shares.iter().zip(&parts) {
            prop_assert_eq!(*share > 0, *part > 0);
            let exact = *share as f64 / sum.max(1.0) * f64::from(total);
            let lifted = shares.len() as f64;
            prop_assert!((f64::from(*part) - exact).abs() <= lifted, "{} for {}", part, exact);
        }
    }
}
