//! `switchyard-sandbox`: parses the command line, starts the sandbox, waits for a signal, ends it.

use std::io::IsTerminal;

use clap::{CommandFactory, Parser};
use switchyard_sandbox::args::Args;
use switchyard_sandbox::compose::Sandbox;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Err(message) = args.check() {
        Args::command().error(clap::error::ErrorKind::ValueValidation, message).exit();
    }
    let filter = EnvFilter::try_new(&args.log)?;
    // A log that goes to a file or a pipe is read by programs, to which colours are noise.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    // Before anything listens: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sandbox = Sandbox::start(&args).await?;
    let info = sandbox.info();
    tracing::info!(control = %info.control_url, elb = %info.elb_url, dir = %args.dir.display(), "the sandbox is ready");
    let ending = sandbox.ending();
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
        () = ending.cancelled() => {}
    }
    sandbox.stop().await;
    Ok(())
}
