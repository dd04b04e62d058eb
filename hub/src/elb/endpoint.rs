//! Where the API is, checked: signed requests must not travel in plain text, except on this machine. Reads the environment, and
//! nothing else.

use std::{net::IpAddr, time::Duration};

use http::Uri;
use switchyard_core::ids::cut;

/// The longest time that one call may be given; the lease is shorter than this in any sensible setting.
const MOST_CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A setting that is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElbError {
    /// The region.
    #[error("AWS region {value:?} is not a region name; use one such as eu-west-1")]
    Region {
        /// As given; cut.
        value: String,
    },
    /// The endpoint.
    #[error("ELBv2 endpoint {value:?} {problem}; use https://HOST, or http:// with a loopback address for the sandbox")]
    Endpoint {
        /// As given; cut, and without what may be a password.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The time limit.
    #[error("call time limit {value:?} is out of bounds; use more than 0 and at most {MOST_CALL_TIMEOUT:?}")]
    CallTimeout {
        /// As given.
        value: Duration,
    },
}

impl ElbError {
    /// What is wrong, without the value.
    pub(crate) fn problem(&self) -> String {
        match self {
            ElbError::Endpoint { problem, .. } => (*problem).to_owned(),
            other => other.to_string(),
        }
    }
}

/// What matters of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// On this machine.
    pub(crate) loopback: bool,
    /// Without TLS.
    pub(crate) plain: bool,
}

pub(crate) fn check_region(value: &str) -> Result<(), ElbError> {
    let usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // The name goes into a host name; the longest today is `us-isob-east-1`.
    if (1..=32).contains(&value.len()) && value.chars().all(usual) {
        Ok(())
    } else {
        Err(ElbError::Region { value: cut(value) })
    }
}

pub(crate) fn check_call_timeout(value: Duration) -> Result<(), ElbError> {
    if value.is_zero() || value > MOST_CALL_TIMEOUT {
        return Err(ElbError::CallTimeout { value });
    }
    Ok(())
}

pub(crate) fn check(url: &str) -> Result<Place, ElbError> {
    let fail = |problem| {
        let shown = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
        Err(ElbError::Endpoint { value: cut(shown), problem })
    };
    let Ok(uri) = url.parse::<Uri>() else {
        return fail("is not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return fail("has no scheme or no host");
    };
    if authority.as_str().contains('@') {
        return fail("holds a user name");
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(Place { loopback, plain: false }),
        "http" if loopback => Ok(Place { loopback, plain: true }),
        "http" => fail("would send signed requests in plain text"),
        _ => fail("has another scheme than https and http"),
    }
}

/// True when the environment says where credentials are. The instance metadata service is not asked: a sandbox on a machine in
/// the cloud must not be given that machine's role by accident.
pub(crate) fn credentials_in_environment() -> bool {
    const PLACES: [&str; 5] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    PLACES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_taken_on_loopback_addresses_only() {
        for url in ["http://127.0.0.1:4566", "http://[::1]:80", "http://localhost:1"] {
            assert_eq!(check(url), Ok(Place { loopback: true, plain: true }), "{url}");
        }
        let aws = check("https://elasticloadbalancing.eu-west-1.amazonaws.com");
        assert_eq!(aws, Ok(Place { loopback: false, plain: false }));
        for url in ["http://10.0.0.1", "http://example.com", "ftp://127.0.0.1", "127.0.0.1:80", "", "http://"] {
            assert!(check(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_in_the_endpoint_is_refused_and_not_shown() {
        let error = check("https://me:secret@example.com").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(error.contains("holds a user name"), "{error}");
    }

    #[test]
    fn regions_and_time_limits_are_bounded() {
        assert_eq!(check_region("cn-north-1"), Ok(()));
        for bad in ["", "eu-west-1/x", "EU", &"a".repeat(33)] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
        assert!(check_call_timeout(Duration::ZERO).is_err());
        assert!(check_call_timeout(Duration::from_secs(61)).is_err());
        assert_eq!(check_call_timeout(Duration::from_secs(5)), Ok(()));
    }
}
