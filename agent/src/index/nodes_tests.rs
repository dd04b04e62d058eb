//! Nodes as endpoints, and the gates of pods; one sentence a test.

use super::{fixtures::*, objects::*};

const I1: &str = "i-0000000000000000a";
const I2: &str = "i-0000000000000000b";

fn wanted() -> ServiceRef {
    for_nodes(reference("checkout", "http"))
}

/// Two ready nodes, one pod behind the Service, everything told to the hub.
fn two_nodes_reported() -> Feed {
    let mut feed = Feed::watching(&[wanted()]);
    feed.apply(node_port_service("checkout", &[("http", 80)]));
    feed.apply(pod("web-0", "web-0/1", "10.0.0.1"));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    feed.apply(instance_node("n1", "n1/1", I1));
    feed.apply(instance_node("n2", "n2/1", I2));
    assert_eq!(feed.changes().upserts.len(), 2);
    feed
}

fn changed(name: &str, uid: &str, instance: &str, change: impl FnOnce(&mut NodeTarget)) -> NodeObject {
    let mut node = instance_node(name, uid, instance);
    change(node.target.as_mut().expect("a target"));
    node
}

fn gone(instance: &str, uid: &str, reason: TombstoneReason) -> Vec<(String, u16, String, TombstoneReason)> {
    vec![(instance.to_owned(), 30080, uid.to_owned(), reason)]
}

#[test]
fn a_service_that_is_watched_for_nodes_has_the_nodes_with_its_node_port() {
    let mut feed = two_nodes_reported();
    assert_eq!(feed.addresses(), [format!("{I1}:30080"), format!("{I2}:30080")]);
    let endpoints = feed.endpoints();
    let first = &endpoints[0];
    assert!(first.ready && first.serving && !first.terminating);
    assert_eq!((first.pod_uid(), first.node.as_str(), first.zone.as_str()), ("n1/1", "n1", "zone-a"));
    let status = feed.status_of(&wanted());
    assert_eq!((status.condition, status.message.as_str(), status.node_port), (ServiceCondition::Resolved, "", 30080));
}

#[test]
fn one_service_may_be_watched_for_pods_and_for_nodes() {
    let mut feed = Feed::watching(&[reference("checkout", "http"), wanted()]);
    feed.apply(node_port_service("checkout", &[("http", 80)]));
    feed.apply(pod("web-0", "web-0/1", "10.0.0.1"));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    feed.apply(instance_node("n1", "n1/1", I1));
    assert_eq!(feed.addresses(), ["10.0.0.1:8080".to_owned(), format!("{I1}:30080")]);
    feed.changes();
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    let reasons: Vec<_> = feed.tombstones().into_iter().map(|(address, ..)| address).collect();
    assert_eq!(reasons, ["10.0.0.1"], "nodes do not go with the pods");
    assert_eq!(feed.status_of(&wanted()).condition, ServiceCondition::NoSelectedPods);
}

#[test]
fn a_service_without_a_node_port_says_so_and_has_no_endpoints() {
    let mut feed = two_nodes_reported();
    feed.apply(service("checkout", &[("http", 80)]));
    let status = feed.status_of(&wanted());
    assert_eq!(status.condition, ServiceCondition::NoNodePort);
    assert_eq!(status.message, "port http of Service checkout has no node port");
    let reasons: Vec<_> = feed.tombstones().into_iter().map(|(.., reason)| reason).collect();
    assert_eq!(reasons, [TombstoneReason::PortChanged; 2]);
}

#[test]
fn another_node_port_takes_the_old_endpoints_back_as_a_change_of_port() {
    let mut feed = two_nodes_reported();
    let mut service = node_port_service("checkout", &[("http", 80)]);
    service.ports[0].node_port = 31000;
    service.health_check_node_port = 32000;
    feed.apply(service);
    let batch = feed.changes();
    assert!(batch.upserts.iter().all(|view| view.port == 31000));
    assert!(batch.tombstones.iter().all(|gone| (gone.port, gone.reason) == (30080, TombstoneReason::PortChanged)));
    assert_eq!((batch.upserts.len(), batch.tombstones.len()), (2, 2));
    assert_eq!(batch.services[0].1.health_check_node_port, 32000);
}

#[test]
fn a_node_that_is_not_ready_stays_and_is_not_ready() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("n1", "n1/1", I1, |target| target.ready = false));
    let batch = feed.changes();
    assert_eq!((batch.upserts.len(), batch.tombstones.len()), (1, 0));
    assert!(!batch.upserts[0].ready && !batch.upserts[0].serving && !batch.upserts[0].terminating);
}

#[test]
fn a_node_that_is_being_removed_terminates_and_lives_again_when_that_is_taken_back() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("n1", "n1/1", I1, |target| target.leaving = true));
    let batch = feed.changes();
    assert!(batch.upserts[0].terminating && !batch.upserts[0].ready && batch.upserts[0].serving);
    feed.apply(instance_node("n1", "n1/1", I1));
    assert!(feed.changes().upserts[0].ready);
    // Then it is only missing from a list: nobody saw it go.
    feed.list(SourceKind::WholeNode, vec![instance_node("n2", "n2/1", I2).into()]);
    assert_eq!(feed.tombstones(), gone(I1, "n1/1", TombstoneReason::AbsentFromList));
}

#[test]
fn a_deleted_node_is_gone_on_strong_evidence_and_one_missing_from_a_list_on_weak() {
    let mut feed = two_nodes_reported();
    feed.delete(instance_node("n1", "n1/1", I1));
    assert_eq!(feed.tombstones(), gone(I1, "n1/1", TombstoneReason::PodDeleted));
    feed.list(SourceKind::WholeNode, vec![]);
    assert_eq!(feed.tombstones(), gone(I2, "n2/1", TombstoneReason::AbsentFromList));
}

#[test]
fn a_node_last_seen_leaving_is_deleted_even_when_only_a_list_lacks_it() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("n1", "n1/1", I1, |target| target.leaving = true));
    feed.changes();
    feed.list(SourceKind::WholeNode, vec![instance_node("n2", "n2/1", I2).into()]);
    assert_eq!(feed.tombstones(), gone(I1, "n1/1", TombstoneReason::PodDeleted));
}

#[test]
fn an_excluded_node_is_not_selected_and_comes_back_without_the_label() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("n1", "n1/1", I1, |target| target.excluded = true));
    assert_eq!(feed.tombstones(), gone(I1, "n1/1", TombstoneReason::NotSelected));
    feed.apply(instance_node("n1", "n1/1", I1));
    assert_eq!(feed.changes().upserts.len(), 1);
}

#[test]
fn a_node_under_an_old_name_with_another_uid_proves_the_end_of_the_first() {
    let mut feed = two_nodes_reported();
    let new = "i-0000000000000000c";
    feed.list(
        SourceKind::WholeNode,
        vec![instance_node("n1", "n1/2", new).into(), instance_node("n2", "n2/1", I2).into()],
    );
    let batch = feed.changes();
    assert_eq!(batch.upserts[0].address.to_string(), new);
    assert_eq!(
        (batch.tombstones[0].pod_uid.as_str(), batch.tombstones[0].reason),
        ("n1/1", TombstoneReason::PodDeleted)
    );
}

#[test]
fn of_two_nodes_of_one_instance_the_living_one_counts() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("n1-new", "n1-new/1", I1, |_| {}));
    feed.apply(changed("n1", "n1/1", I1, |target| target.ready = false));
    let endpoints = feed.endpoints();
    assert_eq!((endpoints.len(), endpoints[0].pod_uid()), (2, "n1-new/1"));
}

#[test]
fn nodes_that_are_no_instances_are_passed_over_and_counted() {
    let mut feed = two_nodes_reported();
    feed.apply(changed("fargate-1", "f/1", "none", |_| {}));
    assert_eq!(feed.addresses().len(), 2);
    let message = feed.status_of(&wanted()).message;
    assert_eq!(message, "1 nodes are passed over, since they are no EC2 instances, such as fargate-1");
    feed.delete(changed("fargate-1", "f/1", "none", |_| {}));
    for (name, uid, instance) in [("n1", "n1/1", I1), ("n2", "n2/1", I2)] {
        feed.apply(changed(name, uid, instance, |target| target.excluded = true));
    }
    assert_eq!(feed.status_of(&wanted()).message, "2 nodes are excluded by their label");
}

#[test]
fn nothing_is_said_for_nodes_before_they_were_listed_whole() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(node_port_service("checkout", &[("http", 80)]));
    feed.apply(node("n1", "z1"));
    feed.changes();
    assert_eq!(feed.run_of(NS, SourceKind::Node).source, Source::nodes());
    feed.index.set_watch_set(2, vec![reference("checkout", "http"), wanted()]);
    assert_eq!(feed.run_of(NS, SourceKind::WholeNode).source, Source::whole_nodes());
    assert!(!feed.index.all_synced());
    assert!(feed.changes().is_empty(), "what was listed without their status says nothing of them as targets");
    feed.list(SourceKind::WholeNode, vec![instance_node("n1", "n1/1", I1).into()]);
    assert!(feed.index.all_synced());
    assert_eq!(feed.changes().upserts.len(), 1);
    feed.index.set_watch_set(3, vec![reference("checkout", "http")]);
    assert_eq!(feed.run_of(NS, SourceKind::Node).source, Source::nodes());
    assert!(feed.index.all_synced());
}

#[test]
fn a_change_of_a_node_that_no_pod_reference_shows_marks_none() {
    let mut feed = two_nodes_reported();
    feed.index.set_watch_set(2, vec![reference("checkout", "http")]);
    feed.list_all_empty();
    while feed.index.take_changes(500).is_some() {}
    feed.apply(instance_node("n9", "n9/1", I1));
    while feed.index.take_changes(500).is_some() {}
    feed.apply(changed("n9", "n9/1", I1, |target| target.ready = false));
    assert!(!feed.index.is_touched());
}

/// A pod whose containers are ready, with gates and their conditions.
fn gated(gates: &[(&str, &str)]) -> PodObject {
    let conditions = gates.iter().map(|(gate, status)| ((*gate).to_owned(), (*status).to_owned()));
    let containers = ("ContainersReady".to_owned(), "True".to_owned());
    PodObject {
        readiness_gates: gates.iter().map(|(gate, _)| (*gate).to_owned()).collect(),
        conditions: [containers].into_iter().chain(conditions).collect(),
        ..pod("web-0", "web-0/1", "10.0.0.1")
    }
}

/// What becomes of a pod that its slice calls unready.
fn is_ready(pod: PodObject) -> (bool, bool) {
    let mut feed = one_pod_reported();
    let unready = SliceEndpoint { ready: false, serving: false, ..ready("10.0.0.1", "web-0", "web-0/1") };
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![unready]));
    feed.apply(pod);
    let endpoints = feed.endpoints();
    (endpoints[0].ready, endpoints[0].serving)
}

const OURS: &str = "target-health.switchyard.dev/checkout";
const SECOND: &str = "target-health.switchyard.dev/cart";
const FOREIGN: &str = "www.example.com/feature-1";

#[test]
fn a_pod_that_waits_for_our_gates_only_is_ready_so_that_it_can_be_judged() {
    assert_eq!(is_ready(gated(&[(OURS, "False")])), (true, true));
    assert_eq!(is_ready(gated(&[(OURS, "False"), (SECOND, "True")])), (true, true));
    assert_eq!(is_ready(gated(&[(OURS, "False"), (FOREIGN, "True")])), (true, true));
    let unset =
        PodObject { conditions: vec![("ContainersReady".to_owned(), "True".to_owned())], ..gated(&[(OURS, "")]) };
    assert_eq!(is_ready(unset), (true, true), "a gate whose condition is missing is not true");
}

#[test]
fn a_pod_that_waits_for_anything_else_is_not_ready() {
    assert_eq!(is_ready(gated(&[(OURS, "False"), (FOREIGN, "False")])), (false, false));
    assert_eq!(is_ready(gated(&[(FOREIGN, "False")])), (false, false));
    assert_eq!(is_ready(gated(&[])), (false, false), "without gates the slice is right");
    let starting =
        PodObject { conditions: vec![("ContainersReady".to_owned(), "False".to_owned())], ..gated(&[(OURS, "False")]) };
    assert_eq!(is_ready(starting), (false, false));
    assert_eq!(is_ready(deleting(gated(&[(OURS, "False")]))), (false, false));
    // The gate was passed: whatever keeps the pod unready now, it is not the load balancer's word.
    assert_eq!(is_ready(gated(&[(OURS, "True")])), (false, false));
}
