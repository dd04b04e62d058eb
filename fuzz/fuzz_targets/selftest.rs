//! What is tried is in `fuzz/src/selftest.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::selftest::run);
