//! The spec of a shift as a TrafficShift resource brings it: JSON, then core's `validate`. What is accepted has steps that end where
//! the shift is to end, and is accepted again.

use switchyard_core::{
    ids::Namespace,
    shift::{ShiftSpec, validate},
};

use crate::text::is_one_sound_line;

/// Tries one spec, as one that is bound to its namespace and as one that is not.
pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let spec: ShiftSpec = match serde_json::from_str(text) {
        Ok(spec) => spec,
        Err(error) => {
            // serde quotes what it found; the shell cuts that, here only its end is asked for.
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let written = serde_json::to_string(&spec).expect("a spec can be written");
    assert_eq!(serde_json::from_str::<ShiftSpec>(&written).expect("it can be read again"), spec);
    let namespace: Namespace = "shop".parse().expect("a label");
    let mut taken = false;
    for bound in [true, false] {
        match validate(&spec, &namespace, bound) {
            Ok(plan) => {
                assert!(!plan.targets.is_empty() && !plan.steps.is_empty(), "a shift without targets or steps");
                assert_eq!(plan.targets.len(), spec.policies.len(), "a policy was lost");
                assert!(!bound || plan.targets.iter().all(|target| target.policy.namespace == namespace));
                assert_eq!(validate(&spec, &namespace, bound).as_ref(), Ok(&plan), "not the same twice");
                taken = true;
            }
            Err(violations) => {
                assert!(!violations.is_empty(), "refused without a reason");
                violations.iter().for_each(|one| is_one_sound_line("the shift is not valid", &one.to_string()));
            }
        }
    }
    taken
}
