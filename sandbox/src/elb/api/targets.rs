//! Targets: register, deregister, describe health. One bad target fails a whole RegisterTargets call.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{Call, rules};
use crate::elb::{
    errors::ApiError,
    health, limits,
    model::{HealthState, Live, Target, TargetGroup, TargetKey},
    query::Scope,
    xml::Xml,
};

/// Addresses that may be targets although they are outside the VPC: RFC 1918 and RFC 6598.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

struct Wanted {
    key: TargetKey,
    zone: Option<String>,
    address: SocketAddr,
}

pub fn register(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let group = call.world.group(call.args.required("TargetGroupArn")?)?;
    let arn = group.arn.clone();
    let members = call.args.members("Targets");
    if members.is_empty() {
        return Err(ApiError::validation("Parameter 'Targets' is empty; give at least one target"));
    }
    let wanted = members.iter().map(|m| read(call, group, m)).collect::<Result<Vec<_>, _>>()?;
    check_quotas(call, group, &wanted)?;
    let (state, reason) = if call.world.groups_in_use().contains(arn.as_str()) {
        (HealthState::Initial, "Elb.RegistrationInProgress")
    } else {
        (HealthState::Unused, "Target.NotInUse")
    };
    let first_probe = (state == HealthState::Initial).then(|| call.now + call.config.scaled(health::REGISTRATION));
    let group = call.world.group_mut(&arn)?;
    for want in wanted {
        let held = group.targets.get(&want.key);
        if held.is_some_and(|t| !t.is_draining()) {
            continue;
        }
        let target = Target {
            key: want.key.clone(),
            zone: want.zone,
            address: want.address,
            state,
            reason: Some(reason),
            description: None,
            draining_until: None,
            passes: 0,
            failures: 0,
            next_probe: first_probe,
            probing: false,
            generation: held.map_or(1, |t| t.generation + 1),
            slow_start_from: None,
            forced: None,
            // Requests in flight from before the draining go on to share it.
            live: held.map_or_else(|| Arc::new(Live::default()), |t| Arc::clone(&t.live)),
        };
        group.targets.insert(want.key, target);
    }
    Ok(Xml::new())
}

pub fn deregister(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = call.world.group(call.args.required("TargetGroupArn")?)?.arn.clone();
    let members = call.args.members("Targets");
    if members.is_empty() {
        return Err(ApiError::validation("Parameter 'Targets' is empty; give at least one target"));
    }
    let in_use = call.world.groups_in_use().contains(arn.as_str());
    let (now, config) = (call.now, call.config);
    let group = call.world.group_mut(&arn)?;
    let keys = members.iter().map(|m| read_key(group, m)).collect::<Result<Vec<_>, _>>()?;
    let delay = Duration::from_secs(group.attribute_number("deregistration_delay.timeout_seconds"));
    for key in keys {
        let Some(target) = group.targets.get_mut(&key) else {
            continue;
        };
        if !in_use {
            group.targets.remove(&key);
        } else if target.draining_until.is_none() {
            target.draining_until = Some(now + config.scaled(delay));
            target.next_probe = None;
        }
    }
    Ok(Xml::new())
}

pub fn describe_health(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let group = call.world.group(call.args.required("TargetGroupArn")?)?;
    let members = call.args.members("Targets");
    let keys = match members.as_slice() {
        [] => group.targets.keys().cloned().collect(),
        asked => asked.iter().map(|m| read_key(group, m)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut xml = Xml::new();
    xml.list("TargetHealthDescriptions", keys, |x, key| write(x, group, &key));
    Ok(xml)
}

/// State, reason and description of a target as DescribeTargetHealth tells them.
pub fn health_of(target: Option<&Target>) -> (&'static str, Option<&'static str>, Option<String>) {
    let Some(target) = target else {
        let text = "Target is not registered to the target group".to_owned();
        return ("unused", Some("Target.NotRegistered"), Some(text));
    };
    if target.is_draining() {
        let text = "Target deregistration is in progress".to_owned();
        return ("draining", Some("Target.DeregistrationInProgress"), Some(text));
    }
    match target.forced {
        Some(HealthState::Healthy) => ("healthy", None, None),
        Some(state) => (state.as_str(), Some("Target.FailedHealthChecks"), Some("Health checks failed".to_owned())),
        None => {
            let description = target.description.clone().or_else(|| target.reason.and_then(health::describe_reason));
            (target.state.as_str(), target.reason, description)
        }
    }
}

fn write(x: &mut Xml, group: &TargetGroup, key: &TargetKey) {
    let target = group.targets.get(key);
    let (state, reason, description) = health_of(target);
    x.element("Target", |x| {
        x.text("Id", &key.id).text("Port", key.port);
        x.text_if("AvailabilityZone", target.and_then(|t| t.zone.as_ref()));
    });
    if target.is_some() {
        x.text("HealthCheckPort", health::check_port(group, key.port));
    }
    x.element("TargetHealth", |x| {
        x.text("State", state).text_if("Reason", reason).text_if("Description", description);
    });
}

fn read_key(group: &TargetGroup, scope: &Scope<'_>) -> Result<TargetKey, ApiError> {
    let id = scope.required("Id")?.to_owned();
    // The range makes the conversion exact.
    let port = scope.number("Port", 1..=65_535)?.map_or(group.port, |p| p as u16);
    Ok(TargetKey { id, port })
}

fn read(call: &Call<'_>, group: &TargetGroup, scope: &Scope<'_>) -> Result<Wanted, ApiError> {
    let key = read_key(group, scope)?;
    let zone = scope.get("AvailabilityZone").filter(|z| !z.is_empty());
    if scope.get("QuicServerId").is_some() {
        return Err(ApiError::validation("QuicServerId is for QUIC target groups only; leave it out"));
    }
    let ip = match group.target_type.as_str() {
        "ip" => read_ip(call, &key, zone)?,
        _ => {
            if zone.is_some() {
                return Err(ApiError::validation(
                    "AvailabilityZone cannot be given for instance targets; leave it out",
                ));
            }
            *call.world.instances.get(&key.id).ok_or_else(|| {
                ApiError::new(
                    "InvalidTarget",
                    format!("The following targets are not in a running state and cannot be registered: '{}'", key.id),
                )
            })?
        }
    };
    let address = SocketAddr::new(IpAddr::V4(ip), key.port);
    let zone =
        zone.map(str::to_owned).or_else(|| (group.target_type == "ip").then(|| format!("{}a", call.config.region)));
    Ok(Wanted { key, zone, address })
}

fn read_ip(call: &Call<'_>, key: &TargetKey, zone: Option<&str>) -> Result<Ipv4Addr, ApiError> {
    let ip: Ipv4Addr = key
        .id
        .parse()
        .map_err(|_| ApiError::validation(format!("The IP address '{}' is not a valid IPv4 address", key.id)))?;
    let zone_ok =
        zone.is_none_or(|z| z == "all" || z.strip_prefix(call.config.region.as_str()).is_some_and(is_zone_letter));
    if !zone_ok {
        return Err(ApiError::validation(format!(
            "AvailabilityZone '{}' of target '{ip}' is not a zone of {} nor 'all'",
            zone.unwrap_or_default(),
            call.config.region
        )));
    }
    if call.config.vpc_cidr.contains(&ip) {
        if zone == Some("all") {
            return Err(ApiError::validation(format!(
                "AvailabilityZone 'all' is not allowed for '{ip}', which is inside the VPC; leave it out or name the zone"
            )));
        }
        return Ok(ip);
    }
    if !PRIVATE.iter().any(|block| block.contains(&ip)) {
        return Err(ApiError::new(
            "InvalidTarget",
            format!("The IP address '{ip}' is not within the VPC, RFC 1918 or 100.64.0.0/10 and cannot be a target"),
        ));
    }
    if zone.is_none() {
        return Err(ApiError::validation(format!(
            "You must specify an AvailabilityZone for the IP address '{ip}', which is outside the VPC"
        )));
    }
    Ok(ip)
}

fn is_zone_letter(rest: &str) -> bool {
    matches!(rest.as_bytes(), [b'a'..=b'f'])
}

fn check_quotas(call: &Call<'_>, group: &TargetGroup, wanted: &[Wanted]) -> Result<(), ApiError> {
    let held = |key: &TargetKey| group.targets.get(key).is_some_and(|t| !t.is_draining());
    let new: std::collections::BTreeSet<_> = wanted.iter().map(|w| &w.key).filter(|key| !held(key)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let now = group.targets.values().filter(|t| !t.is_draining()).count();
    let limits = &call.world.limits;
    limits.check(limits::TARGETS_PER_GROUP, now + new.len(), "TooManyTargets", "targets of this target group")?;
    let Some(owner) = call.world.owner_of_group(&group.arn, None) else {
        return Ok(());
    };
    let groups = call.world.groups_under(owner, None);
    rules::check_target_quota(call.world, &groups, new.len())?;
    for key in new {
        let of_group = |arn: &String| {
            call.world.groups.get(arn).map_or(0, |g| g.targets.keys().filter(|k| k.id == key.id).count())
        };
        let count = groups.iter().map(of_group).sum::<usize>() + 1;
        let what = "registrations of one target with this load balancer";
        limits.check(limits::REGISTRATIONS_PER_TARGET, count, "TooManyRegistrationsForTargetId", what)?;
    }
    Ok(())
}
