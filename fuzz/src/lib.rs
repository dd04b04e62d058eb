//! What comes from outside, tried with inputs that nobody thought of. A target takes bytes, hands them to the very functions that
//! the hub and the sandbox read them with, and panics when something holds that must not: an answer without a bound, an endpoint of
//! another cluster, a policy that is accepted and not accepted again. Pure: no network, no clock, no database.
//!
//! How they are run, and what is done with what is found, is in `docs/supply-chain.md`. Each target has seeds in
//! `fuzz/corpus/<target>/` and, after a find, the input in `fuzz/regressions/<target>/`; `tests/replay.rs` tries all of them in
//! every `make test`.

pub mod access;
pub mod agent_stream;
pub mod credentials;
pub mod gateway;
pub mod http_head;
pub mod policy;
pub mod policy_stream;
pub mod sandbox_query;
pub mod selftest;
pub mod shift;
pub mod shift_stream;
mod text;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As its file in `fuzz_targets/` and its folder in `corpus/`.
    pub name: &'static str,
    /// Tries one input; panics when it finds something. True when the input is one that is taken, as every seed whose name begins
    /// with `good-` has to be, and none whose name begins with `bad-` may be: a seed that is refused at the door says nothing about
    /// what is behind it, and one that is taken nothing about what is refused.
    pub run: fn(&[u8]) -> bool,
}

/// Every target but the one that is wrong on purpose.
pub const TARGETS: &[Target] = &[
    Target { name: "access", run: access::run },
    Target { name: "agent_stream", run: agent_stream::run },
    Target { name: "credentials", run: credentials::run },
    Target { name: "gateway", run: gateway::run },
    Target { name: "http_head", run: http_head::run },
    Target { name: "policy", run: policy::run },
    Target { name: "policy_stream", run: policy_stream::run },
    Target { name: "sandbox_query", run: sandbox_query::run },
    Target { name: "shift", run: shift::run },
    Target { name: "shift_stream", run: shift_stream::run },
];

/// The program of a target. Without coverage it would search blindly, so it refuses; it does not even mention the target, which keeps
/// it small in an ordinary build of the workspace.
#[macro_export]
macro_rules! target {
    ($run:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| drop($run(data)));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            eprintln!("this was built without coverage; run `make fuzz`, or `cargo fuzz run` with cargo-fuzz");
            std::process::ExitCode::from(2)
        }
    };
}
