//! What can go wrong, as exit codes and as text for people.
//!
//! The only place that maps gRPC statuses to exit codes. Must not print: `commands` does that, once, at the end.

use std::{fmt, time::Duration};

use prost::Message;
use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tonic::{Code, Status};

use crate::{
    finding::{Crossing, finding_block},
    model::{Finding, Violation},
    text::plain,
    trouble::Trouble,
};

/// Exit codes of the process. They are part of the interface: CD systems branch on them. See docs/yardctl.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Internal,
    Usage,
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Timeout,
    /// What was waited for will not come: of a policy version.
    Superseded,
    /// What was waited for will not come: of a shift.
    Ended,
    Denied,
    /// The audit log was changed, cut or written anew.
    Broken,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Internal | Self::Broken => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Unavailable => 6,
            Self::Timeout => 7,
            Self::Superseded | Self::Ended => 8,
            Self::Denied => 9,
        }
    }

    /// The stable word for `-o json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Superseded => "superseded",
            Self::Ended => "ended",
            Self::Denied => "denied",
            Self::Broken => "broken",
        }
    }
}

/// A command that did not do what was asked: what, why, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Failure {
    pub exit: Exit,
    pub what: String,
    pub why: String,
    pub remedy: String,
    pub violations: Vec<Violation>,
    /// Safety rules and facts that stand in the way of a shift. Boxed: every result of this program has room for a failure.
    pub findings: Box<[Finding]>,
    /// How these can be crossed.
    pub crossing: Crossing,
    /// The hub's verdict, where it gave one.
    pub code: Option<Code>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: why.to_string(),
            remedy: remedy.into(),
            violations: vec![],
            findings: Box::default(),
            crossing: Crossing::default(),
            code: None,
        }
    }

    pub fn usage(what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, why, remedy)
    }

    /// The block for stderr: the line `error: what: why`, then violations and findings, then the remedy.
    pub fn report(&self) -> String {
        let mut text = format!("error: {}: {}\n", plain(&self.what), plain(&self.why));
        for violation in &self.violations {
            text.push_str(&format!(
                "  {} = {}\n    problem: {}\n    remedy:  {}\n",
                plain(&violation.field),
                if violation.value.is_empty() { "(empty)".into() } else { plain(&violation.value) },
                plain(&violation.problem),
                plain(&violation.remedy),
            ));
        }
        self.findings.iter().for_each(|finding| text.push_str(&finding_block(finding, self.crossing)));
        if !self.remedy.is_empty() {
            text.push_str(&format!("remedy: {}\n", plain(&self.remedy)));
        }
        text
    }
}

/// A failure as a document for `-o json|yaml`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub code: u8,
    pub kind: &'static str,
    pub what: String,
    pub why: String,
    pub remedy: String,
    pub violations: Vec<Violation>,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(failure: &Failure) -> Self {
        Self {
            code: failure.exit.code(),
            kind: failure.exit.word(),
            what: failure.what.clone(),
            why: failure.why.clone(),
            remedy: failure.remedy.clone(),
            violations: failure.violations.clone(),
            findings: failure.findings.to_vec(),
        }
    }
}

/// What the call was, which decides what an unanswered one means.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Changes nothing: an unanswered call can simply be made again.
    Read,
    /// May have been carried out although no answer came; the same id is safe to send again.
    Write { request_id: &'a str },
}

/// The failure for a status that a call ended with. `what` reads like "cannot set weights of shop/checkout".
pub fn from_status(what: &str, hub: &str, kind: Kind<'_>, status: &Status) -> Failure {
    Failure { code: Some(status.code()), ..told(what, hub, kind, status) }
}

fn told(what: &str, hub: &str, kind: Kind<'_>, status: &Status) -> Failure {
    let again = match kind {
        Kind::Read => String::new(),
        Kind::Write { request_id } => {
            format!(
                "; whether it was carried out is not known, and the same command with --request-id {request_id} is safe to repeat"
            )
        }
    };
    let (exit, remedy) = match status.code() {
        _ if let Some(trouble) = Trouble::of(status) => trouble.remedy(hub, &again),
        Code::FailedPrecondition if !findings(status).is_empty() => return held(what, status),
        Code::InvalidArgument | Code::FailedPrecondition => return refused(what, status),
        Code::Aborted => return conflict(what, status),
        Code::AlreadyExists => (Exit::Conflict, "give another --request-id, or none: each call has its own".to_owned()),
        Code::NotFound => (
            Exit::NotFound,
            "look for the right name with `yardctl get policies`, or with `yardctl history` for a shift".to_owned(),
        ),
        Code::Unauthenticated => (
            Exit::Denied,
            "prove who you are with a token that has neither ended nor been revoked (--token-file, or the variable \
             SWITCHYARD_TOKEN), or with --tls-cert and --tls-key; `yardctl whoami` shows who the hub takes you for"
                .into(),
        ),
        Code::PermissionDenied => (
            Exit::Denied,
            "see with `yardctl whoami` who you are to the hub and what you may do; an admin of the hub gives rights"
                .into(),
        ),
        Code::ResourceExhausted => (
            Exit::Unavailable,
            format!("{}ask less often, or give a longer --timeout, then try again{again}", in_time(status)),
        ),
        Code::Unavailable => (
            Exit::Unavailable,
            format!("see that the hub at {hub} runs and that --hub is right, then try again{again}"),
        ),
        Code::DeadlineExceeded | Code::Cancelled => match kind {
            Kind::Read => (Exit::Unavailable, format!("see that the hub at {hub} is well, or give a longer --timeout")),
            Kind::Write { .. } => (Exit::Timeout, format!("give a longer --timeout{again}")),
        },
        Code::Unimplemented => (
            Exit::Internal,
            "the hub does not know this call: use a yardctl of the hub's version, or update the hub".into(),
        ),
        // OUT_OF_RANGE is what tonic makes of an answer that is larger than this program takes.
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::OutOfRange => {
            (Exit::Internal, format!("look into the hub's log{again}"))
        }
    };
    Failure::new(exit, what, with_causes(status), remedy)
}

/// When the hub says that it can be asked again.
fn in_time(status: &Status) -> String {
    retry_after(status).map(|told| format!("wait {told:?}, ")).unwrap_or_default()
}

/// How long the hub wants not to be asked again: the metadata `retry-after`, in seconds.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let seconds: u32 = status.metadata().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// What stands in the way, where the hub says so in the details. They carry the message itself, as violations do.
fn findings(status: &Status) -> Vec<Finding> {
    let decoded = pb::Findings::decode(status.details()).unwrap_or_default();
    // Another message's bytes may decode, too: a finding names its rule.
    let findings: Vec<Finding> = decoded.findings.into_iter().map(Finding::from).collect();
    if findings.iter().all(|finding| !finding.guard.is_empty()) { findings } else { vec![] }
}

/// Safety rules or facts stand in the way; nothing was stored.
fn held(what: &str, status: &Status) -> Failure {
    let remedy = "nothing was changed; see what would be done with --dry-run";
    // The hub's message goes on to repeat the findings after its first words.
    Failure { findings: findings(status).into(), ..Failure::new(Exit::Conflict, what, first_words(status), remedy) }
}

fn refused(what: &str, status: &Status) -> Failure {
    let violations: Vec<Violation> = pb::Violations::decode(status.details())
        .map(|details| details.violations.into_iter().map(Violation::from).collect())
        .unwrap_or_default();
    if violations.is_empty() {
        // FAILED_PRECONDITION: the request is sound, the policy's state does not allow it now.
        let (exit, remedy) = match status.code() {
            Code::FailedPrecondition => (
                Exit::Conflict,
                "look with `yardctl status`, and with `yardctl history --active` for shifts; try again when it allows this",
            ),
            _ => (Exit::Invalid, "correct what the hub names, then try again"),
        };
        return Failure::new(exit, what, with_causes(status), remedy);
    }
    // The hub's message goes on to repeat the violations after its first words.
    Failure { violations, ..Failure::new(Exit::Invalid, what, first_words(status), "") }
}

fn first_words(status: &Status) -> String {
    let message = with_causes(status);
    message.split_once(": ").map_or(message.as_str(), |(first, _)| first).to_owned()
}

fn conflict(what: &str, status: &Status) -> Failure {
    match pb::VersionConflict::decode(status.details()) {
        Ok(conflict) if conflict != pb::VersionConflict::default() => Failure::new(
            Exit::Conflict,
            what,
            format!(
                "{}version {} was expected, version {} is there",
                whose(status).map(|whose| format!("{whose}: ")).unwrap_or_default(),
                conflict.expected_version,
                conflict.present_version
            ),
            format!(
                "somebody changed it: read it again with `yardctl status`, then repeat with --expected-version {}",
                conflict.present_version
            ),
        ),
        _ => Failure::new(
            Exit::Conflict,
            what,
            with_causes(status),
            "read the present state with `yardctl status`, then try again",
        ),
    }
}

/// What the version is of, where the hub's sentence names it: one call may be about several policies.
fn whose(status: &Status) -> Option<&str> {
    let (whose, _) = status.message().split_once(" is at version ")?;
    (whose != "the policy").then_some(whose)
}

/// The message with its causes: tonic's own statuses say only "transport error", the cause names the port or certificate.
pub fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let line = error.to_string();
        if !line.is_empty() && !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        cause = error.source();
    }
    if text.is_empty() { format!("the hub answered {:?} and no message", status.code()) } else { text }
}

/// Whether the same call may be sent again: the hub said UNAVAILABLE, or the connection broke under the call. Wrong
/// certificates stay wrong.
pub fn is_transient(status: &Status) -> bool {
    match Trouble::of(status) {
        Some(trouble) => trouble == Trouble::Broken,
        None => status.code() == Code::Unavailable,
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
