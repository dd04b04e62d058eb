//! The access file: read at the start, where a fault stops the hub, and looked at every second by its content, so that a new
//! ConfigMap is in force without a restart. What is different counts when it was seen twice: an editor or a copy writes a file bit by
//! bit, and half of a list of bindings is a list of bindings. A new one with a fault is refused as a whole: nobody loses or gains a right by half of a
//! file. Knows nothing of calls.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use switchyard_core::{
    access::{AccessConfig, RawAccess},
    policy::Violation,
};
use tokio::io::AsyncReadExt;

use super::escaped;

/// A mounted ConfigMap changes within a minute or two; this adds nothing to it.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of the file: a ConfigMap holds a mebibyte at the most.
const MOST_BYTES: usize = 1 << 20;
/// Violations of one message.
const MOST_SHOWN: usize = 50;

/// Why an access file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// Not there.
    #[error("the access file {file} cannot be read: {source}; check --access-file")]
    Read {
        /// Its path.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too long.
    #[error("the access file {0} is longer than {MOST_BYTES} bytes")]
    Length(String),
    /// Not YAML, or with fields that there are not.
    #[error("the access file {file} is not the YAML that it should be: {problem}")]
    Yaml {
        /// Its path.
        file: String,
        /// What and where.
        problem: String,
    },
    /// What stands in it.
    #[error("the access file {file} is not usable:{}", lines(.violations))]
    Content {
        /// Its path.
        file: String,
        /// All that was found.
        violations: Vec<Violation>,
    },
}

fn lines(violations: &[Violation]) -> String {
    let mut text = String::new();
    for violation in violations.iter().take(MOST_SHOWN) {
        // Writing into a String does not fail.
        let _ = write!(text, "\n  {violation}");
    }
    let more = violations.len().saturating_sub(MOST_SHOWN);
    if more > 0 {
        let _ = write!(text, "\n  and {more} more");
    }
    text
}

/// The file, with what was last seen in it.
#[derive(Debug)]
pub struct AccessFile {
    path: PathBuf,
    seen: Option<Seen>,
    /// Seen at the last look, and not yet for the second time.
    coming: Option<Seen>,
}

type Seen = Result<Vec<u8>, std::io::ErrorKind>;

impl AccessFile {
    /// A file that was not looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None, coming: None }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// None when nothing is different, or was seen so only once; else what is in it now. The first look of all counts at once.
    ///
    /// # Errors
    /// [`AccessFileError`], once for each state of the file.
    pub async fn look(&mut self) -> Option<Result<Arc<AccessConfig>, AccessFileError>> {
        let read = read(&self.path).await;
        let seen = read.as_ref().map(Vec::clone).map_err(std::io::Error::kind);
        if self.seen.as_ref() == Some(&seen) {
            self.coming = None;
            return None;
        }
        if self.seen.is_some() && self.coming.as_ref() != Some(&seen) {
            self.coming = Some(seen);
            return None;
        }
        self.coming = None;
        self.seen = Some(seen);
        let file = self.path.display().to_string();
        Some(match read {
            Ok(text) => parse(&file, &text).map(Arc::new),
            Err(source) => Err(AccessFileError::Read { file, source }),
        })
    }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    tokio::fs::File::open(path).await?.take(MOST_BYTES as u64 + 1).read_to_end(&mut text).await?;
    Ok(text)
}

fn parse(file: &str, text: &[u8]) -> Result<AccessConfig, AccessFileError> {
    let file = file.to_owned();
    if text.len() > MOST_BYTES {
        return Err(AccessFileError::Length(file));
    }
    // An empty file gives nobody anything, and says so at least on purpose.
    let raw: RawAccess = if text.trim_ascii().is_empty() {
        RawAccess::default()
    } else {
        let parsed = serde_norway::from_slice(text);
        parsed.map_err(|error| AccessFileError::Yaml { file: file.clone(), problem: escaped(&error.to_string()) })?
    };
    AccessConfig::check(&raw).map_err(|violations| AccessFileError::Content { file, violations })
}

#[cfg(test)]
mod tests {
    use switchyard_core::access::{Identity, Role};

    use super::*;

    const GOOD: &str = "
issuers:
  - {name: corp, issuer: https://login.example.com, audiences: [switchyard]}
bindings:
  - {role: operator, namespaces: [shop], clusters: ['*'], subjects: [{issuer: corp, group: deployers}]}
";

    fn ann() -> Identity {
        Identity::Jwt { issuer: "corp".into(), user: "ann".into(), groups: ["deployers".to_owned()].into() }
    }

    #[tokio::test]
    async fn a_file_is_taken_when_it_changes_and_its_faults_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.yaml");
        let mut file = AccessFile::new(&path);
        let missing = file.look().await.unwrap().unwrap_err().to_string();
        assert!(missing.contains("--access-file"), "{missing}");
        assert!(file.look().await.is_none(), "told once");
        std::fs::write(&path, &GOOD[..GOOD.len() / 2]).unwrap();
        assert!(file.look().await.is_none(), "half written");
        std::fs::write(&path, GOOD).unwrap();
        assert!(file.look().await.is_none(), "seen once");
        let config = file.look().await.unwrap().unwrap();
        assert!(config.grants_of(&ann()).has_role_somewhere(Role::Operator));
        assert!(file.look().await.is_none());
        std::fs::write(&path, GOOD.replace("operator", "king").replace("[shop]", "[]")).unwrap();
        assert!(file.look().await.is_none(), "seen once");
        let refused = file.look().await.unwrap().unwrap_err().to_string();
        for part in ["bindings[0].role", "king", "bindings[0].namespaces"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        assert!(file.look().await.is_none(), "told once");
        std::fs::write(&path, GOOD).unwrap();
        assert!(file.look().await.is_none(), "seen once");
        assert!(file.look().await.unwrap().is_ok());
    }

    #[test]
    fn what_is_no_access_file_is_refused_with_its_place() {
        for (text, part) in [
            ("bindings: 7", "bindings"),
            ("bindngs: []", "bindngs"),
            ("issuers: [{name: corp, isuer: x}]", "isuer"),
            ("a: [", "YAML"),
        ] {
            let refused = parse("access.yaml", text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
        assert!(matches!(parse("a", &vec![b' '; MOST_BYTES + 1]), Err(AccessFileError::Length(_))));
        assert_eq!(parse("a", b" \n").unwrap(), AccessConfig::default());
    }
}
