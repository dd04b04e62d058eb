//! Policies for the tests of the modules that decide and render.

use super::*;

fn condition(kind: &str, status: Truth, reason: &str, message: &str, version: u64) -> Condition {
    Condition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
        observed_version: version,
        last_transition_time: Some("2026-01-02T03:00:00Z".parse().unwrap()),
    }
}

/// What the hub says of pods that stopped being ready while their group carries weight.
pub const REMOVALS_HELD: &str = "1 of 2 targets of blue are held: 1 because the pod is not ready. The group carries weight and \
    keeps at least 2 targets (deregistrationBudgetPercent 50 of 3). If they are meant to go, set \
    the weight of blue to 0 first, or raise spec.safety.deregistrationBudgetPercent";

/// What the hub says of a cluster whose agent is away.
pub const CLUSTER_STALE: &str =
    "the agent of green is away: its targets are frozen, the load balancer's health checks decide";

/// shop/checkout asked to move from blue to green, as the hub shows it while green has no pod to send to and no agent, and
/// blue has lost pods: the change of weights waits, removals are held. Reasons and messages are those of the hub.
pub fn policy(version: u64) -> Policy {
    let reference = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    let waits = "the change of weights waits as a whole for green";
    let stored = format!("version {version} is stored");
    let conditions = vec![
        condition("Accepted", Truth::True, "AsRequested", &stored, version),
        condition("ResolvedRefs", Truth::True, "AsRequested", "listener, clusters and Services were found", version),
        condition("Programmed", Truth::False, "WeightsHeld", waits, version),
        condition("Converged", Truth::False, "WeightsHeld", waits, version),
    ];
    let blue = ClusterStatus {
        cluster: "blue".into(),
        requested_weight: 90,
        effective_weight: 100,
        programmed_weight: Some(100),
        reason: "WeightsHeld".into(),
        message: waits.into(),
        targets: TargetCounts {
            desired: 1,
            registered: 2,
            healthy: 2,
            draining: 1,
            held: 1,
            ..TargetCounts::default()
        },
        target_group_arn: "arn:tg/blue".into(),
        link: Link::Connected,
    };
    let green = ClusterStatus {
        cluster: "green".into(),
        requested_weight: 10,
        programmed_weight: Some(0),
        reason: "NoTargets".into(),
        message: "green has no registered target; give it ready pods, or set its weight to 0 to go on without it"
            .into(),
        targets: TargetCounts { draining: 3, ..TargetCounts::default() },
        target_group_arn: "arn:tg/green".into(),
        link: Link::Stale,
        ..ClusterStatus::default()
    };
    let note = |cluster: &str, reason: &str, message: &str| Note {
        policy: reference.clone(),
        cluster: cluster.into(),
        reason: reason.into(),
        message: message.into(),
    };
    let notes = vec![note("blue", "RemovalsHeld", REMOVALS_HELD), note("green", "ClusterStale", CLUSTER_STALE)];
    Policy {
        reference: reference.clone(),
        uid: "u-1".into(),
        version,
        generation: 3,
        spec: serde_json::json!({
            "listener": {"loadBalancer": "shared-public", "port": 443},
            "match": {"hostnames": ["shop.example.com"], "paths": [{"type": "Prefix", "value": "/checkout"}]},
            "backend": {"service": {"name": "checkout", "port": "http"}},
        }),
        created_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        updated_at: Some("2026-01-02T03:00:00Z".parse().unwrap()),
        deleting_since: None,
        owner: Some(Owner { kind: OwnerKind::Api, ..Owner::default() }),
        status: PolicyStatus {
            observed_version: version,
            conditions,
            clusters: vec![blue, green],
            rule: Some(RuleStatus {
                listener_arn: "arn:listener/1".into(),
                rule_arn: "arn:rule/1".into(),
                priority: 100,
                programmed_at: Some("2026-01-02T02:00:00Z".parse().unwrap()),
            }),
            notes,
            updated_at: Some("2026-01-02T03:04:00Z".parse().unwrap()),
        },
    }
}
