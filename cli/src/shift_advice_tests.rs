//! What people are told about a shift, for each way in which it can be other than they expect.

use super::*;
use crate::model::{
    fixtures::{self, SHIFT, later},
    shift::Pause,
};

fn in_state(state: State, step: u32, reason: &str, message: &str) -> Shift {
    later(&fixtures::shift(State::Pending, 0), state, step, reason, message)
}

/// As the hub says it of a policy that it does not touch.
const HELD: &str = "shop/checkout: spec.safety.freeze is set: 1 call at AWS is not made; unset it to go on";

#[test]
fn a_wait_that_ran_out_says_what_helps_in_the_state_in_which_the_shift_is() {
    let of = |shift: &Shift| unfinished(SHIFT, Some(shift));
    let on = of(&in_state(State::Baking, 1, "Baking", "bakes"));
    assert!(on.starts_with("the shift goes on by itself") && on.contains(&format!("yardctl abort {SHIFT}")), "{on}");
    assert_eq!(unfinished(SHIFT, None), on);
    let approval = of(&in_state(State::AwaitingApproval, 2, "ApprovalNeeded", "step 2 waits"));
    assert!(approval.contains(&format!("yardctl approve {SHIFT} --step 2")), "{approval}");
    let evidence = of(&in_state(State::Converging, 3, "EvidencePending", "CloudWatch has no request counts"));
    assert!(
        evidence.contains(&format!("yardctl promote {SHIFT}")) && !evidence.contains("yardctl abort"),
        "{evidence}"
    );
    let no_data = of(&in_state(State::Baking, 1, "NoData", "no series"));
    assert!(no_data.contains(&format!("yardctl promote {SHIFT}")) && no_data.contains("yardctl abort"), "{no_data}");
    let mut paused = in_state(State::Baking, 1, "Baking", "bakes");
    paused.status.paused = Some(Pause::default());
    assert!(of(&paused).contains(&format!("yardctl resume {SHIFT}")), "{}", of(&paused));
}

#[test]
fn a_shift_that_is_being_taken_back_is_not_to_be_aborted_again() {
    let back = in_state(State::Aborting, 1, "AbortRequested", "taken back by a caller");
    let said = unfinished(SHIFT, Some(&back));
    assert!(!said.contains("yardctl abort") && said.contains("on its way back"), "{said}");
    assert!(
        said.contains("`yardctl status shop/checkout`") && said.contains(&format!("yardctl watch {SHIFT}")),
        "{said}"
    );
    let frozen = unfinished(SHIFT, Some(&in_state(State::Aborting, 1, "AbortRequested", HELD)));
    assert!(frozen.starts_with("nothing moves while spec.safety.freeze is set, not back either"), "{frozen}");
}

#[test]
fn every_other_end_of_a_shift_has_words_of_its_own() {
    let of = |state, reason, message| ended(&in_state(state, 1, reason, message));
    assert!(of(State::Failed, "PreflightFailed", "").starts_with("nothing was moved"));
    let pending = of(State::Failed, "RestorePending", "not read back");
    assert!(pending.contains("not read back yet") && pending.contains("`yardctl status shop/checkout`"), "{pending}");
    assert!(of(State::Aborted, "RestorePending", HELD).contains("apply the policy without it"));
    assert!(of(State::Failed, "Restored", "").contains("those from before"));
    assert!(of(State::Aborted, "Restored", "").contains("those from before"));
    assert!(of(State::Superseded, "PolicyChanged", "").contains("yardctl audit"));
}

#[test]
fn the_hub_names_the_freeze_in_the_words_that_are_looked_for() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/src/plan/region.rs");
    assert!(std::fs::read_to_string(path).unwrap().contains(&format!("{FREEZE} is set")));
}

#[test]
fn a_second_abort_is_told_how_the_shift_ended_unless_it_succeeded_or_goes_on() {
    let of = |state, reason| back_already(&in_state(state, 1, reason, ""));
    for (state, reason, said) in [
        (State::Aborted, "Restored", "the weights are those from before the shift"),
        (State::Failed, "PreflightFailed", "nothing was moved"),
        (State::Failed, "Restored", "the weights are those from before the shift"),
        (State::Aborted, "RestorePending", "were not read back yet"),
        (State::Superseded, "PolicyChanged", "the policy's spec decides"),
    ] {
        let told = of(state, reason).unwrap();
        assert!(told.contains(&format!("has ended already, {state} ({reason})")) && told.contains(said), "{told}");
    }
    for state in [State::Succeeded, State::Aborting, State::Baking, State::Unspecified] {
        assert_eq!(of(state, "x"), None, "{state}");
    }
}

#[test]
fn the_running_shift_is_told_from_a_new_one_by_who_turned_it_back() {
    let aborted = in_state(State::Aborted, 1, "AbortRequested", "taken back by a caller");
    assert!(turned_back(&aborted));
    assert!(turned_back(&in_state(State::Aborting, 1, "GateFailed", "gate errors failed")));
    let new = |shift: Shift| Shift { rollback_of: "old".into(), ..shift };
    assert!(!turned_back(&new(fixtures::shift(State::Pending, 0))));
    assert!(!turned_back(&fixtures::shift(State::Pending, 0)), "a late rollback is a call like any other");
    assert!(!turned_back(&new(in_state(State::Succeeded, 3, "Converged", ""))), "the same request again");
    assert!(!turned_back(&new(in_state(State::Failed, 0, "PreflightFailed", ""))), "the same request again");
    assert!(turned_back(&new(aborted)), "a running rollback that was taken back");
}

fn rollback(id: &str, of: &Shift, to: &Weights) -> Shift {
    let mut back = fixtures::shift(State::Pending, 0);
    back.id = id.into();
    back.rollback_of.clone_from(&of.id);
    back.status.moves[0].from = of.status.moves[0].to.clone();
    back.status.moves[0].to = to.clone();
    back
}

#[test]
fn a_rollback_that_goes_forward_or_nowhere_is_said_and_an_ordinary_one_is_not() {
    let release = fixtures::shift(State::Succeeded, 3);
    let (blue, green) = (Weights::from([("blue".to_owned(), 100)]), release.status.moves[0].to.clone());
    let back = rollback("back", &release, &blue);
    assert_eq!(of_rollback(&back, &release), Vec::<String>::new());

    let again = of_rollback(&rollback("again", &back, &green), &back);
    let expected = format!(
        "shift back, which is taken back now, was itself taking back shift {SHIFT}: this way leads forward again, to \
         shop/checkout blue=0,green=100"
    );
    assert_eq!(again, [expected]);

    let mut twice = back.clone();
    twice.id = "twice".into();
    twice.status.moves[0].from = [("blue".to_owned(), 100), ("green".to_owned(), 0)].into();
    let said = of_rollback(&twice, &release);
    assert!(said.len() == 1 && said[0].starts_with("nothing is left to take back"), "{said:?}");

    let mut nothing = release.clone();
    nothing.status.moves[0].from = green.clone();
    let said = of_rollback(&rollback("nowhere", &nothing, &green), &nothing);
    assert!(said.len() == 1 && said[0].contains("moved nothing itself"), "{said:?}");
}

#[test]
fn what_cannot_be_taken_back_as_a_whole_can_be_moved_by_hand() {
    let mut shift = fixtures::shift(State::Succeeded, 3);
    let mut cart = shift.status.moves[0].clone();
    cart.policy.name = "cart".into();
    cart.from = [("blue".to_owned(), 60), ("red".to_owned(), 40)].into();
    shift.status.moves.push(cart.clone());
    let all = by_hand(&shift, None).unwrap();
    let flips = "`yardctl flip shop/checkout --weights blue=100`, `yardctl flip shop/cart --weights blue=60,red=40`";
    assert!(all.ends_with(flips) && all.contains(SHIFT), "{all}");
    let one = by_hand(&shift, Some(&cart.policy)).unwrap();
    assert!(one.contains("shop/cart") && !one.contains("shop/checkout"), "{one}");
    shift.status.moves.clear();
    assert_eq!(by_hand(&shift, None), None);
}

#[test]
fn the_abort_of_a_running_rollback_is_said_to_go_forward() {
    let release = fixtures::shift(State::Succeeded, 3);
    let back = rollback("back", &release, &[("blue".to_owned(), 100)].into());
    let said = of_rollback(&back, &back);
    let part = format!("shift back, which goes back now, was itself taking back shift {SHIFT}");
    assert!(said.len() == 1 && said[0].contains(&part) && said[0].ends_with("blue=0,green=100"), "{said:?}");
    assert_eq!(of_rollback(&release, &release), Vec::<String>::new());
}
