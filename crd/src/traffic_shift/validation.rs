//! What can be judged on one TrafficShift, as rules of the API server. `core/src/shift/validate.rs` says the same, and a table of
//! cases runs through both (`tests/tests/kubernetes/crd`). Bounds of numbers and lengths are in the schema, which the server
//! judges first. What it cannot see is left to the hub: the resource's namespace, the clusters of the policies, and rights.
//!
//! The rules use the server's libraries for lists, texts and regular expressions (Kubernetes 1.25 to 1.28).

use switchyard_core::shift::Guard;

use crate::rules::{LABEL, LABEL_MESSAGE, Reason, Rule, rule};

/// Labels joined by dots.
const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const FIXED: &str =
    "cannot change; a TrafficShift is carried out once: abort this one, and make another under another name";
const NUMBER: &str = "[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?";
/// U+0000, which the hub's database does not take, as CEL writes it.
const NOTHING: &str = r"'\u0000'";

/// The lists of gates, and the gates in them: those of the whole shift, and those of a step.
const GATES: [[&str; 10]; 2] = [
    [
        "spec.gates",
        "spec.gates[]",
        "spec.gates[].name",
        "spec.gates[].success",
        "spec.gates[].failure",
        "spec.gates[].prometheus.source",
        "spec.gates[].prometheus.query",
        "spec.gates[].cloudWatch.statistic",
        "spec.gates[].cloudWatch.periodSeconds",
        "spec.gates[].webhook.endpoint",
    ],
    [
        "spec.strategy.steps[].gates",
        "spec.strategy.steps[].gates[]",
        "spec.strategy.steps[].gates[].name",
        "spec.strategy.steps[].gates[].success",
        "spec.strategy.steps[].gates[].failure",
        "spec.strategy.steps[].gates[].prometheus.source",
        "spec.strategy.steps[].gates[].prometheus.query",
        "spec.strategy.steps[].gates[].cloudWatch.statistic",
        "spec.strategy.steps[].gates[].cloudWatch.periodSeconds",
        "spec.strategy.steps[].gates[].webhook.endpoint",
    ],
];

/// All of them.
pub fn rules() -> Vec<Rule> {
    let mut all = [changes(), policies(), overrides(), strategy()].concat();
    all.extend(GATES.into_iter().flat_map(gates));
    all
}

/// Only the three fields by which a running shift is led may change, and two of them only forward.
fn changes() -> Vec<Rule> {
    let fixed = |field: &'static str, name: &str| Rule {
        field: Some(field),
        reason: Reason::Forbidden,
        ..rule(
            "spec",
            format!("has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"),
            FIXED,
        )
    };
    vec![
        rule("spec.policies", "self == oldSelf", FIXED),
        fixed(".strategy", "strategy"),
        fixed(".gates", "gates"),
        fixed(".overrides", "overrides"),
        fixed(".reason", "reason"),
        rule("spec.progressDeadlineSeconds", "self == oldSelf", FIXED),
        Rule {
            field: Some(".abort"),
            reason: Reason::Forbidden,
            ..rule(
                "spec",
                "!(has(oldSelf.abort) && oldSelf.abort) || (has(self.abort) && self.abort)",
                "cannot be taken back; make another TrafficShift to move the traffic again",
            )
        },
        Rule {
            field: Some(".approvedStep"),
            reason: Reason::Forbidden,
            ..rule(
                "spec",
                "(has(self.approvedStep) ? self.approvedStep : 0) >= \
                 (has(oldSelf.approvedStep) ? oldSelf.approvedStep : 0)",
                "is less than it was; an approval cannot be taken back: pause or abort instead",
            )
        },
    ]
}

fn policies() -> Vec<Rule> {
    let label = format!("self.matches('{LABEL}')");
    let at = "spec.policies[]";
    let weights = "spec.policies[].weights";
    vec![
        // All of them are in the resource's own namespace, so the name alone tells them apart.
        rule(
            "spec.policies",
            "self.all(one, self.exists_one(other, other.name == one.name))",
            "names a policy twice; name each policy once",
        ),
        rule("spec.policies[].namespace", format!("self == '' || {label}"), LABEL_MESSAGE),
        rule(
            "spec.policies[].name",
            format!("self.matches('{SUBDOMAIN}')"),
            "is not an RFC 1123 subdomain; use at most 253 lower-case letters, digits, hyphens and dots, with a letter or \
             digit at both ends",
        ),
        rule("spec.policies[].to", label, LABEL_MESSAGE),
        rule(
            at,
            "has(self.to) != (has(self.weights) && size(self.weights) > 0)",
            "does not say where the traffic goes in one way; give exactly one of to and weights",
        ),
        rule(
            weights,
            format!("self.all(name, size(name) <= 63 && name.matches('{LABEL}'))"),
            "names something that is no cluster; use the clusters' names (at most 63 lower-case letters, digits and hyphens)",
        ),
        rule(
            weights,
            "size(self) == 0 || self.exists(name, self[name] > 0)",
            "has no weight above 0, so all requests would get a 503; give at least one cluster a weight; to stop all traffic \
             delete the policy",
        ),
    ]
}

fn overrides() -> Vec<Rule> {
    let open: Vec<String> =
        Guard::ALL.iter().filter(|guard| guard.overridable()).map(|guard| format!("'{guard}'")).collect();
    vec![
        rule(
            "spec.overrides[]",
            format!("self in [{}]", open.join(", ")),
            "cannot be overridden; leave it out: this is a fact, and crossing it would move nothing",
        ),
        Rule {
            field: Some(".reason"),
            reason: Reason::Required,
            ..rule(
                "spec",
                "!has(self.overrides) || size(self.overrides) == 0 || (has(self.reason) && self.reason.trim() != '')",
                "is empty although safety rules are overridden; say why",
            )
        },
        rule("spec.reason", format!("!self.contains({NOTHING})"), "holds the character U+0000; leave it out"),
    ]
}

fn strategy() -> Vec<Rule> {
    let at = "spec.strategy";
    let steps = "spec.strategy.steps";
    vec![
        rule(
            at,
            "[has(self.steps) && size(self.steps) > 0, has(self.linear), has(self.exponential), has(self.canary)]\
             .filter(given, given).size() <= 1",
            "holds more than one strategy; give at most one of steps, linear, exponential and canary",
        ),
        rule(
            steps,
            "self.map(step, step.percent).isSorted() && \
             self.all(one, self.exists_one(other, other.percent == one.percent))",
            "has a step that is not more than the one before; let percentages rise",
        ),
        rule(
            steps,
            "size(self) == 0 || self[size(self) - 1].percent == 100",
            "does not end with 100; to stay below that, give other weights as the goal",
        ),
        Rule {
            field: Some(".strategy.steps"),
            ..rule(
                "spec",
                "!has(self.gates) || !has(self.strategy) || !has(self.strategy.steps) || self.strategy.steps.all(step, \
                 !has(step.gates) || size(step.gates) + size(self.gates) <= 20)",
                "has a step with more than 20 gates, those of the shift included; use fewer",
            )
        },
        Rule {
            field: Some(".strategy.steps"),
            ..rule(
                "spec",
                "!has(self.gates) || !has(self.strategy) || !has(self.strategy.steps) || self.strategy.steps.all(step, \
                 !has(step.gates) || step.gates.all(gate, !self.gates.exists(shared, shared.name == gate.name)))",
                "has a gate with the name of one of the whole shift; name each gate once",
            )
        },
    ]
}

/// The rules of one list of gates.
fn gates(places: [&'static str; 10]) -> Vec<Rule> {
    let [list, at, name, success, failure, source, query, statistic, period, endpoint] = places;
    let label = format!("self.matches('{LABEL}')");
    let comparison = format!(
        "self == '' || (self.trim().matches('^(<=|>=|==|!=|<|>)[ \\t]*{NUMBER}$') && \
         double(self.trim().find('[^<>=! \\t]+$')) <= 1.7976931348623157e308)"
    );
    let comparison_message =
        "is no comparison with a number; write such as < 0.01 or >= 99.5 (operators <, <=, >, >=, ==, !=)";
    let compares = "has(self.prometheus) || has(self.cloudWatch)";
    let without = |field: &'static str, name: &str| Rule {
        field: Some(field),
        reason: Reason::Forbidden,
        ..rule(
            at,
            format!("{compares} || !has(self.{name}) || self.{name} == ''"),
            "compares a number, and this gate has none; leave it out",
        )
    };
    vec![
        rule(
            list,
            "self.all(one, self.exists_one(other, other.name == one.name))",
            "holds two gates of one name; name each gate once",
        ),
        rule(name, label.clone(), LABEL_MESSAGE),
        rule(
            at,
            "[has(self.targetHealth), has(self.prometheus), has(self.cloudWatch), has(self.webhook)]\
             .filter(given, given).size() == 1",
            "does not say what to measure; give exactly one of targetHealth, prometheus, cloudWatch and webhook",
        ),
        rule(success, comparison.clone(), comparison_message),
        rule(failure, comparison, comparison_message),
        without(".success", "success"),
        without(".failure", "failure"),
        Rule {
            field: Some(".success"),
            reason: Reason::Required,
            ..rule(
                at,
                format!("!({compares}) || (has(self.success) && self.success != '')"),
                "is missing; say which values are a success, such as < 0.01",
            )
        },
        rule(source, label.clone(), LABEL_MESSAGE),
        rule(query, format!("!self.contains({NOTHING})"), "holds the character U+0000; leave it out"),
        rule(
            statistic,
            "self.matches('^(Sum|Average|Minimum|Maximum|p[0-9]{1,2}([.][0-9]{1,2})?)$') && \
             !self.matches('^p[0.]+$')",
            "is not a statistic; use Sum, Average, Minimum, Maximum, or a percentile such as p99",
        ),
        rule(period, "self % 60 == 0", "is no period of CloudWatch; use a multiple of 60"),
        rule(endpoint, label, LABEL_MESSAGE),
    ]
}
