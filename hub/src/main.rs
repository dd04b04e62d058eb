//! The hub's process: arguments, log, and then `compose`.

use std::process::ExitCode;

use switchyard_hub::{args::Args, compose, config::Config, telemetry};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchyard-hub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let config = Config::new(Args::of_process())?;
    telemetry::init(config.log_format, &config.log_level)?;
    // Several crates bring rustls; one provider for all is chosen before the first connection.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("the TLS provider is set up twice");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(compose::run(config))
}
