//! Who is at the other end of a connection, as far as the handshake says: the address, and what stands in a certificate that was
//! verified. Says nothing about rights. Pure; must not import `grpc`, `access` or `store`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// Characters of a common name, and of a URI, that are looked at: longer ones are of no one whom a binding could name.
const MOST_TEXT: usize = 256;
/// URIs of a certificate; SPIFFE allows one.
const MOST_URIS: usize = 16;
/// Octets of a serial number (RFC 5280, 4.1.2.2).
const MOST_SERIAL: usize = 20;

/// The set of authorities that a certificate was verified against. One can never stand for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RootSet {
    /// The hub's own authorities, or that of `--ca-cert`: agents.
    Agents,
    /// `--tls-client-ca`: people and programs.
    Callers,
}

/// What stands in a certificate of a caller or an agent, after it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whose authorities it comes from.
    pub set: RootSet,
    /// `sha256:` and 64 lower-case hexadecimal digits, of the whole certificate.
    pub fingerprint: String,
    /// The first common name of the subject, at most 256 characters; none when there is none, or a longer one.
    pub common_name: Option<String>,
    /// URIs among the alternative names, in their order: at most 16, each of at most 256 characters; longer ones are left out.
    pub uris: Vec<String>,
    /// The octets of the serial number without leading zeros, two lower-case hexadecimal digits each.
    pub serial: String,
    /// The certificate proves nothing after this.
    pub not_after: Timestamp,
    /// The id of the authority, as [`super::AgentRoot`] gives it; none for callers.
    pub authority: Option<String>,
}

/// In the extensions of every request, whatever port it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Of the other end; IPv4 addresses that are written as IPv6 are IPv4 here.
    pub address: SocketAddr,
    /// The connection is TLS.
    pub encrypted: bool,
    /// The client's certificate, verified; none was given otherwise.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl PeerInfo {
    /// A peer over plain text.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address: canonical(address), encrypted: false, certificate: None }
    }
}

/// What limits of a source are counted by: the address, and for IPv6 its network of 64 bits, since whoever has one address of it
/// has all.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Why a certificate that was verified cannot be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Not X.509 as RFC 5280 has it.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// A serial number that is too long, or none.
    #[error("the serial number of the certificate has no octets, or more than {MOST_SERIAL}")]
    Serial,
    /// An end that no time is.
    #[error("the end of the certificate is no time")]
    NotAfter,
}

/// Reads a certificate that was verified.
///
/// # Errors
/// [`BadCertificate`].
pub fn read(
    certificate: &CertificateDer<'_>,
    set: RootSet,
    authority: Option<String>,
) -> Result<PeerCertificate, BadCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| BadCertificate::Unreadable)?;
    let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let names = parsed.subject_alternative_name().map_err(|_| BadCertificate::Unreadable)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) if fits(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let seconds = parsed.validity().not_after.timestamp();
    Ok(PeerCertificate {
        set,
        fingerprint: fingerprint(certificate),
        common_name: common_name.filter(|name| fits(name)).map(str::to_owned),
        uris: uris.take(MOST_URIS).collect(),
        serial: serial(parsed.raw_serial())?,
        not_after: Timestamp::from_second(seconds).map_err(|_| BadCertificate::NotAfter)?,
        authority,
    })
}

fn fits(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MOST_TEXT
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(certificate)))
}

/// A serial number as it is written everywhere: see [`PeerCertificate::serial`].
///
/// # Errors
/// [`BadCertificate::Serial`].
pub fn serial(octets: &[u8]) -> Result<String, BadCertificate> {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    match &octets[zeros..] {
        [] => Err(BadCertificate::Serial),
        octets if octets.len() > MOST_SERIAL => Err(BadCertificate::Serial),
        octets => Ok(hex(octets)),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["hub.example.com".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from_slice(&[0, 0xab, 0x01]));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_certificate_says_name_uris_serial_and_end() {
        let der = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "deploy");
            params.subject_alt_names.extend([uri("spiffe://switchyard/cluster/blue"), uri("urn:x")]);
            params.not_after = rcgen::date_time_ymd(2040, 1, 2);
        });
        let read = read(&der, RootSet::Agents, Some("a1".to_owned())).unwrap();
        assert_eq!(read.common_name.as_deref(), Some("deploy"));
        assert_eq!(read.uris, ["spiffe://switchyard/cluster/blue", "urn:x"]);
        assert_eq!(read.serial, "ab01");
        assert_eq!(read.not_after, "2040-01-02T00:00:00Z".parse().unwrap());
        assert_eq!((read.set, read.authority.as_deref()), (RootSet::Agents, Some("a1")));
        assert_eq!(read.fingerprint.len(), "sha256:".len() + 64);
        assert_eq!(read.fingerprint, fingerprint(&der));
    }

    #[test]
    fn what_is_longer_than_any_binding_is_left_out_and_lists_are_bounded() {
        let der = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "x".repeat(MOST_TEXT + 1));
            params.subject_alt_names.push(uri(&format!("urn:{}", "x".repeat(MOST_TEXT))));
            params.subject_alt_names.extend((0..MOST_URIS + 5).map(|n| uri(&format!("urn:{n}"))));
        });
        let read = read(&der, RootSet::Callers, None).unwrap();
        assert_eq!(read.common_name, None);
        assert_eq!(read.uris.len(), MOST_URIS);
        assert_eq!(read.uris[0], "urn:0");
    }

    #[test]
    fn a_serial_number_has_one_form() {
        assert_eq!(serial(&[0, 0, 7]), Ok("07".to_owned()));
        assert_eq!(serial(&[0]), Err(BadCertificate::Serial));
        assert_eq!(serial(&[1; MOST_SERIAL + 1]), Err(BadCertificate::Serial));
        assert_eq!(read(&b"no certificate"[..].into(), RootSet::Agents, None), Err(BadCertificate::Unreadable));
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_ipv6() {
        let source = |text: &str| source_of(text.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:2::9"), source("2001:db8:1:2:ffff::"));
        let peer = PeerInfo::plain("[::ffff:127.0.0.1]:80".parse().unwrap());
        assert_eq!(peer.address.to_string(), "127.0.0.1:80");
    }
}
