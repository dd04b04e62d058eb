//! `switchyard-sandbox`: parses the command line, starts the sandbox, waits for a signal, ends it.

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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
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
