//! Tests of errors' way to the caller.

use std::time::Duration;

use switchyard_core::{
    access::{Grants, Role},
    fleet::{Mode, forecast::Verdict, machine::Refusal as Unfit},
    shift::machine::Refusal,
};

use super::*;
use crate::store::Query;

fn violation(field: &str) -> Violation {
    Violation {
        field: field.to_owned(),
        value: "1000".to_owned(),
        problem: "is above 999".to_owned(),
        remedy: "use a whole number from 0 to 999".to_owned(),
    }
}

fn key() -> PolicyKey {
    PolicyKey::new("shop", "checkout").unwrap()
}

#[test]
fn violations_are_in_the_message_and_whole_in_the_details() {
    let status = to_status(&ApiError::Invalid(vec![violation("spec.clusters[0].weight")]));
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected =
        "1 field is not valid: spec.clusters[0].weight: \"1000\" is above 999; use a whole number from 0 to 999";
    assert_eq!(status.message(), expected);
    let details = proto::Violations::decode(status.details()).unwrap();
    assert_eq!(details.violations[0].field, "spec.clusters[0].weight");
    assert_eq!(details.violations[0].remedy, "use a whole number from 0 to 999");
}

#[test]
fn a_thousand_violations_stay_within_a_header() {
    let long = |i: usize| Violation { value: "ä".repeat(256), ..violation(&format!("spec.clusters[{i}].weight")) };
    let status = to_status(&ApiError::Invalid((0..1000).map(long).collect()));
    assert!(status.message().starts_with("1000 fields are not valid"), "{}", status.message());
    assert!(status.message().len() <= MOST_MESSAGE + 3);
    assert!(status.details().len() <= MOST_DETAILS + 16);
    assert!(proto::Violations::decode(status.details()).unwrap().violations.len() >= 5);
    let few = to_status(&ApiError::Invalid((0..11).map(|i| violation(&format!("f{i}"))).collect()));
    assert!(few.message().ends_with("; and 1 more"), "{}", few.message());
    assert_eq!(proto::Violations::decode(few.details()).unwrap().violations.len(), 11);
}

fn unknown_cluster(known: usize) -> ApiError {
    let known = (0..known).map(|i| format!("c{i:02}").parse().unwrap()).collect();
    ApiError::UnknownCluster { asked: "zz".parse().unwrap(), known }
}

#[test]
fn an_unknown_cluster_is_answered_with_the_names_that_are_known() {
    let text = |known| to_status(&unknown_cluster(known)).message().to_owned();
    assert_eq!(text(2), "there is no cluster zz; the hub knows c00, c01");
    assert_eq!(text(0), "there is no cluster zz; no agent has announced any yet, and no policy names one");
    assert!(text(23).ends_with("c18, c19 and 3 more"), "{}", text(23));
}

#[test]
fn a_conflict_carries_both_versions() {
    let conflict = ApplyError::VersionConflict { expected: 3, present: 5 };
    let status = to_status(&conflict.into());
    assert_eq!(status.code(), Code::Aborted);
    let details = proto::VersionConflict::decode(status.details()).unwrap();
    assert_eq!((details.expected_version, details.present_version), (3, 5));
}

fn shift() -> ShiftId {
    "s1".parse().unwrap()
}

fn switch() -> switchyard_core::ids::SwitchName {
    "freeze".parse().unwrap()
}

fn stale() -> StartError {
    StartError::VersionConflict { policy: key(), expected: 3, present: 5 }
}

fn denied() -> ApiError {
    let (who, what) = ("corp:ann@example.com".to_owned(), "override MaxStepPercent, Capacity".to_owned());
    let touch = switchyard_core::access::Touch::Hub;
    let denied = Grants::none().check_overrides(Role::Operator, &touch).unwrap_err();
    ApiError::MayNot(Box::new(MayNot { who, what, denied }))
}

fn finding(message: &str, overridden: bool) -> Finding {
    let (guard, message) = (Guard::MaxStepPercent, message.to_owned());
    Finding { guard, policy: key(), step: 1, message, overridden, until: None }
}

#[test]
fn findings_are_in_the_message_and_in_the_details_and_fit_into_a_header() {
    let held = |findings| to_status(&ShiftError::Held { findings }.into());
    let status = held(vec![finding("too much at once", false), finding("on purpose", true)]);
    let expected = "safety rules stand in the way: too much at once; a shift may override MaxStepPercent with a reason \
                    and the right to do so";
    assert_eq!(status.message(), expected);
    let details = proto::Findings::decode(status.details()).unwrap().findings;
    let told: Vec<(&str, u32, bool)> =
        details.iter().map(|found| (found.message.as_str(), found.step, found.overridden)).collect();
    assert_eq!(told, [("too much at once", 2, false), ("on purpose", 2, true)]);
    let many = held((0..1000).map(|_| finding(&"ä".repeat(1000), false)).collect());
    assert!(many.message().len() < MOST_MESSAGE + 200, "{}", many.message().len());
    assert!(many.details().len() <= MOST_DETAILS + 16);
    let fact = Finding { guard: Guard::HealthyTargets, ..finding("no target", false) };
    assert_eq!(held(vec![fact]).message(), "safety rules stand in the way: no target");
}

#[test]
fn whoever_may_not_is_told_who_he_is_what_he_lacks_and_how_to_get_it() {
    let status = to_status(&denied());
    for part in [
        "corp:ann@example.com may not override MaxStepPercent, Capacity: ",
        "the role operator with overrides over all namespaces and all clusters is needed",
        "there is no binding for this caller",
        "yardctl whoami",
        "docs/access.md",
    ] {
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[test]
fn a_stale_policy_of_a_shift_is_named_beside_both_versions() {
    let status = to_status(&ShiftError::Start(stale()).into());
    assert!(status.message().contains("policy shop/checkout is at version 5, not at 3"), "{status:?}");
    let details = proto::VersionConflict::decode(status.details()).unwrap();
    assert_eq!((details.expected_version, details.present_version), (3, 5));
}

fn unfit() -> FleetError {
    let (cluster, mode) = ("blue".parse().unwrap(), Mode::Drained);
    Unfit::WrongMode { cluster, mode, problem: "no", remedy: "wait".to_owned() }.into()
}

fn carries(policies: usize) -> FleetError {
    let policies = (0..policies).map(|i| PolicyKey::new("shop", format!("p{i}")).unwrap()).collect();
    Unfit::StillCarries { cluster: "blue".parse().unwrap(), policies }.into()
}

fn lossy(policies: usize) -> ApiError {
    let one = |i: usize| Uncarried {
        policy: PolicyKey::new("shop", format!("p{i}")).unwrap(),
        verdict: Verdict::Overloaded,
        message: "green gets 120.0 % of what it carries".repeat(10),
    };
    ApiError::LossNotCarried {
        cluster: "blue".parse().unwrap(),
        all: policies + 1,
        uncarried: (0..policies).map(one).collect(),
    }
}

#[test]
fn what_stands_in_the_way_of_a_whole_cluster_is_told_policy_by_policy_as_far_as_a_header_holds_it() {
    let told = |error: &ApiError| {
        let status = to_status(error);
        assert!(status.message().len() <= MOST_MESSAGE + 3 && status.details().len() <= MOST_DETAILS + 16);
        (proto::Findings::decode(status.details()).unwrap().findings, status.message().to_owned())
    };
    let (found, message) = told(&unfit().into());
    assert_eq!((found[0].guard.as_str(), &found[0].policy, found.len()), ("ClusterMode", &None, 1));
    assert_eq!(message, "blue is Drained: no; wait");
    let (found, _) = told(&carries(2).into());
    let named: Vec<_> = found.iter().map(|one| one.policy.clone().unwrap().name).collect();
    assert_eq!((named, found[0].guard.as_str()), (vec!["p0".to_owned(), "p1".to_owned()], "StillCarries"));
    let (found, message) = told(&lossy(1));
    assert_eq!((found[0].guard.as_str(), found[0].overridable), ("Overloaded", false));
    assert!(message.starts_with("the loss of blue would not be carried in 1 of the 2 policies"), "{message}");
    for many in [carries(1000).into(), lossy(1000)] {
        let (found, message) = told(&many);
        assert!(found.len() >= 5 && message.len() > 100, "{message}");
    }
}

#[test]
fn every_error_has_its_code_and_a_sentence() {
    let unavailable = || StoreError::Unavailable { query: Query::PolicyGet, source: sqlx::Error::PoolTimedOut };
    let too_long = || StoreError::ListTooLong { query: Query::AuditList, limit: Duration::from_secs(3) };
    let broken = StoreError::Broken { query: Query::PolicyGet, source: sqlx::Error::PoolTimedOut };
    let reused = ApplyError::RequestReused { request_id: "r".to_owned(), method: "SetWeights".to_owned() };
    let cases: Vec<(ApiError, Code)> = vec![
        (ApplyError::Invalid { violations: vec![violation("spec")] }.into(), Code::InvalidArgument),
        (ApplyError::NotFound(key()).into(), Code::NotFound),
        (ApplyError::Deleting(key()).into(), Code::FailedPrecondition),
        (ApplyError::OwnedElsewhere { key: key(), cluster: "blue".parse().unwrap() }.into(), Code::FailedPrecondition),
        (reused.into(), Code::AlreadyExists),
        (unavailable().into(), Code::Unavailable),
        (StoreError::ListsBusy { query: Query::AuditList }.into(), Code::ResourceExhausted),
        (too_long().into(), Code::ResourceExhausted),
        (broken.into(), Code::Internal),
        (ApiError::NotFound(key()), Code::NotFound),
        (unknown_cluster(0), Code::NotFound),
        (unknown_cluster(3), Code::NotFound),
        (ApiError::NotLoaded, Code::Unavailable),
        (ApiError::NotObserved, Code::Unavailable),
        (ApiError::Shutdown, Code::Unavailable),
        (Busy::All.into(), Code::ResourceExhausted),
        (Busy::Caller { who: "ann".to_owned(), own: 2 }.into(), Code::ResourceExhausted),
        (ApiError::Internal, Code::Internal),
        (ApplyError::ShiftActive { policy: key(), shift: shift() }.into(), Code::FailedPrecondition),
        (ApplyError::Held { findings: vec![finding("x", false)] }.into(), Code::FailedPrecondition),
        (ShiftError::Invalid { violations: vec![violation("request_id")] }.into(), Code::InvalidArgument),
        (ShiftError::Start(StartError::NotFound(key())).into(), Code::NotFound),
        (ShiftError::Start(StartError::Deleting(key())).into(), Code::FailedPrecondition),
        (ShiftError::Start(StartError::Invalid(vec![violation("spec.policies[0]")])).into(), Code::InvalidArgument),
        (ShiftError::Start(stale()).into(), Code::Aborted),
        (ShiftError::NotFound(shift()).into(), Code::NotFound),
        (ShiftError::Held { findings: vec![finding("x", false)] }.into(), Code::FailedPrecondition),
        (ShiftError::Refused { shift: shift(), refusal: Refusal::GoingBack }.into(), Code::FailedPrecondition),
        (ShiftError::ResourceRefused { why: "no".to_owned() }.into(), Code::FailedPrecondition),
        (ShiftError::ResourceForgotten { shift: shift() }.into(), Code::FailedPrecondition),
        (ShiftError::RequestReused { request_id: "r".to_owned(), method: "x".to_owned() }.into(), Code::AlreadyExists),
        (ShiftError::Store(unavailable()).into(), Code::Unavailable),
        (SwitchError::Invalid { violations: vec![violation("policies")] }.into(), Code::InvalidArgument),
        (SwitchError::VersionConflict { name: switch(), expected: 1, present: 2 }.into(), Code::Aborted),
        (SwitchError::NotFound(switch()).into(), Code::NotFound),
        (SwitchError::RequestReused { request_id: "r".to_owned(), method: "x".to_owned() }.into(), Code::AlreadyExists),
        (SwitchError::Store(unavailable()).into(), Code::Unavailable),
        (ApplyError::NothingOut(key()).into(), Code::FailedPrecondition),
        (FleetError::Invalid { violations: vec![violation("reason")] }.into(), Code::InvalidArgument),
        (
            FleetError::VersionConflict { cluster: "blue".parse().unwrap(), expected: 1, present: 2 }.into(),
            Code::Aborted,
        ),
        (unfit().into(), Code::FailedPrecondition),
        (carries(1).into(), Code::FailedPrecondition),
        (FleetError::RequestReused { request_id: "r".to_owned(), method: "x".to_owned() }.into(), Code::AlreadyExists),
        (FleetError::Store(unavailable()).into(), Code::Unavailable),
        (lossy(1), Code::FailedPrecondition),
        (denied(), Code::PermissionDenied),
        (ApiError::NoShift(shift()), Code::NotFound),
        (ApiError::NothingToRollBack(key()), Code::NotFound),
        (ApiError::NotRolledBack { shift: shift(), state: State::Failed }, Code::FailedPrecondition),
        (ApiError::PoliciesGone { shift: shift(), policies: vec![key()] }, Code::NotFound),
        (ApiError::violation("id", "", "is missing", "give one"), Code::InvalidArgument),
        (ApiError::field("policy.name", PolicyKey::new("a", "").unwrap_err()), Code::InvalidArgument),
    ];
    for (error, code) in cases {
        let status = to_status(&error);
        assert_eq!(status.code(), code, "{error}");
        assert!(status.message().len() > 10, "{error}");
    }
    assert!(to_status(&unavailable().into()).message().contains("retry with the same request id"));
    let plans = to_status(&Busy::All.into());
    assert_eq!(plans.metadata().get("retry-after").unwrap(), "1");
    // The one goes away by waiting, the other by asking for less: clients repeat a call by themselves when there is a time to wait.
    let busy = to_status(&StoreError::ListsBusy { query: Query::AuditList }.into());
    assert_eq!(busy.metadata().get("retry-after").unwrap(), "1");
    let too_long = to_status(&too_long().into());
    assert!(
        too_long.metadata().get("retry-after").is_none() && too_long.message().contains("longer than 3s; ask for less")
    );
}
