//! ShiftSourceService: makes shifts of the TrafficShift resources of member clusters, and tells each resource how its shift fares.
//! What a shift does is core's matter and what is stored the store's; `desk` decides what is done about a resource. Must not import
//! `elb` or `engine`. Tests: `hub/tests/grpc_shift_sources.rs`.

mod desk;
#[cfg(test)]
mod desk_tests;
pub(crate) mod parse;
mod session;
mod told;

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures::Stream;
use switchyard_core::ids::{ClusterName, Epoch};
use switchyard_proto::agent::v1::{
    SyncShiftsRequest, SyncShiftsResponse, shift_source_service_server::ShiftSourceService,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{
    agents::{Hearing, Registry},
    once::Once,
    rights::{GateSources, GrantsOfResources},
};
use crate::{
    access::{Access, Gatekeeper},
    feed::Feed,
    metrics::Metrics,
    store::Store,
};

/// What sessions need.
#[derive(Clone)]
pub struct ShiftSourceParts {
    /// Where shifts go.
    pub store: Store,
    /// How they fare.
    pub feed: Feed,
    /// The epoch of the lease, as far as it is known.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// Who lives.
    pub hearing: Hearing,
    /// What is not said each time.
    pub said: Once,
    /// The clusters whose resources are taken.
    pub sources: Arc<BTreeSet<ClusterName>>,
    /// What gates may be measured with.
    pub gate_sources: Arc<GateSources>,
    /// What resources of a cluster may do.
    pub grants_of_resources: GrantsOfResources,
    /// Takes what resources may not do, for the audit log.
    pub gate: Gatekeeper,
    /// Open streams of shifts; not those of endpoints or policies.
    pub registry: Registry,
    /// Counts.
    pub metrics: Metrics,
    /// Ends every stream.
    pub shutdown: CancellationToken,
    /// Streams under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct ShiftSources {
    parts: ShiftSourceParts,
}

impl ShiftSources {
    /// A service of these parts.
    pub fn new(parts: ShiftSourceParts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl ShiftSourceService for ShiftSources {
    type SyncShiftsStream = Pin<Box<dyn Stream<Item = Result<SyncShiftsResponse, Status>> + Send>>;

    async fn sync_shifts(
        &self,
        request: Request<Streaming<SyncShiftsRequest>>,
    ) -> Result<Response<Self::SyncShiftsStream>, Status> {
        let (outbox, receiver) = mpsc::channel(session::OUTBOX);
        let (parts, access) = (self.parts.clone(), Access::of(&request));
        self.parts.tasks.spawn(session::serve(parts, access, request.into_inner(), outbox));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
