//! Every status has one exit code, one text and one remedy.

use super::*;

const ALL: [(Code, Exit, Exit); 16] = [
    (Code::Cancelled, Exit::Unavailable, Exit::Timeout),
    (Code::Unknown, Exit::Internal, Exit::Internal),
    (Code::InvalidArgument, Exit::Invalid, Exit::Invalid),
    (Code::DeadlineExceeded, Exit::Unavailable, Exit::Timeout),
    (Code::NotFound, Exit::NotFound, Exit::NotFound),
    (Code::AlreadyExists, Exit::Conflict, Exit::Conflict),
    (Code::PermissionDenied, Exit::Denied, Exit::Denied),
    (Code::ResourceExhausted, Exit::Unavailable, Exit::Unavailable),
    (Code::FailedPrecondition, Exit::Conflict, Exit::Conflict),
    (Code::Aborted, Exit::Conflict, Exit::Conflict),
    (Code::OutOfRange, Exit::Internal, Exit::Internal),
    (Code::Unimplemented, Exit::Internal, Exit::Internal),
    (Code::Internal, Exit::Internal, Exit::Internal),
    (Code::Unavailable, Exit::Unavailable, Exit::Unavailable),
    (Code::DataLoss, Exit::Internal, Exit::Internal),
    (Code::Unauthenticated, Exit::Denied, Exit::Denied),
];

#[test]
fn every_grpc_code_has_one_exit_code_for_reads_and_one_for_writes() {
    for (code, read, write) in ALL {
        let status = Status::new(code, "because");
        let failure = from_status("cannot look", "http://h", Kind::Read, &status);
        assert_eq!(failure.exit, read, "{code:?} of a read");
        assert!(!failure.remedy.is_empty(), "{code:?} has no remedy");
        assert_eq!(failure.why, "because");
        let failure = from_status("cannot write", "http://h", Kind::Write { request_id: "r-1" }, &status);
        assert_eq!(failure.exit, write, "{code:?} of a write");
    }
}

#[test]
fn an_unanswered_write_names_the_request_id_that_makes_repeating_safe() {
    for code in [Code::Unavailable, Code::DeadlineExceeded] {
        let kind = Kind::Write { request_id: "r-77" };
        let failure = from_status("cannot set weights", "http://h", kind, &Status::new(code, "x"));
        assert!(failure.remedy.contains("--request-id r-77"), "{code:?}: {}", failure.remedy);
    }
}

#[test]
fn violations_are_reported_as_field_value_problem_and_remedy() {
    let details = pb::Violations {
        violations: vec![pb::Violation {
            field: "spec.clusters[1].weight".into(),
            value: "1000".into(),
            problem: "is above 999".into(),
            remedy: "use 0 to 999".into(),
        }],
    };
    let status = Status::with_details(
        Code::InvalidArgument,
        "1 field is not valid: spec.clusters[1].weight: \"1000\" is above 999; use 0 to 999",
        details.encode_to_vec().into(),
    );
    let report = from_status("cannot apply a.yaml", "http://h", Kind::Read, &status).report();
    assert_eq!(
        report,
        "error: cannot apply a.yaml: 1 field is not valid\n  spec.clusters[1].weight = 1000\n    \
         problem: is above 999\n    remedy:  use 0 to 999\n"
    );
}

#[test]
fn a_version_conflict_names_both_versions_and_the_flag_that_resolves_it() {
    let details = pb::VersionConflict { expected_version: 3, present_version: 5 };
    let status = Status::with_details(Code::Aborted, "stale", details.encode_to_vec().into());
    let failure = from_status("cannot apply", "http://h", Kind::Read, &status);
    assert_eq!(failure.exit, Exit::Conflict);
    assert_eq!(failure.why, "version 3 was expected, version 5 is there");
    assert!(failure.remedy.contains("--expected-version 5"));
}

#[test]
fn details_that_are_not_ours_fall_back_to_the_message() {
    for code in [Code::Aborted, Code::InvalidArgument] {
        let status = Status::with_details(code, "plain message", vec![0xff, 0xff, 0xff].into());
        let failure = from_status("cannot apply", "http://h", Kind::Read, &status);
        assert_eq!(failure.why, "plain message");
        assert!(failure.violations.is_empty());
    }
}

#[test]
fn escape_sequences_from_another_machine_do_not_reach_the_terminal() {
    let failure = Failure::new(Exit::Internal, "a\u{1b}[2Jb", "c\nd", "");
    assert_eq!(failure.report(), "error: a [2Jb: c d\n");
}
/// A status as tonic makes it on this side, with its cause.
fn made_here(code: Code, cause: &str) -> Status {
    let mut status = Status::new(code, "transport error");
    status.set_source(std::sync::Arc::new(std::io::Error::other(cause.to_owned())));
    status
}

#[test]
fn a_broken_connection_is_tried_again_and_ends_as_unavailable() {
    for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal] {
        let status = made_here(code, "connection reset by peer");
        assert!(is_transient(&status), "{code:?}");
        let failure = from_status("cannot look", "http://h", Kind::Read, &status);
        assert_eq!(
            (failure.exit, failure.why.as_str()),
            (Exit::Unavailable, "transport error: connection reset by peer")
        );
        assert_eq!(is_transient(&Status::new(code, "said by the hub")), code == Code::Unavailable, "{code:?}");
    }
}

/// A status as it comes of a handshake that failed.
fn handshake(code: Code, why: rustls::Error) -> Status {
    let mut status = Status::new(code, "transport error");
    status.set_source(std::sync::Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, why)));
    status
}

#[test]
fn what_is_wrong_with_certificates_is_not_tried_again_and_each_cause_has_its_remedy() {
    use rustls::{AlertDescription, CertificateError, Error};
    let certificate = Error::InvalidCertificate;
    for (cause, exit, part) in [
        (certificate(CertificateError::UnknownIssuer), Exit::Unavailable, "with --tls-ca"),
        (certificate(CertificateError::BadSignature), Exit::Unavailable, "with --tls-ca"),
        (certificate(CertificateError::NotValidForName), Exit::Unavailable, "with --tls-server-name"),
        (certificate(CertificateError::Expired), Exit::Unavailable, "renew the certificate of the hub"),
        (certificate(CertificateError::NotValidYet), Exit::Unavailable, "compare the clock"),
        (certificate(CertificateError::InvalidPurpose), Exit::Unavailable, "for servers"),
        (Error::AlertReceived(AlertDescription::ProtocolVersion), Exit::Unavailable, "TLS 1.3 only"),
        (Error::AlertReceived(AlertDescription::NoApplicationProtocol), Exit::Unavailable, "port of the hub's gRPC"),
        (Error::AlertReceived(AlertDescription::CertificateRequired), Exit::Denied, "--tls-cert"),
    ] {
        for code in [Code::Unavailable, Code::Unknown] {
            let status = handshake(code, cause.clone());
            assert!(!is_transient(&status), "{cause}");
            let failure = from_status("cannot look", "https://h", Kind::Read, &status);
            assert_eq!(failure.exit, exit, "{cause}");
            assert!(failure.remedy.contains(part), "{cause}: {}", failure.remedy);
        }
    }
}

#[test]
fn an_alert_that_http_2_hands_on_as_text_is_one_too() {
    let status = made_here(Code::Unknown, "received fatal alert: CertificateRequired");
    assert!(!is_transient(&status));
    let failure = from_status("cannot look", "https://h", Kind::Read, &status);
    assert!(failure.exit == Exit::Denied && failure.remedy.contains("--tls-cert"), "{failure:?}");
}

#[test]
fn whoever_does_not_reach_the_hub_is_told_the_way_through_a_tunnel() {
    for hub in ["http://127.0.0.1:7400", "https://hub.example.com"] {
        let failure = from_status("cannot look", hub, Kind::Read, &made_here(Code::Unavailable, "connection refused"));
        for part in [hub, "kubectl port-forward", "https://", "--tls-server-name"] {
            assert!(failure.remedy.contains(part), "{hub}: {}", failure.remedy);
        }
    }
}

#[test]
fn a_timeout_that_was_noticed_on_this_side_is_a_timeout_and_not_a_broken_connection() {
    let mut status = Status::cancelled("Timeout expired");
    status.set_source(std::sync::Arc::new(tonic::TimeoutExpired(())));
    assert!(!is_transient(&status));
    assert_eq!(from_status("x", "h", Kind::Write { request_id: "r" }, &status).exit, Exit::Timeout);
}
