//! Making and commanding shifts, and reading them. Each change is one transaction that first takes the policies' lock, so that a
//! shift, the weights that it asks for and the specs of its policies are never changed at once; then it looks for the first answer
//! to the request id, asks core, writes the shift with the weights, audits, keeps the answer and notifies. So an abort is in force
//! as soon as it is answered, whichever replica took it.
//!
//! The engine's side is in [`super::shifts_save`], what policies do to their shifts in [`super::shifts_leave`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    ids::{ClusterName, Namespace, PolicyKey, PolicyUid, ResourceUid, ShiftId},
    policy::{PolicyMemory, PolicyRecord},
    shift::{
        Finding, Origin, Shift,
        machine::{By, Command, command},
        validate::{ShiftPlan, stored_findings},
        view::GatingSwitch,
    },
};
use uuid::Uuid;

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::{Request, key},
    notice::Notice,
    policy_change::{Caller, caller_faults},
    policy_rows::StoredPolicy,
    shifts_change::{action, as_written, content, create_detail, detail, resource},
    shifts_rows::{ShiftRow, read_shifts, shift_select},
    values::{Conn, from_json, unreadable},
};

pub use super::shifts_change::ShiftError;

/// Shifts of one page.
const MOST_IN_PAGE: u32 = 200;

/// Which shifts are listed; all when nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShiftFilter {
    /// Of policies in this namespace.
    pub namespace: Option<Namespace>,
    /// Of policies of this name.
    pub policy: Option<PolicyKey>,
    /// True: only those that have not ended.
    pub active: bool,
    /// Only those all of whose policies are of these namespaces; none: of whichever.
    pub seen: Option<BTreeSet<Namespace>>,
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShiftPage {
    /// Newest first; those that this version cannot read are left out.
    pub shifts: Vec<Shift>,
    /// Where the next page begins; none: this is the last.
    pub next: Option<ShiftId>,
}

impl Store {
    /// Makes a shift from the policies as they are; the engine then moves it.
    ///
    /// A [`Origin::Resource`] makes one shift, ever: asked again it gives that one, as it is now.
    ///
    /// # Errors
    /// [`ShiftError`]; nothing is stored then.
    pub async fn shift_create(&self, caller: &Caller, plan: &ShiftPlan, origin: &Origin) -> Result<Shift, ShiftError> {
        check_caller(caller)?;
        // The names of the policies as resolved: the spec may leave namespaces out.
        let keys: Vec<String> = plan.targets.iter().map(|target| target.policy.to_string()).collect();
        let request = Request::new(caller, "CreateShift", &(&plan.spec, keys, origin))?;
        let mut txn = self.begin().await?;
        let (change, now) = self.shift_change(&mut txn).await?;
        if let Some((cluster, uid)) = resource(origin)
            && let Some(memory) = self.resource_in_txn(&mut txn, cluster, uid).await?
        {
            return self.shift_of_memory(&mut txn, memory).await;
        }
        if let Some(answer) = self.first_answer::<Shift>(&mut txn, &request).await? {
            return Ok(answer);
        }
        let policies = self.policies_of_plan(&mut txn, plan).await?;
        let id = ShiftId::new(Uuid::now_v7().to_string()).map_err(|error| unreadable("a new shift's id", error))?;
        let records = policies.iter().map(|(key, stored)| (key.clone(), &stored.record)).collect();
        let shift = plan.start(id, origin.clone(), &caller.actor, &records, now)?;
        caller.may_shift(&shift)?;
        for one in &shift.moves {
            if let Some(other) = self.shift_of_policy(&mut txn, &one.uid).await? {
                return Err(ShiftError::Busy { policy: one.policy.clone(), shift: Box::new(other) });
            }
        }
        let findings = self.findings_in_txn(&mut txn, &shift, &policies, now).await?;
        if findings.iter().any(|finding| !finding.overridden) {
            return Err(ShiftError::Held { findings });
        }
        let shift = as_written(shift, by(caller), now);
        self.shift_insert(&mut txn, &shift, change).await?;
        if let Some((cluster, uid)) = resource(origin) {
            self.resource_insert(&mut txn, cluster, uid, Ok(&shift.id)).await?;
        }
        for one in &shift.moves {
            let detail = create_detail(&shift, one, &findings);
            self.audit_shift(&mut txn, caller, "shift-create", &shift, &one.policy, detail).await?;
        }
        self.keep_answer(&mut txn, &request, &shift).await?;
        self.notify(&mut txn, &Notice::Shifts).await?;
        self.commit(txn).await?;
        Ok(shift)
    }

    /// Gives a shift a caller's command. What it says about weights is in force at once. A command that changes nothing, such as
    /// a pause of a paused shift, answers the shift as it is.
    ///
    /// # Errors
    /// [`ShiftError`]; nothing is stored then.
    pub async fn shift_command(&self, caller: &Caller, id: &ShiftId, said: &Command) -> Result<Shift, ShiftError> {
        check_caller(caller)?;
        let request = Request::new(caller, "CommandShift", &(id, content(said)))?;
        let mut txn = self.begin().await?;
        let (change, now) = self.shift_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Shift>(&mut txn, &request).await? {
            return Ok(answer);
        }
        let before = self.shift_in_txn(&mut txn, id).await?.ok_or_else(|| ShiftError::NotFound(id.clone()))?;
        let (mut shift, writes) = command(before.clone(), said, by(caller), now)
            .map_err(|refusal| ShiftError::Refused { shift: id.clone(), refusal })?;
        if shift == before {
            self.keep_answer(&mut txn, &request, &shift).await?;
            self.commit(txn).await?;
            return Ok(shift);
        }
        shift.version += 1;
        let moved = self.weights_write(&mut txn, &writes, change).await?;
        self.shift_update(&mut txn, &shift, change).await?;
        for one in before.present_moves() {
            let detail = detail(&shift, &one.policy, moved.of(&one.uid));
            self.audit_shift(&mut txn, caller, action(said), &shift, &one.policy, detail).await?;
        }
        self.keep_answer(&mut txn, &request, &shift).await?;
        self.notify(&mut txn, &moved.notice()).await?;
        self.commit(txn).await?;
        Ok(shift)
    }

    /// Tells a resource's shift what the fields of the resource that may change say in this generation; an older one than was told
    /// before, or the same again, says nothing, so that what a caller said in between holds. What the shift cannot take any more
    /// (it goes back, or has ended) is left out.
    ///
    /// # Errors
    /// [`ShiftError`]; nothing is stored then.
    pub async fn shift_resource_said(
        &self,
        caller: &Caller,
        cluster: &ClusterName,
        uid: &ResourceUid,
        generation: u64,
        said: &[Command],
    ) -> Result<Shift, ShiftError> {
        check_caller(caller)?;
        let mut txn = self.begin().await?;
        let (change, now) = self.shift_change(&mut txn).await?;
        let memory = self.resource_in_txn(&mut txn, cluster, uid).await?;
        let memory = memory.ok_or_else(|| unreadable("the memory of a resource", "its shift was not made"))?;
        let mut shift = self.shift_of_memory(&mut txn, memory).await?;
        if !self.resource_told(&mut txn, cluster, uid, generation).await? {
            return Ok(shift);
        }
        let mut weights = Vec::new();
        let told: Vec<&Command> = said
            .iter()
            .filter(|said| {
                let Ok((after, writes)) = command(shift.clone(), said, by(caller), now) else { return false };
                let news = after != shift;
                shift = after;
                weights.extend(writes);
                news
            })
            .collect();
        if !told.is_empty() {
            shift.version += 1;
            let moved = self.weights_write(&mut txn, &weights, change).await?;
            self.shift_update(&mut txn, &shift, change).await?;
            for one in shift.present_moves() {
                for said in &told {
                    let detail = detail(&shift, &one.policy, moved.of(&one.uid));
                    self.audit_shift(&mut txn, caller, action(said), &shift, &one.policy, detail).await?;
                }
            }
            self.notify(&mut txn, &moved.notice()).await?;
        }
        self.commit(txn).await?;
        Ok(shift)
    }

    /// The shift that was answered to a caller's request that made or commanded one; none: the request id was not used for that.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn shift_answered(&self, caller: &Caller) -> Result<Option<Shift>, StoreError> {
        let read =
            "select response from idempotency where request_id = $1 and method in ('CreateShift', 'CommandShift')";
        let read = sqlx::query_scalar::<_, Json<Value>>(read).bind(key(&caller.actor, &caller.request_id));
        let answer = self.run(Query::IdempotencyGet, read.fetch_optional(&self.pool)).await?;
        answer.map(|answer| from_json("the first answer to a request", answer)).transpose()
    }

    /// One shift.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a newer version wrote it.
    pub async fn shift_get(&self, id: &ShiftId) -> Result<Option<Shift>, StoreError> {
        let read = sqlx::query_as::<_, ShiftRow>(shift_select!("where s.id = $1")).bind(id.as_str());
        self.run(Query::ShiftGet, read.fetch_optional(&self.pool)).await?.map(ShiftRow::read).transpose()
    }

    /// A page of shifts, newest first: those made before `after`, which is the `next` of the page before. At most 200.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn shifts_list(
        &self,
        filter: &ShiftFilter,
        after: Option<&ShiftId>,
        most: u32,
    ) -> Result<ShiftPage, StoreError> {
        let most = most.clamp(1, MOST_IN_PAGE);
        let mut list = sqlx::QueryBuilder::new(shift_select!("where true"));
        if filter.active {
            list.push(" and s.active");
        }
        if filter.namespace.is_some() || filter.policy.is_some() {
            list.push(" and exists (select 1 from shift_policies p where p.shift_id = s.id");
            if let Some(namespace) = &filter.namespace {
                list.push(" and p.namespace = ").push_bind(namespace.as_str());
            }
            if let Some(policy) = &filter.policy {
                list.push(" and p.namespace = ").push_bind(policy.namespace.as_str());
                list.push(" and p.name = ").push_bind(policy.name.as_str());
            }
            list.push(")");
        }
        if let Some(seen) = &filter.seen {
            let seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
            list.push(
                " and not exists (select 1 from shift_policies p where p.shift_id = s.id and p.namespace <> all(",
            );
            list.push_bind(seen).push("))");
        }
        if let Some(after) = after {
            list.push(" and s.number < (select number from shifts where id = ").push_bind(after.as_str()).push(")");
        }
        // One more than asked for: whether it is there tells whether a page follows.
        list.push(" order by s.number desc limit ").push_bind(i64::from(most) + 1);
        let mut rows = self.run(Query::ShiftsList, list.build_query_as::<ShiftRow>().fetch_all(&self.pool)).await?;
        let wanted = usize::try_from(most).unwrap_or(usize::MAX);
        let follows = rows.len() > wanted;
        rows.truncate(wanted);
        let next = rows.last().filter(|_| follows).map(ShiftRow::id).transpose()?;
        Ok(ShiftPage { shifts: read_shifts(rows), next })
    }

    /// The shift that moved a policy last and succeeded, whatever it came from: the one that a rollback takes back. One that went to
    /// where the weights were already does not count.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a newer version wrote it.
    pub async fn shift_last_succeeded(&self, policy: &PolicyUid) -> Result<Option<Shift>, StoreError> {
        // What has ended is not changed any more, so its change number is that of its end.
        let read = shift_select!(
            "join shift_policies p on p.shift_id = s.id where p.policy_uid = $1 and s.state = 'Succeeded' and \
             exists (select 1 from jsonb_array_elements(s.doc -> 'moves') as m \
             where m ->> 'uid' = p.policy_uid and m -> 'from' <> m -> 'to') order by s.change desc limit 1"
        );
        let read = sqlx::query_as::<_, ShiftRow>(read).bind(policy.as_str());
        self.run(Query::ShiftGet, read.fetch_optional(&self.pool)).await?.map(ShiftRow::read).transpose()
    }

    /// The policies that a plan names; those that are not there are left out.
    async fn policies_of_plan(
        &self,
        conn: &mut Conn,
        plan: &ShiftPlan,
    ) -> Result<BTreeMap<PolicyKey, StoredPolicy>, StoreError> {
        let mut policies = BTreeMap::new();
        for target in &plan.targets {
            if let Some(stored) = self.policy_in_txn(conn, &target.policy).await? {
                policies.insert(target.policy.clone(), stored);
            }
        }
        Ok(policies)
    }

    async fn findings_in_txn(
        &self,
        conn: &mut Conn,
        shift: &Shift,
        policies: &BTreeMap<PolicyKey, StoredPolicy>,
        now: Timestamp,
    ) -> Result<Vec<Finding>, StoreError> {
        let switches = self.switches_in_txn(conn).await?;
        let judged: BTreeMap<PolicyKey, (&PolicyRecord, &PolicyMemory)> =
            policies.iter().map(|(key, stored)| (key.clone(), (&stored.record, &stored.memory))).collect();
        Ok(stored_findings(shift, &judged, &switches, now))
    }

    /// The switches as core judges by them.
    pub(super) async fn switches_in_txn(&self, conn: &mut Conn) -> Result<Vec<GatingSwitch>, StoreError> {
        let stored = self.switches_read(conn).await?;
        Ok(stored.into_iter().map(|stored| stored.switch).collect())
    }

    pub(super) async fn audit_shift(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        action: &'static str,
        shift: &Shift,
        policy: &PolicyKey,
        detail: serde_json::Value,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: &caller.actor,
            action,
            policy: Some(policy),
            shift: Some(&shift.id),
            detail,
            reason: &caller.reason,
            request_id: &caller.request_id,
            source: &caller.source,
        };
        self.audit(conn, entry).await
    }
}

fn by(caller: &Caller) -> By<'_> {
    By { actor: &caller.actor, reason: &caller.reason }
}

fn check_caller(caller: &Caller) -> Result<(), ShiftError> {
    let violations = caller_faults(caller);
    if violations.is_empty() { Ok(()) } else { Err(ShiftError::Invalid { violations }) }
}
