//! `weights` and `delete policy`: one call that changes something, and the wait for its effect.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;

use super::{
    Context,
    follow::{End, Waited, wait_for},
    request_id,
};
use crate::{
    args::{Change, Weights},
    error::{Exit, Failure, Kind},
    finding::Crossing,
    hub::Hub,
    model::{Plan, Policy, PolicyRef},
    output::{note, progress},
    parse::{self, PolicyName},
    render,
    wait::Until,
};

/// The hub's bound on the reason in the audit log.
const MAX_REASON: usize = 1024;

/// What `-o json|yaml` shows of one change.
#[derive(Serialize)]
struct Changed {
    request_id: String,
    dry_run: bool,
    policy: Policy,
    plan: Option<Plan>,
    wait: Option<Waited>,
}

pub async fn weights(context: &Context, args: Weights) -> Result<Option<Exit>, Failure> {
    let deadline = Instant::now() + context.wait_budget();
    let policy = args.policy.resolve(context.namespace())?;
    let weights = parse::weights(&args.weights)?;
    bounded_reason("cannot set the weights", &args.reason)?;
    let id = request_id(args.change.request_id);
    let dry_run = args.change.dry_run;
    let message = pb::SetWeightsRequest {
        request_id: id.clone(),
        policy: Some((&policy).into()),
        weights: weights.into_iter().collect(),
        expected_version: args.change.expected_version,
        dry_run,
        reason: args.reason,
    };
    let hub = context.hub(args.wait.is_some())?;
    if args.wait.is_some() {
        announce("setting the weights of", &policy, &id);
    }
    let what = format!("cannot set the weights of {policy}");
    let answer = hub
        .call(&what, Kind::Write { request_id: &id }, message, async |channel, request| {
            Hub::policies(channel).set_weights(request).await
        })
        .await
        .map_err(crossed_by_a_flip)?;
    let policy = present(&what, answer.policy)?;
    let changed = Changed { request_id: id, dry_run, policy, plan: answer.plan.map(Plan::from), wait: None };
    finish(context, &hub, changed, args.wait.map(Until::True), deadline, "accepted").await
}

/// Refused before anything is sent: of several documents none is applied then.
pub fn bounded_reason(what: &str, reason: &str) -> Result<(), Failure> {
    let length = reason.chars().count();
    if length <= MAX_REASON {
        return Ok(());
    }
    let why = format!("--reason has {length} characters, at most {MAX_REASON} are kept");
    Err(Failure::usage(what, why, "give a shorter reason"))
}

/// Of safety rules this command crosses none, and its dry run shows no more than the refusal.
fn crossed_by_a_flip(failure: Failure) -> Failure {
    if failure.findings.is_empty() {
        return failure;
    }
    Failure { crossing: Crossing::Flip, remedy: "nothing was changed".into(), ..failure }
}

pub async fn delete(
    context: &Context,
    name: &PolicyName,
    change: Change,
    reason: String,
    wait: bool,
) -> Result<Option<Exit>, Failure> {
    let deadline = Instant::now() + context.wait_budget();
    let policy = name.resolve(context.namespace())?;
    bounded_reason("cannot delete", &reason)?;
    let id = request_id(change.request_id);
    let dry_run = change.dry_run;
    let message = pb::DeletePolicyRequest {
        request_id: id.clone(),
        policy: Some((&policy).into()),
        expected_version: change.expected_version,
        dry_run,
        reason,
    };
    let hub = context.hub(wait)?;
    if wait {
        announce("deleting", &policy, &id);
    }
    let what = format!("cannot delete {policy}");
    let answer = hub
        .call(&what, Kind::Write { request_id: &id }, message, async |channel, request| {
            Hub::policies(channel).delete_policy(request).await
        })
        .await?;
    let policy = present(&what, answer.policy)?;
    let passed_on = policy.owner_cluster().filter(|_| policy.deleting_since.is_none()).map(str::to_owned);
    let changed = Changed { request_id: id, dry_run, policy, plan: None, wait: None };
    match passed_on {
        // Nothing is taken down, so there is no end to wait for.
        Some(cluster) => {
            let done = format!(
                "handed over to the resource in cluster {cluster}, which waited for it; delete that one, too, to end it,"
            );
            finish(context, &hub, changed, None, deadline, &done).await
        }
        None => finish(context, &hub, changed, wait.then_some(Until::Gone), deadline, "marked for deletion").await,
    }
}

/// A wait may be cut off by the CD system: then the log must hold the id that makes repeating safe.
fn announce(doing: &str, policy: &PolicyRef, id: &str) {
    progress(&format!("{doing} {policy}, request {id}"));
}

/// Waits if asked to, shows the result in any case, then tells how the wait failed.
async fn finish(
    context: &Context,
    hub: &Hub,
    mut changed: Changed,
    until: Option<Until>,
    deadline: Instant,
    done: &str,
) -> Result<Option<Exit>, Failure> {
    let mut failure = None;
    if let Some(until) = until {
        let end: End = wait_for(hub, until, &changed.policy, deadline).await;
        changed.policy = end.last.unwrap_or(changed.policy);
        changed.wait = Some(end.waited);
        failure = end.failure;
    }
    context.output.show(&changed, |paint, _| {
        let policy = &changed.policy;
        if changed.dry_run {
            let plan = changed.plan.as_ref().map(|plan| render::plan(plan, paint)).unwrap_or_default();
            return format!("{} would be {done} (dry run: nothing was changed)\n{plan}", policy.reference);
        }
        let wait = changed.wait.as_ref().map(|wait| format!(", {} {}", wait.condition, wait.outcome));
        format!(
            "{} {done} (version {}, request {}){}\n",
            policy.reference,
            policy.version,
            changed.request_id,
            wait.unwrap_or_default()
        )
    })?;
    // Told here and not by the caller: the result is on stdout already, a document of the error must not follow it.
    Ok(failure.map(|failure| {
        note(&failure.report());
        failure.exit
    }))
}

/// An answer without its policy is a broken hub, not a success.
pub fn present(what: &str, policy: Option<pb::Policy>) -> Result<Policy, Failure> {
    policy.map(Policy::from).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a policy", "look into the hub's log")
    })
}
