//! Runs test binaries that cargo has built, several at a time. Most of them wait nearly all of their time for a pod, a lease or a
//! health check, so one after another they leave a machine idle; all at once they would starve each other. What may run beside
//! what is decided in `schedule` from what `manner` knows; the processes are touched in `job` alone, and what is told at the end
//! is made in `report`. Knows nothing of what the tests are about, and builds nothing.

mod binaries;
mod job;
mod machine;
mod manner;
mod past;
mod report;
mod schedule;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

use self::{
    binaries::Only,
    job::{Ended, Job, Places},
    manner::Manner,
    past::Past,
    report::Report,
    schedule::{Schedule, Waiting},
};

/// Between two lines that say what still runs, so that a quiet run does not look like a dead one.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// What an interrupted binary has before it is killed.
const END_WITHIN: Duration = Duration::from_secs(15);
/// What a shell says of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Runs the test binaries that cargo has built, several at a time, and ends with "N passed, N failed".
#[derive(Debug, clap::Parser)]
#[command(name = "switchyard-run-tests")]
pub struct Args {
    /// What `cargo ... --message-format=json` has written of the build
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// Where the output of each binary, and how long it took, is kept
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Also the examples in the documentation, by `cargo test --doc`
    #[arg(long)]
    doc: bool,
    /// Tests at a time, over all binaries [default: 3 for each processor, as far as the memory suffices]
    #[arg(long, env = "SWITCHYARD_TEST_SLOTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: Option<u16>,
    /// Only binaries whose name has this in it, such as `scenarios` or `hub/store`; after a colon, as in `scenarios:weights`,
    /// only the tests whose name has that in it
    #[arg(value_name = "BINARY[:TEST]")]
    only: Vec<Only>,
}

/// Runs them.
pub async fn run(args: Args) -> ExitCode {
    match run_all(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the tests cannot be run: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

async fn run_all(args: &Args) -> anyhow::Result<ExitCode> {
    let messages = std::fs::read_to_string(&args.messages);
    let messages = messages.with_context(|| format!("{} cannot be read", args.messages.display()))?;
    let mut jobs: Vec<Job> = binaries::read(&messages)?.into_iter().map(Job::from).collect();
    jobs.extend(args.doc.then(Job::documentation));
    let jobs = binaries::choose(jobs, &args.only)?;
    let past = Past::read(&args.folder);
    let places = Places::make(&args.folder)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = args.slots.map_or_else(|| machine::slots(processors, machine::free_memory()), usize::from);
    println!("{} test binaries, {slots} tests at a time", jobs.len());
    let waiting = jobs.into_iter().map(|job| {
        let manner = Manner::of(&job.name, processors);
        let seconds = past.seconds(&job.name).unwrap_or(manner.seconds);
        Waiting { job, manner, seconds }
    });
    let round = Round { schedule: Schedule::new(waiting.collect(), slots), past, places, report: Report::default() };
    round.play(&args.folder).await
}

/// One round of all jobs.
struct Round {
    schedule: Schedule,
    past: Past,
    places: Places,
    report: Report,
}

/// The signals that ask this process to end.
struct Asked {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Asked {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

impl Round {
    async fn play(mut self, folder: &Path) -> anyhow::Result<ExitCode> {
        let begun = Instant::now();
        let mut asked = Asked::listen()?;
        let mut tell = interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = JoinSet::new();
        loop {
            while let Some((job, manner)) = self.schedule.next() {
                running.spawn(job::run(job, manner, self.places.clone()));
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => self.take(ended.context("a job was lost")?),
                    None => break,
                },
                _ = tell.tick() => println!("still running: {}", self.places.running()),
                () = asked.any() => {
                    self.interrupt(&mut running).await;
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            }
        }
        // The next run is only slower without it.
        if let Err(error) = self.past.write(folder) {
            eprintln!("how long the tests took cannot be kept: {error:#}");
        }
        print!("{}", self.report.summary(begun.elapsed()));
        Ok(if self.report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn take(&mut self, ended: Ended) {
        self.schedule.ended(&ended.name);
        if ended.whole {
            self.past.took(&ended.name, ended.took);
        }
        print!("{}", self.report.take(ended));
    }

    /// Asks what runs to end, by its process ids. Each test binary takes along what it has started.
    async fn interrupt(&mut self, running: &mut JoinSet<Ended>) {
        eprintln!("interrupted; ending {}", self.places.running());
        self.places.ask_to_end();
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, all).await.is_err() {
            eprintln!("killing {}", self.places.running());
            // The children are killed when their handles are dropped.
            running.shutdown().await;
        }
    }
}
