//! From the text of a manifest to a policy. What does not parse becomes a violation with field, value and remedy, as what does
//! not validate does. Pure.

use serde::Deserialize;
use switchyard_core::{
    ids::cut,
    policy::{ClusterTrafficPolicy, Violation},
};

/// Bytes of one manifest; the limit is part of the API.
pub const MOST_BYTES: usize = 64 * 1024;

/// Reads one ClusterTrafficPolicy from YAML or JSON.
///
/// # Errors
/// One violation: too long, not one document, or the first place that does not parse.
pub fn parse(text: &str) -> Result<ClusterTrafficPolicy, Violation> {
    if text.len() > MOST_BYTES {
        let problem = format!("is longer than {MOST_BYTES} bytes");
        let remedy = "send one policy at a time, without managedFields and status";
        return Err(fault(format!("{} bytes", text.len()), &problem, remedy));
    }
    parse_document(text)
}

/// As [`parse()`], for a text whose length was judged already.
///
/// # Errors
/// One violation: not one document, or the first place that does not parse.
pub fn parse_document(text: &str) -> Result<ClusterTrafficPolicy, Violation> {
    if text.trim().is_empty() {
        return Err(fault(String::new(), "is empty", "send a ClusterTrafficPolicy as YAML or JSON"));
    }
    let mut documents = serde_norway::Deserializer::from_str(text);
    let first = match documents.next().map(ClusterTrafficPolicy::deserialize) {
        Some(Ok(policy)) => policy,
        Some(Err(error)) => return Err(unreadable(text, &error)),
        None => return Err(fault(String::new(), "holds no document", "send a ClusterTrafficPolicy as YAML or JSON")),
    };
    if documents.next().is_some() {
        return Err(fault("---".to_owned(), "holds more than one document", "send one policy at a time"));
    }
    Ok(first)
}

fn fault(value: String, problem: &str, remedy: &str) -> Violation {
    Violation { field: "manifest".to_owned(), value, problem: problem.to_owned(), remedy: remedy.to_owned() }
}

/// The parser's message is `path: problem at line L column C`; the path may be missing.
fn unreadable(text: &str, error: &serde_norway::Error) -> Violation {
    // What serde says of an untagged enum names the enum and not what it takes.
    let message = error.to_string().replace(
        "data did not match any variant of untagged enum NameOrNumber",
        "the port is neither a name nor a number from 1 to 65535",
    );
    let (path, problem) = match message.split_once(": ") {
        Some((path, rest)) if is_path(path) => (path.to_owned(), rest.to_owned()),
        _ => (String::new(), message),
    };
    let line = error.location().map(|place| place.line());
    let value = line.and_then(|line| text.lines().nth(line.saturating_sub(1))).unwrap_or_default();
    let field = match (path.is_empty(), line) {
        (false, _) => path,
        (true, Some(line)) => format!("manifest line {line}"),
        (true, None) => "manifest".to_owned(),
    };
    Violation {
        field,
        value: cut(value.trim()),
        problem: format!("cannot be read: {}", cut(&problem)),
        remedy: "correct it; names of fields are case-sensitive, and the indentation decides what belongs to what"
            .to_owned(),
    }
}

fn is_path(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || ".[]_-".contains(c);
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
apiVersion: switchyard.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: checkout, namespace: shop}
spec:
  listener: {loadBalancer: shared, port: 80}
  match: {hostnames: [shop.example.com]}
  backend: {service: {name: checkout, port: http}}
  clusters:
    - {name: blue, weight: 100}
";

    #[test]
    fn yaml_and_json_are_the_same_policy() {
        let policy = parse(GOOD).unwrap();
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(parse(&json).unwrap(), policy);
    }

    #[test]
    fn what_does_not_parse_is_named_with_field_value_and_remedy() {
        let cases = [
            (GOOD.replace("weight: 100", "weight: many"), "spec.clusters[0].weight", "many"),
            (GOOD.replace("port: 80", "prot: 80"), "spec.listener", "prot"),
            (GOOD.replace("port: 80", "port: -1"), "spec.listener.port", "-1"),
            (GOOD.replace("port: http", "port: -1"), "spec.backend.service", "neither a name nor a number"),
            (GOOD.replace("spec:", "spec: {"), "manifest line 6", "match: {hostnames"),
            ("a: &x [*x]".to_owned(), "manifest", ""),
            (GOOD.replace("kind: ClusterTrafficPolicy\n", ""), "manifest", ""),
        ];
        for (text, field, value) in cases {
            let violation = parse(&text).unwrap_err();
            assert!(violation.field.starts_with(field), "{violation}");
            let whole = format!("{} {}", violation.value, violation.problem);
            assert!(whole.contains(value), "{violation}");
            assert!(!violation.remedy.is_empty());
        }
    }

    #[test]
    fn too_long_empty_and_several_documents_are_refused() {
        let long = format!("{GOOD}\n#{}", "x".repeat(MOST_BYTES));
        assert!(parse(&long).unwrap_err().problem.contains("longer than 65536 bytes"));
        assert_eq!(parse("  \n").unwrap_err().problem, "is empty");
        let two = format!("{GOOD}---\n{GOOD}");
        assert_eq!(parse(&two).unwrap_err().problem, "holds more than one document");
    }

    #[test]
    fn aliases_do_not_multiply_without_bound() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..20 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse(&bomb).is_err());
    }
}
