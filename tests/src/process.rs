//! One program as a process: started with a log file, asked to end, killed, waited for. Dropping it kills it.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{undertaker, wait};

/// A program that was asked to end has this long; the hub promises 10 s.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it writes is appended to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("{} cannot be written", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A Ctrl-C is for the process that started it, which then ends the others in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        undertaker::end("KILL", child.id());
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // One that has ended but was not waited for still has its number: no other process is hit.
            let _ended_already = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Stops it where it is, as `kill -STOP` does: nothing of it runs, and nobody is told.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it run on from where it was stopped.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it as `kill -9` does.
    pub fn kill_9(mut self) {
        self.end_now();
    }

    fn end_now(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            let _status = self.child.wait();
        }
        undertaker::forget(self.child.id());
    }

    /// Asks it to end and waits for it.
    ///
    /// # Errors
    /// When it takes too long, or ends with another code than 0.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM);
        let name = self.name.clone();
        let begun = Instant::now();
        let what = format!("{name} to end after SIGTERM");
        let status = wait::until_within(&what, END_WITHIN, async || {
            self.ended().ok_or_else(|| format!("it still runs after {} s", begun.elapsed().as_secs()))
        })
        .await?;
        undertaker::forget(self.child.id());
        anyhow::ensure!(status.success(), "{name} ended with {status}:\n{}", tail(&self.log, 20));
        Ok(())
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended with {status}:\n{}", self.name, tail(&self.log, 20)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A program that is run to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}
