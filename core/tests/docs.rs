//! What the documentation says, held against the sources: every reason is explained, every example is valid, and every test,
//! file, metric and AWS operation that a page names is really there. Reads files of the workspace and nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use switchyard_core::{
    policy::{ClusterTrafficPolicy, validate},
    shift::{self, TrafficShift},
};

/// Folders whose files the pages name from the root of the workspace.
const ROOMS: [&str; 11] =
    ["agent/", "charts/", "cli/", "core/", "docs/", "examples/", "hub/", "migrations/", "proto/", "sandbox/", "tests/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files below a folder whose names end so, by their path from the root.
fn files(folder: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root().join(folder)) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, end));
        } else if path.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// README, CHANGELOG and everything in docs, with their text.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    names.extend(files("docs", ".md"));
    assert!(names.len() >= 9, "the pages are found: {names:?}");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// The fenced blocks of a page in one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(word)) => open = Some((word.trim() == language, String::new())),
            (Some(_), Some(_)) => found.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, block)| block)),
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is left open");
    found
}

/// The texts between single backticks, outside of fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

fn variants(source: &str, name: &str) -> Vec<String> {
    let start = source.find(&format!("pub enum {name} {{")).unwrap_or_else(|| panic!("there is no enum {name}"));
    let body = &source[start..];
    let body = &body[..body.find("\n}").unwrap()];
    let lines = body.lines().skip(1).map(str::trim).filter(|line| !line.starts_with("//"));
    lines.filter_map(|line| line.strip_suffix(',')).map(str::to_owned).collect()
}

#[test]
fn every_reason_is_explained_and_no_other() {
    let known: BTreeSet<String> = variants(&read("core/src/status.rs"), "Reason").into_iter().collect();
    assert!(known.len() > 20 && known.contains("AsRequested"), "the enum is read: {known:?}");
    let page = read("docs/policy.md");
    let section = page.split("## Reasons").nth(1).expect("docs/policy.md has a section Reasons");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let explained: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(explained, known, "the table of docs/policy.md against Reason in core/src/status.rs");
}

#[test]
fn every_policy_and_every_shift_that_is_shown_is_valid() {
    let mut shown = Vec::new();
    for (name, text) in pages() {
        shown.extend(blocks(&text, "yaml").into_iter().map(|block| (name.clone(), block)));
    }
    shown.extend(files("examples", ".yaml").into_iter().map(|name| (name.clone(), read(&name))));
    let (mut policies, mut shifts) = (0, 0);
    for (name, text) in shown {
        for document in serde_norway::Deserializer::from_str(&text) {
            let value = serde_norway::Value::deserialize(document).unwrap_or_else(|error| panic!("{name}: {error}"));
            match value.get("kind").and_then(|kind| kind.as_str()) {
                Some("ClusterTrafficPolicy") => {
                    let manifest = serde_norway::from_value::<ClusterTrafficPolicy>(value);
                    let manifest = manifest.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
                    validate(&manifest).unwrap_or_else(|violations| panic!("{name}: {violations:?}\n{text}"));
                    policies += 1;
                }
                Some("TrafficShift") => {
                    let manifest = serde_norway::from_value::<TrafficShift>(value);
                    let manifest = manifest.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
                    let namespace = manifest.metadata.namespace.parse().unwrap();
                    shift::validate(&manifest.spec, &namespace, true)
                        .unwrap_or_else(|violations| panic!("{name}: {violations:?}\n{text}"));
                    shifts += 1;
                }
                _ => {}
            }
        }
    }
    assert!(shifts >= 2, "the pages show shifts: {shifts}");
    assert!(policies >= 4, "the pages show policies: {policies}");
}

#[test]
fn every_field_of_a_policy_is_in_the_reference() {
    let page = read("docs/policy.md");
    let parts = ["spec.rs", "spec/failover.rs", "spec/safety.rs"];
    let source: String = parts.iter().map(|part| read(&format!("core/src/policy/{part}"))).collect();
    let mut fields = 0;
    for line in source.lines().filter_map(|line| line.strip_prefix("    pub ")) {
        let Some((name, _)) = line.split_once(": ") else { continue };
        let name = match name {
            "matches" => "match".to_owned(),
            // The type of a path; and constants, which are no fields.
            "kind" => continue,
            name if name.contains(' ') => continue,
            name => camel(name, false),
        };
        let named = quoted(&page).iter().any(|text| text.split(['.', '[', ']']).any(|part| part == name));
        assert!(named, "field {name} of core/src/policy/spec is not in docs/policy.md");
        fields += 1;
    }
    assert!(fields > 30, "the fields are found: {fields}");
}

fn camel(name: &str, first_too: bool) -> String {
    let mut text = String::new();
    let mut upper = first_too;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            text.extend(if upper { c.to_uppercase().next() } else { Some(c) });
            upper = false;
        }
    }
    text
}

/// `file.rs::name_of_a_test` and paths from the root.
#[test]
fn every_test_and_file_that_a_page_names_exists() {
    let mut tests = 0;
    for (page, text) in pages() {
        for name in quoted(&text).iter().filter(|name| ROOMS.iter().any(|room| name.starts_with(room))) {
            let (path, test) = name.split_once("::").map_or((name.as_str(), None), |(path, test)| (path, Some(test)));
            if path.contains(['*', '{', '<', ' ']) {
                continue;
            }
            assert!(root().join(path).exists(), "{page} names {path}, which does not exist");
            if let Some(test) = test {
                // Rows of one kind are made by a macro: `name: what happens`.
                let (text, row) = (read(path), format!("\n    {test}:"));
                let found = text.contains(&format!("fn {test}(")) || text.contains(&row);
                assert!(found, "{page} names the test {test}, which is not in {path}");
                tests += 1;
            }
        }
    }
    assert!(tests > 30, "the pages name tests: {tests}");
}

#[test]
fn every_link_to_a_file_leads_somewhere() {
    for (page, text) in pages() {
        let folder = Path::new(&page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(root().join(&folder).join(path).exists(), "{page} links to {target}, which does not exist");
        }
    }
}

/// The metrics that are registered, by their whole names without the ending of their kind.
fn registered_metrics() -> BTreeSet<String> {
    let mut registered = BTreeSet::new();
    let files = [
        ("hub/src/metrics.rs", "switchyard_hub_"),
        ("hub/src/door/metrics.rs", "switchyard_hub_"),
        ("agent/src/metrics.rs", "switchyard_agent_"),
    ];
    for (file, prefix) in files {
        // The name is the first text after the call's parenthesis, on this line or the next.
        for rest in read(file).split(".register(").skip(1) {
            let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            registered.extend(name.map(|name| format!("{prefix}{name}")));
        }
    }
    assert!(registered.len() > 25, "the metrics are found: {registered:?}");
    registered
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let page = read("docs/operations.md");
    let listed: BTreeSet<String> = quoted(&page)
        .into_iter()
        .map(|text| text.split('{').next().unwrap_or_default().to_owned())
        .filter(|text| text.starts_with("switchyard_hub_") || text.starts_with("switchyard_agent_"))
        .collect();
    let without_ending = |name: &String| name.strip_suffix("_total").unwrap_or(name).to_owned();
    let listed: BTreeSet<String> = listed.iter().map(without_ending).collect();
    assert_eq!(listed, registered_metrics(), "docs/operations.md against what is registered");
}

/// The words of a text that begin as our metrics do.
fn metric_words(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("switchyard_")).map(str::to_owned).collect()
}

/// Also in the middle of an expression, of an alert in a chart, and on every page.
#[test]
fn no_page_and_no_chart_names_a_metric_that_there_is_not() {
    // Crates in a filter of the log, a login of Postgres, and what all metrics begin with.
    const OTHERS: [&str; 5] =
        ["switchyard_hub", "switchyard_agent", "switchyard_b", "switchyard_hub_", "switchyard_agent_"];
    let registered = registered_metrics();
    let mut texts = pages();
    for end in [".yaml", ".tpl", ".txt", ".md", ".json"] {
        texts.extend(files("charts", end).into_iter().map(|name| (name.clone(), read(&name))));
        texts.extend(files("examples", end).into_iter().map(|name| (name.clone(), read(&name))));
    }
    let mut found = 0;
    for (file, text) in texts {
        for word in metric_words(&text).iter().filter(|word| !OTHERS.contains(&word.as_str())) {
            let endings = ["_total", "_bucket", "_count", "_sum"];
            let known = registered.contains(word)
                || endings.iter().any(|ending| word.strip_suffix(ending).is_some_and(|name| registered.contains(name)));
            assert!(known, "{file} names the metric {word}, which does not exist");
            found += 1;
        }
    }
    assert!(found > 100, "the metrics are found on the pages: {found}");
}

#[test]
fn the_permissions_are_the_calls_that_the_hub_makes_and_no_other() {
    const VERBS: [&str; 8] = ["add_", "create_", "delete_", "deregister_", "describe_", "modify_", "register_", "set_"];
    let mut called = BTreeSet::new();
    for file in files("hub/src/elb", ".rs") {
        // A call on the client takes no arguments: `.modify_rule()`.
        for part in read(&file).split('.').skip(1) {
            let end = part.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(part.len());
            let name = &part[..end];
            if part[end..].starts_with("()") && VERBS.iter().any(|verb| name.starts_with(verb)) {
                called.insert(format!("elasticloadbalancing:{}", camel(name, true)));
            }
        }
    }
    assert!(called.len() > 15, "the calls are found: {called:?}");
    let policy = read("deploy/iam/hub-policy.json.tmpl");
    let allowed: BTreeSet<String> = policy
        .split('"')
        .filter(|text| text.starts_with("elasticloadbalancing:") && !text.ends_with("CreateAction"))
        .map(str::to_owned)
        .collect();
    assert_eq!(allowed, called, "the hub's IAM policy against hub/src/elb");
}
