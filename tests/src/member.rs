//! The agent of one cluster as a process.

use std::{path::Path, process::Command};

use crate::{
    process::{Process, tail},
    programs,
    sandbox::Info,
};

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    name: String,
    folder: std::path::PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Agent {
    /// Starts the agent of a cluster.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(folder: &Path, cluster: &str, sandbox: &Info, hub_url: &str) -> anyhow::Result<Self> {
        let place = sandbox.clusters.get(cluster);
        let place = place.ok_or_else(|| anyhow::anyhow!("the sandbox has no cluster {cluster}"))?;
        Self::start_as(folder, cluster, Path::new(&place.kubeconfig), sandbox, hub_url)
    }

    /// As [`Agent::start`], as the user of this kubeconfig.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_as(
        folder: &Path,
        cluster: &str,
        kubeconfig: &Path,
        sandbox: &Info,
        hub_url: &str,
    ) -> anyhow::Result<Self> {
        Self::launch(folder, cluster, kubeconfig, (&sandbox.region, &sandbox.vpc_id), hub_url)
    }

    /// As [`Agent::start_as`] without a sandbox: `place` is region and VPC.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(
        folder: &Path,
        cluster: &str,
        kubeconfig: &Path,
        place: (&str, &str),
        hub_url: &str,
    ) -> anyhow::Result<Self> {
        let name = format!("agent-{cluster}");
        Self::proving(folder, &name, cluster, kubeconfig, place, hub_url, vec!["--dev".to_owned()])
    }

    /// As [`Agent::launch`], with the flags that say how it proves who it is; `name` is that of its log file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn proving(
        folder: &Path,
        name: &str,
        cluster: &str,
        kubeconfig: &Path,
        place: (&str, &str),
        hub_url: &str,
        proof: Vec<String>,
    ) -> anyhow::Result<Self> {
        let kubeconfig = kubeconfig.display().to_string();
        let arguments = [
            ("--cluster", cluster),
            ("--region", place.0),
            ("--vpc-id", place.1),
            ("--hub", hub_url),
            ("--kubeconfig", &kubeconfig),
            ("--http-listen", "127.0.0.1:0"),
        ];
        let arguments = arguments.iter().map(|(flag, value)| format!("{flag}={value}")).chain(proof).collect();
        let (name, folder, environment) = (name.to_owned(), folder.to_owned(), Vec::new());
        let mut this = Self { name, folder, arguments, environment, process: None };
        this.start_again()?;
        Ok(this)
    }

    /// From its next start on.
    pub fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Sets a variable for the next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(programs::find("switchyard-agent")?);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start(&self.name, &self.folder, &mut command)?);
        Ok(())
    }

    /// Stops it where it is, as `kill -STOP` does.
    pub fn pause(&self) {
        self.process.iter().for_each(Process::pause);
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.process.iter().for_each(Process::resume);
    }

    /// Kills it as `kill -9` does.
    pub fn kill_9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill_9();
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// All that it has logged.
    pub fn whole_log(&self) -> String {
        let bytes = std::fs::read(self.folder.join(format!("{}.log", self.name))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.folder.join(format!("{}.log", self.name)), 40)
    }
}
