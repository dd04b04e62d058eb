//! A secret that the hub gives once: into a new file that only its owner may read, or to the caller's standard output.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::error::{Exit, Failure};

/// A file that was made for a secret before the secret is asked for: when it cannot be made, no secret is lost.
#[derive(Debug)]
pub struct SecretFile {
    path: PathBuf,
    file: fs::File,
    /// Until the secret is in it the file is of no use to anybody.
    kept: bool,
}

impl SecretFile {
    /// Makes the file. One that is there already is left alone: it may hold another secret, and it has the rights of somebody else.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AlreadyExists => "give the name of a file that does not exist yet with --out",
                _ => "give the name of a file that can be made with --out",
            };
            Failure::usage(format!("cannot make the file {}", path.display()), error, remedy)
        })?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    /// Writes the secret; nothing else is in the file, not even a line end.
    pub fn keep(mut self, secret: &str) -> Result<PathBuf, io::Error> {
        self.file.write_all(secret.as_bytes())?;
        self.file.sync_all()?;
        self.kept = true;
        Ok(self.path.clone())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.kept {
            // It is this program's own new file. When it cannot be removed, it is empty or of no use.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Puts the secret of an answer where the caller wants it: into the file, whose path comes back, or with nothing into the result.
/// `undo` is the command that makes the secret of no use when it is lost.
pub fn deliver(what: &str, secret: &str, file: Option<SecretFile>, undo: &str) -> Result<Option<PathBuf>, Failure> {
    if secret.is_empty() {
        let remedy = format!("make it of no use with `{undo}`, then ask again without --request-id");
        let why = "the hub gave this token with its first answer to this request id, and shows it once";
        return Err(Failure::new(Exit::Conflict, what, why, remedy));
    }
    let Some(file) = file else { return Ok(None) };
    let path = file.keep(secret).map_err(|error| {
        let remedy = format!("the token is lost: make it of no use with `{undo}`, then ask again");
        Failure::new(Exit::Internal, what, format!("the file cannot be written: {error}"), remedy)
    })?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read_the_file_and_it_holds_the_secret_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = SecretFile::create(&path).unwrap();
        assert_eq!(deliver("x", "sys_1_s", Some(file), "undo").unwrap(), Some(path.clone()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "sys_1_s");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(deliver("x", "sys_1_s", None, "undo").unwrap(), None);
    }

    #[test]
    fn a_file_that_is_there_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "mine").unwrap();
        let failure = SecretFile::create(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.remedy.contains("does not exist yet"), "{failure:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn no_file_is_left_when_there_is_no_secret_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        drop(SecretFile::create(&path).unwrap());
        assert!(!path.exists());
        let failure =
            deliver("x", "", Some(SecretFile::create(&path).unwrap()), "yardctl token revoke ci").unwrap_err();
        assert!(failure.exit == Exit::Conflict && failure.remedy.contains("yardctl token revoke ci"), "{failure:?}");
        assert!(!path.exists());
    }
}
