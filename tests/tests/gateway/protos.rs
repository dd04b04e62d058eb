//! `scripts/check-protos.sh` passes what is there, and refuses what would break a caller or an agent.

use std::{fs, path::Path};

use switchyard_tests::programs;
use tokio::process::Command;

/// Runs the check on a folder; whether it passed, and what it said.
async fn check(folder: &Path) -> (bool, String) {
    let root = programs::workspace();
    let mut command = Command::new(root.join("scripts/check-protos.sh"));
    let output = command.arg(folder).current_dir(&root).kill_on_drop(true).output().await.expect("the script runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a copy");
        }
    }
}

/// A copy of `proto/` in which `old` stands as `new`.
fn spoiled(file: &str, old: &str, new: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let proto = programs::workspace().join("proto");
    copy(&proto.join("proto"), &folder.path().join("proto"));
    fs::copy(proto.join("buf.yaml"), folder.path().join("buf.yaml")).expect("a copy");
    let path = folder.path().join("proto/switchyard").join(file);
    let text = fs::read_to_string(&path).expect("the file");
    assert!(text.contains(old), "{file} does not hold {old:?} any more");
    fs::write(&path, text.replacen(old, new, 1)).expect("written");
    folder
}

#[tokio::test]
async fn what_is_there_passes() {
    let (passed, said) = check(Path::new("proto")).await;
    assert!(passed, "{said}");
    assert!(said.contains("pass buf's lint"), "{said}");
}

#[tokio::test]
async fn what_would_break_a_caller_or_an_agent_is_refused() {
    let cases = [
        ("api/v1/cluster.proto", "string vpc_id = 3;", "string vpc_id = 33;", "vpc_id"),
        ("api/v1/policy.proto", "map<string, uint32> weights = 3;", "map<string, string> weights = 3;", "WeightsEntry"),
        ("api/v1/policy.proto", "uint64 expected_version = 4;", "uint64 wanted_version = 4;", "expected_version"),
        ("api/v1/policy.proto", "rpc SetWeights(", "rpc PutWeights(", "SetWeights"),
        ("agent/v1/agent.proto", "rpc Session(stream AgentMessage)", "rpc Session(AgentMessage)", "Session"),
    ];
    for (file, old, new, word) in cases {
        let folder = spoiled(file, old, new);
        let (passed, said) = check(folder.path()).await;
        assert!(!passed && said.contains(word), "{old} -> {new}: {said}");
    }
}

#[tokio::test]
async fn what_is_added_passes_and_what_is_badly_named_does_not() {
    let old = "  string vpc_id = 3;\n";
    let added = spoiled("api/v1/cluster.proto", old, &format!("{old}  string account_id = 900;\n"));
    let (passed, said) = check(added.path()).await;
    assert!(passed, "{said}");
    let named = spoiled("api/v1/cluster.proto", old, &format!("{old}  string AccountId = 900;\n"));
    let (passed, said) = check(named.path()).await;
    assert!(!passed && said.contains("AccountId"), "{said}");
}
