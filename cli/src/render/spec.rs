//! A policy's spec in one line: where, which requests, to what. Pure.
//!
//! The spec stays JSON here: the command line shows what the hub has, also fields that it does not know itself.

use serde_json::Value;

/// `shared-public:443  shop.example.com /checkout/*  ->  checkout:http`, as far as the spec says so.
pub fn spec_line(spec: &Value) -> Option<String> {
    let at = |pointer: &str| spec.pointer(pointer).and_then(word);
    let balancer = at("/listener/arn").or_else(|| at("/listener/loadBalancer")).or_else(|| tags(spec))?;
    let listener = with_port(balancer, at("/listener/port"));
    let mut parts: Vec<String> = list(spec, "hostnames").iter().filter_map(word).collect();
    parts.extend(list(spec, "paths").iter().filter_map(path));
    let more: usize = ["headers", "methods", "query", "sourceIps"].iter().map(|kind| list(spec, kind).len()).sum();
    match more {
        0 => {}
        1 => parts.push("(and 1 more condition)".into()),
        _ => parts.push(format!("(and {more} more conditions)")),
    }
    let matches = if parts.is_empty() { "every request".to_owned() } else { parts.join(" ") };
    let service = with_port(at("/backend/service/name")?, at("/backend/service/port"));
    Some(format!("{listener}  {matches}  ->  {service}"))
}

fn list<'a>(spec: &'a Value, kind: &str) -> &'a [Value] {
    spec.pointer(&format!("/match/{kind}")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn with_port(name: String, port: Option<String>) -> String {
    match port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

/// `team=shop,env=prod`.
fn tags(spec: &Value) -> Option<String> {
    let tags = spec.pointer("/listener/tags")?.as_object()?;
    let pairs: Vec<String> = tags.iter().filter_map(|(key, value)| Some(format!("{key}={}", word(value)?))).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

/// A prefix means whole path elements and is what a path is without a type, as in the Gateway API.
fn path(path: &Value) -> Option<String> {
    let value = path.get("value")?.as_str()?;
    match path.get("type").and_then(Value::as_str) {
        None | Some("Prefix") => Some(format!("{}/*", value.trim_end_matches('/'))),
        Some(_) => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listener_match_and_service_are_named_however_they_are_given() {
        for (listener, matches, expected) in [
            (json!({"arn": "arn:l"}), json!({}), "arn:l  every request  ->  checkout:8080"),
            (
                json!({"tags": {"team": "shop"}, "port": 443}),
                json!({"paths": [{"value": "/"}, {"type": "Exact", "value": "/x"}]}),
                "team=shop:443  /* /x  ->  checkout:8080",
            ),
            (
                json!({"loadBalancer": "public", "port": 443}),
                json!({"hostnames": ["a.example"], "methods": ["GET", "PUT"], "sourceIps": ["10.0.0.0/8"]}),
                "public:443  a.example (and 3 more conditions)  ->  checkout:8080",
            ),
        ] {
            let backend = json!({"service": {"name": "checkout", "port": 8080}});
            let spec = json!({"listener": listener, "match": matches, "backend": backend});
            assert_eq!(spec_line(&spec).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_spec_gives_no_line() {
        for spec in [Value::Null, Value::String("not a spec".into()), json!({"listener": {"port": 443}})] {
            assert_eq!(spec_line(&spec), None, "{spec}");
        }
    }
}
