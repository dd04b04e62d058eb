//! Settings from flags and environment: what is taken, and what is refused in which words.

use clap::Parser;

use super::*;
use crate::door::tls::MinVersion;

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
    assert_eq!(config.entry.transport, Transport::PlainLoopback);
    assert_eq!(config.entry.rates, crate::access::rates::AccessRates::default());
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

/// Without `--dev`, with everything that it makes good for.
fn strict(change: impl FnOnce(&mut Args)) -> Result<Config, ConfigError> {
    let tls =
        ["--tls-cert", "c", "--tls-key", "k", "--ca-sealing-key-file", "s", "--database-url", "postgres://u@db/x"];
    let mut args = Args::try_parse_from(GOOD.iter().chain(&tls)).unwrap();
    (args.dev, args.data_dir) = (false, None);
    change(&mut args);
    Config::new(args)
}

fn strict_faults(change: impl FnOnce(&mut Args)) -> Vec<&'static str> {
    strict(change).unwrap_err().0.into_iter().map(|fault| fault.flag).collect()
}

#[test]
fn development_mode_is_for_loopback_addresses_only_with_tls_or_without() {
    let ports = ["--grpc-listen", "--gateway-listen", "--http-listen"];
    for port in ports {
        assert_eq!(faults(&[port, "0.0.0.0:7400"]), [port]);
        let tls = ["--tls-cert", "c", "--tls-key", "k", port, "[::]:7400"];
        assert_eq!(faults(&tls), [port]);
        assert!(parse(&[port, "[::1]:7400"]).is_ok());
    }
    assert_eq!(parse(&[]).unwrap().gateway_listen, None);
    assert!(strict(|args| args.http_listen = "0.0.0.0:7401".parse().unwrap()).is_ok());
}

#[test]
fn without_development_mode_there_is_tls_and_an_authority_for_agents() {
    let config = strict(|_| {}).unwrap();
    let Transport::Tls(files) = &config.entry.transport else { panic!("{config:?}") };
    assert_eq!((files.min_version, &files.client_ca), (MinVersion::Tls13, &None));
    assert_eq!(config.entry.connections_per_address, 1024);
    assert_eq!(strict_faults(|args| (args.tls_cert, args.tls_key) = (None, None)), ["--tls-cert"]);
    assert_eq!(strict_faults(|args| args.tls_key = None), ["--tls-key"]);
    assert_eq!(strict_faults(|args| args.ca_sealing_key_file = None), ["--ca-sealing-key-file"]);
    assert_eq!(strict_faults(|args| args.ca_cert = Some("a".into())), ["--ca-key"]);
    let both = strict_faults(|args| (args.ca_cert, args.ca_key) = (Some("a".into()), Some("k".into())));
    assert_eq!(both, ["--ca-cert"]);
    let twice = strict_faults(|args| args.ca_sealing_key = Some(Secret::new("k".to_owned())));
    assert_eq!(twice, ["--ca-sealing-key-file"]);
    let only = |args: &mut Args| {
        args.ca_sealing_key = Some(Secret::new("hunter2".to_owned()));
        args.ca_sealing_key_file = None;
    };
    let printed = format!("{:?}", strict(only).unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn limits_and_names_at_the_door_are_judged() {
    let config = parse(&["--caller-read-rate", "5:9", "--trust-domain", "prod.example.com"]).unwrap();
    assert_eq!(config.entry.rates.reads, crate::access::rates::Pace::new(5, 9));
    assert_eq!(config.entry.connections_per_address, 4096, "with --dev all are on this machine");
    let cases = [
        ("--caller-read-rate", "0:1"),
        ("--caller-change-rate", "10"),
        ("--connections-per-address", "0"),
        ("--connections-per-address", "5000"),
        ("--trust-domain", "Not A Domain"),
        ("--agent-certificate-ttl", "10s"),
        ("--agent-certificate-ttl", "721h"),
        ("--tls-min-version", "1.1"),
        ("--tls-min-version", ""),
    ];
    for (flag, value) in cases {
        assert_eq!(faults(&[flag, value]), [flag], "{value}");
    }
    assert_eq!(faults(&["--tls-client-ca", "a"]), ["--tls-cert"]);
}

#[test]
fn a_database_that_is_not_on_this_machine_is_verified_and_its_password_is_not_on_the_command_line() {
    let url = |config: Config| match config.database {
        Database::Url(url) => url.expose().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(url(strict(|_| {}).unwrap()), "postgres://u@db/x?sslmode=verify-full");
    let weak = "postgres://u@db/x?sslmode=require".to_owned();
    assert_eq!(strict_faults(|args| args.database_url = Some(weak)), ["--database-url"]);
    let secret = || Some("postgres://u:hunter2@db/x".to_owned());
    assert!(strict(|args| args.database_url = secret()).is_ok(), "in the environment it may stand");
    let error = strict(|args| (args.database_url, args.database_url_in_arguments) = (secret(), true)).unwrap_err();
    assert!(error.to_string().contains("--database-url-file") && !error.to_string().contains("hunter2"), "{error}");
    let file = |args: &mut Args| {
        args.database_url_file = Some("url".into());
        args.database_url = None;
    };
    assert_eq!(strict(file).unwrap().database, Database::UrlFile("url".into()));
    assert_eq!(strict_faults(|args| args.database_url_file = Some("url".into())), ["--database-url-file"]);
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
    let database = Database::Url(Secret::new("postgres://me:secret@db:5432/x?password=secret2".to_owned()));
    let text = format!("{database:?}");
    assert_eq!(text, "Url(postgres://...@db:5432/x)");
    assert_eq!(redacted("secret"), "(not a URL)");
    assert_eq!(redacted("se#cr:et@db://x"), "(not a URL)");
}

#[test]
fn nothing_of_a_password_is_printed_whatever_was_not_encoded_in_it() {
    // The four that mean something in a URL, in every order of them, and what stands between is secret.
    for a in "?#%@/=".chars() {
        for b in "?#%@/=".chars() {
            for url in [
                format!("postgres://me:Sec{a}ret{b}word@db:5432/x"),
                format!("postgres://me:Sec{a}ret{b}word"),
                format!("postgres://db/x?password=Sec{a}ret{b}word"),
                format!("postgres://me:Sec{a}ret@db/x?password=Sec{b}word"),
            ] {
                let shown = redacted(&url);
                // Where the host was left out, what follows the last @ looks like one.
                let looks_like_a_host =
                    url.ends_with("word") && url.rsplit_once('@').is_some_and(|(before, _)| !before.contains('='));
                if !looks_like_a_host {
                    for part in ["Sec", "ret", "word"] {
                        assert!(!shown.contains(part), "{url} is shown as {shown}");
                    }
                }
                assert!(!shown.contains("me:"), "{url} is shown as {shown}");
            }
        }
    }
    assert_eq!(redacted("postgres://sw:Ab#c?d@db/x"), "postgres://...@db/x");
    assert_eq!(redacted("postgres://sw:Ab?c#d@db/x?sslmode=disable"), "postgres://...@db/x");
    // What the flag's refusal says is made of it.
    let error = strict(|args| args.database_url = Some("postgres://sw:Ab#c?d@db/x".into())).unwrap_err().to_string();
    assert!(error.contains("postgres://...@db/x") && !error.contains("Ab"), "{error}");
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
