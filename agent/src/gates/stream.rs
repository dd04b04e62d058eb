//! The state machine of the stream of target health: Offline, Dialling, Syncing, Synced. No IO, no clock, no randomness.
//!
//! An agent that has seen an epoch follows no hub with a smaller one. A stream that is silent for three heartbeats is dropped.

use std::{collections::HashMap, time::Duration};

use super::{
    machine::{At, Input as GateInput},
    objects::{Moment, PolicyHealth, Target},
};
use crate::backoff::Backoff;

/// Connection and first answer. The connection alone may take 5 s.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// Bounds on what the hub may ask for: below, any pause is taken for its end; above, a dead stream is noticed too late.
const HEARTBEAT_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Heartbeats that may be missing.
const SILENCE: u32 = 3;
/// Policies of one cluster, and targets of one policy; a hub that sends more is not taken at its word. About 100 bytes a target.
const MAX_POLICIES: usize = 10_000;
const MAX_TARGETS: usize = 20_000;

/// What the hub sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first.
    Welcome {
        /// The hub's epoch.
        epoch: u64,
        /// How often it gives a sign of life.
        heartbeat: Duration,
    },
    /// Targets of a policy.
    Policy {
        /// What is said of it.
        health: PolicyHealth,
        /// The next message goes on with the same policy.
        more: bool,
    },
    /// Every policy was named.
    Synced,
    /// A sign of life.
    Heartbeat,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A message came.
    Received(Message),
    /// The stream is over, or never was.
    Closed {
        /// Why.
        reason: String,
        /// The hub answered, and does not want this agent.
        refused: bool,
    },
    /// The stream is to be opened anew, with another certificate.
    Renewed,
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Open a stream and ask; an older one ends.
    Dial {
        /// For the request.
        highest_epoch: u64,
    },
    /// Drop the stream.
    Drop,
    /// Tell the gates.
    Tell(GateInput),
    /// For the log: there is no stream.
    Offline {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// For the log: everything was said.
    Synced {
        /// By the hub of this epoch.
        epoch: u64,
    },
}

/// The stream, over all of its connections.
#[derive(Debug)]
pub struct Stream {
    stage: Stage,
    highest_epoch: u64,
    backoff: Backoff,
}

#[derive(Debug)]
enum Stage {
    Offline { retry_at: Moment },
    Dialling { give_up_at: Moment },
    Following(Box<Following>),
}

#[derive(Debug)]
struct Following {
    silence: Duration,
    drop_at: Moment,
    synced: bool,
    /// A policy whose messages are not complete.
    partial: Option<PolicyHealth>,
    policies: usize,
}

impl Stream {
    /// A stream that was not dialled yet; the first `Tick` does.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { stage: Stage::Offline { retry_at: now }, highest_epoch: 0, backoff: Backoff::default() }
    }

    /// Another stream of this agent has followed this epoch.
    pub fn raise_epoch(&mut self, epoch: u64) {
        self.highest_epoch = self.highest_epoch.max(epoch);
    }

    /// The highest epoch that was followed.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// When the next `Tick` is due.
    #[must_use]
    pub fn wake_at(&self) -> Moment {
        match &self.stage {
            Stage::Offline { retry_at } => *retry_at,
            Stage::Dialling { give_up_at } => *give_up_at,
            Stage::Following(following) => following.drop_at,
        }
    }

    /// True while the hub has said everything.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        matches!(&self.stage, Stage::Following(following) if following.synced)
    }

    /// Takes in what happens, and says what to do.
    pub fn handle(&mut self, event: Event, at: At) -> Vec<Output> {
        match event {
            Event::Received(message) => self.received(message, at),
            Event::Closed { reason, refused } => {
                if matches!(self.stage, Stage::Offline { .. }) {
                    return Vec::new();
                }
                if refused {
                    self.backoff.slow_down();
                }
                self.offline(reason, at)
            }
            Event::Renewed if matches!(self.stage, Stage::Offline { .. }) => Vec::new(),
            // As after a loss, but at once and for no fault.
            Event::Renewed => vec![Output::Drop, Output::Tell(GateInput::Lost), self.dial(at)],
            Event::Tick if at.now < self.wake_at() => Vec::new(),
            Event::Tick => match &self.stage {
                Stage::Offline { .. } => vec![self.dial(at)],
                Stage::Dialling { .. } => self.drop_it("the hub did not answer in time".to_owned(), at),
                Stage::Following(_) => self.drop_it("the hub was silent for three heartbeats".to_owned(), at),
            },
        }
    }

    fn dial(&mut self, at: At) -> Output {
        self.stage = Stage::Dialling { give_up_at: at.now.saturating_add(WELCOME_TIMEOUT) };
        Output::Dial { highest_epoch: self.highest_epoch }
    }

    fn received(&mut self, message: Message, at: At) -> Vec<Output> {
        match (&mut self.stage, message) {
            (Stage::Dialling { .. }, Message::Welcome { epoch, heartbeat }) => self.welcomed(epoch, heartbeat, at),
            (Stage::Dialling { .. }, _) => self.drop_it("the hub spoke before its welcome".to_owned(), at),
            (Stage::Following(_), Message::Welcome { .. }) => self.drop_it("the hub welcomed twice".to_owned(), at),
            (Stage::Following(following), message) => {
                following.drop_at = at.now.saturating_add(following.silence);
                match following.take(message) {
                    Ok(None) => Vec::new(),
                    Ok(Some(GateInput::Synced)) => {
                        self.backoff.reset();
                        vec![Output::Tell(GateInput::Synced), Output::Synced { epoch: self.highest_epoch }]
                    }
                    Ok(Some(input)) => vec![Output::Tell(input)],
                    Err(reason) => self.drop_it(reason.to_owned(), at),
                }
            }
            // What was on its way when the stream was dropped.
            (Stage::Offline { .. }, _) => Vec::new(),
        }
    }

    fn welcomed(&mut self, epoch: u64, heartbeat: Duration, at: At) -> Vec<Output> {
        if epoch < self.highest_epoch {
            self.backoff.slow_down();
            let reason = format!("the hub has epoch {epoch}, and epoch {} was seen already", self.highest_epoch);
            return self.drop_it(reason, at);
        }
        self.highest_epoch = epoch;
        let silence = heartbeat.clamp(HEARTBEAT_BOUNDS.0, HEARTBEAT_BOUNDS.1) * SILENCE;
        let drop_at = at.now.saturating_add(silence);
        self.stage =
            Stage::Following(Box::new(Following { silence, drop_at, synced: false, partial: None, policies: 0 }));
        vec![Output::Tell(GateInput::Welcomed)]
    }

    fn drop_it(&mut self, reason: String, at: At) -> Vec<Output> {
        let mut outputs = vec![Output::Drop];
        outputs.extend(self.offline(reason, at));
        outputs
    }

    fn offline(&mut self, reason: String, at: At) -> Vec<Output> {
        let retry_in = self.backoff.next(at.jitter);
        self.stage = Stage::Offline { retry_at: at.now.saturating_add(retry_in) };
        vec![Output::Tell(GateInput::Lost), Output::Offline { reason, retry_in }]
    }
}

impl Following {
    fn take(&mut self, message: Message) -> Result<Option<GateInput>, &'static str> {
        match message {
            Message::Heartbeat | Message::Welcome { .. } => Ok(None),
            Message::Policy { health, more } => self.policy(health, more),
            Message::Synced if self.partial.is_some() => Err("the hub left a policy's targets incomplete"),
            Message::Synced if self.synced => Ok(None),
            Message::Synced => {
                self.synced = true;
                Ok(Some(GateInput::Synced))
            }
        }
    }

    fn policy(&mut self, health: PolicyHealth, more: bool) -> Result<Option<GateInput>, &'static str> {
        let whole = match self.partial.take() {
            None => health,
            Some(partial) if partial.policy == health.policy => merge(partial, health.targets),
            Some(_) => return Err("the hub left a policy's targets incomplete"),
        };
        if whole.targets.len() > MAX_TARGETS {
            return Err("the hub sent more targets of one policy than can be");
        }
        if more {
            self.partial = Some(whole);
            return Ok(None);
        }
        if !self.synced {
            self.policies += 1;
        }
        if self.policies > MAX_POLICIES {
            return Err("the hub sent more policies of one cluster than can be");
        }
        Ok(Some(GateInput::Policy(whole)))
    }
}

fn merge(mut whole: PolicyHealth, targets: HashMap<String, Target>) -> PolicyHealth {
    for (uid, target) in targets {
        let known = whole.targets.entry(uid).or_insert_with(|| target.clone());
        if target.health > known.health {
            *known = target;
        }
    }
    whole
}
