//! The agent without a secret that people carry: it proves itself with the token that a real API server issues for the chart's
//! ServiceAccount, keeps what it gets in the Secret that the chart made, with exactly the chart's permissions, and renews it.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use switchyard_proto::agent::v1::{
    EnrollRequest, EnrollResponse, enroll_request::Proof, enrollment_service_client::EnrollmentServiceClient,
};
use switchyard_tests::{
    audit,
    authority::signing_request,
    guard,
    issuer::{Algorithm, Key},
    member::Agent,
    policy::Policy,
    programs,
    realkube::{Options, RealKube},
    sandbox::Settings,
    wait,
    world::{Builder, Kubernetes, World},
};
use tonic::{Code, Status};

const RELEASE: &str = "switchyard-agent";
const NAMESPACE: &str = "switchyard";
const ACCOUNT: &str = "switchyard/switchyard-agent";
const SUBJECT: &str = "system:serviceaccount:switchyard:switchyard-agent";
const AUDIENCE: &str = "switchyard";
const POLICY: &str = "shop/checkout";
const SECRET: &str = "switchyard-agent-identity";
/// Life of certificates; renewed after two thirds.
const SHORT: &str = "40s";
/// Long enough for a renewal on a machine that is busy.
const RENEWED_WITHIN: Duration = Duration::from_secs(90);

/// A cluster with a real API server, a guarded hub that knows its issuer, and the agent as the chart's service account.
struct Place {
    world: World,
    kube: Arc<RealKube>,
}

async fn kubectl(kube: &RealKube, arguments: &[&str]) -> String {
    let finished = kube.kubectl(arguments).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{finished}");
    finished.stdout
}

impl Place {
    async fn start() -> Self {
        let builder = Builder::default();
        let sandbox = Settings { clusters: vec!["blue".to_owned()], ..builder.sandbox.clone() };
        let settings = guard::Settings { certificate_ttl: SHORT, ..guard::Settings::default() };
        let builder = Builder { kubernetes: Kubernetes::Real, sandbox, guarded: Some(settings), ..builder };
        let mut world = builder.start().await.expect("the world starts");
        let kube = world.cluster("blue").real.expect("a real API server");
        world.agent("blue").stop().await.expect("the agent with a join token ends well");
        let chart = programs::workspace().join("charts/switchyard-agent").display().to_string();
        let values = [
            "--set=cluster.name=blue,cluster.region=eu-central-1,cluster.vpcId=vpc-1",
            "--set=hub.url=https://hub.example.com:7400,hub.tls.secretName=none",
            "--set=image.repository=example.com/switchyard-agent",
            "--set=identity.serviceAccountToken.enabled=true",
        ];
        let install = ["install", RELEASE, &chart, "-n", NAMESPACE, "--create-namespace"];
        let installed = kube.helm(&[&install[..], &values].concat()).await.expect("helm runs");
        assert_eq!(installed.code, 0, "{installed}");
        Self { world, kube }
    }

    /// The hub believes this account of the cluster's API server.
    async fn account_is_known(&mut self) {
        // What the owner of a cluster without public keys carries to the hub.
        let file = self.world.folder().join("keys-of-blue.json");
        fs::write(&file, kubectl(&self.kube, &["get", "--raw", "/openid/v1/jwks"]).await)
            .expect("the keys are written");
        let keys = json!({"file": file});
        let agent = json!({"cluster": "blue", "issuer": self.kube.url(), "audiences": [AUDIENCE],
            "serviceAccount": ACCOUNT, "jwks": keys});
        self.world.guard_mut().change_access(|access| access["agents"] = json!([agent])).expect("the file is written");
    }

    fn token_file(&self) -> PathBuf {
        self.world.folder().join("account.token")
    }

    /// Starts the agent as the chart does: its service account, and the Secret that the Deployment names.
    async fn start_agent(&mut self) {
        let token = self.kube.token(NAMESPACE, RELEASE, &[AUDIENCE]).await.expect("a token");
        fs::write(self.token_file(), token).expect("the token is projected");
        let text = kubectl(&self.kube, &["-n", NAMESPACE, "get", "deployment", RELEASE, "-o", "json"]).await;
        let deployment: Value = serde_json::from_str(&text).expect("JSON");
        let env =
            deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().expect("variables");
        let named = |name: &str| {
            let found = env.iter().find(|one| one["name"] == format!("SWITCHYARD_AGENT_{name}"));
            found.and_then(|one| one["value"].as_str()).unwrap_or_else(|| panic!("{name}: {env:?}")).to_owned()
        };
        assert!(named("SERVICE_ACCOUNT_TOKEN_FILE").starts_with("/etc/switchyard/"), "the token is mounted");
        let proof = vec![
            format!("--tls-ca={}", self.world.guard().servers.file().display()),
            format!("--service-account-token-file={}", self.token_file().display()),
            format!("--identity-secret={}", named("IDENTITY_SECRET")),
        ];
        let kubeconfig = self.kube.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.expect("a token");
        let info = self.world.sandbox.info();
        let place = (info.region.as_str(), info.vpc_id.as_str());
        let url = self.world.hub.grpc_url();
        let agent = Agent::proving(self.world.folder(), "agent-chart", "blue", &kubeconfig, place, &url, proof);
        self.world.agents.insert("blue".to_owned(), agent.expect("the agent starts"));
    }

    fn log(&self) -> String {
        self.world.agents["blue"].whole_log()
    }

    /// The proofs of blue's certificates, oldest first, as the audit log has them.
    async fn proofs(&self) -> Vec<String> {
        let log = audit::entries(&self.world.yardctl).await.expect("the audit log");
        let issued = log.iter().filter(|entry| entry.action == "certificate.issue" && entry.cluster() == "blue");
        issued.map(|entry| entry.detail["proof"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn proofs_are(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let done = wait::until_within(what, RENEWED_WITHIN, async || {
            let proofs = self.proofs().await;
            wait::check(holds(&proofs), || format!("{proofs:?}\n{}", self.world.agents["blue"].log()))
        });
        done.await.expect("certificates are issued in time");
    }

    /// Takes a verb on the Secret away from the chart's Role, or gives all back.
    async fn secret_may_be(&self, verbs: &[&str]) {
        let patch = json!([{"op": "replace", "path": "/rules/0/verbs", "value": verbs}]).to_string();
        kubectl(&self.kube, &["-n", NAMESPACE, "patch", "role", SECRET, "--type=json", "-p", &patch]).await;
    }

    async fn logs(&self, since: usize, text: &str) {
        let what = format!("the agent to log {text:?}");
        let done = wait::until_within(&what, RENEWED_WITHIN, async || {
            let log = self.log().get(since..).unwrap_or_default().replace("\\\"", "\"");
            wait::check(log.contains(text), || log.clone())
        });
        done.await.expect("the agent says what it lacks");
    }

    /// Asks for a certificate as an agent would.
    async fn enrol(&self, cluster: &str, token: &str) -> Result<EnrollResponse, Status> {
        let channel = self.world.guard().channel(&self.world.hub.grpc_url(), None).await.expect("a connection");
        let request = EnrollRequest {
            cluster: cluster.to_owned(),
            proof: Some(Proof::ServiceAccountToken(token.to_owned())),
            csr_pem: signing_request().expect("a request"),
            agent_instance_id: uuid::Uuid::new_v4().to_string(),
        };
        EnrollmentServiceClient::new(channel).enroll(request).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_enrols_with_its_service_account_keeps_the_certificate_in_the_charts_secret_and_renews_it() {
    let mut place = Place::start().await;
    place.account_is_known().await;
    place.start_agent().await;
    place.world.connected().await;
    place.world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100)])).await;
    place.world.all_healthy(POLICY).await;
    let load = place.world.load("checkout", 200).await;
    load.more(200).await;
    let enrolled = |proofs: &[String]| proofs.iter().filter(|proof| *proof == "service-account").count();
    assert_eq!(enrolled(&place.proofs().await), 1, "once");
    let log = audit::entries(&place.world.yardctl).await.expect("the audit log");
    let entry = log.iter().find(|entry| entry.detail["proof"] == "service-account").expect("an entry");
    assert_eq!(entry.detail["proofId"], SUBJECT, "{entry:?}");

    place.proofs_are("a renewal", |proofs| proofs.last().is_some_and(|last| last == "certificate")).await;
    let kept = ["-n", NAMESPACE, "get", "secret", SECRET, "-o", "jsonpath={.data}"];
    assert!(kubectl(&place.kube, &kept).await.len() > 500, "key and certificate are in the Secret");

    // Another pod: it finds the Secret, and needs neither the token nor a new certificate.
    place.world.agent("blue").kill_9();
    fs::remove_file(place.token_file()).expect("the token is gone");
    let since = place.log().len();
    place.world.agent("blue").start_again().expect("the agent starts");
    place.logs(since, "New connections to the hub use this certificate").await;
    place.world.connected().await;
    assert_eq!(enrolled(&place.proofs().await), 1, "what was kept is used");
    assert!(!place.log().to_lowercase().contains("forbidden"), "the chart's permissions suffice: {}", place.log());

    // Each permission on the Secret is needed, and its absence is said.
    let since = place.log().len();
    place.secret_may_be(&["get"]).await;
    place.logs(since, "cannot update resource \"secrets\"").await;
    place.secret_may_be(&["update"]).await;
    place.world.agent("blue").kill_9();
    let since = place.log().len();
    place.world.agent("blue").start_again().expect("the agent starts");
    place.logs(since, "cannot get resource \"secrets\"").await;
    place.secret_may_be(&["get", "update"]).await;
    place.world.connected().await;

    // What was kept is lost: the account proves it once more.
    place.world.agent("blue").kill_9();
    kubectl(&place.kube, &["-n", NAMESPACE, "patch", "secret", SECRET, "--type=merge", "-p", r#"{"data":null}"#]).await;
    place.start_agent().await;
    place.proofs_are("the account to be used again", |proofs| enrolled(proofs) == 2).await;
    place.world.connected().await;
    place.world.yardctl.converged(POLICY).await;
    load.finish_without_failures().await;
    audit::verified(&place.world.yardctl).await;
    place.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_somebody_else_of_somebody_else_or_from_elsewhere_enrols_nobody() {
    let mut place = Place::start().await;
    let right = place.kube.token(NAMESPACE, RELEASE, &[AUDIENCE]).await.expect("a token");
    let unknown = place.enrol("blue", &right).await.expect_err("the hub knows no account yet");
    assert_eq!(unknown.code(), Code::Unauthenticated, "{unknown:?}");
    place.account_is_known().await;
    wait::until("the account to be known", async || place.enrol("blue", &right).await.map_err(|e| format!("{e:?}")))
        .await;

    let elsewhere = RealKube::start(Options::default()).await.expect("another control plane");
    elsewhere
        .apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {RELEASE}, namespace: {NAMESPACE}}}\n"))
        .await;
    let forged = Key::make("forged", Algorithm::Rs256).expect("a key");
    let now = jiff::Timestamp::now().as_second();
    let claims =
        json!({"iss": place.kube.url(), "aud": [AUDIENCE], "sub": SUBJECT, "iat": now, "nbf": now, "exp": now + 600});
    let wrong = [
        ("the server's own audience", place.kube.token(NAMESPACE, RELEASE, &[]).await.expect("a token")),
        ("another audience", place.kube.token(NAMESPACE, RELEASE, &["vault"]).await.expect("a token")),
        ("another account", place.kube.token(NAMESPACE, "default", &[AUDIENCE]).await.expect("a token")),
        ("another namespace", place.kube.token("default", "default", &[AUDIENCE]).await.expect("a token")),
        ("another cluster", elsewhere.token(NAMESPACE, RELEASE, &[AUDIENCE]).await.expect("a token")),
        ("a key of nobody", forged.sign(&claims)),
        ("no signature", switchyard_tests::issuer::unsigned(&claims)),
        ("no token", "eyJ".repeat(40)),
    ];
    for (what, token) in &wrong {
        let refused = place.enrol("blue", token).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused:?}");
        assert!(!refused.message().contains(SUBJECT), "who asks is told nothing: {refused:?}");
    }
    // The right token, for another cluster than it stands for.
    let refused = place.enrol("green", &right).await.expect_err("another cluster");
    assert!([Code::Unauthenticated, Code::PermissionDenied].contains(&refused.code()), "{refused:?}");
    let issued = place.proofs().await;
    assert_eq!(issued.iter().filter(|proof| *proof == "service-account").count(), 1, "{issued:?}");
    audit::says(&place.world.yardctl, "that somebody was refused", |entry| {
        entry.result == "refused" && entry.detail.to_string().contains("Enroll")
    })
    .await;
    audit::verified(&place.world.yardctl).await;
    place.world.stop().await;
}
