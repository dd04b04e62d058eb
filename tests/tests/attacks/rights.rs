//! An operator of namespace shop wants to move pay, and more rights than he has.

use std::collections::HashMap;

use switchyard_proto::api::v1::{
    ApplyPolicyRequest, CordonClusterRequest, CreateJoinTokenRequest, CreateServiceTokenRequest, DeletePolicyRequest,
    DrainClusterRequest, ExplainPolicyRequest, GetPolicyRequest, Grant, ListAuditEntriesRequest, ListPoliciesRequest,
    PolicyRef, RevokeServiceTokenRequest, Role, RotateAuthorityRequest, SetGatingSwitchRequest, SetWeightsRequest,
    WatchPoliciesRequest, access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient,
    cluster_service_client::ClusterServiceClient, policy_service_client::PolicyServiceClient,
    safety_service_client::SafetyServiceClient,
};
use tonic::{Code, Status};

use crate::scene::{Scene, call, manifest};

async fn apply(scene: &Scene, namespace: &str, name: &str) {
    let request = ApplyPolicyRequest {
        request_id: format!("{namespace}-{name}"),
        manifest: manifest(namespace, name),
        ..ApplyPolicyRequest::default()
    };
    PolicyServiceClient::new(scene.administrator.clone()).apply_policy(request).await.unwrap();
}

fn pay() -> Option<PolicyRef> {
    Some(PolicyRef { namespace: "pay".into(), name: "web".into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_shop_neither_sees_nor_moves_pay() {
    let scene = Scene::start().await;
    apply(&scene, "shop", "web").await;
    apply(&scene, "pay", "web").await;
    let token = scene.token("bob", &["shop-operators", "shop-admins"]);
    let bob = Some(token.as_str());
    let channel = scene.nobody().await;
    let (mut policies, mut clusters) =
        (PolicyServiceClient::new(channel.clone()), ClusterServiceClient::new(channel.clone()));
    let mut safety = SafetyServiceClient::new(channel.clone());

    let listed = call(ListPoliciesRequest::default(), bob, async |request| policies.list_policies(request).await).await;
    let names: Vec<_> =
        listed.unwrap().policies.into_iter().map(|policy| policy.r#ref.unwrap_or_default().namespace).collect();
    assert_eq!(names, ["shop"]);

    let weights = HashMap::from([("green".to_owned(), 100)]);
    let mut refused: Vec<(&str, Status)> = Vec::new();
    let mut note = |what, result: Result<(), Status>| refused.push((what, result.expect_err(what)));
    let get = |name: &str| GetPolicyRequest { policy: Some(PolicyRef { namespace: "pay".into(), name: name.into() }) };
    note("get", call(get("web"), bob, async |r| policies.get_policy(r).await).await.map(drop));
    note("get what there is not", call(get("nothing"), bob, async |r| policies.get_policy(r).await).await.map(drop));
    let explain = ExplainPolicyRequest { policy: pay() };
    note("explain", call(explain, bob, async |r| policies.explain_policy(r).await).await.map(drop));
    let set =
        SetWeightsRequest { request_id: "1".into(), policy: pay(), weights: weights.clone(), ..Default::default() };
    note("weights", call(set.clone(), bob, async |r| policies.set_weights(r).await).await.map(drop));
    let dry = SetWeightsRequest { dry_run: true, ..set };
    note("weights, dry", call(dry, bob, async |r| policies.set_weights(r).await).await.map(drop));
    let delete = DeletePolicyRequest { request_id: "2".into(), policy: pay(), ..Default::default() };
    note("delete", call(delete, bob, async |r| policies.delete_policy(r).await).await.map(drop));
    let take = ApplyPolicyRequest { request_id: "3".into(), manifest: manifest("pay", "web"), ..Default::default() };
    note("apply", call(take, bob, async |r| policies.apply_policy(r).await).await.map(drop));
    let new = ApplyPolicyRequest { request_id: "4".into(), manifest: manifest("pay", "new"), ..Default::default() };
    note("apply a new one", call(new, bob, async |r| policies.apply_policy(r).await).await.map(drop));
    let cordon = CordonClusterRequest { request_id: "5".into(), cluster: "blue".into(), ..Default::default() };
    note("cordon", call(cordon, bob, async |r| clusters.cordon_cluster(r).await).await.map(drop));
    let drain = DrainClusterRequest { request_id: "6".into(), cluster: "blue".into(), ..Default::default() };
    note("drain", call(drain, bob, async |r| clusters.drain_cluster(r).await).await.map(drop));
    let switch = SetGatingSwitchRequest {
        request_id: "7".into(),
        name: "all".into(),
        policies: vec!["*/*".into()],
        ..Default::default()
    };
    note("switch", call(switch, bob, async |r| safety.set_gating_switch(r).await).await.map(drop));
    let watch = WatchPoliciesRequest { namespace: String::new(), policy: pay() };
    note("watch", call(watch, bob, async |r| policies.watch_policies(r).await).await.map(drop));
    for (what, status) in &refused {
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert!(status.message().contains("corp:bob") || status.message().contains("this caller"), "{what}: {status}");
    }
    let (there, not_there) = (&refused[0].1, &refused[1].1);
    assert_eq!(
        there.message(),
        not_there.message().replace("pay/nothing", "pay/web"),
        "whether there is such a policy is not told"
    );

    // Nothing of it happened, and bob's own works.
    let kept = PolicyServiceClient::new(scene.administrator.clone()).get_policy(get("web")).await.unwrap().into_inner();
    assert_eq!(kept.policy.unwrap().version, 1);
    let own = Some(PolicyRef { namespace: "shop".into(), name: "web".into() });
    let set = SetWeightsRequest { request_id: "8".into(), policy: own, weights, ..Default::default() };
    call(set, bob, async |r| policies.set_weights(r).await).await.expect("his own policy");

    // His audit log is that of shop.
    let mut audit = AuditServiceClient::new(channel);
    let entries =
        call(ListAuditEntriesRequest::default(), bob, async |r| audit.list_audit_entries(r).await).await.unwrap();
    assert!(!entries.entries.is_empty());
    assert!(entries.entries.iter().all(|entry| entry.policy.starts_with("shop/")), "{entries:#?}");
    scene.audited("refused", &["corp:bob", "DrainCluster"]).await;
    scene.audit_holds().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_lifts_himself_up() {
    let scene = Scene::start().await;
    let mut access = AccessServiceClient::new(scene.nobody().await);
    let everything = || Grant {
        role: Role::Admin.into(),
        namespaces: vec!["*".into()],
        clusters: vec!["*".into()],
        overrides: true,
    };
    let create = |name: &str, grants: Vec<Grant>| CreateServiceTokenRequest {
        request_id: name.to_owned(),
        name: name.to_owned(),
        grants,
        ttl_seconds: 600,
        ..CreateServiceTokenRequest::default()
    };
    // An admin of one namespace.
    let token = scene.token("eve", &["shop-admins"]);
    let eve = Some(token.as_str());
    let mut refused = Vec::new();
    refused.push(
        call(create("a", vec![everything()]), eve, async |r| access.create_service_token(r).await).await.map(drop),
    );
    let join = CreateJoinTokenRequest { request_id: "b".into(), cluster: "blue".into(), ..Default::default() };
    refused.push(call(join, eve, async |r| access.create_join_token(r).await).await.map(drop));
    let rotate = RotateAuthorityRequest { request_id: "c".into(), ..Default::default() };
    refused.push(call(rotate, eve, async |r| access.rotate_authority(r).await).await.map(drop));
    let revoke = RevokeServiceTokenRequest { request_id: "d".into(), name: "a".into(), ..Default::default() };
    refused.push(call(revoke, eve, async |r| access.revoke_service_token(r).await).await.map(drop));
    // An admin of everything, without the right to cross safety rules, gives himself that.
    let most = Grant { overrides: false, ..everything() };
    let mut of_admin = AccessServiceClient::new(scene.administrator.clone());
    let first = CreateServiceTokenRequest { ttl_seconds: 6000, ..create("most", vec![most.clone()]) };
    let secret = of_admin.create_service_token(first).await.unwrap().into_inner().secret;
    let bearer = Some(secret.as_str());
    refused.push(
        call(create("e", vec![everything()]), bearer, async |r| access.create_service_token(r).await).await.map(drop),
    );
    for (i, result) in refused.into_iter().enumerate() {
        let status = result.expect_err("a refusal");
        assert_eq!(status.code(), Code::PermissionDenied, "{i}: {status}");
    }
    // What he may: as much as he has himself. A second one of the same name there is not.
    call(create("as-much", vec![most.clone()]), bearer, async |r| access.create_service_token(r).await).await.unwrap();
    let again = CreateServiceTokenRequest { request_id: "other".into(), ..create("as-much", vec![most]) };
    let twice = call(again, bearer, async |r| access.create_service_token(r).await).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists, "{twice}");
    assert!(!scene.log().contains(&secret), "a token in the log");
    scene.audit_holds().await;
    scene.stop().await;
}
