//! The databases of the scenarios: one private Postgres for all tests of a binary, and one of its own for a test that stops it.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use switchyard_hub::store::{EmbeddedOptions, EmbeddedPostgres};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::undertaker;

/// Nothing here has to survive the loss of power.
const OPTIONS: EmbeddedOptions = EmbeddedOptions { fsync: false };

static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// A private Postgres.
pub struct Postgres {
    folder: PathBuf,
    server: Option<EmbeddedPostgres>,
}

fn folder() -> anyhow::Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("sy-pg").tempdir()?.keep();
    undertaker::remove(&folder);
    Ok(folder)
}

impl Postgres {
    /// Starts one of its own.
    ///
    /// # Errors
    /// When there is no Postgres on this machine, or it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut this = Self { folder: folder()?, server: None };
        this.start_again().await?;
        Ok(this)
    }

    /// Starts it again on the same data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let server = EmbeddedPostgres::start(&self.folder, OPTIONS).await;
        let server = server.context("the Postgres of the scenarios does not start")?;
        undertaker::end("INT", u32::try_from(server.pid())?);
        self.server = Some(server);
        Ok(())
    }

    fn running(&self) -> anyhow::Result<&EmbeddedPostgres> {
        self.server.as_ref().context("the Postgres was stopped")
    }

    /// A fresh, empty database.
    ///
    /// # Errors
    /// When Postgres refuses it.
    pub async fn database(&self) -> anyhow::Result<String> {
        let server = self.running()?;
        let name = format!("t{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(&server.url()).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut admin).await?;
        admin.close().await?;
        Ok(server.database_url(&name))
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: no checkpoint, connections cut.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_immediately(&mut self) -> anyhow::Result<()> {
        let server = self.server.take().context("the Postgres was stopped already")?;
        let pid = Pid::from_raw(server.pid());
        kill(pid, Signal::SIGQUIT)?;
        // Also waits for it. The fast shutdown that it asks for does not turn back an immediate one.
        server.stop().await?;
        undertaker::forget(u32::try_from(pid.as_raw())?);
        Ok(())
    }

    /// Kills it as `kill -9` of its main process does; the others notice and end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill_9(&mut self) -> anyhow::Result<()> {
        let server = self.server.take().context("the Postgres was stopped already")?;
        let pid = Pid::from_raw(server.pid());
        kill(pid, Signal::SIGKILL)?;
        // Also waits for it.
        server.stop().await?;
        undertaker::forget(u32::try_from(pid.as_raw())?);
        Ok(())
    }

    /// Stops all its processes where they are, as `kill -STOP` does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        // The main process first: it starts the others.
        self.signal(Signal::SIGSTOP)
    }

    /// Lets them run on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let main = self.running()?.pid();
        kill(Pid::from_raw(main), signal)?;
        for child in children(main)? {
            // One that ended in this moment has stopped, too.
            let _gone_already = kill(Pid::from_raw(child), signal);
        }
        Ok(())
    }

    /// A copy of a database that nobody is connected to: what a backup holds.
    ///
    /// # Errors
    /// When Postgres refuses it.
    pub async fn copy(&self, url: &str) -> anyhow::Result<String> {
        let options = PgConnectOptions::from_str(url)?;
        let original = options.get_database().context("the URL names a database")?;
        let server = self.running()?;
        let name = format!("t{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(&server.url()).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name} template {original}"))).execute(&mut admin).await?;
        admin.close().await?;
        Ok(server.database_url(&name))
    }

    /// Where its own log is.
    pub fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Postgres {
    /// A stopped server cannot end.
    fn drop(&mut self) {
        if self.server.is_some() {
            let _gone_already = self.resume();
        }
    }
}

/// The processes that a process started and that still run.
fn children(parent: i32) -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        // One that ended since has no file any more.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the command, which is in brackets and may hold anything: state, parent.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if fields.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The socket of the private Postgres of a URL: what a proxy in front of it connects to.
///
/// # Errors
/// When the URL is not one of a private Postgres.
pub fn socket_of(url: &str) -> anyhow::Result<PathBuf> {
    let folder = PgConnectOptions::from_str(url)?;
    let folder = folder.get_socket().context("a private Postgres has a socket")?;
    Ok(folder.join(".s.PGSQL.5432"))
}

/// The same database through another port.
///
/// # Errors
/// When the URL names no database.
pub fn url_through(url: &str, port: std::net::SocketAddr) -> anyhow::Result<String> {
    let options = PgConnectOptions::from_str(url)?;
    let database = options.get_database().context("the URL names a database")?;
    Ok(format!("postgres://{}@{port}/{database}?sslmode=disable", options.get_username()))
}

/// The URL of a fresh, empty database in the Postgres that all tests of this binary share.
///
/// # Errors
/// When Postgres does not start or refuses it.
pub async fn shared_database() -> anyhow::Result<String> {
    SHARED.get_or_try_init(Postgres::start).await?.database().await
}
