//! What the engine of one (account, region) knows and decides from one look at the world to the next: what of AWS is known, unread or
//! unknown ([`Cache`]), and what a term of the lease remembers, which steps may be made, and what is worth storing ([`Term`]).
//!
//! The hub's loop around it waits, reads and calls; the simulation in `core/tests/engine_simulate.rs` runs the same code in a modelled
//! world. No clock here: times come in as [`jiff::Timestamp`] (the lease's clock) or as the time since some fixed moment of the
//! process. Tests: `core/tests/engine_cache.rs` and `core/tests/engine_term.rs`.

mod cache;
mod object;
mod reads;
mod term;

pub use cache::{Cache, Taken, Ticket};
pub use object::{Object, Reading};
pub use reads::{Looks, got_worse, looks_for_health, missing, place_is_unknown, waits_for_health};
pub use term::{Stored, Term, UNKNOWN_IS_NO_NEWS, Unread, Update, finished, steps};
