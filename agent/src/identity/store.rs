//! Where an identity is kept: a Secret of the agent's own namespace, which its replicas share, or a folder for an agent outside of
//! Kubernetes. What cannot be read in there is taken as not there, and said in the log; it is replaced by the next write.

use std::{
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::warn;

use super::{
    material,
    values::{Identity, Kept, Key, Pending, TokenId},
};
use crate::{
    args::gates::ObjectName,
    text::causes,
    watch::secret::{ObjectsError, Secrets, Stored},
    webhook::certificate::Data,
};

/// Keys of the Secret, and of the file in the folder.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const RENEW_AT: &str = "renew-at";
const PENDING_KEY: &str = "pending.key";
const PENDING_TOKENS: &str = "pending-tokens";
const SPENT: &str = "spent-tokens";
/// The one file of the folder: its parts belong together, so they change together.
const FILE: &str = "identity.json";

/// Why an identity cannot be kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The API server does not let the agent do it.
    #[error("the agent's identity cannot be kept")]
    Objects(#[from] ObjectsError),
    /// The folder does not.
    #[error("the agent's identity cannot be kept in {}; name a folder that this process may write, with --identity-dir", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A state of the store, for a write that must not meet another.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Version(String);

/// Where an identity is kept.
pub enum Store {
    /// In this Secret.
    Secret(Secrets, ObjectName),
    /// In this folder.
    Folder(PathBuf),
}

impl Store {
    /// What is kept for this cluster, and which state of it this is.
    ///
    /// # Errors
    /// Names the Secret or the file, and the remedy.
    pub async fn load(&self, cluster: &str) -> Result<(Kept, Version), StoreError> {
        match self {
            Self::Secret(secrets, name) => {
                let stored = secrets.secret(name).await?;
                Ok((decode(&stored.data, cluster), Version(stored.version)))
            }
            Self::Folder(folder) => {
                let text = read(folder)?;
                Ok((decode(&parse(folder, &text), cluster), Version(text)))
            }
        }
    }

    /// Keeps this instead, and says which state of it this is. None when somebody else changed it since it was read.
    ///
    /// # Errors
    /// Names the Secret or the file, and the remedy.
    pub async fn store(&self, kept: &Kept, version: &Version) -> Result<Option<Version>, StoreError> {
        match self {
            Self::Secret(secrets, name) => {
                let stored = Stored { data: encode(kept), version: version.0.clone() };
                Ok(secrets.store(name, &stored).await?.map(Version))
            }
            Self::Folder(folder) => {
                if read(folder)? != version.0 {
                    return Ok(None);
                }
                write(folder, &encode(kept))?;
                Ok(Some(Version(read(folder)?)))
            }
        }
    }
}

fn encode(kept: &Kept) -> Data {
    let lines = |ids: &[TokenId]| ids.iter().map(TokenId::as_str).collect::<Vec<_>>().join("\n");
    let mut entries: Vec<(&str, String)> = Vec::new();
    if let Some(Identity { key, certificate }) = &kept.identity {
        entries.push((CERTIFICATE, certificate.chain.to_string()));
        entries.push((KEY, key.reveal().to_owned()));
        entries.push((RENEW_AT, certificate.renew_at.to_string()));
    }
    if let Some(Pending { key, tokens }) = &kept.pending {
        entries.push((PENDING_KEY, key.reveal().to_owned()));
        entries.push((PENDING_TOKENS, lines(tokens)));
    }
    if !kept.spent.is_empty() {
        entries.push((SPENT, lines(&kept.spent)));
    }
    entries.into_iter().map(|(key, text)| (key.to_owned(), text.into_bytes())).collect()
}

fn decode(data: &Data, cluster: &str) -> Kept {
    let bytes = |name: &str| data.get(name).map(Vec::as_slice).filter(|bytes| !bytes.is_empty());
    let text = |name: &str| bytes(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let ids = |name: &str| text(name).unwrap_or_default().lines().filter_map(TokenId::new).collect::<Vec<_>>();
    let identity = match (bytes(CERTIFICATE), bytes(KEY)) {
        (Some(chain), Some(key)) => {
            let renew_at = text(RENEW_AT).and_then(|text| text.parse().ok());
            material::identity(chain, key, renew_at)
                .inspect_err(|error| {
                    let error = causes(error);
                    warn!(error, "The certificate that is kept cannot be read; another one is asked for");
                })
                .ok()
        }
        _ => None,
    };
    let identity = identity.filter(|identity| {
        let of = identity.certificate.cluster.as_deref();
        let is_own = of.is_none_or(|of| of == cluster);
        if !is_own {
            warn!(
                cluster,
                kept_for = of,
                "The certificate that is kept is for another cluster; another one is asked for"
            );
        }
        is_own
    });
    let pending = text(PENDING_KEY).map(Key::from_pem).filter(|key| material::request(key, cluster).is_ok());
    let pending = pending.map(|key| Pending { key, tokens: ids(PENDING_TOKENS) });
    Kept { identity, pending, spent: ids(SPENT) }
}

/// The file as it is; empty when it is not there.
fn read(folder: &Path) -> Result<String, StoreError> {
    let path = folder.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(StoreError::Folder { path, source }),
    }
}

fn parse(folder: &Path, text: &str) -> Data {
    if text.is_empty() {
        return Data::new();
    }
    let parsed: Result<std::collections::BTreeMap<String, String>, _> = serde_json::from_str(text);
    match parsed {
        Ok(parsed) => parsed.into_iter().map(|(name, text)| (name, text.into_bytes())).collect(),
        // Not the error itself: it may quote what it met.
        Err(_) => {
            warn!(folder = %folder.display(), "The identity that is kept is no JSON; another one is asked for");
            Data::new()
        }
    }
}

/// Whole or not at all, and for this user alone.
fn write(folder: &Path, data: &Data) -> Result<(), StoreError> {
    let (path, fresh) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
    let text: std::collections::BTreeMap<&String, _> =
        data.iter().map(|(name, bytes)| (name, String::from_utf8_lossy(bytes))).collect();
    let write = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // One that is left of a crash may have another mode.
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(serde_json::to_string_pretty(&text)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    write().map_err(|source| StoreError::Folder { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jiff::ToSpan;

    use super::*;
    use crate::identity::material::tests::Authority;

    fn kept(cluster: &str) -> Kept {
        let now = jiff::Timestamp::from_second(1_795_000_000).expect("a moment");
        let identity = Authority::new().identity(cluster, now, now + 24.hours());
        let ids = ["abcdefghij23", "bbbbbbbbbbbb"].map(|text| TokenId::new(text).expect("an id"));
        let key = material::new_key().expect("a key");
        Kept {
            identity: Some(identity),
            pending: Some(Pending { key, tokens: ids.to_vec() }),
            spent: ids[..1].to_vec(),
        }
    }

    #[test]
    fn what_is_kept_comes_back_whole() {
        let kept = kept("blue");
        assert_eq!(decode(&encode(&kept), "blue"), kept);
        assert_eq!(decode(&encode(&Kept::default()), "blue"), Kept::default());
        assert_eq!(decode(&Data::new(), "blue"), Kept::default());
    }

    #[test]
    fn what_is_damaged_or_of_another_cluster_is_taken_as_not_there() {
        let whole = encode(&kept("blue"));
        assert_eq!(decode(&whole, "green").identity, None);
        for part in [CERTIFICATE, KEY] {
            let mut damaged = whole.clone();
            damaged.insert(part.to_owned(), b"\xff not PEM".to_vec());
            assert_eq!(decode(&damaged, "blue").identity, None, "{part}");
        }
        let mut damaged = whole;
        damaged.insert(PENDING_KEY.to_owned(), b"not PEM".to_vec());
        damaged.insert(SPENT.to_owned(), b"short\nabcdefghij23\n../../etc".to_vec());
        let read = decode(&damaged, "blue");
        assert_eq!((read.pending, read.spent.len()), (None, 1));
        assert!(read.identity.is_some());
    }

    #[tokio::test]
    async fn a_folder_keeps_it_for_its_user_alone_and_notices_another_writer() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("identity");
        let store = Store::Folder(folder.clone());
        let (nothing, first) = store.load("blue").await.expect("a folder that is not there is empty");
        assert_eq!(nothing, Kept::default());
        let one = kept("blue");
        let second = store.store(&one, &first).await.expect("it is written");
        let mode = std::fs::metadata(folder.join(FILE)).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(store.store(&kept("blue"), &first).await.expect("it is read"), None, "it changed since");
        let (read, version) = store.load("blue").await.expect("it is read");
        assert_eq!((read, Some(version.clone())), (one, second));
        // What a crash left behind does not stand in the way.
        std::fs::write(folder.join("identity.json.new"), "half").expect("a file");
        assert!(store.store(&Kept::default(), &version).await.expect("it is written").is_some());
        std::fs::write(folder.join(FILE), "{ no json").expect("a file");
        assert_eq!(store.load("blue").await.expect("it is read").0, Kept::default());
    }
}
