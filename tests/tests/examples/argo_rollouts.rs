//! The AnalysisTemplate for Argo Rollouts: the Job in it, made and judged by a real control plane.

use serde_json::{Value, json};

use crate::{
    expressions::{filled_document, table},
    fields::{only, only_in_each},
    jobs::Running,
    scene::{self, Scene},
};

pub const FILE: &str = "argo-rollouts-analysis.yaml";

const METRIC: &str = "name interval initialDelay count successCondition failureCondition failureLimit inconclusiveLimit \
    consecutiveErrorLimit consecutiveSuccessLimit provider";

/// The Job that the controller makes of the template's metric.
fn job() -> Value {
    let template = scene::yaml(FILE);
    let table = table([("args.policy", scene::POLICY.to_owned()), ("args.to", "green".to_owned())]);
    let filled = filled_document(&template["spec"]["metrics"][0]["provider"]["job"], "{{", "}}", &table);
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "served"}, "spec": filled["spec"]})
}

#[test]
fn the_template_has_only_fields_that_there_are_and_is_measured_once() {
    let template = scene::yaml(FILE);
    only(&template, "apiVersion kind metadata spec", "the template");
    let kind = (template["apiVersion"].as_str(), template["kind"].as_str());
    assert_eq!(kind, (Some("argoproj.io/v1alpha1"), Some("AnalysisTemplate")));
    only(&template["spec"], "args metrics dryRun measurementRetention templates", "spec");
    only_in_each(&template["spec"]["args"], "name value valueFrom", "an argument");
    only_in_each(&template["spec"]["metrics"], METRIC, "a metric");
    let metric = &template["spec"]["metrics"][0];
    only(&metric["provider"]["job"], "metadata spec", "the job");
    assert_eq!((&metric["count"], &metric["failureLimit"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_analysis_fails_at_once_when_nothing_was_moved_and_passes_once_it_is_served() {
    let scene = Scene::begin().await;
    let hub = scene.url();
    scene.empty_green().await;
    let mut refused = Running::make(&scene, job(), &[("SWITCHYARD_HUB", &hub)]).await;
    let finished = refused.pod(None).await;
    assert_eq!(finished.code, 8, "nobody is healthy in green: {finished}");
    assert_eq!(refused.ended().await, "Failed PodFailurePolicy", "no second pod is made");
    scene.served_by("blue").await;

    scene.fill_green().await;
    let mut passed = Running::make(&scene, job(), &[("SWITCHYARD_HUB", &hub)]).await;
    let finished = passed.pod(None).await;
    assert_eq!(finished.code, 0, "{finished}");
    let ended = passed.ended().await;
    assert!(ended.starts_with("Complete "), "{ended}");
    scene.served_by("green").await;
    assert_eq!(scene.states().await, ["Succeeded", "Failed"]);
    scene.end().await;
}
