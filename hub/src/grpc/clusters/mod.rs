//! ClusterService: member clusters and their endpoints from the picture in memory, and what operators want of a whole cluster, taken
//! into the store. It moves nothing: the engine does. Must not import `engine` or `elb`. Tests: `hub/tests/grpc_fleet.rs`.

mod ask;
mod endpoints;
pub(super) mod losses;
mod show;
mod watch;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use jiff::Timestamp;
use switchyard_core::{
    access::{Role, Touch},
    fleet::ClusterState,
    ids::ClusterName,
    shift::Guard,
};
use switchyard_proto::api::v1::{self as proto, cluster_service_server::ClusterService};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    caller::{caller, may_read_cluster, reader},
    errors::ApiError,
    planning::{Lane, Planning},
};
use crate::{
    feed::Picture,
    store::{Caller, Store},
};
use ask::Ask;
use losses::Losses;

/// Events that wait for one watcher.
const WATCH_OUTBOX: usize = 16;

/// What was asked for is stored; whoever waits for the answer to a drain in an emergency is told no later than this what it does.
/// yardctl gives a call 10 s.
const FORECAST_WITHIN: Duration = Duration::from_secs(2);

/// What the service needs.
#[derive(Clone)]
pub struct ClusterServiceParts {
    /// Where intents go.
    pub store: Store,
    /// Where reads come from.
    pub reading: Reading,
    /// For forecasts.
    pub planning: Planning,
    /// Ends every watch.
    pub shutdown: CancellationToken,
    /// Watches under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Clusters {
    parts: ClusterServiceParts,
}

impl Clusters {
    /// A service of these parts.
    pub fn new(parts: ClusterServiceParts) -> Self {
        Self { parts }
    }

    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        self.parts.reading.picture()
    }

    /// The picture, in which the cluster is known, and a caller who may ask for this: it concerns policies of every namespace.
    fn look(&self, caller: &Caller, ask: &Ask) -> Result<Arc<Picture>, ApiError> {
        let (kind, cluster) = (ask.wish.kind, &ask.cluster);
        // Before it is told whether there is such a cluster, and once more for what is known of it.
        caller.may_wish(kind, None, cluster)?;
        if ask.wish.force {
            caller.may_cross(Role::Operator, &Touch::Cluster(cluster), &[Guard::Capacity])?;
        }
        let picture = self.picture()?;
        caller.may_wish(kind, picture.fleet.get(cluster).map(Arc::as_ref), cluster)?;
        show::must_be_known(caller, cluster, &picture)?;
        Ok(picture)
    }

    /// In the lane of operators: no reader keeps it waiting.
    async fn forecast(&self, caller: &Caller, picture: &Arc<Picture>, ask: &Ask) -> Result<Losses, ApiError> {
        let planning = self.parts.planning.clone();
        let observed = planning.observed()?;
        let (picture, cluster, force) = (Arc::clone(picture), ask.cluster.clone(), ask.wish.force);
        let work = move || {
            let now = Timestamp::now();
            planning.sheet(&picture).forecast(&picture.inventory, &observed, &cluster, force, now)
        };
        self.parts.planning.off_thread(Lane::Operators, &caller.actor, work).await
    }

    /// Beside something that is stored already: soon, or the answer says that it is missing.
    async fn forecast_soon(&self, caller: &Caller, picture: &Arc<Picture>, ask: &Ask) -> Vec<proto::PolicyForecast> {
        let why = match timeout(FORECAST_WITHIN, self.forecast(caller, picture, ask)).await {
            Ok(Ok(forecast)) => return losses::shown(&forecast),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not made within {FORECAST_WITHIN:?}"),
        };
        tracing::info!(cluster = %ask.cluster, why, "what was asked of a cluster is answered without a forecast");
        let why =
            format!("taken without a forecast: {why}; see how it goes with `yardctl get clusters {}`", ask.cluster);
        losses::missing(&ask.cluster, &picture.policies, &why)
    }

    /// Stores what is asked for; the cluster with it.
    async fn store(&self, caller: &Caller, ask: &Ask) -> Result<proto::Cluster, ApiError> {
        let store = &self.parts.store;
        let state = store.cluster_command(caller, &ask.cluster, &ask.wish, ask.expected_version).await?;
        tracing::info!(
            cluster = %ask.cluster, asked = %ask.wish.kind, mode = %state.mode, operation = state.operation.id,
            version = state.version, actor = caller.actor, "something was asked of a cluster"
        );
        self.parts.reading.feed.refreshed().await;
        self.with_state(&ask.cluster, &state)
    }

    fn with_state(&self, cluster: &ClusterName, state: &ClusterState) -> Result<proto::Cluster, ApiError> {
        Ok(show::one(cluster, Some(state), &*self.picture()?))
    }

    /// What needs no forecast.
    async fn command(&self, caller: &Caller, ask: Result<Ask, ApiError>) -> Result<proto::Cluster, ApiError> {
        let ask = ask?;
        self.look(caller, &ask)?;
        self.store(caller, &ask).await
    }

    async fn drain(
        &self,
        caller: &Caller,
        request: &proto::DrainClusterRequest,
    ) -> Result<proto::DrainClusterResponse, ApiError> {
        let ask = Ask::drain(request)?;
        let picture = self.look(caller, &ask)?;
        if request.dry_run {
            let forecast = self.forecast(caller, &picture, &ask).await;
            let state = ask.preview(caller, &picture, Timestamp::now())?;
            let (cluster, forecast) = (self.with_state(&ask.cluster, &state)?, losses::shown(&forecast?));
            return Ok(proto::DrainClusterResponse { cluster: Some(cluster), forecast });
        }
        // First the drain: a policy that nobody else can carry keeps its weight and says so, so it is safe without a forecast, and is
        // taken also while this replica has not read AWS or has no time to plan.
        let cluster = self.store(caller, &ask).await?;
        let forecast = self.forecast_soon(caller, &picture, &ask).await;
        Ok(proto::DrainClusterResponse { cluster: Some(cluster), forecast })
    }

    async fn drill(
        &self,
        caller: &Caller,
        request: &proto::DrillClusterLossRequest,
    ) -> Result<proto::DrillClusterLossResponse, ApiError> {
        let ask = Ask::drill(request)?;
        let picture = self.look(caller, &ask)?;
        if ask.wish.force && !request.dry_run {
            let cluster = self.store(caller, &ask).await?;
            let forecast = self.forecast_soon(caller, &picture, &ask).await;
            return Ok(proto::DrillClusterLossResponse { forecast, cluster: Some(cluster) });
        }
        let forecast = self.forecast(caller, &picture, &ask).await?;
        let cluster = if request.dry_run {
            ask.check_version(&picture)?;
            None
        } else {
            losses::must_be_carried(&ask.cluster, &forecast)?;
            Some(self.store(caller, &ask).await?)
        };
        Ok(proto::DrillClusterLossResponse { forecast: losses::shown(&forecast), cluster })
    }

    fn watched(&self, caller: &Caller, request: &proto::WatchClustersRequest) -> Result<Option<ClusterName>, ApiError> {
        let only = super::optional("cluster", &request.cluster)?;
        if let Some(cluster) = &only {
            may_read_cluster(caller, cluster)?;
            show::must_be_known(caller, cluster, &*self.picture()?)?;
        }
        Ok(only)
    }
}

/// A call that wants one thing of one cluster.
macro_rules! command {
    ($self:ident, $request:ident, $method:literal, $answer:ident, $ask:expr) => {{
        let body = $request.get_ref();
        let caller = caller(&$request, &body.request_id, false, &body.reason);
        let told = $self.command(&caller, $ask(body)).await;
        let result = told.map(|cluster| proto::$answer { cluster: Some(cluster) });
        $self.parts.reading.answer($method, result)
    }};
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    type WatchClustersStream = Pin<Box<dyn Stream<Item = Result<proto::WatchClustersResponse, Status>> + Send>>;

    async fn list_clusters(
        &self,
        request: Request<proto::ListClustersRequest>,
    ) -> Result<Response<proto::ListClustersResponse>, Status> {
        let caller = reader(&request);
        let clusters = self.picture().map(|picture| show::all(&picture, &caller.grants));
        let result = clusters.map(|clusters| proto::ListClustersResponse { clusters });
        self.parts.reading.answer("ListClusters", result)
    }

    async fn list_endpoints(
        &self,
        request: Request<proto::ListEndpointsRequest>,
    ) -> Result<Response<proto::ListEndpointsResponse>, Status> {
        let caller = reader(&request);
        let result = self.picture().and_then(|picture| endpoints::list(&caller, &picture, request.get_ref()));
        self.parts.reading.answer("ListEndpoints", result)
    }

    async fn watch_clusters(
        &self,
        request: Request<proto::WatchClustersRequest>,
    ) -> Result<Response<Self::WatchClustersStream>, Status> {
        let parts = &self.parts;
        let caller = reader(&request);
        let only = match self.watched(&caller, request.get_ref()) {
            Ok(only) => only,
            Err(error) => return parts.reading.answer("WatchClusters", Err(error)),
        };
        let (outbox, receiver) = mpsc::channel(WATCH_OUTBOX);
        let pictures = parts.reading.feed.subscribe();
        let filter = watch::Filter { only, seen: caller.grants };
        parts.tasks.spawn(watch::run(pictures, filter, outbox, parts.shutdown.clone()));
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
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.drain(&caller, body).await;
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
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.drill(&caller, body).await;
        self.parts.reading.answer("DrillClusterLoss", result)
    }
}
