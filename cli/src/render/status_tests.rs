//! The status page as text, for the states that an operator meets.

use super::*;
use crate::model::fixtures;

const BARE: Paint = Paint { colored: false };

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn settled() -> Policy {
    let mut policy = fixtures::policy(7);
    for condition in &mut policy.status.conditions {
        condition.status = Truth::True;
    }
    for cluster in &mut policy.status.clusters {
        cluster.effective_weight = cluster.requested_weight;
        cluster.programmed_weight = Some(cluster.requested_weight);
        cluster.link = Link::Connected;
        cluster.reason.clear();
        cluster.message.clear();
    }
    policy.status.notes.clear();
    policy
}

#[test]
fn the_page_shows_a_shift_that_waits_for_healthy_targets() {
    let page = status(&fixtures::policy(7), BARE, now());
    let expected = "\
shop/checkout  NOT CONVERGED: Programmed is False (Pending) for version 7: 2 calls to make
  version     7, generation 3
  changed     2026-01-02T03:00:00Z (4m05s ago)
  spec        shared-public:443  shop.example.com /checkout/*  ->  checkout:http
  rule        priority 100, arn:rule/1
  listener    arn:listener/1
  programmed  2026-01-02T02:00:00Z (1h04m ago)
  status of   2026-01-02T03:04:00Z (5s ago)

CONDITION     STATUS   VERSION  SINCE  REASON    MESSAGE
Accepted      True           7  4m05s  Stored    -
ResolvedRefs  True           7  4m05s  Resolved  -
Programmed    False          7  4m05s  Pending   2 calls to make
Converged     Unknown        7  4m05s  Pending   not programmed yet

CLUSTER  LINK       REQUESTED  EFFECTIVE  PROGRAMMED   SHARE  WHY
blue     connected         90        100         100  100.0%  -
green    stale             10          0           -       -  NoHealthyTargets
  green: NoHealthyTargets: no target of green is healthy yet

TARGETS  DESIRED  REGISTERED  HEALTHY  UNHEALTHY  INITIAL  DRAINING  UNUSED  HELD  TARGET GROUP
blue           3           3        3          0        0         0       0     0  arn:tg/blue
green          2           3        0          0        2         0       0     1  -

HELD OR WAITING
  green: Held: 1 target is kept
";
    assert_eq!(page, expected, "\n{page}");
    let docs = include_str!("../../../docs/yardctl.md");
    assert!(docs.contains(expected), "docs/yardctl.md shows another page than the program");
}

#[test]
fn a_settled_policy_says_converged_and_that_nothing_waits() {
    let page = status(&settled(), BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED\n"), "{page}");
    assert!(page.ends_with("\nNothing is held or waiting.\n"), "{page}");
    assert!(page.contains("90.0%") && page.contains("10.0%"), "{page}");
}

#[test]
fn a_reason_that_only_says_as_asked_is_not_shown() {
    let mut policy = settled();
    for cluster in &mut policy.status.clusters {
        cluster.reason = "AsRequested".into();
    }
    let page = status(&policy, BARE, now());
    assert!(!page.contains("AsRequested"), "{page}");
}

#[test]
fn converged_elsewhere_than_asked_is_said_in_the_first_line() {
    let mut policy = settled();
    policy.status.clusters[1].effective_weight = 0;
    let page = status(&policy, BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED, but not to the weights that were asked for\n"), "{page}");
}

#[test]
fn a_cluster_that_is_not_heard_of_is_said_in_the_first_line() {
    let mut policy = settled();
    policy.status.clusters[0].link = Link::Stale;
    let page = status(&policy, BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED, but a cluster is not heard of"), "{page}");
}

#[test]
fn a_version_that_was_not_judged_yet_is_never_shown_as_converged() {
    let mut policy = settled();
    policy.version = 8;
    let page = status(&policy, BARE, now());
    assert!(page.starts_with("shop/checkout  NOT JUDGED YET: version 8 is accepted"), "{page}");
    assert!(page.contains("speaks of version 7"), "{page}");
}

#[test]
fn a_policy_without_any_status_is_shown_without_guesses() {
    let mut policy = fixtures::policy(1);
    policy.status = Default::default();
    policy.spec = serde_json::Value::Null;
    let page = status(&policy, BARE, now());
    assert!(page.contains("none at the load balancer"), "{page}");
    assert!(page.contains("The hub has not told anything about clusters yet."), "{page}");
}

#[test]
fn what_an_agent_wrote_cannot_steer_the_terminal() {
    let mut policy = fixtures::policy(7);
    policy.status.notes[0].message = "\u{1b}[2J\u{1b}]0;owned\u{7}".into();
    policy.status.clusters[1].message = "a\rb\u{1b}[1A".into();
    policy.status.conditions[2].message = "x\u{9b}31m".into();
    let page = status(&policy, BARE, now());
    assert!(page.chars().all(|c| !c.is_control() || c == '\n'), "{page:?}");
}

#[test]
fn colours_mark_good_bad_and_doubtful() {
    let page = status(&fixtures::policy(7), Paint { colored: true }, now());
    for colored in ["\u{1b}[32mTrue\u{1b}[0m", "\u{1b}[31mFalse\u{1b}[0m", "\u{1b}[33mstale\u{1b}[0m"] {
        assert!(page.contains(colored), "{page:?} lacks {colored:?}");
    }
}

#[test]
fn a_watch_says_when_what_it_shows_is_old() {
    let policy = settled();
    let of = |last, lost| live(&policy.reference, last, lost, BARE, now());
    assert_eq!(of(None, None), "shop/checkout  waiting for the hub\n\nctrl-c ends the watch\n");
    assert!(!of(None, Some("refused")).contains("old"));
    let page = of(Some(&policy), Some("connection\u{1b}refused"));
    assert!(page.starts_with("shop/checkout  CONVERGED\n"), "{page}");
    let end = "\nTHE HUB DOES NOT ANSWER, what stands above is old: connection refused\n\nctrl-c ends the watch\n";
    assert!(page.ends_with(end), "{page}");
}

#[test]
fn a_page_that_is_higher_than_the_window_is_cut_and_says_so() {
    let page = "1\n2\n3\n4\n5\n";
    assert_eq!(fit(page, 6), page);
    assert_eq!(fit(page, 5), "1\n2\n3\n... 2 more lines: make the window taller\n");
    for rows in 0..3 {
        assert!(fit(page, rows).lines().count() <= 2, "{rows}");
    }
}

#[test]
fn a_policy_with_a_listener_and_no_rule_yet_shows_no_priority() {
    let mut policy = settled();
    let rule = policy.status.rule.as_mut().expect("the fixture has a rule");
    rule.rule_arn.clear();
    rule.priority = 0;
    let page = status(&policy, BARE, now());
    assert!(page.contains("  rule        -\n  listener    arn:listener/1\n"), "{page}");
}
