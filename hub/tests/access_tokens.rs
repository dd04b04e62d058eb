//! Tokens of issuers, as an attacker would try them, and what happens when keys change and issuers go away.

mod access_support;
mod store_support;

use std::{pin::Pin, time::Instant};

use access_support::{
    Gate, LIST, PATIENCE, Peer, WATCH, WHO, eventually, gate, gate_with,
    issuer::{Issuer, Signer},
};
use futures::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use store_support::database_url;
use switchyard_core::access::{Grant, Role};
use switchyard_hub::access::{
    AccessSettings,
    rates::{AccessRates, Pace},
};
use tonic::Code;

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn with(mut claims: Value, change: Value) -> Value {
    for (claim, value) in change.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
}

async fn code(gate: &Gate, token: &str) -> Code {
    gate.code(LIST, &Peer::with(token)).await
}

type Call<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A call that has come as far as it can, which is not to its answer.
fn waiting<'a, T>(call: impl Future<Output = T> + 'a) -> Call<'a, T> {
    let mut call: Call<'a, T> = Box::pin(call);
    assert!((&mut call).now_or_never().is_none(), "the call waits");
    call
}

#[tokio::test]
async fn a_good_token_says_who_calls_and_brings_the_rights_of_its_groups() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    let answer = gate.call(LIST, &Peer::with(&key.sign(&issuer.claims("ann@example.com")))).await;
    assert_eq!((answer.code(), &*answer.identity), (Code::Ok, "corp:ann@example.com"));
    let lower = Peer { authorization: vec![format!("bearer {}", key.sign(&issuer.claims("ann")))], ..Peer::nobody() };
    assert_eq!(gate.code(LIST, &lower).await, Code::Ok, "the scheme has no case");
    // Proved, and without a right.
    let stranger = Peer::with(&key.sign(&with(issuer.claims("eve"), json!({"groups": []}))));
    let refused = gate.call(LIST, &stranger).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.status.message().contains("role viewer"), "{}", refused.status.message());
    assert_eq!(gate.code(WHO, &stranger).await, Code::Ok);
}

#[tokio::test]
async fn every_forged_token_is_refused_with_the_same_words() {
    let (key, rsa) = (Signer::new("k1"), Signer::of("rsa", Algorithm::RS256));
    let issuer = Issuer::with(&[&key, &rsa]).await;
    let (evil, foreign) = (Signer::new("k1"), Issuer::with(&[]).await);
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &key.sign(&issuer.claims("ann"))).await, Code::Ok);
    let claims = || issuer.claims("ann");
    let good = key.sign(&claims());
    let (head, rest) = good.split_once('.').unwrap();
    let hs256 = |secret: &[u8], kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    // {"alg":"none","kid":"k1"}
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{}.", rest.split('.').next().unwrap());
    let mut no_end = claims();
    no_end.as_object_mut().unwrap().remove("exp");
    let forged = [
        ("expired", key.sign(&with(claims(), json!({"exp": now() - 60})))),
        ("not yet", key.sign(&with(claims(), json!({"nbf": now() + 120})))),
        ("without an end", key.sign(&no_end)),
        ("another audience", key.sign(&with(claims(), json!({"aud": "billing"})))),
        ("no algorithm", none),
        ("public key as secret", hs256(rsa.public_pem.as_bytes(), "rsa")),
        ("a secret that everybody knows", hs256(b"secret", "k1")),
        ("another key of the same id", evil.sign(&claims())),
        ("a foreign issuer", evil.sign(&foreign.claims("ann"))),
        ("a foreign issuer's name, our key", key.sign(&foreign.claims("ann"))),
        ("no issuer", key.sign(&with(claims(), json!({"iss": null})))),
        ("a changed signature", format!("{head}.{}A", &rest[..rest.len() - 2])),
        ("longer than any token", key.sign(&with(claims(), json!({"x": "x".repeat(20_000)})))),
        ("no token", "abc".to_owned()),
        ("a join token", format!("syj_aaaaaaaaaaaa_{}", "a".repeat(43))),
    ];
    let mut words = Vec::new();
    for (what, token) in &forged {
        let refused = gate.call(LIST, &Peer::with(token)).await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        words.push(refused.status.message().to_owned());
    }
    words.dedup();
    assert_eq!(words.len(), 1, "an attacker is not told what was wrong: {words:?}");
    // Also where two of them are sent.
    for both in [
        vec![format!("Bearer {good}"); 2],
        vec![format!("Bearer Bearer {good}")],
        vec![format!("Bearer {good}, Bearer {good}")],
    ] {
        let peer = Peer { authorization: both, ..Peer::nobody() };
        assert_eq!(gate.code(LIST, &peer).await, Code::Unauthenticated);
    }
    assert_eq!(gate.code(LIST, &Peer::with(&good).plain()).await, Code::Unauthenticated, "over plain text");
    assert_eq!(code(&gate, &good).await, Code::Ok, "the good one is good all the same");
}

#[tokio::test]
async fn a_new_key_costs_no_request_while_the_old_one_still_verifies() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let issuer = Issuer::with(&[&old]).await;
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &old.sign(&issuer.claims("ann"))).await, Code::Ok);
    issuer.give(&[&old, &new]);
    let before = issuer.fetches();
    let calls = (0..40).map(|n| {
        let signer = if n % 2 == 0 { &old } else { &new };
        let token = signer.sign(&issuer.claims("ann"));
        let gate = &gate;
        async move { code(gate, &token).await }
    });
    let codes = futures::future::join_all(calls).await;
    assert!(codes.iter().all(|code| *code == Code::Ok), "{codes:?}");
    assert!(issuer.fetches() - before <= 2, "all of them waited for one fetch");
}

#[tokio::test]
async fn a_key_that_is_published_while_the_keys_are_read_costs_no_request() {
    let (old, new, unknown) = (Signer::new("k1"), Signer::new("k2"), Signer::new("k9"));
    let issuer = Issuer::with(&[&old]).await;
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &old.sign(&issuer.claims("ann"))).await, Code::Ok);
    let (before, held) = (issuer.fetches(), issuer.held().await);
    let token = unknown.sign(&issuer.claims("ann"));
    let first = waiting(code(&gate, &token));
    eventually("the keys are read", async || (issuer.fetches() > before).then_some(())).await;
    // The read that is under way will not bring it.
    issuer.give(&[&old, &new]);
    let token = new.sign(&issuer.claims("ann"));
    let second = waiting(code(&gate, &token));
    drop(held);
    assert_eq!((first.await, second.await), (Code::Unauthenticated, Code::Ok));
    assert_eq!(issuer.fetches() - before, 2);
}

#[tokio::test]
async fn names_of_keys_that_there_are_not_keep_nobody_elses_call_from_waiting_for_a_new_key() {
    let (old, new, mut unknown) = (Signer::new("k1"), Signer::new("k2"), Signer::new("k9"));
    let issuer = Issuer::with(&[&old]).await;
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &old.sign(&issuer.claims("ann"))).await, Code::Ok);
    issuer.give(&[&old, &new]);
    let held = issuer.held().await;
    let mut flood: Vec<Call<'_, Code>> = Vec::new();
    for n in 0..100 {
        unknown.kid = format!("x{n}");
        let peer = Peer::with(&unknown.sign(&issuer.claims("ann"))).from("10.0.0.7");
        let gate = &gate;
        flood.push(Box::pin(async move { gate.code(LIST, &peer).await }));
    }
    let mut kept = Vec::new();
    for mut call in flood {
        match (&mut call).now_or_never() {
            None => kept.push(call),
            Some(code) => assert!(matches!(code, Code::Unavailable | Code::ResourceExhausted), "{code}"),
        }
    }
    assert_eq!(kept.len(), 32, "calls from one address that may wait");
    let peer = Peer::with(&new.sign(&issuer.claims("ann"))).from("10.0.0.8");
    let good = waiting(gate.code(LIST, &peer));
    drop(held);
    assert_eq!(good.await, Code::Ok);
    for code in futures::future::join_all(kept).await {
        assert!(matches!(code, Code::Unauthenticated | Code::ResourceExhausted), "{code}");
    }
    // Their places are free again.
    assert_eq!(code(&gate, &new.sign(&issuer.claims("ann"))).await, Code::Ok);
}

#[tokio::test]
async fn an_issuer_that_takes_all_its_keys_back_is_obeyed() {
    let (key, unknown) = (Signer::new("k1"), Signer::new("k9"));
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    let stolen = key.sign(&issuer.claims("ann"));
    assert_eq!(code(&gate, &stolen).await, Code::Ok);
    issuer.give(&[]);
    // Makes the hub ask now, which it does every ten minutes.
    assert_eq!(code(&gate, &unknown.sign(&issuer.claims("ann"))).await, Code::Unauthenticated);
    assert_eq!(gate.metric("switchyard_hub_access_key_fetches_total{outcome=\"empty\"}"), 1.0);
    assert_eq!(code(&gate, &stolen).await, Code::Unauthenticated, "its signature is good, and nobody's any more");
    // An answer that is no key set says nothing: it is as if there were none.
    assert_eq!(gate.metric("switchyard_hub_access_key_fetches_total{outcome=\"failed\"}"), 0.0);
}

#[tokio::test]
async fn a_flood_of_bad_signatures_is_not_looked_at_and_holds_up_no_other_address_and_no_other_proof() {
    let (key, evil) = (Signer::new("k1"), Signer::new("k1"));
    let issuer = Issuer::with(&[&key]).await;
    let rates = AccessRates { failures: Pace::new(1, 4), ..AccessRates::default() };
    let settings = AccessSettings { rates, ..AccessSettings::default() };
    let gate = gate_with(&database_url().await, &issuer.access(), settings).await;
    let (good, forged) = (key.sign(&issuer.claims("ann")), evil.sign(&issuer.claims("ann")));
    assert_eq!(code(&gate, &good).await, Code::Ok);
    for _ in 0..30 {
        let refused = code(&gate, &forged).await;
        assert!(matches!(refused, Code::Unauthenticated | Code::ResourceExhausted), "{refused}");
    }
    assert_eq!(code(&gate, &good).await, Code::Ok, "programs that fail now and then hold nobody up");
    let began = Instant::now();
    let refused = loop {
        for _ in 0..50 {
            assert_ne!(code(&gate, &forged).await, Code::Ok);
        }
        let answer = gate.call(LIST, &Peer::with(&good)).await;
        if answer.code() != Code::Ok {
            break answer.status;
        }
        assert!(began.elapsed() < PATIENCE, "every signature is looked at");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("too many signatures: 40 a second and 160 at once"), "{refused}");
    assert!(refused.metadata().contains_key("retry-after"));
    assert_eq!(gate.code(LIST, &Peer::with(&good).from("192.0.2.8")).await, Code::Ok, "another address");
    let grant = Grant { role: Role::Viewer, overrides: false, ..Grant::everything() };
    assert_eq!(code(&gate, &gate.token("ci", &[grant]).await).await, Code::Ok, "a token of the hub costs no signature");
}

#[tokio::test]
async fn unknown_keys_do_not_make_the_hub_ask_the_issuer_again_and_again() {
    let (key, unknown) = (Signer::new("k1"), Signer::new("k9"));
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &key.sign(&issuer.claims("ann"))).await, Code::Ok);
    let before = issuer.fetches();
    let token = unknown.sign(&issuer.claims("ann"));
    let peers: Vec<Peer> = (0..200).map(|n| Peer::with(&token).from(&format!("10.0.0.{n}"))).collect();
    let codes = futures::future::join_all(peers.iter().map(|peer| gate.code(LIST, peer))).await;
    // Those that wait are bounded as well; the others are told to try again.
    assert!(codes.iter().all(|code| matches!(code, Code::Unauthenticated | Code::Unavailable)), "{codes:?}");
    assert!(codes.contains(&Code::Unauthenticated), "{codes:?}");
    assert!(issuer.fetches() - before <= 2, "{}", issuer.fetches() - before);
}

#[tokio::test]
async fn while_the_issuer_is_away_its_last_keys_are_good_and_others_have_to_wait() {
    let (key, new) = (Signer::new("k1"), Signer::new("k2"));
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    assert_eq!(code(&gate, &key.sign(&issuer.claims("ann"))).await, Code::Ok);
    issuer.is_away(true);
    let refused = gate.call(LIST, &Peer::with(&new.sign(&issuer.claims("ann")))).await;
    assert_eq!(refused.code(), Code::Unavailable, "it may be good: nobody knows");
    assert!(refused.status.metadata().contains_key("retry-after"));
    assert_eq!(code(&gate, &key.sign(&issuer.claims("ann"))).await, Code::Ok);
    assert!(gate.metric("switchyard_hub_access_key_fetches_total{outcome=\"failed\"}") >= 1.0);
    issuer.give(&[&key, &new]);
    issuer.is_away(false);
    assert_eq!(code(&gate, &new.sign(&issuer.claims("ann"))).await, Code::Ok);
}

#[tokio::test]
async fn an_issuer_that_was_never_there_refuses_nobody_for_good() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    issuer.is_away(true);
    let gate = gate(&issuer.access()).await;
    let token = key.sign(&issuer.claims("ann"));
    assert_eq!(code(&gate, &token).await, Code::Unavailable);
    issuer.is_away(false);
    eventually("the issuer's keys are read", async || (code(&gate, &token).await == Code::Ok).then_some(())).await;
}

#[tokio::test]
async fn keys_from_a_file_are_exchanged_without_a_restart() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!({"keys": [old.jwk()]}).to_string()).unwrap();
    let issuer = Issuer::with(&[]).await;
    let jwks = format!("audiences: [switchyard], jwks: {{file: {}}}", file.display());
    let gate = gate(&issuer.access().replace("audiences: [switchyard]", &jwks)).await;
    assert_eq!(code(&gate, &old.sign(&issuer.claims("ann"))).await, Code::Ok);
    std::fs::write(&file, json!({"keys": [new.jwk()]}).to_string()).unwrap();
    eventually("the new key is taken", async || {
        (code(&gate, &new.sign(&issuer.claims("ann"))).await == Code::Ok).then_some(())
    })
    .await;
    assert_eq!(code(&gate, &old.sign(&issuer.claims("ann"))).await, Code::Unauthenticated);
    // What is no key set says nothing; one without a key takes them all back.
    std::fs::write(&file, "{").unwrap();
    let failed = "switchyard_hub_access_key_fetches_total{outcome=\"failed\"}";
    eventually("the broken file is seen", async || (gate.metric(failed) > 0.0).then_some(())).await;
    assert_eq!(code(&gate, &new.sign(&issuer.claims("ann"))).await, Code::Ok);
    std::fs::write(&file, json!({"keys": []}).to_string()).unwrap();
    eventually("the key is taken back", async || {
        (code(&gate, &new.sign(&issuer.claims("ann"))).await == Code::Unauthenticated).then_some(())
    })
    .await;
    assert_eq!(issuer.fetches(), 0);
}

#[tokio::test]
async fn users_and_groups_come_from_the_named_claims_and_required_claims_have_their_value() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    let claims = "audiences: [switchyard], usernameClaim: email, groupsClaim: roles, requiredClaims: {repository_owner: example}";
    let gate = gate(&issuer.access().replace("audiences: [switchyard]", claims)).await;
    let good = with(
        issuer.claims("sub-of-ann"),
        json!({"email": "ann@example.com", "email_verified": true, "roles": ["deployers"], "groups": [],
               "repository_owner": "example"}),
    );
    let answer = gate.call(LIST, &Peer::with(&key.sign(&good))).await;
    assert_eq!((answer.code(), &*answer.identity), (Code::Ok, "corp:ann@example.com"));
    let elsewhere = with(good.clone(), json!({"roles": [], "groups": ["deployers"]}));
    assert_eq!(
        code(&gate, &key.sign(&elsewhere)).await,
        Code::PermissionDenied,
        "groups are not the claim that counts"
    );
    for wrong in [
        json!({"repository_owner": null}),
        json!({"repository_owner": "other"}),
        json!({"repository_owner": ["example"]}),
        json!({"repository_owner": "example "}),
        json!({"repository_owner": "Example"}),
        json!({"email": null}),
        json!({"email": ["ann@example.com"]}),
        json!({"email_verified": false}),
        json!({"email_verified": "false"}),
        json!({"roles": [7]}),
    ] {
        assert_eq!(code(&gate, &key.sign(&with(good.clone(), wrong.clone()))).await, Code::Unauthenticated, "{wrong}");
    }
    let mut without = good.clone();
    without.as_object_mut().unwrap().remove("repository_owner");
    assert_eq!(code(&gate, &key.sign(&without)).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_document_of_another_issuer_is_not_believed() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    // The same server under a name that its document does not say.
    let other = issuer.url.replace("127.0.0.1", "localhost");
    let gate = gate(&issuer.access().replace(&issuer.url, &other)).await;
    let claims = with(issuer.claims("ann"), json!({"iss": other}));
    assert_eq!(code(&gate, &key.sign(&claims)).await, Code::Unavailable);
    assert_eq!(issuer.fetches(), 0, "its keys were not even asked for");
}

#[tokio::test]
async fn an_access_file_is_exchanged_whole_or_not_at_all() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    let peer = Peer::with(&key.sign(&issuer.claims("ann")));
    assert_eq!(gate.code(LIST, &peer).await, Code::Ok);
    std::fs::write(&gate.file, issuer.access().replace("deployers", "nobody").replace("admin", "king")).unwrap();
    eventually("the faulty file is seen", async || (gate.metric("switchyard_hub_access_file_ok") == 0.0).then_some(()))
        .await;
    assert_eq!(gate.code(LIST, &peer).await, Code::Ok, "the file from before is in force");
    let watch = gate.call(access_support::WATCH, &peer).await;
    std::fs::write(&gate.file, issuer.access().replace("deployers", "nobody")).unwrap();
    eventually("the new file is seen", async || (gate.metric("switchyard_hub_access_file_ok") == 1.0).then_some(()))
        .await;
    assert_eq!(gate.code(LIST, &peer).await, Code::PermissionDenied);
    let end = watch.end().await;
    assert_eq!(end.code(), Code::Unavailable, "a stream with the rights from before is ended: {end}");
}

#[tokio::test]
async fn a_stream_of_a_call_that_began_before_the_access_file_changed_does_not_keep_its_rights() {
    let (key, new, unknown) = (Signer::new("k1"), Signer::new("k2"), Signer::new("k9"));
    let issuer = Issuer::with(&[&key]).await;
    let gate = gate(&issuer.access()).await;
    let known = Peer::with(&key.sign(&issuer.claims("bob")));
    assert_eq!(gate.code(LIST, &known).await, Code::Ok);
    // The issuer was just asked: whoever comes with another new key waits for ten seconds, with the file in hand by which he is judged.
    assert_eq!(code(&gate, &unknown.sign(&issuer.claims("eve"))).await, Code::Unauthenticated);
    issuer.give(&[&key, &new]);
    let ann = Peer::with(&new.sign(&issuer.claims("ann")));
    let watch = waiting(gate.call(WATCH, &ann));
    std::fs::write(&gate.file, issuer.access().replace("deployers", "nobody")).unwrap();
    eventually("the new file is in force", async || {
        (gate.code(LIST, &known).await == Code::PermissionDenied).then_some(())
    })
    .await;
    let watch = watch.await;
    assert_eq!(watch.code(), Code::Ok, "as the file said when the call began");
    let end = watch.end().await;
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "what this caller may do has changed; call again"));
    assert_eq!(gate.code(WATCH, &ann).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_gate_with_a_faulty_access_file_does_not_start() {
    let url = database_url().await;
    let store = switchyard_hub::store::Store::connect(&url, Default::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.yaml");
    std::fs::write(&file, "bindings: [{role: king, namespaces: [], clusters: ['*'], subjects: []}]").unwrap();
    let settings = AccessSettings { access_file: Some(file), ..AccessSettings::default() };
    let metrics = switchyard_hub::metrics::Metrics::new();
    let refused = switchyard_hub::access::Gatekeeper::start(settings, store, metrics).await.err().unwrap().to_string();
    for part in ["bindings[0].role", "bindings[0].namespaces", "bindings[0].subjects"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[tokio::test]
async fn a_development_hub_believes_everybody_and_checks_tokens_all_the_same() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    let settings = AccessSettings { development: true, ..AccessSettings::default() };
    let gate = gate_with(&database_url().await, &issuer.access(), settings).await;
    let answer = gate.call(LIST, &Peer::nobody().plain()).await;
    assert_eq!((answer.code(), &*answer.identity), (Code::Ok, "development"));
    assert_eq!(gate.code(access_support::SESSION, &Peer::nobody().plain()).await, Code::Ok);
    let answer = gate.call(LIST, &Peer::with(&key.sign(&issuer.claims("ann"))).plain()).await;
    assert_eq!((answer.code(), &*answer.identity), (Code::Ok, "corp:ann"));
    assert_eq!(gate.code(LIST, &Peer::with("a.b.c").plain()).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_service_account_stands_for_one_cluster() {
    let key = Signer::new("k1");
    let issuer = Issuer::with(&[&key]).await;
    let access =
        format!("agents: [{{cluster: blue, issuer: '{}', serviceAccount: switchyard-system/agent}}]", issuer.url);
    let gate = gate(&access).await;
    let account = |subject: &str| with(issuer.claims(subject), json!({"aud": ["switchyard"]}));
    let good = account("system:serviceaccount:switchyard-system:agent");
    let (blue, green) = ("blue".parse().unwrap(), "green".parse().unwrap());
    let verify = async |claims: &Value, said| {
        let token = key.sign(claims);
        let verified = tokio::time::timeout(PATIENCE, gate.keeper.verify_service_account(&token, said, None));
        verified.await.unwrap().map(|account| account.cluster).map_err(|error| error.to_string())
    };
    assert_eq!(verify(&good, Some(&blue)).await, Ok(blue.clone()));
    assert_eq!(verify(&good, None).await, Ok(blue.clone()));
    let other = verify(&good, Some(&green)).await.unwrap_err();
    assert!(other.contains("stands for cluster blue"), "{other}");
    for wrong in [
        account("system:serviceaccount:default:agent"),
        account("system:serviceaccount:switchyard-system:agent2"),
        with(good.clone(), json!({"aud": ["sts.amazonaws.com"]})),
        with(good.clone(), json!({"iss": "https://other.example.com"})),
        with(good.clone(), json!({"exp": now() - 60})),
    ] {
        assert!(verify(&wrong, Some(&blue)).await.is_err(), "{wrong}");
    }
    // It makes an agent, and no caller.
    assert_eq!(code(&gate, &key.sign(&good)).await, Code::Unauthenticated);
}
