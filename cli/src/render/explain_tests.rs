//! The page of `explain`, whole, in each of the states in which it is read.

use super::*;

const BARE: Paint = Paint { colored: false };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn page(explanation: &Explanation) -> String {
    let policy = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    explain(&policy, Some(explanation), BARE, at("2026-01-02T03:04:05Z"))
}

fn cluster(name: &str, requested: u32, effective: u32, healthy: u32) -> ClusterExplanation {
    let score = healthy * 1000 / 4;
    ClusterExplanation {
        cluster: name.into(),
        requested_weight: requested,
        effective_weight: effective,
        programmed_weight: Some(effective),
        link: Link::Connected,
        mode: Mode::Active,
        ceiling_permille: 1000,
        expected_targets: 4,
        healthy_targets: healthy,
        unhealthy_targets: 4 - healthy,
        known: true,
        score_permille: score,
        used_permille: score,
        share_permille: effective * 10,
        requested_share_permille: requested * 10,
        reason: "AsRequested".into(),
        ..ClusterExplanation::default()
    }
}

const BLUE: &str = "blue gets 0 % instead of 50 %: 0 of 4 expected targets are healthy (0 %), it is taken for 0 % since \
                    2026-01-02T03:00:05Z; it returns after 60 s of health";
const GREEN: &str = "green gets 100 % instead of 50 %: it takes what blue does not get";

fn failed_over() -> Explanation {
    let mut blue = cluster("blue", 50, 0, 0);
    (blue.reason, blue.message) = ("FailedOver".into(), BLUE.into());
    (blue.out_since, blue.outs) = (Some(at("2026-01-02T03:00:05Z")), 1);
    let mut green = cluster("green", 50, 100, 4);
    (green.reason, green.message) = ("FailedOver".into(), GREEN.into());
    Explanation {
        state: Standing::FailedOver,
        message: format!("{BLUE}; {GREEN}"),
        clusters: vec![blue, green],
        levels: vec![Level { priority: 0, health_permille: 700, load_permille: 1000 }],
        moves_last_hour: 1,
        max_moves_per_hour: 6,
        decided_at: Some(at("2026-01-02T03:00:05Z")),
        lost_zones: vec![],
    }
}

#[test]
fn a_lost_cluster_is_told_first_with_its_numbers_and_once() {
    let text = page(&failed_over());
    let expected = "\
shop/checkout  FAILED OVER: blue gets 0 % instead of 50 %: 0 of 4 expected targets are healthy (0 %), it is taken for 0 % since 2026-01-02T03:00:05Z; it returns after 60 s of health; green gets 100 % instead of 50 %: it takes what blue does not get
  decided     2026-01-02T03:00:05Z (4m00s ago)
  moves       1 of 6 within the last hour

CLUSTER  LEVEL  REQUESTED  EFFECTIVE  AT LB   SHARE  HEALTHY   SCORE    USED  CAPACITY  LINK       MODE    WHY
blue         0         50          0      0    0.0%   0 of 4    0.0%    0.0%         -  connected  active  FailedOver
green        0         50        100    100  100.0%   4 of 4  100.0%  100.0%         -  connected  active  FailedOver
  blue: out since 2026-01-02T03:00:05Z (4m00s ago)

LEVEL  CAN CARRY    GETS
    0      70.0%  100.0%
";
    assert_eq!(text, expected, "\n{text}");
    assert!(include_str!("../../../docs/yardctl.md").contains(expected), "docs/yardctl.md shows it otherwise");
}

#[test]
fn what_is_pending_says_when_it_counts_and_what_helps() {
    let mut given = failed_over();
    let pending =
        |back, until: Option<&str>| Some(Pending { back, since: Some(at("2026-01-02T03:04:00Z")), at: until.map(at) });
    given.clusters[0].pending = pending(true, Some("2026-01-02T03:05:00Z"));
    assert!(page(&given).contains(
        "blue: looks better since 2026-01-02T03:04:00Z (5s ago): it returns at 2026-01-02T03:05:00Z if that lasts"
    ));
    given.clusters[0].pending = pending(true, None);
    assert!(page(&given).contains("it returns when somebody says so: yardctl failback shop/checkout\n"));
    given.clusters[0].pending = pending(false, Some("2026-01-02T03:04:10Z"));
    assert!(page(&given).contains(
        "looks worse since 2026-01-02T03:04:00Z (5s ago): its share goes down at 2026-01-02T03:04:10Z if that lasts"
    ));
    given.clusters[0].pending = pending(true, Some("2026-01-02T03:04:00Z"));
    given.moves_last_hour = 6;
    let text = page(&given);
    assert!(
        text.contains(
            "the limit of moves within an hour is reached; yardctl failback shop/checkout lets it return now"
        ),
        "{text}"
    );
    assert!(text.contains("6 of 6 within the last hour: no cluster returns by itself (maxMovesPerHour)"), "{text}");
}

#[test]
fn what_cannot_be_read_is_shown_as_unknown_and_not_as_nothing() {
    let mut given = failed_over();
    let blue = &mut given.clusters[0];
    (blue.known, blue.programmed_weight, blue.link) = (false, None, Link::Stale);
    let text = page(&given);
    assert!(text.contains("blue         0         50          0      ?    0.0%        ?       ?    0.0%"), "{text}");
    assert!(
        text.contains("blue: its targets could not be read at that look: nothing was concluded from it\n"),
        "{text}"
    );
    assert!(text.contains("blue: its agent is stale: that alone moves nothing"), "{text}");
}

#[test]
fn standbys_drained_clusters_and_lost_zones_have_their_words() {
    let mut given = failed_over();
    given.lost_zones = vec!["eu-west-1a".into()];
    let green = &mut given.clusters[1];
    (green.priority, green.standby_weight, green.requested_weight) = (1, 100, 0);
    (green.mode, green.ceiling_permille, green.outs) = (Mode::Draining, 750, 3);
    green.out_since = Some(at("2026-01-02T03:04:00Z"));
    green.unjudged_targets = 1;
    let text = page(&given);
    for expected in [
        "lost zones  eu-west-1a: nothing is healthy there in any cluster, so the scores leave them out",
        "green: a standby of level 1, with weight 100 among those of its level",
        "draining 75%",
        "  4+1 of 4  ",
        "it went out 3 times within the last hour, each time it has to be healthy for longer",
        "green: 1 target not judged by the load balancer yet, ready by the agent's word",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn a_policy_as_requested_has_a_short_page() {
    let given = Explanation {
        state: Standing::AsRequested,
        message: "every cluster gets what is requested".into(),
        clusters: vec![cluster("blue", 50, 50, 4), cluster("green", 50, 50, 4)],
        levels: vec![Level { priority: 0, health_permille: 1000, load_permille: 1000 }],
        max_moves_per_hour: 6,
        ..Explanation::default()
    };
    let text = page(&given);
    assert!(text.starts_with("shop/checkout  AS REQUESTED: every cluster gets what is requested\n"), "{text}");
    assert!(!text.contains("LEVEL  CAN CARRY") && !text.contains("AsRequested"), "{text}");
}

#[test]
fn a_policy_that_was_never_planned_says_so() {
    let policy = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    let text = explain(&policy, None, BARE, at("2026-01-02T03:04:05Z"));
    assert_eq!(text, "shop/checkout  NOT PLANNED YET: no weights were decided so far\n");
}
