//! A small HTTP client, and raw bytes for what no client sends.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::grpc_support::PATIENCE;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and the code of gRPC.
    pub fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["code"].as_str().unwrap_or("no code").to_owned())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A stream of lines under way.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line as it is; none at the end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("a line in time")?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next line that is not empty, as JSON; none at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if !line.trim().is_empty() {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }
}

/// One request on a connection of its own, as `GET /path` with more headers.
pub async fn send(at: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (head, body) = open(at, line, headers, body).await.into_parts();
    let bytes = timeout(PATIENCE, body.collect()).await.expect("an answer in time").unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// Opens a stream of lines.
pub async fn lines(at: SocketAddr, path: &str) -> (StatusCode, HeaderMap, Lines) {
    let (head, body) = open(at, &format!("GET {path}"), &[], "").await.into_parts();
    (head.status, head.headers, Lines { body, rest: Vec::new() })
}

async fn open(at: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> hyper::Response<Incoming> {
    let (method, path) = line.split_once(' ').expect("METHOD /path");
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "hub");
    if matches!(method, "POST" | "PUT") && headers.iter().all(|(name, _)| *name != "content-type") {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").unwrap()
}

pub async fn get(at: SocketAddr, path: &str) -> Answer {
    send(at, &format!("GET {path}"), &[], "").await
}

pub async fn post(at: SocketAddr, path: &str, body: &Value) -> Answer {
    send(at, &format!("POST {path}"), &[], &body.to_string()).await
}

/// Sends these bytes and reads until the other side closes.
pub async fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the end of the connection in time");
    // A reset after the answer is as good an end as any.
    let _read_or_reset = read;
    String::from_utf8_lossy(&answer).into_owned()
}
