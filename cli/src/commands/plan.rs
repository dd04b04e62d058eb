//! `plan`: what the hub would do now.

use switchyard_proto::api::v1 as pb;

use super::Context;
use crate::{
    args::PlanArgs,
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::Plan,
    render,
};

pub async fn run(context: &Context, args: PlanArgs) -> Result<(), Failure> {
    let policy = args.policy.map(|name| name.resolve(context.namespace())).transpose()?;
    let what = match &policy {
        Some(policy) => format!("cannot plan {policy}"),
        None => "cannot plan".to_owned(),
    };
    let message = pb::GetPlanRequest { policy: policy.as_ref().map(Into::into) };
    let answer = context
        .hub(false)?
        .call(&what, Kind::Read, message, async |channel, request| Hub::policies(channel).get_plan(request).await)
        .await?;
    let mut plan: Plan = answer.plan.map(Plan::from).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a plan", "look into the hub's log")
    })?;
    // The call knows one policy or all; a namespace is cut out here.
    if let (None, Some(namespace)) = (&policy, context.namespace()) {
        plan.steps.retain(|step| step.policy.namespace == namespace);
        plan.notes.retain(|note| note.policy.namespace == namespace);
    }
    context.output.show(&plan, |paint, _| render::plan(&plan, paint))
}
