//! One job as a process: started in the folder that cargo would start it in, its output kept in a file until it has ended, asked
//! to end by its number. The only module here that touches processes.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Command;

use super::{
    binaries::Binary,
    manner::{Lane, Manner},
};

/// The name of the job that runs the examples in the documentation.
pub const DOCUMENTATION: &str = "doc";
/// Longest time of one job: several times what the longest takes. One that hangs must not hang the CI until its own limit.
const END_AFTER: Duration = Duration::from_secs(1_800);
/// Of a computing job, as `nice` takes it: the waiting ones, whose deadlines are on the wall clock, come first.
const PRIORITY: &str = "15";

/// What is run.
#[derive(Clone, Debug)]
pub struct Job {
    /// As the user calls it.
    pub name: String,
    program: PathBuf,
    arguments: Vec<String>,
    folder: Option<PathBuf>,
    /// Only tests with one of these in their name; all when there is none.
    pub tests: Vec<String>,
}

impl From<Binary> for Job {
    fn from(Binary { name, executable, package }: Binary) -> Self {
        Self { name, program: executable, arguments: Vec::new(), folder: Some(package), tests: Vec::new() }
    }
}

impl Job {
    /// The examples in the documentation of all packages.
    pub fn documentation() -> Self {
        let arguments = ["test", "--locked", "--workspace", "--doc", "--quiet", "--"].map(str::to_owned).to_vec();
        let program = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        Self { name: DOCUMENTATION.to_owned(), program, arguments, folder: None, tests: Vec::new() }
    }

    fn command(&self, manner: Manner) -> Command {
        let mut command = match manner.lane {
            Lane::Waiting | Lane::Measuring => Command::new(&self.program),
            Lane::Computing => {
                let mut command = Command::new("nice");
                command.args(["-n", PRIORITY]).arg(&self.program);
                command
            }
        };
        command.args(&self.arguments).args(&self.tests);
        // Whoever sets it knows why.
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", manner.threads.to_string());
        }
        if let Some(folder) = &self.folder {
            // As cargo does.
            command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        }
        command
    }
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The job's name.
    pub name: String,
    /// Whether all of its tests were wanted, so that its time says something about the next run.
    pub whole: bool,
    /// From its start to its end.
    pub took: Duration,
    /// Why it is not fine, when it is not: its exit code, or that it could not be run.
    pub fault: Option<String>,
    /// What it wrote, to both of its outputs, in that order.
    pub output: String,
}

/// Where output is kept, and which processes run.
#[derive(Clone, Debug)]
pub struct Places {
    logs: PathBuf,
    running: Arc<Mutex<BTreeMap<String, (Pid, Instant)>>>,
}

impl Places {
    /// Makes the folder of the logs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("{} cannot be made", logs.display()))?;
        Ok(Self { logs, running: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Pid, Instant)>> {
        // Holders only put and take: whole even after a panic.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs, for a line of text.
    pub fn running(&self) -> String {
        let running = self.lock();
        let texts = running.iter().map(|(name, (_, begun))| format!("{name} ({} s)", begun.elapsed().as_secs()));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// Signals all that run. They were not waited for yet, so that their numbers are theirs.
    pub fn ask_to_end(&self) {
        for (pid, _) in self.lock().values() {
            let _ended_already = kill(*pid, Signal::SIGTERM);
        }
    }
}

/// Runs a job to its end.
pub async fn run(job: Job, manner: Manner, places: Places) -> Ended {
    let begun = Instant::now();
    let log = places.logs.join(format!("{}.log", job.name.replace('/', "-")));
    let fault = run_into(&job, manner, &places, &log).await;
    places.lock().remove(&job.name);
    let output = std::fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    let fault = fault.unwrap_or_else(|error| Some(format!("it could not be run: {error:#}")));
    Ended { whole: job.tests.is_empty(), name: job.name, took: begun.elapsed(), fault, output }
}

async fn run_into(job: &Job, manner: Manner, places: &Places, log: &Path) -> anyhow::Result<Option<String>> {
    let file = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
    let mut command = job.command(manner);
    // One file for both: what belongs together stays together.
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{} cannot be started", job.program.display()))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it has no process id")?;
    places.lock().insert(job.name.clone(), (Pid::from_raw(pid), Instant::now()));
    match tokio::time::timeout(END_AFTER, child.wait()).await {
        Ok(status) => {
            let status = status?;
            Ok((!status.success()).then(|| format!("it ended with {status}")))
        }
        Err(_) => {
            child.kill().await.context("it hangs and cannot be killed")?;
            Ok(Some(format!("it was killed after {} s", END_AFTER.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Job {
        let arguments = vec!["-c".to_owned(), text.to_owned(), "sh".to_owned()];
        Job { name: "a/script".to_owned(), program: "sh".into(), arguments, folder: None, tests: Vec::new() }
    }

    async fn played(job: Job, lane: Lane) -> (Ended, Places) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::make(folder.path()).unwrap();
        (run(job, Manner { lane, threads: 3, seconds: 1.0 }, places.clone()).await, places)
    }

    #[tokio::test]
    async fn both_outputs_are_kept_in_their_order_with_the_exit_code() {
        let (ended, places) = played(script("echo one; echo two >&2; echo three; exit 7"), Lane::Waiting).await;
        assert_eq!(ended.output, "one\ntwo\nthree\n");
        assert_eq!(ended.fault.as_deref(), Some("it ended with exit status: 7"));
        assert_eq!(places.running(), "");
    }

    #[tokio::test]
    async fn a_job_learns_how_many_tests_it_may_run_and_which() {
        let mut job = script("echo \"$RUST_TEST_THREADS: $*\"");
        job.tests = vec!["weights".to_owned(), "flow".to_owned()];
        let (ended, _) = played(job, Lane::Waiting).await;
        let threads = std::env::var("RUST_TEST_THREADS").unwrap_or_else(|_| "3".to_owned());
        assert_eq!((ended.output.trim(), ended.whole), (format!("{threads}: weights flow").as_str(), false));
    }

    #[tokio::test]
    async fn a_computing_job_has_a_low_priority() {
        let (ended, _) = played(script("nice"), Lane::Computing).await;
        let (own, _) = played(script("nice"), Lane::Waiting).await;
        let number = |ended: &Ended| ended.output.trim().parse::<i32>().unwrap();
        assert_eq!(number(&ended), (number(&own) + 15).min(19));
        assert_eq!(ended.fault, None);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_fault_of_the_job() {
        let job = Job { program: "/nowhere/at/all".into(), ..script("") };
        let (ended, _) = played(job, Lane::Waiting).await;
        assert!(ended.fault.unwrap().starts_with("it could not be run: /nowhere/at/all cannot be started"));
    }

    #[tokio::test]
    async fn what_runs_is_asked_to_end_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::make(folder.path()).unwrap();
        let manner = Manner { lane: Lane::Waiting, threads: 1, seconds: 1.0 };
        let job = tokio::spawn(run(script("exec sleep 600"), manner, places.clone()));
        while places.running().is_empty() {
            tokio::task::yield_now().await;
        }
        places.ask_to_end();
        let fault = job.await.unwrap().fault.unwrap();
        assert_eq!(fault, "it ended with signal: 15 (SIGTERM)");
    }
}
