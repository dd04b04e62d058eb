//! `explain`: how the weights of one policy came about, for somebody who was woken up. The verdict first, then the table, then the
//! sentences that do not fit it. Pure.

use jiff::Timestamp;

use super::{
    age, clock, percent,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    model::{
        Explanation, Link, Mode, PolicyRef,
        explanation::{ClusterExplanation, Level, Pending, Standing},
    },
    text::{count, plain},
};

/// The whole page.
pub fn explain(policy: &PolicyRef, explanation: Option<&Explanation>, paint: Paint, now: Timestamp) -> String {
    let name = paint.text(Tone::Title, &plain(&policy.to_string()));
    let Some(explanation) = explanation else {
        return format!("{name}  {}\n", paint.text(Tone::Doubt, "NOT PLANNED YET: no weights were decided so far"));
    };
    let verdict = plain(&format!("{}: {}", explanation.state, explanation.message));
    let mut page = format!("{name}  {}\n", paint.text(tone(explanation.state), &verdict));
    for (name, value) in facts(explanation, now) {
        page.push_str(&format!("  {name:<11} {}\n", plain(&value)));
    }
    page.push_str(&format!("\n{}", clusters(&explanation.clusters).render(paint)));
    for cluster in &explanation.clusters {
        for line in sentences(policy, cluster, explanation, now) {
            let line = plain(&format!("{}: {line}", cluster.cluster));
            page.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &line)));
        }
    }
    // One level that carries everything says nothing.
    if explanation.levels.len() > 1 || explanation.levels.iter().any(|level| level.health_permille < 1000) {
        page.push_str(&format!("\n{}", levels(&explanation.levels).render(paint)));
    }
    page
}

fn tone(state: Standing) -> Tone {
    match state {
        Standing::AsRequested => Tone::Good,
        Standing::Off => Tone::Plain,
        Standing::FailedOver | Standing::Unspecified => Tone::Doubt,
        Standing::Panic => Tone::Bad,
    }
}

fn facts(explanation: &Explanation, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(at) = explanation.decided_at {
        facts.push(("decided", format!("{} ({} ago)", clock(at), age(Some(at), now))));
    }
    if explanation.max_moves_per_hour > 0 {
        let (moves, most) = (explanation.moves_last_hour, explanation.max_moves_per_hour);
        let limit = if moves >= most { ": no cluster returns by itself (maxMovesPerHour)" } else { "" };
        facts.push(("moves", format!("{moves} of {most} within the last hour{limit}")));
    }
    if !explanation.lost_zones.is_empty() {
        let zones = explanation.lost_zones.join(", ");
        facts.push((
            "lost zones",
            format!("{zones}: nothing is healthy there in any cluster, so the scores leave them out"),
        ));
    }
    facts
}

fn clusters(clusters: &[ClusterExplanation]) -> Table {
    let mut table = Table::new(&[
        "CLUSTER",
        "LEVEL",
        "REQUESTED",
        "EFFECTIVE",
        "AT LB",
        "SHARE",
        "HEALTHY",
        "SCORE",
        "USED",
        "CAPACITY",
        "LINK",
        "MODE",
        "WHY",
    ]);
    for cluster in clusters {
        let settled = cluster.programmed_weight == Some(cluster.effective_weight);
        let doubt = |cell: Cell, doubtful: bool| if doubtful { cell.tone(Tone::Doubt) } else { cell };
        let at_lb = cluster.programmed_weight.map_or("?".to_owned(), |weight| weight.to_string());
        let why = if cluster.reason == "AsRequested" { "" } else { &cluster.reason };
        let link = if cluster.link == Link::Connected { Tone::Good } else { Tone::Doubt };
        table.row(vec![
            Cell::left(&cluster.cluster),
            Cell::right(cluster.priority),
            Cell::right(cluster.requested_weight),
            doubt(Cell::right(cluster.effective_weight), cluster.effective_weight != cluster.requested_weight),
            doubt(Cell::right(at_lb), !settled),
            Cell::right(percent(cluster.share_permille)),
            Cell::right(healthy(cluster)),
            Cell::right(if cluster.known { percent(cluster.score_permille) } else { "?".into() }),
            doubt(Cell::right(percent(cluster.used_permille)), cluster.used_permille < 1000),
            Cell::right(cluster.capacity_permille.map_or("-".into(), percent)),
            Cell::toned(cluster.link, link),
            Cell::toned(mode(cluster), if cluster.mode == Mode::Active { Tone::Plain } else { Tone::Doubt }),
            Cell::left(why),
        ]);
    }
    table
}

/// `2 of 10`, and `2+3 of 10` with three that are not judged yet.
fn healthy(cluster: &ClusterExplanation) -> String {
    let (healthy, expected) = (cluster.healthy_targets, cluster.expected_targets);
    match (cluster.known, cluster.unjudged_targets) {
        (false, _) => "?".into(),
        (true, 0) => format!("{healthy} of {expected}"),
        (true, unjudged) => format!("{healthy}+{unjudged} of {expected}"),
    }
}

/// `draining 75%`: the most that operators leave it of its share.
fn mode(cluster: &ClusterExplanation) -> String {
    match cluster.ceiling_permille {
        1000.. => cluster.mode.to_string(),
        ceiling => format!("{} {}%", cluster.mode, ceiling / 10),
    }
}

/// What the table has no room for.
fn sentences(policy: &PolicyRef, cluster: &ClusterExplanation, whole: &Explanation, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    if !cluster.message.is_empty() && !whole.message.contains(&cluster.message) {
        lines.push(cluster.message.clone());
    }
    if cluster.standby_weight > 0 {
        let (level, weight) = (cluster.priority, cluster.standby_weight);
        lines.push(format!("a standby of level {level}, with weight {weight} among those of its level"));
    }
    if !cluster.known {
        lines.push("its targets could not be read at that look: nothing was concluded from it".into());
    }
    if cluster.unjudged_targets > 0 {
        let targets = count(cluster.unjudged_targets as usize, "target");
        lines.push(format!("{targets} not judged by the load balancer yet, ready by the agent's word"));
    }
    if let Some(at) = cluster.out_since {
        let outs = match cluster.outs {
            0 | 1 => String::new(),
            more => {
                format!("; it went out {more} times within the last hour, each time it has to be healthy for longer")
            }
        };
        lines.push(format!("out since {} ({} ago){outs}", clock(at), age(Some(at), now)));
    }
    if let Some(pending) = &cluster.pending {
        lines.push(pending_sentence(policy, pending, whole, now));
    }
    if cluster.link != Link::Connected && cluster.link != Link::Unspecified {
        lines.push(format!(
            "its agent is {}: that alone moves nothing, the load balancer's health checks decide",
            cluster.link
        ));
    }
    lines
}

fn pending_sentence(policy: &PolicyRef, pending: &Pending, whole: &Explanation, now: Timestamp) -> String {
    let since = pending.since.map_or(String::new(), |at| format!(" since {} ({} ago)", clock(at), age(Some(at), now)));
    let exhausted = whole.max_moves_per_hour > 0 && whole.moves_last_hour >= whole.max_moves_per_hour;
    let looks = if pending.back { "looks better" } else { "looks worse" };
    let then = match (pending.back, pending.at) {
        (true, None) => format!("it returns when somebody says so: yardctl failback {policy}"),
        (true, Some(_)) if exhausted => {
            format!("the limit of moves within an hour is reached; yardctl failback {policy} lets it return now")
        }
        (_, Some(at)) if at <= now => "that counts at the next reading of the load balancer".into(),
        (true, Some(at)) => format!("it returns at {} if that lasts", clock(at)),
        (false, Some(at)) => format!("its share goes down at {} if that lasts", clock(at)),
        (false, None) => "its share goes down if that lasts".into(),
    };
    format!("{looks}{since}: {then}")
}

fn levels(levels: &[Level]) -> Table {
    let mut table = Table::new(&["LEVEL", "CAN CARRY", "GETS"]);
    for level in levels {
        table.row(vec![
            Cell::right(level.priority),
            Cell::right(percent(level.health_permille)),
            Cell::right(percent(level.load_permille)),
        ]);
    }
    table
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
