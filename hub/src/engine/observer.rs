//! Reads AWS: at once what was just written, soon what somebody waits for, now and then everything. The request budget sets the
//! pace; here only the order and the times are kept. Works on [`Cache`]; decides nothing about policies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rand::Rng;
use switchyard_core::{budget::Class, ownership::GROUP_PREFIX};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::cache::{Cache, Object, Reading};
use crate::elb::{Elb, ReadError};

/// Reads under way at once: enough to fill the Describe budget at 50 ms a call, few enough to stay polite.
const READS_AT_ONCE: usize = 8;
/// The wait after a read that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How soon a read is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    class: Class,
}

/// How often something is read again, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the end of one reading to the next.
    pub pause: Duration,
    /// True: the planner is woken by every reading, also by one that says nothing new, since times run from reading to reading.
    pub wakes: bool,
}

/// What the engine wants to be read; shared with it.
#[derive(Clone, Debug)]
pub struct Wanted {
    list: Arc<Mutex<List>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct List {
    due: HashMap<Object, Due>,
    running: HashMap<Object, Class>,
    /// What is read again and again at a pace of its own.
    paces: HashMap<Object, Pace>,
}

impl Wanted {
    /// Nothing is wanted yet.
    pub fn new() -> Self {
        Self { list: Arc::default(), changed: Arc::default() }
    }

    // Nothing in the sections below can panic half-way.
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a read at a time; an earlier or more urgent wish for the same object stays. A read that is under way and at
    /// least as urgent serves too: if its object was written meanwhile it is made again.
    pub fn ask(&self, object: Object, at: Instant, class: Class) {
        let mut list = self.list();
        if list.running.get(&object).is_some_and(|running| *running <= class) {
            return;
        }
        let entry = list.due.entry(object).or_insert(Due { at, class });
        entry.at = entry.at.min(at);
        entry.class = entry.class.min(class);
        drop(list);
        self.changed.notify_one();
    }

    /// Replaces what is read again and again at a pace of its own, instead of once in the health interval. What is new or
    /// becomes much faster is read at once, one after the other within its pause.
    pub fn set_paces(&self, paces: HashMap<Object, Pace>) {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.list().paces, paces.clone());
        let is_new =
            |object: &Object, pace: &Pace| before.get(object).is_none_or(|before| before.pause >= pace.pause * 2);
        let (begins, goes_on): (Vec<_>, Vec<_>) = paces.into_iter().partition(|(object, pace)| is_new(object, pace));
        let all = u32::try_from(begins.len()).unwrap_or(u32::MAX).max(1);
        for (i, (object, pace)) in (0..).zip(begins) {
            self.ask(object, now + pace.pause / all * i, Class::Read);
        }
        for (object, pace) in goes_on {
            self.ask(object, now + pace.pause, Class::Read);
        }
    }

    fn pace(&self, object: &Object) -> Option<Pace> {
        self.list().paces.get(object).copied()
    }

    /// Asks for a read right now, before everything else: its object was just written.
    pub fn read_back(&self, objects: &[Object]) {
        for object in objects {
            self.ask(object.clone(), Instant::now(), Class::Read);
        }
    }

    /// Takes the reads to start now, the most urgent first.
    fn take_due(&self, most: usize) -> Vec<(Object, Class)> {
        let now = Instant::now();
        let mut list = self.list();
        let free = |(object, due): &(&Object, &Due)| {
            due.at <= now && list.running.get(*object).is_none_or(|running| due.class < *running)
        };
        let mut ready: Vec<(Object, Due)> = list.due.iter().filter(free).map(|(o, due)| (o.clone(), *due)).collect();
        ready.sort_by_key(|(_, due)| (due.class, due.at));
        ready.truncate(most);
        for (object, due) in &ready {
            list.due.remove(object);
            list.running.insert(object.clone(), due.class);
        }
        ready.into_iter().map(|(object, due)| (object, due.class)).collect()
    }

    fn ended(&self, object: &Object, class: Class) {
        let mut list = self.list();
        if list.running.get(object) == Some(&class) {
            list.running.remove(object);
        }
    }

    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        // What is due already waits for a read to end, which wakes the loop by itself.
        self.list().due.values().map(|due| due.at).filter(|at| *at > now).min()
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads until shutdown.
pub struct Observer {
    /// The adaptor.
    pub elb: Elb,
    /// Where readings go.
    pub cache: Cache,
    /// What is wanted.
    pub wanted: Wanted,
    /// The time between two full audits; up to a fifth is added at random, so that hubs do not march in step.
    pub audit_interval: Duration,
    /// The time between two looks at the health of a group that nobody waits for.
    pub health_interval: Duration,
}

impl Observer {
    /// Runs the reads.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut reads: JoinSet<(Object, Class, Result<bool, ReadError>)> = JoinSet::new();
        for object in [Object::LoadBalancers, Object::Groups, Object::Limits] {
            self.wanted.ask(object, Instant::now(), Class::Read);
        }
        let mut failing = BTreeMap::new();
        loop {
            for (object, class) in self.wanted.take_due(READS_AT_ONCE.saturating_sub(reads.len())) {
                let (elb, cache) = (self.elb.clone(), self.cache.clone());
                reads.spawn(async move {
                    let result = read(&elb, &cache, &object, class).await;
                    (object, class, result)
                });
            }
            let next = self.wanted.next().unwrap_or_else(|| Instant::now() + self.health_interval);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wanted.changed.notified() => {}
                () = sleep_until(next) => {}
                Some(ended) = reads.join_next(), if !reads.is_empty() => {
                    match ended {
                        Ok((object, class, result)) => self.after(object, class, result, &mut failing),
                        Err(error) => error!(error = &error as &dyn std::error::Error, "a read of AWS panicked, please report this defect"),
                    }
                }
            }
        }
    }

    /// Plans the next read of the same object, and logs a failure once until it is over.
    fn after(
        &self,
        object: Object,
        class: Class,
        result: Result<bool, ReadError>,
        failing: &mut BTreeMap<Object, String>,
    ) {
        let now = Instant::now();
        self.wanted.ended(&object, class);
        match result {
            Ok(true) => {
                if failing.remove(&object).is_some() {
                    debug!(?object, "reading from AWS works again");
                }
                // A write that came between the answer and here found this read still under way, and asked for no other.
                let pace = self.wanted.pace(&object);
                if pace.is_some_and(|pace| pace.wakes) {
                    self.cache.was_read();
                }
                if self.cache.is_unread(&object) {
                    self.wanted.ask(object, now, Class::Read);
                } else if let Some(pace) = pace.filter(|_| self.cache.is_listed(&object)) {
                    self.wanted.ask(object, now + pace.pause, Class::Read);
                } else if let Some(interval) = self.interval(&object) {
                    self.wanted.ask(object, now + interval, Class::Audit);
                }
            }
            Ok(false) => self.wanted.ask(object, now, class),
            Err(error) => {
                let message = error.to_string();
                if failing.insert(object.clone(), message.clone()).as_ref() != Some(&message) {
                    warn!(
                        ?object,
                        error = &error as &dyn std::error::Error,
                        "reading from AWS failed; what was read before stays in force"
                    );
                }
                if let Some(parent) = self.parent(&object).filter(|_| is_gone(&error)) {
                    self.wanted.ask(parent, now, Class::Read);
                }
                // Once its listing was read without it, nothing is left to be read.
                if self.cache.is_listed(&object) {
                    self.wanted.ask(object, now + RETRY, class);
                } else {
                    failing.remove(&object);
                }
            }
        }
        // One is enough to act on, and they mostly have one cause.
        self.cache.set_trouble(failing.values().next().cloned());
    }

    /// The time until an object is read again although nobody asks; none: its parent's audit asks for it.
    fn interval(&self, object: &Object) -> Option<Duration> {
        let jitter = rand::rng().random_range(1.0..1.2);
        match object {
            Object::LoadBalancers | Object::Groups => Some(self.audit_interval.mul_f64(jitter)),
            // Limits change when somebody asks AWS to raise one.
            Object::Limits => Some(self.audit_interval.mul_f64(10.0 * jitter)),
            object if !self.cache.is_listed(object) => None,
            Object::Targets(_) => Some(self.health_interval.mul_f64(jitter)),
            Object::Listeners(_) | Object::Rules(_) => Some(self.audit_interval.mul_f64(jitter)),
            Object::LoadBalancerTags(_) | Object::Group(_) => None,
        }
    }

    /// The listing that says whether an object is still there.
    fn parent(&self, object: &Object) -> Option<Object> {
        match object {
            Object::LoadBalancerTags(_) | Object::Listeners(_) => Some(Object::LoadBalancers),
            Object::Rules(arn) => {
                let observed = self.cache.observed();
                observed.listeners.get(arn).map(|listener| Object::Listeners(listener.load_balancer.clone()))
            }
            Object::Limits | Object::LoadBalancers | Object::Groups | Object::Group(_) | Object::Targets(_) => None,
        }
    }
}

async fn read(elb: &Elb, cache: &Cache, object: &Object, class: Class) -> Result<bool, ReadError> {
    let ticket = cache.ticket(object.clone());
    let reading = match object {
        Object::Limits => Reading::Limits(elb.limits(class).await?),
        Object::LoadBalancers => Reading::LoadBalancers(elb.load_balancers(class).await?),
        Object::LoadBalancerTags(arn) => Reading::LoadBalancerTags(elb.load_balancer_tags(arn, class).await?),
        Object::Listeners(arn) => Reading::Listeners(elb.listeners(arn, class).await?),
        Object::Rules(arn) => {
            let (rules, used) = elb.rules(arn, class).await?;
            Reading::Rules(rules, used)
        }
        Object::Groups => Reading::Groups(elb.target_groups(GROUP_PREFIX, class).await?),
        Object::Group(name) => Reading::Group(Box::new(elb.target_group_by_name(name, class).await?)),
        Object::Targets(arn) => Reading::Targets(gone_is_none(elb.targets(arn, class).await)?),
    };
    Ok(cache.store(&ticket, reading, Timestamp::now()))
}

/// True when AWS says that what was to be read is not there.
fn is_gone(error: &ReadError) -> bool {
    matches!(error, ReadError::Refused { code, .. } if code == "LoadBalancerNotFound" || code == "ListenerNotFound")
}

/// A group that was deleted meanwhile is an answer, not a failure.
fn gone_is_none<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Refused { code, .. }) if code == "TargetGroupNotFound" => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
