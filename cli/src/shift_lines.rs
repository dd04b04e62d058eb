//! What changed between two looks at a shift, as lines for people and log files, each readable alone. Pure: no clock, no IO.

use jiff::Timestamp;

use crate::{
    model::{
        Note, Shift, State,
        shift::{GateStatus, Phase, ShiftEvent, Weights},
    },
    render::short,
};

/// More policies than this are counted and not listed: every line of the progress has them, and a shift may move twenty.
const MOVES_IN_A_LINE: usize = 2;

/// One line, with the hub's time of what it tells; none: it is told when it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at: Option<Timestamp>,
    pub text: String,
}

/// The lines that are new in `now`: every event since `before`, also those that happened while nobody watched, then what is
/// waited for, then gates that changed, then (at the first look) what outlives the shift.
pub fn lines(before: Option<&Shift>, now: &Shift) -> Vec<Line> {
    let mut lines = Vec::new();
    let events = new_events(before, now);
    lines.extend(events.iter().map(|event| Line { at: event.at, text: event_line(now, event) }));
    let status = &now.status;
    // An event often says already what is waited for: "...; the settle time runs".
    let told = status.history.last().is_some_and(|event| {
        (event.state, &event.reason) == (status.state, &status.reason) && event.message.contains(&status.message)
    });
    let same = before.is_some_and(|before| waits(before) == waits(now));
    if !told && !same && !status.message.is_empty() {
        lines.push(Line { at: None, text: format!("{}: {}", head(now), why(&status.message, &status.reason)) });
    }
    if waits_for_approval(now)
        && !before.is_some_and(|before| waits_for_approval(before) && before.status.step == status.step)
    {
        let text = format!("{}: let it go on with `yardctl approve {} --step {}`", head(now), now.id, status.step);
        lines.push(Line { at: None, text });
    }
    for gate in &status.gates {
        let old = before
            .filter(|before| before.status.step == status.step)
            .and_then(|before| before.status.gates.iter().find(|old| old.name == gate.name));
        if let Some(text) = gate_news(old, gate) {
            lines.push(Line { at: None, text: format!("{}: {text}", head(now)) });
        }
    }
    if before.is_none_or(|before| before.status.notes.is_empty()) {
        let notes = status.notes.iter().map(|note| format!("shift {}: {}", now.id, note_text(note)));
        lines.extend(notes.map(|text| Line { at: None, text }));
    }
    lines
}

fn waits_for_approval(shift: &Shift) -> bool {
    shift.status.state == State::AwaitingApproval && shift.status.reason == "ApprovalNeeded"
}

type Waits<'a> = (crate::model::State, u32, &'a str, &'a str);

fn waits(shift: &Shift) -> Waits<'_> {
    let status = &shift.status;
    (status.state, status.step, &status.reason, &status.message)
}

/// The events after the last one that was told. The hub keeps a bounded number: where the last one is gone, time decides.
fn new_events<'a>(before: Option<&Shift>, now: &'a Shift) -> &'a [ShiftEvent] {
    let history = &now.status.history[..];
    let Some(last) = before.and_then(|before| before.status.history.last()) else {
        return history;
    };
    match history.iter().rposition(|event| event == last) {
        Some(index) => &history[index + 1..],
        None => &history[history.iter().position(|event| event.at > last.at).unwrap_or(history.len())..],
    }
}

/// `shift ID Baking 2/4 (25%), shop/checkout blue=75,green=25`.
pub fn head(shift: &Shift) -> String {
    let weights = weights_now(shift);
    let comma = if weights.is_empty() { "" } else { ", " };
    format!("shift {} {}{comma}{weights}", shift.id, place(shift))
}

/// `Baking 2/4 (25%)`, with what stands over it.
pub fn place(shift: &Shift) -> String {
    let paused = if shift.status.paused.is_some() { " PAUSED" } else { "" };
    format!("{}{paused}", place_of(shift, shift.status.state, shift.status.step))
}

fn place_of(shift: &Shift, state: State, step: u32) -> String {
    if step == 0 {
        return state.to_string();
    }
    let percent = shift.percent(step).map(|percent| format!(" ({percent}%)")).unwrap_or_default();
    format!("{state} {step}/{}{percent}", shift.status.steps)
}

/// What the shift asks for now: `shop/checkout blue=75,green=25; shop/cart blue=1,green=0`. Policies that it does not move any more
/// (their spec took over, or they are gone) have no weights.
pub fn weights_now(shift: &Shift) -> String {
    let moves = shift.status.moves.iter().filter(|one| !one.present.is_empty());
    let mut weights: Vec<String> = moves.map(|one| format!("{} {}", one.policy, pairs(&one.present))).collect();
    if weights.len() > MOVES_IN_A_LINE {
        let more = weights.len() - 1;
        weights.truncate(1);
        weights.push(format!("and {more} more policies"));
    }
    weights.join("; ")
}

/// `blue=75,green=25`.
pub fn pairs(weights: &Weights) -> String {
    weights.iter().map(|(cluster, weight)| format!("{cluster}={weight}")).collect::<Vec<_>>().join(",")
}

fn event_line(shift: &Shift, event: &ShiftEvent) -> String {
    let status = &shift.status;
    // The weights of a step are told with each event of it, as long as they are what the shift asks for now.
    let same = (event.step, event.state.is_back()) == (status.step, status.state.is_back());
    let weights = if same { weights_now(shift) } else { String::new() };
    let comma = if weights.is_empty() { "" } else { ", " };
    let head = format!("shift {} {}{comma}{weights}", shift.id, place_of(shift, event.state, event.step));
    let by = if event.actor.is_empty() { String::new() } else { format!(", by {}", event.actor) };
    format!("{head}: {}{by}", why(&event.message, &event.reason))
}

/// `the weights of step 1 were read back (StepProgrammed)`.
fn why(message: &str, reason: &str) -> String {
    match (message, reason) {
        (message, "") => message.to_owned(),
        ("", reason) => reason.to_owned(),
        (message, reason) => format!("{message} ({reason})"),
    }
}

/// A gate is told when its verdict changes or a measurement failed, not at every measurement.
fn gate_news(old: Option<&GateStatus>, gate: &GateStatus) -> Option<String> {
    let (phase, failed) = old.map_or((Phase::Unspecified, 0), |old| (old.phase, old.failed));
    let begins = matches!(gate.phase, Phase::Running | Phase::Unspecified) && gate.failed == 0;
    if (phase == gate.phase && failed == gate.failed) || (begins && phase != Phase::NoData) {
        return None;
    }
    Some(gate_line(gate))
}

/// `gate errors Passed: 4 succeeded, 0 failed, 0 without data: 0.002 < 0.01 is a success`.
pub fn gate_line(gate: &GateStatus) -> String {
    let counts = format!("{} succeeded, {} failed, {} without data", gate.succeeded, gate.failed, gate.without_data);
    let message = if gate.message.is_empty() { String::new() } else { format!(": {}", gate.message) };
    format!("gate {} {:?}: {counts}{message}", gate.name, gate.phase)
}

fn note_text(note: &Note) -> String {
    let whom = if note.cluster.is_empty() { String::new() } else { format!(" {}", note.cluster) };
    format!("note for {}{whom}: {}: {}", note.policy, note.reason, note.message)
}

/// The one line that a terminal shows while it waits, at most `columns` wide.
pub fn live(shift: &Shift, now: Timestamp, columns: usize) -> String {
    let status = &shift.status;
    let mut text = place(shift);
    let weights = weights_now(shift);
    if !weights.is_empty() {
        text.push_str(&format!("  {weights}"));
    }
    if let Some(until) = status.until.filter(|until| *until > now && status.paused.is_none()) {
        text.push_str(&format!("  {} left", short(until.duration_since(now).as_secs())));
    } else if let Some(since) = status.since {
        text.push_str(&format!("  for {}", short(now.duration_since(since).as_secs().max(0))));
    }
    if !status.message.is_empty() {
        text.push_str(&format!("  {}", status.message));
    }
    text.chars().take(columns).collect()
}

#[cfg(test)]
#[path = "shift_lines_tests.rs"]
mod tests;
