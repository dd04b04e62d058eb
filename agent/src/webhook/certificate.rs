//! The webhook's own certificates: what a Secret holds, when it has to be replaced, and by what.
//!
//! Every certificate has an authority of its own, whose key is thrown away after the one signature: nobody can ever sign another with
//! it. While one is replaced, the old authority stays trusted beside the new one, so it does not matter which of them the API server
//! and the replicas of the agent know of at a moment. Days, not hours: `today` comes from outside.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{ToSpan, civil::Date};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use thiserror::Error;

use crate::args::gates::ObjectName;

/// Days that a certificate is valid for.
const LIFETIME: i64 = 180;
/// Days before its end at which it is replaced: long enough for any outage of the agent.
const RENEW_BEFORE: i64 = 60;
/// Authorities that are trusted at a time: the present one and the one before.
const MAX_AUTHORITIES: usize = 2;
/// Keys of the Secret.
const AUTHORITIES: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const NOT_AFTER: &str = "not-after";
const SERVICE: &str = "service";

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// It could not be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// It cannot be read.
    #[error("the certificate or its key is not PEM; give one certificate chain and its key")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// It cannot be used.
    #[error("the certificate and its key cannot be used together; give the key that belongs to the certificate")]
    Use(#[from] rustls::Error),
    /// The process has no cryptography.
    #[error("no provider of cryptography is installed in this process")]
    NoProvider,
}

/// A Secret's data.
pub type Data = BTreeMap<String, Vec<u8>>;

/// True when what the Secret holds cannot be served with, is for another Service, or ends soon.
#[must_use]
pub fn is_due(data: &Data, service: &ObjectName, today: Date) -> bool {
    let text = |key: &str| data.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let Ok(not_after) = text(NOT_AFTER).parse::<Date>() else { return true };
    let renew_at = not_after.saturating_sub(RENEW_BEFORE.days());
    today >= renew_at || text(SERVICE) != full_name(service) || certified(data).is_err() || authorities(data).is_empty()
}

/// What the Secret should hold instead. The authority before stays trusted.
///
/// # Errors
/// When the dice or the clock fail.
pub fn renewed(data: &Data, service: &ObjectName, today: Date) -> Result<Data, CertificateError> {
    let begin = today.saturating_sub(1.day());
    let end = today.saturating_add(LIFETIME.days());
    let authority_key = KeyPair::generate()?;
    let authority_params = authority_params(begin, end);
    let authority = authority_params.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority_params, authority_key);
    let key = KeyPair::generate()?;
    let certificate = serving_params(service, begin, end)?.signed_by(&key, &issuer)?;
    let mut trusted = vec![authority.pem()];
    trusted.extend(authorities(data).into_iter().take(MAX_AUTHORITIES - 1));
    let entries = [
        (AUTHORITIES, trusted.concat()),
        (CERTIFICATE, certificate.pem()),
        (KEY, key.serialize_pem()),
        (NOT_AFTER, end.to_string()),
        (SERVICE, full_name(service)),
    ];
    Ok(entries.into_iter().map(|(key, text)| (key.to_owned(), text.into_bytes())).collect())
}

fn authority_params(begin: Date, end: Date) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("switchyard webhook {begin}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    within(&mut params, begin, end);
    params
}

fn serving_params(service: &ObjectName, begin: Date, end: Date) -> Result<CertificateParams, rcgen::Error> {
    // The name that the API server asks for; it reads nothing but the alternative names.
    let mut params = CertificateParams::new([format!("{}.{}.svc", service.name, service.namespace)])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "switchyard webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    within(&mut params, begin, end);
    Ok(params)
}

fn within(params: &mut CertificateParams, begin: Date, end: Date) {
    let moment = |date: Date| date_time_ymd(date.year().into(), part(date.month()), part(date.day()));
    params.not_before = moment(begin);
    params.not_after = moment(end);
}

/// Months and days are positive in every calendar date.
fn part(number: i8) -> u8 {
    number.unsigned_abs()
}

/// The authorities to trust, as the API server wants them.
#[must_use]
pub fn bundle(data: &Data) -> Vec<u8> {
    authorities(data).concat().into_bytes()
}

/// The authorities in PEM, the newest first.
fn authorities(data: &Data) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let text = data.get(AUTHORITIES).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let is_one = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).is_ok();
    text.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{rest}")).filter(is_one).collect()
}

/// What the Secret holds, ready to serve with.
///
/// # Errors
/// When it is none, or its key does not belong to it.
pub fn certified(data: &Data) -> Result<Arc<CertifiedKey>, CertificateError> {
    let bytes = |key: &str| data.get(key).map(Vec::as_slice).unwrap_or_default();
    certified_from(bytes(CERTIFICATE), bytes(KEY))
}

/// A certificate chain and its key, both in PEM.
///
/// # Errors
/// When they are none, or do not belong together.
pub fn certified_from(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let provider = CryptoProvider::get_default().ok_or(CertificateError::NoProvider)?;
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let certified = CertifiedKey::from_der(chain, key, provider)?;
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

fn full_name(service: &ObjectName) -> String {
    format!("{}/{}", service.namespace, service.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ObjectName {
        ObjectName { namespace: "sys".to_owned(), name: "hook".to_owned() }
    }

    fn day(text: &str) -> Date {
        text.parse().expect("a date")
    }

    fn made(data: &Data, today: &str) -> Data {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        renewed(data, &service(), day(today)).expect("a certificate")
    }

    #[test]
    fn an_empty_secret_is_due_and_a_filled_one_until_sixty_days_before_its_end_is_not() {
        assert!(is_due(&Data::new(), &service(), day("2026-11-21")));
        let data = made(&Data::new(), "2026-11-21");
        assert!(!is_due(&data, &service(), day("2026-11-21")));
        assert!(!is_due(&data, &service(), day("2027-03-20")));
        assert!(is_due(&data, &service(), day("2027-03-21")), "180 days later is 2027-05-20");
    }

    #[test]
    fn a_secret_for_another_service_or_with_a_key_of_another_certificate_is_due() {
        let data = made(&Data::new(), "2026-11-21");
        let other = ObjectName { name: "renamed".to_owned(), ..service() };
        assert!(is_due(&data, &other, day("2026-11-21")));
        let mut mixed = data.clone();
        mixed.insert(KEY.to_owned(), made(&Data::new(), "2026-11-21")[KEY].clone());
        assert!(is_due(&mixed, &service(), day("2026-11-21")));
        let mut without = data;
        without.remove(AUTHORITIES);
        assert!(is_due(&without, &service(), day("2026-11-21")));
    }

    #[test]
    fn the_authority_before_stays_trusted_and_the_one_before_that_does_not() {
        let first = made(&Data::new(), "2026-01-01");
        let second = made(&first, "2026-06-01");
        let third = made(&second, "2026-11-01");
        let count = |data: &Data| authorities(data).len();
        assert_eq!((count(&first), count(&second), count(&third)), (1, 2, 2));
        let trusted = String::from_utf8(bundle(&second)).expect("text");
        assert!(trusted.contains(&authorities(&first)[0]) && trusted.starts_with(&authorities(&second)[0]));
        assert!(!String::from_utf8(bundle(&third)).expect("text").contains(&authorities(&first)[0]));
    }
}
