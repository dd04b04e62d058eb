//! The gateway of the hub as a process, with TLS: who gets in, and that the caller reaches the audit log as it does over gRPC. curl
//! calls it with the file that `docs/http.md` shows, so curl has to be there.

mod process_support;
mod store_support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use process_support::{MANIFEST, PATIENCE, Strict, start};
use serde_json::{Value, json};

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

#[tokio::test]
async fn only_those_get_in_whom_the_access_file_knows_and_the_audit_log_names_them() {
    let strict = Strict::new(&store_support::database_url().await);
    let files = strict.path("");
    for (ours, named) in [("ours.cert", "ci.crt"), ("ours.key", "ci.key"), ("server.ca", "hub-ca.crt")] {
        fs::copy(files.join(ours), files.join(named)).unwrap();
    }
    fs::write(files.join("hub.curl"), documented()).unwrap();
    let hub = start(strict.command());
    let served = hub.line("the API is served as JSON");
    assert_eq!(served["encrypted"], true, "{served}");
    let address = served["address"].as_str().unwrap().to_owned();
    hub.line("the store is read");
    let url = format!("https://{address}/v1/policies");

    let authority = ["--cacert", "server.ca", url.as_str()];
    let foreign = ["--cert", "foreign.cert", "--key", "foreign.key"];
    let plain = format!("http://{address}/v1/policies");
    let old = ["--tls-max", "1.2"];
    for arguments in
        [&[&foreign[..], &authority[..]].concat()[..], &[plain.as_str()], &[&old[..], &authority[..]].concat()]
    {
        let output = curl(&files, arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    let bearer = ["--header", "Authorization: Bearer sys_000000000000_made-up"];
    for arguments in [&authority[..], &[&bearer[..], &authority[..]].concat()] {
        let output = curl(&files, &[&["--include"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with("HTTP/1.1 401"), "{arguments:?}: {output:?}");
        for header in [
            "www-authenticate: Bearer",
            "strict-transport-security: max-age=",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
            "permissions-policy: ",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(text.contains(header), "{header}: {text}");
        }
        assert!(text.contains("UNAUTHENTICATED") && !text.contains("made-up"), "{text}");
    }

    let body = json!({"requestId": "1", "manifest": MANIFEST}).to_string();
    let apply = format!("{url}:apply");
    let output = curl(&files, &["--config", "hub.curl", "--data", &body, &apply]);
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outcome"], "APPLY_OUTCOME_CREATED", "{answer}");
    let actor = hub.line("a policy was applied")["actor"].as_str().unwrap().to_owned();
    assert!(actor.starts_with("certificate:CN=ours (sha256:"), "{actor}");

    let get = |path: &str| curl(&files, &["--config", "hub.curl", &format!("https://{address}{path}")]);
    let missing = get("/v1/namespaces/shop/policies/x");
    assert_eq!(missing.status.code(), Some(22), "the hub's no is an exit code of its own: {missing:?}");
    let refusal: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(refusal["code"], "NOT_FOUND", "{refusal}");
    let denied: Value = serde_json::from_slice(&get("/v1/namespaces/other/policies/x").stdout).unwrap();
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied}");
    let me: Value = serde_json::from_slice(&get("/v1/whoami").stdout).unwrap();
    assert_eq!((&me["identity"], &me["grants"][0]["role"]), (&json!(actor), &json!("ROLE_ADMIN")), "{me}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_stop_the_hub_at_its_start() {
    let strict = Strict::new(&store_support::database_url().await);
    strict.write("server.key", "not a key");
    let mut hub = start(strict.command());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = hub.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the hub runs on");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    let said: Vec<String> = hub.rest().iter().map(Value::to_string).collect();
    assert!(said.iter().any(|line| line.contains("--tls-key")), "{said:#?}");
}
