//! When a wait is over: a machine without IO, fed with what the watch of the policy brings.
//!
//! A wait belongs to the policy VERSION that one call created. It ends when the condition is true of that version,
//! when that can never happen any more (superseded, deleted, refused), or when the caller's time is up.

use clap::ValueEnum;

use crate::{
    changes::{changes, condition_line, note_line},
    model::{Policy, Truth},
};

/// The three truths, in order: stored by the hub, read back from AWS, being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// Stored by the hub and found sound
    Accepted,
    /// Read back from the load balancer
    Programmed,
    /// Being served: settled at the load balancer
    Converged,
}

impl Goal {
    /// The condition type in the status.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Programmed => "Programmed",
            Self::Converged => "Converged",
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    True(Goal),
    Gone,
}

/// What the watch brings.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A picture begins: what was not in the last one may be in this one.
    Connected,
    /// The policy as it is now, from the first picture or as a change.
    Seen(Box<Policy>),
    /// The first picture is complete.
    Synced,
    /// This policy was deleted.
    Deleted(Box<Policy>),
    /// The hub does not know the policy.
    Unknown,
    /// The watch broke; it will be opened again.
    Lost(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Reached,
    /// Another change was accepted after ours; ours will never be the one that is served.
    Superseded(String),
    /// The policy is gone or going.
    Deleted(String),
    /// The hub found that this version cannot be accepted.
    Failed(String),
}

/// One wait. `step` consumes it, so that no observation is judged against a state that was left behind.
#[derive(Clone, Debug)]
pub struct Wait {
    until: Until,
    /// The answer to the call: names the version, the uid and the time that the wait belongs to.
    created: Policy,
    last: Option<Policy>,
    /// Whether the watch ever showed it: a watch may lag behind the answer, so absence before that says nothing.
    met: bool,
    in_picture: bool,
    connected: bool,
}

/// A wait after one step: lines for the progress and, when it is over, how it ended.
pub type Stepped = (Wait, Vec<String>, Option<Ending>);

impl Wait {
    /// A wait for what a call created. Its answer is the first look: what is true already needs no watch.
    pub fn start(until: Until, created: &Policy) -> Stepped {
        let wait = Self { until, created: created.clone(), last: None, met: false, in_picture: false, connected: true };
        wait.look(created.clone())
    }

    /// Takes one observation.
    pub fn step(mut self, observation: Observation) -> Stepped {
        match observation {
            Observation::Connected => {
                self.in_picture = false;
                let line = (!self.connected).then(|| "the hub answers again".to_owned());
                self.connected = true;
                (self, line.into_iter().collect(), None)
            }
            Observation::Lost(why) => {
                // Told once per outage: a hub that is away for an hour must not fill the log.
                let line = self.connected.then(|| format!("lost the hub, trying again: {why}"));
                self.connected = false;
                (self, line.into_iter().collect(), None)
            }
            Observation::Seen(policy) => {
                self.met = true;
                self.in_picture = true;
                self.look(*policy)
            }
            Observation::Synced if self.in_picture => (self, vec![], None),
            // The end of an older policy of the same name is no news of ours.
            Observation::Deleted(policy) if policy.uid != self.created.uid => (self, vec![], None),
            Observation::Deleted(_) => self.gone(),
            Observation::Synced | Observation::Unknown if self.met || self.until == Until::Gone => self.gone(),
            Observation::Synced | Observation::Unknown => (self, vec![], None),
        }
    }

    fn look(mut self, policy: Policy) -> Stepped {
        if is_older(&self.created, &policy) {
            return (self, vec![], None);
        }
        let lines = changes(self.last.as_ref(), &policy);
        let ending = judge(self.until, &self.created, &policy);
        self.last = Some(policy);
        (self, lines, ending)
    }

    fn gone(self) -> Stepped {
        let ending = match self.until {
            Until::Gone => Ending::Reached,
            Until::True(_) => Ending::Deleted("the policy was deleted".into()),
        };
        (self, vec![], Some(ending))
    }

    /// The last look at the policy.
    pub fn last(&self) -> Option<&Policy> {
        self.last.as_ref()
    }

    /// What it is waiting for at this moment, and why, in one line.
    pub fn pending(&self) -> String {
        let Some(policy) = &self.last else {
            return "the hub has not told the state of the policy yet".into();
        };
        let mut text = match self.until {
            Until::Gone if policy.deleting_since.is_some() => "the policy is being deleted".to_owned(),
            Until::Gone => "the policy is not marked for deletion yet".to_owned(),
            Until::True(goal) => match policy.condition(goal.condition()) {
                Some(condition) if condition.observed_version < self.created.version => format!(
                    "the hub has judged {} of version {} so far, not yet of version {}",
                    goal.condition(),
                    condition.observed_version,
                    self.created.version
                ),
                Some(condition) => condition_line(condition),
                None => format!("the hub has not judged {} yet", goal.condition()),
            },
        };
        for note in &policy.status.notes {
            text.push_str("; ");
            text.push_str(&note_line(note));
        }
        text
    }
}

/// A picture from before the call: a watch may begin with one.
fn is_older(created: &Policy, policy: &Policy) -> bool {
    if policy.uid == created.uid { policy.version < created.version } else { policy.created_at < created.created_at }
}

/// Whether one look at the policy, not older than `created`, ends the wait for it.
fn judge(until: Until, created: &Policy, policy: &Policy) -> Option<Ending> {
    let version = created.version;
    if policy.uid != created.uid {
        return Some(match until {
            Until::Gone => Ending::Reached,
            Until::True(_) => Ending::Deleted("the policy was deleted and created anew by another change".into()),
        });
    }
    match until {
        Until::Gone if policy.deleting_since.is_none() && policy.version > version => {
            Some(Ending::Superseded(format!("version {} keeps the policy", policy.version)))
        }
        Until::Gone => None,
        Until::True(goal) => judge_condition(goal, version, policy),
    }
}

fn judge_condition(goal: Goal, version: u64, policy: &Policy) -> Option<Ending> {
    // A later version's condition says nothing of ours, except while ours is still the present one.
    let ours = |kind: &str, status: Truth| {
        policy.condition(kind).filter(|condition| {
            let observed = condition.observed_version;
            condition.status == status && (observed == version || (observed > version && policy.version == version))
        })
    };
    if ours(goal.condition(), Truth::True).is_some() {
        return Some(Ending::Reached);
    }
    if policy.version > version {
        return Some(Ending::Superseded(format!("version {} was accepted after version {version}", policy.version)));
    }
    if policy.deleting_since.is_some() {
        return Some(Ending::Deleted("the policy is being deleted".into()));
    }
    // Only Accepted=False is final. A missing listener or a held step may still come right, so these wait on.
    ours("Accepted", Truth::False).map(|condition| Ending::Failed(condition_line(condition)))
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
