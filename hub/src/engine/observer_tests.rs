//! The observer's order of reads: what was written is read back, whatever was under way.

use super::*;
use crate::metrics::Metrics;
use switchyard_core::{
    arn::TargetGroupArn,
    budget::Rates,
    execute::Outcome,
    observed::{HealthCheck, Known, Tags, TargetGroup},
    plan::step::Action,
};

async fn observer() -> Observer {
    let config = crate::elb::ElbConfig {
        region: "eu-central-1".into(),
        endpoint_url: Some("http://127.0.0.1:9".into()),
        call_timeout: Duration::from_secs(1),
        rates: Rates::default(),
        metrics: Metrics::new(),
    };
    Observer {
        elb: Elb::connect(config).await.unwrap(),
        cache: Cache::new(),
        wanted: Wanted::new(),
        audit_interval: Duration::from_secs(60),
        health_interval: Duration::from_secs(10),
    }
}

fn target_group() -> TargetGroup {
    TargetGroup {
        name: "sy-a".into(),
        vpc_id: "vpc-1".parse().unwrap(),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        target_type: "ip".into(),
        health_check: HealthCheck {
            protocol: "HTTP".into(),
            port: "traffic-port".into(),
            path: "/".into(),
            interval_seconds: 5,
            timeout_seconds: 2,
            healthy_threshold: 2,
            unhealthy_threshold: 2,
            matcher: "200".into(),
        },
        deregistration_delay_seconds: Known::Known(300),
        stickiness_seconds: Known::Known(None),
        tags: Tags::new(),
        targets: Known::Unknown,
    }
}

fn delete_group() -> Action {
    Action::DeleteTargetGroup { group: switchyard_core::plan::GroupRef { name: "sy-a".into(), arn: None } }
}

fn due(observer: &Observer) -> Vec<(Object, Class)> {
    observer.wanted.take_due(READS_AT_ONCE)
}

#[tokio::test]
async fn what_is_written_while_an_earlier_read_of_it_ends_is_read_again() {
    let observer = observer().await;
    let group = Object::Group("sy-a".into());
    observer.wanted.ask(group.clone(), Instant::now(), Class::Read);
    assert_eq!(due(&observer), [(group.clone(), Class::Read)]);
    // The answer is in, the read is not ended yet, and a call changes its object.
    let ticket = observer.cache.ticket(group.clone());
    assert!(observer.cache.store(&ticket, Reading::Group(Box::new(None)), Timestamp::UNIX_EPOCH));
    observer.cache.invalidate(&delete_group());
    let objects = observer.cache.settle(&delete_group(), &Outcome::Done { created: None });
    observer.wanted.read_back(&objects);
    assert_eq!(due(&observer), [], "the read under way stands for it");
    observer.after(group.clone(), Class::Read, Ok(true), &mut BTreeMap::new());
    assert_eq!(due(&observer), [(group, Class::Read)]);
}

#[tokio::test]
async fn a_read_under_way_stands_for_one_that_is_not_more_urgent() {
    let observer = observer().await;
    observer.wanted.ask(Object::Groups, Instant::now(), Class::Audit);
    assert_eq!(due(&observer), [(Object::Groups, Class::Audit)]);
    observer.wanted.ask(Object::Groups, Instant::now(), Class::Audit);
    assert_eq!(due(&observer), []);
    observer.wanted.ask(Object::Groups, Instant::now(), Class::Read);
    assert_eq!(due(&observer), [(Object::Groups, Class::Read)], "an audit may wait long for its budget");
}

#[tokio::test]
async fn reads_start_by_urgency_and_no_more_than_fit() {
    let observer = observer().await;
    observer.wanted.ask(Object::Limits, Instant::now(), Class::Audit);
    observer.wanted.ask(Object::Groups, Instant::now(), Class::Read);
    observer.wanted.ask(Object::LoadBalancers, Instant::now() + Duration::from_secs(60), Class::Read);
    assert_eq!(observer.wanted.take_due(1), [(Object::Groups, Class::Read)]);
    assert_eq!(due(&observer), [(Object::Limits, Class::Audit)]);
}

#[tokio::test]
async fn why_something_cannot_be_read_is_known_until_it_is_read() {
    let observer = observer().await;
    let denied = || {
        let (code, message) = ("AccessDenied".to_owned(), "not authorized".to_owned());
        ReadError::Refused { operation: "DescribeLoadBalancers", code, message }
    };
    let mut failing = BTreeMap::new();
    observer.after(Object::LoadBalancers, Class::Read, Err(denied()), &mut failing);
    assert_eq!(observer.cache.observed().trouble, Some(denied().to_string()));
    observer.after(Object::Groups, Class::Read, Ok(true), &mut failing);
    assert_eq!(observer.cache.observed().trouble, Some(denied().to_string()), "another reading says nothing of it");
    observer.after(Object::LoadBalancers, Class::Read, Ok(true), &mut failing);
    assert_eq!(observer.cache.observed().trouble, None);
}

#[tokio::test]
async fn what_has_a_pace_is_read_at_it_and_wakes_the_planner_each_time_until_it_has_none() {
    let observer = observer().await;
    let group =
        TargetGroupArn::new("arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sy-a/1").unwrap();
    let targets = Object::Targets(group.clone());
    let ticket = observer.cache.ticket(Object::Groups);
    observer.cache.store(&ticket, Reading::Groups(BTreeMap::from([(group, target_group())])), Timestamp::UNIX_EPOCH);
    let pace = |wakes| HashMap::from([(targets.clone(), Pace { pause: Duration::ZERO, wakes })]);
    observer.wanted.set_paces(pace(true));
    assert_eq!(due(&observer), [(targets.clone(), Class::Read)]);
    let mut changes = observer.cache.changes();
    changes.mark_unchanged();
    observer.after(targets.clone(), Class::Read, Ok(true), &mut BTreeMap::new());
    assert!(changes.has_changed().unwrap());
    assert_eq!(due(&observer), [(targets.clone(), Class::Read)], "read again at its pace");
    observer.wanted.set_paces(pace(false));
    changes.mark_unchanged();
    observer.after(targets.clone(), Class::Read, Ok(true), &mut BTreeMap::new());
    assert!(!changes.has_changed().unwrap(), "nobody waits for what is only watched");
    assert_eq!(due(&observer), [(targets.clone(), Class::Read)]);
    observer.wanted.set_paces(HashMap::new());
    observer.after(targets, Class::Read, Ok(true), &mut BTreeMap::new());
    assert_eq!(due(&observer), [], "from now on once in the health interval");
}
