//! Watches: changes from the store's log as lines, bookmarks, streaming lists. Knows the connection only as a stream that
//! somebody polls, and the server only as a question: may I go on? Tests with a real client are in `tests/kube_watch.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::list::{Scope, flag, number};
use super::object::{Object, text};
use super::status::ApiError;
use super::store::{Change, Store};

/// A watch without `timeoutSeconds` ends after half an hour; Kubernetes draws 30 to 60 minutes.
const DEFAULT_WATCH_SECONDS: u64 = 1_800;
/// Kubernetes sends bookmarks about once a minute; tests of a sandbox have not that much time.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// Changes looked at between two looks at the connection.
const BATCH: usize = 512;

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
            let cause = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(ApiError::invalid_options("ListOptions", "resourceVersionMatch", cause));
        }
        let seconds = number(query, "timeoutSeconds")?.filter(|s| *s > 0).unwrap_or(DEFAULT_WATCH_SECONDS);
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
        let mut meta = json!({"resourceVersion": self.version.to_string()});
        if end_of_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": meta});
        self.ready.push_back(Bytes::from(format!("{}\n", json!({"type": "BOOKMARK", "object": object}))));
    }

    fn push_error(&mut self, error: &ApiError) {
        self.ready.push_back(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": error.body()}))));
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
