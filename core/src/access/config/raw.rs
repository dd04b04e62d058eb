//! The access file as it is written. Nothing here is checked; unknown fields are refused by serde.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The file as it is written; unknown fields are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawAccess {
    /// Issuers of callers' tokens.
    pub issuers: Vec<RawIssuer>,
    /// Clusters whose agents prove themselves with a token of their ServiceAccount.
    pub agents: Vec<RawAgent>,
    /// Who may do what.
    pub bindings: Vec<RawBinding>,
}

/// An issuer of callers' tokens (OpenID Connect Core 1.0).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawIssuer {
    /// Short name, an RFC 1123 label: identities are written `name:user`.
    pub name: String,
    /// The `iss` claim, exactly.
    pub issuer: String,
    /// One of them has to be in the `aud` claim.
    pub audiences: Vec<String>,
    /// Where the keys are; left out: as `<issuer>/.well-known/openid-configuration` says.
    pub jwks: Option<RawJwks>,
    /// The claim that names the user; `sub` when left out.
    pub username_claim: String,
    /// The claim that lists groups; `groups` when left out.
    pub groups_claim: String,
    /// Claims that have to have exactly these values, such as `repository_owner` of GitHub.
    pub required_claims: BTreeMap<String, String>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawJwks {
    /// An https:// URL of a JSON Web Key Set.
    pub url: String,
    /// A file with one, read again when it changes.
    pub file: String,
    /// PEM file with the authority of the issuer's own certificate, when it is no public one.
    pub ca_file: String,
}

/// A cluster whose agent proves itself with a projected ServiceAccount token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawAgent {
    /// The cluster that the token stands for.
    pub cluster: String,
    /// The cluster's issuer, exactly; on EKS `aws eks describe-cluster --query cluster.identity.oidc.issuer` shows it.
    pub issuer: String,
    /// One of them has to be in the `aud` claim; `switchyard` when left out.
    pub audiences: Vec<String>,
    /// The ServiceAccount, `namespace/name`.
    pub service_account: String,
    /// Where the keys are; left out: as discovery says.
    pub jwks: Option<RawJwks>,
}

/// A role for some subjects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawBinding {
    /// viewer, operator or admin.
    pub role: String,
    /// Namespaces, or `*`. Left out: refused, so that nobody gets everything by leaving a line out.
    pub namespaces: Vec<String>,
    /// Clusters, or `*`.
    pub clusters: Vec<String>,
    /// May cross safety rules.
    pub overrides: bool,
    /// Who.
    pub subjects: Vec<RawSubject>,
}

/// One subject; exactly one of user, group, certificate and cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawSubject {
    /// The short name of an issuer; with `user` or `group`.
    pub issuer: String,
    /// The user's claim; a `*` at its end stands for anything.
    pub user: String,
    /// A group, exactly.
    pub group: String,
    /// A client certificate.
    pub certificate: Option<RawCertificate>,
    /// The resources of a cluster that is a policy source.
    pub cluster: String,
}

/// A client certificate; exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawCertificate {
    /// `sha256:` and 64 hexadecimal digits.
    pub fingerprint: String,
    /// The common name of the subject.
    pub common_name: String,
    /// A URI among the alternative names.
    pub uri: String,
}
