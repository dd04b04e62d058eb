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
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    assert_eq!(hub.seen.audit.lock().unwrap()[0].namespace, "shop");
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
