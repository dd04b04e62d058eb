//! `rollback`: the call, what is worth saying of it beside its answer, and what helps where it cannot be made.

use std::time::Duration;

use switchyard_proto::api::v1 as pb;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::{
    Context, request_id,
    shift::{Made, finish},
    shift_act::{find, newest},
};
use crate::{
    args::Rollback,
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::{Finding, Note, Shift, State, StepPlan},
    output::progress,
    parse::ShiftName,
    shift_advice,
    shift_wait::Aim,
    wait::Goal,
};

/// How long a rollback is looked at beside the call: people wait for it in an incident.
const LOOK: Duration = Duration::from_secs(2);

pub async fn rollback(context: &Context, args: Rollback) -> Result<Option<Exit>, Failure> {
    let started = Instant::now();
    let (id, policy, name) = match &args.shift {
        ShiftName::Id(id) => (id.clone(), None, format!("shift {id}")),
        ShiftName::Policy(name) => {
            let policy = name.resolve(context.namespace())?;
            (String::new(), Some(pb::PolicyRef::from(&policy)), policy.to_string())
        }
    };
    let what = format!("cannot roll back {name}");
    let request = request_id(args.request_id);
    if args.wait.is_some() {
        progress(&format!("asking to roll back {name}, request {request}"));
    }
    let message = pb::RollbackShiftRequest {
        request_id: request.clone(),
        id,
        policy,
        reason: args.reason,
        overrides: args.overrides,
        dry_run: args.dry_run,
    };
    let hub = context.hub(args.wait.is_some())?;
    let answer = hub
        .call(&what, Kind::Write { request_id: &request }, message, async |channel, request| {
            Hub::shifts(channel).rollback_shift(request).await
        })
        .await;
    let answer = match answer {
        Err(failure) => return Err(without_rollback(context, &hub, &args.shift, failure).await),
        Ok(answer) => answer,
    };
    let shift = answer.shift.map(Shift::from);
    // A running shift is not followed by a new one: it goes back itself, and never converges.
    let same = shift.as_ref().is_some_and(|shift| match &args.shift {
        ShiftName::Id(id) => shift.id == *id,
        ShiftName::Policy(_) => shift_advice::turned_back(shift),
    });
    let aim = args.wait.map(|goal| if same && goal != Goal::Accepted { Aim::Back } else { Aim::Goal(goal) });
    if let Some(shift) = &shift {
        warn(&hub, &args.shift, shift, same).await;
    }
    let made = Made {
        request_id: request,
        dry_run: args.dry_run,
        shift,
        findings: answer.findings.into_iter().map(Finding::from).collect(),
        plans: answer.plans.into_iter().map(StepPlan::from).collect(),
        notes: answer.notes.into_iter().map(Note::from).collect(),
        wait: None,
    };
    finish(context, &hub, &what, made, aim, started).await
}

/// Says when this rollback is not what it looks like. The call was made: that it cannot be looked at must not fail or delay it.
async fn warn(hub: &Hub, named: &ShiftName, back: &Shift, same: bool) {
    let id = match named {
        _ if same => None,
        ShiftName::Id(id) => Some(id),
        ShiftName::Policy(_) => Some(&back.rollback_of).filter(|id| !id.is_empty()),
    };
    let of = match id {
        Some(id) => timeout(LOOK, find(hub, id)).await.ok().and_then(Result::ok),
        None => same.then(|| back.clone()),
    };
    for said in of.iter().flat_map(|of| shift_advice::of_rollback(back, of)) {
        progress(&format!("ATTENTION: {said}"));
    }
}

/// What the hub cannot take back can be moved by hand, when the shift can still be read.
async fn without_rollback(context: &Context, hub: &Hub, named: &ShiftName, failure: Failure) -> Failure {
    // As a shift it cannot be asked for any more: a policy is gone, or a cluster has left a spec.
    if !matches!(failure.code, Some(Code::NotFound | Code::InvalidArgument)) {
        return failure;
    }
    let of = async {
        match named {
            ShiftName::Id(id) => Some((find(hub, id).await.ok()?, None)),
            ShiftName::Policy(name) => {
                let policy = name.resolve(context.namespace()).ok()?;
                let last = newest(hub, &policy, false).await.ok()??;
                Some((last, Some(policy)))
            }
        }
    };
    let succeeded = timeout(LOOK, of).await.ok().flatten().filter(|(of, _)| of.status.state == State::Succeeded);
    match succeeded.and_then(|(of, policy)| shift_advice::by_hand(&of, policy.as_ref())) {
        Some(remedy) => Failure { remedy, ..failure },
        None => failure,
    }
}
