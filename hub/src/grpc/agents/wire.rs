//! The two halves of an agent's stream: what is read is parsed, measured and counted, and what is written does not wait for an agent
//! that does not read.

use std::time::Duration;

use prost::Message as _;
use switchyard_core::ids::ClusterName;
use switchyard_proto::agent::v1::{AgentMessage, HubMessage, hub_message::Message};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Status, Streaming};

use super::{
    end::End,
    pace::Pace,
    parse::{self, Parsed},
};
use crate::metrics::{MessageKind, Metrics};

/// The reading half.
pub struct Inbox {
    inbound: Streaming<AgentMessage>,
    metrics: Metrics,
    opened: Instant,
    pace: Pace,
}

impl Inbox {
    /// Of a stream that has just opened.
    pub fn new(inbound: Streaming<AgentMessage>, metrics: Metrics, heartbeat_interval: Duration) -> Self {
        Self { inbound, metrics, opened: Instant::now(), pace: Pace::new(heartbeat_interval) }
    }

    /// The next message. Cancel-safe: a message is taken whole or not at all.
    pub async fn next(&mut self, cluster: Option<&ClusterName>) -> Result<Parsed, End> {
        let message = self.inbound.message().await.map_err(End::of_stream)?;
        let message = message.ok_or(End::AgentClosed)?;
        let bytes = message.encoded_len();
        let parsed = parse::message(message, cluster).map_err(End::Malformed)?;
        let kind = match &parsed {
            Parsed::Hello(_) => "hello",
            Parsed::Heartbeat => "heartbeat",
            Parsed::Message(_, inbound) => inbound.kind(),
        };
        self.metrics.agent_messages.get_or_create(&MessageKind { kind }).inc();
        match &parsed {
            Parsed::Heartbeat => self.pace.heartbeat(self.opened.elapsed()).map_err(End::Flood)?,
            Parsed::Hello(_) | Parsed::Message(..) => self.pace.message(bytes, self.opened.elapsed()),
        }
        Ok(parsed)
    }

    /// How long it is not to be read; zero: it may be.
    pub fn wait(&mut self) -> Duration {
        self.pace.wait(self.opened.elapsed())
    }
}

/// The writing half.
#[derive(Clone)]
pub struct Outbox {
    outbox: mpsc::Sender<Result<HubMessage, Status>>,
    wait: Duration,
}

impl Outbox {
    /// `wait`: an agent that reads nothing for so long is as good as gone.
    pub fn new(outbox: mpsc::Sender<Result<HubMessage, Status>>, wait: Duration) -> Self {
        Self { outbox, wait }
    }

    /// Sends a message, or ends the session.
    pub async fn send(&self, message: Message) -> Result<(), End> {
        let message = HubMessage { message: Some(message) };
        match timeout(self.wait, self.outbox.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::AgentClosed),
            Err(_) => Err(End::NotReading),
        }
    }

    /// The last word.
    pub async fn end(&self, status: Status) {
        // An agent that is gone does not need to hear it.
        drop(timeout(self.wait, self.outbox.send(Err(status))).await);
    }
}
