//! Making certificates: the hub's own root, and leaves for agents. What stands in a leaf comes from the hub: the cluster's name, the
//! times, what it may be used for. Pure but for keys and serial numbers.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use switchyard_core::{
    access::{
        authority::{Life, SKEW},
        identity::spiffe_of_cluster,
    },
    ids::ClusterName,
};
use zeroize::Zeroizing;

use super::csr::PublicKey;
use crate::door::peer;

/// How long the hub's own root lives: ten years. It is replaced by a rotation long before.
const ROOT_LIVES: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Octets of a serial number: 128 bits, of which 126 are random (RFC 5280, 4.1.2.2 allows 20 octets; CA/B asks for 64 bits).
const SERIAL_OCTETS: usize = 16;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The library refused.
    #[error("a certificate cannot be made")]
    Refused(#[from] rcgen::Error),
    /// A time outside of what certificates hold.
    #[error("the time {0} fits no certificate")]
    Time(Timestamp),
}

/// A root that was made here.
pub struct Root {
    /// The first 16 hexadecimal digits of the SHA-256 of the certificate.
    pub id: String,
    /// The certificate.
    pub pem: String,
    /// PKCS #8.
    pub key: Zeroizing<Vec<u8>>,
    /// Of the certificate.
    pub not_after: Timestamp,
}

/// Signs with the key of an authority.
pub struct Signer {
    /// The authority's id.
    pub id: String,
    /// Of its certificate.
    pub not_after: Timestamp,
    /// What goes after a leaf: the authority's certificate and those above it, but no root that signs itself.
    pub above: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Signer {
    /// Without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf, and what it was issued by.
    pub chain_pem: String,
    /// As [`crate::door::PeerCertificate`] writes it.
    pub serial: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub fingerprint: String,
    /// The id of the authority.
    pub authority: String,
    /// Its times, in whole seconds.
    pub life: Life,
}

/// The id of an authority.
pub fn id_of(certificate: &[u8]) -> String {
    peer::fingerprint(certificate).trim_start_matches("sha256:").chars().take(16).collect()
}

/// A new root of the hub's own.
///
/// # Errors
/// [`MakeError`].
pub fn root(now: Timestamp) -> Result<Root, MakeError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let not_after = whole_seconds(now.saturating_add(ROOT_LIVES).map_err(|_| MakeError::Time(now))?)?;
    let (serial, _) = serial();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    // Roots of one hub have different names: a name leads to one key.
    let name = format!("switchyard agents {}", &peer::fingerprint(key.public_key_raw())[7..15]);
    params.distinguished_name = named(&name);
    params.serial_number = Some(serial);
    params.not_before = epoch + since_1970(now.saturating_sub(SKEW).unwrap_or(now))?;
    params.not_after = epoch + since_1970(not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    let key = Zeroizing::new(key.serialize_der());
    Ok(Root { id: id_of(certificate.der()), pem: certificate.pem(), key, not_after })
}

impl Signer {
    /// Of an authority's certificate and key, which belong together.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn new(
        certificate: &CertificateDer<'_>,
        above: String,
        key: KeyPair,
        not_after: Timestamp,
    ) -> Result<Self, MakeError> {
        let issuer = Issuer::from_ca_cert_der(certificate, key)?;
        Ok(Self { id: id_of(certificate), not_after, above, issuer })
    }

    /// A certificate for the agent of this cluster.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn leaf(
        &self,
        cluster: &ClusterName,
        trust_domain: &str,
        key: &PublicKey,
        life: Life,
    ) -> Result<Leaf, MakeError> {
        let life = Life { not_after: whole_seconds(life.not_after)?, ..life };
        let (number, serial) = serial();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        params.distinguished_name = named(cluster.as_str());
        params.subject_alt_names = vec![SanType::URI(spiffe_of_cluster(cluster, trust_domain).try_into()?)];
        params.serial_number = Some(number);
        params.not_before = epoch + since_1970(life.not_before)?;
        params.not_after = epoch + since_1970(life.not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key.info, &self.issuer)?;
        Ok(Leaf {
            fingerprint: peer::fingerprint(certificate.der()),
            chain_pem: format!("{}{}", certificate.pem(), self.above),
            serial,
            authority: self.id.clone(),
            life,
        })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Positive, and of full length, so that its digits are the same everywhere.
fn serial() -> (SerialNumber, String) {
    let mut octets = [0u8; SERIAL_OCTETS];
    rand::rng().fill_bytes(&mut octets);
    octets[0] = octets[0] & 0x7f | 0x40;
    let digits = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    (SerialNumber::from_slice(&octets), digits)
}

fn whole_seconds(at: Timestamp) -> Result<Timestamp, MakeError> {
    Timestamp::from_second(at.as_second()).map_err(|_| MakeError::Time(at))
}

/// Certificates hold no time before 1970.
fn since_1970(at: Timestamp) -> Result<Duration, MakeError> {
    u64::try_from(at.as_second()).map(Duration::from_secs).map_err(|_| MakeError::Time(at))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use x509_parser::{
        extensions::{GeneralName, ParsedExtension},
        prelude::{FromDer, X509Certificate},
    };

    use super::*;
    use crate::authority::csr;

    fn signer(now: Timestamp) -> Signer {
        let root = root(now).unwrap();
        let der = der_of(&root.pem);
        let key = KeyPair::try_from(root.key.as_slice()).unwrap();
        Signer::new(&der, String::new(), key, root.not_after).unwrap()
    }

    fn der_of(text: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(text.as_bytes()).unwrap()
    }

    /// A request that asks for more than it gets.
    fn greedy() -> csr::PublicKey {
        let mut params = CertificateParams::new(vec!["hub.example.com".to_owned()]).unwrap();
        let uri = "spiffe://switchyard/cluster/green".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name = named("admin");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        csr::public_key(&pem).unwrap()
    }

    #[test]
    fn a_leaf_says_what_the_hub_says_whatever_was_asked_for() {
        let now: Timestamp = "2026-11-21T10:00:00.7Z".parse().unwrap();
        let life = switchyard_core::access::authority::life(now, SignedDuration::from_hours(24), Timestamp::MAX);
        let key = greedy();
        let signer = signer(now);
        let leaf = signer.leaf(&"blue".parse().unwrap(), "switchyard", &key, life.unwrap()).unwrap();
        let der = der_of(&leaf.chain_pem);
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=blue");
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://switchyard/cluster/blue")]);
        let basic = parsed.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && !basic.value.ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert_eq!(usage.value.flags, 1, "digitalSignature alone");
        let extended = &parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any && extended.other.is_empty());
        let by_authority = |one: &&x509_parser::extensions::X509Extension<'_>| {
            matches!(one.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
        };
        assert!(parsed.extensions().iter().any(|one| by_authority(&one)));
        assert_eq!(parsed.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key.info));
        let read = peer::read(&der, crate::door::RootSet::Agents, None).unwrap();
        assert_eq!(
            (read.serial, read.fingerprint, read.not_after),
            (leaf.serial, leaf.fingerprint, leaf.life.not_after)
        );
        assert_eq!(leaf.life.not_after.to_string(), "2026-11-22T10:00:00Z");
        assert_eq!(leaf.authority, signer.id);
    }

    #[test]
    fn a_root_signs_leaves_and_nothing_below_them_and_no_two_are_alike() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let (one, other) = (root(now).unwrap(), root(now).unwrap());
        let der = der_of(&one.pem);
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let basic = parsed.basic_constraints().unwrap().unwrap().value.clone();
        assert_eq!((basic.ca, basic.path_len_constraint), (true, Some(0)));
        assert!(parsed.subject().to_string().starts_with("CN=switchyard agents "));
        assert_eq!(parsed.subject(), parsed.issuer());
        assert_eq!(one.id, id_of(&der));
        assert_eq!(one.id.len(), 16);
        let other = der_of(&other.pem);
        let (_, other) = X509Certificate::from_der(&other).unwrap();
        assert_ne!(parsed.subject(), other.subject());
        assert_eq!(one.not_after.to_string(), "2036-11-18T10:00:00Z");
    }
}
