//! The machine of a shift: each state's way in and out, what callers may say when, and the arithmetic of pauses and deadlines.

mod shift_support;

use shift_support::{ALICE, Stage, at, dead, healthy, key, record, uid};
use switchyard_core::{
    policy::PolicyRecord,
    shift::{
        Shift, ShiftReason, State,
        machine::{Command, Refusal, command},
        view::Evidence,
    },
    status::{Note, Reason},
};

const TWO: [(&str, u32); 2] = [("blue", 100), ("green", 0)];
const GREEN: &str = "policies: [{name: checkout, to: green}]\nprogressDeadlineSeconds: 60\n";
const CANARY: &str = "strategy: {canary: {percent: 5, bakeSeconds: 100}}\n";
const APPROVED: &str = "strategy: {canary: {percent: 5, approval: true}}\n";

/// Brings a stage to where a case begins.
type Way = fn(&mut Stage);

fn stage(shift: &str) -> Stage {
    Stage::new(&format!("{GREEN}{shift}"), &[&record("checkout", &TWO, "")])
}

/// Two policies that move together in two steps, and stand in the first.
fn pair() -> Stage {
    let records: Vec<PolicyRecord> = ["checkout", "cart"].map(|name| record(name, &TWO, "")).into();
    let yaml = format!("policies: [{{name: checkout, to: green}}, {{name: cart, to: green}}]\n{CANARY}");
    let mut stage = Stage::new(&yaml, &[&records[0], &records[1]]);
    stage.look();
    assert_eq!((stage.state(), stage.asked("cart").as_str()), (State::Stepping, "blue=95,green=5"));
    stage
}

fn told(stage: &mut Stage, what: &Command) {
    stage.say(what).unwrap();
}

fn events(shift: &Shift) -> Vec<String> {
    shift.history.iter().map(|event| format!("{} {}", event.state, event.why)).collect()
}

fn now(stage: &Stage) -> (State, String) {
    (stage.state(), stage.why())
}

fn is(state: State, why: ShiftReason) -> (State, String) {
    (state, why.to_string())
}

#[test]
fn a_flip_goes_from_pending_to_succeeded_and_each_change_of_state_is_an_event() {
    let mut stage = stage("");
    let outcome = stage.look();
    assert_eq!((outcome.writes.len(), stage.asked("checkout").as_str()), (1, "blue=0,green=100"));
    assert_eq!(stage.shift.step, Some(0));
    stage.look();
    assert_eq!((stage.state(), stage.shift.programmed), (State::Stepping, false), "asked for is not in force");
    stage.wait(3);
    stage.settled_look();
    assert_eq!((stage.state(), stage.shift.programmed, stage.shift.converged), (State::Converging, true, false));
    stage.wait(60);
    stage.converge();
    stage.look();
    assert_eq!((stage.state(), stage.shift.programmed, stage.shift.converged), (State::Succeeded, true, true));
    assert_eq!(stage.shift.ended_at, Some(at(63)));
    let expected = [
        "Pending Created",
        "Preflight PreflightStarted",
        "Preflight PreflightPassed",
        "Stepping StepRequested",
        "Baking StepProgrammed",
        "Converging Settling",
        "Succeeded Converged",
    ];
    assert_eq!(events(&stage.shift), expected);
    assert_eq!(stage.shift.history[3].message, "step 1 of 1 asks for shop/checkout blue=0,green=100");
}

#[test]
fn a_shift_to_what_is_asked_for_already_succeeds_without_a_change() {
    let mut stage = Stage::new("policies: [{name: checkout, to: blue}]", &[&record("checkout", &TWO, "")]);
    // Nothing stands in the way of nothing.
    stage.policy("checkout").safety.max_step_percent = 1;
    stage.look();
    stage.settle();
    stage.converge();
    stage.look();
    assert_eq!((stage.state(), stage.asked("checkout").as_str()), (State::Succeeded, "blue=100,green=0"));
}

#[test]
fn a_step_goes_on_only_with_what_was_read_back_of_every_policy() {
    let mut stage = pair();
    stage.settle();
    stage.policy("cart").programmed = None;
    stage.look();
    assert_eq!(stage.state(), State::Stepping, "unknown is not programmed");
    stage.policy("cart").programmed = Some(true);
    stage.policy("cart").clusters[0].programmed = Some(shift_support::weight(100));
    stage.look();
    assert_eq!(stage.state(), State::Stepping, "other weights were read back");
    stage.policy("cart").clusters[0].programmed = Some(shift_support::weight(95));
    stage.look();
    assert_eq!(stage.state(), State::Baking);
}

#[test]
fn a_bake_time_runs_from_the_read_back_and_time_in_a_pause_does_not_count() {
    let mut stage = stage(CANARY);
    stage.look();
    stage.wait(7);
    let outcome = stage.settled_look();
    assert_eq!((now(&stage), outcome.again_at), (is(State::Baking, ShiftReason::Baking), Some(at(107))));
    stage.wait(90);
    told(&mut stage, &Command::Pause);
    stage.wait(1000);
    let outcome = stage.look();
    assert_eq!((stage.state(), outcome.again_at, outcome.writes.len()), (State::Baking, None, 0));
    told(&mut stage, &Command::Resume);
    assert_eq!(stage.look().again_at, Some(at(1107)));
    stage.wait(9);
    stage.look();
    assert_eq!(stage.shift.step, Some(0));
    stage.wait(1);
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn the_deadline_of_a_step_counts_no_pause_and_no_freeze() {
    let mut stage = stage("");
    stage.look();
    stage.wait(59);
    told(&mut stage, &Command::Pause);
    stage.wait(500);
    told(&mut stage, &Command::Resume);
    stage.look();
    assert_eq!(stage.state(), State::Stepping);
    stage.policy("checkout").frozen = true;
    stage.look();
    assert_eq!(now(&stage), is(State::Stepping, ShiftReason::Held));
    stage.wait(500);
    stage.policy("checkout").frozen = false;
    assert_eq!(stage.look().again_at, Some(at(1060)));
    stage.wait(1);
    stage.look();
    assert_eq!(now(&stage), is(State::Aborting, ShiftReason::ProgressDeadlineExceeded));
    assert_eq!(stage.asked("checkout"), "blue=100,green=0");
}

#[test]
fn a_step_that_is_late_says_why_and_takes_all_policies_back() {
    let mut stage = pair();
    stage.settle();
    let note = Note { cluster: None, reason: Reason::CallRefused, message: "AWS says no".to_owned() };
    let cart = stage.policy("cart");
    (cart.programmed, cart.trouble) = (Some(false), Some(note));
    stage.wait(600);
    let outcome = stage.look();
    let message = "the step was not read back within 600 s: shop/cart: AWS says no";
    assert_eq!((stage.shift.message.as_str(), outcome.writes.len()), (message, 2));
    assert_eq!((stage.asked("checkout"), stage.asked("cart")), ("blue=100,green=0".into(), "blue=100,green=0".into()));
    stage.settled_look();
    assert_eq!(now(&stage), is(State::Failed, ShiftReason::Restored));
    assert!(stage.shift.message.contains("AWS says no"), "{}", stage.shift.message);
}

#[test]
fn a_late_step_of_which_nobody_knows_anything_is_not_taken_back_before_somebody_does() {
    let mut stage = stage("");
    stage.look();
    // The hub was away, and has not read AWS yet.
    stage.policy("checkout").programmed = None;
    stage.wait(3600);
    stage.look();
    assert_eq!(now(&stage), is(State::Stepping, ShiftReason::NotObservedYet));
    stage.settled_look();
    assert_eq!(stage.state(), State::Converging);
}

#[test]
fn approval_is_for_the_step_that_waits_and_no_other() {
    let mut stage = stage(APPROVED);
    assert_eq!(stage.say(&Command::Approve(None)), Err(Refusal::NotAwaiting(State::Pending)));
    stage.look();
    stage.settled_look();
    assert_eq!(now(&stage), is(State::AwaitingApproval, ShiftReason::ApprovalNeeded));
    let refused = stage.say(&Command::Approve(Some(1))).unwrap_err();
    assert_eq!(refused, Refusal::OtherStep { asked: 2, waits: 1 });
    assert_eq!(
        refused.to_string(),
        "step 2 is not the one that waits for approval, step 1 is; look at it before you approve it"
    );
    told(&mut stage, &Command::Approve(Some(0)));
    assert_eq!(stage.shift.history.last().unwrap().actor, "alice");
    let before = stage.shift.clone();
    told(&mut stage, &Command::Approve(Some(0)));
    assert_eq!(stage.shift, before, "said twice is said once");
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
    told(&mut stage, &Command::Approve(Some(0)));
    assert_eq!(stage.shift.approved, Some(0), "late and fulfilled");
    assert!(matches!(stage.say(&Command::Approve(Some(1))), Err(Refusal::NotAwaiting(State::Stepping))));
    assert!(matches!(stage.say(&Command::Approve(None)), Err(Refusal::NotAwaiting(State::Stepping))));
}

#[test]
fn a_step_that_was_approved_beforehand_does_not_wait() {
    let mut stage = stage(APPROVED);
    told(&mut stage, &Command::ApproveUpTo(0));
    told(&mut stage, &Command::ApproveUpTo(0));
    stage.look();
    stage.settled_look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
    assert_eq!(events(&stage.shift).iter().filter(|event| event.ends_with("Approved")).count(), 1);
}

#[test]
fn promote_skips_what_is_left_of_bake_times_gates_approvals_and_evidence() {
    let gates = "gates: [{name: errors, prometheus: {source: main, query: up}, success: '< 0.5'}]\n";
    let steps = "strategy: {steps: [{percent: 5, bakeSeconds: 99}, {percent: 50, approval: true}, {percent: 100}]}";
    let mut stage = stage(&format!("{gates}{steps}"));
    stage.look();
    stage.settled_look();
    assert_eq!(stage.state(), State::Baking);
    told(&mut stage, &Command::Pause);
    told(&mut stage, &Command::Promote);
    assert_eq!(stage.shift.pause, None, "promoted is not paused");
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(2)), "no step between is made");
    stage.policy("checkout").evidence = Evidence::Pending("7 requests".to_owned());
    stage.converge();
    stage.look();
    assert_eq!(stage.state(), State::Succeeded);
}

#[test]
fn a_promoted_shift_goes_as_far_at_once_as_max_step_percent_allows() {
    let mut stage = stage("strategy: {linear: {stepPercent: 10, bakeSeconds: 99}}");
    stage.look();
    stage.policy("checkout").safety.max_step_percent = 40;
    told(&mut stage, &Command::Promote);
    let mut made = vec![stage.asked("checkout")];
    while stage.state() != State::Converging {
        stage.settled_look();
        made.push(stage.asked("checkout"));
    }
    made.dedup();
    assert_eq!(made, ["blue=90,green=10", "blue=50,green=50", "blue=10,green=90", "blue=0,green=100"]);
}

#[test]
fn a_promoted_shift_obeys_the_other_rules_all_the_same() {
    let mut stage = stage(CANARY);
    stage.look();
    told(&mut stage, &Command::Promote);
    stage.switches = vec![shift_support::switch("night", "shop/*", false)];
    stage.settled_look();
    assert_eq!((now(&stage), stage.shift.step), (is(State::Baking, ShiftReason::Held), Some(0)));
}

#[test]
fn the_last_weights_must_settle_and_the_old_side_fall_quiet_where_that_can_be_seen() {
    let mut stage = stage("");
    stage.look();
    stage.settled_look();
    assert_eq!(now(&stage), is(State::Converging, ShiftReason::Settling));
    stage.policy("checkout").evidence = Evidence::Pending("blue still gets 7 requests".to_owned());
    stage.converge();
    stage.look();
    assert_eq!(now(&stage), is(State::Converging, ShiftReason::EvidencePending));
    assert_eq!(stage.shift.message, "shop/checkout: blue still gets 7 requests");
    // Another hand changed the rule: it is not in force any more.
    stage.policy("checkout").evidence = Evidence::Quiet;
    stage.policy("checkout").programmed = Some(false);
    stage.look();
    assert_eq!((now(&stage), stage.shift.programmed), (is(State::Converging, ShiftReason::Settling), false));
    stage.converge();
    stage.look();
    assert_eq!(stage.state(), State::Succeeded);
}

#[test]
fn an_abort_before_anything_moved_ends_at_once_and_writes_nothing() {
    let mut stage = stage("");
    assert_eq!(stage.say(&Command::Abort).unwrap(), []);
    assert_eq!((now(&stage), stage.shift.ended_at), (is(State::Aborted, ShiftReason::AbortRequested), Some(at(0))));
    assert_eq!(stage.say(&Command::Abort), Err(Refusal::Ended(State::Aborted)));
    assert!(stage.look().writes.is_empty());
}

#[test]
fn an_abort_at_each_state_asks_for_the_recorded_weights_in_one_step() {
    let ways: [(&str, Way, State); 4] = [
        (CANARY, |_| {}, State::Stepping),
        (CANARY, |stage| drop(stage.settled_look()), State::Baking),
        (APPROVED, |stage| drop(stage.settled_look()), State::AwaitingApproval),
        ("", |stage| drop(stage.settled_look()), State::Converging),
    ];
    for (strategy, way, state) in ways {
        let mut stage = stage(strategy);
        stage.look();
        way(&mut stage);
        assert_eq!(stage.state(), state);
        told(&mut stage, &Command::Pause);
        let writes = stage.say(&Command::Abort).unwrap();
        assert_eq!((writes.len(), stage.asked("checkout").as_str()), (1, "blue=100,green=0"));
        assert_eq!((stage.state(), stage.shift.pause.is_some()), (State::Aborting, false));
        assert_eq!(stage.say(&Command::Abort).unwrap(), [], "said twice is said once");
        let late = [Command::Pause, Command::Resume, Command::Approve(None), Command::Promote, Command::ApproveUpTo(3)];
        for what in late {
            assert_eq!(stage.say(&what), Err(Refusal::GoingBack), "{what:?}");
        }
        stage.look();
        assert_eq!(stage.state(), State::Aborting, "asked for is not in force");
        stage.settled_look();
        assert_eq!(now(&stage), is(State::Aborted, ShiftReason::Restored));
        assert_eq!(stage.shift.message, "the recorded weights were read back; taken back by a caller");
    }
}

#[test]
fn a_way_back_that_is_not_read_back_ends_with_the_weights_still_asked_for() {
    let mut stage = stage("");
    stage.look();
    told(&mut stage, &Command::Abort);
    stage.policy("checkout").frozen = true;
    stage.wait(59);
    stage.look();
    assert_eq!(stage.state(), State::Aborting);
    stage.wait(1);
    stage.look();
    assert_eq!(
        (now(&stage), stage.asked("checkout").as_str()),
        (is(State::Aborted, ShiftReason::RestorePending), "blue=100,green=0")
    );
}

#[test]
fn nothing_is_said_to_a_shift_that_ended() {
    let mut stage = stage("");
    told(&mut stage, &Command::Abort);
    let all = [
        Command::Pause,
        Command::Resume,
        Command::Approve(None),
        Command::ApproveUpTo(0),
        Command::Promote,
        Command::Abort,
        Command::Superseded(uid("uid-checkout")),
        Command::Deleted(uid("uid-checkout")),
    ];
    for what in all {
        let refused = command(stage.shift.clone(), &what, ALICE, at(1)).unwrap_err();
        assert_eq!(refused.to_string(), "the shift has ended (Aborted); start a new one");
    }
}

#[test]
fn a_new_spec_of_one_policy_supersedes_the_shift_and_takes_the_others_back() {
    let mut stage = pair();
    stage.settled_look();
    let writes = stage.say(&Command::Superseded(uid("uid-cart"))).unwrap();
    let written: Vec<String> = writes.iter().map(|write| write.policy.to_string()).collect();
    assert_eq!(written, ["shop/checkout"], "the policy with the new spec is not touched");
    assert_eq!(now(&stage), is(State::Aborting, ShiftReason::PolicyChanged));
    assert_eq!(
        (stage.asked("checkout").as_str(), stage.asked("cart").as_str()),
        ("blue=100,green=0", "blue=95,green=5")
    );
    stage.settled_look();
    assert_eq!(now(&stage), is(State::Superseded, ShiftReason::Restored));
    let moved = &stage.shift.moves;
    assert_eq!((moved[0].left, moved[1].left), (false, true));
}

#[test]
fn a_new_spec_before_anything_moved_ends_the_shift_at_once() {
    let mut stage = stage("");
    assert_eq!(stage.say(&Command::Superseded(uid("uid-checkout"))).unwrap(), []);
    assert_eq!(now(&stage), is(State::Superseded, ShiftReason::PolicyChanged));
    let mut other = self::stage("");
    told(&mut other, &Command::Superseded(uid("uid-of-another")));
    assert_eq!(other.state(), State::Pending, "what it does not move does not matter");
}

#[test]
fn an_aborted_shift_whose_policies_leave_one_by_one_still_ends_as_aborted() {
    let mut stage = pair();
    told(&mut stage, &Command::Abort);
    told(&mut stage, &Command::Deleted(uid("uid-cart")));
    told(&mut stage, &Command::Superseded(uid("uid-checkout")));
    stage.look();
    assert_eq!(stage.state(), State::Aborted);
    assert_eq!(stage.shift.message, "no policy is left to be taken back; taken back by a caller");
}

#[test]
fn policies_that_are_seen_to_be_gone_changed_or_others_of_that_name_leave_also_in_a_pause() {
    let ways: [(Way, ShiftReason); 4] = [
        (|stage| drop(stage.policies.remove(&key("cart"))), ShiftReason::PolicyDeleted),
        (|stage| stage.policy("cart").deleting = true, ShiftReason::PolicyDeleted),
        (|stage| stage.policy("cart").uid = uid("another"), ShiftReason::PolicyDeleted),
        (|stage| drop(stage.policy("cart").requested.pop()), ShiftReason::PolicyChanged),
    ];
    for (way, why) in ways {
        let mut stage = pair();
        told(&mut stage, &Command::Pause);
        way(&mut stage);
        let outcome = stage.look();
        assert_eq!((now(&stage), outcome.writes.len()), (is(State::Aborting, why), 1));
        assert_eq!(stage.asked("checkout"), "blue=100,green=0");
    }
}

#[test]
fn two_policies_that_are_lost_at_once_end_the_shift_with_nothing_written() {
    let mut stage = pair();
    stage.policies.clear();
    let outcome = stage.look();
    assert_eq!((stage.state(), outcome.writes.len()), (State::Superseded, 0));
    let mut before = pair();
    before.shift.history.truncate(1);
    (before.shift.state, before.shift.step) = (State::Pending, None);
    before.policies.clear();
    before.look();
    assert_eq!(events(&before.shift), ["Pending Created", "Superseded PolicyDeleted"], "it ends once");
}

#[test]
fn a_reordered_spec_is_no_other_spec() {
    let mut stage = stage("");
    stage.look();
    stage.policy("checkout").requested.reverse();
    stage.settled_look();
    assert_eq!(stage.state(), State::Converging);
}

#[test]
fn a_cluster_without_a_weight_need_not_be_in_the_rule() {
    let three = record("checkout", &[("blue", 100), ("green", 0), ("dr", 0)], "");
    let mut stage = Stage::new(GREEN, &[&three]);
    stage.look();
    stage.settle();
    stage.policy("checkout").clusters[2].programmed = None;
    stage.look();
    assert_eq!(stage.state(), State::Converging);
}

#[test]
fn a_cluster_that_lost_its_targets_takes_the_shift_back_while_the_old_side_is_healthy() {
    for settled in [true, false] {
        let mut stage = stage(CANARY);
        stage.look();
        if settled {
            stage.settled_look();
        }
        stage.targets("checkout", "green", dead(3));
        stage.look();
        assert_eq!(now(&stage), is(State::Aborting, ShiftReason::TargetsLost), "in force: {settled}");
        assert_eq!(stage.shift.message, "green has no healthy target of shop/checkout any more");
        assert_eq!(stage.asked("checkout"), "blue=100,green=0");
    }
}

#[test]
fn lost_targets_with_nowhere_to_go_change_nothing_until_somebody_is_healthy() {
    let mut stage = stage(CANARY);
    stage.look();
    stage.settled_look();
    stage.targets("checkout", "green", dead(3));
    stage.targets("checkout", "blue", dead(3));
    for _ in 0..3 {
        stage.wait(1000);
        stage.look();
        assert_eq!((now(&stage), stage.shift.step), (is(State::Baking, ShiftReason::TargetsLost), Some(0)));
    }
    stage.targets("checkout", "blue", healthy(1));
    stage.look();
    assert_eq!(stage.state(), State::Aborting);
    // Or it goes on, when the new side comes back.
    let mut stage = self::stage(CANARY);
    stage.look();
    stage.settled_look();
    stage.targets("checkout", "green", dead(3));
    stage.targets("checkout", "blue", dead(3));
    stage.look();
    stage.targets("checkout", "green", healthy(3));
    stage.wait(1000);
    stage.look();
    assert_eq!((stage.state(), stage.shift.step), (State::Stepping, Some(1)));
}

#[test]
fn one_policy_that_can_go_back_takes_all_back_although_another_has_nowhere_to_go() {
    let mut stage = pair();
    stage.settled_look();
    stage.targets("checkout", "green", dead(3));
    stage.targets("checkout", "blue", dead(3));
    stage.targets("cart", "green", dead(3));
    stage.look();
    assert_eq!((stage.state(), stage.asked("cart").as_str()), (State::Aborting, "blue=100,green=0"));
}

#[test]
fn nothing_goes_back_while_it_is_paused() {
    let mut stage = stage(CANARY);
    stage.look();
    stage.settled_look();
    told(&mut stage, &Command::Pause);
    stage.targets("checkout", "green", dead(3));
    let before = stage.shift.clone();
    stage.look();
    assert_eq!(stage.shift, before);
    told(&mut stage, &Command::Resume);
    stage.look();
    assert_eq!(stage.state(), State::Aborting);
}

#[test]
fn times_of_events_never_fall_although_a_clock_does() {
    let mut stage = stage(CANARY);
    stage.wait(100);
    stage.look();
    stage.wait(-50);
    stage.settled_look();
    let times: Vec<i64> = stage.shift.history.iter().map(|event| event.at.as_second() - at(0).as_second()).collect();
    assert_eq!(times, [0, 100, 100, 100, 100]);
}

#[test]
fn a_history_keeps_its_first_event_and_the_latest() {
    let mut stage = stage(CANARY);
    stage.look();
    for _ in 0..200 {
        told(&mut stage, &Command::Pause);
        told(&mut stage, &Command::Resume);
    }
    let events = events(&stage.shift);
    assert_eq!((events.len(), events[0].as_str()), (200, "Pending Created"));
    assert_eq!(events[199], "Stepping Resumed");
}

#[test]
fn a_shift_is_read_as_it_was_written() {
    let gates =
        "gates: [{name: errors, prometheus: {source: main, query: up}, success: '< 0.5', failure: '>= 1e300'}]\n";
    let mut stage = stage(&format!("{gates}overrides: [Capacity]\nreason: why\n{CANARY}"));
    let same = |stage: &Stage| {
        let text = serde_json::to_string(&stage.shift).unwrap();
        assert_eq!(serde_json::from_str::<Shift>(&text).unwrap(), stage.shift, "{text}");
    };
    same(&stage);
    stage.look();
    same(&stage);
    stage.settled_look();
    told(&mut stage, &Command::Pause);
    same(&stage);
    told(&mut stage, &Command::Abort);
    stage.settled_look();
    same(&stage);
}

#[test]
fn a_step_is_made_only_from_where_the_shift_is() {
    let mut stage = stage(CANARY);
    stage.look();
    stage.settled_look();
    stage.wait(100);
    // Another hand changed the rule while the step baked.
    stage.policy("checkout").programmed = Some(false);
    assert_eq!(stage.look().writes, []);
    assert_eq!(now(&stage), is(State::Baking, ShiftReason::Held));
    stage.settled_look();
    assert_eq!((stage.state(), stage.asked("checkout").as_str()), (State::Stepping, "blue=0,green=100"));
}

#[test]
fn evidence_that_cannot_be_had_is_waited_for_with_a_bound_and_said_to_be_missing() {
    let mut stage = stage("");
    stage.look();
    stage.settled_look();
    stage.converge();
    stage.policy("checkout").evidence = Evidence::NoData("nothing was counted".to_owned());
    stage.look();
    assert_eq!(now(&stage), is(State::Converging, ShiftReason::EvidencePending));
    // Requests that are seen are waited for without end, and the bound begins anew after them.
    stage.wait(200);
    stage.policy("checkout").evidence = Evidence::Pending("40 requests".to_owned());
    stage.look();
    stage.wait(10_000);
    stage.look();
    assert_eq!(stage.state(), State::Converging);
    stage.policy("checkout").evidence = Evidence::NoData("nothing was counted".to_owned());
    let again_at = stage.look().again_at;
    assert_eq!(again_at, Some(at(10_500)), "five minutes later");
    stage.wait(300);
    stage.look();
    assert_eq!(stage.state(), State::Succeeded);
    assert!(stage.shift.message.contains("nothing was counted"), "{}", stage.shift.message);
}
