//! Which gates a new pod should carry: those of the policies whose Service selects it. Pure.

use std::collections::BTreeMap;

use super::{
    objects::{MAX_POLICY_NAME, PREFIX, PolicyHealth},
    services::{Selector, Services},
};

/// By namespace: what to look for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection(BTreeMap<String, Vec<Rule>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    policy: String,
    selector: Selector,
}

/// What a pod gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// Gates to add.
    pub gates: Vec<String>,
    /// For whoever creates the pod.
    pub warnings: Vec<String>,
}

impl Injection {
    /// What to look for, given the policies whose gates are in use.
    #[must_use]
    pub fn new<'a>(policies: impl Iterator<Item = &'a PolicyHealth>, services: &Services) -> Self {
        let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for health in policies {
            if let Some(selector) = services.selector(&health.policy.namespace, &health.service) {
                let rule = Rule { policy: health.policy.name.clone(), selector: selector.clone() };
                rules.entry(health.policy.namespace.clone()).or_default().push(rule);
            }
        }
        for rules in rules.values_mut() {
            rules.sort_by(|one, other| one.policy.cmp(&other.policy));
        }
        Self(rules)
    }

    /// What a pod with these labels gets that does not have it yet.
    #[must_use]
    pub fn of_pod(&self, namespace: &str, labels: &BTreeMap<String, String>, has: &[String]) -> Injected {
        let mut injected = Injected::default();
        let selects = |rule: &&Rule| rule.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        for rule in self.0.get(namespace).into_iter().flatten().filter(selects) {
            let gate = format!("{PREFIX}{}", rule.policy);
            if rule.policy.len() > MAX_POLICY_NAME {
                let shown: String = rule.policy.chars().take(24).collect();
                injected.warnings.push(format!(
                    "no readiness gate for policy {shown}...: its name has over {MAX_POLICY_NAME} characters; shorten it"
                ));
            } else if !has.contains(&gate) {
                injected.gates.push(gate);
            }
        }
        injected
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use super::*;

    /// One policy of the namespace, whose Service has the selector.
    pub fn injecting(namespace: &str, policy: &str, selector: &[(&str, &str)]) -> Injection {
        let selector = selector.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Injection([(namespace.to_owned(), vec![Rule { policy: policy.to_owned(), selector }])].into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        gates::objects::{Mode, PolicyKey},
        index::{
            fixtures::service,
            objects::{Object, ServiceObject, Source, SourceEvent, SourceKind, SourceRun},
        },
    };

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn services(all: &[(&str, &[(&str, &str)])]) -> Services {
        let run = SourceRun { source: Source { namespace: "shop".to_owned(), kind: SourceKind::Service }, run: 1 };
        let mut services = Services::default();
        services.route(std::slice::from_ref(&run));
        for (name, selector) in all {
            let object = ServiceObject { selector: labels(selector), ..service(name, &[]) };
            assert!(services.handle(&run, SourceEvent::Applied(Object::Service(object))));
        }
        services
    }

    fn policy(name: &str, service: &str) -> PolicyHealth {
        PolicyHealth {
            policy: PolicyKey { namespace: "shop".to_owned(), name: name.to_owned() },
            service: service.to_owned(),
            mode: Mode::Judged,
            reason: String::new(),
            message: String::new(),
            targets: HashMap::new(),
        }
    }

    #[test]
    fn a_pod_gets_the_gates_of_all_policies_whose_service_selects_it_and_none_twice() {
        let services = services(&[("web", &[("app", "web")]), ("v2", &[("app", "web"), ("v", "2")]), ("none", &[])]);
        let policies =
            [policy("b", "web"), policy("a", "web"), policy("c", "v2"), policy("d", "none"), policy("e", "gone")];
        let injection = Injection::new(policies.iter(), &services);
        let of = |pod: &[(&str, &str)], has: &[String]| injection.of_pod("shop", &labels(pod), has).gates;
        let gate = |policy: &str| format!("{PREFIX}{policy}");
        assert_eq!(of(&[("app", "web"), ("x", "y")], &[]), [gate("a"), gate("b")]);
        assert_eq!(of(&[("app", "web"), ("v", "2")], &[gate("b")]), [gate("a"), gate("c")]);
        assert_eq!(of(&[("app", "other")], &[]), Vec::<String>::new());
        assert_eq!(injection.of_pod("elsewhere", &labels(&[("app", "web")]), &[]), Injected::default());
    }

    #[test]
    fn a_policy_whose_name_is_too_long_for_a_condition_is_left_out_with_a_warning() {
        let services = services(&[("web", &[("app", "web")])]);
        let policies = [policy(&"p".repeat(64), "web"), policy(&"q".repeat(63), "web")];
        let injected = Injection::new(policies.iter(), &services).of_pod("shop", &labels(&[("app", "web")]), &[]);
        assert_eq!(injected.gates, [format!("{PREFIX}{}", "q".repeat(63))]);
        assert_eq!(injected.warnings.len(), 1);
        assert!(injected.warnings[0].contains("over 63 characters; shorten it"), "{:?}", injected.warnings);
        assert!(injected.warnings[0].len() <= 120, "the API server cuts longer ones");
    }
}
