//! With a cluster: what is rendered is taken by a real API server, its pods pass the restricted profile, and an installation comes,
//! changes and goes without a trace.

use serde::Deserialize;
use serde_json::{Value, json};
use switchyard_tests::{
    process::Finished,
    realkube::{self, Options, RealKube},
    wait,
};

use super::render::{Chart, chart, charts, template};

/// A ServiceMonitor needs the definitions of the Prometheus operator, which are not ours to install.
const NO_MONITOR: [&str; 2] = ["--set", "serviceMonitor.enabled=false"];

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(text).map(|part| Value::deserialize(part).expect("YAML"));
    documents.filter(|document| !document.is_null()).collect()
}

async fn done(what: &str, kube: &RealKube, arguments: &[&str], input: &str) -> Finished {
    let finished = kube.kubectl_with(arguments, input).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "{what}: {finished}");
    finished
}

async fn helm(kube: &RealKube, arguments: &[&str]) -> Finished {
    let finished = kube.helm(arguments).await.expect("helm runs");
    assert_eq!(finished.code, 0, "helm {arguments:?}: {finished}");
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_render_is_taken_by_the_api_server_to_the_letter() {
    let kube = RealKube::start(Options::default()).await.expect("a control plane");
    for namespace in ["switchyard", "shop", "payments"] {
        done("a namespace", &kube, &["create", "namespace", namespace], "").await;
    }
    for chart in charts() {
        let files: Vec<_> = chart.values.iter().map(|path| Some(path.as_path())).collect();
        for values in if files.is_empty() { vec![None] } else { files } {
            let monitor: &[&str] = if values.is_some() { &NO_MONITOR } else { &[] };
            let rendered = template(&chart, values, monitor).await;
            assert_eq!(rendered.code, 0, "{rendered}");
            let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
            let applied = done(chart.name, &kube, &apply, &rendered.stdout).await;
            assert!(!applied.stderr.contains("Warning"), "{} with {values:?}: {applied}", chart.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pod_passes_the_restricted_profile() {
    let kube = RealKube::start(Options::default()).await.expect("a control plane");
    done("a namespace", &kube, &["create", "namespace", "switchyard"], "").await;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    done("its profile", &kube, &["label", "namespace", "switchyard", label], "").await;
    let mut pods = 0;
    for chart in [chart("switchyard-agent"), chart("switchyard-hub")] {
        for values in &chart.values {
            let rendered = template(&chart, Some(values), &[]).await.stdout;
            for document in documents(&rendered) {
                if document["spec"]["template"]["spec"].is_null() {
                    continue;
                }
                pods += 1;
                let pod = pod(&document, pods);
                let create = ["create", "--dry-run=server", "--validate=strict", "-n", "switchyard", "-f", "-"];
                let created = done(chart.name, &kube, &create, &pod.to_string()).await;
                assert!(!created.stderr.contains("Warning"), "{created}");
            }
        }
    }
    assert!(pods >= 7, "only {pods} pods were found");
    // The profile is in force: the same would refuse another pod.
    let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain"},
        "spec": {"containers": [{"name": "a", "image": "example.com/a"}]}});
    let create = ["create", "--dry-run=server", "-n", "switchyard", "-f", "-"];
    let refused = kube.kubectl_with(&create, &plain.to_string()).await.expect("kubectl runs");
    assert!(refused.code != 0 && refused.stderr.contains("violates PodSecurity"), "{refused}");
}

/// The pod that a Deployment or StatefulSet would make.
fn pod(workload: &Value, number: usize) -> Value {
    let mut spec = workload["spec"]["template"]["spec"].clone();
    let fields = spec.as_object_mut().expect("a pod's spec");
    fields.remove("serviceAccountName");
    // A claim of the StatefulSet's template becomes a volume of the pod.
    for claim in workload["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
        let name = claim["metadata"]["name"].clone();
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        fields["volumes"].as_array_mut().expect("volumes").push(volume);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{number}")}, "spec": spec})
}

/// Everything that carries the label of this release, in all namespaces, except what Kubernetes itself makes of it.
async fn left_of(kube: &RealKube, release: &str) -> Vec<String> {
    let kinds = done("the kinds", kube, &["api-resources", "--verbs=list", "-o", "name"], "").await.stdout;
    let kinds: Vec<&str> = kinds.lines().collect();
    let selector = format!("app.kubernetes.io/instance={release}");
    let get = ["get", &kinds.join(","), "-A", "-l", &selector, "-o", "name", "--ignore-not-found"];
    let found = kube.kubectl(&get).await.expect("kubectl runs");
    found.stdout.lines().map(str::to_owned).collect()
}

/// Two installations of each chart side by side, changed, and taken away again.
async fn comes_and_goes(kube: &RealKube, chart: &Chart, first: &str, second: &str) {
    let namespace = kube.namespace("charts").await.expect("a namespace");
    let folder = chart.folder.to_str().expect("UTF-8");
    let values = |name: &str| chart.folder.join("ci").join(name).to_str().expect("UTF-8").to_owned();
    let in_namespace = ["--namespace", &namespace];
    let mut install = vec!["install", chart.name, folder, "--values"];
    let (first, second) = (values(first), values(second));
    install.push(&first);
    install.extend(in_namespace.iter().chain(&NO_MONITOR));
    helm(kube, &install).await;
    let mut beside = install.clone();
    beside[1] = "other";
    helm(kube, &beside).await;
    let selector = format!("app.kubernetes.io/instance={}", chart.name);
    wait::until("the pods of the Deployment", async || {
        let get = ["get", "pods", "-n", &namespace, "-l", &selector, "-o", "name"];
        let pods = kube.kubectl(&get).await.map_err(|error| format!("{error:#}"))?.stdout;
        wait::check(!pods.is_empty(), || "none is there".to_owned())
    })
    .await;
    let mut upgrade = vec!["upgrade", chart.name, folder, "--values", &second];
    upgrade.extend(in_namespace.iter().chain(&NO_MONITOR));
    helm(kube, &upgrade).await;
    let others = left_of(kube, "other").await;
    helm(kube, &["uninstall", chart.name, "--namespace", &namespace, "--wait", "--timeout", "60s"]).await;
    wait::until("nothing of the release to be left", async || {
        let left = left_of(kube, chart.name).await;
        wait::check(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    // Pods come and go with their ReplicaSets.
    let lasting = |names: Vec<String>| names.into_iter().filter(|name| !name.starts_with("pod/")).collect::<Vec<_>>();
    assert_eq!(lasting(left_of(kube, "other").await), lasting(others), "the release beside it is untouched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_chart_comes_changes_and_goes_without_a_trace() {
    let kube = realkube::shared().await;
    comes_and_goes(kube, &chart("switchyard-agent"), "minimal-values.yaml", "everything-values.yaml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_chart_comes_changes_and_goes_without_a_trace() {
    let kube = realkube::shared().await;
    comes_and_goes(kube, &chart("switchyard-hub"), "minimal-values.yaml", "everything-values.yaml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uninstalling_the_definitions_leaves_them_and_every_policy() {
    let kube = RealKube::start(Options::default()).await.expect("a control plane");
    let folder = chart("switchyard-crds").folder;
    helm(&kube, &["install", "crds", folder.to_str().expect("UTF-8"), "--namespace", "default"]).await;
    let definition = "customresourcedefinition/clustertrafficpolicies.switchyard.dev";
    done("the definition", &kube, &["wait", "--for=condition=Established", definition, "--timeout=30s"], "").await;
    let policy = include_str!("../../../examples/checkout.yaml");
    let namespace = documents(policy)[0]["metadata"]["namespace"].as_str().expect("a namespace").to_owned();
    done("a namespace", &kube, &["create", "namespace", &namespace], "").await;
    done("a policy", &kube, &["apply", "--server-side", "-f", "-"], policy).await;
    helm(&kube, &["upgrade", "crds", folder.to_str().expect("UTF-8"), "--namespace", "default"]).await;
    helm(&kube, &["uninstall", "crds", "--namespace", "default"]).await;
    let left = done("the policies", &kube, &["get", "clustertrafficpolicies", "-A", "-o", "name"], "").await;
    assert!(left.stdout.contains("clustertrafficpolicy.switchyard.dev/"), "{left}");
}
