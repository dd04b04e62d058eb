//! The gate in front of all services: who gets in with which proof, how often, for how long, and what stays of those who did not.

mod access_support;
mod store_support;

use std::{sync::atomic::Ordering, time::Duration};

use access_support::{
    APPLY, DELETE, ENROL, Gate, HEALTH, LIST, Peer, RENEW, SESSION, SWITCH, WATCH, WHO, admin, eventually, gate,
    gate_with,
};
use axum::body::Body;
use bytes::Bytes;
use store_support::database_url;
use switchyard_core::access::{Grant, Kind, Role, Span, Who, table::TABLE};
use switchyard_hub::{
    access::{
        AccessSettings,
        rates::{AccessRates, Pace},
    },
    door::RootSet,
    store::AuditResult,
};
use tokio::{sync::mpsc, time::timeout};
use tonic::Code;

const ACCESS: &str = "
bindings:
  - {role: admin, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: root}}]}
  - {role: operator, namespaces: [shop], clusters: ['*'], subjects: [{certificate: {commonName: deploy}}]}
";

fn grant(role: Role) -> Grant {
    Grant { role, overrides: false, ..Grant::everything() }
}

fn over(namespace: &str, role: Role) -> Grant {
    Grant { namespaces: Span::Only([namespace.parse().unwrap()].into()), ..grant(role) }
}

/// Refusals are written at once, and paces are slow.
fn settings(rates: AccessRates) -> AccessSettings {
    AccessSettings { rates, refusals_every: Duration::from_millis(50), ..AccessSettings::default() }
}

fn slow() -> AccessRates {
    AccessRates {
        reads: Pace::new(1, 5),
        changes: Pace::new(1, 3),
        failures: Pace::new(1, 4),
        enrolments: Pace::new(1, 2),
        health: Pace::new(1, 5),
        streams: 2,
        all_streams: 3,
        ..AccessRates::default()
    }
}

#[tokio::test]
async fn every_call_of_the_table_is_closed_to_those_whom_it_does_not_name() {
    let gate = gate(ACCESS).await;
    let rates = AccessRates { failures: Pace::new(1000, 1000), ..AccessRates::default() };
    let gate = gate_with(&gate.url, ACCESS, settings(rates)).await;
    for need in TABLE {
        let path = format!("/{}", need.rpc);
        let nobody = gate.code(&path, &Peer::nobody()).await;
        let agent = gate.code(&path, &Peer::agent("blue", "0a")).await;
        let stranger = gate.code(&path, &Peer::caller("stranger")).await;
        let open = |open: bool| if open { [Code::Ok, Code::FailedPrecondition] } else { [Code::PermissionDenied; 2] };
        match need.who {
            Who::Anyone => assert_eq!((nobody, stranger), (Code::Ok, Code::Ok), "{path}"),
            _ => assert_eq!(nobody, Code::Unauthenticated, "{path}"),
        }
        let for_agents = matches!(need.who, Who::Anyone | Who::Agent) || need.rpc.starts_with("grpc.health.");
        assert!(open(for_agents).contains(&agent), "{path} by an agent: {agent}");
        let for_strangers = matches!(need.who, Who::Anyone | Who::Authenticated);
        assert!(open(for_strangers).contains(&stranger), "{path} by a stranger: {stranger}");
        let for_root = need.who != Who::Agent;
        let root = gate.code(&path, &Peer::caller("root")).await;
        assert!(open(for_root).contains(&root), "{path} by root: {root}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_in_the_table_is_refused_whoever_asks() {
    let gate = gate(ACCESS).await;
    let paths = [
        "/",
        "/switchyard.api.v1.PolicyService/NoSuchCall",
        "/switchyard.api.v1.PolicyService/ListPolicies/",
        "//switchyard.api.v1.PolicyService/ListPolicies",
        "/switchyard.api.v1.PolicyService/listpolicies",
        "/switchyard.api.v1.PolicyService/%4cistPolicies",
        "/x/../switchyard.api.v1.PolicyService/ListPolicies",
        "/grpc.health.v1.Health/Check/../../switchyard.api.v1.PolicyService/ApplyPolicy",
        "/switchyard.api.v1.PolicyService",
    ];
    for path in paths {
        for peer in [Peer::nobody(), Peer::agent("blue", "0a"), Peer::caller("root")] {
            assert_eq!(gate.code(path, &peer).await, Code::Unimplemented, "{path}");
        }
    }
}

#[tokio::test]
async fn roles_are_asked_for_and_what_is_missing_is_said() {
    let gate = gate(ACCESS).await;
    let deploy = Peer::caller("deploy");
    assert_eq!(gate.call(LIST, &deploy).await.identity, "certificate:CN=deploy (sha256:abababababababab)");
    let refused = gate.call(APPLY, &deploy).await.status;
    for part in ["role admin", "this caller has operator (namespaces shop; clusters *)", "yardctl whoami"] {
        assert!(refused.message().contains(part), "{part}: {}", refused.message());
    }
    // Over one namespace is not over the hub.
    assert_eq!(gate.code(SWITCH, &deploy).await, Code::PermissionDenied);
    assert_eq!(gate.code(SWITCH, &Peer::caller("root")).await, Code::Ok);
    assert_eq!(gate.code(SWITCH, &Peer::with(&gate.token("ops", &[grant(Role::Operator)]).await)).await, Code::Ok);
}

#[tokio::test]
async fn only_a_certificate_of_the_agents_authorities_for_exactly_one_cluster_makes_an_agent() {
    let gate = gate(ACCESS).await;
    assert_eq!(gate.call(SESSION, &Peer::agent("blue", "0a")).await.identity, "agent:blue");
    let (blue, green) = ("spiffe://switchyard/cluster/blue", "spiffe://switchyard/cluster/green");
    // A caller whose certificate says that it is an agent.
    let liar = Peer::nobody().certificate(RootSet::Callers, "blue", &[blue], "0a");
    assert_eq!(gate.code(SESSION, &liar).await, Code::PermissionDenied);
    assert_eq!(gate.code(SESSION, &Peer::caller("root")).await, Code::PermissionDenied);
    for uris in [&[][..], &[blue, green], &["spiffe://other/cluster/blue"], &["spiffe://switchyard/cluster/blue/x"]] {
        let peer = Peer::nobody().certificate(RootSet::Agents, "blue", uris, "0a");
        assert_eq!(gate.code(SESSION, &peer).await, Code::Unauthenticated, "{uris:?}");
    }
    // An agent's name in the common name, and root's: neither makes it a caller.
    let peer = Peer::nobody().certificate(RootSet::Agents, "root", &[blue], "0a");
    assert_eq!(gate.code(APPLY, &peer).await, Code::PermissionDenied);
    // A token beats the certificate, and who has one is a caller.
    let token =
        Peer { info: Peer::agent("blue", "0a").info, ..Peer::with(&gate.token("ci", &[grant(Role::Admin)]).await) };
    assert_eq!(gate.call(LIST, &token).await.identity, "token:ci");
    assert_eq!(gate.code(SESSION, &token).await, Code::PermissionDenied);
    // A token that is not accepted is not passed over for the certificate.
    let wrong = Peer { info: Peer::caller("root").info, ..Peer::with("a.b.c") };
    assert_eq!(gate.code(LIST, &wrong).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_that_has_ended_opens_nothing_on_an_old_connection() {
    let gate = gate(ACCESS).await;
    for peer in [Peer::agent("blue", "0a"), Peer::caller("root")] {
        let mut ended = peer;
        let certificate = std::sync::Arc::make_mut(ended.info.certificate.as_mut().unwrap());
        certificate.not_after = jiff::Timestamp::now() - Duration::from_secs(1);
        assert_eq!(gate.code(WHO, &ended).await, Code::Unauthenticated);
        assert_eq!(gate.code(SESSION, &ended).await, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_service_token_is_good_on_every_replica_from_the_first_moment_until_it_is_revoked() {
    let url = database_url().await;
    let (one, two) = tokio::join!(
        gate_with(&url, ACCESS, AccessSettings::default()),
        gate_with(&url, ACCESS, AccessSettings::default())
    );
    let token = one.token("ci", &[over("shop", Role::Operator)]).await;
    let peer = Peer::with(&token);
    // Neither waits for the next look at the clock.
    assert_eq!(two.call(LIST, &peer).await.identity, "token:ci");
    assert_eq!(one.code(LIST, &peer).await, Code::Ok);
    let guessed = format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { 'E' } else { 'A' });
    assert_eq!(one.code(LIST, &Peer::with(&guessed)).await, Code::Unauthenticated);
    assert_eq!(one.code(LIST, &peer.clone().plain()).await, Code::Unauthenticated);
    one.store.service_token_revoke(&admin(), "ci").await.unwrap();
    for gate in [&one, &two] {
        eventually("the token is refused", async || {
            (gate.code(LIST, &peer).await == Code::Unauthenticated).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn use_of_a_service_token_is_noted() {
    let gate = gate(ACCESS).await;
    let token = gate.token("ci", &[grant(Role::Viewer)]).await;
    assert_eq!(gate.code(LIST, &Peer::with(&token)).await, Code::Ok);
    let store = gate.stop().await;
    assert!(store.service_tokens().await.unwrap()[0].last_used_at.is_some());
}

#[tokio::test]
async fn a_live_stream_ends_within_seconds_when_its_token_is_revoked_and_no_other_does() {
    let gate = gate(ACCESS).await;
    let token = Peer::with(&gate.token("ci", &[grant(Role::Viewer)]).await);
    let other = Peer::with(&gate.token("other", &[grant(Role::Viewer)]).await);
    let (watch, mut kept) = (gate.call(WATCH, &token).await, gate.call(WATCH, &other).await);
    assert_eq!((watch.code(), kept.code()), (Code::Ok, Code::Ok));
    gate.store.service_token_revoke(&admin(), "ci").await.unwrap();
    let end = timeout(Duration::from_secs(10), watch.end()).await.expect("within seconds");
    assert_eq!((end.code(), end.message()), (Code::Unauthenticated, "the token was revoked; get a new one"));
    assert_eq!(gate.metric("switchyard_hub_access_streams_ended_total{reason=\"token_revoked\"}"), 1.0);
    // All streams are judged in one pass: had it ended this one, too, nothing more would come.
    assert_eq!(kept.piece().await, "one");
    gate.beat.send_modify(|beat| *beat += 1);
    assert_eq!(kept.piece().await, "more", "the other stream goes on");
}

#[tokio::test]
async fn a_stream_ends_with_the_life_of_the_token_that_it_was_opened_with() {
    let gate = gate(ACCESS).await;
    let token = gate.token_for("ci", &[grant(Role::Viewer)], Duration::from_secs(6)).await;
    let longer = Peer::with(&gate.token("other", &[grant(Role::Viewer)]).await);
    let (watch, mut kept) = (gate.call(WATCH, &Peer::with(&token)).await, gate.call(WATCH, &longer).await);
    assert_eq!((watch.code(), kept.code()), (Code::Ok, Code::Ok));
    let end = watch.end().await;
    let over = "the token has ended; call again with a new one";
    assert_eq!((end.code(), end.message()), (Code::Unauthenticated, over));
    assert_eq!(gate.metric("switchyard_hub_access_streams_ended_total{reason=\"token_over\"}"), 1.0);
    assert_eq!(gate.code(LIST, &Peer::with(&token)).await, Code::Unauthenticated);
    assert_eq!(kept.piece().await, "one");
    gate.beat.send_modify(|beat| *beat += 1);
    assert_eq!(kept.piece().await, "more");
}

/// As if the agent's certificate had been issued and then revoked.
async fn revoke(gate: &Gate, cluster: &str, serial: &str) {
    let raw = sqlx::PgPool::connect(&gate.url).await.unwrap();
    let authority = "insert into authorities (id, certificate_pem, created_at, issues_from, not_after) \
                     values ('0123456789abcdef', 'pem', now(), now(), now() + interval '1 year') on conflict do nothing";
    sqlx::query(authority).execute(&raw).await.unwrap();
    let insert = "insert into agent_certificates \
                  (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) values \
                  ($1, $2, 'sha256:' || repeat($1, 32), '0123456789abcdef', '', 'join-token', '', now(), now() + interval '1 day')";
    sqlx::query(insert).bind(serial).bind(cluster).execute(&raw).await.unwrap();
    let revoked = gate.store.certificates_revoke(&admin(), &cluster.parse().unwrap(), Some(serial)).await.unwrap();
    assert_eq!(revoked.len(), 1);
}

#[tokio::test]
async fn a_revoked_agent_is_not_heard_any_more_though_it_goes_on_sending() {
    let gate = gate(ACCESS).await;
    let (sender, pieces) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(pieces));
    let session = gate.send(SESSION, &Peer::agent("blue", "0a"), body).await;
    assert_eq!(session.code(), Code::Ok);
    let green = gate.call(SESSION, &Peer::agent("green", "0b")).await;
    for sent in 1..=3 {
        sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        eventually("it is read", async || (gate.read.load(Ordering::SeqCst) == sent).then_some(())).await;
    }
    revoke(&gate, "blue", "0a").await;
    let end = session.end().await;
    assert_eq!(end.code(), Code::Unauthenticated);
    assert!(end.message().contains("revoked"), "{end}");
    // The service's half is closed as well: nobody takes what is sent.
    timeout(access_support::PATIENCE, sender.closed()).await.expect("the stream stays open for what is sent");
    assert_eq!(gate.read.load(Ordering::SeqCst), 3);
    assert_eq!(gate.code(RENEW, &Peer::agent("blue", "0a")).await, Code::Unauthenticated);
    assert_eq!(gate.code(SESSION, &Peer::agent("blue", "0c")).await, Code::Ok, "a new certificate is another one");
    drop(green);
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_that_it_was_opened_with() {
    let gate = gate(ACCESS).await;
    let mut peer = Peer::agent("blue", "0a");
    let certificate = std::sync::Arc::make_mut(peer.info.certificate.as_mut().unwrap());
    certificate.not_after = jiff::Timestamp::now() + Duration::from_millis(1500);
    let session = gate.call(SESSION, &peer).await;
    assert_eq!(session.code(), Code::Ok);
    let end = session.end().await;
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unauthenticated, "the certificate has ended; connect again with the next one")
    );
}

#[tokio::test]
async fn a_caller_in_a_loop_is_told_how_long_to_wait_and_takes_nothing_from_others() {
    let gate = gate_with(&database_url().await, ACCESS, settings(slow())).await;
    let (ci, root) = (Peer::caller("deploy"), Peer::with(&gate.token("ops", &[grant(Role::Admin)]).await));
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(gate.call(LIST, &ci).await);
    }
    let refused: Vec<_> = answers.iter().filter(|answer| answer.code() == Code::ResourceExhausted).collect();
    assert!((5..=15).contains(&refused.len()), "{}", refused.len());
    let status = &refused[0].status;
    assert!(
        status.message().starts_with("too many reads: 1 a second and 5 at once are allowed; try again in 1 s"),
        "{status}"
    );
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    assert_eq!(gate.code(LIST, &root).await, Code::Ok, "another caller");
    assert_eq!(gate.code(APPLY, &Peer::caller("deploy")).await, Code::PermissionDenied, "another kind of call");
    // Health needs no proof: it is counted by address, whoever asks.
    for _ in 0..5 {
        assert_eq!(gate.code(HEALTH, &ci).await, Code::Ok);
    }
    let mut health = Vec::new();
    for _ in 0..20 {
        health.push(gate.code(HEALTH, &Peer::nobody()).await);
    }
    assert!(health.contains(&Code::ResourceExhausted), "{health:?}");
    assert_eq!(gate.code(HEALTH, &Peer::nobody().from("192.0.2.8")).await, Code::Ok, "another address");
}

#[tokio::test]
async fn proofs_that_are_not_accepted_are_counted_by_address_and_never_hold_up_good_ones() {
    let gate = gate_with(&database_url().await, ACCESS, settings(slow())).await;
    let token = gate.token("ci", &[grant(Role::Viewer)]).await;
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(gate.code(LIST, &Peer::with("a.b.c")).await);
    }
    assert_eq!(codes[..4], [Code::Unauthenticated; 4]);
    assert!(codes[4..].iter().filter(|code| **code == Code::ResourceExhausted).count() >= 10, "{codes:?}");
    assert_eq!(gate.code(LIST, &Peer::with("a.b.c").from("192.0.2.8")).await, Code::Unauthenticated, "another address");
    assert_eq!(gate.code(LIST, &Peer::with(&token)).await, Code::Ok, "the same address with a good token");
    let mut enrolments = Vec::new();
    for _ in 0..10 {
        enrolments.push(gate.code(ENROL, &Peer::nobody().from("192.0.2.9")).await);
    }
    assert_eq!(enrolments[..2], [Code::Ok; 2]);
    assert!(enrolments.contains(&Code::ResourceExhausted), "{enrolments:?}");
    assert_eq!(gate.code(ENROL, &Peer::nobody().from("192.0.2.10")).await, Code::Ok);
}

#[tokio::test]
async fn streams_are_bounded_for_each_caller_and_in_all_and_their_places_come_back() {
    let gate = gate_with(&database_url().await, ACCESS, settings(slow())).await;
    let root = Peer::caller("root");
    let (one, two) = (gate.call(WATCH, &root).await, gate.call(WATCH, &root).await);
    assert_eq!((one.code(), two.code()), (Code::Ok, Code::Ok));
    let refused = gate.call(WATCH, &root).await.status;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("2 streams"), "{refused}");
    let agent = gate.call(SESSION, &Peer::agent("blue", "0a")).await;
    assert_eq!(agent.code(), Code::Ok);
    let full = gate.call(SESSION, &Peer::agent("green", "0b")).await.status;
    assert!(full.message().contains("3 streams"), "{full}");
    drop(one);
    assert_eq!(gate.code(SESSION, &Peer::agent("green", "0b")).await, Code::Ok);
}

#[tokio::test]
async fn ten_thousand_idle_streams_are_too_many_and_leave_nothing_behind() {
    let gate = gate_with(&database_url().await, ACCESS, AccessSettings::default()).await;
    let mut open = Vec::new();
    let mut refused = 0;
    for n in 0..10_000 {
        // 625 agents with 16 streams each: none has too many for itself.
        let answer = gate.call(SESSION, &Peer::agent(&format!("c{}", n / 16), "0a")).await;
        match answer.code() {
            Code::Ok => open.push(answer),
            Code::ResourceExhausted => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((open.len(), refused), (8192, 10_000 - 8192));
    open.clear();
    assert_eq!(gate.code(SESSION, &Peer::agent("blue", "0a")).await, Code::Ok);
    eventually("all places are free", async || (gate.metric("switchyard_hub_access_streams ") == 0.0).then_some(()))
        .await;
}

#[tokio::test]
async fn ten_thousand_callers_cost_a_bounded_piece_of_memory() {
    let gate = gate_with(&database_url().await, ACCESS, AccessSettings::default()).await;
    for n in 0..10_000 {
        let address = format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256);
        assert_eq!(gate.code(LIST, &Peer::with("a.b.c").from(&address)).await, Code::Unauthenticated);
        assert_eq!(gate.code(LIST, &Peer::caller(&format!("name-{n}"))).await, Code::PermissionDenied);
    }
    assert!(gate.keeper.remembered() <= 20_000 && gate.keeper.remembered() > 0, "{}", gate.keeper.remembered());
    let entries = gate.keeper.refusals_waiting();
    assert!(entries <= 1000, "{entries}");
}

#[tokio::test]
async fn refusals_and_failed_changes_are_in_the_audit_log_once_with_a_count() {
    let settings = AccessSettings { refusals_every: Duration::from_secs(3600), ..AccessSettings::default() };
    let gate = gate_with(&database_url().await, ACCESS, settings).await;
    let deploy = Peer::caller("deploy");
    for _ in 0..7 {
        assert_eq!(gate.code(APPLY, &deploy).await, Code::PermissionDenied);
    }
    for _ in 0..3 {
        assert_eq!(gate.code(DELETE, &Peer::caller("root")).await, Code::FailedPrecondition);
        assert_eq!(gate.code(LIST, &Peer::with("a.b.c")).await, Code::Unauthenticated);
        assert_eq!(gate.code("/x\"y/%0a%0dforged", &deploy).await, Code::Unimplemented);
    }
    assert_eq!(gate.code(LIST, &deploy).await, Code::Ok);
    // What waits is written when the hub stops.
    let store = gate.stop().await;
    let rows = store.audit_page(&Default::default(), true, None, 1000).await.unwrap();
    let mut shown: Vec<_> = rows
        .iter()
        .map(|row| {
            (row.action.as_str(), row.detail["code"].as_str().unwrap_or(""), row.detail["count"].as_u64(), row.result)
        })
        .collect();
    shown.sort_unstable_by_key(|row| row.0);
    let expected = [
        ("PolicyService/ApplyPolicy", "permission_denied", Some(7), AuditResult::Refused),
        ("PolicyService/DeletePolicy", "failed_precondition", Some(3), AuditResult::Failed),
        ("PolicyService/ListPolicies", "unauthenticated", Some(3), AuditResult::Refused),
        ("unknown", "unimplemented", Some(3), AuditResult::Failed),
    ];
    assert_eq!(shown, expected);
    let apply = rows.iter().find(|row| row.action == "PolicyService/ApplyPolicy").unwrap();
    assert_eq!((&*apply.actor, &*apply.source), ("certificate:CN=deploy (sha256:abababababababab)", "192.0.2.7"));
}

#[tokio::test]
async fn refusals_outlive_a_store_that_is_away_for_a_while() {
    let settings = AccessSettings { refusals_every: Duration::from_millis(50), ..AccessSettings::default() };
    let gate = gate_with(&database_url().await, ACCESS, settings).await;
    let raw = sqlx::PgPool::connect(&gate.url).await.unwrap();
    // Holds every writer of the audit log up; their statements run into their limit or wait.
    sqlx::query("alter table audit rename to audit_away").execute(&raw).await.unwrap();
    let deploy = Peer::caller("deploy");
    for _ in 0..5 {
        assert_eq!(gate.code(APPLY, &deploy).await, Code::PermissionDenied, "no call waits for the log");
    }
    sqlx::query("alter table audit_away rename to audit").execute(&raw).await.unwrap();
    let count = eventually("they are written", async || {
        let rows = gate.refusals().await;
        let counts: u64 = rows.iter().filter_map(|row| row.detail["count"].as_u64()).sum();
        (counts >= 5).then_some(counts)
    })
    .await;
    assert_eq!(count, 5);
}

#[tokio::test]
async fn the_table_knows_streams_and_changes_apart() {
    // What the gate relies on: a stream that were called a read would never be ended when its proof is revoked.
    for need in TABLE {
        let watches =
            need.method().starts_with("Watch") || need.method().starts_with("Sync") || need.method() == "Session";
        let stream = matches!(need.kind, Kind::Watch | Kind::Agent);
        assert_eq!(stream, watches || need.method() == "ServerReflectionInfo", "{}", need.rpc);
    }
}
