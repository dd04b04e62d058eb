//! What people see: every policy and every shift that is shown somewhere can be applied, and `kubectl get`, `explain` and `describe` read well.

use std::{fs, path::Path};

use serde::Deserialize;
use switchyard_tests::{programs, realkube::RealKube};

use super::{NAMESPACE, server};

/// The resources of ours in examples, pages and README, with the file they are from.
fn shown() -> Vec<(String, String)> {
    let root = programs::workspace();
    let mut texts = vec![("README.md".to_owned(), blocks(&read(&root.join("README.md"))))];
    for folder in ["docs", "examples"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("it is below").display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("md") => texts.push((name, blocks(&read(&path)))),
                Some("yaml") => texts.push((name, vec![read(&path)])),
                _ => {}
            }
        }
    }
    let mut policies = Vec::new();
    for (name, text) in
        texts.into_iter().flat_map(|(name, texts)| texts.into_iter().map(move |text| (name.clone(), text)))
    {
        for document in serde_norway::Deserializer::from_str(&text) {
            let value = serde_norway::Value::deserialize(document).unwrap_or_else(|error| panic!("{name}: {error}"));
            let kind = value.get("kind").and_then(|kind| kind.as_str());
            if matches!(kind, Some("ClusterTrafficPolicy" | "TrafficShift")) {
                policies.push((name.clone(), serde_norway::to_string(&value).expect("YAML")));
            }
        }
    }
    policies
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of YAML in a page.
fn blocks(page: &str) -> Vec<String> {
    // Odd parts are within fences.
    let inside = page.split("\n```").skip(1).step_by(2);
    inside.filter_map(|block| block.strip_prefix("yaml\n")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_policy_and_shift_that_is_shown_somewhere_can_be_applied() {
    let kube = server().await;
    let policies = shown();
    assert!(policies.len() >= 4, "the policies are found: {policies:?}");
    for (name, yaml) in policies {
        let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let applied = kube.kubectl_with(&arguments, &yaml).await.expect("kubectl runs");
        assert_eq!(applied.code, 0, "{name}\n{yaml}\n{applied}");
    }
}

/// kubectl's standard output, without spaces at the ends of lines.
pub(super) async fn said(kube: &RealKube, arguments: &[&str]) -> String {
    let finished = kube.kubectl(arguments).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
    finished.stdout.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_the_fields() {
    let kube = server().await;
    let clusters = said(kube, &["explain", "ctp.spec.clusters"]).await;
    assert!(clusters.contains("FIELD: clusters <[]Object>"), "{clusters}");
    assert!(clusters.contains("1 to 5 clusters with their shares of the requests"), "{clusters}");
    assert!(
        clusters.contains("  weight\t<integer> -required-\n    Its share is its weight over the sum"),
        "{clusters}"
    );
    let path = said(kube, &["explain", "clustertrafficpolicy.spec.match.paths.type"]).await;
    assert!(path.contains("ENUM:\n    Prefix\n    Exact\n    Pattern"), "{path}");
    assert!(path.contains("Prefix: Whole path elements"), "{path}");
    let all = said(kube, &["explain", "ctp", "--recursive"]).await;
    for field in
        ["apiVersion", "listener", "healthCheck", "sourceIps", "generationInForce", "programmedWeight", "notes"]
    {
        assert!(all.contains(&format!("{field}\t<")), "{field} is not in\n{all}");
    }
    let resources = said(kube, &["api-resources", "--categories=switchyard", "--no-headers"]).await;
    let words: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["clustertrafficpolicies", "ctp", "switchyard.dev/v1alpha1", "true", "ClusterTrafficPolicy"],
        ["trafficshifts", "tshift", "switchyard.dev/v1alpha1", "true", "TrafficShift"],
    ];
    assert_eq!(words, expected);
}

const POLICY: &str = r#"
apiVersion: switchyard.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: seen, namespace: shop}
spec:
  listener: {loadBalancer: shared-public, port: 443}
  match: {hostnames: [shop.example.com]}
  backend: {service: {name: checkout, port: http}}
  clusters: [{name: blue, weight: 90}, {name: green, weight: 10}]
"#;

/// As the agent writes it: every field that it knows.
const STATUS: &str = r#"
apiVersion: switchyard.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: seen, namespace: shop}
status:
  observedGeneration: 1
  claim: Owner
  generationInForce: 1
  weights: blue=90,green=10
  programmed: blue=100,green=0
  reason: WeightsHeld
  conditions:
    - {type: Accepted, status: "True", reason: AsRequested, message: the policy is in force, observedGeneration: 1, lastTransitionTime: "2026-01-02T03:04:05Z"}
    - {type: Converged, status: "False", reason: WeightsHeld, message: "", observedGeneration: 1, lastTransitionTime: "2026-01-02T03:04:05Z"}
    - {type: FailedOver, status: "False", reason: AsRequested, message: "", observedGeneration: 1, lastTransitionTime: "2026-01-02T03:04:05Z"}
  clusters:
    - {name: blue, requestedWeight: 90, effectiveWeight: 100, programmedWeight: 100, reason: WeightsHeld, message: waits, targetGroupArn: "arn:tg", link: Connected,
       targets: {desired: 3, registered: 3, healthy: 3, unhealthy: 0, initial: 0, draining: 0, unused: 0, held: 0}}
    - {name: green, requestedWeight: 10, effectiveWeight: 0}
  rule: {listenerArn: "arn:listener", ruleArn: "arn:rule", priority: 100, programmedAt: "2026-01-02T03:04:05Z"}
  notes:
    - {cluster: green, reason: NoTargets, message: the cluster has no targets}
    - {reason: WeightsHeld, message: the change waits}
"#;

/// Ages are what they are; the last column of the narrow table.
pub(super) fn without_age(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let Some(last) =
        words.last_mut().filter(|word| word.ends_with('s') && word.starts_with(|c: char| c.is_ascii_digit()))
    {
        *last = "1s";
    }
    words.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_what_is_asked_for_what_is_programmed_and_why() {
    let kube = server().await;
    kube.apply(POLICY).await;
    let fresh = said(kube, &["get", "ctp", "seen", "-n", NAMESPACE]).await;
    let lines: Vec<String> = fresh.lines().map(without_age).collect();
    assert_eq!(lines, ["NAME WEIGHTS PROGRAMMED ACCEPTED CONVERGED FAILEDOVER REASON AGE", "seen 1s"], "{fresh}");
    let arguments = [
        "apply",
        "--server-side",
        "--field-manager=switchyard-agent",
        "--subresource=status",
        "--validate=strict",
        "-f",
        "-",
    ];
    let written = kube.kubectl_with(&arguments, STATUS).await.expect("kubectl runs");
    assert_eq!(written.code, 0, "{written}");
    let narrow = said(kube, &["get", "ctp", "-A"]).await;
    let lines: Vec<String> =
        narrow.lines().map(without_age).filter(|line| !line.starts_with("shop changing")).collect();
    let head = "NAMESPACE NAME WEIGHTS PROGRAMMED ACCEPTED CONVERGED FAILEDOVER REASON AGE";
    assert!(lines[0] == head && lines.len() >= 2, "{narrow}");
    let row = "shop seen blue=90,green=10 blue=100,green=0 True False False WeightsHeld 1s";
    assert!(lines.iter().any(|line| line == row), "{narrow}");
    let wide = said(kube, &["get", "ctp", "seen", "-n", NAMESPACE, "-o", "wide"]).await;
    assert!(wide.contains("REASON") && wide.contains("CLAIM   PRIORITY   LISTENER"), "{wide}");
    assert!(wide.contains("Owner   100        arn:listener"), "{wide}");
    let described = said(kube, &["describe", "ctp", "seen", "-n", NAMESPACE]).await;
    for line in
        ["Requested Weight:   90", "Generation In Force:  1", "the change waits", "Programmed:             blue=100"]
    {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&described).contains(&words(line)), "{line} is not in\n{described}");
    }
    let stored = said(kube, &["get", "ctp", "seen", "-n", NAMESPACE, "-o", "jsonpath={.metadata.generation}"]).await;
    assert_eq!(stored, "1", "a status changes no generation");
    said(kube, &["delete", "ctp", "seen", "-n", NAMESPACE]).await;
}
