//! What comes from files: the sealing key, or an authority with its key (`--ca-cert` and `--ca-key`, such as a Secret that
//! cert-manager writes). Files are read again when they change; what does not fit together, as while they are being replaced, is
//! not taken.

use std::{fmt, io, path::Path};

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use switchyard_core::{access::authority::Life, ids::ClusterName};
use tokio::io::AsyncReadExt;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    csr::PublicKey,
    issue::{MakeError, Signer},
};

/// Bytes of a file: a chain of a few certificates, or a key.
const MOST_BYTES: u64 = 64 * 1024;
/// Certificates of a chain.
const MOST_IN_CHAIN: usize = 5;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no text of at most 64 KiB.
    #[error("{0} is not a text of at most 64 KiB")]
    NotText(String),
    /// There is no certificate, or too many.
    #[error("the file of --ca-cert has no certificate, more than 5, or one that cannot be read")]
    NoCertificate,
    /// It may not sign.
    #[error(
        "the first certificate of --ca-cert is no authority: it needs basicConstraints CA:TRUE and, if it has keyUsage, keyCertSign \
         (in cert-manager: isCA)"
    )]
    NoAuthority,
    /// It has ended.
    #[error("the first certificate of --ca-cert ended at {0}")]
    Ended(Timestamp),
    /// No key of a known kind.
    #[error("the file of --ca-key holds no private key that can be used")]
    NoKey,
    /// Another certificate's key.
    #[error("the key of --ca-key is not that of the first certificate of --ca-cert")]
    OtherKey,
    /// Its leaves would not name it.
    #[error(
        "certificates of the first certificate of --ca-cert would be refused: its subject repeats a kind of name (such as DC=com,DC=example) \
         or has one that cannot be copied octet by octet; use an authority whose subject has each kind once, such as CN and O"
    )]
    Subject,
    /// The library refused.
    #[error(transparent)]
    Make(#[from] MakeError),
}

/// Reads a bounded text, which may be a secret.
///
/// # Errors
/// [`FileError::Read`] and [`FileError::NotText`].
pub async fn text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let shown = || path.display().to_string();
    let failed = |source| FileError::Read { path: shown(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(FileError::NotText(shown()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| FileError::NotText(shown()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// An authority whose certificate and key fit together.
pub struct External {
    /// Signs with it.
    pub signer: Signer,
    /// Its certificate and those above it.
    pub pem: String,
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("id", &self.signer.id).finish_non_exhaustive()
    }
}

/// Takes the texts of both files.
///
/// # Errors
/// [`FileError`] that says what does not fit.
pub fn external(certificates: &str, key: &str, now: Timestamp) -> Result<External, FileError> {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(certificates.as_bytes()).take(MOST_IN_CHAIN + 1).collect();
    let chain = chain.map_err(|_| FileError::NoCertificate)?;
    let Some(first) = chain.first().filter(|_| chain.len() <= MOST_IN_CHAIN) else {
        return Err(FileError::NoCertificate);
    };
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| FileError::NoCertificate)?;
    let basic = parsed.basic_constraints().map_err(|_| FileError::NoCertificate)?;
    let usage = parsed.key_usage().map_err(|_| FileError::NoCertificate)?;
    if !basic.is_some_and(|basic| basic.value.ca) || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(FileError::NoAuthority);
    }
    let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp());
    let not_after = not_after.map_err(|_| FileError::NoCertificate)?;
    if not_after <= now {
        return Err(FileError::Ended(not_after));
    }
    let key = KeyPair::from_pem(key).map_err(|_| FileError::NoKey)?;
    if key.subject_public_key_info() != parsed.public_key().raw {
        return Err(FileError::OtherKey);
    }
    let above = chain.iter().filter(|certificate| !signs_itself(certificate)).map(|certificate| armoured(certificate));
    let signer = Signer::new(first, above.collect(), key, not_after)?;
    if tried(&signer, now)? != parsed.subject().as_raw() {
        return Err(FileError::Subject);
    }
    Ok(External { signer, pem: chain.iter().map(|certificate| armoured(certificate)).collect() })
}

/// The issuer as it stands in a certificate that is thrown away. Whoever verifies one compares it with the authority's subject, octet by
/// octet, and the library that writes it does not keep every subject as it was.
fn tried(signer: &Signer, now: Timestamp) -> Result<Vec<u8>, FileError> {
    let key = KeyPair::generate().map_err(MakeError::from)?;
    let info = SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).map_err(MakeError::from)?;
    let cluster = ClusterName::new("a").map_err(|_| FileError::Subject)?;
    let life = Life { not_before: now, not_after: signer.not_after, renew_at: now };
    let leaf = signer.leaf(&cluster, "switchyard", &PublicKey { info, hash: [0; 32] }, life)?;
    let der = CertificateDer::from_pem_slice(leaf.chain_pem.as_bytes()).map_err(|_| FileError::Subject)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| FileError::Subject)?;
    Ok(parsed.issuer().as_raw().to_vec())
}

fn signs_itself(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}

fn armoured(certificate: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    // RFC 7468: lines of 64 characters. Base64 is ASCII, so every place is the start of a character.
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, IsCa, KeyUsagePurpose};

    use super::*;

    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        params
    }

    fn refused(change: impl FnOnce(&mut CertificateParams)) -> FileError {
        let key = KeyPair::generate().unwrap();
        let certificate = params("test", change).self_signed(&key).unwrap();
        external(&certificate.pem(), &key.serialize_pem(), Timestamp::now()).unwrap_err()
    }

    #[test]
    fn an_authority_of_files_gives_what_is_above_it_but_no_root() {
        let key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params("root", |_| ()), key).unwrap();
        let below = KeyPair::generate().unwrap();
        let middle = params("middle", |_| ()).signed_by(&below, &root).unwrap();
        let both = format!("{}{}", middle.pem(), root.pem());
        let found = external(&both, &below.serialize_pem(), Timestamp::now()).unwrap();
        assert_eq!(found.signer.id, super::super::issue::id_of(middle.der()));
        assert_eq!(CertificateDer::pem_slice_iter(found.signer.above.as_bytes()).count(), 1);
        assert_eq!(CertificateDer::pem_slice_iter(found.pem.as_bytes()).count(), 2);
        let alone = external(&root.pem(), &root.key().serialize_pem(), Timestamp::now()).unwrap();
        assert_eq!(alone.signer.above, "");
    }

    #[test]
    fn an_authority_whose_certificates_nobody_would_believe_is_refused_with_what_to_use() {
        // The library writes each kind of name once, so the second one gets its kind (2.5.4.11 becomes 2.5.4.10) afterwards.
        let twice = params("agents", |params| {
            params.distinguished_name.push(DnType::OrganizationName, "example");
            params.distinguished_name.push(DnType::OrganizationalUnitName, "com");
        });
        let key = KeyPair::generate().unwrap();
        let mut der = twice.self_signed(&key).unwrap().der().to_vec();
        external(&armoured(&der), &key.serialize_pem(), Timestamp::now()).unwrap();
        let unit = [0x06, 0x03, 0x55, 0x04, 0x0b];
        let found: Vec<usize> = (0..der.len() - unit.len()).filter(|at| der[*at..].starts_with(&unit)).collect();
        assert_eq!(found.len(), 2, "issuer and subject");
        found.into_iter().for_each(|at| der[at + 4] = 0x0a);
        let error = external(&armoured(&der), &key.serialize_pem(), Timestamp::now()).unwrap_err();
        assert!(matches!(error, FileError::Subject), "{error:?}");
        assert!(error.to_string().contains("DC=com,DC=example"), "{error}");
        // Another kind of text is kept as it is.
        let printable = params("agents", |params| {
            let country = DnValue::PrintableString("DE".try_into().unwrap());
            params.distinguished_name.push(DnType::CountryName, country);
        });
        let pem = printable.self_signed(&key).unwrap().pem();
        external(&pem, &key.serialize_pem(), Timestamp::now()).unwrap();
    }

    #[test]
    fn files_that_do_not_fit_together_are_not_taken() {
        assert!(matches!(refused(|params| params.is_ca = IsCa::NoCa), FileError::NoAuthority));
        let signs_nothing =
            |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        assert!(matches!(refused(signs_nothing), FileError::NoAuthority));
        let old = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(matches!(refused(old), FileError::Ended(_)));
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pem = params("test", |_| ()).self_signed(&one).unwrap().pem();
        let with = |pem: &str, key: &str| external(pem, key, Timestamp::now()).unwrap_err();
        assert!(matches!(with(&pem, &other.serialize_pem()), FileError::OtherKey));
        assert!(matches!(with(&pem, "secret"), FileError::NoKey));
        assert!(matches!(with("", &one.serialize_pem()), FileError::NoCertificate));
        assert!(matches!(with(&pem.repeat(6), &one.serialize_pem()), FileError::NoCertificate));
        assert!(matches!(with(&pem[..pem.len() / 2], &one.serialize_pem()), FileError::NoCertificate));
    }

    #[tokio::test]
    async fn a_file_is_bounded_and_its_content_is_in_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, vec![b'k'; 64 * 1024 + 1]).unwrap();
        let error = text(&path).await.unwrap_err().to_string();
        assert!(error.contains("64 KiB") && !error.contains("kkk"), "{error}");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(text(&path).await.unwrap_err(), FileError::NotText(_)));
        assert!(matches!(text(&folder.path().join("none")).await.unwrap_err(), FileError::Read { .. }));
        std::fs::write(&path, "text").unwrap();
        assert_eq!(text(&path).await.unwrap().as_str(), "text");
    }
}
