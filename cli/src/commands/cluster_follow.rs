//! Follows an operation on a cluster: feeds `cluster_wait` from the watch, writes its progress to stderr, minds the time. The
//! operation goes on whatever happens here.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::follow::{STILL, Stop, Waited, rounded, seconds};
use crate::{
    cluster_wait::{ClusterWait, Ending},
    error::{Exit, Failure},
    hub::Hub,
    model::{Cluster, Mode, Operation, OperationKind},
    output::progress,
};

/// What one step takes beside its interval: a call, its settle time (60 s by default, 120 s for the last one), and a wait for AWS.
const A_STEP: u64 = 180;
/// A wait outlives its steps by this, as long as for shifts.
const BEYOND_STEPS: u64 = 600;

/// The end of a wait: what to show, the last look at the cluster, and the failure if it was not reached.
pub struct End {
    pub waited: Waited,
    pub last: Cluster,
    pub failure: Option<Failure>,
}

/// How long a wait may take when nobody says otherwise: the steps with their intervals, a game day's own time, and ten minutes.
pub fn budget(cluster: &Cluster, own: Duration) -> Duration {
    let operation = cluster.operation.clone().unwrap_or_default();
    let steps = u64::from(100_u32.div_ceil(operation.step_percent.clamp(1, 100)));
    let seconds = steps * (u64::from(operation.step_seconds) + A_STEP) + BEYOND_STEPS;
    own + Duration::from_secs(seconds)
}

/// One wait under way.
struct Run<'a> {
    subject: String,
    /// Of the call that asked for it.
    request_id: &'a str,
    operation: Operation,
    started: Instant,
    deadline: Instant,
    /// Begins anew with each line, so that it tells only of silence.
    still: Interval,
}

/// Waits for the end of the operation that the call answered with, at most until `deadline`.
///
/// Always gives an `End`, also when the watch is refused: the operation itself was made, and its result must be shown.
pub async fn wait_for(hub: &Hub, answered: &Cluster, deadline: Instant, request_id: &str) -> End {
    let started = Instant::now();
    let mut still = interval_at(started + STILL, STILL);
    still.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let operation = answered.operation.clone().unwrap_or_default();
    let subject = format!("the end of the {} of {}", operation.kind, answered.name);
    let mut run = Run { subject, request_id, operation, started, deadline, still };
    let left = deadline.saturating_duration_since(started);
    progress(&format!("waiting for {}, at most {}", run.subject, seconds(left)));
    run.watch(hub, answered).await
}

impl Run<'_> {
    async fn watch(&mut self, hub: &Hub, answered: &Cluster) -> End {
        let mut watch = hub.watch_cluster(&answered.name);
        let mut stop = Stop::listen();
        let mut stepped = ClusterWait::start(answered);
        loop {
            stepped.lines.iter().for_each(|line| progress(line));
            if !stepped.lines.is_empty() {
                self.still.reset();
            }
            let wait = stepped.wait;
            if let Some(ending) = stepped.ending {
                return self.ended(ending, wait.last());
            }
            let news = loop {
                tokio::select! {
                    news = watch.next() => break news,
                    _ = self.still.tick() => progress(&self.silence(&wait)),
                    () = sleep_until(self.deadline) => return self.unfinished("timeout", &wait),
                    () = stop.asked() => return self.unfinished("interrupted", &wait),
                }
            };
            stepped = match news {
                Ok(news) => wait.step(news),
                Err(failure) => {
                    let message = failure.why.clone();
                    return self.end("unknown", message, wait.last(), Some(failure));
                }
            };
        }
    }

    fn silence(&self, wait: &ClusterWait) -> String {
        let left = self.deadline.saturating_duration_since(Instant::now());
        format!(
            "still waiting for {}, {} so far, {} left: {}",
            self.subject,
            seconds(self.started.elapsed()),
            seconds(left),
            wait.pending()
        )
    }

    fn ended(&self, ending: Ending, last: &Cluster) -> End {
        let look = format!("look with `yardctl get clusters {}`", last.name);
        let (outcome, why, remedy, exit) = match ending {
            Ending::Reached => {
                progress(&format!("done: {}, after {}", self.subject, seconds(self.started.elapsed())));
                return self.end("reached", String::new(), last, None);
            }
            Ending::Superseded(why) => {
                ("superseded", why, format!("{look}; ask who did it before you do it again"), Exit::Superseded)
            }
            Ending::Unknown => ("unknown", "the hub knows no such cluster any more".to_owned(), look, Exit::NotFound),
        };
        let failure = Failure::new(exit, format!("{} will not come", self.subject), &why, remedy);
        self.end(outcome, why, last, Some(failure))
    }

    /// Time is up, or somebody asked to stop: nothing is wrong with the operation as far as is known.
    fn unfinished(&self, outcome: &'static str, wait: &ClusterWait) -> End {
        let pending = wait.pending();
        let what = format!("{} was not seen within {} ({outcome})", self.subject, seconds(self.started.elapsed()));
        let failure = Failure::new(Exit::Timeout, what, &pending, self.advice(wait.last()));
        self.end(outcome, pending, wait.last(), Some(failure))
    }

    /// How to look, how to wait again, and how to take it back.
    fn advice(&self, last: &Cluster) -> String {
        let name = &last.name;
        let undo = match (self.operation.kind, last.mode) {
            (OperationKind::Uncordon, _) => format!("; take it out again with `yardctl drain {name}`"),
            (_, Mode::Returning) => String::new(),
            _ => format!("; undo it with `yardctl uncordon {name}`"),
        };
        format!(
            "the hub goes on by itself: look with `yardctl get clusters {name}`, wait again with the same command and \
             --request-id {}{undo}",
            self.request_id
        )
    }

    fn end(&self, outcome: &'static str, message: String, last: &Cluster, failure: Option<Failure>) -> End {
        let waited = Waited { condition: "ended".into(), outcome, message, seconds: rounded(self.started.elapsed()) };
        End { waited, last: last.clone(), failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_may_take_its_steps_their_intervals_and_ten_minutes() {
        let of = |step_percent, step_seconds| Cluster {
            operation: Some(Operation { step_percent, step_seconds, ..Operation::default() }),
            ..Cluster::default()
        };
        assert_eq!(budget(&of(25, 60), Duration::ZERO), Duration::from_secs(4 * 240 + 600));
        assert_eq!(budget(&of(30, 0), Duration::ZERO), Duration::from_secs(4 * 180 + 600));
        assert_eq!(budget(&of(100, 0), Duration::from_secs(300)), Duration::from_secs(300 + 180 + 600));
        assert_eq!(budget(&Cluster::default(), Duration::ZERO), Duration::from_secs(100 * 180 + 600));
    }
}
