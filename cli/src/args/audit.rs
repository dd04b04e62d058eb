//! The words of `audit` and `audit verify`. Only words and defaults.

use clap::{Args, Subcommand, ValueEnum};

use super::EXIT_CODES;
use crate::parse::{self, PolicyName};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Audit {
    #[command(subcommand)]
    pub what: Option<AuditWhat>,
    /// Only entries about this policy: NAME or NAMESPACE/NAME
    #[arg(value_parser = parse::policy_name)]
    pub policy: Option<PolicyName>,
    /// Only entries from this time on: 2h, 7d, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    pub since: Option<parse::Moment>,
    /// Only entries before this time: 2h, 7d, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse::moment)]
    pub before: Option<parse::Moment>,
    /// Only entries of this actor, as written in the entry
    #[arg(long, default_value = "", hide_default_value = true)]
    pub actor: String,
    /// Only entries of this shift
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub shift: String,
    /// Only entries with this result
    #[arg(long, value_enum)]
    pub result: Option<AuditResult>,
    /// At most so many; 0: all [default: 100 as a table, all in the other formats]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Oldest first instead of newest first
    #[arg(long)]
    pub oldest_first: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditResult {
    Done,
    /// No proof, no right, or a rule in the way
    Refused,
    Failed,
}

impl AuditResult {
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum AuditWhat {
    /// See that no entry was changed, left out or put elsewhere; needs the right to read everything
    #[command(after_help = EXIT_CODES)]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The head of an earlier verification: it must be the hash of an entry, or the log was cut or written anew
    #[arg(long, value_name = "HASH", value_parser = parse::hash)]
    pub head: Option<[u8; 32]>,
    /// Begin with this entry and take it on trust that those before it are what they were
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub since_id: u64,
}
