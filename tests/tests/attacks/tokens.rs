//! An attacker makes tokens, or has some that were made for something else.

use std::time::Instant;

use serde_json::{Value, json};
use switchyard_proto::api::v1::{
    ListPoliciesRequest, WhoAmIRequest, access_service_client::AccessServiceClient,
    policy_service_client::PolicyServiceClient,
};
use switchyard_tests::{
    issuer::{Algorithm, Issuer, Key, signed_by_hmac, unsigned},
    wait,
};
use tonic::{Code, Status};

use crate::scene::{Scene, call};

async fn who(scene: &Scene, token: Option<&str>) -> Result<String, Status> {
    let mut access = AccessServiceClient::new(scene.nobody().await);
    let answer = call(WhoAmIRequest {}, token, async |request| access.who_am_i(request).await).await?;
    Ok(answer.identity)
}

fn with(mut claims: Value, change: &[(&str, Value)]) -> Value {
    for (claim, value) in change {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(*claim);
        } else {
            claims[*claim] = value.clone();
        }
    }
    claims
}

/// The same token with other claims, and the signature that it had.
fn tampered(token: &str, claims: &Value) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut parts: Vec<&str> = token.split('.').collect();
    let forged = URL_SAFE_NO_PAD.encode(claims.to_string());
    parts[1] = &forged;
    parts.join(".")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_that_the_issuer_did_not_make_for_this_hub_and_this_moment_opens_anything() {
    let scene = Scene::start().await;
    let (key, issuer) = (&scene.guard.key, &scene.guard.issuer);
    let good = issuer.claims("ann", &["shop-admins"]);
    let now = jiff::Timestamp::now().as_second();
    assert_eq!(who(&scene, Some(&key.sign(&good))).await.unwrap(), "corp:ann");

    let stranger = Key::make("first", Algorithm::Es256).unwrap();
    let rsa = Key::make("first", Algorithm::Rs256).unwrap();
    let elsewhere = Issuer::start(&[&stranger]).await.unwrap();
    let public = key.jwk().to_string();
    let header = |header: Value| key.sign_as(&header, &good);
    let attacks: Vec<(&str, String)> = vec![
        ("expired", key.sign(&with(good.clone(), &[("exp", json!(now - 60))]))),
        ("without an end", key.sign(&with(good.clone(), &[("exp", Value::Null)]))),
        ("an end that is a text", key.sign(&with(good.clone(), &[("exp", json!("never"))]))),
        ("not yet", key.sign(&with(good.clone(), &[("nbf", json!(now + 3600))]))),
        ("wrong audience", key.sign(&with(good.clone(), &[("aud", json!("other"))]))),
        ("audiences without ours", key.sign(&with(good.clone(), &[("aud", json!(["a", "switchyard2"]))]))),
        ("no audience", key.sign(&with(good.clone(), &[("aud", Value::Null)]))),
        ("foreign issuer that exists", stranger.sign(&with(good.clone(), &[("iss", json!(elsewhere.url()))]))),
        ("issuer with a slash more", key.sign(&with(good.clone(), &[("iss", json!(format!("{}/", issuer.url())))]))),
        ("no issuer", key.sign(&with(good.clone(), &[("iss", Value::Null)]))),
        ("no user", key.sign(&with(good.clone(), &[("sub", Value::Null)]))),
        ("another key with the same id", stranger.sign(&good)),
        ("another kind of key with the same id", rsa.sign(&good)),
        ("none", unsigned(&good)),
        ("the public key as a shared secret", signed_by_hmac(public.as_bytes(), "first", &good)),
        ("an unknown key", header(json!({"alg": "ES256", "kid": "second"}))),
        ("NONE", header(json!({"alg": "NONE", "kid": "first"}))),
        ("an algorithm that does not fit", header(json!({"alg": "RS256", "kid": "first"}))),
        ("a key of its own", stranger.sign_as(&json!({"alg": "ES256", "jwk": stranger.jwk()}), &good)),
        (
            "a place of keys of its own",
            stranger.sign_as(&json!({"alg": "ES256", "kid": "x", "jku": elsewhere.keys_url()}), &good),
        ),
        ("a critical header", header(json!({"alg": "ES256", "kid": "first", "crit": ["b64"], "b64": false}))),
        ("a path as key", header(json!({"alg": "ES256", "kid": "../../../../dev/null"}))),
        ("a statement as key", header(json!({"alg": "ES256", "kid": "x' union select 'a"}))),
        ("other claims", tampered(&key.sign(&good), &with(good.clone(), &[("groups", json!(["platform"]))]))),
        ("no signature", key.sign(&good).rsplit_once('.').unwrap().0.to_owned() + "."),
        ("half a token", key.sign(&good).split_at(40).0.to_owned()),
        ("a join token", scene.join_token("blue").await),
        ("a service token that nobody made", "sys_aaaaaaaaaaaa_".to_owned() + &"A".repeat(43)),
        ("nothing at all", ".".to_owned()),
    ];
    let mut messages = std::collections::BTreeSet::new();
    let begun = Instant::now();
    for (what, token) in &attacks {
        let refused = who(&scene, Some(token)).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        messages.insert(refused.message().to_owned());
        assert!(!scene.log().contains(token.as_str()) || token.len() < 20, "{what}: the token is in the log");
    }
    assert_eq!(messages.len(), 1, "an attacker learns nothing of what was wrong: {messages:?}");
    let nothing = who(&scene, None).await.unwrap_err();
    assert_eq!(nothing.code(), Code::Unauthenticated);
    let huge = who(&scene, Some(&"x".repeat(100 * 1024))).await.unwrap_err();
    assert_ne!(huge.code(), Code::Ok, "{huge}");
    // All of it is in the audit log, put together, and the rightful caller goes on.
    let entry = scene.audited("refused", &["anonymous", "WhoAmI"]).await;
    assert!(entry.source.starts_with("127.0.0.1"), "{entry:?}");
    // Each is counted, and that of the caller without any; the one whose head is too long may have been turned away before.
    let wanted = attacks.len() as u64 + 1;
    let entries = wait::until("every refusal to be in the audit log", async || {
        let entries = scene.audit("refused").await;
        let details = entries.iter().filter_map(|entry| {
            let detail: Value = serde_json::from_str(&entry.detail_json).ok()?;
            let of_kind = entry.actor == "anonymous" && entry.action == "AccessService/WhoAmI";
            (of_kind && detail["code"] == "unauthenticated").then(|| detail["count"].as_u64()).flatten()
        });
        let counts: Vec<u64> = details.collect();
        let sum: u64 = counts.iter().sum();
        wait::check((wanted..=wanted + 1).contains(&sum), || format!("{counts:?}, not {wanted}")).map(|()| counts.len())
    })
    .await;
    // Refusals of one kind within ten seconds are one entry, and the seconds need not begin with the first.
    let most = begun.elapsed().as_secs() / 10 + 2;
    assert!(
        entries as u64 <= most,
        "{entries} entries for {wanted} refusals of one kind, and at most {most} are right"
    );
    assert_eq!(who(&scene, Some(&key.sign(&good))).await.unwrap(), "corp:ann");
    scene.audit_holds().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proofs_in_one_call_are_none() {
    let scene = Scene::start().await;
    let token = scene.token("ann", &["shop-admins"]);
    let mut request = tonic::Request::new(ListPoliciesRequest::default());
    for token in [&token, &token] {
        request.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let refused = PolicyServiceClient::new(scene.nobody().await).list_policies(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // A bad token is not made good by the certificate of the connection.
    let mut request = tonic::Request::new(ListPoliciesRequest::default());
    request.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    let refused = PolicyServiceClient::new(scene.administrator.clone()).list_policies(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    scene.stop().await;
}
