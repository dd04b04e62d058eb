//! Policies that stand in a cluster as resources: the agent and the hub as processes, a real API server, the sandbox's load
//! balancer, and kubectl as people use it. The clusters that serve requests are the sandbox's; the resources stand in others.

use std::collections::BTreeMap;

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use switchyard_tests::{
    member::Agent,
    policy::Policy,
    programs,
    realkube::{Options, RealKube},
    wait,
    world::World,
};

pub(super) const POLICY: &str = "shop/checkout";
const DEFINITION: &str = "clustertrafficpolicies.switchyard.dev";

/// A world whose hub takes policies from clusters that are not in it.
pub(super) struct Place {
    pub(super) world: World,
    pub(super) agents: Agents,
}

/// The agents of the sources; their logs are shown when the test fails.
#[derive(Default)]
pub(super) struct Agents(pub(super) Vec<Agent>);

impl Drop for Agents {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for agent in &self.0 {
                eprintln!("--- agent of a source\n{}", agent.log());
            }
        }
    }
}

/// A cluster that has nothing but policies, and the hub's name for it.
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) kube: RealKube,
    client: Client,
}

/// The definition as the chart installs it.
fn definition() -> Value {
    let path = programs::workspace().join("charts/switchyard-crds/templates/clustertrafficpolicies.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_norway::from_str(&text).expect("the definition is YAML")
}

/// The definition of an older installation, say: it takes any spec, so that the hub is the one to judge.
fn lenient_definition() -> Value {
    let mut definition = definition();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    schema.as_object_mut().expect("a schema").remove("x-kubernetes-validations");
    definition
}

impl Source {
    /// With the definition and the namespace shop.
    pub(super) async fn start(name: &'static str) -> Self {
        let kube = RealKube::start(Options::default()).await.expect("a control plane");
        let client = kube.client().await.expect("a client");
        let source = Self { name, kube, client };
        source.define(&definition()).await;
        source.kubectl(&["create", "namespace", "shop"]).await;
        source
    }

    async fn define(&self, definition: &Value) {
        self.kube.apply(&definition.to_string()).await;
        let crd = format!("crd/{DEFINITION}");
        self.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]).await;
    }

    /// Runs kubectl, which has to succeed; gives what it printed.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> String {
        let finished = self.kube.kubectl(arguments).await.expect("kubectl runs");
        assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
        finished.stdout
    }

    /// As a person applies it.
    pub(super) async fn apply(&self, policy: &Policy) {
        let arguments = ["apply", "-f", "-"];
        let finished = self.kube.kubectl_with(&arguments, &policy.yaml()).await.expect("kubectl runs");
        assert_eq!(finished.code, 0, "{}\n{finished}", policy.yaml());
    }

    fn policies(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("switchyard.dev", "v1alpha1", "ClusterTrafficPolicy");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clustertrafficpolicies");
        Api::namespaced_with(self.client.clone(), "shop", &resource)
    }

    async fn checkout(&self) -> Result<Value, String> {
        let found = self.policies().get("checkout").await.map_err(|error| error.to_string())?;
        serde_json::to_value(found).map_err(|error| error.to_string())
    }

    /// Waits until the resource shows this, and gives it.
    async fn shows(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("checkout of {} to show {what}", self.name), async || {
            let checkout = self.checkout().await?;
            if holds(&checkout["status"]) { Ok(checkout) } else { Err(format!("{:#}", checkout["status"])) }
        })
        .await
    }

    /// Waits until these weights are served, in this generation.
    pub(super) async fn serves(&self, weights: &str, generation: u64) -> Value {
        self.shows(&format!("{weights} as served in generation {generation}"), |status| {
            status["programmed"] == weights
                && status["weights"] == weights
                && status["observedGeneration"] == generation
                && is(status, "Converged", "True")
        })
        .await
    }

    /// The Events of the resource, as (type, reason, note), the oldest first.
    async fn events(&self) -> Vec<(String, String, String)> {
        let text = self.kubectl(&["get", "events.events.k8s.io", "-n", "shop", "-o", "json"]).await;
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let mut events = list["items"].as_array().cloned().unwrap_or_default();
        events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default().to_owned());
        let word = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| (word(event, "type"), word(event, "reason"), word(event, "note"))).collect()
    }

    /// Waits for an Event whose note holds this text.
    pub(super) async fn tells(&self, kind: &str, reason: &str, text: &str) {
        wait::until(&format!("an Event {kind} {reason} with {text:?}"), async || {
            let events = self.events().await;
            let found = events.iter().any(|event| event.0 == kind && event.1 == reason && event.2.contains(text));
            wait::check(found, || format!("{events:#?}"))
        })
        .await;
    }
}

pub(super) fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

pub(super) fn is(status: &Value, kind: &str, value: &str) -> bool {
    condition(status, kind)["status"] == value
}

pub(super) fn policy(blue: u32, green: u32) -> Policy {
    Policy::new("checkout", &[("blue", blue), ("green", green)])
}

pub(super) fn weights(blue: u32, green: u32) -> BTreeMap<String, u32> {
    BTreeMap::from([("blue".to_owned(), blue), ("green".to_owned(), green)])
}

impl Place {
    pub(super) async fn start(sources: &[&Source]) -> Self {
        let mut world = World::start().await;
        for source in sources {
            world.hub.add_argument(&format!("--policy-source={}", source.name));
        }
        world.hub.stop().await.expect("the hub ends well");
        world.hub.start_again().await.expect("the hub comes back");
        world.connected().await;
        let mut place = Self { world, agents: Agents::default() };
        for source in sources {
            place.start_agent(source, "first");
        }
        place
    }

    /// Starts an agent of the source, with its log in a folder of its own.
    pub(super) fn start_agent(&mut self, source: &Source, log: &str) {
        let folder = self.world.folder().join(log);
        std::fs::create_dir_all(&folder).expect("a folder");
        let (info, hub) = (self.world.sandbox.info(), self.world.hub.grpc_url());
        let agent = Agent::start_as(&folder, source.name, &source.kube.kubeconfig_admin(), info, &hub);
        self.agents.0.push(agent.expect("the agent starts"));
    }

    pub(super) async fn stop(mut self) {
        for agent in &mut self.agents.0 {
            agent.stop().await.expect("the agent ends well");
        }
        self.world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_lives_and_ends_with_its_resource_and_its_author_alone_writes_the_spec() {
    let source = Source::start("platform").await;
    let mut place = Place::start(&[&source]).await;
    source.apply(&policy(90, 10)).await;
    let shown = source.serves("blue=90,green=10", 1).await;
    assert_eq!((&shown["status"]["claim"], &shown["status"]["generationInForce"]), (&json!("Owner"), &json!(1)));
    let state = place.world.all_healthy(POLICY).await;
    assert_eq!(state.weights(POLICY), Some(weights(90, 10)));
    source.tells("Normal", "Converged", "blue=90, green=10 is served").await;

    // Nothing changes, so nothing is written.
    place.world.hub_knows(POLICY).await;
    let settled = source
        .shows("all targets as healthy", |status| {
            let clusters = status["clusters"].as_array().map(Vec::as_slice).unwrap_or_default();
            clusters.len() == 2 && clusters.iter().all(|cluster| cluster["targets"]["healthy"] == 3)
        })
        .await;
    let load = place.world.load("checkout", 100).await;
    load.more(300).await;
    let later = source.checkout().await.expect("the policy");
    assert_eq!(settled["metadata"]["resourceVersion"], later["metadata"]["resourceVersion"], "{settled:#}\n{later:#}");

    source.apply(&policy(0, 100)).await;
    source.serves("blue=0,green=100", 2).await;
    load.finish_without_failures().await;

    // A rolling update of the agent: two of them for a while.
    place.start_agent(&source, "second");
    let mut old = place.agents.0.remove(0);
    old.stop().await.expect("the agent ends well");
    source.apply(&policy(50, 50)).await;
    let shown = source.serves("blue=50,green=50", 3).await;
    let managers = shown["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let ours: Vec<&Value> = managers.iter().filter(|entry| entry["manager"] == "switchyard-agent").collect();
    assert_eq!(ours.len(), 1, "{managers:#?}");
    let owned: Vec<&String> = ours[0]["fieldsV1"].as_object().expect("fields").keys().collect();
    assert_eq!(owned, ["f:status"]);
    assert_eq!(ours[0]["subresource"], "status");
    assert_eq!(shown["spec"]["clusters"][0]["weight"], 50);

    // Weights set by call lie over the spec, and show; the spec stays as its author wrote it.
    place.world.yardctl.weights_until_converged(POLICY, &["blue=100", "green=0"]).await;
    let shown = source.serves("blue=100,green=0", 3).await;
    assert_eq!((&shown["spec"]["clusters"][0]["weight"], &shown["metadata"]["generation"]), (&json!(50), &json!(3)));

    let page = source.kubectl(&["get", "ctp", "-n", "shop"]).await;
    assert!(page.contains("WEIGHTS") && page.contains("blue=100,green=0"), "{page}");
    let page = source.kubectl(&["describe", "ctp", "checkout", "-n", "shop"]).await;
    for words in
        ["Events:", "Accepted", "Generation 1 is in force at the hub", "switchyard.dev/agent", "Requested Weight"]
    {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }

    source.kubectl(&["delete", "ctp", "checkout", "-n", "shop", "--timeout=10s"]).await;
    let state = place.world.elb_shows("nothing of the policy", |state| state.groups_of(POLICY).is_empty()).await;
    assert!(state.rules_of(POLICY).is_empty());
    source.tells("Normal", "Released", "its rule is removed").await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_that_is_not_valid_leaves_the_last_valid_one_in_force() {
    let source = Source::start("platform").await;
    source.define(&lenient_definition()).await;
    let place = Place::start(&[&source]).await;
    source.apply(&policy(90, 10)).await;
    source.serves("blue=90,green=10", 1).await;
    source.apply(&policy(1_000, 10)).await;
    let shown = source.shows("a refusal", |status| is(status, "Accepted", "False")).await;
    let accepted = condition(&shown["status"], "Accepted");
    assert_eq!((&accepted["reason"], &accepted["observedGeneration"]), (&json!("InvalidSpec"), &json!(2)));
    let message = accepted["message"].as_str().expect("a message");
    for words in ["spec.clusters[0].weight", "1000", "999"] {
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
    let status = &shown["status"];
    assert_eq!((&status["observedGeneration"], &status["generationInForce"]), (&json!(2), &json!(1)));
    assert_eq!((&status["programmed"], &status["claim"]), (&json!("blue=90,green=10"), &json!("Owner")));
    assert_eq!(condition(status, "Programmed")["observedGeneration"], 1);
    source.tells("Warning", "Refused", "spec.clusters[0].weight").await;
    assert_eq!(place.world.elb().state().await.expect("a state").weights(POLICY), Some(weights(90, 10)));

    source.apply(&policy(80, 20)).await;
    source.serves("blue=80,green=20", 3).await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_restart_of_the_api_server_nor_the_end_of_the_definition_removes_a_policy() {
    let source = Source::start("platform").await;
    let place = Place::start(&[&source]).await;
    source.apply(&policy(50, 50)).await;
    source.serves("blue=50,green=50", 1).await;
    place.world.all_healthy(POLICY).await;
    place.world.hub_knows(POLICY).await;
    let load = place.world.load("checkout", 100).await;
    let position = place.world.elb().position().await.expect("a position");

    source.kube.restart_apiserver().await.expect("the server comes back");
    source.kubectl(&["delete", "crd", DEFINITION, "--timeout=60s"]).await;
    wait::until("the agent to say that the definition is gone", async || {
        let log = place.agents.0[0].log();
        wait::check(log.contains("Policies cannot be watched") && log.contains(DEFINITION), || log.clone())
    })
    .await;
    // Installed anew, without any policy: an empty list is no evidence either.
    source.define(&definition()).await;
    wait::until("the agent to watch again", async || {
        let log = place.agents.0[0].log();
        wait::check(log.contains("Policies can be watched again"), || log.clone())
    })
    .await;
    load.more(200).await;
    let writes = place.world.elb().writes_since(position).await.expect("a call log").calls;
    assert!(writes.is_empty(), "{writes:#?}");

    // The same policy, applied again, is the policy that never went.
    source.apply(&policy(50, 50)).await;
    let shown = source.serves("blue=50,green=50", 1).await;
    assert_eq!(shown["status"]["claim"], "Owner");
    let writes = place.world.elb().writes_since(position).await.expect("a call log").calls;
    assert!(writes.is_empty(), "{writes:#?}");
    load.finish_without_failures().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_claim_waits_and_takes_over_without_any_write_at_the_load_balancer() {
    let (east, west) = (Source::start("east").await, Source::start("west").await);
    let place = Place::start(&[&east, &west]).await;
    east.apply(&policy(50, 50)).await;
    east.serves("blue=50,green=50", 1).await;
    place.world.all_healthy(POLICY).await;
    place.world.hub_knows(POLICY).await;
    west.apply(&policy(50, 50)).await;
    let shown = west.shows("that it waits", |status| status["claim"] == "Waiting").await;
    let accepted = condition(&shown["status"], "Accepted");
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("OwnedElsewhere")));
    assert!(accepted["message"].as_str().is_some_and(|text| text.contains("east")), "{accepted}");
    west.tells("Warning", "OwnedElsewhere", "east").await;

    let load = place.world.load("checkout", 100).await;
    let position = place.world.elb().position().await.expect("a position");
    east.kubectl(&["delete", "ctp", "checkout", "-n", "shop", "--timeout=10s"]).await;
    let shown = west.serves("blue=50,green=50", 1).await;
    assert_eq!(shown["status"]["claim"], "Owner");
    let writes = place.world.elb().writes_since(position).await.expect("a call log").calls;
    assert!(writes.is_empty(), "{writes:#?}");
    load.finish_without_failures().await;
    place.stop().await;
}

/// What the agent's writes rest on, asked of the server itself: an apply that names a version holds for that one only, also when
/// the resource is another by now, and an apply to the status changes nothing else. (The server does not look at a UID there.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_a_status_for_the_named_version_only() {
    let source = Source::start("platform").await;
    source.apply(&policy(50, 50)).await;
    let before = source.checkout().await.expect("the policy");
    let (uid, version) = (&before["metadata"]["uid"], &before["metadata"]["resourceVersion"]);
    let params = PatchParams::apply("switchyard-agent").force();
    let write = async |name: &str, version: &Value| {
        let body = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
            "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": version},
            "status": {"weights": "blue=1"}});
        let outcome = source.policies().patch_status(name, &params, &Patch::Apply(&body)).await;
        outcome.map_err(|error| match error {
            kube::Error::Api(status) => status.code,
            other => panic!("no answer: {other}"),
        })
    };
    assert_eq!(write("nothing", version).await.expect_err("nothing to write to"), 404);
    let written = write("checkout", version).await.expect("the status is written");
    assert_eq!(written.data["status"]["weights"], "blue=1");
    assert_eq!(written.data["spec"], before["spec"]);
    assert_eq!(json!(written.metadata.generation), before["metadata"]["generation"]);
    assert_eq!(write("checkout", version).await.expect_err("an older version"), 409);
    let version = json!(written.metadata.resource_version);
    source.kubectl(&["delete", "ctp", "checkout", "-n", "shop"]).await;
    source.apply(&policy(50, 50)).await;
    assert_eq!(write("checkout", &version).await.expect_err("another resource"), 409);
}
