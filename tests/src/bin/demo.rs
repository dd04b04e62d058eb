//! The demo's process; what it does is in `switchyard_tests::demo`.

use std::process::ExitCode;

use clap::Parser;
use switchyard_tests::demo;

#[tokio::main]
async fn main() -> ExitCode {
    demo::run(demo::Args::parse()).await
}
