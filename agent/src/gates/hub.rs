//! What the hub said of targets, since when it says nothing, and what follows for one gate. Pure.
//!
//! While the hub is away (or has not yet said all after a reconnect) nothing that it said before is acted on: only the clock of its
//! absence counts. That clock, and the one of a policy that is not judged, runs on through reconnects that bring no verdict.

use std::collections::HashMap;

use super::objects::{Condition, HEALTHY, Health, Mode, Moment, PolicyHealth, PolicyKey, Target};

/// All that is known from the hub.
#[derive(Debug)]
pub struct Hub {
    /// Since when it is not heard in full; None while it is.
    away_since: Option<Moment>,
    policies: HashMap<PolicyKey, Policy>,
    /// What came since the last welcome, until the hub has said everything.
    fresh: Option<HashMap<PolicyKey, Policy>>,
}

#[derive(Debug)]
struct Policy {
    health: PolicyHealth,
    /// Since when nothing is judged.
    unjudged_since: Option<Moment>,
}

/// What should become of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It opens.
    Open(Condition),
    /// It stays shut, for the load balancer or the hub says so of this very pod.
    Shut(Condition),
    /// Nobody judges the pod: it stays shut for a while.
    Unjudged {
        /// Since when nobody does; None when that is only so for this pod.
        since: Option<Moment>,
        /// What it says until then.
        waits: Condition,
        /// What it says when it opens.
        opens: Condition,
    },
}

impl Hub {
    /// A hub that was never heard.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { away_since: Some(now), policies: HashMap::new(), fresh: None }
    }

    /// Since when the hub is not heard in full.
    #[must_use]
    pub fn away_since(&self) -> Option<Moment> {
        self.away_since
    }

    /// The policies of this cluster as the hub named them last, gone ones left out.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyHealth> {
        self.policies.values().map(|policy| &policy.health).filter(|health| health.mode != Mode::Gone)
    }

    /// True when this word decides otherwise than before whether new pods get the policy's gate. Targets come and go without that.
    #[must_use]
    pub fn changes_injection(&self, health: &PolicyHealth) -> bool {
        if self.fresh.is_some() || self.away_since.is_some() {
            // What was said before stands until everything was said.
            return false;
        }
        let injects = |health: &PolicyHealth| matches!(health.mode, Mode::Judged | Mode::Suspended);
        let known = self.policies.get(&health.policy).map(|policy| &policy.health);
        known.map_or(injects(health), |known| injects(known) != injects(health) || known.service != health.service)
    }

    /// A new stream begins: everything will be said anew.
    pub fn welcomed(&mut self) {
        self.fresh = Some(HashMap::new());
    }

    /// One policy's targets, whole.
    pub fn policy(&mut self, health: PolicyHealth, now: Moment) {
        let before = self.policies.get(&health.policy).and_then(|policy| policy.unjudged_since);
        let unjudged_since = match health.mode {
            Mode::Suspended => Some(before.or(self.away_since).unwrap_or(now)),
            Mode::Judged | Mode::Released | Mode::Gone => None,
        };
        let key = health.policy.clone();
        let policy = Policy { health, unjudged_since };
        match &mut self.fresh {
            Some(fresh) => fresh.insert(key, policy),
            None if policy.health.mode == Mode::Gone => self.policies.remove(&key),
            None => self.policies.insert(key, policy),
        };
    }

    /// The hub has said everything.
    pub fn synced(&mut self) {
        if let Some(fresh) = self.fresh.take() {
            self.policies = fresh;
            self.away_since = None;
        }
    }

    /// The stream is lost.
    pub fn lost(&mut self, now: Moment) {
        self.fresh = None;
        self.away_since.get_or_insert(now);
    }

    /// What should become of the gate of a pod.
    #[must_use]
    pub fn verdict(&self, policy: &PolicyKey, uid: &str) -> Verdict {
        if let Some(since) = self.away_since {
            let waits = "the hub is not heard; the gate opens by itself when that lasts";
            return Verdict::Unjudged {
                since: Some(since),
                waits: shut("HubAway", waits.to_owned()),
                opens: open(
                    "ReleasedHubAway",
                    "the hub was not heard for too long, so nobody judges this pod".to_owned(),
                ),
            };
        }
        let Some(known) = self.policies.get(policy) else { return without_policy(policy) };
        let health = &known.health;
        match health.mode {
            Mode::Gone => without_policy(policy),
            Mode::Released => {
                let message = or(&health.message, "the targets of this policy are not judged pod by pod");
                Verdict::Open(open(word(&health.reason, "NotJudged"), message))
            }
            Mode::Suspended => {
                let message = or(&health.message, "the targets of this policy are not judged now");
                Verdict::Unjudged {
                    since: known.unjudged_since,
                    opens: open("ReleasedSuspended", format!("not judged for too long: {message}")),
                    waits: shut(word(&health.reason, "Suspended"), message),
                }
            }
            Mode::Judged => judged(health.targets.get(uid), &health.message),
        }
    }
}

/// `note`: what the hub says of the cluster's targets, such as why one is not registered; empty when all is well.
fn judged(target: Option<&Target>, note: &str) -> Verdict {
    let why = if note.is_empty() { String::new() } else { format!(": {note}") };
    let not_registered = || shut("NotRegistered", format!("the pod is not registered with the load balancer yet{why}"));
    let Some(target) = target else {
        // Either it is not known yet, or it never will be: its Service does not select it, or has no such port.
        let never = "the hub knows of no such pod behind the policy's Service, so nobody judges this one";
        return Verdict::Unjudged {
            since: None,
            waits: not_registered(),
            opens: open("ReleasedNoTarget", never.to_owned()),
        };
    };
    let with_code = |text: &str| match target.code.as_str() {
        "" => text.to_owned(),
        code => format!("{text} ({code})"),
    };
    match target.health {
        Health::Healthy => Verdict::Open(open(HEALTHY, "the load balancer found the target healthy".to_owned())),
        Health::Unregistered => Verdict::Shut(not_registered()),
        Health::Initial => {
            Verdict::Shut(shut("TargetInitial", with_code("the load balancer checks the target for the first time")))
        }
        Health::Unhealthy => {
            Verdict::Shut(shut("TargetUnhealthy", with_code("the target fails the load balancer's health checks")))
        }
        Health::Unused => Verdict::Shut(shut("TargetUnused", with_code("the load balancer does not check the target"))),
        Health::Draining => {
            Verdict::Shut(shut("TargetDraining", with_code("the target is being taken out of the load balancer")))
        }
        Health::Unknown => {
            let message = with_code("what the load balancer says of the target is not known");
            Verdict::Unjudged {
                since: None,
                opens: open("ReleasedHealthUnknown", format!("not judged for too long: {message}")),
                waits: shut("HealthUnknown", message),
            }
        }
    }
}

fn without_policy(policy: &PolicyKey) -> Verdict {
    let message = format!("the hub has no policy {}/{} for this cluster", policy.namespace, policy.name);
    Verdict::Open(open("PolicyGone", message))
}

fn open(reason: impl Into<String>, message: String) -> Condition {
    Condition { open: true, reason: reason.into(), message }
}

fn shut(reason: impl Into<String>, message: String) -> Condition {
    Condition { open: false, reason: reason.into(), message }
}

/// The hub's word when it is one that a condition may have.
fn word(given: &str, otherwise: &str) -> String {
    const LONGEST: usize = 64;
    let is_word = given.len() <= LONGEST
        && given.starts_with(|first: char| first.is_ascii_alphabetic())
        && given.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { given.to_owned() } else { otherwise.to_owned() }
}

fn or(given: &str, otherwise: &str) -> String {
    if given.is_empty() { otherwise.to_owned() } else { given.to_owned() }
}
