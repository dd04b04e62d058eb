//! What is tried is in `fuzz/src/policy_stream.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::policy_stream::run);
