//! The hub's client against a real server: what is a number, and everything that is none.

use std::time::Duration;

use jiff::Timestamp;
use switchyard_core::{
    ids::{ShiftId, SourceName},
    shift::analysis::{GateQuery, Measure, Reading},
};
use switchyard_hub::analysis::{Analysis, AnalysisArgs, AnalysisConfig};
use switchyard_tests::{
    prometheus::{Page, Prometheus},
    wait,
};

fn ask(query: &str) -> Measure {
    let name = |name: &str| SourceName::new(name).expect("a name");
    Measure {
        shift: ShiftId::new("shift-1").expect("an id"),
        step: 0,
        percent: 100,
        gate: 0,
        name: name("gate"),
        query: GateQuery::Prometheus { source: name("main"), query: query.to_owned() },
        policies: Vec::new(),
    }
}

/// What a hub that is given this server measures with.
pub async fn analysis(url: &str, time_limit: Duration) -> Analysis {
    let args = AnalysisArgs { prometheus: vec![format!("main={url}")], ..AnalysisArgs::default() };
    let (config, problems) = AnalysisConfig::new(&args, "eu-central-1");
    assert_eq!(problems, []);
    Analysis::connect(AnalysisConfig { time_limit, ..config }).await.expect("nothing is missing")
}

pub const LONG: Duration = Duration::from_secs(10);

/// Measures once.
pub async fn measured(analysis: &Analysis, query: &str) -> Reading {
    analysis.measure(&ask(query), Timestamp::UNIX_EPOCH).await
}

fn why(query: &str, reading: Reading) -> String {
    match reading {
        Reading::NoData(why) => why,
        other => panic!("{query} should have no data: {other:?}"),
    }
}

/// A query that takes the server many seconds: millions of steps.
const HEAVY: &str = "sum(sum_over_time(vector(1)[40000000s:1s]))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_number_is_a_value_and_everything_else_says_what_it_is() {
    let page = Page::serve().await.expect("a port is free");
    page.set(r#"errors{cluster="blue"}"#, 3);
    page.set(r#"errors{cluster="green"}"#, 0.25);
    page.set("odd", "NaN");
    page.set("endless", "+Inf");
    let server = Prometheus::start(&[page.target()]).await.expect("Prometheus starts");
    server.has("errors").await;
    server.has("endless").await;
    let analysis = analysis(server.url(), LONG).await;
    for (query, wanted) in [
        ("1 + 1", 2.0),
        ("vector(0.5)", 0.5),
        (r#"errors{cluster="green"}"#, 0.25),
        ("sum(errors)", 3.25),
        (r#"scalar(errors{cluster="blue"})"#, 3.0),
        (r#"sum(errors{cluster="red"}) or vector(0)"#, 0.0),
        ("-1e-300", -1e-300),
    ] {
        assert_eq!(measured(&analysis, query).await, Reading::Value(wanted), "{query}");
    }
    for (query, word) in [
        ("errors", "2 series"),
        (r#"errors{cluster="red"}"#, "no data for the query"),
        ("nothing_of_this_name", "no data for the query"),
        ("odd", "NaN"),
        ("scalar(errors)", "NaN"),
        ("0 / 0", "NaN"),
        ("endless", "divides by zero"),
        ("-1 / 0", "divides by zero"),
        ("errors[1m]", "gave a matrix"),
        (r#""text""#, "gave a string"),
        ("sum(errors", "refused the query: bad_data"),
        ("no_such_function(errors)", "refused the query: bad_data"),
        (r#"errors * on() errors"#, "refused the query: execution"),
    ] {
        let why = why(query, measured(&analysis, query).await);
        assert!(why.starts_with("the Prometheus server main "), "{query}: {why}");
        assert!(why.contains(word), "{query}: {why}");
    }
    server.stop().await.expect("Prometheus ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_takes_too_long_or_too_much_is_no_data_in_time() {
    let server = Prometheus::start(&[]).await.expect("Prometheus starts");
    // The server is told to give up after a second, and says that it did.
    let patient = analysis(server.url(), Duration::from_secs(3)).await;
    let text = why(HEAVY, measured(&patient, HEAVY).await);
    assert!(text.contains("timeout") || text.contains("no answer within"), "{text}");
    let hurried = analysis(server.url(), Duration::from_millis(100)).await;
    let text = why(HEAVY, measured(&hurried, HEAVY).await);
    assert!(text.contains("no answer within 100ms"), "{text}");
    let small = Prometheus::start_with(&[], &["--query.max-samples=1000"]).await.expect("another one starts");
    let text = why(HEAVY, measured(&analysis(small.url(), LONG).await, HEAVY).await);
    assert!(text.contains("too many samples"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_that_ends_is_no_data_and_so_is_a_server_that_went_away() {
    let page = Page::serve().await.expect("a port is free");
    page.set("ratio", 0.5);
    page.set("other", 1);
    let server = Prometheus::start(&[page.target()]).await.expect("Prometheus starts");
    server.has("ratio").await;
    let analysis = analysis(server.url(), LONG).await;
    assert_eq!(measured(&analysis, "ratio").await, Reading::Value(0.5));
    page.remove("ratio");
    wait::until("the series to be stale", async || {
        let reading = measured(&analysis, "ratio").await;
        wait::check(matches!(&reading, Reading::NoData(why) if why.contains("no data")), || format!("{reading:?}"))
    })
    .await;
    // A target that is gone leaves nothing behind either, five minutes of look-back notwithstanding.
    assert_eq!(measured(&analysis, "other").await, Reading::Value(1.0));
    drop(page);
    wait::until("the target to be gone", async || {
        let reading = measured(&analysis, "other").await;
        wait::check(matches!(&reading, Reading::NoData(_)), || format!("{reading:?}"))
    })
    .await;
    server.stop().await.expect("Prometheus ends");
    let text = why("1", measured(&analysis, "1").await);
    assert!(text.contains("could not be reached"), "{text}");
}
