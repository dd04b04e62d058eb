//! moto as a judge: of the wire format, where the sandbox has to answer as moto does or the difference is listed with its reason;
//! and of the hub's IAM policy. Needs `scripts/moto.sh`, and fails without it.

mod compare;
mod duel;
mod iam;
mod iam_bounds;
mod known;
mod life;
mod metrics;
mod wire;
mod wire_client;
mod wire_groups;
mod wire_rules;
