//! ClusterService: member clusters and their endpoints from the picture in memory, and what operators want of a whole cluster, taken
//! into the store. It moves nothing: the engine does. Must not import `engine` or `elb`. Tests: `hub/tests/grpc_fleet.rs`.

mod ask;
mod endpoints;
pub(super) mod losses;
mod show;
mod watch;

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures::Stream;
use jiff::Timestamp;
use switchyard_core::{fleet::ClusterState, ids::ClusterName, shift::Guard};
use switchyard_proto::api::v1::{self as proto, cluster_service_server::ClusterService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    caller::{caller, identity},
    errors::ApiError,
    planning::Planning,
    rights::may_override,
};
use crate::{
    feed::Picture,
    store::{Caller, Store},
};
use ask::Ask;
use losses::Losses;

/// Events that wait for one watcher.
const WATCH_OUTBOX: usize = 16;

/// What the service needs.
#[derive(Clone)]
pub struct ClusterServiceParts {
    /// Where intents go.
    pub store: Store,
    /// Where reads come from.
    pub reading: Reading,
    /// For forecasts.
    pub planning: Planning,
    /// Who may let others get more than they can carry.
    pub override_callers: Arc<BTreeSet<String>>,
    /// Ends every watch.
    pub shutdown: CancellationToken,
    /// Watches under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Clusters {
    parts: ClusterServiceParts,
}

/// The caller of a change, with what rights are given to.
struct Who {
    caller: Caller,
    identity: String,
}

impl Who {
    fn of<T>(request: &Request<T>, request_id: &str, dry_run: bool, reason: &str) -> Self {
        Self { caller: caller(request, request_id, dry_run, reason), identity: identity(request) }
    }
}

impl Clusters {
    /// A service of these parts.
    pub fn new(parts: ClusterServiceParts) -> Self {
        Self { parts }
    }

    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        self.parts.reading.picture()
    }

    /// The picture, in which the cluster is known, and a caller who may ask for this.
    fn look(&self, who: &Who, ask: &Ask) -> Result<Arc<Picture>, ApiError> {
        if ask.wish.force && !may_override(&self.parts.override_callers, &who.identity) {
            return Err(ApiError::OverrideDenied { guards: vec![Guard::Capacity], identity: who.identity.clone() });
        }
        let picture = self.picture()?;
        show::must_be_known(&ask.cluster, &picture)?;
        Ok(picture)
    }

    async fn forecast(&self, picture: &Arc<Picture>, ask: &Ask) -> Result<Losses, ApiError> {
        let planning = self.parts.planning.clone();
        let observed = planning.observed()?;
        let (picture, cluster, force) = (Arc::clone(picture), ask.cluster.clone(), ask.wish.force);
        let work = move || {
            let now = Timestamp::now();
            planning.sheet(&picture).forecast(&picture.inventory, &observed, &cluster, force, now)
        };
        self.parts.planning.off_thread(work).await
    }

    /// Stores what is asked for; the cluster with it.
    async fn store(&self, who: &Who, ask: &Ask) -> Result<proto::Cluster, ApiError> {
        let store = &self.parts.store;
        let state = store.cluster_command(&who.caller, &ask.cluster, &ask.wish, ask.expected_version).await?;
        tracing::info!(
            cluster = %ask.cluster, asked = %ask.wish.kind, mode = %state.mode, operation = state.operation.id,
            version = state.version, actor = who.caller.actor, "something was asked of a cluster"
        );
        self.parts.reading.feed.refreshed().await;
        self.with_state(&ask.cluster, &state)
    }

    fn with_state(&self, cluster: &ClusterName, state: &ClusterState) -> Result<proto::Cluster, ApiError> {
        Ok(show::one(cluster, Some(state), &*self.picture()?))
    }

    /// What needs no forecast.
    async fn command(&self, who: &Who, ask: Result<Ask, ApiError>) -> Result<proto::Cluster, ApiError> {
        let ask = ask?;
        self.look(who, &ask)?;
        self.store(who, &ask).await
    }

    async fn drain(
        &self,
        who: Who,
        request: &proto::DrainClusterRequest,
    ) -> Result<proto::DrainClusterResponse, ApiError> {
        let ask = Ask::drain(request)?;
        let picture = self.look(&who, &ask)?;
        let forecast = self.forecast(&picture, &ask).await;
        let (cluster, forecast) = if request.dry_run {
            let state = ask.preview(&who.caller, &picture, Timestamp::now())?;
            (self.with_state(&ask.cluster, &state)?, forecast?)
        } else {
            // A policy that nobody else can carry keeps its weight and says so: a drain is safe without a forecast, and is taken also
            // while this replica has not read AWS.
            (self.store(&who, &ask).await?, forecast.unwrap_or_default())
        };
        Ok(proto::DrainClusterResponse { cluster: Some(cluster), forecast: losses::shown(&forecast) })
    }

    async fn drill(
        &self,
        who: Who,
        request: &proto::DrillClusterLossRequest,
    ) -> Result<proto::DrillClusterLossResponse, ApiError> {
        let ask = Ask::drill(request)?;
        let picture = self.look(&who, &ask)?;
        let forecast = self.forecast(&picture, &ask).await?;
        let cluster = if request.dry_run {
            ask.check_version(&picture)?;
            None
        } else {
            if !ask.wish.force {
                losses::must_be_carried(&ask.cluster, &forecast)?;
            }
            Some(self.store(&who, &ask).await?)
        };
        Ok(proto::DrillClusterLossResponse { forecast: losses::shown(&forecast), cluster })
    }

    fn watched(&self, request: &proto::WatchClustersRequest) -> Result<Option<ClusterName>, ApiError> {
        let only = super::optional("cluster", &request.cluster)?;
        if let Some(cluster) = &only {
            show::must_be_known(cluster, &*self.picture()?)?;
        }
        Ok(only)
    }
}

/// A call that wants one thing of one cluster.
macro_rules! command {
    ($self:ident, $request:ident, $method:literal, $answer:ident, $ask:expr) => {{
        let body = $request.get_ref();
        let who = Who::of(&$request, &body.request_id, false, &body.reason);
        let told = $self.command(&who, $ask(body)).await;
        let result = told.map(|cluster| proto::$answer { cluster: Some(cluster) });
        $self.parts.reading.answer($method, result)
    }};
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    type WatchClustersStream = Pin<Box<dyn Stream<Item = Result<proto::WatchClustersResponse, Status>> + Send>>;

    async fn list_clusters(
        &self,
        _: Request<proto::ListClustersRequest>,
    ) -> Result<Response<proto::ListClustersResponse>, Status> {
        let clusters = self.picture().map(|picture| show::all(&picture));
        let result = clusters.map(|clusters| proto::ListClustersResponse { clusters });
        self.parts.reading.answer("ListClusters", result)
    }

    async fn list_endpoints(
        &self,
        request: Request<proto::ListEndpointsRequest>,
    ) -> Result<Response<proto::ListEndpointsResponse>, Status> {
        let result = self.picture().and_then(|picture| endpoints::list(&picture, request.get_ref()));
        self.parts.reading.answer("ListEndpoints", result)
    }

    async fn watch_clusters(
        &self,
        request: Request<proto::WatchClustersRequest>,
    ) -> Result<Response<Self::WatchClustersStream>, Status> {
        let parts = &self.parts;
        let only = match self.watched(request.get_ref()) {
            Ok(only) => only,
            Err(error) => return parts.reading.answer("WatchClusters", Err(error)),
        };
        let (outbox, receiver) = mpsc::channel(WATCH_OUTBOX);
        let pictures = parts.reading.feed.subscribe();
        parts.tasks.spawn(watch::run(pictures, only, outbox, parts.shutdown.clone()));
        let stream: Self::WatchClustersStream = Box::pin(ReceiverStream::new(receiver));
        parts.reading.answer("WatchClusters", Ok(stream))
    }

    async fn cordon_cluster(
        &self,
        request: Request<proto::CordonClusterRequest>,
    ) -> Result<Response<proto::CordonClusterResponse>, Status> {
        command!(self, request, "CordonCluster", CordonClusterResponse, Ask::cordon)
    }

    async fn drain_cluster(
        &self,
        request: Request<proto::DrainClusterRequest>,
    ) -> Result<Response<proto::DrainClusterResponse>, Status> {
        let body = request.get_ref();
        let who = Who::of(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.drain(who, body).await;
        self.parts.reading.answer("DrainCluster", result)
    }

    async fn uncordon_cluster(
        &self,
        request: Request<proto::UncordonClusterRequest>,
    ) -> Result<Response<proto::UncordonClusterResponse>, Status> {
        command!(self, request, "UncordonCluster", UncordonClusterResponse, Ask::uncordon)
    }

    async fn remove_cluster(
        &self,
        request: Request<proto::RemoveClusterRequest>,
    ) -> Result<Response<proto::RemoveClusterResponse>, Status> {
        command!(self, request, "RemoveCluster", RemoveClusterResponse, Ask::remove)
    }

    async fn drill_cluster_loss(
        &self,
        request: Request<proto::DrillClusterLossRequest>,
    ) -> Result<Response<proto::DrillClusterLossResponse>, Status> {
        let body = request.get_ref();
        let who = Who::of(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.drill(who, body).await;
        self.parts.reading.answer("DrillClusterLoss", result)
    }
}
