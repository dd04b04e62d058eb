//! docs/analysis.md: its gates are gates as the hub reads them, and its queries are understood by a real Prometheus.

use switchyard_core::shift::{analysis::Reading, spec::Gate};
use switchyard_tests::{
    programs,
    prometheus::{Page, Prometheus},
};

use crate::prometheus::{LONG, analysis, measured};

/// The fenced blocks of the page that are marked so.
fn blocks(page: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside: Option<(bool, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), inside.take()) {
            (Some(language), None) => inside = Some((language == mark, String::new())),
            (Some(_), Some((wanted, text))) => found.extend(wanted.then_some(text)),
            (None, Some((wanted, text))) => inside = Some((wanted, format!("{text}{line}\n"))),
            (None, None) => {}
        }
    }
    found
}

fn page() -> String {
    std::fs::read_to_string(programs::workspace().join("docs/analysis.md")).expect("docs/analysis.md")
}

fn gates() -> Vec<Gate> {
    #[derive(serde::Deserialize)]
    struct Gates {
        gates: Vec<Gate>,
    }
    let blocks = blocks(&page(), "yaml");
    let each = |text: &String| serde_norway::from_str::<Gates>(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    blocks.iter().flat_map(|text| each(text).gates).collect()
}

/// The queries of the gates, and those of the block of examples, one in each paragraph.
fn queries() -> Vec<String> {
    let mut queries: Vec<String> = gates().into_iter().filter_map(|gate| Some(gate.prometheus?.query)).collect();
    let text = page();
    let examples = blocks(&text, "promql").into_iter().flat_map(|block| {
        let paragraphs: Vec<String> = block.split("\n\n").map(str::to_owned).collect();
        paragraphs
    });
    let plain =
        |paragraph: String| paragraph.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    queries.extend(examples.map(plain));
    queries
}

#[test]
fn every_kind_of_gate_but_the_simplest_is_shown_as_the_hub_reads_it() {
    let gates = gates();
    let shown = |has: fn(&Gate) -> bool| gates.iter().filter(|gate| has(gate)).count();
    let counts = [
        shown(|gate| gate.prometheus.is_some()),
        shown(|gate| gate.cloud_watch.is_some()),
        shown(|gate| gate.webhook.is_some()),
    ];
    assert!(counts.iter().all(|count| *count >= 1), "prometheus, cloudWatch, webhook: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_understands_every_query_of_the_guide() {
    let page = Page::serve().await.expect("a port is free");
    page.set("errors", 3);
    let server = Prometheus::start(&[page.target()]).await.expect("Prometheus starts");
    server.has("errors").await;
    let analysis = analysis(server.url(), LONG).await;
    let queries = queries();
    assert!(queries.len() >= 4, "{queries:?}");
    for query in &queries {
        // Nothing of what they name is scraped here; each has a number or none, and none is refused.
        let reading = measured(&analysis, query).await;
        let refused = matches!(&reading, Reading::NoData(why) if !why.contains("no data") && !why.contains("NaN"));
        assert!(!refused, "{query}: {reading:?}");
    }
    // What the guide adds where an old value must not count.
    let fresh = |job: &str| format!("sum(errors) and on() (time() - max(timestamp(up{{job=\"{job}\"}})) < 60)");
    assert!(self::page().contains("and on() (time() - max(timestamp(up{job="));
    assert_eq!(measured(&analysis, &fresh("page")).await, Reading::Value(3.0));
    assert!(matches!(measured(&analysis, &fresh("other")).await, Reading::NoData(_)));
    server.stop().await.expect("Prometheus ends");
}
