//! The Task for Tekton: its script, with the substitutions that Tekton makes.

use std::fs;

use serde_json::Value;
use switchyard_tests::process::Finished;

use crate::{
    expressions::{filled, known_filled, table},
    fields::{only, only_in_each},
    scene::{self, Scene},
    shell::{self, Variables},
};

pub const FILE: &str = "tekton-task.yaml";

const SPEC: &str = "description displayName params steps workspaces results volumes stepTemplate sidecars";
const STEP: &str = "name image command args env envFrom workingDir script timeout onError workspaces volumeMounts \
    computeResources securityContext results params ref when stdoutConfig stderrConfig imagePullPolicy";

/// A TaskRun with these parameters.
async fn task_run(scene: &Scene, uid: &str, bake: &str) -> (Finished, String, String) {
    let task = scene::yaml(FILE);
    let folder = scene.world.folder().join(format!("task-{uid}"));
    fs::create_dir_all(&folder).expect("a folder");
    let given =
        [("hub", scene.url()), ("policy", scene::POLICY.into()), ("to", "green".into()), ("bake", bake.to_owned())];
    let mut table = table([
        ("workspaces.credentials.path", scene.credentials().display().to_string()),
        ("context.taskRun.uid", uid.to_owned()),
        ("results.shift.path", folder.join("shift").display().to_string()),
        ("results.outcome.path", folder.join("outcome").display().to_string()),
    ]);
    for param in task["spec"]["params"].as_array().expect("params") {
        let name = param["name"].as_str().expect("a name");
        let value = given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone());
        let value = value.or_else(|| param["default"].as_str().map(str::to_owned));
        table.insert(format!("params.{name}"), value.unwrap_or_else(|| panic!("{name} is needed")));
    }
    let step = &task["spec"]["steps"][0];
    let mut variables = Variables::new();
    for variable in step["env"].as_array().expect("variables") {
        let text = |field: &str| variable[field].as_str().expect("a text");
        variables.insert(text("name").to_owned(), filled(text("value"), "$(", ")", &table));
    }
    let script = folder.join("script");
    fs::write(&script, known_filled(step["script"].as_str().expect("a script"), "$(", ")", &table)).expect("written");
    // Not executed itself: while another test forks, a file that was just written may still be open for writing (ETXTBSY).
    let interpreter = step["script"].as_str().and_then(|text| text.lines().next()).expect("a first line");
    assert_eq!(interpreter, "#!/usr/bin/env bash");
    let mut command = shell::command(scene, "bash", &folder, &variables);
    command.arg(&script);
    let finished = shell::run(command).await;
    let result = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    (finished, result("shift"), result("outcome"))
}

#[test]
fn the_task_has_only_fields_that_there_are_and_no_parameter_within_a_script() {
    let task = scene::yaml(FILE);
    only(&task, "apiVersion kind metadata spec", "the Task");
    assert_eq!((task["apiVersion"].as_str(), task["kind"].as_str()), (Some("tekton.dev/v1"), Some("Task")));
    let spec = &task["spec"];
    only(spec, SPEC, "spec");
    only_in_each(&spec["params"], "name type description properties default enum", "a parameter");
    only_in_each(&spec["workspaces"], "name description mountPath readOnly optional", "a workspace");
    only_in_each(&spec["results"], "name type description properties value", "a result");
    only_in_each(&spec["steps"], STEP, "a step");
    let script = spec["steps"][0]["script"].as_str().map(str::to_owned).expect("a script");
    let inside = |mark: &str| script.contains(mark);
    assert!(!inside("$(params.") && !inside("$(context."), "a text from outside would be taken for commands: {script}");
    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(&spec["results"]), ["shift", "outcome"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_run_moves_the_traffic_and_a_retry_of_it_waits_for_the_same_shift() {
    let scene = Scene::begin().await;
    let (first, id, outcome) = task_run(&scene, "1c62", "1s").await;
    assert_eq!((first.code, outcome.as_str()), (0, "converged"), "{first}");
    scene.served_by("green").await;
    let (again, same, outcome) = task_run(&scene, "1c62", "1s").await;
    assert_eq!((again.code, outcome.as_str()), (0, "converged"), "{again}");
    assert_eq!(id, same);
    assert_eq!(scene.states().await, ["Succeeded"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_run_fails_with_what_became_of_its_shift() {
    let scene = Scene::begin().await;
    let taken_back = async {
        let id = scene.one_is("Baking").await;
        // A second one, of another run, is refused as long as the first moves the policy.
        let (refused, none, outcome) = task_run(&scene, "1c64", "1h").await;
        assert_eq!((refused.code, none.as_str(), outcome.as_str()), (5, "", "unknown"), "{refused}");
        assert!(refused.stderr.contains(&id), "it names the other shift: {refused}");
        scene.world.yardctl.expect(&["abort", &id, "--reason", "errors in green"], "").await;
        id
    };
    let ((finished, id, outcome), aborted) = tokio::join!(task_run(&scene, "1c63", "1h"), taken_back);
    assert_eq!((finished.code, outcome.as_str()), (8, "went-back"), "{finished}");
    assert_eq!(id, aborted);
    assert!(finished.stderr.contains("errors in green"), "it says why: {finished}");
    scene.served_by("blue").await;
    scene.end().await;
}
