//! Keys at rest: sealed with AES-256-GCM under the sealing key, so that whoever reads the database cannot issue certificates. The
//! id of the authority is authenticated with it: a sealed key cannot be put under another authority. Pure but for the random nonce.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Bytes of the sealing key.
const KEY_BYTES: usize = 32;

/// What the keys of authorities are sealed under. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(...)")
    }
}

/// Why something is not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The file holds something else.
    #[error("the sealing key is not 32 bytes in base64; make one with `openssl rand -base64 32`")]
    NotAKey,
    /// Another sealing key, another authority, or damaged bytes: they cannot be told apart.
    #[error("what is sealed was sealed under another sealing key, or is damaged")]
    NotOurs,
    /// The library refused.
    #[error("the key cannot be sealed")]
    Refused,
}

impl SealingKey {
    /// From the text of the file: 32 bytes in base64, with or without a line end.
    ///
    /// # Errors
    /// [`SealError::NotAKey`].
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        // 32 bytes are 44 characters.
        if text.len() != 44 {
            return Err(SealError::NotAKey);
        }
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| SealError::NotAKey)?);
        let bytes: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| SealError::NotAKey)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Nonce, sealed bytes, tag.
    ///
    /// # Errors
    /// [`SealError::Refused`].
    pub fn seal(&self, authority: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut bytes = plain.to_vec();
        let key = self.key()?;
        let nonce = key
            .seal_in_place_append_tag(Aad::from(authority.as_bytes()), &mut bytes)
            .map_err(|_| SealError::Refused)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut bytes);
        Ok(sealed)
    }

    /// What was sealed.
    ///
    /// # Errors
    /// [`SealError::NotOurs`].
    pub fn open(&self, authority: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::NotOurs)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::NotOurs)?;
        let mut bytes = Zeroizing::new(bytes.to_vec());
        let opened = self.key()?.open_in_place(nonce, Aad::from(authority.as_bytes()), &mut bytes);
        let plain = opened.map_err(|_| SealError::NotOurs)?.len();
        bytes.truncate(plain);
        Ok(bytes)
    }

    fn key(&self) -> Result<RandomizedNonceKey, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealingKey {
        SealingKey::parse(&STANDARD.encode([byte; KEY_BYTES])).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_key_for_the_same_authority_only() {
        let sealed = key(1).seal("a1", b"a private key").unwrap();
        assert_eq!(key(1).open("a1", &sealed).unwrap().as_slice(), b"a private key");
        assert_eq!(key(2).open("a1", &sealed).unwrap_err(), SealError::NotOurs);
        assert_eq!(key(1).open("a2", &sealed).unwrap_err(), SealError::NotOurs);
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_ne!(sealed, key(1).seal("a1", b"a private key").unwrap(), "a nonce is used once");
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key(1).open("a1", &damaged).unwrap_err(), SealError::NotOurs, "octet {at}");
            assert_eq!(key(1).open("a1", &sealed[..at]).unwrap_err(), SealError::NotOurs, "{at} octets");
        }
    }

    #[test]
    fn a_sealing_key_is_32_bytes_in_base64_and_is_never_shown() {
        let text = STANDARD.encode([7; 32]);
        assert_eq!(SealingKey::parse(&format!("{text}\n")).unwrap(), key(7));
        let (short, long) = (STANDARD.encode([7; 31]), STANDARD.encode([7; 33]));
        for wrong in ["", "secret", &short, &long, &text.replace('B', "*"), &"A".repeat(1 << 20)] {
            let error = SealingKey::parse(wrong).unwrap_err();
            assert!(error.to_string().contains("openssl rand -base64 32"), "{error}");
        }
        assert_eq!(format!("{:?}", key(7)), "SealingKey(...)");
    }
}
