//! The index's behaviour, one sentence a test.

use super::{fixtures::*, objects::*};

fn pod_deleted(address: &str, uid: &str) -> Vec<(String, u16, String, TombstoneReason)> {
    vec![(address.to_owned(), 8080, uid.to_owned(), TombstoneReason::PodDeleted)]
}

#[test]
fn a_pod_behind_a_service_is_reported_with_the_port_of_its_slice() {
    let mut feed = one_pod_reported();
    let endpoints = feed.endpoints();
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"]);
    assert!(endpoints[0].ready && endpoints[0].serving && !endpoints[0].terminating);
    assert_eq!(endpoints[0].pod_uid(), "web-0/1");
    assert_eq!(feed.status_of(&reference("checkout", "http")).condition, ServiceCondition::Resolved);
}

#[test]
fn a_port_is_found_by_number_as_well_as_by_name() {
    let mut feed = Feed::watching(&[reference("checkout", "80"), reference("checkout", "admin")]);
    feed.apply(service("checkout", &[("http", 80), ("admin", 9000)]));
    feed.apply(pod("web-0", "u", "10.0.0.1"));
    feed.apply(slice("a", "checkout", &[("http", 8080), ("admin", 9001)], vec![ready("10.0.0.1", "web-0", "u")]));
    assert_eq!(feed.addresses(), ["10.0.0.1:8080", "10.0.0.1:9001"]);
}

#[test]
fn the_only_port_of_a_service_may_have_no_name() {
    let mut feed = Feed::watching(&[reference("checkout", "80")]);
    feed.apply(service("checkout", &[("", 80)]));
    feed.apply(pod("web-0", "u", "10.0.0.1"));
    feed.apply(slice("a", "checkout", &[("", 8080)], vec![ready("10.0.0.1", "web-0", "u")]));
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"]);
}

#[test]
fn pods_that_give_a_named_target_port_different_numbers_come_from_several_slices() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(pod("old-0", "o", "10.0.0.1"));
    feed.apply(pod("new-0", "n", "10.0.0.2"));
    feed.apply(slice("a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "old-0", "o")]));
    feed.apply(slice("b", "checkout", &[("http", 9090)], vec![ready("10.0.0.2", "new-0", "n")]));
    assert_eq!(feed.addresses(), ["10.0.0.1:8080", "10.0.0.2:9090"]);
}

#[test]
fn a_pod_that_stands_in_two_slices_at_once_is_one_endpoint() {
    let mut feed = one_pod_reported();
    let moved = SliceEndpoint { ready: false, ..ready("10.0.0.1", "web-0", "web-0/1") };
    feed.apply(slice("checkout-b", "checkout", &[("http", 8080)], vec![moved]));
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"]);
    assert!(feed.endpoints()[0].ready);
}

#[test]
fn a_missing_service_a_missing_port_and_an_empty_selector_are_three_different_things() {
    let wanted = reference("checkout", "http");
    let mut feed = Feed::watching(std::slice::from_ref(&wanted));
    assert_eq!(feed.status_of(&wanted).condition, ServiceCondition::NotFound);
    feed.apply(service("checkout", &[("grpc", 81)]));
    let status = feed.status_of(&wanted);
    assert_eq!(status.condition, ServiceCondition::PortNotFound);
    assert_eq!(status.message, "Service checkout has no port http; it has grpc (81)");
    feed.apply(service("checkout", &[("http", 80)]));
    let status = feed.status_of(&wanted);
    assert_eq!(status.condition, ServiceCondition::NoSelectedPods);
    assert_eq!(status.message, "the selector of Service checkout selects no pod with an address on this port");
}

#[test]
fn a_slice_that_names_a_pod_nobody_has_seen_waits_for_the_pod() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(slice("a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "u")]));
    assert_eq!(feed.changes().upserts, Vec::new());
    feed.apply(pod("web-0", "u", "10.0.0.1"));
    assert_eq!(feed.changes().upserts.len(), 1);
}

#[test]
fn while_pods_cannot_be_watched_slices_are_taken_at_their_word() {
    let mut feed = one_pod_reported();
    feed.tell(SourceKind::Pod, SourceEvent::Failing("pods is forbidden".to_owned()));
    let both = vec![ready("10.0.0.1", "web-0", "web-0/2"), ready("10.0.0.2", "web-1", "web-1/1")];
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], both));
    let batch = feed.changes();
    let owners: Vec<_> = batch.upserts.iter().map(|view| view.pod_uid().to_owned()).collect();
    assert_eq!(owners, ["web-0/2", "web-1/1"], "a rollout brings its new pods");
    assert_eq!(batch.tombstones[0].reason, TombstoneReason::NotSelected);

    // The watch goes on where it was: what was assumed holds until the missed events have come.
    feed.tell(SourceKind::Pod, SourceEvent::Following);
    assert!(feed.changes().is_empty());
    feed.apply(PodObject { node: "n1".to_owned(), ..pod("web-0", "web-0/2", "10.0.0.1") });
    assert_eq!(feed.changes().upserts[0].node, "n1");
    feed.delete(pod("web-1", "web-1/1", "10.0.0.2"));
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.2", "web-1/1"));
}

#[test]
fn a_pod_that_is_known_to_be_gone_does_not_come_back_when_pods_cannot_be_watched() {
    let mut feed = one_pod_reported();
    feed.delete(pod("web-0", "web-0/1", "10.0.0.1"));
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
    for kind in SourceKind::NAMESPACED {
        feed.tell(kind, SourceEvent::Failing("connection refused".to_owned()));
    }
    assert!(feed.changes().is_empty(), "its slice was not updated before the API server went away");
}

#[test]
fn a_complete_list_of_pods_ends_what_was_assumed() {
    let mut feed = one_pod_reported();
    feed.tell(SourceKind::Pod, SourceEvent::Failing("pods is forbidden".to_owned()));
    let both = vec![ready("10.0.0.1", "web-0", "web-0/1"), ready("10.0.0.2", "web-1", "web-1/1")];
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], both));
    assert_eq!(feed.changes().upserts.len(), 1);
    feed.list(SourceKind::Pod, vec![pod("web-0", "web-0/1", "10.0.0.1").into()]);
    let expected = ("10.0.0.2".to_owned(), 8080, "web-1/1".to_owned(), TombstoneReason::AbsentFromList);
    assert_eq!(feed.tombstones(), [expected]);
}

#[test]
fn an_endpoint_without_a_pod_is_kept_with_no_uid() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(ServiceObject { has_selector: false, ..service("checkout", &[("http", 80)]) });
    let by_hand = SliceEndpoint { pod: None, node: "n1".to_owned(), ..ready("10.9.0.1", "", "") };
    feed.apply(slice("by-hand", "checkout", &[("http", 8080)], vec![by_hand]));
    let endpoints = feed.endpoints();
    assert_eq!(endpoints[0].pod_uid(), "");
    assert_eq!(endpoints[0].node, "n1");
    feed.changes();
    feed.apply(slice("by-hand", "checkout", &[("http", 8080)], vec![]));
    assert_eq!(feed.tombstones(), [("10.9.0.1".to_owned(), 8080, String::new(), TombstoneReason::NotSelected)]);
}

#[test]
fn only_the_primary_family_of_a_dual_stack_service_is_taken() {
    let mut feed = one_pod_reported();
    let v6 = SliceObject {
        family: Some(Family::V6),
        ..slice("checkout-v6", "checkout", &[("http", 8080)], vec![ready("2001:db8::1", "web-0", "web-0/1")])
    };
    feed.apply(v6);
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"]);
    feed.apply(ServiceObject { primary_family: Some(Family::V6), ..service("checkout", &[("http", 80)]) });
    assert_eq!(feed.addresses(), ["2001:db8::1:8080"]);
    feed.apply(ServiceObject { primary_family: None, ..service("checkout", &[("http", 80)]) });
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"], "IPv4 comes first when the Service does not say");
}

#[test]
fn a_pod_terminates_at_its_deletion_timestamp_before_its_slice_says_so() {
    let mut feed = one_pod_reported();
    feed.apply(deleting(pod("web-0", "web-0/1", "10.0.0.1")));
    let batch = feed.changes();
    assert_eq!(batch.tombstones, Vec::new());
    assert!(batch.upserts[0].terminating && !batch.upserts[0].ready && batch.upserts[0].serving);
}

#[test]
fn a_pod_terminates_when_its_slice_says_so_before_its_deletion_timestamp_arrives() {
    let mut feed = one_pod_reported();
    let ending = SliceEndpoint { ready: false, terminating: true, ..ready("10.0.0.1", "web-0", "web-0/1") };
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ending]));
    assert!(feed.changes().upserts[0].terminating);
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
}

#[test]
fn a_deleted_pod_is_gone_however_long_its_slice_goes_on_naming_it() {
    let mut feed = one_pod_reported();
    feed.delete(pod("web-0", "web-0/1", "10.0.0.1"));
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    assert!(feed.changes().tombstones.is_empty());
}

#[test]
fn a_pod_that_ran_to_its_end_is_gone() {
    let mut feed = one_pod_reported();
    feed.apply(PodObject { finished: true, ..pod("web-0", "web-0/1", "10.0.0.1") });
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
}

#[test]
fn a_pod_that_leaves_the_selector_is_not_selected() {
    let mut feed = one_pod_reported();
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    let expected = ("10.0.0.1".to_owned(), 8080, "web-0/1".to_owned(), TombstoneReason::NotSelected);
    assert_eq!(feed.tombstones(), [expected]);
}

#[test]
fn a_deleted_slice_is_explicit_and_a_slice_missing_from_a_list_is_not() {
    let mut feed = one_pod_reported();
    feed.delete(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    assert_eq!(feed.tombstones()[0].3, TombstoneReason::NotSelected);

    let mut feed = one_pod_reported();
    feed.list(SourceKind::EndpointSlice, vec![]);
    assert_eq!(feed.tombstones()[0].3, TombstoneReason::AbsentFromList);
}

#[test]
fn a_new_target_port_takes_the_old_endpoint_back_as_a_change_of_port() {
    let mut feed = one_pod_reported();
    feed.apply(slice("checkout-a", "checkout", &[("http", 9090)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    let batch = feed.changes();
    assert_eq!(batch.upserts[0].port, 9090);
    assert_eq!((batch.tombstones[0].port, batch.tombstones[0].reason), (8080, TombstoneReason::PortChanged));
    feed.apply(service("checkout", &[("grpc", 80)]));
    assert_eq!(feed.tombstones()[0].3, TombstoneReason::PortChanged);
}

#[test]
fn a_service_seen_to_be_deleted_differs_from_one_missing_in_a_list() {
    let mut feed = one_pod_reported();
    feed.delete(service("checkout", &[("http", 80)]));
    let batch = feed.changes();
    assert_eq!(batch.tombstones[0].reason, TombstoneReason::ServiceDeleted);
    assert_eq!(batch.services[0].1.condition, ServiceCondition::NotFound);

    let mut feed = one_pod_reported();
    feed.list(SourceKind::Service, vec![]);
    assert_eq!(feed.tombstones()[0].3, TombstoneReason::AbsentFromList);
}

#[test]
fn an_api_server_that_answers_empty_lists_gives_only_weak_evidence_in_any_order() {
    let kinds = SourceKind::NAMESPACED;
    for first in 0..kinds.len() {
        let mut feed = one_pod_reported();
        for offset in 0..kinds.len() {
            feed.list(kinds[(first + offset) % kinds.len()], vec![]);
            for (.., reason) in feed.tombstones() {
                assert_eq!(reason, TombstoneReason::AbsentFromList, "after an empty list of {:?}", kinds[first]);
            }
        }
        assert_eq!(feed.addresses(), Vec::<String>::new());
    }
}

#[test]
fn a_pod_last_seen_with_a_deletion_timestamp_is_deleted_even_when_only_a_list_lacks_it() {
    let mut feed = one_pod_reported();
    feed.apply(deleting(pod("web-0", "web-0/1", "10.0.0.1")));
    feed.changes();
    feed.list(SourceKind::Pod, vec![]);
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
}

#[test]
fn a_source_in_error_keeps_its_last_state_and_takes_nothing_back() {
    let mut feed = one_pod_reported();
    for kind in SourceKind::NAMESPACED {
        feed.tell(kind, SourceEvent::ListStarted);
        feed.tell(kind, SourceEvent::Failing("pods is forbidden".to_owned()));
    }
    assert!(feed.changes().is_empty());
    assert_eq!(feed.addresses(), ["10.0.0.1:8080"]);
    assert!(feed.index.all_synced(), "what was synced once stays usable");
    let failing = feed.index.source_statuses().into_iter().filter(|status| matches!(status.health, Health::Failing(_)));
    assert_eq!(failing.count(), 3);
    feed.tell(SourceKind::Pod, SourceEvent::Following);
    let pods = feed.index.source_statuses().into_iter().find(|status| status.source.kind == SourceKind::Pod);
    assert_eq!(pods.expect("pods are watched").health, Health::Synced);
}

#[test]
fn an_address_that_another_pod_took_over_changes_owner_and_the_old_uid_ends() {
    let mut feed = one_pod_reported();
    feed.delete(pod("web-0", "web-0/1", "10.0.0.1"));
    feed.apply(pod("web-0", "web-0/2", "10.0.0.1"));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/2")]));
    let batch = feed.changes();
    assert_eq!(batch.tombstones.len(), 1);
    assert_eq!(
        (batch.tombstones[0].pod_uid.as_str(), batch.tombstones[0].reason),
        ("web-0/1", TombstoneReason::PodDeleted)
    );
    assert_eq!(batch.upserts[0].pod_uid(), "web-0/2");
}

#[test]
fn a_name_that_another_pod_bears_proves_the_end_of_the_first_even_in_a_list() {
    let mut feed = one_pod_reported();
    feed.list(SourceKind::Pod, vec![pod("web-0", "web-0/2", "10.0.0.7").into()]);
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
}

#[test]
fn two_pods_at_one_address_have_one_owner_the_living_one() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(deleting(pod("z-old", "z", "10.0.0.1")));
    feed.apply(pod("a-new", "a", "10.0.0.1"));
    let both = vec![ready("10.0.0.1", "z-old", "z"), ready("10.0.0.1", "a-new", "a")];
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], both));
    let endpoints = feed.endpoints();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].pod_uid(), "a");
}

#[test]
fn the_zone_comes_from_the_node_and_else_from_the_slice() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(PodObject { node: "n1".to_owned(), ..pod("web-0", "u", "10.0.0.1") });
    let endpoint = SliceEndpoint { zone: "from-slice".to_owned(), ..ready("10.0.0.1", "web-0", "u") };
    feed.apply(slice("a", "checkout", &[("http", 8080)], vec![endpoint]));
    assert_eq!(feed.changes().upserts[0].zone, "from-slice");
    feed.apply(node("n1", "from-node"));
    assert_eq!(feed.changes().upserts[0].zone, "from-node");
}

#[test]
fn an_endpoint_that_changes_ten_times_is_sent_once_in_its_last_state() {
    let mut feed = one_pod_reported();
    for round in 0..11 {
        let endpoint = SliceEndpoint { ready: round % 2 == 0, ..ready("10.0.0.1", "web-0", "web-0/1") };
        let named = SliceEndpoint { zone: format!("z{round}"), ..endpoint };
        feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![named]));
    }
    let batch = feed.changes();
    assert_eq!(batch.len(), 1);
    assert_eq!(batch.upserts[0].zone, "z10");
}

#[test]
fn a_change_that_was_undone_before_it_was_sent_is_not_sent() {
    let mut feed = one_pod_reported();
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![]));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    assert!(feed.changes().is_empty());
}

#[test]
fn nothing_is_said_of_a_namespace_that_was_never_listed_completely() {
    let mut feed = Feed::unsynced(&[reference("checkout", "http"), reference_in("other", "api", "http")]);
    for kind in SourceKind::NAMESPACED {
        let from = feed.run_of("other", kind);
        feed.index.handle(&from, SourceEvent::ListStarted);
        feed.index.handle(&from, SourceEvent::ListDone);
    }
    feed.tell(SourceKind::Pod, SourceEvent::Failing("pods is forbidden".to_owned()));
    assert!(!feed.index.all_synced());
    let said = feed.changes();
    assert_eq!(said.services.len(), 1);
    assert_eq!(said.services[0].0.namespace, "other");
    feed.list_all_empty();
    assert!(feed.index.all_synced());
    assert_eq!(feed.changes().services[0].0.namespace, NS);
}

#[test]
fn a_service_that_leaves_the_watch_set_is_forgotten_without_tombstones() {
    let mut feed = one_pod_reported();
    feed.index.set_watch_set(2, vec![reference_in("other", "api", "http")]);
    assert!(feed.changes().is_empty());
    assert_eq!(feed.index.counts(), (1, 0));
    let namespaces = feed.index.wanted_sources().into_iter().map(|run| run.source.namespace);
    assert_eq!(namespaces.collect::<Vec<_>>(), ["", "other", "other", "other"]);
}

#[test]
fn late_events_of_an_earlier_watcher_are_ignored() {
    let mut feed = one_pod_reported();
    let old = feed.run_of(NS, SourceKind::Pod);
    feed.index.set_watch_set(2, vec![]);
    feed.index.set_watch_set(3, vec![reference("checkout", "http")]);
    assert_ne!(feed.run_of(NS, SourceKind::Pod), old);
    feed.index.handle(&old, SourceEvent::ListStarted);
    feed.index.handle(&old, SourceEvent::ListDone);
    let pods = feed.index.source_statuses().into_iter().find(|status| status.source.kind == SourceKind::Pod);
    assert_eq!(pods.expect("pods are watched").health, Health::Syncing);
}

#[test]
fn a_reference_that_cannot_name_a_service_is_answered_and_never_looked_up() {
    let wanted = reference_in("../kube-system", "checkout", "http");
    let mut feed = Feed::watching(&[wanted.clone(), reference("checkout", "http")]);
    let status = feed.status_of(&wanted);
    assert_eq!(status.condition, ServiceCondition::NotFound);
    assert!(status.message.starts_with("the namespace of this reference is not a DNS label"), "{}", status.message);
    assert!(
        feed.index.wanted_sources().iter().all(|run| run.source.namespace.is_empty() || run.source.namespace == NS)
    );
    assert_eq!(feed.changes().services.len(), 2);
    feed.apply(node("n1", "z1"));
    assert!(feed.changes().is_empty());
}

#[test]
fn a_batch_never_exceeds_its_limit_and_a_busy_service_does_not_starve_the_next() {
    let mut feed = Feed::watching(&[reference("busy", "http"), reference("calm", "http")]);
    for name in ["busy", "calm"] {
        feed.apply(service(name, &[("http", 80)]));
    }
    let many = |count: u8, zone: &str| {
        let endpoint = |n| SliceEndpoint { pod: None, zone: zone.to_owned(), ..ready(&format!("10.0.0.{n}"), "", "") };
        slice("busy-a", "busy", &[("http", 8080)], (0..count).map(endpoint).collect())
    };
    feed.apply(many(20, "z0"));
    let mut calm_seen = false;
    for round in 1..10 {
        let batch = feed.index.take_changes(6).expect("there is more to say");
        assert!(batch.len() <= 6);
        calm_seen |= batch.services.iter().any(|(reference, _)| reference.name == "calm");
        feed.apply(many(20, &format!("z{round}")));
    }
    assert!(calm_seen);
}

#[test]
fn a_snapshot_counts_as_sent() {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(deleting(pod("web-0", "web-0/1", "10.0.0.1")));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    let snapshot = feed.index.take_snapshot();
    assert_eq!((snapshot.services.len(), snapshot.endpoints.len(), snapshot.watch_set_version), (1, 1, 1));
    assert!(feed.changes().is_empty());
    assert!(!feed.index.is_touched());
    feed.list(SourceKind::Pod, vec![]);
    assert_eq!(feed.tombstones(), pod_deleted("10.0.0.1", "web-0/1"));
}
