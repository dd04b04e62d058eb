//! Keys of issuers over time. What calls see of it is tested in `hub/tests/access_tokens.rs`.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::access::jwt;

#[tokio::test]
async fn keys_of_an_issuer_that_is_away_for_too_long_are_not_believed_any_more() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap();
    let now = Timestamp::now();
    let claims = json!({"iss": "https://a", "aud": "switchyard", "exp": now.as_second() + 600});
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({"keys": [jwk]}).to_string()).unwrap();
    let place = Keys::File(file.path().display().to_string());
    let source = Arc::new(KeySource::new("https://a", &place, Duration::from_secs(3), &Metrics::new()));
    let _task = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&source).run()));
    let audiences = BTreeSet::from(["switchyard".to_owned()]);
    let asked = Asked { issuer: "https://a", audiences: &audiences };
    source.verify(jwt::parse(&token).unwrap(), asked, None, now).await.unwrap();
    file.close().unwrap();
    let mut states = source.state.subscribe();
    timeout(Duration::from_secs(60), states.wait_for(|state| state.away)).await.unwrap().unwrap();
    let began = Instant::now();
    loop {
        match source.verify(jwt::parse(&token).unwrap(), asked, None, now).await {
            Err(KeyError::Away(issuer)) => break assert_eq!(issuer, "https://a"),
            Err(other) => panic!("{other}"),
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(30), "the keys are kept for ever"),
        }
        tokio::task::yield_now().await;
    }
}
