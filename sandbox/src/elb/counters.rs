//! What the data plane served, per load balancer, target group and target. Numbers only.

use std::collections::BTreeMap;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The target answered with this status.
    Target(u16),
    /// The load balancer answered by itself: 502, 503 or 504 for want of a target's answer.
    Generated(u16),
    /// A fixed response or a redirect.
    Configured(u16),
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Count {
    pub requests: u64,
    pub target_2xx: u64,
    pub target_3xx: u64,
    pub target_4xx: u64,
    pub target_5xx: u64,
    pub elb_502: u64,
    pub elb_503: u64,
    pub elb_504: u64,
    /// Other answers that the load balancer gave by itself (malformed requests).
    pub elb_other: u64,
    /// Fixed responses and redirects.
    pub configured: u64,
    /// Answers that broke off after their head was sent.
    pub broken: u64,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct GroupCount {
    #[serde(flatten)]
    pub total: Count,
    /// By `ip:port`.
    pub targets: BTreeMap<String, Count>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Counters {
    /// By ARN.
    pub load_balancers: BTreeMap<String, Count>,
    /// By ARN.
    pub target_groups: BTreeMap<String, GroupCount>,
}

impl Count {
    fn add(&mut self, ending: Ending) {
        self.requests += 1;
        let field = match ending {
            Ending::Target(200..=299) => &mut self.target_2xx,
            Ending::Target(300..=399) => &mut self.target_3xx,
            Ending::Target(400..=499) => &mut self.target_4xx,
            Ending::Target(_) => &mut self.target_5xx,
            Ending::Generated(502) => &mut self.elb_502,
            Ending::Generated(503) => &mut self.elb_503,
            Ending::Generated(504) => &mut self.elb_504,
            Ending::Generated(_) => &mut self.elb_other,
            Ending::Configured(_) => &mut self.configured,
        };
        *field += 1;
    }
}

impl Counters {
    pub fn add(&mut self, load_balancer: &str, group: Option<&str>, target: Option<&str>, ending: Ending) {
        self.load_balancers.entry(load_balancer.to_owned()).or_default().add(ending);
        let Some(group) = group else { return };
        let group = self.target_groups.entry(group.to_owned()).or_default();
        group.total.add(ending);
        if let Some(target) = target {
            group.targets.entry(target.to_owned()).or_default().add(ending);
        }
    }

    /// Counts an answer that broke off, in addition to its status.
    pub fn broken(&mut self, group: &str, target: &str) {
        let group = self.target_groups.entry(group.to_owned()).or_default();
        group.total.broken += 1;
        group.targets.entry(target.to_owned()).or_default().broken += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_targets_and_of_the_load_balancer_are_counted_apart() {
        let mut counters = Counters::default();
        counters.add("lb", Some("g"), Some("t"), Ending::Target(200));
        counters.add("lb", Some("g"), Some("t"), Ending::Target(503));
        counters.add("lb", Some("g"), None, Ending::Generated(503));
        counters.add("lb", None, None, Ending::Configured(404));
        let group = &counters.target_groups["g"];
        assert_eq!(
            (group.total.requests, group.total.target_2xx, group.total.target_5xx, group.total.elb_503),
            (3, 1, 1, 1)
        );
        assert_eq!(group.targets["t"].requests, 2);
        assert_eq!((counters.load_balancers["lb"].requests, counters.load_balancers["lb"].configured), (4, 1));
    }
}
