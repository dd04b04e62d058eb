//! What was read from AWS, and what of it holds. Before a write the object that it touches becomes unknown, and a read that was
//! under way at that moment is thrown away: it may show the state from before. No IO here; [`super::observer`] reads. Tests: `cache_tests.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, TargetGroupArn},
    execute::Outcome,
    observed::{Health, Known, Limits, Listener, LoadBalancer, Observed, Rule, Tags, Target, TargetGroup, TargetState},
    plan::step::Action,
};
use tokio::{sync::watch, time::Instant};

/// Something that is read in one go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The account's limits.
    Limits,
    /// All load balancers of the region.
    LoadBalancers,
    /// The tags of one load balancer.
    LoadBalancerTags(LoadBalancerArn),
    /// The listeners of one load balancer.
    Listeners(LoadBalancerArn),
    /// The rules of one listener.
    Rules(ListenerArn),
    /// All target groups with our prefix, with tags and attributes.
    Groups,
    /// One target group by its name.
    Group(String),
    /// The targets of one group.
    Targets(TargetGroupArn),
}

/// What a read brought.
#[derive(Debug)]
pub enum Reading {
    /// For [`Object::Limits`].
    Limits(Limits),
    /// For [`Object::LoadBalancers`].
    LoadBalancers(BTreeMap<LoadBalancerArn, LoadBalancer>),
    /// For [`Object::LoadBalancerTags`].
    LoadBalancerTags(Tags),
    /// For [`Object::Listeners`].
    Listeners(BTreeMap<ListenerArn, Listener>),
    /// For [`Object::Rules`]: the rules, and all groups that the listener uses, its default rule's included.
    Rules(BTreeMap<switchyard_core::arn::RuleArn, Rule>, BTreeSet<TargetGroupArn>),
    /// For [`Object::Groups`].
    Groups(BTreeMap<TargetGroupArn, TargetGroup>),
    /// For [`Object::Group`]; none: there is no such group.
    Group(Box<Option<(TargetGroupArn, TargetGroup)>>),
    /// For [`Object::Targets`]; none: the group is gone.
    Targets(Option<BTreeMap<Target, TargetState>>),
}

/// A read that was started; it counts only if nothing was written to its object meanwhile.
#[derive(Clone, Debug)]
pub struct Ticket {
    object: Object,
    reset: u64,
    generation: u64,
}

#[derive(Debug, Default)]
struct State {
    observed: Arc<Observed>,
    /// How often everything was forgotten; a read that began before the last time is worth nothing.
    reset: u64,
    /// Groups that each listener uses, for the quota ledger.
    used: HashMap<ListenerArn, BTreeSet<TargetGroupArn>>,
    generations: HashMap<Object, u64>,
    /// The targets of a group as they were before the call that is under way.
    before: HashMap<TargetGroupArn, BTreeMap<Target, TargetState>>,
    /// Written and not read since.
    unread: HashSet<Object>,
    listeners_read: BTreeSet<LoadBalancerArn>,
    load_balancers_read: bool,
    /// When the targets of each group were last read.
    targets_read: HashMap<TargetGroupArn, Instant>,
    groups_read: bool,
}

/// The cache, shared by the planner and the observer.
#[derive(Clone, Debug)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

impl Cache {
    /// An empty cache: nothing is known.
    pub fn new() -> Self {
        Self { state: Arc::default(), version: watch::Sender::new(0) }
    }

    /// Counts up with each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The present picture; cheap.
    pub fn observed(&self) -> Arc<Observed> {
        self.lock().observed.clone()
    }

    // A panic while the lock is held can only come from a broken allocation; the state is replaced field by field.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Starts a read.
    pub fn ticket(&self, object: Object) -> Ticket {
        let state = self.lock();
        let generation = state.generations.get(&object).copied().unwrap_or_default();
        Ticket { object, reset: state.reset, generation }
    }

    /// Takes what a read brought. False: something was written meanwhile, read again.
    pub fn store(&self, ticket: &Ticket, reading: Reading, now: Timestamp) -> bool {
        let mut state = self.lock();
        let generation = state.generations.get(&ticket.object).copied().unwrap_or_default();
        if (state.reset, generation) != (ticket.reset, ticket.generation) {
            return false;
        }
        let was_unread = state.unread.remove(&ticket.object);
        if let Object::Targets(arn) = &ticket.object {
            state.before.remove(arn);
            match &reading {
                Reading::Targets(None) => state.targets_read.remove(arn),
                _ => state.targets_read.insert(arn.clone(), Instant::now()),
            };
        }
        if !was_unread && state.knows(&ticket.object, &reading) {
            return true;
        }
        state.take(&ticket.object, reading, now);
        drop(state);
        self.changed();
        true
    }

    /// Forgets everything but the account's limits, and makes the reads under way worthless: another holder of the lease may
    /// have written since they began.
    pub fn reset(&self) {
        let mut state = self.lock();
        let observed = Observed { limits: state.observed.limits.clone(), ..Observed::default() };
        *state = State { observed: Arc::new(observed), reset: state.reset + 1, ..State::default() };
        drop(state);
        self.changed();
    }

    /// Takes why something cannot be read at this moment; none: every reading works.
    pub fn set_trouble(&self, trouble: Option<String>) {
        let mut state = self.lock();
        if state.observed.trouble == trouble {
            return;
        }
        Arc::make_mut(&mut state.observed).trouble = trouble;
        drop(state);
        self.changed();
    }

    /// True unless the object is part of something that is not there any more, as far as is known.
    pub fn is_listed(&self, object: &Object) -> bool {
        is_listed(&self.lock().observed, object)
    }

    /// True when the object was written and not read since.
    pub fn is_unread(&self, object: &Object) -> bool {
        self.lock().unread.contains(object)
    }

    /// How long ago the targets of a group were read; none: never.
    pub fn targets_age(&self, group: &TargetGroupArn) -> Option<Duration> {
        self.lock().targets_read.get(group).map(Instant::elapsed)
    }

    /// Makes what an action touches unknown, before its call is made.
    pub fn invalidate(&self, action: &Action) {
        let mut state = self.lock();
        for object in state.touch(action) {
            state.forget(&object);
        }
        drop(state);
        self.changed();
    }

    /// Takes what became of a call, and names what has to be read back. Targets are known at once again when AWS answered,
    /// so that a change of weights never waits for a reading of health that is throttled; they stay unread all the same.
    pub fn settle(&self, action: &Action, outcome: &Outcome) -> Vec<Object> {
        let mut state = self.lock();
        let objects = state.touch(action);
        state.settle_targets(action, outcome);
        drop(state);
        self.changed();
        objects
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

/// The objects that an action changes.
fn touched(action: &Action) -> Vec<Object> {
    match action {
        Action::CreateTargetGroup(new) => vec![Object::Group(new.name.clone())],
        Action::ModifyTargetGroup { group, .. }
        | Action::ModifyTargetGroupAttributes { group, .. }
        | Action::DeleteTargetGroup { group } => vec![Object::Group(group.name.clone())],
        Action::RegisterTargets { group, .. } | Action::DeregisterTargets { group, .. } => {
            group.arn.iter().cloned().map(Object::Targets).collect()
        }
        Action::TagLoadBalancer { load_balancer, .. } => vec![Object::LoadBalancerTags(load_balancer.clone())],
        Action::SetRulePriorities { listener, .. }
        | Action::CreateRule { listener, .. }
        | Action::ModifyRule { listener, .. }
        | Action::DeleteRule { listener, .. } => vec![Object::Rules(listener.clone())],
    }
}

/// What AWS said yes to: the new targets are there and not judged yet, the others drain.
fn confirm(targets: &mut BTreeMap<Target, TargetState>, action: &Action) {
    let state = |health| TargetState { health, reason: String::new() };
    match action {
        Action::RegisterTargets { targets: new, .. } => {
            for new in new {
                let present = targets.entry(new.target).or_insert_with(|| state(Health::Initial));
                if present.health == Health::Draining {
                    *present = state(Health::Initial);
                }
            }
        }
        Action::DeregisterTargets { targets: gone, .. } => {
            for target in gone {
                targets.insert(*target, state(Health::Draining));
            }
        }
        _ => {}
    }
}

/// The listing that would bring old tags, or miss a new group, if it was started before this action. Others go on: under
/// steady registrations an audit would else never come to its end.
fn listing_of(action: &Action) -> Option<Object> {
    match action {
        Action::CreateTargetGroup(_)
        | Action::ModifyTargetGroup { .. }
        | Action::ModifyTargetGroupAttributes { .. }
        | Action::DeleteTargetGroup { .. } => Some(Object::Groups),
        Action::TagLoadBalancer { .. } => Some(Object::LoadBalancers),
        Action::RegisterTargets { .. }
        | Action::DeregisterTargets { .. }
        | Action::SetRulePriorities { .. }
        | Action::CreateRule { .. }
        | Action::ModifyRule { .. }
        | Action::DeleteRule { .. } => None,
    }
}

impl State {
    /// Marks what an action changes as written: reads that are under way are worthless now.
    fn touch(&mut self, action: &Action) -> Vec<Object> {
        let objects = touched(action);
        for object in &objects {
            *self.generations.entry(object.clone()).or_default() += 1;
            self.unread.insert(object.clone());
        }
        if let Some(listing) = listing_of(action) {
            *self.generations.entry(listing).or_default() += 1;
        }
        objects
    }

    fn settle_targets(&mut self, action: &Action, outcome: &Outcome) {
        let (Action::RegisterTargets { group, .. } | Action::DeregisterTargets { group, .. }) = action else { return };
        // Without an answer nothing is known before it was read.
        if matches!(outcome, Outcome::Unknown { .. }) {
            return;
        }
        let Some(arn) = &group.arn else { return };
        let Some(mut targets) = self.before.remove(arn) else { return };
        if matches!(outcome, Outcome::Done { .. }) {
            confirm(&mut targets, action);
        }
        if let Some(group) = Arc::make_mut(&mut self.observed).target_groups.get_mut(arn) {
            group.targets = Known::Known(targets);
        }
    }

    fn forget(&mut self, object: &Object) {
        let observed = Arc::make_mut(&mut self.observed);
        match object {
            Object::Rules(arn) => {
                if let Some(listener) = observed.listeners.get_mut(arn) {
                    listener.rules = Known::Unknown;
                }
            }
            Object::Targets(arn) => {
                let targets = observed.target_groups.get_mut(arn).map(|group| std::mem::take(&mut group.targets));
                if let Some(Known::Known(targets)) = targets {
                    self.before.insert(arn.clone(), targets);
                }
            }
            // The group's policy is not planned before the read-back, see `super::cycle`.
            Object::Group(_)
            | Object::LoadBalancerTags(_)
            | Object::Limits
            | Object::LoadBalancers
            | Object::Listeners(_)
            | Object::Groups => {}
        }
    }

    fn take(&mut self, object: &Object, reading: Reading, now: Timestamp) {
        let observed = Arc::make_mut(&mut self.observed);
        match (object, reading) {
            (_, Reading::Limits(limits)) => observed.limits = limits,
            (_, Reading::LoadBalancers(read)) => {
                self.load_balancers_read = true;
                self.take_load_balancers(read);
            }
            (Object::LoadBalancerTags(arn), Reading::LoadBalancerTags(tags)) => {
                if let Some(load_balancer) = observed.load_balancers.get_mut(arn) {
                    load_balancer.tags = tags;
                }
            }
            (Object::Listeners(arn), Reading::Listeners(read)) => self.take_listeners(arn, read),
            (Object::Rules(arn), Reading::Rules(rules, used)) => {
                if let Some(listener) = observed.listeners.get_mut(arn) {
                    listener.rules = Known::Known(rules);
                }
                self.used.insert(arn.clone(), used);
                self.count_groups();
            }
            (_, Reading::Groups(read)) => {
                self.groups_read = true;
                self.take_groups(read);
            }
            (Object::Group(name), Reading::Group(found)) => {
                let found = *found;
                let targets = old_targets(observed, found.as_ref().map(|(arn, _)| arn));
                observed.target_groups.retain(|_, group| group.name != *name);
                if let Some((arn, mut group)) = found {
                    group.targets = targets;
                    observed.target_groups.insert(arn, group);
                }
            }
            (Object::Targets(arn), Reading::Targets(read)) => match (observed.target_groups.get_mut(arn), read) {
                (Some(group), Some(targets)) => group.targets = Known::Known(targets),
                (Some(_), None) => drop(observed.target_groups.remove(arn)),
                (None, _) => {}
            },
            // A reading of another kind than its object cannot be made, see `super::observer::read`.
            (_, _) => {}
        }
        let observed = Arc::make_mut(&mut self.observed);
        if self.load_balancers_read && self.groups_read && matches!(object, Object::LoadBalancers | Object::Groups) {
            observed.audited_at = Some(now);
        }
        // What is gone can never be read back, and nobody must wait for it.
        self.unread.retain(|object| is_listed(observed, object));
    }

    /// True when a reading of targets says nothing new: most do, and each change wakes the planner and copies what is shared.
    fn knows(&self, object: &Object, reading: &Reading) -> bool {
        let (Object::Targets(arn), Reading::Targets(Some(read))) = (object, reading) else { return false };
        self.observed.target_groups.get(arn).is_some_and(|group| group.targets.get() == Some(read))
    }

    fn take_load_balancers(&mut self, mut read: BTreeMap<LoadBalancerArn, LoadBalancer>) {
        let observed = Arc::make_mut(&mut self.observed);
        for (arn, load_balancer) in &mut read {
            if let Some(old) = observed.load_balancers.get(arn) {
                load_balancer.target_groups_in_use = old.target_groups_in_use.clone();
            }
        }
        observed.listeners.retain(|_, listener| read.contains_key(&listener.load_balancer));
        self.listeners_read.retain(|arn| read.contains_key(arn));
        observed.load_balancers = read;
    }

    fn take_listeners(&mut self, of: &LoadBalancerArn, mut read: BTreeMap<ListenerArn, Listener>) {
        let observed = Arc::make_mut(&mut self.observed);
        for (arn, listener) in &mut read {
            if let Some(old) = observed.listeners.get_mut(arn) {
                listener.rules = std::mem::take(&mut old.rules);
            }
        }
        observed.listeners.retain(|_, listener| listener.load_balancer != *of);
        observed.listeners.extend(read);
        self.listeners_read.insert(of.clone());
        self.count_groups();
    }

    fn take_groups(&mut self, mut read: BTreeMap<TargetGroupArn, TargetGroup>) {
        let observed = Arc::make_mut(&mut self.observed);
        for (arn, group) in &mut read {
            if let Some(old) = observed.target_groups.get_mut(arn) {
                group.targets = std::mem::take(&mut old.targets);
            }
        }
        observed.target_groups = read;
    }

    /// Counts the groups that each load balancer uses, as far as its listeners were read.
    fn count_groups(&mut self) {
        let observed = Arc::make_mut(&mut self.observed);
        self.used.retain(|arn, _| observed.listeners.contains_key(arn));
        let mut counted: BTreeMap<LoadBalancerArn, BTreeSet<&TargetGroupArn>> =
            self.listeners_read.iter().map(|arn| (arn.clone(), BTreeSet::new())).collect();
        for (arn, listener) in &observed.listeners {
            if let Some(groups) = counted.get_mut(&listener.load_balancer) {
                groups.extend(self.used.get(arn).into_iter().flatten());
            }
        }
        for (arn, groups) in counted {
            if let Some(load_balancer) = observed.load_balancers.get_mut(&arn) {
                load_balancer.target_groups_in_use = Known::Known(u32::try_from(groups.len()).unwrap_or(u32::MAX));
            }
        }
    }
}

fn is_listed(observed: &Observed, object: &Object) -> bool {
    match object {
        Object::LoadBalancerTags(arn) | Object::Listeners(arn) => observed.load_balancers.contains_key(arn),
        Object::Rules(arn) => observed.listeners.contains_key(arn),
        Object::Targets(arn) => observed.target_groups.contains_key(arn),
        Object::Limits | Object::LoadBalancers | Object::Groups | Object::Group(_) => true,
    }
}

fn old_targets(observed: &Observed, arn: Option<&TargetGroupArn>) -> Known<BTreeMap<Target, TargetState>> {
    arn.and_then(|arn| observed.target_groups.get(arn)).map(|group| group.targets.clone()).unwrap_or_default()
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
