//! One module per command: read the arguments, make the calls, show what came back.

mod apply;
mod change;
mod follow;
mod get;
mod plan;
mod status;

use std::{process::ExitCode, time::Duration};

use clap::CommandFactory;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    args::{Cli, Command, Delete, Format, Global},
    error::{Exit, Failure, Report},
    hub::Hub,
    output::{self, Output, note},
};

/// A call with its retries, when `--timeout` does not say otherwise: a person waits that long, a hub restarts faster.
const CALL: Duration = Duration::from_secs(10);
/// A wait: a shift with settling and draining (60 s each by default in the hub) takes about two minutes.
const WAIT: Duration = Duration::from_secs(300);
/// The call before a wait: a hub that is being restarted may answer late, one that never answers is not waited for.
const CALL_BEFORE_WAIT: Duration = Duration::from_secs(60);

/// What every command needs.
struct Context {
    global: Global,
    output: Output,
}

impl Context {
    /// A hub whose calls end in time.
    fn hub(&self, waits: bool) -> Result<Hub, Failure> {
        let timeout =
            if waits { self.wait_budget().min(CALL_BEFORE_WAIT) } else { self.global.timeout.unwrap_or(CALL) };
        Hub::new(&self.global, timeout)
    }

    fn call_timeout(&self) -> Duration {
        self.global.timeout.unwrap_or(CALL)
    }

    fn wait_budget(&self) -> Duration {
        self.global.timeout.unwrap_or(WAIT)
    }

    fn namespace(&self) -> Option<&str> {
        self.global.namespace.as_deref()
    }
}

/// Runs the command; every failure is printed here, once, and becomes the exit code.
pub fn run_to_exit(cli: Cli) -> ExitCode {
    let output = Output::new(cli.global.output, cli.global.color);
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, "cannot start", error, "see that the machine has resources left"))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(exit)) => ExitCode::from(exit.code()),
        Err(failure) => {
            note(&failure.report());
            tell_programs(&output, &failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Programs get the failure as the one document on stdout. When that cannot be written, the exit code still tells.
fn tell_programs(output: &Output, failure: &Failure) {
    #[derive(Serialize)]
    struct Failed {
        error: Report,
    }
    if output.format != Format::Table {
        let _ = output.show(&Failed { error: Report::new(failure) }, |_, _| String::new());
    }
}

/// `Some(exit)` means that the command has already told what went wrong.
async fn run(cli: Cli) -> Result<Option<Exit>, Failure> {
    let context = Context { output: Output::new(cli.global.output, cli.global.color), global: cli.global };
    match cli.command {
        Command::Apply(args) => return apply::run(&context, args).await,
        Command::Get(what) => get::run(&context, what).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Weights(args) => return change::weights(&context, args).await,
        Command::Delete(Delete::Policy { policy, change, wait }) => {
            return change::delete(&context, &policy, change, wait).await;
        }
        Command::Plan(args) => plan::run(&context, args).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "yardctl", &mut script);
            output::write(&String::from_utf8_lossy(&script))
        }
        Command::Version => {
            #[derive(Serialize)]
            struct Version {
                yardctl: &'static str,
            }
            let version = Version { yardctl: env!("CARGO_PKG_VERSION") };
            context.output.show(&version, |_, _| format!("yardctl {}\n", version.yardctl))
        }
    }?;
    Ok(None)
}

/// The id given, or a new one: time-ordered, so that a hub's table of them stays compact.
fn request_id(given: Option<String>) -> String {
    given.unwrap_or_else(|| Uuid::now_v7().to_string())
}
