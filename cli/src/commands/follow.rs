//! Runs a wait: feeds `wait::Wait` from the watch, writes its progress to stderr, minds the time.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::{
    error::{Exit, Failure},
    hub::{Hub, News},
    model::{Event, Policy},
    output::progress,
    render::short,
    wait::{Ending, Observation, Until, Wait},
};

/// A log that says nothing for longer looks as if the program had died.
const STILL: Duration = Duration::from_secs(30);

/// How a wait ended, for `-o json|yaml`.
#[derive(Clone, Debug, Serialize)]
pub struct Waited {
    /// accepted, programmed, converged or deleted
    pub condition: String,
    /// reached, superseded, deleted, failed or timeout
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
pub async fn wait_for(hub: &Hub, until: Until, created: &Policy, deadline: Instant) -> Result<End, Failure> {
    let subject = subject(until, created);
    let started = Instant::now();
    progress(&format!(
        "waiting for {subject}, at most {}",
        seconds(deadline - started)
    ));
    // The answer to the call is the first look: what is true already needs no watch.
    let mut wait = Wait::new(until, created);
    let mut watch = hub.watch(&created.reference);
    let mut next = Some(Observation::Seen(Box::new(created.clone())));
    let mut still = interval_at(started + STILL, STILL);
    still.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(observation) = next.take() {
            let (stepped, lines, ending) = wait.step(observation);
            wait = stepped;
            lines.iter().for_each(|line| progress(line));
            if let Some(ending) = ending {
                return Ok(ended(&subject, until, created, wait.last().cloned(), ending, started));
            }
        }
        tokio::select! {
            news = watch.next() => next = Some(observation(news?)),
            _ = still.tick() => progress(&format!(
                "still waiting for {subject}, {} so far, {} left: {}",
                seconds(started.elapsed()), seconds(deadline - Instant::now()), wait.pending(),
            )),
            () = sleep_until(deadline) => return Ok(timed_out(&subject, until, created, &wait, started)),
        }
    }
}

fn observation(news: News) -> Observation {
    match news {
        News::Opened => Observation::Connected,
        News::Policy(Event::Deleted, _) | News::NotFound => Observation::Deleted,
        News::Policy(_, policy) => Observation::Seen(policy),
        News::Synced => Observation::Synced,
        News::Lost(why) => Observation::Lost(why),
    }
}

/// `Converged of shop/checkout version 7`.
fn subject(until: Until, created: &Policy) -> String {
    match until {
        Until::True(goal) => format!(
            "{} of {} version {}",
            goal.condition(),
            created.reference,
            created.version
        ),
        Until::Gone => format!("the deletion of {}", created.reference),
    }
}

fn word(until: Until) -> String {
    match until {
        Until::True(goal) => goal.condition().to_lowercase(),
        Until::Gone => "deleted".into(),
    }
}

/// To the nearest second: "4m59s" for a wait of five minutes that began a millisecond ago would puzzle.
fn seconds(duration: Duration) -> String {
    short(i64::try_from((duration + Duration::from_millis(500)).as_secs()).unwrap_or(i64::MAX))
}

fn ended(subject: &str, until: Until, created: &Policy, last: Option<Policy>, ending: Ending, started: Instant) -> End {
    let took = started.elapsed();
    let look = format!("look with `yardctl status {}`", created.reference);
    let (outcome, message, remedy) = match ending {
        Ending::Reached => ("reached", String::new(), String::new()),
        Ending::Superseded(why) => (
            "superseded",
            why,
            format!("{look}; find out who changed it before you repeat your change"),
        ),
        Ending::Deleted(why) => ("deleted", why, format!("{look}; find out who deleted it")),
        Ending::Failed(why) => ("failed", why, format!("{look}, correct the policy and apply it again")),
    };
    let failure = (outcome != "reached")
        .then(|| Failure::new(Exit::Superseded, format!("{subject} will not come"), &message, remedy));
    if failure.is_none() {
        progress(&format!("done: {subject}, after {}", seconds(took)));
    }
    let waited = Waited {
        condition: word(until),
        outcome,
        message,
        seconds: rounded(took),
    };
    End { waited, last, failure }
}

fn timed_out(subject: &str, until: Until, created: &Policy, wait: &Wait, started: Instant) -> End {
    let took = started.elapsed();
    let pending = wait.pending();
    let failure = Failure::new(
        Exit::Timeout,
        format!("{subject} was not seen within {}", seconds(took)),
        &pending,
        format!(
            "the hub goes on by itself and the state is not known here: look with `yardctl status {} --watch`",
            created.reference
        ),
    );
    let waited = Waited {
        condition: word(until),
        outcome: "timeout",
        message: pending,
        seconds: rounded(took),
    };
    End {
        waited,
        last: wait.last().cloned(),
        failure: Some(failure),
    }
}

/// Milliseconds are enough.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
