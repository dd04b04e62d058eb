//! The sandbox as a process: its files, its signals, and two of them on one machine.

mod kube_support;

use std::path::Path;
use std::process::Stdio;

use http::Method;
use kube_support::{eventually, fetch};
use serde_json::Value;
use tokio::process::{Child, Command};

fn spawn(dir: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_switchyard-sandbox"))
        .arg("--dir")
        .arg(dir)
        .args(more)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the sandbox can be started")
}

async fn info(dir: &Path) -> Value {
    let path = dir.join("sandbox.json");
    eventually("sandbox.json appears", || async {
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        Ok(serde_json::from_str(&text).expect("the file is whole from the first moment"))
    })
    .await
}

#[tokio::test]
async fn two_sandboxes_live_side_by_side_and_end_on_a_signal() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut first, second) = (spawn(one.path(), &[]), spawn(two.path(), &["--clusters", "a,b,c"]));
    let (first_info, second_info) = (info(one.path()).await, info(two.path()).await);
    assert_ne!(first_info["vpc_cidr"], second_info["vpc_cidr"]);
    assert_eq!(second_info["clusters"].as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for info in [&first_info, &second_info] {
        let url = info["control_url"].as_str().unwrap();
        let (status, text) = fetch(Method::GET, &format!("{url}/info"), None).await;
        assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, info.clone()));
        for cluster in info["clusters"].as_object().unwrap().values() {
            let (status, _) =
                fetch(Method::GET, &format!("{}/readyz", cluster["api_url"].as_str().unwrap()), None).await;
            assert_eq!(status, 200);
            assert!(Path::new(cluster["kubeconfig"].as_str().unwrap()).exists());
        }
    }
    assert_eq!(first_info["pid"].as_u64(), first.id().map(u64::from));
    let pid = first.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(kube_support::DEADLINE, first.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    drop(second);
}

#[tokio::test]
async fn a_command_line_that_cannot_work_ends_with_code_two_and_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let output = spawn(dir.path(), &["--clusters", "a,a"]).wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("name each cluster once"));
}
