//! What the store and the authority say about access, as answers of the API. Pure.

use tonic::Code;

use super::super::errors::ApiError;
use crate::{
    authority::{CannotIssue, RotateError},
    store::access::AccessError,
};

/// An answer that says no about tokens, certificates or authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AccessFault {
    /// The code of the answer.
    pub code: Code,
    /// The sentence.
    pub text: String,
}

impl AccessFault {
    /// An answer with this code.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        let code = match error {
            AccessError::Invalid { violations } => return ApiError::Invalid(violations),
            AccessError::Store(error) => return error.into(),
            AccessError::NotFound { .. } => Code::NotFound,
            AccessError::NameTaken(_) | AccessError::SecretShown { .. } | AccessError::RequestReused { .. } => {
                Code::AlreadyExists
            }
            AccessError::TooMany { .. } => Code::FailedPrecondition,
        };
        AccessFault::new(code, error.to_string()).into()
    }
}

impl From<CannotIssue> for ApiError {
    fn from(error: CannotIssue) -> Self {
        let code = match error {
            CannotIssue::NoAuthority => Code::FailedPrecondition,
            // Another replica may have the key.
            CannotIssue::NoKey(_) => Code::Unavailable,
            CannotIssue::Make(_) => Code::Internal,
        };
        AccessFault::new(code, error.to_string()).into()
    }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Access(error) => error.into(),
            RotateError::Cannot(error) => error.into(),
            RotateError::External => AccessFault::new(Code::FailedPrecondition, error.to_string()).into(),
            RotateError::Seal(error) => AccessFault::new(Code::Unavailable, error.to_string()).into(),
        }
    }
}
