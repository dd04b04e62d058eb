//! What is tried is in `fuzz/src/access.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::access::run);
