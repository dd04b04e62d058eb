//! One call at AWS: its time limit, and what its end means. Retries nothing: whether, when and after which read-back a call is
//! made again is the engine's decision. The line that matters is drawn here: an error that proves that nothing was changed,
//! against one after which nobody knows.

use std::{error::Error, future::Future, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use switchyard_core::{budget::Bucket, execute::Outcome};
use tokio::time::{Instant, timeout};

use super::Elb;
use crate::metrics::{Bucket as BucketLabel, Outcome as OutcomeLabels};

/// Codes by which AWS says "slower" (the list of the AWS SDKs, and the two that ELBv2's front end uses: `Throttling` and
/// `ThrottlingException`). None of them is in ELBv2's service model.
const THROTTLING: [&str; 13] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "SlowDown",
    "PriorRequestNotComplete",
];
/// An answer of 4xx after which the call may nevertheless have been carried out.
const REQUEST_TIMEOUT: [&str; 2] = ["RequestTimeout", "RequestTimeoutException"];
/// The role is known, but its policies do not allow the call (IAM; ELBv2 uses the first).
const DENIED: [&str; 3] = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"];
/// Nobody is known by these credentials (AWS: common errors).
const UNKNOWN_CALLER: [&str; 5] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];
/// Longest text of an error that is kept: it goes into the store and to users.
const MOST_CHARACTERS: usize = 1024;

/// How a call ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// AWS said no, or the request could not be built: nothing was changed.
    Refused {
        /// The code on the wire.
        code: String,
        message: String,
    },
    /// AWS said "slower": nothing was changed.
    Throttled { message: String },
    /// No byte of the request left: nothing was changed.
    Unreachable { message: String },
    /// It may have been carried out.
    Unknown { message: String },
}

impl CallError {
    /// A request that this hub will not send.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        CallError::Refused { code: "InvalidRequest".to_owned(), message: message.into() }
    }

    fn word(&self) -> &'static str {
        match self {
            CallError::Refused { .. } => "refused",
            CallError::Throttled { .. } => "throttled",
            CallError::Unreachable { .. } => "unreachable",
            CallError::Unknown { .. } => "unknown",
        }
    }
}

impl From<CallError> for Outcome {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { code, message } => Outcome::Refused { code, message },
            CallError::Throttled { message } => Outcome::Throttled { message },
            CallError::Unreachable { message } => Outcome::Unreachable { message },
            CallError::Unknown { message } => Outcome::Unknown { message },
        }
    }
}

impl Elb {
    /// Makes the call, which the budget has admitted already, within the limit; counts it, and tells the budget of throttling.
    pub(super) async fn call<T, E>(
        &self,
        operation: &'static str,
        bucket: Bucket,
        limit: Duration,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, CallError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let started = Instant::now();
        let limit = limit.min(self.call_timeout);
        let result = match timeout(limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(classify(&error)),
            // The connection is closed with the request, but AWS may carry on.
            Err(_) => Err(CallError::Unknown { message: format!("no answer within {limit:?}") }),
        };
        let outcome = result.as_ref().err().map_or("done", CallError::word);
        let labels = OutcomeLabels { operation, outcome };
        self.metrics.aws_calls.get_or_create(&labels).inc();
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.aws_seconds.get_or_create(&labels).observe(seconds);
        if matches!(result, Err(CallError::Throttled { .. })) {
            self.budget.throttled(bucket);
            let bucket = BucketLabel { bucket: bucket.name() };
            self.metrics.aws_throttles.get_or_create(&bucket).inc();
        }
        result
    }
}

fn classify<E>(error: &SdkError<E>) -> CallError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => CallError::invalid(chain(error)),
        SdkError::DispatchFailure(_) if never_left(error) => CallError::Unreachable { message: chain(error) },
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let message = answer.err().message().unwrap_or("AWS gave no message");
            answered(status, answer.err().code(), cut(message))
        }
        SdkError::ResponseError(answer) => CallError::Unknown {
            message: cut(&format!(
                "unreadable answer with status {}: {}",
                answer.raw().status().as_u16(),
                chain(error)
            )),
        },
        _ => CallError::Unknown { message: chain(error) },
    }
}

fn answered(status: u16, code: Option<&str>, message: String) -> CallError {
    match code {
        Some(code) if THROTTLING.contains(&code) => CallError::Throttled { message },
        _ if status == 429 => CallError::Throttled { message },
        Some(code) if (400..500).contains(&status) && !REQUEST_TIMEOUT.contains(&code) => {
            let message = with_remedy(code, message);
            CallError::Refused { code: cut(code), message }
        }
        // 5xx, or an answer that is none of AWS's, such as a proxy's page: what happened behind it is not known.
        Some(code) => CallError::Unknown { message: cut(&format!("status {status}, {code}: {message}")) },
        None => {
            CallError::Unknown { message: cut(&format!("status {status} without an error code of AWS: {message}")) }
        }
    }
}

/// What the hub's owner can do about it, where AWS's own words only say what is wrong. They name the action that is missing.
fn with_remedy(code: &str, message: String) -> String {
    if DENIED.contains(&code) {
        format!("{message}; allow this in the IAM policy of the hub's role, as docs/iam.md has it")
    } else if UNKNOWN_CALLER.contains(&code) {
        format!("{message}; check where the hub has its AWS credentials from, and the machine's clock")
    } else {
        message
    }
}

/// True when the connection was not made or the request could not be signed: then no byte of it left. A connection that broke
/// later is not in here, whatever the reason.
fn never_left(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return true;
        }
        if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return client.is_connect();
        }
        next = error.source();
    }
    false
}

/// The error and its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    cut(&text)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_codes_win_over_the_status() {
        for (status, code) in [(400, "Throttling"), (400, "ThrottlingException"), (503, "RequestLimitExceeded")] {
            let error = answered(status, Some(code), "Rate exceeded".to_owned());
            assert_eq!(error.word(), "throttled", "{status} {code}");
        }
        assert_eq!(answered(429, None, String::new()).word(), "throttled");
    }

    #[test]
    fn only_an_answer_of_4xx_with_a_code_proves_that_nothing_was_changed() {
        assert_eq!(answered(400, Some("ValidationError"), String::new()).word(), "refused");
        assert_eq!(answered(403, Some("ExpiredToken"), String::new()).word(), "refused");
        for (status, code) in [
            (400, Some("RequestTimeout")),
            (500, Some("InternalFailure")),
            (503, Some("ServiceUnavailable")),
            (403, None),
            (502, None),
            (302, None),
        ] {
            assert_eq!(answered(status, code, String::new()).word(), "unknown", "{status} {code:?}");
        }
    }

    #[test]
    fn a_missing_permission_comes_with_its_remedy() {
        let words = "User: x is not authorized to perform: elasticloadbalancing:CreateRule";
        let error = answered(403, Some("AccessDenied"), words.to_owned());
        let CallError::Refused { message, .. } = error else { panic!("{error:?}") };
        assert!(message.starts_with(words) && message.contains("IAM policy of the hub's role"), "{message}");
        let CallError::Refused { message, .. } = answered(403, Some("ExpiredToken"), String::new()) else { panic!() };
        assert!(message.contains("credentials"), "{message}");
        let CallError::Refused { message, .. } = answered(400, Some("RuleNotFound"), "gone".to_owned()) else {
            panic!()
        };
        assert_eq!(message, "gone");
    }

    #[test]
    fn a_request_that_could_not_be_signed_never_left() {
        #[derive(Debug, thiserror::Error)]
        #[error("dispatch failure")]
        struct Dispatch(#[source] Box<dyn Error>);
        let unsigned = Dispatch(Box::new(CredentialsError::not_loaded("none")));
        assert!(never_left(&unsigned));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!never_left(&Dispatch(Box::new(broken))));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_boundary() {
        assert_eq!(cut(&"ä".repeat(5000)).chars().count(), MOST_CHARACTERS + 3);
    }
}
