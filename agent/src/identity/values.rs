//! What an agent proves itself with, and what is kept of it. Values only: no IO, no clock, no cryptography (that is `material`).
//!
//! A key never shows itself: its `Debug` is redacted, and so is that of everything that holds one.

use std::{
    fmt::{self, Debug, Display, Formatter},
    sync::Arc,
};

use jiff::Timestamp;

/// A private key in PEM (PKCS #8).
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Arc<str>);

impl Key {
    /// Takes the text as it is.
    #[must_use]
    pub fn from_pem(pem: &str) -> Self {
        Self(pem.into())
    }

    /// For the TLS stack, for a request to sign, and for where it is kept; for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Debug for Key {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// A certificate, and what its leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// In PEM: the leaf, then what it was issued by. Public.
    pub chain: Arc<str>,
    /// Hexadecimal digits.
    pub serial: String,
    /// The cluster of its SPIFFE name; none when it has no such name.
    pub cluster: Option<String>,
    /// It is good from then on, by the hub's clock.
    pub not_before: Timestamp,
    /// It is good until then, by the hub's clock.
    pub not_after: Timestamp,
    /// From then on the next one is asked for.
    pub renew_at: Timestamp,
}

/// A key and the certificate that was issued for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The key.
    pub key: Key,
    /// Its certificate.
    pub certificate: Certificate,
}

/// The public part of a join token, which is no secret: `syj_<id>_<secret>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(String);

impl TokenId {
    /// Characters of an id.
    pub const CHARS: usize = 12;

    /// An id as it stands in a token.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_id = text.len() == Self::CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for TokenId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A join token, whole.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its public part.
    pub id: TokenId,
    text: Arc<str>,
}

impl JoinToken {
    const PREFIX: &str = "syj_";
    /// What the hub takes at most.
    const MAX: usize = 256;

    /// Reads a token; None for what cannot be one. Only the hub can tell whether it is one of its own.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let rest = text.strip_prefix(Self::PREFIX).filter(|_| text.is_ascii() && text.len() <= Self::MAX)?;
        let (id, secret) = rest.split_once('_')?;
        let is_secret = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
        let id = TokenId::new(id).filter(|_| is_secret)?;
        Some(Self { id, text: text.into() })
    }

    /// For the hub, and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl Debug for JoinToken {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "JoinToken({}{}_..)", Self::PREFIX, self.id)
    }
}

/// A key that has no certificate yet, and the join tokens that it was, or is about to be, shown with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The key.
    pub key: Key,
    /// Tokens that belong to it: none of them may ever be shown with another key.
    pub tokens: Vec<TokenId>,
}

/// Everything that outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the agent proves itself with.
    pub identity: Option<Identity>,
    /// The key of an enrolment that may be under way.
    pub pending: Option<Pending>,
    /// Join tokens that gave a certificate, or may have, for a key that is not pending any more; the newest last.
    pub spent: Vec<TokenId>,
}

/// Join tokens that are kept in mind. They end within hours, and a cluster joins a few times in its life.
pub const MAX_SPENT: usize = 16;

impl Kept {
    /// Adds spent tokens, each once, and forgets the oldest beyond [`MAX_SPENT`].
    pub fn spend(&mut self, tokens: impl IntoIterator<Item = TokenId>) {
        for token in tokens {
            if !self.spent.contains(&token) {
                self.spent.push(token);
            }
        }
        let too_many = self.spent.len().saturating_sub(MAX_SPENT);
        self.spent.drain(..too_many);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "syj_abcdefghij23_Zm9vYmFyX2Jhei1xdXV4X3NlY3JldF9zZWNyZXRfMTI";

    #[test]
    fn no_debug_text_shows_a_key_or_the_secret_of_a_token() {
        let key = Key::from_pem("-----BEGIN PRIVATE KEY-----\nsecret\n");
        let certificate = Certificate {
            chain: "chain".into(),
            serial: "1".to_owned(),
            cluster: None,
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH,
            renew_at: Timestamp::UNIX_EPOCH,
        };
        let token = JoinToken::parse(TOKEN).expect("a token");
        let pending = Pending { key: key.clone(), tokens: vec![token.id.clone()] };
        let kept = Kept { identity: Some(Identity { key, certificate }), pending: Some(pending), spent: Vec::new() };
        let shown = format!("{kept:?} {kept:#?} {token:?}");
        assert!(!shown.contains("secret") && !shown.contains("Zm9v") && !shown.contains("BEGIN"), "{shown}");
        assert!(shown.contains("syj_abcdefghij23_.."), "{shown}");
    }

    #[test]
    fn a_token_is_told_from_what_is_none() {
        let token = JoinToken::parse(&format!("  {TOKEN}\n")).expect("a token with space around it");
        assert_eq!((token.id.as_str(), token.reveal()), ("abcdefghij23", TOKEN));
        for wrong in ["", "syj_", "sys_abcdefghij23_x", "syj_short_x", "syj_abcdefghij23_", "syj_abcdefghij23_a b"] {
            assert!(JoinToken::parse(wrong).is_none(), "{wrong}");
        }
        assert!(JoinToken::parse(&format!("{TOKEN}{}", "x".repeat(300))).is_none());
    }

    #[test]
    fn spent_tokens_are_kept_once_each_and_not_for_ever() {
        let mut kept = Kept::default();
        let id = |number: usize| TokenId::new(&format!("{number:012}")).expect("an id");
        kept.spend((0..20).map(id));
        kept.spend([id(19)]);
        assert_eq!((kept.spent.len(), kept.spent.last()), (MAX_SPENT, Some(&id(19))));
    }
}
