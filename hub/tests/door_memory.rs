//! What one client cannot make the hub keep: messages that never come whole, and answers that nobody reads. Over real TLS, with the hub's
//! own services behind the gate.

mod door_support;
mod grpc_support;
mod store_support;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse, routing::any};
use bytes::Bytes;
use door_support::{Authority, Call, Client, Files, PATIENCE, client, eventually, plain_door};
use futures::{StreamExt, stream};
use grpc_support::{Hub, Setup, hub_set_up};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use switchyard_hub::{
    access::AccessSettings,
    door::{AgentRoots, Bounds, Guard, Keep, Rooms, http1, http2, tls::Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

const ACCESS: &str = "
bindings:
  - {role: viewer, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: deploy}}]}
  - {role: admin, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: root}}]}
";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIST: &str = "/switchyard.api.v1.PolicyService/ListPolicies";

/// A hub whose services are behind the gate, and the gate behind TLS.
struct Place {
    hub: Hub,
    address: SocketAddr,
    server: Authority,
    callers: Authority,
    served: JoinHandle<()>,
    _files: (Files, tempfile::TempDir),
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.yaml");
    std::fs::write(&file, ACCESS).unwrap();
    let access = AccessSettings { access_file: Some(file), ..AccessSettings::default() };
    let hub = hub_set_up(&store_support::database_url().await, Setup { access, ..Setup::default() }).await;
    let (server, callers) = (Authority::new("server"), Authority::new("callers"));
    let files = Files::new(&server.server(), Some(&callers));
    let (_roots, receiver) = watch::channel(Arc::new(AgentRoots::default()));
    let guard = Guard { tls: Some(Tls::open(files.tls(), receiver).unwrap()), ..Guard::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(http2::serve(listener, guard, hub.routes.clone(), hub.shutdown.clone()));
    Place { hub, address, server, callers, served, _files: (files, folder) }
}

impl Place {
    fn caller(&self, name: &str) -> Client {
        client(&self.server, Some(&self.callers.leaf(name, |_| {})))
    }

    async fn stop(self) {
        self.hub.stop().await;
        timeout(PATIENCE, self.served).await.expect("the door did not close").unwrap();
    }
}

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// A connection that reads this much of an answer ahead.
async fn connect(client: &Client, address: SocketAddr, window: u32) -> SendRequest<Sent> {
    let stream = client.handshake(address).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) =
        builder.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn asked(path: &str, body: Sent) -> Request<Sent> {
    let request = Request::post(format!("https://127.0.0.1{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
}

/// An empty message.
fn whole() -> Sent {
    let message = stream::iter([Ok(Frame::data(Bytes::from_static(&[0; 5])))]);
    BodyExt::boxed_unsync(StreamBody::new(message))
}

/// Announces a message, sends all of it but one byte, and then nothing more. Counts what the hub took.
fn never_whole(announced: u32, taken: &Arc<AtomicUsize>) -> Sent {
    const PIECE: usize = 16 * 1024;
    static PART: [u8; PIECE] = [0; PIECE];
    let taken = Arc::clone(taken);
    let prefix = [&[0][..], &announced.to_be_bytes()].concat();
    let pieces = stream::unfold(announced as usize - 1, move |left| {
        let taken = Arc::clone(&taken);
        async move {
            let next = left.min(PIECE);
            taken.fetch_add(next, Ordering::SeqCst);
            (next > 0).then(|| (Bytes::from_static(&PART[..next]), left - next))
        }
    });
    let all = stream::iter([Bytes::from(prefix)]).chain(pieces).chain(stream::pending());
    BodyExt::boxed_unsync(StreamBody::new(all.map(|bytes| Ok(Frame::data(bytes)))))
}

/// The status of an answer, whether it stands in the headers or after them.
async fn status(answer: Response<Incoming>) -> Code {
    let (head, body) = answer.into_parts();
    let code = match head.headers.get("grpc-status") {
        Some(code) => code.clone(),
        None => body.collect().await.unwrap().trailers().unwrap()["grpc-status"].clone(),
    };
    Code::from_bytes(code.as_bytes())
}

async fn all_ended(sender: &SendRequest<Sent>, requests: Vec<Request<Sent>>) -> Vec<Code> {
    let answers = requests.into_iter().map(|request| {
        let mut sender = sender.clone();
        async move { status(sender.send_request(request).await.unwrap()).await }
    });
    timeout(PATIENCE, futures::future::join_all(answers)).await.expect("every call to be ended from the other side")
}

/// Kilobytes of memory of this process, which is hub and client.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn is_served(place: &Place, name: &str) {
    let mut other = connect(&place.caller(name), place.address, 65_535).await;
    let answer = timeout(PATIENCE, other.send_request(asked(LIST, whole()))).await.unwrap().unwrap();
    assert_eq!(status(answer).await, Code::Ok, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_come_whole_are_neither_kept_nor_waited_for() {
    let place = place().await;
    let nobody = client(&place.server, None);
    let taken = Arc::new(AtomicUsize::new(0));
    let sender = connect(&nobody, place.address, 65_535).await;
    let before = resident();
    // 256 times 4 MiB, as many streams as a connection may have; a question for health has some bytes.
    let large = (0..256).map(|_| asked(HEALTH, never_whole(4 * 1024 * 1024, &taken))).collect();
    let codes = all_ended(&sender, large).await;
    assert!(codes.contains(&Code::OutOfRange), "{codes:?}");
    assert!(codes.iter().all(|code| [Code::OutOfRange, Code::ResourceExhausted].contains(code)), "{codes:?}");
    // A gibibyte was on its way; what came before the no is what windows and sockets hold.
    assert!(taken.load(Ordering::SeqCst) < 128 * 1024 * 1024, "{taken:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} kB more");
    is_served(&place, "root").await;

    // As long as one may be, but for the last byte: of one caller so many are waited for, and for so long.
    let sender = connect(&place.caller("deploy"), place.address, 65_535).await;
    let small = (0..100).map(|_| asked(LIST, never_whole(2048, &taken))).collect();
    let begun = std::time::Instant::now();
    let (codes, ()) = tokio::join!(all_ended(&sender, small), is_served(&place, "root"));
    let count = |code| codes.iter().filter(|found| **found == code).count();
    assert_eq!((count(Code::DeadlineExceeded), count(Code::ResourceExhausted)), (64, 36), "{codes:?}");
    assert!(begun.elapsed() >= Duration::from_secs(10));
    is_served(&place, "deploy").await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_answers_nobody_reads_are_counted_until_somebody_does() {
    let place = place().await;
    // An answer has five bytes at the least, of which such a reader takes one.
    let mut sender = connect(&place.caller("deploy"), place.address, 1).await;
    let mut unread = Vec::new();
    for _ in 0..64 {
        let answer = timeout(PATIENCE, sender.send_request(asked(LIST, whole()))).await.unwrap().unwrap();
        assert!(answer.headers().get("grpc-status").is_none(), "{answer:?}");
        unread.push(answer.into_body());
    }
    let refused = sender.send_request(asked(LIST, whole())).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    let told = refused.headers()["grpc-message"].to_str().unwrap();
    assert!(told.contains("read%20them") || told.contains("read them"), "{told}");
    is_served(&place, "root").await;
    // Reading one gives its place back.
    unread.pop().unwrap().collect().await.unwrap();
    eventually("the place of an answer that was read", async || {
        let answer = sender.send_request(asked(LIST, whole())).await.unwrap();
        answer.headers().get("grpc-status").is_none().then_some(())
    })
    .await;
    place.stop().await;
}

/// Counts, and answers with a mebibyte that the layer above wants to know the end of.
fn large(kept: &Arc<()>) -> tonic::service::Routes {
    let kept = Arc::clone(kept);
    let answer = any(async move || {
        let mut answer = Body::from(vec![0; 1024 * 1024]).into_response();
        answer.extensions_mut().insert(Keep::new(Arc::clone(&kept)));
        answer
    });
    Router::new().route("/large", answer).into()
}

/// Over plain text, with a window of one byte.
async fn stingy(address: SocketAddr) -> SendRequest<Sent> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(1).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn an_answer_that_waits_for_its_reader_keeps_the_place_of_its_stream() {
    let kept = Arc::new(());
    let door = plain_door(large(&kept), |guard| guard.rooms = Rooms::new(10, 1)).await;
    let mut sender = stingy(door.address).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(sender.send_request(asked("/large", whole())).await.unwrap().into_body());
    }
    assert_eq!(Arc::strong_count(&kept), 2 + 4, "the service has long done its part");
    let refused = sender.send_request(asked("/large", whole())).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    drop((unread, refused, sender));
    eventually("everything to be given back with the connection", async || {
        (Arc::strong_count(&kept) == 2 && door.guard.rooms.connections() == 0).then_some(())
    })
    .await;
    door.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_nobody_takes_the_answers_ends() {
    let kept = Arc::new(());
    let bounds = Bounds { taken: Duration::from_millis(200), ..Bounds::default() };
    let door = plain_door(large(&kept), |guard| guard.bounds = bounds).await;
    let mut reads: Call = door_support::plain(door.address).await;
    let mut sender = stingy(door.address).await;
    let unread = sender.send_request(asked("/large", whole())).await.unwrap().into_body();
    eventually("the connection to be ended", async || (door.refused("unread") == 1).then_some(())).await;
    eventually("the answer to be forgotten", async || (Arc::strong_count(&kept) == 2).then_some(())).await;
    assert!(unread.collect().await.is_err());
    assert_eq!(reads.get("/large").await.unwrap().len(), 1024 * 1024, "whoever reads is served");
    door.stop().await;
}

#[tokio::test]
async fn an_answer_over_http1_that_nobody_reads_ends_its_connection_whether_it_is_counted_or_not() {
    let bounds = Bounds { taken: Duration::from_millis(200), ..Bounds::default() };
    let guard = Guard { bounds, ..Guard::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown, kept) = (listener.local_addr().unwrap(), CancellationToken::new(), Arc::new(()));
    let place = Arc::clone(&kept);
    let answer = move |_, asked: http1::Asked| {
        let counted = asked.is_ok_and(|request| request.uri().path() == "/counted");
        let mut answer = Response::new(Body::from(vec![0; 64 * 1024 * 1024]));
        if counted {
            answer.extensions_mut().insert(Keep::new(Arc::clone(&place)));
        }
        async move { answer }
    };
    let rooms = guard.rooms.clone();
    let serving = http1::serve(listener, guard, "gateway", PATIENCE, shutdown.clone(), answer);
    let served = tokio::spawn(serving);
    for path in ["/counted", "/not-counted"] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(format!("GET {path} HTTP/1.1\r\nhost: hub\r\n\r\n").as_bytes()).await.unwrap();
        // The first byte: the answer is on its way, and more than the sockets hold.
        assert_eq!(timeout(PATIENCE, silent.read(&mut [0])).await.unwrap().unwrap(), 1, "{path}");
        eventually("the connection to be ended", async || (rooms.connections() == 0).then_some(())).await;
        assert_eq!(Arc::strong_count(&kept), 2, "{path}");
    }
    shutdown.cancel();
    timeout(PATIENCE, served).await.unwrap().unwrap();
}
