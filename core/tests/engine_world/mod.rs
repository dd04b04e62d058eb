//! A world around the engine: clusters with pods and agents, two processes of the hub, a database, AWS, and time. It is moved by a
//! list of events, so that a history can be replayed and shortened; nothing in here draws a random number.
//!
//! After every tick the judge looks at what the calls did (`judge`): it knows the truth, and nothing of how decisions are made.

#![allow(dead_code, reason = "the model of a world says more than each test asks")]

pub mod aws;
pub mod calm;
pub mod event;
pub mod hub;
pub mod judge;
pub mod members;
pub mod shrink;
pub mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use jiff::Timestamp;
use switchyard_core::{
    execute,
    fleet::{self, Kind},
    ids::{PolicyKey, PolicyUid, ShiftId, Weight},
    observed::{Action as RuleAction, Target},
    plan::Action,
    policy::{ClusterTrafficPolicy, PolicyRecord, validate},
    shift::{
        Origin, ShiftSpec,
        machine::{By, Command, command},
    },
};

use aws::{Aws, weights_of};
use event::{App, Event, Place, Slot, Step};
use hub::{Hub, Outside};
use judge::Judge;
use members::{Member, cluster, zone};
use store::{Store, StoredPolicy};

/// The unit of time.
pub type Tick = u64;
pub const TICK_MILLIS: u64 = 200;
/// Pods that a Service may have in a cluster; one less at the start.
pub const SLOTS: u8 = 4;

pub const fn seconds(seconds: u64) -> Tick {
    seconds * 1000 / TICK_MILLIS
}

/// The database's clock.
pub fn time(now: Tick) -> Timestamp {
    let start: Timestamp = Timestamp::constant(1_767_225_600, 0);
    start.checked_add(jiff::SignedDuration::from_millis((now * TICK_MILLIS).cast_signed())).unwrap()
}

pub fn key(app: &str) -> PolicyKey {
    PolicyKey::new("shop", app).unwrap()
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Such as `I1`.
    pub invariant: &'static str,
    pub detail: String,
    pub at: Tick,
}

pub struct World {
    pub now: Tick,
    pub members: [Member; 3],
    pub hubs: [Hub; 2],
    pub store: Store,
    pub aws: Aws,
    pub judge: Judge,
    zones_lost: [bool; 3],
    uids: u32,
    holders: u32,
    created: u64,
    /// What is told, when somebody wants to read it.
    pub story: Option<String>,
}

impl World {
    pub fn new(seed: u64, tell: bool) -> Self {
        let mut uids = 0;
        let members = Place::ALL.map(|place| Member::new(place, &mut uids));
        let mut world = Self {
            now: 0,
            members,
            hubs: [Hub::new(1, 0), Hub::new(2, 0)],
            store: Store::default(),
            aws: Aws::new(time(0)),
            judge: Judge::default(),
            zones_lost: [false; 3],
            uids,
            holders: 2,
            created: 0,
            story: tell.then(String::new),
        };
        let variant = seed % 4;
        for app in App::ALL {
            world.create(app, variant);
        }
        // One that can never be satisfied, and delays nobody (I9).
        let bad = manifest("bad", "9999", &[(Place::Blue, 1, 0)], "");
        world.put(&bad);
        world
    }

    pub fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = format!("{:8.1} s  {}\n", (self.now * TICK_MILLIS) as f64 / 1000.0, line(self));
            if let Some(story) = &mut self.story {
                story.push_str(&line);
            }
        }
    }

    fn put(&mut self, manifest: &ClusterTrafficPolicy) {
        let Ok(policy) = validate(manifest) else { return };
        self.created += 1;
        let key = policy.key.clone();
        let present = self.store.content.policies.get(&key).map(|stored| stored.record.clone());
        let (uid, version) = match &present {
            Some(record) => (record.uid.clone(), record.version + 1),
            None => (PolicyUid::new(format!("uid-{}-{}", key.name, self.created)).unwrap(), 1),
        };
        let overridden = present.as_ref().and_then(|record| record.weight_override.clone());
        // New weights in the spec take the place of those by call, as in the hub.
        let same = present.as_ref().is_some_and(|record| record.policy.clusters == policy.clusters);
        let record = PolicyRecord {
            uid,
            version,
            generation: version,
            weight_override: overridden.filter(|_| same),
            failback_at: present.as_ref().and_then(|record| record.failback_at),
            deleting_since: None,
            policy,
        };
        match self.store.policies().get_mut(&key) {
            Some(stored) => stored.record = record,
            None => drop(self.store.policies().insert(key, StoredPolicy::new(record))),
        }
    }

    fn create(&mut self, app: App, variant: u64) {
        if self.store.content.policies.contains_key(&key(app.name())) {
            return;
        }
        let spec = match app {
            App::Cart => vec![(Place::Blue, 100, 0), (Place::Green, if variant == 1 { 50 } else { 0 }, 0)],
            App::Checkout => vec![(Place::Blue, 60, 0), (Place::Green, 40, 0), (Place::Dr, 100, 1)],
        };
        self.put(&manifest(app.name(), "443", &spec, failover(app, variant)));
    }

    /// The present record of a policy that is not on its way out.
    fn record(&self, app: App) -> Option<&PolicyRecord> {
        let stored = self.store.content.policies.get(&key(app.name()))?;
        Some(&stored.record).filter(|record| record.deleting_since.is_none())
    }

    fn mover(&self, app: App) -> Option<ShiftId> {
        let uid = &self.record(app)?.uid;
        let moves = |shift: &&switchyard_core::shift::Shift| {
            shift.is_active() && shift.present_moves().any(|one| one.uid == *uid)
        };
        self.store.content.shifts.values().find(moves).map(|shift| shift.id.clone())
    }

    /// The addresses at which a request is answered, by whichever pod stands there.
    fn answering(&self) -> BTreeSet<Target> {
        let lit = self.members.iter().filter(|member| !member.dark);
        let pods = lit.flat_map(|member| member.pods.iter());
        let answer = pods.filter(|((_, slot), pod)| pod.answers && !self.zones_lost[usize::from(zone(*slot))]);
        answer.map(|(_, pod)| pod.target()).collect()
    }

    /// One tick: what is in the air lands, everybody does one thing, the judge looks.
    pub fn tick(&mut self) -> Result<(), Broken> {
        self.now += 1;
        let now = self.now;
        for flight in self.aws.landing(now) {
            if Aws::arrives(&flight) {
                self.judge.before(&self.aws, &self.store, &self.members, &flight, now)?;
            }
            let done = self.aws.land(&flight, now);
            self.tell(|_| {
                let (policy, holder) = (&flight.step.policy, flight.holder);
                format!("hub {holder} for {policy}: {} {}", flight.step.action, if done { "" } else { "(not done)" })
            });
            if done {
                self.judge.after(&self.aws, &self.store, &self.members, &flight, now)?;
            }
        }
        for member in &mut self.members {
            member.pass(now);
            member.report(&mut self.store, now);
        }
        if now.is_multiple_of(seconds(1)) {
            let answering = self.answering();
            self.aws.judge(now, |target| answering.contains(&target));
            self.aws.keep_past(now);
            if now.is_multiple_of(seconds(60)) {
                self.store.purge(now);
            }
        }
        // Either may be the first.
        let order = if now.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for index in order {
            let out = &mut Outside { store: &mut self.store, aws: &mut self.aws, now };
            self.hubs[index].poll(out);
        }
        if self.hubs.iter().any(|hub| hub.paused || !hub.alive) || self.aws.is_hard_to_read(now) {
            self.judge.blind(now);
        }
        self.judge.tick(&self.aws, &self.store, &self.members, now)
    }

    /// Lets a history happen.
    pub fn play(&mut self, history: &[Step]) -> Result<(), Broken> {
        for step in history {
            for _ in 0..step.wait {
                self.tick()?;
            }
            self.tell(|_| format!("EVENT {}", step));
            self.apply(&step.event);
        }
        Ok(())
    }

    fn member(&mut self, place: Place) -> &mut Member {
        &mut self.members[place as usize]
    }

    /// A new process in the place of one that is gone.
    pub fn start_hub(&mut self, index: usize, accepts_restored: bool) {
        self.holders += 1;
        self.hubs[index] = Hub::new(self.holders, self.now);
        self.hubs[index].accepts_restored = accepts_restored;
    }

    fn apply(&mut self, event: &Event) {
        let now = self.now;
        match *event {
            Event::PodDies(slot) => self.member(slot.0).set_answers(slot.1, slot.2, false, now),
            Event::PodRecovers(slot) => self.member(slot.0).set_answers(slot.1, slot.2, true, now),
            Event::PodUnready(slot) => self.member(slot.0).set_ready(slot.1, slot.2, false),
            Event::PodScaledDown(slot) => self.member(slot.0).scale_down(slot, now),
            Event::PodScaledUp(slot) => self.with_uids(slot.0, |member, uids| member.scale_up(slot, uids)),
            Event::PodMoves(slot) => self.with_uids(slot.0, |member, uids| member.replace(slot, None, uids)),
            Event::PodTakesAddress(slot, from) => self.takes_address(slot, from, false),
            Event::PodCopiesAddress(slot, from) => self.takes_address(slot, from, true),
            Event::NodesLost(place) => self.nodes(place, false),
            Event::NodesBack(place) => self.nodes(place, true),
            Event::AllUnready(place) => self.all(place, false),
            Event::AllReady(place) => self.all(place, true),
            Event::EverythingUnready => Place::ALL.into_iter().for_each(|place| self.all(place, false)),
            Event::EverythingReady => Place::ALL.into_iter().for_each(|place| self.all(place, true)),
            Event::ZoneLost(zone) => self.zones_lost[usize::from(zone % 3)] = true,
            Event::ZoneBack(zone) => self.zones_lost[usize::from(zone % 3)] = false,
            Event::Dark(place) => self.member(place).dark = true,
            Event::Lit(place) => self.member(place).dark = false,
            Event::AgentAway(place) => self.member(place).agent_away(now),
            Event::AgentBack(place) => self.member(place).agent_back(now),
            Event::AgentRestarts(place) => self.member(place).agent_restarts(now),
            Event::AgentLags(place, lag) => self.member(place).lags(lag),
            Event::ApiEmpty(place) => self.member(place).set_api_empty(true),
            Event::ApiBack(place) => self.member(place).set_api_empty(false),
            Event::HubKilled(hub) => self.hubs[usize::from(hub)].alive = false,
            Event::HubStarted(hub) => {
                if !self.hubs[usize::from(hub)].alive {
                    self.start_hub(usize::from(hub), false);
                }
            }
            Event::HubPaused(hub) => self.hubs[usize::from(hub)].paused = true,
            Event::HubResumed(hub) => self.hubs[usize::from(hub)].paused = false,
            Event::HubClock(hub, by) => self.hubs[usize::from(hub)].clock_off += i64::from(by),
            Event::StoreAway => self.store.set_away(true),
            Event::StoreBack => self.store.set_away(false),
            Event::StoreSlow(slow) => self.store.slow = slow,
            Event::StoreBackup => self.store.back_up(),
            Event::StoreRestored => self.restore(),
            _ => self.apply_elsewhere(event),
        }
    }

    fn apply_elsewhere(&mut self, event: &Event) {
        let until = |for_seconds: u8| self.now + seconds(for_seconds.into());
        match *event {
            Event::AnswerLost { applied } => self.aws.lose_answer(applied),
            Event::Refused => self.aws.refuse_next(),
            Event::Throttled(time) => self.aws.throttled_until = until(time),
            Event::ServerErrors(time) => self.aws.errors_until = until(time),
            Event::AwsAway(time) => self.aws.away_until = until(time),
            Event::AwsSlow(time) => self.aws.slow_until = until(time),
            Event::StaleReads(time) => self.aws.stale_until = until(time),
            Event::QuotaReached(reached) => self.aws.quota(reached),
            Event::ForeignWeights(app, bits) => self.foreign_weights(app, bits),
            Event::ForeignDeletesRule(app) => self.foreign_rule(app, false),
            Event::ForeignCopiesRule(app) => self.foreign_rule(app, true),
            Event::ForeignTakesTarget(slot) => self.foreign_takes_target(slot),
            // Intents are refused while the database is away.
            _ if self.store.is_up() => self.apply_intent(event),
            _ => {}
        }
    }

    fn apply_intent(&mut self, event: &Event) {
        let now = self.now;
        match *event {
            Event::Weights(app, weights) => self.call_weights(app, weights),
            Event::Spec(app, weights) => self.new_spec(app, weights),
            Event::Freeze(app, freeze) => {
                let Some(mut record) = self.record(app).cloned() else { return };
                record.policy.freeze = freeze;
                record.version += 1;
                self.store.policies().get_mut(&key(app.name())).unwrap().record = record;
            }
            Event::Deleted(app) => {
                if self.record(app).is_some() && self.mover(app).is_none() {
                    let record = &mut self.store.policies().get_mut(&key(app.name())).unwrap().record;
                    record.deleting_since = Some(time(now));
                    record.version += 1;
                }
            }
            Event::Created(app) => self.create(app, self.created % 4),
            Event::Failback(app) => {
                if self.record(app).is_some() {
                    let record = &mut self.store.policies().get_mut(&key(app.name())).unwrap().record;
                    record.failback_at = Some(time(now));
                    record.version += 1;
                }
            }
            Event::Cordon(place) => self.operate(place, Kind::Cordon, 100, 0),
            Event::Drain(place, step) => self.operate(place, Kind::Drain, step.into(), 0),
            Event::Uncordon(place) => self.operate(place, Kind::Uncordon, 100, 0),
            Event::Drill(place, time) => self.operate(place, Kind::Drill, 100, time.into()),
            Event::Shift(app, weights, step) => self.start_shift(app, weights, step),
            Event::ShiftAborted(app) => {
                let Some(id) = self.mover(app) else { return };
                let shift = self.store.content.shifts[&id].clone();
                let before = shift.version;
                if let Ok((shift, writes)) =
                    command(shift, &Command::Abort, By { actor: "alice", reason: "" }, time(now))
                {
                    self.store.shift(before, &shift, &writes);
                }
            }
            _ => unreachable!("{event:?} is no intent"),
        }
    }

    fn operate(&mut self, place: Place, kind: Kind, step_percent: u32, duration_seconds: u32) {
        self.created += 1;
        let command = fleet::machine::Command {
            kind,
            id: format!("op-{}", self.created),
            actor: "alice".to_owned(),
            reason: String::new(),
            step_percent,
            step_seconds: 2,
            force: false,
            duration_seconds,
        };
        self.store.command_cluster(&cluster(place), &command, self.now);
    }

    fn with_uids(&mut self, place: Place, change: impl FnOnce(&mut Member, &mut u32)) {
        change(&mut self.members[place as usize], &mut self.uids);
    }

    fn takes_address(&mut self, slot: Slot, from: Slot, lives_on: bool) {
        if slot == from {
            return;
        }
        let member = self.member(from.0);
        let Some(address) = member.pods.get(&(from.1, from.2)).map(|pod| pod.address) else { return };
        if !lives_on {
            member.remove(from);
        }
        self.with_uids(slot.0, |member, uids| member.replace(slot, Some(address), uids));
    }

    fn nodes(&mut self, place: Place, live: bool) {
        let now = self.now;
        self.member(place).each(|member, app, slot| {
            if slot % 2 == 1 {
                member.set_answers(app, slot, live, now);
            }
        });
    }

    fn all(&mut self, place: Place, well: bool) {
        let now = self.now;
        self.member(place).each(|member, app, slot| {
            member.set_answers(app, slot, well, now);
            member.set_ready(app, slot, well);
        });
    }

    fn restore(&mut self) {
        if self.store.is_up() && self.store.restore() {
            let now = self.now;
            for member in self.members.iter_mut().filter(|member| !member.agent.away) {
                member.agent_away(now);
                member.agent_back(now);
            }
            self.judge.restored(now);
        }
    }

    fn call_weights(&mut self, app: App, weights: [u16; 3]) {
        let Some(record) = self.record(app).filter(|_| self.mover(app).is_none()) else { return };
        let names = record.policy.clusters.iter().map(|(name, _)| name.clone());
        let weight = |name: &switchyard_core::ids::ClusterName| {
            let place = Place::ALL.into_iter().find(|place| place.name() == name.as_str()).unwrap();
            Weight::new(weights[place as usize].into()).unwrap()
        };
        let asked: BTreeMap<_, _> = names.map(|name| (name.clone(), weight(&name))).collect();
        if asked.values().any(|weight| weight.carries()) {
            let record = &mut self.store.policies().get_mut(&key(app.name())).unwrap().record;
            record.weight_override = Some(asked);
            record.version += 1;
        }
    }

    fn new_spec(&mut self, app: App, weights: [Option<u16>; 3]) {
        if self.record(app).is_none() || self.mover(app).is_some() {
            return;
        }
        let named = app.places().iter().filter_map(|place| {
            let standby = u32::from(app == App::Checkout && *place == Place::Dr);
            Some((*place, u32::from(weights[*place as usize]?), standby))
        });
        self.put(&manifest(app.name(), "443", &named.collect::<Vec<_>>(), failover(app, 0)));
    }

    fn start_shift(&mut self, app: App, weights: [u16; 3], step: u8) {
        let Some(record) = self.record(app).filter(|_| self.mover(app).is_none()).cloned() else { return };
        let mut asked = String::new();
        for (name, _) in &record.policy.clusters {
            let place = Place::ALL.into_iter().find(|place| place.name() == name.as_str()).unwrap();
            write!(asked, "{name}: {}, ", weights[place as usize]).unwrap();
        }
        let text = format!(
            "{{policies: [{{name: {}, weights: {{{asked}}}}}], strategy: {{linear: {{stepPercent: {step}, bakeSeconds: 2}}}}, \
             progressDeadlineSeconds: 30}}",
            app.name()
        );
        let spec: ShiftSpec = serde_norway::from_str(&text).unwrap();
        let Ok(plan) = switchyard_core::shift::validate(&spec, &key("cart").namespace, false) else { return };
        self.created += 1;
        let id = ShiftId::new(format!("s{}", self.created)).unwrap();
        let records = BTreeMap::from([(key(app.name()), &record)]);
        if let Ok(shift) = plan.start(id, Origin::Call, "alice", &records, time(self.now)) {
            self.store.shift(shift.version, &shift, &[]);
        }
    }

    fn foreign_weights(&mut self, app: App, bits: u16) {
        let Some(arn) = self.rule_of(app) else { return };
        self.aws.foreign(|aws| {
            if let RuleAction::Forward { weights, .. } = &mut aws.rules_mut().get_mut(&arn).unwrap().action {
                for (i, weight) in weights.values_mut().enumerate() {
                    *weight = Weight::new(u32::from(bits >> (3 * i)) % 3).unwrap();
                }
            }
        });
        self.judge.foreign(self.now);
    }

    fn foreign_rule(&mut self, app: App, copies: bool) {
        let Some(arn) = self.rule_of(app) else { return };
        self.aws.foreign(|aws| {
            if !copies {
                aws.rules_mut().remove(&arn);
                return;
            }
            let mut copy = aws.rules()[&arn].clone();
            copy.priority = 40_000 + u32::try_from(aws.next_number() % 1000).unwrap();
            let number = aws.next_number();
            let base = arn.as_str().rsplit_once('/').unwrap().0;
            let free = aws.rules().values().all(|rule| rule.priority != copy.priority);
            if free {
                let arn = switchyard_core::arn::RuleArn::new(format!("{base}/{number}")).unwrap();
                aws.rules_mut().insert(arn, copy);
            }
        });
        self.judge.foreign(self.now);
    }

    fn foreign_takes_target(&mut self, (place, app, slot): Slot) {
        let Some(pod) = self.members[place as usize].pods.get(&(app, slot)) else { return };
        let target = pod.target();
        let groups: Vec<_> = self.aws.truth.target_groups.keys().cloned().collect();
        for arn in groups {
            if self.aws.targets(&arn).contains_key(&target) {
                self.aws.targets_mut(&arn).remove(&target);
            }
        }
        self.judge.foreign(self.now);
    }

    fn rule_of(&self, app: App) -> Option<switchyard_core::arn::RuleArn> {
        let uid = self.record(app)?.uid.to_string();
        let rules = self.aws.rules().iter();
        let ours = |rule: &switchyard_core::observed::Rule| {
            rule.tags.get(switchyard_core::ownership::TAG_POLICY_UID) == Some(&uid)
        };
        rules.filter(|(_, rule)| ours(rule)).map(|(arn, _)| arn.clone()).next()
    }

    /// Weights of a policy's rule, by cluster.
    pub fn weights_of(&self, app: App) -> BTreeMap<String, u32> {
        let Some(arn) = self.rule_of(app) else { return BTreeMap::new() };
        let weights = weights_of(&self.aws.rules()[&arn]);
        let cluster = |arn| self.aws.truth.target_groups[arn].tags[switchyard_core::ownership::TAG_CLUSTER].clone();
        weights.iter().map(|(arn, weight)| (cluster(arn), weight.get())).collect()
    }
}

/// The groups that an action names.
pub fn groups_of(action: &Action) -> Vec<&switchyard_core::plan::GroupRef> {
    execute::groups(action)
}

fn failover(app: App, variant: u64) -> &'static str {
    const FAST: &str = "  failover: {unhealthyAfterSeconds: 2, healthyAfterSeconds: 4, failback: Auto, failbackStepPercent: 50, \
                        failbackStepSeconds: 2, holdDownMaxSeconds: 20, maxMovesPerHour: 60}\n";
    match (app, variant) {
        (App::Cart, 0 | 1) => "",
        (App::Cart, _) | (App::Checkout, _) => FAST,
    }
}

fn manifest(name: &str, port: &str, clusters: &[(Place, u32, u32)], extra: &str) -> ClusterTrafficPolicy {
    let one = |(place, weight, priority): &(Place, u32, u32)| {
        let priority = if *priority > 0 { format!(", priority: {priority}") } else { String::new() };
        format!("{{name: {}, weight: {weight}{priority}}}", place.name())
    };
    let clusters: Vec<String> = clusters.iter().map(one).collect();
    let clusters = clusters.join(", ");
    let text = format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: {port}}}\n  match: {{paths: [{{value: /{name}}}]}}\n  \
         backend: {{service: {{name: {name}, port: http}}}}\n  clusters: [{clusters}]\n{extra}"
    );
    serde_norway::from_str(&text).unwrap()
}
