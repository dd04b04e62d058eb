//! From the `match` of a policy to rule conditions, within the limits of ELBv2 ("Condition types for listener rules", and the
//! quotas page): 5 values and 5 wildcards a rule, 128 characters a value, and the characters that each kind takes.

use std::{borrow::Cow, net::IpAddr};

use ipnet::IpNet;

use super::{
    spec::{Match, PathKind, PathMatch, QueryMatch},
    validate::{Report, quote},
};
use crate::observed::Condition;

/// Condition values a rule may hold (quota "condition values per rule", not adjustable).
pub const MOST_VALUES: usize = 5;
/// Wildcards a rule may hold (quota "condition wildcards per rule", not adjustable).
pub const MOST_WILDCARDS: usize = 5;
/// Characters of a condition value.
pub const MOST_CHARACTERS: usize = 128;
/// Characters of a header's name and of a method.
pub const MOST_NAME_CHARACTERS: usize = 40;

/// The rule conditions for a match, in a fixed order; every fault goes into the report.
pub(super) fn build(matches: &Match, report: &mut Report) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if !matches.hostnames.is_empty() {
        conditions.push(Condition::HostHeader(hostnames(&matches.hostnames, report)));
    }
    if !matches.paths.is_empty() {
        conditions.push(Condition::PathPattern(paths(&matches.paths, report)));
    }
    for (i, header) in matches.headers.iter().enumerate() {
        let field = format!("spec.match.headers[{i}]");
        header_name(&format!("{field}.name"), &header.name, report);
        values(&format!("{field}.values"), &header.values, report);
        conditions.push(Condition::HttpHeader(header.name.to_lowercase(), sorted(header.values.clone())));
    }
    if !matches.methods.is_empty() {
        methods(&matches.methods, report);
        conditions.push(Condition::HttpRequestMethod(sorted(matches.methods.clone())));
    }
    if !matches.query.is_empty() {
        for (i, pair) in matches.query.iter().enumerate() {
            query(&format!("spec.match.query[{i}]"), pair, report);
        }
        let pairs = matches.query.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
        conditions.push(Condition::QueryString(sorted(pairs.collect())));
    }
    if !matches.source_ips.is_empty() {
        conditions.push(Condition::SourceIp(source_ips(&matches.source_ips, report)));
    }
    totals(matches, report);
    conditions.sort();
    conditions
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

/// What is wrong with a value, and what helps.
type Fault = (String, String);

const PRINTABLE: &str = "printable ASCII";

fn value_fault(value: &str, allowed: fn(char) -> bool, characters: &str) -> Option<Fault> {
    let bad = |c: &char| !(c.is_ascii_graphic() || *c == ' ') || !allowed(*c);
    if value.is_empty() {
        Some(("is empty".to_owned(), "give a value, or leave the condition out".to_owned()))
    } else if value.chars().count() > MOST_CHARACTERS {
        let remedy = "shorten it, for example with a wildcard";
        Some(("has more than 128 characters".to_owned(), remedy.to_owned()))
    } else {
        let bad = value.chars().find(bad)?;
        Some((format!("holds the character {bad:?}"), format!("use only {characters}")))
    }
}

fn values(field: &str, values: &[String], report: &mut Report) {
    if values.is_empty() {
        report.add(field, "[]", "is empty", "give at least one value");
    }
    for (i, value) in values.iter().enumerate() {
        if let Some((problem, remedy)) = value_fault(value, |_| true, PRINTABLE) {
            report.add(&format!("{field}[{i}]"), value, problem, remedy);
        }
    }
}

fn hostnames(hosts: &[String], report: &mut Report) -> Vec<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.*?".contains(c);
    for (i, host) in hosts.iter().enumerate() {
        let fault = value_fault(host, allowed, "letters, digits, - . and the wildcards * ?");
        if let Some((problem, remedy)) = fault.or_else(|| last_label_fault(host)) {
            report.add(&format!("spec.match.hostnames[{i}]"), host, problem, remedy);
        }
    }
    sorted(hosts.iter().map(|host| host.to_lowercase()).collect())
}

fn last_label_fault(host: &str) -> Option<Fault> {
    let letters = |last: &str| !last.is_empty() && last.chars().all(|c| c.is_ascii_alphabetic() || "*?".contains(c));
    if host.rsplit_once('.').is_some_and(|(_, last)| letters(last)) {
        return None;
    }
    let problem = "has no dot, or something else than letters after its last dot";
    Some((problem.to_owned(), "use a full host name such as shop.example.com".to_owned()))
}

fn paths(paths: &[PathMatch], report: &mut Report) -> Vec<String> {
    for (i, path) in paths.iter().enumerate() {
        if let Some((problem, remedy)) = path_fault(path) {
            report.add(&format!("spec.match.paths[{i}].value"), &path.value, problem, remedy);
        }
    }
    sorted(paths.iter().flat_map(expand).collect())
}

fn path_fault(path: &PathMatch) -> Option<Fault> {
    let value = path.value.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.$/~\"'@:+&*?".contains(c);
    let characters = "letters, digits and _ - . $ / ~ \" ' @ : + & * ?";
    if let Some(fault) = value_fault(value, allowed, characters) {
        return Some(fault);
    }
    let wild = path.kind == PathKind::Pattern && value.starts_with('*');
    if !(wild || value.starts_with('/')) {
        return Some(("does not start with /".to_owned(), format!("write /{value}")));
    }
    if path.kind != PathKind::Pattern && value.contains(['*', '?']) {
        return Some(("holds a wildcard".to_owned(), "remove it, or use type: Pattern".to_owned()));
    }
    if expand(path).iter().any(|pattern| pattern.chars().count() > MOST_CHARACTERS) {
        let problem = "has more than 128 characters together with the /* that a Prefix needs";
        return Some((problem.to_owned(), "shorten it".to_owned()));
    }
    None
}

/// ELBv2 has no prefix condition: a prefix of whole elements is the path itself and everything below it.
fn expand(path: &PathMatch) -> Vec<String> {
    match path.kind {
        PathKind::Exact | PathKind::Pattern => vec![path.value.clone()],
        PathKind::Prefix => match path.value.trim_end_matches('/') {
            "" => vec!["/*".to_owned()],
            trimmed => vec![trimmed.to_owned(), format!("{trimmed}/*")],
        },
    }
}

fn header_name(field: &str, name: &str, report: &mut Report) {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || name.len() > MOST_NAME_CHARACTERS || !name.chars().all(token) {
        report.add(field, name, "is not a header name of 1 to 40 characters", "use the name as in the HTTP request");
    } else if name.eq_ignore_ascii_case("host") {
        report.add(field, name, "cannot be matched as a header", "use spec.match.hostnames");
    }
}

fn methods(methods: &[String], report: &mut Report) {
    for (i, method) in methods.iter().enumerate() {
        let good = |c: char| c.is_ascii_uppercase() || c == '-' || c == '_';
        if method.is_empty() || method.len() > MOST_NAME_CHARACTERS || !method.chars().all(good) {
            let field = format!("spec.match.methods[{i}]");
            report.add(&field, method, "is not a method name", "use upper-case letters, such as GET");
        }
    }
}

fn query(field: &str, pair: &QueryMatch, report: &mut Report) {
    // An empty key stands for any key.
    let key = Some(&pair.key).filter(|key| !key.is_empty());
    for (name, text) in key.map(|key| ("key", key)).into_iter().chain([("value", &pair.value)]) {
        if let Some((problem, remedy)) = value_fault(text, |_| true, PRINTABLE) {
            report.add(&format!("{field}.{name}"), text, problem, remedy);
        }
    }
}

/// Blocks in their one canonical form: what is read back must compare equal to what was written.
fn source_ips(blocks: &[String], report: &mut Report) -> Vec<String> {
    let mut canonical = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        let field = format!("spec.match.sourceIps[{i}]");
        match cidr(block) {
            Some(net) if net.addr() == net.network() => canonical.push(net.to_string()),
            Some(net) => {
                report.add(&field, block, "has address bits behind its length", format!("write {}", net.trunc()));
            }
            None => {
                report.add(&field, block, "is not a CIDR block", "write it as ADDRESS/LENGTH, such as 10.0.0.0/8");
            }
        }
    }
    sorted(canonical)
}

/// What the API server takes for a block as well: no leading zeros, no IPv4 address in the clothes of IPv6.
fn cidr(block: &str) -> Option<IpNet> {
    let (address, length) = block.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    let plain = length == "0" || (length.chars().all(|c| c.is_ascii_digit()) && !length.starts_with('0'));
    let length = length.parse().ok().filter(|_| plain && !mapped)?;
    IpNet::new(address, length).ok()
}

/// Values and wildcards are counted as they are written: one that is written twice counts twice, so that the custom resource's
/// schema, which cannot compare values in every spelling, counts the same.
fn totals(matches: &Match, report: &mut Report) {
    let all = written_values(matches);
    if all.is_empty() && matches.headers.is_empty() {
        report.add("spec.match", "{}", "has no condition", "give at least one, such as hostnames or paths");
    }
    if all.len() > MOST_VALUES {
        let problem = format!("needs {} condition values, an ELBv2 rule takes {MOST_VALUES}", all.len());
        let remedy = "use fewer values (a Prefix path counts as two), or split the policy";
        report.add("spec.match", listed(&all), problem, remedy);
    }
    let keys = matches.query.iter().map(|pair| pair.key.as_str());
    let wildcards: usize = all.iter().map(AsRef::as_ref).chain(keys).map(|v| v.matches(['*', '?']).count()).sum();
    if wildcards > MOST_WILDCARDS {
        let problem = format!("holds {wildcards} wildcards, an ELBv2 rule takes {MOST_WILDCARDS}");
        let remedy = "use fewer (a Prefix path counts as one), or split the policy";
        report.add("spec.match", listed(&all), problem, remedy);
    }
}

fn listed(values: &[Cow<'_, str>]) -> String {
    // Longer lists are cut in the report anyway.
    quote(&values.iter().take(20).map(AsRef::as_ref).collect::<Vec<_>>())
}

fn written_values(matches: &Match) -> Vec<Cow<'_, str>> {
    let Match { hostnames, paths, headers, methods, query, source_ips } = matches;
    let texts = hostnames.iter().chain(headers.iter().flat_map(|header| &header.values)).chain(methods);
    let texts = texts.chain(query.iter().map(|pair| &pair.value)).chain(source_ips).map(|value| value.as_str().into());
    texts.chain(paths.iter().flat_map(expand).map(Cow::Owned)).collect()
}
