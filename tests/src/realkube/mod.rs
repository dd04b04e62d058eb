//! A real Kubernetes control plane as processes of a test: etcd, kube-apiserver with TLS and RBAC, and, where asked for,
//! kube-controller-manager with the controllers of Deployments, Jobs, EndpointSlices, service accounts, namespaces and garbage. There
//! is no scheduler and no kubelet: pods get a node, an address and a status from the sandbox (see `world`) or from the test.
//!
//! The programs are those of `scripts/kube-tools.sh`, found by `SWITCHYARD_KUBE_TOOLS`; without it every start fails and says so.
//! A server is ready in some 3 s and takes some 500 MB (etcd 40, controllers 80 more), so tests share one where they can:
//! [`shared`] is started by the first test of a binary that asks for it, and each test takes a namespace of its own with
//! [`RealKube::namespace`]. A test that stops, restarts or compacts a server, or makes things outside namespaces that others could
//! see (cluster roles and CRDs of a fixed name), starts one of its own.
//!
//! Everything ends with this process, however it ends (`undertaker`), and the data goes with it.

mod address;
mod agent_account;
mod certificates;
pub mod commands;
pub mod crowd;
mod programs;
mod tools;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use futures::future::try_join_all;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::{address::Address, certificates::Certificates};
use crate::{
    client, process,
    process::{Process, tail},
    wait, world,
};

/// Longest life of a service account's token, in seconds: longer than any test.
const TOKEN_SECONDS: i64 = 3_600;

static SHARED: OnceCell<RealKube> = OnceCell::const_new();

/// What a control plane consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether kube-controller-manager runs. Without it Deployments stay without pods, Services without EndpointSlices,
    /// namespaces never finish deleting, and pods need no service account.
    pub controllers: bool,
}

impl Options {
    /// With kube-controller-manager.
    pub const WITH_CONTROLLERS: Self = Self { controllers: true };
}

#[derive(Debug, Default)]
struct Processes {
    controllers: Option<Process>,
    apiserver: Option<Process>,
    etcd: Option<Process>,
}

/// A running control plane.
#[derive(Debug)]
pub struct RealKube {
    // Dropped in this order: the processes end before their folder goes.
    processes: Mutex<Processes>,
    folder: TempDir,
    address: Address,
    certificates: Certificates,
    options: Options,
    admin: PathBuf,
}

/// The server, with controllers, that all tests of this binary share. It is never stopped, restarted or compacted.
///
/// # Panics
/// When it does not start.
pub async fn shared() -> &'static RealKube {
    let started = SHARED.get_or_try_init(|| RealKube::start(Options::WITH_CONTROLLERS)).await;
    started.unwrap_or_else(|error| panic!("{error:#}"))
}

/// One with controllers for each of these clusters. They start at the same time.
///
/// # Errors
/// When one does not come up.
pub async fn start_all(clusters: &[String]) -> anyhow::Result<BTreeMap<String, Arc<RealKube>>> {
    let start = async |name: &String| {
        let kube = RealKube::start(Options::WITH_CONTROLLERS).await;
        anyhow::Ok((name.clone(), Arc::new(kube.with_context(|| format!("the control plane of {name}"))?)))
    };
    Ok(try_join_all(clusters.iter().map(start)).await?.into_iter().collect())
}

/// A client of whatever a kubeconfig file names. Made anew for each test, since a client ends with the runtime it was made on.
///
/// # Errors
/// When the file cannot be used.
pub async fn client_of(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl RealKube {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up; the end of its logs is in the message.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let folder = world::folder()?;
        let address = Address::take()?;
        let certificates = Certificates::make(folder.path(), address.ip.into())?;
        let admin = folder.path().join("admin.kubeconfig");
        let this = Self { processes: Mutex::default(), folder, address, certificates, options, admin };
        let user = |pair: &certificates::Pair| json!({"client-certificate": pair.certificate, "client-key": pair.key});
        this.write_kubeconfig(&this.admin, &user(&this.certificates.admin))?;
        this.write_kubeconfig(&this.controllers_kubeconfig(), &user(&this.certificates.controllers))?;
        let etcd = programs::etcd(this.address.ip, &this.path("etcd-data"))?;
        this.lock().etcd = Some(this.spawn("etcd", etcd)?);
        this.start_apiserver().await?;
        if options.controllers {
            let controllers = programs::controllers(&this.controllers_kubeconfig(), &this.certificates)?;
            this.lock().controllers = Some(this.spawn("controllers", controllers)?);
            this.has_service_account("default").await?;
        }
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        // Holders only put and take a process: whole even after a panic.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn controllers_kubeconfig(&self) -> PathBuf {
        self.path("controllers.kubeconfig")
    }

    fn spawn(&self, name: &str, mut command: std::process::Command) -> anyhow::Result<Process> {
        Process::start(name, self.folder.path(), &mut command)
    }

    fn write_kubeconfig(&self, path: &Path, user: &Value) -> anyhow::Result<()> {
        let cluster = json!({"server": self.url(), "certificate-authority": self.certificates.authority});
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test", "preferences": {},
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        });
        std::fs::write(path, format!("{config:#}\n")).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Where it answers, such as `https://127.2.7.9:6443`. The same after a restart.
    pub fn url(&self) -> String {
        programs::server_url(self.address.ip)
    }

    /// The certificate of the authority that signed the server's, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.certificates.authority.clone()
    }

    /// A kubeconfig that may do everything.
    pub fn kubeconfig_admin(&self) -> PathBuf {
        self.admin.clone()
    }

    /// The socket that it listens on, for a proxy in front of it.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from((self.address.ip, programs::SERVER_PORT))
    }

    /// The same user by another way: through a proxy at this address.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read or written.
    pub fn kubeconfig_through(&self, proxy: SocketAddr, kubeconfig: &Path) -> anyhow::Result<PathBuf> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{proxy}"));
        // The certificate is for the server's address, and for this name.
        cluster["tls-server-name"] = json!("kubernetes");
        let path = kubeconfig.with_extension("proxied");
        std::fs::write(&path, format!("{config:#}\n"))?;
        Ok(path)
    }

    /// A new client that may do everything.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> anyhow::Result<Client> {
        client_of(&self.admin).await
    }

    /// A fresh token of a service account that is there, for these audiences; none: for the server itself. The kubelet asks for
    /// projected tokens in the same way.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn token(&self, namespace: &str, name: &str, audiences: &[&str]) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let spec =
            TokenRequestSpec { audiences, expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { metadata: ObjectMeta::default(), spec, status: None };
        let issued = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        Ok(issued.status.context("the server issued no token")?.token)
    }

    /// A kubeconfig with a fresh token of a service account that is there: it may do what that account may.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.token(namespace, name, &[]).await?;
        let path = self.path(&format!("{namespace}-{name}.kubeconfig"));
        self.write_kubeconfig(&path, &json!({"token": token}))?;
        Ok(path)
    }

    /// Makes a namespace that no other test has, with a name that begins with this; gives its name.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn namespace(&self, prefix: &str) -> anyhow::Result<String> {
        let name = format!("{prefix}-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
        if self.options.controllers {
            self.has_service_account(&name).await?;
        }
        Ok(name)
    }

    /// Pods are refused until their namespace has its default account.
    async fn has_service_account(&self, namespace: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let what = format!("the default service account of {namespace}");
        let found = wait::until_within(&what, wait::PATIENCE, async || accounts.get("default").await.map(drop));
        found.await.with_context(|| self.logs())
    }

    /// Ends kube-apiserver as `kill -9` does: connections are refused and watches cut. etcd and the controllers go on.
    pub fn stop_apiserver(&self) {
        let process = self.lock().apiserver.take();
        if let Some(process) = process {
            process.kill_9();
        }
    }

    /// Starts it again at the same address, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        self.stop_apiserver();
        let command = programs::apiserver(self.address.ip, &self.certificates, self.options.controllers)?;
        let process = self.spawn("apiserver", command)?;
        self.lock().apiserver = Some(process);
        let client = self.client().await?;
        let ready = wait::until_within("kube-apiserver to be ready", wait::PATIENCE, async || {
            if let Err(error) = self.ensure_running() {
                return Ok(Err(error));
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = client.request_text(request).await?;
            anyhow::ensure!(answer == "ok", "{answer}");
            anyhow::Ok(Ok(()))
        });
        ready.await.and_then(|outcome| outcome).with_context(|| self.logs())
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_apiserver(&self) -> anyhow::Result<()> {
        self.stop_apiserver();
        self.start_apiserver().await
    }

    /// Removes all history from etcd, so that nobody can go on from an older version. kube-apiserver answers from its memory all
    /// the same: a watch gets 410 only after a restart as well.
    ///
    /// # Errors
    /// When etcd refuses it.
    pub async fn compact_etcd(&self) -> anyhow::Result<()> {
        let etcd = client::Client::new(format!("http://{}:{}", self.address.ip, programs::ETCD_PORT));
        // Any read tells the revision. etcd's JSON has keys in base64 and numbers as text.
        let read: Value = etcd.post("/v3/kv/range", &json!({"key": "AA==", "keys_only": true})).await?;
        let revision = read["header"]["revision"].as_str().context("etcd told no revision")?;
        etcd.post::<Value>("/v3/kv/compaction", &json!({"revision": revision, "physical": true})).await?;
        Ok(())
    }

    fn ensure_running(&self) -> anyhow::Result<()> {
        let mut processes = self.lock();
        let Processes { controllers, apiserver, etcd } = &mut *processes;
        [etcd, apiserver, controllers].into_iter().flatten().try_for_each(Process::ensure_running)
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let logs = ["etcd", "apiserver", "controllers"];
        logs.map(|name| format!("--- {name}.log\n{}", tail(&self.path(&format!("{name}.log")), 20))).join("\n")
    }

    /// The processes by name, for measuring.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let processes = self.lock();
        let all =
            [("etcd", &processes.etcd), ("apiserver", &processes.apiserver), ("controllers", &processes.controllers)];
        all.into_iter().filter_map(|(name, process)| Some((name, process.as_ref()?.pid()))).collect()
    }

    /// Runs kubectl as admin to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<process::Finished> {
        self.kubectl_with(arguments, "").await
    }

    /// As [`RealKube::kubectl`], with text for its standard input (`-f -`).
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<process::Finished> {
        commands::run("kubectl", &self.admin, &self.path("home"), arguments, input).await
    }

    /// Runs helm as admin to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<process::Finished> {
        commands::run("helm", &self.admin, &self.path("home"), arguments, "").await
    }

    /// `kubectl apply --server-side` of these documents, with the server's strict validation.
    ///
    /// # Panics
    /// With what kubectl says, when the server refuses one.
    pub async fn apply(&self, yaml: &str) {
        let arguments = ["apply", "--server-side", "--validate=strict", "-f", "-"];
        let finished = self.kubectl_with(&arguments, yaml).await.expect("kubectl runs");
        assert_eq!(finished.code, 0, "kubectl {arguments:?}\n{yaml}\n{finished}");
    }
}
