//! PolicySourceService: takes the policies that stand in member clusters as resources into the store, and tells each resource how
//! its policy fares. Which resource decides is core's matter (`switchyard_core::source`). Must not import `elb` or `engine`.
//! Tests: `hub/tests/grpc_sources.rs`.

mod changes;
mod end;
pub(crate) mod parse;
mod session;
mod told;
mod writer;

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures::Stream;
use switchyard_core::ids::{ClusterName, Epoch};
use switchyard_proto::agent::v1::{
    SyncPoliciesRequest, SyncPoliciesResponse, policy_source_service_server::PolicySourceService,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

pub use changes::ChangePaces;
pub(super) use end::{End, has_the_turn};

use super::{
    agents::{Hearing, Registry},
    once::Once,
};
use crate::{access::Access, feed::Feed, metrics::Metrics, store::Store};

/// What sessions need.
#[derive(Clone)]
pub struct SourceParts {
    /// Where resources go.
    pub store: Store,
    /// Policies and resources, for their status.
    pub feed: Feed,
    /// The epoch of the lease, as far as it is known.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// Who lives.
    pub hearing: Hearing,
    /// What is not said each time.
    pub said: Once,
    /// The clusters whose resources are taken.
    pub sources: Arc<BTreeSet<ClusterName>>,
    /// How often each of them changes something.
    pub paces: ChangePaces,
    /// Open streams of policies; not those of endpoints.
    pub registry: Registry,
    /// Counts.
    pub metrics: Metrics,
    /// Ends every stream.
    pub shutdown: CancellationToken,
    /// Streams under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Sources {
    parts: SourceParts,
}

impl Sources {
    /// A service of these parts.
    pub fn new(parts: SourceParts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl PolicySourceService for Sources {
    type SyncPoliciesStream = Pin<Box<dyn Stream<Item = Result<SyncPoliciesResponse, Status>> + Send>>;

    async fn sync_policies(
        &self,
        request: Request<Streaming<SyncPoliciesRequest>>,
    ) -> Result<Response<Self::SyncPoliciesStream>, Status> {
        let (outbox, receiver) = mpsc::channel(session::OUTBOX);
        let (parts, access) = (self.parts.clone(), Access::of(&request));
        self.parts.tasks.spawn(session::serve(parts, access, request.into_inner(), outbox));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
