//! Files that somebody else renews: this agent's certificate and key, the authorities of the hub, tokens. They are read every two
//! seconds and compared by content: kubelets swap links, and watches on files do not work on every file system.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    material::{self, MaterialError},
    values::Identity,
};

/// How often files are read. They are a few kB each.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// No file of ours is larger.
const MAX_SIZE: u64 = 256 * 1024;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("--{flag} {} cannot be read; name a file that this process may read", path.display())]
    Read {
        /// Which flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificate and key are not one identity.
    #[error("--tls-cert {} and --tls-key do not make an identity", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MaterialError,
    },
    /// It is another cluster's.
    #[error("--tls-cert {} is for the cluster {of}, and this agent is of {cluster}; give this cluster's certificate", path.display())]
    OtherCluster {
        /// The certificate's file.
        path: PathBuf,
        /// What it says.
        of: String,
        /// What --cluster says.
        cluster: String,
    },
    /// No certificate in it.
    #[error("--tls-ca {} holds no certificate in PEM; name the file of the authority that signed the hub's", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a file of the arguments.
///
/// # Errors
/// Names the flag and the file.
pub fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    let in_file = |source| FileError::Read { flag, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut bytes)).map_err(in_file)?;
    Ok(bytes)
}

/// The hub's authorities in this file.
///
/// # Errors
/// When it cannot be read, or holds none.
pub fn authorities(path: &Path) -> Result<Arc<[u8]>, FileError> {
    let pem = read("tls-ca", path)?;
    if !material::are_authorities(&pem) {
        return Err(FileError::NoAuthority { path: path.to_owned() });
    }
    Ok(pem.into())
}

/// The identity in these files.
///
/// # Errors
/// When they cannot be read, do not belong together, or are another cluster's.
pub fn identity(certificate: &Path, key: &Path, cluster: &str) -> Result<Identity, FileError> {
    let (chain, key) = (read("tls-cert", certificate)?, read("tls-key", key)?);
    let path = || certificate.to_owned();
    let identity =
        material::identity(&chain, &key, None).map_err(|source| FileError::Identity { path: path(), source })?;
    match &identity.certificate.cluster {
        Some(of) if of != cluster => {
            Err(FileError::OtherCluster { path: path(), of: of.clone(), cluster: cluster.to_owned() })
        }
        _ => Ok(identity),
    }
}
