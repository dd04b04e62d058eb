//! The rest of the chaos suite: every program, link and fault by itself, with pods that stand still and pods that move. Not part
//! of `make test`; `make chaos` runs it after the short form, `chaos`. Each row plays under 200 requests a second through the load
//! balancer and has its line in `docs/failures.md`.

mod aws;
mod clocks;
mod deaths;
mod hindered;
mod idle;
mod loss;
mod partitions;
mod pods;
mod replicas;
mod restored;
mod returns;
mod zones;
