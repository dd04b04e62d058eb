//! The hub's own client: every write and every read that it has, in the order of a policy's life and with what is refused.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use switchyard_core::{
    budget::Class,
    execute::Outcome,
    ids::{VpcId, Weight},
    observed::{Condition, HealthCheck, Target},
    plan::step::{Action, GroupRef, NewTarget, NewTargetGroup},
    policy::spec::TargetType,
};
use switchyard_hub::elb::ReadError;

use crate::duel::{Duel, Side};

const LIMIT: Duration = Duration::from_secs(30);

async fn apply(side: &Side, action: Action) -> Value {
    match side.elb.apply(&action, LIMIT).await {
        Outcome::Done { created } => json!({"outcome": "ok", "created": created}),
        Outcome::Refused { code, .. } => json!({"outcome": code}),
        other => json!({"outcome": format!("{other:?}")}),
    }
}

fn read<T: Serialize>(result: Result<T, ReadError>) -> Value {
    match result {
        Ok(value) => json!({"outcome": "ok", "value": value}),
        Err(ReadError::Refused { code, .. }) => json!({"outcome": code}),
        Err(error) => json!({"outcome": error.to_string()}),
    }
}

/// A group by the name under which its ARN is kept.
fn group(side: &Side, name: &str) -> GroupRef {
    let arn = side.kept(name);
    GroupRef { name: name.to_owned(), arn: Some(arn.parse().unwrap_or_else(|_| panic!("{name} is {arn:?}"))) }
}

fn forward(side: &Side, weights: &[(&str, u32)]) -> Vec<(GroupRef, Weight)> {
    weights.iter().map(|(name, weight)| (group(side, name), Weight::new(*weight).expect("a weight"))).collect()
}

fn tags() -> BTreeMap<String, String> {
    [("switchyard.dev/hub", "hub-1"), ("switchyard.dev/policy", "shop/checkout"), ("odd", "ä & <b> \"c\" + 100%")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn health_check(path: &str, matcher: &str) -> HealthCheck {
    HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: path.into(),
        interval_seconds: 10,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
        matcher: matcher.into(),
    }
}

fn new_group(side: &Side, name: &str, path: &str) -> Action {
    new_group_of(side, name, path, TargetType::Ip)
}

fn new_group_of(side: &Side, name: &str, path: &str, target_type: TargetType) -> Action {
    Action::CreateTargetGroup(NewTargetGroup {
        name: name.into(),
        vpc_id: VpcId::new(side.kept("vpc")).expect("a VPC id"),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        target_type,
        port: 80,
        health_check: health_check(path, "200"),
        tags: tags(),
    })
}

fn target(side: &Side, address: &str, port: u16) -> Target {
    let address = address.replace("NET", &side.kept("net"));
    Target::ip(address.parse::<std::net::IpAddr>().expect("an address"), port)
}

/// In core's order, as a plan has them.
fn conditions(path: &str) -> Vec<Condition> {
    let mut conditions = vec![
        Condition::HostHeader(vec!["*.example.com".into(), "shop.example.com".into()]),
        Condition::PathPattern(vec![path.into()]),
        Condition::HttpHeader("x-beta".into(), vec!["1".into()]),
        Condition::QueryString(vec![(String::new(), "any".into())]),
    ];
    conditions.sort();
    conditions
}

pub async fn steps(duel: &mut Duel) {
    groups(duel).await;
    targets(duel).await;
    instances(duel).await;
    rules(duel).await;
    order(duel).await;
    reads(duel).await;
    leaving(duel).await;
}

async fn groups(duel: &mut Duel) {
    for (name, label) in [
        ("the client makes a group", "sy-blue"),
        ("the client makes a second group", "sy-green"),
        ("the client makes a third group", "sy-third"),
    ] {
        duel.client(name, "CreateTargetGroup", async |side| apply(side, new_group(side, label, "/healthz")).await)
            .await;
        duel.keep(label, "/created");
    }
    duel.client("the client makes a group of a name that is taken", "CreateTargetGroup", async |side| {
        apply(side, new_group(side, "sy-blue", "/other")).await
    })
    .await;
    duel.client("the client changes a health check", "ModifyTargetGroup", async |side| {
        let health_check = health_check("/ready", "200-299");
        apply(side, Action::ModifyTargetGroup { group: group(side, "sy-blue"), health_check }).await
    })
    .await;
    duel.client("the client changes a delay", "ModifyTargetGroupAttributes", async |side| {
        let group = group(side, "sy-blue");
        apply(side, Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds: 30 }).await
    })
    .await;
    duel.client("the client reads a group", "DescribeTargetGroups", async |side| {
        read(side.elb.target_group_by_name("sy-blue", Class::Read).await)
    })
    .await;
    duel.client("the client reads a group that is not there", "DescribeTargetGroups", async |side| {
        read(side.elb.target_group_by_name("sy-nobody", Class::Read).await)
    })
    .await;
}

async fn targets(duel: &mut Duel) {
    duel.client("the client registers", "RegisterTargets", async |side| {
        let near = (1..=3).map(|n| NewTarget { target: target(side, &format!("NET.1.{n}"), 8080), zone: None });
        let far = NewTarget { target: target(side, "10.99.0.7", 8080), zone: Some("all".into()) };
        let targets = near.chain([far]).collect();
        apply(side, Action::RegisterTargets { group: group(side, "sy-blue"), targets }).await
    })
    .await;
    duel.client("the client reads the targets", "DescribeTargetHealth", async |side| {
        read(registered(side, "sy-blue").await)
    })
    .await;
    duel.client("the client reads the targets of nobody", "DescribeTargetHealth", async |side| {
        let gone = side.kept("sy-blue").replace("sy-blue", "sy-nobody").parse().expect("an ARN");
        read(side.elb.targets(&gone, Class::Read).await.map(|found| found.len()))
    })
    .await;
    duel.client("the client deregisters", "DeregisterTargets", async |side| {
        let targets = vec![target(side, "NET.1.1", 8080)];
        apply(side, Action::DeregisterTargets { group: group(side, "sy-blue"), targets }).await
    })
    .await;
    duel.client("the client deregisters what is not there", "DeregisterTargets", async |side| {
        let targets = vec![target(side, "NET.1.99", 8080)];
        apply(side, Action::DeregisterTargets { group: group(side, "sy-blue"), targets }).await
    })
    .await;
    duel.client("the client sees who is left", "DescribeTargetHealth", async |side| {
        read(registered(side, "sy-blue").await)
    })
    .await;
}

async fn instances(duel: &mut Duel) {
    duel.client("the client makes a group of instances", "CreateTargetGroup", async |side| {
        apply(side, new_group_of(side, "sy-nodes", "/healthz", TargetType::Instance)).await
    })
    .await;
    duel.keep("sy-nodes", "/created");
    let node = |side: &Side| Target { id: side.kept("instance").parse().expect("an instance"), port: 30080 };
    duel.client("the client registers an instance", "RegisterTargets", async |side| {
        let targets = vec![NewTarget { target: node(side), zone: None }];
        apply(side, Action::RegisterTargets { group: group(side, "sy-nodes"), targets }).await
    })
    .await;
    duel.client("the client reads the instances", "DescribeTargetHealth", async |side| {
        read(registered(side, "sy-nodes").await)
    })
    .await;
    duel.client("the client deregisters an instance", "DeregisterTargets", async |side| {
        let targets = vec![node(side)];
        apply(side, Action::DeregisterTargets { group: group(side, "sy-nodes"), targets }).await
    })
    .await;
    duel.client("the client sees no instance any more", "DescribeTargetHealth", async |side| {
        read(registered(side, "sy-nodes").await)
    })
    .await;
    duel.client("the client deletes the group of instances", "DeleteTargetGroup", async |side| {
        apply(side, Action::DeleteTargetGroup { group: group(side, "sy-nodes") }).await
    })
    .await;
}

/// Addresses and ports of those that do not drain; health is told apart elsewhere.
async fn registered(side: &Side, name: &str) -> Result<Vec<String>, ReadError> {
    let arn = group(side, name).arn.expect("it has an ARN");
    let all = side.elb.targets(&arn, Class::Read).await?;
    let staying = all.iter().filter(|(_, state)| state.health != switchyard_core::observed::Health::Draining);
    Ok(staying.map(|(target, _)| target.to_string()).collect())
}

fn new_rule(side: &Side, priority: u32, path: &str, weights: &[(&str, u32)]) -> Action {
    Action::CreateRule {
        listener: side.kept("listener").parse().expect("an ARN"),
        priority,
        conditions: conditions(path),
        forward: forward(side, weights),
        tags: tags(),
    }
}

async fn rules(duel: &mut Duel) {
    duel.client("the client makes a rule", "CreateRule", async |side| {
        apply(side, new_rule(side, 100, "/a", &[("sy-blue", 999), ("sy-green", 0)])).await
    })
    .await;
    duel.client("the client makes a rule of one group", "CreateRule", async |side| {
        apply(side, new_rule(side, 200, "/b", &[("sy-third", 1)])).await
    })
    .await;
    duel.client("the client makes a rule at a priority that is taken", "CreateRule", async |side| {
        apply(side, new_rule(side, 100, "/c", &[("sy-blue", 1)])).await
    })
    .await;
    duel.client("the client reads the rules", "DescribeRules", async |side| {
        let listener = side.kept("listener").parse().expect("an ARN");
        read(side.elb.rules(&listener, Class::Read).await)
    })
    .await;
    duel.raw("the rules for the client", "DescribeRules", &[("ListenerArn", "{listener}"), ("PageSize", "400")]).await;
    for side in ["first", "second"] {
        let index = if side == "first" { 0 } else { 1 };
        duel.keep_sorted(side, "/Rules", "Priority", index, "RuleArn");
    }
    duel.client("the client shifts", "ModifyRule", async |side| {
        let forward = Some(forward(side, &[("sy-blue", 5), ("sy-green", 995)]));
        apply(side, modify(side, "first", None, forward)).await
    })
    .await;
    duel.client("the client changes conditions", "ModifyRule", async |side| {
        apply(side, modify(side, "first", Some(conditions("/new")), None)).await
    })
    .await;
    duel.client("the client changes a rule that is gone", "ModifyRule", async |side| {
        let Action::ModifyRule { listener, conditions, forward, .. } =
            modify(side, "first", None, Some(forward(side, &[("sy-blue", 1)])))
        else {
            unreachable!("it makes nothing else")
        };
        let rule = format!("{}/0000000000000000", side.kept("first").rsplit_once('/').expect("an ARN").0);
        apply(side, Action::ModifyRule { listener, rule: rule.parse().expect("an ARN"), conditions, forward }).await
    })
    .await;
    duel.client("the client reads the changed rules", "DescribeRules", async |side| {
        let listener = side.kept("listener").parse().expect("an ARN");
        read(side.elb.rules(&listener, Class::Read).await)
    })
    .await;
}

fn modify(
    side: &Side,
    rule: &str,
    conditions: Option<Vec<Condition>>,
    forward: Option<Vec<(GroupRef, Weight)>>,
) -> Action {
    let listener = side.kept("listener").parse().expect("an ARN");
    Action::ModifyRule { listener, rule: side.kept(rule).parse().expect("an ARN"), conditions, forward }
}

async fn order(duel: &mut Duel) {
    duel.client("the client moves a rule", "SetRulePriorities", async |side| {
        let priorities = BTreeMap::from([(side.kept("first").parse().expect("an ARN"), 50)]);
        let listener = side.kept("listener").parse().expect("an ARN");
        apply(side, Action::SetRulePriorities { listener, priorities }).await
    })
    .await;
    duel.client("the client moves a rule onto another", "SetRulePriorities", async |side| {
        let priorities = BTreeMap::from([(side.kept("first").parse().expect("an ARN"), 200)]);
        let listener = side.kept("listener").parse().expect("an ARN");
        apply(side, Action::SetRulePriorities { listener, priorities }).await
    })
    .await;
    duel.client("the client writes the epoch", "AddTags", async |side| {
        let load_balancer = side.kept("lb").parse().expect("an ARN");
        let tags = BTreeMap::from([("switchyard.dev/epoch.hub-1".to_owned(), "8".to_owned())]);
        apply(side, Action::TagLoadBalancer { load_balancer, tags }).await
    })
    .await;
}

async fn reads(duel: &mut Duel) {
    duel.client("the client reads the load balancers", "DescribeLoadBalancers", async |side| {
        let mut found = read(side.elb.load_balancers(Class::Audit).await);
        // Each makes up its own.
        for load_balancer in found["value"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
            load_balancer["dns_name"] = json!(load_balancer["dns_name"].as_str().is_some_and(|name| !name.is_empty()));
        }
        found
    })
    .await;
    duel.client("the client reads the tags of a load balancer", "DescribeTags", async |side| {
        read(side.elb.load_balancer_tags(&side.kept("lb").parse().expect("an ARN"), Class::Read).await)
    })
    .await;
    duel.client("the client reads the listeners", "DescribeListeners", async |side| {
        read(side.elb.listeners(&side.kept("lb").parse().expect("an ARN"), Class::Audit).await)
    })
    .await;
    duel.client("the client reads the groups", "DescribeTargetGroups", async |side| {
        read(side.elb.target_groups("sy-", Class::Audit).await)
    })
    .await;
    duel.client("the client reads the limits", "DescribeAccountLimits", async |side| {
        read(side.elb.limits(Class::Audit).await)
    })
    .await;
}

async fn leaving(duel: &mut Duel) {
    duel.client("the client deletes a group in use", "DeleteTargetGroup", async |side| {
        apply(side, Action::DeleteTargetGroup { group: group(side, "sy-blue") }).await
    })
    .await;
    for (name, rule) in [("the client deletes a rule", "first"), ("the client deletes the second rule", "second")] {
        duel.client(name, "DeleteRule", async |side| {
            let listener = side.kept("listener").parse().expect("an ARN");
            apply(side, Action::DeleteRule { listener, rule: side.kept(rule).parse().expect("an ARN") }).await
        })
        .await;
    }
    for (name, label) in [
        ("the client deletes a group", "sy-blue"),
        ("the client deletes the second group", "sy-green"),
        ("the client deletes the third group", "sy-third"),
    ] {
        duel.client(name, "DeleteTargetGroup", async |side| {
            apply(side, Action::DeleteTargetGroup { group: group(side, label) }).await
        })
        .await;
    }
}
