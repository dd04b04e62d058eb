//! AccessService behind the gate, over a real Postgres: who one is, tokens from their making to their end, and what an attacker with
//! a token of his own tries.

mod enrollment_support;
mod grpc_support;
mod store_support;

use enrollment_support::{Port, audit, count, hub};
use grpc_support::eventually;
use prost::Message;
use switchyard_proto::api::v1 as api;
use tonic::{Code, Status};
use uuid::Uuid;

fn grant(role: api::Role, namespaces: &[&str], clusters: &[&str], overrides: bool) -> api::Grant {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    api::Grant { role: role.into(), namespaces: texts(namespaces), clusters: texts(clusters), overrides }
}

fn admin_of_all() -> api::Grant {
    grant(api::Role::Admin, &["*"], &["*"], false)
}

async fn create(port: &Port, name: &str, grants: &[api::Grant]) -> Result<api::CreateServiceTokenResponse, Status> {
    let request = api::CreateServiceTokenRequest {
        request_id: Uuid::new_v4().to_string(),
        name: name.to_owned(),
        grants: grants.to_vec(),
        ttl_seconds: 600,
        reason: "a test".to_owned(),
    };
    Ok(port.access().create_service_token(request).await?.into_inner())
}

async fn revoke(port: &Port, name: &str) -> Result<api::ServiceToken, Status> {
    let request = api::RevokeServiceTokenRequest {
        request_id: Uuid::new_v4().to_string(),
        name: name.to_owned(),
        ..Default::default()
    };
    Ok(port.access().revoke_service_token(request).await?.into_inner().token.unwrap())
}

async fn whoami(port: &Port) -> Result<api::WhoAmIResponse, Status> {
    Ok(port.access().who_am_i(api::WhoAmIRequest {}).await?.into_inner())
}

fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violation = api::Violations::decode(status.details()).unwrap().violations.remove(0);
    assert!(!violation.remedy.is_empty());
    violation.field
}

#[tokio::test]
async fn everybody_learns_who_he_is_taken_for_and_what_he_may_do() {
    let hub = hub().await;
    let admin = whoami(&Port::caller(&hub, "admin")).await.unwrap();
    assert!(admin.identity.starts_with("certificate:CN=admin (sha256:"), "{admin:?}");
    assert_eq!(
        (admin.method.as_str(), admin.grants),
        ("certificate", vec![grant(api::Role::Admin, &["*"], &["*"], true)])
    );
    let stranger = whoami(&Port::caller(&hub, "stranger")).await.unwrap();
    assert_eq!((stranger.method.as_str(), stranger.grants.len()), ("certificate", 0));
    let viewer = grant(api::Role::Viewer, &["shop"], &["blue", "green"], false);
    let made = create(&Port::caller(&hub, "admin"), "ci", std::slice::from_ref(&viewer)).await.unwrap();
    let ci = whoami(&Port::token(&hub, &made.secret)).await.unwrap();
    assert_eq!((ci.identity.as_str(), ci.method.as_str(), ci.grants), ("token:ci", "token", vec![viewer]));
    assert_eq!(ci.expires_at, made.token.unwrap().expires_at);
    assert_eq!(whoami(&Port::nobody(&hub)).await.unwrap_err().code(), Code::Unauthenticated);
    hub.stop().await;
}

#[tokio::test]
async fn a_service_token_is_shown_once_listed_without_its_secret_used_and_revoked_within_seconds() {
    let hub = hub().await;
    let admin = Port::caller(&hub, "admin");
    let request = api::CreateServiceTokenRequest {
        request_id: "make-1".to_owned(),
        name: "ci".to_owned(),
        grants: vec![grant(api::Role::Viewer, &["*"], &["*"], false)],
        ..Default::default()
    };
    let made = admin.access().create_service_token(request.clone()).await.unwrap().into_inner();
    assert!(made.secret.starts_with("sys_"));
    let stored = made.token.unwrap();
    let life = stored.expires_at.as_ref().unwrap().seconds - stored.created_at.as_ref().unwrap().seconds;
    assert_eq!(life, 90 * 86_400);
    // The answer was lost: the secret is gone with it, and nobody gets a second one under that name.
    let again = admin.access().create_service_token(request.clone()).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert!(again.message().contains("revoke ci and ask anew"), "{again:?}");
    let reused = api::CreateServiceTokenRequest { name: "other".to_owned(), ..request };
    assert_eq!(admin.access().create_service_token(reused).await.unwrap_err().code(), Code::AlreadyExists);

    let port = Port::token(&hub, &made.secret);
    let list = || admin.access();
    let listed = async || list().list_service_tokens(api::ListServiceTokensRequest {}).await.unwrap().into_inner();
    whoami(&port).await.unwrap();
    hub.store.token_used(&[stored.id], jiff::Timestamp::now()).await.unwrap();
    assert_eq!(listed().await.tokens[0].last_used_at.unwrap().seconds % 60, 0, "to the minute");
    let shown = format!("{:?}", listed().await);
    assert!(!shown.contains(made.secret.rsplit('_').next().unwrap()));

    assert!(revoke(&admin, "ci").await.unwrap().revoked_at.is_some());
    let refused = eventually("the end of the token", async || whoami(&port).await.err()).await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    let before = count(&hub, "service-token.revoke").await;
    assert!(revoke(&admin, "ci").await.unwrap().revoked_at.is_some(), "again is no error");
    assert_eq!((before, count(&hub, "service-token.revoke").await), (1, 1));
    let taken = create(&admin, "ci", &[grant(api::Role::Viewer, &["*"], &["*"], false)]).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert!(taken.message().contains("names are never given again"), "{taken:?}");
    assert_eq!(revoke(&admin, "nobody").await.unwrap_err().code(), Code::NotFound);
    hub.stop().await;
}

#[tokio::test]
async fn nobody_gives_more_than_he_has_nor_longer_than_he_lives() {
    let hub = hub().await;
    let careful = Port::caller(&hub, "careful");
    // An admin over everything, without overrides.
    let refused = create(&careful, "bold", &[grant(api::Role::Viewer, &["*"], &["*"], true)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("yardctl whoami"), "{refused:?}");
    let root = create(&careful, "root", &[admin_of_all()]).await.unwrap();
    // Tokens make tokens only with the whole right, and none that outlives them.
    let port = Port::token(&hub, &root.secret);
    let wish = |ttl_seconds| api::CreateServiceTokenRequest {
        request_id: Uuid::new_v4().to_string(),
        name: format!("child-{ttl_seconds}"),
        grants: vec![grant(api::Role::Viewer, &["shop"], &["*"], false)],
        ttl_seconds,
        ..Default::default()
    };
    assert_eq!(field(&port.access().create_service_token(wish(86_400)).await.unwrap_err()), "ttl_seconds");
    assert_eq!(field(&port.access().create_service_token(wish(0)).await.unwrap_err()), "ttl_seconds");
    let child = port.access().create_service_token(wish(300)).await.unwrap().into_inner();
    assert_eq!(child.token.unwrap().created_by, "token:root");
    let refused = create(&port, "bold", &[grant(api::Role::Admin, &["*"], &["*"], true)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let shop_admin = create(&careful, "shop", &[grant(api::Role::Admin, &["shop"], &["*"], false)]).await.unwrap();
    let (shop, child) = (Port::token(&hub, &shop_admin.secret), Port::token(&hub, &child.secret));
    for port in [&shop, &child, &Port::caller(&hub, "shop"), &Port::caller(&hub, "viewer"), &Port::caller(&hub, "x")] {
        let made = create(port, "more", &[grant(api::Role::Viewer, &["shop"], &["*"], false)]).await;
        assert_eq!(made.unwrap_err().code(), Code::PermissionDenied);
        let request = api::CreateJoinTokenRequest {
            request_id: "j".to_owned(),
            cluster: "blue".to_owned(),
            ..Default::default()
        };
        assert_eq!(port.access().create_join_token(request).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(revoke(port, "root").await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(port.rotate().await.unwrap_err().code(), Code::PermissionDenied);
        let tokens = port.access().list_service_tokens(api::ListServiceTokensRequest {}).await;
        assert_eq!(tokens.unwrap_err().code(), Code::PermissionDenied);
    }
    let names: Vec<String> = hub.store.service_tokens().await.unwrap().into_iter().map(|token| token.name).collect();
    assert_eq!(names, ["shop", "child-300", "root"]);
    hub.stop().await;
}

#[tokio::test]
async fn join_tokens_are_made_listed_by_cluster_and_taken_back() {
    let hub = hub().await;
    let admin = Port::caller(&hub, "admin");
    let request = api::CreateJoinTokenRequest {
        request_id: "join-1".to_owned(),
        cluster: "blue".to_owned(),
        ttl_seconds: 60,
        reason: "a new cluster\nlevel=error".to_owned(),
    };
    let made = admin.access().create_join_token(request.clone()).await.unwrap().into_inner();
    assert!(made.secret.starts_with("syj_") && made.secret.len() == 60);
    let token = made.token.unwrap();
    assert_eq!(token.expires_at.as_ref().unwrap().seconds - token.created_at.as_ref().unwrap().seconds, 60);
    let again = admin.access().create_join_token(request).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert!(again.message().contains(&token.id), "{again:?}");
    admin.join_token("green").await;
    let list = |cluster: &str| {
        let (mut client, cluster) = (admin.access(), cluster.to_owned());
        async move { client.list_join_tokens(api::ListJoinTokensRequest { cluster }).await.unwrap().into_inner().tokens }
    };
    let clusters: Vec<String> = list("").await.into_iter().map(|token| token.cluster).collect();
    assert_eq!(clusters, ["green", "blue"]);
    assert_eq!(list("blue").await, std::slice::from_ref(&token));
    let revoke = api::RevokeJoinTokenRequest {
        request_id: "revoke-1".to_owned(),
        id: token.id.clone(),
        reason: "not needed".to_owned(),
    };
    for _ in 0..2 {
        let revoked = admin.access().revoke_join_token(revoke.clone()).await.unwrap().into_inner().token.unwrap();
        assert!(revoked.revoked_at.is_some());
    }
    assert_eq!(count(&hub, "join-token.revoke").await, 1);
    let row = audit(&hub).await.into_iter().find(|row| row.action == "join-token.create").unwrap();
    assert_eq!((row.reason.as_str(), row.request_id.as_str()), ("a new cluster\nlevel=error", "join-1"));
    assert_eq!(row.source, "192.0.2.7");
    let unknown = api::RevokeJoinTokenRequest { id: "a".repeat(12), request_id: "r2".to_owned(), ..Default::default() };
    assert_eq!(admin.access().revoke_join_token(unknown).await.unwrap_err().code(), Code::NotFound);
    hub.stop().await;
}

/// What makes a good request a bad one.
type Change<'a> = &'a dyn Fn(&mut api::CreateServiceTokenRequest);

#[tokio::test]
async fn every_field_is_bounded_and_named_when_it_is_at_fault() {
    let hub = hub().await;
    let admin = Port::caller(&hub, "admin");
    let viewer = || grant(api::Role::Viewer, &["*"], &["*"], false);
    for name in
        ["", "CI", "a b", "ci\n", "x'); drop table service_tokens; --", "a/b", "\u{202e}ic", &"a".repeat(64), "*", "\0"]
    {
        assert_eq!(field(&create(&admin, name, &[viewer()]).await.unwrap_err()), "name", "{name:?}");
        assert_eq!(field(&revoke(&admin, name).await.unwrap_err()), "name");
    }
    let cases = [
        (vec![], "grants"),
        (vec![viewer(); 21], "grants"),
        (vec![viewer(), grant(api::Role::Unspecified, &["*"], &["*"], false)], "grants[1].role"),
        (vec![grant(api::Role::Viewer, &[], &["*"], false)], "grants[0].namespaces"),
        (vec![grant(api::Role::Viewer, &["*", "shop"], &["*"], false)], "grants[0].namespaces[0]"),
        (vec![grant(api::Role::Viewer, &["*"], &["bl*"], false)], "grants[0].clusters[0]"),
    ];
    for (grants, named) in cases {
        assert_eq!(field(&create(&admin, "ci", &grants).await.unwrap_err()), named);
    }
    let request = |change: Change<'_>| {
        let mut request = api::CreateServiceTokenRequest {
            request_id: "r".to_owned(),
            name: "ci".to_owned(),
            grants: vec![viewer()],
            ..Default::default()
        };
        change(&mut request);
        request
    };
    let cases: [(Change<'_>, &str); 5] = [
        (&|request| request.ttl_seconds = 299, "ttl_seconds"),
        (&|request| request.ttl_seconds = 31_536_001, "ttl_seconds"),
        (&|request| request.request_id = String::new(), "request_id"),
        (&|request| request.request_id = "a b".to_owned(), "request_id"),
        (&|request| request.reason = "x".repeat(1025), "reason"),
    ];
    for (change, named) in cases {
        assert_eq!(field(&admin.access().create_service_token(request(change)).await.unwrap_err()), named);
    }
    for cluster in ["", "Blue", "blue'--", "blue\u{1b}[31m", &"b".repeat(64)] {
        let join = api::CreateJoinTokenRequest {
            request_id: Uuid::new_v4().to_string(),
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        assert_eq!(field(&admin.access().create_join_token(join).await.unwrap_err()), "cluster");
        let revoke = api::RevokeAgentCertificatesRequest {
            request_id: Uuid::new_v4().to_string(),
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        assert_eq!(field(&admin.access().revoke_agent_certificates(revoke).await.unwrap_err()), "cluster");
    }
    let join = api::CreateJoinTokenRequest {
        request_id: "j".to_owned(),
        cluster: "blue".to_owned(),
        ttl_seconds: 86_401,
        ..Default::default()
    };
    assert_eq!(field(&admin.access().create_join_token(join).await.unwrap_err()), "ttl_seconds");
    let revoke = api::RevokeAgentCertificatesRequest {
        request_id: "r".to_owned(),
        cluster: "blue".to_owned(),
        serial: "' or 1=1".to_owned(),
        ..Default::default()
    };
    assert_eq!(field(&admin.access().revoke_agent_certificates(revoke).await.unwrap_err()), "serial");
    let id = api::RevokeJoinTokenRequest { request_id: "r".to_owned(), id: "%".repeat(12), ..Default::default() };
    assert_eq!(field(&admin.access().revoke_join_token(id).await.unwrap_err()), "id");
    let list = api::ListJoinTokensRequest { cluster: "B".to_owned() };
    assert_eq!(field(&admin.access().list_join_tokens(list).await.unwrap_err()), "cluster");
    assert!(
        hub.store.service_tokens().await.unwrap().is_empty() && hub.store.join_tokens(None).await.unwrap().is_empty()
    );
    hub.stop().await;
}
