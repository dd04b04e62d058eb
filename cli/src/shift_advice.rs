//! What to tell people about a shift beside its state: what helps when a wait for it ended early, when it ended otherwise, and when
//! taking it back is not what it looks like. Pure: no clock, no IO.

use std::collections::BTreeMap;

use crate::{
    model::{PolicyRef, Shift, State, shift::Weights},
    shift_lines::pairs,
};

/// The rule's name in the hub's sentence about a policy that it does not touch.
const FREEZE: &str = "spec.safety.freeze";

/// What to do when the time for a wait is up, or somebody ended it: the shift goes on without it.
pub fn unfinished(id: &str, last: Option<&Shift>) -> String {
    let follow = format!("follow it with `yardctl watch {id}`");
    let back = format!("take it back with `yardctl abort {id}`");
    match last {
        Some(shift) if shift.status.state == State::Aborting && frozen(shift) => {
            format!("{UNFREEZE}, and the shift goes on with its way back by itself; {follow}")
        }
        Some(shift) if shift.status.state == State::Aborting => {
            format!(
                "the shift is on its way back, and the hub goes on with that by itself: see what holds it up with {}, {follow}",
                status_page(shift)
            )
        }
        Some(shift) if shift.status.paused.is_some() => {
            format!("the shift is paused: let it go on with `yardctl resume {id}`, or {back}")
        }
        Some(shift) if shift.status.state == State::AwaitingApproval => {
            let step = shift.status.step;
            format!("the shift waits for approval: let it go on with `yardctl approve {id} --step {step}`, or {back}")
        }
        // The weights are in force: to take them back because nobody counts requests would be the wrong way out.
        Some(shift) if shift.status.reason == "EvidencePending" => format!(
            "the weights are in force and only the evidence is waited for: {follow}, or end it without evidence with `yardctl \
             promote {id}`"
        ),
        Some(shift) if shift.status.reason == "NoData" => format!(
            "the shift waits for data: see that the gate's source has some, {follow}, go on without its gates with `yardctl \
             promote {id}`, or {back}"
        ),
        _ => format!("the shift goes on by itself: {follow}, {back}"),
    }
}

const UNFREEZE: &str = "nothing moves while spec.safety.freeze is set, not back either: apply the policy without it";

/// What to do after a shift that ended otherwise.
pub fn ended(shift: &Shift) -> String {
    let look = format!("see what happened with `yardctl get shift {}`", shift.id);
    match (shift.status.state, shift.status.reason.as_str()) {
        (_, "RestorePending") if frozen(shift) => format!("{}; {UNFREEZE}; {look}", in_force(shift)),
        (_, "RestorePending") => format!("{}: look with {}; {look}", in_force(shift), status_page(shift)),
        (State::Failed, "PreflightFailed") => {
            format!("nothing was moved: deal with what stands in the way and start a new shift; {look}")
        }
        (State::Superseded, _) => {
            format!("{}: find out who changed it with `yardctl audit`; {look}", in_force(shift))
        }
        (State::Failed | State::Aborted, _) => format!("{}; {look}", in_force(shift)),
        _ => look,
    }
}

/// Said of an abort that came after the shift had turned back or failed by itself; nothing for one that succeeded or goes on.
pub fn back_already(shift: &Shift) -> Option<String> {
    let status = &shift.status;
    let over = matches!(status.state, State::Aborted | State::Failed | State::Superseded);
    over.then(|| {
        format!(
            "shift {} has ended already, {} ({}), and there is nothing left to take back: {}",
            shift.id,
            status.state,
            status.reason,
            in_force(shift)
        )
    })
}

/// Which weights there are after a shift that did not succeed.
fn in_force(shift: &Shift) -> &'static str {
    match (shift.status.state, shift.status.reason.as_str()) {
        (_, "RestorePending") => "the weights from before are asked for and were not read back yet",
        (State::Failed, "PreflightFailed") => "nothing was moved",
        (State::Superseded, _) => "the policy's spec decides about the weights now",
        _ => "the weights are those from before the shift",
    }
}

fn frozen(shift: &Shift) -> bool {
    shift.status.message.contains(FREEZE)
}

fn status_page(shift: &Shift) -> String {
    match &shift.status.moves[..] {
        [one] => format!("`yardctl status {}`", one.policy),
        _ => "`yardctl status` of its policies".into(),
    }
}

/// Whether a rollback that named a policy was answered with the running shift, on its way back, and not with a new one.
pub fn turned_back(answered: &Shift) -> bool {
    let status = &answered.status;
    let asked = status.history.iter().any(|event| event.reason == "AbortRequested");
    // A gate may have turned it back just before. One that takes another back is new, unless somebody asked for its abort.
    let by_itself = status.state == State::Aborting && answered.rollback_of.is_empty();
    status.state.is_back() && (asked || by_itself)
}

/// What a rollback is not, although it looks like it: said before anybody relies on it.
pub fn of_rollback(back: &Shift, of: &Shift) -> Vec<String> {
    let mut said = Vec::new();
    if back.id == of.id {
        if !of.rollback_of.is_empty() {
            let to = weights_of(of, |one| &one.from);
            said.push(format!(
                "shift {}, which goes back now, was itself taking back shift {}: this way leads forward again, to {to}",
                of.id, of.rollback_of
            ));
        }
        return said;
    }
    let to = weights_of(back, |one| &one.to);
    if !of.rollback_of.is_empty() {
        said.push(format!(
            "shift {}, which is taken back now, was itself taking back shift {}: this way leads forward again, to {to}",
            of.id, of.rollback_of
        ));
    }
    let still = |shift: &Shift| shift.status.moves.iter().all(|one| carrying(&one.from) == carrying(&one.to));
    if still(of) {
        said.push(format!(
            "nothing is taken back: shift {} moved nothing itself; find the one that did with `yardctl history`, and name it",
            of.id
        ));
    } else if still(back) {
        said.push(format!(
            "nothing is left to take back: the weights from before shift {} are asked for already, {to}",
            of.id
        ));
    }
    said
}

/// How to take back by hand, of one policy or of all, what the hub cannot take back as a whole: a policy of it is gone, or its
/// spec has other clusters now.
pub fn by_hand(of: &Shift, only: Option<&PolicyRef>) -> Option<String> {
    let moves = of.status.moves.iter().filter(|one| only.is_none_or(|only| one.policy == *only));
    let flips: Vec<String> = moves
        .map(|one| {
            let weights: Vec<String> =
                carrying(&one.from).iter().map(|(cluster, weight)| format!("{cluster}={weight}")).collect();
            format!("`yardctl flip {} --weights {}`", one.policy, weights.join(","))
        })
        .collect();
    let flips = flips.join(", ");
    (!flips.is_empty()).then(|| {
        format!(
            "move by hand what is still there; the weights from before shift {} (leave out clusters that the policy has no more): \
             {flips}",
            of.id
        )
    })
}

fn weights_of(shift: &Shift, of: impl Fn(&crate::model::shift::Move) -> &Weights) -> String {
    let moves = shift.status.moves.iter().map(|one| format!("{} {}", one.policy, pairs(of(one))));
    moves.collect::<Vec<_>>().join("; ")
}

/// A cluster that is not named has weight 0.
fn carrying(weights: &Weights) -> BTreeMap<&str, u32> {
    weights.iter().filter(|(_, weight)| **weight > 0).map(|(cluster, weight)| (cluster.as_str(), *weight)).collect()
}

#[cfg(test)]
#[path = "shift_advice_tests.rs"]
mod tests;
