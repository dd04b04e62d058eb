//! Reads numbers from outside, for the gates of shifts and as evidence that traffic has moved: Prometheus, CloudWatch, webhooks.
//! [`Analysis::measure`] asks once, and gives a number, a verdict, or the reason why there is none: missing data is neither
//! success nor failure, and what a number means is decided in `switchyard_core::shift::analysis`.
//!
//! Everything that comes in is bounded in time and size. Only what the configuration names is ever asked. Must not import grpc,
//! the engine or the store. Tests: `hub/tests/analysis_*.rs`, and against a real Prometheus `tests/tests/measuring/`.

mod cloudwatch;
mod outside;
mod prometheus;
pub mod settings;
mod webhook;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use switchyard_core::{
    ids::SourceName,
    shift::analysis::{GateQuery, Measure, Reading},
};

use self::{cloudwatch::CloudWatch, outside::Outside, settings::Place};
pub use self::{
    cloudwatch::Departed,
    settings::{AnalysisArgs, AnalysisConfig, AnalysisNames},
};

/// Why measuring cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// The TLS library.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The platform's root certificates.
    #[error(
        "the root certificates of this machine cannot be read, and a place with https:// is named; install them (ca-certificates) or name a file in SSL_CERT_FILE"
    )]
    Roots(#[source] std::io::Error),
    /// CloudWatch's endpoint.
    #[error("the endpoint of CloudWatch {problem}")]
    CloudWatch {
        /// What is wrong.
        problem: String,
    },
}

/// What numbers are read with. Clones share connections.
#[derive(Clone)]
pub struct Analysis {
    outside: Outside,
    places: Arc<Places>,
    cloudwatch: Option<CloudWatch>,
    names: Arc<AnalysisNames>,
}

struct Places {
    prometheus: BTreeMap<SourceName, Place>,
    webhooks: BTreeMap<SourceName, Place>,
}

impl Analysis {
    /// Prepares everything and asks nobody yet. AWS credentials come from where the AWS SDKs look for them.
    ///
    /// # Errors
    /// [`AnalysisError`] when the machine lacks what is needed.
    pub async fn connect(config: AnalysisConfig) -> Result<Self, AnalysisError> {
        let outside = Outside::new(config.needs_tls(), config.time_limit)?;
        let names = Arc::new(config.names());
        let cloudwatch = match config.cloudwatch {
            Some(cloudwatch) => Some(CloudWatch::connect(cloudwatch, config.time_limit).await?),
            None => None,
        };
        let places = Places { prometheus: config.prometheus, webhooks: config.webhooks };
        Ok(Self { outside, places: Arc::new(places), cloudwatch, names })
    }

    /// The names that a shift may use.
    pub fn names(&self) -> &AnalysisNames {
        &self.names
    }

    /// Measures once, for a step that is in force since `since`; ends within the configured time, 10 s. CloudWatch tells of whole minutes: one
    /// that began earlier is not of this step and is no data. May be dropped at any time.
    pub async fn measure(&self, ask: &Measure, since: Timestamp) -> Reading {
        let reading = match &ask.query {
            GateQuery::Prometheus { source, query } => match self.places.prometheus.get(source) {
                Some(place) => prometheus::measure(&self.outside, source, place, query).await,
                None => not_given("Prometheus server", "--prometheus", source),
            },
            GateQuery::Webhook { endpoint } => match self.places.webhooks.get(endpoint) {
                Some(place) => webhook::measure(&self.outside, endpoint, place, ask).await,
                None => not_given("webhook", "--webhook", endpoint),
            },
            GateQuery::CloudWatch { .. } => match &self.cloudwatch {
                Some(cloudwatch) => cloudwatch.measure(ask, since).await,
                None => Reading::NoData("this hub does not ask CloudWatch; start it with --cloudwatch".to_owned()),
            },
            GateQuery::TargetHealth { .. } => {
                Reading::NoData("the health of targets is known without asking anybody".to_owned())
            }
        };
        tracing::debug!(shift = %ask.shift, step = ask.step + 1, gate = %ask.name, ?reading, "a gate was measured");
        reading
    }

    /// How many requests the groups that lost their share still had, in the last whole minute that began at or after `since`
    /// and whose numbers are complete. None: CloudWatch is not asked. An error is a sentence: nothing is known yet.
    pub async fn requests_of(&self, departed: &Departed, since: Timestamp) -> Option<Result<f64, String>> {
        let cloudwatch = self.cloudwatch.as_ref()?;
        Some(cloudwatch.requests_of(departed, since).await)
    }
}

fn not_given(kind: &str, flag: &str, name: &SourceName) -> Reading {
    Reading::NoData(format!("this hub was given no {kind} named {name}; start it with {flag} {name}=URL"))
}
