//! The pipeline for Spinnaker: its two webhook stages, called and polled as orca does, with curl and the client certificate.

use serde_json::Value;

use crate::{
    expressions::{Table, filled_document, table},
    fields::only_in_each,
    scene::{self, Scene},
    shell::{self, Variables},
};

pub const FILE: &str = "spinnaker-pipeline.json";

/// What the hub's JSON is called in the example.
const HUB: &str = "https://switchyard.example.com:7402";
const ID: &str = "#stage('Ask for the shift')['context']['webhook']['body']['shift']['id']";
const STAGE: &str = "type refId requisiteStageRefIds name url method customHeaders payload waitForCompletion \
    statusUrlResolution statusUrlJsonPath statusJsonPath progressJsonPath successStatuses canceledStatuses \
    terminalStatuses signalCancellation cancelEndpoint cancelMethod cancelPayload failFastStatusCodes \
    retryStatusCodes waitBeforeMonitor monitorOnly statusEndpoint failPipeline stageTimeoutMs";

/// How a stage ends for orca.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Succeeded,
    Terminal,
}

struct Execution<'a> {
    scene: &'a Scene,
    stages: Vec<Value>,
    table: Table,
}

impl<'a> Execution<'a> {
    fn new(scene: &'a Scene, id: &str, to: &str) -> Self {
        let pipeline: Value = serde_json::from_str(&scene::read(FILE)).expect("JSON");
        let table = table([("execution['id']", id.to_owned()), ("parameters['to']", to.to_owned())]);
        Self { scene, stages: pipeline["stages"].as_array().cloned().expect("stages"), table }
    }

    fn stage(&self, index: usize) -> Value {
        filled_document(&self.stages[index], "${", "}", &self.table)
    }

    /// A call of orca: the stage's headers, the payload as JSON. The status and the body.
    async fn call(&self, stage: &Value, method: &str, url: &str, payload: &Value) -> (u16, Value) {
        let url = url.replacen(HUB, &self.scene.gateway, 1);
        assert!(url.starts_with(&self.scene.gateway), "the example calls another host: {url}");
        let credentials = self.scene.credentials();
        let mut curl = shell::command(self.scene, "curl", &credentials, &Variables::new());
        curl.args(["--disable", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
        curl.args(["--cacert", "ca.crt", "--cert", "tls.crt", "--key", "tls.key"]);
        curl.args(["--request", method, "--write-out", "\n%{http_code}"]);
        for (name, value) in stage["customHeaders"].as_object().expect("headers") {
            curl.arg("--header").arg(format!("{name}: {}", value.as_str().expect("a text")));
        }
        if !payload.is_null() {
            curl.args(["--data", &payload.to_string()]);
        }
        let finished = shell::run({
            curl.arg(&url);
            curl
        })
        .await;
        assert_eq!(finished.code, 0, "{method} {url}: {finished}");
        let (body, status) = finished.stdout.rsplit_once('\n').expect("two parts");
        (status.parse().expect("a number"), serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {finished}")))
    }

    /// The first stage; what it answered is known to the second.
    async fn ask(&mut self) -> (u16, Value) {
        let stage = self.stage(0);
        let text = |field: &str| stage[field].as_str().expect("a text").to_owned();
        let (status, body) = self.call(&stage, &text("method"), &text("url"), &stage["payload"]).await;
        if let Some(id) = body["shift"]["id"].as_str() {
            self.table.insert(ID.to_owned(), id.to_owned());
        }
        (status, body)
    }

    /// The second stage until it ends: a first call, then the same address is polled.
    async fn wait(&self) -> Ending {
        let stage = self.stage(1);
        let text = |field: &str| stage[field].as_str().expect("a text").to_owned();
        assert_eq!((text("method").as_str(), text("statusUrlResolution").as_str()), ("GET", "getMethod"));
        let is =
            |field: &str, state: &str| stage[field].as_str().is_some_and(|list| list.split(',').any(|s| s == state));
        switchyard_tests::wait::until("the stage to end", async || {
            let (status, body) = self.call(&stage, "GET", &text("url"), &Value::Null).await;
            assert_eq!(status, 200, "{body}");
            // A path that leads nowhere ends the stage in orca.
            let found = ["statusJsonPath", "progressJsonPath"].map(|field| at(&body, &text(field)));
            let state = found[0].as_str().expect("the status is a text");
            assert!(found[1].is_string(), "the progress is a text");
            match (is("successStatuses", state), is("terminalStatuses", state)) {
                (true, false) => Ok(Ending::Succeeded),
                (false, true) => Ok(Ending::Terminal),
                (false, false) => Err(body.to_string()),
                (true, true) => panic!("{state} stands in both lists"),
            }
        })
        .await
    }

    /// What orca sends when the stage is cancelled or fails.
    async fn cancel(&self) -> (u16, Value) {
        let stage = self.stage(1);
        let text = |field: &str| stage[field].as_str().expect("a text").to_owned();
        self.call(&stage, &text("cancelMethod"), &text("cancelEndpoint"), &stage["cancelPayload"]).await
    }
}

/// What a path such as `$.shift.id` leads to.
fn at<'a>(body: &'a Value, path: &str) -> &'a Value {
    let steps = path.strip_prefix("$.").unwrap_or_else(|| panic!("{path} begins at the root"));
    assert!(steps.chars().all(|c| c.is_ascii_alphanumeric() || c == '.'), "{path} is more than names");
    let pointer = format!("/{}", steps.replace('.', "/"));
    body.pointer(&pointer).unwrap_or_else(|| panic!("{path} leads nowhere in {body}"))
}

/// Makes the stage that bakes for minutes bake for a second.
fn hurried(mut execution: Execution<'_>) -> Execution<'_> {
    let steps = execution.stages[0].pointer_mut("/payload/spec/strategy/steps/0/bakeSeconds").expect("a first step");
    *steps = 1.into();
    execution
}

#[test]
fn the_pipeline_has_only_fields_that_there_are_and_names_every_final_state() {
    let pipeline: Value = serde_json::from_str(&scene::read(FILE)).expect("JSON");
    only_in_each(&pipeline["stages"], STAGE, "a stage");
    let list = |field: &str| pipeline["stages"][1][field].as_str().expect("a list").to_owned();
    let mut named: Vec<String> = [list("successStatuses"), list("terminalStatuses")]
        .iter()
        .flat_map(|l| l.split(','))
        .map(str::to_owned)
        .collect();
    named.sort();
    let proto = std::fs::read_to_string(
        switchyard_tests::programs::workspace().join("proto/proto/switchyard/api/v1/shift.proto"),
    )
    .expect("the contract");
    let states = proto.lines().filter_map(|line| line.trim().strip_prefix("SHIFT_STATE_"));
    let states = states.filter_map(|line| line.split_whitespace().next());
    let going =
        ["UNSPECIFIED", "PENDING", "PREFLIGHT", "STEPPING", "BAKING", "AWAITING_APPROVAL", "CONVERGING", "ABORTING"];
    let mut ends: Vec<String> =
        states.filter(|state| !going.contains(state)).map(|state| format!("SHIFT_STATE_{state}")).collect();
    ends.sort();
    assert_eq!(named, ends, "a state that is in no list would be polled for ever");
}

/// A scene in which shifts are asked for with the client certificate: orca has no other proof.
async fn by_certificate() -> Scene {
    let mut scene = Scene::begin().await;
    scene.actor = "certificate:CN=deployer (sha256:".to_owned();
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stages_move_the_traffic_and_a_restarted_stage_asks_for_no_second_shift() {
    let scene = by_certificate().await;
    let mut execution = hurried(Execution::new(&scene, "01JD", "green"));
    let (status, first) = execution.ask().await;
    assert_eq!(status, 200, "{first}");
    let (status, again) = execution.ask().await;
    assert_eq!((status, &again["shift"]["id"]), (200, &first["shift"]["id"]), "{again}");
    assert_eq!(execution.wait().await, Ending::Succeeded);
    scene.served_by("green").await;
    assert_eq!(scene.states().await, ["Succeeded"]);
    // Refused: the stage ends at once, since orca tries again after 429 and 5xx only.
    let (status, refused) = Execution::new(&scene, "01JE", "red").ask().await;
    assert_eq!(status, 400, "{refused}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_execution_takes_the_traffic_back() {
    let scene = by_certificate().await;
    let mut execution = Execution::new(&scene, "01JF", "green");
    assert_eq!(execution.ask().await.0, 200);
    scene.one_is("Baking").await;
    let (status, body) = execution.cancel().await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(execution.wait().await, Ending::Terminal);
    assert_eq!(scene.states().await, ["Aborted"]);
    scene.served_by("blue").await;
    // orca sends it also after a stage that failed by itself: the same key gets the same answer.
    assert_eq!(execution.cancel().await.0, 200);
    scene.end().await;
}
