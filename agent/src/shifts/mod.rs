//! Shifts that are asked for by TrafficShift resources of this cluster: their way to the hub, and their status on the way back.
//!
//! `session` is the state machine of the stream; `status` is what a resource shows, and what of it is worth an Event. Both are values
//! in, values out: no IO, no clock. `driver` lets them work together with the link, the watcher and the Kubernetes API; watching,
//! writing and pacing are those of policies (`policies::writer`, `watch::policies`).
//!
//! A resource is handled as text: whether its spec makes sense is the hub's to say. The spec is never written. A resource that has
//! ended is not told any more; one that is deleted changes nothing at the hub.

pub mod driver;
pub mod session;
pub mod status;

#[cfg(test)]
mod session_tests;
