//! A private Postgres for development and tests, from the machine's own installation: no TCP, a unix socket that only its owner
//! can reach, a data folder of its own. It belongs to one hub at a time and stops with it; when the hub was killed it is found
//! running and taken over by the next. Programs, users and folders are in `place`, the process is in `process`.
//!
//! ```text
//! data folder/   lock          held by the hub that uses it
//!                postgres.log  what the server says
//!                pgdata/       the database cluster; made as pgdata.new and renamed when it is whole
//!                s/            the socket, when the path is short enough for one, else in the temporary folder
//! ```

mod place;
mod process;

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use place::Place;
use process::Server;

/// The name of the database and of its superuser.
const NAME: &str = "switchyard";
/// Recovery after a crash replays at most a checkpoint's worth of log; a loaded machine needs its time for that.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a server that starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How the private Postgres runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// True: what is committed survives a power failure. False only for tests: faster.
    pub fsync: bool,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { fsync: true }
    }
}

/// Why the private Postgres cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No Postgres on this machine.
    #[error(
        "no PostgreSQL server programs were found in /usr/lib/postgresql/*/bin or in PATH; install them (apt-get install postgresql) or give --database-url"
    )]
    NotInstalled,
    /// PostgreSQL refuses to run as root, and there is nobody else to be.
    #[error(
        "PostgreSQL does not run as root and there is no user {user}; install it (apt-get install postgresql), start the hub as another user, or give --database-url"
    )]
    NoUser {
        /// Who was looked for.
        user: &'static str,
    },
    /// A folder above the data folder is closed to the user that the server runs as.
    #[error(
        "the user {user} cannot enter {folder}, which the data folder lies in; choose a data folder elsewhere, such as one in /var/lib or /tmp, or open it with chmod o+x"
    )]
    Unreachable {
        /// The server's user.
        user: String,
        /// The closed folder.
        folder: PathBuf,
    },
    /// Another hub uses the data folder.
    #[error("the data folder {folder} is in use by another hub; stop that one, or choose another folder")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A file or folder.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// initdb failed.
    #[error("initdb could not make a database in {folder}: {output}")]
    Initdb {
        /// Where.
        folder: PathBuf,
        /// The end of what it said.
        output: String,
    },
    /// The server did not come up.
    #[error("PostgreSQL did not start in {folder}: {output}")]
    NotStarted {
        /// Where.
        folder: PathBuf,
        /// The end of its log.
        output: String,
    },
    /// The server came up and refused the first statements.
    #[error("PostgreSQL in {folder} refused its setup")]
    Setup {
        /// Where.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The server does not stop.
    #[error("PostgreSQL in {folder}, process {pid}, does not stop")]
    NotStopped {
        /// Where.
        folder: PathBuf,
        /// The postmaster.
        pid: i32,
    },
}

/// A running private Postgres. Stopped by [`EmbeddedPostgres::stop`], and when it is dropped.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    place: Place,
    server: Server,
    /// Held as long as the server is ours.
    _lock: File,
}

impl EmbeddedPostgres {
    /// Starts the Postgres of a data folder, making it first when it is not there; or takes over the one that a killed hub left
    /// running in it.
    ///
    /// # Errors
    /// [`EmbeddedError`], with the remedy.
    pub async fn start(data_dir: &Path, options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let place = Place::prepare(data_dir)?;
        let lock = lock(&place)?;
        place.init_once().await?;
        let server = match process::find_running(&place).await? {
            Some(running) => {
                tracing::info!(pid = running.pid(), folder = %place.folder.display(), "taking over the private Postgres that an earlier hub left running");
                running
            }
            None => process::launch(&place, options).await?,
        };
        let this = Self { place, server, _lock: lock };
        this.create_database().await?;
        Ok(this)
    }

    /// How to connect to it.
    pub fn url(&self) -> String {
        self.database_url(NAME)
    }

    /// How to connect to one of its databases; for tests, which make their own.
    pub fn database_url(&self, database: &str) -> String {
        url(&self.server.socket_dir, database)
    }

    /// The process id of the server.
    pub fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// Stops it, ending its connections; what was committed is on disk when this returns.
    ///
    /// # Errors
    /// [`EmbeddedError::NotStopped`] when it is still there after half a minute.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        let stopped = self.server.stop().await;
        stopped.map_err(|pid| EmbeddedError::NotStopped { folder: self.place.folder.clone(), pid })
    }

    async fn create_database(&self) -> Result<(), EmbeddedError> {
        let setup = async {
            let mut admin = connect(&self.database_url("postgres")).await?;
            let exists = sqlx::query("select 1 from pg_database where datname = $1").bind(NAME);
            if exists.fetch_optional(&mut admin).await?.is_none() {
                sqlx::query("create database switchyard").execute(&mut admin).await?;
            }
            admin.close().await
        };
        let setup: Result<(), sqlx::Error> = setup.await;
        setup.map_err(|source| EmbeddedError::Setup { folder: self.place.folder.clone(), source })
    }
}

async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnectOptions::from_str(url)?.disable_statement_logging().connect().await
}

/// The socket's folder goes in percent-encoded: it may hold any character.
fn url(socket_dir: &Path, database: &str) -> String {
    let mut host = String::new();
    for byte in socket_dir.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => host.push(char::from(*byte)),
            other => host.push_str(&format!("%{other:02X}")),
        }
    }
    format!("postgres://{NAME}@localhost/{database}?host={host}&sslmode=disable")
}

fn lock(place: &Place) -> Result<File, EmbeddedError> {
    let path = place.folder.join("lock");
    let io = |source| EmbeddedError::Io { action: "open", path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { folder: place.folder.clone() }),
        Err(TryLockError::Error(source)) => Err(EmbeddedError::Io { action: "lock", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_folder_with_odd_characters_survives_the_url() {
        let folder = Path::new("/srv/a b&c?d");
        let options = PgConnectOptions::from_str(&url(folder, "x")).unwrap();
        assert_eq!(options.get_socket().map(PathBuf::as_path), Some(folder));
        assert_eq!(options.get_database(), Some("x"));
    }
}
