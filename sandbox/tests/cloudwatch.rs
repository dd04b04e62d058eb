//! CloudWatch of the sandbox: the unmodified AWS SDK asks, real requests through the data plane are what it is told.

mod elb_support;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use aws_sdk_cloudwatch::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
    primitives::DateTime,
    types::{Dimension, Metric, MetricDataQuery, MetricStat, ScanBy},
};
use elb_support::{Backend, Bench, Front, Visitor, quick, until};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use switchyard_sandbox::{cloudwatch::CloudWatch, elb::ElbConfig};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

const PERIOD: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(300);

struct Metrics {
    aws: Client,
    cloudwatch: CloudWatch,
    _stop: DropGuard,
}

impl Metrics {
    async fn start(bench: &Bench) -> Self {
        let cloudwatch = CloudWatch::new(bench.elb.clone(), DELAY);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn({
            let (cloudwatch, stop) = (cloudwatch.clone(), stop.clone());
            async move { cloudwatch.serve(listener, stop).await }
        });
        let config = aws_sdk_cloudwatch::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        Self { aws: Client::from_conf(config.build()), cloudwatch, _stop: stop.drop_guard() }
    }

    async fn mode(&self, mode: Value) {
        let request = http::Request::post("/mode").header("content-type", "application/json");
        let request = request.body(axum::body::Body::from(mode.to_string())).unwrap();
        let response = self.cloudwatch.control_router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }

    /// The points of the last half minute, oldest first.
    async fn points(&self, front: &Front, group: &str, metric: &str, stat: &str) -> Vec<(DateTime, f64)> {
        let query = query("q", front, group, metric, stat, 1);
        let answer = self.call(query).send().await.unwrap();
        let [result] = answer.metric_data_results() else { panic!("{answer:?}") };
        assert_eq!((result.id(), result.label()), (Some("q"), Some(metric)));
        assert_eq!(result.status_code().unwrap().as_str(), "Complete");
        result.timestamps().iter().copied().zip(result.values().iter().copied()).collect()
    }

    async fn sum(&self, front: &Front, group: &str, metric: &str) -> f64 {
        self.points(front, group, metric, "Sum").await.iter().map(|(_, value)| value).sum()
    }

    fn call(
        &self,
        query: MetricDataQuery,
    ) -> aws_sdk_cloudwatch::operation::get_metric_data::builders::GetMetricDataFluentBuilder {
        let now = SystemTime::now();
        let start = now - Duration::from_secs(30);
        let call = self.aws.get_metric_data().metric_data_queries(query).scan_by(ScanBy::TimestampAscending);
        call.start_time(start.into()).end_time((now + PERIOD).into())
    }
}

/// The dimension's value of an ARN.
fn dimension(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap().trim_start_matches("loadbalancer/")
}

fn query(id: &str, front: &Front, group: &str, metric: &str, stat: &str, period: i32) -> MetricDataQuery {
    let named = |name: &str, arn: &str| Dimension::builder().name(name).value(dimension(arn)).build();
    let metric = Metric::builder()
        .namespace("AWS/ApplicationELB")
        .metric_name(metric)
        .dimensions(named("TargetGroup", group))
        .dimensions(named("LoadBalancer", &front.arn));
    let stat = MetricStat::builder().metric(metric.build()).period(period).stat(stat);
    MetricDataQuery::builder().id(id).metric_stat(stat.build()).build()
}

/// A load balancer with the groups `old` and `new`, one healthy target each, where `old` gets everything.
struct Stage {
    bench: Bench,
    front: Front,
    rule: String,
    old: String,
    new: String,
    _backends: [Backend; 2],
}

impl Stage {
    async fn set() -> Self {
        let bench = Bench::start(ElbConfig { metrics_period: PERIOD, ..quick() }).await;
        let front = bench.front("shared").await;
        let (old, new) = (bench.group("old").await, bench.group("new").await);
        let backends = [Backend::start("old").await, Backend::start("new").await];
        for (group, backend) in [(&old, &backends[0]), (&new, &backends[1])] {
            bench.register(group, backend.address).await;
        }
        let rule = bench.rule(&front, &[(&old, 1), (&new, 0)]).await;
        for (group, backend) in [(&old, &backends[0]), (&new, &backends[1])] {
            bench.until_state(group, backend.address, "healthy").await;
        }
        Self { bench, front, rule, old, new, _backends: backends }
    }

    async fn visit(&self, times: u32) {
        let visitor = Visitor::of(&self.front);
        for _ in 0..times {
            assert_eq!(visitor.get("/").await.status, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_is_told_what_each_group_really_served() {
    let stage = Stage::set().await;
    let metrics = Metrics::start(&stage.bench).await;
    stage.visit(20).await;
    until("all requests are told", async || metrics.sum(&stage.front, &stage.old, "RequestCount").await == 20.0).await;
    assert_eq!(metrics.sum(&stage.front, &stage.old, "HTTPCode_Target_2XX_Count").await, 20.0);
    assert_eq!(metrics.points(&stage.front, &stage.old, "HTTPCode_Target_5XX_Count", "Sum").await, []);
    assert_eq!(metrics.points(&stage.front, &stage.new, "RequestCount", "Sum").await, []);
    for (_, seconds) in metrics.points(&stage.front, &stage.old, "TargetResponseTime", "p99").await {
        assert!((0.0..30.0).contains(&seconds), "{seconds}");
    }
    until("hosts are counted", async || {
        let found = metrics.points(&stage.front, &stage.new, "HealthyHostCount", "Minimum").await;
        found.last().is_some_and(|(_, count)| *count == 1.0)
    })
    .await;

    stage.bench.forward_all(&stage.rule, &stage.new).await;
    stage.visit(10).await;
    until("the new group's are told", async || metrics.sum(&stage.front, &stage.new, "RequestCount").await == 10.0)
        .await;
    assert_eq!(metrics.sum(&stage.front, &stage.old, "RequestCount").await, 20.0);
    let text = stage.bench.get("/metrics").await;
    let line = r#"sandbox_alb_requests_total{load_balancer="shared",target_group="new",cluster="",policy="",code="200",source="target"} 10"#;
    assert!(text.as_str().unwrap().lines().any(|found| found == line), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_come_late_and_zeros_only_where_they_are_asked_for() {
    let stage = Stage::set().await;
    let metrics = Metrics::start(&stage.bench).await;
    stage.visit(1).await;
    let told = async || metrics.points(&stage.front, &stage.old, "RequestCount", "Sum").await;
    until("the request is told", async || !told().await.is_empty()).await;
    for (at, _) in told().await {
        let end = SystemTime::try_from(at).unwrap() + PERIOD + DELAY;
        assert!(SystemTime::now() >= end, "{at} was told too early");
    }
    metrics.mode(json!({"zeros": true})).await;
    until("zeros of a group without requests are told", async || {
        stage.visit(1).await;
        let points = metrics.points(&stage.front, &stage.new, "RequestCount", "Sum").await;
        points.iter().any(|(_, value)| *value == 0.0)
    })
    .await;
    metrics.mode(json!({"silent": true})).await;
    assert_eq!(told().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_reach_the_sdk_with_the_codes_of_the_query_protocol() {
    let stage = Stage::set().await;
    let metrics = Metrics::start(&stage.bench).await;
    let odd = query("q", &stage.front, &stage.old, "RequestCount", "Sum", 7);
    let error = metrics.call(odd).send().await.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("ValidationError"), "{error:?}");
    assert!(error.message().unwrap().contains("multiple of 60"), "{error:?}");
    metrics.mode(json!({"refuse": "AccessDenied"})).await;
    let good = query("q", &stage.front, &stage.old, "RequestCount", "Sum", 60);
    let error = metrics.call(good).send().await.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("AccessDenied"), "{error:?}");
    let other = metrics.aws.list_metrics().send().await.unwrap_err().into_service_error();
    metrics.mode(json!({})).await;
    assert!(other.code().is_some(), "{other:?}");
    let other = metrics.aws.list_metrics().send().await.unwrap_err().into_service_error();
    assert_eq!(other.code(), Some("UnknownOperationException"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_calls_are_refused() {
    let stage = Stage::set().await;
    let cloudwatch = CloudWatch::new(stage.bench.elb.clone(), DELAY);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(async move { cloudwatch.serve(listener, stop).await });
    let client: hyper_util::client::legacy::Client<_, http_body_util::Full<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    for (protocol, body) in [("rpc-v2-cbor", &b"\xff"[..]), ("rpc-v2-cbor", b"\xa0"), ("other", b"\xa0")] {
        let path = "/service/GraniteServiceVersion20100801/operation/GetMetricData";
        let request = http::Request::post(format!("http://{address}{path}")).header("smithy-protocol", protocol);
        let request = request.body(bytes::Bytes::copy_from_slice(body).into()).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body:?}");
        assert!(response.headers().contains_key("x-amzn-query-error"));
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}
