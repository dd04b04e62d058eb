//! The lists of what the programs are made of (`scripts/sbom.sh`), against Cargo.lock and against the programs themselves: a program
//! holds the paths of the sources that it was compiled from, wherever something in them may panic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;
use switchyard_tests::programs;

use super::{path, read};

/// Program, its package.
const PROGRAMS: [(&str, &str); 3] = [("switchyard-hub", "hub"), ("switchyard-agent", "agent"), ("yardctl", "cli")];

/// Crates that no program may ship: for tests, for building, for fuzzing.
const NEVER: [&str; 12] = [
    "proptest",
    "criterion",
    "tempfile",
    "arbitrary",
    "libfuzzer-sys",
    "switchyard-sandbox",
    "switchyard-tests",
    "switchyard-fuzz",
    "protox",
    "syn",
    "serde_derive",
    "cc",
];

fn write(into: &Path) {
    let script = path("scripts/sbom.sh");
    let output = Command::new(script).arg(into).env_remove("SOURCE_DATE_EPOCH").output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn list(folder: &Path, program: &str) -> Value {
    let text = fs::read_to_string(folder.join(format!("{program}.cdx.json"))).expect("a list");
    serde_json::from_str(&text).expect("JSON")
}

fn text(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or_else(|| panic!("{field} in {of}")).to_owned()
}

/// `name-version` of everything that the list names.
fn crates(list: &Value) -> BTreeSet<String> {
    let components = list["components"].as_array().expect("components");
    components.iter().map(|one| format!("{}-{}", text(one, "name"), text(one, "version"))).collect()
}

/// `name-version` and checksum of everything in Cargo.lock; no checksum: ours.
fn locked() -> BTreeMap<String, Option<String>> {
    let text = read("Cargo.lock");
    let packages = text.split("[[package]]").skip(1).map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        (format!("{}-{}", field("name").expect("a name"), field("version").expect("a version")), field("checksum"))
    });
    packages.collect()
}

/// `name-version` of the crates of the registry whose sources a program names.
fn linked(program: &str) -> BTreeSet<String> {
    let bytes = fs::read(programs::find(program).expect("the program is built")).expect("a program");
    let marker = b"/registry/src/";
    let mut found = BTreeSet::new();
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.windows(marker.len()).position(|window| window == marker) {
        rest = &rest[at + marker.len()..];
        let printable = rest.iter().take(512).take_while(|byte| byte.is_ascii_graphic()).count();
        // The registry's own folder, then the crate's.
        let shown = String::from_utf8_lossy(&rest[..printable]);
        if let Some(folder) = shown.split('/').nth(1).filter(|_| shown.split('/').count() > 2) {
            found.insert(folder.to_owned());
        }
    }
    found
}

#[test]
fn everything_that_is_listed_is_locked_and_everything_that_is_linked_is_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path());
    let locked = locked();
    for (program, package) in PROGRAMS {
        let list = list(folder.path(), program);
        assert_eq!((text(&list, "bomFormat"), text(&list, "specVersion")), ("CycloneDX".into(), "1.5".into()));
        assert_eq!(text(&list["metadata"]["component"], "name"), program);
        let listed = crates(&list);
        for one in list["components"].as_array().expect("components") {
            let name = format!("{}-{}", text(one, "name"), text(one, "version"));
            let checksum = locked.get(&name).unwrap_or_else(|| panic!("{program}: {name} is not in Cargo.lock"));
            assert_eq!(one["hashes"][0]["content"].as_str(), checksum.as_deref(), "{program}: {name}");
            assert_eq!(checksum.is_none(), name.starts_with("switchyard-"), "{program}: {name} is of no registry");
            assert!(!text(&one["licenses"][0], "expression").is_empty(), "{program}: {name} has no licence");
            assert!(!NEVER.contains(&text(one, "name").as_str()), "{program} ships {name}");
        }
        let linked = linked(program);
        assert!(linked.len() > 40, "{program}: {} crates were found in it", linked.len());
        let missing: Vec<&String> = linked.difference(&listed).collect();
        assert!(missing.is_empty(), "{program} is made of {missing:?}, too, which the list does not have");
        // What the package says it needs is there, and it says what it needs for its tests elsewhere.
        let manifest = read(&format!("{package}/Cargo.toml"));
        let needs =
            manifest.split("\n[dependencies]\n").nth(1).expect("dependencies").split("\n[").next().expect("some");
        for need in needs.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
            assert!(listed.iter().any(|one| one.starts_with(&format!("{need}-"))), "{program}: {need} is missing");
        }
    }
}

#[test]
fn what_depends_on_what_is_told_for_each_and_leads_from_the_program_to_all() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path());
    for (program, _) in PROGRAMS {
        let list = list(folder.path(), program);
        let edges: BTreeMap<String, Vec<String>> = list["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .map(|one| {
                let on = one["dependsOn"].as_array().expect("a list").iter();
                (text(one, "ref"), on.map(|to| to.as_str().expect("a name").to_owned()).collect())
            })
            .collect();
        let mut reached = BTreeSet::new();
        let mut next = vec![text(&list["metadata"]["component"], "bom-ref")];
        while let Some(one) = next.pop() {
            if reached.insert(one.clone()) {
                next.extend(edges.get(&one).unwrap_or_else(|| panic!("{program}: nothing is told of {one}")).clone());
            }
        }
        let components = list["components"].as_array().expect("components");
        let unreached: Vec<String> =
            components.iter().map(|one| text(one, "bom-ref")).filter(|one| !reached.contains(one)).collect();
        assert!(unreached.is_empty(), "{program}: nobody needs {unreached:?}");
        assert_eq!(reached.len(), components.len() + 1, "{program}");
    }
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write(first.path());
    write(second.path());
    for (program, _) in PROGRAMS {
        assert_eq!(list(first.path(), program), list(second.path(), program));
        let bytes = |folder: &Path| fs::read(folder.join(format!("{program}.cdx.json"))).expect("a list");
        assert_eq!(bytes(first.path()), bytes(second.path()), "{program}");
    }
}
