//! From the JSON schema of a Rust type to a structural schema, the part of it that Kubernetes takes: every value has one type,
//! alternatives of values are one `enum`, nothing is `null`, and unknown fields are left to the server's field validation.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The structural schema of a type. Its comments are the descriptions, its serde defaults the defaults.
///
/// # Panics
/// When the type holds something that this crate has no structural form for: a mistake in the type, found by the first test.
pub fn structural<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    // References are not structural.
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    rewrite(&mut schema);
    schema
}

fn rewrite(schema: &mut Value) {
    let Value::Object(object) = schema else { panic!("{schema} is no schema of a value") };
    merge_enum(object);
    object.remove("title");
    object.remove("$schema");
    plain_type(object);
    plain_number(object);
    plain_default(object);
    plain_description(object);
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(rewrite);
    }
    if let Some(items) = object.get_mut("items") {
        rewrite(items);
    }
    match object.get_mut("additionalProperties") {
        // Unknown fields: the server prunes, warns or refuses, as the request asks for; kubectl asks to refuse.
        Some(Value::Bool(_)) => drop(object.remove("additionalProperties")),
        Some(values) => rewrite(values),
        None => {}
    }
    for word in ["$ref", "oneOf", "allOf", "anyOf", "const", "patternProperties"] {
        let known = word == "anyOf" && object.contains_key("x-kubernetes-int-or-string");
        assert!(known || !object.contains_key(word), "{word} has no structural form: {object:?}");
    }
}

/// An enum with commented variants is a `oneOf` of constants; one of a number and a text is Kubernetes' own type.
fn merge_enum(object: &mut Map<String, Value>) {
    if let Some(Value::Array(variants)) = object.remove("oneOf") {
        let mut names = Vec::new();
        let mut described = String::new();
        for variant in &variants {
            let (name, description) = (&variant["const"], variant["description"].as_str().unwrap_or_default());
            assert!(name.is_string(), "a variant that is no text: {variant}");
            described.push_str(&format!("\n{}: {}", name.as_str().unwrap_or_default(), description));
            names.push(name.clone());
        }
        let own = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let description = format!("{own}{described}");
        object.insert("description".to_owned(), json!(description));
        object.insert("type".to_owned(), json!("string"));
        object.insert("enum".to_owned(), Value::Array(names));
    }
    if let Some(Value::Array(variants)) = object.remove("anyOf") {
        let types: Vec<&str> = variants.iter().filter_map(|variant| variant["type"].as_str()).collect();
        match types.as_slice() {
            ["integer", "string"] => {
                object.insert("x-kubernetes-int-or-string".to_owned(), json!(true));
                // The one place where the server takes a type within anyOf.
                object.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
            }
            // Optional: a value of its own type, or nothing.
            [.., "null"] if variants.len() == 2 => {
                let Some(Value::Object(value)) = variants.into_iter().next() else { return };
                for (word, value) in value {
                    object.entry(word).or_insert(value);
                }
                merge_enum(object);
            }
            _ => panic!("alternatives without a structural form: {variants:?}"),
        }
    }
}

/// `["string", "null"]` is a text that may be left out, and so is one of several words or null.
fn plain_type(object: &mut Map<String, Value>) {
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::Array(types)) = object.get("type") {
        let mut types = types.iter().filter(|kind| *kind != "null");
        let (Some(only), None) = (types.next().cloned(), types.next()) else { panic!("several types: {object:?}") };
        object.insert("type".to_owned(), only);
    }
}

/// Kubernetes knows signed formats only.
fn plain_number(object: &mut Map<String, Value>) {
    let signed = match object.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "uint32" | "int32") => "int32",
        Some("uint64" | "int64") => "int64",
        _ => return,
    };
    object.insert("format".to_owned(), json!(signed));
    for bound in ["minimum", "maximum"] {
        if let Some(number) = object.get(bound).and_then(Value::as_f64) {
            // Bounds are whole numbers far below 2^53.
            object.insert(bound.to_owned(), json!(number as i64));
        }
    }
}

/// A default that says nothing is none. That of an object holds its fields' defaults, since the server judges it by the rules
/// before it fills fields in.
fn plain_default(object: &mut Map<String, Value>) {
    let nothing = |value: &Value| value.is_null() || value == "";
    match object.get_mut("default") {
        Some(Value::Object(fields)) => fields.retain(|_, value| !nothing(value)),
        Some(value) if nothing(value) => drop(object.remove("default")),
        _ => {}
    }
}

/// Lines of a comment are one paragraph; Rust's marks for code stay.
fn plain_description(object: &mut Map<String, Value>) {
    let Some(Value::String(text)) = object.get("description") else { return };
    let paragraphs: Vec<&str> = text.split("\n").map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = paragraphs.join("\n");
    object.insert("description".to_owned(), json!(text));
}
