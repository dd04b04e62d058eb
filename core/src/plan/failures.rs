//! Steps that did not go through: what is remembered of them, and when they are tried again. Tests are at the end of the file.
//!
//! The back-off is short on purpose: one throttle or one bad target must not keep pods out of a group for minutes.

use std::time::Duration;

use jiff::Timestamp;

use super::step::{Action, MOST_TARGETS_A_CALL, Step};
use crate::{
    execute::Outcome,
    observed::Target,
    policy::{Failure, PolicyMemory},
    status::Reason,
};

/// The wait after the first refusal; it doubles with each further one.
pub const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait between two tries of a refused step.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Chunk sizes of a RegisterTargets call that AWS refuses because of one of its targets: one bad address fails a whole call.
const CHUNKS: [usize; 3] = [MOST_TARGETS_A_CALL, 20, 1];

/// How the keys of changed rules begin: as [`Action::operation`] has it.
const MODIFY_RULE: &str = "ModifyRule ";

/// What tells one step of a policy from another across plans.
pub fn step_key(action: &Action) -> String {
    let operation = action.operation();
    match action {
        Action::CreateTargetGroup(new) => creation_key(&new.name),
        Action::RegisterTargets { group, targets } if targets.len() == 1 => target_key(&group.name, targets[0].target),
        Action::ModifyTargetGroup { group, .. }
        | Action::ModifyTargetGroupAttributes { group, .. }
        | Action::RegisterTargets { group, .. }
        | Action::DeregisterTargets { group, .. }
        | Action::DeleteTargetGroup { group } => format!("{operation} {}", group.name),
        Action::TagLoadBalancer { .. } | Action::SetRulePriorities { .. } | Action::CreateRule { .. } => {
            operation.to_owned()
        }
        Action::ModifyRule { rule, .. } | Action::DeleteRule { rule, .. } => format!("{operation} {rule}"),
    }
}

/// Remembers the outcome of a step: a success forgets what went wrong before.
pub fn remember(memory: &mut PolicyMemory, step: &Step, outcome: &Outcome, now: Timestamp) {
    let key = step_key(&step.action);
    let attempts = memory.failures.get(&key).map_or(0, |failure| failure.attempts).saturating_add(1);
    let (reason, message, wait) = match outcome {
        // A batch that went through says nothing about its neighbours: the smaller chunks stay until nothing is missing.
        Outcome::Done { .. } if matches!(&step.action, Action::RegisterTargets { targets, .. } if targets.len() > 1) => {
            return;
        }
        Outcome::Done { .. } => {
            memory.failures.remove(&key);
            return;
        }
        Outcome::Refused { code, message } => {
            let reason = if is_quota(code) { Reason::QuotaExceeded } else { Reason::CallRefused };
            (reason, format!("{} was refused by AWS: {code}: {message}", step.action.operation()), true)
        }
        // The request budget is what slows the next try down, see `crate::budget`.
        Outcome::Throttled { message } => {
            (Reason::Throttled, format!("{} was throttled by AWS: {message}", step.action.operation()), false)
        }
        Outcome::Unreachable { message } => {
            (Reason::CallRefused, format!("{} did not reach AWS: {message}", step.action.operation()), true)
        }
        Outcome::Unknown { message } => {
            let text = format!("{} had no answer, its effect is being read back: {message}", step.action.operation());
            // Once is an accident; again and again (AWS answering 5xx) must not take the whole request budget.
            (Reason::OutcomeUnknown, text, attempts > 1)
        }
    };
    let not_before = if wait { now.saturating_add(wait_after(attempts)).unwrap_or(now) } else { now };
    memory.failures.insert(key, Failure { reason, message, attempts, not_before });
}

fn wait_after(attempts: u32) -> Duration {
    let factor = 2u32.saturating_pow(attempts.saturating_sub(1).min(10));
    FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
}

fn is_quota(code: &str) -> bool {
    code.starts_with("TooMany") || code == "TargetGroupAssociationLimit"
}

/// The key of a single target's registration.
pub fn target_key(group: &str, target: Target) -> String {
    format!("RegisterTargets {group} {target}")
}

/// The key of a group's registrations in batches.
pub fn batch_key(group: &str) -> String {
    format!("RegisterTargets {group}")
}

/// The key of a group's creation.
fn creation_key(group: &str) -> String {
    format!("CreateTargetGroup {group}")
}

/// True when the last try to make a group did not go through. Nothing else is made to wait for such a group: the weights of
/// the others must stay movable.
pub fn cannot_be_made(memory: &PolicyMemory, group: &str) -> bool {
    memory.failures.contains_key(&creation_key(group))
}

/// True when a step may be tried now.
pub fn may_try(memory: &PolicyMemory, action: &Action, now: Timestamp) -> bool {
    memory.failures.get(&step_key(action)).is_none_or(|failure| failure.not_before <= now)
}

/// Something else is asked for now: what became of changes of the rule before says nothing of the next one, and a way back must
/// not wait for the end of a wait that the way forward earned.
pub fn forget_rule_changes(memory: &mut PolicyMemory) {
    memory.failures.retain(|key, _| !key.starts_with(MODIFY_RULE));
}

/// How many targets a RegisterTargets call on this group may hold, given the refusals before it.
pub fn register_chunk(memory: &PolicyMemory, group: &str) -> usize {
    let refused = memory.failures.get(&batch_key(group));
    let attempts = refused.filter(|f| f.reason == Reason::CallRefused).map_or(0, |f| f.attempts);
    CHUNKS[(attempts as usize).min(CHUNKS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        arn::{ListenerArn, RuleArn},
        ids::PolicyKey,
        plan::step::{GroupRef, NewTarget},
    };

    fn register(addresses: &[&str]) -> Step {
        let target = |a: &&str| NewTarget { target: Target { id: a.parse().unwrap(), port: 80 }, zone: None };
        let group = GroupRef { name: "sy-g".into(), arn: None };
        let action = Action::RegisterTargets { group, targets: addresses.iter().map(target).collect() };
        Step { policy: PolicyKey::new("shop", "checkout").unwrap(), action, why: String::new() }
    }

    fn refused() -> Outcome {
        Outcome::Refused { code: "InvalidTarget".into(), message: "bad address".into() }
    }

    #[test]
    fn a_refused_batch_is_split_until_the_bad_target_stands_alone_and_waits() {
        let now = Timestamp::UNIX_EPOCH;
        let mut memory = PolicyMemory::default();
        let batch = register(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(register_chunk(&memory, "sy-g"), 200);
        remember(&mut memory, &batch, &refused(), now);
        assert_eq!(register_chunk(&memory, "sy-g"), 20);
        remember(&mut memory, &batch, &refused(), now);
        assert_eq!(register_chunk(&memory, "sy-g"), 1);
        remember(&mut memory, &register(&["10.0.0.2"]), &refused(), now);
        assert!(!may_try(&memory, &register(&["10.0.0.2"]).action, now));
        assert!(may_try(&memory, &register(&["10.0.0.1"]).action, now));
    }

    #[test]
    fn waits_grow_to_half_a_minute_and_a_success_forgets_them() {
        let mut memory = PolicyMemory::default();
        let step = register(&["10.0.0.1"]);
        for expected in [2, 4, 8, 16, 30, 30] {
            remember(&mut memory, &step, &refused(), Timestamp::UNIX_EPOCH);
            let failure = memory.failures.values().next().unwrap();
            assert_eq!(failure.not_before.as_second(), expected);
        }
        remember(&mut memory, &step, &Outcome::Done { created: None }, Timestamp::UNIX_EPOCH);
        assert!(memory.failures.is_empty());
    }

    #[test]
    fn other_weights_are_tried_at_once_and_other_steps_wait_on() {
        let (now, mut memory) = (Timestamp::UNIX_EPOCH, PolicyMemory::default());
        let arn = |kind: &str| format!("arn:aws:elasticloadbalancing:eu-central-1:123456789012:{kind}");
        let rule = Action::ModifyRule {
            listener: ListenerArn::new(arn("listener/app/shared/1/2")).unwrap(),
            rule: RuleArn::new(arn("listener-rule/app/shared/1/2/3")).unwrap(),
            forward: None,
            conditions: Some(Vec::new()),
        };
        let step = Step { policy: PolicyKey::new("shop", "checkout").unwrap(), action: rule, why: String::new() };
        let registration = register(&["10.0.0.1"]);
        for step in [&step, &registration] {
            remember(&mut memory, step, &refused(), now);
        }
        assert!(!may_try(&memory, &step.action, now));
        forget_rule_changes(&mut memory);
        assert!(may_try(&memory, &step.action, now));
        assert!(!may_try(&memory, &registration.action, now));
    }

    #[test]
    fn a_throttled_step_may_be_tried_at_once() {
        let mut memory = PolicyMemory::default();
        let step = register(&["10.0.0.1"]);
        remember(&mut memory, &step, &Outcome::Throttled { message: "Rate exceeded".into() }, Timestamp::UNIX_EPOCH);
        assert!(may_try(&memory, &step.action, Timestamp::UNIX_EPOCH));
    }
}
