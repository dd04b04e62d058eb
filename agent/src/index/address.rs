//! What a load balancer registers: the address of a pod, or the instance id of a node. Values only.

use std::{fmt, net::IpAddr};

/// The id of an EC2 instance as text, such as i-0123456789abcdef0. A value to copy, as addresses are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// ASCII, followed by zero bytes.
    text: [u8; InstanceId::LONGEST],
}

impl InstanceId {
    const LONGEST: usize = "i-0123456789abcdef0".len();

    /// None unless it is `i-` and 17 or 8 lower-case hexadecimal digits.
    #[must_use]
    pub fn new(id: &str) -> Option<Self> {
        let digits = id.strip_prefix("i-")?;
        let hexadecimal = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !hexadecimal || !matches!(digits.len(), 8 | 17) {
            return None;
        }
        let mut text = [0; Self::LONGEST];
        text[..id.len()].copy_from_slice(id.as_bytes());
        Some(Self { text })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.iter().take_while(|byte| **byte != 0).try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

/// What a load balancer would register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A pod's.
    Ip(IpAddr),
    /// A node.
    Instance(InstanceId),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Instance(instance) => write!(f, "{instance}"),
        }
    }
}
