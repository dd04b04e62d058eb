//! The agent with exactly the permissions that its chart gives: with them everything works and nothing is forbidden, and each one
//! that is taken away is noticed, named by verb and resource, and removes nothing. A permission whose absence nobody notices is
//! none that the chart may give.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use switchyard_tests::{
    member::Agent,
    policy::Policy,
    programs,
    realkube::RealKube,
    sandbox::Settings,
    wait,
    world::{Builder, Kubernetes, World},
};

const RELEASE: &str = "switchyard-agent";
const NAMESPACE: &str = "switchyard";
const ACCOUNT: &str = "system:serviceaccount:switchyard:switchyard-agent";
const POLICY: &str = "shop/checkout";
const GATE: &str = "target-health.switchyard.dev/checkout";
/// What takes traffic away.
const REMOVALS: [&str; 3] = ["DeregisterTargets", "DeleteRule", "DeleteTargetGroup"];

/// One verb on one resource of one role of the chart.
#[derive(Clone, Debug)]
struct Permission {
    /// The role that gives it, as the server holds it.
    role: Value,
    group: String,
    resource: String,
    verb: String,
    /// The objects that it is about; none: all.
    objects: Vec<String>,
}

fn words(of: &Value) -> Vec<String> {
    let all = of.as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// Each permission that a role gives.
fn permissions(role: &Value) -> Vec<Permission> {
    let mut found = Vec::new();
    for rule in role["rules"].as_array().cloned().unwrap_or_default() {
        for (group, resource) in words(&rule["apiGroups"])
            .iter()
            .flat_map(|group| words(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource)))
        {
            found.extend(words(&rule["verbs"]).into_iter().map(|verb| Permission {
                role: role.clone(),
                group: group.clone(),
                resource: resource.clone(),
                verb,
                objects: words(&rule["resourceNames"]),
            }));
        }
    }
    found
}

impl Permission {
    /// The role without it.
    fn taken_away(&self) -> Value {
        let kept = permissions(&self.role)
            .into_iter()
            .filter(|other| (&other.group, &other.resource, &other.verb) != (&self.group, &self.resource, &self.verb));
        let rule = |kept: Permission| {
            let mut rule = json!({"apiGroups": [kept.group], "resources": [kept.resource], "verbs": [kept.verb]});
            if !kept.objects.is_empty() {
                rule["resourceNames"] = json!(kept.objects);
            }
            rule
        };
        let mut role = self.role.clone();
        role["rules"] = kept.map(rule).collect();
        role
    }

    /// As the API server says it when it refuses.
    fn refusal(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }
}

/// A cluster with real Kubernetes, the charts installed, and the agent as the chart's service account.
struct Place {
    world: World,
    kube: Arc<RealKube>,
}

fn chart(name: &str) -> String {
    programs::workspace().join("charts").join(name).display().to_string()
}

async fn kubectl(kube: &RealKube, arguments: &[&str]) -> String {
    let finished = kube.kubectl(arguments).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
    finished.stdout
}

async fn helm(kube: &RealKube, arguments: &[&str]) {
    let finished = kube.helm(arguments).await.expect("helm runs");
    assert_eq!(finished.code, 0, "helm {arguments:?}\n{finished}");
}

/// All features on. The image is never pulled: the agent runs as a process of this test.
fn agent_release(verb: &str, more: &[&str]) -> Vec<String> {
    let values = [
        "cluster.name=blue",
        "cluster.region=eu-central-1",
        "cluster.vpcId=vpc-1",
        "hub.url=https://hub.example.com:7400",
        "hub.tls.secretName=none",
        "image.repository=example.com/switchyard-agent",
        "policySource.enabled=true",
        "readinessGates.enabled=true",
        "readinessGates.releaseAfterSeconds=600",
        "readinessGates.webhook.enabled=true",
    ];
    let begin = [verb, RELEASE, &chart("switchyard-agent"), "--namespace", NAMESPACE].map(str::to_owned);
    let values = values.iter().chain(more).map(|value| format!("--set={value}"));
    begin.into_iter().chain(values).collect()
}

impl Place {
    async fn start() -> Self {
        let builder = Builder::default();
        let sandbox = Settings { clusters: vec!["blue".to_owned()], ..builder.sandbox.clone() };
        let builder = Builder { kubernetes: Kubernetes::Real, sandbox, ..builder };
        let mut world = builder.start().await.expect("the world starts");
        let kube = world.cluster("blue").real.expect("a real API server");
        world.agent("blue").stop().await.expect("the agent ends well");
        world.hub.add_argument("--policy-source=blue");
        world.hub.stop().await.expect("the hub ends well");
        world.hub.start_again().await.expect("the hub comes back");

        helm(
            &kube,
            &["install", "switchyard-crds", &chart("switchyard-crds"), "-n", "switchyard", "--create-namespace"],
        )
        .await;
        let mut place = Self { world, kube };
        place.release("install", &[]).await;
        place.start_agent().await;
        place
    }

    async fn release(&self, verb: &str, more: &[&str]) {
        let arguments = agent_release(verb, more);
        helm(&self.kube, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Starts the agent as the chart would: its service account, and the arguments that the Deployment gives by environment.
    async fn start_agent(&mut self) {
        let kubeconfig: PathBuf =
            self.kube.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.expect("a token of the account");
        let (info, hub) = (self.world.sandbox.info().clone(), self.world.hub.grpc_url());
        let folder = self.world.folder().join("chart");
        std::fs::create_dir_all(&folder).expect("a folder");
        let agent = Agent::start_as(&folder, "blue", &kubeconfig, &info, &hub);
        let mut agent = agent.expect("the agent starts");
        agent.kill_9();
        for argument in self.arguments().await {
            agent.add_argument(&argument);
        }
        agent.start_again().expect("the agent starts");
        self.world.agents.insert("blue".to_owned(), agent);
    }

    /// Gates and webhook as the Deployment has them; the webhook on a free port.
    async fn arguments(&self) -> Vec<String> {
        let text = kubectl(&self.kube, &["-n", NAMESPACE, "get", "deployment", RELEASE, "-o", "json"]).await;
        let deployment: Value = serde_json::from_str(&text).expect("JSON");
        let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let env = env.as_array().cloned().unwrap_or_default();
        let named = env.iter().filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
        let argument = |(name, value): (&str, &str)| {
            let flag = name.strip_prefix("SWITCHYARD_AGENT_")?.to_lowercase().replace('_', "-");
            match flag.as_str() {
                "readiness-gates" => Some(format!("--{flag}")),
                "webhook-listen" => Some(format!("--{flag}=127.0.0.1:0")),
                _ if flag.starts_with("gate-") || flag.starts_with("webhook-") => Some(format!("--{flag}={value}")),
                _ => None,
            }
        };
        let found: Vec<String> = named.filter_map(argument).collect();
        assert!(found.len() >= 6, "gates and webhook are in the Deployment: {env:?}");
        found
    }

    async fn restart_agent(&mut self) {
        self.world.agent("blue").kill_9();
        self.world.agent("blue").start_again().expect("the agent starts");
    }

    /// All that the agent has logged, without colours.
    fn log(&self) -> String {
        let bytes = std::fs::read(self.world.folder().join("chart/agent-blue.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the agent has logged this since then.
    async fn logs(&self, since: usize, text: &str) {
        wait::until(&format!("the agent to log {text:?}"), async || {
            let log = self.log();
            let new = log.get(since..).unwrap_or_default().replace("\\\"", "\"");
            wait::check(new.contains(text), || new.clone())
        })
        .await;
    }

    /// The roles of the release as they are.
    async fn permissions(&self) -> Vec<Permission> {
        let label = format!("app.kubernetes.io/instance={RELEASE}");
        let text = kubectl(&self.kube, &["get", "clusterroles,roles", "-A", "-l", &label, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let mut roles = list["items"].as_array().cloned().unwrap_or_default();
        for role in &mut roles {
            // Else the second change of a role would be one of an older version.
            role["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        }
        roles.iter().flat_map(permissions).collect()
    }

    async fn put(&self, object: &Value) {
        let finished = self.kube.kubectl_with(&["replace", "-f", "-"], &object.to_string()).await;
        let finished = finished.expect("kubectl runs");
        assert_eq!(finished.code, 0, "{object:#}\n{finished}");
    }

    /// Waits until the server's answer to the question is this; it learns of a changed role some milliseconds later.
    async fn allowed(&self, permission: &Permission, answer: &str) {
        let (resource, subresource) = permission.resource.split_once('/').unwrap_or((&permission.resource, ""));
        let mut what = match permission.group.as_str() {
            "" => resource.to_owned(),
            group => format!("{resource}.{group}"),
        };
        if let Some(object) = permission.objects.first() {
            what = format!("{what}/{object}");
        }
        let user = format!("--as={ACCOUNT}");
        let sub = format!("--subresource={subresource}");
        // Roles are in the release's namespace; cluster roles hold in every one.
        let arguments = ["auth", "can-i", &permission.verb, &what, &user, &sub, "-n", NAMESPACE];
        wait::until(&format!("{permission:?} to be answered with {answer}"), async || {
            let finished = self.kube.kubectl(&arguments).await.map_err(|error| error.to_string())?;
            wait::check(finished.stdout.trim() == answer, || finished.to_string())
        })
        .await;
    }

    /// Rolls every pod of the workload, new ones with a gate.
    async fn roll_pods(&self, mark: &str) {
        let template = json!({"metadata": {"annotations": {"tests/mark": mark}},
            "spec": {"readinessGates": [{"conditionType": GATE}]}});
        let patch = json!({"spec": {"template": template}}).to_string();
        kubectl(&self.kube, &["-n", "shop", "patch", "deployment", "checkout", "--type=strategic", "-p", &patch]).await;
    }

    async fn rolled(&self) {
        kubectl(&self.kube, &["-n", "shop", "rollout", "status", "deployment/checkout", "--timeout=60s"]).await;
        self.world.all_healthy(POLICY).await;
    }

    async fn weigh(&self, weight: u32) {
        let patch = json!({"spec": {"clusters": [{"name": "blue", "weight": weight}]}}).to_string();
        kubectl(&self.kube, &["-n", "shop", "patch", "ctp", "checkout", "--type=merge", "-p", &patch]).await;
    }

    /// Asks for a shift to where the traffic is already.
    async fn shift(&self, number: u32) {
        let shift = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "TrafficShift",
            "metadata": {"name": format!("shift-{number}"), "namespace": "shop"},
            "spec": {"policies": [{"name": "checkout", "to": "blue"}]}});
        self.kube.apply(&shift.to_string()).await;
    }

    async fn shifted(&self, number: u32) {
        let name = format!("trafficshift/shift-{number}");
        let arguments = ["-n", "shop", "wait", "--for=condition=Complete", &name, "--timeout=60s"];
        kubectl(&self.kube, &arguments).await;
    }

    async fn shows(&self, weights: &str) {
        wait::until(&format!("the resource to show {weights} as served"), async || {
            let arguments = ["-n", "shop", "get", "ctp", "checkout", "-o", "json"];
            let finished = self.kube.kubectl(&arguments).await.map_err(|error| error.to_string())?;
            let policy: Value =
                serde_json::from_str(&finished.stdout).map_err(|error| format!("{error} {finished}"))?;
            let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let served = conditions.iter().any(|one| one["type"] == "Converged" && one["status"] == "True");
            let shown = policy["status"]["programmed"] == weights && served;
            wait::check(shown, || format!("{:#}", policy["status"]))
        })
        .await;
    }

    /// Takes away what the agent wrote for its webhook, so that it has to be written anew.
    async fn forget_certificate(&self, resource: &str) {
        let name = format!("{RELEASE}-webhook");
        if resource == "secrets" {
            let patch = json!({"data": null}).to_string();
            kubectl(&self.kube, &["-n", NAMESPACE, "patch", "secret", &name, "--type=merge", "-p", &patch]).await;
        } else {
            let hook = format!("{NAMESPACE}-{RELEASE}");
            let patch = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
            kubectl(&self.kube, &["patch", "mutatingwebhookconfiguration", &hook, "--type=json", "-p", &patch]).await;
        }
    }

    async fn webhook_is_trusted(&self) {
        wait::until("the webhook's certificate to be kept and trusted", async || {
            let name = format!("{RELEASE}-webhook");
            let secret = ["-n", NAMESPACE, "get", "secret", &name, "-o", "jsonpath={.data.tls\\.crt}"];
            let secret = self.kube.kubectl(&secret).await.map_err(|error| error.to_string())?;
            let hook = format!("{NAMESPACE}-{RELEASE}");
            let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
            let bundle = self.kube.kubectl(&["get", "mutatingwebhookconfiguration", &hook, "-o", path]).await;
            let bundle = bundle.map_err(|error| error.to_string())?;
            wait::check(!secret.stdout.is_empty() && !bundle.stdout.is_empty(), || format!("{secret}\n{bundle}"))
        })
        .await;
    }

    /// Leads the webhook's Service to this machine, where the agent runs. The rest of it stays as the chart made it.
    async fn lead_the_webhook_here(&self) {
        let log = self.log();
        let address = log.rsplit_once("webhook_address=127.0.0.1:").map(|(_, rest)| rest).expect("a webhook is served");
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        let service = json!({"spec": {"type": "ExternalName", "externalName": "localhost"}}).to_string();
        let name = format!("{RELEASE}-webhook");
        kubectl(&self.kube, &["-n", NAMESPACE, "patch", "service", &name, "--type=merge", "-p", &service]).await;
        let port = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/service/port",
            "value": port.parse::<u16>().expect("a port")}])
        .to_string();
        let hook = format!("{NAMESPACE}-{RELEASE}");
        kubectl(&self.kube, &["patch", "mutatingwebhookconfiguration", &hook, "--type=json", "-p", &port]).await;
    }

    /// What the server makes of a new pod of the workload.
    async fn tried_pod(&self, more: &[&str]) -> String {
        let mut arguments =
            vec!["-n", "shop", "run", "trial", "--image=example.com/web", "--dry-run=server", "-o=yaml"];
        arguments.extend(more);
        kubectl(&self.kube, &arguments).await
    }

    /// No call took traffic away since then.
    async fn nothing_was_removed(&self, since: u64, permission: &Permission) {
        let calls = self.world.elb().writes_since(since).await.expect("the calls").calls;
        let removals: Vec<_> = calls.iter().filter(|call| REMOVALS.contains(&call.operation.as_str())).collect();
        assert!(removals.is_empty(), "without {permission:?}: {removals:#?}");
    }
}

/// What makes the agent need a permission; the restart that follows makes it need most.
async fn provoke(place: &mut Place, permission: &Permission, weight: u32) {
    match (permission.resource.as_str(), permission.verb.as_str()) {
        ("secrets", "update") | ("mutatingwebhookconfigurations", "patch") => {
            place.forget_certificate(&permission.resource).await;
            place.restart_agent().await;
        }
        ("pods/status", _) => place.roll_pods(&weight.to_string()).await,
        ("clustertrafficpolicies/status" | "events", _) => place.weigh(weight).await,
        ("trafficshifts/status", _) => place.shift(weight).await,
        _ => place.restart_agent().await,
    }
}

/// The chart's selectors, rules and path, and the agent's certificate.
async fn the_webhook_gates_pods_where_it_is_asked_to(place: &Place) {
    const LABEL: &str = "switchyard.dev/inject-readiness-gates";
    place.lead_the_webhook_here().await;
    let own = "--labels=app=checkout";
    assert!(!place.tried_pod(&[own]).await.contains(GATE), "the namespace did not ask for it");
    kubectl(&place.kube, &["label", "namespace", "shop", &format!("{LABEL}=enabled")]).await;
    wait::until("a new pod to get its gate", async || {
        let pod = place.tried_pod(&[own]).await;
        wait::check(pod.contains(GATE), || pod.clone())
    })
    .await;
    let out = format!("--labels=app=checkout,{LABEL}=disabled");
    assert!(!place.tried_pod(&[&out]).await.contains(GATE), "a pod may stay out");
    kubectl(&place.kube, &["label", "namespace", "shop", &format!("{LABEL}-")]).await;
}

async fn each_one_is_missed(place: &mut Place) {
    let all = place.permissions().await;
    assert!(all.len() >= 15, "the roles of the release were found: {all:#?}");
    for (weight, permission) in (10..).zip(&all) {
        let position = place.world.elb().position().await.expect("a position");
        let since = place.log().len();
        place.put(&permission.taken_away()).await;
        place.allowed(permission, "no").await;
        provoke(place, permission, weight).await;
        place.logs(since, &permission.refusal()).await;
        place.nothing_was_removed(position, permission).await;

        place.put(&permission.role).await;
        place.allowed(permission, "yes").await;
        match permission.resource.as_str() {
            "pods/status" => place.rolled().await,
            "clustertrafficpolicies/status" | "events" => place.shows(&format!("blue={weight}")).await,
            "trafficshifts/status" => place.shifted(weight).await,
            "secrets" | "mutatingwebhookconfigurations" => place.webhook_is_trusted().await,
            _ => place.world.connected().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_permissions_suffice_and_each_that_is_missing_is_named_and_removes_nothing() {
    let mut place = Place::start().await;
    let policy = Policy::new("checkout", &[("blue", 100)]);
    place.kube.apply(&policy.yaml()).await;
    place.shows("blue=100").await;
    place.roll_pods("first").await;
    place.rolled().await;
    place.webhook_is_trusted().await;
    the_webhook_gates_pods_where_it_is_asked_to(&place).await;
    let events = kubectl(&place.kube, &["-n", "shop", "get", "events.events.k8s.io", "-o", "name"]).await;
    assert!(events.contains("checkout."), "events are written: {events}");
    assert!(!place.log().to_lowercase().contains("forbidden"), "{}", place.log());

    each_one_is_missed(&mut place).await;

    // The same agent with permissions in one namespace only.
    place.release("upgrade", &["namespaces={shop}"]).await;
    place.world.agent("blue").kill_9();
    let since = place.log().len();
    place.start_agent().await;
    place.weigh(500).await;
    place.shows("blue=500").await;
    place.roll_pods("last").await;
    place.rolled().await;
    let log = place.log();
    assert!(!log[since..].to_lowercase().contains("forbidden"), "{}", &log[since..]);
    place.world.stop().await;
}
