//! The pages of shifts, switches and the audit log, for the states that an operator meets. The docs show the same pages.

use super::*;
use crate::model::{
    Plan, PolicyRef,
    fixtures::{self, later},
    shift::{GateStatus, Pause, ShiftResource},
};

const BARE: Paint = Paint { colored: false };
const DOCS: &str = include_str!("../../../docs/yardctl.md");

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn reference() -> PolicyRef {
    PolicyRef { namespace: "shop".into(), name: "checkout".into() }
}

fn held() -> Finding {
    Finding {
        guard: "MaxStepPercent".into(),
        policy: reference(),
        step: 3,
        message: "shop/checkout: the share of a cluster would change by 50 percentage points at once, \
                  spec.safety.maxStepPercent allows 40; use more and smaller steps"
            .into(),
        overridable: true,
        ..Finding::default()
    }
}

/// In the second step, whose gate has measured twice.
fn baking() -> Shift {
    let mut shift = fixtures::shift(State::Pending, 0);
    for (state, step, reason, message) in [
        (State::Stepping, 1, "StepRequested", "step 1 of 3 asks for shop/checkout blue=75,green=25"),
        (State::Baking, 1, "StepProgrammed", "the weights of step 1 were read back"),
        (State::Stepping, 2, "StepRequested", "step 2 of 3 asks for shop/checkout blue=50,green=50"),
        (State::Baking, 2, "StepProgrammed", "the weights of step 2 were read back"),
    ] {
        shift = later(&shift, state, step, reason, message);
    }
    shift.status.reason = "GatesRunning".into();
    shift.status.message = "gate errors: 2 of 4 measurements succeeded".into();
    shift.status.until = Some("2026-01-02T03:05:00Z".parse().unwrap());
    shift.status.gates = vec![GateStatus {
        name: "errors".into(),
        phase: Phase::Running,
        succeeded: 2,
        message: "0.002 < 0.01 is a success".into(),
        measured_at: Some("2026-01-02T03:04:00Z".parse().unwrap()),
        value: Some(0.002),
        ..GateStatus::default()
    }];
    shift.status.notes = vec![Note {
        policy: reference(),
        cluster: "blue".into(),
        reason: "OpenStreams".into(),
        message: "WebSockets and requests under way stay with blue until they end; close them there".into(),
    }];
    shift
}

#[test]
fn the_page_of_a_shift_shows_how_far_it_is_and_what_it_waits_for() {
    let page = shift(&baking(), BARE, now());
    let expected = "\
shift 019b0c3e-7c00-7000-8000-000000000001  Baking 2/3 (50%): gate errors: 2 of 4 measurements succeeded (GatesRunning)
  reason         release 42
  by             deployer
  made           2026-01-02T03:00:00Z (4m05s ago)
  in this state  2026-01-02T03:00:00Z (4m05s ago)
  programmed     yes, converged no
  goes on at     2026-01-02T03:05:00Z

POLICY         FROM              TO                ASKED NOW         AT LB
shop/checkout  blue=100,green=0  blue=0,green=100  blue=50,green=50  blue=50,green=50

STEP  PERCENT   BAKE  APPROVAL  GATES
1          25  2m00s  -         errors
2 <        50  2m00s  -         errors
3         100      -  -         errors

GATE    PHASE    SUCCEEDED  FAILED  NO DATA  VALUE  MEASURED  MESSAGE
errors  Running          2       0        0  0.002  5s ago    0.002 < 0.01 is a success

WORTH KNOWING
  shop/checkout blue: OpenStreams: WebSockets and requests under way stay with blue until they end; close them there

HAPPENED AT           STATE     STEP  REASON          BY        MESSAGE
2026-01-02T03:00:00Z  Pending      -  Created         deployer  asked for
2026-01-02T03:00:01Z  Stepping     1  StepRequested   -         step 1 of 3 asks for shop/checkout blue=75,green=25
2026-01-02T03:00:02Z  Baking       1  StepProgrammed  -         the weights of step 1 were read back
2026-01-02T03:00:03Z  Stepping     2  StepRequested   -         step 2 of 3 asks for shop/checkout blue=50,green=50
2026-01-02T03:00:04Z  Baking       2  StepProgrammed  -         the weights of step 2 were read back
";
    assert_eq!(page, expected, "\n{page}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows another page than the program");
}

#[test]
fn the_page_of_a_held_shift_names_each_finding_and_what_can_be_done_about_it() {
    let mut held_up = baking();
    held_up.status.findings = vec![held(), Finding { guard: "Freeze".into(), overridable: false, ..held() }];
    held_up.status.paused = Some(Pause { since: Some(now()), actor: "carol".into(), reason: "lunch".into() });
    let page = shift(&held_up, BARE, now());
    for part in [
        "Baking 2/3 (50%) PAUSED: ",
        "PAUSED         by carol since 2026-01-02T03:04:05Z (0s ago): lunch",
        "IN THE WAY\n  MaxStepPercent of shop/checkout, step 3\n    problem: shop/checkout: the share",
        "`yardctl abort shop/checkout` and ask for it again with --override MaxStepPercent --reason TEXT",
        "remedy:  cannot be overridden",
    ] {
        assert!(page.contains(part), "{page} lacks {part}");
    }
}

#[test]
fn the_page_says_what_is_taken_back_and_which_resource_asked() {
    let mut of = baking();
    of.rollback_of = "old-id".into();
    of.spec.overrides = vec!["Capacity".into()];
    of.resource = Some(ShiftResource {
        cluster: "blue".into(),
        namespace: "shop".into(),
        name: "release-42".into(),
        uid: "u".into(),
    });
    let page = shift(&of, BARE, now());
    for part in ["takes back     shift old-id", "overrides      Capacity", "shop/release-42 in cluster blue (kubectl)"]
    {
        assert!(page.contains(part), "{page} lacks {part}");
    }
}

#[test]
fn the_history_is_a_table_with_the_newest_first_as_the_hub_gave_it() {
    let mut done = later(&fixtures::shift(State::Pending, 0), State::Succeeded, 3, "Converged", "in force");
    done.status.ended_at = Some("2026-01-02T03:04:00Z".parse().unwrap());
    let text = history(&[baking(), done], BARE, now());
    let expected = "\
ID                                    POLICIES       STATE      STEP  FROM              TO                REASON        BY        AGE    TOOK
019b0c3e-7c00-7000-8000-000000000001  shop/checkout  Baking     2/3   blue=100,green=0  blue=0,green=100  GatesRunning  deployer  4m05s  -
019b0c3e-7c00-7000-8000-000000000001  shop/checkout  Succeeded  3/3   blue=100,green=0  blue=0,green=100  Converged     deployer  4m05s  4m00s
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows another table than the program");
    assert_eq!(history(&[], BARE, now()), "No shifts.\n");
}

#[test]
fn of_a_shift_that_went_back_the_first_word_is_why_it_turned() {
    let turned = later(&baking(), State::Aborting, 2, "GateFailed", "gate errors failed");
    assert_eq!(turned.why(), "GateFailed");
    let back = later(&turned, State::Failed, 2, "Restored", "the recorded weights were read back");
    assert_eq!(back.why(), "GateFailed, then Restored");
    for text in [history(std::slice::from_ref(&back), BARE, now()), shift_line(&back), shift(&back, BARE, now())] {
        assert!(text.contains("GateFailed, then Restored"), "{text}");
    }
    let refused = later(&fixtures::shift(State::Pending, 0), State::Failed, 0, "PreflightFailed", "no target");
    assert_eq!(refused.why(), "PreflightFailed");
}

#[test]
fn a_dry_run_shows_the_steps_their_calls_and_what_stands_in_the_way() {
    let call = |summary: &str| crate::model::Step {
        policy: reference(),
        operation: "ModifyRule".into(),
        summary: summary.into(),
        reason: "weights differ from what is wanted".into(),
    };
    let plan = |step, percent, summary| StepPlan {
        step,
        percent,
        plan: Some(Plan { steps: vec![call(summary)], notes: vec![], made_at: None }),
    };
    let plans = [
        plan(1, 25, "change rule: weights sy-checkout-blue-4758d4ca=75 sy-checkout-green-618be120=25"),
        plan(2, 50, "change rule: weights sy-checkout-blue-4758d4ca=50 sy-checkout-green-618be120=50"),
        plan(3, 100, "change rule: weights sy-checkout-blue-4758d4ca=0 sy-checkout-green-618be120=100"),
    ];
    let text = dry_run(Some(&fixtures::shift(State::Pending, 0)), &[held()], &plans, &baking().status.notes, BARE);
    let expected = "\
Dry run: nothing was changed.

POLICY         FROM              TO
shop/checkout  blue=100,green=0  blue=0,green=100

STEP  PERCENT   BAKE  APPROVAL  GATES
1          25  2m00s  -         errors
2          50  2m00s  -         errors
3         100      -  -         errors

STEP 1 (25%)
STEP  POLICY         OPERATION   WHAT                                                                             WHY
   1  shop/checkout  ModifyRule  change rule: weights sy-checkout-blue-4758d4ca=75 sy-checkout-green-618be120=25  weights differ from what is wanted

STEP 2 (50%)
STEP  POLICY         OPERATION   WHAT                                                                             WHY
   1  shop/checkout  ModifyRule  change rule: weights sy-checkout-blue-4758d4ca=50 sy-checkout-green-618be120=50  weights differ from what is wanted

STEP 3 (100%)
STEP  POLICY         OPERATION   WHAT                                                                             WHY
   1  shop/checkout  ModifyRule  change rule: weights sy-checkout-blue-4758d4ca=0 sy-checkout-green-618be120=100  weights differ from what is wanted

IN THE WAY
  MaxStepPercent of shop/checkout, step 3
    problem: shop/checkout: the share of a cluster would change by 50 percentage points at once, spec.safety.maxStepPercent allows 40; use more and smaller steps
    remedy:  add --override MaxStepPercent --reason TEXT to cross it, if you have the right to

WORTH KNOWING
  shop/checkout blue: OpenStreams: WebSockets and requests under way stay with blue until they end; close them there
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows another page than the program");
    let free = dry_run(None, &[], &[], &[], BARE);
    assert_eq!(free, "Dry run: nothing was changed.\n\nNothing stands in the way.\n");
}

#[test]
fn a_switch_says_what_it_does_to_which_policies() {
    let off = GatingSwitch {
        name: "freeze-shop".into(),
        policies: vec!["shop/*".into(), "*/checkout".into()],
        on: false,
        reason: "incident 4711".into(),
        actor: "carol".into(),
        changed_at: Some("2026-01-02T03:00:00Z".parse().unwrap()),
        version: 3,
    };
    let line = "gating switch freeze-shop is OFF: weights of shop/*, */checkout do not move (version 3)\n";
    assert_eq!(switch_line(&off), line);
    assert!(
        switch_line(&GatingSwitch { on: true, ..off.clone() }).contains("is on: weights of shop/*, */checkout may")
    );
    let text = switches(&[off], BARE, now());
    let expected = "\
NAME         STATE  POLICIES           VERSION  CHANGED  BY     REASON
freeze-shop  OFF    shop/*,*/checkout        3  4m05s    carol  incident 4711
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(line) && DOCS.contains(expected), "docs/yardctl.md shows another table than the program");
}

#[test]
fn nothing_of_another_machine_reaches_the_terminal_as_an_escape_sequence() {
    let mut evil = baking();
    evil.status.message = "a\u{1b}[2Jb\nc".into();
    evil.spec.reason = "x\u{1b}]0;y".into();
    evil.status.history[0].message = "\u{1b}[31m".into();
    evil.status.findings = vec![Finding { message: "\u{1b}[1m".into(), guard: "\u{7}".into(), ..held() }];
    for text in [shift(&evil, BARE, now()), shift_line(&evil), history(&[evil.clone()], BARE, now())] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}
