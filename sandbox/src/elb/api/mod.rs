//! The operations of the API: the table of those that are modelled, and what they share. An operation checks all of
//! its input before it changes anything, so that a refused call leaves no trace. Must not import HTTP.

pub mod attributes;
pub mod health_checks;
pub mod listeners;
pub mod load_balancers;
pub mod rules;
pub mod target_groups;
pub mod targets;

use std::{collections::BTreeSet, net::TcpListener, time::Instant};

use rand::{Rng, rngs::StdRng};
use sha2::{Digest, Sha256};

use super::{
    calls::Class,
    config::ElbConfig,
    errors::ApiError,
    model::{Arn, World},
    query::Scope,
    tags,
    xml::Xml,
};

/// Largest (and default) page.
const MAX_PAGE: u32 = 400;

/// One call under way: its arguments and everything it may touch.
pub struct Call<'a> {
    pub world: &'a mut World,
    pub args: Scope<'a>,
    pub config: &'a ElbConfig,
    pub rng: &'a mut StdRng,
    pub now: Instant,
    pub effects: &'a mut Effects,
}

/// What the data plane has to learn from a call.
#[derive(Debug, Default)]
pub struct Effects {
    /// Listeners whose rules, actions or existence changed.
    pub changed: BTreeSet<Arn>,
    /// Sockets that were opened for listeners.
    pub opened: Vec<(Arn, TcpListener)>,
}

pub type Handler = fn(&mut Call<'_>) -> Result<Xml, ApiError>;

/// The modelled operations, by name.
const OPERATIONS: &[(&str, Class, Handler)] = &[
    ("AddTags", Class::Mutate, tags::add),
    ("CreateListener", Class::Mutate, listeners::create),
    ("CreateLoadBalancer", Class::Mutate, load_balancers::create),
    ("CreateRule", Class::Mutate, rules::create),
    ("CreateTargetGroup", Class::Mutate, target_groups::create),
    ("DeleteListener", Class::Mutate, listeners::delete),
    ("DeleteLoadBalancer", Class::Mutate, load_balancers::delete),
    ("DeleteRule", Class::Mutate, rules::delete),
    ("DeleteTargetGroup", Class::Mutate, target_groups::delete),
    ("DeregisterTargets", Class::Deregister, targets::deregister),
    ("DescribeAccountLimits", Class::Describe, describe_limits),
    ("DescribeListeners", Class::Describe, listeners::describe),
    ("DescribeLoadBalancerAttributes", Class::Describe, attributes::describe_load_balancer),
    ("DescribeLoadBalancers", Class::Describe, load_balancers::describe),
    ("DescribeRules", Class::Describe, rules::describe),
    ("DescribeTags", Class::Describe, tags::describe),
    ("DescribeTargetGroupAttributes", Class::Describe, attributes::describe_group),
    ("DescribeTargetGroups", Class::Describe, target_groups::describe),
    ("DescribeTargetHealth", Class::Describe, targets::describe_health),
    ("ModifyListener", Class::Mutate, listeners::modify),
    ("ModifyLoadBalancerAttributes", Class::Mutate, attributes::modify_load_balancer),
    ("ModifyRule", Class::Mutate, rules::modify),
    ("ModifyTargetGroup", Class::Mutate, target_groups::modify),
    ("ModifyTargetGroupAttributes", Class::Mutate, attributes::modify_group),
    ("RegisterTargets", Class::Register, targets::register),
    ("RemoveTags", Class::Mutate, tags::remove),
    ("SetRulePriorities", Class::Mutate, rules::set_priorities),
];

pub fn find(name: &str) -> Option<(&'static str, Class, Handler)> {
    OPERATIONS.iter().find(|(known, ..)| *known == name).copied()
}

/// AWS answers this for everything it does not know, and so is it here for what is not modelled.
pub fn unknown_action(name: &str) -> ApiError {
    ApiError::new("InvalidAction", format!("The action {name} is not valid for this web service"))
}

impl Call<'_> {
    /// Sixteen hex digits, as at the end of ARNs.
    pub fn new_id(&mut self) -> String {
        format!("{:016x}", self.rng.random::<u64>())
    }

    /// One page of sorted items: those whose key comes after the marker. A marker carries a key and not a position,
    /// so that deleting what stood there between two pages loses nothing.
    pub fn page<T>(&self, mut items: Vec<(String, T)>) -> Result<(Vec<T>, Option<String>), ApiError> {
        let default = match self.world.default_page_size {
            0 => MAX_PAGE as usize,
            n => n,
        };
        let size = self.args.number("PageSize", 1..=MAX_PAGE)?.map_or(default, |n| n as usize);
        let after = self.args.get("Marker").filter(|m| !m.is_empty()).map(open_marker).transpose()?;
        items.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(after) = after {
            items.retain(|(key, _)| *key > after);
        }
        let more = items.len() > size;
        items.truncate(size);
        let next = items.last().filter(|_| more).map(|(key, _)| seal_marker(key));
        Ok((items.into_iter().map(|(_, item)| item).collect(), next))
    }
}

fn seal_marker(key: &str) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}{}", hex(&Sha256::digest(key)[..4]), hex(key.as_bytes()))
}

fn open_marker(marker: &str) -> Result<String, ApiError> {
    let bytes: Option<Vec<u8>> =
        (0..marker.len()).step_by(2).map(|i| u8::from_str_radix(marker.get(i..i + 2)?, 16).ok()).collect();
    let key = bytes.filter(|b| b.len() > 4).and_then(|b| String::from_utf8(b[4..].to_vec()).ok());
    key.filter(|k| seal_marker(k) == marker).ok_or_else(|| {
        ApiError::validation(format!("Parameter 'Marker' has the value '{marker}', which no earlier answer gave out"))
    })
}

/// A name of a load balancer or target group.
pub fn check_name(kind: &str, name: &str) -> Result<(), ApiError> {
    if name.len() > 32 {
        return Err(ApiError::validation(format!("{kind} name '{name}' cannot be longer than '32' characters")));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(ApiError::validation(format!("{kind} name '{name}' cannot begin or end with a hyphen")));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' can only contain letters, digits and hyphens (a-z, A-Z, 0-9, -)"
        )));
    }
    Ok(())
}

fn describe_limits(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let items = call.world.limits.published().map(|(name, max)| (name.to_owned(), (name, max))).collect();
    let (page, next) = call.page(items)?;
    let mut xml = Xml::new();
    xml.list("Limits", page, |x, (name, max)| _ = x.text("Name", name).text("Max", max));
    xml.text_if("NextMarker", next);
    Ok(xml)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
