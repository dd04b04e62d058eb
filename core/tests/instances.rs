//! What is particular to nodes as targets: the health check of each cluster's group, and who owns a node port. What they share
//! with pods is tested with pods; how plans read is in `golden/3*.txt`.

mod support;

use support::{Model, NOT_READY, READY, key, manifest};
use switchyard_core::{
    ids::InstanceId,
    inventory::{EndpointState, Evidence, Link, Ownership, ServiceCondition},
    observed::{Health, HealthCheck, Known, Target, TargetId},
    plan::{RegionPlan, step::Action},
    policy::{
        ClusterTrafficPolicy,
        spec::{Protocol, ProtocolVersion, TargetType},
        validate, validate_update,
    },
};

const INSTANCE: &str = "i-0123456789abcdef0";

fn nodes_policy(change: impl FnOnce(&mut ClusterTrafficPolicy)) -> ClusterTrafficPolicy {
    let mut manifest = manifest("web", &[("blue", 100)], "");
    manifest.spec.backend.target_type = TargetType::Instance;
    manifest.spec.backend.health_check.path = "/ready".into();
    change(&mut manifest);
    manifest
}

fn world(health_check_node_port: Option<u16>, change: impl FnOnce(&mut ClusterTrafficPolicy)) -> Model {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.service_state("blue", Model::node_service_key("web"), ServiceCondition::Resolved, health_check_node_port);
    model.node("blue", "web", "n1", (INSTANCE, 30_080), READY);
    model.policy(&nodes_policy(change));
    model
}

fn created(plan: &RegionPlan) -> (String, HealthCheck) {
    let steps = &plan.policies[&key("web")].steps;
    let made = steps.iter().find_map(|step| match &step.action {
        Action::CreateTargetGroup(new) => Some((format!("{:?}", new.target_type), new.health_check.clone())),
        _ => None,
    });
    made.expect("a group is made")
}

#[test]
fn a_group_of_nodes_is_checked_as_the_policy_says_where_any_node_reaches_any_pod() {
    let (target_type, check) = created(&world(None, |_| {}).plan());
    assert_eq!(target_type, "Instance");
    assert_eq!((check.path.as_str(), check.port.as_str(), check.protocol.as_str()), ("/ready", "traffic-port", "HTTP"));
}

#[test]
fn with_a_local_traffic_policy_the_nodes_say_themselves_whether_they_have_a_pod_in_plain_http() {
    let tls = |manifest: &mut ClusterTrafficPolicy| {
        manifest.spec.backend.protocol = Protocol::Https;
        manifest.spec.backend.health_check.success_codes = "204".into();
        manifest.spec.backend.health_check.interval_seconds = 7;
    };
    let (_, check) = created(&world(Some(32_000), tls).plan());
    let expected = HealthCheck {
        protocol: "HTTP".into(),
        port: "32000".into(),
        path: "/healthz".into(),
        interval_seconds: 7,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    };
    assert_eq!(check, expected);
}

#[test]
fn a_port_that_the_policy_names_and_protocols_that_the_node_does_not_speak_go_before_it() {
    let port = |manifest: &mut ClusterTrafficPolicy| manifest.spec.backend.health_check.port = Some(8086);
    let grpc = |manifest: &mut ClusterTrafficPolicy| {
        manifest.spec.backend.protocol_version = ProtocolVersion::Grpc;
        manifest.spec.backend.health_check.path = "/grpc.health.v1.Health/Check".into();
    };
    assert_eq!(created(&world(Some(32_000), port).plan()).1.port, "8086");
    let (_, check) = created(&world(Some(32_000), grpc).plan());
    assert_eq!((check.port.as_str(), check.matcher.as_str()), ("traffic-port", "12"));
}

#[test]
fn pods_are_never_checked_at_a_health_check_node_port() {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.service_state("blue", Model::service_key("web"), ServiceCondition::Resolved, Some(32_000));
    model.pod("blue", "web", "p1", "10.0.0.1", READY);
    model.policy(&manifest("web", &[("blue", 100)], ""));
    assert_eq!(created(&model.plan()).1.port, "traffic-port");
}

#[test]
fn a_node_port_belongs_to_one_service_and_an_address_to_one_pod() {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.node("blue", "old", "n1", (INSTANCE, 30_080), READY);
    model.advance(1);
    model.node("blue", "new", "n1", (INSTANCE, 30_080), READY);
    let target = Target { id: INSTANCE.parse().unwrap(), port: 30_080 };
    let vpc = support::VPC.parse().unwrap();
    let Ownership::Owner(owner) = model.inventory.owner(&vpc, target) else { panic!("somebody owns it") };
    let uid = owner.pod_uid.clone();
    assert!(owner.has_one_owner_with(&Model::node_service_key("new"), &uid));
    assert!(!owner.has_one_owner_with(&Model::node_service_key("old"), &uid), "the newer Service has the port now");
    model.pod("blue", "a", "p1", "10.0.0.1", READY);
    model.pod("blue", "b", "p1", "10.0.0.1", READY);
    let target = Target { id: "10.0.0.1".parse().unwrap(), port: 8080 };
    let Ownership::Owner(owner) = model.inventory.owner(&vpc, target) else { panic!("somebody owns it") };
    for service in ["a", "b"] {
        assert!(
            owner.has_one_owner_with(&Model::service_key(service), &"p1".parse().unwrap()),
            "two Services, one pod"
        );
    }
}

#[test]
fn the_nodes_of_one_policy_and_the_pods_of_another_on_one_service_do_not_touch_each_other() {
    let mut model = world(None, |_| {});
    model.pod("blue", "web", "p1", "10.0.0.1", READY);
    let mut pods = manifest("web-pods", &[("blue", 100)], "");
    pods.spec.backend.service.name = "web".into();
    model.policy(&pods);
    for _ in 0..4 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    let registered = |policy: &str, model: &Model| {
        let group =
            model.aws.target_groups.values().find(|g| g.tags["switchyard.dev/policy"] == format!("shop/{policy}"));
        let targets = group.unwrap().targets.get().unwrap().keys().map(ToString::to_string);
        targets.collect::<Vec<_>>()
    };
    assert_eq!(registered("web", &model), [format!("{INSTANCE}:30080")]);
    assert_eq!(registered("web-pods", &model), ["10.0.0.1:8080"]);
    model.pod("blue", "web", "p1", "10.0.0.1", NOT_READY);
    model.reconcile();
    assert_eq!(registered("web", &model), [format!("{INSTANCE}:30080")]);
}

/// A controller that deletes every Node on one wrong answer of the cloud must not empty a group whose machines serve.
#[test]
fn nodes_that_were_deleted_all_at_once_leave_only_as_far_as_the_load_balancer_says_that_they_are_dead() {
    const NODES: [&str; 4] =
        ["i-0000000000000000a", "i-0000000000000000b", "i-0000000000000000c", "i-0000000000000000d"];
    let left = |health: Health| {
        let mut model = world(None, |_| {});
        for instance in NODES {
            model.node("blue", "web", instance, (instance, 30_080), READY);
        }
        for _ in 0..4 {
            model.reconcile();
            model.judge_health();
            model.advance(61);
        }
        for group in model.aws.target_groups.values_mut() {
            let Known::Known(targets) = &mut group.targets else { panic!("the targets are known") };
            targets.values_mut().for_each(|state| state.health = health);
        }
        for instance in NODES {
            model.node("blue", "web", instance, (instance, 30_080), EndpointState::Gone(Evidence::PodDeleted));
        }
        let steps = &model.plan().policies[&key("web")].steps;
        let gone = steps.iter().map(|step| match &step.action {
            Action::DeregisterTargets { targets, .. } => targets.len(),
            _ => 0,
        });
        NODES.len() + 1 - gone.sum::<usize>()
    };
    // Five are registered, and half of them may go on weak evidence.
    assert_eq!(left(Health::Healthy), 3);
    assert_eq!(left(Health::Unavailable), 3, "that the load balancer cannot say is no verdict");
    assert_eq!(left(Health::Unhealthy), 1);
}

#[test]
fn the_target_type_cannot_change() {
    let pods = validate(&manifest("web", &[("blue", 1)], "")).unwrap();
    let nodes = validate(&nodes_policy(|_| {})).unwrap();
    let fault = &validate_update(&pods, &nodes).unwrap_err()[0];
    assert_eq!((fault.field.as_str(), fault.value.as_str()), ("spec.backend.targetType", "instance"));
    assert!(validate_update(&nodes, &nodes).is_ok());
}

#[test]
fn a_target_reads_as_it_is_written() {
    for (text, id) in [
        (INSTANCE, TargetId::Instance(InstanceId::new(INSTANCE).unwrap())),
        ("10.0.0.1", TargetId::Ip("10.0.0.1".parse().unwrap())),
        ("fd00::1", TargetId::Ip("fd00::1".parse().unwrap())),
    ] {
        assert_eq!(text.parse::<TargetId>().unwrap(), id);
        assert_eq!(id.to_string(), text);
    }
    assert_eq!(Target { id: INSTANCE.parse().unwrap(), port: 80 }.to_string(), format!("{INSTANCE}:80"));
    assert_eq!(Target { id: "fd00::1".parse().unwrap(), port: 80 }.to_string(), "[fd00::1]:80");
    for bad in ["", "i-", "i-123", "fe80::1%eth0", "node-1"] {
        assert!(bad.parse::<TargetId>().is_err(), "{bad}");
    }
}
