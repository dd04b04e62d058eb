//! What a resource is told: how it stands, in the words of the contract. Pure.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, Weight},
    shift::Shift,
};
use switchyard_proto::agent::v1::TrafficShiftStatus;

use super::parse::Resource;
use crate::grpc::convert::to_proto_time;

/// What became of a resource.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Not asked yet.
    Unknown,
    /// Something stands in the way that will end.
    Waiting {
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// It will not be carried out.
    Refused {
        /// For people.
        why: String,
    },
    /// Its shift.
    Made(Arc<Shift>),
    /// Its shift ended so long ago that it is not kept.
    Forgotten,
}

/// What a resource waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another shift moves one of its policies.
    Busy,
    /// A safety rule that will end.
    Held,
    /// A policy is missing, on its way out, or lacks a cluster.
    PolicyNotReady,
    /// Too many others of its cluster have not ended.
    TooMany,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Standing {
    /// True when nothing more will come of it.
    pub fn has_ended(&self) -> bool {
        match self {
            Standing::Unknown | Standing::Waiting { .. } => false,
            Standing::Refused { .. } | Standing::Forgotten => true,
            Standing::Made(shift) => !shift.is_active(),
        }
    }
}

/// The status; none: nothing is known yet. `since` is told where there is no shift, which knows better.
pub fn status(resource: &Resource, standing: &Standing, since: Timestamp) -> Option<TrafficShiftStatus> {
    let named = TrafficShiftStatus {
        namespace: resource.namespace.to_string(),
        name: resource.name.clone(),
        uid: resource.uid.to_string(),
        observed_generation: resource.generation,
        ended: standing.has_ended(),
        since: Some(to_proto_time(since)),
        ..TrafficShiftStatus::default()
    };
    let words = |state: &str, reason: &str, message: &str| TrafficShiftStatus {
        state: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..named.clone()
    };
    match standing {
        Standing::Unknown => None,
        Standing::Waiting { reason, message } => Some(words("Waiting", &reason.to_string(), message)),
        Standing::Refused { why } => Some(words("Refused", "Refused", why)),
        Standing::Forgotten => {
            Some(words("Refused", "Forgotten", "this resource was carried out so long ago that its shift is not kept"))
        }
        Standing::Made(shift) => Some(TrafficShiftStatus {
            shift_id: shift.id.to_string(),
            step: shift.step.map_or(0, |step| count(step + 1)),
            steps: count(shift.steps.len()),
            programmed: shift.programmed,
            converged: shift.converged,
            since: Some(to_proto_time(shift.since)),
            weights: weights(shift),
            paused: shift.pause.is_some(),
            ..words(&shift.state.to_string(), &shift.why.to_string(), &shift.message)
        }),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Such as `checkout: blue=95,green=5; cart: blue=95,green=5`.
fn weights(shift: &Shift) -> String {
    let pairs = |weights: Vec<(ClusterName, Weight)>| {
        let pairs: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
        pairs.join(",")
    };
    let moves = shift.moves.iter().map(|one| format!("{}: {}", one.policy.name, pairs(shift.asked(one))));
    moves.collect::<Vec<_>>().join("; ")
}
