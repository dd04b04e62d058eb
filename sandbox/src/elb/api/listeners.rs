//! Listeners: create (idempotent), describe, modify, delete. A listener opens its socket when it is created, so that
//! the address which is reported is one that works.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use super::{Call, rules};
use crate::elb::{
    actions::{self, Action},
    conditions::unsupported,
    errors::ApiError,
    limits,
    model::{Arn, Listener, Rule},
    tags,
    xml::Xml,
};

/// The policy that AWS gives to an HTTPS listener without one.
const DEFAULT_SSL_POLICY: &str = "ELBSecurityPolicy-2016-08";
/// Added to a port that may not be bound.
const UNPRIVILEGED_OFFSET: u16 = 20_000;

pub fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let load_balancer = call.world.load_balancer(call.args.required("LoadBalancerArn")?)?.arn.clone();
    let protocol = read_protocol(call)?.ok_or_else(|| ApiError::validation("A listener protocol must be specified"))?;
    let port = read_port(call)?.ok_or_else(|| ApiError::validation("A listener port must be specified"))?;
    let actions = actions::parse_all(&call.args.members("DefaultActions"), &call.world.limits)?;
    let certificates = read_certificates(call)?.unwrap_or_default();
    let tags = tags::parse(&call.args.members("Tags"))?;
    tags::check_quota(&call.world.limits, tags.len())?;
    check_certificates(&protocol, &certificates)?;
    if let Some(held) = call.world.listeners_of(&load_balancer).find(|l| l.port == port) {
        let same = held.protocol == protocol
            && held.certificates == certificates
            && default_actions(call, &held.arn) == actions;
        if same {
            let arn = held.arn.clone();
            return Ok(write_all(call, &[arn], None));
        }
        return Err(ApiError::new(
            "DuplicateListener",
            "A listener already exists on this port for this load balancer",
        ));
    }
    rules::check_actions(call.world, &load_balancer, None, &actions)?;
    let arn = insert(call, &load_balancer, port, &protocol, certificates, actions)?;
    call.world.tags.insert(arn.clone(), tags);
    Ok(write_all(call, &[arn], None))
}

/// Adds a checked listener with its default rule, and opens its socket.
pub fn insert(
    call: &mut Call<'_>,
    load_balancer: &str,
    port: u16,
    protocol: &str,
    certificates: Vec<String>,
    actions: Vec<Action>,
) -> Result<Arn, ApiError> {
    let count = call.world.listeners_of(load_balancer).count() + 1;
    call.world.limits.check(limits::LISTENERS_PER_LB, count, "TooManyListeners", "listeners of this load balancer")?;
    let held = call.world.load_balancer(load_balancer)?;
    let (path, ip) = (held.path.clone(), held.ip);
    let socket = open(ip, port).map_err(|e| no_socket(ip, port, &e))?;
    let address = socket.local_addr().map_err(|e| no_socket(ip, port, &e))?;
    let path = format!("{path}/{}", call.new_id());
    let arn = call.config.arn(&format!("listener/{path}"));
    let rule = call.config.arn(&format!("listener-rule/{path}/{}", call.new_id()));
    let listener = Listener {
        arn: arn.clone(),
        load_balancer: load_balancer.to_owned(),
        path,
        port,
        protocol: protocol.to_owned(),
        certificates,
        ssl_policy: (protocol == "HTTPS").then(|| call.args.get("SslPolicy").unwrap_or(DEFAULT_SSL_POLICY).to_owned()),
        address,
    };
    call.world.listeners.insert(arn.clone(), listener);
    let default = Rule { arn: rule.clone(), listener: arn.clone(), priority: None, conditions: Vec::new(), actions };
    call.world.rules.insert(rule, default);
    call.effects.opened.push((arn.clone(), socket));
    call.effects.changed.insert(arn.clone());
    Ok(arn)
}

/// The port itself; when it may not be bound, 20000 higher; when that is taken too, any free one.
fn open(ip: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let bind = |port| TcpListener::bind(SocketAddr::new(IpAddr::V4(ip), port));
    let higher = || port.checked_add(UNPRIVILEGED_OFFSET).filter(|_| port < 1024).map_or_else(|| bind(0), bind);
    let socket = bind(port).or_else(|_| higher()).or_else(|_| bind(0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn no_socket(ip: Ipv4Addr, port: u16, error: &io::Error) -> ApiError {
    tracing::error!(%ip, port, %error, "the data plane could not open a socket for a new listener");
    ApiError { status: 500, ..ApiError::new("InternalFailure", format!("no socket on {ip}:{port}: {error}")) }
}

pub fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = call.args.list("ListenerArns");
    if !arns.is_empty() {
        let found = arns.iter().map(|arn| call.world.listener(arn).map(|l| l.arn.clone()));
        return Ok(write_all(call, &found.collect::<Result<Vec<_>, _>>()?, None));
    }
    let Some(load_balancer) = call.args.get("LoadBalancerArn") else {
        return Err(ApiError::validation("You must specify either listener ARNs or a load balancer ARN"));
    };
    call.world.load_balancer(load_balancer)?;
    let of = call.world.listeners_of(load_balancer);
    let (page, next) = call.page(of.map(|l| (format!("{:05}{}", l.port, l.arn), l.arn.clone())).collect())?;
    Ok(write_all(call, &page, next))
}

pub fn modify(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let mut listener = call.world.listener(call.args.required("ListenerArn")?)?.clone();
    let default = default_rule(call, &listener.arn).map(|r| r.arn.clone()).unwrap_or_default();
    listener.protocol = read_protocol(call)?.unwrap_or(listener.protocol);
    listener.certificates = read_certificates(call)?.unwrap_or(listener.certificates);
    if listener.protocol == "HTTPS" {
        listener.ssl_policy = call.args.get("SslPolicy").map(str::to_owned).or(listener.ssl_policy);
        listener.ssl_policy.get_or_insert_with(|| DEFAULT_SSL_POLICY.to_owned());
    } else {
        (listener.certificates, listener.ssl_policy) = (Vec::new(), None);
    }
    check_certificates(&listener.protocol, &listener.certificates)?;
    let actions = match call.args.members("DefaultActions").as_slice() {
        [] => None,
        given => Some(actions::parse_all(given, &call.world.limits)?),
    };
    if let Some(actions) = &actions {
        rules::check_actions(call.world, &listener.load_balancer, Some(&default), actions)?;
    }
    let port = read_port(call)?.unwrap_or(listener.port);
    if port != listener.port {
        if call.world.listeners_of(&listener.load_balancer).any(|l| l.port == port) {
            return Err(ApiError::new(
                "DuplicateListener",
                "A listener already exists on this port for this load balancer",
            ));
        }
        let ip = call.world.load_balancer(&listener.load_balancer)?.ip;
        let socket = open(ip, port).map_err(|e| no_socket(ip, port, &e))?;
        listener.port = port;
        listener.address = socket.local_addr().map_err(|e| no_socket(ip, port, &e))?;
        call.effects.opened.push((listener.arn.clone(), socket));
    }
    if let (Some(actions), Some(rule)) = (actions, call.world.rules.get_mut(&default)) {
        rule.actions = actions;
    }
    let arn = listener.arn.clone();
    call.world.listeners.insert(arn.clone(), listener);
    call.effects.changed.insert(arn.clone());
    Ok(write_all(call, &[arn], None))
}

pub fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = call.world.listener(call.args.required("ListenerArn")?)?.arn.clone();
    remove(call, &arn);
    Ok(Xml::new())
}

/// Forgets a listener with its rules and all their tags.
pub fn remove(call: &mut Call<'_>, arn: &str) {
    let rules: Vec<Arn> = call.world.rules_of(arn).iter().map(|r| r.arn.clone()).collect();
    for rule in rules {
        call.world.rules.remove(&rule);
        call.world.tags.remove(&rule);
    }
    call.world.listeners.remove(arn);
    call.world.tags.remove(arn);
    call.effects.changed.insert(arn.to_owned());
}

fn default_rule<'a>(call: &'a Call<'_>, listener: &str) -> Option<&'a Rule> {
    call.world.rules.values().find(|r| r.listener == listener && r.priority.is_none())
}

fn default_actions<'a>(call: &'a Call<'_>, listener: &str) -> &'a [Action] {
    default_rule(call, listener).map_or(&[], |r| r.actions.as_slice())
}

fn read_protocol(call: &Call<'_>) -> Result<Option<String>, ApiError> {
    if call.args.structure("MutualAuthentication").is_some_and(|m| m.get("Mode").is_some_and(|m| m != "off")) {
        return Err(unsupported("MutualAuthentication"));
    }
    match call.args.get("Protocol") {
        None => Ok(None),
        Some(known @ ("HTTP" | "HTTPS")) => Ok(Some(known.to_owned())),
        Some(other) => Err(ApiError::new(
            "UnsupportedProtocol",
            format!("Listener protocol '{other}' is not supported by application load balancers; use HTTP or HTTPS"),
        )),
    }
}

fn read_port(call: &Call<'_>) -> Result<Option<u16>, ApiError> {
    // The range makes the conversion exact.
    Ok(call.args.number("Port", 1..=65_535)?.map(|port| port as u16))
}

fn read_certificates(call: &Call<'_>) -> Result<Option<Vec<String>>, ApiError> {
    let given = call.args.members("Certificates");
    if given.is_empty() {
        return Ok(None);
    }
    let arns = given.iter().map(|c| c.required("CertificateArn").map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
    match arns.iter().find(|a| !a.starts_with("arn:")) {
        Some(odd) => Err(ApiError::new("CertificateNotFound", format!("Certificate '{odd}' not found"))),
        None => Ok(Some(arns)),
    }
}

fn check_certificates(protocol: &str, certificates: &[String]) -> Result<(), ApiError> {
    match (protocol, certificates.len()) {
        ("HTTPS", 0) => Err(ApiError::validation("A certificate must be specified for HTTPS listeners")),
        ("HTTPS", 1) | ("HTTP", 0) => Ok(()),
        ("HTTPS", n) => {
            Err(ApiError::new("TooManyCertificates", format!("{n} default certificates; give exactly one")))
        }
        _ => Err(ApiError::validation("Certificates cannot be specified for HTTP listeners; leave them out")),
    }
}

fn write_all(call: &Call<'_>, arns: &[Arn], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    let found = arns.iter().filter_map(|arn| call.world.listeners.get(arn));
    xml.list("Listeners", found, |x, l| {
        x.text("ListenerArn", &l.arn).text("LoadBalancerArn", &l.load_balancer);
        x.text("Port", l.port).text("Protocol", &l.protocol).text_if("SslPolicy", l.ssl_policy.as_ref());
        if !l.certificates.is_empty() {
            x.list("Certificates", &l.certificates, |x, c| _ = x.text("CertificateArn", c));
        }
        x.list("DefaultActions", default_actions(call, &l.arn), |x, a| a.write(x));
    });
    xml.text_if("NextMarker", next);
    xml
}
