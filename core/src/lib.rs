//! Every decision of Switchyard, as functions from values to values.
//!
//! Nothing here reads a clock, draws a random number or touches the network: `now` and ids come in as arguments, plans and
//! reasons go out as data. The data takes one way per policy: [`policy::validate()`] -> [`weights`] (requested, effective) ->
//! [`plan`] (desired state, diff against [`observed`], order) -> [`check`] (the invariants) -> [`execute`] (what comes next,
//! given the outcome of each call). [`engine`] is what the hub's loop around them knows and remembers.

#![warn(missing_docs)]

pub mod access;
pub mod arn;
pub mod audit;
pub mod budget;
pub mod check;
pub mod engine;
pub mod execute;
pub mod failover;
pub mod fleet;
pub mod gate;
pub mod ids;
pub mod inventory;
pub mod observed;
pub mod ownership;
pub mod plan;
pub mod policy;
pub mod shift;
pub mod source;
pub mod status;
pub mod weights;
