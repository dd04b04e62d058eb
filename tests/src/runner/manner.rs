//! What is known of the test binaries: whether they wait, compute or measure, how many of their tests may run at a time, and how long
//! they take where nothing was measured yet. Pure. A binary that is not named here waits, and runs as many tests at a time as
//! cargo would let it.

/// What a job does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Waits for something outside: pods, leases, a Postgres. Its deadlines are on the wall clock.
    Waiting,
    /// Computes, and has no deadline.
    Computing,
    /// Measures how long something takes under traffic: a busy machine is not what it asks about.
    Measuring,
}

/// How a job is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manner {
    /// Beside what.
    pub lane: Lane,
    /// Its tests at a time.
    pub threads: usize,
    /// About how long it takes, in seconds.
    pub seconds: f64,
}

/// Binaries with whole worlds (a hub, agents, a load balancer, often two control planes of Kubernetes) in most tests, and how
/// long each took alone with the threads of two processors, in seconds.
const WORLDS: [(&str, f64); 6] = [
    ("tests/scenarios", 745.0),
    ("tests/kubernetes", 300.0),
    ("tests/examples", 125.0),
    ("tests/measuring", 60.0),
    ("tests/gateway", 60.0),
    ("tests/charts", 60.0),
];
/// Of worlds, those that measure, for instance for how long clients feel the loss of a cluster.
const MEASUREMENTS: [(&str, f64); 2] = [("tests/chaos", 120.0), ("tests/chaos_full", 600.0)];
/// Those that play thousands of histories, and about how long that takes on two processors, in seconds.
const SIMULATIONS: [(&str, f64); 4] = [
    ("core/engine_simulate", 60.0),
    ("core/simulate", 20.0),
    ("core/shift_simulate", 30.0),
    ("core/shift_planner", 10.0),
];

impl Manner {
    /// Of the job of this name, on a machine with so many processors.
    pub fn of(name: &str, processors: usize) -> Self {
        let find = |list: &[(&str, f64)]| list.iter().find(|(known, _)| *known == name).map(|(_, seconds)| *seconds);
        if let Some(seconds) = find(&SIMULATIONS) {
            return Self { lane: Lane::Computing, threads: processors, seconds };
        }
        // A world of a scenario keeps a quarter of a processor busy, mostly with its 100 requests a second.
        let worlds = processors + processors.div_ceil(2);
        if let Some(seconds) = find(&MEASUREMENTS) {
            return Self { lane: Lane::Measuring, threads: worlds, seconds };
        }
        match find(&WORLDS) {
            Some(seconds) => Self { lane: Lane::Waiting, threads: worlds, seconds },
            None => Self { lane: Lane::Waiting, threads: processors, seconds: 5.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulations_compute_and_worlds_run_more_tests_at_a_time_than_others() {
        let (world, simulation, other) =
            (Manner::of("tests/scenarios", 2), Manner::of("core/simulate", 2), Manner::of("hub/store_lease", 2));
        assert_eq!((world.lane, world.threads), (Lane::Waiting, 3));
        assert_eq!((simulation.lane, simulation.threads), (Lane::Computing, 2));
        assert_eq!((other.lane, other.threads), (Lane::Waiting, 2));
        assert_eq!(Manner::of("tests/chaos", 2).lane, Lane::Measuring);
    }
}
