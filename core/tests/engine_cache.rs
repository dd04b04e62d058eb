//! What the engine believes of AWS after writes and late answers.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, TargetGroupArn},
    engine::{Cache, Object, Reading, Taken, Ticket},
    execute::Outcome,
    ids::{HubId, PolicyKey, PolicyUid, VpcId, Weight},
    observed::{
        Action as RuleAction, Condition, Health, HealthCheck, Known, Listener, LoadBalancer, Observed, Rule, Tags,
        Target, TargetGroup, TargetState,
    },
    ownership,
    plan::{Action, GroupRef},
};

const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";

fn group_arn() -> TargetGroupArn {
    TargetGroupArn::new(format!("{PREFIX}:targetgroup/sy-a/1")).unwrap()
}

fn listener_arn() -> ListenerArn {
    ListenerArn::new(format!("{PREFIX}:listener/app/shared/1/2")).unwrap()
}

fn load_balancer_arn() -> LoadBalancerArn {
    LoadBalancerArn::new(format!("{PREFIX}:loadbalancer/app/shared/1")).unwrap()
}

fn group() -> TargetGroup {
    let health_check = HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: "/".into(),
        interval_seconds: 15,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    };
    let hub = HubId::new("hub").unwrap();
    let key = PolicyKey::new("shop", "a").unwrap();
    TargetGroup {
        name: "sy-a".into(),
        vpc_id: VpcId::new("vpc-1").unwrap(),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        target_type: "ip".into(),
        health_check,
        deregistration_delay_seconds: Known::Known(300),
        stickiness_seconds: Known::Known(None),
        tags: ownership::rule_tags(&hub, &key, &PolicyUid::new("u").unwrap()),
        targets: Known::Unknown,
    }
}

fn targets(addresses: &[&str]) -> Reading {
    let state = TargetState { health: Health::Healthy, reason: String::new() };
    let target = |a: &&str| (Target { id: a.parse().unwrap(), port: 80 }, state.clone());
    Reading::Targets(Some(addresses.iter().map(target).collect()))
}

fn register() -> Action {
    let group = GroupRef { name: "sy-a".into(), arn: Some(group_arn()) };
    Action::RegisterTargets { group, targets: Vec::new() }
}

fn listener() -> Listener {
    Listener { load_balancer: load_balancer_arn(), port: 443, protocol: "HTTPS".into(), rules: Known::Unknown }
}

fn load_balancer() -> LoadBalancer {
    LoadBalancer {
        name: "shared".into(),
        kind: "application".into(),
        vpc_id: VpcId::new("vpc-1").unwrap(),
        dns_name: String::new(),
        tags: Tags::new(),
        target_groups_in_use: Known::Unknown,
    }
}

fn read(cache: &mut Cache, object: Object, reading: Reading) -> bool {
    let ticket = cache.ticket(object);
    store(cache, &ticket, reading) != Taken::TooOld
}

fn store(cache: &mut Cache, ticket: &Ticket, reading: Reading) -> Taken {
    cache.store(ticket, reading, Timestamp::UNIX_EPOCH, Duration::ZERO)
}

fn filled() -> Cache {
    let mut cache = Cache::new();
    assert!(read(
        &mut cache,
        Object::LoadBalancers,
        Reading::LoadBalancers([(load_balancer_arn(), load_balancer())].into())
    ));
    assert!(cache.observed().audited_at.is_none(), "one listing alone is no audit");
    assert!(read(&mut cache, Object::Groups, Reading::Groups([(group_arn(), group())].into())));
    assert!(cache.observed().audited_at.is_some());
    assert!(read(&mut cache, Object::Targets(group_arn()), targets(&["10.0.0.1"])));
    cache
}

fn known_targets(cache: &Cache) -> Option<usize> {
    cache.observed().target_groups[&group_arn()].targets.get().map(BTreeMap::len)
}

#[test]
fn a_write_makes_its_object_unknown_until_it_is_read_again() {
    let mut cache = filled();
    cache.invalidate(&register());
    assert_eq!(known_targets(&cache), None);
    let objects = cache.settle(&register(), &Outcome::Unknown { message: "cut".into() });
    assert_eq!(objects, [Object::Targets(group_arn())]);
    assert_eq!(known_targets(&cache), None);
    assert!(cache.is_unread(&objects[0]));
    assert!(read(&mut cache, Object::Targets(group_arn()), targets(&["10.0.0.1", "10.0.0.2"])));
    assert_eq!(known_targets(&cache), Some(2));
    assert!(!cache.is_unread(&objects[0]));
}

#[test]
fn a_read_that_was_under_way_when_a_write_began_is_thrown_away() {
    let mut cache = filled();
    let ticket = cache.ticket(Object::Targets(group_arn()));
    cache.invalidate(&register());
    assert_eq!(store(&mut cache, &ticket, targets(&["10.0.0.1"])), Taken::TooOld);
    assert_eq!(known_targets(&cache), None);
}

fn change(addresses: &[&str], register: bool) -> Action {
    let group = GroupRef { name: "sy-a".into(), arn: Some(group_arn()) };
    let targets = addresses.iter().map(|a| Target { id: a.parse().unwrap(), port: 80 });
    if register {
        let new = targets.map(|target| switchyard_core::plan::NewTarget { target, zone: None });
        return Action::RegisterTargets { group, targets: new.collect() };
    }
    Action::DeregisterTargets { group, targets: targets.collect() }
}

fn healths(cache: &Cache) -> Vec<Health> {
    let observed = cache.observed();
    observed.target_groups[&group_arn()].targets.get().unwrap().values().map(|state| state.health).collect()
}

#[test]
fn what_aws_said_yes_to_is_known_before_it_is_read_and_what_it_refused_did_not_happen() {
    let mut cache = filled();
    let object = Object::Targets(group_arn());
    let done = Outcome::Done { created: None };
    for (action, outcome, expected) in [
        (change(&["10.0.0.2"], true), done.clone(), vec![Health::Healthy, Health::Initial]),
        (change(&["10.0.0.1"], false), done.clone(), vec![Health::Draining, Health::Initial]),
        (change(&["10.0.0.1"], true), done, vec![Health::Initial, Health::Initial]),
        (
            change(&["10.0.0.2"], false),
            Outcome::Throttled { message: "Rate exceeded".into() },
            vec![Health::Initial, Health::Initial],
        ),
    ] {
        cache.invalidate(&action);
        assert_eq!(known_targets(&cache), None, "nothing is known while the call is under way");
        cache.settle(&action, &outcome);
        assert_eq!(healths(&cache), expected);
        assert!(cache.is_unread(&object), "it is read back all the same");
    }
}

#[test]
fn a_listing_keeps_the_targets_that_were_read_before() {
    let mut cache = filled();
    assert!(read(&mut cache, Object::Groups, Reading::Groups([(group_arn(), group())].into())));
    assert_eq!(known_targets(&cache), Some(1));
}

#[test]
fn registrations_do_not_throw_a_listing_away_and_new_groups_do() {
    let mut cache = filled();
    let ticket = cache.ticket(Object::Groups);
    cache.invalidate(&register());
    assert_ne!(store(&mut cache, &ticket, Reading::Groups([(group_arn(), group())].into())), Taken::TooOld);
    let ticket = cache.ticket(Object::Groups);
    cache.invalidate(&Action::DeleteTargetGroup { group: GroupRef { name: "sy-a".into(), arn: Some(group_arn()) } });
    assert_eq!(store(&mut cache, &ticket, Reading::Groups(BTreeMap::new())), Taken::TooOld);
}

#[test]
fn a_group_that_is_gone_is_removed_by_its_own_read() {
    let mut cache = filled();
    assert!(read(&mut cache, Object::Targets(group_arn()), Reading::Targets(None)));
    assert!(cache.observed().target_groups.is_empty());
    let mut cache = filled();
    assert!(read(&mut cache, Object::Group("sy-a".into()), Reading::Group(Box::new(None))));
    assert!(cache.observed().target_groups.is_empty());
}

#[test]
fn the_groups_of_a_load_balancer_are_counted_once_its_listeners_were_read() {
    let mut cache = filled();
    let used = |cache: &Cache| cache.observed().load_balancers[&load_balancer_arn()].target_groups_in_use.clone();
    assert_eq!(used(&cache), Known::Unknown);
    assert!(read(
        &mut cache,
        Object::Listeners(load_balancer_arn()),
        Reading::Listeners([(listener_arn(), listener())].into())
    ));
    assert_eq!(used(&cache), Known::Known(0));
    let weights = BTreeMap::from([(group_arn(), Weight::MAX)]);
    let rule = Rule {
        priority: 1,
        conditions: vec![Condition::PathPattern(vec!["/a".into()])],
        action: RuleAction::Forward { weights, stickiness_seconds: None },
        tags: Tags::new(),
    };
    let arn = switchyard_core::arn::RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/2/3")).unwrap();
    let reading = Reading::Rules([(arn, rule)].into(), [group_arn()].into());
    assert!(read(&mut cache, Object::Rules(listener_arn()), reading));
    assert_eq!(used(&cache), Known::Known(1));
    // A load balancer without listeners holds nothing, which is something else than not knowing.
    assert!(read(&mut cache, Object::Listeners(load_balancer_arn()), Reading::Listeners(BTreeMap::new())));
    assert_eq!(used(&cache), Known::Known(0));
}

#[test]
fn a_listener_that_is_gone_is_not_waited_for() {
    let mut cache = Cache::new();
    let load_balancers = BTreeMap::from([(load_balancer_arn(), load_balancer())]);
    assert!(read(&mut cache, Object::LoadBalancers, Reading::LoadBalancers(load_balancers)));
    let listeners = BTreeMap::from([(listener_arn(), listener())]);
    assert!(read(&mut cache, Object::Listeners(load_balancer_arn()), Reading::Listeners(listeners)));
    let priorities = BTreeMap::new();
    cache.invalidate(&Action::SetRulePriorities { listener: listener_arn(), priorities });
    let rules = Object::Rules(listener_arn());
    assert!(cache.is_unread(&rules) && cache.is_listed(&rules));
    assert!(read(&mut cache, Object::Listeners(load_balancer_arn()), Reading::Listeners(BTreeMap::new())));
    assert!(!cache.is_unread(&rules) && !cache.is_listed(&rules));
}

#[test]
fn after_a_reset_nothing_is_known_and_a_read_from_before_is_thrown_away() {
    let mut cache = Cache::new();
    assert!(read(&mut cache, Object::LoadBalancers, Reading::LoadBalancers(BTreeMap::new())));
    let before = cache.ticket(Object::Groups);
    assert!(read(&mut cache, Object::Groups, Reading::Groups(BTreeMap::from([(group_arn(), group())]))));
    assert!(cache.observed().audited_at.is_some());
    cache.reset();
    assert_eq!(**cache.observed(), Observed::default());
    let late = Reading::Groups(BTreeMap::from([(group_arn(), group())]));
    assert_eq!(store(&mut cache, &before, late), Taken::TooOld);
    assert!(cache.observed().audited_at.is_none());
}

#[test]
fn targets_that_are_as_they_were_are_no_news_unless_they_were_waited_for() {
    let mut cache = Cache::new();
    assert!(read(&mut cache, Object::Groups, Reading::Groups(BTreeMap::from([(group_arn(), group())]))));
    assert!(read(&mut cache, Object::Targets(group_arn()), targets(&["10.0.0.1"])));
    let ticket = cache.ticket(Object::Targets(group_arn()));
    assert_eq!(store(&mut cache, &ticket, targets(&["10.0.0.1"])), Taken::NoNews);
    cache.invalidate(&register());
    let ticket = cache.ticket(Object::Targets(group_arn()));
    assert_eq!(store(&mut cache, &ticket, targets(&["10.0.0.1"])), Taken::News);
}

#[test]
fn the_health_of_a_group_is_as_old_as_its_last_reading_whatever_that_brought() {
    let mut cache = filled();
    let (object, now) = (Object::Targets(group_arn()), Timestamp::from_second(1_000).unwrap());
    let at = |cache: &Cache, seconds| cache.health_read(Duration::from_secs(seconds), now)[&group_arn()].as_second();
    assert_eq!(at(&cache, 30), 970);
    let ticket = cache.ticket(object);
    assert_eq!(cache.store(&ticket, targets(&["10.0.0.1"]), now, Duration::from_secs(20)), Taken::NoNews);
    assert_eq!(at(&cache, 30), 990);
    assert_eq!(cache.targets_age(&group_arn(), Duration::from_secs(30)), Some(Duration::from_secs(10)));
    cache.invalidate(&register());
    cache.settle(&register(), &Outcome::Done { created: None });
    assert_eq!(at(&cache, 40), 980, "what AWS said yes to is no reading of health");
    cache.reset();
    assert!(cache.health_read(Duration::from_secs(50), now).is_empty());
}

#[test]
fn a_trouble_is_news_once() {
    let mut cache = Cache::new();
    assert!(cache.set_trouble(Some("throttled".into())));
    assert!(!cache.set_trouble(Some("throttled".into())));
    assert!(cache.set_trouble(None));
}
