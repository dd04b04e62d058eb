//! From the `match` of a policy to rule conditions, within the limits of ELBv2 ("Condition types for listener rules", and the
//! quotas page): 5 values and 5 wildcards a rule, 128 characters a value, and the characters that each kind takes.

use ipnet::IpNet;

use super::{
    spec::{Match, PathKind, PathMatch},
    validate::{Report, quote},
};
use crate::observed::Condition;

/// Condition values a rule may hold (quota "condition values per rule", not adjustable).
pub const MOST_VALUES: usize = 5;
/// Wildcards a rule may hold (quota "condition wildcards per rule", not adjustable).
pub const MOST_WILDCARDS: usize = 5;
const MOST_CHARACTERS: usize = 128;
const MOST_NAME_CHARACTERS: usize = 40;

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
        values(&format!("{field}.values"), &header.values, |_| true, "printable ASCII", report);
        conditions.push(Condition::HttpHeader(header.name.to_lowercase(), header.values.clone()));
    }
    if !matches.methods.is_empty() {
        methods(&matches.methods, report);
        conditions.push(Condition::HttpRequestMethod(sorted(matches.methods.clone())));
    }
    if !matches.query.is_empty() {
        for (i, pair) in matches.query.iter().enumerate() {
            let field = format!("spec.match.query[{i}]");
            values(&format!("{field}.value"), std::slice::from_ref(&pair.value), |_| true, "printable ASCII", report);
            if pair.key.len() > MOST_CHARACTERS {
                report.add(&format!("{field}.key"), &pair.key, "has more than 128 characters", "shorten the key");
            }
        }
        let pairs = matches.query.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
        conditions.push(Condition::QueryString(sorted(pairs.collect())));
    }
    if !matches.source_ips.is_empty() {
        conditions.push(Condition::SourceIp(source_ips(&matches.source_ips, report)));
    }
    totals(&conditions, report);
    conditions.sort();
    conditions
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

fn values(field: &str, values: &[String], allowed: fn(char) -> bool, characters: &str, report: &mut Report) {
    if values.is_empty() {
        report.add(field, "[]", "is empty", "give at least one value");
    }
    for (i, value) in values.iter().enumerate() {
        let place = format!("{field}[{i}]");
        if value.is_empty() {
            report.add(&place, "", "is empty", "give a value, or leave the condition out");
        } else if value.chars().count() > MOST_CHARACTERS {
            report.add(&place, value, "has more than 128 characters", "shorten it, for example with a wildcard");
        } else if let Some(bad) = value.chars().find(|c| !(c.is_ascii_graphic() || *c == ' ') || !allowed(*c)) {
            let problem = format!("holds the character {bad:?}");
            report.add(&place, value, problem, format!("use only {characters}"));
        }
    }
}

fn hostnames(hosts: &[String], report: &mut Report) -> Vec<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.*?".contains(c);
    values("spec.match.hostnames", hosts, allowed, "letters, digits, - . and the wildcards * ?", report);
    for (i, host) in hosts.iter().enumerate() {
        let last = host.rsplit('.').next().unwrap_or_default();
        let letters_end = host.contains('.') && last.chars().all(|c| c.is_ascii_alphabetic() || "*?".contains(c));
        if !host.is_empty() && !letters_end {
            let problem = "has no dot, or something else than letters after its last dot";
            report.add(
                &format!("spec.match.hostnames[{i}]"),
                host,
                problem,
                "use a full host name such as shop.example.com",
            );
        }
    }
    sorted(hosts.iter().map(|host| host.to_lowercase()).collect())
}

fn paths(paths: &[PathMatch], report: &mut Report) -> Vec<String> {
    let mut patterns = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let field = format!("spec.match.paths[{i}].value");
        let value = path.value.as_str();
        let wild = path.kind == PathKind::Pattern && value.starts_with('*');
        if !(wild || value.starts_with('/')) {
            report.add(&field, value, "does not start with /", format!("write /{}", crate::ids::cut(value)));
        }
        if path.kind != PathKind::Pattern && value.contains(['*', '?']) {
            report.add(&field, value, "holds a wildcard", "remove it, or use type: Pattern");
        }
        patterns.extend(expand(path));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.$/~\"'@:+&*?".contains(c);
    values("spec.match.paths", &patterns, allowed, "letters, digits and _ - . $ / ~ \" ' @ : + & * ?", report);
    sorted(patterns)
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

fn source_ips(blocks: &[String], report: &mut Report) -> Vec<String> {
    for (i, block) in blocks.iter().enumerate() {
        if block.parse::<IpNet>().is_err() {
            let field = format!("spec.match.sourceIps[{i}]");
            report.add(&field, block, "is not a CIDR block", "write it as ADDRESS/LENGTH, such as 10.0.0.0/8");
        }
    }
    sorted(blocks.to_vec())
}

fn totals(conditions: &[Condition], report: &mut Report) {
    let all: Vec<&str> = conditions.iter().flat_map(condition_values).collect();
    if all.is_empty() {
        report.add("spec.match", "{}", "has no condition", "give at least one, such as hostnames or paths");
    }
    if all.len() > MOST_VALUES {
        let problem = format!("needs {} condition values, an ELBv2 rule takes {MOST_VALUES}", all.len());
        let remedy = "use fewer values (a Prefix path counts as two), or split the policy";
        report.add("spec.match", quote(&all), problem, remedy);
    }
    let wildcards: usize = all.iter().map(|value| value.matches(['*', '?']).count()).sum();
    if wildcards > MOST_WILDCARDS {
        let problem = format!("holds {wildcards} wildcards, an ELBv2 rule takes {MOST_WILDCARDS}");
        report.add("spec.match", quote(&all), problem, "use fewer (a Prefix path counts as one), or split the policy");
    }
}

fn condition_values(condition: &Condition) -> Vec<&str> {
    match condition {
        Condition::HostHeader(values)
        | Condition::PathPattern(values)
        | Condition::HttpHeader(_, values)
        | Condition::HttpRequestMethod(values)
        | Condition::SourceIp(values) => values.iter().map(String::as_str).collect(),
        Condition::QueryString(pairs) => pairs.iter().map(|(_, value)| value.as_str()).collect(),
        Condition::Other(_) => Vec::new(),
    }
}
