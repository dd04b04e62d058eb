//! A real Prometheus as a process: the program that `scripts/prometheus.sh` finds or fetches. It scrapes what a test names, every
//! second. And a page of metrics that a test writes, for it to scrape.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use http::{Method, Response};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::Rng;
use serde_json::Value;
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{
    client::Client,
    process::{Process, tail},
    undertaker,
    wait::{self, PATIENCE},
};

/// The program that `scripts/prometheus.sh` prints.
const PROGRAM: &str = "SWITCHYARD_PROMETHEUS";
/// Below what Linux hands out by itself (32768 to 60999).
const PORTS: std::ops::RangeInclusive<u16> = 10_240..=32_000;
/// Somebody else may take a port between the look and the start.
const ATTEMPTS: u32 = 20;
/// It serves below this path, as many do behind a proxy.
const PREFIX: &str = "/prom";

/// What is scraped.
#[derive(Clone, Debug)]
pub struct Target {
    /// The label `job`.
    pub job: &'static str,
    /// Such as `127.0.0.1:9090`.
    pub address: String,
    /// Such as `/metrics`.
    pub path: String,
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    log: PathBuf,
    process: Process,
}

/// The program.
///
/// # Errors
/// Says how to come by it when it is not there.
pub fn program() -> anyhow::Result<PathBuf> {
    let remedy = "run the tests with `make test`, or export SWITCHYARD_PROMETHEUS=$(scripts/prometheus.sh) before";
    let program = std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set: {remedy}"))?;
    let program = PathBuf::from(program);
    anyhow::ensure!(program.is_file(), "{PROGRAM}: {} does not exist: {remedy}", program.display());
    Ok(program)
}

fn configuration(targets: &[Target]) -> String {
    let mut text = String::from("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n");
    for Target { job, address, path } in targets {
        // Writing into a String does not fail.
        let _ =
            writeln!(text, "- job_name: {job}\n  metrics_path: {path}\n  static_configs: [{{targets: ['{address}']}}]");
    }
    text
}

fn free_port() -> anyhow::Result<u16> {
    let mut random = rand::rng();
    let mut tries = (0..1_000).map(|_| random.random_range(PORTS));
    let free = tries.find(|port| StdListener::bind(("127.0.0.1", *port)).is_ok());
    free.context("no free port was found below the ephemeral ones")
}

impl Prometheus {
    /// Starts one that scrapes these, and waits until it answers. It ends with this value.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start(targets: &[Target]) -> anyhow::Result<Self> {
        Self::start_with(targets, &[]).await
    }

    /// As [`Prometheus::start`], with more flags.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start_with(targets: &[Target], flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("sy-prometheus").tempdir()?.keep();
        undertaker::remove(&folder);
        std::fs::write(folder.join("prometheus.yml"), configuration(targets))?;
        for attempt in 1.. {
            match Self::launch(&folder, free_port()?, flags).await {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {}
                other => return other,
            }
        }
        unreachable!("the loop has no end of its own")
    }

    async fn launch(folder: &Path, port: u16, flags: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program()?);
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg(format!("--web.route-prefix={PREFIX}"));
        command.arg("--log.level=warn").args(flags);
        let mut process = Process::start("prometheus", folder, &mut command)?;
        let (log, url) = (process.log().to_owned(), format!("http://127.0.0.1:{port}{PREFIX}"));
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        wait::until_within("Prometheus to be ready", PATIENCE, async || {
            if let Err(error) = process.ensure_running() {
                return Ok(Err(error));
            }
            let answer = client.send(Method::GET, &format!("{PREFIX}/-/ready"), Vec::new()).await;
            let (status, _) = answer.map_err(|error| format!("{error:#}"))?;
            wait::check(status.is_success(), || status.to_string()).map(Ok)
        })
        .await??;
        Ok(Self { url, log, process })
    }

    /// Where it is, path included: what `--prometheus NAME=URL` takes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.log, 40)
    }

    /// Ends it and waits for that.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// The result of an instant query, as the server gives it; asked by hand, without any code of the hub.
    ///
    /// # Errors
    /// When it does not answer, or refuses the query.
    pub async fn query(&self, query: &str) -> anyhow::Result<Value> {
        let base = self.url.trim_end_matches(PREFIX);
        let encoded: String = query.bytes().fold(String::new(), |mut text, byte| {
            // Writing into a String does not fail.
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let path = format!("{PREFIX}/api/v1/query?query={encoded}");
        let (status, body) = Client::new(base).send(Method::GET, &path, Vec::new()).await?;
        anyhow::ensure!(status.is_success(), "{query}: {status} {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body)?;
        Ok(answer["data"]["result"].clone())
    }

    /// Waits until a query has a result, such as after the first scrapes.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn has(&self, query: &str) {
        wait::until(&format!("Prometheus to have {query}"), async || {
            let result = self.query(query).await.map_err(|error| format!("{error:#}"))?;
            wait::check(result.as_array().is_some_and(|found| !found.is_empty()), || {
                format!("{result}; log: {}", self.log())
            })
        })
        .await;
    }
}

/// A page of metrics, served for Prometheus until it is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    lines: Arc<Mutex<BTreeMap<String, String>>>,
    task: AbortHandle,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Page {
    /// An empty one.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn serve() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, lines) = (listener.local_addr()?, Arc::<Mutex<BTreeMap<String, String>>>::default());
        let shown = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shown = Arc::clone(&shown);
                let service = service_fn(move |_| {
                    let lines = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    let text: String = lines.iter().map(|(series, value)| format!("{series} {value}\n")).collect();
                    let kind = "text/plain; version=0.0.4";
                    let response = Response::builder().header("content-type", kind).body(Full::new(Bytes::from(text)));
                    std::future::ready(response)
                });
                // A connection that breaks is Prometheus' own business. None is kept, so that all ends with the page.
                let connection =
                    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, lines, task: task.abort_handle() })
    }

    /// Sets the value of a series, such as `errors{cluster="green"}`.
    pub fn set(&self, series: &str, value: impl ToString) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(series.to_owned(), value.to_string());
    }

    /// Takes a series away.
    pub fn remove(&self, series: &str) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(series);
    }

    /// For [`Prometheus::start`].
    pub fn target(&self) -> Target {
        Target { job: "page", address: self.address.to_string(), path: "/metrics".to_owned() }
    }
}
