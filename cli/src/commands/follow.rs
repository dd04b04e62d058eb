//! Runs a wait: feeds `wait::Wait` from the watch, writes its progress to stderr, minds the time.

use std::time::Duration;

use serde::Serialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    error::{Exit, Failure},
    hub::{Hub, News},
    model::{Event, Policy},
    output::progress,
    render::short,
    wait::{Ending, Observation, Until, Wait},
};

/// A log that says nothing for longer looks as if the program had died.
pub(super) const STILL: Duration = Duration::from_secs(30);

/// How a wait ended, for `-o json|yaml`.
#[derive(Clone, Debug, Serialize)]
pub struct Waited {
    /// accepted, programmed, converged, deleted; of a shift's way back restored
    pub condition: String,
    /// reached, superseded, deleted, failed, timeout, interrupted or unknown; of a shift ended instead of the second to fourth
    pub outcome: &'static str,
    pub message: String,
    pub seconds: f64,
}

/// The end of a wait: what to show, the last look at the policy, and the failure if it was not reached.
pub struct End {
    pub waited: Waited,
    pub last: Option<Policy>,
    pub failure: Option<Failure>,
}

/// Waits until it is true of the version in `created`, at most until `deadline`.
///
/// Always gives an `End`, also when the watch is refused: the change itself was made, and its result must be shown.
pub async fn wait_for(hub: &Hub, until: Until, created: &Policy, deadline: Instant) -> End {
    let subject = subject(until, created);
    let started = Instant::now();
    let this = This { subject: &subject, until, created, started };
    progress(&format!("waiting for {subject}, at most {}", seconds(deadline - started)));
    let mut watch = hub.watch(&created.reference);
    let mut stop = Stop::listen();
    let mut still = interval_at(started + STILL, STILL);
    still.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stepped = Wait::start(until, created);
    loop {
        let (wait, lines, ending) = stepped;
        lines.iter().for_each(|line| progress(line));
        if let Some(ending) = ending {
            return this.ended(ending, wait.last().cloned());
        }
        let news = loop {
            tokio::select! {
                news = watch.next() => break news,
                _ = still.tick() => progress(&format!(
                    "still waiting for {subject}, {} so far, {} left: {}",
                    seconds(started.elapsed()), seconds(deadline - Instant::now()), wait.pending(),
                )),
                () = sleep_until(deadline) => return this.unknown("timeout", &wait),
                () = stop.asked() => return this.unknown("interrupted", &wait),
            }
        };
        stepped = match news {
            Ok(news) => wait.step(observation(news)),
            Err(failure) => return this.unwatched(failure, wait.last().cloned()),
        };
    }
}

/// Ctrl-c or SIGTERM (how a CD system cancels a job). Where they cannot be caught they end the process as ever.
pub(super) struct Stop {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Stop {
    pub(super) fn listen() -> Self {
        Self { interrupt: signal(SignalKind::interrupt()).ok(), terminate: signal(SignalKind::terminate()).ok() }
    }

    pub(super) async fn asked(&mut self) {
        async fn came(from: &mut Option<Signal>) {
            match from {
                Some(signal) => {
                    signal.recv().await;
                }
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = came(&mut self.interrupt) => {}
            () = came(&mut self.terminate) => {}
        }
    }
}

fn observation(news: News) -> Observation {
    match news {
        News::Opened => Observation::Connected,
        News::Policy(Event::Deleted, policy) => Observation::Deleted(policy),
        News::NotFound => Observation::Unknown,
        News::Policy(_, policy) => Observation::Seen(policy),
        News::Synced => Observation::Synced,
        News::Lost(why) => Observation::Lost(why),
    }
}

/// `Converged of shop/checkout version 7`.
fn subject(until: Until, created: &Policy) -> String {
    match until {
        Until::True(goal) => format!("{} of {} version {}", goal.condition(), created.reference, created.version),
        Until::Gone => format!("the deletion of {}", created.reference),
    }
}

/// To the nearest second: "4m59s" for a wait of five minutes that began a millisecond ago would puzzle.
pub(super) fn seconds(duration: Duration) -> String {
    short(i64::try_from((duration + Duration::from_millis(500)).as_secs()).unwrap_or(i64::MAX))
}

/// One wait, for the texts at its end.
struct This<'a> {
    subject: &'a str,
    until: Until,
    created: &'a Policy,
    started: Instant,
}

impl This<'_> {
    fn ended(&self, ending: Ending, last: Option<Policy>) -> End {
        let look = format!("look with `yardctl status {}`", self.created.reference);
        let (outcome, message, remedy) = match ending {
            Ending::Reached => {
                progress(&format!("done: {}, after {}", self.subject, seconds(self.started.elapsed())));
                return self.end("reached", String::new(), last, None);
            }
            Ending::Superseded(why) => {
                ("superseded", why, format!("{look}; find out who changed it before you repeat your change"))
            }
            Ending::Deleted(why) => ("deleted", why, format!("{look}; find out who deleted it")),
            Ending::Failed(why) => ("failed", why, format!("{look}, correct the policy and apply it again")),
        };
        let failure = Failure::new(Exit::Superseded, format!("{} will not come", self.subject), &message, remedy);
        self.end(outcome, message, last, Some(failure))
    }

    /// Time is up, or somebody asked to stop: nothing is wrong with the change as far as is known.
    fn unknown(&self, outcome: &'static str, wait: &Wait) -> End {
        let pending = wait.pending();
        let failure = Failure::new(
            Exit::Timeout,
            format!("{} was not seen within {} ({outcome})", self.subject, seconds(self.started.elapsed())),
            &pending,
            format!(
                "the hub goes on by itself and the state is not known here: look with `yardctl status {} --watch`",
                self.created.reference
            ),
        );
        self.end(outcome, pending, wait.last().cloned(), Some(failure))
    }

    fn unwatched(&self, failure: Failure, last: Option<Policy>) -> End {
        let what = format!("version {} was accepted, but {}", self.created.version, failure.what);
        let message = failure.why.clone();
        self.end("unknown", message, last, Some(Failure { what, ..failure }))
    }

    fn end(&self, outcome: &'static str, message: String, last: Option<Policy>, failure: Option<Failure>) -> End {
        let condition = match self.until {
            Until::True(goal) => goal.condition().to_lowercase(),
            Until::Gone => "deleted".into(),
        };
        let waited = Waited { condition, outcome, message, seconds: rounded(self.started.elapsed()) };
        End { waited, last, failure }
    }
}

/// Milliseconds are enough.
pub(super) fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
