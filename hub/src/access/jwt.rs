//! What makes a JSON Web Token (RFC 7519) a proof: its signature by a key of the issuer that it names, under an algorithm that fits
//! the key (RFC 8725, section 3.1), its audience, its times, its claims. Values in, values out: no network, no clock, no log. The
//! errors are for the hub's log; a caller is not told which part of his token was wrong.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::verify,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of a token; a header of HTTP is as long at the most.
pub const MOST_TOKEN: usize = 16 * 1024;
/// Bytes of the first part of a token, decoded: algorithm, key id and type are below 300.
const MOST_HEADER: usize = 2048;
/// Characters of a key's id.
const MOST_KEY_ID: usize = 256;
/// Clocks of issuers and hubs differ by that much.
pub const LEEWAY_SECONDS: i64 = 30;
/// Keys of one issuer; big providers have about ten.
pub const MOST_KEYS: usize = 100;
/// Characters of a user's name; the audit log keeps as many.
const MOST_USER: usize = 256;
/// Groups of one user; beyond it directories send a link instead.
const MOST_GROUPS: usize = 500;
/// Types of tokens that are meant to be shown to a service (RFC 9068 the second); others, such as a logout token, look alike.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64url with JSON in them.
    #[error("it is not a JSON Web Token: {0}")]
    Shape(&'static str),
    /// Nobody's token, or one that anybody could make.
    #[error("its algorithm {0:?} is not taken")]
    Algorithm(String),
    /// A header that changes how the token is read (RFC 7515, section 4.1.11).
    #[error("it has a critical header, and none is understood")]
    Critical,
    /// Another kind of token.
    #[error("its type {0:?} is not one that proves who calls")]
    Type(String),
    /// No issuer of the access file.
    #[error("its issuer {0:?} is not in the access file")]
    Issuer(String),
    /// No key of the issuer.
    #[error("the issuer has no key {0:?} for it")]
    UnknownKey(String),
    /// A key for something else.
    #[error("its algorithm {alg:?} does not fit the issuer's key {kid:?}")]
    Mismatch {
        /// Of the token.
        alg: Algorithm,
        /// Of the key.
        kid: String,
    },
    /// Signed by somebody else, or changed.
    #[error("its signature is not the issuer's")]
    Signature,
    /// A claim that is missing, or is not what it has to be.
    #[error("its claim {0:?} is missing or is not what it has to be")]
    Claim(String),
    /// For another service.
    #[error("it is for another audience")]
    Audience,
    /// Over.
    #[error("it ended at {0}")]
    Expired(Timestamp),
    /// Not yet.
    #[error("it is good from {0} on")]
    Early(Timestamp),
}

/// A key of an issuer, with what it is for.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its id, if it has one.
    pub kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    /// None for what verifies no signature of ours: symmetric keys, keys to encrypt with, curves that are not taken.
    pub fn of(jwk: &Jwk) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let common = &jwk.common;
        let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
            && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify))
            && common.key_id.as_ref().is_none_or(|kid| kid.len() <= MOST_KEY_ID);
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => vec![ES256],
                EllipticCurve::P384 => vec![ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => vec![EdDSA],
            _ => return None,
        };
        // A key that says what it is for is for nothing else.
        if let Some(own) = common.key_algorithm {
            algorithms.retain(|alg| own == (*alg).into());
        }
        if !signs || algorithms.is_empty() {
            return None;
        }
        Some(Self { kid: common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(jwk).ok()? })
    }
}

/// Reads a JSON Web Key Set (RFC 7517). Keys that cannot be used are passed over, as the standard asks for; when none is left the
/// issuer has none: whoever takes all his keys back is obeyed.
///
/// # Errors
/// What is wrong with the set as a whole.
pub fn key_set(text: &[u8]) -> Result<Vec<Key>, &'static str> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|_| "it is not a JSON Web Key Set")?;
    if set.keys.len() > MOST_KEYS {
        return Err("it has more than 100 keys");
    }
    Ok(set.keys.into_iter().filter_map(|key| Key::of(&serde_json::from_value(key).ok()?)).collect())
}

/// A token that was taken apart and not believed yet.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    /// The key that it names.
    pub kid: Option<String>,
    alg: Algorithm,
    /// Whose it says it is.
    pub issuer: String,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Takes a token apart.
///
/// # Errors
/// [`JwtError`] when it cannot be one that is taken, whoever it is from.
pub fn parse(token: &str) -> Result<Unverified<'_>, JwtError> {
    if token.len() > MOST_TOKEN {
        return Err(JwtError::Shape("it is longer than 16 KiB"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwtError::Shape("it has not three parts"));
    };
    let decoded = URL_SAFE_NO_PAD.decode(header).map_err(|_| JwtError::Shape("its header is not base64url"))?;
    if decoded.len() > MOST_HEADER {
        return Err(JwtError::Shape("its header is longer than 2048 bytes"));
    }
    let decoded: Header =
        serde_json::from_slice(&decoded).map_err(|_| JwtError::Shape("its header is not the JSON of a header"))?;
    let alg = algorithm(&decoded.alg).ok_or_else(|| JwtError::Algorithm(short(&decoded.alg)))?;
    if decoded.crit.is_some() {
        return Err(JwtError::Critical);
    }
    if let Some(typ) = decoded.typ.filter(|typ| !TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known))) {
        return Err(JwtError::Type(short(&typ)));
    }
    if decoded.kid.as_ref().is_some_and(|kid| kid.len() > MOST_KEY_ID) {
        return Err(JwtError::Shape("the id of its key is longer than 256 bytes"));
    }
    let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| JwtError::Shape("its claims are not base64url"))?;
    let claims: Map<String, Value> =
        serde_json::from_slice(&claims).map_err(|_| JwtError::Shape("its claims are not a JSON object"))?;
    let issuer = text(&claims, "iss")?.to_owned();
    let signed = &token[..header.len() + 1 + payload.len()];
    Ok(Unverified { kid: decoded.kid, alg, issuer, claims, signed, signature })
}

/// Public-key signatures only: a symmetric key would have to be known to the hub and the issuer, and `none` is no signature.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// What is asked of a token beside its signature.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Exactly.
    pub issuer: &'a str,
    /// One of them.
    pub audiences: &'a BTreeSet<String>,
}

/// A token that is believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Its end.
    pub expires_at: Timestamp,
    claims: Map<String, Value>,
}

#[cfg(test)]
impl Verified {
    /// Believed without a look.
    pub(super) fn with(expires_at: Timestamp, claims: Value) -> Self {
        Self { expires_at, claims: claims.as_object().cloned().unwrap_or_default() }
    }
}

impl Unverified<'_> {
    /// Whom it says it is about.
    ///
    /// # Errors
    /// [`JwtError::Claim`] when it does not.
    pub fn subject(&self) -> Result<&str, JwtError> {
        text(&self.claims, "sub")
    }

    /// The key that the token names, among those of its issuer. A token that names none is taken when there is one key only that it
    /// can be from.
    ///
    /// # Errors
    /// [`JwtError::UnknownKey`] when there is none: the issuer may have a new one. [`JwtError::Mismatch`] when it is for other tokens.
    pub fn key<'k>(&self, keys: &'k [Key]) -> Result<&'k Key, JwtError> {
        let named = || short(self.kid.as_deref().unwrap_or_default());
        let mut fitting = keys.iter().filter(|key| key.algorithms.contains(&self.alg));
        match &self.kid {
            Some(kid) => {
                // Two keys of one id and of different kinds are allowed (RFC 7517, section 4.5).
                if let Some(key) = fitting.find(|key| key.kid.as_ref() == Some(kid)) {
                    return Ok(key);
                }
                if keys.iter().any(|key| key.kid.as_ref() == Some(kid)) {
                    return Err(JwtError::Mismatch { alg: self.alg, kid: named() });
                }
                Err(JwtError::UnknownKey(named()))
            }
            None => match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(JwtError::UnknownKey(named())),
            },
        }
    }

    /// Believes the token, or not.
    ///
    /// # Errors
    /// [`JwtError`] with the first thing that is wrong.
    pub fn verify(self, key: &Key, asked: Asked<'_>, now: Timestamp) -> Result<Verified, JwtError> {
        if !key.algorithms.contains(&self.alg) {
            return Err(JwtError::Mismatch { alg: self.alg, kid: short(key.kid.as_deref().unwrap_or_default()) });
        }
        let good = verify(self.signature, self.signed.as_bytes(), &key.key, self.alg).unwrap_or(false);
        if !good {
            return Err(JwtError::Signature);
        }
        if self.issuer != asked.issuer {
            return Err(JwtError::Issuer(short(&self.issuer)));
        }
        let audience = match self.claims.get("aud") {
            Some(Value::String(one)) => asked.audiences.contains(one),
            Some(Value::Array(some)) => {
                some.iter().filter_map(Value::as_str).any(|audience| asked.audiences.contains(audience))
            }
            _ => false,
        };
        if !audience {
            return Err(JwtError::Audience);
        }
        let now = now.as_second();
        let expires_at = time(&self.claims, "exp")?.ok_or_else(|| JwtError::Claim("exp".to_owned()))?;
        if expires_at.as_second() <= now - LEEWAY_SECONDS {
            return Err(JwtError::Expired(expires_at));
        }
        for claim in ["nbf", "iat"] {
            let begins = time(&self.claims, claim)?;
            if let Some(begins) = begins.filter(|begins| begins.as_second() > now + LEEWAY_SECONDS) {
                return Err(JwtError::Early(begins));
            }
        }
        Ok(Verified { expires_at, claims: self.claims })
    }
}

impl Verified {
    /// A claim that has to be there, as text.
    ///
    /// # Errors
    /// [`JwtError::Claim`] when it is not there, empty, or no text.
    pub fn text(&self, claim: &str) -> Result<&str, JwtError> {
        text(&self.claims, claim)
    }

    /// The user, by the claim that names it.
    ///
    /// # Errors
    /// [`JwtError::Claim`] when it is not there, empty or longer than 256 characters. An `email` that the issuer says is not
    /// verified names nobody: whoever can write his own would be whom he likes.
    pub fn user(&self, claim: &str) -> Result<String, JwtError> {
        let user = self.text(claim)?;
        let unverified = claim == "email" && self.claims.get("email_verified").is_some_and(|value| !is_true(value));
        if user.chars().count() > MOST_USER || unverified {
            return Err(JwtError::Claim(claim.to_owned()));
        }
        Ok(user.to_owned())
    }

    /// The groups, by the claim that lists them; a single one may be written without a list. None when there is no such claim.
    ///
    /// # Errors
    /// [`JwtError::Claim`] when it is something else, or has more than 500.
    pub fn groups(&self, claim: &str) -> Result<BTreeSet<String>, JwtError> {
        let bad = || JwtError::Claim(claim.to_owned());
        match self.claims.get(claim) {
            None | Some(Value::Null) => Ok(BTreeSet::new()),
            Some(Value::String(one)) => Ok(BTreeSet::from([one.clone()])),
            Some(Value::Array(some)) if some.len() <= MOST_GROUPS => {
                some.iter().map(|group| group.as_str().map(str::to_owned).ok_or_else(bad)).collect()
            }
            Some(_) => Err(bad()),
        }
    }
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<&'a str, JwtError> {
    let found = claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| JwtError::Claim(short(claim)))
}

/// A NumericDate, whole seconds or with a fraction.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, JwtError> {
    let bad = || JwtError::Claim(claim.to_owned());
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let second = match value.as_i64() {
        Some(second) => second,
        None => {
            let float = value.as_f64().filter(|float| (0.0..1e12).contains(float)).ok_or_else(bad)?;
            // Within the range that was just checked, the fraction is all that is lost.
            float as i64
        }
    };
    Timestamp::from_second(second).map(Some).map_err(|_| bad())
}

/// For a message of the log: it comes from anybody.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
