//! A watch of one cluster. What the news mean is decided in `cluster_wait`.

use switchyard_proto::api::v1 as pb;
use tonic::Status;

use super::{
    Hub, Token,
    reopening::{Raw, Reopening},
};
use crate::{
    error::{Failure, retry_after},
    model::Cluster,
};

/// What a watch gives. Errors that a reconnect may heal are news (`Lost`), the others are failures.
#[derive(Clone, Debug)]
pub enum ClusterNews {
    Opened,
    Cluster(Box<Cluster>),
    /// The hub knows no such cluster.
    NotFound,
    Lost(String),
}

pub struct ClusterWatch {
    hub: Hub,
    cluster: String,
    stream: Reopening<pb::WatchClustersResponse>,
    /// The token that the stream was opened with.
    sent: Option<Token>,
}

impl ClusterWatch {
    pub(super) fn new(hub: Hub, cluster: &str) -> Self {
        Self { hub, cluster: cluster.into(), stream: Reopening::new(), sent: None }
    }

    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<ClusterNews, Failure> {
        let (hub, cluster, sent) = (&self.hub, &self.cluster, &mut self.sent);
        let open = || {
            let mut client = Hub::clusters(hub.channel.clone());
            let request = hub.proved(pb::WatchClustersRequest { cluster: cluster.clone() }).map(|(request, token)| {
                *sent = token;
                request
            });
            async move { client.watch_clusters(request?).await }
        };
        match self.stream.next(open).await {
            Raw::Opened => Ok(ClusterNews::Opened),
            Raw::Message(pb::WatchClustersResponse { cluster: Some(cluster) }) => {
                Ok(ClusterNews::Cluster(Box::new(cluster.into())))
            }
            Raw::Message(pb::WatchClustersResponse { cluster: None }) => {
                self.stream.lost();
                Ok(ClusterNews::Lost("the hub sent an event without a cluster".into()))
            }
            Raw::Broken(status) => self.broken(&status),
        }
    }

    fn broken(&mut self, status: &Status) -> Result<ClusterNews, Failure> {
        // Asked again after a pause, if the caller goes on.
        self.stream.lost_for(retry_after(status));
        let what = format!("cannot watch cluster {}", self.cluster);
        Ok(self.hub.broken(&what, status, self.sent.as_ref())?.map_or(ClusterNews::NotFound, ClusterNews::Lost))
    }
}
