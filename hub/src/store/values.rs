//! Between SQL values and the types of core; and texts from outside made fit for a text column. No statements in here.

use std::fmt::Display;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};
use switchyard_core::inventory::Evidence;

use super::error::StoreError;

/// A row that does not fit core's types.
pub(super) fn unreadable(what: impl Into<String>, detail: impl Display) -> StoreError {
    StoreError::Unreadable { what: what.into(), detail: detail.to_string() }
}

/// A number that SQL holds as bigint and that its constraints keep from being negative.
pub(super) fn unsigned(what: &str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| unreadable(what, format!("{value} is negative")))
}

/// A counter for SQL; counters do not come near 2^63, and a larger number from outside is never equal to a stored one.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a jsonb value.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, value: Json<Value>) -> Result<T, StoreError> {
    serde_json::from_value(value.0).map_err(|error| unreadable(what, error))
}

/// Makes a jsonb value. The types of core always serialise: no maps with other than text keys, no failing serialisers.
pub(super) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<Json<Value>, StoreError> {
    let mut value = serde_json::to_value(value).map_err(|error| unreadable(what, error))?;
    strip_nul(&mut value);
    Ok(Json(value))
}

/// jsonb cannot hold U+0000.
fn strip_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(strip_nul),
        Value::Object(fields) => fields.values_mut().for_each(strip_nul),
        _ => {}
    }
}

/// A text from outside for a text column: without U+0000, which Postgres cannot hold, and at most `most` characters.
pub(super) fn text(value: &str, most: usize) -> String {
    value.chars().take(most).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

pub(super) fn at(timestamp: jiff_sqlx::Timestamp) -> Timestamp {
    timestamp.to_jiff()
}

pub(super) fn evidence_word(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::PodDeleted => "PodDeleted",
        Evidence::NotSelected => "NotSelected",
        Evidence::ServiceDeleted => "ServiceDeleted",
        Evidence::PortChanged => "PortChanged",
        Evidence::Absent => "Absent",
    }
}

pub(super) fn evidence(word: &str) -> Result<Evidence, StoreError> {
    let all = [
        Evidence::PodDeleted,
        Evidence::NotSelected,
        Evidence::ServiceDeleted,
        Evidence::PortChanged,
        Evidence::Absent,
    ];
    let found = all.into_iter().find(|evidence| evidence_word(*evidence) == word);
    found.ok_or_else(|| unreadable("an endpoint's evidence", format!("the word {word:?}")))
}

/// The connection inside a transaction; a name for what functions take that run in somebody else's transaction.
pub(super) type Conn = PgConnection;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_loses_its_nul_and_is_cut_at_a_character() {
        assert_eq!(text("a\0bä", 3), "a\u{fffd}b");
        assert_eq!(text("äää", 2), "ää");
    }

    #[test]
    fn json_from_outside_loses_nul_at_any_depth() {
        let json = to_json("x", &serde_json::json!({"a": ["b\0", {"c": "\0"}]})).unwrap();
        assert_eq!(json.0, serde_json::json!({"a": ["b\u{fffd}", {"c": "\u{fffd}"}]}));
    }
}
