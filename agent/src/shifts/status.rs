//! The status of a TrafficShift resource as the agent writes it, and how it is compared with what the resource shows.
//!
//! Reading is lenient: a status that makes no sense reads as an empty one, and is then written anew.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policies::{
    events::{Draft, Kind},
    objects::{MAX_SPEC_BYTES, Shown},
    status::Condition,
};

/// The condition types that the agent writes; Complete and Failed are those of a Job, so that `kubectl wait` reads alike.
pub const CONDITION_TYPES: [&str; 4] = ["Programmed", "Converged", "Complete", "Failed"];
/// The state of a resource that will not be carried out.
const REFUSED: &str = "Refused";
/// States that somebody should hear of.
const BAD: [&str; 5] = [REFUSED, "Aborting", "Aborted", "Superseded", "Failed"];

/// The status, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShiftStatus {
    /// The generation that the hub has judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// The shift, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_id: Option<String>,
    /// A word such as Baking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The step under way, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// How many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// The step's weights were read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed: Option<bool>,
    /// And are in force for the settle time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged: Option<bool>,
    /// Nothing more will come of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<bool>,
    /// When the state was entered, RFC 3339 in UTC, whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Weights asked for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Somebody holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// As in Kubernetes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl ShiftStatus {
    /// True when nothing more will come of the resource.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended == Some(true)
    }

    /// Fills the conditions from the rest. Each is as old as the state, which is when any of them may last have changed; without that
    /// there are none, since Kubernetes refuses a condition without a time, and the whole status with it.
    #[must_use]
    pub fn with_conditions(mut self) -> Self {
        let Some(since) = self.since.clone() else {
            self.conditions = Vec::new();
            return self;
        };
        let succeeded = self.has_ended() && self.state.as_deref() == Some("Succeeded");
        let held =
            [self.programmed == Some(true), self.converged == Some(true), succeeded, self.has_ended() && !succeeded];
        let condition = |(kind, holds): (&str, bool)| Condition {
            kind: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: self.reason.clone().unwrap_or_else(|| "Unknown".to_owned()),
            message: self.message.clone().unwrap_or_default(),
            observed_generation: self.observed_generation,
            last_transition_time: since.clone(),
        };
        self.conditions = CONDITION_TYPES.into_iter().zip(held).map(condition).collect();
        self
    }

    fn in_order(&self) -> Self {
        let mut ordered = self.clone();
        ordered.conditions.sort_by(|left, right| left.kind.cmp(&right.kind));
        ordered
    }
}

impl Shown for ShiftStatus {
    const KIND: &'static str = "TrafficShift";
    const PLURAL: &'static str = "trafficshifts";
    const DEFINITION: &'static str = "trafficshifts.switchyard.dev";
    const NOUN: &'static str = "Shifts";

    fn parse(shown: Value) -> Self {
        let mut status: Self = serde_json::from_value(shown).unwrap_or_default();
        status.conditions.retain(|condition| CONDITION_TYPES.contains(&condition.kind.as_str()));
        status
    }

    fn shows(&self, wanted: &Self) -> bool {
        self == wanted || self.in_order() == wanted.in_order()
    }

    /// One for each state, and for each step.
    fn events(before: &Self, now: &Self) -> Vec<Draft> {
        let Some(state) = now.state.as_deref().filter(|_| before.state != now.state || before.step != now.step) else {
            return Vec::new();
        };
        let kind = if BAD.contains(&state) { Kind::Warning } else { Kind::Normal };
        let step = match (now.step, now.steps) {
            (Some(step), Some(steps)) if step > 0 => format!("step {step} of {steps}: "),
            _ => String::new(),
        };
        let note = format!("{step}{}", now.message.as_deref().unwrap_or(state));
        vec![Draft::new(kind, state, "Shift", &note)]
    }

    /// The hub cannot say what is wrong with a spec that it never saw.
    fn of_too_large(mut self, bytes: usize) -> Self {
        if self.state.as_deref() == Some(REFUSED) {
            let message =
                format!("spec has {bytes} bytes as JSON and at most {MAX_SPEC_BYTES} are taken; use several shifts");
            self.message = Some(message);
        }
        self.with_conditions()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(state: &str, step: u32) -> ShiftStatus {
        ShiftStatus {
            state: Some(state.to_owned()),
            reason: Some("Because".to_owned()),
            message: Some("for people".to_owned()),
            since: Some("2026-01-02T03:04:05Z".to_owned()),
            step: Some(step),
            steps: Some(3),
            ..ShiftStatus::default()
        }
    }

    fn holding(status: ShiftStatus) -> Vec<String> {
        let conditions = status.with_conditions().conditions;
        conditions.into_iter().filter(|condition| condition.status == "True").map(|condition| condition.kind).collect()
    }

    #[test]
    fn complete_and_failed_are_told_only_at_the_end_and_never_both() {
        let ended = |state| ShiftStatus { ended: Some(true), ..status(state, 3) };
        assert!(holding(status("Succeeded", 3)).is_empty(), "not ended");
        assert_eq!(holding(ended("Succeeded")), ["Complete"]);
        for state in ["Failed", "Aborted", "Superseded", "Refused"] {
            assert_eq!(holding(ended(state)), ["Failed"], "{state}");
        }
        let baking = ShiftStatus { programmed: Some(true), ..status("Baking", 1) };
        assert_eq!(holding(baking), ["Programmed"]);
    }

    #[test]
    fn without_a_time_there_are_no_conditions() {
        assert_eq!(ShiftStatus { since: None, ..status("Refused", 0) }.with_conditions().conditions, []);
    }

    #[test]
    fn each_state_and_each_step_is_told_once() {
        let told = |before: &ShiftStatus, now: &ShiftStatus| {
            let drafts = ShiftStatus::events(before, now).into_iter();
            drafts.map(|draft| (draft.kind, draft.reason, draft.note)).collect::<Vec<_>>()
        };
        let baking = status("Baking", 1);
        let first = (Kind::Normal, "Baking".to_owned(), "step 1 of 3: for people".to_owned());
        assert_eq!(told(&ShiftStatus::default(), &baking), [first]);
        assert_eq!(told(&baking, &baking), []);
        assert_eq!(told(&baking, &status("Baking", 2)).len(), 1);
        assert_eq!(told(&baking, &status("Aborting", 1))[0].0, Kind::Warning);
    }

    #[test]
    fn what_is_written_reads_back_the_same_and_nonsense_as_nothing() {
        let written =
            ShiftStatus { observed_generation: Some(2), ended: Some(true), ..status("Failed", 1) }.with_conditions();
        let mut shown = serde_json::to_value(&written).expect("JSON");
        shown["conditions"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"type": "example.com/Reviewed", "status": "True"}));
        assert!(ShiftStatus::parse(shown).shows(&written));
        for nonsense in [json!(null), json!("text"), json!({"conditions": 7}), json!({"step": "one"})] {
            assert_eq!(ShiftStatus::parse(nonsense), ShiftStatus::default());
        }
    }
}
