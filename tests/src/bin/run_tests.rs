//! The process that runs the tests; what it does is in `switchyard_tests::runner`.

use std::process::ExitCode;

use clap::Parser;
use switchyard_tests::runner;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    runner::run(runner::Args::parse()).await
}
