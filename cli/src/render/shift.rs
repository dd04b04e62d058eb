//! Shifts, gating switches and the audit log as text. Pure.

use jiff::Timestamp;

use super::{
    age, lists,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    finding::{Crossing, finding_block},
    model::{
        Finding, GatingSwitch, Note, Shift, State, StepPlan,
        shift::Phase,
        shift_spec::{Gate, Step},
    },
    parse::ShiftName,
    shift_lines::{pairs, place},
    text::plain,
};

/// `shift ID of shop/checkout: Baking 2/4 (25%): bakes until ... (Baking)`, one line.
pub fn shift_line(shift: &Shift) -> String {
    let status = &shift.status;
    plain(&format!(
        "shift {} of {}: {}: {} ({})",
        shift.id,
        shift.spec.policies_in_short(),
        place(shift),
        status.message,
        shift.why()
    ))
}

/// A shift as it was named, for messages.
pub fn shift_name(name: &ShiftName, namespace: Option<&str>) -> String {
    match name {
        ShiftName::Id(id) => format!("shift {id}"),
        ShiftName::Policy(name) => match name.namespace.as_deref().or(namespace) {
            Some(namespace) => format!("the shift of {namespace}/{}", name.name),
            None => format!("the shift of default/{}", name.name),
        },
    }
}

/// `note for shop/checkout green: OpenStreams: ...`.
pub fn note_sentence(note: &Note) -> String {
    let whom = if note.cluster.is_empty() { String::new() } else { format!(" {}", note.cluster) };
    format!("note for {}{whom}: {}: {}", note.policy, note.reason, note.message)
}

pub fn history(shifts: &[Shift], paint: Paint, now: Timestamp) -> String {
    if shifts.is_empty() {
        return "No shifts.\n".into();
    }
    let mut table = Table::new(&["ID", "POLICIES", "STATE", "STEP", "FROM", "TO", "REASON", "BY", "AGE", "TOOK"]);
    for shift in shifts {
        let status = &shift.status;
        let first = status.moves.first();
        let took = status.ended_at.zip(shift.created_at).map(|(end, start)| age(Some(start), end));
        let state = if status.paused.is_some() { format!("{} PAUSED", status.state) } else { status.state.to_string() };
        table.row(vec![
            Cell::left(&shift.id),
            Cell::left(shift.spec.policies_in_short()),
            Cell::toned(state, tone(status.state)),
            Cell::left(format!("{}/{}", status.step, status.steps)),
            Cell::left(first.map(|one| pairs(&one.from)).unwrap_or_default()),
            Cell::left(first.map(|one| pairs(&one.to)).unwrap_or_default()),
            Cell::left(shift.why()),
            Cell::left(&shift.actor),
            Cell::left(age(shift.created_at, now)),
            Cell::left(took.unwrap_or_default()),
        ]);
    }
    table.render(paint)
}

fn tone(state: State) -> Tone {
    match state {
        State::Succeeded => Tone::Good,
        State::Failed => Tone::Bad,
        State::Aborting | State::Aborted | State::Superseded | State::AwaitingApproval => Tone::Doubt,
        State::Unspecified
        | State::Pending
        | State::Preflight
        | State::Stepping
        | State::Baking
        | State::Converging => Tone::Plain,
    }
}

/// The page of one shift: the verdict first, then who, what, how far, what holds it up, and what happened.
pub fn shift(shift: &Shift, paint: Paint, now: Timestamp) -> String {
    let status = &shift.status;
    let verdict = plain(&format!("{}: {} ({})", place(shift), status.message, shift.why()));
    let mut page = format!(
        "{}  {}\n",
        paint.text(Tone::Title, &plain(&format!("shift {}", shift.id))),
        paint.text(tone(status.state), &verdict)
    );
    page.push_str(&facts(shift, now));
    page.push_str(&format!("\n{}", moves(shift).render(paint)));
    if !shift.spec.strategy.steps.is_empty() {
        page.push_str(&format!("\n{}", steps(shift).render(paint)));
    }
    if !status.gates.is_empty() {
        page.push_str(&format!("\n{}", gates(shift, now).render(paint)));
    }
    let crossing = if status.state.is_final() { Crossing::Ended } else { Crossing::UnderWay };
    page.push_str(&findings(&status.findings, crossing, paint));
    page.push_str(&notes(&status.notes, paint));
    page.push_str(&events(shift, paint));
    page
}

fn facts(shift: &Shift, now: Timestamp) -> String {
    let status = &shift.status;
    let truth = |truth: bool| if truth { "yes" } else { "no" };
    let mut lines = vec![
        ("by", shift.actor.clone()),
        ("made", ago(shift.created_at, now)),
        ("in this state", ago(status.since, now)),
        ("programmed", format!("{}, converged {}", truth(status.programmed), truth(status.converged))),
    ];
    if !shift.spec.reason.is_empty() {
        lines.insert(0, ("reason", shift.spec.reason.clone()));
    }
    if let Some(until) = status.until {
        lines.push(("goes on at", until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    }
    if let Some(pause) = &status.paused {
        let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
        lines.push(("PAUSED", format!("by {} since {}{why}", pause.actor, ago(pause.since, now))));
    }
    if status.ended_at.is_some() {
        lines.push(("ended", ago(status.ended_at, now)));
    }
    if !shift.rollback_of.is_empty() {
        lines.push(("takes back", format!("shift {}", shift.rollback_of)));
    }
    if !shift.spec.overrides.is_empty() {
        lines.push(("overrides", shift.spec.overrides.join(", ")));
    }
    if let Some(resource) = &shift.resource {
        let text = format!("{}/{} in cluster {} (kubectl)", resource.namespace, resource.name, resource.cluster);
        lines.push(("resource", text));
    }
    lines.iter().map(|(name, value)| format!("  {name:<13}  {}\n", plain(value))).collect()
}

fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        Some(time) => format!("{} ({} ago)", time.strftime("%Y-%m-%dT%H:%M:%SZ"), age(at, now)),
        None => "-".into(),
    }
}

/// AT LB is what was read back from the load balancer.
fn moves(shift: &Shift) -> Table {
    let mut table = Table::new(&["POLICY", "FROM", "TO", "ASKED NOW", "AT LB"]);
    for one in &shift.status.moves {
        // Its spec took over, or it is gone: the shift neither asks nor answers for it.
        let left = one.present.is_empty();
        let settled = one.programmed.as_ref() == Some(&one.present);
        let unknown = if left { "" } else { "?" };
        table.row(vec![
            Cell::left(&one.policy),
            Cell::left(pairs(&one.from)),
            Cell::left(pairs(&one.to)),
            Cell::left(if left { "(not moved any more)".to_owned() } else { pairs(&one.present) }),
            Cell::toned(
                one.programmed.as_ref().map_or(unknown.to_owned(), pairs),
                if settled || left { Tone::Good } else { Tone::Doubt },
            ),
        ]);
    }
    table
}

fn steps(shift: &Shift) -> Table {
    let mut table = Table::new(&["STEP", "PERCENT", "BAKE", "APPROVAL", "GATES"]);
    for (number, step) in (1_u32..).zip(&shift.spec.strategy.steps) {
        let under_way = number == shift.status.step && !shift.status.state.is_final();
        let here = if under_way { format!("{number} <") } else { number.to_string() };
        let mut cells = step_cells(step, &shift.spec.gates);
        cells.insert(0, Cell::left(here));
        table.row(cells);
    }
    table
}

fn step_cells(step: &Step, shared: &[Gate]) -> Vec<Cell> {
    // The hub may write the shift's gates into each step, or leave them where they were asked for.
    let mut names: Vec<&str> = step.gates.iter().chain(shared).map(|gate| gate.name.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let bake = if step.bake_seconds == 0 { String::new() } else { super::short(step.bake_seconds.into()) };
    vec![
        Cell::right(step.percent),
        Cell::right(bake),
        Cell::left(if step.approval { "needed" } else { "" }),
        Cell::left(names.join(", ")),
    ]
}

fn gates(shift: &Shift, now: Timestamp) -> Table {
    let mut table = Table::new(&["GATE", "PHASE", "SUCCEEDED", "FAILED", "NO DATA", "VALUE", "MEASURED", "MESSAGE"]);
    for gate in &shift.status.gates {
        let tone = match gate.phase {
            Phase::Passed => Tone::Good,
            Phase::Failed => Tone::Bad,
            Phase::NoData => Tone::Doubt,
            Phase::Running | Phase::Unspecified => Tone::Plain,
        };
        table.row(vec![
            Cell::left(&gate.name),
            Cell::toned(format!("{:?}", gate.phase), tone),
            Cell::right(gate.succeeded),
            Cell::right(gate.failed),
            Cell::right(gate.without_data),
            Cell::right(gate.value.map(|value| value.to_string()).unwrap_or_default()),
            Cell::left(gate.measured_at.map(|_| format!("{} ago", age(gate.measured_at, now))).unwrap_or_default()),
            Cell::left(&gate.message),
        ]);
    }
    table
}

fn findings(findings: &[Finding], crossing: Crossing, paint: Paint) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let blocks: String = findings.iter().map(|finding| finding_block(finding, crossing)).collect();
    format!("\n{}\n{blocks}", paint.text(Tone::Title, "IN THE WAY"))
}

fn notes(notes: &[Note], paint: Paint) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{}\n", paint.text(Tone::Title, "WORTH KNOWING"));
    for note in notes {
        let whom = if note.cluster.is_empty() { String::new() } else { format!(" {}", note.cluster) };
        let line = plain(&format!("{}{whom}: {}: {}", note.policy, note.reason, note.message));
        text.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &line)));
    }
    text
}

fn events(shift: &Shift, paint: Paint) -> String {
    if shift.status.history.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["HAPPENED AT", "STATE", "STEP", "REASON", "BY", "MESSAGE"]);
    for event in &shift.status.history {
        table.row(vec![
            Cell::left(event.at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()),
            Cell::left(event.state),
            Cell::right(if event.step == 0 { String::new() } else { event.step.to_string() }),
            Cell::left(&event.reason),
            Cell::left(&event.actor),
            Cell::left(&event.message),
        ]);
    }
    format!("\n{}", table.render(paint))
}

/// What a shift would do.
pub fn dry_run(
    shift: Option<&Shift>,
    blocking: &[Finding],
    plans: &[StepPlan],
    long_flows: &[Note],
    paint: Paint,
) -> String {
    let mut text = String::from("Dry run: nothing was changed.\n");
    if let Some(shift) = shift {
        text.push_str(&format!("\n{}", moves_asked(shift).render(paint)));
        if !shift.spec.strategy.steps.is_empty() {
            text.push_str(&format!("\n{}", steps(shift).render(paint)));
        }
    }
    for step in plans {
        let title = format!("STEP {} ({}%)", step.step, step.percent);
        text.push_str(&format!("\n{}\n", paint.text(Tone::Title, &title)));
        if let Some(plan) = &step.plan {
            text.push_str(&lists::plan(plan, paint));
        }
    }
    text.push_str(&findings(blocking, Crossing::Flag, paint));
    text.push_str(&notes(long_flows, paint));
    if blocking.is_empty() {
        text.push_str("\nNothing stands in the way.\n");
    }
    text
}

fn moves_asked(shift: &Shift) -> Table {
    let mut table = Table::new(&["POLICY", "FROM", "TO"]);
    for one in &shift.status.moves {
        table.row(vec![Cell::left(&one.policy), Cell::left(pairs(&one.from)), Cell::left(pairs(&one.to))]);
    }
    table
}

pub fn switches(switches: &[GatingSwitch], paint: Paint, now: Timestamp) -> String {
    if switches.is_empty() {
        return "No gating switches: nothing is stopped.\n".into();
    }
    let mut table = Table::new(&["NAME", "STATE", "POLICIES", "VERSION", "CHANGED", "BY", "REASON"]);
    for switch in switches {
        table.row(vec![
            Cell::left(&switch.name),
            if switch.on { Cell::toned("on", Tone::Good) } else { Cell::toned("OFF", Tone::Bad) },
            Cell::left(switch.policies.join(",")),
            Cell::right(switch.version),
            Cell::left(age(switch.changed_at, now)),
            Cell::left(&switch.actor),
            Cell::left(&switch.reason),
        ]);
    }
    table.render(paint)
}

/// `gating switch freeze-shop is OFF: weights of shop/* do not move (version 3)`.
pub fn switch_line(switch: &GatingSwitch) -> String {
    let (state, effect) = if switch.on { ("on", "may move") } else { ("OFF", "do not move") };
    let policies = switch.policies.join(", ");
    let line = format!(
        "gating switch {} is {state}: weights of {policies} {effect} (version {})",
        switch.name, switch.version
    );
    format!("{}\n", plain(&line))
}

/// The line of a policy's status page.
pub fn shift_fact(shift: &Shift) -> String {
    let status = &shift.status;
    format!("{}  {}: {} ({})", shift.id, place(shift), status.message, status.reason)
}

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;
