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
        condition.reason = "AsRequested".into();
        condition.message.clear();
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
fn the_page_shows_a_shift_that_waits_and_removals_that_are_held() {
    let page = status(&fixtures::policy(7), None, BARE, now());
    let expected = "\
shop/checkout  NOT CONVERGED: Programmed is False (WeightsHeld) for version 7: the change of weights waits as a whole for green
  version     7, generation 3
  changed     2026-01-02T03:00:00Z (4m05s ago)
  owner       the API (yardctl apply)
  spec        shared-public:443  shop.example.com /checkout/*  ->  checkout:http
  rule        priority 100, arn:rule/1
  listener    arn:listener/1
  programmed  2026-01-02T02:00:00Z (1h04m ago)
  status of   2026-01-02T03:04:00Z (5s ago)

CONDITION     STATUS  VERSION  SINCE  REASON       MESSAGE
Accepted      True          7  4m05s  AsRequested  version 7 is stored
ResolvedRefs  True          7  4m05s  AsRequested  listener, clusters and Services were found
Programmed    False         7  4m05s  WeightsHeld  the change of weights waits as a whole for green
Converged     False         7  4m05s  WeightsHeld  the change of weights waits as a whole for green

CLUSTER  LINK       REQUESTED  EFFECTIVE  PROGRAMMED   SHARE  WHY
blue     connected         90        100         100  100.0%  WeightsHeld
green    stale             10          0           0    0.0%  NoTargets
  blue: WeightsHeld: the change of weights waits as a whole for green
  green: NoTargets: green has no registered target; give it ready pods, or set its weight to 0 to go on without it

TARGETS  DESIRED  REGISTERED  HEALTHY  UNHEALTHY  INITIAL  DRAINING  UNUSED  HELD  TARGET GROUP
blue           1           2        2          0        0         1       0     1  arn:tg/blue
green          0           0        0          0        0         3       0     0  arn:tg/green

HELD OR WAITING
  blue: RemovalsHeld: 1 of 2 targets of blue are held: 1 because the pod is not ready. The group carries weight and keeps at least 2 targets (deregistrationBudgetPercent 50 of 3). If they are meant to go, set the weight of blue to 0 first, or raise spec.safety.deregistrationBudgetPercent
  green: ClusterStale: the agent of green is away: its targets are frozen, the load balancer's health checks decide
";
    assert_eq!(page, expected, "\n{page}");
    let docs = include_str!("../../../docs/yardctl.md");
    assert!(docs.contains(expected), "docs/yardctl.md shows another page than the program");
}

#[test]
fn a_policy_of_a_cluster_names_it_and_what_of_its_resource_is_not_in_force() {
    let mut policy = settled();
    let of_blue = crate::model::Owner {
        kind: OwnerKind::Cluster,
        cluster: "blue".into(),
        resource_uid: "uid-1".into(),
        generation: 4,
        generation_in_force: 4,
        absent_since: None,
    };
    let mut shown = |owner| {
        policy.owner = Some(owner);
        let page = status(&policy, None, BARE, now());
        page.lines().find_map(|line| line.strip_prefix("  owner       ")).unwrap().to_owned()
    };
    assert_eq!(shown(of_blue.clone()), "cluster blue (kubectl), generation 4");
    let refused = crate::model::Owner { generation: 5, ..of_blue.clone() };
    assert_eq!(shown(refused), "cluster blue (kubectl), generation 4 in force, 5 refused");
    let absent = crate::model::Owner { absent_since: Some("2026-01-02T03:00:00Z".parse().unwrap()), ..of_blue };
    assert!(shown(absent).ends_with(", MISSING there since 2026-01-02T03:00:00Z (4m05s ago)"));
}

#[test]
fn a_settled_policy_says_converged_and_that_nothing_waits() {
    let page = status(&settled(), None, BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED\n"), "{page}");
    assert!(page.ends_with("\nNothing is held or waiting.\n"), "{page}");
    assert!(page.contains("90.0%") && page.contains("10.0%"), "{page}");
}

#[test]
fn a_cluster_without_anything_at_the_load_balancer_shows_dashes() {
    let mut policy = settled();
    let green = &mut policy.status.clusters[1];
    green.programmed_weight = None;
    green.target_group_arn.clear();
    let page = status(&policy, None, BARE, now());
    let of_green: Vec<&str> = page.lines().filter(|line| line.starts_with("green ")).collect();
    assert_eq!(of_green[0].split_whitespace().nth(4), Some("-"), "{page}");
    assert!(of_green[1].ends_with("  -"), "{page}");
}

#[test]
fn a_reason_that_only_says_as_asked_is_not_shown() {
    let mut policy = settled();
    for cluster in &mut policy.status.clusters {
        cluster.reason = "AsRequested".into();
    }
    let page = status(&policy, None, BARE, now());
    // The table of conditions shows the word, the clusters' part of the page does not.
    let (_, of_clusters) = page.split_once("\nCLUSTER ").expect("the page has clusters");
    assert!(!of_clusters.contains("AsRequested"), "{page}");
}

#[test]
fn converged_elsewhere_than_asked_is_said_in_the_first_line() {
    let mut policy = settled();
    policy.status.clusters[1].effective_weight = 0;
    let page = status(&policy, None, BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED, but not to the weights that were asked for\n"), "{page}");
}

#[test]
fn a_cluster_that_is_not_heard_of_is_said_in_the_first_line() {
    let mut policy = settled();
    policy.status.clusters[0].link = Link::Stale;
    let page = status(&policy, None, BARE, now());
    assert!(page.starts_with("shop/checkout  CONVERGED, but a cluster is not heard of"), "{page}");
}

#[test]
fn a_version_that_was_not_judged_yet_is_never_shown_as_converged() {
    let mut policy = settled();
    policy.version = 8;
    let page = status(&policy, None, BARE, now());
    assert!(page.starts_with("shop/checkout  NOT JUDGED YET: version 8 is accepted"), "{page}");
    assert!(page.contains("speaks of version 7"), "{page}");
}

#[test]
fn a_policy_without_any_status_is_shown_without_guesses() {
    let mut policy = fixtures::policy(1);
    policy.status = Default::default();
    policy.spec = serde_json::Value::Null;
    let page = status(&policy, None, BARE, now());
    assert!(page.contains("none at the load balancer"), "{page}");
    assert!(page.contains("The hub has not told anything about clusters yet."), "{page}");
}

#[test]
fn what_an_agent_wrote_cannot_steer_the_terminal() {
    let mut policy = fixtures::policy(7);
    policy.status.notes[0].message = "\u{1b}[2J\u{1b}]0;owned\u{7}".into();
    policy.status.clusters[1].message = "a\rb\u{1b}[1A".into();
    policy.status.conditions[2].message = "x\u{9b}31m".into();
    let page = status(&policy, None, BARE, now());
    assert!(page.chars().all(|c| !c.is_control() || c == '\n'), "{page:?}");
}

#[test]
fn colours_mark_good_bad_and_doubtful() {
    let page = status(&fixtures::policy(7), None, Paint { colored: true }, now());
    for colored in ["\u{1b}[32mTrue\u{1b}[0m", "\u{1b}[31mFalse\u{1b}[0m", "\u{1b}[33mstale\u{1b}[0m"] {
        assert!(page.contains(colored), "{page:?} lacks {colored:?}");
    }
}

#[test]
fn a_watch_says_when_what_it_shows_is_old() {
    let policy = settled();
    let of = |last, lost| live(&policy.reference, last, None, lost, BARE, now());
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
    let page = status(&policy, None, BARE, now());
    assert!(page.contains("  rule        -\n  listener    arn:listener/1\n"), "{page}");
}

#[test]
fn a_policy_that_failed_over_says_so_first_and_whether_the_load_balancer_has_it() {
    let mut policy = fixtures::policy(7);
    let message = "blue gets 0 % instead of 50 %: 0 of 4 expected targets are healthy (0 %)";
    let mut condition = policy.status.conditions[3].clone();
    condition.r#type = "FailedOver".into();
    (condition.status, condition.reason, condition.message) = (Truth::True, "FailedOver".into(), message.into());
    policy.status.conditions.push(condition);
    for cluster in &mut policy.status.clusters {
        cluster.programmed_weight = Some(cluster.effective_weight);
    }
    let first = |policy: &Policy| {
        let page = status(policy, None, Paint { colored: false }, now());
        page.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(first(&policy), format!("shop/checkout  FAILED OVER (FailedOver): {message}"));
    policy.status.clusters[0].programmed_weight = Some(99);
    assert_eq!(first(&policy), format!("shop/checkout  FAILING OVER (FailedOver): {message}"));
    let condition = policy.status.conditions.last_mut().unwrap();
    (condition.status, condition.reason) = (Truth::False, "Panic".into());
    assert_eq!(first(&policy), format!("shop/checkout  PANIC: {message}"));
    policy.status.conditions.last_mut().unwrap().reason = "AsRequested".into();
    assert!(first(&policy).starts_with("shop/checkout  NOT CONVERGED: "), "{}", first(&policy));
}
