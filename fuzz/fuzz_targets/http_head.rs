//! What is tried is in `fuzz/src/http_head.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::http_head::run);
