//! What goes into the machine of the identity and what comes out of it. Values only.

use jiff::Timestamp;

use crate::identity::values::{Certificate, Identity, Kept, Key, TokenId};

/// How this agent may prove itself without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// There is a place for a join token.
    pub join_token: bool,
    /// There is a token of its ServiceAccount.
    pub account: bool,
}

/// The proof of one enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// This join token.
    JoinToken(TokenId),
    /// The ServiceAccount's token, as it is at that moment.
    Account,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read what is kept: `Loaded` or `Unloaded` follows.
    Load,
    /// Make a key: `Made` or `Failed` follows.
    Generate,
    /// Keep this instead of what was read last: `Stored`, `Conflict` or `Unstored` follows.
    Store(Kept),
    /// Ask for the first certificate: `Certified`, `Refused` or `Failed` follows.
    Enroll {
        /// For this key.
        key: Key,
        /// With this proof.
        way: Way,
    },
    /// Ask for the next certificate: `Certified`, `Refused` or `Failed` follows.
    Renew {
        /// For this key.
        key: Key,
        /// Over a connection with this one.
        with: Identity,
    },
    /// Nothing, until then or until something is heard.
    Wait {
        /// The time.
        until: Timestamp,
        /// Why there is no certificate to be had, and what somebody has to do; None when all is well.
        stuck: Option<String>,
    },
}

/// What came of it, and what happens without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What is kept.
    Loaded(Kept),
    /// It cannot be read.
    Unloaded,
    /// It is kept.
    Stored,
    /// Somebody else changed what is kept since it was read.
    Conflict,
    /// It is not known whether it is kept.
    Unstored,
    /// A key.
    Made(Key),
    /// A certificate for the key of the call.
    Certified(Certificate),
    /// The hub does not take the proof, or the certificate of the connection. Its words.
    Refused(String),
    /// No answer, or one that says to try again. Why.
    Failed(String),
    /// The join token that is given now.
    Token(Option<TokenId>),
    /// The hub did not take the certificate with this serial on a stream.
    Doubted(String),
}
