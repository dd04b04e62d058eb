//! The reads: what is there, as core's values. Every call takes a token of the budget, every listing is read to its end, and
//! nothing is guessed: an answer without a field that matters is an error, since an object that is missing from a reading may be
//! created a second time. Values that AWS adds one day are taken as *other*, never as a fault.

mod conditions;
mod limits;
mod load_balancers;
mod rules;
mod tags;
mod target_groups;
mod targets;

use std::{error::Error, fmt, future::Future};

use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use switchyard_core::budget::{Bucket, Class};

use super::{Elb, call::CallError};

/// Objects a page: the most that the API gives.
const PAGE_SIZE: i32 = 400;
/// Pages of one listing: 40,000 objects, more than ten times what an account may hold of any kind.
const MOST_PAGES: usize = 100;

/// A read that brought nothing; what was read before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// AWS said "slower".
    #[error("{operation} was throttled: {message}")]
    Throttled {
        /// The ELBv2 operation.
        operation: &'static str,
        /// AWS's message.
        message: String,
    },
    /// No answer, or one of a server in trouble.
    #[error("{operation} got no answer: {message}")]
    Unreachable {
        /// The ELBv2 operation.
        operation: &'static str,
        /// What went wrong.
        message: String,
    },
    /// AWS answered with an error.
    #[error("{operation} was refused with {code}: {message}")]
    Refused {
        /// The ELBv2 operation.
        operation: &'static str,
        /// The error code on the wire, such as `TargetGroupNotFound`.
        code: String,
        /// AWS's message.
        message: String,
    },
    /// An answer that lacks what it must hold.
    #[error("the answer to {operation} is not usable: {message}")]
    Malformed {
        /// The ELBv2 operation.
        operation: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl Elb {
    /// Waits for the budget and makes one read.
    async fn read<T, E>(
        &self,
        operation: &'static str,
        class: Class,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, ReadError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.budget.acquire(Bucket::Describe, class).await;
        let result = self.call(operation, Bucket::Describe, self.call_timeout, request).await;
        result.map_err(|error| match error {
            CallError::Refused { code, message } => ReadError::Refused { operation, code, message },
            CallError::Throttled { message } => ReadError::Throttled { operation, message },
            CallError::Unreachable { message } | CallError::Unknown { message } => {
                ReadError::Unreachable { operation, message }
            }
        })
    }
}

/// The way through a listing, page by page.
struct Pages {
    operation: &'static str,
    read: usize,
    marker: Option<String>,
}

impl Pages {
    fn of(operation: &'static str) -> Self {
        Self { operation, read: 0, marker: None }
    }

    /// For the next request.
    fn marker(&self) -> Option<String> {
        self.marker.clone()
    }

    /// Takes the marker of an answer. True: another page is to be read.
    fn more(&mut self, next: Option<String>) -> Result<bool, ReadError> {
        let next = next.filter(|marker| !marker.is_empty());
        self.read += 1;
        let endless = next.is_some() && (next == self.marker || self.read >= MOST_PAGES);
        if endless {
            let message = format!("the listing does not end, {} pages were read", self.read);
            return Err(malformed(self.operation, message));
        }
        self.marker = next;
        Ok(self.marker.is_some())
    }
}

fn malformed(operation: &'static str, message: impl Into<String>) -> ReadError {
    ReadError::Malformed { operation, message: message.into() }
}

/// A field that must be there.
fn required<T>(operation: &'static str, field: &str, value: Option<T>) -> Result<T, ReadError> {
    value.ok_or_else(|| malformed(operation, format!("{field} is missing")))
}

/// A text that must be there and parse.
fn parsed<T, E: fmt::Display>(
    operation: &'static str,
    field: &str,
    value: Option<&str>,
    parse: impl FnOnce(String) -> Result<T, E>,
) -> Result<T, ReadError> {
    let value = required(operation, field, value)?;
    parse(value.to_owned()).map_err(|error| malformed(operation, format!("{field}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_never_ends_is_an_error() {
        let mut pages = Pages::of("DescribeRules");
        assert_eq!(pages.more(Some("a".into())), Ok(true));
        assert!(pages.more(Some("a".into())).is_err(), "the same marker again");

        let mut pages = Pages::of("DescribeRules");
        let end = (0..1000).position(|n| pages.more(Some(n.to_string())).is_err());
        assert_eq!(end, Some(MOST_PAGES - 1));
    }

    #[test]
    fn an_empty_marker_is_the_end() {
        let mut pages = Pages::of("DescribeRules");
        assert_eq!(pages.more(Some(String::new())), Ok(false));
        assert_eq!(pages.marker(), None);
    }
}
