//! A Kubernetes API for tests, behind a client and without a socket: lists in pages, watches that last, and the faults that matter.

pub mod writes;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::{Stream, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

type FakeBody = UnsyncBoxBody<Bytes, Infallible>;

/// Path of a collection of the namespace.
pub fn services(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/services")
}

pub fn slices(namespace: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
}

pub fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

pub const NODES: &str = "/api/v1/nodes";

/// The API server; clones share it.
#[derive(Clone)]
pub struct FakeKube {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// Events up to this version are forgotten: a watch from before is answered with 410.
    compacted: u64,
    objects: BTreeMap<(String, String), Value>,
    events: VecDeque<(u64, String, Value)>,
    faults: HashMap<String, Fault>,
    /// Watches of an older generation end.
    generation: u64,
    page: usize,
    requests: Vec<String>,
    /// The definition of policies.
    definition: Option<Value>,
    /// Events that were created.
    posted: Vec<Value>,
}

/// How requests to a collection fail.
#[derive(Clone)]
pub enum Fault {
    /// An answer of the server.
    Status(u16, &'static str),
    /// No answer.
    Refused,
}

impl Fault {
    fn answer(self) -> Result<Response<FakeBody>, std::io::Error> {
        match self {
            Self::Refused => Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused")),
            Self::Status(code, message) => Ok(failure(code, message)),
        }
    }
}

impl FakeKube {
    pub fn new() -> Self {
        let inner = Inner { version: 1, page: usize::MAX, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(0) }
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                match server.answer_write(&parts.method, &parts.uri, &body) {
                    None => server.answer(&parts.uri),
                    Some(Ok((status, answer))) => Ok(respond(status, Full::new(Bytes::from(answer.to_string())))),
                    Some(Err(fault)) => fault.answer(),
                }
            }
        });
        Client::new(service, "default")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds the lock")
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Creates or replaces an object.
    pub fn put(&self, collection: &str, mut object: Value) {
        self.change(|inner| {
            inner.version += 1;
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            let name = object["metadata"]["name"].as_str().expect("an object has a name").to_owned();
            let known = inner.objects.insert((collection.to_owned(), name), object.clone()).is_some();
            let kind = if known { "MODIFIED" } else { "ADDED" };
            inner.events.push_back((inner.version, collection.to_owned(), json!({"type": kind, "object": object})));
        });
    }

    /// Deletes an object, with an event.
    pub fn delete(&self, collection: &str, name: &str) {
        self.change(|inner| {
            inner.version += 1;
            let key = (collection.to_owned(), name.to_owned());
            let mut object = inner.objects.remove(&key).expect("it was there");
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            inner.events.push_back((
                inner.version,
                collection.to_owned(),
                json!({"type": "DELETED", "object": object}),
            ));
        });
    }

    /// Sends an event that means nothing to anyone.
    pub fn send_garbage(&self, collection: &str) {
        self.change(|inner| {
            inner.version += 1;
            let event = json!({"type": "ADDED", "object": {"metadata": {"name": 7}}});
            inner.events.push_back((inner.version, collection.to_owned(), event));
        });
    }

    /// Loses every object without an event, and the history, as a server that was restored from an empty backup.
    pub fn restore_empty(&self) {
        self.change(|inner| {
            inner.objects.clear();
            inner.version += 10;
            inner.compacted = inner.version;
            inner.generation += 1;
        });
    }

    /// Ends every open watch, as a restart of the server does.
    pub fn break_watches(&self) {
        self.change(|inner| inner.generation += 1);
    }

    pub fn fail(&self, collection: &str, fault: Fault) {
        self.change(|inner| {
            inner.faults.insert(collection.to_owned(), fault);
            inner.generation += 1;
        });
    }

    pub fn heal(&self, collection: &str) {
        self.change(|inner| {
            inner.faults.remove(collection);
        });
    }

    /// Lists come in pages of so many objects.
    pub fn page(&self, objects: usize) {
        self.change(|inner| inner.page = objects);
    }

    /// Every request so far, as path and query.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    fn answer(&self, uri: &http::Uri) -> Result<Response<FakeBody>, std::io::Error> {
        let query: HashMap<_, _> =
            uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let collection = uri.path().to_owned();
        let mut inner = self.lock();
        inner.requests.push(uri.to_string());
        if let Some(fault) = inner.faults.get(&collection) {
            return fault.clone().answer();
        }
        if query.get("watch") == Some(&"true") {
            let from =
                query.get("resourceVersion").and_then(|text| text.parse().ok()).expect("a watch names its version");
            let generation = inner.generation;
            drop(inner);
            return Ok(respond(StatusCode::OK, self.watch(collection, from, generation)));
        }
        let start = query.get("continue").map_or(0, |text| text.parse().expect("a token of this server"));
        Ok(respond(StatusCode::OK, Full::new(Bytes::from(inner.list(&collection, start).to_string()))))
    }

    fn watch(
        &self,
        collection: String,
        from: u64,
        generation: u64,
    ) -> StreamBody<impl Stream<Item = Line> + Send + use<>> {
        let state = (self.clone(), self.changed.subscribe(), from);
        let events = stream::unfold(state, move |(server, mut changed, from)| {
            let collection = collection.clone();
            async move {
                loop {
                    match server.next_event(&collection, from, generation) {
                        Next::Event(version, event) => {
                            let line = Bytes::from(format!("{event}\n"));
                            return Some((Ok(Frame::data(line)), (server, changed, version)));
                        }
                        Next::End => return None,
                        Next::Wait => changed.changed().await.ok()?,
                    }
                }
            }
        });
        StreamBody::new(events)
    }

    fn next_event(&self, collection: &str, from: u64, generation: u64) -> Next {
        let inner = self.lock();
        if from < inner.compacted && from != u64::MAX {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
                "message": "too old resource version"});
            // After the error there is nothing more to come.
            return Next::Event(u64::MAX, json!({"type": "ERROR", "object": status}));
        }
        if inner.generation != generation || from == u64::MAX {
            return Next::End;
        }
        let next = inner.events.iter().find(|(version, known, _)| *version > from && known == collection);
        next.map_or(Next::Wait, |(version, _, event)| Next::Event(*version, event.clone()))
    }
}

type Line = Result<Frame<Bytes>, Infallible>;

enum Next {
    Event(u64, Value),
    Wait,
    End,
}

impl Inner {
    fn list(&self, collection: &str, start: usize) -> Value {
        let all: Vec<&Value> =
            self.objects.iter().filter(|((known, _), _)| known == collection).map(|(_, object)| object).collect();
        let end = start.saturating_add(self.page).min(all.len());
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if end < all.len() {
            metadata["continue"] = json!(end.to_string());
        }
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": all.get(start..end).unwrap_or_default()})
    }
}

fn failure(code: u16, message: &str) -> Response<FakeBody> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    let code = StatusCode::from_u16(code).expect("a status code");
    respond(code, Full::new(Bytes::from(status.to_string())))
}

fn respond<B>(status: StatusCode, body: B) -> Response<FakeBody>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    Response::builder().status(status).body(body.boxed_unsync()).expect("a response")
}

/// A Service with the port http on 80.
pub fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80}]}})
}

/// A slice of the Service that sends http to 8080 of each (pod, address).
pub fn slice(service: &str, namespace: &str, pods: &[(&str, &str)]) -> Value {
    let endpoint = |(pod, address): &(&str, &str)| {
        json!({"addresses": [address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": format!("uid-of-{pod}")}})
    };
    json!({"metadata": {"name": format!("{service}-a"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>()})
}

pub fn pod(name: &str, address: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": {"containers": [], "nodeName": "n1"},
        "status": {"phase": "Running", "podIP": address}})
}

pub fn deleting(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// Everything that one ready pod behind a Service consists of.
pub fn put_one_pod(server: &FakeKube, namespace: &str, name: &str, address: &str) {
    server.put(&services(namespace), service(name));
    server.put(&pods(namespace), pod(&format!("{name}-0"), address));
    server.put(&slices(namespace), slice(name, namespace, &[(&format!("{name}-0"), address)]));
}
