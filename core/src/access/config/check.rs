//! From the file as it is written to one that is in force: every fault is named, and one fault refuses all of it.

use std::collections::BTreeSet;

use super::{
    AccessConfig, AgentAccount, Binding, Issuer, Keys, RawAccess, RawAgent, RawBinding, RawCertificate, RawIssuer,
    RawJwks, RawSubject, Subject,
    report::{MOST_NAMES, Report, twice},
};
use crate::{
    access::{Grant, Role},
    ids::{ClusterName, Namespace, SourceName},
    policy::Violation,
};

/// Bounds of the file: beyond them it is a mistake, and every call would pay for it.
const MOST_ISSUERS: usize = 20;
const MOST_AGENTS: usize = 500;
const MOST_BINDINGS: usize = 1000;

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
            let remedy = "use sha256: and 64 lower-case hexadecimal digits; `openssl x509 -in FILE -outform der | sha256sum` shows them";
            report.add(&format!("{field}.fingerprint"), &raw.fingerprint, "is no fingerprint", remedy);
            None
        }
    }
}
