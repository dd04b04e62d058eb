//! What operators want of a whole cluster, across all policies: cordon, drain, game days, the way back, and removal.
//!
//! A mode is a ceiling on the cluster's part in every policy ([`Ceiling`]), which [`crate::failover`] treats like health: the others
//! take what the cluster does not get, by the same rules. [`machine`] moves a cluster from step to step, each in force in every
//! policy before the next. Values only; the hub stores a [`ClusterState`] and shows it. Tests: `core/tests/fleet_*.rs`.

pub mod forecast;
pub mod machine;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterName, PolicyKey, Weight},
    status::Reason,
};

/// The longest game day: a day (86400 s).
pub const MOST_DRILL_SECONDS: u32 = 86_400;
/// The shortest game day: less is over before anybody could look.
pub const LEAST_DRILL_SECONDS: u32 = 10;
/// The most time between two steps: a day.
pub const MOST_STEP_SECONDS: u32 = 86_400;
/// Percent of the way that one step goes when nobody says otherwise.
pub const DEFAULT_STEP_PERCENT: u32 = 25;
/// Policies that are named in the progress of an operation.
pub const MOST_PROGRESS: usize = 1000;

/// What operators want of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// It takes part in everything.
    #[default]
    Active,
    /// It gets no new weight.
    Cordoned,
    /// Its share goes down, in steps.
    Draining,
    /// It has no share.
    Drained,
    /// Its share comes back, in steps.
    Returning,
    /// It is gone for good, whatever its agent says.
    Removed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// No new weight.
    Cordon,
    /// No share, then no targets.
    Drain,
    /// The way back.
    Uncordon,
    /// Gone for good.
    Remove,
    /// A game day: the loss of the cluster, for a time.
    Drill,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What a policy is told of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Why.
    pub mode: Mode,
    /// The most of its share that it gets, 0..=1000 thousandths.
    pub permille: u32,
    /// True: once it carries nothing its targets go.
    pub deregister: bool,
    /// True: the declared capacity of the others is not asked.
    pub force: bool,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { mode: Mode::Active, permille: 1000, deregister: false, force: false }
    }
}

/// One cluster as operators want it; clusters without one are active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// Which.
    pub cluster: ClusterName,
    /// Counts up with each stored change; the store writes it.
    pub version: u64,
    /// The mode.
    pub mode: Mode,
    /// The most of its share that it gets, 0..=100 percent.
    pub percent: u32,
    /// True: once it carries nothing its targets go.
    pub deregister: bool,
    /// What was asked for last.
    pub operation: Operation,
}

/// What was asked for, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Unique in time, made by the hub.
    pub id: String,
    /// What.
    pub kind: Kind,
    /// The caller, as in the audit log.
    pub actor: String,
    /// Why, as the caller said.
    pub reason: String,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When a game day ends by itself.
    pub until: Option<Timestamp>,
    /// When everything was as it wants it.
    pub ended_at: Option<Timestamp>,
    /// Percent of the way, 1..=100, in one step.
    pub step_percent: u32,
    /// The least time between two steps, 0..=86400 seconds.
    pub step_seconds: u32,
    /// When the last step was made; none: none was.
    pub stepped_at: Option<Timestamp>,
    /// The declared capacity of the others is not asked.
    pub force: bool,
    /// Where it is, or what it waits for; for programs.
    pub why: Why,
    /// The same for people.
    pub message: String,
    /// The policies that name the cluster.
    pub progress: Vec<Progress>,
}

/// Where an operation is, or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Why {
    /// It was asked for, and no replica has looked at it yet.
    Requested,
    /// The step is being programmed, or its settle time runs.
    InProgress,
    /// The least time between two steps is not over.
    WaitingForInterval,
    /// A policy cannot follow; its reason is in the progress.
    Blocked,
    /// The share is gone; targets are being deregistered.
    Deregistering,
    /// A game day runs until its time is over.
    DrillRunning,
    /// Everything is as asked for.
    Done,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One policy in the progress of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Which.
    pub policy: PolicyKey,
    /// It is as this step wants it, read back and settled.
    pub done: bool,
    /// The cluster's weight as read back; none: not in the rule, or not known.
    pub programmed: Option<Weight>,
    /// Targets registered in the cluster's group.
    pub targets: u32,
    /// Why it is not done.
    pub reason: Reason,
    /// The same for people; empty when it is done.
    pub message: String,
}

impl ClusterState {
    /// What policies are told.
    pub fn ceiling(&self) -> Ceiling {
        Ceiling {
            mode: self.mode,
            permille: self.percent.min(100) * 10,
            deregister: self.deregister && self.percent == 0,
            // Only as long as something is taken from it: the word was about that, not about a loss years later.
            force: self.operation.force && matches!(self.mode, Mode::Draining | Mode::Drained),
        }
    }

    /// True while there is something to do for it.
    pub fn is_moving(&self) -> bool {
        match self.mode {
            Mode::Draining | Mode::Returning => true,
            Mode::Drained => self.operation.until.is_some(),
            Mode::Removed => self.operation.ended_at.is_none(),
            Mode::Active | Mode::Cordoned => false,
        }
    }
}
