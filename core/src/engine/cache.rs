//! What was read from AWS, and what of it holds. Before a write the object that it touches becomes unknown, and a read that was
//! under way at that moment is thrown away: it may show the state from before. Nothing is read here. Tests:
//! `core/tests/engine_cache.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::object::{Object, Reading, listing_of, touched};
use crate::{
    arn::{ListenerArn, LoadBalancerArn, TargetGroupArn},
    execute::Outcome,
    observed::{Health, Known, Listener, LoadBalancer, Observed, Target, TargetGroup, TargetState},
    plan::step::Action,
};

/// A read that was started; it counts only if nothing was written to its object meanwhile.
#[derive(Clone, Debug)]
pub struct Ticket {
    object: Object,
    reset: u64,
    generation: u64,
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Something was written meanwhile: thrown away, read again.
    TooOld,
    /// It says what was known already.
    NoNews,
    /// The picture is another one now.
    News,
}

/// What is known of AWS, shared by whoever plans and whoever reads. Times since the start of the process are called `elapsed`.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    observed: Arc<Observed>,
    /// How often everything was forgotten; a read that began before the last time is worth nothing.
    reset: u64,
    /// Groups that each listener uses, for the quota ledger.
    used: BTreeMap<ListenerArn, BTreeSet<TargetGroupArn>>,
    generations: BTreeMap<Object, u64>,
    /// The targets of a group as they were before the call that is under way.
    before: BTreeMap<TargetGroupArn, BTreeMap<Target, TargetState>>,
    /// Written and not read since.
    unread: BTreeSet<Object>,
    listeners_read: BTreeSet<LoadBalancerArn>,
    load_balancers_read: bool,
    /// When the targets of each group were last read, since the start of the process.
    targets_read: BTreeMap<TargetGroupArn, Duration>,
    groups_read: bool,
}

impl Cache {
    /// An empty cache: nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The present picture; a clone of it is cheap.
    pub fn observed(&self) -> &Arc<Observed> {
        &self.observed
    }

    /// Starts a read.
    pub fn ticket(&self, object: Object) -> Ticket {
        Ticket { reset: self.reset, generation: self.generation(&object), object }
    }

    fn generation(&self, object: &Object) -> u64 {
        self.generations.get(object).copied().unwrap_or_default()
    }

    /// Takes what a read brought.
    pub fn store(&mut self, ticket: &Ticket, reading: Reading, now: Timestamp, elapsed: Duration) -> Taken {
        if (self.reset, self.generation(&ticket.object)) != (ticket.reset, ticket.generation) {
            return Taken::TooOld;
        }
        let was_unread = self.unread.remove(&ticket.object);
        if let Object::Targets(arn) = &ticket.object {
            self.before.remove(arn);
            match &reading {
                Reading::Targets(None) => self.targets_read.remove(arn),
                _ => self.targets_read.insert(arn.clone(), elapsed),
            };
        }
        if !was_unread && self.knows(&ticket.object, &reading) {
            return Taken::NoNews;
        }
        self.take(&ticket.object, reading, now);
        Taken::News
    }

    /// Forgets everything but the account's limits, and makes the reads under way worthless: another holder of the lease may
    /// have written since they began.
    pub fn reset(&mut self) {
        let observed = Observed { limits: self.observed.limits.clone(), ..Observed::default() };
        *self = Self { observed: Arc::new(observed), reset: self.reset + 1, ..Self::default() };
    }

    /// Takes why something cannot be read at this moment; none: every reading works. True when that is new.
    pub fn set_trouble(&mut self, trouble: Option<String>) -> bool {
        if self.observed.trouble == trouble {
            return false;
        }
        Arc::make_mut(&mut self.observed).trouble = trouble;
        true
    }

    /// True unless the object is part of something that is not there any more, as far as is known.
    pub fn is_listed(&self, object: &Object) -> bool {
        is_listed(&self.observed, object)
    }

    /// True when the object was written and not read since.
    pub fn is_unread(&self, object: &Object) -> bool {
        self.unread.contains(object)
    }

    /// How long ago the targets of a group were read; none: never.
    pub fn targets_age(&self, group: &TargetGroupArn, elapsed: Duration) -> Option<Duration> {
        self.targets_read.get(group).map(|read| elapsed.saturating_sub(*read))
    }

    /// When the targets of each group were last read, by the clock that says `now` at this moment. A group whose targets are not
    /// known now keeps the time of the reading before.
    pub fn health_read(&self, elapsed: Duration, now: Timestamp) -> BTreeMap<TargetGroupArn, Timestamp> {
        let at = |read: &Duration| now.saturating_sub(elapsed.saturating_sub(*read)).unwrap_or(Timestamp::MIN);
        self.targets_read.iter().map(|(arn, read)| (arn.clone(), at(read))).collect()
    }

    /// Makes what an action touches unknown, before its call is made.
    pub fn invalidate(&mut self, action: &Action) {
        for object in self.touch(action) {
            self.forget(&object);
        }
    }

    /// Takes what became of a call, and names what has to be read back. Targets are known at once again when AWS answered,
    /// so that a change of weights never waits for a reading of health that is throttled; they stay unread all the same.
    pub fn settle(&mut self, action: &Action, outcome: &Outcome) -> Vec<Object> {
        let objects = self.touch(action);
        self.settle_targets(action, outcome);
        objects
    }

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
            // The group's policy is not planned before the read-back, see [`super::Term::unread`].
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
            // A reading of another kind than its object cannot be made by a reader that answers what was asked.
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
