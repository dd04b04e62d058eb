//! Runs a history, shortens one that fails, and writes and reads it as a script: `seed N`, then one event a line.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Broken, World,
    event::{Step, draw},
};

/// Runs that shortening may take.
const MOST_RUNS: usize = 1500;

/// Everything that a run needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub seed: u64,
    pub steps: Vec<Step>,
}

/// Plays a script; `plant` may put a fault of the test's own into the world.
pub type Plant<'a> = &'a (dyn Fn(&World) -> Result<(), Broken> + Sync);

pub fn nothing_planted(_: &World) -> Result<(), Broken> {
    Ok(())
}

impl Script {
    pub fn of(seed: u64, events: usize) -> Self {
        Self { seed, steps: draw(seed, events) }
    }

    /// Plays the history and the calm after it.
    pub fn run(&self, plant: Plant<'_>) -> Result<(), Broken> {
        self.run_telling(plant, false).1
    }

    /// The same, with what happened in words.
    pub fn run_telling(&self, plant: Plant<'_>, tell: bool) -> (String, Result<(), Broken>) {
        let mut world = World::new(self.seed, tell);
        let played = catch_unwind(AssertUnwindSafe(|| {
            world.play(&self.steps)?;
            plant(&world)?;
            world.calm()?;
            // Not after every history: it takes as long as the calm itself.
            if self.seed.is_multiple_of(16) { world.lose_a_cluster() } else { Ok(()) }
        }));
        let result = played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Broken { invariant: "panic", detail: text.unwrap_or_default(), at: world.now })
        });
        (world.story.unwrap_or_default(), result)
    }

    /// The shortest history found that breaks the same invariant.
    pub fn shrink(&self, broken: &Broken, plant: Plant<'_>) -> Self {
        let mut runs = 0;
        let mut fails = |script: &Script| {
            runs += 1;
            runs <= MOST_RUNS && script.run(plant).is_err_and(|other| other.invariant == broken.invariant)
        };
        let mut best = self.clone();
        let mut chunk = best.steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < best.steps.len() {
                let mut shorter = best.clone();
                let gone = shorter.steps.drain(at..(at + chunk).min(best.steps.len()));
                // Time passes all the same, so that what follows still meets what it met.
                let waited: u32 = gone.map(|step| step.wait).sum();
                if let Some(next) = shorter.steps.get_mut(at) {
                    next.wait += waited;
                }
                if fails(&shorter) { best = shorter } else { at += chunk }
            }
            if chunk == 1 {
                break;
            }
            chunk /= 2;
        }
        for at in 0..best.steps.len() {
            for wait in [0, best.steps[at].wait / 4, best.steps[at].wait / 2] {
                let mut sooner = best.clone();
                sooner.steps[at].wait = wait;
                if wait < best.steps[at].wait && fails(&sooner) {
                    best = sooner;
                    break;
                }
            }
        }
        best
    }

    pub fn text(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        for step in &self.steps {
            writeln!(text, "{step}").expect("a string takes every line");
        }
        text
    }

    /// Reads what [`Script::text`] wrote; lines that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next().ok_or("the script is empty; its first line is seed N")?;
        let seed = first.strip_prefix("seed ").and_then(|seed| seed.parse().ok());
        let seed = seed.ok_or_else(|| format!("{first:?} is no seed; the first line is seed N"))?;
        Ok(Self { seed, steps: lines.map(Step::parse).collect::<Result<_, _>>()? })
    }
}
