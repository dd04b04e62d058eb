//! Policies for the tests of the modules that decide and render.

use super::*;

fn condition(kind: &str, status: Truth, reason: &str, message: &str, version: u64) -> Condition {
    Condition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
        observed_version: version,
        last_transition_time: Some("2026-01-02T03:00:00Z".parse().unwrap()),
    }
}

/// What the hub says of pods that stopped being ready while their group carries weight.
pub const REMOVALS_HELD: &str = "1 of 2 targets of blue are held: 1 because the pod is not ready. The group carries weight and \
    keeps at least 2 targets (deregistrationBudgetPercent 50 of 3). If they are meant to go, set \
    the weight of blue to 0 first, or raise spec.safety.deregistrationBudgetPercent";

/// What the hub says of a cluster whose agent is away.
pub const CLUSTER_STALE: &str =
    "the agent of green is away: its targets are frozen, the load balancer's health checks decide";

/// shop/checkout asked to move from blue to green, as the hub shows it while green has no pod to send to and no agent, and
/// blue has lost pods: the change of weights waits, removals are held. Reasons and messages are those of the hub.
pub fn policy(version: u64) -> Policy {
    let reference = PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    let waits = "the change of weights waits as a whole for green";
    let stored = format!("version {version} is stored");
    let conditions = vec![
        condition("Accepted", Truth::True, "AsRequested", &stored, version),
        condition("ResolvedRefs", Truth::True, "AsRequested", "listener, clusters and Services were found", version),
        condition("Programmed", Truth::False, "WeightsHeld", waits, version),
        condition("Converged", Truth::False, "WeightsHeld", waits, version),
    ];
    let blue = ClusterStatus {
        cluster: "blue".into(),
        requested_weight: 90,
        effective_weight: 100,
        programmed_weight: Some(100),
        reason: "WeightsHeld".into(),
        message: waits.into(),
        targets: TargetCounts {
            desired: 1,
            registered: 2,
            healthy: 2,
            draining: 1,
            held: 1,
            ..TargetCounts::default()
        },
        target_group_arn: "arn:tg/blue".into(),
        link: Link::Connected,
    };
    let green = ClusterStatus {
        cluster: "green".into(),
        requested_weight: 10,
        programmed_weight: Some(0),
        reason: "NoTargets".into(),
        message: "green has no registered target; give it ready pods, or set its weight to 0 to go on without it"
            .into(),
        targets: TargetCounts { draining: 3, ..TargetCounts::default() },
        target_group_arn: "arn:tg/green".into(),
        link: Link::Stale,
        ..ClusterStatus::default()
    };
    let note = |cluster: &str, reason: &str, message: &str| Note {
        policy: reference.clone(),
        cluster: cluster.into(),
        reason: reason.into(),
        message: message.into(),
    };
    let notes = vec![note("blue", "RemovalsHeld", REMOVALS_HELD), note("green", "ClusterStale", CLUSTER_STALE)];
    Policy {
        reference: reference.clone(),
        uid: "u-1".into(),
        version,
        generation: 3,
        spec: serde_json::json!({
            "listener": {"loadBalancer": "shared-public", "port": 443},
            "match": {"hostnames": ["shop.example.com"], "paths": [{"type": "Prefix", "value": "/checkout"}]},
            "backend": {"service": {"name": "checkout", "port": "http"}},
        }),
        created_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        updated_at: Some("2026-01-02T03:00:00Z".parse().unwrap()),
        deleting_since: None,
        owner: Some(Owner { kind: OwnerKind::Api, ..Owner::default() }),
        status: PolicyStatus {
            observed_version: version,
            conditions,
            clusters: vec![blue, green],
            rule: Some(RuleStatus {
                listener_arn: "arn:listener/1".into(),
                rule_arn: "arn:rule/1".into(),
                priority: 100,
                programmed_at: Some("2026-01-02T02:00:00Z".parse().unwrap()),
            }),
            notes,
            updated_at: Some("2026-01-02T03:04:00Z".parse().unwrap()),
        },
    }
}

/// The id of the shift of the fixtures.
pub const SHIFT: &str = "019b0c3e-7c00-7000-8000-000000000001";

/// What happened in a shift; `seconds` after it was made.
pub fn event(seconds: i8, state: State, step: u32, reason: &str, message: &str) -> shift::ShiftEvent {
    let at: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
    shift::ShiftEvent {
        at: Some(at + jiff::SignedDuration::from_secs(seconds.into())),
        state,
        step,
        reason: reason.into(),
        message: message.into(),
        actor: String::new(),
    }
}

/// shop/checkout on its way from blue to green in steps of 25, 50 and 100 percent, in this state and step.
pub fn shift(state: State, step: u32) -> Shift {
    let weights = |blue, green| shift::Weights::from([("blue".to_owned(), blue), ("green".to_owned(), green)]);
    let percents = [25, 50, 100];
    let percent = usize::try_from(step).unwrap().checked_sub(1).map_or(0, |index| percents[index]);
    let present = weights(100 - percent, percent);
    let steps = percents.iter().map(|percent| shift_spec::Step {
        percent: *percent,
        bake_seconds: if *percent < 100 { 120 } else { 0 },
        ..shift_spec::Step::default()
    });
    let gate = shift_spec::Gate {
        name: "errors".into(),
        prometheus: Some(shift_spec::Prometheus { source: "main".into(), query: "errors".into() }),
        success: "< 0.01".into(),
        interval_seconds: 30,
        count: 4,
        ..shift_spec::Gate::default()
    };
    let created = shift::ShiftEvent { actor: "deployer".into(), ..event(0, State::Pending, 0, "Created", "asked for") };
    Shift {
        id: SHIFT.into(),
        version: 1,
        spec: shift_spec::ShiftSpec {
            policies: vec![shift_spec::PolicyTarget {
                namespace: "shop".into(),
                name: "checkout".into(),
                to: Some("green".into()),
                ..shift_spec::PolicyTarget::default()
            }],
            strategy: shift_spec::Strategy { steps: steps.collect(), ..shift_spec::Strategy::default() },
            gates: vec![gate],
            reason: "release 42".into(),
            progress_deadline_seconds: 600,
            ..shift_spec::ShiftSpec::default()
        },
        status: shift::ShiftStatus {
            state,
            step,
            steps: 3,
            reason: "Created".into(),
            message: "asked for".into(),
            since: Some("2026-01-02T03:00:00Z".parse().unwrap()),
            moves: vec![shift::Move {
                policy: PolicyRef { namespace: "shop".into(), name: "checkout".into() },
                from: weights(100, 0),
                to: weights(0, 100),
                programmed: Some(present.clone()),
                present,
            }],
            history: vec![created],
            ..shift::ShiftStatus::default()
        },
        actor: "deployer".into(),
        created_at: Some("2026-01-02T03:00:00Z".parse().unwrap()),
        ..Shift::default()
    }
}

/// The same shift later: another version, where it is and why, and one more event.
pub fn later(before: &Shift, state: State, step: u32, reason: &str, message: &str) -> Shift {
    let mut now = Shift { version: before.version + 1, ..shift(state, step) };
    now.status.history.clone_from(&before.status.history);
    let seconds = i8::try_from(now.status.history.len()).unwrap();
    now.status.history.push(event(seconds, state, step, reason, message));
    now.status.reason = reason.into();
    now.status.message = message.into();
    now.status.programmed = matches!(state, State::Baking | State::Converging | State::Succeeded);
    now
}
