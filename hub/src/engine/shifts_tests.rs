//! What a shift is shown of a cycle: only what was read back, only of the picture that it belongs to.

use switchyard_core::{
    arn::{ListenerArn, RuleArn},
    ids::{PolicyUid, Weight},
    observed::{Known, Listener, Tags, TargetGroup},
    plan::PolicyPlan,
    policy::{ClusterTrafficPolicy, PolicyMemory, Programmed, validate},
    shift::{Origin, ShiftReason, ShiftSpec, machine::Outcome},
    status::{ClusterStatus, ConditionType, PolicyStatus, Reason, RuleStatus, StatusCondition, TargetCounts},
};

use super::*;

const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";

fn key() -> PolicyKey {
    PolicyKey::new("shop", "checkout").unwrap()
}

fn uid() -> PolicyUid {
    "uid".parse().unwrap()
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn weight(weight: u32) -> Weight {
    Weight::new(weight).unwrap()
}

fn group(name: &str) -> TargetGroupArn {
    TargetGroupArn::new(format!("{PREFIX}:targetgroup/sy-{name}/1")).unwrap()
}

fn listener() -> ListenerArn {
    ListenerArn::new(format!("{PREFIX}:listener/app/shared/1/2")).unwrap()
}

fn load_balancer_arn() -> LoadBalancerArn {
    LoadBalancerArn::new(format!("{PREFIX}:loadbalancer/app/shared/1")).unwrap()
}

fn group_seen(name: &str) -> TargetGroup {
    TargetGroup {
        name: format!("sy-{name}"),
        vpc_id: "vpc-1".parse().unwrap(),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        target_type: "ip".into(),
        health_check: validate(&manifest()).unwrap().health_check,
        deregistration_delay_seconds: Known::Known(300),
        stickiness_seconds: Known::Known(None),
        tags: Tags::new(),
        targets: Known::Known(BTreeMap::new()),
    }
}

fn listener_seen() -> Listener {
    Listener { load_balancer: load_balancer_arn(), port: 443, protocol: "HTTPS".into(), rules: Known::Unknown }
}

fn manifest() -> ClusterTrafficPolicy {
    serde_norway::from_str(
        "{apiVersion: switchyard.dev/v1alpha1, kind: ClusterTrafficPolicy, metadata: {name: checkout, namespace: shop}, \
         spec: {listener: {loadBalancer: shared, port: 443}, match: {paths: [{value: /}]}, \
         backend: {service: {name: checkout, port: http}}, \
         clusters: [{name: blue, weight: 100}, {name: green, weight: 0}]}}",
    )
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A cycle over one policy in the clusters blue and green.
struct Cycle {
    picture: Picture,
    records: BTreeMap<PolicyKey, PolicyRecord>,
    plan: RegionPlan,
    observed: Observed,
    unread: BTreeMap<PolicyKey, Unread>,
    now: Timestamp,
}

impl Cycle {
    /// These weights are asked for, those were read back.
    fn new(asked: (u32, u32), read_back: (u32, u32)) -> Self {
        let override_ = BTreeMap::from([(cluster("blue"), weight(asked.0)), (cluster("green"), weight(asked.1))]);
        let record = PolicyRecord {
            uid: uid(),
            version: 3,
            generation: 1,
            policy: validate(&manifest()).unwrap(),
            weight_override: Some(override_),
            deleting_since: None,
            failback_at: None,
        };
        let memory = PolicyMemory {
            programmed: Some(Programmed { weights: BTreeMap::new(), since: at(0) }),
            ..PolicyMemory::default()
        };
        let status = status(asked, read_back);
        let planned = PolicyPlan { steps: Vec::new(), status, memory, gone: false, again_at: None };
        let mut observed = Observed::default();
        for name in ["blue", "green"] {
            observed.target_groups.insert(group(name), group_seen(name));
        }
        observed.listeners.insert(listener(), listener_seen());
        Self {
            picture: Picture { store_ok: true, loaded: true, ..Picture::empty() },
            records: BTreeMap::from([(key(), record)]),
            plan: RegionPlan { policies: BTreeMap::from([(key(), planned)]) },
            observed,
            unread: BTreeMap::new(),
            now: at(10),
        }
    }

    fn seen(&self) -> Seen<'_> {
        let Self { picture, records, plan, observed, unread, now } = self;
        Seen { picture, records, plan, observed, unread, settle: Duration::from_secs(5), now: *now }
    }

    fn views(&self, shift: &Shift) -> BTreeMap<PolicyKey, PolicyView> {
        views(shift, &self.seen(), |_| Evidence::NotConfigured)
    }

    fn observe(&self, shift: &Shift) -> Outcome {
        let policies = self.views(shift);
        machine::observe(shift.clone(), &View { now: self.now, policies: &policies, switches: &[], measured: &[] })
    }
}

fn status(asked: (u32, u32), read_back: (u32, u32)) -> PolicyStatus {
    let condition = |kind| StatusCondition {
        kind,
        status: Some(asked == read_back),
        reason: Reason::AsRequested,
        message: String::new(),
        last_transition: at(0),
    };
    let one = |name: &str, asked: u32, read_back: u32| ClusterStatus {
        cluster: cluster(name),
        requested: weight(asked),
        effective: weight(asked),
        programmed: Some(weight(read_back)),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts { desired: 2, registered: 2, healthy: 2, ..TargetCounts::default() },
        target_group: Some(group(name)),
    };
    let rule = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/2/3")).unwrap();
    PolicyStatus {
        observed_version: 3,
        conditions: vec![condition(ConditionType::Programmed), condition(ConditionType::Converged)],
        clusters: vec![one("blue", asked.0, read_back.0), one("green", asked.1, read_back.1)],
        rule: Some(RuleStatus { listener: listener(), rule: Some(rule), priority: Some(1), programmed_since: None }),
        notes: Vec::new(),
        failover: switchyard_core::failover::Explanation::default(),
    }
}

/// Moves everything from blue to green in steps of 20 and 100 percent, asking a webhook in each.
fn shift() -> Shift {
    let spec: ShiftSpec = serde_json::from_value(serde_json::json!({
        "policies": [{"namespace": "shop", "name": "checkout", "to": "green"}],
        "strategy": {"steps": [{"percent": 20}, {"percent": 100}]},
        "gates": [{"name": "ci", "webhook": {"endpoint": "ci"}}],
    }))
    .unwrap();
    let plan = switchyard_core::shift::validate(&spec, &"shop".parse().unwrap(), false).unwrap();
    let cycle = Cycle::new((100, 0), (100, 0));
    let policies = cycle.records.iter().map(|(key, record)| (key.clone(), record)).collect();
    plan.start("shift-1".parse().unwrap(), Origin::Call, "me", &policies, at(0)).unwrap()
}

/// The shift as it is stored once its first step was asked for.
fn stepping() -> Shift {
    let outcome = Cycle::new((100, 0), (100, 0)).observe(&shift());
    assert_eq!((outcome.shift.state, outcome.writes.len()), (State::Stepping, 1), "{}", outcome.shift.message);
    Shift { version: 2, ..outcome.shift }
}

#[test]
fn a_step_waits_until_its_weights_were_read_back() {
    assert_eq!(Cycle::new((80, 20), (100, 0)).observe(&stepping()).shift.state, State::Stepping);
    assert_eq!(Cycle::new((80, 20), (80, 20)).observe(&stepping()).shift.state, State::Baking);
}

#[test]
fn what_was_written_and_not_read_since_counts_as_unknown_whatever_the_cache_holds() {
    let mut cycle = Cycle::new((80, 20), (80, 20));
    cycle.unread.insert(key(), Unread::More);
    let view = &cycle.views(&stepping())[&key()];
    assert_eq!((view.programmed, view.converged), (None, false));
    assert_eq!(cycle.observe(&stepping()).shift.state, State::Stepping);
    // Targets that wait for their reading say nothing against weights that were read.
    cycle.unread.insert(key(), Unread::Targets);
    assert_eq!(cycle.observe(&stepping()).shift.state, State::Baking);
}

#[test]
fn a_status_that_speaks_of_another_version_shows_no_weights() {
    let mut cycle = Cycle::new((80, 20), (80, 20));
    cycle.records.get_mut(&key()).unwrap().version = 4;
    assert_eq!(cycle.observe(&stepping()).shift.state, State::Stepping);
}

#[test]
fn a_policy_that_the_store_has_no_more_is_not_shown() {
    let mut cycle = Cycle::new((80, 20), (80, 20));
    cycle.records.clear();
    assert!(cycle.views(&stepping()).is_empty());
    let outcome = cycle.observe(&stepping());
    assert_eq!((outcome.shift.state, outcome.shift.why), (State::Superseded, ShiftReason::PolicyDeleted));
    assert!(outcome.writes.is_empty());
}

#[test]
fn a_shift_is_not_looked_at_again_before_the_picture_shows_what_was_stored() {
    let (mut term, now) = (ShiftTerm::default(), Instant::now());
    let before = shift();
    assert_eq!(term.not_before(&before, now), None);
    term.stored(&before, &[], now);
    assert_eq!(term.not_before(&before, now), Some(now + LOST_AFTER), "a picture from before the save");
    assert_eq!(term.not_before(&Shift { version: before.version + 1, ..before.clone() }, now), None);
    assert_eq!(
        term.not_before(&Shift { version: before.version + 2, ..before }, now),
        None,
        "somebody else moved it since"
    );
}

#[test]
fn a_shift_whose_last_save_the_store_has_lost_is_looked_at_as_the_store_has_it() {
    let (mut term, start) = (ShiftTerm::default(), Instant::now());
    let before = shift();
    term.stored(&before, &[], start);
    let second = Duration::from_secs(1);
    assert_eq!(term.not_before(&before, start + LOST_AFTER - second), Some(start + LOST_AFTER));
    assert_eq!(term.not_before(&before, start + LOST_AFTER), None);
}

fn update(before: Shift, shift: Shift) -> Update {
    Update { before, shift, writes: Vec::new(), taken: Vec::new(), unknown: false }
}

#[test]
fn words_alone_are_stored_only_once_they_have_differed_for_a_while() {
    let (mut term, start) = (ShiftTerm::default(), Instant::now());
    let before = stepping();
    let waits = |why: &str| Shift { why: ShiftReason::Held, message: why.to_owned(), ..before.clone() };
    let mut after =
        |part: u32, shift: Shift| term.storing(&update(before.clone(), shift), start + WORDS_PAUSE * part / 2);
    assert_eq!(after(0, waits("a")), Storing::At(start + WORDS_PAUSE));
    assert_eq!(after(1, waits("b")), Storing::At(start + WORDS_PAUSE), "other words do not begin anew");
    assert_eq!(after(2, waits("b")), Storing::Now);
    assert_eq!(after(2, before.clone()), Storing::Nothing);
    assert_eq!(after(3, waits("a")), Storing::At(start + WORDS_PAUSE * 5 / 2), "a new wait");
    assert_eq!(after(3, Shift { state: State::Baking, ..waits("a") }), Storing::Now, "more than words");
    let writes = Cycle::new((100, 0), (100, 0)).observe(&shift()).writes;
    let written = Update { writes, ..update(before.clone(), before.clone()) };
    assert_eq!(term.storing(&written, start), Storing::Now);
}

#[test]
fn weights_that_were_read_back_are_not_taken_back_for_a_moment_in_which_nothing_is_known() {
    let (mut term, start) = (ShiftTerm::default(), Instant::now());
    let before = Shift { state: State::Converging, programmed: true, ..stepping() };
    let after = Shift { programmed: false, why: ShiftReason::Settling, ..before.clone() };
    let known = update(before.clone(), after.clone());
    let unknown = Update { unknown: true, ..update(before, after) };
    assert_eq!(term.storing(&unknown, start), Storing::At(start + UNKNOWN_IS_NO_NEWS));
    assert_eq!(term.storing(&unknown, start + UNKNOWN_IS_NO_NEWS), Storing::Now, "then not knowing is the news");
    assert_eq!(term.storing(&known, start), Storing::Now, "somebody changed the rule");
}

#[test]
fn active_shifts_are_counted_and_each_change_of_state_once() {
    let (metrics, mut term) = (Metrics::new(), ShiftTerm::default());
    let pictured = |shift: Shift| BTreeMap::from([(shift.id.clone(), Arc::new(shift))]);
    let lines = |metrics: &Metrics| {
        let text = metrics.encoded().unwrap();
        let ours = |line: &&str| line.starts_with("switchyard_hub_shift") && !line.ends_with(" 0");
        text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>()
    };
    term.follow(&pictured(shift()), &metrics);
    assert_eq!(lines(&metrics), [r#"switchyard_hub_shifts{state="pending"} 1"#], "what a term finds is no change");
    for _ in 0..2 {
        term.follow(&pictured(stepping()), &metrics);
    }
    let mut found = lines(&metrics);
    found.sort();
    let wanted = [
        r#"switchyard_hub_shift_transitions_total{state="stepping"} 1"#,
        r#"switchyard_hub_shifts{state="stepping"} 1"#,
    ];
    assert_eq!(found, wanted);
    term.follow(&pictured(Shift { state: State::Aborted, ..stepping() }), &metrics);
    assert!(lines(&metrics).iter().all(|line| !line.starts_with("switchyard_hub_shifts{")), "none is active");
}

#[test]
fn a_gate_asks_about_the_clusters_that_gain_with_their_groups_and_their_load_balancer() {
    let cycle = Cycle::new((80, 20), (80, 20));
    let baking = cycle.observe(&stepping());
    assert_eq!(baking.due, [0]);
    let policies = cycle.views(&baking.shift);
    let (key_, ask) = question(&baking.shift, 0, &policies, &cycle.seen()).unwrap();
    assert_eq!((key_.step, key_.gate, ask.percent), (0, 0, 20));
    let [of_policy] = &ask.policies[..] else { panic!("{ask:?}") };
    assert_eq!(of_policy.load_balancer, Some(load_balancer_arn()));
    assert_eq!(of_policy.gaining, [(cluster("green"), Some(group("green")))]);
    assert_eq!(of_policy.weights, [(cluster("blue"), weight(80)), (cluster("green"), weight(20))]);
    assert!(question(&baking.shift, 1, &policies, &cycle.seen()).is_none(), "no such gate");
    assert!(question(&shift(), 0, &policies, &cycle.seen()).is_none(), "no step is under way");
}

#[test]
fn requests_are_counted_where_all_weight_has_gone_and_compared_with_where_it_went() {
    let cycle = Cycle::new((0, 100), (0, 100));
    let shift = stepping();
    let policies = cycle.views(&shift);
    let found = departed(&shift.moves[0], &policies[&key()], &cycle.seen()).unwrap();
    let wanted = Departed { load_balancer: load_balancer_arn(), old: vec![group("blue")], new: vec![group("green")] };
    assert_eq!(found, wanted);
    let mut unknown = Cycle::new((0, 100), (0, 100));
    unknown.observed.listeners.clear();
    assert!(departed(&shift.moves[0], &policies[&key()], &unknown.seen()).is_none());
}
