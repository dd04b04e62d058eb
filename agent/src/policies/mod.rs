//! Policies that stand in this cluster as ClusterTrafficPolicy resources: their way to the hub, and their status on the way back.
//!
//! `session` is the state machine of the stream, over the `table` of what the cluster shows. `guard` decides when a deletion is
//! believed. `writer` decides which status is written when, and `events` what is worth an Event. All of these are values in, values
//! out: no IO, no clock. `driver` lets them work together with the link, the watcher and the Kubernetes API.
//!
//! A resource is handled as text: whether its spec makes sense is the hub's to say, so that an agent of another version than the hub
//! never stands in a policy's way. The spec is never written.

pub mod driver;
pub mod events;
pub mod guard;
pub mod messages;
pub mod objects;
pub mod session;
pub mod status;
mod table;
pub mod writer;

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod writer_tests;
