//! The commands that `yardctl cluster join` prints, typed as they are into a shell at a real API server: they let a new cluster in, and
//! typed again for one that joins once more they keep what its people set.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use switchyard_tests::{
    guard, programs,
    realkube::{Options, RealKube},
    sandbox::Settings,
    world::{Builder, World},
};

const NAMESPACE: &str = "switchyard";
/// For one command that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

async fn kubectl(kube: &RealKube, arguments: &[&str]) -> String {
    let finished = kube.kubectl(arguments).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
    finished.stdout
}

/// What a new token's answer has.
async fn joined(world: &World, more: &[&str]) -> Value {
    let arguments = [&["cluster", "join", "blue", "-o", "json"], more].concat();
    serde_json::from_str(&world.yardctl.expect(&arguments, "").await.stdout).expect("JSON")
}

/// Types the commands, with what is written in capitals filled in, at the root of the repository.
async fn typed(kube: &RealKube, home: &Path, joined: &Value) {
    let tools = std::env::var("SWITCHYARD_KUBE_TOOLS").expect("kubectl and helm");
    let path = format!("{tools}:{}", std::env::var("PATH").expect("programs"));
    let commands = joined["commands"].as_array().expect("commands");
    assert_eq!(commands.len(), 4, "{joined:#}");
    for command in commands {
        let mut command = command.as_str().expect("text").to_owned();
        for (word, value) in [
            ("https://HUB:7400", "https://hub.example.com:7400"),
            ("VPC_ID", "vpc-0123456789abcdef0"),
            ("REGION", "eu-central-1"),
            ("IMAGE", "example.com/switchyard-agent"),
        ] {
            command = command.replace(word, value);
        }
        let mut shell = tokio::process::Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &command]).current_dir(programs::workspace()).env_clear();
        shell.env("PATH", &path).env("HOME", home).env("KUBECONFIG", kube.kubeconfig_admin());
        let ended = tokio::time::timeout(PATIENCE, shell.stdin(Stdio::null()).kill_on_drop(true).output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{command} did not end")).expect("bash runs");
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn token_at_the_cluster(kube: &RealKube) -> String {
    let template = "go-template={{.data.token | base64decode}}";
    let text = kubectl(kube, &["-n", NAMESPACE, "get", "secret", "switchyard-agent-join", "-o", template]).await;
    text.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cluster_join_prints_lets_a_new_cluster_in_and_keeps_the_values_of_one_that_joins_again() {
    let builder = Builder::default();
    let sandbox = Settings { clusters: vec!["blue".to_owned()], ..builder.sandbox.clone() };
    let builder = Builder { sandbox, guarded: Some(guard::Settings::default()), ..builder };
    let (world, kube) = tokio::join!(builder.start(), RealKube::start(Options::default()));
    let (world, kube) = (world.expect("the world starts"), kube.expect("a control plane"));
    let home = tempfile::tempdir().expect("a folder");

    // From nothing: not even the namespace is there. The token comes by standard input.
    let first = joined(&world, &[]).await;
    typed(&kube, home.path(), &first).await;
    assert_eq!(Some(token_at_the_cluster(&kube).await.as_str()), first["secret"].as_str());
    kubectl(&kube, &["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]).await;
    kubectl(&kube, &["create", "namespace", "shop"]).await;

    // Its people bind the agent to a namespace, and have it open gates.
    let chart = programs::workspace().join("charts/switchyard-agent").display().to_string();
    let own = ["--reset-then-reuse-values", "--set=namespaces={shop}", "--set=readinessGates.enabled=true"];
    let upgrade = [&["upgrade", "switchyard-agent", &chart, "-n", NAMESPACE][..], &own[..]].concat();
    let upgraded = kube.helm(&upgrade).await.expect("helm runs");
    assert_eq!(upgraded.code, 0, "{upgraded}");

    // It joins again, with a token in a file.
    let file = home.path().join("blue.token");
    let second = joined(&world, &["--out", &file.display().to_string()]).await;
    typed(&kube, home.path(), &second).await;
    let token = std::fs::read_to_string(&file).expect("the token");
    assert_eq!(token_at_the_cluster(&kube).await, token.trim());
    assert_ne!(Some(token.trim()), first["secret"].as_str(), "another one");
    let values = kube.helm(&["get", "values", "switchyard-agent", "-n", NAMESPACE, "-o", "json"]).await;
    let values: Value = serde_json::from_str(&values.expect("helm runs").stdout).expect("JSON");
    assert_eq!(values["namespaces"][0], "shop", "{values:#}");
    assert_eq!(values["readinessGates"]["enabled"], true, "{values:#}");
    let labels = kubectl(&kube, &["get", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.labels}"]).await;
    assert!(labels.contains("restricted"), "{labels}");
    world.stop().await;
}
