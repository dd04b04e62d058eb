//! The way to the hub as a process: TLS with client certificates, broken connections, interrupted waits.

use std::{fs, path::Path, process::Stdio, sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    time::timeout,
};
use tonic::{
    Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use crate::support::{Answer, Beat, Hub, Ran, Script, command, policy, present, queue, weights_answer, yardctl_with};

/// A CA in a folder, with `server.*` and `client.*` signed by it.
fn certificates(folder: &Path) {
    certificates_with(folder, |_| {});
}

/// The same, with certificates that differ.
fn certificates_with(folder: &Path, change: impl Fn(&mut CertificateParams)) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, ca_key).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        change(&mut params);
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

/// A hub that asks for no certificate of clients.
async fn server_tls(folder: &Path, script: Script) -> Hub {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(read("server.pem"), read("server.key")));
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
async fn through_a_tunnel_the_hub_proves_the_name_that_is_given_beside_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let name = "hub.example.com";
    certificates_with(folder.path(), |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
    });
    let hub = server_tls(folder.path(), one_status()).await;
    let ca = format!("--tls-ca {}/ca.pem", folder.path().display());
    for wrong in ["", "--tls-server-name other.example.com"] {
        let ran = hub.yardctl(&format!("{ca} {wrong} status shop/checkout")).await;
        assert_eq!(ran.code, 6, "{ran:?}");
        let (why, remedy) = ran.err.split_once("\nremedy: ").unwrap();
        assert!(why.contains(name) && remedy.contains("--tls-server-name"), "{ran:?}");
        assert!(!ran.err.contains("trying for up to"), "a name stays what it is: {ran:?}");
    }
    let ran = hub.yardctl(&format!("{ca} --tls-server-name {name} status shop/checkout")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = hub.yardctl(&format!("{ca} --tls-server-name https://{name} status shop/checkout")).await;
    assert!(ran.code == 2 && ran.err.contains("without scheme and port"), "{ran:?}");
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_told_from_one_of_another_authority() {
    let folder = tempfile::tempdir().unwrap();
    certificates_with(folder.path(), |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let hub = server_tls(folder.path(), one_status()).await;
    let ran = hub.yardctl(&format!("--tls-ca {}/ca.pem status shop/checkout", folder.path().display())).await;
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("remedy: renew the certificate of the hub"), "{ran:?}");
}

/// What a hub says that takes one connection with these versions of TLS and this protocol in it.
async fn answer_of(version: &'static rustls::SupportedProtocolVersion, protocols: &[&[u8]]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // How it ends is for yardctl to say.
        let _ = acceptor.accept(stream).await;
    });
    let ca = folder.path().join("ca.pem");
    let ran = yardctl_with(&format!("--hub https://{address} --tls-ca {} status a/b", ca.display()), "").await;
    server.await.unwrap();
    ran
}

#[tokio::test]
async fn what_speaks_no_tls_1_3_or_no_http_2_is_not_spoken_to() {
    let old = answer_of(&rustls::version::TLS12, &[b"h2"]).await;
    assert!(old.code == 6 && old.err.contains("yardctl speaks TLS 1.3 only"), "{old:?}");
    for protocols in [&[b"http/1.1".as_slice()][..], &[]] {
        let other = answer_of(&rustls::version::TLS13, protocols).await;
        assert!(other.code == 6 && other.err.contains("names the port of the hub's gRPC"), "{other:?}");
    }
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
