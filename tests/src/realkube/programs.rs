//! How etcd, kube-apiserver and kube-controller-manager are started for a test: light, on one loopback address, as secure as a
//! real cluster (TLS, RBAC), and with nothing on a disk that has to survive.

use std::{net::Ipv4Addr, path::Path, process::Command};

use super::{certificates::Certificates, tools};

/// Where the server listens. The address is this server's alone, so any number does.
pub const SERVER_PORT: u16 = 6_443;
/// Where etcd listens.
pub const ETCD_PORT: u16 = 2_379;
const ETCD_PEERS_PORT: u16 = 2_380;

/// What the controllers of a test have to do; all others would only use up time. Names as kube-controller-manager has them.
const CONTROLLERS: [&str; 9] = [
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "job-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "disruption-controller",
];

/// etcd with its data in a folder.
///
/// # Errors
/// When the program is not there, as with all functions here.
pub fn etcd(ip: Ipv4Addr, data: &Path) -> anyhow::Result<Command> {
    let clients = format!("http://{ip}:{ETCD_PORT}");
    let peers = format!("http://{ip}:{ETCD_PEERS_PORT}");
    let mut command = Command::new(tools::find("etcd")?);
    command.arg(format!("--data-dir={}", data.display()));
    command.arg(format!("--listen-client-urls={clients}")).arg(format!("--advertise-client-urls={clients}"));
    command.arg(format!("--listen-peer-urls={peers}")).arg(format!("--initial-advertise-peer-urls={peers}"));
    command.arg(format!("--initial-cluster=default={peers}"));
    // Nothing has to survive the loss of power.
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    Ok(command)
}

/// kube-apiserver as a member of production would run it, as far as a test can tell.
///
/// # Errors
/// When the program is not there.
pub fn apiserver(ip: Ipv4Addr, certificates: &Certificates, with_controllers: bool) -> anyhow::Result<Command> {
    let url = server_url(ip);
    let file = |path: &Path| path.display().to_string();
    let arguments = [
        ("--etcd-servers", format!("http://{ip}:{ETCD_PORT}")),
        ("--bind-address", ip.to_string()),
        ("--advertise-address", ip.to_string()),
        ("--secure-port", SERVER_PORT.to_string()),
        // The addresses of the Service `kubernetes` may not be loopback addresses.
        ("--endpoint-reconciler-type", "none".to_owned()),
        ("--tls-cert-file", file(&certificates.server.certificate)),
        ("--tls-private-key-file", file(&certificates.server.key)),
        ("--client-ca-file", file(&certificates.authority)),
        ("--authorization-mode", "RBAC".to_owned()),
        ("--service-account-issuer", url),
        ("--service-account-key-file", file(&certificates.service_accounts_public)),
        ("--service-account-signing-key-file", file(&certificates.service_accounts)),
        ("--service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("--profiling", "false".to_owned()),
    ];
    let mut command = Command::new(tools::find("kube-apiserver")?);
    command.args(arguments.iter().map(|(flag, value)| format!("{flag}={value}")));
    // A fifth of its processor time in a test goes into collecting garbage when it may take no more memory than usual: 4.8 s
    // instead of 6.1 s for a pair of servers that start and see one rollout.
    command.env("GOGC", "400");
    if !with_controllers {
        // It refuses pods until the controllers have made the namespace's default service account.
        command.arg("--disable-admission-plugins=ServiceAccount");
    }
    Ok(command)
}

/// kube-controller-manager with the few controllers that matter.
///
/// # Errors
/// When the program is not there.
pub fn controllers(kubeconfig: &Path, certificates: &Certificates) -> anyhow::Result<Command> {
    let file = |path: &Path| path.display().to_string();
    let arguments = [
        ("--kubeconfig", file(kubeconfig)),
        ("--controllers", CONTROLLERS.join(",")),
        ("--service-account-private-key-file", file(&certificates.service_accounts)),
        ("--root-ca-file", file(&certificates.authority)),
        ("--leader-elect", "false".to_owned()),
        // It serves nobody: no port.
        ("--secure-port", "0".to_owned()),
        // The default of 20 requests a second makes waiting of what is done in a moment.
        ("--kube-api-qps", "300".to_owned()),
        ("--kube-api-burst", "600".to_owned()),
        ("--profiling", "false".to_owned()),
    ];
    let mut command = Command::new(tools::find("kube-controller-manager")?);
    command.args(arguments.iter().map(|(flag, value)| format!("{flag}={value}")));
    Ok(command)
}

/// Where a server at this address is reached.
pub fn server_url(ip: Ipv4Addr) -> String {
    format!("https://{ip}:{SERVER_PORT}")
}
