//! moto as a process: an independent stand-in for ELBv2, IAM and STS, which judges the sandbox's wire format and the hub's IAM
//! policy. One server serves all tests of a binary; each has a region or an account of its own. What is started is
//! `tools/moto/server.py`, in the environment that `scripts/moto.sh` made. Calls no code of the hub or the sandbox.

pub mod account;
pub mod query;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use tokio::sync::OnceCell;

use crate::{
    process::{Process, tail},
    programs, undertaker,
    wait::{self, PATIENCE},
};

/// The folder that `scripts/moto.sh` prints.
const FOLDER: &str = "SWITCHYARD_MOTO";

static SHARED: OnceCell<Moto> = OnceCell::const_new();

/// A running moto.
#[derive(Debug)]
pub struct Moto {
    url: String,
    log: PathBuf,
    _process: Process,
}

/// The Python of moto's environment.
///
/// # Errors
/// Says how to come by it when it is not there.
pub fn python() -> anyhow::Result<PathBuf> {
    let remedy = "run the tests with `make test`, or export SWITCHYARD_MOTO=$(scripts/moto.sh) before";
    let folder = std::env::var_os(FOLDER).with_context(|| format!("{FOLDER} is not set: {remedy}"))?;
    let python = Path::new(&folder).join("bin/python");
    anyhow::ensure!(python.is_file(), "{FOLDER}: {} does not exist: {remedy}", python.display());
    Ok(python)
}

/// The folder of moto's own programs and of what they are tested with.
pub fn tools() -> PathBuf {
    programs::workspace().join("tools/moto")
}

impl Moto {
    /// The one that all tests of this binary share.
    ///
    /// # Panics
    /// When it does not start: these tests are not skipped.
    pub async fn shared() -> &'static Self {
        match SHARED.get_or_try_init(Self::start).await {
            Ok(moto) => moto,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts one on a free port and waits until it answers. It ends with this process.
    ///
    /// # Errors
    /// When moto is not installed, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("sy-moto").tempdir()?.keep();
        undertaker::remove(&folder);
        let mut command = Command::new(python()?);
        command.arg(tools().join("server.py")).args(["-H", "127.0.0.1", "-p", "0"]);
        // Its first line is needed at once, and the checkout stays clean.
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("MOTO_ACCOUNT_ID").env_remove("MOTO_PORT");
        let mut process = Process::start("moto", &folder, &mut command)?;
        let log = process.log().to_owned();
        let url = wait::until_within("moto to say where it listens", PATIENCE, async || {
            if let Err(error) = process.ensure_running() {
                return Ok(Err(error));
            }
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let found = text.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:"));
            found.map(|url| Ok(url.to_owned())).ok_or(text)
        })
        .await??;
        Ok(Self { url, log, _process: process })
    }

    /// Where all its services are.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The end of its log: one line a call.
    pub fn log(&self) -> String {
        tail(&self.log, 40)
    }
}
