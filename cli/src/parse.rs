//! The words of the command line as values: weights, policy names, durations. No IO.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil::Date, tz::TimeZone};

use crate::{error::Failure, model::PolicyRef};

/// A rule's forward action takes 0..=999 for each target group (ELBv2 API, TargetGroupTuple).
pub const MAX_WEIGHT: u32 = 999;
/// Longer waits belong into a job that is run again, not into one process.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
/// The hub's own bound on request ids.
const MAX_REQUEST_ID: usize = 128;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    #[error("'{0}' is not CLUSTER=WEIGHT; write for example blue=90")]
    NoEquals(String),
    #[error("'{0}' names no cluster; write for example blue=90")]
    NoCluster(String),
    #[error("the weight '{weight}' of cluster '{cluster}' is not a whole number; use 0 to {MAX_WEIGHT}")]
    NotANumber { cluster: String, weight: String },
    #[error("the weight {weight} of cluster '{cluster}' is above the load balancer's limit; use 0 to {MAX_WEIGHT}")]
    TooHeavy { cluster: String, weight: u64 },
    #[error("'{0}' is not a policy name; write NAME or NAMESPACE/NAME")]
    PolicyName(String),
    #[error("'{0}' is not a duration; write for example 30s, 5m or 1h30m")]
    Duration(String),
    #[error("the duration '{0}' is out of range; use more than 0 and at most 24h")]
    DurationRange(String),
    #[error("'{0}' is not a time in whole seconds; write for example 90s, 2m or 1h30m")]
    Seconds(String),
    #[error("'{0}' is no time at all; give more, or leave it out for the default")]
    NoTime(String),
    #[error("'{0}' is not a percentage from 1 to 100; write for example 25%")]
    Percent(String),
    #[error("'{0}' is not PERCENT or PERCENTxFACTOR; write for example 5 or 5x2")]
    Growth(String),
    #[error("'{0}' is not a time; write for example 2h or 7d (ago), 2026-01-02, or 2026-01-02T03:04:05Z")]
    Moment(String),
    #[error("'{0}' is neither a shift id nor a policy; write the id, NAME, or NAMESPACE/NAME")]
    ShiftName(String),
    #[error(
        "a request id has 1 to {MAX_REQUEST_ID} printable characters without spaces, this one does not; give another"
    )]
    RequestId,
    #[error("'{0}' is not a hash; give the 64 hexadecimal digits that `yardctl audit verify` calls head")]
    Hash(String),
}

/// `blue=90`.
pub fn weight(text: &str) -> Result<(String, u32), ParseError> {
    let (cluster, weight) = text.split_once('=').ok_or_else(|| ParseError::NoEquals(text.into()))?;
    if cluster.is_empty() {
        return Err(ParseError::NoCluster(text.into()));
    }
    let number: u64 =
        weight.parse().map_err(|_| ParseError::NotANumber { cluster: cluster.into(), weight: weight.into() })?;
    match u32::try_from(number) {
        Ok(weight) if weight <= MAX_WEIGHT => Ok((cluster.into(), weight)),
        _ => Err(ParseError::TooHeavy { cluster: cluster.into(), weight: number }),
    }
}

/// All weights of one command; a cluster that is named twice is a mistake, not a choice.
pub fn weights(pairs: &[(String, u32)]) -> Result<BTreeMap<String, u32>, Failure> {
    let mut map = BTreeMap::new();
    for (cluster, weight) in pairs {
        if let Some(first) = map.insert(cluster.clone(), *weight) {
            return Err(Failure::usage(
                "cannot read the weights",
                format!("cluster '{cluster}' is given twice, as {first} and as {weight}"),
                "name each cluster once",
            ));
        }
    }
    Ok(map)
}

/// A policy as typed: the namespace may come from `-n` or from the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName {
    pub namespace: Option<String>,
    pub name: String,
}

/// `checkout` or `shop/checkout`.
pub fn policy_name(text: &str) -> Result<PolicyName, ParseError> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [name] if !name.is_empty() => Ok(PolicyName { namespace: None, name: (*name).into() }),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(PolicyName { namespace: Some((*namespace).into()), name: (*name).into() })
        }
        _ => Err(ParseError::PolicyName(text.into())),
    }
}

impl PolicyName {
    /// The full name. `-n` and a namespace in the name must not contradict each other.
    pub fn resolve(&self, flag: Option<&str>) -> Result<PolicyRef, Failure> {
        let namespace = match (self.namespace.as_deref(), flag) {
            (Some(own), Some(flag)) if own != flag => {
                return Err(Failure::usage(
                    format!("cannot tell which policy '{own}/{}' is", self.name),
                    format!("-n says namespace '{flag}', the name says '{own}'"),
                    "leave out one of the two",
                ));
            }
            (Some(own), _) => own,
            (None, Some(flag)) => flag,
            (None, None) => "default",
        };
        Ok(PolicyRef { namespace: namespace.into(), name: self.name.clone() })
    }
}

/// A shift as typed: by its id, or by a policy that it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShiftName {
    Id(String),
    Policy(PolicyName),
}

/// A UUID is an id, everything else a policy. A policy whose name has the form of a UUID is written with its namespace.
pub fn shift_name(text: &str) -> Result<ShiftName, ParseError> {
    if uuid::Uuid::try_parse(text).is_ok_and(|id| id.as_hyphenated().to_string() == text) {
        return Ok(ShiftName::Id(text.into()));
    }
    policy_name(text).map(ShiftName::Policy).map_err(|_| ParseError::ShiftName(text.into()))
}

/// `90s`, `2m`, `1h30m`, `7d`: what the hub keeps in seconds.
pub fn whole_seconds(text: &str) -> Result<u32, ParseError> {
    let bad = || ParseError::Seconds(text.into());
    let duration = span(text).ok_or_else(bad)?;
    if duration.subsec_nanos() != 0 {
        return Err(bad());
    }
    u32::try_from(duration.as_secs()).map_err(|_| bad())
}

/// The same, and more than nothing.
pub fn some_seconds(text: &str) -> Result<u32, ParseError> {
    whole_seconds(text)
        .and_then(|seconds| if seconds == 0 { Err(ParseError::NoTime(text.into())) } else { Ok(seconds) })
}

/// A time that ends or begins a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long before now.
    Ago(SignedDuration),
    At(Timestamp),
}

impl Moment {
    /// The time itself; the earliest that there is when it would be before that.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
            Self::At(time) => time,
        }
    }
}

/// `2h` and `7d` mean so long ago; a date is its beginning in UTC.
pub fn moment(text: &str) -> Result<Moment, ParseError> {
    let bad = || ParseError::Moment(text.into());
    if let Ok(time) = text.parse() {
        return Ok(Moment::At(time));
    }
    if let Ok(date) = text.parse::<Date>() {
        return date.to_zoned(TimeZone::UTC).map(|zoned| Moment::At(zoned.timestamp())).map_err(|_| bad());
    }
    span(text).filter(|duration| !duration.is_negative()).map(Moment::Ago).ok_or_else(bad)
}

/// A length of time, with days of 24 hours.
fn span(text: &str) -> Option<SignedDuration> {
    let span: Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// `5` or `5x2`: the first step, and by how much each is larger than the one before (0: as the hub does by default).
pub fn growth(text: &str) -> Result<(u32, u32), ParseError> {
    let bad = |_| ParseError::Growth(text.into());
    match text.split_once('x') {
        // The API takes no factor for the default one.
        Some((_, "0")) => Err(ParseError::Growth(text.into())),
        Some((first, factor)) => Ok((first.parse().map_err(bad)?, factor.parse().map_err(bad)?)),
        None => Ok((text.parse().map_err(bad)?, 0)),
    }
}

/// `25%` or `25`.
pub fn percent(text: &str) -> Result<u32, ParseError> {
    let bad = || ParseError::Percent(text.into());
    let number = text.strip_suffix('%').unwrap_or(text).trim_end().parse().map_err(|_| bad())?;
    if (1..=100).contains(&number) { Ok(number) } else { Err(bad()) }
}

/// `30s`, `5m`, `1h30m`; more than nothing, at most a day.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let parsed: SignedDuration = text.parse().map_err(|_| ParseError::Duration(text.into()))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(duration),
        _ => Err(ParseError::DurationRange(text.into())),
    }
}

/// SHA-256 in hexadecimal digits.
pub fn hash(text: &str) -> Result<[u8; 32], ParseError> {
    let bad = || ParseError::Hash(text.into());
    let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return Err(bad());
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(bad);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| bad())?;
    }
    Ok(hash)
}

/// An id for the call, so that sending it again gives the first answer.
pub fn request_id(text: &str) -> Result<String, ParseError> {
    if text.is_empty() || text.len() > MAX_REQUEST_ID || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(ParseError::RequestId);
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_cluster_an_equals_sign_and_a_number() {
        assert_eq!(weight("blue=90"), Ok(("blue".into(), 90)));
        assert_eq!(weight("eu-west-1.blue=0"), Ok(("eu-west-1.blue".into(), 0)));
        assert_eq!(weight("blue=999"), Ok(("blue".into(), 999)));
    }

    #[test]
    fn a_bad_weight_names_the_argument_and_the_remedy() {
        for (text, expected) in [
            ("blue", "'blue' is not CLUSTER=WEIGHT; write for example blue=90"),
            ("=90", "'=90' names no cluster; write for example blue=90"),
            ("blue=", "the weight '' of cluster 'blue' is not a whole number; use 0 to 999"),
            ("blue=-1", "the weight '-1' of cluster 'blue' is not a whole number; use 0 to 999"),
            ("blue=9.5", "the weight '9.5' of cluster 'blue' is not a whole number; use 0 to 999"),
            ("blue=90=1", "the weight '90=1' of cluster 'blue' is not a whole number; use 0 to 999"),
            ("blue=1000", "the weight 1000 of cluster 'blue' is above the load balancer's limit; use 0 to 999"),
            (
                "blue=4294967296",
                "the weight 4294967296 of cluster 'blue' is above the load balancer's limit; use 0 to 999",
            ),
        ] {
            assert_eq!(weight(text).map_err(|e| e.to_string()), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_cluster_named_twice_is_refused() {
        let failure = weights(&[("blue".into(), 1), ("blue".into(), 2)]).unwrap_err();
        assert_eq!(failure.exit, crate::error::Exit::Usage);
        assert!(failure.why.contains("'blue' is given twice, as 1 and as 2"));
    }

    #[test]
    fn a_policy_name_takes_its_namespace_from_the_name_the_flag_or_the_default() {
        let of = |text: &str, flag| policy_name(text).unwrap().resolve(flag).unwrap().to_string();
        assert_eq!(of("shop/checkout", None), "shop/checkout");
        assert_eq!(of("shop/checkout", Some("shop")), "shop/checkout");
        assert_eq!(of("checkout", Some("shop")), "shop/checkout");
        assert_eq!(of("checkout", None), "default/checkout");
    }

    #[test]
    fn a_namespace_that_contradicts_the_flag_is_refused() {
        let failure = policy_name("shop/checkout").unwrap().resolve(Some("bar")).unwrap_err();
        assert_eq!(failure.exit, crate::error::Exit::Usage);
        assert_eq!(failure.why, "-n says namespace 'bar', the name says 'shop'");
    }

    #[test]
    fn a_malformed_policy_name_is_refused() {
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert_eq!(policy_name(text), Err(ParseError::PolicyName(text.into())));
        }
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "five", "m"] {
            assert_eq!(duration(text), Err(ParseError::Duration(text.into())), "{text:?}");
        }
        for text in ["0s", "-5m", "25h"] {
            assert_eq!(duration(text), Err(ParseError::DurationRange(text.into())), "{text:?}");
        }
    }

    #[test]
    fn a_request_id_is_bounded_and_printable() {
        assert_eq!(request_id("deploy-1234"), Ok("deploy-1234".into()));
        for bad in ["", "a b", "a\nb", &"x".repeat(129)] {
            assert_eq!(request_id(bad), Err(ParseError::RequestId));
        }
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        let text = format!("{}0f", "ab".repeat(31));
        let mut bytes = [0xab; 32];
        bytes[31] = 0x0f;
        assert_eq!((hash(&text), hash(&format!("sha256:{}", text.to_uppercase()))), (Ok(bytes), Ok(bytes)));
        for bad in ["", "ab", &text[1..], &format!("{text}0"), &text.replace('f', "g"), &"é".repeat(32)] {
            assert_eq!(hash(bad), Err(ParseError::Hash(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_uuid_names_a_shift_and_everything_else_a_policy() {
        let id = "019b0c3e-7c00-7000-8000-000000000001";
        assert_eq!(shift_name(id), Ok(ShiftName::Id(id.into())));
        let policy = |namespace: Option<&str>, name: &str| {
            Ok(ShiftName::Policy(PolicyName { namespace: namespace.map(Into::into), name: name.into() }))
        };
        assert_eq!(shift_name("shop/checkout"), policy(Some("shop"), "checkout"));
        assert_eq!(shift_name("checkout"), policy(None, "checkout"));
        assert_eq!(shift_name(&format!("shop/{id}")), policy(Some("shop"), id));
        assert_eq!(shift_name(&id.replace('-', "")), policy(None, &id.replace('-', "")));
        for bad in ["", "a/b/c", "/"] {
            assert_eq!(shift_name(bad), Err(ParseError::ShiftName(bad.into())));
        }
    }

    #[test]
    fn bake_times_are_whole_seconds_and_may_be_days() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("7d", 604_800)] {
            assert_eq!(whole_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "5", "-5s", "1500ms", "200000d", "2 minutes or so"] {
            assert_eq!(whole_seconds(text), Err(ParseError::Seconds(text.into())), "{text}");
        }
    }

    #[test]
    fn a_moment_is_an_age_a_date_or_a_time() {
        let now: Timestamp = "2026-01-09T03:04:05Z".parse().unwrap();
        for (text, expected) in [
            ("2h", "2026-01-09T01:04:05Z"),
            ("7d", "2026-01-02T03:04:05Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05Z"),
        ] {
            assert_eq!(moment(text).unwrap().at(now).to_string(), expected, "{text}");
        }
        for text in ["", "yesterday", "-2h", "12", "2026-13-01"] {
            assert_eq!(moment(text), Err(ParseError::Moment(text.into())), "{text}");
        }
        let long_ago = moment("7000000d").unwrap();
        assert_eq!(long_ago.at(now), Timestamp::MIN);
    }

    #[test]
    fn a_percentage_may_have_its_sign() {
        for (text, percent_of) in [("25%", 25), ("25", 25), ("1", 1), ("100 %", 100)] {
            assert_eq!(percent(text), Ok(percent_of), "{text}");
        }
        for text in ["", "%", "0", "0%", "101", "-1", "2.5", "25%%"] {
            assert_eq!(percent(text), Err(ParseError::Percent(text.into())), "{text}");
        }
    }

    #[test]
    fn growth_is_a_first_step_and_perhaps_a_factor() {
        assert_eq!((growth("5"), growth("5x3")), (Ok((5, 0)), Ok((5, 3))));
        for text in ["", "x", "5x", "x2", "5*2", "-5"] {
            assert_eq!(growth(text), Err(ParseError::Growth(text.into())), "{text}");
        }
    }
}
