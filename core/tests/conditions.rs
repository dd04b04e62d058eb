//! `spec.match`: what becomes of it as conditions of an ELBv2 rule, and what of it is refused, with the limits on both sides.

use proptest::prelude::*;
use switchyard_core::{
    observed::Condition,
    policy::{ClusterTrafficPolicy, Violation, validate},
};

fn manifest(matches: &str) -> ClusterTrafficPolicy {
    let text = format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: checkout, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: 443}}\n  match: {matches}\n  \
         backend: {{service: {{name: checkout, port: http}}}}\n  clusters: [{{name: blue, weight: 1}}]\n"
    );
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn accepted(matches: &str) -> Vec<Condition> {
    validate(&manifest(matches)).unwrap_or_else(|faults| panic!("{matches}: {faults:?}")).conditions
}

fn refused(matches: &str) -> Vec<Violation> {
    validate(&manifest(matches)).expect_err(matches)
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn paths(matches: &str) -> Vec<String> {
    match accepted(matches).as_slice() {
        [Condition::PathPattern(paths)] => paths.clone(),
        other => panic!("{matches}: {other:?}"),
    }
}

#[test]
fn a_prefix_is_the_path_itself_and_everything_below_it() {
    for (value, patterns) in [
        ("/checkout", vec!["/checkout", "/checkout/*"]),
        ("/checkout/", vec!["/checkout", "/checkout/*"]),
        ("/a/b", vec!["/a/b", "/a/b/*"]),
        ("/", vec!["/*"]),
        ("//", vec!["/*"]),
    ] {
        assert_eq!(paths(&format!("{{paths: [{{value: {value}}}]}}")), patterns, "{value}");
        assert_eq!(paths(&format!("{{paths: [{{type: Prefix, value: {value}}}]}}")), patterns, "{value}");
    }
}

#[test]
fn exact_paths_and_patterns_are_taken_as_they_are() {
    assert_eq!(paths("{paths: [{type: Exact, value: /a/}]}"), ["/a/"]);
    assert_eq!(paths("{paths: [{type: Pattern, value: '/*.php'}]}"), ["/*.php"]);
    assert_eq!(paths("{paths: [{type: Pattern, value: '*/img/?'}]}"), ["*/img/?"]);
}

#[test]
fn every_character_that_elbv2_takes_in_a_path_is_taken() {
    let value = "/azAZ09_-.$/~\"'@:+&";
    let quoted = serde_json::to_string(value).unwrap();
    assert_eq!(paths(&format!("{{paths: [{{type: Exact, value: {quoted}}}]}}")), [value]);
}

#[test]
fn values_are_sorted_and_named_once_so_that_a_read_back_compares_equal() {
    let conditions = accepted(
        "{hostnames: [WWW.Example.com, www.example.com], \
          headers: [{name: X-Beta, values: [b, a, b]}]}",
    );
    let expected = [
        Condition::HostHeader(texts(&["www.example.com"])),
        Condition::HttpHeader("x-beta".into(), texts(&["a", "b"])),
    ];
    assert_eq!(conditions, expected);
}

#[test]
fn the_order_in_which_values_are_written_makes_no_difference() {
    let one = "{headers: [{name: a, values: [x, y]}, {name: b, values: [z]}], methods: [GET, POST]}";
    let other = "{methods: [POST, GET], headers: [{name: B, values: [z]}, {name: A, values: [y, x]}]}";
    assert_eq!(accepted(one), accepted(other));
}

#[test]
fn every_kind_of_condition_is_built_in_a_fixed_order() {
    let conditions = accepted(
        "{sourceIps: [10.0.0.0/8], query: [{key: v, value: '2'}], methods: [GET], \
          headers: [{name: X-Canary, values: [yes*]}], hostnames: ['*.example.com']}",
    );
    let expected = [
        Condition::HostHeader(texts(&["*.example.com"])),
        Condition::HttpHeader("x-canary".into(), texts(&["yes*"])),
        Condition::HttpRequestMethod(texts(&["GET"])),
        Condition::QueryString(vec![("v".into(), "2".into())]),
        Condition::SourceIp(texts(&["10.0.0.0/8"])),
    ];
    assert_eq!(conditions, expected);
    let any_key = accepted("{query: [{value: yes please}]}");
    assert_eq!(any_key, [Condition::QueryString(vec![(String::new(), "yes please".into())])]);
}

#[test]
fn five_values_fit_into_a_rule_and_six_do_not() {
    let hosts = |n: usize| (0..n).map(|i| format!("h{i}.example.com")).collect::<Vec<_>>().join(", ");
    accepted(&format!("{{hostnames: [{}]}}", hosts(5)));
    for matches in [
        format!("{{hostnames: [{}]}}", hosts(6)),
        format!("{{hostnames: [{}], paths: [{{value: /a}}]}}", hosts(4)),
        "{paths: [{value: /a}, {value: /b}, {value: /c}]}".to_owned(),
        "{headers: [{name: a, values: [a, b, c]}, {name: b, values: [a, b, c]}]}".to_owned(),
        "{query: [{value: a}, {value: b}, {value: c}], methods: [GET, PUT, POST]}".to_owned(),
        format!("{{hostnames: [{}], sourceIps: [10.0.0.0/8]}}", hosts(5)),
    ] {
        let faults = refused(&matches);
        let [fault] = faults.as_slice() else { panic!("{matches}: {faults:?}") };
        assert_eq!(fault.field, "spec.match");
        assert_eq!(fault.problem, "needs 6 condition values, an ELBv2 rule takes 5");
        assert!(fault.remedy.contains("a Prefix path counts as two"), "{fault}");
    }
}

#[test]
fn a_value_that_is_written_twice_counts_twice_and_is_sent_once() {
    assert_eq!(paths("{paths: [{value: /a}, {value: /a/}, {type: Exact, value: /a}]}"), ["/a", "/a/*"]);
    let faults = refused("{paths: [{value: /a}, {value: /a/}, {type: Exact, value: /a}, {type: Exact, value: /b}]}");
    assert_eq!(faults[0].problem, "needs 6 condition values, an ELBv2 rule takes 5");
}

#[test]
fn five_wildcards_fit_into_a_rule_and_six_do_not() {
    accepted("{hostnames: ['*.?.example.com'], paths: [{type: Pattern, value: '/*/?/*'}]}");
    for matches in [
        "{hostnames: ['*.*.example.com'], paths: [{type: Pattern, value: '/*/?/*/*'}]}",
        "{hostnames: ['??????.example.com']}",
        "{query: [{key: '*', value: '*****'}]}",
    ] {
        let faults = refused(matches);
        let [fault] = faults.as_slice() else { panic!("{matches}: {faults:?}") };
        assert_eq!(fault.problem, "holds 6 wildcards, an ELBv2 rule takes 5", "{matches}");
        assert!(fault.remedy.contains("use fewer"), "{fault}");
    }
}

#[test]
fn a_match_without_a_condition_is_refused() {
    for matches in ["{}", "{hostnames: [], paths: [], query: []}"] {
        let faults = refused(matches);
        assert_eq!((faults.len(), faults[0].field.as_str()), (1, "spec.match"), "{faults:?}");
        assert!(faults[0].problem.contains("has no condition"));
        assert!(faults[0].remedy.contains("hostnames or paths"));
    }
}

/// (match, field, part of the value, part of the problem or remedy); exactly this one fault must be named.
fn table() -> Vec<(String, &'static str, &'static str, &'static str)> {
    let long = |n: usize| "a".repeat(n);
    let row = |matches: &str, field, value, words| (matches.to_owned(), field, value, words);
    vec![
        row("{hostnames: [localhost]}", "spec.match.hostnames[0]", "localhost", "shop.example.com"),
        row("{hostnames: [a.com, shop.]}", "spec.match.hostnames[1]", "shop.", "letters after its last dot"),
        row("{hostnames: [10.0.0.1]}", "spec.match.hostnames[0]", "10.0.0.1", "letters after its last dot"),
        row("{hostnames: [shop.c0m]}", "spec.match.hostnames[0]", "shop.c0m", "letters after its last dot"),
        row("{hostnames: [my_shop.com]}", "spec.match.hostnames[0]", "my_shop", "use only letters, digits, - . and"),
        row("{hostnames: ['shop.com:8080']}", "spec.match.hostnames[0]", ":8080", ""),
        row("{hostnames: [münchen.de]}", "spec.match.hostnames[0]", "münchen", "'ü'"),
        row("{hostnames: ['']}", "spec.match.hostnames[0]", "", "is empty"),
        (format!("{{hostnames: [{}.com]}}", long(125)), "spec.match.hostnames[0]", "aaa", "more than 128 characters"),
        row("{paths: [{value: checkout}]}", "spec.match.paths[0].value", "checkout", "write /checkout"),
        row("{paths: [{value: ''}]}", "spec.match.paths[0].value", "", "is empty"),
        row("{paths: [{type: Exact, value: ''}]}", "spec.match.paths[0].value", "", "is empty"),
        row("{paths: [{type: Pattern, value: ''}]}", "spec.match.paths[0].value", "", "is empty"),
        row("{paths: [{value: '/a*'}]}", "spec.match.paths[0].value", "/a*", "use type: Pattern"),
        row("{paths: [{type: Exact, value: '/a?'}]}", "spec.match.paths[0].value", "/a?", "use type: Pattern"),
        row("{paths: [{value: /a}, {value: /b c}]}", "spec.match.paths[1].value", "/b c", "holds the character ' '"),
        row("{paths: [{type: Pattern, value: '?a'}]}", "spec.match.paths[0].value", "?a", "does not start with /"),
        row("{paths: [{value: '/a%20b'}]}", "spec.match.paths[0].value", "/a%20b", "use only letters, digits and _"),
        row("{paths: [{value: '/a#b'}]}", "spec.match.paths[0].value", "/a#b", "'#'"),
        (
            format!("{{paths: [{{type: Exact, value: /{}}}]}}", long(128)),
            "spec.match.paths[0].value",
            "/aaa",
            "more than 128 characters",
        ),
        (
            format!("{{paths: [{{value: /{}}}]}}", long(126)),
            "spec.match.paths[0].value",
            "/aaa",
            "more than 128 characters",
        ),
        row("{headers: [{name: Host, values: [a]}]}", "spec.match.headers[0].name", "Host", "use spec.match.hostnames"),
        row("{headers: [{name: '', values: [a]}]}", "spec.match.headers[0].name", "", "1 to 40 characters"),
        row("{headers: [{name: 'X Y', values: [a]}]}", "spec.match.headers[0].name", "X Y", "as in the HTTP request"),
        row("{headers: [{name: 'X:', values: [a]}]}", "spec.match.headers[0].name", "X:", ""),
        (
            format!("{{headers: [{{name: {}, values: [a]}}]}}", long(41)),
            "spec.match.headers[0].name",
            "aaa",
            "1 to 40 characters",
        ),
        row("{headers: [{name: X, values: []}], methods: [GET]}", "spec.match.headers[0].values", "[]", "at least one"),
        row("{headers: [{name: X, values: [a, '']}]}", "spec.match.headers[0].values[1]", "", "is empty"),
        row("{headers: [{name: X, values: ['ä']}]}", "spec.match.headers[0].values[0]", "ä", "printable ASCII"),
        row(
            "{headers: [{name: X, values: [\"a\\tb\"]}]}",
            "spec.match.headers[0].values[0]",
            "a\tb",
            "printable ASCII",
        ),
        (
            format!("{{headers: [{{name: X, values: [{}]}}]}}", long(129)),
            "spec.match.headers[0].values[0]",
            "aaa",
            "more than 128 characters",
        ),
        row("{methods: [get]}", "spec.match.methods[0]", "get", "upper-case"),
        row("{methods: [GET, '']}", "spec.match.methods[1]", "", "is not a method name"),
        row("{methods: ['G*']}", "spec.match.methods[0]", "G*", "upper-case"),
        (format!("{{methods: [{}]}}", "A".repeat(41)), "spec.match.methods[0]", "AAA", "is not a method name"),
        row("{query: [{key: k, value: ''}]}", "spec.match.query[0].value", "", "is empty"),
        row("{query: [{value: 'ä'}]}", "spec.match.query[0].value", "ä", "printable ASCII"),
        row("{query: [{key: 'ä', value: a}]}", "spec.match.query[0].key", "ä", "printable ASCII"),
        (format!("{{query: [{{value: {}}}]}}", long(129)), "spec.match.query[0].value", "aaa", "more than 128"),
        (format!("{{query: [{{key: {}, value: a}}]}}", long(129)), "spec.match.query[0].key", "aaa", "more than 128"),
        row("{sourceIps: [10.0.0.1]}", "spec.match.sourceIps[0]", "10.0.0.1", "10.0.0.0/8"),
        row("{sourceIps: [10.0.0.0/33]}", "spec.match.sourceIps[0]", "10.0.0.0/33", "ADDRESS/LENGTH"),
        row("{sourceIps: [10.0.0.0/8, shop]}", "spec.match.sourceIps[1]", "shop", "is not a CIDR block"),
        row("{sourceIps: ['2001:db8::/129']}", "spec.match.sourceIps[0]", "2001:db8::/129", "is not a CIDR block"),
        row("{sourceIps: ['']}", "spec.match.sourceIps[0]", "", "is not a CIDR block"),
        row("{sourceIps: [10.1.2.3/8]}", "spec.match.sourceIps[0]", "10.1.2.3/8", "write 10.0.0.0/8"),
        row("{sourceIps: ['2001:db8::1/32']}", "spec.match.sourceIps[0]", "2001:db8::1/32", "write 2001:db8::/32"),
    ]
}

#[test]
fn each_fault_is_named_once_with_its_field_its_value_and_a_remedy() {
    for (matches, field, value, words) in table() {
        let faults = refused(&matches);
        let [fault] = faults.as_slice() else { panic!("{matches}: {faults:#?}") };
        assert_eq!(fault.field, field, "{matches}: {fault}");
        assert!(fault.value.contains(value), "{matches}: {fault}");
        assert!(fault.to_string().contains(words), "{matches}: {fault}");
        assert!(!fault.problem.is_empty() && !fault.remedy.is_empty(), "{matches}: {fault}");
    }
}

#[test]
fn values_at_their_limit_are_taken() {
    let long = |n: usize| "a".repeat(n);
    for matches in [
        format!("{{hostnames: [{}.com]}}", long(124)),
        format!("{{paths: [{{type: Exact, value: /{}}}]}}", long(127)),
        format!("{{paths: [{{value: /{}}}]}}", long(125)),
        format!("{{headers: [{{name: {}, values: [{}]}}]}}", long(40), long(128)),
        format!("{{methods: [{}, M-SEARCH, A_B]}}", "A".repeat(40)),
        format!("{{query: [{{key: {}, value: {}}}]}}", long(128), long(128)),
        "{sourceIps: [0.0.0.0/0, 10.1.2.3/32, '::/0', '2001:db8::1/128']}".to_owned(),
        "{hostnames: ['*.com', 'shop.*', 'a?.example.c?m']}".to_owned(),
        "{headers: [{name: \"a!#$%&'*+-.^_`|~9\", values: ['a b', '~!']}]}".to_owned(),
    ] {
        accepted(&matches);
    }
}

#[test]
fn blocks_are_written_in_the_one_form_that_reads_back_equal() {
    let conditions = accepted("{sourceIps: ['2001:DB8:0:0::/32', 10.0.0.0/8, '2001:db8::/32']}");
    assert_eq!(conditions, [Condition::SourceIp(texts(&["10.0.0.0/8", "2001:db8::/32"]))]);
}

#[test]
fn thousands_of_faults_are_answered_with_a_list_that_can_be_read() {
    let hosts = vec!["x"; 10_000].join(", ");
    let faults = refused(&format!("{{hostnames: [{hosts}]}}"));
    assert!((10..=101).contains(&faults.len()), "{}", faults.len());
}

proptest! {
    /// Request paths are matched by a second, stupid reading of the API's patterns; a prefix means what the Gateway API means.
    #[test]
    fn a_prefix_matches_whole_elements_only(prefix in "(/[ab]{1,2}){1,3}/?", path in "(/[ab]{1,2}){1,4}/?") {
        let patterns = paths(&format!("{{paths: [{{value: {prefix}}}]}}"));
        let hit = patterns.iter().any(|pattern| like(pattern.as_bytes(), path.as_bytes()));
        let elements = |text: &str| text.split('/').filter(|e| !e.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        prop_assert_eq!(hit, elements(&path).starts_with(&elements(&prefix)), "{:?} {}", patterns, path);
    }
}

/// `*` stands for any text, `?` for one character.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => like(rest, text) || (!text.is_empty() && like(pattern, &text[1..])),
        ([b'?', p @ ..], [_, t @ ..]) => like(p, t),
        ([p, ps @ ..], [t, ts @ ..]) if p == t => like(ps, ts),
        _ => false,
    }
}
