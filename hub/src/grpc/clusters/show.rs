//! Member clusters as callers see them, from the picture in memory. Pure.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_core::{
    access::Grants,
    fleet::{ClusterState, MOST_PROGRESS},
    ids::ClusterName,
};
use switchyard_proto::api::v1 as proto;

use super::endpoints::is_present;
use crate::{
    feed::Picture,
    grpc::{
        convert_fleet::{ClusterParts, to_proto_cluster},
        errors::ApiError,
    },
    store::Caller,
};

/// A cluster is known when an agent announced it, a policy names it (its agent may still come), or an operator once wanted something
/// of it.
///
/// # Errors
/// [`ApiError::UnknownCluster`] with those that are known and that the caller may read.
pub fn must_be_known(caller: &Caller, asked: &ClusterName, picture: &Picture) -> Result<(), ApiError> {
    let named =
        || picture.policies.values().flat_map(|stored| stored.record.policy.clusters.iter().map(|(name, _)| name));
    let kept = || picture.inventory.clusters.keys().chain(picture.fleet.keys());
    if kept().chain(named()).any(|name| name == asked) {
        return Ok(());
    }
    let seen = kept().chain(named()).filter(|name| caller.grants.sees_cluster(name));
    Err(ApiError::UnknownCluster { asked: asked.clone(), known: seen.cloned().collect() })
}

/// The clusters that agents announced or operators wanted something of.
pub fn names(picture: &Picture) -> BTreeSet<&ClusterName> {
    picture.inventory.clusters.keys().chain(picture.fleet.keys()).collect()
}

/// All of them that these grants show. The progress of all operations together is cut to [`MOST_PROGRESS`] policies, so that the answer stays one that every
/// client takes.
pub fn all(picture: &Picture, seen: &Grants) -> Vec<proto::Cluster> {
    let counts = endpoints(picture, None);
    let mut room = MOST_PROGRESS;
    let names = names(picture).into_iter().filter(|name| seen.sees_cluster(name));
    let shown = names.map(|name| {
        let state = picture.fleet.get(name).map(AsRef::as_ref);
        let mut cluster = cluster(name, state, picture, counts.get(name).copied().unwrap_or(0));
        cover(&mut cluster, seen);
        if let Some(operation) = &mut cluster.operation {
            operation.progress.truncate(room);
            room -= operation.progress.len();
        }
        cluster
    });
    shown.collect()
}

/// One of them, with this state.
pub fn one(name: &ClusterName, state: Option<&ClusterState>, picture: &Picture) -> proto::Cluster {
    let count = endpoints(picture, Some(name)).get(name).copied().unwrap_or(0);
    cluster(name, state, picture, count)
}

/// One of them, its endpoints counted already.
pub fn cluster(name: &ClusterName, state: Option<&ClusterState>, picture: &Picture, endpoints: u32) -> proto::Cluster {
    let (announced, info) = (picture.inventory.clusters.get(name), picture.clusters.get(name));
    to_proto_cluster(&ClusterParts { name, announced, info, state, endpoints })
}

/// Leaves out of what is shown of a cluster what speaks of namespaces that these grants do not show.
pub fn cover(cluster: &mut proto::Cluster, seen: &Grants) {
    let Some(seen) = seen.seen_namespaces() else { return };
    let shows = |namespace: &str| seen.iter().any(|one| one.as_str() == namespace);
    cluster.problems.retain(|problem| problem.namespace.is_empty() || shows(&problem.namespace));
    let Some(operation) = &mut cluster.operation else { return };
    let all = operation.progress.len();
    operation.progress.retain(|one| one.policy.as_ref().is_some_and(|policy| shows(&policy.namespace)));
    let hidden = all - operation.progress.len();
    // Past this many the list was cut, and the sentence may speak of one that is not in it.
    if hidden > 0 || all >= MOST_PROGRESS {
        operation.message =
            format!("{hidden} of the {all} policies that it concerns are in namespaces that you may not read");
    }
}

/// How many endpoints each cluster has, or only this one.
pub fn endpoints<'p>(picture: &'p Picture, only: Option<&ClusterName>) -> BTreeMap<&'p ClusterName, u32> {
    let mut counts: BTreeMap<&ClusterName, u32> = BTreeMap::new();
    let services = picture.inventory.services_from(None);
    for (cluster, service) in services.filter(|(cluster, _)| only.is_none_or(|only| only == *cluster)) {
        let present = |endpoint: &_| is_present(endpoint);
        let of_service = picture.inventory.endpoints_of(cluster, service);
        let count = of_service.filter(|(_, _, endpoint)| present(endpoint)).count();
        *counts.entry(cluster).or_default() += u32::try_from(count).unwrap_or(u32::MAX);
    }
    counts
}
