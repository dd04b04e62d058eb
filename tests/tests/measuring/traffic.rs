//! What clients see, what the load balancer's exporter counts, what a real Prometheus makes of it, and what the hub reads from that
//! are one and the same: the queries of docs/analysis.md, on real traffic.

use serde_json::json;
use switchyard_core::shift::analysis::Reading;
use switchyard_tests::{
    prometheus::{Prometheus, Target},
    wait,
    world::World,
};

use crate::prometheus::{LONG, analysis, measured};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queries_of_the_guide_follow_real_traffic_by_cluster() {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    let control = world.sandbox.info().control_url.clone();
    let target = Target {
        job: "alb",
        address: control.trim_start_matches("http://").to_owned(),
        path: "/elb/metrics".to_owned(),
    };
    let server = Prometheus::start(&[target]).await.expect("Prometheus starts");
    let analysis = analysis(server.url(), LONG).await;
    let load = world.load("checkout", 50).await;
    let of = |cluster: &str| format!(r#"policy="shop/checkout",cluster="{cluster}",source="target""#);
    let rate =
        |cluster: &str, more: &str| format!("sum(rate(sandbox_alb_requests_total{{{}{more}}}[10s]))", of(cluster));
    // No error was ever counted, so there is no series of errors: the guide adds the zero.
    let ratio = |cluster: &str| {
        let errors = rate(cluster, r#",code=~"5..""#);
        format!("({errors} or vector(0)) / {}", rate(cluster, ""))
    };
    wait::until("a ratio of no errors", async || {
        let reading = measured(&analysis, &ratio("green")).await;
        wait::check(reading == Reading::Value(0.0), || format!("{reading:?}"))
    })
    .await;
    let naive = format!("{} / {}", rate("green", r#",code=~"5..""#), rate("green", ""));
    assert!(matches!(measured(&analysis, &naive).await, Reading::NoData(why) if why.contains("does not exist")));

    // Pods of green answer 500 from here on; their health check is not asked on this path.
    let mode = json!({"mode": "erroring"});
    world.sandbox.control().post::<serde_json::Value>("/clusters/green/pods/mode", &mode).await.expect("a mode");
    wait::until("errors of green and only of green", async || {
        let (green, blue) = (measured(&analysis, &ratio("green")).await, measured(&analysis, &ratio("blue")).await);
        let failing = matches!(green, Reading::Value(value) if value > 0.2);
        wait::check(failing && blue == Reading::Value(0.0), || format!("green {green:?}, blue {blue:?}"))
    })
    .await;
    let quantile = format!(
        "histogram_quantile(0.99, sum by (le) (rate(sandbox_alb_response_seconds_bucket{{{}}}[30s])))",
        of("blue").replace(r#",source="target""#, "")
    );
    let reading = measured(&analysis, &quantile).await;
    assert!(matches!(reading, Reading::Value(value) if value > 0.0 && value <= 10.0), "{reading:?}");
    load.finish().await.expect("the load ends");
    server.stop().await.expect("Prometheus ends");
    world.stop().await;
}
