//! Secrets that the hub makes: join tokens (`syj_<id>_<secret>`, one certificate for one cluster's agent) and service tokens
//! (`sys_<id>_<secret>`). The store keeps the SHA-256 of the secret; with 256 random bits nothing slower is needed. The prefixes let
//! scanners of repositories find a token that was committed.

use std::fmt;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::ids::ClusterName;

/// Characters of the id: 60 random bits in base32 letters.
pub const ID_CHARS: usize = 12;
/// Characters of the secret: 32 bytes in base64url without padding (RFC 4648, section 5).
pub const SECRET_CHARS: usize = 43;

/// Which kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// For the first certificate of an agent.
    Join,
    /// For a program that calls the API.
    Service,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            TokenKind::Join => "syj",
            TokenKind::Service => "sys",
        }
    }
}

/// A token, whole. It never shows its secret in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which kind.
    pub kind: TokenKind,
    /// What the store finds it by; no secret.
    pub id: String,
    secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}_{}_...)", self.kind.prefix(), self.id)
    }
}

impl Token {
    /// A token of random bytes from the caller: 8 for the id, of which 60 bits count, and 32 for the secret.
    pub fn new(kind: TokenKind, id: [u8; 8], secret: [u8; 32]) -> Self {
        const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let bits = u64::from_be_bytes(id);
        let letter = |i: usize| char::from(BASE32[((bits >> (5 * i)) & 31) as usize]);
        Self { kind, id: (0..ID_CHARS).map(letter).collect(), secret: base64url(&secret) }
    }

    /// Reads a token; none for any text that is not exactly one.
    pub fn parse(text: &str) -> Option<Self> {
        // Bounded before anything else: this comes from anybody.
        if text.len() != 3 + 1 + ID_CHARS + 1 + SECRET_CHARS || !text.is_ascii() {
            return None;
        }
        let kind = [TokenKind::Join, TokenKind::Service].into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let (id, secret) = text[3..].strip_prefix('_')?.split_at(ID_CHARS);
        let secret = secret.strip_prefix('_')?;
        let in_id = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        let in_secret = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (id.chars().all(in_id) && secret.chars().all(in_secret)).then(|| Self {
            kind,
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// What the store keeps: compared in constant time by the shell.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }

    /// The whole text, for the one answer that shows it.
    pub fn reveal(&self) -> String {
        format!("{}_{}_{}", self.kind.prefix(), self.id, self.secret)
    }
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..=chunk.len() {
            text.push(char::from(LETTERS[((bits >> (18 - 6 * i)) & 63) as usize]));
        }
    }
    text
}

/// What is stored of a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster that it is bound to.
    pub cluster: ClusterName,
    /// It is good until then.
    pub expires_at: Timestamp,
    /// Taken back.
    pub revoked_at: Option<Timestamp>,
    /// The SHA-256 of the public key that it was used for.
    pub used_for: Option<[u8; 32]>,
}

/// Why a join token gives no certificate. To the one who showed it all of them are one sentence; the log and the audit tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// Taken back.
    #[error("the join token was revoked")]
    Revoked,
    /// Used for another key: somebody else has or had it.
    #[error("the join token was used before, for another key")]
    Replayed,
    /// Bound to another cluster.
    #[error("the join token is for another cluster")]
    OtherCluster,
}

impl JoinToken {
    /// May this key have a certificate for it now? Again for the same key, since an answer can get lost.
    ///
    /// # Errors
    /// [`JoinRefused`]
    pub fn used(&self, cluster: &ClusterName, key: [u8; 32], now: Timestamp) -> Result<JoinToken, JoinRefused> {
        if self.revoked_at.is_some() {
            return Err(JoinRefused::Revoked);
        }
        if self.used_for.is_some_and(|used| used != key) {
            return Err(JoinRefused::Replayed);
        }
        if self.cluster != *cluster {
            return Err(JoinRefused::OtherCluster);
        }
        if now >= self.expires_at {
            return Err(JoinRefused::Expired);
        }
        Ok(JoinToken { used_for: Some(key), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_never_shown() {
        let token = Token::new(TokenKind::Join, [0xff; 8], [7; 32]);
        let text = token.reveal();
        assert_eq!(text.len(), 60);
        assert!(text.starts_with("syj_777777777777_BwcHBwcH"), "{text}");
        assert_eq!(Token::parse(&text), Some(token.clone()));
        assert!(!format!("{token:?}").contains("BwcH"), "{token:?}");
        assert_eq!(base64url(b"\xfb\xff\x00"), "-_8A");
        assert_eq!(base64url(b"ab"), "YWI");
        for wrong in
            ["", "syj_", &text[..59], &format!("{text}x"), &text.replace("syj", "syx"), &text.replace('7', "é")]
        {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_join_token_is_good_for_one_key_of_one_cluster() {
        let (blue, green): (ClusterName, ClusterName) = ("blue".parse().unwrap(), "green".parse().unwrap());
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = JoinToken { cluster: blue.clone(), expires_at: at(100), revoked_at: None, used_for: None };
        assert_eq!(token.used(&green, [1; 32], at(5)), Err(JoinRefused::OtherCluster));
        let used = token.used(&blue, [1; 32], at(5)).unwrap();
        assert_eq!(used.used(&blue, [1; 32], at(99)).unwrap(), used, "a lost answer");
        assert_eq!(used.used(&blue, [2; 32], at(6)), Err(JoinRefused::Replayed));
        assert_eq!(used.used(&blue, [1; 32], at(100)), Err(JoinRefused::Expired));
        let revoked = JoinToken { revoked_at: Some(at(1)), ..used };
        assert_eq!(revoked.used(&blue, [1; 32], at(5)), Err(JoinRefused::Revoked));
    }
}
