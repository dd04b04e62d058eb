//! Every "no" of the gateway: its HTTP status, and the body `{code, message, details}` in the words of gRPC, whether a service said it
//! or the gateway did. Decides nothing else.

use std::fmt::Write;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use switchyard_core::policy::Violation;
use switchyard_proto::api::v1 as proto;
use tonic::{Code, Status};

use super::routes::PACKAGE;
use crate::{door::head::HeadFault, grpc::convert::to_proto_violation};

/// When a caller should try again, in seconds: what says UNAVAILABLE or "too many" is over within a take-over or two.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// What proves who calls, beside a certificate.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"switchyard\"");

/// Why a request gets no answer of a call.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A head that two readers could read in two ways, or that is too long.
    #[error("{0}")]
    Head(HeadFault),
    /// There is no such path.
    #[error("there is no path {0:?}; GET /openapi.json lists them all")]
    NoPath(String),
    /// The path takes other methods.
    #[error("this path does not take the method {method}; use {}", .allowed.join(" or "))]
    NoMethod {
        /// As sent.
        method: String,
        /// What it takes.
        allowed: Vec<&'static str>,
    },
    /// A browser sent it from a page.
    #[error("requests from web pages (header Origin) are not taken; this API is for programs")]
    FromPage,
    /// The path and query are too long.
    #[error("path and query are longer than {0} bytes; use shorter filters")]
    LongUri(usize),
    /// Not JSON.
    #[error("the content type {0:?} is not taken; send Content-Type: application/json, also with an empty body")]
    NotJson(String),
    /// A body where none is taken.
    #[error("GET and DELETE take no body; give the fields in the query, as /openapi.json says")]
    UnwantedBody,
    /// A body that is too long.
    #[error("the body is longer than {0} bytes; a manifest has at most 65536")]
    LongBody(usize),
    /// A body that did not come.
    #[error("the body did not arrive within {0:?}; send it at once")]
    SlowBody(std::time::Duration),
    /// A body that broke off.
    #[error("the body broke off; send the request again")]
    BrokenBody,
    /// Too many requests at a time.
    #[error("this hub answers {0} requests already; try again in a moment, with the same request id")]
    Busy(usize),
    /// The call takes too long.
    #[error("the call was not answered within {0:?}; it may have been done: repeat it with the same request id")]
    Late(std::time::Duration),
    /// What was sent is not a request.
    #[error("{}", sentence(.0))]
    Invalid(Vec<Violation>),
    /// The service's own answer.
    #[error("{}", .0.message())]
    Status(#[from] Status),
}

fn sentence(violations: &[Violation]) -> String {
    let mut text = String::from("the request is not valid");
    for (at, violation) in violations.iter().enumerate() {
        // Writing into a String does not fail.
        let _ = write!(text, "{} {violation}", if at == 0 { ":" } else { ";" });
    }
    text
}

impl Refusal {
    /// One field at fault.
    pub fn field(field: &str, value: &str, problem: impl Into<String>, remedy: &str) -> Self {
        Self::Invalid(vec![Violation {
            field: field.to_owned(),
            value: switchyard_core::ids::cut(value),
            problem: problem.into(),
            remedy: remedy.to_owned(),
        }])
    }

    /// The code of gRPC that says it best.
    pub fn code(&self) -> Code {
        match self {
            Self::NoPath(_) => Code::NotFound,
            Self::NoMethod { .. } => Code::Unimplemented,
            Self::FromPage => Code::PermissionDenied,
            Self::LongUri(_)
            | Self::NotJson(_)
            | Self::UnwantedBody
            | Self::LongBody(_)
            | Self::BrokenBody
            | Self::Head(_)
            | Self::Invalid(_) => Code::InvalidArgument,
            Self::SlowBody(_) | Self::Late(_) => Code::DeadlineExceeded,
            Self::Busy(_) => Code::ResourceExhausted,
            Self::Status(status) => status.code(),
        }
    }

    /// The status of HTTP.
    pub fn http(&self) -> StatusCode {
        match self {
            Self::NoMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::LongUri(_) => StatusCode::URI_TOO_LONG,
            Self::Head(HeadFault::Long | HeadFault::Many) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Head(HeadFault::TransferEncoding) => StatusCode::LENGTH_REQUIRED,
            Self::NotJson(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::LongBody(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            _ => http_of(self.code()),
        }
    }

    /// `{code, message, details}`.
    pub fn body(&self, pool: &DescriptorPool) -> Value {
        let detail = match self {
            Self::Invalid(violations) => {
                let violations = violations.iter().map(to_proto_violation).collect();
                detail(pool, self.code(), &proto::Violations { violations }.encode_to_vec())
            }
            Self::Status(status) => detail(pool, self.code(), status.details()),
            _ => None,
        };
        let details: Vec<Value> = detail.into_iter().collect();
        json!({"code": code_word(self.code()), "message": self.to_string(), "details": details})
    }

    /// As the service says it, or a moment.
    fn retry_after(&self) -> HeaderValue {
        let Self::Status(status) = self else { return RETRY_AFTER };
        let told = status.metadata().get("retry-after").and_then(|told| HeaderValue::from_bytes(told.as_bytes()).ok());
        told.unwrap_or(RETRY_AFTER)
    }

    /// The whole answer.
    pub fn into_response(self, pool: &DescriptorPool) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(pool).to_string()));
        *response.status_mut() = self.http();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(super::JSON));
        match self.http() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, self.retry_after());
            }
            StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, BEARER)),
            _ => {}
        }
        if let Self::NoMethod { allowed, .. } = &self
            && let Ok(allowed) = HeaderValue::from_str(&allowed.join(", "))
        {
            headers.insert(header::ALLOW, allowed);
        }
        response
    }
}

/// The table of google.rpc.Code.
pub fn http_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // The caller went away; nobody reads it.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The name of a code as in google.rpc.Code.
pub fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Details are the message itself, without an `Any` around it; which one it is follows from the code, as `errors.proto` says.
pub fn detail_name(code: Code) -> Option<&'static str> {
    match code {
        Code::InvalidArgument => Some("Violations"),
        Code::Aborted => Some("VersionConflict"),
        Code::FailedPrecondition => Some("Findings"),
        _ => None,
    }
}

fn detail(pool: &DescriptorPool, code: Code, bytes: &[u8]) -> Option<Value> {
    let name = format!("{PACKAGE}.{}", detail_name(code).filter(|_| !bytes.is_empty())?);
    let message = DynamicMessage::decode(pool.get_message_by_name(&name)?, bytes).ok()?;
    let mut value = serde_json::to_value(&message).ok()?;
    value.as_object_mut()?.insert("@type".to_owned(), Value::String(name));
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderMap;

    use super::*;
    use crate::gateway::routes::Table;

    fn pool() -> DescriptorPool {
        Table::new().unwrap().pool
    }

    /// Codes by number, as google.rpc.Code has them.
    const CODES: i32 = 17;

    #[test]
    fn every_code_has_a_status_and_a_name_of_its_own() {
        let codes: Vec<Code> = (0..CODES).map(Code::from).collect();
        let mut words: Vec<_> = codes.iter().map(|code| code_word(*code)).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), codes.len());
        for code in codes.into_iter().filter(|code| *code != Code::Ok) {
            let status = http_of(code);
            assert!(status.is_client_error() || status.is_server_error(), "{code:?} is {status}");
        }
    }

    #[test]
    fn violations_and_versions_come_with_the_answer() {
        let violation = proto::Violation {
            field: "spec.clusters[0].weight".to_owned(),
            value: "1000".to_owned(),
            problem: "is above 999".to_owned(),
            remedy: String::new(),
        };
        let details = proto::Violations { violations: vec![violation] }.encode_to_vec();
        let refusal = Refusal::from(Status::with_details(Code::InvalidArgument, "no", details.into()));
        assert_eq!(refusal.http(), 400);
        let expected = json!({"code": "INVALID_ARGUMENT", "message": "no", "details": [{
            "@type": "switchyard.api.v1.Violations",
            "violations": [{"field": "spec.clusters[0].weight", "value": "1000", "problem": "is above 999"}],
        }]});
        assert_eq!(refusal.body(&pool()), expected);
        let details = proto::VersionConflict { expected_version: 3, present_version: u64::MAX }.encode_to_vec();
        let refusal = Refusal::from(Status::with_details(Code::Aborted, "stale", details.into()));
        assert_eq!(refusal.http(), 409);
        assert_eq!(refusal.body(&pool())["details"][0]["presentVersion"], "18446744073709551615");
        let finding =
            proto::GuardFinding { guard: "MaxStepPercent".to_owned(), overridable: true, ..Default::default() };
        let details = proto::Findings { findings: vec![finding] }.encode_to_vec();
        let refusal = Refusal::from(Status::with_details(Code::FailedPrecondition, "held", details.into()));
        assert_eq!(refusal.http(), 400);
        let expected = json!({
            "@type": "switchyard.api.v1.Findings",
            "findings": [{"guard": "MaxStepPercent", "overridable": true}],
        });
        assert_eq!(refusal.body(&pool())["details"][0], expected);
    }

    #[test]
    fn details_that_cannot_be_read_are_left_out() {
        for code in [Code::InvalidArgument, Code::Aborted, Code::FailedPrecondition, Code::Internal] {
            let refusal = Refusal::from(Status::with_details(code, "no", vec![0xff; 3].into()));
            assert_eq!(refusal.body(&pool())["details"], json!([]));
        }
    }

    #[test]
    fn what_may_be_tried_again_says_when_and_a_wrong_method_says_which_are_right() {
        let headers = |refusal: Refusal| refusal.into_response(&pool()).into_parts().0.headers;
        for refusal in [Refusal::Busy(3), Status::unavailable("starts").into()] {
            assert_eq!(headers(refusal)[header::RETRY_AFTER], RETRY_AFTER);
        }
        assert!(!headers(Refusal::Late(Duration::from_secs(1))).contains_key(header::RETRY_AFTER));
        let told = tonic::metadata::MetadataMap::from_headers(HeaderMap::from_iter([(
            header::RETRY_AFTER,
            HeaderValue::from_static("7"),
        )]));
        let refusal = Refusal::from(Status::with_metadata(Code::ResourceExhausted, "slower", told));
        assert_eq!(headers(refusal)[header::RETRY_AFTER], "7");
        let refusal = Refusal::from(Status::unauthenticated("who?"));
        assert_eq!(headers(refusal)[header::WWW_AUTHENTICATE], "Bearer realm=\"switchyard\"");
        let refusal = Refusal::NoMethod { method: "PATCH".to_owned(), allowed: vec!["GET", "DELETE"] };
        assert_eq!(refusal.to_string(), "this path does not take the method PATCH; use GET or DELETE");
        assert_eq!(headers(refusal)[header::ALLOW], "GET, DELETE");
    }
}
