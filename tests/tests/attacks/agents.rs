//! An attacker has the agent of green, and wants blue.

use std::{fs, time::Duration};

use switchyard_proto::{
    agent::v1::{
        self as agent, AgentMessage, EnrollRequest, Hello, RenewCertificateRequest, SyncPoliciesRequest,
        SyncShiftsRequest, WatchTargetHealthRequest, agent_message, agent_service_client::AgentServiceClient,
        enroll_request::Proof, enrollment_service_client::EnrollmentServiceClient,
        policy_source_service_client::PolicySourceServiceClient, shift_source_service_client::ShiftSourceServiceClient,
        sync_policies_request, sync_shifts_request, target_health_service_client::TargetHealthServiceClient,
    },
    api::v1::{
        ApplyPolicyRequest, CreateServiceTokenRequest, ListAgentCertificatesRequest, ListClustersRequest,
        ListPoliciesRequest, RevokeAgentCertificatesRequest, WhoAmIRequest, access_service_client::AccessServiceClient,
        cluster_service_client::ClusterServiceClient, policy_service_client::PolicyServiceClient,
    },
};
use switchyard_tests::{
    authority::{Authority, Pair},
    wait,
};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming, transport::Channel};
use uuid::Uuid;

use crate::scene::{Scene, manifest, signing_request};

const PATIENCE: Duration = Duration::from_secs(20);

fn hello(cluster: &str) -> AgentMessage {
    let hello = Hello {
        cluster: cluster.to_owned(),
        region: "eu-central-1".to_owned(),
        vpc_id: "vpc-0123456789abcdef0".to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        ..Hello::default()
    };
    AgentMessage { seq: 0, message: Some(agent_message::Message::Hello(hello)) }
}

/// How a stream ends, whatever came before.
async fn end_of<T>(opened: Result<tonic::Response<Streaming<T>>, Status>) -> Status {
    let mut stream = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("the hub ended the stream"),
                Err(status) => return status,
            }
        }
    };
    timeout(PATIENCE, ended).await.expect("the stream ends")
}

/// A stream of messages that goes on for ever after these.
fn and_then_silence<T: Send + 'static>(messages: Vec<T>) -> impl tokio_stream::Stream<Item = T> + Send + 'static {
    tokio_stream::iter(messages).chain(tokio_stream::pending())
}

async fn session(channel: Channel, messages: Vec<AgentMessage>) -> Status {
    end_of(AgentServiceClient::new(channel).session(and_then_silence(messages)).await).await
}

async fn policies(channel: Channel, cluster: &str) -> Status {
    let hello = agent::SourceHello {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        ..agent::SourceHello::default()
    };
    let first = SyncPoliciesRequest { seq: 0, message: Some(sync_policies_request::Message::Hello(hello)) };
    end_of(PolicySourceServiceClient::new(channel).sync_policies(and_then_silence(vec![first])).await).await
}

async fn shifts(channel: Channel, cluster: &str) -> Status {
    let hello = agent::ShiftSourceHello {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        highest_epoch_seen: 0,
    };
    let first = SyncShiftsRequest { message: Some(sync_shifts_request::Message::Hello(hello)) };
    end_of(ShiftSourceServiceClient::new(channel).sync_shifts(and_then_silence(vec![first])).await).await
}

async fn health(channel: Channel, cluster: &str) -> Status {
    let request = WatchTargetHealthRequest {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        highest_epoch_seen: 0,
    };
    end_of(TargetHealthServiceClient::new(channel).watch_target_health(request).await).await
}

async fn clusters(scene: &Scene) -> Vec<String> {
    let listed =
        ClusterServiceClient::new(scene.administrator.clone()).list_clusters(ListClustersRequest::default()).await;
    listed.unwrap().into_inner().clusters.into_iter().map(|cluster| cluster.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_green_opens_no_stream_of_blue_and_calls_nothing_that_is_for_callers() {
    let scene = Scene::start().await;
    let green = scene.with_certificate(&scene.stolen_agent("green").await).await;
    for (what, status) in [
        ("session", session(green.clone(), vec![hello("blue")]).await),
        ("policies", policies(green.clone(), "blue").await),
        ("shifts", shifts(green.clone(), "blue").await),
        ("health", health(green.clone(), "blue").await),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert!(status.message().contains("blue") && status.message().contains("green"), "{what}: {status}");
    }
    assert!(!clusters(&scene).await.contains(&"blue".to_owned()), "nothing of blue was stored");

    let mut api = PolicyServiceClient::new(green.clone());
    let apply = ApplyPolicyRequest {
        request_id: "1".into(),
        manifest: manifest("shop", "web"),
        ..ApplyPolicyRequest::default()
    };
    let mut access = AccessServiceClient::new(green.clone());
    let refused = [
        api.list_policies(ListPoliciesRequest::default()).await.unwrap_err(),
        api.apply_policy(apply).await.unwrap_err(),
        access.create_service_token(CreateServiceTokenRequest::default()).await.unwrap_err(),
        access.list_agent_certificates(ListAgentCertificatesRequest::default()).await.unwrap_err(),
        access.who_am_i(WhoAmIRequest {}).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    scene.audited("refused", &["agent:green", "Session"]).await;
    scene.audited("refused", &["agent:green", "ApplyPolicy"]).await;
    scene.audit_holds().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_brings_no_certificate_of_the_agents_authority_is_no_agent() {
    let scene = Scene::start().await;
    let spiffe = "spiffe://switchyard/cluster/blue";
    // Whoever signs for callers does not make agents.
    let of_callers = scene.guard.callers.client(scene.guard.folder(), "disguised", "blue", &[spiffe]).unwrap();
    let disguised = scene.with_certificate(&of_callers).await;
    let status = session(disguised.clone(), vec![hello("blue")]).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let status = session(scene.nobody().await, vec![hello("blue")]).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    // An authority that nobody knows, with the names of the real one.
    let own = Authority::make(scene.guard.folder(), "own").unwrap();
    let own = own.client(scene.guard.folder(), "own-blue", "blue", &[spiffe]).unwrap();
    match scene.guard.channel(&scene.hub.grpc_url(), Some(&own)).await {
        // In TLS 1.3 the client learns of it with its first call.
        Ok(channel) => {
            let status = session(channel, vec![hello("blue")]).await;
            assert!(matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Internal), "{status}");
        }
        Err(error) => assert!(format!("{error:#}").contains("no connection"), "{error:#}"),
    }
    assert_eq!(clusters(&scene).await, Vec::<String>::new());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_that_was_seen_by_somebody_else_gives_him_nothing() {
    let scene = Scene::start().await;
    let token = scene.join_token("blue").await;
    let (csr, _key) = signing_request(&[]);
    let other = scene.enroll("green", &token, csr.clone()).await.unwrap_err();
    scene.enroll("blue", &token, csr.clone()).await.expect("the rightful one");
    scene.enroll("blue", &token, csr.clone()).await.expect("the same key again: an answer was lost");
    let (thief, _) = signing_request(&[]);
    let replayed = scene.enroll("blue", &token, thief.clone()).await.unwrap_err();
    // Of an id that there is, with a secret that was guessed.
    let mut guessed = token.clone().into_bytes();
    let last = guessed.len() - 1;
    guessed[last] = if guessed[last] == b'A' { b'B' } else { b'A' };
    let guessed = scene.enroll("blue", std::str::from_utf8(&guessed).unwrap(), thief.clone()).await.unwrap_err();
    let nonsense = scene.enroll("blue", "' or 1=1 --", thief.clone()).await.unwrap_err();
    let huge = scene.enroll("blue", &"x".repeat(100_000), thief.clone()).await.unwrap_err();
    for status in [&other, &replayed, &guessed] {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    for status in [&nonsense, &huge] {
        assert!(matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument | Code::OutOfRange), "{status}");
    }
    assert_eq!(replayed.message(), guessed.message(), "what was wrong is not told to a guesser");
    assert!(!scene.log().contains(&token), "a token in the log");
    scene.audited("refused", &["replayed", "blue"]).await;
    let certificates = AccessServiceClient::new(scene.administrator.clone());
    let request = ListAgentCertificatesRequest { cluster: "blue".into() };
    let listed = certificates.clone().list_agent_certificates(request).await.unwrap().into_inner().certificates;
    assert!((1..=2).contains(&listed.len()), "{listed:#?}");
    scene.audit_holds().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_request_gets_the_cluster_of_its_proof_whatever_it_asks_for() {
    let scene = Scene::start().await;
    let token = scene.join_token("green").await;
    let (csr, key) = signing_request(&["spiffe://switchyard/cluster/blue", "spiffe://switchyard/cluster/green"]);
    match scene.enroll("green", &token, csr).await {
        Ok(chain) => {
            let pair = Pair::at(scene.guard.folder(), "asked-for-blue");
            fs::write(&pair.certificate, chain).unwrap();
            fs::write(&pair.key, key.serialize_pem()).unwrap();
            let channel = scene.with_certificate(&pair).await;
            let status = session(channel.clone(), vec![hello("blue")]).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
            // Nor at the next one.
            let (csr, _) = signing_request(&["spiffe://switchyard/cluster/blue"]);
            let request = RenewCertificateRequest { csr_pem: csr, agent_instance_id: Uuid::new_v4().to_string() };
            let renewed = EnrollmentServiceClient::new(channel).renew_certificate(request).await.unwrap().into_inner();
            assert_eq!(renewed.certificate.unwrap().cluster, "green");
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    for csr in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
        &"x".repeat(9000),
    ] {
        let token = scene.join_token("green").await;
        let status = scene.enroll("green", &token, csr.to_owned()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("csr_pem"), "{status}");
        scene.enroll("green", &token, signing_request(&[]).0).await.expect("a slip costs no token");
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_out_within_seconds_and_cannot_come_back_with_what_it_has() {
    let scene = Scene::start().await;
    let pair = scene.stolen_agent("green").await;
    let thief = scene.with_certificate(&pair).await;
    let open = tokio::spawn(session(thief.clone(), vec![hello("green")]));
    wait::until("the session of green", async || {
        let known = clusters(&scene).await;
        wait::check(known.contains(&"green".to_owned()), || format!("{known:?}"))
    })
    .await;
    let request = RevokeAgentCertificatesRequest {
        request_id: "revoke".into(),
        cluster: "green".into(),
        reason: "the node was taken".into(),
        ..RevokeAgentCertificatesRequest::default()
    };
    let mut access = AccessServiceClient::new(scene.administrator.clone());
    let revoked = access.revoke_agent_certificates(request).await.unwrap().into_inner().certificates;
    assert_eq!(revoked.len(), 1);
    let ended = timeout(Duration::from_secs(10), open).await.expect("the open stream ends").unwrap();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let again = session(thief.clone(), vec![hello("green")]).await;
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");
    let (csr, _) = signing_request(&[]);
    let renew = RenewCertificateRequest { csr_pem: csr.clone(), agent_instance_id: Uuid::new_v4().to_string() };
    let refused = EnrollmentServiceClient::new(thief.clone()).renew_certificate(renew).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // Another connection with it is no better, and without a new token there is no new certificate.
    let anew = session(scene.with_certificate(&pair).await, vec![hello("green")]).await;
    assert_eq!(anew.code(), Code::Unauthenticated, "{anew}");
    let request = EnrollRequest {
        cluster: "green".into(),
        proof: Some(Proof::ServiceAccountToken("a.b.c".into())),
        csr_pem: csr,
        agent_instance_id: Uuid::new_v4().to_string(),
    };
    let refused = EnrollmentServiceClient::new(thief).enroll(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    scene.audited("done", &["revoke", "the node was taken"]).await;
    scene.audit_holds().await;
    scene.stop().await;
}
