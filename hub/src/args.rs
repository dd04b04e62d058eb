//! The command line of the hub and its environment. What the values mean together is judged in [`crate::config`]; what is
//! written here is compared with `docs/configuration.md` by a test in `hub/tests/grpc_docs.rs`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum, parser::ValueSource};

use crate::{analysis::AnalysisArgs, secret::Secret};

/// 32 bytes in base64. It has no flag: the command line can be read by every process of the machine.
pub const SEALING_KEY: &str = "SWITCHYARD_HUB_CA_SEALING_KEY";

/// The control plane of Switchyard: takes policies and agents' reports, and programs one load balancer for several clusters.
#[derive(Clone, Parser)]
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

    /// It was given on the command line.
    #[arg(skip)]
    pub database_url_in_arguments: bool,

    /// A file that holds the URL of Postgres; it is read again when it changes, so that a password can be rotated.
    #[arg(long, env = "SWITCHYARD_HUB_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,

    /// Folder of the private Postgres that is started when --dev is given and no database URL is.
    #[arg(long, env = "SWITCHYARD_HUB_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// Allows plain text and everything to everybody, on loopback addresses only, and a private Postgres. Not for production.
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

    /// Certificates of the authorities that callers may have theirs from, PEM; agents have other ones.
    #[arg(long, env = "SWITCHYARD_HUB_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// The oldest version of TLS that is spoken: 1.3 or 1.2.
    #[arg(long, env = "SWITCHYARD_HUB_TLS_MIN_VERSION", default_value = "1.3", value_name = "VERSION")]
    pub tls_min_version: String,

    /// Certificate of an authority of your own that agents' certificates are issued by, PEM.
    #[arg(long, env = "SWITCHYARD_HUB_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,

    /// Private key of that authority, PEM.
    #[arg(long, env = "SWITCHYARD_HUB_CA_KEY", value_name = "FILE")]
    pub ca_key: Option<PathBuf>,

    /// A file with 32 bytes in base64, under which the key of the hub's own authority is kept in the database.
    #[arg(long, env = "SWITCHYARD_HUB_CA_SEALING_KEY_FILE", value_name = "FILE")]
    pub ca_sealing_key_file: Option<PathBuf>,

    /// The key itself, from the environment only.
    #[arg(skip)]
    pub ca_sealing_key: Option<Secret>,

    /// Trust domain of agents' certificates: spiffe://DOMAIN/cluster/NAME.
    #[arg(long, env = "SWITCHYARD_HUB_TRUST_DOMAIN", default_value = "switchyard", value_name = "DOMAIN")]
    pub trust_domain: String,

    /// How long agents' certificates live; they are renewed after two thirds of it.
    #[arg(long, env = "SWITCHYARD_HUB_AGENT_CERTIFICATE_TTL", default_value = "168h", value_name = "DURATION")]
    pub agent_certificate_ttl: String,

    /// Who may do what: issuers of tokens and what their users, certificates and clusters are allowed, YAML.
    #[arg(long, env = "SWITCHYARD_HUB_ACCESS_FILE", value_name = "FILE")]
    pub access_file: Option<PathBuf>,

    /// Connections from one source address, over gRPC and the gateway together (an agent has four); 1024, or 4096 with --dev, if left out.
    #[arg(long, env = "SWITCHYARD_HUB_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER")]
    pub connections_per_address: Option<usize>,

    /// Reading calls of one caller: calls per second and burst.
    #[arg(long, env = "SWITCHYARD_HUB_CALLER_READ_RATE", default_value = "50:200", value_name = "RATE:BURST")]
    pub caller_read_rate: String,

    /// Changing calls of one caller: calls per second and burst.
    #[arg(long, env = "SWITCHYARD_HUB_CALLER_CHANGE_RATE", default_value = "10:40", value_name = "RATE:BURST")]
    pub caller_change_rate: String,

    /// What gates of shifts are measured with.
    #[command(flatten)]
    pub analysis: AnalysisArgs,

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

impl Args {
    /// Of this process; ends it when they cannot be read, or help is asked for.
    pub fn of_process() -> Self {
        let matches = Self::command().get_matches();
        let mut args = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        args.database_url_in_arguments = matches.value_source("database_url") == Some(ValueSource::CommandLine);
        args.ca_sealing_key = std::env::var(SEALING_KEY).ok().filter(|key| !key.is_empty()).map(Secret::new);
        args
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Human,
    /// One JSON object per line.
    Json,
}
