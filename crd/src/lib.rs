//! The custom resource definitions of Switchyard, made from the types that the hub itself reads: the schema comes from the types
//! and their comments, the rules in the Common Expression Language say what the hub's own validation says.
//!
//! One module per resource ([`traffic_policy`]); what all of them need is in [`schema`] (from JSON schema to the structural
//! schema of Kubernetes) and [`rules`] (rules and where they stand). The files in `charts/switchyard-crds/templates` are what
//! [`definitions`] gives; `crd/tests/chart.rs` holds them to it. That server and hub judge alike is tested with a real API
//! server, in `tests/tests/kubernetes/crd`. No IO, no Kubernetes client.

#![warn(missing_docs)]

pub mod rules;
pub mod schema;
pub mod traffic_policy;

use serde_json::{Value, json};

/// The file's first lines: where it comes from, and how it is made anew.
const HEADER: &str = "\
# Made from the types in core/src/policy/spec.rs and crd/src by
#   cargo run -p switchyard-crd -- charts/switchyard-crds/templates
# helm uninstall keeps the definition: with it all policies of the cluster would be deleted.
";

/// A custom resource definition and the file it belongs into.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The file's name in the chart.
    pub file: &'static str,
    /// The definition.
    pub manifest: Value,
}

impl Definition {
    /// The file, comment included.
    ///
    /// # Errors
    /// When YAML cannot say it, which no JSON value makes happen.
    pub fn yaml(&self) -> Result<String, serde_norway::Error> {
        Ok(format!("{HEADER}{}", serde_norway::to_string(&self.manifest)?))
    }
}

/// All of them, in the order of their names.
pub fn definitions() -> Vec<Definition> {
    vec![Definition { file: "clustertrafficpolicies.yaml", manifest: traffic_policy::definition() }]
}

/// Metadata that all of them have.
fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "annotations": {"helm.sh/resource-policy": "keep"},
        "labels": {"app.kubernetes.io/name": "switchyard-crds", "app.kubernetes.io/part-of": "switchyard"},
    })
}
