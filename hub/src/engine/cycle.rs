//! One look at the world and what follows from it: plan, status, calls, memory. Activations carry no input: every wake-up runs
//! [`Engine::cycle`], which reads everything anew from the picture and the cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    budget::Class,
    ids::{Epoch, PolicyKey, PolicyUid},
    observed::Observed,
    ownership,
    plan::{Action, RegionPlan, Settings, Step, failures, resolve},
    policy::{PolicyMemory, PolicyRecord},
    status::{PolicyStatus, Reason},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    EngineOptions,
    cache::{Cache, Object},
    carry::{Carrier, Report},
    gates::GateTerm,
    lease::Lease,
    look::{Look, Planned},
    observer::{self, Wanted},
    shifts::{Seen, ShiftTerm},
};
use crate::{analysis::Analysis, feed::Picture, metrics::Metrics, store::Store};

/// The least time between two plans: changes that come together are planned together, and a flip is not kept waiting.
const SPACING: Duration = Duration::from_millis(100);
/// A plan is made anew at least this often.
const IDLE: Duration = Duration::from_secs(5);
/// Carrying out stops for a new plan after this time, so that status and priorities stay fresh under throttling.
const SLICE: Duration = Duration::from_secs(2);
/// The least time between two pictures of AWS for dry runs.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);
/// The pause before looking again whether a lease that ran low was renewed.
const LEASE_PAUSE: Duration = Duration::from_millis(500);
/// Groups whose health somebody waits for share this pause a group, so that they never take more than half of the smallest
/// Describe budget of AWS (10 a second), however many they are.
const FAST_HEALTH_SHARE: Duration = Duration::from_millis(200);
/// How soon the health of a group is looked at again while somebody waits for it.
const FAST_HEALTH: Duration = Duration::from_secs(1);

/// What is kept for one term of the lease.
#[derive(Default)]
pub(super) struct Term {
    pub(super) epoch: Option<Epoch>,
    pub(super) memories: BTreeMap<PolicyKey, (PolicyUid, PolicyMemory)>,
    pub(super) saved: BTreeMap<PolicyUid, (PolicyStatus, PolicyMemory)>,
    /// The versions that were planned last.
    versions: BTreeMap<PolicyUid, u64>,
    /// What a policy's calls touched and nobody has read since.
    pub(super) unread: BTreeMap<PolicyKey, Vec<Object>>,
    reported_orphans: BTreeSet<String>,
    last_now: Option<Timestamp>,
    /// The epoch that was asked for in this term.
    raised_to: Option<Epoch>,
    /// Since when the rule of a policy is not known.
    pub(super) unknown_since: BTreeMap<PolicyUid, Instant>,
    pub(super) gates: GateTerm,
    pub(super) shifts: ShiftTerm,
}

/// When the next look is due.
struct Next {
    /// At the latest.
    at: Instant,
    /// Weights were stored for shifts: the picture that shows them is planned as soon as it comes.
    at_once: bool,
}

impl From<Instant> for Next {
    fn from(at: Instant) -> Self {
        Self { at, at_once: false }
    }
}

/// The engine of one (account, region), as long as the process lives.
pub(super) struct Engine {
    pub(super) store: Store,
    pub(super) picture: watch::Receiver<Arc<Picture>>,
    pub(super) published: watch::Sender<Arc<Observed>>,
    pub(super) published_at: Option<Instant>,
    pub(super) options: EngineOptions,
    pub(super) metrics: Metrics,
    pub(super) cache: Cache,
    pub(super) wanted: Wanted,
    pub(super) carrier: Carrier,
    pub(super) analysis: Analysis,
    pub(super) lease: watch::Receiver<Option<Lease>>,
    pub(super) term: Term,
}

impl Engine {
    /// Runs until shutdown; the calls in flight are finished.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.cache.changes();
        let mut lease = self.lease.clone();
        let mut picture = self.picture.clone();
        loop {
            let next = self.cycle(&shutdown).await;
            let again = self.no_later_than_publishing(next.at);
            let spaced = Instant::now() + if next.at_once { Duration::ZERO } else { SPACING };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = picture.changed() => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = lease.changed() => {}
                ended = self.term.shifts.measuring.next() => self.measured(ended),
                () = sleep_until(again) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(spaced) => {}
            }
            picture.mark_unchanged();
            changes.mark_unchanged();
            lease.mark_unchanged();
        }
    }

    /// One look at the world and what follows from it; returns when to look again at the latest.
    async fn cycle(&mut self, shutdown: &CancellationToken) -> Next {
        let idle = Instant::now() + IDLE;
        let picture = self.picture.borrow().clone();
        let observed = self.cache.observed();
        self.publish(&observed);
        if !picture.loaded {
            return idle.into();
        }
        let records: BTreeMap<PolicyKey, PolicyRecord> =
            picture.policies.iter().map(|(key, stored)| (key.clone(), stored.record.clone())).collect();
        let Some(lease) = *self.lease.borrow() else {
            self.term = Term::default();
            return idle.into();
        };
        if !lease.allows_a_call() {
            // Not renewed, for example while the database is away: what is known stays, and nothing is written.
            return (Instant::now() + LEASE_PAUSE).into();
        }
        self.begin_term(lease.epoch, &picture).await;
        // Before what was observed is looked at: a read-back that lands in between must not let an older look pass for it.
        let unread = self.unread();
        let observed = self.cache.observed();
        let settings = self.options.settings(lease.epoch);
        self.accept_restored(&settings, &observed).await;
        self.ask(&records, &observed, &settings);
        let memories = self.memories(&picture);
        let now = self.term.now(&lease);
        let started = Instant::now();
        let look = Look { settings, records, memories, picture: picture.clone(), observed };
        let Planned { look, plan, orphans, sightings } = look.plan(now).await;
        self.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
        self.report_orphans(orphans);
        self.take_memories(&look.records, &plan);
        self.watch_health(&plan);
        self.save(lease.epoch, &picture, &plan).await;
        self.save_gates(lease.epoch, &picture, sightings).await;
        self.forget(lease.epoch, &look.records, &plan, &unread).await;
        let (records, observed) = (&look.records, &look.observed);
        let seen = Seen { picture: &picture, records, plan: &plan, observed, unread: &unread, now };
        let moved = self.move_shifts(lease.epoch, &seen).await;
        let mut steps = self.steps(&plan, &unread);
        // These lead to weights that a shift has just left: they are planned anew with the next picture.
        steps.retain(|step| !moved.written.contains(&step.policy));
        if !steps.is_empty() {
            self.carry_out(lease, steps, &picture, shutdown).await;
            return Next { at: Instant::now(), at_once: moved.stored };
        }
        let at = next_look(&plan, now, idle);
        Next { at: moved.again.map_or(at, |again| at.min(again)), at_once: moved.stored }
    }

    /// At take-over everything is taken from the store again, and nothing of an earlier term is trusted.
    async fn begin_term(&mut self, epoch: Epoch, picture: &Picture) {
        if self.term.epoch == Some(epoch) {
            return;
        }
        self.term = Term { epoch: Some(epoch), ..Term::default() };
        // What this replica read before its term may be older than the last write of another holder.
        self.cache.reset();
        for object in [Object::LoadBalancers, Object::Groups, Object::Limits] {
            self.wanted.ask(object, Instant::now(), Class::Read);
        }
        for stored in picture.policies.values() {
            self.term.remember(&stored.record.policy.key, &stored.record.uid, stored.memory.clone());
        }
        match self.store.intents_open(&self.options.scope(), epoch).await {
            Ok(intents) if intents.is_empty() => {}
            Ok(intents) => {
                // Their effect is seen in the reading that this term starts from.
                info!(count = intents.len(), %epoch, "calls of an earlier epoch have no recorded outcome; AWS is read anew");
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, %epoch, "the calls of earlier epochs could not be looked up")
            }
        }
    }

    fn memories(&mut self, picture: &Picture) -> BTreeMap<PolicyKey, PolicyMemory> {
        for (key, stored) in picture.policies.iter() {
            let known = self.term.memories.get(key).is_some_and(|(uid, _)| *uid == stored.record.uid);
            if !known {
                self.term.remember(key, &stored.record.uid, stored.memory.clone());
            }
        }
        self.term.memories.retain(|key, _| picture.policies.contains_key(key));
        self.term.try_what_is_new(picture);
        self.term.memories.iter().map(|(key, (_, memory))| (key.clone(), memory.clone())).collect()
    }

    fn take_memories(&mut self, records: &BTreeMap<PolicyKey, PolicyRecord>, plan: &RegionPlan) {
        for (key, policy) in &plan.policies {
            if let Some(record) = records.get(key) {
                self.term.remember(key, &record.uid, policy.memory.clone());
            }
        }
    }

    /// A load balancer that knows a later epoch than ours is taken over only when that was asked for at the start.
    async fn accept_restored(&mut self, settings: &Settings, observed: &Observed) {
        let tagged = observed.load_balancers.values().map(|lb| ownership::epoch_of(&lb.tags, &settings.hub_id)).max();
        let to = Epoch(tagged.unwrap_or_default().0.saturating_add(1));
        // Once in a term: the keeper of the lease brings the new epoch, and with it a new term.
        if !self.options.accept_restored_store || to <= settings.epoch.next() || self.term.raised_to == Some(to) {
            return;
        }
        match self.store.lease_raise_epoch(&self.options.scope(), self.options.holder, to).await {
            Ok(_) => {
                info!(from = %settings.epoch, %to, "the store is older than AWS and was accepted as it is");
                self.term.raised_to = Some(to);
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, %to, "the epoch could not be raised"),
        }
    }

    fn publish(&mut self, observed: &Arc<Observed>) {
        if let Some(at) = observed.audited_at {
            let age = Timestamp::now().duration_since(at).as_secs_f64();
            self.metrics.observed_age_seconds.set(age.max(0.0));
        }
        if !Arc::ptr_eq(&self.published.borrow(), observed) && self.publish_again_at() <= Instant::now() {
            self.published.send_replace(observed.clone());
            self.published_at = Some(Instant::now());
        }
    }

    /// Publishing makes the next change of the cache copy it, so it is done twice a second at most.
    fn publish_again_at(&self) -> Instant {
        self.published_at.map_or_else(Instant::now, |at| at + PUBLISH_PAUSE)
    }

    /// When to look again at the latest: earlier when what was observed last is not published yet.
    fn no_later_than_publishing(&self, again: Instant) -> Instant {
        let published = Arc::ptr_eq(&self.published.borrow(), &self.cache.observed());
        if published { again } else { again.min(self.publish_again_at()) }
    }

    fn ask(&self, records: &BTreeMap<PolicyKey, PolicyRecord>, observed: &Observed, settings: &Settings) {
        let load_balancers = resolve::load_balancers_wanted(records, observed, settings);
        let ours = observed.target_groups.iter().filter(|(_, group)| {
            matches!(ownership::owner(&group.tags, &settings.hub_id), ownership::Owner::Ours { .. })
        });
        observer::ask_for_missing(&self.wanted, &self.cache, load_balancers, ours.map(|(arn, _)| arn.clone()));
        let unknown_place = |record: &&PolicyRecord| {
            resolve::listener(&record.policy.listener, observed, settings)
                .is_err_and(|no| no.reason == Reason::ListenerNotFound)
        };
        // A load balancer or listener that was made after the last audit is found soon, not only at the next one.
        if let Some(record) = records.values().find(unknown_place) {
            let soon = Instant::now() + (self.options.audit_interval / 6).min(Duration::from_secs(10));
            self.wanted.ask(Object::LoadBalancers, soon, Class::Audit);
            for arn in resolve::load_balancers_wanted(
                &BTreeMap::from([(record.policy.key.clone(), record.clone())]),
                observed,
                settings,
            ) {
                self.wanted.ask(Object::Listeners(arn), soon, Class::Audit);
            }
        }
    }

    fn report_orphans(&mut self, orphans: Vec<String>) {
        for orphan in orphans {
            if self.term.reported_orphans.insert(orphan.clone()) {
                warn!(arn = %orphan, "this carries our tags and belongs to no policy; it is left alone, delete it by hand");
            }
        }
    }

    /// While somebody waits for health it is read every second instead of at leisure.
    fn watch_health(&self, plan: &RegionPlan) {
        let mut held = 0;
        let mut waiting = Vec::new();
        for policy in plan.policies.values() {
            for cluster in &policy.status.clusters {
                held += i64::from(cluster.targets.held);
                // Targets that were read before the rule used their group are `unused`: their verdict comes with the next look.
                let in_use = cluster.targets.unused > 0 && cluster.programmed.is_some();
                let waits = in_use || cluster.targets.initial > 0 || cluster.reason == Reason::NoHealthyTarget;
                waiting.extend(cluster.target_group.iter().filter(|_| waits).cloned());
            }
            if policy.status.notes.iter().any(|note| note.reason == Reason::InvariantViolated) {
                self.metrics.plans_refused.inc();
            }
        }
        self.metrics.held_removals.set(held);
        let share = FAST_HEALTH_SHARE.saturating_mul(u32::try_from(waiting.len()).unwrap_or(u32::MAX));
        let pause = FAST_HEALTH.max(share);
        if pause < self.options.health_interval {
            for arn in waiting {
                self.wanted.ask(Object::Targets(arn), Instant::now() + pause, Class::Read);
            }
        }
    }

    /// The policies whose calls were not read back yet.
    fn unread(&mut self) -> BTreeMap<PolicyKey, Unread> {
        let cache = &self.cache;
        self.term.unread.retain(|_, objects| {
            objects.retain(|object| cache.is_unread(object));
            !objects.is_empty()
        });
        let kind = |objects: &Vec<Object>| {
            let targets = objects.iter().all(|object| matches!(object, Object::Targets(_)));
            if targets { Unread::Targets } else { Unread::More }
        };
        self.term.unread.iter().map(|(key, objects)| (key.clone(), kind(objects))).collect()
    }

    /// The steps that may be carried out: none of a policy whose last calls were not read back. Where only targets wait for
    /// that, nothing is removed, and weights may move: what AWS said yes to is known.
    fn steps(&mut self, plan: &RegionPlan, unread: &BTreeMap<PolicyKey, Unread>) -> Vec<Step> {
        if self.options.observe_only {
            return Vec::new();
        }
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

    async fn carry_out(&mut self, lease: Lease, steps: Vec<Step>, planned: &Picture, shutdown: &CancellationToken) {
        let interrupt = CancellationToken::new();
        let mut picture = self.picture.clone();
        // Intents that came since the plan was made stop it at once. Pods do so only when they move from now on: where some
        // pod moves all the time, no call would ever be made.
        let inventory = picture.borrow_and_update().inventory.clone();
        let wait = async {
            // A new intent, or pods that moved, are planned before the rest of this plan is made.
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = picture.wait_for(|now| other_intents(planned, now) || !Arc::ptr_eq(&inventory, &now.inventory)) => {}
                () = sleep(SLICE) => {}
            }
            interrupt.cancel();
            std::future::pending::<()>().await;
        };
        let term = &mut self.term;
        let work =
            self.carrier.carry_out(lease.epoch, steps, interrupt.clone(), |report| term.take(report, lease.now()));
        tokio::select! {
            () = work => {}
            () = wait => {}
        }
    }
}

/// What of a policy was written and not read since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Targets of its groups only.
    Targets,
    /// Its rule or its groups.
    More,
}

impl Term {
    /// The time of the lease, which never goes back within a term.
    fn now(&mut self, lease: &Lease) -> Timestamp {
        let now = self.last_now.map_or(lease.now(), |last| last.max(lease.now()));
        self.last_now = Some(now);
        now
    }

    fn remember(&mut self, key: &PolicyKey, uid: &PolicyUid, memory: PolicyMemory) {
        self.memories.insert(key.clone(), (uid.clone(), memory));
    }

    /// A policy that asks for something else than in the cycle before gets its rule changed without waiting.
    fn try_what_is_new(&mut self, picture: &Picture) {
        let mut versions = BTreeMap::new();
        for (key, stored) in picture.policies.iter() {
            let PolicyRecord { uid, version, .. } = &stored.record;
            let asked_before = self.versions.get(uid).is_none_or(|before| before == version);
            if let Some((_, memory)) = self.memories.get_mut(key).filter(|_| !asked_before) {
                failures::forget_rule_changes(memory);
            }
            versions.insert(uid.clone(), *version);
        }
        self.versions = versions;
    }

    fn take(&mut self, report: Report, now: Timestamp) {
        let Report { step, outcome, touched } = report;
        if let (Some(outcome), Some((_, memory))) = (&outcome, self.memories.get_mut(&step.policy)) {
            failures::remember(memory, &step, outcome, now);
        }
        self.unread.entry(step.policy).or_default().extend(touched);
    }
}

/// True when users ask for something else than they did; a mere new status of a policy does not count.
fn other_intents(before: &Picture, now: &Picture) -> bool {
    let intents = |picture: &Picture| -> Vec<(PolicyUid, u64, bool)> {
        let of = |record: &PolicyRecord| (record.uid.clone(), record.version, record.deleting_since.is_some());
        picture.policies.values().map(|stored| of(&stored.record)).collect()
    };
    !Arc::ptr_eq(&before.policies, &now.policies) && intents(before) != intents(now)
}

fn next_look(plan: &RegionPlan, now: Timestamp, idle: Instant) -> Instant {
    let soonest = plan.policies.values().filter_map(|policy| policy.again_at).min();
    let wait = soonest.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    wait.map_or(idle, |wait| idle.min(Instant::now() + wait))
}

#[cfg(test)]
#[path = "cycle_tests.rs"]
mod tests;
