//! The adaptor to Elastic Load Balancing v2, and the only user of the AWS SDK for it. [`Elb::apply`] makes one write and says what came
//! of it; the reads in `observe` bring what is there. Decides nothing: no retries, no cache, no order. Must not import the
//! engine, the store or grpc. Tests are in `hub/tests/elb_*.rs`.

mod apply;
pub(crate) mod bounded;
mod budget;
mod call;
pub(crate) mod endpoint;
mod observe;
mod wire;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_elasticloadbalancingv2::{Client, config};
use switchyard_core::{
    budget::{Bucket, Rates},
    plan::step::Action,
};

pub use self::{budget::Budget, endpoint::ElbError, observe::ReadError};
use crate::metrics::Metrics;

/// The default of [`ElbConfig::call_timeout`]: AWS answers within a second; the slowest calls of a busy account take a few.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// At most this part of a call's time goes into making the connection, so that "not connected" is told apart from "no answer".
const CONNECT_SHARE: f64 = 0.6;

/// How to reach ELBv2.
#[derive(Clone, Debug)]
pub struct ElbConfig {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Another address of the API than the region's own; `https`, or `http` on a loopback address.
    pub endpoint_url: Option<String>,
    /// The longest time of one call, above 0, at most 60 s.
    pub call_timeout: Duration,
    /// The request budget of this (account, region).
    pub rates: Rates,
    /// Where calls are counted.
    pub metrics: Metrics,
}

/// A connection to ELBv2 in one region. Clones share connections and budget.
#[derive(Clone)]
pub struct Elb {
    client: Client,
    budget: Budget,
    metrics: Metrics,
    call_timeout: Duration,
}

impl Elb {
    /// Checks the settings and prepares the client. Credentials come from where the AWS SDKs look for them, and are fetched with
    /// the first call; on a loopback endpoint without credentials in the environment, fixed ones for tests are used.
    ///
    /// # Errors
    /// [`ElbError`] when a setting is not usable.
    pub async fn connect(config: ElbConfig) -> Result<Self, ElbError> {
        endpoint::check_region(&config.region)?;
        endpoint::check_call_timeout(config.call_timeout)?;
        let place = config.endpoint_url.as_deref().map(endpoint::check).transpose()?;
        // Retries and budgets are the engine's: a retry in here would pass the budget and the lease by.
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(config.call_timeout.mul_f64(CONNECT_SHARE)).build(),
            );
        if place.is_some_and(|place| place.loopback) && !endpoint::credentials_in_environment() {
            loader = loader.credentials_provider(config::Credentials::new("test", "test", None, None, "loopback"));
        }
        let shared = loader.load().await;
        let mut client = config::Builder::from(&shared).interceptor(bounded::BoundedAnswers);
        client.set_endpoint_url(config.endpoint_url.or_else(|| shared.endpoint_url().map(str::to_owned)));
        if place.is_some_and(|place| place.plain) {
            // Without TLS no root certificates are needed, which a bare test machine may not have.
            client = client.http_client(aws_smithy_http_client::Builder::new().build_http());
        }
        Ok(Self {
            client: Client::from_conf(client.build()),
            budget: Budget::new(config.rates),
            metrics: config.metrics,
            call_timeout: config.call_timeout,
        })
    }

    /// The request budget. Reads take from it themselves; before [`Elb::apply`] the caller does, since it must look at its lease
    /// once more between the wait and the call.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// The bucket in which AWS counts an action.
pub fn bucket_of(action: &Action) -> Bucket {
    match action {
        Action::RegisterTargets { .. } | Action::DeregisterTargets { .. } => Bucket::Register,
        Action::CreateTargetGroup(_)
        | Action::ModifyTargetGroup { .. }
        | Action::ModifyTargetGroupAttributes { .. }
        | Action::TagLoadBalancer { .. }
        | Action::SetRulePriorities { .. }
        | Action::CreateRule { .. }
        | Action::ModifyRule { .. }
        | Action::DeleteRule { .. }
        | Action::DeleteTargetGroup { .. } => Bucket::Modify,
    }
}
