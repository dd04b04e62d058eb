//! Who may do what, as the hub said it: callers, join tokens, certificates, service tokens, authorities. A secret is in none of these.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::convert::{each, time};

/// Who the hub takes the caller for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Caller {
    pub identity: String,
    /// `certificate`, `token`, `jwt` or `none`.
    pub method: String,
    pub grants: Vec<Grant>,
    /// Of what the caller proved himself with.
    pub expires_at: Option<Timestamp>,
}

impl Caller {
    /// Whether nothing is left out of what the hub shows this caller.
    pub fn sees_everything(&self) -> bool {
        let all = |names: &[String]| names.iter().any(|name| name == "*");
        self.grants
            .iter()
            .any(|grant| grant.role != Role::Unspecified && all(&grant.namespaces) && all(&grant.clusters))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Of a newer hub.
    #[default]
    Unspecified,
    Viewer,
    Operator,
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "-",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// A role over the policies of some namespaces, as far as they concern some clusters; `*` is all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub role: Role,
    pub namespaces: Vec<String>,
    pub clusters: Vec<String>,
    pub overrides: bool,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.overrides { " with overrides" } else { "" };
        write!(f, "{}{with} of {} on {}", self.role, self.namespaces.join(","), self.clusters.join(","))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JoinToken {
    pub id: String,
    pub cluster: String,
    pub created_by: String,
    pub created_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AgentCertificate {
    pub serial: String,
    pub cluster: String,
    pub fingerprint: String,
    pub authority: String,
    pub agent_instance_id: String,
    pub proof: String,
    pub issued_at: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub revoked_by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServiceToken {
    pub name: String,
    pub id: String,
    pub grants: Vec<Grant>,
    pub created_by: String,
    pub created_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Authority {
    pub id: String,
    pub fingerprint: String,
    pub issuing: bool,
    pub external: bool,
    pub created_at: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    pub trusted_until: Option<Timestamp>,
    pub certificate_pem: String,
}

impl From<pb::Role> for Role {
    fn from(from: pb::Role) -> Self {
        match from {
            pb::Role::Unspecified => Self::Unspecified,
            pb::Role::Viewer => Self::Viewer,
            pb::Role::Operator => Self::Operator,
            pb::Role::Admin => Self::Admin,
        }
    }
}

impl From<pb::WhoAmIResponse> for Caller {
    fn from(from: pb::WhoAmIResponse) -> Self {
        Self {
            identity: from.identity,
            method: from.method,
            grants: each(from.grants),
            expires_at: time(from.expires_at),
        }
    }
}

impl From<pb::Grant> for Grant {
    fn from(from: pb::Grant) -> Self {
        Self {
            role: from.role().into(),
            namespaces: from.namespaces,
            clusters: from.clusters,
            overrides: from.overrides,
        }
    }
}

impl From<pb::JoinToken> for JoinToken {
    fn from(from: pb::JoinToken) -> Self {
        Self {
            id: from.id,
            cluster: from.cluster,
            created_by: from.created_by,
            created_at: time(from.created_at),
            expires_at: time(from.expires_at),
            used_at: time(from.used_at),
            revoked_at: time(from.revoked_at),
        }
    }
}

impl From<pb::AgentCertificate> for AgentCertificate {
    fn from(from: pb::AgentCertificate) -> Self {
        Self {
            serial: from.serial,
            cluster: from.cluster,
            fingerprint: from.fingerprint,
            authority: from.authority,
            agent_instance_id: from.agent_instance_id,
            proof: from.proof,
            issued_at: time(from.issued_at),
            not_after: time(from.not_after),
            revoked_at: time(from.revoked_at),
            revoked_by: from.revoked_by,
        }
    }
}

impl From<pb::ServiceToken> for ServiceToken {
    fn from(from: pb::ServiceToken) -> Self {
        Self {
            name: from.name,
            id: from.id,
            grants: each(from.grants),
            created_by: from.created_by,
            created_at: time(from.created_at),
            expires_at: time(from.expires_at),
            last_used_at: time(from.last_used_at),
            revoked_at: time(from.revoked_at),
        }
    }
}

impl From<pb::Authority> for Authority {
    fn from(from: pb::Authority) -> Self {
        Self {
            id: from.id,
            fingerprint: from.fingerprint,
            issuing: from.issuing,
            external: from.external,
            created_at: time(from.created_at),
            not_after: time(from.not_after),
            trusted_until: time(from.trusted_until),
            certificate_pem: from.certificate_pem,
        }
    }
}
