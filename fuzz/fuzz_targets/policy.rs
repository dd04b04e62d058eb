//! What is tried is in `fuzz/src/policy.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::policy::run);
