//! CloudWatch's metrics of target groups: one GetMetricData for a measurement, and request counts as evidence that clusters whose
//! share is gone are quiet. What is asked and what an answer means is decided in `judge`, without IO; retries nothing.

mod judge;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig};
use aws_sdk_cloudwatch::{
    Client, config,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_metric_data::GetMetricDataError,
    primitives::DateTime,
    types::{Dimension, Metric, MetricDataQuery, MetricStat, StatusCode},
};
use jiff::Timestamp;
use switchyard_core::shift::analysis::{Measure, Reading};
use tokio::time::timeout;

pub use self::judge::Departed;
use self::judge::{Asked, Points, Window};
use super::{
    AnalysisError,
    outside::{chain, shortened},
    settings::CloudWatchConfig,
};
use crate::elb::{bounded::BoundedAnswers, endpoint};

/// The namespace of an Application Load Balancer's metrics.
const NAMESPACE: &str = "AWS/ApplicationELB";
/// AWS may cut an answer into pages at any place; a period of 300 metrics is far below one.
const MOST_PAGES: usize = 10;

/// A connection to CloudWatch in one region.
#[derive(Clone)]
pub(super) struct CloudWatch {
    client: Client,
    resolution: Duration,
    time_limit: Duration,
}

impl CloudWatch {
    /// Prepares the client. Credentials come from where those for ELBv2 come from.
    pub(super) async fn connect(config: CloudWatchConfig, time_limit: Duration) -> Result<Self, AnalysisError> {
        let place = config.endpoint_url.as_deref().map(endpoint::check).transpose();
        let place = place.map_err(|error| AnalysisError::CloudWatch { problem: error.problem() })?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .retry_config(RetryConfig::disabled());
        if place.is_some_and(|place| place.loopback) && !endpoint::credentials_in_environment() {
            loader = loader.credentials_provider(config::Credentials::new("test", "test", None, None, "loopback"));
        }
        let shared = loader.load().await;
        let mut client = config::Builder::from(&shared).interceptor(BoundedAnswers);
        client.set_endpoint_url(config.endpoint_url.or_else(|| shared.endpoint_url().map(str::to_owned)));
        if place.is_some_and(|place| place.plain) {
            // Without TLS no root certificates are needed, which a bare test machine may not have.
            client = client.http_client(aws_smithy_http_client::Builder::new().build_http());
        }
        Ok(Self { client: Client::from_conf(client.build()), resolution: config.resolution, time_limit })
    }

    /// One measurement, of the last whole period that can be read and began at or after `since`.
    pub(super) async fn measure(&self, ask: &Measure, since: Timestamp) -> Reading {
        self.try_measure(ask, since).await.map_or_else(Reading::NoData, Reading::Value)
    }

    async fn try_measure(&self, ask: &Measure, since: Timestamp) -> Result<f64, String> {
        let metrics = judge::metrics(ask)?;
        let window = Window::last(Timestamp::now(), self.resolution, metrics.periods(), since)?;
        let asked = metrics.queries();
        let points = self.read(&asked, &window).await?;
        metrics.value(&points)
    }

    /// Requests of the groups that lost their share, in the last whole period that can be read and began at or after `since`.
    pub(super) async fn requests_of(&self, departed: &Departed, since: Timestamp) -> Result<f64, String> {
        let window = Window::last(Timestamp::now(), self.resolution, 1, since)?;
        let points = self.read(&departed.queries(), &window).await?;
        departed.requests(&points)
    }

    async fn read(&self, asked: &[Asked<'_>], window: &Window) -> Result<Points, String> {
        let read = self.pages(asked, window);
        let limit = || format!("CloudWatch gave no answer within {:?}", self.time_limit);
        timeout(self.time_limit, read).await.map_err(|_| limit())?
    }

    async fn pages(&self, asked: &[Asked<'_>], window: &Window) -> Result<Points, String> {
        let queries: Vec<MetricDataQuery> =
            asked.iter().enumerate().map(|(i, asked)| query(i, asked, window)).collect();
        let mut points = vec![None; asked.len()];
        let mut token = None;
        for _ in 0..MOST_PAGES {
            let call = self.client.get_metric_data().set_metric_data_queries(Some(queries.clone()));
            let call = call.start_time(time(window.start)).end_time(time(window.end)).set_next_token(token);
            let answer = call.send().await.map_err(|error| refused(&error))?;
            for result in answer.metric_data_results() {
                take(result, window, &mut points)?;
            }
            token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(points);
            }
        }
        Err(format!("CloudWatch cut its answer into more than {MOST_PAGES} pages; try again later"))
    }
}

fn time(at: Timestamp) -> DateTime {
    DateTime::from_secs(at.as_second())
}

fn query(index: usize, asked: &Asked<'_>, window: &Window) -> MetricDataQuery {
    let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
    let metric = Metric::builder()
        .namespace(NAMESPACE)
        .metric_name(asked.metric.name())
        .dimensions(dimension("TargetGroup", asked.group.metric_dimension()))
        .dimensions(dimension("LoadBalancer", asked.load_balancer.metric_dimension()));
    let stat = MetricStat::builder().metric(metric.build()).period(window.period_seconds()).stat(asked.statistic);
    MetricDataQuery::builder().id(format!("q{index}")).metric_stat(stat.build()).build()
}

/// The point of the one period that was asked for. A result that is not complete is none.
fn take(
    result: &aws_sdk_cloudwatch::types::MetricDataResult,
    window: &Window,
    points: &mut Points,
) -> Result<(), String> {
    let index: Option<usize> = result.id().and_then(|id| id.strip_prefix('q')).and_then(|number| number.parse().ok());
    let Some(place) = index.and_then(|index| points.get_mut(index)) else {
        return Err("CloudWatch answered what was not asked".to_owned());
    };
    match result.status_code() {
        // "Partial": more of it is on the next page.
        None | Some(StatusCode::Complete | StatusCode::PartialData) => {}
        Some(other) => {
            return Err(format!("CloudWatch could not read a metric ({}); it is asked again", other.as_str()));
        }
    }
    let wanted = window.start.as_second();
    let mut pairs = result.timestamps().iter().zip(result.values());
    if let Some((_, value)) = pairs.find(|(at, _)| at.secs() == wanted) {
        *place = Some(*value);
    }
    Ok(())
}

/// AWS's own words, and what helps.
fn refused(error: &SdkError<GetMetricDataError>) -> String {
    let Some(answer) = error.as_service_error() else {
        return format!("CloudWatch gave no answer: {}", chain(error));
    };
    let code = answer.code().unwrap_or("no code");
    let remedy = match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            "; allow cloudwatch:GetMetricData in the IAM policy of the hub's role, as docs/iam.md has it"
        }
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => {
            "; check where the hub has its AWS credentials from, and the machine's clock"
        }
        _ => "",
    };
    format!("CloudWatch refused: {code}: {}{remedy}", shortened(answer.message().unwrap_or_default()))
}
