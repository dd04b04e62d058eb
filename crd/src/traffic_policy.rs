//! The definition of ClusterTrafficPolicy: names, columns, and what of the schema is not in the types. The rules are in
//! [`validation`], the status in [`status`].

pub mod status;
pub mod validation;

use switchyard_core::policy::{
    PolicySpec, spec,
    validate::{MOST_TAG_CHARACTERS, MOST_TAGS},
};

use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::{Names, age, column, number, rules, schema, wide};

const ABOUT: &str = "Requests that match this, on this listener of an AWS Application Load Balancer, go to this Service, in \
these clusters, in these shares. The hub keeps one target group per policy and cluster and one listener rule per policy.";

/// The resource, for its schema only.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the schema of it is of use")]
struct Resource {
    /// What is wanted. Switchyard never writes it; weights that are set with yardctl lie over it and show in the status.
    spec: PolicySpec,
    /// What is in force, written by the agent of this cluster.
    status: Option<status::PolicyStatus>,
}

/// `clustertrafficpolicies.switchyard.dev`.
pub fn definition() -> Value {
    let names =
        Names { kind: spec::KIND, plural: "clustertrafficpolicies", singular: "clustertrafficpolicy", short: "ctp" };
    crate::definition(&names, resource_schema(), columns())
}

/// The schema of the whole resource, rules included.
pub fn resource_schema() -> Value {
    let mut schema = crate::root(schema::structural::<Resource>(), spec::KIND, ABOUT);
    bound(&mut schema);
    rules::attach(&mut schema, &validation::rules());
    schema
}

/// What the types cannot say of maps, of a port by name or number, and of lists that several may write.
fn bound(schema: &mut Value) {
    let (most_key, most_value) = MOST_TAG_CHARACTERS;
    let tags = rules::find(schema, "spec.listener.tags");
    tags.insert("maxProperties".to_owned(), json!(MOST_TAGS));
    tags["additionalProperties"]["maxLength"] = json!(most_value);
    // The length of a key has no place in a structural schema: see the rule.
    debug_assert_eq!(most_key, 128);
    rules::find(schema, "spec.backend.service.port").insert("maxLength".to_owned(), json!(63));
    crate::keyed(schema, &[("spec.clusters", "name"), ("status.clusters", "name"), ("status.conditions", "type")]);
}

/// What `kubectl get` shows; those with a priority only with `-o wide`.
fn columns() -> Value {
    let condition = |kind: &str| format!(".status.conditions[?(@.type==\"{kind}\")].status");
    json!([
        column("Weights", ".status.weights", "Weights that are asked for"),
        column("Programmed", ".status.programmed", "Weights as read back from the load balancer"),
        column("Accepted", &condition("Accepted"), "Whether this generation is valid and in force"),
        column("Converged", &condition("Converged"), "Whether the load balancer serves it"),
        column("FailedOver", &condition("FailedOver"), "Whether weights differ from what is asked for"),
        column("Reason", ".status.reason", "Why it is not served as asked"),
        age(),
        wide(column("Claim", ".status.claim", "Whether this resource is the policy of its name")),
        wide(number("Priority", ".status.rule.priority", "Priority of the listener rule")),
        wide(column("Listener", ".status.rule.listenerArn", "ARN of the listener")),
    ])
}
