//! Names and numbers with their bounds, checked once where they enter. Tests are at the end of the file.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A value that does not fit its type: what it was meant to be, the value (cut to 256 characters), what is wrong, what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}; {remedy}")]
pub struct IdError {
    /// What the value was meant to be, such as "cluster name".
    pub what: &'static str,
    /// The value as it came, cut to 256 characters.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl IdError {
    fn new(what: &'static str, value: &str, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self { what, value: cut(value), problem: problem.into(), remedy }
    }
}

/// At most 256 characters of a text from outside, for messages.
pub fn cut(text: &str) -> String {
    const MOST: usize = 256;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

const LABEL_REMEDY: &str =
    "use at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends (RFC 1123 label)";

fn dns_label(what: &'static str, value: &str, most: usize, dots: bool) -> Result<(), IdError> {
    let remedy = if dots {
        "use at most 253 lower-case letters, digits, hyphens and dots, with a letter or digit at both ends (RFC 1123 subdomain)"
    } else {
        LABEL_REMEDY
    };
    let fail = |problem: String| Err(IdError::new(what, value, problem, remedy));
    if value.is_empty() {
        return fail("is empty".into());
    }
    if value.len() > most {
        return fail(format!("has {} characters", value.len()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
    if let Some(bad) = value.chars().find(|c| !allowed(*c)) {
        return fail(format!("holds the character {bad:?}"));
    }
    if value.split('.').any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-')) {
        return fail("starts or ends with a hyphen or a dot".into());
    }
    Ok(())
}

fn token(what: &'static str, value: &str, most: usize) -> Result<(), IdError> {
    let remedy = "use printable ASCII without spaces, within the length";
    if value.is_empty() || value.len() > most {
        return Err(IdError::new(
            what,
            value,
            format!("has {} characters, 1 to {most} are allowed", value.len()),
            remedy,
        ));
    }
    if value.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(IdError::new(what, value, "holds a character that is not printable ASCII", remedy));
    }
    Ok(())
}

fn tag_word(what: &'static str, value: &str, most: usize) -> Result<(), IdError> {
    token(what, value, most)?;
    match value.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._".contains(*c))) {
        None => Ok(()),
        Some(bad) => {
            let remedy = "use letters, digits, hyphens, dots and underscores";
            Err(IdError::new(what, value, format!("holds the character {bad:?}"), remedy))
        }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the value.
            ///
            /// # Errors
            /// [`IdError`] when the value is out of the bounds of this type.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                let check: fn(&'static str, &str) -> Result<(), IdError> = $check;
                check($what, &value)?;
                Ok(Self(value))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

text_id!(
    /// The name of a member cluster: an RFC 1123 label, at most 63 characters.
    ClusterName, "cluster name", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// A Kubernetes namespace: an RFC 1123 label, at most 63 characters.
    Namespace, "namespace", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// The name of a ClusterTrafficPolicy: an RFC 1123 subdomain, at most 253 characters.
    PolicyName, "policy name", |what, v| dns_label(what, v, 253, true)
);
text_id!(
    /// The name of a Kubernetes Service: an RFC 1123 label, at most 63 characters.
    ServiceName, "Service name", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// A Service port as a policy names it: its name, or its number in decimal.
    ServicePort, "Service port", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// The UID of a pod; unique in space and time. Empty for an address that belongs to no pod is not representable: such
    /// endpoints carry the word `none`.
    PodUid, "pod UID", |what, v| token(what, v, 128)
);
text_id!(
    /// The UID of a Kubernetes resource; unique in space and time.
    ResourceUid, "resource UID", |what, v| token(what, v, 128)
);
text_id!(
    /// The id of a VPC, such as `vpc-0a1b2c3d`.
    VpcId, "VPC id", |what, v| token(what, v, 64)
);
text_id!(
    /// The unique id of one policy object; a policy that is deleted and created again gets another.
    PolicyUid, "policy UID", |what, v| token(what, v, 64)
);
text_id!(
    /// The unique id of one shift, made by the hub.
    ShiftId, "shift id", |what, v| token(what, v, 64)
);
text_id!(
    /// The name of a gating switch: an RFC 1123 label, at most 63 characters.
    SwitchName, "switch name", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// The name of something that the hub was given to measure with (a Prometheus server, a webhook), or of a gate: an RFC 1123
    /// label, at most 63 characters.
    SourceName, "name", |what, v| dns_label(what, v, 63, false)
);
text_id!(
    /// The id of this Switchyard installation, written into the ownership tag of everything it creates: at most 64 letters,
    /// digits, hyphens, dots and underscores, since it is also part of a tag's key.
    HubId, "hub id", |what, v| tag_word(what, v, 64)
);

/// The id of an EC2 instance: `i-` and 17 hexadecimal digits, or 8 for instances from before 2018 (EC2 user guide, "Resource
/// IDs"). A value to copy, since every target of a group of nodes carries one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// Lower-case digits; those of a short id are followed by zero bytes.
    digits: [u8; InstanceId::LONG],
}

impl InstanceId {
    const LONG: usize = 17;
    const SHORT: usize = 8;

    /// Checks and takes the id.
    ///
    /// # Errors
    /// [`IdError`] when it is not the id of an instance.
    pub fn new(value: &str) -> Result<Self, IdError> {
        let fail = || {
            let remedy = "use the instance's id as EC2 shows it: i- and 17 (or 8) lower-case hexadecimal digits";
            IdError::new("instance id", value, "is not the id of an EC2 instance", remedy)
        };
        let given = value.strip_prefix("i-").ok_or_else(fail)?.as_bytes();
        let hexadecimal = given.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !hexadecimal || !matches!(given.len(), Self::SHORT | Self::LONG) {
            return Err(fail());
        }
        let mut digits = [0; Self::LONG];
        digits[..given.len()].copy_from_slice(given);
        Ok(Self { digits })
    }

    /// A number in which ids differ; not all of the id.
    pub(crate) fn hash_bits(self) -> u32 {
        let hash = |number: u32, digit: &u8| number.wrapping_mul(31).wrapping_add(u32::from(*digit));
        self.digits.iter().fold(0, hash)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("i-")?;
        self.digits.iter().take_while(|digit| **digit != 0).try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

impl FromStr for InstanceId {
    type Err = IdError;
    fn from_str(value: &str) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        Self::new(&value)
    }
}

impl From<InstanceId> for String {
    fn from(value: InstanceId) -> String {
        value.to_string()
    }
}

/// Namespace and name of a policy; written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyKey {
    /// The namespace, whose Services the policy routes to.
    pub namespace: Namespace,
    /// The name within the namespace.
    pub name: PolicyName,
}

impl PolicyKey {
    /// Checks and takes both parts.
    ///
    /// # Errors
    /// [`IdError`] naming the part that is out of bounds.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, IdError> {
        Ok(Self { namespace: Namespace::new(namespace)?, name: PolicyName::new(name)? })
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A weight of a target group in a forward action: 0..=999 (ELBv2 API, `TargetGroupTuple.Weight`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u16);

impl Weight {
    /// No new requests.
    pub const ZERO: Weight = Weight(0);
    /// The largest weight that ELBv2 takes.
    pub const MAX: Weight = Weight(999);

    /// Checks and takes the number.
    ///
    /// # Errors
    /// [`IdError`] above 999.
    pub fn new(value: u32) -> Result<Self, IdError> {
        match u16::try_from(value) {
            Ok(weight) if weight <= Self::MAX.0 => Ok(Self(weight)),
            _ => Err(IdError::new("weight", &value.to_string(), "is above 999", "use a whole number from 0 to 999")),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }

    /// True when the load balancer sends requests by this weight.
    pub fn carries(self) -> bool {
        self.0 > 0
    }
}

impl TryFrom<u32> for Weight {
    type Error = IdError;
    fn try_from(value: u32) -> Result<Self, IdError> {
        Self::new(value)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> u32 {
        weight.get()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of the hub lease under which a write was made; counts up with each take-over, never down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_above_999_is_refused_with_the_value_and_a_remedy() {
        let error = Weight::new(1000).unwrap_err().to_string();
        assert_eq!(error, "weight \"1000\" is above 999; use a whole number from 0 to 999");
        assert_eq!(Weight::new(999).unwrap().get(), 999);
    }

    #[test]
    fn names_follow_kubernetes_rules() {
        for good in ["a", "blue", "eu-1", "0a"] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä"] {
            assert!(ClusterName::new(bad).is_err(), "{bad}");
        }
        assert!(ClusterName::new("a".repeat(64)).is_err());
        assert!(PolicyName::new("a.b").is_ok());
        assert!(PolicyName::new("a..b").is_err());
    }

    #[test]
    fn an_instance_id_has_17_or_8_hexadecimal_digits_and_reads_as_it_was_written() {
        for good in ["i-0123456789abcdef0", "i-1a2b3c4d"] {
            assert_eq!(InstanceId::new(good).unwrap().to_string(), good);
        }
        let bad =
            ["", "i-", "i-0", "i-0123456789abcdef", "i-0123456789abcdef01", "i-1A2B3C4D", "i-1a2b3c4g", "1a2b3c4d"];
        for bad in bad {
            let error = InstanceId::new(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("17 (or 8)"), "{error}");
        }
    }

    #[test]
    fn a_long_value_is_cut_in_the_message_at_a_character_boundary() {
        let error = ClusterName::new("ä".repeat(10_000)).unwrap_err();
        assert_eq!(error.value.chars().count(), 256 + 3);
    }
}
