//! Target groups: create (idempotent), describe, modify (health check only), delete.

use std::collections::BTreeMap;

use super::{Call, attributes, check_name, health_checks};
use crate::elb::{
    conditions::unsupported,
    errors::ApiError,
    limits,
    model::{Arn, TargetGroup},
    tags,
    xml::Xml,
};

pub fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let wanted = read(call)?;
    let tags = tags::parse(&call.args.members("Tags"))?;
    tags::check_quota(&call.world.limits, tags.len())?;
    if let Some(held) = call.world.groups.values().find(|g| g.name == wanted.name) {
        let same = held.protocol == wanted.protocol
            && held.port == wanted.port
            && held.vpc_id == wanted.vpc_id
            && held.target_type == wanted.target_type
            && held.ip_address_type == wanted.ip_address_type
            && held.health_check == wanted.health_check
            && call.world.tags.get(&held.arn).is_none_or(|t| *t == tags);
        if !same {
            return Err(ApiError::new(
                "DuplicateTargetGroupName",
                format!("A target group with the same name '{}' exists, but with different settings", wanted.name),
            ));
        }
        let arn = held.arn.clone();
        return Ok(write_all(call, &[arn], None));
    }
    let count = call.world.groups.len() + 1;
    call.world.limits.check(limits::GROUPS, count, "TooManyTargetGroups", "target groups in this region")?;
    let arn = call.config.arn(&format!("targetgroup/{}/{}", wanted.name, call.new_id()));
    call.world.groups.insert(arn.clone(), TargetGroup { arn: arn.clone(), ..wanted });
    call.world.tags.insert(arn.clone(), tags);
    Ok(write_all(call, &[arn], None))
}

/// The group that a call asks for, without an ARN.
fn read(call: &Call<'_>) -> Result<TargetGroup, ApiError> {
    let args = &call.args;
    let name = args.required("Name")?;
    check_name("Target group", name)?;
    let target_type = args.get("TargetType").unwrap_or("instance");
    match target_type {
        "instance" | "ip" => {}
        "lambda" | "alb" => return Err(unsupported(&format!("TargetType '{target_type}'"))),
        other => {
            return Err(ApiError::validation(format!("TargetType '{other}' must be instance, ip, lambda or alb")));
        }
    }
    let protocol = args.required("Protocol")?;
    if !matches!(protocol, "HTTP" | "HTTPS" | "TCP" | "TLS" | "UDP" | "TCP_UDP") {
        return Err(ApiError::validation(format!(
            "Protocol '{protocol}' must be HTTP, HTTPS, TCP, TLS, UDP or TCP_UDP"
        )));
    }
    match args.get("ProtocolVersion") {
        None | Some("HTTP1") => {}
        Some(version @ ("HTTP2" | "GRPC")) => return Err(unsupported(&format!("ProtocolVersion '{version}'"))),
        Some(other) => {
            return Err(ApiError::validation(format!("ProtocolVersion '{other}' must be HTTP1, HTTP2 or GRPC")));
        }
    }
    let ip_address_type = args.get("IpAddressType").unwrap_or("ipv4");
    if ip_address_type != "ipv4" {
        return Err(unsupported(&format!("IpAddressType '{ip_address_type}'")));
    }
    args.required("Port")?;
    let port = args.number("Port", 1..=65_535)?.unwrap_or_default();
    let vpc_id = args.required("VpcId")?;
    if vpc_id != call.config.vpc_id {
        return Err(ApiError::validation(format!(
            "The VPC ID '{vpc_id}' is not found; there is '{}'",
            call.config.vpc_id
        )));
    }
    Ok(TargetGroup {
        arn: String::new(),
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        // The range makes the conversion exact.
        port: port as u16,
        vpc_id: vpc_id.to_owned(),
        target_type: target_type.to_owned(),
        ip_address_type: ip_address_type.to_owned(),
        health_check: health_checks::read(args, protocol, health_checks::default(args, protocol))?,
        attributes: attributes::group_defaults(protocol),
        targets: BTreeMap::new(),
    })
}

pub fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let (arns, names) = (call.args.list("TargetGroupArns"), call.args.list("Names"));
    let load_balancer = call.args.get("LoadBalancerArn");
    if [!arns.is_empty(), !names.is_empty(), load_balancer.is_some()].iter().filter(|given| **given).count() > 1 {
        return Err(ApiError::validation("Give one of TargetGroupArns, Names and LoadBalancerArn"));
    }
    let mut found: Vec<Arn> = Vec::new();
    for arn in &arns {
        found.push(call.world.group(arn)?.arn.clone());
    }
    for name in &names {
        let held = call.world.groups.values().find(|g| g.name == *name);
        found.push(held.ok_or_else(|| ApiError::group_not_found(name))?.arn.clone());
    }
    if !arns.is_empty() || !names.is_empty() {
        return Ok(write_all(call, &found, None));
    }
    let under = match load_balancer {
        Some(arn) => {
            call.world.load_balancer(arn)?;
            Some(call.world.groups_under(arn, None))
        }
        None => None,
    };
    let wanted = call.world.groups.values().filter(|g| under.as_ref().is_none_or(|u| u.contains(&g.arn)));
    let (page, next) = call.page(wanted.map(|g| (g.name.clone(), g.arn.clone())).collect())?;
    Ok(write_all(call, &page, next))
}

pub fn modify(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let group = call.world.group(call.args.required("TargetGroupArn")?)?;
    let check = health_checks::read(&call.args, &group.protocol, group.health_check.clone())?;
    let arn = group.arn.clone();
    call.world.group_mut(&arn)?.health_check = check;
    Ok(write_all(call, &[arn], None))
}

pub fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = call.args.required("TargetGroupArn")?.to_owned();
    if call.world.groups_in_use().contains(arn.as_str()) {
        return Err(ApiError::new(
            "ResourceInUse",
            format!("Target group '{arn}' is currently in use by a listener or a rule"),
        ));
    }
    // An unknown group is gone already: the model lists no TargetGroupNotFound for this operation.
    // Requests in flight to its targets are left to end by themselves.
    call.world.groups.remove(&arn);
    call.world.tags.remove(&arn);
    Ok(Xml::new())
}

fn write_all(call: &Call<'_>, arns: &[Arn], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("TargetGroups", arns.iter().filter_map(|arn| call.world.groups.get(arn)), |x, group| {
        write(x, group, call.world.owner_of_group(&group.arn, None));
    });
    xml.text_if("NextMarker", next);
    xml
}

fn write(x: &mut Xml, group: &TargetGroup, owner: Option<&str>) {
    let check = &group.health_check;
    let present = |text: &String| (!text.is_empty()).then(|| text.clone());
    x.text("TargetGroupArn", &group.arn).text("TargetGroupName", &group.name).text("Protocol", &group.protocol);
    x.text("Port", group.port).text("VpcId", &group.vpc_id).text("TargetType", &group.target_type);
    x.text("HealthCheckProtocol", &check.protocol).text("HealthCheckPort", &check.port);
    x.text("HealthCheckEnabled", check.enabled).text("HealthCheckIntervalSeconds", check.interval_s);
    x.text("HealthCheckTimeoutSeconds", check.timeout_s).text("HealthyThresholdCount", check.healthy_threshold);
    x.text("UnhealthyThresholdCount", check.unhealthy_threshold).text_if("HealthCheckPath", present(&check.path));
    if let Some(codes) = present(&check.matcher) {
        x.element("Matcher", |x| _ = x.text("HttpCode", codes));
    }
    x.text_list("LoadBalancerArns", owner);
    if group.speaks_http() {
        x.text("ProtocolVersion", "HTTP1");
    }
    x.text("IpAddressType", &group.ip_address_type);
}
