//! What all examples are tried in: a world, and a second replica of its hub that wants to know who calls, as in production. The
//! examples call that one; the first one holds the lease and moves the weights.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use switchyard_tests::{
    elb::State,
    guard::{self, Guard, binding},
    hub::{Database, Hub, Times},
    policy::Policy,
    postgres, programs, wait,
    world::{Builder, World},
};

/// What the examples move.
pub const POLICY: &str = "shop/checkout";
/// The name of the deployments' token, and of their certificate.
const DEPLOYER: &str = "deployer";
/// As the issuer of tokens names a job of the repository.
pub const JOB: &str = "repo:example/shop:environment:production";

/// The folder of the examples.
pub fn examples() -> PathBuf {
    programs::workspace().join("examples/cd")
}

/// The text of an example.
///
/// # Panics
/// When it is not there.
pub fn read(file: &str) -> String {
    fs::read_to_string(examples().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// An example in YAML with one document.
///
/// # Panics
/// When it is not YAML.
pub fn yaml(file: &str) -> Value {
    serde_norway::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The world of an example.
pub struct Scene {
    /// With `shop/checkout`, all of it on blue.
    pub world: World,
    /// The replica that wants proofs.
    pub hub: Hub,
    /// Where that one serves JSON, as `https://...`.
    pub gateway: String,
    /// Who asks for shifts, as the audit log begins to name him.
    pub actor: String,
    guard: Guard,
}

impl Scene {
    /// Starts everything.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn begin() -> Self {
        let url = postgres::shared_database().await.expect("a database");
        let builder = Builder { database: Some(Database::Url(url.clone())), ..Builder::default() };
        let world = builder.start().await.expect("the world starts");
        world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100), ("green", 0)])).await;
        world.all_healthy(POLICY).await;
        world.hub_knows(POLICY).await;
        let certificate = json!({"certificate": {"commonName": DEPLOYER}});
        let job = json!({"issuer": guard::ISSUER, "user": JOB});
        let operator = |subject| binding("operator", &["shop"], &["blue", "green"], subject);
        let settings = guard::Settings { bindings: vec![operator(certificate), operator(job)], ..Default::default() };
        let guard = Guard::make(world.folder(), settings).await.expect("certificates");
        let folder = world.folder().join("second");
        let started = guard.hub(&folder, world.sandbox.info(), Database::Url(url), &Times::default()).await;
        let hub = started.expect("the second replica starts");
        let gateway = hub.gateway_url();
        let this = Self { world, hub, gateway, actor: format!("token:{DEPLOYER}"), guard };
        this.fill_credentials().await;
        this
    }

    /// `ca.crt`, a service token, and the certificate of those who cannot send one.
    async fn fill_credentials(&self) {
        let folder = self.credentials();
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("ca.crt"), self.guard.servers.pem()).expect("written");
        let pair = self.guard.callers.client(self.guard.folder(), DEPLOYER, DEPLOYER, &[]).expect("a certificate");
        fs::copy(pair.certificate, folder.join("tls.crt")).expect("copied");
        fs::copy(pair.key, folder.join("tls.key")).expect("copied");
        let token = folder.join("token").display().to_string();
        let create = ["token", "create", DEPLOYER, "--role", "operator", "--namespaces", "shop"];
        let create = [&create[..], &["--clusters", "blue,green", "--out", &token]].concat();
        self.world.yardctl.expect(&create, "").await;
    }

    /// A token of the issuer for a job of the repository.
    pub fn job_token(&self) -> String {
        self.guard.token(JOB, &[])
    }

    /// The folder that a Secret of the examples is: `ca.crt` and `token`, and `tls.crt` and `tls.key`.
    pub fn credentials(&self) -> PathBuf {
        self.world.folder().join("credentials")
    }

    /// One of these files' text.
    pub fn credential(&self, file: &str) -> String {
        fs::read_to_string(self.credentials().join(file)).expect("a file of the Secret")
    }

    /// The address that the examples' `https://...:7400` stands for.
    pub fn url(&self) -> String {
        self.hub.grpc_url()
    }

    /// All shifts, newest first; each was asked for by who proved himself.
    pub async fn shifts(&self) -> Vec<Value> {
        let text = self.world.yardctl.expect(&["history", POLICY, "-o", "json"], "").await.stdout;
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let shifts = list["shifts"].as_array().cloned().expect("a list");
        for shift in &shifts {
            let actor = shift["actor"].as_str().unwrap_or_default();
            assert!(actor.starts_with(&self.actor), "{shift}");
        }
        shifts
    }

    /// The states of all shifts, newest first.
    pub async fn states(&self) -> Vec<String> {
        let shifts = self.shifts().await;
        shifts.iter().map(|shift| shift["status"]["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until there is a shift in this state, and gives its id.
    pub async fn one_is(&self, state: &str) -> String {
        wait::until(&format!("a shift to be {state}"), async || {
            let shifts = self.shifts().await;
            let found = shifts.iter().find(|shift| shift["status"]["state"] == state);
            found.and_then(|shift| shift["id"].as_str().map(str::to_owned)).ok_or_else(|| format!("{shifts:?}"))
        })
        .await
    }

    /// The load balancer serves this cluster only, now.
    pub async fn served_by(&self, cluster: &str) {
        let state = self.world.elb().state().await.expect("the state");
        assert!(serves(&state, cluster), "{:?}", state.weights(POLICY));
    }

    /// Leaves green without pods, as the hub sees it too.
    pub async fn empty_green(&self) {
        self.replicas_of_green(0).await;
        wait::until("the hub to know that nobody is healthy in green", async || {
            let status = self.world.yardctl.status(POLICY).await.map_err(|error| format!("{error:#}"))?;
            let clusters = status["status"]["clusters"].as_array().cloned().unwrap_or_default();
            let green = clusters.iter().find(|one| one["name"] == "green" || one["cluster"] == "green");
            wait::check(green.is_some_and(|green| green["targets"]["healthy"] == 0), || status["status"].to_string())
        })
        .await;
    }

    /// Gives green its pods back.
    pub async fn fill_green(&self) {
        self.replicas_of_green(self.world.workload.replicas).await;
        self.world.all_healthy(POLICY).await;
        self.world.hub_knows(POLICY).await;
    }

    async fn replicas_of_green(&self, replicas: u32) {
        let spec = switchyard_tests::sandbox::WorkloadSpec { replicas, ..self.world.workload.clone() };
        self.world.cluster("green").put_workload("checkout", &spec).await.expect("the workload is changed");
    }

    /// Ends everything in order.
    pub async fn end(mut self) {
        self.hub.stop().await.expect("the second replica ends well");
        self.world.stop().await;
    }
}

fn serves(state: &State, cluster: &str) -> bool {
    state.weights(POLICY).is_some_and(|weights| weights.iter().all(|(name, weight)| (*weight > 0) == (name == cluster)))
}
