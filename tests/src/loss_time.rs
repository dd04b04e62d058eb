//! How long the loss of a cluster is felt by clients, told apart by who needed how long. Reads the sandbox's logs; decides nothing.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::chaos::{POLICY, Stage};

#[derive(Debug, Deserialize)]
struct HealthLog {
    next: u64,
    changes: Vec<HealthChange>,
}

#[derive(Debug, Deserialize)]
struct HealthChange {
    time: Timestamp,
    target_group_arn: String,
    to: String,
}

#[derive(Debug, Deserialize)]
struct CallLog {
    calls: Vec<TimedCall>,
}

#[derive(Debug, Deserialize)]
struct TimedCall {
    operation: String,
    parameters: BTreeMap<String, String>,
    outcome: String,
    received: Timestamp,
    time: Timestamp,
}

/// Begins to take the time of a loss.
#[derive(Debug)]
pub struct StopWatch {
    health: u64,
    calls: u64,
    /// When the cluster was lost.
    pub lost: Timestamp,
    stalls: Stalls,
}

/// How long this machine stood still: by how much short sleeps were too long.
#[derive(Debug)]
struct Stalls {
    sum: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// One of the short sleeps.
const NAP: Duration = Duration::from_millis(20);
/// Too long by less than this is what schedulers do.
const NO_STALL: Duration = Duration::from_millis(20);

impl Stalls {
    fn watch() -> Self {
        let (sum, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let counted = sum.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let begun = Instant::now();
                tokio::time::sleep(NAP).await;
                let late = begun.elapsed().saturating_sub(NAP);
                if late > NO_STALL {
                    counted.fetch_add(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            }
        }));
        Self { sum, stop }
    }

    fn so_far(&self) -> Duration {
        Duration::from_millis(self.sum.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Who needed how long, from the loss of a cluster to the last error that a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// From the loss until the load balancer calls the last target unhealthy.
    pub detection: Duration,
    /// From then until the hub asks for target health again.
    pub reading: Duration,
    /// From that question until the hub's ModifyRule arrives at AWS.
    pub decision: Duration,
    /// Of that call.
    pub call: Duration,
    /// From then until the last request failed.
    pub propagation: Duration,
    /// From the first failed request, by when it was due but not before the loss, to the end of the last.
    pub errors: Duration,
    /// How long the machine stood still meanwhile, by the clock of the test: that is nobody's doing.
    pub stalled: Duration,
}

pub(crate) fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap_or_default()
}

impl StopWatch {
    /// The cluster is lost now.
    ///
    /// # Panics
    /// When the sandbox does not answer.
    pub async fn start(stage: &Stage) -> Self {
        let control = stage.world.sandbox.control();
        let log: HealthLog = control.get(&format!("/elb/health?since={}", u64::MAX)).await.expect("the health log");
        let calls = stage.world.elb().position().await.expect("the call log");
        Self { health: log.next, calls, lost: Timestamp::now(), stalls: Stalls::watch() }
    }

    /// The split of the time until the traffic of a cluster was moved away altogether.
    ///
    /// # Errors
    /// When a part cannot be found in the logs.
    pub async fn split(&self, stage: &Stage, cluster: &str) -> anyhow::Result<Split> {
        let control = stage.world.sandbox.control();
        let state = stage.world.elb().state().await?;
        let group = &state.group(POLICY, cluster).context("the cluster has a group")?.arn;
        let log: HealthLog = control.get(&format!("/elb/health?since={}", self.health)).await?;
        let marked = log.changes.iter().filter(|change| change.target_group_arn == *group && change.to == "unhealthy");
        let detected = marked.map(|change| change.time).max().context("targets were marked unhealthy")?;
        let calls: CallLog = control.get(&format!("/elb/calls?since={}", self.calls)).await?;
        let asked = calls.calls.iter().find(|call| {
            call.operation == "DescribeTargetHealth"
                && call.parameters.get("TargetGroupArn") == Some(group)
                && call.received >= detected
        });
        let asked = asked.context("the hub asked for target health")?.received;
        let moved = calls.calls.iter().find(|call| {
            call.operation == "ModifyRule" && call.outcome == "ok" && call.received >= asked && leaves(call, group)
        });
        let moved = moved.with_context(|| format!("a rule without {cluster} was written: {calls:?}"))?;
        let report = stage.load.report().await?;
        let from: Timestamp = report.failing_from.clone().context("requests failed")?.parse()?;
        let until: Timestamp = report.failing_until.clone().context("requests failed")?.parse()?;
        Ok(Split {
            detection: between(self.lost, detected),
            reading: between(detected, asked),
            decision: between(asked, moved.received),
            call: between(moved.received, moved.time),
            propagation: between(moved.time, until),
            errors: between(from.max(self.lost), until),
            stalled: self.stalls.so_far(),
        })
    }
}

/// The rule that was written gives the group no weight.
fn leaves(call: &TimedCall, group: &str) -> bool {
    call.parameters.iter().any(|(name, value)| {
        let place = name.strip_suffix(".TargetGroupArn").filter(|place| place.contains("ForwardConfig"));
        value == group && place.is_some_and(|p| call.parameters.get(&format!("{p}.Weight")).is_some_and(|w| w == "0"))
    })
}

impl Split {
    /// Prints it; clients felt it for less than `limit`, and what the machine stood still.
    ///
    /// # Panics
    /// When they felt it for longer.
    pub fn within(&self, row: &str, limit: Duration) {
        self.print(row);
        assert!(self.errors < limit + self.stalled, "{row}: {self:?}");
    }

    /// Shown whatever becomes of the test, past the capture of the test harness.
    fn print(&self, row: &str) {
        let ms = |duration: Duration| duration.as_millis();
        // A closed stderr is no reason to fail.
        let _closed = writeln!(
            std::io::stderr(),
            "{row}: errors for {} ms; detection {} ms, reading {} ms, decision {} ms, call {} ms, propagation {} ms; the machine \
             stood still for {} ms",
            ms(self.errors),
            ms(self.detection),
            ms(self.reading),
            ms(self.decision),
            ms(self.call),
            ms(self.propagation),
            ms(self.stalled),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(parameters: &[(&str, &str)]) -> TimedCall {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (operation, outcome) = ("ModifyRule".to_owned(), "ok".to_owned());
        let (received, time) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        TimedCall { operation, parameters, outcome, received, time }
    }

    #[test]
    fn a_rule_leaves_the_group_that_it_gives_no_weight() {
        const FIRST: &str = "Actions.member.1.ForwardConfig.TargetGroups.member.1";
        const SECOND: &str = "Actions.member.1.ForwardConfig.TargetGroups.member.2";
        let names = [FIRST, SECOND].map(|place| (format!("{place}.TargetGroupArn"), format!("{place}.Weight")));
        let [(first, of_first), (second, of_second)] = &names;
        let call = call(&[(first, "blue"), (of_first, "0"), (second, "green"), (of_second, "100")]);
        assert!(leaves(&call, "blue"));
        assert!(!leaves(&call, "green"));
        assert!(!leaves(&call, "red"));
    }
}
