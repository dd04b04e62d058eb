//! An issuer of tokens on this machine: discovery, keys that can be exchanged, a switch that turns it off, and one that holds answers up.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Router, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{OwnedRwLockWriteGuard, RwLock},
    task::JoinHandle,
};

/// A key pair of the issuer.
pub struct Signer {
    key: EncodingKey,
    alg: Algorithm,
    pub kid: String,
    pub public_pem: String,
}

impl Signer {
    pub fn new(kid: &str) -> Self {
        Self::of(kid, Algorithm::ES256)
    }

    pub fn of(kid: &str, alg: Algorithm) -> Self {
        let kind = if alg == Algorithm::ES256 { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_RSA_SHA256 };
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let key = match alg {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        };
        Self { key, alg, kid: kid.to_owned(), public_pem: pair.public_key_pem() }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.alg) };
        encode(&header, claims, &self.key).unwrap()
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.alg).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }
}

/// An issuer.
pub struct Issuer {
    pub url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    fetches: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
    hold: Arc<RwLock<()>>,
    server: JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Issuer {
    /// Gives out the keys of these.
    pub async fn with(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (keys, fetches, away) =
            (Arc::<Mutex<Vec<Value>>>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        let hold = Arc::<RwLock<()>>::default();
        let (given, counted, off) = (Arc::clone(&keys), Arc::clone(&fetches), Arc::<AtomicBool>::clone(&away));
        let held = Arc::clone(&hold);
        let give = move || {
            let (given, counted, off) = (Arc::clone(&given), Arc::clone(&counted), Arc::clone(&off));
            let held = Arc::clone(&held);
            async move {
                // What it gives is settled when it is asked, however long the answer takes.
                let text = json!({"keys": *given.lock().unwrap()}).to_string();
                counted.fetch_add(1, Ordering::SeqCst);
                drop(held.read().await);
                if off.load(Ordering::SeqCst) {
                    return (StatusCode::SERVICE_UNAVAILABLE, String::new());
                }
                (StatusCode::OK, text)
            }
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(move || async move { document }))
            .route("/keys", get(give));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let issuer = Self { url, keys, fetches, away, hold, server };
        issuer.give(signers);
        issuer
    }

    /// From now on it gives out the keys of these.
    pub fn give(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    pub fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Holds its answers up until this is dropped; a fetch gives up after five seconds.
    pub async fn held(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.hold).write_owned().await
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// Claims of a good token.
    pub fn claims(&self, user: &str) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({"iss": self.url, "aud": "switchyard", "sub": user, "exp": now + 300, "iat": now, "groups": ["deployers"]})
    }

    /// As the access file names it, with rights for some.
    pub fn access(&self) -> String {
        format!(
            "
issuers:
  - {{name: corp, issuer: '{}', audiences: [switchyard]}}
bindings:
  - {{role: operator, namespaces: ['*'], clusters: ['*'], subjects: [{{issuer: corp, group: deployers}}]}}
  - {{role: admin, namespaces: [shop], clusters: ['*'], subjects: [{{certificate: {{commonName: deploy}}}}]}}
",
            self.url
        )
    }
}
