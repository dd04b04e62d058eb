//! The script with grpcurl, which learns the calls by reflection.

use std::path::PathBuf;

use anyhow::Context;
use switchyard_tests::process::Finished;

use crate::{
    scene::{self, Scene},
    shell::{self, Variables},
};

pub const FILE: &str = "grpcurl.sh";

/// The program that `scripts/grpcurl.sh` prints.
const PROGRAM: &str = "SWITCHYARD_GRPCURL";

fn program() -> anyhow::Result<PathBuf> {
    let remedy = "run the tests with `make test`, or export SWITCHYARD_GRPCURL=$(scripts/grpcurl.sh) before";
    let path = std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set: {remedy}"))?;
    let path = PathBuf::from(path);
    anyhow::ensure!(path.is_file(), "{PROGRAM}: {} does not exist: {remedy}", path.display());
    Ok(path)
}

async fn script(scene: &Scene, arguments: &[&str], hub: &str) -> Finished {
    let credentials = scene.credentials();
    let mut variables = Variables::from([
        ("HUB".to_owned(), hub.to_owned()),
        ("GRPCURL".to_owned(), program().expect("grpcurl").display().to_string()),
    ]);
    for (name, file) in [("TLS_CA", "ca.crt"), ("TOKEN_FILE", "token")] {
        variables.insert(name.to_owned(), credentials.join(file).display().to_string());
    }
    let mut command = shell::command(scene, "bash", &credentials, &variables);
    command.arg(scene::examples().join(FILE)).args(arguments);
    shell::run(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_moves_the_traffic_once_and_tells_each_ending_by_its_exit_code() {
    let mut scene = Scene::begin().await;
    let hub = scene.url().trim_start_matches("https://").to_owned();
    let policy = scene::POLICY;

    assert_eq!(script(&scene, &[policy, "green"], &hub).await.code, 2, "wrong usage");
    let refused = script(&scene, &[policy, "red", "release-0"], &hub).await;
    assert_eq!(refused.code, 5, "there is no such cluster: {refused}");

    scene.empty_green().await;
    let failed = script(&scene, &[policy, "green", "release-1"], &hub).await;
    assert_eq!(failed.code, 8, "nobody is healthy in green: {failed}");
    assert!(failed.stdout.contains("SHIFT_STATE_FAILED"), "{failed}");
    scene.served_by("blue").await;

    scene.fill_green().await;
    let moved = script(&scene, &[policy, "green", "release-2"], &hub).await;
    assert_eq!(moved.code, 0, "{moved}");
    scene.served_by("green").await;
    let again = script(&scene, &[policy, "green", "release-2"], &hub).await;
    assert_eq!(again.code, 0, "{again}");
    let old = script(&scene, &[policy, "green", "release-1"], &hub).await;
    assert_eq!(old.code, 8, "the same request id means the shift that failed: {old}");
    assert_eq!(scene.states().await, ["Succeeded", "Failed"]);

    scene.hub.stop().await.expect("the second replica ends well");
    let away = script(&scene, &[policy, "green", "release-3"], &hub).await;
    assert_eq!(away.code, 7, "{away}");
    scene.world.stop().await;
}
