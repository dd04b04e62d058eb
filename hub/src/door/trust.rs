//! Whose certificates are believed: two sets of authorities, agents' and callers', and which of the two a certificate belongs to. A
//! certificate of neither fails the handshake; none at all is fine here, since tokens prove who somebody is as well.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AgentRoots, RootSet};

/// Against what a certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub set: RootSet,
    pub authority: Option<String>,
}

/// The authorities of callers.
#[derive(Clone, Debug)]
pub(super) struct Callers {
    verifier: Arc<dyn ClientCertVerifier>,
    keys: BTreeSet<Vec<u8>>,
}

impl Callers {
    /// From the certificates of a file. One that cannot be read does not shut out the others of a bundle; none when none is left.
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Self>, VerifierBuilderError> {
        let keys = certificates.iter().filter_map(|certificate| key_of(certificate)).collect();
        let mut roots = RootCertStore::empty();
        let (added, _ignored) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Ok(None);
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider)).build()?;
        Ok(Some(Self { verifier, keys }))
    }

    /// True when one of them is an authority of agents, too: then nothing would tell a caller from an agent.
    pub fn shares_with(&self, agents: &AgentRoots) -> bool {
        agents.0.iter().any(|root| key_of(&root.der).is_some_and(|key| self.keys.contains(&key)))
    }
}

fn key_of(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// Both sets.
#[derive(Debug)]
pub(super) struct Trust {
    agents: Vec<(String, Arc<dyn ClientCertVerifier>)>,
    callers: Option<Callers>,
}

impl Trust {
    pub fn new(roots: &AgentRoots, callers: Option<Callers>, provider: &Arc<CryptoProvider>) -> Self {
        let agents = roots.0.iter().filter_map(|root| match verifier_of(&root.der, provider) {
            Ok(verifier) => Some((root.id.clone(), verifier)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let authority = &root.id;
                tracing::error!(
                    authority,
                    error,
                    "an authority of agents cannot be used; agents with its certificates are refused"
                );
                None
            }
        });
        Self { agents: agents.collect(), callers }
    }

    fn find(&self, leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<Found, Error> {
        let mut why = None;
        for (id, verifier) in &self.agents {
            // Agents' certificates come from the authority itself, with nothing between: whatever an authority below it
            // issued for other purposes is no agent.
            match verifier.verify_client_cert(leaf, &[], now) {
                Ok(_) => return Ok(Found { set: RootSet::Agents, authority: Some(id.clone()) }),
                Err(error) => remember(&mut why, error),
            }
        }
        if let Some(callers) = &self.callers {
            match callers.verifier.verify_client_cert(leaf, between, now) {
                Ok(_) => return Ok(Found { set: RootSet::Callers, authority: None }),
                Err(error) => remember(&mut why, error),
            }
        }
        Err(why.unwrap_or(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
    }
}

fn verifier_of(root: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from(root.to_vec()))?;
    Ok(WebPkiClientVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build()?)
}

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("its certificate cannot be read")]
    Certificate(#[from] Error),
    #[error("it cannot be verified against")]
    Verifier(#[from] VerifierBuilderError),
}

/// "Expired" says more than "not from this one": the first error of an authority that knows the certificate is the one to tell.
fn remember(why: &mut Option<Error>, error: Error) {
    let stranger = |error: &Error| matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    if why.as_ref().is_none_or(stranger) {
        *why = Some(error);
    }
}

/// The verifier of one handshake, which keeps what it found.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    found: OnceLock<Found>,
}

impl Verifier {
    pub fn new(trust: Arc<Trust>, provider: Arc<CryptoProvider>) -> Self {
        Self { trust, provider, found: OnceLock::new() }
    }

    /// To be asked after the handshake only: what is found here is proven when the client has signed with its key.
    pub fn found(&self) -> Option<Found> {
        self.found.get().cloned()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None are named: a client sends the one that it was given, and strangers need not know who is trusted.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let found = self.trust.find(end_entity, intermediates, now)?;
        match self.found.set(found) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(_) => Err(Error::General("a second certificate in one handshake".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
