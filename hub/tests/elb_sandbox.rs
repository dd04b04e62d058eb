//! The adaptor against the sandbox's load balancers: the life of a rule and its groups, and the faults that only a server with
//! a state can show.

mod elb_support;

use std::collections::BTreeMap;

use elb_support::{DEADLINE, config};
use serde_json::{Value, json};
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    budget::Class,
    execute::Outcome,
    ids::{VpcId, Weight},
    observed::{self, Condition, HealthCheck, Known, Rule, Target},
    plan::step::{Action, GroupRef, NewTarget, NewTargetGroup},
    policy::spec::TargetType,
};
use switchyard_hub::elb::Elb;
use switchyard_sandbox::elb as sandbox;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

const DONE: Outcome = Outcome::Done { created: None };

struct Bench {
    sandbox: sandbox::Elb,
    elb: Elb,
    vpc: String,
    load_balancer: LoadBalancerArn,
    listener: ListenerArn,
    _stop: DropGuard,
}

impl Bench {
    async fn start() -> Self {
        let settings =
            sandbox::ElbConfig { rate_limits: sandbox::RateLimits::unlimited(), ..sandbox::ElbConfig::default() };
        let server = sandbox::Elb::new(settings.clone());
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = api.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(api, stop).await.unwrap() }
        });
        let body = json!({"name": "shared", "listeners": [{"port": 18_080, "protocol": "HTTP"}]});
        let made = control(&server, "/load-balancers", body).await;
        Self {
            elb: Elb::connect(config(address)).await.unwrap(),
            sandbox: server,
            vpc: settings.vpc_id,
            load_balancer: made["arn"].as_str().unwrap().parse().unwrap(),
            listener: made["listeners"][0]["arn"].as_str().unwrap().parse().unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    async fn fault(&self, fault: Value) {
        control(&self.sandbox, "/faults", fault).await;
    }

    async fn done(&self, action: Action) {
        assert_eq!(self.elb.apply(&action, DEADLINE).await, DONE, "{action}");
    }

    async fn group(&self, name: &str) -> GroupRef {
        let outcome = self.elb.apply(&self.create(name), DEADLINE).await;
        let Outcome::Done { created: Some(arn) } = outcome else { panic!("{outcome:?}") };
        reference(name, arn)
    }

    fn create(&self, name: &str) -> Action {
        Action::CreateTargetGroup(NewTargetGroup {
            name: name.to_owned(),
            vpc_id: VpcId::new(self.vpc.as_str()).unwrap(),
            protocol: "HTTP".into(),
            protocol_version: "HTTP1".into(),
            port: 80,
            target_type: TargetType::Ip,
            health_check: health_check("/healthz"),
            tags: tags(),
        })
    }

    async fn rule(&self, path: &str, forward: Vec<(GroupRef, Weight)>) {
        self.done(Action::CreateRule {
            listener: self.listener.clone(),
            priority: 100,
            conditions: conditions(path),
            forward,
            tags: tags(),
        })
        .await;
    }

    async fn only_rule(&self) -> (RuleArn, Rule) {
        let (mut rules, _) = self.elb.rules(&self.listener, Class::Read).await.unwrap();
        assert_eq!(rules.len(), 1);
        rules.pop_first().unwrap()
    }
}

async fn control(server: &sandbox::Elb, path: &str, body: Value) -> Value {
    let request = axum::http::Request::post(path)
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let response = server.control_router().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).unwrap()
}

fn reference(name: &str, arn: TargetGroupArn) -> GroupRef {
    GroupRef { name: name.to_owned(), arn: Some(arn) }
}

fn tags() -> BTreeMap<String, String> {
    BTreeMap::from([("switchyard.dev/hub".into(), "hub-1".into())])
}

fn weight(value: u32) -> Weight {
    Weight::new(value).unwrap()
}

fn health_check(path: &str) -> HealthCheck {
    HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: path.into(),
        interval_seconds: 10,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    }
}

/// In core's order, as a plan has them.
fn conditions(path: &str) -> Vec<Condition> {
    let mut conditions = vec![
        Condition::HostHeader(vec!["shop.example.com".into()]),
        Condition::PathPattern(vec![path.to_owned(), format!("{path}/*")]),
        Condition::HttpHeader("x-beta".into(), vec!["1".into()]),
    ];
    conditions.sort();
    conditions
}

fn weights(pairs: &[(&GroupRef, u32)]) -> observed::Action {
    observed::Action::Forward {
        weights: pairs.iter().map(|(group, value)| (group.arn.clone().unwrap(), weight(*value))).collect(),
        stickiness_seconds: None,
    }
}

#[tokio::test]
async fn what_is_written_is_read_back_as_it_was_written() {
    let bench = Bench::start().await;
    let blue = bench.group("sy-checkout-blue").await;
    let green = bench.group("sy-checkout-green").await;

    let groups = bench.elb.target_groups("sy-", Class::Audit).await.unwrap();
    let read = &groups[blue.arn.as_ref().unwrap()];
    assert_eq!((groups.len(), read.health_check.clone()), (2, health_check("/healthz")));
    assert_eq!((read.vpc_id.as_str(), &read.tags), (bench.vpc.as_str(), &tags()));
    assert_eq!((read.protocol_version.as_str(), read.target_type.as_str()), ("HTTP1", "ip"));
    assert_eq!(read.deregistration_delay_seconds, Known::Known(300));

    bench.rule("/checkout", vec![(blue.clone(), weight(90)), (green.clone(), weight(10))]).await;
    let (arn, rule) = bench.only_rule().await;
    let read = (rule.priority, rule.conditions, rule.action, rule.tags);
    assert_eq!(read, (100, conditions("/checkout"), weights(&[(&blue, 90), (&green, 10)]), tags()));

    bench
        .done(Action::ModifyRule {
            listener: bench.listener.clone(),
            rule: arn.clone(),
            conditions: None,
            forward: Some(vec![(blue.clone(), weight(0)), (green.clone(), weight(100))]),
        })
        .await;
    let (_, rule) = bench.only_rule().await;
    let read = (rule.conditions, rule.action);
    assert_eq!(read, (conditions("/checkout"), weights(&[(&blue, 0), (&green, 100)])));

    bench
        .done(Action::ModifyRule {
            listener: bench.listener.clone(),
            rule: arn.clone(),
            conditions: Some(conditions("/pay")),
            forward: None,
        })
        .await;
    bench
        .done(Action::SetRulePriorities {
            listener: bench.listener.clone(),
            priorities: BTreeMap::from([(arn.clone(), 7)]),
        })
        .await;
    let (_, rule) = bench.only_rule().await;
    let read = (rule.priority, rule.conditions, rule.action);
    assert_eq!(read, (7, conditions("/pay"), weights(&[(&blue, 0), (&green, 100)])));

    bench.done(Action::DeleteRule { listener: bench.listener.clone(), rule: arn }).await;
    bench.done(Action::DeleteTargetGroup { group: blue }).await;
    assert_eq!(bench.elb.target_group_by_name("sy-checkout-blue", Class::Read).await, Ok(None));
}

#[tokio::test]
async fn settings_of_a_group_are_changed_in_place() {
    let bench = Bench::start().await;
    let group = bench.group("sy-a").await;
    bench.done(Action::ModifyTargetGroup { group: group.clone(), health_check: health_check("/new") }).await;
    bench.done(Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds: 0 }).await;
    let (_, read) = bench.elb.target_group_by_name("sy-a", Class::Read).await.unwrap().unwrap();
    assert_eq!(read.health_check, health_check("/new"));
    assert_eq!(read.deregistration_delay_seconds, Known::Known(0));
}

#[tokio::test]
async fn targets_come_and_go_by_address_and_port() {
    let bench = Bench::start().await;
    let group = bench.group("sy-a").await;
    let target = |port| Target { id: "127.9.0.1".parse().unwrap(), port };
    let outside = Target { id: "10.99.0.1".parse().unwrap(), port: 80 };
    let mut targets: Vec<NewTarget> = [target(81), target(82)].map(|target| NewTarget { target, zone: None }).into();
    targets.push(NewTarget { target: outside, zone: Some("all".into()) });
    bench.done(Action::RegisterTargets { group: group.clone(), targets }).await;
    let arn = group.arn.clone().unwrap();
    let read = bench.elb.targets(&arn, Class::Read).await.unwrap();
    assert_eq!(read.keys().copied().collect::<Vec<_>>(), [outside, target(81), target(82)]);
    bench.done(Action::DeregisterTargets { group, targets: vec![target(81)] }).await;
    let read = bench.elb.targets(&arn, Class::Read).await.unwrap();
    let stays = read.get(&target(82)).is_some_and(|state| state.health != observed::Health::Draining);
    let leaves = read.get(&target(81)).is_none_or(|state| state.health == observed::Health::Draining);
    assert!(stays && leaves, "{read:?}");
}

#[tokio::test]
async fn instances_come_and_go_by_id_and_node_port_and_one_that_does_not_run_is_refused() {
    let bench = Bench::start().await;
    let Action::CreateTargetGroup(new) = bench.create("sy-n") else { panic!("a creation") };
    let create = Action::CreateTargetGroup(NewTargetGroup { target_type: TargetType::Instance, ..new });
    let Outcome::Done { created: Some(arn) } = bench.elb.apply(&create, DEADLINE).await else { panic!("it is made") };
    let (group, target) = (reference("sy-n", arn.clone()), Target { id: "i-1a2b3c4d".parse().unwrap(), port: 30_080 });
    let targets = vec![NewTarget { target, zone: None }];
    let register = Action::RegisterTargets { group: group.clone(), targets };
    let refused = bench.elb.apply(&register, DEADLINE).await;
    assert!(matches!(&refused, Outcome::Refused { code, .. } if code == "InvalidTarget"), "{refused:?}");
    bench.sandbox.set_instance("i-1a2b3c4d", Some([127, 9, 0, 1].into()));
    bench.done(register).await;
    let read = bench.elb.targets(&arn, Class::Read).await.unwrap();
    assert_eq!(read.keys().copied().collect::<Vec<_>>(), [target]);
    let (_, found) = bench.elb.target_group_by_name("sy-n", Class::Read).await.unwrap().unwrap();
    assert_eq!(found.target_type, "instance");
    bench.done(Action::DeregisterTargets { group, targets: vec![target] }).await;
    assert!(bench.elb.targets(&arn, Class::Read).await.unwrap().is_empty());
}

#[tokio::test]
async fn load_balancers_and_listeners_are_found_and_tagged() {
    let bench = Bench::start().await;
    bench
        .done(Action::TagLoadBalancer {
            load_balancer: bench.load_balancer.clone(),
            tags: BTreeMap::from([("switchyard.dev/epoch".into(), "3".into())]),
        })
        .await;
    let found = bench.elb.load_balancers(Class::Audit).await.unwrap();
    let one = &found[&bench.load_balancer];
    assert_eq!((one.name.as_str(), one.kind.as_str()), ("shared", "application"));
    assert_eq!((one.vpc_id.as_str(), one.tags["switchyard.dev/epoch"].as_str()), (bench.vpc.as_str(), "3"));
    let tags = bench.elb.load_balancer_tags(&bench.load_balancer, Class::Read).await.unwrap();
    assert_eq!(tags["switchyard.dev/epoch"], "3");
    let listeners = bench.elb.listeners(&bench.load_balancer, Class::Audit).await.unwrap();
    assert_eq!(listeners.keys().collect::<Vec<_>>(), [&bench.listener]);
    assert_eq!(listeners[&bench.listener].protocol, "HTTP");
    let limits = bench.elb.limits(Class::Audit).await.unwrap();
    assert_eq!((limits.rules_per_load_balancer, limits.target_groups_per_action), (100, 5));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_unknown_and_the_read_back_finds_it() {
    let bench = Bench::start().await;
    bench.fault(json!({"operation": "CreateTargetGroup", "kind": "lost_answer"})).await;
    let outcome = bench.elb.apply(&bench.create("sy-a"), DEADLINE).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let found = bench.elb.target_group_by_name("sy-a", Class::Read).await.unwrap();
    let (arn, group) = found.expect("it was made");
    assert_eq!(group.tags, tags());
    // Made again with the same settings it is the same group.
    let outcome = bench.elb.apply(&bench.create("sy-a"), DEADLINE).await;
    assert_eq!(outcome, Outcome::Done { created: Some(arn) });
}

#[tokio::test]
async fn a_throttled_write_and_a_refused_one_change_nothing() {
    let bench = Bench::start().await;
    bench.fault(json!({"operation": "CreateTargetGroup", "kind": "throttle"})).await;
    let outcome = bench.elb.apply(&bench.create("sy-a"), DEADLINE).await;
    assert!(matches!(outcome, Outcome::Throttled { .. }), "{outcome:?}");
    assert_eq!(bench.elb.target_group_by_name("sy-a", Class::Read).await, Ok(None));

    let group = bench.group("sy-a").await;
    bench.rule("/a", vec![(group.clone(), weight(1))]).await;
    let outcome = bench.elb.apply(&Action::DeleteTargetGroup { group }, DEADLINE).await;
    let Outcome::Refused { code, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(code, "ResourceInUse");
    bench.only_rule().await;
}
