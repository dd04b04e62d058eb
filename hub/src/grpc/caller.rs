//! Who calls, as the layer in front of the services found out ([`Access`]), and what he may be shown. What a change needs is asked
//! of the [`Caller`] itself, here by name and namespace, before anything is told of what exists, and once more by the store, for what
//! the change really touches. Tests: `hub/tests/grpc_rights.rs`.

use switchyard_core::{
    access::{Role, Touch},
    ids::{ClusterName, Namespace, PolicyKey},
    shift::Shift,
};
use tonic::Request;

use super::errors::ApiError;
use crate::{access::Access, store::Caller};

/// The caller of a change. A dry run stores nothing and needs no id.
pub fn caller<T>(request: &Request<T>, request_id: &str, dry_run: bool, reason: &str) -> Caller {
    let access = Access::of(request);
    Caller {
        request_id: if dry_run { "dry-run" } else { request_id }.to_owned(),
        actor: access.identity().to_string(),
        reason: reason.to_owned(),
        source: access.source(),
        grants: access.grants().clone(),
    }
}

/// The caller of a read.
pub fn reader<T>(request: &Request<T>) -> Caller {
    caller(request, "", false, "")
}

/// An agent that speaks for another cluster than that of its certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{identity} may not speak for cluster {named}: an agent speaks for the cluster of its certificate and for no other; start it with \
     that cluster's name, or get a certificate for {named} with a join token (yardctl cluster join {named})"
)]
pub struct NotYours {
    /// Who called.
    pub identity: String,
    /// The cluster that he named.
    pub named: ClusterName,
}

/// Refuses whoever speaks for a cluster that is not his.
///
/// # Errors
/// [`NotYours`].
pub fn speaks_for(access: &Access, named: &ClusterName) -> Result<(), NotYours> {
    if access.speaks_for(named) {
        return Ok(());
    }
    Err(NotYours { identity: access.identity().to_string(), named: named.clone() })
}

/// Refuses whoever may not read policies of this namespace.
///
/// # Errors
/// [`ApiError::MayNot`].
pub fn may_read_namespace(caller: &Caller, namespace: &Namespace) -> Result<(), ApiError> {
    Ok(caller.may(Role::Viewer, &Touch::Policy(namespace), format_args!("read policies of namespace {namespace}"))?)
}

/// Refuses whoever may not read this policy, whether there is one or not.
///
/// # Errors
/// [`ApiError::MayNot`].
pub fn may_read_policy(caller: &Caller, key: &PolicyKey) -> Result<(), ApiError> {
    Ok(caller.may(Role::Viewer, &Touch::Policy(&key.namespace), format_args!("read policy {key}"))?)
}

/// Refuses whoever may not read this cluster, whether there is one or not.
///
/// # Errors
/// [`ApiError::MayNot`].
pub fn may_read_cluster(caller: &Caller, cluster: &ClusterName) -> Result<(), ApiError> {
    Ok(caller.may(Role::Viewer, &Touch::SomeCluster(cluster), format_args!("read cluster {cluster}"))?)
}

/// Refuses whoever may not read every policy that a shift moves: it shows the weights of all of them.
///
/// # Errors
/// [`ApiError::MayNot`].
pub fn may_read_shift(caller: &Caller, shift: &Shift) -> Result<(), ApiError> {
    for one in &shift.moves {
        let touch = Touch::Policy(&one.policy.namespace);
        caller.may(Role::Viewer, &touch, format_args!("read shift {}", shift.id))?;
    }
    Ok(())
}
