//! A hub in production mode, what an attacker may have taken from others, and what is looked at afterwards.

use std::{fs, time::Duration};

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::Value;
use switchyard_proto::{
    agent::v1::{EnrollRequest, enroll_request::Proof, enrollment_service_client::EnrollmentServiceClient},
    api::v1::{self as api, access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient},
};
use switchyard_tests::{
    authority::Pair,
    guard::{Guard, Settings, bearing, binding},
    hub::{Hub, Times},
    postgres,
    sandbox::Sandbox,
    wait,
    world::{Builder, folder},
};
use tempfile::TempDir;
use tonic::{Response, Status, transport::Channel};
use uuid::Uuid;

/// A hub with its sandbox, without agents.
pub struct Scene {
    pub hub: Hub,
    pub guard: Guard,
    pub administrator: Channel,
    sandbox: Sandbox,
    _folder: TempDir,
}

/// The hub's memory when measuring began, in kilobytes.
#[derive(Debug)]
pub struct Memory {
    before: u64,
}

impl Scene {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these flags of the hub.
    pub async fn with(flags: &[&str]) -> Self {
        let folder = folder().unwrap();
        let settings = Builder::default().sandbox;
        let sandbox = Sandbox::start(folder.path(), &settings).await.unwrap();
        let of = |group: &str| serde_json::json!({"issuer": "corp", "group": group});
        let bindings = vec![
            binding("operator", &["shop"], &["*"], of("shop-operators")),
            binding("admin", &["shop"], &["*"], of("shop-admins")),
            binding("viewer", &["shop"], &["*"], of("shop-viewers")),
        ];
        let hub_arguments = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let guard =
            Guard::make(folder.path(), Settings { hub_arguments, bindings, ..Settings::default() }).await.unwrap();
        let database = switchyard_tests::hub::Database::Url(postgres::shared_database().await.unwrap());
        let hub = guard.hub(folder.path(), sandbox.info(), database, &Times::default()).await.unwrap();
        let administrator = guard.channel(&hub.grpc_url(), Some(&guard.administrator)).await.unwrap();
        Self { hub, guard, administrator, sandbox, _folder: folder }
    }

    /// A connection without a certificate.
    pub async fn nobody(&self) -> Channel {
        self.guard.channel(&self.hub.grpc_url(), None).await.unwrap()
    }

    /// A connection with this certificate.
    pub async fn with_certificate(&self, pair: &Pair) -> Channel {
        self.guard.channel(&self.hub.grpc_url(), Some(pair)).await.unwrap()
    }

    /// A connection by which the administrator is asked for: made anew, from an address of its own.
    pub async fn fresh(&self) -> Channel {
        self.guard.channel(&self.hub.grpc_url(), Some(&self.guard.administrator)).await.unwrap()
    }

    pub async fn join_token(&self, cluster: &str) -> String {
        let request = api::CreateJoinTokenRequest {
            request_id: Uuid::new_v4().to_string(),
            cluster: cluster.to_owned(),
            ..api::CreateJoinTokenRequest::default()
        };
        let mut access = AccessServiceClient::new(self.administrator.clone());
        access.create_join_token(request).await.unwrap().into_inner().secret
    }

    /// Asks for a certificate as an agent does.
    pub async fn enroll(&self, cluster: &str, token: &str, csr_pem: String) -> Result<String, Status> {
        let request = EnrollRequest {
            cluster: cluster.to_owned(),
            proof: Some(Proof::JoinToken(token.to_owned())),
            csr_pem,
            agent_instance_id: Uuid::new_v4().to_string(),
        };
        let answer = EnrollmentServiceClient::new(self.nobody().await).enroll(request).await?;
        Ok(answer.into_inner().certificate.expect("a certificate").chain_pem)
    }

    /// What an attacker has who took the agent of a cluster.
    pub async fn stolen_agent(&self, cluster: &str) -> Pair {
        let token = self.join_token(cluster).await;
        let (csr, key) = signing_request(&[]);
        let chain = self.enroll(cluster, &token, csr).await.unwrap();
        let pair = Pair::at(self.guard.folder(), &format!("stolen-{cluster}-{}", Uuid::new_v4()));
        fs::write(&pair.certificate, chain).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// A user's token with these groups.
    pub fn token(&self, user: &str, groups: &[&str]) -> String {
        self.guard.token(user, groups)
    }

    /// The entries of the audit log with this result, newest first.
    pub async fn audit(&self, result: &str) -> Vec<api::AuditEntry> {
        let request = api::ListAuditEntriesRequest {
            result: result.to_owned(),
            page_size: 1000,
            ..api::ListAuditEntriesRequest::default()
        };
        let mut audit = AuditServiceClient::new(self.administrator.clone());
        audit.list_audit_entries(request).await.unwrap().into_inner().entries
    }

    /// Waits for an entry about a refusal in which all of these words stand.
    pub async fn audited(&self, result: &str, words: &[&str]) -> api::AuditEntry {
        wait::until(&format!("an audit entry with {words:?}"), async || {
            let entries = self.audit(result).await;
            let text = |entry: &api::AuditEntry| {
                format!("{} {} {} {} {}", entry.actor, entry.action, entry.source, entry.reason, entry.detail_json)
            };
            let found = entries.iter().find(|entry| words.iter().all(|word| text(entry).contains(word)));
            found.cloned().ok_or_else(|| format!("{:#?}", entries.iter().map(text).collect::<Vec<_>>()))
        })
        .await
    }

    /// The chain of the audit log holds.
    pub async fn audit_holds(&self) {
        let yardctl = self.guard.by_administrator(&self.hub.grpc_url()).unwrap();
        let finished = yardctl.run(&["audit", "verify"], "").await.unwrap();
        assert_eq!(finished.code, 0, "{finished}");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.hub.log_file()).unwrap()
    }

    fn memory(&self, line: &str) -> u64 {
        let pid = self.hub.pid().expect("the hub runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// Begins to measure: what [`Scene::growth`] says from now on is beyond what the hub has at this moment.
    pub fn measure(&self) -> Memory {
        let pid = self.hub.pid().expect("the hub runs");
        // 5: the most that it had is what it has now. See proc(5).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Memory { before: self.memory("VmRSS") }
    }

    /// Kilobytes by which the hub's memory had grown when it had the most since then, whether it has given them back or not.
    pub fn growth(&self, since: &Memory) -> u64 {
        self.memory("VmHWM").saturating_sub(since.before)
    }

    pub async fn stop(self) {
        let Self { mut hub, sandbox, .. } = self;
        hub.stop().await.unwrap();
        sandbox.stop().await.unwrap();
    }
}

/// A request to sign, with these URIs in it, and its key.
pub fn signing_request(uris: &[&str]) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "agent");
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

/// A policy of this namespace as a manifest.
pub fn manifest(namespace: &str, name: &str) -> String {
    let manifest: Value = serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "listener": {"loadBalancer": "shared-public", "port": 443},
            "match": {"hostnames": [format!("{name}.example.com")]},
            "backend": {"service": {"name": "checkout", "port": "http"}, "healthCheck": {"path": "/"}},
            "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}],
        },
    });
    manifest.to_string()
}

/// A call with this token within a time in which every answer comes.
pub async fn call<Q, A>(
    message: Q,
    token: Option<&str>,
    send: impl AsyncFnOnce(tonic::Request<Q>) -> Result<Response<A>, Status>,
) -> Result<A, Status> {
    let request = match token {
        Some(token) => bearing(message, token),
        None => tonic::Request::new(message),
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), send(request)).await.expect("an answer in time");
    answer.map(Response::into_inner)
}
