//! The hub as a process: starts, answers, stops on a signal with exit code 0, refuses bad settings with a remedy; and what changes
//! without a restart.

mod process_support;
mod store_support;

use std::{net::SocketAddr, process::Output};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use process_support::{Hub, MANIFEST, Strict, command, start, start_dev};
use switchyard_proto::api::v1::{
    self as api, policy_service_client::PolicyServiceClient, shift_service_client::ShiftServiceClient,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

async fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn policies(at: SocketAddr) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::connect(format!("http://{at}")).await.unwrap()
}

fn apply() -> api::ApplyPolicyRequest {
    api::ApplyPolicyRequest { request_id: "1".to_owned(), manifest: MANIFEST.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_hub_starts_answers_stops_on_a_signal_and_keeps_what_it_was_told() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let mut hub = start_dev(folder.path());
    let http = hub.address("health and metrics are served over HTTP");
    let grpc = hub.address("gRPC is served");
    hub.line("the store is read");
    let alive = get(http, "/healthz").await;
    assert!(alive.starts_with("HTTP/1.1 200") && alive.contains("x-content-type-options: nosniff"), "{alive}");
    let ready = get(http, "/readyz").await;
    assert!(ready.contains("200") && ready.contains("the store answers"), "{ready}");
    let mut client = policies(grpc).await;
    let first = client.apply_policy(apply()).await.unwrap().into_inner();
    let watch = client.watch_policies(api::WatchPoliciesRequest::default()).await.unwrap();
    let metrics = get(http, "/metrics").await;
    for line in [
        r#"switchyard_hub_grpc_calls_total{operation="ApplyPolicy",outcome="ok"} 1"#,
        r#"switchyard_hub_store_queries_total{operation="policy_insert",outcome="ok"} 1"#,
        r#"switchyard_hub_door_connections{port="grpc"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = hub.terminate();
    assert!(status.success(), "{status}");
    let end = watch.into_inner().message().await;
    assert!(end.is_ok(), "the first event was under way: {end:?}");

    // Nothing of it is left running, and everything is there again.
    let mut hub = start_dev(folder.path());
    let grpc = hub.address("gRPC is served");
    hub.line("the store is read");
    let again = policies(grpc).await.apply_policy(apply()).await.unwrap().into_inner();
    assert_eq!(again.policy.unwrap().uid, first.policy.unwrap().uid);
    assert!(hub.terminate().success());
}

/// A client that trusts the hub and shows this certificate, if any.
fn channel(strict: &Strict, at: SocketAddr, shows: Option<&str>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(strict.read("server.ca")));
    if let Some(name) = shows {
        let identity = Identity::from_pem(strict.read(&format!("{name}.cert")), strict.read(&format!("{name}.key")));
        tls = tls.identity(identity);
    }
    Channel::from_shared(format!("https://{at}")).unwrap().tls_config(tls).unwrap().connect_lazy()
}

#[tokio::test]
async fn only_those_get_in_whom_the_access_file_knows_and_the_audit_log_names_them() {
    let strict = Strict::new(&store_support::database_url().await);
    let mut hub = start(strict.command());
    let grpc = hub.address("gRPC is served");
    hub.line("the store is read");
    let call = async |shows| PolicyServiceClient::new(channel(&strict, grpc, shows)).apply_policy(apply()).await;
    assert_eq!(call(None).await.unwrap_err().code(), Code::Unauthenticated);
    let foreign = call(Some("foreign")).await.unwrap_err();
    assert!(![Code::Ok, Code::Unauthenticated].contains(&foreign.code()), "the handshake fails: {foreign:?}");
    let plain = Channel::from_shared(format!("http://{grpc}")).unwrap().connect_lazy();
    assert!(PolicyServiceClient::new(plain).apply_policy(apply()).await.is_err());
    call(Some("ours")).await.unwrap();
    let actor = hub.line("a policy was applied")["actor"].as_str().unwrap().to_owned();
    assert!(actor.starts_with("certificate:CN=ours (sha256:"), "{actor}");
    assert!(hub.terminate().success());
}

#[tokio::test]
async fn rights_change_with_the_access_file_and_without_a_restart() {
    let strict = Strict::new(&store_support::database_url().await);
    let mut hub = start(strict.command());
    let grpc = hub.address("gRPC is served");
    hub.line("the store is read");
    let channel = channel(&strict, grpc, Some("ours"));
    let manifest = MANIFEST
        .replace(r#""weight": 1}"#, r#""weight": 100}, {"name": "green", "weight": 0}"#)
        .replace(r#""clusters""#, r#""safety": {"maxStepPercent": 50}, "clusters""#);
    let apply = api::ApplyPolicyRequest { request_id: "1".to_owned(), manifest, ..Default::default() };
    PolicyServiceClient::new(channel.clone()).apply_policy(apply).await.unwrap();
    let policy = api::PolicyRef { namespace: "shop".to_owned(), name: "web".to_owned() };
    let target = api::ShiftPolicy { policy: Some(policy), to_cluster: "green".to_owned(), ..Default::default() };
    let spec = api::ShiftSpec {
        policies: vec![target],
        overrides: vec!["MaxStepPercent".to_owned()],
        reason: "blue burns".to_owned(),
        ..Default::default()
    };
    let request = api::CreateShiftRequest { request_id: "flip".to_owned(), spec: Some(spec), dry_run: false };
    let mut shifts = ShiftServiceClient::new(channel);
    let denied = shifts.create_shift(request.clone()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains("overrides"), "{denied:?}");
    strict.bind("admin", true);
    hub.line("the access file has changed and is in force");
    shifts.create_shift(request).await.unwrap();
    assert!(hub.terminate().success());
}

#[tokio::test]
async fn the_url_of_the_database_and_the_certificates_are_read_again_and_faults_are_told_once() {
    let url = store_support::database_url().await;
    let strict = Strict::new(&url);
    let mut hub = start(strict.command());
    let grpc = hub.address("gRPC is served");
    hub.line("the store is read");
    strict.write("database.url", "mysql://secret@elsewhere/x");
    let fault = hub.line("the changed URL of the database cannot be used");
    assert!(fault["error"].as_str().unwrap().contains("--database-url-file"), "{fault}");
    assert!(!fault.to_string().contains("secret"), "{fault}");
    let joint = if url.contains('?') { '&' } else { '?' };
    strict.write("database.url", &format!("{url}{joint}application_name=rotated\n"));
    hub.line("the URL of the database has changed");
    strict.write("server.key", "rubbish");
    let fault = hub.line("the changed certificates of the ports cannot be used");
    assert!(fault["error"].as_str().unwrap().contains("--tls-key"), "{fault}");
    let client = PolicyServiceClient::new(channel(&strict, grpc, Some("ours")));
    client.clone().apply_policy(apply()).await.unwrap();
    assert!(hub.terminate().success());
    let mut after = hub.rest();
    after.retain(|line| line["message"].as_str().is_some_and(|message| message.contains("cannot be used")));
    assert!(after.is_empty(), "{after:?}");
}

fn refused(arguments: &[&str]) -> Output {
    let output = command().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

#[test]
fn settings_that_are_not_secure_or_not_usable_are_refused_with_a_remedy() {
    let cases: [(&[&str], &str); 8] = [
        (&["--database-url", "postgres://localhost/x"], "--tls-cert"),
        (&["--database-url", "postgres://localhost/x"], "--ca-sealing-key-file"),
        (&["--database-url", "postgres://u:p@db/x"], "has a password on the command line"),
        (&["--database-url", "postgres://db/x?sslmode=prefer"], "use sslmode=verify-full"),
        (&["--dev", "--data-dir", "x", "--grpc-listen", "0.0.0.0:7400"], "listen on 127.0.0.1"),
        (&["--dev", "--data-dir", "x", "--http-listen", "0.0.0.0:7401"], "listen on 127.0.0.1"),
        (&["--dev", "--data-dir", "x", "--lease-ttl", "soon"], "--lease-ttl \"soon\" is not a duration"),
        (&["--dev", "--data-dir", "x", "--log-level", "a=b=c"], "--log-level \"a=b=c\" is not a filter"),
    ];
    for (arguments, expected) in cases {
        let output = refused(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains(":p@"), "{text}");
    }
}

#[test]
fn a_hub_that_waits_for_its_database_says_so_and_stops_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("postgres://nobody@localhost/x?host={}", folder.path().display());
    let mut command = command();
    command.args(["--dev", "--database-url", &nobody]);
    let mut hub: Hub = start(command);
    hub.line("the database does not answer yet");
    kill(Pid::from_raw(i32::try_from(hub.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    hub.line("the hub has stopped");
    assert!(hub.child.wait().unwrap().success());
}
