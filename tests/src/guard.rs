//! What a hub needs to run as in production, and what others need to prove who they are to it: certificates of the ports, an authority
//! of callers with a bootstrap administrator, the sealing key, the access file, an issuer of tokens. All of it can be changed while the
//! hub runs. Starts no hub and no agent by itself but those it is asked for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use rand::Rng;
use serde_json::{Value, json};
use tonic::{
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    authority::{Authority, Pair, write},
    hub::{Database, Extra, Hub, Times},
    issuer::{Algorithm, Issuer, Key},
    member::Agent,
    sandbox::Info,
    yardctl::Yardctl,
};

/// The common name of the bootstrap administrator's certificate.
pub const ADMINISTRATOR: &str = "administrator";
/// The issuer's name in the access file: identities are written `corp:ann`.
pub const ISSUER: &str = "corp";

/// How a world is guarded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Life of agents' certificates.
    pub certificate_ttl: &'static str,
    /// More flags of the hub.
    pub hub_arguments: Vec<String>,
    /// More bindings of the access file, beside the administrator's.
    pub bindings: Vec<Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { certificate_ttl: "1h", hub_arguments: Vec::new(), bindings: Vec::new() }
    }
}

/// A binding of the access file: a role over these namespaces and clusters for one subject, such as `{"issuer": "corp", "user": "ann"}`.
pub fn binding(role: &str, namespaces: &[&str], clusters: &[&str], subject: Value) -> Value {
    json!({"role": role, "namespaces": namespaces, "clusters": clusters, "subjects": [subject]})
}

/// All of it, in a folder.
#[derive(Debug)]
pub struct Guard {
    folder: PathBuf,
    settings: Settings,
    /// Signs the certificate of the hub's ports.
    pub servers: Authority,
    /// Signs those of callers.
    pub callers: Authority,
    /// The issuer of people's tokens.
    pub issuer: Issuer,
    /// The key that it signs with at first.
    pub key: Key,
    /// The administrator's certificate.
    pub administrator: Pair,
    /// The access file as it was written last.
    pub access: Value,
}

impl Guard {
    /// Makes everything, and starts the issuer.
    ///
    /// # Errors
    /// When a file cannot be written, or no port is free.
    pub async fn make(folder: &Path, settings: Settings) -> anyhow::Result<Self> {
        let folder = folder.join("guard");
        fs::create_dir_all(&folder)?;
        let servers = Authority::make(&folder, "servers")?;
        let callers = Authority::make(&folder, "callers")?;
        servers.serve(&Pair::at(&folder, "serving"))?;
        let administrator = callers.client(&folder, "administrator", ADMINISTRATOR, &[])?;
        fs::write(folder.join("sealing.key"), STANDARD.encode(rand::rng().random::<[u8; 32]>()))?;
        let key = Key::make("first", Algorithm::Es256)?;
        let issuer = Issuer::start(&[&key]).await?;
        let mut everything = binding("admin", &["*"], &["*"], json!({"certificate": {"commonName": ADMINISTRATOR}}));
        everything["overrides"] = json!(true);
        let bindings: Vec<Value> = std::iter::once(everything).chain(settings.bindings.iter().cloned()).collect();
        let access = json!({
            "issuers": [{"name": ISSUER, "issuer": issuer.url(), "audiences": [crate::issuer::AUDIENCE]}],
            "bindings": bindings,
        });
        let this = Self { folder, settings, servers, callers, issuer, key, administrator, access };
        this.write_access(&this.access.to_string())?;
        fs::copy(this.callers.file(), this.client_authorities())?;
        Ok(this)
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate of the hub's ports.
    pub fn serving(&self) -> Pair {
        Pair::at(&self.folder, "serving")
    }

    /// The file of `--tls-client-ca`.
    pub fn client_authorities(&self) -> PathBuf {
        self.folder.join("client-authorities.pem")
    }

    /// The file of `--ca-sealing-key-file`.
    pub fn sealing_key(&self) -> PathBuf {
        self.folder.join("sealing.key")
    }

    /// The file of `--access-file`.
    pub fn access_file(&self) -> PathBuf {
        self.folder.join("access.yaml")
    }

    /// Writes the access file as it is meant.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_access(&self, text: &str) -> anyhow::Result<()> {
        // JSON is YAML.
        write(&self.access_file(), text)
    }

    /// Changes the access file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change_access(&mut self, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
        change(&mut self.access);
        self.write_access(&self.access.to_string())
    }

    /// The flags of a replica.
    pub fn extra(&self) -> Extra {
        let serving = self.serving();
        let files = [
            ("--tls-cert", serving.certificate),
            ("--tls-key", serving.key),
            ("--tls-client-ca", self.client_authorities()),
            ("--ca-sealing-key-file", self.sealing_key()),
            ("--access-file", self.access_file()),
        ];
        let files = files.iter().map(|(flag, path)| format!("{flag}={}", path.display()));
        let ttl = format!("--agent-certificate-ttl={}", self.settings.certificate_ttl);
        let arguments = files.chain([ttl]).chain(self.settings.hub_arguments.iter().cloned()).collect();
        // A sandbox takes any; without a name in the environment the hub would look for those of the machine.
        let credentials = [("AWS_ACCESS_KEY_ID", "sandbox"), ("AWS_SECRET_ACCESS_KEY", "sandbox")];
        let environment = credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Extra { arguments, environment, guarded: true }
    }

    /// A replica.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn hub(&self, folder: &Path, sandbox: &Info, database: Database, times: &Times) -> anyhow::Result<Hub> {
        fs::create_dir_all(folder)?;
        Hub::start_with(folder, sandbox, database, times, self.extra()).await
    }

    /// yardctl that proves nothing.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn nobody(&self, hub: &str) -> anyhow::Result<Yardctl> {
        Ok(Yardctl::new(hub.to_owned())?.with(&[("SWITCHYARD_TLS_CA", self.servers.file())]))
    }

    /// yardctl with a client certificate.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn by_certificate(&self, hub: &str, pair: &Pair) -> anyhow::Result<Yardctl> {
        let files = [("SWITCHYARD_TLS_CERT", &*pair.certificate), ("SWITCHYARD_TLS_KEY", &*pair.key)];
        Ok(self.nobody(hub)?.with(&files))
    }

    /// yardctl of the administrator.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn by_administrator(&self, hub: &str) -> anyhow::Result<Yardctl> {
        self.by_certificate(hub, &self.administrator)
    }

    /// yardctl with this token, in a file of this name.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn by_token(&self, hub: &str, name: &str, token: &str) -> anyhow::Result<Yardctl> {
        let file = self.folder.join(format!("{name}.token"));
        write(&file, token)?;
        Ok(self.nobody(hub)?.with(&[("SWITCHYARD_TOKEN_FILE", &file)]))
    }

    /// A token of the issuer, by its first key, good for ten minutes.
    pub fn token(&self, user: &str, groups: &[&str]) -> String {
        self.key.sign(&self.issuer.claims(user, groups))
    }

    /// A connection to the hub, with a client certificate or none.
    ///
    /// # Errors
    /// When there is none.
    pub async fn channel(&self, hub: &str, pair: Option<&Pair>) -> anyhow::Result<Channel> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.servers.pem()));
        if let Some(pair) = pair {
            tls = tls.identity(Identity::from_pem(fs::read(&pair.certificate)?, fs::read(&pair.key)?));
        }
        let endpoint = Endpoint::from_shared(hub.to_owned())?.tls_config(tls)?;
        endpoint.connect().await.with_context(|| format!("no connection to {hub}"))
    }

    /// The folder where the agent of a cluster keeps what it gets.
    pub fn identity_folder(&self, cluster: &str) -> PathBuf {
        self.folder.join(format!("identity-{cluster}"))
    }

    /// Where the join token of a cluster is.
    pub fn join_token_file(&self, cluster: &str) -> PathBuf {
        self.folder.join(format!("{cluster}.join"))
    }

    /// Has `yardctl cluster join` make a join token, and puts it where the cluster's agent looks for it.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn join(&self, administrator: &Yardctl, cluster: &str) -> anyhow::Result<String> {
        let finished = administrator.run(&["cluster", "join", cluster, "-o", "json"], "").await?;
        anyhow::ensure!(finished.code == 0, "{finished}");
        let joined: Value = serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())?;
        let token = joined["secret"].as_str().context("the answer has no secret")?.to_owned();
        write(&self.join_token_file(cluster), &token)?;
        Ok(token)
    }

    /// The flags by which an agent of a cluster proves itself with a join token, and keeps its identity in this folder.
    pub fn proof(&self, cluster: &str, identity: &Path) -> Vec<String> {
        let files = [
            ("--tls-ca", self.servers.file()),
            ("--join-token-file", &self.join_token_file(cluster)),
            ("--identity-dir", identity),
        ];
        files.iter().map(|(flag, path)| format!("{flag}={}", path.display())).collect()
    }

    /// The agent of a cluster, which has a join token already.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn agent(
        &self,
        folder: &Path,
        cluster: &str,
        kubeconfig: &Path,
        sandbox: &Info,
        hub: &str,
    ) -> anyhow::Result<Agent> {
        let identity = self.identity_folder(cluster);
        fs::create_dir_all(&identity)?;
        let place = (sandbox.region.as_str(), sandbox.vpc_id.as_str());
        let name = format!("agent-{cluster}");
        Agent::proving(folder, &name, cluster, kubeconfig, place, hub, self.proof(cluster, &identity))
    }
}

/// A call that shows this token.
///
/// # Panics
/// When it is no text of a header.
pub fn bearing<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().expect("a token is ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}
