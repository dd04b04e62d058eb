//! Tests of the rule conditions: bounds as documented, and matching.

use super::*;
use crate::elb::query::Params;

fn read(body: &str) -> Result<Vec<Condition>, ApiError> {
    let params = Params::parse(body.as_bytes()).unwrap();
    parse_all(&params.root().members("C"), &Limits::default())
}

fn one(field: &str, config: &str, value: &str) -> Result<Vec<Condition>, ApiError> {
    let value: String = value.bytes().map(|b| format!("%{b:02X}")).collect();
    read(&format!("C.member.1.Field={field}&C.member.1.{config}.Values.member.1={value}"))
}

fn matches(condition: &Condition, host: &str, path_and_query: &str, method: &str) -> bool {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let mut headers = HeaderMap::new();
    headers.append("x-version", "Beta-7".parse().unwrap());
    headers.append("x-version", "old".parse().unwrap());
    let source = "10.1.2.3".parse().unwrap();
    condition.matches(&RequestView { host, path, query, method, headers: &headers, source })
}

#[test]
fn hosts_ignore_case_and_paths_do_not() {
    let host = Condition::Host(vec!["*.Example.com".into()]);
    assert!(matches(&host, "SHOP.example.COM", "/", "GET"));
    assert!(!matches(&host, "example.com", "/", "GET"));
    let path = Condition::Path(vec!["/check?ut/*".into()]);
    assert!(matches(&path, "h", "/checkout/", "GET"));
    assert!(matches(&path, "h", "/checkout/a/b", "GET"));
    assert!(!matches(&path, "h", "/Checkout/a", "GET"));
    assert!(!matches(&path, "h", "/checkout", "GET"));
}

#[test]
fn any_of_the_repeated_headers_may_match() {
    let header = |v: &str| Condition::Header { name: "X-Version".into(), values: vec![v.into()] };
    assert!(matches(&header("beta-?"), "h", "/", "GET"));
    assert!(matches(&header("OLD"), "h", "/", "GET"));
    assert!(!matches(&header("new"), "h", "/", "GET"));
}

#[test]
fn query_strings_match_by_key_and_value_and_a_backslash_takes_a_wildcard_literally() {
    let query = |k: Option<&str>, v: &str| Condition::Query(vec![(k.map(str::to_owned), v.to_owned())]);
    assert!(matches(&query(Some("Ver"), "b*"), "h", "/?a=1&ver=BETA", "GET"));
    assert!(matches(&query(None, "1"), "h", "/?a=1", "GET"));
    assert!(!matches(&query(Some("b"), "1"), "h", "/?a=1", "GET"));
    assert!(matches(&query(None, "\\*"), "h", "/?a=*", "GET"));
    assert!(!matches(&query(None, "\\*"), "h", "/?a=x", "GET"));
}

#[test]
fn methods_are_exact_and_source_addresses_are_taken_by_block() {
    assert!(matches(&Condition::Method(vec!["POST".into()]), "h", "/", "POST"));
    assert!(!matches(&Condition::Method(vec!["POST".into()]), "h", "/", "GET"));
    assert!(matches(&Condition::SourceIp(vec!["10.1.0.0/16".parse().unwrap()]), "h", "/", "GET"));
    assert!(!matches(&Condition::SourceIp(vec!["10.2.0.0/16".parse().unwrap()]), "h", "/", "GET"));
}

#[test]
fn values_outside_the_documented_bounds_are_refused() {
    for (field, config, value) in [
        ("host-header", "HostHeaderConfig", "nodot"),
        ("host-header", "HostHeaderConfig", "a.b1"),
        ("host-header", "HostHeaderConfig", "example.*"),
        ("host-header", "HostHeaderConfig", "example."),
        ("host-header", "HostHeaderConfig", "a_b.com"),
        ("path-pattern", "PathPatternConfig", "/a b"),
        ("path-pattern", "PathPatternConfig", "/ä"),
        ("http-request-method", "HttpRequestMethodConfig", "get"),
        ("source-ip", "SourceIpConfig", "10.0.0.1"),
        ("no-such-field", "X", "y"),
    ] {
        let error = one(field, config, value).unwrap_err();
        assert_eq!(error.code, "ValidationError", "{field} {value}");
    }
    assert!(one("path-pattern", "PathPatternConfig", &"a".repeat(129)).is_err());
    assert!(one("path-pattern", "PathPatternConfig", &"a".repeat(128)).is_ok());
}

#[test]
fn too_many_values_wildcards_or_repeated_fields_are_refused() {
    let values = |n: usize, v: &str| {
        let each = |i| format!("&C.member.1.PathPatternConfig.Values.member.{i}=/{v}{i}");
        read(&format!("C.member.1.Field=path-pattern{}", (1..=n).map(each).collect::<String>()))
    };
    assert!(values(5, "a").is_ok());
    assert!(values(6, "a").unwrap_err().message.contains("6 condition values"));
    assert!(values(3, "**").unwrap_err().message.contains("6 condition wildcards"));
    let twice = "C.member.1.Field=host-header&C.member.1.Values.member.1=a.b&\
                 C.member.2.Field=host-header&C.member.2.Values.member.1=c.d";
    assert!(read(twice).unwrap_err().message.contains("at most one 'host-header'"));
    assert!(read("").unwrap_err().message.contains("at least one condition"));
}

#[test]
fn the_short_form_takes_one_value_and_may_repeat_what_the_config_says() {
    let short = "C.member.1.Field=path-pattern&C.member.1.Values.member.1=/a";
    assert_eq!(read(short).unwrap(), [Condition::Path(vec!["/a".into()])]);
    assert!(read(&format!("{short}&C.member.1.Values.member.2=/b")).is_err());
    assert!(read(&format!("{short}&C.member.1.PathPatternConfig.Values.member.1=/a")).is_ok());
    assert!(read(&format!("{short}&C.member.1.PathPatternConfig.Values.member.1=/b")).is_err());
}

#[test]
fn regular_expressions_are_refused_and_not_dropped() {
    let body = "C.member.1.Field=path-pattern&C.member.1.PathPatternConfig.RegexValues.member.1=^/a$";
    assert!(read(body).unwrap_err().message.contains("RegexValues"));
}

#[test]
fn a_condition_cannot_name_the_host_header_as_a_header() {
    let body = "C.member.1.Field=http-header&C.member.1.HttpHeaderConfig.HttpHeaderName=host&\
                C.member.1.HttpHeaderConfig.Values.member.1=a";
    assert!(read(body).unwrap_err().message.contains("host-header condition"));
}
