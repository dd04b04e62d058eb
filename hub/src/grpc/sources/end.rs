//! Why a stream of policies ended: what the agent is told, what the log says.

use std::time::Duration;

use switchyard_core::{
    ids::{ClusterName, Epoch},
    policy::Violation,
};
use tokio::time::sleep;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    grpc::{
        agents::{Hearing, is_too_large},
        caller::NotYours,
    },
    store::{Relieved, SessionError, Store, StoreError},
};

/// The end of a stream.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The agent closed the stream.
    #[error("the agent closed the stream")]
    AgentClosed,
    /// The hub is going down.
    #[error("the hub is shutting down; connect again, to any replica")]
    Shutdown,
    /// A newer stream of the same cluster.
    #[error("another agent of this cluster took over; run one agent per cluster, or stop the other one")]
    TakenOver,
    /// The identity is that of another cluster.
    #[error(transparent)]
    NotYours(NotYours),
    /// Another process of the same cluster took over before, and lives.
    #[error(transparent)]
    Relieved(Relieved),
    /// An operator removed the cluster.
    #[error(
        "an operator removed cluster {0}: nothing of it is taken; stop its agent, or take the cluster back with `yardctl uncordon {0}`"
    )]
    ClusterRemoved(ClusterName),
    /// The agent does not read.
    #[error("the agent reads nothing of what the hub sends")]
    NotReading,
    /// No SourceHello in time.
    #[error("no SourceHello came within 5 seconds")]
    HelloLate,
    /// The agent has seen a later epoch.
    #[error("this hub is at epoch {own}, and the agent has seen epoch {seen}: an older hub or an older store answers")]
    OlderHub {
        /// Of this hub.
        own: Epoch,
        /// Of the agent.
        seen: Epoch,
    },
    /// The store does not answer.
    #[error("the hub has not read its store yet; try again")]
    NotReady,
    /// What did not fit before fits now.
    #[error("the hub has room for more TrafficShifts of this cluster again; connect again and report them")]
    Room,
    /// A field is out of bounds.
    #[error(transparent)]
    Malformed(Violation),
    /// A message came where it has no place.
    #[error("{message} came {place}; use an agent and a hub of versions that fit together")]
    OutOfOrder {
        /// Which.
        message: &'static str,
        /// Where.
        place: &'static str,
    },
    /// A number was left out or repeated.
    #[error("message {got} came after message {last}; count up by one")]
    Sequence {
        /// The one that came.
        got: u64,
        /// The one before.
        last: u64,
    },
    /// The store failed for good.
    #[error("the hub's store failed; see the hub's log")]
    Store(#[source] StoreError),
    /// A task of the hub died.
    #[error("the hub failed while it read a report; see its log")]
    Defect,
    /// A message that the hub does not read.
    #[error("a message is too large: {}", .0.message())]
    TooLarge(Status),
    /// The stream broke.
    #[error("the stream broke")]
    Transport(#[source] Status),
}

impl End {
    /// What reading the stream ended with.
    pub fn of_stream(status: Status) -> Self {
        if is_too_large(&status) { End::TooLarge(status) } else { End::Transport(status) }
    }

    /// False for what happens in every restart.
    pub fn is_fault(&self) -> bool {
        !matches!(self, End::AgentClosed | End::Shutdown | End::Room | End::Transport(_))
    }

    /// True for what does not change by coming again, which an agent does all the same.
    pub fn will_repeat(&self) -> bool {
        matches!(
            self,
            End::NotYours(_) | End::Relieved(_) | End::ClusterRemoved(_) | End::Malformed(_) | End::TooLarge(_)
        )
    }

    /// How it is counted.
    pub fn code(&self) -> Code {
        match self {
            End::AgentClosed => Code::Ok,
            End::Transport(status) => status.code(),
            End::NotYours(_) => Code::PermissionDenied,
            End::TakenOver | End::Relieved(_) | End::ClusterRemoved(_) | End::OlderHub { .. } => {
                Code::FailedPrecondition
            }
            End::NotReading | End::HelloLate => Code::DeadlineExceeded,
            End::Malformed(_) | End::OutOfOrder { .. } | End::Sequence { .. } => Code::InvalidArgument,
            End::TooLarge(_) => Code::ResourceExhausted,
            End::Shutdown | End::NotReady | End::Room => Code::Unavailable,
            End::Store(error) if error.is_unavailable() => Code::Unavailable,
            End::Store(_) | End::Defect => Code::Internal,
        }
    }

    /// What the agent is told; none when nobody listens.
    pub fn status(&self) -> Option<Status> {
        match self {
            End::AgentClosed | End::Transport(_) => None,
            _ => Some(Status::new(self.code(), self.to_string())),
        }
    }
}

/// Between two looks while the store is away.
const PAUSE: Duration = Duration::from_millis(250);

/// Refuses an agent process that was relieved by one that lives: what it sees of its cluster is not asked for any more. Waits while the
/// store is away; the caller bounds that.
///
/// # Errors
/// [`End`].
pub async fn has_the_turn(store: &Store, cluster: &ClusterName, instance: Uuid, hearing: &Hearing) -> Result<(), End> {
    loop {
        match store.session_turn(cluster, instance, hearing.clone()).await {
            Ok(()) => return Ok(()),
            Err(SessionError::Relieved(relieved)) => return Err(End::Relieved(relieved)),
            Err(SessionError::Store(error)) if error.is_unavailable() => sleep(PAUSE).await,
            Err(SessionError::Store(error)) => return Err(End::Store(error)),
            Err(SessionError::ClusterRemoved { cluster }) => return Err(End::ClusterRemoved(cluster)),
            Err(SessionError::TakenOver { .. } | SessionError::WrongCluster { .. } | SessionError::TooMany { .. }) => {
                return Err(End::TakenOver);
            }
        }
    }
}
