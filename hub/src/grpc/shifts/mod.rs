//! ShiftService: takes shifts and what is said about them into the store, and shows how they fare. The machine of a shift is core's,
//! the engine turns it; this module must not import `engine` or `elb`. Commands are in force as soon as they are answered, by
//! whatever replica: the store lets core decide in the transaction that writes.

mod preview;
mod reads;
mod rollback;
mod show;
mod spec;
mod watch;

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use jiff::Timestamp;
use switchyard_core::{
    access::{Role, Touch},
    ids::ShiftId,
    shift::{Origin, Shift, machine::Command, validate::ShiftPlan},
};
use switchyard_proto::api::v1::{self as proto, shift_service_server::ShiftService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    caller::{caller, may_read_shift, reader},
    errors::ApiError,
    planning::{Lane, Planning},
    rights::GateSources,
};
use crate::{
    feed::Picture,
    store::{Caller, Store},
};
use preview::Preview;
use show::to_proto_shift;

pub(super) use preview::active_on;
pub(super) use show::to_proto_finding;
pub(super) use spec::bounded;

/// What waits for one watcher: the next state is looked up only when this one is taken.
const WATCH_OUTBOX: usize = 1;

/// What the service needs.
#[derive(Clone)]
pub struct ShiftParts {
    /// Where shifts go, and where old ones are.
    pub store: Store,
    /// Where reads come from.
    pub reading: Reading,
    /// For dry runs.
    pub planning: Planning,
    /// What gates may be measured with.
    pub gate_sources: Arc<GateSources>,
    /// Ends every watch.
    pub shutdown: CancellationToken,
    /// Watches under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Shifts {
    parts: ShiftParts,
}

impl Shifts {
    /// A service of these parts.
    pub fn new(parts: ShiftParts) -> Self {
        Self { parts }
    }

    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        self.parts.reading.picture()
    }

    /// The shift after a write, in a picture that holds what was written.
    async fn written(&self, shift: &Shift) -> Result<proto::Shift, ApiError> {
        self.parts.reading.feed.refreshed().await;
        Ok(to_proto_shift(shift, &*self.picture()?))
    }

    async fn create(
        &self,
        caller: Caller,
        request: proto::CreateShiftRequest,
    ) -> Result<proto::CreateShiftResponse, ApiError> {
        let asked = request.spec.unwrap_or_default();
        let plan = spec::plan(&asked, &self.parts.gate_sources).map_err(ApiError::Invalid)?;
        for target in &plan.targets {
            // Before it is told whether there is such a policy; the clusters are looked at when its weights are known.
            let touch = Touch::Policy(&target.policy.namespace);
            caller.may(Role::Operator, &touch, format_args!("shift policy {}", target.policy))?;
            caller.may_cross(Role::Operator, &touch, &plan.spec.overrides)?;
        }
        let caller = Caller { reason: plan.spec.reason.clone(), ..caller };
        if request.dry_run {
            let (shift, preview) = self.dry_run(&plan, Origin::Call, &caller).await?;
            let Preview { findings, plans, notes } = preview;
            return Ok(proto::CreateShiftResponse { shift: Some(shift), findings, plans, notes });
        }
        let shift = self.store_new(&plan, &Origin::Call, &caller).await?;
        Ok(proto::CreateShiftResponse { shift: Some(shift), ..Default::default() })
    }

    async fn store_new(&self, plan: &ShiftPlan, origin: &Origin, caller: &Caller) -> Result<proto::Shift, ApiError> {
        let shift = self.parts.store.shift_create(caller, plan, origin).await?;
        let policies: Vec<String> = shift.moves.iter().map(|one| one.policy.to_string()).collect();
        tracing::info!(shift = %shift.id, ?policies, steps = shift.steps.len(), actor = caller.actor, "a shift was asked for");
        self.written(&shift).await
    }

    async fn dry_run(
        &self,
        plan: &ShiftPlan,
        origin: Origin,
        caller: &Caller,
    ) -> Result<(proto::Shift, Preview), ApiError> {
        let (picture, now) = (self.picture()?, Timestamp::now());
        let shift = preview::start(plan, origin, caller, &picture, now)?;
        let (planning, observed) = (self.parts.planning.clone(), self.parts.planning.observed()?);
        let look = move || {
            let preview = preview::look(&shift, &picture, &observed, planning.sheet(&picture), now);
            (to_proto_shift(&shift, &picture), preview)
        };
        self.parts.planning.off_thread(Lane::Readers, &caller.actor, look).await
    }

    async fn command(&self, caller: &Caller, id: &str, command: Command) -> Result<proto::Shift, ApiError> {
        let (shift, _) = self.find(&shift_id(id)?).await?;
        // Which clusters a shift moves in which policies is settled when it is made.
        caller.may_command(&shift)?;
        self.tell(caller, &shift.id, &command).await
    }

    async fn tell(&self, caller: &Caller, id: &ShiftId, command: &Command) -> Result<proto::Shift, ApiError> {
        let shift = self.parts.store.shift_command(caller, id, command).await?;
        tracing::info!(shift = %id, ?command, state = %shift.state, actor = caller.actor, "a shift was given a command");
        self.written(&shift).await
    }
}

fn shift_id(id: &str) -> Result<ShiftId, ApiError> {
    id.parse().map_err(|error| ApiError::field("id", error))
}

/// The step that is approved, from 0; none: the one that waits.
fn approved(step: u32) -> Command {
    Command::Approve(step.checked_sub(1).and_then(|step| usize::try_from(step).ok()))
}

/// A call that gives one command to one shift.
macro_rules! command {
    ($self:ident, $request:ident, $method:literal, $answer:ident, $command:expr) => {{
        let body = $request.get_ref();
        let caller = caller(&$request, &body.request_id, false, &body.reason);
        let told = $self.command(&caller, &body.id, $command).await;
        let result = told.map(|shift| proto::$answer { shift: Some(shift) });
        $self.parts.reading.answer($method, result)
    }};
}

#[tonic::async_trait]
impl ShiftService for Shifts {
    type WatchShiftStream = Pin<Box<dyn Stream<Item = Result<proto::WatchShiftResponse, Status>> + Send>>;

    async fn create_shift(
        &self,
        request: Request<proto::CreateShiftRequest>,
    ) -> Result<Response<proto::CreateShiftResponse>, Status> {
        let caller = caller(&request, &request.get_ref().request_id, request.get_ref().dry_run, "");
        let result = self.create(caller, request.into_inner()).await;
        self.parts.reading.answer("CreateShift", result)
    }

    async fn get_shift(
        &self,
        request: Request<proto::GetShiftRequest>,
    ) -> Result<Response<proto::GetShiftResponse>, Status> {
        let result = self.get(&reader(&request), request.get_ref()).await;
        self.parts.reading.answer("GetShift", result)
    }

    async fn list_shifts(
        &self,
        request: Request<proto::ListShiftsRequest>,
    ) -> Result<Response<proto::ListShiftsResponse>, Status> {
        let result = self.list(&reader(&request), request.get_ref()).await;
        self.parts.reading.answer("ListShifts", result)
    }

    async fn watch_shift(
        &self,
        request: Request<proto::WatchShiftRequest>,
    ) -> Result<Response<Self::WatchShiftStream>, Status> {
        let parts = &self.parts;
        // Before the first look, so that no change falls between the two.
        let pictures = parts.reading.feed.subscribe();
        let (caller, id) = (reader(&request), &request.get_ref().id);
        let found = async {
            let (shift, _) = self.find(&shift_id(id)?).await?;
            may_read_shift(&caller, &shift).map(|()| shift)
        };
        let shift = match found.await {
            Ok(shift) => shift,
            Err(error) => return parts.reading.answer("WatchShift", Err(error)),
        };
        let (outbox, receiver) = mpsc::channel(WATCH_OUTBOX);
        let (store, shutdown) = (parts.store.clone(), parts.shutdown.clone());
        parts.tasks.spawn(watch::run(watch::Watch { shift, pictures, store, outbox, shutdown }));
        let stream: Self::WatchShiftStream = Box::pin(ReceiverStream::new(receiver));
        parts.reading.answer("WatchShift", Ok(stream))
    }

    async fn pause_shift(
        &self,
        request: Request<proto::PauseShiftRequest>,
    ) -> Result<Response<proto::PauseShiftResponse>, Status> {
        command!(self, request, "PauseShift", PauseShiftResponse, Command::Pause)
    }

    async fn resume_shift(
        &self,
        request: Request<proto::ResumeShiftRequest>,
    ) -> Result<Response<proto::ResumeShiftResponse>, Status> {
        command!(self, request, "ResumeShift", ResumeShiftResponse, Command::Resume)
    }

    async fn approve_shift(
        &self,
        request: Request<proto::ApproveShiftRequest>,
    ) -> Result<Response<proto::ApproveShiftResponse>, Status> {
        let step = request.get_ref().step;
        command!(self, request, "ApproveShift", ApproveShiftResponse, approved(step))
    }

    async fn promote_shift(
        &self,
        request: Request<proto::PromoteShiftRequest>,
    ) -> Result<Response<proto::PromoteShiftResponse>, Status> {
        command!(self, request, "PromoteShift", PromoteShiftResponse, Command::Promote)
    }

    async fn abort_shift(
        &self,
        request: Request<proto::AbortShiftRequest>,
    ) -> Result<Response<proto::AbortShiftResponse>, Status> {
        command!(self, request, "AbortShift", AbortShiftResponse, Command::Abort)
    }

    async fn rollback_shift(
        &self,
        request: Request<proto::RollbackShiftRequest>,
    ) -> Result<Response<proto::RollbackShiftResponse>, Status> {
        let body = request.get_ref();
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.rollback(caller, request.into_inner()).await;
        self.parts.reading.answer("RollbackShift", result)
    }
}
