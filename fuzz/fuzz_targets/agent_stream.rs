//! What is tried is in `fuzz/src/agent_stream.rs`.
#![cfg_attr(fuzzing, no_main)]

switchyard_fuzz::target!(switchyard_fuzz::agent_stream::run);
