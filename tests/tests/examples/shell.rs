//! Programs as a CD system starts them: with the variables that it gives and no others, and with yardctl on the path.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use switchyard_tests::process::Finished;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use crate::scene::Scene;

/// A shift takes a few seconds here; this is for a program that hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// Variables.
pub type Variables = BTreeMap<String, String>;

/// A command with these variables only. Programs are found where yardctl is, then where the machine has them.
pub fn command(scene: &Scene, program: &str, folder: &Path, variables: &Variables) -> Command {
    let own = scene.world.yardctl.program().parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env_clear().envs(variables).env("PATH", format!("{}:{path}", own.display())).env("HOME", folder);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end.
///
/// # Panics
/// When it cannot be run, or hangs.
pub async fn run(mut command: Command) -> Finished {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} did not end")).expect("it runs");
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs it until it writes this word to standard error, asks it to end there, and waits for that.
///
/// # Panics
/// When it ends before, or hangs.
pub async fn run_until(mut command: Command, word: &str) -> Finished {
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    tokio::time::timeout(DEADLINE, interrupted(child, word)).await.unwrap_or_else(|_| panic!("{command:?} did not end"))
}

async fn interrupted(mut child: Child, word: &str) -> Finished {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
    let mut stderr = String::new();
    let mut asked = false;
    while let Some(line) = lines.next_line().await.expect("text") {
        stderr.push_str(&line);
        stderr.push('\n');
        if line.contains(word) && !asked {
            // Not waited for yet, so the number is still its own.
            kill(Pid::from_raw(id), Signal::SIGTERM).expect("the signal is sent");
            asked = true;
        }
    }
    assert!(asked, "it never said {word:?}:\n{stderr}");
    let mut stdout = String::new();
    child.stdout.take().expect("standard output").read_to_string(&mut stdout).await.expect("text");
    let status = child.wait().await.expect("it ends");
    Finished { code: status.code().unwrap_or(-1), stdout, stderr }
}
