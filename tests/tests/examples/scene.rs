//! What all examples are tried in: a world, and a second replica of its hub that believes only certificates of its authority. The
//! examples call that one; the first one holds the lease and moves the weights.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use sha2::{Digest, Sha256};
use switchyard_tests::{
    elb::State,
    hub::{Database, Extra, Hub, Times},
    policy::Policy,
    postgres, programs, wait,
    world::{Builder, World},
};

/// What the examples move.
pub const POLICY: &str = "shop/checkout";
/// The line of the hub's log that tells where the gateway is.
const SERVED: &str = "the API is served as JSON";

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
    /// The replica that asks for certificates.
    pub hub: Hub,
    /// Where that one serves JSON, as `https://...`.
    pub gateway: String,
    /// The start of the client certificate's fingerprint, as the audit log has it.
    fingerprint: String,
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
        let folder = world.folder().join("second");
        for name in ["second", "credentials"] {
            fs::create_dir_all(world.folder().join(name)).expect("a folder");
        }
        let fingerprint = certificates(&folder, &world.folder().join("credentials"));
        let tls = [("cert", "hub.crt"), ("key", "hub.key"), ("client-ca", "clients.crt")];
        let tls = tls.iter().map(|(flag, file)| format!("--tls-{flag}={}", folder.join(file).display()));
        let arguments = tls.chain(["--gateway-listen=127.0.0.1:0".to_owned()]).collect();
        let extra = Extra { arguments, ..Extra::default() };
        let info = world.sandbox.info();
        let hub = Hub::start_with(&folder, info, Database::Url(url), &Times::default(), extra).await;
        let hub = hub.expect("the second replica starts");
        let gateway = gateway(&folder).await;
        Self { world, hub, gateway, fingerprint }
    }

    /// The folder that a Secret of the examples is: `ca.crt`, `tls.crt` and `tls.key`.
    pub fn credentials(&self) -> PathBuf {
        self.world.folder().join("credentials")
    }

    /// One of these files' text.
    pub fn credential(&self, file: &str) -> String {
        fs::read_to_string(self.credentials().join(file)).expect("a file of the Secret")
    }

    /// The address that the examples' `https://...:7400` stands for.
    pub fn url(&self) -> String {
        self.hub.grpc_url().replacen("http://", "https://", 1)
    }

    /// All shifts, newest first; each was asked for with the client certificate.
    pub async fn shifts(&self) -> Vec<Value> {
        let text = self.world.yardctl.expect(&["history", POLICY, "-o", "json"], "").await.stdout;
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let shifts = list["shifts"].as_array().cloned().expect("a list");
        for shift in &shifts {
            let actor = shift["actor"].as_str().unwrap_or_default();
            assert!(actor.starts_with(&format!("certificate sha256:{}", self.fingerprint)), "{shift}");
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

async fn gateway(folder: &Path) -> String {
    let log = folder.join("hub.log");
    wait::until("the second replica to say where its gateway is", async || {
        let text = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let line = text.lines().rev().find(|line| line.contains(SERVED)).ok_or("it is not served yet")?;
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
        address.map(|address| format!("https://{address}")).ok_or_else(|| line.to_owned())
    })
    .await
}

/// The hub's own files in one folder, those of its callers in the other; the start of the client certificate's fingerprint.
fn certificates(hub: &Path, callers: &Path) -> String {
    let write = |folder: &Path, file: &str, text: String| fs::write(folder.join(file), text).expect("written");
    let [servers, clients] = ["hub authority", "client authority"].map(authority);
    let (pem, key, _) = signed("127.0.0.1", &servers);
    write(hub, "hub.crt", pem);
    write(hub, "hub.key", key);
    write(hub, "clients.crt", clients.pem());
    let (pem, key, fingerprint) = signed("deployer", &clients);
    write(callers, "ca.crt", servers.pem());
    write(callers, "tls.crt", pem);
    write(callers, "tls.key", key);
    fingerprint
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate and its key in PEM, and the first 16 digits of its SHA-256.
fn signed(name: &str, authority: &CertifiedIssuer<'static, KeyPair>) -> (String, String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let digest: String = Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    (certificate.pem(), key.serialize_pem(), digest[..16].to_owned())
}
