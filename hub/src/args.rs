//! The command line of the hub and its environment. What the values mean together is judged in [`crate::config`]; what is
//! written here is compared with `docs/configuration.md` by a test in `hub/tests/grpc_docs.rs`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::analysis::AnalysisArgs;

/// The control plane of Switchyard: takes policies and agents' reports, and programs one load balancer for several clusters.
#[derive(Clone, Debug, Parser)]
#[command(name = "switchyard-hub", version, about, max_term_width = 120)]
pub struct Args {
    /// Where gRPC is served to agents and callers.
    #[arg(long, env = "SWITCHYARD_HUB_GRPC_LISTEN", default_value = "127.0.0.1:7400", value_name = "ADDRESS")]
    pub grpc_listen: SocketAddr,

    /// Where health and metrics are served over HTTP.
    #[arg(long, env = "SWITCHYARD_HUB_HTTP_LISTEN", default_value = "127.0.0.1:7401", value_name = "ADDRESS")]
    pub http_listen: SocketAddr,

    /// Where the API is served as JSON over HTTP; left out: nowhere.
    #[arg(long, env = "SWITCHYARD_HUB_GATEWAY_LISTEN", value_name = "ADDRESS")]
    pub gateway_listen: Option<SocketAddr>,

    /// Postgres, such as postgres://user:password@host/database.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Folder of the private Postgres that is started when --dev is given and no database URL is.
    #[arg(long, env = "SWITCHYARD_HUB_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// Allows plain text on loopback addresses and a private Postgres. Not for production.
    #[arg(long, env = "SWITCHYARD_HUB_DEV")]
    pub dev: bool,

    /// The id written into the ownership tag of everything this installation creates; generated at the first start if left out.
    #[arg(long, env = "SWITCHYARD_HUB_HUB_ID", value_name = "ID")]
    pub hub_id: Option<String>,

    /// The AWS account whose load balancers are programmed: 12 digits.
    #[arg(long, env = "SWITCHYARD_HUB_AWS_ACCOUNT_ID", value_name = "DIGITS")]
    pub aws_account_id: String,

    /// The AWS region whose load balancers are programmed.
    #[arg(long, env = "SWITCHYARD_HUB_AWS_REGION", value_name = "REGION")]
    pub aws_region: String,

    /// Another address for the ELBv2 API, such as the sandbox's.
    #[arg(long, env = "SWITCHYARD_HUB_AWS_ENDPOINT_URL", value_name = "URL")]
    pub aws_endpoint_url: Option<String>,

    /// A cluster whose ClusterTrafficPolicy resources are taken as policies; give it once for each, or a list with commas.
    #[arg(long, env = "SWITCHYARD_POLICY_SOURCES", value_delimiter = ',', value_name = "CLUSTER")]
    pub policy_source: Vec<String>,

    /// Time after a read-back of new weights until they count as served everywhere; plain numbers are seconds.
    #[arg(long, env = "SWITCHYARD_HUB_SETTLE_SECONDS", default_value = "60", value_name = "SECONDS")]
    pub settle_seconds: String,

    /// Time between two full reads of what AWS holds.
    #[arg(long, env = "SWITCHYARD_HUB_AUDIT_INTERVAL", default_value = "60s", value_name = "DURATION")]
    pub audit_interval: String,

    /// Time between two reads of the targets' health.
    #[arg(long, env = "SWITCHYARD_HUB_HEALTH_INTERVAL", default_value = "10s", value_name = "DURATION")]
    pub health_interval: String,

    /// How long the lease on the account and region lasts without renewal.
    #[arg(long, env = "SWITCHYARD_HUB_LEASE_TTL", default_value = "15s", value_name = "DURATION")]
    pub lease_ttl: String,

    /// Time between two heartbeats on an agent's stream; three missed ones end it.
    #[arg(long, env = "SWITCHYARD_HUB_HEARTBEAT_INTERVAL", default_value = "2s", value_name = "DURATION")]
    pub heartbeat_interval: String,

    /// Time without a heartbeat after which a cluster counts as stale and its targets are frozen.
    #[arg(long, env = "SWITCHYARD_HUB_STALE_AFTER", default_value = "15s", value_name = "DURATION")]
    pub stale_after: String,

    /// Budget for reading calls at AWS: calls per second and burst.
    #[arg(long, env = "SWITCHYARD_HUB_DESCRIBE_RATE", default_value = "10:40", value_name = "RATE:BURST")]
    pub describe_rate: String,

    /// Budget for creating, changing and deleting calls at AWS: calls per second and burst.
    #[arg(long, env = "SWITCHYARD_HUB_MODIFY_RATE", default_value = "3:20", value_name = "RATE:BURST")]
    pub modify_rate: String,

    /// Budget for registering and deregistering calls at AWS: calls per second and burst.
    #[arg(long, env = "SWITCHYARD_HUB_REGISTER_RATE", default_value = "4:20", value_name = "RATE:BURST")]
    pub register_rate: String,

    /// Certificate chain of the gRPC port and of the gateway, PEM.
    #[arg(long, env = "SWITCHYARD_HUB_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the gRPC port and of the gateway, PEM.
    #[arg(long, env = "SWITCHYARD_HUB_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Certificates of the authorities that agents and callers must have theirs from, PEM.
    #[arg(long, env = "SWITCHYARD_HUB_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// What gates of shifts are measured with.
    #[command(flatten)]
    pub analysis: AnalysisArgs,

    /// A caller whose shifts may cross safety rules: `*` for everybody, `sha256:` with the fingerprint that the audit log shows, or
    /// `cluster:NAME` for the TrafficShift resources of a cluster; give it once for each, or a list with commas.
    #[arg(long, env = "SWITCHYARD_HUB_OVERRIDE_CALLERS", value_delimiter = ',', value_name = "CALLER")]
    pub override_callers: Vec<String>,

    /// Form of the log lines on standard error.
    #[arg(long, env = "SWITCHYARD_HUB_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// Level of the log, or a list such as info,switchyard_hub=debug.
    #[arg(long, env = "SWITCHYARD_HUB_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,

    /// Plans and shows, but writes nothing at AWS.
    #[arg(long, env = "SWITCHYARD_HUB_OBSERVE_ONLY")]
    pub observe_only: bool,

    /// Says that a store older than what AWS shows was restored on purpose: the epoch is raised and writing goes on.
    #[arg(long, env = "SWITCHYARD_HUB_ACCEPT_RESTORED_STORE")]
    pub accept_restored_store: bool,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Human,
    /// One JSON object per line.
    Json,
}
