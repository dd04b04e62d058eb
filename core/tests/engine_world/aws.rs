//! AWS as it behaves: calls take effect at a moment of their own, whoever made them and whether or not he still lives; answers are
//! lost, throttled, late; reads may be old; the load balancer judges its targets with a delay.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    engine::{Object, Reading},
    execute::Outcome,
    ids::{Epoch, VpcId, Weight},
    observed::{
        Action as RuleAction, Health, Known, Limits, Listener, LoadBalancer, Observed, Rule, Tags, Target, TargetGroup,
        TargetState,
    },
    ownership::GROUP_PREFIX,
    plan::{Action, GroupRef, Step},
    policy::validate::target_type_word,
};

use super::{Tick, seconds};

pub const VPC: &str = "vpc-1";
const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";
/// Two checks, a second apart.
const DETECTION: Tick = seconds(2);
/// The deregistration delay of all groups.
const DRAINING: Tick = seconds(10);

pub fn listener_arn() -> ListenerArn {
    ListenerArn::new(format!("{PREFIX}:listener/app/shared/1/443")).unwrap()
}

pub fn load_balancer_arn() -> LoadBalancerArn {
    LoadBalancerArn::new(format!("{PREFIX}:loadbalancer/app/shared/1")).unwrap()
}

/// A call on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    pub id: u64,
    /// The process that made it, and under which epoch.
    pub holder: u32,
    pub epoch: Epoch,
    pub intent: u64,
    pub step: Step,
    pub lands: Tick,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Carried,
    AnswerLost,
    NeverArrived,
    Refused,
    Throttled,
    Unreachable,
}

/// What the load balancer's checks found of a target lately.
#[derive(Clone, Copy, Debug)]
struct Checks {
    good: bool,
    since: Tick,
}

/// A read that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    Trouble,
    ParentGone,
}

pub struct Aws {
    /// The truth; all of it is known.
    pub truth: Arc<Observed>,
    checks: BTreeMap<(TargetGroupArn, Target), Checks>,
    draining_until: BTreeMap<(TargetGroupArn, Target), Tick>,
    flights: Vec<Flight>,
    answers: BTreeMap<u64, Outcome>,
    /// What was true when, for reads that are old.
    past: VecDeque<(Tick, Arc<Observed>)>,
    next: u64,
    /// When a call of ours last took effect: reads may be old, but none misses that, as in the sandbox and at AWS.
    written: Tick,
    /// The next call is lost (`true`: after it was carried out), or refused.
    next_answer: Option<Fate>,
    pub throttled_until: Tick,
    pub errors_until: Tick,
    pub away_until: Tick,
    pub slow_until: Tick,
    pub stale_until: Tick,
    /// Calls that took effect.
    pub writes: u64,
}

impl Aws {
    pub fn new(now: Timestamp) -> Self {
        let mut truth = Observed { audited_at: Some(now), ..Observed::default() };
        let load_balancer = LoadBalancer {
            name: "shared".into(),
            kind: "application".into(),
            vpc_id: VpcId::new(VPC).unwrap(),
            dns_name: "shared.example".into(),
            tags: Tags::new(),
            target_groups_in_use: Known::Unknown,
        };
        truth.load_balancers.insert(load_balancer_arn(), load_balancer);
        let rules = BTreeMap::from([(
            RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/1")).unwrap(),
            Rule { priority: 100, conditions: Vec::new(), action: RuleAction::Other, tags: Tags::new() },
        )]);
        let listener = Listener {
            load_balancer: load_balancer_arn(),
            port: 443,
            protocol: "HTTPS".into(),
            rules: Known::Known(rules),
        };
        truth.listeners.insert(listener_arn(), listener);
        Self {
            truth: Arc::new(truth),
            checks: BTreeMap::new(),
            draining_until: BTreeMap::new(),
            flights: Vec::new(),
            answers: BTreeMap::new(),
            past: VecDeque::new(),
            next: 2,
            written: 0,
            next_answer: None,
            throttled_until: 0,
            errors_until: 0,
            away_until: 0,
            slow_until: 0,
            stale_until: 0,
            writes: 0,
        }
    }

    pub fn lose_answer(&mut self, applied: bool) {
        self.next_answer = Some(if applied { Fate::AnswerLost } else { Fate::NeverArrived });
    }

    pub fn refuse_next(&mut self) {
        self.next_answer = Some(Fate::Refused);
    }

    /// Everything works again.
    pub fn calm(&mut self) {
        self.next_answer = None;
        for until in [
            &mut self.throttled_until,
            &mut self.errors_until,
            &mut self.away_until,
            &mut self.slow_until,
            &mut self.stale_until,
        ] {
            *until = 0;
        }
        self.quota(false);
    }

    pub fn quota(&mut self, reached: bool) {
        let rules = u32::try_from(self.rules().len()).unwrap();
        let groups = u32::try_from(self.truth.target_groups.len()).unwrap();
        let truth = self.change();
        truth.limits = if reached {
            Limits {
                rules_per_load_balancer: rules,
                target_groups_per_load_balancer: groups.max(1),
                targets_per_target_group: 3,
                ..Limits::default()
            }
        } else {
            Limits::default()
        };
    }

    fn change(&mut self) -> &mut Observed {
        Arc::make_mut(&mut self.truth)
    }

    pub fn rules(&self) -> &BTreeMap<RuleArn, Rule> {
        self.truth.listeners[&listener_arn()].rules.get().expect("the truth is known")
    }

    pub fn rules_mut(&mut self) -> &mut BTreeMap<RuleArn, Rule> {
        match &mut self.change().listeners.get_mut(&listener_arn()).unwrap().rules {
            Known::Known(rules) => rules,
            Known::Unknown => panic!("the truth is known"),
        }
    }

    pub fn targets(&self, arn: &TargetGroupArn) -> &BTreeMap<Target, TargetState> {
        self.truth.target_groups[arn].targets.get().expect("the truth is known")
    }

    pub fn targets_mut(&mut self, arn: &TargetGroupArn) -> &mut BTreeMap<Target, TargetState> {
        match &mut self.change().target_groups.get_mut(arn).unwrap().targets {
            Known::Known(targets) => targets,
            Known::Unknown => panic!("the truth is known"),
        }
    }

    pub fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Sends a call; `limit` ticks later at the latest it has taken effect or never will.
    pub fn send(&mut self, (holder, epoch, intent): (u32, Epoch, u64), step: Step, limit: Tick, now: Tick) -> u64 {
        let id = self.next_number();
        let slow = self.slow_until > now;
        let fate = match self.next_answer.take() {
            Some(fate) => fate,
            None if self.away_until > now => Fate::Unreachable,
            None if self.throttled_until > now && !id.is_multiple_of(10) => Fate::Throttled,
            None if self.errors_until > now && !id.is_multiple_of(3) => {
                if id.is_multiple_of(2) {
                    Fate::AnswerLost
                } else {
                    Fate::NeverArrived
                }
            }
            None => Fate::Carried,
        };
        let lands = now + if slow { limit } else { 1 + id % 2 };
        self.flights.push(Flight { id, holder, epoch, intent, step, lands: lands.min(now + limit), fate });
        id
    }

    /// The calls that take effect now.
    pub fn landing(&mut self, now: Tick) -> Vec<Flight> {
        let (landing, flying) = std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.lands <= now);
        self.flights = flying;
        landing
    }

    /// Lets a call take effect; the answer waits to be fetched. True when something was carried out.
    pub fn land(&mut self, flight: &Flight, now: Tick) -> bool {
        let message = || "by the model".to_owned();
        let (outcome, done) = match flight.fate {
            Fate::Carried | Fate::AnswerLost => {
                let outcome = self.carry_out(&flight.step.action, now);
                let done = matches!(outcome, Outcome::Done { .. });
                (outcome, done)
            }
            Fate::NeverArrived => (Outcome::Unknown { message: message() }, false),
            Fate::Refused => (Outcome::Refused { code: "ValidationError".into(), message: message() }, false),
            Fate::Throttled => (Outcome::Throttled { message: message() }, false),
            Fate::Unreachable => (Outcome::Unreachable { message: message() }, false),
        };
        if done {
            self.writes += 1;
            self.written = now;
        }
        let lost = flight.fate == Fate::AnswerLost;
        self.answers.insert(flight.id, if lost { Outcome::Unknown { message: message() } } else { outcome });
        done
    }

    /// True when the call would be carried out.
    pub fn arrives(flight: &Flight) -> bool {
        matches!(flight.fate, Fate::Carried | Fate::AnswerLost)
    }

    pub fn answer(&mut self, id: u64) -> Option<Outcome> {
        self.answers.remove(&id)
    }

    fn carry_out(&mut self, action: &Action, now: Tick) -> Outcome {
        match self.effect(action, now) {
            Ok(created) => Outcome::Done { created },
            Err(code) => Outcome::Refused { code: code.to_owned(), message: "by the model".to_owned() },
        }
    }

    fn effect(&mut self, action: &Action, now: Tick) -> Result<Option<TargetGroupArn>, &'static str> {
        match action {
            Action::CreateTargetGroup(_) => return self.create_group(action).map(Some),
            Action::ModifyTargetGroup { group, health_check } => {
                let arn = self.group(group)?;
                self.change().target_groups.get_mut(&arn).unwrap().health_check = health_check.clone();
            }
            Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds } => {
                let arn = self.group(group)?;
                let delay = Known::Known(*deregistration_delay_seconds);
                self.change().target_groups.get_mut(&arn).unwrap().deregistration_delay_seconds = delay;
            }
            Action::RegisterTargets { group, targets } => {
                let arn = self.group(group)?;
                let most = self.truth.limits.targets_per_target_group as usize;
                let new = targets.iter().filter(|new| !self.targets(&arn).contains_key(&new.target)).count();
                if self.targets(&arn).len() + new > most {
                    return Err("TooManyTargets");
                }
                for new in targets {
                    self.draining_until.remove(&(arn.clone(), new.target));
                    self.checks.remove(&(arn.clone(), new.target));
                    let state = TargetState { health: Health::Initial, reason: String::new() };
                    self.targets_mut(&arn).insert(new.target, state);
                }
            }
            Action::DeregisterTargets { group, targets } => {
                let arn = self.group(group)?;
                for target in targets {
                    if let Some(state) = self.targets_mut(&arn).get_mut(target) {
                        state.health = Health::Draining;
                        self.draining_until.entry((arn.clone(), *target)).or_insert(now + DRAINING);
                    }
                }
            }
            Action::DeleteTargetGroup { group } => {
                let arn = self.group(group)?;
                if self.in_use(&arn) {
                    return Err("ResourceInUse");
                }
                self.change().target_groups.remove(&arn);
            }
            Action::TagLoadBalancer { load_balancer, tags } => {
                let found = self.change().load_balancers.get_mut(load_balancer).ok_or("LoadBalancerNotFound")?;
                found.tags.extend(tags.clone());
            }
            Action::SetRulePriorities { .. }
            | Action::CreateRule { .. }
            | Action::ModifyRule { .. }
            | Action::DeleteRule { .. } => self.rule_effect(action)?,
        }
        Ok(None)
    }

    fn create_group(&mut self, action: &Action) -> Result<TargetGroupArn, &'static str> {
        let Action::CreateTargetGroup(new) = action else { unreachable!("only for this action") };
        if let Some((arn, same)) = self.truth.target_groups.iter().find(|(_, group)| group.name == new.name) {
            return if same.tags == new.tags { Ok(arn.clone()) } else { Err("DuplicateTargetGroupName") };
        }
        let number = self.next_number();
        let arn = TargetGroupArn::new(format!("{PREFIX}:targetgroup/{}/{number}", new.name)).unwrap();
        let group = TargetGroup {
            name: new.name.clone(),
            vpc_id: new.vpc_id.clone(),
            protocol: new.protocol.clone(),
            protocol_version: new.protocol_version.clone(),
            target_type: target_type_word(new.target_type).into(),
            health_check: new.health_check.clone(),
            deregistration_delay_seconds: Known::Known(300),
            stickiness_seconds: Known::Known(None),
            tags: new.tags.clone(),
            targets: Known::Known(BTreeMap::new()),
        };
        self.change().target_groups.insert(arn.clone(), group);
        Ok(arn)
    }

    fn rule_effect(&mut self, action: &Action) -> Result<(), &'static str> {
        match action {
            Action::SetRulePriorities { priorities, .. } => {
                if priorities.keys().any(|arn| !self.rules().contains_key(arn)) {
                    return Err("RuleNotFound");
                }
                let stay = self.rules().iter().filter(|(arn, _)| !priorities.contains_key(*arn));
                let stay: BTreeSet<u32> = stay.map(|(_, rule)| rule.priority).collect();
                if priorities.values().any(|priority| stay.contains(priority)) {
                    return Err("PriorityInUse");
                }
                for (arn, priority) in priorities {
                    self.rules_mut().get_mut(arn).unwrap().priority = *priority;
                }
            }
            Action::CreateRule { priority, conditions, forward, tags, .. } => {
                if self.rules().values().any(|rule| rule.priority == *priority) {
                    return Err("PriorityInUse");
                }
                if self.rules().len() >= self.truth.limits.rules_per_load_balancer as usize {
                    return Err("TooManyRules");
                }
                let action = self.forward(forward)?;
                let number = self.next_number();
                let arn = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/{number}")).unwrap();
                let rule = Rule { priority: *priority, conditions: conditions.clone(), action, tags: tags.clone() };
                self.rules_mut().insert(arn, rule);
            }
            Action::ModifyRule { rule, conditions, forward, .. } => {
                let old = self.rules().get(rule).ok_or("RuleNotFound")?.clone();
                let action = forward.as_ref().map(|forward| self.forward(forward)).transpose()?;
                let present = self.rules_mut().get_mut(rule).unwrap();
                present.action = action.unwrap_or(old.action);
                present.conditions = conditions.clone().unwrap_or(old.conditions);
            }
            Action::DeleteRule { rule, .. } => drop(self.rules_mut().remove(rule).ok_or("RuleNotFound")?),
            _ => unreachable!("only rules come here"),
        }
        Ok(())
    }

    fn group(&self, group: &GroupRef) -> Result<TargetGroupArn, &'static str> {
        let arn = group.arn.clone().expect("the executor fills in ARNs of groups that were made");
        if self.truth.target_groups.contains_key(&arn) { Ok(arn) } else { Err("TargetGroupNotFound") }
    }

    fn forward(&self, forward: &[(GroupRef, Weight)]) -> Result<RuleAction, &'static str> {
        let weights = forward.iter().map(|(group, weight)| Ok((self.group(group)?, *weight)));
        Ok(RuleAction::Forward { weights: weights.collect::<Result<_, _>>()?, stickiness_seconds: None })
    }

    pub fn in_use(&self, arn: &TargetGroupArn) -> bool {
        self.rules().values().any(|rule| weights_of(rule).contains_key(arn))
    }

    /// What rules send to a group, together.
    pub fn weight(&self, arn: &TargetGroupArn) -> u32 {
        self.rules().values().filter_map(|rule| weights_of(rule).remove(arn)).map(Weight::get).sum()
    }

    /// One second of health checks.
    pub fn judge(&mut self, now: Tick, answers: impl Fn(Target) -> bool) {
        let used: BTreeSet<TargetGroupArn> =
            self.rules().values().flat_map(|rule| weights_of(rule).into_keys()).collect();
        let mut changes = Vec::new();
        for (arn, group) in &self.truth.target_groups {
            for (target, state) in group.targets.get().into_iter().flatten() {
                let key = (arn.clone(), *target);
                if state.health == Health::Draining {
                    if self.draining_until.get(&key).is_none_or(|until| *until <= now) {
                        changes.push((key, None));
                    }
                    continue;
                }
                if !used.contains(arn) {
                    self.checks.remove(&key);
                    changes.push((key, Some(Health::Unused)));
                    continue;
                }
                let good = answers(*target);
                let checks = self.checks.entry(key.clone()).or_insert(Checks { good, since: now });
                if checks.good != good {
                    *checks = Checks { good, since: now };
                }
                let judged = now - checks.since >= DETECTION;
                let health = match (judged, good, state.health) {
                    (true, true, _) => Health::Healthy,
                    (true, false, _) => Health::Unhealthy,
                    (false, _, Health::Unused) => Health::Initial,
                    (false, _, before) => before,
                };
                changes.push((key, Some(health)));
            }
        }
        for ((arn, target), health) in changes {
            match health {
                None => {
                    self.draining_until.remove(&(arn.clone(), target));
                    self.checks.remove(&(arn.clone(), target));
                    self.targets_mut(&arn).remove(&target);
                }
                Some(health) if self.targets(&arn)[&target].health != health => {
                    self.targets_mut(&arn).get_mut(&target).unwrap().health = health;
                }
                Some(_) => {}
            }
        }
    }

    /// Keeps what is true now for reads that are old.
    pub fn keep_past(&mut self, now: Tick) {
        let news = self.past.back().is_none_or(|(_, last)| !Arc::ptr_eq(last, &self.truth));
        if news {
            self.past.push_back((now, self.truth.clone()));
        }
        while self.past.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) > seconds(8)) {
            self.past.pop_front();
        }
    }

    pub fn is_hard_to_read(&self, now: Tick) -> bool {
        [self.throttled_until, self.errors_until, self.away_until, self.stale_until]
            .into_iter()
            .any(|until| until > now)
    }

    /// What a read that starts now finds.
    pub fn read(&self, object: &Object, now: Tick, number: u64) -> Result<Reading, ReadFault> {
        let busy = self.throttled_until > now || self.errors_until > now;
        if self.away_until > now || (busy && !number.is_multiple_of(4)) {
            return Err(ReadFault::Trouble);
        }
        let mut source = &self.truth;
        if self.stale_until > now {
            let oldest = now.saturating_sub(seconds(4)).max(self.written);
            source = self.past.iter().find(|(at, _)| *at >= oldest).map_or(source, |(_, past)| past);
        }
        read_from(source, object)
    }

    /// Another hand was at it.
    pub fn foreign(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
    }
}

pub fn weights_of(rule: &Rule) -> BTreeMap<TargetGroupArn, Weight> {
    match &rule.action {
        RuleAction::Forward { weights, .. } => weights.clone(),
        RuleAction::Other => BTreeMap::new(),
    }
}

fn read_from(source: &Observed, object: &Object) -> Result<Reading, ReadFault> {
    let unread = |group: &TargetGroup| TargetGroup { targets: Known::Unknown, ..group.clone() };
    Ok(match object {
        Object::Limits => Reading::Limits(source.limits.clone()),
        Object::LoadBalancers => Reading::LoadBalancers(source.load_balancers.clone()),
        Object::LoadBalancerTags(arn) => {
            Reading::LoadBalancerTags(source.load_balancers.get(arn).ok_or(ReadFault::ParentGone)?.tags.clone())
        }
        Object::Listeners(arn) => {
            let of_this = source.listeners.iter().filter(|(_, listener)| listener.load_balancer == *arn);
            let unread = |listener: &Listener| Listener { rules: Known::Unknown, ..listener.clone() };
            Reading::Listeners(of_this.map(|(arn, listener)| (arn.clone(), unread(listener))).collect())
        }
        Object::Rules(arn) => {
            let listener = source.listeners.get(arn).ok_or(ReadFault::ParentGone)?;
            let rules = listener.rules.get().expect("the truth is known").clone();
            let used = rules.values().flat_map(|rule| weights_of(rule).into_keys()).collect();
            Reading::Rules(rules, used)
        }
        Object::Groups => {
            let ours = source.target_groups.iter().filter(|(_, group)| group.name.starts_with(GROUP_PREFIX));
            Reading::Groups(ours.map(|(arn, group)| (arn.clone(), unread(group))).collect())
        }
        Object::Group(name) => {
            let found = source.target_groups.iter().find(|(_, group)| group.name == *name);
            Reading::Group(Box::new(found.map(|(arn, group)| (arn.clone(), unread(group)))))
        }
        Object::Targets(arn) => {
            Reading::Targets(source.target_groups.get(arn).map(|group| group.targets.get().expect("known").clone()))
        }
    })
}
