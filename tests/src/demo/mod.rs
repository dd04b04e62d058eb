//! The demo: two clusters, a load balancer, a hub, and steady traffic that is moved while all pods are being replaced.
//! `story` is what happens, `view` is what is shown of it (pure), this file is the beginning and the end.

mod bench;
mod story;
mod view;

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    hub::{Database, Times},
    load::Report,
    process::tail,
    sandbox::{Settings, WorkloadSpec},
    world::{Builder, Kubernetes, World, folder},
};
use story::{Move, POLICY};

/// Of the program when requests failed, or the demo could not be played to its end.
const FAILED: u8 = 1;
/// As a shell says it of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Shows Switchyard at work on this machine: no cloud, no cluster, nothing left behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "switchyard-demo", version)]
pub struct Args {
    /// Stay up afterwards and say what to try next
    #[arg(long)]
    pub keep: bool,
    /// Measure how long moves take instead of showing them
    #[arg(long)]
    pub bench: bool,
    /// Requests a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub rps: u32,
}

/// What is told at the end.
struct Played {
    report: Report,
    moves: Vec<Move>,
    rollouts: u32,
}

/// Plays the demo.
pub async fn run(args: Args) -> ExitCode {
    match play(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the demo could not be played to its end: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn interrupted() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process by themselves, and the undertaker cleans up.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// A load balancer five times as fast as a real one, so that the demo takes a minute and not five.
fn builder(database: Database) -> Builder {
    Builder {
        kubernetes: Kubernetes::Sandbox,
        sandbox: Settings {
            clusters: vec!["blue".to_owned(), "green".to_owned()],
            time_scale: 5.0,
            propagation: Duration::from_secs(5),
            seed: rand::random(),
        },
        // Settled only after the second in which some nodes of the load balancer still serve the old rule.
        times: Times { settle: "2", ..Times::default() },
        database: Some(database),
        workload: WorkloadSpec {
            replicas: 4,
            app: "checkout".to_owned(),
            ports: vec![("http".to_owned(), 8080)],
            version: "v1".to_owned(),
            ready_after: Duration::from_millis(800),
            termination_grace: Duration::from_secs(6),
            latency: Duration::from_millis(5),
        },
        behind_proxies: false,
        guarded: None,
    }
}

async fn play(args: &Args) -> anyhow::Result<ExitCode> {
    println!("starting: a sandbox with the clusters blue and green, a hub with its private Postgres, two agents");
    let data = folder()?;
    let world = tokio::select! {
        world = builder(Database::Embedded(data.path().join("postgres"))).start() => world?,
        name = interrupted() => return Ok(cut_short(name)),
    };
    let shown = async { if args.bench { bench::play(&world, args.rps).await } else { show(&world, args).await } };
    let outcome = tokio::select! {
        outcome = shown => outcome,
        name = interrupted() => {
            world.end().await?;
            return Ok(cut_short(name));
        }
    };
    if outcome.is_err() {
        eprintln!("--- the end of the hub's log\n{}", tail(&world.folder().join("hub.log"), 20));
    }
    if args.keep && outcome.is_ok() {
        println!("{}: ending", interrupted().await);
    }
    world.end().await?;
    outcome
}

fn cut_short(signal: &str) -> ExitCode {
    eprintln!("\n{signal}: the demo ends before its time");
    ExitCode::from(INTERRUPTED)
}

async fn show(world: &World, args: &Args) -> anyhow::Result<ExitCode> {
    let mut screen = view::Screen::new(stdout().is_terminal());
    let (load, played) = story::play(world, args.rps, &mut screen).await?;
    let complaints = complaints(&played);
    print!("\n{}", view::summary(&played.report, &played.moves, played.rollouts, &complaints));
    if args.keep {
        println!("\n{}", view::what_next(world, load.id()));
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Everything that was not as promised.
fn complaints(played: &Played) -> Vec<String> {
    let mut complaints = Vec::new();
    if played.report.failed > 0 {
        complaints.push(played.report.failures_shown());
    }
    if played.report.sent == 0 {
        complaints.push("no request was sent".to_owned());
    }
    complaints.extend(played.moves.iter().filter_map(Move::complaint));
    complaints
}
