//! The way to the hub as a process: TLS with client certificates, broken connections, interrupted waits.

use std::{fs, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    time::timeout,
};
use tonic::{
    Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use crate::support::{Answer, Beat, Hub, Script, command, policy, present, queue, weights_answer, yardctl_with};

/// A CA in a folder, with `server.*` and `client.*` signed by it.
fn certificates(folder: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, ca_key).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A hub that admits only clients with a certificate of the folder's CA.
async fn mutual_tls(folder: &Path, script: Script) -> Hub {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem"), read("server.key")))
        .client_ca_root(Certificate::from_pem(read("ca.pem")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Hub::serve(script, listener, Server::builder().tls_config(tls).unwrap(), "https")
}

fn one_status() -> Script {
    let answer = switchyard_proto::api::v1::GetPolicyResponse { policy: Some(policy(7, 3)) };
    Script { get: queue([Answer::Ok(answer)]), ..Script::default() }
}

#[tokio::test]
async fn a_client_certificate_of_the_right_ca_is_admitted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let hub = mutual_tls(folder.path(), one_status()).await;
    let at = folder.path().display();
    let tls = format!("--tls-ca {at}/ca.pem --tls-cert {at}/client.pem --tls-key {at}/client.key");
    let ran = hub.yardctl(&format!("{tls} status shop/checkout")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn a_hub_of_another_ca_is_refused_at_once_and_not_tried_again() {
    let (right, wrong) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(right.path());
    certificates(wrong.path());
    let hub = mutual_tls(right.path(), one_status()).await;
    let ran = hub.yardctl(&format!("--tls-ca {}/ca.pem status shop/checkout", wrong.path().display())).await;
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("certificate"), "{ran:?}");
    assert!(!ran.err.contains("trying for up to"), "a wrong certificate stays wrong: {ran:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_not_admitted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let hub = mutual_tls(folder.path(), one_status()).await;
    let line = format!("--tls-ca {}/ca.pem --timeout 2s status shop/checkout", folder.path().display());
    let ran = hub.yardctl(&line).await;
    // In TLS 1.3 the client learns of it only with its first read, and its own write may meet the closed end before.
    let told = ran.err.contains("received fatal alert: CertificateRequired\nremedy: ");
    assert_eq!(ran.code, if told { 9 } else { 6 }, "{ran:?}");
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn half_a_client_certificate_and_unreadable_files_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = folder.path().display();
    for (flags, part) in [
        (format!("--tls-ca {at}/ca.pem --tls-cert {at}/client.pem"), "belong together"),
        (format!("--tls-ca {at}/none.pem"), "none.pem"),
        (String::new(), "--tls-ca FILE"),
    ] {
        let ran = yardctl_with(&format!("--hub https://127.0.0.1:1 {flags} status a/b"), "").await;
        assert_eq!(ran.code, 2, "{flags}: {ran:?}");
        assert!(ran.err.contains(part), "{flags}: {ran:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_made_again_with_the_same_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let line = format!("--hub http://{address} weights shop/checkout blue=1 --request-id r-5");
    let run = tokio::spawn(async move { yardctl_with(&line, "").await });
    // The first connection is cut when something of the call has arrived.
    let (mut first, _) = listener.accept().await.unwrap();
    let mut arrived = [0; 24];
    first.read_exact(&mut arrived).await.unwrap();
    drop(first);
    let script = Script { weights: queue([weights_answer(policy(7, 0))]), ..Script::default() };
    let hub = Hub::serve(script, listener, Server::builder(), "http");
    let ran = run.await.unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hub.seen.weights.lock().unwrap()[0].request_id, "r-5");
}

#[tokio::test]
async fn an_interrupted_wait_says_that_the_state_is_not_known() {
    let script = Script {
        weights: queue([weights_answer(policy(7, 1))]),
        watch: queue([Answer::Ok(vec![present(policy(7, 2)), Beat::Hold])]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let line = format!("--hub {} weights shop/checkout blue=1 --wait converged -o json", hub.url);
    let mut child = command(&line).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let programmed = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Programmed is True") {
                return;
            }
        }
        panic!("stderr ended before the wait was under way");
    };
    timeout(Duration::from_secs(30), programmed).await.expect("the wait gets under way");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(7));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["wait"]["outcome"], "interrupted");
    assert_eq!(json["policy"]["version"], 7);
}

#[tokio::test]
async fn a_change_that_may_not_be_watched_is_shown_as_made() {
    let script = Script {
        weights: queue([weights_answer(policy(7, 1))]),
        watch: queue([Answer::Refuse(Status::permission_denied("writers may not watch"))]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("weights shop/checkout blue=1 --wait converged -o json").await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert_eq!(ran.json()["wait"]["outcome"], "unknown");
    assert!(ran.err.contains("version 7 was accepted, but cannot watch shop/checkout"), "{ran:?}");
}

#[tokio::test]
async fn programs_get_a_failure_as_a_document_too() {
    let script = || Script { get: queue([Answer::Refuse(Status::not_found("none"))]), ..Script::default() };
    let ran = Hub::start(script()).await.yardctl("status shop/none -o json").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert_eq!(ran.json()["error"]["kind"], "not_found");
    assert_eq!(ran.json()["error"]["code"], 4);
    let ran = Hub::start(script()).await.yardctl("status shop/none -o yaml").await;
    assert!(ran.code == 4 && ran.out.contains("kind: not_found"), "{ran:?}");
}
