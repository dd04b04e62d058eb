//! The machine of shifts in a modelled world full of faults: AWS that answers late or never, stores that lose races, engines that
//! crash between looking and storing, callers who say anything at any moment. Judged at every change by rules of their own
//! (`shift_world/judge.rs`). Each seed is one history; the story of a failing one is printed.

mod shift_support;
mod shift_world;

use shift_support::{Rng, record};
use shift_world::World;

/// Things that happen in a storm.
const EVENTS: usize = 160;
/// Rounds of 20 s after which every shift has ended: 5 steps of at most 3 measurements, bake times of 2 minutes and deadlines of
/// 200 s, three shifts in a row on one policy.
const ROUNDS: usize = 300;

fn history(seed: u64, tell: bool) {
    let mut world = World::new(seed, tell);
    let clusters = [("blue", 100), ("green", 0), ("dr", 0)];
    let mut rng = Rng::new(seed ^ 0x5eed);
    for name in ["cart", "checkout", "search"] {
        world.add_policy(record(name, &clusters[..rng.index(2) + 2], ""));
    }
    for _ in 0..EVENTS {
        world.storm();
        world.check();
    }
    world.calm();
    let mut rounds = 0;
    while world.shifts.iter().any(switchyard_core::shift::Shift::is_active) {
        world.calm_round();
        rounds += 1;
        assert!(rounds < ROUNDS, "a shift does not end: {:?}", world.shifts.iter().find(|shift| shift.is_active()));
    }
    // Nothing that ended is touched any more, and AWS comes to what is asked for.
    for _ in 0..8 {
        world.calm_round();
    }
    for policy in world.policies.values().filter(|policy| policy.record.deleting_since.is_none()) {
        let (asked, rule) = (policy.record.requested(), &policy.rule);
        assert_eq!(shift_support::by_name(&asked), shift_support::by_name(rule), "{}", policy.record.policy.key);
    }
}

#[test]
fn no_history_of_shifts_breaks_a_rule_and_calm_ends_every_shift_where_it_was_to_end() {
    let seeds: u64 = std::env::var("SWITCHYARD_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2000);
    let first: u64 = std::env::var("SWITCHYARD_FIRST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        if std::panic::catch_unwind(|| history(seed, false)).is_err() {
            eprintln!("the story of seed {seed}:");
            history(seed, true);
            panic!("seed {seed} breaks a rule only when nobody looks");
        }
    }
}
