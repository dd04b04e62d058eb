//! TargetHealthService: tells the agent of a cluster what the load balancer thinks of its pods, for their readiness gates. It reads
//! the picture, so that any replica can answer. Must not import `elb` or `engine`. Tests: `hub/tests/grpc_health.rs`.

mod told;

use std::{pin::Pin, str::FromStr, sync::Arc, time::Duration};

use futures::Stream;
use jiff::Timestamp;
use switchyard_core::ids::{ClusterName, Epoch};
use switchyard_proto::agent::v1::{
    self as proto, WatchTargetHealthRequest, WatchTargetHealthResponse,
    target_health_service_server::TargetHealthService, watch_target_health_response::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use self::told::Told;
use crate::{
    access::Access,
    feed::{Feed, Picture},
    grpc::{
        caller::speaks_for,
        errors::{ApiError, to_status},
        once::Once,
    },
    metrics::Metrics,
};

/// Messages that may wait for an agent.
const OUTBOX: usize = 16;
/// How long the hub may need to know its epoch and its policies after a start.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// The least time between two rounds: changes that come together are told together.
const SPACING: Duration = Duration::from_millis(200);
/// A picture older than this says nothing of this moment. Ten times the time between two refreshes of the picture, and then
/// some, so that a short stumble of the store is no news.
const FRESH: Duration = Duration::from_secs(30);
/// An agent that takes nothing for this many heartbeats is as good as gone.
const PATIENCE: u32 = 3;

/// What the service needs.
#[derive(Clone)]
pub struct HealthParts {
    /// Policies with the health of gated pods.
    pub feed: Feed,
    /// The epoch of the lease, as far as it is known.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// At least this often the agent hears something.
    pub heartbeat_interval: Duration,
    /// What is not said each time.
    pub said: Once,
    /// Counts.
    pub metrics: Metrics,
    /// Ends every stream.
    pub shutdown: CancellationToken,
    /// Streams under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Health {
    parts: HealthParts,
}

impl Health {
    /// A service of these parts.
    pub fn new(parts: HealthParts) -> Self {
        Self { parts }
    }
}

type Answer = Result<WatchTargetHealthResponse, Status>;

#[tonic::async_trait]
impl TargetHealthService for Health {
    type WatchTargetHealthStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn watch_target_health(
        &self,
        request: Request<WatchTargetHealthRequest>,
    ) -> Result<Response<Self::WatchTargetHealthStream>, Status> {
        let access = Access::of(&request);
        let opened = self.open(&access, request.into_inner()).await;
        let code = opened.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        Metrics::count(&self.parts.metrics.grpc_calls, "WatchTargetHealth", super::code_word(code));
        let (cluster, epoch) = opened.inspect_err(|status| {
            // One that is refused comes back every few seconds.
            if self.parts.said.is_news(format!("{}: {}", access.identity(), status.message())) {
                let (identity, source) = (access.identity(), access.source());
                tracing::info!(%identity, source, error = status.message(), "an agent's watch of target health was refused");
            }
        })?;
        let (outbox, receiver) = mpsc::channel(OUTBOX);
        let watcher = Watcher { parts: self.parts.clone(), cluster, epoch, outbox };
        self.parts.tasks.spawn(watcher.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Health {
    async fn open(&self, access: &Access, request: WatchTargetHealthRequest) -> Result<(ClusterName, Epoch), Status> {
        let field = |name: &str, error| to_status(&ApiError::field(name, error));
        let cluster = ClusterName::from_str(&request.cluster).map_err(|error| field("cluster", error))?;
        // Whatever it says of itself: the name counts that it proved.
        speaks_for(access, &cluster).map_err(|not_yours| Status::permission_denied(not_yours.to_string()))?;
        Uuid::parse_str(&request.agent_instance_id).map_err(|_| {
            Status::invalid_argument("agent_instance_id: is not a UUID; send the one of this agent process")
        })?;
        let deadline = Instant::now() + OPEN_WITHIN;
        let mut epochs = self.parts.epoch.clone();
        let epoch = match timeout_at(deadline, epochs.wait_for(Option::is_some)).await {
            Ok(Ok(epoch)) => epoch.unwrap_or_default(),
            Ok(Err(_)) => return Err(to_status(&ApiError::Shutdown)),
            Err(_) => return Err(Status::unavailable("the hub does not know its epoch yet; try again")),
        };
        if request.highest_epoch_seen > epoch.0 {
            return Err(Status::failed_precondition(format!(
                "this hub is at epoch {epoch}, and the agent has seen epoch {}: an older hub or an older store answers",
                request.highest_epoch_seen
            )));
        }
        let mut pictures = self.parts.feed.subscribe();
        match timeout_at(deadline, pictures.wait_for(|picture| picture.loaded)).await {
            Ok(Ok(_)) => Ok((cluster, epoch)),
            Ok(Err(_)) => Err(to_status(&ApiError::Shutdown)),
            Err(_) => Err(to_status(&ApiError::NotLoaded)),
        }
    }
}

struct Watcher {
    parts: HealthParts,
    cluster: ClusterName,
    epoch: Epoch,
    outbox: mpsc::Sender<Answer>,
}

/// Why a stream ends.
enum End {
    Gone,
    Shutdown,
    NewEpoch,
}

impl Watcher {
    async fn run(self) {
        tracing::info!(cluster = %self.cluster, epoch = %self.epoch, "an agent watches the health of its targets");
        let status = match self.tell().await {
            End::Gone => None,
            End::Shutdown => Some(to_status(&ApiError::Shutdown)),
            End::NewEpoch => Some(Status::unavailable("a new epoch of the hub began; connect again")),
        };
        if let Some(status) = status {
            // An agent that takes nothing sees the connection end.
            drop(self.outbox.try_send(Err(status)));
        }
        tracing::info!(cluster = %self.cluster, "an agent's watch of target health ended");
    }

    async fn tell(&self) -> End {
        let mut pictures = self.parts.feed.subscribe();
        let mut epochs = self.parts.epoch.clone();
        let mut told = Told::default();
        let mut ticks = interval(self.parts.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interval_ms = u32::try_from(self.parts.heartbeat_interval.as_millis()).unwrap_or(u32::MAX);
        let welcome = proto::HealthWelcome { epoch: self.epoch.0, heartbeat_interval_ms: interval_ms };
        if !self.send(Message::Welcome(welcome)).await {
            return End::Gone;
        }
        loop {
            // The picture is let go before anything is sent: an agent that does not read must not keep an old inventory alive.
            let messages = {
                let picture: Arc<Picture> = Arc::clone(&pictures.borrow_and_update());
                let fresh = picture.age(Timestamp::now()) <= FRESH;
                told.difference(&picture, &self.cluster, fresh)
            };
            for message in messages {
                if !self.send(message).await {
                    return End::Gone;
                }
            }
            let beat = tokio::select! {
                () = self.parts.shutdown.cancelled() => return End::Shutdown,
                () = self.outbox.closed() => return End::Gone,
                Ok(_) = epochs.wait_for(|epoch| epoch.is_some_and(|epoch| epoch != self.epoch)) => return End::NewEpoch,
                changed = pictures.changed() => {
                    if changed.is_err() {
                        return End::Shutdown;
                    }
                    false
                }
                _ = ticks.tick() => true,
            };
            if beat {
                let at = Timestamp::now();
                let sent_at = prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() };
                if !self.send(Message::Heartbeat(proto::Heartbeat { sent_at: Some(sent_at) })).await {
                    return End::Gone;
                }
            } else {
                tokio::select! {
                    () = self.parts.shutdown.cancelled() => return End::Shutdown,
                    () = sleep(SPACING) => {}
                }
            }
        }
    }

    /// False when the agent is gone, or takes nothing.
    async fn send(&self, message: Message) -> bool {
        let message = WatchTargetHealthResponse { message: Some(message) };
        let patience = self.parts.heartbeat_interval * PATIENCE;
        matches!(timeout(patience, self.outbox.send(Ok(message))).await, Ok(Ok(())))
    }
}
