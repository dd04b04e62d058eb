//! What is kept of a resource that the hub is told of, and what the watcher says of it. Values only.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;

use super::{events::Draft, status::ResourceStatus};

/// API group of the resource.
pub const GROUP: &str = "switchyard.dev";
/// Version that the agent reads and writes.
pub const VERSION: &str = "v1alpha1";
/// Bytes of a spec as JSON: the contract's limit.
pub const MAX_SPEC_BYTES: usize = 64 * 1024;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The value of `.spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// As JSON, at most [`MAX_SPEC_BYTES`].
    Text(Arc<str>),
    /// Longer than that, so it was not kept.
    TooLarge {
        /// How long it is as JSON.
        bytes: usize,
    },
}

/// The status of one kind of resource that the hub is told of and writes a status to, with what the kind is called.
pub trait Shown: Debug + Clone + Default + PartialEq + Serialize + Send + Sync + 'static {
    /// The kind.
    const KIND: &'static str;
    /// Its plural, as in URLs.
    const PLURAL: &'static str;
    /// The name of its definition.
    const DEFINITION: &'static str;
    /// Several of them, as the first word of a sentence.
    const NOUN: &'static str;

    /// What a resource shows; empty when it makes no sense.
    fn parse(shown: Value) -> Self;
    /// True when a resource that shows this need not be written.
    fn shows(&self, wanted: &Self) -> bool;
    /// What of a change is worth an Event.
    fn events(before: &Self, now: &Self) -> Vec<Draft>;
    /// What is said of a spec of so many bytes, which the hub never saw.
    #[must_use]
    fn of_too_large(self, bytes: usize) -> Self;
}

/// A resource as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource<S = ResourceStatus> {
    /// Where it is.
    pub key: Key,
    /// Which it is: another resource of the same name has another UID.
    pub uid: String,
    /// Counts the changes of its spec.
    pub generation: u64,
    /// The version that this was read at; a write that names it fails when the resource has changed since.
    pub resource_version: String,
    /// What its author asks for.
    pub spec: Spec,
    /// The status that it shows now.
    pub status: S,
}

/// What the watcher says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent<S = ResourceStatus> {
    /// A list begins; what the one before had not finished is void.
    ListStarted,
    /// Part of the list.
    Listed(Box<Resource<S>>),
    /// The list is complete, and the resource definition stood while it was made: what is not in it is not in the cluster.
    ListDone,
    /// Created or changed.
    Applied(Box<Resource<S>>),
    /// Seen to be deleted while the resource definition stood.
    Deleted {
        /// Where it was.
        key: Key,
        /// Which it was.
        uid: String,
    },
    /// The resources cannot be seen; what was seen last stays in force.
    Failing(String),
    /// The API server accepted a watch.
    Following,
}
