//! Every call of the .proto files has exactly one row in the table, and no row is of a call that there is not.

use std::{collections::BTreeSet, fs, path::Path};

use switchyard_core::access::{
    Role,
    table::{Kind, TABLE, Who, need},
};

fn calls(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            calls(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let word = |line: &str, before: &str| -> Option<String> {
            let rest = line.trim_start().strip_prefix(before)?;
            Some(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next()?.to_owned())
        };
        let (mut package, mut service) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(name) = word(line, "package ") {
                package = name;
            } else if let Some(name) = word(line, "service ") {
                service = name;
            } else if let Some(name) = word(line, "rpc ") {
                found.insert(format!("{package}.{service}/{name}"));
            }
        }
    }
}

#[test]
fn every_call_of_ours_has_one_row_and_every_row_is_a_call() {
    let mut in_protos = BTreeSet::new();
    calls(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto"), &mut in_protos);
    assert!(in_protos.len() > 40, "{in_protos:?}");
    let ours: Vec<&str> = TABLE.iter().map(|need| need.rpc).filter(|rpc| rpc.starts_with("switchyard.")).collect();
    let unique: BTreeSet<String> = ours.iter().map(|rpc| (*rpc).to_owned()).collect();
    assert_eq!(unique.len(), ours.len(), "a call stands in the table twice");
    assert_eq!(unique, in_protos);
}

#[test]
fn a_call_without_a_row_is_nobodys() {
    assert_eq!(need("/switchyard.api.v1.PolicyService/ApplyPolicy").unwrap().method(), "ApplyPolicy");
    for path in [
        "",
        "/",
        "switchyard.api.v1.PolicyService/ApplyPolicy",
        "//switchyard.api.v1.PolicyService/ApplyPolicy",
        "/switchyard.api.v1.PolicyService/applypolicy",
        "/switchyard.api.v1.PolicyService/ApplyPolicy/",
        "/switchyard.api.v1.PolicyService/../PolicyService/ApplyPolicy",
        "/switchyard.api.v1.PolicyService/Apply%50olicy",
        "/switchyard.api.v1.PolicyService/NoSuchCall",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        assert_eq!(need(path), None, "{path}");
    }
}

#[test]
fn nothing_that_changes_is_open_to_readers_and_only_the_first_certificate_and_health_need_no_proof() {
    let open: Vec<&str> = TABLE.iter().filter(|need| need.who == Who::Anyone).map(|need| need.rpc).collect();
    let expected =
        ["switchyard.agent.v1.EnrollmentService/Enroll", "grpc.health.v1.Health/Check", "grpc.health.v1.Health/List"];
    assert_eq!(open, expected);
    for need in TABLE.iter().filter(|need| need.kind == Kind::Change && need.rpc.starts_with("switchyard.api.")) {
        let changes = matches!(need.who, Who::Role(role) | Who::HubRole(role) if role > Role::Viewer);
        assert!(changes, "{need:?}");
    }
    for need in TABLE.iter().filter(|need| need.kind == Kind::Agent) {
        assert_eq!(need.who, Who::Agent, "{need:?}");
    }
}
