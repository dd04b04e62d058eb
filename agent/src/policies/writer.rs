//! Which status is written to which resource, and when. Pure: `driver` makes the calls and reports what became of them.
//!
//! Rules:
//! - A status is written only while the hub says it on a stream that stands, and only when the resource shows something else.
//! - A write names the version of the resource that this was decided by. So of two agents of one cluster (a rolling update) the later
//!   word never overwrites what it has not seen: it gets a conflict, looks again, and mostly finds nothing left to do.
//! - One write at a time and one a second for each resource; what comes in between waits, the newest only.
//! - Events go with a write that succeeded, so that one change is told once, by one agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    events::{Draft, Pacer},
    objects::{Key, Resource, Shown, Spec},
    status::ResourceStatus,
};
use crate::backoff::Backoff;

/// Time since some fixed moment of the process.
type Moment = Duration;

/// Time between two writes of one resource: target counts move several times a second in a rollout.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after a conflict the same version is tried again, should the watch bring no newer one.
const CONFLICT_PAUSE: Duration = Duration::from_secs(10);
/// Writes at a time over all resources. Few: a hub that starts anew gives every resource a status at once.
const MAX_WRITES: usize = 4;

/// The statuses that the resources of the cluster show, and should show.
#[derive(Debug)]
pub struct Writer<S = ResourceStatus> {
    entries: BTreeMap<Key, Entry<S>>,
    /// Those with something to do, now or at some time. The others, mostly all of them, are not looked at.
    restless: BTreeSet<Key>,
    writes: usize,
}

#[derive(Debug)]
struct Entry<S> {
    uid: String,
    version: String,
    shown: S,
    /// Bytes of a spec that cannot be sent to the hub.
    too_large: Option<usize>,
    wanted: Option<Arc<S>>,
    /// The resource shows something else than is wanted: found out when either changes, since comparing is work.
    differs: bool,
    writing: Option<Writing<S>>,
    /// What was written, and what the API server made of it, where that is not the same: an older resource definition does not know
    /// every field. Written again only when either side changes.
    curtailed: Option<(Arc<S>, S)>,
    not_before: Moment,
    /// The version that a conflict proved to be old.
    outdated: Option<String>,
    backoff: Backoff,
    pacer: Pacer,
    /// Events to be written now.
    drafts: Vec<Draft>,
}

/// A write under way.
#[derive(Debug)]
struct Writing<S> {
    status: Arc<S>,
    /// What the resource showed before: the watch may bring the new status before the call is answered.
    before: S,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<S = ResourceStatus> {
    /// Write this status; answer with `written`.
    Write {
        /// Where.
        key: Key,
        /// To this resource only.
        uid: String,
        /// In this version only.
        version: String,
        /// What.
        status: Arc<S>,
    },
    /// Write this Event. No answer is expected.
    Tell {
        /// About which resource.
        key: Key,
        /// Which it is.
        uid: String,
        /// What it says.
        draft: Draft,
    },
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<S = ResourceStatus> {
    /// Done; this is the resource now.
    Written(Box<Resource<S>>),
    /// The resource is another or has another version.
    Conflict,
    /// The resource is not there any more.
    Gone,
    /// The agent has no leave to do this.
    Forbidden(String),
    /// Anything else.
    Failed(String),
}

impl<S> Outcome<S> {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Written(_) => "written",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Forbidden(_) => "forbidden",
            Self::Failed(_) => "failed",
        }
    }

    /// What went wrong, where somebody has to do something about it.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Forbidden(error) | Self::Failed(error) => Some(error),
            Self::Written(_) | Self::Conflict | Self::Gone => None,
        }
    }
}

impl<S> Default for Writer<S> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), restless: BTreeSet::new(), writes: 0 }
    }
}

impl<S: Shown> Writer<S> {
    /// The cluster shows this resource.
    pub fn saw(&mut self, resource: &Resource<S>) {
        match self.entries.get_mut(&resource.key) {
            Some(entry) if entry.uid == resource.uid => entry.saw(resource),
            _ => {
                // A write that is under way for the resource before it still ends, with an answer.
                let entry = Entry::new(resource);
                if let Some(old) = self.entries.insert(resource.key.clone(), entry)
                    && old.writing.is_some()
                {
                    self.writes -= 1;
                }
            }
        }
        self.look_at(&resource.key);
    }

    /// The resource is gone.
    pub fn gone(&mut self, key: &Key, uid: &str) {
        self.keep(|known, entry| known != key || entry != uid);
    }

    /// A list is complete: only these are left.
    pub fn retain(&mut self, holds: impl Fn(&Key) -> bool) {
        self.keep(|key, _| holds(key));
    }

    fn keep(&mut self, keep: impl Fn(&Key, &str) -> bool) {
        let writes = &mut self.writes;
        self.entries.retain(|key, entry| {
            let kept = keep(key, &entry.uid);
            if !kept && entry.writing.is_some() {
                *writes -= 1;
            }
            kept
        });
        let entries = &self.entries;
        self.restless.retain(|key| entries.contains_key(key));
    }

    /// Finds out whether there is something to do for a resource, after something about it has changed.
    fn look_at(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.differs = entry.shows_something_else();
        if entry.is_restless() {
            self.restless.insert(key.clone());
        } else {
            self.restless.remove(key);
        }
    }

    /// The hub says what a resource should show. Another resource of the same name is not touched.
    pub fn show(&mut self, key: &Key, uid: &str, status: S) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.uid == uid) {
            let status = match entry.too_large {
                Some(bytes) => status.of_too_large(bytes),
                None => status,
            };
            entry.wanted = Some(Arc::new(status));
            self.look_at(key);
        }
    }

    /// The stream is over: another agent may be the one that knows now.
    pub fn lost(&mut self) {
        for entry in self.entries.values_mut() {
            entry.wanted = None;
            entry.differs = false;
        }
        let entries = &self.entries;
        self.restless.retain(|key| entries.get(key).is_some_and(Entry::is_restless));
    }

    /// What became of a write. `jitter` is uniform in 0.0..=1.0.
    pub fn written(&mut self, key: &Key, uid: &str, outcome: Outcome<S>, now: Moment, jitter: f64) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.uid == uid) else { return };
        let Some(writing) = entry.writing.take() else { return };
        self.writes -= 1;
        match outcome {
            Outcome::Written(resource) => entry.succeeded(&writing, &resource, now),
            Outcome::Conflict => {
                entry.outdated = Some(entry.version.clone());
                entry.not_before = now + CONFLICT_PAUSE;
            }
            // The watcher says so, too; until then it is as good as a conflict.
            Outcome::Gone => entry.not_before = now + CONFLICT_PAUSE,
            Outcome::Forbidden(_) | Outcome::Failed(_) => {
                entry.not_before = now + entry.backoff.next(jitter).max(PAUSE);
            }
        }
        self.look_at(key);
    }

    /// Everything whose time has come.
    pub fn due(&mut self, now: Moment) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        let (entries, writes) = (&mut self.entries, &mut self.writes);
        self.restless.retain(|key| {
            let Some(entry) = entries.get_mut(key) else { return false };
            actions.extend(entry.due(key, now, writes));
            entry.is_restless()
        });
        actions
    }

    /// When something is due next; None when only news can bring it forward.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        // With every place taken, the answer to a write is what goes on.
        let has_place = self.writes < MAX_WRITES;
        let wake = |entry: &Entry<S>| {
            let write = (has_place && entry.differs && entry.writing.is_none()).then_some(entry.not_before);
            let tell = if entry.drafts.is_empty() { entry.pacer.wake_at() } else { Some(Moment::ZERO) };
            [write, tell].into_iter().flatten().min()
        };
        self.restless.iter().filter_map(|key| wake(self.entries.get(key)?)).min()
    }
}

impl<S: Shown> Entry<S> {
    fn new(resource: &Resource<S>) -> Self {
        Self {
            uid: resource.uid.clone(),
            version: resource.resource_version.clone(),
            shown: resource.status.clone(),
            too_large: too_large(resource),
            wanted: None,
            differs: false,
            writing: None,
            curtailed: None,
            not_before: Moment::ZERO,
            outdated: None,
            backoff: Backoff::default(),
            pacer: Pacer::default(),
            drafts: Vec::new(),
        }
    }

    fn saw(&mut self, resource: &Resource<S>) {
        if is_older(&resource.resource_version, &self.version) {
            return;
        }
        self.version.clone_from(&resource.resource_version);
        self.shown.clone_from(&resource.status);
        self.too_large = too_large(resource);
        if self.outdated.as_ref().is_some_and(|outdated| *outdated != self.version) {
            // What the conflict waited for.
            self.outdated = None;
            self.not_before = Moment::ZERO;
        }
    }

    fn succeeded(&mut self, Writing { status, before }: &Writing<S>, resource: &Resource<S>, now: Moment) {
        for draft in S::events(before, status) {
            self.drafts.extend(self.pacer.admit(draft, now));
        }
        self.backoff.reset();
        self.saw(resource);
        self.curtailed = (!resource.status.shows(status)).then(|| (status.clone(), resource.status.clone()));
    }

    fn due(&mut self, key: &Key, now: Moment, writes: &mut usize) -> Vec<Action<S>> {
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.extend(self.pacer.due(now));
        let tell = |draft| Action::Tell { key: key.clone(), uid: self.uid.clone(), draft };
        let mut actions: Vec<Action<S>> = drafts.into_iter().map(tell).collect();
        let may_write = self.differs && self.writing.is_none() && *writes < MAX_WRITES && self.not_before <= now;
        if let Some(status) = self.wanted.clone().filter(|_| may_write) {
            *writes += 1;
            self.writing = Some(Writing { status: status.clone(), before: self.shown.clone() });
            self.not_before = now + PAUSE;
            let (uid, version) = (self.uid.clone(), self.version.clone());
            actions.push(Action::Write { key: key.clone(), uid, version, status });
        }
        actions
    }

    fn is_restless(&self) -> bool {
        self.differs || !self.drafts.is_empty() || self.pacer.wake_at().is_some()
    }

    fn shows_something_else(&self) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        let curtailed = self.curtailed.as_ref().is_some_and(|(asked, got)| asked == wanted && *got == self.shown);
        !curtailed && !self.shown.shows(wanted)
    }
}

fn too_large<S>(resource: &Resource<S>) -> Option<usize> {
    match &resource.spec {
        Spec::Text(_) => None,
        Spec::TooLarge { bytes } => Some(*bytes),
    }
}

/// True when both are numbers and the first is smaller. An answer to a write comes by another way than the watch, so the watch may
/// still bring what was before it. A server whose versions are not numbers is taken at its word.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}
