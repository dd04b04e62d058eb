//! Commands that give and take access, as a process: what is sent, what is shown once, and what is never left behind.

use std::{fs, os::unix::fs::PermissionsExt};

use switchyard_proto::api::v1 as pb;
use tonic::Status;

use crate::{
    access_support::{AccessScript, caller, everything},
    support::{Answer, Hub, Script, queue},
};

const SECRET: &str = "syj_k3jd2apq7xzt_c2VjcmV0";

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

async fn hub(access: AccessScript) -> Hub {
    Hub::start(Script { access, ..Script::default() }).await
}

fn join_token() -> pb::JoinToken {
    pb::JoinToken {
        id: "k3jd2apq7xzt".into(),
        cluster: "blue".into(),
        created_by: "token:ci".into(),
        created_at: at(1_767_322_800),
        expires_at: at(4_102_444_800),
        ..Default::default()
    }
}

fn joined(secret: &str) -> Answer<pb::CreateJoinTokenResponse> {
    Answer::Ok(pb::CreateJoinTokenResponse { token: Some(join_token()), secret: secret.into() })
}

fn service_token() -> pb::ServiceToken {
    let grant = pb::Grant {
        role: pb::Role::Operator as i32,
        namespaces: vec!["shop".into(), "pay".into()],
        clusters: vec!["*".into()],
        overrides: true,
    };
    pb::ServiceToken { name: "ci".into(), id: "q7Hs2LmX0aBc".into(), grants: vec![grant], ..Default::default() }
}

#[tokio::test]
async fn a_caller_asks_who_he_is() {
    let hub =
        hub(AccessScript { who: queue([everything(pb::Role::Admin), caller(vec![])]), ..Default::default() }).await;
    let ran = hub.yardctl("whoami -o json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!((&json["identity"], &json["grants"][0]["role"]), (&"token:ci".into(), &"admin".into()));
    let ran = hub.yardctl("whoami").await;
    assert!(ran.code == 0 && ran.out.contains("may do nothing but ask this"), "{ran:?}");
}

#[tokio::test]
async fn a_join_token_is_printed_first_and_once_with_the_commands_that_use_it() {
    let hub = hub(AccessScript { join: queue([joined(SECRET)]), ..Default::default() }).await;
    let ran = hub.yardctl("cluster join blue --ttl 30m --request-id r-1 --reason new").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().next(), Some(SECRET));
    assert!(
        ran.out.contains(&format!("--from-file=token=/dev/stdin --dry-run=client -o yaml <<< {SECRET} | ")),
        "{ran:?}"
    );
    assert!(
        ran.out.contains("helm -n switchyard upgrade --install --reset-then-reuse-values switchyard-agent"),
        "{ran:?}"
    );
    assert!(ran.out.contains("An agent that is installed needs only the line with switchyard-agent-join"), "{ran:?}");
    assert!(!ran.err.contains(SECRET) && !ran.out.contains("--from-literal"), "{ran:?}");
    let seen = hub.seen.access.join.lock().unwrap();
    let expected = pb::CreateJoinTokenRequest {
        request_id: "r-1".into(),
        cluster: "blue".into(),
        ttl_seconds: 1800,
        reason: "new".into(),
    };
    assert_eq!(*seen, [expected]);
}

#[tokio::test]
async fn a_join_token_in_a_file_is_in_no_output_and_only_the_owner_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    for format in ["table", "json"] {
        let hub = hub(AccessScript { join: queue([joined(SECRET)]), ..Default::default() }).await;
        let ran = hub.yardctl(&format!("cluster join blue --out {} -o {format}", path.display())).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET), "{ran:?}");
        assert!(ran.out.contains(&format!("--from-file=token={}", path.display())), "{ran:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), SECRET);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(hub.seen.access.join.lock().unwrap()[0].ttl_seconds, 3600, "an hour when nothing is said");
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn no_token_is_asked_for_when_its_file_cannot_be_made_and_no_file_is_left_when_none_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "mine").unwrap();
    let line = format!("cluster join blue --out {}", path.display());
    let silent = hub(AccessScript::default()).await;
    let ran = silent.yardctl(&line).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(silent.seen.access.join.lock().unwrap().is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");

    fs::remove_file(&path).unwrap();
    let denied = Answer::Refuse(Status::permission_denied("the role admin over all namespaces is needed"));
    let ran = hub(AccessScript { join: queue([denied]), ..Default::default() }).await.yardctl(&line).await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.err.contains("the role admin over all namespaces is needed"), "the hub's words: {ran:?}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_token_that_the_hub_shows_no_second_time_says_how_to_get_another() {
    let hub = hub(AccessScript { join: queue([joined("")]), ..Default::default() }).await;
    let ran = hub.yardctl("cluster join blue --request-id r-1").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("yardctl cluster revoke-token k3jd2apq7xzt"), "{ran:?}");
}

#[tokio::test]
async fn join_tokens_are_listed_and_revoked() {
    let revoked = pb::JoinToken { revoked_at: at(1_767_322_900), ..join_token() };
    let script = AccessScript {
        join_tokens: queue([
            Answer::Ok(pb::ListJoinTokensResponse { tokens: vec![join_token()] }),
            Answer::Ok(pb::ListJoinTokensResponse { tokens: vec![revoked.clone()] }),
        ]),
        revoke_join: queue([Answer::Ok(pb::RevokeJoinTokenResponse { token: Some(revoked) })]),
        ..Default::default()
    };
    let hub = hub(script).await;
    let ran = hub.yardctl("cluster tokens --cluster blue").await;
    assert!(ran.code == 0 && ran.out.contains("k3jd2apq7xzt  blue     open"), "{ran:?}");
    assert_eq!(hub.seen.access.join_tokens.lock().unwrap()[0].cluster, "blue");
    let ran = hub.yardctl("cluster revoke-token k3jd2apq7xzt --reason lost").await;
    assert!(ran.code == 0 && ran.out.contains("is of no use any more"), "{ran:?}");
    let seen = hub.seen.access.revoke_join.lock().unwrap().clone();
    assert_eq!((seen[0].id.as_str(), seen[0].reason.as_str()), ("k3jd2apq7xzt", "lost"));
    let ran = hub.yardctl("cluster tokens -o json").await;
    assert_eq!(ran.json()["tokens"][0]["revoked_at"], "2026-01-02T03:01:40Z", "{ran:?}");
}

#[tokio::test]
async fn certificates_are_listed_and_revoked_one_or_all() {
    let certificate = pb::AgentCertificate {
        serial: "5c1f".into(),
        cluster: "blue".into(),
        not_after: at(4_102_444_800),
        ..Default::default()
    };
    let revoked =
        |number| Answer::Ok(pb::RevokeAgentCertificatesResponse { certificates: vec![certificate.clone(); number] });
    let list = pb::ListAgentCertificatesResponse { certificates: vec![certificate.clone()] };
    let unseen = pb::AgentCertificate { proof: "none".into(), ..certificate.clone() };
    let unseen = Answer::Ok(pb::RevokeAgentCertificatesResponse { certificates: vec![unseen] });
    let script = AccessScript {
        certificates: queue([Answer::Ok(list)]),
        revoke_certificates: queue([revoked(2), revoked(1), revoked(0), unseen]),
        ..Default::default()
    };
    let hub = hub(script).await;
    let ran = hub.yardctl("cluster certificates blue").await;
    assert!(ran.code == 0 && ran.out.contains("blue     5c1f    good"), "{ran:?}");
    assert_eq!(hub.seen.access.certificates.lock().unwrap()[0].cluster, "blue");
    let ran = hub.yardctl("cluster revoke blue --reason stolen").await;
    assert!(ran.code == 0 && ran.out.starts_with("2 certificates of blue revoked"), "{ran:?}");
    let ran = hub.yardctl("cluster revoke blue --serial 5c1f --reason stolen -o json").await;
    assert_eq!(ran.json()["certificates"][0]["serial"], "5c1f", "{ran:?}");
    let ran = hub.yardctl("cluster revoke blue --reason stolen").await;
    assert!(ran.code == 0 && ran.out.contains("has no certificate that could be revoked"), "{ran:?}");
    let ran = hub.yardctl("cluster revoke blue --serial 5c1f --reason stolen").await;
    assert!(ran.code == 0 && ran.out.contains("the hub never saw certificate 5c1f of blue"), "{ran:?}");
    let seen = hub.seen.access.revoke_certificates.lock().unwrap().clone();
    let serials: Vec<&str> = seen.iter().map(|request| request.serial.as_str()).collect();
    assert_eq!(serials, ["", "5c1f", "", "5c1f"]);
    assert_eq!(hub.yardctl("cluster revoke blue").await.code, 2, "taking a cluster's access away needs a reason");
}

#[tokio::test]
async fn a_service_token_has_the_grant_that_was_asked_for_and_is_printed_first_and_once() {
    let made = |secret: &str| {
        Answer::Ok(pb::CreateServiceTokenResponse { token: Some(service_token()), secret: secret.into() })
    };
    let hub = hub(AccessScript { create: queue([made("sys_q_s"), made("sys_q_s")]), ..Default::default() }).await;
    let line = "token create ci --role operator --namespaces shop,pay --clusters * --overrides --ttl 30d";
    let ran = hub.yardctl(line).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.out, "sys_q_s\nservice token ci is shown this once: operator with overrides of shop,pay on *\n",
        "{ran:?}"
    );
    let ran = hub.yardctl("token create ci --role viewer --namespaces shop --clusters blue -o json").await;
    assert_eq!((&ran.json()["secret"], &ran.json()["token"]["name"]), (&"sys_q_s".into(), &"ci".into()), "{ran:?}");
    let seen = hub.seen.access.create.lock().unwrap();
    assert_eq!(seen[0].grants, service_token().grants);
    assert_eq!((seen[0].ttl_seconds, seen[1].ttl_seconds), (30 * 86_400, 90 * 86_400));
    assert_eq!((seen[1].grants[0].role, seen[1].grants[0].overrides), (pb::Role::Viewer as i32, false));
}

#[tokio::test]
async fn nothing_is_granted_that_was_not_said() {
    let hub = hub(AccessScript::default()).await;
    for line in [
        "token create ci --namespaces shop --clusters blue",
        "token create ci --role viewer --clusters blue",
        "token create ci --role viewer --namespaces shop",
        "token create ci --role root --namespaces shop --clusters blue",
    ] {
        assert_eq!(hub.yardctl(line).await.code, 2, "{line}");
    }
    assert!(hub.seen.access.create.lock().unwrap().is_empty());
}

#[tokio::test]
async fn service_tokens_are_listed_and_revoked() {
    let script = AccessScript {
        tokens: queue([Answer::Ok(pb::ListServiceTokensResponse { tokens: vec![service_token()] })]),
        revoke: queue([
            Answer::Ok(pb::RevokeServiceTokenResponse { token: Some(service_token()) }),
            Answer::Refuse(Status::not_found("there is no service token cd")),
        ]),
        ..Default::default()
    };
    let hub = hub(script).await;
    let ran = hub.yardctl("token list").await;
    assert!(ran.out.contains("never") && ran.out.contains("operator with overrides of shop,pay on *"), "{ran:?}");
    let ran = hub.yardctl("token revoke ci --reason leaked").await;
    assert!(ran.code == 0 && ran.out.contains("service token ci is of no use any more"), "{ran:?}");
    assert_eq!(hub.seen.access.revoke.lock().unwrap()[0].name, "ci");
    let ran = hub.yardctl("token revoke cd").await;
    assert!(ran.code == 4 && ran.err.contains("yardctl token list"), "{ran:?}");
}

#[tokio::test]
async fn an_authority_is_rotated_and_the_old_one_stays_in_the_list() {
    let authority = |id: &str, issuing| pb::Authority { id: id.into(), issuing, ..Default::default() };
    let both = || vec![authority("a2", true), authority("a1", false)];
    let script = AccessScript {
        authorities: queue([Answer::Ok(pb::ListAuthoritiesResponse { authorities: both() })]),
        rotate: queue([Answer::Ok(pb::RotateAuthorityResponse { authorities: both() })]),
        ..Default::default()
    };
    let hub = hub(script).await;
    let ran = hub.yardctl("authority rotate --reason yearly --request-id r-9 -o json").await;
    assert_eq!((ran.code, &ran.json()["request_id"]), (0, &"r-9".into()), "{ran:?}");
    assert_eq!(hub.seen.access.rotate.lock().unwrap()[0].reason, "yearly");
    let ran = hub.yardctl("authority list").await;
    assert!(ran.out.contains("a2  issues") && ran.out.contains("a1  trusted"), "{ran:?}");
}
