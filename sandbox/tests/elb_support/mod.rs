//! What the tests of the load balancers share: a served stand-in with the unmodified AWS SDK pointed at it, its control
//! API, real backends on loopback, and a client of the data plane. No test sleeps for a fixed time: `until` waits.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_elasticloadbalancingv2::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    types::{
        Action, ActionTypeEnum, ForwardActionConfig, PathPatternConditionConfig, ProtocolEnum, RuleCondition,
        TargetDescription, TargetGroupStickinessConfig, TargetGroupTuple, TargetTypeEnum,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::{Value, json};
use switchyard_sandbox::elb::{Elb, ElbConfig, ElbError, RateLimits};
use tokio::{
    net::TcpListener,
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// How long anything may take on a busy machine before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Bench {
    pub elb: Elb,
    pub aws: Client,
    pub endpoint: String,
    pub config: ElbConfig,
    /// Ends the servers also when a test fails.
    stop: DropGuard,
    served: JoinHandle<Result<(), ElbError>>,
}

/// Loopback addresses that no other test of this process uses; a clash with another process ends in a free port.
fn loopback_base() -> Ipv4Addr {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 + (std::process::id() % 64) as u8, (n % 256) as u8, 1)
}

/// Fast modelled time, no propagation delay, no throttling.
pub fn quick() -> ElbConfig {
    ElbConfig {
        time_scale: 20.0,
        propagation: Duration::ZERO,
        rate_limits: RateLimits::unlimited(),
        loopback_base: loopback_base(),
        ..ElbConfig::default()
    }
}

impl Bench {
    pub async fn start(config: ElbConfig) -> Self {
        let elb = Elb::new(config.clone());
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", api.local_addr().unwrap());
        let stop = CancellationToken::new();
        let served = tokio::spawn({
            let (elb, stop) = (elb.clone(), stop.clone());
            async move { elb.serve(api, stop).await }
        });
        let aws = Client::from_conf(
            aws_sdk_elasticloadbalancingv2::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(config.region.clone()))
                .endpoint_url(&endpoint)
                .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
                .retry_config(RetryConfig::disabled())
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .build(),
        );
        Self { elb, aws, endpoint, config, stop: stop.drop_guard(), served }
    }

    /// Stops everything and gives what serve() returned.
    pub async fn stop(self) -> Result<(), ElbError> {
        drop(self.stop);
        tokio::time::timeout(DEADLINE, self.served).await.expect("serve() ends").expect("serve() does not panic")
    }

    /// A call of the control API that must succeed.
    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.control_raw(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    pub async fn control_raw(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        let response = self.elb.control_router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.control("GET", path, Value::Null).await
    }

    /// A ready load balancer with one HTTP listener.
    pub async fn front(&self, name: &str) -> Front {
        let body = json!({"name": name, "listeners": [{"port": 18_080, "protocol": "HTTP"}]});
        let made = self.control("POST", "/load-balancers", body).await;
        let listener = &made["listeners"][0];
        Front {
            arn: made["arn"].as_str().unwrap().to_owned(),
            listener: listener["arn"].as_str().unwrap().to_owned(),
            address: listener["address"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// An ip target group on `/health`, every 5 seconds (modelled), thresholds 2.
    pub async fn group(&self, name: &str) -> String {
        let made = self
            .aws
            .create_target_group()
            .name(name)
            .protocol(ProtocolEnum::Http)
            .port(8080)
            .vpc_id(&self.config.vpc_id)
            .target_type(TargetTypeEnum::Ip)
            .health_check_path("/health")
            .health_check_interval_seconds(5)
            .health_check_timeout_seconds(4)
            .healthy_threshold_count(2)
            .unhealthy_threshold_count(2)
            .send()
            .await
            .unwrap();
        made.target_groups()[0].target_group_arn().unwrap().to_owned()
    }

    pub async fn register(&self, group: &str, address: SocketAddr) {
        self.aws.register_targets().target_group_arn(group).targets(target(address)).send().await.unwrap();
    }

    pub async fn deregister(&self, group: &str, address: SocketAddr) {
        self.aws.deregister_targets().target_group_arn(group).targets(target(address)).send().await.unwrap();
    }

    /// A rule for every path with these groups and weights. Returns its ARN.
    pub async fn rule(&self, front: &Front, weights: &[(&str, i32)]) -> String {
        let made = self
            .aws
            .create_rule()
            .listener_arn(&front.listener)
            .priority(10)
            .conditions(path("/*"))
            .actions(forward(weights, None))
            .send()
            .await
            .unwrap();
        made.rules()[0].rule_arn().unwrap().to_owned()
    }

    /// Gives a rule one group only.
    pub async fn forward_all(&self, rule: &str, group: &str) {
        self.aws.modify_rule().rule_arn(rule).actions(forward(&[(group, 1)], None)).send().await.unwrap();
    }

    pub async fn attribute(&self, group: &str, key: &str, value: &str) {
        let attribute =
            aws_sdk_elasticloadbalancingv2::types::TargetGroupAttribute::builder().key(key).value(value).build();
        let call = self.aws.modify_target_group_attributes().target_group_arn(group).attributes(attribute);
        call.send().await.unwrap();
    }

    /// (state, reason) of one target, by its address.
    pub async fn health(&self, group: &str, address: SocketAddr) -> (String, Option<String>) {
        let call = self.aws.describe_target_health().target_group_arn(group).targets(target(address));
        let answer = call.send().await.unwrap();
        let health = answer.target_health_descriptions()[0].target_health().unwrap();
        (health.state().unwrap().as_str().to_owned(), health.reason().map(|r| r.as_str().to_owned()))
    }

    pub async fn until_state(&self, group: &str, address: SocketAddr, wanted: &str) {
        until(&format!("{address} is {wanted}"), async || self.health(group, address).await.0 == wanted).await;
    }
}

pub struct Front {
    pub arn: String,
    pub listener: String,
    pub address: SocketAddr,
}

pub fn target(address: SocketAddr) -> TargetDescription {
    TargetDescription::builder().id(address.ip().to_string()).port(address.port().into()).build()
}

pub fn path(pattern: &str) -> RuleCondition {
    RuleCondition::builder()
        .field("path-pattern")
        .path_pattern_config(PathPatternConditionConfig::builder().values(pattern).build())
        .build()
}

pub fn forward(weights: &[(&str, i32)], sticky_s: Option<i32>) -> Action {
    let tuple =
        |(arn, weight): &(&str, i32)| TargetGroupTuple::builder().target_group_arn(*arn).weight(*weight).build();
    let sticky = sticky_s.map(|s| TargetGroupStickinessConfig::builder().enabled(true).duration_seconds(s).build());
    let config = ForwardActionConfig::builder()
        .set_target_groups(Some(weights.iter().map(tuple).collect()))
        .set_target_group_stickiness_config(sticky)
        .build();
    Action::builder().r#type(ActionTypeEnum::Forward).forward_config(config).build()
}

/// Waits until `check` holds; panics with `what` when it does not in time.
pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < DEADLINE, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One answer of the data plane.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub group: Option<String>,
    pub target: Option<String>,
    pub cookies: Vec<String>,
    pub location: Option<String>,
    pub body: String,
}

/// A keep-alive client of the data plane.
#[derive(Clone)]
pub struct Visitor {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl Visitor {
    pub fn of(front: &Front) -> Self {
        Self { client: legacy::Client::builder(TokioExecutor::new()).build_http(), address: front.address }
    }

    pub async fn get(&self, path: &str) -> Got {
        self.send("GET", path, &[], "").await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Got, String> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = self.client.request(request).await.map_err(|e| e.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let cookies = parts.headers.get_all("set-cookie").iter();
        Ok(Got {
            status: parts.status.as_u16(),
            group: header("x-sandbox-target-group"),
            target: header("x-sandbox-target"),
            cookies: cookies.map(|v| v.to_str().unwrap().split(';').next().unwrap().to_owned()).collect(),
            location: header("location"),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// One single connection to the data plane, and so one node of the load balancer. (A `Visitor` may open a second one
/// when the first has not come back to its pool yet.)
pub struct Line {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Line {
    pub async fn to(front: &Front) -> Self {
        let stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, address: front.address }
    }

    /// The group that a GET on / went to, if it went to one.
    pub async fn group(&mut self) -> Option<String> {
        self.sender.ready().await.unwrap();
        let request = Request::get("/").header("host", self.address.to_string()).body(Full::default()).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let group = response.headers().get("x-sandbox-target-group").map(|v| v.to_str().unwrap().to_owned());
        response.into_body().collect().await.unwrap();
        group
    }
}

/// A real HTTP server. `/health` answers the status that is set; `/slow` waits for `release`; `/echo` gives back the
/// request's head and body; `/login` sets the cookie SESSION; `/broken` breaks off in its body; everything else answers
/// the backend's name.
pub struct Backend {
    pub address: SocketAddr,
    pub health: Arc<AtomicU16>,
    pub served: Arc<AtomicUsize>,
    pub waiting: Arc<AtomicUsize>,
    release: Arc<Notify>,
    task: AbortHandle,
}

impl Backend {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, release) = (Arc::new(AtomicU16::new(200)), Arc::new(Notify::new()));
        let (served, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let state = (Arc::clone(&health), Arc::clone(&served), Arc::clone(&waiting), Arc::clone(&release));
        let task = tokio::spawn(async move {
            // Connections end with the server: a backend that is gone must refuse and reset.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(answer(name, &state, request).await) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, health, served, waiting, release, task: task.abort_handle() }
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Lets the requests that wait on `/slow` go on.
    pub fn release(&self) {
        self.release.notify_waiters();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type State = (Arc<AtomicU16>, Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<Notify>);

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

fn plain(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync())
}

/// A head that promises more than comes.
fn broken() -> Answer {
    let first = futures::stream::iter([Ok(hyper::body::Frame::data(Bytes::from("half")))]);
    let last = futures::stream::once(async {
        // The server writes out what it has when the body makes it wait.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("broken off on purpose"))
    });
    Response::new(StreamBody::new(first.chain(last)).boxed_unsync())
}

async fn answer(name: &str, state: &State, request: Request<Incoming>) -> Answer {
    let (health, served, waiting, release) = state;
    let path = request.uri().path().to_owned();
    if path == "/health" {
        let mut response = plain("");
        *response.status_mut() = http::StatusCode::from_u16(health.load(Ordering::SeqCst)).unwrap();
        return response;
    }
    served.fetch_add(1, Ordering::SeqCst);
    let text = match path.as_str() {
        "/broken" => return broken(),
        "/slow" => {
            let released = release.notified();
            waiting.fetch_add(1, Ordering::SeqCst);
            released.await;
            name.to_owned()
        }
        "/echo" => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            format!("{} {} {:?}\n{}", parts.method, parts.uri, parts.headers, String::from_utf8_lossy(&body))
        }
        _ => name.to_owned(),
    };
    let mut response = plain(text);
    if path == "/login" {
        response.headers_mut().insert("set-cookie", "SESSION=1; Path=/".parse().unwrap());
    }
    response
}
