//! Decides what every gate's condition should say, and what is written next. No IO, no clock, no randomness.
//!
//! Rules:
//! - A gate that opened is never shut again: the load balancer stops requests to a sick target by itself, while pods that lose their
//!   readiness leave every Service, and one bad health check would empty all of them.
//! - A gate opens when its target is healthy, when the hub says that it is of no use, or when nobody judges it for
//!   `release_after`. That clock runs only while the pod's containers are ready: a pod that is not ready anyway can wait to be judged.
//! - The first word on every gate is written at once, so that `kubectl describe pod` tells why the pod waits.
//! - Only pods with a gate that is not open are kept.
//! - At most `parallel` writes are under way, those that open first. What is written is settled when its turn comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    hub::{Hub, Verdict},
    objects::{Condition, GateId, GatedPod, Mode, Moment, Outcome, Patch, PolicyHealth, PolicyKey, Seen},
};
use crate::backoff::Backoff;

/// How long a namespace rests in which writing is forbidden. Permissions come by hand.
const FORBIDDEN_REST: Duration = Duration::from_secs(5);
/// A hub that is away, or judges nothing, for less than this is not worth a write on every pod that waits.
const SHORT: Duration = Duration::from_secs(10);
/// How long a watch may take to show what was written before it is written again. It costs nothing when it stands already.
const CONFIRM: Duration = Duration::from_secs(20);

/// Times and bounds.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long nobody may judge a pod.
    pub release_after: Duration,
    /// Writes at once.
    pub parallel: usize,
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// A pod with gates is there, or changed.
    Pod(GatedPod),
    /// A pod is gone, ends, or carries no gate.
    PodGone {
        /// Its UID.
        uid: String,
    },
    /// A stream to the hub begins.
    Welcomed,
    /// The hub says how the targets of a policy stand.
    Policy(PolicyHealth),
    /// The hub has named every policy.
    Synced,
    /// The stream is lost.
    Lost,
    /// What came of a write.
    Patched(GateId, Outcome),
    /// Time passed.
    Tick,
}

/// The moment, and the dice.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Now.
    pub now: Moment,
    /// Uniform in 0.0..=1.0.
    pub jitter: f64,
}

/// All gates that wait, and all that is known from the hub.
#[derive(Debug)]
pub struct Gates {
    settings: Settings,
    hub: Hub,
    pods: BTreeMap<String, Pod>,
    by_policy: BTreeMap<PolicyKey, BTreeSet<String>>,
    /// Gates whose condition should be written, those that open first.
    due: BTreeSet<(Urgency, GateId)>,
    in_flight: usize,
    /// Namespaces without leave to write, and when to try again.
    held: BTreeMap<String, Moment>,
    /// Namespaces in which the last word on writing was no.
    forbidden: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Opens,
    Explains,
}

#[derive(Debug)]
struct Pod {
    namespace: String,
    name: String,
    containers_ready: bool,
    gates: BTreeMap<String, Gate>,
}

#[derive(Debug)]
struct Gate {
    seen: Seen,
    /// What was written last, as far as is known.
    wrote: Option<Condition>,
    /// Set for good once the open gate was on its way to the API server.
    opened: Option<Condition>,
    /// An open gate was written, or may have been.
    stands_open: bool,
    /// Since when nobody judges this gate of a pod with ready containers.
    unjudged_since: Option<Moment>,
    in_flight: Option<Condition>,
    retry_at: Option<Moment>,
    backoff: Backoff,
    /// When to look again.
    wake: Option<Moment>,
}

impl Gate {
    fn new(seen: Seen) -> Self {
        Self {
            seen,
            wrote: None,
            opened: None,
            stands_open: false,
            unjudged_since: None,
            in_flight: None,
            retry_at: None,
            backoff: Backoff::default(),
            wake: None,
        }
    }

    /// What it should say now; sets when to look again.
    fn want(&mut self, verdict: Verdict, containers_ready: bool, release_after: Duration, now: Moment) -> Condition {
        self.wake = None;
        // The clock goes on also while the gate is being opened: that may yet be refused.
        let want = self.judge(verdict, containers_ready, release_after, now);
        if let Some(opened) = &self.opened {
            self.wake = None;
            return opened.clone();
        }
        want
    }

    fn judge(&mut self, verdict: Verdict, containers_ready: bool, release_after: Duration, now: Moment) -> Condition {
        match verdict {
            Verdict::Open(condition) | Verdict::Shut(condition) => {
                self.unjudged_since = None;
                condition
            }
            Verdict::Unjudged { waits, .. } if !containers_ready => {
                self.unjudged_since = None;
                waits
            }
            Verdict::Unjudged { since, waits, opens } => {
                let own = *self.unjudged_since.get_or_insert(now);
                let end = since.unwrap_or(own).min(own).saturating_add(release_after);
                let told_until = since.map(|since| since.saturating_add(SHORT)).filter(|until| now < *until);
                match (&self.wrote, told_until) {
                    _ if now >= end => opens,
                    (Some(wrote), Some(until)) if !wrote.open => {
                        self.wake = Some(end.min(until));
                        wrote.clone()
                    }
                    _ => {
                        self.wake = Some(end);
                        waits
                    }
                }
            }
        }
    }
}

impl Gates {
    /// No pod is known, and the hub was never heard.
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            hub: Hub::new(now),
            pods: BTreeMap::new(),
            by_policy: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: 0,
            held: BTreeMap::new(),
            forbidden: BTreeSet::new(),
        }
    }

    /// How many gates are not open.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pods.values().map(|pod| pod.gates.len()).sum()
    }

    /// The policies whose gates new pods should carry: none when the hub is away for so long that gates open by themselves, and none
    /// in a namespace where a pod waits for a gate that the agent may not open.
    pub fn injected(&self, now: Moment) -> impl Iterator<Item = &PolicyHealth> {
        let away = self.hub.away_since().is_some_and(|since| now >= since.saturating_add(self.settings.release_after));
        let policies = self.hub.policies().filter(move |_| !away);
        let waits = |namespace: &&String| self.pods.values().any(|pod| pod.namespace == **namespace);
        let stuck: BTreeSet<&String> = self.forbidden.iter().filter(waits).collect();
        let policies = policies.filter(move |health| !stuck.contains(&health.policy.namespace));
        policies.filter(|health| matches!(health.mode, Mode::Judged | Mode::Suspended))
    }

    /// See [`Hub::changes_injection`]; to be asked before the input is handled.
    #[must_use]
    pub fn changes_injection(&self, input: &Input) -> bool {
        match input {
            Input::Synced => true,
            Input::Policy(health) => self.hub.changes_injection(health),
            Input::Pod(_)
            | Input::PodGone { .. }
            | Input::Welcomed
            | Input::Lost
            | Input::Patched(..)
            | Input::Tick => false,
        }
    }

    /// When the next `Tick` is due; None when only an input can bring anything about.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        let gates = self.pods.values().flat_map(|pod| pod.gates.values());
        let own = gates.flat_map(|gate| [gate.wake, gate.retry_at.filter(|_| gate.in_flight.is_none())]).flatten();
        own.chain(self.held.values().copied()).min()
    }

    /// Takes in what happens, and says what is to be written.
    pub fn handle(&mut self, input: Input, at: At) -> Vec<Patch> {
        let now = at.now;
        match input {
            Input::Pod(pod) => self.pod(pod, now),
            Input::PodGone { uid } => self.forget(&uid),
            Input::Welcomed => self.hub.welcomed(),
            Input::Policy(health) => {
                let policy = health.policy.clone();
                self.hub.policy(health, now);
                if self.hub.away_since().is_none() {
                    self.judge_policy(&policy, now);
                }
            }
            Input::Synced => {
                self.hub.synced();
                self.judge_all(now);
            }
            Input::Lost => {
                self.hub.lost(now);
                self.judge_all(now);
            }
            Input::Patched(gate, outcome) => self.patched(&gate, outcome, at),
            Input::Tick => self.tick(now),
        }
        self.emit(now)
    }

    fn pod(&mut self, seen: GatedPod, now: Moment) {
        let pod = self.pods.entry(seen.uid.clone()).or_insert_with(|| Pod {
            namespace: seen.namespace.clone(),
            name: seen.name.clone(),
            containers_ready: false,
            gates: BTreeMap::new(),
        });
        pod.containers_ready = seen.containers_ready;
        for (policy, shows) in seen.gates {
            let gate = GateId { uid: seen.uid.clone(), policy: policy.clone() };
            if shows == Seen::Open {
                pod.gates.remove(&policy);
                unlist(&mut self.by_policy, &mut self.due, &seen.namespace, &gate);
            } else {
                pod.gates.entry(policy.clone()).or_insert_with(|| Gate::new(shows)).seen = shows;
                let key = PolicyKey { namespace: seen.namespace.clone(), name: policy };
                self.by_policy.entry(key).or_default().insert(seen.uid.clone());
            }
        }
        if pod.gates.is_empty() {
            self.pods.remove(&seen.uid);
        } else {
            self.judge_pod(&seen.uid, now);
        }
    }

    fn forget(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            for policy in pod.gates.into_keys() {
                let gate = GateId { uid: uid.to_owned(), policy };
                unlist(&mut self.by_policy, &mut self.due, &pod.namespace, &gate);
            }
        }
    }

    fn patched(&mut self, id: &GateId, outcome: Outcome, at: At) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if outcome == Outcome::PodGone {
            self.forget(&id.uid);
            return;
        }
        let Some(pod) = self.pods.get_mut(&id.uid) else { return };
        let Some(gate) = pod.gates.get_mut(&id.policy) else { return };
        let sent = gate.in_flight.take();
        let arrived = matches!(outcome, Outcome::Written | Outcome::Failed(_));
        gate.stands_open |= arrived && sent.as_ref().is_some_and(|sent| sent.open);
        match outcome {
            Outcome::Written => {
                gate.wrote = sent;
                gate.backoff.reset();
                gate.retry_at = Some(at.now.saturating_add(CONFIRM)).filter(|_| gate.opened.is_some());
                self.held.remove(&pod.namespace);
                self.forbidden.remove(&pod.namespace);
            }
            Outcome::Forbidden(_) => {
                // What was sent did not arrive, and neither will the next: the namespace waits as one.
                self.held.insert(pod.namespace.clone(), at.now.saturating_add(FORBIDDEN_REST));
                self.forbidden.insert(pod.namespace.clone());
                gate.opened = gate.opened.take().filter(|_| gate.stands_open);
            }
            Outcome::Failed(_) | Outcome::PodGone => {
                // It may have arrived all the same.
                gate.wrote = None;
                gate.retry_at = Some(at.now.saturating_add(gate.backoff.next(at.jitter)));
            }
        }
        self.judge_pod(&id.uid, at.now);
    }

    fn tick(&mut self, now: Moment) {
        let is_due = |moment: Option<Moment>| moment.is_some_and(|moment| moment <= now);
        let mut touched = Vec::new();
        for (uid, pod) in &mut self.pods {
            let mut touch = false;
            for gate in pod.gates.values_mut() {
                touch |= is_due(gate.wake);
                if gate.in_flight.is_none() && is_due(gate.retry_at) {
                    // What was written is not seen after all this time: it counts as not written.
                    gate.retry_at = None;
                    gate.wrote = None;
                    touch = true;
                }
            }
            if touch {
                touched.push(uid.clone());
            }
        }
        for uid in touched {
            self.judge_pod(&uid, now);
        }
    }

    fn judge_all(&mut self, now: Moment) {
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.judge_pod(&uid, now);
        }
    }

    fn judge_policy(&mut self, policy: &PolicyKey, now: Moment) {
        for uid in self.by_policy.get(policy).cloned().unwrap_or_default() {
            self.judge_pod(&uid, now);
        }
    }

    /// Puts the pod's gates into or out of what is due.
    fn judge_pod(&mut self, uid: &str, now: Moment) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        for (policy, gate) in &mut pod.gates {
            let key = PolicyKey { namespace: pod.namespace.clone(), name: policy.clone() };
            let verdict = self.hub.verdict(&key, uid);
            let want = gate.want(verdict, pod.containers_ready, self.settings.release_after, now);
            let id = GateId { uid: uid.to_owned(), policy: policy.clone() };
            self.due.remove(&(Urgency::Opens, id.clone()));
            self.due.remove(&(Urgency::Explains, id.clone()));
            let waits = gate.in_flight.is_some() || (gate.wrote.is_none() && gate.retry_at.is_some());
            if !waits && gate.wrote.as_ref() != Some(&want) {
                let urgency = if want.open { Urgency::Opens } else { Urgency::Explains };
                self.due.insert((urgency, id));
            }
        }
    }

    fn emit(&mut self, now: Moment) -> Vec<Patch> {
        self.held.retain(|_, until| *until > now);
        let room = self.settings.parallel.saturating_sub(self.in_flight);
        let may_write =
            |gate: &GateId| self.pods.get(&gate.uid).is_some_and(|pod| !self.held.contains_key(&pod.namespace));
        let next: Vec<_> = self.due.iter().filter(|(_, gate)| may_write(gate)).take(room).cloned().collect();
        let patches = next.iter().filter_map(|(_, gate)| self.write(gate, now)).collect();
        for entry in next {
            self.due.remove(&entry);
        }
        patches
    }

    fn write(&mut self, id: &GateId, now: Moment) -> Option<Patch> {
        let pod = self.pods.get_mut(&id.uid)?;
        let gate = pod.gates.get_mut(&id.policy)?;
        let key = PolicyKey { namespace: pod.namespace.clone(), name: id.policy.clone() };
        let verdict = self.hub.verdict(&key, &id.uid);
        let condition = gate.want(verdict, pod.containers_ready, self.settings.release_after, now);
        let shows_closed = gate.seen == Seen::Closed || gate.wrote.as_ref().is_some_and(|wrote| !wrote.open);
        let transition = condition.open || !shows_closed;
        if condition.open {
            gate.opened = Some(condition.clone());
        }
        gate.in_flight = Some(condition.clone());
        gate.retry_at = None;
        self.in_flight += 1;
        Some(Patch {
            gate: id.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            condition,
            transition,
        })
    }
}

/// Takes a gate out of the lists; what is under way for it is still counted until its outcome comes.
fn unlist(
    by_policy: &mut BTreeMap<PolicyKey, BTreeSet<String>>,
    due: &mut BTreeSet<(Urgency, GateId)>,
    namespace: &str,
    gate: &GateId,
) {
    due.remove(&(Urgency::Opens, gate.clone()));
    due.remove(&(Urgency::Explains, gate.clone()));
    let key = PolicyKey { namespace: namespace.to_owned(), name: gate.policy.clone() };
    if let Some(uids) = by_policy.get_mut(&key) {
        uids.remove(&gate.uid);
        if uids.is_empty() {
            by_policy.remove(&key);
        }
    }
}
