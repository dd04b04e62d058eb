//! JSON schemas of messages. Requests are described as they should be sent and hold no other fields; answers may get more fields
//! within v1, and are left open. A message that is both has two schemas. Pure.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{bounds, comments::Comments};
use crate::gateway::routes::{FieldPath, TIMESTAMP, Table};

/// Who writes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The hub.
    Answer,
    /// The caller.
    Request,
}

/// The schemas that are referred to.
pub struct Schemas<'c> {
    comments: &'c Comments,
    /// By name; enums are the same in both directions.
    made: BTreeMap<String, Value>,
}

impl<'c> Schemas<'c> {
    /// None yet.
    pub fn new(comments: &'c Comments) -> Self {
        Self { comments, made: BTreeMap::new() }
    }

    /// The comments.
    pub fn comments(&self) -> &'c Comments {
        self.comments
    }

    /// All of them, those of errors included.
    pub fn finish(mut self, table: &Table) -> Map<String, Value> {
        for name in ["Violations", "VersionConflict", "Findings"] {
            if let Some(message) =
                table.pool.get_message_by_name(&format!("{}.{name}", crate::gateway::routes::PACKAGE))
            {
                self.message(&message, Direction::Answer);
            }
        }
        self.made.into_iter().collect()
    }

    /// A reference to a message's schema.
    pub fn message(&mut self, message: &MessageDescriptor, direction: Direction) -> Value {
        if message.full_name() == TIMESTAMP {
            return json!({"type": "string", "format": "date-time"});
        }
        let name = match direction {
            Direction::Answer => message.name().to_owned(),
            Direction::Request => format!("{}Input", message.name()),
        };
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        if !self.made.contains_key(&name) {
            // First, so that a message that holds itself ends.
            self.made.insert(name.clone(), Value::Null);
            let schema = self.object(message, direction, &[]);
            self.made.insert(name, schema);
        }
        reference
    }

    /// The body of a call, without what its path gives.
    pub fn request(&mut self, message: &MessageDescriptor, taken: &[&FieldPath]) -> Value {
        self.object(message, Direction::Request, taken)
    }

    fn object(&mut self, message: &MessageDescriptor, direction: Direction, taken: &[&FieldPath]) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            let inside: Vec<&&FieldPath> =
                taken.iter().filter(|path| path.steps.first().is_some_and(|step| *step == field)).collect();
            let all = match field.kind() {
                Kind::Message(below) => below.fields().len() == inside.len(),
                _ => true,
            };
            // What the path gives in part only does not occur; it would have to be described in part.
            if inside.is_empty() || !all {
                properties.insert(field.json_name().to_owned(), self.field(&field, direction));
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if direction == Direction::Request {
            schema["additionalProperties"] = json!(false);
        }
        if let Some(text) = self.comments.of_message(message) {
            schema["description"] = json!(text);
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor, direction: Direction) -> Value {
        let mut schema = if field.is_map() {
            let entry = field.kind();
            let value = entry.as_message().map(MessageDescriptor::map_entry_value_field);
            let value = value.map_or(json!({}), |value| self.single(&value.kind(), direction));
            json!({"type": "object", "additionalProperties": bounded(value, field, direction)})
        } else if field.is_list() {
            let item = self.single(&field.kind(), direction);
            bounded_list(json!({"type": "array", "items": item}), field, direction)
        } else {
            let schema = self.single(&field.kind(), direction);
            bounded(schema, field, direction)
        };
        if let Some(text) = self.comments.of_field(field) {
            schema["description"] = json!(text);
        }
        schema
    }

    /// A field in a path, or in a query, where an empty text means that it is not given.
    pub fn parameter(&mut self, field: &FieldDescriptor, in_path: bool) -> Value {
        let single = self.single(&field.kind(), Direction::Request);
        let mut schema = bounded(single, field, Direction::Request);
        if in_path && schema["type"] == "string" && schema.get("minLength").is_none() {
            schema["minLength"] = json!(1);
        }
        if !in_path && schema["type"] == "string" && schema.get("pattern").is_some() && field.kind() == Kind::String {
            schema = json!({"anyOf": [{"const": ""}, schema]});
        }
        if field.is_list() { json!({"type": "array", "items": schema}) } else { schema }
    }

    fn single(&mut self, kind: &Kind, direction: Direction) -> Value {
        match kind {
            Kind::Message(message) => self.message(message, direction),
            Kind::Enum(kind) => self.enumeration(kind),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX})
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint64 | Kind::Fixed64 => {
                let text = json!({"type": "string", "format": "uint64", "pattern": "^(0|[1-9][0-9]{0,19})$"});
                let number = json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
                match direction {
                    Direction::Answer => text,
                    // A number is taken as well, for those whose numbers are that large.
                    Direction::Request => json!({"anyOf": [text, number]}),
                }
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^(0|-?[1-9][0-9]{0,17})$"})
            }
            Kind::Double | Kind::Float => {
                json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
            }
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        }
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Value {
        let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
        let mut schema = json!({"type": "string", "enum": names});
        let told = kind
            .values()
            .filter_map(|value| self.comments.of_value(&value).map(|text| format!("{}: {text}.", value.name())));
        let about = self.comments.of_enum(kind).map(str::to_owned);
        let text = about.into_iter().chain(told).collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            schema["description"] = json!(text);
        }
        self.made.insert(kind.name().to_owned(), schema);
        json!({"$ref": format!("#/components/schemas/{}", kind.name())})
    }
}

/// What is asked of callers is not promised by the hub: bounds stand in requests only.
fn bounded(mut schema: Value, field: &FieldDescriptor, direction: Direction) -> Value {
    if direction == Direction::Request
        && let (Some(bounds), Some(object)) = (bounds::of(field.full_name()), schema.as_object_mut())
    {
        object.extend(bounds);
    }
    schema
}

fn bounded_list(mut schema: Value, field: &FieldDescriptor, direction: Direction) -> Value {
    let bounds = bounds::of(field.full_name()).filter(|_| direction == Direction::Request);
    for (name, value) in bounds.into_iter().flatten() {
        let place = if name.ends_with("Items") { &mut schema } else { &mut schema["items"] };
        place[name] = value;
    }
    schema
}
