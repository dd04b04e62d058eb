//! Who calls, after it was proved. How it is written is the same in the audit log, in messages and in bindings.

use std::{collections::BTreeSet, fmt};

use crate::ids::ClusterName;

/// Characters of an identity in writing; the audit log keeps as many.
const MOST: usize = 256;

/// A caller, proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Anybody on this machine: the hub runs with `--dev`.
    Development,
    /// Nobody: nothing was shown to prove anything.
    Anonymous,
    /// The agent of a cluster, by a certificate of the agents' authority.
    Agent {
        /// The cluster in the certificate.
        cluster: ClusterName,
        /// Of the certificate, hexadecimal digits.
        serial: String,
    },
    /// A caller with a certificate of the callers' authority.
    Certificate {
        /// `sha256:` and 64 hexadecimal digits.
        fingerprint: String,
        /// Of the subject.
        common_name: Option<String>,
        /// The URIs among the subject's alternative names.
        uris: Vec<String>,
    },
    /// A caller with a token of an issuer that the access file names.
    Jwt {
        /// The short name of the issuer, as in the access file.
        issuer: String,
        /// The claim that names the user.
        user: String,
        /// The claim that names the groups.
        groups: BTreeSet<String>,
    },
    /// A caller with a service token of this hub.
    ServiceToken {
        /// The token's name.
        name: String,
    },
    /// The custom resources of a cluster; who may write those is for the Kubernetes RBAC of that cluster.
    Cluster(ClusterName),
}

impl Identity {
    /// How it was proved: a bounded word for metrics and `whoami`.
    pub fn method(&self) -> &'static str {
        match self {
            Identity::Development | Identity::Anonymous => "none",
            Identity::Agent { .. } | Identity::Certificate { .. } => "certificate",
            Identity::Jwt { .. } => "jwt",
            Identity::ServiceToken { .. } => "token",
            Identity::Cluster(_) => "resource",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Development => f.write_str("development"),
            Identity::Anonymous => f.write_str("anonymous"),
            Identity::Agent { cluster, .. } => write!(f, "agent:{cluster}"),
            Identity::Certificate { fingerprint, common_name, .. } => {
                // 64 bits tell apart all certificates that one installation will ever see.
                let head: String = fingerprint.chars().take("sha256:".len() + 16).collect();
                match common_name {
                    Some(name) => write!(f, "certificate:CN={} ({head})", line(name, MOST - 64)),
                    None => write!(f, "certificate:{head}"),
                }
            }
            Identity::Jwt { issuer, user, .. } => write!(f, "{issuer}:{}", line(user, MOST - 64)),
            Identity::ServiceToken { name } => write!(f, "token:{name}"),
            Identity::Cluster(cluster) => write!(f, "cluster:{cluster}"),
        }
    }
}

/// One line of printable text: what comes from outside must forge no line of a log and no column of a table.
fn line(text: &str, most: usize) -> String {
    let mut written = String::new();
    for c in text.chars() {
        let shown = if c.is_control() || is_unseen(c) { c.escape_unicode().to_string() } else { c.to_string() };
        if written.chars().count() + shown.chars().count() > most {
            written.push_str("...");
            break;
        }
        written.push_str(&shown);
    }
    written
}

/// Characters that change the order of others, or take no room.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The cluster that a SPIFFE ID `spiffe://<trust domain>/cluster/<name>` names; none for any other URI.
pub fn cluster_of_spiffe(uri: &str, trust_domain: &str) -> Option<ClusterName> {
    let name = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix("/cluster/")?;
    ClusterName::new(name).ok()
}

/// The SPIFFE ID of a cluster's agent.
pub fn spiffe_of_cluster(cluster: &ClusterName, trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/cluster/{cluster}")
}

/// Checks a trust domain: 1 to 255 lower-case letters, digits, dots, hyphens and underscores (SPIFFE ID, section 2.1).
///
/// # Errors
/// What is wrong with it, as words that follow the value.
pub fn check_trust_domain(name: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if name.is_empty() || name.len() > 255 {
        return Err("has not 1 to 255 characters");
    }
    if name.chars().all(good) {
        Ok(())
    } else {
        Err("holds other characters than a-z, 0-9, dot, hyphen and underscore")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_one_line_whatever_was_claimed() {
        let user = "ann\nlevel=error msg=\"x\"\u{1b}[31m\u{202e}";
        let identity = Identity::Jwt { issuer: "corp".into(), user: user.into(), groups: BTreeSet::new() };
        let written = identity.to_string();
        assert_eq!(written, "corp:ann\\u{a}level=error msg=\"x\"\\u{1b}[31m\\u{202e}");
        let identity = Identity::Jwt { issuer: "corp".into(), user: "\u{7}".repeat(9000), groups: BTreeSet::new() };
        assert!(identity.to_string().chars().count() <= MOST, "{identity}");
        let fingerprint = format!("sha256:{}", "ab".repeat(32));
        let identity = Identity::Certificate { fingerprint, common_name: Some("deploy".into()), uris: Vec::new() };
        assert_eq!(identity.to_string(), "certificate:CN=deploy (sha256:abababababababab)");
    }

    #[test]
    fn only_the_exact_form_of_a_spiffe_id_names_a_cluster() {
        let blue: ClusterName = "blue".parse().unwrap();
        assert_eq!(spiffe_of_cluster(&blue, "switchyard"), "spiffe://switchyard/cluster/blue");
        assert_eq!(cluster_of_spiffe("spiffe://switchyard/cluster/blue", "switchyard"), Some(blue));
        for uri in [
            "spiffe://switchyard/cluster/",
            "spiffe://switchyard/cluster/blue/",
            "spiffe://switchyard/cluster/blue/admin",
            "spiffe://switchyard/cluster/Blue",
            "spiffe://switchyard/cluster/blue?x",
            "spiffe://switchyard/cluster/%62lue",
            "spiffe://switchyard.example/cluster/blue",
            "spiffe://switchyardx/cluster/blue",
            "spiffe://other/cluster/blue",
            "SPIFFE://switchyard/cluster/blue",
            "https://switchyard/cluster/blue",
            "spiffe://switchyard/../cluster/blue",
            "",
        ] {
            assert_eq!(cluster_of_spiffe(uri, "switchyard"), None, "{uri}");
        }
        for wrong in ["", "Switchyard", "a/b", "a b"] {
            assert!(check_trust_domain(wrong).is_err(), "{wrong}");
        }
        assert!(check_trust_domain("prod.example.com").is_ok());
    }
}
