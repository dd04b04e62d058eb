//! The workflow for GitHub Actions: its `run:` scripts, with the shell and the files that a runner gives them.

use std::{fs, path::Path};

use serde_json::Value;
use switchyard_tests::process::Finished;
use tempfile::TempDir;

use crate::{
    expressions::{Table, filled, table},
    fields::{only, only_in_each},
    github_token::{REQUEST_TOKEN, TokenDesk},
    scene::{self, JOB as REPOSITORY_JOB, Scene},
    shell::{self, Variables},
};

pub const FILE: &str = "github-actions.yaml";

const TOP: &str = "name run-name on permissions env defaults concurrency jobs";
const JOB: &str = "name permissions needs if runs-on environment concurrency outputs env defaults steps timeout-minutes \
    strategy continue-on-error container services uses with secrets";
const STEP: &str = "id if name uses run working-directory shell with env continue-on-error timeout-minutes";

/// A run of the workflow's job, as a runner keeps it.
struct Run<'a> {
    scene: &'a Scene,
    job: Value,
    table: Table,
    variables: Variables,
    folder: TempDir,
    _desk: TokenDesk,
}

impl<'a> Run<'a> {
    async fn new(scene: &'a Scene, id: &str, bake: &str) -> Self {
        let desk = TokenDesk::start(scene.job_token()).await;
        let job = scene::yaml(FILE)["jobs"]["shift"].clone();
        let table = table([
            ("github.run_id", id.to_owned()),
            ("inputs.to", "green".to_owned()),
            ("vars.SWITCHYARD_CA", scene.credential("ca.crt")),
        ]);
        let folder = tempfile::tempdir_in(scene.world.folder()).expect("a folder");
        let mut variables = Variables::from([
            ("RUNNER_TEMP".to_owned(), folder.path().display().to_string()),
            ("GITHUB_RUN_ID".to_owned(), id.to_owned()),
            ("GITHUB_REPOSITORY".to_owned(), "example/shop".to_owned()),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN".to_owned(), REQUEST_TOKEN.to_owned()),
            ("ACTIONS_ID_TOKEN_REQUEST_URL".to_owned(), desk.url.clone()),
        ]);
        extend(&mut variables, &job["env"], &table);
        for (name, value) in [("SWITCHYARD_HUB", scene.url()), ("BAKE", bake.to_owned())] {
            assert!(variables.insert(name.to_owned(), value).is_some(), "{name} is a variable of the job");
        }
        Self { scene, job, table, variables, folder, _desk: desk }
    }

    /// Runs the step of this name or id; what it says of itself is known to the next ones.
    async fn step(&mut self, wanted: &str) -> Finished {
        let steps = self.job["steps"].as_array().expect("steps");
        let found = steps.iter().find(|step| step["id"] == wanted || step["name"] == wanted);
        let step = found.unwrap_or_else(|| panic!("there is no step {wanted:?}")).clone();
        assert_eq!(self.job["defaults"]["run"]["shell"], "bash");
        let folder = self.folder.path().to_owned();
        let mut variables = self.variables.clone();
        extend(&mut variables, &step["env"], &self.table);
        for file in ["GITHUB_ENV", "GITHUB_OUTPUT"] {
            let path = folder.join(file);
            fs::write(&path, "").expect("written");
            variables.insert(file.to_owned(), path.display().to_string());
        }
        let script = folder.join("step.sh");
        fs::write(&script, step["run"].as_str().expect("a script")).expect("written");
        let mut command = shell::command(self.scene, "bash", &folder, &variables);
        // As a runner calls it for `shell: bash`.
        command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(&script);
        let finished = shell::run(command).await;
        self.variables.extend(pairs(&folder.join("GITHUB_ENV")));
        for (name, value) in pairs(&folder.join("GITHUB_OUTPUT")) {
            let expression = format!("steps.{}.outputs.{name}", step["id"].as_str().expect("an id"));
            self.table.insert(expression, value);
        }
        finished
    }

    fn output(&self, expression: &str) -> &str {
        self.table.get(expression).map_or("", String::as_str)
    }
}

fn extend(variables: &mut Variables, env: &Value, table: &Table) {
    for (name, value) in env.as_object().into_iter().flatten() {
        let text = value.as_str().expect("a text");
        variables.insert(name.clone(), filled(text, "${{", "}}", table));
    }
}

fn pairs(file: &Path) -> Variables {
    let text = fs::read_to_string(file).expect("the file is there");
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().map(|line| pair(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

#[test]
fn the_workflow_has_only_fields_that_there_are_and_no_expression_within_a_script() {
    let workflow = scene::yaml(FILE);
    only(&workflow, TOP, "the workflow");
    only(&workflow["concurrency"], "group cancel-in-progress", "concurrency");
    only(
        &workflow["on"]["workflow_dispatch"]["inputs"]["to"],
        "description required default type options",
        "the input",
    );
    let job = &workflow["jobs"]["shift"];
    only(job, JOB, "the job");
    only_in_each(&job["steps"], STEP, "a step");
    for step in job["steps"].as_array().expect("steps") {
        let script = step["run"].as_str().expect("a script");
        assert!(!script.contains("${{"), "a text from outside would be taken for commands: {script}");
    }
    // The last two run also when the one before them failed.
    let conditions: Vec<&str> =
        job["steps"].as_array().into_iter().flatten().filter_map(|s| s["if"].as_str()).collect();
    assert_eq!(conditions, ["${{ cancelled() && steps.ask.outputs.shift != '' }}", "${{ always() }}"]);
}

/// A scene in which shifts are asked for by a job of the repository.
async fn by_a_job() -> Scene {
    let mut scene = Scene::begin().await;
    scene.actor = format!("corp:{REPOSITORY_JOB}");
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_moves_the_traffic_and_a_second_attempt_of_it_waits_for_the_same_shift() {
    let scene = by_a_job().await;
    for attempt in 1..=2 {
        let mut run = Run::new(&scene, "4711", "1s").await;
        for step in ["Get a token", "ask", "wait", "clean"] {
            let finished = run.step(step).await;
            assert_eq!(finished.code, 0, "attempt {attempt}, {step}: {finished}");
        }
        assert_eq!(run.output("steps.wait.outputs.outcome"), "converged");
        assert!(!Path::new(&run.variables["SWITCHYARD_TOKEN_FILE"]).exists(), "the token is not left behind");
        scene.served_by("green").await;
        assert_eq!(scene.states().await, ["Succeeded"], "attempt {attempt}");
    }
    let shifts = scene.shifts().await;
    assert_eq!(shifts[0]["spec"]["reason"], "example/shop, run 4711", "{shifts:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_takes_its_own_shift_back_and_a_waiting_one_says_that_it_went_back() {
    let scene = by_a_job().await;
    let mut run = Run::new(&scene, "4712", "1h").await;
    for step in ["Get a token", "ask"] {
        let finished = run.step(step).await;
        assert_eq!(finished.code, 0, "{step}: {finished}");
    }
    assert_eq!(scene.one_is("Baking").await, run.output("steps.ask.outputs.shift"));
    let mut other = Run::new(&scene, "4712", "1h").await;
    for step in ["Get a token", "ask"] {
        assert_eq!(other.step(step).await.code, 0, "a second attempt");
    }
    let (waited, cancelled) = tokio::join!(other.step("wait"), run.step("cancel"));
    assert_eq!(cancelled.code, 0, "{cancelled}");
    assert_eq!(waited.code, 8, "{waited}");
    assert!(waited.stdout.contains("::error title=The traffic went back::"), "{waited}");
    assert_eq!(other.output("steps.wait.outputs.outcome"), "went-back");
    scene.served_by("blue").await;
    assert_eq!(scene.states().await, ["Aborted"]);
    scene.end().await;
}
