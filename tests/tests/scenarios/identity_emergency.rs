//! The certificate for emergencies: made with the very commands of the page, it opens the hub without any token.

use std::path::Path;

use serde_json::Value;
use switchyard_tests::{
    authority::Pair,
    guard::{self, binding},
    programs, sandbox, wait,
    world::Builder,
};

/// The shell block of the page.
fn block() -> String {
    let page = std::fs::read_to_string(programs::workspace().join("docs/install.md")).expect("the page");
    let section = page.split_once("### A certificate for emergencies").expect("the section").1;
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("a block").to_owned()
}

/// Types the block in a folder, where kubectl only keeps the authority, and gives the fingerprint that it ends with.
async fn typed(folder: &Path) -> String {
    let script = format!("set -euo pipefail\nkubectl() {{ echo \"$*\" > kubectl.said; }}\n{}", block());
    let mut shell = tokio::process::Command::new("bash");
    let output = shell.args(["-c", &script]).current_dir(folder).output().await.expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().last().expect("a fingerprint").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_for_emergencies_is_made_as_the_page_says_and_opens_everything_by_its_fingerprint() {
    let builder = Builder::default();
    let sandbox = sandbox::Settings { clusters: vec!["blue".to_owned()], ..builder.sandbox.clone() };
    let builder = Builder { sandbox, guarded: Some(guard::Settings::default()), ..builder };
    let mut world = builder.start().await.expect("the world starts");
    let folder = tempfile::tempdir().expect("a folder");
    let fingerprint = typed(folder.path()).await;
    assert!(!folder.path().join("emergency-ca.key").exists(), "the authority signs nothing else ever after");
    let secret = std::fs::read_to_string(folder.path().join("kubectl.said")).expect("the Secret was made");
    assert!(secret.contains("--from-file=ca.crt=emergency-ca.crt"), "{secret}");

    // As the chart mounts it, beside the authority that was there before.
    let before = std::fs::read_to_string(world.guard().callers.file()).expect("an authority");
    let more = std::fs::read_to_string(folder.path().join("emergency-ca.crt")).expect("an authority");
    std::fs::write(world.guard().client_authorities(), format!("{before}{more}")).expect("the file is written");
    let subject = serde_json::json!({"certificate": {"fingerprint": fingerprint}});
    let mut everything = binding("admin", &["*"], &["*"], subject);
    everything["overrides"] = true.into();
    let add = |access: &mut Value| access["bindings"].as_array_mut().expect("bindings").push(everything);
    world.guard_mut().change_access(add).expect("the file is written");

    let pair = Pair::at(folder.path(), "emergency");
    let yardctl = world.guard().by_certificate(&world.hub.grpc_url(), &pair).expect("yardctl");
    wait::until("the certificate to be admin over everything", async || {
        let finished = yardctl.run(&["whoami", "-o", "json"], "").await.map_err(|error| error.to_string())?;
        let who: Value = serde_json::from_str(&finished.stdout).map_err(|error| format!("{error}: {finished}"))?;
        let grant = &who["grants"][0];
        let admin = grant["role"] == "admin" && grant["overrides"] == true;
        let named = who["identity"].as_str().is_some_and(|name| name.starts_with("certificate:CN=emergency"));
        wait::check(admin && named, || format!("{who:#}"))
    })
    .await;
    yardctl.expect(&["cluster", "join", "blue", "--reason", "emergency"], "").await;
    world.stop().await;
}
