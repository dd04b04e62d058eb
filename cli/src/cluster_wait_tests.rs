//! Waits for operations on clusters: what ends them, and what they say on the way.

use super::*;
use crate::model::{OperationKind, PolicyRef, cluster::Progress};

fn progress(name: &str, done: bool, weight: u32) -> Progress {
    Progress {
        policy: PolicyRef { namespace: "shop".into(), name: name.into() },
        done,
        programmed_weight: Some(weight),
        targets: 2,
        reason: if done { "AsRequested" } else { "Settling" }.into(),
        message: if done { "" } else { "the weights are being programmed, or settle" }.into(),
    }
}

fn draining(percent: u32, progress: Vec<Progress>) -> Cluster {
    Cluster {
        name: "blue".into(),
        mode: Mode::Draining,
        operation: Some(Operation {
            id: "op-1".into(),
            kind: OperationKind::Drain,
            percent,
            why: "InProgress".into(),
            message: format!("at {percent} %"),
            progress,
            ..Operation::default()
        }),
        ..Cluster::default()
    }
}

fn ended(mut cluster: Cluster) -> Cluster {
    let operation = cluster.operation.as_mut().unwrap();
    operation.ended_at = Some("2026-01-02T03:00:00Z".parse().unwrap());
    operation.why = "Done".into();
    cluster
}

fn news(cluster: &Cluster) -> ClusterNews {
    ClusterNews::Cluster(Box::new(cluster.clone()))
}

#[test]
fn a_wait_ends_when_its_operation_has_ended_and_not_before() {
    let stepped = ClusterWait::start(&draining(75, vec![]));
    assert_eq!(stepped.ending, None);
    let stepped = stepped.wait.step(news(&draining(0, vec![])));
    assert_eq!(stepped.ending, None, "the share is gone, the operation goes on");
    let stepped = stepped.wait.step(news(&ended(draining(0, vec![]))));
    assert_eq!(stepped.ending, Some(Ending::Reached));
}

#[test]
fn an_operation_that_had_ended_before_the_call_ends_the_wait_at_once() {
    assert_eq!(ClusterWait::start(&ended(draining(0, vec![]))).ending, Some(Ending::Reached));
}

#[test]
fn a_replica_that_is_behind_does_not_end_the_wait() {
    let mut answered = draining(75, vec![]);
    answered.operation.as_mut().unwrap().version = 7;
    let wait = ClusterWait::start(&answered).wait;
    let mut before = ended(draining(100, vec![]));
    let operation = before.operation.as_mut().unwrap();
    (operation.id, operation.version) = ("op-0".into(), 6);
    assert_eq!(wait.step(news(&before)).ending, None, "the operation of last month");
}

#[test]
fn another_operation_ends_the_wait_and_is_named_with_its_author_and_reason() {
    let wait = ClusterWait::start(&draining(75, vec![])).wait;
    let mut other = ended(draining(100, vec![]));
    let operation = other.operation.as_mut().unwrap();
    (operation.id, operation.kind) = ("op-2".into(), OperationKind::Uncordon);
    (operation.actor, operation.reason) = ("alice".into(), "blue is needed".into());
    let ending = wait.step(news(&other)).ending;
    let why = "alice asked for another operation on blue: uncordon (blue is needed)";
    assert_eq!(ending, Some(Ending::Superseded(why.into())), "also when the other one has ended already");
}

#[test]
fn a_replica_that_has_not_read_the_operation_yet_ends_nothing() {
    let wait = ClusterWait::start(&draining(75, vec![])).wait;
    let older = Cluster { operation: None, mode: Mode::Active, ..draining(75, vec![]) };
    assert_eq!(wait.step(news(&older)).ending, None);
}

#[test]
fn each_change_is_told_once() {
    let first = draining(75, vec![progress("cart", false, 100), progress("checkout", false, 100)]);
    let stepped = ClusterWait::start(&first);
    assert_eq!(
        stepped.lines,
        [
            "blue draining, at most 75% of its share: at 75 % (InProgress)",
            "shop/cart: blue has weight 100 and 2 targets: Settling: the weights are being programmed, or settle",
            "shop/checkout: blue has weight 100 and 2 targets: Settling: the weights are being programmed, or settle",
        ]
    );
    let same = stepped.wait.step(news(&first));
    assert!(same.lines.is_empty(), "{:?}", same.lines);
    let second = draining(75, vec![progress("cart", true, 75), progress("checkout", false, 100)]);
    let stepped = same.wait.step(news(&second));
    assert_eq!(stepped.lines, ["shop/cart: blue has weight 75 and 2 targets: done"]);
}

#[test]
fn the_progress_of_the_step_before_is_not_told_as_that_of_a_new_one() {
    let wait = ClusterWait::start(&draining(75, vec![progress("cart", false, 100)])).wait;
    let made = wait.step(news(&draining(50, vec![progress("cart", true, 75)])));
    assert_eq!(made.lines, ["blue draining, at most 50% of its share: at 50 % (InProgress)"]);
    let followed = made.wait.step(news(&draining(50, vec![progress("cart", true, 50)])));
    assert_eq!(followed.lines, ["shop/cart: blue has weight 50 and 2 targets: done"]);
    let mut unknown = progress("cart", false, 0);
    unknown.programmed_weight = None;
    let lines = followed.wait.step(news(&draining(50, vec![unknown]))).lines;
    assert!(lines[0].starts_with("shop/cart: blue has weight - and 2 targets: Settling: "), "{lines:?}");
}

#[test]
fn a_thousand_policies_do_not_flood_the_log() {
    let many = |done| (0..1000).map(|i| progress(&format!("p{i}"), done, 50)).collect();
    let wait = ClusterWait::start(&draining(75, many(false))).wait;
    let lines = wait.step(news(&draining(75, many(true)))).lines;
    assert_eq!(lines.len(), MOST_LINES + 1);
    assert_eq!(lines[MOST_LINES], "policies that changed beside these: 980, of them done: 980");
}

#[test]
fn a_hub_that_is_away_is_told_once_and_so_is_its_return() {
    let wait = ClusterWait::start(&draining(75, vec![])).wait;
    let lost = wait.step(ClusterNews::Lost("no route".into()));
    assert_eq!(lost.lines, ["lost the hub, trying again: no route"]);
    let again = lost.wait.step(ClusterNews::Lost("no route".into()));
    assert!(again.lines.is_empty());
    let back = again.wait.step(ClusterNews::Opened);
    assert_eq!(back.lines, ["the hub answers again"]);
    assert!(back.wait.step(ClusterNews::Opened).lines.is_empty());
}

#[test]
fn a_cluster_that_is_not_known_any_more_ends_the_wait() {
    let wait = ClusterWait::start(&draining(75, vec![])).wait;
    assert_eq!(wait.step(ClusterNews::NotFound).ending, Some(Ending::Unknown));
}
