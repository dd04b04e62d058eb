//! Readiness gates and their webhook: hub and agents as processes, real API servers with real controllers, the sandbox's load
//! balancer. The sandbox's kubelets take a pod as ready when its containers are and every gate is open, as Kubernetes does.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use switchyard_tests::{
    member::Agent,
    policy::Policy,
    realkube,
    sandbox::Settings,
    wait,
    world::{Builder, Kubernetes, World},
};

const POLICY: &str = "shop/checkout";
const GATE: &str = "target-health.switchyard.dev/checkout";
const NAMESPACE: &str = "shop";

/// A world with real API servers whose policy is served, and whose agents mind the gates.
async fn gated(clusters: &[&str], policy: &Policy, arguments: &[&str]) -> World {
    let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
    let builder = Builder::default();
    let sandbox = Settings { clusters, ..builder.sandbox.clone() };
    let mut world =
        Builder { kubernetes: Kubernetes::Real, sandbox, ..builder }.start().await.expect("the world starts");
    world.yardctl.apply_until_converged(policy).await;
    world.all_healthy(POLICY).await;
    let all = ["--readiness-gates"].iter().chain(arguments);
    for agent in world.agents.values_mut() {
        agent.stop().await.expect("the agent ends well");
        all.clone().for_each(|argument| agent.add_argument(argument));
        agent.start_again().expect("the agent starts");
    }
    world.connected().await;
    world
}

async fn kubectl(world: &World, cluster: &str, arguments: &[&str]) -> String {
    let kube = world.cluster(cluster).real.expect("a real API server");
    let finished = kube.kubectl(arguments).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
    finished.stdout
}

/// Replaces every pod by one of a new template, and waits until kubectl calls it done.
async fn roll_out(world: &World, cluster: &str, template: &serde_json::Value) {
    let patch = json!({"spec": {"template": template}}).to_string();
    kubectl(world, cluster, &["-n", NAMESPACE, "patch", "deployment", "checkout", "--type=strategic", "-p", &patch])
        .await;
    rolled_out(world, cluster).await;
}

async fn rolled_out(world: &World, cluster: &str) {
    kubectl(world, cluster, &["-n", NAMESPACE, "rollout", "status", "deployment/checkout", "--timeout=60s"]).await;
}

fn with_gate(version: &str) -> serde_json::Value {
    json!({"metadata": {"annotations": {"tests/version": version}}, "spec": {"readinessGates": [{"conditionType": GATE}]}})
}

fn without_gate(version: &str) -> serde_json::Value {
    json!({"metadata": {"annotations": {"tests/version": version}}})
}

async fn pods(world: &World, cluster: &str) -> Vec<Pod> {
    let kube = world.cluster(cluster).real.expect("a real API server");
    let api: Api<Pod> = Api::namespaced(kube.client().await.expect("a client"), NAMESPACE);
    let listed = api.list(&ListParams::default().labels("app=checkout")).await.expect("a list");
    listed.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

/// Status and reason of the gate's condition, of each pod that is not on its way out.
async fn gates(world: &World, cluster: &str) -> Vec<String> {
    let condition = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let found = conditions.into_iter().flatten().find(|condition| condition.type_ == GATE);
        found.map_or_else(
            || "none".to_owned(),
            |found| format!("{} {}", found.status, found.reason.as_deref().unwrap_or_default()),
        )
    };
    pods(world, cluster).await.iter().map(condition).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_on_an_idle_cluster_waits_for_the_load_balancer_and_ends_also_when_the_policy_is_gone() {
    let world = gated(&["blue", "green"], &Policy::new("checkout", &[("blue", 100), ("green", 0)]), &[]).await;

    roll_out(&world, "green", &with_gate("first")).await;
    // Nobody waits 300 s here: it was the load balancer that let them in.
    assert_eq!(gates(&world, "green").await, ["True TargetHealthy"; 3]);
    let described = kubectl(&world, "green", &["-n", NAMESPACE, "describe", "pods", "-l", "app=checkout"]).await;
    assert!(described.contains("Readiness Gates:") && described.contains(GATE), "{described}");

    world.yardctl.expect(&["delete", "policy", POLICY, "--wait", "--timeout", "60s"], "").await;
    roll_out(&world, "green", &with_gate("second")).await;
    let opened = gates(&world, "green").await;
    // The first of them may come while the hub still tidies up.
    let free = opened.iter().all(|gate| ["True PolicyGone", "True Deleting"].contains(&gate.as_str()));
    assert!(free && opened.len() == 3, "{opened:?}");
    world.stop().await;
}

/// Pods of this template answer too slowly for the health check of the policy below, and in time for Kubernetes.
fn slow(milliseconds: u32) -> serde_json::Value {
    let mut template = with_gate(&format!("{milliseconds} ms"));
    template["metadata"]["annotations"]["sandbox.switchyard.dev/latency-ms"] = json!(milliseconds.to_string());
    template
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_healthy_holds_a_rollout_and_a_hub_that_is_away_does_not_for_ever() {
    let policy = Policy::new("checkout", &[("blue", 100)]).with("/spec/backend/healthCheck/path", json!("/checkout"));
    let mut world = gated(&["blue"], &policy, &["--gate-release-after=3"]).await;
    let patch = json!({"spec": {"template": slow(5_000)}}).to_string();
    let arguments = ["-n", NAMESPACE, "patch", "deployment", "checkout", "--type=strategic", "-p", &patch];
    kubectl(&world, "blue", &arguments).await;
    wait::until("the new pod to be told that its target is unhealthy", async || {
        let gates = gates(&world, "blue").await;
        wait::check(gates.iter().any(|gate| gate == "False TargetUnhealthy"), || format!("{gates:?}"))
    })
    .await;
    let ready = kubectl(
        &world,
        "blue",
        &["-n", NAMESPACE, "get", "deployment", "checkout", "-o=jsonpath={.status.availableReplicas}"],
    );
    assert_eq!(ready.await, "3", "the old pods stay until the new ones are of use");

    world.hub.stop().await.expect("the hub ends well");
    rolled_out(&world, "blue").await;
    assert_eq!(gates(&world, "blue").await, ["True ReleasedHubAway"; 3]);

    world.hub.start_again().await.expect("the hub comes back");
    world.connected().await;
    // Nobody judges in the first moments of a hub, and the clock of these gates has run out while it was away.
    let mut latency = 5;
    wait::until("new pods to be judged again", async || {
        latency += 1;
        roll_out(&world, "blue", &slow(latency)).await;
        let gates = gates(&world, "blue").await;
        wait::check(gates == ["True TargetHealthy"; 3], || format!("{gates:?}"))
    })
    .await;
    world.stop().await;
}

/// What the chart makes for the webhook. The Service leads to this machine, where the agent runs; an API server of a cluster
/// reaches it through the cluster's network.
fn webhook_objects(port: u16) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hooks"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "certificate", "namespace": "hooks"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "agent", "namespace": "hooks"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "gates"}, "webhooks": [{
                "name": "readiness-gates.switchyard.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Ignore", "timeoutSeconds": 5, "reinvocationPolicy": "IfNeeded",
                "clientConfig": {"service": {"namespace": "hooks", "name": "agent", "path": "/mutate-pods", "port": port}},
                "namespaceSelector": {"matchLabels": {"switchyard.dev/inject-readiness-gates": "enabled"}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                    "scope": "Namespaced"}],
            }]},
    ]})
    .to_string()
}

/// The port of the webhook, which the agent's log tells.
async fn webhook_port(world: &World) -> u16 {
    let log = world.folder().join("agent-blue.log");
    wait::until("the webhook to be served", async || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let plain: String = text.chars().filter(|character| !character.is_control() || *character == '\n').collect();
        let after = plain.rsplit_once("webhook_address=").map(|(_, after)| after.to_owned());
        let port = after.as_deref().and_then(|after| after.strip_prefix("127.0.0.1:"));
        let digits: Option<String> = port.map(|port| port.chars().take_while(char::is_ascii_digit).collect());
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| text.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_gates_new_pods_of_namespaces_that_ask_for_it_and_never_keeps_one_out() {
    let mut world = gated(&["blue"], &Policy::new("checkout", &[("blue", 100)]), &[]).await;
    let kube = world.cluster("blue").real.expect("a real API server");
    let (info, hub) = (world.sandbox.info().clone(), world.hub.grpc_url());
    world.agent("blue").stop().await.expect("the agent ends well");
    let agent = Agent::start_as(world.folder(), "blue", &kube.kubeconfig_admin(), &info, &hub);
    let mut agent = agent.expect("the agent starts");
    agent.kill_9();
    for argument in [
        "--readiness-gates",
        "--webhook-listen=127.0.0.1:0",
        "--webhook-service=hooks/agent",
        "--webhook-secret=hooks/certificate",
        "--webhook-configuration=gates",
    ] {
        agent.add_argument(argument);
    }
    agent.start_again().expect("it starts again");
    world.agents.insert("blue".to_owned(), agent);
    let port = webhook_port(&world).await;
    kube.apply(&webhook_objects(port)).await;

    let trial = [
        "-n",
        NAMESPACE,
        "run",
        "trial",
        "--image=example.com/web",
        "--labels=app=checkout",
        "--dry-run=server",
        "-o=yaml",
    ];
    let without = kubectl(&world, "blue", &trial).await;
    assert!(!without.contains(GATE), "the namespace did not ask: {without}");
    kubectl(&world, "blue", &["label", "namespace", NAMESPACE, "switchyard.dev/inject-readiness-gates=enabled"]).await;
    wait::until("the webhook to be trusted and to gate a pod", async || {
        let tried = kube.kubectl(&trial).await.map_err(|error| error.to_string())?;
        assert_eq!(tried.code, 0, "no pod is ever refused: {tried}");
        wait::check(tried.stdout.contains(GATE), || tried.stdout.clone())
    })
    .await;
    let other = ["-n", NAMESPACE, "run", "other", "--image=example.com/web", "--dry-run=server", "-o=yaml"];
    assert!(!kubectl(&world, "blue", &other).await.contains(GATE), "no Service of a policy selects it");

    let load = world.load("checkout", 100).await;
    load.more(100).await;
    roll_out(&world, "blue", &without_gate("injected")).await;
    assert_eq!(gates(&world, "blue").await, ["True TargetHealthy"; 3]);
    load.more(200).await;
    load.finish_without_failures().await;

    world.agent("blue").kill_9();
    roll_out_of_pods_without_gates(&world).await;
    world.stop().await;
}

/// With the agent dead nothing adds gates, and pods are made all the same.
async fn roll_out_of_pods_without_gates(world: &World) {
    let patch = json!({"spec": {"template": without_gate("alone")}}).to_string();
    let arguments = ["-n", NAMESPACE, "patch", "deployment", "checkout", "--type=strategic", "-p", &patch];
    kubectl(world, "blue", &arguments).await;
    rolled_out(world, "blue").await;
    assert_eq!(gates(world, "blue").await, ["none"; 3]);
}

/// What `agent/src/watch/gates.rs` sends, and how it tells that its pod is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_reaches_only_the_pod_with_its_uid_and_leaves_the_conditions_of_others() {
    let kube = realkube::shared().await;
    let namespace = kube.namespace("gates").await.expect("a namespace");
    let api: Api<Pod> = Api::namespaced(kube.client().await.expect("a client"), &namespace);
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "example.com/web"}],
        "readinessGates": [{"conditionType": GATE}]}});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let made = api.create(&PostParams::default(), &pod).await.expect("a pod");
    let patch = |uid: &str, kind: &str, status: &str| {
        let condition = json!({"type": kind, "status": status, "reason": "TargetHealthy", "message": "fine"});
        Patch::Strategic(json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}}))
    };
    let params = PatchParams::default();
    let uid = made.metadata.uid.expect("a UID");
    api.patch_status("web", &params, &patch(&uid, "Initialized", "True")).await.expect("a condition of the kubelet");
    for status in ["False", "True"] {
        api.patch_status("web", &params, &patch(&uid, GATE, status)).await.expect("the gate's condition");
    }
    let found = api.get("web").await.expect("the pod").status.and_then(|status| status.conditions).unwrap_or_default();
    let mut shown: Vec<_> = found.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    shown.sort_unstable();
    assert_eq!(shown, [("Initialized", "True"), (GATE, "True")]);

    let other = patch("00000000-0000-0000-0000-000000000000", GATE, "False");
    let refused = api.patch_status("web", &params, &other).await.expect_err("another pod's UID");
    let kube::Error::Api(status) = &refused else { panic!("not an answer: {refused}") };
    let names_uid = status.message.contains("UID") || status.message.contains("metadata.uid");
    assert!(matches!(status.code, 409 | 422) && names_uid, "{status:?}");
}
