//! The hub as a process: its command, its log line by line, and files for a hub that is not in development mode.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;

/// Longer than a start takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const MANIFEST: &str = r#"{"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"listener": {"loadBalancer": "shared", "port": 80}, "match": {"hostnames": ["a.example.com"]},
             "backend": {"service": {"name": "web", "port": "http"}}, "clusters": [{"name": "blue", "weight": 1}]}}"#;

/// The program with what it cannot do without.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard-hub"));
    // Nothing of the machine's own environment may decide.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--aws-account-id", "123456789012", "--aws-region", "eu-central-1"]);
    command
}

/// A hub that runs.
pub struct Hub {
    pub child: Child,
    log: Receiver<Value>,
    /// Lines that nobody has asked for yet.
    passed: RefCell<Vec<Value>>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Also when the test failed half way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it with all its ports on free ones, and nothing at AWS's address.
pub fn start(mut command: Command) -> Hub {
    command.args(["--log-format", "json", "--aws-endpoint-url", "http://127.0.0.1:9"]);
    for door in ["--grpc-listen", "--http-listen", "--gateway-listen"] {
        command.args([door, "127.0.0.1:0"]);
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
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
    Hub { child, log, passed: RefCell::default() }
}

/// A hub in development mode, with a private Postgres in this folder.
pub fn start_dev(folder: &Path) -> Hub {
    let mut command = command();
    command.args(["--dev", "--data-dir"]).arg(folder);
    start(command)
}

impl Hub {
    /// A line of the log that says this, whatever else was said before or after; each line is given once.
    pub fn line(&self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let says = |line: &Value| line["message"].as_str().is_some_and(|found| found.contains(message));
        let mut passed = self.passed.borrow_mut();
        if let Some(at) = passed.iter().position(says) {
            return passed.remove(at);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.recv_timeout(left) else { panic!("the log never said {message:?}: {passed:#?}") };
            if says(&line) {
                return line;
            }
            passed.push(line);
        }
    }

    /// All lines to the end of the log that were not given yet.
    pub fn rest(&self) -> Vec<Value> {
        self.passed.take().into_iter().chain(self.log.iter()).collect()
    }

    /// The address in the next line that says this.
    pub fn address(&self, message: &str) -> SocketAddr {
        self.line(message)["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn terminate(&mut self) -> ExitStatus {
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
}

/// A folder with what a hub needs that is not in development mode: `server.*`, `ours.*` whose certificate the access file knows, and
/// `foreign.*`; each with `.ca`, `.cert` and `.key`.
pub struct Strict {
    folder: tempfile::TempDir,
}

impl Strict {
    pub fn new(database_url: &str) -> Self {
        let strict = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["server", "ours", "foreign"] {
            certificates(strict.folder.path(), name);
        }
        strict.write("sealing.key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        strict.write("database.url", database_url);
        strict.bind("admin", false);
        strict
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// As a whole: a reader sees the old one or the new one.
    pub fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path(name)).unwrap();
    }

    /// What the certificate of `ours` may do, in namespace shop.
    pub fn bind(&self, role: &str, overrides: bool) {
        let text = format!(
            "bindings:\n- role: {role}\n  namespaces: [shop]\n  clusters: [\"*\"]\n  overrides: {overrides}\n  \
             subjects: [{{certificate: {{commonName: ours}}}}]\n"
        );
        self.write("access.yaml", &text);
    }

    /// The program with all of it.
    pub fn command(&self) -> Command {
        let mut command = command();
        let flags = [
            ("--tls-cert", "server.cert"),
            ("--tls-key", "server.key"),
            ("--tls-client-ca", "ours.ca"),
            ("--ca-sealing-key-file", "sealing.key"),
            ("--access-file", "access.yaml"),
            ("--database-url-file", "database.url"),
        ];
        for (flag, file) in flags {
            command.arg(flag).arg(self.path(file));
        }
        command
    }
}

/// An authority, and a certificate of it for 127.0.0.1, as PEM files.
fn certificates(folder: &Path, name: &str) {
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
}
