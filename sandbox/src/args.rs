//! Command line of `switchyard-sandbox`: parsed and checked here, wired in `compose`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::addresses::CLUSTER_LIMIT;

/// Try Switchyard without a cloud: load balancer, Kubernetes clusters, pods and clients in one process.
///
/// Everything listens on loopback addresses only and nothing is authenticated.
#[derive(Debug, Clone, Parser)]
#[command(name = "switchyard-sandbox", version)]
pub struct Args {
    /// Names of the clusters, at most 16
    #[arg(long, value_delimiter = ',', default_value = "blue,green", value_parser = cluster_name)]
    pub clusters: Vec<String>,
    /// A cluster of the list whose API server is a real one, as NAME=KUBECONFIG: the sandbox is only its scheduler and its nodes.
    /// Addresses of pods then begin with 10 instead of 127, since a real server refuses endpoints with loopback addresses
    #[arg(long, value_delimiter = ',', value_name = "NAME=KUBECONFIG", value_parser = external)]
    pub external: Vec<(String, PathBuf)>,
    /// Folder for sandbox.json and one kubeconfig per cluster; made if it is not there
    #[arg(long, default_value = ".data/sandbox")]
    pub dir: PathBuf,
    /// Where the ELBv2 API listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback)]
    pub elb_listen: SocketAddr,
    /// Where the control API listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback)]
    pub control_listen: SocketAddr,
    /// How many times faster the load balancer's clocks run: draining, health checks, propagation. Pods keep real time
    #[arg(long, default_value_t = 1.0, value_parser = time_scale)]
    pub time_scale: f64,
    /// Seed of the load balancer's random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds for which a changed rule or listener is still served in its old state, before --time-scale
    #[arg(long, default_value_t = 5_000)]
    pub propagation_ms: u64,
    /// Where the CloudWatch API listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback)]
    pub cloudwatch_listen: SocketAddr,
    /// Milliseconds of the period in which CloudWatch counts; at AWS it is a minute
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub cloudwatch_period_ms: u64,
    /// Milliseconds from the end of such a period until CloudWatch tells its numbers
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(..=3_600_000))]
    pub cloudwatch_delay_ms: u64,
    /// AWS region that the load balancer and the nodes are in
    #[arg(long, default_value = "eu-central-1")]
    pub region: String,
    /// Log filter: a level, or targets with levels
    #[arg(long, env = "SWITCHYARD_SANDBOX_LOG", default_value = "info")]
    pub log: String,
}

impl Args {
    /// What clap cannot check on one value alone.
    pub fn check(&self) -> Result<(), String> {
        if self.clusters.len() > CLUSTER_LIMIT {
            return Err(format!("--clusters: {} names; use at most {CLUSTER_LIMIT}", self.clusters.len()));
        }
        for (index, name) in self.clusters.iter().enumerate() {
            if self.clusters[..index].contains(name) {
                return Err(format!("--clusters: {name:?} stands there twice; name each cluster once"));
            }
        }
        for (index, (name, _)) in self.external.iter().enumerate() {
            if !self.clusters.contains(name) {
                return Err(format!("--external: {name:?} is no cluster; name it in --clusters too"));
            }
            if self.external[..index].iter().any(|(other, _)| other == name) {
                return Err(format!("--external: {name:?} stands there twice; give each cluster one kubeconfig"));
            }
        }
        Ok(())
    }

    /// The kubeconfig of a cluster whose API server is a real one.
    pub fn kubeconfig_of(&self, cluster: &str) -> Option<&Path> {
        self.external.iter().find(|(name, _)| name == cluster).map(|(_, path)| path.as_path())
    }
}

fn cluster_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-');
    if edges && text.len() <= 40 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 40 lower case letters, digits and '-', beginning with a letter".to_owned())
    }
}

fn external(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("use NAME=KUBECONFIG, for example blue=/tmp/blue.kubeconfig".to_owned()),
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "use address:port, for example 127.0.0.1:0".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("use a loopback address such as 127.0.0.1: the sandbox authenticates nobody".to_owned())
    }
}

fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.01..=10_000.0).contains(&scale) => Ok(scale),
        _ => Err("use a number from 0.01 to 10000; 10 is ten times faster".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        let all = std::iter::once("switchyard-sandbox").chain(args.iter().copied());
        let parsed = Args::try_parse_from(all).map_err(|e| e.to_string())?;
        parsed.check().map(|()| parsed)
    }

    #[test]
    fn clusters_default_to_blue_and_green() {
        assert_eq!(parse(&[]).unwrap().clusters, ["blue", "green"]);
        assert_eq!(parse(&["--clusters", "a,b,c"]).unwrap().clusters, ["a", "b", "c"]);
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_a_remedy() {
        let many = (0..17).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        for (args, word) in [
            (["--clusters", "Blue"], "lower case"),
            (["--clusters", "a,a"], "twice"),
            (["--clusters", &many], "at most 16"),
            (["--elb-listen", "0.0.0.0:80"], "loopback"),
            (["--time-scale", "0"], "0.01"),
            (["--external", "blue"], "NAME=KUBECONFIG"),
            (["--external", "red=red.kubeconfig"], "--clusters"),
            (["--external", "blue=a,blue=b"], "twice"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(word), "{args:?}: {error}");
        }
    }
}
