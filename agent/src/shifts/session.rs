//! The state machine of the stream of shifts: Offline, Hello, NotSource, Live.
//!
//! `step` takes the session, one input and the moment, and gives back what to do and the next session. No IO, no clock, no randomness.
//!
//! Rules:
//! - Resources are watched only while the hub takes them from this cluster.
//! - After each connect every resource that has not ended is told, then each change of a spec. The hub remembers each UID for good, so
//!   what is told twice is done once.
//! - A resource that has ended is never told again, whatever its spec says by then.
//! - That a resource is gone is not told: its shift goes on.
//! - An agent that has seen an epoch follows no hub with a smaller one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::status::ShiftStatus;
use crate::{
    backoff::Backoff,
    policies::objects::{Key, Resource, SourceEvent, Spec},
};

/// Time since some fixed moment of the process; only differences matter.
pub type Moment = Duration;

/// How long the hub may take to answer Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What the hub is told of a spec that is too large to be sent: it is no valid spec. The message for people is made here.
const NO_SPEC: &str = "null";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The time that `Session::wake_at` named has come, or there is room to write again.
    Tick,
    /// The watcher saw something.
    Source(SourceEvent<ShiftStatus>),
    /// The hub was reached and can be written to.
    Opened,
    /// The stream ended, or the hub could not be reached.
    Closed {
        /// Why.
        reason: String,
        /// The hub answered, and does not want this agent.
        refused: bool,
    },
    /// A message came.
    Received(Incoming),
    /// The stream is to be opened anew, with another certificate.
    Renewed,
}

/// A message from the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to Hello.
    Welcome {
        /// The hub's epoch.
        epoch: u64,
        /// It takes resources from this cluster.
        is_source: bool,
        /// For people: how to make it take them.
        message: String,
    },
    /// What a resource should show.
    Status {
        /// Where it is.
        key: Key,
        /// Which it is.
        uid: String,
        /// What.
        status: Box<ShiftStatus>,
    },
}

impl Incoming {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "welcome",
            Self::Status { .. } => "status",
        }
    }
}

/// A message to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// The first of a stream.
    Hello {
        /// The highest epoch of the hub seen so far.
        highest_epoch: u64,
    },
    /// A resource as it stands.
    Resource {
        /// Where it is.
        key: Key,
        /// Which it is.
        uid: String,
        /// The generation of its spec.
        generation: u64,
        /// Its spec as JSON.
        spec: Arc<str>,
    },
}

impl Outgoing {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Resource { .. } => "resource",
        }
    }
}

/// The circumstances of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    /// When it is.
    pub now: Moment,
    /// How many messages can be written without waiting.
    pub room: usize,
    /// A number from 0.0 to 1.0, new for each step.
    pub jitter: f64,
    /// The highest epoch that any stream of this agent has seen.
    pub highest_epoch: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Try to reach the hub; answer with `Opened` or `Closed`.
    Dial,
    /// Write this message. There is room for it.
    Send(Outgoing),
    /// Drop the stream. No `Closed` is expected for it.
    Drop,
    /// The stream is over: what the hub wanted shown is not known to be so any more.
    Lost,
    /// Watch the resources, or stop doing so.
    Watch(bool),
    /// The resource should show this.
    Show {
        /// Where it is.
        key: Key,
        /// Which it is.
        uid: String,
        /// What.
        status: Box<ShiftStatus>,
    },
    /// Worth a line in the log.
    Note(Note),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Without a hub.
    Offline {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The hub takes shifts from this cluster.
    Source {
        /// Its epoch.
        epoch: u64,
    },
    /// The hub takes none from this cluster.
    NotSource {
        /// The hub's words.
        message: String,
    },
}

/// The stream of shifts, over all of its connections.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    held: BTreeMap<Key, Held>,
    /// The list that is being read; it replaces `held` whole.
    staged: Option<BTreeMap<Key, Held>>,
    /// Not told on this stream as they are now.
    untold: BTreeSet<Key>,
    failing: Option<String>,
    highest_epoch: u64,
    backoff: Backoff,
}

#[derive(Debug)]
enum Stage {
    /// Without a stream; `retry_at` is None while the hub is being dialled.
    Offline { retry_at: Option<Moment> },
    /// Hello was sent.
    Hello { give_up_at: Moment },
    /// The hub takes nothing from here; the stream stays, for its end is the sign to ask again.
    NotSource,
    /// The hub hears of every resource.
    Live,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    uid: String,
    generation: u64,
    spec: Arc<str>,
    ended: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session that has not tried to reach the hub yet; the first `Tick` does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Offline { retry_at: Some(Duration::ZERO) },
            held: BTreeMap::new(),
            staged: None,
            untold: BTreeSet::new(),
            failing: None,
            highest_epoch: 0,
            backoff: Backoff::default(),
        }
    }

    /// One of the names in `metrics::RESOURCE_STAGES`.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Offline { .. } => "offline",
            Stage::Hello { .. } => "hello",
            Stage::NotSource => "not_source",
            Stage::Live => "live",
        }
    }

    /// The highest epoch of a hub that was followed.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// How many resources the cluster shows that have not ended.
    #[must_use]
    pub fn active(&self) -> usize {
        self.held.values().filter(|held| !held.ended).count()
    }

    /// True when the cluster shows this resource.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    /// Why the resources cannot be seen, when they cannot.
    #[must_use]
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// When the next `Tick` is due; None when only an input can bring it forward.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Offline { retry_at } => *retry_at,
            Stage::Hello { give_up_at } => Some(*give_up_at),
            Stage::NotSource | Stage::Live => None,
        }
    }

    /// True when something waits for room to be written; a `Tick` is due as soon as there is any.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        matches!(self.stage, Stage::Live) && !self.untold.is_empty()
    }

    /// Takes one step.
    #[must_use]
    pub fn step(mut self, input: Input, at: At) -> (Vec<Output>, Self) {
        let mut outputs = Vec::new();
        self.take(input, at, &mut outputs);
        self.go_on(at, &mut outputs);
        (outputs, self)
    }

    fn take(&mut self, input: Input, at: At, outputs: &mut Vec<Output>) {
        match (&self.stage, input) {
            (_, Input::Source(event)) => self.saw(event),
            (_, Input::Closed { reason, refused }) => self.offline(reason, refused, at, outputs),
            (Stage::Offline { .. }, Input::Renewed) => {}
            // As after a loss, but at once and for no fault.
            (_, Input::Renewed) => {
                outputs.extend([Output::Drop, Output::Lost]);
                self.stage = Stage::Offline { retry_at: Some(at.now) };
            }
            (Stage::Offline { .. }, Input::Opened) => {
                let highest_epoch = self.highest_epoch.max(at.highest_epoch);
                outputs.push(Output::Send(Outgoing::Hello { highest_epoch }));
                self.stage = Stage::Hello { give_up_at: at.now + HELLO_TIMEOUT };
            }
            (Stage::Hello { .. }, Input::Received(Incoming::Welcome { epoch, is_source, message })) => {
                self.welcomed(epoch, is_source, message, at, outputs);
            }
            (Stage::Hello { .. }, Input::Received(other)) => {
                self.abandon(format!("the hub answered Hello with {}", other.label()), true, at, outputs);
            }
            (Stage::Live, Input::Received(Incoming::Welcome { .. })) => {
                self.abandon("the hub sent a second Welcome".to_owned(), true, at, outputs);
            }
            (Stage::Live, Input::Received(Incoming::Status { key, uid, status })) => {
                // The hub works on what it was told: the next loss of the stream is a first one.
                self.backoff.reset();
                outputs.push(Output::Show { key, uid, status });
            }
            // Late words of a stream that was dropped, and words to an agent that is no source, change nothing.
            (_, Input::Tick | Input::Opened | Input::Received(_)) => {}
        }
    }

    fn saw(&mut self, event: SourceEvent<ShiftStatus>) {
        if !matches!(event, SourceEvent::Failing(_) | SourceEvent::ListStarted) {
            self.failing = None;
        }
        match event {
            SourceEvent::Failing(message) => self.failing = Some(message),
            SourceEvent::ListStarted => self.staged = Some(BTreeMap::new()),
            SourceEvent::Listed(resource) => {
                let (key, held) = keep(*resource);
                self.staged.get_or_insert_default().insert(key, held);
            }
            SourceEvent::ListDone => {
                let list = self.staged.take().unwrap_or_default();
                let gone: Vec<Key> = self.held.keys().filter(|key| !list.contains_key(key)).cloned().collect();
                for key in gone {
                    self.forget(&key);
                }
                for (key, held) in list {
                    self.hold(key, held);
                }
            }
            SourceEvent::Applied(resource) => {
                let (key, held) = keep(*resource);
                self.hold(key, held);
            }
            SourceEvent::Deleted { key, uid } => {
                if self.held.get(&key).is_some_and(|held| held.uid == uid) {
                    self.forget(&key);
                }
            }
            SourceEvent::Following => {}
        }
    }

    fn hold(&mut self, key: Key, held: Held) {
        let before = self.held.get(&key);
        let news = before.is_none_or(|before| before.uid != held.uid || before.generation != held.generation);
        if held.ended {
            self.untold.remove(&key);
        } else if news {
            self.untold.insert(key.clone());
        }
        self.held.insert(key, held);
    }

    fn forget(&mut self, key: &Key) {
        self.held.remove(key);
        self.untold.remove(key);
    }

    fn welcomed(&mut self, epoch: u64, is_source: bool, message: String, at: At, outputs: &mut Vec<Output>) {
        let highest = self.highest_epoch.max(at.highest_epoch);
        if epoch < highest {
            let reason = format!("the hub is at epoch {epoch}, and epoch {highest} was seen before");
            return self.abandon(reason, true, at, outputs);
        }
        self.highest_epoch = epoch;
        outputs.push(Output::Watch(is_source));
        if is_source {
            outputs.push(Output::Note(Note::Source { epoch }));
            self.untold = self.held.iter().filter(|(_, held)| !held.ended).map(|(key, _)| key.clone()).collect();
            self.stage = Stage::Live;
            return;
        }
        outputs.push(Output::Note(Note::NotSource { message }));
        // Nobody asks for them any more, and a later watch begins with a list.
        self.held.clear();
        self.staged = None;
        self.untold.clear();
        self.failing = None;
        self.backoff.reset();
        self.stage = Stage::NotSource;
    }

    /// What is due at this moment, whatever the input was.
    fn go_on(&mut self, at: At, outputs: &mut Vec<Output>) {
        match &self.stage {
            Stage::Offline { retry_at: Some(time) } if *time <= at.now => {
                outputs.push(Output::Dial);
                self.stage = Stage::Offline { retry_at: None };
            }
            Stage::Hello { give_up_at } if *give_up_at <= at.now => {
                let reason = format!("the hub did not answer Hello within {} s", HELLO_TIMEOUT.as_secs());
                self.abandon(reason, false, at, outputs);
            }
            Stage::Live => self.tell(at, outputs),
            Stage::Offline { .. } | Stage::Hello { .. } | Stage::NotSource => {}
        }
    }

    fn tell(&mut self, at: At, outputs: &mut Vec<Output>) {
        for _ in 0..at.room {
            let Some(key) = self.untold.pop_first() else { return };
            if let Some(held) = self.held.get(&key) {
                let Held { uid, generation, spec, .. } = held.clone();
                outputs.push(Output::Send(Outgoing::Resource { key, uid, generation, spec }));
            }
        }
    }

    /// Drops the stream.
    fn abandon(&mut self, reason: String, slowly: bool, at: At, outputs: &mut Vec<Output>) {
        outputs.push(Output::Drop);
        self.offline(reason, slowly, at, outputs);
    }

    fn offline(&mut self, reason: String, slowly: bool, at: At, outputs: &mut Vec<Output>) {
        if slowly {
            self.backoff.slow_down();
        }
        outputs.push(Output::Lost);
        let retry_in = self.backoff.next(at.jitter);
        outputs.push(Output::Note(Note::Offline { reason, retry_in }));
        self.stage = Stage::Offline { retry_at: Some(at.now + retry_in) };
    }
}

fn keep(resource: Resource<ShiftStatus>) -> (Key, Held) {
    let Resource { key, uid, generation, spec, status, .. } = resource;
    let spec = match spec {
        Spec::Text(text) => text,
        Spec::TooLarge { .. } => NO_SPEC.into(),
    };
    (key, Held { uid, generation, spec, ended: status.has_ended() })
}
