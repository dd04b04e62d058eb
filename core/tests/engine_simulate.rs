//! The hub's engine loop around core against a simulated world with faults: see `engine_world` for the world, and its `judge` for
//! what is held to be true after every event.
//!
//! `SWITCHYARD_SEEDS=100000` plays more histories, `SWITCHYARD_SEED=7` one of them, `SWITCHYARD_SCRIPT=file` replays a script as it was
//! printed for a seed that failed; both of these tell what happens.

mod engine_world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use engine_world::{
    Broken, World,
    event::{Event, draw_minutes},
    shrink::{Script, nothing_planted},
};

/// Events of a history.
const EVENTS: usize = 14;

fn seeds(default: u64) -> u64 {
    std::env::var("SWITCHYARD_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The first of these seeds that fails, with its history.
fn first_failure(seeds: u64) -> Option<(Script, Broken)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    let workers = thread::available_parallelism().map_or(2, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || found.lock().unwrap().is_some() {
                        return;
                    }
                    let script = Script::of(seed, EVENTS);
                    if let Err(broken) = script.run(&nothing_planted) {
                        found.lock().unwrap().get_or_insert((script, broken));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn report(script: &Script, broken: &Broken) -> String {
    let short = script.shrink(broken, &nothing_planted);
    let (story, result) = short.run_telling(&nothing_planted, true);
    let story: Vec<&str> = story.lines().collect();
    let tail = story[story.len().saturating_sub(60)..].join("\n");
    format!(
        "seed {} breaks {}: {}\n\nThe script, shortened from {} to {} events; replay it with SWITCHYARD_SCRIPT=file:\n{}\n{tail}\n{result:?}",
        script.seed,
        broken.invariant,
        broken.detail,
        script.steps.len(),
        short.steps.len(),
        short.text(),
    )
}

#[test]
fn no_history_breaks_an_invariant_and_after_the_storm_everything_comes_true() {
    if let Some((script, broken)) = first_failure(seeds(10_000)) {
        panic!("{}", report(&script, &broken));
    }
}

#[test]
fn a_day_with_a_fault_every_minute_breaks_nothing_and_ends_with_the_weights_that_are_asked_for() {
    const MINUTES: usize = 24 * 60;
    let seed = std::env::var("SWITCHYARD_DAY").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let script = Script { seed, steps: draw_minutes(seed, MINUTES) };
    assert!(script.steps.len() > MINUTES);
    let (_, result) = script.run_telling(&nothing_planted, false);
    if let Err(broken) = result {
        // Only what lies before it can be at fault, and mostly what lies shortly before.
        let mut tick = 0;
        let before = script.steps.iter().take_while(|step| {
            tick += u64::from(step.wait);
            tick <= broken.at
        });
        let steps: Vec<_> = before.cloned().collect();
        panic!("day {seed}: {}", report(&Script { seed, steps }, &broken));
    }
}

/// Histories that broke something once, or that chance seldom comes to.
const KNOWN: [&str; 5] = [
    // A new holder of the lease reads the groups while AWS answers with errors, and not the listeners yet.
    r#"seed 817
       +0 {"hubKilled":0}
       +51 {"hubKilled":1}
       +0 {"allUnready":"blue"}
       +0 {"hubStarted":0}
       +0 {"serverErrors":8}
       +73 {"weights":["checkout",[0,100,50]]}"#,
    // A process is stopped past its lease, another takes over, and a backup comes back in which the first still holds it.
    r#"seed 4246
       +0 "storeBackup"
       +8 "refused"
       +17 {"hubPaused":1}
       +0 {"drain":["green",50]}
       +45 {"hubPaused":0}
       +0 {"allUnready":"blue"}
       +0 "storeRestored"
       +0 {"hubResumed":1}
       +50 {"shift":["checkout",[50,0,1],50]}"#,
    // A backup from three holders ago: nobody may write before a person has looked.
    r#"seed 1
       +150 "storeBackup"
       +5 {"hubKilled":1}
       +60 {"weights":["checkout",[50,50,0]]}
       +5 {"hubStarted":1}
       +30 {"hubKilled":0}
       +60 {"weights":["checkout",[100,50,0]]}
       +5 {"hubStarted":0}
       +30 {"hubKilled":1}
       +60 {"weights":["checkout",[50,100,0]]}
       +40 {"hubKilled":0}
       +0 "storeRestored"
       +0 {"hubStarted":0}
       +60 {"podScaledDown":["blue","cart",0]}
       +60 {"podMoves":["green","checkout",1]}
       +60 {"weights":["cart",[50,50,0]]}"#,
    // The networks of two clusters overlap.
    r#"seed 2
       +150 {"podCopiesAddress":[["green","checkout",1],["blue","checkout",0]]}
       +100 {"podMoves":["blue","checkout",0]}
       +100 {"podCopiesAddress":[["blue","cart",2],["green","cart",0]]}"#,
    // Every pod of the survivors is new, and the cluster that is left dies at the same moment.
    r#"seed 3
       +150 {"dark":"blue"}
       +40 {"podMoves":["green","checkout",0]}
       +0 {"podMoves":["green","checkout",1]}
       +0 {"podMoves":["green","checkout",2]}
       +60 {"lit":"blue"}
       +5 {"dark":"green"}"#,
];

#[test]
fn histories_that_broke_something_once_break_nothing_any_more() {
    for text in KNOWN {
        let script = Script::parse(text).unwrap();
        if let Err(broken) = script.run(&nothing_planted) {
            panic!("{}", report(&script, &broken));
        }
    }
}

/// A fault of the test's own: the first process is gone while the database is slow.
fn planted(world: &World) -> Result<(), Broken> {
    let broken = !world.hubs[0].alive && world.store.slow;
    let fault = || Broken { invariant: "planted", detail: String::new(), at: world.now };
    if broken { Err(fault()) } else { Ok(()) }
}

#[test]
fn a_history_that_fails_is_shortened_to_what_it_takes_and_fails_again_when_it_is_replayed() {
    let fails = |script: &Script| script.run(&planted).err();
    let planted_in = |script: &Script| fails(script).filter(|broken| broken.invariant == "planted");
    let found = (0..).map(|seed| Script::of(seed, 40)).find_map(|script| Some((planted_in(&script)?, script)));
    let (broken, script) = found.unwrap();
    let short = script.shrink(&broken, &planted);
    let events: Vec<&Event> = short.steps.iter().map(|step| &step.event).collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.contains(&&Event::HubKilled(0)) && events.contains(&&Event::StoreSlow(true)), "{events:?}");
    assert!(short.steps.iter().all(|step| step.wait == 0), "no waiting is needed: {short:?}");
    let replayed = Script::parse(&short.text()).unwrap();
    assert_eq!(replayed.run(&planted), short.run(&planted));
    assert!(fails(&replayed).is_some());
}

#[test]
fn a_script_that_cannot_be_read_says_which_line_and_what_to_write() {
    for (text, part) in [
        ("", "seed N"),
        ("seven", "seven"),
        ("seed 1\nstoreAway", "storeAway"),
        ("seed 1\n+x \"storeAway\"", "+TICKS"),
        ("seed 1\n+1 \"noSuchThing\"", "noSuchThing"),
    ] {
        let error = Script::parse(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(Script::parse("# by hand\nseed 3\n\n+2 \"storeAway\"\n").unwrap().steps.len(), 1);
}

#[test]
fn a_script_is_replayed_as_it_was_printed() {
    let script = Script::of(11, EVENTS);
    assert_eq!(Script::parse(&script.text()).unwrap(), script);
    let asked = std::env::var("SWITCHYARD_SCRIPT").ok();
    let seed = std::env::var("SWITCHYARD_SEED").ok().map(|seed| Script::of(seed.parse().unwrap(), EVENTS));
    let asked = asked.map(|file| Script::parse(&std::fs::read_to_string(file).unwrap()).unwrap());
    if let Some(script) = asked.or(seed) {
        let (story, result) = script.run_telling(&nothing_planted, true);
        println!("{}{story}", script.text());
        result.unwrap();
    }
}
