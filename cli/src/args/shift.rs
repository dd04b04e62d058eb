//! The words of the commands that move traffic in shifts, and of those that look at what was moved. Only words and defaults.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::PossibleValuesParser, value_parser};
use switchyard_proto::api::v1 as pb;

use super::{Change, EXIT_CODES};
use crate::{
    gate,
    parse::{self, PolicyName, ShiftName},
    wait::Goal,
};

/// The safety rules that a caller with the right may cross; a test compares them with the hub's.
pub const OVERRIDABLE: [&str; 6] =
    ["MinActiveClusters", "MaxStepPercent", "MinStepInterval", "MaintenanceWindow", "GatingSwitch", "Capacity"];

/// Where the traffic is to go: exactly one of these.
#[derive(Debug, Default, Args)]
pub struct Target {
    /// All of the traffic to this cluster
    #[arg(long, value_name = "CLUSTER", conflicts_with = "weights")]
    pub to: Option<String>,
    /// The new weights, such as green=50,blue=50, each 0 to 999; clusters left out get 0
    #[arg(long, value_name = "CLUSTER=WEIGHT,..", value_delimiter = ',', value_parser = parse::weight)]
    pub weights: Vec<(String, u32)>,
}

/// How a shift is asked for, at once or in steps.
#[derive(Debug, Args)]
pub struct Asking {
    /// Something that must hold while a step bakes; may be given several times. One of: health[=PERCENT],
    /// 'prometheus/SOURCE: QUERY; success < 0.01', 'cloudwatch: METRIC STATISTIC [/ METRIC]; success < 0.01',
    /// webhook/ENDPOINT; each with '; name=N; every 30s; count 4; failure-limit 1' as needed
    #[arg(long = "gate", value_name = "GATE", value_parser = gate::parse)]
    pub gates: Vec<pb::Gate>,
    /// Cross this safety rule; needs --reason and the right to do so, and is audited; may be given several times
    #[arg(long = "override", value_name = "RULE", value_parser = PossibleValuesParser::new(OVERRIDABLE))]
    pub overrides: Vec<String>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// The longest time a step may take to be true at the load balancer before the shift goes back [default: 10m]
    #[arg(long, value_parser = parse::some_seconds, value_name = "DURATION")]
    pub progress_deadline: Option<u32>,
    #[command(flatten)]
    pub change: Change,
    /// Wait until this is true of the shift; without a value until it converged
    #[arg(long, value_enum, value_name = "CONDITION", num_args = 0..=1, default_missing_value = "converged",
          conflicts_with = "dry_run")]
    pub wait: Option<Goal>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Flip {
    /// Policies that move together: NAME or NAMESPACE/NAME
    #[arg(required = true, value_name = "POLICY", value_parser = parse::policy_name)]
    pub policies: Vec<PolicyName>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Shift {
    /// Policies that move together: NAME or NAMESPACE/NAME
    #[arg(value_name = "POLICY", value_parser = parse::policy_name, required_unless_present = "file")]
    pub policies: Vec<PolicyName>,
    /// A TrafficShift as YAML or JSON, or - for stdin; instead of policies, target, steps and gates
    #[arg(short, long, value_name = "FILE|-", conflicts_with_all = ["policies", "to", "weights", "strategy", "gates",
          "bake", "approval", "approve_at", "progress_deadline", "expected_version"])]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub strategy: Strategy,
    /// How long the weights of a step stay before the next one, of each step but the last
    #[arg(long, value_parser = parse::whole_seconds, value_name = "DURATION")]
    pub bake: Option<u32>,
    /// Each step but the last needs `yardctl approve`; with --steps and --canary
    #[arg(long, conflicts_with_all = ["linear", "exponential", "approve_at"])]
    pub approval: bool,
    /// Only these steps of --steps need `yardctl approve`
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',', conflicts_with_all = ["linear", "exponential", "canary"])]
    pub approve_at: Vec<u32>,
    #[command(flatten)]
    pub asking: Asking,
}

/// How the weights get there: one of these.
#[derive(Debug, Default, Args)]
#[group(id = "strategy", multiple = false)]
pub struct Strategy {
    /// Steps in percent of the way, rising, the last one 100: 5,25,50,100
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',')]
    pub steps: Vec<u32>,
    /// Equal steps: 20 gives 20, 40, 60, 80, 100
    #[arg(long, value_name = "PERCENT")]
    pub linear: Option<u32>,
    /// Growing steps: 5 (or 5x2) gives 5, 10, 20, 40, 80, 100
    #[arg(long, value_name = "PERCENT[xFACTOR]", value_parser = parse::growth)]
    pub exponential: Option<(u32, u32)>,
    /// One small step, then everything
    #[arg(long, value_name = "PERCENT")]
    pub canary: Option<u32>,
}

/// Which shift, and why; the same for every call about one.
#[derive(Debug, Args)]
pub struct About {
    /// The id of the shift, or NAME or NAMESPACE/NAME of a policy: the shift that moves it now
    #[arg(value_name = "SHIFT|POLICY", value_parser = parse::shift_name)]
    pub shift: ShiftName,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

/// A call after which the shift goes on.
#[derive(Debug, Args)]
pub struct GoOn {
    #[command(flatten)]
    pub about: About,
    /// Wait until this is true of the shift; without a value until it converged
    #[arg(long, value_enum, value_name = "CONDITION", num_args = 0..=1, default_missing_value = "converged")]
    pub wait: Option<Goal>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Approve {
    #[command(flatten)]
    pub go_on: GoOn,
    /// The step that is approved, from 1: refused when another one waits [default: the one that waits]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub step: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Abort {
    #[command(flatten)]
    pub about: About,
    /// Wait until the weights from before were read back from the load balancer
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Rollback {
    /// The id of the shift, or NAME or NAMESPACE/NAME of a policy: its running shift, or the last one that succeeded
    #[arg(value_name = "SHIFT|POLICY", value_parser = parse::shift_name)]
    pub shift: ShiftName,
    /// Cross this safety rule; needs --reason and the right to do so, and is audited; may be given several times
    #[arg(long = "override", value_name = "RULE", value_parser = PossibleValuesParser::new(OVERRIDABLE))]
    pub overrides: Vec<String>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Show what would be done; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
    /// Wait until this is true of the way back; without a value until it converged
    #[arg(long, value_enum, value_name = "CONDITION", num_args = 0..=1, default_missing_value = "converged",
          conflicts_with = "dry_run")]
    pub wait: Option<Goal>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Watch {
    /// The id of the shift, or NAME or NAMESPACE/NAME of a policy: the shift that moves it now
    #[arg(value_name = "SHIFT|POLICY", value_parser = parse::shift_name)]
    pub shift: ShiftName,
}

#[derive(Debug, Args)]
pub struct History {
    /// Only shifts of this policy: NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: Option<PolicyName>,
    /// Only shifts that have not ended
    #[arg(long)]
    pub active: bool,
    /// At most so many, newest first; 0: all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Subcommand)]
pub enum Switch {
    /// All gating switches
    List,
    /// Stop every shift and change of weights of the policies that it covers; makes the switch where there is none
    Off {
        /// Name of the switch
        name: String,
        #[command(flatten)]
        change: SwitchChange,
        /// Why, for those who find it off; at most 1024 characters
        #[arg(long)]
        reason: String,
    },
    /// Let weights move again; makes the switch where there is none
    On {
        /// Name of the switch
        name: String,
        #[command(flatten)]
        change: SwitchChange,
        /// Why, for the audit log; at most 1024 characters
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Delete a switch; what it stopped moves again
    Delete {
        /// Name of the switch
        name: String,
        /// Why, for the audit log; at most 1024 characters
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Refuse when the switch is not at this version any more
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        expected_version: u64,
        /// Id of this call; the same id again gives the first answer [default: a new UUID]
        #[arg(long, value_parser = parse::request_id, value_name = "ID")]
        request_id: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct SwitchChange {
    /// Policies that it covers, such as 'shop/*' or '*/checkout' [default: those of the present switch]
    #[arg(long, value_name = "PATTERN,..", value_delimiter = ',')]
    pub policies: Vec<String>,
    /// Refuse when the switch is not at this version any more
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub expected_version: u64,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}
