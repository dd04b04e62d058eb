//! The judge: looks at what each call does to the load balancer, knows the truth of the clusters, and is as plain as possible. It
//! knows nothing of how decisions are made.
//!
//! | invariant | what is looked at here |
//! |---|---|
//! | I1 | a deregistration never leaves a group empty that has weight |
//! | I2 | written weights never add up to 0, and no empty group gets weight; while nothing of a policy is healthy its weights stay |
//! | I3 | nothing is deregistered of a cluster whose link has been stale; without failover and operators only intents move weights |
//! | I4 | of pods that live, are ready and answer, half stay registered while their group has weight, whatever the agent says |
//! | I5 | every group and rule that is changed carries the tags of its policy; a load balancer's own tags only get our epoch |
//! | I6 | no group is deleted while a rule names it, and no policy that stays loses its last rule |
//! | I7 | a call takes effect only under a lease that is held, with its intent recorded, and never below the epoch on the tag |
//! | I8, I9, I11 | `calm`: what was asked for comes true beside a policy that can never be satisfied, and then nothing is written |
//! | I10 | no address is registered that another cluster's or Service's pod owns, and none of a ready pod is taken out |
//! | I12 | weights are whole numbers up to 999 by type; without failover they are those asked for, or those from before |
//!
//! A hand of somebody else excuses what was planned from a reading of before it, for as long as the hub may not have read since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use switchyard_core::{
    arn::{RuleArn, TargetGroupArn},
    fleet::Mode,
    ids::{ClusterName, HubId, PolicyKey, PolicyUid, Weight},
    inventory::{EndpointKey, EndpointState, Link},
    observed::{Health, Rule, Tags, Target},
    ownership,
    plan::Action,
};

use super::{
    Broken, Tick,
    aws::{Aws, Flight, weights_of},
    event::{App, Place},
    groups_of,
    members::{Member, cluster, service},
    seconds,
    store::{LEASE, Store},
    time,
};

/// A foreign change is read with the next audit, which comes every 30 s, and acted on a few calls later.
const EXCUSED: Tick = seconds(60);
/// From a change in the store to the last call that was planned without it: a cycle with its calls.
const LATE: Tick = seconds(8);

/// What has been so for this time is known to agents that report late, and to plans that were made from that.
const KNOWN: Tick = seconds(20);

type Weights = BTreeMap<ClusterName, Weight>;

#[derive(Default)]
pub struct Judge {
    foreign_at: Option<Tick>,
    restored_at: Option<Tick>,
    stale_since: BTreeMap<ClusterName, Tick>,
    /// When a hub was last stopped, or AWS could not be read: what was read before may be old.
    blind_at: Tick,
    /// Since when nothing in a policy's rule is healthy.
    sick_since: BTreeMap<PolicyUid, Tick>,
    /// What was asked for lately; the last one is what is asked for now.
    asked: BTreeMap<PolicyUid, VecDeque<(Tick, Weights)>>,
    /// When operators last wanted something of clusters.
    fleet_at: Tick,
    seen_policies: usize,
    seen_fleet: usize,
    /// Pods that served and were taken out.
    taken: BTreeMap<(TargetGroupArn, Target), Tick>,
    /// Weights of the rules before the call that lands.
    weights_before: BTreeMap<RuleArn, BTreeMap<TargetGroupArn, Weight>>,
}

struct Scene<'a> {
    aws: &'a Aws,
    store: &'a Store,
    members: &'a [Member; 3],
    flight: &'a Flight,
    now: Tick,
}

impl Scene<'_> {
    fn broken(&self, invariant: &'static str, detail: String) -> Broken {
        let Flight { holder, step, .. } = self.flight;
        let detail = format!("{detail} (hub {holder}, {}: {})", step.policy, step.action);
        Broken { invariant, detail, at: self.now }
    }

    fn tags(&self, arn: &TargetGroupArn) -> Option<&Tags> {
        self.aws.truth.target_groups.get(arn).map(|group| &group.tags)
    }

    /// The cluster and the app of a group.
    fn place(&self, arn: &TargetGroupArn) -> Option<(Place, App)> {
        let tags = self.tags(arn)?;
        let place =
            Place::ALL.into_iter().find(|place| tags.get(ownership::TAG_CLUSTER).is_some_and(|c| c == place.name()))?;
        let policy = tags.get(ownership::TAG_POLICY)?;
        let app = App::ALL.into_iter().find(|app| policy.ends_with(&format!("/{}", app.name())))?;
        Some((place, app))
    }

    /// The pods that live, are ready and answer, for so long at least.
    fn serving(&self, (place, app): (Place, App), since: Tick) -> BTreeSet<Target> {
        let pods = self.members[place as usize].pods.iter();
        let well = |pod: &super::members::Pod| pod.wanted() && pod.answers && self.now - pod.changed >= since;
        pods.filter(|((of, _), pod)| *of == app && well(pod)).map(|(_, pod)| pod.target()).collect()
    }

    fn belongs(&self, tags: &Tags, policy: &PolicyKey) -> bool {
        let ours = matches!(ownership::owner(tags, &HubId::new("hub-1").unwrap()), ownership::Owner::Ours { .. });
        ours && tags.get(ownership::TAG_POLICY).is_some_and(|of| *of == policy.to_string())
    }
}

impl Judge {
    pub fn foreign(&mut self, now: Tick) {
        self.foreign_at = Some(now);
    }

    pub fn blind(&mut self, now: Tick) {
        self.blind_at = now;
    }

    pub fn restored(&mut self, now: Tick) {
        self.restored_at = Some(now);
        self.fleet_at = now;
        self.asked.clear();
    }

    fn excused(&self, now: Tick) -> bool {
        self.foreign_at.is_some_and(|at| now - at < EXCUSED)
    }

    /// Before a call takes effect.
    pub fn before(
        &mut self,
        aws: &Aws,
        store: &Store,
        members: &[Member; 3],
        flight: &Flight,
        now: Tick,
    ) -> Result<(), Broken> {
        let scene = Scene { aws, store, members, flight, now };
        self.note_fleet(store, now);
        self.weights_before = aws.rules().iter().map(|(arn, rule)| (arn.clone(), weights_of(rule))).collect();
        self.fence(&scene)?;
        self.ownership(&scene)?;
        match &flight.step.action {
            Action::RegisterTargets { group, targets } => {
                let arn = group.arn.as_ref().expect("filled in");
                targets.iter().try_for_each(|new| self.registers(&scene, arn, new.target))
            }
            Action::DeregisterTargets { group, targets } => {
                let arn = group.arn.as_ref().expect("filled in");
                self.deregisters(&scene, arn, targets)
            }
            Action::DeleteTargetGroup { group } => {
                let arn = group.arn.as_ref().expect("filled in");
                let bad = aws.in_use(arn) && !self.excused(now);
                if bad {
                    Err(scene.broken("I6", "a group is deleted while a rule names it".to_owned()))
                } else {
                    Ok(())
                }
            }
            Action::DeleteRule { rule, .. } => self.deletes_rule(&scene, rule),
            _ => Ok(()),
        }
    }

    fn fence(&self, scene: &Scene<'_>) -> Result<(), Broken> {
        let Flight { holder, epoch, intent, step, .. } = scene.flight;
        // What a restored database says of leases and intents from before is of another time.
        let restored = self.restored_at.is_some_and(|at| scene.now - at <= LEASE);
        if !restored && !scene.store.holds(*holder, *epoch, scene.now) {
            let row = scene.store.content.lease;
            return Err(scene.broken("I7", format!("a call under epoch {epoch} without the lease, which is {row:?}")));
        }
        if !restored && !scene.store.has_intent(*intent) {
            return Err(scene.broken("I7", "a call without a recorded intent".to_owned()));
        }
        let hub = HubId::new("hub-1").unwrap();
        let tagged = scene.aws.truth.load_balancers.values().map(|lb| ownership::epoch_of(&lb.tags, &hub)).max();
        if tagged.is_some_and(|tagged| tagged > *epoch) {
            return Err(scene.broken("I7", format!("a write under epoch {epoch}, below the tag's {tagged:?}")));
        }
        let listens = !matches!(step.action, Action::CreateTargetGroup(_) | Action::TagLoadBalancer { .. });
        if listens && tagged.is_none_or(|tagged| tagged < *epoch) && !self.excused(scene.now) {
            return Err(scene.broken("I7", format!("a write under epoch {epoch} before the tag, which is {tagged:?}")));
        }
        Ok(())
    }

    fn ownership(&self, scene: &Scene<'_>) -> Result<(), Broken> {
        let Flight { step, .. } = scene.flight;
        for group in groups_of(&step.action) {
            let Some(tags) = group.arn.as_ref().and_then(|arn| scene.tags(arn)) else { continue };
            if !scene.belongs(tags, &step.policy) {
                return Err(scene.broken("I5", format!("{} is not this policy's", group.name)));
            }
        }
        let rules: Vec<&RuleArn> = match &step.action {
            Action::ModifyRule { rule, .. } | Action::DeleteRule { rule, .. } => vec![rule],
            Action::SetRulePriorities { priorities, .. } => priorities.keys().collect(),
            _ => Vec::new(),
        };
        for arn in rules {
            let Some(rule) = scene.aws.rules().get(arn) else { continue };
            if !matches!(ownership::owner(&rule.tags, &HubId::new("hub-1").unwrap()), ownership::Owner::Ours { .. }) {
                return Err(scene.broken("I5", format!("{arn} is not ours")));
            }
        }
        Ok(())
    }

    fn registers(&self, scene: &Scene<'_>, arn: &TargetGroupArn, target: Target) -> Result<(), Broken> {
        let Some((place, app)) = scene.place(arn) else { return Ok(()) };
        let claims = claims(scene.store, target);
        let old = time(scene.now.saturating_sub(LATE));
        if claims.iter().any(|claim| claim.changed > old) || self.restored_at.is_some_and(|at| scene.now - at < LATE) {
            return Ok(());
        }
        let ours = |claim: &&Claim| claim.key.cluster == cluster(place) && claim.key.service == service(app);
        let living: Vec<&Claim> = claims.iter().filter(|claim| claim.lives).collect();
        if !living.iter().any(ours) {
            return Err(scene.broken("I10", format!("{target} is registered and nothing of this Service lives there")));
        }
        let first = claims.iter().filter(|claim| claim.key.cluster == cluster(place)).map(|claim| claim.since).min();
        let other = living.iter().find(|claim| claim.key.cluster != cluster(place) && Some(claim.since) < first);
        match other {
            Some(other) => Err(scene.broken("I10", format!("{target} belongs to a pod of {}", other.key.cluster))),
            None => Ok(()),
        }
    }

    fn deregisters(&mut self, scene: &Scene<'_>, arn: &TargetGroupArn, gone: &[Target]) -> Result<(), Broken> {
        let Some(place) = scene.place(arn) else { return Ok(()) };
        let name = cluster(place.0);
        // A person who drains a cluster is a better witness than its agent.
        let drained = scene.store.content.fleet.get(&name).is_some_and(|state| state.deregister && state.percent == 0);
        let stale = self.stale_since.get(&name).is_some_and(|since| scene.now - since > LATE);
        let operated = drained || scene.now - self.fleet_at < LATE;
        if stale && !(operated && scene.aws.weight(arn) == 0) {
            return Err(scene.broken("I3", format!("the agent of {name} is away, and its targets go")));
        }
        let Some(group) = scene.aws.truth.target_groups.get(arn) else { return Ok(()) };
        let registered = group.targets.get().expect("the truth is known");
        if scene.aws.weight(arn) == 0 || self.excused(scene.now) {
            return Ok(());
        }
        self.takes_no_ready_pod(scene, place, gone)?;
        // An address that a pod of another owner has, too, goes at once (I10).
        let others = |target: &Target| {
            let claims = claims(scene.store, *target);
            claims
                .iter()
                .any(|claim| claim.lives && (claim.key.cluster != name || claim.key.service != service(place.1)))
        };
        let mut serving = scene.serving(place, KNOWN);
        serving.retain(|target| !others(target));
        let healthy = |target: &Target| registered.get(target).is_some_and(|state| state.health == Health::Healthy);
        let before: BTreeSet<Target> = serving.iter().filter(|target| healthy(target)).copied().collect();
        let taken = self.taken.iter().filter(|((of, target), at)| {
            of == arn
                && scene.now - **at < seconds(250)
                && serving.contains(target)
                && !registered_now(registered, target)
        });
        let once: BTreeSet<Target> = taken.map(|((_, target), _)| *target).collect();
        let all = before.union(&once).count();
        let takes = before.iter().any(|target| gone.contains(target));
        let stay = scene.serving(place, 0);
        let after = stay.iter().filter(|target| healthy(target) && !gone.contains(target)).count();
        if takes && after * 2 < all {
            let detail = format!("of {all} pods that serve, {after} stay registered");
            return Err(scene.broken("I4", detail));
        }
        for target in before.iter().filter(|target| gone.contains(target)) {
            self.taken.insert((arn.clone(), *target), scene.now);
        }
        Ok(())
    }

    fn takes_no_ready_pod(&self, scene: &Scene<'_>, (place, app): (Place, App), gone: &[Target]) -> Result<(), Broken> {
        let name = cluster(place);
        let operated = scene.store.content.fleet.get(&name).is_some_and(|state| state.mode != Mode::Active);
        if scene.store.link(&name) != Some(Link::Connected) || operated {
            return Ok(());
        }
        let old = time(scene.now.saturating_sub(LATE));
        for target in gone {
            let claims = claims(scene.store, *target);
            let [only] = claims.as_slice() else { continue };
            let ours = only.key.cluster == name && only.key.service == service(app);
            if ours && only.ready && only.changed < old {
                return Err(scene.broken("I10", format!("{target} is of a ready pod")));
            }
        }
        Ok(())
    }

    fn deletes_rule(&self, scene: &Scene<'_>, rule: &RuleArn) -> Result<(), Broken> {
        let Some(present) = scene.aws.rules().get(rule) else { return Ok(()) };
        let uid = present.tags.get(ownership::TAG_POLICY_UID);
        let same = scene.aws.rules().values().filter(|other| other.tags.get(ownership::TAG_POLICY_UID) == uid).count();
        let mut policies = scene.store.content.policies.values();
        let stays = policies.any(|stored| {
            stored.record.deleting_since.is_none() && uid.is_some_and(|uid| uid == stored.record.uid.as_str())
        });
        if same == 1 && stays && !self.excused(scene.now) && self.restored_at.is_none() {
            return Err(scene.broken("I6", "the last rule of a policy that stays is deleted".to_owned()));
        }
        Ok(())
    }

    /// After a call took effect.
    pub fn after(
        &mut self,
        aws: &Aws,
        store: &Store,
        members: &[Member; 3],
        flight: &Flight,
        now: Tick,
    ) -> Result<(), Broken> {
        let scene = Scene { aws, store, members, flight, now };
        match &flight.step.action {
            Action::DeregisterTargets { group, .. } => {
                let arn = group.arn.as_ref().expect("filled in");
                let empty = aws.targets(arn).values().all(|state| state.health == Health::Draining);
                if empty && aws.weight(arn) > 0 && !self.excused(now) {
                    return Err(scene.broken("I1", format!("{} has weight and is emptied", group.name)));
                }
                Ok(())
            }
            Action::CreateRule { forward: _, .. } => {
                let new = aws.rules().iter().find(|(arn, _)| !self.weights_before.contains_key(*arn));
                new.map_or(Ok(()), |(_, rule)| self.weights(&scene, rule, &BTreeMap::new()))
            }
            Action::ModifyRule { rule, forward: Some(_), .. } => {
                let before = self.weights_before.get(rule).cloned().unwrap_or_default();
                let Some(rule) = aws.rules().get(rule) else { return Ok(()) };
                self.weights(&scene, rule, &before)
            }
            _ => Ok(()),
        }
    }

    fn weights(&self, scene: &Scene<'_>, rule: &Rule, before: &BTreeMap<TargetGroupArn, Weight>) -> Result<(), Broken> {
        let weights = weights_of(rule);
        if weights.values().all(|weight| !weight.carries()) {
            return Err(scene.broken("I2", "the weights add up to 0".to_owned()));
        }
        if weights.len() > 5 {
            return Err(scene.broken("I12", format!("{} groups in a rule", weights.len())));
        }
        if self.excused(scene.now) {
            return Ok(());
        }
        for (arn, weight) in &weights {
            let had = before.get(arn).is_some_and(|weight| weight.carries());
            let empty = scene.aws.targets(arn).values().all(|state| state.health == Health::Draining);
            if weight.carries() && !had && empty {
                return Err(scene.broken("I2", format!("{arn} is empty and gets weight")));
            }
        }
        self.nothing_healthy(scene, &weights, before)?;
        self.as_asked(scene, &weights, before)
    }

    fn uid(&self, scene: &Scene<'_>) -> Option<PolicyUid> {
        scene.store.content.policies.get(&scene.flight.step.policy).map(|stored| stored.record.uid.clone())
    }

    /// While nothing is healthy nothing is changed.
    fn nothing_healthy(
        &self,
        scene: &Scene<'_>,
        weights: &BTreeMap<TargetGroupArn, Weight>,
        before: &BTreeMap<TargetGroupArn, Weight>,
    ) -> Result<(), Broken> {
        let sick = self.uid(scene).and_then(|uid| self.sick_since.get(&uid).copied());
        // Other numbers for the same shares are no move.
        let sum = |weights: &BTreeMap<TargetGroupArn, Weight>| weights.values().map(|weight| weight.get()).sum::<u32>();
        let of = |weights: &BTreeMap<TargetGroupArn, Weight>, arn| weights.get(arn).map_or(0, |weight| weight.get());
        let mut groups = weights.keys().chain(before.keys());
        let moved = groups.any(|arn| of(weights, arn) * sum(before) != of(before, arn) * sum(weights));
        if sick.is_some_and(|since| scene.now - since.max(self.blind_at) > seconds(15)) && moved {
            return Err(scene.broken("I2", "weights are moved while nothing is healthy".to_owned()));
        }
        Ok(())
    }

    /// Without failover, and while operators want nothing of clusters, weights are what is asked for, or what they were.
    fn as_asked(
        &self,
        scene: &Scene<'_>,
        weights: &BTreeMap<TargetGroupArn, Weight>,
        before: &BTreeMap<TargetGroupArn, Weight>,
    ) -> Result<(), Broken> {
        let Some(stored) = scene.store.content.policies.get(&scene.flight.step.policy) else { return Ok(()) };
        let record = &stored.record;
        let restored = self.restored_at.is_some_and(|at| scene.now - at < EXCUSED);
        let operated = scene.store.content.fleet.values().any(|state| state.mode != Mode::Active);
        if record.policy.failover.is_some() || operated || scene.now - self.fleet_at < LATE || restored {
            return Ok(());
        }
        let of = |weights: &BTreeMap<TargetGroupArn, Weight>| -> Weights {
            let named = weights.iter().filter(|(_, weight)| weight.carries());
            named.filter_map(|(arn, weight)| Some((cluster(scene.place(arn)?.0), *weight))).collect()
        };
        let (new, old) = (of(weights), of(before));
        let Some(asked) = self.asked.get(&record.uid) else { return Ok(()) };
        let carries = |weights: &Weights| -> Weights {
            weights
                .iter()
                .filter(|(_, weight)| weight.carries())
                .map(|(name, weight)| (name.clone(), *weight))
                .collect()
        };
        let as_asked = |asked: &Weights| {
            let asked = carries(asked);
            // A new rule gives nothing to a cluster without targets.
            new == asked || (before.is_empty() && new.iter().all(|(name, weight)| asked.get(name) == Some(weight)))
        };
        if new == old || asked.iter().any(|(_, asked)| as_asked(asked)) {
            return Ok(());
        }
        Err(scene.broken("I12", format!("weights {new:?} are not asked for: {asked:?}")))
    }

    /// After each tick.
    pub fn tick(&mut self, aws: &Aws, store: &Store, _members: &[Member; 3], now: Tick) -> Result<(), Broken> {
        self.note_fleet(store, now);
        let policies = std::sync::Arc::as_ptr(&store.content.policies) as usize;
        if policies != self.seen_policies || now.is_multiple_of(seconds(1)) {
            self.seen_policies = policies;
            self.note_intents(store, now);
        }
        if now.is_multiple_of(seconds(1)) {
            self.note_links(store, now);
            self.note_health(aws, store, now);
            self.taken.retain(|_, at| now - *at < seconds(250));
        }
        Ok(())
    }

    fn note_fleet(&mut self, store: &Store, now: Tick) {
        let fleet = std::sync::Arc::as_ptr(&store.content.fleet) as usize;
        if fleet != self.seen_fleet {
            self.seen_fleet = fleet;
            self.fleet_at = now;
        }
    }

    fn note_intents(&mut self, store: &Store, now: Tick) {
        for stored in store.content.policies.values() {
            let record = &stored.record;
            let requested: Weights = record.requested().into_iter().collect();
            let list = self.asked.entry(record.uid.clone()).or_default();
            if list.back().is_none_or(|(_, last)| *last != requested) {
                list.push_back((now, requested));
            }
            while list.get(1).is_some_and(|(since, _)| now - since > LATE) {
                list.pop_front();
            }
        }
    }

    fn note_links(&mut self, store: &Store, now: Tick) {
        for (name, known) in &store.content.inventory.clusters {
            if known.link == Link::Stale {
                self.stale_since.entry(name.clone()).or_insert(now);
            } else {
                self.stale_since.remove(name);
            }
        }
    }

    fn note_health(&mut self, aws: &Aws, store: &Store, now: Tick) {
        let mut sick = BTreeSet::new();
        for stored in store.content.policies.values() {
            let uid = &stored.record.uid;
            let ours = |rule: &&Rule| rule.tags.get(ownership::TAG_POLICY_UID).is_some_and(|of| of == uid.as_str());
            let Some(rule) = aws.rules().values().find(ours) else { continue };
            let weights = weights_of(rule);
            let mut states = weights
                .keys()
                .filter(|arn| aws.truth.target_groups.contains_key(*arn))
                .flat_map(|arn| aws.targets(arn).values());
            if !states.any(|state| state.health == Health::Healthy) {
                sick.insert(uid.clone());
            }
        }
        self.sick_since.retain(|uid, _| sick.contains(uid));
        for uid in sick {
            self.sick_since.entry(uid).or_insert(now);
        }
    }
}

fn registered_now(registered: &BTreeMap<Target, switchyard_core::observed::TargetState>, target: &Target) -> bool {
    registered.get(target).is_some_and(|state| state.health != Health::Draining)
}

/// What the store knows of an address.
struct Claim {
    key: EndpointKey,
    lives: bool,
    ready: bool,
    since: jiff::Timestamp,
    changed: jiff::Timestamp,
}

fn claims(store: &Store, target: Target) -> Vec<Claim> {
    let at = store.content.inventory.endpoints().filter(|(key, _)| key.target == target);
    at.map(|(key, endpoint)| Claim {
        lives: matches!(endpoint.state, EndpointState::Present { terminating: false, .. }),
        ready: endpoint.state.wants_traffic(),
        since: endpoint.first_seen,
        changed: endpoint.updated_at,
        key,
    })
    .collect()
}
