//! What somebody sends to the gateway who wants two readers to read two things, over raw sockets. Behind it stands a service that notes
//! what reaches it: of all this nothing may.

mod gateway_support;
mod grpc_support;
mod store_support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Request, response::IntoResponse};
use gateway_support::{raw, send};
use http::HeaderMap;
use switchyard_hub::{
    door::{Guard, PeerInfo},
    gateway::{self, GatewayParts, Limits},
    metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Path, headers and peer of a call.
type Seen = (String, HeaderMap, Option<PeerInfo>);

struct Gateway {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

async fn gateway() -> Gateway {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let note = move |request: Request| {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        notes.lock().unwrap().push((request.uri().path().to_owned(), request.headers().clone(), peer));
        async { tonic::Status::permission_denied("noted").into_http::<axum::body::Body>().into_response() }
    };
    let routes = Router::new().fallback(note).into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let parts = GatewayParts { routes, metrics: Metrics::new(), limits: Limits::default() };
    let end = shutdown.clone();
    let served = tokio::spawn(async move { gateway::serve(listener, Guard::default(), parts, end).await.unwrap() });
    Gateway { address, seen, shutdown, served }
}

impl Gateway {
    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Sends this; a refusal with this status has to come, and nothing may reach a service.
    async fn refuses(&self, status: u16, bytes: &[u8]) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        let answer = raw(self.address, bytes).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer to one connection: {shown:?}: {answer}");
        for header in ["x-content-type-options: nosniff", "cache-control: no-store", "x-frame-options: DENY"] {
            assert!(answer.contains(header), "{shown:?}: {header} is missing: {answer}");
        }
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert_eq!(body["code"], "INVALID_ARGUMENT", "{answer}");
        assert_eq!(self.calls(), 0, "{shown:?}");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(grpc_support::PATIENCE, self.served).await.expect("the gateway to stop in time").unwrap();
    }
}

const HEAD: &str = "POST /v1/shifts/x:abort HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n";
/// What would come out were the first request taken for shorter than it is.
const SECOND: &str = "POST /v1/shifts/y:abort HTTP/1.1\r\nHost: hub\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn bodies_with_two_lengths_or_none_are_refused() {
    let gateway = gateway().await;
    let cases = [
        (411, "Content-Length: 4\r\nTransfer-Encoding: chunked"),
        (411, "Transfer-Encoding: chunked\r\nContent-Length: 4"),
        (411, "Transfer-Encoding: chunked"),
        (411, "Transfer-Encoding: chunked, identity"),
        (411, "Transfer-Encoding: identity"),
        (411, "Transfer-Encoding:\tchunked"),
        (411, "transfer-encoding: xchunked"),
        (411, "Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        (400, "Transfer-Encoding : chunked"),
        (400, " Transfer-Encoding: chunked"),
        (400, "X: y\r\n Transfer-Encoding: chunked"),
        (400, "X: y\nTransfer-Encoding: chunked"),
        (400, "X: y\rTransfer-Encoding: chunked"),
        (400, "Transfer-Encoding\0: chunked"),
        (400, "Content-Length: 2\r\nContent-Length: 2"),
        (400, "Content-Length: 2\r\nContent-Length: 90"),
        (400, "Content-Length: 2, 2"),
        (400, "Content-Length: +2"),
        (400, "Content-Length: 0x2"),
        (400, "Content-Length: -1"),
        (400, "Content-Length: 2 2"),
        (400, "Content-Length: \u{0662}"),
        (400, "Content-Length: 18446744073709551618"),
        (400, "Content-Length:"),
        (400, "Content-Length : 2"),
    ];
    for (status, headers) in cases {
        gateway.refuses(status, format!("{HEAD}{headers}\r\n\r\n0\r\n\r\n{SECOND}").as_bytes()).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn heads_that_are_none_are_refused() {
    let gateway = gateway().await;
    let long = "x".repeat(33_000);
    let cases: Vec<(u16, String)> = vec![
        (400, "GET http://hub/v1/policies HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET //hub/v1/policies HTTP/1.1\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/1.1\nHost: hub\n\n".to_owned()),
        (400, "GET /v1/policies\u{0} HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/2.0\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET  /v1/policies HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET /v1/poli cies HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "CONNECT hub:443 HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "OPTIONS * HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (400, "\r\nGET /v1/policies HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/1.1\r\nHost: hub\r\nX: a\u{7f}\r\n\r\n".to_owned()),
        (400, "GET /v1/policies HTTP/1.1\r\nHost: hub\r\n: x\r\n\r\n".to_owned()),
        (400, "REFUSED / HTTP/1.1\r\nHost: hub\r\n\r\nGET / HTTP/1.1\nx".to_owned()),
        (431, format!("GET /{long} HTTP/1.1\r\nHost: hub\r\n\r\n")),
        (431, format!("GET /v1/policies HTTP/1.1\r\nHost: hub\r\nX: {long}\r\n\r\n")),
        (431, format!("GET /v1/policies HTTP/1.1\r\nHost: hub\r\n{}\r\n", "x: y\r\n".repeat(70))),
    ];
    for (status, text) in cases {
        gateway.refuses(status, text.as_bytes()).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_request_behind_a_good_one_on_its_connection_is_refused_and_ends_it() {
    let gateway = gateway().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let good = "GET /v1/shifts/x HTTP/1.1\r\nHost: hub\r\n\r\n";
    stream.write_all(good.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut part = [0; 4096];
    while !answer.contains("\"noted\"") {
        let length = timeout(grpc_support::PATIENCE, stream.read(&mut part)).await.unwrap().unwrap();
        assert!(length > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    stream.write_all(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SECOND}").as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let _end_or_reset = timeout(grpc_support::PATIENCE, stream.read_to_end(&mut rest)).await.expect("the end");
    assert!(String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 411"));
    assert_eq!(gateway.calls(), 1, "the good one alone");
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says_and_what_follows_is_the_next_request() {
    let gateway = gateway().await;
    // A body that looks like a request is a body.
    let body = format!("{{}}{}", " ".repeat(SECOND.len()));
    let first = format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
    let last = "GET /v1/shifts/z HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n";
    let answer = raw(gateway.address, format!("{first}{last}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 2, "{answer}");
    let within = format!("{HEAD}Connection: close\r\nContent-Length: {}\r\n\r\n{SECOND}", SECOND.len());
    let answer = raw(gateway.address, within.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.matches("HTTP/1.1").count() == 1, "no JSON: {answer}");
    let seen: Vec<String> = gateway.seen.lock().unwrap().iter().map(|(path, _, _)| path.clone()).collect();
    // The first has no request id, which the service judges: both reach it.
    assert_eq!(seen, ["/switchyard.api.v1.ShiftService/AbortShift", "/switchyard.api.v1.ShiftService/GetShift"]);
    gateway.stop().await;
}

#[tokio::test]
async fn tricks_with_paths_reach_no_service_or_are_names_that_are_none() {
    let gateway = gateway().await;
    let dots = [
        "/v1/policies/../shifts/x",
        "/v1/./shifts/x",
        "/v1/%2e%2e/v1/shifts/x",
        "/v1/shifts/..",
        "/v1/shifts/%2e%2e",
        "/v1/shifts/x/../../policies",
        "/v1//shifts/x",
        "/v1/shifts//x",
        "/v1/shifts/x/",
        "/v1\\shifts\\x",
        "/v1/shifts/x;a=b/y",
        "/switchyard.api.v1.ShiftService/GetShift",
        "/%76%31/shifts/x",
        "/V1/shifts/x",
        "/v1/shifts/%zz",
        "/v1/shifts/%ff",
        "/v1/shifts/%c0%ae",
    ];
    for path in dots {
        let answer = send(gateway.address, &format!("GET {path}"), &[], "").await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{path}: {answer:?}");
        assert_eq!(gateway.calls(), 0, "{path}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn of_the_headers_the_token_alone_reaches_a_service() {
    let gateway = gateway().await;
    let headers = [
        ("authorization", "Bearer secret"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-user", "admin"),
        ("forwarded", "for=10.0.0.1"),
        ("grpc-timeout", "1n"),
        ("grpc-encoding", "gzip"),
        ("grpc-status", "0"),
        ("cookie", "a=b"),
        ("switchyard-identity", "admin"),
    ];
    let answer = send(gateway.address, "GET /v1/shifts/x", &headers, "").await;
    assert_eq!(answer.refusal(), (403, "PERMISSION_DENIED".to_owned()));
    let (_, seen, peer) = gateway.seen.lock().unwrap().remove(0);
    assert_eq!(seen["authorization"], "Bearer secret");
    let ours = ["authorization", "content-type", "te", "user-agent", "grpc-accept-encoding"];
    let others: Vec<_> = seen.keys().filter(|name| !ours.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{others:?}");
    let peer = peer.expect("who calls");
    assert_eq!((peer.address.ip().to_string().as_str(), peer.encrypted), ("127.0.0.1", false));

    send(gateway.address, "GET /v1/shifts/x", &[], "").await;
    let (_, seen, _) = gateway.seen.lock().unwrap().remove(0);
    assert!(!seen.contains_key("authorization"));
    for bad in
        [&[("authorization", "Bearer a"), ("authorization", "Bearer a")][..], &[("authorization", "Bearer \u{e4}")]]
    {
        let answer = send(gateway.address, "GET /v1/shifts/x", bad, "").await;
        assert_eq!(answer.refusal(), (400, "INVALID_ARGUMENT".to_owned()), "{answer:?}");
        assert!(!answer.text.contains("Bearer a\""), "the secret is not repeated: {answer:?}");
    }
    assert_eq!(gateway.calls(), 0);
    gateway.stop().await;
}
