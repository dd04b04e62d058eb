//! The authority that agents' certificates come from: the hub's own, whose sealed key is in the store, or one of files. It signs, keeps
//! the set of authorities that are trusted up to date for the door, and rotates. Which authority issues and which are trusted is
//! decided by core ([`switchyard_core::access::authority`]); who gets a certificate is for the services. Must not import `grpc`,
//! `gateway` or `engine`. Tests: `hub/tests/store_access.rs`, `hub/tests/grpc_enrollment.rs`.

pub mod csr;
mod files;
mod issue;
mod keeper;
mod report;
mod seal;
mod sources;

use std::{path::PathBuf, time::Duration};

pub use files::FileError;
pub use issue::{Leaf, MakeError};
pub use keeper::Authority;
pub use seal::{SealError, SealingKey};

use crate::{
    secret::Secret,
    store::{StoreError, access::AccessError},
};

/// Where the key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The hub makes its own, and seals it with the key in this file.
    Own(SealedUnder),
    /// From files.
    Files {
        /// The authority's certificate, and those above it.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// There is none: no certificate is issued, and the authorities that the store knows are trusted.
    None,
}

/// Where the sealing key is: 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealedUnder {
    /// In this file, which is read again when it changes.
    File(PathBuf),
    /// This one.
    Key(Secret),
}

/// What the authority is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityOptions {
    /// Where the key comes from.
    pub keys: Keys,
    /// Of the SPIFFE IDs in certificates.
    pub trust_domain: String,
    /// How long a certificate lives: 1 min to 30 days.
    pub ttl: Duration,
}

/// Why the hub cannot start with this authority.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be used.
    #[error("the authority for agents' certificates cannot be used")]
    File(#[from] FileError),
    /// The sealing key cannot be used.
    #[error("the sealing key of --ca-sealing-key-file or SWITCHYARD_HUB_CA_SEALING_KEY cannot be used")]
    Sealing(#[from] SealError),
    /// A certificate could not be made.
    #[error("the hub's own authority cannot be made")]
    Make(#[from] MakeError),
    /// The store.
    #[error("the authorities cannot be read from the store")]
    Store(#[from] StoreError),
}

/// Why there is no certificate, whoever asks.
#[derive(Debug, thiserror::Error)]
pub enum CannotIssue {
    /// No authority was configured.
    #[error(
        "this hub issues no certificates: it was started with --dev, without --ca-sealing-key-file and without --ca-cert and --ca-key"
    )]
    NoAuthority,
    /// The key is not here.
    #[error("this replica cannot issue certificates: {0}")]
    NoKey(String),
    /// The library refused.
    #[error(transparent)]
    Make(#[from] MakeError),
}

/// Why there is no new authority.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// It is not the hub's to rotate.
    #[error(
        "the authority comes from the files of --ca-cert and --ca-key, so it is rotated there: write a new certificate and key, and every \
         replica takes them within seconds"
    )]
    External,
    /// There is none.
    #[error(transparent)]
    Cannot(#[from] CannotIssue),
    /// The key could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store.
    #[error(transparent)]
    Access(#[from] AccessError),
}
