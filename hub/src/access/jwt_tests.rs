use jsonwebtoken::{EncodingKey, Header as JwtHeader, encode};
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://login.example.com";

/// An issuer with one key.
struct Signer {
    key: EncodingKey,
    alg: Algorithm,
    kid: &'static str,
    pem: String,
    /// The octets of the public key.
    raw: Vec<u8>,
}

impl Signer {
    fn new(alg: Algorithm, kid: &'static str) -> Self {
        let kind = match alg {
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let key = match alg {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        Self { key: key.unwrap(), alg, kid, pem: pair.public_key_pem(), raw: pair.public_key_raw().to_vec() }
    }

    fn jwk(&self) -> Value {
        if self.alg == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(&self.raw);
            return json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid});
        }
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.alg).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    fn keys(&self) -> Vec<Key> {
        key_set(json!({"keys": [self.jwk()]}).to_string().as_bytes()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = JwtHeader { kid: Some(self.kid.to_owned()), ..JwtHeader::new(self.alg) };
        encode(&header, claims, &self.key).unwrap()
    }

    /// A token whose first part is this text, signed as it stands.
    fn sign_raw(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, self.alg).unwrap();
        format!("{signed}.{signature}")
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "switchyard", "sub": "ann", "exp": NOW + 300, "iat": NOW, "nbf": NOW})
}

fn with(change: Value) -> Value {
    let mut claims = claims();
    for (claim, value) in change.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

fn judged(token: &str, keys: &[Key]) -> Result<Verified, JwtError> {
    let audiences = BTreeSet::from(["switchyard".to_owned(), "other".to_owned()]);
    let token = parse(token)?;
    let key = token.key(keys)?.clone();
    let asked = Asked { issuer: ISSUER, audiences: &audiences };
    token.verify(&key, asked, Timestamp::from_second(NOW).unwrap())
}

#[test]
fn a_good_token_of_each_algorithm_is_believed() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    for alg in [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let issuer = Signer::new(alg, "k1");
        let verified = judged(&issuer.sign(&claims()), &issuer.keys()).unwrap();
        assert_eq!((verified.user("sub").unwrap(), verified.expires_at.as_second()), ("ann".to_owned(), NOW + 300));
    }
}

#[test]
fn every_claim_that_is_wrong_or_missing_is_refused() {
    let issuer = Signer::new(Algorithm::ES256, "k1");
    let claim = |claim: &str| JwtError::Claim(claim.to_owned());
    let time = |second| Timestamp::from_second(second).unwrap();
    let cases = [
        (with(json!({"exp": NOW - 31})), JwtError::Expired(time(NOW - 31))),
        (with(json!({"exp": NOW - 30})), JwtError::Expired(time(NOW - 30))),
        (without("exp"), claim("exp")),
        (with(json!({"exp": "tomorrow"})), claim("exp")),
        (with(json!({"exp": -5.5})), claim("exp")),
        (with(json!({"exp": 1e300})), claim("exp")),
        (with(json!({"exp": i64::MAX})), claim("exp")),
        (with(json!({"exp": null})), claim("exp")),
        (with(json!({"nbf": NOW + 31})), JwtError::Early(time(NOW + 31))),
        (with(json!({"iat": NOW + 31})), JwtError::Early(time(NOW + 31))),
        (with(json!({"nbf": "soon"})), claim("nbf")),
        (with(json!({"aud": "another"})), JwtError::Audience),
        (with(json!({"aud": ["another", 7]})), JwtError::Audience),
        (with(json!({"aud": "switchyard.evil"})), JwtError::Audience),
        (with(json!({"aud": {"switchyard": true}})), JwtError::Audience),
        (without("aud"), JwtError::Audience),
        (with(json!({"iss": "https://evil.example.com"})), JwtError::Issuer("https://evil.example.com".to_owned())),
        (with(json!({"iss": "https://login.example.com/"})), JwtError::Issuer("https://login.example.com/".to_owned())),
        (with(json!({"iss": [ISSUER]})), claim("iss")),
        (without("iss"), claim("iss")),
    ];
    for (claims, expected) in cases {
        assert_eq!(judged(&issuer.sign(&claims), &issuer.keys()), Err(expected), "{claims}");
    }
}

#[test]
fn clocks_may_differ_by_half_a_minute_and_an_audience_may_stand_among_others() {
    let issuer = Signer::new(Algorithm::ES256, "k1");
    for claims in [
        with(json!({"exp": NOW - 29})),
        with(json!({"nbf": NOW + 30, "iat": NOW + 30})),
        with(json!({"exp": NOW as f64 + 0.5})),
        with(json!({"aud": ["another", "other"]})),
        without("nbf"),
        without("iat"),
    ] {
        assert!(judged(&issuer.sign(&claims), &issuer.keys()).is_ok(), "{claims}");
    }
}

#[test]
fn no_algorithm_is_taken_that_needs_no_secret_of_the_issuer() {
    let issuer = Signer::new(Algorithm::RS256, "k1");
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let token = format!("{}.{}.", part(&json!({"alg": alg, "kid": "k1"})), part(&claims()));
        assert_eq!(judged(&token, &issuer.keys()), Err(JwtError::Algorithm(alg.to_owned())));
    }
    // The public key, which everybody has, as the secret of a symmetric signature.
    for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let header = JwtHeader { kid: Some("k1".to_owned()), ..JwtHeader::new(alg) };
        let token = encode(&header, &claims(), &EncodingKey::from_secret(issuer.pem.as_bytes())).unwrap();
        assert!(matches!(judged(&token, &issuer.keys()), Err(JwtError::Algorithm(_))));
    }
}

#[test]
fn a_key_verifies_only_what_it_is_for() {
    let (rsa, ec) = (Signer::new(Algorithm::RS256, "k1"), Signer::new(Algorithm::ES256, "k1"));
    // A key that says RS256 takes no PS256, though it could.
    let pss = Signer { alg: Algorithm::PS256, key: rsa.key.clone(), kid: "k1", pem: String::new(), raw: Vec::new() };
    assert!(matches!(judged(&pss.sign(&claims()), &rsa.keys()), Err(JwtError::Mismatch { .. })));
    assert!(matches!(judged(&rsa.sign(&claims()), &ec.keys()), Err(JwtError::Mismatch { .. })));
    // One that says nothing takes both.
    let mut jwk = rsa.jwk();
    jwk.as_object_mut().unwrap().remove("alg");
    let keys = key_set(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    assert!(judged(&pss.sign(&claims()), &keys).is_ok() && judged(&rsa.sign(&claims()), &keys).is_ok());
}

#[test]
fn a_signature_of_another_key_or_over_other_claims_is_refused() {
    let (issuer, other) = (Signer::new(Algorithm::ES256, "k1"), Signer::new(Algorithm::ES256, "k1"));
    assert_eq!(judged(&other.sign(&claims()), &issuer.keys()), Err(JwtError::Signature));
    let token = issuer.sign(&claims());
    let mut parts: Vec<&str> = token.split('.').collect();
    let forged = part(&with(json!({"sub": "root"})));
    parts[1] = &forged;
    assert_eq!(judged(&parts.join("."), &issuer.keys()), Err(JwtError::Signature));
    parts[2] = "";
    assert_eq!(judged(&parts.join("."), &issuer.keys()), Err(JwtError::Signature));
}

#[test]
fn an_unknown_key_is_told_apart_since_the_issuer_may_have_a_new_one() {
    let (issuer, new) = (Signer::new(Algorithm::ES256, "k1"), Signer::new(Algorithm::ES256, "k2"));
    assert_eq!(judged(&new.sign(&claims()), &issuer.keys()), Err(JwtError::UnknownKey("k2".to_owned())));
    // Without an id: only when there is no choice.
    let bare = issuer.sign_raw(&json!({"alg": "ES256"}), &claims());
    assert!(judged(&bare, &issuer.keys()).is_ok());
    let both = [issuer.keys(), new.keys()].concat();
    assert_eq!(judged(&bare, &both), Err(JwtError::UnknownKey(String::new())));
}

#[test]
fn headers_that_change_the_meaning_and_other_kinds_of_tokens_are_refused() {
    let issuer = Signer::new(Algorithm::ES256, "k1");
    let judge = |header: Value| judged(&issuer.sign_raw(&header, &claims()), &issuer.keys());
    assert!(judge(json!({"alg": "ES256", "kid": "k1", "typ": "at+JWT"})).is_ok());
    assert_eq!(judge(json!({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false})), Err(JwtError::Critical));
    let logout = judge(json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"}));
    assert_eq!(logout, Err(JwtError::Type("logout+jwt".to_owned())));
    // A key that the token brings along is not looked at.
    let thief = Signer::new(Algorithm::ES256, "k1");
    let brought = thief.sign_raw(&json!({"alg": "ES256", "kid": "k1", "jwk": thief.jwk()}), &claims());
    assert_eq!(judged(&brought, &issuer.keys()), Err(JwtError::Signature));
    let padded = judge(json!({"alg": "ES256", "kid": "k".repeat(300)}));
    assert!(matches!(padded, Err(JwtError::Shape(_))));
    assert!(matches!(judge(json!({"alg": "ES256", "x": "x".repeat(MOST_HEADER)})), Err(JwtError::Shape(_))));
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let good = part(&json!({"alg": "ES256"}));
    let deep = URL_SAFE_NO_PAD.encode(format!("{}{}", "[".repeat(5000), "]".repeat(5000)));
    for text in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "é.é.é",
        &format!("{good}.{}.", URL_SAFE_NO_PAD.encode("[]")),
        &format!("{good}.{deep}."),
        &format!("{good}.{good}"),
        &format!("{}.{good}.x", URL_SAFE_NO_PAD.encode("{\"alg\":7}")),
        &"a".repeat(MOST_TOKEN + 1),
        &format!("{good}={}.x", part(&claims())),
    ] {
        assert!(parse(text).is_err(), "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn a_key_set_is_bounded_and_keys_of_no_use_are_passed_over() {
    let issuer = Signer::new(Algorithm::ES256, "k1");
    let mut encrypts = issuer.jwk();
    encrypts["use"] = json!("enc");
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "k0"});
    let set = |keys: Value| key_set(json!({"keys": keys}).to_string().as_bytes());
    assert_eq!(set(json!([encrypts, symmetric, {"kty": "new"}, 7, issuer.jwk()])).unwrap().len(), 1);
    for nothing in [json!([]), json!([encrypts]), json!([symmetric])] {
        assert_eq!(set(nothing.clone()).unwrap().len(), 0, "{nothing}");
    }
    for no_set in [json!({}), json!(null), json!(vec![issuer.jwk(); MOST_KEYS + 1])] {
        assert!(set(no_set.clone()).is_err(), "{no_set}");
    }
    assert!(key_set(b"{}").is_err());
    assert!(key_set(b"not json").is_err());
}

#[test]
fn users_and_groups_come_from_the_claims_that_are_named() {
    let verified = |change: Value| Verified {
        expires_at: Timestamp::from_second(NOW).unwrap(),
        claims: with(change).as_object().unwrap().clone(),
    };
    let all = verified(json!({"email": "ann@example.com", "groups": ["a", "b"], "role": "one"}));
    assert_eq!(all.user("email").unwrap(), "ann@example.com");
    assert_eq!(all.groups("groups").unwrap(), ["a".to_owned(), "b".to_owned()].into());
    assert_eq!(all.groups("role").unwrap(), ["one".to_owned()].into());
    assert_eq!(all.groups("none").unwrap(), BTreeSet::new());
    for (claim, value) in
        [("name", json!("")), ("name", json!(7)), ("name", json!("x".repeat(300))), ("other", json!("x"))]
    {
        assert!(verified(json!({claim: value})).user("name").is_err(), "{claim}");
    }
    let unverified = verified(json!({"email": "root@example.com", "email_verified": false}));
    assert!(unverified.user("email").is_err() && unverified.user("sub").is_ok());
    assert!(verified(json!({"email": "a@b", "email_verified": "true"})).user("email").is_ok());
    for groups in [json!([1]), json!({"a": 1}), json!(vec!["g"; MOST_GROUPS + 1])] {
        assert!(verified(json!({"groups": groups})).groups("groups").is_err());
    }
}
