//! JSON to protobuf and back, by the descriptors: no call has code of its own. Pure.
//!
//! Requests: the proto3 JSON mapping, names in lowerCamelCase or as in the .proto files; unknown fields, null and names that are given
//! twice are refused. Answers: the same mapping, names in lowerCamelCase, 64-bit numbers as strings, what is at its default left out,
//! keys in alphabetical order so that the same answer is the same text.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde::de::value::{Error as TextError, StrDeserializer};

use super::{
    path,
    refusal::Refusal,
    routes::{FieldPath, Route, TIMESTAMP},
    strict,
};

/// The field that makes a change repeatable.
const REQUEST_ID: &str = "request_id";
const SEE: &str = "see /openapi.json for the fields of this call";

/// What a request was sent with.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'r> {
    /// The texts of the path's fields, still encoded.
    pub path: &'r [&'r str],
    /// The query, without its question mark.
    pub query: &'r str,
    /// The body.
    pub body: &'r [u8],
    /// The header `Idempotency-Key`.
    pub idempotency_key: Option<&'r str>,
}

/// The encoded request of the call.
///
/// # Errors
/// [`Refusal::Invalid`] with field, value and remedy.
pub fn request(route: &Route, sent: Sent<'_>) -> Result<Bytes, Refusal> {
    let mut message = body(route.method.input(), sent.body)?;
    for (field, text) in route.path_fields.iter().zip(sent.path) {
        let text = path::decoded(text, false)
            .map_err(|problem| Refusal::field(&field.json, text, problem, "encode it as UTF-8 with percent signs"))?;
        // Nothing here has such a name, and whoever is on the way could take it for another path.
        if text == "." || text == ".." || text.contains(['/', '\\']) || text.chars().any(char::is_control) {
            let remedy = "names hold no slash, backslash or control character, and are not . or ..";
            return Err(Refusal::field(&field.json, &text, "is no name", remedy));
        }
        set(&mut message, field, &text, "the path")?;
    }
    query(&mut message, route, sent.query)?;
    if let (Some(key), Some(field)) = (sent.idempotency_key, message.descriptor().get_field_by_name(REQUEST_ID)) {
        let field = FieldPath { json: field.json_name().to_owned(), proto: REQUEST_ID.to_owned(), steps: vec![field] };
        set(&mut message, &field, key, "the header Idempotency-Key")?;
    }
    Ok(message.encode_to_vec().into())
}

fn body(input: MessageDescriptor, body: &[u8]) -> Result<DynamicMessage, Refusal> {
    if body.is_empty() {
        return Ok(DynamicMessage::new(input));
    }
    strict::judge(body).map_err(|fault| {
        let field = if fault.place.is_empty() { "body" } else { &fault.place };
        Refusal::field(field, "", fault.problem, "send one JSON object with the fields of this call")
    })?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    DynamicMessage::deserialize(input, &mut reader).map_err(|error| {
        let (place, value) = strict::place(body, &error);
        let field = if place.is_empty() { "body" } else { &place };
        Refusal::field(field, &value, format!("cannot be read: {error}"), SEE)
    })
}

fn query(message: &mut DynamicMessage, route: &Route, query: &str) -> Result<(), Refusal> {
    let mut given: Vec<&FieldPath> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            path::decoded(text, true)
                .map_err(|problem| Refusal::field("query", text, problem, "encode it as UTF-8 with percent signs"))
        };
        let (name, text) = (decode(name)?, decode(text)?);
        let Some(field) = route.query_fields.iter().find(|field| field.json == name || field.proto == name) else {
            return Err(unknown_parameter(route, &name));
        };
        let again = given.iter().any(|before| before.json == field.json);
        if again && !field.last().is_list() {
            return Err(Refusal::field(&field.json, &text, "is given twice in the query", "give it once"));
        }
        given.push(field);
        // For a text, empty is what it is without: `?namespace=` means all.
        if !text.is_empty() || field.last().kind() != Kind::String {
            set(message, field, &text, "the query")?;
        }
    }
    Ok(())
}

fn unknown_parameter(route: &Route, name: &str) -> Refusal {
    let names: Vec<&str> = route.query_fields.iter().map(|field| field.json.as_str()).collect();
    let remedy = match (route.has_body(), names.is_empty()) {
        (true, _) => "give the fields of this call in the JSON body".to_owned(),
        (false, true) => "this call has none".to_owned(),
        (false, false) => format!("it takes {}", names.join(", ")),
    };
    Refusal::field(name, "", "is not a parameter of the query", &remedy)
}

/// Sets one field from a text. What the body says already has to be the same.
fn set(message: &mut DynamicMessage, field: &FieldPath, text: &str, from: &str) -> Result<(), Refusal> {
    let (last, above) = field.steps.split_last().expect("a path of a field has at least one step");
    let value = parsed(last, text).map_err(|(problem, remedy)| Refusal::field(&field.json, text, problem, remedy))?;
    let mut parent = message;
    for step in above {
        match parent.get_field_mut(step) {
            Value::Message(below) => parent = below,
            _ => return Err(Refusal::field(&field.json, text, "stands below a field that is no object", SEE)),
        }
    }
    if last.is_list() {
        if let Value::List(items) = parent.get_field_mut(last) {
            items.push(value);
        }
    } else if parent.has_field(last) && *parent.get_field(last) != value {
        return Err(Refusal::field(
            &field.json,
            text,
            format!("is what {from} says, and the body says something else"),
            "leave it out of the body",
        ));
    } else {
        parent.set_field(last, value);
    }
    Ok(())
}

/// A text as the value of a field, or of an item of it when it is a list.
fn parsed(field: &FieldDescriptor, text: &str) -> Result<Value, (String, &'static str)> {
    let digits = || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |problem: &str| (problem.to_owned(), "use digits only");
    match field.kind() {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Uint32 => {
            let value = text.parse().ok().filter(|_| digits());
            value.map(Value::U32).ok_or_else(|| number("is not a whole number from 0 to 4294967295"))
        }
        Kind::Uint64 => {
            let value = text.parse().ok().filter(|_| digits());
            value.map(Value::U64).ok_or_else(|| number("is not a whole number from 0 to 18446744073709551615"))
        }
        Kind::Bool => text.parse().map(Value::Bool).map_err(|_| ("is not a boolean".to_owned(), "use true or false")),
        Kind::Enum(kind) => {
            let found = kind.get_value_by_name(text).map(|value| Value::EnumNumber(value.number()));
            found.ok_or_else(|| ("is not one of the names".to_owned(), SEE))
        }
        Kind::Message(kind) if kind.full_name() == TIMESTAMP => {
            let read = DynamicMessage::deserialize(kind, StrDeserializer::<TextError>::new(text));
            read.map(Value::Message)
                .map_err(|_| ("is not a time".to_owned(), "use RFC 3339, such as 2026-11-21T15:04:05Z"))
        }
        _ => Err(("cannot be given here".to_owned(), SEE)),
    }
}

/// What a service answered that is not what the descriptors say; a defect.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not a message of this type.
    #[error("the answer is not a {0}")]
    Decode(String, #[source] prost::DecodeError),
    /// Not JSON.
    #[error("the answer cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// The JSON text of an answer.
///
/// # Errors
/// `AnswerError`, never in practice.
pub fn answer(output: MessageDescriptor, bytes: Bytes) -> Result<Vec<u8>, AnswerError> {
    let name = output.full_name().to_owned();
    let message = DynamicMessage::decode(output, bytes).map_err(|error| AnswerError::Decode(name, error))?;
    // By way of a tree, whose keys are sorted; the maps of a message are not.
    let tree = serde_json::to_value(&message).map_err(AnswerError::Json)?;
    serde_json::to_vec(&tree).map_err(AnswerError::Json)
}

#[cfg(test)]
#[path = "transcode_tests.rs"]
mod tests;
