//! The access file: which issuers' tokens prove who callers and agents are, and who may do what. Checked as a whole; a file with a
//! fault is refused as a whole, so that nobody loses or gains rights by a slip of the pen in another line.

mod check;
mod raw;
mod report;

use std::collections::{BTreeMap, BTreeSet};

pub use raw::{RawAccess, RawAgent, RawBinding, RawCertificate, RawIssuer, RawJwks, RawSubject};

use super::{Grant, Grants, Identity};
use crate::ids::{ClusterName, SourceName};

/// Where keys come from, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keys {
    /// From the document that discovery leads to.
    Discovery {
        /// PEM file with the authority of the issuer's certificate.
        ca_file: Option<String>,
    },
    /// From this URL.
    Url {
        /// Of a JSON Web Key Set.
        url: String,
        /// PEM file with the authority of its certificate.
        ca_file: Option<String>,
    },
    /// From this file.
    File(String),
}

/// An issuer of callers' tokens, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Short name.
    pub name: SourceName,
    /// The `iss` claim.
    pub issuer: String,
    /// At least one.
    pub audiences: BTreeSet<String>,
    /// Where the keys are.
    pub keys: Keys,
    /// The claim that names the user.
    pub username_claim: String,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// Claims and the values that they have to have.
    pub required_claims: BTreeMap<String, String>,
}

/// An agent's ServiceAccount, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAccount {
    /// The cluster that a token of it stands for.
    pub cluster: ClusterName,
    /// The `iss` claim.
    pub issuer: String,
    /// At least one.
    pub audiences: BTreeSet<String>,
    /// The `sub` claim: `system:serviceaccount:<namespace>:<name>`.
    pub subject: String,
    /// Where the keys are.
    pub keys: Keys,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User { issuer: String, user: String },
    Group { issuer: String, group: String },
    Fingerprint(String),
    CommonName(String),
    Uri(String),
    Cluster(ClusterName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Binding {
    grant: Grant,
    subjects: Vec<Subject>,
}

/// The access file, checked. The default gives nobody anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    issuers: Vec<Issuer>,
    agents: Vec<AgentAccount>,
    bindings: Vec<Binding>,
}

impl AccessConfig {
    /// Issuers of callers' tokens.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// ServiceAccounts of agents.
    pub fn agents(&self) -> &[AgentAccount] {
        &self.agents
    }

    /// What the bindings give a caller. A service token brings its own grants and has none from here.
    pub fn grants_of(&self, identity: &Identity) -> Grants {
        let bound = self.bindings.iter().filter(|binding| binding.subjects.iter().any(|one| one.is(identity)));
        let mut grants: Vec<Grant> = bound.map(|binding| binding.grant.clone()).collect();
        match identity {
            Identity::Development => grants.push(Grant::everything()),
            // Who may write policies there is for that cluster's RBAC; which clusters are believed, for the hub's flag.
            Identity::Cluster(_) => grants.push(Grant { overrides: false, ..Grant::everything() }),
            _ => {}
        }
        Grants(grants)
    }
}

impl Subject {
    fn is(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Subject::User { issuer, user }, Identity::Jwt { issuer: of, user: who, .. }) => {
                issuer == of && user.strip_suffix('*').map_or(user == who, |head| who.starts_with(head))
            }
            (Subject::Group { issuer, group }, Identity::Jwt { issuer: of, groups, .. }) => {
                issuer == of && groups.contains(group)
            }
            (Subject::Fingerprint(wanted), Identity::Certificate { fingerprint, .. }) => wanted == fingerprint,
            (Subject::CommonName(wanted), Identity::Certificate { common_name, .. }) => {
                common_name.as_ref() == Some(wanted)
            }
            (Subject::Uri(wanted), Identity::Certificate { uris, .. }) => uris.contains(wanted),
            (Subject::Cluster(wanted), Identity::Cluster(cluster)) => wanted == cluster,
            _ => false,
        }
    }
}
