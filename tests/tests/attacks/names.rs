//! Names and reasons that are statements of SQL, lines of a log, escapes of a terminal, paths, or very long.

use switchyard_proto::api::v1::{
    ApplyPolicyRequest, CordonClusterRequest, CreateJoinTokenRequest, CreateServiceTokenRequest, DeletePolicyRequest,
    GetPolicyRequest, GetShiftRequest, Grant, ListAuditEntriesRequest, ListEndpointsRequest, ListPoliciesRequest,
    PolicyRef, RevokeAgentCertificatesRequest, RevokeJoinTokenRequest, Role, SetGatingSwitchRequest, SetWeightsRequest,
    access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient,
    cluster_service_client::ClusterServiceClient, policy_service_client::PolicyServiceClient,
    safety_service_client::SafetyServiceClient, shift_service_client::ShiftServiceClient,
};
use tonic::{Code, Status};

use crate::scene::{Scene, manifest};

pub fn evil() -> Vec<String> {
    [
        "'; drop table audit; --",
        "x' or '1'='1",
        "\\'; delete from policies; --",
        "$1",
        "%s%n%x",
        "a\nlevel=ERROR forged line",
        "a\r\n2026-01-01T00:00:00Z  INFO forged",
        "\u{1b}[2J\u{1b}[31mred",
        "\u{202e}txt",
        "../../etc/passwd",
        "a/b/c",
        "a\0b",
        "{\"a\":1}",
        "<script>alert(1)</script>",
        "${jndi:ldap://x}",
        "`id`",
        "",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([" ".repeat(300), "a".repeat(5000), "ß".repeat(3000)])
    .collect()
}

/// Refused as not valid, or as something that there is not; never an error of the hub's own.
fn judge(what: &str, text: &str, result: Result<(), Status>, may_pass: bool) {
    match result {
        Ok(()) => assert!(may_pass, "{what} took {text:?}"),
        Err(status) => {
            let fine = matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::PermissionDenied
                    | Code::FailedPrecondition
                    | Code::AlreadyExists
            );
            assert!(fine, "{what} with {text:?}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_is_more_than_a_name() {
    // One caller asks some hundred times; how often he may is not what this is about.
    let scene = Scene::with(&["--caller-change-rate=1000:10000", "--caller-read-rate=1000:10000"]).await;
    let channel = scene.administrator.clone();
    let apply = |request_id: &str, manifest: String| ApplyPolicyRequest {
        request_id: request_id.to_owned(),
        manifest,
        ..Default::default()
    };
    let mut policies = PolicyServiceClient::new(channel.clone());
    policies.apply_policy(apply("good", manifest("shop", "web"))).await.unwrap();
    let (mut clusters, mut access) =
        (ClusterServiceClient::new(channel.clone()), AccessServiceClient::new(channel.clone()));
    let (mut safety, mut shifts) =
        (SafetyServiceClient::new(channel.clone()), ShiftServiceClient::new(channel.clone()));
    let mut audit = AuditServiceClient::new(channel);
    for (i, text) in evil().iter().enumerate() {
        let (t, id) = (text.clone(), format!("request-{i}"));
        let reference = || Some(PolicyRef { namespace: "shop".into(), name: t.clone() });
        judge("get policy", text, policies.get_policy(GetPolicyRequest { policy: reference() }).await.map(drop), false);
        let namespace = Some(PolicyRef { namespace: t.clone(), name: "web".into() });
        judge(
            "get namespace",
            text,
            policies.get_policy(GetPolicyRequest { policy: namespace }).await.map(drop),
            false,
        );
        let list = ListPoliciesRequest { namespace: t.clone(), ..Default::default() };
        judge("list", text, policies.list_policies(list).await.map(drop), text.is_empty());
        let page = ListPoliciesRequest { page_token: t.clone(), ..Default::default() };
        judge("page", text, policies.list_policies(page).await.map(drop), text.is_empty());
        judge("manifest", text, policies.apply_policy(apply(&id, t.clone())).await.map(drop), false);
        let named = serde_json::from_str::<serde_json::Value>(&manifest("shop", "web")).unwrap();
        for field in [
            "/metadata/name",
            "/metadata/namespace",
            "/spec/backend/service/name",
            "/spec/clusters/0/name",
            "/spec/listener/loadBalancer",
        ] {
            let mut spoilt = named.clone();
            *spoilt.pointer_mut(field).unwrap() = serde_json::json!(t);
            let dry = ApplyPolicyRequest { dry_run: true, ..apply(&format!("{id}{field}"), spoilt.to_string()) };
            // A load balancer may have any name of AWS; that there is none is for the status to say.
            judge(field, text, policies.apply_policy(dry).await.map(drop), field.ends_with("loadBalancer"));
        }
        let web = || Some(PolicyRef { namespace: "shop".into(), name: "web".into() });
        let weights = SetWeightsRequest {
            request_id: format!("w{id}"),
            policy: web(),
            weights: [(t.clone(), 1)].into(),
            dry_run: true,
            ..Default::default()
        };
        judge("weights", text, policies.set_weights(weights).await.map(drop), false);
        let reason = SetWeightsRequest {
            request_id: format!("r{id}"),
            policy: web(),
            weights: [("green".to_owned(), u32::try_from(i + 1).unwrap())].into(),
            reason: t.clone(),
            ..Default::default()
        };
        judge("reason", text, policies.set_weights(reason).await.map(drop), true);
        let request = SetWeightsRequest {
            request_id: t.clone(),
            policy: web(),
            weights: [("green".to_owned(), 500)].into(),
            ..Default::default()
        };
        judge("request id", text, policies.set_weights(request).await.map(drop), true);
        let delete = DeletePolicyRequest { request_id: format!("d{id}"), policy: reference(), ..Default::default() };
        judge("delete", text, policies.delete_policy(delete).await.map(drop), false);
        let cordon = CordonClusterRequest { request_id: format!("c{id}"), cluster: t.clone(), ..Default::default() };
        judge("cordon", text, clusters.cordon_cluster(cordon).await.map(drop), false);
        let endpoints = ListEndpointsRequest { cluster: t.clone(), ..Default::default() };
        judge("endpoints", text, clusters.list_endpoints(endpoints).await.map(drop), text.is_empty());
        let join = CreateJoinTokenRequest { request_id: format!("j{id}"), cluster: t.clone(), ..Default::default() };
        judge("join", text, access.create_join_token(join).await.map(drop), false);
        let grant = |namespace: &str| Grant {
            role: Role::Viewer.into(),
            namespaces: vec![namespace.to_owned()],
            clusters: vec!["*".into()],
            overrides: false,
        };
        let token = CreateServiceTokenRequest {
            request_id: format!("t{id}"),
            name: t.clone(),
            grants: vec![grant("*")],
            ..Default::default()
        };
        judge("service token", text, access.create_service_token(token).await.map(drop), false);
        let token = CreateServiceTokenRequest {
            request_id: format!("g{id}"),
            name: format!("t{i}"),
            grants: vec![grant(text)],
            ..Default::default()
        };
        judge("grant", text, access.create_service_token(token).await.map(drop), false);
        let revoke = RevokeJoinTokenRequest { request_id: format!("rj{id}"), id: t.clone(), reason: t.clone() };
        judge("revoke a join token", text, access.revoke_join_token(revoke).await.map(drop), false);
        let revoke = RevokeAgentCertificatesRequest {
            request_id: format!("rc{id}"),
            cluster: "blue".into(),
            serial: t.clone(),
            reason: t.clone(),
        };
        judge("revoke a certificate", text, access.revoke_agent_certificates(revoke).await.map(drop), text.is_empty());
        let switch = SetGatingSwitchRequest {
            request_id: format!("s{id}"),
            name: t.clone(),
            policies: vec!["shop/*".into()],
            on: true,
            ..Default::default()
        };
        judge("switch", text, safety.set_gating_switch(switch).await.map(drop), false);
        judge("shift", text, shifts.get_shift(GetShiftRequest { id: t.clone() }).await.map(drop), false);
        let entries = ListAuditEntriesRequest { actor: t.clone(), ..Default::default() };
        judge("audit", text, audit.list_audit_entries(entries).await.map(drop), true);
        let entries = ListAuditEntriesRequest { page_token: t.clone(), ..Default::default() };
        judge("page of the audit", text, audit.list_audit_entries(entries).await.map(drop), text.is_empty());
    }
    // Everything is there, and no line of the log was made by somebody else.
    let listed = policies.list_policies(ListPoliciesRequest::default()).await.unwrap().into_inner().policies;
    assert_eq!(listed.len(), 1);
    for line in scene.log().lines().filter(|line| !line.trim().is_empty()) {
        let begins = line.trim_start().trim_start_matches(['\u{1b}', '[']);
        assert!(begins.starts_with(|c: char| c.is_ascii_digit()), "a line of the log that is not the hub's: {line:?}");
        assert!(!line.contains("[2J") || !line.contains('\u{1b}'), "an escape of a terminal: {line:?}");
        assert!(!line.contains('\u{202e}'), "{line:?}");
    }
    scene.audit_holds().await;
    scene.stop().await;
}
