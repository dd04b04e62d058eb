//! AgentService: takes what agents report into the store and tells them what to watch. Must not import `elb` or `engine`.

mod end;
mod hearing;
mod home;
mod load;
mod pace;
pub(crate) mod parse;
mod registry;
mod seen;
mod session;
pub(crate) mod state;
pub(crate) mod watch_set;
mod wire;
mod writer;

use std::{pin::Pin, time::Duration};

use futures::Stream;
use switchyard_core::ids::Epoch;
use switchyard_proto::agent::v1::{AgentMessage, HubMessage, agent_service_server::AgentService};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

pub(super) use end::is_too_large;
pub use hearing::Hearing;
pub use load::Shelf;
pub use pace::Pace;
pub use registry::{Place, Registry, run_heartbeats};

use super::{enrollment::shown, once::Once};
use crate::{access::Access, feed::Feed, metrics::Metrics, store::Store};

/// What sessions need.
#[derive(Clone)]
pub struct AgentParts {
    /// Where reports go.
    pub store: Store,
    /// Which policies there are.
    pub feed: Feed,
    /// The epoch of the lease, as far as it is known.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// Both ways.
    pub heartbeat_interval: Duration,
    /// Who lives.
    pub hearing: Hearing,
    /// What is not said each time.
    pub said: Once,
    /// This process.
    pub hub_instance: Uuid,
    /// Open sessions.
    pub registry: Registry,
    /// What they hold.
    pub shelf: Shelf,
    /// Counts.
    pub metrics: Metrics,
    /// Ends every session.
    pub shutdown: CancellationToken,
    /// Sessions under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Agents {
    parts: AgentParts,
}

impl Agents {
    /// A service of these parts.
    pub fn new(parts: AgentParts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<HubMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, receiver) = mpsc::channel(session::OUTBOX);
        let (parts, peer) = (self.parts.clone(), (Access::of(&request), shown(&request)));
        self.parts.tasks.spawn(session::serve(parts, peer, request.into_inner(), outbox));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
