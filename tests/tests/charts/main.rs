//! The Helm charts, judged by the real helm and a real Kubernetes API server. Needs the programs of `scripts/kube-tools.sh`, which
//! `make test` sees to.

mod install;
mod render;
