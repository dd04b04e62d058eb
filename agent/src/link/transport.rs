//! The tonic shell: dials the hub, writes what it is given, and passes on what comes. It decides nothing.
//!
//! Each stream has a connection of its own, from one `Dialer`: what hurts one of them (a hub that stands still, a window that is
//! full) is not felt by the others, and a stream that is dialled anew does not meet the old connection again.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use switchyard_proto::agent::v1::{AgentMessage, HubMessage, agent_service_client::AgentServiceClient};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

pub use super::dialer::{Dialer, Target, TargetError, certificate_was_refused};
use super::{
    convert::{UnreadableMessage, from_proto_message},
    messages::Incoming,
};
use crate::{
    identity::{present::redial_in, values::Identity},
    text::truncated,
};

/// Messages that may wait for the network. Small, so that what waits is still being coalesced in the index.
pub const OUTBOX: usize = 8;
/// Messages from the hub that may wait for the session.
const INBOX: usize = 64;

/// How long a stream that another agent of the cluster has is left alone, at most; at least half of it.
const HELD: Duration = Duration::from_secs(30);
/// How the hub says that another agent speaks for the cluster.
const ANOTHER_AGENT: &str = "another agent";
/// Characters of the hub's words.
const MAX_WORDS: usize = 1024;
/// How long the hub has to end a stream in its turn when the agent stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A bidirectional stream of the hub: which call it is, and how its messages are read.
pub trait Call: 'static {
    /// A word for it, for metrics.
    const STREAM: &'static str;
    /// The name of the complaint while another agent has it.
    const COMPLAINT: &'static str;
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
    const STREAM: &'static str = "endpoints";
    const COMPLAINT: &'static str = "stream of endpoints";
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
    /// The certificate was replaced a while ago: dial anew, which ends this connection.
    Renewed,
}

/// Dials the hub for one stream. At most one connection at a time; a new one ends the one before.
///
/// It looks after two things that concern a connection and no session: one that was made with a certificate which was replaced since
/// is to be made anew in time, and one that another agent of the cluster has is not asked for at every moment.
pub struct Link<C: Call = EndpointCall> {
    dialer: Dialer,
    events: Option<mpsc::Receiver<Told<C>>>,
    tasks: JoinSet<()>,
    /// What the open connection was made with.
    used: Option<Arc<Identity>>,
    /// When the open connection is to be made anew.
    redial_at: Option<Instant>,
    /// Until when another agent has the stream, and the hub's words.
    held: Option<(Instant, String)>,
}

/// What the task of a connection says.
enum Told<C: Call> {
    /// The hub was reached, and knows this agent by that.
    Opened(mpsc::Sender<C::Outgoing>, Option<Arc<Identity>>),
    Received(C::Incoming),
    Ended(Ending),
}

/// How a connection ended.
struct Ending {
    reason: String,
    refused: bool,
    another_agent: bool,
}

impl Ending {
    fn lost(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: false, another_agent: false }
    }
}

impl<C: Call> Link<C> {
    /// A link that has not dialled yet.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, events: None, tasks: JoinSet::new(), used: None, redial_at: None, held: None }
    }

    /// Begins to reach the hub; `Opened` or `Closed` follows.
    pub fn dial(&mut self) {
        self.hang_up();
        let (events, receiver) = mpsc::channel(INBOX);
        self.events = Some(receiver);
        match &self.held {
            Some((until, reason)) if Instant::now() < *until => {
                // Asking the hub now would bring the same answer.
                let ending = Ending { reason: reason.clone(), refused: true, another_agent: false };
                let _ = events.try_send(Told::Ended(ending));
            }
            _ => drop(self.tasks.spawn(connect(self.dialer.clone(), events))),
        }
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
        self.used = None;
        self.redial_at = None;
        self.tasks.abort_all();
        while self.tasks.try_join_next().is_some() {}
    }

    /// What the connection says next. Without a connection it waits for ever. Cancel safe.
    pub async fn next(&mut self) -> LinkEvent<C> {
        loop {
            let Some(events) = &mut self.events else { return std::future::pending().await };
            tokio::select! {
                told = events.recv() => return self.hear(told),
                now = self.dialer.replaced(self.used.as_ref()), if self.used.is_some() => {
                    let old = self.used.take();
                    let in_time = old.map(|old| redial_in(now, old.certificate.not_after, rand::random()));
                    self.redial_at = in_time.and_then(|wait| Instant::now().checked_add(wait));
                }
                () = sleep_until(self.redial_at), if self.redial_at.is_some() => {
                    self.redial_at = None;
                    return LinkEvent::Renewed;
                }
            }
        }
    }

    fn hear(&mut self, told: Option<Told<C>>) -> LinkEvent<C> {
        match told.unwrap_or_else(|| Told::Ended(Ending::lost("the connection's task ended without a word"))) {
            Told::Opened(outbox, used) => {
                self.used = used;
                LinkEvent::Opened(outbox)
            }
            Told::Received(message) => {
                if self.held.take().is_some() {
                    self.dialer.has_stream_again(C::COMPLAINT);
                }
                LinkEvent::Received(message)
            }
            Told::Ended(Ending { reason, refused, another_agent }) => {
                self.hang_up();
                if another_agent {
                    let until = Instant::now() + HELD.mul_f64(0.5 + rand::random::<f64>() / 2.0);
                    self.held = Some((until, reason.clone()));
                    self.dialer.another_agent_has(C::STREAM, C::COMPLAINT, &reason);
                }
                LinkEvent::Closed { reason, refused }
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
async fn connect<C: Call>(dialer: Dialer, events: mpsc::Sender<Told<C>>) {
    let ending = match talk(&dialer, &events).await {
        Ok(()) => Ending::lost("the hub ended the stream"),
        Err(ending) => ending,
    };
    // When nobody listens, the connection was dropped from the other side.
    let _ = events.send(Told::Ended(ending)).await;
}

async fn talk<C: Call>(dialer: &Dialer, events: &mpsc::Sender<Told<C>>) -> Result<(), Ending> {
    let (channel, used) = dialer.connect().await.map_err(Ending::lost)?;
    let ended = |status: Status| {
        if status.code() == Code::Unauthenticated || certificate_was_refused(&status) {
            dialer.doubt(used.as_deref());
        }
        ended_by(&status)
    };
    let (outbox, messages) = mpsc::channel(OUTBOX);
    // The hub may answer only after it has read Hello, so the session must be able to write before there is an answer.
    if events.send(Told::Opened(outbox, used.clone())).await.is_err() {
        return Ok(());
    }
    let mut stream = C::open(channel, ReceiverStream::new(messages)).await.map_err(ended)?;
    while let Some(message) = stream.message().await.map_err(ended)? {
        match C::read(message) {
            Ok(message) => {
                if events.send(Told::Received(message)).await.is_err() {
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

fn ended_by(status: &Status) -> Ending {
    let refused = matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::Unimplemented
    );
    let another_agent = status.code() == Code::FailedPrecondition && status.message().contains(ANOTHER_AGENT);
    let words = truncated(status.message(), MAX_WORDS);
    Ending { reason: format!("{}: {words}", status.code()), refused, another_agent }
}
