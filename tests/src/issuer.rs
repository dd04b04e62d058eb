//! An OpenID Connect issuer on a loopback address: discovery, keys that are changed at will, and tokens with any header and any
//! claims, also wrong ones. It signs with aws-lc by itself, so that it can make what no decent library would.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, anyhow};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{Request, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// What the hub of a test demands in `aud`.
pub const AUDIENCE: &str = "switchyard";
/// Life of a token, in seconds: longer than any test.
const LIFE_SECONDS: i64 = 600;

/// With what a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with 2048 bits.
    Rs256,
    /// The curve P-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// As headers of tokens name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

#[derive(Debug)]
enum Secret {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

/// A key that signs tokens.
#[derive(Debug)]
pub struct Key {
    /// Its id, the `kid` of its tokens.
    pub id: String,
    secret: Secret,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Header and claims of a token, as they are signed.
fn unsigned_part(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string()), base64(claims.to_string()))
}

/// A token without a signature: `alg` is `none`.
pub fn unsigned(claims: &Value) -> String {
    format!("{}.", unsigned_part(&json!({"alg": "none", "typ": "JWT"}), claims))
}

/// A token that is "signed" with what everybody knows, such as the text of a public key, as if it were a shared secret.
pub fn signed_by_hmac(secret: &[u8], key_id: &str, claims: &Value) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": key_id});
    let signed = unsigned_part(&header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64(tag))
}

/// The two numbers of an RSA public key in DER (RFC 8017, appendix A.1.1), without leading zeros.
fn modulus_and_exponent(der: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    fn element(der: &[u8], tag: u8) -> anyhow::Result<(&[u8], &[u8])> {
        let [found, first, rest @ ..] = der else { anyhow::bail!("a public key that ends early") };
        anyhow::ensure!(*found == tag, "a public key with the tag {found}");
        let octets = if *first < 0x80 { 0 } else { usize::from(first & 0x7f) };
        let (length, rest) = rest.split_at_checked(octets).context("a length that ends early")?;
        let length = if octets == 0 {
            usize::from(*first)
        } else {
            length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet))
        };
        rest.split_at_checked(length).context("a public key that ends early")
    }
    fn positive(number: &[u8]) -> &[u8] {
        number.strip_prefix(&[0]).unwrap_or(number)
    }
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, rest) = element(sequence, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    Ok((positive(modulus), positive(exponent)))
}

impl Key {
    /// Makes one.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn make(id: &str, algorithm: Algorithm) -> anyhow::Result<Self> {
        let failed = |_| anyhow!("no {} key was made", algorithm.name());
        let secret = match algorithm {
            Algorithm::Rs256 => Secret::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?)),
            Algorithm::Es256 => {
                Secret::Ec(Box::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?))
            }
            Algorithm::EdDsa => Secret::Ed(Box::new(Ed25519KeyPair::generate().map_err(failed)?)),
        };
        Ok(Self { id: id.to_owned(), secret })
    }

    /// With what it signs.
    pub fn algorithm(&self) -> Algorithm {
        match self.secret {
            Secret::Rsa(_) => Algorithm::Rs256,
            Secret::Ec(_) => Algorithm::Es256,
            Secret::Ed(_) => Algorithm::EdDsa,
        }
    }

    /// Its public part (RFC 7517).
    ///
    /// # Panics
    /// When the public key is not what its algorithm says.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.secret {
            Secret::Rsa(pair) => {
                let (n, e) = modulus_and_exponent(pair.public_key().as_ref()).expect("an RSA public key");
                json!({"kty": "RSA", "n": base64(n), "e": base64(e)})
            }
            Secret::Ec(pair) => {
                // Uncompressed: 4, x, y (SEC 1, 2.3.3).
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..])})
            }
            Secret::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())}),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm().name());
        jwk
    }

    /// A token with these claims.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm().name(), "typ": "JWT", "kid": self.id});
        self.sign_as(&header, claims)
    }

    /// A token with any header, which need not fit the key.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned_part(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.secret {
            Secret::Rsa(pair) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut bytes).expect("an RSA signature");
                bytes
            }
            Secret::Ec(pair) => pair.sign(&random, signed.as_bytes()).expect("a signature").as_ref().to_vec(),
            Secret::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", base64(signature))
    }
}

#[derive(Debug, Default)]
struct Desk {
    keys: Mutex<Vec<Value>>,
    asked: AtomicU64,
}

/// A running issuer.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    desk: Arc<Desk>,
    task: Option<AbortHandle>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Issuer {
    /// Starts one that publishes these keys.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(keys: &[&Key]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut this = Self { address, desk: Arc::default(), task: None };
        this.publish(keys);
        this.serve(listener);
        Ok(this)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (desk, url) = (Arc::clone(&self.desk), self.url());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (desk, url) = (Arc::clone(&desk), url.clone());
                let service = service_fn(move |request| answer(Arc::clone(&desk), url.clone(), request));
                // None is kept, so that all ends with the issuer.
                let connection =
                    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        self.task = Some(task.abort_handle());
    }

    /// Its name: the claim `iss`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its keys are.
    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.url())
    }

    /// From now on it publishes these keys and no other.
    pub fn publish(&self, keys: &[&Key]) {
        *self.desk.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys.iter().map(|key| key.jwk()).collect();
    }

    /// How often its keys were fetched.
    pub fn asked(&self) -> u64 {
        self.desk.asked.load(Ordering::SeqCst)
    }

    /// Nobody reaches it any more.
    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// It is there again, at the same address.
    ///
    /// # Errors
    /// When somebody has taken the port.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    /// The claims of a good token: ten minutes, for the hub.
    pub fn claims(&self, user: &str, groups: &[&str]) -> Value {
        let now = Timestamp::now().as_second();
        json!({"iss": self.url(), "aud": AUDIENCE, "sub": user, "groups": groups,
            "iat": now, "nbf": now, "exp": now + LIFE_SECONDS})
    }
}

async fn answer(desk: Arc<Desk>, url: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let document = match request.uri().path() {
        "/.well-known/openid-configuration" => Some(json!({
            "issuer": url, "jwks_uri": format!("{url}/keys"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
        })),
        "/keys" => {
            desk.asked.fetch_add(1, Ordering::SeqCst);
            let keys = desk.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Some(json!({"keys": keys}))
        }
        _ => None,
    };
    let mut response =
        Response::new(Full::new(Bytes::from(document.as_ref().map(Value::to_string).unwrap_or_default())));
    if document.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };

    use super::*;

    fn number(jwk: &Value, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("a text")).expect("base64url")
    }

    #[test]
    fn a_token_is_verified_by_the_published_key_of_each_algorithm() {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
            let key = Key::make("one", algorithm).expect("a key");
            let token = key.sign(&json!({"sub": "ann"}));
            let (signed, signature) = token.rsplit_once('.').expect("three parts");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            let jwk = key.jwk();
            let verified = match algorithm {
                Algorithm::Rs256 => RsaPublicKeyComponents { n: number(&jwk, "n"), e: number(&jwk, "e") }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    signed.as_bytes(),
                    &signature,
                ),
                Algorithm::Es256 => {
                    let point = [vec![4], number(&jwk, "x"), number(&jwk, "y")].concat();
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature)
                }
                Algorithm::EdDsa => {
                    UnparsedPublicKey::new(&ED25519, number(&jwk, "x")).verify(signed.as_bytes(), &signature)
                }
            };
            assert!(verified.is_ok(), "{algorithm:?}: {jwk}");
        }
    }
}
