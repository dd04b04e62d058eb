//! The same requests sent to a real API server and to that of the sandbox, and the answers compared: codes, bodies, what watches
//! tell. Known differences are in [`known`], each with its reason; one that is not there fails, and so does a row that is none.

mod known;
mod normal;
mod steps;

use std::{collections::BTreeMap, sync::Arc};

use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use switchyard_sandbox::kube::{server::ApiServer, store::Store};
use switchyard_tests::{
    programs,
    realkube::{Options, RealKube},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    known::{KNOWN, Known},
    normal::{Difference, Names, differences},
};

async fn realkube_config(kube: &RealKube) -> Config {
    let config = Kubeconfig::read_from(kube.kubeconfig_admin()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    config.expect("a usable kubeconfig")
}

const JSON: &str = "application/json";

struct Side {
    client: Client,
    names: Names,
    kept: BTreeMap<&'static str, String>,
    last: Value,
}

impl Side {
    fn new(config: Config) -> Self {
        let client = Client::try_from(config).expect("a client");
        Self { client, names: Names::default(), kept: BTreeMap::new(), last: Value::Null }
    }

    /// Replaces every `$label`.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (label, value) in &self.kept {
            text = text.replace(&format!("${label}"), value);
        }
        text
    }

    async fn ask(&mut self, method: &str, path: &str, media: &str, body: &str) -> Value {
        let request = http::Request::builder().method(method).uri(self.filled(path)).header("content-type", media);
        // Else the server words its answers for the client's own version.
        let request = request.header("accept", JSON).header("user-agent", "duel/1");
        let request = request.body(Body::from(self.filled(body).into_bytes())).expect("a request");
        let answer = self.client.send(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = if path.contains("watch=") && code == 200 {
            let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event a line"));
            // Bookmarks in between come whenever a server likes; the one that ends a streaming list has an annotation.
            let marks =
                |event: &Value| event["type"] == "BOOKMARK" && event["object"]["metadata"]["annotations"].is_null();
            events.filter(|event| !marks(event)).collect()
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        self.last = body.clone();
        self.names.normal(&json!({"code": code, "body": body}))
    }
}

/// Both servers, and what came of it so far.
struct Duel {
    real: Side,
    sandbox: Side,
    found: Vec<(&'static str, Difference)>,
    steps: usize,
    _kube: RealKube,
    _shutdown: DropGuard,
}

impl Duel {
    async fn start() -> Self {
        let kube = RealKube::start(Options::default()).await.expect("a control plane");
        let path = programs::workspace().join("charts/switchyard-crds/templates/clustertrafficpolicies.yaml");
        kube.apply(&std::fs::read_to_string(path).expect("the chart")).await;
        let established = ["wait", "--for=condition=Established", "crd/clustertrafficpolicies.switchyard.dev"];
        let waited = kube.kubectl(&established).await.expect("kubectl runs");
        assert_eq!(waited.code, 0, "{waited}");
        // Only the API server: the pods of a whole sandbox would run, and get a status.
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let (server, listening) = ApiServer::bind(address, Arc::new(Store::starting_at(1))).expect("a free port");
        let shutdown = CancellationToken::new();
        tokio::spawn(listening.run(shutdown.clone()));
        let other = Config::new(server.url().parse().expect("a URL"));
        let real = realkube_config(&kube).await;
        let (real, sandbox) = (Side::new(real), Side::new(other));
        Self { real, sandbox, found: Vec::new(), steps: 0, _kube: kube, _shutdown: shutdown.drop_guard() }
    }

    /// Sends a request to both.
    async fn ask(&mut self, name: &'static str, method: &str, path: &str, media: &str, body: &str) {
        let (real, sandbox) =
            tokio::join!(self.real.ask(method, path, media, body), self.sandbox.ask(method, path, media, body));
        self.found.extend(differences(&real, &sandbox).into_iter().map(|difference| (name, difference)));
        self.steps += 1;
    }

    async fn get(&mut self, name: &'static str, path: &str) {
        self.ask(name, "GET", path, JSON, "").await;
    }

    async fn post(&mut self, name: &'static str, path: &str, body: Value) {
        self.ask(name, "POST", path, JSON, &body.to_string()).await;
    }

    async fn put(&mut self, name: &'static str, path: &str, body: Value) {
        self.ask(name, "PUT", path, JSON, &body.to_string()).await;
    }

    /// `kind`: `json`, `merge`, `strategic-merge` or `apply`.
    async fn patch(&mut self, name: &'static str, path: &str, kind: &str, body: Value) {
        let media = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        self.ask(name, "PATCH", path, &media, &body.to_string()).await;
    }

    async fn delete(&mut self, name: &'static str, path: &str, body: Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask(name, "DELETE", path, JSON, &body).await;
    }

    /// Keeps something of the last answer under a label.
    fn keep(&mut self, label: &'static str, pointer: &str) {
        for side in [&mut self.real, &mut self.sandbox] {
            let found = side.last.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            side.kept.insert(label, found.unwrap_or_else(|| "nothing".to_owned()));
        }
    }

    fn judge(self) {
        let is = |row: &Known, name: &str, difference: &Difference| {
            let at = row
                .path
                .strip_suffix('*')
                .map_or(row.path == difference.path, |start| difference.path.starts_with(start));
            at && (row.step.is_empty()
                || row.step.strip_suffix('*').map_or(row.step == name, |start| name.starts_with(start)))
        };
        let known = |(name, difference): &(&str, Difference)| KNOWN.iter().any(|row| is(row, name, difference));
        let unknown: Vec<String> = self.found.iter().filter(|found| !known(found)).map(show).collect();
        let unused: Vec<String> = KNOWN
            .iter()
            .filter(|row| !self.found.iter().any(|(name, difference)| is(row, name, difference)))
            .map(|row| format!("{}: {} is no difference any more", row.step, row.path))
            .collect();
        assert!(self.steps > 60, "the steps are taken: {}", self.steps);
        assert!(unknown.is_empty() && unused.is_empty(), "{}\n{}", unknown.join("\n"), unused.join("\n"));
    }
}

fn show((name, difference): &(&'static str, Difference)) -> String {
    format!("{name}\n    {}\n    real:    {}\n    sandbox: {}", difference.path, difference.real, difference.sandbox)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandboxs_api_server_answers_as_a_real_one() {
    let mut duel = Duel::start().await;
    steps::namespaces(&mut duel).await;
    steps::services(&mut duel).await;
    steps::pods(&mut duel).await;
    steps::slices_leases_and_events(&mut duel).await;
    steps::policies(&mut duel).await;
    steps::lists(&mut duel).await;
    steps::watches(&mut duel).await;
    steps::mistakes(&mut duel).await;
    steps::discovery(&mut duel).await;
    duel.judge();
}
