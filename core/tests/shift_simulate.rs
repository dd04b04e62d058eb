//! The machine of shifts in a modelled world full of faults: AWS that answers late or never, stores that lose races, engines that
//! crash between looking and storing, callers who say anything at any moment. Judged at every change by rules of their own
//! (`shift_world/judge.rs`). Each seed is one history; the story of a failing one is printed.

mod shift_support;
mod shift_world;

use std::collections::BTreeSet;

use shift_support::{Rng, record};
use shift_world::{World, judge::Coverage};
use switchyard_core::shift::{Guard, ShiftReason, State};

/// Things that happen in a storm.
const EVENTS: usize = 160;
/// Rounds of 20 s after which every shift has ended: 5 steps of at most 3 measurements, bake times of 2 minutes and deadlines of
/// 200 s, three shifts in a row on one policy.
const ROUNDS: usize = 300;

fn history(seed: u64, tell: bool) -> Coverage {
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
    world.judge.coverage
}

/// A simulation that never gets somewhere judges nothing there.
fn everything_happened(coverage: &Coverage) {
    let reasons: BTreeSet<ShiftReason> = coverage.reasons.keys().map(|(_, why)| *why).collect();
    let missing: Vec<ShiftReason> = ShiftReason::ALL.into_iter().filter(|why| !reasons.contains(why)).collect();
    assert_eq!(missing, [ShiftReason::Created], "a shift is made with this one, so it never changes to it");
    let states: BTreeSet<State> = coverage.reasons.keys().map(|(state, _)| *state).collect();
    let missing: Vec<State> = State::ALL.into_iter().filter(|state| !states.contains(state)).collect();
    assert_eq!(missing, [], "no shift was ever in these states");
    for guard in Guard::ALL {
        assert!(coverage.guards.contains_key(&(guard, false)), "{guard} never held a shift up");
        assert_eq!(coverage.guards.contains_key(&(guard, true)), guard.overridable(), "{guard} crossed on purpose");
    }
    assert!(coverage.skipped > 0, "no promoted shift skipped a step");
}

#[test]
fn no_history_of_shifts_breaks_a_rule_and_calm_ends_every_shift_where_it_was_to_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, seeds) = (number("SWITCHYARD_FIRST_SEED").unwrap_or(0), number("SWITCHYARD_SEEDS").unwrap_or(2000));
    let mut coverage = Coverage::default();
    for seed in first..first + seeds {
        let Ok(found) = std::panic::catch_unwind(|| history(seed, false)) else {
            eprintln!("the story of seed {seed}:");
            history(seed, true);
            panic!("seed {seed} breaks a rule only when nobody looks");
        };
        coverage.add(found);
    }
    if seeds >= 2000 {
        everything_happened(&coverage);
    }
    if std::env::var_os("SWITCHYARD_COVERAGE").is_some() {
        eprintln!("{:#?}\n{:#?}\n{} skipped", coverage.reasons, coverage.guards, coverage.skipped);
    }
}
