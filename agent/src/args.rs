//! The command line and its environment, and the one place where the values are judged together.

pub mod gates;
pub mod identity;

use std::net::{IpAddr, SocketAddr};

use clap::{Parser, ValueEnum};
use thiserror::Error;

use self::identity::{IdentityArgs, IdentityArgsError, IdentitySettings};

/// Watches one member cluster and streams its endpoints to the hub.
#[derive(Debug, Clone, Parser)]
#[command(name = "switchyard-agent", version, about, max_term_width = 120)]
pub struct Args {
    /// Name of this cluster, as policies use it: a DNS label.
    #[arg(long, env = "SWITCHYARD_AGENT_CLUSTER", value_name = "NAME")]
    pub cluster: String,

    /// AWS region that the cluster runs in.
    #[arg(long, env = "SWITCHYARD_AGENT_REGION", value_name = "REGION")]
    pub region: String,

    /// VPC that the cluster's pods have their addresses in.
    #[arg(long, env = "SWITCHYARD_AGENT_VPC_ID", value_name = "ID")]
    pub vpc_id: String,

    /// URL of the hub, such as `https://hub.example.com:7400`. Plain http:// is refused without --dev.
    #[arg(long, env = "SWITCHYARD_AGENT_HUB", value_name = "URL")]
    pub hub: String,

    /// Kubeconfig file of the cluster. Left out: KUBECONFIG, ~/.kube/config, or the service account the agent runs with.
    #[arg(long, env = "SWITCHYARD_AGENT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// Allows a hub without TLS on this machine, and a hub that asks for no certificate. Not for production.
    #[arg(long, env = "SWITCHYARD_AGENT_DEV")]
    pub dev: bool,

    /// Where /healthz, /readyz and /metrics are served over HTTP.
    #[arg(long, env = "SWITCHYARD_AGENT_HTTP_LISTEN", default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub http_listen: SocketAddr,

    /// How the log is written.
    #[arg(long, env = "SWITCHYARD_AGENT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as info,switchyard_agent=debug.
    #[arg(long, env = "SWITCHYARD_AGENT_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,

    /// How this agent and the hub know each other.
    #[command(flatten)]
    pub identity: IdentityArgs,

    /// Readiness gates and their webhook.
    #[command(flatten)]
    pub gates: gates::GateArgs,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// A value that cannot be used: which, why, and what to do.
#[derive(Debug, Error)]
pub enum ArgsError {
    /// Not a DNS label.
    #[error("--cluster {0:?} is not a DNS label; use 1 to 63 lower-case letters, digits and dashes, such as blue")]
    Cluster(String),
    /// Empty, or too long.
    #[error("--{flag} {value:?} is not {what}")]
    Identifier {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        what: &'static str,
    },
    /// Neither http:// nor https://.
    #[error("--hub {0:?} is not an http:// or https:// URL; give one such as https://hub.example.com:7400")]
    Scheme(String),
    /// http:// without --dev.
    #[error("--hub {0:?} is plain text; use https://, or --dev with a hub on this machine")]
    PlainText(String),
    /// http:// to another machine.
    #[error(
        "--hub {0:?} is plain text to another machine, where somebody can listen in; use https:// (--dev allows http:// to 127.0.0.1, [::1] and localhost only)"
    )]
    PlainTextElsewhere(String),
    /// What the two know each other by.
    #[error(transparent)]
    Identity(#[from] IdentityArgsError),
}

impl Args {
    /// Checks who and where the agent is, and gives how it and the hub know each other; None for plain text. `variable` looks
    /// environment variables up.
    ///
    /// # Errors
    /// Names the flag, the value and the remedy.
    pub fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<IdentitySettings>, ArgsError> {
        self.check_identity()?;
        match self.hub.split_once("://") {
            Some(("https", _)) => Ok(Some(self.identity.settings(self.dev, variable)?)),
            Some(("http", _)) if !self.dev => Err(ArgsError::PlainText(self.hub.clone())),
            Some(("http", rest)) if is_here(rest) => Ok(None),
            Some(("http", _)) => Err(ArgsError::PlainTextElsewhere(self.hub.clone())),
            _ => Err(ArgsError::Scheme(self.hub.clone())),
        }
    }

    fn check_identity(&self) -> Result<(), ArgsError> {
        if !is_dns_label(&self.cluster) {
            return Err(ArgsError::Cluster(self.cluster.clone()));
        }
        let identifier = |text: &str| {
            (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let checks = [
            ("region", &self.region, "an AWS region; use one such as eu-central-1"),
            ("vpc-id", &self.vpc_id, "a VPC id; use one such as vpc-0123456789abcdef0"),
        ];
        match checks.into_iter().find(|(_, value, _)| !identifier(value)) {
            Some((flag, value, what)) => Err(ArgsError::Identifier { flag, value: value.clone(), what }),
            None => Ok(()),
        }
    }
}

/// True when the authority of a URL, which follows `://`, is this machine. Names are not looked up: they may change.
fn is_here(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ is no host.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Args {
        let mut all = vec!["switchyard-agent", "--region=eu-central-1", "--vpc-id=vpc-1"];
        all.extend(more);
        Args::try_parse_from(all).expect("arguments")
    }

    fn refusal(more: &[&str]) -> String {
        parse(more).settings(|_| None).expect_err("a refusal").to_string()
    }

    #[test]
    fn plain_text_is_refused_unless_it_is_asked_for_and_stays_on_this_machine() {
        assert!(refusal(&["--cluster=blue", "--hub=http://127.0.0.1:7400"]).contains("is plain text; use https://"));
        for here in ["127.0.0.1:7400", "127.9.9.9", "[::1]:7400/", "localhost:7400", "LOCALHOST"] {
            let args = parse(&["--cluster=blue", &format!("--hub=http://{here}"), "--dev"]);
            assert_eq!(args.settings(|_| None).expect("settings"), None, "{here}");
        }
        for elsewhere in
            ["hub:7400", "10.0.0.1:7400", "[2001:db8::1]:7400", "127.0.0.1@hub:7400", "localhost.evil", "0.0.0.0", ""]
        {
            let message = refusal(&["--cluster=blue", &format!("--hub=http://{elsewhere}"), "--dev"]);
            assert!(message.contains("is plain text to another machine"), "{elsewhere}: {message}");
        }
    }

    #[test]
    fn names_that_cannot_be_right_are_refused_with_the_remedy() {
        for cluster in ["", "Blue", "-blue", "blue.example", &"b".repeat(64)] {
            let message = refusal(&[&format!("--cluster={cluster}"), "--hub=http://localhost", "--dev"]);
            assert!(message.contains("is not a DNS label"), "{message}");
        }
        let message = refusal(&["--cluster=blue", "--hub=ftp://h", "--dev"]);
        assert!(message.contains("is not an http:// or https:// URL"), "{message}");
        let mut args = parse(&["--cluster=blue", "--hub=http://localhost", "--dev"]);
        args.vpc_id = String::new();
        assert!(
            args.settings(|_| None).expect_err("a refusal").to_string().starts_with("--vpc-id \"\" is not a VPC id")
        );
    }
}
