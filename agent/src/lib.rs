//! The agent of one member cluster: it watches Services, EndpointSlices, Pods and Nodes, joins them into endpoints, and streams
//! those to the hub. It holds no AWS credentials. What it writes to Kubernetes is the status of policies, Events, the conditions of
//! readiness gates and the certificate of their webhook, each only where it is asked to.
//!
//! `index` decides what is so (pure), `watch` is the only user of the Kubernetes client, `link` speaks with the hub, `policies`
//! brings policies to the hub and their status back, `gates` decides when pods are ready, `webhook` adds gates to new pods,
//! `identity` gets and renews
//! the certificate that the hub knows this agent by, `app` puts them together.

pub mod app;
pub mod args;
pub mod backoff;
pub mod complaints;
pub mod gates;
pub mod http;
pub mod identity;
pub mod index;
pub mod link;
pub mod metrics;
pub mod policies;
pub mod shifts;
mod text;
pub mod watch;
pub mod webhook;
