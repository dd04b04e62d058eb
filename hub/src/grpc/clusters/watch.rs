//! WatchClusters: the present clusters, then what differs from what this watcher was told last. Level-triggered: a slow watcher skips
//! what came in between and gets the latest. Heartbeats and counts of endpoints alone are no news; they are as of the last news.
//! Tests: `watch_tests.rs`, `hub/tests/grpc_fleet.rs`.

use std::{collections::BTreeMap, sync::Arc};

use switchyard_core::{access::Grants, ids::ClusterName};
use switchyard_proto::api::v1 as proto;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::show;
use crate::{
    feed::Picture,
    grpc::errors::{ApiError, to_status},
};

type Event = proto::WatchClustersResponse;

/// Which clusters a watcher wants.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only this one, also before anybody has seen it.
    pub only: Option<ClusterName>,
    /// Only what these allow to be read.
    pub seen: Grants,
}

/// What a watcher was told last: each cluster without what is no news.
#[derive(Default)]
pub struct Told {
    clusters: BTreeMap<ClusterName, proto::Cluster>,
}

impl Told {
    /// What to tell now, so that the watcher knows this picture.
    pub fn difference(&mut self, picture: &Picture, filter: &Filter) -> Vec<Event> {
        let only = filter.only.as_ref();
        let names: Vec<&ClusterName> = match only {
            Some(only) => vec![only],
            None => show::names(picture).into_iter().filter(|name| filter.seen.sees_cluster(name)).collect(),
        };
        self.clusters.retain(|name, _| names.contains(&name));
        let news = |name: &&ClusterName| {
            let state = picture.fleet.get(*name).map(AsRef::as_ref);
            let mut shown = show::cluster(name, state, picture, 0);
            show::cover(&mut shown, &filter.seen);
            let bare = proto::Cluster { last_seen: None, ..shown.clone() };
            let same = self.clusters.get(*name) == Some(&bare);
            (!same).then(|| (ClusterName::clone(name), shown, bare))
        };
        let news: Vec<_> = names.iter().filter_map(news).collect();
        if news.is_empty() {
            return Vec::new();
        }
        let counts = show::endpoints(picture, only);
        let tell = |(name, mut shown, bare): (ClusterName, proto::Cluster, proto::Cluster)| {
            shown.endpoints = counts.get(&name).copied().unwrap_or(0);
            self.clusters.insert(name, bare);
            Event { cluster: Some(shown) }
        };
        news.into_iter().map(tell).collect()
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
