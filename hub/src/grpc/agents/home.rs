//! Whether a cluster's agent still is where its cluster was: another VPC or region under a known name would have its pods
//! judged by the wrong load balancer, and so is refused for as long as a policy sends requests there. Pure.
//! Tests: over real gRPC in `hub/tests/grpc_agents.rs`.

use switchyard_core::{ids::ClusterName, inventory::Cluster};

use crate::{
    feed::{Picture, Policies},
    store::AgentHello,
};

/// An agent that says of itself what the hub knows otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: {value:?} is not what the hub knows of cluster {cluster}, which is {known:?}, and policy {policy} sends requests \
     there; start the agent with the VPC and region it really runs in; if the cluster was rebuilt elsewhere, announce it under a \
     new name, or take it out of every policy first"
)]
pub struct Moved {
    /// Who says so.
    pub cluster: ClusterName,
    /// The field of Hello.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// What the hub knows.
    pub known: String,
    /// The first policy that names the cluster.
    pub policy: String,
}

/// Compares a Hello with what is known of its cluster. A cluster that no policy names may move: nothing of it is at AWS. One
/// that is being deleted counts, since its rule may still be there.
///
/// # Errors
/// [`Moved`] for the first field that differs.
pub fn check(hello: &AgentHello, picture: &Picture) -> Result<(), Moved> {
    match picture.inventory.clusters.get(&hello.cluster) {
        Some(known) => compare(hello, known, &picture.policies),
        None => Ok(()),
    }
}

fn compare(hello: &AgentHello, known: &Cluster, policies: &Policies) -> Result<(), Moved> {
    let fields = [
        ("hello.region", hello.region.as_str(), known.region.as_str()),
        ("hello.vpc_id", hello.vpc_id.as_str(), known.vpc_id.as_str()),
    ];
    let Some((field, value, known)) = fields.into_iter().find(|(_, value, known)| value != known) else {
        return Ok(());
    };
    let names = |stored: &crate::store::StoredPolicy| {
        stored.record.policy.clusters.iter().any(|(name, _)| *name == hello.cluster)
    };
    match policies.iter().find(|(_, stored)| names(stored)) {
        Some((key, _)) => Err(Moved {
            cluster: hello.cluster.clone(),
            field,
            value: value.to_owned(),
            known: known.to_owned(),
            policy: key.to_string(),
        }),
        None => Ok(()),
    }
}
