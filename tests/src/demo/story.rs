//! What happens in the demo, in order. Everything is done by the programs that a user has: yardctl against the hub.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

use super::{
    Played,
    view::{Picture, Rollout, Screen},
};
use crate::{
    load::{Load, Report},
    programs,
    world::World,
};

/// The policy of the example.
pub const POLICY: &str = "shop/checkout";
/// How long the traffic is watched after each move.
const HOLD: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// There and back again.
const MOVES: [(u32, u32); 4] = [(50, 50), (0, 100), (50, 50), (100, 0)];

/// One move of traffic.
#[derive(Clone, Debug)]
pub struct Move {
    /// Weights of blue and green.
    pub weights: (u32, u32),
    /// From the call of yardctl until it said converged.
    pub took: Duration,
    /// What was answered from then on, before the next move.
    pub served: BTreeMap<String, u64>,
}

impl Move {
    /// A cluster of weight 0 that still answered after the move was called converged.
    pub fn complaint(&self) -> Option<String> {
        let weights = [("blue", self.weights.0), ("green", self.weights.1)];
        let wrong = |(name, weight): &(&str, u32)| (*weight == 0) == self.served.contains_key(*name);
        weights.iter().find(|pair| wrong(pair)).map(|(name, weight)| {
            format!("{name} has weight {weight}, and after converged the answers were {:?}", self.served)
        })
    }
}

/// What the looks need to remember.
struct Stage<'a> {
    world: &'a World,
    load: Load,
    screen: &'a mut Screen,
    begun: Instant,
    rollouts: u32,
}

/// Plays it, and leaves the load running.
pub async fn play(world: &World, rps: u32, screen: &mut Screen) -> anyhow::Result<(Load, Played)> {
    let example = programs::workspace().join("examples/checkout.yaml");
    let example = example.to_str().context("the workspace has a path that is not UTF-8")?;
    println!("applying {example}");
    let applied = world.yardctl.run(&["apply", "-f", example, "--wait", "converged", "--timeout", "60s"], "").await?;
    anyhow::ensure!(applied.code == 0, "the policy was not applied: {applied}");
    let load = world.try_load("checkout", rps).await?;
    println!(
        "{rps} requests a second through the load balancer; every pod of both clusters is replaced again and again\n"
    );
    let mut stage = Stage { world, load, screen, begun: Instant::now(), rollouts: 0 };
    stage.watch("all traffic on blue", HOLD).await?;
    let mut moves = Vec::new();
    for (i, weights) in MOVES.into_iter().enumerate() {
        moves.push(stage.move_to(i, weights).await?);
    }
    stage.last_update().await?;
    let (load, rollouts) = (stage.load, stage.rollouts);
    let report = load.report().await?;
    for (made, window) in moves.iter_mut().zip(report.windows.iter().filter(|w| w.name.starts_with("after move"))) {
        made.served = window.report.by_cluster.clone();
    }
    Ok((load, Played { report, moves, rollouts }))
}

impl Stage<'_> {
    async fn move_to(&mut self, number: usize, (blue, green): (u32, u32)) -> anyhow::Result<Move> {
        let phase = format!("moving to blue {blue}, green {green}");
        let (b, g) = (format!("blue={blue}"), format!("green={green}"));
        let arguments = ["weights", POLICY, &b, &g, "--reason", "demo", "--wait", "converged", "--timeout", "60s"];
        let yardctl = self.world.yardctl.clone();
        let called = Instant::now();
        let mut moving = std::pin::pin!(yardctl.run(&arguments, ""));
        let moved = loop {
            tokio::select! {
                moved = &mut moving => break moved?,
                looked = self.look(&phase) => looked?,
            }
        };
        let took = called.elapsed();
        anyhow::ensure!(moved.code == 0, "the weights were not moved: {moved}");
        self.load.mark(&format!("after move {number}")).await?;
        self.watch(&format!("converged: blue {blue}, green {green}"), HOLD).await?;
        // What comes now belongs to the next move.
        self.load.mark(&format!("before move {}", number + 1)).await?;
        Ok(Move { weights: (blue, green), took, served: BTreeMap::new() })
    }

    async fn watch(&mut self, phase: &str, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look(phase).await?;
        }
        Ok(())
    }

    /// The update under way comes to its end, so that the end of its last pods is under traffic as well.
    async fn last_update(&mut self) -> anyhow::Result<()> {
        loop {
            let done = self.updates().await?.iter().all(|rollout| rollout.leaving == 0 && !rollout.rolling);
            if done {
                return Ok(());
            }
            self.draw("the last pods are replaced").await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One look; an update that is through is followed by the next.
    async fn look(&mut self, phase: &str) -> anyhow::Result<()> {
        if self.updates().await?.iter().all(|rollout| !rollout.rolling) {
            self.rollouts += 1;
            let version = format!("v{}", self.rollouts + 1);
            for cluster in self.world.clusters() {
                cluster.roll_out("checkout", &version).await?;
            }
        }
        self.draw(phase).await?;
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }

    async fn updates(&self) -> anyhow::Result<Vec<Rollout>> {
        let mut updates = Vec::new();
        for cluster in self.world.clusters() {
            let workload = cluster.workload("checkout").await?;
            let leaving = workload.pods.iter().filter(|pod| pod.terminating).count();
            updates.push(Rollout {
                cluster: cluster.name,
                ready: workload.ready,
                wanted: workload.replicas,
                leaving,
                rolling: workload.rolling,
            });
        }
        Ok(updates)
    }

    async fn draw(&mut self, phase: &str) -> anyhow::Result<()> {
        let load: Report = self.load.report().await?;
        // Without an answer the columns of the hub stay empty, the traffic is what counts.
        let status: Option<Value> = self.world.yardctl.status(POLICY).await.ok();
        let picture = Picture {
            elapsed: self.begun.elapsed(),
            phase: phase.to_owned(),
            load,
            status,
            rollouts: self.updates().await?,
            version: self.rollouts + 1,
        };
        self.screen.show(&picture);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(weights: (u32, u32), served: &[(&str, u64)]) -> Move {
        let served = served.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Move { weights, took: Duration::ZERO, served }
    }

    #[test]
    fn an_answer_of_a_cluster_without_weight_is_a_complaint() {
        assert_eq!(moved((0, 100), &[("green", 500)]).complaint(), None);
        assert_eq!(moved((50, 50), &[("green", 1), ("blue", 1)]).complaint(), None);
        assert!(moved((0, 100), &[("green", 499), ("blue", 1)]).complaint().is_some());
        assert!(moved((50, 50), &[("green", 500)]).complaint().is_some());
    }
}
