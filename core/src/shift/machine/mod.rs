//! The machine of a shift. [`observe`] moves it by what is seen, [`command`] by what a caller says; both take the shift and give it
//! back with the weights that are to be asked for from now on. A step advances only on what was read back from AWS, so a lost
//! answer or a crash never makes a double step; and whoever stores the outcome does so only if nobody moved the shift meanwhile.
//!
//! `commands` takes what callers say; a look goes through `preflight`, `forward` (the steps) and `end` (converging, going back).

mod commands;
mod end;
mod forward;
mod gates;
mod look;
mod preflight;

use jiff::Timestamp;

pub use commands::{By, Command, Refusal, command};
pub use preflight::PREFLIGHT_PATIENCE;

use super::{Shift, State, WeightWrite, view::View};
use look::Look;

/// What came of a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The shift; equal to the one before when nothing happened.
    pub shift: Shift,
    /// To be stored together with it.
    pub writes: Vec<WeightWrite>,
    /// Gates of the present step that are due to be measured.
    pub due: Vec<usize>,
    /// When to look again although nothing else changed.
    pub again_at: Option<Timestamp>,
}

/// Moves the shift as far as what is seen allows.
pub fn observe(shift: Shift, view: &View<'_>) -> Outcome {
    let mut look = Look { shift, view, writes: Vec::new(), due: Vec::new(), again_at: None };
    if look.shift.is_active() {
        look.leave_lost_policies();
        // Each state is entered once at most in a look, but steps without bake time come one after the other: what was asked for
        // in this look was not read back, so it ends there.
        while look.advance() {}
    }
    let Look { shift, writes, mut due, again_at, .. } = look;
    if shift.state != State::Baking {
        // They were due in a step that was left in this very look.
        due.clear();
    }
    Outcome { shift, writes, due, again_at }
}
