//! AuditService over real gRPC and a real Postgres: who moved what, page by page.

mod enrollment_support;
mod grpc_support;
mod shift_support;
mod store_support;

use enrollment_support::Port;
use grpc_support::{Hub, hub, manifest, policy_ref, weights};
use prost::Message;
use shift_support::{abort, create, drive, request_id, steps};
use switchyard_core::audit::{Link, Verifier};
use switchyard_proto::api::v1 as api;
use tonic::{Code, Status};

async fn page(hub: &Hub, request: api::ListAuditEntriesRequest) -> Result<api::ListAuditEntriesResponse, Status> {
    Ok(hub.audit().list_audit_entries(request).await?.into_inner())
}

async fn all(hub: &Hub, request: api::ListAuditEntriesRequest) -> Vec<api::AuditEntry> {
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let answer = page(hub, api::ListAuditEntriesRequest { page_token: token, ..request.clone() }).await.unwrap();
        assert!(request.page_size == 0 || answer.entries.len() <= request.page_size as usize);
        seen.extend(answer.entries);
        token = answer.next_page_token;
        if token.is_empty() {
            return seen;
        }
    }
}

fn actions(entries: &[api::AuditEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.action.as_str()).collect()
}

#[tokio::test]
async fn the_course_of_a_shift_is_told_with_weights_reasons_and_overrides() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    hub.apply(&format!("{text}  safety: {{maxStepPercent: 50}}\n")).await.unwrap();
    hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap();
    let spec = api::ShiftSpec {
        overrides: vec!["MaxStepPercent".to_owned()],
        reason: "upgrade of blue".to_owned(),
        ..steps("web", "green", &[(75, true), (100, false)])
    };
    let request = api::CreateShiftRequest { request_id: "deploy-7".to_owned(), spec: Some(spec), dry_run: false };
    let id = hub.shifts().create_shift(request).await.unwrap().into_inner().shift.unwrap().id;
    drive(&hub, &id).await;
    abort(&hub, &id).await.unwrap();
    drive(&hub, &id).await;

    let of_shift = api::ListAuditEntriesRequest { shift_id: id.clone(), oldest_first: true, ..Default::default() };
    let told = all(&hub, of_shift).await;
    assert_eq!(actions(&told), ["shift-create", "shift-step", "shift-abort", "shift-end"]);
    let (made, step, back) = (&told[0], &told[1], &told[2]);
    assert_eq!((made.policy.as_str(), made.request_id.as_str()), ("shop/web", "deploy-7"));
    assert_eq!((made.actor.as_str(), made.reason.as_str()), ("development", "upgrade of blue"));
    assert_eq!(made.overrides, ["MaxStepPercent"]);
    assert!(told.iter().all(|entry| entry.shift_id == id && entry.at.is_some()));
    assert_eq!(made.from_weights, weights(&[("blue", 100), ("green", 0)]));
    assert_eq!(made.to_weights, weights(&[("blue", 0), ("green", 100)]));
    assert_eq!((step.actor.as_str(), &step.to_weights), ("switchyard-hub", &weights(&[("blue", 25), ("green", 75)])));
    assert_eq!(back.from_weights, weights(&[("blue", 25), ("green", 75)]));
    assert_eq!(back.to_weights, weights(&[("blue", 100), ("green", 0)]));
    let detail: serde_json::Value = serde_json::from_str(&made.detail_json).unwrap();
    assert_eq!(detail["steps"], serde_json::json!([75, 100]));

    // A rollback may pass rules that slow down; that nobody asked for is no override.
    let forward = create(&hub, steps("web", "green", &[(50, false), (100, false)])).await.unwrap().id;
    drive(&hub, &forward).await;
    let request = api::RollbackShiftRequest { request_id: request_id(), id: forward, ..Default::default() };
    let back = hub.shifts().rollback_shift(request).await.unwrap().into_inner().shift.unwrap().id;
    let told = all(&hub, api::ListAuditEntriesRequest { shift_id: back, ..Default::default() }).await;
    assert_eq!((actions(&told), told[0].overrides.len()), (vec!["shift-create"], 0));
    hub.stop().await;
}

#[tokio::test]
async fn entries_come_in_pages_in_both_directions_and_by_every_filter() {
    let hub = hub().await;
    for name in ["web", "api"] {
        hub.apply(&manifest(name, &[("blue", 100), ("green", 0)])).await.unwrap();
    }
    for i in 1..=60 {
        let set = api::SetWeightsRequest {
            request_id: request_id(),
            policy: Some(policy_ref("web")),
            weights: weights(&[("green", i)]),
            ..Default::default()
        };
        hub.policies().set_weights(set).await.unwrap();
    }
    let newest = all(&hub, api::ListAuditEntriesRequest::default()).await;
    assert_eq!(newest.len(), 62);
    assert!(newest.is_sorted_by(|a, b| a.id > b.id));
    assert_eq!(newest[0].to_weights, weights(&[("blue", 100), ("green", 60)]));
    for size in [1, 7, 50, 51, 62, 1000] {
        let request = api::ListAuditEntriesRequest { page_size: size, oldest_first: true, ..Default::default() };
        let oldest = all(&hub, request).await;
        assert!(oldest.iter().eq(newest.iter().rev()), "pages of {size}");
    }
    let of = |filter: api::ListAuditEntriesRequest| all(&hub, filter);
    // From an entry on, whole and in pages, and in the other direction down to it.
    for (after_id, oldest_first, page_size) in
        [(59, true, 0), (59, true, 2), (59, false, 2), (0, true, 0), (62, true, 0)]
    {
        let seen = of(api::ListAuditEntriesRequest { after_id, oldest_first, page_size, ..Default::default() }).await;
        let mut ids: Vec<u64> = seen.iter().map(|entry| entry.id).collect();
        assert!(ids.is_sorted_by(|a, b| (a < b) == oldest_first), "{ids:?}");
        ids.sort_unstable();
        assert_eq!(ids, (after_id + 1..=62).collect::<Vec<_>>());
    }
    let policy = Some(policy_ref("api"));
    assert_eq!(actions(&of(api::ListAuditEntriesRequest { policy, ..Default::default() }).await), ["apply"]);
    let namespace = "other".to_owned();
    assert!(of(api::ListAuditEntriesRequest { namespace, ..Default::default() }).await.is_empty());
    let actor = "development".to_owned();
    assert_eq!(of(api::ListAuditEntriesRequest { actor, ..Default::default() }).await.len(), 62);
    let actor = "somebody".to_owned();
    assert!(of(api::ListAuditEntriesRequest { actor, ..Default::default() }).await.is_empty());
    // From the third newest on, without the newest: two.
    let (since, before) = (newest[2].at, newest[0].at);
    let between = of(api::ListAuditEntriesRequest { since, before, ..Default::default() }).await;
    assert!(between.iter().eq(newest[1..3].iter()), "{between:?}");
    hub.stop().await;
}

#[tokio::test]
async fn the_chain_is_verified_from_what_the_api_gives_and_its_head_agrees() {
    let hub = hub().await;
    assert_eq!(hub.audit().get_audit_head(api::GetAuditHeadRequest {}).await.unwrap().into_inner(), Default::default());
    hub.apply(&manifest("web", &[("blue", 100), ("green", 0)])).await.unwrap();
    hub.delete("web").await.unwrap();
    hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap();
    let entries = all(&hub, api::ListAuditEntriesRequest { oldest_first: true, ..Default::default() }).await;
    let mut verifier = Verifier::from_the_first();
    for entry in &entries {
        let at = entry.at.as_ref().unwrap();
        let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap();
        let link = Link {
            id: entry.id,
            at,
            actor: &entry.actor,
            action: &entry.action,
            policy: &entry.policy,
            shift_id: &entry.shift_id,
            detail: &entry.detail_json,
            reason: &entry.reason,
            request_id: &entry.request_id,
            source: &entry.source,
            result: &entry.result,
        };
        verifier.take(&link, &entry.previous_hash, &entry.hash).unwrap();
    }
    assert_eq!((verifier.count(), entries[0].source.as_str(), entries[0].result.as_str()), (3, "127.0.0.1", "done"));
    let head = hub.audit().get_audit_head(api::GetAuditHeadRequest {}).await.unwrap().into_inner();
    assert_eq!((head.id, head.hash, head.at), (entries[2].id, entries[2].hash.clone(), entries[2].at));
    hub.stop().await;
}

#[tokio::test]
async fn callers_of_some_namespaces_read_the_entries_of_those_and_refusals_are_for_those_who_see_all() {
    let hub = enrollment_support::hub().await;
    let (admin, shop, viewer) = (Port::caller(&hub, "admin"), Port::caller(&hub, "shop"), Port::caller(&hub, "viewer"));
    let (spec, mut other) =
        (store_support::manifest("web", &[("blue", 1)]), store_support::manifest("web", &[("blue", 1)]));
    other.metadata.namespace = "other".parse().unwrap();
    store_support::apply(&hub.store, &spec).await;
    store_support::apply(&hub.store, &other).await;
    let read = async |port: &Port, request: api::ListAuditEntriesRequest| {
        port.audit().list_audit_entries(request).await.map(|answer| answer.into_inner().entries)
    };
    // What he may not do is in the log, with who, from where and why not.
    let refused = shop.rotate().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let only = || api::ListAuditEntriesRequest { result: "refused".to_owned(), ..Default::default() };
    let noted =
        grpc_support::eventually("the refusal in the log", async || read(&viewer, only()).await.unwrap().pop()).await;
    assert_eq!((noted.action.as_str(), noted.source.as_str()), ("AccessService/RotateAuthority", "192.0.2.7"));
    assert!(noted.actor.starts_with("certificate:CN=shop") && noted.detail_json.contains("permission_denied"));

    assert_eq!(read(&admin, api::ListAuditEntriesRequest::default()).await.unwrap().len(), 4);
    let seen = read(&shop, api::ListAuditEntriesRequest::default()).await.unwrap();
    assert_eq!(seen.iter().map(|entry| entry.policy.as_str()).collect::<Vec<_>>(), ["shop/web"]);
    assert_eq!(read(&shop, only()).await.unwrap(), []);
    let policy = api::PolicyRef { namespace: "other".to_owned(), name: "web".to_owned() };
    let asked = [
        api::ListAuditEntriesRequest { namespace: "other".to_owned(), ..Default::default() },
        api::ListAuditEntriesRequest { policy: Some(policy), ..Default::default() },
    ];
    for request in asked {
        assert_eq!(read(&shop, request).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let head = shop.audit().get_audit_head(api::GetAuditHeadRequest {}).await;
    assert_eq!(head.unwrap_err().code(), Code::PermissionDenied);
    viewer.audit().get_audit_head(api::GetAuditHeadRequest {}).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_to_arrive() {
    let hub = hub().await;
    // Each entry holds the specs before and after.
    let hosts = |i: usize| (0..1500).map(|n| format!("h{n}-{i}.a-rather-long-name.example.com")).collect::<Vec<_>>();
    let raw = sqlx::PgPool::connect(&hub.url).await.unwrap();
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    // The schema lets nobody change an entry; large ones are written as the store would write them.
    let insert = "insert into audit (at, actor, action, policy, detail, reason, request_id) \
                  values (clock_timestamp(), 'a', 'apply', 'shop/web', $1, '', $2)";
    for i in 0..60 {
        let detail = sqlx::types::Json(serde_json::json!({"new": hosts(i)}));
        sqlx::query(insert).bind(detail).bind(format!("r{i}")).execute(&raw).await.unwrap();
    }
    let first = page(&hub, api::ListAuditEntriesRequest { page_size: 1000, ..Default::default() }).await.unwrap();
    assert!(first.encoded_len() < 3 * 1024 * 1024 && first.entries.len() < 61 && !first.next_page_token.is_empty());
    assert_eq!(all(&hub, api::ListAuditEntriesRequest::default()).await.len(), 61);
    hub.stop().await;
}

#[tokio::test]
async fn bad_filters_are_refused_with_the_field() {
    let hub = hub().await;
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let cases = [
        (api::ListAuditEntriesRequest { namespace: "Shop".to_owned(), ..Default::default() }, "namespace"),
        (api::ListAuditEntriesRequest { policy: Some(policy_ref("")), ..Default::default() }, "policy.name"),
        (api::ListAuditEntriesRequest { shift_id: "a b".to_owned(), ..Default::default() }, "shift_id"),
        (api::ListAuditEntriesRequest { actor: "x".repeat(257), ..Default::default() }, "actor"),
        (api::ListAuditEntriesRequest { actor: "a\0b".to_owned(), ..Default::default() }, "actor"),
        (api::ListAuditEntriesRequest { since: time(i64::MIN, 0), ..Default::default() }, "since"),
        (api::ListAuditEntriesRequest { since: time(0, -1), ..Default::default() }, "since"),
        (api::ListAuditEntriesRequest { before: time(253_402_300_800, 0), ..Default::default() }, "before"),
        (api::ListAuditEntriesRequest { result: "Done".to_owned(), ..Default::default() }, "result"),
        (api::ListAuditEntriesRequest { after_id: 1 << 63, ..Default::default() }, "after_id"),
        (api::ListAuditEntriesRequest { page_size: 1001, ..Default::default() }, "page_size"),
        (api::ListAuditEntriesRequest { page_token: "zz".to_owned(), ..Default::default() }, "page_token"),
        (api::ListAuditEntriesRequest { page_token: "6162".to_owned(), ..Default::default() }, "page_token"),
    ];
    for (request, field) in cases {
        let refused = page(&hub, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        let named = api::Violations::decode(refused.details()).unwrap().violations;
        assert_eq!(named[0].field, field, "{refused:?}");
        assert!(!named[0].remedy.is_empty());
    }
    // The first and the last moment that protobuf knows.
    for edge in [time(-62_135_596_800, 0), time(253_402_300_799, 999_999_999)] {
        let request = api::ListAuditEntriesRequest { since: edge, before: edge, ..Default::default() };
        assert_eq!(page(&hub, request).await.unwrap().entries, []);
    }
    hub.stop().await;
}

#[tokio::test]
async fn applying_and_deleting_say_why_and_a_repeated_call_need_not_say_it_alike() {
    let hub = hub().await;
    let apply = |id: &str, reason: &str, dry_run| api::ApplyPolicyRequest {
        request_id: id.to_owned(),
        manifest: manifest("web", &[("blue", 1)]),
        reason: reason.to_owned(),
        dry_run,
        ..Default::default()
    };
    let delete = |id: &str, reason: &str, dry_run| api::DeletePolicyRequest {
        request_id: id.to_owned(),
        policy: Some(policy_ref("web")),
        reason: reason.to_owned(),
        dry_run,
        ..Default::default()
    };
    let set = |reason: &str| api::SetWeightsRequest {
        policy: Some(policy_ref("web")),
        weights: weights(&[("blue", 2)]),
        reason: reason.to_owned(),
        dry_run: true,
        ..Default::default()
    };
    hub.policies().apply_policy(apply("a", "the first release", false)).await.unwrap();
    hub.policies().apply_policy(apply("a", "once more, in other words", false)).await.unwrap();
    hub.policies().delete_policy(delete("d", "the shop is closed", false)).await.unwrap();
    hub.policies().delete_policy(delete("d", "", false)).await.unwrap();
    let told = all(&hub, api::ListAuditEntriesRequest { oldest_first: true, ..Default::default() }).await;
    let told: Vec<_> = told.iter().map(|entry| (entry.action.as_str(), entry.reason.as_str())).collect();
    assert_eq!(told, [("apply", "the first release"), ("delete", "the shop is closed")]);
    // 1024 characters are no 1024 bytes; and a dry run refuses what the change would.
    for bad in ["ä".repeat(1025), "a\0b".to_owned()] {
        for dry_run in [false, true] {
            let refused = [
                hub.policies().apply_policy(apply("b", &bad, dry_run)).await.unwrap_err(),
                hub.policies().delete_policy(delete("c", &bad, dry_run)).await.unwrap_err(),
                hub.policies().set_weights(set(&bad)).await.unwrap_err(),
            ];
            for status in refused {
                let named = api::Violations::decode(status.details()).unwrap().violations;
                assert_eq!((status.code(), named[0].field.as_str()), (Code::InvalidArgument, "reason"), "{status:?}");
            }
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_spent_join_token_that_is_shown_from_everywhere_is_one_entry() {
    let hub = enrollment_support::hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let secret = admin.join_token("blue").await.secret;
    nobody.join("blue", &secret, &enrollment_support::csr()).await.unwrap();
    for n in 0..40_u16 {
        let from = nobody.clone().at(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into());
        from.join("blue", &secret, &enrollment_support::csr()).await.unwrap_err();
    }
    let request = api::ListAuditEntriesRequest { result: "refused".to_owned(), ..Default::default() };
    let seen = admin.audit().list_audit_entries(request).await.unwrap().into_inner().entries;
    let replayed = seen.iter().filter(|entry| entry.action == "join-token.replayed").count();
    assert_eq!(replayed, 1, "{seen:?}");
    hub.stop().await;
}
