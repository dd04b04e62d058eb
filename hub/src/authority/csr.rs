//! Requests to sign: of such a request the public key is taken, and nothing else. Names, extensions and attributes in it are looked
//! at by nobody. Pure.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use sha2::{Digest, Sha256};
use switchyard_core::policy::Violation;
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer, public_key::PublicKey as ParsedKey,
};

/// Characters of a request; one with an RSA key of 8192 bits has some 3000.
const MOST_CHARS: usize = 8192;
/// Bits of an RSA key.
const LEAST_RSA: usize = 2048;
const MOST_RSA: usize = 8192;

/// The public key of whoever asks, who has proved to hold the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub(super) info: SubjectPublicKeyInfo,
    /// SHA-256 of the SubjectPublicKeyInfo, DER.
    pub hash: [u8; 32],
}

/// Reads a request in PEM.
///
/// # Errors
/// A [`Violation`] of `csr_pem`.
pub fn public_key(pem: &str) -> Result<PublicKey, Violation> {
    if pem.len() > MOST_CHARS {
        let problem = format!("has {} characters", pem.len());
        return Err(fault(&problem, "send one request to sign, of at most 8192 characters"));
    }
    let unreadable = || fault("is not a request to sign in PEM", "send PKCS #10 as BEGIN CERTIFICATE REQUEST");
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| unreadable())?;
    if !rest.is_empty() {
        return Err(unreadable());
    }
    let key = &request.certification_request_info.subject_pki;
    let weak = || {
        let remedy = "use an ECDSA key on P-256 or P-384, an Ed25519 key, or an RSA key of 2048 to 8192 bits";
        fault("holds a public key of a kind that is not taken", remedy)
    };
    let parsed = key.parsed().map_err(|_| weak())?;
    let info = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| weak())?;
    let curves = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    let taken = match parsed {
        ParsedKey::RSA(rsa) => (LEAST_RSA..=MOST_RSA).contains(&rsa.key_size()),
        _ => curves.contains(&info.algorithm()),
    };
    if !taken {
        return Err(weak());
    }
    let hash = Sha256::digest(key.raw).into();
    request.verify_signature().map_err(|_| {
        fault("is not signed with the key that it holds", "sign the request with the private key of that key")
    })?;
    Ok(PublicKey { info, hash })
}

/// Without the request itself: it is long, and says nothing to whoever reads a log.
fn fault(problem: &str, remedy: &str) -> Violation {
    Violation {
        field: "csr_pem".to_owned(),
        value: "(a request to sign)".to_owned(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256, RsaKeySize};

    use super::*;

    fn request(key: &KeyPair) -> String {
        CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn the_kinds_of_keys_that_are_taken_are_taken_and_others_are_not() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let found = public_key(&request(&key)).unwrap();
            assert_eq!(found.info.der_bytes(), key.public_key_raw());
            assert_eq!(found.hash, <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())));
        }
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        assert_eq!(public_key(&request(&rsa)).unwrap().info.der_bytes(), rsa.public_key_raw());
        let other = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        assert!(public_key(&request(&other)).unwrap_err().remedy.contains("P-256"));
    }

    /// `openssl req -new -newkey rsa:1024 -nodes -subj /CN=weak`
    const WEAK: &str = include_str!("weak_request.pem");

    #[test]
    fn a_short_rsa_key_is_refused_with_what_to_use() {
        let fault = public_key(WEAK).unwrap_err();
        assert!(fault.problem.contains("kind that is not taken"), "{fault}");
        assert!(fault.remedy.contains("2048"), "{fault}");
    }

    #[test]
    fn a_request_that_somebody_else_signed_is_refused() {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::default().serialize_request(&key).unwrap();
        let mut der = pem.der().to_vec();
        // The last octets are those of the signature.
        let last = der.len() - 1;
        der[last] ^= 1;
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{encoded}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(public_key(&pem).unwrap_err().problem.contains("not signed"));
    }

    #[test]
    fn what_is_no_request_is_refused_without_being_repeated() {
        let good = request(&KeyPair::generate().unwrap());
        let junk = ["", "x", &good[..good.len() / 2], &"A".repeat(1 << 20), &good.replace("REQUEST", "NONSENSE")];
        for wrong in junk {
            let fault = public_key(wrong).unwrap_err();
            assert_eq!(fault.field, "csr_pem");
            assert!(fault.to_string().len() < 300, "{fault}");
        }
    }
}
