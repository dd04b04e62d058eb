//! yardctl as a process against the real hub.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{policy::Policy, process::Finished, programs, wait};

/// A wait of yardctl is bounded by `--timeout`; this is for a yardctl that hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// The command line of one hub.
#[derive(Clone, Debug)]
pub struct Yardctl {
    program: PathBuf,
    hub: String,
    environment: Vec<(String, String)>,
}

impl Yardctl {
    /// For the hub at this URL.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn new(hub: String) -> anyhow::Result<Self> {
        Ok(Self { program: programs::find("yardctl")?, hub, environment: Vec::new() })
    }

    /// With these variables, such as those that say how it proves who calls.
    #[must_use]
    pub fn with(mut self, variables: &[(&str, &Path)]) -> Self {
        let variables = variables.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string()));
        self.environment.extend(variables);
        self
    }

    /// Where the program is.
    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    /// Runs it to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub async fn run(&self, arguments: &[&str], input: &str) -> anyhow::Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("SWITCHYARD_HUB", &self.hub).env("NO_COLOR", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("yardctl cannot be started")?;
        let mut stdin = child.stdin.take().context("yardctl has no standard input")?;
        // One that ends without reading its input closes the pipe.
        let _closed = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = output.with_context(|| format!("yardctl {arguments:?} did not end"))??;
        Ok(Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; its exit code has to be 0.
    ///
    /// # Panics
    /// When it is another.
    pub async fn expect(&self, arguments: &[&str], input: &str) -> Finished {
        let finished = self.run(arguments, input).await.expect("yardctl runs");
        assert_eq!(finished.code, 0, "yardctl {arguments:?}\n{input}\n{finished}");
        finished
    }

    /// Applies a policy and waits until it is served.
    ///
    /// # Panics
    /// When that does not come true.
    pub async fn apply_until_converged(&self, policy: &Policy) -> Finished {
        self.expect(&["apply", "-f", "-", "--wait", "converged", "--timeout", "60s"], &policy.yaml()).await
    }

    /// Sets weights and waits until they are served.
    ///
    /// # Panics
    /// When that does not come true.
    pub async fn weights_until_converged(&self, policy: &str, weights: &[&str]) -> Finished {
        let mut arguments = vec!["weights", policy];
        arguments.extend(weights);
        arguments.extend(["--wait", "converged", "--timeout", "60s"]);
        self.expect(&arguments, "").await
    }

    /// The status page.
    ///
    /// # Errors
    /// When yardctl does not give it.
    pub async fn status_page(&self, policy: &str) -> anyhow::Result<String> {
        let finished = self.run(&["status", policy], "").await?;
        anyhow::ensure!(finished.code == 0, "{finished}");
        Ok(finished.stdout)
    }

    /// The policy with its status, as a document.
    ///
    /// # Errors
    /// When yardctl does not give it.
    pub async fn status(&self, policy: &str) -> anyhow::Result<Value> {
        let finished = self.run(&["status", policy, "-o", "json"], "").await?;
        anyhow::ensure!(finished.code == 0, "{finished}");
        serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())
    }

    /// Waits until the status page holds all of these words, and gives it.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn status_says(&self, policy: &str, words: &[&str]) -> String {
        let what = format!("the status of {policy} to say {words:?}");
        wait::until(&what, async || {
            let page = self.status_page(policy).await.map_err(|e| e.to_string())?;
            let all = words.iter().all(|word| page.contains(word));
            wait::check(all, || page.clone()).map(|()| page)
        })
        .await
    }

    /// Waits until the policy is what was asked for and served.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn converged(&self, policy: &str) {
        let what = format!("{policy} to be converged in its present version, with nothing held");
        wait::until(&what, async || {
            let status = self.status(policy).await.map_err(|e| e.to_string())?;
            let conditions = status["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let present = status["status"]["observed_version"] == status["version"];
            let holds = |name: &str| conditions.iter().any(|c| c["type"] == name && c["status"] == "true");
            let all = ["Accepted", "ResolvedRefs", "Programmed", "Converged"].into_iter().all(holds);
            let quiet = status["status"]["notes"].as_array().is_some_and(Vec::is_empty);
            wait::check(present && all && quiet, || status["status"].to_string())
        })
        .await;
    }
}
