//! What is tried is in `fuzz/src/shift_stream.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::shift_stream::run);
