//! The health check of a target group as a call describes it: defaults, bounds, matcher codes.

use crate::elb::{errors::ApiError, model::HealthCheck, query::Scope};

/// What a new group gets where the call says nothing.
pub fn default(args: &Scope<'_>, group_protocol: &str) -> HealthCheck {
    let http_group = matches!(group_protocol, "HTTP" | "HTTPS");
    let protocol = args.get("HealthCheckProtocol").unwrap_or(if http_group { "HTTP" } else { "TCP" });
    HealthCheck {
        enabled: true,
        protocol: protocol.to_owned(),
        port: "traffic-port".to_owned(),
        path: if protocol == "TCP" { String::new() } else { "/".to_owned() },
        interval_s: 30,
        // The guide says 5 for ALB groups and the service model 6; programs must read it back.
        timeout_s: if protocol == "HTTP" { 5 } else { 10 },
        healthy_threshold: 5,
        unhealthy_threshold: 2,
        matcher: match (protocol, http_group) {
            ("TCP", _) => String::new(),
            (_, true) => "200".to_owned(),
            (_, false) => "200-399".to_owned(),
        },
    }
}

/// Lays the given fields over `base` and checks the result.
pub fn read(args: &Scope<'_>, group_protocol: &str, base: HealthCheck) -> Result<HealthCheck, ApiError> {
    let mut check = base;
    let http_group = matches!(group_protocol, "HTTP" | "HTTPS");
    if args.boolean("HealthCheckEnabled")? == Some(false) {
        return Err(ApiError::config("Health checks cannot be disabled for target type instance or ip"));
    }
    if let Some(protocol) = args.get("HealthCheckProtocol") {
        let allowed = matches!(protocol, "HTTP" | "HTTPS") || (protocol == "TCP" && !http_group);
        if !allowed {
            return Err(ApiError::validation(format!(
                "HealthCheckProtocol '{protocol}' is not allowed for a {group_protocol} target group"
            )));
        }
        check.protocol = protocol.to_owned();
    }
    if let Some(port) = args.get("HealthCheckPort") {
        if port != "traffic-port" && port.parse::<u16>().ok().is_none_or(|p| p == 0) {
            return Err(ApiError::validation(format!("HealthCheckPort '{port}' must be 1 to 65535 or 'traffic-port'")));
        }
        check.port = port.to_owned();
    }
    if let Some(path) = args.get("HealthCheckPath") {
        if !path.starts_with('/') || path.chars().count() > 1_024 || path.contains(char::is_whitespace) {
            return Err(ApiError::validation(format!(
                "HealthCheckPath '{path}' must start with '/', hold no blanks and have at most 1024 characters"
            )));
        }
        check.path = path.to_owned();
    }
    check.interval_s = args.number("HealthCheckIntervalSeconds", 5..=300)?.unwrap_or(check.interval_s);
    check.timeout_s = args.number("HealthCheckTimeoutSeconds", 2..=120)?.unwrap_or(check.timeout_s);
    check.healthy_threshold = args.number("HealthyThresholdCount", 2..=10)?.unwrap_or(check.healthy_threshold);
    check.unhealthy_threshold = args.number("UnhealthyThresholdCount", 2..=10)?.unwrap_or(check.unhealthy_threshold);
    if check.timeout_s >= check.interval_s {
        return Err(ApiError::validation(format!(
            "Health check timeout '{}' must be smaller than the interval '{}'",
            check.timeout_s, check.interval_s
        )));
    }
    if let Some(matcher) = args.structure("Matcher") {
        check.matcher = read_matcher(&matcher, http_group)?;
    }
    Ok(check)
}

fn read_matcher(matcher: &Scope<'_>, http_group: bool) -> Result<String, ApiError> {
    if matcher.get("GrpcCode").is_some() {
        return Err(ApiError::validation("Matcher.GrpcCode needs protocol version GRPC; use HttpCode"));
    }
    let codes = matcher.required("HttpCode")?;
    let highest = if http_group { 499 } else { 599 };
    if !parse_matcher(codes).is_some_and(|ranges| ranges.iter().all(|(a, b)| *a >= 200 && b <= &highest && a <= b)) {
        return Err(ApiError::validation(format!(
            "Health check matcher HTTP code '{codes}' must be within '200-{highest}', like '200', '200,202' or '200-299'"
        )));
    }
    Ok(codes.to_owned())
}

/// `200`, `200,202`, `200-299` and mixtures, as ranges. None when it is anything else.
pub fn parse_matcher(codes: &str) -> Option<Vec<(u16, u16)>> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
    };
    codes.split(',').map(range).collect()
}
