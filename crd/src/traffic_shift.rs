//! The definition of TrafficShift: names, columns, and what of the schema is not in the types. The rules are in [`validation`],
//! the status in [`status`].

pub mod status;
pub mod validation;

use schemars::JsonSchema;
use serde_json::{Value, json};
use switchyard_core::shift::{Guard, ShiftSpec, spec};

use crate::{Names, age, column, number, rules, schema, wide};

const ABOUT: &str = "Moves the traffic of one or several ClusterTrafficPolicies of its namespace to new weights, at once or in \
steps. It is carried out once; deleting it neither stops the move nor takes it back. The specs of the policies stay as they are.";

/// Weights that one policy of a shift may name. A policy has at most 5 clusters; the hub, which knows it, judges the names.
const MOST_WEIGHTS: usize = 100;
/// The largest version that every JSON parser reads exactly, 2^53 - 1.
const MOST_VERSION: u64 = 9_007_199_254_740_991;

/// The resource, for its schema only.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the schema of it is of use")]
struct Resource {
    /// What is wanted. Only paused, abort and approvedStep may change. Switchyard never writes it.
    spec: ShiftSpec,
    /// How far it came, written by the agent of this cluster.
    status: Option<status::ShiftStatus>,
}

/// `trafficshifts.switchyard.dev`.
pub fn definition() -> Value {
    let names = Names { kind: spec::KIND, plural: "trafficshifts", singular: "trafficshift", short: "tshift" };
    crate::definition(&names, resource_schema(), columns())
}

/// The schema of the whole resource, rules included.
pub fn resource_schema() -> Value {
    let mut schema = crate::root(schema::structural::<Resource>(), spec::KIND, ABOUT);
    bound(&mut schema);
    rules::attach(&mut schema, &validation::rules());
    schema
}

/// What the types cannot say of maps, and of lists that several may write.
fn bound(schema: &mut Value) {
    let weights = rules::find(schema, "spec.policies[].weights");
    weights.insert("maxProperties".to_owned(), json!(MOST_WEIGHTS));
    weights["additionalProperties"]["maximum"] = json!(999);
    rules::find(schema, "spec.policies[].expectedVersion").insert("maximum".to_owned(), json!(MOST_VERSION));
    // As many as there are words: one that is written twice says nothing more.
    rules::find(schema, "spec.overrides").insert("maxItems".to_owned(), json!(Guard::ALL.len()));
    crate::keyed(schema, &[("status.conditions", "type")]);
}

/// What `kubectl get` shows; those with a priority only with `-o wide`.
fn columns() -> Value {
    let flag = |name: &str, path: &str, about: &str| json!({"name": name, "type": "boolean", "jsonPath": path, "description": about});
    json!([
        column("State", ".status.state", "Where it is"),
        number("Step", ".status.step", "The step under way, from 1"),
        column("Weights", ".status.weights", "Weights that it asks for now"),
        flag("Programmed", ".status.programmed", "Whether these were read back from the load balancer"),
        flag("Converged", ".status.converged", "Whether they have been in force for the settle time"),
        column("Reason", ".status.reason", "Why it is in this state, or what it waits for"),
        age(),
        wide(number("Steps", ".status.steps", "How many steps it has")),
        wide(flag("Paused", ".status.paused", "Whether it is held by somebody")),
        wide(column("Shift", ".status.shiftId", "The id that yardctl takes")),
        wide(column("Message", ".status.message", "The reason for people")),
    ])
}
