//! When a wait for a shift is over: a machine without IO and clock, fed with what the watch of the shift brings.

use crate::{
    hub::ShiftNews,
    model::{Shift, State},
    shift_lines::{Line, head, lines},
    wait::Goal,
};

/// A replica that lags behind the one that answered the call may not know the shift yet. The watch asks with growing pauses
/// (0.1 s to 2 s): eight times take about seven seconds, the hub's replicas agree within two.
const UNKNOWN_TO_BELIEVE: u32 = 8;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// This is true of the weights that the shift moves to.
    Goal(Goal),
    /// The weights from before are back.
    Back,
}

impl Aim {
    /// As in the output: accepted, programmed, converged or restored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Goal(Goal::Accepted) => "accepted",
            Self::Goal(Goal::Programmed) => "programmed",
            Self::Goal(Goal::Converged) => "converged",
            Self::Back => "restored",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Reached,
    /// It is in a final state, and not in the one that was waited for.
    Ended,
    /// The hub does not know it.
    Unknown,
}

/// A wait after one step.
#[derive(Debug)]
pub struct Stepped {
    pub wait: ShiftWait,
    /// For the progress.
    pub lines: Vec<Line>,
    /// The shift is another than at the step before.
    pub changed: bool,
    /// Set when it is over.
    pub ending: Option<Ending>,
}

/// One wait. `step` consumes it, so that no news is judged against a state that was left behind.
#[derive(Clone, Debug)]
pub struct ShiftWait {
    aim: Aim,
    last: Option<Shift>,
    connected: bool,
    unknown: u32,
}

impl ShiftWait {
    /// A wait for a shift of which nothing was seen yet.
    pub fn new(aim: Aim) -> Self {
        Self { aim, last: None, connected: true, unknown: 0 }
    }

    /// A wait for the shift that a call made: what is true already needs no watch.
    pub fn start(aim: Aim, answered: &Shift) -> Stepped {
        Self::new(aim).look(answered.clone())
    }

    /// The same for a shift that was there before the call: of what happened only the last, which is the call, is news.
    pub fn go_on(aim: Aim, answered: &Shift) -> Stepped {
        let mut before = answered.clone();
        before.status.history.pop();
        Self { last: Some(before), ..Self::new(aim) }.look(answered.clone())
    }

    pub fn step(mut self, news: ShiftNews) -> Stepped {
        match news {
            ShiftNews::Opened => {
                let line = (!self.connected).then(|| "the hub answers again".to_owned());
                self.connected = true;
                self.stay(line)
            }
            ShiftNews::Lost(why) => {
                // Told once per outage: a hub that is away for an hour must not fill the log.
                let line = self.connected.then(|| format!("lost the hub, trying again: {why}"));
                self.connected = false;
                self.stay(line)
            }
            ShiftNews::NotFound => {
                self.unknown += 1;
                let gone = self.last.is_none() || self.unknown >= UNKNOWN_TO_BELIEVE;
                Stepped { ending: gone.then_some(Ending::Unknown), ..self.stay(None) }
            }
            ShiftNews::Shift(shift) => {
                self.unknown = 0;
                self.look(*shift)
            }
        }
    }

    fn stay(self, line: Option<String>) -> Stepped {
        let lines = line.into_iter().map(|text| Line { at: None, text }).collect();
        Stepped { wait: self, lines, changed: false, ending: None }
    }

    fn look(mut self, shift: Shift) -> Stepped {
        // After a reconnect, another replica may show an older picture.
        if self.last.as_ref().is_some_and(|last| shift.version < last.version) {
            return self.stay(None);
        }
        let lines = lines(self.last.as_ref(), &shift);
        let changed = self.last.as_ref() != Some(&shift);
        let ending = judge(self.aim, &shift);
        self.last = Some(shift);
        Stepped { wait: self, lines, changed, ending }
    }

    /// The last look at the shift.
    pub fn last(&self) -> Option<&Shift> {
        self.last.as_ref()
    }

    /// Where it is and why, in one line.
    pub fn pending(&self) -> String {
        match &self.last {
            None => "the hub has not told the state of the shift yet".into(),
            Some(shift) => {
                let until = shift.status.until.map(|at| format!(", until {}", at.strftime("%Y-%m-%dT%H:%M:%SZ")));
                format!("{}{}: {}", head(shift), until.unwrap_or_default(), shift.status.message)
            }
        }
    }
}

fn judge(aim: Aim, shift: &Shift) -> Option<Ending> {
    let status = &shift.status;
    let ended = status.state.is_final().then_some(Ending::Ended);
    let reached = match aim {
        Aim::Goal(Goal::Accepted) => true,
        Aim::Goal(Goal::Programmed) => status.state == State::Succeeded || last_weights_are_programmed(shift),
        Aim::Goal(Goal::Converged) => status.state == State::Succeeded,
        // Failed: it went back on its own, before the call or because of what the call found.
        Aim::Back => matches!(status.state, State::Aborted | State::Failed) && status.reason != "RestorePending",
    };
    if reached { Some(Ending::Reached) } else { ended }
}

/// `programmed` speaks of the step under way; on the way back it speaks of the weights from before.
fn last_weights_are_programmed(shift: &Shift) -> bool {
    let status = &shift.status;
    let forward = matches!(status.state, State::Baking | State::AwaitingApproval | State::Converging);
    forward && status.programmed && status.steps > 0 && status.step == status.steps
}

#[cfg(test)]
#[path = "shift_wait_tests.rs"]
mod tests;
