//! The agent of one member cluster: it watches Services, EndpointSlices, Pods and Nodes, joins them into endpoints, and streams
//! those to the hub. It holds no AWS credentials and writes nothing to Kubernetes.
//!
//! `index` decides what is so (pure), `watch` is the only user of the Kubernetes client, `link` speaks with the hub.

pub mod backoff;
pub mod index;
pub mod metrics;
mod text;
pub mod watch;
