//! How long a move of all traffic takes, again and again, under traffic. Figures of this machine and of the sandbox's clocks:
//! good for comparing two versions of the programs, not for promises about AWS.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{FAILED, POLICY};
use crate::{policy::Policy, world::World};

/// Moves to the other cluster and back.
const ROUNDS: u32 = 10;

/// Middle and largest of some durations, in words.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let (Some(middle), Some(most)) = (times.get(times.len() / 2), times.last()) else {
        return "never".to_owned();
    };
    format!("median {:.2} s, most {:.2} s", middle.as_secs_f64(), most.as_secs_f64())
}

/// Measures and prints.
///
/// # Errors
/// When a part of the world does not do what it is told.
pub async fn play(world: &World, rps: u32) -> anyhow::Result<ExitCode> {
    let policy = Policy::new("checkout", &[("blue", 100), ("green", 0)]).yaml();
    let applied = world.yardctl.run(&["apply", "-f", "-", "--wait", "converged", "--timeout", "60s"], &policy).await?;
    anyhow::ensure!(applied.code == 0, "the policy was not applied: {applied}");
    let load = world.try_load("checkout", rps).await?;
    let (mut programmed, mut converged) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let weights = if round % 2 == 0 { ["blue=0", "green=100"] } else { ["blue=100", "green=0"] };
        let called = Instant::now();
        for (condition, times) in [("programmed", &mut programmed), ("converged", &mut converged)] {
            let arguments = ["weights", POLICY, weights[0], weights[1], "--wait", condition, "--timeout", "60s"];
            let moved = world.yardctl.run(&arguments, "").await?;
            anyhow::ensure!(moved.code == 0, "the weights were not moved: {moved}");
            times.push(called.elapsed());
        }
    }
    let report = load.finish().await?;
    println!("failed requests: {} of {}", report.failed, report.sent);
    println!("{ROUNDS} moves of all traffic, each from the call of yardctl until");
    println!("  read back from the load balancer: {}", spread(programmed));
    println!("  served everywhere (settle time 2 s): {}", spread(converged));
    let at = |name: &str| report.latency_ms.get(name).copied().unwrap_or_default();
    println!("latency of requests in ms: p50 {:.1}, p99 {:.1}, max {:.1}", at("p50"), at("p99"), at("max"));
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_middle_and_the_largest() {
        let times = [3, 1, 2].map(Duration::from_secs).to_vec();
        assert_eq!(spread(times), "median 2.00 s, most 3.00 s");
        assert_eq!(spread(Vec::new()), "never");
    }
}
