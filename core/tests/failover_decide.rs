//! Whole decisions: panic, the last resort, operators beside health, what is remembered; and random histories against what must hold
//! in every one of them.

mod failover_support;

use std::collections::BTreeMap;

use failover_support::{Rng, Scene, at, ceiling, explained, noted, rules, shares, weight, weights};
use switchyard_core::{
    failover::{Decided, Explanation, Memory, Standing},
    fleet::{Ceiling, Mode},
    ids::Weight,
    policy::{PolicyMemory, spec::Failback},
    status::Reason,
    weights::{Candidate, for_present_rule},
};

const TWO: &[(&str, u32)] = &[("blue", 50), ("green", 50)];

#[test]
fn when_nobody_looks_healthy_nothing_is_changed_and_everybody_hears_of_it() {
    let mut scene = Scene::settled(&[("blue", 70), ("green", 30)]);
    scene.health("blue", 4, 10);
    scene.health("green", 0, 10);
    let panic = scene.during(3600);
    assert_eq!(weights(&panic), [70, 30]);
    assert_eq!(panic.explanation.standing, Standing::Panic);
    let note = noted(&panic, Reason::Panic).expect("an alarm");
    assert!(note.contains("blue 4 of 10 (40 %), green 0 of 10 (0 %)"), "{note}");
}

#[test]
fn a_panic_keeps_what_failover_had_moved_and_ends_with_the_first_that_looks_healthy() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 100]);
    scene.health("green", 0, 10);
    let panic = scene.during(600);
    assert_eq!((weights(&panic), panic.explanation.standing), (vec![0, 100], Standing::Panic));
    assert_eq!(panic.memory.panic_since, Some(at(30)));
    scene.health("green", 10, 10);
    let over = scene.after(1);
    assert_eq!((weights(&over), over.explanation.standing), (vec![0, 100], Standing::FailedOver));
    assert_eq!(over.memory.panic_since, None);
}

#[test]
fn what_was_pending_before_a_panic_begins_anew_after_it() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.after(5);
    scene.health("green", 0, 10);
    scene.after(4);
    scene.health("green", 10, 10);
    scene.after(4);
    assert_eq!(weights(&scene.after(9)), [50, 50]);
    assert_eq!(weights(&scene.after(1)), [0, 100]);
}

#[test]
fn a_hub_without_its_memory_keeps_in_a_panic_what_the_rule_has() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.during(20);
    scene.health("green", 2, 10);
    scene.memory = Memory::default();
    let panic = scene.after(1);
    assert_eq!((weights(&panic), panic.explanation.standing), (vec![0, 100], Standing::Panic));
}

#[test]
fn weights_that_are_set_by_hand_in_a_panic_are_obeyed() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.health("green", 4, 10);
    scene.after(10);
    scene.cluster("blue").requested = weight(0);
    scene.cluster("green").requested = weight(100);
    assert_eq!(weights(&scene.after(1)), [0, 100]);
}

#[test]
fn a_drain_that_goes_on_in_a_panic_changes_nothing() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.health("green", 4, 10);
    scene.after(10);
    for permille in [750, 500, 250] {
        scene.cluster("green").ceiling = ceiling(Mode::Draining, permille);
        assert_eq!(weights(&scene.after(60)), [50, 50]);
    }
}

#[test]
fn a_cluster_that_is_drained_proves_nothing_about_the_observer() {
    let mut scene = Scene::settled(&[("blue", 40), ("green", 40), ("red", 20)]);
    scene.cluster("blue").ceiling = ceiling(Mode::Drained, 0);
    scene.after(10);
    scene.health("blue", 0, 10);
    scene.health("green", 4, 10);
    scene.health("red", 4, 10);
    let decided = scene.during(60);
    assert_eq!(decided.explanation.standing, Standing::Panic, "blue has no share and no healthy target");
}

#[test]
fn a_real_loss_during_a_game_day_of_the_only_other_cluster_ends_the_game() {
    let mut scene = Scene::settled(TWO);
    scene.cluster("blue").ceiling = ceiling(Mode::Drained, 0);
    assert_eq!(weights(&scene.during(60)), [0, 100]);
    scene.health("green", 0, 10);
    let decided = scene.during(60);
    assert_ne!(decided.explanation.standing, Standing::Panic, "blue's healthy targets prove that the observer is well");
    assert_eq!(weights(&decided), [100, 0]);
}

#[test]
fn pods_that_are_replaced_while_their_cluster_is_drained_are_no_failure() {
    let mut scene = Scene::settled(TWO).with(|rules| rules.failback = Failback::Manual);
    scene.cluster("blue").ceiling = ceiling(Mode::Drained, 0);
    scene.during(30);
    scene.health("blue", 0, 0);
    scene.during(600);
    scene.health("blue", 10, 10);
    scene.during(30);
    scene.cluster("blue").ceiling = ceiling(Mode::Returning, 500);
    let decided = scene.during(30);
    assert_eq!(weights(&decided), [333, 666], "half a share against a whole one, without anybody's word");
    scene.cluster("blue").ceiling = Ceiling::default();
    let decided = scene.during(30);
    assert_eq!(weights(&decided), [50, 50]);
    assert_eq!(decided.explanation.moves_last_hour, 0, "failover has moved nothing");
}

#[test]
fn the_drain_of_a_cordoned_cluster_raises_nothing() {
    let mut scene = Scene::settled(&[("blue", 0), ("green", 100)]);
    scene.cluster("blue").ceiling = ceiling(Mode::Cordoned, 1000);
    scene.cluster("blue").requested = weight(50);
    assert_eq!(weights(&scene.during(30))[0], 0);
    scene.cluster("blue").ceiling = ceiling(Mode::Draining, 750);
    assert_eq!(weights(&scene.during(30))[0], 0);
}

#[test]
fn a_cluster_that_is_cordoned_on_its_way_back_says_so() {
    let mut scene = Scene::settled(TWO);
    scene.cluster("blue").ceiling = ceiling(Mode::Cordoned, 250);
    let decided = scene.during(30);
    let blue = explained(&decided, "blue");
    assert_eq!(blue.reason, Reason::Cordoned);
    assert!(blue.message.contains("stays at 25 % of its share; yardctl uncordon blue"), "{}", blue.message);
}

#[test]
fn a_cluster_whose_pods_come_later_was_never_out() {
    let mut scene = Scene::new(&[("blue", 100), ("green", 0)]).with(|rules| rules.failback = Failback::Manual);
    scene.standby("green", 1, 100);
    scene.health("blue", 0, 0);
    assert_eq!(weights(&scene.during(30)), [100, 0], "nothing has failed where nothing was");
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(30)), [100, 0]);
}

#[test]
fn one_that_cannot_be_seen_may_be_healthy() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.unknown("green");
    let decided = scene.during(60);
    assert_ne!(decided.explanation.standing, Standing::Panic);
    assert_eq!(weights(&decided), [50, 50], "and gets no more while it cannot be seen");
}

#[test]
fn a_cluster_that_waits_for_its_return_is_taken_at_once_when_the_last_one_dies() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.during(20);
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.after(10)), [0, 100]);
    scene.health("green", 0, 10);
    scene.after(1);
    assert_eq!(weights(&scene.after(10)), [100, 0], "blue had 49 seconds to wait");
}

#[test]
fn past_the_moves_of_an_hour_clusters_that_die_in_turn_all_get_what_is_asked_for() {
    let mut scene = Scene::settled(TWO).with(|rules| rules.max_moves_per_hour = 2);
    scene.health("blue", 0, 10);
    scene.during(20);
    scene.health("blue", 10, 10);
    scene.after(10);
    scene.health("green", 0, 10);
    let decided = scene.during(20);
    assert_eq!(weights(&decided), [50, 50], "half is served, and nothing swings to and fro");
    assert!(noted(&decided, Reason::Panic).is_some(), "with an alarm: {:?}", decided.notes);
}

#[test]
fn an_agent_that_is_away_changes_nothing() {
    let mut scene = Scene::settled(TWO);
    scene.cluster("blue").link = Some(switchyard_core::inventory::Link::Stale);
    assert_eq!(weights(&scene.during(7200)), [50, 50]);
}

#[test]
fn the_only_cluster_of_a_policy_keeps_its_requests_though_it_is_drained() {
    let mut scene = Scene::settled(&[("blue", 100)]);
    scene.cluster("blue").ceiling = ceiling(Mode::Draining, 0);
    assert_eq!(weights(&scene.after(10)), [100]);
}

#[test]
fn a_drained_cluster_that_still_answers_takes_over_when_all_others_are_dead() {
    let mut scene = Scene::settled(&[("blue", 40), ("green", 40), ("red", 20)]);
    scene.cluster("blue").ceiling = ceiling(Mode::Drained, 0);
    assert_eq!(weights(&scene.after(10))[0], 0);
    scene.health("green", 0, 10);
    scene.during(20);
    scene.health("red", 5, 10);
    assert_eq!(shares(&scene.during(60)), [0, 0, 1000]);
    scene.rules.as_mut().unwrap().panic_threshold_percent = 1;
    scene.unknown("red");
    scene.memory.clusters.get_mut(&failover_support::name("red")).unwrap().used = Some(0);
    assert_eq!(shares(&scene.after(10)), [1000, 0, 0]);
}

#[test]
fn a_game_day_moves_the_share_at_once_and_gives_back_exactly_what_was() {
    let mut scene = Scene::settled(&[("blue", 33), ("green", 34), ("red", 33)]);
    scene.cluster("red").ceiling = ceiling(Mode::Drained, 0);
    let during = scene.after(1);
    assert_eq!(shares(&during)[2], 0);
    assert_eq!(explained(&during, "red").reason, Reason::Draining);
    assert_eq!(explained(&during, "blue").reason, Reason::FailedOver);
    scene.cluster("red").ceiling = Ceiling::default();
    assert_eq!(weights(&scene.after(1)), [33, 34, 33]);
}

#[test]
fn health_and_an_operator_together_leave_the_lesser_of_both() {
    let mut scene = Scene::settled(TWO).with(|rules| rules.overprovisioning_percent = 100);
    scene.cluster("blue").ceiling = ceiling(Mode::Draining, 500);
    scene.health("blue", 8, 10);
    let decided = scene.during(60);
    assert!(shares(&decided)[0].abs_diff(333) <= 2, "{:?}", shares(&decided));
    scene.health("blue", 3, 10);
    let decided = scene.during(60);
    assert!(shares(&decided)[0].abs_diff(230) <= 2, "{:?}", shares(&decided));
}

#[test]
fn a_new_policy_without_a_rule_gets_what_it_asks_for() {
    let mut scene = Scene::new(TWO);
    scene.has_rule = false;
    for cluster in &mut scene.clusters {
        (cluster.sight, cluster.programmed, cluster.registered) = (None, None, 0);
    }
    let decided = scene.look();
    assert_eq!((weights(&decided), decided.explanation.standing), (vec![50, 50], Standing::AsRequested));
}

#[test]
fn without_rules_nothing_is_said_and_nothing_is_done() {
    let mut scene = Scene::settled(TWO);
    scene.rules = None;
    scene.health("blue", 0, 10);
    let decided = scene.during(600);
    assert_eq!((weights(&decided), decided.explanation.standing), (vec![50, 50], Standing::Off));
    assert!(decided.notes.is_empty());
}

#[test]
fn a_standby_that_is_asked_for_by_a_shift_is_a_standby_no_more() {
    let mut scene = Scene::new(&[("blue", 90), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    scene.cluster("dr").requested = weight(10);
    scene.cluster("dr").programmed = Some(weight(10));
    assert_eq!(weights(&scene.look()), [90, 10]);
    scene.health("blue", 0, 10);
    assert_eq!(shares(&scene.during(20)), [0, 1000]);
}

#[test]
fn what_is_remembered_and_what_is_explained_survive_their_json() {
    let mut scene = Scene::settled(&[("blue", 50), ("green", 50), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    scene.rules.as_mut().unwrap().failback_step_percent = 10;
    scene.health("blue", 0, 10);
    scene.during(20);
    scene.health("blue", 10, 10);
    let decided = scene.during(90);
    let json = serde_json::to_string(&decided.memory).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&json).unwrap(), decided.memory);
    let json = serde_json::to_string(&decided.explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), decided.explanation);
}

#[test]
fn memories_that_were_written_before_failover_or_by_its_first_version_are_read() {
    assert_eq!(serde_json::from_str::<Memory>("{}").unwrap(), Memory::default());
    assert_eq!(serde_json::from_str::<Explanation>("{}").unwrap(), Explanation::default());
    let of_a_policy: PolicyMemory =
        serde_json::from_str(&serde_json::to_string(&PolicyMemory::default()).unwrap()).unwrap();
    assert_eq!(of_a_policy.failover, Memory::default());
    let mut without = serde_json::to_value(PolicyMemory::default()).unwrap();
    without.as_object_mut().unwrap().remove("failover").expect("it is stored under this name");
    assert_eq!(serde_json::from_value::<PolicyMemory>(without).unwrap(), PolicyMemory::default());
    let first = r#"{"clusters": {"blue": {"expected": {"a": {"targets": 3, "ready": 3, "present": 3, "short_since": null}},
        "used": 0, "limit": null, "stepped_at": null, "pending": {"back": true, "since": "2026-01-01T00:00:00Z"},
        "out_since": "2026-01-01T00:00:00Z", "outs": ["2026-01-01T00:00:00Z"]}},
        "moves": ["2026-01-01T00:00:00Z"], "decided": null, "panic_since": null}"#;
    let memory: Memory = serde_json::from_str(first).unwrap();
    assert_eq!(memory.clusters.values().next().unwrap().used, Some(0));
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A policy with clusters of any weights, levels, rules and capacity.
fn any_scene(rng: &mut Rng) -> Scene {
    let n = 1 + rng.index(5);
    let named: Vec<(&str, u32)> = NAMES[..n].iter().map(|name| (*name, rng.pick(&[0, 1, 5, 50, 100, 999]))).collect();
    let mut scene = Scene::new(&named);
    scene.cluster("a").requested = weight(100);
    scene.cluster("a").programmed = Some(weight(100));
    let mut level = 0;
    for name in &NAMES[1..n] {
        if rng.below(4) == 0 {
            level += 1;
            scene.standby(name, level, 1 + rng.below(100));
        }
    }
    scene.rules = (rng.below(8) > 0).then(|| any_rules(rng));
    if rng.below(3) == 0 {
        scene.capacity = Some(switchyard_core::policy::Capacity {
            peak_requests_per_second: 1 + rng.below(2000),
            requests_per_second_per_target: 1 + rng.below(200),
        });
    }
    scene
}

fn any_rules(rng: &mut Rng) -> switchyard_core::failover::Rules {
    let mut rules = rules();
    rules.overprovisioning_percent = rng.pick(&[100, 140, 1000]);
    rules.panic_threshold_percent = rng.pick(&[1, 50, 100]);
    rules.unhealthy_after_seconds = rng.pick(&[0, 10, 30]);
    rules.healthy_after_seconds = rng.pick(&[0, 30, 60]);
    rules.failback_step_percent = rng.pick(&[1, 25, 100]);
    rules.failback_step_seconds = rng.pick(&[0, 30]);
    rules.dead_band_percent = rng.pick(&[0, 5, 50]);
    rules.hold_down_max_seconds = rng.pick(&[0, 100, 3600]);
    rules.max_moves_per_hour = rng.pick(&[1, 6, 60]);
    rules
}

fn any_event(scene: &mut Scene, rng: &mut Rng) {
    let of = NAMES[rng.index(scene.clusters.len())];
    match rng.below(12) {
        0..=4 => {
            let targets = rng.pick(&[1, 3, 10]);
            scene.health(of, rng.below(targets + 1), targets);
        }
        5 => scene.unknown(of),
        6 => {
            // Ready by the agent's word, and nobody has judged them.
            scene.health(of, 0, 5);
            let zone = scene.cluster(of).sight.as_mut().unwrap().zones.get_mut("a").unwrap();
            (zone.unjudged, zone.unhealthy) = (5, 0);
        }
        7 => {
            let modes = [Mode::Active, Mode::Active, Mode::Cordoned, Mode::Draining, Mode::Drained, Mode::Returning];
            let mode = rng.pick(&modes);
            let permille = match mode {
                Mode::Draining | Mode::Returning => rng.pick(&[10, 250, 500, 1000]),
                Mode::Drained => 0,
                Mode::Active | Mode::Cordoned | Mode::Removed => 1000,
            };
            scene.cluster(of).ceiling = Ceiling { mode, permille, deregister: false, force: rng.below(4) == 0 };
        }
        8 if rng.below(5) == 0 => scene.memory = Memory::default(),
        9 if rng.below(5) == 0 => scene.now -= i64::from(rng.below(100)),
        _ => {}
    }
    scene.now += i64::from(rng.pick(&[0, 1, 5, 10, 30]));
}

/// What the last word before AWS would hear.
fn candidates(scene: &Scene, decided: &Decided) -> Vec<Candidate> {
    let of = |(cluster, (name, weight)): (&switchyard_core::failover::ClusterInput, &(_, Weight))| Candidate {
        cluster: Clone::clone(name),
        requested: *weight,
        programmed: cluster.programmed,
        registered: cluster.registered,
        healthy: cluster.sight.as_ref().map_or(0, |sight| sight.zones.values().map(|zone| zone.healthy).sum()),
    };
    scene.clusters.iter().zip(&decided.weights).map(of).collect()
}

fn must_hold(scene: &Scene, decided: &Decided, what: &str) {
    assert_eq!(*decided, scene_again(scene), "{what}: the same input gives the same decision");
    assert!(weights(decided).iter().sum::<u32>() > 0, "{what}: I2, the weights sum to 0");
    let candidates = candidates(scene, decided);
    let requested = scene.clusters.iter().all(|c| decided.weights.contains(&(c.cluster.clone(), c.requested)));
    let anybody = candidates.iter().any(|candidate| candidate.healthy > 0);
    if requested || !anybody || decided.explanation.standing == Standing::Panic {
        return;
    }
    // What is decided otherwise than asked for can be programmed: nobody without a healthy target gains.
    for effective in for_present_rule(&candidates) {
        assert_eq!(effective.reason, Reason::AsRequested, "{what}: {}", effective.message);
    }
}

fn scene_again(scene: &Scene) -> Decided {
    scene.clone().decided()
}

/// The same world again and again: after a few looks nothing changes any more at the same time. A few, since a cluster that was given
/// something because nobody else answered is one that has something at the next look.
fn comes_to_rest(scene: &Scene, what: &str) {
    // Without time between them the steps of a return follow each other look by look.
    if scene.rules.as_ref().is_some_and(|rules| rules.failback_step_seconds == 0) {
        return;
    }
    let mut still = scene.clone();
    for _ in 0..3 {
        still.look();
    }
    let before = weights(&still.look());
    let third = still.look();
    assert_eq!(weights(&third), before, "{what}: I8, an unchanged world is left alone: {:#?}", third.explanation);
}

#[test]
fn no_history_breaks_what_must_hold_and_calm_brings_exactly_the_request() {
    let seeds: u64 = std::env::var("SWITCHYARD_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1500);
    let failed: Vec<u64> = (0..seeds).filter(|seed| std::panic::catch_unwind(|| history(*seed)).is_err()).collect();
    assert!(failed.is_empty(), "{} seeds fail, such as {:?}; see above", failed.len(), &failed[..failed.len().min(5)]);
}

fn history(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut scene = any_scene(&mut rng);
    for step in 0..60 {
        any_event(&mut scene, &mut rng);
        let what = format!("seed {seed}, step {step}");
        let decided = scene.decided();
        must_hold(&scene, &decided, &what);
        comes_to_rest(&scene, &what);
        scene.look();
    }
    calm(&mut scene, seed);
}

/// Everybody is healthy and nobody wants anything: within an hour of moves for each of five clusters, and the steps of a return.
fn calm(scene: &mut Scene, seed: u64) {
    let named = scene.clusters.len();
    for name in &NAMES[..named] {
        scene.health(name, 10, 10);
        scene.cluster(name).ceiling = Ceiling::default();
    }
    for _ in 0..600 {
        scene.after(60);
    }
    let end = scene.look();
    let requested: Vec<u32> = scene.clusters.iter().map(|cluster| cluster.requested.get()).collect();
    assert_eq!(weights(&end), requested, "seed {seed}: {}", end.explanation.message);
    assert!(matches!(end.explanation.standing, Standing::AsRequested | Standing::Off), "seed {seed}");
}

#[test]
fn the_moves_of_an_hour_are_bounded_whatever_the_clusters_do() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut scene = any_scene(&mut rng);
        let mut rules = any_rules(&mut rng);
        (rules.failback, rules.max_moves_per_hour) = (Failback::Auto, rng.pick(&[1, 3, 6]));
        let most = (2 * rules.max_moves_per_hour as usize) + 2 * scene.clusters.len();
        scene.rules = Some(rules);
        scene.look();
        // Outs and returns, by what the memory says that it used before and after.
        let mut moves: Vec<i64> = Vec::new();
        let mut last: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        for _ in 0..720 {
            let of = NAMES[rng.index(scene.clusters.len())];
            scene.health(of, rng.pick(&[0, 10]), 10);
            scene.after(10);
            for name in &NAMES[..scene.clusters.len()] {
                let carries = scene.cluster(name).requested.carries();
                let used = scene.used(name);
                let changed = last.insert(name, used).is_some_and(|before| before != used);
                if changed && carries {
                    moves.push(scene.now);
                }
            }
            let hour = moves.iter().filter(|at| scene.now - **at < 3600).count();
            assert!(hour <= most, "seed {seed}: {hour} moves within an hour");
        }
    }
}
