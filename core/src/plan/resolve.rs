//! Finding the listener that a policy names. Nothing is guessed: none or several candidates are both a "no" with a reason.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use crate::{
    arn::{ListenerArn, LoadBalancerArn},
    ids::PolicyKey,
    observed::{Listener, LoadBalancer, Observed},
    ownership,
    policy::{ListenerSelector, PolicyRecord, ValidatedPolicy},
    status::{Note, Reason},
};

/// A listener with its load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The load balancer's ARN.
    pub load_balancer_arn: &'a LoadBalancerArn,
    /// The load balancer.
    pub load_balancer: &'a LoadBalancer,
    /// The listener's ARN.
    pub listener_arn: &'a ListenerArn,
    /// The listener.
    pub listener: &'a Listener,
}

fn no(reason: Reason, message: String) -> Note {
    Note { cluster: None, reason, message }
}

/// Said of everything before AWS was read for the first time: nothing is missing then, it is only not known.
const NOT_READ: &str = "the first reading of AWS is not through yet";

/// What was not read, and why when that is known.
pub fn not_read(observed: &Observed, what: &str) -> String {
    match &observed.trouble {
        None => what.to_owned(),
        Some(trouble) => format!("{what}; {trouble}"),
    }
}

/// For all policies, as long as AWS was not read through once.
pub fn nothing_read(observed: &Observed) -> String {
    not_read(observed, NOT_READ)
}

/// The load balancers that policies name: those whose listeners and rules must be read.
pub fn load_balancers_wanted(
    policies: &BTreeMap<PolicyKey, PolicyRecord>,
    observed: &Observed,
    settings: &Settings,
) -> BTreeSet<LoadBalancerArn> {
    policies.values().filter_map(|p| load_balancer(&p.policy.listener, observed, settings).ok().cloned()).collect()
}

/// Finds the listener.
///
/// # Errors
/// A [`Note`] that names the field, the value and the remedy.
pub fn listener<'a>(
    selector: &ListenerSelector,
    observed: &'a Observed,
    settings: &Settings,
) -> Result<Place<'a>, Note> {
    if observed.audited_at.is_none() {
        return Err(no(Reason::NotObservedYet, nothing_read(observed)));
    }
    let arn = load_balancer(selector, observed, settings)?;
    let Some((load_balancer_arn, load_balancer)) = observed.load_balancers.get_key_value(arn) else {
        return Err(no(Reason::NotObservedYet, not_read(observed, &format!("{arn} was not read from AWS yet"))));
    };
    suitable(load_balancer)?;
    if load_balancer.target_groups_in_use.get().is_none() {
        let message = format!("the listeners of {} were not read from AWS yet", load_balancer.name);
        return Err(no(Reason::NotObservedYet, not_read(observed, &message)));
    }
    let of_this = |(_, listener): &(&ListenerArn, &Listener)| listener.load_balancer == *load_balancer_arn;
    let listeners: Vec<(&ListenerArn, &Listener)> = observed.listeners.iter().filter(of_this).collect();
    let found = match selector {
        ListenerSelector::Arn(arn) => listeners.iter().find(|(known, _)| *known == arn),
        ListenerSelector::LoadBalancer { port, .. } | ListenerSelector::Tags { port, .. } => {
            listeners.iter().find(|(_, listener)| listener.port == *port)
        }
    };
    let Some((listener_arn, listener)) = found else {
        return Err(no_such_listener(selector, load_balancer, &listeners));
    };
    if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS") {
        let message = format!(
            "spec.listener: the listener on port {} of {} speaks {}; name one that speaks HTTP or HTTPS",
            listener.port, load_balancer.name, listener.protocol
        );
        return Err(no(Reason::ListenerUnsuitable, message));
    }
    Ok(Place { load_balancer_arn, load_balancer, listener_arn, listener })
}

/// Finds the listener of a policy, and sees whether it can serve it.
///
/// # Errors
/// A [`Note`] that names the field, the value and the remedy.
pub fn place<'a>(policy: &ValidatedPolicy, observed: &'a Observed, settings: &Settings) -> Result<Place<'a>, Note> {
    let place = listener(&policy.listener, observed, settings)?;
    // ELBv2 user guide, "Protocol version": with HTTP/2 and gRPC the only supported listener protocol is HTTPS.
    if policy.protocol_version != "HTTP1" && place.listener.protocol != "HTTPS" {
        let message = format!(
            "spec.backend.protocolVersion: {} needs an HTTPS listener, and the one on port {} of {} speaks {}; use HTTP1, or \
             name an HTTPS listener",
            policy.protocol_version, place.listener.port, place.load_balancer.name, place.listener.protocol
        );
        return Err(no(Reason::ListenerUnsuitable, message));
    }
    Ok(place)
}

fn no_such_listener(
    selector: &ListenerSelector,
    load_balancer: &LoadBalancer,
    listeners: &[(&ListenerArn, &Listener)],
) -> Note {
    let ports: Vec<String> = listeners.iter().map(|(_, listener)| listener.port.to_string()).collect();
    let has = if ports.is_empty() { "no listener".to_owned() } else { format!("listeners on {}", ports.join(", ")) };
    let name = &load_balancer.name;
    let message = match selector {
        ListenerSelector::Arn(arn) => format!("spec.listener.arn: {arn} is not a listener of {name}, which has {has}"),
        ListenerSelector::LoadBalancer { port, .. } | ListenerSelector::Tags { port, .. } => {
            format!(
                "spec.listener.port: {name} has no listener on {port}, it has {has}; correct the port or add the listener"
            )
        }
    };
    no(Reason::ListenerNotFound, message)
}

fn suitable(load_balancer: &LoadBalancer) -> Result<(), Note> {
    if let Some(mark) = ownership::foreign_mark(&load_balancer.tags) {
        let message = format!(
            "spec.listener: {} belongs to another controller (tag {mark}), which would undo our rules; use a load balancer \
             that no controller manages",
            load_balancer.name
        );
        return Err(no(Reason::ForeignOwner, message));
    }
    if load_balancer.kind != "application" {
        let message = format!(
            "spec.listener: {} is a load balancer of type {}; name an Application Load Balancer",
            load_balancer.name, load_balancer.kind
        );
        return Err(no(Reason::ListenerUnsuitable, message));
    }
    Ok(())
}

fn load_balancer<'a>(
    selector: &ListenerSelector,
    observed: &'a Observed,
    settings: &Settings,
) -> Result<&'a LoadBalancerArn, Note> {
    match selector {
        ListenerSelector::Arn(arn) => {
            same_place("spec.listener.arn", arn.as_str(), arn.account(), arn.region(), settings)?;
            // .../listener/app/NAME/ID/LISTENER belongs to .../loadbalancer/app/NAME/ID.
            let of = |lb: &&LoadBalancerArn| {
                let own = lb.as_str().replacen(":loadbalancer/", ":listener/", 1);
                arn.as_str().strip_prefix(&own).is_some_and(|rest| rest.starts_with('/'))
            };
            observed.load_balancers.keys().find(of).ok_or_else(|| {
                let message = format!("spec.listener.arn: no load balancer of {arn} was found; correct the ARN");
                no(Reason::ListenerNotFound, message)
            })
        }
        ListenerSelector::LoadBalancer { name_or_arn, .. } => by_name(name_or_arn, observed, settings),
        ListenerSelector::Tags { tags, .. } => by_tags(tags, observed),
    }
}

fn same_place(field: &str, value: &str, account: &str, region: &str, settings: &Settings) -> Result<(), Note> {
    if account == settings.account_id && region == settings.region {
        return Ok(());
    }
    let message = format!(
        "{field}: {value} is in account {account}, region {region}; this hub manages account {}, region {}",
        settings.account_id, settings.region
    );
    Err(no(Reason::ListenerNotFound, message))
}

fn by_name<'a>(name_or_arn: &str, observed: &'a Observed, settings: &Settings) -> Result<&'a LoadBalancerArn, Note> {
    let field = "spec.listener.loadBalancer";
    if let Ok(arn) = LoadBalancerArn::new(name_or_arn) {
        same_place(field, name_or_arn, arn.account(), arn.region(), settings)?;
    }
    let named = |(arn, lb): &(&LoadBalancerArn, &LoadBalancer)| arn.as_str() == name_or_arn || lb.name == name_or_arn;
    observed.load_balancers.iter().find(named).map(|(arn, _)| arn).ok_or_else(|| {
        let message = format!(
            "{field}: no load balancer {name_or_arn} in account {}, region {}; create it or correct the name",
            settings.account_id, settings.region
        );
        no(Reason::ListenerNotFound, message)
    })
}

fn by_tags<'a>(tags: &BTreeMap<String, String>, observed: &'a Observed) -> Result<&'a LoadBalancerArn, Note> {
    let all = |lb: &LoadBalancer| tags.iter().all(|(key, value)| lb.tags.get(key) == Some(value));
    let found: Vec<_> = observed.load_balancers.iter().filter(|(_, lb)| all(lb)).collect();
    match found.as_slice() {
        [(arn, _)] => Ok(arn),
        [] => {
            let message = format!("spec.listener.tags: no load balancer carries {tags:?}; correct the tags");
            Err(no(Reason::ListenerNotFound, message))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(_, lb)| lb.name.as_str()).take(5).collect();
            let message = format!(
                "spec.listener.tags: {} load balancers carry {tags:?} ({}); use tags that only one has, or its name",
                several.len(),
                names.join(", ")
            );
            Err(no(Reason::ListenerNotFound, message))
        }
    }
}
