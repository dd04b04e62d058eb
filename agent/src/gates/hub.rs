//! What the hub said of targets, since when it says nothing, and what follows for one gate. Pure.
//!
//! While the hub is away (or has not yet said all after a reconnect) nothing that it said before is acted on: only the clock of its
//! absence counts. That clock, and the one of a policy that is not judged, runs on through reconnects that bring no verdict.

use std::collections::HashMap;

use super::objects::{Condition, Health, Mode, Moment, PolicyHealth, PolicyKey, Target};

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

/// What should become of a gate now, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the condition should say.
    pub condition: Condition,
    /// The clock that opens it; None when no clock runs.
    pub until: Option<Moment>,
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

    /// What should become of the gate of a pod. `release_after` is how long nobody may judge.
    #[must_use]
    pub fn verdict(
        &self,
        policy: &PolicyKey,
        uid: &str,
        containers_ready: bool,
        release_after: Moment,
        now: Moment,
    ) -> Verdict {
        let seconds = release_after.as_secs();
        if let Some(since) = self.away_since {
            let clock = Clock { since, release_after, containers_ready, now };
            return clock.verdict(
                closed("HubAway", format!("the hub is not heard; the gate opens when it stays away for {seconds} s")),
                "ReleasedHubAway",
                format!("the hub was not heard for {seconds} s, so nobody judges this pod"),
            );
        }
        let Some(known) = self.policies.get(policy) else { return released_without_policy(policy) };
        let health = &known.health;
        match health.mode {
            Mode::Gone => released_without_policy(policy),
            Mode::Released => {
                let message = or(&health.message, "the targets of this policy are not judged pod by pod");
                now_and_for_ever(open(word(&health.reason, "NotJudged"), message))
            }
            Mode::Suspended => {
                let message = or(&health.message, "the targets of this policy are not judged now");
                let clock =
                    Clock { since: known.unjudged_since.unwrap_or(now), release_after, containers_ready, now };
                let opened = format!("not judged for {seconds} s: {message}");
                let waits = closed(word(&health.reason, "Suspended"), message);
                clock.verdict(waits, "ReleasedSuspended", opened)
            }
            Mode::Judged => now_and_for_ever(judged(health.targets.get(uid))),
        }
    }
}

/// A wait that ends by itself.
struct Clock {
    since: Moment,
    release_after: Moment,
    containers_ready: bool,
    now: Moment,
}

impl Clock {
    /// A pod whose containers are not ready is not ready with an open gate either; its gate stays shut, so that it is judged
    /// should the hub return first.
    fn verdict(&self, waits: Condition, reason: &'static str, message: String) -> Verdict {
        let end = self.since.saturating_add(self.release_after);
        match (self.containers_ready, self.now >= end) {
            (true, true) => now_and_for_ever(open(reason.to_owned(), message)),
            (true, false) => Verdict { condition: waits, until: Some(end) },
            (false, _) => Verdict { condition: waits, until: None },
        }
    }
}

fn judged(target: Option<&Target>) -> Condition {
    let Some(target) = target else { return not_registered() };
    let with_code = |text: &str| match target.code.as_str() {
        "" => text.to_owned(),
        code => format!("{text} ({code})"),
    };
    match target.health {
        Health::Healthy => open("TargetHealthy".to_owned(), "the load balancer found the target healthy".to_owned()),
        Health::Unregistered => not_registered(),
        Health::Initial => closed("TargetInitial", with_code("the load balancer checks the target for the first time")),
        Health::Unhealthy => closed("TargetUnhealthy", with_code("the target fails the load balancer's health check")),
        Health::Unused => closed("TargetUnused", with_code("the load balancer does not check the target")),
        Health::Draining => closed("TargetDraining", with_code("the target is being taken out of the load balancer")),
        Health::Unknown => closed("HealthUnknown", with_code("what the load balancer says of the target is not known")),
    }
}

fn not_registered() -> Condition {
    closed("NotRegistered", "the pod is not registered with the load balancer yet".to_owned())
}

fn released_without_policy(policy: &PolicyKey) -> Verdict {
    let message = format!("the hub has no policy {}/{} for this cluster", policy.namespace, policy.name);
    now_and_for_ever(open("PolicyGone".to_owned(), message))
}

fn now_and_for_ever(condition: Condition) -> Verdict {
    Verdict { condition, until: None }
}

fn open(reason: String, message: String) -> Condition {
    Condition { open: true, reason, message }
}

fn closed(reason: impl Into<String>, message: String) -> Condition {
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
