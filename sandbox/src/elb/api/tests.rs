//! Tests of the operations on the state alone: no HTTP, no sockets but those of listeners.

use std::time::Duration;

use rand::SeedableRng;

use super::*;
use crate::elb::query::Params;

struct Bench {
    world: World,
    config: ElbConfig,
    rng: StdRng,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let config = ElbConfig { vpc_cidr: "10.0.0.0/16".parse().unwrap(), ..ElbConfig::default() };
        Self { world: World::default(), config, rng: StdRng::seed_from_u64(1), now: Instant::now() }
    }

    /// Performs an operation given as a query string.
    fn call(&mut self, operation: &str, query: &str) -> Result<String, ApiError> {
        let params = Params::parse(query.as_bytes())?;
        let (_, _, handler) = find(operation).unwrap();
        let mut effects = Effects::default();
        let xml = handler(&mut Call {
            world: &mut self.world,
            args: params.root(),
            config: &self.config,
            rng: &mut self.rng,
            now: self.now,
            effects: &mut effects,
        })?;
        Ok(super::super::xml::answer(operation, &xml, "id"))
    }

    fn code(&mut self, operation: &str, query: &str) -> String {
        self.call(operation, query).map_or_else(|e| e.code.into_owned(), |_| "ok".to_owned())
    }

    fn group(&mut self, name: &str) -> String {
        let xml = self.call("CreateTargetGroup", &group_query(name)).unwrap();
        tag(&xml, "TargetGroupArn")
    }

    fn load_balancer(&mut self, name: &str) -> String {
        let query = format!("Name={name}&Subnets.member.1=subnet-1&Subnets.member.2=subnet-2");
        tag(&self.call("CreateLoadBalancer", &query).unwrap(), "LoadBalancerArn")
    }

    /// A listener on a port of its own; the socket falls back to a free port when that is taken.
    fn listener(&mut self, load_balancer: &str, port: u16) -> String {
        let query = format!("LoadBalancerArn={load_balancer}&Protocol=HTTP&Port={port}&{FIXED}");
        tag(&self.call("CreateListener", &query).unwrap(), "ListenerArn")
    }
}

const FIXED: &str =
    "DefaultActions.member.1.Type=fixed-response&DefaultActions.member.1.FixedResponseConfig.StatusCode=404";

fn group_query(name: &str) -> String {
    format!("Name={name}&Protocol=HTTP&Port=8080&VpcId=vpc-0a1b2c3d4e5f60718&TargetType=ip")
}

fn tag(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap();
    rest.split_once('<').unwrap().0.to_owned()
}

fn rule_query(listener: &str, priority: u32, groups: &[&str]) -> String {
    let each = |(i, arn): (usize, &&str)| {
        format!("&Actions.member.1.ForwardConfig.TargetGroups.member.{}.TargetGroupArn={arn}", i + 1)
    };
    format!(
        "ListenerArn={listener}&Priority={priority}&Conditions.member.1.Field=path-pattern&\
         Conditions.member.1.Values.member.1=/p{priority}&Actions.member.1.Type=forward{}",
        groups.iter().enumerate().map(each).collect::<String>()
    )
}

#[test]
fn creating_the_same_thing_again_gives_the_same_thing_and_other_settings_are_a_duplicate() {
    let mut bench = Bench::new();
    let group = bench.group("web");
    assert_eq!(bench.group("web"), group);
    let other = group_query("web").replace("8080", "9090");
    assert_eq!(bench.code("CreateTargetGroup", &other), "DuplicateTargetGroupName");
    let lb = bench.load_balancer("shared");
    assert_eq!(bench.load_balancer("shared"), lb);
    let other = "Name=shared&Scheme=internal&Subnets.member.1=subnet-1&Subnets.member.2=subnet-2";
    assert_eq!(bench.code("CreateLoadBalancer", other), "DuplicateLoadBalancerName");
    let listener = bench.listener(&lb, 41_080);
    assert_eq!(bench.listener(&lb, 41_080), listener);
    let other = format!("LoadBalancerArn={lb}&Protocol=HTTP&Port=41080&{}", FIXED.replace("404", "503"));
    assert_eq!(bench.code("CreateListener", &other), "DuplicateListener");
}

#[test]
fn names_ports_and_health_checks_outside_their_bounds_are_validation_errors() {
    let mut bench = Bench::new();
    for extra in [
        "&HealthCheckIntervalSeconds=4",
        "&HealthCheckIntervalSeconds=301",
        "&HealthCheckTimeoutSeconds=1",
        "&HealthCheckTimeoutSeconds=121",
        "&HealthCheckIntervalSeconds=5&HealthCheckTimeoutSeconds=5",
        "&HealthyThresholdCount=1",
        "&UnhealthyThresholdCount=11",
        "&HealthCheckPath=healthz",
        "&HealthCheckPort=0",
        "&HealthCheckProtocol=TCP",
        "&Matcher.HttpCode=500",
        "&Matcher.HttpCode=abc",
        "&Matcher.HttpCode=299-200",
        "&ProtocolVersion=HTTP9",
    ] {
        assert_eq!(bench.code("CreateTargetGroup", &(group_query("web") + extra)), "ValidationError", "{extra}");
    }
    for name in ["a".repeat(33).as_str(), "-a", "a-", "a_b"] {
        assert_eq!(bench.code("CreateTargetGroup", &group_query(name)), "ValidationError", "{name}");
    }
    let query = group_query("web").replace("8080", "70000");
    assert_eq!(bench.code("CreateTargetGroup", &query), "ValidationError");
    assert_eq!(
        bench.code("CreateTargetGroup", &(group_query("web") + "&HealthCheckEnabled=false")),
        "InvalidConfigurationRequest"
    );
    assert!(bench.world.groups.is_empty(), "a refused call leaves no trace");
}

#[test]
fn attributes_are_checked_by_key_and_value_and_answered_in_full() {
    let mut bench = Bench::new();
    let group = bench.group("web");
    let query = |key: &str, value: &str| {
        format!("TargetGroupArn={group}&Attributes.member.1.Key={key}&Attributes.member.1.Value={value}")
    };
    for (key, value) in [
        ("no.such.key", "1"),
        ("deregistration_delay.timeout_seconds", "3601"),
        ("load_balancing.algorithm.type", "bogus"),
        ("slow_start.duration_seconds", "10"),
        ("slow_start.duration_seconds", "901"),
        ("stickiness.enabled", "maybe"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "off"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "101"),
        ("stickiness.app_cookie.cookie_name", "AWSALBX"),
    ] {
        assert_eq!(bench.code("ModifyTargetGroupAttributes", &query(key, value)), "ValidationError", "{key}={value}");
    }
    for key in ["deregistration_delay.timeout_seconds", "slow_start.duration_seconds"] {
        assert_eq!(bench.code("ModifyTargetGroupAttributes", &query(key, "0")), "ok");
    }
    let anomaly = query("load_balancing.algorithm.anomaly_mitigation", "on");
    assert_eq!(bench.code("ModifyTargetGroupAttributes", &anomaly), "InvalidConfigurationRequest");
    let all =
        bench.call("ModifyTargetGroupAttributes", &query("deregistration_delay.timeout_seconds", "3600")).unwrap();
    assert!(all.contains("stickiness.lb_cookie.duration_seconds") && all.contains("<Value>3600</Value>"));
}

#[test]
fn a_rule_needs_a_free_priority_known_groups_and_room_in_the_quotas() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let listener = bench.listener(&lb, 41_081);
    let groups: Vec<String> = (0..7).map(|n| bench.group(&format!("g{n}"))).collect();
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 10, &[&groups[0]])), "ok");
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 10, &[&groups[0]])), "PriorityInUse");
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 0, &[&groups[0]])), "ValidationError");
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 50_001, &[&groups[0]])), "ValidationError");
    assert_eq!(bench.code("CreateRule", &rule_query("arn:nope", 11, &[&groups[0]])), "ListenerNotFound");
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 11, &["arn:nope"])), "TargetGroupNotFound");
    let six: Vec<&str> = groups[..6].iter().map(String::as_str).collect();
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 11, &six)), "TooManyTargetGroups");
    bench.world.limits.set("rules-per-application-load-balancer", 1).unwrap();
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 11, &[&groups[0]])), "TooManyRules");
    bench.world.limits.set("rules-per-application-load-balancer", 100).unwrap();
    bench.world.limits.set("target-groups-per-application-load-balancer", 1).unwrap();
    let code = bench.code("CreateRule", &rule_query(&listener, 11, &[&groups[1]]));
    assert_eq!(code, "TooManyUniqueTargetGroupsPerLoadBalancer");
    assert_eq!(bench.code("CreateRule", &rule_query(&listener, 11, &[&groups[0]])), "ok");
}

#[test]
fn a_group_serves_one_load_balancer_and_follows_its_rules() {
    let mut bench = Bench::new();
    let (one, two) = (bench.load_balancer("one"), bench.load_balancer("two"));
    let (here, there) = (bench.listener(&one, 41_082), bench.listener(&two, 41_083));
    let group = bench.group("web");
    let rule = tag(&bench.call("CreateRule", &rule_query(&here, 1, &[&group])).unwrap(), "RuleArn");
    assert_eq!(bench.code("CreateRule", &rule_query(&there, 1, &[&group])), "TargetGroupAssociationLimit");
    let described = bench.call("DescribeTargetGroups", &format!("TargetGroupArns.member.1={group}")).unwrap();
    assert!(described.contains(&format!("<LoadBalancerArns><member>{one}</member></LoadBalancerArns>")));
    assert_eq!(bench.code("DeleteTargetGroup", &format!("TargetGroupArn={group}")), "ResourceInUse");
    bench.call("DeleteRule", &format!("RuleArn={rule}")).unwrap();
    let described = bench.call("DescribeTargetGroups", &format!("TargetGroupArns.member.1={group}")).unwrap();
    assert!(described.contains("<LoadBalancerArns></LoadBalancerArns>"));
    assert_eq!(bench.code("CreateRule", &rule_query(&there, 1, &[&group])), "ok");
}

#[test]
fn priorities_are_swapped_in_one_call_and_conflicts_change_nothing() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let listener = bench.listener(&lb, 41_084);
    let group = bench.group("web");
    let rules: Vec<String> = [1, 2, 3]
        .iter()
        .map(|p| tag(&bench.call("CreateRule", &rule_query(&listener, *p, &[&group])).unwrap(), "RuleArn"))
        .collect();
    let set = |pairs: &[(usize, u32)]| {
        let each = |(i, (rule, p)): (usize, &(usize, u32))| {
            format!(
                "&RulePriorities.member.{0}.RuleArn={1}&RulePriorities.member.{0}.Priority={p}",
                i + 1,
                rules[*rule]
            )
        };
        pairs.iter().enumerate().map(each).collect::<String>()
    };
    assert_eq!(bench.code("SetRulePriorities", &set(&[(0, 2), (1, 1)])), "ok");
    assert_eq!(bench.world.rules[&rules[0]].priority, Some(2));
    assert_eq!(bench.code("SetRulePriorities", &set(&[(0, 3)])), "PriorityInUse");
    assert_eq!(bench.world.rules[&rules[0]].priority, Some(2));
    let default = bench.world.rules.values().find(|r| r.priority.is_none()).unwrap().arn.clone();
    let query = format!("RulePriorities.member.1.RuleArn={default}&RulePriorities.member.1.Priority=9");
    assert_eq!(bench.code("SetRulePriorities", &query), "OperationNotPermitted");
    assert_eq!(bench.code("DeleteRule", &format!("RuleArn={default}")), "OperationNotPermitted");
    let modify = format!("RuleArn={default}&Actions.member.1.Type=forward&Actions.member.1.TargetGroupArn={group}");
    assert_eq!(bench.code("ModifyRule", &modify), "OperationNotPermitted");
}

#[test]
fn modifying_a_rule_replaces_whole_lists_and_keeps_what_is_left_out() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let listener = bench.listener(&lb, 41_085);
    let (a, b) = (bench.group("a"), bench.group("b"));
    let rule = tag(&bench.call("CreateRule", &rule_query(&listener, 1, &[&a, &b])).unwrap(), "RuleArn");
    let before = bench.world.rules[&rule].conditions.clone();
    let query = format!("RuleArn={rule}&Actions.member.1.Type=forward&Actions.member.1.TargetGroupArn={b}");
    bench.call("ModifyRule", &query).unwrap();
    assert_eq!(bench.world.rules[&rule].groups().collect::<Vec<_>>(), [b.as_str()]);
    assert_eq!(bench.world.rules[&rule].conditions, before);
    assert_eq!(bench.code("ModifyRule", &format!("RuleArn={rule}")), "ValidationError");
    assert_eq!(bench.code("ModifyRule", "RuleArn=arn:nope"), "RuleNotFound");
}

#[test]
fn one_bad_target_fails_the_whole_registration() {
    let mut bench = Bench::new();
    let group = bench.group("web");
    let targets = |list: &[(&str, &str)]| {
        let each = |(i, (id, rest)): (usize, &(&str, &str))| {
            format!("&Targets.member.{0}.Id={id}{1}", i + 1, rest.replace('#', &format!("&Targets.member.{}.", i + 1)))
        };
        format!("TargetGroupArn={group}{}", list.iter().enumerate().map(each).collect::<String>())
    };
    for (bad, rest, code) in [
        ("10.0.0.300", "", "ValidationError"),
        ("i-0123", "", "ValidationError"),
        ("8.8.8.8", "", "InvalidTarget"),
        ("192.168.1.1", "", "ValidationError"),
        ("10.0.0.2", "#AvailabilityZone=all", "ValidationError"),
        ("10.0.0.2", "#AvailabilityZone=us-east-1a", "ValidationError"),
        ("10.0.0.2", "#Port=0", "ValidationError"),
    ] {
        assert_eq!(bench.code("RegisterTargets", &targets(&[("10.0.0.1", ""), (bad, rest)])), code, "{bad}{rest}");
    }
    assert!(bench.world.groups[&group].targets.is_empty());
    let fine = targets(&[
        ("10.0.0.1", ""),
        ("10.0.0.1", "#Port=9090"),
        ("192.168.1.1", "#AvailabilityZone=all"),
        ("100.64.0.9", "#AvailabilityZone=eu-west-1b"),
    ]);
    assert_eq!(bench.code("RegisterTargets", &fine), "ok");
    assert_eq!(bench.world.groups[&group].targets.len(), 4, "id and port together are the identity");
    assert_eq!(bench.code("RegisterTargets", &format!("TargetGroupArn={group}")), "ValidationError");
    bench.world.limits.set("targets-per-target-group", 4).unwrap();
    assert_eq!(bench.code("RegisterTargets", &fine), "ok", "what is registered already needs no room");
    assert_eq!(bench.code("RegisterTargets", &targets(&[("10.0.0.7", "")])), "TooManyTargets");
}

#[test]
fn a_target_of_a_used_group_drains_and_comes_back_when_it_is_registered_again() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let listener = bench.listener(&lb, 41_086);
    let group = bench.group("web");
    bench.call("CreateRule", &rule_query(&listener, 1, &[&group])).unwrap();
    let target = format!("TargetGroupArn={group}&Targets.member.1.Id=10.0.0.1");
    bench.call("RegisterTargets", &target).unwrap();
    assert!(bench.call("DescribeTargetHealth", &target).unwrap().contains("Elb.RegistrationInProgress"));
    let wrong_port = format!("{target}&Targets.member.1.Port=9");
    assert_eq!(bench.code("DeregisterTargets", &wrong_port), "ok");
    assert!(bench.call("DescribeTargetHealth", &target).unwrap().contains("<State>initial</State>"));
    bench.call("DeregisterTargets", &target).unwrap();
    assert!(bench.call("DescribeTargetHealth", &target).unwrap().contains("<State>draining</State>"));
    bench.call("RegisterTargets", &target).unwrap();
    assert!(bench.call("DescribeTargetHealth", &target).unwrap().contains("<State>initial</State>"));
    bench.call("DeregisterTargets", &target).unwrap();
    bench.now += Duration::from_secs(301);
    bench.world.advance(bench.now, &bench.config.clone());
    let all = bench.call("DescribeTargetHealth", &format!("TargetGroupArn={group}")).unwrap();
    assert!(!all.contains("10.0.0.1"));
    assert!(bench.call("DescribeTargetHealth", &target).unwrap().contains("Target.NotRegistered"));
}

#[test]
fn instances_must_exist_and_take_no_zone() {
    let mut bench = Bench::new();
    let query = group_query("web").replace("TargetType=ip", "TargetType=instance");
    let group = tag(&bench.call("CreateTargetGroup", &query).unwrap(), "TargetGroupArn");
    let target = format!("TargetGroupArn={group}&Targets.member.1.Id=i-0a");
    assert_eq!(bench.code("RegisterTargets", &target), "InvalidTarget");
    bench.world.instances.insert("i-0a".into(), "10.0.0.9".parse().unwrap());
    assert_eq!(
        bench.code("RegisterTargets", &format!("{target}&Targets.member.1.AvailabilityZone=all")),
        "ValidationError"
    );
    assert_eq!(bench.code("RegisterTargets", &target), "ok");
}

#[test]
fn paging_misses_nothing_when_what_the_marker_named_is_deleted() {
    let mut bench = Bench::new();
    let groups: Vec<String> = (0..5).map(|n| bench.group(&format!("g{n}"))).collect();
    let first = bench.call("DescribeTargetGroups", "PageSize=2").unwrap();
    let marker = tag(&first, "NextMarker");
    assert!(first.contains(&groups[1]) && !first.contains(&groups[2]));
    assert!(!marker.contains("g1"), "markers are opaque");
    bench.call("DeleteTargetGroup", &format!("TargetGroupArn={}", groups[1])).unwrap();
    let rest = bench.call("DescribeTargetGroups", &format!("Marker={marker}")).unwrap();
    assert!(groups[2..].iter().all(|g| rest.contains(g)) && !rest.contains("NextMarker"));
    for bad in ["Marker=abc", "Marker=zz", "PageSize=0", "PageSize=401"] {
        assert_eq!(bench.code("DescribeTargetGroups", bad), "ValidationError", "{bad}");
    }
    bench.world.default_page_size = 1;
    assert!(bench.call("DescribeTargetGroups", "").unwrap().contains("NextMarker"));
}

#[test]
fn tags_are_bounded_in_number_and_refuse_duplicates_and_unknown_resources() {
    let mut bench = Bench::new();
    let group = bench.group("web");
    let tags = |from: usize, to: usize| {
        let each = |n: usize| format!("&Tags.member.{n}.Key=k{n}&Tags.member.{n}.Value=v");
        format!("ResourceArns.member.1={group}{}", (from..=to).map(each).collect::<String>())
    };
    assert_eq!(bench.code("AddTags", &tags(1, 50)), "ok");
    assert_eq!(bench.code("AddTags", &tags(50, 51)), "TooManyTags");
    assert_eq!(bench.code("AddTags", &tags(1, 50)), "ok", "overwriting needs no room");
    let twice = format!("{}&Tags.member.9.Key=k1", tags(1, 1));
    assert_eq!(bench.code("AddTags", &twice), "DuplicateTagKeys");
    let reserved = format!("ResourceArns.member.1={group}&Tags.member.1.Key=aws:x");
    assert_eq!(bench.code("AddTags", &reserved), "ValidationError");
    let unknown = "ResourceArns.member.1=arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/x/1";
    assert_eq!(bench.code("DescribeTags", unknown), "TargetGroupNotFound");
    let many = (1..=21).map(|n| format!("ResourceArns.member.{n}={group}&")).collect::<String>();
    assert_eq!(bench.code("DescribeTags", &many), "ValidationError");
    let remove = format!("ResourceArns.member.1={group}&TagKeys.member.1=k1");
    bench.call("RemoveTags", &remove).unwrap();
    assert!(!bench.call("DescribeTags", &remove).unwrap().contains("<Key>k1</Key>"));
}

#[test]
fn deleting_a_load_balancer_takes_its_listeners_and_rules_along_unless_it_is_protected() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let listener = bench.listener(&lb, 41_087);
    let group = bench.group("web");
    bench.call("CreateRule", &rule_query(&listener, 1, &[&group])).unwrap();
    let protect = |on: &str| {
        format!(
            "LoadBalancerArn={lb}&Attributes.member.1.Key=deletion_protection.enabled&Attributes.member.1.Value={on}"
        )
    };
    bench.call("ModifyLoadBalancerAttributes", &protect("true")).unwrap();
    assert_eq!(bench.code("DeleteLoadBalancer", &format!("LoadBalancerArn={lb}")), "OperationNotPermitted");
    bench.call("ModifyLoadBalancerAttributes", &protect("false")).unwrap();
    assert_eq!(bench.code("DeleteLoadBalancer", &format!("LoadBalancerArn={lb}")), "ok");
    assert!(bench.world.listeners.is_empty() && bench.world.rules.is_empty());
    assert_eq!(bench.code("DeleteLoadBalancer", &format!("LoadBalancerArn={lb}")), "ok", "gone is gone");
    assert_eq!(bench.code("DeleteTargetGroup", &format!("TargetGroupArn={group}")), "ok");
}

#[test]
fn incompatible_protocols_and_missing_certificates_are_refused() {
    let mut bench = Bench::new();
    let lb = bench.load_balancer("shared");
    let query = group_query("tcp").replace("Protocol=HTTP", "Protocol=TCP");
    let group = tag(&bench.call("CreateTargetGroup", &query).unwrap(), "TargetGroupArn");
    let forward = format!("DefaultActions.member.1.Type=forward&DefaultActions.member.1.TargetGroupArn={group}");
    let listener = |protocol: &str, rest: &str| format!("LoadBalancerArn={lb}&Port=41088&Protocol={protocol}&{rest}");
    assert_eq!(bench.code("CreateListener", &listener("HTTP", &forward)), "IncompatibleProtocols");
    assert_eq!(bench.code("CreateListener", &listener("TCP", FIXED)), "UnsupportedProtocol");
    assert_eq!(bench.code("CreateListener", &listener("HTTPS", FIXED)), "ValidationError");
    let certificate = format!("{FIXED}&Certificates.member.1.CertificateArn=arn:aws:acm:c");
    assert_eq!(bench.code("CreateListener", &listener("HTTPS", &certificate)), "ok");
}
