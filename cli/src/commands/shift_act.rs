//! `pause`, `resume`, `approve`, `promote`, `abort` and `watch`: calls about a shift that there is.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;
use tonic::Code;

use super::{
    Context,
    follow::Waited,
    request_id,
    shift::{follow, resolve, tell},
    shift_follow::{Answered, Following, Last},
};
use crate::{
    args::{Abort, About, Approve, Format, GoOn, Watch},
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::{PolicyRef, Shift, State},
    output::{json_line, progress},
    parse::ShiftName,
    render, shift_advice,
    shift_wait::Aim,
    wait::Goal,
};

/// What `-o json|yaml` shows of a call about a shift.
#[derive(Serialize)]
struct Acted {
    request_id: String,
    shift: Shift,
    wait: Option<Waited>,
}

/// What is done with the shift.
#[derive(Clone, Copy, Debug)]
enum Act {
    Pause,
    Resume,
    /// 0: the one that waits.
    Approve {
        step: u32,
    },
    Promote,
    Abort,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve { .. } => "approve",
            Self::Promote => "promote",
            Self::Abort => "abort",
        }
    }
}

pub async fn pause(context: &Context, about: About) -> Result<Option<Exit>, Failure> {
    act(context, about, Act::Pause, None).await
}

pub async fn resume(context: &Context, args: GoOn) -> Result<Option<Exit>, Failure> {
    act(context, args.about, Act::Resume, args.wait.map(Aim::Goal)).await
}

pub async fn approve(context: &Context, args: Approve) -> Result<Option<Exit>, Failure> {
    act(context, args.go_on.about, Act::Approve { step: args.step.unwrap_or(0) }, args.go_on.wait.map(Aim::Goal)).await
}

pub async fn promote(context: &Context, args: GoOn) -> Result<Option<Exit>, Failure> {
    act(context, args.about, Act::Promote, args.wait.map(Aim::Goal)).await
}

pub async fn abort(context: &Context, args: Abort) -> Result<Option<Exit>, Failure> {
    act(context, args.about, Act::Abort, args.wait.then_some(Aim::Back)).await
}

async fn act(context: &Context, about: About, act: Act, aim: Option<Aim>) -> Result<Option<Exit>, Failure> {
    let started = Instant::now();
    let hub = context.hub(aim.is_some())?;
    let what = format!("cannot {} {}", act.word(), render::shift_name(&about.shift, context.namespace()));
    let id = match resolve(context, &hub, &what, &about.shift).await {
        Err(failure) if matches!(act, Act::Abort) => return Err(nothing_to_abort(context, &hub, &about, failure).await),
        id => id?,
    };
    let request_id = request_id(about.request_id);
    if aim.is_some() {
        progress(&format!("asking to {} shift {id}, request {request_id}", act.word()));
    }
    let shift = match call(&hub, &what, act, &request_id, id.clone(), about.reason).await {
        Err(failure) if matches!(act, Act::Abort) => ended_before(&hub, &id, failure).await?,
        shift => answered(&what, shift?)?,
    };
    let end = match aim {
        None => None,
        Some(aim) => Some(follow(context, &hub, Answered { shift: &shift, new: false }, aim, started).await?),
    };
    match &end {
        Some(end) if context.output.streams() => json_line(&Last::new(Some(&request_id), Some(&shift), Some(end)))?,
        _ => {
            let wait = end.as_ref().map(|end| end.waited.clone());
            let shift = end.as_ref().and_then(|end| end.last.clone()).unwrap_or(shift);
            let acted = Acted { request_id, shift, wait };
            context.output.show(&acted, |_, _| {
                let wait = acted.wait.as_ref().map(|wait| format!("; {} {}", wait.condition, wait.outcome));
                format!("{}{}\n", render::shift_line(&acted.shift), wait.unwrap_or_default())
            })?;
        }
    }
    Ok(tell(end.and_then(|end| end.failure)))
}

/// An abort that came too late: the shift, when that went back itself, so that a job may repeat an abort.
async fn ended_before(hub: &Hub, id: &str, failure: Failure) -> Result<Shift, Failure> {
    if failure.code != Some(Code::FailedPrecondition) {
        return Err(failure);
    }
    let Ok(shift) = find(hub, id).await else { return Err(failure) };
    if let Some(said) = shift_advice::back_already(&shift) {
        progress(&said);
        return Ok(shift);
    }
    if shift.status.state == State::Succeeded {
        let remedy = format!("it has succeeded: take it back with `yardctl rollback {id}`");
        return Err(Failure { remedy, ..failure });
    }
    Err(failure)
}

/// Who wants to take back what moves, and finds that nothing does, wants to know how the last one ended.
async fn nothing_to_abort(context: &Context, hub: &Hub, about: &About, failure: Failure) -> Failure {
    let (Exit::NotFound, ShiftName::Policy(name)) = (failure.exit, &about.shift) else { return failure };
    let Ok(policy) = name.resolve(context.namespace()) else { return failure };
    match newest(hub, &policy, false).await {
        Ok(Some(last)) if last.status.state == State::Succeeded => {
            let why = format!("{}; its last one, {}, has succeeded", failure.why, last.id);
            let remedy = format!("take that back with `yardctl rollback {policy}`");
            Failure { why, remedy, ..failure }
        }
        Ok(Some(last)) => {
            let status = &last.status;
            let why = format!("{}; its last one, {}, is {} ({})", failure.why, last.id, status.state, status.reason);
            Failure { why, ..failure }
        }
        // The look was only for the text.
        Ok(None) | Err(_) => failure,
    }
}

async fn call(
    hub: &Hub,
    what: &str,
    act: Act,
    request_id: &str,
    id: String,
    reason: String,
) -> Result<Option<Shift>, Failure> {
    let kind = Kind::Write { request_id };
    let request_id = request_id.to_owned();
    let shift = match act {
        Act::Pause => {
            let message = pb::PauseShiftRequest { request_id, id, reason };
            let send = async |channel, request| Hub::shifts(channel).pause_shift(request).await;
            hub.call(what, kind, message, send).await?.shift
        }
        Act::Resume => {
            let message = pb::ResumeShiftRequest { request_id, id, reason };
            let send = async |channel, request| Hub::shifts(channel).resume_shift(request).await;
            hub.call(what, kind, message, send).await?.shift
        }
        Act::Approve { step } => {
            let message = pb::ApproveShiftRequest { request_id, id, step, reason };
            let send = async |channel, request| Hub::shifts(channel).approve_shift(request).await;
            hub.call(what, kind, message, send).await?.shift
        }
        Act::Promote => {
            let message = pb::PromoteShiftRequest { request_id, id, reason };
            let send = async |channel, request| Hub::shifts(channel).promote_shift(request).await;
            hub.call(what, kind, message, send).await?.shift
        }
        Act::Abort => {
            let message = pb::AbortShiftRequest { request_id, id, reason };
            let send = async |channel, request| Hub::shifts(channel).abort_shift(request).await;
            hub.call(what, kind, message, send).await?.shift
        }
    };
    Ok(shift.map(Shift::from))
}

/// Follows a shift to its end; `--timeout` bounds all of it, otherwise only the first answer is bounded.
pub async fn watch(context: &Context, args: Watch) -> Result<Option<Exit>, Failure> {
    if context.output.format == Format::Yaml {
        let why = "-o yaml is one document, a watch is many";
        return Err(Failure::usage("cannot watch", why, "use -o json for one object per line"));
    }
    let started = Instant::now();
    let hub = context.hub(false)?;
    let what = format!("cannot watch {}", render::shift_name(&args.shift, context.namespace()));
    let id = resolve(context, &hub, &what, &args.shift).await?;
    let following = Following {
        hub: &hub,
        id: &id,
        aim: Aim::Goal(Goal::Converged),
        stream: context.output.streams(),
        deadline: context.global.timeout.map(|timeout| started + timeout),
        first_answer: Some(started + context.call_timeout()),
    };
    let end = following.run(None).await?;
    if context.output.streams() {
        json_line(&Last::new(None, None, Some(&end)))?;
    } else if let Some(shift) = &end.last {
        crate::output::write(&format!("{}\n", render::shift_line(shift)))?;
    }
    Ok(tell(end.failure))
}

/// The shift with this id.
pub async fn find(hub: &Hub, id: &str) -> Result<Shift, Failure> {
    let what = format!("cannot read shift {id}");
    let message = pb::GetShiftRequest { id: id.to_owned() };
    let send = async |channel, request| Hub::shifts(channel).get_shift(request).await;
    answered(&what, hub.call(&what, Kind::Read, message, send).await?.shift.map(Shift::from))
}

/// The shift that moves the policy now.
pub async fn find_active(hub: &Hub, policy: &PolicyRef) -> Result<Option<Shift>, Failure> {
    newest(hub, policy, true).await
}

/// The newest shift of the policy. At most one of a policy is active, and that is its newest.
pub async fn newest(hub: &Hub, policy: &PolicyRef, active: bool) -> Result<Option<Shift>, Failure> {
    let what = format!("cannot look for the shifts of {policy}");
    let message =
        pb::ListShiftsRequest { policy: Some(policy.into()), active, page_size: 1, ..pb::ListShiftsRequest::default() };
    let send = async |channel, request| Hub::shifts(channel).list_shifts(request).await;
    let answer = hub.call(&what, Kind::Read, message, send).await?;
    Ok(answer.shifts.into_iter().next().map(Shift::from))
}

/// An answer without its shift is a broken hub, not a success.
pub fn answered(what: &str, shift: Option<Shift>) -> Result<Shift, Failure> {
    shift.filter(|shift| !shift.id.is_empty()).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a shift", "look into the hub's log")
    })
}
