//! The programs started with the environment that the charts give their pods: everything is understood, up to the certificates,
//! which are not there.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use serde::Deserialize;
use serde_json::Value;
use switchyard_tests::programs;

use super::{names, path};

/// What a Secret would give: the whole URL, or a password that stands in one.
const SECRET: &str = "postgres://switchyard:secret@db.example.com/switchyard";
const PASSWORD: &str = "0123456789abcdef";

/// How far a program comes that understands everything else: to the first file of a Secret, which is not there.
const COMPLAINTS: [&str; 2] =
    ["--tls-cert /etc/switchyard/tls/tls.crt cannot be read", "--tls-ca /etc/switchyard/tls/ca.crt cannot be read"];

/// The environment of the container that runs a program, as the kubelet makes it.
fn environment(rendered: &str, program: &str) -> BTreeMap<String, String> {
    let documents = serde_norway::Deserializer::from_str(rendered);
    let mut objects = documents.map(|one| Value::deserialize(one).expect("a document"));
    let deployment = objects.find(|object| object["kind"] == "Deployment").expect("a Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], program.trim_start_matches("switchyard-"));
    let mut found = BTreeMap::new();
    for variable in container["env"].as_array().expect("an environment") {
        let secret = if variable["name"] == "POSTGRES_PASSWORD" { PASSWORD } else { SECRET };
        let value = variable["value"].as_str().unwrap_or(secret).to_owned();
        // The kubelet puts in what was named before.
        let value = found
            .iter()
            .fold(value, |value, (name, earlier): (&String, &String)| value.replace(&format!("$({name})"), earlier));
        let name = variable["name"].as_str().expect("a name").to_owned();
        assert!(found.insert(name.clone(), value).is_none(), "{name} is given twice");
    }
    found
}

#[tokio::test]
async fn the_programs_understand_what_the_charts_tell_them() {
    assert!(!Path::new("/etc/switchyard/tls").exists(), "this test needs a machine without such certificates");
    for chart in ["switchyard-agent", "switchyard-hub"] {
        let folder = path(&format!("charts/{chart}/rendered"));
        for name in names(&folder) {
            let rendered = fs::read_to_string(folder.join(&name)).expect("a file");
            let mut command = tokio::process::Command::new(programs::find(chart).expect("the program is built"));
            command.env_clear().envs(environment(&rendered, chart)).stdin(Stdio::null()).kill_on_drop(true);
            let ended = tokio::time::timeout(switchyard_tests::wait::PATIENCE, command.output()).await;
            let output = ended.unwrap_or_else(|_| panic!("{chart} {name} goes on")).expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| line.starts_with(chart)).unwrap_or_default();
            assert!(COMPLAINTS.iter().any(|complaint| last.contains(complaint)), "{chart} {name}: {said}");
        }
    }
}
