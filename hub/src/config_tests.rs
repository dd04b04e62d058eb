//! Settings from flags and environment: what is taken, and what is refused in which words.

use clap::Parser;

use super::*;

const GOOD: [&str; 8] = [
    "switchyard-hub",
    "--dev",
    "--data-dir",
    "data",
    "--aws-account-id",
    "123456789012",
    "--aws-region",
    "eu-central-1",
];

fn parse(more: &[&str]) -> Result<Config, ConfigError> {
    let args = Args::try_parse_from(GOOD.iter().chain(more)).unwrap();
    // The machine's own DATABASE_URL must not decide a test.
    let database_url = args.database_url.filter(|_| more.contains(&"--database-url"));
    Config::new(Args { database_url, ..args })
}

fn faults(more: &[&str]) -> Vec<&'static str> {
    parse(more).unwrap_err().0.into_iter().map(|fault| fault.flag).collect()
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.settle, Duration::from_secs(60));
    assert_eq!(config.lease_ttl, Duration::from_secs(15));
    assert_eq!(config.rates, Rates::default());
    assert_eq!(config.transport, Transport::PlainLoopback);
}

#[test]
fn fractions_and_units_of_durations_are_taken() {
    let cases = [("0.25", 250), ("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000)];
    for (text, millis) in cases {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for bad in ["", "s", "-1s", "1d", "NaN", "inf", "1e400", "1 s s"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}

#[test]
fn every_bad_setting_is_named_at_once_with_value_and_remedy() {
    let more = ["--lease-ttl", "soon", "--modify-rate", "0:1", "--aws-endpoint-url", "sandbox", "--hub-id", ""];
    let error = parse(&more).unwrap_err();
    let flags: Vec<_> = error.0.iter().map(|fault| fault.flag).collect();
    assert_eq!(flags, ["--aws-endpoint-url", "--hub-id", "--lease-ttl", "--modify-rate"]);
    let text = error.to_string();
    assert!(text.contains("--lease-ttl \"soon\" is not a duration; use a number with ms"), "{text}");
}

#[test]
fn plain_text_is_for_dev_and_loopback_only() {
    assert_eq!(faults(&["--grpc-listen", "0.0.0.0:7400"]), ["--grpc-listen"]);
    assert_eq!(faults(&["--gateway-listen", "0.0.0.0:7402"]), ["--gateway-listen"]);
    assert_eq!(parse(&[]).unwrap().gateway_listen, None);
    let args = Args::try_parse_from(GOOD).unwrap();
    let database_url = Some("postgres://localhost/x".to_owned());
    let error = Config::new(Args { dev: false, database_url, data_dir: None, ..args }).unwrap_err();
    assert_eq!(error.0[0].flag, "--tls-cert");
    let all = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--grpc-listen", "0.0.0.0:7400"];
    assert!(matches!(parse(&all).unwrap().transport, Transport::MutualTls { .. }));
    assert_eq!(faults(&["--tls-cert", "c", "--tls-key", "k"]), ["--tls-client-ca"]);
}

#[test]
fn a_private_postgres_is_for_dev_only_and_excludes_a_url() {
    let args = Args::try_parse_from(GOOD).unwrap();
    let error = Config::new(Args { dev: false, database_url: None, ..args }).unwrap_err();
    assert!(error.0.iter().any(|fault| fault.flag == "--data-dir"), "{error}");
    assert_eq!(faults(&["--database-url", "postgres://localhost/x"]), ["--data-dir"]);
}

#[test]
fn a_cluster_is_not_called_stale_before_three_heartbeats() {
    assert_eq!(faults(&["--stale-after", "2s", "--heartbeat-interval", "1s"]), ["--stale-after"]);
}

#[test]
fn the_printed_configuration_holds_no_password() {
    let database = Database::Url("postgres://me:secret@db:5432/x?password=secret2".to_owned());
    let text = format!("{database:?}");
    assert_eq!(text, "Url(postgres://...@db:5432/x)");
    assert_eq!(redacted("secret"), "(not a URL)");
}

#[test]
fn callers_who_may_cross_safety_rules_are_named_one_by_one_and_with_dev_everybody_may() {
    let callers = |more: &[&str]| parse(more).unwrap().override_callers.into_iter().collect::<Vec<_>>();
    assert_eq!(callers(&[]), ["*"]);
    let given = "cluster:blue, sha256:0123456789abcdef,";
    assert_eq!(callers(&["--override-callers", given]), ["cluster:blue", "sha256:0123456789abcdef"]);
    for bad in ["sha256:0123", "sha256:0123456789ABCDEF", "cluster:Not A Name", "somebody", "user:me"] {
        let error = parse(&["--override-callers", bad]).unwrap_err();
        assert_eq!(error.0[0].flag, "--override-callers", "{bad}");
        assert!(error.to_string().contains(bad), "{error}");
    }
    let tls = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--database-url", "postgres://localhost/x"];
    let args = Args::try_parse_from(GOOD.iter().chain(&tls)).unwrap();
    let config = Config::new(Args { dev: false, data_dir: None, ..args }).unwrap();
    assert!(config.override_callers.is_empty(), "without --dev nobody may unless named");
    let many: Vec<String> = (0..=MOST_CALLERS).map(|n| format!("cluster:c{n}")).collect();
    assert_eq!(faults(&["--override-callers", &many.join(",")]), ["--override-callers"]);
}

#[test]
fn what_is_wrong_with_a_place_to_measure_is_named_like_every_other_fault() {
    let config = parse(&["--prometheus", "main=http://prometheus:9090", "--cloudwatch"]).unwrap();
    assert_eq!(config.analysis.names().prometheus.len(), 1);
    assert!(config.analysis.names().cloudwatch);
    assert_eq!(faults(&["--prometheus", "main", "--lease-ttl", "soon"]), ["--prometheus", "--lease-ttl"]);
}

#[test]
fn policy_sources_are_given_one_by_one_or_as_a_list_and_a_name_that_is_none_is_named() {
    let names = |config: Config| config.policy_sources.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(parse(&[]).unwrap()), Vec::<String>::new());
    let given = parse(&["--policy-source", "green, blue", "--policy-source", "blue", "--policy-source", ""]).unwrap();
    assert_eq!(names(given), ["blue", "green"]);
    let error = parse(&["--policy-source", "blue,Not A Name"]).unwrap_err();
    assert_eq!(error.0[0].flag, "--policy-source");
    assert!(error.to_string().contains("\"Not A Name\""), "{error}");
    let many: Vec<String> = (0..=MOST_SOURCES).map(|n| format!("c{n}")).collect();
    assert_eq!(faults(&["--policy-source", &many.join(",")]), ["--policy-source"]);
}
