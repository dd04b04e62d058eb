//! The hub as a process: starts, answers, stops on a signal with exit code 0, refuses bad settings with a remedy.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use switchyard_proto::api::v1::{
    self as api, policy_service_client::PolicyServiceClient, shift_service_client::ShiftServiceClient,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard-hub"));
    // Nothing of the machine's own environment may decide.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--aws-account-id", "123456789012", "--aws-region", "eu-central-1"]);
    command
}

struct Hub {
    child: Child,
    log: Receiver<Value>,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Also when the test failed half way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hub with a private Postgres in this folder and nothing at AWS's address.
fn start(folder: &Path) -> Hub {
    start_with(folder, &[])
}

fn start_with(folder: &Path, more: &[String]) -> Hub {
    let mut command = command();
    command.args(more);
    command
        .args(["--dev", "--data-dir"])
        .arg(folder)
        .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"])
        .args(["--aws-endpoint-url", "http://127.0.0.1:9"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let http = address(&log, "health and metrics are served over HTTP");
    let grpc = address(&log, "gRPC is served");
    Hub { child, log, http, grpc }
}

/// Waits for the log line, and gives its address.
fn address(log: &Receiver<Value>, message: &str) -> SocketAddr {
    line(log, message)["address"].as_str().unwrap().parse().unwrap()
}

fn line(log: &Receiver<Value>, message: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = log.recv_timeout(left).unwrap_or_else(|_| panic!("the log never said {message:?}"));
        if line["message"].as_str().is_some_and(|found| found.contains(message)) {
            return line;
        }
    }
}

impl Hub {
    fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the hub did not end within 10 s");
            thread::sleep(Duration::from_millis(20));
        }
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn policies(&self) -> PolicyServiceClient<tonic::transport::Channel> {
        PolicyServiceClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }
}

const MANIFEST: &str = r#"{"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"listener": {"loadBalancer": "shared", "port": 80}, "match": {"hostnames": ["a.example.com"]},
             "backend": {"service": {"name": "web", "port": "http"}}, "clusters": [{"name": "blue", "weight": 1}]}}"#;

#[tokio::test]
async fn a_hub_starts_answers_stops_on_a_signal_and_keeps_what_it_was_told() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let mut hub = start(folder.path());
    line(&hub.log, "the store is read");
    assert!(hub.get("/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = hub.get("/readyz").await;
    assert!(ready.contains("200") && ready.contains("the store answers"), "{ready}");
    let mut policies = hub.policies().await;
    let request = api::ApplyPolicyRequest {
        request_id: "1".to_owned(),
        manifest: MANIFEST.to_owned(),
        ..api::ApplyPolicyRequest::default()
    };
    let first = policies.apply_policy(request.clone()).await.unwrap().into_inner();
    let watch = policies.watch_policies(api::WatchPoliciesRequest::default()).await.unwrap();
    let metrics = hub.get("/metrics").await;
    assert!(
        metrics.contains(r#"switchyard_hub_grpc_calls_total{operation="ApplyPolicy",outcome="ok"} 1"#),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"switchyard_hub_store_queries_total{operation="policy_insert",outcome="ok"} 1"#),
        "{metrics}"
    );
    let status = hub.terminate();
    assert!(status.success(), "{status}");
    let end = watch.into_inner().message().await;
    assert!(end.is_ok(), "the first event was under way: {end:?}");

    // Nothing of it is left running, and everything is there again.
    let mut hub = start(folder.path());
    line(&hub.log, "the store is read");
    let again = hub.policies().await.apply_policy(request).await.unwrap().into_inner();
    assert_eq!(again.policy.unwrap().uid, first.policy.unwrap().uid);
    assert!(hub.terminate().success());
}

/// An authority, and a certificate of it for 127.0.0.1, as PEM files.
fn certificates(folder: &Path, name: &str) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    for (file, text) in [("ca", authority.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())] {
        fs::write(folder.join(format!("{name}.{file}")), text).unwrap();
    }
}

#[tokio::test]
async fn with_tls_only_certificates_of_the_right_authority_get_in_and_are_named_in_the_audit_log() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path(), "ours");
    certificates(files.path(), "foreign");
    let file = |name: &str| files.path().join(name);
    let flags = [("--tls-cert", "ours.cert"), ("--tls-key", "ours.key"), ("--tls-client-ca", "ours.ca")];
    let flags: Vec<String> =
        flags.iter().flat_map(|(flag, name)| [(*flag).to_owned(), file(name).display().to_string()]).collect();
    let mut hub = start_with(folder.path(), &flags);
    line(&hub.log, "the store is read");
    let read = |name: &str| fs::read(file(name)).unwrap();
    let base = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ours.ca")));
    let with =
        |name: &str| base().identity(Identity::from_pem(read(&format!("{name}.cert")), read(&format!("{name}.key"))));
    let request = api::ApplyPolicyRequest {
        request_id: "1".to_owned(),
        manifest: MANIFEST.to_owned(),
        ..api::ApplyPolicyRequest::default()
    };
    let url = format!("https://{}", hub.grpc);
    let call = async |tls: ClientTlsConfig| {
        let channel = Channel::from_shared(url.clone()).unwrap().tls_config(tls).unwrap().connect_lazy();
        PolicyServiceClient::new(channel).apply_policy(request.clone()).await
    };
    for tls in [base(), with("foreign")] {
        assert!(call(tls).await.is_err());
    }
    let plain = Channel::from_shared(format!("http://{}", hub.grpc)).unwrap().connect_lazy();
    assert!(PolicyServiceClient::new(plain).apply_policy(request.clone()).await.is_err());
    call(with("ours")).await.unwrap();
    let applied = line(&hub.log, "a policy was applied");
    let actor = applied["actor"].as_str().unwrap();
    assert!(actor.starts_with("certificate sha256:") && actor.ends_with(" from 127.0.0.1"), "{actor}");
    assert!(hub.terminate().success());
}

#[tokio::test]
async fn the_right_to_override_safety_rules_goes_with_a_certificate_that_a_flag_names() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path(), "ours");
    let file = |name: &str| files.path().join(name).display().to_string();
    let flags = |callers: &str| -> Vec<String> {
        let tls = [("--tls-cert", "ours.cert"), ("--tls-key", "ours.key"), ("--tls-client-ca", "ours.ca")];
        let mut flags: Vec<String> = tls.iter().flat_map(|(flag, name)| [(*flag).to_owned(), file(name)]).collect();
        flags.extend(["--override-callers".to_owned(), callers.to_owned()]);
        flags
    };
    let channel = |hub: &Hub| {
        let read = |name: &str| fs::read(file(name)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ours.ca")))
            .identity(Identity::from_pem(read("ours.cert"), read("ours.key")));
        Channel::from_shared(format!("https://{}", hub.grpc)).unwrap().tls_config(tls).unwrap().connect_lazy()
    };
    let policy = api::PolicyRef { namespace: "shop".to_owned(), name: "web".to_owned() };
    let target = api::ShiftPolicy { policy: Some(policy), to_cluster: "green".to_owned(), ..Default::default() };
    let request = api::CreateShiftRequest {
        request_id: "flip".to_owned(),
        spec: Some(api::ShiftSpec {
            policies: vec![target],
            overrides: vec!["MaxStepPercent".to_owned()],
            reason: "blue burns".to_owned(),
            ..Default::default()
        }),
        dry_run: false,
    };

    let mut hub = start_with(folder.path(), &flags("cluster:nowhere"));
    line(&hub.log, "the store is read");
    let manifest = MANIFEST
        .replace(r#""weight": 1}"#, r#""weight": 100}, {"name": "green", "weight": 0}"#)
        .replace(r#""clusters""#, r#""safety": {"maxStepPercent": 50}, "clusters""#);
    let apply = api::ApplyPolicyRequest { request_id: "1".to_owned(), manifest, ..Default::default() };
    PolicyServiceClient::new(channel(&hub)).apply_policy(apply).await.unwrap();
    let denied = ShiftServiceClient::new(channel(&hub)).create_shift(request.clone()).await.unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
    let identity = denied.message().split_once(' ').unwrap().0.to_owned();
    assert!(
        identity.starts_with("sha256:") && denied.message().ends_with(&format!("add {identity} there")),
        "{denied:?}"
    );
    assert!(hub.terminate().success());

    let mut hub = start_with(folder.path(), &flags(&identity));
    line(&hub.log, "the store is read");
    ShiftServiceClient::new(channel(&hub)).create_shift(request).await.unwrap();
    assert!(hub.terminate().success());
}

fn refused(arguments: &[&str]) -> Output {
    let output = command().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

#[test]
fn settings_that_are_not_secure_or_not_usable_are_refused_with_a_remedy() {
    let cases: [(&[&str], &str); 4] = [
        (&["--database-url", "postgres://localhost/x"], "--tls-cert"),
        (&["--dev", "--data-dir", "x", "--grpc-listen", "0.0.0.0:7400"], "listen on 127.0.0.1"),
        (&["--dev", "--data-dir", "x", "--lease-ttl", "soon"], "--lease-ttl \"soon\" is not a duration"),
        (&["--dev", "--data-dir", "x", "--log-level", "a=b=c"], "--log-level \"a=b=c\" is not a filter"),
    ];
    for (arguments, expected) in cases {
        let output = refused(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_hub_that_waits_for_its_database_says_so_and_stops_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("postgres://nobody@localhost/x?host={}", folder.path().display());
    let mut child = command()
        .args(["--dev", "--database-url", &nobody, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
        .args(["--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("the database does not answer yet")));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    // Reads to the end of the log, which comes with the end of the process.
    assert!(lines.any(|line| line.contains("the hub has stopped")));
    assert!(child.wait().unwrap().success());
}
