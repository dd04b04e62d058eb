//! One module per command: read the arguments, make the calls, show what came back.

mod access;
mod apply;
mod audit_pages;
mod change;
mod cluster;
mod cluster_follow;
mod failover;
mod follow;
mod get;
mod history;
mod join;
mod plan;
mod rollback;
mod secret;
mod shift;
mod shift_act;
mod shift_follow;
mod status;
mod switch;
mod token;
mod verify;

use std::{process::ExitCode, time::Duration};

use clap::CommandFactory;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    args::{Audit, AuditWhat, Cli, Command, Delete, Drill, Format, Global},
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
    let streams = cli.command.streams();
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
            tell_programs(&output, streams, &failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Programs get the failure as the one document on stdout, or as the last line of what is read line by line. When that cannot be
/// written, the exit code still tells.
fn tell_programs(output: &Output, streams: bool, failure: &Failure) {
    #[derive(Serialize)]
    struct Failed {
        error: Report,
    }
    let failed = Failed { error: Report::new(failure) };
    let _ = match output.format {
        Format::Table => Ok(()),
        Format::Json if streams => output::json_line(&failed),
        Format::Json | Format::Jsonl | Format::Yaml => output.show(&failed, |_, _| String::new()),
    };
}

/// `Some(exit)` means that the command has already told what went wrong.
async fn run(cli: Cli) -> Result<Option<Exit>, Failure> {
    let context = Context { output: Output::new(cli.global.output, cli.global.color), global: cli.global };
    match cli.command {
        Command::Apply(args) => return apply::run(&context, args).await,
        Command::Get(what) => get::run(&context, what).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Weights(args) => return change::weights(&context, args).await,
        Command::Delete(Delete::Policy { policy, change, reason, wait }) => {
            return change::delete(&context, &policy, change, reason, wait).await;
        }
        Command::Flip(args) => return shift::flip(&context, args).await,
        Command::Shift(args) => return shift::shift(&context, args).await,
        Command::Rollback(args) => return rollback::rollback(&context, args).await,
        Command::Pause(args) => return shift_act::pause(&context, args).await,
        Command::Resume(args) => return shift_act::resume(&context, args).await,
        Command::Approve(args) => return shift_act::approve(&context, args).await,
        Command::Promote(args) => return shift_act::promote(&context, args).await,
        Command::Abort(args) => return shift_act::abort(&context, args).await,
        Command::Watch(args) => return shift_act::watch(&context, args).await,
        Command::Cordon(args) => return cluster::cordon(&context, args).await,
        Command::Drain(args) => return cluster::drain(&context, args).await,
        Command::Uncordon(args) => return cluster::uncordon(&context, args).await,
        Command::Remove(args) => return cluster::remove(&context, args).await,
        Command::Drill(Drill::ClusterLoss(args)) => return cluster::cluster_loss(&context, args).await,
        Command::Failback(args) => return failover::failback(&context, args).await,
        Command::Explain(args) => failover::explain(&context, args).await,
        Command::History(args) => history::history(&context, args).await,
        Command::Audit(Audit { what: Some(AuditWhat::Verify(args)), .. }) => return verify::run(&context, args).await,
        Command::WhoAmI => access::who_am_i(&context).await,
        Command::Cluster(what) => join::run(&context, what).await,
        Command::Token(what) => token::run(&context, what).await,
        Command::Authority(what) => access::authority(&context, what).await,
        Command::Audit(args) => history::audit(&context, args).await,
        Command::Switch(what) => switch::run(&context, what).await,
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
