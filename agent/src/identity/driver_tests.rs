//! The keeper of the identity with a hub that the test plays: real TLS, real certificates, real files, a fake Secret.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp, ToSpan};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use switchyard_proto::agent::v1::{
    AgentMessage, EnrollRequest, EnrollResponse, HubMessage, IssuedCertificate, RenewCertificateRequest,
    RenewCertificateResponse,
    agent_service_server::{AgentService, AgentServiceServer},
    enroll_request::Proof as Wire,
    enrollment_service_server::{EnrollmentService, EnrollmentServiceServer},
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    driver::{Driver, FromHub, Origin, TokenPlace},
    enrollment::Enrollment,
    files,
    material::tests::Authority,
    present::{Credentials, Presented},
    store::Store,
    values::{Identity, Kept},
};
use crate::{
    args::gates::ObjectName,
    complaints::Complaints,
    link::transport::{Dialer, EndpointCall, Link, LinkEvent, Target},
    metrics::Metrics,
    watch::secret::Secrets,
};

/// Generous, for two busy cores; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_secs(20);
const TOKEN: &str = "syj_abcdefghij23_Zm9vYmFyX2Jhei1xdXV4X3NlY3JldF9zZWNyZXRfMTI";
const OTHER_TOKEN: &str = "syj_zzzzzzzzzzzz_Zm9vYmFyX2Jhei1xdXV4X3NlY3JldF9zZWNyZXRfMTI";
const ACCOUNT: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln";

/// What the hub did and will do.
struct State {
    authority: Authority,
    /// What the next certificates live, and after how much of it they are to be renewed.
    life: (SignedDuration, SignedDuration),
    /// The key that each proof was shown with, in order.
    enrolled: Vec<(String, String)>,
    /// The first key of each join token.
    first: BTreeMap<String, String>,
    renewed: usize,
    /// Serials of the peers of streams.
    streams: Vec<Option<String>>,
    /// Answers are lost on their way.
    loses: bool,
    /// Certificates are not taken.
    revokes: bool,
    /// What streams are answered with.
    refuses: Option<Status>,
}

#[derive(Clone)]
struct Hub {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    server: Arc<Serving>,
}

struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Doors(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no test panics while it holds the lock")
}

impl State {
    fn issue(&self, csr: &str) -> IssuedCertificate {
        let now = Timestamp::now();
        let not_after = now + self.life.0;
        let at = |moment: Timestamp| prost_types::Timestamp { seconds: moment.as_second(), nanos: 0 };
        IssuedCertificate {
            cluster: "blue".to_owned(),
            chain_pem: self.authority.issue("blue", csr, now - 1.minute(), not_after),
            serial: String::new(),
            not_before: Some(at(now - 1.minute())),
            not_after: Some(at(not_after)),
            renew_at: Some(at(now + self.life.1)),
        }
    }
}

/// The public key of a request.
fn key_of(csr: &str) -> String {
    let request = rcgen::CertificateSigningRequestParams::from_pem(csr).expect("a request");
    format!("{:?}", rcgen::PublicKeyData::der_bytes(&request.public_key))
}

#[tonic::async_trait]
impl EnrollmentService for Doors {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        assert!(request.peer_certs().is_none_or(|certificates| certificates.is_empty()), "it has none yet");
        let request = request.into_inner();
        let mut state = lock(&self.0);
        let key = key_of(&request.csr_pem);
        let proof = match request.proof.expect("a proof") {
            Wire::JoinToken(token) => {
                let first = state.first.entry(token.clone()).or_insert_with(|| key.clone()).clone();
                state.enrolled.push((token.clone(), key.clone()));
                if first != key {
                    return Err(Status::permission_denied("the join token was used"));
                }
                token
            }
            Wire::ServiceAccountToken(token) => {
                state.enrolled.push((token.clone(), key));
                token
            }
        };
        assert!([TOKEN, OTHER_TOKEN, ACCOUNT].contains(&proof.as_str()), "{proof}");
        if state.loses {
            return Err(Status::unavailable("the answer is lost"));
        }
        state.revokes = false;
        Ok(Response::new(EnrollResponse { certificate: Some(state.issue(&request.csr_pem)) }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        assert!(request.peer_certs().is_some_and(|certificates| !certificates.is_empty()), "it shows the present one");
        let mut state = lock(&self.0);
        if state.revokes {
            return Err(Status::unauthenticated("the certificate was revoked"));
        }
        state.renewed += 1;
        Ok(Response::new(RenewCertificateResponse { certificate: Some(state.issue(&request.get_ref().csr_pem)) }))
    }
}

#[tonic::async_trait]
impl AgentService for Doors {
    type SessionStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let serial = request.peer_certs().and_then(|certificates| {
            use x509_parser::prelude::{FromDer, X509Certificate};
            let leaf = certificates.first()?.clone();
            let (_, leaf) = X509Certificate::from_der(&leaf).ok()?;
            Some(leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        });
        let mut state = lock(&self.0);
        state.streams.push(serial);
        match state.refuses.clone() {
            Some(status) => Err(status),
            None if state.revokes => Err(Status::unauthenticated("the certificate was revoked")),
            None => {
                let (say, stream) = tokio::sync::mpsc::channel(4);
                // Held open by the task until the agent goes.
                tokio::spawn(async move { say.closed().await });
                Ok(Response::new(ReceiverStream::new(stream)))
            }
        }
    }
}

impl Hub {
    async fn start() -> Self {
        let authority = Authority::new();
        let (chain, key) = authority.server();
        let tls = tonic::transport::ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(chain, key))
            .client_ca_root(tonic::transport::Certificate::from_pem(&authority.pem))
            .client_auth_optional(true);
        let state = Arc::new(Mutex::new(State {
            authority,
            life: (SignedDuration::from_hours(1), SignedDuration::from_mins(40)),
            enrolled: Vec::new(),
            first: BTreeMap::new(),
            renewed: 0,
            streams: Vec::new(),
            loses: false,
            revokes: false,
            refuses: None,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let doors = Doors(Arc::clone(&state));
        let router = Server::builder()
            .tls_config(tls)
            .expect("a TLS configuration")
            .add_service(EnrollmentServiceServer::new(doors.clone()))
            .add_service(AgentServiceServer::new(doors));
        let serving = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("the server runs");
        });
        Self { state, address, server: Arc::new(Serving(serving)) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        assert!(!self.server.0.is_finished(), "the hub runs");
        act(&mut lock(&self.state))
    }

    /// An identity as the hub would issue it, which lives so long from now on.
    fn identity(&self, life: SignedDuration) -> Identity {
        let now = Timestamp::now();
        self.with(|state| state.authority.identity("blue", now - 1.minute(), now + life))
    }
}

/// A running keeper.
struct Keeper {
    dialer: Dialer,
    credentials: Credentials,
    complaints: Complaints,
    metrics: Metrics,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Where tokens and identities are.
struct Place(tempfile::TempDir);

impl Place {
    fn new(hub: &Hub) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        place.write("ca.pem", &hub.with(|state| state.authority.pem.clone()));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn folder(&self) -> Store {
        Store::Folder(self.path("identity"))
    }

    /// A keeper that enrols: with the file `token` if there is one, with the ServiceAccount's if there is one.
    fn keeper(&self, hub: &Hub, store: Store) -> Keeper {
        let account = Some(self.path("account")).filter(|path| path.exists());
        Keeper::start(hub, &self.path("ca.pem"), |enrollment| {
            let join_token = TokenPlace::File(self.path("token"));
            Origin::Hub(Box::new(FromHub { enrollment, store, join_token, account_token: account }))
        })
    }
}

impl Keeper {
    fn start(hub: &Hub, authorities: &Path, origin: impl FnOnce(Enrollment) -> Origin) -> Self {
        let pem = files::authorities(authorities).expect("the authorities");
        let (source, credentials) = Credentials::new(&pem, Presented::NotYet("not yet".to_owned()));
        let url = format!("https://localhost:{}", hub.address.port());
        let (complaints, metrics) = (Complaints::default(), Metrics::new());
        let dialer = Dialer::new(&Target { url, tls: Some(credentials.clone()) }).expect("a target");
        let dialer = dialer.reporting(complaints.clone(), metrics.clone());
        let enrollment =
            Enrollment { dialer: dialer.clone(), cluster: "blue".to_owned(), instance_id: "instance".to_owned() };
        let driver = Driver {
            cluster: "blue".to_owned(),
            origin: origin(enrollment),
            authorities: authorities.to_owned(),
            source,
            metrics: metrics.clone(),
            complaints: complaints.clone(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(driver.run(stop.clone()));
        Self { dialer, credentials, complaints, metrics, stop, task }
    }

    /// Waits until it shows a certificate that fits.
    async fn shows(&self, fits: impl Fn(&Identity) -> bool) -> Arc<Identity> {
        let mut presented = self.credentials.presented.clone();
        let shown = presented.wait_for(|shown| matches!(shown, Presented::With(identity) if fits(identity)));
        let shown = timeout(DEADLINE, shown).await;
        match &*shown.unwrap_or_else(|_| panic!("{:?}", self.complaints.lines())).expect("the keeper runs") {
            Presented::With(identity) => Arc::clone(identity),
            other => panic!("{other:?}"),
        }
    }

    async fn complains(&self, of: &str) {
        until(
            || self.complaints.lines().iter().any(|line| line.contains(of)),
            || format!("{:?}", self.complaints.lines()),
        )
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.expect("it ends").expect("without a panic");
    }
}

async fn until(holds: impl Fn() -> bool, state: impl Fn() -> String) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, waits).await.is_ok(), "{}", state());
}

async fn event(link: &mut Link) -> LinkEvent<EndpointCall> {
    timeout(DEADLINE, link.next()).await.expect("the connection says something")
}

/// Dials; gives the sender, which keeps the stream open.
async fn opened(link: &mut Link) -> tokio::sync::mpsc::Sender<AgentMessage> {
    link.dial();
    match event(link).await {
        LinkEvent::Opened(outbox) => outbox,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cluster_joins_with_a_token_and_its_certificate_outlives_the_process() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    let keeper = place.keeper(&hub, place.folder());
    keeper.complains("no join token is given; run `yardctl cluster join blue`").await;
    assert!(keeper.complaints.is_blocking(), "without a certificate it is not ready");
    place.write("token", &format!("{TOKEN}\n"));
    let first = keeper.shows(|_| true).await;
    assert_eq!(first.certificate.cluster.as_deref(), Some("blue"));
    until(|| !keeper.complaints.is_blocking(), || format!("{:?}", keeper.complaints.lines())).await;
    let page = keeper.metrics.encode();
    assert!(page.contains("switchyard_agent_certificate_requests_total{outcome=\"enrolled\"} 1"), "{page}");
    let ends =
        format!("switchyard_agent_certificate_not_after_timestamp_seconds {}", first.certificate.not_after.as_second());
    assert!(page.contains(&ends), "{page}");
    until(|| kept(&place).contains("spent-tokens"), || kept(&place)).await;
    keeper.stop().await;

    std::fs::remove_file(place.path("token")).expect("the token may go");
    let keeper = place.keeper(&hub, place.folder());
    let again = keeper.shows(|_| true).await;
    assert_eq!(again.certificate.serial, first.certificate.serial);
    assert_eq!(hub.with(|state| state.enrolled.len()), 1);
    keeper.stop().await;
}

fn kept(place: &Place) -> String {
    std::fs::read_to_string(place.path("identity/identity.json")).unwrap_or_default()
}

#[tokio::test]
async fn a_lost_answer_and_a_crash_burn_no_token() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    place.write("token", TOKEN);
    hub.with(|state| state.loses = true);
    let keeper = place.keeper(&hub, place.folder());
    until(|| hub.with(|state| !state.enrolled.is_empty()), || "the hub is not asked".to_owned()).await;
    keeper.task.abort();
    hub.with(|state| state.loses = false);
    let keeper = place.keeper(&hub, place.folder());
    keeper.shows(|_| true).await;
    let keys: Vec<String> = hub.with(|state| state.enrolled.iter().map(|(_, key)| key.clone()).collect());
    assert!(keys.len() >= 2 && keys.iter().all(|key| *key == keys[0]), "{} keys", keys.len());
    keeper.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_and_its_stream_is_dialled_anew_before_the_old_one_ends() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    place.write("token", TOKEN);
    hub.with(|state| state.life = (SignedDuration::from_secs(12), SignedDuration::from_secs(2)));
    let keeper = place.keeper(&hub, place.folder());
    let first = keeper.shows(|_| true).await;
    hub.with(|state| state.life = (SignedDuration::from_hours(1), SignedDuration::from_mins(40)));
    let mut link: Link = Link::new(keeper.dialer.clone());
    let outbox = opened(&mut link).await;
    assert!(matches!(event(&mut link).await, LinkEvent::Renewed));
    assert!(Timestamp::now() < first.certificate.not_after, "in time");
    drop(outbox);
    let _outbox = opened(&mut link).await;
    let second = keeper.shows(|identity| identity.certificate.serial != first.certificate.serial).await;
    assert_ne!(second.key, first.key, "a new certificate has a new key");
    until(|| hub.with(|state| state.streams.len()) == 2, || "two streams".to_owned()).await;
    let shown = hub.with(|state| state.streams.clone());
    assert_eq!(shown, [Some(first.certificate.serial.clone()), Some(second.certificate.serial.clone())]);
    assert_eq!(hub.with(|state| state.renewed), 1);
    keeper.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_replaced_with_the_service_accounts_token_and_without_one_the_operator_is_told() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    place.write("account", ACCOUNT);
    let keeper = place.keeper(&hub, place.folder());
    let first = keeper.shows(|_| true).await;
    hub.with(|state| state.revokes = true);
    let mut link: Link = Link::new(keeper.dialer.clone());
    let _outbox = opened(&mut link).await;
    match event(&mut link).await {
        LinkEvent::Closed { refused: true, reason } => assert!(reason.contains("was revoked"), "{reason}"),
        other => panic!("{other:?}"),
    }
    keeper.shows(|identity| identity.certificate.serial != first.certificate.serial).await;
    let proofs: Vec<String> = hub.with(|state| state.enrolled.iter().map(|(proof, _)| proof.clone()).collect());
    assert_eq!(proofs, [ACCOUNT, ACCOUNT]);
    until(|| kept(&place).matches("BEGIN PRIVATE KEY").count() == 1, || "it is kept".to_owned()).await;
    keeper.stop().await;

    std::fs::remove_file(place.path("account")).expect("the token goes");
    hub.with(|state| state.revokes = true);
    let keeper = place.keeper(&hub, place.folder());
    let second = keeper.shows(|_| true).await;
    let mut link: Link = Link::new(keeper.dialer.clone());
    let _outbox = opened(&mut link).await;
    assert!(matches!(event(&mut link).await, LinkEvent::Closed { .. }));
    keeper.complains("the hub does not take this agent's certificate any more").await;
    keeper.complains("run `yardctl cluster join blue`").await;
    place.write("token", OTHER_TOKEN);
    keeper.shows(|identity| identity.certificate.serial != second.certificate.serial).await;
    keeper.stop().await;
}

#[tokio::test]
async fn an_agent_of_a_hub_that_lost_its_authority_enrols_again_before_its_certificate_ends() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    place.write("account", ACCOUNT);
    let now = Timestamp::now();
    let identity = Authority::new().identity("blue", now - 1.minute(), now + 1.hour());
    let store = place.folder();
    let (_, version) = store.load("blue").await.expect("a folder");
    let old = Kept { identity: Some(identity.clone()), ..Kept::default() };
    store.store(&old, &version).await.expect("it is kept");
    let keeper = place.keeper(&hub, store);
    keeper.shows(|shown| *shown == identity).await;
    let mut link: Link = Link::new(keeper.dialer.clone());
    let dialled = async {
        // The refusal may come while the connection is made, or when the stream is opened.
        loop {
            link.dial();
            while !matches!(link.next().await, LinkEvent::Closed { .. }) {}
            if !matches!(&*keeper.credentials.presented.borrow(), Presented::With(shown) if **shown == identity) {
                return;
            }
        }
    };
    timeout(DEADLINE, dialled).await.expect("another certificate");
    assert_eq!(hub.with(|state| state.enrolled.len()), 1);
    keeper.stop().await;
}

#[tokio::test]
async fn a_hub_that_speaks_nothing_newer_than_tls_1_2_is_not_spoken_to() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let authority = Authority::new();
    let (chain, key) = authority.server();
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let refusal = async |version: &'static rustls::SupportedProtocolVersion, protocol: &[u8]| {
        let config = rustls::ServerConfig::builder_with_protocol_versions(&[version]).with_no_client_auth();
        let mut config = config.with_single_cert(chain.clone(), key.clone_key()).expect("a server");
        config.alpn_protocols = vec![protocol.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            // How it ends is for the agent to say.
            let _ = acceptor.accept(stream).await;
        });
        let credentials = Credentials::fixed(authority.pem.as_bytes(), Presented::Nobody);
        let target = Target { url: format!("https://localhost:{port}"), tls: Some(credentials) };
        let refused = Dialer::new(&target).expect("a target").connect().await.expect_err("a refusal");
        server.await.expect("the server ends");
        refused
    };
    let old = refusal(&rustls::version::TLS12, b"h2").await;
    assert!(old.contains("ProtocolVersion"), "{old}");
    let other = refusal(&rustls::version::TLS13, b"http/1.1").await;
    assert!(other.contains("NoApplicationProtocol"), "{other}");
}

#[tokio::test]
async fn files_that_somebody_else_renews_are_followed_and_broken_ones_are_not() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    let write = |identity: &Identity| {
        place.write("tls.crt", &identity.certificate.chain);
        place.write("tls.key", identity.key.reveal());
    };
    // So short that its stream has to come anew within this test.
    let first = hub.identity(SignedDuration::from_secs(8));
    write(&first);
    let (certificate, key) = (place.path("tls.crt"), place.path("tls.key"));
    let keeper = Keeper::start(&hub, &place.path("ca.pem"), |_| Origin::Files { certificate, key });
    keeper.shows(|identity| identity.certificate.serial == first.certificate.serial).await;
    let mut link: Link = Link::new(keeper.dialer.clone());
    let _outbox = opened(&mut link).await;

    place.write("tls.crt", "half of a");
    keeper.complains("--tls-cert").await;
    keeper.shows(|identity| identity.certificate.serial == first.certificate.serial).await;
    let second = hub.identity(SignedDuration::from_hours(1));
    write(&second);
    keeper.shows(|identity| identity.certificate.serial == second.certificate.serial).await;
    assert!(keeper.complaints.lines().is_empty(), "{:?}", keeper.complaints.lines());
    assert!(matches!(event(&mut link).await, LinkEvent::Renewed));

    place.write("ca.pem", "no authority");
    keeper.complains("holds no certificate in PEM").await;
    let other = Authority::new();
    place.write("ca.pem", &other.pem);
    let mut authorities = keeper.credentials.authorities.clone();
    let swapped = authorities.wait_for(|held| held[..] == *other.pem.as_bytes());
    timeout(DEADLINE, swapped).await.expect("the file is read again").expect("the keeper runs");
    let refused = keeper.dialer.connect().await.expect_err("the hub's certificate comes from elsewhere");
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    keeper.stop().await;
}

#[tokio::test]
async fn a_stream_that_another_agent_has_is_left_alone_for_a_while_and_makes_this_one_unready() {
    let hub = Hub::start().await;
    let identity = hub.identity(SignedDuration::from_hours(1));
    let authorities = hub.with(|state| state.authority.pem.clone());
    let credentials = Credentials::fixed(authorities.as_bytes(), Presented::With(identity.into()));
    let url = format!("https://localhost:{}", hub.address.port());
    let (complaints, metrics) = (Complaints::default(), Metrics::new());
    let dialer = Dialer::new(&Target { url, tls: Some(credentials) }).expect("a target");
    let mut link: Link = Link::new(dialer.reporting(complaints.clone(), metrics.clone()));
    let words = "another agent of cluster blue is connected";
    hub.with(|state| state.refuses = Some(Status::failed_precondition(words)));
    let _outbox = opened(&mut link).await;
    let LinkEvent::Closed { reason, refused: true } = event(&mut link).await else { panic!("it is not refused") };
    assert!(reason.contains(words), "{reason}");
    assert!(complaints.is_blocking() && complaints.lines()[0].contains(words), "{:?}", complaints.lines());
    let counted = "switchyard_agent_another_agent_total{stream=\"endpoints\"} 1";
    assert!(metrics.encode().contains(counted), "{}", metrics.encode());
    for _ in 0..5 {
        link.dial();
        let LinkEvent::Closed { reason: again, refused: true } = event(&mut link).await else {
            panic!("it is dialled")
        };
        assert_eq!(again, reason, "the same words, so that they are logged once");
    }
    assert_eq!(hub.with(|state| state.streams.len()), 1, "the hub is not asked again");
}

/// A Secret behind an API server that knows nothing else.
#[derive(Clone)]
struct FakeSecret(Arc<Mutex<(u64, Value)>>);

impl FakeSecret {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((1, json!({})))))
    }

    fn store(&self) -> Store {
        let secret = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let secret = secret.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                assert_eq!(parts.uri.path(), "/api/v1/namespaces/sys/secrets/identity");
                let (code, answer) = secret.answer(&parts.method, &bytes);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(
                    http::Response::builder().status(code).body(body).expect("a response"),
                )
            }
        });
        let secrets = Secrets::new(Client::new(service, "default"), "--identity-secret");
        Store::Secret(secrets, ObjectName { namespace: "sys".to_owned(), name: "identity".to_owned() })
    }

    fn answer(&self, method: &http::Method, body: &[u8]) -> (u16, Value) {
        let mut held = self.0.lock().expect("no panic");
        if method == http::Method::PUT {
            let put: Value = serde_json::from_slice(body).expect("JSON");
            if put["metadata"]["resourceVersion"] != json!(held.0.to_string()) {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
                    "reason": "Conflict", "message": "the object has been modified", "metadata": {}});
                return (409, status);
            }
            *held = (held.0 + 1, put["data"].clone());
        }
        let object = json!({"kind": "Secret", "apiVersion": "v1", "data": held.1,
            "metadata": {"name": "identity", "namespace": "sys", "resourceVersion": held.0.to_string()}});
        (200, object)
    }
}

#[tokio::test]
async fn replicas_that_share_a_secret_share_one_identity() {
    let hub = Hub::start().await;
    let place = Place::new(&hub);
    let secret = FakeSecret::new();
    let keepers: Vec<Keeper> = (0..3).map(|_| place.keeper(&hub, secret.store())).collect();
    place.write("token", TOKEN);
    for keeper in &keepers {
        keeper.shows(|_| true).await;
    }
    let keys: std::collections::BTreeSet<String> =
        hub.with(|state| state.enrolled.iter().map(|(_, key)| key.clone()).collect());
    assert_eq!(keys.len(), 1, "one token, one key");
    let data = secret.0.lock().expect("no panic").1.clone();
    assert!(data["tls.key"].is_string() && data["tls.crt"].is_string(), "it is kept");
    for keeper in keepers {
        keeper.stop().await;
    }
}
