//! CloudWatch as the hub reads it, from the sandbox's stand-in, which counts real requests. The resolution is a second instead of a
//! minute; what is decided without a clock is in `hub/src/analysis/cloudwatch/judge_tests.rs`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::{
    arn::{LoadBalancerArn, TargetGroupArn},
    ids::{ClusterName, PolicyKey, ShiftId, SourceName, Weight},
    shift::{
        analysis::{GateQuery, Measure, MeasuredPolicy, Reading},
        spec::TargetGroupMetric,
    },
};
use switchyard_hub::analysis::{Analysis, AnalysisArgs, AnalysisConfig, Departed};
use switchyard_sandbox::{
    cloudwatch::CloudWatch,
    elb::{Elb, ElbConfig, RateLimits},
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

const DEADLINE: Duration = Duration::from_secs(60);

/// A load balancer with the groups `old` and `new` behind paths of the same names, a backend that answers 500 below `/new/bad`,
/// and CloudWatch beside it.
struct Stage {
    elb: Elb,
    cloudwatch: CloudWatch,
    endpoint: String,
    front: String,
    balancer: LoadBalancerArn,
    old: TargetGroupArn,
    new: TargetGroupArn,
    client: Client<HttpConnector, Full<Bytes>>,
    _stop: DropGuard,
}

async fn bound() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn control(router: axum::Router, path: &str, body: Value) -> Value {
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).unwrap()
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(last) = check().await {
        assert!(begun.elapsed() < DEADLINE, "gave up waiting for {what}: {last}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Stage {
    async fn set() -> Self {
        let config = ElbConfig {
            time_scale: 20.0,
            propagation: Duration::ZERO,
            rate_limits: RateLimits::unlimited(),
            metrics_period: Duration::from_secs(1),
            loopback_base: std::net::Ipv4Addr::new(127, 40 + (std::process::id() % 20) as u8, rand::random(), 1),
            ..ElbConfig::default()
        };
        let vpc = config.vpc_id.clone();
        let elb = Elb::new(config);
        let cloudwatch = CloudWatch::new(elb.clone(), Duration::from_millis(200));
        let stop = CancellationToken::new();
        let (api, api_address) = bound().await;
        let (metrics, metrics_address) = bound().await;
        let (backend, backend_address) = bound().await;
        tokio::spawn({
            let (elb, stop) = (elb.clone(), stop.clone());
            async move { elb.serve(api, stop).await }
        });
        tokio::spawn({
            let (cloudwatch, stop) = (cloudwatch.clone(), stop.clone());
            async move { cloudwatch.serve(metrics, stop).await }
        });
        let app = axum::Router::new()
            .route("/new/bad", axum::routing::get(async || axum::http::StatusCode::INTERNAL_SERVER_ERROR))
            .fallback(async || "ok");
        tokio::spawn(axum::serve(backend, app).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());

        let listener = json!({"name": "shared", "listeners": [{"port": 18080, "protocol": "HTTP"}]});
        let made = control(elb.control_router(), "/load-balancers", listener).await;
        let aws = aws(&format!("http://{api_address}"));
        let mut groups = Vec::new();
        for (name, priority) in [("old", 1), ("new", 2)] {
            groups.push(group(&aws, &made, (name, priority), &vpc, &backend_address).await);
        }
        let [old, new] = groups.try_into().unwrap();
        let stage = Self {
            elb,
            cloudwatch,
            endpoint: format!("http://{metrics_address}"),
            front: made["listeners"][0]["address"].as_str().unwrap().to_owned(),
            balancer: LoadBalancerArn::new(made["arn"].as_str().unwrap()).unwrap(),
            old,
            new,
            client: Client::builder(TokioExecutor::new()).build_http(),
            _stop: stop.drop_guard(),
        };
        until("both groups to serve", async || {
            for path in ["/old/", "/new/"] {
                let status = stage.visit(path).await;
                if status != 200 {
                    return Err(format!("{path} {status}"));
                }
            }
            Ok(())
        })
        .await;
        stage
    }

    async fn visit(&self, path: &str) -> u16 {
        let request = http::Request::get(format!("http://{}{path}", self.front)).body(Full::default()).unwrap();
        let response = self.client.request(request).await.unwrap();
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        status
    }

    async fn mode(&self, mode: Value) {
        control(self.cloudwatch.control_router(), "/mode", mode).await;
    }

    async fn analysis(&self) -> Analysis {
        let args = AnalysisArgs {
            cloudwatch: true,
            cloudwatch_endpoint_url: Some(self.endpoint.clone()),
            cloudwatch_resolution_seconds: 1,
            ..AnalysisArgs::default()
        };
        let (config, problems) = AnalysisConfig::new(&args, "eu-west-1");
        assert_eq!(problems, []);
        Analysis::connect(config).await.unwrap()
    }

    fn ask(
        &self,
        metric: TargetGroupMetric,
        statistic: &str,
        divided_by: Option<TargetGroupMetric>,
        period: u32,
    ) -> Measure {
        let green = ClusterName::new("green").unwrap();
        Measure {
            shift: ShiftId::new("s-1").unwrap(),
            step: 0,
            percent: 100,
            gate: 0,
            name: SourceName::new("errors").unwrap(),
            query: GateQuery::CloudWatch {
                metric,
                statistic: statistic.to_owned(),
                period_seconds: period,
                divided_by,
            },
            policies: vec![MeasuredPolicy {
                policy: PolicyKey::new("shop", "checkout").unwrap(),
                weights: vec![(green.clone(), Weight::new(100).unwrap())],
                load_balancer: Some(self.balancer.clone()),
                gaining: vec![(green, Some(self.new.clone()))],
            }],
        }
    }
}

fn aws(endpoint: &str) -> aws_sdk_elasticloadbalancingv2::Client {
    use aws_sdk_elasticloadbalancingv2::config::{BehaviorVersion, Builder, Credentials, Region};
    let config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    aws_sdk_elasticloadbalancingv2::Client::from_conf(config.build())
}

/// A group of the backend behind a rule for `/<name>/*`.
async fn group(
    aws: &aws_sdk_elasticloadbalancingv2::Client,
    front: &Value,
    (name, priority): (&str, i32),
    vpc: &str,
    backend: &str,
) -> TargetGroupArn {
    use aws_sdk_elasticloadbalancingv2::types::{Action, RuleCondition, TargetDescription};
    let made = aws.create_target_group().name(name).protocol("HTTP".into()).port(80).vpc_id(vpc);
    let made = made
        .target_type("ip".into())
        .health_check_interval_seconds(5)
        .health_check_timeout_seconds(4)
        .healthy_threshold_count(2);
    let made = made.send().await.unwrap();
    let arn = made.target_groups()[0].target_group_arn().unwrap().to_owned();
    let (host, port) = backend.rsplit_once(':').unwrap();
    let target = TargetDescription::builder().id(host).port(port.parse().unwrap()).build();
    aws.register_targets().target_group_arn(&arn).targets(target).send().await.unwrap();
    let condition = RuleCondition::builder().field("path-pattern").values(format!("/{name}/*")).build();
    let action = Action::builder().r#type("forward".into()).target_group_arn(&arn).build();
    let rule = aws.create_rule().listener_arn(front["listeners"][0]["arn"].as_str().unwrap()).priority(priority);
    rule.conditions(condition).actions(action).send().await.unwrap();
    TargetGroupArn::new(arn).unwrap()
}

fn value(reading: Reading) -> Result<f64, String> {
    match reading {
        Reading::Value(value) => Ok(value),
        Reading::NoData(why) => Err(why),
        Reading::Verdict { .. } => panic!("CloudWatch gives no verdicts"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ratio_of_errors_is_the_one_that_clients_saw_and_none_is_zero() {
    let stage = Stage::set().await;
    let analysis = stage.analysis().await;
    let ask = stage.ask(TargetGroupMetric::Code5xx, "Sum", Some(TargetGroupMetric::RequestCount), 60);
    let since = Timestamp::now();
    until("a second with requests and without errors", async || {
        stage.visit("/new/").await;
        let ratio = value(analysis.measure(&ask, since).await)?;
        if ratio == 0.0 { Ok(()) } else { Err(format!("{ratio}")) }
    })
    .await;
    until("a second with errors", async || {
        assert_eq!(stage.visit("/new/bad").await, 500);
        stage.visit("/new/").await;
        let ratio = value(analysis.measure(&ask, since).await)?;
        if (0.3..=0.7).contains(&ratio) { Ok(()) } else { Err(format!("{ratio}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_from_before_the_step_and_missing_numbers_are_no_data() {
    let stage = Stage::set().await;
    let analysis = stage.analysis().await;
    let ask = stage.ask(TargetGroupMetric::RequestCount, "Sum", None, 60);
    let early = value(analysis.measure(&ask, Timestamp::now()).await).unwrap_err();
    assert!(early.contains("no whole period of 1 s since"), "{early}");
    stage.mode(json!({"silent": true})).await;
    until("a silent period", async || {
        stage.visit("/new/").await;
        let why = value(analysis.measure(&ask, Timestamp::UNIX_EPOCH).await).unwrap_err();
        if why.contains("no RequestCount of shop/checkout in green") { Ok(()) } else { Err(why) }
    })
    .await;
    stage.mode(json!({})).await;
    let times = stage.ask(TargetGroupMetric::TargetResponseTime, "p99", None, 120);
    until("response times of five seconds", async || {
        stage.visit("/new/").await;
        let seconds = value(analysis.measure(&times, Timestamp::UNIX_EPOCH).await)?;
        if seconds > 0.0 && seconds < 30.0 { Ok(()) } else { Err(format!("{seconds}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_permission_and_a_silent_service_ends_in_time() {
    let stage = Stage::set().await;
    let analysis = stage.analysis().await;
    let ask = stage.ask(TargetGroupMetric::RequestCount, "Sum", None, 60);
    stage.mode(json!({"refuse": "AccessDenied"})).await;
    let why = value(analysis.measure(&ask, Timestamp::UNIX_EPOCH).await).unwrap_err();
    assert!(why.contains("AccessDenied") && why.contains("cloudwatch:GetMetricData"), "{why}");
    stage.mode(json!({"refuse": "Throttling"})).await;
    let why = value(analysis.measure(&ask, Timestamp::UNIX_EPOCH).await).unwrap_err();
    assert!(why.contains("CloudWatch refused: Throttling"), "{why}");
    stage.mode(json!({"delay_ms": 600_000})).await;
    let args = AnalysisArgs {
        cloudwatch: true,
        cloudwatch_endpoint_url: Some(stage.endpoint.clone()),
        cloudwatch_resolution_seconds: 1,
        ..AnalysisArgs::default()
    };
    let config = AnalysisConfig { time_limit: Duration::from_millis(300), ..AnalysisConfig::new(&args, "eu-west-1").0 };
    let hurried = Analysis::connect(config).await.unwrap();
    let why = value(hurried.measure(&ask, Timestamp::UNIX_EPOCH).await).unwrap_err();
    assert!(why.contains("no answer within 300ms"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_group_is_quiet_when_only_the_new_one_is_told_of() {
    let stage = Stage::set().await;
    let analysis = stage.analysis().await;
    let departed =
        Departed { load_balancer: stage.balancer.clone(), old: vec![stage.old.clone()], new: vec![stage.new.clone()] };
    let requests = async |since| analysis.requests_of(&departed, since).await.expect("CloudWatch is asked");
    let since = Timestamp::now();
    until("requests of both", async || {
        stage.visit("/old/").await;
        stage.visit("/new/").await;
        let count = requests(since).await?;
        if count > 0.0 { Ok(()) } else { Err("0".to_owned()) }
    })
    .await;
    let moved = Timestamp::now();
    assert!(requests(moved).await.unwrap_err().contains("no whole period"));
    until("the old one to be quiet", async || {
        stage.visit("/new/").await;
        let count = requests(moved).await?;
        if count == 0.0 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    // Zeros that are told are as good.
    stage.mode(json!({"zeros": true})).await;
    until("the old one to be quiet in numbers", async || {
        stage.visit("/new/").await;
        let count = requests(moved).await?;
        if count == 0.0 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    stage.mode(json!({"silent": true})).await;
    let why = requests(moved).await.unwrap_err();
    assert!(why.contains("no request counts"), "{why}");
    let none = Analysis::connect(AnalysisConfig::default()).await.unwrap();
    assert_eq!(none.requests_of(&departed, moved).await, None);
    drop(stage.elb);
}
