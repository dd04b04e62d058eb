//! The words of the commands about whole clusters, and of those that explain failover and end it. Only words and defaults.

use clap::{Args, Subcommand};

use super::EXIT_CODES;
use crate::parse::{self, PolicyName};

/// Which cluster, and why; the same for every operation on one.
#[derive(Debug, Args)]
pub struct OfCluster {
    /// The cluster's name, as its agent announces it
    pub cluster: String,
    /// Why, for the audit log and for those who find the cluster so; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Refuse when the cluster's last operation is not at this version any more
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub expected_version: u64,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Cordon {
    #[command(flatten)]
    pub of: OfCluster,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Drain {
    #[command(flatten)]
    pub of: OfCluster,
    /// How much of its share goes in one step, in percent [default: 25%]
    #[arg(long, value_name = "PERCENT", value_parser = parse::percent)]
    pub step: Option<u32>,
    /// The least time between two steps; each is in force everywhere before the next one in any case
    #[arg(long, value_name = "DURATION", value_parser = parse::whole_seconds, default_value = "0s")]
    pub interval: u32,
    /// Also where the capacity that the others declare does not suffice
    #[arg(long)]
    pub force: bool,
    /// Show what would happen to each policy; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until no policy sends it requests and its targets are deregistered
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// Uncordon and remove.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Bring {
    #[command(flatten)]
    pub of: OfCluster,
    /// Wait until everything is as asked for, read back from the load balancer
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum Drill {
    /// What the loss of a cluster would do to each policy; with --for it is done for real, and undone when the time is over
    ClusterLoss(ClusterLoss),
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ClusterLoss {
    #[command(flatten)]
    pub of: OfCluster,
    /// Show what would happen to each policy; change nothing
    #[arg(long, required_unless_present = "duration")]
    pub dry_run: bool,
    /// Take the cluster's share away for real, for so long, 10s to 24h; then it comes back by itself. Needs --reason
    #[arg(long = "for", id = "duration", value_name = "DURATION", value_parser = parse::some_seconds,
          conflicts_with = "dry_run", requires = "reason")]
    pub duration: Option<u32>,
    /// Also where the capacity that the others declare does not suffice
    #[arg(long)]
    pub force: bool,
    /// Wait until the time is over and the weights are back
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: PolicyName,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Failback {
    /// NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: PolicyName,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Refuse when the policy is not at this version any more
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub expected_version: u64,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
    /// Wait until the policy has the weights that are requested, served by the load balancer
    #[arg(long)]
    pub wait: bool,
}
