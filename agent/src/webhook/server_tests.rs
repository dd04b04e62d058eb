//! The webhook over real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    certificate::{Data, bundle, certified, renewed},
    server::{Answering, Served, serve},
};
use crate::{args::gates::ObjectName, gates::inject::fixtures::injecting, metrics::Metrics};

const DEADLINE: Duration = Duration::from_secs(20);

struct Webhook {
    address: SocketAddr,
    data: Data,
    served: Arc<Served>,
    metrics: Metrics,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Webhook {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let service = ObjectName { namespace: "sys".to_owned(), name: "hook".to_owned() };
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let data = renewed(&Data::new(), &service, today).expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (served, stop, metrics) = (Arc::new(Served::default()), CancellationToken::new(), Metrics::new());
        let injection = watch::channel(Arc::new(injecting("shop", "checkout", &[("app", "web")]))).1;
        let answering = Answering::new(injection, metrics.clone());
        let task = tokio::spawn(serve(listener, Arc::clone(&served), answering, stop.clone()));
        Self { address, data, served, metrics, stop, task }
    }

    fn certified(self) -> Self {
        self.served.set(certified(&self.data).expect("a certificate"));
        self
    }

    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("hook.sys.svc").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&bundle(&self.data)) {
            roots.add(authority.expect("PEM")).expect("an authority");
        }
        roots
    }

    fn trusting(&self) -> ClientConfig {
        ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth()
    }

    /// The status and the body of the answer.
    async fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect(self.trusting()).await.expect("a handshake");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: hook\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("a request");
        // A server that has refused the body may close before it is written.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer");
        let text = String::from_utf8(answer).expect("text");
        assert!(read.is_ok() || !text.is_empty(), "{read:?}");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("it ends").expect("without a panic");
    }
}

#[tokio::test]
async fn a_review_is_answered_over_a_connection_that_the_bundle_vouches_for() {
    let webhook = Webhook::start().await.certified();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop",
        "object": {"metadata": {"labels": {"app": "web"}}, "spec": {}}}});
    let (status, body) = webhook.post("/mutate-pods", review.to_string().as_bytes()).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(true)));
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    assert_eq!(webhook.post("/elsewhere", b"{}").await.0, 404);
    assert!(webhook.metrics.encode().contains("webhook_reviews_total{outcome=\"injected\"} 1"));
    webhook.end().await;
}

#[tokio::test]
async fn a_review_of_more_than_three_mebibytes_is_refused() {
    let webhook = Webhook::start().await.certified();
    assert_eq!(webhook.post("/mutate-pods", &vec![b' '; 3 * 1024 * 1024 + 1]).await.0, 413);
    webhook.end().await;
}

#[tokio::test]
async fn older_tls_is_refused_and_so_is_everything_before_there_is_a_certificate() {
    let webhook = Webhook::start().await;
    webhook.connect(webhook.trusting()).await.expect_err("there is no certificate");
    let webhook = webhook.certified();
    webhook.connect(webhook.trusting()).await.expect("a handshake");
    let old = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(webhook.roots())
        .with_no_client_auth();
    webhook.connect(old).await.expect_err("TLS 1.2");
    webhook.end().await;
}

#[tokio::test]
async fn it_ends_while_a_client_says_nothing() {
    let webhook = Webhook::start().await.certified();
    let silent = webhook.connect(webhook.trusting()).await.expect("a handshake");
    let mute = TcpStream::connect(webhook.address).await.expect("a connection");
    webhook.end().await;
    drop((silent, mute));
}
