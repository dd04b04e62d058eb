//! Authorities and certificates by hand, a door in front of a service that says who called, and clients that shake hands as they are
//! told. No database.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request, response::IntoResponse, routing::any};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::{Response, body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use switchyard_hub::door::{
    AgentRoot, AgentRoots, Guard, PeerInfo, http2,
    tls::{MinVersion, Tls, TlsFiles},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An authority.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap())
    }

    /// Two certificates for one name and one key, as when an authority is renewed.
    pub fn renewed(name: &str) -> [Self; 2] {
        let key = KeyPair::generate().unwrap().serialize_pem();
        [(), ()].map(|()| {
            let key = KeyPair::from_pem(&key).unwrap();
            Self(CertifiedIssuer::self_signed(authority(name), key).unwrap())
        })
    }

    /// One that this one vouches for.
    pub fn below(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(authority(name), KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn root(&self, id: &str) -> AgentRoot {
        AgentRoot { id: id.to_owned(), der: self.0.der().to_vec() }
    }

    pub fn server(&self) -> Leaf {
        self.leaf("hub", |_| {})
    }

    pub fn leaf(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Leaf { chain: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// As the hub issues it.
    pub fn agent(&self, cluster: &str) -> Leaf {
        self.leaf(cluster, |params| {
            let uri = format!("spiffe://switchyard/cluster/{cluster}");
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        })
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A folder with what the flags of TLS name.
pub struct Files(pub tempfile::TempDir);

impl Files {
    pub fn new(server: &Leaf, callers: Option<&Authority>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.serve(server);
        if let Some(callers) = callers {
            files.write("ca", &callers.pem());
        }
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As a whole: a reader sees the old one or the new one.
    pub fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path(name)).unwrap();
    }

    pub fn serve(&self, leaf: &Leaf) {
        self.write("cert", &leaf.chain);
        self.write("key", &leaf.key);
    }

    pub fn tls(&self) -> TlsFiles {
        let client_ca = Some(self.path("ca")).filter(|path| Path::exists(path));
        TlsFiles { cert: self.path("cert"), key: self.path("key"), client_ca, min_version: MinVersion::Tls13 }
    }
}

/// A door with something behind it.
pub struct Door {
    pub address: SocketAddr,
    pub roots: watch::Sender<Arc<AgentRoots>>,
    pub guard: Guard,
    pub shutdown: CancellationToken,
    served: JoinHandle<()>,
}

/// With TLS.
pub async fn door(files: TlsFiles, roots: Vec<AgentRoot>, change: impl FnOnce(&mut Guard)) -> Door {
    let (sender, receiver) = watch::channel(Arc::new(AgentRoots(roots)));
    let tls = Tls::open(files, receiver).unwrap();
    let mut guard = Guard { tls: Some(Arc::clone(&tls)), ..Guard::default() };
    change(&mut guard);
    let door = open(guard, sender, who()).await;
    tokio::spawn(tls.keep(door.guard.metrics.clone(), Duration::from_millis(20), door.shutdown.clone()));
    door
}

/// In plain text.
pub async fn plain_door(routes: Routes, change: impl FnOnce(&mut Guard)) -> Door {
    let mut guard = Guard::default();
    change(&mut guard);
    open(guard, watch::channel(Arc::default()).0, routes).await
}

async fn open(guard: Guard, roots: watch::Sender<Arc<AgentRoots>>, routes: Routes) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(http2::serve(listener, guard.clone(), routes, shutdown.clone()));
    Door { address, roots, guard, shutdown, served }
}

impl Door {
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("the door to close in time").unwrap();
    }

    /// How many were turned away for this reason.
    pub fn refused(&self, reason: &'static str) -> u64 {
        let labels = switchyard_hub::door::metrics::Refused { port: "grpc", reason };
        self.guard.metrics.refused.get_or_create(&labels).get()
    }
}

/// `/who` says who called; `/stream` says a line each 10 ms, without end.
pub fn who() -> Routes {
    let who = any(async |request: Request| format!("{:?}", request.extensions().get::<PeerInfo>()).into_response());
    let stream = any(async || {
        let lines = futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"line\n")), ()))
        });
        Body::from_stream(lines.boxed()).into_response()
    });
    Router::new().route("/who", who).route("/stream", stream).into()
}

/// How a client shakes hands.
#[derive(Clone)]
pub struct Client {
    config: ClientConfig,
}

pub fn client(trusts: &Authority, shows: Option<&Leaf>) -> Client {
    client_of(trusts, shows, &[&TLS13])
}

pub fn old_client(trusts: &Authority) -> Client {
    client_of(trusts, None, &[&TLS12])
}

fn client_of(trusts: &Authority, shows: Option<&Leaf>, versions: &[&'static SupportedProtocolVersion]) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Client { config }
}

/// One connection.
pub struct Call {
    sender: SendRequest<Empty<Bytes>>,
    /// The certificate that the hub showed.
    pub shown: Vec<u8>,
}

impl Client {
    pub async fn handshake(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(self.config.clone())).connect(name, stream).await
    }

    pub async fn connect(&self, address: SocketAddr) -> Result<Call, Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.handshake(address).await?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().unwrap()[0].to_vec();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Call { sender, shown })
    }

    /// What the hub takes this client for. With TLS 1.3 a refused certificate shows only when something is read.
    pub async fn who(&self, address: SocketAddr) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        self.connect(address).await?.get("/who").await
    }
}

impl Call {
    pub async fn open(&mut self, path: &str) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let request = hyper::Request::get(format!("https://127.0.0.1{path}")).body(Empty::new())?;
        Ok(self.sender.send_request(request).await?)
    }

    pub async fn get(&mut self, path: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let body = self.open(path).await?.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.to_vec())?)
    }
}

/// Over plain text.
pub async fn plain(address: SocketAddr) -> Call {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Call { sender, shown: Vec::new() }
}

/// Looks again and again until `look` gives something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
