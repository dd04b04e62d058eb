//! A scripted ELBv2 for the adaptor's tests: it speaks the query protocol over plain HTTP on a loopback address, answers as the
//! test says, and keeps what it was asked.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use switchyard_core::budget::{Rate, Rates};
use switchyard_hub::{
    elb::{Elb, ElbConfig},
    metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const ACCOUNT: &str = "arn:aws:elasticloadbalancing:eu-west-1:123456789012";

/// One request: the form fields, without `Action` and `Version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub operation: String,
    pub params: BTreeMap<String, String>,
}

impl Asked {
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// `<OperationResponse><OperationResult>..`, status 200.
    Result(String),
    /// An error document of the query protocol.
    Error(u16, &'static str, &'static str),
    /// These bytes, then the connection is closed.
    Raw(String),
    /// The request was read, the connection is closed without an answer.
    Cut,
    /// No answer ever.
    Silence,
}

pub struct Fake {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, script) = (Arc::clone(&asked), Arc::new(script));
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                tokio::spawn(async move {
                    // A client that goes away in the middle is part of the tests.
                    let _ = converse(stream, &log, &*script).await;
                });
            }
        });
        Self { address, asked, server }
    }

    /// A server that answers every request alike.
    pub async fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The only request there was.
    pub fn only(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    pub async fn elb(&self) -> Elb {
        Elb::connect(config(self.address)).await.unwrap()
    }
}

/// A budget that is never in the way.
pub fn config(address: SocketAddr) -> ElbConfig {
    let open = Rate::new(1000.0, 10_000).unwrap();
    ElbConfig {
        region: "eu-west-1".to_owned(),
        endpoint_url: Some(format!("http://{address}")),
        call_timeout: DEADLINE,
        rates: Rates { describe: open, modify: open, register: open },
        metrics: Metrics::new(),
    }
}

async fn converse(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    script: &(dyn Fn(&Asked) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(body) = request(&mut stream, &mut buffer).await? {
        let asked = parse(&body);
        log.lock().unwrap().push(asked.clone());
        let operation = &asked.operation;
        let (status, xml) = match script(&asked) {
            Reply::Result(inner) => (
                200,
                format!(
                    "<{operation}Response xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\">\
                     <{operation}Result>{inner}</{operation}Result>\
                     <ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></{operation}Response>"
                ),
            ),
            Reply::Error(status, code, message) => (
                status,
                format!(
                    "<ErrorResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><Error>\
                     <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                     <RequestId>r-1</RequestId></ErrorResponse>"
                ),
            ),
            Reply::Raw(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                return stream.shutdown().await;
            }
            Reply::Cut => return Ok(()),
            Reply::Silence => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n", xml.len());
        stream.write_all(format!("{head}{xml}").as_bytes()).await?;
    }
    Ok(())
}

/// The body of the next request; none when the client has closed.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
                buffer.drain(..end + 4 + length);
                return Ok(Some(body));
            }
        }
        let mut some = [0; 8192];
        match stream.read(&mut some).await? {
            0 => return Ok(None),
            read => buffer.extend_from_slice(&some[..read]),
        }
    }
}

fn parse(body: &str) -> Asked {
    let mut params: BTreeMap<String, String> = body
        .split('&')
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect();
    assert_eq!(params.remove("Version").as_deref(), Some("2015-12-01"));
    let operation = params.remove("Action").expect("every request names its operation");
    Asked { operation, params }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = std::str::from_utf8(&tail[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &tail[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
