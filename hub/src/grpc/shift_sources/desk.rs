//! What is to be done about each resource of one stream, and what it is told. Pure: `session` asks the store and says what came of
//! it.
//!
//! A resource that was never seen asks for its shift; the store gives one UID the same shift for ever. While something that will end
//! stands in the way it waits, and is tried again when the picture changed, at most once a second, and every ten seconds in any case.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use switchyard_core::{
    ids::{PolicyKey, ResourceUid, ShiftId},
    shift::{
        Finding, Shift,
        validate::{ShiftPlan, StartError},
    },
};
use switchyard_proto::agent::v1::TrafficShiftStatus;

use super::{
    parse::Resource,
    told::{self, Standing},
};
use crate::store::{ShiftError, StoreError};

/// Time since some fixed moment of the process.
type Moment = Duration;

/// The least time between two tries of one resource.
const PAUSE: Duration = Duration::from_secs(1);
/// A resource that waits is tried again after this time although nothing changed: a maintenance window begins by itself.
const RETRY: Duration = Duration::from_secs(10);
/// Resources of one stream. A cluster with more of them that have not ended is asked to wait: each costs memory here.
pub const MOST_RESOURCES: usize = 1000;

/// What the store is to be asked next.
#[derive(Clone, Debug)]
pub enum Job {
    /// Make its shift, or find the one that it made before.
    Make {
        /// The resource.
        resource: Box<Resource>,
        /// The shift that it asks for.
        plan: Box<ShiftPlan>,
    },
    /// Remember that it is refused.
    Refuse {
        /// The resource, in the generation that is at fault.
        resource: Box<Resource>,
        /// Why.
        why: String,
    },
    /// Tell its shift what its newest generation says.
    Say {
        /// The resource.
        resource: Box<Resource>,
    },
    /// Read a shift that is not in the picture any more.
    Read(ShiftId),
}

/// What came of a job.
#[derive(Debug)]
pub enum Done {
    /// The shift as it is now.
    Shift(Arc<Shift>),
    /// It is remembered as refused, for this reason.
    Refused(String),
    /// A shift that was to be read is not kept any more.
    Gone,
    /// It cannot be made.
    Not(ShiftError),
}

#[derive(Clone, Debug)]
struct Entry {
    resource: Resource,
    standing: Standing,
    /// Since when it stands so, by this machine's clock; of no use for a shift, which knows better.
    since: Timestamp,
    /// The newest generation that its shift was told.
    said: u64,
    /// Not tried before this moment; none: nothing to be tried.
    due: Option<Moment>,
    told: Option<TrafficShiftStatus>,
}

/// The resources of one stream.
#[derive(Debug, Default)]
pub struct Desk {
    entries: BTreeMap<ResourceUid, Entry>,
    /// A resource was sent away for want of room.
    sent_away: bool,
}

impl Desk {
    /// A resource was reported. One for which there is no room is told so; [`Desk::has_room_again`] says when it is to come again.
    pub fn report(&mut self, resource: Resource, now: Moment, at: Timestamp) -> Option<TrafficShiftStatus> {
        if let Some(entry) = self.entries.get_mut(&resource.uid) {
            if resource.generation >= entry.resource.generation {
                entry.resource = resource;
                entry.due = Some(now);
                entry.told = None;
            }
            return None;
        }
        if self.entries.len() >= MOST_RESOURCES {
            self.entries.retain(|_, entry| !entry.standing.has_ended());
        }
        if self.entries.len() >= MOST_RESOURCES {
            self.sent_away = true;
            let message = format!(
                "{MOST_RESOURCES} TrafficShifts of this cluster have not ended; this one is taken when there is room"
            );
            return told::status(&resource, &Standing::Waiting { reason: told::Reason::TooMany, message }, at);
        }
        let uid = resource.uid.clone();
        self.entries.insert(
            uid,
            Entry { resource, standing: Standing::Unknown, since: at, said: 0, due: Some(now), told: None },
        );
        None
    }

    /// True when resources that were sent away would fit now.
    pub fn has_room_again(&self) -> bool {
        let open = self.entries.values().filter(|entry| !entry.standing.has_ended()).count();
        // Half, so that a cluster with too many does not connect anew for each of them.
        self.sent_away && open <= MOST_RESOURCES / 2
    }

    /// The shifts may have moved, and what stood in a resource's way may be gone.
    pub fn picture_changed(&mut self, now: Moment) {
        for entry in self.entries.values_mut().filter(|entry| matches!(entry.standing, Standing::Waiting { .. })) {
            entry.due = entry.due.map(|due| due.min(now + PAUSE));
        }
    }

    /// What is to be done now, and for which resource.
    pub fn next_job(&self, now: Moment) -> Option<(ResourceUid, Job)> {
        let due = |entry: &&Entry| entry.due.is_some_and(|due| due <= now);
        let entry = self.entries.values().filter(due).min_by_key(|entry| entry.due)?;
        let uid = entry.resource.uid.clone();
        let resource = Box::new(entry.resource.clone());
        let job = match (&entry.standing, &entry.resource.asked) {
            (Standing::Made(_), _) if !resource.said.is_empty() => Job::Say { resource },
            (_, Ok(plan)) => Job::Make { resource, plan: Box::new(plan.clone()) },
            (_, Err(why)) => Job::Refuse { resource, why: why.clone() },
        };
        Some((uid, job))
    }

    /// When the next job is due.
    pub fn wake_at(&self) -> Option<Moment> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// Takes in what came of a job.
    pub fn done(&mut self, uid: &ResourceUid, generation: u64, done: Done, now: Moment, at: Timestamp) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let stood = std::mem::discriminant(&entry.standing);
        entry.due = None;
        match done {
            Done::Shift(shift) => {
                let first = !matches!(entry.standing, Standing::Made(_));
                // What a resource says was taken in when its shift was made, but not when an earlier stream had it made.
                entry.said = if first { entry.said } else { entry.said.max(generation) };
                entry.standing = Standing::Made(shift);
                let unsaid = entry.said < entry.resource.generation && !entry.resource.said.is_empty();
                entry.due = (unsaid && !entry.standing.has_ended()).then_some(now);
            }
            Done::Refused(why) => entry.standing = Standing::Refused { why },
            Done::Gone => entry.standing = Standing::Forgotten,
            Done::Not(error) => entry.not(error, now),
        }
        if generation < entry.resource.generation && !entry.standing.has_ended() {
            entry.due = Some(now);
        }
        if std::mem::discriminant(&entry.standing) != stood {
            entry.since = at;
        }
    }

    /// Looks at the shifts: those that moved are taken over. Gives back one that is not in the picture any more.
    pub fn look(&mut self, shifts: &BTreeMap<ShiftId, Arc<Shift>>) -> Option<(ResourceUid, ShiftId)> {
        let mut missing = None;
        for (uid, entry) in &mut self.entries {
            let Standing::Made(shift) = &mut entry.standing else { continue };
            match shifts.get(&shift.id) {
                // An answer of the store may be newer than the picture.
                Some(present) if present.version > shift.version => *shift = Arc::clone(present),
                Some(_) => {}
                None if shift.is_active() => missing = Some((uid.clone(), shift.id.clone())),
                None => {}
            }
        }
        missing
    }

    /// The next status that was not told yet.
    pub fn next_status(&mut self) -> Option<TrafficShiftStatus> {
        for entry in self.entries.values_mut() {
            let status = told::status(&entry.resource, &entry.standing, entry.since);
            if status.is_some() && status != entry.told {
                entry.told.clone_from(&status);
                return status;
            }
        }
        None
    }
}

impl Entry {
    fn not(&mut self, error: ShiftError, now: Moment) {
        let (policy, message) = (blocking_policy(&error), error.to_string());
        match error {
            // The policy may come, or be mended, later: what is applied together arrives in any order.
            ShiftError::Start(StartError::NotFound(_) | StartError::Deleting(_) | StartError::Invalid(_)) => {
                self.wait(told::Reason::PolicyNotReady, message, now);
            }
            ShiftError::Busy { .. } => self.wait(told::Reason::Busy, message, now),
            ShiftError::Held { findings } if may_end(&findings) => self.wait(told::Reason::Held, message, now),
            // Its word counts for the resource's whole life; a version that is past does not come back.
            ShiftError::Held { .. }
            | ShiftError::Start(StartError::VersionConflict { .. })
            | ShiftError::Invalid { .. }
            | ShiftError::MayNot(_)
            | ShiftError::ResourceRefused { .. } => self.standing = Standing::Refused { why: message },
            ShiftError::ResourceForgotten { .. } => self.standing = Standing::Forgotten,
            ShiftError::Store(error) if StoreError::is_unavailable(&error) => self.due = Some(now + PAUSE),
            ShiftError::NotFound(_)
            | ShiftError::Refused { .. }
            | ShiftError::RequestReused { .. }
            | ShiftError::Store(_) => {
                tracing::error!(
                    policy = policy.map(|key| key.to_string()),
                    error = message,
                    "a TrafficShift could not be carried out; it is tried again"
                );
                self.due = Some(now + RETRY);
            }
        }
    }

    fn wait(&mut self, reason: told::Reason, message: String, now: Moment) {
        self.standing = Standing::Waiting { reason, message };
        self.due = Some(now + RETRY);
    }
}

fn blocking_policy(error: &ShiftError) -> Option<PolicyKey> {
    match error {
        ShiftError::Busy { policy, .. } => Some(policy.clone()),
        ShiftError::Held { findings } => findings.first().map(|finding| finding.policy.clone()),
        _ => None,
    }
}

/// True when everything in the way holds because somebody wants it to for now: that ends.
fn may_end(findings: &[Finding]) -> bool {
    findings.iter().filter(|finding| !finding.overridden).all(|finding| finding.guard.by_will())
}
