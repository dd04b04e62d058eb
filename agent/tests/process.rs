//! The agent as a process: what it refuses, what its probes say without any server around it, and how it ends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard-agent"));
    command.env_clear().args(["--cluster=blue", "--region=eu-central-1", "--vpc-id=vpc-1"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = agent(arguments).output().expect("the agent starts");
    assert!(!status.success(), "{arguments:?} was not refused");
    String::from_utf8(stderr).expect("text")
}

/// An address where nobody listens.
fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address")
}

fn kubeconfig(server: SocketAddr) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    file.write_all(text.as_bytes()).expect("the file can be written");
    file
}

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and that is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Reads its JSON log until a line has the message; gives that line.
    fn log_line(log: &mut impl BufRead, message: &str) -> serde_json::Value {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("the log can be read");
            assert!(read > 0, "the log ended without {message:?}:\n{seen}");
            seen.push_str(&line);
            let entry: serde_json::Value = serde_json::from_str(&line).expect("every line is JSON");
            if entry["message"] == message {
                return entry;
            }
        }
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the agent listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer)
}

#[test]
fn arguments_that_cannot_be_right_are_refused_with_the_remedy() {
    let hub = "--hub=http://127.0.0.1:1";
    assert!(refusal(&[hub]).contains("is plain text; use https://"), "{}", refusal(&[hub]));
    let elsewhere = refusal(&["--hub=http://192.0.2.1:7400", "--dev"]);
    assert!(elsewhere.contains("is plain text to another machine"), "{elsewhere}");
    let nobody = refusal(&["--hub=https://127.0.0.1:1", "--tls-ca=/no/such/file"]);
    assert!(nobody.contains("no way to prove who it is; give --join-token-file"), "{nobody}");
    let files = ["--hub=https://127.0.0.1:1", "--tls-cert=/no/a", "--tls-key=/no/b", "--tls-ca=/no/ca"];
    assert!(refusal(&files).contains("--tls-cert /no/a cannot be read"), "{}", refusal(&files));
    let missing = refusal(&[hub, "--dev", "--kubeconfig=/no/such/file"]);
    assert!(missing.contains("cannot read the kubeconfig /no/such/file"), "{missing}");
    let filter = refusal(&[hub, "--dev", "--log-level=no=such=level"]);
    assert!(filter.contains("is not a filter; use one such as info"), "{filter}");
    let file = kubeconfig(closed());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = format!("--http-listen={}", taken.local_addr().expect("an address"));
    let config = format!("--kubeconfig={}", file.path().display());
    let address = refusal(&[hub, "--dev", &config, &listen]);
    assert!(address.contains("cannot be served; choose a free address"), "{address}");
}

#[test]
fn without_hub_and_api_server_it_is_alive_and_ready_and_ends_when_asked() {
    let file = kubeconfig(closed());
    let config = format!("--kubeconfig={}", file.path().display());
    let hub = format!("--hub=http://{}", closed());
    let arguments = [&hub, "--dev", &config, "--http-listen=127.0.0.1:0", "--log-format=json"];
    let mut running = Running(agent(&arguments).spawn().expect("the agent starts"));
    let mut log = BufReader::new(running.0.stderr.take().expect("its log"));

    let start = Running::log_line(&mut log, "The agent starts");
    assert_eq!(start["cluster"], "blue");
    let address: SocketAddr = start["http_address"].as_str().expect("an address").parse().expect("an address");
    let offline = Running::log_line(&mut log, "There is no stream to the hub; it is tried again until there is");
    assert!(offline["reason"].as_str().is_some_and(|reason| reason.contains("Connection refused")), "{offline}");
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/readyz").0, 200);
    let (status, metrics) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("switchyard_agent_stage{stage=\"offline\"} 1"), "{metrics}");

    let pid = Pid::from_raw(running.0.id().try_into().expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("the signal arrives");
    let asked = Instant::now();
    let ended = Running::log_line(&mut log, "The agent stops");
    assert_eq!(ended["signal"], "SIGTERM");
    assert!(running.0.wait().expect("it ends").success());
    assert!(asked.elapsed() < Duration::from_secs(6), "it took {:?}", asked.elapsed());
}

/// A join token, and its part that nobody may see.
const TOKEN: &str = "syj_abcdefghij23_Zm9vYmFyX2Jhei1xdXV4X3NlY3JldF9zZWNyZXRfMTI";
const SECRET: &str = "Zm9vYmFyX2Jhei1xdXV4";

#[test]
fn neither_a_token_nor_a_key_is_in_the_most_verbose_log_and_the_agent_is_unready_without_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, identity) = (folder.path().join("ca.pem"), folder.path().join("identity"));
    let authority = rcgen::generate_simple_self_signed(["hub".to_owned()]).expect("a certificate");
    std::fs::write(&ca, authority.cert.pem()).expect("a file");
    let file = kubeconfig(closed());
    let arguments = [
        format!("--hub=https://{}", closed()),
        format!("--kubeconfig={}", file.path().display()),
        format!("--tls-ca={}", ca.display()),
        format!("--identity-dir={}", identity.display()),
    ];
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--http-listen=127.0.0.1:0", "--log-format=json", "--log-level=trace"]);
    let mut command = agent(&arguments);
    command.env("SWITCHYARD_AGENT_JOIN_TOKEN", TOKEN);
    let mut running = Running(command.spawn().expect("the agent starts"));
    let mut log = BufReader::new(running.0.stderr.take().expect("its log"));

    let start = Running::log_line(&mut log, "The agent starts");
    let address: SocketAddr = start["http_address"].as_str().expect("an address").parse().expect("an address");
    let mut seen = start.to_string();
    while !seen.contains("This agent cannot prove to the hub who it is") {
        let read = log.read_line(&mut seen).expect("the log can be read");
        assert!(read > 0, "the log ended: {seen}");
    }
    let (status, answer) = get(address, "/readyz");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("identity: the hub has issued no certificate yet: the hub cannot be reached"), "{answer}");
    let metrics = get(address, "/metrics").1;
    assert!(metrics.contains("certificate_requests_total{outcome=\"failed\"}"), "{metrics}");
    let kept =
        std::fs::read_to_string(identity.join("identity.json")).expect("the key is kept before the hub hears of it");
    assert!(
        kept.contains("PRIVATE KEY") && kept.contains("abcdefghij23") && !kept.contains(SECRET),
        "the token is not"
    );

    kill(Pid::from_raw(running.0.id().try_into().expect("a process id")), Signal::SIGTERM).expect("the signal arrives");
    log.read_to_string(&mut seen).expect("the rest of the log");
    running.0.wait().expect("it ends");
    for text in [&seen, &answer, &metrics] {
        assert!(!text.contains(SECRET) && !text.contains("PRIVATE KEY") && !text.contains("BEGIN"), "{text}");
    }
}
