//! kubectl and helm as processes, with a home of their own: nothing is read from or left in that of the person who runs tests.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{io::AsyncWriteExt, process::Command};

use super::tools;
use crate::process::Finished;

/// For one that hangs; a wait inside is bounded by the program's own `--timeout`.
const DEADLINE: Duration = Duration::from_secs(120);

/// helm without a cluster: `lint`, `template`.
///
/// # Errors
/// When it cannot be run, or hangs.
pub async fn helm_offline(home: &Path, arguments: &[&str]) -> anyhow::Result<Finished> {
    run("helm", Path::new("/dev/null"), home, arguments, "").await
}

/// Runs one to its end, whatever its exit code is.
pub(super) async fn run(
    program: &str,
    kubeconfig: &Path,
    home: &Path,
    arguments: &[&str],
    input: &str,
) -> anyhow::Result<Finished> {
    std::fs::create_dir_all(home)?;
    let mut command = Command::new(tools::find(program)?);
    command.args(arguments).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("HOME", home).env("KUBECONFIG", kubeconfig);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{program} cannot be started"))?;
    let mut stdin = child.stdin.take().with_context(|| format!("{program} has no standard input"))?;
    let ended = async {
        // One that ends without reading its input closes the pipe.
        let _closed = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, ended).await;
    let output = output.with_context(|| format!("{program} {arguments:?} did not end"))??;
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
