//! yardctl: the command line of the Switchyard hub.
//!
//! Starts the runtime, runs one command, turns its failure into an exit code. Everything else is in the modules:
//! `args` and `parse` read the command line, `hub` speaks gRPC, `model` is what the hub said as typed values,
//! `changes`, `wait`, `cluster_wait`, `shift_lines`, `shift_wait`, `shift_advice`, `joining`, `trouble` and `verify` decide (no IO), `render` and `output` show, `commands` put these together.
//! The program must never link a database or an AWS client: it knows only what the hub tells it.

mod args;
mod changes;
mod cluster_wait;
mod commands;
#[cfg(test)]
mod docs_tests;
mod error;
mod finding;
mod gate;
mod hub;
mod joining;
mod manifest;
mod model;
mod output;
mod parse;
#[cfg(test)]
mod reasons_tests;
mod render;
mod shift_advice;
mod shift_file;
mod shift_lines;
mod shift_wait;
mod text;
mod trouble;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    commands::run_to_exit(cli)
}
