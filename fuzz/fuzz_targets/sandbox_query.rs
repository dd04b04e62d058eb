//! What is tried is in `fuzz/src/sandbox_query.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::sandbox_query::run);
