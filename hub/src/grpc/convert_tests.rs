use switchyard_core::{
    ids::Weight,
    status::{ClusterStatus, RuleStatus, TargetCounts},
};

use super::*;

fn key() -> PolicyKey {
    PolicyKey::new("shop", "checkout").unwrap()
}

fn status() -> PolicyStatus {
    let at: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
    let condition = |kind, status| StatusCondition {
        kind,
        status,
        reason: Reason::Settling,
        message: "12 s left".to_owned(),
        last_transition: at,
    };
    let listener = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/x/1/2";
    PolicyStatus {
        observed_version: 7,
        conditions: vec![
            condition(ConditionType::Accepted, Some(true)),
            condition(ConditionType::ResolvedRefs, Some(false)),
            condition(ConditionType::Converged, None),
        ],
        clusters: vec![ClusterStatus {
            cluster: "blue".parse().unwrap(),
            requested: Weight::new(90).unwrap(),
            effective: Weight::new(10).unwrap(),
            programmed: None,
            reason: Reason::NoHealthyTarget,
            message: "none of 3 is healthy".to_owned(),
            targets: TargetCounts {
                desired: 1,
                registered: 2,
                healthy: 3,
                unhealthy: 4,
                initial: 5,
                draining: 6,
                unused: 7,
                held: 8,
            },
            target_group: None,
        }],
        rule: Some(RuleStatus {
            listener: listener.parse().unwrap(),
            rule: None,
            priority: Some(3),
            programmed_since: Some(at),
        }),
        notes: vec![Note { cluster: None, reason: Reason::Frozen, message: "as the policy says".to_owned() }],
        failover: Explanation::default(),
    }
}

#[test]
fn a_status_keeps_every_field_and_unknown_stays_unknown() {
    let links: Links = [("blue".parse().unwrap(), proto::ClusterLink::Syncing)].into();
    let made = to_proto_status(&key(), &status(), None, &links);
    let words: Vec<_> = made.conditions.iter().map(|c| (c.r#type.as_str(), c.status())).collect();
    assert_eq!(
        words,
        [
            ("Accepted", proto::ConditionStatus::True),
            ("ResolvedRefs", proto::ConditionStatus::False),
            ("Converged", proto::ConditionStatus::Unknown),
        ]
    );
    assert_eq!(made.conditions[0].observed_version, 7);
    let cluster = &made.clusters[0];
    assert_eq!((cluster.requested_weight, cluster.effective_weight, cluster.programmed_weight), (90, 10, None));
    assert_eq!((cluster.reason.as_str(), cluster.link()), ("NoHealthyTarget", proto::ClusterLink::Syncing));
    let counts = cluster.targets.unwrap();
    let all = [counts.desired, counts.registered, counts.healthy, counts.unhealthy, counts.initial, counts.draining];
    assert_eq!((all, counts.unused, counts.held), ([1, 2, 3, 4, 5, 6], 7, 8));
    let rule = made.rule.unwrap();
    assert_eq!((rule.priority, rule.rule_arn.as_str()), (3, ""));
    assert_eq!(rule.programmed_at.unwrap().nanos, 500_000_000);
    assert_eq!(made.notes[0].reason, "Frozen");
}

#[test]
fn a_cluster_that_is_as_requested_has_no_reason_and_one_never_seen_an_unknown_link() {
    let mut status = status();
    status.clusters[0].reason = Reason::AsRequested;
    status.clusters[0].programmed = Some(Weight::ZERO);
    let made = to_proto_status(&key(), &status, None, &Links::new());
    assert_eq!(made.clusters[0].reason, "");
    assert_eq!(made.clusters[0].programmed_weight, Some(0));
    assert_eq!(made.clusters[0].link(), proto::ClusterLink::Unknown);
}

#[test]
fn times_before_1970_count_their_nanoseconds_forward() {
    let at = to_proto_time("1969-12-31T23:59:59.25Z".parse().unwrap());
    assert_eq!((at.seconds, at.nanos), (-1, 250_000_000));
    let at = to_proto_time("1970-01-01T00:00:01.25Z".parse().unwrap());
    assert_eq!((at.seconds, at.nanos), (1, 250_000_000));
}

#[test]
fn every_link_has_its_word() {
    let words = [Some(Link::Connected), Some(Link::Syncing), Some(Link::Stale), None].map(to_proto_link);
    use proto::ClusterLink::{Connected, Stale, Syncing, Unknown};
    assert_eq!(words, [Connected, Syncing, Stale, Unknown]);
}
