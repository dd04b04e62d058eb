//! Agents that ask for certificates, and callers of the access service: calls go into the hub's services behind the gate, within this
//! process, as the door would announce whoever is at the other end.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use switchyard_hub::{
    access::{AccessSettings, rates::AccessRates},
    authority::{AuthorityOptions, Keys, SealedUnder},
    door::{AgentRoots, PeerInfo, RootSet, peer},
    secret::Secret,
    store::AuditRow,
};
use switchyard_proto::{
    agent::v1::{self as agent, enroll_request::Proof, enrollment_service_client::EnrollmentServiceClient},
    api::v1::{self as api, access_service_client::AccessServiceClient},
};
use tonic::{Status, body::Body, service::Routes};
use tower::{Service, ServiceExt};
use uuid::Uuid;

use crate::grpc_support::{Hub, Setup, hub_set_up};

/// 32 bytes in base64.
pub const SEALING_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
pub const OTHER_KEY: &str = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=";

pub fn own(sealing_key: &str) -> Keys {
    Keys::Own(SealedUnder::Key(Secret::new(sealing_key.to_owned())))
}

pub fn options(keys: Keys) -> AuthorityOptions {
    AuthorityOptions { keys, trust_domain: "switchyard".to_owned(), ttl: Duration::from_secs(3600) }
}

/// A hub with its own authority, and without `--dev`: an admin has the certificate `admin`.
pub async fn hub_on(url: &str, keys: Keys) -> Hub {
    hub_with(url, keys, "").await
}

/// The same, with more in its access file.
pub async fn hub_with(url: &str, keys: Keys, more: &str) -> Hub {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bindings = "bindings:\n\
        - {role: admin, namespaces: ['*'], clusters: ['*'], overrides: true, subjects: [{certificate: {commonName: admin}}]}\n\
        - {role: admin, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: careful}}]}\n\
        - {role: viewer, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: viewer}}]}\n\
        - {role: admin, namespaces: [shop], clusters: ['*'], subjects: [{certificate: {commonName: shop}}]}\n";
    std::fs::write(file.path(), format!("{bindings}{more}")).unwrap();
    let access = AccessSettings {
        access_file: Some(file.path().to_owned()),
        refusals_every: Duration::from_millis(50),
        // Tests ask again and again until something is so.
        rates: AccessRates::default().development(),
        ..AccessSettings::default()
    };
    let hub = hub_set_up(url, Setup { access, authority: options(keys), ..Setup::default() }).await;
    // It was read; that it goes changes nothing.
    drop(file);
    hub
}

pub async fn hub() -> Hub {
    hub_on(&crate::store_support::database_url().await, own(SEALING_KEY)).await
}

/// A way into the services for one peer.
#[derive(Clone)]
pub struct Port {
    routes: Routes,
    peer: PeerInfo,
    bearer: Option<String>,
}

impl Port {
    pub fn nobody(hub: &Hub) -> Self {
        let address = "192.0.2.7:4711".parse().unwrap();
        let peer = PeerInfo { address, encrypted: true, certificate: None };
        Self { routes: hub.routes.clone(), peer, bearer: None }
    }

    /// With a certificate of the callers' authority.
    pub fn caller(hub: &Hub, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let certificate = Some(Arc::new(peer::read(&der, RootSet::Callers, None).unwrap()));
        let nobody = Self::nobody(hub);
        Self { peer: PeerInfo { certificate, ..nobody.peer }, ..nobody }
    }

    /// With a service token.
    pub fn token(hub: &Hub, token: &str) -> Self {
        Self { bearer: Some(token.to_owned()), ..Self::nobody(hub) }
    }

    /// With a certificate that the hub issued.
    pub fn agent(hub: &Hub, issued: &agent::IssuedCertificate) -> Self {
        Self::showing(hub, &leaf(issued), "test")
    }

    /// With a certificate of an agent that the door verified against this authority.
    pub fn showing(hub: &Hub, der: &CertificateDer<'_>, authority: &str) -> Self {
        let certificate = Some(Arc::new(peer::read(der, RootSet::Agents, Some(authority.to_owned())).unwrap()));
        let nobody = Self::nobody(hub);
        Self { peer: PeerInfo { certificate, ..nobody.peer }, ..nobody }
    }

    /// The same peer at another address.
    pub fn at(self, address: std::net::IpAddr) -> Self {
        let peer = PeerInfo { address: (address, 4711).into(), ..self.peer };
        Self { peer, ..self }
    }

    pub fn access(&self) -> AccessServiceClient<Self> {
        AccessServiceClient::new(self.clone())
    }

    pub fn audit(&self) -> api::audit_service_client::AuditServiceClient<Self> {
        api::audit_service_client::AuditServiceClient::new(self.clone())
    }

    /// A join token for a cluster.
    pub async fn join_token(&self, cluster: &str) -> api::CreateJoinTokenResponse {
        let request = api::CreateJoinTokenRequest {
            request_id: Uuid::new_v4().to_string(),
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        self.access().create_join_token(request).await.unwrap().into_inner()
    }

    pub async fn enroll(&self, cluster: &str, proof: Proof, csr: &str) -> Result<agent::IssuedCertificate, Status> {
        let request = agent::EnrollRequest {
            cluster: cluster.to_owned(),
            csr_pem: csr.to_owned(),
            agent_instance_id: Uuid::new_v4().to_string(),
            proof: Some(proof),
        };
        let answer = EnrollmentServiceClient::new(self.clone()).enroll(request).await?;
        Ok(answer.into_inner().certificate.unwrap())
    }

    pub async fn join(&self, cluster: &str, secret: &str, csr: &str) -> Result<agent::IssuedCertificate, Status> {
        self.enroll(cluster, Proof::JoinToken(secret.to_owned()), csr).await
    }

    pub async fn renew(&self, csr: &str) -> Result<agent::IssuedCertificate, Status> {
        let request =
            agent::RenewCertificateRequest { csr_pem: csr.to_owned(), agent_instance_id: Uuid::new_v4().to_string() };
        let answer = EnrollmentServiceClient::new(self.clone()).renew_certificate(request).await?;
        Ok(answer.into_inner().certificate.unwrap())
    }

    pub async fn authorities(&self) -> Vec<api::Authority> {
        self.access().list_authorities(api::ListAuthoritiesRequest {}).await.unwrap().into_inner().authorities
    }

    pub async fn rotate(&self) -> Result<Vec<api::Authority>, Status> {
        let request = api::RotateAuthorityRequest { request_id: Uuid::new_v4().to_string(), ..Default::default() };
        Ok(self.access().rotate_authority(request).await?.into_inner().authorities)
    }
}

impl Service<http::Request<Body>> for Port {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        if let Some(token) = &self.bearer {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let routes = self.routes.clone();
        Box::pin(async move { Ok(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) })
    }
}

/// A request to sign with a key of its own.
pub fn csr() -> String {
    csr_of(&KeyPair::generate().unwrap())
}

pub fn csr_of(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

pub fn leaf(issued: &agent::IssuedCertificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()
}

/// Would the door believe this certificate, as the TLS library judges it?
pub fn is_believed(roots: &AgentRoots, issued: &agent::IssuedCertificate) -> bool {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let mut store = RootCertStore::empty();
    for root in &roots.0 {
        store.add(CertificateDer::from(root.der.clone())).unwrap();
    }
    if store.is_empty() {
        return false;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider).build().unwrap();
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok()
}

/// Everything in the audit log, the oldest first.
pub async fn audit(hub: &Hub) -> Vec<AuditRow> {
    hub.store.audit_page(&Default::default(), true, None, 1000).await.unwrap()
}

/// How often an action was logged.
pub async fn count(hub: &Hub, action: &str) -> usize {
    audit(hub).await.iter().filter(|row| row.action == action).count()
}

pub fn write(path: &Path, text: &str) {
    // As kubelet does it: a new file takes the place of the old one.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}
