//! `audit` and `audit verify` as a process: filters, pages, and what a changed log comes to.

use switchyard_core::audit::{BEFORE_THE_FIRST, Link};
use switchyard_proto::api::v1 as pb;
use tonic::Status;

use crate::{
    access_support::{AccessScript, caller, everything},
    support::{Answer, Hub, Script, queue},
};

/// A log whose hashes are right, made here by hand.
fn log(count: u64) -> Vec<pb::AuditEntry> {
    let mut previous = BEFORE_THE_FIRST;
    let mut log = Vec::new();
    for id in 1..=count {
        let at = jiff::Timestamp::from_second(1_767_322_800).unwrap();
        let (reason, detail) = (format!("release {id}"), r#"{"step": 1}"#);
        let link = Link {
            id,
            at,
            actor: "token:ci",
            action: "shift-create",
            policy: "shop/checkout",
            shift_id: "",
            detail,
            reason: &reason,
            request_id: "",
            source: "10.0.3.7",
            result: "done",
        };
        let hash = link.hash(&previous);
        log.push(pb::AuditEntry {
            id,
            at: Some(prost_types::Timestamp { seconds: 1_767_322_800, nanos: 0 }),
            actor: "token:ci".into(),
            action: "shift-create".into(),
            policy: "shop/checkout".into(),
            reason,
            detail_json: detail.into(),
            source: "10.0.3.7".into(),
            result: "done".into(),
            previous_hash: previous.to_vec(),
            hash: hash.to_vec(),
            ..Default::default()
        });
        previous = hash;
    }
    log
}

fn page(entries: &[pb::AuditEntry], next: &str) -> Answer<pb::ListAuditEntriesResponse> {
    Answer::Ok(pb::ListAuditEntriesResponse { entries: entries.to_vec(), next_page_token: next.into() })
}

/// A hub whose newest entry is the last of `whole`, and which lists these pages.
async fn hub(whole: &[pb::AuditEntry], pages: Vec<Answer<pb::ListAuditEntriesResponse>>) -> Hub {
    let newest = whole.last().cloned().unwrap_or_default();
    let head = pb::GetAuditHeadResponse { id: newest.id, hash: newest.hash, at: newest.at };
    let script = Script {
        access: AccessScript { who: queue([everything(pb::Role::Viewer)]), ..Default::default() },
        audit_head: queue([Answer::Ok(head)]),
        audit: queue(pages),
        ..Script::default()
    };
    Hub::start(script).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_whole_log_is_read_oldest_first_and_verified_page_by_page() {
    let whole = log(7);
    let hub = hub(&whole, vec![page(&whole[..3], "a"), page(&whole[3..6], "b"), page(&whole[6..], "")]).await;
    let ran = hub.yardctl("audit verify -n shop -o json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!((&json["verified"], &json["entries"], &json["problem"]), (&true.into(), &7.into(), &().into()));
    assert_eq!((&json["first_id"], &json["last_id"]), (&1.into(), &7.into()));
    assert_eq!(json["head"], hex(&whole[6].hash));
    let seen = hub.seen.audit.lock().unwrap();
    let pages: Vec<&str> = seen.iter().map(|request| request.page_token.as_str()).collect();
    assert_eq!(pages, ["", "a", "b"]);
    assert!(seen.iter().all(|request| request.oldest_first && request.namespace.is_empty()), "all of it: {seen:?}");
    assert!(seen.iter().all(|request| request.after_id == 0));
}

#[tokio::test]
async fn verifying_goes_on_from_where_it_ended_and_asks_for_nothing_before() {
    let whole = log(7);
    let (kept, head) = (hex(&whole[3].hash), hex(&whole[6].hash));
    let hub = hub(&whole, vec![page(&whole[3..5], "a"), page(&whole[5..], "")]).await;
    let ran = hub.yardctl(&format!("audit verify --since-id 4 --head {kept} -o json")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!((&json["entries"], &json["first_id"], &json["kept_id"]), (&4.into(), &4.into(), &4.into()));
    assert_eq!(json["head"], head);
    let seen = hub.seen.audit.lock().unwrap();
    assert_eq!(seen.iter().map(|request| request.after_id).collect::<Vec<_>>(), [3, 3]);
}

#[tokio::test]
async fn a_hub_whose_pages_turn_round_is_not_followed_for_ever() {
    let whole = log(4);
    let round = || vec![page(&whole[..2], "a"), page(&whole[..2], "b"), page(&whole[..2], "c")];
    let hub = Hub::start(Script { audit: queue(round()), ..Script::default() }).await;
    let ran = hub.yardctl("audit --oldest-first -o jsonl").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the hub's pages do not end: after entry 2 came one that ends with entry 2"), "{ran:?}");
    assert_eq!(hub.seen.audit.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_head_that_was_kept_is_found_again_or_missed() {
    let whole = log(5);
    let kept = hex(&whole[2].hash);
    let ran = hub(&whole, vec![page(&whole, "")]).await.yardctl(&format!("audit verify --head {kept}")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("5 entries fit together, 1 to 5\n") && ran.out.contains("the hash of entry 3"), "{ran:?}");
    let other = "00".repeat(32);
    let ran = hub(&whole, vec![page(&whole, "")]).await.yardctl(&format!("audit verify --head {other}")).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("no entry has the hash {other} that was kept")), "{ran:?}");
    let ran = hub(&whole, vec![page(&whole, "")]).await.yardctl("audit verify --head abc").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    let line = format!("audit verify --since-id 3 --head {kept} -o json");
    let ran = hub(&whole, vec![page(&whole, "")]).await.yardctl(&line).await;
    assert_eq!((&ran.json()["entries"], &ran.json()["kept_id"]), (&3.into(), &3.into()), "{ran:?}");
}

#[tokio::test]
async fn a_changed_a_missing_and_a_moved_entry_are_named_and_the_rest_is_not_read() {
    let whole = log(6);
    let mut tampered = whole.clone();
    tampered[2].reason = "another release".into();
    let mut missing = whole.clone();
    missing.remove(3);
    let mut moved = whole.clone();
    moved.swap(1, 2);
    for (log, says) in [
        (tampered, "entry 3 was changed after it was written"),
        (missing, "entry 5 does not follow entry 3"),
        (moved, "entry 3 does not follow entry 1"),
        (whole[..4].to_vec(), "the entries end with 4, and the hub says that its newest is entry 6"),
    ] {
        let hub = hub(&whole, vec![page(&log, "")]).await;
        let ran = hub.yardctl("audit verify -o json").await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(ran.json()["verified"], false, "{ran:?}");
        assert!(ran.json()["problem"].as_str().unwrap().starts_with(says), "{ran:?}");
        assert!(ran.err.contains(&format!("error: the audit log does not fit together: {says}")), "{ran:?}");
        assert!(ran.err.contains("remedy: "), "{ran:?}");
    }
    // Of the page after the broken one the script has nothing: it is not asked for.
    let mut tampered = whole.clone();
    tampered[0].hash[0] ^= 1;
    assert_eq!(hub(&whole, vec![page(&tampered[..2], "more")]).await.yardctl("audit verify").await.code, 1);
}

#[tokio::test]
async fn who_does_not_see_everything_is_told_so_instead_of_a_broken_log() {
    let part = pb::Grant {
        role: pb::Role::Admin as i32,
        namespaces: vec!["shop".into()],
        clusters: vec!["*".into()],
        overrides: true,
    };
    let access = AccessScript { who: queue([caller(vec![part])]), ..Default::default() };
    let ran = Hub::start(Script { access, ..Script::default() }).await.yardctl("audit verify").await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.err.contains("token:ci does not see all of it"), "{ran:?}");
    let who = Answer::Refuse(Status::unauthenticated("no token"));
    let access = AccessScript { who: queue([who]), ..Default::default() };
    let ran = Hub::start(Script { access, ..Script::default() }).await.yardctl("audit verify").await;
    assert_eq!(ran.code, 9, "{ran:?}");
}

#[tokio::test]
async fn refused_calls_are_listed_with_where_they_came_from() {
    let mut refused = log(1);
    refused[0].result = "refused".into();
    let hub = Hub::start(Script { audit: queue([page(&refused, ""), page(&refused, "")]), ..Script::default() }).await;
    let ran = hub.yardctl("audit --result refused").await;
    assert!(ran.code == 0 && ran.out.contains("  refused  ") && ran.out.contains("  10.0.3.7  "), "{ran:?}");
    let ran = hub.yardctl("audit --result refused -o json").await;
    let entry = &ran.json()["entries"][0];
    assert_eq!((&entry["result"], &entry["source"]), (&"refused".into(), &"10.0.3.7".into()));
    assert_eq!(entry["hash"], hex(&refused[0].hash));
    assert!(hub.seen.audit.lock().unwrap().iter().all(|request| request.result == "refused"));
    assert_eq!(hub.yardctl("audit --result maybe").await.code, 2);
}

#[tokio::test]
async fn a_policy_that_is_called_verify_is_named_with_its_namespace() {
    let hub = Hub::start(Script { audit: queue([page(&log(1), "")]), ..Script::default() }).await;
    let ran = hub.yardctl("audit default/verify").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hub.seen.audit.lock().unwrap()[0].policy.as_ref().unwrap().name, "verify");
}
