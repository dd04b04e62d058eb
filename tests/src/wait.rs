//! Waiting: a condition, a deadline, and the last thing seen when it was not met. There is no fixed sleep in the scenarios.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Long enough for a loaded machine of two cores; a scenario that needs as much is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until the condition gives a value.
///
/// # Errors
/// After the deadline: what was waited for and what was seen last.
pub async fn until_within<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => {
                anyhow::bail!("waited {} s for: {what}\n  last seen: {seen:#}", deadline.as_secs())
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// [`until_within`] for tests: panics after [`PATIENCE`].
///
/// # Panics
/// After the deadline, with what was seen last.
#[track_caller]
pub fn until<T, E: Display>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match until_within(what, PATIENCE, look).await {
            Ok(value) => value,
            Err(error) => panic!("{caller}: {error}"),
        }
    }
}

/// For conditions: fine when true, else what was seen.
///
/// # Errors
/// The text, when the condition does not hold.
pub fn check(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}
