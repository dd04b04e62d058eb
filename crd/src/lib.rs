//! The custom resource definitions of Switchyard, made from the types that the hub itself reads: the schema comes from the types
//! and their comments, the rules in the Common Expression Language say what the hub's own validation says.
//!
//! One module per resource ([`traffic_policy`], [`traffic_shift`]); what all of them need is in [`schema`] (from JSON schema to the structural
//! schema of Kubernetes) and [`rules`] (rules and where they stand). The files in `charts/switchyard-crds/templates` are what
//! [`definitions`] gives; `crd/tests/chart.rs` holds them to it. That server and hub judge alike is tested with a real API
//! server, in `tests/tests/kubernetes/crd`. No IO, no Kubernetes client.

#![warn(missing_docs)]

mod condition;
pub mod rules;
pub mod schema;
pub mod traffic_policy;
pub mod traffic_shift;

use serde_json::{Value, json};
use switchyard_core::policy::spec::API_VERSION;

/// The file's first lines: where it comes from, and how it is made anew.
const HEADER: &str = "\
# Made from the types in core/src/{policy,shift}/spec.rs and crd/src by
#   cargo run -p switchyard-crd -- charts/switchyard-crds/templates
# helm uninstall keeps the definition: with it all resources of its kind in the cluster would be deleted.
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
    vec![
        Definition { file: "clustertrafficpolicies.yaml", manifest: traffic_policy::definition() },
        Definition { file: "trafficshifts.yaml", manifest: traffic_shift::definition() },
    ]
}

/// What a resource is called.
struct Names {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
}

/// A definition with one version, namespaced, with a status that is written apart from the spec.
fn definition(names: &Names, schema: Value, columns: Value) -> Value {
    let (group, version) = API_VERSION.split_once('/').expect("an API version is group/version");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{group}", names.plural),
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app.kubernetes.io/name": "switchyard-crds", "app.kubernetes.io/part-of": "switchyard"},
        },
        "spec": {
            "group": group,
            "names": {
                "kind": names.kind,
                "listKind": format!("{}List", names.kind),
                "plural": names.plural,
                "singular": names.singular,
                "shortNames": [names.short],
                "categories": ["switchyard"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
            }],
        },
    })
}

/// The fields that every resource has, and what it is for.
fn root(mut schema: Value, kind: &str, about: &str) -> Value {
    for (name, description) in [("apiVersion", format!("{API_VERSION}.")), ("kind", format!("{kind}."))] {
        schema["properties"][name] = json!({"type": "string", "description": description});
    }
    schema["properties"]["metadata"] = json!({"type": "object"});
    schema["description"] = json!(about);
    schema
}

/// Makes lists maps by a key, so that several may write to one and no key is there twice.
fn keyed(schema: &mut Value, lists: &[(&str, &str)]) {
    for (list, key) in lists {
        let list = rules::find(schema, list);
        list.insert("x-kubernetes-list-type".to_owned(), json!("map"));
        list.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
    }
}

/// A column of `kubectl get` with a text.
fn column(name: &str, path: &str, about: &str) -> Value {
    json!({"name": name, "type": "string", "jsonPath": path, "description": about})
}

/// One with a whole number.
fn number(name: &str, path: &str, about: &str) -> Value {
    json!({"name": name, "type": "integer", "jsonPath": path, "description": about})
}

/// One that only `-o wide` shows.
fn wide(mut column: Value) -> Value {
    column["priority"] = json!(1);
    column
}

/// How old the resource is, the last of those that are always shown.
fn age() -> Value {
    json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
}
