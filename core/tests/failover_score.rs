//! How many targets a cluster should have, how many of them are alive, and when it is the zone that is lost and not the cluster.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use switchyard_core::failover::{
    Sight,
    score::{Counts, EXPECTED_WINDOW, Expected, ZoneSight, counts, lost_zones},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// So many pods exist, so many of them are ready, and those are healthy.
fn pods(present: u32, ready: u32) -> ZoneSight {
    ZoneSight { present, ready, healthy: ready, unjudged: 0, unhealthy: 0 }
}

/// What is expected after each look, ten seconds from one to the next.
fn expected(looks: &[(u32, u32)]) -> Vec<u32> {
    let mut last = None;
    let look = |(i, (present, ready)): (usize, &(u32, u32))| {
        let next = Expected::next(last, &pods(*present, *ready), at(i64::try_from(i).unwrap() * 10));
        last = Some(next);
        next.targets
    };
    looks.iter().enumerate().map(look).collect()
}

#[test]
fn a_rolling_update_that_doubles_the_pods_first_expects_the_old_number_in_the_end() {
    assert_eq!(expected(&[(10, 10), (20, 10), (20, 20), (15, 15), (10, 10)]), [10, 10, 20, 15, 10]);
}

#[test]
fn a_rolling_update_that_takes_pods_down_first_makes_nobody_look_sick() {
    let looks = [(10, 10), (8, 8), (10, 8), (10, 10), (8, 8), (10, 8), (10, 10)];
    let targets = expected(&looks);
    assert!(targets.iter().zip(looks).all(|(targets, (_, ready))| *targets == ready), "{targets:?}");
}

#[test]
fn pods_that_are_started_count_once_they_were_ready() {
    assert_eq!(expected(&[(10, 10), (30, 10), (30, 12), (30, 30)]), [10, 10, 12, 30]);
}

#[test]
fn an_autoscaler_that_halves_the_pods_halves_what_is_expected_at_once() {
    assert_eq!(expected(&[(10, 10), (5, 5)]), [10, 5]);
}

#[test]
fn pods_that_fell_ill_stay_expected_while_they_exist() {
    let mut looks = vec![(10, 10)];
    looks.extend([(10, 4); 200]);
    assert!(expected(&looks).iter().all(|targets| *targets == 10));
}

#[test]
fn pods_of_a_lost_node_stay_expected_for_the_window_when_they_are_evicted_and_no_longer() {
    let window = i64::try_from(EXPECTED_WINDOW.as_secs()).unwrap();
    let healthy = Expected::next(None, &pods(10, 10), at(0));
    let lost = Expected::next(Some(healthy), &pods(10, 5), at(10));
    let evicted = Expected::next(Some(lost), &pods(5, 5), at(300));
    assert_eq!((evicted.targets, evicted.short_since), (10, Some(at(300))));
    let before = Expected::next(Some(evicted), &pods(5, 5), at(300 + window - 1));
    assert_eq!(before.targets, 10, "a second before the end");
    let after = Expected::next(Some(before), &pods(5, 5), at(300 + window));
    assert_eq!((after.targets, after.short_since), (5, None), "nobody brings the node back");
    let replaced = Expected::next(Some(before), &pods(10, 10), at(300 + window - 1));
    assert_eq!((replaced.targets, replaced.short_since), (10, None), "an autoscaler brought one");
}

#[test]
fn a_clock_that_is_set_back_begins_the_window_anew() {
    let healthy = Expected::next(None, &pods(10, 10), at(5000));
    let lost = Expected::next(Some(healthy), &pods(10, 5), at(5010));
    let evicted = Expected::next(Some(lost), &pods(5, 5), at(5020));
    let back = Expected::next(Some(evicted), &pods(5, 5), at(100));
    assert_eq!((back.targets, back.short_since), (10, Some(at(100))));
}

#[test]
fn at_first_sight_what_is_registered_was_once_ready() {
    let zone = ZoneSight { present: 10, ready: 4, healthy: 4, unjudged: 0, unhealthy: 6 };
    assert_eq!(Expected::next(None, &zone, at(0)).targets, 10);
    let more_ready = ZoneSight { present: 12, ready: 12, healthy: 10, unjudged: 2, unhealthy: 0 };
    assert_eq!(Expected::next(None, &more_ready, at(0)).targets, 12);
}

fn sight(zones: &[(&str, ZoneSight)]) -> Sight {
    Sight { read_at: at(0), zones: zones.iter().map(|(name, zone)| ((*name).to_owned(), *zone)).collect() }
}

fn expects(zones: &[(&str, u32)]) -> BTreeMap<String, Expected> {
    let of = |targets| Expected { targets, ready: targets, present: targets, short_since: None };
    zones.iter().map(|(name, targets)| ((*name).to_owned(), of(*targets))).collect()
}

fn judged(healthy: u32, unjudged: u32, unhealthy: u32) -> ZoneSight {
    let present = healthy + unjudged + unhealthy;
    ZoneSight { present, ready: present, healthy, unjudged, unhealthy }
}

fn score(zone: ZoneSight, expected: u32) -> u32 {
    counts(&sight(&[("a", zone)]), &expects(&[("a", expected)]), &BTreeSet::new()).score()
}

#[test]
fn two_ready_of_a_hundred_is_not_healthy() {
    assert_eq!(score(judged(2, 0, 0), 100), 20);
}

#[test]
fn the_agents_word_counts_where_the_load_balancer_has_not_judged_and_only_there() {
    assert_eq!(score(judged(5, 5, 0), 10), 1000);
    assert_eq!(score(judged(5, 0, 5), 10), 500, "ready by the agent's word, and unhealthy by the load balancer");
}

#[test]
fn an_empty_api_server_makes_nobody_sick_who_answers() {
    let before = Expected::next(None, &pods(10, 10), at(0));
    let registered = |healthy, unhealthy| ZoneSight { present: 0, ready: 0, healthy, unjudged: 0, unhealthy };
    let empty = Expected::next(Some(before), &registered(10, 0), at(10));
    assert_eq!(empty.targets, 0, "everything that was ready is gone");
    assert_eq!(score(registered(10, 0), empty.targets), 1000);
    assert_eq!(score(registered(5, 5), empty.targets), 500, "what is registered should be healthy all the same");
}

#[test]
fn a_cluster_without_a_target_is_not_healthy() {
    assert_eq!(Counts::default().score(), 0);
    assert_eq!(score(judged(0, 0, 1), 0), 0, "the last one, which no group gives away");
}

#[test]
fn more_targets_than_expected_are_no_more_than_whole() {
    assert_eq!(score(judged(20, 0, 0), 10), 1000);
}

/// Clusters with zones: (name, zone as judged, targets expected there).
fn lost(clusters: &[&[(&str, ZoneSight, u32)]]) -> Vec<String> {
    let seen: Vec<(Sight, BTreeMap<String, Expected>)> = clusters
        .iter()
        .map(|zones| {
            let sights: Vec<_> = zones.iter().map(|(name, zone, _)| (*name, *zone)).collect();
            let expected: Vec<_> = zones.iter().map(|(name, _, targets)| (*name, *targets)).collect();
            (sight(&sights), expects(&expected))
        })
        .collect();
    lost_zones(seen.iter().map(|(sight, expected)| (sight, expected))).into_iter().collect()
}

#[test]
fn a_zone_that_is_dead_in_every_cluster_is_lost() {
    let cluster = [("a", judged(0, 0, 5), 5), ("b", judged(5, 0, 0), 5)];
    assert_eq!(lost(&[&cluster, &cluster]), ["a"]);
}

#[test]
fn a_zone_that_lives_in_one_cluster_is_not_lost() {
    let sick = [("a", judged(0, 0, 5), 5), ("b", judged(5, 0, 0), 5)];
    let well = [("a", judged(5, 0, 0), 5), ("b", judged(5, 0, 0), 5)];
    assert!(lost(&[&sick, &well]).is_empty(), "it is that cluster that is sick");
}

#[test]
fn a_zone_in_which_only_one_cluster_has_targets_proves_nothing_of_the_zone() {
    let both = [("a", judged(0, 0, 5), 5), ("b", judged(5, 0, 0), 5)];
    let other = [("b", judged(5, 0, 0), 5)];
    assert!(lost(&[&both, &other]).is_empty());
}

#[test]
fn where_every_zone_is_dead_no_zone_is_to_blame() {
    let dead = [("a", judged(0, 0, 5), 5), ("b", judged(0, 0, 5), 5)];
    assert!(lost(&[&dead, &dead]).is_empty());
}

#[test]
fn targets_of_which_the_zone_is_not_known_are_in_no_zone_that_could_be_lost() {
    let cluster = [("", judged(0, 0, 5), 5), ("b", judged(5, 0, 0), 5)];
    assert!(lost(&[&cluster, &cluster]).is_empty());
}

#[test]
fn a_zone_stays_lost_while_pods_that_were_evicted_from_it_are_expected() {
    let gone = ZoneSight::default();
    let cluster = [("a", gone, 5), ("b", judged(5, 0, 0), 5)];
    assert_eq!(lost(&[&cluster, &cluster]), ["a"]);
    let mut only_expected = vec![(sight(&[("b", judged(5, 0, 0))]), expects(&[("a", 5), ("b", 5)])); 2];
    let zones = lost_zones(only_expected.iter().map(|(sight, expected)| (sight, expected)));
    assert_eq!(zones, BTreeSet::from(["a".to_owned()]), "also when nobody sees it any more");
    only_expected.truncate(1);
    assert!(lost_zones(only_expected.iter().map(|(sight, expected)| (sight, expected))).is_empty());
}

#[test]
fn a_lost_zone_is_left_out_of_the_score() {
    let seen = sight(&[("a", judged(0, 0, 5)), ("b", judged(4, 0, 1))]);
    let expected = expects(&[("a", 5), ("b", 5)]);
    let with = counts(&seen, &expected, &BTreeSet::from(["a".to_owned()]));
    assert_eq!((with.expected, with.healthy, with.unhealthy, with.score()), (5, 4, 1, 800));
    assert_eq!(counts(&seen, &expected, &BTreeSet::new()).score(), 400);
}

#[test]
fn names_of_zones_that_come_from_outside_are_bounded() {
    let mut sight = sight(&[]);
    for i in 0..1000 {
        sight.zone(&format!("zone-{i}")).healthy += 1;
    }
    assert!(sight.zones.len() <= 17, "{}", sight.zones.len());
    assert_eq!(sight.zones.values().map(|zone| zone.healthy).sum::<u32>(), 1000, "nobody is lost");
}
