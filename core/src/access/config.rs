//! The access file: which issuers' tokens prove who callers and agents are, and who may do what. Checked as a whole; a file with a
//! fault is refused as a whole, so that nobody loses or gains rights by a slip of the pen in another line.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Grant, Grants, Identity, Role, Span};
use crate::{
    ids::{ClusterName, Namespace, SourceName, cut},
    policy::Violation,
};

/// Bounds of the file: beyond them it is a mistake, and every call would pay for it.
const MOST_ISSUERS: usize = 20;
const MOST_AGENTS: usize = 500;
const MOST_BINDINGS: usize = 1000;
const MOST_NAMES: usize = 100;
const MOST_TEXT: usize = 1024;

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
    /// Checks a file.
    ///
    /// # Errors
    /// Every [`Violation`] that was found.
    pub fn check(raw: &RawAccess) -> Result<Self, Vec<Violation>> {
        let mut report = Report::default();
        report.at_most("issuers", raw.issuers.len(), MOST_ISSUERS);
        report.at_most("agents", raw.agents.len(), MOST_AGENTS);
        report.at_most("bindings", raw.bindings.len(), MOST_BINDINGS);
        if !report.0.is_empty() {
            return Err(report.0);
        }
        let issuers: Vec<_> =
            raw.issuers.iter().enumerate().filter_map(|(i, issuer)| check_issuer(i, issuer, &mut report)).collect();
        let agents: Vec<_> =
            raw.agents.iter().enumerate().filter_map(|(i, agent)| check_agent(i, agent, &mut report)).collect();
        twice("issuers", "name", raw.issuers.iter().map(|issuer| issuer.name.as_str()), &mut report);
        twice("issuers", "issuer", raw.issuers.iter().map(|issuer| issuer.issuer.as_str()), &mut report);
        twice("agents", "cluster", raw.agents.iter().map(|agent| agent.cluster.as_str()), &mut report);
        let names: BTreeSet<&str> = raw.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        let bindings: Vec<_> = raw
            .bindings
            .iter()
            .enumerate()
            .filter_map(|(i, binding)| check_binding(i, binding, &names, &mut report))
            .collect();
        let shared = agents.iter().enumerate().find(|(i, agent)| {
            agents[..*i].iter().any(|other| other.issuer == agent.issuer && other.subject == agent.subject)
        });
        if let Some((i, agent)) = shared {
            let problem = "is the ServiceAccount of another cluster, too: a token has to stand for one cluster";
            report.add(
                &format!("agents[{i}].serviceAccount"),
                &agent.subject,
                problem,
                "name the cluster's own issuer",
            );
        }
        if report.0.is_empty() { Ok(Self { issuers, agents, bindings }) } else { Err(report.0) }
    }

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

#[derive(Default)]
struct Report(Vec<Violation>);

impl Report {
    fn add(&mut self, field: &str, value: &str, problem: &str, remedy: &str) {
        let (problem, remedy) = (problem.to_owned(), remedy.to_owned());
        self.0.push(Violation { field: field.to_owned(), value: cut(value), problem, remedy });
    }

    fn at_most(&mut self, field: &str, found: usize, most: usize) {
        if found > most {
            self.add(
                field,
                &found.to_string(),
                &format!("is the number of entries, {most} are allowed"),
                "remove some",
            );
        }
    }

    fn text(&mut self, field: &str, value: &str) -> bool {
        if value.is_empty() {
            self.add(field, value, "is empty", "say what it is");
        } else if value.len() > MOST_TEXT || value.chars().any(char::is_control) {
            self.add(field, value, "is longer than 1024 bytes or holds control characters", "check the value");
        } else {
            return true;
        }
        false
    }

    fn url(&mut self, field: &str, value: &str) {
        const REMEDY: &str =
            "use https://HOST/PATH, without user, query and fragment; http:// is for loopback addresses";
        if !self.text(field, value) {
            return;
        }
        let rest = match value.split_once("://") {
            Some(("https", rest)) => rest,
            Some(("http", rest)) if is_loopback(rest) => rest,
            _ => return self.add(field, value, "is no https:// URL", REMEDY),
        };
        if rest.is_empty() || rest.starts_with('/') || rest.chars().any(|c| "@?#".contains(c) || c.is_whitespace()) {
            self.add(field, value, "is not a URL that can be asked", REMEDY);
        }
    }

    fn names<T: std::str::FromStr<Err = crate::ids::IdError> + Ord>(
        &mut self,
        field: &str,
        given: &[String],
    ) -> Option<Span<T>> {
        let before = self.0.len();
        if given.is_empty() {
            self.add(field, "", "is missing", "name some, or \"*\" alone for all");
        }
        self.at_most(field, given.len(), MOST_NAMES);
        if given.iter().any(|name| name == "*") {
            if given.len() > 1 {
                self.add(field, "*", "stands beside names", "name some, or \"*\" alone for all");
            }
            return (self.0.len() == before).then_some(Span::All);
        }
        let mut names = BTreeSet::new();
        for (i, name) in given.iter().enumerate().take(MOST_NAMES) {
            match name.parse::<T>() {
                Ok(name) => drop(names.insert(name)),
                Err(error) => self.add(&format!("{field}[{i}]"), &error.value, &error.problem, error.remedy),
            }
        }
        (self.0.len() == before).then_some(Span::Only(names))
    }

    fn audiences(&mut self, field: &str, given: &[String]) -> BTreeSet<String> {
        if given.is_empty() {
            self.add(
                field,
                "",
                "is missing",
                "say for whom the tokens are made; a token for others must not open this hub",
            );
        }
        self.at_most(field, given.len(), MOST_NAMES);
        for (i, audience) in given.iter().enumerate().take(MOST_NAMES) {
            self.text(&format!("{field}[{i}]"), audience);
        }
        given.iter().cloned().collect()
    }
}

/// True when the host is this machine; for tests and sidecars.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_issuer(i: usize, raw: &RawIssuer, report: &mut Report) -> Option<Issuer> {
    let field = |name: &str| format!("issuers[{i}].{name}");
    let before = report.0.len();
    let name = SourceName::new(raw.name.as_str());
    if let Err(error) = &name {
        report.add(&field("name"), &error.value, &error.problem, error.remedy);
    }
    // Identities are written `name:user`; these words are taken.
    if ["agent", "certificate", "cluster", "token", "system"].contains(&raw.name.as_str()) {
        report.add(
            &field("name"),
            &raw.name,
            "is a word of the hub's own identities",
            "use another name, such as corp",
        );
    }
    report.url(&field("issuer"), &raw.issuer);
    let audiences = report.audiences(&field("audiences"), &raw.audiences);
    let keys = check_keys(&field("jwks"), raw.jwks.as_ref(), report);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let (username_claim, groups_claim) = (or(&raw.username_claim, "sub"), or(&raw.groups_claim, "groups"));
    report.text(&field("usernameClaim"), &username_claim);
    report.text(&field("groupsClaim"), &groups_claim);
    report.at_most(&field("requiredClaims"), raw.required_claims.len(), MOST_NAMES);
    for (claim, value) in &raw.required_claims {
        report.text(&field(&format!("requiredClaims.{claim}")), value);
    }
    let required_claims = raw.required_claims.clone();
    let issuer = raw.issuer.clone();
    (report.0.len() == before)
        .then(|| {
            Some(Issuer { name: name.ok()?, issuer, audiences, keys, username_claim, groups_claim, required_claims })
        })
        .flatten()
}

fn check_agent(i: usize, raw: &RawAgent, report: &mut Report) -> Option<AgentAccount> {
    let field = |name: &str| format!("agents[{i}].{name}");
    let before = report.0.len();
    let cluster = ClusterName::new(raw.cluster.as_str());
    if let Err(error) = &cluster {
        report.add(&field("cluster"), &error.value, &error.problem, error.remedy);
    }
    report.url(&field("issuer"), &raw.issuer);
    let default = ["switchyard".to_owned()];
    let audiences = if raw.audiences.is_empty() { &default[..] } else { &raw.audiences };
    let audiences = report.audiences(&field("audiences"), audiences);
    let keys = check_keys(&field("jwks"), raw.jwks.as_ref(), report);
    let parts = raw.service_account.split_once('/').filter(|(namespace, name)| {
        // Names of ServiceAccounts are RFC 1123 subdomains.
        Namespace::new(*namespace).is_ok() && crate::ids::PolicyName::new(*name).is_ok()
    });
    if parts.is_none() {
        let remedy = "use namespace/name, such as switchyard-system/switchyard-agent";
        report.add(&field("serviceAccount"), &raw.service_account, "is no ServiceAccount", remedy);
    }
    let (namespace, name) = parts.unwrap_or_default();
    let subject = format!("system:serviceaccount:{namespace}:{name}");
    let issuer = raw.issuer.clone();
    (report.0.len() == before)
        .then(|| Some(AgentAccount { cluster: cluster.ok()?, issuer, audiences, subject, keys }))
        .flatten()
}

fn check_keys(field: &str, raw: Option<&RawJwks>, report: &mut Report) -> Keys {
    let Some(raw) = raw else { return Keys::Discovery { ca_file: None } };
    let ca_file = (!raw.ca_file.is_empty()).then(|| raw.ca_file.clone());
    match (raw.url.is_empty(), raw.file.is_empty()) {
        (true, true) => Keys::Discovery { ca_file },
        (false, true) => {
            report.url(&format!("{field}.url"), &raw.url);
            Keys::Url { url: raw.url.clone(), ca_file }
        }
        (true, false) => {
            report.text(&format!("{field}.file"), &raw.file);
            Keys::File(raw.file.clone())
        }
        (false, false) => {
            report.add(&format!("{field}.file"), &raw.file, "is given beside a URL", "give one of url and file");
            Keys::File(raw.file.clone())
        }
    }
}

fn check_binding(i: usize, raw: &RawBinding, issuers: &BTreeSet<&str>, report: &mut Report) -> Option<Binding> {
    let field = |name: &str| format!("bindings[{i}].{name}");
    let before = report.0.len();
    let role = Role::of_word(&raw.role);
    if role.is_none() {
        report.add(&field("role"), &raw.role, "is no role", "use viewer, operator or admin");
    }
    let namespaces = report.names(&field("namespaces"), &raw.namespaces);
    let clusters = report.names(&field("clusters"), &raw.clusters);
    if raw.subjects.is_empty() {
        report.add(&field("subjects"), "", "is missing", "say who gets the role");
    }
    report.at_most(&field("subjects"), raw.subjects.len(), MOST_NAMES);
    let mut subjects = Vec::new();
    for (j, subject) in raw.subjects.iter().enumerate().take(MOST_NAMES) {
        subjects.extend(check_subject(&field(&format!("subjects[{j}]")), subject, issuers, report));
    }
    if report.0.len() > before {
        return None;
    }
    let grant = Grant { role: role?, namespaces: namespaces?, clusters: clusters?, overrides: raw.overrides };
    Some(Binding { grant, subjects })
}

fn check_subject(field: &str, raw: &RawSubject, issuers: &BTreeSet<&str>, report: &mut Report) -> Option<Subject> {
    let kinds = [!raw.user.is_empty(), !raw.group.is_empty(), raw.certificate.is_some(), !raw.cluster.is_empty()];
    if kinds.iter().filter(|given| **given).count() != 1 {
        let problem = "has not exactly one of user, group, certificate and cluster";
        report.add(field, "", problem, "give one; for several subjects several entries");
        return None;
    }
    let of_issuer = !raw.user.is_empty() || !raw.group.is_empty();
    if of_issuer && !issuers.contains(raw.issuer.as_str()) {
        let remedy = "name one of issuers[].name";
        report.add(&format!("{field}.issuer"), &raw.issuer, "is no issuer of this file", remedy);
        return None;
    }
    if !of_issuer && !raw.issuer.is_empty() {
        report.add(&format!("{field}.issuer"), &raw.issuer, "goes with user and group only", "remove it");
        return None;
    }
    if let Some(certificate) = &raw.certificate {
        return check_certificate(&format!("{field}.certificate"), certificate, report);
    }
    if !raw.cluster.is_empty() {
        let cluster = ClusterName::new(raw.cluster.as_str());
        let refused = |error: &crate::ids::IdError| {
            report.add(&format!("{field}.cluster"), &error.value, &error.problem, error.remedy);
        };
        return cluster.inspect_err(refused).ok().map(Subject::Cluster);
    }
    let issuer = raw.issuer.clone();
    if !raw.group.is_empty() {
        return report
            .text(&format!("{field}.group"), &raw.group)
            .then(|| Subject::Group { issuer, group: raw.group.clone() });
    }
    let field = format!("{field}.user");
    if !report.text(&field, &raw.user) {
        return None;
    }
    if raw.user == "*" || raw.user.trim_end_matches('*').contains('*') || raw.user.ends_with("**") {
        let remedy = "use one * at the end of a longer text, such as repo:example/shop:*";
        report.add(&field, &raw.user, "holds a * where none may be", remedy);
        return None;
    }
    Some(Subject::User { issuer, user: raw.user.clone() })
}

fn check_certificate(field: &str, raw: &RawCertificate, report: &mut Report) -> Option<Subject> {
    let given = [&raw.fingerprint, &raw.common_name, &raw.uri].into_iter().filter(|text| !text.is_empty()).count();
    if given != 1 {
        let problem = "has not exactly one of fingerprint, commonName and uri";
        report.add(field, "", problem, "give one of them");
        return None;
    }
    if !raw.common_name.is_empty() {
        let field = format!("{field}.commonName");
        return report.text(&field, &raw.common_name).then(|| Subject::CommonName(raw.common_name.clone()));
    }
    if !raw.uri.is_empty() {
        return report.text(&format!("{field}.uri"), &raw.uri).then(|| Subject::Uri(raw.uri.clone()));
    }
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    match raw.fingerprint.strip_prefix("sha256:") {
        Some(digits) if digits.len() == 64 && digits.chars().all(digit) => {
            Some(Subject::Fingerprint(raw.fingerprint.clone()))
        }
        _ => {
            let remedy =
                "use sha256: and 64 lower-case hexadecimal digits; `openssl x509 -fingerprint -sha256` shows them";
            report.add(&format!("{field}.fingerprint"), &raw.fingerprint, "is no fingerprint", remedy);
            None
        }
    }
}

fn twice<'a>(list: &str, field: &str, values: impl Iterator<Item = &'a str>, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (i, value) in values.enumerate() {
        if !value.is_empty() && !seen.insert(value) {
            report.add(&format!("{list}[{i}].{field}"), value, "stands there twice", "keep one of them");
        }
    }
}
