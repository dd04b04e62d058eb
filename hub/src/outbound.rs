//! What every question to a place outside shares, whoever asks: TLS 1.3 and nothing older, connections without proxies and redirects,
//! answers bounded in size, and the words for what went wrong. What a question is, and how long it may take, is for those who ask
//! (`access/fetch.rs`, `analysis/outside.rs`). Must not import another module of the hub.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use rustls::{ClientConfig, ConfigBuilder, WantsVerifier, crypto::aws_lc_rs, version::TLS13};

/// For a client, https and http; whether plain text is allowed is asked before.
pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// Why an answer is not there, or not whole.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Not there, or not believed; the causes.
    Connect(String),
    /// Broke off; the causes.
    Broken(String),
    /// Too long.
    Length,
}

/// The provider is named, so that no other one in the process can be taken by chance.
pub(crate) fn tls() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_protocol_versions(&[&TLS13])
}

/// `connect_time`: for the connection without its handshake, so that "not there" is told apart from "slow".
pub(crate) fn connector(config: ClientConfig, connect_time: Duration) -> Connector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect_time));
    http.set_nodelay(true);
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}

/// Sends the request; the answer's head.
pub(crate) async fn send<B>(
    client: &Client<Connector, B>,
    request: Request<B>,
) -> Result<Response<Incoming>, Unanswered>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    client.request(request).await.map_err(|error| {
        let words = chain(&error);
        if error.is_connect() { Unanswered::Connect(words) } else { Unanswered::Broken(words) }
    })
}

/// The whole body, when it has not more than `most` bytes.
pub(crate) async fn whole(body: Incoming, most: usize) -> Result<Bytes, Unanswered> {
    let read = Limited::new(body, most).collect().await;
    let read = read.map_err(|error| {
        if error.is::<LengthLimitError>() { Unanswered::Length } else { Unanswered::Broken(chain(error.as_ref())) }
    });
    Ok(read?.to_bytes())
}

/// The error and its causes, as they are: parts of it come from outside.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}
