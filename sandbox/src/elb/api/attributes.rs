//! Attributes of target groups and load balancers: which keys exist, what they may hold, and their defaults.

use std::collections::BTreeMap;

use super::Call;
use crate::elb::{errors::ApiError, query::Scope, xml::Xml};

/// What an attribute may hold.
enum Kind {
    Flag,
    Range(u64, u64),
    /// `off` or a number.
    OffOr(u64, u64),
    /// 0 (off) or a number.
    ZeroOr(u64, u64),
    OneOf(&'static [&'static str]),
    Text(usize),
}

type Table = &'static [(&'static str, &'static str, Kind)];

/// Keys of groups behind an application load balancer: (key, default, what it may hold).
const HTTP_GROUP: Table = &[
    ("deregistration_delay.timeout_seconds", "300", Kind::Range(0, 3_600)),
    ("load_balancing.algorithm.anomaly_mitigation", "off", Kind::OneOf(&["on", "off"])),
    (
        "load_balancing.algorithm.type",
        "round_robin",
        Kind::OneOf(&["round_robin", "least_outstanding_requests", "weighted_random"]),
    ),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        Kind::OneOf(&["true", "false", "use_load_balancer_configuration"]),
    ),
    ("slow_start.duration_seconds", "0", Kind::ZeroOr(30, 900)),
    ("stickiness.app_cookie.cookie_name", "", Kind::Text(256)),
    ("stickiness.app_cookie.duration_seconds", "86400", Kind::Range(1, 604_800)),
    ("stickiness.enabled", "false", Kind::Flag),
    ("stickiness.lb_cookie.duration_seconds", "86400", Kind::Range(1, 604_800)),
    ("stickiness.type", "lb_cookie", Kind::OneOf(&["lb_cookie", "app_cookie"])),
    ("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Kind::OffOr(1, 1_000)),
    ("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Kind::OffOr(1, 100)),
    ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", Kind::Range(1, 1_000)),
    ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", Kind::OffOr(1, 100)),
];

/// Keys of groups behind a network load balancer. They are stored only: no data plane serves such groups here.
const TCP_GROUP: Table = &[
    ("deregistration_delay.connection_termination.enabled", "false", Kind::Flag),
    ("deregistration_delay.timeout_seconds", "300", Kind::Range(0, 3_600)),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        Kind::OneOf(&["true", "false", "use_load_balancer_configuration"]),
    ),
    ("preserve_client_ip.enabled", "false", Kind::Flag),
    ("proxy_protocol_v2.enabled", "false", Kind::Flag),
    ("stickiness.enabled", "false", Kind::Flag),
    ("stickiness.type", "source_ip", Kind::OneOf(&["source_ip"])),
    ("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Kind::OffOr(1, 1_000)),
    ("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Kind::OffOr(1, 100)),
    ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", Kind::Range(1, 1_000)),
    ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", Kind::OffOr(1, 100)),
];

/// The keys of load balancers that are known; the data plane heeds the idle timeout and the X-Forwarded-For mode.
const LOAD_BALANCER: Table = &[
    ("access_logs.s3.bucket", "", Kind::Text(256)),
    ("access_logs.s3.enabled", "false", Kind::Flag),
    ("access_logs.s3.prefix", "", Kind::Text(256)),
    ("client_keep_alive.seconds", "3600", Kind::Range(60, 604_800)),
    ("deletion_protection.enabled", "false", Kind::Flag),
    ("idle_timeout.timeout_seconds", "60", Kind::Range(1, 4_000)),
    ("load_balancing.cross_zone.enabled", "true", Kind::Flag),
    ("routing.http.desync_mitigation_mode", "defensive", Kind::OneOf(&["monitor", "defensive", "strictest"])),
    ("routing.http.drop_invalid_header_fields.enabled", "false", Kind::Flag),
    ("routing.http.preserve_host_header.enabled", "false", Kind::Flag),
    ("routing.http.xff_header_processing.mode", "append", Kind::OneOf(&["append", "preserve", "remove"])),
    ("routing.http2.enabled", "true", Kind::Flag),
    ("waf.fail_open.enabled", "false", Kind::Flag),
];

pub fn group_defaults(protocol: &str) -> BTreeMap<String, String> {
    defaults(group_table(protocol))
}

pub fn load_balancer_defaults() -> BTreeMap<String, String> {
    defaults(LOAD_BALANCER)
}

fn group_table(protocol: &str) -> Table {
    if matches!(protocol, "HTTP" | "HTTPS") { HTTP_GROUP } else { TCP_GROUP }
}

fn defaults(table: Table) -> BTreeMap<String, String> {
    table.iter().map(|(key, value, _)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn describe_group(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    Ok(write(&call.world.group(call.args.required("TargetGroupArn")?)?.attributes))
}

pub fn modify_group(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let group = call.world.group(call.args.required("TargetGroupArn")?)?;
    let changes = read(&call.args.members("Attributes"), group_table(&group.protocol))?;
    let mut attributes = group.attributes.clone();
    attributes.extend(changes);
    check_group(&attributes)?;
    let arn = group.arn.clone();
    call.world.group_mut(&arn)?.attributes = attributes.clone();
    Ok(write(&attributes))
}

pub fn describe_load_balancer(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    Ok(write(&call.world.load_balancer(call.args.required("LoadBalancerArn")?)?.attributes))
}

pub fn modify_load_balancer(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let load_balancer = call.world.load_balancer(call.args.required("LoadBalancerArn")?)?;
    let changes = read(&call.args.members("Attributes"), LOAD_BALANCER)?;
    let mut attributes = load_balancer.attributes.clone();
    attributes.extend(changes);
    let arn = load_balancer.arn.clone();
    if let Some(held) = call.world.load_balancers.get_mut(&arn) {
        held.attributes = attributes.clone();
    }
    let under: Vec<_> = call.world.listeners_of(&arn).map(|l| l.arn.clone()).collect();
    call.effects.changed.extend(under);
    Ok(write(&attributes))
}

fn read(members: &[Scope<'_>], table: Table) -> Result<Vec<(String, String)>, ApiError> {
    if members.is_empty() {
        return Err(ApiError::validation("Parameter 'Attributes' is empty; give at least one attribute"));
    }
    let mut changes = Vec::new();
    for member in members {
        let key = member.required("Key")?;
        let value = member.get("Value").unwrap_or_default();
        let Some((_, _, kind)) = table.iter().find(|(known, ..)| *known == key) else {
            return Err(ApiError::validation(format!(
                "Attribute key '{key}' is not recognized for this kind of resource"
            )));
        };
        if let Err(allowed) = kind.check(value) {
            return Err(ApiError::validation(format!(
                "Attribute '{key}' has the value '{value}'; it must be {allowed}"
            )));
        }
        changes.push((key.to_owned(), value.to_owned()));
    }
    Ok(changes)
}

impl Kind {
    /// Err carries what would be allowed.
    fn check(&self, value: &str) -> Result<(), String> {
        let number = value.parse::<u64>().ok();
        let within = |low: u64, high: u64| number.is_some_and(|n| (low..=high).contains(&n));
        let (fine, allowed) = match self {
            Self::Flag => (matches!(value, "true" | "false"), "true or false".to_owned()),
            Self::Range(low, high) => (within(*low, *high), format!("{low} to {high}")),
            Self::OffOr(low, high) => (value == "off" || within(*low, *high), format!("off or {low} to {high}")),
            Self::ZeroOr(low, high) => (number == Some(0) || within(*low, *high), format!("0 or {low} to {high}")),
            Self::OneOf(list) => (list.contains(&value), format!("one of {}", list.join(", "))),
            Self::Text(max) => (value.len() <= *max, format!("at most {max} bytes long")),
        };
        if fine { Ok(()) } else { Err(allowed) }
    }
}

/// What must hold between attributes of one group.
fn check_group(attributes: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let get = |key: &str| attributes.get(key).map_or("", String::as_str);
    let algorithm = get("load_balancing.algorithm.type");
    if get("slow_start.duration_seconds").parse::<u64>().is_ok_and(|s| s > 0) && algorithm != "round_robin" {
        return Err(ApiError::config(format!("slow_start.duration_seconds cannot be used with algorithm {algorithm}")));
    }
    if get("load_balancing.algorithm.anomaly_mitigation") == "on" && algorithm != "weighted_random" {
        return Err(ApiError::config("anomaly_mitigation needs load_balancing.algorithm.type weighted_random"));
    }
    let cookie = get("stickiness.app_cookie.cookie_name");
    if get("stickiness.enabled") == "true" && get("stickiness.type") == "app_cookie" && cookie.is_empty() {
        return Err(ApiError::config("stickiness.type app_cookie needs stickiness.app_cookie.cookie_name"));
    }
    if cookie.starts_with("AWSALB") {
        return Err(ApiError::validation(format!(
            "stickiness.app_cookie.cookie_name '{cookie}' begins with the reserved AWSALB"
        )));
    }
    for unit in ["count", "percentage"] {
        let threshold =
            |scope: &str| get(&format!("target_group_health.{scope}.minimum_healthy_targets.{unit}")).parse::<u64>();
        if let (Ok(dns), Ok(routing)) = (threshold("dns_failover"), threshold("unhealthy_state_routing"))
            && dns < routing
        {
            return Err(ApiError::config(format!(
                "the dns_failover {unit} ({dns}) must not be smaller than that of unhealthy_state_routing ({routing})"
            )));
        }
    }
    Ok(())
}

fn write(attributes: &BTreeMap<String, String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("Attributes", attributes, |x, (key, value)| _ = x.text("Key", key).text("Value", value));
    xml
}
