//! Calls about a shift, and what looks at them, as a process: pause to abort, watch, history, get, audit, switch, status.

use crate::support::{Answer, Hub, SHIFT, Script, ShiftBeat, beat, policy, queue, shift};
use switchyard_proto::api::v1::{self as pb, ShiftState};
use tonic::Status;

fn acted(shift: pb::Shift) -> Script {
    Script { act: queue([Answer::Ok(shift)]), ..Script::default() }
}

fn listed(shifts: Vec<pb::Shift>) -> Answer<pb::ListShiftsResponse> {
    Answer::Ok(pb::ListShiftsResponse { shifts, next_page_token: String::new() })
}

fn baking() -> pb::Shift {
    shift(3, ShiftState::Baking, 1, "Baking")
}

#[tokio::test]
async fn each_call_is_made_on_the_shift_that_was_named() {
    for (command, step) in
        [("pause", 0), ("resume", 0), ("approve", 0), ("approve --step 2", 2), ("promote", 0), ("abort", 0)]
    {
        let hub = Hub::start(acted(baking())).await;
        let ran = hub.yardctl(&format!("{command} {SHIFT} --reason because --request-id r-1")).await;
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        let expected = format!("shift {SHIFT} of shop/checkout: Baking 1/2 (25%): message of version 3 (Baking)\n");
        assert_eq!(ran.out, expected, "{command}");
        let seen = hub.seen.act.lock().unwrap();
        let request =
            pb::ApproveShiftRequest { request_id: "r-1".into(), id: SHIFT.into(), step, reason: "because".into() };
        let word = command.split(' ').next().unwrap();
        assert_eq!(seen.iter().map(|(what, request)| (*what, request)).collect::<Vec<_>>(), [(word, &request)]);
    }
}

#[tokio::test]
async fn a_policy_means_the_shift_that_moves_it_now() {
    let script = Script { shifts: queue([listed(vec![baking()])]), ..acted(baking()) };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl("pause -n shop checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let list = hub.seen.shifts.lock().unwrap();
    let named = pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() };
    assert!(list[0].active && list[0].policy == Some(named), "{list:?}");
    assert_eq!(hub.seen.act.lock().unwrap()[0].1.id, SHIFT);
}

#[tokio::test]
async fn a_policy_that_no_shift_moves_is_told_so_and_nothing_is_called() {
    let hub = Hub::start(Script { shifts: queue([listed(vec![])]), ..Script::default() }).await;
    let ran = hub.yardctl("abort shop/checkout").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("cannot abort the shift of shop/checkout: no shift moves shop/checkout now"), "{ran:?}");
    assert!(ran.err.contains("yardctl history shop/checkout"), "{ran:?}");
    assert!(hub.seen.act.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_abort_waits_until_the_weights_from_before_are_back() {
    let script = Script {
        watch_shift: queue([Answer::Ok(vec![beat(shift(5, ShiftState::Aborted, 1, "Restored"))])]),
        ..acted(shift(4, ShiftState::Aborting, 1, "AbortRequested"))
    };
    let hub = Hub::start(script).await;
    let ran = hub.yardctl(&format!("abort {SHIFT} --wait")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("(Restored); restored reached\n"), "{ran:?}");
}

#[tokio::test]
async fn an_abort_whose_weights_were_not_read_back_fails() {
    let script = Script {
        watch_shift: queue([Answer::Ok(vec![beat(shift(5, ShiftState::Aborted, 1, "RestorePending"))])]),
        ..acted(shift(4, ShiftState::Aborting, 1, "AbortRequested"))
    };
    let ran = Hub::start(script).await.yardctl(&format!("abort {SHIFT} --wait")).await;
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.err.contains("were not read back yet"), "{ran:?}");
}

fn got(shift: pb::Shift) -> Answer<pb::GetShiftResponse> {
    Answer::Ok(pb::GetShiftResponse { shift: Some(shift) })
}

/// An abort that the hub refuses since the shift is in this state, from this step on, for this reason.
fn too_late(state: ShiftState, step: u32, reason: &str) -> Script {
    let refusal =
        Status::failed_precondition(format!("shift {SHIFT}: the shift has ended ({state:?}); start a new one"));
    Script {
        act: queue([Answer::Refuse(refusal)]),
        get_shift: queue([got(shift(5, state, step, reason))]),
        ..Script::default()
    }
}

#[tokio::test]
async fn an_abort_that_is_repeated_after_its_end_ends_as_the_first_one_did() {
    for (state, reason, said) in [
        (ShiftState::Aborted, "Restored", "the weights are those from before the shift"),
        (ShiftState::Failed, "PreflightFailed", "nothing was moved"),
        (ShiftState::Superseded, "PolicyChanged", "the policy's spec decides about the weights now"),
    ] {
        let hub = Hub::start(too_late(state, 1, reason)).await;
        let ran = hub.yardctl(&format!("abort {SHIFT}")).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains(&format!("shift {SHIFT} has ended already, {state:?} ({reason})")), "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
        assert!(ran.out.contains(&format!("of shop/checkout: {state:?} 1/2")), "{ran:?}");
    }
    let hub = Hub::start(too_late(ShiftState::Aborted, 1, "Restored")).await;
    let ran = hub.yardctl(&format!("abort {SHIFT} --wait -o json")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let last: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["wait"]["outcome"], &last["error"]), (&"reached".into(), &serde_json::Value::Null), "{ran:?}");
    assert!(hub.seen.watch_shift.lock().unwrap().is_empty(), "there is nothing to wait for");
    let hub = Hub::start(too_late(ShiftState::Aborted, 1, "RestorePending")).await;
    assert_eq!(hub.yardctl(&format!("abort {SHIFT} --wait")).await.code, 8, "the weights were not read back");
}

#[tokio::test]
async fn an_abort_of_what_succeeded_is_refused_with_the_rollback_that_helps() {
    let ran =
        Hub::start(too_late(ShiftState::Succeeded, 2, "Converged")).await.yardctl(&format!("abort {SHIFT}")).await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(
        ran.err.contains(&format!("remedy: it has succeeded: take it back with `yardctl rollback {SHIFT}`")),
        "{ran:?}"
    );
    assert_eq!(ran.out, "", "{ran:?}");
}

#[tokio::test]
async fn an_abort_that_is_refused_otherwise_stays_refused() {
    let reused = Status::already_exists("the request id was used for another call");
    let script = Script { act: queue([Answer::Refuse(reused)]), ..too_late(ShiftState::Aborted, 1, "Restored") };
    assert_eq!(Hub::start(script).await.yardctl(&format!("abort {SHIFT}")).await.code, 5);
    let unreadable = Script { get_shift: queue([]), ..too_late(ShiftState::Aborted, 1, "Restored") };
    let ran = Hub::start(unreadable).await.yardctl(&format!("abort {SHIFT}")).await;
    assert!(ran.code == 5 && ran.err.contains("the shift has ended (Aborted)"), "how it ended is not known: {ran:?}");
    // Only an abort has nothing to do when the shift is over.
    let ran = Hub::start(too_late(ShiftState::Aborted, 1, "Restored")).await.yardctl(&format!("pause {SHIFT}")).await;
    assert_eq!(ran.code, 5, "{ran:?}");
}

#[tokio::test]
async fn an_abort_of_a_policy_that_nothing_moves_tells_how_its_last_shift_ended() {
    let last = |state, reason| Script {
        shifts: queue([listed(vec![]), listed(vec![shift(9, state, 2, reason)])]),
        ..Script::default()
    };
    let hub = Hub::start(last(ShiftState::Succeeded, "Converged")).await;
    let ran = hub.yardctl("abort shop/checkout").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains(&format!("its last one, {SHIFT}, has succeeded")), "{ran:?}");
    assert!(ran.err.contains("`yardctl rollback shop/checkout`"), "{ran:?}");
    assert!(!hub.seen.shifts.lock().unwrap()[1].active, "one that has ended is looked for");
    let ran = Hub::start(last(ShiftState::Aborted, "Restored")).await.yardctl("abort shop/checkout").await;
    assert!(ran.code == 4 && ran.err.contains("is Aborted (Restored)"), "{ran:?}");
}

#[tokio::test]
async fn an_abort_that_a_freeze_holds_up_says_so_when_the_time_is_up() {
    let mut held = shift(4, ShiftState::Aborting, 1, "AbortRequested");
    held.status.as_mut().unwrap().message =
        "shop/checkout: spec.safety.freeze is set: 1 call at AWS is not made; unset it to go on".into();
    let script = Script { watch_shift: queue([Answer::Ok(vec![beat(held.clone()), ShiftBeat::Hold])]), ..acted(held) };
    let ran = Hub::start(script).await.yardctl(&format!("abort {SHIFT} --wait --timeout 700ms")).await;
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.err.contains("remedy: nothing moves while spec.safety.freeze is set, not back either"), "{ran:?}");
    assert!(!ran.err.contains("yardctl abort"), "it is being taken back: {ran:?}");
}

#[tokio::test]
async fn a_rule_in_the_way_of_a_running_shift_is_not_offered_a_flag_that_no_command_takes() {
    let finding = pb::GuardFinding {
        guard: "MaintenanceWindow".into(),
        policy: Some(pb::PolicyRef { namespace: "shop".into(), name: "checkout".into() }),
        step: 2,
        message: "outside of every window".into(),
        overridable: true,
        ..Default::default()
    };
    let page = async |state, reason: &str| {
        let mut shift = shift(3, state, 1, reason);
        shift.status.as_mut().unwrap().findings = vec![finding.clone()];
        let hub = Hub::start(Script { get_shift: queue([got(shift)]), ..Script::default() }).await;
        hub.yardctl(&format!("get shift {SHIFT}")).await
    };
    let held = page(ShiftState::Baking, "Held").await;
    assert!(held.out.contains("a shift under way takes no further override"), "{held:?}");
    assert!(held.out.contains("yardctl abort shop/checkout"), "{held:?}");
    let failed = page(ShiftState::Failed, "PreflightFailed").await;
    assert!(failed.out.contains("ask for it again with --override MaintenanceWindow"), "{failed:?}");
}

#[tokio::test]
async fn text_that_would_turn_a_line_round_on_the_terminal_is_not_printed() {
    let turned = "x\u{202e}detrever\u{2066}\u{200f}\u{1b}[2J";
    let evil = || {
        let mut entry = entry(1);
        entry.reason = turned.into();
        Answer::Ok(pb::ListAuditEntriesResponse { entries: vec![entry], next_page_token: String::new() })
    };
    let obeyed = ['\u{202e}', '\u{2066}', '\u{200f}', '\u{1b}'];
    for format in ["table", "json", "jsonl", "yaml"] {
        let ran = Hub::start(Script { audit: queue([evil()]), ..Script::default() })
            .await
            .yardctl(&format!("audit -o {format}"))
            .await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("detrever") && !ran.out.contains(obeyed), "{format}: {ran:?}");
        if format == "json" {
            assert_eq!(ran.json()["entries"][0]["reason"], turned, "a program gets what was written");
        }
    }
    let refused = Script { act: queue([Answer::Refuse(Status::failed_precondition(turned))]), ..Script::default() };
    let ran = Hub::start(refused).await.yardctl(&format!("pause {SHIFT}")).await;
    assert!(ran.err.contains("detrever") && !ran.err.contains(obeyed), "{ran:?}");
}

#[tokio::test]
async fn an_approval_may_wait_for_the_end() {
    let script = Script {
        watch_shift: queue([Answer::Ok(vec![beat(shift(9, ShiftState::Succeeded, 2, "Converged"))])]),
        ..acted(shift(4, ShiftState::AwaitingApproval, 1, "Approved"))
    };
    let ran = Hub::start(script).await.yardctl(&format!("approve {SHIFT} --wait")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("; converged reached\n"), "{ran:?}");
}

#[tokio::test]
async fn a_late_approval_is_refused_as_a_conflict() {
    let why = "step 1 is not the one that waits for approval, step 2 is; look at it before you approve it";
    let script = Script { act: queue([Answer::Refuse(Status::failed_precondition(why))]), ..Script::default() };
    let ran = Hub::start(script).await.yardctl(&format!("approve {SHIFT} --step 1")).await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains(why), "{ran:?}");
}

#[tokio::test]
async fn a_watch_follows_to_the_end_and_ends_with_its_exit_code() {
    for (state, reason, code) in [
        (ShiftState::Succeeded, "Converged", 0),
        (ShiftState::Aborted, "Restored", 8),
        (ShiftState::Failed, "Restored", 8),
    ] {
        let script = Script {
            shifts: queue([listed(vec![baking()])]),
            watch_shift: queue([Answer::Ok(vec![beat(baking()), beat(shift(4, state, 2, reason))])]),
            ..Script::default()
        };
        let ran = Hub::start(script).await.yardctl("watch shop/checkout").await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains("Baking 1/2 (25%)"), "{ran:?}");
        assert!(ran.out.contains(&format!("of shop/checkout: {state:?} 2/2 (100%)")), "{ran:?}");
    }
}

#[tokio::test]
async fn a_watch_of_a_shift_that_nobody_knows_ends_at_once() {
    let script = Script { watch_shift: queue([Answer::Refuse(Status::not_found("none"))]), ..Script::default() };
    let ran = Hub::start(script).await.yardctl(&format!("watch {SHIFT}")).await;
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("yardctl history"), "{ran:?}");
}

#[tokio::test]
async fn a_watch_without_a_hub_gives_up_after_the_timeout() {
    let away = || Answer::Refuse(Status::unavailable("not here"));
    let script = Script { watch_shift: queue((0..200).map(|_| away())), ..Script::default() };
    let ran = Hub::start(script).await.yardctl(&format!("watch {SHIFT} --timeout 400ms -o json")).await;
    assert!(ran.code == 6 || ran.code == 7, "{ran:?}");
    assert!(ran.err.contains("not here"), "{ran:?}");
}

#[tokio::test]
async fn the_history_pages_through_as_many_as_were_asked_for() {
    let page = |token: &str| {
        Answer::Ok(pb::ListShiftsResponse { shifts: vec![baking(), baking()], next_page_token: token.into() })
    };
    let hub = Hub::start(Script { shifts: queue([page("a"), page("b")]), ..Script::default() }).await;
    let ran = hub.yardctl("history shop/checkout --active --limit 3 -o json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["shifts"].as_array().unwrap().len(), 3);
    assert!(ran.err.contains("these are the 3 newest"), "{ran:?}");
    let seen = hub.seen.shifts.lock().unwrap();
    assert_eq!(seen.iter().map(|request| request.page_size).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(seen[1].page_token, "a");
    assert!(seen[0].active && seen[0].policy.is_some() && seen[0].namespace.is_empty());
}

#[tokio::test]
async fn all_shifts_of_a_namespace_are_listed() {
    let hub = Hub::start(Script { shifts: queue([listed(vec![baking()])]), ..Script::default() }).await;
    let ran = hub.yardctl("get shifts -n shop").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("ID ") && ran.out.contains("blue=100,green=0"), "{ran:?}");
    assert_eq!(ran.err, "", "nothing is left out");
    let seen = hub.seen.shifts.lock().unwrap();
    assert!(seen[0].namespace == "shop" && !seen[0].active && seen[0].policy.is_none());
}

#[tokio::test]
async fn one_shift_is_shown_with_everything_by_its_id_or_its_policy() {
    let got = || queue([Answer::Ok(pb::GetShiftResponse { shift: Some(baking()) })]);
    let hub = Hub::start(Script { get_shift: got(), ..Script::default() }).await;
    let by_id = hub.yardctl(&format!("get shift {SHIFT}")).await;
    assert_eq!(by_id.code, 0, "{by_id:?}");
    assert!(by_id.out.contains("HAPPENED AT") && by_id.out.contains("AT LB"), "{by_id:?}");
    let script = Script { get_shift: got(), shifts: queue([listed(vec![baking()])]), ..Script::default() };
    let hub = Hub::start(script).await;
    let by_policy = hub.yardctl("get shift shop/checkout -o json").await;
    assert_eq!(by_policy.json()["status"]["state"], "Baking", "{by_policy:?}");
    assert!(!hub.seen.shifts.lock().unwrap()[0].active, "also one that has ended");
    let none = Hub::start(Script { shifts: queue([listed(vec![])]), ..Script::default() }).await;
    assert_eq!(none.yardctl("get shift shop/checkout").await.code, 4);
}

fn entry(id: u64) -> pb::AuditEntry {
    pb::AuditEntry {
        id,
        at: Some(prost_types::Timestamp { seconds: 1_767_322_800, nanos: 0 }),
        actor: "deployer".into(),
        action: "shift-step".into(),
        policy: "shop/checkout".into(),
        shift_id: SHIFT.into(),
        from_weights: [("blue".to_owned(), 100)].into(),
        to_weights: [("blue".to_owned(), 75)].into(),
        detail_json: "{\"step\":1}".into(),
        ..Default::default()
    }
}

fn entries(ids: std::ops::Range<u64>, next: &str) -> Answer<pb::ListAuditEntriesResponse> {
    Answer::Ok(pb::ListAuditEntriesResponse { entries: ids.map(entry).collect(), next_page_token: next.into() })
}

#[tokio::test]
async fn the_audit_log_is_exported_whole_as_json_lines() {
    let script = Script { audit: queue([entries(0..1000, "a"), entries(1000..1500, "")]), ..Script::default() };
    let hub = Hub::start(script).await;
    let line = format!(
        "audit shop/checkout --since 2026-01-01 --before 2026-01-03T00:00:00Z --actor deployer --shift {SHIFT} \
         --oldest-first -o jsonl"
    );
    let ran = hub.yardctl(&line).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1500);
    assert!(lines.iter().zip(0_u64..).all(|(line, id)| line["id"] == id), "in the hub's order, none twice");
    assert_eq!(lines[0]["detail"]["step"], 1);
    assert_eq!(lines[0]["from_weights"]["blue"], 100);
    let seen = hub.seen.audit.lock().unwrap();
    let first = &seen[0];
    assert_eq!((first.actor.as_str(), first.shift_id.as_str(), first.oldest_first), ("deployer", SHIFT, true));
    assert_eq!(first.since.map(|at| at.seconds), Some(1_767_225_600));
    assert_eq!(first.before.map(|at| at.seconds), Some(1_767_398_400));
    assert_eq!(seen[1].page_token, "a");
    assert_eq!(seen[0].since, seen[1].since, "all pages are of one time");
}

#[tokio::test]
async fn a_table_of_the_audit_log_is_bounded_and_documents_are_not() {
    let hub = Hub::start(Script { audit: queue([entries(0..100, "more")]), ..Script::default() }).await;
    let ran = hub.yardctl("audit").await;
    assert_eq!((ran.code, ran.out.lines().count()), (0, 101), "{ran:?}");
    assert!(ran.err.contains("more than these 100; --limit 0"), "{ran:?}");
    assert_eq!(hub.seen.audit.lock().unwrap()[0].page_size, 100);
    let script = Script { audit: queue([entries(0..1000, "a"), entries(1000..1001, "")]), ..Script::default() };
    let ran = Hub::start(script).await.yardctl("audit -o json").await;
    assert_eq!(ran.json()["entries"].as_array().unwrap().len(), 1001);
    let hub = Hub::start(Script { audit: queue([entries(0..2, "more")]), ..Script::default() }).await;
    let ran = hub.yardctl("audit -n shop --limit 2 -o jsonl").await;
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (2, ""), "{ran:?}");
    assert_eq!(hub.seen.audit.lock().unwrap()[0].namespace, "shop");
}

#[tokio::test]
async fn an_audit_log_of_one_policy_or_namespace_says_that_switches_are_not_in_it() {
    for (line, says) in [("audit shop/checkout", true), ("audit -n shop", true), ("audit", false)] {
        let ran =
            Hub::start(Script { audit: queue([entries(0..2, "")]), ..Script::default() }).await.yardctl(line).await;
        assert_eq!(ran.err.contains("gating switches belong to no one policy"), says, "{line}: {ran:?}");
    }
}

#[tokio::test]
async fn gating_switches_are_listed_turned_and_deleted() {
    let switch = |on| pb::GatingSwitch {
        name: "freeze-shop".into(),
        policies: vec!["shop/*".into()],
        on,
        reason: "incident 4711".into(),
        actor: "carol".into(),
        changed_at: None,
        version: 3,
    };
    let set = |on| Answer::Ok(pb::SetGatingSwitchResponse { switch: Some(switch(on)) });
    let script = Script {
        switches: queue([Answer::Ok(pb::ListGatingSwitchesResponse { switches: vec![switch(false)] })]),
        set_switch: queue([set(false), set(true)]),
        delete_switch: queue([Answer::Ok(pb::DeleteGatingSwitchResponse {})]),
        ..Script::default()
    };
    let hub = Hub::start(script).await;
    let list = hub.yardctl("switch list").await;
    assert!(list.code == 0 && list.out.contains("freeze-shop  OFF    shop/*"), "{list:?}");
    let off = hub
        .yardctl("switch off freeze-shop --policies shop/*,*/checkout --reason incident-4711 --expected-version 2 --request-id r-1")
        .await;
    assert_eq!(off.out, "gating switch freeze-shop is OFF: weights of shop/* do not move (version 3)\n", "{off:?}");
    let on = hub.yardctl("switch on freeze-shop -o json").await;
    assert_eq!(on.json()["switch"]["on"], true, "{on:?}");
    let gone = hub.yardctl("switch delete freeze-shop --reason over").await;
    assert_eq!(gone.out, "gating switch freeze-shop was deleted\n", "{gone:?}");
    let seen = hub.seen.set_switch.lock().unwrap();
    let expected = pb::SetGatingSwitchRequest {
        request_id: "r-1".into(),
        name: "freeze-shop".into(),
        policies: vec!["shop/*".into(), "*/checkout".into()],
        on: false,
        reason: "incident-4711".into(),
        expected_version: 2,
    };
    assert_eq!(seen[0], expected);
    assert!(seen[1].on && seen[1].policies.is_empty(), "those of the present switch: {seen:?}");
    assert_eq!(hub.seen.delete_switch.lock().unwrap()[0].reason, "over");
}

#[tokio::test]
async fn the_status_of_a_policy_names_the_shift_that_moves_it() {
    let script = || Script {
        get: queue([Answer::Ok(pb::GetPolicyResponse { policy: Some(policy(7, 3)) })]),
        shifts: queue([listed(vec![baking()])]),
        ..Script::default()
    };
    let ran = Hub::start(script()).await.yardctl("status shop/checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let line = format!("  shift       {SHIFT}  Baking 1/2 (25%): message of version 3 (Baking)\n");
    assert!(ran.out.contains(&line), "{ran:?}");
    let ran = Hub::start(script()).await.yardctl("status shop/checkout -o json").await;
    assert_eq!(ran.json()["shift"]["id"], SHIFT);
    assert_eq!(ran.json()["version"], 7, "the policy's own fields stay where they were");
}

#[tokio::test]
async fn the_status_page_is_shown_although_shifts_cannot_be_asked_for() {
    let script = Script {
        get: queue([Answer::Ok(pb::GetPolicyResponse { policy: Some(policy(7, 3)) })]),
        shifts: queue([Answer::Refuse(Status::unimplemented("an older hub"))]),
        ..Script::default()
    };
    let ran = Hub::start(script).await.yardctl("status shop/checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("CONDITION"), "{ran:?}");
    assert!(ran.err.contains("whether a shift moves shop/checkout is not known: an older hub"), "{ran:?}");
}

#[tokio::test]
async fn an_endless_watch_does_not_outlive_its_timeout() {
    let script =
        Script { watch_shift: queue([Answer::Ok(vec![beat(baking()), ShiftBeat::Hold])]), ..Script::default() };
    let ran = Hub::start(script).await.yardctl(&format!("watch {SHIFT} --timeout 500ms")).await;
    assert_eq!(ran.code, 7, "{ran:?}");
}
