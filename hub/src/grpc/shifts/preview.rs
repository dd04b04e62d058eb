//! A shift that is not stored: what stands in its way, which calls each of its steps would make at AWS, what outlives it. Judged
//! by the picture and by what this replica last read from AWS. Writes nothing. Tests: `hub/tests/grpc_shifts_follow.rs`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ShiftId, Weight},
    observed::{Action, Known, Observed},
    plan,
    policy::{PolicyMemory, PolicyRecord},
    shift::{
        Finding, Move, Origin, Shift, State, WeightWrite, guard,
        machine::observe,
        validate::{ShiftPlan, rules, stored_findings},
        view::{Evidence, GatingSwitch, PolicyView, View},
        weights,
    },
    status::Note,
};
use switchyard_proto::api::v1 as proto;

use super::show::{notes_of, to_proto_finding, to_proto_flow};
use crate::{
    feed::Picture,
    grpc::{
        convert::{plan_notes, to_proto_note, to_proto_plan_steps, to_proto_ref, to_proto_time},
        errors::ApiError,
        planning::Sheet,
    },
    store::{Caller, ShiftError, StoredPolicy},
};

/// Plans of further steps are not begun after this: a shift has up to 100 of them, and each is a plan over everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a dry run tells beside the shift.
#[derive(Debug, Default)]
pub struct Preview {
    /// What stands in the way.
    pub findings: Vec<proto::GuardFinding>,
    /// The calls of each step.
    pub plans: Vec<proto::StepPlan>,
    /// What is worth knowing.
    pub notes: Vec<proto::PlanNote>,
}

/// The shift that would be stored.
///
/// # Errors
/// As the store would refuse it, but for safety rules: these are findings of a dry run.
pub fn start(
    plan: &ShiftPlan,
    origin: Origin,
    caller: &Caller,
    picture: &Picture,
    now: Timestamp,
) -> Result<Shift, ApiError> {
    let id = ShiftId::new(uuid::Uuid::now_v7().to_string()).map_err(|_| ApiError::Internal)?;
    let records = picture.policies.iter().map(|(key, stored)| (key.clone(), &stored.record)).collect();
    let shift = plan.start(id, origin, &caller.actor, &records, now).map_err(ShiftError::Start)?;
    caller.may_shift(&shift)?;
    for one in &shift.moves {
        if let Some(busy) = active_on(picture, &one.policy) {
            let shift = Box::new(Shift::clone(busy));
            return Err(ShiftError::Busy { policy: one.policy.clone(), shift }.into());
        }
    }
    Ok(shift)
}

/// The shift that moves this policy now.
pub fn active_on<'a>(picture: &'a Picture, policy: &PolicyKey) -> Option<&'a Arc<Shift>> {
    let uid = &picture.policies.get(policy)?.record.uid;
    picture.shifts.values().find(|shift| shift.is_active() && shift.present_moves().any(|one| one.uid == *uid))
}

/// Looks ahead; slow.
pub fn look(shift: &Shift, picture: &Picture, observed: &Observed, sheet: Sheet, now: Timestamp) -> Preview {
    let (findings, unknown) = findings(shift, picture, observed, now);
    let mut notes: Vec<proto::PlanNote> = notes_of(shift, picture, Some(observed)).iter().map(to_proto_flow).collect();
    notes.extend(unknown);
    let steps = shift.steps.iter().enumerate().map(|(i, step)| {
        let of_policy = |one: &Move| (one.policy.clone(), weights::at(&one.from, &one.to, step.percent));
        (i + 1, step.percent, shift.present_moves().map(of_policy).collect())
    });
    Preview {
        findings: findings.iter().map(to_proto_finding).collect(),
        plans: step_plans(steps.collect(), picture, observed, sheet, (now, PATIENCE)),
        notes,
    }
}

/// The calls of weights that would be asked for at once, as on the way back.
pub fn look_back(
    writes: &[WeightWrite],
    picture: &Picture,
    observed: &Observed,
    sheet: Sheet,
    now: Timestamp,
) -> Preview {
    let writes = writes.iter().map(|write| (write.policy.clone(), write.weights.clone())).collect();
    Preview { plans: step_plans(vec![(0, 0, writes)], picture, observed, sheet, (now, PATIENCE)), ..Preview::default() }
}

type Policies<'a> = BTreeMap<PolicyKey, (&'a PolicyRecord, &'a PolicyMemory)>;

/// What stands in the way: of its first step all that its preflight would find, of the later ones all that can be told before.
/// And a note when something that the preflight must know is not known.
fn findings(
    shift: &Shift,
    picture: &Picture,
    observed: &Observed,
    now: Timestamp,
) -> (Vec<Finding>, Option<proto::PlanNote>) {
    let switches: Vec<GatingSwitch> = picture.switches.iter().map(|stored| stored.switch.clone()).collect();
    let moved = shift.moves.iter().filter_map(|one| Some((one.policy.clone(), picture.policies.get(&one.policy)?)));
    let moved: Vec<(PolicyKey, &Arc<StoredPolicy>)> = moved.collect();
    let policies: Policies<'_> =
        moved.iter().map(|(key, stored)| (key.clone(), (&stored.record, &stored.memory))).collect();
    let views: BTreeMap<PolicyKey, PolicyView> =
        moved.iter().map(|(key, stored)| (key.clone(), view(stored, observed))).collect();
    let mut found = stored_findings(shift, &policies, &switches, now);
    let seen = observe(shift.clone(), &View { now, policies: &views, switches: &switches, measured: &[] }).shift;
    found.extend(seen.findings.iter().cloned());
    for one in shift.present_moves() {
        let (Some((record, memory)), Some(view)) = (policies.get(&one.policy), views.get(&one.policy)) else {
            continue;
        };
        let rules = rules(record, memory, &switches, &shift.overrides, now);
        let mut before = one.from.clone();
        for (i, step) in shift.steps.iter().enumerate() {
            let after = weights::at(&one.from, &one.to, step.percent);
            found.extend(guard::facts(&rules, view, i, &one.from, &before, &after));
            before = after;
        }
    }
    // A preflight that waits although nothing is in the way waits for something that is not known.
    let waits = seen.state == State::Preflight && seen.findings.is_empty();
    let unknown = waits.then(|| proto::PlanNote {
        policy: None,
        cluster: String::new(),
        reason: seen.why.to_string(),
        message: format!("the preflight would wait at this moment: {}", seen.message),
    });
    found.sort_by(|a, b| (a.step, &a.policy, a.guard, &a.message).cmp(&(b.step, &b.policy, b.guard, &b.message)));
    found.dedup_by(|a, b| (a.step, &a.policy, a.guard, &a.message) == (b.step, &b.policy, b.guard, &b.message));
    (found, unknown)
}

fn view(stored: &StoredPolicy, observed: &Observed) -> PolicyView {
    let status = stored.status.as_ref();
    PolicyView::new(&stored.record, status, &stored.memory, Some(observed), Evidence::NotConfigured)
}

type Asked = Vec<(PolicyKey, Vec<(ClusterName, Weight)>)>;

/// The calls of each step, under the assumption that the one before is in force at AWS. What a step before would have done
/// already is not told again.
fn step_plans(
    steps: Vec<(usize, u32, Asked)>,
    picture: &Picture,
    observed: &Observed,
    mut sheet: Sheet,
    (now, patience): (Timestamp, Duration),
) -> Vec<proto::StepPlan> {
    let mut observed = observed.clone();
    let (mut made, mut noted): (Vec<plan::Step>, Vec<(PolicyKey, Note)>) = (Vec::new(), Vec::new());
    let (mut plans, started) = (Vec::new(), Instant::now());
    for (step, percent, asked) in steps {
        let shown = if started.elapsed() >= patience {
            not_planned(&asked, now)
        } else {
            asked.iter().for_each(|(policy, weights)| sheet.ask(policy, weights));
            let region = sheet.plan(&picture.inventory, &observed, now);
            let (mut calls, mut notes) = (Vec::new(), Vec::new());
            for (policy, _) in &asked {
                let Some(plan) = region.policies.get(policy) else { continue };
                calls.extend(plan.steps.iter().filter(|call| !made.contains(call)).cloned());
                let of_policy = plan_notes(&plan.status).into_iter().map(|note| (policy.clone(), note));
                notes.extend(of_policy.filter(|note| !noted.contains(note)));
            }
            for (policy, weights) in &asked {
                program(&mut observed, picture, policy, weights);
            }
            let shown = proto::Plan {
                steps: to_proto_plan_steps(&calls),
                notes: notes.iter().map(|(policy, note)| to_proto_note(policy, note)).collect(),
                made_at: Some(to_proto_time(now)),
            };
            made.extend(calls);
            noted.extend(notes);
            shown
        };
        plans.push(proto::StepPlan { step: u32::try_from(step).unwrap_or(u32::MAX), percent, plan: Some(shown) });
    }
    plans
}

/// Instead of a plan, when planning takes long.
fn not_planned(asked: &Asked, now: Timestamp) -> proto::Plan {
    let note = |(policy, weights): &(PolicyKey, Vec<(ClusterName, Weight)>)| {
        let weights: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
        let message =
            format!("the step asks for {}; its calls are not shown, planning takes too long", weights.join(","));
        proto::PlanNote {
            policy: Some(to_proto_ref(policy)),
            cluster: String::new(),
            reason: "NotPlanned".to_owned(),
            message,
        }
    };
    proto::Plan { steps: Vec::new(), notes: asked.iter().map(note).collect(), made_at: Some(to_proto_time(now)) }
}

/// As if the policy's rule had been read back with these weights. What is not there yet stays away: then there is nothing that the
/// weights could stand in.
fn program(observed: &mut Observed, picture: &Picture, policy: &PolicyKey, asked: &[(ClusterName, Weight)]) {
    let Some(status) = picture.policies.get(policy).and_then(|stored| stored.status.as_ref()) else { return };
    let Some(place) = &status.rule else { return };
    let listener = observed.listeners.get_mut(&place.listener);
    let Some(Known::Known(rules)) = listener.map(|listener| &mut listener.rules) else { return };
    let rule = place.rule.as_ref().and_then(|rule| rules.get_mut(rule));
    let Some(Action::Forward { weights: in_rule, .. }) = rule.map(|rule| &mut rule.action) else { return };
    for cluster in &status.clusters {
        let Some(group) = &cluster.target_group else { continue };
        let weight = weights::weight_of(asked, &cluster.cluster);
        // A group without weight need not be in the rule.
        if weight.carries() || in_rule.contains_key(group) {
            in_rule.insert(group.clone(), weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::ids::Epoch;
    use tokio::sync::watch;

    use super::*;
    use crate::grpc::planning::Planning;

    #[test]
    fn steps_for_which_there_is_no_time_tell_their_weights_instead_of_their_calls() {
        let settings = plan::Settings {
            hub_id: "test".parse().unwrap(),
            account_id: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            settle: Duration::ZERO,
            epoch: Epoch(0),
        };
        let (_observed, observed) = watch::channel(Arc::default());
        let (_epoch, epoch) = watch::channel(None);
        let sheet = || Planning::new(observed.clone(), epoch.clone(), settings.clone()).sheet(&Picture::empty());
        let policy = PolicyKey::new("shop", "web").unwrap();
        let weight = |name: &str, weight| (name.parse().unwrap(), Weight::new(weight).unwrap());
        let steps = || vec![(1, 5, vec![(policy.clone(), vec![weight("blue", 95), weight("green", 5)])])];
        let plans = |patience| {
            let time = (Timestamp::UNIX_EPOCH, patience);
            step_plans(steps(), &Picture::empty(), &Observed::default(), sheet(), time)
        };
        let hasty = plans(Duration::ZERO).remove(0);
        let note = &hasty.plan.unwrap().notes[0];
        assert_eq!((hasty.step, hasty.percent, note.reason.as_str()), (1, 5, "NotPlanned"));
        assert!(note.message.starts_with("the step asks for blue=95,green=5;"), "{}", note.message);
        assert_eq!(plans(PATIENCE).remove(0).plan.unwrap().notes, []);
    }
}
