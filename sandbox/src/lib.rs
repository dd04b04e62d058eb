//! Try Switchyard without a cloud: an ELBv2 API with a real data plane, small Kubernetes API servers, pods that answer,
//! and a load generator, in one process on loopback addresses.

pub mod addresses;
pub mod args;
pub mod cloudwatch;
pub mod cluster;
pub mod compose;
pub mod control;
pub mod elb;
pub mod external;
mod files;
#[doc(hidden)]
pub mod fuzz;
pub mod kube;
pub mod load;
pub mod objects;
pub mod serve;
pub mod workload;
