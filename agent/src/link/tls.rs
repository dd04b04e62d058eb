//! TCP and TLS of a connection to the hub: TLS 1.3 and HTTP/2 only, with the authorities and the certificate that are given.
//!
//! tonic's own TLS also takes TLS 1.2. Each connection has a configuration of its own, so that no session of an earlier certificate is
//! resumed.

use std::sync::Arc;

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::{BoxError, ServiceExt};

use crate::identity::values::Identity;

const HTTP2: &[u8] = b"h2";

/// Why there is no TLS with the hub.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Authorities or identity are not PEM.
    #[error("the authorities of --tls-ca or the certificate are not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They cannot be used.
    #[error("the certificates do not make a TLS configuration")]
    Config(#[from] rustls::Error),
    /// The URL has no host that a certificate can be for.
    #[error("the host of --hub is no name or address")]
    Name,
    /// Something else listens there.
    #[error("what listens there speaks TLS, but no HTTP/2, and so no gRPC; correct --hub")]
    NotHttp2,
}

/// What a connection is made with.
///
/// # Errors
/// When authorities or identity cannot be used.
pub fn config(authorities: &[u8], identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        roots.add(authority?)?;
    }
    let builder = ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { key, certificate }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())?)?
        }
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

/// Connects. The caller bounds the time.
///
/// # Errors
/// When the hub cannot be reached, or does not prove that it is the hub.
pub async fn connect(uri: Uri, config: Arc<ClientConfig>) -> Result<TokioIo<TlsStream<TcpStream>>, BoxError> {
    let host = uri.host().ok_or(TlsError::Name)?;
    // As a URL has it, an address of IPv6 stands in brackets.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name)?;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let stream = connector.oneshot(uri).await?.into_inner();
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(TlsError::NotHttp2.into());
    }
    Ok(TokioIo::new(stream))
}
