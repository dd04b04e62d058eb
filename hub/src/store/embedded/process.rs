//! The server process of a private Postgres: launched, found again, stopped. Only processes whose data folder is ours are ever
//! signalled.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::Connection;

use super::{
    EmbeddedError, EmbeddedOptions, LOOK_EVERY, START_WITHIN, connect,
    place::{Place, at, tail},
    url,
};

/// A fast shutdown writes a checkpoint; half a minute is much for the data of a development machine.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// For the last processes of a server that was killed to notice.
const PREDECESSOR_WITHIN: Duration = Duration::from_secs(10);
/// When dropped the thread is blocked for so long at most.
const DROP_WITHIN: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pid: Pid,
    /// Set when this process launched it, and then has to reap it.
    child: Option<Child>,
    /// Where its socket is.
    pub socket_dir: PathBuf,
    stopped: bool,
}

/// The lines of `postmaster.pid` that matter here (PostgreSQL, `src/include/utils/pidfile.h`).
#[derive(Debug, PartialEq, Eq)]
struct PidFile {
    pid: i32,
    socket_dir: PathBuf,
}

impl PidFile {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
        // Pid, data folder, start time, port, socket folder.
        let socket_dir = lines.nth(3).unwrap_or_default().trim();
        Some(Self { pid, socket_dir: PathBuf::from(socket_dir) })
    }
}

/// Looks for the server that a killed hub left behind. Waits while one is starting, or is on its way out.
pub(super) async fn find_running(place: &Place) -> Result<Option<Server>, EmbeddedError> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        // No file, or one that is being written: a server without one is not running, or will be seen at the next look.
        let Ok(text) = fs::read_to_string(place.pgdata().join("postmaster.pid")) else {
            return Ok(None);
        };
        // A stale file is removed by the server itself when it starts.
        let Some(file) = PidFile::parse(&text).filter(|file| serves(file.pid, place)) else {
            return Ok(None);
        };
        if is_ours(&file, place).await {
            return Ok(Some(Server {
                pid: Pid::from_raw(file.pid),
                child: None,
                socket_dir: file.socket_dir,
                stopped: false,
            }));
        }
        if Instant::now() > deadline {
            return Err(not_started(place, &format!("process {} runs in it and does not answer", file.pid)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Is this a living process that serves our folder? The number alone may belong to anybody since.
fn serves(pid: i32, place: &Place) -> bool {
    if matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH)) {
        return false;
    }
    // The server's working folder is its data folder. Where that cannot be read the socket has to tell.
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(folder) => folder == place.pgdata(),
        Err(_) => Path::new("/proc/self/cwd").exists().then(|| is_zombie(pid)) != Some(true),
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the command, which is in brackets and may hold anything: the first is the state.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Asks the server itself which folder it serves.
async fn is_ours(file: &PidFile, place: &Place) -> bool {
    let asked = async {
        let mut connection = connect(&url(&file.socket_dir, "postgres")).await?;
        let folder: String = sqlx::query_scalar("show data_directory").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok::<String, sqlx::Error>(folder)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
    matches!(answer, Ok(Ok(folder)) if Path::new(&folder) == place.pgdata())
}

/// What a server says that finds traces of one that was killed: its memory still in use, because its last processes end within
/// moments; or its process id still taken, because a dead process keeps it until its parent, or init after the parent was
/// killed too, has taken note. Another hub's server it cannot be: the data folder is locked.
const PREDECESSOR: [&str; 2] = ["is still in use", "lock file \"postmaster.pid\" already exists"];

/// Starts the server and waits until it answers.
pub(super) async fn launch(place: &Place, options: EmbeddedOptions) -> Result<Server, EmbeddedError> {
    let deadline = Instant::now() + PREDECESSOR_WITHIN;
    loop {
        match launch_once(place, options).await {
            Err(EmbeddedError::NotStarted { output, .. })
                if PREDECESSOR.iter().any(|said| output.contains(said)) && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            result => return result,
        }
    }
}

async fn launch_once(place: &Place, options: EmbeddedOptions) -> Result<Server, EmbeddedError> {
    let log = File::options().create(true).append(true).open(place.log()).map_err(at("open", &place.log()))?;
    let begins = log.metadata().map(|meta| meta.len()).unwrap_or_default();
    let errors = log.try_clone().map_err(at("open", &place.log()))?;
    let mut command = place.command("postgres");
    command.arg("-D").arg(place.pgdata()).arg("-k").arg(&place.socket_dir);
    let durable = if options.fsync { "on" } else { "off" };
    let settings = [
        "listen_addresses=".to_owned(),
        "port=5432".to_owned(),
        "unix_socket_permissions=0700".to_owned(),
        "max_connections=200".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
        format!("fsync={durable}"),
        format!("synchronous_commit={durable}"),
        format!("full_page_writes={durable}"),
    ];
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    command.stdout(Stdio::from(log)).stderr(Stdio::from(errors));
    let child = command.as_std_mut().spawn().map_err(at("run postgres in", &place.folder))?;
    let pid =
        i32::try_from(child.id()).map(Pid::from_raw).map_err(|_| not_started(place, "its process id is too large"))?;
    let mut server = Server { pid, child: Some(child), socket_dir: place.socket_dir.clone(), stopped: false };
    let deadline = Instant::now() + START_WITHIN;
    while connect(&url(&server.socket_dir, "postgres")).await.is_err() {
        if server.has_ended() || Instant::now() > deadline {
            let said = fs::read(place.log()).unwrap_or_default();
            let said = said.get(usize::try_from(begins).unwrap_or_default()..).unwrap_or_default();
            return Err(not_started(place, &tail(&String::from_utf8_lossy(said))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(server)
}

fn not_started(place: &Place, output: &str) -> EmbeddedError {
    EmbeddedError::NotStarted { folder: place.folder.clone(), output: output.to_owned() }
}

impl Server {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// A fast shutdown: connections are ended, what was committed is kept. The error is the process id.
    pub async fn stop(&mut self) -> Result<(), i32> {
        self.ask_to_stop();
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err(self.pid());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn ask_to_stop(&mut self) {
        if !self.has_ended() {
            // SIGINT is the fast shutdown. A process that went in the meantime is what was wanted.
            let _gone_already = kill(self.pid, Signal::SIGINT);
        }
    }

    /// Remembers, so that a process id that was given to another is never signalled.
    fn has_ended(&mut self) -> bool {
        if !self.stopped {
            self.stopped = match &mut self.child {
                Some(child) => !matches!(child.try_wait(), Ok(None)),
                None => matches!(kill(self.pid, None), Err(Errno::ESRCH)) || is_zombie(self.pid.as_raw()),
            };
        }
        self.stopped
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        let deadline = Instant::now() + DROP_WITHIN;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_gives_process_and_socket_and_nonsense_gives_nothing() {
        let text = "4711\n/d/pgdata\n1763700000\n5432\n/d/s\n\n  5432001 0\nready   \n";
        let socket_dir = PathBuf::from("/d/s");
        assert_eq!(PidFile::parse(text), Some(PidFile { pid: 4711, socket_dir }));
        for nonsense in ["", "x\n", "-1\n", "0\n", "1\n"] {
            assert_eq!(PidFile::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
