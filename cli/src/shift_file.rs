//! The file of `shift -f`: one TrafficShift as YAML or JSON, made into what ShiftService takes.
//!
//! Only what a call cannot say is refused here; the rest is judged by the hub.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::{
    error::Failure,
    model::shift_spec::{ShiftSpec, TrafficShift},
};

const API_VERSION: &str = "switchyard.dev/v1alpha1";
const KIND: &str = "TrafficShift";
/// As a manifest of a policy; 100 steps with gates have room.
const MAX_FILE: u64 = 64 * 1024;

/// Reads the file; `-n` fills in the namespace where nothing in it names one.
pub fn read(path: &Path, namespace: Option<&str>) -> Result<ShiftSpec, Failure> {
    let name = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::usage(format!("cannot read {name}"), error, "give a readable YAML or JSON file"))?;
    if text.len() as u64 > MAX_FILE {
        let why = format!("it is larger than {MAX_FILE} bytes");
        return Err(Failure::usage(format!("cannot read {name}"), why, "a shift is smaller: give the right file"));
    }
    parse(&name, &text, namespace)
}

/// The shift that one document asks for.
fn parse(name: &str, text: &str, namespace: Option<&str>) -> Result<ShiftSpec, Failure> {
    let refused = |why: String, remedy: &str| Failure::usage(format!("cannot read {name} as a shift"), why, remedy);
    let document: TrafficShift = serde_norway::from_str(text)
        .map_err(|error| refused(error.to_string(), "write one TrafficShift; docs/shifts.md shows the fields"))?;
    if document.api_version != API_VERSION || document.kind != KIND {
        let why = format!("it is a {} of {}", document.kind, document.api_version);
        return Err(refused(why, &format!("write kind: {KIND} and apiVersion: {API_VERSION}")));
    }
    let mut spec = document.spec;
    for (field, set) in [("paused", spec.paused), ("abort", spec.abort), ("approvedStep", spec.approved_step != 0)] {
        if set {
            let why = format!("spec.{field} is for a resource in a cluster: a call makes a new shift");
            return Err(refused(why, "leave it out; use yardctl pause, abort or approve afterwards"));
        }
    }
    let own = document.metadata.namespace.filter(|own| !own.is_empty());
    if let (Some(own), Some(flag)) = (own.as_deref(), namespace)
        && own != flag
    {
        let why = format!("-n says namespace '{flag}', metadata.namespace says '{own}'");
        return Err(refused(why, "leave out one of the two"));
    }
    let default = own.as_deref().or(namespace).unwrap_or("default");
    for policy in spec.policies.iter_mut().filter(|policy| policy.namespace.is_empty()) {
        policy.namespace = default.to_owned();
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    const HEAD: &str = "apiVersion: switchyard.dev/v1alpha1\nkind: TrafficShift\n";

    fn of(rest: &str, namespace: Option<&str>) -> Result<ShiftSpec, Failure> {
        parse("a.yaml", &format!("{HEAD}{rest}"), namespace)
    }

    #[test]
    fn a_namespace_comes_from_the_policy_the_metadata_the_flag_or_the_default() {
        let named = "metadata: {name: x, namespace: shop}\nspec: {policies: [{name: a, to: b}, {name: c, namespace: d, to: e}]}";
        let bare = "spec: {policies: [{name: a, to: b}]}";
        let namespaces = |rest: &str, flag| -> Vec<String> {
            of(rest, flag).unwrap().policies.into_iter().map(|policy| policy.namespace).collect()
        };
        assert_eq!(namespaces(named, None), ["shop", "d"]);
        assert_eq!(namespaces(named, Some("shop")), ["shop", "d"]);
        assert_eq!(namespaces(bare, Some("bar")), ["bar"]);
        assert_eq!(namespaces(bare, None), ["default"]);
    }

    #[test]
    fn json_is_taken_as_yaml_is() {
        let text = r#"{"apiVersion": "switchyard.dev/v1alpha1", "kind": "TrafficShift", "metadata": {"name": "x"},
                       "spec": {"policies": [{"name": "a", "to": "b"}], "strategy": {"linear": {"stepPercent": 20}}},
                       "status": {"whatever": 1}}"#;
        let spec = parse("a.json", text, None).unwrap();
        assert_eq!(spec.strategy.linear.unwrap().step_percent, 20);
    }

    #[test]
    fn what_a_call_cannot_say_is_refused_with_what_to_do_instead() {
        let policies = "policies: [{name: a, to: b}]";
        for (rest, flag, part) in [
            (format!("spec: {{{policies}, paused: true}}"), None, "spec.paused is for a resource"),
            (format!("spec: {{{policies}, abort: true}}"), None, "spec.abort is for a resource"),
            (format!("spec: {{{policies}, approvedStep: 2}}"), None, "spec.approvedStep is for a resource"),
            (format!("metadata: {{namespace: shop}}\nspec: {{{policies}}}"), Some("bar"), "-n says namespace 'bar'"),
            ("spec: {polices: []}".into(), None, "polices"),
        ] {
            let failure = of(&rest, flag).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{rest}");
            assert!(failure.why.contains(part), "{rest}: {}", failure.why);
        }
    }

    #[test]
    fn a_zero_that_would_stand_for_the_default_is_refused_by_its_place() {
        let gate = |setting: &str| format!("gates: [{{name: g, targetHealth: {{}}, {setting}}}]");
        for (more, place) in [
            ("progressDeadlineSeconds: 0".to_owned(), "progressDeadlineSeconds"),
            ("strategy: {exponential: {firstPercent: 5, factor: 0}}".to_owned(), "factor"),
            ("gates: [{name: g, targetHealth: {minHealthyPercent: 0}}]".to_owned(), "minHealthyPercent"),
            (
                "gates: [{name: g, cloudWatch: {metric: m, statistic: Sum, periodSeconds: 0}}]".to_owned(),
                "periodSeconds",
            ),
            (gate("count: 0"), "count"),
            (gate("intervalSeconds: 0"), "intervalSeconds"),
        ] {
            let failure = of(&format!("spec: {{policies: [{{name: a, to: b}}], {more}}}"), None).unwrap_err();
            assert!(
                failure.why.contains(&format!("{place} is 0, which is none of its values")),
                "{more}: {}",
                failure.why
            );
        }
        let none = format!("spec: {{policies: [{{name: a, to: b}}], {}}}", gate("failureLimit: 0"));
        assert!(of(&none, None).is_ok(), "no failure at all is a wish");
    }

    #[test]
    fn another_kind_of_document_is_refused_by_its_kind() {
        let failure = parse("a.yaml", "apiVersion: v1\nkind: Pod\nspec: {policies: []}", None).unwrap_err();
        assert_eq!(failure.why, "it is a Pod of v1");
        assert!(failure.remedy.contains("kind: TrafficShift"));
    }
}
