//! What is tried is in `fuzz/src/gateway.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::gateway::run);
