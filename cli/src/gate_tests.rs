//! Gates as people type them, and what they are told when they mistype.

use super::*;

fn prometheus(source: &str, query: &str) -> pb::Gate {
    let prometheus = pb::PrometheusGate { source: source.into(), query: query.into() };
    pb::Gate { prometheus: Some(prometheus), ..pb::Gate::default() }
}

#[test]
fn a_health_gate_takes_a_percentage_or_the_hubs_default() {
    let health = |min_healthy_percent| pb::Gate {
        target_health: Some(pb::TargetHealthGate { min_healthy_percent }),
        ..pb::Gate::default()
    };
    assert_eq!(parse("health"), Ok(health(0)));
    assert_eq!(parse("health=90"), Ok(health(90)));
    let every = pb::Gate { interval_seconds: 10, count: 6, name: "alive".into(), ..health(0) };
    assert_eq!(parse("health; name=alive; every 10s; count 6"), Ok(every));
}

#[test]
fn a_prometheus_gate_has_a_source_a_query_and_comparisons() {
    let text = "prometheus/main: sum(rate(errors[1m])) / sum(rate(requests[1m])); success < 0.01; failure > 0.05; \
                every 30s; count 4; failure-limit 1";
    let expected = pb::Gate {
        success: "< 0.01".into(),
        failure: "> 0.05".into(),
        interval_seconds: 30,
        count: 4,
        failure_limit: 1,
        ..prometheus("main", "sum(rate(errors[1m])) / sum(rate(requests[1m]))")
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn colons_and_quoted_semicolons_belong_to_the_query() {
    for query in [
        r#"job:errors:rate5m{path=~"a;b"}"#,
        r#"x{a="quote \" ; inside"}"#,
        "x{a='single;'}",
        "x{a=`back\\`}",
        r#"count(up{zone="a:b"} == 1)"#,
    ] {
        let expected = pb::Gate { success: ">= 1".into(), ..prometheus("main", query) };
        assert_eq!(parse(&format!("prometheus/main: {query} ; success>=1")), Ok(expected), "{query}");
    }
}

#[test]
fn a_cloud_watch_gate_may_divide_by_another_metric() {
    let gate = |divided_by: &str, period_seconds| pb::Gate {
        cloud_watch: Some(pb::CloudWatchGate {
            metric: "HTTPCode_Target_5XX_Count".into(),
            statistic: "Sum".into(),
            period_seconds,
            divided_by: divided_by.into(),
        }),
        success: "< 0.01".into(),
        ..pb::Gate::default()
    };
    let ratio = "cloudwatch: HTTPCode_Target_5XX_Count Sum / RequestCount; success < 0.01; period 60s";
    assert_eq!(parse(ratio), Ok(gate("RequestCount", 60)));
    assert_eq!(parse("cloudwatch:HTTPCode_Target_5XX_Count Sum;success<0.01"), Ok(gate("", 0)));
}

#[test]
fn a_webhook_gate_names_its_endpoint() {
    let webhook = Some(pb::WebhookGate { endpoint: "smoke".into() });
    assert_eq!(parse("webhook/smoke"), Ok(pb::Gate { webhook: webhook.clone(), ..pb::Gate::default() }));
    let named = pb::Gate { webhook, name: "ready".into(), interval_seconds: 60, ..pb::Gate::default() };
    assert_eq!(parse("webhook/smoke; name=ready; every 1m;"), Ok(named));
}

#[test]
fn every_comparison_is_taken_with_and_without_blanks() {
    for operator in COMPARISONS {
        for text in [format!("success{operator}99.5"), format!("success {operator}  99.5")] {
            let gate = parse(&format!("prometheus/main: up; {text}")).unwrap();
            assert_eq!(gate.success, format!("{operator} 99.5"), "{text}");
        }
    }
    assert_eq!(parse("prometheus/main: up; success > -1e3").unwrap().success, "> -1e3");
}

#[test]
fn a_mistake_names_the_piece_and_what_to_write() {
    for (text, parts) in [
        ("", ["'' is no kind of gate", "webhook/ENDPOINT"]),
        ("healthy", ["'healthy' is no kind", "health[=PERCENT]"]),
        ("health=0", ["'0' is not a percentage", "health=90"]),
        ("health=all", ["'all' is not a percentage", "health=90"]),
        ("health: 90", ["'health: 90' is no kind", "health[=PERCENT]"]),
        ("prometheus: up", ["'prometheus: up' names no source", "prometheus/main"]),
        ("prometheus/main", ["'prometheus/main' has no query", "prometheus/main: up"]),
        ("prometheus/main: up", ["lacks 'success'", "success < 0.01"]),
        ("prometheus/main: up; success 1", ["'success 1' is not a comparison", "<=, >, >=, ==, !="]),
        ("prometheus/main: up; success = 1", ["'success = 1' is not a comparison", "success < 0.01"]),
        ("prometheus/main: up; success < many", ["'success < many' is not a comparison", "success < 0.01"]),
        ("prometheus/main: up; success < NaN", ["'success < NaN' is not a comparison", "success < 0.01"]),
        ("prometheus/main: up; success > 1; success > 2", ["'success' is given twice", "once"]),
        ("prometheus/main: up; success > 1; speed 9", ["'speed 9' is not a setting", "failure-limit"]),
        ("prometheus/main: up; success > 1; period 60s", ["'period 60s' is not a setting", "failure-limit"]),
        ("prometheus/main: up; success > 1; count few", ["'few' is not a whole number", "count 4"]),
        ("prometheus/main: up; success > 1; count", ["'count' is not a whole number", "count 4"]),
        ("prometheus/main: up; success > 1; every 5", ["in 'every 5'", "90s, 2m"]),
        ("prometheus/main: up{a=\"b}; success > 1", ["a quotation mark that is not closed", "close it"]),
        ("cloudwatch", ["'' is not METRIC STATISTIC", "RequestCount"]),
        ("cloudwatch: RequestCount; success > 1", ["'RequestCount' is not METRIC STATISTIC", "RequestCount"]),
        ("cloudwatch: A Sum /; success > 1", ["'A Sum /' is not METRIC STATISTIC", "RequestCount"]),
        ("webhook", ["'webhook' names no endpoint", "webhook/checks"]),
        ("webhook/a; success > 1", ["'success > 1' is not a setting", "name, every, count or failure-limit"]),
        ("health; name", ["'name' is not a setting", "name, every"]),
    ] {
        let told = parse(text).map_err(|error| error.to_string()).expect_err(text);
        for part in parts {
            assert!(told.contains(part), "{text}: {told} lacks {part}");
        }
    }
}

#[test]
fn gates_without_a_name_get_one_that_no_other_has() {
    let mut gates: Vec<pb::Gate> = [
        "health",
        "prometheus/main: up; success == 1",
        "prometheus/main: down; success == 0",
        "health; name=prometheus-main-3",
        "prometheus/main: x; success == 0",
        "cloudwatch: RequestCount Sum; success > 1",
        "webhook/smoke",
    ]
    .into_iter()
    .map(|text| parse(text).unwrap())
    .collect();
    name_all(&mut gates);
    let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
    let expected = [
        "health",
        "prometheus-main",
        "prometheus-main-2",
        "prometheus-main-3",
        "prometheus-main-4",
        "cloudwatch",
        "webhook-smoke",
    ];
    assert_eq!(names, expected);
    let long = format!("webhook/{}", "x".repeat(63));
    let mut two = [parse(&long).unwrap(), parse(&long).unwrap()];
    name_all(&mut two);
    assert!(two[0].name != two[1].name && two.iter().all(|gate| gate.name.len() <= MOST_NAME), "{two:?}");
}
