//! Why a session ended: what the agent is told, what the log says, how it is counted.

use switchyard_core::ids::ClusterName;
use tonic::{Code, Status};

use super::{home::Moved, pace::Flood, parse::Malformed, state::Refusal};
use crate::{
    grpc::caller::NotYours,
    store::{Relieved, SessionError, StoreError},
};

/// The end of a session.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The agent closed the stream.
    #[error("the agent closed the stream")]
    AgentClosed,
    /// The hub is going down.
    #[error("the hub is shutting down; connect again, to any replica")]
    Shutdown,
    /// A newer session of the same cluster.
    #[error("another agent of this cluster took over; run one agent per cluster, or stop the other one")]
    TakenOver,
    /// The identity is that of another cluster.
    #[error(transparent)]
    NotYours(NotYours),
    /// Another process of the same cluster took over before, and lives.
    #[error(transparent)]
    Relieved(Relieved),
    /// Nothing but signs of life.
    #[error(transparent)]
    Flood(Flood),
    /// More than is kept of one cluster.
    #[error(transparent)]
    TooMany(SessionError),
    /// An operator removed the cluster.
    #[error(
        "an operator removed cluster {0}: nothing of it is taken; stop its agent, or take the cluster back with `yardctl uncordon {0}`"
    )]
    ClusterRemoved(ClusterName),
    /// Three heartbeats did not come.
    #[error("three heartbeats of the agent did not come")]
    Silent,
    /// The agent does not read.
    #[error("the agent reads nothing of what the hub sends")]
    NotReading,
    /// No Hello in time.
    #[error("no Hello came within 5 seconds")]
    HelloLate,
    /// Something else came first.
    #[error("the first message was a heartbeat; send Hello first")]
    NoHello,
    /// No epoch is known.
    #[error("the hub does not know its epoch yet, since its store does not answer; try again")]
    NoEpoch,
    /// No picture of the policies is there.
    #[error("the hub has not read its policies yet, since its store does not answer; try again")]
    NoPicture,
    /// A field is out of bounds.
    #[error(transparent)]
    Malformed(Malformed),
    /// The cluster is known to be elsewhere.
    #[error(transparent)]
    Moved(Box<Moved>),
    /// The order of the session was broken.
    #[error(transparent)]
    Refused(Refusal),
    /// The store failed for good, or did not open the session in time.
    #[error("the hub's store failed; try again")]
    Store(#[source] StoreError),
    /// What should not happen.
    #[error("the hub failed while it stored a report; see its log")]
    Defect(#[source] SessionError),
    /// A message that the hub does not read.
    #[error("a message is too large: {}", .0.message())]
    TooLarge(Status),
    /// The stream broke.
    #[error("the stream broke")]
    Transport(#[source] Status),
}

/// True for the word of this side's own decoder: tonic's on too many bytes, ours on too much in them.
pub(in crate::grpc) fn is_too_large(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
}

impl End {
    /// What reading the stream ended with.
    pub fn of_stream(status: Status) -> Self {
        if is_too_large(&status) { End::TooLarge(status) } else { End::Transport(status) }
    }

    /// A stable word.
    pub fn label(&self) -> &'static str {
        match self {
            End::AgentClosed => "agent_closed",
            End::Shutdown => "shutdown",
            End::TakenOver => "taken_over",
            End::NotYours(_) => "not_yours",
            End::Relieved(_) => "relieved",
            End::Flood(_) => "flood",
            End::TooMany(_) => "too_many",
            End::ClusterRemoved(_) => "cluster_removed",
            End::Silent => "silent",
            End::NotReading => "not_reading",
            End::HelloLate => "hello_late",
            End::NoHello => "no_hello",
            End::NoEpoch => "no_epoch",
            End::NoPicture => "no_picture",
            End::Malformed(_) => "malformed",
            End::Moved(_) => "moved",
            End::Refused(Refusal::OlderHub { .. }) => "older_hub",
            End::Refused(_) => "refused",
            End::Store(_) => "store",
            End::Defect(_) => "defect",
            End::TooLarge(_) => "too_large",
            End::Transport(_) => "transport",
        }
    }

    /// False for what happens in every restart.
    pub fn is_fault(&self) -> bool {
        !matches!(self, End::AgentClosed | End::Shutdown | End::Transport(_))
    }

    /// True for what does not change by coming again, which an agent does all the same.
    pub fn will_repeat(&self) -> bool {
        matches!(
            self,
            End::NotYours(_)
                | End::Relieved(_)
                | End::ClusterRemoved(_)
                | End::Moved(_)
                | End::Malformed(_)
                | End::TooLarge(_)
                | End::TooMany(_)
                | End::Refused(Refusal::TooLarge { .. } | Refusal::NoShare { .. })
        )
    }

    /// What the agent is told; none when nobody listens.
    pub fn status(&self) -> Option<Status> {
        let text = self.to_string();
        match self {
            End::AgentClosed | End::Transport(_) => None,
            End::NotYours(_) => Some(Status::permission_denied(text)),
            End::TakenOver
            | End::Relieved(_)
            | End::ClusterRemoved(_)
            | End::Moved(_)
            // With this code the agent takes its time before it sends a whole snapshot again.
            | End::Refused(Refusal::OlderHub { .. } | Refusal::TooLarge { .. } | Refusal::NoShare { .. }) => {
                Some(Status::failed_precondition(text))
            }
            End::Silent | End::NotReading | End::HelloLate => Some(Status::deadline_exceeded(text)),
            End::NoHello | End::Malformed(_) | End::Refused(Refusal::OutOfOrder { .. } | Refusal::Sequence { .. }) => {
                Some(Status::invalid_argument(text))
            }
            End::Flood(_) | End::TooMany(_) | End::TooLarge(_) | End::Refused(Refusal::NoEnd { .. }) => {
                Some(Status::resource_exhausted(text))
            }
            End::Shutdown | End::NoEpoch | End::NoPicture => Some(Status::unavailable(text)),
            End::Store(error) if error.is_unavailable() => Some(Status::unavailable(text)),
            End::Store(_) | End::Defect(_) => Some(Status::internal(text)),
        }
    }
}
