//! The chain of the audit log: each entry carries the hash of the one before it, so that an entry that was changed, left out, put in or
//! moved later shows. Postgres makes the hashes when a row is written (migrations/0007_access.sql); this is the same arithmetic for
//! whoever checks them. The chain cannot show that its newest end was cut off, nor that all of it was made anew by somebody who can
//! write the database: for that the newest hash is kept elsewhere and compared. Tests: `core/tests/audit_chain.rs`.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// What the first entry has as the hash before it.
pub const BEFORE_THE_FIRST: Hash = [0; 32];

/// The fields of an entry that its hash is over, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Grows with time.
    pub id: u64,
    /// Microseconds count; Postgres keeps no more.
    pub at: Timestamp,
    /// Who.
    pub actor: &'a str,
    /// What.
    pub action: &'a str,
    /// The policy, or empty.
    pub policy: &'a str,
    /// The shift, or empty.
    pub shift_id: &'a str,
    /// The JSON text as the store writes it.
    pub detail: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The request, or empty.
    pub request_id: &'a str,
    /// From where, or empty.
    pub source: &'a str,
    /// done, refused or failed.
    pub result: &'a str,
}

impl Link<'_> {
    /// The hash of this entry after that one. Every field goes in as its length in decimal, a colon and its bytes, so that no two
    /// different entries have the same bytes.
    pub fn hash(&self, previous: &Hash) -> Hash {
        let (id, at) = (self.id.to_string(), self.at.as_microsecond().to_string());
        let fields = [
            id.as_str(),
            &at,
            self.actor,
            self.action,
            self.policy,
            self.shift_id,
            self.detail,
            self.reason,
            self.request_id,
            self.source,
            self.result,
        ];
        let mut hasher = Sha256::new();
        hasher.update(previous);
        for field in fields {
            hasher.update(field.len().to_string());
            hasher.update(b":");
            hasher.update(field);
        }
        hasher.finalize().into()
    }
}

/// Why the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The hash before it is not that of the entry before.
    #[error("entry {id} does not follow entry {after}: an entry between them is missing, was put in, or was moved")]
    NotNext {
        /// Which.
        id: u64,
        /// The one that was read before it; 0: it is the first.
        after: u64,
    },
    /// The entry's own hash is not that of its fields.
    #[error("entry {id} was changed after it was written")]
    Changed {
        /// Which.
        id: u64,
    },
    /// Ids fall.
    #[error("entry {id} comes after entry {after}")]
    OutOfOrder {
        /// Which.
        id: u64,
        /// The one before it.
        after: u64,
    },
}

/// Goes along the chain, oldest entry first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verifier {
    count: u64,
    last: Option<(u64, Hash)>,
}

impl Verifier {
    /// Starts at the first entry of all.
    pub fn from_the_first() -> Self {
        Self::default()
    }

    /// Starts behind an entry whose hash is known.
    pub fn after(id: u64, hash: Hash) -> Self {
        Self { count: 0, last: Some((id, hash)) }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Broken`] when it does not fit; what was taken before it stays verified.
    pub fn take(&mut self, link: &Link<'_>, previous: &[u8], hash: &[u8]) -> Result<(), Broken> {
        let (after, expected) = self.last.unwrap_or((0, BEFORE_THE_FIRST));
        if link.id <= after {
            return Err(Broken::OutOfOrder { id: link.id, after });
        }
        if previous != expected {
            return Err(Broken::NotNext { id: link.id, after });
        }
        let own = link.hash(&expected);
        if hash != own {
            return Err(Broken::Changed { id: link.id });
        }
        self.last = Some((link.id, own));
        self.count += 1;
        Ok(())
    }

    /// Entries that fit.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last entry that fits, and its hash.
    pub fn head(&self) -> Option<(u64, Hash)> {
        self.last
    }
}
