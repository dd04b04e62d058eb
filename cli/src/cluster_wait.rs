//! A wait for an operation on a cluster: a machine without IO and clock. It belongs to the operation that the call made, so an
//! older truth does not end it, and a later operation by somebody else does. Tests: `cluster_wait_tests.rs`.

use crate::{
    hub::ClusterNews,
    model::{Cluster, Mode, Operation, cluster::Progress},
    text::count,
};

/// Lines of single policies that one look may give: a step moves all of them at once, and a log is read by people.
const MOST_LINES: usize = 20;

/// One wait.
#[derive(Clone, Debug)]
pub struct ClusterWait {
    operation: String,
    /// Of the operation when it was answered; what is older is another replica that is behind.
    version: u64,
    last: Cluster,
    lost: bool,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Reached,
    /// Another operation took its place; who, and which.
    Superseded(String),
    /// The hub does not know the cluster any more.
    Unknown,
}

/// What came of one piece of news.
pub struct Stepped {
    pub wait: ClusterWait,
    pub lines: Vec<String>,
    pub ending: Option<Ending>,
}

impl ClusterWait {
    /// Begins with what the call answered.
    pub fn start(answered: &Cluster) -> Stepped {
        let Operation { id: operation, version, .. } = answered.operation.clone().unwrap_or_default();
        let nothing = Cluster { name: answered.name.clone(), ..Cluster::default() };
        Self { operation, version, last: nothing, lost: false }.seen(answered)
    }

    /// Takes one piece of news.
    pub fn step(mut self, news: ClusterNews) -> Stepped {
        match news {
            ClusterNews::Cluster(cluster) => self.seen(&cluster),
            ClusterNews::Opened => {
                let lines = if self.lost { vec!["the hub answers again".to_owned()] } else { vec![] };
                self.lost = false;
                Stepped { wait: self, lines, ending: None }
            }
            ClusterNews::Lost(why) => {
                let lines = if self.lost { vec![] } else { vec![format!("lost the hub, trying again: {why}")] };
                self.lost = true;
                Stepped { wait: self, lines, ending: None }
            }
            ClusterNews::NotFound => Stepped { wait: self, lines: vec![], ending: Some(Ending::Unknown) },
        }
    }

    fn seen(mut self, cluster: &Cluster) -> Stepped {
        let lines = changes(&self.last, cluster);
        let ending = match &cluster.operation {
            Some(operation) if operation.id == self.operation => {
                operation.ended_at.is_some().then_some(Ending::Reached)
            }
            Some(other) if other.version < self.version => None,
            Some(other) => Some(Ending::Superseded(superseded(cluster, other))),
            // A replica that has not read the operation yet.
            None => None,
        };
        self.last = cluster.clone();
        Stepped { wait: self, lines, ending }
    }

    /// The cluster as last seen.
    pub fn last(&self) -> &Cluster {
        &self.last
    }

    /// What is missing, in one line.
    pub fn pending(&self) -> String {
        state_line(&self.last)
    }
}

fn superseded(cluster: &Cluster, other: &Operation) -> String {
    let by = if other.actor.is_empty() { "somebody" } else { &other.actor };
    let reason = if other.reason.is_empty() { String::new() } else { format!(" ({})", other.reason) };
    format!("{by} asked for another operation on {}: {}{reason}", cluster.name, other.kind)
}

/// `blue draining, at most 75% of its share: at 75 %; 2 of 12 policies are not there yet (InProgress)`.
pub fn state_line(cluster: &Cluster) -> String {
    let Some(operation) = &cluster.operation else { return format!("{} {}", cluster.name, cluster.mode) };
    let ceiling = match cluster.mode {
        Mode::Draining | Mode::Returning => format!(", at most {}% of its share", operation.percent),
        _ => String::new(),
    };
    let why = if operation.why.is_empty() { String::new() } else { format!(" ({})", operation.why) };
    format!("{} {}{ceiling}: {}{why}", cluster.name, cluster.mode, operation.message)
}

/// The lines that are new or different.
fn changes(before: &Cluster, now: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    if state_line(before) != state_line(now) {
        lines.push(state_line(now));
    }
    // What stands beside a new step is still the progress of the one before.
    if of_another_step(before, now) {
        return lines;
    }
    let nothing = Vec::new();
    let old = before.operation.as_ref().map_or(&nothing, |operation| &operation.progress);
    let new = now.operation.as_ref().map_or(&nothing, |operation| &operation.progress);
    let was = |one: &Progress| old.iter().find(|other| other.policy == one.policy);
    // Its message may hold times and counts that go on; a new reason or number is what is worth a line.
    let facts = |one: &Progress| (one.done, one.reason.clone(), one.programmed_weight, one.targets);
    let changed: Vec<&Progress> = new.iter().filter(|one| was(one).map(facts) != Some(facts(one))).collect();
    lines.extend(changed.iter().take(MOST_LINES).map(|one| progress_line(&now.name, one)));
    if let Some(more) = changed.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
        let done = changed[MOST_LINES..].iter().filter(|one| one.done).count();
        lines.push(format!("policies that changed beside these: {more}, of them done: {done}"));
    }
    lines
}

fn of_another_step(before: &Cluster, now: &Cluster) -> bool {
    let steps = before.operation.as_ref().zip(now.operation.as_ref());
    steps.is_some_and(|(before, now)| before.id == now.id && before.percent != now.percent && now.ended_at.is_none())
}

/// `shop/checkout: blue has weight 38 and 4 targets: Settling: the weights are being programmed, or settle`.
pub fn progress_line(cluster: &str, one: &Progress) -> String {
    // `-`: not in the rule, or not known.
    let weight = one.programmed_weight.map_or("-".to_owned(), |weight| weight.to_string());
    let state = format!("{}: {cluster} has weight {weight} and {}", one.policy, count(one.targets as usize, "target"));
    match (one.done, one.message.is_empty()) {
        (true, _) => format!("{state}: done"),
        (false, true) => format!("{state}: {}", one.reason),
        (false, false) => format!("{state}: {}: {}", one.reason, one.message),
    }
}

#[cfg(test)]
#[path = "cluster_wait_tests.rs"]
mod tests;
