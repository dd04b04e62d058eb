//! A small Kubernetes API server: enough of the real one that an unmodified client, its watchers and its patches behave.
//! One store and one listener per cluster. Knows nothing of pods that run: `workload` does, and it only uses the store.
//!
//! Where it is simpler than Kubernetes, for whoever compares: no schemas (types come from the table in `kinds`), no
//! admission, no OpenAPI, tokens are user names, a permission is taken away by a deny list.

pub mod apply;
mod defaults;
pub mod discovery;
pub mod fields;
pub mod kinds;
pub mod list;
pub mod object;
pub mod patch;
pub mod rbac;
mod requests;
mod route;
pub mod selector;
pub mod server;
pub mod status;
pub mod store;
pub mod strategy;
pub mod watch;
pub mod write;
