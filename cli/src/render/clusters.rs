//! Member clusters, the operations on them, and what the loss of one would do. Pure.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{
    age, clock, percent,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    cluster_wait::{progress_line, state_line},
    model::{Cluster, Forecast, Link, Mode, Operation, Verdict},
    text::plain,
};

/// The table, then the operations under way, then watches that fail.
pub fn clusters(clusters: &[Cluster], paint: Paint, now: Timestamp) -> String {
    if clusters.is_empty() {
        return "No clusters: no agent has connected yet.\n".into();
    }
    let mut table = Table::new(&[
        "NAME",
        "REGION",
        "VPC",
        "LINK",
        "MODE",
        "LAST SEEN",
        "AGENT",
        "ENDPOINTS",
        "PROBLEMS",
        "OPERATION",
    ]);
    for cluster in clusters {
        let problems = cluster.problems.len();
        table.row(vec![
            Cell::left(&cluster.name),
            Cell::left(&cluster.region),
            Cell::left(&cluster.vpc_id),
            Cell::toned(cluster.link, if cluster.link == Link::Connected { Tone::Good } else { Tone::Doubt }),
            Cell::toned(mode(cluster), if cluster.mode == Mode::Active { Tone::Good } else { Tone::Doubt }),
            Cell::left(age(cluster.last_seen, now)),
            Cell::left(&cluster.agent_version),
            Cell::right(cluster.endpoints),
            Cell::right(problems).tone(if problems > 0 { Tone::Bad } else { Tone::Plain }),
            Cell::left(cluster.operation.as_ref().map_or(String::new(), |operation| in_short(operation, now))),
        ]);
    }
    let mut text = table.render(paint);
    text.push_str(&operations(clusters, paint, now));
    text.push_str(&problems(clusters, paint));
    text
}

/// `draining 75%`: the most that is left to it of its share.
fn mode(cluster: &Cluster) -> String {
    match (cluster.mode, &cluster.operation) {
        (Mode::Draining | Mode::Returning, Some(operation)) => format!("{} {}%", cluster.mode, operation.percent),
        (mode, _) => mode.to_string(),
    }
}

/// `drain, 3m12s, 10 of 12 done`.
fn in_short(operation: &Operation, now: Timestamp) -> String {
    match (operation.ended_at, operation.until) {
        (Some(_), _) => format!("{}, ended {} ago", operation.kind, age(operation.ended_at, now)),
        (None, Some(until)) => format!("{}, until {}", operation.kind, clock(until)),
        (None, None) => {
            let (done, all) = operation.done();
            format!("{}, {}, {done} of {all} done", operation.kind, age(operation.started_at, now))
        }
    }
}

/// Everything about the operations that have not ended: who and why, where it is, and which policies it waits for.
fn operations(clusters: &[Cluster], paint: Paint, now: Timestamp) -> String {
    let mut text = String::new();
    let open = clusters.iter().filter_map(|cluster| {
        let operation = cluster.operation.as_ref().filter(|operation| operation.ended_at.is_none())?;
        Some((cluster, operation))
    });
    for (cluster, operation) in open {
        if text.is_empty() {
            text.push_str(&format!("\n{}\n", paint.text(Tone::Title, "UNDER WAY")));
        }
        let blocked = operation.why == "Blocked";
        let tone = if blocked { Tone::Bad } else { Tone::Doubt };
        text.push_str(&format!("  {}\n", paint.text(tone, &plain(&state_line(cluster)))));
        text.push_str(&format!("    {}\n", plain(&asked(operation, now))));
        for one in operation.progress.iter().filter(|one| !one.done) {
            text.push_str(&format!("    {}\n", plain(&progress_line(&cluster.name, one))));
        }
    }
    text
}

/// `drain by alice, 3m12s ago, in steps of 25% at least 60s apart: upgrade to 1.34`.
fn asked(operation: &Operation, now: Timestamp) -> String {
    let by = if operation.actor.is_empty() { String::new() } else { format!(" by {}", operation.actor) };
    let steps = match (operation.step_percent, operation.step_seconds) {
        (100, _) => String::new(),
        (step, 0) => format!(", in steps of {step}%"),
        (step, seconds) => format!(", in steps of {step}% at least {seconds}s apart"),
    };
    let force = if operation.force { ", whatever the others declare that they can carry" } else { "" };
    let reason = if operation.reason.is_empty() { String::new() } else { format!(": {}", operation.reason) };
    format!("{}{by}, {} ago{steps}{force}{reason}", operation.kind, age(operation.started_at, now))
}

fn problems(clusters: &[Cluster], paint: Paint) -> String {
    let lines: Vec<String> = clusters
        .iter()
        .flat_map(|cluster| cluster.problems.iter().map(move |problem| (cluster, problem)))
        .map(|(cluster, problem)| {
            let place = if problem.namespace.is_empty() { "all namespaces" } else { &problem.namespace };
            plain(&format!("{}: {} in {place}: {}", cluster.name, problem.kind, problem.message))
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let title = paint.text(Tone::Title, "WATCHES THAT FAIL (what they reported before stays in force)");
    let lines: String = lines.iter().map(|line| format!("  {}\n", paint.text(Tone::Bad, line))).collect();
    format!("\n{title}\n{lines}")
}

/// What the loss of `lost` does, the worst first, and the sum at the end.
pub fn forecast(lost: &str, forecasts: &[Forecast], paint: Paint) -> String {
    if forecasts.is_empty() {
        return format!("No policy names {}.\n", plain(lost));
    }
    let mut sorted: Vec<&Forecast> = forecasts.iter().collect();
    sorted.sort_by_key(|forecast| (Reverse(forecast.verdict), forecast.policy.clone()));
    let mut table = Table::new(&["POLICY", "VERDICT", "LOSES", "KEEPS", "WHO TAKES IT"]);
    for forecast in &sorted {
        let own = forecast.clusters.iter().find(|cluster| cluster.cluster == lost);
        let part = |of: Option<u32>| of.map_or("-".to_owned(), percent);
        let keeps = own.map(|own| own.share_after_permille.min(own.share_before_permille));
        let loses = own.zip(keeps).map(|(own, keeps)| own.share_before_permille - keeps);
        table.row(vec![
            Cell::left(&forecast.policy),
            Cell::toned(forecast.verdict, tone(forecast.verdict)),
            Cell::right(part(loses)),
            Cell::right(part(keeps)),
            Cell::left(&forecast.message),
        ]);
    }
    format!("{}\n{}", table.render(paint), sum(lost, &sorted, paint))
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Untouched => Tone::Plain,
        Verdict::Carried => Tone::Good,
        Verdict::Unproven | Verdict::Unspecified => Tone::Doubt,
        Verdict::Overloaded | Verdict::NotCarried => Tone::Bad,
    }
}

/// `12 policies name blue: 1 NOT CARRIED, 9 carried, 2 unproven`, and what the words ask for.
fn sum(lost: &str, sorted: &[&Forecast], paint: Paint) -> String {
    let of = |verdict: Verdict| sorted.iter().filter(|forecast| forecast.verdict == verdict).count();
    let order = [
        Verdict::NotCarried,
        Verdict::Overloaded,
        Verdict::Unspecified,
        Verdict::Unproven,
        Verdict::Carried,
        Verdict::Untouched,
    ];
    let counts: Vec<String> = order
        .into_iter()
        .map(|verdict| (of(verdict), verdict))
        .filter(|(count, _)| *count > 0)
        .map(|(count, verdict)| format!("{count} {verdict}"))
        .collect();
    let all = match sorted.len() {
        1 => "1 policy names".to_owned(),
        more => format!("{more} policies name"),
    };
    let worst = sorted.first().map_or(Tone::Plain, |forecast| tone(forecast.verdict));
    let line = plain(&format!("{all} {lost}: {}", counts.join(", ")));
    format!("{}\n", paint.text(worst, &line))
}

#[cfg(test)]
#[path = "clusters_tests.rs"]
mod tests;
