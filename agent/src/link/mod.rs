//! The stream to the hub. `session` is the state machine without IO, `convert` knows protobuf, `tls`, `dialer` and `transport` are the tonic shell, and
//! `driver` lets them work together with the index and the watchers.

pub mod convert;
pub mod dialer;
pub mod driver;
pub mod epoch;
pub mod messages;
pub mod policies;
pub mod session;
pub mod shifts;
pub mod tls;
pub mod transport;

#[cfg(test)]
mod driver_tests;
