//! The PostSync hook for Argo CD: a Job, made and judged by a real control plane.

use crate::{
    jobs::Running,
    scene::{self, Scene},
};

pub const FILE: &str = "argo-cd-postsync.yaml";

#[test]
fn the_job_is_a_hook_that_argo_cd_replaces_for_each_sync() {
    let job = scene::yaml(FILE);
    let annotations = &job["metadata"]["annotations"];
    assert_eq!(annotations["argocd.argoproj.io/hook"], "PostSync");
    assert_eq!(annotations["argocd.argoproj.io/hook-delete-policy"], "BeforeHookCreation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_lost_is_replaced_by_one_that_waits_for_the_same_shift() {
    let scene = Scene::begin().await;
    let hub = scene.url();
    let mut job = Running::make(&scene, scene::yaml(FILE), &[("SWITCHYARD_HUB", &hub), ("BAKE", "3s")]).await;
    let lost = job.pod(Some("Baking 1/3")).await;
    assert_eq!(lost.code, 7, "it was asked to end while it waited: {lost}");
    let waited = job.pod(None).await;
    assert_eq!(waited.code, 0, "{waited}");
    let ended = job.ended().await;
    assert!(ended.starts_with("Complete "), "{ended}");
    scene.served_by("green").await;
    assert_eq!(scene.states().await, ["Succeeded"], "both pods waited for one shift");

    // The next sync has its own Job. Nothing is to be moved any more, and it says so by succeeding.
    let mut next = Running::make(&scene, scene::yaml(FILE), &[("SWITCHYARD_HUB", &hub), ("BAKE", "1s")]).await;
    let finished = next.pod(None).await;
    assert_eq!(finished.code, 0, "{finished}");
    assert!(next.ended().await.starts_with("Complete "));
    assert_eq!(scene.states().await, ["Succeeded", "Succeeded"]);
    scene.served_by("green").await;
    scene.end().await;
}
