//! Tables of policies, endpoints and plans. Pure.

use jiff::Timestamp;

use super::{
    age,
    table::{Cell, Paint, Table, Tone},
};
use crate::{
    model::{ClusterStatus, Endpoint, OwnerKind, Plan, Policy, Truth},
    text::plain,
};

pub fn policies(policies: &[Policy], paint: Paint, now: Timestamp) -> String {
    if policies.is_empty() {
        return "No policies.\n".into();
    }
    let mut table = Table::new(&[
        "NAMESPACE",
        "NAME",
        "OWNER",
        "VERSION",
        "REQUESTED",
        "AT LB",
        "ACCEPTED",
        "PROGRAMMED",
        "CONVERGED",
        "NOTES",
        "AGE",
    ]);
    for policy in policies {
        let clusters = &policy.status.clusters;
        table.row(vec![
            Cell::left(&policy.reference.namespace),
            Cell::left(&policy.reference.name),
            Cell::left(owner(policy)),
            Cell::right(policy.version),
            Cell::left(weights(clusters, |cluster| Some(cluster.requested_weight))),
            Cell::left(weights(clusters, |cluster| cluster.programmed_weight)),
            truth(policy, "Accepted"),
            truth(policy, "Programmed"),
            truth(policy, "Converged"),
            Cell::right(policy.status.notes.len()),
            Cell::left(age(policy.created_at, now)),
        ]);
    }
    table.render(paint)
}

/// `api`, or the cluster whose resource it is.
fn owner(policy: &Policy) -> &str {
    match &policy.owner {
        Some(owner) if owner.kind == OwnerKind::Api => "api",
        Some(owner) if owner.kind == OwnerKind::Cluster => &owner.cluster,
        _ => "-",
    }
}

/// `blue=90,green=10`; `?` for a weight that is not known.
fn weights(clusters: &[ClusterStatus], of: impl Fn(&ClusterStatus) -> Option<u32>) -> String {
    let words: Vec<String> = clusters
        .iter()
        .map(|cluster| {
            let weight = of(cluster).map_or("?".to_owned(), |weight| weight.to_string());
            format!("{}={weight}", cluster.cluster)
        })
        .collect();
    words.join(",")
}

/// A condition counts only for the present version; an older verdict is shown as unknown.
fn truth(policy: &Policy, kind: &str) -> Cell {
    match policy.condition(kind) {
        Some(condition) if condition.observed_version >= policy.version => match condition.status {
            Truth::True => Cell::toned("True", Tone::Good),
            Truth::False => Cell::toned("False", Tone::Bad),
            Truth::Unknown | Truth::Unspecified => Cell::toned("Unknown", Tone::Doubt),
        },
        _ => Cell::toned("Unknown", Tone::Doubt),
    }
}

pub fn endpoints(endpoints: &[Endpoint], paint: Paint, now: Timestamp) -> String {
    if endpoints.is_empty() {
        return "No endpoints.\n".into();
    }
    let mut table =
        Table::new(&["CLUSTER", "NAMESPACE", "SERVICE", "PORT", "ADDRESS", "STATE", "POD", "NODE", "ZONE", "CHANGED"]);
    for endpoint in endpoints {
        let (state, tone) = state(endpoint);
        let address = if endpoint.address.contains(':') {
            format!("[{}]:{}", endpoint.address, endpoint.port)
        } else {
            format!("{}:{}", endpoint.address, endpoint.port)
        };
        table.row(vec![
            Cell::left(&endpoint.cluster),
            Cell::left(&endpoint.namespace),
            Cell::left(&endpoint.service),
            Cell::left(&endpoint.service_port),
            Cell::left(address),
            Cell::toned(state, tone),
            // The row of a node belongs to no one pod.
            Cell::left(if endpoint.target_type == "instance" { "-" } else { &endpoint.pod }),
            Cell::left(&endpoint.node),
            Cell::left(&endpoint.zone),
            Cell::left(age(endpoint.updated_at, now)),
        ]);
    }
    table.render(paint)
}

fn state(endpoint: &Endpoint) -> (&'static str, Tone) {
    match (endpoint.terminating, endpoint.ready, endpoint.serving) {
        (true, _, true) => ("terminating, serving", Tone::Doubt),
        (true, _, false) => ("terminating", Tone::Doubt),
        (false, true, _) => ("ready", Tone::Good),
        (false, false, _) => ("not ready", Tone::Bad),
    }
}

pub fn plan(plan: &Plan, paint: Paint) -> String {
    let mut text = if plan.steps.is_empty() {
        "Nothing to do at the load balancer.\n".to_owned()
    } else {
        let mut table = Table::new(&["STEP", "POLICY", "OPERATION", "WHAT", "WHY"]);
        for (index, step) in plan.steps.iter().enumerate() {
            table.row(vec![
                Cell::right(index + 1),
                Cell::left(&step.policy),
                Cell::left(&step.operation),
                Cell::left(&step.summary),
                Cell::left(&step.reason),
            ]);
        }
        table.render(paint)
    };
    if !plan.notes.is_empty() {
        text.push_str(&format!("\n{}\n", paint.text(Tone::Title, "HELD OR WAITING")));
        for note in &plan.notes {
            let whom = if note.cluster.is_empty() { String::new() } else { format!(" {}", note.cluster) };
            let line = plain(&format!("{}{whom}: {}: {}", note.policy, note.reason, note.message));
            text.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Note, PolicyRef, Step, fixtures};

    const BARE: Paint = Paint { colored: false };

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn policies_show_requested_and_programmed_weights_and_the_three_truths() {
        let mut policy = fixtures::policy(7);
        policy.status.clusters[1].programmed_weight = None;
        policy.status.conditions[3].status = Truth::Unknown;
        let text = policies(&[policy], BARE, now());
        let expected = "\
NAMESPACE  NAME      OWNER  VERSION  REQUESTED         AT LB             ACCEPTED  PROGRAMMED  CONVERGED  NOTES  AGE
shop       checkout  api          7  blue=90,green=10  blue=100,green=?  True      False       Unknown        2  1d3h
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_truth_about_an_older_version_is_shown_as_unknown() {
        let mut policy = fixtures::policy(7);
        policy.version = 8;
        let text = policies(&[policy], BARE, now());
        assert!(!text.contains("True"), "{text}");
    }

    #[test]
    fn endpoints_show_address_and_state() {
        let endpoint = |address: &str, ready, serving, terminating| Endpoint {
            cluster: "blue".into(),
            namespace: "shop".into(),
            service: "checkout".into(),
            service_port: "http".into(),
            address: address.into(),
            port: 8080,
            ready,
            serving,
            terminating,
            pod: "checkout-1".into(),
            pod_uid: "u".into(),
            node: "n1".into(),
            zone: "a".into(),
            eni_ids: vec![],
            updated_at: None,
            target_type: "ip".into(),
        };
        let node = Endpoint {
            pod: "n1".into(),
            port: 30_080,
            target_type: "instance".into(),
            ..endpoint("i-0a1b2c3d", true, true, false)
        };
        let all = [
            endpoint("10.0.0.1", true, true, false),
            endpoint("fd00::1", false, false, false),
            endpoint("10.0.0.3", false, true, true),
            node,
        ];
        let text = endpoints(&all, BARE, now());
        let expected = "\
CLUSTER  NAMESPACE  SERVICE   PORT  ADDRESS           STATE                 POD         NODE  ZONE  CHANGED
blue     shop       checkout  http  10.0.0.1:8080     ready                 checkout-1  n1    a     -
blue     shop       checkout  http  [fd00::1]:8080    not ready             checkout-1  n1    a     -
blue     shop       checkout  http  10.0.0.3:8080     terminating, serving  checkout-1  n1    a     -
blue     shop       checkout  http  i-0a1b2c3d:30080  ready                 -           n1    a     -
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_plan_shows_steps_in_order_and_what_waits() {
        let reference = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
        let step = |operation: &str, summary: &str| Step {
            policy: reference.clone(),
            operation: operation.into(),
            summary: summary.into(),
            reason: "weights differ from what is wanted".into(),
        };
        let note = Note {
            policy: reference.clone(),
            cluster: "green".into(),
            reason: "ClusterStale".into(),
            message: "the agent of green is away".into(),
        };
        let given = Plan {
            steps: vec![
                step("RegisterTargets", "register 1 in sy-checkout-green-618be120: 10.1.0.1:8080"),
                step("ModifyRule", "change rule: weights sy-checkout-blue-4758d4ca=90 sy-checkout-green-618be120=10"),
            ],
            notes: vec![note],
            made_at: None,
        };
        let text = plan(&given, BARE);
        let expected = "\
STEP  POLICY         OPERATION        WHAT                                                                             WHY
   1  shop/checkout  RegisterTargets  register 1 in sy-checkout-green-618be120: 10.1.0.1:8080                          weights differ from what is wanted
   2  shop/checkout  ModifyRule       change rule: weights sy-checkout-blue-4758d4ca=90 sy-checkout-green-618be120=10  weights differ from what is wanted

HELD OR WAITING
  shop/checkout green: ClusterStale: the agent of green is away
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn nothing_is_said_in_words() {
        let empty = Plan { steps: vec![], notes: vec![], made_at: None };
        assert_eq!(plan(&empty, BARE), "Nothing to do at the load balancer.\n");
        assert_eq!(policies(&[], BARE, now()), "No policies.\n");
        assert_eq!(endpoints(&[], BARE, now()), "No endpoints.\n");
    }
}
