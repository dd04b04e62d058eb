//! When two answers are the same: ids, accounts and times put aside, lists without an order sorted. Pure.

use serde_json::{Map, Value, json};

/// Fields by which the elements of a list are told apart; the first one that is there.
const NAMES: [&str; 11] = [
    "TargetGroupName",
    "LoadBalancerName",
    "Priority",
    "Key",
    "Name",
    "Field",
    "ResourceArn",
    "TargetGroupArn",
    "name",
    "priority",
    "ListenerArn",
];
/// Fields whose values each makes up by itself.
const MADE_UP: [&str; 4] = ["DNSName", "CanonicalHostedZoneId", "SubnetId", "NextMarker"];
/// ARNs end with ids of this many hex digits; 15 in those that moto gives to default rules.
const ID_LENGTH: std::ops::RangeInclusive<usize> = 15..=16;

/// What is put aside on one side: values that it made up.
#[derive(Clone, Debug)]
pub struct Names {
    constants: Vec<(String, &'static str)>,
}

impl Names {
    /// With texts to be replaced wherever they stand, such as the account id.
    pub fn new(constants: Vec<(String, &'static str)>) -> Self {
        Self { constants }
    }

    /// The answer as both sides should have given it.
    pub fn normal(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            // Attributes, tags and limits are maps, written as lists.
            Value::Array(items) if !items.is_empty() && items.iter().all(|item| pair(item).is_some()) => {
                self.normal(&Value::Object(items.iter().filter_map(pair).collect()))
            }
            Value::Array(items) => {
                let mut items: Vec<Value> = items.iter().map(|item| self.normal(item)).collect();
                items.sort_by_key(identity);
                Value::Array(items)
            }
            Value::Object(fields) if fields.keys().any(|name| self.text(name) != *name) => {
                // A map by ARN: without their ids two keys may be alike.
                let entries = fields.iter().map(|(name, value)| json!({"ARN": name, "value": value}));
                self.normal(&Value::Array(entries.collect()))
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    let made_up = name.ends_with("Time") || MADE_UP.contains(&name.as_str());
                    let aside = made_up && value.as_str().is_some_and(|text| !text.is_empty());
                    (name.clone(), if aside { Value::String("something".to_owned()) } else { self.normal(value) })
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.constants {
            text = text.replace(from, to);
        }
        let parts: Vec<&str> = text.split('/').map(|part| if is_id(part) { "ID" } else { part }).collect();
        parts.join("/")
    }
}

/// A name and its value, and nothing else.
fn pair(item: &Value) -> Option<(String, Value)> {
    let fields = item.as_object().filter(|fields| fields.len() == 2)?;
    let name = fields.get("Key").or_else(|| fields.get("Name"))?.as_str()?;
    let value = fields.get("Value").or_else(|| fields.get("Max"))?;
    Some((name.to_owned(), value.clone()))
}

fn is_id(part: &str) -> bool {
    ID_LENGTH.contains(&part.len()) && part.chars().all(|c| c.is_ascii_hexdigit())
}

fn identity(item: &Value) -> String {
    let name = NAMES.iter().find_map(|name| item.get(name));
    name.map_or_else(|| item.to_string(), |name| format!("{name} {item}"))
}

/// One difference between two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, such as `TargetGroups[].Port`.
    pub path: String,
    /// What moto has there.
    pub moto: String,
    /// What the sandbox has there.
    pub sandbox: String,
}

/// Every place where two answers differ.
pub fn differences(moto: &Value, sandbox: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk("", moto, sandbox, &mut found);
    found.dedup();
    found
}

fn walk(path: &str, moto: &Value, sandbox: &Value, found: &mut Vec<Difference>) {
    match (moto, sandbox) {
        (Value::Object(left), Value::Object(right)) => {
            let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match (left.get(name), right.get(name)) {
                    (Some(left), Some(right)) => walk(&below, left, right, found),
                    (left, right) => found.push(difference(&below, left, right)),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (left, right) in left.iter().zip(right) {
                walk(&format!("{path}[]"), left, right, found);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            let count = |items: &Vec<Value>| format!("{} of them: {}", items.len(), Value::Array(items.clone()));
            found.push(Difference { path: path.to_owned(), moto: count(left), sandbox: count(right) });
        }
        (left, right) if left == right => {}
        (left, right) => found.push(difference(path, Some(left), Some(right))),
    }
}

fn difference(path: &str, moto: Option<&Value>, sandbox: Option<&Value>) -> Difference {
    let shown = |value: Option<&Value>| match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Difference { path: path.to_owned(), moto: shown(moto), sandbox: shown(sandbox) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_and_accounts_are_put_aside_and_lists_have_no_order() {
        let moto = Names::new(vec![("111122223333".to_owned(), "ACCOUNT")]);
        let sandbox = Names::new(vec![("999922223333".to_owned(), "ACCOUNT")]);
        let left = json!([{"Name": "b", "Arn": "x:111122223333:y/0123456789abcdef"}, {"Name": "a"}]);
        let right = json!([{"Name": "a"}, {"Name": "b", "Arn": "x:999922223333:y/fedcba9876543210"}]);
        assert_eq!(moto.normal(&left), sandbox.normal(&right));
        assert_ne!(moto.normal(&json!("a/0123456789abcdef")), moto.normal(&json!("b/0123456789abcdef")));
        let two = moto.normal(&json!({"r/0123456789abcdef": 2, "r/0123456789abcde0": 1}));
        assert_eq!(two, json!([{"ARN": "r/ID", "value": 1}, {"ARN": "r/ID", "value": 2}]));
    }

    #[test]
    fn attributes_tags_and_limits_are_maps() {
        let none = Names::new(Vec::new());
        let tags = none.normal(&json!([{"Key": "b", "Value": "1"}, {"Key": "a", "Value": ""}]));
        assert_eq!(tags, json!({"a": "", "b": "1"}));
        assert_eq!(none.normal(&json!([{"Max": "5", "Name": "x"}])), json!({"x": "5"}));
    }

    #[test]
    fn every_place_that_differs_is_named() {
        let found = differences(&json!({"a": [{"b": 1, "c": 1}], "d": 1}), &json!({"a": [{"b": 2, "c": 1}], "e": 1}));
        let places: Vec<&str> = found.iter().map(|difference| difference.path.as_str()).collect();
        assert_eq!(places, ["a[].b", "d", "e"]);
        assert_eq!(found[1].sandbox, "nothing");
        assert_eq!(differences(&json!([1, 2]), &json!([1])).len(), 1);
    }
}
