//! The engine of one (account, region): woken by a timer, a nudge or a take-over, which are all the same, it looks at what is
//! wanted and what was observed, asks core for a plan, carries it out within the request budget, and records what came of it.
//! Only the replica that holds the lease writes. Decides nothing itself. Tests: the scenarios in `tests/`.

pub mod cache;
pub mod carry;
pub mod lease;
pub mod observer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    budget::Class,
    ids::{Epoch, HubId, PolicyKey, PolicyUid},
    observed::Observed,
    ownership,
    plan::{self, PolicyPlan, RegionPlan, Settings, Step, World, failures, resolve},
    policy::{PolicyMemory, PolicyRecord},
    status::{ConditionType, PolicyStatus, Reason},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use self::{
    cache::{Cache, Object},
    carry::{Carrier, Report},
    lease::{Keeper, Lease},
    observer::{Observer, Wanted},
};
use crate::{
    elb::Elb,
    feed::Picture,
    metrics::Metrics,
    store::{Store, policy_status::StatusUpdate},
};

/// The least time between two plans: changes that come together are planned together, and a flip is not kept waiting.
const SPACING: Duration = Duration::from_millis(100);
/// A plan is made anew at least this often.
const IDLE: Duration = Duration::from_secs(5);
/// Carrying out stops for a new plan after this time, so that status and priorities stay fresh under throttling.
const SLICE: Duration = Duration::from_secs(2);
/// For this long a status that knows nothing (right after a take-over, or while a write is read back) does not replace one
/// that was known: callers would see a policy fall back that never moved. After it, not knowing is the news.
const UNKNOWN_IS_NO_NEWS: Duration = Duration::from_secs(15);
/// How soon the health of a group is looked at again while somebody waits for it.
const FAST_HEALTH: Duration = Duration::from_secs(1);

/// What the engine is configured with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// This process, for the lease.
    pub holder: Uuid,
    /// This installation.
    pub hub_id: HubId,
    /// 12 digits.
    pub account_id: String,
    /// Such as `eu-central-1`.
    pub region: String,
    /// The time until weights that were read back count as served everywhere.
    pub settle: Duration,
    /// The time between two full readings of AWS.
    pub audit_interval: Duration,
    /// The time between two looks at the health of a group.
    pub health_interval: Duration,
    /// How long the lease lasts without renewal.
    pub lease_ttl: Duration,
    /// The longest time of one call at AWS.
    pub call_timeout: Duration,
    /// True: nothing is written at AWS.
    pub observe_only: bool,
    /// True: a load balancer that was written under a later epoch is taken over (I7).
    pub accept_restored_store: bool,
}

impl EngineOptions {
    /// The key of the lease.
    pub fn scope(&self) -> String {
        format!("{}/{}", self.account_id, self.region)
    }

    /// The planner's settings under an epoch.
    pub fn settings(&self, epoch: Epoch) -> Settings {
        Settings {
            hub_id: self.hub_id.clone(),
            account_id: self.account_id.clone(),
            region: self.region.clone(),
            settle: self.settle,
            epoch,
        }
    }
}

/// Everything that the engine works with.
pub struct EngineParts {
    /// The store.
    pub store: Store,
    /// What is wanted, and what the agents reported.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Where what was observed is published, for dry runs.
    pub observed: watch::Sender<Arc<Observed>>,
    /// Where the epoch is published, for the agents' streams.
    pub epoch: watch::Sender<Option<Epoch>>,
    /// The AWS adaptor.
    pub elb: Elb,
    /// Options.
    pub options: EngineOptions,
    /// Metrics.
    pub metrics: Metrics,
    /// Ends the engine: the calls in flight are finished, the lease is given back.
    pub shutdown: CancellationToken,
}

/// Runs the engine until shutdown.
pub async fn run(parts: EngineParts) {
    let (lease_sender, lease) = watch::channel(None);
    let cache = Cache::new();
    let wanted = Wanted::new();
    let keeper = Keeper {
        store: parts.store.clone(),
        scope: parts.options.scope(),
        holder: parts.options.holder,
        ttl: parts.options.lease_ttl,
        metrics: parts.metrics.clone(),
        lease: lease_sender,
        epoch: parts.epoch,
    };
    let observer = Observer {
        elb: parts.elb.clone(),
        cache: cache.clone(),
        wanted: wanted.clone(),
        audit_interval: parts.options.audit_interval,
        health_interval: parts.options.health_interval,
    };
    let carrier = Carrier {
        elb: parts.elb,
        store: parts.store.clone(),
        scope: parts.options.scope(),
        cache: cache.clone(),
        wanted: wanted.clone(),
        lease: lease.clone(),
        call_timeout: parts.options.call_timeout,
        metrics: parts.metrics.clone(),
    };
    let engine = Engine {
        store: parts.store,
        picture: parts.picture,
        published: parts.observed,
        published_at: None,
        options: parts.options,
        metrics: parts.metrics,
        cache,
        wanted,
        carrier,
        lease,
        term: Term::default(),
    };
    // The lease outlives the engine's last call: it is given back only after the engine has stopped.
    let keeper_stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(keeper_stop.clone()));
    tasks.spawn(observer.run(parts.shutdown.clone()));
    engine.run(parts.shutdown).await;
    keeper_stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a task of the engine panicked, please report this defect");
        }
    }
}

/// What is kept for one term of the lease.
#[derive(Default)]
struct Term {
    epoch: Option<Epoch>,
    memories: BTreeMap<PolicyKey, (PolicyUid, PolicyMemory)>,
    saved: BTreeMap<PolicyUid, (PolicyStatus, PolicyMemory)>,
    /// What a policy's calls touched and nobody has read since.
    unread: BTreeMap<PolicyKey, Vec<Object>>,
    reported_orphans: BTreeSet<String>,
    /// Since when the rule of a policy is not known.
    unknown_since: BTreeMap<PolicyUid, Instant>,
}

struct Engine {
    store: Store,
    picture: watch::Receiver<Arc<Picture>>,
    published: watch::Sender<Arc<Observed>>,
    published_at: Option<Instant>,
    options: EngineOptions,
    metrics: Metrics,
    cache: Cache,
    wanted: Wanted,
    carrier: Carrier,
    lease: watch::Receiver<Option<Lease>>,
    term: Term,
}

impl Engine {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.cache.changes();
        let mut lease = self.lease.clone();
        let mut picture = self.picture.clone();
        loop {
            let again = self.cycle(&shutdown).await;
            let spaced = Instant::now() + SPACING;
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = picture.changed() => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = lease.changed() => {}
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
    async fn cycle(&mut self, shutdown: &CancellationToken) -> Instant {
        let idle = Instant::now() + IDLE;
        let picture = self.picture.borrow().clone();
        let observed = self.cache.observed();
        self.publish(&observed);
        if !picture.loaded {
            return idle;
        }
        let records: BTreeMap<PolicyKey, PolicyRecord> =
            picture.policies.iter().map(|(key, stored)| (key.clone(), stored.record.clone())).collect();
        let Some(lease) = *self.lease.borrow() else {
            self.term = Term::default();
            return idle;
        };
        self.begin_term(lease.epoch, &picture).await;
        let settings = self.options.settings(lease.epoch);
        self.accept_restored(&settings, &observed).await;
        self.ask(&records, &observed, &settings);
        let memories = self.memories(&picture);
        let now = Timestamp::now();
        let started = Instant::now();
        let world = World {
            settings: &settings,
            policies: &records,
            memories: &memories,
            inventory: &picture.inventory,
            observed: &observed,
        };
        let plan = plan::plan(&world, now);
        self.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
        self.report_orphans(&world);
        self.take_memories(&records, &plan);
        self.watch_health(&plan);
        self.save(&picture, &plan).await;
        self.forget(&records, &plan).await;
        let steps = self.steps(&plan);
        if !steps.is_empty() {
            self.carry_out(lease.epoch, steps, shutdown).await;
            return Instant::now();
        }
        next_look(&plan, now, idle)
    }

    /// At take-over everything is taken from the store again, and nothing of an earlier term is trusted.
    async fn begin_term(&mut self, epoch: Epoch, picture: &Picture) {
        if self.term.epoch == Some(epoch) {
            return;
        }
        self.term = Term { epoch: Some(epoch), ..Term::default() };
        for stored in picture.policies.values() {
            self.term.remember(&stored.record.policy.key, &stored.record.uid, stored.memory.clone());
        }
        match self.store.intents_open(&self.options.scope(), epoch).await {
            Ok(intents) if intents.is_empty() => {}
            Ok(intents) => {
                // Their effect is seen in the reading that this term starts from.
                info!(count = intents.len(), %epoch, "calls of an earlier epoch have no recorded outcome; AWS is read anew");
                for object in [Object::LoadBalancers, Object::Groups] {
                    self.wanted.ask(object, Instant::now(), Class::Read);
                }
            }
            Err(error) => warn!(%error, %epoch, "the calls of earlier epochs could not be looked up"),
        }
    }

    fn memories(&mut self, picture: &Picture) -> BTreeMap<PolicyKey, PolicyMemory> {
        for (key, stored) in &picture.policies {
            let known = self.term.memories.get(key).is_some_and(|(uid, _)| *uid == stored.record.uid);
            if !known {
                self.term.remember(key, &stored.record.uid, stored.memory.clone());
            }
        }
        self.term.memories.retain(|key, _| picture.policies.contains_key(key));
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
    async fn accept_restored(&self, settings: &Settings, observed: &Observed) {
        let tagged = observed.load_balancers.values().map(|lb| ownership::epoch_of(&lb.tags)).max().unwrap_or_default();
        if !self.options.accept_restored_store || tagged <= settings.epoch {
            return;
        }
        let to = Epoch(tagged.0.saturating_add(1));
        match self.store.lease_raise_epoch(&self.options.scope(), self.options.holder, to).await {
            Ok(_) => info!(from = %settings.epoch, %to, "the store is older than AWS and was accepted as it is"),
            Err(error) => warn!(%error, %to, "the epoch could not be raised"),
        }
    }

    fn publish(&mut self, observed: &Arc<Observed>) {
        if let Some(at) = observed.audited_at {
            let age = Timestamp::now().duration_since(at).as_secs_f64();
            self.metrics.observed_age_seconds.set(age.max(0.0));
        }
        // Publishing makes the next change of the cache copy it, so it is done twice a second at most.
        let soon = self.published_at.is_some_and(|at| at.elapsed() < Duration::from_millis(500));
        if !soon && !Arc::ptr_eq(&self.published.borrow(), observed) {
            self.published.send_replace(observed.clone());
            self.published_at = Some(Instant::now());
        }
    }

    fn ask(&self, records: &BTreeMap<PolicyKey, PolicyRecord>, observed: &Observed, settings: &Settings) {
        let load_balancers = resolve::load_balancers_wanted(records, observed, settings);
        let ours = observed.target_groups.iter().filter(|(_, group)| {
            matches!(ownership::owner(&group.tags, &settings.hub_id), ownership::Owner::Ours { .. })
        });
        observer::ask_for_missing(&self.wanted, &self.cache, load_balancers, ours.map(|(arn, _)| arn.clone()));
        let unknown_place = |record: &&PolicyRecord| {
            resolve::listener(&record.policy.listener, observed, settings).is_err_and(|no| no.reason == Reason::ListenerNotFound)
        };
        // A load balancer or listener that was made after the last audit is found soon, not only at the next one.
        if let Some(record) = records.values().find(unknown_place) {
            let soon = Instant::now() + (self.options.audit_interval / 6).min(Duration::from_secs(10));
            self.wanted.ask(Object::LoadBalancers, soon, Class::Audit);
            for arn in resolve::load_balancers_wanted(&BTreeMap::from([(record.policy.key.clone(), record.clone())]), observed, settings) {
                self.wanted.ask(Object::Listeners(arn), soon, Class::Audit);
            }
        }
    }

    fn report_orphans(&mut self, world: &World<'_>) {
        for orphan in plan::orphans(world) {
            if self.term.reported_orphans.insert(orphan.clone()) {
                warn!(arn = %orphan, "this carries our tags and belongs to no policy; it is left alone, delete it by hand");
            }
        }
    }

    /// While somebody waits for health it is read every second instead of at leisure.
    fn watch_health(&self, plan: &RegionPlan) {
        let soon = Instant::now() + FAST_HEALTH.min(self.options.health_interval);
        let mut held = 0;
        for policy in plan.policies.values() {
            for cluster in &policy.status.clusters {
                held += i64::from(cluster.targets.held);
                let waits = cluster.targets.initial > 0 || matches!(cluster.reason, Reason::NoHealthyTarget);
                if let (true, Some(arn)) = (waits, &cluster.target_group) {
                    self.wanted.ask(Object::Targets(arn.clone()), soon, Class::Read);
                }
            }
            if policy.status.notes.iter().any(|note| note.reason == Reason::InvariantViolated) {
                self.metrics.plans_refused.inc();
            }
        }
        self.metrics.held_removals.set(held);
    }

    async fn save(&mut self, picture: &Picture, plan: &RegionPlan) {
        let mut updates: Vec<(PolicyUid, PolicyStatus, PolicyMemory)> = Vec::new();
        for (key, policy) in &plan.policies {
            let Some(stored) = picture.policies.get(key) else { continue };
            let uid = &stored.record.uid;
            let saved = self.term.saved.get(uid);
            let same = saved.is_some_and(|(status, memory)| *status == policy.status && *memory == policy.memory);
            let known = saved.map(|(status, _)| status).or(stored.status.as_ref());
            if !same && !self.term.is_no_news(uid, &policy.status, known) {
                updates.push((uid.clone(), policy.status.clone(), policy.memory.clone()));
            }
        }
        if updates.is_empty() {
            return;
        }
        let rows: Vec<StatusUpdate<'_>> =
            updates.iter().map(|(uid, status, memory)| StatusUpdate { uid, status, memory }).collect();
        match self.store.policy_statuses_save(&rows).await {
            Ok(_) => self.term.saved.extend(updates.into_iter().map(|(uid, status, memory)| (uid, (status, memory)))),
            Err(error) => warn!(%error, policies = updates.len(), "the status of policies was not stored; it is tried again"),
        }
    }

    async fn forget(&mut self, records: &BTreeMap<PolicyKey, PolicyRecord>, plan: &RegionPlan) {
        for (key, _) in plan.policies.iter().filter(|(_, policy)| policy.gone) {
            let Some(record) = records.get(key) else { continue };
            if self.is_unread(key) {
                continue;
            }
            match self.store.policy_forget(key, &record.uid).await {
                Ok(_) => {
                    info!(policy = %key, "the policy is deleted: nothing of it is left at AWS");
                    self.term.saved.remove(&record.uid);
                    self.term.memories.remove(key);
                }
                Err(error) => warn!(%error, policy = %key, "the deleted policy could not be removed from the store"),
            }
        }
    }

    fn is_unread(&mut self, policy: &PolicyKey) -> bool {
        let Some(objects) = self.term.unread.get_mut(policy) else { return false };
        objects.retain(|object| self.cache.is_unread(object));
        let unread = !objects.is_empty();
        if !unread {
            self.term.unread.remove(policy);
        }
        unread
    }

    /// The steps that may be carried out: none of a policy whose last calls were not read back.
    fn steps(&mut self, plan: &RegionPlan) -> Vec<Step> {
        if self.options.observe_only {
            return Vec::new();
        }
        let mut steps = Vec::new();
        for (key, policy) in &plan.policies {
            if !policy.steps.is_empty() && !self.is_unread(key) {
                steps.extend(policy.steps.iter().cloned());
            }
        }
        steps
    }

    async fn carry_out(&mut self, epoch: Epoch, steps: Vec<Step>, shutdown: &CancellationToken) {
        let interrupt = CancellationToken::new();
        let mut picture = self.picture.clone();
        let before = picture.borrow_and_update().clone();
        let wait = async {
            // A new intent, or pods that moved, are planned before the rest of this plan is made.
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = picture.wait_for(|picture| asks_for_something_else(&before, picture)) => {}
                () = sleep(SLICE) => {}
            }
            interrupt.cancel();
            std::future::pending::<()>().await;
        };
        let (term, now) = (&mut self.term, Timestamp::now());
        let work = self.carrier.carry_out(epoch, steps, interrupt.clone(), |report| term.take(report, now));
        tokio::select! {
            () = work => {}
            () = wait => {}
        }
    }
}

impl Term {
    fn remember(&mut self, key: &PolicyKey, uid: &PolicyUid, memory: PolicyMemory) {
        self.memories.insert(key.clone(), (uid.clone(), memory));
    }

    /// True for a status that only says that the rule is not known at this moment, while a better one is at hand.
    fn is_no_news(&mut self, uid: &PolicyUid, status: &PolicyStatus, known: Option<&PolicyStatus>) -> bool {
        let unknown = |status: &PolicyStatus| {
            status.condition(ConditionType::Programmed).is_none_or(|condition| condition.status.is_none())
        };
        if !unknown(status) {
            self.unknown_since.remove(uid);
            return false;
        }
        let since = *self.unknown_since.entry(uid.clone()).or_insert_with(Instant::now);
        let better = known.is_some_and(|known| known.observed_version == status.observed_version && !unknown(known));
        better && since.elapsed() < UNKNOWN_IS_NO_NEWS
    }

    fn take(&mut self, report: Report, now: Timestamp) {
        let Report { step, outcome, touched } = report;
        if let (Some(outcome), Some((_, memory))) = (&outcome, self.memories.get_mut(&step.policy)) {
            failures::remember(memory, &step, outcome, now);
        }
        self.unread.entry(step.policy).or_default().extend(touched);
    }
}

/// True when a new picture may lead to another plan; a mere new status of a policy does not.
fn asks_for_something_else(before: &Picture, now: &Picture) -> bool {
    let intents = |picture: &Picture| -> Vec<(PolicyUid, u64, bool)> {
        let of = |record: &PolicyRecord| (record.uid.clone(), record.version, record.deleting_since.is_some());
        picture.policies.values().map(|stored| of(&stored.record)).collect()
    };
    let same_policies = Arc::ptr_eq(&before.policies, &now.policies) || intents(before) == intents(now);
    !same_policies || !Arc::ptr_eq(&before.inventory, &now.inventory)
}

fn next_look(plan: &RegionPlan, now: Timestamp, idle: Instant) -> Instant {
    let soonest = plan.policies.values().filter_map(|policy| policy.again_at).min();
    let wait = soonest.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    wait.map_or(idle, |wait| idle.min(Instant::now() + wait))
}
