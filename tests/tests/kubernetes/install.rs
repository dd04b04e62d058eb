//! The charts on a real API server: every rendered object is accepted as it stands, pods are admitted where Pod Security's
//! restricted profile is enforced, releases are upgraded, and an uninstalled release leaves nothing but the definition and the
//! policies that people wrote.

use serde_json::{Value, json};
use switchyard_tests::{
    process::Finished,
    programs,
    realkube::{Options, RealKube},
    wait,
};

const NAMESPACE: &str = "switchyard";
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";
const HOOK: &str = "switchyard-switchyard-agent";

struct Place {
    kube: RealKube,
}

fn chart(name: &str) -> String {
    programs::workspace().join("charts").join(name).display().to_string()
}

fn values(chart_name: &str, case: &str) -> String {
    format!("--values={}/ci/{case}-values.yaml", chart(chart_name))
}

/// The objects of a file that helm rendered.
fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---\n").filter_map(|part| {
        let parsed: Value = serde_norway::from_str(part).unwrap_or_else(|error| panic!("{error}\n{part}"));
        parsed.is_object().then_some(parsed)
    });
    parts.collect()
}

/// Chart, name of the file, its objects.
fn rendered() -> Vec<(&'static str, String, Vec<Value>)> {
    let mut found = Vec::new();
    for name in ["switchyard-agent", "switchyard-hub"] {
        let folder = programs::workspace().join("charts").join(name).join("rendered");
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a file");
            // The first document begins with the separator.
            let all = documents(text.strip_prefix("---\n").unwrap_or(&text));
            found.push((name, path.display().to_string(), all));
        }
    }
    found
}

impl Place {
    async fn start() -> Self {
        let kube = RealKube::start(Options::WITH_CONTROLLERS).await.expect("a control plane");
        let place = Self { kube };
        for namespace in [NAMESPACE, "shop", "payments"] {
            place.kubectl(&["create", "namespace", namespace]).await;
        }
        place.kubectl(&["label", "namespace", NAMESPACE, RESTRICTED]).await;
        place
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        let finished = self.kube.kubectl(arguments).await.expect("kubectl runs");
        assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
        finished.stdout
    }

    async fn helm(&self, arguments: &[&str]) -> Finished {
        let finished = self.kube.helm(arguments).await.expect("helm runs");
        assert_eq!(finished.code, 0, "helm {arguments:?}\n{finished}");
        finished
    }

    async fn release(&self, verb: &str, name: &str, more: &[&str]) -> String {
        let folder = chart(name);
        let arguments: Vec<&str> =
            [verb, name, &folder, "-n", NAMESPACE].into_iter().chain(more.iter().copied()).collect();
        self.helm(&arguments).await.stdout
    }

    async fn dry_run(&self, object: &Value) -> Finished {
        let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        self.kube.kubectl_with(&arguments, &object.to_string()).await.expect("kubectl runs")
    }

    /// Waits until a Deployment has all its pods: a template that Pod Security refuses never gets one.
    async fn has_pods(&self, deployment: &str) {
        wait::until(&format!("{deployment} to have its pods"), async || {
            let arguments = ["-n", NAMESPACE, "get", "deployment", deployment, "-o", "json"];
            let finished = self.kube.kubectl(&arguments).await.map_err(|error| error.to_string())?;
            let found: Value = serde_json::from_str(&finished.stdout).map_err(|error| error.to_string())?;
            let complete = found["status"]["updatedReplicas"] == found["spec"]["replicas"];
            wait::check(complete, || format!("{:#}", found["status"]))
        })
        .await;
    }

    /// Everything of a release, of every kind that the server knows, in every namespace.
    async fn left_of(&self, releases: &[&str]) -> Result<String, String> {
        let kinds = self.kube.kubectl(&["api-resources", "--verbs=list,delete", "-o", "name"]).await;
        let kinds = kinds.map_err(|error| error.to_string())?;
        let kinds = kinds.stdout.split_whitespace().collect::<Vec<_>>().join(",");
        let label = format!("app.kubernetes.io/instance in ({})", releases.join(","));
        let found = self.kube.kubectl(&["get", &kinds, "-A", "-l", &label, "-o", "name", "--ignore-not-found"]).await;
        let found = found.map_err(|error| error.to_string())?;
        if found.code == 0 { Ok(found.stdout) } else { Err(found.to_string()) }
    }
    /// The same of one release, without what its controllers make of it.
    async fn lasting(&self, release: &str) -> Vec<String> {
        let all = self.left_of(&[release]).await.expect("a list");
        let made = ["pod/", "replicaset.apps/", "endpointslice", "endpoints/"];
        let kept = all.lines().filter(|line| !made.iter().any(|kind| line.starts_with(kind)));
        kept.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rendered_object_is_accepted_and_every_pod_passes_the_restricted_profile() {
    let place = Place::start().await;
    let (mut accepted, mut pods) = (0, 0);
    for (_, file, objects) in rendered() {
        for object in objects {
            // Its definition belongs to the Prometheus operator.
            if object["kind"] == "ServiceMonitor" {
                continue;
            }
            let tried = place.dry_run(&object).await;
            assert_eq!(tried.code, 0, "{file}: {object:#}\n{tried}");
            accepted += 1;
            let template = &object["spec"]["template"];
            if template.is_null() {
                continue;
            }
            let mut pod = template.clone();
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            pod["metadata"]["name"] = "trial".into();
            pod["metadata"]["namespace"] = NAMESPACE.into();
            // Accounts are not there in a dry run.
            pod["spec"]["serviceAccountName"] = "default".into();
            for claim in object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
                // As the controller of StatefulSets does it.
                let name = &claim["metadata"]["name"];
                let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
                pod["spec"]["volumes"].as_array_mut().expect("volumes").push(volume);
            }
            let tried = place.dry_run(&pod).await;
            assert_eq!(tried.code, 0, "{file}: the pod is not admitted: {pod:#}\n{tried}");
            pods += 1;

            pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
            let refused = place.dry_run(&pod).await;
            assert!(refused.stderr.contains("violates PodSecurity"), "the profile is enforced: {refused}");
        }
    }
    assert!(accepted > 40 && pods >= 7, "{accepted} objects, {pods} pods");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_are_upgraded_keep_what_the_agent_wrote_and_leave_only_policies_behind() {
    let place = Place::start().await;
    place.release("install", "switchyard-crds", &[]).await;
    let crd = "crd/clustertrafficpolicies.switchyard.dev";
    place.kubectl(&["wait", "--for=condition=Established", crd, "--timeout=60s"]).await;
    let example = programs::workspace().join("examples/checkout.yaml").display().to_string();
    place.kubectl(&["apply", "-f", &example]).await;

    let (hub, agent) = (values("switchyard-hub", "everything"), values("switchyard-agent", "everything"));
    // Objects of the Prometheus operator are not known here.
    let plain = "--set=serviceMonitor.enabled=false";
    let notes = place.release("install", "switchyard-hub", &[&hub, plain]).await;
    assert!(notes.contains("IRSA with arn:aws-cn:iam::123456789012:role/switchyard-hub"), "{notes}");
    let notes = place.release("install", "switchyard-agent", &[&agent, plain]).await;
    assert!(notes.contains("yardctl get clusters"), "{notes}");
    place.has_pods("switchyard-hub").await;
    place.has_pods("switchyard-agent").await;

    what_the_agent_wrote_outlives_an_upgrade(&place, &agent).await;

    place.release("upgrade", "switchyard-crds", &[]).await;
    place.release("upgrade", "switchyard-hub", &[&values("switchyard-hub", "trial")]).await;
    let notes = place.helm(&["get", "notes", "switchyard-hub", "-n", NAMESPACE]).await.stdout;
    assert!(notes.contains("NOT FOR PRODUCTION"), "{notes}");
    place.release("upgrade", "switchyard-agent", &[&values("switchyard-agent", "minimal")]).await;
    place.has_pods("switchyard-hub").await;
    place.has_pods("switchyard-agent").await;
    let hooks = place.kubectl(&["get", "mutatingwebhookconfigurations", "-o", "name"]).await;
    assert!(!hooks.contains(HOOK), "the webhook goes with its value: {hooks}");

    // Another release of the same chart beside it, whose objects have other names.
    let folder = chart("switchyard-agent");
    place.helm(&["install", "other", &folder, "-n", NAMESPACE, &agent, plain]).await;
    let others = place.lasting("other").await;
    assert!(others.contains(&"deployment.apps/other-switchyard-agent".to_owned()), "{others:?}");
    nothing_is_left_behind(&place).await;
    assert_eq!(place.lasting("other").await, others, "the release beside it is untouched");
    place.release("install", "switchyard-crds", &[]).await;
    place.kubectl(&["-n", "shop", "get", "ctp", "checkout"]).await;
}

async fn what_the_agent_wrote_outlives_an_upgrade(place: &Place, values: &str) {
    let data = r#"{"data":{"ca.crt":"YXV0aG9yaXR5"}}"#;
    place.kubectl(&["-n", NAMESPACE, "patch", "secret", "switchyard-agent-webhook", "--type=merge", "-p", data]).await;
    let bundle =
        r#"{"webhooks":[{"name":"readiness-gates.switchyard.dev","clientConfig":{"caBundle":"YXV0aG9yaXR5"}}]}"#;
    place.kubectl(&["patch", "mutatingwebhookconfiguration", HOOK, "--type=strategic", "-p", bundle]).await;
    let more = ["--set=serviceMonitor.enabled=false", "--set=log.level=debug"];
    place.release("upgrade", "switchyard-agent", &[values, more[0], more[1]]).await;
    let secret = ["-n", NAMESPACE, "get", "secret", "switchyard-agent-webhook", "-o", "jsonpath={.data.ca\\.crt}"];
    assert_eq!(place.kubectl(&secret).await, "YXV0aG9yaXR5");
    let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    assert_eq!(place.kubectl(&["get", "mutatingwebhookconfiguration", HOOK, "-o", path]).await, "YXV0aG9yaXR5");
}

async fn nothing_is_left_behind(place: &Place) {
    let releases = ["switchyard-hub", "switchyard-agent", "switchyard-crds"];
    let before = place.left_of(&releases).await.expect("a list");
    assert!(before.contains("deployment.apps/switchyard-hub") && before.contains("pod/"), "{before}");
    for release in releases {
        place.helm(&["uninstall", release, "-n", NAMESPACE]).await;
    }
    wait::until("nothing of the releases to be left", async || {
        let left = place.left_of(&releases).await?;
        wait::check(left.is_empty(), || left.clone())
    })
    .await;
    let secrets = place.kubectl(&["-n", NAMESPACE, "get", "secrets", "-o", "name"]).await;
    assert!(!secrets.contains("switchyard-hub"), "not even helm's own records: {secrets}");
    let kept = place.kubectl(&["-n", "shop", "get", "ctp", "checkout", "-o", "jsonpath={.spec.order}"]).await;
    assert_eq!(kept, "100", "the definition and what people wrote stay");
}
