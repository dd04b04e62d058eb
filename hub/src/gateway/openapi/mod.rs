//! The description of the API as an OpenAPI 3.1 document, made from the table of routes and the descriptors, with the comments of the
//! .proto files as descriptions. Pure. `schema.rs` describes messages, `bounds.rs` knows the numbers that only comments tell.

mod bounds;
mod comments;
mod schema;

use prost_reflect::Kind;
use serde_json::{Map, Value, json};

use super::{
    NDJSON,
    routes::{FieldPath, Route, Table},
};
use comments::Comments;
use schema::{Direction, Schemas};

/// What may go wrong with any call, by its HTTP status.
const ERRORS: [(&str, &str); 14] = [
    (
        "400",
        "INVALID_ARGUMENT: what was sent is not valid, every fault is named in the details; FAILED_PRECONDITION: it cannot be done in the present state",
    ),
    ("401", "UNAUTHENTICATED: no token or certificate, or one that is not accepted"),
    ("403", "PERMISSION_DENIED: not allowed to this caller, or sent by a web page"),
    ("404", "NOT_FOUND: there is no such object or path"),
    (
        "409",
        "ABORTED: not at the expected version, the present one is in the details; ALREADY_EXISTS: the request id was used for something else",
    ),
    ("413", "INVALID_ARGUMENT: the body is longer than 128 KiB"),
    ("414", "INVALID_ARGUMENT: path and query are longer than 8 KiB"),
    ("415", "INVALID_ARGUMENT: the body is not application/json"),
    ("429", "RESOURCE_EXHAUSTED: too many calls at a time; see Retry-After"),
    ("500", "INTERNAL: a defect; the hub's log has more"),
    ("501", "UNIMPLEMENTED: this hub does not know the call"),
    (
        "503",
        "UNAVAILABLE: the hub starts, stops or cannot reach its store; repeat with the same request id, see Retry-After",
    ),
    ("504", "DEADLINE_EXCEEDED: not answered in time; it may have been done: repeat with the same request id"),
    ("408", "DEADLINE_EXCEEDED: the body did not arrive in time"),
];

const ABOUT: &str = "The API of the hub over HTTP and JSON. It is the gRPC API (package switchyard.api.v1) through the proto3 JSON \
mapping: names in lowerCamelCase, 64-bit numbers as strings, times as RFC 3339; fields that are at their default (0, false, empty) are \
left out of answers. Fields may be added to answers within v1. A change is accepted when it is stored: watch the policy or the shift \
until it is Programmed or Converged.";

/// The document.
pub fn document(table: &Table) -> Value {
    let comments = Comments::of(&table.pool);
    let mut schemas = Schemas::new(&comments);
    let mut paths: Map<String, Value> = Map::new();
    for route in &table.routes {
        let operation = operation(route, &comments, &mut schemas);
        let path = paths.entry(braces(route)).or_insert_with(|| json!({}));
        path[route.binding.http.to_ascii_lowercase()] = operation;
    }
    let mut components = schemas.finish(table);
    components.insert("Error".to_owned(), error_schema());
    components.insert("StreamError".to_owned(), stream_error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Switchyard", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"clientCertificate": []}],
        "tags": tags(table, &comments),
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": responses(),
            "securitySchemes": {"clientCertificate": {
                "type": "mutualTLS",
                "description": "A certificate of the hub's --tls-client-ca. With --dev none is asked for.",
            }},
        },
    })
}

/// The path with its parameters named as their last fields are: tools for OpenAPI stumble over the dot of `policy.namespace`.
fn braces(route: &Route) -> String {
    let fields = route.template.fields().zip(&route.path_fields);
    fields.fold(route.binding.path.to_owned(), |path, (name, field)| {
        path.replace(&format!("{{{name}}}"), &format!("{{{}}}", field.last().json_name()))
    })
}

fn operation(route: &Route, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let method = &route.method;
    let mut operation = json!({
        "operationId": route.binding.operation,
        "tags": [method.parent_service().name()],
        "summary": format!("{} of {}", method.name(), method.parent_service().full_name()),
        "parameters": parameters(route, schemas),
        "responses": answers(route, schemas),
    });
    if let Some(text) = comments.of_method(method) {
        operation["description"] = json!(text);
    }
    if route.has_body() {
        let taken: Vec<&FieldPath> = route.path_fields.iter().collect();
        operation["requestBody"] = json!({
            // Without a required field, nothing at all is an empty object.
            "required": false,
            "content": {super::JSON: {"schema": schemas.request(&method.input(), &taken)}},
        });
    }
    operation
}

fn parameters(route: &Route, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let one = |schemas: &mut Schemas<'_>, field: &FieldPath, place: &str| {
        let name = if place == "path" { field.last().json_name() } else { &field.json };
        let mut parameter = json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "schema": schemas.parameter(field.last(), place == "path"),
        });
        if let Some(text) = schemas.comments().of_field(field.last()) {
            parameter["description"] = json!(text);
        }
        if field.last().is_list() {
            parameter["style"] = json!("form");
            parameter["explode"] = json!(true);
        }
        parameter
    };
    let mut all: Vec<Value> = route.path_fields.iter().map(|field| one(schemas, field, "path")).collect();
    all.extend(route.query_fields.iter().map(|field| one(schemas, field, "query")));
    let repeatable =
        route.method.input().fields().any(|field| field.name() == "request_id" && field.kind() == Kind::String);
    if repeatable {
        all.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "schema": bounds::request_id(),
            "description": "The request id, when requestId is not given: the same id again gives the first answer, for 24 hours.",
        }));
    }
    all
}

fn answers(route: &Route, schemas: &mut Schemas<'_>) -> Value {
    let schema = schemas.message(&route.method.output(), Direction::Answer);
    let (kind, schema, text) = if route.method.is_server_streaming() {
        let either = json!({"anyOf": [schema, {"$ref": "#/components/schemas/StreamError"}]});
        (
            NDJSON,
            either,
            "One object a line as long as the stream lasts; an empty line when nothing was said for 20 s; an error as the last line.",
        )
    } else {
        (super::JSON, schema, "Done.")
    };
    let mut all = json!({"200": {"description": text, "content": {kind: {"schema": schema}}}});
    for (status, _) in ERRORS {
        let of_body = ["408", "413", "415"].contains(&status);
        if route.has_body() || !of_body {
            all[status] = json!({"$ref": format!("#/components/responses/{status}")});
        }
    }
    all
}

fn responses() -> Value {
    let one = |(status, text): (&str, &str)| {
        let schema = json!({"schema": {"$ref": "#/components/schemas/Error"}});
        (status.to_owned(), json!({"description": text, "content": {super::JSON: schema}}))
    };
    Value::Object(ERRORS.into_iter().map(one).collect())
}

/// Every code of gRPC but OK.
fn codes() -> impl Iterator<Item = tonic::Code> {
    (1..=16).map(tonic::Code::from)
}

fn error_schema() -> Value {
    let words: Vec<&str> = codes().map(super::refusal::code_word).collect();
    let detail = |name: &str| {
        json!({
            "allOf": [
                {"type": "object", "properties": {"@type": {"const": format!("switchyard.api.v1.{name}")}}, "required": ["@type"]},
                {"$ref": format!("#/components/schemas/{name}")},
            ],
        })
    };
    let details: Vec<Value> = codes().filter_map(super::refusal::detail_name).map(detail).collect();
    json!({
        "type": "object",
        "description": "Why there is no answer.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "string", "enum": words, "description": "A code of gRPC."},
            "message": {"type": "string", "description": "For people."},
            "details": {"type": "array", "items": {"anyOf": details}},
        },
    })
}

fn stream_error_schema() -> Value {
    json!({
        "type": "object",
        "description": "The last line of a stream that did not end well.",
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/Error"}},
    })
}

fn tags(table: &Table, comments: &Comments) -> Vec<Value> {
    let services = table.pool.services().filter(|service| service.package_name() == super::routes::PACKAGE);
    let tag = |service: prost_reflect::ServiceDescriptor| {
        let mut tag = json!({"name": service.name()});
        if let Some(text) = comments.of_file(&service.parent_file()) {
            tag["description"] = json!(text);
        }
        tag
    };
    services.map(tag).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gateway::routes::BINDINGS;

    fn made() -> Value {
        document(&Table::new().unwrap())
    }

    #[test]
    fn every_route_is_described_once() {
        let document = made();
        let mut found = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(found.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
                let described = operation["parameters"].as_array().unwrap();
                let names: Vec<&str> = described
                    .iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                assert!(names.iter().all(|name| path.contains(&format!("{{{name}}}"))), "{path}: {names:?}");
                assert_eq!(path.matches('{').count(), names.len(), "{path}");
            }
        }
        assert_eq!(found, BINDINGS.iter().map(|binding| binding.operation.to_owned()).collect());
    }

    /// Every `$ref` of a document.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if name == "$ref" => drop(found.insert(text.to_owned())),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = made();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let place = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }

    #[test]
    fn comments_and_bounds_are_told() {
        let document = made();
        let weights = &document["paths"]["/v1/namespaces/{namespace}/policies/{name}:setWeights"]["post"];
        assert!(weights["description"].as_str().unwrap().contains("The spec is not written"), "{weights}");
        let body = &weights["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["properties"]["weights"]["additionalProperties"]["maximum"], 999, "{body}");
        assert_eq!(body["additionalProperties"], false);
        assert!(body["properties"].get("policy").is_none(), "the path gives it: {body}");
        let link = &document["components"]["schemas"]["ClusterLink"];
        assert!(link["enum"].as_array().unwrap().contains(&json!("CLUSTER_LINK_STALE")), "{link}");
        let watch = &document["paths"]["/v1/shifts/{id}:watch"]["get"]["responses"]["200"]["content"];
        assert!(watch.get("application/x-ndjson").is_some(), "{watch}");
    }
}
