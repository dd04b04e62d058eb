//! The agent's process: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use switchyard_agent::{app, args::Args};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Several crates of the workspace can bring a TLS provider; which one is used is said here, once. A second
    // installation fails and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match app::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchyard-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
