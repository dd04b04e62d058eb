//! Rule conditions: parsing with every documented bound, matching, and the XML form. Pure; must not import the state.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use super::{
    errors::ApiError,
    limits,
    limits::Limits,
    query::Scope,
    wildcard::{Case, glob, wildcards},
    xml::Xml,
};

/// Longest value of any condition but the method and the header name, in characters.
const MAX_VALUE: usize = 128;
/// Longest header name and longest method, in characters.
const MAX_SHORT: usize = 40;
/// Most CIDR blocks in one source-ip condition.
const MAX_SOURCE_IPS: usize = 5;

/// One condition. Its values are alternatives; the conditions of a rule must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Host(Vec<String>),
    Path(Vec<String>),
    Header { name: String, values: Vec<String> },
    Query(Vec<(Option<String>, String)>),
    Method(Vec<String>),
    SourceIp(Vec<IpNet>),
}

/// What a condition looks at.
#[derive(Debug)]
pub struct RequestView<'a> {
    /// Without the port.
    pub host: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub method: &'a str,
    pub headers: &'a HeaderMap,
    pub source: IpAddr,
}

impl Condition {
    pub fn field(&self) -> &'static str {
        match self {
            Self::Host(_) => "host-header",
            Self::Path(_) => "path-pattern",
            Self::Header { .. } => "http-header",
            Self::Query(_) => "query-string",
            Self::Method(_) => "http-request-method",
            Self::SourceIp(_) => "source-ip",
        }
    }

    fn value_count(&self) -> usize {
        match self {
            Self::Host(v) | Self::Path(v) | Self::Method(v) | Self::Header { values: v, .. } => v.len(),
            Self::Query(v) => v.len(),
            Self::SourceIp(v) => v.len(),
        }
    }

    fn wildcard_count(&self) -> usize {
        match self {
            Self::Host(v) | Self::Path(v) | Self::Header { values: v, .. } => v.iter().map(|p| wildcards(p)).sum(),
            Self::Query(v) => v.iter().map(|(k, p)| k.as_deref().map_or(0, wildcards) + wildcards(p)).sum(),
            Self::Method(_) | Self::SourceIp(_) => 0,
        }
    }

    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Host(patterns) => patterns.iter().any(|p| glob(p, request.host, Case::Ignore)),
            Self::Path(patterns) => patterns.iter().any(|p| glob(p, request.path, Case::Exact)),
            Self::Header { name, values } => request.headers.get_all(name).iter().any(|held| {
                let held = String::from_utf8_lossy(held.as_bytes());
                values.iter().any(|p| glob(p, &held, Case::Ignore))
            }),
            Self::Query(pairs) => pairs.iter().any(|(key, value)| query_matches(key.as_deref(), value, request.query)),
            Self::Method(methods) => methods.iter().any(|m| m == request.method),
            Self::SourceIp(blocks) => blocks.iter().any(|b| b.contains(&request.source)),
        }
    }

    pub fn write(&self, x: &mut Xml) {
        x.text("Field", self.field());
        match self {
            Self::Host(v) => {
                x.text_list("Values", v).element("HostHeaderConfig", |x| _ = x.text_list("Values", v));
            }
            Self::Path(v) => {
                x.text_list("Values", v).element("PathPatternConfig", |x| _ = x.text_list("Values", v));
            }
            Self::Header { name, values } => {
                x.element("HttpHeaderConfig", |x| _ = x.text("HttpHeaderName", name).text_list("Values", values));
            }
            Self::Query(pairs) => {
                x.element("QueryStringConfig", |x| {
                    x.list("Values", pairs, |x, (key, value)| _ = x.text_if("Key", key.as_ref()).text("Value", value));
                });
            }
            Self::Method(v) => {
                x.element("HttpRequestMethodConfig", |x| _ = x.text_list("Values", v));
            }
            Self::SourceIp(v) => {
                x.element("SourceIpConfig", |x| _ = x.text_list("Values", v));
            }
        }
    }
}

/// Reads and checks the conditions of one rule.
pub fn parse_all(scopes: &[Scope<'_>], limits: &Limits) -> Result<Vec<Condition>, ApiError> {
    if scopes.is_empty() {
        return Err(ApiError::validation("Parameter 'Conditions' is empty; a rule needs at least one condition"));
    }
    let conditions = scopes.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    for single in ["host-header", "path-pattern", "http-request-method", "source-ip"] {
        if conditions.iter().filter(|c| c.field() == single).count() > 1 {
            return Err(ApiError::validation(format!(
                "A rule can have at most one '{single}' condition; merge the values"
            )));
        }
    }
    let (values, wild): (usize, usize) =
        (conditions.iter().map(Condition::value_count).sum(), conditions.iter().map(Condition::wildcard_count).sum());
    let check = |name, have: usize, what| {
        let max = limits.get(name);
        if have as u64 <= max {
            return Ok(());
        }
        Err(ApiError::validation(format!("The rule has {have} {what}; at most {max} are allowed, use several rules")))
    };
    check(limits::CONDITION_VALUES, values, "condition values")?;
    check(limits::CONDITION_WILDCARDS, wild, "condition wildcards")?;
    Ok(conditions)
}

fn parse(scope: &Scope<'_>) -> Result<Condition, ApiError> {
    let field = scope.required("Field")?;
    if !scope.list("RegexValues").is_empty() || has_regex(scope) {
        return Err(unsupported("RegexValues"));
    }
    match field {
        "host-header" => texts(scope, "HostHeaderConfig", true, check_host).map(Condition::Host),
        "path-pattern" => texts(scope, "PathPatternConfig", true, check_path).map(Condition::Path),
        "http-request-method" => texts(scope, "HttpRequestMethodConfig", false, check_method).map(Condition::Method),
        "http-header" => {
            let values = texts(scope, "HttpHeaderConfig", false, check_text)?;
            let config = config_of(scope, "HttpHeaderConfig")?;
            let name = config.required("HttpHeaderName")?;
            check_header_name(name)?;
            Ok(Condition::Header { name: name.to_owned(), values })
        }
        "query-string" => query_pairs(&config_of(scope, "QueryStringConfig")?).map(Condition::Query),
        "source-ip" => {
            let values = texts(scope, "SourceIpConfig", false, |_| Ok(()))?;
            if values.len() > MAX_SOURCE_IPS {
                return Err(ApiError::validation(format!(
                    "A source-ip condition with {} values; at most {MAX_SOURCE_IPS}, use several rules",
                    values.len()
                )));
            }
            let parse = |v: &String| {
                v.parse().map_err(|_| ApiError::validation(format!("The source-ip value '{v}' is not a CIDR block")))
            };
            values.iter().map(parse).collect::<Result<_, _>>().map(Condition::SourceIp)
        }
        other => Err(ApiError::validation(format!(
            "Condition field '{other}' must be one of '[path-pattern, http-request-method, http-header, query-string, \
             source-ip, host-header]'"
        ))),
    }
}

fn has_regex(scope: &Scope<'_>) -> bool {
    ["HostHeaderConfig", "PathPatternConfig", "HttpHeaderConfig"]
        .iter()
        .any(|c| scope.structure(c).is_some_and(|c| !c.list("RegexValues").is_empty()))
}

/// Things that AWS has and this stand-in does not model are refused, never dropped in silence.
pub fn unsupported(what: &str) -> ApiError {
    ApiError::validation(format!("{what}: not modelled by this stand-in; leave it out"))
}

fn config_of<'a>(scope: &Scope<'a>, name: &str) -> Result<Scope<'a>, ApiError> {
    scope
        .structure(name)
        .ok_or_else(|| ApiError::validation(format!("Parameter '{}' is required for this condition", scope.name(name))))
}

/// The values of a condition, from its config or, where there is one, from the short form (one value).
fn texts(
    scope: &Scope<'_>,
    config: &str,
    short_form: bool,
    check: impl Fn(&str) -> Result<(), ApiError>,
) -> Result<Vec<String>, ApiError> {
    let short = if short_form { scope.list("Values") } else { Vec::new() };
    let long = scope.structure(config).map(|c| c.list("Values")).unwrap_or_default();
    let values = match (short.len(), long.len()) {
        (0, 0) => {
            return Err(ApiError::validation(format!("A condition without values; give '{}'", scope.name(config))));
        }
        // A rule that was read back carries both forms; they are accepted when they agree.
        (_, n) if n > 0 && (short.is_empty() || short == long) => long,
        (1, 0) => short,
        (_, 0) => {
            return Err(ApiError::validation(format!("'Values' takes one value; use {config} for several")));
        }
        _ => {
            return Err(ApiError::validation(format!("'Values' and {config} disagree; give one of them")));
        }
    };
    for value in &values {
        if value.is_empty() {
            return Err(ApiError::validation("A condition value cannot be empty"));
        }
        check(value)?;
    }
    Ok(values.into_iter().map(str::to_owned).collect())
}

fn query_pairs(config: &Scope<'_>) -> Result<Vec<(Option<String>, String)>, ApiError> {
    let pairs: Vec<_> = config.members("Values").iter().map(|p| (p.get("Key"), p.get("Value"))).collect();
    if pairs.is_empty() {
        return Err(ApiError::validation("A query-string condition without values; give at least one"));
    }
    let mut out = Vec::new();
    for (key, value) in pairs {
        let value = value.filter(|v| !v.is_empty());
        let value = value.ok_or_else(|| ApiError::validation("A query-string condition value cannot be empty"))?;
        check_text(value)?;
        key.map(check_text).transpose()?;
        out.push((key.map(str::to_owned), value.to_owned()));
    }
    Ok(out)
}

fn check_length(value: &str, max: usize) -> Result<(), ApiError> {
    if value.chars().count() > max {
        return Err(ApiError::validation(format!("The condition value '{value}' is longer than {max} characters")));
    }
    Ok(())
}

fn check_charset(value: &str, allowed: impl Fn(char) -> bool) -> Result<(), ApiError> {
    match value.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(c) => {
            Err(ApiError::validation(format!("The condition value '{value}' contains '{c}', which is not allowed")))
        }
    }
}

fn check_text(value: &str) -> Result<(), ApiError> {
    check_length(value, MAX_VALUE)
}

fn check_host(value: &str) -> Result<(), ApiError> {
    check_length(value, MAX_VALUE)?;
    check_charset(value, |c| c.is_ascii_alphanumeric() || "-.*?".contains(c))?;
    let last = value.rsplit_once('.').map_or("", |(_, last)| last);
    if last.is_empty() || !last.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(ApiError::validation(format!(
            "The host-header value '{value}' needs at least one '.', and only letters after the last one"
        )));
    }
    Ok(())
}

fn check_path(value: &str) -> Result<(), ApiError> {
    check_length(value, MAX_VALUE)?;
    check_charset(value, |c| c.is_ascii_alphanumeric() || "_-.$/~\"'@:+&*?".contains(c))
}

fn check_method(value: &str) -> Result<(), ApiError> {
    check_length(value, MAX_SHORT)?;
    check_charset(value, |c| c.is_ascii_uppercase() || "-_".contains(c))
}

fn check_header_name(name: &str) -> Result<(), ApiError> {
    check_length(name, MAX_SHORT)?;
    if name.eq_ignore_ascii_case("host") {
        return Err(ApiError::validation("An http-header condition cannot name 'Host'; use a host-header condition"));
    }
    // The characters of a token in RFC 9110 but the two wildcards.
    check_charset(name, |c| c.is_ascii_alphanumeric() || "!#$%&'+-.^_`|~".contains(c))
}

fn query_matches(key: Option<&str>, value: &str, query: &str) -> bool {
    query.split('&').filter(|pair| !pair.is_empty()).any(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        key.is_none_or(|wanted| glob(wanted, k, Case::Ignore)) && glob(value, v, Case::Ignore)
    })
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
