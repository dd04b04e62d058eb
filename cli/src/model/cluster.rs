//! Member clusters, what operators want of them, and what the loss of one would do, as the hub told it. No IO.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{
    Link, PolicyRef,
    convert::{each, time},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cluster {
    pub name: String,
    pub region: String,
    pub vpc_id: String,
    pub link: Link,
    pub last_seen: Option<Timestamp>,
    pub agent_version: String,
    pub endpoints: u32,
    pub problems: Vec<SourceProblem>,
    pub mode: Mode,
    /// The last one that was asked for; nothing when there never was one.
    pub operation: Option<Operation>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceProblem {
    pub namespace: String,
    pub kind: String,
    pub message: String,
}

/// What operators want of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Of a newer hub, or of one that is too old to say.
    #[default]
    Unspecified,
    Active,
    Cordoned,
    Draining,
    Drained,
    Returning,
    Removed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "-",
            Self::Active => "active",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Returning => "returning",
            Self::Removed => "removed",
        })
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    #[default]
    Unspecified,
    Cordon,
    Drain,
    Uncordon,
    Remove,
    Drill,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "operation",
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Uncordon => "uncordon",
            Self::Remove => "remove",
            Self::Drill => "game day",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operation {
    pub id: String,
    pub kind: OperationKind,
    pub actor: String,
    pub reason: String,
    pub started_at: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub percent: u32,
    pub step_percent: u32,
    pub step_seconds: u32,
    pub force: bool,
    pub why: String,
    pub message: String,
    pub progress: Vec<Progress>,
    pub version: u64,
}

/// One policy in an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    pub policy: PolicyRef,
    pub done: bool,
    pub programmed_weight: Option<u32>,
    pub targets: u32,
    pub reason: String,
    pub message: String,
}

/// What the loss of a cluster does to one policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Forecast {
    pub policy: PolicyRef,
    pub verdict: Verdict,
    pub reason: String,
    pub message: String,
    pub clusters: Vec<ClusterForecast>,
}

/// What it comes to; the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Untouched,
    Carried,
    Unproven,
    /// Of a newer hub: nobody here knows that it is good.
    #[default]
    Unspecified,
    Overloaded,
    NotCarried,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Carried => "carried",
            Self::Unproven => "unproven",
            Self::Unspecified => "unknown",
            Self::Overloaded => "OVERLOADED",
            Self::NotCarried => "NOT CARRIED",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterForecast {
    pub cluster: String,
    pub weight_before: u32,
    pub weight_after: u32,
    pub share_before_permille: u32,
    pub share_after_permille: u32,
    pub healthy_targets: u32,
    pub capacity_permille: Option<u32>,
}

impl Operation {
    /// Policies that are as the present step wants them, and all of them.
    pub fn done(&self) -> (usize, usize) {
        (self.progress.iter().filter(|one| one.done).count(), self.progress.len())
    }
}

impl From<pb::ClusterMode> for Mode {
    fn from(from: pb::ClusterMode) -> Self {
        match from {
            pb::ClusterMode::Unspecified => Self::Unspecified,
            pb::ClusterMode::Active => Self::Active,
            pb::ClusterMode::Cordoned => Self::Cordoned,
            pb::ClusterMode::Draining => Self::Draining,
            pb::ClusterMode::Drained => Self::Drained,
            pb::ClusterMode::Returning => Self::Returning,
            pb::ClusterMode::Removed => Self::Removed,
        }
    }
}

impl From<pb::ClusterOperationKind> for OperationKind {
    fn from(from: pb::ClusterOperationKind) -> Self {
        match from {
            pb::ClusterOperationKind::Unspecified => Self::Unspecified,
            pb::ClusterOperationKind::Cordon => Self::Cordon,
            pb::ClusterOperationKind::Drain => Self::Drain,
            pb::ClusterOperationKind::Uncordon => Self::Uncordon,
            pb::ClusterOperationKind::Remove => Self::Remove,
            pb::ClusterOperationKind::Drill => Self::Drill,
        }
    }
}

impl From<pb::ForecastVerdict> for Verdict {
    fn from(from: pb::ForecastVerdict) -> Self {
        match from {
            pb::ForecastVerdict::Unspecified => Self::Unspecified,
            pb::ForecastVerdict::Untouched => Self::Untouched,
            pb::ForecastVerdict::Carried => Self::Carried,
            pb::ForecastVerdict::Unproven => Self::Unproven,
            pb::ForecastVerdict::Overloaded => Self::Overloaded,
            pb::ForecastVerdict::NotCarried => Self::NotCarried,
        }
    }
}

impl From<pb::Cluster> for Cluster {
    fn from(from: pb::Cluster) -> Self {
        let (link, mode) = (from.link().into(), from.mode().into());
        Self {
            name: from.name,
            region: from.region,
            vpc_id: from.vpc_id,
            link,
            last_seen: time(from.last_seen),
            agent_version: from.agent_version,
            endpoints: from.endpoints,
            problems: each(from.problems),
            mode,
            operation: from.operation.map(Operation::from),
        }
    }
}

impl From<pb::SourceProblem> for SourceProblem {
    fn from(from: pb::SourceProblem) -> Self {
        Self { namespace: from.namespace, kind: from.kind, message: from.message }
    }
}

impl From<pb::ClusterOperation> for Operation {
    fn from(from: pb::ClusterOperation) -> Self {
        let kind = from.kind().into();
        Self {
            id: from.id,
            kind,
            actor: from.actor,
            reason: from.reason,
            started_at: time(from.started_at),
            until: time(from.until),
            ended_at: time(from.ended_at),
            percent: from.percent,
            step_percent: from.step_percent,
            step_seconds: from.step_seconds,
            force: from.force,
            why: from.why,
            message: from.message,
            progress: each(from.progress),
            version: from.version,
        }
    }
}

impl From<pb::PolicyProgress> for Progress {
    fn from(from: pb::PolicyProgress) -> Self {
        Self {
            policy: from.policy.unwrap_or_default().into(),
            done: from.done,
            programmed_weight: from.programmed_weight,
            targets: from.targets,
            reason: from.reason,
            message: from.message,
        }
    }
}

impl From<pb::PolicyForecast> for Forecast {
    fn from(from: pb::PolicyForecast) -> Self {
        let verdict = from.verdict().into();
        Self {
            policy: from.policy.unwrap_or_default().into(),
            verdict,
            reason: from.reason,
            message: from.message,
            clusters: each(from.clusters),
        }
    }
}

impl From<pb::ClusterForecast> for ClusterForecast {
    fn from(from: pb::ClusterForecast) -> Self {
        Self {
            cluster: from.cluster,
            weight_before: from.weight_before,
            weight_after: from.weight_after,
            share_before_permille: from.share_before_permille,
            share_after_permille: from.share_after_permille,
            healthy_targets: from.healthy_targets,
            capacity_permille: from.capacity_permille,
        }
    }
}
