//! The short form of the chaos suite: of each theme the row that tells most. The other rows are in `chaos_full`, and `make chaos`
//! runs both. Each row plays under 200 requests a second through the load balancer and has its line in `docs/failures.md`, where
//! the result was stated beforehand. Random choices show their seed; SWITCHYARD_SEED repeats them.

mod aws;
mod clocks;
mod deaths;
mod loss;
mod page;
mod partitions;
mod replicas;
mod restored;
