//! One term of the lease: what is remembered of each policy between two plans, what was written and not read since, which steps of
//! a plan may be made at this moment, and what of a plan is news for the store. Nothing of an earlier term is trusted. Tests:
//! `core/tests/engine_term.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::object::Object;
use crate::{
    execute::Outcome,
    ids::{Epoch, PolicyKey, PolicyUid},
    observed::Observed,
    ownership,
    plan::{Action, RegionPlan, Settings, Step, failures},
    policy::{PolicyMemory, PolicyRecord},
    status::{ConditionType, PolicyStatus},
};

/// For this long a status that knows nothing (right after a take-over, or while a write is read back) does not replace one
/// that was known: callers would see a policy fall back that never moved. After it, not knowing is the news.
pub const UNKNOWN_IS_NO_NEWS: Duration = Duration::from_secs(15);

/// A policy as the store has it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The policy.
    pub record: &'a PolicyRecord,
    /// What the planner remembered when it was last stored.
    pub memory: &'a PolicyMemory,
    /// The status that was stored last.
    pub status: Option<&'a PolicyStatus>,
}

/// What of a policy was written and not read since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Targets of its groups only.
    Targets,
    /// Its rule or its groups.
    More,
}

/// Status and memory of one policy, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which.
    pub uid: PolicyUid,
    /// What users are told.
    pub status: PolicyStatus,
    /// What the next plan, or the next holder of the lease, begins with.
    pub memory: PolicyMemory,
}

/// What is kept for one term of the lease.
#[derive(Clone, Debug, Default)]
pub struct Term {
    epoch: Option<Epoch>,
    memories: BTreeMap<PolicyKey, (PolicyUid, PolicyMemory)>,
    saved: BTreeMap<PolicyUid, (PolicyStatus, PolicyMemory)>,
    /// The versions that were planned last.
    versions: BTreeMap<PolicyUid, u64>,
    /// What a policy's calls touched and nobody has read since.
    unread: BTreeMap<PolicyKey, Vec<Object>>,
    reported_orphans: BTreeSet<String>,
    last_now: Option<Timestamp>,
    /// The epoch that was asked for in this term.
    raised_to: Option<Epoch>,
    /// Since when the rule of a policy is not known, since the start of the process.
    unknown_since: BTreeMap<PolicyUid, Duration>,
}

impl Term {
    /// Begins under an epoch, with what the store remembers.
    pub fn begin<'a>(epoch: Epoch, policies: impl IntoIterator<Item = Stored<'a>>) -> Self {
        let mut term = Self { epoch: Some(epoch), ..Self::default() };
        for Stored { record, memory, .. } in policies {
            term.remember(&record.policy.key, &record.uid, memory.clone());
        }
        term
    }

    /// The epoch; none before the first term.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The time to plan with: that of the lease, which never goes back within a term.
    pub fn now(&mut self, of_lease: Timestamp) -> Timestamp {
        let now = self.last_now.map_or(of_lease, |last| last.max(of_lease));
        self.last_now = Some(now);
        now
    }

    fn remember(&mut self, key: &PolicyKey, uid: &PolicyUid, memory: PolicyMemory) {
        self.memories.insert(key.clone(), (uid.clone(), memory));
    }

    /// The memory of each policy for the next plan: that of this term, or the stored one of a policy that is new in it.
    pub fn memories<'a>(
        &mut self,
        policies: impl IntoIterator<Item = Stored<'a>>,
    ) -> BTreeMap<PolicyKey, PolicyMemory> {
        let policies: BTreeMap<&PolicyKey, Stored<'a>> =
            policies.into_iter().map(|stored| (&stored.record.policy.key, stored)).collect();
        for (key, Stored { record, memory, .. }) in &policies {
            let known = self.memories.get(*key).is_some_and(|(uid, _)| *uid == record.uid);
            if !known {
                self.remember(key, &record.uid, (*memory).clone());
            }
        }
        self.memories.retain(|key, _| policies.contains_key(key));
        self.try_what_is_new(policies.into_values());
        self.memories.iter().map(|(key, (_, memory))| (key.clone(), memory.clone())).collect()
    }

    /// A policy that asks for something else than in the cycle before gets its rule changed without waiting.
    fn try_what_is_new<'a>(&mut self, policies: impl Iterator<Item = Stored<'a>>) {
        let mut versions = BTreeMap::new();
        for Stored { record, .. } in policies {
            let PolicyRecord { uid, version, .. } = record;
            let asked_before = self.versions.get(uid).is_none_or(|before| before == version);
            if let Some((_, memory)) = self.memories.get_mut(&record.policy.key).filter(|_| !asked_before) {
                failures::forget_rule_changes(memory);
            }
            versions.insert(uid.clone(), *version);
        }
        self.versions = versions;
    }

    /// Keeps what a plan wants to be remembered.
    pub fn take_plan(&mut self, policies: &BTreeMap<PolicyKey, PolicyRecord>, plan: &RegionPlan) {
        for (key, policy) in &plan.policies {
            if let Some(record) = policies.get(key) {
                self.remember(key, &record.uid, policy.memory.clone());
            }
        }
    }

    /// Takes what came of a step. `outcome`: none when it was not started; `touched`: what has to be read before its policy is
    /// planned again.
    pub fn take_outcome(&mut self, step: &Step, outcome: Option<&Outcome>, touched: Vec<Object>, now: Timestamp) {
        if let (Some(outcome), Some((_, memory))) = (outcome, self.memories.get_mut(&step.policy)) {
            failures::remember(memory, step, outcome, now);
        }
        self.unread.entry(step.policy.clone()).or_default().extend(touched);
    }

    /// The policies whose calls were not read back yet. To be asked before what was observed is looked at: a read-back that lands
    /// in between must not let an older look pass for it.
    pub fn unread(&mut self, is_unread: impl Fn(&Object) -> bool) -> BTreeMap<PolicyKey, Unread> {
        self.unread.retain(|_, objects| {
            objects.retain(&is_unread);
            !objects.is_empty()
        });
        let kind = |objects: &Vec<Object>| {
            let targets = objects.iter().all(|object| matches!(object, Object::Targets(_)));
            if targets { Unread::Targets } else { Unread::More }
        };
        self.unread.iter().map(|(key, objects)| (key.clone(), kind(objects))).collect()
    }

    /// What of a plan is news for the store.
    pub fn updates<'a>(
        &mut self,
        policies: impl IntoIterator<Item = Stored<'a>>,
        plan: &RegionPlan,
        elapsed: Duration,
    ) -> Vec<Update> {
        let mut updates = Vec::new();
        for Stored { record, status, .. } in policies {
            let Some(policy) = plan.policies.get(&record.policy.key) else { continue };
            let uid = &record.uid;
            let Self { saved, unknown_since, .. } = self;
            let saved = saved.get(uid);
            let same = saved.is_some_and(|(status, memory)| *status == policy.status && *memory == policy.memory);
            let known = saved.map(|(status, _)| status).or(status);
            if !same && !is_no_news(unknown_since, uid, &policy.status, known, elapsed) {
                let (status, memory) = (policy.status.clone(), policy.memory.clone());
                updates.push(Update { uid: uid.clone(), status, memory });
            }
        }
        updates
    }

    /// Takes that updates were stored.
    pub fn stored(&mut self, updates: impl IntoIterator<Item = Update>) {
        let saved = updates.into_iter().map(|Update { uid, status, memory }| (uid, (status, memory)));
        self.saved.extend(saved);
    }

    /// Takes that a policy is not in the store any more.
    pub fn forget(&mut self, key: &PolicyKey, uid: &PolicyUid) {
        self.saved.remove(uid);
        self.memories.remove(key);
    }

    /// Those that were not reported in this term yet.
    pub fn new_orphans(&mut self, orphans: Vec<String>) -> Vec<String> {
        orphans.into_iter().filter(|orphan| self.reported_orphans.insert(orphan.clone())).collect()
    }

    /// The epoch that a restored store has to be lifted to, past the one that stands at AWS; none: there is no need. The answer is
    /// the same until [`Term::raised`] was told; then the keeper of the lease brings the new epoch, and with it a new term.
    pub fn raise_to(&self, settings: &Settings, observed: &Observed) -> Option<Epoch> {
        let tagged = observed.load_balancers.values().map(|lb| ownership::epoch_of(&lb.tags, &settings.hub_id)).max();
        let to = Epoch(tagged.unwrap_or_default().0.saturating_add(1));
        (to > settings.epoch.next() && self.raised_to != Some(to)).then_some(to)
    }

    /// Takes that the epoch was lifted.
    pub fn raised(&mut self, to: Epoch) {
        self.raised_to = Some(to);
    }
}

/// The steps that may be carried out: none of a policy whose last calls were not read back. Where only targets wait for that,
/// nothing is removed, and weights may move: what AWS said yes to is known.
pub fn steps(plan: &RegionPlan, unread: &BTreeMap<PolicyKey, Unread>) -> Vec<Step> {
    let removes =
        |step: &Step| matches!(step.action, Action::DeregisterTargets { .. } | Action::DeleteTargetGroup { .. });
    let mut steps = Vec::new();
    for (key, policy) in &plan.policies {
        match unread.get(key) {
            Some(Unread::More) => {}
            Some(Unread::Targets) => steps.extend(policy.steps.iter().filter(|step| !removes(step)).cloned()),
            None => steps.extend(policy.steps.iter().cloned()),
        }
    }
    steps
}

/// The deleted policies of which nothing is left at AWS, as far as everything was read back.
pub fn finished<'a>(
    plan: &'a RegionPlan,
    unread: &'a BTreeMap<PolicyKey, Unread>,
) -> impl Iterator<Item = &'a PolicyKey> {
    let gone = plan.policies.iter().filter(|(key, policy)| policy.gone && !unread.contains_key(*key));
    gone.map(|(key, _)| key)
}

/// True for a status that only says that the rule is not known at this moment, while a better one is at hand.
fn is_no_news(
    unknown_since: &mut BTreeMap<PolicyUid, Duration>,
    uid: &PolicyUid,
    status: &PolicyStatus,
    known: Option<&PolicyStatus>,
    elapsed: Duration,
) -> bool {
    let unknown = |status: &PolicyStatus| {
        status.condition(ConditionType::Programmed).is_none_or(|condition| condition.status.is_none())
    };
    if !unknown(status) {
        unknown_since.remove(uid);
        return false;
    }
    let since = *unknown_since.entry(uid.clone()).or_insert(elapsed);
    let better = known.is_some_and(|known| known.observed_version == status.observed_version && !unknown(known));
    better && elapsed.saturating_sub(since) < UNKNOWN_IS_NO_NEWS
}
