//! The targets of one group: what is registered, what may go, and what is kept although nobody wants it any more.

mod support;

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use support::{Model, NOT_READY, READY, TERMINATING, VPC, cluster_name};
use switchyard_core::{
    ids::VpcId,
    inventory::{EndpointState, Evidence, Inventory, Link, ServiceCondition},
    observed::{Health, Target, TargetState},
    plan::targets::{self, BASELINE_WINDOW, Input, Targets},
    policy::Baseline,
    status::{Note, Reason},
};

const DELETED: EndpointState = EndpointState::Gone(Evidence::PodDeleted);
const ABSENT: EndpointState = EndpointState::Gone(Evidence::Absent);
/// What may well be wrong: the pod could be alive.
const WEAK: [EndpointState; 5] = [
    NOT_READY,
    ABSENT,
    EndpointState::Gone(Evidence::NotSelected),
    EndpointState::Gone(Evidence::ServiceDeleted),
    EndpointState::Gone(Evidence::PortChanged),
];
const STRONG: [EndpointState; 2] = [TERMINATING, DELETED];

/// The group of cluster blue for the Service checkout, with what the planner is told about it.
struct Group {
    model: Model,
    vpc: VpcId,
    registered: Option<BTreeMap<Target, TargetState>>,
    carrying: bool,
    budget: u32,
    most: u32,
    baseline: Option<Baseline>,
}

fn target(address: &str) -> Target {
    Target { id: address.parse().unwrap(), port: 8080 }
}

fn address(pod: u32) -> String {
    format!("10.0.{}.{}", pod / 250, pod % 250 + 1)
}

impl Group {
    fn new() -> Self {
        let mut model = Model::new();
        model.cluster("blue", Link::Connected);
        let vpc = VpcId::new(VPC).unwrap();
        Self { model, vpc, registered: Some(BTreeMap::new()), carrying: true, budget: 50, most: 1000, baseline: None }
    }

    /// A group that carries weight, with so many ready pods, all registered and healthy, and a baseline of as many.
    fn of(pods: u32) -> Self {
        let mut group = Self::new();
        for pod in 0..pods {
            group.pod(pod, READY);
        }
        group.apply();
        assert_eq!(group.size(), pods as usize);
        group
    }

    fn budget(mut self, percent: u32) -> Self {
        self.budget = percent;
        self
    }

    fn pod(&mut self, pod: u32, state: EndpointState) {
        self.model.pod("blue", "checkout", &format!("pod-{pod}"), &address(pod), state);
    }

    fn pods(&mut self, pods: impl IntoIterator<Item = u32>, state: EndpointState) {
        for pod in pods {
            self.pod(pod, state);
        }
    }

    fn link(&mut self, link: Link) {
        self.model.cluster("blue", link);
    }

    fn health(&mut self, pod: u32, health: Health) {
        let registered = self.registered.as_mut().unwrap();
        registered.insert(target(&address(pod)), TargetState { health, reason: String::new() });
    }

    fn later(&mut self, time: std::time::Duration) {
        self.model.now = self.model.now.checked_add(time).unwrap();
    }

    fn now(&self) -> Timestamp {
        self.model.now
    }

    fn size(&self) -> usize {
        self.registered.as_ref().unwrap().len()
    }

    fn has(&self, pod: u32) -> bool {
        self.registered.as_ref().unwrap().contains_key(&target(&address(pod)))
    }

    fn decide(&mut self) -> Targets {
        let cluster = self.model.inventory.clusters[&cluster_name("blue")].clone();
        let service = Model::service_key("checkout");
        let input = Input {
            cluster: &cluster,
            service: &service,
            group_vpc: &self.vpc,
            registered: self.registered.as_ref(),
            carrying: self.carrying,
            budget_percent: self.budget,
            most_targets: self.most,
            baseline: self.baseline.as_ref(),
            drained: false,
            sight: None,
        };
        let decided = targets::decide(&input, &self.model.inventory, self.now());
        self.baseline = Some(decided.baseline.clone());
        decided
    }

    /// Decides, and does at once what was decided; what is new is healthy at once.
    fn apply(&mut self) -> Targets {
        let decided = self.decide();
        let registered = self.registered.as_mut().expect("what is registered is known");
        for (gone, _) in &decided.deregister {
            assert!(registered.remove(gone).is_some(), "{gone} was not registered");
        }
        for new in &decided.register {
            let state = TargetState { health: Health::Healthy, reason: String::new() };
            assert!(registered.insert(new.target, state).is_none(), "{} was registered", new.target);
        }
        decided
    }
}

fn gone(decided: &Targets) -> Vec<String> {
    decided.deregister.iter().map(|(target, _)| target.id.to_string()).collect()
}

fn note(decided: &Targets, reason: Reason) -> &Note {
    decided.notes.iter().find(|note| note.reason == reason).unwrap_or_else(|| panic!("{reason}: {:?}", decided.notes))
}

#[test]
fn ready_pods_are_registered_in_order_and_others_are_not() {
    let mut group = Group::new();
    group.pod(2, READY);
    group.pod(1, READY);
    group.pod(3, NOT_READY);
    group.pod(4, TERMINATING);
    group.pod(5, DELETED);
    let decided = group.decide();
    let registered: Vec<Target> = decided.register.iter().map(|new| new.target).collect();
    assert_eq!(registered, [target(&address(1)), target(&address(2))]);
    assert!(decided.register.iter().all(|new| new.zone.is_none()), "ELBv2 finds the zone of an address in the VPC");
    assert_eq!((decided.counts.desired, decided.counts.registered), (2, 0));
    assert!(decided.notes.is_empty());
}

#[test]
fn addresses_outside_the_vpc_of_the_group_are_registered_for_all_zones() {
    let mut group = Group::new();
    group.pod(1, READY);
    group.vpc = VpcId::new("vpc-of-the-load-balancer").unwrap();
    assert_eq!(group.decide().register[0].zone.as_deref(), Some("all"));
}

#[test]
fn what_is_registered_and_wanted_is_left_alone() {
    let mut group = Group::of(3);
    let decided = group.decide();
    assert!(decided.register.is_empty() && decided.deregister.is_empty() && decided.notes.is_empty());
    assert_eq!((decided.counts.registered, decided.counts.healthy, decided.counts.held), (3, 3, 0));
}

#[test]
fn a_target_that_drains_counts_as_gone_and_is_registered_again_when_its_pod_is_ready() {
    let mut group = Group::of(2);
    group.health(1, Health::Draining);
    let decided = group.decide();
    assert_eq!(decided.register.iter().map(|new| new.target).collect::<Vec<_>>(), [target(&address(1))]);
    assert_eq!((decided.counts.registered, decided.counts.draining), (1, 1));
    group.pod(1, DELETED);
    assert!(group.decide().deregister.is_empty(), "it is on its way out already");
}

#[test]
fn a_pod_that_was_seen_to_go_leaves_at_once_even_with_a_budget_of_0() {
    for state in STRONG {
        let mut group = Group::of(4).budget(0);
        group.pods([0, 2], state);
        assert_eq!(gone(&group.decide()), [address(0), address(2)], "{state:?}");
    }
}

#[test]
fn weak_evidence_removes_up_to_the_budget_and_the_rest_is_held() {
    for state in WEAK {
        for (budget, left) in [(0, 10), (1, 10), (10, 9), (50, 5), (99, 1), (100, 1)] {
            let mut group = Group::of(10).budget(budget);
            group.pods(0..10, state);
            let decided = group.apply();
            assert_eq!(group.size(), left, "{state:?} with {budget} %");
            assert_eq!(decided.counts.held as usize, left);
            let note = note(&decided, Reason::RemovalsHeld);
            assert!(note.message.starts_with(&format!("{left} of 10 targets of blue are held: {left} because ")));
            assert!(note.message.contains("set the weight of blue to 0 first"), "{}", note.message);
            assert_eq!(note.cluster, Some(cluster_name("blue")));
        }
    }
}

#[test]
fn what_was_held_stays_held_however_often_and_however_long_one_plans() {
    let mut group = Group::of(10);
    group.pods(0..10, ABSENT);
    for _ in 0..20 {
        group.apply();
        assert_eq!(group.size(), 5);
        group.later(BASELINE_WINDOW);
    }
}

#[test]
fn the_last_target_of_a_group_that_carries_is_kept_even_when_its_pod_is_gone() {
    for state in STRONG {
        let mut group = Group::of(3);
        group.pods(0..3, state);
        let decided = group.apply();
        assert_eq!((decided.deregister.len(), decided.counts.held), (2, 1), "{state:?}");
        assert!(group.apply().deregister.is_empty());
        note(&decided, Reason::RemovalsHeld);
    }
}

#[test]
fn the_last_target_goes_once_another_one_is_registered() {
    let mut group = Group::of(1);
    group.pod(0, DELETED);
    group.pod(1, READY);
    let decided = group.apply();
    assert_eq!((decided.register.len(), decided.deregister.len()), (1, 0), "the new one is not in place yet");
    let decided = group.apply();
    assert_eq!((decided.register.len(), gone(&decided)), (0, vec![address(0)]));
}

#[test]
fn a_group_without_weight_may_be_emptied() {
    for state in WEAK.into_iter().chain(STRONG) {
        let mut group = Group::of(5).budget(0);
        group.carrying = false;
        group.pods(0..5, state);
        let decided = group.apply();
        assert_eq!((group.size(), decided.counts.held), (0, 0), "{state:?}");
        assert!(decided.notes.is_empty());
    }
}

#[test]
fn the_dead_go_before_those_that_still_answer_whatever_the_evidence() {
    for worse in WEAK {
        for better in WEAK {
            let mut group = Group::of(4);
            group.pods([0, 1], better);
            group.pods([2, 3], worse);
            group.health(2, Health::Unhealthy);
            group.health(3, Health::Unhealthy);
            assert_eq!(gone(&group.decide()), [address(2), address(3)], "{worse:?} is unhealthy, {better:?} healthy");
        }
    }
}

#[test]
fn of_pods_that_are_gone_the_one_that_still_answers_is_kept_last() {
    for (dead, alive) in [(TERMINATING, DELETED), (DELETED, TERMINATING)] {
        let mut group = Group::of(2);
        group.pod(0, alive);
        group.pod(1, dead);
        group.health(1, Health::Unhealthy);
        group.apply();
        assert!(group.has(0) && !group.has(1), "{dead:?} is unhealthy, {alive:?} still answers");
    }
}

#[test]
fn targets_that_were_not_judged_yet_go_after_the_dead_and_before_the_healthy() {
    for (budget, expected) in [(25, vec![3]), (50, vec![2, 3]), (75, vec![1, 2, 3])] {
        let mut group = Group::of(4).budget(budget);
        group.pods(0..4, NOT_READY);
        for (pod, health) in [(1, Health::Initial), (2, Health::Unused), (3, Health::Unhealthy)] {
            group.health(pod, health);
        }
        let expected: Vec<String> = expected.into_iter().map(address).collect();
        assert_eq!(gone(&group.decide()), expected, "{budget} %");
    }
}

#[test]
fn strong_evidence_goes_first_and_leaves_the_budget_to_what_is_left() {
    let mut group = Group::of(10);
    group.pods(0..4, DELETED);
    group.pods(4..10, NOT_READY);
    let decided = group.apply();
    assert!((0..4).all(|pod| !group.has(pod)), "the deleted pods are out");
    assert_eq!(group.size(), 5, "and one of the others, down to half of ten");
    assert_eq!(decided.counts.held, 5);
}

#[test]
fn pods_that_get_unready_one_by_one_over_a_minute_do_not_empty_the_group() {
    let mut group = Group::of(10);
    for pod in 0..10 {
        group.pod(pod, NOT_READY);
        group.apply();
        group.later(std::time::Duration::from_secs(6));
    }
    assert_eq!(group.size(), 5);
    group.later(BASELINE_WINDOW);
    group.apply();
    assert_eq!(group.size(), 5, "what is held keeps the baseline where it was");
}

#[test]
fn a_deliberate_scale_down_lowers_the_baseline_after_the_window_and_not_before() {
    let mut group = Group::of(10);
    group.pods(0..4, NOT_READY);
    group.apply();
    let since = group.now();
    assert_eq!(group.baseline, Some(Baseline { targets: 10, below_since: Some(since) }));
    group.later(BASELINE_WINDOW - std::time::Duration::from_secs(1));
    group.apply();
    assert_eq!(group.baseline, Some(Baseline { targets: 10, below_since: Some(since) }));
    group.later(std::time::Duration::from_secs(1));
    group.apply();
    assert_eq!(group.baseline, Some(Baseline { targets: 6, below_since: None }));
    group.pods(4..10, NOT_READY);
    group.apply();
    assert_eq!(group.size(), 3, "half of six is kept now");
}

#[test]
fn the_baseline_rises_at_once() {
    let mut group = Group::of(2);
    group.pods(2..10, READY);
    group.apply();
    assert_eq!(group.baseline, Some(Baseline { targets: 10, below_since: None }));
}

#[test]
fn pods_that_come_back_within_the_window_leave_the_baseline_as_it_was() {
    let mut group = Group::of(10);
    group.pods(0..3, NOT_READY);
    group.apply();
    group.pods(0..3, READY);
    group.later(BASELINE_WINDOW / 2);
    group.apply();
    assert_eq!(group.baseline, Some(Baseline { targets: 10, below_since: None }));
}

#[test]
fn without_a_remembered_baseline_the_group_as_it_stands_is_the_measure() {
    let mut group = Group::of(10);
    group.baseline = None;
    group.pods(0..10, ABSENT);
    for _ in 0..3 {
        group.apply();
        assert_eq!(group.size(), 5, "a hub that lost its memory removes no more than one that did not");
        group.later(BASELINE_WINDOW);
    }
}

#[test]
fn nothing_leaves_a_cluster_that_is_not_heard_or_not_heard_out() {
    for (link, reason) in [(Link::Stale, Reason::ClusterStale), (Link::Syncing, Reason::ClusterSyncing)] {
        for state in WEAK.into_iter().chain(STRONG) {
            for carrying in [true, false] {
                let mut group = Group::of(4);
                group.carrying = carrying;
                group.pods(0..3, state);
                group.later(std::time::Duration::from_secs(1));
                group.link(link);
                let decided = group.decide();
                assert!(decided.deregister.is_empty(), "{link:?} {state:?}");
                assert_eq!(decided.counts.held, 3);
                assert!(note(&decided, reason).message.starts_with("3 targets of blue are not removed: its agent "));
            }
        }
    }
}

#[test]
fn a_pod_that_a_syncing_agent_saw_go_leaves_and_nothing_else_does() {
    let mut group = Group::of(6);
    group.pod(0, TERMINATING);
    group.later(std::time::Duration::from_secs(1));
    group.link(Link::Syncing);
    group.pod(1, TERMINATING);
    group.pod(2, EndpointState::Gone(Evidence::PodDeleted));
    group.pod(3, NOT_READY);
    group.pod(4, EndpointState::Gone(Evidence::Absent));
    let decided = group.decide();
    assert_eq!(gone(&decided), [address(1), address(2)]);
    assert_eq!(decided.counts.held, 3);
    assert!(note(&decided, Reason::ClusterSyncing).message.starts_with("3 targets of blue are not removed"));
}

#[test]
fn a_pod_that_another_service_selects_too_leaves_this_one_on_weak_evidence() {
    let mut group = Group::of(6);
    for pod in 0..6 {
        group.model.pod("blue", "other", &format!("pod-{pod}"), &address(pod), READY);
    }
    group.pods(0..6, EndpointState::Gone(Evidence::NotSelected));
    let decided = group.decide();
    assert_eq!(decided.deregister.len(), 3, "a selector typo takes the budget and no more");
    assert_eq!(decided.counts.held, 3);
}

#[test]
fn a_service_that_was_not_reported_yet_says_nothing_about_what_is_gone() {
    // The policy names another Service since a moment ago: none of its pods are known, and the old ones still serve.
    let mut group = Group::of(4);
    group.model.inventory = Inventory::default();
    group.link(Link::Connected);
    let decided = group.decide();
    assert!(decided.deregister.is_empty());
    let message = &note(&decided, Reason::ClusterSyncing).message;
    assert!(message.ends_with("its agent has not reported Service shop/checkout yet"), "{message}");
    group.pod(7, READY);
    assert_eq!(group.decide().deregister.len(), 2, "once it is reported the budget decides");
}

#[test]
fn when_a_policy_names_another_service_the_old_pods_stay_until_enough_new_ones_are_healthy() {
    let mut group = Group::of(4);
    group.model.inventory = Inventory::default();
    group.link(Link::Connected);
    group.pods(10..14, READY);
    assert_eq!(group.apply().deregister.len(), 2, "down to the floor, 50 percent of 4");
    for pod in 10..14 {
        group.health(pod, Health::Initial);
    }
    assert!(group.decide().deregister.is_empty(), "what was just registered does not answer yet");
    for pod in 10..14 {
        group.health(pod, Health::Healthy);
    }
    assert_eq!(group.apply().deregister.len(), 2);
    assert_eq!(group.size(), 4);
}

#[test]
fn pods_of_the_service_that_a_policy_named_before_are_weak_evidence_though_they_own_their_addresses() {
    let mut group = Group::of(2).budget(0);
    group.model.inventory = Inventory::default();
    group.link(Link::Connected);
    for pod in 0..2 {
        group.model.pod("blue", "cart", &format!("cart-{pod}"), &address(pod), READY);
    }
    group.pods(10..12, READY);
    assert!(group.decide().deregister.is_empty());
    // The address of a pod in another cluster can only mean requests that go astray.
    group.model.cluster("green", Link::Connected);
    group.model.inventory = Inventory::default();
    group.link(Link::Connected);
    group.model.cluster("green", Link::Connected);
    group.model.pod("green", "cart", "cart-0", &address(0), READY);
    group.pods(10..12, READY);
    assert_eq!(gone(&group.decide()), [address(0)]);
}

#[test]
fn what_was_not_told_in_this_session_is_not_registered() {
    let mut group = Group::of(2);
    group.pod(2, READY);
    group.model.advance(10);
    group.link(Link::Stale);
    let decided = group.decide();
    assert!(decided.register.is_empty(), "an agent that is away tells nothing: {decided:?}");
    assert!(decided.notes.iter().any(|note| note.reason == Reason::ClusterStale), "{decided:?}");
    group.link(Link::Syncing);
    assert!(group.decide().register.is_empty(), "what is stored is of a session before this one");
    group.pod(3, READY);
    let decided = group.decide();
    assert_eq!(
        decided.register.iter().map(|new| new.target).collect::<Vec<_>>(),
        [target(&address(3))],
        "a pod told since is added"
    );
    group.link(Link::Connected);
    assert_eq!(group.decide().register.len(), 2);
}

#[test]
fn a_target_that_no_pod_was_ever_known_at_goes_on_weak_evidence() {
    let mut group = Group::of(2).budget(0);
    group.health(9, Health::Healthy);
    let decided = group.apply();
    assert_eq!(decided.deregister, [(target(&address(9)), "no pod of the Service is known at the address")]);
    group.health(9, Health::Healthy);
    group.pods(0..2, NOT_READY);
    assert_eq!(gone(&group.decide()), [address(0)], "down to the two of the baseline");
}

#[test]
fn a_late_delete_of_the_old_pod_never_removes_the_next_owner_of_the_address() {
    let mut group = Group::of(3);
    group.model.advance(10);
    group.model.pod("blue", "checkout", "the-next-one", &address(0), READY);
    group.model.advance(10);
    group.pod(0, DELETED);
    let decided = group.decide();
    assert!(decided.deregister.is_empty() && decided.register.is_empty(), "{decided:?}");
}

#[test]
fn an_address_that_went_on_to_a_pod_of_another_service_leaves_at_once() {
    let mut group = Group::of(3).budget(0);
    group.model.advance(10);
    group.model.pod("blue", "other", "someone-else", &address(0), READY);
    let decided = group.decide();
    assert_eq!(decided.deregister, [(target(&address(0)), "the address now belongs to another pod")]);
}

#[test]
fn an_address_that_two_clusters_claim_stays_with_the_first_and_the_clash_is_named() {
    let mut group = Group::new();
    group.model.cluster("green", Link::Connected);
    group.model.pod("green", "checkout", "first", &address(0), READY);
    group.model.advance(10);
    group.pods([0, 1], READY);
    let decided = group.decide();
    assert_eq!(decided.register.iter().map(|new| new.target).collect::<Vec<_>>(), [target(&address(1))]);
    let note = note(&decided, Reason::AddressClash);
    let start = format!("1 addresses of blue are refused, such as {}:8080: pods of green in the same VPC", address(0));
    assert!(note.message.starts_with(&start), "{}", note.message);
    assert!(note.message.contains("do not overlap"));
}

#[test]
fn equal_addresses_in_different_vpcs_do_not_clash() {
    let mut group = Group::new();
    group.model.cluster("green", Link::Connected);
    let green = group.model.inventory.clusters.get_mut(&cluster_name("green")).unwrap();
    green.vpc_id = VpcId::new("vpc-2").unwrap();
    group.model.pod("green", "checkout", "first", &address(0), READY);
    group.pod(0, READY);
    let decided = group.decide();
    assert_eq!(decided.register.len(), 1);
    assert!(decided.notes.is_empty());
}

#[test]
fn ipv6_addresses_are_not_registered_and_are_named() {
    let mut group = Group::new();
    group.model.pod("blue", "checkout", "six", "2001:db8::1", READY);
    group.pod(1, READY);
    let decided = group.decide();
    assert_eq!(decided.register.len(), 1);
    assert_eq!(decided.counts.desired, 1, "an address that cannot be registered is not waited for");
    let message = &note(&decided, Reason::AddressUnsupported).message;
    assert!(message.starts_with("1 addresses of blue are IPv6, such as [2001:db8::1]:8080"), "{message}");
}

#[test]
fn what_does_not_fit_into_the_group_waits_and_is_named() {
    let mut group = Group::of(3);
    group.most = 5;
    group.pods(3..9, READY);
    let decided = group.apply();
    assert_eq!(group.size(), 5);
    let message = &note(&decided, Reason::QuotaExceeded).message;
    assert!(message.starts_with("4 of 9 targets of blue do not fit: a target group holds 5"), "{message}");
    group.pods(0..2, DELETED);
    group.apply();
    assert_eq!(group.apply().register.len(), 2, "what leaves makes room");
    assert_eq!(group.size(), 5);
}

#[test]
fn a_group_that_is_larger_than_its_limit_takes_nothing_and_breaks_nothing() {
    let mut group = Group::of(6);
    group.most = 5;
    group.pod(6, READY);
    let decided = group.decide();
    assert!(decided.register.is_empty() && decided.deregister.is_empty());
    note(&decided, Reason::QuotaExceeded);
}

#[test]
fn what_is_held_is_explained_by_what_is_known_of_the_service() {
    let cases = [
        (ServiceCondition::NotFound, "; Service checkout does not exist there."),
        (ServiceCondition::PortNotFound, "; Service checkout has no port http."),
        (ServiceCondition::NoSelectedPods, "; Service checkout selects no pod."),
        (ServiceCondition::Resolved, "list. The group"),
    ];
    for (condition, words) in cases {
        let mut group = Group::of(2);
        group.model.service("blue", "checkout", condition);
        group.pods(0..2, ABSENT);
        let decided = group.decide();
        let message = &note(&decided, Reason::RemovalsHeld).message;
        assert!(message.contains(words), "{condition:?}: {message}");
    }
}

#[test]
fn counts_tell_every_state_of_health_apart() {
    let mut group = Group::of(1);
    let states =
        [Health::Unhealthy, Health::Initial, Health::Unused, Health::Unavailable, Health::Draining, Health::Draining];
    for (pod, health) in states.into_iter().enumerate() {
        group.health(pod as u32 + 1, health);
    }
    let counts = group.decide().counts;
    assert_eq!((counts.registered, counts.healthy, counts.unhealthy), (5, 1, 1));
    assert_eq!((counts.initial, counts.unused, counts.draining), (1, 2, 2));
}

fn any_state() -> impl Strategy<Value = EndpointState> {
    let weak = proptest::sample::select(WEAK.to_vec());
    let strong = proptest::sample::select(STRONG.to_vec());
    prop_oneof![Just(READY), weak, strong]
}

fn any_health() -> impl Strategy<Value = Health> {
    proptest::sample::select(vec![
        Health::Initial,
        Health::Healthy,
        Health::Unhealthy,
        Health::Unused,
        Health::Unavailable,
        Health::Draining,
    ])
}

type Change = (u32, EndpointState, Health, u64);

fn any_history() -> impl Strategy<Value = (u32, u32, Vec<Vec<Change>>)> {
    let change = (0u32..12, any_state(), any_health(), 0u64..200);
    let round = proptest::collection::vec(change, 0..8);
    (1u32..12, 0u32..=100, proptest::collection::vec(round, 1..12))
}

fn strong(words: &str) -> bool {
    ["the pod is terminating", "the pod was deleted", "the address now belongs to another pod"].contains(&words)
}

proptest! {
    /// The judge counts by itself: the size that removals are measured against is the largest number of ready pods since the
    /// last time that it was lowered, and the group never falls below its share by weak evidence, nor below one by any.
    #[test]
    fn a_group_that_carries_keeps_one_target_and_its_floor_against_weak_evidence((pods, budget, rounds) in any_history()) {
        let mut group = Group::of(pods).budget(budget);
        for round in rounds {
            for (pod, state, health, seconds) in round {
                group.pod(pod, state);
                if group.has(pod) {
                    group.health(pod, health);
                }
                group.later(std::time::Duration::from_secs(seconds));
            }
            let active = |group: &Group| group.registered.as_ref().unwrap().values().filter(|s| s.health != Health::Draining).count();
            let before = active(&group);
            let measure = group.baseline.as_ref().unwrap().targets;
            let decided = group.decide();
            let wanted = decided.counts.desired.max(measure);
            let floor = f64::from(wanted) * f64::from(100 - budget) / 100.0;
            let weak = decided.deregister.iter().filter(|(_, words)| !strong(words)).count();
            let left = before - decided.deregister.len();
            prop_assert!(decided.deregister.is_empty() || left >= 1, "{decided:?}");
            prop_assert!(weak == 0 || left as f64 >= floor, "{left} left, floor {floor}: {decided:?}");
            let stay = decided.counts.held as usize + decided.deregister.len();
            let unwanted = before - group.registered.as_ref().unwrap().iter().filter(|(target, state)| {
                state.health != Health::Draining && wanted_by_judge(&group, **target)
            }).count();
            prop_assert_eq!(stay, unwanted, "every target that nobody wants is either removed or held");
            let lowered = group.baseline.as_ref().unwrap().targets;
            prop_assert!(lowered >= measure || decided.counts.held == 0, "the measure falls only with nothing held");
            play(&mut group, &decided);
        }
    }

    #[test]
    fn a_group_without_weight_keeps_exactly_what_is_wanted((pods, budget, rounds) in any_history()) {
        let mut group = Group::of(pods).budget(budget);
        group.carrying = false;
        for round in rounds {
            for (pod, state, _, _) in round {
                group.pod(pod, state);
            }
            group.apply();
            let all: Vec<u32> = (0..12).filter(|pod| wanted_by_judge(&group, target(&address(*pod)))).collect();
            prop_assert_eq!(group.size(), all.len());
            prop_assert!(all.into_iter().all(|pod| group.has(pod)));
        }
    }

    #[test]
    fn deciding_again_after_it_was_done_decides_nothing_more((pods, budget, rounds) in any_history()) {
        let mut group = Group::of(pods).budget(budget);
        for (pod, state, health, _) in rounds.into_iter().flatten() {
            group.pod(pod, state);
            if group.has(pod) && health != Health::Draining {
                group.health(pod, health);
            }
        }
        group.apply();
        group.apply();
        let third = group.decide();
        prop_assert!(third.register.is_empty() && third.deregister.is_empty(), "{third:?}");
    }
}

fn wanted_by_judge(group: &Group, target: Target) -> bool {
    let mut endpoints = group.model.inventory.endpoints();
    endpoints.any(|(key, endpoint)| key.target == target && endpoint.state == READY)
}

fn play(group: &mut Group, decided: &Targets) {
    let registered = group.registered.as_mut().unwrap();
    for (gone, _) in &decided.deregister {
        registered.get_mut(gone).unwrap().health = Health::Draining;
    }
    for new in &decided.register {
        registered.insert(new.target, TargetState { health: Health::Initial, reason: String::new() });
    }
}
