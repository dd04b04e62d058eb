//! The hub: the shell around `switchyard-core`. One job a module: [`grpc`] takes intents and agents' streams, [`store`] keeps
//! them in Postgres, [`feed`] keeps a picture of the store in memory, [`elb`] speaks to AWS, [`engine`] drives plans, [`http`]
//! serves metrics and health, [`gateway`] the API as JSON. Everybody comes in through [`door`], and past [`access`]; agents'
//! certificates are of the [`authority`]. Only [`compose`] sees all.

pub mod access;
pub mod analysis;
pub mod args;
pub mod authority;
pub mod compose;
pub mod config;
pub mod door;
pub mod elb;
pub mod engine;
pub mod feed;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod metrics;
mod outbound;
pub mod secret;
pub mod store;
pub mod telemetry;
