//! One process of the hub: the real engine state, planner, executor and machines of core, in a loop whose awaits are the ticks of the
//! world. Between two ticks it may be killed or stopped, its lease may end, and anything may happen to what it has seen.
//!
//! What stands here is what `hub/src/engine` does around core: cycle (look, save, move shifts, carry out), carrier, observer, keeper.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    engine::{self, Cache, Object, Reading, Taken, Term, Ticket, Unread, Update},
    execute::{Execution, Outcome},
    fleet::{self, Ceiling},
    ids::{ClusterName, Epoch, HubId, PolicyKey, PolicyUid},
    observed::Observed,
    plan::{self, RegionPlan, Settings, Step, World as PlanWorld},
    policy::PolicyRecord,
    shift::{
        machine,
        view::{Evidence, PolicyView, View},
    },
};

use super::{
    TICK_MILLIS, Tick,
    aws::{Aws, ReadFault},
    seconds,
    store::{Content, LEASE, Store},
    time,
};

/// The time until weights that were read back count as served everywhere.
pub const SETTLE: Tick = seconds(10);
const IDLE: Tick = seconds(5);
const SLICE: Tick = seconds(2);
const RENEW: Tick = LEASE / 3;
/// As in the hub: what must be left of the lease beyond a call's own time.
const MARGIN: Tick = 3;
const CALL: Tick = seconds(2);
const AUDIT: Tick = seconds(30);
const HEALTH: Tick = seconds(5);
const FAST_HEALTH: Tick = seconds(1);
const RETRY: Tick = seconds(1);
const READS_AT_ONCE: usize = 8;
/// Ticks that an answer of a slow database takes.
const SLOW: Tick = seconds(1);

/// Everything outside of the process.
pub struct Outside<'a> {
    pub store: &'a mut Store,
    pub aws: &'a mut Aws,
    pub now: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: Epoch,
    until: Tick,
    /// A lease that ran out begins anew, also under the same epoch: who knows what happened meanwhile.
    began: Tick,
    clock: (Timestamp, Tick),
}

#[derive(Debug)]
struct Read {
    object: Object,
    ticket: Ticket,
    result: Result<Reading, ReadFault>,
    /// When its answer is here: what it shows is from when it began.
    answered: Tick,
}

/// Where the cycle is.
enum Phase {
    Idle,
    /// Looked and planned; what it says is to be stored.
    Planned(Box<Planned>),
    Carrying(Box<Carrying>),
}

struct Planned {
    content: Content,
    records: BTreeMap<PolicyKey, PolicyRecord>,
    unread: BTreeMap<PolicyKey, Unread>,
    observed: std::sync::Arc<Observed>,
    plan: RegionPlan,
    epoch: Epoch,
    now: Timestamp,
    /// With a slow database.
    ready: Tick,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Save,
    Move,
}

struct Carrying {
    execution: Execution,
    calls: Vec<One>,
    planned: Content,
    epoch: Epoch,
    until: Tick,
    stopped: bool,
}

struct One {
    policy: PolicyKey,
    step: Step,
    stage: CallStage,
}

enum CallStage {
    Opening { at: Tick },
    Sending { intent: u64 },
    Flying { intent: u64, flight: u64, gives_up: Tick },
}

pub struct Hub {
    /// New for each process.
    pub holder: u32,
    pub alive: bool,
    pub paused: bool,
    /// An operator says that the restored store is right.
    pub accepts_restored: bool,
    /// How wrong its machine's clock is, in seconds.
    pub clock_off: i64,
    lease: Option<Held>,
    renews: Tick,
    picture: Content,
    picture_at: Option<u64>,
    store_ok: bool,
    cache: Cache,
    term: Term,
    /// When the lease of this term began.
    began: Tick,
    reads: BTreeMap<Object, Tick>,
    reading: Vec<Read>,
    read_number: u64,
    phase: Phase,
    wakes: Tick,
    started: Tick,
    /// Versions of shifts that were stored last, until a picture shows them.
    saved_shifts: BTreeMap<String, u64>,
    saved_fleet: BTreeMap<ClusterName, u64>,
    /// The plan that was made last, for the calm.
    pub last_steps: usize,
    pub cycles: u64,
}

impl Hub {
    pub fn new(holder: u32, now: Tick) -> Self {
        let first = [Object::LoadBalancers, Object::Groups, Object::Limits];
        Self {
            holder,
            alive: true,
            paused: false,
            accepts_restored: false,
            clock_off: 0,
            lease: None,
            renews: now,
            picture: Content::default(),
            picture_at: None,
            store_ok: false,
            cache: Cache::new(),
            term: Term::default(),
            began: 0,
            reads: first.into_iter().map(|object| (object, now)).collect(),
            reading: Vec::new(),
            read_number: 0,
            phase: Phase::Idle,
            wakes: now,
            started: now,
            saved_shifts: BTreeMap::new(),
            saved_fleet: BTreeMap::new(),
            last_steps: 0,
            cycles: 0,
        }
    }

    pub fn holds_lease(&self) -> bool {
        self.lease.is_some()
    }

    pub fn observed(&self) -> &Observed {
        self.cache.observed()
    }

    fn elapsed(&self, now: Tick) -> Duration {
        Duration::from_millis((now - self.started) * TICK_MILLIS)
    }

    /// One tick of every task of the process.
    pub fn poll(&mut self, out: &mut Outside<'_>) {
        if !self.alive || self.paused {
            return;
        }
        self.keep_lease(out);
        self.watch(out);
        self.observe(out);
        self.engine(out);
    }

    fn keep_lease(&mut self, out: &mut Outside<'_>) {
        if self.renews > out.now {
            return;
        }
        self.renews = out.now + RENEW;
        match out.store.lease_acquire(self.holder, out.now) {
            Ok(Some(row)) => {
                let kept = self.lease.filter(|held| held.epoch == row.epoch && held.until > out.now);
                let began = kept.map_or(out.now, |held| held.began);
                // A slow database answers late; the time left is counted from before the question.
                self.lease =
                    Some(Held { epoch: row.epoch, until: row.expires, began, clock: (time(out.now), out.now) });
                if kept.is_none() {
                    self.wakes = out.now;
                }
            }
            Ok(None) => self.lease = None,
            // The lease in hand stays good for as long as it was granted.
            Err(_) => {}
        }
    }

    /// The feed: a picture of the store as of now.
    fn watch(&mut self, out: &mut Outside<'_>) {
        self.store_ok = out.store.is_up();
        if self.store_ok && self.picture_at != Some(out.store.content.revision) {
            self.picture = out.store.content.clone();
            self.picture_at = Some(self.picture.revision);
            self.wakes = self.wakes.min(out.now);
        }
    }

    fn ask(&mut self, object: Object, at: Tick) {
        let due = self.reads.entry(object).or_insert(at);
        *due = (*due).min(at);
    }

    fn observe(&mut self, out: &mut Outside<'_>) {
        let (done, under_way) =
            std::mem::take(&mut self.reading).into_iter().partition(|read: &Read| read.answered <= out.now);
        self.reading = under_way;
        for read in done {
            self.take_read(read, out);
        }
        let free = READS_AT_ONCE - self.reading.len();
        let idle = |object: &Object| !self.reading.iter().any(|read| read.object == *object);
        let due = self.reads.iter().filter(|(object, at)| **at <= out.now && idle(object));
        let due: Vec<Object> = due.map(|(object, _)| object.clone()).take(free).collect();
        for object in due {
            self.reads.remove(&object);
            self.read_number += 1;
            let ticket = self.cache.ticket(object.clone());
            let result = out.aws.read(&object, out.now, self.read_number);
            // Some take five times as long as others.
            let answered = out.now + 1 + (self.read_number * 7) % 5 / 2;
            self.reading.push(Read { object, ticket, result, answered });
        }
    }

    fn take_read(&mut self, Read { object, ticket, result, .. }: Read, out: &Outside<'_>) {
        let now = out.now;
        match result {
            Ok(reading) => {
                // The machine's own clock only says when something was read.
                let wall = time(now).checked_add(jiff::SignedDuration::from_secs(self.clock_off)).unwrap();
                match self.cache.store(&ticket, reading, wall, self.elapsed(now)) {
                    Taken::TooOld => return self.ask(object, now),
                    Taken::News => self.wakes = self.wakes.min(now),
                    Taken::NoNews => {}
                }
                if self.cache.is_unread(&object) {
                    self.ask(object, now);
                } else if let Some(interval) = self.interval(&object) {
                    self.ask(object, now + interval);
                }
            }
            Err(fault) => {
                if self.cache.set_trouble(Some("reading from AWS does not work".to_owned())) {
                    self.wakes = self.wakes.min(now);
                }
                let parent = match &object {
                    Object::LoadBalancerTags(_) | Object::Listeners(_) => Some(Object::LoadBalancers),
                    _ => None,
                };
                if let Some(parent) = parent.filter(|_| fault == ReadFault::ParentGone) {
                    self.ask(parent, now);
                }
                if self.cache.is_listed(&object) {
                    self.ask(object, now + RETRY);
                }
                return;
            }
        }
        if self.cache.set_trouble(None) {
            self.wakes = self.wakes.min(now);
        }
    }

    fn interval(&self, object: &Object) -> Option<Tick> {
        match object {
            Object::LoadBalancers | Object::Groups => Some(AUDIT),
            Object::Limits => Some(AUDIT),
            object if !self.cache.is_listed(object) => None,
            Object::Targets(_) => Some(HEALTH),
            Object::Listeners(_) | Object::Rules(_) => Some(AUDIT),
            Object::LoadBalancerTags(_) | Object::Group(_) => None,
        }
    }

    fn engine(&mut self, out: &mut Outside<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle if self.wakes <= out.now => self.look(out),
            Phase::Idle => {}
            Phase::Planned(planned) if planned.ready > out.now => self.phase = Phase::Planned(planned),
            Phase::Planned(planned) => self.after_plan(*planned, out),
            Phase::Carrying(carrying) => self.carry(*carrying, out),
        }
    }

    fn settings(epoch: Epoch) -> Settings {
        Settings {
            hub_id: HubId::new("hub-1").unwrap(),
            account_id: "123456789012".into(),
            region: "eu-central-1".into(),
            settle: Duration::from_millis(SETTLE * TICK_MILLIS),
            epoch,
        }
    }

    fn now_of(held: &Held, now: Tick) -> Timestamp {
        let (then, asked) = held.clock;
        then.checked_add(jiff::SignedDuration::from_millis(((now - asked) * TICK_MILLIS).cast_signed())).unwrap()
    }

    /// The cycle up to its plan.
    fn look(&mut self, out: &mut Outside<'_>) {
        let now = out.now;
        self.wakes = now + IDLE;
        if self.picture_at.is_none() {
            return;
        }
        let Some(held) = self.lease else {
            self.term = Term::default();
            return;
        };
        if held.until.saturating_sub(now) < 2 * MARGIN {
            self.wakes = now + MARGIN;
            return;
        }
        self.cycles += 1;
        let content = self.picture.clone();
        let stored = || content.policies.values().map(super::store::StoredPolicy::as_stored);
        if (self.term.epoch(), self.began) != (Some(held.epoch), held.began) {
            self.began = held.began;
            self.term = Term::begin(held.epoch, stored());
            self.saved_shifts.clear();
            self.saved_fleet.clear();
            self.cache.reset();
            for object in [Object::LoadBalancers, Object::Groups, Object::Limits] {
                self.ask(object, now);
            }
        }
        let cache = &self.cache;
        let unread = self.term.unread(|object| cache.is_unread(object));
        let observed = self.cache.observed().clone();
        let settings = Self::settings(held.epoch);
        if self.accepts_restored
            && let Some(to) = self.term.raise_to(&settings, &observed)
            && out.store.lease_raise(self.holder, to, now).is_ok()
        {
            self.term.raised(to);
        }
        let records: BTreeMap<PolicyKey, PolicyRecord> =
            content.policies.iter().map(|(key, stored)| (key.clone(), stored.record.clone())).collect();
        for object in engine::missing(&records, &observed, &settings) {
            self.ask(object, now);
        }
        if engine::place_is_unknown(&records, &observed, &settings).is_some() {
            self.ask(Object::LoadBalancers, now + seconds(5));
        }
        let memories = self.term.memories(stored());
        let at = self.term.now(Self::now_of(&held, now));
        let health_read = self.cache.health_read(self.elapsed(now), at);
        let ceilings: BTreeMap<ClusterName, Ceiling> =
            content.fleet.iter().map(|(name, state)| (name.clone(), state.ceiling())).collect();
        let world = PlanWorld {
            settings: &settings,
            policies: &records,
            memories: &memories,
            inventory: &content.inventory,
            observed: &observed,
            health_read: &health_read,
            fleet: &ceilings,
        };
        let plan = plan::plan(&world, at);
        self.term.take_plan(&records, &plan);
        for group in engine::waits_for_health(&plan) {
            self.ask(Object::Targets(group), now + FAST_HEALTH);
        }
        let ready = if out.store.slow { now + SLOW } else { now };
        let (epoch, now, stage) = (held.epoch, at, Stage::Save);
        let planned = Planned { content, records, unread, observed, plan, epoch, now, ready, stage };
        self.phase = Phase::Planned(Box::new(planned));
    }

    fn after_plan(&mut self, mut planned: Planned, out: &mut Outside<'_>) {
        let now = out.now;
        match planned.stage {
            Stage::Save => {
                self.save(&planned, out);
                planned.stage = Stage::Move;
                planned.ready = if out.store.slow { now + SLOW } else { now };
                self.phase = Phase::Planned(Box::new(planned));
            }
            Stage::Move => {
                self.move_fleet(&planned, out);
                let written = self.move_shifts(&planned, out);
                let mut steps = engine::steps(&planned.plan, &planned.unread);
                steps.retain(|step| !written.contains(&step.policy));
                self.last_steps = planned.plan.policies.values().map(|policy| policy.steps.len()).sum();
                if steps.is_empty() {
                    let soonest = planned.plan.policies.values().filter_map(|policy| policy.again_at).min();
                    let wait = soonest.map(|at| at.duration_since(planned.now).as_millis().max(0).cast_unsigned());
                    let wait = wait.map_or(IDLE, |wait| Tick::try_from(wait).unwrap_or(u64::MAX).div_ceil(TICK_MILLIS));
                    self.wakes = self.wakes.min(now + wait.max(1));
                    return;
                }
                let Planned { content, epoch, .. } = planned;
                let (execution, until) = (Execution::new(steps), now + SLICE);
                let carrying =
                    Carrying { execution, calls: Vec::new(), planned: content, epoch, until, stopped: false };
                self.carry(carrying, out);
            }
        }
    }

    fn save(&mut self, planned: &Planned, out: &mut Outside<'_>) {
        let fence = (self.holder, planned.epoch);
        let stored = planned.content.policies.values().map(super::store::StoredPolicy::as_stored);
        let updates: Vec<Update> = self.term.updates(stored, &planned.plan, self.elapsed(out.now));
        if !updates.is_empty() && out.store.save(fence, &updates, out.now).is_ok() {
            self.term.stored(updates);
        }
        for key in engine::finished(&planned.plan, &planned.unread) {
            let Some(record) = planned.records.get(key) else { continue };
            let uid: PolicyUid = record.uid.clone();
            if out.store.forget(fence, key, &uid, out.now).is_ok() {
                self.term.forget(key, &uid);
            }
        }
    }

    /// Drains, game days and ways back go on.
    fn move_fleet(&mut self, planned: &Planned, out: &mut Outside<'_>) {
        let fence = (self.holder, planned.epoch);
        let settle = Duration::from_millis(SETTLE * TICK_MILLIS);
        for (name, state) in planned.content.fleet.iter().filter(|(_, state)| state.is_moving()) {
            if self.saved_fleet.get(name).is_some_and(|saved| state.version < *saved) {
                continue;
            }
            let facts = planned.records.iter().filter_map(|(key, record)| {
                let status = &planned.plan.policies.get(key)?.status;
                let mut facts = fleet::machine::PolicyFacts::new(name, record, status, settle, planned.now)?;
                if planned.unread.get(key) == Some(&Unread::More) {
                    facts.in_force = None;
                }
                Some((key.clone(), facts))
            });
            let outcome = fleet::machine::observe(state.clone(), &facts.collect(), planned.now);
            if let Some(at) = outcome.again_at {
                let wait = at.duration_since(planned.now).as_millis().max(0).cast_unsigned();
                let wait = Tick::try_from(wait).unwrap_or(u64::MAX).div_ceil(TICK_MILLIS);
                self.wakes = self.wakes.min(out.now + wait.max(1));
            }
            if outcome.state != *state && out.store.save_cluster(fence, &outcome.state, out.now) == Ok(true) {
                self.saved_fleet.insert(name.clone(), state.version + 1);
                self.wakes = self.wakes.min(out.now + 1);
            }
        }
    }

    /// The policies that ask for other weights now.
    fn move_shifts(&mut self, planned: &Planned, out: &mut Outside<'_>) -> BTreeSet<PolicyKey> {
        let mut written = BTreeSet::new();
        if !self.store_ok {
            return written;
        }
        let fence = (self.holder, planned.epoch);
        for shift in planned.content.shifts.values().filter(|shift| shift.is_active()) {
            let id = shift.id.to_string();
            if self.saved_shifts.get(&id).is_some_and(|saved| shift.version < *saved) {
                continue;
            }
            let mut policies = BTreeMap::new();
            for one in &shift.moves {
                let (record, plan) = (planned.records.get(&one.policy), planned.plan.policies.get(&one.policy));
                let (Some(record), Some(plan)) = (record, plan) else { continue };
                let (status, observed) = (Some(&plan.status), Some(&*planned.observed));
                let mut view = PolicyView::new(record, status, &plan.memory, observed, Evidence::NotConfigured);
                if planned.unread.get(&one.policy) == Some(&Unread::More) {
                    view.programmed = None;
                    view.converged = false;
                }
                policies.insert(one.policy.clone(), view);
            }
            let view = View { now: planned.now, policies: &policies, switches: &[], measured: &[] };
            let outcome = machine::observe(shift.clone(), &view);
            if let Some(at) = outcome.again_at {
                let wait = at.duration_since(planned.now).as_millis().max(0).cast_unsigned();
                let wait = Tick::try_from(wait).unwrap_or(u64::MAX).div_ceil(TICK_MILLIS);
                self.wakes = self.wakes.min(out.now + wait.max(1));
            }
            if outcome.shift == *shift && outcome.writes.is_empty() {
                continue;
            }
            let saved = out.store.save_shift(fence, shift.version, &outcome.shift, &outcome.writes, out.now);
            if saved == Ok(true) {
                self.saved_shifts.insert(id, shift.version + 1);
                written.extend(outcome.writes.into_iter().map(|write| write.policy));
                self.wakes = self.wakes.min(out.now + 1);
            }
        }
        written
    }

    fn time_for_a_call(&self, epoch: Epoch, now: Tick) -> Option<Tick> {
        let held = self.lease.filter(|held| held.epoch == epoch)?;
        let left = held.until.checked_sub(now)?.checked_sub(MARGIN).filter(|left| *left >= MARGIN)?;
        Some(left.min(CALL))
    }

    fn carry(&mut self, mut carrying: Carrying, out: &mut Outside<'_>) {
        let now = out.now;
        let other = other_intents(&carrying.planned, &self.picture);
        let moved = !std::sync::Arc::ptr_eq(&carrying.planned.inventory, &self.picture.inventory);
        if other || moved || now >= carrying.until {
            carrying.stopped = true;
        }
        if !carrying.stopped {
            for call in carrying.execution.ready() {
                carrying.execution.start(&call.step.policy);
                let at = if out.store.slow { now + SLOW } else { now };
                let policy = call.step.policy.clone();
                carrying.calls.push(One { policy, step: call.step, stage: CallStage::Opening { at } });
            }
        }
        let calls = std::mem::take(&mut carrying.calls);
        for one in calls {
            self.advance(one, &mut carrying, out);
        }
        if carrying.calls.is_empty() && (carrying.stopped || carrying.execution.ready().is_empty()) {
            self.wakes = now;
            return;
        }
        self.phase = Phase::Carrying(Box::new(carrying));
    }

    fn advance(&mut self, one: One, carrying: &mut Carrying, out: &mut Outside<'_>) {
        let (epoch, now) = (carrying.epoch, out.now);
        let One { policy, step, stage } = one;
        let stage = match stage {
            CallStage::Opening { at } if at > now => Some(CallStage::Opening { at }),
            CallStage::Opening { .. } => match self.time_for_a_call(epoch, now) {
                // A pod that moves or another intent stops what waits for its turn.
                Some(_) if !carrying.stopped => {
                    let opened = out.store.intent_open((self.holder, epoch), now);
                    opened.ok().map(|intent| CallStage::Sending { intent })
                }
                _ => None,
            },
            CallStage::Sending { intent } => match self.time_for_a_call(epoch, now) {
                Some(limit) => {
                    self.cache.invalidate(&step.action);
                    let flight = out.aws.send((self.holder, epoch, intent), step.clone(), limit, now);
                    Some(CallStage::Flying { intent, flight, gives_up: now + limit })
                }
                None => {
                    out.store.intent_close(intent);
                    None
                }
            },
            CallStage::Flying { intent, flight, gives_up } => {
                let answer = out.aws.answer(flight);
                let cut = || Outcome::Unknown { message: "no answer in time".to_owned() };
                match answer.or_else(|| (now > gives_up).then(cut)) {
                    None => Some(CallStage::Flying { intent, flight, gives_up }),
                    Some(outcome) => {
                        let objects = self.cache.settle(&step.action, &outcome);
                        for object in &objects {
                            self.ask(object.clone(), now);
                        }
                        out.store.intent_close(intent);
                        let at = self.lease.map_or(time(now), |held| Self::now_of(&held, now));
                        self.term.take_outcome(&step, Some(&outcome), objects, at);
                        carrying.execution.report(&policy, &outcome);
                        return;
                    }
                }
            }
        };
        match stage {
            Some(stage) => carrying.calls.push(One { policy, step, stage }),
            None => {
                let unreachable = Outcome::Unreachable { message: "not started".to_owned() };
                let at = time(now);
                self.term.take_outcome(&step, None, Vec::new(), at);
                carrying.execution.report(&policy, &unreachable);
            }
        }
    }
}

/// True when users ask for something else than they did.
fn other_intents(before: &Content, now: &Content) -> bool {
    let intents = |content: &Content| -> Vec<(PolicyUid, u64, bool)> {
        let of = |record: &PolicyRecord| (record.uid.clone(), record.version, record.deleting_since.is_some());
        content.policies.values().map(|stored| of(&stored.record)).collect()
    };
    !std::sync::Arc::ptr_eq(&before.policies, &now.policies) && intents(before) != intents(now)
}
