//! The gateway of the hub as a process, with TLS: who gets in, and that the caller's certificate reaches the audit log as it does over
//! gRPC. curl calls it with the file that `docs/http.md` shows, so curl has to be there.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Hub {
    child: Child,
    log: Receiver<Value>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Also when the test failed half way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard-hub"));
    // Nothing of the machine's own environment may decide.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--aws-account-id", "123456789012", "--aws-region", "eu-central-1"]);
    command.args(["--dev", "--data-dir"]);
    command
}

fn start(data: &Path, files: &Path) -> Hub {
    let mut command = command();
    command.arg(data).args(["--log-format", "json", "--aws-endpoint-url", "http://127.0.0.1:9"]);
    for door in ["--grpc-listen", "--http-listen", "--gateway-listen"] {
        command.args([door, "127.0.0.1:0"]);
    }
    for (flag, file) in [("--tls-cert", "ours.cert"), ("--tls-key", "ours.key"), ("--tls-client-ca", "ours.ca")] {
        command.arg(flag).arg(files.join(file));
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                return;
            }
        }
    });
    Hub { child, log }
}

impl Hub {
    fn line(&self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("the log never said {message:?}"));
            if line["message"].as_str().is_some_and(|found| found.contains(message)) {
                return line;
            }
        }
    }
}

/// An authority, and a certificate of it for 127.0.0.1, as PEM files; the SHA-256 of the certificate.
fn certificates(folder: &Path, name: &str) -> String {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With one name for both, OpenSSL takes the certificate for its own issuer.
    params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &authority).unwrap();
    for (file, text) in [("ca", authority.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())] {
        fs::write(folder.join(format!("{name}.{file}")), text).unwrap();
    }
    Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file `hub.curl` of the page.
fn documented() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
    let text = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> = text.split("```").collect();
    let found = blocks.iter().find(|block| block.starts_with("text\n") && block.contains("cacert"));
    found.expect("the file hub.curl in docs/http.md").trim_start_matches("text\n").to_owned()
}

fn curl(files: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.current_dir(files).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--disable", "--max-time", "30"]).args(arguments);
    command.output().expect("curl is installed")
}

const MANIFEST: &str = r#"{"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"listener": {"loadBalancer": "shared", "port": 80}, "match": {"hostnames": ["a.example.com"]},
             "backend": {"service": {"name": "web", "port": "http"}}, "clusters": [{"name": "blue", "weight": 1}]}}"#;

#[test]
fn with_tls_only_certificates_of_the_right_authority_get_in_and_are_named_in_the_audit_log() {
    let data = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let fingerprint = certificates(files, "ours");
    certificates(files, "foreign");
    for (ours, named) in [("ours.cert", "ci.crt"), ("ours.key", "ci.key"), ("ours.ca", "hub-ca.crt")] {
        fs::copy(files.join(ours), files.join(named)).unwrap();
    }
    fs::write(files.join("hub.curl"), documented()).unwrap();
    let hub = start(data.path(), files);
    let served = hub.line("the API is served as JSON");
    assert_eq!(served["encrypted"], true, "{served}");
    let address: SocketAddr = served["address"].as_str().unwrap().parse().unwrap();
    hub.line("the store is read");
    let url = format!("https://{address}/v1/policies");

    let authority = ["--cacert", "ours.ca", url.as_str()];
    let foreign = ["--cert", "foreign.cert", "--key", "foreign.key"];
    let plain = format!("http://{address}/v1/policies");
    for arguments in [&authority[..], &[&foreign[..], &authority[..]].concat(), &[plain.as_str()]] {
        let output = curl(files, arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }

    let body = json!({"requestId": "1", "manifest": MANIFEST}).to_string();
    let apply = format!("{url}:apply");
    let output = curl(files, &["--config", "hub.curl", "--data", &body, &apply]);
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outcome"], "APPLY_OUTCOME_CREATED", "{answer}");
    let actor = hub.line("a policy was applied")["actor"].as_str().unwrap().to_owned();
    assert_eq!(actor, format!("certificate sha256:{} from 127.0.0.1", &fingerprint[..16]));

    let missing = curl(files, &["--config", "hub.curl", &format!("https://{address}/v1/namespaces/shop/policies/x")]);
    assert_eq!(missing.status.code(), Some(22), "the hub's no is an exit code of its own: {missing:?}");
    let refusal: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(refusal["code"], "NOT_FOUND", "{refusal}");
}

#[test]
fn certificates_that_cannot_be_used_stop_the_hub_at_its_start() {
    let data = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path(), "ours");
    fs::write(files.path().join("ours.key"), "not a key").unwrap();
    let mut hub = start(data.path(), files.path());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = hub.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the hub runs on");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    let said: Vec<String> = hub.log.iter().map(|line| line.to_string()).collect();
    assert!(said.iter().any(|line| line.contains("--tls-key")), "{said:#?}");
}
