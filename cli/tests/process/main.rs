//! The real `yardctl` process against a hub that answers from a script: what is sent, what is printed, exit codes.

mod access;
mod access_support;
mod audit;
mod clusters;
mod commands;
mod connection;
mod proof;
mod shift_acts;
mod shifts;
mod support;
mod weights;
