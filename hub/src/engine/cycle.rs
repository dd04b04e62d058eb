//! One look at the world and what follows from it: plan, status, calls, memory. Activations carry no input: every wake-up runs
//! [`Engine::cycle`], which reads everything anew from the picture and the cache.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
pub(super) use switchyard_core::engine::Unread;
use switchyard_core::{
    budget::Class,
    engine::{self, Stored},
    ids::{PolicyKey, PolicyUid},
    observed::Observed,
    plan::{RegionPlan, Settings, Step},
    policy::PolicyRecord,
    status::Reason,
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
    failover::FailoverTerm,
    fleet::FleetTerm,
    gates::GateTerm,
    lease::Lease,
    look::{Look, Planned},
    observer::{Pace, Wanted},
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
    /// What core remembers.
    pub(super) engine: engine::Term,
    /// Since when the lease has been held without a gap.
    began: Option<Instant>,
    pub(super) gates: GateTerm,
    pub(super) shifts: ShiftTerm,
    pub(super) fleet: FleetTerm,
    pub(super) failover: FailoverTerm,
}

/// What a plan is carried out for, beside its steps: it stops when one of these is not so any more.
struct Until<'a> {
    /// What was wanted.
    planned: &'a Picture,
    /// What was observed.
    observed: &'a Observed,
    /// When another decision follows by time alone.
    due: Instant,
}

/// How soon the health of groups is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paces {
    /// Of those that somebody waits for.
    urgent: Duration,
    /// Of those that failover watches.
    watched: Duration,
}

impl Paces {
    /// Both together never take more than half of the smallest Describe budget of AWS (10 a second): where both want all of it,
    /// those that are watched get a fifth of it.
    fn new(urgent: usize, watched: usize) -> Self {
        let of = |groups: usize, share: Duration| {
            FAST_HEALTH.max(share.saturating_mul(u32::try_from(groups).unwrap_or(u32::MAX)))
        };
        if watched == 0 {
            return Self { urgent: of(urgent, FAST_HEALTH_SHARE), watched: FAST_HEALTH };
        }
        // 4 a second at most, and the rest of the 5 for the others.
        let pace = of(urgent, FAST_HEALTH_SHARE * 5 / 4);
        let taken = u32::try_from(urgent).unwrap_or(u32::MAX).min(4);
        Self { urgent: pace, watched: of(watched, FAST_HEALTH_SHARE * 5 / (5 - taken)) }
    }
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
        self.begin_term(&lease, &picture).await;
        // Before what was observed is looked at: a read-back that lands in between must not let an older look pass for it.
        let unread = self.term.engine.unread(|object| self.cache.is_unread(object));
        let observed = self.cache.observed();
        let settings = self.options.settings(lease.epoch);
        self.accept_restored(&settings, &observed).await;
        self.ask(&records, &observed, &settings);
        let memories = self.term.engine.memories(stored(&picture));
        let now = self.term.engine.now(lease.now());
        let started = Instant::now();
        let health_read = self.cache.health_read(now);
        let look = Look { settings, records, memories, picture: picture.clone(), observed, health_read };
        let Planned { look, plan, orphans, sightings } = look.plan(now).await;
        self.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
        self.report_orphans(orphans);
        self.term.engine.take_plan(&look.records, &plan);
        self.term.failover.tell(&look.records, &plan, &self.metrics);
        self.watch_health(&plan, now);
        self.save(lease.epoch, &picture, &plan).await;
        self.save_gates(lease.epoch, &picture, sightings).await;
        self.forget(lease.epoch, &look.records, &plan, &unread).await;
        let (records, observed) = (&look.records, &look.observed);
        let settle = self.options.settle;
        let seen = Seen { picture: &picture, records, plan: &plan, observed, unread: &unread, settle, now };
        let moved = self.move_shifts(lease.epoch, &seen).await;
        let fleet = self.move_fleet(lease.epoch, &seen).await;
        let stored = moved.stored || fleet.stored;
        let mut steps = if self.options.observe_only { Vec::new() } else { engine::steps(&plan, &unread) };
        // These lead to weights that a shift has just left: they are planned anew with the next picture.
        steps.retain(|step| !moved.written.contains(&step.policy));
        if !steps.is_empty() {
            let until = Until { planned: &picture, observed, due: next_look(&plan, now, idle) };
            self.carry_out(lease, steps, until, shutdown).await;
            return Next { at: Instant::now(), at_once: stored };
        }
        let at = [moved.again, fleet.again].into_iter().flatten().fold(next_look(&plan, now, idle), Instant::min);
        Next { at, at_once: stored }
    }

    /// At take-over everything is taken from the store again, and nothing of an earlier term is trusted.
    async fn begin_term(&mut self, lease: &Lease, picture: &Picture) {
        let epoch = lease.epoch;
        if self.term.engine.epoch() == Some(epoch) && self.term.began == Some(lease.began) {
            return;
        }
        let engine = engine::Term::begin(epoch, stored(picture));
        self.term = Term { engine, began: Some(lease.began), ..Term::default() };
        // What this replica read before its term may be older than the last write of another holder.
        self.cache.reset();
        for object in [Object::LoadBalancers, Object::Groups, Object::Limits] {
            self.wanted.ask(object, Instant::now(), Class::Read);
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

    /// A load balancer that knows a later epoch than ours is taken over only when that was asked for at the start.
    async fn accept_restored(&mut self, settings: &Settings, observed: &Observed) {
        if !self.options.accept_restored_store {
            return;
        }
        let Some(to) = self.term.engine.raise_to(settings, observed) else { return };
        match self.store.lease_raise_epoch(&self.options.scope(), self.options.holder, to).await {
            Ok(_) => {
                info!(from = %settings.epoch, %to, "the store is older than AWS and was accepted as it is");
                self.term.engine.raised(to);
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
        for object in engine::missing(records, observed, settings) {
            self.wanted.ask(object, Instant::now(), Class::Read);
        }
        if let Some(load_balancers) = engine::place_is_unknown(records, observed, settings) {
            let soon = Instant::now() + (self.options.audit_interval / 6).min(Duration::from_secs(10));
            self.wanted.ask(Object::LoadBalancers, soon, Class::Audit);
            for arn in load_balancers {
                self.wanted.ask(Object::Listeners(arn), soon, Class::Audit);
            }
        }
    }

    fn report_orphans(&mut self, orphans: Vec<String>) {
        for orphan in self.term.engine.new_orphans(orphans) {
            warn!(arn = %orphan, "this carries our tags and belongs to no policy; it is left alone, delete it by hand");
        }
    }

    /// While somebody waits for health it is read every second instead of at leisure.
    fn watch_health(&self, plan: &RegionPlan, now: Timestamp) {
        let mut held = 0;
        for policy in plan.policies.values() {
            held += policy.status.clusters.iter().map(|cluster| i64::from(cluster.targets.held)).sum::<i64>();
            if policy.status.notes.iter().any(|note| note.reason == Reason::InvariantViolated) {
                self.metrics.plans_refused.inc();
            }
        }
        self.metrics.held_removals.set(held);
        let looks = engine::looks_for_health(plan, now);
        let paces = Paces::new(looks.urgent.len(), looks.watched.len());
        let mut wanted = HashMap::new();
        for (groups, pause) in [(looks.watched, paces.watched), (looks.urgent, paces.urgent)] {
            let groups = groups.into_iter().filter(|_| pause < self.options.health_interval);
            wanted.extend(groups.map(|arn| {
                let wakes = looks.timed.contains(&arn);
                (Object::Targets(arn), Pace { pause, wakes })
            }));
        }
        self.wanted.set_paces(wanted);
    }

    async fn carry_out(&mut self, lease: Lease, steps: Vec<Step>, until: Until<'_>, shutdown: &CancellationToken) {
        let Until { planned, observed, due } = until;
        let interrupt = CancellationToken::new();
        // A time that is over already would stop every plan before its first call.
        let due = due.max(Instant::now() + SPACING);
        let (cache, mut changes) = (self.cache.clone(), self.cache.changes());
        let worse = async {
            while !cache.got_worse(observed) {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut picture = self.picture.clone();
        // Intents that came since the plan was made stop it at once. Pods do so only when they move from now on: where some
        // pod moves all the time, no call would ever be made.
        let inventory = picture.borrow_and_update().inventory.clone();
        let wait = async {
            // A new intent, or pods that moved, are planned before the rest of this plan is made.
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = picture.wait_for(|now| other_intents(planned, now) || !Arc::ptr_eq(&inventory, &now.inventory)) => {}
                // Targets that fail now may want other weights, and those never wait for the rest of this plan.
                () = worse => {}
                () = sleep_until(due) => {}
                () = sleep(SLICE) => {}
            }
            interrupt.cancel();
            std::future::pending::<()>().await;
        };
        let term = &mut self.term;
        let work =
            self.carrier.carry_out(lease.epoch, steps, interrupt.clone(), |Report { step, outcome, touched }| {
                term.engine.take_outcome(&step, outcome.as_ref(), touched, lease.now());
            });
        tokio::select! {
            () = work => {}
            () = wait => {}
        }
    }
}

/// The policies as core's part of the engine takes them.
pub(super) fn stored(picture: &Picture) -> impl Iterator<Item = Stored<'_>> {
    picture.policies.values().map(|stored| Stored {
        record: &stored.record,
        memory: &stored.memory,
        status: stored.status.as_ref(),
    })
}

/// True when users ask for something else than they did, or operators want something else of a cluster; a mere new status of a
/// policy, or the progress of an operation, does not count.
fn other_intents(before: &Picture, now: &Picture) -> bool {
    let intents = |picture: &Picture| -> Vec<(PolicyUid, u64, bool)> {
        let of = |record: &PolicyRecord| (record.uid.clone(), record.version, record.deleting_since.is_some());
        picture.policies.values().map(|stored| of(&stored.record)).collect()
    };
    let of_policies = !Arc::ptr_eq(&before.policies, &now.policies) && intents(before) != intents(now);
    of_policies || (!Arc::ptr_eq(&before.fleet, &now.fleet) && before.ceilings() != now.ceilings())
}

fn next_look(plan: &RegionPlan, now: Timestamp, idle: Instant) -> Instant {
    let soonest = plan.policies.values().filter_map(|policy| policy.again_at).min();
    let wait = soonest.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    wait.map_or(idle, |wait| idle.min(Instant::now() + wait))
}

#[cfg(test)]
#[path = "cycle_tests.rs"]
mod tests;
