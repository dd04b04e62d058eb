//! What makes a sandbox cluster live: nodes that run pods and have node ports, pods that answer HTTP, and the controllers for Deployments and
//! EndpointSlices. Works on the store of `kube` only; never on the API server, so that stopping that one stops no pod.

pub mod behaviour;
mod controllers;
pub mod deployment;
pub mod endpointslices;
pub mod kubelet;
pub mod node_ports;
mod node_table;
mod pod_server;
pub mod pod_status;
pub mod reach;

pub use controllers::Controllers;
