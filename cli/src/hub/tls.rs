//! TCP and TLS of a connection to the hub: TLS 1.3 and HTTP/2 only, as the hub's agents speak them; tonic's own TLS also takes TLS 1.2.
//!
//! Reads no files and knows no flags; the files are read in `address`. What an error means for people is in `trouble`.

use std::sync::Arc;

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::{BoxError, ServiceExt};

const HTTP2: &[u8] = b"h2";

/// Why there is no TLS with the hub.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("not PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("--tls-ca holds no certificate")]
    NoAuthority,
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
    #[error("the host of --hub is neither a name nor an address")]
    Host,
    /// Something else listens there.
    #[error("what listens there speaks TLS, but no HTTP/2, and so no gRPC")]
    NotHttp2,
}

/// What connections are made with. Clones share it.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// The name that the hub's certificate has to be for, where that is not the host of the address.
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// From PEM: the hub's authorities, and the caller's certificate with its key.
    pub fn new(authorities: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            roots.add(authority?)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthority);
        }
        // Named here, so that it does not depend on which features other crates turn on.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self { config: Arc::new(config), name: None })
    }

    /// The hub's certificate has to be for this name, whatever the address is.
    pub fn named(self, name: &str) -> Result<Self, InvalidDnsNameError> {
        Ok(Self { name: Some(ServerName::try_from(name.to_owned())?), ..self })
    }

    /// Connects. The caller bounds the time.
    pub async fn connect(self, uri: Uri) -> Result<TokioIo<TlsStream<TcpStream>>, BoxError> {
        let name = match self.name {
            Some(name) => name,
            None => {
                let host = uri.host().ok_or(TlsError::Host)?;
                // As a URL has it, an address of IPv6 stands in brackets.
                let host = host.trim_start_matches('[').trim_end_matches(']');
                ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host)?
            }
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let stream = connector.oneshot(uri).await?.into_inner();
        let stream = TlsConnector::from(self.config).connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(TlsError::NotHttp2.into());
        }
        Ok(TokioIo::new(stream))
    }
}
