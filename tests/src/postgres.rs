//! The databases of the scenarios: one private Postgres for all tests of a binary, and one of its own for a test that stops it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
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

    /// Where its own log is.
    pub fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The URL of a fresh, empty database in the Postgres that all tests of this binary share.
///
/// # Errors
/// When Postgres does not start or refuses it.
pub async fn shared_database() -> anyhow::Result<String> {
    SHARED.get_or_try_init(Postgres::start).await?.database().await
}
