//! The keeping of the webhook's own certificate, with a fake Secret and a fake configuration.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use jiff::civil::Date;
use k8s_openapi::ByteString;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::{
    certificate::{Data, bundle, certified},
    keeper::{Keeper, KeeperError, Looked},
    server::Served,
};
use crate::{
    args::gates::{CertificateSource, ObjectName},
    complaints::Complaints,
    text::causes,
    watch::webhook::Objects,
};

/// The two objects, and how writes to them go.
#[derive(Clone)]
struct Cluster(Arc<Mutex<State>>);

struct State {
    secret: Value,
    configuration: Value,
    version: u64,
    writes: Vec<String>,
    /// Somebody else writes the Secret between the read and the write.
    interferes: bool,
    forbids_patch: bool,
}

impl Cluster {
    fn new() -> Self {
        let webhook = |name: &str, service: &str| {
            json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"service": {"namespace": "sys", "name": service}}})
        };
        Self(Arc::new(Mutex::new(State {
            secret: json!({"kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": "cert", "namespace": "sys", "labels": {"of": "the chart"}, "resourceVersion": "1"}}),
            configuration: json!({"kind": "MutatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": "gates"}, "webhooks": [webhook("a.example.com", "hook"), webhook("b.example.com", "other")]}),
            version: 1,
            writes: Vec::new(),
            interferes: false,
            forbids_patch: false,
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no panic"))
    }

    fn keeper(&self) -> Keeper {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (code, answer) = cluster.with(|state| state.answer(&parts.method, parts.uri.path(), &body));
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).expect("a response"))
            }
        });
        let name = |name: &str| ObjectName { namespace: "sys".to_owned(), name: name.to_owned() };
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Keeper {
            source: CertificateSource::Own {
                service: name("hook"),
                secret: name("cert"),
                configuration: "gates".to_owned(),
            },
            objects: Objects::new(Client::new(service, "default")),
            served: Arc::new(Served::default()),
            complaints: Complaints::default(),
        }
    }

    fn writes(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.writes))
    }

    fn data(&self) -> Data {
        let data = self.with(|state| state.secret["data"].clone());
        let data: std::collections::BTreeMap<String, ByteString> = serde_json::from_value(data).expect("data");
        data.into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect()
    }

    fn trusted(&self) -> Vec<u8> {
        let held = self.with(|state| state.configuration["webhooks"][0]["clientConfig"]["caBundle"].clone());
        serde_json::from_value::<ByteString>(held).expect("a bundle").0
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let failure = |code: u16, message: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "X",
                "message": message, "metadata": {}});
            (code, status)
        };
        match (method.as_str(), path) {
            ("GET", "/api/v1/namespaces/sys/secrets/cert") => (200, self.secret.clone()),
            ("PUT", "/api/v1/namespaces/sys/secrets/cert") => {
                if std::mem::take(&mut self.interferes) {
                    self.version += 1;
                    self.secret["metadata"]["resourceVersion"] = json!(self.version.to_string());
                }
                if body["metadata"]["resourceVersion"] != self.secret["metadata"]["resourceVersion"] {
                    return failure(409, "the object has been modified");
                }
                self.version += 1;
                self.secret = body.clone();
                self.secret["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.writes.push("secret".to_owned());
                (200, self.secret.clone())
            }
            ("GET", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/gates") => {
                (200, self.configuration.clone())
            }
            ("PATCH", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/gates") => {
                if self.forbids_patch {
                    return failure(403, "cannot patch resource");
                }
                for patch in body["webhooks"].as_array().expect("webhooks") {
                    let name = patch["name"].as_str().expect("a name");
                    let webhooks = self.configuration["webhooks"].as_array_mut().expect("webhooks");
                    let webhook = webhooks.iter_mut().find(|webhook| webhook["name"] == name).expect("a webhook");
                    webhook["clientConfig"]["caBundle"] = patch["clientConfig"]["caBundle"].clone();
                    self.writes.push(name.to_owned());
                }
                (200, self.configuration.clone())
            }
            _ => failure(404, "not found"),
        }
    }
}

fn day(text: &str) -> Date {
    text.parse().expect("a date")
}

async fn look(keeper: &Keeper, last: &mut Option<Data>, today: &str) -> Result<Looked, KeeperError> {
    keeper.look(last, day(today)).await
}

#[tokio::test]
async fn the_secret_is_filled_and_trusted_once_and_then_left_alone() {
    let cluster = Cluster::new();
    let keeper = cluster.keeper();
    let mut last = None;
    assert_eq!(look(&keeper, &mut last, "2026-11-21").await.expect("a look"), Looked::Kept);
    assert_eq!(cluster.writes(), ["secret", "a.example.com"], "a webhook of another Service is none of ours");
    assert_eq!(cluster.trusted(), bundle(&cluster.data()));
    assert!(keeper.served.is_set());
    assert_eq!(cluster.with(|state| state.secret["metadata"]["labels"]["of"].clone()), "the chart");
    assert_eq!(look(&keeper, &mut last, "2026-11-22").await.expect("a look"), Looked::Kept);
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_renewal_leaves_the_authority_before_trusted_and_another_replica_takes_it_over() {
    let cluster = Cluster::new();
    let (keeper, other) = (cluster.keeper(), cluster.keeper());
    let (mut last, mut others) = (None, None);
    look(&keeper, &mut last, "2026-11-21").await.expect("a look");
    look(&other, &mut others, "2026-11-21").await.expect("a look");
    assert_eq!(last, others);
    let before = cluster.data();
    cluster.writes();
    look(&keeper, &mut last, "2027-04-01").await.expect("a look");
    assert_eq!(cluster.writes(), ["secret", "a.example.com"]);
    let trusted = String::from_utf8(cluster.trusted()).expect("text");
    assert!(
        trusted.contains(&String::from_utf8(bundle(&before)).expect("text")),
        "the other replica still serves with it"
    );
    certified(&cluster.data()).expect("a certificate that can be used");
    look(&other, &mut others, "2027-04-01").await.expect("a look");
    assert_eq!((cluster.writes(), &last), (Vec::new(), &others));
}

#[tokio::test]
async fn two_replicas_at_the_same_moment_agree_on_one_certificate() {
    let cluster = Cluster::new();
    cluster.with(|state| state.interferes = true);
    let keeper = cluster.keeper();
    let mut last = None;
    assert_eq!(look(&keeper, &mut last, "2026-11-21").await.expect("a look"), Looked::Again);
    assert_eq!(cluster.writes(), Vec::<String>::new());
    assert_eq!(look(&keeper, &mut last, "2026-11-21").await.expect("a look"), Looked::Kept);
}

#[tokio::test]
async fn a_bundle_that_somebody_took_away_is_put_back() {
    let cluster = Cluster::new();
    let keeper = cluster.keeper();
    let mut last = None;
    look(&keeper, &mut last, "2026-11-21").await.expect("a look");
    cluster.writes();
    cluster.with(|state| state.configuration["webhooks"][0]["clientConfig"]["caBundle"] = Value::Null);
    look(&keeper, &mut last, "2026-11-21").await.expect("a look");
    assert_eq!(cluster.writes(), ["a.example.com"]);
}

#[tokio::test]
async fn a_missing_permission_or_object_is_named_with_the_remedy() {
    let cluster = Cluster::new();
    cluster.with(|state| state.forbids_patch = true);
    let keeper = cluster.keeper();
    let error = look(&keeper, &mut None, "2026-11-21").await.expect_err("no leave");
    let text = causes(&error);
    assert!(text.contains("MutatingWebhookConfiguration gates: grant the agent the verb patch on it"), "{text}");
    assert!(keeper.served.is_set(), "who trusts it already can go on");
    let mut elsewhere = cluster.keeper();
    if let CertificateSource::Own { secret, .. } = &mut elsewhere.source {
        secret.name = "none".to_owned();
    }
    let text = causes(&look(&elsewhere, &mut None, "2026-11-21").await.expect_err("no Secret"));
    assert!(text.contains("Secret sys/none does not exist; the chart makes it, or correct --webhook-secret"), "{text}");
}

#[tokio::test]
async fn a_certificate_in_files_is_served_and_read_again_and_nothing_is_written() {
    let cluster = Cluster::new();
    look(&cluster.keeper(), &mut None, "2026-11-21").await.expect("a look");
    let data = cluster.data();
    cluster.writes();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let mut keeper = cluster.keeper();
    keeper.source = CertificateSource::Files { certificate: path("tls.crt"), key: path("tls.key") };
    let text = causes(&look(&keeper, &mut None, "2026-11-21").await.expect_err("no file"));
    assert!(text.contains("cannot be read; name a PEM file that this process may read"), "{text}");
    for name in ["tls.crt", "tls.key"] {
        std::fs::write(path(name), &data[name]).expect("a file");
    }
    let mut last = None;
    assert_eq!(look(&keeper, &mut last, "2026-11-21").await.expect("a look"), Looked::Kept);
    assert!(keeper.served.is_set());
    std::fs::write(path("tls.crt"), "half").expect("a file");
    look(&keeper, &mut last, "2026-11-21").await.expect_err("a file that is no certificate");
    assert!(keeper.served.is_set(), "the one before is served on");
    assert_eq!(cluster.writes(), Vec::<String>::new());
}
