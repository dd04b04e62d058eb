//! The command line and its environment, and the one place where the values are judged together.

pub mod gates;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use thiserror::Error;

use crate::link::transport::{Target, Tls};

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

    /// PEM file with the certificate authority that signed the hub's certificate.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with this agent's certificate.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of this agent's certificate.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Allows a hub without TLS or without a client certificate. Not for production.
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
    #[error("--hub {0:?} is plain text; use https://, or --dev on a machine where nothing can listen in")]
    PlainText(String),
    /// https:// without an authority.
    #[error("--tls-ca is missing; name the PEM file of the authority that signed the hub's certificate")]
    NoAuthority,
    /// https:// without a client certificate.
    #[error("--tls-cert and --tls-key are missing; the hub knows an agent by its certificate (--dev goes without)")]
    NoCertificate,
    /// A file that cannot be read.
    #[error("--{flag} {} cannot be read; name a PEM file that this process may read", path.display())]
    File {
        /// Which flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Args {
    /// Checks the identity and gives the hub's address with its certificates.
    ///
    /// # Errors
    /// Names the flag, the value and the remedy.
    pub fn target(&self) -> Result<Target, ArgsError> {
        self.check_identity()?;
        let tls = match self.hub.split_once("://") {
            Some(("https", _)) => Some(self.tls()?),
            Some(("http", _)) if self.dev => None,
            Some(("http", _)) => return Err(ArgsError::PlainText(self.hub.clone())),
            _ => return Err(ArgsError::Scheme(self.hub.clone())),
        };
        Ok(Target { url: self.hub.clone(), tls })
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

    fn tls(&self) -> Result<Tls, ArgsError> {
        let ca = self.tls_ca.as_ref().ok_or(ArgsError::NoAuthority)?;
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some((read("tls-cert", certificate)?, read("tls-key", key)?)),
            _ if self.dev => None,
            _ => return Err(ArgsError::NoCertificate),
        };
        Ok(Tls { ca: read("tls-ca", ca)?, identity })
    }
}

fn read(flag: &'static str, path: &PathBuf) -> Result<Vec<u8>, ArgsError> {
    std::fs::read(path).map_err(|source| ArgsError::File { flag, path: path.clone(), source })
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
        parse(more).target().expect_err("a refusal").to_string()
    }

    #[test]
    fn plain_text_is_refused_unless_it_is_asked_for() {
        assert!(refusal(&["--cluster=blue", "--hub=http://127.0.0.1:7400"]).contains("is plain text; use https://"));
        let target = parse(&["--cluster=blue", "--hub=http://127.0.0.1:7400", "--dev"]).target().expect("a target");
        assert!(target.tls.is_none());
    }

    #[test]
    fn tls_needs_an_authority_and_a_certificate() {
        assert!(refusal(&["--cluster=blue", "--hub=https://hub:7400"]).starts_with("--tls-ca is missing"));
        let file = std::env::current_exe().expect("this test's own file");
        let ca = format!("--tls-ca={}", file.display());
        assert!(
            refusal(&["--cluster=blue", "--hub=https://hub:7400", &ca])
                .starts_with("--tls-cert and --tls-key are missing")
        );
        let dev = parse(&["--cluster=blue", "--hub=https://hub:7400", &ca, "--dev"]).target().expect("a target");
        assert!(dev.tls.is_some_and(|tls| tls.identity.is_none()));
        let missing = refusal(&["--cluster=blue", "--hub=https://hub:7400", "--dev", "--tls-ca=/no/such/file"]);
        assert_eq!(missing, "--tls-ca /no/such/file cannot be read; name a PEM file that this process may read");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let all =
            ["switchyard-agent", "--cluster=blue", "--region=r", "--vpc-id=v", "--hub=https://h", "--tls-cert=c.pem"];
        assert!(Args::try_parse_from(all).is_err());
    }

    #[test]
    fn names_that_cannot_be_right_are_refused_with_the_remedy() {
        for cluster in ["", "Blue", "-blue", "blue.example", &"b".repeat(64)] {
            let message = refusal(&[&format!("--cluster={cluster}"), "--hub=http://h", "--dev"]);
            assert!(message.contains("is not a DNS label"), "{message}");
        }
        let message = refusal(&["--cluster=blue", "--hub=ftp://h", "--dev"]);
        assert!(message.contains("is not an http:// or https:// URL"), "{message}");
        let mut args = parse(&["--cluster=blue", "--hub=http://h", "--dev"]);
        args.vpc_id = String::new();
        assert!(args.target().expect_err("a refusal").to_string().starts_with("--vpc-id \"\" is not a VPC id"));
    }
}
