//! RollbackShift: of a running shift an abort, of one that succeeded a new shift to the weights from before. Which of the two is
//! found out before the write, so a repeated request is answered from its first answer before anything is looked up. Tests:
//! `hub/tests/grpc_shifts_follow.rs`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use switchyard_core::{
    access::{Role, Touch},
    ids::{Namespace, PolicyKey, ShiftId},
    shift::{
        Guard, Move, Origin, Shift, ShiftSpec, State, by_cluster,
        machine::{By, Command, Refusal, command},
        spec::PolicyTarget,
        validate::{ShiftPlan, validate},
    },
};
use switchyard_proto::api::v1 as proto;

use super::{
    Shifts,
    preview::{self, Preview},
    shift_id,
    show::to_proto_shift,
    spec,
};
use crate::{
    feed::Picture,
    grpc::{errors::ApiError, planning::Lane, required},
    store::{Caller, ShiftError},
};

/// For so long after its end a shift is taken back without waiting for the rules that slow a way forward down: a day, so that
/// whoever finds the fault in the morning has the quick way still. Later the recorded weights are as old as any other plan.
const ROLLBACK_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

impl Shifts {
    pub(super) async fn rollback(
        &self,
        caller: Caller,
        request: proto::RollbackShiftRequest,
    ) -> Result<proto::RollbackShiftResponse, ApiError> {
        let overrides = spec::from_proto_overrides("overrides", &request.overrides).map_err(ApiError::Invalid)?;
        let target = rollback_target(&request)?;
        let caller = &caller;
        self.may_roll_back(caller, &target, &overrides).await?;
        let wanted = Wanted { target, overrides, reason: request.reason };
        if request.dry_run {
            return self.rollback_dry_run(caller, wanted).await;
        }
        // The first call may have made a shift that is now the policy's running one: a repetition must not take that back.
        let answered = match self.answered(caller, &wanted.target).await? {
            Some(first) => first,
            None => self.rollback_anew(caller, wanted).await?,
        };
        Ok(proto::RollbackShiftResponse { shift: Some(answered), ..Default::default() })
    }

    /// By what is named, before it is told whether there is such a thing; what it leads to is looked at when that is known.
    async fn may_roll_back(
        &self,
        caller: &Caller,
        target: &RollbackTarget,
        overrides: &[Guard],
    ) -> Result<(), ApiError> {
        let namespaces: BTreeSet<Namespace> = match target {
            RollbackTarget::Policy(key) => [key.namespace.clone()].into(),
            RollbackTarget::Shift(id) => {
                let (shift, _) = self.find(id).await?;
                caller.may_command(&shift)?;
                shift.moves.iter().map(|one| one.policy.namespace.clone()).collect()
            }
        };
        for namespace in &namespaces {
            let touch = Touch::Policy(namespace);
            caller.may(Role::Operator, &touch, format_args!("roll back shifts of namespace {namespace}"))?;
            caller.may_cross(Role::Operator, &touch, overrides)?;
        }
        Ok(())
    }

    async fn rollback_anew(&self, caller: &Caller, wanted: Wanted) -> Result<proto::Shift, ApiError> {
        let target = wanted.target.clone();
        match self.take_back(caller, wanted).await {
            // An equal request may have been at it at the same time: what it made is the answer to this one too.
            Err(reused @ ApiError::Shift(ShiftError::RequestReused { .. })) => {
                self.answered(caller, &target).await?.ok_or(reused)
            }
            other => other,
        }
    }

    async fn take_back(&self, caller: &Caller, wanted: Wanted) -> Result<proto::Shift, ApiError> {
        let mut shift = self.rollback_of(&wanted.target).await?;
        caller.may_command(&shift)?;
        if shift.is_active() {
            match self.tell(caller, &shift.id, &Command::Abort).await {
                // It came to its end between the look and the command.
                Err(ApiError::Shift(ShiftError::Refused { refusal: Refusal::Ended(_), .. })) => {
                    let ended = self.parts.store.shift_get(&shift.id).await?;
                    shift = Arc::new(ended.ok_or_else(|| ApiError::NoShift(shift.id.clone()))?);
                }
                told => return told,
            }
        }
        let is_last = self.is_last(&shift).await?;
        let (plan, origin) =
            back(&shift, is_last, &*self.picture()?, wanted.overrides, &wanted.reason, Timestamp::now())?;
        self.store_new(&plan, &origin, caller).await
    }

    async fn rollback_dry_run(
        &self,
        caller: &Caller,
        wanted: Wanted,
    ) -> Result<proto::RollbackShiftResponse, ApiError> {
        let shift = self.rollback_of(&wanted.target).await?;
        caller.may_command(&shift)?;
        let (shift, Preview { findings, plans, notes }) = if shift.is_active() {
            self.abort_dry_run(caller, &shift).await?
        } else {
            let (picture, now) = (self.picture()?, Timestamp::now());
            let is_last = self.is_last(&shift).await?;
            let (plan, origin) = back(&shift, is_last, &picture, wanted.overrides, &wanted.reason, now)?;
            self.dry_run(&plan, origin, caller).await?
        };
        Ok(proto::RollbackShiftResponse { shift: Some(shift), findings, plans, notes })
    }

    /// The first answer to this request id, as it was; refused when that was to something else.
    async fn answered(&self, caller: &Caller, target: &RollbackTarget) -> Result<Option<proto::Shift>, ApiError> {
        let Some(first) = self.parts.store.shift_answered(caller).await? else { return Ok(None) };
        self.must_answer(&first, target, caller).await?;
        caller.may_command(&first)?;
        self.written(&first).await.map(Some)
    }

    /// Refuses a request id whose first answer was to something else.
    async fn must_answer(&self, first: &Shift, target: &RollbackTarget, caller: &Caller) -> Result<(), ApiError> {
        let fits = match target {
            RollbackTarget::Policy(key) => first.moves.iter().any(|one| one.policy == *key),
            RollbackTarget::Shift(id) if first.id == *id => true,
            RollbackTarget::Shift(id) => match &first.origin {
                Origin::Rollback { of } => of == id,
                Origin::Resource { .. } => false,
                Origin::Call => undoes(first, &self.find(id).await?.0),
            },
        };
        if fits {
            return Ok(());
        }
        let (request_id, method) = (caller.request_id.clone(), "RollbackShift".to_owned());
        Err(ShiftError::RequestReused { request_id, method }.into())
    }

    /// The shift that is to be taken back.
    async fn rollback_of(&self, target: &RollbackTarget) -> Result<Arc<Shift>, ApiError> {
        let key = match target {
            RollbackTarget::Shift(id) => return Ok(self.find(id).await?.0),
            RollbackTarget::Policy(key) => key,
        };
        let picture = self.picture()?;
        let stored = picture.policies.get(key).ok_or_else(|| ApiError::NotFound(key.clone()))?;
        if let Some(active) = preview::active_on(&picture, key) {
            return Ok(Arc::clone(active));
        }
        let last = self.parts.store.shift_last_succeeded(&stored.record.uid).await?;
        let last = last.ok_or_else(|| ApiError::NothingToRollBack(key.clone()))?;
        // Two people who both take a bad version back must not bring it up again.
        if let Origin::Rollback { of } = &last.origin {
            let (policy, last, of) = (key.clone(), last.id.clone(), of.clone());
            return Err(ApiError::RolledBackAlready { policy, last, of });
        }
        Ok(Arc::new(last))
    }

    /// True when no other shift has moved one of its policies since: only then its recorded weights are those from before.
    async fn is_last(&self, shift: &Shift) -> Result<bool, ApiError> {
        for one in &shift.moves {
            let last = self.parts.store.shift_last_succeeded(&one.uid).await?;
            if last.is_some_and(|last| last.id != shift.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn abort_dry_run(&self, caller: &Caller, shift: &Shift) -> Result<(proto::Shift, Preview), ApiError> {
        let (picture, now) = (self.picture()?, Timestamp::now());
        let by = By { actor: &caller.actor, reason: &caller.reason };
        let (shift, writes) = command(shift.clone(), &Command::Abort, by, now)
            .map_err(|refusal| ShiftError::Refused { shift: shift.id.clone(), refusal })?;
        let (planning, observed) = (self.parts.planning.clone(), self.parts.planning.observed()?);
        let look = move || {
            let preview = preview::look_back(&writes, &picture, &observed, planning.sheet(&picture), now);
            (to_proto_shift(&shift, &picture), preview)
        };
        self.parts.planning.off_thread(Lane::Readers, &caller.actor, look).await
    }
}

/// What a caller wants to be taken back, and how.
struct Wanted {
    target: RollbackTarget,
    overrides: Vec<Guard>,
    reason: String,
}

/// What a rollback names.
#[derive(Clone)]
enum RollbackTarget {
    Shift(ShiftId),
    Policy(PolicyKey),
}

fn rollback_target(request: &proto::RollbackShiftRequest) -> Result<RollbackTarget, ApiError> {
    match (&request.policy, request.id.is_empty()) {
        (None, false) => Ok(RollbackTarget::Shift(shift_id(&request.id)?)),
        (Some(policy), true) => Ok(RollbackTarget::Policy(required(Some(policy))?)),
        (Some(_), false) => Err(ApiError::violation("id, policy", &request.id, "are both given", "give exactly one")),
        (None, true) => {
            let remedy = "give exactly one of id and policy";
            Err(ApiError::violation("id, policy", "", "are both missing", remedy))
        }
    }
}

/// The shift back to the weights from before this one, and who asks for it: within [`ROLLBACK_WINDOW`] a rollback, which core lets
/// pass the rules that slow down; later a call like any other.
///
/// # Errors
/// [`ApiError`] when it did not succeed, or policies of it are gone.
fn back(
    shift: &Shift,
    is_last: bool,
    picture: &Picture,
    overrides: Vec<Guard>,
    reason: &str,
    now: Timestamp,
) -> Result<(ShiftPlan, Origin), ApiError> {
    if shift.state != State::Succeeded {
        return Err(ApiError::NotRolledBack { shift: shift.id.clone(), state: shift.state });
    }
    // What is gone cannot be taken back, and must not keep the others from it.
    let stands = |one: &&Move| picture.policies.get(&one.policy).is_some_and(|stored| stored.record.uid == one.uid);
    let standing: Vec<&Move> = shift.moves.iter().filter(stands).collect();
    if standing.is_empty() {
        let policies = shift.moves.iter().map(|one| one.policy.clone()).collect();
        return Err(ApiError::PoliciesGone { shift: shift.id.clone(), policies });
    }
    let spec = ShiftSpec {
        policies: standing.into_iter().map(target).collect(),
        overrides,
        reason: reason.to_owned(),
        progress_deadline_seconds: shift.progress_deadline_seconds,
        ..ShiftSpec::default()
    };
    // Every policy names its namespace, so this one is never taken.
    let namespace = shift.moves.first().map(|one| one.policy.namespace.clone());
    let namespace: Namespace = namespace.ok_or(ApiError::Internal)?;
    let mut plan = validate(&spec, &namespace, false).map_err(ApiError::Invalid)?;
    // Another policy of the name may come between this look and the write.
    for target in &mut plan.targets {
        let one = shift.moves.iter().find(|one| one.policy == target.policy);
        target.uid = one.map(|one| one.uid.clone());
    }
    // Taking a way back back is a way forward, which waits for every rule.
    let is_forward = matches!(shift.origin, Origin::Rollback { .. });
    let origin = if is_last && in_window(shift, now) && !is_forward {
        Origin::Rollback { of: shift.id.clone() }
    } else {
        Origin::Call
    };
    Ok((plan, origin))
}

/// True when this shift goes to where the other one came from.
fn undoes(back: &Shift, shift: &Shift) -> bool {
    let same = |back: &Move, one: &Move| back.uid == one.uid && by_cluster(&back.to) == by_cluster(&one.from);
    // Policies that are gone by then are not taken back.
    back.moves.iter().all(|back| shift.moves.iter().any(|one| same(back, one)))
}

fn in_window(shift: &Shift, now: Timestamp) -> bool {
    let end = shift.ended_at.and_then(|ended| ended.saturating_add(ROLLBACK_WINDOW).ok());
    end.is_some_and(|end| now < end)
}

/// Clusters that had no weight are not named: they may have left the policy since.
fn target(one: &Move) -> PolicyTarget {
    let carrying = one.from.iter().filter(|(_, weight)| weight.carries());
    PolicyTarget {
        namespace: one.policy.namespace.to_string(),
        name: one.policy.name.to_string(),
        weights: carrying.map(|(name, weight)| (name.to_string(), weight.get())).collect(),
        ..PolicyTarget::default()
    }
}
