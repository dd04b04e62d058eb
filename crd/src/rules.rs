//! Rules in the Common Expression Language, and how they are put at their places in a structural schema.
//!
//! A rule's message says what is wrong and what helps, in the words of `core::policy::validate`; the server puts the field and its
//! value before it.

use serde_json::{Map, Value, json};

/// An RFC 1123 label.
pub const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// What helps where there is none.
pub const LABEL_MESSAGE: &str = "is not an RFC 1123 label; use at most 63 lower-case letters, digits and hyphens, with a letter or \
digit at both ends";

/// What the server calls the kind of fault. It shows no message with the kind that it has for duplicates, which is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// The value is not usable.
    #[default]
    Invalid,
    /// Something has to be there.
    Required,
    /// It may not be there, or not be so.
    Forbidden,
}

impl Reason {
    /// The word of the API, `x-kubernetes-validations[].reason`.
    fn word(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands: fields separated by dots from the resource's root, `[]` behind a list for its items. Empty: the root.
    pub at: &'static str,
    /// What has to be true; `self` is the value at that place, `oldSelf` the one before an update.
    pub rule: String,
    /// What is wrong and what helps.
    pub message: &'static str,
    /// An expression whose text is shown instead of the message. The server estimates `string()` of a number as expensive beyond
    /// its limit, so only texts can be shown in it.
    pub message_expression: Option<String>,
    /// The field below that the server names in place of its own, such as `.port`.
    pub field: Option<&'static str>,
    /// The kind of fault.
    pub reason: Reason,
}

/// A rule with nothing but its place, what has to be true, and what is wrong otherwise.
pub fn rule(at: &'static str, rule: impl Into<String>, message: &'static str) -> Rule {
    Rule { at, rule: rule.into(), message, ..Rule::default() }
}

impl Rule {
    fn json(&self) -> Value {
        let mut written = Map::new();
        written.insert("rule".to_owned(), json!(self.rule));
        written.insert("message".to_owned(), json!(self.message));
        if let Some(expression) = &self.message_expression {
            written.insert("messageExpression".to_owned(), json!(expression));
        }
        if let Some(field) = self.field {
            written.insert("fieldPath".to_owned(), json!(field));
        }
        if self.reason != Reason::Invalid {
            written.insert("reason".to_owned(), json!(self.reason.word()));
        }
        Value::Object(written)
    }
}

/// Puts rules at their places.
///
/// # Panics
/// When a place does not exist: a mistake in the table of rules, found by the first test.
pub fn attach(schema: &mut Value, rules: &[Rule]) {
    for rule in rules {
        let place = find(schema, rule.at);
        match place.entry("x-kubernetes-validations").or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(rule.json()),
            other => panic!("{other} is no list of rules"),
        }
    }
}

/// The schema at a place.
///
/// # Panics
/// When it does not exist.
pub fn find<'a>(schema: &'a mut Value, at: &str) -> &'a mut Map<String, Value> {
    let mut here = schema;
    for part in at.split('.').filter(|part| !part.is_empty()) {
        let (name, items) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        here = &mut here["properties"][name];
        if items {
            here = &mut here["items"];
        }
        assert!(here.is_object(), "{at}: there is no {part}");
    }
    here.as_object_mut().expect("each step has checked that it is an object")
}
