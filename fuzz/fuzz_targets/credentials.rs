//! What is tried is in `fuzz/src/credentials.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::credentials::run);
