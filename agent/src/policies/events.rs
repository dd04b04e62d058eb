//! Which change of a status is worth a Kubernetes Event, and how often one may be written. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::status::{Claim, Note, ResourceStatus};
use crate::text::truncated;

/// Characters of an Event's note: the API server's limit.
const MAX_NOTE: usize = 1024;
/// Time between two Events of one resource with one reason. What comes in between is kept, the last one only, and written then.
const PAUSE: Duration = Duration::from_secs(60);
/// Reasons that are paced per resource at a time; there are about forty.
const MAX_REASONS: usize = 64;
/// Notes that say only that things take their course.
const PROGRESS: [&str; 6] = ["AsRequested", "InProgress", "Settling", "WaitingToRemove", "NotObservedYet", "Deleting"];

/// An Event to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Normal or Warning.
    pub kind: Kind,
    /// A CamelCase word.
    pub reason: String,
    /// What was done about the resource, a CamelCase word.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Of which type an Event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Draft {
    pub(crate) fn new(kind: Kind, reason: &str, action: &'static str, note: &str) -> Self {
        Self { kind, reason: reason.to_owned(), action, note: truncated(note, MAX_NOTE) }
    }
}

/// The Events for a change from one status to the next.
#[must_use]
pub fn decide(old: &ResourceStatus, new: &ResourceStatus) -> Vec<Draft> {
    let mut drafts = Vec::new();
    drafts.extend(of_the_claim(old, new));
    drafts.extend(of_the_weights(old, new));
    drafts.extend(of_failover(old, new));
    drafts.extend(of_the_notes(old, new));
    drafts
}

/// The Event for a resource that is gone, once the hub knows.
#[must_use]
pub fn released() -> Draft {
    let note = "The resource is gone: its rule is removed and its targets are drained, unless a resource of another cluster waits for \
                the policy and takes it over";
    Draft::new(Kind::Normal, "Released", "Release", note)
}

fn of_the_claim(old: &ResourceStatus, new: &ResourceStatus) -> Option<Draft> {
    let accepted = new.condition("Accepted")?;
    let said = old.condition("Accepted").map(|condition| condition.message.as_str());
    let same = old.claim == new.claim
        && old.observed_generation == new.observed_generation
        && old.is_true("Accepted") == new.is_true("Accepted");
    if new.claim == Some(Claim::Waiting) {
        let news = !same || said != Some(accepted.message.as_str());
        return news.then(|| Draft::new(Kind::Warning, "OwnedElsewhere", "Accept", &accepted.message));
    }
    if accepted.status == "False" {
        let news = !same || said != Some(accepted.message.as_str());
        return news.then(|| Draft::new(Kind::Warning, "Refused", "Accept", &accepted.message));
    }
    let in_force = new.generation_in_force.filter(|_| accepted.status == "True")?;
    let news = !old.is_true("Accepted") || old.generation_in_force != Some(in_force) || old.claim != new.claim;
    news.then(|| {
        Draft::new(Kind::Normal, "Accepted", "Accept", &format!("Generation {in_force} is in force at the hub"))
    })
}

fn of_the_weights(old: &ResourceStatus, new: &ResourceStatus) -> Vec<Draft> {
    let Some(programmed) = &new.programmed else { return Vec::new() };
    let weights = programmed.replace(',', ", ");
    let news = |kind: &str| new.is_true(kind) && (!old.is_true(kind) || old.programmed != new.programmed);
    let mut drafts = Vec::new();
    if news("Programmed") {
        let note = format!("{weights} was read back from the load balancer");
        drafts.push(Draft::new(Kind::Normal, "Programmed", "Program", &note));
    }
    if news("Converged") {
        drafts.push(Draft::new(Kind::Normal, "Converged", "Program", &format!("{weights} is served")));
    }
    drafts
}

/// The share of a cluster went elsewhere, or everything is as asked for again. Numbers that change in between are no news.
fn of_failover(old: &ResourceStatus, new: &ResourceStatus) -> Option<Draft> {
    let now = new.condition("FailedOver")?;
    match (old.is_true("FailedOver"), now.status.as_str()) {
        (false, "True") => Some(Draft::new(Kind::Warning, "FailedOver", "FailOver", &now.message)),
        // Panic is told by its note: nothing returned by it.
        (true, "False") if now.reason == "AsRequested" => {
            Some(Draft::new(Kind::Normal, "FailedBack", "FailOver", &now.message))
        }
        _ => None,
    }
}

/// One Event for each reason that was not there before for that cluster, with all its messages.
fn of_the_notes(old: &ResourceStatus, new: &ResourceStatus) -> Vec<Draft> {
    let known =
        |note: &Note| old.notes.iter().any(|other| other.cluster == note.cluster && other.reason == note.reason);
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for note in &new.notes {
        if known(note) || PROGRESS.contains(&note.reason.as_str()) {
            continue;
        }
        let text = if note.cluster.is_empty() || note.message.contains(&note.cluster) {
            note.message.clone()
        } else {
            format!("{}: {}", note.cluster, note.message)
        };
        by_reason.entry(&note.reason).or_default().push(text);
    }
    let draft = |(reason, texts): (&str, Vec<String>)| Draft::new(Kind::Warning, reason, "Program", &texts.join("; "));
    by_reason.into_iter().map(draft).collect()
}

/// Keeps one resource's Events apart.
#[derive(Debug, Default)]
pub struct Pacer {
    told: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    /// No other before this moment.
    until: Duration,
    waiting: Option<Draft>,
}

impl Pacer {
    /// Gives the draft back when it may be written now, else keeps it.
    pub fn admit(&mut self, draft: Draft, now: Duration) -> Option<Draft> {
        self.told.retain(|_, told| told.waiting.is_some() || told.until > now);
        let full = self.told.len() >= MAX_REASONS;
        match self.told.get_mut(&draft.reason) {
            Some(told) => {
                told.waiting = Some(draft);
                None
            }
            // Past the bound one more Event does no harm: a resource cannot have that many reasons in one minute.
            None if full => Some(draft),
            None => {
                self.told.insert(draft.reason.clone(), Told { until: now + PAUSE, waiting: None });
                Some(draft)
            }
        }
    }

    /// The drafts whose time has come.
    pub fn due(&mut self, now: Duration) -> Vec<Draft> {
        let mut due = Vec::new();
        for told in self.told.values_mut().filter(|told| told.until <= now) {
            if let Some(draft) = told.waiting.take() {
                told.until = now + PAUSE;
                due.push(draft);
            }
        }
        due
    }

    /// When the next draft is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.told.values().filter(|told| told.waiting.is_some()).map(|told| told.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::status::Condition;

    fn condition(kind: &str, status: &str, message: &str) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            message: message.to_owned(),
            ..Condition::default()
        }
    }

    fn owner(generation: u64, programmed: &str, converged: &str) -> ResourceStatus {
        ResourceStatus {
            observed_generation: Some(generation),
            generation_in_force: Some(generation),
            claim: Some(Claim::Owner),
            programmed: Some(programmed.to_owned()),
            conditions: vec![
                condition("Accepted", "True", "stored"),
                condition("Programmed", "True", ""),
                condition("Converged", converged, ""),
            ],
            ..ResourceStatus::default()
        }
    }

    fn note(cluster: &str, reason: &str, message: &str) -> Note {
        Note { cluster: cluster.to_owned(), reason: reason.to_owned(), message: message.to_owned() }
    }

    fn told(old: &ResourceStatus, new: &ResourceStatus) -> Vec<(Kind, String, String)> {
        decide(old, new).into_iter().map(|draft| (draft.kind, draft.reason, draft.note)).collect()
    }

    fn normal(reason: &str, note: &str) -> (Kind, String, String) {
        (Kind::Normal, reason.to_owned(), note.to_owned())
    }

    fn warning(reason: &str, note: &str) -> (Kind, String, String) {
        (Kind::Warning, reason.to_owned(), note.to_owned())
    }

    #[test]
    fn a_policy_is_accepted_then_programmed_then_converged() {
        let nothing = ResourceStatus::default();
        let first = owner(1, "blue=100", "False");
        let programmed = "blue=100 was read back from the load balancer";
        assert_eq!(
            told(&nothing, &first),
            [normal("Accepted", "Generation 1 is in force at the hub"), normal("Programmed", programmed)]
        );
        let served = owner(1, "blue=100", "True");
        assert_eq!(told(&first, &served), [normal("Converged", "blue=100 is served")]);
        assert_eq!(told(&served, &served), []);
    }

    #[test]
    fn other_weights_are_told_although_the_conditions_are_the_same() {
        let drafts = told(&owner(1, "blue=100", "True"), &owner(1, "blue=90,green=10", "True"));
        assert_eq!(
            drafts,
            [
                normal("Programmed", "blue=90, green=10 was read back from the load balancer"),
                normal("Converged", "blue=90, green=10 is served")
            ]
        );
    }

    #[test]
    fn a_failover_and_the_return_from_it_are_told_once_each() {
        let with = |status: &str, reason: &str, message: &str| {
            let mut resource = owner(1, "blue=50,green=50", "True");
            let failed_over = condition("FailedOver", status, message);
            resource.conditions.push(Condition { reason: reason.to_owned(), ..failed_over });
            resource
        };
        let before = with("False", "AsRequested", "every cluster gets what is requested");
        let out = with("True", "FailedOver", "blue gets 0 % instead of 50 %");
        assert_eq!(told(&before, &out), [warning("FailedOver", "blue gets 0 % instead of 50 %")]);
        assert_eq!(told(&out, &with("True", "Returning", "blue gets 12 % instead of 50 %")), []);
        assert_eq!(told(&out, &with("False", "Panic", "no cluster has 50 % healthy targets")), []);
        assert_eq!(told(&out, &before), [normal("FailedBack", "every cluster gets what is requested")]);
        assert_eq!(
            told(&owner(1, "blue=50,green=50", "True"), &before),
            [],
            "a hub that has just learned the condition"
        );
    }

    #[test]
    fn a_refusal_is_told_once_for_each_generation_and_message() {
        let refused = |generation, message: &str| ResourceStatus {
            observed_generation: Some(generation),
            conditions: vec![condition("Accepted", "False", message)],
            ..owner(1, "blue=100", "True")
        };
        let old = owner(1, "blue=100", "True");
        let words = "spec.clusters[0].weight 1000: at most 999";
        // Programmed and Converged are gone from this status altogether, which is no news of its own.
        assert_eq!(told(&old, &refused(2, words)), [warning("Refused", words)]);
        assert_eq!(told(&refused(2, words), &refused(2, words)), []);
        assert_eq!(told(&refused(2, words), &refused(3, words)), [warning("Refused", words)]);
    }

    #[test]
    fn a_second_claim_is_told_who_owns_the_policy() {
        let waiting = ResourceStatus {
            claim: Some(Claim::Waiting),
            conditions: vec![condition("Accepted", "False", "owned by cluster blue")],
            ..ResourceStatus::default()
        };
        assert_eq!(told(&ResourceStatus::default(), &waiting), [warning("OwnedElsewhere", "owned by cluster blue")]);
        assert_eq!(told(&waiting, &waiting), []);
        let drafts = told(&waiting, &owner(1, "blue=100", "False"));
        assert_eq!(drafts[0], normal("Accepted", "Generation 1 is in force at the hub"));
    }

    #[test]
    fn each_new_note_is_a_warning_and_progress_is_none() {
        let old =
            ResourceStatus { notes: vec![note("blue", "RemovalsHeld", "3 kept")], ..owner(1, "blue=100", "True") };
        let mut new = old.clone();
        new.notes = vec![
            note("blue", "RemovalsHeld", "4 kept"),
            note("green", "RemovalsHeld", "2 kept"),
            note("dr", "RemovalsHeld", "1 kept in dr"),
            note("", "Settling", "wait"),
        ];
        assert_eq!(told(&old, &new), [warning("RemovalsHeld", "green: 2 kept; 1 kept in dr")]);
    }

    #[test]
    fn within_a_minute_only_the_last_of_a_reason_is_kept_and_told_at_its_end() {
        let draft = |reason: &str, note: &str| Draft::new(Kind::Normal, reason, "Program", note);
        let second = Duration::from_secs;
        let mut pacer = Pacer::default();
        assert!(pacer.admit(draft("Converged", "a"), second(0)).is_some());
        assert!(pacer.admit(draft("Converged", "b"), second(10)).is_none());
        assert!(pacer.admit(draft("Converged", "c"), second(20)).is_none());
        assert!(pacer.admit(draft("Refused", "r"), second(20)).is_some(), "reasons do not wait for each other");
        assert_eq!(pacer.wake_at(), Some(second(60)));
        assert_eq!(pacer.due(second(59)), []);
        assert_eq!(pacer.due(second(60)), [draft("Converged", "c")]);
        assert!(pacer.admit(draft("Converged", "d"), second(100)).is_none(), "the pause begins anew");
        assert_eq!(pacer.due(second(120)), [draft("Converged", "d")]);
        assert!(pacer.admit(draft("Converged", "e"), second(181)).is_some());
        assert_eq!(pacer.wake_at(), None);
    }
}
