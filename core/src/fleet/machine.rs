//! Moves what operators want of a cluster: by callers ([`command`]) and by what is seen of the policies ([`observe`]). A step is made
//! only when the one before is in force in every policy that names the cluster: read back, and settled.
//! Tests: `core/tests/fleet_machine.rs`.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{ClusterState, Kind, MOST_PROGRESS, Mode, Operation, Progress, Why};
use crate::{
    ids::{ClusterName, PolicyKey, Weight},
    policy::PolicyRecord,
    status::{ClusterStatus, ConditionType, Note, PolicyStatus, Reason},
};

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What.
    pub kind: Kind,
    /// The id of the new operation.
    pub id: String,
    /// The caller.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// For [`Kind::Drain`], 1..=100.
    pub step_percent: u32,
    /// For [`Kind::Drain`], 0..=86400.
    pub step_seconds: u32,
    /// For [`Kind::Drain`] and [`Kind::Drill`]: whatever the others can carry.
    pub force: bool,
    /// For [`Kind::Drill`], in seconds.
    pub duration_seconds: u32,
}

/// Why a command is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not fit where the cluster is.
    #[error("{cluster} is {mode}: {problem}; {remedy}")]
    WrongMode {
        /// The cluster.
        cluster: ClusterName,
        /// Where it is.
        mode: Mode,
        /// What is wrong.
        problem: &'static str,
        /// What helps.
        remedy: String,
    },
    /// Policies still give it requests.
    #[error("{cluster} cannot be removed: {} still gives it requests; drain it first (yardctl drain {cluster}), and set its weight to 0 in spec.clusters or take it out there", named(.policies))]
    StillCarries {
        /// The cluster.
        cluster: ClusterName,
        /// The policies, at least one.
        policies: Vec<PolicyKey>,
    },
}

fn named(policies: &[PolicyKey]) -> String {
    let first: Vec<String> = policies.iter().take(3).map(ToString::to_string).collect();
    match policies.len().saturating_sub(first.len()) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Takes a command. `carried_by`: the policies that give the cluster a weight, in their spec, by an override or at the load balancer;
/// asked for [`Kind::Remove`] only. A command that wants what is there already gives the state back unchanged.
///
/// # Errors
/// [`Refusal`] with what helps.
pub fn command(
    cluster: &ClusterName,
    state: Option<ClusterState>,
    command: &Command,
    carried_by: &[PolicyKey],
    now: Timestamp,
) -> Result<ClusterState, Refusal> {
    let mode = state.as_ref().map_or(Mode::Active, |state| state.mode);
    let percent = state.as_ref().map_or(100, |state| state.percent);
    let wrong = |problem: &'static str, remedy: String| {
        Err(Refusal::WrongMode { cluster: cluster.clone(), mode, problem, remedy })
    };
    let made = |mode: Mode, percent: u32, deregister: bool| ClusterState {
        cluster: cluster.clone(),
        version: state.as_ref().map_or(0, |state| state.version),
        mode,
        percent,
        deregister,
        operation: operation(command, state.as_ref(), now),
    };
    match (command.kind, mode) {
        (Kind::Cordon, Mode::Active | Mode::Returning) => {
            Ok(ended(made(Mode::Cordoned, percent, false), now, "no policy gives it new weight"))
        }
        (Kind::Cordon, Mode::Cordoned) => Ok(state.clone().unwrap_or_else(|| made(Mode::Cordoned, 100, false))),
        (Kind::Cordon, Mode::Draining | Mode::Drained) => wrong(
            "that is more than a cordon",
            format!("nothing is to be done; yardctl uncordon {cluster} brings it back"),
        ),
        (Kind::Drain, Mode::Active | Mode::Cordoned | Mode::Returning | Mode::Draining) => {
            Ok(made(Mode::Draining, percent, true))
        }
        (Kind::Drain, Mode::Drained) => match &state {
            Some(state) if state.deregister => Ok(state.clone()),
            _ => Ok(made(Mode::Draining, percent, true)),
        },
        (Kind::Drill, Mode::Active) => Ok(made(Mode::Drained, 0, false)),
        (Kind::Drill, Mode::Cordoned | Mode::Draining | Mode::Drained | Mode::Returning) => wrong(
            "a game day begins with an active cluster",
            format!("wait, or bring it back first: yardctl uncordon {cluster}"),
        ),
        (Kind::Uncordon, Mode::Active) => match &state {
            Some(state) => Ok(state.clone()),
            None => Ok(ended(made(Mode::Active, 100, false), now, "it was active")),
        },
        // Cordoned on its way back: it goes on from there.
        (Kind::Uncordon, Mode::Cordoned) if percent < 100 => Ok(made(Mode::Returning, percent, false)),
        (Kind::Uncordon, Mode::Cordoned) => {
            Ok(ended(made(Mode::Active, 100, false), now, "it takes part in everything again"))
        }
        (Kind::Uncordon, Mode::Draining | Mode::Drained | Mode::Removed) => Ok(made(Mode::Returning, percent, false)),
        (Kind::Uncordon, Mode::Returning) => Ok(state.clone().unwrap_or_else(|| made(Mode::Returning, percent, false))),
        (Kind::Remove, Mode::Removed) => Ok(state.clone().unwrap_or_else(|| made(Mode::Removed, 0, true))),
        (Kind::Remove, _) if !carried_by.is_empty() => {
            Err(Refusal::StillCarries { cluster: cluster.clone(), policies: carried_by.to_vec() })
        }
        (Kind::Remove, _) => Ok(made(Mode::Removed, 0, true)),
        (Kind::Cordon | Kind::Drain | Kind::Drill, Mode::Removed) => {
            wrong("it takes part in nothing", format!("yardctl uncordon {cluster} takes it back"))
        }
    }
}

fn operation(command: &Command, last: Option<&ClusterState>, now: Timestamp) -> Operation {
    // The way back goes in the steps of the way there.
    let (step_percent, step_seconds) = match (command.kind, last) {
        (Kind::Uncordon | Kind::Cordon, Some(last)) => (last.operation.step_percent, last.operation.step_seconds),
        (Kind::Drain, _) => (command.step_percent, command.step_seconds),
        _ => (100, 0),
    };
    let seconds = SignedDuration::from_secs(command.duration_seconds.into());
    // A drain that is asked for again goes on: the step that was made has to be in force, and its time to be over.
    let again = last.filter(|last| command.kind == Kind::Drain && last.mode == Mode::Draining);
    let until = (command.kind == Kind::Drill).then(|| now.saturating_add(seconds).unwrap_or(Timestamp::MAX));
    Operation {
        id: command.id.clone(),
        kind: command.kind,
        actor: command.actor.clone(),
        reason: command.reason.clone(),
        started_at: now,
        until,
        ended_at: None,
        step_percent: step_percent.clamp(1, 100),
        step_seconds,
        stepped_at: again.and_then(|last| last.operation.stepped_at),
        force: command.force,
        why: Why::Requested,
        message: "it was asked for".to_owned(),
        progress: Vec::new(),
    }
}

fn ended(mut state: ClusterState, now: Timestamp, message: &str) -> ClusterState {
    state.operation.ended_at = Some(now);
    state.operation.why = Why::Done;
    message.clone_into(&mut state.operation.message);
    state
}

/// One policy as an operation on a cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFacts {
    /// The weights were read back as decided, and have been in force for the settle time; none: not known now.
    pub in_force: Option<bool>,
    /// What is decided for the cluster.
    pub effective: Weight,
    /// As read back.
    pub programmed: Option<Weight>,
    /// Targets registered in the cluster's group.
    pub targets: u32,
    /// Ready endpoints, which should be registered.
    pub wanted: u32,
    /// The change of weights waits as a whole, or the others cannot take what the cluster is to give.
    pub held: bool,
    /// Why it is not in force, or why the cluster keeps a share.
    pub trouble: Option<(Reason, String)>,
}

impl PolicyFacts {
    /// Of one policy that names the cluster, from the status that was made with the present modes; none: it does not name it, or
    /// it is on its way out.
    pub fn new(
        cluster: &ClusterName,
        record: &PolicyRecord,
        status: &PolicyStatus,
        settle: Duration,
        now: Timestamp,
    ) -> Option<Self> {
        if record.deleting_since.is_some() {
            return None;
        }
        let of_cluster = status.clusters.iter().find(|of| of.cluster == *cluster)?;
        let known = status.observed_version == record.version
            && status.condition(ConditionType::Programmed).is_some_and(|condition| condition.status.is_some());
        let as_decided = |of: &ClusterStatus| of.programmed.unwrap_or(Weight::ZERO) == of.effective;
        let settled = match status.rule.as_ref().and_then(|rule| rule.programmed_since) {
            Some(since) => now.duration_since(since).unsigned_abs() >= settle && since <= now,
            // Without a rule nobody sends anything.
            None => true,
        };
        let in_force = known.then(|| status.clusters.iter().all(as_decided) && settled);
        let (effective, programmed) = (of_cluster.effective, of_cluster.programmed);
        let trouble = trouble(of_cluster, status);
        let targets = of_cluster.targets;
        let (targets, wanted, held) = (targets.registered, targets.desired, is_held(status));
        Some(Self { in_force, effective, programmed, targets, wanted, held, trouble })
    }
}

fn is_held(status: &PolicyStatus) -> bool {
    let waits =
        |of: &ClusterStatus| matches!(of.reason, Reason::NoHealthyTarget | Reason::NoTargets | Reason::WeightsHeld);
    let cannot = |note: &Note| matches!(note.reason, Reason::BrownOut | Reason::Panic);
    status.clusters.iter().any(waits) || status.notes.iter().any(cannot)
}

fn trouble(of_cluster: &ClusterStatus, status: &PolicyStatus) -> Option<(Reason, String)> {
    if of_cluster.reason != Reason::AsRequested && of_cluster.reason != Reason::Draining {
        return Some((of_cluster.reason, of_cluster.message.clone()));
    }
    let telling = [Reason::Frozen, Reason::ObserveOnly, Reason::BrownOut, Reason::Panic, Reason::InvariantViolated];
    let note = status.notes.iter().find(|note| telling.contains(&note.reason));
    let note = note.map(|note| (note.reason, note.message.clone()));
    note.or_else(|| {
        let condition =
            status.condition(ConditionType::Programmed).filter(|condition| condition.status != Some(true))?;
        Some((condition.reason, condition.message.clone()))
    })
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As it is from now on; equal to the one before: nothing is to be stored.
    pub state: ClusterState,
    /// When to look again although nothing else changed.
    pub again_at: Option<Timestamp>,
}

/// Looks at the policies that name the cluster.
pub fn observe(mut state: ClusterState, policies: &BTreeMap<PolicyKey, PolicyFacts>, now: Timestamp) -> Outcome {
    if !state.is_moving() {
        return Outcome { state, again_at: None };
    }
    if let Some(until) = state.operation.until.filter(|_| state.mode == Mode::Drained) {
        if until > now {
            progress(&mut state, policies);
            say(&mut state, Why::DrillRunning, format!("the game day ends by itself at {until:.0}"));
            return Outcome { state, again_at: Some(until) };
        }
        // Not an operation of its own: the game day is over when everything is as before.
        state.mode = Mode::Returning;
        state.operation.until = None;
        state.operation.stepped_at = None;
        say(&mut state, Why::InProgress, "the time of the game day is over, the cluster returns".to_owned());
    }
    progress(&mut state, policies);
    let waiting = state.operation.progress.iter().filter(|one| !one.done).count();
    let first = state.operation.stepped_at.is_none() && state.mode != Mode::Removed;
    if waiting > 0 && !first {
        wait(&mut state, waiting);
        return Outcome { state, again_at: None };
    }
    let interval = SignedDuration::from_secs(state.operation.step_seconds.into());
    let next = state.operation.stepped_at.and_then(|at| at.checked_add(interval).ok());
    let arrived = match state.mode {
        Mode::Draining | Mode::Removed => state.percent == 0,
        Mode::Active | Mode::Cordoned | Mode::Drained | Mode::Returning => state.percent >= 100,
    };
    if arrived && !first {
        return Outcome { state: arrive(state, now), again_at: None };
    }
    if let Some(at) = next.filter(|at| *at > now) {
        let message = format!("at {} %, the next step is due at {at:.0}", state.percent);
        say(&mut state, Why::WaitingForInterval, message);
        return Outcome { state, again_at: Some(at) };
    }
    make_step(&mut state, now);
    Outcome { state, again_at: None }
}

fn arrive(mut state: ClusterState, now: Timestamp) -> ClusterState {
    let (mode, message) = match state.mode {
        Mode::Draining => {
            (Mode::Drained, "it gets no requests and has no targets in any policy that another cluster carries")
        }
        Mode::Removed => (Mode::Removed, "nothing of it is left at the load balancers"),
        Mode::Active | Mode::Cordoned | Mode::Drained | Mode::Returning => {
            (Mode::Active, "it takes part in everything again")
        }
    };
    state.mode = mode;
    ended(state, now, message)
}

fn make_step(state: &mut ClusterState, now: Timestamp) {
    let step = state.operation.step_percent;
    state.percent = match state.mode {
        Mode::Draining | Mode::Removed => state.percent.saturating_sub(step),
        Mode::Active | Mode::Cordoned | Mode::Drained | Mode::Returning => (state.percent + step).min(100),
    };
    state.operation.stepped_at = Some(now);
    let message = format!("at most {} % of its share is left to it; this is being programmed", state.percent);
    say(state, Why::InProgress, message);
}

fn say(state: &mut ClusterState, why: Why, message: String) {
    state.operation.why = why;
    state.operation.message = message;
}

fn progress(state: &mut ClusterState, policies: &BTreeMap<PolicyKey, PolicyFacts>) {
    let empties = state.percent == 0 && state.mode != Mode::Returning;
    let one = |(policy, facts): (&PolicyKey, &PolicyFacts)| {
        let carries = facts.effective.carries() || facts.programmed.is_some_and(Weight::carries);
        let keeps = empties && carries;
        let left = empties && state.deregister && facts.targets > 0;
        // One that has pods and none of them healthy is waited for: else it would get its whole share in one step afterwards.
        let not_yet = matches!(facts.trouble, Some((Reason::NoHealthyTarget, _))) && facts.wanted > 0;
        // So is one whose health is not trusted yet.
        let not_trusted = matches!(facts.trouble, Some((Reason::FailedOver, _))) && !facts.effective.carries();
        let late = state.mode == Mode::Returning && (not_yet || (not_trusted && facts.wanted > 0));
        // What is held did not follow this step, although what is in force is what was decided.
        let held = facts.held && facts.effective.carries() && state.percent > 0 && state.mode == Mode::Draining;
        let done = facts.in_force == Some(true) && !keeps && !left && !late && !held;
        let (reason, message) = match (done, facts.in_force, &facts.trouble) {
            (true, ..) => (Reason::AsRequested, String::new()),
            (false, _, Some((reason, message))) => (*reason, message.clone()),
            (false, None, None) => (Reason::InProgress, "what AWS has is being read".to_owned()),
            (false, Some(_), None) if keeps => {
                (Reason::BrownOut, "no other cluster carries its requests, so it keeps them".to_owned())
            }
            (false, Some(_), None) if left => (Reason::InProgress, format!("{} targets are left", facts.targets)),
            (false, Some(_), None) => (Reason::Settling, "the weights are being programmed, or settle".to_owned()),
        };
        Progress { policy: policy.clone(), done, programmed: facts.programmed, targets: facts.targets, reason, message }
    };
    state.operation.progress = policies.iter().take(MOST_PROGRESS).map(one).collect();
}

/// Reasons that pass by themselves; any other wants somebody to look.
fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InProgress
            | Reason::Settling
            | Reason::AsRequested
            | Reason::Draining
            | Reason::Returning
            | Reason::FailedOver
            | Reason::WaitingToRemove
            | Reason::OutcomeUnknown
            | Reason::Throttled
            | Reason::NotObservedYet
    )
}

fn wait(state: &mut ClusterState, waiting: usize) {
    let all = state.operation.progress.len();
    let blocked = state.operation.progress.iter().find(|one| !one.done && !passes(one.reason));
    if let Some(first) = blocked {
        let message = format!("{waiting} of {all} policies are not there yet; {}: {}", first.policy, first.message);
        return say(state, Why::Blocked, message);
    }
    let drained = |one: &Progress| one.done || !one.programmed.is_some_and(Weight::carries);
    let no_share = state.percent == 0 && state.deregister && state.operation.progress.iter().all(drained);
    let (why, what) = if no_share {
        (Why::Deregistering, "the share is gone, targets are being deregistered".to_owned())
    } else {
        (Why::InProgress, format!("at {} %", state.percent))
    };
    let message = format!("{what}; {waiting} of {all} policies are not there yet");
    say(state, why, message);
}
