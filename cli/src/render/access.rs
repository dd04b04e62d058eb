//! Who may do what: callers, tokens, certificates, authorities, and what to do with a new join token. Pure.

use jiff::Timestamp;

use super::{
    age, clock, short,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    model::{AgentCertificate, Authority, Caller, Grant, JoinToken, ServiceToken},
    text::plain,
};

/// How much of a fingerprint a table has room for: as much as the audit log has.
const FINGERPRINT: usize = "sha256:".len() + 16;

/// `corp:ann@example.com, proved by jwt, until ...`, and the grants.
pub fn caller(caller: &Caller, paint: Paint, now: Timestamp) -> String {
    let proof = match caller.method.as_str() {
        "none" => "not proved (the hub runs in development mode)".to_owned(),
        method => format!("proved by {method}"),
    };
    let until = caller.expires_at.map(|at| format!(", until {}", moment(at, now))).unwrap_or_default();
    let mut text = format!("{}\n", plain(&format!("{}, {proof}{until}", caller.identity)));
    if caller.grants.is_empty() {
        text.push_str("may do nothing but ask this; an admin of the hub gives rights\n");
        return text;
    }
    let mut table = Table::new(&["ROLE", "NAMESPACES", "CLUSTERS", "OVERRIDES"]);
    for grant in &caller.grants {
        table.row(vec![
            Cell::left(grant.role),
            Cell::left(grant.namespaces.join(",")),
            Cell::left(grant.clusters.join(",")),
            Cell::left(if grant.overrides { "yes" } else { "no" }),
        ]);
    }
    text.push_str(&table.render(paint));
    text
}

pub fn join_tokens(tokens: &[JoinToken], paint: Paint, now: Timestamp) -> String {
    if tokens.is_empty() {
        return "No join tokens.\n".into();
    }
    let mut table = Table::new(&["ID", "CLUSTER", "STATE", "ENDS", "AGE", "BY"]);
    for token in tokens {
        let state = match (token.revoked_at, token.used_at) {
            (Some(_), _) => Cell::toned("revoked", Tone::Bad),
            (None, Some(_)) => Cell::left("used"),
            (None, None) if ended(token.expires_at, now) => Cell::left("ended"),
            (None, None) => Cell::toned("open", Tone::Doubt),
        };
        table.row(vec![
            Cell::left(&token.id),
            Cell::left(&token.cluster),
            state,
            Cell::left(end(token.expires_at, now)),
            Cell::left(age(token.created_at, now)),
            Cell::left(&token.created_by),
        ]);
    }
    table.render(paint)
}

pub fn certificates(certificates: &[AgentCertificate], paint: Paint, now: Timestamp) -> String {
    if certificates.is_empty() {
        return "No certificates.\n".into();
    }
    let mut table = Table::new(&["CLUSTER", "SERIAL", "STATE", "ENDS", "ISSUED", "PROOF", "AUTHORITY", "FINGERPRINT"]);
    for one in certificates {
        let state = match one.revoked_at {
            Some(_) if one.revoked_by.is_empty() => Cell::toned("revoked", Tone::Bad),
            Some(_) => Cell::toned(format!("revoked by {}", one.revoked_by), Tone::Bad),
            None if ended(one.not_after, now) => Cell::left("ended"),
            None => Cell::toned("good", Tone::Good),
        };
        table.row(vec![
            Cell::left(&one.cluster),
            Cell::left(&one.serial),
            state,
            Cell::left(end(one.not_after, now)),
            Cell::left(age(one.issued_at, now)),
            Cell::left(&one.proof),
            Cell::left(&one.authority),
            Cell::left(one.fingerprint.chars().take(FINGERPRINT).collect::<String>()),
        ]);
    }
    table.render(paint)
}

pub fn service_tokens(tokens: &[ServiceToken], paint: Paint, now: Timestamp) -> String {
    if tokens.is_empty() {
        return "No service tokens.\n".into();
    }
    let mut table = Table::new(&["NAME", "ID", "STATE", "ENDS", "LAST USED", "AGE", "BY", "MAY"]);
    for token in tokens {
        let state = match token.revoked_at {
            Some(_) => Cell::toned("revoked", Tone::Bad),
            None if ended(token.expires_at, now) => Cell::left("ended"),
            None => Cell::toned("good", Tone::Good),
        };
        table.row(vec![
            Cell::left(&token.name),
            Cell::left(&token.id),
            state,
            Cell::left(end(token.expires_at, now)),
            Cell::left(token.last_used_at.map_or("never".to_owned(), |at| format!("{} ago", age(Some(at), now)))),
            Cell::left(age(token.created_at, now)),
            Cell::left(&token.created_by),
            Cell::left(token.grants.iter().map(Grant::to_string).collect::<Vec<_>>().join("; ")),
        ]);
    }
    table.render(paint)
}

pub fn authorities(authorities: &[Authority], paint: Paint, now: Timestamp) -> String {
    if authorities.is_empty() {
        return "No authorities: the hub issues no certificates to agents.\n".into();
    }
    let mut table = Table::new(&["ID", "STATE", "FROM", "AGE", "ENDS", "TRUSTED UNTIL", "FINGERPRINT"]);
    for one in authorities {
        let trusted = one.trusted_until.or(one.not_after);
        let state = match one.issuing {
            true => Cell::toned("issues", Tone::Good),
            false if ended(trusted, now) => Cell::left("ended"),
            false => Cell::left("trusted"),
        };
        table.row(vec![
            Cell::left(&one.id),
            state,
            Cell::left(if one.external { "files" } else { "the hub" }),
            Cell::left(age(one.created_at, now)),
            Cell::left(end(one.not_after, now)),
            Cell::left(end(trusted, now)),
            Cell::left(one.fingerprint.chars().take(FINGERPRINT).collect::<String>()),
        ]);
    }
    table.render(paint)
}

fn ended(at: Option<Timestamp>, now: Timestamp) -> bool {
    at.is_some_and(|at| at <= now)
}

/// `in 55m00s`, `4m05s ago`.
fn end(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(String::new, |at| left(at, now))
}

/// `2026-01-02T04:04:05Z (in 1h00m)`.
pub fn moment(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", clock(at), left(at, now))
}

fn left(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_until(at).as_secs();
    if seconds > 0 { format!("in {}", short(seconds)) } else { format!("{} ago", short(-seconds)) }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
