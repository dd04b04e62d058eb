//! The table of clusters, operations under way, and forecasts.

use super::*;
use crate::model::{
    OperationKind, PolicyRef,
    cluster::{ClusterForecast, Progress, SourceProblem},
};

const BARE: Paint = Paint { colored: false };
const DOCS: &str = include_str!("../../../docs/yardctl.md");

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-01-02T03:04:05Z")
}

fn policy(name: &str) -> PolicyRef {
    PolicyRef { namespace: "shop".into(), name: name.into() }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        region: "eu-west-1".into(),
        vpc_id: "vpc-1".into(),
        link: Link::Connected,
        last_seen: Some(at("2026-01-02T03:04:00Z")),
        agent_version: "0.1.0".into(),
        endpoints: 12,
        mode: Mode::Active,
        ..Cluster::default()
    }
}

fn draining() -> Cluster {
    let waiting = Progress {
        policy: policy("checkout"),
        programmed_weight: Some(50),
        targets: 3,
        reason: "BrownOut".into(),
        message: "50 % of the requests stay where they were asked for".into(),
        ..Progress::default()
    };
    let done = Progress { policy: policy("cart"), done: true, programmed_weight: Some(38), ..Progress::default() };
    Cluster {
        mode: Mode::Draining,
        operation: Some(Operation {
            id: "019b0c3e-7c00-7000-8000-000000000002".into(),
            kind: OperationKind::Drain,
            actor: "alice".into(),
            reason: "upgrade to 1.34".into(),
            started_at: Some(at("2026-01-02T03:00:05Z")),
            percent: 75,
            step_percent: 25,
            step_seconds: 60,
            why: "Blocked".into(),
            message:
                "1 of 2 policies are not there yet; shop/checkout: 50 % of the requests stay where they were asked for"
                    .into(),
            progress: vec![done, waiting],
            version: 3,
            ..Operation::default()
        }),
        ..cluster("blue")
    }
}

#[test]
fn clusters_show_link_mode_operation_and_every_failing_watch() {
    let mut green = cluster("green");
    green.problems =
        vec![SourceProblem { namespace: "shop".into(), kind: "Service".into(), message: "forbidden".into() }];
    let text = clusters(&[draining(), green], BARE, now());
    let expected = "\
NAME   REGION     VPC    LINK       MODE          LAST SEEN  AGENT  ENDPOINTS  PROBLEMS  OPERATION
blue   eu-west-1  vpc-1  connected  draining 75%  5s         0.1.0         12         0  drain, 4m00s, 1 of 2 done
green  eu-west-1  vpc-1  connected  active        5s         0.1.0         12         1  -

UNDER WAY
  blue draining, at most 75% of its share: 1 of 2 policies are not there yet; shop/checkout: 50 % of the requests stay where they were asked for (Blocked)
    drain by alice, 4m00s ago, in steps of 25% at least 60s apart: upgrade to 1.34
    shop/checkout: blue has weight 50 and 3 targets: BrownOut: 50 % of the requests stay where they were asked for

WATCHES THAT FAIL (what they reported before stays in force)
  green: Service in shop: forbidden
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows it otherwise");
}

#[test]
fn an_operation_that_ended_is_one_cell_and_no_more() {
    let mut blue = draining();
    blue.mode = Mode::Drained;
    blue.operation.as_mut().unwrap().ended_at = Some(at("2026-01-02T03:04:00Z"));
    let text = clusters(&[blue], BARE, now());
    assert!(text.contains("drained") && text.contains("drain, ended 5s ago\n"), "{text}");
    assert!(!text.contains("UNDER WAY"), "{text}");
}

#[test]
fn a_game_day_shows_when_it_ends_by_itself() {
    let mut blue = draining();
    let operation = blue.operation.as_mut().unwrap();
    (operation.kind, operation.until) = (OperationKind::Drill, Some(at("2026-01-02T03:10:00Z")));
    (operation.step_percent, operation.force) = (100, true);
    blue.mode = Mode::Drained;
    let text = clusters(&[blue], BARE, now());
    assert!(text.contains("game day, until 2026-01-02T03:10:00Z\n"), "{text}");
    let asked = "game day by alice, 4m00s ago, whatever the others declare that they can carry: upgrade to 1.34";
    assert!(text.contains(asked), "{text}");
}

#[test]
fn a_hub_that_knows_no_modes_is_shown_without_them() {
    let old = Cluster { mode: Mode::Unspecified, ..cluster("blue") };
    let text = clusters(&[old], BARE, now());
    assert!(text.contains("connected  -     5s"), "{text}");
}

fn forecast_of(name: &str, verdict: Verdict, before: u32, after: u32, message: &str) -> Forecast {
    let of = |cluster: &str, before, after| ClusterForecast {
        cluster: cluster.into(),
        share_before_permille: before,
        share_after_permille: after,
        ..ClusterForecast::default()
    };
    Forecast {
        policy: policy(name),
        verdict,
        message: message.into(),
        clusters: vec![of("blue", before, after), of("green", 1000 - before, 1000 - after)],
        ..Forecast::default()
    }
}

#[test]
fn a_forecast_shows_the_worst_first_and_the_sum_at_the_end() {
    let all = [
        forecast_of(
            "cart",
            Verdict::Carried,
            500,
            0,
            "green 50.0 % -> 100.0 % with 4 healthy targets, can carry 200.0 %",
        ),
        forecast_of("login", Verdict::NotCarried, 1000, 1000, "nobody takes the 100.0 % of blue"),
        forecast_of("images", Verdict::Untouched, 0, 0, "blue has no share"),
        forecast_of("search", Verdict::Overloaded, 500, 200, "20.0 % stays on blue: the others carry no more"),
    ];
    let text = forecast("blue", &all, BARE);
    let expected = "\
POLICY       VERDICT      LOSES   KEEPS  WHO TAKES IT
shop/login   NOT CARRIED   0.0%  100.0%  nobody takes the 100.0 % of blue
shop/search  OVERLOADED   30.0%   20.0%  20.0 % stays on blue: the others carry no more
shop/cart    carried      50.0%    0.0%  green 50.0 % -> 100.0 % with 4 healthy targets, can carry 200.0 %
shop/images  untouched     0.0%    0.0%  blue has no share

4 policies name blue: 1 NOT CARRIED, 1 OVERLOADED, 1 carried, 1 untouched
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows it otherwise");
}

#[test]
fn the_page_about_clusters_shows_a_forecast_as_it_is() {
    let message = "green 50.0 % -> 100.0 % with 4 healthy targets, can carry 200.0 %";
    let text = forecast("blue", &[forecast_of("cart", Verdict::Carried, 500, 0, message)], BARE);
    assert!(include_str!("../../../docs/clusters.md").contains(&text), "docs/clusters.md shows it otherwise:\n{text}");
}

#[test]
fn a_cluster_that_no_policy_names_has_a_forecast_in_words() {
    assert_eq!(forecast("blue", &[], BARE), "No policy names blue.\n");
}
