//! ClusterService: member clusters and their endpoints, from the picture in memory. Writes nothing.

use std::collections::BTreeMap;

use switchyard_core::{
    ids::{ClusterName, Namespace, ServiceName},
    inventory::{EndpointKey, EndpointState, Inventory},
};
use switchyard_proto::api::v1::{self as proto, cluster_service_server::ClusterService};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    convert::{to_proto_cluster, to_proto_endpoint},
    errors::ApiError,
    page,
};

/// Endpoints on one page; see the .proto file.
const DEFAULT_PAGE: u32 = 500;
const MOST_PAGE: u32 = 1000;

/// The service.
pub struct Clusters {
    reading: Reading,
}

impl Clusters {
    /// A service that reads there.
    pub fn new(reading: Reading) -> Self {
        Self { reading }
    }

    fn list_clusters(&self) -> Result<proto::ListClustersResponse, ApiError> {
        let picture = self.reading.picture()?;
        let mut counts: BTreeMap<ClusterName, u32> = BTreeMap::new();
        for (key, endpoint) in picture.inventory.endpoints() {
            if matches!(endpoint.state, EndpointState::Present { .. }) {
                *counts.entry(key.cluster).or_default() += 1;
            }
        }
        let clusters = picture.inventory.clusters.iter().map(|(name, cluster)| {
            let count = counts.get(name).copied().unwrap_or(0);
            to_proto_cluster(cluster, picture.clusters.get(name), count)
        });
        Ok(proto::ListClustersResponse { clusters: clusters.collect() })
    }

    fn list_endpoints(&self, request: &proto::ListEndpointsRequest) -> Result<proto::ListEndpointsResponse, ApiError> {
        let picture = self.reading.picture()?;
        let filter = Filter::new(request)?;
        let size = page::size(request.page_size, DEFAULT_PAGE, MOST_PAGE)?;
        let after = page::parse(&request.page_token, 7)?;
        let mut found = matching(&picture.inventory, &filter, after.as_deref());
        let endpoints: Vec<(EndpointKey, proto::EndpointInfo)> = found.by_ref().take(size).collect();
        let last = endpoints.last().filter(|_| found.next().is_some());
        Ok(proto::ListEndpointsResponse {
            next_page_token: last.map(|(key, _)| token(key)).unwrap_or_default(),
            endpoints: endpoints.into_iter().map(|(_, endpoint)| endpoint).collect(),
        })
    }
}

struct Filter {
    cluster: Option<ClusterName>,
    namespace: Option<Namespace>,
    service: Option<ServiceName>,
}

impl Filter {
    fn new(request: &proto::ListEndpointsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            cluster: super::optional("cluster", &request.cluster)?,
            namespace: super::optional("namespace", &request.namespace)?,
            service: super::optional("service", &request.service)?,
        })
    }

    fn takes(&self, key: &EndpointKey) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| *cluster == key.cluster)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.service.namespace)
            && self.service.as_ref().is_none_or(|service| *service == key.service.name)
    }
}

/// The parts of a key in the order in which the inventory lists endpoints, the port in a width that sorts as a number does.
fn parts(key: &EndpointKey) -> [String; 7] {
    [
        key.cluster.to_string(),
        key.service.namespace.to_string(),
        key.service.name.to_string(),
        key.service.port.to_string(),
        key.target.address.to_string(),
        key.target.port.to_string(),
        key.pod_uid.to_string(),
    ]
}

fn token(key: &EndpointKey) -> String {
    page::token(&parts(key).each_ref().map(String::as_str))
}

/// Whether the key comes after the one of the token, in the inventory's own order. A token whose address does not parse any more
/// begins at the address's Service.
fn is_after(key: &EndpointKey, after: &[String]) -> bool {
    let service = |key: &EndpointKey| {
        let [cluster, namespace, name, port, ..] = parts(key);
        [cluster, namespace, name, port]
    };
    let place = service(key);
    match place.as_slice().cmp(&after[..4]) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => {
            let target = (after[4].parse().ok(), after[5].parse().ok());
            let (Some(address), Some(port)) = target else {
                return true;
            };
            let target = switchyard_core::observed::Target { address, port };
            (key.target, key.pod_uid.as_str()) > (target, after[6].as_str())
        }
    }
}

fn matching<'a>(
    inventory: &'a Inventory,
    filter: &'a Filter,
    after: Option<&'a [String]>,
) -> impl Iterator<Item = (EndpointKey, proto::EndpointInfo)> + 'a {
    inventory.endpoints().filter_map(move |(key, endpoint)| {
        let wanted = filter.takes(&key) && after.is_none_or(|after| is_after(&key, after));
        let info = wanted.then(|| to_proto_endpoint(&key, endpoint)).flatten()?;
        Some((key, info))
    })
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn list_clusters(
        &self,
        _: Request<proto::ListClustersRequest>,
    ) -> Result<Response<proto::ListClustersResponse>, Status> {
        self.reading.answer("ListClusters", self.list_clusters())
    }

    async fn list_endpoints(
        &self,
        request: Request<proto::ListEndpointsRequest>,
    ) -> Result<Response<proto::ListEndpointsResponse>, Status> {
        self.reading.answer("ListEndpoints", self.list_endpoints(request.get_ref()))
    }
}
