//! What the hub measures with, as its command line says it: named Prometheus servers, named webhooks, CloudWatch. Checked here
//! as a whole, before anything is connected. No URL and no token ever comes from a caller: callers name what is named here.
//! Opens no socket and reads no file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use http::Uri;
use switchyard_core::ids::{SourceName, cut};

/// A gate is asked every 5 s at most often, and usually every 30 s; a server that needs longer than this is not fit to decide.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Servers or webhooks that one hub may be given; each may be asked by many shifts at once.
const MOST_PLACES: usize = 100;
/// Seconds of a period that CloudWatch takes (AWS: "MetricStat", Period).
const RESOLUTIONS: [u64; 6] = [1, 5, 10, 20, 30, 60];

/// The flags about measuring; part of [`crate::args::Args`].
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AnalysisArgs {
    /// A Prometheus server that gates of shifts may ask, as NAME=URL; give it once for each, or a list with commas.
    #[arg(long, env = "SWITCHYARD_HUB_PROMETHEUS", value_delimiter = ',', value_name = "NAME=URL")]
    pub prometheus: Vec<String>,

    /// A file with the bearer token for a named Prometheus server, read anew for each query.
    #[arg(long, env = "SWITCHYARD_HUB_PROMETHEUS_TOKEN", value_delimiter = ',', value_name = "NAME=FILE")]
    pub prometheus_token: Vec<String>,

    /// A webhook that gates of shifts may ask, as NAME=URL; give it once for each, or a list with commas.
    #[arg(long, env = "SWITCHYARD_HUB_WEBHOOK", value_delimiter = ',', value_name = "NAME=URL")]
    pub webhook: Vec<String>,

    /// A file with the bearer token for a named webhook, read anew for each question.
    #[arg(long, env = "SWITCHYARD_HUB_WEBHOOK_TOKEN", value_delimiter = ',', value_name = "NAME=FILE")]
    pub webhook_token: Vec<String>,

    /// Lets gates ask CloudWatch, and takes request counts from it as evidence that traffic has moved.
    #[arg(long, env = "SWITCHYARD_HUB_CLOUDWATCH")]
    pub cloudwatch: bool,

    /// Another address for the CloudWatch API, such as the sandbox's.
    #[arg(long, env = "SWITCHYARD_HUB_CLOUDWATCH_ENDPOINT_URL", value_name = "URL")]
    pub cloudwatch_endpoint_url: Option<String>,

    /// How often the load balancer's metrics come; AWS sends them each minute, only the sandbox may be faster.
    #[arg(long, env = "SWITCHYARD_HUB_CLOUDWATCH_RESOLUTION_SECONDS", default_value = "60", value_name = "SECONDS")]
    pub cloudwatch_resolution_seconds: u64,
}

/// A setting that is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?} {problem}; {remedy}")]
pub struct Problem {
    /// The flag, such as `--prometheus`.
    pub flag: &'static str,
    /// As given, cut to 256 characters, without what may be a password.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What helps.
    pub remedy: &'static str,
}

/// Somewhere outside that is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// Where; `http` or `https`, with a host, without user and fragment.
    pub url: Uri,
    /// A file with the bearer token.
    pub token: Option<PathBuf>,
}

impl fmt::Debug for Place {
    /// The query of a webhook's URL may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { " with a token" } else { "" };
        write!(f, "{}{token}", shown(&self.url.to_string()))
    }
}

/// Where CloudWatch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudWatchConfig {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Another address of the API than the region's own.
    pub endpoint_url: Option<String>,
    /// The period in which Elastic Load Balancing publishes; 60 s at AWS.
    pub resolution: Duration,
}

/// What measuring is done with, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnalysisConfig {
    /// Prometheus servers.
    pub prometheus: BTreeMap<SourceName, Place>,
    /// Webhooks.
    pub webhooks: BTreeMap<SourceName, Place>,
    /// None: it is not asked.
    pub cloudwatch: Option<CloudWatchConfig>,
    /// Everything of one question, from the name's resolution to the last byte; at least 2 s, so that a server can be told to
    /// give up earlier, except in tests.
    pub time_limit: Duration,
}

impl Default for AnalysisConfig {
    fn default() -> Self {
        let (prometheus, webhooks) = (BTreeMap::new(), BTreeMap::new());
        Self { prometheus, webhooks, cloudwatch: None, time_limit: TIME_LIMIT }
    }
}

/// The names that a shift may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnalysisNames {
    /// Prometheus servers.
    pub prometheus: BTreeSet<SourceName>,
    /// Webhooks.
    pub webhooks: BTreeSet<SourceName>,
    /// CloudWatch may be asked.
    pub cloudwatch: bool,
}

/// A URL as it may be shown: without user, password and query.
fn shown(url: &str) -> String {
    let place = url.split(['?', '#']).next().unwrap_or_default();
    match (place.split_once("://"), place.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => place.to_owned(),
    }
}

impl Place {
    fn check(url: &str) -> Result<Self, (&'static str, &'static str)> {
        const FORM: &str = "write NAME=http://HOST:PORT or NAME=https://HOST, with a path where there is one";
        // Taken for a path by some parsers and for nothing by others.
        if url.contains('#') {
            return Err(("holds a fragment", FORM));
        }
        let uri: Uri = url.parse().map_err(|_| ("is not a URL", FORM))?;
        let Some(authority) = uri.authority() else { return Err(("has no scheme or no host", FORM)) };
        if authority.as_str().contains('@') {
            return Err(("holds a user name or a password", "put a token into a file and name that instead"));
        }
        if authority.host().is_empty() {
            return Err(("has no host", FORM));
        }
        match uri.scheme_str() {
            Some("http" | "https") => Ok(Self { url: uri, token: None }),
            _ => Err(("has another scheme than http and https", FORM)),
        }
    }

    /// True for TLS, and for what stays on this machine.
    fn keeps_secrets(&self) -> bool {
        let host = self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.url.scheme_str() == Some("https") || loopback
    }
}

#[derive(Default)]
struct Report(Vec<Problem>);

impl Report {
    fn add(&mut self, flag: &'static str, value: &str, problem: impl Into<String>, remedy: &'static str) {
        self.0.push(Problem { flag, value: cut(value), problem: problem.into(), remedy });
    }

    /// `NAME=VALUE`, with a name that a gate can use. An empty environment variable is nothing.
    fn named<'a>(&mut self, flag: &'static str, given: &'a [String]) -> Vec<(SourceName, &'a str)> {
        let mut found: Vec<(SourceName, &str)> = Vec::new();
        for text in given.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
            let Some((name, value)) = text.split_once('=').filter(|(_, value)| !value.is_empty()) else {
                self.add(
                    flag,
                    &shown(text),
                    "is not a name and a value",
                    "write NAME=VALUE, such as main=http://prometheus:9090",
                );
                continue;
            };
            match SourceName::new(name) {
                Err(error) => self.add(flag, &error.value, error.problem, error.remedy),
                Ok(name) if found.iter().any(|(other, _)| *other == name) => {
                    self.add(flag, name.as_str(), "is named twice", "give each its own name");
                }
                Ok(name) => found.push((name, value)),
            }
        }
        if found.len() > MOST_PLACES {
            let problem = format!("is how many there are, {MOST_PLACES} are allowed");
            self.add(flag, &found.len().to_string(), problem, "name fewer");
            found.truncate(MOST_PLACES);
        }
        found
    }

    fn places(
        &mut self,
        (flag, given): (&'static str, &[String]),
        (token_flag, tokens): (&'static str, &[String]),
    ) -> BTreeMap<SourceName, Place> {
        let mut places = BTreeMap::new();
        let mut wrong = BTreeSet::new();
        for (name, url) in self.named(flag, given) {
            match Place::check(url) {
                Ok(place) => drop(places.insert(name, place)),
                Err((problem, remedy)) => {
                    self.add(flag, &format!("{name}={}", shown(url)), problem, remedy);
                    wrong.insert(name);
                }
            }
        }
        for (name, file) in self.named(token_flag, tokens) {
            match places.get_mut(&name) {
                Some(place) if place.keeps_secrets() => place.token = Some(PathBuf::from(file)),
                Some(_) => {
                    let problem = "would be sent in plain text over the network";
                    self.add(token_flag, name.as_str(), problem, "use https:// for this place");
                }
                // What is wrong with its URL was said.
                None if wrong.contains(&name) => {}
                None => {
                    self.add(token_flag, name.as_str(), "names nothing that there is", "give its URL by the same name")
                }
            }
        }
        places
    }
}

impl AnalysisConfig {
    /// Checks the flags; every problem is reported, and what is wrong is left out of the configuration.
    pub fn new(args: &AnalysisArgs, aws_region: &str) -> (Self, Vec<Problem>) {
        let mut report = Report::default();
        let prometheus =
            report.places(("--prometheus", &args.prometheus), ("--prometheus-token", &args.prometheus_token));
        for (name, place) in &prometheus {
            if place.url.query().is_some() {
                let value = format!("{name}={}", shown(&place.url.to_string()));
                report.add("--prometheus", &value, "holds a query", "end the URL before the question mark");
            }
        }
        let webhooks = report.places(("--webhook", &args.webhook), ("--webhook-token", &args.webhook_token));
        let cloudwatch = cloudwatch(args, aws_region, &mut report);
        (Self { prometheus, webhooks, cloudwatch, ..Self::default() }, report.0)
    }

    /// The names that a shift may use.
    pub fn names(&self) -> AnalysisNames {
        AnalysisNames {
            prometheus: self.prometheus.keys().cloned().collect(),
            webhooks: self.webhooks.keys().cloned().collect(),
            cloudwatch: self.cloudwatch.is_some(),
        }
    }

    /// True when a place is asked over TLS.
    pub(super) fn needs_tls(&self) -> bool {
        self.prometheus.values().chain(self.webhooks.values()).any(|place| place.url.scheme_str() == Some("https"))
    }
}

fn cloudwatch(args: &AnalysisArgs, region: &str, report: &mut Report) -> Option<CloudWatchConfig> {
    let endpoint = args.cloudwatch_endpoint_url.as_deref().filter(|url| !url.is_empty());
    if let Some(url) = endpoint {
        if !args.cloudwatch {
            report.add("--cloudwatch-endpoint-url", &shown(url), "is given without --cloudwatch", "give both or none");
        }
        if let Err(problem) = crate::elb::endpoint::check(url).map_err(|error| error.problem()) {
            const REMEDY: &str = "use https://HOST, or http:// with a loopback address for the sandbox";
            report.add("--cloudwatch-endpoint-url", &shown(url), problem, REMEDY);
        }
    }
    let seconds = args.cloudwatch_resolution_seconds;
    // Flags that are made by hand in a test have 0 there.
    let seconds = if seconds == 0 && !args.cloudwatch { 60 } else { seconds };
    if !RESOLUTIONS.contains(&seconds) {
        let remedy = "use 60, or for the sandbox one of 1, 5, 10, 20, 30";
        report.add("--cloudwatch-resolution-seconds", &seconds.to_string(), "is not a period of CloudWatch", remedy);
    }
    args.cloudwatch.then(|| CloudWatchConfig {
        region: region.to_owned(),
        endpoint_url: endpoint.map(str::to_owned),
        resolution: Duration::from_secs(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn judged(args: AnalysisArgs) -> (AnalysisConfig, Vec<Problem>) {
        AnalysisConfig::new(&args, "eu-west-1")
    }

    #[test]
    fn places_are_taken_by_name_with_their_tokens() {
        let (config, problems) = judged(AnalysisArgs {
            prometheus: given(&["main=https://prometheus.example.com/prefix", "dev=http://127.0.0.1:9090", ""]),
            prometheus_token: given(&["main=/run/token", "dev=/run/other"]),
            webhook: given(&["load-test=http://tester.ci.svc:8080/verdict?suite=a"]),
            cloudwatch: true,
            cloudwatch_resolution_seconds: 60,
            ..AnalysisArgs::default()
        });
        assert_eq!(problems, []);
        let main = &config.prometheus[&SourceName::new("main").unwrap()];
        assert_eq!((main.url.path(), main.token.as_deref()), ("/prefix", Some("/run/token".as_ref())));
        let names = config.names();
        assert_eq!((names.prometheus.len(), names.webhooks.len(), names.cloudwatch), (2, 1, true));
        assert_eq!(config.cloudwatch.unwrap().resolution, Duration::from_secs(60));
    }

    #[test]
    fn wrong_places_are_refused_with_flag_value_and_remedy_and_secrets_are_not_shown() {
        for (flag, value, word) in [
            ("--prometheus", "main", "not a name and a value"),
            ("--prometheus", "=http://x", "is empty"),
            ("--prometheus", "Main=http://x", "Main"),
            ("--prometheus", "main=ftp://x", "scheme"),
            ("--prometheus", "main=/path", "host"),
            ("--prometheus", "main=http://x/#y", "fragment"),
            ("--prometheus", "main=http://x/?token=hunter2", "query"),
            ("--prometheus", "main=http://me:hunter2@x", "password"),
            ("--webhook", "main=https://me:hunter2@x/?key=hunter2", "password"),
            ("--webhook", "main=not a url", "not a URL"),
        ] {
            let list = given(&[value]);
            let args = match flag {
                "--webhook" => AnalysisArgs { webhook: list, ..AnalysisArgs::default() },
                _ => AnalysisArgs { prometheus: list, ..AnalysisArgs::default() },
            };
            let problems = judged(args).1;
            let [problem] = problems.as_slice() else { panic!("{value}: {problems:?}") };
            let text = problem.to_string();
            assert!(problem.flag == flag && text.contains(word) && !problem.remedy.is_empty(), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let twice = AnalysisArgs { webhook: given(&["a=http://x", "a=http://y"]), ..AnalysisArgs::default() };
        assert!(judged(twice).1[0].to_string().contains("twice"));
        let debug = format!("{:?}", Place::check("https://x/hook?key=hunter2").unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn a_token_needs_a_place_and_never_travels_in_plain_text() {
        let problems = judged(AnalysisArgs {
            prometheus: given(&["main=http://prometheus:9090"]),
            prometheus_token: given(&["main=/run/token", "other=/run/token"]),
            ..AnalysisArgs::default()
        });
        let words: Vec<String> = problems.1.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].contains("plain text") && words[1].contains("names nothing"), "{words:?}");
    }

    #[test]
    fn an_endpoint_of_cloudwatch_is_checked_and_needs_cloudwatch() {
        let problems = judged(AnalysisArgs {
            cloudwatch_endpoint_url: Some("http://monitoring.example.com".into()),
            cloudwatch_resolution_seconds: 7,
            ..AnalysisArgs::default()
        });
        let words: Vec<String> = problems.1.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 3, "{words:?}");
        assert!(words[0].contains("without --cloudwatch") && words[1].contains("plain text"), "{words:?}");
        assert!(words[2].contains("not a period"), "{words:?}");
    }
}
