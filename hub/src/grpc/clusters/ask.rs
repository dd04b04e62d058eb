//! What callers want of a whole cluster, checked field by field, and what would be stored of it. Pure. Tests are at the end of the file.

use jiff::Timestamp;
use switchyard_core::{
    fleet::{
        ClusterState, DEFAULT_STEP_PERCENT, Kind, LEAST_DRILL_SECONDS, MOST_DRILL_SECONDS, MOST_STEP_SECONDS,
        machine::{self, Command},
    },
    ids::{ClusterName, cut},
    policy::Violation,
};
use switchyard_proto::api::v1 as proto;

use crate::{
    feed::Picture,
    grpc::errors::ApiError,
    store::{Caller, ClusterWish, FleetError},
};

/// What is asked for, and of which cluster.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Of which.
    pub cluster: ClusterName,
    /// What.
    pub wish: ClusterWish,
    /// The version of the last operation that the caller has seen; 0: whatever is there.
    pub expected_version: u64,
}

impl Ask {
    fn plain(cluster: &str, kind: Kind, expected_version: u64) -> Result<Self, ApiError> {
        let wish = ClusterWish { kind, step_percent: 100, step_seconds: 0, force: false, duration_seconds: 0 };
        Ok(Self { cluster: named(cluster)?, wish, expected_version })
    }

    /// CordonCluster.
    ///
    /// # Errors
    /// A violation of the cluster's name.
    pub fn cordon(request: &proto::CordonClusterRequest) -> Result<Self, ApiError> {
        Self::plain(&request.cluster, Kind::Cordon, request.expected_version)
    }

    /// UncordonCluster.
    ///
    /// # Errors
    /// A violation of the cluster's name.
    pub fn uncordon(request: &proto::UncordonClusterRequest) -> Result<Self, ApiError> {
        Self::plain(&request.cluster, Kind::Uncordon, request.expected_version)
    }

    /// RemoveCluster.
    ///
    /// # Errors
    /// A violation of the cluster's name.
    pub fn remove(request: &proto::RemoveClusterRequest) -> Result<Self, ApiError> {
        Self::plain(&request.cluster, Kind::Remove, request.expected_version)
    }

    /// DrainCluster.
    ///
    /// # Errors
    /// Every violation.
    pub fn drain(request: &proto::DrainClusterRequest) -> Result<Self, ApiError> {
        let mut ask = Self::plain(&request.cluster, Kind::Drain, request.expected_version)?;
        let mut faults = Vec::new();
        if request.step_percent > 100 {
            let remedy = format!("use 1 to 100, or 0 for {DEFAULT_STEP_PERCENT}");
            faults.push(fault("step_percent", request.step_percent, "is above 100".to_owned(), remedy));
        }
        if request.step_seconds > MOST_STEP_SECONDS {
            let problem = format!("is above {MOST_STEP_SECONDS}, a day");
            let remedy = format!("use 0 to {MOST_STEP_SECONDS}");
            faults.push(fault("step_seconds", request.step_seconds, problem, remedy));
        }
        must_say_why(request.force && !request.dry_run, &request.reason, &mut faults);
        ask.wish.step_percent = if request.step_percent == 0 { DEFAULT_STEP_PERCENT } else { request.step_percent };
        ask.wish.step_seconds = request.step_seconds;
        ask.wish.force = request.force;
        ask.without(faults)
    }

    /// DrillClusterLoss.
    ///
    /// # Errors
    /// Every violation.
    pub fn drill(request: &proto::DrillClusterLossRequest) -> Result<Self, ApiError> {
        let mut ask = Self::plain(&request.cluster, Kind::Drill, request.expected_version)?;
        let mut faults = Vec::new();
        let seconds = request.duration_seconds;
        let nothing_yet = request.dry_run && seconds == 0;
        if !nothing_yet && !(LEAST_DRILL_SECONDS..=MOST_DRILL_SECONDS).contains(&seconds) {
            let problem = format!("is not from {LEAST_DRILL_SECONDS} to {MOST_DRILL_SECONDS}");
            let remedy = "say after how many seconds the weights return by themselves, or set dry_run".to_owned();
            faults.push(fault("duration_seconds", seconds, problem, remedy));
        }
        must_say_why(request.force && !request.dry_run, &request.reason, &mut faults);
        ask.wish.duration_seconds = seconds;
        ask.wish.force = request.force;
        ask.without(faults)
    }

    fn without(self, faults: Vec<Violation>) -> Result<Self, ApiError> {
        if faults.is_empty() { Ok(self) } else { Err(ApiError::Invalid(faults)) }
    }

    /// Refused when somebody asked for something else since the caller looked.
    ///
    /// # Errors
    /// [`FleetError::VersionConflict`].
    pub fn check_version(&self, picture: &Picture) -> Result<(), ApiError> {
        let present = picture.fleet.get(&self.cluster).map_or(0, |state| state.version);
        if self.expected_version == 0 || self.expected_version == present {
            return Ok(());
        }
        let (cluster, expected) = (self.cluster.clone(), self.expected_version);
        Err(FleetError::VersionConflict { cluster, expected, present }.into())
    }

    /// What would be stored, for dry runs; not of a removal, which depends on every policy.
    ///
    /// # Errors
    /// As the store would refuse it.
    pub fn preview(&self, caller: &Caller, picture: &Picture, now: Timestamp) -> Result<ClusterState, ApiError> {
        self.check_version(picture)?;
        let command = Command {
            kind: self.wish.kind,
            id: "dry-run".to_owned(),
            actor: caller.actor.clone(),
            reason: caller.reason.clone(),
            step_percent: self.wish.step_percent,
            step_seconds: self.wish.step_seconds,
            force: self.wish.force,
            duration_seconds: self.wish.duration_seconds,
        };
        let present = picture.fleet.get(&self.cluster).map(|state| ClusterState::clone(state));
        let made = machine::command(&self.cluster, present, &command, &[], now);
        made.map_err(|refusal| FleetError::Refused(refusal).into())
    }
}

/// The cluster that a request names.
pub fn named(cluster: &str) -> Result<ClusterName, ApiError> {
    cluster.parse().map_err(|error| ApiError::field("cluster", error))
}

fn fault(field: &str, value: u32, problem: String, remedy: String) -> Violation {
    Violation { field: field.to_owned(), value: value.to_string(), problem, remedy }
}

/// Whoever does not ask what others can carry says why, for those who read the audit log afterwards.
fn must_say_why(forced: bool, reason: &str, faults: &mut Vec<Violation>) {
    if forced && reason.trim().is_empty() {
        faults.push(Violation {
            field: "reason".to_owned(),
            value: String::new(),
            problem: "is needed with force".to_owned(),
            remedy: "say why it has to be, for the audit log".to_owned(),
        });
    }
    // As the store judges it; a dry run does not get that far.
    if reason.chars().count() > MOST_REASON || reason.contains('\0') {
        faults.push(Violation {
            field: "reason".to_owned(),
            value: cut(reason),
            problem: "is too long, or holds U+0000".to_owned(),
            remedy: "use at most 1024 characters".to_owned(),
        });
    }
}

/// Characters of a reason.
const MOST_REASON: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(result: Result<Ask, ApiError>) -> Vec<String> {
        match result {
            Err(ApiError::Invalid(faults)) => {
                assert!(faults.iter().all(|fault| !fault.problem.is_empty() && !fault.remedy.is_empty()), "{faults:?}");
                faults.into_iter().map(|fault| format!("{}={}", fault.field, fault.value)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn drain() -> proto::DrainClusterRequest {
        proto::DrainClusterRequest { cluster: "blue".to_owned(), ..Default::default() }
    }

    fn drill(seconds: u32) -> proto::DrillClusterLossRequest {
        proto::DrillClusterLossRequest { cluster: "blue".to_owned(), duration_seconds: seconds, ..Default::default() }
    }

    #[test]
    fn a_drain_has_its_defaults_and_its_limits() {
        let ask = Ask::drain(&drain()).unwrap();
        assert_eq!((ask.wish.kind, ask.wish.step_percent, ask.wish.step_seconds), (Kind::Drain, 25, 0));
        let most = proto::DrainClusterRequest { step_percent: 100, step_seconds: 86_400, ..drain() };
        let ask = Ask::drain(&most).unwrap();
        assert_eq!((ask.wish.step_percent, ask.wish.step_seconds, ask.wish.force), (100, 86_400, false));
        let wrong = proto::DrainClusterRequest { step_percent: 101, step_seconds: 86_401, force: true, ..drain() };
        assert_eq!(faults(Ask::drain(&wrong)), ["step_percent=101", "step_seconds=86401", "reason="]);
        assert_eq!(faults(Ask::drain(&proto::DrainClusterRequest::default())), ["cluster="]);
    }

    #[test]
    fn force_needs_a_reason_unless_it_is_only_tried() {
        let forced = proto::DrainClusterRequest { force: true, reason: " ".to_owned(), ..drain() };
        assert_eq!(faults(Ask::drain(&forced)), ["reason="]);
        assert!(Ask::drain(&proto::DrainClusterRequest { dry_run: true, ..forced.clone() }).unwrap().wish.force);
        assert!(Ask::drain(&proto::DrainClusterRequest { reason: "fire".to_owned(), ..forced }).unwrap().wish.force);
    }

    #[test]
    fn a_game_day_has_an_end_within_a_day() {
        for wrong in [0, 9, 86_401, u32::MAX] {
            assert_eq!(faults(Ask::drill(&drill(wrong))), [format!("duration_seconds={wrong}")]);
        }
        for right in [10, 86_400] {
            assert_eq!(Ask::drill(&drill(right)).unwrap().wish.duration_seconds, right);
        }
        let tried = |seconds| Ask::drill(&proto::DrillClusterLossRequest { dry_run: true, ..drill(seconds) });
        assert!(tried(0).is_ok());
        assert_eq!(faults(tried(5)), ["duration_seconds=5"], "a dry run says what would be refused");
    }

    #[test]
    fn names_of_clusters_are_names() {
        for wrong in ["", "Blue", "a b", "-x"] {
            let request = proto::CordonClusterRequest { cluster: wrong.to_owned(), ..Default::default() };
            assert_eq!(faults(Ask::cordon(&request)), [format!("cluster={wrong}")]);
        }
    }
}
