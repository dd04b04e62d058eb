//! The gate behind a real door: TLS, HTTP/2, the hub's own services. What happens to connections and to other streams when a proof is
//! taken back.

mod access_support;
mod door_support;
mod grpc_support;
mod store_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use access_support::admin;
use door_support::{Authority, Files, Leaf};
use grpc_support::{Agent, Hub, PATIENCE, Setup, hello, hub_set_up, manifest};
use jiff::SignedDuration;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use store_support::database_url;
use switchyard_core::access::{
    Grant, Grants, Role,
    tokens::{Token, TokenKind},
};
use switchyard_hub::{
    access::AccessSettings,
    door::{AgentRoots, Guard, RootSet, http2, peer, tls::Tls},
};
use switchyard_proto::{
    agent::v1::agent_service_client::AgentServiceClient,
    api::v1::{self as api, policy_service_client::PolicyServiceClient},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

const ACCESS: &str = "
bindings:
  - {role: viewer, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: deploy}}]}
  - {role: admin, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: root}}]}
";

/// A hub whose services are behind the gate, and the gate behind TLS.
struct Place {
    hub: Hub,
    address: String,
    server: Authority,
    agents: Authority,
    callers: Authority,
    served: JoinHandle<()>,
    _files: (Files, tempfile::TempDir),
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.yaml");
    std::fs::write(&file, ACCESS).unwrap();
    let access = AccessSettings { access_file: Some(file), ..AccessSettings::default() };
    let hub = hub_set_up(&database_url().await, Setup { access, ..Setup::default() }).await;
    let (server, agents, callers) = (Authority::new("server"), Authority::new("agents"), Authority::new("callers"));
    let files = Files::new(&server.server(), Some(&callers));
    let (_roots, receiver) = watch::channel(Arc::new(AgentRoots(vec![agents.root("a1")])));
    let guard = Guard { tls: Some(Tls::open(files.tls(), receiver).unwrap()), ..Guard::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(http2::serve(listener, guard, hub.routes.clone(), hub.shutdown.clone()));
    Place { hub, address, server, agents, callers, served, _files: (files, folder) }
}

impl Place {
    /// A connection that shows this certificate.
    async fn channel(&self, shows: Option<&Leaf>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.server.pem()));
        if let Some(leaf) = shows {
            tls = tls.identity(Identity::from_pem(&leaf.chain, &leaf.key));
        }
        let endpoint = Channel::from_shared(self.address.clone()).unwrap().tls_config(tls).unwrap();
        timeout(PATIENCE, endpoint.connect()).await.unwrap().unwrap()
    }

    /// Knows the certificate as one that the hub issued, and takes it back.
    async fn revoke(&self, cluster: &str, leaf: &Leaf) {
        let der = CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap();
        let read = peer::read(&der, RootSet::Agents, None).unwrap();
        let raw = sqlx::PgPool::connect(&self.hub.url).await.unwrap();
        let authority = "insert into authorities (id, certificate_pem, created_at, issues_from, not_after) \
                         values ('0123456789abcdef', 'pem', now(), now(), now() + interval '1 year')";
        sqlx::query(authority).execute(&raw).await.unwrap();
        let issued = "insert into agent_certificates \
                      (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) values \
                      ($1, $2, $3, '0123456789abcdef', '', 'join-token', '', now(), now() + interval '1 day')";
        let issued = sqlx::query(issued).bind(&read.serial).bind(cluster).bind(&read.fingerprint);
        issued.execute(&raw).await.unwrap();
        let revoked = self.hub.store.certificates_revoke(&admin(), &cluster.parse().unwrap(), Some(&read.serial)).await;
        assert_eq!(revoked.unwrap().len(), 1);
    }

    /// Somebody applies a policy, of which those who watch are told.
    async fn apply(&self, name: &str) {
        let root = self.channel(Some(&self.callers.leaf("root", |_| {}))).await;
        let request = api::ApplyPolicyRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            manifest: manifest(name, &[("green", 1)]),
            ..api::ApplyPolicyRequest::default()
        };
        PolicyServiceClient::new(root).apply_policy(request).await.unwrap();
    }

    async fn stop(self) {
        self.hub.stop().await;
        timeout(PATIENCE, self.served).await.expect("the door did not close").unwrap();
    }
}

/// Asks for policies again and again, until it is told to stop; how often, and what went wrong.
fn ask(channel: Channel, stop: Arc<AtomicBool>) -> JoinHandle<(u32, Vec<Status>)> {
    tokio::spawn(async move {
        let (mut asked, mut failed) = (0, Vec::new());
        while !stop.load(Ordering::SeqCst) {
            let answer =
                PolicyServiceClient::new(channel.clone()).list_policies(api::ListPoliciesRequest::default()).await;
            asked += 1;
            failed.extend(answer.err());
            // Slower than the pace of a caller.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        (asked, failed)
    })
}

/// Hears of this policy on a stream that was open before it was applied. What ends streams looks at all of them at once: one that is told
/// of what happened after another one was ended was left alone.
async fn goes_on(watch: &mut Streaming<api::WatchPoliciesResponse>, policy: &str) {
    let told = async {
        loop {
            let event = watch.message().await.expect("the stream goes on").expect("the stream goes on");
            if event.policy.and_then(|told| told.r#ref).is_some_and(|told| told.name == policy) {
                return;
            }
        }
    };
    timeout(PATIENCE, told).await.expect("the stream is silent");
}

#[tokio::test]
async fn a_revoked_agent_loses_its_stream_and_nobody_else_loses_anything() {
    let mut place = place().await;
    let (blue, green) = (place.agents.agent("blue"), place.agents.agent("green"));
    let deploy = place.callers.leaf("deploy", |_| {});
    let callers = place.channel(Some(&deploy)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = ask(callers.clone(), Arc::clone(&stop));
    let request = api::WatchPoliciesRequest::default();
    let mut watch = PolicyServiceClient::new(callers).watch_policies(request).await.unwrap().into_inner();
    place.hub.channel = place.channel(Some(&green)).await;
    let mut kept = Agent::connect(&place.hub, hello("green")).await;
    kept.welcome().await;
    let connection = place.channel(Some(&blue)).await;
    place.hub.channel = connection.clone();
    let mut revoked = Agent::connect(&place.hub, hello("blue")).await;
    revoked.welcome().await;

    place.revoke("blue", &blue).await;
    let end = timeout(Duration::from_secs(10), revoked.end()).await.expect("within seconds");
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unauthenticated, "the certificate was revoked; get a new one with a new join token")
    );
    // The same connection, which lasts, opens nothing any more.
    let again = AgentServiceClient::new(connection).session(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);

    stop.store(true, Ordering::SeqCst);
    let (asked, failed) = asking.await.unwrap();
    assert!(asked > 10 && failed.is_empty(), "{asked} {failed:?}");
    drop(kept.watch_set().await);
    place.apply("after").await;
    goes_on(&mut watch, "after").await;
    let set = kept.watch_set().await;
    assert_eq!(set.services.len(), 1, "the other agent is told what to watch for it: {set:?}");
    drop((kept, watch));
    place.stop().await;
}

#[tokio::test]
async fn streams_of_a_revoked_token_end_on_a_connection_that_others_go_on_using() {
    let place = place().await;
    let channel = place.channel(None).await;
    let mut tokens = Vec::new();
    for name in ["one", "two"] {
        let token = Token::new(TokenKind::Service, rand::random(), rand::random());
        let grants = Grants(vec![Grant { role: Role::Viewer, overrides: false, ..Grant::everything() }]);
        place
            .hub
            .store
            .service_token_create(&admin(), name, &grants, SignedDuration::from_hours(1), &token)
            .await
            .unwrap();
        tokens.push(token.reveal());
    }
    let with = |token: &str| {
        let mut request = Request::new(api::WatchPoliciesRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let mut client = PolicyServiceClient::new(channel);
    let mut ended = Vec::new();
    for _ in 0..20 {
        ended.push(client.watch_policies(with(&tokens[0])).await.unwrap().into_inner());
    }
    let mut kept = client.watch_policies(with(&tokens[1])).await.unwrap().into_inner();
    place.hub.store.service_token_revoke(&admin(), "one").await.unwrap();
    for mut stream in ended {
        let end = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Status::ok("without a word"),
                    Err(status) => break status,
                }
            }
        };
        let status = timeout(Duration::from_secs(10), end).await.expect("within seconds");
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the token was revoked; get a new one"));
    }
    assert_eq!(client.watch_policies(with(&tokens[0])).await.unwrap_err().code(), Code::Unauthenticated);
    client.watch_policies(with(&tokens[1])).await.unwrap();
    place.apply("after").await;
    goes_on(&mut kept, "after").await;
    drop((kept, client));
    place.stop().await;
}

#[tokio::test]
async fn a_stream_that_was_refused_says_why_however_much_its_caller_sends() {
    let place = place().await;
    let channel = place.channel(Some(&place.callers.leaf("deploy", |_| {}))).await;
    // More than a window of HTTP/2, which the hub never reads.
    let flood = futures::stream::repeat_with(|| switchyard_proto::agent::v1::AgentMessage {
        seq: 0,
        message: Some(switchyard_proto::agent::v1::agent_message::Message::Hello(switchyard_proto::agent::v1::Hello {
            cluster: "x".repeat(60_000),
            ..hello("blue")
        })),
    });
    let refused = timeout(PATIENCE, AgentServiceClient::new(channel.clone()).session(flood)).await.expect("an answer");
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("for the agents of clusters"), "{refused}");
    PolicyServiceClient::new(channel).list_policies(api::ListPoliciesRequest::default()).await.unwrap();
    place.stop().await;
}
