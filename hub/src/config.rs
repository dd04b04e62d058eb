//! The hub's configuration: one struct, checked once as a whole, printed without secrets. Reads no file and opens no socket.

pub mod database;
mod doors;

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use switchyard_core::{
    budget::{Rate, Rates},
    ids::{ClusterName, HubId, cut},
};

use crate::{
    analysis::{AnalysisConfig, settings::Problem as AnalysisProblem},
    args::{Args, LogFormat},
    secret::Secret,
};
use database::{Problem, has_password, judge};
pub use doors::{Entry, Transport};

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A Postgres that somebody runs.
    Url(Secret),
    /// The same; the URL stands in this file, which is read again when it changes.
    UrlFile(PathBuf),
    /// A private one in this folder, started and stopped with the hub.
    Embedded(PathBuf),
}

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// Where HTTP is served.
    pub http_listen: SocketAddr,
    /// Where the API is served as JSON; none: nowhere.
    pub gateway_listen: Option<SocketAddr>,
    /// The store.
    pub database: Database,
    /// Development mode.
    pub dev: bool,
    /// The id to use; none: the stored one, or a new one.
    pub hub_id: Option<HubId>,
    /// 12 digits.
    pub aws_account_id: String,
    /// The region.
    pub aws_region: String,
    /// Another address of the ELBv2 API.
    pub aws_endpoint_url: Option<String>,
    /// The clusters whose policies are taken.
    pub policy_sources: BTreeSet<ClusterName>,
    /// Time from read-back to converged.
    pub settle: Duration,
    /// Time between full reads of AWS.
    pub audit_interval: Duration,
    /// Time between reads of target health.
    pub health_interval: Duration,
    /// Life of the lease without renewal.
    pub lease_ttl: Duration,
    /// Time between heartbeats on agents' streams.
    pub heartbeat_interval: Duration,
    /// Time without heartbeat until a cluster is stale.
    pub stale_after: Duration,
    /// Budgets at AWS.
    pub rates: Rates,
    /// How the ports are guarded, and who may come in.
    pub entry: Entry,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter of the log.
    pub log_level: String,
    /// Nothing is written at AWS.
    pub observe_only: bool,
    /// A restored store is meant to be.
    pub accept_restored_store: bool,
    /// What gates of shifts are measured with.
    pub analysis: AnalysisConfig,
}

impl fmt::Debug for Database {
    /// A database URL usually holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Url(url) => write!(f, "Url({})", redacted(url.expose())),
            Database::UrlFile(file) => write!(f, "UrlFile({})", file.display()),
            Database::Embedded(folder) => write!(f, "Embedded({})", folder.display()),
        }
    }
}

/// Characters of a scheme that is shown.
const MOST_SCHEME: usize = 16;

/// A URL without user, password and query. Passwords hold any of `?#/@` when somebody forgot to encode them, so what stands before the
/// last @ is not looked at; and where there is none, a password with its @ left out may stand anywhere.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "(not a URL)".to_owned();
    };
    let plain = scheme.len() <= MOST_SCHEME && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    match rest.rsplit_once('@') {
        _ if !plain => "(not a URL)".to_owned(),
        // With an = before it the @ may be one of the query, such as password=...@...
        Some((before, place)) if !before.contains('=') => {
            let place = place.split(['?', '#']).next().unwrap_or_default();
            format!("{scheme}://...@{place}")
        }
        Some(_) | None => format!("{scheme}://..."),
    }
}

/// Settings that are wrong, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not usable:{}", lines(.0))]
pub struct ConfigError(pub Vec<Fault>);

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?} {problem}; {remedy}")]
pub struct Fault {
    /// The flag, such as `--lease-ttl`.
    pub flag: &'static str,
    /// As given; cut to 256 characters.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What helps.
    pub remedy: &'static str,
}

#[derive(Default)]
struct Report(Vec<Fault>);

impl Report {
    fn add(&mut self, flag: &'static str, value: &str, problem: impl Into<String>, remedy: &'static str) {
        self.0.push(Fault { flag, value: cut(value), problem: problem.into(), remedy });
    }

    /// A duration within bounds; out of bounds it is reported, and the lower bound stands in so that the rest can be judged.
    fn duration(&mut self, flag: &'static str, text: &str, least: Duration, most: Duration) -> Duration {
        const REMEDY: &str = "use a number with ms, s, m or h, such as 500ms, 15s or 2m; a plain number means seconds";
        match parse_duration(text) {
            None => self.add(flag, text, "is not a duration", REMEDY),
            Some(found) if (least..=most).contains(&found) => return found,
            Some(_) => self.add(flag, text, format!("is outside {least:?} to {most:?}"), REMEDY),
        }
        least
    }

    /// A wrong rate is reported, and the default stands in so that the rest can be judged.
    fn rate(&mut self, flag: &'static str, text: &str, default: Rate) -> Rate {
        const REMEDY: &str = "use a rate above 0 up to 1000 and a burst of 1 to 10000, with a colon, such as 3:20";
        let parsed = text.split_once(':').and_then(|(rate, burst)| Some((rate.parse().ok()?, burst.parse().ok()?)));
        let problem = match parsed.map(|(rate, burst)| Rate::new(rate, burst)) {
            Some(Ok(rate)) => return rate,
            Some(Err(_)) => "is out of range",
            None => "is not RATE:BURST",
        };
        self.add(flag, text, problem, REMEDY);
        default
    }
}

/// A duration such as `500ms`, `15s`, `1.5m`, `2h`; a plain number means seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.trim().parse().ok()?;
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * factor).ok()
}

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Config {
    /// Checks the arguments, one by one and against each other.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault found.
    pub fn new(args: Args) -> Result<Self, ConfigError> {
        let mut report = Report::default();
        let defaults = Rates::default();
        let entry = Entry::new(&args, &mut report);
        let database = database(&args, &mut report);
        account(&args, &mut report);
        let hub_id = args.hub_id.as_deref().and_then(|id| match HubId::new(id) {
            Ok(id) => Some(id),
            Err(error) => {
                report.add("--hub-id", &error.value, error.problem, error.remedy);
                None
            }
        });
        let (analysis, problems) = AnalysisConfig::new(&args.analysis, &args.aws_region);
        for AnalysisProblem { flag, value, problem, remedy } in problems {
            report.add(flag, &value, problem, remedy);
        }
        let config = Self {
            grpc_listen: args.grpc_listen,
            http_listen: args.http_listen,
            gateway_listen: args.gateway_listen,
            database,
            dev: args.dev,
            hub_id,
            policy_sources: policy_sources(&args.policy_source, &mut report),
            settle: report.duration("--settle-seconds", &args.settle_seconds, MILLI, HOUR),
            audit_interval: report.duration("--audit-interval", &args.audit_interval, 100 * MILLI, 24 * HOUR),
            health_interval: report.duration("--health-interval", &args.health_interval, 100 * MILLI, HOUR),
            lease_ttl: report.duration("--lease-ttl", &args.lease_ttl, SECOND, HOUR),
            heartbeat_interval: report.duration(
                "--heartbeat-interval",
                &args.heartbeat_interval,
                50 * MILLI,
                60 * SECOND,
            ),
            stale_after: report.duration("--stale-after", &args.stale_after, 200 * MILLI, HOUR),
            rates: Rates {
                describe: report.rate("--describe-rate", &args.describe_rate, defaults.describe),
                modify: report.rate("--modify-rate", &args.modify_rate, defaults.modify),
                register: report.rate("--register-rate", &args.register_rate, defaults.register),
            },
            entry,
            aws_account_id: args.aws_account_id,
            aws_region: args.aws_region,
            aws_endpoint_url: args.aws_endpoint_url,
            log_format: args.log_format,
            log_level: args.log_level,
            observe_only: args.observe_only,
            accept_restored_store: args.accept_restored_store,
            analysis,
        };
        // A session ends after three missed heartbeats; a cluster that is called stale earlier would flap with every hiccup.
        if report.0.is_empty() && config.stale_after < 3 * config.heartbeat_interval {
            let problem = format!("is less than three heartbeats of {:?}", config.heartbeat_interval);
            let given = format!("{:?}", config.stale_after);
            report.add("--stale-after", &given, problem, "lengthen it, or shorten --heartbeat-interval");
        }
        if report.0.is_empty() { Ok(config) } else { Err(ConfigError(report.0)) }
    }
}

/// Most clusters that may be sources; each costs memory for its resources.
const MOST_SOURCES: usize = 100;

fn policy_sources(named: &[String], report: &mut Report) -> BTreeSet<ClusterName> {
    let mut sources = BTreeSet::new();
    // An empty environment variable is no source.
    for name in named.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        match ClusterName::new(name) {
            Ok(name) => drop(sources.insert(name)),
            Err(error) => report.add("--policy-source", &error.value, error.problem, error.remedy),
        }
    }
    if sources.len() > MOST_SOURCES {
        let problem = format!("is the number of sources, {MOST_SOURCES} are allowed");
        report.add("--policy-source", &sources.len().to_string(), problem, "name fewer clusters");
    }
    sources
}

fn database(args: &Args, report: &mut Report) -> Database {
    let given = [
        ("--database-url", args.database_url.is_some()),
        ("--database-url-file", args.database_url_file.is_some()),
        ("--data-dir", args.data_dir.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag);
    match (given.next(), given.next()) {
        (Some(first), Some(second)) => report.add(
            second,
            "",
            format!("is given beside {first}"),
            "give one of --database-url (environment: DATABASE_URL), --database-url-file and --data-dir",
        ),
        (None, _) => report.add(
            "--database-url",
            "",
            "is missing",
            "give it (environment: DATABASE_URL), or --database-url-file, or --dev with --data-dir for a private Postgres",
        ),
        _ => {}
    }
    if let Some(folder) = &args.data_dir {
        if !args.dev {
            report.add(
                "--data-dir",
                &folder.display().to_string(),
                "asks for a private Postgres, which is for development",
                "give --database-url, or --dev as well",
            );
        }
        return Database::Embedded(folder.clone());
    }
    if let Some(file) = &args.database_url_file {
        return Database::UrlFile(file.clone());
    }
    let url = args.database_url.clone().unwrap_or_default();
    if url.is_empty() {
        return Database::Url(Secret::new(url));
    }
    if args.database_url_in_arguments && !args.dev && has_password(&url) {
        report.add(
            "--database-url",
            &redacted(&url),
            "has a password on the command line, where other processes can read it",
            "give it with --database-url-file, or in the environment as DATABASE_URL",
        );
    }
    let judged = judge(&url, args.dev).unwrap_or_else(|Problem { problem, remedy }| {
        report.add("--database-url", &redacted(&url), problem, remedy);
        url
    });
    Database::Url(Secret::new(judged))
}

fn account(args: &Args, report: &mut Report) {
    let account = &args.aws_account_id;
    if account.len() != 12 || !account.chars().all(|c| c.is_ascii_digit()) {
        report.add("--aws-account-id", account, "is not an AWS account id", "use its 12 digits");
    }
    let region = &args.aws_region;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || region.len() > 32 || !region.chars().all(good) {
        report.add("--aws-region", region, "is not a region", "use its code, such as eu-central-1");
    }
    let url = args.aws_endpoint_url.as_deref();
    if let Some(url) = url.filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        report.add("--aws-endpoint-url", url, "is not a URL", "use http://HOST:PORT or https://HOST:PORT");
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
