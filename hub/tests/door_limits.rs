//! What nobody can take too much of: connections, handshakes, streams, headers, silence. The protocol is spoken by hand where no client
//! would do it like this.

mod door_support;

use std::time::Duration;

use axum::{Router, extract::Request, response::IntoResponse, routing::any};
use door_support::{Authority, Call, Files, PATIENCE, client, door, eventually, plain, plain_door, who};
use http_body_util::BodyExt;
use switchyard_hub::door::{Bounds, Guard, Rooms, http1, metrics::Port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::service::Routes;

/// True when the other side has closed; what it said before is passed over.
async fn closed(stream: &mut TcpStream) -> bool {
    let mut said = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut said)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn ten_thousand_connections_from_one_address_take_no_more_than_its_room() {
    let door = plain_door(who(), |guard| guard.rooms = Rooms::new(100, 20)).await;
    let mut kept = Vec::new();
    let mut turned_away = 0;
    for n in 0..10_000 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        if n < 20 {
            kept.push(stream);
            eventually("the connection to be taken", async || {
                (door.guard.rooms.connections() == kept.len()).then_some(())
            })
            .await;
        } else {
            // Closed at once, so nothing is kept of it here or there.
            assert!(closed(&mut stream).await);
            turned_away += 1;
        }
    }
    assert_eq!((door.guard.rooms.connections(), turned_away), (20, 9980));
    assert_eq!(door.refused("source"), 9980);
    kept.truncate(19);
    eventually("the place of one that left to be free", async || (door.guard.rooms.connections() == 19).then_some(()))
        .await;
    assert!(plain(door.address).await.get("/who").await.is_ok());
    door.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_in_time() {
    let ours = Authority::new("ours");
    let short =
        |guard: &mut Guard| guard.bounds = Bounds { handshake: Duration::from_millis(200), ..Bounds::default() };
    let door = door(Files::new(&ours.server(), None).tls(), vec![], short).await;
    let mut silent = TcpStream::connect(door.address).await.unwrap();
    let mut half = TcpStream::connect(door.address).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    assert!(closed(&mut silent).await && closed(&mut half).await);
    assert_eq!(door.refused("slow"), 2);
    door.stop().await;
}

#[tokio::test]
async fn connections_without_streams_are_closed_and_those_with_streams_are_not() {
    let short = Duration::from_millis(200);
    let bounds = Bounds { first_stream: short, idle: short, ..Bounds::default() };
    let door = plain_door(who(), |guard| guard.bounds = bounds).await;
    let mut silent = TcpStream::connect(door.address).await.unwrap();
    let mut polite = TcpStream::connect(door.address).await.unwrap();
    polite.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut live = plain(door.address).await;
    let mut lines = live.open("/stream").await.unwrap().into_body();
    assert!(closed(&mut silent).await, "not even a preface");
    assert!(closed(&mut polite).await, "a preface, and no stream");
    let idle = Port { port: "grpc" };
    assert_eq!(door.guard.metrics.idle.get_or_create(&idle).get(), 2);
    // Many times as long as an idle connection may be.
    for _ in 0..100 {
        lines.frame().await.expect("the stream goes on").unwrap();
    }
    assert!(live.get("/who").await.is_ok());
    drop(lines);
    // Asking would keep it.
    eventually("the connection to be closed after its last stream", async || {
        (door.guard.rooms.connections() == 0).then_some(())
    })
    .await;
    assert!(live.get("/who").await.is_err());
    door.stop().await;
}

#[tokio::test]
async fn streams_of_one_address_are_bounded_over_all_its_connections() {
    let door = plain_door(who(), |guard| guard.rooms = Rooms::new(100, 3)).await;
    let mut connections: Vec<Call> = Vec::new();
    for _ in 0..3 {
        connections.push(plain(door.address).await);
    }
    let mut streams = Vec::new();
    for n in 0..12 {
        streams.push(connections[n % 3].open("/stream").await.unwrap());
    }
    let refused = connections[0].open("/stream").await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    let told = refused.headers()["grpc-message"].to_str().unwrap();
    assert!(told.contains("--connections-per-address"), "{told}");
    assert_eq!(door.refused("streams"), 1);
    streams.pop();
    eventually("the place of a stream that ended", async || {
        let answer = connections[1].open("/who").await.ok()?;
        answer.headers().get("grpc-status").is_none().then_some(())
    })
    .await;
    door.stop().await;
}

#[tokio::test]
async fn a_call_that_says_nothing_is_ended() {
    let reads: Routes = Router::new()
        .fallback(any(async |request: Request| match request.into_body().collect().await {
            Ok(_) => "said".into_response(),
            Err(error) => format!("{error:?}").into_response(),
        }))
        .into();
    let bounds = Bounds { first_message: Duration::from_millis(100), ..Bounds::default() };
    let door = plain_door(reads, |guard| guard.bounds = bounds).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let open = frame(HEADERS, END_HEADERS, 1, &block("/a.B/C"));
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &open].concat()).await.unwrap();
    let mut said = Vec::new();
    let answered = async {
        let mut part = [0; 1024];
        while !String::from_utf8_lossy(&said).contains("said nothing within") {
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..length]);
        }
    };
    timeout(PATIENCE, answered).await.expect("the call to be ended");
    door.stop().await;
}

#[tokio::test]
async fn a_call_that_says_half_a_message_is_ended_as_one_that_says_nothing() {
    let reads: Routes = Router::new()
        .fallback(any(async |request: Request| match request.into_body().collect().await {
            Ok(_) => "said".into_response(),
            Err(error) => format!("{error:?}").into_response(),
        }))
        .into();
    let bounds = Bounds { first_message: Duration::from_millis(100), ..Bounds::default() };
    let door = plain_door(reads, |guard| guard.bounds = bounds).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let open = frame(HEADERS, END_HEADERS, 1, &block("/a.B/C"));
    let half = frame(DATA, 0, 1, &[0, 0, 0, 0, 2, b'a']);
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &open, &half].concat()).await.unwrap();
    let mut said = Vec::new();
    let answered = async {
        let mut part = [0; 1024];
        while !String::from_utf8_lossy(&said).contains("not all of its first message") {
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..length]);
        }
    };
    timeout(PATIENCE, answered).await.expect("the call to be ended");
    door.stop().await;
}

/// A connection from this address of the machine's own network.
async fn from(source: &str, to: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn silent_connections_make_room_for_a_probe_and_one_that_is_answered_does_not() {
    let rooms = Rooms::by_address(8, 2);
    let guard = Guard { rooms: rooms.clone(), silent_yield: true, ..Guard::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), tokio_util::sync::CancellationToken::new());
    let (begun, go_on) = (std::sync::Arc::new(tokio::sync::Notify::new()), tokio_util::sync::CancellationToken::new());
    let (asked, released) = (std::sync::Arc::clone(&begun), go_on.clone());
    let answer = move |_, request: http1::Asked| {
        let (asked, released) = (std::sync::Arc::clone(&asked), released.clone());
        async move {
            if request.is_ok_and(|request| request.uri().path() == "/slow") {
                asked.notify_one();
                released.cancelled().await;
            }
            "ok\n".into_response()
        }
    };
    let metrics = guard.metrics.clone();
    let serving = http1::serve(listener, guard, "http", PATIENCE, shutdown.clone(), answer);
    let served = tokio::spawn(serving);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n");
    let mut slow = from("127.0.0.2", address).await;
    slow.write_all(get("/slow").as_bytes()).await.unwrap();
    timeout(PATIENCE, begun.notified()).await.unwrap();
    let mut silent = Vec::new();
    for source in ["127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.4", "127.0.0.5", "127.0.0.5"] {
        silent.push(from(source, address).await);
    }
    eventually("all places to be taken", async || (rooms.connections() == 8).then_some(())).await;
    let evicted = || {
        let silent = switchyard_hub::door::metrics::Refused { port: "http", reason: "silent" };
        metrics.refused.get_or_create(&silent).get()
    };
    // First there is no place at all, then none of this address.
    for source in ["127.0.0.9", "127.0.0.4"] {
        let mut probe = from(source, address).await;
        probe.write_all(get("/healthz").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, probe.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(closed(&mut silent[0]).await, "the one that was silent the longest");
    assert!(closed(&mut silent[3]).await, "the one of that address that was silent the longest");
    assert_eq!(evicted(), 2);
    go_on.cancel();
    let mut answer = String::new();
    timeout(PATIENCE, slow.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    shutdown.cancel();
    timeout(PATIENCE, served).await.unwrap().unwrap();
}

#[test]
fn a_hub_without_room_for_connections_says_what_to_raise_and_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 600 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_switchyard-hub")]);
    command.args(["--dev", "--aws-account-id", "123456789012", "--aws-region", "eu-central-1"]);
    command.args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]).arg("--data-dir").arg(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("600 open files") && said.contains("ulimit -Hn"), "{said}");
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `POST https://hub<path>` in HPACK (RFC 7541): indexed where the static table has it, literals without indexing elsewhere.
fn block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87, 0x01, 3];
    block.extend(b"hub");
    block.extend([0x04, u8::try_from(path.len()).unwrap()]);
    block.extend(path.as_bytes());
    block
}

/// Writes until the other side has had enough, or everything is written; true when the connection was ended.
async fn ended_by(address: std::net::SocketAddr, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut said = [0; 4096];
        while let Ok(1..) = read.read(&mut said).await {}
    });
    let writing = async {
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        for frame in frames {
            write.write_all(&frame).await?;
        }
        write.flush().await
    };
    let _broken_or_done = timeout(PATIENCE, writing).await.expect("the flood to be read or refused");
    timeout(PATIENCE, reading).await.is_ok()
}

#[tokio::test]
async fn floods_of_the_protocol_end_their_own_connection_and_nobody_elses() {
    let door = plain_door(who(), |_| {}).await;
    let mut other = plain(door.address).await;
    let mut lines = other.open("/stream").await.unwrap().into_body();
    let resets = (0..20_000).map(|n| {
        let (stream, cancel) = (2 * n + 1, 8u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &block("/who")), frame(RST_STREAM, 0, stream, &cancel)].concat()
    });
    assert!(ended_by(door.address, resets).await, "rapid resets");
    let literal = |name: &str| {
        let mut header = vec![0x00, u8::try_from(name.len()).unwrap()];
        header.extend(name.as_bytes());
        header.extend([0x01, b'x']);
        header
    };
    let part: Vec<u8> = (0..500).flat_map(|n| literal(&format!("x{n}"))).collect();
    let begun = frame(HEADERS, END_STREAM, 1, &block("/who"));
    let endless = std::iter::once(begun).chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, &part)));
    assert!(ended_by(door.address, endless).await, "endless continuations");
    let garbage = std::iter::once(frame(HEADERS, END_HEADERS, 1, &[0xff; 64]));
    assert!(ended_by(door.address, garbage).await, "a header block that is none");
    let wrong = std::iter::once(frame(PING, 0, 7, &[0; 8]));
    assert!(ended_by(door.address, wrong).await, "a ping on a stream");
    lines.frame().await.expect("others are served all the same").unwrap();
    assert!(other.get("/who").await.is_ok());
    door.stop().await;
}

#[tokio::test]
async fn headers_past_their_bound_are_refused_and_the_connection_goes_on() {
    let ours = Authority::new("ours");
    let door = door(Files::new(&ours.server(), None).tls(), vec![], |_| {}).await;
    let mut call = client(&ours, None).connect(door.address).await.unwrap();
    let long = format!("/who?{}", "x".repeat(60_000));
    match call.open(&long).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(call.get("/who").await.is_ok());
    door.stop().await;
}
