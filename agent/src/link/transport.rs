//! The tonic shell: dials the hub, writes what it is given, and passes on what comes. It decides nothing.
//!
//! Each stream has a connection of its own, from one `Dialer`: what hurts one of them (a hub that stands still, a window that is
//! full) is not felt by the others, and a stream that is dialled anew does not meet the old connection again.

use std::{fmt::Debug, future::Future, time::Duration};

use switchyard_proto::agent::v1::{AgentMessage, HubMessage, agent_service_client::AgentServiceClient};
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    convert::{UnreadableMessage, from_proto_message},
    messages::Incoming,
};

/// TCP, TLS and HTTP/2 together. The hub may be in another region: some 200 ms a round trip, four of them.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a connection that died in silence within 10 s, also when heartbeats are rare.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for the network. Small, so that what waits is still being coalesced in the index.
pub const OUTBOX: usize = 8;
/// Messages from the hub that may wait for the session.
const INBOX: usize = 64;

/// How long the hub has to end a stream in its turn when the agent stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where the hub is, and how to prove who we are.
#[derive(Debug, Clone)]
pub struct Target {
    /// http:// or https:// URL.
    pub url: String,
    /// None only for http://, which the arguments refuse without --dev.
    pub tls: Option<Tls>,
}

/// Certificates in PEM.
#[derive(Clone)]
pub struct Tls {
    /// What the hub's certificate must be signed by.
    pub ca: Vec<u8>,
    /// This agent's certificate and key; None only with --dev.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A key must never reach a log.
        formatter.debug_struct("Tls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
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
        source: tonic::transport::Error,
    },
    /// The certificates do not make a TLS configuration.
    #[error(
        "the files of --tls-ca, --tls-cert and --tls-key do not make a TLS configuration; give PEM files that belong together"
    )]
    Tls(#[source] tonic::transport::Error),
}

/// A bidirectional stream of the hub: which call it is, and how its messages are read.
pub trait Call: 'static {
    /// What is written.
    type Outgoing: Send + 'static;
    /// What comes, as it is on the wire.
    type Wire: Send + 'static;
    /// What comes, in our own types.
    type Incoming: Debug + Send + 'static;

    /// Makes the call.
    fn open(
        channel: Channel,
        messages: ReceiverStream<Self::Outgoing>,
    ) -> impl Future<Output = Result<Streaming<Self::Wire>, Status>> + Send;

    /// Reads one message.
    ///
    /// # Errors
    /// When the message is none that this agent knows.
    fn read(wire: Self::Wire) -> Result<Self::Incoming, UnreadableMessage>;
}

/// The stream of endpoints: `AgentService.Session`.
#[derive(Debug)]
pub struct EndpointCall;

impl Call for EndpointCall {
    type Outgoing = AgentMessage;
    type Wire = HubMessage;
    type Incoming = Incoming;

    async fn open(channel: Channel, messages: ReceiverStream<AgentMessage>) -> Result<Streaming<HubMessage>, Status> {
        Ok(AgentServiceClient::new(channel).session(messages).await?.into_inner())
    }

    fn read(wire: HubMessage) -> Result<Incoming, UnreadableMessage> {
        from_proto_message(wire)
    }
}

/// What a connection says.
#[derive(Debug)]
pub enum LinkEvent<C: Call = EndpointCall> {
    /// The hub was reached; messages go in here. Dropping the sender half-closes the stream.
    Opened(mpsc::Sender<C::Outgoing>),
    /// A message came.
    Received(C::Incoming),
    /// It is over, or never was.
    Closed {
        /// Why.
        reason: String,
        /// The hub answered, and does not want this agent.
        refused: bool,
    },
}

/// Makes connections to the hub. Clones share nothing but the configuration.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: Endpoint,
}

impl Dialer {
    /// A dialer that has not dialled yet.
    ///
    /// # Errors
    /// When the URL or the certificates cannot be used.
    pub fn new(target: &Target) -> Result<Self, TargetError> {
        let in_url = |source| TargetError::Url { url: target.url.clone(), source };
        let mut endpoint = Endpoint::from_shared(target.url.clone())
            .map_err(in_url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if let Some(tls) = &target.tls {
            let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(config).map_err(TargetError::Tls)?;
        }
        Ok(Self { endpoint })
    }

    /// A new connection.
    ///
    /// # Errors
    /// Says for people why the hub cannot be reached.
    pub async fn connect(&self) -> Result<Channel, String> {
        self.endpoint.connect().await.map_err(|error| format!("the hub cannot be reached: {}", causes(&error)))
    }
}

/// Dials the hub for one stream. At most one connection at a time; a new one ends the one before.
pub struct Link<C: Call = EndpointCall> {
    dialer: Dialer,
    events: Option<mpsc::Receiver<LinkEvent<C>>>,
    tasks: JoinSet<()>,
}

impl<C: Call> Link<C> {
    /// A link that has not dialled yet.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, events: None, tasks: JoinSet::new() }
    }

    /// Begins to reach the hub; `Opened` or `Closed` follows.
    pub fn dial(&mut self) {
        self.hang_up();
        let (events, receiver) = mpsc::channel(INBOX);
        self.events = Some(receiver);
        self.tasks.spawn(connect(self.dialer.clone(), events));
    }

    /// Ends the stream as the agent stops: waits a moment for the hub to end it in its turn. The sender must have been dropped.
    pub async fn say_farewell(&mut self) {
        if tokio::time::timeout(FAREWELL, self.finish()).await.is_err() {
            self.hang_up();
        }
    }

    /// Drops the connection. Nothing more is heard of it.
    pub fn hang_up(&mut self) {
        self.events = None;
        self.tasks.abort_all();
        while self.tasks.try_join_next().is_some() {}
    }

    /// What the connection says next. Without a connection it waits for ever.
    pub async fn next(&mut self) -> LinkEvent<C> {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.recv().await {
            Some(event) => {
                if matches!(event, LinkEvent::Closed { .. }) {
                    self.events = None;
                }
                event
            }
            None => {
                self.events = None;
                LinkEvent::Closed { reason: "the connection's task ended without a word".to_owned(), refused: false }
            }
        }
    }

    /// Waits until the hub has ended the stream in its turn. The sender must have been dropped.
    async fn finish(&mut self) {
        while self.events.is_some() {
            let _ = self.next().await;
        }
        self.hang_up();
    }
}

/// One connection, from the dial to its end.
async fn connect<C: Call>(dialer: Dialer, events: mpsc::Sender<LinkEvent<C>>) {
    let closed = match talk(&dialer, &events).await {
        Ok(()) => LinkEvent::Closed { reason: "the hub ended the stream".to_owned(), refused: false },
        Err(failure) => failure,
    };
    // When nobody listens, the connection was dropped from the other side.
    let _ = events.send(closed).await;
}

async fn talk<C: Call>(dialer: &Dialer, events: &mpsc::Sender<LinkEvent<C>>) -> Result<(), LinkEvent<C>> {
    let channel = dialer.connect().await.map_err(|reason| LinkEvent::Closed { reason, refused: false })?;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    // The hub may answer only after it has read Hello, so the session must be able to write before there is an answer.
    if events.send(LinkEvent::Opened(outbox)).await.is_err() {
        return Ok(());
    }
    let stream = C::open(channel, ReceiverStream::new(messages)).await.map_err(closed_by)?;
    listen(stream, events).await
}

async fn listen<C: Call>(
    mut stream: Streaming<C::Wire>,
    events: &mpsc::Sender<LinkEvent<C>>,
) -> Result<(), LinkEvent<C>> {
    while let Some(message) = stream.message().await.map_err(closed_by)? {
        match C::read(message) {
            Ok(message) => {
                if events.send(LinkEvent::Received(message)).await.is_err() {
                    return Ok(());
                }
            }
            // A newer hub may say things this agent does not know; none of them is needed to serve.
            Err(error) => tracing::debug!(%error, "A message of the hub was left unread"),
        }
    }
    Ok(())
}

/// Ends as soon as there is room; never without an outbox.
pub async fn room_in<T>(outbox: Option<&mpsc::Sender<T>>) {
    match outbox {
        // A closed channel has no room either; the end of the stream comes as an event of the link.
        Some(outbox) if outbox.reserve().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// Ends at that time; never when there is none.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn closed_by<C: Call>(status: Status) -> LinkEvent<C> {
    let refused = matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::Unimplemented
    );
    LinkEvent::Closed { reason: format!("{}: {}", status.code(), status.message()), refused }
}

/// The error and its causes: tonic's own text is only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
