//! What a real Kubernetes API server has to say: the control plane of `switchyard_tests::realkube`, our own programs against it.
//! One binary, so that tests share a server. Needs the programs to be built and a control plane: `make test` sees to both.

mod crd;
mod duel;
mod gates;
mod harness;
mod identity;
mod install;
mod joining;
mod kubelets;
mod policies;
mod rbac;
mod shifts;
mod views;
