//! ListEndpoints: what agents reported, page by page, from the picture in memory. Writes nothing.

use switchyard_core::{
    ids::{ClusterName, Namespace, PodUid, ServiceName},
    inventory::{Endpoint, EndpointKey, EndpointState, Inventory, ServiceKey},
    observed::{Target, TargetId},
    policy::spec::TargetType,
};
use switchyard_proto::api::v1 as proto;

use super::show::must_be_known;
use crate::{
    feed::Picture,
    grpc::{
        caller::{may_read_cluster, may_read_namespace},
        convert::to_proto_endpoint,
        errors::ApiError,
        optional, page,
    },
    store::Caller,
};

/// Endpoints on one page; see the .proto file.
const DEFAULT_PAGE: u32 = 500;
const MOST_PAGE: u32 = 1000;

/// One page of the endpoints that are present.
///
/// # Errors
/// A violation of a filter or of the page, or that there is no such cluster.
pub fn list(
    caller: &Caller,
    picture: &Picture,
    request: &proto::ListEndpointsRequest,
) -> Result<proto::ListEndpointsResponse, ApiError> {
    let filter = Filter::new(request)?;
    let size = page::size(request.page_size, DEFAULT_PAGE, MOST_PAGE)?;
    let after = parse_token(&request.page_token)?;
    filter.namespace.iter().try_for_each(|namespace| may_read_namespace(caller, namespace))?;
    if let Some(cluster) = &filter.cluster {
        may_read_cluster(caller, cluster)?;
        must_be_known(caller, cluster, picture)?;
    }
    let seen = |cluster: &ClusterName, service: &ServiceKey| caller.grants.sees_cell(&service.namespace, cluster);
    let wanted = |cluster: &ClusterName, service: &ServiceKey| filter.takes(cluster, service) && seen(cluster, service);
    let mut found = matching(&picture.inventory, wanted, after.as_ref());
    let endpoints: Vec<(EndpointKey, &Endpoint)> =
        found.by_ref().take(size).map(|place| (place.key(), place.endpoint)).collect();
    let last = endpoints.last().filter(|_| found.next().is_some());
    Ok(proto::ListEndpointsResponse {
        next_page_token: last.map(|(key, _)| token(key)).unwrap_or_default(),
        endpoints: endpoints.iter().filter_map(|(key, endpoint)| to_proto_endpoint(key, endpoint)).collect(),
    })
}

/// True unless it is gone.
pub(super) fn is_present(endpoint: &Endpoint) -> bool {
    matches!(endpoint.state, EndpointState::Present { .. })
}

struct Filter {
    cluster: Option<ClusterName>,
    namespace: Option<Namespace>,
    service: Option<ServiceName>,
}

impl Filter {
    fn new(request: &proto::ListEndpointsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            cluster: optional("cluster", &request.cluster)?,
            namespace: optional("namespace", &request.namespace)?,
            service: optional("service", &request.service)?,
        })
    }

    fn takes(&self, cluster: &ClusterName, service: &ServiceKey) -> bool {
        self.cluster.as_ref().is_none_or(|wanted| wanted == cluster)
            && self.namespace.as_ref().is_none_or(|wanted| *wanted == service.namespace)
            && self.service.as_ref().is_none_or(|wanted| *wanted == service.name)
    }
}

/// One endpoint where it lies in the inventory; only what is shown is copied.
struct Place<'a> {
    cluster: &'a ClusterName,
    service: &'a ServiceKey,
    target: Target,
    pod_uid: &'a PodUid,
    endpoint: &'a Endpoint,
}

impl Place<'_> {
    fn key(&self) -> EndpointKey {
        EndpointKey {
            cluster: self.cluster.clone(),
            service: self.service.clone(),
            target: self.target,
            pod_uid: self.pod_uid.clone(),
        }
    }

    /// In the inventory's own order.
    fn is_behind(&self, key: &EndpointKey) -> bool {
        let place = (self.cluster, self.service, self.target, self.pod_uid);
        place > (&key.cluster, &key.service, key.target, &key.pod_uid)
    }
}

/// What is present and asked for, behind the key of the page before. Services before that key are not looked at.
fn matching<'a>(
    inventory: &'a Inventory,
    wanted: impl Fn(&ClusterName, &ServiceKey) -> bool + 'a,
    after: Option<&'a EndpointKey>,
) -> impl Iterator<Item = Place<'a>> {
    let from = after.map(|key| (&key.cluster, &key.service));
    let services = inventory.services_from(from).filter(move |(cluster, service)| wanted(cluster, service));
    let places = services.flat_map(|(cluster, service)| {
        let endpoints = inventory.endpoints_of(cluster, service).filter(|(_, _, endpoint)| is_present(endpoint));
        endpoints.map(move |(target, pod_uid, endpoint)| Place { cluster, service, target, pod_uid, endpoint })
    });
    places.filter(move |place| after.is_none_or(|key| place.is_behind(key)))
}

/// Parts of a key in a token.
const TOKEN_PARTS: usize = 7;

fn token(key: &EndpointKey) -> String {
    let EndpointKey { cluster, service, target, pod_uid } = key;
    let (id, port) = (target.id.to_string(), target.port.to_string());
    let service = [service.namespace.as_str(), service.name.as_str(), service.port.as_str()];
    page::token(&[cluster.as_str(), service[0], service[1], service[2], &id, &port, pod_uid.as_str()])
}

fn parse_token(text: &str) -> Result<Option<EndpointKey>, ApiError> {
    let Some(parts) = page::parse(text, TOKEN_PARTS)? else { return Ok(None) };
    let [cluster, namespace, name, service_port, id, port, pod_uid] = parts.as_slice() else {
        return Err(page::not_ours(text));
    };
    let key = || {
        let target = Target { id: id.parse().ok()?, port: port.parse().ok()? };
        // What an endpoint is says for what its Service was watched.
        let target_type = match target.id {
            TargetId::Ip(_) => TargetType::Ip,
            TargetId::Instance(_) => TargetType::Instance,
        };
        let service = ServiceKey {
            target_type,
            namespace: namespace.parse().ok()?,
            name: name.parse().ok()?,
            port: service_port.parse().ok()?,
        };
        Some(EndpointKey { cluster: cluster.parse().ok()?, service, target, pod_uid: pod_uid.parse().ok()? })
    };
    key().map(Some).ok_or_else(|| page::not_ours(text))
}
