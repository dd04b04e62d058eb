//! Every file of `examples/cd` is carried out: its scripts, containers and calls are taken from the file as it is and run against the
//! real hub, over TLS with tokens (or a client certificate), while the sandbox's load balancer shows what came of it. What a CD system would do
//! around them (expressions, variables, replaced pods, polling) is done here by the few lines of each module; the Jobs are made by a
//! real Kubernetes API server and its Job controller. Needs `scripts/grpcurl.sh`, `scripts/kube-tools.sh`, bash, curl and jq.

mod argo_cd;
mod argo_rollouts;
mod expressions;
mod fields;
mod github;
mod github_token;
mod grpcurl;
mod jobs;
mod page;
mod scene;
mod shell;
mod spinnaker;
mod tekton;

/// The files that the tests of this binary run.
const RUN: [&str; 6] = [argo_cd::FILE, argo_rollouts::FILE, github::FILE, grpcurl::FILE, spinnaker::FILE, tekton::FILE];
