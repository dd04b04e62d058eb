//! What stands in the way of a step: each rule with its numbers, the remedy, when it ends, and whether it may be crossed.

mod shift_support;

use shift_support::{Stage, at, dead, healthy, judging, record, start_time, switch, view_of, weights};
use switchyard_core::{
    fleet::Mode,
    shift::{
        Guard, State,
        guard::{Finding, Rules, facts},
        view::PolicyView,
    },
    status::{Note, Reason, TargetCounts},
};

const GREEN: &str = "policies: [{name: checkout, to: green}]\nprogressDeadlineSeconds: 60\n";
const STEPS: &str = "strategy: {steps: [{percent: 10}, {percent: 100}]}\n";

/// What a preflight of a shift to green says of a policy with these clusters and further lines in its spec.
fn preflight(shift: &str, clusters: &[(&str, u32)], extra: &str, change: impl FnOnce(&mut Stage)) -> Stage {
    let checkout = record("checkout", clusters, extra);
    let mut stage = Stage::new(&format!("{GREEN}{shift}"), &[&checkout]);
    change(&mut stage);
    stage.look();
    stage
}

const TWO: [(&str, u32); 2] = [("blue", 100), ("green", 0)];

fn only(stage: &Stage) -> Finding {
    assert_eq!(stage.shift.findings.len(), 1, "{:?}", stage.shift.findings);
    stage.shift.findings[0].clone()
}

/// The one rule that fails a preflight.
fn blocked(stage: &Stage) -> Finding {
    let finding = only(stage);
    assert_eq!((stage.state(), stage.why().as_str()), (State::Failed, "PreflightFailed"));
    assert_eq!((stage.shift.step, stage.shift.moves[0].policy == finding.policy), (None, true));
    assert_eq!(stage.asked("checkout"), "blue=100,green=0", "nothing was moved");
    assert!(stage.shift.message.contains(&finding.message), "{}", stage.shift.message);
    finding
}

#[test]
fn a_frozen_policy_is_not_moved_and_that_cannot_be_crossed() {
    let found = blocked(&preflight("", &TWO, "  safety: {freeze: true}", |_| {}));
    assert_eq!((found.guard, found.until, found.overridden), (Guard::Freeze, None, false));
    assert_eq!(
        found.message,
        "shop/checkout is frozen: nothing is written for it at AWS; set spec.safety.freeze to false"
    );
}

#[test]
fn min_active_clusters_counts_the_clusters_that_would_carry_traffic() {
    let three = [("blue", 50), ("green", 0), ("dr", 50)];
    let stage = preflight("overrides: [Capacity]\nreason: test\n", &three, "  safety: {minActiveClusters: 2}", |_| {});
    let found = &stage.shift.findings[0];
    assert_eq!((found.guard, found.until), (Guard::MinActiveClusters, None));
    let message = "shop/checkout would be served by 1 cluster, spec.safety.minActiveClusters asks for 2; leave a weight \
                   on more clusters";
    assert_eq!(found.message, message);
    assert_eq!(stage.state(), State::Failed);
}

#[test]
fn a_policy_that_is_below_the_minimum_already_may_move_as_long_as_it_falls_no_further() {
    let mut checkout = record("checkout", &[("blue", 50), ("green", 50)], "  safety: {minActiveClusters: 2}");
    checkout.weight_override = Some(weights(&TWO).into_iter().collect());
    let mut stage = Stage::new(GREEN, &[&checkout]);
    stage.look();
    assert_eq!((stage.state(), stage.asked("checkout").as_str()), (State::Stepping, "blue=0,green=100"));
}

#[test]
fn max_step_percent_judges_the_largest_change_of_a_share_in_every_step_ahead() {
    let found = blocked(&preflight("", &TWO, "  safety: {maxStepPercent: 50}", |_| {}));
    assert_eq!((found.guard, found.step), (Guard::MaxStepPercent, 0));
    let message = "shop/checkout: the share of a cluster would change by 100 percentage points at once, \
                   spec.safety.maxStepPercent allows 50; use more and smaller steps";
    assert_eq!(found.message, message);
    let found = blocked(&preflight(STEPS, &TWO, "  safety: {maxStepPercent: 50}", |_| {}));
    assert_eq!((found.guard, found.step), (Guard::MaxStepPercent, 1), "a later step is found before the first is made");
    let fits = preflight("strategy: {linear: {stepPercent: 20}}", &TWO, "  safety: {maxStepPercent: 20}", |_| {});
    assert_eq!(fits.state(), State::Stepping);
}

#[test]
fn min_step_interval_ends_when_the_last_change_is_old_enough() {
    let safety = "  safety: {minStepIntervalSeconds: 30}";
    let found = blocked(&preflight("", &TWO, safety, |stage| stage.policy("checkout").moved_at = Some(at(-29))));
    assert_eq!((found.guard, found.until), (Guard::MinStepInterval, Some(at(1))));
    assert!(
        found.message.contains("less than 30 s ago") && found.message.contains("2026-01-01T00:00:01Z"),
        "{found:?}"
    );
    let old = preflight("", &TWO, safety, |stage| stage.policy("checkout").moved_at = Some(at(-30)));
    assert_eq!(old.state(), State::Stepping);
    let never = preflight("", &TWO, safety, |stage| stage.policy("checkout").moved_at = None);
    assert_eq!(never.state(), State::Stepping);
}

#[test]
fn weights_move_only_inside_a_maintenance_window_and_the_next_one_is_named() {
    // The stage starts on Thursday, 00:00 UTC.
    let window = |from: &str| format!("  safety: {{maintenanceWindows: [{{from: '{from}', to: '06:00'}}]}}");
    let found = blocked(&preflight("", &TWO, &window("02:00"), |_| {}));
    assert_eq!((found.guard, found.until), (Guard::MaintenanceWindow, Some(at(2 * 3600))));
    assert!(found.message.ends_with("the next one starts at 2026-01-01T02:00:00Z"), "{}", found.message);
    assert_eq!(preflight("", &TWO, &window("23:00"), |_| {}).state(), State::Stepping);
}

#[test]
fn a_gating_switch_that_is_off_stops_the_policies_that_it_covers() {
    let off = |pattern: &str| {
        preflight("", &TWO, "", |stage| {
            stage.switches = vec![switch("night", pattern, false)];
            stage.switches[0].reason = "incident 7".to_owned();
        })
    };
    for pattern in ["shop/checkout", "shop/*", "*/checkout", "sh*/check*", "*/*"] {
        let found = blocked(&off(pattern));
        assert_eq!((found.guard, found.until), (Guard::GatingSwitch, None));
        let message = "gating switch night is off for shop/checkout (incident 7); turn it on first";
        assert_eq!(found.message, message);
    }
    for pattern in ["shop/cart", "other/*", "*/checkouts", "hop/checkout", "shop/checkou", "checkout"] {
        assert_eq!(off(pattern).state(), State::Stepping, "{pattern}");
    }
    let on = preflight("", &TWO, "", |stage| stage.switches = vec![switch("night", "*/*", true)]);
    assert_eq!(on.state(), State::Stepping);
}

#[test]
fn a_cluster_that_gains_needs_a_healthy_target_and_that_cannot_be_crossed() {
    let found = blocked(&preflight("", &TWO, "", |stage| stage.targets("checkout", "green", dead(4))));
    assert_eq!((found.guard, found.overridden), (Guard::HealthyTargets, false));
    assert!(found.message.starts_with("green has no target of shop/checkout that passes"), "{}", found.message);
    assert!(found.message.contains("(4 registered)"), "{}", found.message);
    // The one that loses may be as dead as can be: that is what shifts are for.
    let flight = preflight("", &TWO, "", |stage| stage.targets("checkout", "blue", dead(4)));
    assert_eq!(flight.state(), State::Stepping);
}

#[test]
fn a_preflight_waits_a_while_for_targets_that_are_being_judged() {
    let mut stage = preflight("", &TWO, "", |stage| stage.targets("checkout", "green", judging(3)));
    assert_eq!((stage.state(), stage.why().as_str()), (State::Preflight, "NotObservedYet"));
    stage.wait(59);
    stage.look();
    assert_eq!(stage.state(), State::Preflight);
    stage.wait(1);
    stage.look();
    assert_eq!(stage.state(), State::Failed);
    let mut stage = preflight("", &TWO, "", |stage| stage.targets("checkout", "green", judging(3)));
    stage.targets("checkout", "green", healthy(3));
    stage.look();
    assert_eq!(stage.state(), State::Stepping);
}

#[test]
fn declared_capacity_says_how_many_targets_a_share_needs() {
    let extra = "  capacity: {peakRequestsPerSecond: 1000, requestsPerSecondPerTarget: 300}";
    let stage = preflight("", &TWO, extra, |stage| stage.targets("checkout", "green", healthy(3)));
    let found = blocked(&stage);
    assert_eq!(found.guard, Guard::Capacity);
    let message = "green needs 4 healthy targets of shop/checkout for 100 % of 1000 requests/s at 300 each \
                   (spec.capacity) and has 3; add pods there";
    assert_eq!(found.message, message);
    let enough = preflight("", &TWO, extra, |stage| stage.targets("checkout", "green", healthy(4)));
    assert_eq!(enough.state(), State::Stepping);
    // A tenth of it needs one.
    let small = preflight(STEPS, &TWO, extra, |stage| stage.targets("checkout", "green", healthy(1)));
    assert_eq!(small.state(), State::Stepping);
}

#[test]
fn without_declared_capacity_a_target_gets_at_most_140_percent_of_what_the_busiest_one_got() {
    let with = |green| {
        preflight("", &TWO, "", |stage| {
            stage.targets("checkout", "blue", healthy(14));
            stage.targets("checkout", "green", healthy(green));
        })
    };
    assert_eq!(with(10).state(), State::Stepping);
    let found = blocked(&with(9));
    assert_eq!(found.guard, Guard::Capacity);
    assert!(
        found.message.contains("green has 9 healthy targets") && found.message.contains("so 10 are needed"),
        "{found:?}"
    );
}

#[test]
fn what_aws_refuses_cannot_be_programmed_by_another_weight_either() {
    for (reason, stops) in [(Reason::QuotaExceeded, true), (Reason::CallRefused, true), (Reason::InProgress, false)] {
        let stage = preflight("", &TWO, "", |stage| {
            let note = Note { cluster: None, reason, message: "87 of 87 rules".to_owned() };
            stage.policy("checkout").trouble = Some(note);
        });
        assert_eq!(stage.state() == State::Failed, stops, "{reason}");
        if stops {
            let found = blocked(&stage);
            assert_eq!(
                (found.guard, found.message.as_str()),
                (Guard::Quota, "shop/checkout cannot be programmed: 87 of 87 rules")
            );
        }
    }
}

#[test]
fn a_cluster_that_operators_keep_out_gains_nothing_and_that_it_has_no_targets_is_no_other_matter() {
    for (mode, words) in [
        (
            Mode::Cordoned,
            "green is cordoned, so no policy gives it new weight; bring it back first: yardctl uncordon green",
        ),
        (
            Mode::Drained,
            "green is drained, so no policy gives it new weight; bring it back first: yardctl uncordon green",
        ),
        (Mode::Returning, "green is on its way back after a drain and gains nothing else until it is there; wait"),
    ] {
        let stage = preflight("", &TWO, "", |stage| {
            stage.targets("checkout", "green", healthy(0));
            let green = stage.policy("checkout").clusters.iter_mut().find(|one| one.cluster.as_str() == "green");
            green.unwrap().mode = mode;
        });
        let found = blocked(&stage);
        assert_eq!((found.guard, found.message.as_str()), (Guard::ClusterCordoned, words));
    }
    assert!(!Guard::ClusterCordoned.overridable() && Guard::ClusterCordoned.by_will());
}

#[test]
fn a_cluster_that_is_cordoned_between_two_steps_holds_the_shift_where_it_is_until_it_is_back() {
    let mode = |stage: &mut Stage, mode: Mode| {
        let green = stage.policy("checkout").clusters.iter_mut().find(|one| one.cluster.as_str() == "green");
        green.unwrap().mode = mode;
    };
    let mut stage = between_steps("", |stage| mode(stage, Mode::Cordoned));
    for _ in 0..5 {
        assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
        stage.wait(100_000);
        stage.look();
    }
    mode(&mut stage, Mode::Active);
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn an_override_crosses_exactly_its_own_rule_and_is_kept_for_the_record() {
    let safety = "  safety: {maxStepPercent: 10, minStepIntervalSeconds: 30}";
    let early = |stage: &mut Stage| stage.policy("checkout").moved_at = Some(at(-1));
    let stage = preflight("overrides: [MaxStepPercent, MinStepInterval]\nreason: it burns\n", &TWO, safety, early);
    assert_eq!(stage.state(), State::Stepping);
    let crossed: Vec<Guard> = stage.shift.findings.iter().filter(|one| one.overridden).map(|one| one.guard).collect();
    assert_eq!(crossed, [Guard::MinStepInterval, Guard::MaxStepPercent]);
    let passed = stage.shift.history.iter().find(|event| event.why.to_string() == "PreflightPassed").unwrap();
    assert!(passed.message.starts_with("2 safety rules are crossed on purpose: "), "{}", passed.message);
    let stage = preflight("overrides: [MaxStepPercent]\nreason: it burns\n", &TWO, safety, early);
    assert_eq!(stage.state(), State::Failed);
    let open: Vec<Guard> = stage.shift.findings.iter().filter(|one| !one.overridden).map(|one| one.guard).collect();
    assert_eq!(open, [Guard::MinStepInterval]);
}

#[test]
fn every_policy_of_a_shift_must_pass_or_none_moves() {
    let (checkout, cart) = (record("checkout", &TWO, ""), record("cart", &TWO, "  safety: {freeze: true}"));
    let yaml = "policies: [{name: checkout, to: green}, {name: cart, to: green}]";
    let mut stage = Stage::new(yaml, &[&checkout, &cart]);
    stage.look();
    assert_eq!((stage.state(), stage.asked("checkout").as_str()), (State::Failed, "blue=100,green=0"));
    assert_eq!(only(&stage).policy.to_string(), "shop/cart");
}

/// A shift whose first of two steps is through.
fn between_steps(safety: &str, change: impl FnOnce(&mut Stage)) -> Stage {
    let checkout = record("checkout", &TWO, safety);
    let mut stage = Stage::new(&format!("{GREEN}{STEPS}"), &[&checkout]);
    stage.look();
    assert_eq!(stage.state(), State::Stepping);
    change(&mut stage);
    stage.settled_look();
    stage
}

#[test]
fn a_rule_that_somebody_wants_holds_the_next_step_for_as_long_as_it_takes() {
    let mut stage = between_steps("", |stage| stage.switches = vec![switch("night", "*/*", false)]);
    for _ in 0..5 {
        assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
        stage.wait(100_000);
        stage.look();
    }
    stage.switches[0].on = true;
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn a_fact_holds_the_next_step_until_the_deadline_and_then_the_shift_goes_back() {
    let mut stage = between_steps("", |stage| stage.targets("checkout", "green", judging(3)));
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
    stage.wait(59);
    assert_eq!(stage.look().again_at, Some(at(60)));
    stage.wait(1);
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Aborting, "ProgressDeadlineExceeded"));
    assert_eq!(stage.asked("checkout"), "blue=100,green=0");
}

#[test]
fn the_deadline_for_facts_starts_when_no_rule_that_somebody_wants_is_left() {
    let mut stage = between_steps("", |stage| {
        stage.targets("checkout", "green", judging(3));
        stage.switches = vec![switch("night", "*/*", false)];
    });
    stage.wait(1000);
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
    stage.switches.clear();
    stage.look();
    stage.wait(59);
    stage.look();
    assert_eq!(stage.state(), State::Baking);
    stage.wait(1);
    stage.look();
    assert_eq!(stage.state(), State::Aborting);
}

#[test]
fn the_interval_between_steps_counts_from_the_read_back_and_wakes_the_engine() {
    let mut stage = between_steps("  safety: {minStepIntervalSeconds: 30}", |stage| stage.wait(10));
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
    assert_eq!(stage.look().again_at, Some(at(40)));
    stage.wait(30);
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn a_freeze_between_steps_holds_and_what_is_not_known_waits() {
    let mut stage = between_steps("", |stage| stage.policy("checkout").frozen = true);
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "Held"));
    stage.policy("checkout").frozen = false;
    stage.policy("checkout").clusters[1].known = false;
    stage.policy("checkout").clusters[1].targets = healthy(0);
    for _ in 0..3 {
        stage.wait(1000);
        stage.look();
        assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "NotObservedYet"));
    }
    stage.policy("checkout").clusters[1].known = true;
    stage.targets("checkout", "green", healthy(3));
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn capacity_is_measured_by_the_recorded_weights_so_that_a_canary_can_come_to_its_end() {
    let view: PolicyView = view_of(&record("checkout", &[("blue", 100), ("green", 0)], ""));
    let rules = Rules {
        policy: &shift_support::key("checkout"),
        safety: &view.safety,
        frozen: false,
        moved_at: None,
        switches: &[],
        overrides: &std::collections::BTreeSet::new(),
        now: start_time(),
    };
    let (recorded, half, all) =
        (weights(&TWO), weights(&[("blue", 50), ("green", 50)]), weights(&[("blue", 0), ("green", 100)]));
    assert_eq!(facts(&rules, &view, 1, &recorded, &half, &all), []);
    // From half and half as the state of rest, all of it on the same targets is double the load.
    let found = facts(&rules, &view, 0, &half, &half, &all);
    assert_eq!(found.iter().map(|one| one.guard).collect::<Vec<_>>(), [Guard::Capacity]);
    assert!(found[0].message.contains("so 5 are needed"), "{}", found[0].message);
}

#[test]
fn the_words_of_rules_are_read_as_they_are_written() {
    for guard in Guard::ALL {
        assert_eq!(guard.to_string().parse::<Guard>().unwrap(), guard);
        let json = serde_json::to_string(&guard).unwrap();
        assert_eq!(json, format!("\"{guard}\""));
    }
    assert_eq!("Sunshine".parse::<Guard>().unwrap_err(), "\"Sunshine\" is not a safety rule");
}

#[test]
fn targets_without_a_verdict_are_waited_for_and_not_taken_for_dead() {
    let mut stage = Stage::new(
        "policies: [{name: checkout, to: green}]\n",
        &[&record("checkout", &[("blue", 100), ("green", 0)], "")],
    );
    // As they are read right before the rule uses their group.
    stage.targets("checkout", "green", TargetCounts { healthy: 0, unused: 3, ..healthy(3) });
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Preflight, "NotObservedYet"));
    stage.targets("checkout", "green", healthy(3));
    stage.look();
    assert_eq!(stage.state(), State::Stepping);
}

#[test]
fn a_cluster_that_is_missing_from_what_is_known_is_waited_for() {
    let mut stage = Stage::new(
        "policies: [{name: checkout, to: green}]\n",
        &[&record("checkout", &[("blue", 100), ("green", 0)], "")],
    );
    let known = stage.policy("checkout").clusters.clone();
    stage.policy("checkout").clusters.retain(|side| side.cluster.as_str() == "blue");
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Preflight, "NotObservedYet"));
    stage.policy("checkout").clusters = known;
    stage.look();
    assert_eq!(stage.state(), State::Stepping);
}

#[test]
fn whoever_leaves_a_sick_cluster_is_not_asked_what_its_targets_carried() {
    let half = [("blue", 50), ("green", 50)];
    let stage = preflight("", &half, "", |_| ());
    assert_eq!(stage.state(), State::Failed, "twice the load for each target");
    let stage = preflight("", &half, "", |stage| {
        stage.targets("checkout", "blue", TargetCounts { healthy: 2, initial: 1, ..healthy(3) });
        stage.targets("checkout", "green", healthy(2));
    });
    assert_eq!(stage.shift.findings.len(), 1, "a rolling update is no sickness");
    let stage = preflight("", &half, "", |stage| {
        stage.targets("checkout", "blue", TargetCounts { healthy: 2, unhealthy: 1, ..healthy(3) });
    });
    assert_eq!((stage.state(), stage.asked("checkout").as_str()), (State::Stepping, "blue=0,green=100"));
}
