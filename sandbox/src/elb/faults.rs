//! Scripted faults: which calls go wrong, and how. Pure bookkeeping; the API server carries them out.

use serde::{Deserialize, Serialize};

use super::errors::ApiError;

/// Most faults that may wait at a time.
const MAX_FAULTS: usize = 1_000;

/// What happens to a call that is hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The code of an empty rate bucket; nothing is applied.
    Throttle,
    /// Any code; nothing is applied.
    Error {
        code: String,
        #[serde(default)]
        message: String,
        #[serde(default = "bad_request")]
        http_status: u16,
    },
    /// The call waits before it is handled.
    DelayMs { ms: u64 },
    /// Applied, then the connection is cut without an answer.
    LostAnswer,
    /// The connection is cut before anything is applied.
    Refused,
    /// Describe* answers with the state of so long ago (at most back to when the fault was set).
    StaleReadMs { ms: u64 },
}

fn bad_request() -> u16 {
    400
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultSpec {
    /// Name of an operation, or `*`.
    pub operation: String,
    /// First matching call that is hit, counted from 1 after the fault was set. 1 when left out.
    #[serde(default)]
    pub nth: Option<u64>,
    /// Hit every matching call from there on, without end unless `times` says so.
    #[serde(default)]
    pub every: bool,
    /// How many calls are hit. 1 when left out and `every` is false.
    #[serde(default)]
    pub times: Option<u64>,
    #[serde(flatten)]
    pub kind: FaultKind,
}

#[derive(Debug)]
struct Armed {
    id: u64,
    spec: FaultSpec,
    skip: u64,
    left: Option<u64>,
}

/// What the faults ask for one call, all of them taken together.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub delay_ms: u64,
    pub stale_ms: Option<u64>,
    pub refusal: Option<ApiError>,
    pub cut_before: bool,
    pub cut_after: bool,
}

#[derive(Debug, Default)]
pub struct Faults {
    armed: Vec<Armed>,
    last_id: u64,
}

impl Faults {
    /// Arms a fault and returns its id.
    pub fn add(&mut self, spec: FaultSpec) -> Result<u64, String> {
        if spec.nth == Some(0) || spec.times == Some(0) {
            return Err("nth and times count from 1; 0 would never hit".to_owned());
        }
        if let FaultKind::Error { http_status, .. } = &spec.kind
            && !(400..=599).contains(http_status)
        {
            return Err(format!("http_status {http_status} is not an error; use 400 to 599"));
        }
        if self.armed.len() >= MAX_FAULTS {
            return Err(format!("{MAX_FAULTS} faults are armed already; DELETE /faults first"));
        }
        self.last_id += 1;
        let left = spec.times.or((!spec.every).then_some(1));
        self.armed.push(Armed { id: self.last_id, skip: spec.nth.unwrap_or(1) - 1, left, spec });
        Ok(self.last_id)
    }

    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// Whether some fault may still ask for an old state, so that history must be kept.
    pub fn wants_history(&self) -> bool {
        self.armed.iter().any(|a| matches!(a.spec.kind, FaultKind::StaleReadMs { .. }))
    }

    /// What is armed, with ids and how often each will still hit.
    pub fn list(&self) -> Vec<serde_json::Value> {
        let each = |a: &Armed| serde_json::json!({"id": a.id, "spec": a.spec, "left": a.left});
        self.armed.iter().map(each).collect()
    }

    /// Counts the call against every fault that names it and says what is to happen.
    pub fn strike(&mut self, operation: &str) -> Verdict {
        let mut verdict = Verdict::default();
        for armed in &mut self.armed {
            if armed.spec.operation != "*" && armed.spec.operation != operation {
                continue;
            }
            if armed.skip > 0 {
                armed.skip -= 1;
                continue;
            }
            if let Some(left) = &mut armed.left {
                *left -= 1;
            }
            verdict.include(&armed.spec.kind);
        }
        self.armed.retain(|a| a.left != Some(0));
        verdict
    }
}

impl Verdict {
    fn include(&mut self, kind: &FaultKind) {
        match kind {
            FaultKind::Throttle => self.refusal = Some(ApiError::throttled()),
            FaultKind::Error { code, message, http_status } => {
                let error = ApiError::new(code.clone(), message.clone());
                self.refusal = Some(ApiError { status: *http_status, ..error });
            }
            FaultKind::DelayMs { ms } => self.delay_ms = self.delay_ms.saturating_add(*ms),
            FaultKind::LostAnswer => self.cut_after = true,
            FaultKind::Refused => self.cut_before = true,
            FaultKind::StaleReadMs { ms } => self.stale_ms = Some(*ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> FaultSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_nth_call_is_hit_once_and_other_operations_never() {
        let mut faults = Faults::default();
        faults.add(spec(serde_json::json!({"operation": "ModifyRule", "nth": 2, "kind": "lost_answer"}))).unwrap();
        assert_eq!(faults.strike("ModifyRule"), Verdict::default());
        assert_eq!(faults.strike("CreateRule"), Verdict::default());
        assert!(faults.strike("ModifyRule").cut_after);
        assert_eq!(faults.strike("ModifyRule"), Verdict::default());
        assert!(faults.list().is_empty());
    }

    #[test]
    fn every_and_times_bound_each_other_and_kinds_add_up() {
        let mut faults = Faults::default();
        faults.add(spec(serde_json::json!({"operation": "*", "every": true, "times": 2, "kind": "throttle"}))).unwrap();
        faults.add(spec(serde_json::json!({"operation": "*", "every": true, "kind": "delay_ms", "ms": 5}))).unwrap();
        for expected in [true, true, false] {
            let verdict = faults.strike("X");
            assert_eq!(verdict.refusal.is_some(), expected);
            assert_eq!(verdict.delay_ms, 5);
        }
    }

    #[test]
    fn senseless_faults_are_refused_with_the_remedy() {
        let mut faults = Faults::default();
        let zero = spec(serde_json::json!({"operation": "*", "nth": 0, "kind": "refused"}));
        assert!(faults.add(zero).unwrap_err().contains("from 1"));
        let fine = spec(serde_json::json!({"operation": "*", "kind": "error", "code": "X", "http_status": 200}));
        assert!(faults.add(fine).unwrap_err().contains("400 to 599"));
    }
}
