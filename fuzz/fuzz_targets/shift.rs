//! What is tried is in `fuzz/src/shift.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::shift::run);
