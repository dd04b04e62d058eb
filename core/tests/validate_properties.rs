//! Whatever is written as a policy is judged without a panic, and what is taken obeys ELBv2's limits as a second, stupid reading
//! of its API reference knows them. The table of faults is in `validate.rs`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::{prelude::*, strategy::ValueTree};
use switchyard_core::{
    ids::ClusterName,
    observed::Condition,
    policy::{
        ClusterTrafficPolicy, ValidatedPolicy,
        spec::{self, Mode, NameOrNumber, PathKind, Protocol, ProtocolVersion, TargetType},
        validate,
        validate::MOST_VIOLATIONS,
    },
};

const LB: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shared/50dc6c495c0c9188";
const LISTENER: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/50dc6c495c0c9188/f2f7";

fn any_text() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "",
        "a",
        "shop",
        "shop.example.com",
        "*.*.com",
        "/",
        "/a",
        "/a/*",
        "*",
        "??????",
        "GET",
        "10.0.0.0/8",
        "::/0",
        "200",
        "200-299",
        "0",
        "Host",
        "X-A",
        "a b",
        "ä",
        LISTENER,
        LB,
        "http",
        "80",
    ]);
    prop_oneof![
        6 => known.prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => "[a-z0-9.*?/-]{0,140}",
        1 => any::<String>(),
    ]
}

fn any_number() -> impl Strategy<Value = u32> {
    let known = vec![0, 1, 2, 4, 5, 6, 10, 11, 99, 100, 101, 120, 300, 301, 999, 1000, 3600, 3601, 49_000, 49_001];
    prop_oneof![8 => proptest::sample::select(known), 1 => 0..70_000u32, 1 => any::<u32>()]
}

/// Mostly within the range, its ends included.
fn within(least: u32, most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![20 => least..=most, 3 => Just(least), 3 => Just(most), 1 => any_number()]
}

/// Mostly one of these.
fn like(usual: &[&str]) -> impl Strategy<Value = String> + use<> {
    let usual: Vec<String> = usual.iter().map(|text| (*text).to_owned()).collect();
    prop_oneof![12 => proptest::sample::select(usual), 1 => any_text()]
}

/// Mostly nothing: a match with every kind of condition is hardly ever within the limits.
fn list<S: Strategy>(of: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop_oneof![3 => Just(0usize), 3 => Just(1), 1 => Just(2), 1 => Just(4)].prop_flat_map({
        let of = std::rc::Rc::new(of);
        move |n| proptest::collection::vec(of.clone(), n)
    })
}

prop_compose! {
    fn any_listener()(
        arn in proptest::option::of(like(&[LISTENER])), load_balancer in proptest::option::of(like(&["shared", LB])),
        tags in proptest::collection::btree_map(like(&["team"]), like(&["shop"]), 0..2),
        port in proptest::option::of(within(1, 65_535)), usual in 0..10u32,
    ) -> spec::Listener {
        if usual > 3 {
            return spec::Listener { load_balancer: Some("shared".into()), port: Some(443), ..spec::Listener::default() };
        }
        spec::Listener { arn, load_balancer, tags, port }
    }
}

prop_compose! {
    fn any_match()(
        hostnames in list(like(&["shop.example.com", "*.example.com", "a?.b?.com"])),
        paths in list((
            proptest::sample::select(vec![PathKind::Prefix, PathKind::Exact, PathKind::Pattern]),
            like(&["/a", "/", "/checkout/", "/a/*", "/*/b?"]),
        )),
        headers in list((like(&["X-A", "cookie"]), list(like(&["yes", "a*", "b c"])))),
        methods in list(like(&["GET", "POST"])),
        query in list((like(&["", "v"]), like(&["1", "2*"]))),
        source_ips in list(like(&["10.0.0.0/8", "::/0"])),
    ) -> spec::Match {
        spec::Match {
            hostnames, methods, source_ips,
            paths: paths.into_iter().map(|(kind, value)| spec::PathMatch { kind, value }).collect(),
            headers: headers.into_iter().map(|(name, values)| spec::HeaderMatch { name, values }).collect(),
            query: query.into_iter().map(|(key, value)| spec::QueryMatch { key, value }).collect(),
        }
    }
}

prop_compose! {
    fn any_backend()(
        name in like(&["checkout"]),
        port in prop_oneof![
            within(1, 65_535).prop_map(NameOrNumber::Number),
            like(&["http", "80"]).prop_map(NameOrNumber::Name),
        ],
        protocol_version in
            proptest::sample::select(vec![ProtocolVersion::Http1, ProtocolVersion::Http2, ProtocolVersion::Grpc]),
        path in like(&["/", "/healthz", "/a?b=c"]), check_port in proptest::option::of(within(1, 65_535)),
        interval_seconds in within(5, 300), timeout_seconds in within(2, 10),
        healthy_threshold in within(2, 10), unhealthy_threshold in within(2, 10),
        success_codes in like(&["", "", "200", "200-299", "12", "0-99,5"]), delay in within(0, 3600),
    ) -> spec::Backend {
        let health_check = spec::HealthCheck {
            path, port: check_port, interval_seconds, timeout_seconds, healthy_threshold, unhealthy_threshold, success_codes,
        };
        spec::Backend {
            service: spec::Service { name, port }, health_check, target_type: TargetType::Ip, protocol: Protocol::Http,
            protocol_version, deregistration_delay_seconds: delay,
        }
    }
}

prop_compose! {
    fn any_window()(
        days in proptest::sample::subsequence(spec::Weekday::ALL.to_vec(), 0..=7), twice in 0..8u32,
        from in like(&["00:00", "09:30", "23:59"]), to in like(&["00:00", "04:00", "24:00"]),
        time_zone in like(&["UTC", "Europe/Berlin", "America/New_York"]),
    ) -> spec::MaintenanceWindow {
        let mut days = if days.is_empty() && twice < 7 { spec::Weekday::ALL.to_vec() } else { days };
        days.extend((twice == 0).then_some(spec::Weekday::Mon));
        spec::MaintenanceWindow { days, from, to, time_zone }
    }
}

prop_compose! {
    fn any_safety()(
        deregistration_budget_percent in within(0, 100), freeze in any::<bool>(),
        min_active_clusters in prop_oneof![6 => Just(1), 1 => within(1, 5)], max_step_percent in within(1, 100),
        min_step_interval_seconds in within(0, 86_400), maintenance_windows in list(any_window()),
    ) -> spec::Safety {
        spec::Safety {
            deregistration_budget_percent, freeze, min_active_clusters, max_step_percent, min_step_interval_seconds,
            maintenance_windows,
        }
    }
}

prop_compose! {
    fn any_capacity()(
        peak_requests_per_second in within(1, 10_000_000), requests_per_second_per_target in within(1, 100_000),
    ) -> spec::Capacity {
        spec::Capacity { peak_requests_per_second, requests_per_second_per_target }
    }
}

prop_compose! {
    fn any_failover()(
        overprovisioning_percent in within(100, 1000), panic_threshold_percent in within(1, 100),
        unhealthy_after_seconds in within(0, 3600), healthy_after_seconds in within(0, 86_400),
        failback in prop_oneof![Just(None), Just(Some(spec::Failback::Auto)), Just(Some(spec::Failback::Manual))],
        failback_step_percent in within(1, 100), failback_step_seconds in within(0, 86_400),
        dead_band_percent in within(0, 50), hold_down_max_seconds in within(0, 86_400), max_moves_per_hour in within(1, 60),
    ) -> spec::Failover {
        spec::Failover {
            overprovisioning_percent, panic_threshold_percent, unhealthy_after_seconds, healthy_after_seconds, failback,
            failback_step_percent, failback_step_seconds, dead_band_percent, hold_down_max_seconds, max_moves_per_hour,
        }
    }
}

prop_compose! {
    fn any_cluster()(
        name in like(&["a", "b", "c", "d", "e", "f", "g", "h"]), weight in within(0, 999),
        priority in prop_oneof![6 => Just(0), 1 => within(0, 4)],
    ) -> spec::Cluster {
        spec::Cluster { name, weight, priority }
    }
}

prop_compose! {
    fn any_manifest()(
        name in like(&["checkout", "a.b"]), namespace in like(&["shop"]), listener in any_listener(),
        matches in any_match(), backend in any_backend(), order in within(1, 49_000),
        clusters in proptest::collection::vec(any_cluster(), 0..7),
        safety in prop_oneof![2 => Just(spec::Safety::default()), 1 => any_safety()],
        capacity in proptest::option::of(any_capacity()), failover in proptest::option::of(any_failover()),
    ) -> ClusterTrafficPolicy {
        let metadata = spec::Metadata { name, namespace };
        let spec = spec::PolicySpec {
            listener, matches, order, backend, mode: Mode::Weighted, clusters, failover, safety, capacity,
        };
        ClusterTrafficPolicy { api_version: spec::API_VERSION.into(), kind: spec::KIND.into(), metadata, spec }
    }
}

/// ELBv2's limits on what a policy becomes, judged by a second, stupid reading of the API's reference.
fn judge(policy: &ValidatedPolicy) -> Result<(), String> {
    let ok = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {policy:?}")) };
    ok((1..=50_000).contains(&policy.order), "priority")?;
    ok((1..=5).contains(&policy.clusters.len()), "groups in a rule")?;
    ok(policy.clusters.iter().all(|(_, weight)| weight.get() <= 999), "weight")?;
    ok(policy.clusters.iter().map(|(_, weight)| weight.get()).sum::<u32>() > 0, "sum of weights")?;
    let names: BTreeSet<&ClusterName> = policy.clusters.iter().map(|(name, _)| name).collect();
    ok(names.len() == policy.clusters.len(), "clusters are distinct")?;
    ok(policy.deregistration_delay_seconds <= 3600, "deregistration delay")?;
    let check = &policy.health_check;
    ok(
        (5..=300).contains(&check.interval_seconds) && (2..=120).contains(&check.timeout_seconds),
        "health check times",
    )?;
    ok(check.timeout_seconds < check.interval_seconds, "timeout against interval")?;
    ok((2..=10).contains(&check.healthy_threshold) && (2..=10).contains(&check.unhealthy_threshold), "thresholds")?;
    ok(check.path.starts_with('/') && check.path.len() <= 1024 && check.path.is_ascii(), "health check path")?;
    let port: Option<u32> = check.port.parse().ok();
    ok(check.port == "traffic-port" || port.is_some_and(|p| p > 0 && p < 65_536), "health check port")?;
    let most = if policy.protocol_version == "GRPC" { 0..100 } else { 200..500 };
    let codes = check.matcher.split([',', '-']).all(|code| code.parse().is_ok_and(|code: u32| most.contains(&code)));
    ok(codes && !check.matcher.contains('+'), "success codes")?;
    judge_failover(policy).map_err(|what| format!("{what}: {policy:?}"))?;
    judge_safety(policy).map_err(|what| format!("{what}: {policy:?}"))?;
    judge_conditions(&policy.conditions).map_err(|what| format!("{what}: {policy:?}"))
}

fn judge_failover(policy: &ValidatedPolicy) -> Result<(), String> {
    let ok = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    ok(policy.standbys.is_empty() || policy.failover.is_some(), "a standby without failover")?;
    for standby in &policy.standbys {
        ok((1..=4).contains(&standby.priority) && standby.weight.carries(), "a standby's level and weight")?;
        let below = standby.priority - 1;
        ok(below == 0 || policy.standbys.iter().any(|other| other.priority == below), "levels without a gap")?;
        let requested = policy.clusters.iter().find(|(name, _)| *name == standby.cluster);
        ok(requested.is_some_and(|(_, weight)| !weight.carries()), "a standby is asked for nothing")?;
    }
    let Some(rules) = &policy.failover else { return Ok(()) };
    ok((100..=1000).contains(&rules.overprovisioning_percent), "overprovisioning")?;
    ok((1..=100).contains(&rules.panic_threshold_percent), "panic threshold")?;
    ok(rules.unhealthy_after_seconds <= 3600 && rules.healthy_after_seconds <= 86_400, "times")?;
    ok((1..=100).contains(&rules.failback_step_percent) && rules.failback_step_seconds <= 86_400, "steps")?;
    ok(rules.dead_band_percent <= 50 && rules.hold_down_max_seconds <= 86_400, "dead band and hold-down")?;
    ok((1..=60).contains(&rules.max_moves_per_hour), "moves an hour")
}

fn judge_safety(policy: &ValidatedPolicy) -> Result<(), &'static str> {
    let rules = &policy.safety;
    let active = policy.clusters.iter().filter(|(_, weight)| weight.get() > 0).count();
    let holds = [
        ((1..=active).contains(&(rules.min_active_clusters as usize)), "active clusters"),
        ((1..=100).contains(&rules.max_step_percent), "step"),
        (rules.min_step_interval_seconds <= 86_400, "interval"),
        (rules.windows.len() <= 20, "number of windows"),
        // None of them is one that never opens.
        (rules.windows.iter().all(|window| window.next_start(Timestamp::UNIX_EPOCH).is_some()), "windows"),
        (
            policy.capacity.as_ref().is_none_or(|capacity| {
                (1..=10_000_000).contains(&capacity.peak_requests_per_second)
                    && (1..=100_000).contains(&capacity.requests_per_second_per_target)
            }),
            "capacity",
        ),
    ];
    holds.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}

fn judge_conditions(conditions: &[Condition]) -> Result<(), String> {
    let mut values = 0;
    let mut wildcards = 0;
    let mut once = BTreeSet::new();
    for condition in conditions {
        let (kind, most_once, texts): (&str, bool, Vec<&String>) = match condition {
            Condition::HostHeader(hosts) => ("host", true, hosts.iter().collect()),
            Condition::PathPattern(paths) => ("path", true, paths.iter().collect()),
            Condition::HttpHeader(name, values) => {
                if name.is_empty() || name.len() > 40 || name == "host" {
                    return Err("header name".into());
                }
                ("header", false, values.iter().collect())
            }
            Condition::HttpRequestMethod(methods) => ("method", true, methods.iter().collect()),
            Condition::QueryString(pairs) => {
                if pairs.iter().any(|(key, _)| key.len() > 128 || !key.is_ascii()) {
                    return Err("query key".into());
                }
                ("query", false, pairs.iter().map(|(_, value)| value).collect())
            }
            Condition::SourceIp(blocks) => ("source", true, blocks.iter().collect()),
            Condition::Other(kind) => return Err(format!("never made: {kind}")),
        };
        if texts.is_empty() || most_once && !once.insert(kind) {
            return Err(format!("{kind} is empty or given twice"));
        }
        for text in texts {
            values += 1;
            wildcards += text.bytes().filter(|b| *b == b'*' || *b == b'?').count();
            if text.is_empty() || text.len() > 128 || text.bytes().any(|b| !(32..127).contains(&b)) {
                return Err(format!("{kind} value {text:?}"));
            }
            let fits = match kind {
                "host" => text.contains('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.*?".contains(&b)),
                "path" => text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.$/~\"'@:+&*?".contains(&b)),
                "method" => text.len() <= 40 && text.bytes().all(|b| b.is_ascii_uppercase() || b"-_".contains(&b)),
                "source" => text.split('/').count() == 2,
                _ => true,
            };
            if !fits {
                return Err(format!("{kind} value {text:?}"));
            }
        }
    }
    if values == 0 || values > 5 || wildcards > 5 {
        return Err(format!("{values} values, {wildcards} wildcards"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_written_is_judged_without_a_panic_and_what_is_taken_obeys_elbv2(manifest in any_manifest()) {
        match validate(&manifest) {
            Ok(policy) => prop_assert_eq!(judge(&policy), Ok(())),
            Err(faults) => {
                prop_assert!(!faults.is_empty() && faults.len() <= MOST_VIOLATIONS);
                for fault in faults {
                    prop_assert!(fault.value.chars().count() <= 259);
                    prop_assert!(!fault.field.is_empty() && !fault.problem.is_empty() && !fault.remedy.is_empty(), "{}", fault);
                }
            }
        }
    }
}

/// The property above must see both sides: its generator makes policies that are taken, and not only by luck.
#[test]
fn the_generator_of_policies_makes_valid_ones_too() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let made = (0..2000).map(|_| any_manifest().new_tree(&mut runner).unwrap().current());
    let taken = made.filter(|manifest| validate(manifest).is_ok()).count();
    assert!((20..1980).contains(&taken), "{taken} of 2000 are valid");
}
