//! Keeps a [`Store`] equal to what a real API server holds, for the kinds that the sandbox looks at. One task a kind, each a watch
//! that begins anew by itself when it breaks; while the server is away the mirror stays as it was.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kube::kinds::{DEPLOYMENTS, ENDPOINT_SLICES, KindId, NODES, PODS, SERVICES};
use crate::kube::store::{Key, Store, Write};
use crate::kube::strategy;

/// What the sandbox looks at.
const KINDS: [KindId; 5] = [PODS, NODES, SERVICES, ENDPOINT_SLICES, DEPLOYMENTS];

/// Begins to follow. The future says whether everything is there: false when the sandbox ended before.
pub fn start(
    client: &kube::Client,
    mirror: &Arc<Store>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> impl Future<Output = bool> + use<> {
    let complete = KINDS.map(|kind| {
        let row = kind.row();
        let resource = ApiResource {
            group: row.group.to_owned(),
            version: row.version.to_owned(),
            api_version: row.api_version(),
            kind: row.kind.to_owned(),
            plural: row.plural.to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let (complete, seen) = oneshot::channel();
        let follower = Follower {
            kind,
            mirror: mirror.clone(),
            listed: BTreeSet::new(),
            complete: Some(complete),
            failing: false,
        };
        let shutdown = shutdown.clone();
        tasks.spawn(async move { shutdown.run_until_cancelled(follower.run(api)).await });
        seen
    });
    async move { futures::future::join_all(complete).await.into_iter().all(|seen| seen.is_ok()) }
}

struct Follower {
    kind: KindId,
    mirror: Arc<Store>,
    /// The keys of a list that is under way.
    listed: BTreeSet<Key>,
    complete: Option<oneshot::Sender<()>>,
    failing: bool,
}

impl Follower {
    async fn run(mut self, api: Api<DynamicObject>) {
        let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event),
                // Once a break, not once a try: a server that is away is tried again and again.
                Err(error) if !self.failing => {
                    self.failing = true;
                    tracing::warn!(kind = self.kind.row().plural, %error, "an external API server cannot be followed; trying again");
                }
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, event: Event<DynamicObject>) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(kind = self.kind.row().plural, "an external API server is followed again");
        }
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let key = key_of(&object);
                self.put(&key, object);
                self.listed.insert(key);
            }
            Event::InitDone => {
                for object in self.mirror.list(self.kind, None).1 {
                    let key = (object.namespace().to_owned(), object.name().to_owned());
                    if !self.listed.contains(&key) {
                        self.remove(&key);
                    }
                }
                // Nobody waits for it the second time.
                self.complete.take().map(|complete| complete.send(()));
            }
            Event::Apply(object) => self.put(&key_of(&object), object),
            Event::Delete(object) => self.remove(&key_of(&object)),
        }
    }

    fn put(&self, key: &Key, object: DynamicObject) {
        // What was read from JSON can be written as JSON.
        let value = serde_json::to_value(object).unwrap_or(Value::Null);
        let Ok(_stored) = self.mirror.modify(self.kind, key, |before| {
            let same = before.is_some_and(|before| strategy::unchanged(before.value(), &value));
            Ok::<_, Infallible>(if same { Write::Nothing } else { Write::Put(value) })
        });
    }

    fn remove(&self, key: &Key) {
        let Ok(_gone) = self.mirror.modify(self.kind, key, |_| Ok::<_, Infallible>(Write::Remove));
    }
}

fn key_of(object: &DynamicObject) -> Key {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default())
}
