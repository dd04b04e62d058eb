//! Lists and watches: consistent paging, resource versions, selectors, bookmarks, streaming lists. Reads a store; knows
//! connections only as a stream of bytes that somebody polls. Tests with a real client are in `tests/kube_watch.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::kinds::KindId;
use super::object::{Object, text};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Change, Store};

/// A watch without `timeoutSeconds` ends after half an hour; Kubernetes draws 30 to 60 minutes.
const DEFAULT_WATCH_SECONDS: u64 = 1_800;
/// Kubernetes sends bookmarks about once a minute; tests of a sandbox have not that much time.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// Changes looked at between two looks at the connection.
const BATCH: usize = 512;

/// Which objects a request is about, and in which form they are shown.
#[derive(Debug, Clone)]
pub struct Scope {
    pub kind: KindId,
    pub namespace: Option<String>,
    pub selector: Selector,
    /// `PartialObjectMetadata` instead of whole objects.
    pub metadata_only: bool,
}

impl Scope {
    fn contains(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|ns| object.namespace() == ns) && self.selector.matches(object)
    }

    /// The object in the form that was asked for.
    pub fn shown(&self, object: &Object) -> Bytes {
        if self.metadata_only {
            Bytes::from(partial(object.value()).to_string())
        } else {
            object.json()
        }
    }
}

/// An object reduced to its metadata.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<u64>, ApiError> {
    match query.get(name).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(ApiError::bad_request(format!(
                "{name}: Invalid value: {text:?}: must be a whole number"
            ))),
        },
    }
}

fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "true" || v == "1")
}

/// Where the next page starts: the version of the first page and the last key that was given out.
#[derive(serde::Serialize, serde::Deserialize)]
struct Continue {
    rv: u64,
    namespace: String,
    name: String,
}

impl Continue {
    /// Opaque to clients, so spelled in hexadecimal.
    fn encode(&self) -> String {
        let text = json!(self).to_string();
        text.bytes().map(|b| format!("{b:02x}")).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let digits = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        serde_json::from_slice(&digits.collect::<Option<Vec<u8>>>()?).ok()
    }
}

/// Answers a list request with the text of a list object.
pub fn list(store: &Store, scope: &Scope, query: &HashMap<String, String>) -> Result<Bytes, ApiError> {
    let limit = number(query, "limit")?
        .filter(|n| *n > 0)
        .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let namespace = scope.namespace.as_deref();
    let asked = number(query, "resourceVersion")?;
    let (version, mut objects) = if let Some(token) = query.get("continue").filter(|t| !t.is_empty()) {
        let token = Continue::decode(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        let all = store.list_at(scope.kind, namespace, token.rv).map_err(|_| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter.",
            )
        })?;
        let after = (token.namespace.as_str(), token.name.as_str());
        (
            token.rv,
            all.into_iter()
                .filter(|o| (o.namespace(), o.name()) > after)
                .collect::<Vec<_>>(),
        )
    } else {
        let (current, all) = store.list(scope.kind, namespace);
        match (asked, query.get("resourceVersionMatch").map(String::as_str)) {
            (Some(asked), _) if asked > current => return Err(ApiError::too_large_version(asked, current)),
            (Some(asked), Some("Exact")) => {
                let too_old =
                    |_| ApiError::expired(format!("The resourceVersion for the provided list is too old: {asked}"));
                (asked, store.list_at(scope.kind, namespace, asked).map_err(too_old)?)
            }
            _ => (current, all),
        }
    };
    objects.retain(|object| scope.selector.matches(object));
    let remaining = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    Ok(list_body(scope, version, &objects, remaining))
}

fn list_body(scope: &Scope, version: u64, objects: &[Arc<Object>], remaining: usize) -> Bytes {
    let row = scope.kind.row();
    let mut meta = json!({"resourceVersion": version.to_string()});
    if let (Some(last), 1..) = (objects.last(), remaining) {
        let token = Continue {
            rv: version,
            namespace: last.namespace().into(),
            name: last.name().into(),
        };
        meta["continue"] = json!(token.encode());
        // Kubernetes cannot count what a selector hides, and leaves the number out.
        if scope.selector.is_empty() {
            meta["remainingItemCount"] = json!(remaining);
        }
    }
    let (kind, api_version) = if scope.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", row.kind), row.api_version())
    };
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": meta}).to_string();
    let mut out = Vec::with_capacity(head.len() + objects.len() * 1024);
    out.extend_from_slice(&head.as_bytes()[..head.len() - 1]);
    out.extend_from_slice(b",\"items\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&scope.shown(object));
    }
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

/// Whether a running watch may go on. The server changes it; watches look before every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Go,
    /// The server hangs: say nothing, keep the connection.
    Wait,
    /// The permission is gone, or the store was swapped: end the stream.
    End,
}

/// A running watch.
pub struct Watch {
    store: Arc<Store>,
    scope: Scope,
    version: u64,
    ready: VecDeque<Bytes>,
    changes: watch::Receiver<u64>,
    deadline: Instant,
    bookmark_at: Option<Instant>,
    ended: bool,
}

impl Watch {
    /// Reads the query of a watch request and prepares what is sent first.
    pub fn start(store: Arc<Store>, scope: Scope, query: &HashMap<String, String>) -> Result<Self, ApiError> {
        let bookmarks = flag(query, "allowWatchBookmarks");
        let initial = flag(query, "sendInitialEvents");
        let matching = query.get("resourceVersionMatch").map_or("", String::as_str);
        if initial && matching != "NotOlderThan" {
            let message =
                "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(ApiError::bad_request(message));
        }
        let seconds = number(query, "timeoutSeconds")?
            .filter(|s| *s > 0)
            .unwrap_or(DEFAULT_WATCH_SECONDS);
        let asked = number(query, "resourceVersion")?;
        let changes = store.subscribe();
        let mut watch = Self {
            version: asked.unwrap_or_default(),
            ready: VecDeque::new(),
            changes,
            deadline: Instant::now() + Duration::from_secs(seconds.min(DEFAULT_WATCH_SECONDS * 2)),
            bookmark_at: bookmarks.then(|| Instant::now() + BOOKMARK_EVERY),
            ended: false,
            store,
            scope,
        };
        if initial || asked.unwrap_or_default() == 0 {
            let (version, objects) = watch.store.list(watch.scope.kind, watch.scope.namespace.as_deref());
            if asked.is_some_and(|asked| asked > version) {
                return Err(ApiError::too_large_version(asked.unwrap_or_default(), version));
            }
            watch.version = version;
            for object in &objects {
                if watch.scope.selector.matches(object) {
                    watch.push("ADDED", object);
                }
            }
            if initial && bookmarks {
                watch.push_bookmark(true);
            }
        }
        Ok(watch)
    }

    fn push(&mut self, kind: &str, object: &Object) {
        let body = self.scope.shown(object);
        let mut line = Vec::with_capacity(body.len() + 40);
        line.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
        line.extend_from_slice(&body);
        line.extend_from_slice(b"}\n");
        self.ready.push_back(Bytes::from(line));
    }

    fn push_bookmark(&mut self, end_of_initial: bool) {
        let row = self.scope.kind.row();
        let mut meta = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if end_of_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": meta});
        self.ready.push_back(Bytes::from(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": object})
        )));
    }

    fn push_error(&mut self, error: &ApiError) {
        self.ready.push_back(Bytes::from(format!(
            "{}\n",
            json!({"type": "ERROR", "object": error.body()})
        )));
        self.ended = true;
    }

    /// Takes the next changes from the log.
    fn advance(&mut self) {
        match self.store.changes(self.version, BATCH) {
            Ok((reached, changes)) => {
                for change in &changes {
                    self.push_change(change);
                }
                // A version from before a restore can lie ahead of the store: wait until the store gets there.
                self.version = self.version.max(reached);
            }
            Err(gone) => {
                let message = format!("too old resource version: {} ({})", self.version, gone.oldest);
                self.push_error(&ApiError::expired(message));
            }
        }
    }

    fn push_change(&mut self, change: &Change) {
        if change.kind != self.scope.kind {
            return;
        }
        let inside = |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|o| self.scope.contains(o));
        match (inside(&change.before), inside(&change.after)) {
            (false, false) => {}
            (false, true) => self.push("ADDED", &change.last),
            (true, true) => self.push("MODIFIED", &change.last),
            (true, false) if change.after.is_none() => self.push("DELETED", &change.last),
            // Left the selection: the state that still matched, at the version of the change.
            (true, false) => {
                let before = change.before.as_ref().map(|b| b.value().clone()).unwrap_or_default();
                let mut gone = before;
                gone["metadata"]["resourceVersion"] = json!(text(change.last.value(), "/metadata/resourceVersion"));
                self.push("DELETED", &Object::new(gone));
            }
        }
    }

    async fn next(
        &mut self,
        leave: &mut watch::Receiver<u64>,
        may: &(impl Fn() -> Leave + Send + Sync),
    ) -> Option<Bytes> {
        loop {
            match may() {
                Leave::End => return None,
                Leave::Wait => {
                    leave.changed().await.ok()?;
                    continue;
                }
                Leave::Go => {}
            }
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.changes.mark_unchanged();
            let before = self.version;
            self.advance();
            if !self.ready.is_empty() || self.version != before {
                continue;
            }
            let bookmark_at = self.bookmark_at.unwrap_or(self.deadline);
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                changed = leave.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    if self.bookmark_at.is_some() {
                        self.push_bookmark(false);
                    }
                }
                () = tokio::time::sleep_until(bookmark_at), if self.bookmark_at.is_some() => {
                    self.bookmark_at = Some(Instant::now() + BOOKMARK_EVERY);
                    self.push_bookmark(false);
                }
            }
        }
    }

    /// The lines of the answer. `leave` wakes the watch when what `may` says could have changed.
    pub fn into_stream(
        self,
        leave: watch::Receiver<u64>,
        may: impl Fn() -> Leave + Send + Sync,
    ) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures::stream::unfold((self, leave, may), |(mut watch, mut leave, may)| async move {
            let line = watch.next(&mut leave, &may).await?;
            Some((Ok(line), (watch, leave, may)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::PODS;
    use super::super::store::Write;
    use super::*;

    fn store_of(names: &[&str]) -> Store {
        let store = Store::default();
        for name in names {
            let value = json!({"metadata": {"name": name, "namespace": "shop"}});
            let key = ("shop".to_owned(), (*name).to_owned());
            store
                .modify(PODS, &key, |_| Ok::<_, ApiError>(Write::Put(value)))
                .unwrap();
        }
        store
    }

    fn scope() -> Scope {
        Scope {
            kind: PODS,
            namespace: None,
            selector: Selector::default(),
            metadata_only: false,
        }
    }

    fn page(store: &Store, query: &[(&str, &str)]) -> Result<Value, ApiError> {
        let query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        list(store, &scope(), &query).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn pages_show_the_state_of_the_first_page() {
        let store = store_of(&["a", "b", "c"]);
        let first = page(&store, &[("limit", "2")]).unwrap();
        assert_eq!(first["items"].as_array().unwrap().len(), 2);
        assert_eq!(first["metadata"]["remainingItemCount"], 1);
        let key = ("shop".to_owned(), "c".to_owned());
        store.modify(PODS, &key, |_| Ok::<_, ApiError>(Write::Remove)).unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap();
        let second = page(&store, &[("limit", "2"), ("continue", token)]).unwrap();
        assert_eq!(second["items"][0]["metadata"]["name"], "c");
        assert_eq!(
            second["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        assert!(second["metadata"]["continue"].is_null());
        store.compact();
        assert_eq!(page(&store, &[("continue", token)]).unwrap_err().code, 410);
        assert_eq!(page(&store, &[("continue", "zz")]).unwrap_err().code, 400);
    }

    #[test]
    fn a_version_from_the_future_is_a_timeout_with_a_cause() {
        let error = page(&store_of(&["a"]), &[("resourceVersion", "99")]).unwrap_err();
        assert_eq!((error.code, error.reason), (504, "Timeout"));
        assert_eq!(page(&store_of(&[]), &[("limit", "x")]).unwrap_err().code, 400);
    }
}
