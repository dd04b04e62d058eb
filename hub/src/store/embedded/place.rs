//! Where a private Postgres lives: its programs, the user that it runs as, its folders with their modes. Starts no server.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{EmbeddedError, NAME};

/// Who the server runs as when the hub runs as root; the packages of every distribution make this user.
const SERVER_USER: &str = "postgres";
/// `sun_path` holds 108 bytes with its end mark; the socket's own name is `/.s.PGSQL.5432`.
const MOST_SOCKET_DIR: usize = 107 - "/.s.PGSQL.5432".len();

/// All that is decided before a server can start.
#[derive(Debug)]
pub(super) struct Place {
    /// The data folder, absolute.
    pub folder: PathBuf,
    /// Where the socket is to be.
    pub socket_dir: PathBuf,
    bin: PathBuf,
    /// Set when the hub is root: the server's user.
    run_as: Option<User>,
}

impl Place {
    /// Finds programs and user, makes the folders.
    pub fn prepare(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let bin = find_programs().ok_or(EmbeddedError::NotInstalled)?;
        let run_as = server_user()?;
        make_private(data_dir, run_as.as_ref())?;
        let folder = data_dir.canonicalize().map_err(at("resolve", data_dir))?;
        if let Some(user) = &run_as {
            reachable(&folder, user)?;
        }
        let socket_dir = socket_dir(&folder);
        make_private(&socket_dir, run_as.as_ref())?;
        Ok(Self { folder, socket_dir, bin, run_as })
    }

    /// The database cluster.
    pub fn pgdata(&self) -> PathBuf {
        self.folder.join("pgdata")
    }

    /// Where the server writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// A command of the installation, as the right user, in its own process group: a Ctrl-C meant for the hub must not stop
    /// the server before the hub has closed its affairs.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.folder).process_group(0).stdin(Stdio::null());
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin");
        if let Some(user) = &self.run_as {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// initdb into a folder beside, renamed when it is whole: one that was interrupted is never taken for a database.
    pub async fn init_once(&self) -> Result<(), EmbeddedError> {
        let pgdata = self.pgdata();
        if pgdata.join("PG_VERSION").exists() {
            return Ok(());
        }
        let new = self.folder.join("pgdata.new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &new)(error)),
            _ => {}
        }
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&new).args(["-U", NAME, "--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"]);
        let output = initdb.output().await.map_err(at("run initdb for", &new))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(EmbeddedError::Initdb { folder: self.folder.clone(), output: tail(&said) });
        }
        fs::rename(&new, &pgdata).map_err(at("rename", &new))
    }
}

/// The end of a log, for an error: the last 2000 characters.
pub(super) fn tail(text: &str) -> String {
    const SHOWN: usize = 2000;
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skip).collect()
}

pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError + use<> {
    let path = path.to_owned();
    move |source| EmbeddedError::Io { action, path, source }
}

fn find_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| has_programs(bin))
        .max();
    if let Some((_, bin)) = newest {
        return Some(bin);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|bin| has_programs(bin))
}

fn has_programs(bin: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file())
}

fn server_user() -> Result<Option<User>, EmbeddedError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match User::from_name(SERVER_USER) {
        Ok(Some(user)) => Ok(Some(user)),
        _ => Err(EmbeddedError::NoUser { user: SERVER_USER }),
    }
}

/// A folder that belongs to the server's user and that nobody else can read.
fn make_private(folder: &Path, owner: Option<&User>) -> Result<(), EmbeddedError> {
    // Folders above it are made as usual; only the last one is private.
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(at("make", parent))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at("make", folder)(error)),
        _ => {}
    }
    // Not a link: a folder of this name may have been laid out in a shared temporary folder by somebody else.
    let meta = fs::symlink_metadata(folder).map_err(at("look at", folder))?;
    let wanted = owner.map_or_else(|| geteuid().as_raw(), |user| user.uid.as_raw());
    let trusted = meta.uid() == wanted || meta.uid() == geteuid().as_raw();
    if !meta.is_dir() || !trusted {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "it is not a folder of this user");
        return Err(at("use", folder)(error));
    }
    if let Some(user) = owner
        && meta.uid() != wanted
    {
        chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(at("change the owner of", folder))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(at("change the mode of", folder))
}

/// Every folder above must let the server's user through.
fn reachable(folder: &Path, user: &User) -> Result<(), EmbeddedError> {
    for above in folder.ancestors().skip(1) {
        let meta = fs::metadata(above).map_err(at("look at", above))?;
        let needed = if meta.uid() == user.uid.as_raw() {
            0o100
        } else if meta.gid() == user.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        if meta.mode() & needed == 0 {
            return Err(EmbeddedError::Unreachable { user: user.name.clone(), folder: above.to_owned() });
        }
    }
    Ok(())
}

/// In the data folder when the path fits into a socket address, else in the temporary folder under a name that is always the
/// same for this data folder.
fn socket_dir(folder: &Path) -> PathBuf {
    let inside = folder.join("s");
    if inside.as_os_str().len() <= MOST_SOCKET_DIR {
        return inside;
    }
    let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new("/tmp").join(format!("switchyard-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_always_fits_and_is_the_same_each_time() {
        let short = Path::new("/var/lib/switchyard");
        assert_eq!(socket_dir(short), short.join("s"));
        let long = Path::new("/").join("d".repeat(200));
        assert_eq!(socket_dir(&long), socket_dir(&long));
        assert!(socket_dir(&long).as_os_str().len() <= MOST_SOCKET_DIR);
        assert_ne!(socket_dir(&long), socket_dir(&long.join("x")));
    }

    #[test]
    fn the_end_of_a_log_is_cut_at_a_character() {
        assert_eq!(tail(&"ä".repeat(3000)).chars().count(), 2000);
        assert_eq!(tail(" short\n"), "short");
    }
}
