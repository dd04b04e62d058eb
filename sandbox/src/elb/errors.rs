//! The error of one API call, as it goes over the wire. Decides no policy: every operation builds its own.
//!
//! Codes are wire codes (shape name without `Exception`), because clients match on those. Must not import the
//! state, HTTP or the data plane.

use std::borrow::Cow;

/// One refused call: the wire code, a message that names field, value and remedy, and the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub code: Cow<'static, str>,
    pub message: String,
    /// 400 for nearly everything; 500 and 503 only for scripted faults.
    pub status: u16,
}

impl ApiError {
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), status: 400 }
    }

    pub fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationError", message)
    }

    pub fn config(message: impl Into<String>) -> Self {
        Self::new("InvalidConfigurationRequest", message)
    }

    pub fn throttled() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    pub fn listener_not_found(arn: &str) -> Self {
        Self::new("ListenerNotFound", format!("One or more listeners not found: '{arn}'"))
    }

    pub fn rule_not_found(arn: &str) -> Self {
        Self::new("RuleNotFound", format!("One or more rules not found: '{arn}'"))
    }

    pub fn group_not_found(name: &str) -> Self {
        Self::new("TargetGroupNotFound", format!("One or more target groups not found: '{name}'"))
    }

    pub fn load_balancer_not_found(name: &str) -> Self {
        Self::new("LoadBalancerNotFound", format!("Load balancers '[{name}]' not found"))
    }

    /// A quota is full: the message carries what is held, so that a ledger on the other side can be checked.
    pub fn quota(code: &'static str, what: &str, have: usize, max: u64) -> Self {
        Self::new(code, format!("The maximum number of {what} has been reached: {have} of {max}"))
    }

    pub fn sender_fault(&self) -> bool {
        self.status < 500
    }
}

/// Why the server could not run. Errors of single connections are logged where they happen and end there.
#[derive(Debug, thiserror::Error)]
pub enum ElbError {
    #[error("this load balancer is already being served; serve() may be called once per Elb")]
    AlreadyServing,
}
