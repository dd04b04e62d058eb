//! The audit log, and what became of its verification. Pure.

use super::table::{Cell, Paint, Table, Tone};
use crate::{model::AuditEntry, shift_lines::pairs, text::plain, verify::Verdict};

pub fn audit(entries: &[AuditEntry], paint: Paint) -> String {
    if entries.is_empty() {
        return "No entries.\n".into();
    }
    let mut table = Table::new(&[
        "TIME",
        "ACTOR",
        "ACTION",
        "RESULT",
        "POLICY",
        "FROM",
        "TO",
        "OVERRIDES",
        "SHIFT",
        "SOURCE",
        "REASON",
    ]);
    for entry in entries {
        let [about, from, to] = about(entry);
        table.row(vec![
            Cell::left(entry.at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()),
            Cell::left(&entry.actor),
            Cell::left(&entry.action),
            Cell::toned(&entry.result, if entry.result == "refused" { Tone::Doubt } else { Tone::Plain }),
            Cell::left(about),
            Cell::left(from),
            Cell::left(to),
            Cell::left(entry.overrides.join(",")),
            Cell::left(&entry.shift_id),
            Cell::left(&entry.source),
            Cell::left(reason(entry)),
        ]);
    }
    table.render(paint)
}

/// The policy with its weights, or the cluster with its modes: `cluster blue`, `active`, `draining 75%`; or what else has a name.
fn about(entry: &AuditEntry) -> [String; 3] {
    let told = |field: &str| entry.detail.get(field).and_then(|value| value.as_str());
    match told("cluster").filter(|_| entry.policy.is_empty()) {
        Some(cluster) => {
            let mode = |field| told(field).unwrap_or_default().to_lowercase();
            let percent = entry.detail.get("percent").and_then(serde_json::Value::as_u64);
            let percent = percent.filter(|percent| (1..100).contains(percent)).map(|percent| format!(" {percent}%"));
            let to = format!("{}{}", mode("toMode"), percent.unwrap_or_default());
            [format!("cluster {cluster}"), mode("fromMode"), to]
        }
        None if entry.policy.is_empty() => [named(&entry.action, told("name")), String::new(), String::new()],
        None => [entry.policy.clone(), pairs(&entry.from_weights), pairs(&entry.to_weights)],
    }
}

/// `token ci`, `switch freeze-shop`.
fn named(action: &str, name: Option<&str>) -> String {
    match name {
        Some(name) if action.starts_with("service-token.") => format!("token {name}"),
        Some(name) if action.ends_with("-switch") => format!("switch {name}"),
        _ => String::new(),
    }
}

/// What the caller said, or of a refusal what he was told, with how often where equal ones are one entry.
fn reason(entry: &AuditEntry) -> String {
    let told = entry.detail.get("message").and_then(|message| message.as_str());
    let Some(message) = told.filter(|_| entry.reason.is_empty() && entry.result != "done") else {
        return entry.reason.clone();
    };
    match entry.detail.get("count").and_then(serde_json::Value::as_u64) {
        Some(count) if count > 1 => format!("{count} times: {message}"),
        _ => message.to_owned(),
    }
}

/// `3 entries fit together, 1 to 3`, and what to keep of it.
pub fn verified(verdict: &Verdict, paint: Paint) -> String {
    let entries = match verdict.entries {
        1 => "1 entry fits".to_owned(),
        count => format!("{count} entries fit"),
    };
    let range = match (verdict.first_id, verdict.last_id) {
        (Some(first), Some(last)) => format!(" together, {first} to {last}"),
        _ => String::new(),
    };
    let mut text =
        format!("{}\n", paint.text(if verdict.verified { Tone::Good } else { Tone::Bad }, &(entries + &range)));
    if let Some(head) = &verdict.head {
        text.push_str(&format!("head  {head}\n"));
    }
    if let Some(kept) = verdict.kept_id {
        text.push_str(&format!("kept  the hash of entry {kept}\n"));
    }
    match (&verdict.problem, &verdict.head) {
        (Some(problem), _) => text.push_str(&format!("{}\n", paint.text(Tone::Bad, &plain(problem)))),
        (None, Some(head)) => text.push_str(&format!(
            "Keep the head where nobody who can write the database can write: `yardctl audit verify --head {head}`\n\
             shows later that nothing up to here was changed, left out or written anew.\n"
        )),
        (None, None) => {}
    }
    text
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
