//! Who this agent is to the hub: how it gets, keeps, renews and shows its certificate.
//!
//! `machine` decides what comes next (pure), `values` is what it speaks of, `material` knows keys and certificates, `store` keeps them
//! in a Secret or a folder, `enrollment` asks the hub, `files` follows files that somebody else renews, `present` is what the dialer
//! shows, and `driver` lets them work together. A key or a token is never in a log: the types that hold one do not show it.

pub mod driver;
pub mod enrollment;
pub mod files;
pub mod machine;
pub mod material;
pub mod present;
pub mod store;
pub mod values;

#[cfg(test)]
mod driver_tests;
