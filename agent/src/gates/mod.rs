//! Readiness gates: a pod with the gate `target-health.switchyard.dev/<policy>` becomes ready when the load balancer finds its target
//! healthy, so that a rollout does not outrun the load balancer.
//!
//! `machine` decides what each gate says (with `hub`: what the hub said and since when it says nothing), `pods` which pods there are,
//! `services` and `inject` which gates a new pod gets, `stream` how the hub is followed. These are pure. `wire` reads protobuf,
//! `driver` is the loop; what writes to Kubernetes is `watch::gates`.

pub mod driver;
pub mod hub;
pub mod inject;
pub mod machine;
pub mod objects;
pub mod pods;
mod services;
pub mod stream;
pub mod wire;

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
