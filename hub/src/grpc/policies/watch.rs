//! WatchPolicies: the present policies, then what differs from what this watcher was told last. Level-triggered: a slow watcher
//! skips what came in between and gets the latest, and what changed back is not sent.

use std::{collections::BTreeMap, sync::Arc};

use switchyard_core::{
    access::Grants,
    ids::{Namespace, PolicyKey},
};
use switchyard_proto::api::v1 as proto;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    feed::Picture,
    grpc::{
        convert::{Links, links, to_proto_policy},
        errors::{ApiError, to_status},
    },
    store::StoredPolicy,
};

/// Which policies a watcher wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this namespace.
    pub namespace: Option<Namespace>,
    /// Only this one.
    pub policy: Option<PolicyKey>,
    /// Only those that these allow to be read.
    pub seen: Grants,
}

impl Filter {
    /// True when the watcher wants it.
    pub fn takes(&self, key: &PolicyKey) -> bool {
        self.seen.sees_namespace(&key.namespace)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.policy.as_ref().is_none_or(|policy| policy == key)
    }
}

/// What a watcher was told last.
#[derive(Default)]
pub struct Told {
    policies: BTreeMap<PolicyKey, (Arc<StoredPolicy>, proto::Policy)>,
    links: Links,
    synced: bool,
}

type Event = proto::WatchPoliciesResponse;

fn event(kind: proto::WatchEvent, policy: Option<proto::Policy>) -> Event {
    proto::WatchPoliciesResponse { event: kind.into(), policy }
}

impl Told {
    /// What to tell now, so that the watcher knows this picture.
    pub fn difference(&mut self, picture: &Picture, filter: &Filter) -> Vec<Event> {
        let mut events = Vec::new();
        let links = links(picture);
        let same_links = links == self.links;
        let gone: Vec<PolicyKey> =
            self.policies.keys().filter(|key| !picture.policies.contains_key(*key)).cloned().collect();
        for key in gone {
            let last = self.policies.remove(&key).map(|(_, policy)| policy);
            events.push(event(proto::WatchEvent::Deleted, last));
        }
        let kind = if self.synced { proto::WatchEvent::Changed } else { proto::WatchEvent::Present };
        for (key, stored) in picture.policies.iter().filter(|(key, _)| filter.takes(key)) {
            let told = self.policies.get(key);
            if same_links && told.is_some_and(|(before, _)| Arc::ptr_eq(before, stored)) {
                continue;
            }
            let policy = to_proto_policy(stored, &links);
            // Deleted and made again between two looks: to the watcher these are two policies.
            if let Some((_, before)) = told.filter(|(_, before)| before.uid != policy.uid) {
                events.push(event(proto::WatchEvent::Deleted, Some(before.clone())));
            }
            if told.is_none_or(|(_, before)| *before != policy) {
                events.push(event(kind, Some(policy.clone())));
            }
            self.policies.insert(key.clone(), (Arc::clone(stored), policy));
        }
        self.links = links;
        if !self.synced {
            self.synced = true;
            events.push(event(proto::WatchEvent::Synced, None));
        }
        events
    }
}

/// Tells one watcher, until it or the hub goes away.
pub async fn run(
    mut pictures: watch::Receiver<Arc<Picture>>,
    filter: Filter,
    outbox: mpsc::Sender<Result<Event, Status>>,
    shutdown: CancellationToken,
) {
    let mut told = Told::default();
    loop {
        // The picture is let go before anything is sent: a watcher that does not read must not keep an old inventory alive.
        let picture = Arc::clone(&pictures.borrow_and_update());
        let events = if picture.loaded { told.difference(&picture, &filter) } else { Vec::new() };
        drop(picture);
        for event in events {
            tokio::select! {
                sent = outbox.send(Ok(event)) => {
                    if sent.is_err() {
                        return;
                    }
                }
                () = shutdown.cancelled() => return,
            }
        }
        let alive = tokio::select! {
            changed = pictures.changed() => changed.is_ok(),
            () = outbox.closed() => return,
            () = shutdown.cancelled() => false,
        };
        if !alive {
            // Told when there is room; a caller that does not read sees the connection end.
            drop(outbox.try_send(Err(to_status(&ApiError::Shutdown))));
            return;
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
