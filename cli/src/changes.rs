//! What changed between two looks at a policy, as lines for people and log files. Pure: no clock, no IO.
//!
//! Used by `status --watch` away from a terminal and by the progress of a wait. Each line stands for one thing
//! (a condition, a cluster, a note), named by a key, and appears again only when its text changes.

use std::collections::BTreeMap;

use crate::model::{ClusterStatus, Condition, Note, Policy};

/// The lines that are new or different in `now`; all of them when there was nothing before.
pub fn changes(before: Option<&Policy>, now: &Policy) -> Vec<String> {
    let old: BTreeMap<String, String> = before.map(facts).unwrap_or_default().into_iter().collect();
    let new = facts(now);
    let mut lines: Vec<String> =
        new.iter().filter(|(key, text)| old.get(key) != Some(text)).map(|(_, text)| text.clone()).collect();
    let ended = old.iter().filter(|(key, _)| key.starts_with("note/") && !new.iter().any(|(other, _)| other == *key));
    lines.extend(ended.map(|(_, text)| format!("over: {text}")));
    lines
}

/// Everything worth a line, in the order in which a person wants to read it.
fn facts(policy: &Policy) -> Vec<(String, String)> {
    let mut facts = vec![("version".to_owned(), format!("version {} of {}", policy.version, policy.reference))];
    if policy.deleting_since.is_some() {
        facts.push(("deleting".into(), "being deleted".into()));
    }
    facts.extend(policy.status.conditions.iter().map(|c| (format!("condition/{}", c.r#type), condition_line(c))));
    facts.extend(policy.status.clusters.iter().map(|c| (format!("cluster/{}", c.cluster), cluster_line(c))));
    // Two notes may share cluster and reason, so the message is part of the key.
    facts.extend(
        policy.status.notes.iter().map(|n| (format!("note/{}/{}/{}", n.cluster, n.reason, n.message), note_line(n))),
    );
    facts
}

/// `Programmed is False (InProgress) for version 7: the weights are being written`.
pub fn condition_line(condition: &Condition) -> String {
    let mut line = format!("{} is {}", condition.r#type, condition.status);
    if !condition.reason.is_empty() {
        line.push_str(&format!(" ({})", condition.reason));
    }
    line.push_str(&format!(" for version {}", condition.observed_version));
    if !condition.message.is_empty() {
        line.push_str(&format!(": {}", condition.message));
    }
    line
}

/// `cluster blue: requested 90, effective 90, programmed 100; targets 3/3 healthy`.
fn cluster_line(cluster: &ClusterStatus) -> String {
    let programmed = cluster.programmed_weight.map_or("unknown".to_owned(), |weight| weight.to_string());
    let targets = &cluster.targets;
    let mut line = format!(
        "cluster {}: requested {}, effective {}, programmed {programmed}; {} desired, {} registered, {} healthy",
        cluster.cluster,
        cluster.requested_weight,
        cluster.effective_weight,
        targets.desired,
        targets.registered,
        targets.healthy,
    );
    for (count, word) in [
        (targets.unhealthy, "unhealthy"),
        (targets.initial, "initial"),
        (targets.draining, "draining"),
        (targets.held, "held"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {word}"));
        }
    }
    line.push_str(&format!("; link {}", cluster.link));
    if let Some(why) = cluster.why() {
        line.push_str(&format!("; {why}"));
    }
    line
}

/// `note for green: ClusterStale: the agent of green is away: ...`.
pub fn note_line(note: &Note) -> String {
    let whom = if note.cluster.is_empty() { String::new() } else { format!(" for {}", note.cluster) };
    format!("note{whom}: {}: {}", note.reason, note.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Truth, fixtures};

    #[test]
    fn the_first_look_gives_every_line() {
        let lines = changes(None, &fixtures::policy(7));
        assert_eq!(lines[0], "version 7 of shop/checkout");
        assert_eq!(lines[1], "Accepted is True (AsRequested) for version 7: version 7 is stored");
        assert!(lines.iter().any(|line| line.starts_with("cluster green: requested 10, effective 0")), "{lines:?}");
        let note = format!("note for green: ClusterStale: {}", fixtures::CLUSTER_STALE);
        assert!(lines.contains(&note), "{lines:?}");
    }

    #[test]
    fn an_unchanged_policy_gives_no_line() {
        let policy = fixtures::policy(7);
        assert!(changes(Some(&policy), &policy).is_empty());
    }

    #[test]
    fn a_new_time_alone_is_not_a_change() {
        let before = fixtures::policy(7);
        let mut now = before.clone();
        now.status.updated_at = None;
        now.status.conditions[0].last_transition_time = None;
        assert!(changes(Some(&before), &now).is_empty());
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = fixtures::policy(7);
        let mut now = before.clone();
        now.status.conditions[2].status = Truth::True;
        now.status.clusters[1].programmed_weight = Some(10);
        let lines = changes(Some(&before), &now);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("Programmed is True"));
        assert!(lines[1].contains("programmed 10"));
    }

    #[test]
    fn a_note_that_ended_is_told_once() {
        let before = fixtures::policy(7);
        let mut now = before.clone();
        now.status.notes.truncate(1);
        let over = format!("over: note for green: ClusterStale: {}", fixtures::CLUSTER_STALE);
        assert_eq!(changes(Some(&before), &now), [over]);
        assert!(changes(Some(&now), &now).is_empty());
    }
}
