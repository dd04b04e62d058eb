//! The status page of one policy: the page that is read at 3 a.m. Verdict first, then where it hurts. Pure.

use jiff::Timestamp;

use super::{
    age, share,
    shift::shift_fact,
    spec::spec_line,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    changes::condition_line,
    model::{ClusterStatus, Condition, Link, OwnerKind, Policy, PolicyRef, Shift, Truth},
    text::plain,
};

/// The whole page.
pub fn status(policy: &Policy, shift: Option<&Shift>, paint: Paint, now: Timestamp) -> String {
    let mut page = headline(policy, paint);
    page.push_str(&facts(policy, shift, now));
    page.push_str(&format!("\n{}", conditions(policy, now).render(paint)));
    if policy.status.clusters.is_empty() {
        page.push_str("\nThe hub has not told anything about clusters yet.\n");
    } else {
        page.push_str(&format!("\n{}", weights(&policy.status.clusters).render(paint)));
        page.push_str(&reasons(&policy.status.clusters, paint));
        page.push_str(&format!("\n{}", targets(&policy.status.clusters).render(paint)));
    }
    page.push_str(&notes(policy, paint));
    page
}

/// The page of a watch: the status as last seen, and whether the hub still answers.
pub fn live(
    reference: &PolicyRef,
    last: Option<&Policy>,
    shift: Option<&Shift>,
    lost: Option<&str>,
    paint: Paint,
    now: Timestamp,
) -> String {
    let mut page = match last {
        Some(policy) => status(policy, shift, paint, now),
        None => format!("{}  waiting for the hub\n", plain(&reference.to_string())),
    };
    if let Some(why) = lost {
        let old = if last.is_some() { ", what stands above is old" } else { "" };
        let line = plain(&format!("THE HUB DOES NOT ANSWER{old}: {why}"));
        page.push_str(&format!("\n{}\n", paint.text(Tone::Bad, &line)));
    }
    page.push_str("\nctrl-c ends the watch\n");
    page
}

/// The beginning of a page that has room on `rows` lines, and a word about what is left out. The cursor takes a line.
pub fn fit(page: &str, rows: usize) -> String {
    let lines: Vec<&str> = page.lines().collect();
    if lines.len() < rows {
        return page.to_owned();
    }
    let shown = rows.saturating_sub(2);
    let left = lines.len() - shown;
    format!("{}\n... {left} more lines: make the window taller\n", lines[..shown].join("\n"))
}

/// One line that says how it stands.
fn headline(policy: &Policy, paint: Paint) -> String {
    let name = plain(&policy.reference.to_string());
    let (tone, verdict) = verdict(policy);
    format!("{}  {}\n", paint.text(Tone::Title, &name), paint.text(tone, &plain(&verdict)))
}

fn verdict(policy: &Policy) -> (Tone, String) {
    if policy.deleting_since.is_some() {
        return (Tone::Doubt, "BEING DELETED".into());
    }
    if policy.status.observed_version < policy.version {
        let seen = policy.status.observed_version;
        return (
            Tone::Doubt,
            format!("NOT JUDGED YET: version {} is accepted, what follows speaks of version {seen}", policy.version),
        );
    }
    if let Some(moved) = moved(policy) {
        return moved;
    }
    // The first condition that is not true, in the order in which they build on each other.
    for kind in ["Accepted", "ResolvedRefs", "Programmed", "Converged"] {
        match policy.condition(kind) {
            Some(condition) if condition.status == Truth::True => {}
            Some(condition) => {
                let tone = if condition.status == Truth::False { Tone::Bad } else { Tone::Doubt };
                return (tone, format!("NOT CONVERGED: {}", condition_line(condition)));
            }
            None => return (Tone::Doubt, format!("NOT CONVERGED: {kind} is not judged yet")),
        }
    }
    let differs = policy.status.clusters.iter().any(|c| c.requested_weight != c.effective_weight);
    if differs {
        return (Tone::Doubt, "CONVERGED, but not to the weights that were asked for".into());
    }
    if policy.status.clusters.iter().any(|c| c.link == Link::Stale) {
        return (Tone::Doubt, "CONVERGED, but a cluster is not heard of: its targets are frozen".into());
    }
    (Tone::Good, "CONVERGED".into())
}

/// What health or operators have made of the weights: it is why the conditions below are not true, so it goes before them.
fn moved(policy: &Policy) -> Option<(Tone, String)> {
    let condition = policy.condition("FailedOver")?;
    if condition.status != Truth::True && condition.reason != "Panic" {
        return None;
    }
    if condition.reason == "Panic" {
        return Some((Tone::Bad, format!("PANIC: {}", condition.message)));
    }
    let there = |cluster: &ClusterStatus| cluster.programmed_weight.unwrap_or(0) == cluster.effective_weight;
    let word = if policy.status.clusters.iter().all(there) { "FAILED OVER" } else { "FAILING OVER" };
    Some((Tone::Doubt, format!("{word} ({}): {}", condition.reason, condition.message)))
}

fn facts(policy: &Policy, shift: Option<&Shift>, now: Timestamp) -> String {
    let mut lines = vec![
        ("version", format!("{}, generation {}", policy.version, policy.generation)),
        ("changed", ago(policy.updated_at, now)),
        ("owner", owner(policy, now)),
    ];
    if let Some(shift) = shift {
        lines.push(("shift", shift_fact(shift)));
    }
    if policy.deleting_since.is_some() {
        lines.push(("deleting", ago(policy.deleting_since, now)));
    }
    if let Some(spec) = spec_line(&policy.spec) {
        lines.push(("spec", spec));
    }
    match &policy.status.rule {
        Some(rule) => {
            // The listener can be known before there is a rule; priorities count from 1.
            let at = match rule.rule_arn.as_str() {
                "" => "-".to_owned(),
                arn => format!("priority {}, {arn}", rule.priority),
            };
            lines.push(("rule", at));
            lines.push(("listener", or_dash(&rule.listener_arn).to_owned()));
            lines.push(("programmed", ago(rule.programmed_at, now)));
        }
        None => lines.push(("rule", "none at the load balancer".into())),
    }
    lines.push(("status of", ago(policy.status.updated_at, now)));
    lines.iter().map(|(name, value)| format!("  {name:<11} {}\n", plain(value))).collect()
}

/// Who may change or delete it.
fn owner(policy: &Policy, now: Timestamp) -> String {
    let Some(owner) = &policy.owner else { return "-".into() };
    match owner.kind {
        OwnerKind::Unspecified => "-".into(),
        OwnerKind::Api => "the API (yardctl apply)".into(),
        OwnerKind::Cluster => {
            let mut text = format!("cluster {} (kubectl), generation {}", owner.cluster, owner.generation_in_force);
            if owner.generation > owner.generation_in_force {
                text.push_str(&format!(" in force, {} refused", owner.generation));
            }
            if owner.absent_since.is_some() {
                text.push_str(&format!(", MISSING there since {}", ago(owner.absent_since, now)));
            }
            text
        }
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// `2026-01-02T03:00:00Z (4m05s ago)`.
fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        Some(time) => format!("{} ({} ago)", time.strftime("%Y-%m-%dT%H:%M:%SZ"), age(at, now)),
        None => "-".into(),
    }
}

fn conditions(policy: &Policy, now: Timestamp) -> Table {
    let mut table = Table::new(&["CONDITION", "STATUS", "VERSION", "SINCE", "REASON", "MESSAGE"]);
    for condition in &policy.status.conditions {
        table.row(vec![
            Cell::left(&condition.r#type),
            Cell::toned(condition.status, tone(condition)),
            Cell::right(condition.observed_version),
            Cell::left(age(condition.last_transition_time, now)),
            Cell::left(&condition.reason),
            Cell::left(&condition.message),
        ]);
    }
    table
}

/// FailedOver is the one condition whose truth is the bad news.
fn tone(condition: &Condition) -> Tone {
    let inverted = condition.r#type == "FailedOver";
    match condition.status {
        Truth::True if inverted => Tone::Doubt,
        Truth::False if inverted => Tone::Good,
        Truth::True => Tone::Good,
        Truth::False => Tone::Bad,
        Truth::Unknown | Truth::Unspecified => Tone::Doubt,
    }
}

/// SHARE is what clients get: of the weights that were read back from the load balancer, not of those asked for.
fn weights(clusters: &[ClusterStatus]) -> Table {
    let mut table = Table::new(&["CLUSTER", "LINK", "REQUESTED", "EFFECTIVE", "PROGRAMMED", "SHARE", "WHY"]);
    let sum: u32 = clusters.iter().filter_map(|c| c.programmed_weight).sum();
    for cluster in clusters {
        let settled = cluster.programmed_weight == Some(cluster.effective_weight);
        let programmed = cluster.programmed_weight.map_or("-".to_owned(), |weight| weight.to_string());
        let mut effective = Cell::right(cluster.effective_weight);
        if cluster.effective_weight != cluster.requested_weight {
            effective = effective.tone(Tone::Doubt);
        }
        let mut programmed = Cell::right(programmed);
        if !settled {
            programmed = programmed.tone(Tone::Doubt);
        }
        table.row(vec![
            Cell::left(&cluster.cluster),
            Cell::toned(cluster.link, if cluster.link == Link::Connected { Tone::Good } else { Tone::Doubt }),
            Cell::right(cluster.requested_weight),
            effective,
            programmed,
            Cell::right(cluster.programmed_weight.map_or("-".to_owned(), |weight| share(weight, sum))),
            Cell::left(cluster.why().map_or("", |_| &cluster.reason)),
        ]);
    }
    table
}

/// Why effective differs from requested, in full: the message does not fit a column.
fn reasons(clusters: &[ClusterStatus], paint: Paint) -> String {
    let mut text = String::new();
    for (cluster, why) in clusters.iter().filter_map(|cluster| Some((cluster, cluster.why()?))) {
        let line = plain(&format!("{}: {why}", cluster.cluster));
        text.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &line)));
    }
    text
}

fn targets(clusters: &[ClusterStatus]) -> Table {
    let mut table = Table::new(&[
        "TARGETS",
        "DESIRED",
        "REGISTERED",
        "HEALTHY",
        "UNHEALTHY",
        "INITIAL",
        "DRAINING",
        "UNUSED",
        "HELD",
        "TARGET GROUP",
    ]);
    for cluster in clusters {
        let counts = &cluster.targets;
        let warn = |count: u32, tone| {
            if count > 0 { Cell::right(count).tone(tone) } else { Cell::right(count) }
        };
        table.row(vec![
            Cell::left(&cluster.cluster),
            Cell::right(counts.desired),
            Cell::right(counts.registered),
            Cell::right(counts.healthy),
            warn(counts.unhealthy, Tone::Bad),
            warn(counts.initial, Tone::Doubt),
            Cell::right(counts.draining),
            Cell::right(counts.unused),
            warn(counts.held, Tone::Doubt),
            Cell::left(&cluster.target_group_arn),
        ]);
    }
    table
}

fn notes(policy: &Policy, paint: Paint) -> String {
    if policy.status.notes.is_empty() {
        return "\nNothing is held or waiting.\n".into();
    }
    let mut text = format!("\n{}\n", paint.text(Tone::Title, "HELD OR WAITING"));
    for note in &policy.status.notes {
        let whom = if note.cluster.is_empty() { "(policy)" } else { &note.cluster };
        let line = plain(&format!("{whom}: {}: {}", note.reason, note.message));
        text.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &line)));
    }
    text
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
