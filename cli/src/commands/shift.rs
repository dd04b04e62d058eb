//! `flip` and `shift`: calls that make a shift, and, for `rollback` too, the wait for it.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;

use super::{
    Context,
    follow::{Waited, seconds},
    request_id,
    shift_act::{answered, find_active},
    shift_follow::{Answered, End, Following, Last, budget},
};
use crate::{
    args::{Asking, Flip, Format, Shift as ShiftArgs, Strategy as StrategyArgs, Target},
    error::{Exit, Failure, Kind},
    gate,
    hub::Hub,
    model::{
        Finding, Note, Shift, StepPlan,
        shift_spec::{Canary, Exponential, Gate, Linear, PolicyTarget, ShiftSpec, Step, Strategy},
    },
    output::{json_line, note, progress, write},
    parse::{self, PolicyName, ShiftName},
    render, shift_file,
    shift_wait::Aim,
    text::{count, plain},
    wait::Goal,
};

/// What `-o json|yaml` shows of a call that makes a shift.
#[derive(Serialize)]
pub(super) struct Made {
    pub request_id: String,
    pub dry_run: bool,
    pub shift: Option<Shift>,
    pub findings: Vec<Finding>,
    pub plans: Vec<StepPlan>,
    pub notes: Vec<Note>,
    pub wait: Option<Waited>,
}

pub async fn flip(context: &Context, args: Flip) -> Result<Option<Exit>, Failure> {
    let spec = spec(context, &args.policies, &args.target, Strategy::default(), &args.asking)?;
    create(context, spec, args.asking).await
}

pub async fn shift(context: &Context, args: ShiftArgs) -> Result<Option<Exit>, Failure> {
    let spec = match &args.file {
        Some(file) => {
            let mut spec = shift_file::read(file, context.namespace())?;
            spec.overrides.extend(args.asking.overrides.iter().cloned());
            if !args.asking.reason.is_empty() {
                spec.reason.clone_from(&args.asking.reason);
            }
            spec
        }
        None => {
            let strategy = strategy(&args)?;
            spec(context, &args.policies, &args.target, strategy, &args.asking)?
        }
    };
    create(context, spec, args.asking).await
}

/// What the command line asks for.
fn spec(
    context: &Context,
    policies: &[PolicyName],
    target: &Target,
    strategy: Strategy,
    asking: &Asking,
) -> Result<ShiftSpec, Failure> {
    let refused = |why: &str, remedy: &str| Failure::usage("cannot ask for a shift", why, remedy);
    if target.to.is_none() && target.weights.is_empty() {
        return Err(refused(
            "it is not said where the traffic goes",
            "give --to CLUSTER, or --weights CLUSTER=WEIGHT,..",
        ));
    }
    if policies.len() > 1 && asking.change.expected_version != 0 {
        let why = "--expected-version is one number, and there are several policies";
        return Err(refused(
            why,
            "write the shift as a file with expectedVersion for each policy, and give it with -f",
        ));
    }
    let weights = parse::weights(&target.weights)?;
    let policies = policies.iter().map(|name| {
        let policy = name.resolve(context.namespace())?;
        Ok(PolicyTarget {
            namespace: policy.namespace,
            name: policy.name,
            to: target.to.clone(),
            weights: weights.clone(),
            expected_version: asking.change.expected_version,
        })
    });
    let mut gates = asking.gates.clone();
    gate::name_all(&mut gates);
    Ok(ShiftSpec {
        policies: policies.collect::<Result<_, Failure>>()?,
        strategy,
        gates: gates.into_iter().map(Gate::from).collect(),
        overrides: asking.overrides.clone(),
        reason: asking.reason.clone(),
        progress_deadline_seconds: asking.progress_deadline.unwrap_or(0),
        ..ShiftSpec::default()
    })
}

/// The steps of the command line. The last step of a shift converges instead of baking, so it has neither bake time nor approval.
fn strategy(args: &ShiftArgs) -> Result<Strategy, Failure> {
    let (bake_seconds, approval) = (args.bake.unwrap_or(0), args.approval);
    let refused = |why: String, remedy: &str| Failure::usage("cannot ask for a shift", why, remedy);
    let none = Strategy::default();
    Ok(match &args.strategy {
        StrategyArgs { linear: Some(step_percent), .. } => {
            Strategy { linear: Some(Linear { step_percent: *step_percent, bake_seconds }), ..none }
        }
        StrategyArgs { exponential: Some((first_percent, factor)), .. } => {
            let exponential = Exponential { first_percent: *first_percent, factor: *factor, bake_seconds };
            Strategy { exponential: Some(exponential), ..none }
        }
        StrategyArgs { canary: Some(percent), .. } => {
            Strategy { canary: Some(Canary { percent: *percent, bake_seconds, approval }), ..none }
        }
        StrategyArgs { steps, .. } if steps.is_empty() => {
            let remedy = "give --steps, --linear, --exponential or --canary; or use yardctl flip, which moves at once";
            return Err(refused("it is not said in which steps".into(), remedy));
        }
        StrategyArgs { steps, .. } => {
            if let Some(percent) = args.approve_at.iter().find(|percent| !steps.contains(percent)) {
                let why = format!("--approve-at names {percent}, which is none of the steps");
                return Err(refused(why, "name steps of --steps"));
            }
            let last = steps.len() - 1;
            let step = |(index, percent): (usize, &u32)| Step {
                percent: *percent,
                bake_seconds: if index < last { bake_seconds } else { 0 },
                approval: (approval && index < last) || args.approve_at.contains(percent),
                gates: vec![],
            };
            Strategy { steps: steps.iter().enumerate().map(step).collect(), ..none }
        }
    })
}

async fn create(context: &Context, spec: ShiftSpec, asking: Asking) -> Result<Option<Exit>, Failure> {
    let started = Instant::now();
    let names = spec.policies_in_short();
    let what = format!("cannot shift {names}");
    let (id, dry_run) = (request_id(asking.change.request_id), asking.change.dry_run);
    if asking.wait.is_some() {
        // A wait may be cut off by the CD system: then the log must hold the id that makes repeating safe.
        progress(&format!("asking for a shift of {names}, request {id}"));
    }
    let message = pb::CreateShiftRequest { request_id: id.clone(), spec: Some(spec.into()), dry_run };
    let hub = context.hub(asking.wait.is_some())?;
    let answer = hub
        .call(&what, Kind::Write { request_id: &id }, message, async |channel, request| {
            Hub::shifts(channel).create_shift(request).await
        })
        .await?;
    let made = Made {
        request_id: id,
        dry_run,
        shift: answer.shift.map(Shift::from),
        findings: answer.findings.into_iter().map(Finding::from).collect(),
        plans: answer.plans.into_iter().map(StepPlan::from).collect(),
        notes: answer.notes.into_iter().map(Note::from).collect(),
        wait: None,
    };
    finish(context, &hub, &what, made, asking.wait.map(Aim::Goal), started).await
}

/// Only what cannot be written ends a command after its call, and then the shift goes on unseen.
fn made_anyway(id: Option<&str>, request: &str, failure: Failure) -> Failure {
    match id.filter(|id| !id.is_empty()) {
        Some(id) => Failure {
            what: format!("shift {id} was made (request {request}) and goes on, but {}", failure.what),
            remedy: format!("{}; follow it with `yardctl watch {id}`", failure.remedy),
            ..failure
        },
        None => failure,
    }
}

/// Shows a dry run; or the shift, follows it if asked to, and shows how that ended.
pub(super) async fn finish(
    context: &Context,
    hub: &Hub,
    what: &str,
    made: Made,
    aim: Option<Aim>,
    started: Instant,
) -> Result<Option<Exit>, Failure> {
    let made_one = made.shift.as_ref().filter(|_| !made.dry_run);
    let (id, request) = (made_one.map(|shift| shift.id.clone()), made.request_id.clone());
    let shown = show(context, hub, what, made, aim, started).await;
    shown.map_err(|failure| made_anyway(id.as_deref(), &request, failure))
}

async fn show(
    context: &Context,
    hub: &Hub,
    what: &str,
    mut made: Made,
    aim: Option<Aim>,
    started: Instant,
) -> Result<Option<Exit>, Failure> {
    if made.dry_run {
        return show_dry_run(context, what, &made);
    }
    let shift = answered(what, made.shift.clone())?;
    if context.output.format == Format::Table {
        // The first line is the id and nothing else, and it is there before the wait: whatever happens to this program then.
        write(&format!("{}\n", plain(&shift.id)))?;
    }
    // A wait tells them with the shift.
    for one in made.notes.iter().filter(|_| aim.is_none()) {
        progress(&render::note_sentence(one));
    }
    let end = match aim {
        None => None,
        Some(aim) => {
            let answered = Answered { shift: &shift, new: aim != Aim::Back };
            Some(follow(context, hub, answered, aim, started).await?)
        }
    };
    let last = end.as_ref().and_then(|end| end.last.clone()).unwrap_or(shift);
    match &end {
        Some(end) if context.output.streams() => json_line(&Last::new(Some(&made.request_id), Some(&last), Some(end)))?,
        _ => {
            made.wait = end.as_ref().map(|end| end.waited.clone());
            made.shift = Some(last);
            context.output.show(&made, |_, _| summary(&made))?;
        }
    }
    Ok(tell(end.and_then(|end| end.failure)))
}

/// Told here and not by the caller: the result is on stdout already, a document of the error must not follow it.
pub fn tell(failure: Option<Failure>) -> Option<Exit> {
    failure.map(|failure| {
        note(&failure.report());
        failure.exit
    })
}

/// Follows a shift that a call answered with, at most as long as `--timeout` or its own bake times say.
pub async fn follow(
    context: &Context,
    hub: &Hub,
    answered: Answered<'_>,
    aim: Aim,
    started: Instant,
) -> Result<End, Failure> {
    let shift = answered.shift;
    let budget = context.global.timeout.unwrap_or_else(|| budget(shift));
    let deadline = started + budget;
    if aim != Aim::Goal(Goal::Accepted) {
        let of =
            if context.global.timeout.is_none() { " (its bake times and 10m; --timeout sets another)" } else { "" };
        progress(&format!(
            "waiting for {} of shift {} of {}, at most {}{of}",
            aim.word(),
            shift.id,
            shift.spec.policies_in_short(),
            seconds(budget)
        ));
    }
    let following = Following {
        hub,
        id: &shift.id,
        aim,
        stream: context.output.streams(),
        deadline: Some(deadline),
        first_answer: None,
    };
    following.run(Some(answered)).await
}

fn summary(made: &Made) -> String {
    let Some(shift) = &made.shift else { return String::new() };
    let wait = made.wait.as_ref().map(|wait| format!("; {} {}", wait.condition, wait.outcome));
    format!("{} (request {}){}\n", render::shift_line(shift), made.request_id, wait.unwrap_or_default())
}

/// A dry run that something stands in the way of ends as the call itself would.
fn show_dry_run(context: &Context, what: &str, made: &Made) -> Result<Option<Exit>, Failure> {
    context
        .output
        .show(made, |paint, _| render::dry_run(made.shift.as_ref(), &made.findings, &made.plans, &made.notes, paint))?;
    let blocking = made.findings.iter().filter(|finding| !finding.overridden).count();
    if blocking == 0 {
        return Ok(None);
    }
    let verb = if blocking == 1 { "stands" } else { "stand" };
    let why = format!("{} {verb} in the way", count(blocking, "finding"));
    let remedy = "deal with what is listed; nothing was changed";
    Ok(tell(Some(Failure::new(Exit::Conflict, format!("{what} (dry run)"), why, remedy))))
}

/// The shift that a name means.
pub async fn resolve(context: &Context, hub: &Hub, what: &str, name: &ShiftName) -> Result<String, Failure> {
    match name {
        ShiftName::Id(id) => Ok(id.clone()),
        ShiftName::Policy(name) => {
            let policy = name.resolve(context.namespace())?;
            let active = find_active(hub, &policy).await?;
            active.map(|shift| shift.id).ok_or_else(|| {
                let why = format!("no shift moves {policy} now");
                let remedy = format!("see its shifts with `yardctl history {policy}`, and name one by its id");
                Failure::new(Exit::NotFound, what, why, remedy)
            })
        }
    }
}

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;
