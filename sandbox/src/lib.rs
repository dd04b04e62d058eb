//! Try Switchyard without a cloud: an ELBv2 API with a real data plane, small Kubernetes API servers, pods that answer,
//! and a load generator, in one process on loopback addresses.

pub mod elb;
pub mod kube;
pub mod serve;
