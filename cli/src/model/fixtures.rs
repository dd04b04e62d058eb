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

/// shop/checkout on its way from blue to green: accepted and resolved, not yet programmed, one note.
pub fn policy(version: u64) -> Policy {
    let reference = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    let conditions = vec![
        condition("Accepted", Truth::True, "Stored", "", version),
        condition("ResolvedRefs", Truth::True, "Resolved", "", version),
        condition("Programmed", Truth::False, "Pending", "2 calls to make", version),
        condition("Converged", Truth::Unknown, "Pending", "not programmed yet", version),
    ];
    let blue = ClusterStatus {
        cluster: "blue".into(),
        requested_weight: 90,
        effective_weight: 100,
        programmed_weight: Some(100),
        targets: TargetCounts { desired: 3, registered: 3, healthy: 3, ..TargetCounts::default() },
        target_group_arn: "arn:tg/blue".into(),
        link: Link::Connected,
        ..ClusterStatus::default()
    };
    let green = ClusterStatus {
        cluster: "green".into(),
        requested_weight: 10,
        reason: "NoHealthyTargets".into(),
        message: "no target of green is healthy yet".into(),
        targets: TargetCounts { desired: 2, registered: 3, initial: 2, held: 1, ..TargetCounts::default() },
        link: Link::Stale,
        ..ClusterStatus::default()
    };
    let note = Note {
        policy: reference.clone(),
        cluster: "green".into(),
        reason: "Held".into(),
        message: "1 target is kept".into(),
    };
    Policy {
        reference,
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
            notes: vec![note],
            updated_at: Some("2026-01-02T03:04:00Z".parse().unwrap()),
        },
    }
}
