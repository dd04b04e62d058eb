//! A watch of one cluster. What the news mean is decided in `cluster_wait`.

use switchyard_proto::api::v1 as pb;
use tonic::{Code, Status};

use super::{
    Hub,
    reopening::{Raw, Reopening},
};
use crate::{
    error::{Failure, Kind, from_status, with_causes},
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
}

impl ClusterWatch {
    pub(super) fn new(hub: Hub, cluster: &str) -> Self {
        Self { hub, cluster: cluster.into(), stream: Reopening::new() }
    }

    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<ClusterNews, Failure> {
        let (channel, cluster) = (&self.hub.channel, &self.cluster);
        let open = || {
            let mut client = Hub::clusters(channel.clone());
            let request = pb::WatchClustersRequest { cluster: cluster.clone() };
            async move { client.watch_clusters(request).await }
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
        self.stream.lost();
        match status.code() {
            Code::NotFound => Ok(ClusterNews::NotFound),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Err(from_status(&format!("cannot watch cluster {}", self.cluster), &self.hub.url, Kind::Read, status))
            }
            _ => Ok(ClusterNews::Lost(with_causes(status))),
        }
    }
}
