//! Whole shifts that are decided by a real Prometheus and by CloudWatch's numbers of the same traffic: one that is good goes on, one
//! that fails goes back, one without data waits.

use serde_json::json;
use switchyard_proto::api::v1::{self as api, GatePhase, ShiftState, shift_service_client::ShiftServiceClient};
use switchyard_tests::{
    prometheus::{Page, Prometheus, Target},
    wait,
    world::World,
};
use tonic::transport::Channel;

/// Blue has everything; the hub may ask this Prometheus and CloudWatch.
struct Stage {
    world: World,
    shifts: ShiftServiceClient<Channel>,
}

/// A Prometheus that scrapes the sandbox's load balancers, and more.
async fn scraping(world: &World, more: Option<&Page>) -> Prometheus {
    let address = world.sandbox.info().control_url.trim_start_matches("http://").to_owned();
    let mut targets = vec![Target { job: "alb", address, path: "/elb/metrics".to_owned() }];
    targets.extend(more.map(Page::target));
    Prometheus::start(&targets).await.expect("Prometheus starts")
}

impl Stage {
    async fn set(more: Option<&Page>) -> (Self, Prometheus) {
        let mut world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
        let server = scraping(&world, more).await;
        let flags = [
            format!("--prometheus=main={}", server.url()),
            "--cloudwatch".to_owned(),
            format!("--cloudwatch-endpoint-url={}", world.sandbox.info().cloudwatch_url),
            "--cloudwatch-resolution-seconds=1".to_owned(),
        ];
        world.hub.stop().await.expect("the hub ends");
        flags.iter().for_each(|flag| world.hub.add_argument(flag));
        world.hub.start_again().await.expect("the hub starts again");
        world.yardctl.converged("shop/checkout").await;
        let shifts = ShiftServiceClient::connect(world.hub.grpc_url()).await.expect("the hub takes a connection");
        (Self { world, shifts }, server)
    }

    /// To green by one step of `percent` that bakes for 5 s, then all of it, with these gates in both steps.
    async fn create(&mut self, percent: u32, gates: Vec<api::Gate>) -> String {
        let steps = [(percent, 5), (100, 0)];
        let step = |(percent, bake_seconds)| api::ShiftStep { percent, bake_seconds, ..Default::default() };
        let strategy = api::ShiftStrategy { steps: steps.map(step).into(), ..Default::default() };
        let policy = api::PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() };
        let target = api::ShiftPolicy { policy: Some(policy), to_cluster: "green".to_owned(), ..Default::default() };
        let spec = api::ShiftSpec { policies: vec![target], strategy: Some(strategy), gates, ..Default::default() };
        let request = api::CreateShiftRequest { request_id: "measured".to_owned(), spec: Some(spec), dry_run: false };
        let answer = self.shifts.create_shift(request).await.expect("the shift is taken").into_inner();
        answer.shift.expect("a shift").id
    }

    async fn shift(&self, id: &str) -> api::Shift {
        let request = api::GetShiftRequest { id: id.to_owned() };
        let answer = self.shifts.clone().get_shift(request).await.expect("the hub answers").into_inner();
        answer.shift.expect("a shift")
    }

    /// The shift, as soon as it is so.
    async fn until(&self, id: &str, what: &str, holds: impl Fn(&api::ShiftStatus) -> bool) -> api::ShiftStatus {
        wait::until(what, async || {
            let status = self.shift(id).await.status.expect("a status");
            wait::check(holds(&status), || format!("{status:?}")).map(|()| status.clone())
        })
        .await
    }

    async fn ended(&self, id: &str) -> api::ShiftStatus {
        self.until(id, "the shift to end", |status| status.ended_at.is_some()).await
    }

    async fn weights(&self) -> Vec<(String, u32)> {
        let state = self.world.elb().state().await.expect("the state");
        state.weights("shop/checkout").expect("one rule").into_iter().collect()
    }

    /// How many measurements of a kind and an outcome this hub has made.
    async fn counted(&self, words: &[&str]) -> u64 {
        let pages = switchyard_tests::client::Client::new(self.world.hub.http_url());
        let (_, text) = pages.send(http::Method::GET, "/metrics", Vec::new()).await.expect("the metrics");
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().filter(|line| line.starts_with("switchyard_hub_shift_measurements_total"));
        let counts = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// Green's part of errors, from what the load balancer counts.
fn errors() -> api::Gate {
    let of = |more: &str| {
        let labels = format!(r#"policy="shop/checkout",cluster="green",source="target"{more}"#);
        format!("sum(rate(sandbox_alb_requests_total{{{labels}}}[5s]))")
    };
    let query = format!("({} or vector(0)) / {}", of(r#",code=~"5..""#), of(""));
    api::Gate {
        name: "errors".to_owned(),
        prometheus: Some(api::PrometheusGate { source: "main".to_owned(), query }),
        success: "< 0.01".to_owned(),
        interval_seconds: 5,
        ..Default::default()
    }
}

fn cloudwatch() -> api::Gate {
    let asked = api::CloudWatchGate {
        metric: "HTTPCode_Target_5XX_Count".to_owned(),
        statistic: "Sum".to_owned(),
        divided_by: "RequestCount".to_owned(),
        ..Default::default()
    };
    api::Gate {
        name: "balancer".to_owned(),
        cloud_watch: Some(asked),
        success: "< 0.01".to_owned(),
        interval_seconds: 5,
        ..Default::default()
    }
}

fn state(status: &api::ShiftStatus) -> ShiftState {
    ShiftState::try_from(status.state).expect("a state")
}

fn all_to(cluster: &str) -> Vec<(String, u32)> {
    ["blue", "green"].map(|name| (name.to_owned(), if name == cluster { 100 } else { 0 })).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_passes_by_prometheus_and_cloudwatch_and_is_converged_by_evidence() {
    let (mut stage, server) = Stage::set(None).await;
    let load = stage.world.load("checkout", 50).await;
    let id = stage.create(50, vec![errors(), cloudwatch()]).await;
    let status = stage.ended(&id).await;
    assert_eq!(state(&status), ShiftState::Succeeded, "{status:?}");
    assert_eq!(stage.weights().await, all_to("green"));
    // Each gate was asked in each of the two steps, and answered with a number.
    for kind in ["prometheus", "cloudwatch"] {
        let found = stage.counted(&[&format!("kind=\"{kind}\""), "outcome=\"value\""]).await;
        assert!(found >= 2, "{found} numbers of {kind}");
    }
    // And blue was seen to be left.
    assert!(stage.counted(&["kind=\"evidence\""]).await >= 1);
    load.finish_without_failures().await;
    server.stop().await.expect("Prometheus ends");
    stage.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_goes_back_to_the_recorded_weights() {
    let (mut stage, server) = Stage::set(None).await;
    let mode = json!({"mode": "erroring"});
    let control = stage.world.sandbox.control().clone();
    control.post::<serde_json::Value>("/clusters/green/pods/mode", &mode).await.expect("a mode");
    let load = stage.world.load("checkout", 50).await;
    let id = stage.create(20, vec![errors()]).await;
    let status = stage.ended(&id).await;
    assert_eq!(state(&status), ShiftState::Failed, "{status:?}");
    assert!(status.message.contains("errors"), "{}", status.message);
    assert_eq!(stage.weights().await, all_to("blue"));
    load.finish().await.expect("the load ends");
    server.stop().await.expect("Prometheus ends");
    stage.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_without_data_waits_and_goes_on_when_data_comes() {
    let page = Page::serve().await.expect("a port is free");
    let (mut stage, server) = Stage::set(Some(&page)).await;
    let query = "checks_failed".to_owned();
    let gate = api::Gate {
        name: "checks".to_owned(),
        prometheus: Some(api::PrometheusGate { source: "main".to_owned(), query }),
        success: "== 0".to_owned(),
        interval_seconds: 5,
        ..Default::default()
    };
    let id = stage.create(50, vec![gate]).await;
    let no_data = i32::from(GatePhase::NoData);
    let waiting = stage
        .until(&id, "two measurements without data", |status| {
            status.gates.iter().any(|gate| gate.phase == no_data && gate.without_data >= 2)
        })
        .await;
    assert_eq!((state(&waiting), waiting.step), (ShiftState::Baking, 1), "{waiting:?}");
    assert!(waiting.gates[0].message.contains("no data for the query"), "{waiting:?}");
    assert_eq!(stage.weights().await, [("blue".to_owned(), 50), ("green".to_owned(), 50)]);
    page.set("checks_failed", 0);
    // From here on evidence is needed too, and that needs requests.
    let load = stage.world.load("checkout", 50).await;
    let status = stage.ended(&id).await;
    assert_eq!(state(&status), ShiftState::Succeeded, "{status:?}");
    assert_eq!(stage.weights().await, all_to("green"));
    load.finish_without_failures().await;
    server.stop().await.expect("Prometheus ends");
    stage.world.stop().await;
}
