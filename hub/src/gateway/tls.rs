//! TLS of the gateway: the same certificate and the same rule as on the gRPC port, that every caller has a certificate of the given
//! authorities. HTTP/1.1 only.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio_rustls::TlsAcceptor;

/// What is served with, as PEM.
#[derive(Clone)]
pub struct Pem {
    /// The chain.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The authorities that callers have their certificates from.
    pub client_ca: Vec<u8>,
}

/// Why the certificates are not usable. The files are named by their flags.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing in it.
    #[error("{flag} is not usable as PEM")]
    Pem {
        /// Which.
        flag: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A certificate that is none.
    #[error("--tls-client-ca holds no certificate that can be used")]
    NoAuthority,
    /// The authorities.
    #[error("--tls-client-ca cannot be used")]
    Authorities(#[source] VerifierBuilderError),
    /// The chain and its key.
    #[error("--tls-cert and --tls-key cannot be used together")]
    Identity(#[source] rustls::Error),
}

/// The acceptor.
///
/// # Errors
/// [`TlsError`] when the certificates are not usable.
pub fn acceptor(pem: &Pem) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates("--tls-cert", &pem.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|source| TlsError::Pem { flag: "--tls-key", source })?;
    let mut roots = RootCertStore::empty();
    // As the gRPC port does: one certificate that cannot be read does not shut out the others of a bundle.
    let (added, _ignored) = roots.add_parsable_certificates(certificates("--tls-client-ca", &pem.client_ca)?);
    if added == 0 {
        return Err(TlsError::NoAuthority);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let verifier = verifier.build().map_err(TlsError::Authorities)?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Identity)?.with_client_cert_verifier(verifier);
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(flag: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|source| TlsError::Pem { flag, source })
}
