//! The command line. Only words and defaults; what they mean is in `commands`.

mod access;
mod audit;
mod cluster;
mod shift;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use access::{
    AuthorityChange, ClusterAccess, CreateToken, GrantedRole, Join, Revocation, RevokeCertificates, TokenAccess,
};
pub use audit::{Audit, AuditWhat, Verify};
pub use cluster::{Bring, ClusterLoss, Cordon, Drain, Drill, Explain, Failback, OfCluster};
#[cfg(test)]
pub use shift::OVERRIDABLE;
pub use shift::{
    Abort, About, Approve, Asking, Flip, GoOn, History, Rollback, Shift, Strategy, Switch, SwitchChange, Target, Watch,
};

use crate::{
    parse::{self, PolicyName, ShiftName},
    wait::Goal,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  internal or unexpected error; an audit log that does not fit together
  2  wrong usage, or a file that cannot be read
  3  refused as not valid; every violation is named
  4  not found
  5  conflict: the version changed since it was read, another shift moves the policy, a safety rule
     stands in the way, the others cannot carry a cluster's share, or the state does not allow it now
  6  the hub cannot be reached or is unavailable
  7  timeout or interrupted while waiting; the state is not known (the message says how to look)
  8  superseded by another change, deleted, or failed while waiting; a shift that ended otherwise than
     waited for: Failed, Aborted or Superseded; another operation on the cluster took the place of this one
  9  not proved who is calling, or permission denied";

/// Command line of the Switchyard hub: weighted traffic between clusters behind one load balancer.
#[derive(Debug, Parser)]
#[command(name = "yardctl", version, after_help = EXIT_CODES, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the hub; http:// is for this machine only
    #[arg(long, global = true, env = "SWITCHYARD_HUB", default_value = "http://127.0.0.1:7400", value_name = "URL")]
    pub hub: String,
    /// PEM file with the CA that signed the hub's certificate; https:// needs it
    #[arg(long, global = true, env = "SWITCHYARD_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Name that the hub's certificate is for, where --hub is the end of a tunnel to it (kubectl port-forward)
    #[arg(long, global = true, env = "SWITCHYARD_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// PEM file with the client certificate
    #[arg(long, global = true, env = "SWITCHYARD_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the client certificate's key
    #[arg(long, global = true, env = "SWITCHYARD_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// File with the token that proves who you are, read anew for every call; or the token itself in SWITCHYARD_TOKEN
    #[arg(long, global = true, env = "SWITCHYARD_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What is written to stdout
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// Bound on a call with its retries, or on the whole wait with --wait [default: 10s, with --wait 5m;
    /// for a shift its bake times and 10m, for a cluster its steps, intervals and 10m]
    #[arg(long, global = true, value_parser = parse::duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,
    /// Colours on stdout (NO_COLOR is honoured by auto)
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Namespace [default: 'default' where one policy is named, all where things are listed]
    #[arg(short, long, global = true, env = "SWITCHYARD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document; with --watch and for shifts with --wait one object per line
    Json,
    /// JSON, each object on a line of its own
    Jsonl,
    /// One YAML document
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or replace policies from YAML or JSON
    Apply(Apply),
    /// List policies, clusters, endpoints or shifts
    #[command(subcommand)]
    Get(Get),
    /// What is asked, what is in force, and why they differ
    Status(Status),
    /// Why the weights of a policy are what they are, with the numbers behind each decision
    Explain(Explain),
    /// Override the weights of a policy; clusters left out keep theirs
    Weights(Weights),
    /// Move traffic to another cluster, or to other weights, at once
    Flip(Flip),
    /// Move traffic in steps, with bake times, gates and approvals
    Shift(Shift),
    /// Hold a shift where it is, in both directions
    Pause(About),
    /// Let a paused shift go on
    #[command(after_help = EXIT_CODES)]
    Resume(GoOn),
    /// Let a shift that awaits approval go on
    Approve(Approve),
    /// Skip what is left of bake times, gates, approvals and evidence; safety rules hold all the same
    #[command(after_help = EXIT_CODES)]
    Promote(GoOn),
    /// Take a running shift back: to the weights from before, in one step
    Abort(Abort),
    /// Take a finished shift back by a new one at once; of a running one the same as abort
    Rollback(Rollback),
    /// Follow a shift to its end
    Watch(Watch),
    /// List shifts, newest first
    History(History),
    /// Who changed what, when, why, from which weights to which
    #[command(after_help = EXIT_CODES)]
    Audit(Audit),
    /// Who the hub takes you for, and what you may do
    #[command(name = "whoami")]
    WhoAmI,
    /// Give a cluster no new weight in any policy; what it has stays
    Cordon(Cordon),
    /// Take a cluster's share away in steps, in all policies at once, then its targets
    Drain(Drain),
    /// Bring a cluster back from cordon, drain, game day or removal
    Uncordon(Bring),
    /// Take a cluster out for good; refused while a policy gives it a weight
    Remove(Bring),
    /// Let the agent of a cluster in, and take its certificates away
    #[command(subcommand)]
    Cluster(ClusterAccess),
    /// Service tokens: for programs that have no other identity
    #[command(subcommand)]
    Token(TokenAccess),
    /// The authorities that the agents' certificates come from
    #[command(subcommand)]
    Authority(AuthorityChange),
    /// Rehearse the loss of a cluster: on paper, or for real and for a time
    #[command(subcommand)]
    Drill(Drill),
    /// Let clusters that failover took out return now, once they are healthy
    Failback(Failback),
    /// Gating switches: stop every shift of a group of policies, or let them go on
    #[command(subcommand)]
    Switch(Switch),
    /// Delete something
    #[command(subcommand)]
    Delete(Delete),
    /// What the hub would do now at the load balancer; writes nothing
    Plan(PlanArgs),
    /// Print a completion script for a shell
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the version of yardctl
    Version,
}

impl Command {
    /// Whether `-o json` is an object for each line: then a failure is one, too.
    pub fn streams(&self) -> bool {
        match self {
            Self::Status(status) => status.watch,
            Self::Watch(_) => true,
            Self::Flip(Flip { asking, .. }) | Self::Shift(Shift { asking, .. }) => asking.wait.is_some(),
            Self::Resume(go_on) | Self::Promote(go_on) | Self::Approve(Approve { go_on, .. }) => go_on.wait.is_some(),
            Self::Abort(abort) => abort.wait,
            Self::Rollback(rollback) => rollback.wait.is_some(),
            _ => false,
        }
    }
}

/// How a change is made, the same for every change.
#[derive(Debug, Args)]
pub struct Change {
    /// Show what would be done; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse when the policy is not at this version any more
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub expected_version: u64,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// File, folder (its *.yaml, *.yml and *.json), or - for stdin; may be given several times
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    pub file: Vec<PathBuf>,
    #[command(flatten)]
    pub change: Change,
    /// Wait until this is true of every applied policy
    #[arg(long, value_enum, value_name = "CONDITION", conflicts_with = "dry_run")]
    pub wait: Option<Goal>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Debug, Subcommand)]
pub enum Get {
    /// All policies, or one
    #[command(visible_aliases = ["policy", "ctp"])]
    Policies {
        /// NAME or NAMESPACE/NAME
        #[arg(value_parser = parse::policy_name)]
        name: Option<PolicyName>,
    },
    /// All member clusters, or one
    #[command(visible_alias = "cluster")]
    Clusters { name: Option<String> },
    /// All shifts, or one with its moves, gates and history; of a policy its newest one
    #[command(visible_alias = "shift")]
    Shifts {
        /// The id of a shift, or NAME or NAMESPACE/NAME of a policy
        #[arg(value_name = "SHIFT|POLICY", value_parser = parse::shift_name)]
        name: Option<ShiftName>,
    },
    /// What the agents report, address by address
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints {
        /// Only this Service
        service: Option<String>,
        /// Only this cluster
        #[arg(long)]
        cluster: Option<String>,
        /// Only those that are not ready or are terminating
        #[arg(long)]
        unready: bool,
    },
}

#[derive(Debug, Args)]
pub struct Status {
    /// NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: PolicyName,
    /// Stay and show each change: redrawn on a terminal, one line per change elsewhere
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Weights {
    /// NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: PolicyName,
    /// Weights such as blue=90 green=10, each 0 to 999
    #[arg(required = true, value_name = "CLUSTER=WEIGHT", value_parser = parse::weight)]
    pub weights: Vec<(String, u32)>,
    #[command(flatten)]
    pub change: Change,
    /// Wait until this is true of the version that this call creates
    #[arg(long, value_enum, value_name = "CONDITION", conflicts_with = "dry_run")]
    pub wait: Option<Goal>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Debug, Subcommand)]
pub enum Delete {
    /// A policy: its rule goes first, then targets and target groups
    Policy {
        /// NAME or NAMESPACE/NAME
        #[arg(value_parser = parse::policy_name)]
        policy: PolicyName,
        #[command(flatten)]
        change: Change,
        /// Why, for the audit log; at most 1024 characters
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Wait until it is gone
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// NAME or NAMESPACE/NAME; all policies when left out
    #[arg(value_parser = parse::policy_name)]
    pub policy: Option<PolicyName>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_and_documentation_name_the_same_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        let docs = include_str!("../../docs/yardctl.md");
        for code in 0..=9 {
            assert!(help.contains(&format!("\n  {code}  ")), "--help lacks exit code {code}");
            assert!(docs.contains(&format!("| {code} |")), "docs/yardctl.md lacks exit code {code}");
        }
    }

    #[test]
    fn the_help_of_every_command_that_waits_for_more_than_a_version_names_the_exit_codes() {
        let waiting = [
            "flip", "shift", "resume", "approve", "promote", "abort", "rollback", "watch", "drain", "uncordon",
            "remove", "failback", "audit",
        ];
        for name in waiting {
            let mut cli = Cli::command();
            let help = cli.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(help.contains("  8  superseded"), "{name}: {help}");
        }
    }

    #[test]
    fn every_command_and_flag_is_in_the_documentation() {
        fn walk(path: &str, command: &clap::Command, docs: &str) {
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long().filter(|long| *long != "help" && *long != "version") {
                    assert!(docs.contains(&format!("--{long}")), "docs/yardctl.md lacks --{long} of `{path}`");
                }
            }
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(docs.contains(&path), "docs/yardctl.md lacks `{path}`");
                walk(&path, sub, docs);
            }
        }
        walk("yardctl", &Cli::command(), include_str!("../../docs/yardctl.md"));
    }
}
