//! Where the store is, and that it is found there again when its password changes.

use std::{io::Read, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{
        Database,
        database::{Problem, judge},
        redacted,
    },
    metrics::{Metrics, Outcome},
    secret::Secret,
    store::{EmbeddedOptions, EmbeddedPostgres, Query, QueryObserver, Store, StoreError, StoreOptions},
};

/// Pauses between two tries to reach the store at the start.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How often it is said that the store cannot be had: seldom enough for a log that is kept, often enough for whoever looks into it.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How often the file with the URL is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Bytes of that file.
const MOST_BYTES: u64 = 16 * 1024;

/// The private Postgres, if there is one, and the URL.
pub(super) async fn open(database: &Database, dev: bool) -> anyhow::Result<(Option<EmbeddedPostgres>, Secret)> {
    match database {
        Database::Url(url) => Ok((None, url.clone())),
        Database::UrlFile(file) => Ok((None, read(file, dev)?)),
        Database::Embedded(folder) => {
            // Killed hubs and machines happen in development too: what was acknowledged stays.
            let options = EmbeddedOptions { fsync: true };
            let started = EmbeddedPostgres::start(folder, options).await;
            let database = started.context("the private Postgres did not start")?;
            let url = Secret::new(database.url());
            tracing::info!(folder = %folder.display(), "a private Postgres runs");
            Ok((Some(database), url))
        }
    }
}

fn read(file: &Path, dev: bool) -> anyhow::Result<Secret> {
    let shown = file.display();
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("--database-url-file {shown} cannot be read"))?;
    let read = opened.take(MOST_BYTES).read_to_string(&mut text);
    read.with_context(|| format!("--database-url-file {shown} cannot be read"))?;
    let text = Secret::new(text);
    match judge(text.expose().trim(), dev) {
        Ok(url) => Ok(Secret::new(url)),
        Err(Problem { problem, remedy }) => {
            bail!("--database-url-file {shown} {:?} {problem}; {remedy}", redacted(text.expose().trim()))
        }
    }
}

/// Reads the file again and again until the token; new connections are made with what it says.
pub(super) async fn keep(database: Database, dev: bool, store: Store, shutdown: CancellationToken) {
    let Database::UrlFile(file) = database else { return shutdown.cancelled().await };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut present = None;
    let mut trouble = None;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let result = read(&file, dev).and_then(|url| {
            if present.as_ref() != Some(&url) {
                store.set_url(url.expose())?;
                // What was opened at the start is no news.
                if present.replace(url).is_some() {
                    tracing::info!("the URL of the database has changed; new connections use it");
                }
            }
            Ok(())
        });
        let words = result.err().map(|error| format!("{error:#}"));
        if words.is_some() && words != trouble {
            let error = words.as_deref();
            tracing::error!(
                error,
                "the changed URL of the database cannot be used; the one from before stays in force"
            );
        }
        trouble = words;
    }
}

/// Measures every query.
struct StoreMetrics(Metrics);

impl QueryObserver for StoreMetrics {
    fn observed(&self, query: Query, took: Duration, outcome: &'static str) {
        let labels = Outcome { operation: query.label(), outcome };
        self.0.store_queries.get_or_create(&labels).inc();
        self.0.store_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// Waits for a store that does not answer yet: hub and Postgres may start at once. None when the hub is told to stop meanwhile.
pub(super) async fn connect(
    url: &Secret,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Store>> {
    let mut said = None;
    loop {
        let options =
            StoreOptions { observer: Some(Arc::new(StoreMetrics(metrics.clone()))), ..StoreOptions::default() };
        let tried = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            tried = Store::connect(url.expose(), options) => tried,
        };
        match tried {
            Ok(store) => return Ok(Some(store)),
            Err(error) if error.is_unavailable() => {
                if is_due(said, Instant::now()) {
                    say(&error);
                    said = Some(Instant::now());
                }
            }
            Err(error) => return Err(error).context("the store cannot be opened"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = sleep(STORE_PAUSE) => {}
        }
    }
}

fn is_due(said: Option<Instant>, now: Instant) -> bool {
    said.is_none_or(|at| now.duration_since(at) >= SAY_EVERY)
}

/// What does not go away by waiting is tried again all the same: the certificate or the setting may be changed at the server.
fn say(error: &StoreError) {
    let cause: &dyn std::error::Error = error;
    if error.is_of_tls() {
        tracing::error!(
            error = cause,
            "the database answers, and the connection to it is not verified: its server has no TLS, or shows a certificate of another name \
             or of an authority that is not trusted here; set ssl=on there, give sslrootcert=FILE and the name of its certificate in the \
             URL; trying again"
        );
    } else {
        tracing::warn!(error = cause, "the database does not answer yet; trying again until it does");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_store_cannot_be_had_is_said_at_once_and_then_once_a_minute() {
        let start = Instant::now();
        assert!(is_due(None, start));
        assert!(!is_due(Some(start), start + SAY_EVERY / 2));
        assert!(is_due(Some(start), start + SAY_EVERY));
    }

    #[test]
    fn a_file_with_a_url_that_is_refused_is_named_without_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        for (url, problem) in [
            ("postgres://sw:Ab#c?d@db/x", "holds a #"),
            ("postgres://sw:Ab@db/x?a=Ab%zd", "holds a percent sign"),
            ("mysql://sw:Ab?c@d@db/x", "is not the URL of a Postgres"),
            ("postgres://sw:Ab?c@db/x?sslmode=disable", "holds a ?"),
            ("postgres://sw:Ab@db/x?sslmode=disable", "server is not verified"),
            ("sw:Abc@db/x", "is not the URL of a Postgres"),
        ] {
            std::fs::write(&file, url).unwrap();
            let error = format!("{:#}", read(&file, false).err().unwrap_or_else(|| panic!("{url} was taken")));
            assert!(error.contains(problem) && !error.contains("Ab") && !error.contains("sw:"), "{error}");
        }
    }
}
