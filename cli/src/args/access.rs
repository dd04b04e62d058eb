//! The words of the commands that give and take access: `cluster`, `token` and `authority`. Only words and defaults.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::parse;

/// Why, and the id of the call.
#[derive(Debug, Args)]
pub struct Revocation {
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ClusterAccess {
    /// Make a token with which the agent of a cluster gets its first certificate, once, and print the commands that install it
    Join(Join),
    /// List join tokens; those that were used or ended stay in the list for 7 days
    Tokens {
        /// Only those of this cluster
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Make a join token of no use
    RevokeToken {
        /// The token's id, as in the list
        id: String,
        #[command(flatten)]
        revocation: Revocation,
    },
    /// List the certificates of agents that have not ended, and those that were revoked
    Certificates {
        /// Only those of this cluster
        cluster: Option<String>,
    },
    /// Revoke the certificates of a cluster's agent; its streams end, nothing changes at the load balancer
    Revoke(RevokeCertificates),
}

#[derive(Debug, Args)]
pub struct Join {
    /// The cluster's name, a DNS label; the token is good for this one only
    pub cluster: String,
    /// How long the token may be used, 1m to 24h
    #[arg(long, value_name = "DURATION", value_parser = parse::some_seconds, default_value = "1h")]
    pub ttl: u32,
    /// Write the token into this new file, which only you may read, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Id of this call [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Args)]
pub struct RevokeCertificates {
    /// The cluster's name
    pub cluster: String,
    /// Only the certificate with this serial number [default: all of the cluster]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub serial: String,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long)]
    pub reason: String,
    /// Id of this call; the same id again gives the first answer [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TokenAccess {
    /// Make a service token; it is shown once
    Create(CreateToken),
    /// List service tokens: what each may do, who made it, when it was last used
    List,
    /// Revoke a service token; streams that were opened with it end
    Revoke {
        /// The token's name
        name: String,
        #[command(flatten)]
        revocation: Revocation,
    },
}

/// A role that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GrantedRole {
    /// Reads
    Viewer,
    /// Moves traffic: shifts, weights, failback, cordon, drain, drills, switches
    Operator,
    /// Writes policies, joins and removes clusters, gives and takes access
    Admin,
}

#[derive(Debug, Args)]
pub struct CreateToken {
    /// The token's name, a DNS label; the audit log names the caller by it, and it is never given again
    pub name: String,
    /// What it may do, each role with all that the one before may
    #[arg(long, value_enum)]
    pub role: GrantedRole,
    /// With policies of these namespaces; '*' alone: of all
    #[arg(long, required = true, value_name = "NAMESPACE,..", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// As far as they concern these clusters; '*' alone: all
    #[arg(long, required = true, value_name = "CLUSTER,..", value_delimiter = ',')]
    pub clusters: Vec<String>,
    /// Also across safety rules, with --override and --force
    #[arg(long)]
    pub overrides: bool,
    /// How long it may be used, 5m to 365d
    #[arg(long, value_name = "DURATION", value_parser = parse::some_seconds, default_value = "90d")]
    pub ttl: u32,
    /// Write the token into this new file, which only you may read, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Why, for the audit log; at most 1024 characters
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Id of this call [default: a new UUID]
    #[arg(long, value_parser = parse::request_id, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum AuthorityChange {
    /// List the authorities that agents' certificates come from, newest first
    List,
    /// Make a new authority, which issues from now on; those from before stay trusted until what they issued has ended
    Rotate {
        #[command(flatten)]
        revocation: Revocation,
    },
}
