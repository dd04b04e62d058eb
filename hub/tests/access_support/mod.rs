//! The gate in front of services that do nothing but say who was let in, an issuer of tokens on this machine, and callers as the door
//! would announce them.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod issuer;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request, response::Response, routing::any};
use bytes::Bytes;
use http_body_util::BodyExt;
use switchyard_core::access::{
    Grant, Grants,
    tokens::{Token, TokenKind},
};
use switchyard_hub::{
    access::{Access, AccessSettings, Gatekeeper},
    door::{PeerCertificate, PeerInfo, RootSet},
    metrics::Metrics,
    store::{AuditFilter, AuditRow, Caller, Store, StoreOptions},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, service::Routes};
use tower::ServiceExt;

use crate::store_support::database_url;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const LIST: &str = "/switchyard.api.v1.PolicyService/ListPolicies";
pub const APPLY: &str = "/switchyard.api.v1.PolicyService/ApplyPolicy";
pub const DELETE: &str = "/switchyard.api.v1.PolicyService/DeletePolicy";
pub const WATCH: &str = "/switchyard.api.v1.PolicyService/WatchPolicies";
pub const SWITCH: &str = "/switchyard.api.v1.SafetyService/SetGatingSwitch";
pub const WHO: &str = "/switchyard.api.v1.AccessService/WhoAmI";
pub const SESSION: &str = "/switchyard.agent.v1.AgentService/Session";
pub const ENROL: &str = "/switchyard.agent.v1.EnrollmentService/Enroll";
pub const RENEW: &str = "/switchyard.agent.v1.EnrollmentService/RenewCertificate";
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// One replica's gate.
pub struct Gate {
    pub keeper: Gatekeeper,
    pub store: Store,
    pub metrics: Metrics,
    pub url: String,
    pub file: PathBuf,
    routes: Routes,
    /// Pieces of agents' streams that a service has read.
    pub read: Arc<AtomicUsize>,
    /// Each change sends one piece more on every watch.
    pub beat: watch::Sender<u64>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _folder: TempDir,
}

/// An answer, as far as it has come: of a stream the first piece and the rest.
pub struct Answer {
    pub status: Status,
    /// Who the service was told calls.
    pub identity: String,
    pub body: Body,
}

impl Answer {
    pub fn code(&self) -> Code {
        self.status.code()
    }

    /// The next piece of the stream.
    pub async fn piece(&mut self) -> Bytes {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("nothing comes");
        frame.expect("the stream has ended").unwrap().into_data().expect("the stream ends")
    }

    /// The status that the stream ends with.
    pub async fn end(mut self) -> Status {
        let end = async {
            while let Some(frame) = self.body.frame().await {
                if let Ok(trailers) = frame.unwrap().into_trailers() {
                    return Status::from_header_map(&trailers).unwrap();
                }
            }
            Status::unknown("the stream ended without a word")
        };
        tokio::time::timeout(PATIENCE, end).await.expect("the stream did not end")
    }
}

/// Who calls, as the door says, and what he sends.
#[derive(Clone, Debug)]
pub struct Peer {
    pub info: PeerInfo,
    pub authorization: Vec<String>,
}

impl Peer {
    /// Over TLS, without a certificate.
    pub fn nobody() -> Self {
        let address: SocketAddr = "192.0.2.7:1234".parse().unwrap();
        Self { info: PeerInfo { encrypted: true, ..PeerInfo::plain(address) }, authorization: Vec::new() }
    }

    pub fn with(token: &str) -> Self {
        Self { authorization: vec![format!("Bearer {token}")], ..Self::nobody() }
    }

    pub fn from(mut self, address: &str) -> Self {
        self.info.address = SocketAddr::new(address.parse().unwrap(), 1234);
        self
    }

    pub fn plain(mut self) -> Self {
        self.info.encrypted = false;
        self
    }

    pub fn certificate(mut self, set: RootSet, name: &str, uris: &[&str], serial: &str) -> Self {
        self.info.certificate = Some(Arc::new(PeerCertificate {
            set,
            fingerprint: format!("sha256:{}", "ab".repeat(32)),
            common_name: Some(name.to_owned()),
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            serial: serial.to_owned(),
            not_after: jiff::Timestamp::now() + Duration::from_secs(3600),
            authority: None,
        }));
        self
    }

    pub fn agent(cluster: &str, serial: &str) -> Self {
        let uri = format!("spiffe://switchyard/cluster/{cluster}");
        Self::nobody().certificate(RootSet::Agents, cluster, &[&uri], serial)
    }

    pub fn caller(name: &str) -> Self {
        Self::nobody().certificate(RootSet::Callers, name, &[], "01")
    }
}

/// A gate with this access file.
pub async fn gate(access: &str) -> Gate {
    gate_with(&database_url().await, access, AccessSettings::default()).await
}

/// A gate over this database.
pub async fn gate_with(url: &str, access: &str, settings: AccessSettings) -> Gate {
    let options = StoreOptions { acquire_timeout: Duration::from_secs(1), ..StoreOptions::default() };
    let store = Store::connect(url, options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.yaml");
    std::fs::write(&file, access).unwrap();
    let metrics = Metrics::new();
    let settings = AccessSettings { access_file: Some(file.clone()), ..settings };
    let (keeper, task) = Gatekeeper::start(settings, store.clone(), metrics.clone()).await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(task.run(shutdown.clone()));
    let read = Arc::<AtomicUsize>::default();
    let (beat, _) = watch::channel(0);
    let routes = keeper.around(services(Arc::clone(&read), beat.clone()));
    let url = url.to_owned();
    Gate { keeper, store, metrics, url, file, routes, read, beat, shutdown, task, _folder: folder }
}

impl Gate {
    /// One call with an empty body.
    pub async fn call(&self, path: &str, peer: &Peer) -> Answer {
        self.send(path, peer, Body::empty()).await
    }

    pub async fn send(&self, path: &str, peer: &Peer, body: Body) -> Answer {
        let mut request = Request::post(path).header("content-type", "application/grpc").body(body).unwrap();
        request.extensions_mut().insert(peer.info.clone());
        for value in &peer.authorization {
            request.headers_mut().append("authorization", value.parse().unwrap());
        }
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let identity = head.headers.get("seen-identity").map(|value| value.to_str().unwrap().to_owned());
        let status = Status::from_header_map(&head.headers).unwrap_or_else(|| Status::new(Code::Ok, ""));
        Answer { status, identity: identity.unwrap_or_default(), body: Body::new(body) }
    }

    pub async fn code(&self, path: &str, peer: &Peer) -> Code {
        self.call(path, peer).await.code()
    }

    /// A service token with these grants; the text that its holder sends.
    pub async fn token(&self, name: &str, grants: &[Grant]) -> String {
        self.token_for(name, grants, Duration::from_secs(3600)).await
    }

    /// The same, good for so long.
    pub async fn token_for(&self, name: &str, grants: &[Grant], ttl: Duration) -> String {
        let seed: [u8; 32] = rand::random();
        let token = Token::new(TokenKind::Service, rand::random(), seed);
        let (grants, ttl) = (Grants(grants.to_vec()), ttl.try_into().unwrap());
        self.store.service_token_create(&admin(), name, &grants, ttl, &token).await.unwrap();
        token.reveal()
    }

    /// Entries of refused and failed calls, oldest first.
    pub async fn refusals(&self) -> Vec<AuditRow> {
        let rows = self.store.audit_page(&AuditFilter::default(), true, None, 1000).await.unwrap();
        rows.into_iter().filter(|row| row.action.contains('/') || row.detail.get("rpc").is_some()).collect()
    }

    /// The value of a metric by its whole line's start.
    pub fn metric(&self, start: &str) -> f64 {
        let text = self.metrics.encoded().unwrap();
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    pub async fn stop(self) -> Store {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the gate did not stop").unwrap();
        self.store
    }
}

/// Somebody who may everything, for the store.
pub fn admin() -> Caller {
    Caller {
        request_id: uuid::Uuid::new_v4().to_string(),
        actor: "test".to_owned(),
        reason: String::new(),
        source: String::new(),
        grants: Grants::everything(),
    }
}

/// What stands behind the gate: every path answers, changes that end in `DeletePolicy` fail, streams send a piece and go on; a watch
/// sends one more for each beat.
fn services(read: Arc<AtomicUsize>, beat: watch::Sender<u64>) -> Routes {
    let router = Router::new();
    let watch = move |request: Request| {
        let beats = beat.subscribe();
        async move { answer(&request, beating(beats)) }
    };
    let router = router.route(WATCH, any(watch));
    let router = router.route(DELETE, any(async || -> Response { Status::failed_precondition("held").into_http() }));
    let session = move |request: Request| {
        let read = Arc::clone(&read);
        async move {
            let response = answer(&request, endless());
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(_)) = body.frame().await {
                    read.fetch_add(1, Ordering::SeqCst);
                }
            });
            response
        }
    };
    let router = router.route(SESSION, any(session));
    let router = router.fallback(|request: Request| async move {
        assert!(!request.headers().contains_key("authorization"), "a token went past the gate");
        answer(&request, Body::empty())
    });
    Routes::from(router)
}

fn answer(request: &Request, body: Body) -> Response {
    let access = request.extensions().get::<Access>().expect("a call came past the gate");
    Response::builder().header("seen-identity", access.identity().to_string()).body(body).unwrap()
}

fn beating(beats: watch::Receiver<u64>) -> Body {
    let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"one"))]);
    let more = futures::stream::unfold(beats, async |mut beats| {
        beats.changed().await.ok()?;
        Some((Ok(Bytes::from_static(b"more")), beats))
    });
    Body::from_stream(futures::StreamExt::chain(first, more))
}

fn endless() -> Body {
    let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"one"))]);
    Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
}

/// Looks again and again until `look` gives something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
