//! The cryptography of an identity: makes keys and requests to sign, reads certificates, and tells whether the two belong together.
//! No IO and no clock, but the dice of new keys.

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::values::{Certificate, Identity, Key};
use crate::webhook::certificate::{CertificateError, certified_from};

/// A chain is a leaf and one or two authorities, about 1 kB each.
const MAX_CHAIN: usize = 32 * 1024;

/// Why something is no identity.
#[derive(Debug, Error)]
pub enum MaterialError {
    /// The dice failed, or the request cannot be written.
    #[error("a key or a request for a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// Chain and key are none, or not of one another.
    #[error("the certificate cannot be used with this key")]
    Pair(#[from] CertificateError),
    /// Too large, or not text.
    #[error("the certificate is not PEM text of at most {MAX_CHAIN} bytes; give one chain, the leaf first")]
    Text,
    /// The leaf cannot be read.
    #[error("the first certificate of the chain cannot be read; give one chain, the leaf first")]
    Leaf,
}

/// A new key: ECDSA on P-256, which every TLS stack takes.
///
/// # Errors
/// When the dice fail.
pub fn new_key() -> Result<Key, MaterialError> {
    Ok(Key::from_pem(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem()))
}

/// A request to sign (PKCS #10, PEM). The hub takes nothing of it but the public key; the name is for people who look at it.
///
/// # Errors
/// When the key is none.
pub fn request(key: &Key, cluster: &str) -> Result<String, MaterialError> {
    let pair = KeyPair::from_pem(key.reveal())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cluster);
    Ok(params.serialize_request(&pair)?.pem()?)
}

/// A chain and its key as an identity. Without `renew_at` it is two thirds of the certificate's life.
///
/// # Errors
/// When they are none, or do not belong together.
pub fn identity(chain: &[u8], key: &[u8], renew_at: Option<Timestamp>) -> Result<Identity, MaterialError> {
    let text = std::str::from_utf8(chain).ok().filter(|text| text.len() <= MAX_CHAIN).ok_or(MaterialError::Text)?;
    let key_text = std::str::from_utf8(key).ok().filter(|text| text.len() <= MAX_CHAIN).ok_or(MaterialError::Text)?;
    certified_from(chain, key)?;
    let leaf = CertificateDer::from_pem_slice(chain).map_err(|_| MaterialError::Leaf)?;
    let (_, leaf) = X509Certificate::from_der(&leaf).map_err(|_| MaterialError::Leaf)?;
    let moment = |seconds: i64| Timestamp::from_second(seconds).map_err(|_| MaterialError::Leaf);
    let not_before = moment(leaf.validity().not_before.timestamp())?;
    let not_after = moment(leaf.validity().not_after.timestamp())?;
    let certificate = Certificate {
        chain: text.into(),
        serial: leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        cluster: cluster_of(&leaf),
        not_before,
        not_after,
        renew_at: renew_at.unwrap_or_else(|| two_thirds(not_before, not_after)),
    };
    Ok(Identity { key: Key::from_pem(key_text), certificate })
}

/// True when this is at least one certificate in PEM.
#[must_use]
pub fn are_authorities(pem: &[u8]) -> bool {
    let mut all = CertificateDer::pem_slice_iter(pem).peekable();
    all.peek().is_some() && all.all(|one| one.is_ok())
}

fn two_thirds(from: Timestamp, to: Timestamp) -> Timestamp {
    let life = to.duration_since(from);
    from.checked_add(life * 2 / 3).unwrap_or(from)
}

/// The cluster of `spiffe://<any trust domain>/cluster/<name>`.
fn cluster_of(leaf: &X509Certificate<'_>) -> Option<String> {
    let names = leaf.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        let (_, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let cluster = path.strip_prefix("cluster/")?;
        (!cluster.is_empty() && !cluster.contains('/')).then(|| cluster.to_owned())
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{BasicConstraints, IsCa, Issuer, SanType};

    use super::*;

    /// An authority that issues what the hub's would. Times are real ones: TLS stacks look at the clock.
    pub(crate) struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pub(crate) pem: String,
    }

    impl Authority {
        pub(crate) fn new() -> Self {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).expect("an authority").pem();
            Self { issuer: Issuer::new(params, key), pem }
        }

        fn params(cluster: &str, from: Timestamp, to: Timestamp) -> CertificateParams {
            let mut params = CertificateParams::default();
            let uri = format!("spiffe://switchyard/cluster/{cluster}").try_into().expect("a URI");
            params.subject_alt_names = vec![SanType::URI(uri)];
            let moment = |at: Timestamp| {
                let seconds = u64::try_from(at.as_second()).expect("after 1970");
                rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
            };
            (params.not_before, params.not_after) = (moment(from), moment(to));
            params
        }

        /// As the hub answers a request to sign.
        pub(crate) fn issue(&self, cluster: &str, csr: &str, from: Timestamp, to: Timestamp) -> String {
            let request = rcgen::CertificateSigningRequestParams::from_pem(csr).expect("a request");
            let params = Self::params(cluster, from, to);
            params.signed_by(&request.public_key, &self.issuer).expect("a certificate").pem()
        }

        /// A key with its certificate.
        pub(crate) fn identity(&self, cluster: &str, from: Timestamp, to: Timestamp) -> Identity {
            let key = new_key().expect("a key");
            let csr = request(&key, cluster).expect("a request");
            let chain = self.issue(cluster, &csr, from, to);
            identity(chain.as_bytes(), key.reveal().as_bytes(), None).expect("an identity")
        }

        /// Chain and key of a server on this machine.
        pub(crate) fn server(&self) -> (String, String) {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
            (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a moment")
    }

    #[test]
    fn an_identity_tells_its_cluster_its_times_and_when_it_should_be_renewed() {
        let authority = Authority::new();
        let (from, to) = (at("2026-11-21T00:00:00Z"), at("2026-11-22T00:00:00Z"));
        let Identity { certificate, .. } = authority.identity("blue", from, to);
        assert_eq!(certificate.cluster.as_deref(), Some("blue"));
        assert_eq!((certificate.not_before, certificate.not_after), (from, to));
        assert_eq!(certificate.renew_at, at("2026-11-21T16:00:00Z"));
        assert!(!certificate.serial.is_empty());
    }

    #[test]
    fn what_does_not_belong_together_or_is_no_certificate_is_refused() {
        let authority = Authority::new();
        let (from, to) = (at("2026-11-21T00:00:00Z"), at("2026-11-22T00:00:00Z"));
        let (one, other) = (authority.identity("blue", from, to), authority.identity("blue", from, to));
        let read = |chain: &str, key: &str| identity(chain.as_bytes(), key.as_bytes(), None);
        assert!(matches!(read(&one.certificate.chain, other.key.reveal()), Err(MaterialError::Pair(_))));
        assert!(read("", one.key.reveal()).is_err());
        assert!(matches!(read(&"x".repeat(MAX_CHAIN + 1), one.key.reveal()), Err(MaterialError::Text)));
        assert!(are_authorities(authority.pem.as_bytes()));
        assert!(
            !are_authorities(b"") && !are_authorities(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
        );
    }
}
