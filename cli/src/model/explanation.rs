//! Why the effective weights of a policy are what they are, as the hub told it. Shares and scores are in thousandths. No IO.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{
    Link, Mode,
    convert::{each, time},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    pub state: Standing,
    pub message: String,
    pub clusters: Vec<ClusterExplanation>,
    pub levels: Vec<Level>,
    pub moves_last_hour: u32,
    pub max_moves_per_hour: u32,
    pub decided_at: Option<Timestamp>,
    pub lost_zones: Vec<String>,
}

/// How a policy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    #[default]
    Unspecified,
    Off,
    AsRequested,
    FailedOver,
    Panic,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "UNKNOWN",
            Self::Off => "NO FAILOVER",
            Self::AsRequested => "AS REQUESTED",
            Self::FailedOver => "FAILED OVER",
            Self::Panic => "PANIC",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterExplanation {
    pub cluster: String,
    pub priority: u32,
    pub requested_weight: u32,
    pub standby_weight: u32,
    pub effective_weight: u32,
    pub programmed_weight: Option<u32>,
    pub link: Link,
    pub mode: Mode,
    pub ceiling_permille: u32,
    pub expected_targets: u32,
    pub healthy_targets: u32,
    pub unjudged_targets: u32,
    pub unhealthy_targets: u32,
    pub known: bool,
    pub score_permille: u32,
    pub used_permille: u32,
    pub share_permille: u32,
    pub requested_share_permille: u32,
    pub capacity_permille: Option<u32>,
    pub pending: Option<Pending>,
    pub out_since: Option<Timestamp>,
    pub outs: u32,
    pub held_until: Option<Timestamp>,
    pub reason: String,
    pub message: String,
}

/// A change that has not lasted long enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pending {
    pub back: bool,
    pub since: Option<Timestamp>,
    pub at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Level {
    pub priority: u32,
    pub health_permille: u32,
    pub load_permille: u32,
}

impl From<pb::FailoverState> for Standing {
    fn from(from: pb::FailoverState) -> Self {
        match from {
            pb::FailoverState::Unspecified => Self::Unspecified,
            pb::FailoverState::Off => Self::Off,
            pb::FailoverState::AsRequested => Self::AsRequested,
            pb::FailoverState::FailedOver => Self::FailedOver,
            pb::FailoverState::Panic => Self::Panic,
        }
    }
}

impl From<pb::Explanation> for Explanation {
    fn from(from: pb::Explanation) -> Self {
        let state = from.state().into();
        Self {
            state,
            message: from.message,
            clusters: each(from.clusters),
            levels: each(from.levels),
            moves_last_hour: from.moves_last_hour,
            max_moves_per_hour: from.max_moves_per_hour,
            decided_at: time(from.decided_at),
            lost_zones: from.lost_zones,
        }
    }
}

impl From<pb::ClusterExplanation> for ClusterExplanation {
    fn from(from: pb::ClusterExplanation) -> Self {
        let (link, mode) = (from.link().into(), from.mode().into());
        Self {
            cluster: from.cluster,
            priority: from.priority,
            requested_weight: from.requested_weight,
            standby_weight: from.standby_weight,
            effective_weight: from.effective_weight,
            programmed_weight: from.programmed_weight,
            link,
            mode,
            ceiling_permille: from.ceiling_permille,
            expected_targets: from.expected_targets,
            healthy_targets: from.healthy_targets,
            unjudged_targets: from.unjudged_targets,
            unhealthy_targets: from.unhealthy_targets,
            known: from.known,
            score_permille: from.score_permille,
            used_permille: from.used_permille,
            share_permille: from.share_permille,
            requested_share_permille: from.requested_share_permille,
            capacity_permille: from.capacity_permille,
            pending: from.pending.map(Pending::from),
            out_since: time(from.out_since),
            outs: from.outs,
            held_until: time(from.held_until),
            reason: from.reason,
            message: from.message,
        }
    }
}

impl From<pb::PendingMove> for Pending {
    fn from(from: pb::PendingMove) -> Self {
        Self { back: from.back, since: time(from.since), at: time(from.at) }
    }
}

impl From<pb::LevelExplanation> for Level {
    fn from(from: pb::LevelExplanation) -> Self {
        Self { priority: from.priority, health_permille: from.health_permille, load_permille: from.load_permille }
    }
}
