//! `explain` and `failback`: why the weights of a policy are what they are, and the word that lets clusters return.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;

use super::{
    Context,
    change::present,
    follow::{Waited, wait_for},
    request_id,
    shift::tell,
};
use crate::{
    args::{Explain, Failback},
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::{Explanation, Policy, PolicyRef},
    output::progress,
    render,
    wait::{Goal, Until},
};

/// What `-o json|yaml` shows.
#[derive(Serialize)]
struct Explained {
    policy: PolicyRef,
    version: u64,
    /// Nothing until the policy was planned once.
    explanation: Option<Explanation>,
}

pub async fn explain(context: &Context, args: Explain) -> Result<(), Failure> {
    let reference = args.policy.resolve(context.namespace())?;
    let what = format!("cannot explain {reference}");
    let message = pb::ExplainPolicyRequest { policy: Some((&reference).into()) };
    let send = async |channel, request| Hub::policies(channel).explain_policy(request).await;
    let answer = context.hub(false)?.call(&what, Kind::Read, message, send).await?;
    let explained = Explained {
        version: present(&what, answer.policy)?.version,
        policy: reference,
        explanation: answer.explanation.map(Explanation::from),
    };
    context
        .output
        .show(&explained, |paint, now| render::explain(&explained.policy, explained.explanation.as_ref(), paint, now))
}

#[derive(Serialize)]
struct FailedBack {
    request_id: String,
    policy: Policy,
    wait: Option<Waited>,
}

pub async fn failback(context: &Context, args: Failback) -> Result<Option<Exit>, Failure> {
    let deadline = Instant::now() + context.wait_budget();
    let reference = args.policy.resolve(context.namespace())?;
    let id = request_id(args.request_id);
    let what = format!("cannot let clusters of {reference} return");
    let message = pb::FailbackPolicyRequest {
        request_id: id.clone(),
        policy: Some((&reference).into()),
        reason: args.reason,
        expected_version: args.expected_version,
    };
    let hub = context.hub(args.wait)?;
    if args.wait {
        progress(&format!("letting clusters of {reference} return, request {id}"));
    }
    let send = async |channel, request| Hub::policies(channel).failback_policy(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &id }, message, send).await?;
    let mut made = FailedBack { request_id: id, policy: present(&what, answer.policy)?, wait: None };
    let mut failure = None;
    if args.wait {
        let end = wait_for(&hub, Until::True(Goal::Converged), &made.policy, deadline).await;
        made.policy = end.last.unwrap_or(made.policy);
        made.wait = Some(end.waited);
        failure = end.failure;
    }
    context.output.show(&made, |_, _| {
        let wait = made.wait.as_ref().map(|wait| format!("; {} {}", wait.condition, wait.outcome));
        format!(
            "{}: clusters that failover took out may return once they are healthy (version {}, request {}){}\n",
            made.policy.reference,
            made.policy.version,
            made.request_id,
            wait.unwrap_or_default()
        )
    })?;
    Ok(tell(failure))
}
