//! The sandbox as scheduler and kubelets of a cluster whose API server is a real one: what the scenarios that run on both take for
//! granted. Deployments, ReplicaSets and EndpointSlices are made by the real controllers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use switchyard_tests::{
    client::Client,
    realkube::{Options, RealKube},
    sandbox::{Cluster, NAMESPACE, Sandbox, Settings, WorkloadSpec},
    wait, world,
};
use tempfile::TempDir;

struct Scene {
    kube: Arc<RealKube>,
    sandbox: Sandbox,
    cluster: Cluster,
    pods: Api<Pod>,
    _folder: TempDir,
}

impl Scene {
    async fn begin() -> Self {
        let kube = Arc::new(RealKube::start(Options::WITH_CONTROLLERS).await.expect("a control plane"));
        let folder = world::folder().expect("a folder");
        let settings =
            Settings { clusters: vec!["blue".to_owned()], time_scale: 1.0, propagation: Duration::ZERO, seed: 1 };
        let real = BTreeMap::from([("blue".to_owned(), kube.clone())]);
        let sandbox = Sandbox::start_beside(folder.path(), &settings, &real).await.expect("a sandbox");
        let cluster = sandbox.cluster("blue");
        let pods = Api::namespaced(kube.client().await.expect("a client"), NAMESPACE);
        Self { kube, sandbox, cluster, pods, _folder: folder }
    }

    /// A workload whose pods wait for a readiness gate, as the sandbox's control API makes it.
    async fn gated(&self, replicas: u32) {
        let body = json!({"replicas": replicas, "readiness_gates": ["example.com/gate"], "termination_grace_ms": 100});
        let path = format!("/clusters/blue/namespaces/{NAMESPACE}/workloads/web");
        self.sandbox.control().call::<serde_json::Value>(Method::PUT, &path, Some(&body)).await.expect("a workload");
    }

    /// Waits until all pods, so many, have their conditions like this: type and status.
    async fn conditions(&self, count: usize, wanted: &[(&str, &str)]) -> Vec<Pod> {
        wait::until(&format!("{count} pods with {wanted:?}"), async || {
            let found = self.pods.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
            let alive: Vec<Pod> = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            let fits = |pod: &Pod| wanted.iter().all(|(kind, status)| condition(pod, kind).as_deref() == Some(*status));
            let seen = || format!("{:?}", alive.iter().map(|pod| &pod.status).collect::<Vec<_>>());
            wait::check(alive.len() == count && alive.iter().all(fits), seen).map(|()| alive.clone())
        })
        .await
    }

    /// What the readiness gate's owner does.
    async fn open_gate(&self, pod: &Pod) {
        let patch = json!({"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}});
        let name = pod.metadata.name.as_deref().expect("a name");
        let patched = self.pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        patched.expect("the condition is written");
    }

    /// Waits until so many pods run and one of them is not ready; opens its gate and gives its name.
    async fn open_the_one_that_waits(&self, count: usize) -> String {
        // Also for the pod: when the one before was opened, and the controller has not seen it yet, there are as many without it.
        let closed = wait::until(&format!("{count} pods, one of them behind its gate"), async || {
            let pods = self.conditions(count, &[("ContainersReady", "True")]).await;
            let closed = pods.iter().find(|pod| condition(pod, "Ready").as_deref() == Some("False"));
            closed.cloned().ok_or_else(|| format!("{:?}", pods.iter().map(|pod| &pod.status).collect::<Vec<_>>()))
        })
        .await;
        self.open_gate(&closed).await;
        closed.metadata.name.expect("a name")
    }
}

fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.clone())
}

/// A pod of the VPC 10.N is served at 127.N.
async fn answer(pod: &Pod) -> Result<StatusCode, String> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).ok_or("no address")?;
    let served = ip.strip_prefix("10.").ok_or(format!("{ip} is no private address"))?;
    let client = Client::new(format!("http://127.{served}:8080"));
    client.send(Method::GET, "/", Vec::new()).await.map(|(status, _)| status).map_err(|e| format!("{e:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_behind_a_gate_is_ready_only_when_the_gate_is_open_and_a_rollout_waits_for_that() {
    let scene = Scene::begin().await;
    scene.gated(2).await;
    let closed = [("ContainersReady", "True"), ("Ready", "False")];
    for pod in scene.conditions(2, &closed).await {
        scene.open_gate(&pod).await;
    }
    let first = scene.conditions(2, &[("example.com/gate", "True"), ("Ready", "True")]).await;

    scene.cluster.roll_out("web", "v2").await.expect("the rollout begins");
    // One more pod than wanted is allowed, and none fewer: the rollout goes on one gate at a time.
    for _ in 0..2 {
        let name = scene.open_the_one_that_waits(3).await;
        wait::until("the opened pod to be ready", async || {
            let pod = scene.pods.get(&name).await.map_err(|e| e.to_string())?;
            wait::check(condition(&pod, "Ready").as_deref() == Some("True"), || format!("{:?}", pod.status))
        })
        .await;
    }
    scene.cluster.settled("web").await;
    let last = scene.conditions(2, &[("Ready", "True")]).await;
    assert!(last.iter().all(|pod| first.iter().all(|old| old.metadata.uid != pod.metadata.uid)), "all are new");
    let status = scene.kube.kubectl(&["rollout", "status", "-n", NAMESPACE, "deployment/web", "--timeout=60s"]).await;
    assert_eq!(status.as_ref().expect("kubectl runs").code, 0, "{status:?}");
    scene.sandbox.stop().await.expect("the sandbox ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_their_api_server_and_end_in_their_own_time() {
    let scene = Scene::begin().await;
    let spec = WorkloadSpec {
        replicas: 2,
        app: "web".to_owned(),
        ports: vec![("http".to_owned(), 8_080)],
        version: "v1".to_owned(),
        ready_after: Duration::ZERO,
        termination_grace: Duration::from_secs(2),
        latency: Duration::ZERO,
    };
    scene.cluster.put_workload("web", &spec).await.expect("a workload");
    let pods = scene.conditions(2, &[("Ready", "True")]).await;

    scene.kube.stop_apiserver();
    for pod in &pods {
        assert_eq!(answer(pod).await, Ok(StatusCode::OK), "nobody needs the API server to be served");
    }
    // What changes meanwhile is told later.
    scene.cluster.set_mode("unready").await.expect("the mode is set");
    scene.kube.start_apiserver().await.expect("the server comes back");
    scene.conditions(2, &[("Ready", "False")]).await;
    scene.cluster.set_mode("normal").await.expect("the mode is set");
    scene.conditions(2, &[("Ready", "True")]).await;

    let victim = &pods[0];
    let name = victim.metadata.name.as_deref().expect("a name");
    scene.pods.delete(name, &DeleteParams::default()).await.expect("the pod is asked to end");
    assert_eq!(answer(victim).await, Ok(StatusCode::OK), "it serves on for its grace");
    wait::until("the pod to be gone", async || {
        let found = scene.pods.get_opt(name).await.map_err(|e| e.to_string())?;
        wait::check(found.is_none(), || format!("{found:?}"))
    })
    .await;
    assert!(answer(victim).await.is_err(), "and no longer");
    scene.cluster.settled("web").await;
    scene.sandbox.stop().await.expect("the sandbox ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_look_like_those_of_eks() {
    let scene = Scene::begin().await;
    let nodes: Api<Node> = Api::all(scene.kube.client().await.expect("a client"));
    let found = nodes.list(&ListParams::default()).await.expect("the nodes").items;
    assert_eq!(found.len(), 3);
    for node in found {
        let spec = node.spec.unwrap_or_default();
        let labels = node.metadata.labels.unwrap_or_default();
        let zone = labels.get("topology.kubernetes.io/zone").expect("a zone");
        let provider = spec.provider_id.unwrap_or_default();
        assert!(provider.starts_with(&format!("aws:///{zone}/i-")), "{provider}");
        assert_eq!(spec.taints, None);
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    }
    scene.sandbox.stop().await.expect("the sandbox ends well");
}
