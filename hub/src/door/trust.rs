//! Whose certificates are believed: two sets of authorities, agents' and callers', and which of the two a certificate belongs to. A
//! certificate of neither fails the handshake; none at all is fine here, since tokens prove who somebody is as well. A connection
//! remembers its [`Root`], so that it can be ended when that one is not trusted any more.

use std::sync::{Arc, OnceLock};

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
    pub root: Root,
}

/// An authority by its set, its name and its key: one whose certificate was renewed is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    set: RootSet,
    subject: Vec<u8>,
    key: Vec<u8>,
}

impl Root {
    fn of(set: RootSet, certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self { set, subject: parsed.subject().as_raw().to_vec(), key: parsed.public_key().raw.to_vec() })
    }
}

/// An authority, and what verifies against it alone, so that it is known which one a certificate comes from.
#[derive(Clone, Debug)]
struct One {
    root: Root,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl One {
    fn new(set: RootSet, certificate: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, Unusable> {
        let root = Root::of(set, certificate).ok_or(Unusable::Unreadable)?;
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from(certificate.to_vec()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build()?;
        Ok(Self { root, verifier })
    }
}

/// The authorities of callers.
#[derive(Clone, Debug)]
pub(super) struct Callers(Vec<One>);

impl Callers {
    /// From the certificates of a file. One that cannot be read does not shut out the others of a bundle; none when none is left.
    pub fn new(certificates: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Self> {
        let each = certificates.iter().filter_map(|certificate| One::new(RootSet::Callers, certificate, provider).ok());
        let usable: Vec<One> = each.collect();
        (!usable.is_empty()).then_some(Self(usable))
    }

    /// True when one of them is an authority of agents, too: then nothing would tell a caller from an agent.
    pub fn shares_with(&self, agents: &AgentRoots) -> bool {
        let agents: Vec<Root> = agents.0.iter().filter_map(|root| Root::of(RootSet::Agents, &root.der)).collect();
        agents.iter().any(|agents| self.0.iter().any(|callers| callers.root.key == agents.key))
    }
}

/// Both sets.
#[derive(Debug)]
pub(super) struct Trust {
    /// By id, the youngest first: of two with one name and one key the one that stays gets the certificates.
    agents: Vec<(String, One)>,
    callers: Option<Callers>,
}

impl Trust {
    pub fn new(roots: &AgentRoots, callers: Option<Callers>, provider: &Arc<CryptoProvider>) -> Self {
        let agents = roots.0.iter().rev().filter_map(|root| match One::new(RootSet::Agents, &root.der, provider) {
            Ok(one) => Some((root.id.clone(), one)),
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

    /// Whether certificates of this one are still believed.
    pub fn holds(&self, root: &Root) -> bool {
        let callers = self.callers.iter().flat_map(|callers| &callers.0);
        self.agents.iter().map(|(_, one)| one).chain(callers).any(|one| one.root == *root)
    }

    fn find(&self, leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<Found, Error> {
        let mut why = None;
        for (id, one) in &self.agents {
            // Agents' certificates come from the authority itself, with nothing between: whatever an authority below it
            // issued for other purposes is no agent.
            match one.verifier.verify_client_cert(leaf, &[], now) {
                Ok(_) => {
                    let (authority, root) = (Some(id.clone()), one.root.clone());
                    return Ok(Found { set: RootSet::Agents, authority, root });
                }
                Err(error) => remember(&mut why, error),
            }
        }
        for one in self.callers.iter().flat_map(|callers| &callers.0) {
            match one.verifier.verify_client_cert(leaf, between, now) {
                Ok(_) => return Ok(Found { set: RootSet::Callers, authority: None, root: one.root.clone() }),
                Err(error) => remember(&mut why, error),
            }
        }
        Err(why.unwrap_or(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
    }
}

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it is no certificate as RFC 5280 has it")]
    Unreadable,
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
