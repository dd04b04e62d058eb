//! EnrollmentService behind the gate, over a real Postgres: certificates for join tokens, ServiceAccounts and certificates; what an
//! attacker tries; rotation of the authority under agents that live.

mod enrollment_support;
mod grpc_support;
#[path = "access_support/issuer.rs"]
#[allow(dead_code, reason = "another binary uses the rest")]
mod issuer;
mod store_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use enrollment_support::{
    OTHER_KEY, Port, SEALING_KEY, audit, count, csr, csr_of, hub, hub_on, hub_with, is_believed, leaf, own, write,
};
use grpc_support::{Hub, eventually};
use jiff::{SignedDuration, Timestamp};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, SerialNumber};
use rustls::pki_types::CertificateDer;
use switchyard_core::access::tokens::{Token, TokenKind};
use switchyard_hub::{
    access::{AccessSettings, Gatekeeper},
    authority::{Authority, Keys, SealedUnder, SealingKey},
    door::{RootSet, peer},
    metrics::Metrics,
    store::{AuditResult, EmbeddedOptions, EmbeddedPostgres, Query, QueryObserver, Store, StoreOptions},
};
use switchyard_proto::{
    agent::v1::{
        self as agent, AgentMessage, agent_message, agent_service_client::AgentServiceClient, enroll_request::Proof,
        hub_message,
    },
    api::v1::{self as api, cluster_service_client::ClusterServiceClient},
};
use tonic::Code;
use uuid::Uuid;

#[tokio::test]
async fn a_join_token_gives_one_key_a_certificate_again_and_again_and_another_key_none() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await;
    let key = KeyPair::generate().unwrap();
    let first = nobody.join("blue", &token.secret, &csr_of(&key)).await.unwrap();
    let read = peer::read(&leaf(&first), RootSet::Agents, None).unwrap();
    assert_eq!((read.uris, read.serial), (vec!["spiffe://switchyard/cluster/blue".to_owned()], first.serial.clone()));
    assert!(is_believed(&hub.authority.roots().borrow(), &first));
    let renew_at = first.renew_at.unwrap().seconds;
    let now = Timestamp::now().as_second();
    assert!((now + 2300..now + 2500).contains(&renew_at), "two thirds of an hour");

    // The answer was lost; the agent asks again with the key that it has kept.
    let again = nobody.join("blue", &token.secret, &csr_of(&key)).await.unwrap();
    assert_ne!(again.serial, first.serial);
    // Somebody who found the token has another key.
    for _ in 0..5 {
        let refused = nobody.join("blue", &token.secret, &csr()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("yardctl cluster join blue"), "{refused:?}");
    }
    let rows = audit(&hub).await;
    let replayed: Vec<_> = rows.iter().filter(|row| row.action == "join-token.replayed").collect();
    assert_eq!(replayed.len(), 1, "once for one source, however often it is tried");
    assert_eq!((replayed[0].result, replayed[0].source.as_str()), (AuditResult::Refused, "192.0.2.7"));
    assert_eq!(replayed[0].detail["proofId"].as_str(), Some(token.token.unwrap().id.as_str()));
    let issued: Vec<_> = rows.iter().filter(|row| row.action == "certificate.issue").collect();
    assert_eq!(issued.len(), 2);
    assert_eq!((issued[0].actor.as_str(), issued[0].detail["proof"].as_str()), ("agent:blue", Some("join-token")));
    assert!(!rows.iter().any(|row| row.detail_text.contains(token.secret.rsplit('_').next().unwrap())));
    hub.stop().await;
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_with_one_sentence_that_tells_nothing() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let revoked = admin.join_token("blue").await;
    let revoke = api::RevokeJoinTokenRequest {
        request_id: "revoke-1".to_owned(),
        id: revoked.token.unwrap().id,
        ..Default::default()
    };
    admin.access().revoke_join_token(revoke).await.unwrap();
    let others = admin.join_token("green").await.secret;
    let ended = Token::new(TokenKind::Join, [3; 8], [3; 32]);
    let (blue, soon) = ("blue".parse().unwrap(), SignedDuration::from_millis(1));
    let kept = hub.store.join_token_create(&store_support::fresh(), &blue, soon, &ended).await.unwrap();
    eventually("the end of a token", async || (Timestamp::now() > kept.expires_at).then_some(())).await;
    let good = admin.join_token("blue").await.secret;
    // The id is right and the secret is not.
    let guessed = format!("{}{}", &good[..good.len() - 43], "A".repeat(43));
    let unknown = Token::new(TokenKind::Join, [9; 8], [9; 32]).reveal();
    let service = Token::new(TokenKind::Service, [9; 8], [9; 32]).reveal();
    let mut said = std::collections::BTreeSet::new();
    let tries =
        [&revoked.secret, &others, &ended.reveal(), &guessed, &unknown, &service, "", "x'; drop table audit; --\n"];
    for secret in tries {
        let refused = nobody.join("blue", secret, &csr()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{secret}: {refused:?}");
        said.insert(refused.message().to_owned());
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(count(&hub, "join-token.refused").await, 3, "revoked, another cluster's, ended");
    assert_eq!(count(&hub, "certificate.issue").await, 0);
    // None of this used the good one up.
    nobody.join("blue", &good, &csr()).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn a_request_is_read_for_its_key_and_bounded_in_every_field() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let field = |status: tonic::Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().len() < 2000);
        api::Violations::decode(status.details()).unwrap().violations[0].field.clone()
    };
    let good = csr();
    let weak = include_str!("../src/authority/weak_request.pem");
    let long = "A".repeat(9000);
    for bad in ["", "x", weak, &good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), &long, "\0"] {
        assert_eq!(field(nobody.join("blue", &token, bad).await.unwrap_err()), "csr_pem");
    }
    for bad in ["", "Blue", "blue\n", "a'; --", &"a".repeat(64), "../green", "*"] {
        assert_eq!(field(nobody.join(bad, &token, &good).await.unwrap_err()), "cluster");
    }
    assert_eq!(field(nobody.join("blue", &"x".repeat(257), &good).await.unwrap_err()), "join_token");
    let account = Proof::ServiceAccountToken("x".repeat(8193));
    assert_eq!(field(nobody.enroll("blue", account, &good).await.unwrap_err()), "service_account_token");
    let endless = nobody.join("blue", &token, &"A".repeat(1 << 20)).await.unwrap_err();
    assert_eq!(endless.code(), Code::OutOfRange, "{endless:?}");

    // More is asked for than is given.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "green");
    params.subject_alt_names.push(SanType::URI("spiffe://switchyard/cluster/green".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let greedy = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let issued = nobody.join("blue", &token, &greedy).await.unwrap();
    let read = peer::read(&leaf(&issued), RootSet::Agents, None).unwrap();
    assert_eq!((read.common_name.as_deref(), read.uris.len()), (Some("blue"), 1));
    assert_eq!(read.uris[0], "spiffe://switchyard/cluster/blue");
    hub.stop().await;
}

#[tokio::test]
async fn a_certificate_gives_the_next_one_of_its_own_cluster_until_it_is_revoked() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let key = KeyPair::generate().unwrap();
    let first = nobody.join("blue", &token, &csr_of(&key)).await.unwrap();
    let second = Port::agent(&hub, &first).renew(&csr()).await.unwrap();
    assert_eq!(second.cluster, "blue");
    assert!(is_believed(&hub.authority.roots().borrow(), &second));
    for other in [&nobody, &admin] {
        let refused = other.renew(&csr()).await.unwrap_err();
        assert!([Code::Unauthenticated, Code::PermissionDenied].contains(&refused.code()), "{refused:?}");
    }

    let revoke = |serial: &str| api::RevokeAgentCertificatesRequest {
        request_id: Uuid::new_v4().to_string(),
        cluster: "blue".to_owned(),
        serial: serial.to_owned(),
        reason: "the laptop is gone".to_owned(),
    };
    let answer = admin.access().revoke_agent_certificates(revoke(&first.serial)).await.unwrap().into_inner();
    assert_eq!(answer.certificates.len(), 1);
    assert_eq!(
        (answer.certificates[0].serial.as_str(), &answer.certificates[0].proof[..]),
        (&first.serial[..], "join-token")
    );
    let refused = Port::agent(&hub, &first).renew(&csr()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    // Whoever took the key with the certificate has the used token as well.
    let refused = nobody.join("blue", &token, &csr_of(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let third = Port::agent(&hub, &second).renew(&csr()).await.unwrap();
    let answer = admin.access().revoke_agent_certificates(revoke("")).await.unwrap().into_inner();
    assert_eq!(answer.certificates.len(), 2, "{answer:?}");
    for gone in [&second, &third] {
        assert_eq!(Port::agent(&hub, gone).renew(&csr()).await.unwrap_err().code(), Code::Unauthenticated);
    }
    // One that nobody ever saw is refused from now on, and the answer says that nobody did.
    let unseen = admin.access().revoke_agent_certificates(revoke("0badcafe")).await.unwrap().into_inner();
    assert_eq!((unseen.certificates.len(), unseen.certificates[0].proof.as_str()), (1, "none"));
    let others = api::RevokeAgentCertificatesRequest { cluster: "green".to_owned(), ..revoke("0badcafe") };
    assert_eq!(admin.access().revoke_agent_certificates(others).await.unwrap_err().code(), Code::NotFound);
    // A new token lets the cluster in again.
    let token = admin.join_token("blue").await.secret;
    nobody.join("blue", &token, &csr()).await.unwrap();
    let all = api::ListAgentCertificatesRequest::default();
    let all = admin.access().list_agent_certificates(all).await.unwrap().into_inner().certificates;
    assert_eq!(all.iter().filter(|one| one.revoked_at.is_some()).count(), 4);
    assert_eq!((all.len(), all[0].revoked_by.as_str()), (5, ""));
    hub.stop().await;
}

/// A leaf that somebody with the key of an authority made himself.
fn made(by: &(String, String), cluster: &str, serial: &[u8]) -> CertificateDer<'static> {
    let issuer = Issuer::from_ca_cert_pem(&by.0, KeyPair::from_pem(&by.1).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    let uri = format!("spiffe://switchyard/cluster/{cluster}");
    params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.not_after = rcgen::date_time_ymd(2040, 1, 2);
    params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
}

#[tokio::test]
async fn a_certificate_that_somebody_made_with_the_serial_number_of_another_one_is_not_renewed() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let real = nobody.join("blue", &token, &csr()).await.unwrap();
    let octets: Vec<u8> =
        (0..real.serial.len()).step_by(2).map(|i| u8::from_str_radix(&real.serial[i..i + 2], 16).unwrap()).collect();
    let forged = made(&external("stolen"), "blue", &octets);
    assert_eq!(peer::read(&forged, RootSet::Agents, None).unwrap().serial, real.serial);
    // The door verified it against whichever authority is trusted still.
    let authority = admin.authorities().await[0].id.clone();
    let refused = Port::showing(&hub, &forged, &authority).renew(&csr()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert!(refused.message().contains("is another one"), "{refused:?}");
    assert_eq!(count(&hub, "certificate.refused").await, 1);
    Port::agent(&hub, &real).renew(&csr()).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn a_removed_cluster_gets_nothing_by_any_proof() {
    let hub = hub().await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let issued = nobody.join("blue", &token, &csr()).await.unwrap();
    let unused = admin.join_token("blue").await.secret;
    let remove = api::RemoveClusterRequest {
        request_id: "remove-1".to_owned(),
        cluster: "blue".to_owned(),
        reason: "gone".to_owned(),
        ..Default::default()
    };
    // It has to be known before it can be removed.
    store_support::open(&hub.store, "blue").await;
    hub.feed.refreshed().await;
    ClusterServiceClient::new(admin.clone()).remove_cluster(remove).await.unwrap();
    let renewed = Port::agent(&hub, &issued).renew(&csr()).await.unwrap_err();
    let joined = nobody.join("blue", &unused, &csr()).await.unwrap_err();
    for refused in [renewed, joined] {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("yardctl uncordon blue"), "{refused:?}");
    }
    hub.feed.refreshed().await;
    let request =
        api::CreateJoinTokenRequest { request_id: "j".to_owned(), cluster: "blue".to_owned(), ..Default::default() };
    assert_eq!(admin.access().create_join_token(request).await.unwrap_err().code(), Code::FailedPrecondition);
    hub.stop().await;
}

#[tokio::test]
async fn a_service_account_of_the_access_file_is_a_proof_for_its_cluster_and_for_no_other() {
    let signer = issuer::Signer::new("k1");
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, serde_json::json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let agents = format!(
        "agents:\n- {{cluster: blue, issuer: 'https://oidc.example', serviceAccount: switchyard/agent, jwks: {{file: '{}'}}}}\n",
        keys.display()
    );
    let hub = hub_with(&store_support::database_url().await, own(SEALING_KEY), &agents).await;
    let nobody = Port::nobody(&hub);
    let now = Timestamp::now().as_second();
    let claims = |subject: &str, audience: &str| {
        serde_json::json!({
            "iss": "https://oidc.example", "sub": subject, "aud": [audience], "iat": now, "nbf": now, "exp": now + 600,
        })
    };
    let (subject, audience) = ("system:serviceaccount:switchyard:agent", "switchyard");
    let good = signer.sign(&claims(subject, audience));
    let issued = eventually("the issuer's keys", async || {
        match nobody.enroll("blue", Proof::ServiceAccountToken(good.clone()), &csr()).await {
            Ok(issued) => Some(issued),
            Err(status) if status.code() == Code::Unavailable => None,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    assert_eq!(issued.cluster, "blue");
    let row = audit(&hub).await.into_iter().find(|row| row.action == "certificate.issue").unwrap();
    assert_eq!(
        (row.detail["proof"].as_str(), row.detail["proofId"].as_str()),
        (Some("service-account"), Some(subject))
    );
    let stranger = issuer::Signer::new("k1");
    let tries = [
        ("green", good.clone()),
        ("blue", signer.sign(&claims("system:serviceaccount:default:agent", audience))),
        ("blue", signer.sign(&claims(subject, "sts.amazonaws.com"))),
        ("blue", stranger.sign(&claims(subject, audience))),
        ("blue", "not.a.token".to_owned()),
    ];
    for (cluster, token) in tries {
        let refused = nobody.enroll(cluster, Proof::ServiceAccountToken(token), &csr()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    assert_eq!(count(&hub, "certificate.issue").await, 1);
    hub.stop().await;
}

#[tokio::test]
async fn replicas_that_start_at_once_have_one_authority_and_without_one_nothing_is_issued() {
    let url = store_support::database_url().await;
    let starts = (0..4).map(|_| hub_on(&url, own(SEALING_KEY)));
    let hubs: Vec<Hub> = futures::future::join_all(starts).await;
    assert_eq!(hubs[0].store.authorities().await.unwrap().len(), 1);
    assert_eq!(count(&hubs[0], "authority.create").await, 1);
    let token = Port::caller(&hubs[0], "admin").join_token("blue").await.secret;
    let key = KeyPair::generate().unwrap();
    for hub in &hubs {
        let issued = Port::nobody(hub).join("blue", &token, &csr_of(&key)).await.unwrap();
        assert!(hubs.iter().all(|other| is_believed(&other.authority.roots().borrow(), &issued)));
    }
    // One that was started without a key trusts what the others issue, and issues nothing.
    let without = hub_on(&url, Keys::None).await;
    assert_eq!(*without.authority.roots().borrow(), *hubs[0].authority.roots().borrow());
    let refused = Port::nobody(&without).join("blue", &token, &csr_of(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--ca-sealing-key-file"), "{refused:?}");
    for hub in hubs.into_iter().chain([without]) {
        hub.stop().await;
    }
}

#[tokio::test]
async fn a_replica_with_another_sealing_key_issues_nothing_until_the_authority_is_rotated_there() {
    let url = store_support::database_url().await;
    let (right, wrong) = (hub_on(&url, own(SEALING_KEY)).await, hub_on(&url, own(OTHER_KEY)).await);
    let admin = Port::caller(&wrong, "admin");
    let token = admin.join_token("blue").await.secret;
    let key = KeyPair::generate().unwrap();
    let refused = Port::nobody(&wrong).join("blue", &token, &csr_of(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "another replica may have the key");
    assert!(refused.message().contains("sealed under another sealing key"), "{refused:?}");
    assert_eq!(wrong.store.authorities().await.unwrap().len(), 1, "a slip makes no new authority");
    let before = Port::nobody(&right).join("blue", &token, &csr_of(&key)).await.unwrap();
    assert!(is_believed(&wrong.authority.roots().borrow(), &before));

    assert_eq!(admin.rotate().await.unwrap().len(), 2);
    let issued = Port::nobody(&wrong).join("blue", &token, &csr_of(&key)).await.unwrap();
    assert!(is_believed(&wrong.authority.roots().borrow(), &issued));
    eventually("the other replica's trust", async || {
        is_believed(&right.authority.roots().borrow(), &issued).then_some(())
    })
    .await;
    right.stop().await;
    wrong.stop().await;
}

/// The next certificate; none when the agent asked too often to get one now.
async fn renewed(hub: &Hub, present: &agent::IssuedCertificate) -> Option<agent::IssuedCertificate> {
    match Port::agent(hub, present).renew(&csr()).await {
        Ok(issued) => Some(issued),
        Err(status) if status.code() == Code::ResourceExhausted => None,
        Err(status) => panic!("{status:?}"),
    }
}

#[tokio::test]
async fn a_sealing_key_is_read_again_when_its_file_changes() {
    let url = store_support::database_url().await;
    let first = hub_on(&url, own(SEALING_KEY)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sealing-key");
    write(&file, OTHER_KEY);
    let hub = hub_on(&url, Keys::Own(SealedUnder::File(file.clone()))).await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let key = KeyPair::generate().unwrap();
    assert_eq!(nobody.join("blue", &token, &csr_of(&key)).await.unwrap_err().code(), Code::Unavailable);
    write(&file, &format!("{SEALING_KEY}\n"));
    eventually("the right key", async || nobody.join("blue", &token, &csr_of(&key)).await.ok()).await;
    // A file that goes, or holds nonsense, takes nothing away from a hub that runs.
    write(&file, "nonsense");
    nobody.join("blue", &token, &csr_of(&key)).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    nobody.join("blue", &token, &csr_of(&key)).await.unwrap();
    let options = enrollment_support::options(Keys::Own(SealedUnder::File(file)));
    let error = Authority::open(hub.store.clone(), options, hub.metrics.clone()).await.unwrap_err();
    assert!(error.to_string().contains("cannot be used"), "{error}");
    first.stop().await;
    hub.stop().await;
}

#[tokio::test]
async fn after_a_rotation_old_certificates_are_believed_and_renewed_by_the_new_authority() {
    let url = store_support::database_url().await;
    let (one, two) = (hub_on(&url, own(SEALING_KEY)).await, hub_on(&url, own(SEALING_KEY)).await);
    let (admin, nobody) = (Port::caller(&one, "admin"), Port::nobody(&one));
    let token = admin.join_token("blue").await.secret;
    let old = nobody.join("blue", &token, &csr()).await.unwrap();
    let before = admin.authorities().await;
    assert_eq!((before.len(), before[0].issuing, before[0].external), (1, true, false));
    assert!(before[0].trusted_until.is_none() && before[0].fingerprint.starts_with("sha256:"));
    let request = api::RotateAuthorityRequest { request_id: "rotate-1".to_owned(), reason: "yearly".to_owned() };
    for _ in 0..2 {
        let answer = admin.access().rotate_authority(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.authorities.len(), 2, "the same request again makes no other");
        assert!(!answer.authorities[0].issuing && answer.authorities[1].issuing, "trusted first, issuing later");
    }
    eventually("trust of the new authority at both replicas", async || {
        let both = [&one, &two].into_iter().all(|hub| hub.authority.roots().borrow().0.len() == 2);
        both.then_some(())
    })
    .await;
    // Whatever is issued at any moment on the way is believed by both.
    let new = eventually("a certificate of the new authority", async || {
        let issued = renewed(&two, &old).await?;
        for hub in [&one, &two] {
            let roots = hub.authority.roots().borrow().clone();
            assert!(is_believed(&roots, &issued) && is_believed(&roots, &old));
        }
        let listed = admin.authorities().await;
        let certificates = one.store.certificates(None).await.unwrap();
        (certificates[0].certificate.authority == listed[0].id).then_some((issued, listed))
    })
    .await;
    let (_, listed) = new;
    assert!(listed[0].issuing && !listed[1].issuing);
    let until = listed[1].trusted_until.as_ref().unwrap().seconds;
    let certificates = one.store.certificates(None).await.unwrap();
    let last = certificates.iter().filter(|stored| stored.certificate.authority == listed[1].id);
    let last = last.map(|stored| stored.certificate.not_after.as_second()).max().unwrap();
    assert_eq!(until, last, "until the last certificate of it has ended");
    assert_eq!(count(&one, "authority.rotate").await, 1);
    one.stop().await;
    two.stop().await;
}

fn external(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn an_authority_of_files_issues_and_is_replaced_when_the_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let (first, second) = (external("first"), external("second"));
    write(&certificate, &first.0);
    write(&key, &first.1);
    let keys = Keys::Files { certificate: certificate.clone(), key: key.clone() };
    let hub = hub_on(&store_support::database_url().await, keys).await;
    let (admin, nobody) = (Port::caller(&hub, "admin"), Port::nobody(&hub));
    let token = admin.join_token("blue").await.secret;
    let old = nobody.join("blue", &token, &csr()).await.unwrap();
    assert!(is_believed(&hub.authority.roots().borrow(), &old));
    let listed = admin.authorities().await;
    assert!(listed[0].external && listed[0].issuing && listed[0].certificate_pem == first.0.replace("\r\n", "\n"));
    let refused = admin.rotate().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--ca-cert"), "{refused:?}");

    // Between the two writes the files do not fit together, and the hub goes on with what it has.
    write(&certificate, &second.0);
    let meanwhile = Port::agent(&hub, &old).renew(&csr()).await.unwrap();
    assert!(is_believed(&hub.authority.roots().borrow(), &meanwhile));
    write(&key, &second.1);
    eventually("the new authority", async || (hub.authority.roots().borrow().0.len() == 2).then_some(())).await;
    eventually("a certificate of the new authority", async || {
        let issued = renewed(&hub, &old).await?;
        assert!(is_believed(&hub.authority.roots().borrow(), &issued));
        let id = admin.authorities().await[0].id.clone();
        let newest = hub.store.certificates(None).await.unwrap().remove(0);
        (newest.certificate.authority == id).then_some(())
    })
    .await;
    assert!(is_believed(&hub.authority.roots().borrow(), &old));
    assert_eq!(count(&hub, "authority.adopt").await, 2);
    hub.stop().await;
}

/// A session of the agent that shows this certificate, until Welcome; it lives as long as what is given back.
async fn session(port: &Port, cluster: &str) -> impl Sized {
    let (outbox, receiver) = tokio::sync::mpsc::channel(8);
    let mut client = AgentServiceClient::new(port.clone());
    let hello = agent_message::Message::Hello(grpc_support::hello(cluster));
    outbox.send(AgentMessage { seq: 0, message: Some(hello) }).await.unwrap();
    let opened = client.session(tokio_stream::wrappers::ReceiverStream::new(receiver)).await;
    let mut inbox = opened.unwrap().into_inner();
    let first = tokio::time::timeout(Duration::from_secs(30), inbox.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first.message, Some(hub_message::Message::Welcome(_))), "{first:?}");
    (outbox, inbox)
}

#[tokio::test]
async fn a_certificate_from_the_tool_that_owns_the_authority_is_noted_at_its_session_and_outlives_new_files() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let (first, second) = (external("first"), external("second"));
    write(&certificate, &first.0);
    write(&key, &first.1);
    let keys = Keys::Files { certificate: certificate.clone(), key: key.clone() };
    let hub = hub_on(&store_support::database_url().await, keys).await;
    let admin = Port::caller(&hub, "admin");
    let authority = admin.authorities().await[0].id.clone();
    let leaf = made(&first, "blue", &[0x0b, 0xad]);
    let port = Port::showing(&hub, &leaf, &authority);
    let _open = session(&port, "blue").await;
    let stored = hub.store.certificates(None).await.unwrap();
    assert_eq!((stored.len(), stored[0].proof.as_str(), stored[0].certificate.serial.as_str()), (1, "seen", "0bad"));
    assert_eq!(stored[0].certificate.fingerprint, peer::fingerprint(&leaf));
    // Once, however often it comes.
    let _again = session(&port, "blue").await;
    assert_eq!(count(&hub, "certificate.seen").await, 1);

    write(&certificate, &second.0);
    write(&key, &second.1);
    let until = eventually("the new authority", async || {
        let listed = admin.authorities().await;
        listed.iter().find(|one| one.id == authority && !one.issuing).map(|one| one.trusted_until)
    })
    .await;
    let ends: Timestamp = "2040-01-02T00:00:00Z".parse().unwrap();
    assert_eq!(until.unwrap().seconds, ends.as_second(), "until the certificate that was seen has ended");
    let revoke = api::RevokeAgentCertificatesRequest {
        request_id: "revoke-1".to_owned(),
        cluster: "blue".to_owned(),
        reason: "stolen".to_owned(),
        ..Default::default()
    };
    let revoked = admin.access().revoke_agent_certificates(revoke).await.unwrap().into_inner().certificates;
    assert_eq!(revoked.len(), 1);
    eventually("the revocation at the gate", async || {
        let refused = port.renew(&csr()).await.unwrap_err();
        (refused.code() == Code::Unauthenticated).then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_rotation_seals_under_the_key_that_is_in_the_file_at_that_moment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sealing-key");
    write(&file, SEALING_KEY);
    let hub = hub_on(&store_support::database_url().await, Keys::Own(SealedUnder::File(file.clone()))).await;
    let admin = Port::caller(&hub, "admin");
    for nonsense in ["nonsense", ""] {
        write(&file, nonsense);
        let refused = admin.rotate().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("sealing key"), "{refused:?}");
    }
    assert_eq!(admin.authorities().await.len(), 1, "nothing is sealed under a key that may have been stolen");
    // At once after the stolen one was replaced.
    write(&file, OTHER_KEY);
    admin.rotate().await.unwrap();
    let youngest = hub.store.authorities().await.unwrap().pop().unwrap().authority;
    let sealed = youngest.sealed_key.unwrap();
    assert!(SealingKey::parse(SEALING_KEY).unwrap().open(&youngest.id, &sealed).is_err());
    SealingKey::parse(OTHER_KEY).unwrap().open(&youngest.id, &sealed).unwrap();
    let metrics = hub.metrics.encoded().unwrap();
    assert!(metrics.contains("switchyard_hub_authority_sealing_key_reads_total 2\n"), "{metrics}");
    hub.stop().await;
}

#[tokio::test]
async fn hubs_with_a_sealing_key_and_hubs_with_files_beside_each_other_end_with_a_key_to_sign_with() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let files = external("files");
    write(&certificate, &files.0);
    write(&key, &files.1);
    let url = store_support::database_url().await;
    let before = hub_on(&url, own(SEALING_KEY)).await;
    // The update rolls: a replica with files comes beside the one of before.
    let hub = hub_on(&url, Keys::Files { certificate, key }).await;
    let ids = async || -> Vec<String> {
        hub.store.authorities().await.unwrap().into_iter().map(|one| one.authority.id).collect()
    };
    let with_files = ids().await;
    assert_eq!(with_files.len(), 2);
    eventually("trust at the replica of before", async || {
        (before.authority.roots().borrow().0.len() == 2).then_some(())
    })
    .await;
    // In the look that read the new authority it was decided whether an own one is needed.
    assert_eq!(ids().await, with_files, "no own authority is put over that of the files");
    // The replica of before is started once more, and then the update goes on to its end, long ago.
    let restarted = hub_on(&url, own(SEALING_KEY)).await;
    assert_eq!(ids().await.len(), 3);
    before.stop().await;
    restarted.stop().await;
    let raw = sqlx::PgPool::connect(&url).await.unwrap();
    let later = "alter table authorities disable trigger user; \
                 update authorities set created_at = created_at - interval '1 hour', issues_from = issues_from - interval '1 hour'";
    sqlx::raw_sql(later).execute(&raw).await.unwrap();
    let token = Port::caller(&hub, "admin").join_token("blue").await.secret;
    let request = KeyPair::generate().unwrap();
    eventually("a certificate of the authority of the files", async || {
        Port::nobody(&hub).join("blue", &token, &csr_of(&request)).await.ok()
    })
    .await;
    assert_eq!(hub.store.certificates(None).await.unwrap()[0].certificate.authority, with_files[1]);
    hub.stop().await;
}

#[tokio::test]
async fn metrics_say_who_can_issue_and_what_ends_and_the_book_follows_what_is_issued() {
    let url = store_support::database_url().await;
    let hub = hub_on(&url, own(SEALING_KEY)).await;
    let token = Port::caller(&hub, "admin").join_token("blue").await.secret;
    // The version of what replicas keep does not count certificates that are issued: the book is at the last one before.
    let version = hub.store.access_version().await.unwrap();
    let book = async || hub.gate.books().borrow().book.clone();
    eventually("the version of the book", async || (book().await.version == version).then_some(())).await;
    let issued = Port::nobody(&hub).join("blue", &token, &csr()).await.unwrap();
    let ends = issued.not_after.unwrap().seconds;
    eventually("the book", async || {
        book().await.authorities[0].last_issued_ends.filter(|last| last.as_second() == ends)
    })
    .await;
    assert_eq!(hub.store.access_version().await.unwrap(), version);
    let other = hub_on(&url, own(OTHER_KEY)).await;
    let authority_ends = hub.store.authorities().await.unwrap()[0].authority.not_after.as_second();
    for (one, can_issue) in [(&hub, 1), (&other, 0)] {
        let metrics = one.metrics.encoded().unwrap();
        assert!(metrics.contains(&format!("switchyard_hub_authority_can_issue {can_issue}\n")), "{metrics}");
        assert!(metrics.contains(&format!("switchyard_hub_authority_ends {authority_ends}\n")), "{metrics}");
    }
    eventually("the first end of certificates", async || {
        let line = format!("switchyard_hub_agent_certificates_end_first {ends}\n");
        other.metrics.encoded().unwrap().contains(&line).then_some(())
    })
    .await;
    hub.stop().await;
    other.stop().await;
}

/// Counts reads of the version of access that the store did not answer.
struct Failures(Arc<AtomicU32>);

impl QueryObserver for Failures {
    fn observed(&self, query: Query, _took: Duration, outcome: &'static str) {
        if query == Query::AccessVersion && outcome != "ok" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn a_hub_whose_database_goes_at_the_moment_of_its_start_waits_for_it() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    let failed = Arc::new(AtomicU32::default());
    let options = StoreOptions {
        acquire_timeout: Duration::from_millis(300),
        observer: Some(Arc::new(Failures(failed.clone()))),
        ..StoreOptions::default()
    };
    let store = Store::connect(&postgres.url(), options).await.unwrap();
    kill(Pid::from_raw(postgres.pid()), Signal::SIGKILL).unwrap();
    eventually("the outage", async || store.ping().await.err()).await;
    let made_with = enrollment_support::options(own(SEALING_KEY));
    let authority = tokio::spawn(Authority::open(store.clone(), made_with, Metrics::new()));
    let gate = tokio::spawn(Gatekeeper::start(AccessSettings::default(), store.clone(), Metrics::new()));
    // Each of the two has failed at least once by then, if it tries again at all.
    eventually("tries that failed", async || (failed.load(Ordering::SeqCst) >= 4).then_some(())).await;
    assert!(!authority.is_finished() && !gate.is_finished());
    drop(postgres);
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    let authority = authority.await.unwrap().unwrap();
    assert_eq!(authority.roots().borrow().0.len(), 1);
    let (gate, _task) = gate.await.unwrap().unwrap();
    assert_eq!(gate.books().borrow().book.tokens.len(), 0);
    store.close().await;
    postgres.stop().await.unwrap();
}
