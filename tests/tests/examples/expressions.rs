//! The expressions of CD systems, by a table: an example may use only what is in it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// What expressions stand for.
pub type Table = BTreeMap<String, String>;

/// A table of these.
pub fn table<const N: usize>(pairs: [(&str, String); N]) -> Table {
    pairs.into_iter().map(|(expression, value)| (expression.to_owned(), value)).collect()
}

/// Replaces every expression between `open` and `close`.
///
/// # Panics
/// When one is not in the table.
pub fn filled(text: &str, open: &str, close: &str, table: &Table) -> String {
    let mut rest = text;
    let mut done = String::new();
    while let Some((before, after)) = rest.split_once(open) {
        let (expression, after) = after.split_once(close).unwrap_or_else(|| panic!("{text:?} has no {close:?}"));
        let expression = expression.trim();
        let value = table.get(expression).unwrap_or_else(|| panic!("{expression:?} of {text:?} is not known here"));
        done.push_str(before);
        done.push_str(value);
        rest = after;
    }
    done + rest
}

/// The same in every text of a document.
pub fn filled_document(document: &Value, open: &str, close: &str, table: &Table) -> Value {
    let inner = |value: &Value| filled_document(value, open, close, table);
    match document {
        Value::String(text) => Value::String(filled(text, open, close, table)),
        Value::Array(list) => list.iter().map(inner).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), inner(value))).collect(),
        other => other.clone(),
    }
}

/// Replaces what the table has and leaves the rest: for texts in which the same marks mean something else, too.
pub fn known_filled(text: &str, open: &str, close: &str, table: &Table) -> String {
    let mut done = text.to_owned();
    for (expression, value) in table {
        done = done.replace(&format!("{open}{expression}{close}"), value);
    }
    done
}

#[test]
fn expressions_are_replaced_and_unknown_ones_noticed() {
    let table = table([("a.b", "1".to_owned()), ("c", "2".to_owned())]);
    assert_eq!(filled("x ${{ a.b }}-${{c}} y", "${{", "}}", &table), "x 1-2 y");
    assert_eq!(known_filled("$(c) $(date) $(a.b)", "$(", ")", &table), "2 $(date) 1");
    let unknown = std::panic::catch_unwind(|| filled("${{ d }}", "${{", "}}", &Table::new()));
    assert!(unknown.is_err());
}
