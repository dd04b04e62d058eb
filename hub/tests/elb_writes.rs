//! What each action of a plan looks like on the wire: every field, and none more.

mod elb_support;

use std::collections::BTreeMap;

use elb_support::{ACCOUNT, DEADLINE, Fake, Reply};
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    execute::Outcome,
    ids::{VpcId, Weight},
    observed::{Condition, HealthCheck, Target},
    plan::step::{Action, GroupRef, NewTarget, NewTargetGroup},
    policy::spec::TargetType,
};

const DONE: Outcome = Outcome::Done { created: None };

fn group_arn(name: &str) -> TargetGroupArn {
    TargetGroupArn::new(format!("{ACCOUNT}:targetgroup/{name}/0011223344556677")).unwrap()
}

fn group(name: &str) -> GroupRef {
    GroupRef { name: name.to_owned(), arn: Some(group_arn(name)) }
}

fn listener() -> ListenerArn {
    ListenerArn::new(format!("{ACCOUNT}:listener/app/shared/1/2")).unwrap()
}

fn rule() -> RuleArn {
    RuleArn::new(format!("{ACCOUNT}:listener-rule/app/shared/1/2/3")).unwrap()
}

fn health_check(matcher: &str) -> HealthCheck {
    HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: "/healthz?a=b&c".into(),
        interval_seconds: 10,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
        matcher: matcher.into(),
    }
}

fn target(address: &str, port: u16) -> Target {
    Target { id: address.parse().unwrap(), port }
}

fn weight(value: u32) -> Weight {
    Weight::new(value).unwrap()
}

/// Sends an action to a server that says yes, and gives what was sent.
async fn sent(action: &Action) -> BTreeMap<String, String> {
    let fake = Fake::always(Reply::Result(String::new())).await;
    assert_eq!(fake.elb().await.apply(action, DEADLINE).await, DONE);
    let asked = fake.only();
    assert_eq!(asked.operation, action.operation());
    asked.params
}

fn params(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn new_group(matcher: &str, protocol_version: &str) -> NewTargetGroup {
    NewTargetGroup {
        name: "sy-checkout-blue-1".into(),
        vpc_id: VpcId::new("vpc-1").unwrap(),
        protocol: "HTTP".into(),
        protocol_version: protocol_version.into(),
        port: 80,
        target_type: TargetType::Ip,
        health_check: health_check(matcher),
        tags: BTreeMap::from([("switchyard.dev/hub".into(), "h 1".into())]),
    }
}

#[tokio::test]
async fn a_new_group_is_owned_from_its_first_moment_and_its_arn_comes_back() {
    let arn = group_arn("sy-checkout-blue-1");
    let member = format!("<TargetGroups><member><TargetGroupArn>{arn}</TargetGroupArn></member></TargetGroups>");
    let fake = Fake::always(Reply::Result(member)).await;
    let action = Action::CreateTargetGroup(new_group("200-299", "HTTP1"));
    let outcome = fake.elb().await.apply(&action, DEADLINE).await;
    assert_eq!(outcome, Outcome::Done { created: Some(arn) });
    let asked = fake.only();
    assert_eq!(asked.operation, "CreateTargetGroup");
    let wanted = params(&[
        ("Name", "sy-checkout-blue-1"),
        ("VpcId", "vpc-1"),
        ("Protocol", "HTTP"),
        ("ProtocolVersion", "HTTP1"),
        ("Port", "80"),
        ("TargetType", "ip"),
        ("HealthCheckProtocol", "HTTP"),
        ("HealthCheckPort", "traffic-port"),
        ("HealthCheckPath", "/healthz?a=b&c"),
        ("HealthCheckIntervalSeconds", "10"),
        ("HealthCheckTimeoutSeconds", "5"),
        ("HealthyThresholdCount", "2"),
        ("UnhealthyThresholdCount", "3"),
        ("Matcher.HttpCode", "200-299"),
        ("Tags.member.1.Key", "switchyard.dev/hub"),
        ("Tags.member.1.Value", "h 1"),
    ]);
    assert_eq!(asked.params, wanted);
}

#[tokio::test]
async fn a_group_of_nodes_is_made_and_filled_by_instance_ids_without_zones() {
    let arn = group_arn("sy-checkout-blue-1");
    let member = format!("<TargetGroups><member><TargetGroupArn>{arn}</TargetGroupArn></member></TargetGroups>");
    let fake = Fake::always(Reply::Result(member)).await;
    let new = NewTargetGroup { target_type: TargetType::Instance, ..new_group("200", "HTTP1") };
    fake.elb().await.apply(&Action::CreateTargetGroup(new), DEADLINE).await;
    assert_eq!(fake.only().param("TargetType"), "instance");
    let targets = vec![NewTarget { target: target("i-0123456789abcdef0", 30_080), zone: None }];
    let wanted = params(&[
        ("TargetGroupArn", group_arn("sy-a").as_str()),
        ("Targets.member.1.Id", "i-0123456789abcdef0"),
        ("Targets.member.1.Port", "30080"),
    ]);
    assert_eq!(sent(&Action::RegisterTargets { group: group("sy-a"), targets }).await, wanted);
}

#[tokio::test]
async fn grpc_groups_are_checked_by_grpc_codes() {
    let arn = group_arn("sy-checkout-blue-1");
    let member = format!("<TargetGroups><member><TargetGroupArn>{arn}</TargetGroupArn></member></TargetGroups>");
    let fake = Fake::always(Reply::Result(member)).await;
    let action = Action::CreateTargetGroup(new_group("0-5", "GRPC"));
    fake.elb().await.apply(&action, DEADLINE).await;
    let asked = fake.only();
    assert_eq!(asked.param("Matcher.GrpcCode"), "0-5");
    assert_eq!(asked.params.get("Matcher.HttpCode"), None);
}

#[tokio::test]
async fn a_creation_whose_answer_names_no_group_is_unknown() {
    for answer in ["", "<TargetGroups><member/></TargetGroups>"] {
        let fake = Fake::always(Reply::Result(answer.to_owned())).await;
        let action = Action::CreateTargetGroup(new_group("200", "HTTP1"));
        let outcome = fake.elb().await.apply(&action, DEADLINE).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_health_check_is_sent_whole() {
    let action = Action::ModifyTargetGroup { group: group("sy-a"), health_check: health_check("200") };
    let wanted = params(&[
        ("TargetGroupArn", group_arn("sy-a").as_str()),
        ("HealthCheckProtocol", "HTTP"),
        ("HealthCheckPort", "traffic-port"),
        ("HealthCheckPath", "/healthz?a=b&c"),
        ("HealthCheckIntervalSeconds", "10"),
        ("HealthCheckTimeoutSeconds", "5"),
        ("HealthyThresholdCount", "2"),
        ("UnhealthyThresholdCount", "3"),
        ("Matcher.HttpCode", "200"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn the_deregistration_delay_is_an_attribute() {
    let action = Action::ModifyTargetGroupAttributes { group: group("sy-a"), deregistration_delay_seconds: 30 };
    let wanted = params(&[
        ("TargetGroupArn", group_arn("sy-a").as_str()),
        ("Attributes.member.1.Key", "deregistration_delay.timeout_seconds"),
        ("Attributes.member.1.Value", "30"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn targets_are_registered_with_port_and_with_the_zone_where_one_is_given() {
    let targets = vec![
        NewTarget { target: target("10.0.0.1", 8080), zone: None },
        NewTarget { target: target("fd00::1", 8081), zone: Some("all".into()) },
    ];
    let action = Action::RegisterTargets { group: group("sy-a"), targets };
    let wanted = params(&[
        ("TargetGroupArn", group_arn("sy-a").as_str()),
        ("Targets.member.1.Id", "10.0.0.1"),
        ("Targets.member.1.Port", "8080"),
        ("Targets.member.2.Id", "fd00::1"),
        ("Targets.member.2.Port", "8081"),
        ("Targets.member.2.AvailabilityZone", "all"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn targets_are_deregistered_with_their_port() {
    let action = Action::DeregisterTargets { group: group("sy-a"), targets: vec![target("10.0.0.1", 8080)] };
    let wanted = params(&[
        ("TargetGroupArn", group_arn("sy-a").as_str()),
        ("Targets.member.1.Id", "10.0.0.1"),
        ("Targets.member.1.Port", "8080"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn the_epoch_is_a_tag_of_the_load_balancer() {
    let arn = format!("{ACCOUNT}:loadbalancer/app/shared/1");
    let action = Action::TagLoadBalancer {
        load_balancer: LoadBalancerArn::new(arn.clone()).unwrap(),
        tags: BTreeMap::from([("switchyard.dev/epoch".into(), "7".into())]),
    };
    let wanted = params(&[
        ("ResourceArns.member.1", &arn),
        ("Tags.member.1.Key", "switchyard.dev/epoch"),
        ("Tags.member.1.Value", "7"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn priorities_move_in_one_call() {
    let other = RuleArn::new(format!("{ACCOUNT}:listener-rule/app/shared/1/2/4")).unwrap();
    let action = Action::SetRulePriorities {
        listener: listener(),
        priorities: BTreeMap::from([(rule(), 20), (other.clone(), 10)]),
    };
    let wanted = params(&[
        ("RulePriorities.member.1.RuleArn", rule().as_str()),
        ("RulePriorities.member.1.Priority", "20"),
        ("RulePriorities.member.2.RuleArn", other.as_str()),
        ("RulePriorities.member.2.Priority", "10"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn a_new_rule_carries_every_kind_of_condition_and_all_its_weights() {
    let text = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let action = Action::CreateRule {
        listener: listener(),
        priority: 100,
        conditions: vec![
            Condition::HostHeader(text(&["a.example.com", "b.example.com"])),
            Condition::PathPattern(text(&["/checkout", "/checkout/*"])),
            Condition::HttpHeader("x-beta".into(), text(&["1"])),
            Condition::HttpRequestMethod(text(&["GET"])),
            Condition::QueryString(vec![(String::new(), "any".into()), ("v".into(), "2".into())]),
            Condition::SourceIp(text(&["10.0.0.0/8"])),
        ],
        forward: vec![(group("sy-a"), weight(90)), (group("sy-b"), weight(0))],
        tags: BTreeMap::from([("switchyard.dev/hub".into(), "h".into())]),
    };
    let forward = "Actions.member.1.ForwardConfig.TargetGroups.member";
    let wanted = params(&[
        ("ListenerArn", listener().as_str()),
        ("Priority", "100"),
        ("Conditions.member.1.Field", "host-header"),
        ("Conditions.member.1.HostHeaderConfig.Values.member.1", "a.example.com"),
        ("Conditions.member.1.HostHeaderConfig.Values.member.2", "b.example.com"),
        ("Conditions.member.2.Field", "path-pattern"),
        ("Conditions.member.2.PathPatternConfig.Values.member.1", "/checkout"),
        ("Conditions.member.2.PathPatternConfig.Values.member.2", "/checkout/*"),
        ("Conditions.member.3.Field", "http-header"),
        ("Conditions.member.3.HttpHeaderConfig.HttpHeaderName", "x-beta"),
        ("Conditions.member.3.HttpHeaderConfig.Values.member.1", "1"),
        ("Conditions.member.4.Field", "http-request-method"),
        ("Conditions.member.4.HttpRequestMethodConfig.Values.member.1", "GET"),
        ("Conditions.member.5.Field", "query-string"),
        ("Conditions.member.5.QueryStringConfig.Values.member.1.Value", "any"),
        ("Conditions.member.5.QueryStringConfig.Values.member.2.Key", "v"),
        ("Conditions.member.5.QueryStringConfig.Values.member.2.Value", "2"),
        ("Conditions.member.6.Field", "source-ip"),
        ("Conditions.member.6.SourceIpConfig.Values.member.1", "10.0.0.0/8"),
        ("Actions.member.1.Type", "forward"),
        (&format!("{forward}.1.TargetGroupArn"), group_arn("sy-a").as_str()),
        (&format!("{forward}.1.Weight"), "90"),
        (&format!("{forward}.2.TargetGroupArn"), group_arn("sy-b").as_str()),
        (&format!("{forward}.2.Weight"), "0"),
        ("Actions.member.1.ForwardConfig.TargetGroupStickinessConfig.Enabled", "false"),
        ("Tags.member.1.Key", "switchyard.dev/hub"),
        ("Tags.member.1.Value", "h"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn a_change_of_weights_sends_the_whole_forward_and_leaves_conditions_alone() {
    let action = Action::ModifyRule {
        listener: listener(),
        rule: rule(),
        conditions: None,
        forward: Some(vec![(group("sy-a"), weight(999))]),
    };
    let wanted = params(&[
        ("RuleArn", rule().as_str()),
        ("Actions.member.1.Type", "forward"),
        ("Actions.member.1.ForwardConfig.TargetGroups.member.1.TargetGroupArn", group_arn("sy-a").as_str()),
        ("Actions.member.1.ForwardConfig.TargetGroups.member.1.Weight", "999"),
        ("Actions.member.1.ForwardConfig.TargetGroupStickinessConfig.Enabled", "false"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn a_change_of_conditions_leaves_the_weights_alone() {
    let action = Action::ModifyRule {
        listener: listener(),
        rule: rule(),
        conditions: Some(vec![Condition::PathPattern(vec!["/a".into()])]),
        forward: None,
    };
    let wanted = params(&[
        ("RuleArn", rule().as_str()),
        ("Conditions.member.1.Field", "path-pattern"),
        ("Conditions.member.1.PathPatternConfig.Values.member.1", "/a"),
    ]);
    assert_eq!(sent(&action).await, wanted);
}

#[tokio::test]
async fn rules_and_groups_are_deleted_by_arn() {
    let action = Action::DeleteRule { listener: listener(), rule: rule() };
    assert_eq!(sent(&action).await, params(&[("RuleArn", rule().as_str())]));
    let action = Action::DeleteTargetGroup { group: group("sy-a") };
    assert_eq!(sent(&action).await, params(&[("TargetGroupArn", group_arn("sy-a").as_str())]));
}

#[tokio::test]
async fn nothing_is_sent_for_a_group_that_was_not_made() {
    let fake = Fake::always(Reply::Result(String::new())).await;
    let elb = fake.elb().await;
    let missing = GroupRef { name: "sy-missing".into(), arn: None };
    let actions = [
        Action::DeleteTargetGroup { group: missing.clone() },
        Action::RegisterTargets { group: missing.clone(), targets: Vec::new() },
        Action::ModifyRule {
            listener: listener(),
            rule: rule(),
            conditions: None,
            forward: Some(vec![(group("sy-a"), weight(1)), (missing, weight(1))]),
        },
    ];
    for action in actions {
        let outcome = elb.apply(&action, DEADLINE).await;
        let Outcome::Refused { code, message } = outcome else { panic!("{outcome:?}") };
        assert_eq!(code, "UnresolvedTargetGroup");
        assert!(message.contains("sy-missing"), "{message}");
    }
    assert_eq!(fake.asked(), []);
}
