//! The hub as a process.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use http::{Method, StatusCode};
use rand::Rng;

use crate::{
    client::Client,
    process::{Process, tail},
    programs,
    sandbox::Info,
    wait::{self, PATIENCE},
};

/// Below what Linux hands out by itself (32768 to 60999): no connection of somebody can sit on a port while its hub is down.
const PORTS: std::ops::RangeInclusive<u16> = 10_240..=32_000;
/// Several scenarios look for ports at a time.
const PORT_ATTEMPTS: u32 = 20;

/// Where the hub keeps what it must not forget.
#[derive(Clone, Debug)]
pub enum Database {
    /// A Postgres that is there.
    Url(String),
    /// One that the hub starts in this folder.
    Embedded(PathBuf),
}

/// The times of the hub, as its flags take them.
#[derive(Clone, Debug)]
pub struct Times {
    /// From read-back to converged.
    pub settle: &'static str,
    /// Between full readings of AWS.
    pub audit: &'static str,
    /// Between looks at target health.
    pub health: &'static str,
    /// Of the lease.
    pub lease: &'static str,
    /// Until a cluster without heartbeat is stale.
    pub stale: &'static str,
}

impl Default for Times {
    /// Short enough for a scenario, in the proportions of the real defaults.
    fn default() -> Self {
        Self { settle: "1", audit: "5s", health: "1s", lease: "3s", stale: "6s" }
    }
}

/// A hub, running or not.
#[derive(Debug)]
pub struct Hub {
    folder: PathBuf,
    arguments: Vec<String>,
    database: Database,
    environment: Vec<(String, String)>,
    ports: Ports,
    guarded: bool,
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    grpc: u16,
    http: u16,
    gateway: u16,
}

/// What a hub is started with beside what every scenario gives it.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Flags.
    pub arguments: Vec<String>,
    /// Environment variables, such as AWS credentials.
    pub environment: Vec<(String, String)>,
    /// As in production, without `--dev`: TLS, by the flags above, and a gateway.
    pub guarded: bool,
}

fn free_port() -> anyhow::Result<u16> {
    let mut random = rand::rng();
    let mut tries = (0..1_000).map(|_| random.random_range(PORTS));
    let free = tries.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.context("no free port was found below the ephemeral ones")
}

impl Hub {
    /// Starts a hub that programs the sandbox's load balancers and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(folder: &Path, sandbox: &Info, database: Database, times: &Times) -> anyhow::Result<Self> {
        Self::start_with(folder, sandbox, database, times, Extra::default()).await
    }

    /// As [`Hub::start`], with more flags and variables.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_with(
        folder: &Path,
        sandbox: &Info,
        database: Database,
        times: &Times,
        extra: Extra,
    ) -> anyhow::Result<Self> {
        let Extra { arguments: more, environment, guarded } = extra;
        let mut arguments = if guarded { Vec::new() } else { vec!["--dev".to_owned()] };
        let settings = [
            ("--aws-account-id", sandbox.account_id.as_str()),
            ("--aws-region", &sandbox.region),
            ("--aws-endpoint-url", &sandbox.elb_url),
            ("--settle-seconds", times.settle),
            ("--audit-interval", times.audit),
            ("--health-interval", times.health),
            ("--lease-ttl", times.lease),
            ("--heartbeat-interval", "1s"),
            ("--stale-after", times.stale),
        ];
        arguments.extend(settings.iter().map(|(flag, value)| format!("{flag}={value}")));
        arguments.extend(more);
        let (folder, ports) = (folder.to_owned(), Ports::default());
        let mut hub = Self { folder, arguments, database, environment, ports, guarded, process: None };
        for attempt in 1.. {
            hub.ports = Ports { grpc: free_port()?, http: free_port()?, gateway: free_port()? };
            match hub.start_again().await {
                Ok(()) => break,
                Err(error) if attempt < PORT_ATTEMPTS && format!("{error:#}").contains("cannot be listened on") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hub)
    }

    /// Adds a flag for the next start.
    pub fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Sets a variable for the next start; none: takes it away.
    pub fn set_variable(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Another database for the next start.
    pub fn set_database(&mut self, database: Database) {
        self.database = database;
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(programs::find("switchyard-hub")?);
        command.args(&self.arguments);
        command.arg(format!("--grpc-listen=127.0.0.1:{}", self.ports.grpc));
        command.arg(format!("--http-listen=127.0.0.1:{}", self.ports.http));
        if self.guarded {
            command.arg(format!("--gateway-listen=127.0.0.1:{}", self.ports.gateway));
        }
        command.env_remove("DATABASE_URL");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        match &self.database {
            Database::Url(url) => command.env("DATABASE_URL", url),
            Database::Embedded(folder) => command.arg("--data-dir").arg(folder),
        };
        self.process = Some(Process::start("hub", &self.folder, &mut command)?);
        Ok(())
    }

    /// Starts it again on the same ports and the same database, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Waits until it is ready: calls are answered from what it has read.
    ///
    /// # Errors
    /// When it ended, or after the deadline.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let pages = Client::new(self.http_url());
        let grpc = self.ports.grpc;
        let process = self.process.as_mut().context("the hub is not running")?;
        wait::until_within("the hub to be ready", PATIENCE, async || {
            if let Err(error) = process.ensure_running() {
                return Ok(Err(error));
            }
            let (status, text) = pages.send(Method::GET, "/readyz", Vec::new()).await.map_err(|e| format!("{e:#}"))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            wait::check(status == StatusCode::OK, || format!("{status} {text}"))?;
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", grpc)).await;
            connected.map(|_| Ok(())).map_err(|error| format!("gRPC: {error}"))
        })
        .await?
    }

    /// Stops it where it is, as `kill -STOP` does.
    pub fn pause(&self) {
        self.process.iter().for_each(Process::pause);
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.process.iter().for_each(Process::resume);
    }

    /// Kills it as `kill -9` does.
    pub fn kill_9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill_9();
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// Where agents and callers reach it.
    pub fn grpc_url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.guarded { "https" } else { "http" }, self.ports.grpc)
    }

    /// Where a guarded hub serves its API as JSON.
    pub fn gateway_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.gateway)
    }

    /// Where its log is.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("hub.log")
    }

    /// Where its health and metrics are.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.http)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.folder.join("hub.log"), 60)
    }
}
