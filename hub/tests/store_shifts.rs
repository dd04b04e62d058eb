//! Shifts in the store: made once, commanded at once with their weights, saved by the engine only when nobody else moved them, and
//! left by policies whose spec takes over or that go.

mod store_support;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::json;
use store_support::{
    Db, NEVER_STALE, apply, audit_of, caller, cluster, database, eventually, fence, fresh, key, manifest,
    shifts::{asked, create, drive, flip, halves, look, look_without, pairs, plan, stored},
    valid,
};
use switchyard_core::{
    ids::{Epoch, ShiftId, Weight},
    policy::{ClusterTrafficPolicy, PolicyMemory, Programmed},
    shift::{
        Guard, Origin, Shift, ShiftReason, State,
        machine::{Command, Refusal},
        validate::StartError,
    },
    status::PolicyStatus,
};
use switchyard_hub::store::{
    ApplyError, Fence, FencedError, Mirror, Retention, ShiftError, ShiftFilter, ShiftUpdate, StoreError,
};

/// Policies of blue (100) and green (0).
async fn policies(db: &Db, names: &[&str]) {
    for name in names {
        apply(&db.store, &manifest(name, &[("blue", 100), ("green", 0)])).await;
    }
}

fn with_safety(name: &str, weights: &[(&str, u32)], safety: serde_json::Value) -> ClusterTrafficPolicy {
    let mut manifest = serde_json::to_value(manifest(name, weights)).unwrap();
    manifest["spec"]["safety"] = safety;
    serde_json::from_value(manifest).unwrap()
}

async fn count(db: &Db, table: &'static str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(statement).fetch_one(&db.raw).await.unwrap()
}

/// Words of the audit log about a policy, oldest first, without that it was applied.
async fn actions(db: &Db, name: &str) -> Vec<String> {
    let rows = audit_of(&db.store, name).await;
    rows.into_iter().rev().map(|row| row.action).filter(|action| action != "apply").collect()
}

/// A shift of these policies in its first step.
async fn in_first_step(db: &Db, names: &[&str]) -> Shift {
    let made = create(&db.store, &halves(names, "green")).await.unwrap();
    assert!(drive(&db.store, fence(&db.store).await, &made.id).await);
    let shift = stored(&db.store, &made.id).await;
    assert_eq!((shift.state, shift.step, shift.version), (State::Stepping, Some(0), 2));
    shift
}

#[tokio::test]
async fn a_shift_is_made_stepped_and_succeeds_with_its_weights_over_the_specs() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let fence = fence(&db.store).await;
    let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    assert_eq!((made.state, made.version, made.actor.as_str()), (State::Pending, 1, "someone@example.com"));
    assert_eq!(stored(&db.store, &made.id).await, made);
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 100), ("green", 0)]), "nothing moves before a preflight");

    assert!(drive(&db.store, fence, &made.id).await);
    assert_eq!(stored(&db.store, &made.id).await.state, State::Stepping);
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 0), ("green", 100)]));
    assert!(drive(&db.store, fence, &made.id).await);
    let ended = stored(&db.store, &made.id).await;
    assert_eq!((ended.state, ended.version), (State::Succeeded, 3));
    let policy = db.store.policy_get(&key("a")).await.unwrap().unwrap();
    assert_eq!((policy.record.version, policy.record.generation), (2, 1), "the spec stays untouched");

    let rows = audit_of(&db.store, "a").await;
    let of_shift: Vec<_> = rows.iter().rev().filter(|row| row.shift.as_deref() == Some(made.id.as_str())).collect();
    let words: Vec<&str> = of_shift.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(words, ["shift-create", "shift-step", "shift-end"]);
    for row in &of_shift[..2] {
        assert_eq!(row.from_weights(), pairs(&[("blue", 100), ("green", 0)]), "{row:?}");
        assert_eq!(row.to_weights(), pairs(&[("blue", 0), ("green", 100)]), "{row:?}");
    }
    assert_eq!((of_shift[0].actor.as_str(), of_shift[1].actor.as_str()), ("someone@example.com", "switchyard-hub"));
    assert!(of_shift[2].from_weights().is_empty(), "nothing moved at the end");
    assert_eq!(db.store.shift_last_succeeded(&policy.record.uid).await.unwrap(), Some(ended));
}

#[tokio::test]
async fn fifty_equal_requests_at_once_make_one_shift() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let (plan, who) = (Arc::new(flip(&["a"], "green")), caller("the-same"));
    let calls = (0..50).map(|_| {
        let (store, plan, who) = (db.store.clone(), Arc::clone(&plan), who.clone());
        tokio::spawn(async move { store.shift_create(&who, &plan, &Origin::Call).await.unwrap() })
    });
    let answers: Vec<Shift> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(count(&db, "shifts").await, 1);
    assert_eq!(actions(&db, "a").await, ["shift-create"]);
    assert_eq!(db.store.shift_answered(&caller("the-same")).await.unwrap(), Some(answers[0].clone()));
    assert_eq!(db.store.shift_answered(&caller("another")).await.unwrap(), None);

    let other = db.store.shift_create(&who, &flip(&["a"], "blue"), &Origin::Call).await.unwrap_err();
    assert!(matches!(other, ShiftError::RequestReused { .. }), "{other:?}");
    let other = db.store.shift_command(&who, &answers[0].id, &Command::Abort).await.unwrap_err();
    assert!(matches!(other, ShiftError::RequestReused { .. }), "{other:?}");
}

#[tokio::test]
async fn what_does_not_suit_the_policies_is_refused_and_leaves_nothing() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let before = count(&db, "audit").await;
    let stale =
        plan(json!({"policies": [{"name": "a", "to": "green"}, {"name": "b", "to": "green", "expectedVersion": 7}]}));
    let error = create(&db.store, &stale).await.unwrap_err();
    assert!(
        matches!(&error, ShiftError::Start(StartError::VersionConflict { policy, expected: 7, present: 1 }) if *policy == key("b")),
        "{error:?}"
    );
    let error = create(&db.store, &flip(&["a", "missing"], "green")).await.unwrap_err();
    assert!(
        matches!(&error, ShiftError::Start(StartError::NotFound(policy)) if *policy == key("missing")),
        "{error:?}"
    );
    let error = create(&db.store, &flip(&["a"], "red")).await.unwrap_err();
    assert!(matches!(error, ShiftError::Start(StartError::Invalid(_))), "{error:?}");
    let error = db.store.shift_create(&caller("a b"), &flip(&["a"], "green"), &Origin::Call).await.unwrap_err();
    assert!(matches!(error, ShiftError::Invalid { .. }), "{error:?}");
    db.store.policy_mark_deleting(&fresh(), &key("b"), 0).await.unwrap();
    let error = create(&db.store, &flip(&["b"], "green")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::Start(StartError::Deleting(policy)) if *policy == key("b")), "{error:?}");
    assert_eq!(count(&db, "shifts").await, 0);
    assert_eq!(count(&db, "audit").await, before + 1, "the deletion alone");
}

#[tokio::test]
async fn of_shifts_at_once_that_share_a_policy_one_is_made_and_the_others_name_it() {
    let db = database().await;
    policies(&db, &["a", "b", "c"]).await;
    let plans = [flip(&["a", "b"], "green"), flip(&["b", "c"], "green"), flip(&["c", "a", "b"], "green")];
    let calls = (0..12).map(|i| {
        let (store, plan) = (db.store.clone(), plans[i % 3].clone());
        tokio::spawn(async move { create(&store, &plan).await })
    });
    let results: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let made: Vec<&Shift> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(made.len(), 1, "{results:?}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        let ShiftError::Busy { policy, shift } = error else { panic!("{error:?}") };
        assert_eq!(**shift, *made[0]);
        assert!(made[0].moves.iter().any(|one| one.policy == *policy));
        assert!(error.to_string().contains(&format!("yardctl abort {}", shift.id)), "{error}");
    }
    // One that shares nothing with it is not held up.
    apply(&db.store, &manifest("d", &[("blue", 1), ("green", 0)])).await;
    create(&db.store, &flip(&["d"], "green")).await.unwrap();
}

#[tokio::test]
async fn safety_rules_hold_a_shift_unless_it_crosses_them_and_that_is_on_record() {
    let db = database().await;
    let weights = [("blue", 100), ("green", 0)];
    apply(&db.store, &with_safety("a", &weights, json!({"maxStepPercent": 60}))).await;
    policies(&db, &["b"]).await;
    let error = create(&db.store, &flip(&["a"], "green")).await.unwrap_err();
    let ShiftError::Held { findings } = &error else { panic!("{error:?}") };
    assert_eq!(findings.iter().map(|finding| finding.guard).collect::<Vec<_>>(), [Guard::MaxStepPercent]);
    assert!(error.to_string().contains("maxStepPercent allows 60"), "{error}");
    assert_eq!(count(&db, "shifts").await, 0);

    let crossing = plan(json!({
        "policies": [{"name": "a", "to": "green"}, {"name": "b", "to": "green"}],
        "overrides": ["MaxStepPercent"], "reason": "the house burns"
    }));
    let made = create(&db.store, &crossing).await.unwrap();
    let row = &audit_of(&db.store, "a").await[0];
    assert_eq!((row.action.as_str(), row.overrides()), ("shift-create", vec!["MaxStepPercent".to_owned()]));
    assert_eq!(row.detail["crossed"].as_array().unwrap().len(), 1, "{row:?}");
    let other = &audit_of(&db.store, "b").await[0];
    assert_eq!((other.action.as_str(), other.detail["crossed"].as_array().unwrap().len()), ("shift-create", 0));
    db.store.shift_command(&fresh(), &made.id, &Command::Abort).await.unwrap();
    create(&db.store, &halves(&["a"], "green")).await.unwrap();
}

#[tokio::test]
async fn a_switch_that_is_off_holds_shifts_and_set_weights_of_the_policies_it_covers() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let (name, covers) = ("night".parse().unwrap(), ["shop/*".to_owned()]);
    db.store.switch_set(&fresh(), &name, Some(&covers), false, 0).await.unwrap();
    let error = create(&db.store, &flip(&["a"], "green")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::Held { findings } if findings[0].guard == Guard::GatingSwitch), "{error:?}");
    let wanted = [("green".to_owned(), 5)];
    let error = db.store.policy_set_weights(&fresh(), &key("a"), &wanted, 0).await.unwrap_err();
    assert!(matches!(&error, ApplyError::Held { findings } if findings[0].guard == Guard::GatingSwitch), "{error:?}");
    assert!(error.to_string().contains("night"), "{error}");
    db.store.switch_set(&fresh(), &name, None, true, 0).await.unwrap();
    db.store.policy_set_weights(&fresh(), &key("a"), &wanted, 0).await.unwrap();
    create(&db.store, &flip(&["a"], "green")).await.unwrap();
}

#[tokio::test]
async fn an_abort_is_in_force_when_it_is_answered_for_all_policies_and_says_the_same_again() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 50), ("green", 50)]));
    let who = caller("stop");
    let aborted = db.store.shift_command(&who, &shift.id, &Command::Abort).await.unwrap();
    assert_eq!((aborted.state, aborted.version), (State::Aborting, 3));
    for name in ["a", "b"] {
        assert_eq!(asked(&db.store, name).await, pairs(&[("blue", 100), ("green", 0)]));
        let policy = db.store.policy_get(&key(name)).await.unwrap().unwrap();
        assert_eq!(policy.record.weight_override, None, "weights equal to the spec's end the override");
        let row = &audit_of(&db.store, name).await[0];
        assert_eq!((row.action.as_str(), row.reason.as_str()), ("shift-abort", "a test"));
        assert_eq!(row.from_weights(), pairs(&[("blue", 50), ("green", 50)]));
        assert_eq!(row.to_weights(), pairs(&[("blue", 100), ("green", 0)]));
    }
    assert_eq!(db.store.shift_command(&who, &shift.id, &Command::Abort).await.unwrap(), aborted);
    let rows = count(&db, "audit").await;
    assert_eq!(db.store.shift_command(&fresh(), &shift.id, &Command::Abort).await.unwrap(), aborted);
    assert_eq!(count(&db, "audit").await, rows, "an abort of what goes back already changes nothing");

    assert!(drive(&db.store, fence(&db.store).await, &shift.id).await);
    assert_eq!(stored(&db.store, &shift.id).await.state, State::Aborted);
    let error = db.store.shift_command(&fresh(), &shift.id, &Command::Pause).await.unwrap_err();
    assert!(
        matches!(&error, ShiftError::Refused { refusal: Refusal::Ended(State::Aborted), shift: id } if *id == shift.id),
        "{error:?}"
    );
    create(&db.store, &flip(&["b"], "green")).await.unwrap();
}

#[tokio::test]
async fn commands_count_the_version_are_audited_and_unknown_shifts_are_named() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let shift = in_first_step(&db, &["a"]).await;
    let commands = [Command::Pause, Command::Pause, Command::Resume, Command::ApproveUpTo(0), Command::Promote];
    for said in &commands {
        db.store.shift_command(&fresh(), &shift.id, said).await.unwrap();
    }
    let now = stored(&db.store, &shift.id).await;
    assert_eq!((now.version, now.promoted, now.approved), (shift.version + 4, true, Some(0)));
    let expected = ["shift-create", "shift-step", "shift-pause", "shift-resume", "shift-approve", "shift-promote"];
    assert_eq!(actions(&db, "a").await, expected);
    let error = db.store.shift_command(&fresh(), &shift.id, &Command::Approve(None)).await.unwrap_err();
    assert!(matches!(error, ShiftError::Refused { refusal: Refusal::NotAwaiting(State::Stepping), .. }), "{error:?}");
    let unknown = ShiftId::new("none").unwrap();
    let error = db.store.shift_command(&fresh(), &unknown, &Command::Abort).await.unwrap_err();
    assert!(matches!(&error, ShiftError::NotFound(id) if *id == unknown), "{error:?}");
}

#[tokio::test]
async fn what_the_engine_made_of_an_older_version_is_lost_and_the_others_are_saved() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let fence = fence(&db.store).await;
    let lost = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let kept = create(&db.store, &flip(&["b"], "green")).await.unwrap();
    let (of_lost, of_kept) = (look(&db.store, &lost).await, look(&db.store, &kept).await);
    assert!(!of_lost.writes.is_empty());
    db.store.shift_command(&fresh(), &lost.id, &Command::Pause).await.unwrap();
    let unknown = Shift { id: ShiftId::new("none").unwrap(), ..of_lost.shift.clone() };
    let updates = [
        ShiftUpdate { before_version: 1, shift: &of_lost.shift, writes: &of_lost.writes },
        ShiftUpdate { before_version: 1, shift: &unknown, writes: &of_lost.writes },
        ShiftUpdate { before_version: 1, shift: &of_kept.shift, writes: &of_kept.writes },
    ];
    assert_eq!(db.store.shifts_save(fence, &updates).await.unwrap(), std::slice::from_ref(&kept.id));
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 100), ("green", 0)]));
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 0), ("green", 100)]));
    assert_eq!(stored(&db.store, &lost.id).await.state, State::Pending);
    assert_eq!(db.store.shifts_save(fence, &updates).await.unwrap(), [], "never a double step");
    assert_eq!(stored(&db.store, &kept.id).await.version, 2);
    assert_eq!(actions(&db, "b").await, ["shift-create", "shift-step"]);
}

#[tokio::test]
async fn weights_are_not_saved_for_a_policy_that_has_other_clusters_or_is_another_one() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let fence = fence(&db.store).await;
    let made = create(&db.store, &flip(&["a", "b"], "green")).await.unwrap();
    let outcome = look(&db.store, &made).await;
    let mut writes = outcome.writes.clone();
    let save = async |writes: &[_]| {
        let update = ShiftUpdate { before_version: 1, shift: &outcome.shift, writes };
        db.store.shifts_save(fence, &[update]).await.unwrap()
    };
    writes[1].weights.pop();
    assert_eq!(save(&writes).await, []);
    writes[1] = outcome.writes[1].clone();
    writes[1].uid = "another".parse().unwrap();
    assert_eq!(save(&writes).await, []);
    for name in ["a", "b"] {
        assert_eq!(asked(&db.store, name).await, pairs(&[("blue", 100), ("green", 0)]), "all or none");
    }
    assert_eq!(save(&outcome.writes).await, [made.id]);
}

#[tokio::test]
async fn a_switch_or_a_freeze_that_was_answered_holds_a_save_that_was_under_way_and_no_way_back() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let held = fence(&db.store).await;
    let (one, other) = (create(&db.store, &flip(&["a"], "green")).await.unwrap(), in_first_step(&db, &["b"]).await);
    let forward = look(&db.store, &one).await;
    assert!(!forward.writes.is_empty());
    let step = ShiftUpdate { before_version: 1, shift: &forward.shift, writes: &forward.writes };
    let (name, covers) = ("night".parse().unwrap(), ["shop/*".to_owned()]);
    db.store.switch_set(&fresh(), &name, Some(&covers), false, 0).await.unwrap();
    assert_eq!(db.store.shifts_save(held, &[step]).await.unwrap(), []);
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 100), ("green", 0)]));
    let back = db.store.shift_command(&fresh(), &other.id, &Command::Abort).await.unwrap();
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]), "{back:?}");

    db.store.switch_set(&fresh(), &name, None, true, 0).await.unwrap();
    let freeze = |freeze: bool| with_safety("a", &[("blue", 100), ("green", 0)], json!({"freeze": freeze}));
    apply(&db.store, &freeze(true)).await;
    assert_eq!(db.store.shifts_save(held, &[step]).await.unwrap(), []);
    apply(&db.store, &freeze(false)).await;
    assert_eq!(db.store.shifts_save(held, &[step]).await.unwrap(), std::slice::from_ref(&one.id));
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 0), ("green", 100)]));
}

#[tokio::test]
async fn a_step_back_is_saved_although_a_switch_is_off() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    let (name, covers) = ("night".parse().unwrap(), ["shop/*".to_owned()]);
    db.store.switch_set(&fresh(), &name, Some(&covers), false, 0).await.unwrap();
    sqlx::query("delete from policies where name = 'a'").execute(&db.raw).await.unwrap();
    assert!(drive(&db.store, fence(&db.store).await, &shift.id).await);
    assert_eq!(stored(&db.store, &shift.id).await.state, State::Aborting);
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]));
}

#[tokio::test]
async fn a_policy_that_is_only_missing_in_the_engines_picture_does_not_leave_its_shift() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    let held = fence(&db.store).await;
    let without_a = look_without(&db.store, &shift, &["a"]).await;
    assert_eq!(without_a.shift.why, ShiftReason::PolicyDeleted);
    let update = ShiftUpdate { before_version: 2, shift: &without_a.shift, writes: &without_a.writes };
    assert_eq!(db.store.shifts_save(held, &[update]).await.unwrap(), []);
    // As a newer version may write it: this one cannot read it, and so does not know that it is gone.
    let newer = "update policies set manifest = '{\"apiVersion\": \"switchyard.dev/v9\"}' where name = 'a'";
    sqlx::query(newer).execute(&db.raw).await.unwrap();
    assert_eq!(db.store.shifts_save(held, &[update]).await.unwrap(), []);
    assert_eq!(stored(&db.store, &shift.id).await, shift);
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 50), ("green", 50)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_that_was_answered_is_not_undone_by_a_save_that_was_under_way() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let held = fence(&db.store).await;
    let recorded = pairs(&[("blue", 100), ("green", 0)]);
    let mut in_step = 0;
    for round in 0..30 {
        let made = create(&db.store, &halves(&["a", "b"], "green")).await.unwrap();
        // The engine drives until the shift has ended, and makes each save from what it has read before.
        let engine = tokio::spawn({
            let (store, id) = (db.store.clone(), made.id.clone());
            async move {
                while stored(&store, &id).await.is_active() {
                    drive(&store, held, &id).await;
                }
            }
        });
        if round % 2 == 0 {
            let stepped = async || stored(&db.store, &made.id).await.step;
            eventually("the first step", stepped).await;
        }
        // A little later each time, so that the abort meets the engine at another place.
        for _ in 0..round {
            db.store.ping().await.unwrap();
        }
        let answered = db.store.shift_command(&fresh(), &made.id, &Command::Abort).await.unwrap();
        in_step += u32::from(answered.step.is_some());
        for name in ["a", "b"] {
            assert_eq!(asked(&db.store, name).await, recorded, "round {round}");
        }
        engine.await.unwrap();
        assert_eq!(stored(&db.store, &made.id).await.state, State::Aborted, "round {round}");
        for name in ["a", "b"] {
            assert_eq!(asked(&db.store, name).await, recorded, "round {round}");
        }
    }
    assert!(in_step >= 15, "{in_step}");
}

#[tokio::test]
async fn a_policy_that_vanished_is_let_go_by_the_engine_and_that_is_on_record() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    // As a hub of the version before would leave it, which knows no shifts.
    sqlx::query("delete from policies where name = 'a'").execute(&db.raw).await.unwrap();
    let held = fence(&db.store).await;
    assert!(drive(&db.store, held, &shift.id).await);
    let now = stored(&db.store, &shift.id).await;
    assert_eq!((now.state, now.why), (State::Aborting, ShiftReason::PolicyDeleted));
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]));
    assert_eq!(actions(&db, "a").await, ["shift-create", "shift-step", "shift-supersede"]);
    assert!(drive(&db.store, held, &shift.id).await);
    assert_eq!(actions(&db, "a").await.len(), 3, "what happens afterwards is no matter of the policy that left");
    assert_eq!(actions(&db, "b").await, ["shift-create", "shift-step", "shift-back", "shift-end"]);
}

#[tokio::test]
async fn an_engine_without_the_lease_saves_nothing() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let held = fence(&db.store).await;
    let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let outcome = look(&db.store, &made).await;
    let update = ShiftUpdate { before_version: 1, shift: &outcome.shift, writes: &outcome.writes };
    let passed = Fence { epoch: Epoch(held.epoch.0 + 1), ..held };
    let error = db.store.shifts_save(passed, &[update]).await.unwrap_err();
    assert!(matches!(error, FencedError::EpochPassed { .. }), "{error:?}");
    assert_eq!(stored(&db.store, &made.id).await, made);
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 100), ("green", 0)]));
    assert_eq!(db.store.shifts_save(held, &[update]).await.unwrap(), [made.id]);
}

#[tokio::test]
async fn a_spec_with_other_weights_takes_over_and_the_other_policies_go_back_with_it() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    let mut same_weights = manifest("a", &[("blue", 100), ("green", 0)]);
    same_weights.spec.order = 7;
    apply(&db.store, &same_weights).await;
    assert_eq!(stored(&db.store, &shift.id).await, shift, "a spec with the same weights does not concern it");
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 50), ("green", 50)]));

    apply(&db.store, &manifest("a", &[("blue", 30), ("green", 70)])).await;
    let now = stored(&db.store, &shift.id).await;
    assert_eq!((now.state, now.why), (State::Aborting, ShiftReason::PolicyChanged));
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 30), ("green", 70)]), "the spec's");
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]), "the recorded ones");
    assert_eq!(actions(&db, "a").await, ["shift-create", "shift-step", "shift-supersede"]);
    assert_eq!(actions(&db, "b").await, ["shift-create", "shift-step", "shift-back"]);
    // The policy that left is free for another shift while this one still takes the other back.
    create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let error = create(&db.store, &flip(&["b"], "green")).await.unwrap_err();
    assert!(matches!(error, ShiftError::Busy { .. }), "{error:?}");
    assert!(drive(&db.store, fence(&db.store).await, &shift.id).await);
    assert_eq!(stored(&db.store, &shift.id).await.state, State::Superseded);
}

#[tokio::test]
async fn a_shift_of_one_policy_ends_with_its_spec_or_its_deletion() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let (of_a, of_b) = (in_first_step(&db, &["a"]).await, in_first_step(&db, &["b"]).await);
    apply(&db.store, &manifest("a", &[("blue", 1), ("green", 2)])).await;
    db.store.policy_mark_deleting(&fresh(), &key("b"), 0).await.unwrap();
    let (of_a, of_b) = (stored(&db.store, &of_a.id).await, stored(&db.store, &of_b.id).await);
    assert_eq!((of_a.state, of_a.why), (State::Superseded, ShiftReason::PolicyChanged));
    assert_eq!((of_b.state, of_b.why), (State::Superseded, ShiftReason::PolicyDeleted));
    assert_eq!(asked(&db.store, "a").await, pairs(&[("blue", 1), ("green", 2)]));
    assert_eq!(actions(&db, "b").await, ["shift-create", "shift-step", "shift-supersede", "delete"]);
}

#[tokio::test]
async fn a_deleted_policy_takes_its_shift_back_and_outlives_it_in_the_list() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let shift = in_first_step(&db, &["a", "b"]).await;
    let policy = db.store.policy_get(&key("a")).await.unwrap().unwrap();
    db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.unwrap();
    let now = stored(&db.store, &shift.id).await;
    assert_eq!((now.state, now.why), (State::Aborting, ShiftReason::PolicyDeleted));
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 100), ("green", 0)]));
    let held = fence(&db.store).await;
    assert!(db.store.policy_forget(held, &key("a"), &policy.record.uid).await.unwrap());
    assert!(drive(&db.store, held, &shift.id).await);
    assert_eq!(stored(&db.store, &shift.id).await.state, State::Superseded);
    let of_gone = ShiftFilter { policy: Some(key("a")), ..ShiftFilter::default() };
    assert_eq!(db.store.shifts_list(&of_gone, None, 10).await.unwrap().shifts.len(), 1);
}

#[tokio::test]
async fn weights_are_not_set_beside_a_shift_nor_against_the_rules_of_the_policy() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let wanted = [("blue".to_owned(), 50), ("green".to_owned(), 50)];
    let set = async |name: &str| db.store.policy_set_weights(&fresh(), &key(name), &wanted, 0).await;
    let error = set("a").await.unwrap_err();
    assert!(matches!(&error, ApplyError::ShiftActive { shift, .. } if *shift == made.id), "{error:?}");
    assert!(error.to_string().contains(&format!("yardctl abort {}", made.id)), "{error}");
    let present = [("blue".to_owned(), 100)];
    db.store.policy_set_weights(&fresh(), &key("a"), &present, 0).await.expect("equal weights change nothing");
    db.store.shift_command(&fresh(), &made.id, &Command::Abort).await.unwrap();
    set("a").await.unwrap();

    let safety = json!({"maxStepPercent": 30, "minStepIntervalSeconds": 3600, "minActiveClusters": 2});
    let (policy, _) = apply(&db.store, &with_safety("b", &[("blue", 60), ("green", 40)], safety)).await;
    let programmed = Programmed { weights: Default::default(), since: jiff::Timestamp::now() };
    let memory = PolicyMemory { programmed: Some(programmed), ..PolicyMemory::default() };
    let status = PolicyStatus {
        observed_version: 1,
        conditions: vec![],
        clusters: vec![],
        rule: None,
        notes: vec![],
        failover: Default::default(),
    };
    db.store.policy_status_save(fence(&db.store).await, &policy.record.uid, &status, &memory).await.unwrap();
    let only_blue = [("green".to_owned(), 0)];
    let error = db.store.policy_set_weights(&fresh(), &key("b"), &only_blue, 0).await.unwrap_err();
    let ApplyError::Held { findings } = &error else { panic!("{error:?}") };
    let guards: Vec<Guard> = findings.iter().map(|finding| finding.guard).collect();
    assert_eq!(guards, [Guard::MinStepInterval, Guard::MinActiveClusters, Guard::MaxStepPercent]);
    assert_eq!(asked(&db.store, "b").await, pairs(&[("blue", 60), ("green", 40)]));
}

fn resource(uid: &str) -> Origin {
    Origin::Resource {
        cluster: cluster("blue"),
        namespace: "shop".parse().unwrap(),
        name: "to-green".to_owned(),
        uid: uid.parse().unwrap(),
    }
}

#[tokio::test]
async fn weights_that_are_not_read_back_yet_count_for_the_interval_between_steps() {
    let db = database().await;
    let safety = json!({"maxStepPercent": 30, "minStepIntervalSeconds": 60});
    let (policy, _) = apply(&db.store, &with_safety("a", &[("blue", 100), ("green", 0)], safety)).await;
    let read_back = async |blue: u32, green: u32| {
        let weights = [("blue", blue), ("green", green)];
        let weights = weights.map(|(name, weight)| (cluster(name), Weight::new(weight).unwrap())).into();
        let programmed = Programmed { weights, since: jiff::Timestamp::UNIX_EPOCH };
        let memory = PolicyMemory { programmed: Some(programmed), ..PolicyMemory::default() };
        let version = db.store.policy_get(&key("a")).await.unwrap().unwrap().record.version;
        let (conditions, clusters, notes) = (vec![], vec![], vec![]);
        let status = PolicyStatus {
            observed_version: version,
            conditions,
            clusters,
            rule: None,
            notes,
            failover: Default::default(),
        };
        db.store.policy_status_save(fence(&db.store).await, &policy.record.uid, &status, &memory).await.unwrap();
    };
    let set = async |blue: u32, green: u32| {
        let wanted = [("blue".to_owned(), blue), ("green".to_owned(), green)];
        db.store.policy_set_weights(&fresh(), &key("a"), &wanted, 0).await
    };
    read_back(100, 0).await;
    set(75, 25).await.unwrap();
    let error = set(50, 50).await.unwrap_err();
    assert!(
        matches!(&error, ApplyError::Held { findings } if findings.iter().all(|f| f.guard == Guard::MinStepInterval)),
        "{error:?}"
    );
    read_back(75, 25).await;
    set(50, 50).await.expect("read back, and that long ago");
}

#[tokio::test]
async fn a_resource_makes_one_shift_ever_and_a_refused_one_makes_none() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let (plan, uid) = (flip(&["a"], "green"), "u-1".parse().unwrap());
    let made = db.store.shift_create(&fresh(), &plan, &resource("u-1")).await.unwrap();
    let held = fence(&db.store).await;
    assert!(drive(&db.store, held, &made.id).await);
    let again = db.store.shift_create(&fresh(), &plan, &resource("u-1")).await.unwrap();
    assert_eq!((again.id.clone(), again.state), (made.id.clone(), State::Stepping), "as it is now");
    assert!(drive(&db.store, held, &made.id).await);
    let kept = Retention { shifts: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&kept).await.unwrap().shifts, 1);
    let error = db.store.shift_create(&fresh(), &plan, &resource("u-1")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::ResourceForgotten { shift } if *shift == made.id), "{error:?}");

    let waits = db.store.shift_create(&fresh(), &flip(&["missing"], "green"), &resource("u-2")).await.unwrap_err();
    assert!(matches!(waits, ShiftError::Start(StartError::NotFound(_))), "{waits:?}");
    let blue = cluster("blue");
    let known = db.store.shift_resources(&blue, &[uid, "u-2".parse().unwrap()]).await.unwrap();
    assert_eq!(known.len(), 1, "one that waits is not remembered: {known:?}");
    let refused = db.store.shift_resource_refuse(&blue, &"u-2".parse().unwrap(), "spec is wrong").await.unwrap();
    assert_eq!((refused.shift.clone(), refused.refused.as_deref()), (None, Some("spec is wrong")));
    let same = db.store.shift_resource_refuse(&blue, &"u-2".parse().unwrap(), "another word").await.unwrap();
    assert_eq!(same, refused, "the first word stays");
    let error = db.store.shift_create(&fresh(), &flip(&["b"], "green"), &resource("u-2")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::ResourceRefused { why } if why == "spec is wrong"), "{error:?}");
    let made = db.store.shift_resource_refuse(&blue, &"u-1".parse().unwrap(), "too late").await.unwrap();
    assert!(made.shift.is_some() && made.refused.is_none(), "{made:?}");
}

#[tokio::test]
async fn a_resource_written_as_paused_approved_or_aborted_is_so_from_its_first_moment() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let paused = plan(json!({"policies": [{"name": "a", "to": "green"}], "paused": true, "approvedStep": 1}));
    let made = db.store.shift_create(&fresh(), &paused, &resource("u-1")).await.unwrap();
    assert!(made.pause.is_some());
    assert_eq!((made.approved, made.version), (Some(0), 1));
    assert!(!drive(&db.store, fence(&db.store).await, &made.id).await, "a paused shift does not move");
    let aborted = plan(json!({"policies": [{"name": "b", "to": "green"}], "abort": true}));
    let made = db.store.shift_create(&fresh(), &aborted, &resource("u-2")).await.unwrap();
    assert_eq!(made.state, State::Aborted);
    assert_eq!(stored(&db.store, &made.id).await, made);
    create(&db.store, &flip(&["b"], "green")).await.expect("an ended shift holds no policy");
}

#[tokio::test]
async fn shifts_are_listed_newest_first_page_by_page_and_by_what_they_are_about() {
    let db = database().await;
    policies(&db, &["a", "b", "c"]).await;
    let mut other = manifest("a", &[("blue", 1), ("green", 0)]);
    other.metadata.namespace = "billing".to_owned();
    db.store.policy_apply(&fresh(), &other, &valid(&other), 0).await.unwrap();
    let mut made = Vec::new();
    for plan in [
        flip(&["a", "b"], "green"),
        flip(&["c"], "green"),
        plan(json!({"policies": [{"namespace": "billing", "name": "a", "to": "green"}]})),
    ] {
        made.insert(0, create(&db.store, &plan).await.unwrap().id);
    }
    db.store.shift_command(&fresh(), &made[1], &Command::Abort).await.unwrap();
    let list = async |filter: ShiftFilter| {
        let page = db.store.shifts_list(&filter, None, 10).await.unwrap();
        assert_eq!(page.next, None);
        page.shifts.into_iter().map(|shift| shift.id).collect::<Vec<_>>()
    };
    assert_eq!(list(ShiftFilter::default()).await, made);
    assert_eq!(list(ShiftFilter { active: true, ..ShiftFilter::default() }).await, [made[0].clone(), made[2].clone()]);
    let shop = Some("shop".parse().unwrap());
    assert_eq!(list(ShiftFilter { namespace: shop, ..ShiftFilter::default() }).await, made[1..]);
    assert_eq!(list(ShiftFilter { policy: Some(key("b")), ..ShiftFilter::default() }).await, made[2..]);

    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = db.store.shifts_list(&ShiftFilter::default(), after.as_ref(), 1).await.unwrap();
        seen.extend(page.shifts.into_iter().map(|shift| shift.id));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn the_newest_of_the_shifts_that_succeeded_is_the_one_to_take_back() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let uid = db.store.policy_get(&key("a")).await.unwrap().unwrap().record.uid;
    let held = fence(&db.store).await;
    assert_eq!(db.store.shift_last_succeeded(&uid).await.unwrap(), None);
    let mut last = None;
    for to in ["green", "blue"] {
        let made = create(&db.store, &flip(&["a"], to)).await.unwrap();
        while drive(&db.store, held, &made.id).await {}
        last = Some(stored(&db.store, &made.id).await);
    }
    let aborted = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    db.store.shift_command(&fresh(), &aborted.id, &Command::Abort).await.unwrap();
    assert_eq!(db.store.shift_last_succeeded(&uid).await.unwrap(), last);
}

#[tokio::test]
async fn only_ended_shifts_are_forgotten_and_only_after_their_time() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let ended = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    db.store.shift_command(&fresh(), &ended.id, &Command::Abort).await.unwrap();
    let active = in_first_step(&db, &["b"]).await;
    assert_eq!(db.store.purge(&Retention::default()).await.unwrap().shifts, 0);
    assert!(db.store.shift_get(&ended.id).await.unwrap().is_some());
    let none = Retention { shifts: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&none).await.unwrap().shifts, 1);
    assert_eq!(db.store.shift_get(&ended.id).await.unwrap(), None);
    assert_eq!(stored(&db.store, &active.id).await, active);
    assert_eq!(actions(&db, "a").await, ["shift-create", "shift-abort"], "the audit log keeps what it said");
}

#[tokio::test]
async fn a_shift_that_a_newer_version_wrote_stands_in_nobodys_way_but_its_own() {
    let db = database().await;
    policies(&db, &["a", "b"]).await;
    let (later, known) = (in_first_step(&db, &["a"]).await, in_first_step(&db, &["b"]).await);
    let mut mirror = Mirror::empty();
    mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    assert_eq!(mirror.shifts.len(), 2);
    let rewrite = "update shifts set version = version + 1, change = (select shifts from policy_changes), \
                   doc = jsonb_set(jsonb_set(doc, '{version}', to_jsonb(version + 1)), \
                   '{why}', '\"SomethingNew\"') where id = $1";
    sqlx::query("update policy_changes set last = last + 1, shifts = last + 1").execute(&db.raw).await.unwrap();
    sqlx::query(rewrite).bind(later.id.as_str()).execute(&db.raw).await.unwrap();
    let error = db.store.shift_command(&fresh(), &later.id, &Command::Abort).await.unwrap_err();
    assert!(matches!(error, ShiftError::Store(StoreError::Unreadable { .. })), "{error:?}");
    let page = db.store.shifts_list(&ShiftFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.shifts, std::slice::from_ref(&known));
    mirror.refresh(&db.store, None, NEVER_STALE).await.unwrap();
    assert_eq!(mirror.shifts.keys().collect::<Vec<_>>(), [&known.id], "what was known of the other is no longer so");
    let held = fence(&db.store).await;
    let of_known = look(&db.store, &known).await;
    let updates = [
        ShiftUpdate { before_version: 3, shift: &later, writes: &[] },
        ShiftUpdate { before_version: 2, shift: &of_known.shift, writes: &of_known.writes },
    ];
    assert_eq!(db.store.shifts_save(held, &updates).await.unwrap(), [known.id]);
    db.store.policy_mark_deleting(&fresh(), &key("a"), 0).await.expect("a policy can go all the same");
}

#[tokio::test]
async fn without_its_database_the_store_says_so_and_changes_nothing() {
    let db = database().await;
    policies(&db, &["a"]).await;
    let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let held = fence(&db.store).await;
    let outcome = look(&db.store, &made).await;
    db.store.close().await;
    let error = create(&db.store, &flip(&["a"], "blue")).await.unwrap_err();
    assert!(matches!(&error, ShiftError::Store(error) if error.is_unavailable()), "{error:?}");
    let error = db.store.shift_command(&fresh(), &made.id, &Command::Abort).await.unwrap_err();
    assert!(matches!(&error, ShiftError::Store(error) if error.is_unavailable()), "{error:?}");
    let update = ShiftUpdate { before_version: 1, shift: &outcome.shift, writes: &outcome.writes };
    let error = db.store.shifts_save(held, &[update]).await.unwrap_err();
    assert!(matches!(&error, FencedError::Store(error) if error.is_unavailable()), "{error:?}");
    let versions: Vec<i64> = sqlx::query_scalar("select version from shifts").fetch_all(&db.raw).await.unwrap();
    assert_eq!(versions, [1]);
}
