//! How the ports are guarded, and who may come in: the flags of TLS, of identity and of limits, judged together. Reads no file.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use switchyard_core::access::identity::check_trust_domain;

use super::{HOUR, Report};
use crate::{
    access::rates::{AccessRates, Pace},
    args::Args,
    authority::{Keys, SealedUnder},
    door::{
        CONNECTIONS_PER_ADDRESS, MOST_CONNECTIONS,
        tls::{MinVersion, TlsFiles},
    },
};

/// How the gRPC port and the gateway are guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    Tls(TlsFiles),
    /// Plain text on a loopback address, with `--dev` only.
    PlainLoopback,
}

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How the gRPC port and the gateway are guarded.
    pub transport: Transport,
    /// Connections from one source address.
    pub connections_per_address: usize,
    /// Of agents' certificates.
    pub trust_domain: String,
    /// How long agents' certificates live.
    pub agent_certificate_ttl: Duration,
    /// Where they come from.
    pub authority: Keys,
    /// Who may do what.
    pub access_file: Option<PathBuf>,
    /// How often callers may call.
    pub rates: AccessRates,
}

impl Entry {
    pub(super) fn new(args: &Args, report: &mut Report) -> Self {
        let defaults = AccessRates::default();
        Self {
            transport: transport(args, report),
            connections_per_address: connections(args, report),
            trust_domain: trust_domain(&args.trust_domain, report),
            agent_certificate_ttl: report.duration(
                "--agent-certificate-ttl",
                &args.agent_certificate_ttl,
                Duration::from_secs(15),
                30 * 24 * HOUR,
            ),
            authority: authority(args, report),
            access_file: args.access_file.clone(),
            rates: AccessRates {
                reads: pace("--caller-read-rate", &args.caller_read_rate, report).unwrap_or(defaults.reads),
                changes: pace("--caller-change-rate", &args.caller_change_rate, report).unwrap_or(defaults.changes),
                ..defaults
            },
        }
    }
}

fn connections(args: &Args, report: &mut Report) -> usize {
    // With --dev everybody is on this machine, so there is one source only.
    let default = if args.dev { MOST_CONNECTIONS } else { CONNECTIONS_PER_ADDRESS };
    let Some(given) = args.connections_per_address else { return default };
    if (1..=MOST_CONNECTIONS).contains(&given) {
        return given;
    }
    let problem = format!("is outside 1 to {MOST_CONNECTIONS}");
    report.add("--connections-per-address", &given.to_string(), problem, "use a number within, such as 256");
    default
}

fn trust_domain(name: &str, report: &mut Report) -> String {
    if let Err(problem) = check_trust_domain(name) {
        report.add("--trust-domain", name, problem, "use a name such as switchyard or prod.example.com");
    }
    name.to_owned()
}

fn pace(flag: &'static str, text: &str, report: &mut Report) -> Option<Pace> {
    const REMEDY: &str = "use calls per second (1 to 10000) and a burst (1 to 100000), with a colon, such as 50:200";
    let parsed = text.split_once(':').and_then(|(rate, burst)| {
        let per_second = rate.parse::<NonZeroU32>().ok().filter(|rate| rate.get() <= 10_000)?;
        let burst = burst.parse::<NonZeroU32>().ok().filter(|burst| burst.get() <= 100_000)?;
        Some(Pace { per_second, burst })
    });
    if parsed.is_none() {
        report.add(flag, text, "is not RATE:BURST within the bounds", REMEDY);
    }
    parsed
}

fn authority(args: &Args, report: &mut Report) -> Keys {
    let files = match (&args.ca_cert, &args.ca_key) {
        (Some(cert), Some(key)) => Some(Keys::Files { certificate: cert.clone(), key: key.clone() }),
        (None, None) => None,
        (Some(_), None) => {
            report.add("--ca-key", "", "is missing", "give --ca-cert and --ca-key together");
            return Keys::None;
        }
        (None, Some(_)) => {
            report.add("--ca-cert", "", "is missing", "give --ca-cert and --ca-key together");
            return Keys::None;
        }
    };
    let sealed = match (&args.ca_sealing_key_file, &args.ca_sealing_key) {
        (Some(file), Some(_)) => {
            let remedy = "give one of --ca-sealing-key-file and SWITCHYARD_HUB_CA_SEALING_KEY";
            let file = file.display().to_string();
            report.add("--ca-sealing-key-file", &file, "is given beside the key in the environment", remedy);
            return Keys::None;
        }
        (Some(file), None) => Some(Keys::Own(SealedUnder::File(file.clone()))),
        (None, Some(key)) => Some(Keys::Own(SealedUnder::Key(key.clone()))),
        (None, None) => None,
    };
    match (files, sealed) {
        (Some(_), Some(_)) => {
            let remedy = "give one of them: an authority of your own, or a key under which the hub keeps its own";
            report.add("--ca-cert", "", "is given beside a sealing key", remedy);
            Keys::None
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => {
            if !args.dev {
                report.add(
                    "--ca-sealing-key-file",
                    "",
                    "is missing, and so is --ca-cert: agents could not get a certificate",
                    "give a file with 32 bytes in base64 (openssl rand -base64 32), the same for all replicas; or --ca-cert and --ca-key; \
                     or --dev",
                );
            }
            Keys::None
        }
    }
}

fn transport(args: &Args, report: &mut Report) -> Transport {
    if args.dev {
        let ports: [(&'static str, Option<SocketAddr>); 3] = [
            ("--grpc-listen", Some(args.grpc_listen)),
            ("--gateway-listen", args.gateway_listen),
            ("--http-listen", Some(args.http_listen)),
        ];
        let ports = ports.into_iter().filter_map(|(flag, address)| Some((flag, address?)));
        for (flag, address) in ports.filter(|(_, address)| !address.ip().is_loopback()) {
            report.add(
                flag,
                &address.to_string(),
                "is not a loopback address, and --dev lets everybody in who reaches it",
                "listen on 127.0.0.1, or leave --dev out and give --tls-cert and --tls-key",
            );
        }
    }
    let min_version = match args.tls_min_version.as_str() {
        "1.2" => MinVersion::Tls12,
        "1.3" => MinVersion::Tls13,
        other => {
            let remedy = "use 1.3, or 1.2 for clients that cannot do better";
            report.add("--tls-min-version", other, "is not a version of TLS that is spoken", remedy);
            MinVersion::default()
        }
    };
    match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => {
            let (cert, key, client_ca) = (cert.clone(), key.clone(), args.tls_client_ca.clone());
            return Transport::Tls(TlsFiles { cert, key, client_ca, min_version });
        }
        (None, None) if args.tls_client_ca.is_some() => {
            let remedy = "give --tls-cert and --tls-key, too";
            report.add("--tls-cert", "", "is missing, and so is --tls-key, beside --tls-client-ca", remedy);
        }
        (None, None) if args.dev => {}
        (None, None) => report.add(
            "--tls-cert",
            "",
            "is missing, and so is --tls-key",
            "give both, or --dev for plain text on loopback addresses",
        ),
        (cert, _) => {
            let missing = if cert.is_none() { "--tls-cert" } else { "--tls-key" };
            report.add(missing, "", "is missing", "give --tls-cert and --tls-key together");
        }
    }
    Transport::PlainLoopback
}
