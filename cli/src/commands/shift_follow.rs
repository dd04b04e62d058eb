//! Follows a shift: feeds `shift_wait` from the watch, writes progress to stderr and the stream of `-o json` to stdout, minds the
//! time. The shift goes on whatever happens here.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at, sleep_until};

use super::follow::{STILL, Stop, Waited, rounded, seconds};
use crate::{
    error::{Exit, Failure, Report},
    finding::Crossing,
    hub::{Hub, ShiftNews, ShiftWatch},
    model::{Shift, shift_spec::Step},
    output::{clear_live, json_line, live, live_columns, now, progress, progress_at},
    shift_advice, shift_lines,
    shift_wait::{Aim, Ending, ShiftWait, Stepped},
};

/// The live line shows seconds.
const REDRAW: Duration = Duration::from_secs(1);
/// A wait outlives the bake times of its shift by this: as long as a step may take to be true at the load balancer by default.
const BEYOND_BAKES: Duration = Duration::from_secs(600);

/// The end of a wait: what to show, the last look at the shift, and the failure if it was not reached.
pub struct End {
    pub waited: Waited,
    pub last: Option<Shift>,
    pub failure: Option<Failure>,
}

/// What is followed, and how that is shown.
pub struct Following<'a> {
    pub hub: &'a Hub,
    pub id: &'a str,
    pub aim: Aim,
    /// One JSON object on stdout for each change.
    pub stream: bool,
    /// None: for ever.
    pub deadline: Option<Instant>,
    /// Without an answer until then it is given up although there is no deadline.
    pub first_answer: Option<Instant>,
}

/// What a call answered, before the shift is watched.
#[derive(Clone, Copy)]
pub struct Answered<'a> {
    pub shift: &'a Shift,
    /// True: the call made it. False: it was there before.
    pub new: bool,
}

/// One line of the stream.
#[derive(Serialize)]
struct Change<'a> {
    event: &'static str,
    at: Timestamp,
    shift: &'a Shift,
}

/// The last line of the stream.
#[derive(Serialize)]
pub struct Last<'a> {
    pub event: &'static str,
    pub at: Timestamp,
    pub request_id: Option<&'a str>,
    pub shift: Option<&'a Shift>,
    pub wait: Option<&'a Waited>,
    pub error: Option<Report>,
}

impl<'a> Last<'a> {
    pub fn new(request_id: Option<&'a str>, shift: Option<&'a Shift>, end: Option<&'a End>) -> Self {
        Self {
            event: "end",
            at: now(),
            request_id,
            shift: end.and_then(|end| end.last.as_ref()).or(shift),
            wait: end.map(|end| &end.waited),
            error: end.and_then(|end| end.failure.as_ref()).map(Report::new),
        }
    }
}

/// How long a wait for this shift may take, when nobody says otherwise: its bake times, and ten minutes.
pub fn budget(shift: &Shift) -> Duration {
    let bakes = shift.spec.strategy.steps.iter().map(bake).sum::<u64>();
    Duration::from_secs(bakes) + BEYOND_BAKES
}

/// A step is over after its bake time and the measurements of its gates.
fn bake(step: &Step) -> u64 {
    let gates = step.gates.iter().map(|gate| u64::from(gate.interval_seconds) * u64::from(gate.count));
    gates.max().unwrap_or(0).max(step.bake_seconds.into())
}

impl Following<'_> {
    /// Follows it to the end of the wait.
    ///
    /// # Errors
    /// Only when stdout cannot be written: everything else is an `End`, since the call itself was made.
    pub async fn run(&self, answered: Option<Answered<'_>>) -> Result<End, Failure> {
        let mut watch = self.hub.watch_shift(self.id);
        let mut this = Run { following: self, started: Instant::now(), still: still(), lost: None };
        let ended = this.watch(&mut watch, answered).await;
        clear_live();
        ended
    }
}

fn still() -> Interval {
    let mut still = interval_at(Instant::now() + STILL, STILL);
    still.set_missed_tick_behavior(MissedTickBehavior::Delay);
    still
}

/// One wait under way.
struct Run<'a> {
    following: &'a Following<'a>,
    started: Instant,
    /// Begins anew with each line, so that it tells only of silence.
    still: Interval,
    lost: Option<String>,
}

impl Run<'_> {
    async fn watch(&mut self, watch: &mut ShiftWatch, answered: Option<Answered<'_>>) -> Result<End, Failure> {
        let mut stop = Stop::listen();
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let aim = self.following.aim;
        let mut stepped = match answered {
            Some(Answered { shift, new: true }) => ShiftWait::start(aim, shift),
            Some(Answered { shift, new: false }) => ShiftWait::go_on(aim, shift),
            None => Stepped { wait: ShiftWait::new(aim), lines: vec![], changed: false, ending: None },
        };
        loop {
            self.tell(&stepped)?;
            let wait = stepped.wait;
            if let Some(ending) = stepped.ending {
                return Ok(self.ended(&ending, wait.last().cloned()));
            }
            let news = loop {
                tokio::select! {
                    news = watch.next() => break news,
                    _ = self.still.tick() => progress(&self.silence(&wait)),
                    _ = redraw.tick() => draw(&wait),
                    () = until(self.following.deadline) => return Ok(self.unknown("timeout", &wait)),
                    () = until(self.following.first_answer), if wait.last().is_none() => return Ok(self.unanswered()),
                    () = stop.asked() => return Ok(self.unknown("interrupted", &wait)),
                }
            };
            stepped = match news {
                Ok(news) => {
                    if let ShiftNews::Lost(why) = &news {
                        self.lost = Some(why.clone());
                    }
                    wait.step(news)
                }
                Err(failure) => return Ok(self.unwatched(failure, wait.last().cloned())),
            };
        }
    }

    /// Progress for people, and the stream for programs.
    fn tell(&mut self, stepped: &Stepped) -> Result<(), Failure> {
        for line in &stepped.lines {
            progress_at(line.at.unwrap_or_else(now), &line.text);
        }
        if !stepped.lines.is_empty() {
            self.still.reset();
        }
        match stepped.wait.last() {
            Some(shift) if stepped.changed && self.following.stream => {
                json_line(&Change { event: "change", at: now(), shift })
            }
            _ => Ok(()),
        }
    }

    fn silence(&self, wait: &ShiftWait) -> String {
        let left = self
            .following
            .deadline
            .map(|at| format!(", {} left", seconds(at.saturating_duration_since(Instant::now()))));
        format!(
            "still waiting for {}, {} so far{}: {}",
            self.subject(),
            seconds(self.started.elapsed()),
            left.unwrap_or_default(),
            wait.pending()
        )
    }

    /// `converged of shift ID`.
    fn subject(&self) -> String {
        format!("{} of shift {}", self.following.aim.word(), self.following.id)
    }

    fn ended(&self, ending: &Ending, last: Option<Shift>) -> End {
        let id = self.following.id;
        match ending {
            Ending::Reached => {
                progress(&format!("done: {}, after {}", self.subject(), seconds(self.started.elapsed())));
                self.end("reached", String::new(), last, None)
            }
            Ending::Ended => {
                let shift = last.clone().unwrap_or_default();
                let status = &shift.status;
                let why = format!("it is {} ({}): {}", status.state, shift.why(), status.message);
                let what = format!("shift {id} ended without what was waited for ({})", self.following.aim.word());
                let mut failure = Failure::new(Exit::Ended, what, &why, shift_advice::ended(&shift));
                failure.findings = shift.status.findings.into();
                failure.crossing = Crossing::Ended;
                self.end("ended", why, last, Some(failure))
            }
            Ending::Unknown => {
                let why = "the hub knows no such shift";
                let remedy = "look for the right id with `yardctl history`";
                let failure = Failure::new(Exit::NotFound, format!("cannot follow shift {id}"), why, remedy);
                self.end("unknown", why.into(), last, Some(failure))
            }
        }
    }

    /// Time is up, or somebody asked to stop: nothing is wrong with the shift as far as is known.
    fn unknown(&self, outcome: &'static str, wait: &ShiftWait) -> End {
        let id = self.following.id;
        let pending = wait.pending();
        let failure = Failure::new(
            Exit::Timeout,
            format!("{} was not seen within {} ({outcome})", self.subject(), seconds(self.started.elapsed())),
            &pending,
            shift_advice::unfinished(id, wait.last()),
        );
        self.end(outcome, pending, wait.last().cloned(), Some(failure))
    }

    fn unanswered(&self) -> End {
        let why = self.lost.clone().unwrap_or_else(|| "the hub does not answer".into());
        let what = format!("cannot follow shift {}", self.following.id);
        let remedy = "see that the hub runs and that --hub is right, then try again";
        let failure = Failure::new(Exit::Unavailable, what, &why, remedy);
        self.end("unknown", why, None, Some(failure))
    }

    fn unwatched(&self, failure: Failure, last: Option<Shift>) -> End {
        let message = failure.why.clone();
        self.end("unknown", message, last, Some(failure))
    }

    fn end(&self, outcome: &'static str, message: String, last: Option<Shift>, failure: Option<Failure>) -> End {
        let condition = self.following.aim.word().to_owned();
        let waited = Waited { condition, outcome, message, seconds: rounded(self.started.elapsed()) };
        End { waited, last, failure }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn draw(wait: &ShiftWait) {
    if let (Some(columns), Some(shift)) = (live_columns(), wait.last()) {
        live(&shift_lines::live(shift, now(), columns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        State, fixtures,
        shift_spec::{Gate, Strategy},
    };

    #[test]
    fn a_wait_may_take_the_bake_times_the_measurements_of_gates_and_ten_minutes() {
        let mut shift = fixtures::shift(State::Baking, 1);
        let gate = |count, interval_seconds| Gate { count, interval_seconds, ..Gate::default() };
        let step = |bake_seconds, gates| Step { bake_seconds, gates, ..Step::default() };
        shift.spec.strategy = Strategy {
            steps: vec![step(120, vec![]), step(60, vec![gate(4, 30), gate(1, 30)]), step(0, vec![])],
            ..Strategy::default()
        };
        assert_eq!(budget(&shift), Duration::from_secs(120 + 120 + 600));
        shift.spec.strategy = Strategy::default();
        assert_eq!(budget(&shift), Duration::from_secs(600));
    }
}
