//! One request to a place outside and its whole answer, bounded in time and size. Follows no redirect, uses no proxy, retries
//! nothing: a measurement that failed is made again at its next time. Knows neither Prometheus nor webhooks.

use std::{error::Error, path::Path, time::Duration};

use http::{
    HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::Full;
use hyper_rustls::ConfigBuilderExt;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use tokio::{io::AsyncReadExt, time::timeout};
use tokio_util::bytes::Bytes;

use super::{AnalysisError, settings::Place};
use crate::outbound::{self, Connector, Unanswered, connector, tls};

/// The connection gets this part of the time, so that "not there" is told apart from "slow".
const CONNECT_SHARE: f64 = 0.5;
/// Longer than any token; a wrong file must not fill the memory.
const MOST_TOKEN: u64 = 64 << 10;
/// Characters of an error that are kept: it is stored with the shift and shown.
const MOST_CHARACTERS: usize = 512;

/// Connections to places outside. Clones share them.
#[derive(Clone)]
pub(super) struct Outside {
    client: Client<Connector, Full<Bytes>>,
    time_limit: Duration,
}

/// What is sent; always POST.
pub(super) struct Question<'a> {
    pub(super) place: &'a Place,
    /// The place's own URL, or one below it.
    pub(super) url: Uri,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
    /// Bytes of an answer that are taken.
    pub(super) most: usize,
}

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer. The texts go on a sentence that names who was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("gave no answer within {0:?}; check that it is not overloaded")]
    Time(Duration),
    #[error("could not be reached: {0}; check its URL and the way there")]
    Connect(String),
    #[error("broke the answer off: {0}")]
    Broken(String),
    #[error("gave an answer of more than {0} bytes; ask it for one number")]
    Length(usize),
    #[error("was not asked: its token in {file} {problem}")]
    Token { file: String, problem: String },
    #[error("was not asked: the request could not be made: {0}")]
    Request(#[from] http::Error),
}

/// The error and its causes in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    shortened(&outbound::chain(error))
}

/// A text that is kept and shown, without line breaks and control characters, which would garble a terminal and a log.
pub(super) fn shortened(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(MOST_CHARACTERS).map(plain).collect();
    if text.chars().nth(MOST_CHARACTERS).is_some() {
        short.push_str("...");
    }
    short
}

impl Outside {
    /// Reads the platform's root certificates when a place needs them: a bare machine may have none. The variables
    /// SSL_CERT_FILE and SSL_CERT_DIR name others.
    pub(super) fn new(needs_tls: bool, time_limit: Duration) -> Result<Self, AnalysisError> {
        let config = tls().map_err(AnalysisError::Tls)?;
        let config = if needs_tls {
            config.with_native_roots().map_err(AnalysisError::Roots)?
        } else {
            config.with_root_certificates(RootCertStore::empty())
        };
        Ok(Self::with(config.with_no_client_auth(), time_limit))
    }

    fn with(config: ClientConfig, time_limit: Duration) -> Self {
        let connector = connector(config, time_limit.mul_f64(CONNECT_SHARE));
        // A gate is asked every half minute: connections that are kept longer are more often broken than useful.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(2)
            .build(connector);
        Self { client, time_limit }
    }

    /// The time that one question has.
    pub(super) fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// Asks once.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Answer, AskError> {
        timeout(self.time_limit, self.exchange(question)).await.map_err(|_| AskError::Time(self.time_limit))?
    }

    async fn exchange(&self, question: Question<'_>) -> Result<Answer, AskError> {
        let mut request = Request::post(question.url)
            .header(CONTENT_TYPE, question.content_type)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("switchyard-hub/", env!("CARGO_PKG_VERSION")));
        for (name, value) in question.headers {
            request = request.header(name, value);
        }
        if let Some(file) = &question.place.token {
            request = request.header(AUTHORIZATION, bearer(file).await?);
        }
        let request = request.body(Full::new(Bytes::from(question.body)))?;
        let most = question.most;
        let failed = |why| match why {
            Unanswered::Connect(words) => AskError::Connect(shortened(&words)),
            Unanswered::Broken(words) => AskError::Broken(shortened(&words)),
            Unanswered::Length => AskError::Length(most),
        };
        let response = outbound::send(&self.client, request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, body: outbound::whole(body, most).await.map_err(failed)? })
    }
}

/// Read for each question: tokens of service accounts are renewed in their file.
async fn bearer(file: &Path) -> Result<HeaderValue, AskError> {
    let fail = |problem: String| AskError::Token { file: file.display().to_string(), problem };
    let read = async {
        let mut text = String::new();
        tokio::fs::File::open(file).await?.take(MOST_TOKEN).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read.await.map_err(|error| fail(format!("cannot be read: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(fail("is empty".to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| fail("holds characters that no header can carry".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
        version::{TLS12, TLS13},
    };
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn what_is_kept_of_an_error_is_short_and_holds_no_control_characters() {
        let long = format!("a\nb\u{1b}[31m{}", "x".repeat(10_000));
        let short = shortened(&long);
        assert!(short.starts_with("a b [31m") && short.ends_with("..."), "{short}");
        assert_eq!(short.chars().count(), MOST_CHARACTERS + 3);
        assert_eq!(shortened("plain"), "plain");
    }

    /// A server with a certificate for `localhost`, which answers every connection with `{}` over these versions of TLS; gives its port
    /// and the certificate.
    async fn tls_server(versions: &[&'static SupportedProtocolVersion]) -> (u16, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not believe the certificate ends the handshake.
                    let mut stream = acceptor.accept(stream).await?;
                    let _head = stream.read(&mut [0; 4096]).await?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await?;
                    stream.shutdown().await
                });
            }
        });
        (port, certificate)
    }

    async fn ask_over_tls(roots: RootCertStore, host: &str, port: u16) -> Result<Answer, AskError> {
        let config = tls().unwrap().with_root_certificates(roots).with_no_client_auth();
        let outside = Outside::with(config, Duration::from_secs(10));
        let url: Uri = format!("https://{host}:{port}/").parse().unwrap();
        let place = Place { url: url.clone(), token: None };
        let (content_type, headers, body) = ("application/json", Vec::new(), String::new());
        outside.ask(Question { place: &place, url, content_type, headers, body, most: 100 }).await
    }

    #[tokio::test]
    async fn a_server_is_believed_only_with_a_certificate_for_its_name_from_a_known_authority() {
        let (port, certificate) = tls_server(&[&TLS12, &TLS13]).await;
        let mut known = RootCertStore::empty();
        known.add(certificate).unwrap();
        let answer = ask_over_tls(known.clone(), "localhost", port).await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, &b"{}"[..]));
        for (roots, host) in [(RootCertStore::empty(), "localhost"), (known, "127.0.0.1")] {
            let error = ask_over_tls(roots, host, port).await.unwrap_err();
            assert!(matches!(&error, AskError::Connect(why) if why.contains("certificate")), "{host}: {error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_only_old_tls_is_not_asked() {
        let (port, certificate) = tls_server(&[&TLS12]).await;
        let mut known = RootCertStore::empty();
        known.add(certificate).unwrap();
        let error = ask_over_tls(known, "localhost", port).await.unwrap_err();
        assert!(matches!(&error, AskError::Connect(why) if why.contains("ProtocolVersion")), "{error}");
    }

    #[tokio::test]
    async fn a_token_is_trimmed_hidden_and_refused_when_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hunter2\n").unwrap();
        let value = bearer(&file).await.unwrap();
        assert_eq!(value.as_bytes(), b"Bearer hunter2");
        assert!(!format!("{value:?}").contains("hunter2"));
        for content in ["", " \n", "a\u{7}b"] {
            std::fs::write(&file, content).unwrap();
            assert!(bearer(&file).await.is_err(), "{content:?}");
        }
        let missing = bearer(&folder.path().join("none")).await.unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
    }
}
