//! The state as JSON, for tests, the demo and curious people. Reads only.

use serde_json::{Value, json};

use super::{
    actions::{Action, ActionKind},
    api::targets::health_of,
    conditions::Condition,
    model::{Rule, TargetGroup, World},
};

/// Everything there is.
pub fn state(world: &World) -> Value {
    let tags = |arn: &str| json!(world.tags.get(arn).cloned().unwrap_or_default());
    let rule = |r: &Rule| {
        json!({
            "arn": r.arn,
            "priority": r.priority.map_or_else(|| "default".to_owned(), |p| p.to_string()),
            "is_default": r.priority.is_none(),
            "conditions": r.conditions.iter().map(condition).collect::<Vec<_>>(),
            "actions": r.actions.iter().map(action).collect::<Vec<_>>(),
            "tags": tags(&r.arn),
        })
    };
    let listeners = |lb: &str| -> Vec<Value> {
        world
            .listeners_of(lb)
            .map(|l| {
                json!({
                    "arn": l.arn,
                    "port": l.port,
                    "protocol": l.protocol,
                    "address": l.address.to_string(),
                    "tags": tags(&l.arn),
                    "rules": world.rules_of(&l.arn).into_iter().map(rule).collect::<Vec<_>>(),
                })
            })
            .collect()
    };
    let load_balancers: Vec<Value> = world
        .load_balancers
        .values()
        .map(|lb| {
            json!({
                "arn": lb.arn,
                "name": lb.name,
                "scheme": lb.scheme,
                "dns_name": lb.dns_name,
                "ip": lb.ip.to_string(),
                "attributes": lb.attributes,
                "tags": tags(&lb.arn),
                "listeners": listeners(&lb.arn),
            })
        })
        .collect();
    let groups: Vec<Value> = world.groups.values().map(|g| group(world, g, tags(&g.arn))).collect();
    json!({
        "load_balancers": load_balancers,
        "target_groups": groups,
        "instances": world.instances.iter().map(|(id, ip)| json!({"id": id, "ip": ip.to_string()})).collect::<Vec<_>>(),
        "quotas": world.limits,
    })
}

/// Where the data plane listens.
pub fn dataplane(world: &World) -> Value {
    let each = world.listeners.values().filter_map(|l| {
        let lb = world.load_balancers.get(&l.load_balancer)?;
        Some(json!({
            "load_balancer": lb.name,
            "listener_arn": l.arn,
            "port": l.port,
            "address": l.address.to_string(),
        }))
    });
    Value::Array(each.collect())
}

fn group(world: &World, group: &TargetGroup, tags: Value) -> Value {
    let check = &group.health_check;
    let targets: Vec<Value> = group
        .targets
        .values()
        .map(|t| {
            let (state, reason, description) = health_of(Some(t));
            json!({
                "id": t.key.id,
                "port": t.key.port,
                "zone": t.zone,
                "address": t.address.to_string(),
                "state": state,
                "reason": reason,
                "description": description,
                "overridden": t.forced.is_some(),
                "outstanding": t.live.outstanding.load(std::sync::atomic::Ordering::Relaxed),
            })
        })
        .collect();
    json!({
        "arn": group.arn,
        "name": group.name,
        "protocol": group.protocol,
        "port": group.port,
        "vpc_id": group.vpc_id,
        "target_type": group.target_type,
        "load_balancer_arns": world.owner_of_group(&group.arn, None).into_iter().collect::<Vec<_>>(),
        "health_check": {
            "protocol": check.protocol,
            "port": check.port,
            "path": check.path,
            "interval_seconds": check.interval_s,
            "timeout_seconds": check.timeout_s,
            "healthy_threshold": check.healthy_threshold,
            "unhealthy_threshold": check.unhealthy_threshold,
            "matcher": check.matcher,
        },
        "attributes": group.attributes,
        "tags": tags,
        "targets": targets,
    })
}

fn condition(condition: &Condition) -> Value {
    let field = condition.field();
    match condition {
        Condition::Host(values) | Condition::Path(values) | Condition::Method(values) => {
            json!({"field": field, "values": values})
        }
        Condition::Header { name, values } => json!({"field": field, "name": name, "values": values}),
        Condition::Query(pairs) => {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
            json!({"field": field, "values": pairs})
        }
        Condition::SourceIp(blocks) => json!({"field": field, "values": blocks}),
    }
}

fn action(action: &Action) -> Value {
    match &action.kind {
        ActionKind::Forward(forward) => {
            let groups: Vec<_> =
                forward.groups.iter().map(|g| json!({"target_group_arn": g.arn, "weight": g.weight})).collect();
            json!({"type": "forward", "target_groups": groups, "stickiness_seconds": forward.stickiness_s})
        }
        ActionKind::FixedResponse { status, content_type, body } => {
            json!({"type": "fixed-response", "status": status, "content_type": content_type, "body": body})
        }
        ActionKind::Redirect(r) => json!({
            "type": "redirect", "status": r.status, "protocol": r.protocol, "host": r.host, "port": r.port,
            "path": r.path, "query": r.query,
        }),
    }
}
