//! The scenarios: the real programs, traffic through the sandbox's data plane, and the number of failed requests as the result.
//! One binary, so that all share one Postgres. Needs the programs to be built: `make test` does that.

mod crashes;
mod dangers;
mod faults;
mod flow;
mod foreign;
mod policies;
mod quiet;
mod weights;
mod yardctl;
