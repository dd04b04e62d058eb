//! The mutating webhook that adds readiness gates to new pods, for those who ask for it by a label of their namespace.
//!
//! It never refuses a pod, and what it does not understand it lets through unchanged; its configuration says `failurePolicy: Ignore`, so
//! pods are made without it, too. `review` decides (pure), `server` speaks HTTPS, `certificate` makes and judges certificates (pure
//! but for the dice of the keys), `keeper` keeps them. What reads and writes Kubernetes for it is `watch::webhook`.

pub mod certificate;
pub mod keeper;
pub mod review;
pub mod server;

#[cfg(test)]
mod keeper_tests;
#[cfg(test)]
mod server_tests;
