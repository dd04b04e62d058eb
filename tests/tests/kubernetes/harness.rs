//! The control plane itself: what the other tests of this binary take for granted.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::ListParams};
use switchyard_tests::{
    realkube::{self, Options, RealKube},
    wait,
};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web}]}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_turn_a_deployment_into_pods_and_empty_a_deleted_namespace() {
    let kube = realkube::shared().await;
    let namespace = kube.namespace("harness").await.expect("a namespace");
    let applied = kube.kubectl_with(&["apply", "--server-side", "-n", &namespace, "-f", "-"], DEPLOYMENT).await;
    assert_eq!(applied.as_ref().expect("kubectl runs").code, 0, "{applied:?}");
    let client = kube.client().await.expect("a client");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    wait::until("two pods", async || {
        let found = pods.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items.len();
        wait::check(found == 2, || format!("{found} pods"))
    })
    .await;
    let gone = kube.kubectl(&["delete", "namespace", &namespace, "--timeout=60s"]).await.expect("kubectl runs");
    assert_eq!(gone.code, 0, "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_may_do_what_it_was_given_and_nothing_else() {
    let kube = realkube::shared().await;
    let namespace = kube.namespace("accounts").await.expect("a namespace");
    kube.apply(&format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: reader, namespace: {namespace}}}
rules: [{{apiGroups: [apps], resources: [deployments], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
subjects: [{{kind: ServiceAccount, name: default, namespace: {namespace}}}]
"#
    ))
    .await;
    let kubeconfig = kube.kubeconfig_for_service_account(&namespace, "default").await.expect("a token");
    let client = realkube::client_of(&kubeconfig).await.expect("a client");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    // The server learns of a binding through a watch of its own, some milliseconds later.
    wait::until("the account to be allowed", async || deployments.list(&ListParams::default()).await.map(drop)).await;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let refused = pods.list(&ListParams::default()).await.expect_err("nobody allowed it");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_comes_back_with_its_data_and_helm_sees_its_version() {
    let kube = RealKube::start(Options::default()).await.expect("a control plane");
    let url = kube.url();
    let namespace = kube.namespace("kept").await.expect("a namespace");
    kube.stop_apiserver();
    let refused = kube.kubectl(&["get", "namespaces", "--request-timeout=5s"]).await.expect("kubectl runs");
    assert_ne!(refused.code, 0, "nobody answers: {refused}");
    kube.start_apiserver().await.expect("the server comes back");
    assert_eq!(kube.url(), url);
    let found = kube.kubectl(&["get", "namespace", &namespace, "-o", "name"]).await.expect("kubectl runs");
    assert_eq!(found.stdout.trim(), format!("namespace/{namespace}"), "{found}");
    let version = kube.kubectl(&["version"]).await.expect("kubectl runs").stdout;
    assert!(version.contains("Server Version: v1."), "the stamps are set: {version}");
    let releases = kube.helm(&["list", "-A"]).await.expect("helm runs");
    assert_eq!(releases.code, 0, "{releases}");
}
