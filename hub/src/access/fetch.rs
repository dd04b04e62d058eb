//! One GET at an issuer of tokens and its whole answer, bounded in time and size. Follows no redirect, uses no proxy, speaks plain
//! text with this machine only and only when it was told to. Knows nothing of keys.

use std::{error::Error, io, net::IpAddr, path::Path, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use http_body_util::Empty;
use hyper_rustls::ConfigBuilderExt;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;

use super::escaped;
use crate::outbound::{self, Connector, Unanswered, connector, tls};

/// From the name's resolution to the last byte: a caller waits for it when the key of his token is not known yet.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer: a hundred keys of 4096 bits, with their certificates, are some 500 KB.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// Why nothing was fetched. The texts go on a sentence that names what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Too slow.
    #[error("gave no answer within {TIME_LIMIT:?}")]
    Time,
    /// Not there, or not believed.
    #[error("could not be reached: {0}")]
    Connect(String),
    /// Broke off.
    #[error("broke the answer off: {0}")]
    Broken(String),
    /// Not 200. Redirects are not followed: what is fetched decides who is believed, so it comes from the place that was named.
    #[error("answered {0}; 200 is expected, redirects are not followed")]
    Status(StatusCode),
    /// Too long.
    #[error("gave an answer of more than {MOST_BYTES} bytes")]
    Length,
    /// Plain text over a network.
    #[error("is not https; whoever is in between could give keys of his own")]
    PlainText,
    /// Not a request that can be made.
    #[error("cannot be asked for: {0}")]
    Request(#[from] http::Error),
}

impl From<Unanswered> for FetchError {
    fn from(why: Unanswered) -> Self {
        match why {
            Unanswered::Connect(words) => FetchError::Connect(escaped(&words)),
            Unanswered::Broken(words) => FetchError::Broken(escaped(&words)),
            Unanswered::Length => FetchError::Length,
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No cipher.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The roots of this machine.
    #[error("the root certificates of this machine cannot be read")]
    Roots(#[source] io::Error),
    /// The file.
    #[error("the CA file {file} holds no certificate that can be used: {problem}")]
    CaFile {
        /// Its path.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

/// Connections to one issuer.
#[derive(Clone)]
pub(super) struct Fetcher {
    client: Client<Connector, Empty<Bytes>>,
    /// Plain text with this machine is spoken.
    plain_loopback: bool,
}

impl Fetcher {
    /// Trusts the certificates of the file, or else the roots of this machine (SSL_CERT_FILE and SSL_CERT_DIR name others).
    pub(super) fn new(ca: Option<&Path>, plain_loopback: bool) -> Result<Self, ClientError> {
        let config = match ca {
            Some(file) => tls()?.with_root_certificates(roots(file)?),
            None => tls()?.with_native_roots().map_err(ClientError::Roots)?,
        };
        let connector = connector(config.with_no_client_auth(), TIME_LIMIT / 2);
        // Keys are fetched every ten minutes: nothing is kept open for that long.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self { client, plain_loopback })
    }

    /// The body of an answer 200.
    pub(super) async fn get(&self, url: &Uri) -> Result<Bytes, FetchError> {
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if self.plain_loopback && is_loopback(url) => {}
            _ => return Err(FetchError::PlainText),
        }
        timeout(TIME_LIMIT, self.exchange(url)).await.map_err(|_| FetchError::Time)?
    }

    async fn exchange(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let request = Request::get(url)
            .header(ACCEPT, "application/json, application/jwk-set+json")
            .header(USER_AGENT, concat!("switchyard-hub/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;
        let response = outbound::send(&self.client, request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        Ok(outbound::whole(response.into_body(), MOST_BYTES).await?)
    }
}

fn roots(file: &Path) -> Result<RootCertStore, ClientError> {
    let fail = |problem: String| ClientError::CaFile { file: file.display().to_string(), problem };
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.map_err(|error| fail(error.to_string()))?);
    if added == 0 { Err(fail("there is none in it".to_owned())) } else { Ok(roots) }
}

/// This machine, by its address or by its name.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The error and its causes in one short line without control characters.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    escaped(&outbound::chain(error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        version::{TLS12, TLS13},
    };
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn plain_text_is_spoken_with_this_machine_only_and_only_when_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        for (url, plain) in [
            ("http://issuer.example/keys", true),
            ("http://127.0.0.1.example/keys", true),
            ("http://10.0.0.1/keys", true),
            ("http://127.0.0.1:1/keys", false),
            ("ftp://127.0.0.1/keys", true),
        ] {
            let fetcher = Fetcher::new(Some(file.path()), plain).unwrap();
            let refused = fetcher.get(&url.parse().unwrap()).await.unwrap_err();
            assert!(matches!(refused, FetchError::PlainText), "{url}: {refused}");
        }
        for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/"] {
            assert!(is_loopback(&url.parse().unwrap()), "{url}");
        }
    }

    /// A server on this machine that answers every request with this; over TLS with a certificate for `localhost` when it has one.
    async fn server(answer: String, tls: Option<tokio_rustls::TlsAcceptor>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, tls) = (answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        // A client that does not believe the certificate ends the handshake.
                        Some(tls) => respond(tls.accept(stream).await?, &answer).await,
                        None => respond(stream, &answer).await,
                    }
                });
            }
        });
        port
    }

    async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> io::Result<()> {
        let _head = stream.read(&mut [0; 4096]).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// A server's half of TLS, of these versions.
    fn speaks(
        made: &rcgen::CertifiedKey<rcgen::KeyPair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> tokio_rustls::TlsAcceptor {
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        Arc::new(config).into()
    }

    #[tokio::test]
    async fn an_issuer_that_speaks_only_old_tls_is_not_spoken_with() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let fetcher = Fetcher::new(Some(file.path()), false).unwrap();
        let get = async |versions: &[&'static SupportedProtocolVersion]| {
            let port = server(answer("{}"), Some(speaks(&made, versions))).await;
            fetcher.get(&format!("https://localhost:{port}/").parse().unwrap()).await
        };
        assert_eq!(get(&[&TLS13]).await.unwrap(), "{}");
        let refused = get(&[&TLS12]).await.unwrap_err();
        assert!(matches!(&refused, FetchError::Connect(why) if why.contains("ProtocolVersion")), "{refused}");
    }

    #[tokio::test]
    async fn an_issuer_is_believed_only_with_a_certificate_of_its_own_authority_and_for_its_name() {
        let (ours, other) = (
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap(),
        );
        let port = server(answer("{}"), Some(speaks(&ours, &[&TLS12, &TLS13]))).await;
        let folder = tempfile::tempdir().unwrap();
        let get = async |made: &rcgen::CertifiedKey<rcgen::KeyPair>, host: &str| {
            let file = folder.path().join("ca.pem");
            std::fs::write(&file, made.cert.pem()).unwrap();
            Fetcher::new(Some(&file), false).unwrap().get(&format!("https://{host}:{port}/").parse().unwrap()).await
        };
        assert_eq!(get(&ours, "localhost").await.unwrap(), "{}");
        for (made, host) in [(&other, "localhost"), (&ours, "127.0.0.1")] {
            let refused = get(made, host).await.unwrap_err();
            assert!(matches!(&refused, FetchError::Connect(why) if why.contains("certificate")), "{refused}");
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed_and_answers_are_bounded() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let fetcher = Fetcher::new(Some(file.path()), true).unwrap();
        let get = async |answer: String| {
            let port = server(answer, None).await;
            fetcher.get(&format!("http://127.0.0.1:{port}/").parse().unwrap()).await
        };
        assert_eq!(get(answer("{}")).await.unwrap(), "{}");
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(get(moved.to_owned()).await, Err(FetchError::Status(StatusCode::FOUND))));
        assert!(matches!(get(answer(&"x".repeat(MOST_BYTES + 1))).await, Err(FetchError::Length)));
        // Also when the server says nothing of the length.
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MOST_BYTES + 1));
        assert!(matches!(get(endless).await, Err(FetchError::Length)));
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Fetcher::new(Some(file.path()), false).err().unwrap().to_string();
        assert!(refused.contains("holds no certificate"), "{refused}");
        assert!(Fetcher::new(Some(Path::new("/nonexistent/ca.pem")), false).is_err());
    }
}
