//! The commands of `docs/http.md` are run, in order, in one shell, against the real programs.

use std::{fs, time::Duration};

use serde_json::Value;
use switchyard_tests::{elb::State, policy::Policy, world::World};
use tokio::process::Command;

use crate::{open_gateway, page};

/// A flip and its settle time take a few seconds; this is for a command that hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// The fenced blocks of this kind.
fn blocks(kind: &str) -> Vec<String> {
    let text = page::text();
    let fences: Vec<&str> = text.split("```").collect();
    let inside = fences.iter().skip(1).step_by(2);
    inside.filter_map(|block| block.strip_prefix(&format!("{kind}\n"))).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_move_traffic_and_take_it_back() {
    let mut world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let gateway = open_gateway(&mut world).await;
    world.hub_knows("shop/checkout").await;
    let folder = tempfile::tempdir_in(world.folder()).expect("a folder");
    // The sandbox's hub speaks plain text; what the page says of certificates is tried in hub/tests/gateway_tls.rs.
    let config = blocks("text").into_iter().find(|block| block.contains("cacert")).expect("the file hub.curl");
    let plain: Vec<&str> = config.lines().filter(|line| !line.contains(".crt") && !line.contains(".key")).collect();
    fs::write(folder.path().join("hub.curl"), plain.join("\n")).expect("written");
    let policy = Policy::new("checkout", &[("blue", 100), ("green", 0)]);
    fs::write(folder.path().join("checkout.yaml"), policy.yaml()).expect("written");
    let commands = blocks("sh");
    assert!(commands.len() >= 5, "{commands:?}");
    let mut shell = Command::new("bash");
    shell.args(["-euxo", "pipefail", "-c", &commands.concat()]).current_dir(folder.path()).env("HUB", &gateway);
    shell.env("http_proxy", "").env("no_proxy", "127.0.0.1").kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, shell.output()).await.expect("the commands end").expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("SHIFT_STATE_SUCCEEDED"), "{said}");
    let last = fs::read_to_string(folder.path().join("shift.log")).expect("the stream");
    let last: Value = serde_json::from_str(last.lines().next_back().expect("a line")).expect("JSON");
    assert_eq!(last["shift"]["status"]["moves"][0]["programmed"]["green"], 100, "{last}");
    let back = |state: &State| state.weights("shop/checkout").is_some_and(|weights| weights.get("blue") == Some(&100));
    world.elb_shows("the last command to take it back", back).await;
    world.stop().await;
}
