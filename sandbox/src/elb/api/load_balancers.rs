//! Load balancers: create (idempotent), describe, delete.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::Rng;

use super::{Call, attributes, check_name, listeners};
use crate::elb::{
    conditions::unsupported,
    errors::ApiError,
    limits,
    model::{Arn, LoadBalancer},
    tags,
    xml::Xml,
};

/// How long a new load balancer is `provisioning` (unscaled). AWS takes minutes; nothing here depends on the length.
const PROVISIONING: Duration = Duration::from_secs(10);
/// Most ARNs or names in one describe call.
const MAX_NAMED: usize = 20;

/// What makes two load balancers of one name the same.
struct Wanted {
    name: String,
    scheme: String,
    subnets: Vec<String>,
    security_groups: Vec<String>,
    ip_address_type: String,
}

pub fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let wanted = read(call)?;
    let tags = tags::parse(&call.args.members("Tags"))?;
    tags::check_quota(&call.world.limits, tags.len())?;
    let held = call.world.load_balancers.values().find(|lb| lb.name == wanted.name);
    if let Some(held) = held {
        let same = held.scheme == wanted.scheme
            && held.subnets == wanted.subnets
            && held.security_groups == wanted.security_groups
            && held.ip_address_type == wanted.ip_address_type
            && call.world.tags.get(&held.arn).is_none_or(|t| *t == tags);
        if !same {
            return Err(ApiError::new(
                "DuplicateLoadBalancerName",
                format!("A load balancer with the same name '{}' exists, but with different settings", wanted.name),
            ));
        }
        let arn = held.arn.clone();
        return Ok(write_all(call, &[arn], None));
    }
    let arn = insert(call, wanted)?;
    call.world.tags.insert(arn.clone(), tags);
    Ok(write_all(call, &[arn], None))
}

/// An active load balancer in two made-up subnets, as somebody else's Terraform would have left it.
pub fn create_ready(call: &mut Call<'_>, name: &str) -> Result<Arn, ApiError> {
    check_load_balancer_name(name)?;
    if call.world.load_balancers.values().any(|lb| lb.name == name) {
        return Err(ApiError::new("DuplicateLoadBalancerName", format!("There is a load balancer '{name}' already")));
    }
    let subnets = vec!["subnet-0a000000000000001".to_owned(), "subnet-0a000000000000002".to_owned()];
    let wanted = Wanted {
        name: name.to_owned(),
        scheme: "internet-facing".to_owned(),
        subnets,
        security_groups: Vec::new(),
        ip_address_type: "ipv4".to_owned(),
    };
    let arn = insert(call, wanted)?;
    if let Some(lb) = call.world.load_balancers.get_mut(&arn) {
        lb.active_at = call.now;
    }
    Ok(arn)
}

fn read(call: &Call<'_>) -> Result<Wanted, ApiError> {
    let args = &call.args;
    let name = args.required("Name")?;
    check_load_balancer_name(name)?;
    if let Some(other) = args.get("Type").filter(|t| *t != "application") {
        return Err(unsupported(&format!("Type '{other}'")));
    }
    let scheme = args.get("Scheme").unwrap_or("internet-facing");
    if !matches!(scheme, "internet-facing" | "internal") {
        return Err(ApiError::new("InvalidScheme", format!("Scheme '{scheme}' must be internet-facing or internal")));
    }
    let mapped: Vec<_> = args.members("SubnetMappings").iter().filter_map(|m| m.get("SubnetId")).collect();
    let plain = args.list("Subnets");
    if !mapped.is_empty() && !plain.is_empty() {
        return Err(ApiError::validation("Give either Subnets or SubnetMappings, not both"));
    }
    let mut subnets: Vec<String> = mapped.into_iter().chain(plain).map(str::to_owned).collect();
    subnets.sort();
    subnets.dedup();
    if let Some(odd) = subnets.iter().find(|s| !s.starts_with("subnet-")) {
        return Err(ApiError::new("SubnetNotFound", format!("The subnet ID '{odd}' does not exist")));
    }
    if subnets.len() < 2 {
        return Err(ApiError::validation("At least two subnets in two different Availability Zones must be specified"));
    }
    let security_groups: Vec<String> = args.list("SecurityGroups").into_iter().map(str::to_owned).collect();
    if let Some(odd) = security_groups.iter().find(|s| !s.starts_with("sg-")) {
        return Err(ApiError::new("InvalidSecurityGroup", format!("The security group '{odd}' does not exist")));
    }
    let ip_address_type = args.get("IpAddressType").unwrap_or("ipv4");
    if !matches!(ip_address_type, "ipv4" | "dualstack" | "dualstack-without-public-ipv4") {
        return Err(ApiError::validation(format!("IpAddressType '{ip_address_type}' must be ipv4 or dualstack")));
    }
    Ok(Wanted {
        name: name.to_owned(),
        scheme: scheme.to_owned(),
        subnets,
        security_groups,
        ip_address_type: ip_address_type.to_owned(),
    })
}

fn check_load_balancer_name(name: &str) -> Result<(), ApiError> {
    check_name("Load balancer", name)?;
    if name.is_empty() || name.starts_with("internal-") {
        return Err(ApiError::validation(format!(
            "Load balancer name '{name}' cannot be empty or begin with 'internal-'"
        )));
    }
    Ok(())
}

fn insert(call: &mut Call<'_>, wanted: Wanted) -> Result<Arn, ApiError> {
    let count = call.world.load_balancers.len() + 1;
    call.world.limits.check(limits::LOAD_BALANCERS, count, "TooManyLoadBalancers", "load balancers")?;
    let path = format!("app/{}/{}", wanted.name, call.new_id());
    let arn = call.config.arn(&format!("loadbalancer/{path}"));
    let offset = call.world.load_balancers_made;
    let ip = Ipv4Addr::from(u32::from(call.config.loopback_base).wrapping_add(offset));
    if !ip.is_loopback() {
        return Err(ApiError::new(
            "TooManyLoadBalancers",
            format!("{ip} is no loopback address; nothing is bound elsewhere"),
        ));
    }
    call.world.load_balancers_made += 1;
    let number: u32 = call.rng.random_range(100_000_000..=999_999_999);
    let prefix = if wanted.scheme == "internal" { "internal-" } else { "" };
    let load_balancer = LoadBalancer {
        arn: arn.clone(),
        dns_name: format!("{prefix}{}-{number}.{}.elb.switchyard.test", wanted.name, call.config.region),
        name: wanted.name,
        path,
        scheme: wanted.scheme,
        subnets: wanted.subnets,
        security_groups: wanted.security_groups,
        ip_address_type: wanted.ip_address_type,
        ip,
        created: jiff::Timestamp::now(),
        active_at: call.now + call.config.scaled(PROVISIONING),
        attributes: attributes::load_balancer_defaults(),
    };
    call.world.load_balancers.insert(arn.clone(), load_balancer);
    Ok(arn)
}

pub fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let (arns, names) = (call.args.list("LoadBalancerArns"), call.args.list("Names"));
    if arns.len() > MAX_NAMED || names.len() > MAX_NAMED {
        return Err(ApiError::validation(format!("At most {MAX_NAMED} load balancers can be named in one call")));
    }
    if !arns.is_empty() && !names.is_empty() {
        return Err(ApiError::validation("Give either LoadBalancerArns or Names, not both"));
    }
    let mut found: Vec<Arn> = Vec::new();
    for arn in &arns {
        found.push(call.world.load_balancer(arn)?.arn.clone());
    }
    for name in &names {
        let held = call.world.load_balancers.values().find(|lb| lb.name == *name);
        found.push(held.ok_or_else(|| ApiError::load_balancer_not_found(name))?.arn.clone());
    }
    if !arns.is_empty() || !names.is_empty() {
        return Ok(write_all(call, &found, None));
    }
    let all = call.world.load_balancers.values().map(|lb| (lb.name.clone(), lb.arn.clone())).collect();
    let (page, next) = call.page(all)?;
    Ok(write_all(call, &page, next))
}

pub fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = call.args.required("LoadBalancerArn")?.to_owned();
    let Some(held) = call.world.load_balancers.get(&arn) else {
        return Ok(Xml::new());
    };
    if held.attributes.get("deletion_protection.enabled").is_some_and(|v| v == "true") {
        return Err(ApiError::new(
            "OperationNotPermitted",
            format!("Load balancer '{arn}' cannot be deleted because deletion protection is enabled"),
        ));
    }
    let under: Vec<Arn> = call.world.listeners_of(&arn).map(|l| l.arn.clone()).collect();
    for listener in under {
        listeners::remove(call, &listener);
    }
    call.world.load_balancers.remove(&arn);
    call.world.tags.remove(&arn);
    Ok(Xml::new())
}

fn write_all(call: &Call<'_>, arns: &[Arn], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    let found = arns.iter().filter_map(|arn| call.world.load_balancers.get(arn));
    xml.list("LoadBalancers", found, |x, lb| write(x, lb, call)).text_if("NextMarker", next);
    xml
}

fn write(x: &mut Xml, lb: &LoadBalancer, call: &Call<'_>) {
    let state = if call.now < lb.active_at { "provisioning" } else { "active" };
    x.text("LoadBalancerArn", &lb.arn).text("DNSName", &lb.dns_name).text("CanonicalHostedZoneId", "Z32O12XQLNTSW2");
    x.text("CreatedTime", lb.created.strftime("%Y-%m-%dT%H:%M:%S.%3fZ")).text("LoadBalancerName", &lb.name);
    x.text("Scheme", &lb.scheme).text("VpcId", &call.config.vpc_id).text("Type", "application");
    x.element("State", |x| _ = x.text("Code", state));
    x.list("AvailabilityZones", lb.subnets.iter().zip("abcdef".chars()), |x, (subnet, letter)| {
        x.text("ZoneName", format!("{}{letter}", call.config.region)).text("SubnetId", subnet);
    });
    x.text_list("SecurityGroups", &lb.security_groups).text("IpAddressType", &lb.ip_address_type);
}
