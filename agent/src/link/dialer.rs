//! Makes connections to the hub, each with the credentials of that moment: the authorities that the hub is known by, and the certificate
//! that the agent is known by. Both may change at any time; a connection keeps what it was made with.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use thiserror::Error;
use tonic::{
    Status,
    transport::{self, Channel, Endpoint},
};

use super::tls;
use crate::{
    complaints::Complaints,
    identity::{
        present::{Credentials, Presented},
        values::Identity,
    },
    metrics::Metrics,
    text::causes,
};

/// TCP, TLS and HTTP/2 together. The hub may be in another region: some 200 ms a round trip, four of them.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a connection that died in silence within 10 s, also when heartbeats are rare.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the hub is, and how the two know each other.
#[derive(Debug, Clone)]
pub struct Target {
    /// http:// or https:// URL.
    pub url: String,
    /// None only for http://, which the arguments refuse without --dev.
    pub tls: Option<Credentials>,
}

/// The target cannot be used at all.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The URL is none.
    #[error("--hub {url} is not a URL; give one such as https://hub.example.com:9443")]
    Url {
        /// What was given.
        url: String,
        /// Why.
        #[source]
        source: transport::Error,
    },
    /// It has to be https://.
    #[error("--hub {url} is not an https:// URL with a host; give one such as https://hub.example.com:7400")]
    Https {
        /// What was given.
        url: String,
    },
}

/// Makes connections to the hub. Clones share the credentials.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: Endpoint,
    credentials: Option<Credentials>,
    complaints: Complaints,
    metrics: Option<Metrics>,
}

impl Dialer {
    /// A dialer that has not dialled yet.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(target: &Target) -> Result<Self, TargetError> {
        let in_url = |source| TargetError::Url { url: target.url.clone(), source };
        let mut endpoint = Endpoint::from_shared(target.url.clone()).map_err(in_url)?;
        if target.tls.is_some() {
            // To tonic the connection is plain, for its TLS is made here; requests name what they are for as it is.
            let origin = endpoint.uri().clone();
            let plain = with_port(&target.url).ok_or_else(|| TargetError::Https { url: target.url.clone() })?;
            endpoint = Endpoint::from_shared(plain).map_err(in_url)?.origin(origin);
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self { endpoint, credentials: target.tls.clone(), complaints: Complaints::default(), metrics: None })
    }

    /// Tells here what concerns the connections of all streams.
    #[must_use]
    pub fn reporting(self, complaints: Complaints, metrics: Metrics) -> Self {
        Self { complaints, metrics: Some(metrics), ..self }
    }

    /// A new connection, and what this agent is known by on it. Waits a moment for a certificate that is on its way.
    ///
    /// # Errors
    /// Says for people why the hub cannot be reached.
    pub async fn connect(&self) -> Result<(Channel, Option<Arc<Identity>>), String> {
        let used = match &self.credentials {
            None => None,
            Some(credentials) => {
                let mut presented = credentials.presented.clone();
                let there = presented.wait_for(|presented| !matches!(presented, Presented::NotYet(_)));
                // Its end, or that of the source, leaves what is there now.
                let _ = tokio::time::timeout(CONNECT_TIMEOUT, there).await;
                let presented = credentials.presented.borrow().clone();
                match presented {
                    Presented::Nobody => None,
                    Presented::With(identity) => Some(identity),
                    Presented::NotYet(reason) => {
                        return Err(format!("this agent cannot prove to the hub who it is: {reason}"));
                    }
                }
            }
        };
        let channel = self.connect_as(used.as_deref()).await?;
        Ok((channel, used))
    }

    /// A new connection, known as this, or as nobody.
    ///
    /// # Errors
    /// Says for people why the hub cannot be reached.
    pub async fn connect_as(&self, identity: Option<&Identity>) -> Result<Channel, String> {
        let connected = match &self.credentials {
            None => self.endpoint.connect().await,
            Some(credentials) => {
                let authorities = Arc::clone(&credentials.authorities.borrow());
                let config = tls::config(&authorities, identity).map_err(|error| causes(&error))?;
                let connector = tower::service_fn(move |uri| tls::connect(uri, Arc::clone(&config)));
                self.endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| format!("the hub cannot be reached: {}", causes(&error)))
    }

    /// Ends when new connections are not made with this any more, and says when that was.
    pub fn replaced(&self, used: Option<&Arc<Identity>>) -> impl Future<Output = Timestamp> + Send + use<> {
        let presented = self.credentials.as_ref().map(|credentials| credentials.presented.clone());
        let used = used.cloned();
        async move {
            let (Some(mut presented), Some(used)) = (presented, used) else { return std::future::pending().await };
            let is_another = |presented: &Presented| match presented {
                Presented::With(identity) => identity.certificate != used.certificate,
                Presented::Nobody | Presented::NotYet(_) => false,
            };
            if presented.wait_for(is_another).await.is_err() {
                // The source is gone, and with it the agent.
                return std::future::pending().await;
            }
            Timestamp::now()
        }
    }

    /// Has the identity looked at: the hub did not take it.
    pub fn doubt(&self, used: Option<&Identity>) {
        if let (Some(credentials), Some(used)) = (&self.credentials, used) {
            credentials.doubt(used);
        }
    }

    /// The hub said that another agent of the cluster has this stream.
    pub(super) fn another_agent_has(&self, stream: &'static str, complaint: &'static str, words: &str) {
        self.complaints.block(complaint, words);
        if let Some(metrics) = &self.metrics {
            metrics.another_agent(stream);
        }
    }

    /// The hub takes this stream from this agent again.
    pub(super) fn has_stream_again(&self, complaint: &'static str) {
        self.complaints.clear(complaint);
    }
}

/// The same place with http:// and the port that https:// has.
fn with_port(url: &str) -> Option<String> {
    let uri: transport::Uri = url.parse().ok()?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"))?;
    let port = authority.port_u16().unwrap_or(443);
    Some(format!("http://{}:{port}", authority.host()))
}

/// True when the hub's TLS did not take the certificate of this connection. In TLS 1.3 that comes after the handshake, as an alert that
/// HTTP/2 hands on as text.
#[must_use]
pub fn certificate_was_refused(status: &Status) -> bool {
    /// As rustls shows them; the names are those of RFC 8446.
    const ALERTS: [&str; 8] = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
        "UnknownCA",
        "DecryptError",
    ];
    let text = causes(status);
    text.split_once("received fatal alert: ")
        .is_some_and(|(_, alert)| ALERTS.iter().any(|known| alert.starts_with(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_dialled_at_the_port_of_its_url_or_at_that_of_https() {
        assert_eq!(with_port("https://hub:7400").as_deref(), Some("http://hub:7400"));
        assert_eq!(with_port("https://hub.example.com/").as_deref(), Some("http://hub.example.com:443"));
        assert_eq!(with_port("https://[2001:db8::1]:7400").as_deref(), Some("http://[2001:db8::1]:7400"));
        for wrong in ["http://hub:7400", "hub:7400", "https://"] {
            assert_eq!(with_port(wrong), None, "{wrong}");
        }
    }
}
