//! The status of a TrafficShift, for its schema: what the agent writes, which knows nothing of this crate; `crd/tests/status.rs`
//! holds the two together. Bounds are few on purpose: a status that the server refuses would be one that nobody sees.

#![expect(dead_code, reason = "only the schema of the types is of use")]

use schemars::JsonSchema;

use crate::condition::Condition;

/// How far it came, written by the agent of this cluster.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct ShiftStatus {
    /// The generation of this resource that the hub has judged.
    observed_generation: Option<i64>,
    /// The id of the shift, as yardctl takes it; left out while there is none.
    shift_id: Option<String>,
    /// Where it is: Pending, Preflight, Stepping, Baking, AwaitingApproval, Converging, Aborting, or at its end Succeeded,
    /// Aborted, Superseded, Failed; Waiting while another shift moves one of its policies, Refused when it cannot be carried out.
    state: Option<String>,
    /// Why it is in this state, or what it waits for, in one word for programs.
    reason: Option<String>,
    /// The same for people.
    message: Option<String>,
    /// The step under way, from 1; 0: none yet.
    step: Option<u32>,
    /// How many steps it has.
    steps: Option<u32>,
    /// Whether the weights of the step were read back from the load balancer.
    programmed: Option<bool>,
    /// Whether they have been in force for the settle time, with evidence where the hub has a source of it.
    converged: Option<bool>,
    /// Whether nothing more will come of this resource.
    ended: Option<bool>,
    /// When the state was entered.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Weights that it asks for now, such as `checkout: blue=95,green=5`, several policies joined by `; `.
    weights: Option<String>,
    /// Whether it is held by somebody, here or by a call.
    paused: Option<bool>,
    /// Programmed and Converged (the weights of the present step), Complete (it succeeded), Failed (it ended otherwise).
    conditions: Option<Vec<Condition>>,
}
