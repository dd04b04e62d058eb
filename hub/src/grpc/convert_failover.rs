//! From core's explanations of failover to protobuf, as free functions. Pure.

use switchyard_core::{
    failover::{ClusterExplanation, Explanation, LevelExplanation, Pending, Standing},
    fleet::Mode,
    status::Reason,
};
use switchyard_proto::api::v1 as proto;

use super::{
    convert::{Links, to_proto_time},
    convert_fleet::to_proto_mode,
};
use crate::feed::Fleet;

/// What failover makes of the requested weights; none for a policy that was not planned by this version yet. How the hub stands with
/// agents and what operators want of clusters is as of now, the rest as of the last plan.
pub fn to_proto_explanation(explanation: &Explanation, links: &Links, fleet: &Fleet) -> Option<proto::Explanation> {
    if explanation.clusters.is_empty() {
        return None;
    }
    let cluster = |cluster| to_proto_cluster_explanation(cluster, links, fleet);
    Some(proto::Explanation {
        state: to_proto_standing(explanation.standing).into(),
        message: explanation.message.clone(),
        clusters: explanation.clusters.iter().map(cluster).collect(),
        levels: explanation.levels.iter().map(to_proto_level).collect(),
        moves_last_hour: explanation.moves_last_hour,
        max_moves_per_hour: explanation.max_moves_per_hour,
        decided_at: explanation.decided_at.map(to_proto_time),
        lost_zones: explanation.lost_zones.clone(),
    })
}

fn to_proto_standing(standing: Standing) -> proto::FailoverState {
    match standing {
        Standing::Off => proto::FailoverState::Off,
        Standing::AsRequested => proto::FailoverState::AsRequested,
        Standing::FailedOver => proto::FailoverState::FailedOver,
        Standing::Panic => proto::FailoverState::Panic,
    }
}

fn to_proto_cluster_explanation(one: &ClusterExplanation, links: &Links, fleet: &Fleet) -> proto::ClusterExplanation {
    let reason = match one.reason {
        Reason::AsRequested => String::new(),
        reason => reason.to_string(),
    };
    proto::ClusterExplanation {
        cluster: one.cluster.to_string(),
        priority: one.priority,
        requested_weight: one.requested.get(),
        standby_weight: one.standby.get(),
        effective_weight: one.decided.get(),
        programmed_weight: one.programmed.map(|weight| weight.get()),
        link: links.get(&one.cluster).copied().unwrap_or(proto::ClusterLink::Unknown).into(),
        mode: to_proto_mode(fleet.get(&one.cluster).map_or(Mode::Active, |state| state.mode)).into(),
        ceiling_permille: one.ceiling,
        expected_targets: one.expected,
        healthy_targets: one.healthy,
        unjudged_targets: one.unjudged,
        unhealthy_targets: one.unhealthy,
        known: one.known,
        score_permille: one.score,
        used_permille: one.used,
        share_permille: one.share,
        requested_share_permille: one.requested_share,
        capacity_permille: one.capacity,
        pending: one.pending.as_ref().map(to_proto_pending),
        out_since: one.out_since.map(to_proto_time),
        outs: one.outs,
        held_until: one.held_until.map(to_proto_time),
        reason,
        message: one.message.clone(),
    }
}

fn to_proto_pending(pending: &Pending) -> proto::PendingMove {
    proto::PendingMove {
        back: pending.back,
        since: Some(to_proto_time(pending.since)),
        at: pending.at.map(to_proto_time),
    }
}

fn to_proto_level(level: &LevelExplanation) -> proto::LevelExplanation {
    proto::LevelExplanation { priority: level.priority, health_permille: level.health, load_permille: level.load }
}

#[cfg(test)]
mod tests {
    use switchyard_core::ids::Weight;

    use super::*;

    fn explained() -> ClusterExplanation {
        let at = |text: &str| text.parse().unwrap();
        ClusterExplanation {
            cluster: "blue".parse().unwrap(),
            priority: 1,
            requested: Weight::ZERO,
            standby: Weight::new(100).unwrap(),
            decided: Weight::new(40).unwrap(),
            programmed: None,
            link: None,
            mode: Mode::Active,
            ceiling: 1000,
            expected: 10,
            healthy: 2,
            unjudged: 3,
            unhealthy: 4,
            known: true,
            score: 500,
            used: 1000,
            share: 400,
            requested_share: 0,
            capacity: Some(700),
            pending: Some(Pending { back: true, since: at("2026-11-21T10:00:00Z"), at: None }),
            out_since: Some(at("2026-11-21T09:00:00Z")),
            outs: 2,
            held_until: Some(at("2026-11-21T10:02:00Z")),
            reason: Reason::FailedOver,
            message: "takes over".to_owned(),
        }
    }

    #[test]
    fn an_explanation_keeps_every_number_and_shows_links_and_modes_of_now() {
        let explanation = Explanation {
            standing: Standing::FailedOver,
            message: "green is out".to_owned(),
            clusters: vec![explained()],
            levels: vec![LevelExplanation { priority: 1, health: 900, load: 400 }],
            moves_last_hour: 3,
            max_moves_per_hour: 6,
            decided_at: Some("2026-11-21T10:00:00Z".parse().unwrap()),
            lost_zones: vec!["eu-central-1a".to_owned()],
        };
        let links = [("blue".parse().unwrap(), proto::ClusterLink::Stale)].into();
        let made = to_proto_explanation(&explanation, &links, &Fleet::new()).unwrap();
        assert_eq!((made.state(), made.message.as_str()), (proto::FailoverState::FailedOver, "green is out"));
        assert_eq!((made.moves_last_hour, made.max_moves_per_hour, made.lost_zones.len()), (3, 6, 1));
        assert_eq!(made.levels, [proto::LevelExplanation { priority: 1, health_permille: 900, load_permille: 400 }]);
        let one = &made.clusters[0];
        assert_eq!((one.link(), one.mode()), (proto::ClusterLink::Stale, proto::ClusterMode::Active));
        assert_eq!((one.priority, one.requested_weight, one.standby_weight, one.effective_weight), (1, 0, 100, 40));
        let targets = [one.expected_targets, one.healthy_targets, one.unjudged_targets, one.unhealthy_targets];
        assert_eq!((targets, one.known, one.programmed_weight), ([10, 2, 3, 4], true, None));
        let permille = [one.score_permille, one.used_permille, one.share_permille, one.requested_share_permille];
        assert_eq!((permille, one.capacity_permille, one.ceiling_permille), ([500, 1000, 400, 0], Some(700), 1000));
        let pending = one.pending.unwrap();
        assert!(pending.back && pending.since.is_some() && pending.at.is_none());
        assert!(one.out_since.is_some() && one.held_until.is_some() && one.outs == 2);
        assert_eq!((one.reason.as_str(), one.message.as_str()), ("FailedOver", "takes over"));
    }

    #[test]
    fn a_policy_that_was_not_planned_has_no_explanation_and_every_state_has_its_word() {
        assert_eq!(to_proto_explanation(&Explanation::default(), &Links::new(), &Fleet::new()), None);
        let all = [Standing::Off, Standing::AsRequested, Standing::FailedOver, Standing::Panic].map(to_proto_standing);
        use proto::FailoverState::{AsRequested, FailedOver, Off, Panic};
        assert_eq!(all, [Off, AsRequested, FailedOver, Panic]);
    }
}
